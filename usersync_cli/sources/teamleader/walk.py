"""The walk through the pages of a live listing, which loses no record: from the last page to the first, sorted so that new
records come last. Then a deletion moves records towards us, and whatever is new stands on pages whose changes the next run
asks for. Of a list that can't be sorted so, the walk is done again when something changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from usersync_cli import log
from usersync_cli.model import Cursor, Documents, Page, Record
from usersync_cli.sources.teamleader import limits
from usersync_cli.sources.teamleader.api import UUID
from usersync_cli.sources.teamleader.search import find_end
from usersync_cli.sources.teamleader.shapes import YOUNG, as_text, is_settled, mark_of

if TYPE_CHECKING:
    from usersync_cli.sources.teamleader.absent import Absent
    from usersync_cli.sources.teamleader.api import Api
    from usersync_cli.sources.teamleader.owed import Owed
    from usersync_cli.sources.teamleader.place import Place, Walk
    from usersync_cli.sources.teamleader.resources import Resource
    from usersync_cli.sources.teamleader.shapes import Listed


class MetOnWalk:
    """Records that the walks of this reading have met; of each the hash of its key."""

    def __init__(self, earlier: Sequence[str], *, blind: bool) -> None:
        self.earlier = earlier  # whom an earlier run met in the first of these walks
        self.blind = blind  # it met some, and nobody knows whom
        self.moved = False  # somebody stood on two pages of this walk: somebody else may have stood on none
        self._before = {hash(key) for key in earlier}
        self._now: set[int] = set()
        self._read = set[int]()

    def add(self, keys: Iterable[str]) -> None:
        """A page of these."""
        for one in map(hash, keys):
            self.moved |= one in self._now
            self.blind |= one in self._before  # time has passed: they may have moved, or somebody was deleted
            self._now.add(one)

    def has_read(self, key: str) -> bool:
        """Whether an earlier walk of this reading has asked for its document."""
        return hash(key) in self._read

    def next_walk(self) -> None:
        """Start over for another walk, with nothing of an earlier run."""
        self._read |= self._now | self._before
        self.earlier, self.blind, self.moved = (), False, False
        self._now, self._before = set(), set()


class Walker:
    """Reads the pages of one stream, from the place where it stands."""

    def __init__(self, api: Api, resource: Resource, place: Place, absent: Absent, owed: Owed) -> None:
        self._api, self._resource, self._place, self._absent, self._owed = api, resource, place, absent, owed

    def pages(self, walk: Walk, met: MetOnWalk) -> Generator[Page, None, None]:
        """The pages that are left of this walk, and those of the next ones where it was disturbed."""
        while again := (yield from self._walk(walk, met)):
            log.get().info("list changed while it was read", source=self._api.source, stream=self._resource.stream, tries=walk.tries)
            walk = again
            met.next_walk()

    def _walk(self, walk: Walk, met: MetOnWalk) -> Generator[Page, None, Walk | None]:
        """The pages that are left of a listing. Gives the next walk, where this one was disturbed.

        Raises Unavailable behind the last page, when the list was disturbed each time, or documents are owed.
        """
        listed = None
        if walk.page is None:
            walk, listed = find_end(self._api, self._resource, walk, self._place)
        while (number := walk.page or 0) > 1:
            listed = self._believed(walk, listed or self._api.page(self._resource, number, walk.since))
            walk = walk.with_times_of(listed)
            records = self._records(walk, listed, met)
            walk, listed = replace(walk, page=number - 1, above=listed.mark), None
            yield self._page(walk, records, partial(self._cursor, walk))
        listed = self._believed(walk, listed or self._api.page(self._resource, number, walk.since)) if number else None
        walk = walk.with_times_of(listed) if listed else walk
        records = self._records(walk, listed, met) if listed else []
        gone, sure = self._gone_since(met)
        again = self._again(walk, met)
        tired = again is not None and again.tries > limits.WALKS
        after = partial(self._cursor, again) if again and not tired else partial(self._end, walk, sure=sure and not tired)
        yield self._page(walk, [*records, *gone], after, complete=bool(walk.sweep) and not again)
        if tired or (self._owed and not again):
            raise self._owed.error(self._api.source, self._resource, tired=tired)
        return again

    def _page(self, walk: Walk, records: Sequence[Record], after: Callable[[], Cursor], *, complete: bool = False) -> Page:
        return Page(Documents(records), after(), complete, (self._resource.stream,), walk.sweep, after_details=after)

    def _cursor(self, walk: Walk) -> Cursor:
        """The cursor while the walk is under way."""
        return replace(self._place, walk=replace(walk, owed=walk.owed + len(self._owed.documents))).cursor

    def _end(self, walk: Walk, *, sure: bool) -> Cursor:
        return self._place.done(replace(walk, owed=walk.owed + len(self._owed.documents)), sure=sure and not self._owed.unlisted).cursor

    def _records(self, walk: Walk, listed: Listed, met: MetOnWalk) -> list[Record]:
        heads = listed.heads
        # Among changes, of what shows no time of its change, nobody knows that we have it already.
        whole = walk.whole or (bool(walk.since) and not self._resource.versioned)
        stream = self._resource.stream
        records = [
            Record(stream, head.id, row, head.updated_at, settled=is_settled(head, listed.at), whole=whole and not met.has_read(head.id))
            if not head.problem
            else Record(stream, "", row, problem=head.problem)
            for head, row in zip(heads, listed.rows, strict=True)
        ]
        met.add(head.id for head in heads if not head.problem)
        return records

    def _again(self, walk: Walk, met: MetOnWalk) -> Walk | None:
        """The next walk, where a record may have moved from a page that was not read yet to one that was; None where none can have."""
        looks, looked = self._look_back(walk)
        unknown = bool(met.earlier) and not self._resource.by_ids  # who of these is gone by now
        # What an earlier run could not have of this walk is listed, and asked for, once more.
        return walk.again(looks, looked) if looked != walk.looked or met.moved or unknown or walk.owed else None

    def _look_back(self, walk: Walk) -> tuple[str, str]:
        """Since when changes were looked for, and what tells them from others; "" where there is none, or it does no harm.

        Only asked of lists whose next reading would not show what moved meanwhile: one of changes.
        """
        sorted_by_age = self._resource.steady if walk.sweep else bool(self._resource.latest)
        if not self._resource.since or sorted_by_age or walk.last <= 1:
            return "", ""
        # Whether updated_since has that second itself is not documented. So changes just before the walk show too, once:
        # behind the next walk the same ones say that nothing happened since.
        since = walk.looks or as_text(datetime.fromisoformat(walk.began) - YOUNG)
        rows: list[bytes] = []
        for number in range(1, limits.MANY_PAGES + 1):
            listed = self._api.page(self._resource, number, since)
            listed = listed if listed.rows else self._api.page(self._resource, number, since)
            rows += listed.rows
            if len(listed.rows) < limits.PAGE_RECORDS:
                break
        return since, mark_of(rows) if rows else ""

    def _gone_since(self, met: MetOnWalk) -> tuple[list[Record], bool]:
        """Records that an earlier run listed and that are gone by now; and whether the place of each record is known."""
        earlier = [key for key in met.earlier if UUID.fullmatch(key)] if self._resource.by_ids else []
        gone = self._absent.departed(self._resource, earlier, self._absent.lacking(self._resource, earlier)) if earlier else []
        if gone and (not self._place.swept or len(gone) > limits.PAGE_RECORDS):  # too many for the guard, which may know of nobody yet
            return [], False
        proven = self._absent.gone(self._resource, gone) if gone else []
        told = [Record(self._resource.stream, key, b"{}", deleted=True) for key in proven]
        return told, not met.blind

    def _believed(self, walk: Walk, listed: Listed) -> Listed:
        """The page; or what it is now, where it can't be right: before another page it is full, and not the same as that one."""
        number = walk.page or 0
        if number >= walk.last or (len(listed.rows) >= limits.PAGE_RECORDS and listed.mark != walk.above):
            return listed
        now, behind = (self._api.page(self._resource, which, walk.since) for which in (number, number + 1))
        if behind.rows and now.mark == behind.mark:
            raise self._api.odd(self._resource, f"page {number} is the same as page {number + 1}")
        if behind.rows and len(now.rows) < limits.PAGE_RECORDS:
            held = f"only {len(now.rows)} of {limits.PAGE_RECORDS} records" if now.rows else "no record"
            raise self._api.odd(self._resource, f"page {number} has {held}, and page {number + 1} has some")
        return now  # so many were deleted meanwhile, or have moved down by a page
