"""One run per job: a lease in the database, fenced at every checkpoint.

A session's advisory lock is wrong behind a pooler, and a lease alone is wrong too: a process frozen past its end would
write on. So each checkpoint first updates the job's row, by its epoch, in its own transaction: whoever was replaced
updates no row and rolls back. A control connection acquires, renews and releases; it does nothing that takes long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Self

import psycopg

from usersync_cli import __version__
from usersync_cli.clients.postgres import connections, errors
from usersync_cli.errors import Fenced, Stopped, Unavailable, UsersyncError, status_of
from usersync_cli.model import Database
from usersync_cli.signals import Stop
from usersync_cli.state import ledger
from usersync_cli.state.control import Control, terminate
from usersync_cli.state.takeover import Taken, Wanted, acquire

PROGRESS_SECONDS = 180.0  # without a sign of life from any server for this long, the lease is left to run out
RELEASE_SECONDS = 10.0
OUTCOME_SECONDS = 10.0  # to learn what became of a COMMIT; signals wait for it

_EXTEND = "UPDATE usersync.job_locks SET lease_until = clock_timestamp() + %(length)s WHERE job = %(job)s AND epoch = %(epoch)s"


class Lease:
    """A job that is ours; made by `hold`. Every write of the run goes through `checkpoint`."""

    def __init__(self, control: Control, wanted: Wanted, taken: Taken, stop: Stop) -> None:
        self.job = wanted.job
        self.epoch = taken.epoch
        self.run_id = taken.run_id
        self.crashed = taken.crashed  # runs before us that ended without a word; worth a warning
        self.progress: Callable[[], float] = lambda: stop.heard
        """Monotonic time of the last sign of life; the lease is not renewed for a run that hangs."""
        self._control = control
        self._stop = stop
        self._length = wanted.length
        self._margin = min(10.0, wanted.length.total_seconds() / 6)
        self._until = taken.until  # on the monotonic clock, never later than the database's own
        self._lost = False
        self._finished = False
        self._ended = threading.Event()
        self._backend: tuple[int, datetime] | None = None

    def __enter__(self) -> Self:
        threading.Thread(target=self._keep, name=f"lease of {self.job}", daemon=True).start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        verdict = self._leave(error)
        if verdict is not None and verdict is not error:
            raise verdict from error

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
        verdict = self.verdict(errors.translate(error, self._control.database, "running"))
        return verdict if isinstance(verdict, Fenced) else None

    def attach(self, tx: connections.Connection) -> None:
        """Write down the backend of a transaction that was just begun; before `checkpoint`, never inside.

        A client frozen in COPY holds its locks for ever; with this whoever takes the job over can end that transaction.
        """
        with errors.translated(self._control.database, "beginning a transaction"):
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
        with errors.translated(self._control.database, "checking that the job is still ours"):
            row = tx.execute(f"{_EXTEND} RETURNING pg_backend_pid(), now()".encode(), self._mine).fetchone()
        if row is None:
            raise self._fenced()
        self._backend = (row[0], row[1])

    def _commit(self, tx: connections.Connection) -> None:
        began = time.monotonic()
        with errors.translated(self._control.database, "committing"):
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
        """Find out what became of a COMMIT whose answer never came; returns if it was committed."""
        deadline = time.monotonic() + OUTCOME_SECONDS
        patience = time.monotonic() + 2
        outcome = None
        while outcome not in ("committed", "aborted") and time.monotonic() < deadline:
            with suppress(UsersyncError):
                ((outcome,),) = self._control.execute("SELECT pg_xact_status(%(xid)s::xid8)", {"xid": xid})
                if outcome == "in progress" and time.monotonic() > patience:
                    terminate(self._control, self._backend)  # COMMIT never reached it, and it waits
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
        """Renew the lease for its whole length; False when the job is no longer ours."""
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
        with self._control.lock, errors.translated(self._control.database, doing):
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
    control, wanted = Control(database, job), Wanted(job, lease, full)
    try:
        taken = acquire(control, wanted, stop)
    except BaseException:
        control.close()
        raise
    with Lease(control, wanted, taken, stop) as held:
        yield held
