"""A local Klanten with two customers, in each of its readings, and a source that loses no time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from tests.klanten_reading import filled
from tests.klanten_server import Klanten
from usersync_cli.clients.http.client import Client
from usersync_cli.sources.klanten import walk

READINGS: Sequence[dict[str, Any]] = [
    {"unknown": "404", "id_field": "aoo_id", "takes": "form"},
    {"unknown": "404 html", "id_field": "app_id", "takes": "query"},
    {"unknown": "500 html", "id_field": "customer_app_id", "takes": "form"},
]


@pytest.fixture(params=READINGS, ids=lambda one: str(one["unknown"]))
def klanten(request: pytest.FixtureRequest) -> Iterator[Klanten]:
    """Two customers with ids in two apps, in one of the readings."""
    with Klanten("crm", "shop", "other", **request.param).running() as server:
        assert isinstance(server, Klanten)
        yield filled(server)


@pytest.fixture
def plain() -> Iterator[Klanten]:
    with Klanten("crm", "shop", unknown="404").running() as server:
        assert isinstance(server, Klanten)
        yield filled(server)


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of two ids, and no pause before a request is repeated."""
    monkeypatch.setattr(walk, "PAGE_IDS", 2)
    monkeypatch.setitem(Client.__init__.__kwdefaults__ or {}, "pause", timedelta(seconds=0.01))
