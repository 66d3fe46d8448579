"""A reading of a local Klanten by a session of the source `klanten`, and what it should find."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from tests.klanten_server import Klanten, settings
from usersync_cli.errors import UsersyncError
from usersync_cli.model import Cursor, Database, Documents, Page, Stream
from usersync_cli.patience import Patience
from usersync_cli.ports import Tools
from usersync_cli.signals import Stop
from usersync_cli.sources.klanten import Settings, Source

STREAMS = {"companies": "crm", "shops": "shop"}
QUERY = "/v1/query/"
IDS = {"companies": ["1", "2", "3", "4"], "shops": ["a", "b", "c"]}
FOUND = {"companies": {"1": "example.com", "3": "Example.ORG", "4": "example.com"}, "shops": {"a": "example.com", "b": "Example.ORG"}}


class Reading:
    """One reading of a Klanten, by a session of its own."""

    def __init__(self, klanten: Klanten, ids: Mapping[str, Sequence[str]], since: Mapping[str, Cursor] | None = None, **more: Any) -> None:
        self.found: dict[str, dict[str, tuple[str, str]]] = {name: {} for name in ids}
        self.pages: list[Page] = []
        self.error: UsersyncError | None = None
        stop = Stop()
        stop.patience = Patience(0.15)
        streams = [Stream(name, ids=lambda given=given: [given[:3], given[3:]]) for name, given in ids.items()]  # type: ignore[misc]
        given = Settings(type="klanten", **settings(klanten.url, **{"streams": STREAMS, "workers": 1, **more}))
        with Source("klanten", given).open(Tools("test", stop, Database)) as session:
            try:
                for page in session.pages(streams, since or {}):
                    self._take(page)
            except UsersyncError as error:
                self.error = error
            self.left_out = dict(session.left_out)
            self.kept_out = {name: {*session.kept_out(name)} for name in ids}

    def _take(self, page: Page) -> None:
        self.pages.append(page)
        assert isinstance(page.content, Documents)
        for record in page.content.records:
            data = json.loads(record.data)
            assert record.stream in page.streams
            assert record.key not in self.found[record.stream], "given twice"
            assert {"id", "uuid", "domain"} == {*data}
            assert record.key == data["id"]
            self.found[record.stream][record.key] = (data["uuid"], data["domain"])

    @property
    def domains(self) -> dict[str, dict[str, str]]:
        return {name: {id_: domain for id_, (_, domain) in sorted(found.items())} for name, found in self.found.items()}


def failed(klanten: Klanten, ids: Mapping[str, Sequence[str]], **more: Any) -> UsersyncError:
    error = Reading(klanten, ids, **more).error
    assert error is not None
    assert "to-look-for" not in f"{error.message} {error.hint}"
    return error


def queries(klanten: Klanten) -> list[str]:
    """What was asked for by id: app/id."""
    return [unquote(one.path.removeprefix(QUERY)) for one in klanten.asked if one.path.startswith(QUERY)]


def filled(server: Klanten) -> Klanten:
    server.add("example.com", ("crm", "1"), ("crm", "4"), ("shop", "a"), ("other", "x"))
    server.add("Example.ORG", ("crm", "3"), ("shop", "b"))
    return server
