"""For the tests of `status` and `health`: a target whose ledger says what a test needs, written as runs write it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from tests import servers
from tests.conftest import Command, Result
from tests.simple_job import clean, with_password
from usersync_cli.model import Database
from usersync_cli.state.owner import Owner

STEP = {"extract": {"source": "crm", "table": "people_at_source"}, "load": {"table": "people", "key": ["id"], "create": True}}
EVERY_TEN_MINUTES = "*/10 * * * *"


@dataclass
class Ledger:
    """A config file with jobs that nobody runs, and their ledger."""

    usersync: Command
    target: Database

    def __post_init__(self) -> None:
        self.write({"members": EVERY_TEN_MINUTES})

    def write(self, jobs: dict[str, str | None], target: str | None = None) -> None:
        """The config file: jobs and their schedules."""
        document = {
            "environment": "test",
            "target": target or with_password(self.target.url),
            "sources": {"crm": {"type": "postgres", "url": "${CRM_URL}"}},  # never set: neither command asks a source
            "jobs": {name: {"steps": [STEP], **({"schedule": schedule} if schedule else {})} for name, schedule in jobs.items()},
        }
        (self.usersync.folder / "config.yaml").write_text(json.dumps(document))

    def command(self, *arguments: str) -> Result:
        return clean(self.usersync(*arguments))

    def document(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit status and JSON document of a command."""
        result = self.command(*arguments, "--output", "json")
        return result.status, json.loads(result.stdout)

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.target.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def ran(
        self, exit_status: int | None = 0, *, ago: str = "1 min", job: str = "members", took: str = "2 s", error: str = "", hint: str = ""
    ) -> None:
        """A run that began so long ago; without an exit status it is under way, and `hold` says whether it lives."""
        servers.migrate(self.target)
        status = {0: "ok", 3: "partial", 143: "stopped", None: "running"}.get(exit_status, "failed")
        (run,) = self.execute(
            "INSERT INTO usersync.runs"
            " (job, status, exit_status, epoch, owner, started_at, finished_at, usersync_version, error, error_hint)"
            " VALUES (%s, %s, %s, 1, '', now() - %s::interval, CASE WHEN %s THEN now() - %s::interval + %s::interval END, '0.1.0', %s, %s)"
            " RETURNING id",
            job, status, exit_status, ago, exit_status is not None, ago, took, error or None, hint or None,
        )  # fmt: skip
        self.execute(
            "INSERT INTO usersync.run_steps (run_id, step, status, read, inserted, unchanged) VALUES (%s, 'people', %s, 1234, 4, 1230)",
            run[0], status,
        )  # fmt: skip

    def hold(self, job: str = "members") -> None:
        """This very process holds the job."""
        servers.migrate(self.target)
        self.execute(
            "INSERT INTO usersync.job_locks (job, owner, epoch, lease_until) VALUES (%s, %s, 1, now() + '1 min')",
            job, json.dumps(asdict(Owner.me())),
        )  # fmt: skip
