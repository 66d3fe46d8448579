"""One run per job: a lease in the database, fenced at every checkpoint.

A session's advisory lock is wrong behind a pooler, and a lease alone is wrong too: a process frozen past its end would
write on. So each checkpoint first updates the job's row, by its epoch, in its own transaction: whoever was replaced
updates no row and rolls back. A control connection acquires, renews and releases; it does nothing that takes long.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors

from usersync_cli import __version__
from usersync_cli.clients.postgres import connections
from usersync_cli.errors import Busy, Fenced, Stopped, Unavailable, UsersyncError, status_of
from usersync_cli.model import Database
from usersync_cli.signals import Stop
from usersync_cli.state import ledger

SILENCE_SECONDS = 8.0  # a short statement that takes longer than this will not be answered
PROGRESS_SECONDS = 180.0  # without a sign of life from any server for this long, the lease is left to run out
RELEASE_SECONDS = 10.0
LOCK_SECONDS = 5.0  # for a job's row that is locked: its owner is in a checkpoint
OUTCOME_SECONDS = 10.0  # to learn what became of a COMMIT; signals wait for it


@dataclass(frozen=True)
class Owner:
    """Which process holds a job, told apart from a later one with the same pid and from one in another container."""

    host: str
    pid: int
    started: str = ""  # in the kernel's ticks since boot; empty where there is no /proc
    boot: str = ""
    pids: int = 0  # inode of the namespace that the pid is counted in

    @classmethod
    def me(cls) -> Owner:
        pid = os.getpid()
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return cls(socket.gethostname(), pid, _process(pid)[1], boot, Path("/proc/self/ns/pid").stat().st_ino)
        return cls(socket.gethostname(), pid)

    @classmethod
    def parse(cls, text: str) -> Owner:
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return cls("an unknown host", 0)

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}"

    def dead(self) -> bool:
        """Whether this process is known to have ended: only if it ran here, under the kernel and namespace that we see."""
        me = Owner.me()
        if not self.boot or (self.host, self.boot, self.pids) != (me.host, me.boot, me.pids):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        with suppress(OSError):
            status, started = _process(self.pid)
            return status in "ZX" or started != self.started
        return False


def _process(pid: int) -> tuple[str, str]:
    """State and start of a process (proc(5), fields 3 and 22; the name before them may hold blanks and brackets)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return after_name[0], after_name[19]


class _Control:
    """The control connection: one caller at a time, each statement with a deadline, a new connection when the old one broke.

    Whatever goes through `execute` may be sent twice, so it has to do the same twice as once.
    """

    def __init__(self, database: Database, job: str) -> None:
        self.database = database
        self.lock = threading.RLock()
        self._job = job
        self._connection: connections.Connection | None = None

    def connection(self, stop: Stop | None = None) -> connections.Connection:
        """`stop` may interrupt, also while a new connection is made: only where nothing is held yet."""
        if self._connection is None or self._connection.closed:
            self._connection = connections.connect(self.database, job=self._job, stop=stop, read_write=True)
            self._connection.silence_seconds = SILENCE_SECONDS
            self._connection.alive = self._silent
        return self._connection

    def _silent(self) -> None:
        raise Unavailable(
            f"{self.database.name}: no answer for {SILENCE_SECONDS:.0f} s on the connection that keeps the job's lease",
            hint="is there a pooler? A run needs two connections to its target at once, and one to each source: fewer wait for one another",
        )

    def execute(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with self.lock, ledger.permitted(self.connection(), self.database, "keeping the job's lease and its ledger"):
            try:
                return self._rows(statement, values)
            except psycopg.OperationalError:
                if not self.connection_lost:
                    raise
            return self._rows(statement, values)

    @property
    def connection_lost(self) -> bool:
        return self._connection is None or self._connection.closed

    def _rows(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        cursor = self.connection().execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        if self._connection:
            self._connection.close()


_EXTEND = "UPDATE usersync.job_locks SET lease_until = clock_timestamp() + %(length)s WHERE job = %(job)s AND epoch = %(epoch)s"


class Lease:
    """A job that is ours; made by `hold`. Every write of the run goes through `checkpoint`."""

    def __init__(self, control: _Control, job: str, length: timedelta, stop: Stop) -> None:
        self.job = job
        self.epoch = 0
        self.run_id = 0
        self.crashed = 0  # runs before us that ended without a word; worth a warning
        self.progress: Callable[[], float] = lambda: stop.heard
        """Monotonic time of the last sign of life; the lease is not renewed for a run that hangs."""
        self._control = control
        self._stop = stop
        self._length = length
        self._margin = min(10.0, length.total_seconds() / 6)
        self._until = 0.0  # on the monotonic clock, never later than the database's own
        self._lost = False
        self._finished = False
        self._ended = threading.Event()
        self._backend: tuple[int, datetime] | None = None

    @property
    def _mine(self) -> dict[str, Any]:
        return {"job": self.job, "epoch": self.epoch, "length": self._length, "run": self.run_id}

    def check(self) -> None:
        """Raises Fenced once it is known that another run has the job."""
        if self._lost:
            raise self._fenced()

    def _fenced(self) -> Fenced:
        self._lost = True
        return Fenced(
            f"{self.job}: another run took the job over; what this one had not committed was rolled back",
            hint="nothing is to be done: the other run does the work. Frozen or cut off? A longer lease helps",
        )

    def verdict(self, error: UsersyncError) -> UsersyncError:
        """Fenced if the job has gone to another run, else the error itself: who takes over cuts our connections."""
        if isinstance(error, Fenced | Stopped):
            return error
        statement = "SELECT 1 FROM usersync.job_locks WHERE job = %(job)s AND epoch = %(epoch)s"
        try:
            held = bool(self._control.execute(statement, self._mine))
        except UsersyncError:
            return error
        return error if held else self._fenced()

    def _fenced_behind(self, error: BaseException | None) -> UsersyncError | None:
        """Fenced, when that is why psycopg lost a connection that nobody was translating."""
        if not isinstance(error, psycopg.OperationalError):
            return None
        verdict = self.verdict(connections.translate(error, self._control.database, "running"))
        return verdict if isinstance(verdict, Fenced) else None

    def attach(self, tx: connections.Connection) -> None:
        """Write down the backend of a transaction that was just begun; before `checkpoint`, never inside.

        A client frozen in COPY holds its locks for ever; with this whoever takes the job over can end that transaction.
        """
        with connections.translated(self._control.database, "beginning a transaction"):
            self._backend = tx.execute("SELECT pg_backend_pid(), now()").fetchone()
        pid, begun = self._backend  # type: ignore[misc]
        found = self._control.execute(
            "UPDATE usersync.job_locks SET backend_pid = %(pid)s, backend_xact_start = %(begun)s"
            " WHERE job = %(job)s AND epoch = %(epoch)s RETURNING 1",
            {**self._mine, "pid": pid, "begun": begun},
        )
        if not found:
            raise self._fenced()

    @contextmanager
    def checkpoint(self, tx: connections.Connection) -> Iterator[None]:
        """The end of a transaction that stage has begun: fence, whatever the body does, COMMIT; ROLLBACK on any error.

        The job's row is ours from the fence to COMMIT, so renewing pauses. Raises Fenced if the job has gone to another.
        When the connection drops in COMMIT the server is asked what became of it: committed is fine, and then `tx` is
        closed; anything else raises Unavailable.
        """
        with self._control.lock:
            try:
                self._fence(tx)
                yield
                self._commit(tx)
            except BaseException:
                connections.rollback(tx)
                raise

    def _fence(self, tx: connections.Connection) -> None:
        self.check()
        if time.monotonic() > self._until - self._margin and not self._renew():
            raise self._fenced()
        with connections.translated(self._control.database, "checking that the job is still ours"):
            row = tx.execute(f"{_EXTEND} RETURNING pg_backend_pid(), now()".encode(), self._mine).fetchone()
        if row is None:
            raise self._fenced()
        self._backend = (row[0], row[1])

    def _commit(self, tx: connections.Connection) -> None:
        began = time.monotonic()
        with connections.translated(self._control.database, "committing"):
            # Again, because a merge may outlast a lease, and COMMIT must not hand an expired one to who waits for the row.
            row = tx.execute(f"{_EXTEND} RETURNING pg_current_xact_id()::text".encode(), self._mine).fetchone()
            if row is None:
                raise self._fenced()
            with self._stop.held():
                try:
                    tx.execute("COMMIT")
                except (psycopg.Error, Unavailable) as error:
                    if not tx.closed:
                        raise
                    self._settle(row[0], error)
        self._until = began + self._length.total_seconds()

    def _settle(self, xid: str, error: Exception) -> None:
        """What became of a COMMIT whose answer never came; returns if it was committed."""
        deadline = time.monotonic() + OUTCOME_SECONDS
        patience = time.monotonic() + 2
        outcome = None
        while outcome not in ("committed", "aborted") and time.monotonic() < deadline:
            with suppress(UsersyncError):
                ((outcome,),) = self._control.execute("SELECT pg_xact_status(%(xid)s::xid8)", {"xid": xid})
                if outcome == "in progress" and time.monotonic() > patience:
                    _terminate(self._control, self._backend)  # COMMIT never reached it, and it waits
            time.sleep(0.1)
        if outcome == "committed":
            return
        where = f"{self._control.database.name}: the connection was lost in COMMIT"
        if outcome == "aborted":
            raise Unavailable(f"{where}; the checkpoint was rolled back", hint="nothing was lost; the next run tries again") from error
        raise Unavailable(
            f"{where}, and the server could not be asked whether it arrived",
            hint="the rows and their cursor were committed together or not at all; the next run goes on from the cursor it finds",
        ) from error

    def _renew(self) -> bool:
        """Whether the job is still ours; then for another whole lease."""
        began = time.monotonic()
        if not self._control.execute(f"{_EXTEND} RETURNING 1", self._mine):
            self._lost = True
            return False
        self._until = began + self._length.total_seconds()
        return True

    def _keep(self) -> None:
        """The thread that renews. Where the lock is taken, a checkpoint is under way, which renews by itself."""
        while not self._lost and not self._ended.wait(self._length.total_seconds() / 4):
            if self._wanted() and self._control.lock.acquire(blocking=False):
                try:
                    with suppress(UsersyncError):  # it tries again; the fence decides
                        self._renew()
                finally:
                    self._control.lock.release()

    def _wanted(self) -> bool:
        try:
            self._stop.check()
        except Stopped:
            pass  # the run is about to end, and what it still commits needs the lease
        except UsersyncError:
            return False
        return time.monotonic() - self.progress() < PROGRESS_SECONDS

    def start_step(self, step: str) -> None:
        """The step's row in the ledger; its counts come with its checkpoints (`ledger.count`)."""
        statement = "INSERT INTO usersync.run_steps (run_id, step, status) VALUES (%(run)s, %(step)s, 'running') ON CONFLICT DO NOTHING"
        self._control.execute(statement, {**self._mine, "step": step})

    def finish_step(self, step: str, status: str, *, error: UsersyncError | None = None) -> None:
        """How a step ended, when that is not part of its last checkpoint: ok, partial, failed or stopped."""
        self._control.execute(
            "UPDATE usersync.run_steps SET status = %(status)s, error = %(error)s, finished_at = clock_timestamp()"
            " WHERE run_id = %(run)s AND step = %(step)s",
            {**self._mine, "step": step, "status": status, "error": error.message if error else None},
        )

    def note_streams(self, step: str, outcomes: Sequence[tuple[str, UsersyncError | None]]) -> None:
        """How each stream of a step ended; "" for a step of tables. What was noted of others in earlier runs stays true."""
        errors_ = [error for _, error in outcomes]
        self._control.execute(
            "INSERT INTO usersync.run_streams (run_id, step, stream, exit_status, error, error_hint)"
            " SELECT %(run)s, %(step)s, s.stream, s.exit_status, s.error, s.hint"
            " FROM unnest(%(streams)s::text[], %(statuses)s::integer[], %(errors)s::text[], %(hints)s::text[])"
            " AS s(stream, exit_status, error, hint) ON CONFLICT DO NOTHING",
            {
                **self._mine,
                "step": step,
                "streams": [stream for stream, _ in outcomes],
                "statuses": [status_of(error) if error else 0 for error in errors_],
                "errors": [error.message if error else None for error in errors_],
                "hints": [(error.hint or None) if error else None for error in errors_],
            },
        )

    def finish(self, *, exit_status: int, summary: str = "", error: UsersyncError | None = None) -> None:
        """How the run ended; a run that another one has marked as crashed stays so. Forgets runs of long ago."""
        self._finished = True
        values = {
            **self._mine, "exit": exit_status, "status": word(exit_status), "summary": summary or None, "version": __version__,
            "error": error.message if error else None, "hint": (error.hint or None) if error else None,
        }  # fmt: skip
        self._control.execute(
            "UPDATE usersync.runs SET status = %(status)s, exit_status = %(exit)s, finished_at = clock_timestamp(), summary = %(summary)s,"
            " error = %(error)s, error_hint = %(hint)s WHERE id = %(run)s AND status = 'running'",
            values,
        )
        self._control.execute(
            "UPDATE usersync.run_steps SET status = CASE %(status)s WHEN 'stopped' THEN 'stopped' ELSE 'failed' END,"
            " finished_at = clock_timestamp() WHERE run_id = %(run)s AND status = 'running'",
            values,
        )
        with self.ledger("forgetting old runs") as connection:
            ledger.prune(connection, self.job)

    @contextmanager
    def ledger(self, doing: str) -> Iterator[connections.Connection]:
        """The connection that keeps the lease, for a few small statements; no others are sent meanwhile."""
        with self._control.lock, connections.translated(self._control.database, doing):
            yield self._control.connection()

    def failing(self) -> tuple[datetime, int] | None:
        """Since when the job has not ended well any more, and in how many runs, after `finish`; None when it did, or nobody can tell."""
        query = (
            "SELECT min(started_at), count(*) FROM usersync.runs WHERE job = %(job)s AND status <> 'running'"
            " AND id > coalesce((SELECT max(id) FROM usersync.runs WHERE job = %(job)s AND status = 'ok'), 0)"
        )
        try:
            ((since, runs),) = self._control.execute(query, self._mine)
        except UsersyncError:
            return None
        return (since, runs) if runs else None

    def _leave(self, error: BaseException | None) -> UsersyncError | None:
        """Release, whatever happened; gives the verdict on an error of ours.

        A server that does not answer must not keep us, so this is done on a thread, with a limit.
        """
        self._ended.set()
        said: list[UsersyncError] = []
        leaver = threading.Thread(target=self._release, args=(error, said), daemon=True)
        leaver.start()
        leaver.join(RELEASE_SECONDS)
        return said[0] if said else None

    def _release(self, error: BaseException | None, said: list[UsersyncError]) -> None:
        ours = self.verdict(error) if isinstance(error, UsersyncError) else self._fenced_behind(error)
        if ours:
            error = ours
            said.append(ours)
        with suppress(UsersyncError, psycopg.Error):
            if not self._finished:
                self.finish(exit_status=status_of(error) if error else 0, error=ours)
        with suppress(UsersyncError, psycopg.Error):
            self._control.execute(
                "UPDATE usersync.job_locks SET owner = NULL, lease_until = NULL, backend_pid = NULL, backend_xact_start = NULL"
                " WHERE job = %(job)s AND epoch = %(epoch)s",
                self._mine,
            )
        self._control.close()


def word(exit_status: int) -> str:
    """The ledger's word for an exit status."""
    return {0: "ok", 3: "partial", 129: "stopped", 130: "stopped", 143: "stopped"}.get(exit_status, "failed")


@contextmanager
def hold(database: Database, job: str, *, lease: timedelta, stop: Stop, full: bool = False) -> Iterator[Lease]:
    """The job, for as long as the body runs; a thread renews it, leaving releases it on any outcome.

    Upgrades usersync's tables where needed. Raises Busy when another run holds the job. The lease of an owner that is
    known to be dead is taken at once, another's when it has run out; what their transaction still does is ended. A run
    that did not say how it ended (`Lease.finish`) ends as its exception says.
    """
    control = _Control(database, job)
    held = Lease(control, job, lease, stop)
    try:
        _acquire(control, held, stop, full=full)
    except BaseException:
        control.close()
        raise
    threading.Thread(target=held._keep, name=f"lease of {job}", daemon=True).start()  # noqa: SLF001  its other half
    try:
        yield held
    except BaseException as error:
        verdict = held._leave(error)  # noqa: SLF001
        if verdict is None or verdict is error:
            raise
        raise verdict from error
    held._leave(None)  # noqa: SLF001


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


def _acquire(control: _Control, held: Lease, stop: Stop, *, full: bool) -> None:
    connection = control.connection(stop)
    ledger.ready(connection, control.database, held.job)
    with ledger.permitted(connection, control.database, "taking the job"):
        connection.execute(_ROW.encode(), {"job": held.job})
        holder = _look(connection, held.job)
        if holder.owner and holder.owner.dead():  # killed in a checkpoint, it may still lock the row
            _terminate(control, holder.backend)
        try:
            before = _take(connection, held, full=full)
        except errors.LockNotAvailable:
            _unlock(control, held)
            before = _take(connection, held, full=full)
        connection.stop = None
    if before.owner:
        _terminate(control, before.backend)


def _unlock(control: _Control, held: Lease) -> None:
    """The job's row is locked: its owner is in a checkpoint, has died in one and the server has not noticed yet, or is frozen.

    Who is alive says its next word to the server long before a lease is over: a merge may take hours, but meanwhile the
    server is at work, not waiting. Raises Busy unless the transaction was ended.
    """
    row, job = _look(control.connection(), held.job), held.job
    found = control.execute(_HOLDER, {"job": job})
    holder = _Holder(*found[0]) if found else None
    dead, backend = row.owner is not None and row.owner.dead(), row.backend
    if holder and holder.ours and holder.begun and (dead or _is_frozen(holder, held)):
        backend = holder.pid, holder.begun
    elif not dead:
        raise _busy(job, row, holder)
    if not _terminate(control, backend):
        raise _busy(job, row, holder)


def _is_frozen(holder: _Holder, held: Lease) -> bool:
    return holder.idle and holder.seconds is not None and holder.seconds > held._length.total_seconds()  # noqa: SLF001


def _take(connection: connections.Connection, held: Lease, *, full: bool) -> _Row:
    """Lock the job's row, take it, begin the run's own row: one transaction. Gives what was there before."""
    began = time.monotonic()
    values = {"job": held.job, "length": held._length, "me": json.dumps(asdict(Owner.me())), "version": __version__, "full": full}  # noqa: SLF001
    with connections.transaction(connection, lock_timeout=f"{LOCK_SECONDS:.0f}s"):
        before = _look(connection, held.job, lock=True)
        values["dead"] = before.owner is not None and before.owner.dead()
        row = connection.execute(_TAKE, values).fetchone()
        if row is None:
            raise _busy(held.job, before)
        held.epoch = values["epoch"] = row[0]
        held.crashed = connection.execute(_CRASHED, values).rowcount
        ((held.run_id,),) = connection.execute(_BEGIN, values).fetchall()
    held._until = began + held._length.total_seconds()  # noqa: SLF001
    return before


def _look(connection: connections.Connection, job: str, *, lock: bool = False) -> _Row:
    query = _LOOK + (" FOR UPDATE" if lock else "")
    row = connection.execute(query.encode(), {"job": job}).fetchone()
    owner, until, pid, begun, since, now = row or (None,) * 6
    return _Row(Owner.parse(owner) if owner else None, until, (pid, begun) if pid else None, since, now)


def _terminate(control: _Control, backend: tuple[int, datetime] | None) -> bool:
    """End that one transaction and no later one of the same backend; whether it was there. Needs no more than being the same role."""
    if backend is None:
        return False
    statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %(pid)s AND xact_start = %(begun)s"
    with suppress(UsersyncError):
        return bool(control.execute(statement, {"pid": backend[0], "begun": backend[1]}))
    return False


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
