"""A job that copies a local WorkOS into a real database, and the commands for its copy: in this process, with their real outputs."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.conftest import Result
from usersync_cli import cli
from usersync_cli.__main__ import _status
from usersync_cli.model import Database
from usersync_cli.signals import Stop

STREAMS = ["users", "organizations", "organization_memberships"]


@dataclass
class Copy:
    """`copy("users", "list")` -> status, stdout, stderr. `settings` are those of the source, `document` the config file."""

    folder: Path
    target: Database
    settings: dict[str, Any]
    capture: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    document: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        servers.migrate(self.target)
        load = {"table": "workos_{stream}", "key": ["id"], "create": True, "on_missing": "mark"}
        step = {"name": "copy", "extract": {"source": "workos", "streams": STREAMS}, "load": load}
        self.document = {
            "environment": "test",
            "target": self.target.url,
            "sources": {"workos": self.settings},
            "jobs": {"workos": {"steps": [step]}},
        }

    @property
    def load(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["jobs"]["workos"]["steps"][0]["load"]
        return found

    def write(self) -> Path:
        file = self.folder / "config.yaml"
        file.write_text(json.dumps(self.document))
        return file

    def __call__(self, *arguments: str) -> Result:
        self.monkeypatch.setattr(cli, "_answered", False)  # as in a new process
        self.monkeypatch.setattr(sys, "argv", ["usersync", *arguments, "--config", str(self.write())])
        self.capture.readouterr()
        status = _status(Stop())
        return Result(status, *self.capture.readouterr())

    def run(self, *arguments: str) -> Result:
        """The job, which has to succeed."""
        found = self("run", "--job", "workos", "--quiet", *arguments)
        assert 0 == found.status, found
        return found

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """The one document that a command prints."""
        found = self(*arguments, "--output", "json")
        assert status == found.status, found
        document: dict[str, Any] = json.loads(found.stdout)
        return document
