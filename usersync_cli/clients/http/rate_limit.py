"""How many requests may go out: our own sliding window, corrected by what the server's headers say."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import count

from usersync_cli import log
from usersync_cli.errors import Unavailable
from usersync_cli.patience import Share

LEAST = 1.0  # seconds before anything goes out again after a refusal, whatever its headers say
LOOK_AGAIN = 0.5  # seconds: meanwhile another thread's reply may have changed the picture
SOON = 0.05  # seconds: a reply is on its way
WORTH_TELLING = 1.0  # seconds: shorter waits are not logged


@dataclass(eq=False)
class Slot:
    """One request in the window. It counts until a window after its *reply*: the server counted it some time before that."""

    number: int
    frees: float = math.inf  # on the clock; infinite while the request is on its way


class RateLimit:
    """A sliding window of `most` requests, for all threads and clients that share this object.

    Without `most` nothing waits until the server says so: X-RateLimit-Limit, -Remaining and -Reset (ISO 8601) on any
    reply, 429, Retry-After (seconds or a date). Its times are read against its own Date: clocks may be minutes apart.
    A Reset can't be further away than the window, so one that says so is cut to it; a Retry-After is taken at its word.
    Unless `raised`, a server that allows more than `most` gets no more than that.
    """

    def __init__(
        self,
        most: int | None = None,
        window: timedelta = timedelta(minutes=1),
        *,
        raised: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._ceiling = math.inf if raised or most is None else most
        self._window = window.total_seconds()
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._slots: list[Slot] = []
        self._closed = -math.inf  # nothing goes out before this
        self._others = 0  # requests in the server's window that are not ours: other processes, a run just before
        self._others_free = math.inf  # when the first of these leaves it
        self._others_end = math.inf  # when all of them have
        self._newest = 0  # the number of the request that told the most recent truth
        self._told = -math.inf  # until when a wait was logged

    @contextmanager
    def slot(self, sleep: Callable[[float], None], until: float, share: Share | None = None) -> Iterator[Slot]:
        """A place for one request, waited for with `sleep`. Raises Unavailable when that would take longer than `until`, or
        when a refusal asks for a longer wait than `share` has left; such a wait is spent, one that was planned is not."""
        while isinstance(place := self._take(until, share), float):
            began = time.monotonic()
            sleep(min(place, LOOK_AGAIN))
            if share and self._is_refused():
                share.spend(began, lent=True)
        try:
            yield place
        finally:
            place.frees = self._clock() + self._window

    def learn(self, slot: Slot, status: int, headers: Mapping[str, str]) -> None:
        """Take over what a reply says. Whoever refuses with 429 has no place left, whatever else it says."""
        now, date = self._clock(), moment(headers.get("Date", "")) or datetime.now(UTC)
        limit, remaining = _number(headers, "X-RateLimit-Limit"), _number(headers, "X-RateLimit-Remaining")
        reset, retry = _reset(headers), retry_after(headers)
        # A date has whole seconds, cut off: the wait comes out a little too long, never too short.
        away = min(max((reset - date).total_seconds(), 0), self._window + 1) if reset else LEAST
        with self._lock:
            self._most = int(min(max(limit, 1), self._ceiling)) if limit is not None else self._most
            if status == 429:
                remaining = 0
                self._closed = max(self._closed, now + max(away, LEAST))
            if retry is not None and status >= 400:
                self._closed = max(self._closed, now + max(retry, LEAST))
            if self._most is not None and remaining is not None and slot.number > self._newest:
                self._newest = slot.number
                ours = sum(one.number <= slot.number for one in self._slots)
                self._others = max(0, self._most - remaining - ours)
                self._others_free, self._others_end = now + away, now + self._window

    def _is_refused(self) -> bool:
        return self._closed > self._clock()

    def _take(self, until: float, share: Share | None) -> Slot | float:
        """A slot; or in how many seconds to ask again."""
        with self._lock:
            now = self._clock()
            self._slots = [slot for slot in self._slots if slot.frees > now]
            if (free := self._free(now)) <= now:
                self._slots.append(slot := Slot(next(self._numbers)))
                return slot
            if free == math.inf:  # all are on their way
                free = now + SOON
            left = share.left if share else math.inf
            if share and free == self._closed and share.give_up(free - now):
                raise Unavailable(
                    f"{share.server} asks to wait {free - now:,.0f} seconds, and is waited for no longer than {left:,.0f}",
                    hint=f"what was read is kept; the next run goes on from there; {share.over}",
                )
            if free > until:
                raise Unavailable(
                    f"the next request may go in {free - now:,.0f} seconds only: longer than a call may take",
                    hint="what was read is kept; the next run goes on from there",
                )
            self._tell(free, free - now)
            return free - now

    def _tell(self, free: float, seconds: float) -> None:
        """Threads that wait for the same moment tell it once."""
        if seconds >= WORTH_TELLING and free > self._told + WORTH_TELLING:
            self._told = free
            log.get().info("waiting for rate limit", seconds=math.ceil(seconds))

    def _free(self, now: float) -> float:
        """When the next request may go."""
        if now >= self._others_end:
            self._others = 0
        if self._most is None or len(self._slots) + self._others < self._most:
            return self._closed
        if self._others and now >= self._others_free:
            # One of them has left; the reply to the one that goes instead says how many are there now.
            self._others -= 1
            self._others_free = now + LEAST
            return max(self._closed, self._free(now))
        theirs = self._others_free if self._others else math.inf
        return max(self._closed, min([theirs, *(slot.frees for slot in self._slots)]))


def moment(text: str) -> datetime | None:
    """A date of HTTP (Date, Retry-After), in UTC; None where it is none."""
    with suppress(ValueError):
        found = parsedate_to_datetime(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    return None


def _reset(headers: Mapping[str, str]) -> datetime | None:
    """ISO 8601; the offset may have no colon. Without an offset it says nothing."""
    with suppress(ValueError):
        reset = datetime.fromisoformat(headers.get("X-RateLimit-Reset", ""))
        return reset if reset.tzinfo else None
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, given as such or as a date, which is read against the server's own clock."""
    if (seconds := _number(headers, "Retry-After")) is not None:
        return float(seconds)
    until, now = moment(headers.get("Retry-After", "")), moment(headers.get("Date", "")) or datetime.now(UTC)
    return max((until - now).total_seconds(), 0) if until else None


def _number(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
