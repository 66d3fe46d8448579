"""Which account is whose: by our attribute, else by the rule `adopt`; and what is in the way of people who have none."""

from __future__ import annotations

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.targets.keycloak.plan.conflicts import LEFT_BEHIND, OF_NOBODY, OWNER_KNOWN, WHOLE
from usersync_cli.targets.keycloak.rules import Rules


def link(tx: Connection, *, adopt: str, notify: bool, realm: Rules) -> None:
    """By our attribute, else by the rule; whom neither finds is to be created, unless something is in the way."""
    shortest, longest = realm.username_length
    values = {"adopt": adopt, "notify": notify, "duplicates": realm.duplicate_emails, "shortest": shortest, "longest": longest}
    values["refused"] = f"[{realm.username_refused}]" if realm.username_refused else None
    values |= {"editable": realm.editable_usernames, "by_email": realm.email_as_username, "login_with_email": realm.login_with_email}
    for statement in _LINK:
        tx.execute(statement.encode(), values)
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
_LINK = (
    """
    UPDATE pg_temp.usersync_people AS p SET account = t.id, rule = 'ours' FROM pg_temp.usersync_there AS t
     WHERE t.usersync_id = p.id AND t.same_id = 1 AND NOT p.whole
    """,
    f"""
    INSERT INTO pg_temp.usersync_conflicts
    SELECT p.id, 'two_accounts', 'usersync_id', true FROM pg_temp.usersync_people AS p
     WHERE {_FREE} AND EXISTS (SELECT FROM pg_temp.usersync_there AS t WHERE t.usersync_id = p.id)
    """,
    "UPDATE pg_temp.usersync_people SET login = email WHERE %(by_email)s",
    f"""
    INSERT INTO pg_temp.usersync_conflicts
    SELECT p.id, CASE WHEN %(by_email)s THEN 'no_email' ELSE 'no_username' END,
           CASE WHEN %(by_email)s THEN 'the realm takes the e-mail address as user name' ELSE '' END, true
      FROM pg_temp.usersync_people AS p WHERE {_FREE} AND login IS NULL
    """,
    f"""
    INSERT INTO pg_temp.usersync_conflicts
    SELECT p.id, 'same_username', 'username of another person, in other letters', true FROM pg_temp.usersync_people AS p
     WHERE {_FREE} AND NOT %(by_email)s AND EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.login = p.login AND o.id <> p.id)
    """,
    # Somebody who comes back under another id: the account is the same person's, and it was us who disabled it.
    f"""
    UPDATE pg_temp.usersync_people AS p SET account = t.id, rule = 'came_back'
      FROM pg_temp.usersync_there AS t JOIN pg_temp.usersync_accounts AS a ON a.account = t.id AND a.key = t.usersync_id AND a.disabled
     WHERE {_FREE} AND t.username = p.login AND NOT t.enabled AND t.same_id = 1 AND {OF_NOBODY}
       AND (t.email = p.email OR t.email IS NULL AND p.email IS NULL
                                 AND (lower(t.first_name), lower(t.last_name)) = (lower(p.first_name), lower(p.last_name)))
       AND NOT EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.login = p.login AND o.id <> p.id)
    """,
    # by username
    f"""
    UPDATE pg_temp.usersync_people AS p
       SET account = t.id, rule = CASE WHEN t.email = p.email AND t.email_verified AND %(adopt)s = 'by_email_verified'
                                       THEN 'by_email_verified' ELSE 'by_username' END
      FROM pg_temp.usersync_there AS t
     WHERE {_FREE} AND t.username = p.login AND t.usersync_id IS NULL
       AND (%(adopt)s = 'by_username' OR (%(adopt)s = 'by_email_verified' AND t.email = p.email AND t.email_verified))
    """,
    f"""
    INSERT INTO pg_temp.usersync_conflicts
    SELECT p.id, 'username_taken', {_TAKEN_BY_NAME}, true
      FROM pg_temp.usersync_people AS p JOIN pg_temp.usersync_there AS t ON t.username = p.login {OWNER_KNOWN}
     WHERE {_FREE} AND NOT %(by_email)s AND NOT {_GIVES_UP_NAME}
    """,
    f"""
    INSERT INTO pg_temp.usersync_conflicts
    SELECT p.id, 'username_taken', 'it is the e-mail address of account ' || min(t.id) || ', with which that one logs in', true
      FROM pg_temp.usersync_people AS p JOIN pg_temp.usersync_there AS t ON t.email = p.login
     WHERE {_FREE} AND %(login_with_email)s AND NOT %(by_email)s AND NOT {_GIVES_UP_EMAIL} GROUP BY p.id
    """,
    # Keycloak's own rules for user names; by these a preview knows what the server would say
    f"""
    INSERT INTO pg_temp.usersync_conflicts
    SELECT p.id, 'invalid_username', 'username', true FROM pg_temp.usersync_people AS p
     WHERE {_FREE} AND NOT %(by_email)s AND (length(login) NOT BETWEEN %(shortest)s AND %(longest)s OR login ~ %(refused)s)
    """,
    # by e-mail
    f"""
    INSERT INTO pg_temp.usersync_conflicts
    SELECT p.id, 'same_email', 'email of another person', true FROM pg_temp.usersync_people AS p
     WHERE {_FREE} AND NOT %(duplicates)s AND EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.email = p.email AND o.id <> p.id)
    """,
    f"""
    UPDATE pg_temp.usersync_people AS p SET account = t.id, rule = 'by_email_verified'
      FROM (SELECT DISTINCT ON (email) * FROM pg_temp.usersync_there WHERE email_verified AND usersync_id IS NULL ORDER BY email, id) AS t
     WHERE {_FREE} AND %(adopt)s = 'by_email_verified' AND t.email = p.email
       AND NOT EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.account = t.id)
       AND NOT EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.email = p.email AND o.id <> p.id)
    """,
    f"""
    INSERT INTO pg_temp.usersync_conflicts
    SELECT DISTINCT ON (p.id) p.id, 'email_taken', {_TAKEN_BY_EMAIL}, true
      FROM pg_temp.usersync_people AS p JOIN pg_temp.usersync_there AS t ON t.email = p.email {OWNER_KNOWN}
     WHERE {_FREE} AND NOT %(duplicates)s AND NOT {_GIVES_UP_EMAIL}
     ORDER BY p.id, t.id
    """,
    f"""
    INSERT INTO pg_temp.usersync_conflicts
    SELECT p.id, 'invalid_email', 'email', true FROM pg_temp.usersync_people AS p
     WHERE {_FREE} AND email !~ '^[^@[:space:]]+@[^@[:space:]]+$'
    """,
    f"""
    INSERT INTO pg_temp.usersync_conflicts
    SELECT p.id, 'no_email', 'notify: email', true FROM pg_temp.usersync_people AS p WHERE {_FREE} AND %(notify)s AND email IS NULL
    """,
)
