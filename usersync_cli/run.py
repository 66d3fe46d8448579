"""The one path of a record: page, stage, transform, load, cursor.

A step's transaction is its checkpoint: rows, counts and cursors commit together or not at all. Staging comes first and
touches nothing shared, however long it takes; then the fence, which says that the job is still ours; then the load.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import cast

import psycopg
from psycopg import sql

from usersync_cli import log, stage, state, sweep
from usersync_cli.aside import Aside
from usersync_cli.connections import Connection, begin, connect, rollback, translated
from usersync_cli.errors import (
    ConfigError,
    Drift,
    Fenced,
    GuardRefused,
    PartialError,
    Stopped,
    UsersyncError,
    VerificationFailed,
    status_of,
    worst,
)
from usersync_cli.lease import Lease, hold
from usersync_cli.merge import WithoutKey
from usersync_cli.model import Change, Copy, Counts, Cursor, Database, Desired, Job, Source, Step, Stream, TabularSession, Tools
from usersync_cli.rejects import is_about_data
from usersync_cli.state import StoredCursor
from usersync_cli.targets.postgres import SETTINGS, Plan, Target

Progress = Callable[[str, int], None]  # extract, bytes
Diff = Callable[[Change], bool]


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    steps: Sequence[str] = ()
    streams: Sequence[str] = ()
    full: bool = False
    dry_run: bool = False
    allow_empty: bool = False
    accept_account: bool = False
    approve_deletes: int | None = None  # the run whose list of rows may go
    diff: Diff | None = None  # of a dry run: told each change; False when it has heard enough of this step


@dataclass
class StepResult:
    """How one step ended. `error` is None when it is done; with `written`, what the error says was left out, and the rest was done."""

    name: str
    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    bytes: int = 0
    duplicate_keys: Sequence[str] = field(default=(), repr=False)
    error: UsersyncError | None = None
    written: bool = False


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


@dataclass(frozen=True)
class World:
    """What a run works with: the target, the sources by name, and whom to tell about progress."""

    target: Database
    sources: Mapping[str, Source]
    tools: Tools
    progress: Progress
    began: Callable[[], None] = lambda: None  # told once the job is ours


def run(job: Job, world: World, options: Options) -> RunResult:
    """Run the job's steps in their order; a step that fails does not stop the next one, but a signal or a fence does.

    Raises Busy when another run holds the job, and whatever keeps a run from beginning; errors of steps are in the result.
    """
    steps = _chosen(job, options)
    result = RunResult(job.name, job.noun, options.dry_run)
    began = time.monotonic()
    if options.dry_run:
        _check_approval(job, world, options)
        _run_steps(steps, world, options, None, result)
        result.seconds = time.monotonic() - began
        return result
    with hold(world.target, job.name, lease=job.lease, stop=world.tools.stop, full=options.full) as lease:
        result.run_id = lease.run_id
        world.began()
        _check_approval(job, world, options)
        if lease.crashed:
            log.once("an earlier run ended without a word", job=job.name, runs=lease.crashed)
        _run_steps(steps, world, options, lease, result)
        result.seconds = time.monotonic() - began
        first = next((step.error for step in result.steps if step.error and status_of(step.error) == result.exit_status), None)
        lease.finish(exit_status=result.exit_status, summary="; ".join(line(result, step) for step in result.steps), error=first)
        result.failing = lease.failing() if result.exit_status else None
    return result


def _chosen(job: Job, options: Options) -> Sequence[Step]:
    unknown = set(options.steps) - {step.name for step in job.steps}
    if unknown:
        raise ConfigError(
            f"job {job.name} has no step {', '.join(sorted(unknown))}", hint=f"its steps: {', '.join(s.name for s in job.steps)}"
        )
    steps = [step for step in job.steps if not options.steps or step.name in options.steps]
    if not options.streams:
        return steps
    known = list(dict.fromkeys(stream for step in steps for stream in streams(step)))
    if not known:
        which = f"step {', '.join(options.steps)} of job {job.name}" if options.steps else f"job {job.name}"
        raise ConfigError(f"{which} has no streams: it reads tables and queries, all of them together", hint="choose a step with --step")
    if unknown := set(options.streams) - set(known):
        raise ConfigError(f"job {job.name} reads no stream {', '.join(sorted(unknown))}", hint=f"its streams: {', '.join(known)}")
    return [step for step in steps if set(streams(step)) & set(options.streams)]


def streams(step: Step) -> list[str]:
    """The streams that a step reads; none for one that reads tables and queries."""
    return [stream for extract in step.extract.values() for stream in extract.streams]


def reads_streams(step: Step) -> bool:
    """Whether it is a step of documents."""
    return bool(streams(step))


def _check_approval(job: Job, world: World, options: Options) -> None:
    """A list that can't be approved is said before anything is read."""
    if options.approve_deletes is not None:
        with connect(world.target, job=job.name, stop=world.tools.stop) as connection, translated(world.target, "looking for the list"):
            sweep.check_approval(connection, job.name, options.approve_deletes)


def _run_steps(steps: Sequence[Step], world: World, options: Options, lease: Lease | None, result: RunResult) -> None:
    for step in steps:
        done = StepResult(step.name)
        result.steps.append(done)
        began = time.monotonic()
        logger = log.get(job=result.job, step=step.name)
        try:
            if lease:
                lease.start_step(step.name)
            _run_step(step, world, options, lease, done)
        except UsersyncError as error:
            done.error = lease.verdict(error) if lease else error
        done.seconds = time.monotonic() - began
        if done.error is None:
            logger.info(
                "step done",
                dry_run=options.dry_run,
                **{name: value for name, value in vars(done.counts).items() if value or name == "read"},
            )
        elif isinstance(done.error, (Stopped, Fenced)):
            break
        elif lease:
            lease.finish_step(step.name, "partial" if done.written else "failed", error=done.error)


def _run_step(step: Step, world: World, options: Options, lease: Lease | None, done: StepResult) -> None:
    """Extract, transform, load and cursor of one step: in one transaction of the target, or in one for each page of documents."""
    if reads_streams(step):
        from usersync_cli import documents

        documents.run_step(step, world, options, lease, done)
        return
    tx = connect(world.target, job=world.tools.job, stop=world.tools.stop, read_write=True)
    try:
        with translated(world.target, f"loading {step.load.table}"), ExitStack() as closing:
            stored = state.cursors(tx, world.tools.job, step.name)
            readers = open_sources(step, world, closing)
            for reader in readers:
                reader.refuse_other_account(stored, options)
            begin(tx, long=True, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
            if lease:
                lease.attach(tx)
            load = Loading(world.tools.job, step, readers, stored, tx, done, partial(_moved, world, lease))
            load.extract(direct=lease is not None)
            load.refuse_empty(options)
            with lease.checkpoint(tx) if lease else nullcontext():
                load.transform_and_load(options, lease)
                if lease:
                    load.record(lease)
                done.error = load.refusal or load.left_out(lease)
            done.written = lease is not None
        load.warn()
    finally:
        rollback(tx)
        tx.close()


def _moved(world: World, lease: Lease | None, extract: str, size: int) -> None:
    """After each block: the place where a signal, --max-runtime or a lost lease ends the reading."""
    world.tools.stop.check()
    if lease:
        lease.check()
    world.progress(extract, size)


def open_sources(step: Step, world: World, closing: ExitStack) -> list[Reader]:
    """A reader for each source of the step, in the order in which the step names them."""
    return [Reader(name, world, step, closing) for name in dict.fromkeys(extract.source for extract in step.extract.values())]


class Reader:
    """One source of a step while it is open: its session, what to read from it, and the cursors it gave."""

    def __init__(self, source: str, world: World, step: Step, closing: ExitStack) -> None:
        self.source = source
        self.streams = [Stream(name, e.table, e.query) for name, e in step.extract.items() if e.source == source]
        self.cursors: dict[str, Cursor] = {}
        self._stack = closing.enter_context(ExitStack())
        self.session = cast(TabularSession, self._stack.enter_context(world.sources[source].open(world.tools)))
        self.close = self._stack.close

    def refuse_other_account(self, stored: Mapping[str, StoredCursor], options: Options) -> None:
        """The people of another database are not loaded over those of this one."""
        for stream in self.streams:
            before = stored.get(stream.name)
            if before and before.account != self.session.account and not options.accept_account:
                raise Drift(
                    f"source {self.source} is {self.session.account} now; the rows in the target came from {before.account}",
                    hint="mend the source's URL; if the move is meant, run once with --accept-account",
                )

    def pages(self) -> Iterator[Copy]:
        """Each stream's content, in turn; its cursor counts once the content was taken up."""
        for page in self.session.pages(self.streams, {}):
            assert isinstance(page.content, Copy)  # noqa: S101  tabular sessions give nothing else
            yield page.content
            self.cursors[page.content.stream] = page.cursor


class Loading:
    """One step on its way into the target: staged, compared, written."""

    def __init__(  # noqa: PLR0913, PLR0917  all that a step is
        self,
        job: str,
        step: Step,
        readers: Sequence[Reader],
        stored: Mapping[str, StoredCursor],
        tx: Connection,
        done: StepResult,
        moved: Progress,
    ) -> None:
        self._job, self._step, self._readers, self._stored, self._tx, self._done, self._moved = job, step, readers, stored, tx, done, moved
        self.refusal: GuardRefused | PartialError | None = None
        self._stages: dict[str, stage.Stage] = {}
        self._target = Target(step.load)
        self._aside = Aside(tx, job, step.name)
        self._rows: dict[str, int] = {}  # of each extract
        self._normalised = 0
        self._normalised_again = False
        self._loaded = False

    @property
    def desired(self) -> Desired:
        """What the target should hold, as a SELECT over the stages."""
        return stage.desired(self._step.transform, list(self._stages.values()), sum(self._rows.values()))

    def extract(self, *, direct: bool) -> None:
        """Read every source into its stages, and close it. What doesn't fit is found before the first row is read.

        With one extract and no transform, an empty target is loaded without a stage (`direct`).
        """
        self.describe()
        if direct and self._step.transform is None and self._pass_through(self._readers[0]):
            return
        for reader in self._readers:
            for content in reader.pages():
                into = self._stages[content.stream].table
                self._rows[content.stream] = stage.copy(self._tx, into, content, partial(self._take, content.stream), freeze=True)
            reader.close()
        if self._step.transform:
            for name in self._rows:
                self._tx.execute(sql.SQL("ANALYZE {}").format(self._stages[name].table))

    def _take(self, extract: str, size: int) -> None:
        self._done.bytes += size
        self._moved(extract, size)

    def _pass_through(self, reader: Reader) -> bool:
        for content in reader.pages():
            counts = self._target.copy_into_empty(content, self.desired, self._tx, partial(self._take, content.stream))
            if counts is None:
                return False
            self._done.counts, self._loaded, self._rows[content.stream] = counts, True, counts.read
        reader.close()
        return True

    def describe(self) -> str:
        """Whether the transform's columns go into the target, without reading a row."""
        for reader in self._readers:
            for stream in reader.streams:
                before = self._stored[stream.name].rows if stream.name in self._stored else 0
                self._stages[stream.name] = stage.create(self._tx, stream.name, reader.session.columns(stream), rows=before)
        merge, table = self._target.fit(self.desired, self._tx)
        name = merge.table.as_string(self._tx)
        return f"{len(merge.fields)} columns fit into {name}" if table else f"{name} will be created with {len(merge.fields)} columns"

    def refuse_empty(self, options: Options) -> None:
        """A source that fell silent is not a source without people: nothing is written over what is there."""
        for extract, rows in self._rows.items():
            before = self._stored[extract].rows if extract in self._stored else 0
            if before and not rows and not options.allow_empty:
                raise Drift(
                    f"extract {extract} is empty; the last run read {before} rows; nothing was written",
                    hint="look at the source (wrong database? emptied? rights?); if it is meant, run once with --allow-empty",
                )
            if rows * 2 < before:
                log.once("extract shrank to less than half", step=self._step.name, extract=extract, rows=rows, before=before)

    def transform_and_load(self, options: Options, lease: Lease | None) -> None:
        """Behind the fence: write what differs and remove who has left; without a lease only find out, and tell `options.diff`."""
        if not self._loaded and lease and (filled := self._target.fill_empty(self.desired, self._tx)):
            self._done.counts, self._loaded = filled, True
        if not self._loaded:
            self._merge(options, lease)
        elif self._step.load.on_missing != "keep":
            merge, _ = self._target.fit(self.desired, self._tx)
            sweep.filled(self._tx, self._scope(lease), self._step.load, merge, self._done.counts.distinct)
        stage.drop(self._tx, list(self._stages.values()))

    def _merge(self, options: Options, lease: Lease | None) -> None:
        """Until nothing is left that has to be set aside, begin again without it."""
        while not self._merged(options, lease):
            self._tx.execute("DROP TABLE IF EXISTS pg_temp.usersync_changes, pg_temp.usersync_duplicates")

    def _merged(self, options: Options, lease: Lease | None) -> bool:
        """Compare and write; False when there are more rejects now, and nothing was written."""
        plan: Plan | None = None
        try:
            with self._tx.transaction():
                plan = self._target.plan(self.desired, self._tx, aside=self._aside.begun)
            if not lease and self._aside.check(plan.merge, plan.table, plan.counts.read):
                return False
            with self._tx.transaction():
                self._write(plan, options, lease)
        except WithoutKey:
            self._aside.begin(self._target.fit(self.desired, self._tx)[0])
            return False
        except psycopg.Error as error:
            if not is_about_data(error) or not self._set_aside(plan, options, lease):
                raise
            return False
        return True

    def _set_aside(self, plan: Plan | None, options: Options, lease: Lease | None) -> bool:
        """Whether the records were found that the transform (without a plan) or the table can't take."""
        aside = self._aside
        if plan is None:
            merge, _ = self._target.fit(self.desired, self._tx)
            return aside.transform(merge, self._step.transform, list(self._stages.values()))
        if aside.check(plan.merge, plan.table, plan.counts.read):
            return True
        return aside.write(plan.merge, plan.counts.read, lambda: self._target.prepare(self._swept(plan, options, lease), self._tx))

    def _swept(self, plan: Plan, options: Options, lease: Lease | None) -> Plan:
        """The plan with those who have left, if the step looks for them."""
        if self._step.load.on_missing == "keep":
            return plan
        unknown = self._aside.unknown()
        swept = sweep.look(self._tx, self._scope(lease), self._step.load, plan.merge, plan.outcome, unknown=unknown)
        sweep.decide(self._tx, swept, options.approve_deletes)
        return replace(plan, sweep=swept)

    def _write(self, plan: Plan, options: Options, lease: Lease | None) -> None:
        left_out = self._aside.finish(plan.merge, plan.counts.read)
        plan = self._swept(plan, options, lease)
        self.refusal = plan.sweep.refusal if plan.sweep else None
        self._done.counts, self._done.duplicate_keys = plan.counts, plan.outcome.duplicate_keys
        self._done.counts += left_out
        if lease:
            self._target.apply(plan, self._tx)
            self._normalised = self._target.normalised(plan, self._tx)
            if plan.sweep:
                sweep.finish(self._tx, plan.sweep, plan.merge)
        elif options.diff:
            with closing(self._target.changes(plan, self._step.name, self._tx)) as changes:
                heard = all(options.diff(change) for change in changes)  # until it has heard enough
            if heard:
                all(options.diff(change) for change in self._aside.changes(plan.merge))

    def _scope(self, lease: Lease | None) -> sweep.Scope:
        """What the memory of this step is filed under, and what makes it another step."""
        load = self._step.load
        text = repr((self._step.extract, self._step.transform, load))
        return sweep.Scope(
            job=self._job,
            step=self._step.name,
            run_id=lease.run_id if lease else None,
            target=f"{load.table} ({', '.join(load.key)})",
            fingerprint=hashlib.sha256(text.encode()).hexdigest(),
            account=", ".join(reader.session.account for reader in self._readers),
        )

    def left_out(self, lease: Lease | None) -> PartialError | None:
        """What the step's end says while rejects wait."""
        return self._aside.left_out(lease.run_id if lease else None)

    def record(self, lease: Lease) -> None:
        """Counts, rejects and cursors, in the transaction of the rows that they stand for."""
        counts, step = self._done.counts, self._step.name
        if not counts.adds_up():
            raise VerificationFailed(
                f"step {step}: the counts do not add up: {counts}", hint="does the transform give other rows each time (random(), LIMIT)?"
            )
        self._aside.store(lease.run_id)
        self._normalised_again = self._normalised > 0 and state.normalised_before(self._tx, lease.job, step)
        state.count(self._tx, lease.run_id, step, counts, bytes_=self._done.bytes, normalised=self._normalised, done=True)
        for reader in self._readers:
            for stream, cursor in reader.cursors.items():
                version = self._stored[stream].version if stream in self._stored else 0
                account, rows = reader.session.account, self._rows[stream]
                state.advance(self._tx, lease.job, step, stream, cursor, version=version, account=account, rows=rows)

    def warn(self) -> None:
        """What went well enough, and should be looked at by day."""
        logger = log.get(job=self._job, step=self._step.name)
        if keys := self._done.duplicate_keys:
            kept = self._step.load.order_by or "any"
            logger.warning("key occurred more than once", records=self._done.counts.duplicates, first_keys=list(keys), kept=kept)
        if self._normalised_again:
            logger.warning("a trigger of the target changes what is written, so these rows change in every run", rows=self._normalised)


def line(result: RunResult, step: StepResult) -> str:
    """What a step did, in people's words: `auroville: 412 members: 2 new, 1 changed, 409 the same, 0 gone (0.4 s)`."""
    name = result.job if len(result.steps) == 1 else f"{result.job}: {step.name}"
    if isinstance(step.error, Stopped):
        return f"{name}: stopped, nothing of this step was written ({step.seconds:.1f} s)"
    if step.error and not isinstance(step.error, (GuardRefused, PartialError)):
        return f"{name}: failed, nothing of this step was written ({step.seconds:.1f} s)"
    c = step.counts
    parts = [f"{c.inserted:,} new", f"{c.updated:,} changed", f"{c.unchanged:,} the same", f"{c.gone:,} gone"]
    if c.duplicates:
        parts.append(f"{c.duplicates:,} duplicate{'s' if c.duplicates > 1 else ''} passed over")
    if c.rejected:
        parts.append(f"{c.rejected:,} set aside")
    told = f"{name}: {c.distinct:,} {result.noun}: {', '.join(parts)}"
    if isinstance(step.error, GuardRefused):
        told += ", who is missing was kept"
    if result.dry_run:
        return f"{told}: dry run, nothing was written ({step.seconds:.1f} s)"
    if not isinstance(step.error, GuardRefused) and not (c.inserted or c.updated or c.gone):
        told += ": nothing changed"
    return f"{told} ({step.seconds:.1f} s)"
