"""Whole documents, one request for each: what .info gives, and which documents are owed because it does not give them today."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from usersync_cli.errors import Drift, Unavailable
from usersync_cli.model import Record
from usersync_cli.sources.teamleader.api import UNKNOWN, info
from usersync_cli.sources.teamleader.owed import HIDDEN, REFUSED, SILENT
from usersync_cli.sources.teamleader.shapes import date, document_of, head_of, is_settled

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import Reply
    from usersync_cli.sources.teamleader.api import Api
    from usersync_cli.sources.teamleader.owed import Owed
    from usersync_cli.sources.teamleader.resources import Resource

MOST_SILENT = 3  # documents of a stream that get no answer, until it is not the documents


class Details:
    """Reads whole documents; those that can't be had are written down as owed."""

    def __init__(self, api: Api, owed: Owed) -> None:
        self._api, self._owed = api, owed.documents

    def read(self, resource: Resource, keys: Sequence[str]) -> Iterator[Record]:
        """Whole documents, several requests at a time. A record that was deleted since its listing comes as deleted, after two looks."""
        unknown, refused = [], []
        for key, reply in self._answered(resource, keys):
            if reply.status in UNKNOWN:
                unknown.append(key)
            elif reply.status == 403:
                refused.append(key)
            else:
                yield self.document(resource, key, reply)
        self._refuse_all(resource, keys, unknown, refused)
        self._owed |= dict.fromkeys(refused, REFUSED)
        if unknown:
            yield from self._looked_for(resource, unknown)

    def _refuse_all(self, resource: Resource, keys: Sequence[str], unknown: Sequence[str], refused: Sequence[str]) -> None:
        """Where every one of several records has the same trouble, it is not the records."""
        if len(keys) <= 2 or len(keys) not in (len(unknown), len(refused)):
            return
        if refused:
            with self._api.told(resource):
                self._api.client.post(f"/{resource.path}.info", {"id": refused[0]})  # raises what such an answer means
        raise Unavailable(
            f"source {self._api.source}: {resource.path}.info gives none of {len(keys)} records that {resource.path}.list just gave",
            hint="nothing was taken over from that page; the next run reads it again. Is api_url right?",
        )

    def _looked_for(self, resource: Resource, unknown: Sequence[str]) -> Iterator[Record]:
        """Records that .info did not know although a list had just shown them. What a list of just these shows exists, and is owed."""
        there = self._api.with_these_ids(resource, unknown) if resource.by_ids else set(unknown)
        for key, reply in self._answered(resource, [key for key in unknown if key in there]):
            if reply.status == 200:
                yield self.document(resource, key, reply)
            else:
                self._owed[key] = REFUSED if reply.status == 403 else HIDDEN
        yield from (Record(resource.stream, key, b"{}", deleted=True) for key in unknown if key not in there)

    def document(self, resource: Resource, key: str, reply: Reply) -> Record:
        """What .info says of this key, asked again where it says nothing or speaks of another record. Raises Drift when that stays so."""
        try:
            return self._read_document(resource, key, reply)
        except Drift:
            return self._api.ask(info(resource, key), partial(self._read_document, resource, key))

    def _read_document(self, resource: Resource, key: str, reply: Reply) -> Record:
        row = document_of(reply)
        head = head_of(row)
        if head.id != key:
            raise Drift(
                f"source {self._api.source}: {resource.path}.info gave another record than the one that was asked for, or none",
                hint="nothing was taken over from that page, nobody was removed; does something stand before api_url?",
            )
        return Record(resource.stream, key, row, head.updated_at, settled=is_settled(head, date(reply)))

    def _answered(self, resource: Resource, keys: Sequence[str]) -> Iterator[tuple[str, Reply]]:
        """Answers of .info by key. A few that get no answer, while others do, are left out: they are owed."""
        left, silent = [key for key in keys if key not in self._owed], False
        while left:
            try:
                for key, reply in self._api.infos(resource, tuple(left)):
                    left.remove(key)
                    silent = False
                    yield key, reply
            except Unavailable:
                self._api.stop.check()  # if that is why
                if silent or list(self._owed.values()).count(SILENT) >= MOST_SILENT:
                    raise
                silent = True
                self._owed[left.pop(0)] = SILENT
                left.reverse()  # its neighbours last
