"""An open environment of WorkOS: its pages, who is not there any more, and whether its lists can be read."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from usersync_cli.errors import Drift
from usersync_cli.ports import BelongsTo, CanLook, CreatesUsers, DocumentSession, FollowsLog, LeavesOut, TellsWhoIsGone
from usersync_cli.sources.workos.changes import by_id, found_by_id
from usersync_cli.sources.workos.poll import Poll
from usersync_cli.sources.workos.settings import place_of
from usersync_cli.sources.workos.streams import ARCHIVE, NAMES, STREAMS, asked_types

if TYPE_CHECKING:
    from datetime import datetime

    from usersync_cli.clients.http.client import Request
    from usersync_cli.model import Cursor, FoundUser, NewUser, Page, Stream
    from usersync_cli.sources.workos.api import Api
    from usersync_cli.sources.workos.settings import Settings


class Session(FollowsLog, BelongsTo, TellsWhoIsGone, LeavesOut, CanLook, CreatesUsers, DocumentSession):
    """An environment, as its key shows it. Nothing in its answers says which one it is."""

    def __init__(self, name: str, settings: Settings, api: Api) -> None:
        self._name, self._settings, self._api = name, settings, api
        self._poll: Poll | None = None
        self.account = f"WorkOS at {place_of(settings.api_url)}"

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Generator[Page, None, None]:
        """Changes from the log, and complete listings where they are due; one cursor for all streams.

        Raises Drift for another environment and for lists and logs that run wild, ConfigError for the key and its rights.
        """
        for stream in streams:
            self._check(stream.name)
        self._poll = Poll(self._api, self._settings, streams, since)
        yield from self._poll.pages()

    def told(self, stream: str) -> Collection[str]:
        """What events carry of a stream; nothing of the events themselves, which have no list."""
        return STREAMS[stream].told if stream in STREAMS else ()

    def parent(self, stream: str) -> tuple[str, str] | None:
        """What is in an organization or a directory goes with it, whether each is reported (memberships) or none is (directory users)."""
        found = STREAMS[stream].parent if stream in STREAMS else None
        return (found.stream, found.field) if found else None

    def gone(self, stream: str, keys: Sequence[str]) -> Collection[str]:
        """Those that WorkOS itself says it does not have, each asked for by its id."""
        self._check(stream)
        if stream == ARCHIVE:  # an event that is too old is not gone
            return ()
        asked: list[str] = []

        def requests() -> Iterator[Request]:
            for key in keys:
                asked.append(key)
                yield by_id(stream, key, phase="look-up")

        found = []
        with closing(self._api.each(requests())) as replies:
            for reply in replies:
                key = asked.pop(0)
                if found_by_id(self._api, stream, key, reply) is None:
                    found.append(key)
        return found

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many events were about something else, although only ours were asked for."""
        return dict(self._poll.changes.other) if self._poll else {}

    def look(self, stream: str) -> str:
        """Whether the key may read the stream's list and its events. Raises ConfigError that names all that it may not read."""
        from usersync_cli.sources.workos.look import look

        self._check(stream)
        return look(self._api, stream, asked_types([stream], self._settings.event_types))

    def user_body(self, new: NewUser) -> Mapping[str, Any]:
        """The JSON of a POST."""
        from usersync_cli.sources.workos import creation

        return creation.body_of(new)

    def users_like(self, new: NewUser, known: Collection[str], since: datetime | None) -> Sequence[FoundUser]:
        """Asked for by external id, by the address as it is written and in lower case, and by id; of the list, its newest pages."""
        from usersync_cli.sources.workos import creation

        return creation.people_like(self._api, new, known, since)

    def create_user(self, new: NewUser, attempt: str) -> FoundUser:
        """One POST. WorkOS does not promise to know an Idempotency-Key again; it gets one all the same."""
        from usersync_cli.sources.workos import creation

        return creation.create(self._api, new, attempt)

    def _check(self, stream: str) -> None:
        if stream not in NAMES:
            raise Drift(f"source {self._name} has no stream {stream}", hint=f"its streams: {', '.join(NAMES)}")
