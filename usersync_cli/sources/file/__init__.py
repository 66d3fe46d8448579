"""The source `file`: JSON Lines. What the engine asks for is here; the rest is private."""

from usersync_cli.sources.file.settings import FileStream, Settings, streams
from usersync_cli.sources.file.source import KIND, Source

__all__ = ["KIND", "FileStream", "Settings", "Source", "streams"]
