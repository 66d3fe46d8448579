"""Lists of rows that the guard on deletes did not let go: they wait until a person approves one, or they are withdrawn.

A list is approved whole, once, by the run that made it (`--approve-deletes`). The statements that compare a list with the rows
that are missing now are given a SELECT of their keys (`missing`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import Conflict, Drift, GuardRefused, NotFound
from usersync_cli.state import ledger
from usersync_cli.state.readings import Scope

KEPT_LISTS = 3  # waiting lists of a step; older ones are withdrawn


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
        """The table, or target, whose rows the list has."""
        return self.target.rpartition(" (")[0] or self.target


def lists(connection: ledger.Connection, *, job: str | None = None, run_id: int | None = None, waiting: bool = False) -> list[Approval]:
    """Lists by run, newest first. Empty too where usersync's tables are not there yet."""
    if (ledger.current(connection) or "") < "0002":
        return []
    rows = connection.execute(_APPROVALS, {"job": job, "run": run_id, "waiting": waiting}).fetchall()
    return [Approval(*row) for row in rows]


def keys(connection: ledger.Connection, approval: Approval) -> list[str]:
    """The keys of a list, sorted; a list that was withdrawn has lost them."""
    query = "SELECT key FROM usersync.approval_keys WHERE approval_id = %s ORDER BY key"
    return [key for (key,) in connection.execute(query, (approval.id,)).fetchall()]


def check(connection: ledger.Connection, job: str, run_id: int) -> None:
    """Raises NotFound for a run that has no list for this job, Conflict for a list that was used or withdrawn."""
    found = lists(connection, run_id=run_id)
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


def standing(connection: Connection, job: str, step: str, streams: Collection[str] = ()) -> list[GuardRefused]:
    """Refusals of lists of this step that wait, without those of these streams: the run did not look at what the others hold."""
    found = [one for one in lists(connection, job=job, waiting=True) if one.step == step and one.stream not in streams]
    newest = {one.stream: one for one in reversed(found)}
    return [
        GuardRefused(
            f"step {step}: {f'stream {one.stream}, ' if one.stream else ''}table {one.table}: {one.reason}; nobody was removed",
            hint=how(job, one.run_id),
        )
        for one in newest.values()
    ]


def how(job: str, run_id: int, more: str = "") -> str:
    """What to type to see the list of a run, and to let its rows go."""
    return f"usersync approvals show {run_id} lists them; if they may go: usersync run --job {job} --approve-deletes {run_id}{more}"


# in the transaction of the rows


def find(tx: Connection, scope: Scope, run_id: int) -> int | None:
    """The list of that run for this step, locked, if it still waits and means the same table. Raises Drift for another table."""
    row = tx.execute(_WAITING, {**vars(scope), "approved": run_id}).fetchone()
    if row and row[1] != scope.target:
        raise Drift(
            f"the list of run {run_id} was made for {row[1]}; the step loads {scope.target} now",
            hint="run without --approve-deletes",
        )
    return int(row[0]) if row else None


def newest(tx: Connection, scope: Scope, approval: int | None) -> int | None:
    """The run whose list waits, in addition to the list `approval` that is approved now."""
    row = tx.execute(_NEWEST, {**vars(scope), "approval": approval}).fetchone()
    return int(row[0]) if row else None


def still_missing(
    tx: Connection, scope: Scope, approval: int | None, missing: sql.Composable, values: Mapping[str, Any]
) -> tuple[int, int]:
    """How many rows of lists that wait are missing, without those on the list `approval`; and the newest run that kept them."""
    row = tx.execute(sql.SQL(_KEPT).format(missing=missing), {**vars(scope), "approval": approval, **values}).fetchone()
    number, run_id = row or (0, None)
    return int(number), int(run_id or 0)


def wait(tx: Connection, scope: Scope, reason: str, missing: sql.Composable) -> int | None:
    """The run whose list a person can approve: the newest waiting one if it has just these keys, else a new list of this run.

    A dry run makes none: None, unless there is one already.
    """
    listed = sql.SQL("SELECT count(*), COALESCE(sum(hashtextextended(key, 0)), 0) FROM ({}) AS m(key)")
    number, checksum = tx.execute(listed.format(missing)).fetchone() or (0, 0)
    same = tx.execute(_SAME, {**vars(scope), "keys": number, "checksum": checksum}).fetchone()
    if same or not scope.run_id:
        return int(same[0]) if same else None
    withdraw(tx, scope, keep=KEPT_LISTS - 1)
    ((id_,),) = tx.execute(_LIST, {**vars(scope), "reason": reason, "keys": number, "checksum": checksum}).fetchall()
    tx.execute(
        sql.SQL("INSERT INTO usersync.approval_keys (approval_id, key) SELECT DISTINCT {}::bigint, key FROM ({}) AS m(key)").format(
            sql.Literal(id_), missing
        )
    )
    return scope.run_id


def use(tx: Connection, scope: Scope, approval: int, removed: int, missing: sql.Composable) -> None:
    """Mark the approved list as used, and take its rows, and those that are not `missing`, from the lists that wait."""
    values = {**vars(scope), "run": scope.run_id, "approval": approval}
    tx.execute(_USED, {**values, "removed": removed})
    for statement in _SHORTEN:
        tx.execute(sql.SQL(statement).format(missing=missing), values)


def withdraw(tx: Connection, scope: Scope, *, keep: int = 0) -> None:
    """Withdraw the lists of this step that wait, but for the newest `keep`."""
    tx.execute(_WITHDRAW, {**vars(scope), "keep": keep})


def withdraw_others(connection: ledger.Connection, job: str, swept: Collection[tuple[str, str]], run_id: int) -> None:
    """Withdraw lists of steps and streams that the job no longer has, or from which it removes nobody: no run could use them."""
    waiting = connection.execute("SELECT DISTINCT step, stream FROM usersync.approvals WHERE job = %s AND status = 'waiting'", (job,))
    for step, stream in set(waiting.fetchall()) - set(swept):
        connection.execute(_WITHDRAW, {"job": job, "step": step, "stream": stream, "keep": 0, "run_id": run_id})


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
