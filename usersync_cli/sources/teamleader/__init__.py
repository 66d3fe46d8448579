"""The source `teamleader`: the CRM Teamleader Focus. What the engine asks for is here; the rest is private."""

from usersync_cli.sources import DocumentPort, Login
from usersync_cli.sources.teamleader.contacts_csv import CONTACTS
from usersync_cli.sources.teamleader.resources import STREAMS
from usersync_cli.sources.teamleader.settings import Settings, oauth
from usersync_cli.sources.teamleader.source import Source, account

__all__ = ["PORT"]

PORT = DocumentPort(Settings, Source, lambda _given: STREAMS, Login(oauth, account), exports=[CONTACTS])
