"""OAuth tokens: a refresh token is spent once, by one process, and what it buys is kept before it is used.

Who refreshes claims the row first, and that claim is committed: a row lock would be gone with the database's connection
while the request still runs. The claim also proves that the row can be written. The clock is the database's.
What nobody can fix: the vendor rotated and its answer never came. That ends with a person who authorises again, not in a loop.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import psycopg
from psycopg import errors
from psycopg.rows import class_row

from usersync_cli import log
from usersync_cli.auth import rescue
from usersync_cli.auth.keys import Keys
from usersync_cli.auth.rescue import Rescue
from usersync_cli.clients.postgres import connections
from usersync_cli.errors import Conflict, Drift, LoginRequired, Unavailable, UsersyncError
from usersync_cli.model import Access, Database, Token
from usersync_cli.patience import Share
from usersync_cli.signals import Stop
from usersync_cli.state.migrations import permitted
from usersync_cli.state.owner import Owner

__all__ = ["Access", "InvalidGrant", "NotSent", "Refresh", "State", "Token", "Tokens", "Unknown", "readable", "states"]

T = TypeVar("T")
Refresh = Callable[[str], Token]
"""One POST with this refresh token, which is never repeated by itself. Raises NotSent, Unknown, InvalidGrant or ConfigError."""

POST_SECONDS = 30.0  # how long one request may take, all in all: one that is given up may cost the login
AGAIN_SECONDS = 2.0  # before the one more try
LATER_SECONDS = 5.0  # a longer Retry-After is for the next run
PERSIST_SECONDS = 12.0
LEASE_SECONDS = 80.0  # two requests, the pause between them, and keeping what the second brings
PAUSE_SECONDS = 30.0  # in which nobody asks, after an outcome that is not known
FAIL_SECONDS = 2.0
SILENCE_SECONDS = 4.0  # a statement of ours in the critical section that takes longer will not be answered
WAIT_SECONDS = 120.0  # for others who refresh
YOUNG_SECONDS = 60.0  # a token of this age that is refused, got for one that was refused, won't be helped by a newer one
POLL_SECONDS = 0.1
LONGEST = timedelta(days=366)


class NotSent(Unavailable):
    """The request failed before its body was sent: the token is not spent."""


class Unknown(Unavailable):
    """No usable answer came: the token may be spent.

    `pending`: the endpoint may still be at work on it, so that asking again would spend it twice. `later` is what it
    asked for by Retry-After, in seconds.
    """

    def __init__(self, message: str, *, hint: str = "", pending: bool = False, later: float = 0) -> None:
        super().__init__(message, hint=hint)
        self.pending, self.later = pending, later


class InvalidGrant(UsersyncError):
    """The endpoint says that this token or code is no good."""

    status: ClassVar[int] = LoginRequired.status


@dataclass(frozen=True)
class State:
    """What may be known of a source's tokens: never a token."""

    source: str
    account: str
    generation: int
    state: str  # ok, reauthorise; refused: by the API, although it is new, so that the next run refreshes it first
    expires_at: datetime
    refreshed_at: datetime
    attempts: int  # to refresh it, since it was last refreshed
    last_error: str
    failed_at: datetime | None
    age: timedelta  # by the database's clock


@dataclass(frozen=True)
class _Row(State):
    """The whole row, and how it stands at this moment of the database's clock."""

    access_token: bytes = field(repr=False)
    refresh_token: bytes = field(repr=False)
    key_id: str
    now: datetime
    left: float  # seconds for which the token may still be used
    leased: bool
    waits: float  # seconds until somebody may try again


@dataclass(frozen=True)
class _Claim:
    """A row that is ours to refresh."""

    source: str
    account: str
    generation: int
    refresh_token: bytes = field(repr=False)
    key_id: str
    me: str
    since: float  # on the monotonic clock, before it was claimed


_STATE = "source, account, generation, state, expires_at, refreshed_at, attempts, last_error, failed_at"
_AGE = "greatest(clock_timestamp() - refreshed_at, interval '0')"
# A tenth of its life, 60 to 300 s, before it ends; one that lives shorter than that is used for half of its life. The
# shortest are used for 2 s, whatever they say: where a life is a second, each request would spend a refresh token.
_MARGIN = "least(greatest(lifetime * 0.1, interval '60 s'), interval '300 s', lifetime * 0.5)"
_UNTIL = f"greatest(expires_at - {_MARGIN}, CASE WHEN lifetime < interval '10 s' THEN refreshed_at + interval '2 s' END)"
_READ = f"""
SELECT {_STATE}, {_AGE} AS age, access_token, refresh_token, key_id, clock_timestamp() AS now,
       extract(epoch FROM {_UNTIL} - clock_timestamp())::float AS left,
       coalesce(lease_until > clock_timestamp(), false) AS leased,
       coalesce(extract(epoch FROM not_before - clock_timestamp()), 0)::float AS waits
  FROM usersync.tokens WHERE source = %(source)s
"""  # noqa: S608  parts of our own
_CLAIM = f"""
UPDATE usersync.tokens
   SET lease = %(me)s, lease_until = clock_timestamp() + %(seconds)s * interval '1 s', attempts = attempts + 1
 WHERE source = %(source)s AND state <> 'reauthorise'
   AND (generation < %(wanted)s OR {_UNTIL} <= clock_timestamp() OR state = 'refused')
   AND (lease_until IS NULL OR lease_until < clock_timestamp())
   AND (failed_at IS NULL OR failed_at < %(began)s) AND (not_before IS NULL OR not_before <= clock_timestamp())
RETURNING source, account, generation, refresh_token, key_id
"""  # noqa: S608  parts of our own
_FAIL = """
UPDATE usersync.tokens
   SET lease = NULL, lease_until = NULL, state = %(state)s, last_error = %(error)s, failed_at = clock_timestamp(),
       not_before = clock_timestamp() + %(wait)s * interval '1 s'
 WHERE source = %(source)s AND generation = %(generation)s AND lease = %(me)s
"""
_REFUSED = """
UPDATE usersync.tokens SET state = 'refused', last_error = %(error)s
 WHERE source = %(source)s AND generation = %(generation)s AND state = 'ok'
"""
_NEXT = f"""
UPDATE usersync.tokens
   SET generation = generation + 1, state = 'ok', access_token = %(access)s, refresh_token = %(refresh)s, key_id = %(key_id)s,
       account = %(account)s, lifetime = %(lifetime)s, expires_at = clock_timestamp() + %(left)s, refreshed_at = clock_timestamp(),
       lease = NULL, lease_until = NULL, attempts = 0, last_error = '', failed_at = NULL, not_before = NULL
 WHERE source = %(source)s AND generation = %(generation)s
RETURNING extract(epoch FROM {_UNTIL} - clock_timestamp())::float
"""  # noqa: S608  parts of our own
_THERE = f"""
SELECT extract(epoch FROM {_UNTIL} - clock_timestamp())::float
  FROM usersync.tokens WHERE source = %(source)s AND access_token = %(access)s
"""  # noqa: S608  parts of our own
_STORE = """
INSERT INTO usersync.tokens AS t (source, account, access_token, refresh_token, key_id, lifetime, expires_at)
VALUES (%(source)s, %(account)s, %(access)s, %(refresh)s, %(key_id)s, %(lifetime)s, clock_timestamp() + %(left)s)
ON CONFLICT (source) DO UPDATE
   SET account = excluded.account, generation = t.generation + 1, state = 'ok', access_token = excluded.access_token,
       refresh_token = excluded.refresh_token, key_id = excluded.key_id, lifetime = excluded.lifetime,
       expires_at = excluded.expires_at, refreshed_at = clock_timestamp(),
       lease = NULL, lease_until = NULL, attempts = 0, last_error = '', failed_at = NULL, not_before = NULL
 WHERE t.account IN ('', excluded.account)
RETURNING generation
"""
_UNLEASED = """
SELECT account, access_token, refresh_token, key_id FROM usersync.tokens
 WHERE source = %(source)s AND (lease_until IS NULL OR lease_until < clock_timestamp()) FOR UPDATE
"""
_BELONG = """
UPDATE usersync.tokens SET account = %(account)s, access_token = %(access_token)s, refresh_token = %(refresh_token)s, key_id = %(key_id)s
 WHERE source = %(source)s
"""
_RESTORE = """
INSERT INTO usersync.tokens AS t (source, account, generation, access_token, refresh_token, key_id, lifetime, expires_at, refreshed_at)
VALUES (%(source)s, %(account)s, %(spent)s + 1, %(access)s, %(refresh)s, %(key_id)s, %(lifetime)s,
        to_timestamp(%(at)s) + %(lifetime)s, to_timestamp(%(at)s))
ON CONFLICT (source) DO UPDATE
   SET generation = excluded.generation, state = 'ok', access_token = excluded.access_token, refresh_token = excluded.refresh_token,
       key_id = excluded.key_id, lifetime = excluded.lifetime, expires_at = excluded.expires_at, refreshed_at = excluded.refreshed_at,
       lease = NULL, lease_until = NULL, attempts = 0, last_error = '', failed_at = NULL, not_before = NULL
 WHERE t.generation < excluded.generation AND t.account = excluded.account
RETURNING generation
"""


def readable(connection: psycopg.Connection[Any]) -> bool:
    """Whether the table is there yet."""
    return connection.execute("SELECT to_regclass('usersync.tokens')").fetchone() != (None,)


def states(connection: psycopg.Connection[Any]) -> list[State]:
    """What is known of each source's tokens; nothing where the table is not there yet."""
    if not readable(connection):
        return []
    with connection.cursor(row_factory=class_row(State)) as cursor:
        return cursor.execute(f"SELECT {_STATE}, {_AGE} AS age FROM usersync.tokens ORDER BY source".encode()).fetchall()  # noqa: S608


def account(connection: psycopg.Connection[Any], source: str) -> str | None:
    """For whom its token was given, "" while that is not known; None where it has no token."""
    if not readable(connection):
        return None
    found = connection.execute("SELECT account FROM usersync.tokens WHERE source = %s", (source,)).fetchone()
    return str(found[0]) if found else None


def authorise(source: str) -> str:
    """What a person types to begin."""
    return f"usersync oauth-url --source {source}"


class Tokens:
    """The tokens in one target database. It connects when it is asked; threads may share it."""

    def __init__(self, database: Database, keys: Callable[[], Keys], stop: Stop, *, job: str, folder: Path | None = None) -> None:
        """`folder` is where a token is written that the database could not take."""
        self._database, self._keys, self._stop, self._job = database, keys, stop, job
        self._folders = [folder] if folder else []
        self._lock = threading.Lock()
        self._held: dict[str, Access] = {}
        self._forced: set[str] = set()  # sources whose API refused a token, and got a newer one

    def access(self, source: str, refresh: Refresh, *, after: int = 0) -> Access:
        """A valid access token of a generation greater than `after`; refreshed by one of all threads, processes and machines.

        Raises LoginRequired when a person must authorise (nothing is sent then), Unavailable when the next run may succeed.
        """
        with self._alone():
            access = self._held.get(source)
            if not access or access.generation <= after or time.monotonic() >= access.until:
                with closing(self._connect()) as connection:
                    access = self._access(connection, source, refresh, after)
            if after:
                self._forced.add(source)
            return access

    def store(self, source: str, token: Token, *, account: str = "", expired: bool = False) -> int:
        """Keep what a person authorised. Returns its generation.

        Raises Drift when it belongs to another account than the one whose data we have.
        """
        keys = self._keys()
        with (
            closing(self._connect()) as connection,
            self._translated(connection, "keeping the token"),
            connections.transaction(connection, synchronous_commit="on"),
        ):
            found = connection.execute("SELECT account FROM usersync.tokens WHERE source = %s FOR UPDATE", (source,)).fetchone()
            known = found[0] if found else ""
            if known and account and known != account:
                raise Drift(
                    f"{source}: this token is of account {account}; the one that was authorised before is {known}; nothing was changed",
                    hint=f"authorise as somebody of account {known}: {authorise(source)}\n"
                    "for another account's data, give it a source and tables of its own in the config file",
                )
            values = _sealed(keys, source, account or known, token)
            left = timedelta(0) if expired else token.expires_in
            row = connection.execute(_STORE.encode(), {**values, "left": left}).fetchone()
        if row is None:
            raise Conflict(f"{source}: somebody else authorised another account at the same time", hint="usersync oauth-status")
        self._held.pop(source, None)
        return int(row[0])

    def belong(self, source: str, account: str) -> None:
        """Write down whose data the source's token opens, which was not known or is another account now.

        Not while it is being refreshed: what is sealed names the account, and somebody is about to seal the next one.
        """
        keys = self._keys()
        with (
            closing(self._connect()) as connection,
            self._translated(connection, "writing down whose token it is"),
            connections.transaction(connection, synchronous_commit="on"),
        ):
            row = connection.execute(_UNLEASED.encode(), {"source": source}).fetchone()
            if row is None or row[0] == account:
                return
            before, access, refresh, key_id = row
            sealed = {
                column: keys.encrypt(keys.decrypt(bytes(one), source, before, column, key_id), source, account, column)
                for column, one in (("access_token", access), ("refresh_token", refresh))
            }
            connection.execute(_BELONG.encode(), {**sealed, "source": source, "account": account, "key_id": keys.first})

    def restore(self, rescued: Rescue) -> int:
        """Put a rescued token back. Returns its generation; raises Conflict when a newer one is there."""
        sealed = rescued.sealed
        for column, one in zip(("access_token", "refresh_token"), sealed, strict=True):
            self._keys().decrypt(one, rescued.source, rescued.account, column, rescued.key_id)
        values = {
            **{name: getattr(rescued, name) for name in ("source", "account", "spent", "key_id", "at")},
            "access": sealed[0],
            "refresh": sealed[1],
            "lifetime": timedelta(seconds=rescued.lifetime),
        }
        with (
            closing(self._connect()) as connection,
            self._translated(connection, "putting the token back"),
            connections.transaction(connection, synchronous_commit="on"),
        ):
            row = connection.execute(_RESTORE.encode(), values).fetchone()
        if row is None:
            raise Conflict(
                f"{rescued.source}: the database has this token already, or a newer one, or one of another account; nothing was changed",
                hint="usersync oauth-status",
            )
        return int(row[0])

    def states(self) -> list[State]:
        """What is known of each source's tokens."""
        with closing(self._connect()) as connection, self._translated(connection, "reading the tokens' state"):
            return states(connection)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thread at a time; who waits can be interrupted."""
        while not self._lock.acquire(timeout=POLL_SECONDS):
            self._stop.check()
        try:
            yield
        finally:
            self._lock.release()

    def _connect(self, stop: Stop | None = None) -> connections.Connection:
        return connections.connect(self._database, job=self._job, stop=stop or self._stop, read_write=True)

    @contextmanager
    def _translated(self, connection: connections.Connection, doing: str) -> Iterator[None]:
        with permitted(connection, self._database, doing):
            yield

    def _access(self, connection: connections.Connection, source: str, refresh: Refresh, after: int) -> Access:
        row = self._row(connection, source)
        began, deadline = row.now, time.monotonic() + WAIT_SECONDS
        while row.generation <= after or row.left <= 0 or row.state == "refused":
            self._check(connection, row, began)
            if not row.leased and self._put_back(row):
                row = self._row(connection, source)
                continue
            claim = None if row.leased else self._claim(connection, row, after, began)
            if claim and (access := self._refresh(connection, claim, refresh)):
                return access
            if time.monotonic() > deadline:
                raise Unavailable(f"{source}: others refresh its token for {WAIT_SECONDS:.0f} s already", hint="the next run tries again")
            if not claim:
                self._stop.sleep(POLL_SECONDS)
            row = self._row(connection, source)
        token = self._keys().decrypt(row.access_token, source, row.account, "access_token", row.key_id)
        return self._keep(source, token, row.generation, row.left)

    def _keep(self, source: str, token: str, generation: int, left: float) -> Access:
        self._held[source] = Access(token, generation, time.monotonic() + left)
        return self._held[source]

    def _row(self, connection: connections.Connection, source: str) -> _Row:
        """Raises LoginRequired when there is no token, or none that is still good."""
        with self._translated(connection, f"reading the token of {source}"), connection.cursor(row_factory=class_row(_Row)) as cursor:
            try:
                row = cursor.execute(_READ.encode(), {"source": source}).fetchone()
            except (errors.UndefinedTable, errors.InvalidSchemaName):
                row = None
        if row is None:
            raise LoginRequired(f"{source}: no token yet: a person must authorise usersync", hint=authorise(source))
        if row.state == "reauthorise":
            raise LoginRequired(f"{source}: a person must authorise usersync again: {row.last_error}", hint=authorise(source))
        return row

    def _check(self, connection: connections.Connection, row: _Row, began: datetime) -> None:
        """Whether it makes sense to refresh now. Raises what keeps us from it."""
        if not (share := self._share(row.source)).left:
            raise Unavailable(f"{row.source}: {row.last_error or 'no token came'}; not asked again", hint=share.over)
        age = row.age.total_seconds()
        if row.source in self._forced and (row.state == "refused" or (row.left > 0 and age < YOUNG_SECONDS)):
            raise self._refused(connection, row, f"the API refuses a token that was refreshed {age:.0f} s ago")
        if row.failed_at and (row.failed_at >= began or row.waits > 0) and not row.leased:
            raise Unavailable(f"{row.source}: {row.last_error}", hint="somebody else just tried in vain; the next run tries again")

    def _refused(self, connection: connections.Connection, row: _Row, why: str) -> LoginRequired:
        """Write down that the API takes not even the newest token: the next run refreshes it once more before it asks a person."""
        with (
            self._translated(connection, f"writing down that the token of {row.source} was refused"),
            connections.transaction(connection),
        ):
            connection.execute(_REFUSED.encode(), {"source": row.source, "generation": row.generation, "error": why})
        return LoginRequired(f"{row.source}: {why}", hint=f"was the access withdrawn there? authorise again: {authorise(row.source)}")

    def _put_back(self, row: _Row) -> bool:
        """The token that an earlier run here could not keep, if it left one: spending the one before it again would end both."""
        for file in rescue.files(self._folders):
            for one in rescue.read(file.read_text(errors="replace")):
                if (one.source, one.account, one.spent) == (row.source, row.account, row.generation):
                    with suppress(Conflict):  # another process was faster
                        generation = self.restore(one)
                        log.once("the token that an earlier run could not keep was put back", source=row.source, generation=generation)
                    return True
        return False

    def _claim(self, connection: connections.Connection, row: _Row, after: int, began: datetime) -> _Claim | None:
        """The row as ours, committed before anything is sent; None when somebody else was faster."""
        # before the claim: who can't decrypt what is there, or encrypt what comes, must not spend it
        self._keys().decrypt(row.refresh_token, row.source, row.account, "refresh_token", row.key_id)
        me, since = f"{Owner.me()}, {uuid.uuid4()}", time.monotonic()
        values = {"source": row.source, "me": me, "seconds": LEASE_SECONDS, "wanted": after + 1, "began": began}
        with (
            self._translated(connection, f"claiming the token of {row.source}"),
            connections.transaction(connection, synchronous_commit="on"),
        ):
            found = connection.execute(_CLAIM.encode(), values).fetchone()
        if found is None:
            return None
        source, account, generation, sealed, key_id = found
        return _Claim(source, account, generation, sealed, key_id, me, since)

    def _refresh(self, connection: connections.Connection, claim: _Claim, refresh: Refresh) -> Access | None:
        """The critical section. None when somebody else has stored a newer token meanwhile."""
        with self._stop.held(), self._bounded(connection):
            try:
                spent = self._keys().decrypt(claim.refresh_token, claim.source, claim.account, "refresh_token", claim.key_id)
                token, sent = self._ask(claim, refresh, spent)
            except InvalidGrant as error:
                if not self._fail(connection, claim, error.message, state="reauthorise"):
                    return None
                raise LoginRequired(f"{claim.source}: {error.message}", hint=authorise(claim.source)) from error
            except UsersyncError as error:
                self._share(claim.source).spend(claim.since)
                self._fail(connection, claim, error.message, wait=max(PAUSE_SECONDS, error.later) if isinstance(error, Unknown) else 0)
                raise
            self._share(claim.source).answered()
            return self._persist(connection, claim, token, sent)

    def _share(self, source: str) -> Share:
        """Of the run's patience, for the token endpoint."""
        return self._stop.patience.of(f"the token endpoint of {source}")

    def _ask(self, claim: _Claim, refresh: Refresh, spent: str) -> tuple[Token, float]:
        """The token and when it was asked for. One more try when no usable answer will come: never two at once, never three."""
        try:
            return self._post(claim, refresh, spent)
        except Unknown as first:
            if first.pending or first.later > LATER_SECONDS or self._stop.wanted():
                raise
            log.get().warning("the token endpoint gave no usable answer, trying once more", source=claim.source, error=first.message)
            self._stop.sleep(max(AGAIN_SECONDS, first.later))
            try:
                return self._post(claim, refresh, spent)
            except NotSent as error:
                raise Unknown(first.message, hint=first.hint) from error
            except InvalidGrant as error:
                raise InvalidGrant(f"{first.message}; asked again: {error.message}", hint=error.hint) from error

    def _post(self, claim: _Claim, refresh: Refresh, spent: str) -> tuple[Token, float]:
        now = time.monotonic()
        if now - claim.since > LEASE_SECONDS - POST_SECONDS - PERSIST_SECONDS:  # we were frozen: it is about to be somebody else's
            raise NotSent(f"{claim.source}: the time to refresh its token was over before it was sent", hint="the next run tries again")
        return refresh(spent), now

    def _fail(self, connection: connections.Connection, claim: _Claim, error: str, *, state: str = "ok", wait: float = 0) -> bool:
        """Write down that it failed and let go; False when the row is not ours any more. A lease that can't be ended runs out."""
        values = {"source": claim.source, "generation": claim.generation, "me": claim.me, "error": error, "state": state, "wait": wait}

        def write(connection: connections.Connection) -> bool:
            with connections.transaction(connection, synchronous_commit="on"):
                return bool(connection.execute(_FAIL.encode(), values).rowcount)

        done = self._insist(connection, "writing down why its token was not refreshed", write, FAIL_SECONDS)
        if isinstance(done, UsersyncError):
            log.get().warning("it could not be written down why a token was not refreshed", source=claim.source, error=done.message)
            return True
        return done

    def _persist(self, connection: connections.Connection, claim: _Claim, token: Token, sent: float) -> Access | None:
        """Keep it before it is used, whatever the database does; where it does not come back, a person puts it back."""
        keys = self._keys()
        values = {**_sealed(keys, claim.source, claim.account, token), "generation": claim.generation}
        at = time.time() - (time.monotonic() - sent)

        def write(connection: connections.Connection) -> float | None:
            left = token.expires_in - timedelta(seconds=time.monotonic() - sent)
            with connections.transaction(connection, synchronous_commit="on"):
                if row := connection.execute(_NEXT.encode(), {**values, "left": left}).fetchone():
                    return float(row[0])
                # a COMMIT whose answer was lost, or somebody else's newer token
                there = connection.execute(_THERE.encode(), values).fetchone()
                return float(there[0]) if there else None

        done = self._insist(connection, "keeping the new token", write, PERSIST_SECONDS)
        if isinstance(done, UsersyncError):
            raise self._rescued(claim, values, token, at, done)
        if done is None:
            return None
        log.get().info("token refreshed", source=claim.source, generation=claim.generation + 1)
        return self._keep(claim.source, token.access_token, claim.generation + 1, done)

    def _insist(
        self,
        connection: connections.Connection,
        doing: str,
        write: Callable[[connections.Connection], T],
        seconds: float,
    ) -> T | UsersyncError:
        """What `write` gives; tried again on new connections for a while, then the last error."""
        until = time.monotonic() + seconds
        while True:
            try:
                if connection.closed:
                    with self._bounded(self._connect(_limited(until - time.monotonic()))) as fresh, closing(fresh):
                        return self._written(fresh, doing, write)
                return self._written(connection, doing, write)
            except UsersyncError as error:
                if time.monotonic() > until:
                    return error
            time.sleep(0.2)

    def _written(self, connection: connections.Connection, doing: str, write: Callable[[connections.Connection], T]) -> T:
        try:
            with self._translated(connection, doing):
                return write(connection)
        except UsersyncError:
            connections.rollback(connection)
            raise

    @contextmanager
    def _bounded(self, connection: connections.Connection) -> Iterator[connections.Connection]:
        """A server that froze must not hold us for a minute here."""

        def silent() -> None:
            raise Unavailable(f"{self._database.name}: no answer for {SILENCE_SECONDS:.0f} s", hint="look at the server")

        before = connection.silence_seconds, connection.alive
        connection.silence_seconds, connection.alive = SILENCE_SECONDS, silent
        try:
            yield connection
        finally:
            connection.silence_seconds, connection.alive = before

    def _rescued(self, claim: _Claim, values: dict[str, Any], token: Token, at: float, error: UsersyncError) -> UsersyncError:
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


def _sealed(keys: Keys, source: str, account: str, token: Token) -> dict[str, Any]:
    return {
        "source": source,
        "account": account,
        "access": keys.encrypt(token.access_token, source, account, "access_token"),
        "refresh": keys.encrypt(token.refresh_token, source, account, "refresh_token"),
        "key_id": keys.first,
        "lifetime": min(token.expires_in, LONGEST),
    }
