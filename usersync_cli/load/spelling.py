"""How a record's key is spelt: by its source, by the type of the key column, and by the row that has it.

A source gives keys as text; whether two of them are one person's is for the type of the key column to say: in a citext
column User1 is user1, in an integer column 007 is 7, in a uuid column {A0EE...} is a0ee... Here PostgreSQL is asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres.arrays import texts
from usersync_cli.clients.postgres.catalog import Table, has_one_text
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import and_, identifier, listed, type_name
from usersync_cli.load.merge import Merge, key_text
from usersync_cli.load.rejects import BAD, is_about_data

# Keys that are already written as PostgreSQL writes those of the type.
_AS_WRITTEN = {
    "smallint": re.compile(r"0|-?[1-9][0-9]{0,3}"),
    "integer": re.compile(r"0|-?[1-9][0-9]{0,8}"),
    "bigint": re.compile(r"0|-?[1-9][0-9]{0,17}"),
    "uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "text": re.compile(r"(?s).*"),
    "character varying": re.compile(r"(?s).*"),
}
_PART = re.compile(r'"((?:[^"\\]|""|\\.)*)"|([^",()\\]*)', re.DOTALL)


@dataclass(frozen=True)
class Spelt:
    """A key of the source: how its row spells it, or its type, where it has no row; and the first on its page that is the same."""

    row: str
    first: int


@dataclass(frozen=True)
class Spelling:
    """The key columns of a table, which may not be made yet, and their types without lengths."""

    key: Sequence[str]
    types: Sequence[str]
    collations: Sequence[str]
    operators: Sequence[str]  # of equality, with their schemas
    table: sql.Composable | None
    number: int = 0  # among those of one transaction

    @cached_property
    def exact(self) -> bool:
        """Two keys are the same only if PostgreSQL writes them alike."""
        return all(has_one_text(type_) and not collation for type_, collation in zip(self.types, self.collations, strict=True))

    def as_written(self, key: str) -> bool:
        """Whether the row will spell it just so, and no other key is the same but for its spelling."""
        if len(self.key) > 1 or not self.exact:
            return False
        written = _AS_WRITTEN.get(self.types[0])
        return written is not None and written.fullmatch(key) is not None

    def ask(self, tx: Connection, query: sql.Composed, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        """The rows of a query over `typed` for these keys; keys that the type of the column does not accept are left out."""
        try:
            with tx.transaction():
                return tx.execute(query, self.columns(keys)).fetchall()
        except psycopg.Error as error:
            if not is_about_data(error):
                raise
        return tx.execute(query, self.columns(self._readable(tx, keys))).fetchall()

    def read(self, tx: Connection, keys: Sequence[str]) -> dict[str, Spelt]:
        """Each of these keys in the table's spelling; keys that its type does not accept are left out. In a transaction."""
        names = [identifier(name) for name in self.key]
        found = sql.SQL("LEFT JOIN (SELECT {}) AS t ON true").format(listed(sql.SQL("NULL::text AS {}").format(name) for name in names))
        if self.table is not None:
            same = and_(
                sql.SQL("t.{0} OPERATOR({1}) s.{0}").format(name, sql.SQL(operator))  # from the catalog
                for name, operator in zip(names, self.operators, strict=True)
            )
            found = sql.SQL("LEFT JOIN LATERAL (SELECT * FROM {} AS t WHERE {} LIMIT 1) AS t ON true").format(self.table, same)
        query = sql.SQL("""
            SELECT s.usersync_key, {typed}, CASE WHEN t.{first} IS NOT NULL THEN {row} END,
                   min(s.usersync_ord) OVER (PARTITION BY {columns}) - 1
              FROM ({keys}) AS s {found}
        """).format(
            typed=key_text(self.key, "s"),
            row=key_text(self.key, "t"),
            first=names[0],
            columns=listed(sql.SQL("s.{}").format(name) for name in names),
            keys=self.typed,
            found=found,
        )
        return {key: Spelt(row or typed, first) for key, typed, row, first in self.ask(tx, query, keys)}

    @property
    def typed(self) -> sql.Composed:
        """SELECT of usersync_key, usersync_ord and the key columns in their types, of what `columns` gives."""
        parts = [sql.SQL("%s::text[]")] * (1 + len(self.key))
        names = [sql.SQL(f"usersync_part_{i}") for i in range(len(self.key))]
        values = [sql.SQL("{} AS {}").format(self.cast(i, name), identifier(self.key[i])) for i, name in enumerate(names)]
        return sql.SQL(
            "SELECT usersync_key, usersync_ord, {values}"
            " FROM unnest({parts}) WITH ORDINALITY AS p(usersync_key, {names}, usersync_ord) OFFSET 0"
        ).format(values=listed(values), parts=listed(parts), names=listed(names))

    def cast(self, column: int, value: sql.Composable) -> sql.Composed:
        """A text as a value of this key column."""
        of = sql.SQL(f" COLLATE {self.collations[column]}" if self.collations[column] else "")
        return sql.SQL("({}::{}{})").format(value, sql.SQL(type_name(self.types[column])), of)  # from the catalog

    def columns(self, keys: Sequence[str]) -> list[object]:
        """The parameters of `typed`: each key, and its parts, NULL where it has not as many as the table's key."""
        return [texts(keys), *self.parts(keys)]

    def parts(self, keys: Sequence[str]) -> list[object]:
        """The parts of each key, column by column."""
        if len(self.key) == 1:
            return [texts(keys)]
        split = [parts_of(key, len(self.key)) for key in keys]
        return [texts(parts[i] if parts else None for parts in split) for i in range(len(self.key))]

    def _readable(self, tx: Connection, keys: Sequence[str]) -> list[str]:
        """The keys that the types of the key columns accept."""
        names = [sql.SQL(f"usersync_part_{i}") for i in range(len(self.key))]
        query = sql.SQL("SELECT usersync_key FROM unnest({}) AS p(usersync_key, {names}) WHERE {}(ARRAY[{names}])").format(
            listed([sql.SQL("%s::text[]")] * (1 + len(self.key))), self._is_key, names=listed(names)
        )
        there = tx.execute("SELECT to_regprocedure(%s) IS NOT NULL", (f"{self._is_key.as_string(tx)}(text[])",)).fetchone() == (True,)
        with nullcontext() if there else tx.transaction(force_rollback=True):
            if not there:
                self.prepare(tx)
            return [key for (key,) in tx.execute(query, self.columns(keys)).fetchall()]

    @property
    def _is_key(self) -> sql.SQL:
        return sql.SQL(f"pg_temp.usersync_is_key_{self.number}")

    def prepare(self, tx: Connection) -> None:
        """Make what `read` may need, before a transaction may only read."""
        casts = sql.SQL(" ").join(
            sql.SQL("PERFORM {};").format(self.cast(i, sql.SQL(f"usersync_parts[{i + 1}]"))) for i in range(len(self.key))
        )
        body = sql.SQL("BEGIN {} RETURN true; EXCEPTION WHEN {} THEN RETURN false; END").format(casts, sql.SQL(BAD))
        statement = sql.SQL("CREATE FUNCTION {}(usersync_parts text[]) RETURNS boolean LANGUAGE plpgsql AS {}")
        tx.execute(statement.format(self._is_key, sql.Literal(body.as_string(tx))))


def of_table(table: Table, key: Sequence[str], number: int = 0) -> Spelling:
    """How the key of this table is spelt."""
    columns = [table.columns[name] for name in key]
    operators = [column.operator for column in columns]
    return Spelling(key, [column.bare for column in columns], [column.collation for column in columns], operators, table.name, number)


def spelling_of(tx: Connection, merge: Merge, table: Table | None) -> Spelling:
    """How the key of this table is spelt; of one that is still to be made, by the types of the transform, which is run over nothing."""
    if table is not None:
        return of_table(table, merge.key)
    collations = [merge.field(name).collation for name in merge.key]
    operators = [merge.field(name).operator for name in merge.key]
    keys = listed(sql.SQL("w.{}").format(identifier(name)) for name in merge.key)
    found = tx.execute(sql.SQL("SELECT {} FROM ({}) AS w LIMIT 0").format(keys, merge.everything)).pgresult
    assert found is not None  # noqa: S101  a SELECT always has a result
    oids = [found.ftype(i) for i in range(found.nfields)]
    query = "SELECT pg_catalog.format_type(t, -1) FROM unnest(%s::oid[]) WITH ORDINALITY AS g(t, i) ORDER BY i"
    return Spelling(merge.key, [type_ for (type_,) in tx.execute(query, (oids,)).fetchall()], collations, operators, None)


def parts_of(key: str, number: int) -> list[str] | None:
    """What `rows.key_of` made one of; None for what has not so many parts."""
    if not (key.startswith("(") and key.endswith(")")):
        return None
    parts, at = [], 1
    while at < len(key):
        found = _PART.match(key, at)
        if found is None or key[found.end()] not in ",)":
            return None
        quoted, plain = found.groups()
        parts.append(re.sub(r'""|\\(.)', lambda m: m[1] or '"', quoted, flags=re.DOTALL) if quoted is not None else plain)
        at = found.end() + 1
    return parts if len(parts) == number else None
