"""Job `fineract`: the users of a local Fineract as accounts of a real Keycloak. In this process, or by the real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from tests.conftest import Command, Result
from tests.fineract_server import PASSWORD, Fineract, made
from tests.keycloak_server import Bank, Front
from tests.list_source import counts
from tests.simple_job import execute
from usersync_cli.config.jobs import Job
from usersync_cli.errors import UsersyncError
from usersync_cli.model import Change, Database
from usersync_cli.ports import Tools
from usersync_cli.run.context import Options, RunContext
from usersync_cli.run.job import RunResult, run
from usersync_cli.signals import Stop
from usersync_cli.sources.fineract import Settings as FineractSettings
from usersync_cli.sources.fineract import Source
from usersync_cli.state.outbox import StepContext
from usersync_cli.targets.keycloak import target as keycloak
from usersync_cli.targets.keycloak.settings import Settings

ROLES = {"Teller": "teller", "Auditor": "accountant", "Super user": "admin"}
GROUPS = {"teller": "tellers", "admin": "head-office"}
REALM = {"roles": [*ROLES.values(), "staff", "of-others"], "groups": ["/tellers", "/head-office", "/of-others"]}
MIRROR = {
    "name": "mirror",
    "extract": {"source": "fineract", "streams": ["users", "roles"]},
    "load": {"table": "fineract_{stream}", "key": ["id"], "create": True, "on_missing": "mark"},
}
STAFF_EXCLUDED = ["mifos", "system", "interopUser"]


@contextmanager
def _opened(settings: Settings, context: StepContext, tools: Tools) -> Iterator[keycloak.Target]:
    """With less patience than a job has."""
    with keycloak.realm("keycloak", settings, tools.stop, deadline=timedelta(seconds=3)) as realm:
        yield keycloak.Target("keycloak", settings, realm, context)


@dataclass
class Staff:
    """A bank: its Fineract, its realm, the proxy before that, and the job between them."""

    fineract: Fineract
    bank: Bank
    front: Front
    target: Database
    settings: dict[str, Any] = field(default_factory=dict)  # of the target keycloak
    load: dict[str, Any] = field(default_factory=dict)
    reads: dict[str, Any] = field(default_factory=dict)  # settings of the source
    step: str = "accounts"
    name: str = "fineract"  # of the job, in this process

    # the config

    @property
    def source(self) -> dict[str, Any]:
        return made(self.fineract.url, **{"exclude": STAFF_EXCLUDED, **self.reads})

    @property
    def sso(self) -> dict[str, Any]:
        own = {"url": self.front.url, "realm": self.bank.name, "client_id": self.bank.client_id, "client_secret": self.bank.client_secret}
        return {"type": "keycloak", **own, "roles": ROLES, "groups": GROUPS, **self.settings}

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [{"name": self.step, "extract": {"source": "fineract", "streams": ["users"]}, "load": {"target": "keycloak", **self.load}}]

    def config(self, folder: Any, job: str = "fineract") -> None:
        """The config file, for the real command. The job `both` mirrors first; two jobs of one realm would be refused."""
        document = {
            "environment": "test",
            "target": self.target.url,
            "sources": {"fineract": self.source},
            "targets": {"keycloak": self.sso},
            "jobs": {job: {"lease": "5s", "steps": [*([MIRROR] if job == "both" else []), *self.steps]}},
        }
        (folder / "config.yaml").write_text(json.dumps(document))

    # a run

    def run_context(self) -> RunContext:
        source = Source("fineract", FineractSettings.model_validate(self.source))
        opened = partial(_opened, Settings.model_validate(self.sso))
        tools = Tools(self.name, Stop(), Database)
        targets = {"keycloak": opened}
        return RunContext(self.target, {"fineract": source}, tools, lambda _stream, _size: None, targets=targets, steps=self.job.steps)

    @property
    def job(self) -> Job:
        return Job.model_validate({"name": self.name, "steps": self.steps})

    def run(self, **options: Any) -> RunResult:
        return run(self.job, self.run_context(), Options(**options))

    def ok(self, **options: Any) -> str:
        """A run that went well, as `new changed same gone`."""
        result = self.run(**options)
        assert result.steps[0].error is None, (result.steps[0].error, result.steps[0].error and result.steps[0].error.hint)
        return counts(result)

    def failed(self, **options: Any) -> UsersyncError:
        """How a run ended that did not go well. It shows nobody, and no secret."""
        error = self.run(**options).steps[0].error
        assert error is not None
        self.look_for_leaks(f"{error.message} {error.hint}")
        return error

    def look_for_leaks(self, text: str) -> None:
        for word in ("Test User", "@test.example", PASSWORD, self.bank.client_secret, "Traceback"):
            assert word not in text

    def preview(self, **options: Any) -> tuple[str, list[Change]]:
        """A dry run: its counts, and what it tells."""
        told: list[Change] = []

        def tell(change: Change) -> bool:
            told.append(change)
            return True

        return counts(self.run(dry_run=True, diff=tell, **options)), told

    def writes(self, **options: Any) -> list[str]:
        """What a run that went well wrote to Keycloak."""
        before = len(self.front.requests)
        self.ok(**options)
        return [one for one in self.front.requests[before:] if not one.startswith("GET")]

    def asked(self, **options: Any) -> list[str]:
        """All that a run that went well asked Keycloak."""
        before = len(self.front.requests)
        self.ok(**options)
        return self.front.requests[before:]

    def command(self, usersync: Command, *arguments: str, timeout: float = 60) -> Result:
        """`usersync ...`, whose outputs show nobody."""
        self.config(usersync.folder, "both" if "both" in arguments else "fineract")
        result = usersync(*arguments, timeout=timeout)
        self.look_for_leaks(result.stderr)
        return result

    def killed(self, usersync: Command, request: str, *options: str) -> None:
        """A run by the real command that dies with kill -9 when Keycloak is about to hear this request."""
        self.config(usersync.folder)
        process: list[subprocess.Popen[str]] = []
        self.front.at(request, lambda: os.kill(process[0].pid, signal.SIGKILL))
        with usersync.start("run", "--job", "fineract", "-q", *options) as started:
            process.append(started)
            started.wait(60)
        assert started.returncode == -signal.SIGKILL, f"nobody asked for {request}"

    # what is there

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        return execute(self.target.url, query)

    def conflicts(self) -> dict[str, str]:
        """Reason by our id, of those that wait."""
        return dict(self.ask("SELECT key, reason FROM usersync.rejects WHERE status = 'waiting'"))  # type: ignore[arg-type]

    def people(self, *names: str) -> Sequence[int]:
        """New users of Fineract with these user names, tellers; their ids."""
        return [self.fineract.add(username=name, email=f"{name}@test.example", lastname=f"User {name}")[0] for name in names]
