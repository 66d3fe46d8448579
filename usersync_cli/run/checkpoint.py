"""Whether what a step does becomes true: a `Committed` checkpoint ends in COMMIT, a `Preview` in ROLLBACK.

A step does the same in a run and in a dry run: it reads, stages, compares, and does not ask which of the two it is in. What is
to stay goes through `keep`, what a dry run finds out by looking instead of writing goes through `foresee`. A target outside
PostgreSQL is given the first of these doors (`StepContext.keep`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import ParamSpec, Protocol, TypeVar

from usersync_cli.clients.postgres.connections import Connection, rollback
from usersync_cli.errors import UsersyncError
from usersync_cli.load.table import TableLoad, TablePlan
from usersync_cli.model import Change
from usersync_cli.run.context import Diff, StepResult
from usersync_cli.state.lease import Lease

P = ParamSpec("P")
T = TypeVar("T")


class Checkpoint(Protocol):
    """One run of a job, as its steps see it: the fence before a write, COMMIT after it, and the ledger.

    The order of a step: `start`; then for each transaction `attach`, staging, `transaction` with `load` and `keep` in it; then
    `end`. While a source is read, `check` is called between two blocks or pages.
    """

    @property
    def run_id(self) -> int:
        """The run's row in the ledger; 0 in a preview, which has none."""
        ...

    @property
    def outcome(self) -> str:
        """For log events, what becomes of a page: "stored" or "compared"."""
        ...

    def check(self) -> None:
        """Raises Fenced once it is known that another run has taken the job over."""
        ...

    def attach(self, tx: Connection) -> None:
        """Write down the backend of `tx`, a transaction that has just begun and is going to stage for long.

        With it, a run that takes the job over can end a transaction that is frozen in COPY. Raises Fenced.
        """
        ...

    def transaction(self, tx: Connection, done: StepResult) -> AbstractContextManager[None]:
        """The end of `tx`, a transaction that has begun: the fence, the body, then COMMIT. ROLLBACK on any error.

        From the fence to COMMIT the job's row is locked, so nothing slow belongs into the body. Afterwards `done.written` says
        that the step has left something. Raises Fenced when another run has the job; then nothing of `tx` was committed.
        A preview has no fence and always ends in ROLLBACK.
        """
        ...

    def load(self, target: TableLoad, plan: TablePlan, step: str, tx: Connection) -> None:
        """Apply `plan` to `target`, whose watchers look at it first.

        A preview reports each of its changes instead, until its reader has heard enough.
        """
        ...

    def keep(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call `write`, which leaves something behind: rows, rejects, counts, known records, a cursor, calls to a target.

        Gives what `write` gives. In a preview it is not called, and None is given.
        """
        ...

    def foresee(self, look: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """In a preview, call `look` and give what it gives: what a run finds out by writing, or keeps in tables.

        `look` may write to temporary tables and to our own memory only. In a run it is not called, and None is given.
        """
        ...

    def tell(self, changes: Iterable[Change]) -> None:
        """In a preview, report these changes, until its reader has heard enough. A run does not ask for the first of them."""
        ...

    def start(self, step: str) -> None:
        """The step begins: its row in the ledger."""
        ...

    def end(self, step: str, status: str = "ok", error: UsersyncError | None = None) -> None:
        """The step has ended: `status` is ok, partial, failed or stopped."""
        ...

    def note_streams(self, step: str, outcomes: Sequence[tuple[str, UsersyncError | None]]) -> None:
        """How each stream of the step ended, by name; "" is that of a step of tables."""
        ...

    def verdict(self, error: UsersyncError) -> UsersyncError:
        """What `error` was: Fenced, if it came of another run having taken the job over, else `error` itself."""
        ...


class Committed(Checkpoint):
    """A run that holds its job's lease: what it does stays."""

    outcome = "stored"

    def __init__(self, lease: Lease) -> None:
        self.lease = lease

    @property
    def run_id(self) -> int:
        return self.lease.run_id

    def check(self) -> None:
        self.lease.check()

    def attach(self, tx: Connection) -> None:
        self.lease.attach(tx)

    @contextmanager
    def transaction(self, tx: Connection, done: StepResult) -> Iterator[None]:
        with self.lease.checkpoint(tx):
            yield
        done.written = True

    def load(self, target: TableLoad, plan: TablePlan, step: str, tx: Connection) -> None:
        target.watch(plan, tx)
        target.apply(plan, tx)

    def keep(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        return write(*args, **kwargs)

    def foresee(self, look: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        pass

    def tell(self, changes: Iterable[Change]) -> None:
        pass

    def start(self, step: str) -> None:
        self.lease.start_step(step)

    def end(self, step: str, status: str = "ok", error: UsersyncError | None = None) -> None:
        self.lease.finish_step(step, status, error=error)

    def note_streams(self, step: str, outcomes: Sequence[tuple[str, UsersyncError | None]]) -> None:
        self.lease.note_streams(step, outcomes)

    def verdict(self, error: UsersyncError) -> UsersyncError:
        return self.lease.verdict(error)


class Preview(Checkpoint):
    """A dry run: it writes nothing that outlives a transaction, and reports what a run would do to `diff`, if there is one."""

    run_id = 0
    outcome = "compared"

    def __init__(self, diff: Diff | None = None) -> None:
        self._diff = diff

    def check(self) -> None:
        pass

    def attach(self, tx: Connection) -> None:
        pass

    @contextmanager
    def transaction(self, tx: Connection, done: StepResult) -> Iterator[None]:
        try:
            yield
        finally:
            rollback(tx)

    def load(self, target: TableLoad, plan: TablePlan, step: str, tx: Connection) -> None:
        target.watch(plan, tx)
        self.tell(target.changes(plan, step, tx))

    def keep(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        pass

    def foresee(self, look: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        return look(*args, **kwargs)

    def tell(self, changes: Iterable[Change]) -> None:
        if self._diff is None:
            return
        with closing(_generated(changes)) as each:
            all(map(self._diff, each))

    def start(self, step: str) -> None:
        pass

    def end(self, step: str, status: str = "ok", error: UsersyncError | None = None) -> None:
        pass

    def note_streams(self, step: str, outcomes: Sequence[tuple[str, UsersyncError | None]]) -> None:
        pass

    def verdict(self, error: UsersyncError) -> UsersyncError:
        return error


def _generated(changes: Iterable[Change]) -> Generator[Change, None, None]:
    """Closing a generator that is behind closes its cursor in the server too."""
    yield from changes
