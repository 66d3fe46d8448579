"""A refresh token is spent once: whoever asks, however many, whatever breaks, and what it buys is kept or a person is told."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import servers
from tests.conftest import ROOT
from tests.night.test_crash import Fault, counting
from tests.oauth_server import CLIENT_SECRET, REDIRECT_URI, OAuthServer, oauth_server
from usersync_cli import log
from usersync_cli.auth import keys, oauth, rescue, tokens
from usersync_cli.auth import refresh as refreshing
from usersync_cli.auth import store as table
from usersync_cli.auth.outcomes import POST_SECONDS, InvalidGrant, NotSent, Refresh, Unknown
from usersync_cli.auth.tokens import WAIT_SECONDS, Tokens
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.config import loader
from usersync_cli.errors import ConfigError, Conflict, Drift, LoginRequired, Unavailable, UsersyncError
from usersync_cli.model import Access, Database, Token
from usersync_cli.patience import Patience
from usersync_cli.signals import Stop

KEYS = "k1:" + "QUFB" * 10 + "QUE="
TWO_KEYS = "k2:" + "QkJC" * 10 + "QkI=," + KEYS


@dataclass
class Store:
    """A target with a token of source crm, and the vendor that gave it."""

    database: Database
    vendor: OAuthServer
    folder: Path
    stop: Stop = field(default_factory=Stop)
    keys: str = KEYS
    access: str = ""
    refresh: str = ""

    def __post_init__(self) -> None:
        servers.migrate(self.database)
        self.authorise()

    def tokens(self) -> Tokens:
        """As a new process would have them."""
        return Tokens(self.database, lambda: keys.parse(self.keys), self.stop, job="test", folder=self.folder)

    def authorise(self) -> None:
        self.access, self.refresh = self.vendor.pair()
        self.tokens().store("crm", Token(self.access, self.refresh, timedelta(hours=1)), account="account-1")

    def get(self, after: int = 0, refresh: Refresh | None = None) -> Access:
        return self.tokens().access("crm", refresh or self.vendor.client().refresh, after=after)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def expire(self) -> None:
        """Its time is over, and so is that of every lease and pause."""
        self.run(
            "UPDATE usersync.tokens SET expires_at = clock_timestamp() + interval '1 min',"
            " refreshed_at = clock_timestamp() - interval '1 h', lease_until = clock_timestamp() - interval '1 s', not_before = NULL"
        )

    def row(self) -> tuple[int, str]:
        (found,) = self.run("SELECT generation, state FROM usersync.tokens")
        return found[0], found[1]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses in this process are as short as can be."""
    monkeypatch.setattr(refreshing, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(refreshing, "PERSIST_SECONDS", 0.5)
    monkeypatch.setattr(tokens, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(oauth, "POST_SECONDS", 0.6)


@pytest.fixture
def vendor() -> Iterator[OAuthServer]:
    with oauth_server() as vendor:
        yield vendor


@pytest.fixture
def store(database: Database, vendor: OAuthServer, tmp_path: Path) -> Store:
    return Store(database, vendor, tmp_path)


@contextmanager
def workers(store: Store, number: int, phase: str = "-", after: int = 0) -> Iterator[subprocess.Popen[str]]:
    client = {"authorize_url": "http://-", "token_url": f"{store.vendor.url}/access_token", "client_id": "client"}
    client |= {"client_secret": CLIENT_SECRET, "redirect_uri": REDIRECT_URI}
    given = {"url": store.database.url, "given_keys": store.keys, "client": client, "folder": str(store.folder), "after": after}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "tests.oauth_worker", str(number), phase]
    with subprocess.Popen(command, cwd=ROOT, env=servers.environment(), **pipes) as process:
        assert process.stdin
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        process.stdin = None
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What each of the processes said; those that were killed say nothing."""
    stdout, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    return [json.loads(line) for line in stdout.splitlines()]


# one request


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


# the API says 401


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


# answers that are lost, late or nonsense


UNUSABLE = [
    *("lost", "reset", "500", "503", "429", "429 in 0", "html", "list", "truncated", "cut chunks", "huge", "no refresh", "no access"),
    *("newline", "200 temporarily_unavailable"),
]


@pytest.mark.parametrize("fault", UNUSABLE)
def test_an_unusable_answer_is_asked_for_once_more(store: Store, fault: str) -> None:
    """
    No usable answer: one more try with the same token. Within the vendor's grace, or unheard the first time, it gives the token.
    """
    store.vendor.faults, store.vendor.grace = [fault], 60
    store.expire()
    access = store.get()

    assert store.vendor.good(access.token)
    assert [store.refresh] * 2 == [one["refresh_token"] for one in store.vendor.requests]
    assert 1 == store.vendor.most_at_once
    assert (2, "ok") == store.row()


@pytest.mark.parametrize("fault", UNUSABLE)
def test_two_unusable_answers_are_enough(store: Store, fault: str) -> None:
    """
    After the second the run ends with 4, and the next one tries again.
    """
    store.vendor.faults, store.vendor.grace = [fault] * 2, 60
    store.expire()
    with pytest.raises(Unknown):
        store.get()
    assert (2, (1, "ok")) == (len(store.vendor.requests), store.row())
    store.expire()

    assert store.vendor.good(store.get().token)
    assert 3 == len(store.vendor.requests)


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_what_may_still_be_answered_is_not_sent_again(store: Store, fault: str) -> None:
    """
    A time-out: the endpoint may be at work on the token, and a second request would spend it twice. One request; then nobody
    asks for a while, and the next run does.
    """
    store.vendor.faults, store.vendor.grace = [fault], 60
    store.expire()
    with pytest.raises(Unknown, match=r"no whole answer: (no answer for|a time-out)") as error:
        store.get()
    with pytest.raises(Unavailable, match="no whole answer"):
        store.get()

    assert error.value.pending
    assert (1, (1, "ok")) == (len(store.vendor.requests), store.row())
    store.expire()
    assert store.vendor.good(store.get().token)


def test_a_slow_answer_is_waited_for(store: Store) -> None:
    """
    Half a minute for a reply, and everything around it is sized for that: the claim outlasts two requests and the keeping.
    """
    assert 30 <= POST_SECONDS
    assert 2 * POST_SECONDS + 2 + 12 < table.LEASE_SECONDS < WAIT_SECONDS
    store.vendor.delay = 0.4
    store.expire()

    assert store.vendor.good(store.get().token)
    assert 1 == len(store.vendor.requests)


@pytest.mark.parametrize("fault", ["429 in 120", "503 in 3600"])
def test_a_long_retry_after_is_for_a_later_run(store: Store, fault: str) -> None:
    """
    The endpoint says when to come back: not asked before, by nobody, and the run ends with 4.
    """
    store.vendor.faults = [fault]
    store.expire()
    for _ in range(2):
        with pytest.raises(Unavailable, match=f"answered {fault[:3]} and asks to wait {fault[7:]} s"):
            store.get()

    assert 1 == len(store.vendor.requests)
    ((wait,),) = store.run("SELECT extract(epoch FROM not_before - clock_timestamp())::int FROM usersync.tokens")
    assert int(fault[7:]) - 10 <= wait <= int(fault[7:])


def test_a_signal_ends_the_trying(store: Store) -> None:
    """
    Once somebody wants us to end, what went wrong is not tried again: the critical section is one request long.
    """
    store.vendor.faults = ["500"]
    store.expire()

    def signalled(spent: str) -> Token:
        store.stop._note(signal.SIGTERM, None)
        return store.vendor.client().refresh(spent)

    with pytest.raises(Unknown):
        store.get(refresh=signalled)
    assert (1, (1, "ok")) == (len(store.vendor.requests), store.row())


def test_a_lost_answer_without_grace_needs_a_person(store: Store) -> None:
    """
    The vendor rotated and its answer never came: exit 5 with the command to type, and from then on not one request.
    """
    store.vendor.faults = ["lost"]
    store.expire()
    with pytest.raises(LoginRequired, match=r"no whole answer.*invalid_grant") as first:
        store.get()
    for _ in range(3):
        with pytest.raises(LoginRequired) as later:
            store.get()
        assert "usersync oauth-url --source crm" == first.value.hint == later.value.hint
        store.run("UPDATE usersync.tokens SET lease_until = NULL, not_before = NULL, failed_at = NULL")

    assert (2, (1, "reauthorise")) == (len(store.vendor.requests), store.row())
    store.authorise()
    assert (store.access, 2) == (store.get().token, store.get().generation)


def test_what_was_not_sent_is_not_spent(store: Store) -> None:
    """
    A vendor that can't be reached ends the run with 4 and spends nothing, not even one try.
    """
    store.expire()
    nowhere = store.vendor.client()
    with pytest.raises(NotSent, match="can't be reached"):
        store.get(refresh=oauth.Client("http://-", f"http://127.0.0.1:{servers.free_port()}/", "c", "s", REDIRECT_URI).refresh)

    assert [] == store.vendor.requests
    assert store.vendor.good(store.get(refresh=nowhere.refresh).token)


def test_a_token_endpoint_that_is_away_is_waited_for_once(store: Store) -> None:
    """
    What a run has spent on a token endpoint that does not answer, it does not spend again for each of its streams.
    """
    store.stop.patience = Patience(0.3)
    store.vendor.faults = ["hang"]
    store.expire()
    shared, refresh = store.tokens(), store.vendor.client().refresh
    with pytest.raises(Unknown):
        shared.access("crm", refresh)
    store.expire()
    with pytest.raises(Unavailable, match=r"no whole answer.*not asked again"):
        shared.access("crm", refresh)
    assert 1 == len(store.vendor.requests)

    store.stop.patience = Patience()
    assert store.vendor.good(shared.access("crm", refresh).token), "another run asks"


def test_a_redirect_is_not_followed(store: Store) -> None:
    """
    The secret goes where it was sent and nowhere else.
    """
    store.vendor.faults = ["redirect"]
    store.expire()
    with pytest.raises(ConfigError, match="redirect"):
        store.get()

    assert (1, 0) == (len(store.vendor.requests), store.vendor.elsewhere)


@pytest.mark.parametrize(
    ("fault", "life"),
    [
        *((fault, 3600) for fault in ("no life", 'life "soon"', "life 0", "life -5", "life null", "life []", "life NaN")),
        *(("life 60.5", 60), ('life "7200"', 7200), ("life 1e300", 366 * 86_400), ("life Infinity", 366 * 86_400), ("null error", 3600)),
    ],
)
def test_whatever_its_life_a_token_is_kept(store: Store, fault: str, life: int) -> None:
    """
    What says nothing of its end, or nonsense, is kept for an hour: losing it would be worse.
    """
    store.vendor.faults = [fault]
    store.expire()

    assert store.vendor.good(store.get().token)
    assert [(life,)] == store.run("SELECT trunc(extract(epoch FROM lifetime))::int FROM usersync.tokens")
    assert store.vendor.good(store.get().token)
    assert 1 == len(store.vendor.requests)


@pytest.mark.parametrize(
    "fault", ["invalid_client", "unauthorized_client", "redirect_uri_mismatch", "invalid_request", "200 invalid_client", "404", "405"]
)
def test_a_wrong_setting_is_the_configs(store: Store, fault: str) -> None:
    """
    A wrong client secret and the like end with 2, spend nothing, and are asked once.
    """
    store.vendor.faults = [fault]
    store.expire()
    with pytest.raises(ConfigError) as error:
        store.get()

    assert 1 == len(store.vendor.requests)
    assert "config file" in error.value.hint
    assert "canary" not in f"{error.value.message}{error.value.hint}"
    assert store.vendor.good(store.get().token)


def test_the_environment_has_no_word(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    Neither a proxy nor ~/.netrc of whoever runs us changes a token request.
    """
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    store.expire()

    assert store.vendor.good(store.get().token)


# rights, races, another's claim


def test_another_process_has_rotated(store: Store) -> None:
    """
    invalid_grant because somebody stored a newer token meanwhile: the newer one is used, no person is asked.
    """
    store.expire()

    def late(spent: str) -> Token:
        store.authorise()
        raise InvalidGrant("spent")

    access = store.get(refresh=late)

    assert (store.access, 2) == (access.token, access.generation)


def test_a_newer_authorisation_wins(store: Store) -> None:
    """
    Who authorised while an older token was refreshed keeps the new one.
    """
    store.expire()
    refresh = store.vendor.client().refresh

    def slow(spent: str) -> Token:
        token = refresh(spent)
        store.authorise()
        return token

    assert store.get(refresh=slow).token == store.access
    assert (2, "ok") == store.row()


def test_whoever_was_frozen_sends_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A process that wakes up when its claim is nearly over leaves the token alone.
    """
    store.expire()
    claim = table.Store.claim

    def frozen(self: table.Store, *arguments: Any) -> Any:
        found = claim(self, *arguments)
        monkeypatch.setattr(refreshing, "LEASE_SECONDS", POST_SECONDS)
        return found

    monkeypatch.setattr(table.Store, "claim", frozen)
    with pytest.raises(NotSent):
        store.get()

    assert [] == store.vendor.requests


def test_a_claim_is_waited_for(store: Store) -> None:
    """
    While somebody's lease runs nothing is sent; a signal ends the wait.
    """
    store.expire()
    store.run("UPDATE usersync.tokens SET lease = 'somebody', lease_until = clock_timestamp() + interval '30 s'")
    threading.Timer(0.3, lambda: store.stop._note(signal.SIGTERM, None)).start()
    with pytest.raises(UsersyncError, match="stopped by SIGTERM"):
        store.get()

    assert [] == store.vendor.requests


def test_commits_are_durable(store: Store, server: servers.Server) -> None:
    """
    Claim and token are written with synchronous_commit on, whatever role and database say.
    """
    (name,) = store.run("SELECT current_database()")[0]
    server.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    store.run(
        "CREATE TABLE seen_commits (how text);"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO public.seen_commits VALUES (current_setting('synchronous_commit')); RETURN NEW; END$$;"
        "CREATE TRIGGER note BEFORE UPDATE ON usersync.tokens FOR EACH ROW EXECUTE FUNCTION note()"
    )
    store.expire()
    store.run("DELETE FROM seen_commits")
    store.get()

    assert [("on",), ("on",)] == store.run("SELECT how FROM seen_commits")


def test_a_store_that_can_not_be_written_spends_nothing(store: Store) -> None:
    """
    The claim fails before anything is sent.
    """
    store.expire()
    store.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'disk full'; END$$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON usersync.tokens FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    with pytest.raises(Unavailable, match="disk full"):
        store.get()

    assert [] == store.vendor.requests


# the database's connection is cut


@pytest.mark.parametrize("then", ["cut", "lost"])
def test_a_connection_cut_at_each_call(store: Store, then: str) -> None:
    """
    Whichever call of a refresh loses its connection: at most one request, and the token it bought is used by the next.
    """
    store.expire()
    with counting(Fault()) as calls:
        store.get()
    for at in range(1, calls.calls + 1):
        store.vendor.requests.clear()
        store.expire()
        before, _ = store.row()
        with counting(Fault(at, then)):
            try:
                access: Access | None = store.get()
            except Unavailable:
                access = None
        assert len(store.vendor.requests) <= 1
        assert (before + len(store.vendor.requests), "ok") == store.row(), f"call {at}"
        if access is None:
            store.run("UPDATE usersync.tokens SET lease_until = NULL")
        else:
            assert store.vendor.good(access.token)
        assert store.vendor.good(store.get().token)
    assert calls.calls > 8


@pytest.mark.parametrize("by", ["a person", "the next run"])
def test_a_database_that_is_gone_costs_no_token(
    store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], by: str
) -> None:
    """
    The token came and the database is gone: one line USERSYNC-RESCUE and a file of mode 0600, encrypted. A person puts it back,
    or the next run that finds the file.
    """
    store.expire()
    gone: list[bool] = []
    wait = Connection.wait

    def away(self: Connection, gen: Any, *arguments: Any, **options: Any) -> Any:
        if gone:
            raise psycopg.OperationalError("gone")
        return wait(self, gen, *arguments, **options)

    refresh = store.vendor.client().refresh

    def last(spent: str) -> Token:
        token = refresh(spent)
        gone.append(True)
        return token

    monkeypatch.setattr(Connection, "wait", away)
    with pytest.raises(Unavailable, match=r"could not be kept.*the old one is spent") as error:
        store.get(refresh=last)
    monkeypatch.setattr(Connection, "wait", wait)
    (file,) = store.folder.glob("usersync-rescue-crm-2-*.txt")
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("USERSYNC-RESCUE ")]

    assert f"usersync oauth-rescue {file}" in error.value.hint
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert f"{line}\n" == file.read_text()
    assert [] == [one for one in store.vendor.secrets if one in line]
    (one,) = rescue.read(f"2026-01-01 {file.read_text()}")
    assert [file] == [path for path in rescue.files([store.folder]) if path.parent == store.folder]
    if by == "a person":
        assert 2 == store.tokens().restore(one)
    else:
        store.run("UPDATE usersync.tokens SET lease_until = NULL")
    assert (2, True) == (store.get().generation, store.vendor.good(store.get().token))
    with pytest.raises(Conflict):
        store.tokens().restore(one)
    assert 1 == len(store.vendor.requests)


# kill -9


@pytest.mark.parametrize(
    ("phase", "grace", "status"),
    [
        ("before claim", 0, 0),
        ("after claim", 0, 0),
        ("after send", 60, 0),
        ("after send", 0, 5),
        ("after reply", 60, 0),
        ("after reply", 0, 5),
        ("after persist", 0, 0),
    ],
)
def test_killed_at_each_phase(store: Store, phase: str, grace: float, status: int) -> None:
    """
    kill -9 at any moment: the next run has a token, or a person is told; nothing is sent while the dead one's claim lasts.
    """
    store.vendor.grace = grace
    store.expire()
    with workers(store, 1, "-" if phase == "after send" else phase) as process:
        if phase == "after send":
            store.vendor.delay = 0.3
            servers.until(lambda: store.vendor.requests, 20)
            (pid,) = [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
            os.kill(pid, signal.SIGKILL)
        assert [] == ended(process)
    sent = len(store.vendor.requests)
    servers.until(lambda: store.vendor._busy == 0)
    if phase not in {"before claim", "after persist"}:
        assert store.run("SELECT lease_until > clock_timestamp() + interval '15 s' FROM usersync.tokens") == [(True,)]
        store.run("UPDATE usersync.tokens SET lease_until = clock_timestamp()")
    with workers(store, 1) as process:
        (found,) = ended(process)

    assert status == found["status"]
    assert status or store.vendor.good(found["token"])
    assert (phase not in {"before claim", "after claim"}) == sent
    assert len(store.vendor.requests) <= 2


def test_sigterm_waits_for_the_token(store: Store) -> None:
    """
    SIGTERM in the middle of a request: the token is kept first, then the process ends with 143.
    """
    store.vendor.delay = 0.7
    store.expire()
    with workers(store, 1) as process:
        servers.until(lambda: store.vendor.requests, 20)
        (pid,) = [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        os.kill(pid, signal.SIGTERM)
        (found,) = ended(process)

    assert (143, (2, "ok")) == (found["status"], store.row())
    assert store.vendor.good(store.get().token)


# at rest


def test_nothing_is_in_clear(store: Store, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """
    No token, code or secret is found in a table, a log at its most talkative, or an error.
    """
    caplog.set_level(logging.DEBUG)
    log.configure("json", verbosity=2)
    said = []
    code = store.vendor.code()
    token = store.vendor.client().exchange(code)
    said += [repr(token), repr(store.vendor.client()), repr(store.tokens()), repr(keys.parse(KEYS))]
    for fault in ["", *UNUSABLE, "redirect", "invalid_grant"]:
        store.vendor.faults, store.vendor.grace = [fault], 60
        store.expire()
        try:
            said.append(repr(store.get()))
        except UsersyncError as error:
            said += [error.message, error.hint, repr(error)]
    rows = store.run("SELECT encode(t::text::bytea, 'escape') FROM usersync.tokens t")
    sealed = store.run("SELECT encode(access_token, 'escape') || encode(refresh_token, 'escape') FROM usersync.tokens")
    out, err = capfd.readouterr()
    haystack = "\n".join([*said, str(rows), str(sealed), out, err, caplog.text])

    assert "canary" not in haystack
    assert [] == [one for one in store.vendor.secrets if one in haystack]


def test_a_swapped_row_does_not_decrypt(store: Store) -> None:
    """
    A ciphertext is good for its source, account and column only.
    """
    store.tokens().store("other", Token("a", "r", timedelta(hours=1)), account="account-1")
    for change in [
        "access_token = (SELECT access_token FROM usersync.tokens WHERE source = 'other')",
        "access_token = refresh_token",
        "account = 'account-2'",
        "key_id = 'k2'",
    ]:
        store.authorise()
        store.run(f"UPDATE usersync.tokens SET {change} WHERE source = 'crm'")
        with pytest.raises(ConfigError, match=r"key k[12]") as error:
            store.get()
        assert "usersync oauth-url --source crm" in error.value.hint
        store.run("DELETE FROM usersync.tokens WHERE source = 'crm'")


def test_keys_are_rotated(store: Store) -> None:
    """
    A new key in front encrypts from the next refresh on; the old one decrypts until then, and is not needed afterwards.
    """
    store.keys = TWO_KEYS
    assert store.access == store.get().token
    store.expire()
    access = store.get()
    store.keys = TWO_KEYS.partition(",")[0]

    assert access == store.get()
    assert [("k2",)] == store.run("SELECT key_id FROM usersync.tokens")
    store.keys = KEYS
    with pytest.raises(ConfigError, match="encrypted with key k2, which is not among k1"):
        store.get()


def test_without_the_key_nothing_is_spent(store: Store) -> None:
    """
    Who can't read the token, or has no key at all, does not ask for another.
    """
    store.expire()
    store.keys = TWO_KEYS.partition(",")[0]
    with pytest.raises(ConfigError):
        store.get()
    store.keys = ""
    with pytest.raises(ConfigError):
        store.get()

    assert [] == store.vendor.requests


@pytest.mark.parametrize("text", ["", "k1", "k1:", "k1:c2hvcnQ=", KEYS + "," + KEYS, "k 1:" + KEYS[3:], KEYS + ",x", "k1:" + "!" * 44])
def test_bad_keys_are_refused(text: str) -> None:
    """
    What is no key is told with the command that makes one, and is not repeated.
    """
    with pytest.raises(ConfigError, match="USERSYNC_KEYS") as error:
        keys.parse(text)

    assert keys.MAKE in error.value.hint
    assert len(text) < 10 or text not in f"{error.value.message}{error.value.hint}"


def test_the_command_makes_a_key() -> None:
    """
    The command in the message prints a key that is taken.
    """
    made = subprocess.run(["sh", "-c", keys.MAKE], capture_output=True, text=True, check=True).stdout

    assert "k1" == keys.parse(made.partition("=")[2]).first


def test_a_key_is_made_beside_the_embedded_database(tmp_path: Path) -> None:
    """
    Made once, of mode 0600, also by many at once.
    """
    with ThreadPoolExecutor(8) as pool:
        made = {tuple((keys.beside(tmp_path, make=True) or keys.parse("")).by_id.items()) for _ in pool.map(str, range(8))}
    (file,) = tmp_path.iterdir()

    assert 1 == len(made)
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)


@pytest.mark.parametrize(
    ("target", "environ", "kind"),
    [
        ("embedded", {}, "local-"),
        ("embedded", {"USERSYNC_KEYS": KEYS}, "k1"),
        ("postgresql://u@h/d", {"USERSYNC_KEYS": KEYS + "\n"}, "k1"),
        ("postgresql://u@h/d", {}, ""),
    ],
)
def test_where_keys_come_from(tmp_path: Path, target: str, environ: dict[str, str], kind: str) -> None:
    """
    From USERSYNC_KEYS; without it, made for the embedded database and refused for any other.
    """
    document = {"environment": "test", "target": target, "sources": {"s": {"type": "postgres", "url": "embedded:s"}}}
    step = {"name": "s", "extract": {"source": "s", "table": "t"}, "load": {"table": "t", "key": ["id"]}}
    (tmp_path / "config.yaml").write_text(json.dumps({**document, "jobs": {"j": {"steps": [step]}}}))
    settings = loader.load(tmp_path / "config.yaml", {"USERSYNC_HOME": str(tmp_path / "home"), **environ})
    if kind:
        assert settings.keys().first.startswith(kind)
    else:
        with pytest.raises(ConfigError) as error:
            settings.keys()
        assert keys.MAKE in error.value.hint


def test_another_account_is_refused(store: Store) -> None:
    """
    A token of another account replaces nothing.
    """
    with pytest.raises(Drift, match=r"account-2.*account-1"):
        store.tokens().store("crm", Token("a", "r", timedelta(hours=1)), account="account-2")

    assert store.access == store.get().token


@pytest.mark.parametrize("before", ["", "account-1"])
def test_whose_token_it_is_can_be_written_down(store: Store, before: str) -> None:
    """
    A token that was imported has no account until the first run; both of its halves stay readable, and so does the next one.
    """
    store.run("DELETE FROM usersync.tokens")
    store.tokens().store("crm", Token(store.access, store.refresh, timedelta(hours=1)), account=before)
    store.tokens().belong("crm", "account-2")

    assert [("account-2", 1)] == store.run("SELECT account, generation FROM usersync.tokens")
    assert (store.access, 1) == (store.get().token, store.get().generation)
    store.expire()
    assert store.vendor.good(store.get().token)
    assert [("account-2", 2)] == store.run("SELECT account, generation FROM usersync.tokens")


def test_whose_token_it_is_waits_for_a_refresh(store: Store) -> None:
    """
    While somebody refreshes it, nothing is written: what they seal names the account that they found.
    """
    store.run("UPDATE usersync.tokens SET lease_until = clock_timestamp() + interval '1 min'")
    store.tokens().belong("crm", "account-2")

    assert [("account-1",)] == store.run("SELECT account FROM usersync.tokens")


def test_no_token_yet(database: Database, store: Store) -> None:
    """
    A source that nobody authorised, also before usersync's tables are there: exit 5 and what to type.
    """
    for statement in ("DELETE FROM usersync.tokens", "DROP TABLE usersync.tokens", "DROP SCHEMA usersync CASCADE"):
        store.run(statement)
        with pytest.raises(LoginRequired, match="no token yet") as error:
            store.get()
        assert "usersync oauth-url --source crm" == error.value.hint
