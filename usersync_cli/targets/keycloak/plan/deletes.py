"""Accounts of people whom the source no longer has: they are disabled, never deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usersync_cli.clients.postgres.arrays import texts
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import statements
from usersync_cli.targets.keycloak.plan.conflicts import STILL_ENABLED

_SQL = statements(__name__)


def find(tx: Connection) -> None:
    """Stage, as `usersync_leaving`, the enabled accounts whose people are not desired."""
    tx.execute(_LEAVING.encode())


# Enabled accounts that carry our id and whose person is not desired: those that we know, and those that an earlier state of ours may have
# made. The latter are told from those of other jobs by what is before the last colon of an id, such as a tenant.
_SPACE = "COALESCE(substring({} FROM '^.*:'), '')"
_LEAVING = f"""
CREATE TEMP TABLE usersync_leaving ON COMMIT DROP AS
SELECT a.key, a.record, a.account, t.username, true AS known FROM pg_temp.usersync_accounts AS a
  JOIN pg_temp.usersync_there AS t ON t.id = a.account AND t.usersync_id = a.key AND t.enabled
 WHERE NOT EXISTS (SELECT FROM pg_temp.usersync_people AS p WHERE p.id = a.key)
UNION ALL
SELECT t.usersync_id, CASE WHEN s.recorded THEN substr(t.usersync_id, length(s.space) + 1) END, t.id, t.username, false
  FROM pg_temp.usersync_there AS t
  JOIN (SELECT {_SPACE.format("id")} AS space, bool_or(record IS NOT NULL) AS recorded FROM pg_temp.usersync_people GROUP BY 1) AS s
    ON s.space = {_SPACE.format("t.usersync_id")}
 WHERE t.enabled AND NOT EXISTS (SELECT FROM pg_temp.usersync_people AS p WHERE p.id = t.usersync_id)
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_accounts AS a WHERE a.account = t.id AND a.key = t.usersync_id)
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_elsewhere AS e WHERE e.account = t.id)
"""


def kept_out(tx: Connection, reasons: Mapping[str, str]) -> int:
    """Take people whom the source keeps out off `usersync_leaving`; they become conflicts. `reasons` by the source's key."""
    values = {"records": texts(reasons), "reasons": texts(reasons.values())}
    return tx.execute(_SQL["kept_out"], values).rowcount


def leaving(tx: Connection, *, known: bool) -> tuple[int, int]:
    """How many of our accounts belong to nobody who is desired, and how many are enabled at all.

    With `known` those that this job remembers, else those that carry our attribute alone.
    """
    ((candidates, of),) = tx.execute(_SQL["count_known" if known else "count_unknown"]).fetchall()
    return candidates, of


def disable(tx: Connection, *, known: bool) -> None:
    """Plan that the accounts on `usersync_gone` are disabled."""
    tx.execute(_SQL["disable"], {"known": known})


def note_disabled(tx: Connection, values: Mapping[str, Any]) -> None:
    """Remember that we disable them."""
    tx.execute(_SQL["note_disabled"], values)
    tx.execute(_SQL["meet_again"], {**values, "still": STILL_ENABLED})


def sign_out(tx: Connection, values: Mapping[str, Any]) -> None:
    """Plan to sign out accounts again that an earlier run disabled without an answer on whether their sessions ended."""
    tx.execute(_SQL["sign_out"], values)
