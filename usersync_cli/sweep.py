"""Who has left the source: candidates from a complete reading, the guard, approvals, and the memory of who was seen.

A row is a candidate only when this step has seen its key at the source before, and a complete reading lacks it now. The
guard looks at the numbers; what it stops waits as a list that a person approves whole, once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from usersync_cli import state
from usersync_cli.connections import Connection, as_user, identifier
from usersync_cli.errors import Conflict, Drift, GuardRefused, NotFound, VerificationFailed
from usersync_cli.merge import CHANGES, Merge, Outcome, key_text, texts
from usersync_cli.model import Load

GONE = sql.SQL("pg_temp.usersync_gone")  # key text: the candidates
_PRESENT = sql.SQL("pg_temp.usersync_present")
ALWAYS = 10  # rows that may go without a question, as long as they are not more than half
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


@dataclass(frozen=True)
class Memory:
    """What `seen` holds for a step: how many keys, and a checksum that tells one set of keys from another."""

    id: int = 0
    keys: int = 0
    checksum: int = 0
    adopted: bool = False
    previous: int | None = None  # records of the last sweep that was accepted


@dataclass
class Sweep:
    """The end of one complete reading. `candidates` rows stand in GONE; `refusal` says why they stay."""

    scope: Scope
    load: Load
    memory: Memory
    records: int
    inserted: int = 0
    candidates: int = 0
    removable: int = 0  # of them, those that go in this run
    approval: int | None = None  # the list that allows it
    refusal: GuardRefused | None = None
    looked: bool = field(default=False, repr=False)  # GONE exists
    reason: str = ""


def remember(tx: Connection, scope: Scope) -> Memory:
    """What is known of this step. Keys of another table or other key columns mean nothing any more and are forgotten."""
    write = scope.run_id is not None
    if not write and state.current(tx) != state.VERSION:
        return Memory()
    values = vars(scope)
    found = tx.execute(_LOOK, values).fetchone()
    if found is None or found[4] != scope.target:
        if not write:
            return Memory()
        if found is not None:
            tx.execute("DELETE FROM usersync.seen_streams WHERE id = %s", (found[0],))
        ((id_,),) = tx.execute(_BEGIN, values).fetchall()
        return Memory(id_)
    return Memory(found[0], found[1], int(found[2]), found[3], found[5])


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
        SELECT {key} AS key FROM {table} AS t
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
    """Why these may not go without a person; "" when they may."""
    allowed = min(max(ALWAYS, int(found.load.max_missing * known)), known // 2)
    if not found.records:
        return "the source is empty"
    if found.memory.previous is not None and found.records * 2 < found.memory.previous:
        return f"the source has {found.records:,} records, less than half of the {found.memory.previous:,} before"
    if found.candidates > allowed:
        return f"{found.candidates:,} of {known:,} rows would go, and {allowed:,} may without a person"
    return ""


def decide(tx: Connection, found: Sweep, approved: int | None) -> None:
    """What of the candidates goes: all of them, those on the approved list, or none, and then `refusal` says why.

    An approved list lets exactly its own rows go, as far as they are still candidates; the others wait for the next run.
    """
    if approved is not None and (row := _waiting(tx, found, approved)) is not None:
        found.approval = row
        if found.looked:
            listed = sql.SQL("SELECT key FROM usersync.approval_keys WHERE approval_id = {}").format(sql.Literal(row))
            found.removable = _number(tx, sql.SQL("SELECT count(*) FROM {} WHERE key IN ({})").format(GONE, listed))
        else:
            found.removable = 0
    elif found.reason:
        found.removable = 0
        listed_by = _list_for_approval(tx, found)
        job = found.scope.job
        found.refusal = GuardRefused(
            f"{found.reason}; nobody was removed",
            hint=f"usersync approvals show {listed_by} lists them; if they may go:"
            f" usersync run --job {job} --approve-deletes {listed_by}{'' if found.records else ' --allow-empty'}"
            if listed_by
            else "a run makes the list that can be approved",
        )


def remove(tx: Connection, found: Sweep, merge: Merge) -> None:
    """Delete or mark those that may go. Raises VerificationFailed when a trigger or rule keeps them."""
    if not found.removable:
        return
    here = sql.SQL("{} OPERATOR(pg_catalog.=) g.key {}").format(key_text(found.load.key), _listed(found))
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


def stays(found: Sweep) -> sql.Composable:
    """Of t, a row of the table: `remove` does not take it."""
    if not found.removable:
        return sql.SQL("true")
    return sql.SQL("NOT EXISTS (SELECT FROM {} AS g WHERE g.key = {} {})").format(GONE, key_text(found.load.key), _listed(found))


def leaving(found: Sweep, merge: Merge) -> sql.Composed:
    """Key and loaded values, as arrays of text, of each row that `remove` takes; by key."""
    keys = [identifier(name) for name in merge.key]
    return sql.SQL("SELECT {}, {} FROM {} AS t JOIN {} AS g ON g.key = {} {} ORDER BY {}").format(
        texts("t", keys),
        texts("t", [f.column for f in merge.fields]),
        merge.table,
        GONE,
        key_text(merge.key),
        _listed(found),
        sql.SQL(", ").join(sql.SQL("t.{}").format(name) for name in keys),
    )


def _listed(found: Sweep) -> sql.Composable:
    """And g is on the list that was approved, if there is one."""
    if found.approval is None:
        return sql.SQL("")
    return sql.SQL(
        "AND EXISTS (SELECT FROM usersync.approval_keys AS a"
        " WHERE a.approval_id OPERATOR(pg_catalog.=) {} AND a.key OPERATOR(pg_catalog.=) g.key)"
    ).format(sql.Literal(found.approval))


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
            stays: sql.Composable = sql.SQL("")
            if found.approval is not None:
                stays = sql.SQL("WHERE g.key NOT IN (SELECT key FROM usersync.approval_keys WHERE approval_id = {})").format(
                    sql.Literal(found.approval)
                )
            tx.execute(sql.SQL("INSERT INTO {} SELECT g.key FROM {} AS g {}").format(_PRESENT, GONE, stays))
        _equal_seen(tx, id_, found)
        tx.execute(sql.SQL("DROP TABLE {}").format(_PRESENT))
    if found.removable and not merge.marks:
        _check_the_rest(tx, found, merge)
    settle(tx, found)
    note(tx, found)


def settle(tx: Connection, found: Sweep, *, withdraw: bool = True) -> None:
    """The list that was approved is used now; one that nobody needs any more is withdrawn."""
    if found.approval is not None:
        tx.execute(_USED, {"id": found.approval, "run": found.scope.run_id, "removed": found.removable})
    elif found.refusal is None and withdraw:
        tx.execute(_WITHDRAW, {**vars(found.scope), "keep": 0})


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


def approvals(connection: state.Connection, *, job: str | None = None, run_id: int | None = None, waiting: bool = False) -> list[Approval]:
    """Lists by run, newest first. Empty too where usersync's tables are not there yet."""
    if (state.current(connection) or "") < "0002":
        return []
    rows = connection.execute(_APPROVALS, {"job": job, "run": run_id, "waiting": waiting}).fetchall()
    return [Approval(*row) for row in rows]


def approval_keys(connection: state.Connection, approval: Approval) -> list[str]:
    """The keys of a list, sorted; a list that was withdrawn has lost them."""
    query = "SELECT key FROM usersync.approval_keys WHERE approval_id = %s ORDER BY key"
    return [key for (key,) in connection.execute(query, (approval.id,)).fetchall()]


def check_approval(connection: state.Connection, job: str, run_id: int) -> None:
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
    sums = tx.execute(sql.SQL("SELECT count(*), COALESCE(sum(hashtextextended(key, 0)), 0) FROM {}").format(GONE)).fetchone()
    keys, checksum = sums or (0, 0)
    same = tx.execute(_SAME, {**vars(scope), "keys": keys, "checksum": checksum}).fetchone()
    if same or scope.run_id is None:
        return int(same[0]) if same else None
    tx.execute(_WITHDRAW, {**vars(scope), "keep": KEPT_LISTS - 1})
    ((id_,),) = tx.execute(_LIST, {**vars(scope), "reason": found.reason, "keys": keys, "checksum": checksum}).fetchall()
    tx.execute(
        sql.SQL("INSERT INTO usersync.approval_keys (approval_id, key) SELECT DISTINCT {}::bigint, key FROM {}").format(
            sql.Literal(id_), GONE
        )
    )
    return scope.run_id


def _number(tx: Connection, query: sql.Composed) -> int:
    (number,) = tx.execute(query).fetchone() or (0,)
    return int(number)


_LOOK = """
SELECT id, keys, checksum, adopted, target,
       (SELECT records FROM usersync.sweeps w WHERE w.stream_id = s.id AND w.outcome IN ('ok', 'approved') ORDER BY w.id DESC LIMIT 1)
  FROM usersync.seen_streams s WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s
"""
_BEGIN = """
INSERT INTO usersync.seen_streams (job, step, stream, target, fingerprint)
VALUES (%(job)s, %(step)s, %(stream)s, %(target)s, %(fingerprint)s) RETURNING id
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
SELECT id, run_id, job, step, stream, status, reason, keys, created_at, ended_by FROM usersync.approvals
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
_USED = """
UPDATE usersync.approvals SET status = 'used', ended_at = clock_timestamp(), ended_by = %(run)s, removed = %(removed)s WHERE id = %(id)s
"""
_WITHDRAW = """
WITH old AS (
    SELECT id FROM usersync.approvals WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s AND status = 'waiting'
     ORDER BY id DESC OFFSET %(keep)s
), keys AS (DELETE FROM usersync.approval_keys WHERE approval_id IN (SELECT id FROM old))
UPDATE usersync.approvals SET status = 'withdrawn', ended_at = clock_timestamp(), ended_by = %(run_id)s WHERE id IN (SELECT id FROM old)
"""
