"""Whether a row may go because its record has left the source: one table, without a database.

A complete listing that lacks a record is not yet a proof: a record may have moved between two pages. `verdict` is the table.
The first half of it is the proof, the second the guard's (`load.deletes.guard` finds out whether it refuses).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from usersync_cli.ports import OneMoment, TellsWhoIsGone


class DeleteVerdict(Enum):
    """What happens to a row whose record seems to have left the source."""

    GOES = "goes"
    FREE = "free"  # goes, whatever the guard says, and counts towards none of its limits
    KEPT = "kept by the guard"
    FIRST = "first time lacked"  # stays until another complete listing lacks it too
    UNPROVEN = "not proven"


@dataclass(frozen=True)
class Evidence:
    """What is known of a record that the source does not seem to have any more."""

    told: bool = False  # the source itself reported that it is gone, or the transform leaves it out
    complete: bool = False  # a complete listing lacks it
    confirmed: bool | None = None  # a second look, of another kind, says that it is gone; None: the source can't be asked
    snapshot: bool = False  # the listing shows one moment: what it lacks was not there
    lacked: bool = False  # an earlier complete listing lacked it too


@dataclass(frozen=True)
class Guard:
    """What the guard says of the rows that may go, as far as it concerns one of them."""

    free: bool = False  # nobody has to be asked about this one: a single delete that is only marked, or one that was decided before
    refused: bool = False  # too many would go, or rows that an earlier run kept are still missing
    listed: bool | None = None  # it is on the list that a person approves with this run; None: no list is approved


LETS_GO = Guard()


def verdict(evidence: Evidence, guard: Guard = LETS_GO) -> DeleteVerdict:
    """The table. A second look outranks everything but what the source itself reports; a list outranks the guard's numbers."""
    if not evidence.told:
        if not evidence.complete or evidence.confirmed is False:
            return DeleteVerdict.UNPROVEN
        if not (evidence.confirmed or evidence.snapshot or evidence.lacked):
            return DeleteVerdict.FIRST
    if guard.free:
        return DeleteVerdict.FREE
    lets_go = not guard.refused if guard.listed is None else guard.listed
    return DeleteVerdict.GOES if lets_go else DeleteVerdict.KEPT


PROVEN = Evidence(told=True)


def goes(guard: Guard) -> bool:
    """Whether a row goes of which the proof is there."""
    return verdict(PROVEN, guard) in {DeleteVerdict.GOES, DeleteVerdict.FREE}


def sort(lacking: Mapping[str, bool], *, gone: Collection[str] | None, snapshot: bool) -> dict[DeleteVerdict, list[str]]:
    """The records that a complete listing lacks, by what is proven of them.

    `lacking` says of each key whether an earlier complete listing lacked it too. `gone` are the keys that a second look found
    gone; None when the source can't be asked.
    """
    found: dict[DeleteVerdict, list[str]] = {one: [] for one in DeleteVerdict}
    for key, lacked in lacking.items():
        confirmed = None if gone is None else key in gone
        found[verdict(Evidence(complete=True, confirmed=confirmed, snapshot=snapshot, lacked=lacked))].append(key)
    return found


def by_listing(session: object) -> bool:
    """Whether one complete listing of this session is proof enough. None is a source of tables, which is read in one snapshot."""
    snapshot = session is None or isinstance(session, OneMoment)
    return not isinstance(session, TellsWhoIsGone) and verdict(Evidence(complete=True, snapshot=snapshot)) is DeleteVerdict.GOES


def look_again(session: object, stream: str, lacking: Mapping[str, bool]) -> dict[DeleteVerdict, list[str]]:
    """`sort`, after a second look at the source, if this session can take one. It is not asked about nobody."""
    gone = session.gone(stream, sorted(lacking)) if isinstance(session, TellsWhoIsGone) and lacking else None
    return sort(lacking, gone=gone, snapshot=isinstance(session, OneMoment))
