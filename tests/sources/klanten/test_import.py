"""From a local Klanten into the map, by the engine: uuids stay as they are there, differences are conflicts, nothing is removed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.klanten_server import Klanten, of_path, out_of_order, settings
from tests.list_source import counts
from tests.simple_job import execute
from usersync_cli.cli.bootstrap import run_context
from usersync_cli.config import loader
from usersync_cli.errors import PartialError, Unavailable
from usersync_cli.model import Database, Job
from usersync_cli.patience import Patience
from usersync_cli.report.check import Finding, check
from usersync_cli.report.verify.report import VerifyOptions
from usersync_cli.report.verify.steps import verify
from usersync_cli.run.context import Options, RunContext
from usersync_cli.run.job import RunResult, run
from usersync_cli.signals import Stop
from usersync_cli.sources.klanten import walk

RULE = {"name": "klanten", "domain": "domain", "uuid": "uuid"}
WEBSITE = {"name": "website", "domain": "website"}
MAP = "SELECT app, id, uuid::text, domain FROM usersync.customer_ids ORDER BY app, id"


@dataclass
class Importing:
    """Job `crm` fills the app crm from a table of companies; job `import` asks Klanten whose they are."""

    klanten: Klanten
    target: Database
    folder: Path
    rules: Sequence[Any] = (WEBSITE,)  # of the companies

    def companies(self, *rows: tuple[str, str | None]) -> None:
        execute(self.target.url, "CREATE TABLE IF NOT EXISTS theirs (id text PRIMARY KEY, website text); TRUNCATE theirs")
        for id_, website in rows:
            execute(self.target.url, f"INSERT INTO theirs VALUES ('{id_}', NULLIF('{website or ''}', ''))")

    def run(self, job: str, **options: Any) -> RunResult:
        found, context = self._made(job)
        return run(found, context, Options(**options))

    def verify(self) -> list[tuple[int, int, int, int]]:
        """Of each stream: records read, rows missing, extra and different."""
        return [(one.read, one.missing, one.extra, one.different) for one in verify(*self._made("import"), VerifyOptions())]

    def check(self) -> list[Finding]:
        return list(check(*self._made("import")))

    def _made(self, job: str) -> tuple[Job, RunContext]:
        companies = {
            "name": "companies",
            "extract": {"source": "crm", "table": "theirs"},
            "load": {"table": "companies", "key": ["id"], "create": True, "on_missing": "delete", "max_missing": "50%"},
            "identity": {"app": "crm", "id": "id", "rules": self.rules},
        }
        asked = {
            "name": "import",
            "extract": {"source": "klanten", "streams": ["companies", "shops"]},
            "load": {"table": "klanten_{stream}", "key": ["id"], "create": True},
            "identity": [
                {"stream": one, "app": app, "id": "id", "rules": [RULE]} for one, app in (("companies", "crm"), ("shops", "shop"))
            ],
        }
        sources = {
            "crm": {"type": "postgres", "url": self.target.url},
            "klanten": {"type": "klanten", "streams": {"companies": "tl", "shops": "amc"}, **settings(self.klanten.url)},
        }
        jobs = {"crm": {"steps": [companies]}, "import": {"noun": "ids", "steps": [asked]}}
        file = self.folder / "config.yaml"
        file.write_text(json.dumps({"environment": "test", "target": self.target.url, "sources": sources, "jobs": jobs}))
        config, stop = loader.load(file), Stop()
        stop.patience = Patience(0.2)
        found = config.job(job)
        return found, run_context(config, found, stop)

    def ok(self, job: str, **options: Any) -> str:
        result = self.run(job, **options)
        assert result.steps[0].error is None, result.steps[0].error
        return counts(result)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        return execute(self.target.url, query)


@pytest.fixture
def importing(database: Database, tmp_path: Path) -> Iterator[Importing]:
    with Klanten("tl", "amc").running() as server:
        assert isinstance(server, Klanten)
        yield Importing(server, database, tmp_path)


def test_uuids_are_kept(importing: Importing) -> None:
    """
    Ids that were known without a customer get Klanten's, with its uuid; what its customers have besides comes along. Again: nothing.
    """
    uuid = str(importing.klanten.add("Example.com", ("tl", "1"), ("tl", "2"), ("amc", "x")))
    other = str(importing.klanten.add("example.org", ("tl", "4")))
    importing.companies(("1", "example.com"), ("3", None), ("4", "example.net"), ("a/b", None))
    importing.rules = []
    importing.ok("crm")

    result = importing.run("import")

    assert result.steps[0].error is None
    assert {"unknown at the source": 1, "unfit to be asked for": 1} == result.steps[0].left_out
    expected = [("crm", "1", uuid, "example.com"), ("crm", "2", uuid, "example.com"), ("crm", "4", other, "example.org")]
    assert [*expected, ("shop", "x", uuid, "example.com")] == importing.ask(MAP)

    before = importing.ask("SELECT xmin, ctid, * FROM usersync.mappings"), importing.ask("SELECT xmin, * FROM klanten_companies")
    assert "0 0 4 0" == importing.ok("import")
    assert before == (importing.ask("SELECT xmin, ctid, * FROM usersync.mappings"), importing.ask("SELECT xmin, * FROM klanten_companies"))

    assert [(3, 0, 0, 0), (1, 0, 0, 0)] == importing.verify()

    importing.rules = [WEBSITE]
    importing.run("crm")
    assert [("domain", "4", "example.net")] == importing.ask("SELECT kind, app_id, domain FROM usersync.identity_conflicts")
    assert [*expected, ("shop", "x", uuid, "example.com")] == importing.ask(MAP)


def test_differences_are_conflicts(importing: Importing) -> None:
    """
    Another uuid of a domain, another domain of an id: a person decides, and nothing moves. Two of their domains may be one of ours.
    """
    importing.klanten.add("example.com", ("tl", "1"))
    importing.klanten.add("EXAMPLE.com", ("tl", "2"))
    importing.klanten.add("example.net", ("tl", "3"))
    importing.companies(("1", "example.com"), ("2", "www.example.com"), ("3", "example.org"))
    importing.ok("crm")
    before = importing.ask(MAP)

    result = importing.run("import")

    assert isinstance(result.steps[0].error, PartialError)
    assert before == importing.ask(MAP)
    kinds = importing.ask("SELECT kind, domain, count(*) FROM usersync.identity_conflicts GROUP BY 1, 2 ORDER BY 1, 2")
    assert [("domain", "example.net", 1), ("uuid", "example.com", 2)] == kinds


def test_nothing_is_removed(importing: Importing) -> None:
    """
    What Klanten has forgotten stays on the map, however often it is asked; so does what left the source of the ids.
    """
    uuid = str(importing.klanten.add("example.com", ("tl", "1"), ("tl", "2")))
    importing.klanten.add("example.org", ("tl", "3"))
    importing.companies(("1", None), ("2", None), ("3", None))
    importing.ok("crm")
    importing.ok("import")
    before = importing.ask(MAP)
    del importing.klanten.mappings["tl", "1"]
    importing.companies(("2", None), ("3", None))
    importing.ok("crm")
    for _ in range(2):
        assert "0 0 2 0" == importing.ok("import")

    assert before == importing.ask(MAP)
    assert [(uuid,)] == importing.ask("SELECT uuid::text FROM klanten_companies WHERE id = '1'")


def test_an_interrupted_import_goes_on(importing: Importing, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What was stored before an outage is not asked for again.
    """
    monkeypatch.setattr(walk, "PAGE_IDS", 2)
    for number in range(6):
        importing.klanten.add(f"example{number}.org", ("tl", f"{number}"))
    importing.companies(*((f"{number}", None) for number in range(6)))
    importing.ok("crm")
    importing.klanten.trouble = of_path("/v1/", out_of_order(), skip=10)
    assert isinstance(importing.run("import").steps[0].error, Unavailable)
    assert ["0", "1", "2", "3"] == [id_ for _, id_, *_ in importing.ask(MAP)]

    importing.klanten.trouble = lambda _: None
    importing.klanten.asked.clear()
    assert "2 0 0 0" == importing.ok("import")
    assert {"4", "5"} == {one.path.rpartition("/")[2] for one in importing.klanten.asked if "query" in one.path}
    assert 6 == len(importing.ask(MAP))


def test_check_does_not_advise_to_remove(importing: Importing) -> None:
    """
    Ids that Klanten has forgotten are still somebody's: nobody is told to let their rows go.
    """
    importing.companies(("1", None))
    found = [(one.error, one.advice) for one in importing.check() if "app " in one.what]

    assert [(None, ""), (None, "")] == found
