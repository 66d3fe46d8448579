"""One of Fineract's lists: one array of everything, read once and given page by page."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from usersync_cli.model import Cursor, Documents, Page, Record

PAGE_RECORDS = 1000


@dataclass(frozen=True)
class UserListing:
    """One array, as far as it is ours."""

    rows: Sequence[Record]
    there: Collection[str]  # keys of all that it has, also of who is excluded
    left_alone: Collection[str] = ()  # keys of those
    customers: Collection[str] = ()  # keys of self-service users, who are no staff

    @property
    def mark(self) -> str:
        """Changes when any of the records does."""
        found = hashlib.blake2b(digest_size=16)
        for row in self.rows:
            found.update(b"%d " % len(row.data) + row.data)
        return found.hexdigest()


def pages_of(stream: str, listing: UserListing, since: Cursor | None) -> Iterator[Page]:
    """A listing page by page, behind the cursor of an earlier reading of the same."""
    mark, sweep, begin = listing.mark, uuid.uuid4().hex, 0
    if since and since.get("listing") == mark and not since.get("done"):
        sweep, begin = str(since["sweep"]), int(since["record"])
    for at in range(begin, max(len(listing.rows), begin + 1), PAGE_RECORDS):
        behind = at + PAGE_RECORDS
        last = behind >= len(listing.rows)
        cursor = {"sweep": sweep, "listing": mark, **({"done": True} if last else {"record": behind})}
        yield Page(Documents(listing.rows[at:behind]), cursor, complete=last, streams=(stream,), sweep=sweep)
