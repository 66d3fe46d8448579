"""What a plan comes to: its counts, and its changes person by person for a preview."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import UsersyncError
from usersync_cli.model import Counts
from usersync_cli.state.outbox import StepScope
from usersync_cli.targets.keycloak.passwords import Policy


@dataclass
class AccountPlan:
    """The calls that make the realm equal; they stand in the transaction, or are rolled back with it. `counts` follows what is done."""

    name: str  # of the target
    counts: Counts
    scope: StepScope
    roles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # name: representation
    groups: Mapping[str, str] = field(default_factory=dict)  # path: id
    lacking_roles: Sequence[str] = ()  # with create_missing: to be made first
    lacking_groups: Sequence[str] = ()
    passwords: Policy | None = None  # of first passwords; None where nobody is to know them, so that none are made
    problems: list[UsersyncError] = field(default_factory=list)  # what was not done, while all else is


def count(tx: Connection, read: int, distinct: int) -> Counts:
    """Count people: each is new, changed, the same, or has something for somebody to decide."""
    ((created, changed, rejected),) = tx.execute(_COUNT.encode()).fetchall()
    return Counts(
        read=read,
        duplicates=read - distinct,
        inserted=created,
        updated=changed,
        unchanged=distinct - created - changed - rejected,
        rejected=rejected,
    )


_COUNT = """
WITH c AS (SELECT DISTINCT id FROM pg_temp.usersync_conflicts WHERE id IS NOT NULL)
SELECT (SELECT count(*) FROM pg_temp.usersync_planned WHERE action = 'create' AND key NOT IN (SELECT id FROM c)),
       (SELECT count(*) FROM pg_temp.usersync_planned WHERE action <> 'create' AND key NOT IN (SELECT id FROM c)),
       (SELECT count(*) FROM c) + (SELECT count(*) FROM pg_temp.usersync_conflicts WHERE id IS NULL)
"""
_CHANGES = """
SELECT action, key, before, after, rule FROM pg_temp.usersync_planned WHERE action <> 'update' OR after <> '{}'
UNION ALL
SELECT 'conflict', filed, NULL, NULL,
       string_agg(reason || CASE WHEN detail = '' THEN '' ELSE ' (' || detail || ')' END, '; ' ORDER BY reason)
  FROM (SELECT *, COALESCE(id, 'sha256:' || encode(sha256(document), 'hex')) AS filed FROM pg_temp.usersync_conflicts) AS c GROUP BY filed
 ORDER BY 1, 2
"""


def changes(tx: Connection) -> Iterator[tuple[str, str, dict[str, str], dict[str, str], str | None]]:
    """The people for whom something is to be done or decided, as (action or conflict, id, before, after, rule or reason)."""
    with tx.cursor() as cursor:
        for action, key, before, after, reason in cursor.execute(_CHANGES.encode()):
            yield action, key, _ordered(before), _ordered(after), reason


def _ordered(values: Mapping[str, str] | None) -> dict[str, str]:
    return {name: values[name] for name in _SHOWN if name in values} if values else {}


_SHOWN = ("usersync_id", "username", "email", "first_name", "last_name", "enabled", "roles", "groups")
