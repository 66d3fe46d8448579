"""What is in an organization or a directory goes with it, also where WorkOS reports only that it is gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.workos_job import Copy
from tests.workos_server import WorkOS
from tests.workos_world import World
from usersync_cli.model import Database


@pytest.fixture
def workos() -> Iterator[WorkOS]:
    server = WorkOS()
    server.world.cascades = False
    with server.running():
        yield server


@pytest.fixture
def world(workos: WorkOS) -> World:
    return workos.world


def fill(world: World) -> tuple[str, list[str]]:
    """Two organizations, one with almost all of the memberships; gives that one, and those."""
    users = [world.create_user() for _ in range(12)]
    small, big = world.create_organization(), world.create_organization()
    world.create_membership(users[0], small)
    return big, [world.create_membership(user, big) for user in users]


def test_memberships_go_with_their_organization(world: World, workos: WorkOS, database: Database) -> None:
    """
    At the moment of the organization's event, without an event of their own; the next listing changes nothing.
    """
    organization, memberships = fill(world)
    copy = Copy(workos, database)
    copy.ok()
    world.delete_organization(organization)

    assert "0 0 0 13" == copy.ok()
    assert {} == copy.differences(whole=True)
    assert set(copy.deleted("organization_memberships")) == set(memberships)
    assert set(copy.deleted("organizations").values()) == set(copy.deleted("organization_memberships").values())
    before = copy.untouched()
    assert copy.ok(full=True).endswith(" 0")
    assert before == copy.untouched()


def test_they_go_with_one_that_only_a_listing_misses(world: World, workos: WorkOS, database: Database) -> None:
    """
    Where the events are lost, the guard decides about the organization: its memberships are no further loss, and nobody asks for them.
    """
    organization, memberships = fill(world)
    copy = Copy(workos, database)
    copy.ok()
    world.delete_organization(organization)
    world.forget()
    workos.forget_requests()

    assert copy.ok(full=True).endswith(" 13")
    assert {} == copy.differences(whole=True)
    assert not [path for path in workos.counts() if any(one in path for one in memberships)]


def test_users_and_groups_go_with_their_directory(world: World, workos: WorkOS, database: Database) -> None:
    """
    WorkOS reports that a directory was deleted, and says nothing of what was in it.
    """
    organization = world.create_organization()
    directory, other = world.create_directory(organization), world.create_directory(organization)
    inside = [world.create_directory_user(directory) for _ in range(12)]
    groups = [world.create_directory_group(directory)]
    stays = world.create_directory_user(other)
    copy = Copy(workos, database, streams=("directories", "directory_users", "directory_groups"))
    copy.ok()
    for stream, ids in (("directory_users", inside), ("directory_groups", groups)):
        for one in ids:
            world.delete(stream, one, event=False)
    world.delete("directories", directory)

    assert "0 0 0 14" == copy.ok()
    assert [stays] == list(copy.table("directory_users"))
    assert {} == copy.differences(whole=True)
