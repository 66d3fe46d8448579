"""The tables that streams of WorkOS make: their columns, comments, and what becomes of values that are not of a column's type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.workos_job import Copy
from tests.workos_server import WorkOS
from usersync_cli.model import Database
from usersync_cli.sources.workos.streams import NAMES
from usersync_cli.sources.workos.transforms import comments_of


@pytest.fixture
def workos() -> Iterator[WorkOS]:
    """One object of each kind."""
    found = WorkOS()
    world = found.world
    organization = world.create_organization(domains=["b.test.example", "a.test.example"], metadata={"tier": "test"})
    directory = world.create_directory(organization)
    world.create_directory_user(directory)
    world.create_directory_group(directory)
    world.create_membership(world.create_user(), organization, role="admin")
    world.create_connection(organization)
    world.create_role("admin", permissions=["users:write", "users:read"])
    world.create_invitation()
    with found.running():
        yield found


@pytest.fixture
def copy(workos: WorkOS, database: Database) -> Copy:
    return Copy(workos, database, streams=NAMES)


def columns(copy: Copy, stream: str) -> list[str]:
    found = copy.ask(f"SELECT attname FROM pg_attribute WHERE attrelid = 'workos_{stream}'::regclass AND attnum > 0 ORDER BY attnum")
    return [name for (name,) in found]


def test_each_stream_has_its_table(copy: Copy) -> None:
    """
    The key, columns that people use, the document, and times; each column with a comment is one that is there.
    """
    copy.ok()

    for stream in NAMES:
        there = columns(copy, stream)
        assert "id" == there[0]
        assert {"document", "created_at", "updated_at", "deleted_at"} <= {*there}
        assert {*comments_of(stream)} <= {*there}, stream
        comments = copy.ask(
            f"SELECT a.attname, col_description(a.attrelid, a.attnum) FROM pg_attribute AS a WHERE a.attrelid = 'workos_{stream}'::regclass"
            " AND col_description(a.attrelid, a.attnum) IS NOT NULL"
        )
        assert dict(comments_of(stream)) == dict(comments)
        assert 1 <= len(copy.ask(f"SELECT 1 FROM workos_{stream}_live")), stream


def test_useful_columns_have_their_values(copy: Copy, workos: WorkOS) -> None:
    """
    A set of names is an array, in alphabetical order.
    """
    copy.ok()

    assert [(["a.test.example", "b.test.example"], {"tier": "test"})] == copy.ask("SELECT domains, metadata FROM workos_organizations")
    (user,), (organization,) = workos.world.ids("users"), workos.world.ids("organizations")
    assert [(user, organization, workos.world.streams["organizations"][organization]["name"], "admin", "active")] == copy.ask(
        "SELECT user_id, organization_id, organization_name, role_slug, status FROM workos_organization_memberships"
    )
    assert [("admin", ["users:read", "users:write"])] == copy.ask("SELECT id, permissions FROM workos_roles")
    assert [(user,)] == copy.ask("SELECT user_id FROM workos_events WHERE event = 'user.created'")


@pytest.mark.parametrize(
    "odd",
    [
        {"email": 5, "metadata": [1], "first_name": {"a": 1}},
        {"email": None, "metadata": None},
        {"created_at": None},
        {"metadata": {"deep": {"list": [1.10, 12345678901234567890]}}},
    ],
)
def test_odd_values_of_texts_are_carried(copy: Copy, workos: WorkOS, odd: dict[str, Any]) -> None:
    """
    Where a column can hold what came, nobody is set aside for it.
    """
    copy.streams = ("users",)
    (user,) = workos.world.ids("users")
    workos.world.streams["users"][user] |= odd
    copy.ok()

    ((document,),) = copy.ask("SELECT document FROM workos_users")
    assert odd.items() <= document.items()


@pytest.mark.parametrize("odd", [{"email_verified": "perhaps"}, {"last_sign_in_at": "yesterday noon"}, {"updated_at": "now and then"}])
def test_values_that_no_column_can_hold_are_set_aside(copy: Copy, workos: WorkOS, odd: dict[str, Any]) -> None:
    """
    One bad record waits for a person, the others are there.
    """
    copy.streams = ("users",)
    other = workos.world.create_user()
    (user, _) = workos.world.ids("users")
    workos.world.streams["users"][user] |= odd
    result = copy.run()

    assert 3 == (result.steps[0].error and result.steps[0].error.status)
    assert [(other,)] == copy.ask("SELECT id FROM workos_users")
    assert [(user,)] == copy.ask("SELECT key FROM usersync.rejects")


def test_the_archive_may_be_pruned(copy: Copy, workos: WorkOS, capfd: pytest.CaptureFixture[str]) -> None:
    """
    Old events that somebody deletes are gone, without a word; only --full brings back what WorkOS still keeps.
    """
    copy.streams = ("users", "events")
    (user,) = workos.world.ids("users")
    copy.ok()
    number = len(copy.table("events"))
    copy.ask("DELETE FROM workos_events WHERE event <> 'user.created' RETURNING 1")
    workos.world.update_user(user)
    capfd.readouterr()

    copy.ok()
    told = capfd.readouterr()
    assert "gone from the target" not in told.err + told.out
    assert 2 == len(copy.table("events"))
    copy.ok(full=True)
    assert number + 1 == len(copy.table("events"))
    assert {} == copy.differences(whole=True)
