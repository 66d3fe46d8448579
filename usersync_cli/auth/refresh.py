"""The refresh of a token, once its row is claimed: ask, keep what comes before it is used, or write down why nothing came.

What nobody can fix: the vendor rotated and its answer never came. That ends with a person who authorizes again, not in a loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from usersync_cli import log
from usersync_cli.auth import rescue
from usersync_cli.auth.authorizations import to_authorize
from usersync_cli.auth.outcomes import POST_SECONDS, InvalidGrant, NotSent, Refresh, UnknownOutcome
from usersync_cli.auth.rescue import Rescue
from usersync_cli.auth.store import LEASE_SECONDS, Claim, Store, sealed
from usersync_cli.clients.postgres import connections
from usersync_cli.errors import LoginRequired, Unavailable, UsersyncError
from usersync_cli.model import Access, Token
from usersync_cli.patience import Share
from usersync_cli.signals import Stop

T = TypeVar("T")

AGAIN_SECONDS = 2.0  # before the one more try
LATER_SECONDS = 5.0  # a longer Retry-After is for the next run
PERSIST_SECONDS = 12.0
PAUSE_SECONDS = 30.0  # in which nobody asks, after an outcome that is not known
FAIL_SECONDS = 2.0
SILENCE_SECONDS = 4.0  # a statement of ours in the critical section that takes longer will not be answered


class Refresher:
    """The critical section of a refresh: signals wait until it is over. `folders` is where a token goes that the database can't take."""

    def __init__(self, store: Store, stop: Stop, folders: Sequence[Path]) -> None:
        self._store, self._stop, self._folders = store, stop, folders

    def share(self, source: str) -> Share:
        """The token endpoint's share of the run's patience."""
        return self._stop.patience.of(f"the token endpoint of {source}")

    def refresh(self, connection: connections.Connection, claim: Claim, refresh: Refresh) -> Access | None:
        """The critical section. None when somebody else has stored a newer token meanwhile."""
        with self._stop.held(), self._bounded(connection):
            try:
                spent = self._store.keys().decrypt(claim.refresh_token, claim.source, claim.account, "refresh_token", claim.key_id)
                token, sent = self._ask(claim, refresh, spent)
            except InvalidGrant as error:
                if not self._fail(connection, claim, error.message, state="reauthorise"):
                    return None
                raise LoginRequired(f"{claim.source}: {error.message}", hint=to_authorize(claim.source)) from error
            except UsersyncError as error:
                self.share(claim.source).spend(claim.since)
                wait = max(PAUSE_SECONDS, error.later) if isinstance(error, UnknownOutcome) else 0
                self._fail(connection, claim, error.message, wait=wait)
                raise
            self.share(claim.source).answered()
            return self._persist(connection, claim, token, sent)

    def _ask(self, claim: Claim, refresh: Refresh, spent: str) -> tuple[Token, float]:
        """The token and when it was asked for. One more try when no usable answer will come: never two at once, never three."""
        try:
            return self._post(claim, refresh, spent)
        except UnknownOutcome as first:
            if first.pending or first.later > LATER_SECONDS or self._stop.wanted():
                raise
            log.get().warning("the token endpoint gave no usable answer, trying once more", source=claim.source, error=first.message)
            self._stop.sleep(max(AGAIN_SECONDS, first.later))
            try:
                return self._post(claim, refresh, spent)
            except NotSent as error:
                raise UnknownOutcome(first.message, hint=first.hint) from error
            except InvalidGrant as error:
                raise InvalidGrant(f"{first.message}; asked again: {error.message}", hint=error.hint) from error

    def _post(self, claim: Claim, refresh: Refresh, spent: str) -> tuple[Token, float]:
        now = time.monotonic()
        if now - claim.since > LEASE_SECONDS - POST_SECONDS - PERSIST_SECONDS:  # we were frozen: it is about to be somebody else's
            raise NotSent(f"{claim.source}: the time to refresh its token was over before it was sent", hint="the next run tries again")
        return refresh(spent), now

    def _fail(self, connection: connections.Connection, claim: Claim, error: str, *, state: str = "ok", wait: float = 0) -> bool:
        """Write down that it failed and let go; False when the row is not ours any more. A lease that can't be ended runs out."""

        def write(connection: connections.Connection) -> bool:
            return self._store.failed(connection, claim, error, state, wait)

        done = self._insist(connection, "writing down why its token was not refreshed", write, FAIL_SECONDS)
        if isinstance(done, UsersyncError):
            log.get().warning("it could not be written down why a token was not refreshed", source=claim.source, error=done.message)
            return True
        return done

    def _persist(self, connection: connections.Connection, claim: Claim, token: Token, sent: float) -> Access | None:
        """Keep it before it is used, whatever the database does; where it does not come back, a person puts it back."""
        values = sealed(self._store.keys(), claim.source, claim.account, token)
        at = time.time() - (time.monotonic() - sent)

        def write(connection: connections.Connection) -> float | None:
            return self._store.renewed(connection, claim, values, token.expires_in - timedelta(seconds=time.monotonic() - sent))

        done = self._insist(connection, "keeping the new token", write, PERSIST_SECONDS)
        if isinstance(done, UsersyncError):
            raise self._rescued(claim, values, token, at, done)
        if done is None:
            return None
        log.get().info("token refreshed", source=claim.source, generation=claim.generation + 1)
        return Access(token.access_token, claim.generation + 1, time.monotonic() + done)

    def _insist(
        self,
        connection: connections.Connection,
        doing: str,
        write: Callable[[connections.Connection], T],
        seconds: float,
    ) -> T | UsersyncError:
        """The result of `write`, tried again on new connections for a while, then the last error."""
        until = time.monotonic() + seconds
        while True:
            try:
                if connection.closed:
                    with self._bounded(self._store.connect(_limited(until - time.monotonic()))) as fresh, closing(fresh):
                        return self._written(fresh, doing, write)
                return self._written(connection, doing, write)
            except UsersyncError as error:
                if time.monotonic() > until:
                    return error
            time.sleep(0.2)

    def _written(self, connection: connections.Connection, doing: str, write: Callable[[connections.Connection], T]) -> T:
        try:
            with self._store.translated(connection, doing):
                return write(connection)
        except UsersyncError:
            connections.rollback(connection)
            raise

    @contextmanager
    def _bounded(self, connection: connections.Connection) -> Iterator[connections.Connection]:
        """A server that froze must not hold us for a minute here."""

        def silent() -> None:
            raise Unavailable(f"{self._store.database.name}: no answer for {SILENCE_SECONDS:.0f} s", hint="look at the server")

        before = connection.silence_seconds, connection.alive
        connection.silence_seconds, connection.alive = SILENCE_SECONDS, silent
        try:
            yield connection
        finally:
            connection.silence_seconds, connection.alive = before

    def _rescued(self, claim: Claim, values: dict[str, Any], token: Token, at: float, error: UsersyncError) -> UsersyncError:
        kept = Rescue(
            claim.source,
            claim.account,
            claim.generation,
            values["key_id"],
            rescue.text(values["access"]),
            rescue.text(values["refresh"]),
            token.expires_in.total_seconds(),
            at,
        )
        file = rescue.write(kept, self._folders)
        where = f"it is in {file}" if file else "no file could be written; it is in the line above"
        return Unavailable(
            f"{claim.source}: the new token could not be kept: {error.message}; the old one is spent, and {where}, encrypted",
            hint=f"before the next run, when the database is back: usersync oauth-rescue {file or '-, and the line on its stdin'}",
        )


def _limited(seconds: float) -> Stop:
    """A stop of nobody's but ours: signals wait, and it is over after so many seconds."""
    stop = Stop()
    stop.limit(max(seconds, 1.0))
    return stop
