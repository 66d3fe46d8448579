"""The complete listing of several streams, page by page. It goes on where an earlier run left it.

WorkOS has no list of all memberships: they are asked for organization by organization, several at once, behind each page of
organizations; and users and groups of directories likewise. What is still to be asked is in the cursor.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from usersync_cli.errors import Drift
from usersync_cli.model import Cursor, Documents, Page, Record
from usersync_cli.sources.workos.api import is_unknown, request
from usersync_cli.sources.workos.changes import by_id
from usersync_cli.sources.workos.place import Progress
from usersync_cli.sources.workos.shapes import Listed, as_text, listed, record_of
from usersync_cli.sources.workos.streams import STREAMS

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import Reply, Request
    from usersync_cli.sources.workos.api import Api

LIMIT = 100  # the most that WorkOS gives
PAGE_RECORDS = 1000
REFUSED = (400, 404, 422)  # what WorkOS may say to the id of an object that it does not have any more


def begun(streams: Sequence[str], at: datetime, last: datetime | None) -> Progress:
    """A new listing of these streams: at WorkOS's time `at`, after the event of the time `last`."""
    sweep = uuid.uuid4().hex
    ordered = [name for name in STREAMS if name in streams]
    return Progress(sweep, at, as_text(max(at, last) if last else at), ordered, root=_roots(ordered)[0])


def resumed(progress: Progress, asked: Collection[str]) -> Progress | None:
    """A listing that was interrupted, as far as these streams need it; None where they don't."""
    streams = [name for name in progress.streams if name in asked]
    left = _roots([name for name in streams if name not in progress.done])
    if not left:
        return None
    todo = [one for one in progress.todo if one[0] in streams and one[0] not in progress.done]
    progress = replace(progress, streams=streams, todo=todo)
    return progress if progress.root in left else replace(progress, root=left[0], after=None, ended=False, todo=())


class Listing:
    """A listing under way; it `checks` what the log has led to, where that was read to its end before.

    `cursor` gives the cursor behind a page, from how far the listing is then.
    """

    def __init__(self, api: Api, progress: Progress, cursor: Callable[[Progress], Cursor], *, checks: bool = False) -> None:
        self._api, self._at, self._cursor, self._checks = api, progress, cursor, checks
        self._behind: set[str | None] = set()  # where pages of the list began, to notice one that comes again

    def pages(self) -> Generator[Page, None, None]:
        """The pages that are still to come, each stream's last one complete."""
        roots = _roots(self._at.streams)
        for root in roots[roots.index(self._at.root) :]:
            if root != self._at.root:
                self._at = replace(self._at, root=root, after=None, ended=False, todo=())
            self._behind = {self._at.after}
            yield from self._children()
            while not self._at.ended:
                yield from self._root_page(root)
                yield from self._children()

    # a list of everything

    def _root_page(self, root: str) -> Iterator[Page]:
        """One page of a list; what has to be asked for each of its objects is noted."""
        found = self._list(root)
        records = [record_of(root, row, self._at.as_of) for row in found.rows]
        todo = [(child, record.key, None) for child in self._child_streams() for record in records if record.key]
        ended = found.after is None
        self._at = replace(self._at, after=found.after, ended=ended, todo=todo)
        if root in self._at.streams and root not in self._at.done:
            yield self._page(root, records, complete=ended)

    def _list(self, root: str) -> Listed:
        resource, behind = STREAMS[root], self._at.after
        params = {**resource.params, **({"limit": LIMIT, "order": "asc"} if resource.paged else {})}
        reply = self._api.ask(resource.path, params | ({"after": behind} if behind else {}), phase="listing")
        if behind and reply.status in REFUSED and self._is_gone(root, behind):  # it has left since: from the beginning again
            self._behind = set()
            reply = self._api.ask(resource.path, params, phase="listing")
        self._api.refuse(reply, resource.path)
        return self._checked(root, listed(reply, paged=resource.paged), behind)

    def _checked(self, stream: str, found: Listed, behind: str | None) -> Listed:
        """The page, unless it came before. That is well where its place has left the list: then it begins again."""
        if found.after is not None and found.after in self._behind:
            if behind is None or not self._is_gone(stream, behind):
                raise Drift(
                    f"source {self._api.name}: the list of {stream} gave the same page twice",
                    hint="nobody was removed; does something between WorkOS and us keep old answers?",
                )
            self._behind = set()
        self._behind.add(found.after)
        return found

    def _is_gone(self, stream: str, key: str) -> bool:
        return is_unknown(self._api.ask(by_id(stream, key, phase="look-up").path, phase="look-up"))

    # lists that are asked for one object after the other

    def _child_streams(self) -> list[str]:
        """The streams that are still to be asked for objects of the list."""
        left = [name for name in self._at.streams if name not in self._at.done]
        return [name for name in left if (parent := STREAMS[name].parent) and parent.stream == self._at.root]

    def _children(self) -> Iterator[Page]:
        """What is still to be asked for objects of the list: one stream after the other, several requests at once."""
        for child in self._child_streams():
            if any(one[0] == child for one in self._at.todo):
                yield from self._child(child)
            elif self._at.ended:
                yield self._page(child, [], complete=True)

    def _child(self, child: str) -> Iterator[Page]:
        queue = deque(one for one in self._at.todo if one[0] == child)
        others = [one for one in self._at.todo if one[0] != child]
        flying = deque[tuple[str, str, str | None]]()
        records: list[Record] = []

        def draw() -> Iterator[Request]:
            while queue:
                flying.append(queue.popleft())
                yield self._child_request(*flying[-1])

        while queue:
            with closing(self._api.each(draw())) as replies:
                for reply in replies:
                    asked = flying.popleft()
                    found = self._child_rows(*asked, reply)
                    records += [record_of(child, row, self._at.as_of) for row in found.rows]
                    if found.after:
                        queue.appendleft((*asked[:2], found.after))
                    left = [*flying, *queue]
                    self._at = replace(self._at, todo=[*left, *others])
                    if len(records) >= PAGE_RECORDS or not left:
                        yield self._page(child, records, complete=self._at.ended and not left)
                        records = []

    def _child_request(self, stream: str, key: str, behind: str | None) -> Request:
        resource = STREAMS[stream]
        assert resource.parent is not None  # noqa: S101  only such are asked for
        params = {resource.parent.parameter: key, **resource.params, "limit": LIMIT, "order": "asc"}
        return request(resource.path, params | ({"after": behind} if behind else {}), phase="listing")

    def _child_rows(self, stream: str, key: str, behind: str | None, reply: Reply) -> Listed:
        """The rows of one object of the parent's list; none, where it has left since it was listed."""
        resource = STREAMS[stream]
        assert resource.parent is not None  # noqa: S101  only such are asked for
        if reply.status in REFUSED and self._is_gone(resource.parent.stream, key):
            return Listed((), None)
        if behind and reply.status in REFUSED and self._is_gone(stream, behind):  # it has left since: from the beginning again
            first = self._child_request(stream, key, None)
            reply = self._api.ask(first.path, first.params, phase="listing")
        self._api.refuse(reply, resource.path)
        found = listed(reply)
        if behind and found.after == behind and not self._is_gone(stream, behind):
            raise Drift(f"source {self._api.name}: a list of {stream} gave the same page twice", hint="nobody was removed")
        return found

    def _page(self, stream: str, records: Sequence[Record], *, complete: bool) -> Page:
        if complete:
            self._at = replace(self._at, done=[*self._at.done, stream])
        cursor = self._cursor(self._at)
        return Page(
            Documents(records), cursor, complete, [stream], f"{self._at.sweep} {stream}", checks=self._checks, overrules=self._at.as_of
        )


def _roots(streams: Sequence[str]) -> list[str]:
    """The lists that have to be read for these streams, in the order of STREAMS."""
    wanted = {parent.stream if (parent := STREAMS[name].parent) else name for name in streams}
    return [name for name in STREAMS if name in wanted]
