"""What earlier runs wrote down of people and accounts: recalled for a plan, and brought up to date by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.targets.keycloak.plan.conflicts import REFUSED, WHOLE


def recall_refused(tx: Connection, values: Mapping[str, Any]) -> None:
    """Mark whom the server has refused; the same is not asked again."""
    tx.execute(_REFUSED.encode(), {**values, "refused": REFUSED})


def remember(tx: Connection, values: Mapping[str, Any]) -> None:
    """Say again what was refused."""
    tx.execute(_REFUSED_BEFORE.encode(), {**values, "refused": REFUSED})
    tx.execute(WHOLE.encode())


_BEFORE = """
    SELECT p.id, p.account, p.document, r.reason, r.detail FROM pg_temp.usersync_people AS p JOIN usersync.rejects AS r
        ON r.job = %(job)s AND r.step = %(step)s AND r.stream = %(stream)s AND r.key = p.id AND r.hash = sha256(p.document)
"""
# A password that was refused says nothing of its person: earlier versions kept it.
_REFUSALS = f"(SELECT * FROM ({_BEFORE}) AS r WHERE r.reason = %(refused)s AND r.detail !~* 'password') AS r"
_REFUSED = f"UPDATE pg_temp.usersync_people AS o SET refused = true FROM {_REFUSALS} WHERE o.id = r.id"
# Of somebody whose account is ours only the fields are left alone: roles and groups are another matter.
_REFUSED_BEFORE = f"""
INSERT INTO pg_temp.usersync_conflicts
SELECT r.id, r.reason, r.detail, p.rule IS DISTINCT FROM 'ours', r.document FROM {_REFUSALS}
  JOIN pg_temp.usersync_people AS p ON p.id = r.id AND p.refused
"""


def note_accounts(tx: Connection, values: Mapping[str, Any]) -> None:
    """Whose account is whose, and what we give: before it is given."""
    tx.execute(_NOTE_ACCOUNTS.encode(), values)
    tx.execute(_FORGET_ACCOUNTS.encode(), values)


_NOTE_ACCOUNTS = """
INSERT INTO usersync.accounts AS a (job, step, target, key, record, account, disabled, roles, groups, mail)
SELECT %(job)s, %(step)s, %(target)s, p.id, p.record, p.account, p.disabled AND NOT p.enabled,
       CASE WHEN d.key IS NULL THEN p.roles ELSE ARRAY(SELECT unnest(p.gave_roles) UNION SELECT unnest(p.roles) ORDER BY 1) END,
       CASE WHEN d.key IS NULL THEN p.groups ELSE ARRAY(SELECT unnest(p.gave_groups) UNION SELECT unnest(p.groups) ORDER BY 1) END,
       CASE WHEN p.mail IN ('first', 'again') THEN 'owed' ELSE p.mail END
  FROM pg_temp.usersync_calls AS p LEFT JOIN pg_temp.usersync_planned AS d ON d.key = p.id
 WHERE p.account IS NOT NULL
ON CONFLICT (job, step, target, key) DO UPDATE
   SET record = excluded.record, account = excluded.account, roles = excluded.roles, groups = excluded.groups, mail = excluded.mail,
       disabled = CASE WHEN a.account = excluded.account THEN a.disabled ELSE excluded.disabled END
                  AND NOT EXISTS (SELECT FROM pg_temp.usersync_pairs AS p WHERE p.id = excluded.key AND p.enabled)
 WHERE (a.record, a.account, a.roles, a.groups, a.mail)
       IS DISTINCT FROM (excluded.record, excluded.account, excluded.roles, excluded.groups, excluded.mail)
    OR (a.disabled AND EXISTS (SELECT FROM pg_temp.usersync_pairs AS p WHERE p.id = excluded.key AND p.enabled))
"""
# Whose account was deleted by hand, or is another id's now.
_FORGET_ACCOUNTS = """
DELETE FROM usersync.accounts AS a WHERE job = %(job)s AND step = %(step)s AND target = %(target)s
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_there AS t WHERE t.id = a.account
                      AND (t.usersync_id IS NOT DISTINCT FROM a.key OR NOT EXISTS (
                              SELECT FROM pg_temp.usersync_accounts AS b WHERE b.account = a.account AND b.key = t.usersync_id)))
"""
