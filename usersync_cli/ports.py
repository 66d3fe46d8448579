"""The ports: what the engine asks of a source and of a target. What a port promises is in its docstring.

A source or session has the abilities that it inherits by name, and no others: the engine asks with `isinstance`. So a method that
is misspelt or renamed is an abstract class for mypy, and an error when the session is made. `tests/contract` holds each ability
that a source claims against a live one. docs/decisions/0001-ports.md tries the ports on the systems that they have to carry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from usersync_cli.errors import UsersyncError
from usersync_cli.model import (
    Access,
    Change,
    Column,
    Counts,
    Cursor,
    Database,
    Desired,
    FoundUser,
    KeptOut,
    NewUser,
    Page,
    Record,
    Stream,
    Token,
)
from usersync_cli.signals import Stop

if TYPE_CHECKING:
    from datetime import datetime

    from usersync_cli.clients.postgres.connections import Connection
    from usersync_cli.state.outbox import StepScope


class Session(ABC):
    """A source while it is open: one connection, one snapshot, one account."""

    account: str  # whose data it is, in the source's own words; another account later is refused

    @abstractmethod
    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Generator[Page, None, None]:
        """The pages of these streams, lazily, each stream from its cursor in `since`; no cursor means everything.

        A page is taken up completely before the next one is asked for. Ending without an error means that
        everything arrived; silence, a wrong count or a broken page raises Unavailable or Drift, never ends the iterator.
        The engine closes the generator when it needs no more of it.
        """


class TabularSession(Session):
    """A session whose streams are tables: each page is a Copy, and columns are known before the first row is read."""

    @abstractmethod
    def columns(self, stream: Stream) -> Sequence[Column]:
        """The columns of this stream, without reading a row. Raises Drift for a missing table or column."""


class DocumentSession(Session):
    """A session whose streams are documents: each page is Documents.

    Without `TellsWhoIsGone` and `OneMoment`, a record has left when two complete listings lack it.
    """


# abilities of a session of tables


class RunsSql(ABC):
    """A session that runs SQL of the config file, so that others may decide what names in it mean; `usersync check` warns of them."""

    @abstractmethod
    def others_may_create(self) -> Sequence[tuple[str, str, bool]]:
        """(schema, role, whether it owns it), quoted, of each schema of the search path in which somebody else may make objects."""


class HadOtherNames(ABC):
    """A session whose account has other names too: of an earlier version of usersync, or behind a pooler."""

    @property
    @abstractmethod
    def formerly(self) -> Collection[str]:
        """Other names of its account; a cursor with one of them is of the same account."""


# abilities of a session of documents


class OneMoment:
    """A session whose complete listing shows one moment: a record that it lacks was not there. It counts as gone at once."""


class ReadsTogether:
    """A session where one poll feeds all streams, so that they begin, fail and advance together.

    Each page's cursor is stored for every stream that was asked for; `Page.streams` are those that its records, `sweep` and
    `complete` are about. Without this ability each stream is read by itself, and may fail by itself.
    """


class FollowsLog(ReadsTogether, ABC):
    """A session whose cursor is a place in a log of changes (events), besides complete listings.

    `since` has the stored cursor of each stream also where everything is wanted again; `Stream.full` says so. Cursors of several
    streams may differ, where one was read alone, or was added: the older place is right for all, since what comes again is stale.
    Changes carry `Record.as_of`. A change may have less in its document than a listing (`Record.partial`): the engine remembers
    what only listings have, and adds it. When a complete listing differs from the rows that the log has led to, that is drift, and
    is reported.
    """

    @abstractmethod
    def told(self, stream: str) -> Collection[str]:
        """The top-level fields of a stream's documents that every change carries, and that never change without one.

        Only these are looked at for drift; all others of a whole document are remembered for partial ones. Empty: the stream has
        no listing, so that nothing is remembered or compared.
        """


class NumbersVersions(ABC):
    """A session where versions of some streams are numbers. Without this ability all versions are time stamps."""

    @property
    @abstractmethod
    def numbered(self) -> Collection[str]:
        """The streams whose versions are numbers; versions of all others are time stamps."""


class HasDetails(ABC):
    """A session where the listing of some streams is not the whole document: what changed is read with `details`."""

    @property
    @abstractmethod
    def detailed(self) -> Collection[str]:
        """The streams whose listing is not the whole document."""

    @property
    @abstractmethod
    def owed(self) -> Collection[str]:
        """Keys that `details` left out, because only they can't be had today; the cursor does not pass them."""

    @abstractmethod
    def details(self, stream: str, keys: Sequence[str]) -> Iterator[Record]:
        """Full documents of those whose listing changed, each key once, in any order; keys that are `owed` are left out.

        A key that seems to be gone since comes as a deleted record, which removes no row: a listing has just shown it.
        """


class TellsWhoIsGone(ABC):
    """A session that can ask the vendor whether a record exists, in another way than by listing."""

    @abstractmethod
    def gone(self, stream: str, keys: Sequence[str]) -> Collection[str]:
        """Which of these keys the vendor says do not exist, in a second look of another kind than the listing that lacks them.

        One answer is no proof: it may be wrong. An error is raised, never read as gone.
        """


class BelongsTo(ABC):
    """A session where records of some streams belong to a record of another stream, and are gone when that is gone."""

    @abstractmethod
    def parent(self, stream: str) -> tuple[str, str] | None:
        """The stream that a stream's records belong to, and the field of their documents that has the key of that record.

        None: to no other. When a record's row goes, those of the records that belong to it go too, as of the same moment, as if the
        source had reported each of them as deleted: a listing that lacks them says nothing new. Read the parents' stream first.
        """


class CanLook(ABC):
    """A session that can say what is there without reading a record. Without this ability `usersync check` reads a first page."""

    @abstractmethod
    def look(self, stream: str) -> str:
        """What is there of a stream, in a few words ("3 files"), without reading a record; raises what `pages` would."""


class LeavesOut(ABC):
    """A session that does not give all records that it lists, or a target that does not want all rows; it counts what it leaves out."""

    @property
    @abstractmethod
    def left_out(self) -> Mapping[str, int]:
        """Of what was listed so far, how many records are not given, by what they are: "self-service users".

        Of a target, how many rows of what is desired have no place there; they are no part of its counts.
        """


class KeepsOut(ABC):
    """A session that knows, of each record that it lists and does not give, what that means for a person who has a row or account."""

    @abstractmethod
    def kept_out(self, stream: str) -> Mapping[str, KeptOut]:
        """Why, by key, `pages` does not give records that a complete listing has."""


class CreatesUsers(ABC):
    """A session that can create a person who signs in, in the system that it reads.

    That is done once: who calls writes down the intent first, and looks (`users_like`) before and after.
    """

    @abstractmethod
    def user_body(self, new: NewUser) -> Mapping[str, Any]:
        """What would be sent to create this person. Raises ConfigError for what the vendor would not take, all of it at once.

        Nothing is contacted.
        """

    @abstractmethod
    def users_like(self, new: NewUser, known: Collection[str], since: datetime | None) -> Sequence[FoundUser]:
        """Everybody who has the external id, or the e-mail address in any case; each once, in the order of their ids.

        `known` are the ids of people who may have that address in other letters than the vendor's own search finds: they are
        asked for by id, and count if they have it. Of people who were created `since`, nothing is known here: the newest ones are
        looked at too; None: of nobody is anything known. An error is raised, never read as nobody.
        """

    @abstractmethod
    def create_user(self, new: NewUser, attempt: str) -> FoundUser:
        """Create this person with one request. It is not repeated where it may have arrived; `attempt` names it.

        Raises Unanswered when it may have been carried out, another Unavailable when it surely was not. What the vendor refuses is
        Conflict where it says that somebody has the address or external id already, else ConfigError: in its own words, with the
        fields that it complains about and the request's id.
        """


# a source, and its abilities


class Source(ABC):
    """A system that is read: made from its name and its Settings, without contacting anything."""

    name: str  # what the config file and messages call it

    @abstractmethod
    def open(self, tools: Tools) -> AbstractContextManager[Session]:
        """Connects, takes the snapshot, learns the account. Threads and connections live as long as the context."""


class TabularSource(Source):
    """A source of tables and queries; its setting `url` names a database."""

    @abstractmethod
    def open(self, tools: Tools) -> AbstractContextManager[TabularSession]: ...


class DocumentSource(Source):
    """A source of documents, by stream."""

    @abstractmethod
    def open(self, tools: Tools) -> AbstractContextManager[DocumentSession]: ...


class BringsTransform(ABC):
    """A source of documents with a transform for each of its streams, which a step without one uses."""

    @abstractmethod
    def transform(self, stream: str) -> str:
        """A SELECT over `records` (key text, data jsonb, version, deleted boolean, ord bigint)."""


class BringsDefinition(BringsTransform):
    """A source that also says which columns a new table has. Without this ability they are those of the SELECT."""

    @abstractmethod
    def definition(self, stream: str) -> str:
        """The columns of a new table for what `transform` gives, without its key, as CREATE TABLE has them."""


class BringsComments(ABC):
    """A source that has something to say about columns of a new table, which people read where they look at the table."""

    @abstractmethod
    def comments(self, stream: str) -> Mapping[str, str]:
        """What COMMENT ON COLUMN says of columns that `transform` gives, by column; a table that is there keeps its own."""


class BringsAccounts(ABC):
    """A source whose records are people, with a transform for targets that hold accounts."""

    @abstractmethod
    def accounts(self, stream: str) -> str:
        """A SELECT over `records` that gives accounts: id, username, email, first_name, last_name (text), roles (text[]), _key.

        Raises ConfigError for a stream that has no people.
        """


class SaysWhatItReads(ABC):
    """A source whose settings decide which records there are."""

    @abstractmethod
    def reads(self, stream: str) -> str:
        """What in the settings decides which records a stream has, and their keys.

        When that is edited, records that are missing then are removed only after a person has agreed.
        """


# a target


class OutboundPlan(Protocol):
    """What a target outside PostgreSQL has to do, written down in the transaction that it was planned in."""

    counts: Counts  # what will be done, and while `apply` runs, what was done

    @property
    def scope(self) -> StepScope:
        """The step's, with `target`: the place in the target's own words; at another place are other accounts."""

    @property
    def problems(self) -> Sequence[UsersyncError]:
        """What is not done, while all else is."""


P = TypeVar("P", bound=OutboundPlan)


class OutboundTarget(ABC, Generic[P]):
    """A target outside PostgreSQL, for one step of one run: what is desired is made there.

    `plan` runs in a transaction of the target database, and changes nothing anywhere else. After its COMMIT comes `apply`. A dry
    run asks for `changes` instead, and rolls back.
    """

    @abstractmethod
    def plan(self, desired: Desired, tx: Connection) -> P:
        """Compare what `desired` selects with what is there, and write down the calls that make the two equal.

        The transaction then has the temp table `usersync_conflicts` (id text, reason text, detail text, document bytea), which the
        engine reads: what a person has to decide. Raises Drift for columns that nothing there has, and where the target can't
        hold what would be written.
        """

    @abstractmethod
    def changes(self, step: str, tx: Connection) -> Generator[Change, None, None]:
        """What the calls would do, person by person, and what a person has to decide."""

    @abstractmethod
    def apply(self, plan: P, tx: Connection) -> Counts:
        """Make the calls that are waiting, each outcome committed after its call; gives the plan's counts. Twice is once.

        What the target refuses is set aside, what it does not answer is left to the next run; then Unavailable is raised at the end.
        """

    @abstractmethod
    def look(self, tx: Connection) -> Iterator[tuple[str, UsersyncError | None]]:
        """For `usersync check`: what was looked at, and what is wrong with it. Writes nothing. Raises what keeps it from looking on.

        `tx` is the target database, to read what earlier runs wrote down; their tables may not be there yet.
        """


class DisablesAccounts(OutboundTarget[P]):
    """A target of accounts, which are kept equal, and disabled when nobody is desired for them any more.

    `plan`, `kept_out`, `leaving` and `disable` run in one transaction, in this order. After `plan` it also has the temp table
    `usersync_accounts` (key text, disabled boolean, ...): each account that is ours. Without this ability nothing is ever taken
    away or changed at the target: it only makes what is lacking, and its steps say `on_missing: keep` (`TargetPort.disables`).
    """

    @abstractmethod
    def kept_out(self, tx: Connection, reasons: Mapping[str, str]) -> int:
        """Whose enabled accounts are ours although the source leaves their people alone (reason by record): conflicts; gives how many."""

    @abstractmethod
    def leaving(self, tx: Connection, *, known: bool) -> tuple[int, int]:
        """How many of our accounts are of nobody that is desired; and how many of them are enabled at all.

        They are in the temp table `usersync_leaving` (key text, record text, known boolean). Without `known`, those that carry
        our mark and that this job does not remember.
        """

    @abstractmethod
    def disable(self, tx: Connection, plan: P, *, known: bool) -> None:
        """Add the calls that disable those in the temp table `usersync_gone` (key text), which the guard has let go."""


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
