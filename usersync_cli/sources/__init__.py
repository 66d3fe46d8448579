"""The systems that are read: a file or folder for each, found by its name. README.md says how to write one; `postgres`, `file`,
`fineract`, `klanten`, `teamleader` and `workos` are those that there are.

Each has a `PORT`, which is all that the engine looks at: a `TabularPort` or a `DocumentPort`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

    from usersync_cli.auth.oauth import OAuthClient
    from usersync_cli.model import Cursor
    from usersync_cli.ports import DocumentSource, TabularSource
    from usersync_cli.shapes import ExportShape, LogPlace, UsersShape

S = TypeVar("S", bound="BaseModel")


@dataclass(frozen=True)
class TabularPort(Generic[S]):
    """What a source of tables and queries is made of."""

    settings: type[S]  # what the config file says of it; extra="forbid", and `type` is the name of its file or folder
    source: Callable[[str, S], TabularSource]  # from its name in the config file and its settings; contacts nothing
    url: Callable[[S], str]  # of its database: the setting `url`


@dataclass(frozen=True)
class Login(Generic[S]):
    """How a person lets usersync into a source, by OAuth 2."""

    client: Callable[[S], OAuthClient]  # the integration, as it asks for tokens
    account: Callable[[S, str], str]  # whose data an access token opens; raises Unavailable when it can't be asked now


@dataclass(frozen=True)
class DocumentPort(Generic[S]):
    """What a source of documents is made of."""

    settings: type[S]  # what the config file says of it; extra="forbid", and `type` is the name of its file or folder
    source: Callable[[str, S], DocumentSource]  # from its name in the config file and its settings; contacts nothing
    streams: Callable[[Mapping[str, Any]], Sequence[str]]  # those that it has, by its part of the config file, which may have mistakes
    login: Login[S] | None = None  # None: nobody has to authorise it
    place: Callable[[Cursor], LogPlace | None] = lambda _cursor: None  # where a stored cursor stands in its log; None: nobody can tell
    exports: Sequence[ExportShape] = ()  # streams that `usersync export` writes in columns of their own
    users: UsersShape | None = None  # the stream of people who sign in, for `usersync users`
    removes: bool = True  # False: what it does not list has not left, so a step's `on_missing` is `keep`, and can't be anything else


Port: TypeAlias = TabularPort[Any] | DocumentPort[Any]
