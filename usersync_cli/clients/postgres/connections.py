"""Every connection to a Postgres: how it is made, watched, interrupted and ended.

No session state is left behind, because a pooler in transaction mode hands the session to somebody else: settings are
`SET LOCAL`, nothing is prepared on the server, temp tables end with their transaction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeVar, cast

import psycopg
from psycopg import pq, sql
from psycopg.abc import Params, Query
from psycopg.waiting import Ready, Wait

from usersync_cli.clients.postgres import loaders, parameters, private, sqlstates
from usersync_cli.clients.postgres.settings import SAFE, beginning, beginning_in_two, idle
from usersync_cli.clients.postgres.sql import identifier
from usersync_cli.errors import ConfigError, Stopped, Unavailable, UsersyncError
from usersync_cli.model import Database
from usersync_cli.signals import Stop

T = TypeVar("T")

SILENCE_SECONDS = 60.0  # a wait as long as this makes us ask whether the server still lives

# psycopg logs what it ignores while it hangs up; we raise or log it ourselves.
logging.getLogger("psycopg").addHandler(logging.NullHandler())


class _Cursor(private.SurroundedCursor):
    """A statement in autocommit has no path of its own, and a pooler's session may not be given one: it gets a transaction,
    in the same round trip."""

    def execute(self, query: Query, params: Params | None = None, **options: Any) -> Self:
        connection = cast(Connection, self.connection)
        if params is not None and isinstance(query, sql.Composed):
            query = _doubled(query, connection)
        if not connection.autocommit or not idle(connection) or _begins(query):
            return super().execute(query, params, **options)  # type: ignore[arg-type]
        try:
            if params is None and b";" in _text(query, connection):  # several statements, which only a message without parameters takes
                psycopg.Cursor(connection).execute(b"; ".join(beginning(connection)))
                super().execute(query, **options)
                psycopg.Cursor(connection).execute(b"END")
            else:
                self.execute_between(beginning_in_two(connection), query, params, [b"END"], **options)
        except BaseException:
            rollback(connection)
            raise
        return self


def _doubled(query: sql.Composed, connection: psycopg.Connection[Any]) -> sql.Composed:
    """A query with every % in a name or literal doubled: psycopg looks for placeholders there too."""
    parts: list[sql.Composable] = []
    for part in query:
        if isinstance(part, (sql.Identifier, sql.Literal)):
            parts.append(sql.SQL(part.as_string(connection).replace("%", "%%")))  # a name or literal, quoted
        else:
            parts.append(_doubled(part, connection) if isinstance(part, sql.Composed) else part)
    return sql.Composed(parts)


def codec(connection: psycopg.Connection[Any]) -> str | None:
    """Python's name of the encoding in which the server keeps text; None where it holds any."""
    name = connection.info.parameter_status("server_encoding") or "UTF8"
    return None if name in {"UTF8", "SQL_ASCII"} else _PYTHONS.get(name, name)


_PYTHONS = {
    **{f"LATIN{i}": f"iso8859-{number}" for i, number in enumerate((1, 2, 3, 4, 9, 10, 13, 14, 15, 16), 1)},
    **{f"WIN{number}": f"cp{number}" for number in (866, 874, *range(1250, 1259))},
    **{f"ISO_8859_{number}": f"iso8859-{number}" for number in range(5, 9)},
    "KOI8R": "koi8-r", "KOI8U": "koi8-u", "MULE_INTERNAL": "utf-8", "EUC_TW": "utf-8", "EUC_JIS_2004": "euc-jis-2004",
}  # fmt: skip


def _begins(query: Query) -> bool:
    return query.startswith("BEGIN") if isinstance(query, str) else isinstance(query, bytes) and query.startswith(b"BEGIN")


def _text(query: Query, connection: psycopg.Connection[Any]) -> bytes:
    if isinstance(query, sql.Composable):
        return query.as_bytes(connection)
    return query.encode() if isinstance(query, str) else cast(bytes, query)


class Connection(private.Hooked):
    """A connection whose waits end when the run has to end, or when the server is found to be frozen.

    Keepalives are answered by the kernel of a frozen server, and its own time-outs don't fire: only we can notice.
    """

    opening = f"SET LOCAL search_path TO {SAFE}".encode()
    stop: Stop | None = None
    alive: Callable[[], None] = staticmethod(lambda: None)  # raises Unavailable when the server does not answer
    silence_seconds = SILENCE_SECONDS
    path = ""  # the search path of the transaction, where it is not SAFE
    schemas: Sequence[str] | None = None  # `transactions.schemas`, once it was asked

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """Wait as psycopg does; `gen` asks for the socket and is woken ten times a second."""
        try:
            return super().wait(self._watched(gen), *args, **kwargs)
        except (Stopped, Unavailable):
            self.abandon()
            raise

    def _watched(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        since = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if self.stop:
                    self.stop.check()
                if ready == Ready.NONE:
                    if time.monotonic() - since > self.silence_seconds:
                        self.alive()
                        since = self._heard()
                else:
                    since = self._heard()
                wanted = gen.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value

    def _heard(self) -> float:
        now = time.monotonic()
        if self.stop:
            self.stop.heard = now
        return now

    def abandon(self) -> None:
        """Cancel what the server does for us and hang up, so that it rolls back at once."""
        if not self.closed:
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=2)
        self.close()


def connect(database: Database, *, job: str, stop: Stop | None = None, read_write: bool = False) -> Connection:
    """A connection in autocommit. `stop` makes its waits interruptible; without it the caller's statements have to be short.

    `read_write` insists on a primary; sources may be standbys. Raises ConfigError for what a person has to fix
    (password, database, certificate), Unavailable for what may pass.
    """
    url = _url(database)
    with _connecting(database):
        options = parameters.defaults(url, job, read_write=read_write)
        given = private.connects_for.set(stop)
        try:
            connection = Connection.connect(url, autocommit=True, prepare_threshold=None, cursor_factory=_Cursor, **options)
        finally:
            private.connects_for.reset(given)
    loaders.register(connection.adapters)
    connection.stop = stop
    connection.alive = lambda: _ask(database, url, options)
    if read_write:
        _refuse_read_only(connection, database)
    return connection


@contextmanager
def _connecting(database: Database) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise sqlstates.translate(error, database, "connecting") from error


def _refuse_read_only(connection: Connection, database: Database) -> None:
    """A standby can't be written. Nor is a primary whose administrator says that it only reads, though any session could."""
    told = connection.info.parameter_status
    standby, default = told("in_hot_standby"), told("default_transaction_read_only")
    if standby is None or default is None:  # a pooler may keep them to itself
        query = "SELECT pg_is_in_recovery()::text, current_setting('default_transaction_read_only')"
        with _connecting(database):
            standby, default = connection.execute(query).fetchone() or (None, None)
    if standby in {"off", "false"} and default == "off":
        return
    name, role = (identifier(one).as_string(None) for one in (connection.info.dbname, connection.info.user))
    connection.close()
    if standby in {"on", "true"}:
        raise ConfigError(f"{database.name}: connecting: this server only reads (a standby)", hint="point the target's URL at the primary")
    raise ConfigError(
        f"{database.name}: connecting: default_transaction_read_only is on, so this role or database only reads",
        hint=f"if nobody wants that any more: ALTER DATABASE {name} RESET default_transaction_read_only; (or ALTER ROLE {role} RESET ...)",
    )


def _url(database: Database) -> str:
    if database.embedded is None:
        return database.url
    from usersync_cli.clients.postgres import embedded

    return embedded.url(database.embedded, database.url)


def _ask(database: Database, url: str, options: dict[str, Any]) -> None:
    """Whether the server still answers: a new connection and the smallest of questions, 10 s each."""
    try:
        with psycopg.connect(url, autocommit=True, prepare_threshold=None, **options) as probe:
            private.ask(probe, parameters.CONNECT_SECONDS)
    except psycopg.Error as error:
        raise Unavailable(
            f"{database.name}: the server has been silent for a minute and does not answer a new connection either",
            hint="the run was rolled back; look at the server, the next run goes on by itself",
        ) from error


def rollback(connection: Connection) -> None:
    """ROLLBACK; where that is not possible any more, hang up, which does the same."""
    if connection.closed or connection.info.transaction_status == pq.TransactionStatus.IDLE:
        return
    if connection.info.transaction_status == pq.TransactionStatus.ACTIVE:
        connection.abandon()
        return
    try:
        connection.execute("ROLLBACK")
    except (psycopg.Error, UsersyncError):
        connection.close()


def readable(connection: psycopg.Connection[Any]) -> Generator[Wait, Ready, None]:
    """For `Connection.wait`: until the server has sent something."""
    return private.readable(connection.pgconn)
