"""The source `klanten`: whose the ids are that usersync knows, as a running Klanten says. What the engine asks for is here; the rest is
private.
"""

from usersync_cli.sources import DocumentPort
from usersync_cli.sources.klanten.settings import Settings, streams_of
from usersync_cli.sources.klanten.source import Source

__all__ = ["PORT"]

PORT = DocumentPort(Settings, Source, streams_of, removes=False)
