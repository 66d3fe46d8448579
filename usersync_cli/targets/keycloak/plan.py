"""What differs between the people that are desired and the accounts of a realm: SQL over temp tables of one transaction.

`usersync_people` is who is desired, `usersync_there` the realm's accounts, `usersync_held` their roles and groups,
`usersync_accounts` whose account is whose as far as we know. From them come `usersync_conflicts`, for a person to decide,
`usersync_planned`, the calls for each person, and `usersync_leaving`, whose people the source has no more.

Keycloak stores user names and e-mail addresses in lower case, and compares them so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from psycopg import sql

from usersync_cli.clients.postgres.arrays import texts
from usersync_cli.clients.postgres.connections import Connection, as_user
from usersync_cli.clients.postgres.sql import listed
from usersync_cli.model import Counts

REFUSED = "refused_by_keycloak"  # reason of a reject: the server said so, and is not asked again about the same person
MAIL_FAILED = "mail_failed"
STILL_ENABLED = "still_enabled"  # somebody left, and the server refuses to disable the account
PARKED = "usersync-"  # begins a user name that an account has while another one takes its own
PARKED_MAIL = "@usersync.invalid"  # ends such an e-mail address; no mail server answers for it (RFC 2606)


class Realm(Protocol):
    """What of the realm's settings decides."""

    duplicate_emails: bool
    editable_usernames: bool
    email_as_username: bool  # the user name is the e-mail address, whatever is sent
    login_with_email: bool  # then a user name may not be the e-mail address of another account, or the other way round
    username_length: tuple[int, int]
    username_refused: str  # signs that it surely refuses, as they stand between the brackets of a regular expression


# people

_TEXTS = ("id", "username", "email", "first_name", "last_name", "_key")
COLUMNS = ("id", "username", "email", "first_name", "last_name", "roles")


def stage_people(tx: Connection, transform: sql.Composable, given: Sequence[str], order_by: str | None) -> tuple[int, int]:
    """The transform's rows, each id once, the first of `order_by`; gives how many there are, and how many ids."""
    cells = []
    for name in (*_TEXTS, "roles"):
        type_ = sql.SQL("pg_catalog.text[]" if name == "roles" else "pg_catalog.text")
        cell = sql.SQL("q.{}::{}") if name in given else sql.SQL("NULL::{1}")
        cells.append(sql.SQL("{} AS {}").format(cell.format(sql.Identifier(name), type_), sql.Identifier(name)))
    order = sql.SQL("ORDER BY {}").format(sql.SQL(order_by)) if order_by else sql.SQL("")
    with as_user(tx):
        tx.execute(sql.SQL(_ALL).format(cells=listed(cells), transform=transform, order=order))
    ((read, distinct),) = tx.execute("SELECT count(*), count(*) FILTER (WHERE nth = 1) FROM pg_temp.usersync_all").fetchall()
    # As Java does it, also where the database has the locale C; PostgreSQL 17 brought the collation.
    unicode = tx.execute("SELECT FROM pg_catalog.pg_collation WHERE collname = 'pg_c_utf8'").fetchone() is not None
    tx.execute(_PEOPLE.replace("@collate@", 'COLLATE pg_catalog."pg_c_utf8"' if unicode else "").encode())
    return read, distinct


_ALL = """
CREATE TEMP TABLE usersync_all ON COMMIT DROP AS
SELECT {cells}, CASE WHEN q.id IS NULL THEN 1 ELSE pg_catalog.row_number() OVER (PARTITION BY q.id {order}) END AS nth
  FROM ({transform}) AS q
"""
_PEOPLE = """
CREATE TEMP TABLE usersync_conflicts (
    id text, reason text NOT NULL, detail text NOT NULL, whole boolean NOT NULL, document bytea
) ON COMMIT DROP;
INSERT INTO pg_temp.usersync_conflicts
SELECT NULL, 'no_key', '', true, convert_to((to_jsonb(a) - '{_key,nth}'::text[])::text, 'UTF8')
  FROM pg_temp.usersync_all AS a WHERE id IS NULL;
CREATE TEMP TABLE usersync_people ON COMMIT DROP AS
SELECT id, lower(NULLIF(btrim(username), '') @collate@) AS login, lower(NULLIF(btrim(email), '') @collate@) AS email,
       NULLIF(btrim(first_name), '') AS first_name, NULLIF(btrim(last_name), '') AS last_name, COALESCE(roles, '{}') AS roles,
       _key AS record, convert_to((to_jsonb(a) - '{_key,nth}'::text[])::text, 'UTF8') AS document,
       NULL::text AS account, NULL::text AS rule, false AS whole, false AS refused
  FROM pg_temp.usersync_all AS a WHERE id IS NOT NULL AND nth = 1;
CREATE UNIQUE INDEX ON pg_temp.usersync_people (id);
CREATE INDEX ON pg_temp.usersync_people (login);
CREATE INDEX ON pg_temp.usersync_people (email);
ANALYZE pg_temp.usersync_people
"""

# what is there


def stages(tx: Connection) -> None:
    """Where the realm's accounts and their roles and groups are read into."""
    tx.execute(_STAGES.encode())


def given(tx: Connection) -> tuple[list[str], list[str]]:
    """Roles and groups that we gave to somebody, whatever the maps say now."""
    given = "SELECT DISTINCT unnest({}) FROM pg_temp.usersync_accounts ORDER BY 1"
    roles, groups = ([str(name) for (name,) in tx.execute(given.format(kind).encode()).fetchall()] for kind in ("roles", "groups"))
    return roles, groups


def staged(tx: Connection) -> None:
    """All of them were read: an account that came on two pages is one."""
    tx.execute(_STAGED.encode())


_STAGES = """
CREATE TEMP TABLE usersync_read (
    id text, username text, email text, first_name text, last_name text, enabled boolean, email_verified boolean, usersync_id text,
    fresh boolean, pending boolean
) ON COMMIT DROP;
CREATE TEMP TABLE usersync_held_read (kind text, name text, managed boolean, account text) ON COMMIT DROP
"""
_STAGED = """
CREATE TEMP TABLE usersync_there ON COMMIT DROP AS
SELECT *, count(*) OVER (PARTITION BY usersync_id) AS same_id FROM (SELECT DISTINCT ON (id) * FROM pg_temp.usersync_read ORDER BY id) AS r;
CREATE UNIQUE INDEX ON pg_temp.usersync_there (id);
CREATE INDEX ON pg_temp.usersync_there (username);
CREATE INDEX ON pg_temp.usersync_there (email);
CREATE INDEX ON pg_temp.usersync_there (usersync_id);
-- Of what the maps no longer name, only what we gave is ours to take.
DELETE FROM pg_temp.usersync_held_read AS h WHERE NOT h.managed AND NOT EXISTS (
    SELECT FROM pg_temp.usersync_accounts AS a
     WHERE a.account = h.account AND h.name = ANY(CASE h.kind WHEN 'role' THEN a.roles ELSE a.groups END));
CREATE TEMP TABLE usersync_held ON COMMIT DROP AS
SELECT account, COALESCE(array_agg(DISTINCT name) FILTER (WHERE kind = 'role'), '{}') AS roles,
       COALESCE(array_agg(DISTINCT name) FILTER (WHERE kind = 'group'), '{}') AS groups
  FROM pg_temp.usersync_held_read GROUP BY account;
CREATE UNIQUE INDEX ON pg_temp.usersync_held (account);
ANALYZE pg_temp.usersync_there, pg_temp.usersync_held
"""

# who is to have what

_MAPS = """
CREATE TEMP TABLE usersync_role_map ON COMMIT DROP AS
SELECT name, role, position FROM unnest(%(names)s::text[], %(roles)s::text[]) WITH ORDINALITY AS m(name, role, position);
"""
_GROUPS = """
CREATE TEMP TABLE usersync_group_map ON COMMIT DROP AS SELECT role, path FROM unnest(%(of)s::text[], %(paths)s::text[]) AS m(role, path)
"""
_WANTED = """
CREATE TEMP TABLE usersync_mapped ON COMMIT DROP AS
SELECT p.id, btrim(r.name) AS name, COALESCE(m.role, %(default)s::text) AS role, COALESCE(m.position, 1000000) AS position
  FROM pg_temp.usersync_people AS p CROSS JOIN LATERAL unnest(p.roles) AS r(name)
  LEFT JOIN pg_temp.usersync_role_map AS m ON m.name = lower(btrim(r.name))
"""
_WANTED_TOO = """
INSERT INTO pg_temp.usersync_conflicts
SELECT id, 'unknown_role', 'role ' || string_agg(DISTINCT name, ', '),
       NOT EXISTS (SELECT FROM pg_temp.usersync_there AS t WHERE t.usersync_id = m.id AND t.same_id = 1)
  FROM pg_temp.usersync_mapped AS m WHERE role IS NULL GROUP BY id;
CREATE TEMP TABLE usersync_wanted ON COMMIT DROP AS
SELECT p.id, COALESCE(r.roles, '{}') AS roles, COALESCE(g.groups, '{}') AS groups
  FROM pg_temp.usersync_people AS p
  LEFT JOIN (SELECT id, array_agg(DISTINCT role) AS roles FROM pg_temp.usersync_mapped
              WHERE role IS NOT NULL GROUP BY id) AS r ON r.id = p.id
  LEFT JOIN (SELECT DISTINCT ON (m.id) m.id, ARRAY[g.path] AS groups FROM pg_temp.usersync_mapped AS m
               JOIN pg_temp.usersync_group_map AS g ON g.role = m.role ORDER BY m.id, m.position, m.role) AS g ON g.id = p.id;
CREATE UNIQUE INDEX ON pg_temp.usersync_wanted (id);
UPDATE pg_temp.usersync_people AS p SET whole = true FROM pg_temp.usersync_conflicts AS c WHERE c.id = p.id AND c.whole
"""


def want(tx: Connection, values: dict[str, Any]) -> None:
    """Each person's realm roles and group. `values`: names, roles, default, of, paths."""
    for statement in (_MAPS, _GROUPS, _WANTED):
        tx.execute(statement.encode(), values)
    tx.execute(_WANTED_TOO.encode())


def needed(tx: Connection) -> list[tuple[str, str]]:
    """(role or group, its name) of all that somebody is to have."""
    return [(str(kind), str(name)) for kind, name in tx.execute(_NEEDED.encode()).fetchall()]


_NEEDED = """
SELECT DISTINCT 'role', unnest(w.roles) FROM pg_temp.usersync_wanted AS w JOIN pg_temp.usersync_people AS p ON p.id = w.id
 WHERE NOT p.whole
UNION
SELECT DISTINCT 'group', unnest(w.groups) FROM pg_temp.usersync_wanted AS w JOIN pg_temp.usersync_people AS p ON p.id = w.id
 WHERE NOT p.whole
ORDER BY 1, 2
"""

# whose account is whose


def link(tx: Connection, *, adopt: str, notify: bool, realm: Realm) -> None:
    """By our attribute, else by the rule; whom neither finds is to be created, unless something is in the way."""
    shortest, longest = realm.username_length
    values = {"adopt": adopt, "notify": notify, "duplicates": realm.duplicate_emails, "shortest": shortest, "longest": longest}
    values["refused"] = f"[{realm.username_refused}]" if realm.username_refused else None
    values |= {"editable": realm.editable_usernames, "by_email": realm.email_as_username, "login_with_email": realm.login_with_email}
    for statement in _LINK:
        tx.execute(statement.encode(), values)
        tx.execute(_WHOLE.encode())


# Of a person whose conflict is whole, nothing is done.
_WHOLE = """
UPDATE pg_temp.usersync_people AS p SET whole = true FROM pg_temp.usersync_conflicts AS c WHERE c.id = p.id AND c.whole AND NOT p.whole
"""
_FREE = "p.account IS NULL AND NOT p.whole"
# Whose account is in the way: t is the account, `a` what we know of it.
_KNOWN = """
LEFT JOIN LATERAL (
    SELECT a.disabled FROM pg_temp.usersync_accounts AS a WHERE a.account = t.id ORDER BY a.disabled DESC LIMIT 1
) AS a ON true
"""
_OF_NOBODY = "t.usersync_id IS NOT NULL AND NOT EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.id = t.usersync_id)"
_LEFT_BEHIND = f"""
WHEN {_OF_NOBODY}
THEN 'account ' || t.id || ' has it, whose person the source no longer has; ' ||
     CASE WHEN t.enabled THEN 'still enabled' WHEN a.disabled THEN 'disabled by usersync' ELSE 'not disabled by usersync' END ||
     '. The same person? usersync keycloak set-id ' || t.id || ' KEY, then run again; if not, give that account another one'
WHEN t.usersync_id IS NOT NULL THEN 'account ' || t.id || ' has it, of another person at the source'
"""
_TAKEN_BY_NAME = f"""
CASE {_LEFT_BEHIND}
     WHEN t.email = p.email AND t.email_verified THEN 'adopt: by_email_verified, or by_username, would take the account over'
     ELSE 'adopt: by_username would take the account over' END
"""
# What the validators of a user profile surely refuse of a user name, so that a preview knows it; the rest the server decides.
# Seen on Keycloak 26.7: white space and most signs of ASCII; and what is neither Latin nor common to all scripts.
REFUSED_SIGNS = {
    "username-prohibited-characters": (
        r"\u0001-\u0020!\"#$%&'()*,/:;<=>?\[\\\]^`{|}~\u007f\u0085\u00a0\u00a7\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    ),
    # Combining marks; letters of Greek, Coptic and Cyrillic, Armenian, Hebrew, Arabic, Devanagari, Thai, Georgian, Hangul, Ethiopic,
    # Kana and Han.
    "up-username-not-idn-homograph": (
        r"\u0300-\u036f\u0386\u0388-\u0484\u0487-\u052f\u0531-\u0556\u0561-\u0587\u05d0-\u05ea\u0620-\u063f\u0641-\u064a\u0671-\u06d3"
        r"\u0904-\u0939\u0e01-\u0e30\u10a0-\u10c5\u10d0-\u10fa\u1100-\u11ff\u1200-\u1248\u1f20-\u1f45\u3041-\u3096\u30a1-\u30fa"
        r"\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
    ),
}
_TAKEN_BY_EMAIL = f"""
CASE {_LEFT_BEHIND}
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
     WHERE {_FREE} AND t.username = p.login AND NOT t.enabled AND t.same_id = 1 AND {_OF_NOBODY}
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
      FROM pg_temp.usersync_people AS p JOIN pg_temp.usersync_there AS t ON t.username = p.login {_KNOWN}
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
      FROM pg_temp.usersync_people AS p JOIN pg_temp.usersync_there AS t ON t.email = p.email {_KNOWN}
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

# what differs


def differ(tx: Connection, values: dict[str, Any]) -> None:
    """The conflicts that concern a part of a person, and the calls.

    `values`: those of the realm and the settings that decide, and `fields`: of email, first_name, last_name those that can be written.
    """
    tx.execute(_PAIRS.encode())
    tx.execute(_MOVES.encode(), values)
    tx.execute(_MOVES_FOUND.encode())
    # Whoever can't have the new name keeps the old one, and so somebody else may not have that.
    while sum(tx.execute(statement.encode(), values).rowcount for statement in _KEEP):
        pass
    for statement in (*_MOVED, *_PARTS, _CALLS, *_MAILS, _PLANNED):
        tx.execute(statement.encode(), values)
    tx.execute(_DOCUMENTS.encode())
    tx.execute(_LEAVING.encode())


# What is known of an account is what is known of its owner; of one that another id took over, of the owner before.
_PAIRS = """
CREATE TEMP TABLE usersync_pairs ON COMMIT DROP AS
SELECT p.id, p.login, p.email, p.first_name, p.last_name, p.account, p.rule, p.refused, p.record, p.document, w.roles, w.groups,
       t.username AS old_login, t.email AS old_email, t.first_name AS old_first_name, t.last_name AS old_last_name, t.enabled, t.fresh,
       t.pending, a.mail,
       COALESCE(h.roles, '{}') AS old_roles, COALESCE(h.groups, '{}') AS old_groups,
       COALESCE(a.roles, '{}') AS gave_roles, COALESCE(a.groups, '{}') AS gave_groups, COALESCE(a.disabled, false) AS disabled,
       b.key IS NOT NULL AS begun
  FROM pg_temp.usersync_people AS p
  JOIN pg_temp.usersync_wanted AS w ON w.id = p.id
  LEFT JOIN pg_temp.usersync_there AS t ON t.id = p.account
  LEFT JOIN pg_temp.usersync_held AS h ON h.account = p.account
  LEFT JOIN (SELECT DISTINCT ON (a.account) a.* FROM pg_temp.usersync_accounts AS a JOIN pg_temp.usersync_there AS t ON t.id = a.account
              ORDER BY a.account, a.key = t.usersync_id DESC NULLS LAST) AS a
       ON a.account = p.account AND (a.key = p.id OR p.rule IN ('ours', 'came_back'))
  LEFT JOIN pg_temp.usersync_begun AS b ON b.key = p.id
 WHERE NOT p.whole
"""
# Who is to have another user name or e-mail address than now, or any at all.
_MOVES = """
CREATE TEMP TABLE usersync_moves ON COMMIT DROP AS
SELECT * FROM (
    SELECT id, account, old_login, old_email, false AS keeps_login, false AS keeps_email,
           CASE WHEN NOT %(by_email)s AND (account IS NULL OR (%(editable)s AND login <> old_login)) THEN login END AS login,
           CASE WHEN email <> COALESCE(old_email, '') AND 'email' = ANY(%(fields)s) THEN email END AS email
      FROM pg_temp.usersync_pairs WHERE NOT refused) AS m
 WHERE login IS NOT NULL OR email IS NOT NULL
"""
_MOVES_FOUND = """
CREATE INDEX ON pg_temp.usersync_moves (account);
CREATE INDEX ON pg_temp.usersync_moves (login);
CREATE INDEX ON pg_temp.usersync_moves (email);
ANALYZE pg_temp.usersync_moves
"""
_STAYS = """
EXISTS (SELECT FROM pg_temp.usersync_there AS t WHERE t.{has} = m.{wants} AND t.id IS DISTINCT FROM m.account
           AND NOT EXISTS (SELECT FROM pg_temp.usersync_moves AS o
                            WHERE o.account = t.id AND o.{moves} IS NOT NULL AND NOT o.keeps_{moves}))
"""
_KEEP = (
    f"""
    UPDATE pg_temp.usersync_moves AS m SET keeps_login = true WHERE login IS NOT NULL AND NOT keeps_login
       AND (EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.login = m.login AND o.id <> m.id)
            OR {_STAYS.format(has="username", wants="login", moves="login")}
            OR %(login_with_email)s AND {_STAYS.format(has="email", wants="login", moves="email")})
    """,
    f"""
    UPDATE pg_temp.usersync_moves AS m SET keeps_email = true WHERE email IS NOT NULL AND NOT keeps_email AND NOT %(duplicates)s
       AND (EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.email = m.email AND o.id <> m.id)
            OR {_STAYS.format(has="email", wants="email", moves="email")}
            OR %(login_with_email)s AND NOT %(by_email)s AND {_STAYS.format(has="username", wants="email", moves="login")})
    """,
)
_KEPT = """
    INSERT INTO pg_temp.usersync_conflicts
    SELECT DISTINCT ON (m.id) m.id, '{reason}', CASE {left} ELSE 'somebody else has it' END
           || CASE WHEN m.account IS NULL THEN '' ELSE '; all else is kept equal' END, m.account IS NULL
      FROM pg_temp.usersync_moves AS m
      LEFT JOIN pg_temp.usersync_there AS t ON t.{has} = m.{wants} AND t.id IS DISTINCT FROM m.account {known}
     WHERE m.keeps_{wants} ORDER BY m.id, t.id
"""
_MOVED = (
    _KEPT.format(reason="username_taken", left=_LEFT_BEHIND, has="username", wants="login", known=_KNOWN),
    _KEPT.format(reason="email_taken", left=_LEFT_BEHIND, has="email", wants="email", known=_KNOWN),
    _WHOLE,
    "DELETE FROM pg_temp.usersync_pairs AS p USING pg_temp.usersync_people AS o WHERE o.id = p.id AND o.whole",
)
_EXTRA = "SELECT unnest({held}) EXCEPT SELECT unnest({wanted}) EXCEPT SELECT unnest({gave})"
_PARTS = (
    """
    INSERT INTO pg_temp.usersync_conflicts
    SELECT id, 'username_changed', 'Edit username is off in Realm settings > Login; all else is kept equal', false
      FROM pg_temp.usersync_pairs WHERE login <> old_login AND NOT %(editable)s AND NOT %(by_email)s
    """,
    """
    INSERT INTO pg_temp.usersync_conflicts
    SELECT id, 'locked_by_hand', 'enabled; all else is kept equal', false FROM pg_temp.usersync_pairs WHERE NOT enabled AND NOT disabled
    """,
    f"""
    INSERT INTO pg_temp.usersync_conflicts
    SELECT id, 'extra_role', (SELECT 'not given by this job: ' || string_agg(one, ', ' ORDER BY one) FROM
                              (({_EXTRA.format(held="old_roles", wanted="roles", gave="gave_roles")})
                               UNION ({_EXTRA.format(held="old_groups", wanted="groups", gave="gave_groups")})) AS e(one)), false
      FROM pg_temp.usersync_pairs
     WHERE account IS NOT NULL AND %(extra)s = 'report'
       AND (EXISTS ({_EXTRA.format(held="old_roles", wanted="roles", gave="gave_roles")})
            OR EXISTS ({_EXTRA.format(held="old_groups", wanted="groups", gave="gave_groups")}))
    """,
)
_DOCUMENTS = """
UPDATE pg_temp.usersync_conflicts AS c SET document = p.document FROM pg_temp.usersync_people AS p WHERE p.id = c.id
"""
_MINUS = "ARRAY(SELECT unnest({a}) EXCEPT SELECT unnest({b}) ORDER BY 1)"
_TAKEN = (
    "ARRAY(SELECT unnest({held}) EXCEPT SELECT unnest({wanted})"
    " EXCEPT (SELECT one FROM unnest({held}) AS h(one) WHERE %(extra)s = 'report' AND one <> ALL({gave})) ORDER BY 1)"
)
# What is to be done to each account; NULL or empty where nothing is.
# Somebody else is to have what m has now; so m has something else in between.
_WANTED_BY = """
m.{gives} IS NOT NULL AND m.account IS NOT NULL AND CASE '{gives}' WHEN 'old_login' THEN m.login ELSE m.email END IS NOT NULL
       AND EXISTS (SELECT FROM pg_temp.usersync_moves AS o WHERE o.id <> m.id AND (o.login = m.{gives} AND NOT o.keeps_login
                                                                                 OR o.email = m.{gives} AND NOT o.keeps_email))
"""
_CALLS = f"""
CREATE TEMP TABLE usersync_calls ON COMMIT DROP AS
SELECT p.*,
       CASE WHEN p.account IS NOT NULL AND NOT keeps_login THEN m.login END AS new_login,
       CASE WHEN p.account IS NOT NULL AND NOT keeps_email THEN m.email END AS new_email,
       CASE WHEN first_name <> COALESCE(old_first_name, '') AND NOT refused AND 'first_name' = ANY(%(fields)s)
            THEN first_name END AS new_first_name,
       CASE WHEN last_name <> COALESCE(old_last_name, '') AND NOT refused AND 'last_name' = ANY(%(fields)s)
            THEN last_name END AS new_last_name,
       CASE WHEN NOT keeps_login AND {_WANTED_BY.format(gives="old_login")}
            THEN left('{PARKED}' || replace(p.account, '-', ''), %(longest)s) END AS park_login,
       CASE WHEN NOT keeps_email AND {_WANTED_BY.format(gives="old_email")} THEN p.account || '{PARKED_MAIL}' END AS park_email,
       CASE WHEN NOT enabled AND disabled AND NOT refused THEN true END AS enables,
       {_MINUS.format(a="roles", b="old_roles")} AS add_roles,
       {_TAKEN.format(held="old_roles", wanted="roles", gave="gave_roles")} AS remove_roles,
       {_MINUS.format(a="groups", b="old_groups")} AS join_groups,
       {_TAKEN.format(held="old_groups", wanted="groups", gave="gave_groups")} AS leave_groups,
       CASE WHEN p.account IS NULL THEN 'create' WHEN begun AND fresh THEN 'finish' WHEN rule <> 'ours' THEN 'adopt'
            ELSE 'update' END AS action
  FROM pg_temp.usersync_pairs AS p LEFT JOIN pg_temp.usersync_moves AS m ON m.id = p.id
"""
# A mail that was not sent is owed for as long as its person has anything left to do with it; one that may have been sent is told.
_MAILS = (
    """
    UPDATE pg_temp.usersync_calls SET mail = CASE
           WHEN NOT %(notify)s OR mail IN ('sent', 'dropped') OR (account IS NOT NULL AND NOT pending) THEN mail
           WHEN account IS NULL OR (action = 'finish' AND mail IS NULL) THEN 'first'
           WHEN mail = 'owed' THEN 'again' ELSE mail END
    """,
    """
    INSERT INTO pg_temp.usersync_conflicts
    SELECT id, 'mail_failed', CASE mail WHEN 'again' THEN 'the next run sends it' ELSE 'it may have been sent' END, false
      FROM pg_temp.usersync_calls WHERE %(notify)s AND pending AND mail IN ('again', 'sending')
    """,
)
_AFTER = "array_to_string(ARRAY(SELECT unnest({held}) EXCEPT SELECT unnest({taken}) UNION SELECT unnest({wanted}) ORDER BY 1), ', ')"
_PLANNED = f"""
CREATE TEMP TABLE usersync_planned ON COMMIT DROP AS
WITH body AS (
    SELECT *,
           jsonb_strip_nulls(jsonb_build_object('username', new_login, 'email', new_email, 'firstName', new_first_name,
               'lastName', new_last_name, 'enabled', enables,
               'emailVerified', CASE WHEN new_email IS NOT NULL THEN %(verified)s END)) AS changes,
           jsonb_strip_nulls(jsonb_build_object('username', login, 'email', email,
               'firstName', CASE WHEN 'first_name' = ANY(%(fields)s) THEN first_name END,
               'lastName', CASE WHEN 'last_name' = ANY(%(fields)s) THEN last_name END,
               'enabled', true, 'emailVerified', %(verified)s, 'requiredActions', %(actions)s::text[],
               'attributes', jsonb_build_object(%(attribute)s::text, ARRAY[id]), 'groups', groups)) AS made,
           add_roles <> '{{}}' OR remove_roles <> '{{}}' AS moves_roles, join_groups <> '{{}}' OR leave_groups <> '{{}}' AS moves_groups,
           COALESCE(mail IN ('first', 'again'), false) AS mails,
           COALESCE(%(notify)s AND pending AND mail IN ('again', 'sending'), false) AS waits,
           EXISTS (SELECT FROM pg_temp.usersync_conflicts AS c WHERE c.id = p.id AND c.reason <> 'mail_failed') AS conflicted
      FROM pg_temp.usersync_calls AS p
)
SELECT row_number() OVER (ORDER BY id COLLATE "C") AS number, id AS key, account, record, action, rule,
       CASE WHEN mails THEN jsonb_build_object('mail', mail, 'alone', NOT conflicted) ELSE '{{}}' END
       || jsonb_build_object('counted', CASE WHEN conflicted OR waits THEN 'rejected' WHEN action = 'create' THEN 'inserted'
                                        ELSE 'updated' END,
                             'quiet', action = 'update' AND changes = '{{}}' AND NOT moves_roles AND NOT moves_groups)
       || jsonb_build_object('record', record, 'document', convert_from(document, 'UTF8'), 'roles', roles, 'groups', groups,
                          'add_roles', add_roles, 'remove_roles', remove_roles)
       || CASE WHEN action = 'create' THEN jsonb_build_object('user', made)
               ELSE jsonb_build_object('changes', changes, 'join', join_groups, 'leave', leave_groups, 'username', old_login)
                    || CASE WHEN park_login IS NULL AND park_email IS NULL THEN '{{}}' ELSE jsonb_build_object(
                           'park', jsonb_strip_nulls(jsonb_build_object('username', park_login, 'email', park_email)),
                           'back', jsonb_strip_nulls(jsonb_build_object('username', CASE WHEN park_login IS NOT NULL THEN old_login END,
                                                                        'email', CASE WHEN park_email IS NOT NULL THEN old_email END))) END
          END AS wanted,
       CASE WHEN action <> 'create' THEN jsonb_strip_nulls(jsonb_build_object(
           'username', CASE WHEN new_login IS NOT NULL THEN old_login END, 'email', CASE WHEN new_email IS NOT NULL THEN old_email END,
           'first_name', CASE WHEN new_first_name IS NOT NULL THEN old_first_name END,
           'last_name', CASE WHEN new_last_name IS NOT NULL THEN old_last_name END, 'enabled', CASE WHEN enables THEN 'false' END,
           'roles', CASE WHEN moves_roles THEN array_to_string(old_roles, ', ') END,
           'groups', CASE WHEN moves_groups THEN array_to_string(old_groups, ', ') END)) END AS before,
       jsonb_strip_nulls(CASE WHEN action = 'create' THEN jsonb_build_object(
           'username', login, 'email', email, 'first_name', first_name, 'last_name', last_name,
           'roles', array_to_string(roles, ', '), 'groups', array_to_string(groups, ', '))
       ELSE jsonb_build_object(
           'usersync_id', CASE WHEN action = 'adopt' THEN id END, 'username', new_login, 'email', new_email, 'first_name', new_first_name,
           'last_name', new_last_name, 'enabled', enables::text,
           'roles', CASE WHEN moves_roles THEN {_AFTER.format(held="old_roles", taken="remove_roles", wanted="roles")} END,
           'groups', CASE WHEN moves_groups THEN {_AFTER.format(held="old_groups", taken="leave_groups", wanted="groups")} END)
       END) AS after
  FROM body WHERE action <> 'update' OR changes <> '{{}}' OR moves_roles OR moves_groups OR mails
"""
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

# what was set aside before


def recall_refused(tx: Connection, values: Mapping[str, Any]) -> None:
    """Mark whom the server has refused; the same is not asked again."""
    tx.execute(_REFUSED.encode(), {**values, "refused": REFUSED})


def remember(tx: Connection, values: Mapping[str, Any]) -> None:
    """Say again what was refused."""
    tx.execute(_REFUSED_BEFORE.encode(), {**values, "refused": REFUSED})
    tx.execute(_WHOLE.encode())


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

# who is left alone


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

# who has left


def leaving(tx: Connection, *, known: bool) -> tuple[int, int]:
    """How many of our accounts are of nobody that is desired; and how many of them are enabled at all.

    With `known` those that this job remembers, else those that carry our attribute alone.
    """
    ((candidates, of),) = tx.execute((_LEAVERS if known else _STRANGERS).encode()).fetchall()
    return candidates, of


def disable(tx: Connection, values: Mapping[str, Any], *, known: bool) -> None:
    """Those of `usersync_gone` are to be disabled, by us."""
    tx.execute(_DISABLE.encode(), {"known": known})
    if values["run_id"] is not None:
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

# who gets no account


def hold_back(tx: Connection) -> int:
    """Take back that anybody is created; gives how many were to be."""
    return tx.execute("DELETE FROM pg_temp.usersync_planned WHERE action = 'create'").rowcount


# what is told


def count(tx: Connection, read: int, distinct: int) -> Counts:
    """Each person is one of: new, changed, the same, or with something that a person has to decide."""
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
    """(action or conflict, id, before, after, rule or reason) of everybody for whom something is to be done or decided."""
    with tx.cursor() as cursor:
        for action, key, before, after, reason in cursor.execute(_CHANGES.encode()):
            yield action, key, _ordered(before), _ordered(after), reason


def _ordered(values: Mapping[str, str] | None) -> dict[str, str]:
    return {name: values[name] for name in _SHOWN if name in values} if values else {}


_SHOWN = ("usersync_id", "username", "email", "first_name", "last_name", "enabled", "roles", "groups")


# what is written down


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
