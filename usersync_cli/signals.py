"""SIGTERM, SIGINT and SIGHUP: noted at once, acted on at the next safe point. Every wait of a run looks here."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from usersync_cli.errors import Stopped, Unavailable
from usersync_cli.patience import Patience


class Stop:
    """Why a run has to end early: a signal, or `--max-runtime`. One object for a process; safe to read from threads."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signum = 0
        self.heard = time.monotonic()  # when a server last gave a sign of life; a lease is renewed only while some do
        self.patience = Patience()  # with servers that do not answer; whoever begins a run gives it the job's
        self._deadline: float | None = None  # on the monotonic clock
        self._held = 0

    def install(self) -> Stop:
        """Set the handlers: the first thing a command does. PID 1 has none by default and would ignore SIGTERM.

        SIGHUP is the terminal that went away; under nohup, which ignores it, a run goes on.
        """
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._note)
        return self

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        self.event.set()

    def limit(self, seconds: float | None) -> None:
        """End the run after this many seconds; None takes the limit away."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        """A safe point: raises Stopped after a signal, Unavailable past `--max-runtime`."""
        if self._held:
            return
        if self.signum:
            raise Stopped(self.signum)
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise Unavailable(
                "the run took longer than --max-runtime; what was committed stays, the rest was rolled back",
                hint="the next run does the rest; raise --max-runtime if this happens every time",
            )

    def wanted(self) -> bool:
        """Whether somebody wants us to end, also in a critical section."""
        return bool(self.signum) or (self._deadline is not None and time.monotonic() > self._deadline)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A critical section, such as COMMIT: whoever wants to stop us waits until it is over."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def sleep(self, seconds: float) -> None:
        """Wait, but not past a signal or the limit. Who waits on purpose is alive."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            self.heard = time.monotonic()
            if self.event.wait(min(left, 0.5)) and self._held:
                time.sleep(min(left, 0.05))
