"""Errors of a real server become ours, and say what to do next."""

from __future__ import annotations

import psycopg
import pytest

from usersync_cli.clients.postgres import connections, errors, transactions
from usersync_cli.errors import ConfigError, Drift, Unavailable, UsersyncError
from usersync_cli.model import Database


def test_a_savepoint_that_could_not_be_set(database: Database, connection: psycopg.Connection) -> None:
    """
    psycopg loses count when SAVEPOINT fails, and complains about that: what is told is why it failed.
    """
    with (
        connections.connect(database, job="test") as tx,
        pytest.raises(UsersyncError) as caught,
        errors.translated(database, "loading people"),
        transactions.transaction(tx),
        tx.transaction(),
    ):
        connection.execute("SELECT pg_terminate_backend(%s)", tx.execute("SELECT pg_backend_pid()").fetchone())
        with tx.transaction():
            pass

    assert type(caught.value) is Unavailable
    assert "terminating connection" in caught.value.message


@pytest.mark.parametrize(
    ("statement", "kind", "says"),
    [
        ("SELECT 'Test User One'::int", Drift, "invalid text representation [22P02]"),
        ("INSERT INTO public.t VALUES (1, 'Test User One')", Drift, "unique violation (constraint t_pkey, table t) [23505]"),
        ("INSERT INTO public.t VALUES (NULL, 'Test User One')", Drift, "not null violation (column id, table t) [23502]"),
        ("DO $$ BEGIN RAISE 'Test User One'; END $$", Drift, "raise exception [P0001]"),
        ("SELECT * FROM missing", Drift, 'relation "missing" does not exist [42P01]'),
        ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(1), 'Test User One'", Unavailable, "statement timeout [57014]"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", Unavailable, "terminating connection"),
        ("SET LOCAL transaction_read_only = on; INSERT INTO public.t VALUES (2, 'x')", ConfigError, "read-only transaction [25006]"),
        ("SET LOCAL ROLE pg_monitor; SELECT * FROM public.t", ConfigError, "permission denied for table t [42501]"),
    ],
)
def test_errors_of_the_server_become_ours(
    database: Database, connection: psycopg.Connection, statement: str, kind: type[UsersyncError], says: str
) -> None:
    """
    By SQLSTATE: what passes by itself, what the config's author fixes, what is not as the step expects; nobody's data is quoted.
    """
    connection.execute("CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO public.t VALUES (1, 'Test User One')")
    with (
        connections.connect(database, job="test") as tx,
        pytest.raises(UsersyncError) as caught,
        errors.translated(database, "merging"),
    ):
        transactions.begin(tx)
        tx.execute(statement.encode())

    assert type(caught.value) is kind
    assert caught.value.message.startswith("target: merging: ")
    assert says in caught.value.message
    assert caught.value.hint
    assert "Test User" not in caught.value.message + caught.value.hint
