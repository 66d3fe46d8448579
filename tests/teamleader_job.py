"""The job `teamleader` between a local Teamleader and a real database, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from tests.list_source import counts
from tests.simple_job import execute
from tests.teamleader_server import TOKEN, Asked, Teamleader
from usersync_cli.config.jobs import Job
from usersync_cli.model import Access, Database, Token
from usersync_cli.ports import Tools
from usersync_cli.run.context import Options, RunContext
from usersync_cli.run.job import RunResult, run
from usersync_cli.signals import Stop
from usersync_cli.sources.teamleader import STREAMS, Settings, Source, limits

SECRET = "a-secret-to-look-for"


@dataclass(frozen=True)
class Granted:
    """Tokens of somebody who has authorised."""

    def access(self, _source: str, _refresh: Callable[[str], Token], *, after: int = 0) -> Access:
        return Access(TOKEN, after + 1)

    def belong(self, _source: str, _account: str) -> None:
        """Nothing is kept."""


@dataclass
class Crm:
    """Job `teamleader` of one step."""

    server: Teamleader
    target: Database
    streams: Sequence[str] = ("contacts",)
    settings: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    tokens: Any = field(default_factory=Granted)
    other: Sequence[str] = ()  # streams of a second step

    @property
    def job(self) -> Job:
        load = {"table": "tl_{stream}", "key": ["tl_uuid"], "create": True, "on_missing": "mark", **self.load}
        load = {name: value for name, value in load.items() if value is not None}
        step = {"name": "all", "extract": {"source": "crm", "streams": list(self.streams)}, "load": load}
        other = {"name": "other", "extract": {"source": "crm", "streams": list(self.other)}, "load": load}
        return Job.model_validate({"name": "teamleader", "steps": [step, other] if self.other else [step]})

    def source(self) -> Source:
        return Source("crm", Settings.model_validate(made(self.server.url, **self.settings)))

    def run(self, **options: Any) -> RunResult:
        tools = Tools("teamleader", Stop(), Database, self.tokens)
        job = self.job
        context = RunContext(self.target, {"crm": self.source()}, tools, lambda _extract, _size: None, steps=job.steps)
        return run(job, context, Options(**options))

    def soon(self, seconds: float = 0.4, **options: Any) -> RunResult:
        """A run in which a fault that stays is told soon. Others have all the time they need, on a busy machine too."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "DEADLINE", timedelta(seconds=seconds))
            patch.setattr(limits, "REPEATS", [timedelta(0)] * 2)
            return self.run(**options)

    def ok(self, **options: Any) -> str:
        """A run that went well, as `new changed same gone`."""
        result = self.run(**options)
        assert result.steps[0].error is None, result.steps[0].error
        return counts(result)

    def requests(self, **options: Any) -> list[Asked]:
        """What a run that went well asked for."""
        before = len(self.server.asked)
        self.ok(**options)
        return self.server.asked[before:]

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        return execute(self.target.url, query)

    def held(self, stream: str = "contacts", where: str = "true") -> list[str]:
        """The ids of the rows of a table, in their order."""
        return [str(row[0]) for row in self.ask(f"SELECT tl_uuid FROM tl_{stream} WHERE {where} ORDER BY tl_uuid")]

    def here(self, stream: str = "contacts") -> list[str]:
        """Of those that are not marked."""
        return self.held(stream, "deleted_at IS NULL")

    def there(self, resource: str = "contacts") -> list[str]:
        """The ids at Teamleader, in their order."""
        return sorted(self.server.ids(resource))

    def has_all(self, stream: str = "contacts", resource: str = "contacts") -> bool:
        """Whether the table holds what .info would give now of each record that is there, and none of them is marked."""
        held = dict(self.ask(f"SELECT tl_uuid::text, tl_content FROM tl_{stream} WHERE NOT to_jsonb(tl_{stream}) ? 'deleted_at' OR"
                             f" to_jsonb(tl_{stream}) ->> 'deleted_at' IS NULL"))  # fmt: skip
        return all(held.get(id_) == self.server.info(resource, id_) for id_ in self.server.ids(resource))

    def is_equal(self, stream: str = "contacts", resource: str = "contacts") -> bool:
        """Whether the table holds just what .info would give now."""
        if self.here(stream) != self.there(resource):
            return False
        rows = self.ask(f"SELECT tl_uuid::text, tl_content FROM tl_{stream} WHERE deleted_at IS NULL")
        return all(content == self.server.info(resource, id_) for id_, content in rows)


def made(url: str, **more: Any) -> dict[str, Any]:
    """The settings of a source at this address."""
    own = {"client_id": "a-client", "client_secret": SECRET, "redirect_uri": "https://usersync.test.example/back"}
    return {"type": "teamleader", **own, "api_url": url, "auth_url": url, **more}


ALL = STREAMS
