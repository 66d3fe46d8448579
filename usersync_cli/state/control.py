"""The control connection of a run: it acquires, renews and releases the job's lease, and does nothing that takes long."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import psycopg

from usersync_cli.clients.postgres import connections
from usersync_cli.errors import Unavailable, UsersyncError
from usersync_cli.model import Database
from usersync_cli.signals import Stop
from usersync_cli.state import ledger

SILENCE_SECONDS = 8.0  # a short statement that takes longer than this will not be answered


class Control:
    """The control connection: one caller at a time, each statement with a deadline, a new connection when the old one broke.

    Whatever goes through `execute` may be sent twice, so it has to do the same twice as once.
    """

    def __init__(self, database: Database, job: str) -> None:
        self.database = database
        self.lock = threading.RLock()
        self._job = job
        self._connection: connections.Connection | None = None

    def connection(self, stop: Stop | None = None) -> connections.Connection:
        """`stop` may interrupt, also while a new connection is made: only where nothing is held yet."""
        if self._connection is None or self._connection.closed:
            self._connection = connections.connect(self.database, job=self._job, stop=stop, read_write=True)
            self._connection.silence_seconds = SILENCE_SECONDS
            self._connection.alive = self.silent
        return self._connection

    def silent(self) -> None:
        """Raises Unavailable: what `alive` of the connection is, once nothing was heard for SILENCE_SECONDS."""
        raise Unavailable(
            f"{self.database.name}: no answer for {SILENCE_SECONDS:.0f} s on the connection that keeps the job's lease",
            hint="is there a pooler? A run needs two connections to its target at once, and one to each source: fewer wait for one another",
        )

    def execute(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with self.lock, ledger.permitted(self.connection(), self.database, "keeping the job's lease and its ledger"):
            try:
                return self._rows(statement, values)
            except psycopg.OperationalError:
                if not self.connection_lost:
                    raise
            return self._rows(statement, values)

    @property
    def connection_lost(self) -> bool:
        return self._connection is None or self._connection.closed

    def _rows(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        cursor = self.connection().execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        if self._connection:
            self._connection.close()


def terminate(control: Control, backend: tuple[int, datetime] | None) -> bool:
    """End one transaction, given as (pid, begin), and no later one of the same backend; whether it was there.

    Needs no more than being the same role.
    """
    if backend is None:
        return False
    statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %(pid)s AND xact_start = %(begun)s"
    with suppress(UsersyncError):
        return bool(control.execute(statement, {"pid": backend[0], "begun": backend[1]}))
    return False
