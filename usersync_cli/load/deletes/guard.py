"""The guard on deletes: whether the rows that a complete reading lacks may go without a person.

A row is a candidate only when this step has seen its key at the source before, and a complete reading lacks it now. The
guard looks at the numbers; what it stops waits as a list that a person approves whole, once. As long as a row of such a list
is missing, nobody else goes either, whatever the numbers say by then (docs/decisions/0009-the-guard-has-a-memory.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import and_, identifier, listed, scalar
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.errors import GuardRefused
from usersync_cli.load.deletes import proof
from usersync_cli.load.deletes.proof import Guard
from usersync_cli.load.merge import Merge, key_text
from usersync_cli.load.merge.compare import Outcome
from usersync_cli.model import Load
from usersync_cli.state import approvals, readings
from usersync_cli.state.readings import Memory, Scope

GONE = sql.SQL("pg_temp.usersync_gone")
"""The candidates: key text; free boolean: the guard does not concern itself with it; and where rows of a table go (`own_columns`),
at timestamptz: when the source says that it was deleted, NULL where it does not; and the row's own key (`same_row`)."""
ALWAYS = 10  # rows that may go without a question, as long as they are not more than half
RUNS = 3  # within the window, as many rows may go as in so many runs


@dataclass
class Sweep:
    """The end of one reading, as the guard judges it. `candidates` rows are in GONE; `refusal` says why they stay."""

    scope: Scope
    load: Load
    memory: Memory
    records: int
    inserted: int = 0
    candidates: int = 0
    free: int = 0  # of them, those that go whatever the guard says
    removable: int = 0  # of them, those that go in this run
    known: int = 0  # what the guard measured them by
    complete: bool = True  # the source was read whole, so that `records` means something
    approval: int | None = None  # the list that allows it
    refusal: GuardRefused | None = None
    looked: bool = field(default=False, repr=False)  # GONE exists
    reason: str = ""

    @property
    def edited(self) -> bool:
        """The step is another one than when the guard last let a reading pass."""
        return self.memory.accepted not in {None, self.scope.edition}

    @property
    def where(self) -> str:
        """What messages begin with."""
        stream = f"stream {self.scope.stream}, " if self.scope.stream else ""
        kind = "table" if self.load.target == "target" else "target"
        return f"step {self.scope.step}: {stream}{kind} {self.load.table}"

    @property
    def outcome(self) -> str:
        """How the reading ended: ok, approved or refused."""
        return "approved" if self.approval is not None else "refused" if self.refusal else "ok"

    @property
    def goes(self) -> sql.Composable:
        """A condition on g, a row of GONE: whether it goes in this run (`proof`). It means the same under every search path."""
        refused = self.refusal is not None
        if self.approval is not None and not proof.goes(Guard(refused=refused, listed=False)):
            return sql.SQL(
                "(g.free OR EXISTS (SELECT FROM usersync.approval_keys AS a"
                " WHERE a.approval_id OPERATOR(pg_catalog.=) {} AND a.key OPERATOR(pg_catalog.=) g.key))"
            ).format(sql.Literal(self.approval))
        return sql.SQL("true" if proof.goes(Guard(refused=refused)) else "g.free")


def look(tx: Connection, scope: Scope, load: Load, merge: Merge, outcome: Outcome, *, unknown: int = 0) -> Sweep:  # noqa: PLR0913  and what was set aside
    """Find the candidates of a step of tables and judge them. `unknown` records were set aside without a key: each may be a candidate.

    When the rows that were read are exactly those that were seen before, nobody has left, and `seen` is not even read. Tables
    are read in one snapshot, so that what a reading lacks is proven (`load.deletes.proof`).
    """
    memory = readings.remember(tx, scope)
    found = Sweep(scope, load, memory, outcome.distinct, outcome.inserted)
    adopting = load.adopt_existing and not memory.adopted
    if not adopting and (memory.keys, memory.checksum) == outcome.matched:
        return found
    seen: sql.Composable = sql.SQL(
        "EXISTS (SELECT FROM usersync.seen AS s WHERE s.stream_id OPERATOR(pg_catalog.=) {} AND s.key OPERATOR(pg_catalog.=) {})"
    ).format(sql.Literal(memory.id), key_text(load.key))
    if adopting:
        seen = sql.SQL("true")
    elif not memory.keys:
        seen = sql.SQL("false")
    there = sql.SQL("AND t.{} IS NULL").format(identifier(merge.marks[0])) if merge.marks else sql.SQL("")
    statement = sql.SQL("""
        CREATE TEMP TABLE usersync_gone ON COMMIT DROP AS
        SELECT {key} AS key, false AS free, NULL::pg_catalog.timestamptz AS at, {own} FROM {table} AS t
         WHERE NOT {present} AND {seen} {there}
    """).format(key=key_text(load.key), own=own_columns(merge, "t"), table=merge.table, present=merge.present, seen=seen, there=there)
    with as_user(tx):
        tx.execute(statement)
    found.looked = True
    found.candidates = found.removable = scalar(tx, sql.SQL("SELECT count(*) FROM {}").format(GONE))
    known = memory.keys
    if adopting:
        known = scalar(tx, sql.SQL("SELECT count(*) FROM {} AS t WHERE true {}").format(merge.table, there))
    found.reason = judge(found, known) if found.candidates else ""
    if unknown and found.candidates and not found.reason:
        found.reason = f"{found.candidates:,} rows would go, and they may be records that were set aside without a known key ({unknown:,})"
    return found


def own_columns(merge: Merge, side: str) -> sql.Composed:
    """The key of a row as columns of GONE, in its own types, so that an index finds the row again."""
    named = enumerate(merge.key)
    return listed(sql.SQL("{}.{} AS {}").format(sql.SQL(side), identifier(name), _own_column(i)) for i, name in named)


def same_row(merge: Merge) -> sql.Composed:
    """A condition on t, a row of the table, and g, one of GONE: it is the same."""
    return and_(
        sql.SQL("t.{} OPERATOR({}) g.{}").format(identifier(name), sql.SQL(merge.field(name).operator), _own_column(i))  # from the catalog
        for i, name in enumerate(merge.key)
    )


def _own_column(number: int) -> sql.Identifier:
    return sql.Identifier(f"usersync_key_{number}")


def judge(found: Sweep, known: int) -> str:
    """Why the candidates may not go without a person; "" when they may. `known` rows are known in the target.

    They are measured by what was there when a reading was last accepted, if that is less: what a refused or broken reading
    has brought since does not make more of the others go.
    """
    memory, number = found.memory, found.candidates - found.free
    found.known = known if memory.previous is None else min(known, memory.previous)
    allowed = allowance(found.load, found.known)
    if not number:
        return ""
    if found.complete and not found.records:
        return "the source is empty"
    if found.complete and memory.previous is not None and found.records * 2 < memory.previous:
        return f"the source has {found.records:,} records, less than half of the {memory.previous:,} before"
    if number > allowed:
        return f"{number:,} of {found.known:,} rows would go, and {allowed:,} may without a person"
    if found.edited:
        return f"{_rows(number)} of {found.known:,} would go, and the step or its source was edited since a reading was last accepted"
    return _slow(found, number)


def allowance(load: Load, known: int) -> int:
    """The number of rows that one run may remove of `known` ones."""
    return min(max(ALWAYS, int(load.max_missing * known)), known // 2)


def _slow(found: Sweep, number: int) -> str:
    """Why the window is used up: a few rows in each run are many in a week; "" while it is not."""
    memory = found.memory
    if not memory.lately:
        return ""
    most = min(RUNS * max(ALWAYS, int(found.load.max_missing * memory.before)), memory.before // 2)
    if memory.lately + number <= most:
        return ""
    return (
        f"{_rows(number)} would go after {memory.lately:,} in the last {_time(found.scope.window)},"
        f" and {most:,} of {memory.before:,} may in that time without a person"
    )


def decide(tx: Connection, found: Sweep, approved: int | None) -> None:
    """Decide which of the candidates go: all of them, those on the approved list, or none, and then `refusal` says why.

    An approved list lets exactly its own rows go, as far as they are still candidates. Others wait for the next run, and
    where another list has them, for a person.
    """
    found.removable = found.candidates
    if approved is not None and (list_ := approvals.find(tx, found.scope, approved)) is not None:
        found.approval = list_
        found.removable = scalar(tx, sql.SQL("SELECT count(*) FROM {} AS g WHERE {}").format(GONE, found.goes)) if found.looked else 0
        if reason := kept(tx, found):
            found.refusal = _refusal(found, reason, approvals.newest(tx, found.scope, found.approval))
    elif reason := found.reason or kept(tx, found):
        found.reason, found.removable = reason, found.free
        found.refusal = _refusal(found, reason, _list(tx, found))


def _refusal(found: Sweep, reason: str, run_id: int | None) -> GuardRefused:
    more = "" if found.records or not found.complete else " --allow-empty"
    hint = approvals.how(found.scope.job, run_id, more) if run_id else "a run makes the list that can be approved"
    nobody = "nobody else was removed" if found.removable else "nobody was removed"
    return GuardRefused(f"{found.where}: {reason}; {nobody}", hint=hint)


def kept(tx: Connection, found: Sweep, missing: sql.Composable | None = None, values: Mapping[str, Any] | None = None) -> str:
    """Why the refusal of an earlier run still holds: rows of its list are still missing. "" when there is none, or all are back.

    `missing` selects the keys of the rows that are missing; without it they are in GONE.
    """
    if not found.memory.id or not (found.looked or missing) or approvals.newest(tx, found.scope, found.approval) is None:
        return ""
    number, run_id = approvals.still_missing(tx, found.scope, found.approval, missing or _missing(found), values or {})
    if not number:
        return ""
    return f"{_rows(number)} that run {run_id} kept {'is' if number == 1 else 'are'} still missing at the source"


def _list(tx: Connection, found: Sweep) -> int | None:
    """The run whose list holds these rows, so that a person can approve it; a dry run makes none."""
    nowhere = not found.scope.run_id and not found.memory.id
    return None if nowhere else approvals.wait(tx, found.scope, found.reason, _missing(found))


def _missing(found: Sweep) -> sql.Composable:
    return sql.SQL("SELECT key FROM {} WHERE NOT free").format(GONE) if found.looked else sql.SQL("SELECT ''::text WHERE false")


def _rows(number: int) -> str:
    return f"{number:,} row" if number == 1 else f"{number:,} rows"


def _time(window: timedelta) -> str:
    hours = window.total_seconds() / 3600
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} h"


def settle(tx: Connection, found: Sweep) -> None:
    """Write down what was decided: an approved list is used now, others that wait lack its rows, and lists without a reason are withdrawn.

    What went without a person counts for the next days, until a person approves something.
    """
    if found.approval is not None:
        approvals.use(tx, found.scope, found.approval, found.removable, _missing(found))
        readings.forget_removed(tx, found.memory)
        if found.edited and found.refusal is None:  # whoever approves the list that an edit has made approves the edit
            readings.accept(tx, found.scope, found.memory.id)
    elif found.refusal is None:
        approvals.withdraw(tx, found.scope)
        if number := found.removable - found.free:
            readings.note_removed(tx, found.scope, found.memory, rows=number, known=found.known)


def note(tx: Connection, found: Sweep) -> None:
    """Write down how the reading ended, for the guard of the next one."""
    numbers = {"records": found.records, "candidates": found.candidates, "removed": found.removable}
    readings.note(tx, found.scope, found.memory, found.outcome, **numbers)
