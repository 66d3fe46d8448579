"""One page of documents in one transaction: staged, compared, written; whoever can't be loaded is found and set aside.

What fails is taken back to a savepoint. Then the transform is tried record by record inside the server, the constraints
of the table are looked at, and only what neither explains is halved.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Protocol

import psycopg
from psycopg import sql

from usersync_cli import constraints, stage
from usersync_cli import merge as merging
from usersync_cli.arrays import Texts, texts
from usersync_cli.aside import Aside
from usersync_cli.catalog import Table
from usersync_cli.connections import Connection, identifier
from usersync_cli.errors import Drift
from usersync_cli.merge import ASIDE, Merge, key_text
from usersync_cli.model import Change, Column, Counts, Desired, Record
from usersync_cli.rejects import BAD, HALF_FROM, NO_KEY, Reject, condition, detail, is_about_data, reason
from usersync_cli.seen import NO_ROW, UNKNOWN, Met
from usersync_cli.targets.postgres import Plan, Target

KEY_DIFFERS = "key_differs"  # the transform gives the row another key than the record's
PAIRS = 16  # records that fail alone, and may still fit together
_FROM_PAGE = sql.SQL("SELECT * FROM pg_temp.usersync_page")  # what the transform gave
_SENT = "SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS g(key, data, version, ord)"
_TEMPORARY = """
DROP TABLE IF EXISTS pg_temp.usersync_page, pg_temp.usersync_changes, pg_temp.usersync_duplicates, pg_temp.usersync_aside
"""


@dataclass(slots=True)
class Item:
    """A record that is to be loaded, and what became of it."""

    record: Record
    document: bytes = field(repr=False)  # UTF-8
    version: str | None
    listed: bytes | None  # hash of what was listed; None: to be fetched again next time
    hash: bytes  # of its document
    before: Met = UNKNOWN
    again: bool = False  # of a dry run: an earlier page had it too
    left_out: bool = False  # the transform gives no row for it
    reject: Reject | None = None

    @property
    def held(self) -> bytes:
        """What the target has of it, once it is loaded."""
        return NO_ROW if self.left_out else self.hash


class Into(Protocol):
    """Where a page goes, and how."""

    target: Target
    transform: str
    stage: str
    fitted: tuple[Merge, Table] | None

    def columns(self) -> list[Column]: ...


class OddKeys(Exception):
    """Rows whose key is that of no record of the page."""

    def __init__(self, *, empty: bool) -> None:
        super().__init__()
        self.reason = NO_KEY if empty else KEY_DIFFERS


class Loader:
    """Loads records of one stream in a transaction that has begun; without `write` only finds out, and tells `diff`.

    Where `all_may_fail`, that all of them do says nothing of the transform: they have failed before.
    """

    def __init__(  # noqa: PLR0913  how, beside where
        self,
        tx: Connection,
        step: str,
        into: Into,
        *,
        write: bool,
        diff: Callable[[Change], bool] | None = None,
        all_may_fail: bool = False,
    ) -> None:
        self._tx, self._step, self._into, self._write, self._diff = tx, step, into, write, diff
        self._all_may_fail = all_may_fail
        self.counts = Counts()
        self.loaded: list[Item] = []  # those that are left out too
        self.rejects: list[Reject] = []
        self.normalised = 0
        self._alone: list[tuple[Item, str, str]] = []  # what fails alone: reason, detail

    @property
    def left_out(self) -> list[Item]:
        return [item for item in self.loaded if item.left_out]

    def load(self, items: Sequence[Item]) -> None:
        """All of these, but for those that can't be loaded: they are rejects."""
        for item in items:
            if item.reject:  # no document at all
                self._set_aside(item, item.reject.reason, item.reject.detail)
        self._split([item for item in items if not item.reject], search=True)
        self._try_again()
        for item, reason_, detail_ in self._alone:
            self._set_aside(item, reason_, detail_)
        self._alone = []

    def _set_aside(self, item: Item, reason_: str, detail_: str) -> None:
        # read, and set aside: it was counted as read when it came
        item.reject = Reject(item.record.key, reason_, detail_, item.record.data, item.version)
        self.rejects.append(item.reject)
        self.counts.rejected += 1
        if self._diff:
            (name, *_) = self._into.target.load.key
            told = f"{reason_} ({detail_})" if detail_ else reason_
            self._diff(Change(self._step, "reject", {name: item.record.key}, reason=told))

    def _split(self, items: Sequence[Item], *, search: bool) -> None:
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
            self._blame(items, (odd.reason, ""), None, search=search)

    def _blame(self, items: Sequence[Item], blamed: tuple[str, str], bad: Mapping[str, tuple[str, str]] | None, *, search: bool) -> None:
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

    def _fits(self, some: Sequence[tuple[Item, str, str]]) -> bool:
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

    def _attempt(self, items: Sequence[Item]) -> None:
        """Stage, compare and write, in a savepoint. Raises what PostgreSQL says of a record, or OddKeys."""
        counts, normalised = Counts(), 0
        with self._tx.transaction():
            plan, left_out = self._plan(items)
            counts += plan.counts
            if self._write:
                self._into.target.apply(plan, self._tx)
                normalised = self._into.target.normalised(plan, self._tx)
            elif plan.outcome.inserted or plan.outcome.updated:
                self._foresee(plan)
            self._tell(plan)
            self._drop()
        if self._write and plan.table:
            self._into.fitted = (plan.merge, plan.table)
        self._count(counts, items, left_out)
        self.normalised += normalised
        self.loaded += items

    def _count(self, counts: Counts, items: Sequence[Item], left_out: set[str]) -> None:
        """Records were counted as read when they came: one that gives no row is none, one that gives several is several."""
        for item in items:
            item.left_out = item.record.key in left_out
        counts.read -= len(items)
        if items[0].again:  # the row would be there by then
            counts.updated += counts.inserted + counts.unchanged
            counts.inserted = counts.unchanged = 0
        self.counts += counts

    def _plan(self, items: Sequence[Item]) -> tuple[Plan, set[str]]:
        """What would change, and the keys of those for whom the transform gives no row.

        The transform runs once, over the page as parameters; what it gives is kept in PAGE, and compared from there.
        """
        into, tx = self._into, self._tx
        merge, table = self._fit()
        columns = _columns(items)
        make = sql.SQL("CREATE TEMP TABLE usersync_page ON COMMIT DROP AS SELECT * FROM ({}) AS v").format(self._transform(_SENT))
        psycopg.RawCursor(tx).execute(make.as_string(tx), columns)
        merge = replace(merge, transform=_FROM_PAGE, sums=False)
        left_out = self._check_keys(merge, columns[0])
        if table is None:
            plan = into.target.plan(Desired(_FROM_PAGE, len(items), part=True), tx)
            return replace(plan, merge=replace(plan.merge, sums=False)), left_out
        return Plan(merge, merging.compare(tx, merge, rows=len(items)), table), left_out

    def _fit(self) -> tuple[Merge, Table | None]:
        """How the stream goes into its table. Until a page was written, looked at over an empty stage."""
        into = self._into
        if into.fitted:
            return into.fitted
        with self._tx.transaction(force_rollback=True):
            staged = stage.create(self._tx, into.stage, into.columns())
            return into.target.fit(replace(stage.desired(into.transform, [staged], 0), part=True), self._tx)

    def _transform(self, records: str) -> sql.Composable:
        """The transform over these rows: a SELECT of key, data, version, ord."""
        (_, _, version, *_) = self._into.columns()
        # OFFSET 0: the documents are parsed here, once, and not wherever the transform mentions them
        part = sql.SQL("(SELECT key, data::jsonb AS data, version::{}, false AS deleted, ord FROM ({}) AS g OFFSET 0) AS part").format(
            stage.type_sql(version.type), sql.SQL(records)
        )
        return stage.desired(self._into.transform, [stage.Stage(self._into.stage, sql.Composed([part]), temporary=False)], 1).transform

    def _check_keys(self, merge: Merge, keys: Texts) -> set[str]:
        """Each row has the key of its record; whoever has no row is left out."""
        found = self._tx.execute(
            sql.SQL("""
                SELECT s.key, w.key FROM unnest(%s) AS s(key) FULL JOIN (SELECT {key} AS key FROM ({wanted}) AS w) AS w ON w.key = s.key
                 WHERE s.key IS NULL OR w.key IS NULL
            """).format(key=key_text(merge.key, "w"), wanted=merge.wanted),
            (keys,),
        ).fetchall()
        if any(mine is None for mine, _ in found):
            raise OddKeys(empty=all(theirs is None for mine, theirs in found if mine is None))
        return {mine for mine, _ in found}

    def _drop(self) -> None:
        """A transaction may load several times."""
        self._tx.execute(_TEMPORARY)

    def _tell(self, plan: Plan) -> None:
        if self._diff:
            with closing(self._into.target.changes(plan, self._step, self._tx)) as changes:
                all(self._diff(change) for change in changes)

    def _foresee(self, plan: Plan) -> None:
        """A preview writes nothing: what the table would refuse is found by looking. Raises as if it had been written."""
        if bad := self._refused(plan):
            raise _Foreseen(bad)

    # who is to blame

    def _find(self, items: Sequence[Item]) -> Mapping[str, tuple[str, str]]:
        """Reason and detail by key, of those that fail by themselves; empty where that does not explain it."""
        with self._tx.transaction(force_rollback=True):
            found = self._one_by_one(items)
        everybody = len(found) == len(items) >= HALF_FROM and not self._all_may_fail
        if everybody and {why for why, _ in found.values()} == {KEY_DIFFERS}:
            raise Drift(
                "the transform gives its rows other keys than those of their records",
                hint=f"the load's key has to be the record's own: SELECT key AS {self._into.target.load.key[0]}, ...",
            )
        if found:
            return found
        with self._tx.transaction(force_rollback=True):
            try:
                plan, _ = self._plan(items)
            except psycopg.Error:
                return {}
            return self._refused(plan)

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

    def _one_by_one(self, items: Sequence[Item]) -> dict[str, tuple[str, str]]:
        """The transform and its casts, tried for each record in a subtransaction of its own, all inside the server."""
        tx = self._tx
        merge, _ = self._fit()
        tx.execute("CREATE TEMP TABLE usersync_one (key text, data text, version text, ord bigint) ON COMMIT DROP")
        tx.execute("CREATE TEMP TABLE usersync_failed (key text, state text, col text, con text, tab text) ON COMMIT DROP")
        psycopg.RawCursor(tx).execute(f"INSERT INTO pg_temp.usersync_one {_SENT}", _columns(items))
        one = "SELECT p.* FROM pg_temp.usersync_one AS p WHERE p.ctid = usersync_row.usersync_at"
        tried = replace(merge, transform=self._transform(one))
        tag = sql.SQL(f"$usersync_{secrets.token_hex(8)}$")
        tries = [sql.SQL("PERFORM count(w.{}) FROM ({}) AS w;").format(f.column, tried.wanted) for f in merge.fields]
        statement = sql.SQL(_TRY).format(
            tag=tag,
            bad=sql.SQL(BAD),
            key=key_text(merge.key, "w"),
            without=sql.SQL(" OR ").join(sql.SQL("w.{} IS NULL").format(identifier(name)) for name in merge.key),
            tried=tried.wanted,
            no_key=sql.Literal(NO_KEY),
            key_differs=sql.Literal(KEY_DIFFERS),
            last=sql.Literal(len(tries)),
            cases=sql.SQL(" ").join(sql.SQL("WHEN {} THEN {}").format(sql.Literal(i), one) for i, one in enumerate(tries, 1)),
            names=sql.SQL("ARRAY[{}]::text[]").format(sql.SQL(", ").join(sql.Literal(f.name) for f in merge.fields)),
        )
        tx.execute(statement)
        failed = tx.execute("SELECT key, state, col, con, tab FROM pg_temp.usersync_failed").fetchall()
        return {
            key: (state if state in {NO_KEY, KEY_DIFFERS} else condition(state), detail(column, constraint, table))
            for key, state, column, constraint, table in failed
        }


class _Foreseen(psycopg.errors.IntegrityConstraintViolation):
    """What a preview found that the table would refuse."""

    sqlstate = "23000"

    def __init__(self, bad: Mapping[str, tuple[str, str]]) -> None:
        super().__init__()
        self.bad = bad


def _columns(items: Sequence[Item]) -> list[Texts]:
    return [texts(item.record.key for item in items), Texts([item.document for item in items]), texts(item.version for item in items)]


_TRY = """
DO {tag}
#variable_conflict use_column
DECLARE
  usersync_row record;
  usersync_last int := 1;
  usersync_try int;
  usersync_without bigint;
  usersync_odd bigint;
  usersync_state text;
  usersync_column text;
  usersync_constraint text;
  usersync_table text;
BEGIN
  FOR usersync_row IN SELECT p.ctid AS usersync_at, p.key AS usersync_id FROM pg_temp.usersync_one AS p ORDER BY p.ord LOOP
    usersync_state := NULL;
    BEGIN
      SELECT count(*) FILTER (WHERE {without}), count(*) FILTER (WHERE {key} <> usersync_row.usersync_id OR ROW(w.*) IS NULL)
        INTO usersync_without, usersync_odd FROM (SELECT w.* FROM ({tried}) AS w OFFSET 0) AS w;
      IF usersync_without > 0 THEN
        INSERT INTO pg_temp.usersync_failed VALUES (usersync_row.usersync_id, {no_key});
      ELSIF usersync_odd > 0 THEN
        INSERT INTO pg_temp.usersync_failed VALUES (usersync_row.usersync_id, {key_differs});
      END IF;
    EXCEPTION WHEN {bad} THEN
      GET STACKED DIAGNOSTICS usersync_state = RETURNED_SQLSTATE, usersync_column = COLUMN_NAME,
                              usersync_constraint = CONSTRAINT_NAME, usersync_table = TABLE_NAME;
    END;
    CONTINUE WHEN usersync_state IS NULL;
    -- which column it is: first the one that it was the last time
    FOR usersync_i IN 0 .. {last} LOOP
      usersync_try := CASE usersync_i WHEN 0 THEN usersync_last ELSE usersync_i END;
      BEGIN
        CASE usersync_try {cases} END CASE;
      EXCEPTION WHEN {bad} THEN
        usersync_last := usersync_try;
        usersync_column := ({names})[usersync_last];
        EXIT;
      END;
    END LOOP;
    INSERT INTO pg_temp.usersync_failed
    VALUES (usersync_row.usersync_id, usersync_state, usersync_column, usersync_constraint, usersync_table);
  END LOOP;
END {tag}
"""
