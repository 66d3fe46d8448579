"""`usersync verify`: every difference between a table and its sources is found, and nothing is written."""

from __future__ import annotations

import json
import signal
from operator import itemgetter
from random import Random
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql

from tests import servers
from tests.conftest import Command, NewDatabase
from tests.simple_job import PASSWORD, PERSON, READING, SLOW, Job, clean, execute, finished
from usersync_cli.cli import cli
from usersync_cli.errors import ConfigError, UsersyncError
from usersync_cli.load.merge import Merge
from usersync_cli.model import Database
from usersync_cli.report.verify.compare import BATCH
from usersync_cli.signals import Stop
from usersync_cli.state import migrations


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Job:
    return Job(usersync, new_database("source crm"), new_database(), migrated=False)


def command(job: Job, *arguments: str) -> tuple[int, str, str]:
    """A command in this process: exit status, stdout, stderr; raises what the command raises."""
    runner = CliRunner()
    done = runner.invoke(cli, [*arguments, "--config", str(job.usersync.folder / "config.yaml")], obj=Stop(), standalone_mode=False)
    if done.exception:
        raise done.exception
    for word in (PASSWORD, *(() if "--values" in arguments else (PERSON,))):
        assert word not in done.stdout + done.stderr
    return done.return_value, done.stdout, done.stderr


def verify(job: Job, *arguments: str) -> tuple[int, str, str]:
    return command(job, "verify", "--job", "copy", *arguments)


def found(job: Job, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status and what the one step's report says."""
    status, stdout, _ = verify(job, "--output", "json", *arguments)
    document = json.loads(stdout)
    assert (1, "verify", "copy", status) == (document["version"], document["kind"], document["job"], document["exit_status"])
    (step,) = document["steps"]
    return status, step


def differences(step: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["kind"], one["key"], ",".join(one["columns"])) for one in step["differences"]]


def run(job: Job) -> None:
    status, _, stderr = command(job, "run", "--job", "copy", "-q")
    assert 0 == status, stderr


def test_every_kind_of_difference(job: Job) -> None:
    """
    Missing, extra and changed rows are found and named; values are told only when asked for; nothing is written, not even
    usersync's own tables.
    """
    job.write(load={"on_missing": "delete", "create": False})
    job.people(*"abcdefghij")
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text); CREATE SCHEMA other")
    job.at_target("INSERT INTO people SELECT i, 'Test User ' || chr(96 + i) FROM generate_series(1, 10) AS i")
    rows = "SELECT xmin::text, ctid::text, p::text FROM people p ORDER BY id"
    before = job.at_target(rows)

    assert (0, 10, 10, []) == ((good := found(job))[0], good[1]["read"], good[1]["rows"], good[1]["differences"])
    assert verify(job)[1].startswith("copy: people: 10 read, 10 in the table: 0 missing, 0 extra, 0 different (")
    assert (0, "", "") == verify(job, "-q")
    assert before == job.at_target(rows)
    assert [] == job.at_target("SELECT FROM pg_namespace WHERE nspname = 'usersync'")

    job.at_target("""
        DELETE FROM people WHERE id IN (1, 10);
        INSERT INTO people VALUES (0, 'Test User x'), (11, 'Test User y');
        UPDATE people SET name = name || ' ' WHERE id = 2;
        UPDATE people SET name = upper(name) WHERE id = 3;
        UPDATE people SET name = NULL WHERE id = 4;
    """)
    job.at_source("UPDATE people_at_source SET name = NULL WHERE id = 6")
    job.at_target("UPDATE people SET name = '' WHERE id = 6")
    changed = [("different", id_, "name") for id_ in "2346"]
    expected = sorted([("missing", "1", ""), ("missing", "10", ""), ("extra", "0", ""), ("extra", "11", ""), *changed], key=lambda d: d[1])
    status, step = found(job)
    text = verify(job, "--values", "--limit", "3")

    assert (8, expected) == (status, differences(step))
    assert (2, 2, 4, {"name": 4}) == (step["missing"], step["extra"], step["different"], step["columns"])
    assert (8, True) == (text[0], "10 read, 10 in the table: 2 missing, 2 extra, 4 different (name 4) (" in text[1])
    assert [
        '  extra     0: name "Test User x"',
        '  missing   1: name "Test User a"',
        '  missing   10: name "Test User j"',
        "  ... and 5 more; --limit 0 lists all",
    ] == text[1].splitlines()[1:]
    assert "8 rows differ from the sources" in text[2]
    assert "`usersync run --job copy --full`" in text[2]
    assert {"source": {"name": None}, "table": {"name": ""}}.items() <= found(job, "--values")[1]["differences"][-1].items()
    assert '  different 6: name "" instead of NULL' in verify(job, "--values")[1].splitlines()


TYPES = """
    id int PRIMARY KEY, amount numeric, price numeric(10,2), at timestamptz, seconds timestamp(0), facts jsonb, told json,
    fold text{collation}, short varchar(5), tags numeric[], code char(4), raw bytea, long interval
"""
VALUES = """
    1, {amount}, {price}, {at}, {seconds}, {facts}, {told}, {fold}, {short}, {tags}, {code}, {raw}, {long}
"""
SOURCE = {
    "amount": "1.0", "price": "1.005", "at": "'2024-01-01 12:00+00'", "seconds": "'2024-01-01 00:00:00.4'", "told": """'{"a": 1}'""",
    "facts": """'{"a": 1.0, "b": [1]}'""", "fold": "'Ann'", "short": "'abcde'", "tags": "'{1.0,2}'", "code": "'ab'", "raw": "'\\x00ff'",
    "long": "'24:00'",
}  # fmt: skip
SAME = {
    "amount": "1.00", "price": "1.01", "at": "'2024-01-01 17:30+05:30'", "seconds": "'2024-01-01 00:00:00'",
    "facts": """'{"b":[1.00],"a":1}'""", "tags": "'{1,2.000}'", "code": "'ab  '", "long": "'1 day'",
}  # fmt: skip
OTHER = {
    "amount": "1.000001", "price": "1.02", "at": "'2024-01-01 12:00+05:30'", "seconds": "'2024-01-01 00:00:01'",
    "facts": """'{"a": 1.0, "b": [1, null]}'""", "told": """'{"a":1}'""", "fold": "'Anne'", "short": "'abcd'", "tags": "'{2,1}'",
    "code": "'Ab'", "raw": "'\\x00fe'", "long": "'24:01'",
}  # fmt: skip


def test_equality_is_that_of_the_column(job: Job) -> None:
    """
    What the column's type and collation call equal is no difference: scale, time zone, order of keys,
    trailing blanks of char. Anything else is, in each column, and a value that the column would have to cut.
    """
    job.at_target("CREATE COLLATION folded (provider = builtin, locale = 'C.UTF-8')")
    source, target = TYPES.format(collation=""), TYPES.format(collation=" COLLATE folded")
    wider = source.replace("varchar(5)", "text").replace("(10,2)", "").replace("timestamp(0)", "timestamp").replace("char(4)", "text")
    job.at_source(f"CREATE TABLE typed ({wider}); INSERT INTO typed VALUES ({VALUES.format(**SOURCE)})")
    job.at_target(f"CREATE TABLE people ({target}); INSERT INTO people VALUES ({VALUES.format(**{**SOURCE, **SAME})})")
    job.write(extract={"table": "typed"})

    assert (0, []) == ((same := found(job))[0], same[1]["differences"])
    for column, value in OTHER.items():
        job.at_target(f"DELETE FROM people; INSERT INTO people VALUES ({VALUES.format(**{**SOURCE, column: value})})")
        assert (8, [("different", "1", column)]) == ((other := found(job))[0], differences(other[1])), column
    job.at_target(f"DELETE FROM people; INSERT INTO people VALUES ({VALUES.format(**SOURCE)})")
    job.at_source("UPDATE typed SET short = 'abcdef'")
    assert [("different", "1", "short")] == differences(found(job)[1])


def test_folded_keys_and_values(usersync: Command, new_database: NewDatabase, postgres15: servers.Server) -> None:
    """
    citext, a collation without case, numeric: keys that their type calls equal are one key, values no difference.
    """
    job = Job(usersync, new_database("source crm"), new_database(on=postgres15), migrated=False)
    job.at_source("CREATE TABLE folding (a text, b numeric, c text, d text)")
    job.at_source(
        "INSERT INTO folding VALUES ('Ann', 1.0, 'Ann', 'Ann'), ('Bob', 2, 'x', 'y'), ('BOB', 2.0, 'Bob', 'Bob'), ('C', 3, 'c', 'c')"
    )
    job.at_target("CREATE EXTENSION citext; CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    job.at_target("CREATE TABLE people (a text COLLATE folded, b numeric, c citext, d text COLLATE folded, PRIMARY KEY (a, b))")
    job.at_target("INSERT INTO people VALUES ('ANN', 1, 'aNN', 'aNN'), ('bob', 2.00, 'bOB', 'bOB'), ('c', 3, 'c', 'ç')")
    job.write(extract={"table": "folding"}, load={"key": ["a", "b"]})
    status, step = found(job)

    assert (8, [("different", "(c,3)", "d")]) == (status, differences(step))
    assert (4, 3, 1) == (step["read"], step["rows"], step["duplicates"])


def test_a_database_of_another_encoding(job: Job, server: servers.Server) -> None:
    """
    Both sides come in one order, whatever the order of letters in the target's encoding.
    """
    server.execute("CREATE DATABASE test_windows TEMPLATE template0 ENCODING 'WIN1252' LC_COLLATE 'C' LC_CTYPE 'C'")
    job.target = Database(server.url("test_windows"), "target")
    job.write(extract={"table": "letters"})
    job.at_source("CREATE TABLE letters (id text PRIMARY KEY); INSERT INTO letters VALUES ('é'), ('€'), ('z'), ('ž')")
    try:
        with psycopg.connect(job.target.url, client_encoding="utf8", autocommit=True) as connection:
            connection.execute("CREATE TABLE people (id text PRIMARY KEY)")
            connection.execute("INSERT INTO people VALUES ('é'), ('z'), ('ž')")
        status, step = found(job)
    finally:
        server.execute("DROP DATABASE test_windows WITH (FORCE)")

    assert (8, [("missing", "€", "")]) == (status, differences(step))


def test_rows_that_left_the_source(job: Job) -> None:
    """
    keep: rows that the source lacks are counted. mark: they have to be marked, and nobody else may be. delete: they are extra.
    """
    job.people("a", "b", "c")
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text, deleted_at timestamptz)")
    job.at_target(
        "INSERT INTO people VALUES (1, 'Test User a', NULL), (2, 'Test User b', now()), (3, 'x', now()), (4, 'y', now()), (5, 'z', NULL)"
    )

    job.write(load={"on_missing": "keep"})
    keep = found(job)
    job.write(load={"on_missing": "mark"})
    mark = found(job)
    job.write(load={"on_missing": "delete"})
    delete = found(job)

    assert [("different", "3", "name")] == differences(keep[1])
    assert [("different", "2", "deleted_at"), ("different", "3", "name,deleted_at"), ("extra", "5", "")] == differences(mark[1])
    assert [("different", "3", "name"), ("extra", "4", ""), ("extra", "5", "")] == differences(delete[1])
    assert [(8, 2, 0), (8, 0, 1), (8, 0, 0)] == [(status, step["kept"], step["marked"]) for status, step in (keep, mark, delete)]
    job.at_target("UPDATE people SET name = 'Test User c' WHERE id = 3")
    job.write(load={"on_missing": "keep"})
    assert ", 2 kept (" in verify(job)[1]
    assert 0 == verify(job)[0]
    job.write(load={"on_missing": "delete"})
    assert "it removes only what came from the source before" in verify(job)[2]


def test_records_that_were_set_aside(job: Job) -> None:
    """
    A record that waits as a reject, or was dropped, is counted and listed as rejected, and is no difference.
    """
    migrations.upgrade(job.target)
    job.people("a", "b", "c")
    job.at_source("ALTER TABLE people_at_source DROP CONSTRAINT people_at_source_pkey; ALTER TABLE people_at_source ALTER id DROP NOT NULL")
    job.at_source("INSERT INTO people_at_source VALUES (NULL, 'Test User d')")
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people VALUES (1, 'Test User a'), (2, 'Test User x')")
    reject = "INSERT INTO usersync.rejects (job, step, key, status, reason, hash, run_id) VALUES ('copy', '{}', '{}', '{}', 'test', '', 1)"

    job.at_target(reject.format("other", "3", "waiting"))
    assert [("missing", None, ""), ("different", "2", "name"), ("missing", "3", "")] == differences(found(job)[1])
    for key, status in (("2", "waiting"), ("3", "dropped"), ("sha256:0", "waiting")):
        job.at_target(reject.format("people", key, status))
    status, report = found(job)
    assert (0, 3, 0, 0) == (status, report["rejected"], report["missing"], report["different"])
    assert [("rejected", None, ""), ("rejected", "2", "name"), ("rejected", "3", "")] == differences(report)
    assert ", 3 rejected (" in verify(job)[1]
    job.at_target("DELETE FROM usersync.rejects")
    assert 8 == found(job)[0]


def test_records_that_the_transform_fails_on(job: Job) -> None:
    """
    A value that can't be cast stops the comparison, unless its record was set aside just as it is; then the others are compared.
    """
    migrations.upgrade(job.target)
    job.at_source("CREATE TABLE aged (id int, f text); INSERT INTO aged VALUES (1, '1'), (2, 'two'), (3, 'three'), (4, '4')")
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, age int); INSERT INTO people VALUES (1, 1), (2, 2), (4, 5)")
    job.at_target("CREATE TABLE bad (id int, f text); INSERT INTO bad VALUES (2, 'two'), (3, 'three')")
    job.write(extract={"table": "aged"}, transform="SELECT id, f::int AS age FROM records", load={"on_missing": "delete"})
    reject = """INSERT INTO usersync.rejects (job, step, key, reason, hash, run_id)
        SELECT 'copy', 'people', id, 'test', sha256(convert_to(row_to_json(b)::text, 'UTF8')), 1 FROM bad b WHERE id = {}"""

    assert 7 == verify(job)[0]
    job.at_target(reject.format(2))
    assert 7 == verify(job)[0]
    job.at_target(reject.format(3))
    status, step = found(job)
    assert (8, 4, 3, 1, 2) == (status, step["read"], step["rows"], step["different"], step["rejected"])
    assert [("different", "4", "age"), ("rejected", "2", ""), ("rejected", "3", "")] == differences(step)
    job.at_source("UPDATE aged SET f = 'zwei' WHERE id = 2")
    assert 7 == verify(job)[0]


def test_a_key_that_occurs_twice(job: Job) -> None:
    """
    The first in order_by has to be there, also by a column that is not loaded; among equals, and without order_by, any.
    """
    job.at_source("CREATE TABLE twice (id int, lang text, name text, rank int)")
    job.at_source("INSERT INTO twice VALUES (1, 'en', 'a', 1), (1, 'en', 'b', 2), (1, 'en', 'c', 2), (1, 'fr', 'd', 1), (1, 'fr', 'd', 1)")
    job.at_target("CREATE TABLE people (id int, lang text, name text, PRIMARY KEY (id, lang)); INSERT INTO people VALUES (1, 'fr', 'd')")
    told = {}
    for order in (None, "_rank DESC"):
        job.write(
            extract={"table": "twice"},
            transform="SELECT id, lang, name, rank AS _rank FROM records",
            load={"key": ["id", "lang"], "order_by": order} if order else {"key": ["id", "lang"]},
        )
        for name in "abcx":
            job.at_target(f"DELETE FROM people WHERE lang = 'en'; INSERT INTO people VALUES (1, 'en', '{name}')")
            status, step = found(job)
            assert (5, 3) == (step["read"], step["duplicates"])
            assert [("different", "(1,en)", "name")] * (status == 8) == differences(step)
            told[order, name] = status

    assert {"a": 0, "b": 0, "c": 0, "x": 8} == {name: told[None, name] for name in "abcx"}
    assert {"a": 8, "b": 0, "c": 0, "x": 8} == {name: told["_rank DESC", name] for name in "abcx"}


def test_a_merge_that_overlooks_changes_is_found_out(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    verify does not compare as a run does: with a merge that takes every row for unchanged, it finds what was left out.
    """
    migrations.upgrade(job.target)
    job.people("a", "b")
    run(job)
    job.people("a", "x", "c")
    monkeypatch.setattr(Merge, "differs_from", lambda *_: sql.SQL("false"))
    run(job)

    assert (8, [("different", "2", "name")]) == ((broken := found(job))[0], differences(broken[1]))
    monkeypatch.undo()
    run(job)
    assert (0, []) == ((fixed := found(job))[0], differences(fixed[1]))


def test_two_sources_and_a_step_that_cannot_be_compared(job: Job, new_database: NewDatabase) -> None:
    """
    Sources are joined as a run joins them. A step whose table is not there yet says so, and the next one is compared.
    """
    other = new_database("source other")
    execute(other.url, "CREATE TABLE cities (id int, city text); INSERT INTO cities VALUES (1, 'p'), (2, 'q')")
    job.people("a", "b", "c")
    job.at_target(
        "CREATE TABLE people (id int PRIMARY KEY, name text, city text);"
        " INSERT INTO people VALUES (1, 'Test User a', 'p'), (2, 'Test User b', 'p')"
    )
    document = job.document
    document["sources"]["other"] = {"type": "postgres", "url": other.url}
    (step,) = document["jobs"]["copy"]["steps"]
    step["extract"] = {"members": {"source": "crm", "table": "people_at_source"}, "cities": {"source": "other", "table": "cities"}}
    step["transform"] = "SELECT id, name, city FROM members LEFT JOIN cities USING (id)"
    absent = {"extract": {"source": "crm", "table": "people_at_source"}, "load": {"table": "absent", "key": ["id"], "create": True}}
    document["jobs"]["copy"]["steps"] = [absent, step]
    job.save()
    status, stdout, stderr = verify(job)

    assert (8, "copy: absent: could not be compared") == (status, stdout.partition(" (")[0])
    assert "copy: people: 3 read, 2 in the table: 1 missing, 0 extra, 1 different (city 1) (" in stdout
    assert "copy: step absent: target table absent does not exist yet\n  usersync run --job copy\n" in stderr
    assert 9 == verify(job, "--step", "absent")[0]
    assert [("different", "2", "city"), ("missing", "3", "")] == differences(found(job, "--step", "people")[1])
    with pytest.raises(ConfigError, match="job copy has no step nobody"):
        verify(job, "--step", "nobody")
    with pytest.raises(UsersyncError) as unknown:
        command(job, "verify", "--job", "copi")
    assert 2 == unknown.value.status


def test_what_cannot_be_compared(job: Job) -> None:
    """
    Columns that are missing, a key that may be NULL, a transform that writes: exit status and hint. A source without
    records is told, even where the rule lets the rows stay.
    """
    told = []
    job.at_target("CREATE SEQUENCE numbers")
    for table, load, transform in (
        ("id int PRIMARY KEY", {"on_missing": "mark"}, None),
        ("id int, name text", {"key": ["id"]}, None),
        ("id int PRIMARY KEY, name text", {"key": ["id"]}, "SELECT name FROM records"),
        ("id int PRIMARY KEY, name text", {}, "SELECT nextval('numbers')::int AS id, name FROM records"),
        ("id int PRIMARY KEY, name text", {}, "SELECT id, nam AS name FROM records"),
        ("id int PRIMARY KEY, name int", {}, "SELECT id, name::int AS name FROM records"),
    ):
        job.people("a")
        job.at_target(f"DROP TABLE IF EXISTS people; CREATE TABLE people ({table})")
        job.write(load=load, transform=transform)
        status, stdout, stderr = verify(job)
        told.append((status, stderr))
        assert stdout.startswith("copy: people: could not be compared (")
    job.write()
    job.at_target("DROP TABLE people; CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people VALUES (1, 'x')")
    job.people()
    silent = verify(job)

    assert [7, 7, 7, 2, 7, 7] == [status for status, _ in told], told
    wanted = [
        "column name is missing; column deleted_at is missing",
        "the key id may be NULL",
        "the key id is not a column of the transform",
        "the transform writes, and verify only reads",
        'column "nam" does not exist',
        "comparing people: ",
    ]
    assert all(text in stderr for text, (_, stderr) in zip(wanted, told, strict=True)), told
    assert (0, True) == (silent[0], "0 read, 1 in the table: 0 missing, 0 extra, 0 different, 1 kept (" in silent[1])
    assert "the sources have no records" in silent[2]


def test_select_is_enough(job: Job) -> None:
    """
    A role that may SELECT from the table, and nothing of usersync's own, can verify; the process ends with the status.
    """
    migrations.upgrade(job.target)
    job.people("a")
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people VALUES (1, 'Test User b')")
    job.at_target("DO $$BEGIN CREATE ROLE test_auditor LOGIN PASSWORD 'x'; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
    try:
        job.at_target("GRANT SELECT ON people TO test_auditor")
        job.document["target"] = job.target.url.replace("postgres@", "test_auditor@")
        job.save()
        result = clean(job.usersync("verify", "--job", "copy"))
    finally:
        job.at_target("DROP OWNED BY test_auditor; DROP ROLE test_auditor")

    assert (8, True) == (result.status, "1 different (name 1)" in result.stdout), result
    assert ["usersync: copy: 1 row differs from the sources", "  `usersync run --job copy --full` writes what is missing or different"] == (
        result.stderr.splitlines()
    )


def test_sigterm_ends_it(job: Job) -> None:
    """
    SIGTERM while the source is read: status 143, and nothing is left at the target.
    """
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text)")
    job.write(extract={"query": SLOW})
    job.people(*(["slow"] * 300))
    with job.usersync.start("verify", "--job", "copy") as process:
        try:
            job.wait_for(READING)
            process.send_signal(signal.SIGTERM)
            result = finished(process)
        finally:
            process.kill()

    assert (143, "") == (result.status, result.stdout), result


def test_it_says_what_a_dictionary_says(job: Job) -> None:
    """
    For two big random tables: missing, extra and different rows, and the columns, are those that Python finds.
    """
    random = Random(1)  # the same tables in each run
    keys = [f"{random.choice('aBcä€😀_ ')}{i}" for i in range(BATCH * 3)]

    def rows() -> dict[str, tuple[str | None, int | None]]:
        chosen = random.sample(keys, int(len(keys) * 0.9))
        return {key: (random.choice(["a"] * 20 + [None, "", "a ", "A"]), random.choice([0] * 20 + [None, 1])) for key in chosen}

    source, target = rows(), rows()
    for url, name, content in ((job.source.url, "generated", source), (job.target.url, "people", target)):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE TABLE {name} (id text PRIMARY KEY, name text, age int)".encode())
            with connection.cursor().copy(f"COPY {name} FROM STDIN".encode()) as copy:
                for key, values in content.items():
                    copy.write_row((key, *values))
    job.write(extract={"table": "generated"}, load={"on_missing": "delete"})
    expected = [("missing", key, "") for key in source.keys() - target.keys()] + [
        ("extra", key, "") for key in target.keys() - source.keys()
    ]
    for key in source.keys() & target.keys():
        names = [name for name, a, b in zip(("name", "age"), source[key], target[key], strict=True) if a != b]
        expected += [("different", key, ",".join(names))] * bool(names)
    status, step = found(job, "--limit", "0")

    assert 8 == status
    assert sorted(expected, key=itemgetter(1)) == differences(step)
    assert {"missing", "extra", "different"} == {kind for kind, _, _ in expected}


@pytest.mark.parametrize("state", ["empty", "other", "newer"])
def test_what_stops_a_run_stops_all_that_look(job: Job, state: str) -> None:
    """
    A source that fell silent or is another one, and tables of a newer program: a run, a dry run and verify say 7, each.
    """
    job.write(load={"on_missing": "keep", "create": True})
    job.people(*"abc")
    run(job)
    if state == "empty":
        job.at_source("DELETE FROM people_at_source")
    elif state == "newer":
        job.at_target("UPDATE usersync.alembic_version SET version_num = '9999'")
    else:
        job.at_target("UPDATE usersync.cursors SET account = 'somebody else'")

    for words in (["run", "-q"], ["run", "--dry-run"], ["verify"]):
        try:
            status, _, told = command(job, *words, "--job", "copy")
        except UsersyncError as error:
            status, told = error.status, error.message
        assert 7 == status, (words, told)
