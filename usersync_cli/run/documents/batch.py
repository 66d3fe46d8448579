"""One page of documents in one transaction: staged, compared, written; records that can't be loaded are found and rejected.

What fails is taken back to a savepoint; then `load.bisect` finds the records that are to blame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres.arrays import Texts, texts
from usersync_cli.clients.postgres.catalog import Table
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import Drift
from usersync_cli.load import stage
from usersync_cli.load.bisect import constraints, page
from usersync_cli.load.bisect.attempts import AttemptFailed, Attempts, Cause
from usersync_cli.load.bisect.page import KEY_DIFFERS
from usersync_cli.load.merge import Merge, compare, key_text
from usersync_cli.load.merge.drift import Drifted, drift_of
from usersync_cli.load.rejects import HALF_FROM, NO_KEY, is_about_data, reason
from usersync_cli.load.table import TablePlan
from usersync_cli.model import Change, Counts, Desired
from usersync_cli.run.checkpoint import Checkpoint
from usersync_cli.run.documents.page import PageRecord, Verdict
from usersync_cli.run.documents.stream import StreamLoad, fit
from usersync_cli.state.rejects import Reject

_FROM_PAGE = sql.SQL("SELECT * FROM pg_temp.usersync_page")  # what the transform gave
_SENT = sql.SQL(
    "SELECT * FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[], $3::pg_catalog.text[])"
    " WITH ORDINALITY AS g(key, data, version, ord)"
)
_TEMPORARY = """
DROP TABLE IF EXISTS pg_temp.usersync_page, pg_temp.usersync_changes, pg_temp.usersync_duplicates, pg_temp.usersync_rejects
"""


class OddKeys(AttemptFailed):
    """Rows whose key is that of no record of the page."""

    def __init__(self, lacking: Collection[str], *, empty: bool) -> None:
        super().__init__(Cause(NO_KEY if empty else KEY_DIFFERS))
        self.lacking = lacking  # the records that have no row of their own


class Batch:
    """Loads records of one stream in a transaction that has begun; in a preview it only finds out what would change.

    That all of them have other keys is the transform's mistake where they are `sample` or more; with 0, it says nothing: they
    have failed before.
    """

    def __init__(
        self, tx: Connection, checkpoint: Checkpoint, stream: StreamLoad, sample: int = HALF_FROM, told: Collection[str] = ()
    ) -> None:
        self._tx, self._checkpoint, self._stream, self._sample, self._told = tx, checkpoint, stream, sample, told
        self._step = stream.known.scope.step
        self.counts = Counts()
        self.loaded: list[PageRecord] = []  # those that are left out too
        self.rejects: list[Reject] = []
        self.normalised = 0
        self.drift: Counter[str] = Counter()  # in the fields `told`
        self.rows: dict[str, str] = {}  # how the rows of those that were loaded spell their keys, where that may be otherwise
        self._spelt: dict[str, str] = {}  # of this attempt: keys as the transform gives them, and as the source does

    @property
    def left_out(self) -> list[PageRecord]:
        return [item for item in self.loaded if item.left_out]

    def load(self, items: Sequence[PageRecord]) -> None:
        """Load these records; those that can't be loaded become rejects."""
        for item in items:
            if item.reject:  # no document at all
                self._set_aside(item, Cause(item.reject.reason, item.reject.detail))
        Attempts(self._try, self._find, self._set_aside).load([item for item in items if not item.reject])

    def _set_aside(self, item: PageRecord, cause: Cause) -> None:
        # read, and set aside: it was counted as read when it came
        item.reject = Reject(item.record.key, *cause, item.record.data, item.version)
        self.rejects.append(item.reject)
        self.counts.rejected += 1
        self._checkpoint.tell(self._report(item, cause))

    def _report(self, item: PageRecord, cause: Cause) -> Iterator[Change]:
        (name, *_) = self._stream.target.load.key
        why = f"{cause.reason} ({cause.detail})" if cause.detail else cause.reason
        yield Change(self._step, "reject", {name: item.record.key}, reason=why)

    # all of them, or none

    def _try(self, items: Sequence[PageRecord]) -> None:
        """`_attempt`, as the search for bad records wants it: raises AttemptFailed where one of these is to blame."""
        try:
            self._attempt(items)
        except psycopg.Error as error:
            if not is_about_data(error):
                raise
            raise AttemptFailed(Cause(*reason(error))) from error

    def _attempt(self, items: Sequence[PageRecord]) -> None:
        """Stage, compare and write, in a savepoint. Raises what PostgreSQL says of a record, or AttemptFailed."""
        counts = Counts()
        with self._tx.transaction():
            plan, left_out = self._plan(items)
            counts += plan.counts
            drift = self._drift(plan)
            self._checkpoint.foresee(self._foresee, plan, items)
            self._apply(plan, items)
            normalised = self._checkpoint.keep(self._stream.target.normalised, plan, self._tx)
            rows = self._checkpoint.keep(self._rows, items, left_out)
            self._drop()
        self._checkpoint.keep(self._fits, plan)
        self.rows |= rows or {}
        self._count(counts, items, left_out)
        self.drift.update(drift)
        self.normalised += normalised or 0
        self.loaded += items

    def _drift(self, plan: TablePlan) -> Drifted:
        """What the log should have brought, where that is compared; a page that changes nothing costs no statement."""
        if not self._told or plan.table is None or not (plan.outcome.inserted or plan.outcome.updated):
            return {}
        return drift_of(self._tx, plan.merge, plan.table, self._told)

    def _fits(self, plan: TablePlan) -> None:
        """Go on with how the stream fits into its table, now that the table is there."""
        if plan.table:
            self._stream.fitted = (plan.merge, plan.table)

    def _rows(self, items: Sequence[PageRecord], left_out: Collection[str]) -> dict[str, str]:
        """How the rows that were just written spell the keys of these."""
        spelling = self._stream.spelling(self._tx)
        if spelling.exact:
            return {key: row for row, key in self._spelt.items()}
        return {key: one.row for key, one in spelling.read(self._tx, [i.record.key for i in items if i.record.key not in left_out]).items()}

    def _apply(self, plan: TablePlan, items: Sequence[PageRecord]) -> None:
        """Write. Where the table refuses somebody, say whom, if that can be found by looking."""
        try:
            self._checkpoint.load(self._stream.target, plan, self._step, self._tx)
        except psycopg.Error as error:
            if is_about_data(error):
                self._foresee(plan, items)
            raise

    def _count(self, counts: Counts, items: Sequence[PageRecord], left_out: set[str]) -> None:
        """Records were counted as read when they came: one that gives no row is none, one that gives several is several."""
        for item in items:
            item.left_out = item.record.key in left_out
        counts.read -= len(items)
        if items[0].verdict is Verdict.LOAD_AGAIN:  # the row would be there by then
            counts.updated += counts.inserted + counts.unchanged
            counts.inserted = counts.unchanged = 0
        self.counts += counts

    def _plan(self, items: Sequence[PageRecord]) -> tuple[TablePlan, set[str]]:
        """What would change, and the keys of those for whom the transform gives no row.

        The transform runs once, over the page as parameters; what it gives is kept in PAGE, and compared from there.
        """
        stream, tx = self._stream, self._tx
        merge, table = self._fit()
        columns = _columns(items)
        make = sql.SQL("CREATE TEMP TABLE usersync_page ON COMMIT DROP AS SELECT * FROM ({}) AS v").format(self._transform(_SENT))
        with stream.own.path(tx):
            psycopg.RawCursor(tx).execute(make.as_string(tx), columns)
        merge = replace(merge, transform=_FROM_PAGE, sums=False)
        left_out = self._check_keys(merge, columns[0])
        if table is None:
            plan = stream.target.plan(Desired(_FROM_PAGE, len(items), part=True), tx)
            return replace(plan, merge=replace(plan.merge, sums=False)), left_out
        return TablePlan(merge, compare.compare(tx, merge, rows=len(items)), table), left_out

    def _fit(self) -> tuple[Merge, Table | None]:
        """How the stream goes into its table. Until a page was written, looked at over an empty stage."""
        return self._stream.fitted or fit(self._tx, self._stream)

    def _transform(self, records: sql.Composable) -> sql.Composable:
        """The transform over these rows: a SELECT of key, data, version, ord."""
        (_, _, version, *_) = self._stream.columns()
        # OFFSET 0: the documents are parsed here, once, and not wherever the transform mentions them
        part = sql.SQL(
            "(SELECT key, data::pg_catalog.jsonb AS data, version::{}, false AS deleted, ord FROM ({}) AS g OFFSET 0) AS part"
        ).format(stage.type_sql(version.type), records)
        return stage.over(self._stream.transform, [stage.Stage(self._stream.stage, sql.Composed([part]), temporary=False)])

    def _check_keys(self, merge: Merge, keys: Texts) -> set[str]:
        """Each row has the key of its record, in the type of its column; whoever has no row is left out."""
        self._spelt = {}
        found = self._tx.execute(
            sql.SQL("""
                SELECT s.key, w.key FROM unnest(%s) AS s(key) FULL JOIN (SELECT {key} AS key FROM ({wanted}) AS w) AS w ON w.key = s.key
                 WHERE s.key IS NULL OR w.key IS NULL
            """).format(key=key_text(merge.key, "w"), wanted=merge.wanted),
            (keys,),
        ).fetchall()
        lacking = {mine for mine, _ in found if mine is not None}
        odd = {theirs for mine, theirs in found if mine is None}
        if odd - {None}:
            self._spelt = self._respelt(merge, sorted(lacking), odd - {None})
        if odd - set(self._spelt):
            raise OddKeys(lacking - set(self._spelt.values()), empty=odd == {None})
        return lacking - set(self._spelt.values())

    def _respelt(self, merge: Merge, keys: Sequence[str], rows: Collection[str]) -> dict[str, str]:
        """Which of these rows have the keys of which records, when the type of the key column compares them."""
        spelling = self._stream.spelling(self._tx)
        same = merge.same("w", "s")
        query = sql.SQL("SELECT DISTINCT {}, s.usersync_key FROM ({}) AS s JOIN ({}) AS w ON {}").format(
            key_text(merge.key, "w"), spelling.typed, merge.wanted, same
        )
        found = spelling.ask(self._tx, query, keys)
        return {row: key for row, key in found if row in rows}

    def _drop(self) -> None:
        """A transaction may load several times."""
        self._tx.execute(_TEMPORARY)

    def _foresee(self, plan: TablePlan, items: Sequence[PageRecord]) -> None:
        """Look for those that the table would refuse, and raise AttemptFailed as if they had been written; a preview writes nothing."""
        if plan.table is None or not (plan.outcome.inserted or plan.outcome.updated):
            return
        bad = constraints.refused(self._tx, plan.merge, plan.table)
        if places := _places(items, {self._spelt.get(key, key): cause for key, cause in bad.items()}):
            raise AttemptFailed(Cause("integrity_constraint_violation"), places)

    # who is to blame

    def _find(self, items: Sequence[PageRecord], refused: AttemptFailed) -> dict[int, Cause]:
        """Those on whom the transform or a cast fails, or whose rows have other keys; by place, empty where that explains nothing."""
        return _places(items, self._odd(items, refused) if isinstance(refused, OddKeys) else self._failing(items))

    def _failing(self, items: Sequence[PageRecord], *, each: bool = False) -> dict[str, Cause]:
        """Those on whom the transform or a cast fails, by key. With `each`, also those who have rows with another key, or with none."""
        if not items:
            return {}
        merge, _ = self._fit()
        keys = [item.record.key for item in items]
        with self._tx.transaction(force_rollback=True):
            spelling = self._stream.spelling(self._tx)
            tried = replace(merge, transform=self._transform(page.PART))
            failing = page.failing(self._tx, tried, self._stream.own, spelling, _columns(items), keys, each=each)
        return {keys[place]: cause for place, cause in failing.items()}

    def _odd(self, items: Sequence[PageRecord], odd: OddKeys) -> dict[str, Cause]:
        """Those whose rows have keys of no record. Rows without any mostly are those of records that have no row of their own."""
        suspects = [item for item in items if item.record.key in odd.lacking] if odd.cause.reason == NO_KEY else []
        found = self._failing(suspects, each=True) or self._failing(items, each=True)
        everybody = self._sample and len(found) == len(items) >= self._sample
        if everybody and {cause.reason for cause in found.values()} == {KEY_DIFFERS}:
            raise Drift(
                "the transform gives its rows other keys than those of their records",
                hint=f"the load's key has to be the record's own: SELECT key AS {self._stream.target.load.key[0]}, ...",
            )
        return found


def _places(items: Sequence[PageRecord], bad: Mapping[str, Cause]) -> dict[int, Cause]:
    return {place: bad[item.record.key] for place, item in enumerate(items) if item.record.key in bad}


def _columns(items: Sequence[PageRecord]) -> list[Texts]:
    return [texts(item.record.key for item in items), Texts([item.document for item in items]), texts(item.version for item in items)]
