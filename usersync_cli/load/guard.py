"""Who has left the source: candidates from a complete reading, the guard, approvals, and the memory of who was seen.

A row is a candidate only when this step has seen its key at the source before, and a complete reading lacks it now. The
guard looks at the numbers; what it stops waits as a list that a person approves whole, once. As long as a row of such a list
is missing, nobody else goes either, whatever the numbers say by then (docs/decisions/0009-the-guard-has-a-memory.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection, as_user
from usersync_cli.clients.postgres.sql import identifier, listed
from usersync_cli.errors import Conflict, Drift, GuardRefused, NotFound, VerificationFailed
from usersync_cli.load.merge import CHANGES, Merge, Outcome, key_text, texts
from usersync_cli.model import Load
from usersync_cli.state import ledger

GONE = sql.SQL("pg_temp.usersync_gone")  # key text: the candidates; free boolean: the guard does not concern itself with it
_PRESENT = sql.SQL("pg_temp.usersync_present")
ALWAYS = 10  # rows that may go without a question, as long as they are not more than half
RUNS = 3  # within the window, as many rows may go as in so many runs
KEPT_LISTS = 3  # waiting lists of a step; older ones are withdrawn
KEPT_SWEEPS = 100


@dataclass(frozen=True)
class Scope:
    """Which step is swept, by which run. `target` says what the keys mean: the table and its key columns."""

    job: str
    step: str
    run_id: int | None  # None in a dry run
    target: str
    fingerprint: str
    account: str
    stream: str = ""
    reads: str = ""  # what the sources' own settings say of which records there are
    window: timedelta = timedelta(0)  # how far back the guard looks; 0: it judges each run by itself

    @property
    def edition(self) -> str:
        """The step and what its source is told to read: another one may lack people who are still at the source."""
        return hashlib.sha256(f"{self.fingerprint} {self.reads}".encode()).hexdigest()


@dataclass(frozen=True)
class Memory:
    """What `seen` holds for a step: how many keys, and a checksum that tells one set of keys from another."""

    id: int = 0
    keys: int = 0
    checksum: int = 0
    adopted: bool = False
    previous: int | None = None  # records of the last sweep that was accepted
    accepted: str | None = None  # the step's edition in that sweep; None: nobody knows
    lately: int = 0  # rows that went within the window, without a person
    before: int = 0  # rows that were known when the first of these went
    others: int = 0  # of documents: rows of the table that are not among them


@dataclass
class Sweep:
    """The end of one reading. `candidates` rows are in GONE; `refusal` says why they stay."""

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
    def goes(self) -> sql.Composable:
        """Of g, a row of GONE: it goes in this run. Also for statements that run with a person's search path."""
        if self.approval is not None:
            return sql.SQL(
                "(g.free OR EXISTS (SELECT FROM usersync.approval_keys AS a"
                " WHERE a.approval_id OPERATOR(pg_catalog.=) {} AND a.key OPERATOR(pg_catalog.=) g.key))"
            ).format(sql.Literal(self.approval))
        return sql.SQL("g.free" if self.refusal else "true")


def recall(connection: Connection, scope: Scope) -> tuple[Memory, str, str] | None:
    """What is known of this step, of which table and key, and the fingerprint under which it was noted; None when it never ran."""
    found = connection.execute(_LOOK, vars(scope)).fetchone()
    if found is None:
        return None
    target, fingerprint, id_, keys, checksum, adopted, *rest = found
    return Memory(id_, keys, int(checksum), adopted, *rest), target, fingerprint


def begin(tx: Connection, scope: Scope, *, instead: bool) -> Memory:
    """Nothing is known yet. `instead`: something was, of another table or key; then the step counts as edited."""
    if instead:
        tx.execute("DELETE FROM usersync.seen_streams WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s", vars(scope))
    ((id_,),) = tx.execute(_BEGIN, {**vars(scope), "accepted": "" if instead else None}).fetchall()
    return Memory(id_, accepted="" if instead else None)


def remember(tx: Connection, scope: Scope) -> Memory:
    """What is known of this step. Keys of another table or other key columns mean nothing any more and are forgotten."""
    write = scope.run_id is not None
    if not write and ledger.current(tx) != ledger.VERSION:
        return Memory()
    found = recall(tx, scope)
    if found is not None and found[1] == scope.target:
        return found[0]
    return begin(tx, scope, instead=found is not None) if write else Memory(accepted=None if found is None else "")


def look(tx: Connection, scope: Scope, load: Load, merge: Merge, outcome: Outcome, *, unknown: int = 0) -> Sweep:  # noqa: PLR0913  and what was set aside
    """Find the candidates and judge them. `unknown` records were set aside without a key: they may be any of the candidates.

    When the rows that were read are exactly those that were seen before, nobody has left, and `seen` is not even read.
    """
    memory = remember(tx, scope)
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
        SELECT {key} AS key, false AS free FROM {table} AS t
         WHERE NOT {present} AND {seen} {there}
    """).format(key=key_text(load.key), table=merge.table, present=merge.present, seen=seen, there=there)
    with as_user(tx):
        tx.execute(statement)
    found.looked = True
    found.candidates = found.removable = _number(tx, sql.SQL("SELECT count(*) FROM {}").format(GONE))
    known = memory.keys
    if adopting:
        known = _number(tx, sql.SQL("SELECT count(*) FROM {} AS t WHERE true {}").format(merge.table, there))
    found.reason = judge(found, known) if found.candidates else ""
    if unknown and found.candidates and not found.reason:
        found.reason = f"{found.candidates:,} rows would go, and they may be records that were set aside without a known key ({unknown:,})"
    return found


def judge(found: Sweep, known: int) -> str:
    """Why these may not go without a person; "" when they may. `known` rows are known in the target.

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
    """How many of so many rows one run may remove."""
    return min(max(ALWAYS, int(load.max_missing * known)), known // 2)


def _slow(found: Sweep, number: int) -> str:
    """A few in each run are many in a week."""
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
    """What of the candidates goes: all of them, those on the approved list, or none, and then `refusal` says why.

    An approved list lets exactly its own rows go, as far as they are still candidates. Others wait for the next run, and
    where another list has them, for a person.
    """
    found.removable = found.candidates
    if approved is not None and (row := _waiting(tx, found, approved)) is not None:
        found.approval = row
        found.removable = _number(tx, sql.SQL("SELECT count(*) FROM {} AS g WHERE {}").format(GONE, found.goes)) if found.looked else 0
        if reason := kept(tx, found):
            found.refusal = _refusal(found, reason, _newest(tx, found))
    elif reason := found.reason or kept(tx, found):
        found.reason, found.removable = reason, found.free
        found.refusal = _refusal(found, reason, _list_for_approval(tx, found))


def _refusal(found: Sweep, reason: str, run_id: int | None) -> GuardRefused:
    more = "" if found.records or not found.complete else " --allow-empty"
    hint = _approve(found.scope.job, run_id, more) if run_id else "a run makes the list that can be approved"
    nobody = "nobody else was removed" if found.removable else "nobody was removed"
    return GuardRefused(f"{found.where}: {reason}; {nobody}", hint=hint)


def kept(tx: Connection, found: Sweep, missing: sql.Composable | None = None, values: Mapping[str, Any] | None = None) -> str:
    """Why the refusal of an earlier run still holds: rows of its list are still missing. "" when there is none, or all are back.

    `missing` selects the keys of the rows that are missing; without it they are in GONE.
    """
    if not found.memory.id or not (found.looked or missing) or _newest(tx, found) is None:
        return ""
    query = sql.SQL(_KEPT).format(missing=missing or _missing(found))
    row = tx.execute(query, {**vars(found.scope), "approval": found.approval, **(values or {})}).fetchone()
    number, run_id = row or (0, None)
    if not number:
        return ""
    return f"{_rows(number)} that run {run_id} kept {'is' if number == 1 else 'are'} still missing at the source"


def _missing(found: Sweep) -> sql.Composable:
    return sql.SQL("SELECT key FROM {} WHERE NOT free").format(GONE) if found.looked else sql.SQL("SELECT ''::text WHERE false")


def standing(connection: Connection, job: str, step: str, streams: Collection[str] = ()) -> list[GuardRefused]:
    """What lists of this step that wait say of their own, but for those of these streams: the run did not look at what they hold."""
    found = [one for one in approvals(connection, job=job, waiting=True) if one.step == step and one.stream not in streams]
    newest = {one.stream: one for one in reversed(found)}
    return [
        GuardRefused(
            f"step {step}: {f'stream {one.stream}, ' if one.stream else ''}table {one.table}: {one.reason}; nobody was removed",
            hint=_approve(job, one.run_id),
        )
        for one in newest.values()
    ]


def _approve(job: str, run_id: int, more: str = "") -> str:
    return f"usersync approvals show {run_id} lists them; if they may go: usersync run --job {job} --approve-deletes {run_id}{more}"


def _rows(number: int) -> str:
    return f"{number:,} row" if number == 1 else f"{number:,} rows"


def _time(window: timedelta) -> str:
    hours = window.total_seconds() / 3600
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} h"


def remove(tx: Connection, found: Sweep, merge: Merge) -> None:
    """Delete or mark those that may go. Raises VerificationFailed when a trigger or rule keeps them."""
    if not found.removable:
        return
    here = sql.SQL("{} OPERATOR(pg_catalog.=) g.key AND {}").format(key_text(found.load.key), found.goes)
    if merge.marks:
        column, value = merge.marks
        statement = sql.SQL("UPDATE {} AS t SET {} = {} FROM {} AS g WHERE {}").format(
            merge.table, identifier(column), sql.SQL(value), GONE, here
        )
    else:
        statement = sql.SQL("DELETE FROM {} AS t USING {} AS g WHERE {}").format(merge.table, GONE, here)
    with as_user(tx):
        done = tx.execute(statement).rowcount
        tx.execute("SET CONSTRAINTS ALL IMMEDIATE")
    if done != found.removable:
        raise VerificationFailed(
            f"{found.removable} rows of {merge.table.as_string(tx)} should go, and {done} went",
            hint="a trigger or rule of that table keeps them; nothing was committed",
        )
    if merge.watched:
        _refuse_returned(tx, found, merge)


def _refuse_returned(tx: Connection, found: Sweep, merge: Merge) -> None:
    """Nobody who was removed is there again, or without the mark. Raises VerificationFailed when a trigger undoes it."""
    there = sql.SQL("t.{} IS NULL").format(identifier(merge.marks[0])) if merge.marks else sql.SQL("true")
    key = key_text(found.load.key)
    query = sql.SQL("SELECT pg_catalog.count(*) FROM {} AS t JOIN {} AS g ON {} OPERATOR(pg_catalog.=) g.key AND {} WHERE {}")
    if number := _number(tx, query.format(merge.table, GONE, key, found.goes, there)):
        raise VerificationFailed(
            f"{number:,} of {found.removable:,} rows of {merge.table.as_string(tx)} that should go are still there",
            hint="a trigger or rule of that table brings them back; nothing was committed",
        )


def stays(found: Sweep) -> sql.Composable:
    """Of t, a row of the table: `remove` does not take it."""
    if not found.removable:
        return sql.SQL("true")
    return sql.SQL("NOT EXISTS (SELECT FROM {} AS g WHERE g.key OPERATOR(pg_catalog.=) {} AND {})").format(
        GONE, key_text(found.load.key), found.goes
    )


def leaving(found: Sweep, merge: Merge) -> sql.Composed:
    """Key and loaded values, as arrays of text, of each row that `remove` takes; by key."""
    keys = [identifier(name) for name in merge.key]
    return sql.SQL("SELECT {}, {} FROM {} AS t JOIN {} AS g ON g.key = {} AND {} ORDER BY {}").format(
        texts("t", keys),
        texts("t", [f.column for f in merge.fields]),
        merge.table,
        GONE,
        key_text(merge.key),
        found.goes,
        listed(sql.SQL("t.{}").format(name) for name in keys),
    )


def finish(tx: Connection, found: Sweep, merge: Merge) -> None:
    """After the rows were written: `seen` holds who is there, and who stays although the source lacks them."""
    id_ = sql.Literal(found.memory.id)
    if not found.looked and found.memory.keys and found.inserted:
        _add_new(tx, found.memory.id, found.load, merge)
    elif found.looked or not found.memory.keys:
        statement = sql.SQL("CREATE TEMP TABLE usersync_present ON COMMIT DROP AS SELECT {} AS key FROM {} AS t WHERE {}").format(
            key_text(found.load.key), merge.table, merge.present
        )
        with as_user(tx):
            tx.execute(statement)
        if found.looked and found.removable < found.candidates:
            tx.execute(sql.SQL("INSERT INTO {} SELECT g.key FROM {} AS g WHERE NOT {}").format(_PRESENT, GONE, found.goes))
        _equal_seen(tx, id_, found)
        tx.execute(sql.SQL("DROP TABLE {}").format(_PRESENT))
    if found.removable and not merge.marks:
        _check_the_rest(tx, found, merge)
    settle(tx, found)
    note(tx, found)


def settle(tx: Connection, found: Sweep) -> None:
    """The list that was approved is used now, and others that wait lack its rows; a refusal that does not hold is withdrawn.

    What went without a person counts for the next days, until a person approves something.
    """
    values = {**vars(found.scope), "id": found.memory.id, "run": found.scope.run_id, "approval": found.approval, "keep": 0}
    if found.approval is not None:
        tx.execute(_USED, {**values, "removed": found.removable})
        for statement in _SHORTEN:
            tx.execute(sql.SQL(statement).format(missing=_missing(found)), values)
        tx.execute("DELETE FROM usersync.removals WHERE stream_id = %(id)s", values)
    elif found.refusal is None:
        tx.execute(_WITHDRAW, values)
        if number := found.removable - found.free:
            tx.execute(_REMOVED, {**values, "rows": number, "known": found.known})


def _check_the_rest(tx: Connection, found: Sweep, merge: Merge) -> None:
    """Whoever was read is still there: a foreign key of the table on itself may have taken more with it (ON DELETE CASCADE)."""
    lost = sql.SQL("SELECT pg_catalog.count(*) FROM ({}) AS w WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})")
    with as_user(tx):
        number = _number(tx, lost.format(merge.wanted, merge.table, merge.same_key))
    if number:
        raise VerificationFailed(
            f"removing {found.removable:,} rows of {merge.table.as_string(tx)} took {number:,} others with them, which the source has",
            hint="a trigger, or a foreign key with ON DELETE CASCADE; nothing was committed. `on_missing: mark` removes no row",
        )


def filled(tx: Connection, scope: Scope, load: Load, merge: Merge, records: int) -> None:
    """After an empty table was loaded: each of its rows came from the source."""
    found = Sweep(scope, load, remember(tx, scope), records)
    tx.execute(
        sql.SQL("CREATE TEMP TABLE usersync_present ON COMMIT DROP AS SELECT {} AS key FROM {} AS t").format(
            key_text(load.key), merge.table
        )
    )
    _equal_seen(tx, sql.Literal(found.memory.id), found)
    tx.execute(sql.SQL("DROP TABLE {}").format(_PRESENT))
    tx.execute(_WITHDRAW, {**vars(scope), "keep": 0})
    note(tx, found)


def _add_new(tx: Connection, id_: int, load: Load, merge: Merge) -> None:
    """Nobody left, and some came: only these are written."""
    tx.execute(
        sql.SQL("""
            WITH added AS (
                INSERT INTO usersync.seen (stream_id, key)
                SELECT {id}, {key} FROM {table} AS t JOIN {changes} AS w ON {same_key} WHERE w.usersync_is_new
                ON CONFLICT DO NOTHING RETURNING key
            )
            UPDATE usersync.seen_streams SET (keys, checksum) =
                   (SELECT keys + count(*), checksum + COALESCE(sum(hashtextextended(key, 0)), 0) FROM added)
             WHERE id = {id}
        """).format(id=sql.Literal(id_), key=key_text(load.key), table=merge.table, changes=CHANGES, same_key=merge.same_key)
    )


def _equal_seen(tx: Connection, id_: sql.Literal, found: Sweep) -> None:
    tx.execute(
        sql.SQL("DELETE FROM usersync.seen AS s WHERE s.stream_id = {} AND NOT EXISTS (SELECT FROM {} AS p WHERE p.key = s.key)").format(
            id_, _PRESENT
        )
    )
    tx.execute(
        sql.SQL(
            "INSERT INTO usersync.seen (stream_id, key) SELECT {0}, p.key FROM {1} AS p"
            " WHERE NOT EXISTS (SELECT FROM usersync.seen AS s WHERE s.stream_id = {0} AND s.key = p.key)"
        ).format(id_, _PRESENT)
    )
    tx.execute(
        sql.SQL(
            "UPDATE usersync.seen_streams SET adopted = adopted OR {}, fingerprint = {}, (keys, checksum) ="
            " (SELECT count(*), COALESCE(sum(hashtextextended(key, 0)), 0) FROM {}) WHERE id = {}"
        ).format(sql.Literal(found.load.adopt_existing), sql.Literal(found.scope.fingerprint), _PRESENT, id_)
    )


def note(tx: Connection, found: Sweep) -> None:
    """How the reading ended, for the guard of the next one."""
    outcome = "approved" if found.approval is not None else "refused" if found.refusal else "ok"
    tx.execute(
        _SWEPT, {**vars(found.scope), "id": found.memory.id, "outcome": outcome, "records": found.records,
                 "candidates": found.candidates, "removed": found.removable},
    )  # fmt: skip
    tx.execute(_FORGET, {"id": found.memory.id, "keep": KEPT_SWEEPS})
    if outcome != "refused":
        accept(tx, found.scope, found.memory.id)


def accept(tx: Connection, scope: Scope, id_: int) -> None:
    """A complete reading of the step as it is now has passed the guard."""
    statement = "UPDATE usersync.seen_streams SET accepted = %s WHERE id = %s AND accepted IS DISTINCT FROM %s"
    tx.execute(statement, (scope.edition, id_, scope.edition))


def withdraw_others(connection: ledger.Connection, job: str, swept: Collection[tuple[str, str]], run_id: int) -> None:
    """Lists of steps and streams that the job no longer has, or from which it removes nobody now: nobody could approve them."""
    waiting = connection.execute("SELECT DISTINCT step, stream FROM usersync.approvals WHERE job = %s AND status = 'waiting'", (job,))
    for step, stream in set(waiting.fetchall()) - set(swept):
        connection.execute(_WITHDRAW, {"job": job, "step": step, "stream": stream, "keep": 0, "run_id": run_id})


# approvals


@dataclass(frozen=True)
class Approval:
    """A list of rows that the guard did not let go."""

    id: int
    run_id: int
    job: str
    step: str
    stream: str
    status: str  # waiting, used, withdrawn
    reason: str
    keys: int
    created_at: Any
    ended_by: int | None
    target: str = ""

    @property
    def table(self) -> str:
        """Whose rows they are."""
        return self.target.rpartition(" (")[0] or self.target


def approvals(connection: ledger.Connection, *, job: str | None = None, run_id: int | None = None, waiting: bool = False) -> list[Approval]:
    """Lists by run, newest first. Empty too where usersync's tables are not there yet."""
    if (ledger.current(connection) or "") < "0002":
        return []
    rows = connection.execute(_APPROVALS, {"job": job, "run": run_id, "waiting": waiting}).fetchall()
    return [Approval(*row) for row in rows]


def approval_keys(connection: ledger.Connection, approval: Approval) -> list[str]:
    """The keys of a list, sorted; a list that was withdrawn has lost them."""
    query = "SELECT key FROM usersync.approval_keys WHERE approval_id = %s ORDER BY key"
    return [key for (key,) in connection.execute(query, (approval.id,)).fetchall()]


def check_approval(connection: ledger.Connection, job: str, run_id: int) -> None:
    """Raises NotFound for a run that has no list for this job, Conflict for a list that was used or withdrawn."""
    found = approvals(connection, run_id=run_id)
    ours = [one for one in found if one.job == job]
    if any(one.status == "waiting" for one in ours):
        return
    hint = f"`usersync status --job {job}` shows what waits for approval; nothing was changed"
    if not found:
        raise NotFound(f"run {run_id} has no list that waits for approval", hint=hint)
    if not ours:
        raise NotFound(f"run {run_id} was a run of job {found[0].job}, not of {job}", hint=hint)
    used = ours[0]
    if used.status == "used":
        raise Conflict(f"the list of run {run_id} was approved before, and used by run {used.ended_by}", hint=hint)
    raise Conflict(f"the list of run {run_id} was withdrawn: a later run found the source otherwise", hint=hint)


def _waiting(tx: Connection, found: Sweep, run_id: int) -> int | None:
    """The list of that run for this step, locked, if it still waits and means the same table."""
    row = tx.execute(_WAITING, {**vars(found.scope), "approved": run_id}).fetchone()
    if row and row[1] != found.scope.target:
        raise Drift(
            f"the list of run {run_id} was made for {row[1]}; the step loads {found.scope.target} now",
            hint="run without --approve-deletes",
        )
    return int(row[0]) if row else None


def _list_for_approval(tx: Connection, found: Sweep) -> int | None:
    """The run whose list a person can approve: the newest waiting one if it has just these keys, else a new list of this run."""
    scope = found.scope
    if scope.run_id is None and not found.memory.id:
        return None
    listed = sql.SQL("SELECT count(*), COALESCE(sum(hashtextextended(key, 0)), 0) FROM {} WHERE NOT free")
    keys, checksum = tx.execute(listed.format(GONE)).fetchone() or (0, 0)
    same = tx.execute(_SAME, {**vars(scope), "keys": keys, "checksum": checksum}).fetchone()
    if same or scope.run_id is None:
        return int(same[0]) if same else None
    tx.execute(_WITHDRAW, {**vars(scope), "keep": KEPT_LISTS - 1})
    ((id_,),) = tx.execute(_LIST, {**vars(scope), "reason": found.reason, "keys": keys, "checksum": checksum}).fetchall()
    tx.execute(
        sql.SQL("INSERT INTO usersync.approval_keys (approval_id, key) SELECT DISTINCT {}::bigint, key FROM {} WHERE NOT free").format(
            sql.Literal(id_), GONE
        )
    )
    return scope.run_id


def _newest(tx: Connection, found: Sweep) -> int | None:
    """The run whose list waits beside the one that is approved."""
    row = tx.execute(_NEWEST, {**vars(found.scope), "approval": found.approval}).fetchone()
    return int(row[0]) if row else None


def _number(tx: Connection, query: sql.Composed) -> int:
    (number,) = tx.execute(query).fetchone() or (0,)
    return int(number)


_LOOK = """
SELECT target, fingerprint, id, keys, checksum, adopted,
       (SELECT records FROM usersync.sweeps w WHERE w.stream_id = s.id AND w.outcome IN ('ok', 'approved') ORDER BY w.id DESC LIMIT 1),
       accepted, COALESCE(r.rows, 0), COALESCE(r.before, 0), others
  FROM usersync.seen_streams s
  LEFT JOIN LATERAL (SELECT sum(rows)::bigint AS rows, (array_agg(known ORDER BY removed_at))[1] AS before FROM usersync.removals r
                      WHERE r.stream_id = s.id AND r.removed_at > clock_timestamp() - %(window)s) AS r ON true
 WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s
"""
_BEGIN = """
INSERT INTO usersync.seen_streams (job, step, stream, target, fingerprint, accepted)
VALUES (%(job)s, %(step)s, %(stream)s, %(target)s, %(fingerprint)s, %(accepted)s) RETURNING id
"""
_SWEPT = """
INSERT INTO usersync.sweeps (stream_id, run_id, outcome, account, records, candidates, removed, finished_at)
VALUES (%(id)s, %(run_id)s, %(outcome)s, %(account)s, %(records)s, %(candidates)s, %(removed)s, clock_timestamp())
"""
_FORGET = """
DELETE FROM usersync.sweeps WHERE stream_id = %(id)s
   AND id < (SELECT id FROM usersync.sweeps WHERE stream_id = %(id)s ORDER BY id DESC OFFSET %(keep)s - 1 LIMIT 1)
   AND id <> (SELECT max(id) FROM usersync.sweeps WHERE stream_id = %(id)s AND outcome IN ('ok', 'approved'))
"""
_APPROVALS = """
SELECT id, run_id, job, step, stream, status, reason, keys, created_at, ended_by, target FROM usersync.approvals
 WHERE (%(job)s::text IS NULL OR job = %(job)s) AND (%(run)s::bigint IS NULL OR run_id = %(run)s)
   AND (NOT %(waiting)s OR status = 'waiting')
 ORDER BY run_id DESC, step, stream
"""
_WAITING = """
SELECT id, target FROM usersync.approvals
 WHERE run_id = %(approved)s AND job = %(job)s AND step = %(step)s AND stream = %(stream)s AND status = 'waiting'
"""
_SAME = """
SELECT run_id FROM (SELECT * FROM usersync.approvals WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s AND status = 'waiting'
                     ORDER BY id DESC LIMIT 1) AS newest
 WHERE keys = %(keys)s AND checksum = %(checksum)s AND target = %(target)s
"""
_LIST = """
INSERT INTO usersync.approvals (run_id, job, step, stream, status, target, reason, keys, checksum)
VALUES (%(run_id)s, %(job)s, %(step)s, %(stream)s, 'waiting', %(target)s, %(reason)s, %(keys)s, %(checksum)s) RETURNING id
"""
_OTHERS = """
SELECT id, run_id FROM usersync.approvals
 WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s AND status = 'waiting' AND target = %(target)s
   AND id IS DISTINCT FROM %(approval)s::bigint
"""
_NEWEST = f"SELECT run_id FROM ({_OTHERS}) AS o ORDER BY id DESC LIMIT 1"  # noqa: S608  our own text
# Of the rows that are missing, those that a list has which waits, and that are not on the one that is approved.
_KEPT = f"""
SELECT count(DISTINCT k.key), max(o.run_id) FROM ({_OTHERS}) AS o JOIN usersync.approval_keys AS k ON k.approval_id = o.id
 WHERE k.key IN ({{missing}})
   AND NOT EXISTS (SELECT FROM usersync.approval_keys AS a WHERE a.approval_id = %(approval)s::bigint AND a.key = k.key)
"""  # noqa: S608  our own text
_SHORTEN = (
    f"""
    DELETE FROM usersync.approval_keys AS k USING ({_OTHERS}) AS o
     WHERE k.approval_id = o.id
       AND (k.key NOT IN ({{missing}})
            OR EXISTS (SELECT FROM usersync.approval_keys AS a WHERE a.approval_id = %(approval)s AND a.key = k.key))
    """,  # noqa: S608  our own text
    f"""
    UPDATE usersync.approvals AS p SET (keys, checksum) =
           (SELECT count(*), COALESCE(sum(hashtextextended(key, 0)), 0) FROM usersync.approval_keys AS k WHERE k.approval_id = p.id)
     WHERE id IN (SELECT id FROM ({_OTHERS}) AS o)
    """,  # noqa: S608  our own text
    f"""
    UPDATE usersync.approvals SET status = 'withdrawn', ended_at = clock_timestamp(), ended_by = %(run)s
     WHERE keys = 0 AND id IN (SELECT id FROM ({_OTHERS}) AS o)
    """,  # noqa: S608  our own text
)
# Older ones are of no use: they are beyond any window that makes sense.
_REMOVED = """
WITH old AS (
    DELETE FROM usersync.removals WHERE stream_id = %(id)s AND removed_at < clock_timestamp() - GREATEST(%(window)s, interval '30 days')
)
INSERT INTO usersync.removals (stream_id, run_id, rows, known) VALUES (%(id)s, %(run)s, %(rows)s, %(known)s)
"""
_USED = """
UPDATE usersync.approvals SET status = 'used', ended_at = clock_timestamp(), ended_by = %(run)s, removed = %(removed)s
 WHERE id = %(approval)s
"""
_WITHDRAW = """
WITH old AS (
    SELECT id FROM usersync.approvals WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s AND status = 'waiting'
     ORDER BY id DESC OFFSET %(keep)s
), keys AS (DELETE FROM usersync.approval_keys WHERE approval_id IN (SELECT id FROM old))
UPDATE usersync.approvals SET status = 'withdrawn', ended_at = clock_timestamp(), ended_by = %(run_id)s WHERE id IN (SELECT id FROM old)
"""
