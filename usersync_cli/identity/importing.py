"""Mappings from a CSV file: read line by line, compared and written set-wise, in one transaction. Lines that are wrong are set aside."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import statements
from usersync_cli.errors import ConfigError
from usersync_cli.identity import mappings
from usersync_cli.identity.domains import domain_of
from usersync_cli.signals import Stop
from usersync_cli.state import rejects

_SQL = statements(__name__)
JOB = "mappings import"
"""Under which rejects of such a file are kept; the step is the file's name."""
SHOWN = 20  # lines that a message names
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_DELIMITERS = ",;\t|"
_IDS = ("id", "app_id", "customer_app_id", "aoo_id")  # Klanten has called it each of these
_CUSTOMERS = ("customer", "domain", "uuid")
_OF_EXPORTS = ("pinned", "rule", "value", "job", "decided_by", "opened_at")  # which say where a mapping came from
_ESCAPED = re.compile(r"'+[-=+@\t\r\n]")  # as `mappings export` writes what a spreadsheet would take for a formula


@dataclass(frozen=True)
class Csv:
    """How a file is read. encoding: "" is UTF-8, or what its byte order mark says; raw: no ' in front of formulas is taken away."""

    encoding: str = ""
    delimiter: str = ""  # "": the one that its header has
    raw: bool = False


@dataclass
class Imported:
    """What an import did, or would do."""

    lines: int = 0
    assigned: mappings.Assigned = field(default_factory=mappings.Assigned)
    customers: int = 0  # new ones
    bad: Counter[str] = field(default_factory=Counter)  # by reason
    first: Sequence[tuple[int, str, str]] = ()  # line, reason, detail
    dropped: int = 0  # of the bad ones, those that somebody has dropped as they are
    ignored: Sequence[str] = ()  # columns that say nothing here

    @property
    def waiting(self) -> int:
        """Lines that wait for a person."""
        return self.bad.total() - self.dropped


# the file


@contextmanager
def opened(file: Path, options: Csv, stdin: BinaryIO) -> Iterator[Lines]:
    """The lines of a file, or of stdin for `-`. Raises ConfigError where it can't be read, or lacks a column."""
    try:
        with nullcontext(stdin) if str(file) == "-" else file.open("rb") as binary:
            yield Lines(file, binary, options)
    except (UnicodeDecodeError, UnicodeError) as error:
        encoding = options.encoding or "utf-8"
        raise ConfigError(
            f"{file} is not {encoding} text; nothing was changed", hint="say what it is: --encoding cp1252 is what spreadsheets often write"
        ) from error
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}", hint="name a CSV file, or - for stdin") from error


class Lines:
    """The lines of a CSV file, as rows for the temp table; the header is read at once."""

    def __init__(self, file: Path, binary: BinaryIO, options: Csv) -> None:
        self.file, self._raw = file, options.raw
        buffered = io.BufferedReader(binary) if not isinstance(binary, io.BufferedReader) else binary  # type: ignore[type-var]
        head = buffered.peek(4)[:4]
        bom = next((name for mark, name in _BOMS.items() if head.startswith(mark)), "utf-8")
        self._text = io.TextIOWrapper(buffered, encoding=options.encoding or bom, newline="")
        first = self._text.readline()
        self._delimiter = options.delimiter or _delimiter(first)
        self._header = next(self._parsed([first]), [])
        self.columns, self.ignored = self._columns()
        self._exported = set(_OF_EXPORTS) <= {name.strip().lower() for name in self._header}
        self._texts = self._parsed(self._text)

    def _parsed(self, lines: Any) -> Iterator[list[str]]:
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        self._reader = reader
        while True:
            try:
                found = next(reader, None)
            except csv.Error as error:
                at = reader.line_num + (1 if lines is self._text else 0)
                hint = 'a cell with a quote in it is written "a""b"'
                raise ConfigError(f"{self.file}, line {at}: {error}; nothing was changed", hint=hint) from error
            if found is None:
                return
            yield found

    def _columns(self) -> tuple[Mapping[str, int], Sequence[str]]:
        names = [name.strip().lower() for name in self._header]
        if not any(names):
            raise ConfigError(f"{self.file} is empty; it needs a header: app,id,customer")
        if twice := next((name for name, number in Counter(names).items() if name and number > 1), None):
            raise ConfigError(f"{self.file}, line 1: column {twice} is there twice; nothing was changed")
        there = {name: at for at, name in enumerate(names)}
        ids = [name for name in _IDS if name in there]
        missing = [name for name, has in (("app", "app" in there), ("id", bool(ids))) if not has]
        if not any(name in there for name in _CUSTOMERS):
            missing.append("customer (or domain, or uuid)")
        if missing:
            raise ConfigError(
                f"{self.file}, line 1: there is no column {' and no column '.join(missing)}; nothing was changed",
                hint=f"the first line names the columns: app,id,customer; this one has {', '.join(self._header) or 'none'}",
            )
        used = {"app": there["app"], "id": there[ids[0]], **{name: there[name] for name in _CUSTOMERS if name in there}}
        return used, [name for name in names if name not in {"app", ids[0], *_CUSTOMERS, *_OF_EXPORTS}]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Rows of pg_temp.usersync_lines: number, app, id, domain, uuid, why, detail, document."""
        before = 0
        for cells in self._texts:
            number, before = before + 2, self._reader.line_num
            if any(cells):
                yield self._row(number, cells)

    def _row(self, number: int, cells: Sequence[str]) -> tuple[Any, ...]:
        if len(cells) != len(self._header):
            return self._wrong(number, cells, "cells", f"{len(cells)} cells, and the header has {len(self._header)}")
        values = {name: self._cell(cells[at]).strip() for name, at in self.columns.items()}
        app, id_ = values["app"], values["id"]
        if id_ and self._exported:
            id_ = self._cell(cells[self.columns["id"]])  # as the map has it: blanks may be part of a job's ids
        if not app or not id_:
            return self._wrong(number, cells, "empty", f"the {'id' if app else 'app'} is empty")
        if len(id_) > mappings.LONGEST or "\0" in "".join(cells):
            return self._wrong(number, cells, "bad_id", "the id is too long, or holds a NUL character")
        domain, uuid, why, detail = _customer(values)
        if why:
            return self._wrong(number, cells, why, detail)
        return (number, app, id_, domain, uuid, None, None, None)

    def _cell(self, text: str) -> str:
        if not self._raw and text.startswith("'") and _ESCAPED.match(text):
            text = text[1:]
        return text

    def _wrong(self, number: int, cells: Sequence[str], why: str, detail: str) -> tuple[Any, ...]:
        named = dict(zip(self._header, cells, strict=False)) if len(cells) <= len(self._header) else list(cells)
        document = json.dumps(named, ensure_ascii=False).replace("\\u0000", "").encode()
        return (number, None, None, None, None, why, detail, document)


def _delimiter(first: str) -> str:
    """The character that stands between the cells of a header."""
    return max(_DELIMITERS, key=first.count)


def _customer(values: Mapping[str, str]) -> tuple[str | None, UUID | None, str, str]:
    """Domain and uuid that a line names, or why it names none."""
    domain, uuid = values.get("domain", ""), values.get("uuid", "")
    if customer := values.get("customer", ""):
        is_uuid = _uuid(customer) is not None
        same = _uuid(uuid) == _uuid(customer) if is_uuid else _domain(domain) == _domain(customer)
        if (uuid if is_uuid else domain) and not same:
            return None, None, "customer_differs", f"customer is another than {'uuid' if is_uuid else 'domain'}"
        domain, uuid = (domain, customer) if is_uuid else (customer, uuid)
    if not domain and not uuid:
        return None, None, "empty", "it names no customer"
    found = _uuid(uuid) if uuid else None
    if uuid and not found:
        return None, None, "bad_uuid", "the uuid is not one"
    normal, wrong = _domain(domain) if domain else (None, "")
    return normal, found, "bad_domain" if wrong else "", wrong


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


@lru_cache(maxsize=100_000)
def _domain(text: str) -> tuple[str | None, str]:
    try:
        return domain_of(text), ""
    except ConfigError as error:
        return None, error.message  # which does not repeat it: it may be a person's address


# the import


def load(tx: Connection, lines: Lines, decision: mappings.Decision, *, move: bool, stop: Stop | None = None) -> Imported:
    """Import the lines, in `place.writing`. Whoever is mapped to somebody else is moved, or set aside with the other wrong lines."""
    found = compare(tx, lines, move=move, stop=stop)
    tx.execute(_SQL["add_customers"], {"by": decision.by})
    found.assigned = mappings.write_looked(tx, decision)
    step = lines.file.name if str(lines.file) != "-" else "stdin"
    tx.execute(_SQL["forget"], {"job": JOB, "step": step})
    rejects.prune(tx, JOB)
    if found.bad:
        found.dropped = rejects.store_rows(tx, JOB, step, "", 0, sql.SQL(_SQL["rejects"]), {}).dropped
    return found


def compare(tx: Connection, lines: Lines, *, move: bool, stop: Stop | None = None) -> Imported:
    """Compare the lines with the map; nothing is written but temp tables, which end with the transaction."""
    tx.execute("SET LOCAL statement_timeout TO 0")
    tx.execute(_SQL["open"])
    found = Imported(ignored=lines.ignored)
    with tx.cursor().copy(_SQL["copy"]) as copy:
        for row in lines:
            copy.write_row(row)
            found.lines += 1
            if stop and not found.lines % 1000:
                stop.check()
    tx.execute("ANALYZE pg_temp.usersync_lines")
    for name in ("unknown_apps", "twice", "customers"):
        tx.execute(_SQL[name])
    tx.execute("ANALYZE pg_temp.usersync_named")
    for name in ("differ", "name"):
        tx.execute(_SQL[name])
    mappings.open_given(tx)
    tx.execute(_SQL["give"])
    tx.execute("ANALYZE pg_temp.usersync_given")
    mappings.look(tx)
    if not move:
        tx.execute(_SQL["taken"])
        tx.execute(_SQL["drop_taken"])
    tx.execute("ANALYZE pg_temp.usersync_looked")
    found.assigned = mappings.looked(tx)
    found.customers = tx.execute(_SQL["new_customers"]).fetchall()[0][0]
    found.bad = Counter({why: number for why, number in tx.execute(_SQL["counts"]).fetchall() if why})
    found.first = tx.execute(_SQL["bad"], {"most": SHOWN}).fetchall()
    return found
