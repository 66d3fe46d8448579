"""Mappings by hand: which id of an app is which customer, because a person said so. Such a mapping is a pin, which no job changes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from usersync_cli.clients.postgres import connections
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import statements
from usersync_cli.clients.postgres.transactions import transaction
from usersync_cli.errors import ConfigError, Conflict, NotFound
from usersync_cli.identity import facts
from usersync_cli.identity.customers import Customer, find, uuid_of
from usersync_cli.model import Database
from usersync_cli.settings import closest
from usersync_cli.signals import Stop
from usersync_cli.state.migrations import VERSION, current, newer, permitted

_SQL = statements(__name__)
SINCE = "0014"  # the version of the tables that has the map
LONGEST = facts.LONGEST


@dataclass(frozen=True)
class Held:
    """A mapping that holds now; uuid and domain are those of the customer that it resolves to."""

    app: str
    id: str
    uuid: UUID
    domain: str | None
    rule: str | None
    value: str | None
    evidence: str | None
    pinned: bool
    job: str | None
    step: str | None
    run_id: int | None
    decided_by: str | None
    reason: str | None
    opened_at: datetime
    left_at: datetime | None

    @property
    def customer(self) -> str:
        """The customer in a message: domain and uuid."""
        return called(self.uuid, self.domain)

    @property
    def because(self) -> str:
        """Who or what decided, in a message; never the value that a rule looked at."""
        by = f"rule {self.rule} of job {self.job}" if self.rule else ""
        pinned = f"pinned by {self.decided_by}" if self.pinned else ""
        return " and ".join(part for part in (by, pinned) if part) or f"by {self.decided_by or self.job}"


@dataclass(frozen=True)
class Decision:
    """Who decided, and why, if they said so."""

    by: str
    reason: str | None = None


@dataclass(frozen=True)
class Closed:
    """The last mapping of an id that has none now."""

    app: str
    id: str
    uuid: UUID
    domain: str | None
    closed_because: str
    closed_by: str | None
    closed_at: datetime


@dataclass(frozen=True)
class Listed:
    """A line of a list."""

    app: str
    domain: str | None
    id: str
    uuid: UUID
    pinned: bool
    rule: str | None
    decided_by: str | None
    job: str | None


@dataclass(frozen=True)
class Assigned:
    """How many ids were mapped for the first time, pinned where they were, moved to another customer, or so already."""

    created: int = 0
    pinned: int = 0
    moved: int = 0
    there: int = 0

    @property
    def what(self) -> str:
        """Of one id, which of these."""
        return next(name for name, number in vars(self).items() if number)


def called(uuid: UUID, domain: str | None) -> str:
    """A customer in a message."""
    return f"customer {domain} ({uuid})" if domain else f"customer {uuid}"


def shown(app: str, id_: str) -> str:
    """An id in a message; one that is an address is a person's, and is not repeated."""
    return f"this id of {app}" if "@" in id_ else f"{app}:{id_}"


# reading


@contextmanager
def reading(
    database: Database, doing: str, stop: Stop | None = None, *, long: bool = False, temp: bool = False
) -> Iterator[Connection | None]:
    """A read-only snapshot of the target, for a command; None where there is no map yet. `doing` is what messages say.

    `temp`: a transaction that may have temp tables instead, which PostgreSQL does not allow in one that only reads.
    """
    with connections.connect(database, job="identity", stop=stop) as connection, permitted(connection, database, doing):
        if (found := current(connection)) is not None and found > VERSION:
            raise newer(found)
        if (found or "") < SINCE:
            yield None
            return
        with transaction(connection, long=long, snapshot=not temp, row_security="on"):
            yield connection


def no_map() -> NotFound:
    """The error of whoever asks before anything was mapped."""
    return NotFound(
        "there is no map of customers in the target yet",
        hint="a run of a step that has `identity` fills it; so do `usersync customers create` and `usersync mappings import`",
    )


def apps(tx: Connection) -> Sequence[str]:
    """The names of all apps."""
    return [str(name) for (name,) in tx.execute(_SQL["apps"]).fetchall()]


def require_app(tx: Connection, app: str) -> None:
    """Raises NotFound for an app that nobody has added."""
    known = apps(tx)
    if app not in known:
        near = closest(app, known)
        meant = f"did you mean {near}? Or " if near else ""
        hint = f"{meant}`usersync apps add {app}` adds it; `usersync apps list` shows those that are there"
        raise NotFound(f"there is no app {app}", hint=hint)


def require_customer(tx: Connection, text: str) -> Customer:
    """The customer that is meant by a uuid or a domain. Raises NotFound with what comes near, ConfigError for what is neither."""
    found = find(tx, text)
    if found is not None:
        return found
    if uuid_of(text):
        raise NotFound(f"no customer has the uuid {text}", hint="`usersync customers list` shows those that are there")
    like = near(tx, text.strip().lower())
    meant = f"did you mean {like}? Or " if like else ""
    raise NotFound(f"no customer has the domain {text}", hint=f"{meant}`usersync customers create {text}` makes one")


def jobs_of(tx: Connection, app: str) -> Sequence[tuple[str, str]]:
    """Job and step of all that fills an app."""
    return [(job, step) for job, step in tx.execute(_SQL["jobs"], {"app": app}).fetchall()]


def near(tx: Connection, domain: str) -> str | None:
    """The domain of a customer that is spelt nearly like this one."""
    return closest(domain, [one for (one,) in tx.execute(_SQL["near"], {"word": domain}).fetchall() if one])


def held(tx: Connection, app: str, id_: str) -> Held | None:
    """The mapping of an id; None where nobody has it."""
    with tx.cursor(row_factory=class_row(Held)) as cursor:
        return cursor.execute(_SQL["held"], {"app": app, "id": id_}).fetchone()


def last_closed(tx: Connection, app: str, id_: str) -> Closed | None:
    """The mapping that an id had last, of those that were closed."""
    with tx.cursor(row_factory=class_row(Closed)) as cursor:
        return cursor.execute(_SQL["last_closed"], {"app": app, "id": id_}).fetchone()


def query(tx: Connection, app: str, id_: str) -> Held:
    """The mapping of an id. Raises NotFound with what was there before."""
    require_app(tx, app)
    found = held(tx, app, id_)
    if found is None:
        raise nobody(tx, app, id_)
    return found


def nobody(tx: Connection, app: str, id_: str) -> NotFound:
    """The error for an id that has no customer, with what was known of it."""
    said = f"{shown(app, id_)} is not mapped to a customer"
    if last := last_closed(tx, app, id_):
        by = f" by {last.closed_by}" if last.closed_by else ""
        said += f"; until {last.closed_at:%Y-%m-%d %H:%M} UTC it was {called(last.uuid, last.domain)}: {CLOSED[last.closed_because]}{by}"
    return NotFound(said, hint=f"`usersync mappings create --app {app} --id ID --customer DOMAIN` maps it")


CLOSED = {
    "left": "its record left the source",
    "crowded": "too many ids have that domain",
    "listed": "the lists say by now that its domain identifies nobody",
    "moved": "moved to another customer",
    "removed": "removed",
    "returned": "its record had left and came back",
}
"""Why a mapping was closed, in words."""


def listed(tx: Connection, *, customer: str | None, app: str | None, most: int) -> tuple[list[Listed], bool]:
    """Mappings of a customer, of an app, or of both, `most` at most (0: all), and whether there are more."""
    if app is not None:
        require_app(tx, app)
    values = {"app": app, "root": require_customer(tx, customer).root if customer else None, "most": most + 1 if most else None}
    with tx.cursor(row_factory=class_row(Listed)) as cursor:
        found = cursor.execute(_SQL["of_customer" if customer else "of_app"], values).fetchall()
    return (found[:most], len(found) > most) if most else (found, False)


# writing


def checked(id_: str) -> str:
    """An id as it is stored. Raises ConfigError for one that is empty or no id; blanks around it are part of no id."""
    found = id_.strip()
    if not found or len(found) > LONGEST:
        raise ConfigError(
            "the id is empty" if not found else f"the id is longer than {LONGEST:,} characters", hint="is a variable not set?"
        )
    return found


def meant(tx: Connection, app: str, id_: str) -> str:
    """The id that is meant: as it is typed, where it is mapped so, since a job's ids may have blanks around them; else `checked`."""
    return id_ if id_.strip() != id_ and held(tx, app, id_) else checked(id_)


def create(  # noqa: PLR0913  each is an option of the command
    tx: Connection, app: str, id_: str, customer: str, decision: Decision, *, move: bool
) -> tuple[Assigned, Held, Held | None]:
    """Say whose an id is; gives what that did, the mapping, and the one before it. In `place.writing`.

    Raises Conflict where it is somebody else's, unless it may move.
    """
    require_app(tx, app)
    found = require_customer(tx, customer)
    before = held(tx, app, id_)
    if before and before.uuid != found.root and not move:
        raise _taken(before, customer)
    given(tx, [(app, id_, found.uuid)])
    done = assign(tx, decision)
    after = held(tx, app, id_)
    assert after is not None  # noqa: S101  it was just written
    return done, after, before


def _taken(before: Held, customer: str) -> Conflict:
    id_ = "ID" if "@" in before.id else shlex.quote(before.id)
    return Conflict(
        f"{shown(before.app, before.id)} is {before.customer}, {before.because}, since {before.opened_at:%Y-%m-%d}; nothing was changed",
        hint=f"`usersync mappings create --app {before.app} --id {id_} --customer {customer} --move` moves it",
    )


def given(tx: Connection, rows: Sequence[tuple[str, str, UUID]]) -> None:
    """Lay down what a person says: app, id, customer. `assign` does it."""
    open_given(tx)
    tx.cursor().executemany("INSERT INTO pg_temp.usersync_given (app, id, customer) VALUES (%s, %s, %s)", rows)


def open_given(tx: Connection) -> None:
    """Make the table of what a person says anew, empty."""
    tx.execute("DROP TABLE IF EXISTS pg_temp.usersync_given, pg_temp.usersync_looked")
    tx.execute(_SQL["open"])


def look(tx: Connection) -> None:
    """Compare what was laid down with what is there: pg_temp.usersync_looked."""
    tx.execute(_SQL["look"])


def assign(tx: Connection, decision: Decision) -> Assigned:
    """Pin the ids that were laid down to their customers. What moves is closed; conflicts about these ids are answered."""
    look(tx)
    return write_looked(tx, decision)


def write_looked(tx: Connection, decision: Decision) -> Assigned:
    """Write what `look` found."""
    values = {"by": decision.by, "reason": decision.reason}
    for name in ("outvote", "answer", "close_moved", "pin", "add"):
        tx.execute(_SQL[name], values)
    return looked(tx)


def looked(tx: Connection) -> Assigned:
    """What `look` found, in numbers."""
    return Assigned(**dict(tx.execute(_SQL["counts"]).fetchall()))


def remove(tx: Connection, app: str, id_: str, decision: Decision) -> Held:
    """Close the mapping of an id; gives it. In `place.writing`. Raises NotFound where there is none.

    Nothing keeps a job from mapping the id again when it looks at its row: who wants that says whose it is, with `create`.
    """
    found = query(tx, app, id_)
    close(tx, app, id_, "removed", decision)
    return found


def close(tx: Connection, app: str, id_: str, because: str, decision: Decision) -> None:
    """Move the mapping of an id to those that held once."""
    tx.execute(_SQL["close"], {"app": app, "id": id_, "because": because, "by": decision.by, "reason": decision.reason})
    tx.execute(_SQL["set_over"], {"app": app, "id": id_})
