"""All mappings as CSV, by COPY out of one snapshot, so that memory is the same however many there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import listed, statements
from usersync_cli.identity import mappings
from usersync_cli.signals import Stop

_SQL = statements(__name__)
_COLUMNS = ("app", "id", "domain", "uuid", "pinned", "rule", "value", "job", "decided_by", "opened_at")
_BLOCK = 128 * 1024
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Csv:
    """Which mappings, and how they are written."""

    app: str | None = None
    delimiter: str = ","
    pinned: bool = False  # only what people decided
    bom: bool = False
    raw: bool = False  # formulas as they are


def blocks(tx: Connection, options: Csv, stop: Stop | None = None) -> Iterator[bytes]:
    """The file in blocks, in the order of app and id. Raises NotFound for an unknown app."""
    if options.app is not None:
        mappings.require_app(tx, options.app)
    block = bytearray((_BOM if options.bom else b"") + options.delimiter.join(_COLUMNS).encode() + b"\r\n")
    with tx.cursor().copy(_copy(options)) as copy:
        for row in copy:  # one message for each row, which ends with \n
            block += row
            block[-1:] = b"\r\n"
            if len(block) >= _BLOCK:
                if stop:
                    stop.check()
                yield bytes(block)
                block.clear()
    yield bytes(block)


def _copy(options: Csv) -> sql.Composed:
    which = [
        sql.SQL("m.app = {}").format(options.app) if options.app else sql.SQL("true"),
        sql.SQL("m.pinned" if options.pinned else "true"),
    ]
    rows = sql.SQL(_SQL["export"]).format(which=sql.SQL(" AND ").join(which))
    cells = listed(_cell(name, raw=options.raw) for name in _COLUMNS)
    statement = "COPY (SELECT {} FROM ({}) AS q) TO STDOUT (FORMAT csv, DELIMITER {}, ENCODING 'UTF8')"
    return sql.SQL(statement).format(cells, rows, sql.Literal(options.delimiter))


def _cell(name: str, *, raw: bool) -> sql.Composed:
    """A cell. What a spreadsheet would take for a formula begins with ' (OWASP, "CSV Injection"), also where it begins so already:
    so an import, which takes one away, gets back what was there."""
    cell = sql.SQL("q.{}::text").format(sql.Identifier(name))
    return cell if raw else sql.SQL(r"regexp_replace({}, E'^(?=''*[-=+@\t\r\n])', '''')").format(cell)
