"""What is to be done with each record of a page: pure, decided from what came and from what is known, before a transaction begins.

`verdict` decides about what a source lists, `verdict_of_details` about the whole document that it gave for it, and
`verdict_again` about a document that was set aside earlier. A `PagePlan` has all of a page's records with their verdicts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from usersync_cli.errors import GuardRefused
from usersync_cli.load.known import LEFT_OUT, LOADED, NO_ROW, REJECTED, REMOVED, TOLD, UNCHANGED, UNKNOWN, Gone, Met, Note, Status
from usersync_cli.model import Counts, Record
from usersync_cli.run.documents.stream import StreamLoad
from usersync_cli.state.rejects import Reject


class Verdict(Enum):
    """What is to be done with one record."""

    DUPLICATE = "pass over: another record of the page has the same key and is newer"
    PASSED_OVER = "pass over: a later record of the listing has the same key, and counts instead"
    STALE = "pass over: a newer version is known"
    TOLD_GONE = "remove its row, if the guard agrees: the source says that it is gone"
    GONE_BEFORE = "remember its version: the source says that it is gone, and no row of it is there that could go now"
    GONE_BUT_KEPT = "remember its version: the source says that it is gone, and rows are never removed"
    SAME_AGAIN = "leave: an earlier page of this dry run had the same document"
    UNCHANGED = "leave: its row is of this document"
    REJECTED_AGAIN = "leave: it was set aside with this document"
    NO_ROW = "leave: the transform gives no row for this document"
    LOAD = "load"
    LOAD_AGAIN = "load: an earlier page of this dry run had another document of it"
    RELISTED = "leave: its row is of this document, which is listed otherwise"
    LEFT = "leave: it has gone since it was listed, for all that a look-up can tell"
    OWED = "ask again next time: it is at the source, and its document can't be had today"


TO_LOAD = (Verdict.LOAD, Verdict.LOAD_AGAIN)

# What each counts as. What is loaded is read, and the rest is counted when its outcome is known; whose row goes is counted there.
COUNTED: Mapping[Verdict, Counts] = {
    Verdict.DUPLICATE: Counts(read=1, duplicates=1),
    Verdict.PASSED_OVER: Counts(read=1, duplicates=1),
    Verdict.STALE: Counts(read=1, stale=1),
    Verdict.TOLD_GONE: Counts(),
    Verdict.GONE_BEFORE: Counts(),
    Verdict.GONE_BUT_KEPT: Counts(read=1, unchanged=1, not_compared=1),
    Verdict.SAME_AGAIN: Counts(read=1, unchanged=1),
    Verdict.UNCHANGED: Counts(read=1, unchanged=1, not_compared=1),
    Verdict.REJECTED_AGAIN: Counts(read=1, rejected=1),
    Verdict.NO_ROW: Counts(),
    Verdict.LOAD: Counts(read=1),
    Verdict.LOAD_AGAIN: Counts(read=1),
    Verdict.RELISTED: Counts(read=1, unchanged=1, not_compared=1),
    Verdict.LEFT: Counts(),
    Verdict.OWED: Counts(),
}


def verdict(record: Record, met: Met, *, removes: bool = False, afresh: bool = False, came: bool | None = None) -> Verdict:
    """What is to be done with a record that a source lists, of which `met` is known.

    `removes`: rows of records that are gone are removed. `afresh`: its row is compared whatever is known, since everything is
    (--full) or since it has vanished. `came`: whether an earlier page of this dry run had it with the same document; None where
    none had it, and in a run, which remembers.
    """
    if over := _passed_over(met):
        return over
    if record.deleted:
        return _verdict_on_gone(met, removes=removes)
    if came is not None:
        return Verdict.SAME_AGAIN if came else Verdict.LOAD_AGAIN
    return Verdict.LOAD if afresh or record.whole or not met.listed else _verdict_on_listed(met)


def _passed_over(met: Met) -> Verdict | None:
    """Why another record counts instead; None where it counts itself."""
    if met.duplicate:
        return Verdict.DUPLICATE
    if met.passed:
        return Verdict.PASSED_OVER
    return Verdict.STALE if met.stale else None


def _verdict_on_gone(met: Met, *, removes: bool) -> Verdict:
    if not removes:
        return Verdict.GONE_BUT_KEPT
    return Verdict.GONE_BEFORE if met.status in {None, REMOVED} or met.departure == TOLD else Verdict.TOLD_GONE


def _verdict_on_listed(met: Met) -> Verdict:
    """The verdict on a record that is listed as it was before."""
    if met.status == LOADED and met.held:
        return Verdict.UNCHANGED
    if met.status == REJECTED and met.reject:
        return Verdict.REJECTED_AGAIN
    return Verdict.NO_ROW if met.status == NO_ROW else Verdict.LOAD


def verdict_of_details(listed: Verdict, record: Record, met: Met, hash_: bytes, *, afresh: bool = False) -> Verdict:
    """What is to be done with a record of which the source gave the whole document (of this hash), after the `listed` verdict."""
    if record.deleted:
        return Verdict.LEFT
    return Verdict.RELISTED if met.held == hash_ and not afresh else listed


def verdict_again(met: Met) -> Verdict:
    """What is to be done with a document that was set aside earlier: it is stale too when the source has said since that it is gone."""
    return Verdict.STALE if met.stale or met.status == REMOVED or met.departure == TOLD else Verdict.LOAD


def has_row(met: Met) -> bool:
    """Whether the record's row is in the target, or waits to go because the transform has left it out since."""
    return met.known and (met.status not in {NO_ROW, REMOVED} or met.departure == LEFT_OUT)


@dataclass(slots=True)
class PageRecord:
    """A record of a page: as PostgreSQL gets it, what is known of it, what is to be done with it, and how that ended."""

    record: Record
    document: bytes = field(repr=False)  # UTF-8
    version: str | None
    listed: bytes | None  # hash of what was listed; None: to be fetched again next time
    hash: bytes  # of its document
    before: Met = UNKNOWN
    verdict: Verdict = Verdict.LOAD
    known_as: str = ""  # the key under which it is remembered, where it was spelt otherwise then
    as_of: str | None = None  # when the source said this
    parent: str | None = None  # the key of the record of another stream that it belongs to, "" for none; None: nobody has looked
    rest: str | None = None  # a JSON object: what is to be remembered of a whole document, for partial ones
    left_out: bool = False  # the transform gives no row for it
    reject: Reject | None = None

    @property
    def remembered_key(self) -> str:
        """The key under which it is remembered, until the page is stored."""
        return self.known_as or self.record.key

    @property
    def status(self) -> Status:
        """What the target has of it, once the page is stored."""
        return REJECTED if self.reject else NO_ROW if self.left_out else LOADED

    @property
    def is_as_known(self) -> bool:
        """Whether nothing new is to be remembered of it: its row was only compared."""
        return self.before is UNCHANGED and self.status == LOADED

    @property
    def note(self) -> Note:
        """What is remembered of it, once the page is stored. Of a document that was set aside neither hash nor version is."""
        held = self.hash if self.status == LOADED else None
        version, as_of = (None, None) if self.reject else (self.version, self.as_of)
        return Note(self.record.key, self.listed, self.status, held, version, as_of, self.rest, self.parent)


@dataclass
class PagePlan:
    """What a page asks of one stream: its records with their verdicts, and what is found out about them before the transaction."""

    stream: StreamLoad
    sweep: str = ""  # the complete listing that the page is part of
    told: Collection[str] = ()  # fields in which what the page changes is drift
    records: list[PageRecord] = field(default_factory=list)
    bad: list[Reject] = field(default_factory=list)  # what is no record that could be loaded
    respelt: dict[str, str] = field(default_factory=dict)  # keys as they were remembered, and as they are spelt now
    rows: dict[str, str] = field(default_factory=dict)  # how rows spell keys
    counts: Counts = field(default_factory=Counts)
    size: int = 0  # bytes
    normalised: int = 0  # rows that the table holds otherwise than they were written
    leaving: Leaving | None = None  # of the last page of a complete listing
    went: list[Gone] = field(default_factory=list)  # records whose rows go with this page: those that belong to them go too
    refusal: GuardRefused | None = None
    _sorted: dict[Verdict, list[PageRecord]] = field(default_factory=dict)

    def sort(self) -> None:
        """Sort the records by their verdicts, which are final now, and count them."""
        for one in self.records:
            self._sorted.setdefault(one.verdict, []).append(one)
        self.counts += Counts(read=len(self.bad), rejected=len(self.bad))
        for verdict_, records in self._sorted.items():
            self.counts += Counts(**{name: len(records) * value for name, value in vars(COUNTED[verdict_]).items()})

    def of(self, *verdicts: Verdict) -> list[PageRecord]:
        """The records with these verdicts, once they are sorted."""
        return [one for verdict_ in verdicts for one in self._sorted.get(verdict_, ())]

    @property
    def to_load(self) -> list[PageRecord]:
        return self.of(*TO_LOAD)

    @property
    def buried(self) -> list[PageRecord]:
        """Records that are gone without a row that could go now; without a version, there is nothing to remember."""
        return [one for one in self.of(Verdict.GONE_BEFORE, Verdict.GONE_BUT_KEPT) if one.version is not None]

    @property
    def back(self) -> list[PageRecord]:
        """Records that were about to go, and are listed as they were before."""
        return [one for one in self.of(Verdict.UNCHANGED, Verdict.REJECTED_AGAIN) if one.before.leaving]

    @property
    def met(self) -> list[str]:
        """The keys that are at the source, those of records that can't be loaded too."""
        return [*(one.filed_as for one in self.bad), *(one.record.key for one in self.records if not one.record.deleted)]

    @property
    def present(self) -> list[str]:
        """The keys under which the records that are at the source are remembered, until the page is stored."""
        return [*self.met, *self.respelt]


@dataclass(frozen=True)
class Leaving:
    """Records that a complete listing lacks. `keys` may go when the guard agrees; None: all of them, but the guard has refused already."""

    keys: Collection[str] | None = ()
    reason: str = ""
    first: Collection[str] = ()  # lacked for the first time, and that is not enough


def keys_of(records: Iterable[PageRecord]) -> list[str]:
    """The keys of these records, as they are spelt now."""
    return [one.record.key for one in records]
