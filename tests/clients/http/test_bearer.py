"""A bearer token that is renewed: what every client that has one may rely on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests import servers
from usersync_cli.clients.http.bearer import Bearer
from usersync_cli.clients.http.responses import Reply
from usersync_cli.errors import LoginRequired, Stopped
from usersync_cli.model import Access


class Api:
    """An API that takes the tokens of some generations, and the place where they come from."""

    def __init__(self, *taken: int, life: float = 60, newest: int = 99) -> None:
        self.taken, self.life, self.newest = taken, life, newest
        self.after: list[int] = []
        self.got: list[str] = []
        self.most_at_once = self._now = 0

    def ask(self, after: int) -> Access:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        self.after.append(after)
        time.sleep(0.01)
        self._now -= 1
        if after >= self.newest:
            raise LoginRequired("no more", hint="a person")
        return Access(f"t{after + 1}", after + 1, time.monotonic() + self.life)

    def send(self, token: str) -> Reply:
        self.got.append(token)
        return Reply(200 if int(token[1:]) in self.taken else 401, b"", {})


def what(reply: Reply) -> str:
    return f"it answered {reply.status}"


def go() -> None:
    """Nobody stops us."""


@pytest.mark.parametrize(
    ("taken", "renewals", "status", "got"),
    [
        ((1,), 2, 200, ["t1"]),
        ((2,), 2, 200, ["t1", "t2"]),
        ((3,), 2, 200, ["t1", "t2", "t3"]),
        ((4,), 2, 401, ["t1", "t2", "t3"]),
        ((2,), 1, 200, ["t1", "t2"]),
        ((3,), 1, 401, ["t1", "t2"]),
    ],
)
def test_a_401_costs_a_newer_token_and_so_many_at_most(taken: tuple[int, ...], renewals: int, status: int, got: list[str]) -> None:
    """
    Each 401 asks for a newer generation and sends again, up to the limit; the last reply is the caller's to judge.
    """
    api = Api(*taken)

    assert status == Bearer(api.ask, renewals=renewals).send(api.send, go, what).status
    assert got == api.got
    assert list(range(len(got))) == api.after


def test_it_is_kept_until_its_time_is_over() -> None:
    """
    The next request uses what is there; when its time is over a new one is asked for, newer than any that was refused.
    """
    api = Api(2, 3)
    bearer = Bearer(api.ask)
    for _ in range(3):
        bearer.send(api.send, go, what)
    assert [0, 1] == api.after

    api.life = -1
    short = Bearer(api.ask)
    short.access(go)
    short.access(go)
    assert [0, 1, 0, 0] == api.after


def test_threads_share_it() -> None:
    """
    Many requests at once, all refused: one asks for the newer token, one at a time, and all use it.
    """
    api, refused = Api(2), threading.Barrier(8)
    bearer = Bearer(api.ask)
    bearer.access(go)

    def send(token: str) -> Reply:
        reply = api.send(token)
        if reply.status == 401:
            refused.wait(10)
        return reply

    with ThreadPoolExecutor(8) as pool:
        assert [200] * 8 == [reply.status for reply in pool.map(lambda _: bearer.send(send, go, what), range(8))]

    assert ([0, 1], 1) == (api.after, api.most_at_once)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (Api(newest=1).ask, "no more"),
        (Api(newest=2).ask, "it answered 401, with a new token too: no more"),
        (lambda _: Access("t1", 1), "it answered 401, and there is no newer token"),
    ],
)
def test_no_newer_token_is_a_persons_business(ask: Callable[[int], Access], message: str) -> None:
    """
    Where none comes, or the same again, LoginRequired says what was tried.
    """
    with pytest.raises(LoginRequired) as error:
        Bearer(ask, hint="a person").send(Api().send, go, what)

    assert (message, "a person") == (error.value.message, error.value.hint)


def test_a_wait_for_it_can_be_ended_and_the_token_is_waited_for() -> None:
    """
    A thread that waits while another one asks hears of a signal; `settle` returns when the token is there.
    """
    asked, let = threading.Event(), threading.Event()

    def ask(after: int) -> Access:
        asked.set()
        let.wait(10)
        return Access("t1", 1)

    def stopped() -> None:
        raise Stopped(15)

    bearer, got = Bearer(ask), list[Any]()
    first = threading.Thread(target=lambda: got.append(bearer.access(go)))
    first.start()
    asked.wait(10)
    with pytest.raises(Stopped):
        bearer.access(stopped)
    settled = threading.Thread(target=lambda: (bearer.settle(), got.append("settled")))
    settled.start()
    assert [] == got
    let.set()
    servers.until(lambda: len(got) == 2)
    first.join()
    settled.join()

    assert {"t1", "settled"} == {one if isinstance(one, str) else one.token for one in got}
