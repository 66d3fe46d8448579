"""A run: its steps in their order, under one lease, and what a failure stops.

The path of a record is the same for tables (`tabular`) and for documents (`documents`): page, stage, transform, load, cursor.
A checkpoint is one transaction: rows, counts and cursors commit together or not at all. Staging comes first and touches
nothing shared, however long it takes; then the fence, which says that the job is still ours; then the load. A step of tables
is one checkpoint, a step of documents one for each page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime

from usersync_cli import log
from usersync_cli.clients.postgres.connections import Connection, connect
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.errors import Fenced, GuardRefused, PartialError, Stopped, UsersyncError, status_of, worst
from usersync_cli.model import Counts, Job, Step
from usersync_cli.run.checkpoint import Checkpoint, Committed, Preview
from usersync_cli.run.context import Options, RunContext, StepResult, chosen, chosen_streams, is_outbound, reads_streams, streams
from usersync_cli.run.documents import retry
from usersync_cli.run.documents import step as documents
from usersync_cli.run.outbound import step as outbound
from usersync_cli.run.outbound.deletes import not_remembered
from usersync_cli.run.tables import step as tabular
from usersync_cli.state import approvals, ledger
from usersync_cli.state.lease import Lease, hold


@dataclass
class RunResult:
    """How a run ended: what `run` prints and the ledger keeps."""

    job: str
    noun: str
    dry_run: bool
    run_id: int | None = None
    steps: list[StepResult] = field(default_factory=list)
    seconds: float = 0.0
    failing: tuple[datetime, int] | None = None  # since when, and in how many runs, this one included

    @property
    def exit_status(self) -> int:
        """0, or what an operator has to see first."""
        return worst(status_of(step.error) for step in self.steps if step.error)


def run(job: Job, context: RunContext, options: Options) -> RunResult:
    """Run the job's steps in their order; a step that fails does not stop the next one, but a signal or a fence does.

    Raises Busy when another run holds the job, and whatever keeps a run from beginning; errors of steps are in the result.
    """
    steps = chosen(job, options.steps, options.streams)
    result = RunResult(job.name, job.noun, options.dry_run)
    began = time.monotonic()
    if options.dry_run:
        connection = connect(context.target, job=job.name, stop=context.tools.stop)
        with closing(connection), translated(context.target, "looking for lists"):
            ledger.refuse_newer(connection)
            _check_approval(job, options, connection)
        _run_steps(steps, context, options, Preview(options.diff), result)
        result.seconds = time.monotonic() - began
        return result
    with hold(context.target, job.name, lease=job.lease, stop=context.tools.stop, full=options.full) as lease:
        result.run_id = lease.run_id
        context.began()
        with lease.ledger("looking for lists") as connection:
            _withdraw_others(job, lease, connection)
            _check_approval(job, options, connection)
        if lease.crashed:
            log.once("an earlier run ended without a word", job=job.name, runs=lease.crashed)
        _run_steps(steps, context, options, Committed(lease), result)
        if options.retry is not None and result.exit_status in (0, PartialError.status):
            result.steps += retry.elsewhere(job, context, [step.name for step in steps])
        result.seconds = time.monotonic() - began
        first = next((step.error for step in result.steps if step.error and status_of(step.error) == result.exit_status), None)
        lease.finish(exit_status=result.exit_status, summary="; ".join(line(result, step) for step in result.steps), error=first)
        result.failing = lease.failing() if result.exit_status else None
    return result


def _withdraw_others(job: Job, lease: Lease, connection: Connection) -> None:
    """A list from whose table the job removes nobody now is withdrawn."""
    removing = [(step, stream) for step in job.steps if step.load.on_missing != "keep" for stream in streams(step) or [""]]
    swept = {(step.name, stream) for step, stream in removing}
    swept |= {(step.name, not_remembered(stream)) for step, stream in removing if is_outbound(step)}
    approvals.withdraw_others(connection, job.name, swept, lease.run_id)


def _check_approval(job: Job, options: Options, connection: Connection) -> None:
    """A list that can't be approved is reported before anything is read."""
    if options.approve_deletes is not None:
        approvals.check(connection, job.name, options.approve_deletes)


def _run_steps(steps: Sequence[Step], context: RunContext, options: Options, checkpoint: Checkpoint, result: RunResult) -> None:
    for step in steps:
        done = StepResult(step.name)
        result.steps.append(done)
        began = time.monotonic()
        logger = log.get(job=result.job, step=step.name)
        try:
            checkpoint.start(step.name)
            _run_step(step, options)(step, context, options, checkpoint, done)
        except UsersyncError as error:
            done.error = checkpoint.verdict(error)
            if not done.written:
                done.counts = Counts()  # what was found so far has not happened
        done.seconds = time.monotonic() - began
        if done.error is None:
            logger.info(
                "step done",
                dry_run=options.dry_run,
                **{name: value for name, value in vars(done.counts).items() if value or name == "read"},
            )
        elif isinstance(done.error, (Stopped, Fenced)):
            break
        else:
            checkpoint.end(step.name, "partial" if done.written else "failed", done.error)
        if options.retry is None:
            checkpoint.note_streams(step.name, _outcomes(step, options, done))


def _outcomes(step: Step, options: Options, done: StepResult) -> list[tuple[str, UsersyncError | None]]:
    """How each stream that was to be read ended: by itself, or as its step did."""
    known = {one.name: one.error for one in done.streams}
    names = [name for extract in step.extract.values() for name in chosen_streams(extract, options.streams)] or [""]
    return [(name, known.get(name, done.error)) for name in names]


def _run_step(step: Step, options: Options) -> Callable[[Step, RunContext, Options, Checkpoint, StepResult], None]:
    if is_outbound(step):
        return outbound.run_step
    if not reads_streams(step):
        return tabular.run_step
    return documents.run_step if options.retry is None else retry.run_step


def line(result: RunResult, step: StepResult) -> str:
    """What a step did, in people's words: `auroville: 412 members: 2 new, 1 changed, 409 the same, 0 gone (0.4 s)`."""
    name = result.job if len(result.steps) == 1 else f"{result.job}: {step.name}"
    c = step.counts
    if step.error and not isinstance(step.error, (GuardRefused, PartialError)):
        ended = "stopped" if isinstance(step.error, Stopped) else "failed"
        left = f"{c.distinct:,} {result.noun} of this step are done" if step.written else "nothing of this step was written"
        return f"{name}: {ended}, {left} ({step.seconds:.1f} s)"
    parts = [f"{c.inserted:,} new", f"{c.updated:,} changed", *c.unchanged_in_words, f"{c.gone:,} gone"]
    if c.duplicates:
        parts.append(f"{c.duplicates:,} duplicate{'s' if c.duplicates > 1 else ''} passed over")
    if c.stale:
        parts.append(f"{c.stale:,} older than what is there")
    if c.rejected:
        parts.append(f"{c.rejected:,} set aside")
    parts += [f"{number:,} {what} left out" for what, number in step.left_out.items()]
    parts += _of_ids(step)
    told = f"{name}: {c.distinct:,} {result.noun}: {', '.join(parts)}"
    if isinstance(step.error, GuardRefused):
        told += ", who is missing was kept"
    if result.dry_run:
        return f"{told}: dry run, nothing was written ({step.seconds:.1f} s)"
    if not isinstance(step.error, GuardRefused) and not (c.inserted or c.updated or c.gone or step.identity):
        told += ": nothing changed"
    return f"{told} ({step.seconds:.1f} s)"


def _of_ids(step: StepResult) -> list[str]:
    """What became of the ids that the rows hold, where a step fills an app."""
    found = step.identity
    if not found:
        return []
    parts = [f"{_ids(found.mapped)} got a customer" if found.mapped else "", f"{_ids(found.closed)} lost theirs" if found.closed else ""]
    parts.append(f"{found.conflicts:,} conflict{'' if found.conflicts == 1 else 's'} of identity" if found.conflicts else "")
    return [one for one in parts if one]


def _ids(number: int) -> str:
    return f"{number:,} id{'' if number == 1 else 's'}"
