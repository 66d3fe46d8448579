"""Streams of documents on their way into their tables: a page at a time, each page one checkpoint.

Nothing is open while a source is asked: first the page, then what is known of its records, then the whole
documents of those that changed, and only then a transaction: fence, stage, merge, rejects, what is known now, counts, cursor, COMMIT.
Killed anywhere, the next run goes on behind the last page, inside a full listing too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from usersync_cli import log
from usersync_cli.auth import store
from usersync_cli.clients.postgres.catalog import describe
from usersync_cli.clients.postgres.connections import Connection, codec, connect, rollback
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.clients.postgres.transactions import begin, transaction
from usersync_cli.errors import (
    Drift,
    Fenced,
    GuardRefused,
    PartialError,
    Stopped,
    Unavailable,
    UsersyncError,
    VerificationFailed,
    together,
)
from usersync_cli.load import writers
from usersync_cli.load.known import LEFT_OUT, LOADED, NO_ROW, REJECTED, REMOVED, TOLD, UNCHANGED, UNKNOWN, Known, Met, Note
from usersync_cli.load.rejects import HALF_FROM, SAMPLE, Limits
from usersync_cli.load.table import SETTINGS
from usersync_cli.model import Counts, Cursor, Documents, Page, Record, Step, Stream
from usersync_cli.ports import HasDetails, LeavesOut, ReadsTogether, Session
from usersync_cli.run.context import (
    Options,
    StepResult,
    StreamResult,
    World,
    chosen_streams,
    loading,
    read_of,
    refuse_other_account,
    refuse_silence,
)
from usersync_cli.run.documents.batch import Batch
from usersync_cli.run.documents.deletes import Leavers, had_row, listed_before
from usersync_cli.run.documents.page import PagePlan, duplicates
from usersync_cli.run.documents.record import PageRecord, read_record
from usersync_cli.run.documents.stream import StreamLoad, fit, is_numbered
from usersync_cli.state import approvals, ledger, rejects
from usersync_cli.state.lease import Lease
from usersync_cli.state.ledger import StoredCursor
from usersync_cli.state.rejects import Reject

# A page is small, what it is joined with may be big, and often has no statistics yet: its rows are better looked up by index.
PAGE_SETTINGS = {**SETTINGS, "random_page_cost": "1"}


def run_step(step: Step, world: World, options: Options, lease: Lease | None, done: StepResult) -> None:
    """Every stream that is chosen, each by itself: one that fails leaves the others done. What went wrong is in `done.error`."""
    with ExitStack() as stack, translated(world.target, loading(step)):
        reading = Reading(step, world, options, lease, done)
        stack.callback(reading.close)
        reading.open(stack)
        try:
            done.error = reading.read()
        finally:
            done.left_out = reading.left_out
        reading.forget()
        if lease and done.error is None:
            lease.finish_step(step.name, "ok")


class Reading:
    """One step of documents, in one run."""

    def __init__(self, step: Step, world: World, options: Options, lease: Lease | None, done: StepResult) -> None:
        self._step, self._world, self._options, self._lease, self._done = step, world, options, lease, done
        ((_, self._extract),) = step.extract.items()
        self._connection: Connection | None = None
        self._session: Session
        self._leavers: Leavers
        self._streams: list[StreamLoad] = []
        self._refusals: list[UsersyncError] = []
        self._log = log.get(job=world.tools.job, step=step.name)

    @property
    def _tx(self) -> Connection:
        """The connection to the target; a new one when the last was lost in a COMMIT that arrived."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._world.target, job=self._world.tools.job, stop=self._world.tools.stop, read_write=True)
        return self._connection

    def close(self) -> None:
        if self._connection:
            rollback(self._connection)
            self._connection.close()

    def open(self, stack: ExitStack) -> None:
        """The session, and what is remembered of each stream. Raises Drift when the source is another account's now."""
        writers.refuse(self._tx, self._world.tools.job, self._step.name, self._world.writers)
        everything = ledger.all_cursors(self._tx, self._world.tools.job)
        stored = {one.stream: one for one in everything if one.step == self._step.name}
        source = self._world.sources[self._extract.source]
        self._session = stack.enter_context(source.open(self._world.tools))
        chosen = chosen_streams(self._extract, self._options.streams)
        self._check_account(everything)
        self._leavers = Leavers(lambda: self._tx, self._session, self._step.name, self._options, self._lease)
        for name in chosen:
            stream = self._stream(name, self._session.account, numbered=is_numbered(self._session, name))
            self._leavers.measure(stream)
            stream.stored = stored.get(name)
            stream.cursor_version = stream.stored.version if stream.stored else 0
            stream.limits = Limits(self._step.name, expected=stream.known.memory.previous or 0, job=self._world.tools.job)
            self._streams.append(stream)

    def _check_account(self, everything: Sequence[StoredCursor]) -> None:
        """Of all that was read of this source, also by other steps and streams; and of the token, if there is one."""
        source, account, options = self._extract.source, self._session.account, self._options
        read = read_of(source, [self._step, *self._world.steps])
        refuse_other_account(source, account, [one for one in everything if (one.step, one.stream) in read], options)
        given = store.account(self._tx, source)
        if given not in {None, "", account} and not options.accept_account:
            raise Drift(
                f"source {source} is {account} now; its token was given for {given}",
                hint="fix the source's settings, or authorise again; if the move is intentional, run once with --accept-account",
            )
        kept = self._world.tools.tokens
        if given not in {None, account} and kept and self._lease:
            kept.belong(source, account)

    def _stream(self, name: str, account: str, *, numbered: bool) -> StreamLoad:
        """A stream on its way into its table, and what is remembered of it."""
        run_id = self._lease.run_id if self._lease else 0
        scope = {"job": self._world.tools.job, "step": self._step.name, "run_id": run_id, "account": account}
        stream = StreamLoad(self._step, self._world.sources[self._extract.source], name, scope, numbered=numbered)
        stream.known.recall(self._tx)
        stream.codec = codec(self._tx)
        if stream.removes:
            self._look_at_table(stream)
        return stream

    def _look_at_table(self, stream: StreamLoad) -> None:
        """Before anything is read: what only removing needs of the table would be missed with the last page otherwise."""
        begin(self._tx, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
        try:
            with translated(self._world.target, f"loading {stream.load.table}"):
                fit(self._tx, stream)
        finally:
            rollback(self._tx)

    @property
    def left_out(self) -> Mapping[str, int]:
        """What the source leaves out by itself."""
        return dict(self._session.left_out) if isinstance(self._session, LeavesOut) else {}

    def forget(self) -> None:
        """Documents of rejects that were not met for long."""
        if self._lease:
            rejects.prune(self._tx, self._world.tools.job)

    # all streams

    def read(self) -> UsersyncError | None:
        """Everything there is to read now; what a person has to hear of it."""
        groups = [self._streams] if isinstance(self._session, ReadsTogether) else [[stream] for stream in self._streams]
        failed: list[tuple[str, UsersyncError]] = []
        for group in groups:
            self._check()
            for stream in group:
                self._result(stream)
            try:
                with translated(self._world.target, f"loading {', '.join(stream.load.table for stream in group)}"):
                    self._read(group)
            except (Stopped, Fenced):
                raise
            except UsersyncError as error:
                self._check()
                for stream in group:
                    self._result(stream).error = error
                if len(groups) == 1:
                    raise
                failed.append((", ".join(stream.name for stream in group), error))
                self._log.warning("stream failed", stream=group[0].name, error=error.message)
                if self._connection:
                    rollback(self._connection)
        return together([*_of_streams(failed, len(groups)), *self._refusals, *self._kept(), *self._waiting()])

    def _result(self, stream: StreamLoad) -> StreamResult:
        """Of this stream in this run."""
        found = next((one for one in self._done.streams if one.name == stream.name), None)
        if found is None:
            self._done.streams.append(found := StreamResult(stream.name))
        return found

    def _check(self) -> None:
        """The place where a signal, --max-runtime or a lost lease ends the reading: between two pages."""
        self._world.tools.stop.check()
        if self._lease:
            self._lease.check()

    def _kept(self) -> list[GuardRefused]:
        """What the guard said of the step's streams that were not read now, as long as that holds."""
        judged = [stream.name for stream in self._streams if stream.removes]
        return approvals.standing(self._tx, self._world.tools.job, self._step.name, judged)

    def _waiting(self) -> list[UsersyncError]:
        """What the step's end says while rejects wait, be they of an earlier run."""
        job, step = self._world.tools.job, self._step.name
        if not self._lease:
            number = sum(stream.waiting for stream in self._streams)
            hint = f"after a run: usersync rejects list --job {job}"
            return [PartialError(f"{number:,} {_records(number)} would be set aside", hint=hint)] if number else []
        number = rejects.count_waiting(self._tx, job, step=step).get((job, step), 0)
        return [rejects.left(job, number)] if number else []

    def _read(self, group: Sequence[StreamLoad]) -> None:
        """These streams, from their cursors to the end of what there is."""
        for stream in group:
            self._find_lost(stream)
        since = {stream.name: stream.stored.value for stream in group if stream.stored and self._resumable(stream)}
        if len(since) < len(group):
            since = {}  # what is read together begins together
        for stream in group:
            stream.fresh = stream.name not in since
        asked = [Stream(stream.name, listed=partial(stream.known.listed_so_far, self._tx)) for stream in group]
        pages = self._session.pages(asked, since)
        with closing(pages):
            for page in pages:
                self._check()
                self._page(group, page)
        for stream in group:
            if not stream.judged and self._leavers.told(stream):
                self._remove(stream)

    def _resumable(self, stream: StreamLoad) -> bool:
        """Whether the stored cursor still says what was loaded: same step, same account; and nobody wants everything again."""
        same = stream.stored is not None and stream.stored.account == self._session.account
        return same and stream.known.resumable and not self._options.full and not stream.lost_rows

    def _find_lost(self, stream: StreamLoad) -> None:
        """Whether rows that we wrote have vanished: by number, and only where there are too few, by key."""
        known = stream.known
        if not known.held:
            return
        with transaction(self._tx, long=True, **PAGE_SETTINGS):  # type: ignore[arg-type]  # mypy takes any key for `snapshot`
            table = describe(self._tx, stream.load.table)
            if table is None:
                return
            others = known.count_others(self._tx, table.name)
            for key in known.lost(self._tx, table.name, stream.load.key) if others < known.others else ():
                stream.lost.add(key)
                stream.lost_rows += 1
        stream.others = others + stream.lost_rows if others + stream.lost_rows != known.others else None
        if stream.lost_rows:
            log.once("rows that we wrote are gone from the target; the stream is read from its beginning, and they are written again",
                     step=self._step.name, stream=stream.name, rows=stream.lost_rows)  # fmt: skip

    # a page

    def _page(self, group: Sequence[StreamLoad], page: Page) -> None:
        assert isinstance(page.content, Documents)  # noqa: S101  sessions of documents give nothing else
        mine = [stream for stream in group if stream.name in page.streams]
        odd = {record.stream for record in page.content.records} - {stream.name for stream in mine}
        if odd or len(mine) != len(page.streams):
            raise Drift(f"source {self._extract.source} gave a page of other streams than those that were asked for")
        plans = []
        for stream in mine:
            records = [record for record in page.content.records if record.stream == stream.name]
            plans.append(self._prepare(stream, records, page))
        with self._checkpoint():
            after = [self._store(plan, page) for plan in plans]
        self._committed(plans, after, page)

    def _checkpoint(self) -> Any:
        begin(self._tx, long=True, **PAGE_SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
        return self._lease.checkpoint(self._tx) if self._lease else _rolled_back(self._tx)

    def _committed(self, plans: Sequence[PagePlan], after: Sequence[Known], page: Page | None) -> None:
        """From here on it is so."""
        for plan, known in zip(plans, after, strict=True):
            stream = plan.stream
            stream.known, stream.fresh, stream.others = known, False, None
            if page:
                stream.cursor_version += 1
                stream.judged = page.complete and bool(page.sweep)
            self._done.counts += plan.counts
            self._result(stream).counts += plan.counts
            self._done.bytes += plan.size
            if plan.refusal:
                self._refusals.append(plan.refusal)
                self._result(stream).error = plan.refusal
            self._world.progress(stream.name, plan.size)
            facts = {name: value for name, value in vars(plan.counts).items() if value or name == "read"}
            self._log.info("page stored" if self._lease else "page compared", stream=stream.name, **facts)
        self._done.written = self._done.written or self._lease is not None

    def _remove(self, stream: StreamLoad) -> None:
        """Behind the last page, a checkpoint for those who were told to be gone."""
        plan = PagePlan(stream)
        with self._checkpoint():
            known = self._leavers.end(plan, stream.known)
            if self._lease:
                self._count(plan)
        self._committed([plan], [known], None)

    # before the transaction

    def _prepare(self, stream: StreamLoad, records: Sequence[Record], page: Page) -> PagePlan:
        """What is to be done with each record. Asks the source for whole documents, and for those who seem to be gone."""
        plan = PagePlan(stream, page.sweep)
        items: list[PageRecord] = []
        for record in records:
            plan.size += len(record.data)
            item = read_record(record, stream.known, stream.codec)
            if isinstance(item, Reject):
                plan.counts.read += 1
                plan.counts.rejected += 1
                plan.bad.append(item)
                plan.met.append(item.filed_as)
            else:
                items.append(item)
        self._sort(plan, items)
        if plan.items and isinstance(self._session, HasDetails) and stream.name in self._session.detailed:
            self._fetch(plan, self._session)
        self._refuse_empty(plan, page)
        if page.complete and page.sweep and stream.removes:
            plan.leaving = self._leavers.look(plan, page)
        return plan

    def _sort(self, plan: PagePlan, items: Sequence[PageRecord]) -> None:
        """Duplicates, stale ones, those that are held already; the rest is to be loaded."""
        stream = plan.stream
        met: dict[int, Met] = {}
        if items and stream.known.there:
            met = self._look_up(plan, items, [item.record.key for item in items])
        elif items:
            met = duplicates(items, numbered=stream.known.numbered)
        unmentioned = UNCHANGED if stream.known.there else UNKNOWN
        strange = [item.record.key for position, item in enumerate(items) if not met.get(position, unmentioned).known]
        strange += [one.key for one in plan.bad if one.key]
        if strange and not self._are_plain(stream, strange):
            self._respell(plan, items, met)
        for position, item in enumerate(items):
            self._place(plan, item, met.get(position, unmentioned))

    def _look_up(self, plan: PagePlan, items: Sequence[PageRecord], keys: Sequence[str]) -> dict[int, Met]:
        """What is known of these records under these keys."""
        hashes, versions = [item.hash for item in items], [item.version for item in items]
        return plan.stream.known.look_up(self._tx, keys, hashes, versions, listing=bool(plan.sweep))

    def _are_plain(self, stream: StreamLoad, keys: Sequence[str]) -> bool:
        """Whether none of these can be somebody whom we know under another spelling."""
        if stream.known.respelt:
            return False
        with nullcontext() if stream.knows_spelling else self._reading():
            return all(map(stream.spelling(self._tx).as_written, keys))

    def _reading(self) -> AbstractContextManager[None]:
        """A transaction in which values are written as text as in that of a page."""
        return transaction(self._tx, **PAGE_SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`

    def _respell(self, plan: PagePlan, items: Sequence[PageRecord], met: dict[int, Met]) -> None:
        """Find whom the type of the key column calls the same: on this page, in the table, and among those who are remembered."""
        stream, known = plan.stream, plan.stream.known
        keys = [item.record.key for item in items]
        with self._reading():
            spelt = stream.spelling(self._tx).read(self._tx, [*keys, *(one.key for one in plan.bad if one.key)])
        plan.rows = {key: one.row for key, one in spelt.items()}
        twice = duplicates(items, numbered=known.numbered, same={key: one.first for key, one in spelt.items()})
        met |= {position: replace(met.get(position, UNKNOWN), duplicate=True) for position in twice}
        before = known.known_as(self._tx, list(set(plan.rows.values()))) if known.there else {}
        others = {key: before[row] for key, row in plan.rows.items() if before.get(row, key) != key}
        moved = [position for position, key in enumerate(keys) if key in others and position not in twice]
        again = self._look_up(plan, [items[i] for i in moved], [others[keys[i]] for i in moved]) if moved else {}
        for number, position in enumerate(moved):
            met[position] = again.get(number, UNCHANGED)
            items[position].known_as = others[keys[position]]
            plan.respelt[others[keys[position]]] = keys[position]
        for one in plan.bad:
            if one.key in others and others[one.key] not in {*plan.respelt, *keys}:
                plan.respelt[others[one.key]] = one.key

    def _place(self, plan: PagePlan, item: PageRecord, met: Met) -> None:
        stream, counts, key = plan.stream, plan.counts, item.record.key
        item.before = met
        counts.read += 1
        if not item.record.deleted:
            plan.met.append(key)
        if _is_passed_over(stream, item):
            counts.duplicates += 1
        elif met.stale:
            counts.stale += 1
        elif item.record.deleted:
            self._told(plan, item)
        elif not self._lease and (same := stream.came.same(key, item.hash)) is not None:
            counts.unchanged += same
            item.again = not same
            plan.items += [item] if item.again else []
        elif self._is_held(stream, item):
            self._leave(plan, item)
        else:
            plan.items.append(item)

    def _is_held(self, stream: StreamLoad, item: PageRecord) -> bool:
        """Whether it is the document that we have met before, and need not be loaded again."""
        met = item.before
        lacks = (met.status == LOADED and met.held is None) or met.status in {None, REMOVED} or (met.status == REJECTED and not met.reject)
        again = item.record.whole or self._options.full or stream.has_lost(item.known_as or item.record.key)
        return met.listed and not lacks and not again

    def _leave(self, plan: PagePlan, item: PageRecord) -> None:
        """Leave it as it is."""
        counts, met = plan.counts, item.before
        if met.leaving and met.status != NO_ROW:
            plan.back.append(item.record.key)
        if met.status == REJECTED:
            counts.rejected += 1
            plan.met_again.append(item.record.key)
            plan.dropped += met.reject == "dropped"
        elif met.status == NO_ROW:
            counts.read -= 1
            if met.leaving and not self._lease:
                plan.stream.told[item.known_as or item.record.key] = LEFT_OUT
        else:
            counts.unchanged += 1
            counts.not_compared += 1

    def _told(self, plan: PagePlan, item: PageRecord) -> None:
        """The source says that it is gone."""
        met = item.before
        going = plan.stream.removes and met.known and met.status != REMOVED and met.departure != TOLD
        if not going and item.version is not None:
            plan.buried.append(item)
        if not plan.stream.removes:
            plan.counts.unchanged += 1
            plan.counts.not_compared += 1
            return
        plan.counts.read -= 1  # it is no record any more, and what becomes of its row is counted where it goes
        if going:
            plan.told.append(item)

    def _fetch(self, plan: PagePlan, session: HasDetails) -> None:
        """The whole documents, where the listing is only part of them."""
        stream, asked = plan.stream, {item.record.key: item for item in plan.items}
        plan.items = []
        for record in session.details(stream.name, list(asked)):
            self._check()
            item = asked.pop(record.key, None)
            if item is None:
                raise Unavailable(f"source {self._extract.source} gave a document of {stream.name} that was not asked for, or twice")
            whole = read_record(replace(record, version=record.version or item.record.version), stream.known, stream.codec)
            plan.size += len(record.data)
            if isinstance(whole, Reject):
                item.reject = whole
                plan.items.append(item)
                continue
            whole.before, whole.listed, whole.again = item.before, item.listed if record.settled else None, item.again
            whole.known_as = item.known_as
            if record.deleted:  # since it was listed, for all that a look-up can tell: its row goes when a complete listing lacks it
                plan.counts.read -= 1
            elif whole.before.held == whole.hash and not self._options.full and not stream.has_lost(whole.known_as or record.key):
                plan.counts.unchanged += 1
                plan.counts.not_compared += 1
                plan.relisted.append(whole)
            else:
                plan.items.append(whole)
        plan.owed = [key for key in asked if key in session.owed]
        plan.counts.read -= len(plan.owed)
        if len(asked) > len(plan.owed):
            raise Unavailable(f"source {self._extract.source} gave no document for {len(asked)} of {stream.name} that it lists")

    def _refuse_empty(self, plan: PagePlan, page: Page) -> None:
        """A source that fell silent is not a source without people."""
        if not page.complete or not page.sweep:
            return
        stream = plan.stream
        before, now = stream.known.memory.previous or 0, listed_before(stream, page) + plan.counts.distinct
        had = f"the last complete reading had {before} records; nothing was removed"
        refuse_silence(f"stream {stream.name}", before, now, self._options, had=had, causes="emptied? rights?")
        if now * 2 < before:
            log.once("stream shrank to less than half", step=self._step.name, stream=stream.name, records=now, before=before)

    # in the transaction

    def _store(self, plan: PagePlan, page: Page) -> Known:
        """Write what the page brings; gives what is remembered once it is committed. Without a lease, only compare."""
        stream, tx = plan.stream, self._tx
        known = stream.known.begin(tx, fresh=stream.fresh) if self._lease else stream.known
        if self._lease and stream.others is not None:
            known.note_others(tx, stream.others)
        if self._lease and page.sweep:
            known = known.open_sweep(tx, page.sweep, keyed=stream.removes)
        batch = self._load(plan)
        plan.counts += batch.counts
        self._judge(plan, batch, complete=page.complete)
        if self._lease:
            self._remember(known, plan, batch)
            if page.sweep:
                keys = plan.met if stream.removes else ()
                known = known.sweep_page(tx, keys, plan.counts.distinct)
        else:
            for item in plan.items:
                stream.came.add(item.record.key, item.hash)
            for key in plan.present:
                stream.came.add(key)
            stream.told |= {item.known_as or item.record.key: TOLD for item in plan.told}
            stream.told |= {item.known_as or item.record.key: LEFT_OUT for item in batch.left_out if had_row(item.before)}
            stream.records += plan.counts.distinct if page.sweep else 0
        if page.complete and page.sweep:
            if self._lease and stream.passed:
                known.look_again(tx, stream.passed)
            known = self._leavers.end(plan, known)
        if self._lease:
            self._count(plan, batch.normalised)
            rows = known.memory.previous or 0 if page.complete else (stream.stored.rows if stream.stored else 0)
            self._advance(stream, page.after_details() if page.after_details else page.cursor, rows)
        return known

    def _load(self, plan: PagePlan) -> Batch:
        batch = Batch(
            self._tx,
            self._step.name,
            plan.stream,
            write=self._lease is not None,
            diff=None if self._lease else self._options.diff,
            sample=0 if self._options.retry is not None else HALF_FROM if plan.sweep else SAMPLE,
        )
        batch.load([item for item in plan.items if not item.again])
        batch.load([item for item in plan.items if item.again])
        return batch

    def _judge(self, plan: PagePlan, batch: Batch, *, complete: bool) -> None:
        """Raises Drift when so many records are bad that it is not the records. What was set aside before has been judged."""
        stream, scope = plan.stream, plan.stream.known.scope
        bad = [*plan.bad, *batch.rejects]
        before = rejects.stored(self._tx, scope.job, scope.step, scope.stream, bad)
        new = [one for one in bad if one.filed_as not in before]
        stream.waiting += len(plan.met_again) - plan.dropped + len(bad) - sum(before.values())
        limits, sweep = stream.limits, stream.known.sweep
        if not limits.records and sweep and sweep.name == plan.sweep:  # an earlier run has read the beginning of this listing
            limits.records = sweep.records
            limits.rejected = rejects.met_since(self._tx, scope.job, scope.step, scope.stream, sweep.id)
        again = len(plan.met_again) + len(bad) - len(new)
        limits.count(plan.counts.read - again, Counter((one.reason, one.detail) for one in new), whole=complete and bool(plan.sweep))
        self._check_sums(plan.counts)

    def _check_sums(self, counts: Counts) -> None:
        if not counts.adds_up():
            raise VerificationFailed(f"step {self._step.name}: the counts do not add up: {counts}", hint="this is a bug: please report it")

    def _remember(self, known: Known, plan: PagePlan, batch: Batch) -> None:
        """What the target has now of each record, and the rejects."""
        tx, scope = self._tx, known.scope
        if plan.respelt:
            known.respell(tx, plan.respelt)
        done = [*batch.loaded, *plan.relisted]
        bad = [item for item in plan.items if item.reject]
        notes = [Note(item.record.key, item.listed, item.status, item.held, item.version) for item in done]
        notes += [Note(item.record.key, item.listed, item.status) for item in bad]
        if notes:
            known.note(tx, notes)
        if hidden := [one.key for one in plan.bad if one.key and plan.rows.get(one.key, one.key) != one.key]:
            known.note(tx, [Note(key, None, REJECTED) for key in hidden])
        rows = {key: row for key, row in (plan.rows | batch.rows).items() if row != key or not plan.stream.spelling(tx).exact}
        if rows:
            known.spell(tx, rows)
        if plan.back:
            known.back(tx, plan.back)
        if plan.owed:
            known.owe(tx, plan.owed)
        self._remember_gone(known, plan, batch)
        rejects.resolve(tx, scope.job, scope.step, scope.stream, [item.record.key for item in batch.loaded])
        rejects.store(tx, scope.job, scope.step, scope.stream, self._run_id, [*plan.bad, *batch.rejects])
        if plan.met_again:
            rejects.touch(tx, scope.job, scope.step, scope.stream, self._run_id, plan.met_again)

    def _remember_gone(self, known: Known, plan: PagePlan, batch: Batch) -> None:
        """Who the source says is gone, and whom the transform leaves out by now."""
        tx = self._tx
        if plan.told:
            known.told(tx, [item.record.key for item in plan.told], [item.version for item in plan.told])
        if plan.buried:
            known.bury(tx, [item.record.key for item in plan.buried], [item.version for item in plan.buried])
        if left_out := [item for item in batch.left_out if had_row(item.before) and plan.stream.removes]:
            known.told(tx, [item.record.key for item in left_out], [item.version for item in left_out], LEFT_OUT)

    @property
    def _run_id(self) -> int:
        return self._lease.run_id if self._lease else 0

    def _count(self, plan: PagePlan, normalised: int = 0) -> None:
        ledger.count(self._tx, self._run_id, self._step.name, plan.counts, bytes_=plan.size, normalised=normalised)

    def _advance(self, stream: StreamLoad, cursor: Cursor, rows: int) -> None:
        ledger.advance(
            self._tx, self._world.tools.job, self._step.name, stream.name, cursor,
            version=stream.cursor_version, account=self._session.account, rows=rows,
        )  # fmt: skip


def _is_passed_over(stream: StreamLoad, item: PageRecord) -> bool:
    """Whether another record of the same key counts, of this page or a later one of the listing."""
    met = item.before
    if met.passed and not met.duplicate:
        stream.passed.add(item.record.key)
    else:
        stream.passed -= {item.record.key, item.known_as}
    return met.duplicate or met.passed


def _rolled_back(tx: Connection) -> Any:
    """The end of a page of a dry run."""
    stack = ExitStack()
    stack.callback(rollback, tx)
    return stack


def _of_streams(failed: Sequence[tuple[str, UsersyncError]], number: int) -> list[UsersyncError]:
    """The failures of some of several streams, each with its name. What may pass stays temporary, so that it is tried again."""
    if not failed:
        return []
    (streams, error), *others = failed
    if not others:
        behind = "; the other streams were read" if number > 1 else ""
        return [error.retold(f"stream {streams}: {error.message}{behind}")]
    named = [one.retold(f"stream {name}: {one.message}", hint=one.hint and f"{name}: {one.hint}") for name, one in failed]
    told = together(named)
    assert told is not None  # noqa: S101  there are several
    return [told.retold(f"{len(failed)} of {number} streams failed: {told.message}")]


def _records(number: int) -> str:
    return "record" if number == 1 else "records"
