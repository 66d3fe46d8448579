"""The job against a server that does what the specification says: lost places, faults, keys, and how many requests it takes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.http_server import Asked
from tests.workos_job import Copy
from tests.workos_server import OTHER_KEY, PATHS, WorkOS
from tests.workos_world import SECRET, World
from usersync_cli.model import Database
from usersync_cli.sources.workos import listing

NOWHERE = "sk_test_nobody-has-this-key"


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


def filled(world: World, users: int = 3, organizations: int = 2) -> list[str]:
    """Users, each a member of each organization; their ids."""
    ids = [world.create_user() for _ in range(users)]
    for number in range(organizations):
        organization = world.create_organization(domains=[f"d{number}.example"])
        for user in ids:
            world.create_membership(user, organization)
    return ids


def later(world: World, **by: float) -> None:
    """Time goes on."""
    world.ahead += timedelta(**by)


# requests


def test_a_first_run_asks_for_no_more_than_there_is(workos: WorkOS, copy: Copy) -> None:
    """
    A request for each hundred users and organizations, one for each organization, and those for the events.
    """
    users = filled(workos.world, users=250, organizations=3)
    for _ in range(120):
        workos.world.create_organization()
    with workos.requests() as counted:
        copy.ok()

    assert counted.pop("/events") <= 2 + len(workos.world.log) // 100 + 1
    assert counted == {PATHS["users"]: 3, PATHS["organizations"]: 2, PATHS["organization_memberships"]: 120 + 3 * 3}
    assert len(copy.table("users")) == len(users)


@pytest.mark.parametrize("events", [0, 1, 2, 100, 101])
def test_no_news_is_one_request(events: int, workos: WorkOS, copy: Copy) -> None:
    """
    However many events there have been so far, and whatever their number is beside a page; a second time, too.
    """
    copy.ok()
    for _ in range(events):
        workos.world.create_user()
    copy.ok()

    for _ in range(2):
        with workos.requests() as counted:
            assert copy.ok() == "0 0 0 0"
        assert counted == {"/events": 1}


def test_every_request_says_who_asks_and_what_for(workos: WorkOS, copy: Copy) -> None:
    """
    The User-Agent names usersync and the phase; `after` and `range_start` are never sent together, and the types always are.
    """
    filled(workos.world)
    copy.ok()
    workos.world.create_user()
    copy.ok()

    agents = {asked.headers["User-Agent"] for asked in workos.asked}
    events = [asked for asked in workos.asked if asked.path == "/events"]

    assert all(agent.startswith("usersync/") for agent in agents)
    assert {agent.partition("(")[2] for agent in agents} == {"events)", "listing)"}
    assert all(("after" in asked.query) != ("range_start" in asked.query) and asked.query["events"] for asked in events)


# a place in the log that is lost


@pytest.mark.parametrize("answer", [404, 400, 422, "empty", "rewound"])
def test_a_lost_place_is_listed_again(answer: Any, workos: WorkOS, world: World, copy: Copy) -> None:
    """
    Whatever the server answers to an event that it does not know any more, nothing is missed: what was deleted meanwhile goes too.
    """
    users = filled(world)
    world.update_user(users[0], last_name="User before")
    copy.ok()
    workos.lost_cursor = answer
    world.update_user(users[0], last_name="User after")
    world.delete_user(users[1])
    new = world.create_user()
    world.forget()
    if answer == "rewound":
        world.update_user(users[2], last_name="User since")

    copy.ok()

    assert copy.differences() == {}
    assert new in copy.table("users")
    with workos.requests() as counted:
        copy.ok()
    assert counted == {"/events": 1}


def test_a_place_older_than_the_retention_is_lost(workos: WorkOS, world: World, copy: Copy) -> None:
    """
    After a pause of 31 days nobody trusts the log, although the server still knows the place.
    """
    users = filled(world)
    copy.ok()
    world.update_user(users[0], event=False, last_name="User of whom the log forgot", updated_at=world.moment())
    later(world, days=31)

    copy.ok()

    assert copy.differences() == {}


def test_the_first_page_again_is_not_a_place(workos: WorkOS, world: World, copy: Copy) -> None:
    """
    A server that answers an unknown id with its first page would begin from the oldest event again, and miss what it forgot.
    """
    workos.lost_cursor = "rewound"
    users = filled(world)
    copy.ok()
    for number in range(150):
        world.update_user(users[0], last_name=f"User {number}")
    copy.ok()
    world.forget(len(world.log) - 120)
    world.delete_user(users[1])
    world.forget(119)

    copy.ok()

    assert copy.differences() == {}


def test_a_log_out_of_order_stops_before_anything_is_written(world: World, copy: Copy) -> None:
    """
    Newest first, for example, if the server begins to honour what it documents: the cursor stays, and the next run reads all of it.
    """
    users = filled(world)
    copy.ok()
    world.create_user()
    copy.ok()
    world.update_user(users[0], last_name="User first")
    world.update_user(users[0], last_name="User second")
    world.log[-1], world.log[-2] = world.log[-2], world.log[-1]
    before = copy.untouched()

    assert copy.refused().startswith("7: ")
    assert copy.untouched() == before

    world.log[-1], world.log[-2] = world.log[-2], world.log[-1]
    copy.ok()
    assert copy.differences() == {}


def test_the_same_event_twice_on_a_page(workos: WorkOS, world: World, copy: Copy) -> None:
    """
    Counts once.
    """
    filled(world)
    copy.ok()
    workos.doubled = True
    for _ in range(3):
        world.create_user()
        copy.ok()

    assert copy.differences() == {}


# what happens while it lists


@pytest.mark.parametrize("forgets", [True, False])
def test_changes_during_the_first_listing(workos: WorkOS, copy: Copy, *, forgets: bool) -> None:
    """
    Behind every request something is changed, added and deleted, also the very object that the next page begins behind.
    """
    world, workos.forgets = workos.world, forgets
    users = filled(world, users=210, organizations=1)

    def meanwhile(asked: Asked) -> None:
        if asked.path == PATHS["users"] and "after" in asked.query:
            gone = asked.query["after"][0]
            if gone in world.streams["users"]:
                world.delete_user(gone)
        with world.lock:
            left = [user for user in users if user in world.streams["users"]]
            world.update_user(left[0], last_name=f"User changed at {len(workos.asked)}")
            if len(workos.asked) < 12:
                world.delete_user(left[1])
                world.create_membership(world.create_user(), world.ids("organizations")[0])

    workos.before = meanwhile
    copy.ok()
    workos.before = lambda _asked: None
    copy.ok()

    assert copy.differences() == {}


def test_an_organization_that_leaves_while_its_members_are_listed(workos: WorkOS, world: World, copy: Copy) -> None:
    """
    Its list is empty or refused then, and the listing goes on.
    """
    filled(world, organizations=3)
    organizations = world.ids("organizations")

    def meanwhile(asked: Asked) -> None:
        if asked.path == PATHS["organization_memberships"] and organizations[1] in world.streams["organizations"]:
            world.delete_organization(organizations[1])

    workos.before = meanwhile
    copy.ok()

    assert copy.differences() == {}


def test_members_are_listed_on_from_the_organization_where_it_ended(workos: WorkOS, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The first listing breaks when nine of 24 organizations are answered: those of the pages that were stored are not asked again.
    """
    monkeypatch.setattr(listing, "PAGE_RECORDS", 6)
    filled(workos.world, users=2, organizations=24)
    copy.settings = {"workers": 1}
    workos.fail("no list", PATHS["organization_memberships"], skip=9)
    copy.refused()
    workos.troubles.clear()

    with workos.requests() as counted:
        copy.ok()

    assert counted[PATHS["organization_memberships"]] <= 24 - 6
    assert PATHS["users"] not in counted
    assert copy.differences(whole=True) == {}


# faults


@pytest.mark.parametrize("how", ["busy in seconds", "busy until"])
def test_waits_as_it_is_told(how: str, workos: WorkOS, copy: Copy) -> None:
    """
    429 with Retry-After in seconds, and as a date.
    """
    filled(workos.world)
    workos.fail(how, PATHS["users"], times=1)
    copy.ok()

    asked = [one.at for one in workos.asked if one.path == PATHS["users"]]

    assert len(asked) == 2
    assert asked[1] - asked[0] >= timedelta(seconds=0.9 if how == "busy in seconds" else 0)
    assert copy.differences(whole=True) == {}


@pytest.mark.parametrize(
    ("how", "path"),
    [
        *(("half", path) for path in ("/events", PATHS["users"], PATHS["organization_memberships"])),
        ("truncated", PATHS["users"]),
        ("html", "/events"),
        ("null", PATHS["organization_memberships"]),
        ("no list", PATHS["users"]),
        (500, "/events"),
    ],
)
def test_a_broken_answer_changes_nothing(how: int | str, path: str, workos: WorkOS, copy: Copy) -> None:
    """
    A page that fails half way, or is none: the run fails, nobody is removed, and the next one has everything.
    """
    users = filled(workos.world)
    copy.ok()
    workos.world.delete_user(users[0])
    workos.world.update_user(users[1], last_name="User after")
    workos.fail(how, path)
    text = copy.refused(full=True)
    workos.troubles.clear()

    assert text.partition(":")[0] in {"4", "7"}
    assert len(copy.deleted("users")) == (0 if path == "/events" else 1)
    copy.ok(full=True)
    assert copy.differences() == {}


@pytest.mark.parametrize("path", [PATHS["users"], PATHS["organizations"], PATHS["organization_memberships"]])
def test_an_empty_list_removes_nobody(path: str, workos: WorkOS, copy: Copy) -> None:
    """
    A list that is silent all of a sudden is not believed.
    """
    filled(workos.world)
    copy.ok()
    workos.fail("empty", path)

    assert copy.soon(full=True).exit_status in {4, 6, 7}
    assert not any(copy.deleted(stream) for stream in copy.streams)


# keys


def test_a_wrong_key(workos: WorkOS, copy: Copy) -> None:
    """
    401 names the setting, with the vendor's words and the request's id; nothing is done.
    """
    copy.settings = {"api_key": NOWHERE}
    text = copy.refused()

    assert text.startswith("2: ")
    assert all(part in text for part in ("401", "api_key", "Unauthorized", "req_TEST"))
    assert NOWHERE not in text


def test_the_key_of_another_environment(workos: WorkOS, copy: Copy) -> None:
    """
    Nothing tells to which environment a key belongs, but neither our place in its log nor what we hold is in it: nothing is removed.
    """
    filled(workos.world, users=5)
    copy.ok()
    other = workos.worlds[OTHER_KEY]
    filled(other, users=5)
    before = copy.untouched()
    copy.settings = {"api_key": OTHER_KEY}

    for options in ({}, {"full": True}):
        assert copy.refused(**options).startswith("7: ")

    assert copy.untouched() == before
    copy.settings = {}
    workos.world.create_user()
    copy.ok()
    assert copy.differences() == {}


@pytest.mark.parametrize("answer", [404, "empty", "rewound"])
def test_another_environment_however_it_answers(answer: Any, workos: WorkOS, copy: Copy) -> None:
    """
    Also where it has nobody at all, and whatever it answers to an unknown event.
    """
    filled(workos.world)
    copy.ok()
    workos.lost_cursor = answer
    copy.settings = {"api_key": OTHER_KEY}

    assert copy.refused().startswith("7: ")
    assert not any(copy.deleted(stream) for stream in copy.streams)


@pytest.mark.parametrize("path", ["/events", PATHS["users"], PATHS["organizations"], PATHS["organization_memberships"]])
def test_a_restricted_key(path: str, workos: WorkOS, copy: Copy) -> None:
    """
    The message names what the key may not read; nobody is removed, and nothing is half done.
    """
    filled(workos.world)
    copy.ok()
    workos.forbidden[copy.server.settings()["api_key"]] = {path}

    text = copy.refused(full=True)

    assert text.startswith("2: ")
    assert path in text
    assert "403" in text
    assert not any(copy.deleted(stream) for stream in copy.streams)


def test_what_goes_wrong_tells_nothing_of_anybody(workos: WorkOS, copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Neither key nor secret nor anybody's name in a log or message.
    """
    workos.world.create_invitation()
    users = filled(workos.world)
    copy.streams = (*copy.streams, "invitations")
    copy.ok()
    workos.world.tell("user.updated", {"object": "user", "email": "user1@test.example", "first_name": "Test User"})
    workos.world.delete_user(users[0])
    copy.run()
    workos.fail("html", PATHS["users"])
    copy.refused(full=True)

    said = "".join(capsys.readouterr())

    assert all(word not in said for word in (SECRET, copy.server.settings()["api_key"], "Test User", "test.example"))
