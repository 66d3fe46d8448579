"""The people that are desired: staged from the transform, each with the realm roles and the group that the maps give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import listed, statements
from usersync_cli.clients.postgres.transactions import as_user

_SQL = statements(__name__)
_TEXTS = ("id", "username", "email", "first_name", "last_name", "_key")
COLUMNS = ("id", "username", "email", "first_name", "last_name", "roles")


def stage_people(tx: Connection, transform: sql.Composable, given: Sequence[str], order_by: str | None) -> tuple[int, int]:
    """Stage the rows of the transform, for each id the first by `order_by`; returns how many rows and how many ids there are."""
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
    tx.execute(_SQL["people"].replace("@collate@", 'COLLATE pg_catalog."pg_c_utf8"' if unicode else "").encode())
    return read, distinct


_ALL = """
CREATE TEMP TABLE usersync_all ON COMMIT DROP AS
SELECT {cells}, CASE WHEN q.id IS NULL THEN 1 ELSE pg_catalog.row_number() OVER (PARTITION BY q.id {order}) END AS nth
  FROM ({transform}) AS q
"""


def want(tx: Connection, values: dict[str, Any]) -> None:
    """Stage each person's realm roles and group, as `usersync_wanted`. `values`: names, roles, default, of, paths."""
    for name in ("role_map", "group_map", "mapped"):
        tx.execute(_SQL[name], values)
    tx.execute(_SQL["wanted"])


def needed(tx: Connection) -> list[tuple[str, str]]:
    """The roles and groups that somebody is to have, as (role or group, name)."""
    return [(str(kind), str(name)) for kind, name in tx.execute(_SQL["needed"]).fetchall()]
