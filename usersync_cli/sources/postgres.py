"""The source `postgres`: tables or queries of another PostgreSQL, passed through as blocks of binary COPY.

One REPEATABLE READ READ ONLY snapshot for all streams of a step, with `row_security = off`, so that a policy which
would hide people is an error and not a shorter list. Standbys and roles that may only SELECT are enough.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import psycopg
from psycopg import errors, sql
from pydantic import BaseModel, ConfigDict, Field

from usersync_cli.clients.postgres import queries
from usersync_cli.clients.postgres.catalog import others_may_create
from usersync_cli.clients.postgres.connections import Connection, connect, readable
from usersync_cli.clients.postgres.errors import translate, translated
from usersync_cli.clients.postgres.sql import listed, relation, scalar, type_name
from usersync_cli.clients.postgres.sqlstates import passes
from usersync_cli.clients.postgres.transactions import as_user, transaction
from usersync_cli.errors import ConfigError, Drift, Unavailable
from usersync_cli.model import Column, Copy, Cursor, Database, Page, Stream
from usersync_cli.ports import HadOtherNames, RunsSql, TabularSession, TabularSource, Tools
from usersync_cli.sources import TabularPort

_REFUSED = re.compile(r"permission denied for ([a-z ]+?) (\S+)")

# psycopg hands out one message for each row; the stage wants writes of this size.
BLOCK_BYTES = 128 * 1024


class Settings(BaseModel):
    """A PostgreSQL that is read: 12 or later, a primary or a standby."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["postgres"]
    url: str = Field(description="postgresql://user:password@host:port/database, or embedded:NAME for trying out", repr=False)


class Source(TabularSource):
    """Where to read; nothing is contacted before `open`."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._url = settings.url

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Session]:
        """A connection of its own, closed as soon as its last block is read: a long snapshot hurts a production server."""
        database = tools.database(self._url, f"source {self.name}")
        connection = connect(database, job=tools.job, stop=tools.stop)
        try:
            with translated(database, "asking which server it is"):
                session = Session(connection, database)
            yield session
        finally:
            if connection.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                connection.abandon()
            connection.close()


PORT = TabularPort(Settings, Source, lambda settings: settings.url)


class Session(HadOtherNames, RunsSql, TabularSession):
    """One connection. The snapshot begins with the first block of `pages`, not before."""

    def __init__(self, connection: Connection, database: Database) -> None:
        self._connection = connection
        self._database = database
        self._casts: dict[str, sql.Composed] = {}
        self.account, self._formerly = _identity(connection)

    @property
    def formerly(self) -> Collection[str]:
        """The database's bare name, which was the account before servers were told apart."""
        return self._formerly

    def others_may_create(self) -> Sequence[tuple[str, str, bool]]:
        """Who else may put something where the role's queries look for names."""
        return others_may_create(self._connection)

    def columns(self, stream: Stream) -> Sequence[Column]:
        """The columns as they will be staged: types that the target may not have (enums, domains, extensions) become text
        or their base type.

        Raises Drift for a missing table or column, and for two columns of one name.
        """
        doing = f"looking at {_what(stream)}"
        with translated(self._database, doing), self._permitted(doing, stream), transaction(self._connection, row_security="off"):
            with as_user(self._connection):
                if stream.query is not None:
                    with self._one_select(stream, 0):
                        queries.parse(self._connection, queries.bare(stream.query))
                with self._one_select(stream, len("SELECT * FROM (\n")):
                    found = self._connection.execute(sql.SQL("SELECT * FROM ({}) AS q LIMIT 0").format(_select(stream))).pgresult
            assert found is not None  # noqa: S101  a SELECT always has a result
            names = [str(found.fname(i) or b"", "utf8") for i in range(found.nfields)]
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise Drift(f"{self._database.name}: {_what(stream)} has two columns named {twice[0]}", hint="name one of them with AS")
            oids, typmods = [found.ftype(i) for i in range(found.nfields)], [found.fmod(i) for i in range(found.nfields)]
            types = self._connection.execute(_TYPES, (oids, typmods)).fetchall()
        self._casts[stream.name] = listed(_cast(name, cast, wire) for name, (_, cast, wire) in zip(names, types, strict=True))
        return [Column(name, type_, wire) for name, (type_, _, wire) in zip(names, types, strict=True)]

    @contextmanager
    def _one_select(self, stream: Stream, before: int) -> Iterator[None]:
        """A query is parsed alone before it stands in brackets of ours: then it can close none, and nothing stands behind it."""
        try:
            yield
        except psycopg.Error as error:
            if (error.sqlstate or "") not in queries.WRONG:
                raise
            at = queries.place(queries.bare(stream.query or ""), error, before)
            said = f"{self._database.name}: {_what(stream)}{at}: {queries.wrong(error)}"
            hint = "fix the SQL in the config file: the query of an extract is one SELECT that writes nothing"
            raise ConfigError(said, hint=hint) from error

    @contextmanager
    def _permitted(self, doing: str, stream: Stream) -> Iterator[None]:
        """A right that is missing is told with the statement that gives it."""
        try:
            yield
        except errors.InsufficientPrivilege as error:
            grant = _grant(error.diag.message_primary or "", stream, self._connection.info.user)
            raise ConfigError(translate(error, self._database, doing).message, hint=grant) from error

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Generator[Page, None, None]:
        """One page a stream, complete: every row of one snapshot. `since` is not used: `updated_at > cursor` loses the
        rows of long transactions, and the comparison with the target finds every change anyway."""
        described = {stream.name: self.columns(stream) for stream in streams}
        settings = {"row_security": "off", "idle_in_transaction_session_timeout": "0"}
        with translated(self._database, "reading"), transaction(self._connection, long=True, snapshot=True, **settings):
            read_at = scalar(self._connection, "SELECT now()")
            for stream in streams:
                how: Literal["binary", "text"] = "text" if stream.as_text else "binary"
                content = Copy(stream.name, described[stream.name], self._blocks(stream, how), how)
                yield Page(content, {"read_at": str(read_at and read_at.isoformat())}, complete=True)

    def _blocks(self, stream: Stream, how: Literal["binary", "text"]) -> Generator[bytearray, None, None]:
        """The stream in this COPY format. Raises what the server reports in the middle; a short read is an error too."""
        columns, rows = self._casts[stream.name], _select(stream)
        copy = sql.SQL("COPY (SELECT {} FROM ({}) AS q) TO STDOUT (FORMAT {})").format(columns, rows, sql.SQL(how))
        doing = f"reading {_what(stream)}"
        with translated(self._database, doing), as_user(self._connection), self._connection.cursor().copy(copy):
            # libpq's own call instead of Copy.read(): a third of the CPU (0.3 s for a million rows).
            pgconn, block = self._connection.pgconn, bytearray()
            while True:
                size, data = pgconn.get_copy_data(1)
                if size > 0:
                    block += data
                    if len(block) >= BLOCK_BYTES:
                        yield block
                        block = bytearray()
                elif size == 0:
                    self._connection.wait(readable(self._connection))
                else:
                    break
            self._finish()
        yield block

    def _finish(self) -> None:
        """The outcome of the COPY. Whatever was sent before an error counts for nothing."""
        pgconn = self._connection.pgconn
        failed = None
        while (result := pgconn.get_result()) is not None:
            if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
                failed = psycopg.errors.error_from_result(result)
        if failed:
            raise failed
        if pgconn.status != psycopg.pq.ConnStatus.OK:
            raise Unavailable(f"{self._database.name}: the connection was lost in the middle of the rows", hint="the next run tries again")


def _identity(connection: Connection) -> tuple[str, Collection[str]]:
    """Which database of which server this is, and what it was called before servers were told apart.

    The number is made with the cluster: its standbys share it, a dump that was restored elsewhere does not. Where a service
    keeps it to itself, the name has to do.
    """
    name = scalar(connection, "SELECT current_database()::text")
    try:
        server = scalar(connection, "SELECT system_identifier FROM pg_catalog.pg_control_system()")
    except psycopg.Error as error:
        if passes(error):
            raise
        return name, ()
    return f"{name} on server {server}", (name, connection.info.dbname)  # a pooler may have a name of its own for it


def _select(stream: Stream) -> sql.Composable:
    """The stream's own SELECT, on lines of its own so that a trailing comment does no harm."""
    if stream.table is not None:
        return sql.SQL("SELECT * FROM {}").format(relation(stream.table))
    return sql.SQL("\n{}\n").format(sql.SQL(queries.bare(stream.query or "")))


def _grant(said: str, stream: Stream, user: str) -> str:
    """What an administrator of the source has to run. Only the server's own words say which table of a query it is."""
    role = sql.Identifier(user).as_string(None)
    if "row-level security" in said:
        return f"a policy would hide rows from this role; an administrator runs: ALTER ROLE {role} BYPASSRLS;"
    if not (refused := _REFUSED.fullmatch(said)):
        return f"the role {role} needs SELECT on all that is read, and USAGE on its schema"
    kind, name = refused.groups()
    right = {"schema": "USAGE ON SCHEMA", "function": "EXECUTE ON FUNCTION"}.get(kind, "SELECT ON")
    whole = relation(stream.table) if stream.table and right == "SELECT ON" else sql.Identifier(name)
    return f"GRANT {right} {whole.as_string(None)} TO {role};"


def _what(stream: Stream) -> str:
    return f"table {stream.table}" if stream.table is not None else f"the query of extract {stream.name}"


# What stood for the longest intervals before version 17 stands for infinity since: no server reads it as either.
_LONGEST = (
    "178956970 years 7 mons 2147483647 days 2562047788:00:54.775807",
    "-178956970 years -8 mons -2147483648 days -2562047788:00:54.775808",
)


def _cast(name: str, to: str, wire: str) -> sql.Composable:
    """One column of what is copied."""
    column = sql.SQL("q.{}").format(sql.Identifier(name))
    if not to:
        return column
    if wire:
        for one in _LONGEST:
            column = sql.SQL("pg_catalog.replace({}::pg_catalog.text, {}, 'out of range')").format(column, sql.Literal(one))
    return sql.SQL("{}::{} AS {}").format(column, sql.SQL(type_name(to)), sql.Identifier(name))


# For each column: its type, what the source casts it to ("" for nothing), and the type it is staged as where that is another.
# Built-in types keep theirs: their numbers and binary formats are the same on every server. A domain becomes its base type,
# an enum or a type of an extension text (arrays of them text[]). The bytes of money mean what lc_monetary says, so it is read
# as numeric; those of interval mean another thing from version 17 on (infinity), so it is staged as text and an interval
# again for whoever reads the stage, where a server that has no such value says so.
_TYPES = """
    WITH RECURSIVE given AS (
        SELECT * FROM unnest(%s::oid[], %s::int4[]) WITH ORDINALITY AS g(type, typmod, ord)
    ), base AS (
        SELECT ord, type, typmod, 0 AS depth FROM given
        UNION ALL
        SELECT b.ord, t.typbasetype, t.typtypmod, b.depth + 1 FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.type AND t.typtype = 'd'
    ), last AS (
        SELECT DISTINCT ON (ord) * FROM base ORDER BY ord, depth DESC
    ), seen AS (
        SELECT l.ord, l.depth > 0 AS domain, t.typname::text AS name, CASE WHEN t.typcategory = 'A' THEN '[]' ELSE '' END AS many,
               pg_catalog.format_type(l.type, l.typmod) AS type,
               t.oid < 16384 AND t.typtype IN ('b', 'r', 'm') AND t.typsend <> 0
                   AND t.typname !~ '^_?(reg|pg_|aclitem|oidvector|int2vector|unknown|cstring|gtsvector)' AS portable
          FROM last l JOIN pg_catalog.pg_type t ON t.oid = l.type
    )
    SELECT CASE WHEN name IN ('money', '_money') THEN 'numeric' || many WHEN portable THEN type ELSE 'text' || many END,
           CASE WHEN name IN ('money', '_money') THEN 'numeric' || many WHEN name IN ('interval', '_interval') OR NOT portable
                THEN 'text' || many WHEN domain THEN type ELSE '' END,
           CASE WHEN name IN ('interval', '_interval') THEN 'text' || many ELSE '' END
      FROM seen ORDER BY ord
"""
