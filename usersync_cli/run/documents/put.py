"""One document that the source just gave, put into its table the way of a page, without moving the cursor.

What the source says of it later comes as always, and is older, equal or newer.
"""

from __future__ import annotations

from contextlib import ExitStack

from usersync_cli.clients.postgres.errors import translated
from usersync_cli.errors import PartialError
from usersync_cli.model import Documents, Job, Page, Record, Step
from usersync_cli.run.checkpoint import Committed
from usersync_cli.run.context import Options, RunContext, StepResult, loading
from usersync_cli.run.documents.step import Reading
from usersync_cli.run.documents.store import remember
from usersync_cli.state import rejects
from usersync_cli.state.lease import hold


def put(job: Job, step: Step, context: RunContext, record: Record) -> None:
    """Put this record into the step's table, under the job's lease.

    Raises Busy while a run holds the job, PartialError where the record can't be loaded, or the step was edited since it last ran.
    """
    with hold(context.target, job.name, lease=job.lease, stop=context.tools.stop) as lease:
        done, checkpoint = StepResult(step.name), Committed(lease)
        checkpoint.start(step.name)
        with ExitStack() as stack, translated(context.target, loading(step)):
            putting = Putting(step, context, Options(streams=[record.stream]), checkpoint, done)
            stack.callback(putting.close)
            putting.open(stack)
            problem = putting.put(record)
        if problem:
            checkpoint.end(step.name, "partial", problem)
            lease.finish(exit_status=problem.status, error=problem)
            raise problem
        checkpoint.end(step.name)
        lease.finish(exit_status=0, summary=f"{job.name}: one record was put into {step.name}")


class Putting(Reading):
    """A step of documents with one record that nobody has to be asked for."""

    def put(self, record: Record) -> PartialError | None:
        """Load it and remember it; gives what keeps it from being loaded."""
        (stream,) = self._streams
        known = stream.known
        if known.memory.id and not known.resumable:
            return PartialError(f"step {self._step.name} was edited since it last ran, so that everything is to be read again")
        plan = self._planner.plan(stream, [record], Page(Documents([record]), {}, complete=False, streams=[stream.name]))
        with self._transaction():
            known = known.begin(self._tx, fresh=False)
            batch = self._store.load(self._tx, plan, sample=0)
            remember(self._tx, known, plan, batch)
            self._store.count(self._tx, plan)
        self._committed([plan], [known], None)
        waiting = len(plan.bad) + len(batch.rejects)
        return rejects.left(self._context.tools.job, waiting) if waiting else None
