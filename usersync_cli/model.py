"""The words of usersync and its two ports. What flows is frozen; what a port promises stands in its docstring.

docs/decisions/0001-ports.md holds the two ports against the systems that they have to carry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, TypeVar

from usersync_cli.signals import Stop

if TYPE_CHECKING:
    from psycopg import Connection as _Connection
    from psycopg import sql

    Connection: TypeAlias = _Connection[Any]

OWN_SCHEMA = "usersync"
"""Where usersync keeps its own tables in the target database; nothing of anybody else's is read or written in it."""

Cursor: TypeAlias = Mapping[str, Any]
"""Where a source resumes: a JSON object that only its source reads."""


@dataclass(frozen=True)
class Database:
    """One Postgres database: a libpq URL, and the private server's folder when it is one of the embedded ones."""

    url: str = field(repr=False)  # may hold a password
    name: str  # how messages call it: "target", "source av_accounts"
    embedded: Path | None = None  # folder of the private server; None for a server of the user's own


@dataclass(frozen=True)
class Column:
    """One column of a SELECT: its name, and its type as `format_type` prints it (schema-qualified unless built in)."""

    name: str
    type: str
    wire: str = ""  # the type to stage it as, where servers mean different things by the bytes of `type`; "": as it is


@dataclass(frozen=True)
class Stream:
    """One kind of record to read. A SQL source needs to be told what it is: a table or a query."""

    name: str
    table: str | None = None
    query: str | None = None
    as_text: bool = False  # of a SQL source: another way than a run's, so that a mistake on that way does not hide itself
    # Of documents, the keys that an interrupted complete listing had, page by page, when `since` goes on with it.
    listed: Callable[[], Iterable[Sequence[str]]] = field(default=tuple, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Record:
    """One document: its key, its own bytes, its version and whether the source says it is deleted."""

    stream: str
    key: str
    data: bytes = field(repr=False)  # JSON as it came: precision is kept by not parsing it
    version: str | None = None  # ISO 8601 time stamp or number, typed by the stage
    deleted: bool = False
    problem: str = ""  # why it can't be loaded, where the source sees that itself: not_json, not_an_object, no_key
    settled: bool = True  # False: so young that its document may still change without its version; it is fetched again next time
    whole: bool = False  # True: it is loaded, and its whole document read, also when its listing is the one that we know


@dataclass(frozen=True)
class Documents:
    """A page of documents, in the order in which the source gave them."""

    records: Sequence[Record]


@dataclass(frozen=True)
class Copy:
    """A whole table on its way: blocks of one of PostgreSQL's COPY formats. `blocks` is lazy and can be read once."""

    stream: str
    columns: Sequence[Column]
    blocks: Iterable[bytes | bytearray | memoryview] = field(repr=False)
    format: Literal["binary", "text"] = "binary"


@dataclass(frozen=True)
class Page:
    """One stream's records, or several streams' (an event log feeds three tables from one poll)."""

    content: Documents | Copy
    cursor: Cursor  # all that is needed to resume after this page, inside a full sweep too
    complete: bool  # the last page of a full listing of its streams
    streams: Sequence[str] = ()  # whom cursor, sweep and complete speak of; of a Copy its own
    sweep: str = ""  # names the full listing that this page is part of, also where another run goes on with it; "": only changes
    after_details: Callable[[], Cursor] | None = None  # gives the cursor instead, where it depends on what `details` gave


class Session(Protocol):
    """A source while it is open: one connection, one snapshot, one account.

    Some sessions can do more; the engine asks for it by name: `columns` (SQL), `details` and `gone` (documents).
    """

    account: str  # whose data it is, in the source's own words; another account later is refused

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Iterator[Page]:
        """The pages of these streams, lazily, each stream from its cursor in `since`; no cursor means everything.

        A page is taken up completely before the next one is asked for. Ending without an error means that
        everything arrived; silence, a wrong count or a broken page raises Unavailable or Drift, never ends the iterator.
        """
        ...


class TabularSession(Session, Protocol):
    """A session whose streams are tables: columns are known before the first row is read."""

    def columns(self, stream: Stream) -> Sequence[Column]:
        """The columns of this stream, without reading a row. Raises Drift for a missing table or column."""
        ...


@dataclass(frozen=True)
class KeptOut:
    """Why a source does not give a record that it lists: the reason code of a conflict, where the record's person has an account."""

    reason: str
    leaves: bool = False  # the record counts as gone; otherwise what is there stays as it is


class DocumentSession(Session, Protocol):
    """A session whose streams are documents. The engine asks for each of these by name; a session has those that it can do.

    Without `gone` and `snapshot`, a record has left when two complete listings lack it. Without `look`, `usersync check`
    reads a first page.
    """

    together: bool  # one poll feeds all streams; otherwise each stream is read by itself, and may fail by itself
    snapshot: bool  # a full listing shows one moment: what it lacks was not there
    numbered: Collection[str]  # streams whose versions are numbers; those of all others are time stamps
    detailed: Collection[str]  # streams whose listing is not the whole document: what changed is read with `details`
    owed: Collection[str]  # keys that `details` left out, because only they can't be had today; the cursor does not pass them

    def details(self, stream: str, keys: Sequence[str]) -> Iterator[Record]:
        """Full documents of those whose listing changed, each key once.

        A key that seems to be gone since comes as a deleted record, which removes no row: a listing has just shown it.
        """
        ...

    def look(self, stream: str) -> str:
        """What is there of a stream, in a few words ("3 files"), without reading a record; raises what `pages` would."""
        ...

    def gone(self, stream: str, keys: Sequence[str]) -> Collection[str]:
        """Which of these keys the vendor says do not exist, in a second look of another kind than the listing that lacks them.

        One answer is no proof: it may be wrong. An error is raised, never read as gone.
        """
        ...

    left_out: Mapping[str, int]  # of what was listed so far, how many records are not given, by what they are: "self-service users"

    def kept_out(self, stream: str) -> Mapping[str, KeptOut]:
        """Why, by key, `pages` does not give records that a complete listing has."""
        ...


class Source(Protocol):
    """A system that is read. One file in `sources/` with `Settings` (pydantic, extra="forbid") and `Source`."""

    def open(self, tools: Tools) -> AbstractContextManager[Session]:
        """Connects, takes the snapshot, learns the account. Threads and connections live as long as the context."""
        ...


class DocumentSource(Source, Protocol):
    """A source of documents may bring a transform for each of its streams, which a step without one uses."""

    def transform(self, stream: str) -> str:
        """A SELECT over `records` (key text, data jsonb, version, deleted boolean, ord bigint)."""
        ...

    def definition(self, stream: str) -> str:
        """The columns of a new table for what `transform` gives, without its key, as CREATE TABLE has them; without it they
        are those of the SELECT. Asked for by name."""
        ...

    def reads(self, stream: str) -> str:
        """What in the source's settings decides which records a stream has, and their keys. When it is edited, nobody goes
        without a person because records are missing then. Asked for by name."""
        ...


@dataclass
class Counts:
    """What happened to the records of a step. They add up (`check`); `gone` counts rows of the target, not records.

    `not_compared` of those that are unchanged are so at the source, where nobody has looked at the target's rows.
    """

    read: int = 0
    duplicates: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    stale: int = 0
    rejected: int = 0
    gone: int = 0
    not_compared: int = 0

    @property
    def distinct(self) -> int:
        """Keys among the records read."""
        return self.read - self.duplicates

    @property
    def unchanged_in_words(self) -> list[str]:
        """`3 the same` were compared with the target, `9 not listed as changed` were not."""
        compared = self.unchanged - self.not_compared
        found = [f"{compared:,} the same"] if compared or not self.not_compared else []
        return [*found, f"{self.not_compared:,} not listed as changed"] if self.not_compared else found

    def adds_up(self) -> bool:
        """Whether read = distinct + duplicates and distinct = inserted + updated + unchanged + stale + rejected, none below 0."""
        accounted = self.inserted + self.updated + self.unchanged + self.stale + self.rejected
        return self.distinct == accounted and min(vars(self).values()) >= 0

    def __iadd__(self, other: Counts) -> Self:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


@dataclass(frozen=True)
class Desired:
    """What a target should hold: a SELECT over the staged tables, and about how many rows those have."""

    transform: sql.Composable
    rows: int
    part: bool = False  # a page of what the target holds: the rest of it is not read


@dataclass(frozen=True)
class Change:
    """What a run would do to one row, in a preview. Values are as PostgreSQL writes them; None is NULL.

    `key` is that of the row, by column. An insert has `after` alone, a delete or mark `before` alone: the columns that the
    step loads. An update has both, of the columns that change. A reject has its reason and no values.
    """

    step: str
    kind: Literal["insert", "update", "delete", "mark", "disable", "reject"]
    key: Mapping[str, str | None] = field(repr=False)
    before: Mapping[str, str | None] = field(repr=False, default_factory=dict)
    after: Mapping[str, str | None] = field(repr=False, default_factory=dict)
    reason: str = ""


class Plan(Protocol):
    """The difference between what is desired and what is there."""

    @property
    def counts(self) -> Counts: ...


P = TypeVar("P", bound=Plan)


class Target(Protocol[P]):
    """Where rows go. One file in `targets/`.

    `in_checkpoint` says whether plan and apply stand in one transaction with the cursor (a Postgres); if not, what plan
    wrote is committed first, and apply runs without a transaction (HTTP).
    """

    in_checkpoint: bool

    def plan(self, desired: Desired, tx: Connection) -> P:
        """What would be inserted, updated and removed. Writes nothing outside `tx`. Raises Drift when it does not fit."""
        ...

    def apply(self, plan: P, tx: Connection) -> Counts:
        """Do it. Twice is once."""
        ...


@dataclass(frozen=True)
class Token:
    """What a token endpoint gave."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)  # good for one use
    expires_in: timedelta


@dataclass(frozen=True)
class Access:
    """An access token, and which one it is in the row of tokens that were stored for its source."""

    token: str = field(repr=False)
    generation: int
    until: float = field(default=inf, compare=False)  # on the monotonic clock; from then on it is asked for again


class Tokens(Protocol):
    """Where sources get access tokens (`usersync_cli.auth.tokens`)."""

    def access(self, source: str, refresh: Callable[[str], Token], *, after: int = 0) -> Access:
        """A valid access token of a generation greater than `after`: ask with that of a token which the API refused.

        `refresh` is one POST with the refresh token that it is given. Raises LoginRequired when a person must authorise.
        """
        ...

    def belong(self, source: str, account: str) -> None:
        """Write down whose data the source's token opens, which was not known or is another account now."""
        ...


@dataclass(frozen=True)
class Tools:
    """What a source or target is handed: pass on what is used, not this."""

    job: str
    stop: Stop
    database: Callable[[str, str], Database]  # a URL of the config and how messages call it
    tokens: Tokens | None = None


class Extract(Protocol):
    """What a step reads from one source, as the config file says it."""

    @property
    def source(self) -> str: ...
    @property
    def table(self) -> str | None: ...
    @property
    def query(self) -> str | None: ...
    @property
    def streams(self) -> Sequence[str]: ...


class Load(Protocol):
    """Where a step's rows go, as the config file says it."""

    @property
    def target(self) -> str: ...
    @property
    def table(self) -> str: ...
    @property
    def key(self) -> Sequence[str]: ...
    @property
    def create(self) -> bool: ...
    @property
    def order_by(self) -> str | None: ...
    @property
    def on_missing(self) -> str: ...
    @property
    def max_missing(self) -> float: ...
    @property
    def missing_window(self) -> timedelta: ...
    @property
    def adopt_existing(self) -> bool: ...


class Step(Protocol):
    """One extract, transform and load. Without a transform the one extract passes through as it is."""

    @property
    def name(self) -> str: ...
    @property
    def extract(self) -> Mapping[str, Extract]: ...
    @property
    def transform(self) -> str | None: ...
    @property
    def reads(self) -> Sequence[str]: ...
    @property
    def load(self) -> Load: ...


class Job(Protocol):
    """A named list of steps; one run at a time."""

    @property
    def name(self) -> str: ...
    @property
    def noun(self) -> str: ...
    @property
    def lease(self) -> timedelta: ...
    @property
    def steps(self) -> Sequence[Step]: ...
