"""Rows that have left the source: deleted or marked, as far as the guard lets them go, and forgotten.

`candidates` are the records of a stream whose rows may go, `proof` says whether a record has left its source, and `guard`
whether so many rows may be removed. Rows that go are in GONE (`guard`), and are removed here. For tables, this is also where
the keys of the rows that stay are remembered.
"""

from __future__ import annotations

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, listed, scalar
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.errors import VerificationFailed
from usersync_cli.load.deletes.guard import GONE, Sweep, note, same_row, settle
from usersync_cli.load.merge import CHANGES, Merge, key_text, texts
from usersync_cli.model import Load
from usersync_cli.state import approvals, readings
from usersync_cli.state.readings import Scope

_PRESENT = sql.SQL("pg_temp.usersync_present")


def remove(tx: Connection, found: Sweep, merge: Merge) -> None:
    """Delete or mark the rows that may go. Raises VerificationFailed when a trigger or rule keeps them."""
    if not found.removable:
        return
    here = sql.SQL("{} AND {}").format(same_row(merge), found.goes)
    if merge.marks:
        column, value = merge.marks
        statement = sql.SQL("UPDATE {} AS t SET {} = {} FROM {} AS g WHERE {}").format(
            merge.table, identifier(column), sql.SQL(value), GONE, here
        )
    else:
        statement = sql.SQL("DELETE FROM {} AS t USING {} AS g WHERE {}").format(merge.table, GONE, here)
    with as_user(tx):
        done = tx.execute(statement).rowcount
        tx.execute("SET CONSTRAINTS ALL IMMEDIATE")
    if done != found.removable:
        raise VerificationFailed(
            f"{found.removable} rows of {merge.table.as_string(tx)} should go, and {done} went",
            hint="a trigger or rule of that table keeps them; nothing was committed",
        )
    if merge.watched:
        _refuse_returned(tx, found, merge)


def _refuse_returned(tx: Connection, found: Sweep, merge: Merge) -> None:
    """Look whether a removed row is there again, or without its mark. Raises VerificationFailed when a trigger undoes it."""
    there = sql.SQL("t.{} IS NULL").format(identifier(merge.marks[0])) if merge.marks else sql.SQL("true")
    query = sql.SQL("SELECT pg_catalog.count(*) FROM {} AS t JOIN {} AS g ON {} AND {} WHERE {}")
    if number := scalar(tx, query.format(merge.table, GONE, same_row(merge), found.goes, there)):
        raise VerificationFailed(
            f"{number:,} of {found.removable:,} rows of {merge.table.as_string(tx)} that should go are still there",
            hint="a trigger or rule of that table brings them back; nothing was committed",
        )


def stays(found: Sweep) -> sql.Composable:
    """A condition on t, a row of the table: whether `remove` leaves it."""
    if not found.removable:
        return sql.SQL("true")
    return sql.SQL("NOT EXISTS (SELECT FROM {} AS g WHERE g.key OPERATOR(pg_catalog.=) {} AND {})").format(
        GONE, key_text(found.load.key), found.goes
    )


def leaving(found: Sweep, merge: Merge) -> sql.Composed:
    """Key and loaded values, as arrays of text, of each row that `remove` takes; by key."""
    keys = [identifier(name) for name in merge.key]
    return sql.SQL("SELECT {}, {} FROM {} AS t JOIN {} AS g ON g.key = {} AND {} ORDER BY {}").format(
        texts("t", keys),
        texts("t", [f.column for f in merge.fields]),
        merge.table,
        GONE,
        key_text(merge.key),
        found.goes,
        listed(sql.SQL("t.{}").format(name) for name in keys),
    )


def finish(tx: Connection, found: Sweep, merge: Merge) -> None:
    """Make `seen`, after the rows were written, hold the keys that are there: those that stay although the source lacks them too."""
    id_ = sql.Literal(found.memory.id)
    if not found.looked and found.memory.keys and found.inserted:
        _add_new(tx, found.memory.id, found.load, merge)
    elif found.looked or not found.memory.keys:
        statement = sql.SQL("CREATE TEMP TABLE usersync_present ON COMMIT DROP AS SELECT {} AS key FROM {} AS t WHERE {}").format(
            key_text(found.load.key), merge.table, merge.present
        )
        with as_user(tx):
            tx.execute(statement)
        if found.looked and found.removable < found.candidates:
            tx.execute(sql.SQL("INSERT INTO {} SELECT g.key FROM {} AS g WHERE NOT {}").format(_PRESENT, GONE, found.goes))
        _equal_seen(tx, id_, found)
        tx.execute(sql.SQL("DROP TABLE {}").format(_PRESENT))
    if found.removable and not merge.marks:
        _check_the_rest(tx, found, merge)
    settle(tx, found)
    note(tx, found)


def filled(tx: Connection, scope: Scope, load: Load, merge: Merge, records: int) -> None:
    """Make `seen` hold the keys of an empty table that was just loaded: each of its rows came from the source."""
    found = Sweep(scope, load, readings.remember(tx, scope), records)
    tx.execute(
        sql.SQL("CREATE TEMP TABLE usersync_present ON COMMIT DROP AS SELECT {} AS key FROM {} AS t").format(
            key_text(load.key), merge.table
        )
    )
    _equal_seen(tx, sql.Literal(found.memory.id), found)
    tx.execute(sql.SQL("DROP TABLE {}").format(_PRESENT))
    approvals.withdraw(tx, scope)
    note(tx, found)


def _check_the_rest(tx: Connection, found: Sweep, merge: Merge) -> None:
    """Look whether every row that was read is still there: a foreign key on the table itself may have taken more with it."""
    lost = sql.SQL("SELECT pg_catalog.count(*) FROM ({}) AS w WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})")
    with as_user(tx):
        number = scalar(tx, lost.format(merge.wanted, merge.table, merge.same_key))
    if number:
        raise VerificationFailed(
            f"removing {found.removable:,} rows of {merge.table.as_string(tx)} took {number:,} others with them, which the source has",
            hint="a trigger, or a foreign key with ON DELETE CASCADE; nothing was committed. `on_missing: mark` removes no row",
        )


def _add_new(tx: Connection, id_: int, load: Load, merge: Merge) -> None:
    """Add the new keys to `seen`, where nobody left and some came."""
    tx.execute(
        sql.SQL("""
            WITH added AS (
                INSERT INTO usersync.seen (stream_id, key)
                SELECT {id}, {key} FROM {table} AS t JOIN {changes} AS w ON {same_key} WHERE w.usersync_is_new
                ON CONFLICT DO NOTHING RETURNING key
            )
            UPDATE usersync.seen_streams SET (keys, checksum) =
                   (SELECT keys + count(*), checksum + COALESCE(sum(hashtextextended(key, 0)), 0) FROM added)
             WHERE id = {id}
        """).format(id=sql.Literal(id_), key=key_text(load.key), table=merge.table, changes=CHANGES, same_key=merge.same_key)
    )


def _equal_seen(tx: Connection, id_: sql.Literal, found: Sweep) -> None:
    tx.execute(
        sql.SQL("DELETE FROM usersync.seen AS s WHERE s.stream_id = {} AND NOT EXISTS (SELECT FROM {} AS p WHERE p.key = s.key)").format(
            id_, _PRESENT
        )
    )
    tx.execute(
        sql.SQL(
            "INSERT INTO usersync.seen (stream_id, key) SELECT {0}, p.key FROM {1} AS p"
            " WHERE NOT EXISTS (SELECT FROM usersync.seen AS s WHERE s.stream_id = {0} AND s.key = p.key)"
        ).format(id_, _PRESENT)
    )
    tx.execute(
        sql.SQL(
            "UPDATE usersync.seen_streams SET adopted = adopted OR {}, fingerprint = {}, (keys, checksum) ="
            " (SELECT count(*), COALESCE(sum(hashtextextended(key, 0)), 0) FROM {}) WHERE id = {}"
        ).format(sql.Literal(found.load.adopt_existing), sql.Literal(found.scope.fingerprint), _PRESENT, id_)
    )
