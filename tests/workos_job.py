"""The job `workos` between a local WorkOS, or the vendor's emulator, and a real database, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.list_source import counts
from tests.simple_job import execute
from tests.workos_emulator import Emulator
from tests.workos_server import WorkOS
from tests.workos_world import SECRET, Document
from usersync_cli.config.jobs import Job
from usersync_cli.model import Database
from usersync_cli.ports import Tools
from usersync_cli.run.context import Options, RunContext
from usersync_cli.run.job import RunResult, run
from usersync_cli.signals import Stop
from usersync_cli.sources.workos import Settings, Source, api
from usersync_cli.sources.workos.streams import STREAMS

THREE = ("users", "organizations", "organization_memberships")
KEYS = {"roles": "slug"}  # of the documents; others are by id
LOAD = {"table": "workos_{stream}", "key": ["id"], "create": True, "on_missing": "mark", "live_view": True}


@dataclass
class Copy:
    """Job `workos` of one step."""

    server: WorkOS | Emulator
    target: Database
    streams: Sequence[str] = THREE
    settings: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    name: str = "workos"  # of the job, and how its tables begin

    @property
    def job(self) -> Job:
        step = {
            "name": "copy",
            "extract": {"source": "workos", "streams": list(self.streams)},
            "load": {**LOAD, "table": f"{self.name}_{{stream}}", **self.load},
        }
        return Job.model_validate({"name": self.name, "steps": [step]})

    def run(self, **options: Any) -> RunResult:
        """A run, however it ends; a fault that stays is reported soon."""
        source = Source("workos", Settings.model_validate(self.server.settings(**self.settings)))
        job, tools = self.job, Tools(self.name, Stop(), Database)
        context = RunContext(self.target, {"workos": source}, tools, lambda _extract, _size: None, steps=job.steps)
        return run(job, context, Options(**options))

    def soon(self, seconds: float = 0.5, **options: Any) -> RunResult:
        """A run in which a fault that stays is reported soon."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(api, "DEADLINE", timedelta(seconds=seconds))
            return self.run(**options)

    def ok(self, **options: Any) -> str:
        """A run that went well, as `new changed same gone`."""
        result = self.run(**options)
        assert result.steps[0].error is None, result.steps[0].error
        return counts(result)

    def refused(self, **options: Any) -> str:
        """A run that failed: its exit status, and what it said."""
        error = self.soon(**options).steps[0].error
        assert error is not None, "it went well"
        text = f"{error.status}: {error} {error.hint or ''}"
        assert SECRET not in text
        assert "Test User" not in text
        return text

    # what the tables hold

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        return execute(self.target.url, query)

    def table(self, stream: str) -> dict[str, Document]:
        """The documents of the rows that are not marked, by key."""
        return dict(self.ask(f"SELECT id, document FROM {self.name}_{stream} WHERE deleted_at IS NULL"))

    def deleted(self, stream: str) -> dict[str, datetime]:
        """When those that are marked were deleted, by key."""
        return dict(self.ask(f"SELECT id, deleted_at FROM {self.name}_{stream} WHERE deleted_at IS NOT NULL"))

    def differences(self, *, whole: bool = False) -> dict[str, Any]:
        """Where the tables are not what WorkOS lists: by stream, what is missing, too much, and different.

        Without `whole`, of fields that events report; others are as fresh as the last listing.
        """
        found = {}
        for stream in self.streams:
            if stream == "events":
                continue
            told = None if whole else STREAMS[stream].told
            there = {key: _fields(document, told) for key, document in _truth(self.server, stream).items()}
            here = {key: _fields(document, told) for key, document in self.table(stream).items()}
            if there != here:
                different = {key: (there[key], here[key]) for key in there.keys() & here.keys() if there[key] != here[key]}
                found[stream] = {"missing": there.keys() - here.keys(), "too much": here.keys() - there.keys(), "different": different}
        return found

    def untouched(self) -> list[tuple[Any, ...]]:
        """How many rows each table has, and which transaction was the last to write one."""
        return [self.ask(f"SELECT count(*), max(xmin::text::bigint) FROM {self.name}_{stream}")[0] for stream in self.streams]

    def everything(self) -> str:
        """All that is in the database, as text, to look for what must not be there."""
        tables = self.ask("SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'usersync')")
        rows = [row[0] for (name,) in tables for row in self.ask(f"SELECT to_jsonb(t)::text FROM {name} AS t")]
        documents = self.ask("SELECT convert_from(document, 'UTF8') FROM usersync.rejects")
        return "\n".join([*rows, *(str(document) for (document,) in documents)])


def _truth(server: WorkOS | Emulator, stream: str) -> dict[str, Document]:
    return {document[KEYS.get(stream, "id")]: document for document in server.truth(stream).values()}


def _fields(document: Document, told: Any) -> Mapping[str, Any]:
    return document if told is None else {name: value for name, value in document.items() if name in told}
