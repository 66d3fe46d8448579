"""Which records do not exist any more: what a list of just these keys lacks, and .info does not know either."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from usersync_cli import log
from usersync_cli.sources.teamleader import limits
from usersync_cli.sources.teamleader.api import UNKNOWN
from usersync_cli.sources.teamleader.shapes import head_of

if TYPE_CHECKING:
    from usersync_cli.sources.teamleader.api import Api
    from usersync_cli.sources.teamleader.details import Details
    from usersync_cli.sources.teamleader.owed import Owed
    from usersync_cli.sources.teamleader.resources import Resource


class Absent:
    """Asks for records that a listing lacks; those that it left out by mistake are counted as unlisted."""

    def __init__(self, api: Api, details: Details, owed: Owed) -> None:
        self._api, self._details, self._owed = api, details, owed

    def gone(self, resource: Resource, keys: Sequence[str]) -> Collection[str]:
        """Keys that a list of just these lacks, and that .info does not know at two moments: each may be wrong, or leave some out."""
        listed = self._api.with_these_ids(resource, keys) if resource.by_ids else set()
        self._owed.unlisted += len(listed)
        return self._unknown(resource, self._unknown(resource, [key for key in keys if key not in listed]))

    def _unknown(self, resource: Resource, keys: Sequence[str]) -> list[str]:
        """Keys for which .info says that it has no record; it may have records that we may not see."""
        unknown = []
        for key, reply in self._api.infos(resource, keys):
            if reply.status in UNKNOWN:
                unknown.append(key)
            elif reply.status == 403:
                where = {"source": self._api.source, "stream": resource.stream}
                log.get().warning("a record is not listed, and may not be read; its row stays", **where)
            else:
                self._details.document(resource, key, reply)
        return unknown

    def departed(self, resource: Resource, keys: Sequence[str], lacking: int) -> list[str]:
        """Keys that do not exist any more, of which there are at most `lacking`; found in few requests where they are few."""
        if not lacking:
            return []
        if len(keys) <= limits.PAGE_RECORDS:
            there = {head_of(row).id for row in self._api.with_ids(resource, keys, 1)}
            return [key for key in keys if key not in there]
        middle = min(len(keys) // limits.PAGE_RECORDS // 2 or 1, limits.MANY_PAGES) * limits.PAGE_RECORDS
        first, rest = keys[:middle], keys[middle:]
        found = self.departed(resource, first, self.lacking(resource, first) if middle > limits.PAGE_RECORDS else lacking)
        return found + self.departed(resource, rest, lacking - len(found))

    def lacking(self, resource: Resource, keys: Sequence[str]) -> int:
        """The most of these keys that can be missing, by the last page of a list of just these."""
        pages = -(-len(keys) // limits.PAGE_RECORDS)
        if pages > limits.MANY_PAGES:
            return len(keys)
        there = len(self._api.with_ids(resource, keys, pages))
        return len(keys) - (pages - 1) * limits.PAGE_RECORDS - there if there else len(keys)
