"""The source `klanten`: whose the ids are that usersync knows, as Klanten says over its HTTP API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from usersync_cli.ports import BringsTransform, DocumentSource, Tools
from usersync_cli.sources.klanten.session import Session
from usersync_cli.sources.klanten.settings import Settings

DEADLINE = timedelta(minutes=5)  # of one request, with its repetitions


class Source(BringsTransform, DocumentSource):
    """A Klanten; nothing is contacted before the first request."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self._settings = name, settings

    def transform(self, stream: str) -> str:  # all are alike
        """The id, its customer's uuid, and the domain as it stands at Klanten."""
        return "SELECT key AS id, (data ->> 'uuid')::uuid AS uuid, data ->> 'domain' AS domain FROM records"

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Session]:
        """Connections and threads end with the session."""
        from usersync_cli.clients.klanten.api import Klanten

        settings, name = self._settings, f"source {self.name}"
        with Klanten(settings.url, settings.api_key, name=name, stop=tools.stop, ca=settings.ca, deadline=DEADLINE) as klanten:
            yield Session(self.name, settings, klanten)
