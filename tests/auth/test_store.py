"""The table of tokens: claims, rights, whose token it is."""

from __future__ import annotations

import signal
import threading
from datetime import timedelta
from typing import Any

import pytest

from tests import servers
from tests.auth.vault import Store
from usersync_cli.auth import refresh as refreshing
from usersync_cli.auth import store as table
from usersync_cli.auth.outcomes import POST_SECONDS, InvalidGrant, NotSent
from usersync_cli.errors import Drift, Unavailable, UsersyncError
from usersync_cli.model import Token


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
