"""Rejects of documents tried again: what was kept goes the way of a page once more, without asking the source.

Each page is a checkpoint, and no cursor moves: theirs has passed these records. What fails again waits on, and counts
towards no limit. Rejects of tables are rows of a comparison of everything: trying them again is a run of their step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import groupby

from usersync_cli.clients.postgres.connections import connect
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.errors import ConfigError, PartialError
from usersync_cli.load.known import UNCHANGED
from usersync_cli.load.rejects import NO_KEY, NOT_AN_OBJECT, NOT_JSON
from usersync_cli.model import Counts, Job, Record, Step
from usersync_cli.run.checkpoint import Checkpoint
from usersync_cli.run.context import Options, RunContext, StepResult, loading, streams
from usersync_cli.run.documents.page import PagePlan, PageRecord, Verdict, keys_of, verdict_again
from usersync_cli.run.documents.record import BAD_VERSION, read_record
from usersync_cli.run.documents.step import Reading
from usersync_cli.run.documents.store import remember
from usersync_cli.run.documents.stream import StreamLoad
from usersync_cli.state import rejects
from usersync_cli.state.migrations import permitted
from usersync_cli.state.rejects import Kept, Reject, Waiting

# Of these, what was kept is no record, or only what a listing had of it: the rest is at the source.
_NO_RECORD = {NO_KEY, NOT_JSON, NOT_AN_OBJECT, BAD_VERSION}
_NOBODYS = re.compile("sha256:[0-9a-f]{64}")


def chosen(job: Job, context: RunContext, ids: Sequence[int]) -> list[Waiting]:
    """The job's rejects of these numbers, dropped ones too; without numbers, all that wait.

    Raises NotFound for a number that the job has not, ConfigError for one whose step or stream the config has no more.
    """
    connection = connect(context.target, job=job.name, stop=context.tools.stop)
    with closing(connection), permitted(connection, context.target, "reading rejects"):
        found = rejects.chosen(connection, ids, job.name) if ids else rejects.waiting(connection, job.name)
    known = {(step.name, stream) for step in job.steps for stream in streams(step) or [""]}
    for one in found:
        if (one.step, one.stream) not in known:
            what = f"stream {one.stream} in a step {one.step}" if one.stream else f"step {one.step} of tables"
            raise ConfigError(
                f"job {job.name} has no {what} any more, of which reject {one.id} is; nothing was changed",
                hint=f"bring it back in the config file, or `usersync rejects drop {one.id}`",
            )
    return found


def elsewhere(job: Job, context: RunContext, tried: Sequence[str]) -> list[StepResult]:
    """The job's other steps in which rejects wait: because of them it is not well, whatever became of those that were tried."""
    with closing(connect(context.target, job=job.name)) as connection, translated(context.target, "counting rejects"):
        waiting = rejects.count_waiting(connection, job.name)
    others = [step.name for step in job.steps if step.name not in tried and waiting.get((job.name, step.name))]
    return [StepResult(name, error=rejects.left(job.name, waiting[job.name, name])) for name in others]


def run_step(step: Step, context: RunContext, options: Options, checkpoint: Checkpoint, done: StepResult) -> None:
    """Try the rejects of `options.retry` again that are of this step of documents. What waits afterwards is in `done.error`."""
    with ExitStack() as stack, translated(context.target, loading(step)):
        retrying = Retrying(step, context, options, checkpoint, done)
        stack.callback(retrying.close)
        done.error = retrying.retry()
        if done.error is None:
            checkpoint.end(step.name)


class Retrying(Reading):
    """The rejects of one step of documents, in one run."""

    def retry(self) -> PartialError | None:
        """Try all that can be tried again; gives what a person has to hear about those that are left."""
        job, step = self._context.tools.job, self._step.name
        found = rejects.waiting(self._tx, job, step=step, dropped=True, ids=self._options.retry)
        of_stream = {name: list(some) for name, some in groupby(found, key=lambda one: one.stream)}
        streams = {name: self._recalled(name, some) for name, some in of_stream.items()}
        for name, some in of_stream.items():
            self._retry(streams[name], [one for one in some if can_be_tried(one)], left=sum(not can_be_tried(one) for one in some))
        return self._left([one for one in found if not can_be_tried(one)])

    def _recalled(self, name: str, some: Sequence[Waiting]) -> StreamLoad:
        """Raises ConfigError where the rejects are of another table: all of that one is still to be read."""
        versions = [one.version for one in some if one.version]
        # what was kept of a time stamp is ISO 8601, with its T
        stream = self._stream(name, "", numbered=bool(versions) and "T" not in versions[0])
        if not stream.known.memory.id:
            raise ConfigError(
                f"step {self._step.name} loads another table or key now, of which it has read nothing yet; nothing was tried",
                hint=f"usersync run --job {self._context.tools.job} --step {self._step.name}: it reads everything, these records too",
            )
        if not versions:
            stream.known.numbered = stream.known.has_numbers(self._tx)
        return stream

    def _retry(self, stream: StreamLoad, some: Sequence[Waiting], *, left: int) -> None:
        """Page by page. `left` of them can't be tried: they are counted, and stay as they are."""
        ids, after = [one.id for one in some], 0
        while (page := rejects.kept(self._tx, ids, after)) or left:
            self._check()
            plan = PagePlan(stream)
            plan.counts.read = plan.counts.rejected = left
            self._decide(plan, page)
            with self._transaction():
                self._store_again(plan)
            self._committed([plan], [stream.known], None)
            after, left = (page[-1].id if page else after), 0

    def _decide(self, plan: PagePlan, page: Sequence[Kept]) -> None:
        """Find out what is to be loaded again, and what newer news has overtaken."""
        plan.records = self._records(plan, page)
        hashes, versions = [one.hash for one in plan.records], [one.version for one in plan.records]
        met = plan.stream.known.look_up(self._tx, keys_of(plan.records), hashes, versions)
        for position, one in enumerate(plan.records):
            one.before = met.get(position, UNCHANGED)
            one.verdict = verdict_again(one.before)
        plan.sort()

    def _records(self, plan: PagePlan, page: Sequence[Kept]) -> list[PageRecord]:
        listed = plan.stream.known.listed(self._tx, [one.key for one in page])
        records = []
        for one in page:
            plan.size += len(one.document)
            record = read_record(Record(plan.stream.name, one.key, one.document, one.version), plan.stream.known, plan.stream.codec)
            if isinstance(record, Reject):
                plan.counts += Counts(read=1, rejected=1)
            else:
                record.listed = listed.get(one.key)  # what the source listed is not known better now
                records.append(record)
        return records

    def _store_again(self, plan: PagePlan) -> None:
        known, scope = plan.stream.known, plan.stream.known.scope
        batch = self._store.load(self._tx, plan, sample=0)
        remember(self._tx, known, plan, batch)
        rejects.resolve(self._tx, scope.job, scope.step, scope.stream, keys_of(plan.of(Verdict.STALE)))
        self._store.count(self._tx, plan)

    def _left(self, untried: Sequence[Waiting]) -> PartialError | None:
        """What still waits in this step, and why some of them could not even be tried."""
        job, failed = self._context.tools.job, self._done.counts.rejected
        waiting = rejects.count_waiting(self._tx, job, step=self._step.name).get((job, self._step.name), 0)
        if not waiting and not failed:
            return None
        error = rejects.left(job, waiting)
        if not waiting:
            error = PartialError(f"{failed:,} still can't be loaded; they stay dropped", hint=error.hint + " --dropped")
        forgotten = sum(not one.has_document for one in untried)
        why = [
            f"the document of {forgotten:,} was forgotten after {rejects.KEPT.days} days" if forgotten else "",
            f"what was kept of {len(untried) - forgotten:,} is no whole record" if len(untried) > forgotten else "",
        ]
        if untried:
            error.hint += f"\n{' and '.join(filter(None, why))}: `usersync run --job {job} --full` reads them from the source again"
        return error


def can_be_tried(one: Waiting) -> bool:
    """Whether the whole document of the reject is here."""
    return one.has_document and one.reason not in _NO_RECORD and not _NOBODYS.fullmatch(one.key)
