"""What a dry run shows is what the next run does: for generated histories, the changes of the preview, applied to the
table as it was, give the table as the run leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from tests.conftest import Command, NewDatabase
from tests.simple_job import Job, execute
from usersync_cli import log
from usersync_cli.errors import Drift, GuardRefused, UsersyncError
from usersync_cli.model import Change, Counts

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
_ODD = {"bytea_output": "escape", "extra_float_digits": "-15", "IntervalStyle": "sql_standard", "TimeZone": "Asia/Kolkata"}

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
        execute(job.target.url, "".join(f"ALTER DATABASE {target.info.dbname} SET {name} = '{value}';" for name, value in _ODD.items()))
        self.members: dict[int, Member] = {}
        self.refused: list[int] = []

    def begin(self, *, load: dict[str, Any], table: str, people: list[tuple[int, Row]], twins: bool, transform: bool) -> None:
        """A job that never ran, and a table as somebody left it."""
        self.members, self.refused = {}, []
        self.target.execute(
            "DROP TABLE IF EXISTS people; TRUNCATE usersync.cursors, usersync.seen_streams, usersync.approvals, usersync.runs CASCADE"
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
        elif doing == "remove others":
            self.members = {key: old} if old else {}

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
at_source = st.tuples(
    st.sampled_from(["change"] * 5 + ["put", "put", "remove", "remove", "twin", "remove others"]), keys, rows, columns, zeros
)
by_hand = st.tuples(st.sampled_from(["change", "change", "add", "remove", "mark"]), keys, rows, columns)
steps = st.fixed_dictionaries(
    {
        "source": st.lists(at_source, min_size=3, max_size=8),
        "hands": st.lists(by_hand, max_size=4),
        "approve": st.sampled_from([*["nothing", "the last"] * 4, "the first", "an unknown one"]),
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
    log.configure(quiet=True)
    job = Job(usersync, new_database("source crm"), new_database())
    with ExitStack() as closing:
        source, target = (closing.enter_context(psycopg.connect(d.url, autocommit=True)) for d in (job.source, job.target))
        yield World(job, source, target)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
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
        for happening in step["hands"]:
            world.by_hand(*happening)
        world.write_source()
        lists = {"the last": world.refused[-1:], "the first": world.refused[:1], "an unknown one": [0]}.get(step["approve"], [])
        options = {"allow_empty": step["allow_empty"], "approve_deletes": next(iter(lists), None)}

        before = world.content()
        changes, counts, error = world.preview(**options)
        done, failed = world.run(**options)

        if isinstance(failed, Drift) and not isinstance(error, Drift):  # a name that somebody in the table keeps: found by writing
            assert "unique violation" in failed.message
            assert before == world.content()
            continue
        assert (type(error), str(error)) == (type(failed), str(failed))
        assert counts == done
        assert (counts.inserted, counts.updated, counts.gone) == kinds(changes)
        assert {key: _marked(row) for key, row in world.content().items()} == applied(changes, before)
