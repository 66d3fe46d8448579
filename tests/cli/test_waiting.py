"""Servers that do not answer: what a run and a command wait for, how long, and what they say."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from tests.http_server import Answer, HttpServer
from tests.servers import free_port
from usersync_cli.cli import cli
from usersync_cli.errors import Unavailable
from usersync_cli.model import Database
from usersync_cli.patience import Patience
from usersync_cli.signals import Stop
from usersync_cli.targets.keycloak.realm import Realm


@dataclass
class Away:
    """A job that reads a bank's users and roles, which does not answer, and a file, which is there."""

    server: HttpServer
    target: Database
    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "people.jsonl").write_text('{"id": 1}\n')
        load = {"key": ["id"], "create": True}
        steps = [
            {"name": stream, "extract": {"source": "bank", "streams": [stream]}, "load": {"table": stream, **load}}
            for stream in ("users", "roles")
        ]
        people = {"extract": {"source": "crm", "streams": ["people"]}, "transform": "SELECT key::int AS id FROM records"}
        steps.append({"name": "people", **people, "load": {"table": "people", **load}})
        self.write(self.server.url, steps)

    def write(self, url: str, steps: list[dict[str, Any]]) -> None:
        bank = {"type": "fineract", "url": f"{url}/fineract-provider/api/v1", "username": "reader", "password": "canary"}
        document = {
            "environment": "test",
            "target": self.target.url,
            "sources": {"bank": bank, "crm": {"type": "file", "streams": {"people": {"path": "people.jsonl", "key": "id"}}}},
            "jobs": {"night": {"max_wait": 0.6, "steps": steps}},
        }
        self.steps = steps
        (self.folder / "config.yaml").write_text(json.dumps(document))

    def __call__(self, *arguments: str, patience: float = 60) -> tuple[int, str, float]:
        """Exit status, all that was said, seconds."""
        stop, began = Stop(), time.monotonic()
        stop.patience = Patience(patience)
        done = CliRunner().invoke(cli, [*arguments, "--config", str(self.folder / "config.yaml")], obj=stop, standalone_mode=False)
        assert not done.exception, done.exception
        assert "canary" not in done.output
        return int(done.return_value), done.stdout + done.stderr, time.monotonic() - began


@pytest.fixture
def away(database: Database, tmp_path: Path) -> Iterator[Away]:
    with HttpServer().running() as server:
        for path in ("users", "roles", "offices", "users/template"):
            server.on(f"/fineract-provider/api/v1/{path}", Answer(fault="hang"))
        yield Away(server, database, tmp_path)


def test_a_run_waits_once_for_all_its_streams(away: Away) -> None:
    """
    Of two lists of a server that hangs one is waited for, for max_wait; the other is not asked for, and what is there is loaded.
    """
    status, said, seconds = away("run", "--job", "night", "--output", "json")
    document = json.loads(next(line for line in said.splitlines() if line.startswith('{"version"')))
    errors = [step["error"]["message"] for step in document["steps"] if step["error"]]

    assert (4, True) == (status, 0.5 < seconds < 5)
    assert "source bank did not answer in time (GET /users" in errors[0]
    assert "source bank has not answered before, and was not asked again (GET /roles" in errors[1]
    assert 1 == len(away.server.asked)
    assert "1 s in all were spent on servers that do not answer (max_wait says so)" in said
    with psycopg.connect(away.target.url) as connection:
        assert [(1,)] == connection.execute("SELECT id FROM people").fetchall()


@pytest.mark.parametrize("how", ["hangs", "refuses"])
def test_check_waits_shorter_and_says_so(away: Away, how: str) -> None:
    """
    `check` has a budget of its own for all jobs, and whoever waits for it hears for whom.
    """
    if how == "refuses":
        away.write(f"http://127.0.0.1:{free_port()}", away.steps)
    status, said, seconds = away("check", patience=1)

    assert (4, True) == (status, seconds < 5)
    assert "a command waits no longer" in said
    assert "was not asked again" in said
    assert how == "hangs" or "usersync: source bank can't be reached" in said


def test_keycloak_is_waited_for_as_well() -> None:
    """
    A realm that is away costs a run its budget once, its token included.
    """
    stop = Stop()
    stop.patience = Patience(0.5)
    began = time.monotonic()
    with Realm(f"http://127.0.0.1:{free_port()}", "staff", "usersync", "canary", stop=stop) as realm:
        for said in ("can't be reached", "not asked again", "not asked again"):
            with pytest.raises(Unavailable, match=said) as error:
                realm.count()
            assert "max_wait says so" in error.value.hint
    assert 3 > time.monotonic() - began
