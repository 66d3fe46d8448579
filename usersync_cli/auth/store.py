"""The table `usersync.tokens` in one target database: a row for each source, its tokens encrypted. The clock is the database's."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import class_row

from usersync_cli.auth.authorizations import to_authorize
from usersync_cli.auth.keys import Keys
from usersync_cli.auth.rescue import Rescue
from usersync_cli.clients.postgres import connections, transactions
from usersync_cli.errors import Conflict, Drift, LoginRequired
from usersync_cli.model import Database, Token
from usersync_cli.signals import Stop
from usersync_cli.state.migrations import permitted
from usersync_cli.state.owner import Owner

LEASE_SECONDS = 80.0  # two requests, the pause between them, and keeping what the second brings
LONGEST = timedelta(days=366)


@dataclass(frozen=True)
class State:
    """The state of a source's tokens, without a token."""

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
class Row(State):
    """The whole row, and how it stands at this moment of the database's clock."""

    access_token: bytes = field(repr=False)
    refresh_token: bytes = field(repr=False)
    key_id: str
    now: datetime
    left: float  # seconds for which the token may still be used
    leased: bool
    waits: float  # seconds until somebody may try again


@dataclass(frozen=True)
class Claim:
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
    """The state of each source's tokens; empty where the table is not there yet."""
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


class Store:
    """The tokens in one target database; it connects when it is asked."""

    def __init__(self, database: Database, keys: Callable[[], Keys], stop: Stop, job: str) -> None:
        self.database, self.keys = database, keys
        self._stop, self._job = stop, job

    def connect(self, stop: Stop | None = None) -> connections.Connection:
        return connections.connect(self.database, job=self._job, stop=stop or self._stop, read_write=True)

    @contextmanager
    def translated(self, connection: connections.Connection, doing: str) -> Iterator[None]:
        """Translate psycopg's errors, with the GRANT that helps where a right is missing."""
        with permitted(connection, self.database, doing):
            yield

    def states(self) -> list[State]:
        """The state of each source's tokens."""
        with closing(self.connect()) as connection, self.translated(connection, "reading the tokens' state"):
            return states(connection)

    def read(self, connection: connections.Connection, source: str) -> Row:
        """Raises LoginRequired when there is no token, or none that is still good."""
        with self.translated(connection, f"reading the token of {source}"), connection.cursor(row_factory=class_row(Row)) as cursor:
            try:
                row = cursor.execute(_READ.encode(), {"source": source}).fetchone()
            except (errors.UndefinedTable, errors.InvalidSchemaName):
                row = None
        if row is None:
            raise LoginRequired(f"{source}: no token yet: a person must authorise usersync", hint=to_authorize(source))
        if row.state == "reauthorise":
            raise LoginRequired(f"{source}: a person must authorise usersync again: {row.last_error}", hint=to_authorize(source))
        return row

    def keep(self, source: str, token: Token, *, account: str = "", expired: bool = False) -> int:
        """Keep the token that a person authorized. Returns its generation.

        Raises Drift when it belongs to another account than the one whose data we have.
        """
        keys = self.keys()
        with (
            closing(self.connect()) as connection,
            self.translated(connection, "keeping the token"),
            transactions.transaction(connection, synchronous_commit="on"),
        ):
            found = connection.execute("SELECT account FROM usersync.tokens WHERE source = %s FOR UPDATE", (source,)).fetchone()
            known = found[0] if found else ""
            if known and account and known != account:
                raise Drift(
                    f"{source}: this token is of account {account}; the one that was authorised before is {known}; nothing was changed",
                    hint=f"authorise as somebody of account {known}: {to_authorize(source)}\n"
                    "for another account's data, give it a source and tables of its own in the config file",
                )
            values = sealed(keys, source, account or known, token)
            left = timedelta(0) if expired else token.expires_in
            row = connection.execute(_STORE.encode(), {**values, "left": left}).fetchone()
        if row is None:
            raise Conflict(f"{source}: somebody else authorised another account at the same time", hint="usersync oauth-status")
        return int(row[0])

    def belong(self, source: str, account: str) -> None:
        """Write down whose data the source's token opens, which was not known or is another account now.

        Not while it is being refreshed: what is sealed names the account, and somebody is about to seal the next one.
        """
        keys = self.keys()
        with (
            closing(self.connect()) as connection,
            self.translated(connection, "writing down whose token it is"),
            transactions.transaction(connection, synchronous_commit="on"),
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
            self.keys().decrypt(one, rescued.source, rescued.account, column, rescued.key_id)
        values = {
            **{name: getattr(rescued, name) for name in ("source", "account", "spent", "key_id", "at")},
            "access": sealed[0],
            "refresh": sealed[1],
            "lifetime": timedelta(seconds=rescued.lifetime),
        }
        with (
            closing(self.connect()) as connection,
            self.translated(connection, "putting the token back"),
            transactions.transaction(connection, synchronous_commit="on"),
        ):
            row = connection.execute(_RESTORE.encode(), values).fetchone()
        if row is None:
            raise Conflict(
                f"{rescued.source}: the database has this token already, or a newer one, or one of another account; nothing was changed",
                hint="usersync oauth-status",
            )
        return int(row[0])

    def claim(self, connection: connections.Connection, row: Row, after: int, began: datetime) -> Claim | None:
        """The row as ours, committed before anything is sent; None when somebody else was faster."""
        # before the claim: who can't decrypt what is there, or encrypt what comes, must not spend it
        self.keys().decrypt(row.refresh_token, row.source, row.account, "refresh_token", row.key_id)
        me, since = f"{Owner.me()}, {uuid.uuid4()}", time.monotonic()
        values = {"source": row.source, "me": me, "seconds": LEASE_SECONDS, "wanted": after + 1, "began": began}
        with (
            self.translated(connection, f"claiming the token of {row.source}"),
            transactions.transaction(connection, synchronous_commit="on"),
        ):
            found = connection.execute(_CLAIM.encode(), values).fetchone()
        if found is None:
            return None
        source, account, generation, sealed, key_id = found
        return Claim(source, account, generation, sealed, key_id, me, since)

    def refused(self, connection: connections.Connection, row: Row, why: str) -> None:
        """Write down that the API takes not even the newest token: the next run refreshes it once more before it asks a person."""
        with (
            self.translated(connection, f"writing down that the token of {row.source} was refused"),
            transactions.transaction(connection),
        ):
            connection.execute(_REFUSED.encode(), {"source": row.source, "generation": row.generation, "error": why})

    def failed(self, connection: connections.Connection, claim: Claim, error: str, state: str, wait: float) -> bool:
        """Write down that it failed and let go; False when the row is not ours any more."""
        values = {"source": claim.source, "generation": claim.generation, "me": claim.me, "error": error, "state": state, "wait": wait}
        with transactions.transaction(connection, synchronous_commit="on"):
            return bool(connection.execute(_FAIL.encode(), values).rowcount)

    def renewed(self, connection: connections.Connection, claim: Claim, values: Mapping[str, Any], left: timedelta) -> float | None:
        """Write the next generation, given as `sealed` does; seconds for which it may be used.

        None when somebody else has stored a newer one.
        """
        values = {**values, "generation": claim.generation, "left": left}
        with transactions.transaction(connection, synchronous_commit="on"):
            if row := connection.execute(_NEXT.encode(), values).fetchone():
                return float(row[0])
            # a COMMIT whose answer was lost, or somebody else's newer token
            there = connection.execute(_THERE.encode(), values).fetchone()
            return float(there[0]) if there else None


def sealed(keys: Keys, source: str, account: str, token: Token) -> dict[str, Any]:
    """The columns of a row for this token, encrypted."""
    return {
        "source": source,
        "account": account,
        "access": keys.encrypt(token.access_token, source, account, "access_token"),
        "refresh": keys.encrypt(token.refresh_token, source, account, "refresh_token"),
        "key_id": keys.first,
        "lifetime": min(token.expires_in, LONGEST),
    }
