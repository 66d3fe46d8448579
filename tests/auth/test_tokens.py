"""A refresh token is spent once: whoever asks, however many, whatever breaks, and what it buys is kept or a person is told."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.auth.vault import Store, ended, workers
from tests.oauth_server import CLIENT_SECRET
from usersync_cli.errors import LoginRequired, Unavailable
from usersync_cli.model import Database


def test_a_token_that_is_good_is_used(store: Store) -> None:
    """
    While it is valid, nothing is sent.
    """
    assert (store.access, 1) == (store.get().token, store.get().generation)
    assert [] == store.vendor.requests


def test_a_token_about_to_expire_is_refreshed(store: Store) -> None:
    """
    A minute before its end: one request, a new generation, and the old refresh token is replaced.
    """
    store.expire()
    access = store.get()

    assert 2 == access.generation
    assert store.vendor.good(access.token)
    assert access == store.get()
    assert [{"grant_type": "refresh_token", "refresh_token": store.refresh, "client_id": "client", "client_secret": CLIENT_SECRET}] == [
        {name: value for name, value in one.items() if name != "scope"} for one in store.vendor.requests
    ]


@pytest.mark.parametrize(("life", "used"), [(3600, 3300), (90, 45), (30, 15), (8, 4), (3, 2), (1, 2)])
def test_a_short_life_is_no_endless_refreshing(store: Store, life: int, used: int) -> None:
    """
    A token that lives shorter than the margin is used for half of its life, or for two seconds, by all processes; whoever
    holds it knows until when, and asks for the next one then.
    """
    store.vendor.life = life
    store.expire()
    shared = store.tokens()
    first = shared.access("crm", store.vendor.client().refresh)

    assert 2 == first.generation
    assert used - 1 < first.until - time.monotonic() <= used
    assert first == shared.access("crm", store.vendor.client().refresh) == store.get()
    assert 1 == len(store.vendor.requests)
    store.run("UPDATE usersync.tokens SET expires_at = expires_at - interval '5 min', refreshed_at = refreshed_at - interval '5 min'")
    assert (3 if life < 3600 else 2) == store.get().generation


def test_threads_of_a_process_refresh_once(store: Store) -> None:
    """
    Sixteen threads that share the tokens get the same new one.
    """
    store.vendor.delay = 0.1
    store.expire()
    shared, refresh = store.tokens(), store.vendor.client().refresh
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: shared.access("crm", refresh), range(16)))

    assert {2} == {one.generation for one in found}
    assert 1 == len(found) == len(store.vendor.requests)


@pytest.mark.parametrize("number", [1, 2, 16])
def test_processes_refresh_once(store: Store, number: int) -> None:
    """
    However many processes find an expired token: one request arrives, and all of them get the new token.
    """
    store.vendor.delay = 1.0
    store.expire()
    with workers(store, number) as process:
        found = ended(process)

    assert number == len(found)
    assert {0} == {one["status"] for one in found}
    assert [True] == [store.vendor.good(token) for token in {one["token"] for one in found}]
    assert (1, 1) == (len(store.vendor.requests), store.vendor.most_at_once)


def test_processes_that_were_refused_refresh_once(store: Store) -> None:
    """
    Sixteen processes got 401 for a token that looks good by the clock: one request arrives, and all of them get the new token.
    """
    store.vendor.delay = 1.0
    store.run("UPDATE usersync.tokens SET refreshed_at = refreshed_at - interval '10 min'")
    with workers(store, 16, after=1) as process:
        found = ended(process)

    assert [(0, 2)] * 16 == [(one["status"], one["generation"]) for one in found]
    assert [True] == [store.vendor.good(token) for token in {one["token"] for one in found}]
    assert (1, 1) == (len(store.vendor.requests), store.vendor.most_at_once)


def test_processes_give_up_together(store: Store) -> None:
    """
    Where the vendor answers nonsense, all processes together ask twice, one after the other, then no more for a while.
    """
    store.vendor.delay = 0.2
    store.vendor.faults = ["500"] * 50
    store.expire()
    with workers(store, 16) as process:
        found = ended(process)
    with pytest.raises(Unavailable, match="answered 500"):
        store.get()

    assert [4] * 16 == [one["status"] for one in found]
    assert (2, 1) == (len(store.vendor.requests), store.vendor.most_at_once)


@pytest.mark.parametrize("age", [0, 120])
def test_a_refused_token_is_refreshed_once(store: Store, age: int) -> None:
    """
    401 with generation 1 asks for generation 2, however young that is. When that is refused too within a minute, the
    refresh token has been tried: a person is asked for, and the state says so, for everybody.
    """
    store.run(f"UPDATE usersync.tokens SET refreshed_at = refreshed_at - interval '{age} s'")
    shared, refresh = store.tokens(), store.vendor.client().refresh

    assert 2 == shared.access("crm", refresh, after=1).generation
    assert 2 == shared.access("crm", refresh, after=1).generation
    for _ in range(2):
        with pytest.raises(LoginRequired, match="the API refuses a token that was refreshed 0 s ago"):
            shared.access("crm", refresh, after=2)
    assert (1, (2, "refused")) == (len(store.vendor.requests), store.row())


def test_a_refused_token_is_tried_again_by_the_next_run(store: Store) -> None:
    """
    An API that refuses everything for an hour costs no login: the next run refreshes first, once; then all is well, or not.
    """
    first, refresh = store.tokens(), store.vendor.client().refresh
    first.access("crm", refresh, after=1)
    with pytest.raises(LoginRequired):
        first.access("crm", refresh, after=2)
    second = store.tokens()

    assert 3 == second.access("crm", refresh).generation
    assert (2, (3, "ok")) == (len(store.vendor.requests), store.row())
    assert 4 == second.access("crm", refresh, after=3).generation, "it has not asked for a newer one yet"
    with pytest.raises(LoginRequired):
        second.access("crm", refresh, after=4)
    assert (3, (4, "refused")) == (len(store.vendor.requests), store.row())


def test_a_token_that_worked_for_a_minute_may_be_refreshed_again(store: Store) -> None:
    """
    A long run outlives several tokens whose end nobody told: each is refreshed.
    """
    shared, refresh = store.tokens(), store.vendor.client().refresh
    for generation in range(1, 4):
        assert generation + 1 == shared.access("crm", refresh, after=generation).generation
        store.run("UPDATE usersync.tokens SET refreshed_at = refreshed_at - interval '2 min'")


def test_no_token_yet(database: Database, store: Store) -> None:
    """
    A source that nobody authorised, also before usersync's tables are there: exit 5 and what to type.
    """
    for statement in ("DELETE FROM usersync.tokens", "DROP TABLE usersync.tokens", "DROP SCHEMA usersync CASCADE"):
        store.run(statement)
        with pytest.raises(LoginRequired, match="no token yet") as error:
            store.get()
        assert "usersync oauth-url --source crm" == error.value.hint
