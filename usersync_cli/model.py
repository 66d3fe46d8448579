"""The words of usersync: what flows between sources, engine and targets. It is frozen; `ports` says what each end promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias

if TYPE_CHECKING:
    from psycopg import sql

OWN_SCHEMA = "usersync"
"""Where usersync keeps its own tables in the target database; nothing of anybody else's is read or written in it."""

LIVE = "_live"
"""What the name of a table's live view adds to its own: a view of the rows that are not marked as deleted."""

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
    # For a session that follows a log: a complete listing is wanted, although `since` has the place in the log.
    full: bool = field(default=False, compare=False)
    # For a session that follows a log: keys of a few records whose rows the target holds, to ask whether they are known at all.
    held: Callable[[], Sequence[str]] = field(default=tuple, repr=False, compare=False)
    # For a source that is asked id by id: all ids that the target knows of the stream's app (`Identity.app`), in their order, by the
    # thousand; empty for a stream without an app.
    ids: Callable[[], Iterable[Sequence[str]]] = field(default=tuple, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Record:
    """One document: its key, its own bytes, its version and whether the source says it is deleted.

    Of two documents of one key the one with the newer version counts. At the same version the one with the later `as_of` counts;
    where either has none, the one that comes later.
    """

    stream: str
    key: str
    data: bytes = field(repr=False)  # JSON as it came: precision is kept by not parsing it
    version: str | None = None  # ISO 8601 time stamp or number, typed by the stage
    deleted: bool = False
    problem: str = ""  # why it can't be loaded, where the source sees that itself: not_json, not_an_object, no_key
    settled: bool = True  # False: so young that its document may still change without its version; it is fetched again next time
    whole: bool = False  # True: it is loaded, and its whole document read, also when its listing is the one that we know
    as_of: str | None = None  # ISO 8601: when the source said this; of a deleted record, when it was deleted
    partial: bool = False  # its document may lack fields that a listing has: what is known of those stays (`ports.FollowsLog`)


@dataclass(frozen=True)
class NewUser:
    """A person who is to be created at a source."""

    email: str = field(repr=False)
    first_name: str | None = field(default=None, repr=False)
    last_name: str | None = field(default=None, repr=False)
    external_id: str | None = field(default=None, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class FoundUser:
    """A person as the source has them now: a record as its listing would have it."""

    record: Record
    email: str = field(repr=False)
    external_id: str | None = field(repr=False)

    @property
    def id(self) -> str:
        return self.record.key


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
    streams: Sequence[str] = ()  # whom cursor, sweep and complete speak of; of a Copy its own. `ReadsTogether`: the cursor is everybody's
    sweep: str = ""  # names the full listing that this page is part of, also where another run goes on with it; "": only changes
    after_details: Callable[[], Cursor] | None = None  # gives the cursor instead, where it depends on what `details` gave
    checks: bool = False  # a listing next to a log that was followed without a gap: what it changes is drift
    overrules: str = ""  # ISO 8601: what was known up to this moment does not make its records stale, however new its version


@dataclass(frozen=True)
class KeptOut:
    """Why a source does not give a record that it lists: the reason code of a conflict, where the record's person has an account."""

    reason: str
    leaves: bool = False  # the record counts as gone; otherwise what is there stays as it is


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

    `map`, `unmap` and `conflict` are of the map of who is whom: `key` is the id, by app; `customer` in `before` and `after` is a domain.
    """

    step: str
    kind: Literal["insert", "update", "delete", "mark", "disable", "reject", "map", "unmap", "conflict"]
    key: Mapping[str, str | None] = field(repr=False)
    before: Mapping[str, str | None] = field(repr=False, default_factory=dict)
    after: Mapping[str, str | None] = field(repr=False, default_factory=dict)
    reason: str = ""


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
    @property
    def live_view(self) -> bool: ...


class IdentityRule(Protocol):
    """One way to tell from a row whose it is. SQL over the columns that the step loads."""

    @property
    def name(self) -> str: ...
    @property
    def domain(self) -> str:
        """SQL of a text: a domain, a web address or an e-mail address; NULL where the row does not say."""
        ...

    @property
    def uuid(self) -> str | None:
        """SQL of the customer's uuid, where another list of customers has given one."""
        ...


class Identity(Protocol):
    """Which app the rows of a table are the ids of, and whose they are."""

    @property
    def stream(self) -> str:
        """Of a step that reads streams, which one; "" for a step of tables."""
        ...

    @property
    def app(self) -> str: ...
    @property
    def id(self) -> str:
        """The column that holds the id."""
        ...

    @property
    def rules(self) -> Sequence[IdentityRule]:
        """In their order: the first that decides counts."""
        ...

    @property
    def max_ids(self) -> int:
        """A domain that more ids of the app than this have identifies nobody there."""
        ...


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
    @property
    def identity(self) -> Sequence[Identity]: ...


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
