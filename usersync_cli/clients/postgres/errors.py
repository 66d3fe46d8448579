"""A server's errors become ours, here at the edge, once: what we were doing, on what, and what came back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import psycopg

from usersync_cli.clients.postgres import sqlstates
from usersync_cli.clients.postgres.connections import connect
from usersync_cli.clients.postgres.settings import SMALL
from usersync_cli.errors import UsersyncError
from usersync_cli.model import Database


@contextmanager
def translated(database: Database, doing: str) -> Iterator[None]:
    """Errors of Postgres become ours, as `translate` has it."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, database, doing) from error


def translate(error: psycopg.Error, database: Database, doing: str) -> UsersyncError:
    """The error of ours that says what the operator does next. Values of rows are never part of it."""
    lockers = _lockers(database) if sqlstates.underlying(error).sqlstate == "55P03" else ""
    return sqlstates.translate(error, database, doing, lockers=lockers)


def _lockers(database: Database) -> str:
    """The sessions that have held locks on tables of this database for long, one of which may be the one that was waited for;
    never what they execute.

    Asked when the wait is over. Whoever locks a row has a lock on its table too.
    """
    with suppress(psycopg.Error, UsersyncError), closing(connect(database, job="looking for locks")) as connection:
        found = [f"{who}, process {pid}, {state}" for pid, who, state in connection.execute(_LOCKERS).fetchall()]
        return f"locks are held by {'; '.join(found)}: let it end, or stop it with pg_terminate_backend(PID); " if found else ""
    return ""


# A role that may not see another's activity sees its process and application, no more.
_LOCKERS = f"""
    SELECT a.pid, COALESCE(NULLIF(a.application_name, ''), 'a session of ' || COALESCE(a.usename, 'somebody')),
           COALESCE(a.state || ' since ' || date_trunc('second', a.xact_start)::text, 'since some time')
      FROM pg_catalog.pg_stat_activity a
     WHERE a.pid <> pg_backend_pid()
       AND (a.xact_start IS NULL OR a.xact_start < clock_timestamp() - interval '{SMALL["lock_timeout"]}')
       AND EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p')
                    WHERE l.pid = a.pid AND l.granted AND l.mode <> 'AccessShareLock' AND c.relnamespace <> 'pg_catalog'::regnamespace
                      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()))
     ORDER BY a.xact_start NULLS LAST, a.pid LIMIT 3
"""  # noqa: S608  our own text
