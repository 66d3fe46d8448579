"""The source `teamleader`: the CRM Teamleader Focus, eight resources over its API, with as few requests as its documents allow.

The clock is Teamleader's own, always.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from usersync_cli.model import Access
from usersync_cli.ports import BringsDefinition, DocumentSource, Tools
from usersync_cli.sources.teamleader import limits
from usersync_cli.sources.teamleader.session import Session
from usersync_cli.sources.teamleader.settings import Settings, oauth
from usersync_cli.sources.teamleader.shapes import whose

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import RateLimit

API_VERSION = "2023-09-26"  # what the documents that we know describe


def account(settings: Settings, access_token: str) -> str:
    """Whose data this token opens."""
    from usersync_cli.clients.http.client import Client
    from usersync_cli.signals import Stop

    with Client(settings.api_url, name="Teamleader", stop=Stop(), access=lambda _: Access(access_token, 1)) as client:
        return whose(client.post("/users.me", {}))


class Source(BringsDefinition, DocumentSource):
    """An account; nothing is contacted before `open`."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings
        self._limit: RateLimit | None = None

    def transform(self, stream: str) -> str:
        """The columns that such a table always had."""
        return f"SELECT key::uuid AS tl_uuid, data AS tl_content, '{stream}'::varchar AS tl_type FROM records"  # noqa: S608  our own name

    def definition(self, stream: str) -> str:
        """The columns of a new table for what `transform` gives."""
        return """
            id serial PRIMARY KEY, tl_uuid uuid NOT NULL, tl_content jsonb NOT NULL, tl_type varchar,
            created_at timestamp with time zone NOT NULL DEFAULT now(), updated_at timestamp with time zone NOT NULL DEFAULT now()
        """

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Session]:
        """Asks whose account it is. Connections and threads end with the session."""
        from usersync_cli.clients.http.client import Client, RateLimit

        if (tokens := tools.tokens) is None:
            raise AssertionError("whoever opens a source with tokens brings the place where they are kept")
        refresh = oauth(self._settings).refresh
        self._limit = self._limit or RateLimit(limits.LIMIT, limits.WINDOW)  # of all sessions of a run
        with Client(
            self._settings.api_url,
            name=f"source {self.name}",
            stop=tools.stop,
            access=lambda after: tokens.access(self.name, refresh, after=after),
            headers={"X-Api-Version": API_VERSION, "Accept": "application/json"},
            limit=self._limit,
            deadline=limits.DEADLINE,
            login=f"`usersync oauth-status` shows the token; to authorise again: usersync oauth-url --source {self.name}",
        ) as client:
            yield Session(self.name, self._settings, client, tools.stop)
