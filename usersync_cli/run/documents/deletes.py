"""Deletes of a stream: candidates from a complete listing or from what the source reports, their proof, and the guard."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from psycopg import sql

from usersync_cli import log
from usersync_cli.clients.postgres.arrays import texts
from usersync_cli.clients.postgres.catalog import Table, describe
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar
from usersync_cli.load.deletes import candidates, guard, proof
from usersync_cli.load.deletes.candidates import CANDIDATES
from usersync_cli.load.deletes.guard import Sweep
from usersync_cli.load.deletes.proof import DeleteVerdict
from usersync_cli.load.known import LEFT_OUT, TOLD, Gone, Known, OpenSweep
from usersync_cli.load.merge import Merge, key_text
from usersync_cli.load.merge.compare import Outcome
from usersync_cli.load.merge.drift import LEFT
from usersync_cli.load.table import TablePlan
from usersync_cli.load.table.create import MARK
from usersync_cli.model import Page
from usersync_cli.ports import BelongsTo, Session, TellsWhoIsGone
from usersync_cli.run.checkpoint import Checkpoint
from usersync_cli.run.context import Options
from usersync_cli.run.documents.page import Leaving, PagePlan, Verdict, keys_of
from usersync_cli.run.documents.stream import StreamLoad, fit
from usersync_cli.state import rejects


class StreamDeletes:
    """Finds the records that left, and removes their rows, for the streams of one step in one run."""

    def __init__(self, connection: Callable[[], Connection], session: Session, step: str, options: Options, checkpoint: Checkpoint) -> None:
        self._connection, self._session, self._step, self._options, self._checkpoint = connection, session, step, options, checkpoint
        self._children: dict[str, list[StreamLoad]] = {}  # streams whose records belong to those of this one
        self._along: list[tuple[StreamLoad, int]] = []  # what the checkpoint under way took along, of which streams

    def measure(self, stream: StreamLoad) -> None:
        """Count the rows of a table that is taken over as known before; rows that come with the reading do not count."""
        known = stream.known
        if isinstance(self._session, BelongsTo) and stream.removes and (belongs := self._session.parent(stream.name)):
            self._children.setdefault(belongs[0], []).append(stream)
        if stream.load.adopt_existing and not known.memory.adopted and (table := describe(self._connection(), stream.load.table)):
            query = sql.SQL("SELECT count(*) FROM {} AS t WHERE {}").format(table.name, _there(stream))
            rows = scalar(self._connection(), query)
            known.known_before = max(known.known_before, rows)

    def look(self, plan: PagePlan, page: Page) -> Leaving:
        """The records that the listing which ends with this page lacks, and which of them are gone for sure."""
        stream = plan.stream
        known, load = stream.known, stream.load
        open_ = known.sweep if known.sweep and known.sweep.name == page.sweep else None
        if open_ and not open_.keyed:
            return Leaving()
        met = [*plan.present, *(one.remembered_key for one in plan.of(Verdict.TOLD_GONE))]  # of these the source says it itself
        foreseen = self._checkpoint.foresee(self._lacking, stream, met, open_)  # else tables have it
        lacking = candidates.count_lacking(self._connection(), known, met, open_) if foreseen is None else len(foreseen)
        adopted = self._to_adopt(plan, open_) if load.adopt_existing and not known.memory.adopted else {}
        if not lacking and not adopted:
            return Leaving()
        total = listed_before(plan.stream, page) + plan.counts.distinct
        found = Sweep(known.scope, load, known.memory, total, candidates=max(lacking, len(adopted)))
        at_hand = adopted | (foreseen or {})
        reason = guard.judge(found, known.known_at(page.sweep)) or self._kept(found, at_hand)
        if not reason and foreseen is None:
            reason = candidates.kept(self._connection(), known, found, met, open_)
        approved = self._options.approve_deletes
        listed = candidates.listed_keys(self._connection(), known, approved) if approved is not None else set()
        if reason and not listed:
            return Leaving(list(at_hand) or None, reason)
        lack = adopted | (candidates.lacking_keys(self._connection(), known, met, open_) if foreseen is None else foreseen)
        return self._proved(stream, {key: bool(times) for key, times in lack.items() if not listed or key in listed})

    def _kept(self, found: Sweep, keys: Collection[str]) -> str:
        """Why an earlier refusal of these keys still holds: then nobody is asked who is gone."""
        missing = sql.SQL("SELECT unnest(%(keys)s::text[])")
        return guard.kept(self._connection(), found, missing, {"keys": texts(keys)}) if keys else ""

    def _lacking(self, stream: StreamLoad, met: Collection[str], open_: OpenSweep | None) -> dict[str, int]:
        """The keys that the listing of a dry run lacks, whose earlier pages are in no table; how many listings before lacked them too."""
        if not stream.known.memory.id:
            return {}
        pages = candidates.lacking_pages(self._connection(), stream.known, met, open_)
        return {key: times for page in pages for key, times in page if not stream.foreseen.has(key)}

    def _proved(self, stream: StreamLoad, lacking: Mapping[str, bool]) -> Leaving:
        """What `load.deletes.proof` says of these, after a second look at the source where that is possible."""
        found = proof.look_again(self._session, stream.name, lacking)
        return Leaving(found[DeleteVerdict.GOES], first=found[DeleteVerdict.FIRST])

    def _to_adopt(self, plan: PagePlan, open_: OpenSweep | None) -> dict[str, int]:
        """The keys of all rows of a table that is taken over, without those that the source has."""
        stream, met = plan.stream, [*plan.present, *plan.rows.values()]
        table = describe(self._connection(), stream.load.table)
        if table is None:
            return {}
        query = sql.SQL("""
            SELECT t.key, 1 FROM (SELECT {key} AS key FROM {table} AS t WHERE {there}) AS t
              FULL JOIN (SELECT key COLLATE "C" FROM unnest(%s::text[]) AS m(key) {swept} {rows}) AS present ON present.key = t.key
             WHERE present.key IS NULL
        """).format(key=key_text(stream.load.key), table=table.name, there=_there(stream), swept=_swept(open_), rows=_rows(stream.known))
        found = self._connection().execute(query, (texts(met),))
        return {key: times for key, times in found if key not in stream.foreseen.came}

    def told(self, stream: StreamLoad) -> bool:
        """Whether records wait that the source reported as gone, outside of a complete listing, or whose rows the guard has kept."""
        if not stream.removes or (not stream.known.memory.id and not stream.foreseen.departures):
            return False
        return bool(stream.foreseen.departures) or candidates.waits(self._connection(), stream.known)

    def as_they_come(self, plan: PagePlan, known: Known) -> None:
        """Mark, with its page, the row of each record that the page reports as deleted; nobody has to be asked about those.

        A row that was marked because a listing lacked its record is given the time at which the record was deleted, when the
        source reports that afterwards. Rows that are deleted wait for the end of the reading, and a preview tells all of them there.
        """
        if plan.stream.load.on_missing != "mark":
            return
        told = [] if Sweep(known.scope, plan.stream.load, known.memory, 0).edited else plan.of(Verdict.TOLD_GONE)
        before = [one for one in plan.of(Verdict.GONE_BEFORE) if one.as_of]
        if told or before:
            plan.went += [Gone(one.record.key, as_of=one.as_of) for one in (*told, *before)]
            self._checkpoint.keep(self._mark, plan, known, keys_of(told), keys_of(before))

    def _mark(self, plan: PagePlan, known: Known, told: Sequence[str], before: Sequence[str]) -> None:
        stream, tx = plan.stream, self._connection()
        merge, table = self._fit(stream)
        if table is not None:
            spelling = stream.spelling(tx)
            rows = candidates.told_rows(tx, known, spelling, merge, [*told, *before], free=bool(told))
            plan.counts.gone += sum(row.there for row in rows)
            if rows:
                candidates.let_go(tx, merge, spelling, rows)
                found = Sweep(known.scope, stream.load, known.memory, 0, removable=len(rows), complete=False, looked=True)
                self._checkpoint.load(stream.target, TablePlan(merge, Outcome(0, 0, 0, 0), table, found), self._step, tx)
                tx.execute("DROP TABLE pg_temp.usersync_gone")
        if told:
            candidates.went(tx, known, told)

    def take_along(self, plans: Sequence[PagePlan]) -> None:
        """The last of a checkpoint: records that belong to those that went with it count as reported too.

        Their rows go when everything was read, like those of all that was reported.
        """
        tx, self._along = self._connection(), []
        for plan in plans:
            for child in self._children.get(plan.stream.name, ()) if plan.went else ():
                number = self._checkpoint.keep(child.known.told_with, tx, plan.went) if child.known.memory.id else 0
                self._along.append((child, number or 0))
                self._checkpoint.foresee(self._foresee_children, child, plan.went)

    def taken_along(self) -> None:
        """Go on from what `take_along` has committed."""
        for child, number in self._along:
            child.judged = child.judged and not number
            child.known = child.known.expect_fewer(number)
        self._along = []

    def _foresee_children(self, child: StreamLoad, parents: Sequence[Gone]) -> None:
        keys = child.known.children(self._connection(), parents) if child.known.memory.id else ()
        child.foreseen.departures |= dict.fromkeys(keys, TOLD)

    def end(self, plan: PagePlan, known: Known) -> Known:
        """Remove the rows of records that left, if the guard agrees; close the listing, if there is one."""
        stream, tx = plan.stream, self._connection()
        complete = plan.leaving is not None
        merge, table = self._fit(stream)
        found = Sweep(known.scope, stream.load, known.memory, 1)
        adopting = complete and stream.load.adopt_existing
        if stream.removes and table is not None and (known.memory.id or adopting or stream.foreseen.departures):
            found = self._remove(plan, known, merge, table)
        if known.sweep is not None and (complete or not stream.removes):
            if plan.told:
                self._tell_drift(plan, known, found)
            known = self._checkpoint.keep(self._close, stream, known, found, merge if table else None, adopting=adopting) or known
        if found.looked:
            tx.execute("DROP TABLE pg_temp.usersync_gone, pg_temp.usersync_candidates")
        plan.counts.gone += found.removable
        plan.refusal = found.refusal
        return known

    def _tell_drift(self, plan: PagePlan, known: Known, found: Sweep) -> None:
        """Say, at the end of a listing, what it had to put right although a log was followed; keep it with the listing."""
        left = {LEFT: found.removable - found.free} if found.removable > found.free else {}
        plan.stream.drift.update(left)
        self._checkpoint.keep(known.note_drift, self._connection(), left)
        drift = self._checkpoint.keep(known.drift, self._connection()) or dict(plan.stream.drift)
        if drift:
            rows = ", ".join(f"{name} {number}" for name, number in drift.items())
            log.once("the listing differed from what the log of changes had led to, or from rows that were edited by hand",
                     step=self._step, stream=plan.stream.name, rows=rows)  # fmt: skip

    def _close(self, stream: StreamLoad, known: Known, found: Sweep, merge: Merge | None, *, adopting: bool) -> Known:
        """The end of a complete listing; gives what is known after it. `merge` is None where there is no table."""
        tx = self._connection()
        if merge and (lost := known.check_rows(tx, merge)) and not stream.lost_rows:
            log.once("rows that we wrote are gone from the target; the next complete reading writes them again",
                     step=self._step, stream=stream.name, rows=lost)  # fmt: skip
        self._resolve_unmet(known)
        adopted = adopting and found.outcome != "refused"
        return known.close_sweep(tx, found.outcome, found.candidates, found.removable, adopted=adopted)

    def _remove(self, plan: PagePlan, known: Known, merge: Merge, table: Table) -> Sweep:
        stream, tx, leaving = plan.stream, self._connection(), plan.leaving or Leaving()
        complete = plan.leaving is not None
        approved = self._options.approve_deletes
        found = Sweep(known.scope, stream.load, known.memory, 0, complete=complete, looked=True)
        free = stream.load.on_missing == "mark" and not found.edited
        candidates.collect(tx, known, leaving.keys, plan.present, approved, stream.foreseen.departures, free=free, complete=complete)
        self._checkpoint.foresee(self._leave_out_who_came, stream)
        found.candidates, found.free = candidates.with_rows(tx, merge)
        found.records = self._records(plan, known) if complete else 0
        guarded = found.candidates > found.free  # rejects may have no row
        found.reason = (leaving.reason or guard.judge(found, known.known_at(plan.sweep))) if guarded else ""
        unproven = guarded and complete and not isinstance(self._session, TellsWhoIsGone)
        if not found.reason and unproven and candidates.without_key(tx, known):
            number = found.candidates - found.free
            found.reason = f"{number:,} rows would go, and they may be records that were set aside without a key"
        guard.decide(tx, found, approved)
        self._checkpoint.load(stream.target, TablePlan(merge, Outcome(0, 0, 0, 0), table, found), self._step, tx)
        if stream.name in self._children:
            left_out = {key for key, how in stream.foreseen.departures.items() if how == LEFT_OUT}
            plan.went += [one for one in candidates.gone(tx, known, found.goes) if one.key not in left_out]
        self._checkpoint.keep(self._removed, known, found, leaving, complete=complete)
        return found

    def _removed(self, known: Known, found: Sweep, leaving: Leaving, *, complete: bool) -> None:
        """Remember, after the rows went, that their records are gone, and which records stay."""
        tx = self._connection()
        candidates.forget(tx, known, found.goes, complete=complete)
        if leaving.first and not found.refusal:
            candidates.missed(tx, known, leaving.first)
        guard.settle(tx, found)

    def _leave_out_who_came(self, stream: StreamLoad) -> None:
        """Take records that came back from the candidates of an earlier run; a run itself notes them page by page."""
        found = self._connection().execute(sql.SQL("SELECT key FROM {}").format(CANDIDATES)).fetchall()
        back = [key for (key,) in found if stream.foreseen.stays(key)]
        self._connection().execute(sql.SQL("DELETE FROM {} WHERE key = ANY(%s)").format(CANDIDATES), (texts(back),))

    def _records(self, plan: PagePlan, known: Known) -> int:
        """How many records the listing that ends here has."""
        before = known.sweep.records if known.sweep and known.sweep.name == plan.sweep else 0
        return before + plan.stream.foreseen.records

    def _resolve_unmet(self, known: Known) -> None:
        """Resolve rejects of records that the source does not have any more."""
        scope, sweep_ = known.scope, known.sweep
        if sweep_ and sweep_.keyed:
            rejects.resolve_unswept(self._connection(), scope.job, scope.step, scope.stream, sweep_.id)
        elif sweep_ and sweep_.run_id == scope.run_id:
            rejects.resolve_unmet(self._connection(), scope.job, scope.step, scope.stream, self._checkpoint.run_id)

    def _fit(self, stream: StreamLoad) -> tuple[Merge, Table | None]:
        """How the stream fits into its table, without a record."""
        if stream.fitted:
            return stream.fitted
        return fit(self._connection(), stream)


def _there(stream: StreamLoad) -> sql.Composable:
    """A condition on t, a row of the table: whether it is not marked as gone."""
    return sql.SQL("t.{} IS NULL").format(sql.Identifier(MARK)) if stream.load.on_missing == "mark" else sql.SQL("true")


def _swept(open_: OpenSweep | None) -> sql.Composable:
    """More of the SELECT: the keys of the listing's earlier pages."""
    if open_ is None:
        return sql.SQL("")
    return sql.SQL('UNION ALL SELECT unnest(keys) COLLATE "C" FROM usersync.sweep_keys WHERE sweep_id = {}').format(sql.Literal(open_.id))


def _rows(known: Known) -> sql.Composable:
    """More of the SELECT: the keys of rows that spell them otherwise than the source."""
    if not known.respelt:
        return sql.SQL("")
    return sql.SQL("UNION ALL SELECT row_key FROM usersync.seen WHERE stream_id = {} AND row_key IS NOT NULL").format(
        sql.Literal(known.memory.id)
    )


def listed_before(stream: StreamLoad, page: Page) -> int:
    """Records of the same sweep on earlier pages."""
    open_ = stream.known.sweep
    return (open_.records if open_ and open_.name == page.sweep else 0) + stream.foreseen.records
