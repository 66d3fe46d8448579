"""The calls of Teamleader's API that the source makes. An answer of another shape than documented is asked for again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from usersync_cli import log
from usersync_cli.errors import ConfigError, Drift, Unavailable
from usersync_cli.sources.teamleader import limits
from usersync_cli.sources.teamleader.resources import NEW_PROJECTS
from usersync_cli.sources.teamleader.shapes import Listed, Status, date, head_of, rows_of, total_of, whose

if TYPE_CHECKING:
    from datetime import datetime

    from usersync_cli.clients.http.client import Client, Reply, Request
    from usersync_cli.signals import Stop
    from usersync_cli.sources.teamleader.resources import Resource

UNKNOWN = (404, 410)  # what .info says of a record that it does not have; one such answer proves nothing
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
T = TypeVar("T")


@dataclass(frozen=True)
class Api:
    """The API as one account's session uses it."""

    source: str  # what messages call it
    client: Client
    stop: Stop
    workers: int  # requests at the same time

    def me(self) -> tuple[str, datetime]:
        """Whose account it is, and Teamleader's time."""
        return self.ask(post("/users.me", {}), lambda reply: (whose(reply), date(reply)))

    def module(self) -> str:
        """Which module for projects the account uses, in Teamleader's words."""
        with self.told(NEW_PROJECTS):
            return self.ask(post("/accounts.projects-v2-status", {}), lambda reply: reply.decode(Status)).data.status

    def page(self, resource: Resource, number: int, since: str = "", size: int = 0) -> Listed:
        """One page; number 0 for a list without pages."""
        body: dict[str, Any] = {"filter": {"updated_since": since}} if since else {}
        if number:
            fields = [(since and resource.latest) or resource.sort, resource.ties]
            order = [{"field": field, "order": "asc"} for field in fields if field]
            body |= {"page": {"size": size or limits.PAGE_RECORDS, "number": number}, "sort": order}
        if resource.includes:
            body["includes"] = resource.includes
        return self.listed(resource, body)

    def listed(self, resource: Resource, body: Mapping[str, Any]) -> Listed:
        """What a list with this body shows."""
        with self.told(resource):
            return self.ask(post(f"/{resource.path}.list", body), lambda reply: Listed(rows_of(reply), date(reply), total_of(reply)))

    def with_ids(self, resource: Resource, keys: Sequence[str], number: int) -> Sequence[bytes]:
        """A page of a list of just these."""
        page = {"page": {"size": limits.PAGE_RECORDS, "number": number}} if resource.paged else {}
        return self.listed(resource, {"filter": {"ids": list(keys)}, **page}).rows

    def with_these_ids(self, resource: Resource, keys: Sequence[str]) -> set[str]:
        """The keys that a list of just these keys shows."""
        asked = [key for key in keys if UUID.fullmatch(key)]  # a table that was taken over may have others
        parts = (asked[at : at + limits.PAGE_RECORDS] for at in range(0, len(asked), limits.PAGE_RECORDS))
        return {head_of(row).id for part in parts for row in self.with_ids(resource, part, 1)} & set(keys)

    def infos(self, resource: Resource, keys: Sequence[str]) -> Iterator[tuple[str, Reply]]:
        """The answers of .info, several asked for at the same time, also those that say that a record is unknown or not to be read."""
        requests = (replace(info(resource, key), accept=(403, *UNKNOWN)) for key in keys)
        with self.told(resource):
            yield from zip(keys, self.client.each(requests, self.workers), strict=True)

    def ask(self, request: Request, read: Callable[[Reply], T]) -> T:
        """What `read` finds in the answer; one of another shape than documented is asked for again, as any other that is broken."""
        for pause in limits.REPEATS:
            reply = self.client.send(request)
            try:
                return read(reply)
            except Drift as drift:
                log.get().warning("request repeated", request=str(request), why=drift.message)
            self.stop.sleep(pause.total_seconds())
        return read(self.client.send(request))

    def odd(self, resource: Resource, what: str) -> Unavailable:
        """The error for pages that can't be."""
        return Unavailable(
            f"source {self.source}: {resource.path}.list: {what}", hint="nothing was taken over from that page; the next run reads it again"
        )

    @contextmanager
    def told(self, resource: Resource) -> Iterator[None]:
        """Which scope is missing."""
        from usersync_cli.clients.http.client import Refused

        try:
            yield
        except Refused as error:
            words = f" ({error.words})" if error.words else ""
            if error.http_status != 403:
                raise error.retold(error.message + words) from error
            scope = f"the scope {resource.scope}" if resource.scope else "the right"
            raise ConfigError(
                f"{error.message}{words}: {scope} is missing",
                hint=f"give it to the integration in Teamleader's marketplace, and see that who authorises may read {resource.called};"
                f" then authorise again: usersync oauth-url --source {self.source}",
            ) from error


def post(path: str, body: Mapping[str, Any]) -> Request:
    from usersync_cli.clients.http.client import Request

    return Request("POST", path, body)


def info(resource: Resource, key: str) -> Request:
    """The request for one whole document."""
    return post(f"/{resource.path}.info", {"id": key})
