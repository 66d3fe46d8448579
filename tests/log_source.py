"""A source whose changes come from a log, besides complete listings: what `ports.FollowsLog` is tried with."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from usersync_cli.model import Cursor, Documents, Page, Record, Stream
from usersync_cli.ports import DocumentSession, DocumentSource, FollowsLog, TellsWhoIsGone, Tools

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
TOLD = ("id", "name", "age", "updated_at")  # `title` is in listings alone


@dataclass
class LogSource(DocumentSource):
    """Streams of documents by key, and the log of what happened to them; the clock moves with each change, by a second.

    `poor`: changes lack the field `title`. `given`: pages so far.
    """

    streams: dict[str, dict[str, dict[str, Any]]]
    log: list[dict[str, Any]] = field(default_factory=list)
    name: str = "listed"
    account: str = "ours"
    size: int = 2
    now: datetime = BEGIN
    given: list[Page] = field(default_factory=list)
    fail: Callable[[Page], None] = lambda _page: None  # before each page
    lost: bool = False  # the place in the log is not known any more
    held: Sequence[str] = ()  # what the engine says it holds
    listings: int = 0
    unlisted: Sequence[str] = ()  # streams that only the log has

    @contextmanager
    def open(self, tools: Tools) -> Iterator[LogSession]:
        yield LogSession(self)

    # what happens at the source

    def put(self, stream: str, key: str, /, *, silent: bool = False, at: datetime | None = None, **fields: Any) -> None:
        """Create or update; without `silent`, the log has the document without its title."""
        self.now = at or self.now + timedelta(seconds=1)
        document = {"id": key, "name": f"Test User {key}", "age": 30, **self.streams[stream].get(key, {}), **fields}
        if not silent:
            document["updated_at"] = self.now.isoformat()
        self.streams[stream][key] = document
        if not silent:
            self.tell(stream, {name: value for name, value in document.items() if name != "title"})

    def remove(self, stream: str, key: str, *, silent: bool = False) -> None:
        self.now += timedelta(seconds=1)
        document = self.streams[stream].pop(key)
        if not silent:
            self.tell(stream, document, deleted=True)

    def tell(self, stream: str, document: dict[str, Any], *, deleted: bool = False, at: datetime | None = None) -> None:
        """Add this to the log."""
        self.log.append({"stream": stream, "document": document, "deleted": deleted, "at": (at or self.now).isoformat()})

    # what a session gives

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Iterator[Page]:
        names = [stream.name for stream in streams]
        full = any(stream.full for stream in streams)
        self.held = [key for stream in streams for key in stream.held()]
        place = min((cursor["place"] for cursor in since.values()), default=len(self.log))
        listing = next((cursor["listing"] for cursor in since.values() if "listing" in cursor), None)
        if since and not listing and not self.lost:
            place = yield from self._changes(names, place)
        if self.lost:
            place = len(self.log)
        if full or self.lost or listing or not since:
            yield from self._listing(names, place, None if full else listing)
        yield from self._changes(names, place)

    def _changes(self, names: Sequence[str], place: int) -> Generator[Page, None, int]:
        while place < len(self.log):
            part = self.log[place : place + self.size]
            place += len(part)
            records = [_change(one) for one in part if one["stream"] in names]
            yield Page(Documents(records), {"place": place}, complete=False, streams=names)
        return place

    def _listing(self, names: Sequence[str], place: int, resumed: Mapping[str, Any] | None) -> Iterator[Page]:
        self.listings += resumed is None
        at = resumed or {"as_of": self.now.isoformat(), "sweep": f"sweep {self.listings}", "stream": names[0], "page": 0}
        names = [name for name in names if name not in self.unlisted]
        for name in names[names.index(at["stream"]) :]:
            rows = list(self.streams[name].values())
            last = max(0, -(-len(rows) // self.size) - 1)
            for number in range(at["page"] if name == at["stream"] else 0, last + 1):
                end = number == last
                following = {"stream": name, "page": number + 1}
                if end and name != names[-1]:
                    following = {"stream": names[names.index(name) + 1], "page": 0}
                cursor = {"place": place} if end and name == names[-1] else {"place": place, "listing": {**at, **following}}
                records = [_listed(name, one, at["as_of"]) for one in rows[number * self.size : (number + 1) * self.size]]
                yield Page(
                    Documents(records),
                    cursor,
                    complete=end,
                    streams=[name],
                    sweep=f"{at['sweep']} {name}",
                    checks=not self.lost,
                    overrules=at["as_of"],
                )


class LogSession(FollowsLog, TellsWhoIsGone, DocumentSession):
    """What LogSource opens."""

    def __init__(self, source: LogSource) -> None:
        self.source, self.account = source, source.account

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Generator[Page, None, None]:
        for page in self.source.pages(streams, since):
            self.source.fail(page)
            self.source.given.append(page)
            yield page

    def told(self, stream: str) -> Collection[str]:
        return () if stream in self.source.unlisted else TOLD

    def gone(self, stream: str, keys: Sequence[str]) -> Collection[str]:
        return [key for key in keys if key not in self.source.streams[stream]]


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _change(one: Mapping[str, Any]) -> Record:
    document, at, deleted = one["document"], one["at"], one["deleted"]
    version = at if deleted else document["updated_at"]
    return Record(one["stream"], document["id"], _encoded(document), version, deleted, as_of=at, partial=not deleted)


def _listed(stream: str, document: Mapping[str, Any], as_of: str) -> Record:
    return Record(stream, document["id"], _encoded(document), document.get("updated_at"), as_of=as_of)
