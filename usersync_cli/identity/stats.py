"""Numbers about the map: how much of each app is mapped, by which rules, what waits for a person, and how large customers are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import statements
from usersync_cli.identity import mappings

_SQL = statements(__name__)


def stats(tx: Connection, app: str | None = None) -> dict[str, Any]:
    """All numbers, of all apps or of one, as JSON has them."""
    if app is not None:
        mappings.require_app(tx, app)
    ((customers, merged),) = tx.execute(_SQL["customers"]).fetchall()
    return {
        "customers": {"customers": customers, "merged": merged},
        "apps": list(_apps(tx, app, customers)),
        "rules": [dict(zip(("app", "rule", "mappings"), row, strict=True)) for row in _rows(tx, "rules", app)],
        "closed": [dict(zip(("app", "because", "mappings"), row, strict=True)) for row in _rows(tx, "closed", app)],
        "sizes": [{"ids_up_to": upto if upto < 1000 else None, "customers": number, "ids": int(ids)}
                  for upto, number, ids in _rows(tx, "sizes", app)],
        "largest": [{"uuid": str(uuid), "domain": domain, "ids": ids} for uuid, domain, ids in _rows(tx, "largest", app)],
        "conflicts": [
            {**dict(zip(("app", "kind", "open", "days_1", "days_7", "days_30", "older"), row, strict=False)), "oldest": row[-1].isoformat()}
            for row in _rows(tx, "conflicts", app)
        ],
        "crowded_domains": [{"app": one, "domain": domain, "ids": ids, "since": since.isoformat()}
                            for one, domain, ids, since in _rows(tx, "crowded", app)],
    }  # fmt: skip


def _apps(tx: Connection, app: str | None, customers: int) -> Iterator[dict[str, Any]]:
    """An app in numbers. ids and unmapped are of the tables that fill it; None where none does, or where it is gone."""
    tables: dict[str, list[sql.Composable]] = {}
    gone: dict[str, list[str]] = {}
    for name, relation, column, live, there in _rows(tx, "tables", app):
        if there:
            tables.setdefault(name, []).append(_ids(relation, column, live))
        else:
            gone.setdefault(name, []).append(relation.replace('"', ""))
    for name, number, pinned, closed, have in _rows(tx, "apps", app):
        ids = unmapped = None
        if name in tables:
            query = sql.SQL(_SQL["unmapped"]).format(app=sql.Literal(name), ids=sql.SQL(" UNION ").join(tables[name]))
            ((ids, unmapped),) = tx.execute(query).fetchall()
        yield {"app": name, "mappings": number, "pinned": pinned, "closed": closed, "ids": ids, "ids_without_customer": unmapped,
               "customers": have, "customers_without_id": customers - have, "tables_gone": gone.get(name, [])}  # fmt: skip


def _ids(relation: str, column: str, live: str | None) -> sql.Composed:
    """The ids of a table that are there; its names are stored quoted."""
    there = sql.SQL("AND t.{} IS NULL").format(sql.SQL(live)) if live else sql.SQL("")
    names = {"id": sql.SQL(column), "table": sql.SQL(relation), "there": there}
    return sql.SQL('SELECT t.{id}::text COLLATE "C" FROM {table} AS t WHERE t.{id} IS NOT NULL {there}').format(**names)


def _rows(tx: Connection, name: str, app: str | None) -> Sequence[tuple[Any, ...]]:
    return tx.execute(_SQL[name], {"app": app}).fetchall()
