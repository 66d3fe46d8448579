"""The job that sends our map to a local Klanten, and one that reads it back: the map in a real database, read from its view."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.klanten_server import KEY, Klanten, settings
from tests.list_source import counts
from tests.simple_job import execute
from usersync_cli.cli.bootstrap import run_context
from usersync_cli.config import loader
from usersync_cli.errors import UsersyncError
from usersync_cli.model import Change, Database
from usersync_cli.patience import Patience
from usersync_cli.run.context import Options
from usersync_cli.run.job import RunResult, run
from usersync_cli.signals import Stop

QUERY = "SELECT app, id, domain FROM usersync.customer_ids"
IMPORT = {
    "extract": {"source": "klanten", "streams": ["companies"]},
    "load": {"table": "klanten_{stream}", "key": ["id"], "create": True},
    "identity": {"stream": "companies", "app": "crm", "id": "id", "rules": [{"name": "klanten", "domain": "domain", "uuid": "uuid"}]},
}
MAPPING = """
INSERT INTO usersync.apps (name, added_by) VALUES ('{app}', 'a test') ON CONFLICT DO NOTHING;
INSERT INTO usersync.customers (uuid, domain, created_by) VALUES (usersync.uuid_of('{domain}'), '{domain}', 'a test')
ON CONFLICT DO NOTHING;
INSERT INTO usersync.mappings (app, id, customer, decided_by) VALUES ('{app}', '{id}', usersync.uuid_of('{domain}'), 'a test')
ON CONFLICT (app, id) DO UPDATE SET customer = excluded.customer
"""


@dataclass
class Sending:
    """The map, the service, and the job `send`."""

    klanten: Klanten
    target: Database
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)  # of the target klanten
    load: dict[str, Any] = field(default_factory=dict)
    query: str = QUERY
    patience: float = 5.0  # seconds that a run waits for a Klanten that does not answer

    def config(self) -> Path:
        """The config file."""
        target = {"type": "klanten", **settings(self.klanten.url), "apps": {"crm": "crm"}, **self.settings}
        step = {"name": "ids", "extract": {"source": "map", "query": self.query}, "load": {"target": "klanten", **self.load}}
        document = {
            "environment": "test",
            "target": self.target.url,
            "sources": {
                "map": {"type": "postgres", "url": self.target.url},
                "klanten": {"type": "klanten", "streams": {"companies": "crm"}, **settings(self.klanten.url)},
            },
            "targets": {"klanten": target},
            "jobs": {"send": {"lease": "5s", "noun": "ids", "steps": [step]}, "import": {"steps": [IMPORT]}},
        }
        file = self.folder / "config.yaml"
        file.write_text(json.dumps(document))
        return file

    # our map

    def map(self, ids: Mapping[str, str], app: str = "crm") -> None:
        """Ids of an app, each with its customer's domain."""
        for id_, domain in ids.items():
            execute(self.target.url, MAPPING.format(app=app, id=id_, domain=domain))

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        return execute(self.target.url, query)

    def uuid(self, domain: str) -> UUID:
        return UUID(str(self.ask(f"SELECT usersync.uuid_of('{domain}')")[0][0]))

    # a run

    def run(self, name: str = "send", **options: Any) -> RunResult:
        config = loader.load(self.config())
        job, stop = config.job(name), Stop()
        stop.patience = Patience(self.patience)
        return run(job, run_context(config, job, stop), Options(**options))

    def ok(self, **options: Any) -> str:
        """A run that went well, as `new changed same gone`."""
        result = self.run(**options)
        assert result.steps[0].error is None, (result.steps[0].error, result.steps[0].error and result.steps[0].error.hint)
        return counts(result)

    def failed(self, **options: Any) -> UsersyncError:
        """How a run ended that did not go well; without a secret, an id or a domain."""
        error = self.run(**options).steps[0].error
        assert error is not None
        for word in (KEY, "example.", "Traceback"):
            assert word not in f"{error.message} {error.hint}", error.message
        return error

    def preview(self, **options: Any) -> list[tuple[str, str]]:
        """What a dry run tells: kind and key."""
        told: list[Change] = []

        def tell(change: Change) -> bool:
            told.append(change)
            return True

        self.run(dry_run=True, diff=tell, **options)
        return [(one.kind, str(one.key["id"])) for one in told]

    def asked(self, **options: Any) -> list[str]:
        """All that a run asked Klanten."""
        before = len(self.klanten.asked)
        self.run(**options)
        return [f"{one.method} {one.path}" for one in self.klanten.asked[before:]]

    def conflicts(self) -> dict[str, str]:
        """The reason of each id that waits for a person."""
        return dict(self.ask("SELECT key, reason FROM usersync.rejects WHERE status = 'waiting' ORDER BY key"))
