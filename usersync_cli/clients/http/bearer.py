"""The bearer token of an API, which all threads of a client use: renewed when its time is over, and when the API refuses it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from usersync_cli.clients.http.responses import Reply
from usersync_cli.errors import LoginRequired
from usersync_cli.model import Access

RENEWALS = 2  # for one request: more of those that are refused at once won't help
POLL_SECONDS = 0.1


class Bearer:
    """A token that one thread at a time asks for.

    `ask(after)` gives one of a newer generation than `after`: called with 0 first, with g after a 401 with generation g. It
    raises LoginRequired when a newer one would not help. `hint` says what a person does then. `renewals` is how many newer
    tokens one request may cost.
    """

    def __init__(self, ask: Callable[[int], Access], *, hint: str = "", renewals: int = RENEWALS) -> None:
        self.hint = hint
        self._ask, self._renewals = ask, renewals
        self._lock = threading.Lock()
        self._access: Access | None = None
        self._refused = 0  # the newest generation that the API did not take

    def send(self, send: Callable[[str], Reply], check: Callable[[], None], what: Callable[[Reply], str]) -> Reply:
        """The reply that `send` gets with a token, sent again with newer ones while it is 401; the last one's 401 is the caller's.

        `check` raises to end the wait for another thread. `what` says what a reply was, for the message of LoginRequired.
        """
        access = self.access(check)
        reply = send(access.token)
        for _ in range(self._renewals):
            if reply.status != 401:
                break
            access = self._newer(access, check, what(reply))
            reply = send(access.token)
        return reply

    def access(self, check: Callable[[], None]) -> Access:
        """A token that is good as far as we know."""
        with self._alone(check):
            if self._access is None or time.monotonic() >= self._access.until:
                self._access = self._ask(self._refused)
            return self._access

    def _newer(self, refused: Access, check: Callable[[], None], what: str) -> Access:
        """Another one than this. Raises LoginRequired when there is none that could help."""
        with self._alone(check):
            if self._access and self._access.generation > refused.generation:
                return self._access
            again, self._refused = self._refused > 0, refused.generation
            try:
                self._access = self._ask(refused.generation)
            except LoginRequired as error:
                message = f"{what}, with a new token too: {error.message}" if again else error.message
                raise LoginRequired(message, hint=error.hint) from error
            if self._access.generation <= refused.generation:
                raise LoginRequired(f"{what}, and there is no newer token", hint=self.hint)
            return self._access

    def settle(self) -> None:
        """Wait for the thread that is asking: a token that comes and is not kept would be lost."""
        with self._lock:
            pass

    @contextmanager
    def _alone(self, check: Callable[[], None]) -> Iterator[None]:
        while not self._lock.acquire(timeout=POLL_SECONDS):
            check()
        try:
            check()
            yield
        finally:
            self._lock.release()
