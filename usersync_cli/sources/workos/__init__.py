"""The source `workos`: an environment of WorkOS, kept by its log of events. What the engine asks for is here; the rest is private."""

from usersync_cli.sources import DocumentPort
from usersync_cli.sources.workos.place import log_place
from usersync_cli.sources.workos.settings import Settings
from usersync_cli.sources.workos.source import Source
from usersync_cli.sources.workos.streams import NAMES
from usersync_cli.sources.workos.users import USERS

__all__ = ["PORT"]

PORT = DocumentPort(Settings, Source, lambda _given: NAMES, place=log_place, users=USERS)
