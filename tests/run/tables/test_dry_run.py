"""What a dry run shows is what the next run does, for generated histories; and how the command shows it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import Command, NewDatabase
from tests.simple_job import Job, execute
from usersync_cli.cli import cli
from usersync_cli.cli.diff import TERMINAL_ROWS
from usersync_cli.errors import GuardRefused, PartialError, UsersyncError
from usersync_cli.model import Change, Counts, Database
from usersync_cli.run.context import StepResult
from usersync_cli.signals import Stop

# Each value as it may be written in SQL. Some are equal to the table and are written otherwise: 1.0 and 1.00, -0 and 0.
VALUES = {
    "doc": [None, '{"n": 1.0}', '{"n": 1.00}', '"NULL"'],
    "ratio": [None, "0.1", "0.30000000000000004", "-0", "0", "NaN"],
    "at": [None, "2020-02-29 12:00:00.000001+05:30", "infinity"],
    "raw": [None, r"\x00ff5c", r"\x"],
    "tags": [None, "{}", '{NULL,"NULL","a,b"}'],
}
TYPES = {"doc": "jsonb", "ratio": "float8", "at": "timestamptz", "raw": "bytea", "tags": "text[]"}
NAMES = [None, "a", "b", "c", "d", "e", "f", "", "NULL", "\x1b[2J\u202e"]
COLUMNS = ["id", "name", *VALUES]
_TYPED = ", ".join(f"{name} {type_}" for name, type_ in TYPES.items())
# What a role may be set to, and no text of a preview may depend on.
ODD = {"bytea_output": "escape", "extra_float_digits": "-15", "IntervalStyle": "sql_standard", "TimeZone": "Asia/Kolkata"}


def odd(database: Database) -> str:
    """The statements that set a database to this."""
    name = conninfo_to_dict(database.url)["dbname"]
    return "".join(f"ALTER DATABASE {name} SET {setting} = '{value}';" for setting, value in ODD.items())


Row = dict[str, str | None]
Table = dict[str, Row]


@dataclass
class Member:
    """One record of the source; numeric keys may be written with more zeros and are the same."""

    written: str
    row: Row
    twins: list[Row] = field(default_factory=list)  # records of the same key, which lose to it


class World:
    """Source and target of a job, reached by two connections that stay open, and what the source holds by now."""

    def __init__(self, job: Job, source: psycopg.Connection[Any], target: psycopg.Connection[Any]) -> None:
        self.job, self.source, self.target = job, source, target
        source.execute(f"CREATE TABLE members (id numeric, name text, {_TYPED}, rank int)")
        execute(job.target.url, odd(job.target))
        self.members: dict[int, Member] = {}
        self.refused: list[int] = []

    def begin(self, *, load: dict[str, Any], table: str, people: list[tuple[int, Row]], twins: bool, transform: bool) -> None:
        """A job that never ran, and a table as somebody left it."""
        self.members, self.refused = {}, []
        self.target.execute(
            "DROP TABLE IF EXISTS people;"
            " TRUNCATE usersync.cursors, usersync.seen_streams, usersync.approvals, usersync.rejects, usersync.runs CASCADE"
        )
        names = ", ".join(COLUMNS)
        self.job.write(
            extract={"query": f"SELECT {names}{', rank AS _rank' if twins else ''} FROM members"},
            transform="SELECT * FROM records WHERE name IS DISTINCT FROM 'left out'" if transform else None,
            load={**load, **({"order_by": "_rank"} if twins else {})},
        )
        if table != "none":
            self.target.execute(
                f"CREATE TABLE people (id numeric PRIMARY KEY, name text UNIQUE, {_TYPED}, updated_at timestamptz, deleted_at timestamptz)"
            )
        for key, row in people if table == "filled" else ():
            self.by_hand("add", key, row, "")

    def at_source(self, doing: str, key: int, row: Row, column: str, zeros: str) -> None:
        """One thing that happens at the source. A name that somebody else has is swapped with them."""
        old = self.members.get(key)
        if doing == "change" and old:
            row = {**old.row, column: row[column]}
        if doing in {"put", "change"}:
            taken = next((m for k, m in self.members.items() if k != key and row["name"] and m.row["name"] == row["name"]), None)
            if taken:
                taken.row = {**taken.row, "name": old.row["name"] if old else None}
            self.members[key] = Member(f"{key}{zeros}", row)
        elif doing == "twin" and old:
            old.twins.append({**row, "name": None})
        elif doing == "remove":
            self.members.pop(key, None)

    def lose(self, kept: set[int] | None) -> None:
        """All but these leave the source; None for a day on which nothing of that kind happens."""
        if kept is not None:
            self.members = {key: member for key, member in self.members.items() if key in kept}

    def by_hand(self, doing: str, key: int, row: Row, column: str) -> None:
        """One thing that somebody does to the target's table. What its constraints refuse does not happen."""
        values = [row[name] for name in COLUMNS[1:]]
        if self.target.execute("SELECT to_regclass('people')").fetchone() == (None,):
            return
        try:
            if doing == "add":
                self.target.execute(f"INSERT INTO people VALUES (%s{', %s' * len(values)})", [key, *values])
            elif doing == "change":
                self.target.execute(f"UPDATE people SET {column} = %s WHERE id = %s", [row[column], key])
            elif doing == "remove":
                self.target.execute("DELETE FROM people WHERE id = %s", [key])
            elif doing == "mark" and "mark" == self.job.document["jobs"]["copy"]["steps"][0]["load"]["on_missing"]:
                self.target.execute("UPDATE people SET deleted_at = CASE WHEN deleted_at IS NULL THEN now() END WHERE id = %s", [key])
        except psycopg.errors.UniqueViolation:
            pass

    def write_source(self) -> None:
        rows = [
            [member.written, *(row[name] for name in COLUMNS[1:]), rank]
            for member in self.members.values()
            for rank, row in enumerate([member.row, *member.twins])
        ]
        with self.source.transaction(), self.source.cursor() as cursor:
            cursor.execute("TRUNCATE members")
            cursor.executemany(f"INSERT INTO members VALUES (%s{', %s' * len(COLUMNS)})", rows)

    def content(self) -> Table:
        """The target's table as text; `deleted_at` only says whether."""
        if self.target.execute("SELECT to_regclass('people')").fetchone() == (None,):
            return {}
        marked = self.target.execute("SELECT FROM pg_attribute WHERE attrelid = 'people'::regclass AND attname = 'deleted_at'").rowcount
        texts = ", ".join(f"{name}::text" for name in COLUMNS)
        found = self.target.execute(f"SELECT {texts}, {'(deleted_at IS NOT NULL)::text' if marked else 'NULL'} FROM people")
        return {str(row[0]): dict(zip([*COLUMNS, "deleted_at"], row, strict=True)) for row in found}

    def everything(self) -> list[tuple[Any, ...]]:
        """Every row of every table of the target, usersync's own among them, and where its sequences stand."""
        tables = self.target.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'r' AND n.nspname IN ('usersync', 'public') ORDER BY 1, 2"
        ).fetchall()
        each = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}, t::text FROM {} AS t").format(sql.Literal(name), sql.Identifier(schema, name)) for schema, name in tables
        )
        rows = self.target.execute(sql.SQL("{} ORDER BY 1, 2").format(each)).fetchall()
        sequences = self.target.execute("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1").fetchall()
        return [*tables, *rows, *sequences]

    def set_aside(self) -> list[str]:
        """The keys of the records that wait as rejects."""
        return [key for (key,) in self.target.execute("SELECT key FROM usersync.rejects ORDER BY key").fetchall()]

    def preview(self, **options: Any) -> tuple[list[Change], Counts, UsersyncError | None]:
        """The changes that a dry run tells, its counts and its error. It leaves everything as it is."""
        changes: list[Change] = []

        def told(change: Change) -> bool:
            changes.append(change)
            return True

        before = self.everything()
        counts, error = self.run(dry_run=True, diff=told, **options)
        assert before == self.everything()
        return changes, counts, error

    def run(self, **options: Any) -> tuple[Counts, UsersyncError | None]:
        try:
            result = self.job.sync(**options)
        except UsersyncError as error:
            return Counts(), error
        (step,) = result.steps
        if isinstance(step.error, GuardRefused) and result.run_id:
            self.refused.append(result.run_id)
        return step.counts, step.error


def applied(changes: list[Change], before: Table) -> Table:
    """The table after these changes; each has to say truly what was there."""
    after = {key: dict(row) for key, row in before.items()}
    for change in changes:
        key = str(change.key["id"])
        if change.kind == "reject":
            continue
        if change.kind == "insert":
            assert key not in before
            after[key] = {**change.after, "deleted_at": after.pop(key, {}).get("deleted_at")}
            continue
        there = dict(change.before)
        if "deleted_at" in there:
            there["deleted_at"] = None if there["deleted_at"] is None else "true"
        assert there == {name: _marked(before[key])[name] for name in there}
        if change.kind == "update":
            assert change.after
            assert all(value != change.before[name] for name, value in change.after.items())
            after[key] |= change.after
        elif change.kind == "mark":
            after[key]["deleted_at"] = "true"
        else:
            assert COLUMNS == list(there)
            del after[key]
    return {key: _marked(row) for key, row in after.items()}


def _marked(row: Row) -> Row:
    """With NULL for a row that is not marked, as the column itself has it."""
    return {**row, "deleted_at": "true" if row["deleted_at"] == "true" else None}


def kinds(changes: list[Change]) -> tuple[int, int, int]:
    found = [change.kind for change in changes]
    return found.count("insert"), found.count("update"), found.count("delete") + found.count("mark")


rows = st.fixed_dictionaries({"name": st.sampled_from(NAMES), **{name: st.sampled_from(some) for name, some in VALUES.items()}})
keys = st.integers(1, 8)
columns = st.sampled_from(COLUMNS[1:])
zeros = st.sampled_from(["", ".0", ".00"])
at_source = st.tuples(st.sampled_from(["change"] * 5 + ["put", "put", "remove", "remove", "twin"]), keys, rows, columns, zeros)
by_hand = st.tuples(st.sampled_from(["change", "change", "add", "remove", "mark"]), keys, rows, columns)
steps = st.fixed_dictionaries(
    {
        "source": st.lists(at_source, min_size=3, max_size=8),
        "kept": st.none() | st.none() | st.sets(keys, max_size=2),
        "hands": st.lists(by_hand, max_size=4),
        "approve": st.sampled_from([*["nothing", "the last", "the last"] * 3, "the first", "an unknown one"]),
        "allow_empty": st.booleans(),
    }
)
loads = [
    *({"on_missing": how} for how in ("delete", "mark", "keep")),
    *({"on_missing": how, "adopt_existing": True} for how in ("delete", "mark")),
]
jobs = st.fixed_dictionaries({
    "load": st.sampled_from(loads),
    "table": st.sampled_from(["none", "empty", "filled", "filled"]),
    "people": st.lists(st.tuples(keys, rows), min_size=2, max_size=8),
    "twins": st.booleans(),
    "transform": st.booleans(),
})  # fmt: skip


@pytest.fixture
def world(usersync: Command, new_database: NewDatabase) -> Iterator[World]:
    job = Job(usersync, new_database("source crm"), new_database())
    with ExitStack() as closing:
        source, target = (closing.enter_context(psycopg.connect(d.url, autocommit=True)) for d in (job.source, job.target))
        yield World(job, source, target)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(job=jobs, first=st.dictionaries(keys, rows, min_size=4), history=st.lists(steps, min_size=3, max_size=4))
def test_preview_and_run_agree(world: World, job: dict[str, Any], first: dict[int, Row], history: list[dict[str, Any]]) -> None:
    """
    Whatever happened at the source, to the table by hand, and at the guard: the changes that a dry run shows lead from the
    table before to the table after the run, the counts and the guard's words are the same, and the dry run changes nothing.
    """
    world.begin(**job)
    for key, row in first.items():
        world.at_source("put", key, row, "", "")
    for step in history:
        for happening in step["source"]:
            world.at_source(*happening)
        world.lose(step["kept"])
        for happening in step["hands"]:
            world.by_hand(*happening)
        world.write_source()
        lists = {"the last": world.refused[-1:], "the first": world.refused[:1], "an unknown one": [0]}.get(step["approve"], [])
        options = {"allow_empty": step["allow_empty"], "approve_deletes": next(iter(lists), None)}

        before = world.content()
        changes, counts, error = world.preview(**options)
        done, failed = world.run(**options)

        assert (type(error), str(error)) == (type(failed), str(failed))
        assert counts == done
        assert (counts.inserted, counts.updated, counts.gone) == kinds(changes)
        if error and not isinstance(error, (PartialError, GuardRefused)):  # most records are bad, or that list can't be approved
            assert before == world.content()
            continue
        assert {key: _marked(row) for key, row in world.content().items()} == applied(changes, before)
        assert sorted(str(change.key["id"]) for change in changes if change.kind == "reject") == world.set_aside()


# what is printed


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Job:
    """Six people that were loaded; then one came, one changed and one left."""
    job = Job(usersync, new_database("source crm"), new_database())
    job.write(load={"on_missing": "delete"})
    job.at_source("INSERT INTO people_at_source SELECT i, 'name ' || i FROM generate_series(1, 6) i")
    job.sync()
    job.at_source(
        "DELETE FROM people_at_source WHERE id = 2; INSERT INTO people_at_source VALUES (7, NULL);"
        "UPDATE people_at_source SET name = 'NULL' WHERE id = 3"
    )
    return job


LINES = ["people:", '  ~ id 3: name "name 3" -> "NULL"', "  + id 7: name NULL", '  - id 2: name "name 2"']
SUMMARY = "copy: 6 records: 1 new, 1 changed, 4 the same, 1 gone: dry run, nothing was written"


def test_the_preview_of_the_command(job: Job) -> None:
    """
    `--dry-run --diff` prints a line a row and the summary; with -q the lines alone; with --output json one document with both.
    """
    text, quiet, document = (job.run("--dry-run", "--diff", *more) for more in ((), ("-q",), ("--output", "json")))

    assert [0] * 3 == [result.status for result in (text, quiet, document)]
    assert [*LINES, SUMMARY] == [line.rpartition(" (")[0] if "dry run" in line else line for line in text.stdout.splitlines()]
    assert (LINES, "") == (quiet.stdout.splitlines(), quiet.stderr)
    read = json.loads(document.stdout)
    assert [
        ("update", {"id": "3"}, {"name": "name 3"}, {"name": "NULL"}),
        ("insert", {"id": "7"}, {}, {"id": "7", "name": None}),
        ("delete", {"id": "2"}, {"id": "2", "name": "name 2"}, {}),
    ] == [(change["kind"], change["key"], change["before"], change["after"]) for change in read["changes"]]
    assert (1, "run", True, 0, 1) == (read["version"], read["kind"], read["dry_run"], read["exit_status"], read["steps"][0]["gone"])


def test_what_the_options_want(job: Job) -> None:
    """
    --diff without --dry-run, a limit without --diff and a limited document are refused before anything is read.
    """
    for arguments in (["--diff"], ["--dry-run", "--diff-limit", "3"], ["--dry-run", "--diff", "--diff-limit", "3", "--output", "json"]):
        refused = CliRunner().invoke(cli, ["run", "--job", "copy", *arguments], obj=Stop())
        assert (2, "") == (refused.exit_code, refused.stdout)
        assert "diff" in refused.stderr


def test_on_a_terminal(job: Job) -> None:
    """
    There lines are coloured and end at the limit, and the progress bar is gone before the first of them.
    """
    job.at_source("INSERT INTO people_at_source SELECT i, 'name' FROM generate_series(100, 200) i")
    whole, limited = (on_terminal(job, "--dry-run", "--diff", *more) for more in ((), ("--diff-limit", "2")))

    shown = [line for line in whole.splitlines() if line.startswith("  \x1b[")]
    assert '  \x1b[33m~ id 3\x1b[0m: name \x1b[31m"name 3"\x1b[0m -> \x1b[32m"NULL"\x1b[0m' == shown[0]
    assert TERMINAL_ROWS == len(shown)
    assert "... and 54 more; --diff-limit 0 or --output json shows all" in whole
    assert "... and 102 more" in limited
    assert 2 == sum(line.startswith("  \x1b[") for line in limited.splitlines())
    assert whole.rindex("reading records") < whole.index("people:")


def on_terminal(job: Job, *arguments: str) -> str:
    """What a run shows whose stdout and stderr are a terminal."""
    ours, theirs = pty.openpty()
    usersync = job.usersync
    process = subprocess.Popen(
        [sys.executable, "-m", "usersync_cli", "run", "--job", "copy", *arguments],
        cwd=usersync.folder, env={**usersync.environment, "TERM": "xterm-256color", "COLUMNS": "200"}, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # EIO is a terminal's end of file
        while part := terminal.read(4096):
            shown += part
    assert 0 == process.wait(30), shown
    return shown.decode().replace("\r\n", "\n")


@pytest.fixture
def big(job: Job) -> Job:
    """More changes than a pipe takes."""
    job.at_source("INSERT INTO people_at_source SELECT i, repeat('x', 100) FROM generate_series(100, 5000) i")
    return job


def test_nobody_reads_on(big: Job) -> None:
    """
    `| head -1` ends the preview in silence, with the status that shells give for it.
    """
    with big.started("--dry-run", "--diff", "-q") as process:
        assert process.stdout and process.stderr  # noqa: PT018  for mypy
        first = process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()

        assert ("people:\n", 141, "") == (first, process.wait(30), said)


def test_a_full_disk(big: Job) -> None:
    """
    A preview that can't be written says so, and is not called a bug.
    """
    with open("/dev/full", "w") as full, subprocess.Popen(  # noqa: PTH123
        [sys.executable, "-m", "usersync_cli", "run", "--job", "copy", "--dry-run", "--diff", "-q"],
        cwd=big.usersync.folder, env=big.usersync.environment, stdout=full, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        _, said = process.communicate(timeout=30)

    assert (4, "usersync: the result can't be written: No space left on device\n  make room, or write it elsewhere\n") == (
        process.returncode,
        said,
    )


def test_stopped_in_the_middle(big: Job) -> None:
    """
    SIGTERM while the document is written: it ends as JSON, with the exit status, and holds the changes so far.
    """
    with big.started("--dry-run", "--diff", "--output", "json") as process:
        assert process.stdout
        first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        read = json.loads(first + process.stdout.read())

        assert (143, 143) == (process.wait(30), read["exit_status"])
        assert 0 < len(read["changes"]) < 4900
        assert "stopped" in read["steps"][0]["error"]["message"]


# what is told


def told(job: Job, **options: Any) -> tuple[list[Change], StepResult]:
    """The changes of a dry run, and how its step ended."""
    changes: list[Change] = []
    result = job.sync(dry_run=True, diff=lambda change: not changes.append(change), **options)  # type: ignore[func-returns-value]
    return changes, result.steps[0]


def ids(changes: list[Change], kind: str) -> list[str | None]:
    return [change.key["id"] for change in changes if change.kind == kind]


def test_a_guard_that_trips(job: Job) -> None:
    """
    What comes is shown and what would go is not, with the guard's words and its status; an approved list shows just the rows
    of it that are still missing.
    """
    job.at_source("DELETE FROM people_at_source WHERE id IN (1, 4, 5)")
    changes, refused = told(job)
    assert (["7"], ["3"], []) == (ids(changes, "insert"), ids(changes, "update"), ids(changes, "delete"))
    assert isinstance(refused.error, GuardRefused)
    assert "step people: table people: 4 of 6 rows would go, and 3 may without a person; nobody was removed" == refused.error.message
    made = job.sync()
    assert (6, refused.error.message) == (made.exit_status, str(made.steps[0].error))
    job.at_source("INSERT INTO people_at_source VALUES (1, 'name 1'); DELETE FROM people_at_source WHERE id = 6")

    approving, approved = told(job, approve_deletes=made.run_id)

    assert (["2", "4", "5"], None) == (ids(approving, "delete"), approved.error)
    done = job.sync(approve_deletes=made.run_id)
    assert (3, [1, 3, 6, 7]) == (done.steps[0].counts.gone, [id_ for (id_,) in job.at_target("SELECT id FROM people ORDER BY id")])


def test_values_are_as_postgresql_writes_them(job: Job) -> None:
    """
    Nothing that a role or database is set to changes a value of the preview, nor the keys that are remembered between runs.
    """
    values = {
        "id": r"'\x5cff'::bytea", "spent": "12.5::money", "ratio": "0.1::float8 + 0.2", "span": "'1 day 02:00'::interval",
        "at": "'2020-02-29 12:00+05:30'::timestamptz", "doc": """'{"b": 1.0,  "a": null}'::json""", "many": "ARRAY['a,b', NULL, 'NULL']",
    }  # fmt: skip
    text = {
        "id": r"\x5cff", "spent": "12.50", "ratio": "0.30000000000000004", "span": "1 day 02:00:00",
        "at": "2020-02-29 06:30:00+00", "doc": '{"b": 1.0,  "a": null}', "many": '{"a,b",NULL,"NULL"}',
    }  # fmt: skip
    job.write(extract={"table": "odd"}, load={"table": "odds", "on_missing": "delete"})
    job.at_source(f"CREATE TABLE odd AS SELECT {', '.join(f'{value} AS {name}' for name, value in values.items())}")
    job.at_source("INSERT INTO odd (id) VALUES ('\\x00'), ('\\x01')")
    job.sync()
    job.at_target("DELETE FROM odds WHERE id = '\\x01'")
    job.at_target(odd(job.target))
    job.at_source(r"DELETE FROM odd WHERE id = '\x5cff'")

    changes, _ = told(job)

    assert [("insert", r"\x01"), ("delete", r"\x5cff")] == [(change.kind, change.key["id"]) for change in changes]
    assert text == changes[-1].before


def test_who_gives_a_name_to_somebody_else(job: Job) -> None:
    """
    Names that are passed on are written in two passes; who gives one up and takes none is changed like anybody, time stamp too.
    """
    job.at_target("ALTER TABLE people ADD UNIQUE (name); UPDATE people SET updated_at = '2020-01-01'")
    job.at_source(  # whatever the order of the rows, one of them takes a name before it is given up
        "UPDATE people_at_source SET name = CASE id WHEN 1 THEN 'name 3' WHEN 6 THEN 'name 4' END WHERE id IN (1, 3, 4, 6)"
    )
    changes, step = told(job)

    done = job.sync()

    assert (0, step.counts) == (done.exit_status, done.steps[0].counts)
    assert ["1", "3", "4", "6"] == ids(changes, "update")
    assert [(1, "name 3"), (3, None), (4, None), (6, "name 4")] == job.at_target(
        "SELECT id, name FROM people WHERE updated_at > '2020-01-01' AND id < 7 ORDER BY id"
    )
