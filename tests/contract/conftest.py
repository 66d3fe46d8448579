"""Each source with its sample, also what the READMEs of sources/ and targets/ show, for the suites of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.contract.live import NAMES, README, LiveSource, code_of, sample
from usersync_cli import sources, targets
from usersync_cli.config.registry import source_port
from usersync_cli.model import Database
from usersync_cli.ports import Session, Source, Tools
from usersync_cli.signals import Stop
from usersync_cli.sources import TabularPort


@pytest.fixture(scope="session")
def of_readmes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source that sources/README.md shows, and one with the target that targets/README.md shows."""
    folder = tmp_path_factory.mktemp("readme")
    for kind, name in README.items():
        (folder / kind).mkdir()
        (folder / kind / f"{name}.py").write_text(code_of(kind, f"usersync_cli/{kind}/{name}.py"))
    return folder


@pytest.fixture
def readme(of_readmes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the READMEs show is there as if it were one of ours."""
    for package, kind in ((sources, "sources"), (targets, "targets")):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(of_readmes / kind)])


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    if request.param == README["sources"]:
        request.getfixturevalue("readme")
    return str(request.param)


@pytest.fixture
def live(name: str, request: pytest.FixtureRequest) -> LiveSource:
    found: LiveSource = sample("sources", name).live(request)
    return found


@pytest.fixture
def tabular(name: str) -> bool:
    return isinstance(source_port(name), TabularPort)


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def make(name: str, stop: Stop, live: LiveSource) -> Callable[[Any], AbstractContextManager[Any]]:
    """Opens the source with these settings, once the result is entered."""

    def made(settings: Any) -> AbstractContextManager[Any]:
        port = source_port(name)
        return port.source("crm", port.settings(type=name, **settings)).open(Tools("contract", stop, Database, live.tokens))

    return made


@pytest.fixture
def source(name: str, live: LiveSource) -> Source:
    port = source_port(name)
    return port.source("crm", port.settings(type=name, **live.settings))


@pytest.fixture
def session(live: LiveSource, make: Callable[[Any], AbstractContextManager[Session]]) -> Iterator[Any]:
    with make(live.settings) as session:
        yield session
