"""Before the transaction of a page: what is known of its records, the whole documents of those that changed, and the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import repeat

from usersync_cli import log
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.transactions import transaction
from usersync_cli.errors import Unavailable
from usersync_cli.load.known import UNCHANGED, UNKNOWN, Met
from usersync_cli.model import Page, Record
from usersync_cli.ports import BelongsTo, FollowsLog, HasDetails, Session
from usersync_cli.run.checkpoint import Checkpoint
from usersync_cli.run.context import Options, refuse_silence
from usersync_cli.run.documents.deletes import listed_before
from usersync_cli.run.documents.page import TO_LOAD, PagePlan, PageRecord, Verdict, keys_of, verdict, verdict_of_details
from usersync_cli.run.documents.partial import complete, rest_of
from usersync_cli.run.documents.record import duplicates, parent_of, read_record
from usersync_cli.run.documents.stream import PAGE_SETTINGS, StreamLoad
from usersync_cli.state.rejects import Reject


@dataclass(frozen=True)
class Planner:
    """Plans the pages of one step in one run. No transaction is open while the source is asked."""

    connection: Callable[[], Connection]
    session: Session
    source: str  # its name
    options: Options
    checkpoint: Checkpoint
    check: Callable[[], None]  # raises when a signal, --max-runtime or a lost lease ends the reading

    def plan(self, stream: StreamLoad, records: Sequence[Record], page: Page) -> PagePlan:
        """Find out what is to be done with each of these records. Raises Unavailable where the source contradicts itself."""
        plan = PagePlan(stream, page.sweep, self._told(stream, page))
        for record in records:
            plan.size += len(record.data)
            one = read_record(record, stream.known, stream.codec)
            if isinstance(one, Reject):
                plan.bad.append(one)
            else:
                plan.records.append(one)
        self._meet(plan, page)
        self._decide(plan)
        if isinstance(self.session, HasDetails) and stream.name in self.session.detailed:
            self._fetch(plan, self.session)
        plan.sort()
        if isinstance(self.session, BelongsTo) and (belongs := self.session.parent(stream.name)):
            for one in plan.to_load:
                one.parent = parent_of(one.document, belongs[1])
        self._refuse_empty(plan, page)
        return plan

    def _told(self, stream: StreamLoad, page: Page) -> Collection[str]:
        """The fields in which the rows should be as the page says already."""
        return self.session.told(stream.name) if page.checks and stream.checked and isinstance(self.session, FollowsLog) else ()

    def _decide(self, plan: PagePlan) -> None:
        """Give each record its verdict."""
        stream, removes = plan.stream, plan.stream.removes
        log_ = self.session if isinstance(self.session, FollowsLog) else None
        every = self.options.full or (log_ is not None and bool(plan.sweep))  # a listing next to a log shows what is wrong with the rows
        some = every or stream.lost_rows > 0  # asked once a page: most runs ask it of no record
        came = self.checkpoint.foresee(_came, plan) or repeat(None)
        for one, before in zip(plan.records, came, strict=False):
            afresh = some and (every or stream.has_lost(one.remembered_key))
            one.verdict = verdict(one.record, one.before, removes=removes, afresh=afresh, came=before)
            if log_ and one.verdict in TO_LOAD and not one.record.partial:
                one.rest = rest_of(one.document, log_.told(stream.name))
            _note_passed(stream, one)

    def _afresh(self, stream: StreamLoad, one: PageRecord) -> bool:
        """Whether the record's row is compared with the target, whatever is known of it."""
        return self.options.full or stream.has_lost(one.remembered_key)

    # what is known

    def _meet(self, plan: PagePlan, page: Page) -> None:
        """Look up what is known of each record."""
        stream, records = plan.stream, plan.records
        met: dict[int, Met] = {}
        if records and stream.known.there:
            met = self._look_up(plan, records, keys_of(records), page.overrules)
        elif records:
            met = duplicates(records, numbered=stream.known.numbered)
        unmentioned = UNCHANGED if stream.known.there else UNKNOWN
        strange = [one.record.key for position, one in enumerate(records) if not met.get(position, unmentioned).known]
        strange += [one.key for one in plan.bad if one.key]
        if strange and not self._are_plain(stream, strange):
            self._respell(plan, met, page.overrules)
        for position, one in enumerate(records):
            one.before = met.get(position, unmentioned)
            if one.record.partial and one.before.rest:
                complete(one, stream.known)

    def _look_up(self, plan: PagePlan, records: Sequence[PageRecord], keys: Sequence[str], overrules: str) -> dict[int, Met]:
        """What is known of these records under these keys."""
        hashes, versions, as_of = [one.hash for one in records], [one.version for one in records], [one.as_of for one in records]
        known, listing = plan.stream.known, bool(plan.sweep)
        return known.look_up(self.connection(), keys, hashes, versions, as_of if any(as_of) else (), listing=listing, overrules=overrules)

    def _are_plain(self, stream: StreamLoad, keys: Sequence[str]) -> bool:
        """Whether none of these keys can be another spelling of one that is known."""
        if stream.known.respelt:
            return False
        with nullcontext() if stream.knows_spelling else self._reading():
            return all(map(stream.spelling(self.connection()).as_written, keys))

    def _reading(self) -> AbstractContextManager[None]:
        """A transaction in which values are written as text as in that of a page."""
        return transaction(self.connection(), **PAGE_SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`

    def _respell(self, plan: PagePlan, met: dict[int, Met], overrules: str) -> None:
        """Find whom the type of the key column calls the same: on this page, in the table, and among those who are remembered."""
        stream, known = plan.stream, plan.stream.known
        keys, tx = keys_of(plan.records), self.connection()
        with self._reading():
            spelt = stream.spelling(tx).read(tx, [*keys, *(one.key for one in plan.bad if one.key)])
        plan.rows = {key: one.row for key, one in spelt.items()}
        twice = duplicates(plan.records, numbered=known.numbered, same={key: one.first for key, one in spelt.items()})
        met |= {position: replace(met.get(position, UNKNOWN), duplicate=True) for position in twice}
        before = known.known_as(tx, list(set(plan.rows.values()))) if known.there else {}
        others = {key: before[row] for key, row in plan.rows.items() if before.get(row, key) != key}
        moved = [position for position, key in enumerate(keys) if key in others and position not in twice]
        again = self._look_up(plan, [plan.records[i] for i in moved], [others[keys[i]] for i in moved], overrules) if moved else {}
        for number, position in enumerate(moved):
            met[position] = again.get(number, UNCHANGED)
            plan.records[position].known_as = others[keys[position]]
            plan.respelt[others[keys[position]]] = keys[position]
        for one in plan.bad:
            if one.key in others and others[one.key] not in {*plan.respelt, *keys}:
                plan.respelt[others[one.key]] = one.key

    # whole documents

    def _fetch(self, plan: PagePlan, session: HasDetails) -> None:
        """Fetch the whole documents of those that are to be loaded, where the listing is only part of them."""
        stream = plan.stream
        asked = {one.record.key: one for one in plan.records if one.verdict in TO_LOAD}
        plan.records = [one for one in plan.records if one.verdict not in TO_LOAD]
        for record in session.details(stream.name, list(asked)) if asked else ():
            self.check()
            listed = asked.pop(record.key, None)
            if listed is None:
                raise Unavailable(f"source {self.source} gave a document of {stream.name} that was not asked for, or twice")
            plan.size += len(record.data)
            plan.records.append(self._whole(stream, listed, record))
        for key in [key for key in asked if key in session.owed]:
            plan.records.append(owed := asked.pop(key))
            owed.verdict = Verdict.OWED
        if asked:
            raise Unavailable(f"source {self.source} gave no document for {len(asked)} of {stream.name} that it lists")

    def _whole(self, stream: StreamLoad, listed: PageRecord, record: Record) -> PageRecord:
        """The record of which the source gave the whole document; as it is listed, where that document can't be loaded or is gone."""
        whole = read_record(replace(record, version=record.version or listed.record.version), stream.known, stream.codec)
        if isinstance(whole, Reject):
            listed.reject = whole
            return listed
        known = verdict_of_details(listed.verdict, record, listed.before, whole.hash, afresh=self._afresh(stream, listed))
        if known is Verdict.LEFT:
            listed.verdict = known
            return listed
        whole.before, whole.verdict, whole.known_as = listed.before, known, listed.known_as
        whole.listed = listed.listed if record.settled else None
        return whole

    def _refuse_empty(self, plan: PagePlan, page: Page) -> None:
        """A source that fell silent is not a source without people."""
        if not page.complete or not page.sweep:
            return
        stream = plan.stream
        before, now = stream.known.memory.previous or 0, listed_before(stream, page) + plan.counts.distinct
        had = f"the last complete reading had {before} records; nothing was removed"
        refuse_silence(f"stream {stream.name}", before, now, self.options, had=had, causes="emptied? rights?")
        if now * 2 < before:
            log.once(
                "stream shrank to less than half", step=stream.known.scope.step, stream=stream.name, records=now, before=before
            )  # fmt: skip


def _came(plan: PagePlan) -> list[bool | None]:
    """Whether earlier pages of a dry run had each of these records, and with the same document: see `verdict`."""
    foreseen = plan.stream.foreseen
    for one in plan.records:
        if foreseen.overrules(one.record.key, one.as_of):
            one.before = replace(one.before, stale=True)
    return [foreseen.came.same(one.record.key, one.hash) for one in plan.records]


def _note_passed(stream: StreamLoad, one: PageRecord) -> None:
    """Keep apart the keys of which this listing had only records that it has passed over before."""
    if one.verdict is Verdict.PASSED_OVER:
        stream.passed.add(one.record.key)
    elif stream.passed:
        stream.passed -= {one.record.key, one.known_as}
