"""What Klanten answers: customers, mappings, and whether an id is unknown or Klanten out of order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from usersync_cli.errors import Drift

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import Reply


class Customer(msgspec.Struct, frozen=True):
    """A customer, by its own words: the domain may be in any case, as somebody typed it."""

    domain: str
    uuid: UUID


class Mapping(msgspec.Struct, frozen=True):
    """An id of an app, of the customer that was asked for."""

    app: str
    id: str
    domain: str | None = None


@dataclass(frozen=True)
class LookedUp:
    """Whose an id is; None: it is unknown.

    `doubtful`: the answer was a 500. A Klanten that throws its exception as its page says answers so for every unknown id, and any
    Klanten does so that is out of order: ask for an id that it is known to have, to tell these apart.
    `refused`: it did not take the id as a part of its path, or something in between did not.
    `page`: the answer was a 404 without JSON, which is also what a server says of a path that it does not have.
    """

    customer: Customer | None
    doubtful: bool = False
    page: bool = False
    refused: bool = False


def looked_up(reply: Reply) -> LookedUp:
    """What a reply to a look-up means. Raises Drift when it has no customer in the documented shape."""
    if reply.status == 404:
        return LookedUp(None, page=not reply.body.lstrip().startswith(b"{"))
    if reply.status == 500:
        return LookedUp(None, doubtful=True)
    if reply.status in {400, 414}:
        return LookedUp(None, refused=True)
    return LookedUp(reply.decode(Customer))


def mappings(reply: Reply) -> list[Mapping]:
    """The mappings of a customer; the id is called aoo_id in Klanten's own example, so other names are taken too. Raises Drift."""
    return [_mapping(one, reply.where) for one in reply.decode(list[_Mapping])]


class _Mapping(msgspec.Struct):
    app: str
    domain: str | None = None
    aoo_id: str | int | None = None
    app_id: str | int | None = None
    customer_app_id: str | int | None = None


def _mapping(found: _Mapping, where: str) -> Mapping:
    ids = {str(one) for one in (found.aoo_id, found.app_id, found.customer_app_id) if one is not None}
    if len(ids) != 1:
        why = "a mapping has two ids" if ids else "a mapping has no id: not aoo_id, app_id or customer_app_id"
        raise Drift(f"{where} has another shape than documented: {why}", hint="did the vendor change its API?")
    return Mapping(found.app, ids.pop(), found.domain)
