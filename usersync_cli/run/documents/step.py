"""Streams of documents on their way into their tables: a page at a time, each page one checkpoint.

Nothing is open while a source is asked: first the page, then what is known of its records (`seen`), then the whole
documents of those that changed, and only then a transaction: fence, stage, merge, rejects, seen, counts, cursor, COMMIT.
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
from usersync_cli.auth import tokens
from usersync_cli.clients.postgres.catalog import describe
from usersync_cli.clients.postgres.connections import Connection, begin, codec, connect, rollback, transaction, translated
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
from usersync_cli.load import guard, writers
from usersync_cli.load.known import LEFT_OUT, NO_ROW, REJECTED, REMOVED, TOLD, UNKNOWN, Met, Seen
from usersync_cli.load.rejects import HALF_FROM, SAMPLE, Limits
from usersync_cli.load.table import SETTINGS
from usersync_cli.model import Counts, Cursor, Documents, Page, Record, Step, Stream
from usersync_cli.run.context import Options, StepResult, StreamResult, World, chosen_streams, loading, read_of, refuse_other_account
from usersync_cli.run.documents.batch import Item, Loader, fit
from usersync_cli.run.documents.deletes import Leavers, had_row, listed_before
from usersync_cli.run.documents.stream import Into, Work, duplicates
from usersync_cli.run.documents.stream import item as item_of
from usersync_cli.state import ledger, rejects
from usersync_cli.state.lease import Lease
from usersync_cli.state.ledger import StoredCursor
from usersync_cli.state.rejects import Reject

# A page is small, what it is joined with may be big, and often has no statistics yet: its rows are better looked up by index.
PAGE_SETTINGS = {**SETTINGS, "random_page_cost": "1"}
UNCHANGED = Met(listed=True, held=b"...", known=True)  # of whom `look_up` says nothing


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
        self._session: Any = None
        self._leavers: Leavers
        self._intos: list[Into] = []
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
        numbered = getattr(self._session, "numbered", ())
        for name in chosen:
            into = self._into(name, self._session.account, numbered=name in numbered)
            self._leavers.measure(into)
            into.stored = stored.get(name)
            into.cursor_version = into.stored.version if into.stored else 0
            into.limits = Limits(self._step.name, expected=into.seen.memory.previous or 0, job=self._world.tools.job)
            self._intos.append(into)

    def _check_account(self, everything: Sequence[StoredCursor]) -> None:
        """Of all that was read of this source, also by other steps and streams; and of the token, if there is one."""
        source, account, options = self._extract.source, self._session.account, self._options
        read = read_of(source, [self._step, *self._world.steps])
        refuse_other_account(source, account, [one for one in everything if (one.step, one.stream) in read], options)
        given = tokens.account(self._tx, source)
        if given not in {None, "", account} and not options.accept_account:
            raise Drift(
                f"source {source} is {account} now; its token was given for {given}",
                hint="fix the source's settings, or authorise again; if the move is intentional, run once with --accept-account",
            )
        kept = self._world.tools.tokens
        if given not in {None, account} and kept and self._lease:
            kept.belong(source, account)

    def _into(self, stream: str, account: str, *, numbered: bool) -> Into:
        """A stream on its way into its table, and what is remembered of it."""
        run_id = self._lease.run_id if self._lease else None
        scope = {"job": self._world.tools.job, "step": self._step.name, "run_id": run_id, "account": account}
        into = Into(self._step, self._world.sources[self._extract.source], stream, scope, numbered=numbered)
        into.seen.recall(self._tx)
        into.codec = codec(self._tx)
        if into.removes:
            self._look_at_table(into)
        return into

    def _look_at_table(self, into: Into) -> None:
        """Before anything is read: what only removing needs of the table would be missed with the last page otherwise."""
        begin(self._tx, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
        try:
            with translated(self._world.target, f"loading {into.load.table}"):
                fit(self._tx, into)
        finally:
            rollback(self._tx)

    @property
    def left_out(self) -> Mapping[str, int]:
        """What the source leaves out by itself."""
        return dict(getattr(self._session, "left_out", {}))

    def forget(self) -> None:
        """Documents of rejects that were not met for long."""
        if self._lease:
            rejects.prune(self._tx, self._world.tools.job)

    # all streams

    def read(self) -> UsersyncError | None:
        """Everything there is to read now; what a person has to hear of it."""
        groups = [self._intos] if getattr(self._session, "together", False) else [[into] for into in self._intos]
        failed: list[tuple[str, UsersyncError]] = []
        for group in groups:
            self._check()
            for into in group:
                self._result(into)
            try:
                with translated(self._world.target, f"loading {', '.join(into.load.table for into in group)}"):
                    self._read(group)
            except (Stopped, Fenced):
                raise
            except UsersyncError as error:
                self._check()
                for into in group:
                    self._result(into).error = error
                if len(groups) == 1:
                    raise
                failed.append((", ".join(into.name for into in group), error))
                self._log.warning("stream failed", stream=group[0].name, error=error.message)
                if self._connection:
                    rollback(self._connection)
        return together([*_of_streams(failed, len(groups)), *self._refusals, *self._kept(), *self._waiting()])

    def _result(self, into: Into) -> StreamResult:
        """Of this stream in this run."""
        found = next((one for one in self._done.streams if one.name == into.name), None)
        if found is None:
            self._done.streams.append(found := StreamResult(into.name))
        return found

    def _check(self) -> None:
        """The place where a signal, --max-runtime or a lost lease ends the reading: between two pages."""
        self._world.tools.stop.check()
        if self._lease:
            self._lease.check()

    def _kept(self) -> list[GuardRefused]:
        """What the guard said of the step's streams that were not read now, as long as that holds."""
        judged = [into.name for into in self._intos if into.removes]
        return guard.standing(self._tx, self._world.tools.job, self._step.name, judged)

    def _waiting(self) -> list[UsersyncError]:
        """What the step's end says while rejects wait, be they of an earlier run."""
        job, step = self._world.tools.job, self._step.name
        if not self._lease:
            number = sum(into.waiting for into in self._intos)
            hint = f"after a run: usersync rejects list --job {job}"
            return [PartialError(f"{number:,} {_records(number)} would be set aside", hint=hint)] if number else []
        number = rejects.count_waiting(self._tx, job, step=step).get((job, step), 0)
        return [rejects.left(job, number)] if number else []

    def _read(self, group: Sequence[Into]) -> None:
        """These streams, from their cursors to the end of what there is."""
        for into in group:
            self._find_lost(into)
        since = {into.name: into.stored.value for into in group if into.stored and self._resumable(into)}
        if len(since) < len(group):
            since = {}  # what is read together begins together
        for into in group:
            into.fresh = into.name not in since
        streams = [Stream(into.name, listed=partial(into.seen.listed_so_far, self._tx)) for into in group]
        pages = self._session.pages(streams, since)
        with closing(pages) if hasattr(pages, "close") else nullcontext():
            for page in pages:
                self._check()
                self._page(group, page)
        for into in group:
            if not into.judged and self._leavers.told(into):
                self._remove(into)

    def _resumable(self, into: Into) -> bool:
        """Whether the stored cursor still says what was loaded: same step, same account; and nobody wants everything again."""
        same = into.stored is not None and into.stored.account == self._session.account
        return same and into.seen.resumable and not self._options.full and not into.lost_rows

    def _find_lost(self, into: Into) -> None:
        """Whether rows that we wrote have vanished: by number, and only where there are too few, by key."""
        seen = into.seen
        if not seen.held:
            return
        with transaction(self._tx, long=True, **PAGE_SETTINGS):  # type: ignore[arg-type]  # mypy takes any key for `snapshot`
            table = describe(self._tx, into.load.table)
            if table is None:
                return
            others = seen.count_others(self._tx, table.name)
            for key in seen.lost(self._tx, table.name, into.load.key) if others < seen.others else ():
                into.lost.add(key)
                into.lost_rows += 1
        into.others = others + into.lost_rows if others + into.lost_rows != seen.others else None
        if into.lost_rows:
            log.once("rows that we wrote are gone from the target; the stream is read from its beginning, and they are written again",
                     step=self._step.name, stream=into.name, rows=into.lost_rows)  # fmt: skip

    # a page

    def _page(self, group: Sequence[Into], page: Page) -> None:
        assert isinstance(page.content, Documents)  # noqa: S101  sessions of documents give nothing else
        mine = [into for into in group if into.name in page.streams]
        odd = {record.stream for record in page.content.records} - {into.name for into in mine}
        if odd or len(mine) != len(page.streams):
            raise Drift(f"source {self._extract.source} gave a page of other streams than those that were asked for")
        works = []
        for into in mine:
            records = [record for record in page.content.records if record.stream == into.name]
            works.append(self._prepare(into, records, page))
        with self._checkpoint():
            after = [self._store(work, page) for work in works]
        self._committed(works, after, page)

    def _checkpoint(self) -> Any:
        begin(self._tx, long=True, **PAGE_SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
        return self._lease.checkpoint(self._tx) if self._lease else _rolled_back(self._tx)

    def _committed(self, works: Sequence[Work], after: Sequence[Seen], page: Page | None) -> None:
        """From here on it is so."""
        for work, seen in zip(works, after, strict=True):
            into = work.into
            into.seen, into.fresh, into.others = seen, False, None
            if page:
                into.cursor_version += 1
                into.judged = page.complete and bool(page.sweep)
            self._done.counts += work.counts
            self._result(into).counts += work.counts
            self._done.bytes += work.size
            if work.refusal:
                self._refusals.append(work.refusal)
                self._result(into).error = work.refusal
            self._world.progress(into.name, work.size)
            facts = {name: value for name, value in vars(work.counts).items() if value or name == "read"}
            self._log.info("page stored" if self._lease else "page compared", stream=into.name, **facts)
        self._done.written = self._done.written or self._lease is not None

    def _remove(self, into: Into) -> None:
        """Behind the last page, a checkpoint for those who were told to be gone."""
        work = Work(into)
        with self._checkpoint():
            seen = self._leavers.end(work, into.seen)
            if self._lease:
                self._count(work)
        self._committed([work], [seen], None)

    # before the transaction

    def _prepare(self, into: Into, records: Sequence[Record], page: Page) -> Work:
        """What is to be done with each record. Asks the source for whole documents, and for those who seem to be gone."""
        work = Work(into, page.sweep)
        items: list[Item] = []
        for record in records:
            work.size += len(record.data)
            item = item_of(into, record)
            if isinstance(item, Reject):
                work.counts.read += 1
                work.counts.rejected += 1
                work.bad.append(item)
                work.met.append(item.filed_as)
            else:
                items.append(item)
        self._sort(work, items)
        if work.items and into.name in getattr(self._session, "detailed", ()):
            self._fetch(work)
        self._refuse_empty(work, page)
        if page.complete and page.sweep and into.removes:
            work.leaving = self._leavers.look(work, page)
        return work

    def _sort(self, work: Work, items: Sequence[Item]) -> None:
        """Duplicates, stale ones, those that are held already; the rest is to be loaded."""
        into = work.into
        known: dict[int, Met] = {}
        if items and into.seen.there:
            known = self._look_up(work, items, [item.record.key for item in items])
        elif items:
            known = duplicates(items, numbered=into.seen.numbered)
        unmentioned = UNCHANGED if into.seen.there else UNKNOWN
        strange = [item.record.key for position, item in enumerate(items) if not known.get(position, unmentioned).known]
        strange += [one.key for one in work.bad if one.key]
        if strange and not self._are_plain(into, strange):
            self._respell(work, items, known)
        for position, item in enumerate(items):
            self._place(work, item, known.get(position, unmentioned))

    def _look_up(self, work: Work, items: Sequence[Item], keys: Sequence[str]) -> dict[int, Met]:
        """What is known of these records under these keys."""
        hashes, versions = [item.hash for item in items], [item.version for item in items]
        return work.into.seen.look_up(self._tx, keys, hashes, versions, listing=bool(work.sweep))

    def _are_plain(self, into: Into, keys: Sequence[str]) -> bool:
        """Whether none of these can be somebody whom we know under another spelling."""
        if into.seen.respelt:
            return False
        with nullcontext() if into.knows_spelling else self._reading():
            return all(map(into.spelling(self._tx).as_written, keys))

    def _reading(self) -> AbstractContextManager[None]:
        """A transaction in which values are written as text as in that of a page."""
        return transaction(self._tx, **PAGE_SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`

    def _respell(self, work: Work, items: Sequence[Item], known: dict[int, Met]) -> None:
        """Find whom the type of the key column calls the same: on this page, in the table, and among those who are remembered."""
        into, seen = work.into, work.into.seen
        keys = [item.record.key for item in items]
        with self._reading():
            spelt = into.spelling(self._tx).read(self._tx, [*keys, *(one.key for one in work.bad if one.key)])
        work.rows = {key: one.row for key, one in spelt.items()}
        twice = duplicates(items, numbered=seen.numbered, same={key: one.first for key, one in spelt.items()})
        known |= {position: replace(known.get(position, UNKNOWN), duplicate=True) for position in twice}
        before = seen.known_as(self._tx, list(set(work.rows.values()))) if seen.there else {}
        others = {key: before[row] for key, row in work.rows.items() if before.get(row, key) != key}
        moved = [position for position, key in enumerate(keys) if key in others and position not in twice]
        again = self._look_up(work, [items[i] for i in moved], [others[keys[i]] for i in moved]) if moved else {}
        for number, position in enumerate(moved):
            known[position] = again.get(number, UNCHANGED)
            items[position].known_as = others[keys[position]]
            work.respelt[others[keys[position]]] = keys[position]
        for one in work.bad:
            if one.key in others and others[one.key] not in {*work.respelt, *keys}:
                work.respelt[others[one.key]] = one.key

    def _place(self, work: Work, item: Item, met: Met) -> None:
        into, counts, key = work.into, work.counts, item.record.key
        item.before = met
        counts.read += 1
        if not item.record.deleted:
            work.met.append(key)
        if _is_passed_over(into, item):
            counts.duplicates += 1
        elif met.stale:
            counts.stale += 1
        elif item.record.deleted:
            self._told(work, item)
        elif not self._lease and (same := into.came.same(key, item.hash)) is not None:
            counts.unchanged += same
            item.again = not same
            work.items += [item] if item.again else []
        elif self._is_held(into, item):
            self._leave(work, item)
        else:
            work.items.append(item)

    def _is_held(self, into: Into, item: Item) -> bool:
        """Whether it is the document that we have met before, and need not be loaded again."""
        met = item.before
        lacks = met.held is None or met.held == REMOVED or (met.held == REJECTED and not met.reject)
        again = item.record.whole or self._options.full or into.has_lost(item.known_as or item.record.key)
        return met.listed and not lacks and not again

    def _leave(self, work: Work, item: Item) -> None:
        """Leave it as it is."""
        counts, met = work.counts, item.before
        if met.missing and met.held != NO_ROW:
            work.back.append(item.record.key)
        if met.held == REJECTED:
            counts.rejected += 1
            work.met_again.append(item.record.key)
            work.dropped += met.reject == "dropped"
        elif met.held == NO_ROW:
            counts.read -= 1
            if met.missing and not self._lease:
                work.into.told[item.known_as or item.record.key] = LEFT_OUT
        else:
            counts.unchanged += 1
            counts.not_compared += 1

    def _told(self, work: Work, item: Item) -> None:
        """The source says that it is gone."""
        met = item.before
        going = work.into.removes and met.known and met.held != REMOVED and met.missing != TOLD
        if not going and item.version is not None:
            work.buried.append(item)
        if not work.into.removes:
            work.counts.unchanged += 1
            work.counts.not_compared += 1
            return
        work.counts.read -= 1  # it is no record any more, and what becomes of its row is counted where it goes
        if going:
            work.told.append(item)

    def _fetch(self, work: Work) -> None:
        """The whole documents, where the listing is only part of them."""
        into, asked = work.into, {item.record.key: item for item in work.items}
        work.items = []
        for record in self._session.details(into.name, list(asked)):
            self._check()
            item = asked.pop(record.key, None)
            if item is None:
                raise Unavailable(f"source {self._extract.source} gave a document of {into.name} that was not asked for, or twice")
            whole = item_of(into, replace(record, version=record.version or item.record.version))
            work.size += len(record.data)
            if isinstance(whole, Reject):
                item.reject = whole
                work.items.append(item)
                continue
            whole.before, whole.listed, whole.again = item.before, item.listed if record.settled else None, item.again
            whole.known_as = item.known_as
            if record.deleted:  # since it was listed, for all that a look-up can tell: its row goes when a complete listing lacks it
                work.counts.read -= 1
            elif whole.before.held == whole.hash and not self._options.full and not into.has_lost(whole.known_as or record.key):
                work.counts.unchanged += 1
                work.counts.not_compared += 1
                work.relisted.append(whole)
            else:
                work.items.append(whole)
        work.owed = [key for key in asked if key in getattr(self._session, "owed", ())]
        work.counts.read -= len(work.owed)
        if len(asked) > len(work.owed):
            raise Unavailable(f"source {self._extract.source} gave no document for {len(asked)} of {into.name} that it lists")

    def _refuse_empty(self, work: Work, page: Page) -> None:
        """A source that fell silent is not a source without people."""
        if not page.complete or not page.sweep:
            return
        into = work.into
        before, now = into.seen.memory.previous or 0, listed_before(into, page) + work.counts.distinct
        if before and not now and not self._options.allow_empty:
            raise Drift(
                f"stream {into.name} is empty; the last complete reading had {before} records; nothing was removed",
                hint="look at the source (emptied? rights?); if this is intentional, run once with --allow-empty",
            )
        if now * 2 < before:
            log.once("stream shrank to less than half", step=self._step.name, stream=into.name, records=now, before=before)

    # in the transaction

    def _store(self, work: Work, page: Page) -> Seen:
        """Write what the page brings; gives what is remembered once it is committed. Without a lease, only compare."""
        into, tx = work.into, self._tx
        seen = into.seen.begin(tx, fresh=into.fresh) if self._lease else into.seen
        if self._lease and into.others is not None:
            seen.note_others(tx, into.others)
        if self._lease and page.sweep:
            seen = seen.open_sweep(tx, page.sweep, keyed=into.removes)
        loader = self._load(work)
        work.counts += loader.counts
        self._judge(work, loader, complete=page.complete)
        if self._lease:
            self._remember(seen, work, loader)
            if page.sweep:
                keys = work.met if into.removes else ()
                seen = seen.sweep_page(tx, keys, work.counts.distinct)
        else:
            for item in work.items:
                into.came.add(item.record.key, item.hash)
            for key in work.present:
                into.came.add(key)
            into.told |= {item.known_as or item.record.key: TOLD for item in work.told}
            into.told |= {item.known_as or item.record.key: LEFT_OUT for item in loader.left_out if had_row(item.before)}
            into.records += work.counts.distinct if page.sweep else 0
        if page.complete and page.sweep:
            if self._lease and into.passed:
                seen.look_again(tx, into.passed)
            seen = self._leavers.end(work, seen)
        if self._lease:
            self._count(work, loader.normalised)
            rows = seen.memory.previous or 0 if page.complete else (into.stored.rows if into.stored else 0)
            self._advance(into, page.after_details() if page.after_details else page.cursor, rows)
        return seen

    def _load(self, work: Work) -> Loader:
        loader = Loader(
            self._tx,
            self._step.name,
            work.into,
            write=self._lease is not None,
            diff=None if self._lease else self._options.diff,
            sample=0 if self._options.retry is not None else HALF_FROM if work.sweep else SAMPLE,
        )
        loader.load([item for item in work.items if not item.again])
        loader.load([item for item in work.items if item.again])
        return loader

    def _judge(self, work: Work, loader: Loader, *, complete: bool) -> None:
        """Raises Drift when so many records are bad that it is not the records. What was set aside before has been judged."""
        into, scope = work.into, work.into.seen.scope
        bad = [*work.bad, *loader.rejects]
        before = rejects.stored(self._tx, scope.job, scope.step, scope.stream, bad)
        new = [one for one in bad if one.filed_as not in before]
        into.waiting += len(work.met_again) - work.dropped + len(bad) - sum(before.values())
        limits, sweep = into.limits, into.seen.sweep
        if not limits.records and sweep and sweep.name == work.sweep:  # an earlier run has read the beginning of this listing
            limits.records = sweep.records
            limits.rejected = rejects.met_since(self._tx, scope.job, scope.step, scope.stream, sweep.id)
        again = len(work.met_again) + len(bad) - len(new)
        limits.count(work.counts.read - again, Counter((one.reason, one.detail) for one in new), whole=complete and bool(work.sweep))
        self._check_sums(work.counts)

    def _check_sums(self, counts: Counts) -> None:
        if not counts.adds_up():
            raise VerificationFailed(f"step {self._step.name}: the counts do not add up: {counts}", hint="this is a bug: please report it")

    def _remember(self, seen: Seen, work: Work, loader: Loader) -> None:
        """What the target has now of each record, and the rejects."""
        tx, scope = self._tx, seen.scope
        if work.respelt:
            seen.respell(tx, work.respelt)
        done = [*loader.loaded, *work.relisted]
        bad = [item for item in work.items if item.reject]
        if done or bad:
            seen.note(
                tx,
                [item.record.key for item in [*done, *bad]],
                [item.listed for item in [*done, *bad]],
                [*(item.held for item in done), *(REJECTED for _ in bad)],
                [*(item.version for item in done), *(None for _ in bad)],
            )
        if hidden := [one.key for one in work.bad if one.key and work.rows.get(one.key, one.key) != one.key]:
            seen.note(tx, hidden, [None] * len(hidden), [REJECTED] * len(hidden), [None] * len(hidden))
        rows = {key: row for key, row in (work.rows | loader.rows).items() if row != key or not work.into.spelling(tx).exact}
        if rows:
            seen.spell(tx, rows)
        if work.back:
            seen.back(tx, work.back)
        if work.owed:
            seen.owe(tx, work.owed)
        self._remember_gone(seen, work, loader)
        rejects.resolve(tx, scope.job, scope.step, scope.stream, [item.record.key for item in loader.loaded])
        rejects.store(tx, scope.job, scope.step, scope.stream, self._run_id, [*work.bad, *loader.rejects])
        if work.met_again:
            rejects.touch(tx, scope.job, scope.step, scope.stream, self._run_id, work.met_again)

    def _remember_gone(self, seen: Seen, work: Work, loader: Loader) -> None:
        """Who the source says is gone, and whom the transform leaves out by now."""
        tx = self._tx
        if work.told:
            seen.told(tx, [item.record.key for item in work.told], [item.version for item in work.told])
        if work.buried:
            seen.bury(tx, [item.record.key for item in work.buried], [item.version for item in work.buried])
        if left_out := [item for item in loader.left_out if had_row(item.before) and work.into.removes]:
            seen.told(tx, [item.record.key for item in left_out], [item.version for item in left_out], LEFT_OUT)

    @property
    def _run_id(self) -> int:
        return self._lease.run_id if self._lease else 0

    def _count(self, work: Work, normalised: int = 0) -> None:
        ledger.count(self._tx, self._run_id, self._step.name, work.counts, bytes_=work.size, normalised=normalised)

    def _advance(self, into: Into, cursor: Cursor, rows: int) -> None:
        ledger.advance(
            self._tx, self._world.tools.job, self._step.name, into.name, cursor,
            version=into.cursor_version, account=self._session.account, rows=rows,
        )  # fmt: skip


def _is_passed_over(into: Into, item: Item) -> bool:
    """Whether another record of the same key counts, of this page or a later one of the listing."""
    met = item.before
    if met.passed and not met.duplicate:
        into.passed.add(item.record.key)
    else:
        into.passed -= {item.record.key, item.known_as}
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
