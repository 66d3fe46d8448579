"""One stream of documents on its way into its table: how it is read, what is remembered of it, what a page asks of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.catalog import Table
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import ConfigError, GuardRefused
from usersync_cli.load import rejects
from usersync_cli.load.binding import Own
from usersync_cli.load.guard import Scope
from usersync_cli.load.known import Met, Seen
from usersync_cli.load.merge import Merge
from usersync_cli.load.rejects import Limits
from usersync_cli.load.spelling import Spelling, spelling_of
from usersync_cli.load.table import Target
from usersync_cli.model import Column, Counts, Record, Step
from usersync_cli.run.context import reads
from usersync_cli.run.documents.batch import Item, bound
from usersync_cli.run.documents.preview import Came
from usersync_cli.state.ledger import StoredCursor
from usersync_cli.state.rejects import Reject

BAD_VERSION = "bad_version"
KEY_TOO_LONG = "key_too_long"
LONGEST_KEY = 2000  # bytes: an index entry has 2,704 at most, and that of a reject holds the names of job, step and stream too
_NUMBER = re.compile(r"[+-]?[0-9]{1,1000}(\.[0-9]{1,1000})?([eE][+-]?[0-9]{1,4})?")


@dataclass(frozen=True)
class StreamLoad:
    """Where one stream goes: the step's load with the stream's own table."""

    table: str
    key: Sequence[str]
    create: bool
    order_by: str | None
    on_missing: str
    max_missing: float
    adopt_existing: bool
    missing_window: timedelta
    target: str = "target"


def transform_of(step: Step, source: object, stream: str) -> str:
    """The step's own SELECT, else the source's, else key and document as they are."""
    if step.transform:
        return step.transform
    if (own := getattr(source, "transform", None)) is not None:
        return str(own(stream))
    if len(step.load.key) > 1:
        raise ConfigError(f"step {step.name} needs a transform: its key has several columns", hint="SELECT ... FROM records")
    name = sql.Identifier(step.load.key[0]).as_string(None)
    return f"SELECT key AS {name}, data FROM records"  # noqa: S608  a quoted name


def definition_of(step: Step, source: object, stream: str) -> str:
    """The columns of a new table, where the source's own SELECT fills it and the source says which it has; else ""."""
    own = None if step.transform else getattr(source, "definition", None)
    return str(own(stream)).strip() if own else ""


def named(table: str, key: Sequence[str]) -> str:
    """What the memory of a stream belongs to."""
    return f"{table} ({', '.join(key)})"


def stage_name(step: Step) -> str:
    """What transforms call the page: the extract's name; a source's own transforms call it records."""
    return next(iter(step.extract)) if step.transform else "records"


class Into:
    """One stream on its way into its table. What changes with each page is as of the last commit."""

    def __init__(self, step: Step, source: object, stream: str, scope: Mapping[str, Any], *, numbered: bool) -> None:
        load = step.load
        self.name = stream
        self.load = StreamLoad(
            load.table.replace("{stream}", stream),
            load.key,
            load.create,
            load.order_by,
            load.on_missing,
            load.max_missing,
            load.adopt_existing,
            load.missing_window,
        )
        self.target = Target(self.load, definition_of(step, source, stream))
        self.transform = transform_of(step, source, stream)
        self.own = Own.of(step, self.transform)
        self.stage = stage_name(step)
        (extract,) = step.extract.values()
        text = repr((extract.source, stream, self.transform, self.load.table, list(self.load.key)))
        into = named(self.load.table, self.load.key)
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        read = reads(step, {extract.source: source}, stream)
        self.seen = Seen(
            Scope(**scope, stream=stream, target=into, fingerprint=fingerprint, reads=read, window=load.missing_window), numbered
        )
        self.fitted: tuple[Merge, Table] | None = None
        self._spelling: Spelling | None = None
        self.fresh = True  # nothing of this reading was committed yet, and it did not begin at a cursor
        self.judged = False  # whoever left was judged with the last page: a complete listing, and what the source said
        self.stored: StoredCursor | None = None
        self.cursor_version = 0
        self.limits = Limits(step.name)
        self.waiting = 0  # rejects that came in this run, without those that are dropped
        self.came = Came()  # of a dry run: what came so far
        self.told: dict[str, int] = {}  # of a dry run: who was told to be gone, or left out
        self.lost, self.lost_rows = Came(), 0  # rows that we wrote, and that have vanished since
        self.codec: str | None = None  # in which the target keeps text, where it does not hold any
        self.others: int | None = None  # rows of the table that are not ours, where that has changed
        self.passed: set[str] = set()  # of whose key this listing had only records that it had passed over before
        self.records = 0  # of a dry run: so many records of the sweep

    @property
    def removes(self) -> bool:
        return self.load.on_missing != "keep"

    @property
    def knows_spelling(self) -> bool:
        """Whether `spelling` asks nobody."""
        return self._spelling is not None and not (self._spelling.table is None and self.fitted)

    def has_lost(self, key: str) -> bool:
        """Whether the row of this one has vanished from the table."""
        return self.lost_rows > 0 and key in self.lost

    def spelling(self, tx: Connection) -> Spelling:
        """How the table spells keys. In a transaction; raises Drift where the stream does not fit its table."""
        if self._spelling is None or not self.knows_spelling:
            self._spelling = _spelling(tx, self)
        return self._spelling

    def columns(self) -> list[Column]:
        """Of its stage."""
        return [Column("key", "text"), Column("data", "jsonb"), Column("version", self.seen.version_type),
                Column("deleted", "boolean"), Column("ord", "bigint")]  # fmt: skip


@dataclass
class Work:
    """What a page asks of one stream: decided before the transaction begins."""

    into: Into
    sweep: str = ""  # the complete listing that the page is part of
    counts: Counts = field(default_factory=Counts)
    items: list[Item] = field(default_factory=list)  # to be loaded
    relisted: list[Item] = field(default_factory=list)  # the same document as before, listed otherwise
    told: list[Item] = field(default_factory=list)  # said to be gone
    buried: list[Item] = field(default_factory=list)  # said to be gone, and without a row
    bad: list[Reject] = field(default_factory=list)  # no use to anybody
    met_again: list[str] = field(default_factory=list)  # rejects, unchanged
    dropped: int = 0  # of these, those that a person has dropped
    back: list[str] = field(default_factory=list)
    respelt: dict[str, str] = field(default_factory=dict)  # keys as they were remembered, and as they are spelt now
    rows: dict[str, str] = field(default_factory=dict)  # how rows spell keys
    owed: list[str] = field(default_factory=list)  # at the source, but their documents can't be had today
    met: list[str] = field(default_factory=list)  # keys that are at the source
    size: int = 0
    leaving: Leaving | None = None
    refusal: GuardRefused | None = None

    @property
    def present(self) -> list[str]:
        """Under which keys those who are at the source are remembered, until the page is stored."""
        return [*self.met, *self.respelt]


@dataclass(frozen=True)
class Leaving:
    """Whom a complete listing lacks. `keys` may go when the guard agrees; None: everybody, but the guard has refused already."""

    keys: Collection[str] | None = ()
    reason: str = ""
    first: Collection[str] = ()  # lacked for the first time, and that is not enough


def _spelling(tx: Connection, into: Into) -> Spelling:
    if into.fitted:
        return spelling_of(tx, *into.fitted)
    with bound(tx, into) as desired:
        return spelling_of(tx, *into.target.fit(desired, tx))


# records


def item(into: Into, record: Record) -> Item | Reject:
    """The record with its hash and its version as PostgreSQL reads it; a reject, if it can't be one."""
    key = record.key if _is_text(record.key, into.codec) else None
    if record.problem or key is None:
        return Reject(key, record.problem or rejects.NO_KEY, document=record.data)
    if len(key.encode()) > LONGEST_KEY:
        return Reject(f"{key[:64]}... sha256:{hashlib.sha256(key.encode()).hexdigest()}", KEY_TOO_LONG, document=record.data)
    document = b"{}" if record.deleted else record.data
    if not _is_utf8(document):
        return Reject(key, rejects.NOT_JSON, document=record.data)
    if not _can_be_held(document, into.codec):
        return Reject(key, rejects.UNTRANSLATABLE, document=record.data)
    version = _version(record.version, numbered=into.seen.numbered)
    if version == "":
        return Reject(key, BAD_VERSION, document=record.data)
    hashed = into.seen.hash(record.data)
    return Item(record, document, version, hashed if record.settled else None, hashed)


def _is_utf8(document: bytes) -> bool:
    """Whether PostgreSQL reads it as text."""
    try:
        return b"\0" not in document and (document.isascii() or bool(document.decode()))
    except UnicodeDecodeError:
        return False


def _can_be_held(document: bytes, codec: str | None) -> bool:
    """Whether the target's encoding has all of its characters."""
    if codec is None or document.isascii():
        return True
    try:
        document.decode().encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def _is_text(key: str, codec: str | None) -> bool:
    """Whether PostgreSQL can hold it."""
    if not key or "\0" in key:
        return False
    if key.isascii():
        return True
    try:
        key.encode(codec or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _version(given: str | None, *, numbered: bool) -> str | None:
    """As PostgreSQL reads it, a time without a zone in UTC; None for none, "" for what is no version."""
    if given is None:
        return None
    if numbered:
        return given if _NUMBER.fullmatch(given) else ""
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        return ""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def duplicates(items: Sequence[Item], *, numbered: bool, same: Mapping[str, object] | None = None) -> dict[int, Met]:
    """Those of which the page has a newer one, by version, then by place. `same` says who is who, where keys alone don't."""
    best: dict[object, tuple[Any, int]] = {}
    for position, item in enumerate(items):
        version = item.version
        order = (version is not None, (Decimal(version) if numbered else datetime.fromisoformat(version)) if version else 0)
        who = (same or {}).get(item.record.key, item.record.key)
        if who not in best or best[who][0] <= order:
            best[who] = (order, position)
    winners = {position for _, position in best.values()}
    return {position: Met(duplicate=True) for position in range(len(items)) if position not in winners}
