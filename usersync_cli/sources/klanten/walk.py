"""One reading of all streams: ids in their order, page by page, and in the end what customers have besides."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from usersync_cli import log
from usersync_cli.clients.klanten.paths import misfit
from usersync_cli.model import Cursor, Documents, Page, Record

if TYPE_CHECKING:
    from usersync_cli.clients.klanten.answers import Customer
    from usersync_cli.model import Stream
    from usersync_cli.sources.klanten.asking import Asking

PAGE_IDS = 250  # that are asked for before what was found is stored
PAGE_RECORDS = 1000


class Place(msgspec.Struct, omit_defaults=True):
    """A cursor: behind which id of which stream a reading goes on; without a stream it came to its end."""

    sweep: str
    stream: str = ""
    behind: str | None = None
    known: list[tuple[str, str]] = []
    """A few ids that Klanten has, to tell an outage from an unknown id."""


def place_in(streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Place | None:
    """The place of the reading that these streams are in, if it is one and the same. None also for a cursor of another shape."""
    try:
        places = [msgspec.convert(since[one.name], Place) if one.name in since else None for one in streams]
    except msgspec.ValidationError:
        return None
    return places[0] if places and all(one == places[0] for one in places) else None


class Walk:
    """A reading. `unknown` and `misfits` are the ids, by stream, that Klanten does not know, or that it can't be asked for."""

    def __init__(self, asking: Asking, apps: Mapping[str, str], streams: Sequence[Stream], place: Place | None) -> None:
        self._asking, self._apps, self._streams = asking, apps, streams
        self.unknown: dict[str, set[str]] = {one.name: set() for one in streams}
        self.misfits: dict[str, dict[str, str]] = {one.name: {} for one in streams}  # with the reason
        self._waiting: list[tuple[str, str]] = []  # (stream, id) of which nothing can be said yet
        self._place = place if place and place.stream in self.unknown else Place(uuid.uuid4().hex, streams[0].name)

    def pages(self) -> Iterator[Page]:
        """What is known of each stream's ids; then one last page, or several, of what else their customers have."""
        names = [one.name for one in self._streams]
        for stream in self._streams[names.index(self._place.stream) :]:
            yield from self._stream(stream, self._place.behind if stream.name == self._place.stream else None)
        self._asking.finish()
        records = self._given(self._waiting)
        records += [record for stream in self._streams for record in self._others(stream)]
        self._tell_misfits()
        *pages, last = [records[at : at + PAGE_RECORDS] for at in range(0, max(len(records), 1), PAGE_RECORDS)]
        for page in pages:
            yield self._page(page, names, self._place)
        yield Page(Documents(last), self._cursor(Place(self._place.sweep)), complete=True, streams=names, sweep=self._place.sweep)

    def _stream(self, stream: Stream, behind: str | None) -> Iterator[Page]:
        app, asked, number = self._apps[stream.name], self._asking.asked, 0
        rest = (one for some in stream.ids() for one in some if behind is None or one > behind)
        while ids := list(islice(rest, PAGE_IDS)):
            self._ask(stream.name, app, ids)
            number += len(ids)
            self._place = Place(self._place.sweep, stream.name, ids[-1])
            if not self._asking.in_doubt:
                records, self._waiting = self._given(self._waiting), []
                yield self._page(records, [stream.name], self._place)
        log.get().info(
            "ids looked up at Klanten",
            stream=stream.name,
            ids=number,
            asked=self._asking.asked - asked,
            unknown=len(self.unknown[stream.name]),
        )

    def _ask(self, stream: str, app: str, ids: Iterable[str]) -> None:
        held, fitting = self._asking.held[app], []
        for id_ in ids:
            why = misfit(id_)
            if id_ in held or not why:
                fitting.append(id_)
            else:
                self.misfits[stream][id_] = why
        self._waiting += [(stream, id_) for id_ in fitting]
        self._asking.ask(app, fitting)

    def _given(self, ids: Iterable[tuple[str, str]]) -> list[Record]:
        """The records of those that were found; the others are unknown."""
        records = []
        for stream, id_ in ids:
            if customer := self._asking.held[self._apps[stream]].pop(id_, None):
                records.append(_record(stream, id_, customer))
            elif (self._apps[stream], id_) in self._asking.refused:
                self.misfits[stream][id_] = "Klanten refused it (400)"
            else:
                self.unknown[stream].add(id_)
        return records

    def _others(self, stream: Stream) -> Iterator[Record]:
        """Ids of the customers that were found, which were not asked for: that do not fit into a path, or that are not known here."""
        held, misfits = self._asking.held[self._apps[stream.name]], self.misfits[stream.name]
        if not held:
            return
        done = {id_ for some in stream.ids() for id_ in some if id_ in held and id_ not in misfits}
        for id_ in sorted(held.keys() - done):
            misfits.pop(id_, None)
            yield _record(stream.name, id_, held[id_])
        held.clear()

    def _page(self, records: Sequence[Record], streams: Sequence[str], place: Place) -> Page:
        names = dict.fromkeys([*streams, *(one.stream for one in records)])  # those that had to wait may be of a stream before
        return Page(Documents(records), self._cursor(place), complete=False, streams=[*names], sweep=place.sweep)

    def _cursor(self, place: Place) -> Cursor:
        found = msgspec.structs.replace(place, known=list(self._asking.known))
        return msgspec.json.decode(msgspec.json.encode(found), type=dict[str, Any])

    def _tell_misfits(self) -> None:
        for stream, ids in self.misfits.items():
            for why, number in Counter(ids.values()).items():
                log.get().warning("ids were not asked for at Klanten", stream=stream, ids=number, why=why)


def _record(stream: str, id_: str, customer: Customer) -> Record:
    return Record(stream, id_, msgspec.json.encode({"id": id_, "uuid": str(customer.uuid), "domain": customer.domain}))
