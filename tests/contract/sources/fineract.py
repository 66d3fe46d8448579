"""A local Fineract with users and roles on several pages, and a list that is silent or ends in nonsense."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.contract.live import PERSON, SECRET, LiveServer, LiveSource
from tests.fineract_server import Fineract, Trouble, made
from usersync_cli.model import Stream
from usersync_cli.ports import BringsAccounts, BringsTransform, CanLook, KeepsOut, LeavesOut, OneMoment, TellsWhoIsGone
from usersync_cli.sources.fineract import session, source

ABILITIES = [OneMoment, TellsWhoIsGone, CanLook, LeavesOut, KeepsOut, BringsTransform, BringsAccounts]
COUNT = 1100
PATHS = ("/users", "/roles", "/users?broken", "/users?silent", "/users/999999")


def live(request: pytest.FixtureRequest) -> LiveSource:
    monkeypatch = request.getfixturevalue("monkeypatch")
    # Whoever is away is away at once: it is not asked again for minutes.
    monkeypatch.setattr(source, "DEADLINE", timedelta(seconds=3))
    for name in ("broken", "silent"):  # what Fineract does not know in a query, it passes over
        monkeypatch.setitem(session.RESOURCES, name, session.Resource(f"/users?{name}=1", "READ_USER", ""))
    server = Fineract()
    server.add(COUNT, firstname=PERSON, password=SECRET)
    server.passwords[1] = SECRET
    server.roles |= {id_: {"id": id_, "name": f"Role {id_}", "description": "", "disabled": False} for id_ in range(5, COUNT)}
    server.fail("not_json", "/users?broken")
    server.fail("hang", "/users?silent")
    running = server.running()
    running.__enter__()
    request.addfinalizer(lambda: running.__exit__(None, None, None))
    (customer,) = server.add(isSelfServiceUser=True)
    return LiveSource(
        unknown="999999",
        change=lambda: server.delete(COUNT + 3),
        left_out={"self-service users": 1},
        kept_out={"users": {"1", "2", "3", str(customer)}, "roles": ()},
        settings={name: value for name, value in made(server.url, password=SECRET).items() if name != "type"},
        streams=[Stream("users"), Stream("roles")],
        keys={"users": [str(id_) for id_ in server.users if 3 < id_ < customer], "roles": [str(id_) for id_ in server.roles]},
        missing=Stream("nobody"),
        broken=Stream("broken"),
        slow=None,  # a list is one answer: there is no middle of it
        silent=Stream("silent"),
        connections=server.connections,
        cut=lambda: _go(server),
        server=LiveServer(at=lambda port: {k: v for k, v in made(f"http://127.0.0.1:{port}", password=SECRET).items() if k != "type"}),
    )


def _go(server: Fineract) -> None:
    """Away for good: whoever asks is hung up on."""
    server.troubles = [Trouble("reset", path, 1_000_000, 0) for path in PATHS]
    server.cut()
