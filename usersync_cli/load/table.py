"""The target `postgres`: checks columns before anything is written, loads an empty table the fast way, merges into any other."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

import psycopg
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
    unique_values,
)
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, listed, relation, scalar, type_name
from usersync_cli.clients.postgres.transactions import as_user, schemas
from usersync_cli.errors import ConfigError, Drift, VerificationFailed
from usersync_cli.load import deletes, stage
from usersync_cli.load import merge as merging
from usersync_cli.load.guard import Sweep
from usersync_cli.load.merge import Field, Merge, Outcome
from usersync_cli.model import OWN_SCHEMA, Change, Column, Copy, Counts, Desired, Load

# Of every transaction that loads. jit costs more than it gives in statements that run once. work_mem is the server's own:
# with 64 MB, a hash join of a million rows took 15 % longer than with the default 4 MB, whose pieces fit into the caches.
# lc_monetary stays the database's: it says what a number is in a column of type money.
SETTINGS = {"maintenance_work_mem": "256MB", "jit": "off", "row_security": "off"}
STAMPS_ON_INSERT = ("created_at", "inserted_at", "updated_at")
STAMPS_ON_UPDATE = ("updated_at",)
MARK = "deleted_at"  # set by on_missing: mark
# In UTC whatever the zone of the session; Ecto's are `timestamp(0) NOT NULL` without a default.
_STAMP = {"timestamp with time zone": "pg_catalog.now()", "timestamp without time zone": "(pg_catalog.now() AT TIME ZONE 'UTC')"}
_TEXT = {"text", "character varying", "character", "bpchar", "citext"}
_MEASURED = {"text", "character varying", "bpchar", '"bit"', "bit varying"}  # types whose length the assignment checks and a cast cuts


MOST_COLUMNS = 1590  # PostgreSQL's tables have 1,600, and some of the working tables are ours
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "c": "a type", "i": "an index"}
BATCH = 200  # rows of a preview, which may be wide


@dataclass(frozen=True)
class Plan:
    """The difference between what is desired and what is there."""

    merge: Merge
    outcome: Outcome
    table: Table | None
    sweep: Sweep | None = None  # who has left the source; None with on_missing: keep

    @property
    def counts(self) -> Counts:
        """What applying it does, or would do."""
        o = self.outcome
        gone = self.sweep.removable if self.sweep else 0
        return Counts(read=o.read, duplicates=o.read - o.distinct, inserted=o.inserted, updated=o.updated, unchanged=o.unchanged, gone=gone)


class Target:
    """One table, for one step. Everything happens in the transaction that is handed in."""

    def __init__(self, load: Load, definition: str = "") -> None:
        """`definition`: the columns of a table that is made, where they are not just those of the transform; without its key."""
        self.load = load
        self._definition = definition

    # what is there, and does it fit

    def name(self, tx: Connection) -> sql.Composed:
        """The table with its schema; where it is to be made, if it is not there."""
        table = describe(tx, self.load.table)
        return table.name if table else self._new_name(tx)

    def fit(self, desired: Desired, tx: Connection) -> tuple[Merge, Table | None]:
        """How the transform's columns go into the table; None for a table that is to be created.

        Raises Drift with every column that does not fit, and the statement that would help; writes nothing.
        """
        outputs = self._outputs(desired, tx)
        table = describe(tx, self.load.table)
        if table is None and (moved := misplaced(tx, self.load)):
            raise Drift(f"target table {self.load.table} is in the schema {OWN_SCHEMA}, which holds usersync's own tables", hint=moved)
        if table is None and not self.load.create:
            raise Drift(
                f"target table {self.load.table} does not exist",
                hint=f"say `create: true` in the step's load, or:\n{self._create_sql(outputs, tx)}",
            )
        if table is not None and table.kind not in "rp":
            raise Drift(f"target table {self.load.table}: it is not a table but {_KINDS.get(table.kind, 'something else')}",
                        hint=f"give the table itself{_instead(tx, table)}")  # fmt: skip
        if len(outputs) > MOST_COLUMNS:
            raise Drift(
                f"target table {self.load.table}: {len(outputs):,} columns are more than {MOST_COLUMNS:,}",
                hint="leave some out, or keep them together in one column of type jsonb",
            )
        problems = _Problems(self.load.table)
        loaded = [column for column in outputs if not column.name.startswith("_")]
        for column in outputs:
            if stage.OURS.fullmatch(column.name):
                problems.add(stage.used_by_us(column.name), "name it otherwise with AS")
        for name in self.load.key:
            if name not in {column.name for column in loaded}:
                problems.add(f"the key {name} is not a column of the transform", "add it to the SELECT")
        fields = [self._field(column, table, problems, tx) for column in loaded]
        if table is not None:
            self._check_table(table, loaded, problems, tx)
        problems.complain()
        helpers = [column.name for column in outputs if column.name.startswith("_")]
        merge = Merge(
            table=table.name if table else self._new_name(tx),
            fields=fields,
            helpers=helpers,
            key=self.load.key,
            transform=desired.transform,
            order_by=self.load.order_by,
            part=desired.part,
        )
        return (self._with_stamps(merge, table), table) if table else (merge, None)

    def _outputs(self, desired: Desired, tx: Connection) -> list[Column]:
        """The columns of the transform, whose mistakes were found when it was bound."""
        found = tx.execute(sql.SQL("SELECT * FROM ({}) AS v LIMIT 0").format(desired.transform)).pgresult
        assert found is not None  # noqa: S101  a SELECT always has a result
        names = [str(found.fname(i) or b"", "utf8") for i in range(found.nfields)]
        given = [[found.ftype(i) for i in range(found.nfields)], [found.fmod(i) for i in range(found.nfields)]]
        types = tx.execute(
            "SELECT pg_catalog.format_type(t, m) FROM unnest(%s::oid[], %s::int4[]) WITH ORDINALITY AS g(t, m, i) ORDER BY i", given
        )
        return [Column(name, type_) for name, (type_,) in zip(names, types, strict=True)]

    def _field(self, column: Column, table: Table | None, problems: _Problems, tx: Connection) -> Field:
        if table is None:
            if column.type != "json" and not has_equality(tx, column.type):
                problems.add(
                    f"column {column.name} is of type {column.type}, which has no equality",
                    f"cast it in the transform: {column.name}::text",
                )
            return Field(column.name, as_text=column.type == "json", operator=equality(tx, column.type))
        there = table.columns.get(column.name)
        if there is None:
            problems.add(
                f"column {column.name} is missing{_meant(column.name, table)}",
                f"ALTER TABLE {self._shown()} ADD COLUMN {_quoted(column.name)} {column.type};",
            )
            return Field(column.name)
        alter = f"ALTER TABLE {self._shown()} ALTER COLUMN {_quoted(column.name)}"
        if there.generated:
            problems.add(
                f"column {column.name} is generated by the table itself",
                "leave it out of the transform, or give it a name that begins with _",
            )
        if not there.equality and there.bare != "json":
            problems.add(
                f"column {column.name} is of type {there.type}, which has no equality",
                f"{alter} TYPE text; and cast it in the transform: {column.name}::text",
            )
            return Field(column.name)
        cast = self._cast(column, there, problems, tx)
        return Field(column.name, cast, there.collation, there.bare == "json", there.operator, there.composite)

    def _cast(self, column: Column, there: TableColumn, problems: _Problems, tx: Connection) -> str:
        """The type to cast to before comparing, "" for none. Lengths are left to the assignment: a cast would cut silently."""
        if column.type == there.type:
            return ""
        if there.is_enum and _is_text(column.type.split("(")[0]):
            return f"pg_catalog.text::{there.bare}"
        probe = sql.SQL("EXPLAIN INSERT INTO {} ({}) {} SELECT NULL::{}").format(
            self.name(tx),
            identifier(column.name),
            sql.SQL("OVERRIDING SYSTEM VALUE" if there.identity == "a" else ""),
            sql.SQL(column.type),
        )
        try:
            with tx.transaction():
                tx.execute(probe)
        except (errors.DatatypeMismatch, errors.CannotCoerce):
            problems.add(
                f"column {column.name} is {there.type}, the transform gives {column.type}",
                f"cast it in the transform: {column.name}::{there.type}; "
                f"or ALTER TABLE {self._shown()} ALTER COLUMN {_quoted(column.name)} TYPE {column.type};",
            )
            return ""
        return type_name(there.base if there.base in _MEASURED or there.base.endswith("[]") else there.type)

    def _check_table(self, table: Table, loaded: Sequence[Column], problems: _Problems, tx: Connection) -> None:
        shown = self._shown()
        if table.kind == "p" and not has_partition(tx, table):
            problems.add("it is partitioned, and has no partition", f"CREATE TABLE ... PARTITION OF {shown} ...;")
        names = {column.name for column in loaded}
        for name in self.load.key:
            if name in table.columns and not table.columns[name].not_null:
                problems.add(f"the key {name} may be NULL", f"ALTER TABLE {shown} ALTER COLUMN {_quoted(name)} SET NOT NULL;")
        if frozenset(self.load.key) not in table.unique and set(self.load.key) <= set(table.columns):
            keys = ", ".join(_quoted(name) for name in self.load.key)
            problems.add(f"there is no unique index on exactly the key ({keys})", f"CREATE UNIQUE INDEX ON {shown} ({keys});")
        for column in table.columns.values():
            filled = column.name in names or column.has_default or column.generated or column.identity or _stamped(column)
            if column.not_null and not filled:
                problems.add(
                    f"column {column.name} is NOT NULL without a default, and the transform does not give it",
                    f"ALTER TABLE {shown} ALTER COLUMN {_quoted(column.name)} DROP NOT NULL; or give it in the transform",
                )
            if column.name in names and column.identity == "a" and column.name not in self.load.key:
                problems.add(
                    f"column {column.name} is GENERATED ALWAYS AS IDENTITY, so it can't be updated",
                    f"ALTER TABLE {shown} ALTER COLUMN {_quoted(column.name)} SET GENERATED BY DEFAULT; or leave it out of the transform",
                )
        if self.load.on_missing == "mark":
            self._check_mark(table, given=MARK in names, problems=problems)
        self._check_rights(table, names, tx)

    def _check_mark(self, table: Table, *, given: bool, problems: _Problems) -> None:
        if given:
            problems.add(f"the transform gives {MARK}, which on_missing: mark sets", "leave it out of the transform")
        elif lacking := lacks_mark(table, self.load.table):
            problems.add(*lacking)

    def _check_rights(self, table: Table, given: set[str], tx: Connection) -> None:
        rights = ("SELECT", "INSERT", "UPDATE", *(("DELETE",) if self.load.on_missing == "delete" else ()))
        missing = [right for right in rights if not scalar(tx, "SELECT has_table_privilege(%s::oid, %s)", (table.oid, right))]
        role = scalar(tx, "SELECT quote_ident(current_user)")
        left = [name for name, column in table.columns.items() if name not in given and not _stamped(column)]
        if locked := locked_sequences(tx, table, left):
            raise ConfigError(
                f"target table {self.load.table}: a default takes numbers from {', '.join(locked)}, which this role may not use",
                hint=f"GRANT USAGE ON SEQUENCE {', '.join(locked)} TO {role};",
            )
        if scalar(tx, "SELECT pg_catalog.row_security_active(%s::oid)", (table.oid,)):
            raise ConfigError(
                f"target table {self.load.table}: row-level security would hide rows of it from this role",
                hint=f"ALTER ROLE {role} BYPASSRLS; or ALTER TABLE {self._shown()} DISABLE ROW LEVEL SECURITY;",
            )
        if scalar(tx, "SELECT pg_catalog.current_setting('session_replication_role')") == "replica":
            raise ConfigError(
                "target: session_replication_role is replica, so foreign keys and triggers would not be looked at",
                hint=f"ALTER ROLE {role} RESET session_replication_role; (or ALTER DATABASE ... RESET)",
            )
        if missing:
            raise ConfigError(
                f"target table {self.load.table}: the right to {', '.join(missing)} is missing",
                hint=f"GRANT {', '.join(missing)} ON {self._shown()} TO {role};",
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
            marks=(MARK, _STAMP[table.columns[MARK].bare]) if self.load.on_missing == "mark" else None,
            sums=self.load.on_missing != "keep",
        )

    # an empty table

    def copy_into_empty(self, content: Copy, desired: Desired, tx: Connection, moved: Callable[[int], None]) -> Counts | None:
        """Without a stage: COPY straight into a table that is empty, or that we make here. The blocks are read once.

        None when that is not possible (the table has rows, other types, triggers), when a key occurs twice or a record does
        not fit: nothing was written then, and the caller stages.
        """
        merge, table = self.fit(desired, tx)
        if merge.helpers or any(column.wire for column in content.columns):
            return None
        if table is not None and not (self._takes_copy(merge, table, content) and self._lock_if_empty(tx, merge)):
            return None
        try:
            with tx.transaction():
                if table is None:
                    tx.execute(self._create(merge, content.columns, with_key=False))
                with as_user(tx):
                    rows = stage.copy(tx, merge.table, content, moved, freeze=table is None)
                if table is None:
                    tx.execute(self._add_key(merge))
                tx.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except (psycopg.DataError, psycopg.IntegrityError, errors.ProgramLimitExceeded):
            return None
        return Counts(read=rows, inserted=rows)

    def fill_empty(self, desired: Desired, tx: Connection) -> Counts | None:
        """INSERT ... SELECT into a table that is empty or that we make here; None, and nothing written, when it has rows,
        a key occurs twice or a record does not fit."""
        merge, table = self.fit(desired, tx)
        if table is not None and (table.watched or not self._lock_if_empty(tx, merge)):
            return None
        try:
            with tx.transaction():
                if table is None:
                    tx.execute(self._create(merge, self._outputs(desired, tx), with_key=False))
                with as_user(tx):
                    rows = tx.execute(merging.insert(merge, merge.wanted)).rowcount
                if table is None:
                    tx.execute(self._add_key(merge))
                tx.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except (psycopg.DataError, psycopg.IntegrityError, errors.CardinalityViolation, errors.ProgramLimitExceeded):
            return None
        return Counts(read=rows, inserted=rows)

    def _takes_copy(self, merge: Merge, table: Table, content: Copy) -> bool:
        """COPY wants the same binary format; time stamps need a default, because COPY can't compute them."""
        same = all(_format(table.columns[c.name].type) == _format(c.type) for c in content.columns)
        stamped = all(table.columns[name].has_default for name, _ in merge.on_insert)
        return same and stamped and not table.watched and not merge.helpers and not merge.overriding

    def _lock_if_empty(self, tx: Connection, merge: Merge) -> bool:
        """Whether the table has no row, and nobody can add one before we commit. Looked at first without the lock."""
        empty = sql.SQL("SELECT NOT EXISTS (SELECT FROM {})").format(merge.table)
        if not scalar(tx, empty):
            return False
        tx.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(merge.table))
        return bool(scalar(tx, empty))

    # any other table

    def plan(self, desired: Desired, tx: Connection, *, without_rejects: bool = False) -> Plan:
        """What would be inserted and updated, kept in a temp table of `tx`; the target itself is only read.

        `without_rejects` leaves out what was found to be bad (`Merge.without_rejects`).
        """
        merge, table = self.fit(desired, tx)
        if table is None:
            tx.execute(self._create(merge, self._outputs(desired, tx), with_key=True))
            merge, table = self.fit(desired, tx)
        merge = replace(merge, without_rejects=without_rejects)
        return Plan(merge, merging.compare(tx, merge, rows=desired.rows), table)

    def apply(self, plan: Plan, tx: Connection) -> Counts:
        """Write the plan, then remove who has left. People who pass on a unique value among themselves, or take one of
        somebody who left, are not an error: then every value that is given up is taken away first."""
        try:
            with tx.transaction(), self._nobody_else_lost(plan, tx):
                self._write(plan, tx)
                self._remove(plan, tx)
        except errors.UniqueViolation:
            with tx.transaction(), self._nobody_else_lost(plan, tx):
                self._remove(plan, tx)
                self._vacate(plan, tx)
                self._write(plan, tx, vacated=True)
        return plan.counts

    @contextmanager
    def _nobody_else_lost(self, plan: Plan, tx: Connection) -> Iterator[None]:
        """A trigger may delete more than what we remove. Of a table, everybody who was read is looked for then; a page knows a
        few of the rows only, so there it is enough that the table has fewer than it should.

        Raises VerificationFailed."""
        merge = plan.merge
        if not merge.watched:
            yield
            return
        inserted, deleted = merging.tally(tx, merge)
        yield
        now_inserted, now_deleted = merging.tally(tx, merge)
        removed = plan.sweep.removable if plan.sweep and not merge.marks else 0
        lost = (now_deleted - deleted - removed) - (now_inserted - inserted - plan.outcome.inserted)
        if not merge.part and plan.outcome.read:
            lost = merging.missing(tx, merge) if now_deleted - deleted > removed else 0
        if lost > 0:
            raise VerificationFailed(
                f"writing to {merge.table.as_string(tx)} took {lost:,} other {'row' if lost == 1 else 'rows'} of it away",
                hint="a trigger or rule of that table deletes them; nothing was committed",
            )

    def _write(self, plan: Plan, tx: Connection, *, vacated: bool = False) -> None:
        if plan.outcome.inserted or plan.outcome.updated:
            merging.write(tx, plan.merge, plan.outcome, vacated=vacated)

    def _remove(self, plan: Plan, tx: Connection) -> None:
        if plan.sweep and plan.sweep.removable:
            try:
                deletes.remove(tx, plan.sweep, plan.merge)
            except (errors.ForeignKeyViolation, errors.RestrictViolation) as error:
                raise Drift(
                    f"{plan.sweep.removable} rows of {self.load.table} have left the source, but other rows refer to them"
                    f" (constraint {error.diag.constraint_name} of table {error.diag.table_name}); nothing was written",
                    hint="say `on_missing: mark`, or let the constraint say ON DELETE CASCADE or SET NULL",
                ) from error

    def prepare(self, plan: Plan, tx: Connection) -> None:
        """Before the records are written one by one: remove who has left and take away what others give up, where that can be done."""
        for first in (self._remove, self._vacate):
            try:
                with tx.transaction():
                    first(plan, tx)
            except (psycopg.DataError, psycopg.IntegrityError, Drift):
                continue

    def changes(self, plan: Plan, step: str, tx: Connection) -> Generator[Change, None, None]:
        """What applying the plan would do, row by row, by key; read in batches, as text."""
        if plan.outcome.inserted or plan.outcome.updated:
            yield from self._written(plan, step, tx)
        if plan.sweep and plan.sweep.removable:
            kind: Literal["mark", "delete"] = "mark" if plan.merge.marks else "delete"
            names = [f.name for f in plan.merge.fields]
            for keys, values in _rows(deletes.leaving(plan.sweep, plan.merge), tx):
                yield Change(step, kind, dict(zip(plan.merge.key, keys, strict=True)), dict(zip(names, values, strict=True)))

    def _written(self, plan: Plan, step: str, tx: Connection) -> Generator[Change, None, None]:
        key, names = plan.merge.key, [f.name for f in plan.merge.fields]
        compared = [*names, *(plan.merge.marks or ())[:1]]
        for is_new, keys, before, after in _rows(merging.changed(plan.merge), tx):
            row = dict(zip(key, keys, strict=True))
            old, new = (dict(zip(compared, values, strict=True)) for values in (before, after))
            if is_new:
                yield Change(step, "insert", row, after={name: new[name] for name in names})
                continue
            differing = [name for name in compared if name not in key and old[name] != new[name]]
            if not differing:  # somebody else wrote the same since we compared
                continue
            yield Change(step, "update", row, {name: old[name] for name in differing}, {name: new[name] for name in differing})

    def normalised(self, plan: Plan, tx: Connection) -> int:
        """How many rows a trigger of the table changed while we wrote them: they differ again in the next run."""
        if plan.table is None or not plan.table.has_triggers or not (plan.outcome.inserted or plan.outcome.updated):
            return 0
        return merging.normalised(tx, plan.merge)

    def _vacate(self, plan: Plan, tx: Connection) -> None:
        if not plan.outcome.inserted and not plan.outcome.updated:
            return
        assert plan.table is not None  # noqa: S101  plan() made the table
        for name in unique_values(tx, plan.table, [f.name for f in plan.merge.values]):
            column = plan.table.columns[name]
            if not column.not_null:
                merging.vacate(tx, plan.merge, name, "NULL")
            elif _is_text(column.bare):
                own = "pg_catalog.md5(pg_catalog.concat(t.ctid, pg_catalog.random()))"
                merging.vacate(tx, plan.merge, name, f"{own}::{type_name(column.type)}")
            elif column.bare == "uuid":
                merging.vacate(tx, plan.merge, name, "pg_catalog.gen_random_uuid()")

    # a table of our own

    def _create(self, merge: Merge, columns: Sequence[Column], *, with_key: bool) -> sql.Composed:
        """The table that the transform describes, and when each row came and last changed."""
        loaded = [c for c in columns if not c.name.startswith("_")]
        names = {c.name for c in loaded}
        key = listed(identifier(name) for name in merge.key)
        mark = (
            [sql.SQL("{} timestamp with time zone").format(identifier(MARK))]
            if self.load.on_missing == "mark" and MARK not in names
            else []
        )
        if self._definition:
            own = [sql.SQL(self._definition), *mark, sql.SQL("UNIQUE ({})").format(key)]
            return sql.SQL("CREATE TABLE {} ({})").format(merge.table, listed(own))
        definitions = [sql.SQL("{} {}").format(identifier(c.name), stage.type_sql(_storable(c.type))) for c in loaded]
        stamps = [
            name for name in ("inserted_at", "updated_at") if name not in names and not (name == "inserted_at" and "created_at" in names)
        ]
        definitions += [sql.SQL("{} timestamp with time zone NOT NULL DEFAULT now()").format(identifier(name)) for name in stamps]
        definitions += mark
        if with_key:
            definitions.append(sql.SQL("PRIMARY KEY ({})").format(key))
        return sql.SQL("CREATE TABLE {} ({})").format(merge.table, listed(definitions))

    def _create_sql(self, outputs: Sequence[Column], tx: Connection) -> str:
        merge = Merge(table=self._new_name(tx), fields=(), helpers=(), key=self.load.key, transform=sql.SQL(""))
        return self._create(merge, outputs, with_key=True).as_string(tx) + ";"

    def _add_key(self, merge: Merge) -> sql.Composed:
        return sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(merge.table, listed(identifier(name) for name in merge.key))

    def _new_name(self, tx: Connection) -> sql.Composed:
        """Where a table without a schema is made: the first schema of the role's search path that exists, and is not ours."""
        if "." in self.load.table:
            self._check_schema(self.load.table.split(".", 1)[0], tx)
            return relation(self.load.table)
        schema = next((name for name in schemas(tx) if name != "pg_catalog"), None)
        if schema is None:
            raise ConfigError(f"there is no schema to create {self.load.table} in", hint="write schema.table, or create the schema public")
        self._check_schema(schema, tx)
        return sql.SQL("{}.{}").format(identifier(schema), identifier(self.load.table))

    def _check_schema(self, schema: str, tx: Connection) -> None:
        """Whether a table can be made in it, which most roles may not in `public` since PostgreSQL 15."""
        query = "SELECT pg_catalog.has_schema_privilege(oid, 'CREATE') FROM pg_catalog.pg_namespace WHERE nspname = %s"
        may = scalar(tx, query, (schema,))
        if may is None:
            raise Drift(f"target table {self.load.table}: there is no schema {schema}", hint=f"CREATE SCHEMA {_quoted(schema)};")
        if not may:
            role = scalar(tx, "SELECT quote_ident(current_user)")
            raise ConfigError(
                f"target table {self.load.table} is to be made, and the right to CREATE in schema {schema} is missing",
                hint=f"GRANT USAGE, CREATE ON SCHEMA {_quoted(schema)} TO {role};\nor an administrator makes the table",
            )

    def _shown(self) -> str:
        return _shown(self.load.table)


def sequences(tx: Connection, table: str, columns: Sequence[str]) -> str:
    """What to do about sequences that stay behind the ids that are loaded: the application's next INSERT would collide; "" if none does."""
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
        return f"move it: ALTER TABLE {_quoted(OWN_SCHEMA)}.{_quoted(load.table)} SET SCHEMA {_quoted(to)};"
    return (
        f"there is a table {OWN_SCHEMA}.{load.table}, which earlier versions loaded instead of this one when the role was called usersync;"
        f" compare the two, then: DROP TABLE {_quoted(OWN_SCHEMA)}.{_quoted(load.table)};"
    )


class _Problems:
    """All that does not fit, told at once."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._found: list[tuple[str, str]] = []

    def add(self, what: str, help_: str) -> None:
        self._found.append((what, help_))

    def complain(self) -> None:
        if self._found:
            raise Drift(
                f"target table {self._table}: " + "; ".join(what for what, _ in self._found),
                hint="\n".join(help_ for _, help_ in self._found),
            )


def _instead(tx: Connection, view: Table) -> str:
    """What a view reads."""
    names = read_by(tx, view)
    return f": {' or '.join(names)}" if names else ""


def lacks_mark(table: Table, name: str) -> tuple[str, str] | None:
    """What is wrong with the column that on_missing: mark sets, and what helps."""
    marked, shown = table.columns.get(MARK), _shown(name)
    if marked is None:
        return f"on_missing: mark needs a column {MARK}", f"ALTER TABLE {shown} ADD COLUMN {MARK} timestamp with time zone;"
    if marked.bare not in _STAMP:
        return (
            f"column {MARK} is {marked.type}, and on_missing: mark sets a time stamp",
            f"ALTER TABLE {shown} RENAME COLUMN {MARK} TO {MARK}_before; and add one with time zone",
        )
    if marked.not_null:
        return (
            f"column {MARK} is NOT NULL, and NULL means that a record is there",
            f"ALTER TABLE {shown} ALTER COLUMN {MARK} DROP NOT NULL;",
        )
    return None


def _rows(query: sql.Composed, tx: Connection) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, of which only a batch is in our memory."""
    tx.execute("SET LOCAL cursor_tuple_fraction TO 1")  # all of its rows are wanted, not the first ones soon
    with tx.cursor("usersync_diff") as cursor:
        cursor.itersize = BATCH
        yield from cursor.execute(query)


def _meant(name: str, table: Table) -> str:
    near = get_close_matches(name, table.columns, n=1)
    return f' (did you mean "{near[0]}"?)' if near else ""


def _format(type_: str) -> str:
    """Types of one binary format: lengths and precisions are applied when it is read."""
    bare = re.sub(r"\(.*?\)", "", type_)
    return "text" if bare == "character varying" else bare


def _is_text(type_: str) -> bool:
    """citext may be in any schema."""
    return type_.rpartition(".")[2] in _TEXT


def _stamped(column: TableColumn) -> bool:
    return column.name in STAMPS_ON_INSERT and column.bare in _STAMP and not column.generated


def _storable(type_: str) -> str:
    return "text" if type_ == "unknown" else type_


def _shown(table: str) -> str:
    return ".".join(_quoted(part) for part in table.split(".", 1))


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)
