"""A page in its transaction: its records are loaded and judged, then what is known of them, rejects, counts and the cursor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import VerificationFailed
from usersync_cli.load.known import LEFT_OUT, REJECTED, TOLD, Gone, Known, Note
from usersync_cli.load.rejects import HALF_FROM, SAMPLE
from usersync_cli.model import Page
from usersync_cli.run.checkpoint import Checkpoint
from usersync_cli.run.documents.batch import Batch
from usersync_cli.run.documents.page import PagePlan, PageRecord, Verdict, has_row, keys_of
from usersync_cli.run.documents.stream import StreamLoad
from usersync_cli.state import ledger, rejects


class PageStore:
    """Stores pages, each in a transaction of its own, between the fence and COMMIT. In a preview it only finds out what would change."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def page(self, tx: Connection, plan: PagePlan, page: Page) -> Known:
        """Write what the page brings; gives what is known once it is committed. Raises Drift when too many of its records are bad."""
        known = self._checkpoint.keep(_begin, tx, plan.stream, page) or plan.stream.known
        batch = self.load(tx, plan, HALF_FROM if plan.sweep else SAMPLE)
        _judge(tx, plan, batch, complete=page.complete)
        self._checkpoint.foresee(_foresee, plan, batch)
        return self._checkpoint.keep(_remember_page, tx, known, plan, batch) or known

    def load(self, tx: Connection, plan: PagePlan, sample: int) -> Batch:
        """Load the records that are to be loaded, and count them. `sample`: see `Batch`."""
        batch = Batch(tx, self._checkpoint, plan.stream, sample, plan.told)
        batch.load(plan.of(Verdict.LOAD))
        batch.load(plan.of(Verdict.LOAD_AGAIN))
        plan.counts += batch.counts
        plan.stream.drift += batch.drift
        plan.normalised = batch.normalised
        if not plan.counts.adds_up():
            step = plan.stream.known.scope.step
            raise VerificationFailed(f"step {step}: the counts do not add up: {plan.counts}", hint="this is a bug: please report it")
        return batch

    def advance(self, tx: Connection, plan: PagePlan, page: Page, known: Known) -> None:
        """The last of a page: its counts, and the cursor behind it."""
        self.count(tx, plan)
        self._checkpoint.keep(_advance, tx, plan.stream, page, known)

    def passed(self, tx: Connection, stream: StreamLoad, page: Page) -> Known:
        """Move the cursor of a stream of which the page says nothing; gives what is known once it is committed."""
        return self._checkpoint.keep(_pass, tx, stream, page) or stream.known

    def count(self, tx: Connection, plan: PagePlan) -> None:
        """Add what happened to the records of the page to the run's."""
        run_id, step = plan.stream.known.scope.run_id, plan.stream.known.scope.step
        self._checkpoint.keep(ledger.count, tx, run_id, step, plan.counts, bytes_=plan.size, normalised=plan.normalised)


def remember(tx: Connection, known: Known, plan: PagePlan, batch: Batch) -> None:
    """Note down what the target has now of each record, and the rejects."""
    if plan.respelt:
        known.respell(tx, plan.respelt)
    _note(tx, known, plan, batch)
    rows = {key: row for key, row in (plan.rows | batch.rows).items() if row != key or not plan.stream.spelling(tx).exact}
    if rows:
        known.spell(tx, rows)
    if back := plan.back:
        known.back(tx, keys_of(back))
    if owed := plan.of(Verdict.OWED):
        known.owe(tx, keys_of(owed))
    _remember_gone(tx, known, plan, batch)
    _remember_rejects(tx, known, plan, batch)


def _begin(tx: Connection, stream: StreamLoad, page: Page) -> Known:
    known = stream.known.begin(tx, fresh=stream.fresh)
    if stream.others is not None:
        known.note_others(tx, stream.others)
    return known.open_sweep(tx, page.sweep, keyed=stream.removes) if page.sweep else known


def _pass(tx: Connection, stream: StreamLoad, page: Page) -> Known:
    known = _begin(tx, stream, replace(page, sweep=""))
    _advance(tx, stream, replace(page, complete=False), known)
    return known


def _judge(tx: Connection, plan: PagePlan, batch: Batch, *, complete: bool) -> None:
    """Raises Drift when so many records are bad that it is not the records. What was set aside before has been judged."""
    stream, scope, met_again = plan.stream, plan.stream.known.scope, plan.of(Verdict.REJECTED_AGAIN)
    bad = [*plan.bad, *batch.rejects]
    before = rejects.stored(tx, scope.job, scope.step, scope.stream, bad)
    new = [one for one in bad if one.filed_as not in before]
    dropped = sum(one.before.reject == "dropped" for one in met_again)
    stream.waiting += len(met_again) - dropped + len(bad) - sum(before.values())
    limits, sweep = stream.limits, stream.known.sweep
    if not limits.records and sweep and sweep.name == plan.sweep:  # an earlier run has read the beginning of this listing
        limits.records = sweep.records
        limits.rejected = rejects.met_since(tx, scope.job, scope.step, scope.stream, sweep.id)
    again = len(met_again) + len(bad) - len(new)
    limits.count(plan.counts.read - again, Counter((one.reason, one.detail) for one in new), whole=complete and bool(plan.sweep))


def _foresee(plan: PagePlan, batch: Batch) -> None:
    """What the later pages of a dry run need to know of this one, which leaves nothing."""
    foreseen = plan.stream.foreseen
    for one in plan.to_load:
        foreseen.came.add(one.record.key, one.hash)
        if plan.sweep:
            foreseen.note(one.as_of)
    for key in plan.present:
        foreseen.came.add(key)
    foreseen.departures |= {one.remembered_key: TOLD for one in plan.of(Verdict.TOLD_GONE)}
    left_out = [*_left_out(batch), *(one for one in plan.of(Verdict.NO_ROW) if one.before.leaving)]
    foreseen.departures |= {one.remembered_key: LEFT_OUT for one in left_out}
    foreseen.records += plan.counts.distinct if plan.sweep else 0


def _left_out(batch: Batch) -> list[PageRecord]:
    """Records that have a row, for which the transform gives none now."""
    return [one for one in batch.left_out if has_row(one.before)]


def _remember_page(tx: Connection, known: Known, plan: PagePlan, batch: Batch) -> Known:
    remember(tx, known, plan, batch)
    if batch.drift:
        known.note_drift(tx, batch.drift)
    return known.sweep_page(tx, plan.met if plan.stream.removes else (), plan.counts.distinct) if plan.sweep else known


def _note(tx: Connection, known: Known, plan: PagePlan, batch: Batch) -> None:
    done = [*batch.loaded, *plan.of(Verdict.RELISTED), *(one for one in plan.to_load if one.reject)]
    if news := [one.note for one in done if not one.is_as_known]:
        known.note(tx, news)
    if hidden := [one.key for one in plan.bad if one.key and plan.rows.get(one.key, one.key) != one.key]:
        known.note(tx, [Note(key, None, REJECTED) for key in hidden])


def _remember_gone(tx: Connection, known: Known, plan: PagePlan, batch: Batch) -> None:
    """Records that the source says are gone, and those that the transform leaves out by now."""
    if told := plan.of(Verdict.TOLD_GONE):
        known.told(tx, _gone(told))
    if buried := plan.buried:
        known.bury(tx, _gone(buried))
    if plan.stream.removes and (left_out := _left_out(batch)):
        known.told(tx, _gone(left_out), LEFT_OUT)


def _gone(records: Sequence[PageRecord]) -> list[Gone]:
    return [Gone(one.record.key, one.version, one.as_of) for one in records]


def _remember_rejects(tx: Connection, known: Known, plan: PagePlan, batch: Batch) -> None:
    job, step, stream, run_id = known.scope.job, known.scope.step, known.scope.stream, known.scope.run_id
    gone = plan.of(Verdict.TOLD_GONE, Verdict.GONE_BEFORE)  # nobody can load what is not there any more
    rejects.resolve(tx, job, step, stream, keys_of([*batch.loaded, *gone]))
    rejects.store(tx, job, step, stream, run_id, [*plan.bad, *batch.rejects])
    if met_again := plan.of(Verdict.REJECTED_AGAIN):
        rejects.touch(tx, job, step, stream, run_id, keys_of(met_again))


def _advance(tx: Connection, stream: StreamLoad, page: Page, known: Known) -> None:
    scope = known.scope
    rows = known.memory.previous or 0 if page.complete else (stream.stored.rows if stream.stored else 0)
    cursor = page.after_details() if page.after_details else page.cursor
    ledger.advance(
        tx, scope.job, scope.step, stream.name, cursor, version=stream.cursor_version, account=scope.account, rows=rows
    )  # fmt: skip
