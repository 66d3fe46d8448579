"""Which records of CHANGES the constraints of a table refuse, found by looking at them, not by writing them.

Exact for NOT NULL, lengths, CHECK, foreign keys and unique columns of a table without triggers; the rest only writing can
tell. A preview knows what is found here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres.catalog import Table
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import and_, identifier, listed
from usersync_cli.load import rejects
from usersync_cli.load.bisect import found
from usersync_cli.load.bisect.attempts import Cause
from usersync_cli.load.merge import CHANGES, REJECTS, Merge, key_text

_LENGTH = re.compile(r"character(?: varying)?\((\d+)\)")


@dataclass(frozen=True)
class Broken:
    """A condition on c, a record of CHANGES, that the table refuses."""

    reason: str
    detail: str
    condition: sql.Composable


def conditions(tx: Connection, merge: Merge, table: Table, stays: sql.Composable | None = None) -> list[Broken]:
    """All conditions that can be looked at; none where triggers may change what is written.

    `stays` says of t, a row of the table, that it will still be there; without it, whatever may leave is taken to leave.
    """
    if table.has_triggers or table.has_rules:
        return []
    return [*_columns(merge, table), *_checks(tx, merge, table), *_foreign_keys(tx, merge, table), *_unique(tx, merge, table, stays)]


def set_aside(tx: Connection, merge: Merge, broken: Broken) -> int:
    """File in REJECTS the records of CHANGES that this condition meets; gives how many. 0 where it can't be looked at."""
    keys = listed(identifier(name) for name in merge.key)
    values = listed(sql.SQL("c.{}").format(identifier(name)) for name in merge.key)
    statement = sql.SQL("""
        INSERT INTO {rejects} ({keys}, usersync_reason, usersync_detail, usersync_document)
        SELECT {values}, {reason}, {detail}, {document} FROM {changes} AS c
         WHERE ({condition}) AND NOT EXISTS (SELECT FROM {rejects} AS a WHERE {same})
    """).format(
        rejects=REJECTS,
        keys=keys,
        values=values,
        reason=sql.Literal(broken.reason),
        detail=sql.Literal(broken.detail),
        document=found.record(merge, "c"),
        changes=CHANGES,
        condition=broken.condition,
        same=merge.same("a", "c"),
    )
    try:
        with tx.transaction():
            return tx.execute(statement).rowcount
    except (psycopg.DataError, psycopg.ProgrammingError):  # no right to look, or a CHECK that fails on other records
        return 0


def refused(tx: Connection, merge: Merge, table: Table) -> dict[str, Cause]:
    """Why the table's constraints refuse records of CHANGES, by key; found by looking. They are left in REJECTS."""
    broken = conditions(tx, merge, table)
    if not broken:
        return {}
    found.create(tx, merge)
    for one in broken:
        set_aside(tx, merge, one)
    query = sql.SQL("SELECT {}, usersync_reason, usersync_detail FROM {} AS a").format(key_text(merge.key, "a"), REJECTS)
    return {key: Cause(reason, detail or "") for key, reason, detail in tx.execute(query).fetchall()}


def _columns(merge: Merge, table: Table) -> Iterator[Broken]:
    for f in merge.values:
        there = table.columns[f.name]
        if there.not_null:
            where = rejects.detail(f.name, None, table.relname)
            yield Broken("not_null_violation", where, sql.SQL("c.{} IS NULL").format(f.column))
        if match := _LENGTH.fullmatch(there.type):
            # Blanks beyond the end are cut, by the standard.
            too_long = sql.SQL("rtrim(substr(c.{}::text, {}), ' ') <> ''").format(f.column, sql.Literal(int(match[1]) + 1))
            yield Broken("string_data_right_truncation", rejects.detail(f.name), too_long)


def _checks(tx: Connection, merge: Merge, table: Table) -> Iterator[Broken]:
    for name, expression, columns in tx.execute(_CHECKS, (table.oid,)).fetchall():
        if _loaded(merge, columns):
            where = rejects.detail(None, name, table.relname)
            yield Broken("check_violation", where, sql.SQL("({}) IS FALSE").format(sql.SQL(expression)))  # from the catalog


def _foreign_keys(tx: Connection, merge: Merge, table: Table) -> Iterator[Broken]:
    for name, schema, other, on_itself, columns, referred in tx.execute(_FOREIGN_KEYS, (table.oid,)).fetchall():
        if not _loaded(merge, columns):
            continue
        pairs = [
            sql.SQL("r.{} OPERATOR({}) c.{}").format(identifier(there), sql.SQL(merge.field(here).operator), identifier(here))
            for here, there in zip(columns, referred, strict=True)
        ]
        missing = sql.SQL("{} AND NOT EXISTS (SELECT FROM {} AS r WHERE {})").format(
            _given(columns),
            sql.SQL("{}.{}").format(identifier(schema), identifier(other)),
            and_(pairs),
        )
        if on_itself and _loaded(merge, referred):
            missing += sql.SQL(" AND NOT EXISTS (SELECT FROM {} AS r WHERE {})").format(CHANGES, and_(pairs))
        yield Broken("foreign_key_violation", rejects.detail(None, name, table.relname), missing)


def _unique(tx: Connection, merge: Merge, table: Table, stays: sql.Composable | None) -> Iterator[Broken]:
    """A unique value that a row keeps, or that a record with a smaller key takes."""
    if stays is None:
        stays = merge.present if merge.sums and not merge.marks else sql.SQL("true")
    key = [identifier(name) for name in merge.key]
    for name, columns in tx.execute(_UNIQUE, (table.oid,)).fetchall():
        if set(columns) == set(merge.key) or not _loaded(merge, columns):
            continue
        where = rejects.detail(None, name, table.relname)
        kept = sql.SQL("EXISTS (SELECT FROM {} AS t WHERE {} AND NOT EXISTS (SELECT FROM {} AS p WHERE {}) AND {})").format(
            merge.table,
            and_(merge.field(column).same("t", "c") for column in columns),
            CHANGES,
            merge.same("p", "t"),
            stays,
        )
        yield Broken("unique_violation", where, sql.SQL("{} AND {}").format(_given(columns), kept))
        taken = sql.SQL("EXISTS (SELECT FROM {} AS o WHERE {} AND ({}) < ({}) AND NOT EXISTS (SELECT FROM {} AS a WHERE {}))").format(
            CHANGES,
            and_(merge.field(column).same("o", "c") for column in columns),
            listed(sql.SQL("o.{}").format(one) for one in key),
            listed(sql.SQL("c.{}").format(one) for one in key),
            REJECTS,
            merge.same("a", "o"),
        )
        yield Broken("unique_violation", where, sql.SQL("{} AND {}").format(_given(columns), taken))


def _loaded(merge: Merge, columns: Sequence[str]) -> bool:
    return set(columns) <= {f.name for f in merge.fields}


def _given(columns: Sequence[str]) -> sql.Composed:
    return and_(sql.SQL("c.{} IS NOT NULL").format(identifier(column)) for column in columns)


# Columns of pg_constraint that only newer servers have are read through JSON.
_CHECKS = """
SELECT k.conname, pg_catalog.pg_get_expr(k.conbin, k.conrelid),
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey))
  FROM pg_catalog.pg_constraint k
 WHERE k.conrelid = %s AND k.contype = 'c' AND COALESCE(to_jsonb(k) ->> 'conenforced', 'true') = 'true' ORDER BY k.conname
"""
_NAMES = """
ARRAY(SELECT a.attname::text FROM unnest({numbers}) WITH ORDINALITY AS n(attnum, i)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = {relation} AND a.attnum = n.attnum ORDER BY n.i)
"""
_FOREIGN_KEYS = f"""
SELECT k.conname, s.nspname, c.relname, k.confrelid = k.conrelid,
       {_NAMES.format(numbers="k.conkey", relation="k.conrelid")}, {_NAMES.format(numbers="k.confkey", relation="k.confrelid")}
  FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.confrelid JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
 WHERE k.conrelid = %s AND k.contype = 'f' AND k.convalidated AND k.confmatchtype = 's'
   AND COALESCE(to_jsonb(k) ->> 'conenforced', 'true') = 'true' AND COALESCE(to_jsonb(k) ->> 'conperiod', 'false') = 'false'
 ORDER BY k.conname
"""  # noqa: S608  our own text
_UNIQUE = f"""
SELECT c.relname, {_NAMES.format(numbers="(i.indkey::int2[])[0:i.indnkeyatts - 1]", relation="i.indrelid")}
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT i.indnullsnotdistinct
 ORDER BY c.relname
"""  # noqa: S608  our own text
