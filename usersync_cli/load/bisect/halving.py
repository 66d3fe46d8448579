"""Halving inside the server: a statement is tried over ranges of records, each in a subtransaction, and halved where it fails.

While rows are read, a sequence, which no rollback takes back, notes how far the reading came: mostly it says at once which
record was bad.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, statements
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.load.rejects import BAD

ORDERED = sql.SQL("pg_temp.usersync_ordered")  # the records in question, numbered from 1: usersync_ord
NOTHING = sql.SQL("")
# Which records an attempt reads, and how far it came.
BETWEEN = sql.SQL("o.usersync_ord OPERATOR(pg_catalog.>=) usersync_lo AND o.usersync_ord OPERATOR(pg_catalog.<=) usersync_hi")
AT = sql.SQL("pg_catalog.setval('pg_temp.usersync_at'::pg_catalog.regclass, o.usersync_ord)")
# Small ranges by index, with a plan that is made once.
BY_INDEX = "SET plan_cache_mode = force_generic_plan SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off"


@dataclass(frozen=True)
class Failure:
    """One record that failed alone, by its number, and what the server said; "" where it said nothing."""

    ord: int
    sqlstate: str
    column: str
    constraint: str
    table: str


def number(tx: Connection, rows: sql.Composable) -> int:
    """Put these records into ORDERED, numbered; gives how many."""
    tx.execute("DROP TABLE IF EXISTS pg_temp.usersync_ordered")
    tx.execute("CREATE TEMP SEQUENCE IF NOT EXISTS usersync_at")
    done = tx.execute(
        sql.SQL(
            "CREATE TEMP TABLE usersync_ordered ON COMMIT DROP AS SELECT row_number() OVER () AS usersync_ord, r.* FROM ({}) AS r"
        ).format(rows)
    )
    tx.execute(sql.SQL("CREATE UNIQUE INDEX ON {} (usersync_ord)").format(ORDERED))
    tx.execute(sql.SQL("ANALYZE {}").format(ORDERED))
    return done.rowcount


def forget(tx: Connection) -> None:
    """Drop what a search has made."""
    tx.execute("DROP TABLE IF EXISTS pg_temp.usersync_ordered")
    tx.execute("DROP SEQUENCE IF EXISTS pg_temp.usersync_at")
    for signature in (
        "halve(bigint)",
        "attempt(bigint, bigint)",
        "describe(bigint[])",
        "column(bigint, bigint, int)",
        "file(bigint, bigint, text)",
    ):
        tx.execute(f"DROP FUNCTION IF EXISTS pg_temp.usersync_{signature}".encode())


def halve(tx: Connection, attempt: sql.Composable, most: int, settings: str) -> list[Failure]:
    """The records of ORDERED on which `attempt` fails alone; it reads those from usersync_lo to usersync_hi.

    What passed stays done. More than `most`, and the search ends.
    """
    make(tx, "usersync_attempt", "usersync_lo bigint, usersync_hi bigint", attempt)
    body = loop(
        declare=sql.SQL("usersync_count bigint := 0;"),
        start=sql.SQL("usersync_highs := ARRAY[(SELECT max(o.usersync_ord) FROM {} AS o)];").format(ORDERED),
        attempt=sql.SQL("PERFORM pg_temp.usersync_attempt(usersync_lo, usersync_hi);"),
        found=sql.SQL("usersync_count := usersync_count + 1; EXIT WHEN usersync_count > usersync_most;"),
    )
    tx.execute(
        sql.SQL("CREATE OR REPLACE FUNCTION pg_temp.usersync_halve(usersync_most bigint) RETURNS TABLE"
                " (usersync_ord bigint, usersync_state text, usersync_column text, usersync_constraint text, usersync_table text)"
                " LANGUAGE plpgsql {} AS {}").format(sql.SQL(settings), sql.Literal(body.as_string(tx)))
    )  # fmt: skip
    return [Failure(*row) for row in tx.execute("SELECT * FROM pg_temp.usersync_halve(%s)", (most,)).fetchall()]


def loop(
    *,
    start: sql.Composable,
    attempt: sql.Composable,
    declare: sql.Composable = NOTHING,
    alone: sql.Composable = NOTHING,
    found: sql.Composable = NOTHING,
) -> sql.Composed:
    """The body of a function that halves. It returns usersync_ord, _state, _column, _constraint and _table of each bad record.

    `start` sets usersync_highs to the number of the last record, `attempt` tries the records from usersync_lo to usersync_hi;
    `alone` runs before a bad record is returned, `found` afterwards.
    """
    text = sql.SQL(statements(__name__)["loop"])
    return text.format(declare=declare, start=start, attempt=attempt, alone=alone, found=found, bad=sql.SQL(BAD))


def make(tx: Connection, name: str, parameters: str, body: sql.Composable) -> None:
    """A function of ours that holds a person's SQL, and runs with their search path; what calls it runs with ours."""
    definition = sql.SQL("#variable_conflict use_column\nBEGIN {} END").format(body).as_string(tx)
    returns = sql.SQL("" if "OUT " in parameters else "RETURNS pg_catalog.void")
    function = sql.SQL("CREATE OR REPLACE FUNCTION pg_temp.{}({}) {} LANGUAGE plpgsql SET search_path FROM CURRENT AS {}")
    with as_user(tx):
        tx.execute(function.format(identifier(name), sql.SQL(parameters), returns, sql.Literal(definition)))
