"""All ids that the target knows of an app: those that are mapped, and those in the tables that fill it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar
from usersync_cli.clients.postgres.transactions import transaction

_AT_ONCE = 50_000  # a table may have no index for the order of its ids as text, and is read once for each of these
_PAGE = 1000


def ids(connection: Callable[[], Connection], app: str) -> Iterator[Sequence[str]]:
    """The ids, in their order, by the thousand; each part is read in a transaction of its own, between those of the caller.

    A table that is gone, or that has no such column any more, has none.
    """

    def part(after: str) -> list[str]:
        with transaction(connection(), long=True, row_security="on"):
            return _after(connection(), app, after)

    return _paged(part)


def ids_in(tx: Connection, app: str) -> Iterator[Sequence[str]]:
    """The ids of an app as `ids` has them, all read in the transaction that is open."""
    return _paged(lambda after: _after(tx, app, after))


def _paged(part: Callable[[str], list[str]]) -> Iterator[Sequence[str]]:
    after, batch = "", [""]
    while batch:
        batch = part(after)
        for at in range(0, len(batch), _PAGE):
            yield batch[at : at + _PAGE]
        after = batch[-1] if batch else after


def _after(tx: Connection, app: str, after: str) -> list[str]:
    if not scalar(tx, "SELECT to_regclass('usersync.identities') IS NOT NULL"):
        return []
    start, most = sql.Literal(after), sql.Literal(_AT_ONCE)
    parts: list[sql.Composable] = [
        sql.SQL("(SELECT m.id FROM usersync.mappings AS m WHERE m.app = {} AND m.id > {} ORDER BY m.id LIMIT {})").format(
            sql.Literal(app), start, most
        )
    ]
    for relation, column, live in tx.execute(_TABLES, (app,)).fetchall():
        there = sql.SQL("t.{} IS NULL").format(sql.SQL(live)) if live else sql.SQL("true")
        id_ = sql.SQL('t.{}::text COLLATE "C"').format(sql.SQL(column))
        table = sql.SQL(relation)
        parts.append(
            sql.SQL("(SELECT DISTINCT {0} FROM {1} AS t WHERE {0} > {2} AND {3} ORDER BY 1 LIMIT {4})").format(
                id_, table, start, there, most
            )
        )
    query = sql.SQL('SELECT u.id FROM ({}) AS u(id) ORDER BY u.id COLLATE "C" LIMIT {}').format(sql.SQL(" UNION ").join(parts), most)
    return [one for (one,) in tx.execute(query).fetchall()]


# Names are stored quoted.
_TABLES = """
    SELECT i.relation, i.id_column, i.live FROM usersync.identities AS i JOIN pg_attribute AS a ON a.attrelid = to_regclass(i.relation)
       AND '"' || replace(a.attname, '"', '""') || '"' = i.id_column AND NOT a.attisdropped
     WHERE i.app = %s ORDER BY i.job, i.step, i.stream
"""
