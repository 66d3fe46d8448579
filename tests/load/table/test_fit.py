"""How often a table is looked at: once, and again only where it was changed in between."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection, connect, rollback
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.config.jobs import Load
from usersync_cli.errors import Drift
from usersync_cli.load.table import SETTINGS, TableLoad
from usersync_cli.model import Database, Desired
from usersync_cli.signals import Stop

DESIRED = Desired(sql.SQL("SELECT 1 AS id, 'a'::text AS name"), 1)


def execute(database: Database, statements: str) -> None:
    """On a connection of its own: somebody else's."""
    with psycopg.connect(database.url, autocommit=True) as other:
        other.execute(statements.encode())


@pytest.fixture
def tx(database: Database) -> Iterator[Connection]:
    execute(database, "CREATE TABLE people (id int PRIMARY KEY, name text, other text)")
    with connect(database, job="test", stop=Stop(), read_write=True) as tx:
        begin(tx, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
        yield tx
        rollback(tx)


def load(*, create: bool = False) -> TableLoad:
    return TableLoad(Load(table="people", key=["id"], create=create))


def test_a_table_is_fitted_once(tx: Connection) -> None:
    """
    As long as the table is described as before, what was found first is used: it is the same object.
    """
    table = load()
    first, _ = table.fit(DESIRED, tx)
    table.look_again(DESIRED, tx)

    assert table.fitted(DESIRED, tx)[0] is first
    assert table.plan(DESIRED, tx).merge.fields is first.fields


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("ALTER TABLE people DROP COLUMN name", "column name is missing"),
        ("ALTER TABLE people DROP CONSTRAINT people_pkey", "there is no unique index on exactly the key"),
        ("ALTER TABLE people ADD born date NOT NULL", "column born is NOT NULL without a default"),
        ("ALTER TABLE people ALTER name TYPE point USING NULL", "column name is of type point"),
        ("DROP TABLE people", "does not exist"),
        ("DROP TABLE people; CREATE VIEW people AS SELECT 1 AS id, ''::text AS name", "it is not a table but a view"),
    ],
)
def test_what_others_change_meanwhile_is_found(tx: Connection, database: Database, change: str, found: str) -> None:
    """
    While a source is read nobody holds a lock, so the table may be another one before it is loaded: that is refused as at the beginning.
    """
    table = load()
    table.fit(DESIRED, tx)
    execute(database, change)

    with pytest.raises(Drift, match=found):
        table.look_again(DESIRED, tx)


@pytest.mark.parametrize(
    "change",
    [
        """CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
           CREATE TRIGGER nothing BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION nothing()""",
        "CREATE RULE nothing AS ON INSERT TO people DO INSTEAD NOTHING",
    ],
    ids=["trigger", "rule"],
)
def test_a_trigger_that_comes_meanwhile_is_watched(tx: Connection, database: Database, change: str) -> None:
    """
    A trigger or rule that was made while a source was read is known when the table is written.
    """
    table = load()
    assert not table.fit(DESIRED, tx)[0].watched
    execute(database, change)
    table.look_again(DESIRED, tx)

    assert table.fitted(DESIRED, tx)[0].watched


def test_another_transform_is_fitted_anew(tx: Connection) -> None:
    """
    What was found belongs to one transform.
    """
    table = load()
    first, _ = table.fit(DESIRED, tx)
    other = Desired(sql.SQL("SELECT 1 AS id, 'a'::text AS other"), 1)

    assert ["id", "other"] == [field.name for field in table.fitted(other, tx)[0].fields]
    assert ["id", "name"] == [field.name for field in first.fields]


def test_a_table_that_a_savepoint_took_back_is_made_again(tx: Connection) -> None:
    """
    A table made in an attempt that failed is gone again; the next attempt does not believe that it is there.
    """
    tx.execute("DROP TABLE public.people")
    table = load(create=True)
    for _ in range(2):
        with tx.transaction(force_rollback=True):
            assert table.plan(DESIRED, tx).outcome.inserted == 1
        assert table.fitted(DESIRED, tx)[1] is None
