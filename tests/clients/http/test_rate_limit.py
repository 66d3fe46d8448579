"""The sliding window, on a clock that moves only when somebody waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from usersync_cli.clients.http.rate_limit import RateLimit
from usersync_cli.errors import Unavailable

NOW = datetime(2026, 2, 4, 16, 44, 33, tzinfo=UTC)  # the server's clock when ours is at 0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Caller:
    """Asks one after the other; each reply takes `takes` seconds."""

    def __init__(self, most: int | None, *, takes: float = 0.0, raised: bool = True) -> None:
        self.clock = Clock()
        self.limit = RateLimit(most, raised=raised, clock=self.clock)
        self._takes = takes

    def ask(self, status: int = 200, **headers: Any) -> float:
        """When the request went out. A header `X_Y` is X-Y; Date is the server's unless given."""
        with self.limit.slot(self.clock.sleep, self.clock.now + 300) as slot:
            went = self.clock.now
            self.clock.now += self._takes
            date = format_datetime(NOW + timedelta(seconds=self.clock.now), usegmt=True)
            self.limit.learn(slot, status, {"Date": date, **{name.replace("_", "-"): str(value) for name, value in headers.items()}})
        return went


def reset(seconds: float, offset: str = "+0100") -> str:
    """So many seconds after NOW, as the vendor writes it."""
    return f"{NOW + timedelta(hours=1, seconds=seconds):%Y-%m-%dT%H:%M:%S}.000{offset}"


def test_the_window_slides() -> None:
    """
    The next request after a full window goes when the first one leaves it, counted from its reply.
    """
    caller = Caller(3, takes=0.5)

    assert [0, 0.5, 1, 60.5, 61, 61.5, 121] == pytest.approx([caller.ask() for _ in range(7)])


def test_no_limit_is_known() -> None:
    """
    Without a limit, ours or the server's, nothing waits.
    """
    caller = Caller(None)

    assert [0] * 500 == [caller.ask() for _ in range(500)]


def test_the_server_says_what_the_limit_is() -> None:
    """
    X-RateLimit-Limit replaces the limit that we were given.
    """
    caller = Caller(200)
    caller.ask(X_RateLimit_Limit=2)

    assert [0, 60] == pytest.approx([caller.ask(), caller.ask()])


def test_our_own_limit_may_be_the_lower_one() -> None:
    """
    Where we mean to take only a part of what a server allows, it may lower that, and does not raise it.
    """
    caller = Caller(3, raised=False)

    assert [0, 0, 0, 60] == [caller.ask(X_RateLimit_Limit=1000, X_RateLimit_Remaining=900) for _ in range(4)]
    assert [60, 120, 120] == [caller.ask(X_RateLimit_Limit=2, X_RateLimit_Remaining=1) for _ in range(3)]


def test_what_others_use_is_taken_off() -> None:
    """
    Remaining tells how many requests are not ours: with none left, the next one goes at Reset.
    """
    caller = Caller(200)
    caller.ask(X_RateLimit_Remaining=1, X_RateLimit_Reset=reset(30))

    assert 0 == caller.ask(X_RateLimit_Remaining=0, X_RateLimit_Reset=reset(30))
    assert 30 == pytest.approx(caller.ask(X_RateLimit_Remaining=150, X_RateLimit_Reset=reset(60)))
    assert [30] * 100 == pytest.approx([caller.ask() for _ in range(100)])


def test_others_leave_the_window() -> None:
    """
    What was said of others is forgotten after a window, also when nothing newer is said.
    """
    caller = Caller(5)
    caller.ask(X_RateLimit_Remaining=0, X_RateLimit_Reset=reset(3))
    went = [caller.ask() for _ in range(5)]

    assert 3 == pytest.approx(went[0])
    assert sorted(went) == went
    assert went[-1] <= 61


REFUSED = {
    "reset": (429, {"X_RateLimit_Reset": reset(41)}, 41),
    "offset with a colon": (429, {"X_RateLimit_Reset": reset(41, "+01:00")}, 41),
    "reset absent": (429, {}, 1),
    "reset is no date": (429, {"X_RateLimit_Reset": "soon"}, 1),
    "reset without offset": (429, {"X_RateLimit_Reset": "2099-02-04T16:44:33"}, 1),
    "reset past": (429, {"X_RateLimit_Reset": reset(-3600)}, 1),
    "reset far away": (429, {"X_RateLimit_Reset": reset(3600)}, 61),
    "retry after seconds": (429, {"Retry_After": 120}, 120),
    "retry after a date": (503, {"Retry_After": format_datetime(NOW + timedelta(seconds=120), usegmt=True)}, 120),
    "retry after nothing": (503, {"Retry_After": 0}, 1),
    "retry after nonsense": (429, {"Retry_After": "-7 \u00b2"}, 1),
    "the later of both": (429, {"Retry_After": 20, "X_RateLimit_Reset": reset(41)}, 41),
    "another date": (429, {"X_RateLimit_Reset": reset(341), "Date": format_datetime(NOW + timedelta(seconds=300), usegmt=True)}, 41),
    "good news": (200, {"Retry_After": 120}, 0),
}


@pytest.mark.parametrize(("status", "headers", "wait"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("most", [200, None])
def test_a_refusal_is_waited_out(most: int | None, status: int, headers: dict[str, Any], wait: float) -> None:
    """
    After a refusal nothing goes out before the server's time by the server's clock; at least a second, a Reset at most a window.
    """
    caller = Caller(most)
    caller.ask(status, **headers)

    assert wait == pytest.approx(caller.ask(), abs=0.001)


def test_after_a_refusal_one_goes_first() -> None:
    """
    At Reset one place is free, not all: the others wait for what the reply to the first one says.
    """
    caller = Caller(200)
    caller.ask(429, X_RateLimit_Remaining=0, X_RateLimit_Reset=reset(41))

    assert 41 == pytest.approx(caller.ask(X_RateLimit_Remaining=0, X_RateLimit_Reset=reset(50)))
    assert 50 == pytest.approx(caller.ask(X_RateLimit_Remaining=0, X_RateLimit_Reset=reset(52)))


def test_a_wait_past_the_deadline_is_not_begun() -> None:
    """
    Where the next place comes after the deadline, that is said at once.
    """
    caller = Caller(None)
    caller.ask(429, Retry_After=301)

    with pytest.raises(Unavailable, match="may go in 301 seconds only"):
        caller.ask()
    assert 0 == caller.clock.now
