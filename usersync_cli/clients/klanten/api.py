"""Klanten's four requests. Ids and domains are in no message: either may be a person's."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Self, TypeAlias
from urllib.parse import quote
from uuid import UUID

from usersync_cli.clients.http.client import Client, Forbidden, Reply, Request
from usersync_cli.clients.klanten import answers
from usersync_cli.clients.klanten.answers import Customer, LookedUp, Mapping
from usersync_cli.clients.klanten.paths import misfit
from usersync_cli.errors import ConfigError
from usersync_cli.signals import Stop

__all__ = ["Klanten", "Question", "misfit"]

UNKNOWN = (404, 500)  # for an unknown id, or an unknown customer; their bodies may be pages in HTML
REFUSED = (400, 414)  # for an id that is odd, or too long
NOT_MADE = (400, 404, 409, 422)  # for a mapping; 400 is what is known of it, and all of them mean that nothing was made
KEY_HINT = "fix api_key in the config file: the key as Klanten showed it when it was made, without `Api-Key` before it"

Question: TypeAlias = tuple[str, str] | UUID
"""What may be asked: whose an id (app, id) is, or which ids a customer has."""


class Klanten:
    """One Klanten, asked with one key. Calls may come from several threads; `name` is how messages call it."""

    def __init__(  # noqa: PLR0913  all but the first two are named
        self, url: str, api_key: str, *, name: str, stop: Stop, ca: Path | None = None, deadline: timedelta = timedelta(seconds=60)
    ) -> None:
        self.name = name
        self._client = Client(url, name=name, stop=stop, headers={"Authorization": f"Api-Key {api_key}"}, ca=ca, deadline=deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections and threads."""
        self._client.close()

    def look_up(self, app: str, id_: str) -> LookedUp:
        """Whose an id of an app is. Raises ConfigError for a wrong key, Unavailable, Drift."""
        with self._key():
            return answers.looked_up(self._client.send(_query(app, id_)))

    def look_up_all(self, ids: Iterable[tuple[str, str]], workers: int) -> Generator[LookedUp, None, None]:
        """Whose these ids (app, id) are, in their order, as many at a time as there are workers. It raises what `look_up` raises."""
        with self._key():
            for reply in self._client.each((_query(app, id_) for app, id_ in ids), workers):
                yield answers.looked_up(reply)

    def mappings(self, customer: UUID) -> list[Mapping] | None:
        """All ids of a customer, of each app; None for an unknown customer, or where Klanten is out of order (`LookedUp.doubtful`)."""
        with self._key():
            return _listed(self._client.send(_mappings_of(customer)))

    def each(self, asked: Iterable[Question], workers: int) -> Generator[tuple[Question, LookedUp | list[Mapping] | None], None, None]:
        """Questions with what `look_up` or `mappings` gives, in their order, as many at a time as there are workers.

        `asked` may end and go on again: it is asked for more as long as an answer is to come. An id that is refused ends nothing.
        """
        drawn: deque[Question] = deque()
        with self._key():
            for reply in self._client.each(map(partial(_request, drawn), asked), workers):
                question = drawn.popleft()
                yield question, _listed(reply) if isinstance(question, UUID) else answers.looked_up(reply)

    def has(self, app: str, id_: str) -> bool:
        """Whether Klanten has an id that it is known to have had. Waits while it is out of order; raises Unavailable in the end."""
        with self._key():
            return answers.looked_up(self._client.send(replace(_query(app, id_), bare=(404,)))).customer is not None

    def customer(self, domain: str) -> Customer:
        """The customer with exactly this domain; it is made where there is none. Sent once: raises Unknown when it may have been made."""
        with self._key():
            return self._client.send(Request("POST", "/v1/customers/", form={"domain": domain}, repeat=False)).decode(Customer)

    def map(self, app: str, id_: str, customer: UUID) -> bool:
        """Map an id to a customer, with one request; False: it was refused, and a look-up says whether the id is mapped already.

        A second mapping is refused in the same words, whether it is the same one or somebody else's; and so is an unknown app.
        Raises Unknown when it may have been done.
        """
        form = {"customer_app_id": id_, "customer": str(customer), "app": app}
        with self._key():
            return self._client.send(Request("POST", "/v1/mappings/", form=form, repeat=False, bare=NOT_MADE)).status == 201

    @contextmanager
    def _key(self) -> Iterator[None]:
        """A refused key in words that say what to fix."""
        try:
            yield
        except Forbidden as error:
            raise ConfigError(f"{self.name} does not accept the key: it answered {error.http_status}", hint=KEY_HINT) from error


def _request(drawn: deque[Question], question: Question) -> Request:
    drawn.append(question)
    return _mappings_of(question) if isinstance(question, UUID) else _query(*question)


def _mappings_of(customer: UUID) -> Request:
    form = {"customer": str(customer)}
    # The documentation sends the body of a form with GET, which some servers and proxies drop.
    return Request("GET", "/v1/mappings/", params=form, form=form, bare=UNKNOWN)


def _listed(reply: Reply) -> list[Mapping] | None:
    return None if reply.status in UNKNOWN else answers.mappings(reply)


def _query(app: str, id_: str) -> Request:
    path = f"/v1/query/{quote(app, safe='')}/{quote(id_, safe='')}"
    return Request("GET", path, bare=(*UNKNOWN, *REFUSED), named=f"/v1/query/{quote(app, safe='')}/ID")
