"""A step whose target is outside Postgres: everything is read and staged, what differs is found in SQL, then calls are made.

The plan is one transaction: the whole source, the whole target, the difference, who has left, rejects and cursor; COMMIT.
Only then is anything done at the target, without a transaction, each outcome committed after its call (`intents`). A dry
run does the same up to the COMMIT, and rolls back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

from psycopg import sql

from usersync_cli import log
from usersync_cli.clients.postgres.connections import Connection, codec, connect, rollback
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.clients.postgres.sql import scalar
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.errors import ConfigError, Drift, PartialError, Unavailable, UsersyncError, status_of, worst
from usersync_cli.load import guard, stage, writers
from usersync_cli.load.binding import Own, bind
from usersync_cli.load.guard import Sweep
from usersync_cli.load.rejects import NO_KEY, NOT_JSON, Limits
from usersync_cli.load.table import SETTINGS
from usersync_cli.model import Column, Counts, Cursor, Desired, Documents, KeptOut, Record, Step, Stream
from usersync_cli.ports import (
    BringsAccounts,
    HasDetails,
    KeepsOut,
    LeavesOut,
    OneMoment,
    OutboundPlan,
    OutboundTarget,
    Session,
    Source,
    TellsWhoIsGone,
)
from usersync_cli.run.context import Options, StepResult, World, reads, reads_streams, refuse_other_account, streams
from usersync_cli.run.tables.step import open_sources, tabular
from usersync_cli.state import ledger, outbox, readings, rejects
from usersync_cli.state.lease import Lease
from usersync_cli.state.outbox import Living, StepContext, StepScope
from usersync_cli.state.rejects import Reject

COLUMNS = (Column("key", "text"), Column("data", "jsonb"), Column("version", "text"), Column("deleted", "boolean"), Column("ord", "bigint"))


def not_remembered(stream: str) -> str:
    """What the guard calls accounts that carry our attribute and that the job does not remember: their list waits by itself."""
    return f"{stream} (not remembered)".strip()


def run_step(step: Step, world: World, options: Options, lease: Lease | None, done: StepResult) -> None:
    """Read, plan, commit, apply. What a person has to see is in `done.error`."""
    tx = connect(world.target, job=world.tools.job, stop=world.tools.stop, read_write=True)
    try:
        with ExitStack() as stack, translated(world.target, f"planning for {step.load.target}"):
            writers.refuse(tx, world.tools.job, step.name, world.writers)
            reading = Reading(step, world, options, tx, done, stack)
            planned = Planning(step, world, options, lease, tx, done, reading)
            target = planned.open(stack)
            plan = planned.commit(target)
            if lease:
                planned.apply(target, plan)
            done.error = _worst(planned.said(plan))
    finally:
        rollback(tx)
        tx.close()


class Reading:
    """The source of a step, whole: staged in the transaction that is open."""

    def __init__(self, step: Step, world: World, options: Options, tx: Connection, done: StepResult, stack: ExitStack) -> None:  # noqa: PLR0913, PLR0917
        self._step, self._world, self._options, self._tx, self._done = step, world, options, tx, done
        self._stack = stack
        self.stored = ledger.cursors(tx, world.tools.job, step.name)
        self.cursors: dict[str, tuple[Cursor, str, int]] = {}  # stream: cursor, account, rows
        self.bad: list[Reject] = []
        self.session: Session | None = None
        self.stream = ""
        self.transform = step.transform  # or the source's own

    @property
    def account(self) -> str:
        return ", ".join(dict.fromkeys(account for _, account, _ in self.cursors.values()))

    @property
    def records(self) -> int:
        return sum(rows for _, _, rows in self.cursors.values())

    def read(self, check: Callable[[int], None]) -> Desired:
        """Everything that the source has. Raises Drift when it is another account's, or fell silent."""
        desired = self._documents(check) if reads_streams(self._step) else self._tables(check)
        for name, (_, _, rows) in self.cursors.items():
            before = self.stored[name].rows if name in self.stored else 0
            if before and not rows and not self._options.allow_empty:
                raise Drift(
                    f"{name} of source {self._source} is empty; the last run read {before:,} records; nothing was written",
                    hint="look at the source (wrong database? emptied? rights?); if this is intentional, run once with --allow-empty",
                )
        return desired

    @property
    def _source(self) -> str:
        return next(iter(self._step.extract.values())).source

    def _tables(self, check: Callable[[int], None]) -> Desired:
        stages: dict[str, stage.Stage] = {}
        for reader in open_sources(self._step, self._world, self._stack):
            reader.refuse_other_account(self.stored, self._options)
            for stream in reader.streams:
                stages[stream.name] = stage.create(self._tx, stream.name, reader.session.columns(stream))
            for content in reader.pages():
                rows = stage.copy(self._tx, stages[content.stream].table, content, check, freeze=True)
                self.cursors[content.stream] = ({}, reader.session.account, rows)
            for name, cursor in reader.cursors.items():
                self.cursors[name] = (cursor, *self.cursors[name][1:])
            reader.close()
        return Desired(bind(self._tx, Own.of(self._step), list(stages.values())), self.records)

    def _documents(self, check: Callable[[int], None]) -> Desired:
        ((name, extract),) = self._step.extract.items()
        source = self._world.sources[extract.source]
        (self.stream,) = extract.streams
        self.transform = self._step.transform or transform_of(source, extract.source, self.stream)
        self.session = session = self._stack.enter_context(source.open(self._world.tools))
        before = [self.stored[self.stream]] if self.stream in self.stored else []
        refuse_other_account(extract.source, session.account, before, self._options)
        staged = stage.create(self._tx, name if self._step.transform else "records", COLUMNS)
        bound = bind(self._tx, Own.of(self._step, self.transform), [staged])
        rows, complete = 0, False
        cursor: Cursor = {}
        pages = session.pages([Stream(self.stream)], {})
        with closing(pages):
            for page in pages:
                assert isinstance(page.content, Documents)  # noqa: S101  sessions of documents give nothing else
                check(sum(len(record.data) for record in page.content.records))
                rows += self._put(staged, self._whole(page.content.records), rows)
                complete, cursor = page.complete, page.cursor
        if not complete:
            raise Unavailable(
                f"source {extract.source} gave no complete listing of {self.stream}",
                hint="nothing was written; the next run reads it again",
            )
        self.cursors[self.stream] = (cursor, session.account, rows)
        self._done.left_out = dict(session.left_out) if isinstance(session, LeavesOut) else {}
        return Desired(bound, rows)

    @property
    def kept_out(self) -> Mapping[str, KeptOut]:
        """Why the source does not give some of those whom it lists, by key."""
        if isinstance(self.session, KeepsOut):
            return self.session.kept_out(self.stream)
        return {}

    def _whole(self, records: Sequence[Record]) -> Sequence[Record]:
        """With the whole documents, where a listing has only part of them."""
        if not isinstance(self.session, HasDetails) or self.stream not in self.session.detailed:
            return records
        return list(self.session.details(self.stream, [record.key for record in records if not record.problem and not record.deleted]))

    def _put(self, staged: stage.Stage, records: Sequence[Record], at: int) -> int:
        """A page, without what can't be read; gives how many came."""
        good, held = [], codec(self._tx) or "utf-8"
        for record in records:
            if record.deleted:
                continue
            if record.problem or not record.key or not _is_json(record.data, held):
                self.bad.append(Reject(None, record.problem or (NOT_JSON if record.key else NO_KEY), document=record.data))
            else:
                good.append(record)
        self._done.bytes += sum(len(record.data) for record in records)
        with self._tx.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(staged.table)) as copy:
            for position, record in enumerate(good):
                copy.write_row((record.key, record.data.decode(), record.version, False, at + position))
        return len(records)


def transform_of(source: Source, name: str, stream: str) -> str:
    """The SELECT that makes accounts of a source's records, where the step has none."""
    if not isinstance(source, BringsAccounts):
        raise ConfigError(f"source {name} brings no SELECT that makes accounts of {stream}", hint="write one as the step's `transform`")
    return source.accounts(stream)


def try_transform(step: Step, tx: Connection, sources: Mapping[str, Source], sessions: Mapping[str, Session]) -> None:
    """For `usersync check`: whether it is one SELECT over the extracts, without a record. Raises ConfigError or Drift where it is not."""
    transform = None
    if reads_streams(step):
        ((name, extract),) = step.extract.items()
        if not step.transform:
            transform = transform_of(sources[extract.source], extract.source, extract.streams[0])
        stages = [stage.create(tx, name if step.transform else "records", COLUMNS)]
    else:
        streams_ = {name: Stream(name, one.table, one.query) for name, one in step.extract.items()}
        opened = {name: tabular(one.source, sessions[one.source]) for name, one in step.extract.items()}
        stages = [stage.create(tx, name, opened[name].columns(one)) for name, one in streams_.items()]
    bind(tx, Own.of(step, transform), stages)


def _is_json(data: bytes, held: str) -> bool:
    """Whether PostgreSQL takes it as jsonb: no NUL, no half surrogates, nothing that its encoding lacks."""
    try:
        found = json.loads(data)
        json.dumps(found, ensure_ascii=False).encode(held)
    except (ValueError, RecursionError):
        return False
    return b"\\u0000" not in data or not _has_nul(found)


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any("\0" in key or _has_nul(inner) for key, inner in value.items())
    return any(map(_has_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value


class Planning:
    """One such step, in one run."""

    def __init__(  # noqa: PLR0913, PLR0917  all that a step is
        self, step: Step, world: World, options: Options, lease: Lease | None, tx: Connection, done: StepResult, reading: Reading
    ) -> None:
        self._step, self._world, self._options, self._lease = step, world, options, lease
        self._tx, self._done, self._reading = tx, done, reading
        self._swept: list[Sweep] = []
        self._unproved = 0

    def open(self, stack: ExitStack) -> OutboundTarget[Any]:
        """The target; it is contacted when it plans."""
        lease, options = self._lease, self._options
        (stream, *_) = (*streams(self._step), "")
        scope = StepScope(self._world.tools.job, self._step.name, lease.run_id if lease else None, stream=stream)
        context = StepContext(
            scope,
            self._world.tools.stop,
            living=Living([step.name for step in self._world.steps], self._world.jobs),
            check=lease.check if lease else lambda: None,
            judge=Limits(self._step.name).count,
            order_by=self._step.load.order_by,
            again=options.full or options.retry is not None,
            credentials=options.credentials_out,
        )
        return stack.enter_context(self._world.targets[self._step.load.target](context, self._world.tools))

    def commit(self, target: OutboundTarget[Any]) -> OutboundPlan:
        """Everything up to the COMMIT; without a lease told to `options.diff`, and rolled back."""
        begin(self._tx, long=True, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
        if self._lease:
            self._lease.attach(self._tx)
        desired = self._reading.read(self._moved)
        plan: OutboundPlan = target.plan(desired, self._tx)
        self._add_bad(plan.counts)
        self._add_kept_out(target, plan.counts)
        self._done.counts = plan.counts
        if self._step.load.on_missing != "keep":
            self._leavers(target, plan, known=True)
            self._leavers(target, plan, known=False)
        if self._lease is None:
            self._tell(target)
            rollback(self._tx)
            return plan
        with self._lease.checkpoint(self._tx):
            self._record(plan)
        self._done.written = True
        return plan

    def _moved(self, size: int) -> None:
        self._world.tools.stop.check()
        if self._lease:
            self._lease.check()
        self._world.progress(self._reading.stream or self._step.name, size)

    def _add_bad(self, counts: Counts) -> None:
        """Records that no transform has seen."""
        counts.read += len(self._reading.bad)
        counts.rejected += len(self._reading.bad)
        job, step, bad = self._world.tools.job, self._step.name, self._reading.bad
        before = rejects.stored(self._tx, job, step, self._reading.stream, bad)
        limits = Limits(step, job=job)
        limits.add(counts.distinct - len(before), [one for one in bad if one.filed_as not in before])

    def _add_kept_out(self, target: OutboundTarget[Any], counts: Counts) -> None:
        """Accounts of people whom the source keeps out now. One who counts as gone has left, where leaving has an effect."""
        keep = self._step.load.on_missing == "keep"
        reasons = {key: why.reason for key, why in self._reading.kept_out.items() if keep or not why.leaves}
        if number := target.kept_out(self._tx, reasons) if reasons else 0:
            counts.read += number
            counts.rejected += number

    # who has left

    def _leavers(self, target: OutboundTarget[Any], plan: OutboundPlan, *, known: bool) -> None:
        """Whose accounts are disabled: ours, of people whom a complete reading lacks, when the source says so and the guard agrees.

        Accounts that carry our attribute and that this job does not know are made by an earlier state of it, or by a person:
        these never go without approval.
        """
        candidates, of = target.leaving(self._tx, known=known)
        memory_scope = self._memory(plan, known=known)
        if not known and not candidates:
            self._withdraw(memory_scope)
            return
        memory = readings.remember(self._tx, memory_scope)
        load: Any = self._step.load
        found = Sweep(memory_scope, load, memory, plan.counts.distinct, candidates=candidates, looked=True)
        self._swept.append(found)
        if candidates:
            self._judge(found, of, known=known)
        else:
            self._gone((), known=known)
        self._decide(found)
        target.disable(self._tx, plan, known=known)
        plan.counts.gone += found.removable

    def _judge(self, found: Sweep, of: int, *, known: bool) -> None:
        """Whom of the candidates the source itself calls gone, and why they may not go without a person."""
        if known:
            keys = sql.SQL("SELECT key FROM pg_temp.usersync_leaving WHERE known")
            found.free = scalar(self._tx, _DECIDED.encode())
            found.reason = guard.judge(found, of) or guard.kept(self._tx, found, keys) or self._anonymous()
        asked = not found.reason or self._options.approve_deletes is not None or self._options.everybody
        self._gone(self._proved(known=known) if asked else None, known=known)
        self._tx.execute(_FREE)
        found.candidates = scalar(self._tx, "SELECT count(*) FROM pg_temp.usersync_gone")
        found.free = scalar(self._tx, "SELECT count(*) FROM pg_temp.usersync_gone WHERE free")
        if not known and found.candidates:
            found.known, found.reason = of, _strangers(found.candidates)

    def _decide(self, found: Sweep) -> None:
        """Leave on `usersync_gone` who goes. To a comparison whoever left is extra, whatever the guard says."""
        if self._options.everybody:
            found.removable = found.candidates
            return
        guard.decide(self._tx, found, self._options.approve_deletes)
        if self._lease:
            guard.settle(self._tx, found)
        self._tx.execute(sql.SQL("DELETE FROM {} AS g WHERE NOT {}").format(guard.GONE, found.goes))

    def _withdraw(self, scope: readings.Scope) -> None:
        """Nobody waits for approval any more."""
        if self._lease:
            guard.settle(self._tx, Sweep(scope, self._step.load, readings.Memory(), 0))

    def _anonymous(self) -> str:
        """Records without a known id may be any of those who seem to be gone."""
        unknown = len(self._reading.bad) + scalar(self._tx, "SELECT count(*) FROM pg_temp.usersync_conflicts WHERE id IS NULL")
        return f"records were set aside without a known id ({unknown:,}), and they may be those who seem to be gone" if unknown else ""

    def _gone(self, keys: Collection[str] | None, *, known: bool) -> None:
        """The candidates as `sweep` wants them; None: all of them."""
        self._tx.execute("DROP TABLE IF EXISTS pg_temp.usersync_gone")
        self._tx.execute(
            "CREATE TEMP TABLE usersync_gone ON COMMIT DROP AS SELECT key, false AS free FROM pg_temp.usersync_leaving WHERE false"
        )
        if keys is None:
            every = "INSERT INTO pg_temp.usersync_gone SELECT DISTINCT key, false FROM pg_temp.usersync_leaving WHERE known = %s"
            self._tx.execute(every, (known,))
        elif keys:
            self._tx.execute("INSERT INTO pg_temp.usersync_gone SELECT unnest(%s::text[]), false", (list(keys),))

    def _proved(self, *, known: bool) -> Collection[str] | None:
        """Of the candidates, those whom the source itself calls gone, where it can be asked; None: it can't, but one moment was read."""
        session = self._reading.session
        if not isinstance(session, TellsWhoIsGone):
            if session is None or isinstance(session, OneMoment):
                return None
            raise ConfigError(
                f"step {self._step.name}: source {self._reading.account} can't tell who is gone, and its listing is not of one moment",
                hint="say `on_missing: keep` in the step's load",
            )
        rows = self._tx.execute("SELECT DISTINCT key, record FROM pg_temp.usersync_leaving WHERE known = %s", (known,)).fetchall()
        of = {record: key for key, record in rows if record is not None}
        proved = {of[record] for record in session.gone(self._reading.stream, list(of))} if of else set()
        if self._unproved or len(proved) < len(rows):
            self._unproved = len(rows) - len(proved)
            log.get().warning(
                "accounts stay enabled: the listing lacks their people, but the source does not say that they are gone",
                step=self._step.name,
                accounts=self._unproved,
            )
        return proved

    def _memory(self, plan: OutboundPlan, *, known: bool) -> readings.Scope:
        scope = plan.scope
        text = repr((sorted(self._step.extract.items()), self._reading.transform, self._step.load.target))
        return readings.Scope(
            job=scope.job,
            step=scope.step,
            run_id=scope.run_id,
            target=scope.target,
            fingerprint=hashlib.sha256(text.encode()).hexdigest(),
            account=self._reading.account,
            stream=scope.stream if known else not_remembered(scope.stream),
            reads=reads(self._step, self._world.sources, scope.stream),
            window=self._step.load.missing_window,
        )

    # what is told and written down

    def _tell(self, target: OutboundTarget[Any]) -> None:
        if self._options.diff:
            with closing(target.changes(self._step.name, self._tx)) as changes:
                all(self._options.diff(change) for change in changes)  # until it has heard enough

    def _record(self, plan: OutboundPlan) -> None:
        """Rejects, cursor and sweep, in the transaction of the intents."""
        job, step, run_id = plan.scope.job, plan.scope.step, plan.scope.run_id
        assert run_id is not None  # noqa: S101  a run that writes has one
        of = plan.scope.stream
        rejects.store(self._tx, job, step, of, run_id, self._reading.bad)
        rejects.store_rows(self._tx, job, step, of, run_id, sql.SQL(_CONFLICTS), {})
        rejects.resolve_unmet(self._tx, job, step, of, run_id)
        for stream, (cursor, account, rows) in self._reading.cursors.items():
            version = self._reading.stored[stream].version if stream in self._reading.stored else 0
            ledger.advance(self._tx, job, step, stream, cursor, version=version, account=account, rows=rows)
        for found in self._swept:
            guard.note(self._tx, found)
        outbox.prune(self._tx, job)

    def apply(self, target: OutboundTarget[Any], plan: OutboundPlan) -> None:
        """The calls; then the step's counts, of what was done."""
        assert self._lease is not None  # noqa: S101  a run that writes has one
        try:
            target.apply(plan, self._tx)
        finally:
            if not self._tx.closed:
                ledger.count(self._tx, self._lease.run_id, self._step.name, plan.counts, bytes_=self._done.bytes, done=False)
        self._lease.finish_step(self._step.name, "ok")

    def said(self, plan: OutboundPlan) -> list[UsersyncError]:
        """What the step's end says: the guard, and what waits for a person."""
        errors: list[UsersyncError] = [found.refusal for found in self._swept if found.refusal]
        errors += plan.problems
        job, step = plan.scope.job, plan.scope.step
        if self._lease is None:
            number = plan.counts.rejected
            errors += [PartialError(f"{number:,} would be left to a person to decide")] if number else []
        elif number := rejects.count_waiting(self._tx, job, step=step).get((job, step), 0):
            errors.append(rejects.left(job, number))
        return errors


def _worst(errors: Sequence[UsersyncError]) -> UsersyncError | None:
    status = worst(status_of(error) for error in errors)
    return next((error for error in errors if status_of(error) == status), None)


def _strangers(number: int) -> str:
    accounts = "1 account carries" if number == 1 else f"{number:,} accounts carry"
    return f"{accounts} a usersync_id of people who are not at the source, and this job does not remember giving it"


# An earlier run has decided on these, and its calls did not come to their end: the guard has let them go already.
_DECIDED = """
SELECT count(*) FROM pg_temp.usersync_leaving AS l JOIN pg_temp.usersync_accounts AS a ON a.key = l.key
 WHERE a.disabled AND l.known
"""
_FREE = "UPDATE pg_temp.usersync_gone AS g SET free = true FROM pg_temp.usersync_accounts AS a WHERE a.key = g.key AND a.disabled"
# A row for each reason: one may be dropped, and the others wait.
_CONFLICTS = """
    SELECT COALESCE(id, 'sha256:' || encode(sha256(document), 'hex')) AS key, CASE WHEN id IS NULL THEN '' ELSE reason END AS part,
           min(reason) AS reason, string_agg(DISTINCT detail, '; ' ORDER BY detail) AS detail, (array_agg(document))[1] AS document,
           NULL::text AS version
      FROM pg_temp.usersync_conflicts GROUP BY 1, 2
"""
