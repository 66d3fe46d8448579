"""For any interleaving of changes and polls the tables are what WorkOS says, after the next run."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.http_server import Asked
from tests.workos_job import Copy
from tests.workos_server import PATHS, Lost, WorkOS
from tests.workos_world import World
from usersync_cli.errors import GuardRefused
from usersync_cli.model import Database

EXAMPLES = int(os.environ.get("USERSYNC_TEST_EXAMPLES", "5"))
PHASES = [Phase.generate]  # a history is made smaller by hand: each attempt takes a second
USERS, ORGANIZATIONS = 8, 3
CHANGES = (
    *("create user", "update user", "update user", "delete user", "sign in", "create organization", "rename", "add domain"),
    *("verify domain", "delete domain", "delete organization", "join", "join", "turn", "change role", "leave", "replay", "burst"),
)
Change = tuple[str, int]
changes = st.tuples(st.sampled_from(CHANGES), st.integers(0, 10))


@dataclass(frozen=True)
class Poll:
    """A run, and what happens in it: `meanwhile` behind its n-th request, which may also break."""

    full: bool
    lost: Lost | None  # the log has forgotten our place, and this is what it answers
    meanwhile: tuple[int, Sequence[Change]] | None
    breaks: int  # the number of the request that nobody answers; 0: none


polls = st.builds(
    Poll,
    full=st.sampled_from([False, False, False, True]),
    lost=st.sampled_from([None, None, None, None, 404, 422, "empty", "rewound"]),
    meanwhile=st.none() | st.tuples(st.integers(1, 6), st.lists(changes, min_size=1, max_size=4)),
    breaks=st.sampled_from([0, 0, 0, 1, 2, 3, 5]),
)
histories = st.lists(st.one_of(changes, changes, polls), max_size=12)
numbers = itertools.count()


@pytest.fixture(scope="module")
def workos() -> Iterator[WorkOS]:
    server = WorkOS()
    with server.running():
        yield server


def change(world: World, what: str, which: int) -> None:
    """One change; nothing where there is nothing to change."""
    users, organizations, memberships = (world.ids(name) for name in ("users", "organizations", "organization_memberships"))
    if what == "create user":
        world.create_user()
    elif what == "create organization":
        world.create_organization(domains=[f"{which}-{n}.example" for n in range(which % 3)])
    elif what == "replay" and world.log:
        world.replay(-1 - which % len(world.log))
    elif "user" in what or what in {"sign in", "burst"}:
        _change_user(world, what, users[which % len(users)] if users else "", which)
    elif what == "join" and users and organizations:
        world.create_membership(
            users[which % len(users)], organizations[which % len(organizations)], status=("active", "pending")[which % 2]
        )
    elif what in {"turn", "change role", "leave"} and memberships:
        _change_membership(world, what, memberships[which % len(memberships)], which)
    elif organizations and what not in {"join", "turn", "change role", "leave", "replay"}:
        _change_organization(world, what, organizations[which % len(organizations)], which)


def _change_user(world: World, what: str, user: str, which: int) -> None:
    if not user:
        return
    if what == "burst":
        with world.one_moment():
            for number in range(which * 12):
                world.update_user(user, last_name=f"User {number}")
    elif what == "update user":
        world.update_user(user, last_name=f"User {len(world.log)}")
    else:
        {"delete user": world.delete_user, "sign in": world.sign_in}[what](user)


def _change_membership(world: World, what: str, membership: str, which: int) -> None:
    if what == "leave":
        world.delete_membership(membership)
    elif what == "turn":
        active = world.streams["organization_memberships"][membership]["status"] == "active"
        (world.deactivate if active else world.reactivate)(membership)
    else:
        world.update_membership(membership, role={"slug": f"role-{which}"})


def _change_organization(world: World, what: str, organization: str, which: int) -> None:
    domains = [domain["id"] for domain in world.streams["organizations"][organization]["domains"]]
    if what == "rename":
        world.update_organization(organization, name=f"Test Organization {len(world.log)}")
    elif what == "add domain":
        world.add_domain(organization, f"{len(world.log)}.example")
    elif what == "delete organization":
        world.delete_organization(organization)
    elif domains:
        (world.verify_domain if what == "verify domain" else world.delete_domain)(organization, domains[which % len(domains)])


def poll(copy: Copy, workos: WorkOS, one: Poll) -> None:
    """A run, however it ends."""
    world, begun = workos.world, len(workos.asked)

    def before(_asked: Asked) -> None:
        number = len(workos.asked) - begun
        if one.meanwhile and number == one.meanwhile[0]:
            for what, which in one.meanwhile[1]:
                change(world, what, which)

    if one.lost and provable(copy):
        workos.lost_cursor = one.lost
        world.forget()
    workos.before = before
    if one.breaks:
        for path in ("/events", *PATHS.values()):
            workos.fail("no list", path, skip=one.breaks)
    copy.run(full=one.full)
    workos.before = lambda _asked: None
    workos.troubles.clear()


def provable(copy: Copy) -> bool:
    """Whether the cursor has an event: WorkOS forgets none so young, and until there is one nothing tells that something was forgotten."""
    if not copy.ask("SELECT FROM pg_tables WHERE schemaname = 'usersync' AND tablename = 'cursors'"):
        return False
    return bool(copy.ask(f"SELECT FROM usersync.cursors WHERE job = '{copy.name}' AND value #>> '{{log,last}}' IS NOT NULL"))


def settle(copy: Copy, **options: Any) -> None:
    """A run that goes well; lists that wait for a person are approved, as they are small here."""
    result = copy.run(**options)
    if isinstance(result.steps[0].error, GuardRefused):
        for _ in copy.streams:
            waiting = copy.ask(f"SELECT max(run_id) FROM usersync.approvals WHERE status = 'waiting' AND job = '{copy.name}'")[0][0]
            if waiting is not None:
                copy.run(approve_deletes=waiting, allow_empty=True, **options)
        result = copy.run(allow_empty=True, **options)
    assert result.steps[0].error is None, result.steps[0].error


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="USERSYNC_TEST_EXAMPLES" not in os.environ,
    phases=PHASES,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(history=histories)
def test_whatever_happens_the_tables_are_the_truth(history: Sequence[Change | Poll], workos: WorkOS, database: Database) -> None:
    """
    After the next run in all that events report, after a complete listing in everything; a second one writes nothing.
    """
    world = World()
    workos.world, workos.worlds[next(iter(workos.worlds))] = world, world
    users = [world.create_user() for _ in range(USERS)]
    for number, organization in enumerate([world.create_organization(domains=["a.example", "b.example"]) for _ in range(ORGANIZATIONS)]):
        for user in users[number::2]:
            world.create_membership(user, organization)
    copy = Copy(workos, database, name=f"workos{next(numbers)}")
    for one in history:
        poll(copy, workos, one) if isinstance(one, Poll) else change(world, *one)

    settle(copy)
    assert copy.differences() == {}

    settle(copy, full=True)
    assert copy.differences(whole=True) == {}
    before = copy.untouched()
    settle(copy, full=True)
    assert copy.untouched() == before
