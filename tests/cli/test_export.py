"""`usersync export`: every row and every digit, nothing that a spreadsheet would run, and the whole file or the old one."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from tests import servers
from tests.conftest import Command, NewDatabase
from tests.simple_job import PASSWORD, PERSON, clean, execute, finished, with_password
from usersync_cli.cli import cli
from usersync_cli.errors import ConfigError, Drift, NotFound, Stopped, Unavailable, UsersyncError
from usersync_cli.model import Database
from usersync_cli.signals import Stop

FIELD = "581bc693-feb9-416a-806a-90c2fa4bc5c6"
OTHER = "ce169c7e-b22a-0e5a-b819-625d042b6960"  # not of RFC 4122's version 4, as some of Teamleader's
COLUMNS = "or_id;cp_name_catpro;email;phone;website;form_url;description;accountmanager"
CONTACTS = """
    CREATE TABLE {} (id serial PRIMARY KEY, tl_uuid uuid UNIQUE NOT NULL DEFAULT gen_random_uuid(), tl_content jsonb, tl_type varchar,
                     created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(), deleted_at timestamptz)
"""
CONTACT = {
    "emails": [{"type": "invoicing", "email": "bills@example.org"}, {"type": "primary", "email": "one@example.org"}],
    "telephones": [
        {"type": "fax", "number": "1"},
        {"type": "mobile", "number": "2"},
        {"type": "phone", "number": "0032 3"},
        {"type": "phone", "number": "4"},
    ],
    "website": None,
    "web_url": "https://focus.teamleader.eu/contact_detail.php?id=1",
    "remarks": "",
    "custom_fields": [
        {"definition": {"type": "customFieldDefinition", "id": FIELD}, "value": "OR-1"},
        {"definition": {"type": "customFieldDefinition", "id": OTHER}, "value": False},
    ],
}
LONG = "123456789012345678901234567890.1234567890"


@dataclass
class Target:
    """A target with tables, and the command on it in this process."""

    usersync: Command
    database: Database
    document: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.write()

    def write(self, target: str | None = None, **jobs: dict[str, Any]) -> None:
        """The config file. `jobs`: name -> its one step."""
        streams = {name: {"path": f"{name}.jsonl", "key": "id"} for name in ("contacts", "users")}
        self.document = {
            "environment": "test",
            "target": with_password(target or self.database.url),
            "sources": {"crm": {"type": "file", "streams": streams}},
            "jobs": {name: {"steps": [one]} for name, one in (jobs or {"other": step("other_users", "users")}).items()},
        }
        (self.usersync.folder / "config.yaml").write_text(json.dumps(self.document))

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        return execute(self.database.url, statement)

    def contacts(self, *documents: Any, table: str = "tl_contacts") -> None:
        """A table with these documents, as the old tool made it."""
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            connection.execute(CONTACTS.format(table).encode())
            for one in documents:
                connection.execute(f"INSERT INTO {table} (tl_content) VALUES (%s)".encode(), (json.dumps(one),))

    def export(self, *arguments: str | Path, stop: Stop | None = None) -> tuple[str, str]:
        """stdout as it came and stderr; raises what the command raises."""
        words = ["export", *map(str, arguments), "--config", str(self.usersync.folder / "config.yaml")]
        done = CliRunner().invoke(cli, words, obj=stop or Stop(), standalone_mode=False)
        assert PASSWORD not in done.stderr
        assert PERSON not in done.stderr
        if done.exception:
            raise done.exception
        return done.stdout_bytes.decode(), done.stderr

    def refused(self, *arguments: str | Path, as_: type[UsersyncError]) -> str:
        """Message and hint of the error that ends this export."""
        with pytest.raises(as_) as raised:
            self.export(*arguments)
        return f"{raised.value.message} | {raised.value.hint}"

    @property
    def folder(self) -> Path:
        return self.usersync.folder


def step(table: str, *streams: str) -> dict[str, Any]:
    return {"extract": {"source": "crm", "streams": list(streams)}, "load": {"table": table, "key": ["tl_uuid"], "create": True}}


@pytest.fixture
def target(usersync: Command, new_database: NewDatabase) -> Target:
    return Target(usersync, new_database())


# contacts


def test_the_columns_of_the_old_tool(target: Target) -> None:
    """
    One line a contact: the primary e-mail address, the first telephone of type phone; null is nothing, "" is "".
    """
    target.contacts(CONTACT)

    assert (
        f'{COLUMNS}\r\n;;one@example.org;0032 3;;https://focus.teamleader.eu/contact_detail.php?id=1;"";\r\n',
        "contacts: 1 row of tl_contacts\n",
    ) == target.export("contacts", "--format", "csv")


@pytest.mark.parametrize(
    "document",
    [
        {},
        None,
        [],
        "text",
        {"emails": None, "telephones": None, "custom_fields": None},
        {"emails": [], "telephones": [None, 1, {"type": "phone"}]},
        {"emails": [{"type": "primary", "email": None}], "website": None},
    ],
    ids=str,
)
def test_a_document_may_lack_anything(target: Target, document: Any) -> None:
    """
    Whatever is missing, null or of another shape leaves its cell empty; the contact has its line.
    """
    target.contacts(document)

    assert f"{COLUMNS}\r\n;;;;;;;\r\n" == target.export("contacts")[0]


def test_columns_from_custom_fields(target: Target) -> None:
    """
    --column takes a column from the custom field with this id, whatever the type of its value.
    """
    target.contacts(CONTACT, {"custom_fields": []})
    out, _ = target.export("contacts", "--column", f"or_id={FIELD.upper()}", "--column", f"accountmanager={OTHER}")

    assert [("OR-1", "false"), ("", "")] == [
        (row["or_id"], row["accountmanager"]) for row in csv.DictReader(io.StringIO(out), delimiter=";")
    ]


def test_a_custom_field_that_no_contact_has(target: Target) -> None:
    """
    A wrong id is an error, not an empty column; a table without contacts is no reason for one.
    """
    target.contacts()
    assert f"{COLUMNS}\r\n" == target.export("contacts", "--column", f"or_id={OTHER}")[0]
    target.ask("INSERT INTO tl_contacts (tl_content) VALUES ('{}')")

    assert f"--column or_id: no contact in tl_contacts has the custom field {OTHER}" in target.refused(
        "contacts", "--column", f"or_id={OTHER}", as_=NotFound
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (f"orid={FIELD}", 'contacts have no column "orid"; did you mean "or_id"?'),
        ("or_id", "the id of a custom field is expected"),
        ('or_id=" || true || "', "the id of a custom field is expected"),
    ],
)
def test_a_column_that_is_none(target: Target, given: str, said: str) -> None:
    """
    --column takes one of the eight columns and an id.
    """
    assert said in target.refused("contacts", "--column", given, as_=ConfigError)


def test_marked_contacts(target: Target) -> None:
    """
    Rows that are marked as deleted are left out and counted; --all writes them.
    """
    target.contacts(*({"remarks": text} for text in "abc"))
    target.ask("UPDATE tl_contacts SET deleted_at = now() WHERE tl_content ->> 'remarks' = 'b'")
    out, said = target.export("contacts")

    assert (["a", "c"], "contacts: 2 rows of tl_contacts; 1 marked as deleted left out (--all writes them)\n") == (
        [line.split(";")[6] for line in out.splitlines()[1:]],
        said,
    )
    assert 3 == len(target.export("contacts", "--all", "-q")[0].splitlines()) - 1


def test_contacts_as_json_lines(target: Target) -> None:
    """
    In JSON Lines a contact has the same columns.
    """
    target.contacts(CONTACT)
    (line,) = target.export("contacts", "--format", "jsonl")[0].splitlines()

    assert COLUMNS.split(";") == list(json.loads(line))
    assert ("one@example.org", None, "") == tuple(json.loads(line)[name] for name in ("email", "website", "description"))


def test_the_config_says_which_table(target: Target) -> None:
    """
    The table that a step loads from the stream contacts, by whatever name; else tl_contacts.
    """
    target.contacts({"remarks": "default"})
    target.contacts({"remarks": "configured"}, table="crm_contacts")
    default = target.export("contacts")
    target.write(crm=step("crm_{stream}", "contacts", "users"))

    assert ["default", "configured"] == [out.splitlines()[1].split(";")[6] for out in (default[0], target.export("contacts")[0])]


def test_two_jobs_with_contacts(target: Target) -> None:
    """
    Where two tables hold contacts, --job says whose; no variable is needed that only a run of the job needs.
    """
    for name in "ab":
        target.contacts({"remarks": name}, table=f"{name}_contacts")
    target.write(a=step("a_contacts", "contacts"), b=step("b_contacts", "contacts"))

    (target.folder / "config.yaml").write_text(json.dumps(target.document).replace("users.jsonl", "${NOT_SET}"))
    assert "a_contacts and b_contacts | say whose with --job" in target.refused("contacts", as_=ConfigError)
    assert "contacts: 1 row of b_contacts\n" == target.export("contacts", "--job", "b")[1]
    assert 'no job "c"' in target.refused("contacts", "--job", "c", as_=ConfigError)


def test_a_table_that_is_itself_called_contacts(target: Target) -> None:
    """
    Without a table of Teamleader's, contacts is a table like any other.
    """
    target.ask("CREATE TABLE contacts (id int); INSERT INTO contacts VALUES (1)")

    assert ("id\r\n1\r\n", "contacts: 1 row\n") == target.export("contacts")
    assert "written as it is" in target.refused("contacts", "--column", f"or_id={FIELD}", as_=ConfigError)


def test_contacts_that_are_no_documents(target: Target) -> None:
    """
    A table whose columns a transform made has no documents to take the columns from.
    """
    target.ask("CREATE TABLE crm_contacts (tl_uuid uuid, name text)")
    target.write(crm=step("crm_contacts", "contacts"))

    assert "no column tl_content | `usersync export crm_contacts` writes it as it is" in target.refused("contacts", as_=Drift)


# values


def test_nothing_runs_in_a_spreadsheet(target: Target) -> None:
    """
    A cell or a name that begins like a formula gets a ' in front, of texts in every type; numbers are what they are.
    """
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "a=1", " =1", "", None, '="x";"y"']
    target.ask('CREATE TABLE t (id int PRIMARY KEY, "=name" text, chars char(3), list text[], n numeric, b bigint, f real)')
    with psycopg.connect(target.database.url, autocommit=True) as connection:
        for number, text in enumerate(texts):
            connection.execute(b'INSERT INTO t (id, "=name", n) VALUES (%s, %s, -1)', (number, text))
    target.ask("INSERT INTO t VALUES (99, 'plain', '=1', '{=1}', -0.50, -2, -1e30)")
    head, *rows = csv.reader(io.StringIO(target.export("t")[0], newline=""), delimiter=";")

    guarded = ["'" + text if text and text[0] in "=+-@\t\r\n" else text or "" for text in texts]
    assert ["id", "'=name", "chars", "list", "n", "b", "f"] == head
    assert guarded == [row[1] for row in rows[:-1]]
    assert ["99", "plain", "'=1", "{=1}", "-0.50", "-2", "-1e+30"] == rows[-1]
    raw = list(csv.reader(io.StringIO(target.export("t", "--raw")[0], newline=""), delimiter=";"))
    assert ["=name", *(text or "" for text in texts), "plain"] == [row[1] for row in raw]


@pytest.mark.parametrize("delimiter", [";", ",", "|", "tab", "\\t", "^"])
def test_any_text_comes_back(target: Target, delimiter: str) -> None:
    """
    Quotes, line ends, delimiters and any character are what they were when a reader of CSV has read them.
    """
    texts = ['"', '"";"', "a\nb", "a\r\nb", "a;b,c|d\te^f", "\\.", "\\N", " x ", "🙂é\u202e\u2028", "NULL", "x" * 300_000]
    target.ask("CREATE TABLE t (id int PRIMARY KEY, name text)")
    with psycopg.connect(target.database.url, autocommit=True) as connection:
        for number, text in enumerate(texts):
            connection.execute("INSERT INTO t VALUES (%s, %s)", (number, text))
    out, _ = target.export("t", "--delimiter", delimiter)
    csv.field_size_limit(1_000_000)

    found = list(csv.reader(io.StringIO(out, newline=""), delimiter={"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)))
    assert [["id", "name"], *([str(number), text] for number, text in enumerate(texts))] == found


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "a", "1", "=", "-", "\n", "é"])
def test_a_delimiter_that_is_none(target: Target, delimiter: str) -> None:
    """
    What would be mistaken for a part of a cell is refused.
    """
    assert 2 == CliRunner().invoke(cli, ["export", "t", "--delimiter", delimiter], obj=Stop()).exit_code


def test_null_is_not_an_empty_text(target: Target) -> None:
    """
    NULL is an empty cell, an empty text is two quotes; JSON has null and "".
    """
    target.ask("CREATE TABLE t (a text, b text); INSERT INTO t VALUES (NULL, '')")

    assert 'a;b\r\n;""\r\n' == target.export("t")[0]
    assert '{"a":null,"b":""}\n' == target.export("t", "--format", "jsonl")[0]


def test_every_digit(target: Target) -> None:
    """
    Numbers of thirty digits, in columns and in documents, are written as they are, in both formats.
    """
    target.ask(f"CREATE TABLE t (n numeric, doc jsonb); INSERT INTO t VALUES ({LONG}, '{{\"n\": {LONG}}}')")
    line = target.export("t", "--format", "jsonl")[0]

    assert f'n;doc\r\n{LONG};"{{""n"": {LONG}}}"\r\n' == target.export("t")[0]
    assert {"n": Decimal(LONG), "doc": {"n": Decimal(LONG)}} == json.loads(line, parse_float=Decimal)


def test_times_are_those_of_utc(target: Target) -> None:
    """
    Times do not depend on where the server or the command stand.
    """
    target.ask("CREATE TABLE t (at timestamptz, flag bool, day date); INSERT INTO t VALUES ('2026-03-01 12:00+05:30', true, '2026-03-01')")
    target.ask("DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET TimeZone = ''Asia/Tokyo''', current_database()); END$$")

    assert "at;flag;day\r\n2026-03-01 06:30:00+00;true;2026-03-01\r\n" == target.export("t")[0]
    assert '{"at":"2026-03-01T06:30:00+00:00","flag":true,"day":"2026-03-01"}\n' == target.export("t", "--format", "jsonl")[0]


def test_json_lines_are_lines(target: Target) -> None:
    """
    One document a line, whatever is in it: line ends in texts, and between the parts of a value of type json.
    """
    text = 'a\nb\r\t"\\ 🙂 \x01\x02\u2028'
    target.ask("CREATE TABLE t (id int PRIMARY KEY, q text, doc json, docs json[])")
    with psycopg.connect(target.database.url, autocommit=True) as connection:
        connection.execute(b"INSERT INTO t VALUES (1, %s, %s, ARRAY[%s::json])", (text, '{\n\t"a":\r\n 1}', "[\n2]"))
        connection.execute(b"INSERT INTO t (id) VALUES (2)")
    out, _ = target.export("t", "--format", "jsonl")

    assert [{"id": 1, "q": text, "doc": {"a": 1}, "docs": [[2]]}, {"id": 2, "q": None, "doc": None, "docs": None}] == [
        json.loads(line) for line in out.removesuffix("\n").split("\n")
    ]


def test_a_byte_order_mark(target: Target) -> None:
    """
    --bom begins the file so that spreadsheets read UTF-8, once, and only in CSV.
    """
    target.ask("CREATE TABLE t (name text); INSERT INTO t VALUES ('é')")

    assert "\ufeffname\r\né\r\n" == target.export("t", "--bom")[0]
    for option in (["--bom"], ["--raw"], ["--delimiter", ","]):
        assert 2 == CliRunner().invoke(cli, ["export", "t", "--format", "jsonl", *option], obj=Stop()).exit_code


# tables


def test_in_the_order_of_the_primary_key(target: Target) -> None:
    """
    Two exports of the same rows are the same, wherever an update has put them: numbers in the order of numbers.
    """
    target.ask("CREATE TABLE t (v text, b int, a int, PRIMARY KEY (a, b)); INSERT INTO t VALUES ('x', 10, 1), ('y', 9, 1), ('z', 0, 0)")

    assert ["z", "y", "x"] == [line[0] for line in target.export("t")[0].splitlines()[1:]]


def test_whatever_has_rows(target: Target) -> None:
    """
    Tables of other schemas, views, partitioned tables, and names that need quotes.
    """
    target.ask(
        'CREATE SCHEMA app; CREATE TABLE app."Odd ""Table" (t int, q int, "select" int); INSERT INTO app."Odd ""Table" VALUES (1, 2, 3)'
    )
    target.ask('CREATE VIEW v AS SELECT * FROM app."Odd ""Table"; CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE SEQUENCE s')

    assert "t;q;select\r\n1;2;3\r\n" == target.export('app.Odd "Table')[0] == target.export("v")[0]
    assert '{"t":1,"q":2,"select":3}\n' == target.export("v", "--format", "jsonl")[0]
    assert "id\r\n" == target.export("p")[0]
    assert "s is no table or view" in target.refused("s", as_=NotFound)


def test_deleted_at_that_is_no_mark(target: Target) -> None:
    """
    Only a time marks a row; of a column with another type nothing is left out.
    """
    target.ask("CREATE TABLE t (deleted_at bool); INSERT INTO t VALUES (false)")

    assert ("deleted_at\r\nfalse\r\n", "t: 1 row\n") == target.export("t")


def test_a_table_that_is_not_there(target: Target) -> None:
    """
    The job that makes it, or what was probably meant.
    """
    target.write(crm=step("tl_{stream}", "contacts", "users"))
    target.ask("CREATE TABLE people (id int); CREATE SCHEMA app; CREATE TABLE app.members (id int)")

    assert "table tl_users is not there yet | `usersync run --job crm` loads it" == target.refused("tl_users", as_=NotFound)
    assert "table tl_contacts is not there yet | `usersync run --job crm` loads it" == target.refused("contacts", as_=NotFound)
    assert "no table peple in the target | did you mean people?" in target.refused("peple", as_=NotFound)
    assert "did you mean people?" in target.refused("PEOPLE", as_=NotFound)
    assert "did you mean app.members?" in target.refused("members", as_=NotFound)
    assert "`usersync db shell`" in target.refused("something_else", as_=NotFound)


def test_no_contacts_anywhere(target: Target) -> None:
    """
    Without a job that reads contacts, the old tool's table is what is missing.
    """
    assert "there is no table tl_contacts in the target" in target.refused("contacts", as_=NotFound)


@pytest.fixture
def reader(target: Target, server: servers.Server) -> Callable[[str], None]:
    """The config's target is entered as a role without rights, which are given by these statements."""
    name = f"reader_{os.getpid()}"
    database = target.ask("SELECT current_database()")[0][0]
    server.execute(f"DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN")
    target.write(target.database.url.replace("postgres@", f"{name}@"))

    def give(statement: str) -> None:
        target.ask(statement.replace("READER", name))

    yield give
    server.execute(f"DROP OWNED BY {name}", database)
    server.execute(f"DROP ROLE {name}")


def test_a_right_that_is_missing(target: Target, reader: Callable[[str], None]) -> None:
    """
    The GRANT that helps is told, and helps.
    """
    target.ask("CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY)")
    for _ in range(2):
        said = target.refused("app.t", as_=ConfigError)
        assert "permission denied" in said
        target.ask(said.partition(" | ")[2])

    assert "id\r\n" == target.export("app.t")[0]


def test_a_policy_that_would_hide_rows(target: Target, reader: Callable[[str], None]) -> None:
    """
    Rows that the role may not see make an error, not a shorter file.
    """
    target.ask("CREATE TABLE t (id int); INSERT INTO t VALUES (1); ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    reader("GRANT SELECT ON t TO READER")

    assert "BYPASSRLS" in target.refused("t", as_=ConfigError)


# files


def test_a_file(target: Target) -> None:
    """
    --out replaces a file with one that only its owner can read; nothing is left beside it, and stdout is empty.
    """
    target.ask("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    file = target.folder / "t.csv"
    file.write_text("old")
    before = sorted(target.folder.iterdir())

    assert ("", f"t: 1 row in {file}\n") == target.export("t", "--out", file)
    assert (b"id\r\n1\r\n", 0o600, before) == (file.read_bytes(), stat.S_IMODE(file.stat().st_mode), sorted(target.folder.iterdir()))
    assert "id\r\n1\r\n" == target.export("t", "--out", "-")[0]


def test_a_link_stays_a_link(target: Target) -> None:
    """
    Of a link, the file that it leads to is replaced.
    """
    target.ask("CREATE TABLE t (id int)")
    link = target.folder / "link.csv"
    link.symlink_to("t.csv")
    target.export("t", "--out", link)

    assert (b"id\r\n", True) == ((target.folder / "t.csv").read_bytes(), link.is_symlink())


@pytest.mark.parametrize(
    ("out", "said"), [("/dev/null", "is no file"), (".", "is no file"), ("nowhere/t.csv", "No such file or directory")]
)
def test_what_is_no_place_for_a_file(target: Target, out: str, said: str) -> None:
    """
    Devices and folders are not replaced, folders are not made.
    """
    target.ask("CREATE TABLE t (id int)")

    assert said in target.refused("t", "--out", out, as_=ConfigError)
    assert Path("/dev/null").is_char_device()


def test_an_error_leaves_the_old_file(target: Target) -> None:
    """
    What the server reports in the middle of the rows ends the export, and the file is as it was.
    """
    target.ask("CREATE VIEW v AS SELECT i, repeat('x', 1000) AS x, 1 / (5000 - i) AS n FROM generate_series(1, 6000) i")
    file = target.folder / "v.csv"
    file.write_text("old")

    assert "division by zero" in target.refused("v", "--out", file, as_=Drift)
    assert ("old", []) == (file.read_text(), list(target.folder.glob(".v.csv*")))


def test_a_signal_leaves_the_old_file(target: Target) -> None:
    """
    A signal in the middle of the rows ends the export, and the file is as it was.
    """
    target.ask("CREATE VIEW v AS SELECT i, repeat('x', 1000) AS x FROM generate_series(1, 1000) i")
    file = target.folder / "v.csv"
    file.write_text("old")
    stop = Stop()
    stop._note(signal.SIGTERM, None)
    with pytest.raises(Stopped):
        target.export("v", "--out", file, stop=stop)

    assert ("old", []) == (file.read_text(), list(target.folder.glob(".v.csv*")))


def test_a_connection_that_is_cut(target: Target, proxy: servers.Proxy) -> None:
    """
    A line that breaks in the middle of the rows is an error that may pass, and the file is as it was.
    """
    target.ask(
        "CREATE VIEW v AS SELECT i, repeat('x', 999) AS x, pg_sleep(CASE WHEN i = 500 THEN 60 END)::text FROM generate_series(1, 1000) i"
    )
    target.write(proxy.url(target.ask("SELECT current_database()")[0][0]))
    file = target.folder / "v.csv"
    file.write_text("old")
    sleeping = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    cutting = threading.Thread(target=lambda: (servers.until(lambda: target.ask(sleeping)), proxy.cut()))
    cutting.start()
    try:
        assert "exporting v" in target.refused("v", "--out", file, as_=Unavailable)
    finally:
        cutting.join()
    assert ("old", []) == (file.read_text(), list(target.folder.glob(".v.csv*")))


# the real command


@pytest.fixture
def big(target: Target) -> Target:
    """A view with more than a pipe takes, and without an end."""
    target.ask(f"CREATE VIEW v AS SELECT i, '{PERSON}' || repeat('x', 1000) AS x FROM (SELECT generate_series(1, 100000000) AS i) AS s")
    return target


def test_a_full_disk(big: Target) -> None:
    """
    No room for the file: it is as it was, nothing is left beside it, and nobody calls it a bug.
    """
    file = big.folder / "v.csv"
    file.write_text("old")
    with subprocess.Popen(
        [sys.executable, "-m", "usersync_cli", "export", "v", "--out", "v.csv"],
        cwd=big.folder, env=big.usersync.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),  # noqa: PLW1509
    ) as process:  # fmt: skip
        result = finished(process)

    assert (4, "", "usersync: v.csv can't be written: File too large\n  it is as it was; make room, or write elsewhere\n") == (
        result.status,
        result.stdout,
        result.stderr,
    )
    assert ("old", []) == (file.read_text(), list(big.folder.glob(".v.csv*")))


def test_a_full_disk_behind_stdout(big: Target) -> None:
    """
    No room behind > is told, with the status of what may pass.
    """
    with open("/dev/full", "w") as full, subprocess.Popen(  # noqa: PTH123
        [sys.executable, "-m", "usersync_cli", "export", "v"],
        cwd=big.folder, env=big.usersync.environment, stdout=full, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        _, said = process.communicate(timeout=30)

    assert (4, "usersync: the result can't be written: No space left on device\n  make room, or write it elsewhere\n") == (
        process.returncode,
        said,
    )


def test_nobody_reads_on(big: Target) -> None:
    """
    `| head -1` ends the export in silence, with the status that shells give for it.
    """
    with big.usersync.start("export", "v") as process:
        assert process.stdout and process.stderr  # noqa: PT018  for mypy
        first = process.stdout.readline()
        process.stdout.close()

        assert ("i;x\n", "", 141) == (first, process.stderr.read(), process.wait(30))


def test_stopped_while_nobody_reads(big: Target) -> None:
    """
    SIGTERM ends an export whose reader is stuck, and the server's work with it.
    """
    with big.usersync.start("export", "v") as process:
        assert process.stdout and process.stderr  # noqa: PT018  for mypy
        assert "i;x\n" == process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        status = process.wait(20)

        assert (143, True) == (status, process.stderr.read().startswith("usersync: stopped by SIGTERM"))
    busy = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'usersync/export'"
    servers.until(lambda: not big.ask(busy))


def test_stopped_while_a_file_is_written(big: Target) -> None:
    """
    SIGTERM while the file grows: the old one is as it was, nothing is left beside it.
    """
    file = big.folder / "v.csv"
    file.write_text("old")
    with big.usersync.start("export", "v", "--out", "v.csv") as process:
        servers.until(lambda: any(draft.stat().st_size > 500_000 for draft in big.folder.glob(".v.csv*")), 30)
        process.send_signal(signal.SIGTERM)
        result = clean(finished(process))

    assert (143, "") == (result.status, result.stdout)
    assert ("old", []) == (file.read_text(), list(big.folder.glob(".v.csv*")))


def test_on_a_terminal(target: Target) -> None:
    """
    A terminal gets nothing that it would obey; a pipe gets the value.
    """
    target.ask(r"CREATE TABLE t (a text); INSERT INTO t VALUES (E'\x1b]0;title\x07é')")
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "usersync_cli", "export", "t", "-q"],
        cwd=target.folder, env=target.usersync.environment, stdout=follower, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        os.close(follower)
        assert process.stderr is not None
        assert (b"", 0) == (process.stderr.read(), process.wait(30))
    shown = os.read(leader, 1000).decode()
    os.close(leader)

    assert 'a\r\n"\\x1b]0;title\\x07é"\r\n' == shown
    assert "\x1b]0;title\x07é" in target.export("t")[0]
