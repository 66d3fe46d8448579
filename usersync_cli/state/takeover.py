"""How a run takes a job: when nobody holds it, or from an owner that is dead, or that is frozen past its lease."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg import errors

from usersync_cli import __version__
from usersync_cli.clients.postgres import connections, transactions
from usersync_cli.clients.postgres.sql import scalar
from usersync_cli.errors import Busy
from usersync_cli.signals import Stop
from usersync_cli.state import ledger
from usersync_cli.state.control import Control, terminate
from usersync_cli.state.owner import Owner

LOCK_SECONDS = 5.0  # for a job's row that is locked: its owner is in a checkpoint


@dataclass(frozen=True)
class Wanted:
    """A job that is to be taken, for a lease of this length. `full`: the run reads everything, which its row says."""

    job: str
    length: timedelta
    full: bool = False


@dataclass(frozen=True)
class Taken:
    """A job that is ours under this epoch, and the run that has begun."""

    epoch: int
    run_id: int
    crashed: int  # runs before us that ended without a word
    until: float  # on the monotonic clock, never later than the database's own


@dataclass(frozen=True)
class _Row:
    """The job's row as the last owner left it."""

    owner: Owner | None
    lease_until: datetime | None
    backend: tuple[int, datetime] | None
    since: datetime | None
    now: datetime | None = None  # by the database's clock, which the lease is counted on


@dataclass(frozen=True)
class _Holder:
    """The transaction that has locked a job's row."""

    pid: int
    role: str
    begun: datetime | None  # None: of a role that we may not look at
    idle: bool
    seconds: float | None  # since it began its last statement, or ended it when it is idle
    ours: bool  # a connection of a run of this job, and of nobody who looks at the row by hand


_LOOK = """
SELECT owner, lease_until, backend_pid, backend_xact_start,
       (SELECT started_at FROM usersync.runs r WHERE r.job = l.job AND r.epoch = l.epoch ORDER BY id DESC LIMIT 1), clock_timestamp()
  FROM usersync.job_locks l WHERE job = %(job)s
"""
# Whoever has changed the row and not committed yet has its transaction's id in xmax.
_HOLDER = """
SELECT a.pid, a.usename::text, a.xact_start, coalesce(a.state LIKE 'idle in transaction%%', false),
       extract(epoch FROM clock_timestamp() - a.state_change)::float,
       coalesce(a.application_name = pg_catalog.current_setting('application_name'), false)
  FROM usersync.job_locks l
  JOIN pg_catalog.pg_locks k ON k.locktype = 'transactionid' AND k.transactionid = l.xmax AND k.mode = 'ExclusiveLock' AND k.granted
  JOIN pg_catalog.pg_stat_activity a ON a.pid = k.pid
 WHERE l.job = %(job)s
"""
# ON CONFLICT alone would wait for whoever is in a checkpoint, as long as that takes.
_ROW = """
INSERT INTO usersync.job_locks (job)
SELECT %(job)s WHERE NOT EXISTS (SELECT FROM usersync.job_locks WHERE job = %(job)s) ON CONFLICT DO NOTHING
"""
_TAKE = """
UPDATE usersync.job_locks
   SET owner = %(me)s, epoch = epoch + 1, lease_until = clock_timestamp() + %(length)s, backend_pid = NULL, backend_xact_start = NULL
 WHERE job = %(job)s AND (owner IS NULL OR lease_until IS NULL OR lease_until < clock_timestamp() OR %(dead)s)
RETURNING epoch
"""
_CRASHED = """
UPDATE usersync.runs
   SET status = 'crashed', finished_at = clock_timestamp(), error = 'ended without a word, or was cut off; found by the next run'
 WHERE job = %(job)s AND status = 'running'
"""
_BEGIN = """
INSERT INTO usersync.runs (job, status, epoch, owner, usersync_version, "full")
VALUES (%(job)s, 'running', %(epoch)s, %(me)s, %(version)s, %(full)s) RETURNING id
"""


def acquire(control: Control, wanted: Wanted, stop: Stop) -> Taken:
    """Take the job, also from an owner that is known to be dead or whose lease has run out.

    Upgrades usersync's tables where needed. Raises Busy when another run holds the job.
    """
    connection = control.connection(stop)
    ledger.ready(connection, control.database, wanted.job)
    with ledger.permitted(connection, control.database, "taking the job"):
        connection.execute(_ROW.encode(), {"job": wanted.job})
        holder = _look(connection, wanted.job)
        if holder.owner and holder.owner.dead():  # killed in a checkpoint, it may still lock the row
            terminate(control, holder.backend)
        try:
            taken, before = _take(connection, wanted)
        except errors.LockNotAvailable:
            _unlock(control, wanted)
            taken, before = _take(connection, wanted)
        connection.stop = None
    if before.owner:
        terminate(control, before.backend)
    return taken


def _unlock(control: Control, wanted: Wanted) -> None:
    """The job's row is locked: its owner is in a checkpoint, has died in one and the server has not noticed yet, or is frozen.

    Who is alive says its next word to the server long before a lease is over: a merge may take hours, but meanwhile the
    server is at work, not waiting. Raises Busy unless the transaction was ended.
    """
    row, job = _look(control.connection(), wanted.job), wanted.job
    found = control.execute(_HOLDER, {"job": job})
    holder = _Holder(*found[0]) if found else None
    dead, backend = row.owner is not None and row.owner.dead(), row.backend
    if holder and holder.ours and holder.begun and (dead or _is_frozen(holder, wanted)):
        backend = holder.pid, holder.begun
    elif not dead:
        raise _busy(job, row, holder)
    if not terminate(control, backend):
        raise _busy(job, row, holder)


def _is_frozen(holder: _Holder, wanted: Wanted) -> bool:
    return holder.idle and holder.seconds is not None and holder.seconds > wanted.length.total_seconds()


def _take(connection: connections.Connection, wanted: Wanted) -> tuple[Taken, _Row]:
    """Lock the job's row, take it, begin the run's own row: one transaction. Gives what was there before, too."""
    began = time.monotonic()
    values = {"job": wanted.job, "length": wanted.length, "me": Owner.me().text(), "version": __version__, "full": wanted.full}
    with transactions.transaction(connection, lock_timeout=f"{LOCK_SECONDS:.0f}s"):
        before = _look(connection, wanted.job, lock=True)
        values["dead"] = before.owner is not None and before.owner.dead()
        row = connection.execute(_TAKE, values).fetchone()
        if row is None:
            raise _busy(wanted.job, before)
        values["epoch"] = row[0]
        crashed = connection.execute(_CRASHED, values).rowcount
        run_id = scalar(connection, _BEGIN, values)
    return Taken(row[0], run_id, crashed, began + wanted.length.total_seconds()), before


def _look(connection: connections.Connection, job: str, *, lock: bool = False) -> _Row:
    query = _LOOK + (" FOR UPDATE" if lock else "")
    row = connection.execute(query.encode(), {"job": job}).fetchone()
    owner, until, pid, begun, since, now = row or (None,) * 6
    return _Row(Owner.parse(owner) if owner else None, until, (pid, begun) if pid else None, since, now)


def _busy(job: str, row: _Row, holder: _Holder | None = None) -> Busy:
    since = f", since {_utc(row.since)}" if row.since else ""
    until = f"; its lease runs until {_utc(row.lease_until)} unless it is renewed" if row.lease_until else ""
    hint = "wait for it; if that process is gone, a run on its host takes over at once, any other when the lease has run out"
    if holder and row.lease_until and row.now and row.lease_until < row.now:
        # what it has renewed since is not committed yet
        until = f"; its transaction on the server (backend {holder.pid}) has locked the job's row"
        if holder.seconds is not None:
            until += f", {'idle' if holder.idle else 'at work'} for {holder.seconds:.0f} s"
        if holder.idle:
            hint = "wait for it; once its transaction has been idle for as long as a lease, a run takes the job over and ends it"
        elif holder.begun is None:
            hint = (
                f"it is of role {holder.role}, which this role may not look at or end, should it be frozen: run both as one role,\n"
                f"or GRANT pg_read_all_stats, pg_signal_backend TO this role; by hand: SELECT pg_terminate_backend({holder.pid})"
            )
    return Busy(f"{job}: another run holds the job: {row.owner or 'an owner that just let go'}{since}{until}", hint=hint)


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
