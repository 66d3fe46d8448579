"""The source `workos`: users, organizations, memberships and more of an environment of WorkOS, kept by its log of events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from usersync_cli.ports import BringsComments, BringsTransform, DocumentSource, Tools
from usersync_cli.sources.workos import api
from usersync_cli.sources.workos.session import Session
from usersync_cli.sources.workos.settings import Settings


class Source(BringsTransform, BringsComments, DocumentSource):
    """An environment; nothing is contacted before the first request."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings
        self._limits: api.Limits | None = None

    def transform(self, stream: str) -> str:
        """The columns that people use, and the document."""
        from usersync_cli.sources.workos.transforms import select_of

        return select_of(stream)

    def comments(self, stream: str) -> Mapping[str, str]:
        """What is worth knowing about columns: above all, which of them no event keeps fresh."""
        from usersync_cli.sources.workos.transforms import comments_of

        return comments_of(stream)

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Session]:
        """Connections and threads end with the session."""
        limits = self._limits = self._limits or api.limits()
        with (
            api.client(self._settings, self.name, tools.stop, limits.log) as log,
            api.client(self._settings, self.name, tools.stop, limits.others) as others,
        ):
            yield Session(self.name, self._settings, api.Api(self.name, log, others, self._settings.workers))
