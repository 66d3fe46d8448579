"""The refresh of a token: answers that are lost, late or nonsense, a database that goes away, kill -9."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import servers
from tests.auth.vault import UNUSABLE, Store, ended, workers
from tests.night.test_crash import Fault, counting
from tests.oauth_server import REDIRECT_URI
from usersync_cli.auth import oauth, rescue
from usersync_cli.auth import store as table
from usersync_cli.auth.outcomes import POST_SECONDS, NotSent, UnknownOutcome
from usersync_cli.auth.tokens import WAIT_SECONDS
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import ConfigError, Conflict, LoginRequired, Unavailable
from usersync_cli.model import Access, Token
from usersync_cli.patience import Patience


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
    with pytest.raises(UnknownOutcome):
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
    with pytest.raises(UnknownOutcome, match=r"no whole answer: (no answer for|a time-out)") as error:
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

    with pytest.raises(UnknownOutcome):
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
        store.get(refresh=oauth.OAuthClient("http://-", f"http://127.0.0.1:{servers.free_port()}/", "c", "s", REDIRECT_URI).refresh)

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
    with pytest.raises(UnknownOutcome):
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
    assert calls.calls >= 7  # connect, read, and a transaction each for the claim and the new token


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
