"""Transactions: their settings end with them, and they are whole or not there."""

from __future__ import annotations

import psycopg
import pytest

from tests import servers
from usersync_cli.clients.postgres import connections, transactions
from usersync_cli.model import Database


def test_settings_end_with_their_transaction(connection: psycopg.Connection, pgbouncer: servers.Server) -> None:
    """
    Behind a pooler the next client finds the session as it was: no settings, no temp table, no prepared statement.
    """
    looked_at = "SELECT name, setting, source FROM pg_settings WHERE source = 'session' AND name <> 'client_encoding'"
    with connections.connect(Database(pgbouncer.url(connection.info.dbname), "target"), job="test", read_write=True) as tx:
        before = psycopg.Cursor(tx).execute(looked_at).fetchall()
        for _ in range(7):  # psycopg would prepare from the fifth time on
            with transactions.transaction(tx, long=True):
                tx.execute("CREATE TEMP TABLE stage (a int) ON COMMIT DROP")
                tx.execute("INSERT INTO stage VALUES (%s)", (1,))
                assert ("0",) == tx.execute("SHOW statement_timeout").fetchone()

        assert before == psycopg.Cursor(tx).execute(looked_at).fetchall()
        assert [(0,)] == tx.execute("SELECT count(*) FROM pg_prepared_statements").fetchall()
        assert [(None,)] == tx.execute("SELECT to_regclass('stage')").fetchall()


def test_a_snapshot_does_not_see_what_comes_later(database: Database, connection: psycopg.Connection) -> None:
    """
    `snapshot` reads one state of the source, and cannot write; on a standby too.
    """
    connection.execute("CREATE TABLE public.t AS SELECT 1 AS a")
    with connections.connect(database, job="test") as source, transactions.transaction(source, snapshot=True):
        source.execute("SELECT FROM public.t")
        connection.execute("INSERT INTO public.t VALUES (2)")
        assert [(1,)] == source.execute("SELECT a FROM public.t").fetchall()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            source.execute("INSERT INTO public.t VALUES (3)")


def test_a_transaction_is_rolled_back_on_any_error(database: Database, connection: psycopg.Connection) -> None:
    """
    A bug in the body leaves no row, and a connection that can be used again.
    """
    connection.execute("CREATE TABLE t (a int)")
    with connections.connect(database, job="test") as tx:
        with pytest.raises(ZeroDivisionError), transactions.transaction(tx):
            tx.execute("INSERT INTO public.t VALUES (1 / 1)")
            raise ZeroDivisionError
        assert [(0,)] == tx.execute("SELECT count(*) FROM public.t").fetchall()


def test_what_somebody_left_in_the_session_does_not_count(database: Database) -> None:
    """Behind a pooler another client's SET may be there: ours are PostgreSQL's own names, or the role's; dates and zone of our own."""
    with connections.connect(database, job="test") as connection:
        connection.execute("CREATE SCHEMA mine")
        connection.execute("ALTER ROLE CURRENT_USER IN DATABASE " + connection.info.dbname + " SET search_path = mine, nowhere, public")
    with connections.connect(database, job="test") as connection:
        connection.execute("SET search_path = theirs; SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'German'; SET row_security = off")
        with transactions.transaction(connection):
            inside = [connection.execute(f"SHOW {name}".encode()).fetchone() for name in ("search_path", "TimeZone", "DateStyle")]
            with transactions.as_user(connection):
                inside.append(connection.execute("SHOW search_path").fetchone())
        alone = connection.execute("SHOW search_path").fetchone()
        after = psycopg.Cursor(connection).execute("SHOW search_path").fetchone()

    assert [("pg_catalog, pg_temp",), ("UTC",), ("ISO, MDY",), ("mine, public",)] == inside
    assert [("pg_catalog, pg_temp",), ("theirs",)] == [alone, after]
