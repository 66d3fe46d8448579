"""Calls for many people at the same time: each person's in their order, each outcome written down before the next one.

Only the calls are made on other threads. Who writes down runs on ours, so one connection to the database is enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from concurrent import futures
from typing import Any, Protocol, Self, TypeAlias

from usersync_cli.errors import UsersyncError
from usersync_cli.signals import Stop
from usersync_cli.state.outbox import Intent

Calls: TypeAlias = Generator[Callable[[], Any], Any, None]
"""One person's calls: what each gives or raises goes back in, and is written down before the next one comes out."""

POLL = 0.1  # seconds between two looks at the signal and the lease
PATIENCE = 15.0  # seconds in which what is on its way may still end, when the run has to


class Desk(Protocol):
    """Who knows the calls, and writes down."""

    def calls(self, intent: Intent) -> Calls: ...

    def failed(self, intent: Intent, error: UsersyncError) -> None:
        """A call of this person's failed, and their calls end there. Raises where those of others would fail too."""
        ...


def run(desk: Desk, waiting: Iterator[Intent], *, workers: int, stop: Stop, check: Callable[[], None]) -> None:
    """Until nobody is left. A signal lets the calls that are on their way end, and be written down, and starts no other."""
    with stop.held(), _OnWay(desk, workers, stop) as on_way:
        while not stop.wanted():
            check()
            while on_way.room() and (intent := next(waiting, None)):
                on_way.begin(intent)
            if not on_way:
                break
            on_way.take_up()
    stop.check()


class _OnWay:
    """Who has a call on its way. Leaving waits for those, and has them written down."""

    def __init__(self, desk: Desk, workers: int, stop: Stop) -> None:
        self._desk, self._workers, self._stop = desk, workers, stop
        self._pool = futures.ThreadPoolExecutor(workers, thread_name_prefix="calls")
        self._people: dict[futures.Future[Any], tuple[Intent, Calls]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        until = time.monotonic() + PATIENCE
        try:
            while self._people and time.monotonic() < until:
                self.take_up(last=True)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def __bool__(self) -> bool:
        return bool(self._people)

    def room(self) -> bool:
        return len(self._people) < self._workers

    def begin(self, intent: Intent) -> None:
        """The first call of this person."""
        self._go_on(intent, self._desk.calls(intent), None, None)

    def take_up(self, *, last: bool = False) -> None:
        """Wait a little for calls to end; each is written down, and followed by its person's next one, unless it is the `last`."""
        done, _ = futures.wait(self._people, POLL, futures.FIRST_COMPLETED)
        for future in done:
            intent, calls = self._people.pop(future)
            self._stop.heard = time.monotonic()
            error = future.exception()
            self._go_on(intent, calls, None if error else future.result(), error, last=last)

    def _go_on(self, intent: Intent, calls: Calls, given: Any, error: BaseException | None, *, last: bool = False) -> None:
        try:
            call = calls.throw(error) if error else calls.send(given)
        except StopIteration:
            return
        except UsersyncError as problem:
            self._desk.failed(intent, problem)
            return
        if last:
            calls.close()
        else:
            self._people[self._pool.submit(call)] = (intent, calls)
