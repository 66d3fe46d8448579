"""Who has left a stream: candidates from a complete listing or from what the source says, proof, and the guard."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from typing import Any

from psycopg import sql

from usersync_cli import log
from usersync_cli.clients.postgres.arrays import texts
from usersync_cli.clients.postgres.catalog import Table, describe
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.load import guard
from usersync_cli.load.guard import Sweep
from usersync_cli.load.known import CANDIDATES, LEFT_OUT, NO_ROW, REMOVED, Met, Open, Seen
from usersync_cli.load.merge import Merge, Outcome, key_text
from usersync_cli.load.table import MARK, Plan
from usersync_cli.model import Page
from usersync_cli.run.context import Options
from usersync_cli.run.documents.batch import fit
from usersync_cli.run.documents.stream import Into, Leaving, Work
from usersync_cli.state import rejects
from usersync_cli.state.lease import Lease


class Leavers:
    """Finds and removes them, for the streams of one step in one run. Without a lease it only finds out, and tells the preview."""

    def __init__(self, connection: Callable[[], Connection], session: Any, step: str, options: Options, lease: Lease | None) -> None:
        self._connection, self._session, self._step, self._options, self._lease = connection, session, step, options, lease

    def measure(self, into: Into) -> None:
        """Every row of a table that is taken over counts as known before, and those that come with the reading do not."""
        seen = into.seen
        if into.load.adopt_existing and not seen.memory.adopted and (table := describe(self._connection(), into.load.table)):
            query = sql.SQL("SELECT count(*) FROM {} AS t WHERE {}").format(table.name, _there(into))
            ((rows,),) = self._connection().execute(query).fetchall()
            seen.known_before = max(seen.known_before, rows)

    def look(self, work: Work, page: Page) -> Leaving:
        """Whom the listing that ends with this page lacks, and who of them is surely gone."""
        into = work.into
        seen, load = into.seen, into.load
        open_ = seen.sweep if seen.sweep and seen.sweep.name == page.sweep else None
        if open_ and not open_.keyed:
            return Leaving()
        met = [*work.present, *(item.known_as or item.record.key for item in work.told)]  # of these the source says it itself
        of_dry_run = None if self._lease else self._lacking(into, met, open_)
        lacking = seen.lacking(self._connection(), met, open_) if of_dry_run is None else len(of_dry_run)
        adopted = self._to_adopt(work, open_) if load.adopt_existing and not seen.memory.adopted else {}
        if not lacking and not adopted:
            return Leaving()
        total = listed_before(work.into, page) + work.counts.distinct
        found = Sweep(seen.scope, load, seen.memory, total, candidates=max(lacking, len(adopted)))
        reason = guard.judge(found, seen.known(page.sweep)) or self._kept(into, met, open_, found, adopted | (of_dry_run or {}))
        approved = self._options.approve_deletes
        listed = seen.listed_keys(self._connection(), approved) if approved is not None else set()
        if reason and not listed:
            return Leaving(list(adopted | (of_dry_run or {})) or None, reason)
        lack = adopted | (seen.lacking_keys(self._connection(), met, open_) if of_dry_run is None else of_dry_run)
        return self._confirmed(into, {key: times for key, times in lack.items() if not listed or key in listed})

    def _kept(self, into: Into, met: Collection[str], open_: Open | None, found: Sweep, keys: Collection[str]) -> str:
        """Why an earlier refusal still holds: then nobody is asked who is gone."""
        reason = guard.kept(self._connection(), found, sql.SQL("SELECT unnest(%(keys)s::text[])"), {"keys": texts(keys)}) if keys else ""
        return reason or (into.seen.kept(self._connection(), found, met, open_) if self._lease else "")

    def _lacking(self, into: Into, met: Collection[str], open_: Open | None) -> dict[str, int]:
        """The same in a dry run, whose earlier pages are written down nowhere."""
        if not into.seen.memory.id:
            return {}
        pages = into.seen.lacking_pages(self._connection(), met, open_)
        return {key: times for page in pages for key, times in page if key not in into.came and key not in into.told}

    def _confirmed(self, into: Into, lack: Mapping[str, int]) -> Leaving:
        """Those that the vendor does not know any more; where nobody can be asked, those that two listings lacked."""
        if (gone := getattr(self._session, "gone", None)) is not None:
            return Leaving(set(gone(into.name, sorted(lack))) & set(lack))
        if getattr(self._session, "snapshot", False):
            return Leaving(list(lack))
        return Leaving([key for key, times in lack.items() if times], first=[key for key, times in lack.items() if not times])

    def _to_adopt(self, work: Work, open_: Open | None) -> dict[str, int]:
        """Every row of a table that is taken over, unless the source has it."""
        into, met = work.into, [*work.present, *work.rows.values()]
        table = describe(self._connection(), into.load.table)
        if table is None:
            return {}
        query = sql.SQL("""
            SELECT t.key, 1 FROM (SELECT {key} AS key FROM {table} AS t WHERE {there}) AS t
              FULL JOIN (SELECT key COLLATE "C" FROM unnest(%s::text[]) AS m(key) {swept} {rows}) AS present ON present.key = t.key
             WHERE present.key IS NULL
        """).format(key=key_text(into.load.key), table=table.name, there=_there(into), swept=_swept(open_), rows=_rows(into.seen))
        found = self._connection().execute(query, (texts(met),))
        return {key: times for key, times in found if self._lease or key not in into.came}

    def told(self, into: Into) -> bool:
        """Whether there are those of whom the source said that they are gone, and who were not removed with a complete listing;
        or whom the guard has kept."""
        if not into.removes or (not into.seen.memory.id and not into.told):
            return False
        return bool(into.told) or into.seen.waits(self._connection())

    def end(self, work: Work, seen: Seen) -> Seen:
        """Remove who left, if the guard agrees; close the sweep, if there is one."""
        into, tx, lease = work.into, self._connection(), self._lease
        complete = work.leaving is not None
        ends = seen.sweep is not None and (complete or not into.removes)
        merge, table = self._fit(into)
        found = Sweep(seen.scope, into.load, seen.memory, 1)
        adopted = complete and into.load.adopt_existing
        if into.removes and table is not None and (seen.memory.id or adopted or into.told):
            found = self._remove(work, seen, merge, table)
        if table is not None and lease and ends and (lost := seen.check_rows(tx, merge)) and not into.lost_rows:
            log.once("rows that we wrote are gone from the target; the next complete reading writes them again",
                     step=self._step, stream=into.name, rows=lost)  # fmt: skip
        if lease and ends:
            outcome = "approved" if found.approval is not None else "refused" if found.refusal else "ok"
            self._resolve_unmet(seen, lease)
            seen = seen.close_sweep(tx, outcome, found.candidates, found.removable, adopted=adopted and outcome != "refused")
        if found.looked:
            tx.execute("DROP TABLE pg_temp.usersync_gone, pg_temp.usersync_candidates")
        work.counts.gone += found.removable
        work.refusal = found.refusal
        return seen

    def _remove(self, work: Work, seen: Seen, merge: Merge, table: Table) -> Sweep:
        into, tx, leaving = work.into, self._connection(), work.leaving or Leaving()
        complete = work.leaving is not None
        approved = self._options.approve_deletes
        found = Sweep(seen.scope, into.load, seen.memory, 0, complete=complete, looked=True)
        free = into.load.on_missing == "mark" and not found.edited
        seen.candidates(tx, leaving.keys, work.present, approved, into.told, free=free, complete=complete)
        if not self._lease:
            self._leave_out_who_came(into)
        found.candidates, found.free = seen.with_rows(tx, merge)
        found.records = self._records(work, seen) if complete else 0
        guarded = found.candidates > found.free  # rejects may have no row
        found.reason = (leaving.reason or guard.judge(found, seen.known(work.sweep))) if guarded else ""
        if not found.reason and guarded and complete and not hasattr(self._session, "gone") and seen.without_key(tx):
            number = found.candidates - found.free
            found.reason = f"{number:,} rows would go, and they may be records that were set aside without a key"
        guard.decide(tx, found, approved)
        plan = Plan(merge, Outcome(0, 0, 0, 0), table, found)
        if self._lease:
            into.target.apply(plan, tx)
            seen.forget(tx, found.goes, complete=complete)
            if leaving.first and not found.refusal:
                seen.missed(tx, leaving.first)
            guard.settle(tx, found)
        elif self._options.diff:
            with closing(into.target.changes(plan, self._step, tx)) as changes:
                all(self._options.diff(change) for change in changes)
        return found

    def _leave_out_who_came(self, into: Into) -> None:
        """A run notes who is back, page by page, so that they are no candidates of an earlier one any more."""
        candidates = self._connection().execute(sql.SQL("SELECT key FROM {}").format(CANDIDATES)).fetchall()
        back = [key for (key,) in candidates if key in into.came and key not in into.told]
        self._connection().execute(sql.SQL("DELETE FROM {} WHERE key = ANY(%s)").format(CANDIDATES), (texts(back),))

    def _records(self, work: Work, seen: Seen) -> int:
        """Of the sweep that ends here."""
        before = seen.sweep.records if seen.sweep and seen.sweep.name == work.sweep else 0
        return before if self._lease else before + work.into.records

    def _resolve_unmet(self, seen: Seen, lease: Lease) -> None:
        """Rejects of records that the source does not have any more wait for nobody."""
        scope, sweep_ = seen.scope, seen.sweep
        if sweep_ and sweep_.keyed:
            rejects.resolve_unswept(self._connection(), scope.job, scope.step, scope.stream, sweep_.id)
        elif sweep_ and sweep_.run_id == scope.run_id:
            rejects.resolve_unmet(self._connection(), scope.job, scope.step, scope.stream, lease.run_id)

    def _fit(self, into: Into) -> tuple[Merge, Table | None]:
        """How the stream fits into its table, without a record."""
        if into.fitted:
            return into.fitted
        return fit(self._connection(), into)


def had_row(met: Met) -> bool:
    """Its row is in the target, or waits to go because the transform has left it out since."""
    return met.known and (met.held not in {NO_ROW, REMOVED} or met.missing == LEFT_OUT)


def _there(into: Into) -> sql.Composable:
    """Of t, a row of its table: nobody has marked it as gone."""
    return sql.SQL("t.{} IS NULL").format(sql.Identifier(MARK)) if into.load.on_missing == "mark" else sql.SQL("true")


def _swept(open_: Open | None) -> sql.Composable:
    """And the keys of the sweep's earlier pages."""
    if open_ is None:
        return sql.SQL("")
    return sql.SQL('UNION ALL SELECT unnest(keys) COLLATE "C" FROM usersync.sweep_keys WHERE sweep_id = {}').format(sql.Literal(open_.id))


def _rows(seen: Seen) -> sql.Composable:
    """And the rows that spell keys otherwise than the source."""
    if not seen.respelt:
        return sql.SQL("")
    return sql.SQL("UNION ALL SELECT row_key FROM usersync.seen WHERE stream_id = {} AND row_key IS NOT NULL").format(
        sql.Literal(seen.memory.id)
    )


def listed_before(into: Into, page: Page) -> int:
    """Records of the same sweep on earlier pages."""
    open_ = into.seen.sweep
    return (open_.records if open_ and open_.name == page.sweep else 0) + into.records
