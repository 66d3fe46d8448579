"""Transactions: what is set when they begin, how they end, and along which path names are looked for.

What a person wrote runs with that person's search path (`as_user`), and what of ours is in the same statement says its schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import psycopg
from psycopg import pq

from usersync_cli.clients.postgres.connections import Connection, rollback
from usersync_cli.clients.postgres.settings import SAFE, beginning, idle
from usersync_cli.clients.postgres.sql import identifier
from usersync_cli.model import OWN_SCHEMA


@contextmanager
def transaction(connection: Connection, *, long: bool = False, snapshot: bool = False, **settings: str) -> Iterator[None]:
    """BEGIN, our settings as SET LOCAL, COMMIT; ROLLBACK on any error.

    `long` takes the statement time-out away (COPY, merge); `snapshot` is REPEATABLE READ READ ONLY. COMMIT is not
    interrupted by signals: a checkpoint is whole or not there.
    """
    begin(connection, long=long, snapshot=snapshot, **settings)
    try:
        yield
    except BaseException:
        rollback(connection)
        raise
    with connection.stop.held() if connection.stop else nullcontext():
        connection.execute("COMMIT")


def begin(connection: Connection, *, long: bool = False, snapshot: bool = False, **settings: str) -> None:
    """BEGIN and the settings of this transaction, which end with it. Behind a pooler somebody else's SET may still be in the session."""
    connection.path = ""
    psycopg.Cursor(connection).execute(b"; ".join(beginning(connection, long=long, snapshot=snapshot, **settings)))


def schemas(connection: Connection) -> Sequence[str]:
    """Where a name without a schema is looked for, in this order: the role's own search path, without our schema and temp tables."""
    if connection.schemas is None:
        with transaction(connection) if idle(connection) else nullcontext():
            cursor = connection.execute(_DEFAULT_PATH + f"; SET LOCAL search_path TO {connection.path or SAFE}".encode())
            cursor.nextset()
            ((found,),) = cursor.fetchall()
        connection.schemas = [name for name in found if name != OWN_SCHEMA and not name.startswith(("pg_temp_", "pg_toast_temp_"))]
    return connection.schemas


_DEFAULT_PATH = b"SET LOCAL search_path TO DEFAULT; SELECT pg_catalog.current_schemas(false)::pg_catalog.text[]"


@contextmanager
def as_user(tx: Connection) -> Iterator[None]:
    """Names are looked for where a person expects them, in a transaction that has begun: for a person's SQL, and for what
    writes to their tables, whose triggers are theirs too. Whatever of ours is in such a statement has to say its schema."""
    with _searching(tx, ", ".join(identifier(name).as_string(tx) for name in schemas(tx)) or "''"):
        yield


@contextmanager
def as_ours(tx: Connection) -> Iterator[None]:
    """Back to PostgreSQL's own names, inside `as_user`."""
    with _searching(tx, ""):
        yield


@contextmanager
def _searching(tx: Connection, path: str) -> Iterator[None]:
    """A savepoint that is rolled back takes the path back with it, so only what goes on by itself has to be set back."""
    before = tx.path
    if path != before:
        _search(tx, path)
    tx.path = path
    try:
        yield
    finally:
        tx.path = before
        if path != before and not tx.closed and tx.info.transaction_status == pq.TransactionStatus.INTRANS:
            _search(tx, before)


def _search(tx: Connection, path: str) -> None:
    tx.execute(f"SET LOCAL search_path TO {path or SAFE}".encode())
