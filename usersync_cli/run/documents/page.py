"""What is to be done with each record of a page: decided before the transaction begins."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from usersync_cli.errors import GuardRefused
from usersync_cli.load.known import Met
from usersync_cli.model import Counts
from usersync_cli.run.documents.record import PageRecord
from usersync_cli.run.documents.stream import StreamLoad
from usersync_cli.state.rejects import Reject


@dataclass
class PagePlan:
    """What a page asks of one stream: decided before the transaction begins."""

    stream: StreamLoad
    sweep: str = ""  # the complete listing that the page is part of
    counts: Counts = field(default_factory=Counts)
    items: list[PageRecord] = field(default_factory=list)  # to be loaded
    relisted: list[PageRecord] = field(default_factory=list)  # the same document as before, listed otherwise
    told: list[PageRecord] = field(default_factory=list)  # said to be gone
    buried: list[PageRecord] = field(default_factory=list)  # said to be gone, and without a row
    bad: list[Reject] = field(default_factory=list)  # no use to anybody
    met_again: list[str] = field(default_factory=list)  # rejects, unchanged
    dropped: int = 0  # of these, those that a person has dropped
    back: list[str] = field(default_factory=list)
    respelt: dict[str, str] = field(default_factory=dict)  # keys as they were remembered, and as they are spelt now
    rows: dict[str, str] = field(default_factory=dict)  # how rows spell keys
    owed: list[str] = field(default_factory=list)  # at the source, but their documents can't be had today
    met: list[str] = field(default_factory=list)  # keys that are at the source
    size: int = 0
    leaving: Leaving | None = None
    refusal: GuardRefused | None = None

    @property
    def present(self) -> list[str]:
        """Under which keys those who are at the source are remembered, until the page is stored."""
        return [*self.met, *self.respelt]


@dataclass(frozen=True)
class Leaving:
    """Whom a complete listing lacks. `keys` may go when the guard agrees; None: everybody, but the guard has refused already."""

    keys: Collection[str] | None = ()
    reason: str = ""
    first: Collection[str] = ()  # lacked for the first time, and that is not enough


def duplicates(items: Sequence[PageRecord], *, numbered: bool, same: Mapping[str, object] | None = None) -> dict[int, Met]:
    """Those of which the page has a newer one, by version, then by place. `same` says who is who, where keys alone don't."""
    best: dict[object, tuple[Any, int]] = {}
    for position, item in enumerate(items):
        version = item.version
        order = (version is not None, (Decimal(version) if numbered else datetime.fromisoformat(version)) if version else 0)
        who = (same or {}).get(item.record.key, item.record.key)
        if who not in best or best[who][0] <= order:
            best[who] = (order, position)
    winners = {position for _, position in best.values()}
    return {position: Met(duplicate=True) for position in range(len(items)) if position not in winners}
