"""For the tests of the merge: rows typed by hand, staged, and loaded as a step does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection, rollback
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.config.jobs import Load
from usersync_cli.load import stage
from usersync_cli.load.binding import Own, bind
from usersync_cli.load.table import SETTINGS, TableLoad
from usersync_cli.model import Column, Counts, Desired

Rows = Sequence[Sequence[Any]]


def load_rows(
    tx: Connection,
    columns: dict[str, str],
    rows: Rows,
    load: dict[str, Any],
    *,
    transform: str = "SELECT * FROM records",
    direct: bool = True,
) -> tuple[Counts, Sequence[str]]:
    """One sync of these rows into `load`, committed; rolled back when it raises. Returns counts and keys of duplicates."""
    target = TableLoad(Load(**load))
    begin(tx, long=True, **SETTINGS)
    try:
        staged = stage.create(tx, "records", [Column(name, type_) for name, type_ in columns.items()])
        if rows:
            tx.cursor().executemany(
                sql.SQL("INSERT INTO pg_temp.records VALUES ({})").format(sql.SQL(", ").join([sql.Placeholder()] * len(columns))), rows
            )
        desired = Desired(bind(tx, Own(transform, load.get("order_by")), [staged]), len(rows))
        target.fit(desired, tx)
        if direct and (filled := target.fill_empty(desired, tx)):
            tx.execute("COMMIT")
            return filled, ()
        plan = target.plan(desired, tx)
        counts = target.apply(plan, tx)
        tx.execute("COMMIT")
        return counts, plan.outcome.duplicate_keys
    finally:
        rollback(tx)
