"""Where a poll goes on: the cursor, which is the same for all streams, as JSON and as what it means.

    {"log": {"after": ID, "last": {"id": ID, "at": TIME}, "from": TIME, "types": [TYPE, ...]}, "polled": TIME, "listed": {STREAM: TIME},
     "retention": SECONDS, "listing": {...}}

`last` is the last event that was processed, and `after` the one before it: asked for what comes after that one, the log has to begin with
`last`, which proves the place; among the `types` that were asked for then, which are others once a stream is added. While the log has had
one event, or none, `from` is asked for instead. `polled` is WorkOS's time at the last poll, `listed` when the last complete listing of
each stream began, `listing` is there while one is under way. `retention` is that of the settings, for `usersync status`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from usersync_cli.model import Cursor
from usersync_cli.shapes import LogPlace
from usersync_cli.sources.workos.shapes import Event, as_text, moment

MARGIN = timedelta(minutes=5)  # before the time of a listing: events are told a little late


@dataclass(frozen=True)
class Position:
    """A place in the log of events."""

    start: datetime  # from here on, nothing was left out
    after: str | None = None
    last: str | None = None
    at: datetime | None = None  # of the last event
    types: Sequence[str] = ()  # of events that were asked for up to here

    @property
    def time(self) -> datetime:
        """How far the log is read."""
        return self.at or self.start

    def behind(self, event: Event) -> Position:
        """The place behind this event. One that comes again is not the one before itself."""
        if not event.id or event.id == self.last:
            return self
        return replace(self, after=self.last, last=event.id, at=event.at or self.at or self.start)

    def as_json(self) -> dict[str, Any]:
        last = {"id": self.last, "at": as_text(self.time)} if self.last else None
        return {"after": self.after, "last": last, "from": as_text(self.start), "types": [*self.types]}


@dataclass(frozen=True)
class Progress:
    """A listing under way, as far as it has come."""

    sweep: str  # begins the names of its streams' sweeps
    began: datetime  # WorkOS's time
    as_of: str  # what its records are as of: `began`, or the last event that was processed before it
    streams: Sequence[str]  # those that are listed, in order
    done: Sequence[str] = ()
    root: str = ""  # the list that is being read
    after: str | None = None  # behind which of its objects
    ended: bool = False  # the list is at its end; only what is asked for each of its objects is left
    todo: Sequence[tuple[str, str, str | None]] = ()  # (stream, object of `root`, behind which record of it): still to be asked

    def as_json(self) -> dict[str, Any]:
        found = {"sweep": self.sweep, "began": as_text(self.began), "as_of": self.as_of, "streams": [*self.streams], "done": [*self.done]}
        return {**found, "root": self.root, "after": self.after, "ended": self.ended, "todo": [[*one] for one in self.todo]}


@dataclass(frozen=True)
class Place:
    """A cursor, read."""

    position: Position
    polled: datetime
    listed: Mapping[str, datetime] = field(default_factory=dict)
    listing: Progress | None = None

    def as_cursor(self, streams: Collection[str], retention: timedelta) -> Cursor:
        """As JSON, for these streams."""
        listed = {name: as_text(at) for name, at in self.listed.items() if name in streams}
        found: dict[str, Any] = {"log": self.position.as_json(), "polled": as_text(self.polled), "listed": listed}
        found["retention"] = round(retention.total_seconds())
        return found | ({"listing": self.listing.as_json()} if self.listing else {})


def log_place(cursor: Cursor) -> LogPlace | None:
    """What people want to know of a cursor; None where it can't be read."""
    found, retention = _read(cursor), cursor.get("retention")
    return LogPlace(found.position.time, found.polled, timedelta(seconds=retention)) if found and isinstance(retention, int) else None


def place_of(since: Mapping[str, Cursor]) -> Place | None:
    """The place from which nothing is missed for any of these streams, whose cursors may differ: the oldest. None where there is none."""
    known = {name: found for name, cursor in since.items() if (found := _read(cursor))}
    if not known:
        return None
    oldest = min(known.values(), key=lambda place: place.position.time)
    listed = {name: place.listed[name] for name, place in known.items() if name in place.listed}
    listing = next((place.listing for place in known.values() if place.listing), None)
    return replace(oldest, listed=listed, listing=listing, polled=min(place.polled for place in known.values()))


def _read(cursor: Cursor) -> Place | None:
    """A stored cursor. One that can't be read is no cursor: then everything is listed."""
    try:
        log, last = cursor["log"], cursor["log"]["last"]
        at = _time(last["at"]) if last else None
        position = Position(_time(log["from"]), log["after"], last["id"] if last else None, at, log["types"])
        listed = {name: _time(at) for name, at in cursor["listed"].items()}
        listing = _progress(cursor["listing"]) if cursor.get("listing") else None
        return Place(position, _time(cursor["polled"]), listed, listing)
    except (LookupError, TypeError, AttributeError, ValueError):
        return None


def _progress(found: Mapping[str, Any]) -> Progress:
    todo = [(str(stream), str(key), after) for stream, key, after in found["todo"]]
    began = _time(found["began"])
    return Progress(
        *(found["sweep"], began, found["as_of"], found["streams"], found["done"], found["root"], found["after"], found["ended"], todo)
    )


def _time(text: str) -> datetime:
    if (found := moment(text)) is None:
        raise ValueError("no time")
    return found
