"""How long a run waits for servers that do not answer: one budget for all its requests, streams and threads.

What counts are seconds of the clock in which requests failed, were repeated, or were held back after a refusal; several
at once count once. A server that is slow and answers costs nothing, nor does a wait that a rate limit plans.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

SECONDS = 60.0  # for `check` and commands that somebody waits for; a job has its own, `max_wait`
SILENCE = 10.0  # seconds without an answer, after which it is reported that one is waited for


class Patience:
    """A run's, or that of a command that somebody waits for: `tell` is called with a line for them."""

    def __init__(self, seconds: float = SECONDS, tell: Callable[[str], None] | None = None) -> None:
        self.seconds = seconds
        self.tell = tell
        self._lock = threading.Lock()
        self._spent = 0.0
        self._counted = 0.0  # up to when, on the monotonic clock
        self._lent: dict[str, float] = {}  # by servers that were only too busy: given back when they answer
        self._silent: set[str] = set()  # whose last answer was none
        self._given_up: set[str] = set()

    def of(self, server: str) -> Share:
        """What there is for a server, by the name that messages give it."""
        return Share(self, server)

    def left(self, server: str) -> float:
        """Seconds. Whoever answered last is not made to pay for the others: their first failure may take as long as any."""
        with self._lock:
            if server not in self._silent:
                return self.seconds
            return 0.0 if server in self._given_up else max(self.seconds - self._spent, 0.0)

    def spend(self, server: str, since: float, *, lent: bool) -> None:
        """Count the time from `since` on the monotonic clock until now."""
        with self._lock:
            now = time.monotonic()
            took = max(now - max(since, self._counted), 0.0)
            self._spent, self._counted = self._spent + took, now
            self._silent.add(server)
            if lent:
                self._lent[server] = self._lent.get(server, 0.0) + took

    def give_up(self, server: str) -> None:
        """Another pause is more than there is."""
        with self._lock:
            self._given_up.add(server)

    def answered(self, server: str) -> None:
        if server in self._silent:
            with self._lock:
                self._silent.discard(server)
                self._given_up.discard(server)
                self._spent -= self._lent.pop(server, 0.0)


@dataclass(frozen=True)
class Share:
    """One server's part of it, which is all of it."""

    patience: Patience
    server: str

    @property
    def left(self) -> float:
        """Seconds for which this server may still be waited for."""
        return self.patience.left(self.server)

    def spend(self, since: float, *, lent: bool = False) -> None:
        """It did not answer from `since` until now; `lent` when it only was too busy."""
        self.patience.spend(self.server, since, lent=lent)

    def give_up(self, pause: float) -> bool:
        """Whether so many seconds are more than there is; then the server is not asked any more."""
        if over := pause >= self.left:
            self.patience.give_up(self.server)
        return over

    def answered(self) -> None:
        """Called with every answer, so it does next to nothing when all is well."""
        self.patience.answered(self.server)

    @property
    def over(self) -> str:
        """What an error's hint says when nothing is left."""
        mine = "a command waits no longer" if self.patience.tell else "max_wait says so"
        return f"{self.patience.seconds:,.0f} s in all were spent on servers that do not answer ({mine})"

    def tell(self, line: str) -> None:
        """Let the person who waits know, if somebody does."""
        if self.patience.tell:
            self.patience.tell(f"usersync: {self.server} {line}")
