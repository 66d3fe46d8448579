"""The changes that events report, as records; and objects that are read by their id, because an event says too little of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from usersync_cli.errors import Drift
from usersync_cli.model import Record
from usersync_cli.sources.workos.api import date, is_unknown, request
from usersync_cli.sources.workos.shapes import Event, archived, as_text, aside, change_of, fields_of, record_of, text_of
from usersync_cli.sources.workos.streams import ARCHIVE, OF_TYPE, STREAMS, Kind
from usersync_cli.sources.workos.types import TYPES

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import Reply, Request
    from usersync_cli.sources.workos.api import Api, Phase

KNOWN = frozenset(TYPES)
GIVE_UP = 3  # objects in a row that WorkOS does not have by id: the others of the stream are not asked for

_Which = tuple[str, str]  # stream and key


@dataclass
class Changes:
    """Turns the events of one run into records of these streams."""

    api: Api
    streams: Sequence[str]
    other: Counter[str] = field(default_factory=Counter)  # events that are about nothing that was asked for, by what they are
    _poor: Counter[str] = field(default_factory=Counter)  # look-ups in a row, by stream, that were in vain
    _enough: set[str] = field(default_factory=set)  # streams whose objects are no richer by id

    def records(self, events: Sequence[Event], *, alone: bool = True) -> list[Record]:
        """The records that these events make; what has to be read by id comes behind them, once for each object.

        Unless they are `alone` a listing follows, which has what has changed: then only deletes count. A row that came from an event,
        and has left before the listing comes to it, would be missing from the very first one.
        """
        found: list[Record] = []
        lacking: dict[_Which, int] = {}  # its last event's place in `found`
        related: dict[_Which, None] = {}
        for event in events:
            if ARCHIVE in self.streams:
                found.append(aside(ARCHIVE, event, event.problem) if event.problem in {"no_key", "bad_version"} else archived(event))
            stream, kind = OF_TYPE.get(event.type, ("", Kind.CHANGED))
            if stream not in self.streams:
                self._pass(event, stream, found)
            elif event.problem:
                found.append(aside(stream, event, event.problem))
            elif kind is Kind.RELATED:
                self._relate(stream, event, related, found)
            else:
                record, fields = change_of(stream, event, kind)
                if self._lacks(record, fields):
                    lacking[stream, record.key] = len(found)
                else:
                    lacking.pop((stream, record.key), None)
                found.append(record)
        if not alone:
            return [record for record in found if record.deleted or record.problem or record.stream == ARCHIVE]
        wanted = {**dict.fromkeys(which for which in lacking if which not in related), **related}
        return [*found, *self._read(list(wanted), lacking, _last(events))] if wanted else found

    def _pass(self, event: Event, stream: str, found: list[Record]) -> None:
        """Count an event that is about something else; one that does not even say what it is about is set aside."""
        if not event.type and event.problem and ARCHIVE not in self.streams:
            found.append(aside(self.streams[0], event, event.problem))
        elif ARCHIVE not in self.streams:
            self.other["events of other types" if stream or event.type in KNOWN else "events of unknown types"] += 1

    def _relate(self, stream: str, event: Event, related: dict[_Which, None], found: list[Record]) -> None:
        """Note the organization whose domain this is."""
        fields = fields_of(event.data) or {}
        domain = fields_of(bytes(fields["organization_domain"])) if "organization_domain" in fields else fields  # one that failed
        if not (key := text_of(domain or {}, "organization_id")):
            found.append(aside(stream, event, "no_key"))
            return
        related[stream, key] = None

    def _lacks(self, record: Record, fields: Collection[str]) -> bool:
        """Whether the object has to be read by its id, because the event lacks what it should have."""
        if record.deleted or record.problem or record.stream in self._enough:
            return False
        return not STREAMS[record.stream].told.issubset(fields)

    def _read(self, wanted: Sequence[_Which], lacking: Collection[_Which], last: str) -> Iterator[Record]:
        """These objects, as they are now. Those that are gone are left out: the event that says so follows."""
        asked = iter([which for which in wanted if which[0] not in self._enough or which not in lacking])
        taken: list[_Which] = []

        def requests() -> Iterator[Request]:
            for which in asked:
                if which in lacking and which[0] in self._enough:
                    continue
                taken.append(which)
                yield by_id(*which, phase="look-up")

        for reply in self.api.each(requests()):
            stream, key = taken.pop(0)
            record = found_by_id(self.api, stream, key, reply, last)
            if (stream, key) in lacking:
                self._learn(stream, record)
            if record:
                yield record

    def _learn(self, stream: str, record: Record | None) -> None:
        """Find out whether it is of any use to ask for objects of this stream."""
        if record is None:
            self._poor[stream] += 1
            if self._poor[stream] >= GIVE_UP:
                self._enough.add(stream)
            return
        self._poor[stream] = 0
        if not STREAMS[stream].told.issubset(fields_of(record.data) or ()):
            self._enough.add(stream)


def by_id(stream: str, key: str, *, phase: Phase) -> Request:
    """The request for one object."""
    return request(f"{STREAMS[stream].path}/{quote(key, safe='')}", phase=phase)


def found_by_id(api: Api, stream: str, key: str, reply: Reply, last: str = "") -> Record | None:
    """The object that was asked for by its id, as of WorkOS's time or `last`, whichever is later; None where WorkOS has none.

    Raises Drift where the answer is something else.
    """
    if is_unknown(reply):
        return None
    path = STREAMS[stream].path
    api.refuse(reply, f"{path}/...")
    record = record_of(stream, reply.body, max(as_text(date(reply)), last))
    if record.key != key:
        raise Drift(f"source {api.name}: WorkOS gave something else than what GET {path}/... asks for", hint="nothing of it was stored")
    return record


def _last(events: Sequence[Event]) -> str:
    """The time of the last of these events, as text that sorts like times do."""
    return max((as_text(event.at) for event in events if event.at), default="")
