"""People who are to be created at a source by hand: an intent that is written down before the request, and ends with its outcome.

Of two processes that want to create one person at once, the second waits for the first. An intent whose process has died without an
outcome is taken over by the next one, which looks at the source before it sends anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.transactions import transaction
from usersync_cli.state.outbox import StepScope
from usersync_cli.state.owner import Owner

LIVING = timedelta(minutes=3)  # nobody takes longer; somebody on another machine who began earlier is dead


@dataclass(frozen=True)
class Claim:
    """An intent that is ours. `begun`: an earlier process wrote it, and may have created the person."""

    id: int
    attempt: str = field(repr=False)
    begun: bool


@dataclass(frozen=True)
class Other:
    """Another process that is about to create the same person."""

    owner: Owner


def claim(connection: Connection, scope: StepScope, key: str, wanted: Mapping[str, Any], attempt: str) -> Claim | Other:
    """Write down that we are about to create this person, or take over what was written down and has no outcome.

    The same person has the same `key`, or the same `external_id` in `wanted`.
    """
    mine = {**wanted, "attempt": attempt, "owner": Owner.me().text()}
    values = {**vars(scope), "key": key, "external_id": wanted.get("external_id"), "wanted": Jsonb(mine), "living": LIVING}
    with transaction(connection):
        connection.execute(_LOCK, values)
        row = connection.execute(_OPEN.encode(), values).fetchone()
        if row is None:
            ((id_,),) = connection.execute(_WRITE, values).fetchall()
            return Claim(id_, attempt, begun=False)
        id_, before, young = row
        own = {name: value for name, value in before.items() if name not in {"attempt", "owner"}}
        if own == dict(wanted) and before.get("attempt"):  # the very same request
            mine["attempt"] = before["attempt"]
        owner = Owner.parse(before["owner"]) if before.get("owner") else None
        if owner and young and owner != Owner.me() and not owner.dead():
            return Other(owner)
        connection.execute("UPDATE usersync.intents SET wanted = %s WHERE id = %s", (Jsonb(mine), id_))
        return Claim(id_, mine["attempt"], begun=True)


def done(connection: Connection, one: Claim, id_: str) -> None:
    """The person exists, under this id."""
    connection.execute(
        "UPDATE usersync.intents SET state = 'done', account = %s, done = done || 'create'::text, ended_at = clock_timestamp()"
        " WHERE id = %s",
        (id_, one.id),
    )


def refused(connection: Connection, one: Claim, code: str) -> None:
    """The source refused. `code` is never a person's data."""
    connection.execute(
        "UPDATE usersync.intents SET state = 'refused', error = %s, ended_at = clock_timestamp() WHERE id = %s", (code, one.id)
    )


def withdraw(connection: Connection, one: Claim) -> None:
    """Nothing was sent, by nobody."""
    connection.execute("DELETE FROM usersync.intents WHERE id = %s", (one.id,))


def let_go(connection: Connection, one: Claim) -> None:
    """Without an outcome: whoever is next takes it over at once, and looks."""
    connection.execute("UPDATE usersync.intents SET wanted = wanted - 'owner' WHERE id = %s", (one.id,))


_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('usersync users create ' || %(job)s, 0))"
_OPEN = """
SELECT id, wanted, created_at > clock_timestamp() - %(living)s FROM usersync.intents
 WHERE job = %(job)s AND step = %(step)s AND target = %(target)s AND state = 'open' AND action = 'create'
   AND (key = %(key)s OR wanted ->> 'external_id' = %(external_id)s)
 ORDER BY id LIMIT 1
"""
_WRITE = """
INSERT INTO usersync.intents (run_id, job, step, target, key, action, wanted)
VALUES (%(run_id)s, %(job)s, %(step)s, %(target)s, %(key)s, 'create', %(wanted)s) RETURNING id
"""
