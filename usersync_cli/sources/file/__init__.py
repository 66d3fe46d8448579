"""The source `file`: JSON Lines. What the engine asks for is here; the rest is private."""

from usersync_cli.sources.file.source import KIND, FileStream, Settings, Source, streams

__all__ = ["KIND", "FileStream", "Settings", "Source", "streams"]
