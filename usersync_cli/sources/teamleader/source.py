"""The source `teamleader`: the CRM Teamleader Focus, eight resources over its API, with as few requests as its documents allow.

Lists are pages of a live listing. They are read from the last page to the first, sorted so that new records come last:
then a deletion moves records towards us, and whatever is new stands on pages whose changes the next run asks for. Of a list
that can't be sorted so, the walk is done again when something changed meanwhile. The clock is Teamleader's own, always.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator

from usersync_cli import log
from usersync_cli.errors import ConfigError, Drift, PartialError, Unavailable, UsersyncError
from usersync_cli.model import Access, Cursor, Documents, Page, Record, Stream, Tools
from usersync_cli.settings import UNSET, Duration, FieldError

if TYPE_CHECKING:
    from usersync_cli.auth import oauth as grants
    from usersync_cli.clients.http.client import Client, RateLimit, Reply, Request
    from usersync_cli.signals import Stop

KIND = "documents"

API_VERSION = "2023-09-26"  # what the documents that we know describe
PAGE_RECORDS = 100  # the most that a page holds
OVERLAP = timedelta(minutes=15)  # a change may become visible late, and clocks behind one address differ
BLIND = timedelta(hours=1)  # the same, where nothing shows when a record was changed, so that no clock but that of Date is known
YOUNG = timedelta(seconds=2)  # time stamps have whole seconds: so young a document may change without another one
FUTURE = timedelta(days=1)  # no clock and no zone is so far ahead: such a time stamp is only wrong
NEAR = 6  # pages between one that has records and one that has none, which are tried one by one
MANY_PAGES = 5  # of ids that are looked for at once
MOST_PAGES = 100_000
MOST_SILENT = 3  # documents of a stream that get no answer, until it is not the documents
UNKNOWN = (404, 410)  # what .info says of a record that it does not have; one such answer proves nothing
REPEATS = (timedelta(seconds=0.5), timedelta(seconds=2))  # pauses before an answer of another shape is asked for again
WALKS = 3  # through a list that changes meanwhile
LIMIT = 200  # requests in a window, until headers say otherwise
WINDOW = timedelta(minutes=1)
DEADLINE = timedelta(minutes=5)  # of one call, repetitions and waits for the rate limit included


@dataclass(frozen=True)
class Resource:
    """What Teamleader documents of one resource."""

    path: str
    sort: str  # the field that moves least
    ties: str = ""  # what sorts those of which it is the same
    scope: str = ""
    includes: str = ""  # what .list gives when asked; .info has it always
    since: bool = False  # .list takes updated_since
    latest: str = ""  # what sorts changes so that later ones come last
    versioned: bool = False  # its documents have updated_at
    steady: bool = True  # sorted by `sort`, new records come last
    whole: bool = False  # .list has all that .info has
    paged: bool = True
    by_ids: bool = True  # .list takes ids
    guess: int = 2  # pages, while nobody knows

    @property
    def called(self) -> str:
        return self.path.rpartition("/")[2]


_PEOPLE: dict[str, Any] = {
    "sort": "added_at", "ties": "name", "includes": "custom_fields", "since": True, "latest": "updated_at", "versioned": True,
}  # fmt: skip
RESOURCES = {
    "companies": Resource("companies", scope="companies", guess=5, **_PEOPLE),
    "contacts": Resource("contacts", scope="contacts", guess=10, **_PEOPLE),
    "custom_fields": Resource("customFieldDefinitions", "label", "context", whole=True),
    "departments": Resource("departments", "name", scope="departments", paged=False),
    "events": Resource("events", "starts_at", scope="events"),  # its .info alone has links to work orders
    "invoices": Resource("invoices", "invoice_number", "invoice_date", "invoices", since=True, versioned=True, steady=False),
    "projects": Resource("projects", "created_at", "title", "projects", since=True, by_ids=False),
    "users": Resource("users", "email", "last_name", "users"),
}
NEW_PROJECTS = Resource("projects-v2/projects", "project_key", scope="projects", includes="custom_fields,pagination")
STREAMS = tuple(RESOURCES)
SILENT, HIDDEN, REFUSED = "silent", "hidden", "refused"
OWED = {SILENT: "without an answer", HIDDEN: "not known to it although {}.list shows them", REFUSED: "not allowed"}  # why a document is
T = TypeVar("T")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Settings(BaseModel):
    """An account of Teamleader Focus, and the integration that reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["teamleader"]
    client_id: str = Field(description="of the integration, as Teamleader's marketplace shows it")
    client_secret: str = Field(repr=False, description="of the integration")
    redirect_uri: str = Field(description="where Teamleader sends who authorised; one of those that the integration lists")
    api_url: str = Field("https://api.focus.teamleader.eu", description="Teamleader's API, or a proxy before it")
    auth_url: str = Field("https://focus.teamleader.eu", description="where a person authorises, and tokens come from")
    full_every: Duration = Field(
        timedelta(days=7),
        description="how often everything is listed, to find who has left, and details that change without a trace",
        json_schema_extra={"default": "7d"},
    )
    details_every: Duration = Field(
        timedelta(days=30),
        description="how often whole documents of all companies, contacts and invoices are read again, for what changes without a new time",
        json_schema_extra={"default": "30d"},
    )
    detail: Literal["full", "list"] = Field("full", description="list: store what lists have, which costs no request for each record")
    projects: Literal["auto", "legacy", "v2"] = Field("auto", description="which module for projects the account uses; auto asks")
    workers: int = Field(8, ge=1, le=32, description="requests at the same time")

    @field_validator("api_url", "auth_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not value.startswith(("https://", "http://", UNSET)):
            raise FieldError("must be an address that begins with https://")
        return value.rstrip("/")


def oauth(settings: Settings) -> grants.Client:
    """The integration, as it asks for tokens."""
    from usersync_cli.auth import oauth as grants

    own = settings.client_id, settings.client_secret, settings.redirect_uri
    return grants.Client(f"{settings.auth_url}/oauth2/authorize", f"{settings.auth_url}/oauth2/access_token", *own)


def account(settings: Settings, access_token: str) -> str:
    """Whose data this token opens."""
    from usersync_cli.clients.http.client import Client
    from usersync_cli.signals import Stop

    with Client(settings.api_url, name="Teamleader", stop=Stop(), access=lambda _: Access(access_token, 1)) as client:
        return _whose(client.post("/users.me", {}))


class Source:
    """An account; nothing is contacted before `open`."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings
        self._limit: RateLimit | None = None

    def transform(self, stream: str) -> str:
        """The columns that such a table always had."""
        return f"SELECT key::uuid AS tl_uuid, data AS tl_content, '{stream}'::varchar AS tl_type FROM records"  # noqa: S608  our own name

    def definition(self, _stream: str) -> str:
        """The columns of a new table for what `transform` gives."""
        return """
            id serial PRIMARY KEY, tl_uuid uuid NOT NULL, tl_content jsonb NOT NULL, tl_type varchar,
            created_at timestamp with time zone NOT NULL DEFAULT now(), updated_at timestamp with time zone NOT NULL DEFAULT now()
        """

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Session]:
        """Asks whose account it is. Connections and threads end with the session."""
        from usersync_cli.clients.http.client import Client, RateLimit

        if (tokens := tools.tokens) is None:
            raise AssertionError("whoever opens a source with tokens brings the place where they are kept")
        refresh = oauth(self._settings).refresh
        self._limit = self._limit or RateLimit(LIMIT, WINDOW)  # of all sessions of a run
        with Client(
            self._settings.api_url,
            name=f"source {self.name}",
            stop=tools.stop,
            access=lambda after: tokens.access(self.name, refresh, after=after),
            headers={"X-Api-Version": API_VERSION, "Accept": "application/json"},
            limit=self._limit,
            deadline=DEADLINE,
            login=f"`usersync oauth-status` shows the token; to authorise again: usersync oauth-url --source {self.name}",
        ) as client:
            yield Session(self.name, self._settings, client, tools.stop)


# where a stream stands


@dataclass(frozen=True)
class Walk:
    """Through the pages of one listing, from the last to the first."""

    sweep: str = ""  # the name of a complete listing; "" only for changes
    since: str = ""  # of changes: since when
    began: str = ""  # Teamleader's time at the first answer, or the earliest that another answer has
    newest: str = ""  # change among what was listed, by the clock of the documents
    page: int | None = None  # the next to read; None while nobody knows which is the last
    last: int = 0  # that one
    records: int = 0  # on all of them, when that one was found
    above: str = ""  # what stood on the page that was read before
    whole: bool = False  # whole documents of all are read, whatever the list says
    tries: int = 1
    looks: str = ""  # since when changes are looked for behind it
    looked: str = ""  # and what was found before it began
    owed: int = 0  # documents that could not be had

    def with_times_of(self, listed: _Listed) -> Walk:
        """With the earliest clock, and the newest change that is not in the future."""
        began = min(self.began, _text(listed.at))
        return replace(self, began=began, newest=max(self.newest, *listed.changes(_text(listed.at)), ""))

    def again(self, looks: str, looked: str) -> Walk:
        """From its beginning."""
        sweep = self.sweep and uuid.uuid4().hex
        return Walk(sweep, self.since, whole=self.whole, tries=self.tries + 1, looks=looks, looked=looked)


@dataclass(frozen=True)
class Place:
    """What is stored as the cursor. Times are Teamleader's."""

    path: str  # legacy projects and new ones are other records
    detail: str
    until: str = ""  # changes before this are loaded, by the clock of the documents
    newest: str = ""  # change that was listed
    met: str = ""  # when that was listed first, by the clock of Date
    swept: str = ""  # when the last complete listing began
    whole: str = ""  # when whole documents of all were last read
    pages: int = 0  # of the last complete listing
    records: int = 0  # of the same
    walk: Walk | None = None  # under way

    @classmethod
    def of(cls, cursor: Cursor | None) -> Place | None:
        if cursor is None:
            return None
        walk = cursor.get("walk")
        return cls(**{**cursor, "walk": Walk(**walk) if walk else None})

    @property
    def cursor(self) -> Cursor:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def done(self, walk: Walk, *, sure: bool = True) -> Place:
        """After the first page, which is the last to be read. Unless it is `sure`, the next run lists everything."""
        if walk.owed and not walk.sweep:  # asked from the same moment again
            return replace(self, swept=self.swept if sure else "", walk=None)
        sure = sure and not walk.owed
        if walk.sweep:
            whole = walk.began if walk.whole else min(self.whole, walk.began)
            swept = replace(self, swept=walk.began, whole=whole, pages=walk.last, records=walk.records, until="")
        else:
            swept = self
        return replace(swept._moved(walk), swept=swept.swept if sure else "", walk=None)

    def _moved(self, walk: Walk) -> Place:
        """The cursor behind this walk: its beginning, or the newest change that was ever listed, whichever is earlier.

        The documents may have another clock than the header Date. If it is behind, the next change has a time before the walk
        began, but not before the newest that is known. So that a bulk import is not listed again by each walk, what takes more than
        a page is left behind: from then on the cursor goes on with Date, at the distance that the newest change had when
        it came; it had been made before that.
        """
        known = self.newest if self.newest <= walk.began else ""  # else a clock was set back
        newest, met = (known, self.met) if walk.newest <= known else (walk.newest, walk.began)
        if not newest:
            return replace(self, until=walk.began, newest="", met="")
        until = newest
        if newest == known and self.until and (self.until > newest or walk.last > 1):
            until = _text(_moment(newest) + max(_moment(walk.began) - _moment(met), timedelta(0)))
        return replace(self, until=max(self.until, min(until, walk.began)), newest=newest, met=met)


@dataclass(frozen=True)
class _Listed:
    """One answer of .list."""

    rows: Sequence[bytes]
    at: datetime
    total: int | None = None  # of the whole list, where the answer says so

    @cached_property
    def heads(self) -> Sequence[_Head]:
        return [_head(row) for row in self.rows]

    def changes(self, until: str) -> Iterator[str]:
        """When its records were changed, as far as that is known and not later than this."""
        found = (_text(moment) for head in self.heads if (moment := _version(head)))
        return (moment for moment in found if moment <= until)

    @property
    def mark(self) -> str:
        """Tells this page from another, also when a record on it changes."""
        return _mark(head.id.encode(errors="replace") for head in self.heads)


class _Met:
    """Whom the walks of this reading have met; of each the hash of its key."""

    def __init__(self, earlier: Sequence[str], *, blind: bool) -> None:
        self.earlier = earlier  # whom an earlier run met in the first of these walks
        self.blind = blind  # it met some, and nobody knows whom
        self.moved = False  # somebody stood on two pages of this walk: somebody else may have stood on none
        self._before = {hash(key) for key in earlier}
        self._now: set[int] = set()
        self._read = set[int]()

    def add(self, keys: Iterable[str]) -> None:
        """A page of these."""
        for one in map(hash, keys):
            self.moved |= one in self._now
            self.blind |= one in self._before  # time has passed: they may have moved, or somebody was deleted
            self._now.add(one)

    def has_read(self, key: str) -> bool:
        """Whether an earlier walk of this reading has asked for its document."""
        return hash(key) in self._read

    def next_walk(self) -> None:
        """From the beginning, with nothing of an earlier run."""
        self._read |= self._now | self._before
        self.earlier, self.blind, self.moved = (), False, False
        self._now, self._before = set(), set()


@dataclass
class _Search:
    """For the last page that has records."""

    first: int  # where it begins
    known: int  # how many there were in the last complete listing; 0 while nobody knows
    full: int = 0  # a page that has records
    count: int = 0  # so many
    empty: int = 0  # one behind it that has none; 0 while nobody knows one
    total: int | None = None  # of records, as the last answer said
    mark: str = ""  # what stood on `full`
    ready: _Listed | None = None  # the same, where nothing can have come there from behind since

    @property
    def next(self) -> int | None:
        """Which page to look at; None at the end."""
        if not self.empty:
            return self.full + (1 if self.full == self.first and self.known else max(self.full - 1, 1)) if self.full else self.first
        gap = self.empty - self.full
        if gap == 1:
            return None
        near = self.empty == self.first or (self.full and gap <= NEAR)
        return self.empty - 1 if near else (self.full + self.empty) // 2

    @property
    def records(self) -> int:
        """On all pages, which are full before the last one."""
        return self.full and (self.full - 1) * PAGE_RECORDS + self.count

    def found(self, number: int, listed: _Listed) -> None:
        """What stands there."""
        self.total = listed.total
        if not listed.rows:
            self.empty = number
            return
        self.full, self.count, self.mark = number, len(listed.rows), listed.mark
        self.ready = listed if self.empty == number + 1 or len(listed.rows) < PAGE_RECORDS else None


class Session:
    """An account, and the time there when it was opened. Each stream is read by itself."""

    together = False
    snapshot = False
    numbered: Collection[str] = ()

    def __init__(self, name: str, settings: Settings, client: Client, stop: Stop) -> None:
        self._name, self._settings, self._client, self._stop = name, settings, client, stop
        self.account, self._now = self._ask(_post("/users.me", {}), lambda reply: (_whose(reply), _date(reply)))
        self._projects: Resource | None = None
        self.owed: dict[str, str] = {}  # of the stream that is read, and why: one of OWED
        self._unlisted = 0  # records that its listing left out, and shows when it is asked for just these
        full = settings.detail == "full"
        self.detailed = {stream for stream, resource in RESOURCES.items() if full and not resource.whole}

    # listing

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Iterator[Page]:
        """Each stream's pages of 100, from the last to the first: all of them, or what changed since its cursor.

        Raises Unavailable for an answer that can't be, ConfigError for a scope that is missing.
        """
        for stream in streams:
            yield from self._pages(stream, Place.of(since.get(stream.name)))

    def _pages(self, stream: Stream, before: Place | None) -> Generator[Page, None, None]:
        resource = self._resource(stream.name)
        place = Place(resource.path, self._settings.detail)
        if before and (before.path, before.detail) == (place.path, place.detail):
            place = before
        walk = place.walk or self._begin(stream.name, place, anew=before is not None and place is not before)
        earlier = [key for keys in stream.listed() for key in keys] if place.walk and walk.sweep else []
        self.owed.clear()
        self._unlisted = 0
        met = _Met(earlier, blind=walk.page is not None and not earlier)
        while again := (yield from self._walk(stream.name, resource, place, walk, met)):
            log.get().info("list changed while it was read", source=self._name, stream=stream.name, tries=walk.tries)
            walk = again
            met.next_walk()

    def _begin(self, stream: str, place: Place, *, anew: bool) -> Walk:
        """What there is to read now. `anew`: what is loaded is of another kind, however much of it is listed as before."""
        resource = self._resource(stream)
        # What neither list nor time stamp shows; where there is a time stamp, that is little.
        every = self._settings.details_every if resource.versioned else self._settings.full_every
        whole = anew or (stream in self.detailed and self._is_old(place.whole, every))
        ahead = any(moment and _moment(moment) > self._now + OVERLAP for moment in (place.until, place.swept, place.whole))
        if ahead:
            log.get().warning("cursor is ahead of Teamleader's clock; everything is listed", stream=stream)
        if whole or ahead or not resource.since or not place.until or self._is_old(place.swept, self._settings.full_every):
            return Walk(sweep=uuid.uuid4().hex, whole=whole)
        return Walk(since=_text(_moment(place.until) - (OVERLAP if place.newest else BLIND)))

    def _is_old(self, moment: str, every: timedelta) -> bool:
        return not moment or _moment(moment) + every <= self._now

    def _walk(self, stream: str, resource: Resource, place: Place, walk: Walk, met: _Met) -> Generator[Page, None, Walk | None]:
        """The pages that are left of a listing. Gives the next walk, where this one was disturbed.

        Raises Unavailable behind the last page, when the list was disturbed each time, or documents are owed.
        """
        listed = None
        if walk.page is None:
            walk, listed = self._find_end(resource, walk, place)
        while (number := walk.page or 0) > 1:
            listed = self._believed(resource, walk, listed or self._list(resource, walk, number))
            walk = walk.with_times_of(listed)
            records = self._records(stream, resource, walk, listed, met)
            walk, listed = replace(walk, page=number - 1, above=listed.mark), None
            yield self._page(stream, walk, records, partial(self._cursor, place, walk))
        listed = self._believed(resource, walk, listed or self._list(resource, walk, number)) if number else None
        walk = walk.with_times_of(listed) if listed else walk
        records = self._records(stream, resource, walk, listed, met) if listed else []
        gone, sure = self._gone_since(stream, resource, place, met)
        again = self._again(resource, walk, met)
        tired = again is not None and again.tries > WALKS
        after = partial(self._cursor, place, again) if again and not tired else partial(self._end, place, walk, sure=sure and not tired)
        yield self._page(stream, walk, [*records, *gone], after, complete=bool(walk.sweep) and not again)
        if tired or ((self.owed or self._unlisted) and not again):
            raise self._unfinished(resource, tired=tired)
        return again

    @staticmethod
    def _page(stream: str, walk: Walk, records: Sequence[Record], after: Callable[[], Cursor], *, complete: bool = False) -> Page:
        return Page(Documents(records), after(), complete, (stream,), walk.sweep, after_details=after)

    def _cursor(self, place: Place, walk: Walk) -> Cursor:
        """On the way."""
        return replace(place, walk=replace(walk, owed=walk.owed + len(self.owed))).cursor

    def _end(self, place: Place, walk: Walk, *, sure: bool) -> Cursor:
        return place.done(replace(walk, owed=walk.owed + len(self.owed)), sure=sure and not self._unlisted).cursor

    def _unfinished(self, resource: Resource, *, tired: bool) -> UsersyncError:
        """What is missing although all pages came."""
        if tired:
            return Unavailable(
                f"source {self._name}: {resource.path}.list changed each of the {WALKS} times that it was read; some may be missing",
                hint="what came is stored, nobody was removed, and the next run lists everything again;"
                " if that fails too: is something writing to it all the time? run when it is not",
            )
        if self._unlisted:
            return Unavailable(
                f"source {self._name}: {resource.path}.list left out {_number(self._unlisted)} that it shows when asked for by id",
                hint="what came is stored, nobody who is there was removed, and the next run lists everything again",
            )
        reasons = list(self.owed.values())
        why = ", ".join(f"{reasons.count(one):,} {told.format(resource.path)}" for one, told in OWED.items() if one in reasons)
        what = (
            f"source {self._name}: {resource.path}.info gave no document for {_number(len(reasons))}, such as {min(self.owed)} ({why});"
            " all others are loaded"
        )
        if {*reasons} == {REFUSED}:
            return PartialError(what, hint=f"see that whoever authorised may read these {resource.called}; each run asks for them again")
        hint = "the next run asks again; if it stays so, Teamleader's support can look at that record"
        return Unavailable(what, hint=hint)

    def _records(self, stream: str, resource: Resource, walk: Walk, listed: _Listed, met: _Met) -> list[Record]:
        heads = listed.heads
        # Among changes, of what shows no time of its change, nobody knows that we have it already.
        whole = walk.whole or (bool(walk.since) and not resource.versioned)
        records = [
            Record(stream, head.id, row, head.updated_at, settled=_is_settled(head, listed.at), whole=whole and not met.has_read(head.id))
            if not head.problem
            else Record(stream, "", row, problem=head.problem)
            for head, row in zip(heads, listed.rows, strict=True)
        ]
        met.add(head.id for head in heads if not head.problem)
        return records

    def _again(self, resource: Resource, walk: Walk, met: _Met) -> Walk | None:
        """The same walk once more, where a record may have come from a page before we read it to one after that."""
        looks, looked = self._look_back(resource, walk)
        unknown = bool(met.earlier) and not resource.by_ids  # who of these is gone by now
        # What an earlier run could not have of this walk is listed, and asked for, once more.
        return walk.again(looks, looked) if looked != walk.looked or met.moved or unknown or walk.owed else None

    def _look_back(self, resource: Resource, walk: Walk) -> tuple[str, str]:
        """Since when changes were looked for, and what tells them from others; "" where there is none, or it does no harm.

        Only asked of lists whose next reading would not show what moved meanwhile: one of changes.
        """
        sorted_by_age = resource.steady if walk.sweep else bool(resource.latest)
        if not resource.since or sorted_by_age or walk.last <= 1:
            return "", ""
        # Whether updated_since has that second itself is not documented. So changes just before the walk show too, once:
        # behind the next walk the same ones say that nothing happened since.
        since = walk.looks or _text(datetime.fromisoformat(walk.began) - YOUNG)
        rows: list[bytes] = []
        for number in range(1, MANY_PAGES + 1):
            listed = self._list(resource, Walk(since=since), number)
            listed = listed if listed.rows else self._list(resource, Walk(since=since), number)
            rows += listed.rows
            if len(listed.rows) < PAGE_RECORDS:
                break
        return since, _mark(rows) if rows else ""

    def _gone_since(self, stream: str, resource: Resource, place: Place, met: _Met) -> tuple[list[Record], bool]:
        """Who was listed by an earlier run and is gone by now; and whether we know of each record where it is."""
        earlier = [key for key in met.earlier if _UUID.fullmatch(key)] if resource.by_ids else []
        gone = self._departed(resource, earlier, self._lacking(resource, earlier)) if earlier else []
        if gone and (not place.swept or len(gone) > PAGE_RECORDS):  # too many for the guard, which may know of nobody yet
            return [], False
        told = [Record(stream, key, b"{}", deleted=True) for key in (self.gone(stream, gone) if gone else [])]
        return told, not met.blind

    def _departed(self, resource: Resource, keys: Sequence[str], lacking: int) -> list[str]:
        """Who of these, of whom at most so many are lacking, is not there any more; in few requests where that are few."""
        if not lacking:
            return []
        if len(keys) <= PAGE_RECORDS:
            there = {_head(row).id for row in self._with_ids(resource, keys, 1)}
            return [key for key in keys if key not in there]
        middle = min(len(keys) // PAGE_RECORDS // 2 or 1, MANY_PAGES) * PAGE_RECORDS
        first, rest = keys[:middle], keys[middle:]
        found = self._departed(resource, first, self._lacking(resource, first) if middle > PAGE_RECORDS else lacking)
        return found + self._departed(resource, rest, lacking - len(found))

    def _lacking(self, resource: Resource, keys: Sequence[str]) -> int:
        """At most so many of these are not there any more: the last page of a list of just these tells."""
        pages = -(-len(keys) // PAGE_RECORDS)
        if pages > MANY_PAGES:
            return len(keys)
        there = len(self._with_ids(resource, keys, pages))
        return len(keys) - (pages - 1) * PAGE_RECORDS - there if there else len(keys)

    def _with_ids(self, resource: Resource, keys: Sequence[str], number: int) -> Sequence[bytes]:
        """A page of a list of just these."""
        page = {"page": {"size": PAGE_RECORDS, "number": number}} if resource.paged else {}
        return self._listed(resource, {"filter": {"ids": list(keys)}, **page}).rows

    def _find_end(self, resource: Resource, walk: Walk, place: Place) -> tuple[Walk, _Listed | None]:
        """The last page, after looks that there is nothing behind it; and what stands there, if it was read after the first of them."""
        if not resource.paged:
            listed = self._list(resource, walk, 0)
            if len(listed.rows) < place.records or not listed.rows:  # shorter than it was: not believed at the first look
                listed = max(self._list(resource, walk, 0), listed, key=lambda one: len(one.rows))
            return replace(walk, began=_text(listed.at), page=1, last=1, records=len(listed.rows)), listed
        known = place.pages if walk.sweep else 0
        # A list that each run reads from end to end is longer the next time, if need be.
        search = _Search((known or resource.guess) + 1 if walk.sweep else 1, known)
        for left in reversed(range(WALKS)):
            walk = self._searched(resource, walk, search)
            if self._is_the_end(resource, walk, search, place.records if walk.sweep else 0):
                if walk.sweep and search.records < place.records:
                    log.get().warning(
                        "list is shorter than when it was last listed whole", source=self._name, list=resource.path,
                        records=search.records, before=place.records,
                    )  # fmt: skip
                return replace(walk, page=search.full, last=search.full, records=search.records), search.ready
            search = _Search(search.full or 1, search.full or 1) if left else search
        more = f"the answer says {search.total:,}" if search.total is not None else "something is behind it"
        raise self._odd(resource, f"page {search.full + 1} has no record, as if {search.records:,} were all; but {more}")

    def _searched(self, resource: Resource, walk: Walk, search: _Search) -> Walk:
        """The walk, with the time when it began; the search has come to a page behind which there is an empty one."""
        while (number := search.next) is not None:
            if number > MOST_PAGES:
                raise self._odd(resource, f"page {search.full:,} has records; so many there can't be")
            listed = self._list(resource, walk, number)
            walk = replace(walk, began=walk.began or _text(listed.at))
            if listed.rows and listed.mark == search.mark and number != search.full:
                raise self._odd(resource, f"two pages are the same ({search.full} and {number})")
            search.found(number, listed)
        return walk

    def _is_the_end(self, resource: Resource, walk: Walk, search: _Search, known: int) -> bool:
        """Whether the empty page behind the last one can be believed: the answer's own total says so, or other looks.

        One asks for the next record in pages of one, so that it meets what the last page itself keeps back. Where there were more
        records than now, the two pages behind the empty one are empty too.
        """
        if search.total is not None:
            return search.total == search.records
        if self._list(resource, walk, search.records + 1, size=1).rows:
            return False
        behind = (search.empty + 1, search.empty + 2) if search.records < known else ()
        return not any(self._list(resource, walk, number).rows for number in behind)

    def _believed(self, resource: Resource, walk: Walk, listed: _Listed) -> _Listed:
        """The page; or what it is now, where it can't be right: before another page it is full, and not the same as that one."""
        number = walk.page or 0
        if number >= walk.last or (len(listed.rows) >= PAGE_RECORDS and listed.mark != walk.above):
            return listed
        now, behind = (self._list(resource, walk, which) for which in (number, number + 1))
        if behind.rows and now.mark == behind.mark:
            raise self._odd(resource, f"page {number} is the same as page {number + 1}")
        if behind.rows and len(now.rows) < PAGE_RECORDS:
            held = f"only {len(now.rows)} of {PAGE_RECORDS} records" if now.rows else "no record"
            raise self._odd(resource, f"page {number} has {held}, and page {number + 1} has some")
        return now  # so many were deleted meanwhile, or have moved down by a page

    def _odd(self, resource: Resource, what: str) -> Unavailable:
        return Unavailable(
            f"source {self._name}: {resource.path}.list: {what}", hint="nothing was taken over from that page; the next run reads it again"
        )

    def _list(self, resource: Resource, walk: Walk, number: int, size: int = 0) -> _Listed:
        """One page; number 0 for a list without pages."""
        body: dict[str, Any] = {"filter": {"updated_since": walk.since}} if walk.since else {}
        if number:
            fields = [(walk.since and resource.latest) or resource.sort, resource.ties]
            order = [{"field": field, "order": "asc"} for field in fields if field]
            body |= {"page": {"size": size or PAGE_RECORDS, "number": number}, "sort": order}
        if resource.includes:
            body["includes"] = resource.includes
        return self._listed(resource, body)

    def _listed(self, resource: Resource, body: Mapping[str, Any]) -> _Listed:
        with self._told(resource):
            return self._ask(_post(f"/{resource.path}.list", body), lambda reply: _Listed(_rows(reply), _date(reply), _total(reply)))

    # whole documents

    def details(self, stream: str, keys: Sequence[str]) -> Iterator[Record]:
        """Their .info, several at the same time; whoever was deleted since it was listed comes as deleted, after two looks."""
        unknown, refused = [], []
        for key, reply in self._answered(stream, keys):
            if reply.status in UNKNOWN:
                unknown.append(key)
            elif reply.status == 403:
                refused.append(key)
            else:
                yield self._document(stream, key, reply)
        self._refuse_all(stream, keys, unknown, refused)
        self.owed |= dict.fromkeys(refused, REFUSED)
        if unknown:
            yield from self._looked_for(stream, unknown)

    def _refuse_all(self, stream: str, keys: Sequence[str], unknown: Sequence[str], refused: Sequence[str]) -> None:
        """Where every one of several records has the same trouble, it is not the records."""
        resource = self._resource(stream)
        if len(keys) <= 2 or len(keys) not in (len(unknown), len(refused)):
            return
        if refused:
            with self._told(resource):
                self._client.post(f"/{resource.path}.info", {"id": refused[0]})  # raises what such an answer means
        raise Unavailable(
            f"source {self._name}: {resource.path}.info gives none of {len(keys)} records that {resource.path}.list just gave",
            hint="nothing was taken over from that page; the next run reads it again. Is api_url right?",
        )

    def _looked_for(self, stream: str, unknown: Sequence[str]) -> Iterator[Record]:
        """Those that .info did not know although a list had just shown them: what a list of just these shows is there, and is owed."""
        resource = self._resource(stream)
        there = self._with_these_ids(resource, unknown) if resource.by_ids else set(unknown)
        for key, reply in self._answered(stream, [key for key in unknown if key in there]):
            if reply.status == 200:
                yield self._document(stream, key, reply)
            else:
                self.owed[key] = REFUSED if reply.status == 403 else HIDDEN
        yield from (Record(stream, key, b"{}", deleted=True) for key in unknown if key not in there)

    def gone(self, stream: str, keys: Sequence[str]) -> Collection[str]:
        """Those that a list of just these lacks, and that .info does not know at two moments: each may be wrong, or leave some out."""
        resource = self._resource(stream)
        listed = self._with_these_ids(resource, keys) if resource.by_ids else set()
        self._unlisted += len(listed)
        return self._unknown(stream, self._unknown(stream, [key for key in keys if key not in listed]))

    def _unknown(self, stream: str, keys: Sequence[str]) -> list[str]:
        """Those of whom .info says that it does not have them; it may have others that we are not to see."""
        unknown = []
        for key, reply in self._infos(stream, keys):
            if reply.status in UNKNOWN:
                unknown.append(key)
            elif reply.status == 403:
                log.get().warning("a record is not listed, and may not be read; its row stays", source=self._name, stream=stream)
            else:
                self._document(stream, key, reply)
        return unknown

    def _with_these_ids(self, resource: Resource, keys: Sequence[str]) -> set[str]:
        """Those of these that a list of just these shows."""
        asked = [key for key in keys if _UUID.fullmatch(key)]  # a table that was taken over may have others
        parts = (asked[at : at + PAGE_RECORDS] for at in range(0, len(asked), PAGE_RECORDS))
        return {_head(row).id for part in parts for row in self._with_ids(resource, part, 1)} & set(keys)

    def _document(self, stream: str, key: str, reply: Reply) -> Record:
        """What .info says of this key, asked again where it says nothing or speaks of another record. Raises Drift when that stays so."""
        try:
            return self._read_document(stream, key, reply)
        except Drift:
            return self._ask(self._info(self._resource(stream), key), partial(self._read_document, stream, key))

    def _read_document(self, stream: str, key: str, reply: Reply) -> Record:
        row = _data(reply)
        head = _head(row)
        if head.id != key:
            raise Drift(
                f"source {self._name}: {self._resource(stream).path}.info gave another record than the one that was asked for, or none",
                hint="nothing was taken over from that page, nobody was removed; does something stand before api_url?",
            )
        return Record(stream, key, row, head.updated_at, settled=_is_settled(head, _date(reply)))

    def _ask(self, request: Request, read: Callable[[Reply], T]) -> T:
        """What `read` finds in the answer; one of another shape than documented is asked for again, as any other that is broken."""
        for pause in REPEATS:
            reply = self._client.send(request)
            try:
                return read(reply)
            except Drift as drift:
                log.get().warning("request repeated", request=str(request), why=drift.message)
            self._stop.sleep(pause.total_seconds())
        return read(self._client.send(request))

    def _answered(self, stream: str, keys: Sequence[str]) -> Iterator[tuple[str, Reply]]:
        """Without those few that get no answer, while others do: they are owed."""
        left, silent = [key for key in keys if key not in self.owed], False
        while left:
            try:
                for key, reply in self._infos(stream, tuple(left)):
                    left.remove(key)
                    silent = False
                    yield key, reply
            except Unavailable:
                self._stop.check()  # if that is why
                if silent or list(self.owed.values()).count(SILENT) >= MOST_SILENT:
                    raise
                silent = True
                self.owed[left.pop(0)] = SILENT
                left.reverse()  # its neighbours last

    def _infos(self, stream: str, keys: Sequence[str]) -> Iterator[tuple[str, Reply]]:
        resource = self._resource(stream)
        requests = (replace(self._info(resource, key), accept=(403, *UNKNOWN)) for key in keys)
        with self._told(resource):
            yield from zip(keys, self._client.each(requests, self._settings.workers), strict=True)

    @staticmethod
    def _info(resource: Resource, key: str) -> Request:
        return _post(f"/{resource.path}.info", {"id": key})

    def look(self, stream: str) -> str:
        """Whether it may be listed, in one request."""
        resource = self._resource(stream)
        self._listed(resource, {"page": {"size": 1, "number": 1}} if resource.paged else {})
        return f"{resource.path}.list answers"

    # what else

    def _resource(self, stream: str) -> Resource:
        if stream not in RESOURCES:
            raise Drift(f"source {self._name} has no stream {stream}", hint=f"its streams: {', '.join(RESOURCES)}")
        if stream != "projects":
            return RESOURCES[stream]
        if self._projects is None:
            self._projects = self._module()
        return self._projects

    def _module(self) -> Resource:
        """An account has either the legacy projects or the new ones."""
        which: object = self._settings.projects
        if which == "auto":
            with self._told(NEW_PROJECTS):
                which = self._ask(_post("/accounts.projects-v2-status", {}), lambda reply: reply.decode(_Status)).data.status
        known = {"legacy": RESOURCES["projects"], "v2": NEW_PROJECTS, "projects-v2": NEW_PROJECTS}
        if which not in known:
            raise Drift(
                f"source {self._name}: accounts.projects-v2-status says neither legacy nor projects-v2",
                hint="say `projects: legacy` or `projects: v2` in the source's settings",
            )
        return known[str(which)]

    @contextmanager
    def _told(self, resource: Resource) -> Iterator[None]:
        """Which scope is missing."""
        from usersync_cli.clients.http.client import Refused

        try:
            yield
        except Refused as error:
            words = f" ({error.words})" if error.words else ""
            if error.http_status != 403:
                raise error.retold(error.message + words) from error
            scope = f"the scope {resource.scope}" if resource.scope else "the right"
            raise ConfigError(
                f"{error.message}{words}: {scope} is missing",
                hint=f"give it to the integration in Teamleader's marketplace, and see that who authorises may read {resource.called};"
                f" then authorise again: usersync oauth-url --source {self._name}",
            ) from error


def _post(path: str, body: Mapping[str, Any]) -> Request:
    from usersync_cli.clients.http.client import Request

    return Request("POST", path, body)


def _number(records: int) -> str:
    return "1 record" if records == 1 else f"{records:,} records"


# answers


class _List(msgspec.Struct):
    data: list[msgspec.Raw]


class _Matches(msgspec.Struct):
    matches: int


class _Meta(msgspec.Struct):
    meta: _Matches


class _One(msgspec.Struct):
    data: msgspec.Raw


class _Account(msgspec.Struct):
    id: str


class _Me(msgspec.Struct):
    account: _Account


class _MeReply(msgspec.Struct):
    data: _Me


class _Module(msgspec.Struct):
    status: str


class _Status(msgspec.Struct):
    data: _Module


class _Head(msgspec.Struct):
    """What has to be known of a document before it is loaded."""

    id: str = ""
    updated_at: str | None = None
    problem: str = ""


class _Start(msgspec.Struct):
    id: str | None = None
    updated_at: str | None = None


_STARTS = msgspec.json.Decoder(_Start)


def _whose(reply: Reply) -> str:
    return reply.decode(_MeReply).data.account.id


def _date(reply: Reply) -> datetime:
    """Teamleader's time; without it, nobody could say from where to go on."""
    if (date := reply.date) is None:
        raise Drift(f"{reply.where} has no Date header", hint="does a proxy take it away?")
    return date


def _mark(parts: Iterable[bytes]) -> str:
    return hashlib.blake2b(b"".join(parts), digest_size=8).hexdigest()


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _version(head: _Head) -> datetime | None:
    """When it was changed, in UTC where it says no zone; None where nobody can tell."""
    try:
        found = datetime.fromisoformat(head.updated_at or "")
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):  # the engine says what is wrong with it
        return None


def _is_settled(head: _Head, at: datetime) -> bool:
    """Whether it can't change any more without another time; one that is in the future says nothing about that."""
    moment = _version(head)
    return moment is None or not moment - FUTURE <= at < moment + YOUNG


def _rows(reply: Reply) -> Sequence[bytes]:
    """The documents of a list, each as it came."""
    try:
        return [bytes(row) for row in msgspec.json.decode(reply.body, type=_List).data]
    except msgspec.ValidationError:
        reply.decode(_List)  # raises, in our words
        raise
    except msgspec.DecodeError:  # half surrogates are JSON, but not to msgspec
        return _elements(_member(reply.body.decode(errors="replace"), reply.where))


def _total(reply: Reply) -> int | None:
    """How many records there are in all, where an answer says so: only with includes=pagination, which few lists take."""
    try:
        return msgspec.json.decode(reply.body, type=_Meta).meta.matches
    except msgspec.MsgspecError:
        return None


def _data(reply: Reply) -> bytes:
    """The document of an answer of .info, as it came."""
    try:
        return bytes(msgspec.json.decode(reply.body, type=_One).data)
    except msgspec.ValidationError:
        reply.decode(_One)
        raise
    except msgspec.DecodeError:
        return _member(reply.body.decode(errors="replace"), reply.where).encode()


def _head(row: bytes) -> _Head:
    try:
        start = _STARTS.decode(row)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            found = json.loads(row)
        except (ValueError, RecursionError):
            return _Head(problem="not_json")
        if not isinstance(found, dict):
            return _Head(problem="not_an_object")
        start = _Start(*(one if isinstance(one := found.get(name), str) else None for name in ("id", "updated_at")))
    return _Head(start.id, start.updated_at) if start.id else _Head(problem="no_key")


def _member(text: str, where: str) -> str:
    """The value of `data` in an object, as it stands there. The whole is known to be JSON."""
    decoder, at = json.JSONDecoder(), _after(text, 0) + 1
    while text[(at := _after(text, at))] != "}":
        name, at = decoder.raw_decode(text, at)
        begin = _after(text, _after(text, at) + 1)
        _, at = decoder.raw_decode(text, begin)
        if name == "data":
            return text[begin:at]
        at = _after(text, at)
        at += text[at] == ","
    raise Drift(f"{where} has no data", hint="did the vendor change its API?")


def _elements(text: str) -> Sequence[bytes]:
    """The elements of an array."""
    decoder, at, found = json.JSONDecoder(), _after(text, 0) + 1, []
    while text[(at := _after(text, at))] != "]":
        _, end = decoder.raw_decode(text, at)
        found.append(text[at:end].encode())
        at = _after(text, end)
        at += text[at] == ","
    return found


def _after(text: str, at: int) -> int:
    """Behind white space."""
    while text[at] in " \t\r\n":
        at += 1
    return at
