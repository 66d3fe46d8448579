"""For the tests of `mappings` and `whois`: a target with a map in it, and the commands, in this process, with their real outputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import servers
from tests.conftest import Result
from usersync_cli import cli
from usersync_cli.__main__ import _status
from usersync_cli.model import Database
from usersync_cli.signals import Stop

TABLES = ("apps", "customers", "former_domains", "merges", "mappings", "closed_mappings", "identity_conflicts", "rejects")


@dataclass
class Maps:
    """`maps("mappings", "list", ...)` -> status, stdout, stderr. The apps shop and crm.contacts are there, and what `map` puts in."""

    folder: Path
    target: Database
    capture: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    uuids: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        servers.migrate(self.target)
        self.ask("INSERT INTO usersync.apps (name, added_by) VALUES ('shop', 'test'), ('crm.contacts', 'test'), ('crm.companies', 'test')")
        step = {"extract": {"source": "crm", "table": "people_at_source"}, "load": {"table": "people", "key": ["id"], "create": True}}
        document = {
            "environment": "test",
            "target": self.target.url,
            "sources": {"crm": {"type": "postgres", "url": "${CRM_URL}"}},  # never set: no source is asked
            "jobs": {"crm": {"steps": [step]}},
        }
        (self.folder / "config.yaml").write_text(json.dumps(document))

    def __call__(self, *arguments: str) -> Result:
        self.monkeypatch.setattr(cli, "_answered", False)  # as in a new process
        self.monkeypatch.setattr(sys, "argv", ["usersync", *arguments, "--config", str(self.folder / "config.yaml")])
        self.capture.readouterr()
        status = _status(Stop())
        return Result(status, *self.capture.readouterr())

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """The one document that a command prints."""
        found = self(*arguments, "--output", "json")
        assert status == found.status, found
        document: dict[str, Any] = json.loads(found.stdout)
        return document

    def ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.target.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def customer(self, domain: str) -> str:
        """The uuid of a customer, who is made if it is not there."""
        self.ask(
            "INSERT INTO usersync.customers (uuid, domain, created_by) VALUES (usersync.uuid_of(%s), %s, 'test') ON CONFLICT DO NOTHING",
            domain, domain,
        )  # fmt: skip
        return str(self.ask("SELECT uuid FROM usersync.customers WHERE domain = %s", domain)[0][0])

    def map(self, app: str, id_: str, domain: str, *, value: str = "") -> str:
        """As a job maps an id, by the rule `email` of its step `people`, in run 7."""
        uuid = self.customer(domain)
        self.ask(
            "INSERT INTO usersync.mappings (app, id, customer, rule, value, domain, job, step, run_id)"
            " VALUES (%s, %s, %s, 'email', %s, %s, 'crm', 'people', 7)",
            app, id_, uuid, value or f"test.user@{domain}", domain,
        )  # fmt: skip
        return uuid

    def conflict(self, kind: str, of: str | None = None, *, domain: str | None = None, uuid: str | None = None) -> str:
        """As a job finds one, of an `app:id`; its number."""
        app, id_ = of.split(":") if of else (None, None)
        statement = (
            "INSERT INTO usersync.identity_conflicts (kind, app, app_id, domain, uuid, rule, value, job, step, run_id)"
            " VALUES (%s, %s, %s, %s, %s, 'email', 'test.user@' || %s, 'crm', 'people', 8) RETURNING id"
        )
        return str(self.ask(statement, kind, app, id_, domain, uuid, domain)[0][0])

    def found_again(self, kind: str, app: str, id_: str, domain: str) -> int:
        """A job finds this again, as `resolve.sql` writes it; how many conflicts that opens."""
        statement = (
            "INSERT INTO usersync.identity_conflicts AS c (kind, app, app_id, domain) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (app, app_id, kind, domain, uuid) DO UPDATE SET status = 'open' WHERE c.status = 'over' RETURNING id"
        )
        return len(self.ask(statement, kind, app, id_, domain))

    def whose(self, app: str, id_: str) -> tuple[str | None, bool] | None:
        """Domain of the customer of an id, merges followed, and whether it is pinned."""
        rows = self.ask(
            "SELECT c.domain, m.pinned FROM usersync.mappings m JOIN usersync.customers c ON c.uuid = usersync.root_of(m.customer)"
            " WHERE m.app = %s AND m.id = %s",
            app, id_,
        )  # fmt: skip
        return rows[0] if rows else None

    def everything(self) -> dict[str, Sequence[tuple[Any, ...]]]:
        """All rows of all tables of the map, to compare."""
        return {table: self.ask(f"SELECT * FROM usersync.{table} AS t ORDER BY t::text") for table in TABLES}


@pytest.fixture
def maps(tmp_path: Path, database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Maps:
    return Maps(tmp_path, database, capsys, monkeypatch)
