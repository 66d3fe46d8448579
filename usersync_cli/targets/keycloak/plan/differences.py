"""What differs between each person and their account, and the calls that make the account equal."""

from __future__ import annotations

from typing import Any

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import statements
from usersync_cli.targets.keycloak.plan.conflicts import LEFT_BEHIND, OWNER_KNOWN, WHOLE

_SQL = statements(__name__)
PARKED = "usersync-"  # begins a user name that an account has while another one takes its own
PARKED_MAIL = "@usersync.invalid"  # ends such an e-mail address; no mail server answers for it (RFC 2606)


def differ(tx: Connection, values: dict[str, Any]) -> None:
    """Find the conflicts that concern only a part of a person, and the calls.

    `values`: those of the realm and the settings that decide, and `fields`: of email, first_name, last_name those that can be written.
    """
    tx.execute(_statement("pairs"))
    tx.execute(_statement("moves"), values)
    tx.execute(_statement("index_moves"))
    # Whoever can't have the new name keeps the old one, and so somebody else may not have that.
    while sum(tx.execute(_statement(name), values).rowcount for name in ("keep_login", "keep_email")):
        pass
    for moved in _MOVED:
        tx.execute(moved.encode(), values)
    for name in ("username_changed", "locked_by_hand", "extra_role", "calls", "mails", "mail_failed", "planned"):
        tx.execute(_statement(name), values)
    tx.execute(_statement("documents"))


def _statement(name: str) -> bytes:
    return _SQL[name].format_map(_PIECES).encode()


_STAYS = """
EXISTS (SELECT FROM pg_temp.usersync_there AS t WHERE t.{has} = m.{wants} AND t.id IS DISTINCT FROM m.account
           AND NOT EXISTS (SELECT FROM pg_temp.usersync_moves AS o
                            WHERE o.account = t.id AND o.{moves} IS NOT NULL AND NOT o.keeps_{moves}))
"""
_KEPT = """
    INSERT INTO pg_temp.usersync_conflicts
    SELECT DISTINCT ON (m.id) m.id, '{reason}', CASE {left} ELSE 'somebody else has it' END
           || CASE WHEN m.account IS NULL THEN '' ELSE '; all else is kept equal' END, m.account IS NULL
      FROM pg_temp.usersync_moves AS m
      LEFT JOIN pg_temp.usersync_there AS t ON t.{has} = m.{wants} AND t.id IS DISTINCT FROM m.account {known}
     WHERE m.keeps_{wants} ORDER BY m.id, t.id
"""
_MOVED = (
    _KEPT.format(reason="username_taken", left=LEFT_BEHIND, has="username", wants="login", known=OWNER_KNOWN),
    _KEPT.format(reason="email_taken", left=LEFT_BEHIND, has="email", wants="email", known=OWNER_KNOWN),
    WHOLE,
    "DELETE FROM pg_temp.usersync_pairs AS p USING pg_temp.usersync_people AS o WHERE o.id = p.id AND o.whole",
)
_EXTRA = "SELECT unnest({held}) EXCEPT SELECT unnest({wanted}) EXCEPT SELECT unnest({gave})"
_MINUS = "ARRAY(SELECT unnest({a}) EXCEPT SELECT unnest({b}) ORDER BY 1)"
_TAKEN = (
    "ARRAY(SELECT unnest({held}) EXCEPT SELECT unnest({wanted})"
    " EXCEPT (SELECT one FROM unnest({held}) AS h(one) WHERE %(extra)s = 'report' AND one <> ALL({gave})) ORDER BY 1)"
)
# Somebody else is to have what m has now; so m has something else in between.
_WANTED_BY = """
m.{gives} IS NOT NULL AND m.account IS NOT NULL AND CASE '{gives}' WHEN 'old_login' THEN m.login ELSE m.email END IS NOT NULL
       AND EXISTS (SELECT FROM pg_temp.usersync_moves AS o WHERE o.id <> m.id AND (o.login = m.{gives} AND NOT o.keeps_login
                                                                                 OR o.email = m.{gives} AND NOT o.keeps_email))
"""
_AFTER = "array_to_string(ARRAY(SELECT unnest({held}) EXCEPT SELECT unnest({taken}) UNION SELECT unnest({wanted}) ORDER BY 1), ', ')"
_PIECES = {
    "login_is_held": _STAYS.format(has="username", wants="login", moves="login"),
    "login_is_an_address": _STAYS.format(has="email", wants="login", moves="email"),
    "email_is_held": _STAYS.format(has="email", wants="email", moves="email"),
    "email_is_a_login": _STAYS.format(has="username", wants="email", moves="login"),
    "login_is_wanted": _WANTED_BY.format(gives="old_login"),
    "email_is_wanted": _WANTED_BY.format(gives="old_email"),
    "parked": PARKED,
    "parked_mail": PARKED_MAIL,
    "add_roles": _MINUS.format(a="roles", b="old_roles"),
    "join_groups": _MINUS.format(a="groups", b="old_groups"),
    "remove_roles": _TAKEN.format(held="old_roles", wanted="roles", gave="gave_roles"),
    "leave_groups": _TAKEN.format(held="old_groups", wanted="groups", gave="gave_groups"),
    "extra_roles": _EXTRA.format(held="old_roles", wanted="roles", gave="gave_roles"),
    "extra_groups": _EXTRA.format(held="old_groups", wanted="groups", gave="gave_groups"),
    "roles_after": _AFTER.format(held="old_roles", taken="remove_roles", wanted="roles"),
    "groups_after": _AFTER.format(held="old_groups", taken="leave_groups", wanted="groups"),
}


def hold_back(tx: Connection) -> int:
    """Take all new accounts out of the plan; returns how many there were."""
    return tx.execute("DELETE FROM pg_temp.usersync_planned WHERE action = 'create'").rowcount
