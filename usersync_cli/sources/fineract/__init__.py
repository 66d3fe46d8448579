"""The source `fineract`: the users and roles of an Apache Fineract. What the engine asks for is here; the rest is private."""

from usersync_cli.sources import DocumentPort
from usersync_cli.sources.fineract.session import STREAMS
from usersync_cli.sources.fineract.settings import Settings
from usersync_cli.sources.fineract.source import Source

__all__ = ["PORT"]

PORT = DocumentPort(Settings, Source, lambda _given: STREAMS)
