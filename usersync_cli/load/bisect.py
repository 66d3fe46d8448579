"""Which of many records a statement can't take: the server only says that one of them is bad.

Ranges are tried in a function of this session, each in a subtransaction, and halved where they fail. While rows are read,
a sequence, which no rollback takes back, notes how far the reading came: mostly it says at once which record was bad.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection, as_user
from usersync_cli.clients.postgres.sql import identifier, listed, scalar
from usersync_cli.errors import Drift
from usersync_cli.load import stage
from usersync_cli.load.merge import ASIDE, CHANGES, Merge, insert, update
from usersync_cli.load.rejects import BAD, allowed, condition, detail, is_about_data, reason
from usersync_cli.load.stage import Stage

ORDERED = sql.SQL("pg_temp.usersync_ordered")  # the records in question, numbered from 1: usersync_ord
_BATCH_ROWS = 1000  # of a stage that may be read whole for each attempt
# Which nodes of a plan may stand above the scan of an extract whose rows are tried one by one.
_NOT_BY_ROW = {
    "Aggregate", "WindowAgg", "Group", "Unique", "SetOp", "Limit", "Append", "Merge Append", "Recursive Union", "CTE Scan",
}  # fmt: skip
_KEPT_SIDE = {"Left": "Outer", "Semi": "Outer", "Anti": "Outer", "Right": "Inner", "Right Semi": "Inner", "Right Anti": "Inner"}
_BAD = sql.SQL(BAD)
# Which records an attempt reads, and how far it came.
_BETWEEN = sql.SQL("o.usersync_ord OPERATOR(pg_catalog.>=) usersync_lo AND o.usersync_ord OPERATOR(pg_catalog.<=) usersync_hi")
_AT = sql.SQL("pg_catalog.setval('pg_temp.usersync_at'::pg_catalog.regclass, o.usersync_ord)")
# Small ranges by index, with a plan that is made once.
_BY_INDEX = "SET plan_cache_mode = force_generic_plan SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off"


@dataclass(frozen=True)
class Failure:
    """One record that failed alone, by its number, and what the server said; "" where it said nothing."""

    ord: int
    sqlstate: str
    column: str
    constraint: str
    table: str


# the transform


def transform(tx: Connection, merge: Merge, text: str | None, stages: Sequence[Stage]) -> tuple[list[Failure], int]:
    """Set aside in ASIDE, and take out of its stage, each record that the transform or a cast fails on.

    The records of one extract are tried, the others stay whole: the first whose every row gives rows of its own. Gives
    the failures and how many records there were; it stops when there are more than are allowed. Raises Drift when the
    transform mixes the rows of every extract (GROUP BY, windows, ...).
    """
    with as_user(tx):
        explained = _explain(tx, merge.everything)
    first = next((one for one in stages if _by_row(explained, stage.relname(tx, one))), None)
    if first is None:
        raise _mixed(tx, merge)
    columns = _columns(tx, first.table)
    names = listed(columns)
    rows = _number(tx, sql.SQL("SELECT f.ctid AS usersync_ctid, f.* FROM {} AS f").format(first.table))
    indexed = _index_others(tx, [one for one in stages if one is not first], explained)
    part = sql.SQL("(SELECT {names} FROM (SELECT o.*, {at} FROM {ordered} AS o WHERE {between} OFFSET 0) AS o) AS part").format(
        names=names, at=_AT, ordered=ORDERED, between=_BETWEEN
    )
    parts = [replace(one, table=sql.Composed([part]), temporary=False) if one is first else one for one in stages]
    tried = replace(merge, transform=stage.over(text, parts)).everything
    every = sql.SQL("PERFORM pg_catalog.count(ROW(w.*)) FROM ({}) AS w;").format(tried)
    failures = _halve(tx, every, allowed(rows), _BY_INDEX if indexed else "")
    if failures:
        _describe(tx, merge, tried, failures)
        tx.execute(
            sql.SQL("UPDATE {} AS a SET usersync_document = {} FROM {} AS o WHERE o.usersync_ord = a.usersync_ord").format(
                ASIDE, as_document("o", columns), ORDERED
            )
        )
        tx.execute(
            sql.SQL("DELETE FROM {} AS f USING {} AS o JOIN {} AS a USING (usersync_ord) WHERE f.ctid = o.usersync_ctid").format(
                first.table, ORDERED, ASIDE
            )
        )
        # Numbers mean something in this round only; a number below 0 says that the record is in no stage any more.
        tx.execute(sql.SQL("UPDATE {} SET usersync_ord = -1 WHERE usersync_ord > 0").format(ASIDE))
    _forget(tx)
    return failures, rows


def _describe(tx: Connection, merge: Merge, tried: sql.Composable, failures: Sequence[Failure]) -> None:
    """File each of them under its key, if that can be computed, with the column that fails. Several rows, several keys."""
    fields = [f.column for f in merge.fields]
    tries = [sql.SQL("PERFORM pg_catalog.count(*) FROM ({}) AS w;").format(tried)]
    tries += [sql.SQL("PERFORM pg_catalog.count(w.{}) FROM ({}) AS w;").format(column, tried) for column in fields]
    keys = [identifier(name) for name in merge.key]
    file = sql.SQL("INSERT INTO {} ({}, usersync_ord, usersync_column) SELECT {}, usersync_lo, usersync_found FROM ({}) AS w;").format(
        ASIDE, listed(keys), listed(sql.SQL("w.{}").format(key) for key in keys), tried
    )
    _make(tx, "usersync_column", "usersync_lo bigint, usersync_hi bigint, usersync_which int", _choice(tries))
    _make(tx, "usersync_file", "usersync_lo bigint, usersync_hi bigint, usersync_found pg_catalog.text, OUT usersync_filed boolean",
          file + sql.SQL(" usersync_filed := FOUND;"))  # fmt: skip
    body = sql.SQL(
        """
        #variable_conflict use_column
        DECLARE
          usersync_lo bigint; usersync_hi bigint; usersync_last int := 1; usersync_try int; usersync_found text;
        BEGIN
          FOREACH usersync_lo IN ARRAY usersync_ords LOOP
            usersync_hi := usersync_lo;
            usersync_found := NULL;
            FOR usersync_i IN -1 .. {last} LOOP
              -- first whether it is in no column at all, then the one that it was the last time
              usersync_try := CASE usersync_i WHEN -1 THEN 0 WHEN 0 THEN usersync_last ELSE usersync_i END;
              CONTINUE WHEN usersync_i = usersync_last;
              BEGIN
                PERFORM pg_temp.usersync_column(usersync_lo, usersync_hi, usersync_try);
              EXCEPTION WHEN {bad} THEN
                IF usersync_try > 0 THEN
                  usersync_last := usersync_try;
                  usersync_found := ({names})[usersync_try];
                END IF;
                EXIT;
              END;
            END LOOP;
            BEGIN
              CONTINUE WHEN pg_temp.usersync_file(usersync_lo, usersync_hi, usersync_found);
            EXCEPTION WHEN {bad} THEN NULL;
            END;
            INSERT INTO {aside} (usersync_ord, usersync_column) VALUES (usersync_lo, usersync_found);
          END LOOP;
        END
        """
    ).format(
        last=sql.Literal(len(fields)),
        bad=_BAD,
        names=sql.SQL("ARRAY[{}]::text[]").format(listed(sql.Literal(f.name) for f in merge.fields)),
        aside=ASIDE,
    )
    tx.execute(
        sql.SQL("CREATE OR REPLACE FUNCTION pg_temp.usersync_describe(usersync_ords bigint[]) RETURNS void LANGUAGE plpgsql AS {}").format(
            sql.Literal(body.as_string(tx))
        )
    )
    tx.execute("SELECT pg_temp.usersync_describe(%s)", ([one.ord for one in failures],))
    for one in dict.fromkeys((f.sqlstate, f.column, f.constraint, f.table) for f in failures):
        ords = [f.ord for f in failures if (f.sqlstate, f.column, f.constraint, f.table) == one]
        column = sql.SQL("COALESCE(usersync_column, NULLIF({}, ''))").format(sql.Literal(one[1]))
        tx.execute(
            sql.SQL(
                "UPDATE {} SET usersync_reason = {}, usersync_detail = concat_ws(', ', 'column ' || {}, NULLIF({}, ''))"
                " WHERE usersync_ord = ANY({}::bigint[])"
            ).format(ASIDE, sql.Literal(condition(one[0])), column, sql.Literal(detail(None, one[2], one[3])), sql.Literal(ords))
        )


def _explain(tx: Connection, query: sql.Composable) -> dict[str, Any]:
    plans = scalar(tx, sql.SQL("EXPLAIN (FORMAT JSON, VERBOSE) {}").format(query))
    found: dict[str, Any] = (json.loads(plans) if isinstance(plans, str) else plans)[0]["Plan"]
    return found


def _nodes(node: Mapping[str, Any], above: Sequence[Mapping[str, Any]] = ()) -> Iterator[list[Mapping[str, Any]]]:
    """Every node of a plan, last in the list of those above it."""
    path = [*above, node]
    yield path
    for child in node.get("Plans", ()):
        yield from _nodes(child, path)


def _by_row(plan: Mapping[str, Any], relation: str) -> bool:
    """Whether each row of this relation gives rows of its own: it is read once, and nothing above mixes its rows."""
    scans = [path for path in _nodes(plan) if path[-1].get("Relation Name") == relation]
    if len(scans) != 1:
        return False
    path = scans[0]
    for parent, child in pairwise(path):
        side = child.get("Parent Relationship")
        if parent["Node Type"] in _NOT_BY_ROW or side in {"SubPlan", "InitPlan"}:
            return False
        kind = parent.get("Join Type", "Inner")
        if kind != "Inner" and _KEPT_SIDE.get(kind) != side:
            return False
    return True


def _mixed(tx: Connection, merge: Merge) -> Drift:
    """What to say when it can't be told which record is bad: at least the column."""
    for f in merge.fields:
        try:
            with tx.transaction(), as_user(tx):
                tx.execute(sql.SQL("SELECT pg_catalog.count(w.{}) FROM ({}) AS w").format(f.column, merge.everything))
        except psycopg.Error as error:
            if not is_about_data(error):
                raise
            code, _ = reason(error)
            return Drift(
                f"transform: {code} in column {f.name}, and which record it is can't be told; nothing was written",
                hint="the transform mixes the rows of its extracts (GROUP BY, DISTINCT, a window, UNION, LIMIT):"
                " fix the value at the source, or let the transform cope with it before it mixes them",
            )
    return Drift(
        "transform: a value can't be computed with, and which record it is can't be told; nothing was written",
        hint="the transform mixes the rows of its extracts (GROUP BY, DISTINCT, a window, UNION, LIMIT): fix the value at the source",
    )


def _index_others(tx: Connection, others: Sequence[Stage], plan: Mapping[str, Any]) -> bool:
    """Index the columns by which the other extracts are joined, so that an attempt reads a few rows of them.

    False when one of them still has to be read whole each time, and isn't small.
    """
    conditions = " ".join(str(value) for path in _nodes(plan) for name, value in path[-1].items() if name.endswith(("Cond", "Filter")))
    cheap = True
    for one in others:
        count = sum(1 for path in _nodes(plan) if path[-1].get("Relation Name") == stage.relname(tx, one))
        (big,) = tx.execute(sql.SQL("SELECT count(*) > {} FROM {}").format(sql.Literal(_BATCH_ROWS), one.table)).fetchone() or (False,)
        if not count or not big:
            continue
        joined = [column for column in _columns(tx, one.table) if column.as_string(tx).strip('"') in conditions]
        made = False
        for column in joined:
            try:
                with tx.transaction():
                    tx.execute(sql.SQL("CREATE INDEX ON {} ({})").format(one.table, column))
                made = True
            except (psycopg.ProgrammingError, psycopg.OperationalError):  # no operator class, or a value too long for an index
                continue
        cheap = cheap and made
    return cheap


# the table


def write(tx: Connection, merge: Merge, most: int) -> list[Failure]:
    """Which records of CHANGES the table does not take, in the context of the others. Everything it writes has to be rolled
    back by the caller; then `set_aside` files them."""
    part = sql.SQL("(SELECT o.*, {} FROM {} AS o WHERE {} AND {} OFFSET 0)")
    new = sql.SQL("SELECT * FROM {} AS part").format(part.format(_AT, ORDERED, _BETWEEN, sql.SQL("o.usersync_is_new")))
    steps = [insert(merge, new, merge.key, ordered=False), sql.SQL(";")]
    if merge.values or merge.marks:
        steps = [update(merge, part.format(_AT, ORDERED, _BETWEEN, sql.SQL("NOT o.usersync_is_new"))), sql.SQL(";"), *steps]
    with as_user(tx):
        tx.execute("SET CONSTRAINTS ALL IMMEDIATE")
    return _halve(tx, sql.Composed(steps), most, _BY_INDEX)


def number_changes(tx: Connection, merge: Merge) -> None:
    """ORDERED holds CHANGES, sorted by key."""
    keys = listed(identifier(name) for name in merge.key)
    _number(tx, sql.SQL("SELECT * FROM {} ORDER BY {}").format(CHANGES, keys))


def set_aside(tx: Connection, merge: Merge, failures: Sequence[Failure]) -> None:
    """File these records of ORDERED in ASIDE, as the transform gave them."""
    keys = listed(identifier(name) for name in merge.key)
    values = listed(sql.SQL("o.{}").format(identifier(name)) for name in merge.key)
    tx.execute(
        sql.SQL("""
            INSERT INTO {aside} ({keys}, usersync_reason, usersync_detail, usersync_document)
            SELECT {values}, f.reason, f.detail, {document}
              FROM unnest({ords}::bigint[], {reasons}::text[], {details}::text[]) AS f(ord, reason, detail)
              JOIN {ordered} AS o ON o.usersync_ord = f.ord
        """).format(
            aside=ASIDE, keys=keys, values=values, document=record(merge, "o"), ordered=ORDERED,
            ords=sql.Literal([one.ord for one in failures]),
            reasons=sql.Literal([condition(one.sqlstate) for one in failures]),
            details=sql.Literal([detail(one.column, one.constraint, one.table) for one in failures]),
        )
    )  # fmt: skip
    _forget(tx)


# both


def record(merge: Merge, side: str) -> sql.Composed:
    """The document of a record as the transform gave it."""
    return as_document(side, [f.column for f in merge.fields])


def as_document(side: str, columns: Sequence[sql.Identifier]) -> sql.Composed:
    """A row of these columns as JSON, in bytes."""
    names = listed(sql.SQL("{}.{}").format(sql.SQL(side), column) for column in columns)
    # The row's own name has to be that of none of its columns.
    row = sql.SQL("(SELECT usersync_row FROM (SELECT {}) AS usersync_row)").format(names)
    return sql.SQL("pg_catalog.convert_to(pg_catalog.row_to_json({})::pg_catalog.text, 'UTF8')").format(row)


def _number(tx: Connection, rows: sql.Composable) -> int:
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


def _forget(tx: Connection) -> None:
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


def _columns(tx: Connection, table: sql.Composable) -> list[sql.Identifier]:
    found = tx.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(table)).description or ()
    return [identifier(column.name) for column in found]


def _make(tx: Connection, name: str, parameters: str, body: sql.Composable) -> None:
    """A function of ours that holds a person's SQL, and runs with their search path; what calls it runs with ours."""
    definition = sql.SQL("#variable_conflict use_column\nBEGIN {} END").format(body).as_string(tx)
    returns = sql.SQL("" if "OUT " in parameters else "RETURNS pg_catalog.void")
    function = sql.SQL("CREATE OR REPLACE FUNCTION pg_temp.{}({}) {} LANGUAGE plpgsql SET search_path FROM CURRENT AS {}")
    with as_user(tx):
        tx.execute(function.format(identifier(name), sql.SQL(parameters), returns, sql.Literal(definition)))


def _choice(statements: Sequence[sql.Composable]) -> sql.Composed:
    """The one whose number is usersync_which."""
    tries = [
        sql.SQL("IF usersync_which OPERATOR(pg_catalog.=) {} THEN {} END IF;").format(sql.Literal(i), one)
        for i, one in enumerate(statements)
    ]
    return sql.SQL(" ").join(tries)


def _halve(tx: Connection, attempt: sql.Composable, most: int, settings: str) -> list[Failure]:
    """The records of ORDERED on which `attempt` fails alone; it reads those from usersync_lo to usersync_hi.

    What passed stays done. More than `most`, and the search ends.
    """
    _make(tx, "usersync_attempt", "usersync_lo bigint, usersync_hi bigint", attempt)
    body = sql.SQL(_HALVE).format(bad=_BAD, ordered=ORDERED)
    tx.execute(
        sql.SQL("CREATE OR REPLACE FUNCTION pg_temp.usersync_halve(usersync_most bigint) RETURNS TABLE"
                " (usersync_ord bigint, usersync_state text, usersync_column text, usersync_constraint text, usersync_table text)"
                " LANGUAGE plpgsql {} AS {}").format(sql.SQL(settings), sql.Literal(body.as_string(tx)))
    )  # fmt: skip
    return [Failure(*row) for row in tx.execute("SELECT * FROM pg_temp.usersync_halve(%s)", (most,)).fetchall()]


_HALVE = """
#variable_conflict use_column
DECLARE
  usersync_lo bigint;
  usersync_hi bigint;
  usersync_lows bigint[] := ARRAY[1];
  usersync_highs bigint[];
  usersync_depth int := 1;
  usersync_count bigint := 0;
  usersync_guess bigint;
  usersync_right int := 0;
  usersync_wrong int := 0;
BEGIN
  usersync_highs := ARRAY[(SELECT max(o.usersync_ord) FROM {ordered} AS o)];
  WHILE usersync_depth > 0 LOOP
    usersync_lo := usersync_lows[usersync_depth];
    usersync_hi := usersync_highs[usersync_depth];
    usersync_depth := usersync_depth - 1;
    BEGIN
      PERFORM pg_temp.usersync_attempt(usersync_lo, usersync_hi);
      IF usersync_lo = usersync_hi AND usersync_lo = usersync_guess THEN
        usersync_wrong := usersync_wrong + 1;
      END IF;
      CONTINUE;
    EXCEPTION WHEN {bad} THEN
      GET STACKED DIAGNOSTICS usersync_state = RETURNED_SQLSTATE, usersync_column = COLUMN_NAME,
                              usersync_constraint = CONSTRAINT_NAME, usersync_table = TABLE_NAME;
    END;
    IF usersync_lo = usersync_hi THEN
      IF usersync_lo = usersync_guess THEN
        usersync_right := usersync_right + 1;
      END IF;
      usersync_ord := usersync_lo;
      RETURN NEXT;
      usersync_count := usersync_count + 1;
      EXIT WHEN usersync_count > usersync_most;
      CONTINUE;
    END IF;
    usersync_guess := (SELECT s.last_value FROM pg_temp.usersync_at AS s);
    -- The pieces are pushed from the last to the first, so that they are tried in their order.
    IF usersync_wrong > usersync_right + 3 OR usersync_guess NOT BETWEEN usersync_lo AND usersync_hi THEN
      usersync_guess := (usersync_lo + usersync_hi) / 2;
      usersync_depth := usersync_depth + 1;
      usersync_lows[usersync_depth] := usersync_guess + 1;
      usersync_highs[usersync_depth] := usersync_hi;
      usersync_depth := usersync_depth + 1;
      usersync_lows[usersync_depth] := usersync_lo;
      usersync_highs[usersync_depth] := usersync_guess;
      usersync_guess := NULL;
    ELSE
      IF usersync_guess < usersync_hi THEN
        usersync_depth := usersync_depth + 1;
        usersync_lows[usersync_depth] := usersync_guess + 1;
        usersync_highs[usersync_depth] := usersync_hi;
      END IF;
      usersync_depth := usersync_depth + 1;
      usersync_lows[usersync_depth] := usersync_guess;
      usersync_highs[usersync_depth] := usersync_guess;
      IF usersync_guess > usersync_lo THEN
        usersync_depth := usersync_depth + 1;
        usersync_lows[usersync_depth] := usersync_lo;
        usersync_highs[usersync_depth] := usersync_guess - 1;
      END IF;
    END IF;
  END LOOP;
END
"""
