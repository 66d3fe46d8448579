"""Writing what differs: updates, then inserts, sorted by key; and a look whether it is there afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, listed, scalar
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.errors import VerificationFailed
from usersync_cli.load.merge import CHANGES, Merge
from usersync_cli.load.merge.compare import Outcome


def write(tx: Connection, merge: Merge, outcome: Outcome, *, vacated: bool = False) -> None:
    """Update, then insert, what CHANGES holds. Twice is once: what is equal by then is left alone. Not so after `vacate`:
    a row that was to give up a value is equal by that alone, and its time stamp is to be written still.

    Raises VerificationFailed when rows are still missing or different afterwards: a trigger or a rule swallowed them.
    """
    written = 0
    with as_user(tx):
        if outcome.updated:
            written += _update(tx, merge, vacated=vacated)
        if outcome.inserted:
            written += tx.execute(insert(merge, sql.SQL("SELECT * FROM {} WHERE usersync_is_new").format(CHANGES), merge.key)).rowcount
        tx.execute("SET CONSTRAINTS ALL IMMEDIATE")  # a deferred foreign key would only fail at COMMIT, and say less
    if written < outcome.inserted + outcome.updated:
        _look_again(tx, merge, merge.differs)
    elif merge.watched:
        _look_again(tx, merge, merge.marked)


def _update(tx: Connection, merge: Merge, *, vacated: bool) -> int:
    # Locked in the order of the key, so that two writers which meet on the same rows wait instead of deadlocking.
    keys = listed(sql.SQL("t.{}").format(identifier(name)) for name in merge.key)
    tx.execute(
        sql.SQL("""
            SELECT pg_catalog.count(*) FROM (SELECT FROM {} AS t JOIN {} AS w ON {} WHERE NOT w.usersync_is_new
                                   ORDER BY {} FOR NO KEY UPDATE OF t) AS locked
        """).format(merge.table, CHANGES, merge.same_key, keys)
    )
    return tx.execute(update(merge, CHANGES, vacated=vacated)).rowcount


def update(merge: Merge, rows: sql.Composable, *, vacated: bool = False) -> sql.Composed:
    """UPDATE of the rows that are not new and still differ; after `vacate`, of all that are not new."""
    differs = sql.SQL("true") if vacated else merge.differs
    return sql.SQL("UPDATE {} AS t SET {} FROM {} AS w WHERE {} AND NOT w.usersync_is_new AND {}").format(
        merge.table, _assignments(merge, "w"), rows, merge.same_key, differs
    )


def _assignments(merge: Merge, side: str) -> sql.Composed:
    own = [sql.SQL("{0} = {1}.{0}").format(f.column, sql.SQL(side)) for f in merge.values]  # "w" or "excluded"
    stamps = [sql.SQL("{} = {}").format(identifier(name), sql.SQL(value)) for name, value in merge.on_update]  # ours
    back = [sql.SQL("{} = NULL").format(identifier(merge.marks[0]))] if merge.marks else []
    return listed([*own, *stamps, *back])


def insert(merge: Merge, rows: sql.Composable, conflict: Sequence[str] = (), *, ordered: bool = True) -> sql.Composed:
    """INSERT of these rows; with `conflict` sorted by key, and a row that somebody inserted meanwhile is updated."""
    names = listed([*(f.column for f in merge.fields), *(identifier(name) for name, _ in merge.on_insert)])
    values = listed([*(sql.SQL("w.{}").format(f.column) for f in merge.fields), *(sql.SQL(value) for _, value in merge.on_insert)])  # ours
    statement = sql.SQL("INSERT INTO {} AS t ({}) {} SELECT {} FROM ({}) AS w").format(
        merge.table, names, sql.SQL("OVERRIDING SYSTEM VALUE" if merge.overriding else ""), values, rows
    )
    if not conflict:
        return statement
    keys = listed(identifier(name) for name in conflict)
    if ordered:
        statement += sql.SQL(" ORDER BY {}").format(listed(sql.SQL("w.{}").format(identifier(name)) for name in conflict))
    if merge.has_rules:
        return statement
    if not merge.values and not merge.marks:
        return statement + sql.SQL(" ON CONFLICT ({}) DO NOTHING").format(keys)
    assignments, differs = _assignments(merge, "excluded"), merge.differs_from("excluded")
    return statement + sql.SQL(" ON CONFLICT ({}) DO UPDATE SET {} WHERE {}").format(keys, assignments, differs)


def _look_again(tx: Connection, merge: Merge, wrong: sql.Composable) -> None:
    """Raise VerificationFailed unless each row of CHANGES is there, and is not `wrong`."""
    left = sql.SQL("FROM {} AS w LEFT JOIN {} AS t ON {} WHERE t.{} IS NULL OR {}").format(
        CHANGES, merge.table, merge.same_key, merge.first_key, wrong
    )
    count = scalar(tx, sql.SQL("SELECT pg_catalog.count(*) ") + left)
    if count:
        raise VerificationFailed(
            f"{count} rows were written to {merge.table.as_string(tx)} but are not there",
            hint="a trigger or rule of that table swallows them; nothing was committed. `usersync run --dry-run --diff` shows which"
            " would be written",
        )


def tally(tx: Connection, merge: Merge) -> tuple[int, int]:
    """How many rows this transaction has inserted into the table and deleted from it so far, be it through triggers."""
    table = sql.SQL("pg_catalog.to_regclass({})").format(sql.Literal(merge.table.as_string(tx)))
    query = sql.SQL("""
        WITH RECURSIVE every(one) AS (
            SELECT {}::oid UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN every ON i.inhparent = one
        )
        SELECT COALESCE(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_inserted(one)), 0)::bigint,
               COALESCE(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_deleted(one)), 0)::bigint FROM every
    """)
    inserted, deleted = tx.execute(query.format(table)).fetchone() or (0, 0)
    return inserted, deleted


def missing(tx: Connection, merge: Merge) -> int:
    """How many of the records that were read are not in the table, including those that were not written."""
    lost = sql.SQL("SELECT pg_catalog.count(*) FROM ({}) AS w WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})")
    with as_user(tx):
        return int(scalar(tx, lost.format(merge.wanted, merge.table, merge.same_key)))


def normalised(tx: Connection, merge: Merge) -> int:
    """How many of the rows just written hold something else now: a trigger of the table changes what we write."""
    return int(
        scalar(
            tx,
            sql.SQL("SELECT pg_catalog.count(*) FROM {} AS w JOIN {} AS t ON {} WHERE {}").format(
                CHANGES, merge.table, merge.same_key, merge.differs
            ),
        )
    )


def vacate(tx: Connection, merge: Merge, column: str, placeholder: str) -> None:
    """Take the value of a unique column from every row that gives it up, before anybody takes it: two people who swap
    their names would meet each other otherwise. The update that follows sets it again, in the same transaction."""
    statement = sql.SQL("UPDATE {} AS t SET {} = {} FROM {} AS w WHERE {} AND NOT w.usersync_is_new AND {}").format(
        merge.table, identifier(column), sql.SQL(placeholder), CHANGES, merge.same_key, merge.field(column).differs("t", "w")
    )
    with as_user(tx):
        tx.execute(statement)
