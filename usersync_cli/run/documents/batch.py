"""One page of documents in one transaction: staged, compared, written; whoever can't be loaded is found and set aside.

What fails is taken back to a savepoint. Then the transform is tried record by record inside the server, the constraints
of the table are looked at, and only what neither explains is halved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres.arrays import Texts, texts
from usersync_cli.clients.postgres.catalog import Table
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import Drift
from usersync_cli.load import constraints, stage
from usersync_cli.load import merge as merging
from usersync_cli.load.merge import ASIDE, Merge, key_text
from usersync_cli.load.rejects import HALF_FROM, NO_KEY, condition, detail, is_about_data, reason
from usersync_cli.load.table import Plan
from usersync_cli.model import Change, Counts, Desired
from usersync_cli.run.documents.record import PageRecord
from usersync_cli.run.documents.search import KEY_DIFFERS, PART, SEARCH, searching, trying
from usersync_cli.run.documents.stream import StreamLoad, fit
from usersync_cli.run.tables.rejects import Aside
from usersync_cli.state.rejects import Reject

DOCUMENT = "the document itself"  # instead of a column: PostgreSQL can't read it
PAIRS = 16  # records that fail alone, and may still fit together
_FROM_PAGE = sql.SQL("SELECT * FROM pg_temp.usersync_page")  # what the transform gave
_SENT = sql.SQL(
    "SELECT * FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[], $3::pg_catalog.text[])"
    " WITH ORDINALITY AS g(key, data, version, ord)"
)
_TEMPORARY = """
DROP TABLE IF EXISTS pg_temp.usersync_page, pg_temp.usersync_changes, pg_temp.usersync_duplicates, pg_temp.usersync_aside
"""


class OddKeys(Exception):
    """Rows whose key is that of no record of the page."""

    def __init__(self, lacking: Collection[str], *, empty: bool) -> None:
        super().__init__()
        self.reason = NO_KEY if empty else KEY_DIFFERS
        self.lacking = lacking  # the records that have no row of their own


class Batch:
    """Loads records of one stream in a transaction that has begun; without `write` only finds out, and tells `diff`.

    That all of them have other keys is the transform's mistake where they are `sample` or more; with 0, it says nothing: they
    have failed before.
    """

    def __init__(  # noqa: PLR0913  how, beside where
        self,
        tx: Connection,
        step: str,
        stream: StreamLoad,
        *,
        write: bool,
        diff: Callable[[Change], bool] | None = None,
        sample: int = HALF_FROM,
    ) -> None:
        self._tx, self._step, self._stream, self._write, self._diff = tx, step, stream, write, diff
        self._sample = sample
        self.counts = Counts()
        self.loaded: list[PageRecord] = []  # those that are left out too
        self.rejects: list[Reject] = []
        self.normalised = 0
        self.rows: dict[str, str] = {}  # how the rows of those that were loaded spell their keys, where that may be otherwise
        self._spelt: dict[str, str] = {}  # of this attempt: keys as the transform gives them, and as the source does
        self._alone: list[tuple[PageRecord, str, str]] = []  # what fails alone: reason, detail

    @property
    def left_out(self) -> list[PageRecord]:
        return [item for item in self.loaded if item.left_out]

    def load(self, items: Sequence[PageRecord]) -> None:
        """All of these, but for those that can't be loaded: they are rejects."""
        for item in items:
            if item.reject:  # no document at all
                self._set_aside(item, item.reject.reason, item.reject.detail)
        self._split([item for item in items if not item.reject], search=True)
        self._try_again()
        for item, reason_, detail_ in self._alone:
            self._set_aside(item, reason_, detail_)
        self._alone = []

    def _set_aside(self, item: PageRecord, reason_: str, detail_: str) -> None:
        # read, and set aside: it was counted as read when it came
        item.reject = Reject(item.record.key, reason_, detail_, item.record.data, item.version)
        self.rejects.append(item.reject)
        self.counts.rejected += 1
        if self._diff:
            (name, *_) = self._stream.target.load.key
            told = f"{reason_} ({detail_})" if detail_ else reason_
            self._diff(Change(self._step, "reject", {name: item.record.key}, reason=told))

    def _split(self, items: Sequence[PageRecord], *, search: bool) -> None:
        """Load these; what fails is searched for the records that are to blame, or halved until they stand alone."""
        if not items:
            return
        try:
            self._attempt(items)
        except psycopg.Error as error:
            if not is_about_data(error):
                raise
            self._blame(items, reason(error), getattr(error, "bad", None), search=search)
        except OddKeys as odd:
            self._blame(items, (odd.reason, ""), self._odd(items, odd) if search else {}, search=search)

    def _blame(
        self, items: Sequence[PageRecord], blamed: tuple[str, str], bad: Mapping[str, tuple[str, str]] | None, *, search: bool
    ) -> None:
        """Set those aside that are to blame, and load the rest; where nobody stands out, halve them."""
        if bad is None:
            bad = self._find(items) if search else {}
        if len(items) == 1 and not bad:
            self._alone.append((items[0], *blamed))
            return
        for item in items:
            if item.record.key in bad:
                self._set_aside(item, *bad[item.record.key])
        if bad:
            self._split([item for item in items if item.record.key not in bad], search=True)
            return
        middle = len(items) // 2
        self._split(items[:middle], search=False)
        self._split(items[middle:], search=False)

    def _try_again(self) -> None:
        """Whoever failed alone may fit now that the others are there; or several of them together, like two who swap names."""
        tried = True
        while tried and self._alone:
            tried = any(self._fits([one]) for one in list(self._alone))
        if len(self._alone) > 1 and not self._fits(list(self._alone)) and len(self._alone) <= PAIRS:
            everybody = list(self._alone)
            any(self._fits([other for other in everybody if other is not one]) for one in everybody)
            for position, one in enumerate(everybody):
                for other in everybody[position + 1 :]:
                    if one in self._alone and other in self._alone:
                        self._fits([one, other])

    def _fits(self, some: Sequence[tuple[PageRecord, str, str]]) -> bool:
        try:
            self._attempt([item for item, _, _ in some])
        except OddKeys:
            return False
        except psycopg.Error as error:
            if not is_about_data(error):
                raise
            return False
        self._alone = [one for one in self._alone if one not in some]
        return True

    # all of them, or none

    def _attempt(self, items: Sequence[PageRecord]) -> None:
        """Stage, compare and write, in a savepoint. Raises what PostgreSQL says of a record, or OddKeys."""
        counts, normalised = Counts(), 0
        with self._tx.transaction():
            plan, left_out = self._plan(items)
            counts += plan.counts
            if self._write:
                self._apply(plan)
                normalised = self._stream.target.normalised(plan, self._tx)
            elif plan.outcome.inserted or plan.outcome.updated:
                self._foresee(plan)
            self._tell(plan)
            rows = self._rows(items, left_out) if self._write else {}
            self._drop()
        if self._write and plan.table:
            self._stream.fitted = (plan.merge, plan.table)
        self.rows |= rows
        self._count(counts, items, left_out)
        self.normalised += normalised
        self.loaded += items

    def _rows(self, items: Sequence[PageRecord], left_out: Collection[str]) -> dict[str, str]:
        """How the rows that were just written spell the keys of these."""
        spelling = self._stream.spelling(self._tx)
        if spelling.exact:
            return {key: row for row, key in self._spelt.items()}
        return {key: one.row for key, one in spelling.read(self._tx, [i.record.key for i in items if i.record.key not in left_out]).items()}

    def _apply(self, plan: Plan) -> None:
        """Write. Where the table refuses somebody, say whom, if that can be found by looking."""
        try:
            self._stream.target.apply(plan, self._tx)
        except psycopg.Error as error:
            if is_about_data(error):
                self._foresee(plan)
            raise

    def _count(self, counts: Counts, items: Sequence[PageRecord], left_out: set[str]) -> None:
        """Records were counted as read when they came: one that gives no row is none, one that gives several is several."""
        for item in items:
            item.left_out = item.record.key in left_out
        counts.read -= len(items)
        if items[0].again:  # the row would be there by then
            counts.updated += counts.inserted + counts.unchanged
            counts.inserted = counts.unchanged = 0
        self.counts += counts

    def _plan(self, items: Sequence[PageRecord]) -> tuple[Plan, set[str]]:
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
        return Plan(merge, merging.compare(tx, merge, rows=len(items)), table), left_out

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

    def _tell(self, plan: Plan) -> None:
        if self._diff:
            with closing(self._stream.target.changes(plan, self._step, self._tx)) as changes:
                all(self._diff(change) for change in changes)

    def _foresee(self, plan: Plan) -> None:
        """Look for those that the table would refuse, and raise as if they had been written; a preview writes nothing."""
        if bad := self._refused(plan):
            raise _Foreseen({self._spelt.get(key, key): why for key, why in bad.items()})

    # who is to blame

    def _find(self, items: Sequence[PageRecord], *, each: bool = False) -> dict[str, tuple[str, str]]:
        """Reason and detail by key, of those on whom the transform or a cast fails; empty where that does not explain it.

        With `each`, also of those who have rows with another key, or with none: then every record is tried by itself.
        """
        if not items:
            return {}
        merge, _ = self._fit()
        with self._tx.transaction(force_rollback=True):
            spelling = self._stream.spelling(self._tx)
            self._tx.execute("CREATE TEMP SEQUENCE usersync_at")
            tried = replace(merge, transform=self._transform(PART))
            with self._stream.own.path(self._tx):  # which the inner one takes over
                self._tx.execute(trying(tried, spelling, self._tx))
            self._tx.execute(searching(tried, spelling, self._tx))
            parts = spelling.parts([item.record.key for item in items])
            values = [*_columns(items), each or len(items) == 1, *parts]
            call = SEARCH.format(", ".join(f"${i + 1}" for i in range(len(values))))
            found = psycopg.RawCursor(self._tx).execute(call.encode(), values).fetchall()
        return {
            items[number - 1].record.key: (
                state if state in {NO_KEY, KEY_DIFFERS} else condition(state),
                DOCUMENT if column == "" else detail(column, constraint, table),
            )
            for number, state, column, constraint, table in found
        }

    def _odd(self, items: Sequence[PageRecord], odd: OddKeys) -> dict[str, tuple[str, str]]:
        """The same where rows have keys of no record. Rows without any mostly are those of records that have no row of their own."""
        suspects = [item for item in items if item.record.key in odd.lacking] if odd.reason == NO_KEY else []
        found = self._find(suspects, each=True) or self._find(items, each=True)
        everybody = self._sample and len(found) == len(items) >= self._sample
        if everybody and {why for why, _ in found.values()} == {KEY_DIFFERS}:
            raise Drift(
                "the transform gives its rows other keys than those of their records",
                hint=f"the load's key has to be the record's own: SELECT key AS {self._stream.target.load.key[0]}, ...",
            )
        return found

    def _refused(self, plan: Plan) -> dict[str, tuple[str, str]]:
        """Those whom the constraints of the table refuse."""
        if plan.table is None or not (plan.outcome.inserted or plan.outcome.updated):
            return {}
        broken = constraints.conditions(self._tx, plan.merge, plan.table)
        if not broken:
            return {}
        Aside(self._tx, "", self._step).begin(plan.merge)
        for one in broken:
            constraints.set_aside(self._tx, plan.merge, one)
        query = sql.SQL("SELECT {}, usersync_reason, usersync_detail FROM {} AS a").format(key_text(plan.merge.key, "a"), ASIDE)
        return {key: (why, where or "") for key, why, where in self._tx.execute(query).fetchall()}


class _Foreseen(psycopg.errors.IntegrityConstraintViolation):
    """What a preview found that the table would refuse."""

    sqlstate = "23000"

    def __init__(self, bad: Mapping[str, tuple[str, str]]) -> None:
        super().__init__()
        self.bad = bad


def _columns(items: Sequence[PageRecord]) -> list[Texts]:
    return [texts(item.record.key for item in items), Texts([item.document for item in items]), texts(item.version for item in items)]
