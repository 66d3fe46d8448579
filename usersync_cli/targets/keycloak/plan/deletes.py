"""Accounts of people whom the source no longer has: they are disabled, never deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usersync_cli.clients.postgres.arrays import texts
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.targets.keycloak.plan.conflicts import STILL_ENABLED


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
    """They do not leave, and they may have an account only as long as somebody says so. `reasons` by the source's key."""
    values = {"records": texts(reasons), "reasons": texts(reasons.values())}
    return tx.execute(_KEPT_OUT.encode(), values).rowcount


_KEPT_OUT = """
WITH given AS (SELECT * FROM unnest(%(records)s::text[], %(reasons)s::text[]) AS g(record, reason)),
kept AS (DELETE FROM pg_temp.usersync_leaving AS l USING given AS g WHERE g.record = l.record RETURNING l.key, g.reason)
INSERT INTO pg_temp.usersync_conflicts
SELECT key, reason, 'the account is enabled', true, convert_to(jsonb_build_object('id', key)::text, 'UTF8') FROM kept
"""


def leaving(tx: Connection, *, known: bool) -> tuple[int, int]:
    """How many of our accounts are of nobody that is desired; and how many of them are enabled at all.

    With `known` those that this job remembers, else those that carry our attribute alone.
    """
    ((candidates, of),) = tx.execute((_LEAVERS if known else _STRANGERS).encode()).fetchall()
    return candidates, of


def disable(tx: Connection, values: Mapping[str, Any], *, known: bool) -> None:
    """Those of `usersync_gone` are to be disabled, by us."""
    tx.execute(_DISABLE.encode(), {"known": known})
    if values["run_id"]:
        tx.execute(_DISABLED.encode(), values)
        tx.execute(_MET_AGAIN.encode(), {**values, "still": STILL_ENABLED})


def sign_out(tx: Connection, values: Mapping[str, Any]) -> None:
    """Whom an earlier run disabled without hearing whether their sessions ended: that is done again."""
    tx.execute(_SIGN_OUT.encode(), values)


_LEAVERS = """
SELECT (SELECT count(*) FROM pg_temp.usersync_leaving WHERE known),
       (SELECT count(*) FROM pg_temp.usersync_accounts AS a
          JOIN pg_temp.usersync_there AS t ON t.id = a.account AND t.usersync_id = a.key AND t.enabled)
"""
_STRANGERS = """
SELECT (SELECT count(*) FROM pg_temp.usersync_leaving WHERE NOT known),
       (SELECT count(*) FROM pg_temp.usersync_there WHERE usersync_id IS NOT NULL AND enabled)
"""
# What we gave is taken where the account can't be disabled.
_DISABLE = """
INSERT INTO pg_temp.usersync_planned (number, key, account, record, action, wanted, before, after)
SELECT row_number() OVER (ORDER BY l.key COLLATE "C"), l.key, l.account, l.record, 'disable',
       jsonb_build_object('roles', '{}'::text[], 'groups', '{}'::text[], 'add_roles', '{}'::text[],
                          'remove_roles', ARRAY(SELECT unnest(h.roles) INTERSECT SELECT unnest(a.roles) ORDER BY 1),
                          'leave', ARRAY(SELECT unnest(h.groups) INTERSECT SELECT unnest(a.groups) ORDER BY 1)),
       jsonb_build_object('username', l.username, 'enabled', 'true'), jsonb_build_object('enabled', 'false')
  FROM pg_temp.usersync_leaving AS l JOIN pg_temp.usersync_gone AS g ON g.key = l.key
  LEFT JOIN pg_temp.usersync_held AS h ON h.account = l.account
  LEFT JOIN pg_temp.usersync_accounts AS a ON a.key = l.key AND a.account = l.account
 WHERE l.known = %(known)s
"""
# Before the calls: killed between two of them, an account that we locked is still known as such.
_DISABLED = """
INSERT INTO usersync.accounts AS a (job, step, target, key, record, account, disabled)
SELECT DISTINCT ON (d.key) %(job)s, %(step)s, %(target)s, d.key, d.record, d.account, true FROM pg_temp.usersync_planned AS d
 WHERE d.action = 'disable'
ON CONFLICT (job, step, target, key) DO UPDATE SET disabled = true WHERE a.account = excluded.account AND NOT a.disabled
"""
# Whether it goes this time is known after the call.
_MET_AGAIN = """
UPDATE usersync.rejects SET run_id = %(run_id)s WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s AND part = %(still)s
   AND key IN (SELECT key FROM pg_temp.usersync_planned WHERE action = 'disable')
"""
_SIGN_OUT = """
INSERT INTO pg_temp.usersync_planned (number, key, account, record, action, wanted, before, after)
SELECT row_number() OVER (ORDER BY i.id), i.key, i.account, NULL, 'disable', '{}',
       jsonb_build_object('username', t.username, 'enabled', 'false'), jsonb_build_object('enabled', 'false')
  FROM usersync.intents AS i JOIN pg_temp.usersync_there AS t ON t.id = i.account AND t.usersync_id = i.key AND NOT t.enabled
 WHERE i.job = %(job)s AND i.step = %(step)s AND i.target = %(target)s AND i.state = 'open' AND i.action = 'disable'
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_people AS p WHERE p.id = i.key)
"""
