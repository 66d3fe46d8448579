"""Every connection to a Postgres: how it is made, watched, interrupted, and how its errors become ours.

No session state is left behind, because a pooler in transaction mode hands the session to somebody else: settings are
`SET LOCAL`, nothing is prepared on the server, temp tables end with their transaction.

Whoever may create something in a schema of the search path could give `=`, `count` or a type another meaning there, and have
it run as us. So each statement of ours runs with nothing but PostgreSQL's own schema in the path (`_SAFE`), also one in
autocommit; what a person wrote runs with theirs (`as_user`), and what of ours stands in the same statement says its schema.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any, Self, TypeVar, cast

import psycopg
from psycopg import conninfo, errors, pq, sql
from psycopg.abc import Params, Query
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

from usersync_cli.clients.postgres.sql import identifier
from usersync_cli.errors import ConfigError, Drift, Stopped, Unavailable, UsersyncError
from usersync_cli.model import OWN_SCHEMA, Database
from usersync_cli.signals import Stop

T = TypeVar("T")

CONNECT_SECONDS = 10
TRANSACTION_TIMEOUT = 170000  # the first version that has it
SILENCE_SECONDS = 60.0  # a wait as long as this makes us ask whether the server still lives
# TCP time-outs of libpq: a peer that vanished is noticed after 15 + 3 * 5 s, unacknowledged data after 20 s.
_KEEPALIVE: dict[str, Any] = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20000}

OWN = OWN_SCHEMA  # our schema: no name of a person's is looked for in it, also where it is "$user" of the search path
_SAFE = "pg_catalog, pg_temp"
# What values look like as text, and what SQL means, must not depend on what a server, a database or a role is set to.
_MEANING = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmloption": "content",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
}
_SMALL = {**_MEANING, "statement_timeout": "30s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "5min"}
_LONG = {**_SMALL, "statement_timeout": "0", "client_connection_check_interval": "10s"}


# psycopg logs what it ignores while it hangs up; we raise or log it ourselves.
logging.getLogger("psycopg").addHandler(logging.NullHandler())


# Whose connection is being made: psycopg makes it before there is an object that could say so.
_connects_for: ContextVar[Stop | None] = ContextVar("_connects_for", default=None)


class BadURL(psycopg.OperationalError):
    """libpq can't make sense of the URL: it tried to reach nobody."""


class NotConnected(psycopg.OperationalError):
    """No connection was made, and no server said why."""


class _Cursor(psycopg.Cursor[TupleRow]):
    """A statement in autocommit has no path of its own, and a pooler's session may not be given one: it gets a transaction."""

    def execute(self, query: Query, params: Params | None = None, **options: Any) -> Self:
        connection = cast(Connection, self.connection)
        if params is not None and isinstance(query, sql.Composed):
            query = _doubled(query, connection)
        if not connection.autocommit or not _idle(connection) or _begins(query):
            return super().execute(query, params, **options)  # type: ignore[arg-type]
        try:
            psycopg.Cursor(connection).execute(_beginning(connection))
            super().execute(query, params, **options)  # type: ignore[arg-type]  # its overloads know no union
            psycopg.Cursor(connection).execute("END")
        except BaseException:
            rollback(connection)
            raise
        return self


def _doubled(query: sql.Composed, connection: psycopg.Connection[Any]) -> sql.Composed:
    """The same with every % in a name or literal doubled: psycopg looks for placeholders there too."""
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
    text = query if isinstance(query, bytes) else query.encode() if isinstance(query, str) else b""
    return text.startswith(b"BEGIN")


def _idle(connection: psycopg.Connection[Any]) -> bool:
    return not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


class Connection(psycopg.Connection[TupleRow]):
    """A connection whose waits end when the run has to end, or when the server is found to be frozen.

    Keepalives are answered by the kernel of a frozen server, and its own time-outs don't fire: only we can notice.
    """

    stop: Stop | None = None
    alive: Callable[[], None] = staticmethod(lambda: None)  # raises Unavailable when the server does not answer
    silence_seconds = SILENCE_SECONDS
    path = ""  # the search path of the transaction, where it is not _SAFE
    schemas: Sequence[str] | None = None  # `schemas`, once it was asked

    def _start_query(self) -> Generator[Any, Any, None]:
        """What begins a transaction where there is no autocommit: SQLAlchemy's."""
        begins = not self.autocommit and _idle(self)
        yield from super()._start_query()
        if begins:
            yield from self._exec_command(f"SET LOCAL search_path TO {_SAFE}".encode())

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """What psycopg waits with; `gen` asks for the socket and is woken ten times a second."""
        try:
            return super().wait(self._watched(gen), *args, **kwargs)
        except (Stopped, Unavailable):
            self.abandon()
            raise

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> Generator[Any, Any, Connection]:
        """What psycopg connects with; woken ten times a second, it ends when the run has to.

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


_POLLING: dict[int, Wait] = {pq.PollingStatus.READING: Wait.R, pq.PollingStatus.WRITING: Wait.W}


def _ready(socket: int, wanted: Wait) -> Generator[Any, Any, None]:
    stop = _connects_for.get()
    while not (yield socket, wanted):
        if stop:
            stop.check()


@contextmanager
def _overheard(pgconn: pq.abc.PGconn) -> Iterator[Callable[[], bytes]]:
    """What is said while a connection is made. libpq has a SQLSTATE for each refusal, and shows it in its trace alone."""
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


def connect(database: Database, *, job: str, stop: Stop | None = None, read_write: bool = False) -> Connection:
    """A connection in autocommit. `stop` makes its waits interruptible; without it the caller's statements have to be short.

    `read_write` insists on a primary; sources may be standbys. Raises ConfigError for what a person has to fix
    (password, database, certificate), Unavailable for what may pass.
    """
    url = _url(database)
    with translated(database, "connecting"):
        parameters = _parameters(url, job, read_write=read_write)
        given = _connects_for.set(stop)
        try:
            connection = Connection.connect(url, autocommit=True, prepare_threshold=None, cursor_factory=_Cursor, **parameters)
        finally:
            _connects_for.reset(given)
    connection.stop = stop
    connection.alive = lambda: _ask(database, url, parameters)
    if read_write:
        _refuse_read_only(connection, database)
    return connection


def _refuse_read_only(connection: Connection, database: Database) -> None:
    """A standby can't be written. Nor is a primary whose administrator says that it only reads, though any session could."""
    told = connection.info.parameter_status
    standby, default = told("in_hot_standby"), told("default_transaction_read_only")
    if standby is None or default is None:  # a pooler may keep them to itself
        query = "SELECT pg_is_in_recovery()::text, current_setting('default_transaction_read_only')"
        with translated(database, "connecting"):
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


def _given(url: str) -> dict[str, Any]:
    """The URL's parts. Raises BadURL, without a word of the URL: it may hold the password."""
    try:
        given = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise BadURL("the URL is not one that libpq understands") from None
    ports, hosts = str(given.get("port") or "").split(","), str(given.get("hostaddr") or given.get("host") or "").split(",")
    if any(port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536) for port in ports):
        raise BadURL("a port of the URL is not a number from 1 to 65535")
    if len(ports) not in {1, len(hosts)}:
        raise BadURL("the URL has another number of ports than of hosts")
    return given


def _parameters(url: str, job: str, *, read_write: bool) -> dict[str, Any]:
    given = _given(url)
    parameters: dict[str, Any] = {"application_name": f"usersync/{job}"[:63], "client_encoding": "utf8", **_KEEPALIVE}
    parameters["connect_timeout"] = CONNECT_SECONDS
    if read_write and "," in f"{given.get('host') or ''}{given.get('hostaddr') or ''}":
        parameters["target_session_attrs"] = "primary"
    if not _is_local(given) and not os.environ.get("PGSSLMODE"):
        parameters |= {"sslmode": "verify-full", "sslrootcert": "system"}
        # The wheel's OpenSSL looks for the system's certificates where they were on the machine that built it.
        if found := ssl.get_default_verify_paths().cafile:
            os.environ.setdefault("SSL_CERT_FILE", found)
    if "sslmode" in given:
        parameters.pop("sslrootcert", None)
    return {name: value for name, value in parameters.items() if name not in given or name == "client_encoding"}


def _is_local(given: dict[str, Any]) -> bool:
    hosts = str(given.get("hostaddr") or given.get("host") or os.environ.get("PGHOST") or "").split(",")
    return all(_is_local_host(host) for host in hosts)


def _is_local_host(host: str) -> bool:
    if host in {"", "localhost"} or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _ask(database: Database, url: str, parameters: dict[str, Any]) -> None:
    """Whether the server still answers: a new connection and the smallest of questions, 10 s each."""
    try:
        with psycopg.connect(url, autocommit=True, prepare_threshold=None, **parameters) as probe:
            # psycopg's own timed wait: a frozen pooler may take our connection and then say nothing
            probe.wait(probe.cursor()._execute_gen("SELECT 1"), timeout=CONNECT_SECONDS)  # noqa: SLF001
    except psycopg.Error as error:
        raise Unavailable(
            f"{database.name}: the server has been silent for a minute and does not answer a new connection either",
            hint="the run was rolled back; look at the server, the next run goes on by itself",
        ) from error


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
    psycopg.Cursor(connection).execute(_beginning(connection, long=long, snapshot=snapshot, **settings))


def _beginning(connection: psycopg.Connection[Any], *, long: bool = False, snapshot: bool = False, **settings: str) -> bytes:
    how = "BEGIN ISOLATION LEVEL " + ("REPEATABLE READ READ ONLY" if snapshot else "READ COMMITTED")
    every = {**settings_of(connection, long=long), **settings}
    values = [f"SET LOCAL {name} TO {sql.Literal(value).as_string(connection)}" for name, value in every.items()]
    return "; ".join([how, f"SET LOCAL search_path TO {_SAFE}", *values]).encode()


def schemas(connection: Connection) -> Sequence[str]:
    """Where a name without a schema is looked for, in this order: the role's own search path, without our schema and temp tables."""
    if connection.schemas is None:
        with transaction(connection) if _idle(connection) else nullcontext():
            connection.execute("SET LOCAL search_path TO DEFAULT")
            ((found,),) = connection.execute("SELECT pg_catalog.current_schemas(false)::pg_catalog.text[]").fetchall()
            _search(connection, connection.path)
        connection.schemas = [name for name in found if name != OWN and not name.startswith(("pg_temp_", "pg_toast_temp_"))]
    return connection.schemas


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
        if path != before and not tx.closed and tx.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
            _search(tx, before)


def _search(tx: Connection, path: str) -> None:
    tx.execute(f"SET LOCAL search_path TO {path or _SAFE}".encode())


def settings_of(connection: psycopg.Connection[Any], *, long: bool = False) -> dict[str, str]:
    """What each transaction of this connection sets."""
    newer = {"transaction_timeout": "0"} if connection.info.server_version >= TRANSACTION_TIMEOUT else {}
    return {**(_LONG if long else _SMALL), **newer}


def rollback(connection: Connection) -> None:
    """ROLLBACK; where that is not possible any more, hang up, which does the same."""
    if connection.closed or connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
        return
    if connection.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
        connection.abandon()
        return
    try:
        connection.execute("ROLLBACK")
    except (psycopg.Error, UsersyncError):
        connection.close()


def readable(connection: psycopg.Connection[Any]) -> Generator[Wait, Ready, None]:
    """For `Connection.wait`: until the server has sent something."""
    while not (yield Wait.R):
        continue
    connection.pgconn.consume_input()


@contextmanager
def translated(database: Database, doing: str) -> Iterator[None]:
    """Errors of Postgres become ours, once, here at the edge: what we were doing, on what, and what came back."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, database, doing) from error


def translate(error: psycopg.Error, database: Database, doing: str) -> UsersyncError:  # noqa: PLR0911  a table in the form of code
    """The error of ours that says what the operator does next. Values of rows are never part of it.

    By SQLSTATE (PostgreSQL manual, appendix A): 08, 40, 53, 55, 57 and 58 pass by themselves; 28 and 3D are the
    config's; 42501 is a right that is missing; 22, 23, 42 mean that data or schema are not what the step expects.
    """
    error = _underlying(error)
    state = error.sqlstate or ""
    where = f"{database.name}: {doing}"
    if not state:
        return _without_state(error, where)
    what = f"{where}: {_said(error)}"
    if state.startswith("28"):
        return ConfigError(what, hint="fix the user or password in the URL (or the server's pg_hba.conf)")
    if state.startswith("3D"):
        return ConfigError(what, hint="fix the database in the URL, or create it")
    if error.pgconn is not None and not error.diag.sqlstate:  # refused before there was a session
        return _refusal(error, f"{where}: {_first_line(error)} [{state}]")
    if state == "42501":
        return ConfigError(what, hint="an administrator grants that right; `usersync check` looks for all that a run needs")
    if state == "42601":
        return ConfigError(what, hint="fix the SQL in the config file; `usersync db shell` is a place to try it")
    if state == "25006":
        return ConfigError(what, hint="this server or role only reads; point the target's URL at the primary")
    if state == "53100":
        return Unavailable(what, hint="the server's disk is full; nothing was lost, make room and run again")
    if passes(error):
        return Unavailable(what, hint=f"{_lockers(database) if state == '55P03' else ''}nothing was lost; the next run tries again")
    return Drift(what, hint=_hint(error))


def _lockers(database: Database) -> str:
    """Who has held locks on tables of this database for long, and may be who was waited for; never what they execute.

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
       AND (a.xact_start IS NULL OR a.xact_start < clock_timestamp() - interval '{_SMALL["lock_timeout"]}')
       AND EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p')
                    WHERE l.pid = a.pid AND l.granted AND l.mode <> 'AccessShareLock' AND c.relnamespace <> 'pg_catalog'::regnamespace
                      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()))
     ORDER BY a.xact_start NULLS LAST, a.pid LIMIT 3
"""  # noqa: S608  our own text


def _underlying(error: psycopg.Error) -> psycopg.Error:
    """psycopg's complaint about savepoints out of order hides why one of them could not be set."""
    while not error.sqlstate and isinstance(error, errors.ProgrammingError) and isinstance(error.__context__, psycopg.Error):
        error = error.__context__
    return error


# PgBouncer has one SQLSTATE for all that it refuses, and its own words are English; what it passes on from a server may not be.
_POOLER_REFUSES = ("unsupported startup parameter", "authentication failed", "no such user", "no such database", "does not exist")


def _refusal(error: psycopg.Error, what: str) -> UsersyncError:
    """The server, or the pooler before it, does not let us in, and it is neither the user nor the database by their SQLSTATE."""
    state = error.sqlstate or ""
    if state == "42501":
        return ConfigError(what, hint="an administrator runs: GRANT CONNECT ON DATABASE ... TO the user in the URL")
    if state.startswith(("22", "42", "0A")):
        return ConfigError(what, hint="fix the parameters in the URL (options=)")
    if state == "08P01" and any(words in str(error) for words in _POOLER_REFUSES):
        return ConfigError(what, hint="fix the user, password, database or parameters (options=) in the URL, or the pooler's settings")
    return Unavailable(what, hint="nothing was lost; the next run tries again")


def passes(error: psycopg.Error) -> bool:
    """Whether it is the server's trouble of this moment, or the line's, and not a mistake in data or SQL."""
    state = error.sqlstate or ""
    return not state or state.startswith(("08", "25P03", "40", "53", "55", "57", "58"))


def _hint(error: psycopg.Error) -> str:
    state = error.sqlstate or ""
    if state in {"42P01", "42703", "3F000"}:
        return "is it spelt right, and is this the right database? If it was renamed, fix the config file, or bring it back"
    if state in {"23505", "23P01"}:
        return "two records want what only one may have, or a row that the source no longer has still holds it; nothing was written"
    if state == "23503":
        return "a record refers to a row that is not there; nothing was written"
    if state.startswith(("22", "23")):
        return "a value does not fit its column or a cast of the transform; nothing was written. Fix the value, or the transform"
    if state.startswith(("42", "0A")):
        return "fix the SQL or the names in the config file; `usersync check` looks at each part, `usersync db shell` is a place to try SQL"
    return "`usersync check` looks at each part; nothing was written"


def _said(error: psycopg.Error) -> str:
    """What the server said, as far as it cannot hold anybody's data.

    The text of classes 22, 23 and P0 quotes values ("invalid input syntax for type integer: ..."), DETAIL always may.
    """
    diag = error.diag
    state = error.sqlstate or ""
    if state[:2] in {"22", "23", "21", "P0", "2D", "44"}:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
        parts = [("column", diag.column_name), ("constraint", diag.constraint_name), ("table", diag.table_name)]
        named = ", ".join(f"{kind} {name}" for kind, name in parts if name)
        return f"{words}{f' ({named})' if named else ''} [{state}]"
    return f"{(diag.message_primary or _first_line(error)).strip()} [{state}]"


def _first_line(error: psycopg.Error) -> str:
    """libpq repeats the address before each reason; one line of it is enough. It never holds the password."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 3] + "..."


def _without_state(error: psycopg.Error, where: str) -> UsersyncError:
    """No server has said anything: libpq or psycopg speak, in English whatever the servers' language is."""
    what = f"{where}: {_first_line(error)}"
    if isinstance(error, BadURL):
        return ConfigError(what, hint="fix the URL: postgresql://user:password@host:port/database")
    if isinstance(error, NotConnected) and error.pgconn and (error.pgconn.needs_password or error.pgconn.used_password):
        return ConfigError(what, hint="fix the user or password in the URL: the server asked for one")
    if isinstance(error, NotConnected) and _untrusted(str(error)):
        return ConfigError(
            f"{where}: no verified TLS connection: {_first_line(error)}",
            hint="give the server's CA in the URL with sslrootcert=FILE, or say sslmode=require (unverified) if you accept that",
        )
    if isinstance(error, errors.ProgrammingError):  # psycopg's own complaint about how we use it
        return UsersyncError(what, hint="this is a bug: please report it")
    return Unavailable(what, hint="is the server running and reachable from here? the next run tries again")


def _untrusted(said: str) -> bool:
    """Whether TLS is what failed, and not the line under it."""
    return any(words in said for words in ("certificate", "SSL")) and not any(words in said for words in ("EOF", " eof ", "closed"))


LONGEST_LINE = 200
