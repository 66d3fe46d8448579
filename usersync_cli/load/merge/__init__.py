"""What goes where in a merge: a table, the SELECT of what it should hold, and how its columns are compared.

`compare` looks what differs, `drift` counts it by column, `write` makes it equal. Their statements hold a person's SQL, or set off
their triggers, so they run with the person's search path (`as_user`). Nothing of ours in them may depend on it: functions, types and
operators say their schema, IS DISTINCT FROM and IN are not used (they look `=` up along the path), and what can be computed here is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from psycopg import sql

from usersync_cli.clients.postgres.sql import and_, identifier, listed, or_

CHANGES = sql.SQL("pg_temp.usersync_changes")  # the rows that differ, as they should be; made when there are any
REJECTS = sql.SQL("pg_temp.usersync_rejects")  # the keys of rejects, and why; made when the first is found
WIDE = 1600  # columns that two rows side by side may have
EQUAL = "pg_catalog.="


@dataclass(frozen=True)
class Field:
    """One column that is loaded: how the transform's value is turned into the target's type, and how the two compare."""

    name: str
    cast: str = ""  # type to cast to; "" where the types are the same
    collation: str = ""  # of the target's column, quoted, where it is not the type's own
    as_text: bool = False  # json has no equality: compared as text
    operator: str = EQUAL  # of equality, with its schema
    composite: bool = False  # IS NULL would be true of a row of NULLs too

    @property
    def column(self) -> sql.Identifier:
        return identifier(self.name)

    def same(self, one: str, other: str) -> sql.Composed:
        """The values of these two sides are equal; NULL where one is."""
        a, b = (
            sql.SQL("{}.{}{}").format(sql.SQL(side), self.column, sql.SQL("::pg_catalog.text" if self.as_text else ""))
            for side in (one, other)
        )
        return sql.SQL("{} OPERATOR({}) {}").format(a, sql.SQL(EQUAL if self.as_text else self.operator), b)  # from the catalog

    def differs(self, one: str, other: str) -> sql.Composed:
        """The values of these two sides differ, as IS DISTINCT FROM says it, whatever `=` means along the path."""
        a, b = (sql.SQL("{}.{}").format(sql.SQL(side), self.column) for side in (one, other))
        null = sql.SQL("pg_catalog.num_nulls({}, {}) OPERATOR(pg_catalog.=) 2" if self.composite else "{} IS NULL AND {} IS NULL")
        return sql.SQL("(({}) IS NOT TRUE AND NOT ({}))").format(self.same(one, other), null.format(a, b))


@dataclass(frozen=True)
class Merge:
    """What goes where: a table, the SELECT of what it should hold, and which columns are the key."""

    table: sql.Composable
    fields: Sequence[Field]
    helpers: Sequence[str]  # columns of the transform that are not loaded but may be ordered by
    key: Sequence[str]
    transform: sql.Composable
    order_by: str | None = None
    on_insert: Sequence[tuple[str, str]] = ()  # (column, expression) of time stamps that we fill
    on_update: Sequence[tuple[str, str]] = ()
    overriding: bool = False  # an identity column GENERATED ALWAYS is given a value
    has_rules: bool = False  # ON CONFLICT is refused on a table with rules
    watched: bool = False  # it has triggers or rules: what was written is looked for afterwards
    marks: tuple[str, str] | None = None  # (column, expression over g, a row of GONE) of the time at which a record went; NULL: it is there
    sums: bool = False  # take the checksum of the keys that are matched, for `sweep`
    without_rejects: bool = False  # leave out the records in REJECTS, and those without a key
    part: bool = False  # a page of what the table holds: the rest of it is not read

    @property
    def found(self) -> sql.Composed:
        """The table as t, joined to w from the left. A page looks its rows up by their key whatever the planner knows about the
        table: one that grows page by page has no statistics, and would be read whole for each page."""
        if not self.part:
            return sql.SQL("LEFT JOIN {} AS t ON {}").format(self.table, self.same_key)
        return sql.SQL("LEFT JOIN LATERAL (SELECT * FROM {} AS t WHERE {} LIMIT 1) AS t ON true").format(self.table, self.same_key)

    @cached_property
    def wanted(self) -> sql.Composed:
        """The transform's rows in the types and collations of the table."""
        if not self.without_rejects:
            return self.everything
        return sql.SQL("SELECT w.* FROM ({}) AS w WHERE NOT {}").format(self.everything, self.is_reject)

    @property
    def is_reject(self) -> sql.Composed:
        """The row w is a reject, or has no key."""
        without = or_(sql.SQL("w.{} IS NULL").format(identifier(name)) for name in self.key)
        return sql.SQL("({} OR EXISTS (SELECT FROM {} AS a WHERE {}))").format(without, REJECTS, self.same("a", "w"))

    @property
    def present(self) -> sql.Composed:
        """The row t is at the source, even if only as a reject."""
        keys = listed(identifier(name) for name in self.key)
        found = sql.SQL("SELECT {} FROM ({}) AS w").format(keys, self.wanted)
        if self.without_rejects:
            found += sql.SQL(" UNION ALL SELECT {} FROM {}").format(keys, REJECTS)
        return sql.SQL("EXISTS (SELECT FROM ({}) AS w WHERE {})").format(found, self.same_key)

    @cached_property
    def everything(self) -> sql.Composed:
        """`wanted` with the rejects."""
        parts: list[sql.Composable] = []
        for f in self.fields:
            value: sql.Composable = sql.SQL("v.{}").format(f.column)
            if f.cast:
                value = sql.SQL("{}::{}").format(value, sql.SQL(f.cast))  # from the catalog
            if f.collation:
                value = sql.SQL("{} COLLATE {}").format(value, sql.SQL(f.collation))  # from the catalog
            parts.append(sql.SQL("{} AS {}").format(value, f.column))
        parts += [sql.SQL("v.{}").format(identifier(name)) for name in self.helpers]
        return sql.SQL("SELECT {} FROM ({}) AS v").format(listed(parts), self.transform)

    @cached_property
    def same_key(self) -> sql.Composed:
        """The rows t and w have the same key."""
        return self.same("t", "w")

    def same(self, one: str, other: str) -> sql.Composed:
        """The rows of any two sides have the same key."""
        return and_(self.field(name).same(one, other) for name in self.key)

    def field(self, name: str) -> Field:
        """The field of this name."""
        return next((f for f in self.fields if f.name == name), Field(name))

    @cached_property
    def values(self) -> list[Field]:
        """The columns that are not part of the key."""
        return [f for f in self.fields if f.name not in self.key]

    @cached_property
    def differs(self) -> sql.Composed:
        """The rows t and w, of the same key, hold different values."""
        return self.differs_from("w")

    @property
    def wide(self) -> bool:
        """Whether two rows side by side have more columns than PostgreSQL allows (1,664)."""
        return 2 * (len(self.fields) + len(self.helpers)) > WIDE

    @property
    def marked(self) -> sql.Composed:
        """The row t is marked as deleted."""
        return sql.Composed([sql.SQL("t.{} IS NOT NULL").format(identifier(self.marks[0])) if self.marks else sql.SQL("false")])

    def differs_from(self, other: str) -> sql.Composed:
        """The rows t and `other` ("w" or "excluded"), of the same key, hold different values."""
        marked = self.marked
        if not self.values:
            return marked
        differs: sql.Composed = or_(f.differs("t", other) for f in self.values)
        return sql.SQL("({} OR {})").format(differs, marked) if self.marks else differs

    @property
    def first_key(self) -> sql.Identifier:
        return identifier(self.key[0])


def key_text(key: Sequence[str], side: str = "t") -> sql.Composed:
    """A row's key as text, in the types of the table: the one column, or a record of all of them."""
    columns = [sql.SQL("{}.{}::pg_catalog.text").format(sql.SQL(side), identifier(name)) for name in key]
    whole = columns[0] if len(columns) == 1 else sql.SQL("(ROW({}))::pg_catalog.text").format(listed(columns))
    return sql.SQL('({} COLLATE pg_catalog."C")').format(whole)


def texts(side: str, columns: Iterable[sql.Identifier], *more: sql.Composable) -> sql.Composed:
    """An array of text: the values of these columns, then `more`."""
    own = (sql.SQL("{}.{}::pg_catalog.text").format(sql.SQL(side), name) for name in columns)
    return sql.SQL("ARRAY[{}]").format(listed([*own, *more]))
