"""A step whose target is outside Postgres: everything is read and staged, what differs is found in SQL, then calls are made.

The plan is one transaction: the whole source, the whole target, the difference, deletes, rejects and cursor; COMMIT.
Only then is anything done at the target, without a transaction, each outcome committed after its call (`outbox`). A dry
run does the same up to the COMMIT, and rolls back.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection, connect, rollback
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.errors import PartialError, UsersyncError, status_of, worst
from usersync_cli.load import writers
from usersync_cli.load.deletes import guard
from usersync_cli.load.rejects import Limits
from usersync_cli.load.table import SETTINGS
from usersync_cli.model import Counts, Step
from usersync_cli.ports import DisablesAccounts, LeavesOut, OutboundPlan, OutboundTarget
from usersync_cli.run.checkpoint import Checkpoint
from usersync_cli.run.context import Options, RunContext, StepResult, streams
from usersync_cli.run.outbound.deletes import AccountDeletes
from usersync_cli.run.outbound.reader import WholeSource
from usersync_cli.state import ledger, outbox, rejects
from usersync_cli.state.outbox import Living, StepContext, StepScope


def run_step(step: Step, context: RunContext, options: Options, checkpoint: Checkpoint, done: StepResult) -> None:
    """Read, plan, commit, apply. What a person has to see is in `done.error`."""
    tx = connect(context.target, job=context.tools.job, stop=context.tools.stop, read_write=True)
    try:
        with ExitStack() as stack, translated(context.target, f"planning for {step.load.target}"):
            writers.refuse(tx, context.tools.job, step.name, context.writers)
            source = WholeSource(step, context, options, tx, done, stack)
            outbound = OutboundStep(step, context, options, checkpoint, tx, done, source)
            target = outbound.open(stack)
            plan = outbound.plan(target)
            checkpoint.keep(outbound.apply, target, plan)
            done.error = _worst(outbound.errors(plan))
    finally:
        rollback(tx)
        tx.close()


class OutboundStep:
    """A step whose target is outside PostgreSQL, in one run."""

    def __init__(  # noqa: PLR0913, PLR0917  all that a step is
        self,
        step: Step,
        context: RunContext,
        options: Options,
        checkpoint: Checkpoint,
        tx: Connection,
        done: StepResult,
        source: WholeSource,
    ) -> None:
        self._step, self._context, self._options, self._checkpoint = step, context, options, checkpoint
        self._tx, self._done, self._source = tx, done, source
        (stream, *_) = (*streams(step), "")
        self._scope = StepScope(context.tools.job, step.name, checkpoint.run_id, stream=stream)
        self._deletes = AccountDeletes(step, context, options, checkpoint, tx, source, self._scope)

    def open(self, stack: ExitStack) -> OutboundTarget[Any]:
        """The target; it is contacted when it plans."""
        options = self._options
        step_context = StepContext(
            self._scope,
            self._context.tools.stop,
            self._checkpoint.keep,
            living=Living([step.name for step in self._context.steps], self._context.jobs),
            check=self._checkpoint.check,
            judge=Limits(self._step.name).count,
            order_by=self._step.load.order_by,
            again=options.full or options.retry is not None,
            afresh=options.full or options.everybody,
            credentials=options.credentials_out,
        )
        return stack.enter_context(self._context.targets[self._step.load.target](step_context, self._context.tools))

    def plan(self, target: OutboundTarget[Any]) -> OutboundPlan:
        """Everything up to the COMMIT: read, compare, write the calls down."""
        begin(self._tx, long=True, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
        self._checkpoint.attach(self._tx)
        desired = self._source.read(self._moved)
        plan: OutboundPlan = target.plan(desired, self._tx)
        self._add_bad(plan.counts)
        if isinstance(target, LeavesOut):
            self._done.left_out = {**self._done.left_out, **target.left_out}
        if isinstance(target, DisablesAccounts):
            self._add_kept_out(target, plan.counts)
        self._done.counts = plan.counts
        if isinstance(target, DisablesAccounts) and self._step.load.on_missing != "keep":
            self._deletes.plan(target, plan, known=True)
            self._deletes.plan(target, plan, known=False)
        with self._checkpoint.transaction(self._tx, self._done):
            self._checkpoint.tell(target.changes(self._step.name, self._tx))
            self._checkpoint.keep(self._record)
        return plan

    def _moved(self, size: int) -> None:
        self._context.tools.stop.check()
        self._checkpoint.check()
        self._context.progress(self._source.stream or self._step.name, size)

    def _add_bad(self, counts: Counts) -> None:
        """Records that no transform has seen."""
        counts.read += len(self._source.bad)
        counts.rejected += len(self._source.bad)
        job, step, bad = self._context.tools.job, self._step.name, self._source.bad
        before = rejects.stored(self._tx, job, step, self._source.stream, bad)
        limits = Limits(step, job=job)
        limits.add(counts.distinct - len(before), [one for one in bad if one.filed_as not in before])

    def _add_kept_out(self, target: DisablesAccounts[Any], counts: Counts) -> None:
        """Accounts of people whom the source keeps out now. One who counts as gone has left, where leaving has an effect."""
        keep = self._step.load.on_missing == "keep"
        reasons = {key: why.reason for key, why in self._source.kept_out.items() if keep or not why.leaves}
        if number := target.kept_out(self._tx, reasons) if reasons else 0:
            counts.read += number
            counts.rejected += number

    def _record(self) -> None:
        """Rejects, cursor and how the listing ended, in the transaction of the intents."""
        job, step, of, run_id = self._scope.job, self._scope.step, self._scope.stream, self._checkpoint.run_id
        rejects.store(self._tx, job, step, of, run_id, self._source.bad)
        rejects.store_rows(self._tx, job, step, of, run_id, sql.SQL(_CONFLICTS), {})
        rejects.resolve_unmet(self._tx, job, step, of, run_id)
        for stream, (cursor, account, rows) in self._source.cursors.items():
            version = self._source.stored[stream].version if stream in self._source.stored else 0
            ledger.advance(self._tx, job, step, stream, cursor, version=version, account=account, rows=rows)
        for found in self._deletes.found:
            guard.note(self._tx, found)
        outbox.prune(self._tx, job)

    def apply(self, target: OutboundTarget[Any], plan: OutboundPlan) -> None:
        """The calls; then the step's counts, of what was done."""
        try:
            target.apply(plan, self._tx)
        finally:
            if not self._tx.closed:
                ledger.count(self._tx, self._checkpoint.run_id, self._step.name, plan.counts, bytes_=self._done.bytes, done=False)
        self._checkpoint.end(self._step.name)

    def errors(self, plan: OutboundPlan) -> list[UsersyncError]:
        """What the step's end says: the guard, and what waits for a person."""
        found: list[UsersyncError] = [one.refusal for one in self._deletes.found if one.refusal]
        found += plan.problems
        waiting = self._checkpoint.keep(self._waiting) or self._checkpoint.foresee(self._would_wait, plan)
        return [*found, waiting] if waiting else found

    def _waiting(self) -> PartialError | None:
        job, step = self._scope.job, self._scope.step
        number = rejects.count_waiting(self._tx, job, step=step).get((job, step), 0)
        return rejects.left(job, number) if number else None

    def _would_wait(self, plan: OutboundPlan) -> PartialError | None:
        number = plan.counts.rejected
        return PartialError(f"{number:,} would be left to a person to decide") if number else None


def _worst(errors: Sequence[UsersyncError]) -> UsersyncError | None:
    status = worst(status_of(error) for error in errors)
    return next((error for error in errors if status_of(error) == status), None)


# A row for each reason: one may be dropped, and the others wait.
_CONFLICTS = """
    SELECT COALESCE(id, 'sha256:' || encode(sha256(document), 'hex')) AS key, CASE WHEN id IS NULL THEN '' ELSE reason END AS part,
           min(reason) AS reason, string_agg(DISTINCT detail, '; ' ORDER BY detail) AS detail, (array_agg(document))[1] AS document,
           NULL::text AS version
      FROM pg_temp.usersync_conflicts GROUP BY 1, 2
"""
