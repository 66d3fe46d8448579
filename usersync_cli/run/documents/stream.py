"""One stream of documents on its way into its table: how it is read, what is remembered of it, what a page asks of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.catalog import Table, describe, locate
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import ConfigError
from usersync_cli.load import stage
from usersync_cli.load.binding import Own, bind
from usersync_cli.load.known import Known
from usersync_cli.load.merge import Merge
from usersync_cli.load.rejects import Limits
from usersync_cli.load.spelling import Spelling, spelling_of
from usersync_cli.load.table import SETTINGS, TableLoad
from usersync_cli.model import Column, Desired, Step
from usersync_cli.ports import BringsComments, BringsDefinition, BringsTransform, NumbersVersions, Session, Source
from usersync_cli.run.context import reads
from usersync_cli.run.documents.preview import Came, Foreseen
from usersync_cli.state.ledger import StoredCursor
from usersync_cli.state.readings import Scope

# A page is small, what it is joined with may be big, and often has no statistics yet: its rows are better looked up by index.
PAGE_SETTINGS = {**SETTINGS, "random_page_cost": "1"}


@dataclass(frozen=True)
class StreamTable:
    """The step's load, with the stream's own table."""

    table: str
    key: Sequence[str]
    create: bool
    order_by: str | None
    on_missing: str
    max_missing: float
    adopt_existing: bool
    missing_window: timedelta
    live_view: bool
    target: str = "target"


def transform_of(step: Step, source: Source, stream: str) -> str:
    """The step's own SELECT, else the source's, else key and document as they are."""
    if step.transform:
        return step.transform
    if isinstance(source, BringsTransform):
        return source.transform(stream)
    if len(step.load.key) > 1:
        raise ConfigError(f"step {step.name} needs a transform: its key has several columns", hint="SELECT ... FROM records")
    name = sql.Identifier(step.load.key[0]).as_string(None)
    return f"SELECT key AS {name}, data FROM records"  # noqa: S608  a quoted name


def definition_of(step: Step, source: Source, stream: str) -> str:
    """The columns of a new table, where the source's own SELECT fills it and the source says which it has; else ""."""
    return source.definition(stream).strip() if isinstance(source, BringsDefinition) and not step.transform else ""


def comments_of(step: Step, source: Source, stream: str) -> Mapping[str, str]:
    """What the source says of the columns of a new table, where its own SELECT fills it."""
    return source.comments(stream) if isinstance(source, BringsComments) and not step.transform else {}


def is_numbered(session: Session, stream: str) -> bool:
    """Whether the versions of this stream are numbers; otherwise they are time stamps."""
    return isinstance(session, NumbersVersions) and stream in session.numbered


def named(table: str, key: Sequence[str]) -> str:
    """What the memory of a stream belongs to."""
    return f"{table} ({', '.join(key)})"


def stage_name(step: Step) -> str:
    """What transforms call the page: the extract's name; a source's own transforms call it records."""
    return next(iter(step.extract)) if step.transform else "records"


class StreamLoad:
    """One stream on its way into its table. What changes with each page is as of the last commit."""

    def __init__(self, step: Step, source: Source, name: str, scope: Mapping[str, Any], *, numbered: bool) -> None:
        load = step.load
        self.name = name
        self.load = StreamTable(
            load.table.replace("{stream}", name),
            load.key,
            load.create,
            load.order_by,
            load.on_missing,
            load.max_missing,
            load.adopt_existing,
            load.missing_window,
            load.live_view,
        )
        self.target = TableLoad(self.load, definition_of(step, source, name), comments_of(step, source, name))
        self.transform = transform_of(step, source, name)
        self.own = Own.of(step, self.transform)
        self.stage = stage_name(step)
        (extract,) = step.extract.values()
        text = repr((extract.source, name, self.transform, self.load.table, list(self.load.key)))
        goal = named(self.load.table, self.load.key)
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        read = reads(step, {extract.source: source}, name)
        self.known = Known(
            Scope(**scope, stream=name, target=goal, fingerprint=fingerprint, reads=read, window=load.missing_window), numbered
        )
        self.looked: tuple[Merge, Table] | None = None  # how it fits into its table, when somebody last looked
        self.fitted: tuple[Merge, Table] | None = None  # the same since a page was written
        self._spelling: Spelling | None = None
        self.checked = False  # a complete listing was accepted before, of this same step: the next one shows whether the log has kept it so
        self.drift: Counter[str] = Counter()  # so far, in the listing under way
        self.fresh = True  # nothing of this reading was committed yet, and it did not begin at a cursor
        self.judged = False  # with the last page, the end of a complete listing, the rows that may go were judged
        self.stored: StoredCursor | None = None
        self.cursor_version = 0
        self.limits = Limits(step.name)
        self.waiting = 0  # rejects that came in this run, without those that are dropped
        self.foreseen = Foreseen()
        self.lost, self.lost_rows = Came(), 0  # rows that we wrote, and that have vanished since
        self.codec: str | None = None  # in which the target keeps text, where it does not hold any
        self.others: int | None = None  # rows of the table that are not ours, where that has changed
        self.passed: set[str] = set()  # keys of which this listing had only records that it had passed over before

    @property
    def removes(self) -> bool:
        return self.load.on_missing != "keep"

    @property
    def knows_spelling(self) -> bool:
        """Whether `spelling` needs no statement."""
        return self._spelling is not None and not (self._spelling.table is None and self.fitted)

    def has_lost(self, key: str) -> bool:
        """Whether the row of the record of this key has vanished from the table."""
        return self.lost_rows > 0 and key in self.lost

    def spelling(self, tx: Connection) -> Spelling:
        """How the table spells keys. In a transaction; raises Drift where the stream does not fit its table."""
        if self._spelling is None or not self.knows_spelling:
            self._spelling = _spelling(tx, self)
        return self._spelling

    def columns(self) -> list[Column]:
        """The columns of the stage that a page goes through."""
        return [Column("key", "text"), Column("data", "jsonb"), Column("version", self.known.version_type),
                Column("deleted", "boolean"), Column("ord", "bigint")]  # fmt: skip


def fit(tx: Connection, stream: StreamLoad) -> tuple[Merge, Table | None]:
    """How the stream fits into its table: an empty page is staged, and nothing stays of it. Raises Drift where it does not.

    What an earlier transaction found is good as long as the table is described as it was then.
    """
    if found := _as_before(tx, stream):
        return found
    with bound(tx, stream) as desired:
        return _look(tx, stream, desired)


def _as_before(tx: Connection, stream: StreamLoad) -> tuple[Merge, Table] | None:
    looked = stream.looked
    return looked if looked and describe(tx, stream.load.table) == looked[1] else None


def _look(tx: Connection, stream: StreamLoad, desired: Desired) -> tuple[Merge, Table | None]:
    merge, table = stream.target.fit(desired, tx)
    stream.looked = (merge, table) if table else None
    return merge, table


def is_lacking(tx: Connection, stream: StreamLoad) -> bool:
    """Whether the stream's table, or its live view, is still to be made after a reading: no record has brought it."""
    if stream.fitted or stream.looked:
        return stream.target.view is not None and stream.target.view.is_lacking(tx)
    return stream.load.create and locate(tx, stream.load.table) is None


def make_empty(tx: Connection, stream: StreamLoad) -> None:
    """Make what `is_lacking`. In a transaction; raises Drift where the transform gives nothing that can be a table."""
    with bound(tx, stream) as desired:
        _look(tx, stream, desired)
    stream.target.make_empty(tx)


@contextmanager
def bound(tx: Connection, stream: StreamLoad) -> Iterator[Desired]:
    """The transform over no record, for as long as the body runs. Raises ConfigError where it is not one SELECT over the records."""
    with tx.transaction(force_rollback=True):
        yield Desired(bind(tx, stream.own, [stage.create(tx, stream.stage, stream.columns())]), 0, part=True)


def _spelling(tx: Connection, stream: StreamLoad) -> Spelling:
    if found := stream.fitted or _as_before(tx, stream):
        return spelling_of(tx, *found)
    with bound(tx, stream) as desired:
        return spelling_of(tx, *_look(tx, stream, desired))
