"""A PostgreSQL with a table of people: `people (id, name)`."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pytest
from psycopg import sql

from tests.contract.live import LiveTarget
from usersync_cli.clients.postgres.connections import Connection, connect
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.config.jobs import Load
from usersync_cli.load import stage
from usersync_cli.load.table import SETTINGS, TableLoad
from usersync_cli.model import Column, Database, Desired

COLUMNS = [Column("id", "integer"), Column("name", "text")]
# Of this transaction; its own temp tables and the catalog aside.
WRITTEN = """
    SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_xact_all_tables
     WHERE schemaname NOT LIKE 'pg\\_%' AND schemaname <> 'information_schema'
"""
# Every table and index with what is in it: its file changes when it is rewritten, its rows' xmin with any write.
FINGERPRINT = "SELECT oid::text, relfilenode::text FROM pg_class WHERE oid >= 16384 AND relpersistence <> 't' ORDER BY oid"


def live(request: pytest.FixtureRequest) -> LiveTarget:
    database: Database = request.getfixturevalue("new_database")()
    transactions: list[Connection] = []
    request.addfinalizer(lambda: [tx.close() for tx in transactions])

    def execute(statement: str, *values: object) -> list[tuple[object, ...]]:
        with psycopg.connect(database.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def transaction() -> Connection:
        tx = connect(database, job="contract", read_write=True)
        transactions.append(tx)
        begin(tx, long=True, **SETTINGS)
        return tx

    def desired(tx: Connection, rows: Sequence[tuple[int, str]]) -> Desired:
        stage.create(tx, "records", COLUMNS)
        with tx.cursor() as cursor:
            cursor.executemany("INSERT INTO pg_temp.records VALUES (%s, %s)", rows)
        return Desired(sql.SQL("\nSELECT * FROM records\n"), len(rows))

    def fill(rows: Sequence[tuple[int, str]]) -> None:
        execute("TRUNCATE people")
        for row in rows:
            execute("INSERT INTO people VALUES (%s, %s)", *row)

    execute("CREATE TABLE people (id int PRIMARY KEY, name text)")
    return LiveTarget(
        in_checkpoint=True,
        target=lambda: TableLoad(Load(table="people", key=["id"])),
        misfit=lambda: TableLoad(Load(table="nobody", key=["id"])),
        begin=transaction,
        desired=desired,
        rows=lambda: execute("SELECT id, name FROM people ORDER BY id"),  # type: ignore[arg-type,return-value]
        fill=fill,
        written=lambda tx: int(tx.execute(WRITTEN).fetchone()[0]),  # type: ignore[index]
        fingerprint=lambda: (execute(FINGERPRINT), execute("SELECT id, xmin::text, xmax::text, ctid::text FROM people ORDER BY id")),
    )
