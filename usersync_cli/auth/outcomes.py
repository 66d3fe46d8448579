"""A request to a token endpoint: how long it may take, and how it may end other than with a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from usersync_cli.errors import LoginRequired, Unavailable, UsersyncError
from usersync_cli.model import Token

Refresh = Callable[[str], Token]
"""One POST with this refresh token, which is never repeated by itself. Raises NotSent, Unknown, InvalidGrant or ConfigError."""

POST_SECONDS = 30.0  # how long one request may take, all in all: one that is given up may cost the login


class NotSent(Unavailable):
    """The request failed before its body was sent: the token is not spent."""


class UnknownOutcome(Unavailable):
    """No usable answer came: the token may be spent.

    `pending`: the endpoint may still be at work on it, so that asking again would spend it twice. `later` is what it
    asked for by Retry-After, in seconds.
    """

    def __init__(self, message: str, *, hint: str = "", pending: bool = False, later: float = 0) -> None:
        super().__init__(message, hint=hint)
        self.pending, self.later = pending, later


class InvalidGrant(UsersyncError):
    """The endpoint says that this token or code is no good."""

    status: ClassVar[int] = LoginRequired.status
