"""The source `file`: JSON Lines. What the engine asks for is named here; the rest is private to the folder."""

from usersync_cli.sources.file.source import KIND, FileStream, Settings, Source, streams

__all__ = ["KIND", "FileStream", "Settings", "Source", "streams"]
