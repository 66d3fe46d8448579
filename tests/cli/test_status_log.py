"""`usersync status` of a source that is followed by its log of changes: how far it was read, and what listings had to put right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from tests.workos_server import KEY, WorkOS
from usersync_cli.cli import cli
from usersync_cli.cli.text import lasting
from usersync_cli.model import Database
from usersync_cli.signals import Stop

STREAMS = ["users", "organizations", "organization_memberships"]


@pytest.fixture
def workos() -> Iterator[WorkOS]:
    found = WorkOS()
    organization = found.world.create_organization()
    for _ in range(3):
        found.world.create_membership(found.world.create_user(), organization)
    with found.running():
        yield found


@pytest.fixture
def file(workos: WorkOS, database: Database, tmp_path: Path) -> Path:
    load = {"table": "workos_{stream}", "key": ["id"], "create": True, "on_missing": "mark"}
    document = {
        "environment": "test",
        "target": database.url,
        "sources": {"workos": {"type": "workos", "api_url": workos.url, "api_key": "${WORKOS_API_KEY}"}},
        "jobs": {"workos": {"steps": [{"name": "all", "extract": {"source": "workos", "streams": STREAMS}, "load": load}]}},
    }
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(document))
    return file


def command(file: Path, *arguments: str, key: str | None = KEY) -> str:
    """What a command prints. Without a key, the source can't be asked at all."""
    found = CliRunner().invoke(
        cli, [*arguments, "--config", str(file)], obj=Stop(), env={"WORKOS_API_KEY": key}, catch_exceptions=False
    )  # fmt: skip
    assert 0 == found.exit_code, found.output
    return found.stdout


def stream(file: Path, name: str = "users") -> dict[str, Any]:
    (job,) = json.loads(command(file, "status", "--output", "json", key=None))["jobs"]
    return next(one for one in job["streams"] if one["stream"] == name)


def test_how_far_changes_were_read(file: Path, workos: WorkOS) -> None:
    """
    The time of the last change, the age of the last poll, and how long the source keeps changes; without asking the source.
    """
    command(file, "run", "--job", "workos")
    last = workos.world.create_user()
    command(file, "run", "--job", "workos")
    log = stream(file)["log"]

    assert log["at"] == stream(file, "organizations")["log"]["at"]
    assert 30 * 86_400 == log["retention_seconds"]
    assert workos.truth("users")[last]["created_at"][:19] == log["at"][:19]
    assert 0 <= log["poll_age_seconds"] < 60
    assert "the source keeps them for 30 days" in command(file, "status", key=None)


def test_what_a_listing_had_to_put_right(file: Path, workos: WorkOS, database: Database) -> None:
    """
    Nothing about the first one, which had nothing to compare with; then what differed, by column; then that nothing did.
    """
    command(file, "run", "--job", "workos")
    assert None is stream(file)["last_sweep"]["drift"]
    with psycopg.connect(database.url) as connection:
        connection.execute("UPDATE workos_users SET first_name = 'Edited' WHERE id = (SELECT min(id) FROM workos_users)")
    command(file, "run", "--job", "workos", "--full")
    assert {"first_name": 1} == stream(file)["last_sweep"]["drift"]
    assert "it differed from what changes had led to: first_name 1" in command(file, "status", key=None)
    command(file, "run", "--job", "workos", "--full")

    assert {} == stream(file)["last_sweep"]["drift"]
    assert "as changes had led to" in command(file, "status", key=None)


def test_health_by_the_last_poll(file: Path, workos: WorkOS, database: Database) -> None:
    """
    The age that the stored cursors have, of the stream that was asked for longest ago; without asking the source.
    """
    command(file, "run", "--job", "workos")
    assert "workos: ok" in command(file, "health", "--job", "workos", key=None)
    with psycopg.connect(database.url) as connection:
        connection.execute(
            "UPDATE usersync.cursors SET value = jsonb_set(value, '{polled}', to_jsonb('2020-01-01T00:00:00Z'::text))"
            " WHERE stream = 'organizations'"
        )
    found = CliRunner().invoke(cli, ["health", "--job", "workos", "--config", str(file)], obj=Stop(), env={"WORKOS_API_KEY": None})

    assert 4 == found.exit_code
    assert "the source keeps them for 30 days only" in found.stdout


@pytest.mark.parametrize(("time", "words"), [("30d", "30 days"), ("36h", "36 h"), ("90m", "90 min")])
def test_times_of_settings_in_words(time: str, words: str) -> None:
    units = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}

    assert words == lasting(int(time[:-1]) * units[time[-1]])
