"""The source `file`: JSON Lines. What the engine asks for is here; the rest is private."""

from usersync_cli.sources import DocumentPort
from usersync_cli.sources.file.settings import FileStream, Settings, streams
from usersync_cli.sources.file.source import Source

__all__ = ["PORT", "FileStream"]

PORT = DocumentPort(Settings, Source, streams)
