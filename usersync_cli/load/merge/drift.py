"""Drift: what a complete listing finds different in a table that a log of changes should have kept equal, by column."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeAlias

from psycopg import sql

from usersync_cli.clients.postgres.catalog import Table
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import listed
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.load.merge import CHANGES, Field, Merge

Drifted: TypeAlias = dict[str, int]
"""Number of rows by what was wrong with them: a column, `document.field` of a column of type jsonb, or one of the next three."""

MISSING = "rows missing"  # the listing has them, the table does not
BACK = "rows marked as deleted"  # the listing has them, and the table says that they are gone
LEFT = "rows left over"  # the listing lacks them


def drift_of(tx: Connection, merge: Merge, table: Table, told: Collection[str]) -> Drifted:
    """What CHANGES, which has at least one row, would put right; only in columns and fields named in `told`. None of it is written yet."""
    counted = dict(_counted(merge, table, told))
    query = sql.SQL("SELECT {} FROM {} AS w LEFT JOIN {} AS t ON {}").format(
        listed(sql.SQL("pg_catalog.count(*) FILTER (WHERE {})").format(one) for one in counted.values()),
        *(CHANGES, merge.table, merge.same_key),
    )
    with as_user(tx):
        (row,) = tx.execute(query).fetchall()
    return {name: number for name, number in zip(counted, row, strict=True) if number}


def _counted(merge: Merge, table: Table, told: Collection[str]) -> Iterator[tuple[str, sql.Composable]]:
    """Conditions over w, a row as it should be, and t, the row that is there, by what they count."""
    there = sql.SQL("NOT w.usersync_is_new")
    yield MISSING, sql.SQL("w.usersync_is_new")
    if merge.marks:
        yield BACK, sql.SQL("{} AND t.{} IS NOT NULL").format(there, sql.Identifier(merge.marks[0]))
    columns = {field.name for field in merge.fields}
    for field in merge.values:
        if field.name in told:
            yield field.name, sql.SQL("{} AND {}").format(there, field.differs("w", "t"))
        elif table.columns[field.name].bare == "jsonb":
            for name in sorted({*told} - columns):
                yield f"{field.name}.{name}", sql.SQL("{} AND {}").format(there, _field_differs(field, name))


def _field_differs(field: Field, name: str) -> sql.Composed:
    """Whether this field of two documents differs; one that lacks it has another value than null."""
    a, b = (
        sql.SQL("{}.{}::pg_catalog.jsonb OPERATOR(pg_catalog.->) {}").format(sql.SQL(side), field.column, sql.Literal(name))
        for side in ("w", "t")
    )
    return sql.SQL("(({a}) OPERATOR(pg_catalog.=) ({b})) IS NOT TRUE AND NOT (({a}) IS NULL AND ({b}) IS NULL)").format(a=a, b=b)
