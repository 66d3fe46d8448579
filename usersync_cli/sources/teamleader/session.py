"""An open account of Teamleader: which stream is read from where, and the parts that read it."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from usersync_cli import log
from usersync_cli.errors import Drift
from usersync_cli.ports import CanLook, DocumentSession, HasDetails, TellsWhoIsGone
from usersync_cli.sources.teamleader.absent import Absent
from usersync_cli.sources.teamleader.api import Api
from usersync_cli.sources.teamleader.details import Details
from usersync_cli.sources.teamleader.owed import Owed
from usersync_cli.sources.teamleader.place import Place, Walk
from usersync_cli.sources.teamleader.resources import NEW_PROJECTS, RESOURCES
from usersync_cli.sources.teamleader.shapes import as_moment, as_text
from usersync_cli.sources.teamleader.walk import MetOnWalk, Walker

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import Client
    from usersync_cli.model import Cursor, Page, Record, Stream
    from usersync_cli.signals import Stop
    from usersync_cli.sources.teamleader.resources import Resource
    from usersync_cli.sources.teamleader.settings import Settings

OVERLAP = timedelta(minutes=15)  # a change may become visible late, and clocks behind one address differ
BLIND = timedelta(hours=1)  # the same, where nothing shows when a record was changed, so that no clock but that of Date is known


class Session(HasDetails, TellsWhoIsGone, CanLook, DocumentSession):
    """An account, and the time there when it was opened. Each stream is read by itself."""

    def __init__(self, name: str, settings: Settings, client: Client, stop: Stop) -> None:
        self._name, self._settings = name, settings
        self._api = Api(name, client, stop, settings.workers)
        self.account, self._now = self._api.me()
        self._projects: Resource | None = None
        self._owed = Owed()
        self._details = Details(self._api, self._owed)
        self._absent = Absent(self._api, self._details, self._owed)
        full = settings.detail == "full"
        self._detailed = {stream for stream, resource in RESOURCES.items() if full and not resource.whole}

    @property
    def detailed(self) -> Collection[str]:
        """The streams whose whole documents are read one by one."""
        return self._detailed

    @property
    def owed(self) -> Collection[str]:
        """Keys of the stream that is being read whose document could not be had."""
        return self._owed.documents

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Generator[Page, None, None]:
        """Each stream's pages of 100, from the last to the first: all of them, or what changed since its cursor.

        Raises Unavailable for an answer that can't be, ConfigError for a scope that is missing.
        """
        for stream in streams:
            yield from self._pages(stream, Place.of(since.get(stream.name)))

    def _pages(self, stream: Stream, before: Place | None) -> Iterator[Page]:
        resource = self._resource(stream.name)
        place = Place(resource.path, self._settings.detail)
        if before and (before.path, before.detail) == (place.path, place.detail):
            place = before
        walk = place.walk or self._begin(stream.name, place, anew=before is not None and place is not before)
        earlier = [key for keys in stream.listed() for key in keys] if place.walk and walk.sweep else []
        self._owed.clear()
        met = MetOnWalk(earlier, blind=walk.page is not None and not earlier)
        yield from Walker(self._api, resource, place, self._absent, self._owed).pages(walk, met)

    def _begin(self, stream: str, place: Place, *, anew: bool) -> Walk:
        """What there is to read now. `anew`: what is loaded is of another kind, however much of it is listed as before."""
        resource = self._resource(stream)
        # What neither list nor time stamp shows; where there is a time stamp, that is little.
        every = self._settings.details_every if resource.versioned else self._settings.full_every
        whole = anew or (stream in self._detailed and self._is_old(place.whole, every))
        ahead = any(moment and as_moment(moment) > self._now + OVERLAP for moment in (place.until, place.swept, place.whole))
        if ahead:
            log.get().warning("cursor is ahead of Teamleader's clock; everything is listed", stream=stream)
        if whole or ahead or not resource.since or not place.until or self._is_old(place.swept, self._settings.full_every):
            return Walk(sweep=uuid.uuid4().hex, whole=whole)
        return Walk(since=as_text(as_moment(place.until) - (OVERLAP if place.newest else BLIND)))

    def _is_old(self, moment: str, every: timedelta) -> bool:
        return not moment or as_moment(moment) + every <= self._now

    def details(self, stream: str, keys: Sequence[str]) -> Iterator[Record]:
        """Whole documents, several requests at a time. A record that was deleted since its listing comes as deleted, after two looks."""
        return self._details.read(self._resource(stream), keys)

    def gone(self, stream: str, keys: Sequence[str]) -> Collection[str]:
        """Keys that a list of just these lacks, and that .info does not know at two moments: each may be wrong, or leave some out."""
        return self._absent.gone(self._resource(stream), keys)

    def look(self, stream: str) -> str:
        """Whether it may be listed, in one request."""
        resource = self._resource(stream)
        self._api.listed(resource, {"page": {"size": 1, "number": 1}} if resource.paged else {})
        return f"{resource.path}.list answers"

    def _resource(self, stream: str) -> Resource:
        if stream not in RESOURCES:
            raise Drift(f"source {self._name} has no stream {stream}", hint=f"its streams: {', '.join(RESOURCES)}")
        if stream != "projects":
            return RESOURCES[stream]
        if self._projects is None:
            self._projects = self._module()
        return self._projects

    def _module(self) -> Resource:
        """An account has either the legacy projects or the new ones."""
        which: str = self._api.module() if self._settings.projects == "auto" else self._settings.projects
        known = {"legacy": RESOURCES["projects"], "v2": NEW_PROJECTS, "projects-v2": NEW_PROJECTS}
        if which not in known:
            raise Drift(
                f"source {self._name}: accounts.projects-v2-status says neither legacy nor projects-v2",
                hint="say `projects: legacy` or `projects: v2` in the source's settings",
            )
        return known[which]
