"""The finder of bad records, on a table that refuses some for reasons that can be looked at, and others that only writing finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection, connect, rollback
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.config.jobs import Load
from usersync_cli.errors import Drift
from usersync_cli.load import stage
from usersync_cli.load.binding import Own, bind
from usersync_cli.load.bisect import halving
from usersync_cli.load.bisect.finder import Finder
from usersync_cli.load.rejects import FEW
from usersync_cli.load.table import SETTINGS, TableLoad, TablePlan
from usersync_cli.model import Column, Database, Desired
from usersync_cli.signals import Stop

# A constraint that can be looked at, and one that can't.
PEOPLE = "CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, room int4range, EXCLUDE USING gist (room WITH &&))"
TEXT = "SELECT id, name, room::int4range AS room FROM records"


@pytest.fixture
def tx(database: Database) -> Iterator[Connection]:
    with psycopg.connect(database.url, autocommit=True) as other:
        other.execute(PEOPLE)
    with connect(database, job="test", stop=Stop(), read_write=True) as tx:
        begin(tx, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
        yield tx
        rollback(tx)


class Step:
    """A step that loads these rows, and what its finder has found so far."""

    def __init__(self, tx: Connection, rows: Sequence[tuple[int, str | None, str | None]]) -> None:
        self.tx, self.read = tx, len(rows)
        self.stages = [stage.create(tx, "records", [Column("id", "integer"), Column("name", "text"), Column("room", "text")])]
        tx.cursor().executemany("INSERT INTO pg_temp.records VALUES (%s, %s, %s)", rows)
        self.desired = Desired(bind(tx, Own(TEXT), self.stages), len(rows))
        self.target = TableLoad(Load(table="people", key=["id"]))
        self.finder = Finder(tx, "job", "step")

    def plan(self) -> TablePlan:
        self.tx.execute("DROP TABLE IF EXISTS pg_temp.usersync_changes, pg_temp.usersync_duplicates")
        return self.target.plan(self.desired, self.tx, without_rejects=self.finder.begun)

    def cast(self) -> bool:
        merge, _ = self.target.fitted(self.desired, self.tx)
        return self.finder.transform(merge, TEXT, self.stages)

    def refused(self) -> bool:
        plan = self.plan()
        return self.finder.refused(plan.merge, plan.table, self.read, lambda: None)

    @property
    def found(self) -> list[tuple[Any, ...]]:
        return self.tx.execute("SELECT id, usersync_reason, usersync_detail FROM pg_temp.usersync_rejects ORDER BY id").fetchall()


def test_the_order_of_ways(tx: Connection) -> None:
    """
    Casting comes first, then the constraints that can be looked at, then writing in halves; each names its records and no others.
    """
    step = Step(
        tx,
        [(1, "a", "[1,5)"), (2, None, None), (3, "c", "[4,9)"), (4, "d", "no range"), (5, "e", "[20,30)"), (6, "f", None), (7, "g", None)],
    )
    cast = (4, "invalid_text_representation", "column room")
    looked = (2, "not_null_violation", "column name, table people")
    written = (3, "exclusion_violation", "constraint people_room_excl, table people")

    assert step.cast()
    assert [cast] == step.found
    assert step.refused()
    assert [looked, cast] == step.found
    assert step.refused()
    assert [looked, written, cast] == step.found
    assert not step.refused()
    assert {1, 5, 6, 7} == {id_ for (id_,) in tx.execute("SELECT id FROM pg_temp.usersync_changes").fetchall()}


def test_nothing_of_the_search_is_left(tx: Connection) -> None:
    """
    What was written to find out is taken back.
    """
    Step(tx, [(1, "a", "[1,5)"), (2, "b", "[1,5)")]).refused()

    assert [] == tx.execute("SELECT FROM public.people").fetchall()


def test_too_many_are_not_the_records(tx: Connection) -> None:
    """
    When most records are bad, the step stops, and none is set aside.
    """
    step = Step(tx, [(i, None, None) for i in range(2 * FEW)])

    with pytest.raises(Drift, match="can't be loaded"):
        step.refused()


@pytest.mark.parametrize("bad", [[], [1], [64], [1, 2, 3], [10, 11, 40], range(1, 65, 7), range(1, 65)], ids=str)
@pytest.mark.parametrize("says", [True, False], ids=["the last one read", "no guess"])
def test_halving_finds_exactly_the_bad_ones(tx: Connection, bad: Sequence[int], *, says: bool) -> None:
    """
    Whether the last record that was read is the bad one or says nothing, exactly the bad ones are found, in their order.
    """
    halving.number(tx, sql.SQL("SELECT i AS value FROM generate_series(1, 64) AS i"))
    at = halving.AT if says else sql.SQL("1")
    attempt = sql.SQL(
        "PERFORM pg_catalog.count(pg_catalog.int4(1) OPERATOR(pg_catalog./) CASE WHEN p.value OPERATOR(pg_catalog.=) ANY ({bad}::int[])"
        " THEN 0 ELSE 1 END) FROM (SELECT o.value, {at} AS at FROM {ordered} AS o WHERE {between} OFFSET 0) AS p;"
    ).format(bad=sql.Literal(list(bad)), at=at, ordered=halving.ORDERED, between=halving.BETWEEN)

    found = halving.halve(tx, attempt, 100, "")

    assert list(bad) == [one.ord for one in found]
    assert {"22012"} >= {one.sqlstate for one in found}


def test_halving_ends_when_there_are_too_many(tx: Connection) -> None:
    """
    One more than are allowed says enough.
    """
    halving.number(tx, sql.SQL("SELECT 0 AS value FROM generate_series(1, 64) AS i"))
    attempt = sql.SQL("PERFORM 1 OPERATOR(pg_catalog./) o.value FROM {} AS o WHERE {};").format(halving.ORDERED, halving.BETWEEN)

    assert 4 == len(halving.halve(tx, attempt, 3, ""))
