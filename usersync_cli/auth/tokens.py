"""OAuth tokens: a refresh token is spent once, by one process, and what it buys is kept before it is used.

Whichever process refreshes claims the row first, and commits that claim: a row lock would be gone with the database's connection
while the request still runs. The claim also proves that the row can be written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from usersync_cli import log
from usersync_cli.auth import rescue
from usersync_cli.auth.authorizations import to_authorize
from usersync_cli.auth.keys import Keys
from usersync_cli.auth.outcomes import Refresh
from usersync_cli.auth.refresh import Refresher
from usersync_cli.auth.rescue import Rescue
from usersync_cli.auth.store import Row, State, Store
from usersync_cli.clients.postgres import connections
from usersync_cli.errors import Conflict, LoginRequired, Unavailable
from usersync_cli.model import Access, Database, Token
from usersync_cli.signals import Stop

WAIT_SECONDS = 120.0  # for others who refresh
YOUNG_SECONDS = 60.0  # a token of this age that is refused, got for one that was refused, won't be helped by a newer one
POLL_SECONDS = 0.1


class Tokens:
    """The tokens in one target database. It connects when it is asked; threads may share it."""

    def __init__(self, database: Database, keys: Callable[[], Keys], stop: Stop, *, job: str, folder: Path | None = None) -> None:
        """`folder` is where a token is written that the database could not take."""
        self._keys, self._stop = keys, stop
        self._folders = [folder] if folder else []
        self._store = Store(database, keys, stop, job)
        self._refresher = Refresher(self._store, stop, self._folders)
        self._lock = threading.Lock()
        self._held: dict[str, Access] = {}
        self._forced: set[str] = set()  # sources whose API refused a token, and got a newer one

    def access(self, source: str, refresh: Refresh, *, after: int = 0) -> Access:
        """A valid access token of a generation greater than `after`; refreshed by one of all threads, processes and machines.

        Raises LoginRequired when a person must authorize (nothing is sent then), Unavailable when the next run may succeed.
        """
        with self._alone():
            access = self._held.get(source)
            if not access or access.generation <= after or time.monotonic() >= access.until:
                with closing(self._store.connect()) as connection:
                    access = self._held[source] = self._valid(connection, source, refresh, after)
            if after:
                self._forced.add(source)
            return access

    def store(self, source: str, token: Token, *, account: str = "", expired: bool = False) -> int:
        """Keep the token that a person authorized. Returns its generation.

        Raises Drift when it belongs to another account than the one whose data we have.
        """
        generation = self._store.keep(source, token, account=account, expired=expired)
        self._held.pop(source, None)
        return generation

    def belong(self, source: str, account: str) -> None:
        """Write down whose data the source's token opens, which was not known or is another account now."""
        self._store.belong(source, account)

    def restore(self, rescued: Rescue) -> int:
        """Put a rescued token back. Returns its generation; raises Conflict when a newer one is there."""
        return self._store.restore(rescued)

    def states(self) -> list[State]:
        """The state of each source's tokens."""
        return self._store.states()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thread at a time; the others can be interrupted while they wait."""
        while not self._lock.acquire(timeout=POLL_SECONDS):
            self._stop.check()
        try:
            yield
        finally:
            self._lock.release()

    def _valid(self, connection: connections.Connection, source: str, refresh: Refresh, after: int) -> Access:
        row = self._store.read(connection, source)
        began, deadline = row.now, time.monotonic() + WAIT_SECONDS
        while row.generation <= after or row.left <= 0 or row.state == "refused":
            self._check(connection, row, began)
            if not row.leased and self._put_back(row):
                row = self._store.read(connection, source)
                continue
            claim = None if row.leased else self._store.claim(connection, row, after, began)
            if claim and (access := self._refresher.refresh(connection, claim, refresh)):
                return access
            if time.monotonic() > deadline:
                raise Unavailable(f"{source}: others refresh its token for {WAIT_SECONDS:.0f} s already", hint="the next run tries again")
            if not claim:
                self._stop.sleep(POLL_SECONDS)
            row = self._store.read(connection, source)
        token = self._keys().decrypt(row.access_token, source, row.account, "access_token", row.key_id)
        return Access(token, row.generation, time.monotonic() + row.left)

    def _check(self, connection: connections.Connection, row: Row, began: datetime) -> None:
        """Raise what keeps us from refreshing now, if anything does."""
        if not (share := self._refresher.share(row.source)).left:
            raise Unavailable(f"{row.source}: {row.last_error or 'no token came'}; not asked again", hint=share.over)
        age = row.age.total_seconds()
        if row.source in self._forced and (row.state == "refused" or (row.left > 0 and age < YOUNG_SECONDS)):
            why = f"the API refuses a token that was refreshed {age:.0f} s ago"
            self._store.refused(connection, row, why)
            raise LoginRequired(f"{row.source}: {why}", hint=f"was the access withdrawn there? authorise again: {to_authorize(row.source)}")
        if row.failed_at and (row.failed_at >= began or row.waits > 0) and not row.leased:
            raise Unavailable(f"{row.source}: {row.last_error}", hint="somebody else just tried in vain; the next run tries again")

    def _put_back(self, row: Row) -> bool:
        """The token that an earlier run here could not keep, if it left one: spending the one before it again would end both."""
        for file in rescue.files(self._folders):
            for one in rescue.read(file.read_text(errors="replace")):
                if (one.source, one.account, one.spent) == (row.source, row.account, row.generation):
                    with suppress(Conflict):  # another process was faster
                        generation = self.restore(one)
                        log.once("the token that an earlier run could not keep was put back", source=row.source, generation=generation)
                    return True
        return False
