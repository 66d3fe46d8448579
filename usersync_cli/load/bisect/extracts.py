"""Which records of a step's extracts its transform or a cast fails on: the rows of one extract are tried, the others stay whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, listed, scalar, statements
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.errors import Drift
from usersync_cli.load import stage
from usersync_cli.load.bisect import found, halving
from usersync_cli.load.bisect.halving import AT, BETWEEN, BY_INDEX, ORDERED, Failure
from usersync_cli.load.merge import REJECTS, Merge
from usersync_cli.load.rejects import BAD, allowed, condition, detail, is_about_data, reason
from usersync_cli.load.stage import Stage

_BATCH_ROWS = 1000  # of a stage that may be read whole for each attempt
# Which nodes of a plan may stand above the scan of an extract whose rows are tried one by one.
_NOT_BY_ROW = {
    "Aggregate", "WindowAgg", "Group", "Unique", "SetOp", "Limit", "Append", "Merge Append", "Recursive Union", "CTE Scan",
}  # fmt: skip
_KEPT_SIDE = {"Left": "Outer", "Semi": "Outer", "Anti": "Outer", "Right": "Inner", "Right Semi": "Inner", "Right Anti": "Inner"}
_BAD = sql.SQL(BAD)


def transform(tx: Connection, merge: Merge, text: str | None, stages: Sequence[Stage]) -> tuple[list[Failure], int]:
    """Put into REJECTS, and take out of its stage, each record that the transform or a cast fails on.

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
    rows = halving.number(tx, sql.SQL("SELECT f.ctid AS usersync_ctid, f.* FROM {} AS f").format(first.table))
    indexed = _index_others(tx, [one for one in stages if one is not first], explained)
    part = sql.SQL("(SELECT {names} FROM (SELECT o.*, {at} FROM {ordered} AS o WHERE {between} OFFSET 0) AS o) AS part").format(
        names=names, at=AT, ordered=ORDERED, between=BETWEEN
    )
    parts = [replace(one, table=sql.Composed([part]), temporary=False) if one is first else one for one in stages]
    tried = replace(merge, transform=stage.over(text, parts)).everything
    every = sql.SQL("PERFORM pg_catalog.count(ROW(w.*)) FROM ({}) AS w;").format(tried)
    failures = halving.halve(tx, every, allowed(rows), BY_INDEX if indexed else "")
    if failures:
        _describe(tx, merge, tried, failures)
        _say_why(tx, failures)
        tx.execute(
            sql.SQL("UPDATE {} AS a SET usersync_document = {} FROM {} AS o WHERE o.usersync_ord = a.usersync_ord").format(
                REJECTS, found.as_document("o", columns), ORDERED
            )
        )
        tx.execute(
            sql.SQL("DELETE FROM {} AS f USING {} AS o JOIN {} AS a USING (usersync_ord) WHERE f.ctid = o.usersync_ctid").format(
                first.table, ORDERED, REJECTS
            )
        )
        # Numbers mean something in this round only; a number below 0 says that the record is in no stage any more.
        tx.execute(sql.SQL("UPDATE {} SET usersync_ord = -1 WHERE usersync_ord > 0").format(REJECTS))
    halving.forget(tx)
    return failures, rows


def _describe(tx: Connection, merge: Merge, tried: sql.Composable, failures: Sequence[Failure]) -> None:
    """File each failure under its key, if that can be computed, with the column that fails; one that gives several rows, under each."""
    fields = [f.column for f in merge.fields]
    tries = [sql.SQL("PERFORM pg_catalog.count(*) FROM ({}) AS w;").format(tried)]
    tries += [sql.SQL("PERFORM pg_catalog.count(w.{}) FROM ({}) AS w;").format(column, tried) for column in fields]
    keys = [identifier(name) for name in merge.key]
    file = sql.SQL("INSERT INTO {} ({}, usersync_ord, usersync_column) SELECT {}, usersync_lo, usersync_found FROM ({}) AS w;").format(
        REJECTS, listed(keys), listed(sql.SQL("w.{}").format(key) for key in keys), tried
    )
    halving.make(tx, "usersync_column", "usersync_lo bigint, usersync_hi bigint, usersync_which int", _choice(tries))
    halving.make(tx, "usersync_file", "usersync_lo bigint, usersync_hi bigint, usersync_found pg_catalog.text, OUT usersync_filed boolean",
          file + sql.SQL(" usersync_filed := FOUND;"))  # fmt: skip
    body = sql.SQL(statements(__name__)["describe"]).format(
        last=sql.Literal(len(fields)),
        bad=_BAD,
        names=sql.SQL("ARRAY[{}]::text[]").format(listed(sql.Literal(f.name) for f in merge.fields)),
        rejects=REJECTS,
    )
    tx.execute(
        sql.SQL("CREATE OR REPLACE FUNCTION pg_temp.usersync_describe(usersync_ords bigint[]) RETURNS void LANGUAGE plpgsql AS {}").format(
            sql.Literal(body.as_string(tx))
        )
    )
    tx.execute("SELECT pg_temp.usersync_describe(%s)", ([one.ord for one in failures],))


def _say_why(tx: Connection, failures: Sequence[Failure]) -> None:
    """Put reason and detail to the failures that were filed."""
    for one in dict.fromkeys((f.sqlstate, f.column, f.constraint, f.table) for f in failures):
        ords = [f.ord for f in failures if (f.sqlstate, f.column, f.constraint, f.table) == one]
        column = sql.SQL("COALESCE(usersync_column, NULLIF({}, ''))").format(sql.Literal(one[1]))
        tx.execute(
            sql.SQL(
                "UPDATE {} SET usersync_reason = {}, usersync_detail = concat_ws(', ', 'column ' || {}, NULLIF({}, ''))"
                " WHERE usersync_ord = ANY({}::bigint[])"
            ).format(REJECTS, sql.Literal(condition(one[0])), column, sql.Literal(detail(None, one[2], one[3])), sql.Literal(ords))
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
    """The error when nobody can tell which record is bad: it names the column at least."""
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


def _columns(tx: Connection, table: sql.Composable) -> list[sql.Identifier]:
    found = tx.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(table)).description or ()
    return [identifier(column.name) for column in found]


def _choice(statements: Sequence[sql.Composable]) -> sql.Composed:
    """PL/pgSQL that runs the statement whose number is usersync_which."""
    tries = [
        sql.SQL("IF usersync_which OPERATOR(pg_catalog.=) {} THEN {} END IF;").format(sql.Literal(i), one)
        for i, one in enumerate(statements)
    ]
    return sql.SQL(" ").join(tries)
