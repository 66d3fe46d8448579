"""The log of events: its pages from a place on, oldest first, and the proof that the place is still there.

WorkOS documents `order=asc` and has ignored it, always oldest first; emulators give the newest first unless it is sent. So it is sent, and
what comes is looked at before anything of it is stored. An id that the log does not know is a 400, 404 or 422, nothing at all, or, in
emulators, a 200 with the first page. Only asking for what comes behind the last event *but one* shows the difference between a log that is
quiet and a place that is lost.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from usersync_cli import log
from usersync_cli.errors import Drift
from usersync_cli.sources.workos.api import LOG, date, said
from usersync_cli.sources.workos.place import Position
from usersync_cli.sources.workos.shapes import Event, as_text, event_of, listed

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import Reply
    from usersync_cli.sources.workos.api import Api

LIMIT = 100  # the most that WorkOS gives
UNKNOWN = (400, 404, 422)  # what WorkOS may say to the id of an event that it does not have (any more)

_TYPE = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")


@dataclass(frozen=True)
class EventPage:
    """One answer, which has been looked at."""

    events: Sequence[Event]
    more: bool
    at: datetime  # WorkOS's time


@dataclass(frozen=True)
class Lost:
    """The place is not in the log, or nobody can tell."""

    why: str
    at: datetime  # WorkOS's time


class EventLog:
    """The events of these types, or whatever comes although only these were asked for."""

    def __init__(self, api: Api, types: Sequence[str]) -> None:
        self._api, self.types = api, list(types)
        self._unknown: set[str] = set()

    def prove(self, position: Position) -> EventPage | Lost:
        """The first page behind this place, in one request; Lost unless it begins with the last event that was processed.

        Where other types were asked for before, the page is one of those: it only proves the place.
        """
        reply = self._ask(position, behind=position.after, types=position.types)
        if reply.status in UNKNOWN:
            return Lost(f"WorkOS answered {reply.status} ({said(reply)})", date(reply))
        self._api.refuse(reply, LOG)
        page = _page(reply)
        if position.last is None or (page.events and page.events[0].id == position.last):
            return page
        return Lost("the log has another event there" if page.events else "the log has nothing there", page.at)

    def start(self, position: Position) -> EventPage:
        """The first page from a time on."""
        reply = self._ask(position, behind=None)
        self._api.refuse(reply, LOG)
        return _page(reply)

    def follow(self, position: Position, first: EventPage | None = None) -> Generator[tuple[EventPage, Position], None, Position]:
        """The pages behind this place, each with the place behind it, to the end of what there is. Raises Drift for a log that runs wild.

        An event that comes again is left out.
        """
        page, known, ends = first or self._next(position), {position.last}, set[str | None]()
        while True:
            events = [event for event in page.events if not event.id or event.id not in known]
            self._check_order(events, position)
            for event in events:
                position = position.behind(event)
            if events:
                yield replace(page, events=events), position
            if not page.more or not page.events:
                return position
            if position.last in ends or not any(event.id for event in events):
                raise Drift(
                    f"source {self._api.name}: the log of events gave the same page twice",
                    hint="nothing of it was stored; does something between WorkOS and us keep old answers?",
                )
            ends.add(position.last)
            known = {event.id for event in page.events}
            page = self._next(position)

    def _next(self, position: Position) -> EventPage:
        reply = self._ask(position, behind=position.last)
        self._api.refuse(reply, LOG)
        return _page(reply)

    def _ask(self, position: Position, behind: str | None, types: Sequence[str] = ()) -> Reply:
        place = {"after": behind} if behind else {"range_start": as_text(position.start)}  # never both: they exclude each other
        reply = self._asked(place, types or self.types)
        if reply.status in UNKNOWN and self._leave_out(reply):
            reply = self._asked(place, types or self.types)
        return reply

    def _asked(self, place: Mapping[str, str], types: Sequence[str]) -> Reply:
        wanted = [one for one in types if one not in self._unknown]
        return self._api.ask(LOG, {"events": ",".join(wanted), "order": "asc", "limit": LIMIT, **place}, phase="events")

    def _leave_out(self, reply: Reply) -> bool:
        """Ask no more for types that a refusal names, since WorkOS does not have them; gives whether there are any."""
        named = set(_TYPE.findall(reply.body.decode(errors="replace"))) & {*self.types} - self._unknown
        if not named or self._unknown | named >= {*self.types}:
            return False
        self._unknown |= named
        log.get().warning("WorkOS does not know some types of events; the others are read", source=self._api.name, types=sorted(named))
        return True

    def _check_order(self, events: Sequence[Event], position: Position) -> None:
        """Raises Drift for another order than that of time, before anything is stored."""
        before = position.at
        for event in events:
            if event.at is None:
                continue
            if before is not None and event.at < before:
                raise Drift(
                    f"source {self._api.name}: the log of events is not in the order of time",
                    hint="nothing of it was stored, and the cursor stays; did WorkOS change what `order` means? the next run tries again",
                )
            before = event.at


def _page(reply: Reply) -> EventPage:
    found = listed(reply)
    return EventPage([event_of(row) for row in found.rows], bool(found.after), date(reply))
