"""What earlier runs wrote down of people and accounts: recalled for a plan, and brought up to date by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import statements
from usersync_cli.targets.keycloak.plan.conflicts import REFUSED, WHOLE

_SQL = statements(__name__)


def recall_refused(tx: Connection, values: Mapping[str, Any]) -> None:
    """Mark people whom the server has refused as they are now; it is not asked again."""
    tx.execute(_REFUSED.encode(), {**values, "refused": REFUSED})


def remember(tx: Connection, values: Mapping[str, Any]) -> None:
    """Make conflicts of what the server refused in an earlier run."""
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
    """Write down which account is whose, and what we give to it, before it is given."""
    tx.execute(_SQL["note_accounts"], values)
    tx.execute(_SQL["forget_accounts"], values)
