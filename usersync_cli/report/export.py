"""A table of the target as text: rows by COPY out of one snapshot, so that memory is the same however many there are.

The server writes CSV and JSON itself, values as its own text: a number keeps all its digits.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Literal

import psycopg
from psycopg import errors, sql

from usersync_cli import spreadsheets
from usersync_cli.clients.postgres.catalog import Table, describe, path
from usersync_cli.clients.postgres.connections import Connection, connect
from usersync_cli.clients.postgres.errors import translate, translated
from usersync_cli.clients.postgres.sql import listed, relation, scalar
from usersync_cli.clients.postgres.transactions import as_ours, as_user, transaction
from usersync_cli.errors import ConfigError, Drift, NotFound
from usersync_cli.model import Database, Job
from usersync_cli.settings import closest
from usersync_cli.shapes import ExportShape
from usersync_cli.signals import Stop

BLOCK_BYTES = 128 * 1024
_BOM = b"\xef\xbb\xbf"
_MARK = "deleted_at"
_TIMES = {"timestamp with time zone", "timestamp without time zone", "date"}
_NUMBERS = {"smallint", "integer", "bigint", "numeric", "real", "double precision", "oid"}  # never a formula, also with a minus sign
_TABLES = {"r", "p", "v", "m", "f"}  # pg_class.relkind of what has rows to read


@dataclass(frozen=True)
class ExportOptions:
    """How an export is written."""

    format: Literal["csv", "jsonl"] = "csv"
    delimiter: str = ";"
    bom: bool = False
    raw: bool = False  # formulas as they are
    everything: bool = False  # marked rows too
    shapes: Mapping[str, ExportShape] = field(default_factory=dict)  # streams that have columns of their own
    fields: Mapping[str, str] = field(default_factory=dict)  # of such a stream: column -> id of a custom field


@dataclass
class Export:
    """An export on its way: `blocks` is lazy and can be read once; `rows` is right when it has ended."""

    table: str
    blocks: Iterator[bytes]
    left_out: int  # marked rows
    rows: int = 0


@contextmanager
def export(database: Database, stop: Stop, jobs: Mapping[str, Job], what: str, options: ExportOptions) -> Iterator[Export]:
    """A table by its name, or a stream that has a shape, such as `contacts`. The snapshot is held until the end of the block.

    `jobs` say which table holds the stream, and who makes a table that is not there. Raises NotFound for a table that
    is not there, ConfigError with the GRANT where a right is missing, Drift where documents are expected and not there.
    """
    connection = connect(database, job="export", stop=stop)
    settings = {"row_security": "off", "idle_in_transaction_session_timeout": "0"}  # a policy may not make the table look shorter
    try:
        with _permitted(connection, database, what), transaction(connection, long=True, snapshot=True, **settings):
            view = _view(connection, jobs, what, options)
            left_out = view.marked(connection) if view.mark and not options.everything else 0
            made = Export(view.name, iter(()), left_out)
            made.blocks = _blocks(connection, stop, view, options, made)
            yield made
    finally:
        if connection.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
            connection.abandon()
        connection.close()


# what to read


@dataclass(frozen=True)
class _View:
    """The part of a table that is written: a SELECT without WHERE that calls the table t, and its columns."""

    name: str
    table: Table
    select: sql.Composed
    columns: Mapping[str, bool]  # name: whether it is a number
    plain: bool = False  # the table or view itself: functions of a view look names up along the role's path

    @property
    def path(self) -> Callable[[Connection], AbstractContextManager[None]]:
        """The search path with which its rows are read."""
        return as_user if self.plain else as_ours

    @property
    def mark(self) -> bool:
        """Whether rows can be marked as deleted."""
        return (found := self.table.columns.get(_MARK)) is not None and found.base in _TIMES

    def marked(self, tx: Connection) -> int:
        """How many are."""
        query = sql.SQL("SELECT pg_catalog.count(*) FROM {} WHERE {} IS NOT NULL").format(self.table.name, sql.Identifier(_MARK))
        with self.path(tx):
            number = scalar(tx, query)
        return int(number)

    def rows(self, tx: Connection, *, everything: bool) -> sql.Composed:
        """The whole SELECT, in the order of the primary key, so that two exports can be compared."""
        parts = [self.select]
        if self.mark and not everything:
            parts.append(sql.SQL("WHERE t.{} IS NULL").format(sql.Identifier(_MARK)))
        if key := [name for (name,) in tx.execute(_KEY, (self.table.oid,)).fetchall()]:
            parts.append(sql.SQL("ORDER BY {}").format(listed(sql.SQL("t.{}").format(sql.Identifier(name)) for name in key)))
        return sql.SQL(" ").join(parts)


def _view(tx: Connection, jobs: Mapping[str, Job], what: str, options: ExportOptions) -> _View:
    shape = options.shapes.get(what)
    if shape and (found := _documents(tx, jobs, shape)):
        name, table = found
        for column, id_ in options.fields.items():
            if tx.execute(shape.lacks(table.name, id_)).fetchone() == (True,):
                no_such = f"--column {column}: no {shape.noun} in {name} has the custom field {id_}"
                raise NotFound(no_such, hint=f"is it a field of {shape.stream}?")
        return _View(name, table, shape.select(table.name, options.fields), dict.fromkeys(shape.columns, False))
    if options.fields:
        shaped = " or ".join(f"{one.stream} of {one.vendor}" for one in options.shapes.values())
        raise ConfigError(f"--column is for {shaped}, and {what} is a table that is written as it is")
    plain = describe(tx, what)
    if plain is None:
        raise _missing(tx, jobs, what)
    if plain.kind not in _TABLES:
        raise NotFound(f"{what} is no table or view")
    numbers = {column.name: column.base in _NUMBERS for column in plain.columns.values()}
    return _View(what, plain, sql.SQL("SELECT t.* FROM {} AS t").format(plain.name), numbers, plain=True)


def _documents(tx: Connection, jobs: Mapping[str, Job], shape: ExportShape) -> tuple[str, Table] | None:
    """The one table with the documents of a stream; None where there is none, but a table that is itself called like the stream."""
    names = sorted({table for _, table in _loaded(jobs, shape.stream)}) or [shape.table]
    there = {name: table for name in names if (table := describe(tx, name))}
    found = [(name, table) for name, table in there.items() if shape.document in table.columns]
    if len(found) > 1:
        raise ConfigError(f"there are {shape.stream} in {' and '.join(name for name, _ in found)}", hint="say whose with --job")
    if found:
        return found[0]
    if describe(tx, shape.stream):
        return None
    if there:
        name = next(iter(there))
        said = f"table {name} holds no documents of {shape.vendor}: it has no column {shape.document}"
        raise Drift(said, hint=f"`usersync export {name}` writes it as it is")
    raise _missing(tx, jobs, names[0])


def _loaded(jobs: Mapping[str, Job], stream: str | None = None) -> Iterator[tuple[str, str]]:
    """Job and table of each step, or of those that read this stream."""
    for name, job in jobs.items():
        for step in job.steps:
            streams: Sequence[str] = [one for extract in step.extract.values() for one in extract.streams]
            for one in streams or [""]:
                if stream in (None, one):
                    yield name, step.load.table.replace("{stream}", one)


def _missing(tx: Connection, jobs: Mapping[str, Job], name: str) -> NotFound:
    """What to do about a table that is not there."""
    if job := next((job for job, table in _loaded(jobs) if table == name), None):
        return NotFound(f"table {name} is not there yet", hint=f"`usersync run --job {job}` loads it")
    known = [str(one) for (one,) in tx.execute(_KNOWN, (path(tx),)).fetchall()]
    # the same name in other letters, or in a schema that the role does not look at by itself
    near = next((one for one in known if name.casefold() in (one.casefold(), one.rpartition(".")[2].casefold())), closest(name, known))
    hint = f"did you mean {near}?" if near else "`usersync db shell` shows what is there: \\d"
    return NotFound(f"there is no table {name} in the target", hint=hint)


_KEY = """
    SELECT a.attname::text
      FROM pg_catalog.pg_index i
      JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ord) ON k.ord <= i.indnkeyatts
      JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
     WHERE i.indrelid = %s AND i.indisprimary
     ORDER BY k.ord
"""
_KNOWN = """
    SELECT CASE WHEN n.nspname = ANY (%s) THEN c.relname::text ELSE n.nspname || '.' || c.relname END
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
     ORDER BY n.nspname = 'usersync', 1
     LIMIT 10000
"""


# how it is written


def _blocks(connection: Connection, stop: Stop, view: _View, options: ExportOptions, made: Export) -> Iterator[bytes]:
    block = bytearray(_head(view, options))
    end = b"\r\n" if options.format == "csv" else b"\n"
    statement = _copy(view.rows(connection, everything=options.everything), view, options)
    with view.path(connection), connection.cursor().copy(statement) as copy:
        for row in copy:  # PostgreSQL sends one message for each row, and ends it with \n
            block += row
            block[-1:] = end
            made.rows += 1
            if len(block) >= BLOCK_BYTES:
                stop.check()
                yield bytes(block)
                block.clear()
    yield bytes(block)


def _head(view: _View, options: ExportOptions) -> bytes:
    if options.format != "csv":
        return b""
    line = io.StringIO()
    names = view.columns if options.raw else (spreadsheets.text(name) for name in view.columns)
    csv.writer(line, delimiter=options.delimiter).writerow(names)  # ends with \r\n, as RFC 4180 has it
    return (_BOM if options.bom else b"") + line.getvalue().encode()


def _copy(rows: sql.Composed, view: _View, options: ExportOptions) -> sql.Composed:
    if options.format == "csv":
        cells = listed(_cell(name, guarded=not number and not options.raw) for name, number in view.columns.items())
        statement = "COPY (SELECT {} FROM ({}) AS q) TO STDOUT (FORMAT csv, DELIMITER {}, ENCODING 'UTF8')"
        return sql.SQL(statement).format(cells, rows, sql.Literal(options.delimiter))
    # White space between the parts of a `json` value is kept, and is all that could break a line. Without control
    # characters, nothing has to be quoted in this CSV: JSON comes through as it is.
    return sql.SQL(
        r"COPY (SELECT pg_catalog.translate(pg_catalog.row_to_json(q.*)::pg_catalog.text, E'\t\n\r', '   ') FROM ({}) AS q) TO STDOUT"
        r" (FORMAT csv, DELIMITER E'\x02', QUOTE E'\x01', ENCODING 'UTF8')"
    ).format(rows)


def _cell(name: str, *, guarded: bool) -> sql.Composed:
    cell = sql.SQL("q.{}::pg_catalog.text").format(sql.Identifier(name))
    # What a spreadsheet would take for a formula begins with ' (OWASP, "CSV Injection").
    return sql.SQL(r"pg_catalog.regexp_replace({}, E'^(?=[-=+@\t\r\n])', '''')").format(cell) if guarded else cell


# rights


@contextmanager
def _permitted(connection: Connection, database: Database, what: str) -> Iterator[None]:
    """Report a missing right together with the statement that grants it."""
    doing = f"exporting {what}"
    with translated(database, doing):
        try:
            yield
        except errors.InsufficientPrivilege as error:
            hint = _grant(error.diag.message_primary or "", what, sql.Identifier(connection.info.user).as_string(None))
            raise ConfigError(translate(error, database, doing).message, hint=hint) from error


_REFUSED = re.compile(r"permission denied for (schema|table|view|materialized view|foreign table) (\S+)")


def _grant(said: str, what: str, role: str) -> str:
    if "row-level security" in said:
        return f"a policy would hide rows from this role; an administrator runs: ALTER ROLE {role} BYPASSRLS;"
    if not (refused := _REFUSED.fullmatch(said)):
        return f"the role {role} needs SELECT on all that is read, and USAGE on its schema"
    kind, name = refused.groups()
    if kind == "schema":
        return f"GRANT USAGE ON SCHEMA {sql.Identifier(name).as_string(None)} TO {role};"
    whole = relation(what) if what.rpartition(".")[2] == name else sql.Identifier(name)
    return f"GRANT SELECT ON {whole.as_string(None)} TO {role};"
