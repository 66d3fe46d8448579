"""The wheel's PostgreSQL 18 in a temporary folder: fresh, with fsync and its default settings."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from usersync_cli.clients.postgres import embedded

_OTHERS = """
    SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'parallel worker')
"""


class Server:
    """One running server, with a connection to look at it from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.psql = f"{shlex.quote(str(embedded.psql(self.home)))} -X -q -v ON_ERROR_STOP=1"
        self._watch = psycopg.connect(self.url("postgres"), autocommit=True)
        self._pid = int((self.home / "postgres" / "postmaster.pid").read_text().split()[0])

    def url(self, database: str) -> str:
        """The database is made if it is not there."""
        return embedded.url(self.home, database)

    def execute(self, database: str, *statements: str) -> list[tuple[Any, ...]]:
        """The statements, each in a transaction of its own; the last one's rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def checkpoint(self) -> None:
        """Before every measured run, so that nobody pays for what the one before left behind."""
        self._watch.execute("CHECKPOINT")

    def wal(self) -> int:
        """Bytes of write-ahead log ever written."""
        (position,) = self._watch.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8").fetchone() or (0,)
        return int(position)

    def cpu(self) -> float | None:
        """CPU seconds of all server processes that have ended, autovacuum's among them; None where there is no /proc.

        Waits until no other connection is left, because a process counts once it has ended.
        """
        while (self._watch.execute(_OTHERS).fetchone() or (0,))[0]:
            time.sleep(0.01)
        time.sleep(0.05)
        stat = Path(f"/proc/{self._pid}/stat")
        if not stat.exists():
            return None
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")  # cutime and cstime

    def version(self) -> str:
        return str(self.execute("postgres", "SHOW server_version")[0][0]).split()[0]

    def close(self) -> None:
        self._watch.close()
        embedded.stop(self.home)


@contextmanager
def running() -> Iterator[Server]:
    """A fresh server; its folder is removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="us-bench-"))
    try:
        server = Server(folder)
        try:
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
