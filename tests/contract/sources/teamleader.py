"""A local Teamleader with contacts and companies on several pages, and lists that are slow, silent, or end in nonsense."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.contract.live import PERSON, SECRET, LiveServer, LiveSource
from tests.teamleader_job import Granted, made
from tests.teamleader_server import Asked, Fault, Teamleader
from usersync_cli.model import Stream
from usersync_cli.ports import BringsDefinition, BringsTransform, CanLook, HasDetails, TellsWhoIsGone
from usersync_cli.sources.teamleader import limits

ABILITIES = [HasDetails, TellsWhoIsGone, CanLook, BringsTransform, BringsDefinition]
COUNT = 250


def live(request: pytest.FixtureRequest) -> LiveSource:
    # Whoever is away is away at once: it is not asked again for minutes.
    request.getfixturevalue("monkeypatch").setattr(limits, "DEADLINE", timedelta(seconds=3))
    server = Teamleader()
    running = server.running()
    running.__enter__()
    request.addfinalizer(lambda: running.__exit__(None, None, None))
    keys = {name: server.add(name, COUNT) for name in ("contacts", "companies")}
    server.add("invoices", COUNT, note=PERSON)
    server.fail("not_json", "invoices.list", page=1, times=1000)
    server.add("events", 2000)
    server.add("users", COUNT)
    _slowly(server)
    return LiveSource(
        unknown="00000000-0000-4000-8000-000000000000",
        settings={name: value for name, value in made(server.url, client_secret=SECRET).items() if name != "type"},
        streams=[Stream("contacts"), Stream("companies")],
        keys=keys,
        missing=Stream("nobody"),
        broken=Stream("invoices"),
        slow=Stream("events"),
        silent=Stream("users"),
        connections=lambda: len(server.connections),
        cut=lambda: _go(server),
        server=LiveServer(at=lambda port: {name: value for name, value in made(f"http://127.0.0.1:{port}").items() if name != "type"}),
        tokens=Granted(),
    )


def _slowly(server: Teamleader) -> None:
    def before(asked: Asked) -> None:
        if asked.path == "users.list":
            server.wait(60)
        elif asked.path == "events.list":
            server.wait(0.2)

    server.before = before


def _go(server: Teamleader) -> None:
    """Away for good: whoever asks is hung up on."""
    server.faults.append(Fault("reset", lambda _asked: True, times=1_000_000))
    server.cut()
