"""The records of a table's step that were found to be bad: a temp table of their keys, with the reason and the document of each."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, listed, or_
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.load.merge import Merge, key_text


def create(tx: Connection, merge: Merge) -> None:
    """Make REJECTS, for keys of the types that the transform gives; it ends with the transaction."""
    keys = listed(sql.SQL("w.{}").format(identifier(name)) for name in merge.key)
    with as_user(tx):
        tx.execute(
            sql.SQL("CREATE TEMP TABLE usersync_rejects ON COMMIT DROP AS SELECT {} FROM ({}) AS w WITH NO DATA").format(
                keys, merge.everything
            )
        )
    tx.execute("""
        ALTER TABLE pg_temp.usersync_rejects ADD usersync_ord bigint, ADD usersync_column text, ADD usersync_reason text,
            ADD usersync_detail text, ADD usersync_document bytea, ADD usersync_key text
    """)


def record(merge: Merge, side: str) -> sql.Composed:
    """The document of a record as the transform gave it."""
    return as_document(side, [f.column for f in merge.fields])


def as_document(side: str, columns: Sequence[sql.Identifier]) -> sql.Composed:
    """A row of these columns as JSON, in bytes."""
    names = listed(sql.SQL("{}.{}").format(sql.SQL(side), column) for column in columns)
    # The row's own name has to be that of none of its columns.
    row = sql.SQL("(SELECT usersync_row FROM (SELECT {}) AS usersync_row)").format(names)
    return sql.SQL("pg_catalog.convert_to(pg_catalog.row_to_json({})::pg_catalog.text, 'UTF8')").format(row)


def filed_as(merge: Merge, side: str) -> sql.Composed:
    """The key under which a record of REJECTS waits."""
    return sql.SQL("CASE WHEN {0} THEN 'sha256:' || encode(sha256({1}.usersync_document), 'hex') ELSE {2} END").format(
        without_key(merge, side), sql.SQL(side), key_text(merge.key, side)
    )


def without_key(merge: Merge, side: str) -> sql.Composed:
    """The row of this side has no key."""
    return or_(sql.SQL("{}.{} IS NULL").format(sql.SQL(side), identifier(name)) for name in merge.key)
