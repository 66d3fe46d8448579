"""A source of documents under a test's control, its people, and the job that reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.log_source import LogSource
from tests.simple_job import execute
from usersync_cli.config.jobs import Job
from usersync_cli.model import Cursor, Database, Documents, Page, Record, Stream
from usersync_cli.ports import DocumentSession, DocumentSource, HasDetails, NumbersVersions, OneMoment, ReadsTogether, TellsWhoIsGone, Tools
from usersync_cli.run.context import Options, RunContext
from usersync_cli.run.job import RunResult, run
from usersync_cli.signals import Stop

TRANSFORM = "SELECT key::int AS id, data ->> 'name' AS name, (data ->> 'age')::int AS age FROM records"


@dataclass
class ListSource(DocumentSource):
    """A source under the test's control: documents by key in pages, and what goes wrong between them."""

    streams: dict[str, list[dict[str, Any]]]  # what a full listing of each has, in order; _version, _deleted, _raw are not part of it
    size: int = 3
    snapshot: bool = True
    since: bool = False  # after a full listing, only what `changes` has
    changes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    fail: Callable[[str, int], None] = lambda _stream, _page: None  # before each page
    gone: Callable[[str, Sequence[str]], Collection[str]] | None = None
    details: Callable[[str, Sequence[str]], Iterator[Record]] | None = None
    sweeps: int = 0
    read: list[tuple[str, int]] = field(default_factory=list)  # pages that were given
    account: str = "ours"
    together: bool = False
    listed: list[Sequence[str]] = field(default_factory=list)  # what the engine knew of an interrupted listing

    @contextmanager
    def open(self, tools: Tools) -> Iterator[ListSession]:
        able = {OneMoment: self.snapshot, ReadsTogether: self.together, _Gone: self.gone, _Details: self.details}
        bases = (*(ability for ability, given in able.items() if given), ListSession)
        yield type("Session", bases, {})(self)

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Generator[Page, None, None]:
        if self.together:
            names = [stream.name for stream in streams]
            records = [record(name, one) for name in names for one in self.streams[name]]
            yield Page(Documents(records), {"done": True}, complete=True, streams=names, sweep="all")
            return
        for stream in streams:
            self.listed = list(stream.listed())
            yield from self._stream(stream.name, since.get(stream.name))

    def _stream(self, name: str, cursor: Cursor | None) -> Iterator[Page]:
        if cursor and cursor.get("done") and self.since:
            yield Page(Documents([record(name, one) for one in self.changes.get(name, ())]), cursor, complete=False, streams=[name])
            return
        if cursor and not cursor.get("done"):
            sweep, begin = cursor["sweep"], cursor["page"]
        else:
            self.sweeps += 1
            sweep, begin = f"sweep {self.sweeps}", 0
        listed = self.streams[name]
        pages = max(1, -(-len(listed) // self.size))
        for number in range(begin, pages):
            self.fail(name, number)
            self.read.append((name, number))
            records = [record(name, one) for one in listed[number * self.size : (number + 1) * self.size]]
            last = number == pages - 1
            cursor = {"done": True, "sweep": sweep} if last else {"sweep": sweep, "page": number + 1}
            yield Page(Documents(records), cursor, complete=last, streams=[name], sweep=sweep)


class ListSession(NumbersVersions, DocumentSession):
    """What ListSource opens, with the abilities that the test gives it."""

    def __init__(self, source: ListSource) -> None:
        self.source, self.account = source, source.account

    @property
    def numbered(self) -> Collection[str]:
        return {name for name in self.source.streams if name.startswith("numbered")}

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Generator[Page, None, None]:
        return self.source.pages(streams, since)


class _Gone(TellsWhoIsGone):
    source: ListSource

    def gone(self, stream: str, keys: Sequence[str]) -> Collection[str]:
        assert self.source.gone
        return self.source.gone(stream, keys)


class _Details(HasDetails):
    source: ListSource
    owed = ()

    @property
    def detailed(self) -> Collection[str]:
        return list(self.source.streams)

    def details(self, stream: str, keys: Sequence[str]) -> Iterator[Record]:
        assert self.source.details
        return self.source.details(stream, keys)


def record(stream: str, one: dict[str, Any]) -> Record:
    raw = one.get("_raw") or json.dumps({name: value for name, value in one.items() if not name.startswith("_")}).encode()
    version = one.get("_version")
    return Record(
        stream,
        str(one.get("id", "")),
        raw,
        version,
        bool(one.get("_deleted")),
        problem=one.get("_problem", ""),
        whole=bool(one.get("_whole")),
    )


def person(number: int, name: str = "", **more: Any) -> dict[str, Any]:
    return {"id": number, "name": name or f"Test User {number}", "age": 30, **more}


def people(*numbers: int) -> list[dict[str, Any]]:
    return [person(number) for number in numbers]


@dataclass
class Sync:
    """Job `sync` of one step: streams of `source` into tables of their names."""

    source: ListSource | LogSource
    target: Database
    load: dict[str, Any] = field(default_factory=dict)
    transform: str | None = TRANSFORM
    identity: list[dict[str, Any]] = field(default_factory=list)
    name: str = "sync"

    @property
    def job(self) -> Job:
        streams = list(self.source.streams)
        load = {"table": "{stream}", "key": ["id"], "create": True, **self.load}
        step: dict[str, Any] = {"name": "all", "extract": {"source": "crm", "streams": streams}, "load": load}
        if self.transform:
            step["transform"] = self.transform
        if self.identity:
            step["identity"] = self.identity
        return Job.model_validate({"name": self.name, "steps": [step]})

    @property
    def context(self) -> RunContext:
        return RunContext(self.target, {"crm": self.source}, Tools(self.name, Stop(), Database), lambda _extract, _size: None)

    def run(self, **options: Any) -> RunResult:
        return run(self.job, self.context, Options(**options))

    def ok(self, **options: Any) -> str:
        """A run that went well, as `new changed same gone`."""
        result = self.run(**options)
        assert result.steps[0].error is None, result.steps[0].error
        return counts(result)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        return execute(self.target.url, query)

    def rows(self, table: str = "people", where: str = "true") -> list[int]:
        return [row[0] for row in self.ask(f"SELECT id FROM {table} WHERE {where} ORDER BY id")]


def counts(result: RunResult) -> str:
    c = result.steps[0].counts
    assert c.adds_up(), c
    return f"{c.inserted} {c.updated} {c.unchanged} {c.gone}" + (f" stale {c.stale}" if c.stale else "") + (
        f" rejected {c.rejected}" if c.rejected else "") + (f" duplicates {c.duplicates}" if c.duplicates else "")  # fmt: skip
