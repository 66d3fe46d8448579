"""An open Klanten: whose the ids are that usersync knows, which ids it does not know, and whether it accepts the key."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from usersync_cli.errors import ConfigError, Drift, Unavailable
from usersync_cli.model import KeptOut
from usersync_cli.ports import CanLook, DocumentSession, KeepsOut, LeavesOut, ReadsTogether
from usersync_cli.sources.klanten.asking import Asking
from usersync_cli.sources.klanten.settings import place_of
from usersync_cli.sources.klanten.walk import Walk, place_in

if TYPE_CHECKING:
    from usersync_cli.clients.klanten.api import Klanten
    from usersync_cli.model import Cursor, Page, Stream
    from usersync_cli.sources.klanten.settings import Settings

PROBE = "usersync-check"  # an id that nobody has: the key is looked at before the id


class Session(ReadsTogether, CanLook, LeavesOut, KeepsOut, DocumentSession):
    """A Klanten as one key shows it. It has no list: each id is asked for, and what a customer has besides comes along."""

    def __init__(self, name: str, settings: Settings, klanten: Klanten) -> None:
        self._name, self._settings, self._klanten = name, settings, klanten
        self._walk: Walk | None = None
        self.account = place_of(settings.url)

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Generator[Page, None, None]:
        """What Klanten has of all ids that usersync knows, or of those behind the place where a reading was interrupted.

        Raises ConfigError for the key, Unavailable for an outage, Drift for answers of another shape.
        """
        apps = [self._app(stream.name) for stream in streams]
        place = place_in(streams, since)
        had = [*self._settings.known.items(), *(place.known if place else ())]
        asking = Asking(self._klanten, self._settings.workers, apps, had)
        self._walk = Walk(asking, self._settings.streams, streams, place)
        yield from self._walk.pages()

    def look(self, stream: str) -> str:
        """Whether the key is accepted, and whether Klanten has the id that `known` names of the app."""
        app = self._app(stream)
        answer = self._klanten.look_up(app, PROBE)
        if id_ := self._settings.known.get(app):
            return self._look_at_known(app, id_)
        if answer.page:
            return "an answer came, a 404 with a page: whether url is right shows when an id that it has is asked for"
        if answer.doubtful:
            return "an answer came, a 500: it answers so to unknown ids, or is out of order; `known` would tell"
        return "its key is accepted"

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many ids Klanten does not know, and how many it could not be asked for."""
        if not self._walk:
            return {}
        found = {
            "unknown at the source": sum(map(len, self._walk.unknown.values())),
            "unfit to be asked for": sum(map(len, self._walk.misfits.values())),
        }
        return {what: number for what, number in found.items() if number}

    def kept_out(self, stream: str) -> Mapping[str, KeptOut]:
        """Ids of which nothing is said: what is known of them stays."""
        if not self._walk:
            return {}
        unknown, misfits = self._walk.unknown.get(stream, ()), self._walk.misfits.get(stream, ())
        return dict.fromkeys(unknown, KeptOut("unknown")) | dict.fromkeys(misfits, KeptOut("does_not_fit"))

    def _look_at_known(self, app: str, id_: str) -> str:
        answer = self._klanten.look_up(app, id_)
        if answer.doubtful:
            raise Unavailable(f"source {self._name} answers 500, also for an id that it has (`known`)", hint="try again later")
        if not answer.customer:
            raise ConfigError(
                f"source {self._name} does not have the id of app {app} that `known` names", hint="fix it, or url, in the source's settings"
            )
        return "its key is accepted, and it has the id that `known` names"

    def _app(self, stream: str) -> str:
        if stream not in self._settings.streams:
            raise Drift(f"source {self._name} has no stream {stream}", hint=f"its streams: {', '.join(self._settings.streams)}")
        return self._settings.streams[stream]
