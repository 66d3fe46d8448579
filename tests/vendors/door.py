"""A source that a person authorises, for the tests of that alone: it has one stream, and reads nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from usersync_cli.auth.oauth import OAuthClient
from usersync_cli.errors import Unavailable
from usersync_cli.model import Cursor, Documents, Page, Stream
from usersync_cli.ports import BringsTransform, DocumentSession, DocumentSource, Tools
from usersync_cli.sources import DocumentPort, Login

owner: Callable[[str], str | None] = lambda _token: None  # noqa: E731  a test puts its vendor here


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["door"]
    url: str
    client_secret: str
    redirect_uri: str


def oauth(settings: Settings) -> OAuthClient:
    return OAuthClient(f"{settings.url}/authorize", f"{settings.url}/access_token", "client", settings.client_secret, settings.redirect_uri)


def account(settings: Settings, access_token: str) -> str:
    if (found := owner(access_token)) is None:
        raise Unavailable("door: does not know whose token this is")
    return found


@dataclass
class Session(DocumentSession):
    account: str

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Generator[Page, None, None]:
        yield Page(Documents([]), {}, complete=True, streams=[stream.name for stream in streams])


@dataclass
class Source(BringsTransform, DocumentSource):
    name: str
    settings: Settings

    def transform(self, stream: str) -> str:
        return "SELECT key FROM records"

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Session]:
        assert tools.tokens
        access = tools.tokens.access(self.name, oauth(self.settings).refresh)
        yield Session(account(self.settings, access.token))


PORT = DocumentPort(Settings, Source, lambda _given: ["guests"], Login(oauth, account))
