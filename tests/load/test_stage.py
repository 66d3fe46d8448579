"""Stages: temp tables, and for a big extract a table that parallel workers can see and nobody else ever does."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection, connect, rollback
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.config.jobs import Load
from usersync_cli.errors import ConfigError, Drift
from usersync_cli.load import stage
from usersync_cli.load.binding import Own, bind
from usersync_cli.load.table import SETTINGS, TableLoad
from usersync_cli.model import Column, Counts, Database, Desired
from usersync_cli.signals import Stop

COLUMNS = [Column("id", "integer"), Column("name", "text")]


@pytest.fixture
def tx(database: Database) -> Iterator[Connection]:
    with connect(database, job="test", stop=Stop(), read_write=True) as tx:
        tx.execute("CREATE SCHEMA usersync")
        begin(tx, long=True, **SETTINGS)
        yield tx
        rollback(tx)


def load(tx: Connection, transform: str, staged: dict[str, list[tuple[int, str]]], rows: int = stage.BIG) -> Counts:
    stages = []
    for name, content in staged.items():
        stages.append(stage.create(tx, name, COLUMNS, rows=rows))
        tx.cursor().executemany(sql.SQL("INSERT INTO {} VALUES (%s, %s)").format(stages[-1].table), content)
    target = TableLoad(Load(table="people", key=["id"], create=True))
    plan = target.plan(Desired(bind(tx, Own(transform), stages), 2), tx)
    counts = target.apply(plan, tx)
    stage.drop(tx, stages)
    return counts


@pytest.mark.parametrize("rows", [0, stage.BIG])
@pytest.mark.parametrize("transform", [
    "SELECT a.id, b.name FROM a JOIN b USING (id);",
    "WITH b AS (SELECT b.* FROM b JOIN a USING (id)) SELECT id, max(name) AS name FROM b GROUP BY id -- the last line",
    "SELECT id, name FROM a WHERE false UNION ALL SELECT id, name FROM b ORDER BY id",
])  # fmt: skip
def test_transforms_mean_the_same_over_either_kind(tx: Connection, database: Database, transform: str, rows: int) -> None:
    """Joins, WITH queries that hide a stage, comments and semicolons: the same rows whether stages are temp tables or not."""
    counts = load(tx, transform, {"a": [(1, "a"), (2, "a")], "b": [(1, "b"), (2, "c")]}, rows)
    tx.execute("COMMIT")

    assert 2 == counts.inserted
    with psycopg.connect(database.url) as reader:
        assert [(1, "b"), (2, "c")] == reader.execute("SELECT id, name FROM people ORDER BY id").fetchall()
        assert [] == reader.execute("SELECT relname FROM pg_class WHERE relname LIKE 'stage%'").fetchall()


def test_a_big_stage_can_be_read_by_parallel_workers(tx: Connection) -> None:
    """The point of it: a scan of a big stage is planned in parallel, which a temp table's never is."""
    big, small = stage.create(tx, "big", COLUMNS, rows=stage.BIG), stage.create(tx, "small", COLUMNS)
    tx.execute("SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0; SET LOCAL min_parallel_table_scan_size = 0")
    plans = {}
    for one in (big, small):
        tx.execute(sql.SQL("INSERT INTO {} SELECT i, 'n' FROM generate_series(1, 1000) i").format(one.table))
        plans[one.name] = str(tx.execute(sql.SQL("EXPLAIN SELECT count(*) FROM {}").format(one.table)).fetchall())

    assert ("Parallel Seq Scan" in plans["big"], "Parallel Seq Scan" in plans["small"]) == (True, False)


def test_without_the_right_to_create_it_is_a_temp_table(tx: Connection) -> None:
    """A role that may only use usersync's tables stages all the same."""
    tx.execute("CREATE ROLE stage_weak; GRANT USAGE ON SCHEMA usersync TO stage_weak; SET LOCAL ROLE stage_weak")

    assert stage.create(tx, "a", COLUMNS, rows=stage.BIG).temporary


@pytest.mark.parametrize("rows", [0, stage.BIG])
def test_a_mistake_in_the_transform_is_told_with_its_place(tx: Connection, rows: int) -> None:
    """Line and column are those of the user's own text, whatever stands before it."""
    with pytest.raises(Drift, match=r'transform \(line 2, column 10\): column "nope" does not exist'):
        load(tx, "SELECT id,\n         nope AS name\nFROM a", {"a": []}, rows)


def test_names_of_postgresql_are_refused(tx: Connection) -> None:
    """A stage called pg_class would hide PostgreSQL's own from everything that runs in the transaction."""
    with pytest.raises(ConfigError, match="that is the name of a table of PostgreSQL itself"):
        stage.create(tx, "pg_class", COLUMNS)


@pytest.mark.parametrize("type_", ["text; DROP TABLE people", "text'", "$$", ""])
def test_types_that_do_not_look_like_types_are_refused(tx: Connection, type_: str) -> None:
    """A type's name comes from another server and becomes part of a statement."""
    with pytest.raises(Drift, match="which is not the name of a type"):
        stage.create(tx, "a", [Column("id", type_)])
