"""The search for the last page of a listing: from where the last one ended, and with a second look at what is behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from usersync_cli import log
from usersync_cli.sources.teamleader import limits
from usersync_cli.sources.teamleader.shapes import as_text

if TYPE_CHECKING:
    from usersync_cli.sources.teamleader.api import Api
    from usersync_cli.sources.teamleader.place import Place, Walk
    from usersync_cli.sources.teamleader.resources import Resource
    from usersync_cli.sources.teamleader.shapes import Listed

NEAR = 6  # pages between one that has records and one that has none, which are tried one by one


@dataclass
class Search:
    """A search for the last page that has records."""

    first: int  # where it begins
    known: int  # how many there were in the last complete listing; 0 while nobody knows
    full: int = 0  # a page that has records
    count: int = 0  # so many
    empty: int = 0  # one behind it that has none; 0 while nobody knows one
    total: int | None = None  # of records, as the last answer said
    mark: str = ""  # what stood on `full`
    ready: Listed | None = None  # the same, where nothing can have come there from behind since

    @property
    def next(self) -> int | None:
        """Which page to look at; None at the end."""
        if not self.empty:
            return self.full + (1 if self.full == self.first and self.known else max(self.full - 1, 1)) if self.full else self.first
        gap = self.empty - self.full
        if gap == 1:
            return None
        near = self.empty == self.first or (self.full and gap <= NEAR)
        return self.empty - 1 if near else (self.full + self.empty) // 2

    @property
    def records(self) -> int:
        """On all pages, which are full before the last one."""
        return self.full and (self.full - 1) * limits.PAGE_RECORDS + self.count

    def found(self, number: int, listed: Listed) -> None:
        """What stands there."""
        self.total = listed.total
        if not listed.rows:
            self.empty = number
            return
        self.full, self.count, self.mark = number, len(listed.rows), listed.mark
        self.ready = listed if self.empty == number + 1 or len(listed.rows) < limits.PAGE_RECORDS else None


def find_end(api: Api, resource: Resource, walk: Walk, place: Place) -> tuple[Walk, Listed | None]:
    """The last page, after looks that there is nothing behind it; and what stands there, if it was read after the first of them."""
    if not resource.paged:
        listed = api.page(resource, 0, walk.since)
        if len(listed.rows) < place.records or not listed.rows:  # shorter than it was: not believed at the first look
            listed = max(api.page(resource, 0, walk.since), listed, key=lambda one: len(one.rows))
        return replace(walk, began=as_text(listed.at), page=1, last=1, records=len(listed.rows)), listed
    known = place.pages if walk.sweep else 0
    # A list that each run reads from end to end is longer the next time, if need be.
    search = Search((known or resource.guess) + 1 if walk.sweep else 1, known)
    for left in reversed(range(limits.WALKS)):
        walk = _searched(api, resource, walk, search)
        if _is_the_end(api, resource, walk, search, place.records if walk.sweep else 0):
            if walk.sweep and search.records < place.records:
                log.get().warning(
                    "list is shorter than when it was last listed whole", source=api.source, list=resource.path,
                    records=search.records, before=place.records,
                )  # fmt: skip
            return replace(walk, page=search.full, last=search.full, records=search.records), search.ready
        search = Search(search.full or 1, search.full or 1) if left else search
    more = f"the answer says {search.total:,}" if search.total is not None else "something is behind it"
    raise api.odd(resource, f"page {search.full + 1} has no record, as if {search.records:,} were all; but {more}")


def _searched(api: Api, resource: Resource, walk: Walk, search: Search) -> Walk:
    """The walk, with the time when it began; the search has come to a page behind which there is an empty one."""
    while (number := search.next) is not None:
        if number > limits.MOST_PAGES:
            raise api.odd(resource, f"page {search.full:,} has records; so many there can't be")
        listed = api.page(resource, number, walk.since)
        walk = replace(walk, began=walk.began or as_text(listed.at))
        if listed.rows and listed.mark == search.mark and number != search.full:
            raise api.odd(resource, f"two pages are the same ({search.full} and {number})")
        search.found(number, listed)
    return walk


def _is_the_end(api: Api, resource: Resource, walk: Walk, search: Search, known: int) -> bool:
    """Whether the empty page behind the last one can be believed: the answer's own total says so, or other looks.

    One asks for the next record in pages of one, so that it meets what the last page itself keeps back. Where there were more
    records than now, the two pages behind the empty one are empty too.
    """
    if search.total is not None:
        return search.total == search.records
    if api.page(resource, search.records + 1, walk.since, size=1).rows:
        return False
    behind = (search.empty + 1, search.empty + 2) if search.records < known else ()
    return not any(api.page(resource, number, walk.since).rows for number in behind)
