"""The transaction in which the map is written: one writer at a time, so that no two of them can wait for each other."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from usersync_cli.clients.postgres import connections
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar
from usersync_cli.clients.postgres.transactions import transaction
from usersync_cli.model import Database
from usersync_cli.signals import Stop
from usersync_cli.state.migrations import apart, permitted

_LOCK = b"SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('usersync identity', 0))"


def lock(tx: Connection) -> None:
    """Wait until nobody else writes the map; until this transaction ends, others wait. Take it before anything of the map is read
    that decides what is written, and after everything else that the transaction writes."""
    tx.execute(_LOCK)


@contextmanager
def writing(database: Database, doing: str, stop: Stop | None = None) -> Iterator[Connection]:
    """A transaction of the target that writes the map, for a command; the tables are made or upgraded first. COMMIT at the end.

    `doing` is what messages say: "merging customers".
    """
    with connections.connect(database, job="identity", stop=stop, read_write=True) as connection, permitted(connection, database, doing):
        apart.ready(connection, database, "identity")
        with transaction(connection, row_security="on"):
            lock(connection)
            yield connection


@contextmanager
def visible(tx: Connection) -> Iterator[None]:
    """The map is read in here, in a transaction that refuses tables with policies, by a role that may write it and does not own it."""
    before = scalar(tx, "SELECT current_setting('row_security')")
    tx.execute("SET LOCAL row_security TO on")
    yield
    tx.execute("SELECT set_config('row_security', %s, true)", (before,))


def person() -> str:
    """Who is at work, as the system calls them: what is stored as the one who decided, unless they say otherwise."""
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "unknown"
