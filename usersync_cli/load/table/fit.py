"""Does a step fit its table: columns and their types, key, and rights, all before a row is written.

What does not fit is reported at once, each with the statement that would help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

from psycopg import errors, sql

from usersync_cli.clients.postgres.catalog import (
    Table,
    TableColumn,
    behind,
    describe,
    equality,
    has_equality,
    has_partition,
    locked_sequences,
    read_by,
)
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, type_name
from usersync_cli.clients.postgres.transactions import schemas
from usersync_cli.errors import ConfigError, Drift
from usersync_cli.load import stage
from usersync_cli.load.merge import Field, Merge
from usersync_cli.load.table.create import MARK, NewTable, quoted, shown
from usersync_cli.model import OWN_SCHEMA, Column, Desired, Load

STAMPS_ON_INSERT = ("created_at", "inserted_at", "updated_at")
STAMPS_ON_UPDATE = ("updated_at",)
# In UTC whatever the zone of the session; Ecto's are `timestamp(0) NOT NULL` without a default.
_STAMP = {"timestamp with time zone": "pg_catalog.now()", "timestamp without time zone": "(pg_catalog.now() AT TIME ZONE 'UTC')"}
# When a row's record went, as its source reported it (`g.at`), else now; see `Merge.marks`.
_GONE_AT = {name: value.replace("pg_catalog.now()", "COALESCE(g.at, pg_catalog.now())") for name, value in _STAMP.items()}
_TEXT = {"text", "character varying", "character", "bpchar", "citext"}
_MEASURED = {"text", "character varying", "bpchar", '"bit"', "bit varying"}  # types whose length the assignment checks and a cast cuts
MOST_COLUMNS = 1590  # PostgreSQL's tables have 1,600, and some of the working tables are ours
KINDS = {
    "r": "a table", "p": "a table", "v": "a view", "m": "a materialized view", "f": "a foreign table",
    "S": "a sequence", "c": "a type", "i": "an index", "I": "an index",
}  # fmt: skip

_RIGHTS = """
SELECT pg_catalog.quote_ident(current_user), pg_catalog.row_security_active(%(table)s::oid),
       pg_catalog.current_setting('session_replication_role'),
       ARRAY(SELECT r.name FROM unnest(%(rights)s::text[]) WITH ORDINALITY AS r(name, i)
              WHERE NOT has_table_privilege(%(table)s::oid, r.name) ORDER BY r.i)
"""


def columns_of(tx: Connection, desired: Desired) -> list[Column]:
    """The columns of a transform that was bound before, with their types."""
    found = tx.execute(sql.SQL("SELECT * FROM ({}) AS v LIMIT 0").format(desired.transform)).pgresult
    assert found is not None  # noqa: S101  a SELECT always has a result
    names = [str(found.fname(i) or b"", "utf8") for i in range(found.nfields)]
    given = [[found.ftype(i) for i in range(found.nfields)], [found.fmod(i) for i in range(found.nfields)]]
    types = tx.execute(
        "SELECT pg_catalog.format_type(t, m) FROM unnest(%s::oid[], %s::int4[]) WITH ORDINALITY AS g(t, m, i) ORDER BY i", given
    )
    return [Column(name, type_) for name, (type_,) in zip(names, types, strict=True)]


def fit(tx: Connection, new: NewTable, desired: Desired, outputs: Sequence[Column], table: Table | None) -> Merge:
    """How these columns of the transform go into the table, None for one that is to be made.

    Raises Drift with every column that does not fit, ConfigError for a right that is missing; writes nothing.
    """
    _refuse(tx, new, outputs, table)
    return _Fitting(tx, new, table).merge(desired, outputs)


def _refuse(tx: Connection, new: NewTable, outputs: Sequence[Column], table: Table | None) -> None:
    """Raise Drift for what is not a table that a step can load."""
    load = new.load
    if table is None and (moved := misplaced(tx, load)):
        raise Drift(f"target table {load.table} is in the schema {OWN_SCHEMA}, which holds usersync's own tables", hint=moved)
    if table is None and not load.create:
        raise Drift(
            f"target table {load.table} does not exist",
            hint=f"say `create: true` in the step's load, or:\n{new.text(outputs, tx)}",
        )
    if table is not None and table.kind not in "rp":
        raise Drift(
            f"target table {load.table}: it is not a table but {KINDS.get(table.kind, 'something else')}",
            hint=f"give the table itself{_instead(tx, table)}",
        )
    if len(outputs) > MOST_COLUMNS:
        raise Drift(
            f"target table {load.table}: {len(outputs):,} columns are more than {MOST_COLUMNS:,}",
            hint="leave some out, or keep them together in one column of type jsonb",
        )


class _Fitting:
    """One look at a table, None for one that is to be made; collects what does not fit."""

    def __init__(self, tx: Connection, new: NewTable, table: Table | None) -> None:
        self._tx, self._new, self._load, self._table = tx, new, new.load, table
        self._shown = shown(new.load.table)
        self._problems: list[tuple[str, str]] = []

    def merge(self, desired: Desired, outputs: Sequence[Column]) -> Merge:
        """The merge that loads these columns. Raises Drift where they don't fit."""
        loaded = [column for column in outputs if not column.name.startswith("_")]
        self._check_names(outputs, loaded)
        fields = [self._field(column, self._table) for column in loaded]
        if self._table is not None:
            self._check_table(self._table, loaded)
        self._complain()
        merge = Merge(
            table=self._table.name if self._table else self._new.name(self._tx),
            fields=fields,
            helpers=[column.name for column in outputs if column.name.startswith("_")],
            key=self._load.key,
            transform=desired.transform,
            order_by=self._load.order_by,
            part=desired.part,
        )
        return self._with_stamps(merge, self._table) if self._table else merge

    def _problem(self, what: str, help_: str) -> None:
        self._problems.append((what, help_))

    def _complain(self) -> None:
        if self._problems:
            raise Drift(
                f"target table {self._load.table}: " + "; ".join(what for what, _ in self._problems),
                hint="\n".join(help_ for _, help_ in self._problems),
            )

    def _check_names(self, outputs: Sequence[Column], loaded: Sequence[Column]) -> None:
        for column in outputs:
            if stage.OURS.fullmatch(column.name):
                self._problem(stage.used_by_us(column.name), "name it otherwise with AS")
        for name in self._load.key:
            if name not in {column.name for column in loaded}:
                self._problem(f"the key {name} is not a column of the transform", "add it to the SELECT")

    def _field(self, column: Column, table: Table | None) -> Field:
        if table is None:
            return self._new_field(column)
        there = table.columns.get(column.name)
        if there is None:
            self._problem(
                f"column {column.name} is missing{_meant(column.name, table)}",
                f"ALTER TABLE {self._shown} ADD COLUMN {quoted(column.name)} {column.type};",
            )
            return Field(column.name)
        alter = f"ALTER TABLE {self._shown} ALTER COLUMN {quoted(column.name)}"
        if there.generated:
            self._problem(
                f"column {column.name} is generated by the table itself",
                "leave it out of the transform, or give it a name that begins with _",
            )
        if not there.equality and there.bare != "json":
            self._problem(
                f"column {column.name} is of type {there.type}, which has no equality",
                f"{alter} TYPE text; and cast it in the transform: {column.name}::text",
            )
            return Field(column.name)
        cast = self._cast(column, there, table)
        return Field(column.name, cast, there.collation, there.bare == "json", there.operator, there.composite)

    def _new_field(self, column: Column) -> Field:
        if column.type != "json" and not has_equality(self._tx, column.type):
            self._problem(
                f"column {column.name} is of type {column.type}, which has no equality",
                f"cast it in the transform: {column.name}::text",
            )
        return Field(column.name, as_text=column.type == "json", operator=equality(self._tx, column.type))

    def _cast(self, column: Column, there: TableColumn, table: Table) -> str:
        """The type to cast to before comparing, "" for none. Lengths are left to the assignment: a cast would cut silently."""
        if column.type == there.type:
            return ""
        if there.is_enum and is_text(column.type.split("(")[0]):
            return f"pg_catalog.text::{there.bare}"
        probe = sql.SQL("EXPLAIN INSERT INTO {} ({}) {} SELECT NULL::{}").format(
            table.name,
            identifier(column.name),
            sql.SQL("OVERRIDING SYSTEM VALUE" if there.identity == "a" else ""),
            sql.SQL(column.type),
        )
        try:
            with self._tx.transaction():
                self._tx.execute(probe)
        except (errors.DatatypeMismatch, errors.CannotCoerce):
            self._problem(
                f"column {column.name} is {there.type}, the transform gives {column.type}",
                f"cast it in the transform: {column.name}::{there.type}; "
                f"or ALTER TABLE {self._shown} ALTER COLUMN {quoted(column.name)} TYPE {column.type};",
            )
            return ""
        return type_name(there.base if there.base in _MEASURED or there.base.endswith("[]") else there.type)

    def _check_table(self, table: Table, loaded: Sequence[Column]) -> None:
        if table.kind == "p" and not has_partition(self._tx, table):
            self._problem("it is partitioned, and has no partition", f"CREATE TABLE ... PARTITION OF {self._shown} ...;")
        names = {column.name for column in loaded}
        for name in self._load.key:
            if name in table.columns and not table.columns[name].not_null:
                self._problem(f"the key {name} may be NULL", f"ALTER TABLE {self._shown} ALTER COLUMN {quoted(name)} SET NOT NULL;")
        if frozenset(self._load.key) not in table.unique and set(self._load.key) <= set(table.columns):
            keys = ", ".join(quoted(name) for name in self._load.key)
            self._problem(f"there is no unique index on exactly the key ({keys})", f"CREATE UNIQUE INDEX ON {self._shown} ({keys});")
        for column in table.columns.values():
            filled = column.name in names or column.has_default or column.generated or column.identity or _stamped(column)
            if column.not_null and not filled:
                self._problem(
                    f"column {column.name} is NOT NULL without a default, and the transform does not give it",
                    f"ALTER TABLE {self._shown} ALTER COLUMN {quoted(column.name)} DROP NOT NULL; or give it in the transform",
                )
            if column.name in names and column.identity == "a" and column.name not in self._load.key:
                self._problem(
                    f"column {column.name} is GENERATED ALWAYS AS IDENTITY, so it can't be updated",
                    f"ALTER TABLE {self._shown} ALTER COLUMN {quoted(column.name)} SET GENERATED BY DEFAULT;"
                    " or leave it out of the transform",
                )
        if self._load.on_missing == "mark":
            self._check_mark(table, given=MARK in names)
        self._check_rights(table, names)

    def _check_mark(self, table: Table, *, given: bool) -> None:
        if given:
            self._problem(f"the transform gives {MARK}, which on_missing: mark sets", "leave it out of the transform")
        elif lacking := lacks_mark(table, self._load.table):
            self._problem(*lacking)

    def _check_rights(self, table: Table, given: set[str]) -> None:
        rights = ["SELECT", "INSERT", "UPDATE", *(["DELETE"] if self._load.on_missing == "delete" else [])]
        ((role, hides, replication, missing),) = self._tx.execute(_RIGHTS, {"table": table.oid, "rights": rights}).fetchall()
        left = [name for name, column in table.columns.items() if name not in given and not _stamped(column)]
        if locked := locked_sequences(self._tx, table, left):
            raise ConfigError(
                f"target table {self._load.table}: a default takes numbers from {', '.join(locked)}, which this role may not use",
                hint=f"GRANT USAGE ON SEQUENCE {', '.join(locked)} TO {role};",
            )
        if hides:
            raise ConfigError(
                f"target table {self._load.table}: row-level security would hide rows of it from this role",
                hint=f"ALTER ROLE {role} BYPASSRLS; or ALTER TABLE {self._shown} DISABLE ROW LEVEL SECURITY;",
            )
        if replication == "replica":
            raise ConfigError(
                "target: session_replication_role is replica, so foreign keys and triggers would not be looked at",
                hint=f"ALTER ROLE {role} RESET session_replication_role; (or ALTER DATABASE ... RESET)",
            )
        if missing:
            raise ConfigError(
                f"target table {self._load.table}: the right to {', '.join(missing)} is missing",
                hint=f"GRANT {', '.join(missing)} ON {self._shown} TO {role};",
            )

    def _with_stamps(self, merge: Merge, table: Table) -> Merge:
        given = {f.name for f in merge.fields}
        stamps = {name: _STAMP[c.bare] for name, c in table.columns.items() if name not in given and _stamped(c)}
        always = any(table.columns[f.name].identity == "a" for f in merge.fields)
        return replace(
            merge,
            on_insert=tuple(stamps.items()),
            on_update=tuple((n, v) for n, v in stamps.items() if n in STAMPS_ON_UPDATE),
            overriding=always,
            has_rules=table.has_rules,
            watched=table.watched,
            marks=(MARK, _gone_at(table.columns[MARK])) if self._load.on_missing == "mark" else None,
            sums=self._load.on_missing != "keep",
        )


def sequences(tx: Connection, table: str, columns: Sequence[str]) -> str:
    """Advice about sequences that stay behind the ids that are loaded, so that an application's next INSERT would collide; "" for none."""
    found = describe(tx, table)
    return "\n".join(
        f"the sequence {name} is behind the ids that are loaded: an application's INSERT would get an id that is taken, or one that the"
        f" source gives to somebody else later. If there is such an application, give it numbers of its own:\n"
        f"ALTER SEQUENCE {name} RESTART WITH 1000000000;"
        for name in (behind(tx, found, columns) if found else [])
    )


def misplaced(tx: Connection, load: Load) -> str:
    """How to move a table out of our schema, where earlier versions made those of a role called usersync; "" where there is none."""
    if "." in load.table:
        return ""
    table = describe(tx, f"{OWN_SCHEMA}.{load.table}")
    stamped = table is not None and "updated_at" in table.columns and not {"inserted_at", "created_at"}.isdisjoint(table.columns)
    if table is None or not stamped or not {*load.key} <= table.columns.keys():  # usersync's own have no such pair
        return ""
    to = next((name for name in schemas(tx) if name != "pg_catalog"), "public")
    if describe(tx, load.table) is None:
        return f"move it: ALTER TABLE {quoted(OWN_SCHEMA)}.{quoted(load.table)} SET SCHEMA {quoted(to)};"
    return (
        f"there is a table {OWN_SCHEMA}.{load.table}, which earlier versions loaded instead of this one when the role was called usersync;"
        f" compare the two, then: DROP TABLE {quoted(OWN_SCHEMA)}.{quoted(load.table)};"
    )


def _instead(tx: Connection, view: Table) -> str:
    """The tables that a view reads, as the end of a hint."""
    names = read_by(tx, view)
    return f": {' or '.join(names)}" if names else ""


def lacks_mark(table: Table, name: str) -> tuple[str, str] | None:
    """What is wrong with the column that on_missing: mark sets, and what helps."""
    marked, called = table.columns.get(MARK), shown(name)
    if marked is None:
        return f"on_missing: mark needs a column {MARK}", f"ALTER TABLE {called} ADD COLUMN {MARK} timestamp with time zone;"
    if marked.bare not in _STAMP:
        return (
            f"column {MARK} is {marked.type}, and on_missing: mark sets a time stamp",
            f"ALTER TABLE {called} RENAME COLUMN {MARK} TO {MARK}_before; and add one with time zone",
        )
    if marked.not_null:
        return (
            f"column {MARK} is NOT NULL, and NULL means that a record is there",
            f"ALTER TABLE {called} ALTER COLUMN {MARK} DROP NOT NULL;",
        )
    return None


def _gone_at(column: TableColumn) -> str:
    """The expression that marks a row, in the column's own type: what is marked already is compared with it, to the last digit."""
    return f"({_GONE_AT[column.bare]})::{type_name(column.type)}"


def _meant(name: str, table: Table) -> str:
    near = get_close_matches(name, table.columns, n=1)
    return f' (did you mean "{near[0]}"?)' if near else ""


def is_text(type_: str) -> bool:
    """Whether it is a type of text; citext may be in any schema."""
    return type_.rpartition(".")[2] in _TEXT


def _stamped(column: TableColumn) -> bool:
    return column.name in STAMPS_ON_INSERT and column.bare in _STAMP and not column.generated
