"""Which records a table does not take, found by writing them in halves: what no constraint explains that can be looked at."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, listed
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.load.bisect import found
from usersync_cli.load.bisect.halving import AT, BETWEEN, BY_INDEX, ORDERED, Failure, forget, halve, number
from usersync_cli.load.merge import CHANGES, REJECTS, Merge
from usersync_cli.load.merge.write import insert, update
from usersync_cli.load.rejects import condition, detail


def write(tx: Connection, merge: Merge, most: int) -> list[Failure]:
    """Which records of CHANGES the table does not take, in the context of the others. Everything it writes has to be rolled
    back by the caller; then `set_aside` files them."""
    part = sql.SQL("(SELECT o.*, {} FROM {} AS o WHERE {} AND {} OFFSET 0)")
    new = sql.SQL("SELECT * FROM {} AS part").format(part.format(AT, ORDERED, BETWEEN, sql.SQL("o.usersync_is_new")))
    steps = [insert(merge, new, merge.key, ordered=False), sql.SQL(";")]
    if merge.values or merge.marks:
        steps = [update(merge, part.format(AT, ORDERED, BETWEEN, sql.SQL("NOT o.usersync_is_new"))), sql.SQL(";"), *steps]
    with as_user(tx):
        tx.execute("SET CONSTRAINTS ALL IMMEDIATE")
    return halve(tx, sql.Composed(steps), most, BY_INDEX)


def number_changes(tx: Connection, merge: Merge) -> None:
    """Put CHANGES into ORDERED, sorted by key."""
    keys = listed(identifier(name) for name in merge.key)
    number(tx, sql.SQL("SELECT * FROM {} ORDER BY {}").format(CHANGES, keys))


def set_aside(tx: Connection, merge: Merge, failures: Sequence[Failure]) -> None:
    """File these records of ORDERED in REJECTS, as the transform gave them."""
    keys = listed(identifier(name) for name in merge.key)
    values = listed(sql.SQL("o.{}").format(identifier(name)) for name in merge.key)
    tx.execute(
        sql.SQL("""
            INSERT INTO {rejects} ({keys}, usersync_reason, usersync_detail, usersync_document)
            SELECT {values}, f.reason, f.detail, {document}
              FROM unnest({ords}::bigint[], {reasons}::text[], {details}::text[]) AS f(ord, reason, detail)
              JOIN {ordered} AS o ON o.usersync_ord = f.ord
        """).format(
            rejects=REJECTS, keys=keys, values=values, document=found.record(merge, "o"), ordered=ORDERED,
            ords=sql.Literal([one.ord for one in failures]),
            reasons=sql.Literal([condition(one.sqlstate) for one in failures]),
            details=sql.Literal([detail(one.column, one.constraint, one.table) for one in failures]),
        )
    )  # fmt: skip
    forget(tx)
