"""Calls for many people at the same time: each person's in their order, each outcome written down before the next one.

Only the calls are made on other threads. Outcomes are written down on ours, so one connection to the database is enough.
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
PATIENCE = 15.0  # seconds that calls in flight may still take when the run has to end


class Caller(Protocol):
    """Knows the calls for each person, and writes their outcomes down."""

    def calls(self, intent: Intent) -> Calls: ...

    def failed(self, intent: Intent, error: UsersyncError) -> None:
        """A call of this person's failed, and their calls end there. Raises where those of others would fail too."""
        ...


def run(caller: Caller, waiting: Iterator[Intent], *, workers: int, stop: Stop, check: Callable[[], None]) -> None:
    """Make the calls of all who wait. At a signal, calls in flight still end and are written down, nobody else's are begun, and it raises.

    `check` is asked before each round and raises when the job is no longer ours. At most `workers` calls are in flight.
    """
    with stop.held(), _InFlight(caller, workers, stop) as in_flight:
        while not stop.wanted():
            check()
            while in_flight.room() and (intent := next(waiting, None)):
                in_flight.begin(intent)
            if not in_flight:
                break
            in_flight.take_up()
    stop.check()


class _InFlight:
    """The people who have a call in flight. Leaving the context waits PATIENCE seconds for those calls, and has them written down."""

    def __init__(self, caller: Caller, workers: int, stop: Stop) -> None:
        self._caller, self._workers, self._stop = caller, workers, stop
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
        """Start the first call for this person."""
        self._go_on(intent, self._caller.calls(intent), None, None)

    def take_up(self, *, last: bool = False) -> None:
        """Wait up to POLL seconds for calls to end. Each is written down, and followed by its person's next one unless it is the `last`."""
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
            self._caller.failed(intent, problem)
            return
        if last:
            calls.close()
        else:
            self._people[self._pool.submit(call)] = (intent, calls)
