"""The source `teamleader`: the CRM Teamleader Focus. What the engine asks for is named here; the rest is private to the folder."""

from usersync_cli.sources.teamleader.source import KIND, STREAMS, Settings, Source, account, oauth

__all__ = ["KIND", "STREAMS", "Settings", "Source", "account", "oauth"]
