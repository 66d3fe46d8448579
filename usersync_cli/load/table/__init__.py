"""Loads a table of the target database: an empty one the fast way, any other by comparing and writing the rows that differ.

`fit` says whether a step fits its table, and `create` makes one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol

import psycopg
from psycopg import errors, sql

from usersync_cli.clients.postgres.catalog import Table, describe, unique_values
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar, type_name
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.errors import Drift, VerificationFailed
from usersync_cli.load import deletes, stage
from usersync_cli.load.deletes.guard import Sweep
from usersync_cli.load.merge import Merge, compare
from usersync_cli.load.merge import write as writing
from usersync_cli.load.merge.compare import Outcome
from usersync_cli.load.table.create import NewTable
from usersync_cli.load.table.fit import columns_of, fit, is_text
from usersync_cli.load.table.view import LiveView
from usersync_cli.model import Change, Column, Copy, Counts, Desired, Load

# Of every transaction that loads. jit costs more than it gives in statements that run once. work_mem is the server's own:
# with 64 MB, a hash join of a million rows took 15 % longer than with the default 4 MB, whose pieces fit into the caches.
# lc_monetary stays the database's: it says what a number is in a column of type money.
SETTINGS = {"maintenance_work_mem": "256MB", "jit": "off", "row_security": "off"}
BATCH = 200  # rows of a preview, which may be wide


@dataclass(frozen=True)
class _Fit:
    """How a transform goes into its table; `table` is None where it is to be made."""

    transform: sql.Composable
    columns: Sequence[Column]
    merge: Merge
    table: Table | None


@dataclass(frozen=True)
class TablePlan:
    """The difference between a table and what it should hold."""

    merge: Merge
    outcome: Outcome
    table: Table | None
    sweep: Sweep | None = None  # the rows that have left the source; None with on_missing: keep

    @property
    def counts(self) -> Counts:
        """The counts of applying it."""
        o = self.outcome
        gone = self.sweep.removable if self.sweep else 0
        return Counts(read=o.read, duplicates=o.read - o.distinct, inserted=o.inserted, updated=o.updated, unchanged=o.unchanged, gone=gone)


class Watcher(Protocol):
    """Looks at the rows that are written and removed, in the same transaction, before they are."""

    def check(self, tx: Connection, merge: Merge) -> None:
        """Rows will come like this. Raises ConfigError where it can't look at them; changes nothing."""
        ...

    def wrote(self, tx: Connection, merge: Merge, table: Table | None) -> None:
        """The rows of CHANGES are new, or change."""
        ...

    def leaves(self, tx: Connection, found: Sweep, merge: Merge) -> None:
        """The rows of GONE that go are removed or marked."""
        ...

    def filled(self) -> None:
        """The table was empty, and has its rows now."""
        ...


class TableLoad:
    """Loads one table, for one step. Everything happens in the transaction that is handed in."""

    def __init__(self, load: Load, definition: str = "", comments: Mapping[str, str] = MappingProxyType({})) -> None:
        """`definition`: the columns of a table that is made, where they are not just those of the transform; without its key.
        `comments`: what is said of them."""
        self.load = load
        self._new = NewTable(load, definition, comments)
        self.view = LiveView(load) if load.live_view else None
        self._fit: _Fit | None = None  # what was found by the last look
        self.watchers: Sequence[Watcher] = ()

    # what is there, and does it fit

    def name(self, tx: Connection) -> sql.Composed:
        """The table with its schema; where it is to be made, if it is not there."""
        table = describe(tx, self.load.table)
        return table.name if table else self._new.name(tx)

    def fit(self, desired: Desired, tx: Connection) -> tuple[Merge, Table | None]:
        """How the transform's columns go into the table; None for a table that is to be created.

        Raises Drift with every column that does not fit, and the statement that would help; writes nothing.
        """
        self._fit = self._look(desired, tx)
        for one in self.watchers:
            one.check(tx, self._fit.merge)
        return self._fit.merge, self._fit.table

    def fitted(self, desired: Desired, tx: Connection) -> tuple[Merge, Table | None]:
        """`fit` as it was found for this transform, by the last look in this transaction; looks where nobody has."""
        found = self._remembered(desired, tx)
        return found.merge, found.table

    def look_again(self, desired: Desired, tx: Connection) -> None:
        """After a while in which others could change the table, or a savepoint was taken back: `fit` again if it is another one now."""
        if describe(tx, self.load.table) != self._remembered(desired, tx).table:
            self.fit(desired, tx)

    def _remembered(self, desired: Desired, tx: Connection) -> _Fit:
        if self._fit is None or self._fit.transform is not desired.transform:
            self._fit = self._look(desired, tx)
        return self._fit

    def _look(self, desired: Desired, tx: Connection) -> _Fit:
        columns, table = columns_of(tx, desired), describe(tx, self.load.table)
        merge = fit(tx, self._new, desired, columns, table)
        if self.view:
            self.view.look(tx, table.schema if table else self._new.schema(tx), merge.table, table)
        return _Fit(desired.transform, columns, merge, table)

    # what is made

    def _make(self, found: _Fit, columns: Sequence[Column], tx: Connection, *, with_key: bool) -> None:
        """Make the table, and what belongs to it."""
        tx.execute(self._new.statement(found.merge, columns, with_key=with_key))
        self._new.comment(tx)
        self.make_view(tx)

    def make_empty(self, tx: Connection) -> None:
        """Make the table without a row, as the last look has it; if it is there, its view."""
        assert self._fit is not None  # noqa: S101  `fit`
        if self._fit.table is None:
            self._make(self._fit, self._fit.columns, tx, with_key=True)
        else:
            self.make_view(tx)

    @property
    def told(self) -> str:
        """What a check says of the live view, behind what it says of the table; "" without one."""
        return self.view.told if self.view else ""

    def make_view(self, tx: Connection) -> None:
        """Make what the live view lacks, if the step has one."""
        if self.view:
            self.view.make(tx)

    # an empty table

    def copy_into_empty(self, content: Copy, desired: Desired, tx: Connection, moved: Callable[[int], None]) -> Counts | None:
        """COPY straight into a table that is empty, or that we make here, without a stage. The blocks are read once.

        None when that is not possible (the table has rows, other types, triggers), when a key occurs twice or a record does
        not fit: nothing was written then, and the caller stages.
        """
        found = self._remembered(desired, tx)
        merge, table = found.merge, found.table
        if merge.helpers or any(column.wire for column in content.columns):
            return None
        if table is not None and not (self._takes_copy(merge, table, content) and self._lock_if_empty(tx, merge)):
            return None
        try:
            with tx.transaction():
                if table is None:
                    self._make(found, content.columns, tx, with_key=False)
                with as_user(tx):
                    rows = stage.copy(tx, merge.table, content, moved, freeze=table is None)
                if table is None:
                    tx.execute(self._new.add_key(merge))
                tx.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except (psycopg.DataError, psycopg.IntegrityError, errors.ProgramLimitExceeded):
            return None
        self._filled()
        return Counts(read=rows, inserted=rows)

    def fill_empty(self, desired: Desired, tx: Connection) -> Counts | None:
        """INSERT ... SELECT into a table that is empty or that we make here; None, and nothing written, when it has rows,
        a key occurs twice or a record does not fit."""
        found = self._remembered(desired, tx)
        merge, table = found.merge, found.table
        if table is not None and (table.watched or not self._lock_if_empty(tx, merge)):
            return None
        try:
            with tx.transaction():
                if table is None:
                    self._make(found, found.columns, tx, with_key=False)
                with as_user(tx):
                    rows = tx.execute(writing.insert(merge, merge.wanted)).rowcount
                if table is None:
                    tx.execute(self._new.add_key(merge))
                tx.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except (psycopg.DataError, psycopg.IntegrityError, errors.CardinalityViolation, errors.ProgramLimitExceeded):
            return None
        self._filled()
        return Counts(read=rows, inserted=rows)

    def _filled(self) -> None:
        for one in self.watchers:
            one.filled()

    def _takes_copy(self, merge: Merge, table: Table, content: Copy) -> bool:
        """Whether COPY can fill it: the binary formats are the same, and time stamps have a default, because COPY can't compute them."""
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

    def plan(self, desired: Desired, tx: Connection, *, without_rejects: bool = False) -> TablePlan:
        """What would be inserted and updated, kept in a temp table of `tx`; the target itself is only read.

        `without_rejects` leaves out what was found to be bad (`Merge.without_rejects`).
        """
        found = self._remembered(desired, tx)
        if found.table is None:
            self._make(found, found.columns, tx, with_key=True)
            found = self._look(desired, tx)  # not remembered: a savepoint may take the table back
        merge = replace(found.merge, without_rejects=without_rejects)
        return TablePlan(merge, compare.compare(tx, merge, rows=desired.rows), found.table)

    def watch(self, plan: TablePlan, tx: Connection) -> None:
        """Let the watchers look at what applying the plan writes and removes. Before it is applied; in a preview, instead."""
        for one in self.watchers:
            if plan.outcome.inserted or plan.outcome.updated:
                one.wrote(tx, plan.merge, plan.table)
            if plan.sweep and plan.sweep.removable:
                one.leaves(tx, plan.sweep, plan.merge)

    def apply(self, plan: TablePlan, tx: Connection) -> Counts:
        """Write the plan, then remove the rows that have left the source. Records that pass on a unique value among themselves, or
        take one from a row that leaves, are not an error: then every value that is given up is taken away first."""
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
    def _nobody_else_lost(self, plan: TablePlan, tx: Connection) -> Iterator[None]:
        """Raise VerificationFailed when a trigger deletes more rows than we remove. For a whole table, every record that was read is
        looked for then; a page knows only a few of the rows, so the table must not have fewer rows than it should."""
        merge = plan.merge
        if not merge.watched:
            yield
            return
        inserted, deleted = writing.tally(tx, merge)
        yield
        now_inserted, now_deleted = writing.tally(tx, merge)
        removed = plan.sweep.removable if plan.sweep and not merge.marks else 0
        lost = (now_deleted - deleted - removed) - (now_inserted - inserted - plan.outcome.inserted)
        if not merge.part and plan.outcome.read:
            lost = writing.missing(tx, merge) if now_deleted - deleted > removed else 0
        if lost > 0:
            raise VerificationFailed(
                f"writing to {merge.table.as_string(tx)} took {lost:,} other {'row' if lost == 1 else 'rows'} of it away",
                hint="a trigger or rule of that table deletes them; nothing was committed",
            )

    def _write(self, plan: TablePlan, tx: Connection, *, vacated: bool = False) -> None:
        if plan.outcome.inserted or plan.outcome.updated:
            writing.write(tx, plan.merge, plan.outcome, vacated=vacated)

    def _remove(self, plan: TablePlan, tx: Connection) -> None:
        if plan.sweep and plan.sweep.removable:
            try:
                deletes.remove(tx, plan.sweep, plan.merge)
            except (errors.ForeignKeyViolation, errors.RestrictViolation) as error:
                raise Drift(
                    f"{plan.sweep.removable} rows of {self.load.table} have left the source, but other rows refer to them"
                    f" (constraint {error.diag.constraint_name} of table {error.diag.table_name}); nothing was written",
                    hint="say `on_missing: mark`, or let the constraint say ON DELETE CASCADE or SET NULL",
                ) from error

    def prepare(self, plan: TablePlan, tx: Connection) -> None:
        """Remove the rows that have left and take away values that others give up, where that can be done, before records are tried."""
        for first in (self._remove, self._vacate):
            try:
                with tx.transaction():
                    first(plan, tx)
            except (psycopg.DataError, psycopg.IntegrityError, Drift):
                continue

    def changes(self, plan: TablePlan, step: str, tx: Connection) -> Generator[Change, None, None]:
        """The changes that applying the plan would make, row by row, by key; read in batches, as text."""
        if plan.outcome.inserted or plan.outcome.updated:
            yield from self._written(plan, step, tx)
        if plan.sweep and plan.sweep.removable:
            kind: Literal["mark", "delete"] = "mark" if plan.merge.marks else "delete"
            names = [f.name for f in plan.merge.fields]
            for keys, values in _rows(deletes.leaving(plan.sweep, plan.merge), tx):
                yield Change(step, kind, dict(zip(plan.merge.key, keys, strict=True)), dict(zip(names, values, strict=True)))

    def _written(self, plan: TablePlan, step: str, tx: Connection) -> Generator[Change, None, None]:
        key, names = plan.merge.key, [f.name for f in plan.merge.fields]
        compared = [*names, *(plan.merge.marks or ())[:1]]
        for is_new, keys, before, after in _rows(compare.changed(plan.merge), tx):
            row = dict(zip(key, keys, strict=True))
            old, new = (dict(zip(compared, values, strict=True)) for values in (before, after))
            if is_new:
                yield Change(step, "insert", row, after={name: new[name] for name in names})
                continue
            differing = [name for name in compared if name not in key and old[name] != new[name]]
            if not differing:  # somebody else wrote the same since we compared
                continue
            yield Change(step, "update", row, {name: old[name] for name in differing}, {name: new[name] for name in differing})

    def normalised(self, plan: TablePlan, tx: Connection) -> int:
        """How many rows a trigger of the table changed while we wrote them: they differ again in the next run."""
        if plan.table is None or not plan.table.has_triggers or not (plan.outcome.inserted or plan.outcome.updated):
            return 0
        return writing.normalised(tx, plan.merge)

    def _vacate(self, plan: TablePlan, tx: Connection) -> None:
        if not plan.outcome.inserted and not plan.outcome.updated:
            return
        assert plan.table is not None  # noqa: S101  plan() made the table
        for name in unique_values(tx, plan.table, [f.name for f in plan.merge.values]):
            column = plan.table.columns[name]
            if not column.not_null:
                writing.vacate(tx, plan.merge, name, "NULL")
            elif is_text(column.bare):
                own = "pg_catalog.md5(pg_catalog.concat(t.ctid, pg_catalog.random()))"
                writing.vacate(tx, plan.merge, name, f"{own}::{type_name(column.type)}")
            elif column.bare == "uuid":
                writing.vacate(tx, plan.merge, name, "pg_catalog.gen_random_uuid()")


def _rows(query: sql.Composed, tx: Connection) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, of which only a batch is in our memory."""
    tx.execute("SET LOCAL cursor_tuple_fraction TO 1")  # all of its rows are wanted, not the first ones soon
    with tx.cursor("usersync_diff") as cursor:
        cursor.itersize = BATCH
        yield from cursor.execute(query)


def _format(type_: str) -> str:
    """Types of one binary format: lengths and precisions are applied when it is read."""
    bare = re.sub(r"\(.*?\)", "", type_)
    return "text" if bare == "character varying" else bare
