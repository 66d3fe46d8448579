"""One poll of an environment: where the log goes on, what has to be listed, and in which order all of it comes.

First the log, from a place that has proven itself; then what has to be listed, whose records are as of the last event before; then
the log again. So a listing never meets an event from before it began that has not been processed. At the first poll, and at a lost
place, the log begins five minutes before WorkOS's time, or as far back as the archive of events wants it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from usersync_cli import log
from usersync_cli.errors import Drift
from usersync_cli.model import Cursor, Documents, Page, Record, Stream
from usersync_cli.sources.workos.api import is_unknown
from usersync_cli.sources.workos.changes import Changes, by_id
from usersync_cli.sources.workos.listing import Listing, begun, resumed
from usersync_cli.sources.workos.log import EventLog, EventPage, Lost
from usersync_cli.sources.workos.place import MARGIN, Place, Position, Progress, place_of
from usersync_cli.sources.workos.settings import LONGEST
from usersync_cli.sources.workos.streams import ARCHIVE, STREAMS, asked_types

if TYPE_CHECKING:
    from usersync_cli.sources.workos.api import Api
    from usersync_cli.sources.workos.settings import Settings
    from usersync_cli.sources.workos.shapes import Event

CHECKPOINT = 1000  # events
ONE_REQUEST = timedelta(days=30)  # no request for events goes further back
SKEW = timedelta(minutes=1)  # further apart, our clock is no guide to WorkOS's
RESUME = timedelta(days=1)  # a listing that was interrupted longer ago begins anew
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
HELD = 3  # objects that are asked for at a lost place


class Poll:
    """One poll for these streams, from their cursors."""

    def __init__(self, api: Api, settings: Settings, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> None:
        self._api, self._settings, self._streams, self._since = api, settings, streams, since
        self._names = [stream.name for stream in streams]
        self._log = EventLog(api, asked_types(self._names, settings.event_types))
        self.changes = Changes(api, self._names)
        self._place: Place
        self._first: EventPage | None = None  # of the log, where it is there already
        self._followed = False  # no event was missed since the last poll, so that a listing shows nothing new
        self._archived_from = NEVER  # older events are new to the archive alone
        self._given = False  # the last page that was given has the newest cursor

    def pages(self) -> Generator[Page, None, None]:
        """The pages of this poll. Raises Drift for a log or list that runs wild, and where the key is another environment's."""
        due = self._begin()
        if self._place.listing:
            yield from self._listing(self._place.listing, checks=False)  # what happened since it was interrupted is still to be read
            due = [name for name in due if name not in self._place.listed]
            yield from self._news()
        else:
            yield from self._news(before=self._new_from)
        if due := self._due(due):
            # WorkOS's clock has whole seconds, but of two listings one is the later.
            now = max(self._place.polled, *(at + timedelta(milliseconds=1) for at in [NEVER, *self._place.listed.values()]))
            yield from self._listing(begun(due, now, self._place.position.time), checks=self._followed)
            yield from self._news()
        if not self._given:
            yield self._page([])

    # where it begins

    def _begin(self) -> list[str]:
        """Find the place in the log; gives the streams that have to be listed whatever their cursors say."""
        place = place_of(self._since)
        full = [stream.name for stream in self._streams if stream.name in STREAMS and (stream.full or stream.name not in self._since)]
        self._new_from: datetime | None = None
        if place is None:
            self._start({}, self._back())
            return [name for name in self._names if name in STREAMS]
        proof = self._log.prove(place.position)
        old = proof.at - place.position.time > self._settings.retention
        if isinstance(proof, Lost) or (old and not place.position.last):  # such a place proves nothing
            self._lose(place, proof, old=old)
            return [name for name in self._names if name in STREAMS]
        self._warn(place, proof.at, old=old)
        self._followed = True
        self._resume(place, proof, full=bool(full) or old)
        if any(stream.name == ARCHIVE and (stream.full or ARCHIVE not in self._since) for stream in self._streams):
            self._start(place.listed, self._back(), listing=self._place.listing)
            self._new_from, self._archived_from = None, place.position.time
        elif old and not proof.more and len(proof.events) < 2:  # nothing has happened since: the place would get older and older
            self._start({}, self._back(proof.at - place.position.time))
        due = [name for name in self._names if name in STREAMS] if old else full
        if not place.position.last and (proof.events or self._place.listing or self._due(due)):
            self._refuse_other_environment()  # where nothing has happened yet, no place proves it
        return due

    def _resume(self, place: Place, proof: EventPage, *, full: bool) -> None:
        """Go on from a place that has proven itself, and with a listing that was interrupted, unless a new one is wanted."""
        listing = place.listing
        if listing and (full or proof.at - listing.began > RESUME):
            listing = None
        if listing:  # one of its streams may have been read alone since
            listing = replace(listing, done=[name for name in listing.streams if place.listed.get(name, NEVER) >= listing.began])
        self._place = replace(place, polled=proof.at, listing=resumed(listing, self._names) if listing else None)
        if [*place.position.types] == self._log.types:
            self._first = proof

    def _back(self, gap: timedelta = LONGEST) -> timedelta:
        """How far back the log is read from WorkOS's time on: as far as a listing needs it, or the archive, which lacks this `gap`."""
        most = min(self._settings.retention, ONE_REQUEST) if ARCHIVE in self._names else MARGIN
        return min(max(gap, timedelta()) + MARGIN, most)

    def _start(self, listed: Mapping[str, datetime], back: timedelta, listing: Progress | None = None) -> None:
        """Begin in the log so long before WorkOS's time, which its answer says."""
        start = datetime.now(UTC) - back
        page = self._log.start(Position(start))
        if abs(page.at - back - start) > SKEW:
            start = page.at - back
            page = self._log.start(Position(start))
        self._new_from = start
        self._place, self._first = Place(Position(start, types=self._log.types), page.at, listed, listing), page

    def _lose(self, place: Place, proof: Lost | EventPage, *, old: bool) -> None:
        """A place that is lost: everything is listed, once it is clear that this is the environment that we hold."""
        if isinstance(proof, EventPage) or old:
            self._warn(place, proof.at, old=old)
        else:
            log.get().warning("the place in the log of events is lost; everything is listed", source=self._api.name, why=proof.why)
        self._refuse_other_environment()
        self._start({}, self._back(proof.at - place.position.time))

    def _refuse_other_environment(self) -> None:
        """Raises Drift when WorkOS knows none of a few objects that we hold."""
        held = [(stream.name, key) for stream in self._streams if stream.name in STREAMS for key in islice(stream.held(), HELD)]
        some = held[:: max(1, len(held) // HELD)][:HELD]
        for stream, key in some:
            asked = by_id(stream, key, phase="look-up")
            reply = self._api.ask(asked.path, phase="look-up")
            if not is_unknown(reply):
                self._api.refuse(reply, f"{STREAMS[stream].path}/...")
                return
        if some:
            raise Drift(
                f"source {self._api.name}: WorkOS knows neither our place in the log of events nor any of {len(some)} objects that we hold:"
                " is the API key that of another environment?",
                hint="set `api_key` to a key of the environment that was read before, or give this one a job and tables of its own; nothing"
                " was stored or removed. If all of them were deleted, or this is intentional, run once with --full --accept-account",
            )

    def _warn(self, place: Place, at: datetime, *, old: bool) -> None:
        """Warn when the last poll was so long ago that events may be lost. Where it was not, nothing has happened: that is no alarm."""
        pause, days = at - place.polled, round((at - place.position.time) / timedelta(days=1), 1)
        facts = {"source": self._api.name, "days": days, "retention_days": round(self._settings.retention / timedelta(days=1), 1)}
        if old and pause <= self._settings.retention:
            log.get().info("nothing has happened in WorkOS for long; everything is listed", **facts)
        elif old:
            log.get().warning("the last poll was longer ago than WorkOS keeps events; everything is listed", **facts)
        elif pause > self._settings.retention / 2:
            log.get().warning("the last poll was long ago, and WorkOS keeps events only so long: does the job run as it should?", **facts)

    def _due(self, due: Sequence[str]) -> list[str]:
        """The streams that have to be listed now: all together, when it is time for one."""
        listable = [name for name in self._names if name in STREAMS]
        never = [name for name in listable if name not in self._place.listed]
        old = any(self._place.polled - at >= self._settings.full_every for at in self._place.listed.values())
        return listable if old else [name for name in listable if name in due or name in never]

    # what comes

    def _news(self, before: datetime | None = None) -> Generator[Page, None, None]:
        """What is new in the log, up to 1,000 events a page. At a new place, what is older than `before` is in the listing that follows."""
        events: list[Event] = []
        first, self._first = self._first, None
        for page, position in self._log.follow(self._place.position, first):
            self._place = replace(self._place, position=replace(position, types=self._log.types), polled=page.at)
            events += [event for event in page.events if before is None or event.at is None or event.at >= before]
            if len(events) >= CHECKPOINT:
                yield from self._changes(events, alone=before is None)
                events = []
        if events:
            yield from self._changes(events, alone=before is None)

    def _changes(self, events: Sequence[Event], *, alone: bool) -> Iterator[Page]:
        """The page that these events make; none where it would be empty, and a listing follows."""
        again = [event for event in events if event.at and event.at < self._archived_from]
        news = events[len(again) :] if again else events
        records = [*(self.changes.records(again, alone=False) if again else ()), *self.changes.records(news, alone=alone)]
        if records or alone:
            yield self._page(records)

    def _listing(self, progress: Progress, *, checks: bool) -> Generator[Page, None, None]:
        for page in Listing(self._api, progress, self._listed, checks=checks).pages():
            self._given = True
            yield page

    def _listed(self, progress: Progress) -> Cursor:
        """The cursor behind a page of a listing."""
        over = {*progress.streams} <= {*progress.done}
        listed = {**self._place.listed, **dict.fromkeys(progress.done, progress.began)}
        self._place = replace(self._place, listed=listed, listing=None if over else progress)
        return self._cursor()

    def _cursor(self) -> Cursor:
        return self._place.as_cursor(self._names, self._settings.retention)

    def _page(self, records: Sequence[Record]) -> Page:
        self._given = True
        return Page(Documents(records), self._cursor(), complete=False, streams=self._names)
