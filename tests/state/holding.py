"""Runs that hold a job, in this process and in others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest

from usersync_cli.clients.postgres import connections, transactions
from usersync_cli.errors import Busy
from usersync_cli.model import Database
from usersync_cli.signals import Stop
from usersync_cli.state import lease

LONG = timedelta(seconds=60)
SHORT = timedelta(seconds=2)

# A run in a process of its own: holds the job, writes rows in a checkpoint, and waits for a line at one moment of it.
RUN = """
import select, sys
from datetime import timedelta
from usersync_cli.clients.postgres import connections, errors, transactions
from usersync_cli.state import lease
from usersync_cli.errors import UsersyncError
from usersync_cli.model import Database
from usersync_cli.signals import Stop
database, stop, what = Database(sys.argv[1], "target"), Stop().install(), sys.argv[2]
def say(word):
    print(word, flush=True)
    while word == what and not select.select([sys.stdin], [], [], 0.1)[0]:
        stop.check()
try:
    with lease.hold(database, "job", lease=timedelta(seconds=float(sys.argv[3])), stop=stop) as held:
        say("held")
        with connections.connect(database, job="job", stop=stop, read_write=True) as tx:
            transactions.begin(tx, long=True)
            held.attach(tx)
            with tx.cursor() as cursor, cursor.copy("COPY public.t FROM STDIN") as copy:
                copy.write(b"1\\n")
                say("copying")
            with errors.translated(database, "writing"), held.checkpoint(tx):
                say("fenced")
                tx.execute("INSERT INTO public.t VALUES (2)")
        held.finish(exit_status=0)
except UsersyncError as error:
    print(type(error).__name__, flush=True)
"""


@contextmanager
def data(database: Database, stop: Stop) -> Iterator[connections.Connection]:
    """A data connection with a transaction begun."""
    with connections.connect(database, job="test", stop=stop, read_write=True) as tx:
        transactions.begin(tx, long=True)
        yield tx


@contextmanager
def running(database: Database, at: str, seconds: float = 60) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the job and stays at this word: held, copying, fenced."""
    command = [sys.executable, "-c", RUN, database.url, at, str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            for line in process.stdout:
                if line.strip() == at:
                    break
            yield process
        finally:
            process.kill()


def refused(database: Database, stop: Stop, match: str = "another run holds the job") -> None:
    with pytest.raises(Busy, match=match), lease.hold(database, "job", lease=LONG, stop=stop):
        pass


def expire(connection: psycopg.Connection) -> None:
    connection.execute("UPDATE usersync.job_locks SET lease_until = clock_timestamp() - interval '1 s'")


def rows(connection: psycopg.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT a FROM public.t ORDER BY a")]
