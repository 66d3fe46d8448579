"""What the tests of tokens share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.auth.vault import Store
from tests.oauth_server import OAuthServer, oauth_server
from usersync_cli.auth import oauth, tokens
from usersync_cli.auth import refresh as refreshing
from usersync_cli.model import Database


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses in this process are as short as can be."""
    monkeypatch.setattr(refreshing, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(refreshing, "PERSIST_SECONDS", 0.5)
    monkeypatch.setattr(tokens, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(oauth, "POST_SECONDS", 0.6)


@pytest.fixture
def vendor() -> Iterator[OAuthServer]:
    with oauth_server() as vendor:
        yield vendor


@pytest.fixture
def store(database: Database, vendor: OAuthServer, tmp_path: Path) -> Store:
    return Store(database, vendor, tmp_path)
