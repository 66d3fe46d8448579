"""Parts of psycopg that it does not promise to keep, and a SQLSTATE that libpq shows in its trace alone.

tests/clients/postgres/test_private.py names the versions that this is known to fit, and pyproject.toml allows no others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import psycopg
from psycopg import errors, pq
from psycopg.abc import Params, Query
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

from usersync_cli.clients.postgres.parameters import BadURL
from usersync_cli.clients.postgres.settings import idle
from usersync_cli.clients.postgres.sqlstates import NotConnected
from usersync_cli.signals import Stop

# Whose connection is being made: psycopg makes it before there is an object that could say so.
connects_for: ContextVar[Stop | None] = ContextVar("connects_for", default=None)


class Hooked(psycopg.Connection[TupleRow]):
    """A connection that can be interrupted while it is made, and that sends `opening` at the start of each implicit transaction."""

    opening = b""

    def _start_query(self) -> Generator[Any, Any, None]:
        """Begin a transaction where there is no autocommit: SQLAlchemy's."""
        begins = not self.autocommit and idle(self)
        yield from super()._start_query()
        if begins:
            yield from self._exec_command(self.opening)

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> Generator[Any, Any, Self]:
        """Connect; woken ten times a second, it ends when the run has to.

        Raises BadURL before anybody was asked, and what the server's SQLSTATE says when it refuses us.
        """
        pgconn = pq.PGconn.connect_start(conninfo.encode())
        if pgconn.status == pq.ConnStatus.BAD:
            raise _not_begun(pgconn)
        with _overheard(pgconn) as heard:
            while (status := pgconn.connect_poll()) in _POLLING:
                yield from _ready(pgconn.socket, _POLLING[status])
            said = heard()
        if status != pq.PollingStatus.OK:
            raise _refused(pgconn, said)
        pgconn.nonblocking = 1
        return cls(pgconn)


class SurroundedCursor(psycopg.Cursor[TupleRow]):
    """A cursor that executes a statement between others, all in one round trip."""

    _around: tuple[Sequence[bytes], Sequence[bytes]] | None = None

    def execute_between(self, before: Sequence[bytes], query: Query, params: Params | None, after: Sequence[bytes], **options: Any) -> None:
        """Execute all of these; the cursor gets the results of `query` alone. Each of the others is one statement without parameters.

        Raises the error of the first that fails; none after it is executed.
        """
        self._around = before, after
        try:
            super().execute(query, params, **options)  # type: ignore[arg-type]  # its overloads know no union
        finally:
            self._around = None

    def _maybe_prepare_gen(self, pgq: Any, *, prepare: bool | None = None, binary: bool | None = None) -> Generator[Any, Any, None]:
        if self._around is None:
            yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
            return
        before, after = self._around
        pgconn = self.connection.pgconn
        pgconn.enter_pipeline_mode()
        for statement in before:
            pgconn.send_query_params(statement, None)
        self._execute_send(pgq, force_extended=True, binary=binary)
        for statement in after:
            pgconn.send_query_params(statement, None)
        pgconn.pipeline_sync()
        results = yield from _results(pgconn)
        failed = [one for one in results if one.status == pq.ExecStatus.FATAL_ERROR]
        own = failed or [results[len(before)]]
        self._check_results(own)
        self._set_results(own)


def _results(pgconn: pq.abc.PGconn) -> Generator[Wait, Ready, list[pq.abc.PGresult]]:
    """The results of a pipeline, one for each statement; the pipeline is over then."""
    while pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()
    results: list[pq.abc.PGresult] = []
    while not results or results[-1].status != pq.ExecStatus.PIPELINE_SYNC:
        while pgconn.is_busy():
            yield from readable(pgconn)
        if result := pgconn.get_result():  # there is none after the last of each statement
            results.append(result)
    pgconn.exit_pipeline_mode()
    return results


def readable(pgconn: pq.abc.PGconn) -> Generator[Wait, Ready, None]:
    """For `Connection.wait`: until the server has sent something."""
    while not (yield Wait.R):
        continue
    pgconn.consume_input()


def ask(connection: psycopg.Connection[Any], seconds: float) -> None:
    """The smallest of questions, with a time limit of psycopg's own: a frozen pooler may take a connection and then say nothing."""
    connection.wait(connection.cursor()._execute_gen("SELECT 1"), timeout=seconds)  # noqa: SLF001  the one place that knows


_POLLING: dict[int, Wait] = {pq.PollingStatus.READING: Wait.R, pq.PollingStatus.WRITING: Wait.W}


def _ready(socket: int, wanted: Wait) -> Generator[Any, Any, None]:
    stop = connects_for.get()
    while not (yield socket, wanted):
        if stop:
            stop.check()


@contextmanager
def _overheard(pgconn: pq.abc.PGconn) -> Iterator[Callable[[], bytes]]:
    """Record what the server says while a connection is made. libpq has a SQLSTATE for each refusal, and shows it in its trace alone."""
    if not hasattr(os, "memfd_create"):  # psycopg traces on Linux alone
        yield lambda: b""
        return
    said = os.memfd_create("libpq")
    sink = os.dup(said)

    def heard() -> bytes:
        pgconn.untrace()  # which flushes: nothing may be written to a file that has this number later
        return os.pread(said, 1 << 20, 0)

    try:
        pgconn.trace(sink)
        yield heard
    finally:
        pgconn.untrace()
        os.close(sink)
        os.close(said)


_SQLSTATE = re.compile(rb'\tErrorResponse\t.*? C "([0-9A-Z]{5})"')


def _not_begun(pgconn: pq.abc.PGconn) -> psycopg.Error:
    """Once it has begun to connect, libpq names the server first; its own words are English, whatever the server speaks."""
    said = pgconn.get_error_message()
    pgconn.finish()
    return NotConnected(said) if said.startswith("connection to ") else BadURL(said)


def _refused(pgconn: pq.abc.PGconn, heard: bytes) -> psycopg.Error:
    states = _SQLSTATE.findall(heard)
    kind = _class_of(states[-1].decode()) if states else NotConnected
    return kind(pgconn.get_error_message(), pgconn=errors.finish_pgconn(pgconn))


def _class_of(state: str) -> type[psycopg.Error]:
    try:
        return errors.lookup(state)
    except KeyError:
        return type("Refused", (psycopg.OperationalError,), {"sqlstate": state})
