"""A step of tables: extracts of SQL sources, staged, compared and written in one transaction of the target."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import psycopg
from psycopg import sql

from usersync_cli import log
from usersync_cli.clients.postgres.connections import Connection, connect, rollback
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.errors import GuardRefused, PartialError, VerificationFailed, together
from usersync_cli.load import deletes, stage, writers
from usersync_cli.load.binding import Own, bind
from usersync_cli.load.deletes import guard
from usersync_cli.load.merge import Merge
from usersync_cli.load.merge.compare import WithoutKey
from usersync_cli.load.rejects import is_about_data
from usersync_cli.load.table import SETTINGS, TableLoad, TablePlan
from usersync_cli.model import Desired, Step
from usersync_cli.run.checkpoint import Checkpoint
from usersync_cli.run.context import Options, Progress, RunContext, StepResult, refuse_silence
from usersync_cli.run.identities import Identities
from usersync_cli.run.tables.reader import SourceReader, open_sources
from usersync_cli.run.tables.rejects import Rejects
from usersync_cli.state import ledger
from usersync_cli.state.ledger import StoredCursor
from usersync_cli.state.readings import Scope


def run_step(step: Step, context: RunContext, options: Options, checkpoint: Checkpoint, done: StepResult) -> None:
    """Extract, transform, load and cursors, in one transaction of the target."""
    tx = connect(context.target, job=context.tools.job, stop=context.tools.stop, read_write=True)
    try:
        with translated(context.target, f"loading {step.load.table}"), ExitStack() as closing:
            writers.refuse(tx, context.tools.job, step.name, context.writers)
            stored = ledger.cursors(tx, context.tools.job, step.name)
            readers = open_sources(step, context, closing)
            for reader in readers:
                reader.refuse_other_account(stored, options)
            begin(tx, long=True, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
            checkpoint.attach(tx)
            load = TableStep(context.tools.job, step, readers, stored, tx, done, checkpoint, partial(_moved, context, checkpoint))
            identities = Identities(step, context, options, checkpoint, done)
            identities.watch(tx, load.target, load.merge)
            load.extract()
            load.refuse_empty(options)
            with checkpoint.transaction(tx, done):
                load.transform_and_load(options)
                checkpoint.keep(load.record)
                identities.finish()
                identities.resolve(tx)
                done.error = load.refusal or load.left_out() or together(identities.problems(tx))
        load.warn()
    finally:
        rollback(tx)
        tx.close()


def _moved(context: RunContext, checkpoint: Checkpoint, extract: str, size: int) -> None:
    """After each block: the place where a signal, --max-runtime or a lost lease ends the reading."""
    context.tools.stop.check()
    checkpoint.check()
    context.progress(extract, size)


class TableStep:
    """One step on its way into the target: staged, compared, written."""

    def __init__(  # noqa: PLR0913, PLR0917  all that a step is
        self,
        job: str,
        step: Step,
        readers: Sequence[SourceReader],
        stored: Mapping[str, StoredCursor],
        tx: Connection,
        done: StepResult,
        checkpoint: Checkpoint,
        moved: Progress,
    ) -> None:
        self._job, self._step, self._readers, self._stored, self._tx, self._done = job, step, readers, stored, tx, done
        self._checkpoint, self._moved = checkpoint, moved
        self.refusal: GuardRefused | PartialError | None = None
        self._stages: dict[str, stage.Stage] = {}
        self._bound: sql.Composed = sql.Composed([])  # once it was described
        self._target = TableLoad(step.load)
        self.columns: Sequence[str] = ()  # of the table that are loaded, once it was described
        self._rejects = Rejects(tx, job, step.name)
        self._rows: dict[str, int] = {}  # of each extract
        self._normalised = 0
        self._normalised_again = False
        self._loaded = False

    @property
    def target(self) -> TableLoad:
        return self._target

    def merge(self, tx: Connection) -> Merge:
        """How the rows go into the table."""
        return self._target.fitted(self.desired, tx)[0]

    @property
    def desired(self) -> Desired:
        """What the target should hold, as a SELECT over the stages."""
        return Desired(self._bound, sum(self._rows.values()))

    def extract(self) -> None:
        """Read every source into its stages, and close it. What doesn't fit is found before the first row is read.

        With one extract and no transform, a run loads an empty target without a stage. A preview compares, to show each row.
        """
        self.describe()
        if self._step.transform is None and self._checkpoint.keep(self._pass_through, self._readers[0]):
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

    def _pass_through(self, reader: SourceReader) -> bool:
        """Load the one extract into an empty table without a stage; False when that is not possible."""
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
        self._bound = bind(self._tx, Own.of(self._step), list(self._stages.values()))
        merge, table = self._target.fit(self.desired, self._tx)
        self.columns = [field.name for field in merge.fields]
        name = merge.table.as_string(self._tx)
        told = f"{len(merge.fields)} columns fit into {name}" if table else f"{name} will be created with {len(merge.fields)} columns"
        return told + self._target.told

    @property
    def advice(self) -> str:
        """What a person should know of the live view."""
        return self._target.view.advice if self._target.view else ""

    def refuse_empty(self, options: Options) -> None:
        """Raises Drift for an extract that had rows and has none."""
        for extract, rows in self._rows.items():
            before = self._stored[extract].rows if extract in self._stored else 0
            refuse_silence(f"extract {extract}", before, rows, options)
            if rows * 2 < before:
                log.once("extract shrank to less than half", step=self._step.name, extract=extract, rows=rows, before=before)

    def transform_and_load(self, options: Options) -> None:
        """Behind the fence: write the rows that differ, and remove those that have left the source."""
        if not self._loaded:
            self._target.look_again(self.desired, self._tx)  # reading may have taken hours
            self._fill_empty()
        if not self._loaded:
            self._merge(options)
        elif self._step.load.on_missing != "keep":
            self._target.look_again(self.desired, self._tx)
            merge, _ = self._target.fitted(self.desired, self._tx)
            deletes.filled(self._tx, self._scope(), self._step.load, merge, self._done.counts.distinct)
        self._checkpoint.keep(self._target.make_view, self._tx)
        stage.drop(self._tx, list(self._stages.values()))

    def _fill_empty(self) -> None:
        if filled := self._checkpoint.keep(self._target.fill_empty, self.desired, self._tx):
            self._done.counts, self._loaded = filled, True

    def _merge(self, options: Options) -> None:
        """Compare and write; as long as records have to be set aside, begin again without them."""
        while not self._merged(options):
            self._tx.execute("DROP TABLE IF EXISTS pg_temp.usersync_changes, pg_temp.usersync_duplicates")
            self._target.look_again(self.desired, self._tx)

    def _merged(self, options: Options) -> bool:
        """Compare and write; False when there are more rejects now, and nothing was written."""
        plan: TablePlan | None = None
        try:
            with self._tx.transaction():
                plan = self._target.plan(self.desired, self._tx, without_rejects=self._rejects.begun)
            if self._checkpoint.foresee(self._foresee, plan, options):
                return False
            with self._tx.transaction():
                self._write(plan, options)
        except WithoutKey:
            self._rejects.begin(self._target.fitted(self.desired, self._tx)[0])
            return False
        except psycopg.Error as error:
            if not is_about_data(error) or not self._set_aside(plan, options):
                raise
            return False
        return True

    def _foresee(self, plan: TablePlan, options: Options) -> bool:
        """Whether the table would refuse records: a preview writes nothing, so that is found by looking."""
        if not (plan.outcome.inserted or plan.outcome.updated):
            return False
        swept = self._swept(plan, options).sweep
        stays = deletes.stays(swept) if swept and not plan.merge.marks else None
        found = self._rejects.check(plan.merge, plan.table, plan.counts.read, stays)
        self._tx.execute("DROP TABLE IF EXISTS pg_temp.usersync_gone")
        return found

    def _set_aside(self, plan: TablePlan | None, options: Options) -> bool:
        """Whether the records were found that the transform (without a plan) or the table can't take."""
        if plan is None:
            merge, _ = self._target.fitted(self.desired, self._tx)
            return self._rejects.transform(merge, self._step.transform, list(self._stages.values()))
        return self._rejects.refused(
            plan.merge, plan.table, plan.counts.read, lambda: self._target.prepare(self._swept(plan, options), self._tx)
        )

    def _swept(self, plan: TablePlan, options: Options) -> TablePlan:
        """The plan with the rows that have left the source, if the step removes any."""
        if self._step.load.on_missing == "keep":
            return plan
        unknown = self._rejects.unknown()
        swept = guard.look(self._tx, self._scope(), self._step.load, plan.merge, plan.outcome, unknown=unknown)
        guard.decide(self._tx, swept, options.approve_deletes)
        return replace(plan, sweep=swept)

    def _write(self, plan: TablePlan, options: Options) -> None:
        left_out = self._rejects.finish(plan.merge, plan.counts.read)
        plan = self._swept(plan, options)
        self.refusal = plan.sweep.refusal if plan.sweep else None
        self._done.counts, self._done.duplicate_keys = plan.counts, plan.outcome.duplicate_keys
        self._done.counts += left_out
        self._checkpoint.load(self._target, plan, self._step.name, self._tx)
        self._checkpoint.keep(self._written, plan)
        self._checkpoint.tell(self._rejects.changes(plan.merge))

    def _written(self, plan: TablePlan) -> None:
        """Look, after the write, whether a trigger changed rows, and remember the keys of those that are there."""
        self._normalised = self._target.normalised(plan, self._tx)
        if plan.sweep:
            deletes.finish(self._tx, plan.sweep, plan.merge)

    def _scope(self) -> Scope:
        """What the memory of this step is filed under, and what makes it another step."""
        load = self._step.load
        text = repr((sorted(self._step.extract.items()), self._step.transform, load.table, list(load.key)))
        return Scope(
            job=self._job,
            step=self._step.name,
            run_id=self._checkpoint.run_id,
            target=f"{load.table} ({', '.join(load.key)})",
            fingerprint=hashlib.sha256(text.encode()).hexdigest(),
            account=", ".join(reader.session.account for reader in self._readers),
            window=load.missing_window,
        )

    def left_out(self) -> PartialError | None:
        """What the step's end says while rejects wait, be they of an earlier run."""
        number = self._checkpoint.keep(self._rejects.waiting) or self._checkpoint.foresee(self._rejects.would_wait)
        return self._rejects.left_out(number) if number else None

    def record(self) -> None:
        """Counts, rejects and cursors, in the transaction of the rows that they stand for."""
        counts, step, run_id = self._done.counts, self._step.name, self._checkpoint.run_id
        if not counts.adds_up():
            raise VerificationFailed(
                f"step {step}: the counts do not add up: {counts}", hint="does the transform give other rows each time (random(), LIMIT)?"
            )
        self._rejects.store(run_id)
        self._normalised_again = self._normalised > 0 and ledger.normalised_before(self._tx, self._job, step)
        ledger.count(self._tx, run_id, step, counts, bytes_=self._done.bytes, normalised=self._normalised, done=True)
        for reader in self._readers:
            for stream, cursor in reader.cursors.items():
                version = self._stored[stream].version if stream in self._stored else 0
                account, rows = reader.session.account, self._rows[stream]
                ledger.advance(self._tx, self._job, step, stream, cursor, version=version, account=account, rows=rows)

    def warn(self) -> None:
        """Log what went well enough, and should be looked at by day."""
        logger = log.get(job=self._job, step=self._step.name)
        if self._done.duplicate_keys:
            kept = self._step.load.order_by or "any"
            logger.warning("key occurred more than once", records=self._done.counts.duplicates, kept=kept)
        if self._normalised_again:
            logger.warning("a trigger of the target changes what is written, so these rows change in every run", rows=self._normalised)
