"""A local Klanten with ids of two apps on several pages, and apps whose ids are slow, silent, or end in nonsense."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from tests.contract.live import PERSON, SECRET, LiveServer, LiveSource
from tests.http_server import Answer, Asked
from tests.klanten_server import Klanten, fault, of_path, settings
from usersync_cli.model import Stream
from usersync_cli.ports import BringsTransform, CanLook, KeepsOut, LeavesOut, ReadsTogether
from usersync_cli.sources.klanten import source, walk

ABILITIES = [ReadsTogether, CanLook, LeavesOut, KeepsOut, BringsTransform]
COUNT = 45
STREAMS = ("companies", "shops", "broken", "slow", "silent")


def live(request: pytest.FixtureRequest) -> LiveSource:
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setattr(source, "DEADLINE", timedelta(seconds=3))  # whoever is away is away soon
    monkeypatch.setattr(walk, "PAGE_IDS", 20)
    server = Klanten()
    server.key = f"test.{SECRET}"
    ids = {name: [f"{name[0]}{number:04}" for number in range(COUNT)] for name in STREAMS}
    ids["slow"] += [f"s{number:04}" for number in range(COUNT, 60)]
    for number in range(COUNT):
        server.add(f"test{number}.example.com", ("companies", ids["companies"][number]), ("shops", ids["shops"][number]))
    for name in ("broken", "slow"):
        for id_ in ids[name]:
            server.add(f"{name}-{id_}.example.com", (name, id_))
    server.trouble = lambda asked: _trouble(asked, ids["broken"][-1])
    running = server.running()
    running.__enter__()
    request.addfinalizer(lambda: running.__exit__(None, None, None))
    odd = {"companies": "c/odd", "shops": "s-unknown"}
    asked = {
        name: Stream(name, ids=partial(list, [sorted([*known, *([odd[name]] if name in odd else [])])])) for name, known in ids.items()
    }
    return LiveSource(
        left_out={"unknown at the source": 1},
        kept_out={name: [id_] for name, id_ in odd.items()},
        settings=_settings(server.url),
        streams=[asked["companies"], asked["shops"]],
        keys={name: ids[name] for name in ("companies", "shops")},
        missing=Stream("nobody"),
        broken=asked["broken"],
        slow=asked["slow"],
        silent=asked["silent"],
        connections=server.connections,
        cut=lambda: _go(server),
        server=LiveServer(at=lambda port: _settings(f"http://127.0.0.1:{port}")),
    )


def _settings(url: str) -> dict[str, Any]:
    return settings(url, api_key=f"test.{SECRET}", streams={name: name for name in STREAMS})


def _trouble(asked: Asked, last: str) -> Answer | None:
    if asked.path.startswith("/v1/query/slow/"):
        time.sleep(0.03)
    if asked.path == f"/v1/query/broken/{last}":
        return Answer(body=f'{{"domain": "{PERSON}", "uu'.encode())
    return fault("hang") if asked.path.startswith("/v1/query/silent/") else None


def _go(server: Klanten) -> None:
    """Away: whoever asks is hung up on."""
    server.trouble = of_path("/", Answer(fault="reset"))
    server.cut()
