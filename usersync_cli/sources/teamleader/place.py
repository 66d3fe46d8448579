"""Where a stream stands: what is stored as its cursor, and the walk through a listing that is under way."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from usersync_cli.sources.teamleader.shapes import as_moment, as_text

if TYPE_CHECKING:
    from usersync_cli.model import Cursor
    from usersync_cli.sources.teamleader.shapes import Listed


@dataclass(frozen=True)
class Walk:
    """Through the pages of one listing, from the last to the first."""

    sweep: str = ""  # the name of a complete listing; "" only for changes
    since: str = ""  # of changes: since when
    began: str = ""  # Teamleader's time at the first answer, or the earliest that another answer has
    newest: str = ""  # change among what was listed, by the clock of the documents
    page: int | None = None  # the next to read; None while nobody knows which is the last
    last: int = 0  # that one
    records: int = 0  # on all of them, when that one was found
    above: str = ""  # what stood on the page that was read before
    whole: bool = False  # whole documents of all are read, whatever the list says
    tries: int = 1
    looks: str = ""  # since when changes are looked for behind it
    looked: str = ""  # and what was found before it began
    owed: int = 0  # documents that could not be had

    def with_times_of(self, listed: Listed) -> Walk:
        """The walk with the earliest clock so far, and the newest change that is not in the future."""
        began = min(self.began, as_text(listed.at))
        return replace(self, began=began, newest=max(self.newest, *listed.changes(as_text(listed.at)), ""))

    def again(self, looks: str, looked: str) -> Walk:
        """The walk from its beginning, as another try."""
        sweep = self.sweep and uuid.uuid4().hex
        return Walk(sweep, self.since, whole=self.whole, tries=self.tries + 1, looks=looks, looked=looked)


@dataclass(frozen=True)
class Place:
    """What is stored as the cursor. Times are Teamleader's."""

    path: str  # legacy projects and new ones are other records
    detail: str
    until: str = ""  # changes before this are loaded, by the clock of the documents
    newest: str = ""  # change that was listed
    met: str = ""  # when that was listed first, by the clock of Date
    swept: str = ""  # when the last complete listing began
    whole: str = ""  # when whole documents of all were last read
    pages: int = 0  # of the last complete listing
    records: int = 0  # of the same
    walk: Walk | None = None  # under way

    @classmethod
    def of(cls, cursor: Cursor | None) -> Place | None:
        if cursor is None:
            return None
        walk = cursor.get("walk")
        return cls(**{**cursor, "walk": Walk(**walk) if walk else None})

    @property
    def cursor(self) -> Cursor:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def done(self, walk: Walk, *, sure: bool = True) -> Place:
        """After the first page, which is the last to be read. Unless it is `sure`, the next run lists everything."""
        if walk.owed and not walk.sweep:  # asked from the same moment again
            return replace(self, swept=self.swept if sure else "", walk=None)
        sure = sure and not walk.owed
        if walk.sweep:
            whole = walk.began if walk.whole else min(self.whole, walk.began)
            swept = replace(self, swept=walk.began, whole=whole, pages=walk.last, records=walk.records, until="")
        else:
            swept = self
        return replace(swept._moved(walk), swept=swept.swept if sure else "", walk=None)

    def _moved(self, walk: Walk) -> Place:
        """The cursor behind this walk: its beginning, or the newest change that was ever listed, whichever is earlier.

        The documents may have another clock than the header Date. If it is behind, the next change has a time before the walk
        began, but not before the newest that is known. So that a bulk import is not listed again by each walk, what takes more than
        a page is left behind: from then on the cursor goes on with Date, at the distance that the newest change had when
        it came; it had been made before that.
        """
        known = self.newest if self.newest <= walk.began else ""  # else a clock was set back
        newest, met = (known, self.met) if walk.newest <= known else (walk.newest, walk.began)
        if not newest:
            return replace(self, until=walk.began, newest="", met="")
        until = newest
        if newest == known and self.until and (self.until > newest or walk.last > 1):
            until = as_text(as_moment(newest) + max(as_moment(walk.began) - as_moment(met), timedelta(0)))
        return replace(self, until=max(self.until, min(until, walk.began)), newest=newest, met=met)
