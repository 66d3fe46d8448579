"""Streams of documents on their way into their tables: a page at a time, each page one checkpoint.

No transaction is open while a source is asked. First the page, what is known of its records, and the whole documents of those that
changed (`planner`); then a transaction (`store`): fence, stage, merge, rejects, what is known now, counts, cursor, and COMMIT, where
`_transaction` ends. Killed anywhere, the next run goes on behind the last page, inside a full listing too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial

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
    UsersyncError,
    together,
)
from usersync_cli.load import writers
from usersync_cli.load.known import Known
from usersync_cli.load.rejects import Limits
from usersync_cli.load.table import SETTINGS
from usersync_cli.model import Counts, Documents, Page, Record, Step, Stream
from usersync_cli.ports import FollowsLog, LeavesOut, ReadsTogether, Session
from usersync_cli.run.checkpoint import Checkpoint
from usersync_cli.run.context import Options, RunContext, StepResult, StreamResult, chosen_streams, loading, read_of, refuse_other_account
from usersync_cli.run.documents.deletes import StreamDeletes
from usersync_cli.run.documents.page import PagePlan, Verdict
from usersync_cli.run.documents.planner import Planner
from usersync_cli.run.documents.store import PageStore
from usersync_cli.run.documents.stream import PAGE_SETTINGS, StreamLoad, fit, is_lacking, is_numbered, make_empty
from usersync_cli.run.identities import Identities
from usersync_cli.state import approvals, ledger, rejects
from usersync_cli.state.ledger import StoredCursor


def run_step(step: Step, context: RunContext, options: Options, checkpoint: Checkpoint, done: StepResult) -> None:
    """Read and load every stream that is chosen, each by itself: one that fails leaves the others done. Errors are in `done.error`."""
    with ExitStack() as stack, translated(context.target, loading(step)):
        reading = Reading(step, context, options, checkpoint, done)
        stack.callback(reading.close)
        reading.open(stack)
        try:
            done.error = reading.read()
        finally:
            done.left_out = reading.left_out
        reading.forget()
        if done.error is None:
            checkpoint.end(step.name)


class Reading:
    """The reading of one step of documents, in one run."""

    def __init__(self, step: Step, context: RunContext, options: Options, checkpoint: Checkpoint, done: StepResult) -> None:
        self._step, self._context, self._options, self._checkpoint, self._done = step, context, options, checkpoint, done
        ((_, self._extract),) = step.extract.items()
        self._connection: Connection | None = None
        self._session: Session
        self._planner: Planner
        self._deletes: StreamDeletes
        self._store = PageStore(checkpoint)
        self._identities = Identities(step, context, options, checkpoint, done)
        self._streams: list[StreamLoad] = []
        self._refusals: list[UsersyncError] = []
        self._log = log.get(job=context.tools.job, step=step.name)

    @property
    def _tx(self) -> Connection:
        """The connection to the target; a new one when the last was lost in a COMMIT that arrived."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._context.target, job=self._context.tools.job, stop=self._context.tools.stop, read_write=True)
        return self._connection

    def close(self) -> None:
        if self._connection:
            rollback(self._connection)
            self._connection.close()

    def open(self, stack: ExitStack) -> None:
        """Open the source, and recall what is known of each stream. Raises Drift when the source is another account's now."""
        writers.refuse(self._tx, self._context.tools.job, self._step.name, self._context.writers)
        everything = ledger.all_cursors(self._tx, self._context.tools.job)
        stored = {one.stream: one for one in everything if one.step == self._step.name}
        source = self._context.sources[self._extract.source]
        self._session = stack.enter_context(source.open(self._context.tools))
        chosen = chosen_streams(self._extract, self._options.streams)
        self._check_account(everything)
        self._planner = Planner(lambda: self._tx, self._session, self._extract.source, self._options, self._checkpoint, self._check)
        self._deletes = StreamDeletes(lambda: self._tx, self._session, self._step.name, self._options, self._checkpoint)
        for name in chosen:
            stream = self._stream(name, self._session.account, numbered=is_numbered(self._session, name))
            self._deletes.measure(stream)
            stream.stored = stored.get(name)
            stream.cursor_version = stream.stored.version if stream.stored else 0
            stream.limits = Limits(self._step.name, expected=stream.known.memory.previous or 0, job=self._context.tools.job)
            self._streams.append(stream)

    def _check_account(self, everything: Sequence[StoredCursor]) -> None:
        """Raises Drift when the source, its token, or what any step has read of it so far belongs to another account."""
        source, account, options = self._extract.source, self._session.account, self._options
        read = read_of(source, [self._step, *self._context.steps])
        refuse_other_account(source, account, [one for one in everything if (one.step, one.stream) in read], options)
        given = store.account(self._tx, source)
        if given not in {None, "", account} and not options.accept_account:
            raise Drift(
                f"source {source} is {account} now; its token was given for {given}",
                hint="fix the source's settings, or authorise again; if the move is intentional, run once with --accept-account",
            )
        kept = self._context.tools.tokens
        if given not in {None, account} and kept:
            self._checkpoint.keep(kept.belong, source, account)

    def _stream(self, name: str, account: str, *, numbered: bool) -> StreamLoad:
        """A stream on its way into its table, and what is remembered of it."""
        scope = {"job": self._context.tools.job, "step": self._step.name, "run_id": self._checkpoint.run_id, "account": account}
        stream = StreamLoad(self._step, self._context.sources[self._extract.source], name, scope, numbered=numbered)
        stream.known.recall(self._tx)
        stream.codec = codec(self._tx)
        self._identities.watch(self._tx, stream.target, lambda tx: (stream.fitted or fit(tx, stream))[0], name)
        if stream.removes or stream.target.watchers:
            self._look_at_table(stream)
        return stream

    def _look_at_table(self, stream: StreamLoad) -> None:
        """Look at the table before anything is read: what only deletes need of it would be missed no sooner than with the last page, and
        what a rule of its identity needs after the first."""
        begin(self._tx, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
        try:
            with translated(self._context.target, f"loading {stream.load.table}"):
                fit(self._tx, stream)
        finally:
            rollback(self._tx)

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many records the source lists and does not give, by what they are."""
        return dict(self._session.left_out) if isinstance(self._session, LeavesOut) else {}

    def forget(self) -> None:
        """Forget the documents of rejects that were not met for long."""
        self._checkpoint.keep(rejects.prune, self._tx, self._context.tools.job)

    # all streams

    def read(self) -> UsersyncError | None:
        """Read everything that there is now; gives what a person has to hear about it."""
        groups = [self._streams] if isinstance(self._session, ReadsTogether) else [[stream] for stream in self._streams]
        failed: list[tuple[str, UsersyncError]] = []
        for group in groups:
            self._check()
            for stream in group:
                self._result(stream)
            try:
                with translated(self._context.target, f"loading {', '.join(stream.load.table for stream in group)}"):
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
        self._look_at_all()
        return together([*_of_streams(failed, len(groups)), *self._refusals, *self._kept(), *self._waiting()])

    def _look_at_all(self) -> None:
        """Look at all rows of the tables whose ids are to be looked at again."""
        if self._identities.owed():
            self._identities.finish()
            with self._transaction():
                pass

    def _result(self, stream: StreamLoad) -> StreamResult:
        """How this stream ended in this run."""
        found = next((one for one in self._done.streams if one.name == stream.name), None)
        if found is None:
            self._done.streams.append(found := StreamResult(stream.name))
        return found

    def _check(self) -> None:
        """End the reading on a signal, --max-runtime or a lost lease: called between two pages."""
        self._context.tools.stop.check()
        self._checkpoint.check()

    def _kept(self) -> list[GuardRefused]:
        """What the guard said about the step's streams that were not read now, as long as that holds."""
        judged = [stream.name for stream in self._streams if stream.removes]
        return approvals.standing(self._tx, self._context.tools.job, self._step.name, judged)

    def _waiting(self) -> list[UsersyncError]:
        """What the step reports in the end while rejects wait, those of earlier runs too."""
        error = self._checkpoint.keep(self._are_left) or self._checkpoint.foresee(self._would_be_left)
        return [*([error] if error else []), *self._identities.problems(self._tx)]

    def _are_left(self) -> PartialError | None:
        job, step = self._context.tools.job, self._step.name
        number = rejects.count_waiting(self._tx, job, step=step).get((job, step), 0)
        return rejects.left(job, number) if number else None

    def _would_be_left(self) -> PartialError | None:
        number = sum(stream.waiting for stream in self._streams)
        hint = f"after a run: usersync rejects list --job {self._context.tools.job}"
        return PartialError(f"{number:,} {_records(number)} would be set aside", hint=hint) if number else None

    def _read(self, group: Sequence[StreamLoad]) -> None:
        """Read these streams from their cursors to the end of what there is."""
        for stream in group:
            self._find_lost(stream)
        resumed = [stream for stream in group if self._resumable(stream)]
        follows = isinstance(self._session, FollowsLog)
        if len(resumed) < len(group) and not follows:
            resumed = []  # what is read together begins together
        for stream in group:
            stream.fresh = stream not in resumed
            stream.checked = stream.known.resumable and stream.known.memory.previous is not None and not stream.lost_rows
        known = [stream for stream in group if self._is_of_account(stream)] if follows else resumed
        since = {stream.name: stream.stored.value for stream in known if stream.stored}
        pages = self._session.pages([self._asked(stream) for stream in group], since)
        with closing(pages):
            for page in pages:
                self._check()
                self._page(group, page)
        self._make_tables([stream for stream in group if is_lacking(self._tx, stream)])
        for stream in group:
            if not stream.judged and self._deletes.told(stream):
                self._remove(stream)

    def _make_tables(self, streams: Sequence[StreamLoad]) -> None:
        """Make tables and live views that no record has brought, now that everything was read."""
        if streams:
            with self._transaction():
                for stream in streams:
                    self._checkpoint.keep(make_empty, self._tx, stream)

    def _asked(self, stream: StreamLoad) -> Stream:
        """The stream as a session is asked for it."""
        known = stream.known
        held = tuple if self._options.accept_account else partial(self._some, known)
        ids = partial(self._identities.ids, lambda: self._tx, stream.name)  # between two pages no transaction is open
        return Stream(stream.name, listed=partial(known.listed_so_far, self._tx), full=stream.fresh, held=held, ids=ids)

    def _some(self, known: Known) -> Sequence[str]:
        return known.some(self._tx) if known.memory.id else ()

    def _is_of_account(self, stream: StreamLoad) -> bool:
        """Whether there is a stored cursor, and it is of the account that is read now."""
        return stream.stored is not None and stream.stored.account == self._session.account

    def _resumable(self, stream: StreamLoad) -> bool:
        """Whether the stored cursor still says what was loaded: same step, same account; and nobody wants everything again."""
        return self._is_of_account(stream) and stream.known.resumable and not self._options.full and not stream.lost_rows

    def _is_archive(self, stream: StreamLoad) -> bool:
        """Whether rows come from a log alone: one that somebody deletes, because it is old, can't be read again."""
        return isinstance(self._session, FollowsLog) and not self._session.told(stream.name)

    def _find_lost(self, stream: StreamLoad) -> None:
        """Find rows that we wrote and that have vanished: by number, and only where there are too few, by key."""
        known = stream.known
        if not known.held or self._is_archive(stream):
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
        of_stream = {stream.name: [record for record in page.content.records if record.stream == stream.name] for stream in mine}
        silent = self._silent(group, of_stream, page)
        plans = [self._plan(stream, of_stream[stream.name], page) for stream in mine if stream not in silent]
        with self._transaction():
            after = [self._stored(plan, page) for plan in plans]
            passed = [self._store.passed(self._tx, stream, page) for stream in silent]
            self._deletes.take_along(plans)
        for stream, known in zip(silent, passed, strict=True):
            stream.known, stream.fresh, stream.others = known, False, None
            stream.cursor_version += 1
        self._committed(plans, after, page)
        self._deletes.taken_along()

    def _silent(self, group: Sequence[StreamLoad], of_stream: Mapping[str, Sequence[Record]], page: Page) -> list[StreamLoad]:
        """The streams of which a page says nothing, where its cursor is theirs all the same."""
        if not isinstance(self._session, ReadsTogether):
            return []
        return [stream for stream in group if not of_stream.get(stream.name) and not (page.sweep and stream.name in of_stream)]

    def _plan(self, stream: StreamLoad, records: Sequence[Record], page: Page) -> PagePlan:
        """What the page asks of the stream; with the last page of a complete listing, also which rows may go."""
        plan = self._planner.plan(stream, records, page)
        if page.complete and page.sweep and stream.removes:
            plan.leaving = self._deletes.look(plan, page)
        return plan

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """The transaction of one page: from the fence to COMMIT; in a dry run, to ROLLBACK. The map is the last of it."""
        tx = self._tx
        begin(tx, long=True, **PAGE_SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
        with self._checkpoint.transaction(tx, self._done):
            yield
            self._identities.resolve(tx)
        self._identities.committed()

    def _stored(self, plan: PagePlan, page: Page) -> Known:
        """Store what the page brings, up to its cursor; gives what is known once it is committed."""
        known = self._store.page(self._tx, plan, page)
        self._deletes.as_they_come(plan, known)
        if page.complete and page.sweep:
            if passed := plan.stream.passed:
                self._checkpoint.keep(known.look_again, self._tx, passed)
            known = self._deletes.end(plan, known)
        self._store.advance(self._tx, plan, page, known)
        return known

    def _committed(self, plans: Sequence[PagePlan], after: Sequence[Known], page: Page | None) -> None:
        """Go on from what was just committed."""
        for plan, known in zip(plans, after, strict=True):
            stream = plan.stream
            told = len(plan.of(Verdict.TOLD_GONE)) if stream.load.on_missing == "mark" else 0
            stream.known, stream.fresh, stream.others = known.expect_fewer(told) if told else known, False, None
            if page:
                stream.cursor_version += 1
                stream.judged = page.complete and bool(page.sweep)
            self._done.counts += plan.counts
            self._result(stream).counts += plan.counts
            self._done.bytes += plan.size
            if plan.refusal:
                self._refusals.append(plan.refusal)
                self._result(stream).error = plan.refusal
            self._context.progress(stream.name, plan.size)
        self._tell(plans)

    def _tell(self, plans: Sequence[PagePlan]) -> None:
        """One line a page, whatever the number of its streams; none for streams of which it has nothing."""
        counts = Counts()
        for plan in plans:
            counts += plan.counts
        facts = {name: value for name, value in vars(counts).items() if value or name == "read"}
        told = [plan.stream.name for plan in plans if any(vars(plan.counts).values())]
        if told:
            self._log.info(f"page {self._checkpoint.outcome}", stream=", ".join(told), **facts)

    def _remove(self, stream: StreamLoad) -> None:
        """Behind the last page, remove the rows of records that were reported as gone, in a checkpoint of its own."""
        plan = PagePlan(stream)
        with self._transaction():
            known = self._deletes.end(plan, stream.known)
            self._store.count(self._tx, plan)
            self._deletes.take_along([plan])
        self._committed([plan], [known], None)
        self._deletes.taken_along()


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
