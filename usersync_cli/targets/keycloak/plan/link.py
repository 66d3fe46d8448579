"""Which account is whose: by our attribute, else by the rule `adopt`; and what is in the way of people who have none."""

from __future__ import annotations

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import statements
from usersync_cli.targets.keycloak.plan.conflicts import LEFT_BEHIND, OF_NOBODY, OWNER_KNOWN, WHOLE
from usersync_cli.targets.keycloak.rules import Rules

_SQL = statements(__name__)


def link(tx: Connection, *, adopt: str, notify: bool, realm: Rules) -> None:
    """Link each person to an account by our attribute, else by the rule; the others are to be created, unless something is in the way."""
    shortest, longest = realm.username_length
    values = {"adopt": adopt, "notify": notify, "duplicates": realm.duplicate_emails, "shortest": shortest, "longest": longest}
    values["refused"] = f"[{realm.username_refused}]" if realm.username_refused else None
    values |= {"editable": realm.editable_usernames, "by_email": realm.email_as_username, "login_with_email": realm.login_with_email}
    for statement in _SQL.values():
        tx.execute(statement.format_map(_PIECES).encode(), values)
        tx.execute(WHOLE.encode())


_FREE = "p.account IS NULL AND NOT p.whole"
_TAKEN_BY_NAME = f"""
CASE {LEFT_BEHIND}
     WHEN t.email = p.email AND t.email_verified THEN 'adopt: by_email_verified, or by_username, would take the account over'
     ELSE 'adopt: by_username would take the account over' END
"""
_TAKEN_BY_EMAIL = f"""
CASE {LEFT_BEHIND}
     WHEN t.email_verified AND t.usersync_id IS NULL THEN 'adopt: by_email_verified would take the account over'
     ELSE 'an account of somebody else has it' END
"""
# Whoever has it is one of ours and gives it up in this very run, as far as the source goes: `_PASSED_ON` looks again.
_GIVES_UP = """
EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.account = t.id AND o.rule = 'ours' AND NOT o.refused AND {what})
"""
_GIVES_UP_NAME = _GIVES_UP.format(what="o.login <> t.username AND (%(editable)s OR %(by_email)s)")
_GIVES_UP_EMAIL = _GIVES_UP.format(what="o.email <> t.email")
_PIECES = {
    "free": _FREE,
    "of_nobody": OF_NOBODY,
    "owner_known": OWNER_KNOWN,
    "taken_by_name": _TAKEN_BY_NAME,
    "taken_by_email": _TAKEN_BY_EMAIL,
    "gives_up_name": _GIVES_UP_NAME,
    "gives_up_email": _GIVES_UP_EMAIL,
}
