"""The job against a server that does what the specification says: what lists and events show, and which of them counts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from tests.workos_job import Copy
from tests.workos_server import WorkOS
from tests.workos_world import SECRET, Document, World, text
from usersync_cli.model import Database

ALL = (
    *("users", "organizations", "organization_memberships", "directories", "directory_users", "directory_groups"),
    *("connections", "roles", "invitations"),
)


@pytest.fixture
def workos() -> Iterator[WorkOS]:
    server = WorkOS()
    with server.running():
        yield server


@pytest.fixture
def world(workos: WorkOS) -> World:
    return workos.world


@pytest.fixture
def copy(workos: WorkOS, database: Database) -> Copy:
    return Copy(workos, database)


def people(world: World, count: int = 3) -> list[str]:
    return [world.create_user() for _ in range(count)]


# what is listed


def test_memberships_of_every_status_are_listed(world: World, copy: Copy) -> None:
    """
    There is no list of all memberships, and without `statuses` there are only active ones.
    """
    users, organization = people(world), world.create_organization()
    ids = [world.create_membership(user, organization) for user in users]
    world.deactivate(ids[0])
    world.update_membership(ids[1], status="pending")

    copy.ok()

    assert set(copy.table("organization_memberships")) == set(ids)
    assert copy.differences(whole=True) == {}


def test_an_organization_with_more_members_than_a_page_has(world: World, copy: Copy) -> None:
    """
    All of 230 are listed, and those of its neighbours.
    """
    users = people(world, 230)
    for members in (users, users[:1], users[:100]):
        organization = world.create_organization()
        for user in members:
            world.create_membership(user, organization)

    copy.ok()

    assert copy.differences(whole=True) == {}


def test_every_stream_that_can_be_asked_for(workos: WorkOS, database: Database) -> None:
    """
    Further streams are lists and events like the three; an event of a role has no id, one of an invitation no token.
    """
    world, copy = workos.world, Copy(workos, database, streams=ALL, load={})
    organization = world.create_organization(domains=["a.example"])
    directory = world.create_directory(organization)
    users = [world.create_directory_user(directory) for _ in range(3)]
    groups = [world.create_directory_group(directory) for _ in range(2)]
    connection, role, invitation = world.create_connection(organization), world.create_role("admin"), world.create_invitation()
    copy.ok()
    assert copy.differences(whole=True) == {}

    world.update("directory_users", users[0], state="inactive")
    world.delete("directory_users", users[1])
    world.update("directory_groups", groups[0], name="Another Test Group")
    world.delete("directory_groups", groups[1])
    world.update("connections", connection, state="inactive")
    world.update("roles", role, permissions=["a"])
    world.update("invitations", invitation, state="accepted", accepted_at=world.moment())
    world.create_connection(organization)
    world.create_directory(organization)
    copy.ok()

    assert copy.differences() == {}


def test_no_secret_is_stored_anywhere(workos: WorkOS, database: Database) -> None:
    """
    Neither of a domain nor of an invitation: in no table of the target and in nothing that is remembered, rejects among it.
    """
    world, copy = workos.world, Copy(workos, database, streams=(*ALL, "events"), load={})
    organization = world.create_organization(domains=["a.example"])
    world.create_invitation()
    copy.ok()
    world.poorer = False
    world.add_domain(organization, "b.example")
    world.update_organization(organization, name="Renamed")
    world.create_invitation()
    world.tell("invitation.created", {"object": "invitation", "id": 7, "token": SECRET, "nested": [{"verification_token": SECRET}]})

    copy.run()

    assert copy.ask("SELECT count(*) FROM usersync.rejects") >= [(1,)]
    assert SECRET not in copy.everything()


# which of two counts


def test_a_new_organization_keeps_the_domains_of_the_list(world: World, copy: Copy) -> None:
    """
    Its event says that it has none, at the very updated_at at which the list has them; and events are read after the list.
    """
    world.create_organization(domains=["a.example", "b.example"])

    copy.ok()

    assert [len(document["domains"]) for document in copy.table("organizations").values()] == [2]


def test_a_new_organization_has_its_domains_after_the_next_poll(world: World, copy: Copy) -> None:
    """
    Its event says that it has none; those of the domains make us read it again.
    """
    copy.ok()
    world.create_organization(domains=["a.example", "b.example"])

    copy.ok()

    assert [len(document["domains"]) for document in copy.table("organizations").values()] == [2]
    assert copy.differences() == {}


@pytest.mark.parametrize("event_first", [True, False])
def test_at_one_moment_the_list_counts_and_then_what_comes_later(world: World, copy: Copy, *, event_first: bool) -> None:
    """
    Two contents at the same updated_at: a list beats the events from before it began, and an event from after it beats the list.
    """
    with world.one_moment():
        (user,) = people(world, 1)
        world.update_user(user, last_name="User of an event")
        at = world.now()
    if event_first:
        world.streams["users"][user]["last_name"] = "User of the list"
    copy.ok()
    if not event_first:
        world.update_user(user, at=at, last_name="User of a later event")
        copy.ok()

    assert copy.table("users")[user]["last_name"] == ("User of the list" if event_first else "User of a later event")
    assert copy.differences() == {}


def test_an_event_that_is_told_late_does_not_beat_the_list(world: World, copy: Copy) -> None:
    """
    It comes after a complete listing, is from before it began, and says less at the same updated_at.
    """
    organization = world.create_organization(domains=["a.example"])
    copy.ok()
    with world.one_moment():
        world.update("organizations", organization, event=False, name="Renamed", updated_at=world.moment())
        early = {**world.streams["organizations"][organization], "domains": []}
        at = world.now()
    world.ahead += timedelta(seconds=10)
    copy.ok(full=True)
    world.tell("organization.updated", early, at=at)

    copy.ok()

    assert copy.differences() == {}


def test_a_listing_repairs_contents_whatever_the_versions_say(world: World, copy: Copy) -> None:
    """
    An event with an updated_at of next year is taken; a listing that shows an older one repairs it, and later events count again.
    """
    (user,) = people(world, 1)
    copy.ok()
    wrong = {**world.streams["users"][user], "last_name": "User of next year", "updated_at": "2099-01-01T00:00:00.000Z"}
    world.tell("user.updated", wrong)
    copy.ok()
    assert copy.table("users")[user]["last_name"] == "User of next year"

    world.ahead += timedelta(minutes=10)
    copy.ok(full=True)
    assert copy.differences(whole=True) == {}

    world.update_user(user, last_name="User after all")
    copy.ok()
    assert copy.differences() == {}


def test_two_hundred_updates_in_one_millisecond(world: World, copy: Copy) -> None:
    """
    The last of them counts, over the border of two requests and of a first run.
    """
    (user,) = people(world, 1)
    copy.ok()
    with world.one_moment():
        for number in range(200):
            world.update_user(user, last_name=f"User {number}")
    copy.ok()
    assert copy.table("users")[user]["last_name"] == "User 199"

    with world.one_moment():
        for number in range(1500):
            world.update_user(user, last_name=f"User {number}")
    copy.ok()

    assert copy.differences() == {}


def test_whoever_came_and_left_in_one_page_stays_gone(world: World, copy: Copy) -> None:
    """
    Created and deleted between two polls, then an older update comes once more: nobody is brought to life.
    """
    people(world)
    copy.ok()
    (user,) = people(world, 1)
    world.update_user(user, last_name="User again")
    world.delete_user(user)
    world.replay(-2)
    copy.ok()
    assert user not in copy.table("users")

    world.replay(-3)
    copy.ok()

    assert user not in copy.table("users")
    assert copy.differences() == {}


def test_an_update_that_comes_again_changes_nothing(world: World, copy: Copy) -> None:
    """
    All events once more, in their order, and the older ones of them after the newer.
    """
    users = people(world, 5)
    copy.ok()
    for user in users:
        world.update_user(user, last_name="User once")
        world.update_user(user, last_name="User twice")
    world.delete_user(users[0])
    copy.ok()
    for number in reversed(range(len(world.log))):
        world.replay(number)

    copy.ok()

    assert copy.differences() == {}
    assert set(copy.deleted("users")) == {users[0]}


def test_a_delete_counts_by_its_own_time(world: World, copy: Copy) -> None:
    """
    Its document carries the time of the last change; deleted_at is that of the event, and no row waits for the guard.
    """
    users = people(world, 30)
    copy.ok()
    for user in users[:25]:
        world.delete_user(user)
    told = {event["data"]["id"]: event["created_at"] for event in world.log if event["event"] == "user.deleted"}

    copy.ok()

    assert {id_: text(at) for id_, at in copy.deleted("users").items()} == told
    assert copy.differences() == {}


def test_rows_that_are_deleted_keep_the_guard(workos: WorkOS, database: Database) -> None:
    """
    With `on_missing: delete` a few rows go as events report it; many wait for a person, and go once they are approved.
    """
    world, copy = workos.world, Copy(workos, database, load={"on_missing": "delete", "live_view": False})
    users = people(world, 30)
    copy.ok()

    def held() -> set[str]:
        return {id_ for (id_,) in copy.ask("SELECT id FROM workos_users")}

    world.delete_user(users[0])
    copy.ok()
    assert held() == set(users[1:])

    for user in users[1:20]:
        world.delete_user(user)
    refused = copy.run()
    assert refused.exit_status == 6
    assert held() == set(users[1:])

    copy.ok(approve_deletes=refused.run_id)
    assert held() == set(users[20:])


def test_what_only_lists_have_is_not_taken_away(world: World, copy: Copy) -> None:
    """
    An event of a membership has neither its person nor the organization's name nor all roles.
    """
    (user,), organization = people(world, 1), world.create_organization("Test Organization")
    membership = world.create_membership(user, organization)
    copy.ok()
    before = copy.table("organization_memberships")[membership]
    world.deactivate(membership)

    copy.ok()

    after = copy.table("organization_memberships")[membership]
    assert after["status"] == "inactive"
    assert after == {**before, "status": "inactive", "updated_at": after["updated_at"]}


def test_a_membership_that_only_an_event_has_told_is_completed_by_the_list(world: World, copy: Copy) -> None:
    """
    With the next complete listing it has all that a list shows.
    """
    (user,), organization = people(world, 1), world.create_organization()
    copy.ok()
    world.create_membership(user, organization)
    copy.ok()

    copy.ok(full=True)

    assert copy.differences(whole=True) == {}


# what nobody is told


def test_a_sign_in_is_seen_by_the_next_listing(world: World, copy: Copy, caplog: pytest.LogCaptureFixture) -> None:
    """
    It has no event of the user, and updated_at stays: the next complete listing brings it, and that is no drift.
    """
    users = people(world)
    copy.ok()
    world.sign_in(users[0])
    assert copy.ok().startswith("0 0 ")

    copy.ok(full=True)

    assert copy.table("users")[users[0]]["last_sign_in_at"] is not None
    assert copy.differences(whole=True) == {}
    assert copy.ask("SELECT count(*) FROM usersync.sweeps WHERE drift IS NOT NULL AND drift::text NOT IN ('{}', 'null')") == [(0,)]


def test_a_sign_in_survives_the_next_update(world: World, copy: Copy) -> None:
    """
    An event carries last_sign_in_at as it was then; what came later in the same document counts.
    """
    users = people(world, 1)
    copy.ok()
    world.sign_in(users[0])
    world.update_user(users[0], last_name="User after")
    copy.ok()
    copy.ok(full=True)

    assert copy.differences(whole=True) == {}


def test_domains_in_another_order_are_no_change(world: World, copy: Copy) -> None:
    """
    Each answer has the domains of an organization and the roles of a membership in another order: a second --full writes nothing.
    """
    (user,), organization = people(world, 1), world.create_organization(domains=["a.example", "b.example", "c.example"])
    world.create_membership(user, organization)
    copy.ok()
    before = copy.untouched()

    for _ in range(3):
        copy.ok(full=True)

    assert copy.untouched() == before


def test_domains_are_followed(workos: WorkOS, world: World, copy: Copy) -> None:
    """
    Added, verified, failed and deleted: nothing is said for the organization, which is read again, once for all of a page.
    """
    organization = world.create_organization(domains=["a.example"])
    copy.ok()
    second, third = world.add_domain(organization, "b.example"), world.add_domain(organization, "c.example")
    world.verify_domain(organization, second)
    world.fail_domain(organization, third)
    with workos.requests() as counted:
        copy.ok()
    assert copy.differences() == {}
    assert counted == {"/events": 1, "/organizations/{id}": 1}

    world.delete_domain(organization, second)
    world.fail_domain(organization, third)
    copy.ok()

    assert copy.differences() == {}


def test_a_domain_of_an_organization_that_has_left(world: World, copy: Copy) -> None:
    """
    Looking for it gives 404, and its delete follows in the log.
    """
    organization = world.create_organization(domains=["a.example"])
    copy.ok()
    world.add_domain(organization, "b.example")
    world.delete_organization(organization)

    copy.ok()

    assert copy.differences() == {}
    assert set(copy.deleted("organizations")) == {organization}


def test_memberships_go_with_their_organization(workos: WorkOS, world: World, copy: Copy) -> None:
    """
    Where no event reports their end, the next complete listing finds it: those of an organization that is gone go with it.
    """
    users, organizations = people(world), [world.create_organization() for _ in range(3)]
    for organization in organizations:
        for user in users:
            world.create_membership(user, organization)
    copy.ok()
    world.cascades = False
    world.delete_organization(organizations[0])
    copy.ok()

    copy.ok(full=True)

    assert copy.differences() == {}
    assert len(copy.deleted("organization_memberships")) == 3


# events of other kinds


def test_the_archive_keeps_every_event(workos: WorkOS, database: Database) -> None:
    """
    Sign-ins among them, which no list has; a second run adds only new ones, and a listing removes none.
    """
    world, copy = workos.world, Copy(workos, database, streams=("users", "events"))
    users = people(world)
    copy.ok()
    world.sign_in(users[0])
    world.forget(1)
    copy.ok()
    copy.ok(full=True)

    archived = copy.table("events")

    assert {event["id"] for event in world.log} <= archived.keys()
    assert any(event["event"].startswith("authentication.") for event in archived.values())


def test_unknown_types_are_passed_over(workos: WorkOS, world: World, copy: Copy) -> None:
    """
    A server that ignores the filter gives types that nobody knows; they are counted, and the cursor moves on.
    """
    users = people(world)
    copy.ok()
    workos.takes_no_type = True
    for _ in range(150):
        world.tell("moon.risen", {"object": "moon", "id": "moon_1"})
    world.update_user(users[0], last_name="User after all that")
    copy.ok()

    assert copy.differences() == {}
    with workos.requests() as counted:
        copy.ok()
    assert counted == {"/events": 1}


POISON: list[tuple[str, object]] = [
    ("user.updated", None),
    ("user.updated", []),
    ("user.updated", {"object": "user"}),
    ("user.updated", {"object": "user", "id": 5, "updated_at": "2026-01-01T00:00:00.000Z"}),
    ("user.updated", {"object": "user", "id": "user_nul", "email": "a\u0000b", "updated_at": "2026-01-01T00:00:00.000Z"}),
    ("user.updated", {"object": "user", "id": "user_when", "updated_at": "soon"}),
    ("user.updated", {"object": "user", "id": "user_odd", "updated_at": "2026-01-01T00:00:00.000Z", "email": {"not": "a text"}}),
    ("user.deleted", {"object": "user"}),
    ("organization_domain.created", {"object": "organization_domain", "id": "org_domain_1"}),
    ("organization_membership.created", {"object": "organization_membership", "id": "om_1", "role": "admin"}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(POISON)))
def test_a_poison_event_is_set_aside(number: int, workos: WorkOS, world: World, copy: Copy) -> None:
    """
    The cursor moves past it, and what comes after it arrives.
    """
    (user,) = people(world, 1)
    copy.ok()
    world.tell(*POISON[number])
    world.update_user(user, last_name="User after it")

    result = copy.run()

    assert result.exit_status in {0, 3}
    assert copy.table("users")[user]["last_name"] == "User after it"
    with workos.requests() as counted:
        copy.run()
    assert counted == {"/events": 1}


def test_times_with_a_blank_and_no_zone(world: World, copy: Copy) -> None:
    """
    The documentation shows times of events also as `2023-04-28 20:05:31.093`.
    """
    (user,) = people(world, 1)
    copy.ok()
    world.update_user(user, last_name="User after it")
    event: Document = world.log[-1]
    event["created_at"] = event["created_at"].replace("T", " ").removesuffix("Z")

    copy.ok()

    assert copy.differences() == {}
    assert datetime.fromisoformat(str(copy.ask("SELECT max(updated_at) FROM workos_users")[0][0]))
