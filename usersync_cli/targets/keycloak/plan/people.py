"""The people that are desired: staged from the transform, each with the realm roles and the group that the maps give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import listed
from usersync_cli.clients.postgres.transactions import as_user

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
