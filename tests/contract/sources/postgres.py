"""A PostgreSQL with two tables of 1,500 rows, about 600 kB each."""

from __future__ import annotations

import psycopg
import pytest

from tests.conftest import NewDatabase
from tests.contract.live import PERSON, SECRET, LiveServer, LiveSource
from usersync_cli.model import Stream
from usersync_cli.ports import HadOtherNames, RunsSql

ABILITIES = [HadOtherNames, RunsSql]
COUNT = 1500
OURS = "application_name = 'usersync/contract' AND datname = current_database()"


def live(request: pytest.FixtureRequest) -> LiveSource:
    new_database: NewDatabase = request.getfixturevalue("new_database")
    database = new_database("source crm")

    def ask(query: str) -> int:
        with psycopg.connect(database.url, autocommit=True) as connection:
            (found,) = connection.execute(query.encode()).fetchone() or (0,)
            return int(found)

    with psycopg.connect(database.url, autocommit=True) as connection:
        for table in ("people", "members"):
            connection.execute(
                f"CREATE TABLE {table} AS SELECT '{table}-' || i AS id, '{PERSON} ' || i || repeat('.', 400) AS name"
                f" FROM generate_series(1, {COUNT}) AS i"
            )
    return LiveSource(
        settings={"url": database.url.replace("postgres@", f"postgres:{SECRET}@")},
        streams=[Stream("people", table="people"), Stream("members", query="SELECT id, name FROM members")],
        keys={table: [f"{table}-{i}" for i in range(1, COUNT + 1)] for table in ("people", "members")},
        missing=Stream("nobody", table="nobody"),
        broken=Stream("broken", query=f"SELECT id, name, CASE id WHEN 'people-{COUNT}' THEN name ELSE '1' END::int AS i FROM people"),
        slow=Stream("slow", query="SELECT id, repeat(name, 300) AS name FROM people WHERE pg_sleep(0.04) IS NOT NULL"),
        silent=Stream("silent", query="SELECT id, name FROM people WHERE pg_sleep(60) IS NOT NULL"),
        server=LiveServer(at=lambda port: {"url": f"postgresql://postgres:{SECRET}@127.0.0.1:{port}/crm?sslmode=disable"}),
        connections=lambda: ask(f"SELECT count(*) FROM pg_stat_activity WHERE {OURS}"),
        cut=lambda: ask(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {OURS}") and None,
    )
