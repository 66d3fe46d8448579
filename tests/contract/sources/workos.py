"""A local WorkOS with users, organizations and memberships on several pages, and lists that are slow, silent, or end in nonsense."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.contract.live import PERSON, SECRET, LiveServer, LiveSource
from tests.http_server import Asked
from tests.workos_server import PATHS, WorkOS
from tests.workos_world import World
from usersync_cli.model import Stream
from usersync_cli.ports import (
    BelongsTo,
    BringsComments,
    BringsTransform,
    CanLook,
    CreatesUsers,
    FollowsLog,
    LeavesOut,
    ReadsTogether,
    TellsWhoIsGone,
)
from usersync_cli.sources.workos import api

ABILITIES = [CreatesUsers, ReadsTogether, FollowsLog, BelongsTo, TellsWhoIsGone, LeavesOut, CanLook, BringsTransform, BringsComments]
COUNT = 105  # a page has 100
KEY = f"sk_test_{SECRET}"


def live(request: pytest.FixtureRequest) -> LiveSource:
    # Whoever is away is away at once: it is not asked again for minutes.
    request.getfixturevalue("monkeypatch").setattr(api, "DEADLINE", timedelta(seconds=3))
    world = World()
    server = WorkOS(world)
    server.worlds = {KEY: world}
    users = [world.create_user(first_name=PERSON) for _ in range(COUNT)]
    organizations = [world.create_organization() for _ in range(COUNT)]
    *members, leaving = users
    for user, organization in zip(members, reversed(organizations), strict=False):
        world.create_membership(user, organization)
    for number in range(300):
        world.create_invitation(f"test.user{number}@test.example")
    for organization in organizations:
        world.create_connection(organization)
    world.create_directory(organizations[0])
    world.forget()  # nothing has happened since
    world.sign_in(leaving)  # but something that nobody has asked for
    server.takes_no_type = True
    server.fail("half", PATHS["connections"], skip=1)
    server.fail("hang", PATHS["directories"])
    _slowly(server)
    running = server.running()
    running.__enter__()
    request.addfinalizer(lambda: running.__exit__(None, None, None))
    streams = ("users", "organizations", "organization_memberships")
    return LiveSource(
        unknown="user_01NOBODY",
        change=lambda: world.delete_user(leaving),
        left_out={"events of other types": 1},
        settings=_settings(server.url),
        streams=[Stream(name) for name in streams],
        keys={name: world.ids(name) for name in streams},
        missing=Stream("nobody"),
        broken=Stream("connections"),
        slow=Stream("invitations"),
        silent=Stream("directories"),
        connections=server.connections,
        cut=lambda: _go(server),
        server=LiveServer(at=lambda port: _settings(f"http://127.0.0.1:{port}")),
    )


def _settings(url: str) -> dict[str, Any]:
    return {"api_url": url, "api_key": KEY}


def _slowly(server: WorkOS) -> None:
    def before(asked: Asked) -> None:
        if asked.path == PATHS["invitations"]:
            server.over.wait(0.5)

    server.before = before


def _go(server: WorkOS) -> None:
    """Away for good: whoever asks is hung up on."""

    def hang_up(_asked: Asked) -> None:
        raise ConnectionResetError

    server.before = hang_up
    server.cut()
