"""Calls for many people at the same time: each person's in their order, each outcome written down before the next call."""

from __future__ import annotations

import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from usersync_cli.errors import Stopped, Unavailable, UsersyncError
from usersync_cli.signals import Stop
from usersync_cli.state import dispatch
from usersync_cli.state.dispatch import Calls
from usersync_cli.state.outbox import Intent


class Recorder:
    """Knows three calls for each person, and writes down what came back, with the thread that did so."""

    def __init__(self, call: Callable[[str, int], Any]) -> None:
        self._call = call
        self.written: dict[str, list[Any]] = defaultdict(list)
        self.refused: dict[str, UsersyncError] = {}
        self.threads: set[threading.Thread] = set()
        self.wrote = threading.Event()

    def calls(self, intent: Intent) -> Calls:
        for number in (1, 2, 3):
            outcome = yield partial(self._call, intent.key, number)
            self.threads.add(threading.current_thread())
            self.written[intent.key].append(outcome)
            self.wrote.set()

    def failed(self, intent: Intent, error: UsersyncError) -> None:
        self.threads.add(threading.current_thread())
        self.refused[intent.key] = error


def people(*names: str) -> Iterator[Intent]:
    return (Intent(number, name, "update", None, {}) for number, name in enumerate(names))


def run(
    caller: Recorder, names: Sequence[str], *, workers: int = 2, stop: Stop | None = None, check: Callable[[], None] = lambda: None
) -> None:
    dispatch.run(caller, people(*names), workers=workers, stop=stop or Stop(), check=check)


def test_outcomes_are_written_down_in_order_and_here() -> None:
    """
    Each person's calls are made one after the other, and every outcome is written down on the thread that runs the step.
    """
    calls = Recorder(lambda name, number: (name, number))

    run(calls, ["ann", "bob", "cleo"])

    assert {name: [(name, 1), (name, 2), (name, 3)] for name in ("ann", "bob", "cleo")} == calls.written
    assert {threading.current_thread()} == calls.threads


def test_no_more_calls_at_a_time_than_workers() -> None:
    """
    As many calls as there are workers are in flight at the same time, and no more.
    """
    inside, most, together = [0], [0], threading.Barrier(2, timeout=5)
    lock = threading.Lock()

    def call(_name: str, _number: int) -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        together.wait()
        with lock:
            inside[0] -= 1

    run(Recorder(call), ["ann", "bob", "cleo", "dan"], workers=2)

    assert [2] == most


def test_a_failure_ends_one_persons_calls() -> None:
    """
    A call that fails ends its person's calls and is reported; all others go on.
    """

    def call(name: str, number: int) -> int:
        if name == "bob":
            raise Unavailable("no answer")
        return number

    calls = Recorder(call)
    run(calls, ["ann", "bob", "cleo"])

    assert {"ann": [1, 2, 3], "cleo": [1, 2, 3]} == calls.written
    assert ["bob"] == list(calls.refused)


def test_a_signal_lets_calls_end_and_begins_nobody() -> None:
    """
    At a signal, what is in flight ends and is written down, the person's other calls are not made, nobody else's are begun.
    """
    stop, both = Stop(), threading.Barrier(2, timeout=5)
    made: dict[str, list[int]] = defaultdict(list)

    def call(name: str, number: int) -> int:
        made[name].append(number)
        if number == 1:
            both.wait()
            stop.signum = signal.SIGTERM
        if name == "bob":
            calls.wrote.wait(5)  # so that it is in flight when the signal is looked at
        return number

    calls = Recorder(call)
    with pytest.raises(Stopped):
        run(calls, ["ann", "bob", "cleo"], workers=2, stop=stop)

    assert {"ann", "bob"} == made.keys()
    assert made == calls.written
    assert 3 not in (*made["ann"], *made["bob"])


def test_a_job_that_is_not_ours_any_more_stops() -> None:
    """
    What `check` raises ends the run in the same way.
    """
    made: list[tuple[str, int]] = []

    def call(name: str, number: int) -> tuple[str, int]:
        made.append((name, number))
        return name, number

    def check() -> None:
        if made:
            raise Unavailable("the job was taken over")

    calls = Recorder(call)
    with pytest.raises(Unavailable, match="taken over"):
        run(calls, ["ann", "bob", "cleo"], workers=1, check=check)

    assert {"ann": made} == calls.written
    assert ("ann", 3) not in made
