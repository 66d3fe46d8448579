"""Customers: a domain and a uuid each, which never changes. How they are found, made and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar, statements
from usersync_cli.errors import ConfigError
from usersync_cli.identity.domains import domain_of

_SQL = statements(__name__)
_MERGES = 100  # of one customer that are shown


@dataclass(frozen=True)
class Customer:
    """A customer as it stands in the map, and the one that it resolves to; for one that is not merged, itself."""

    uuid: UUID
    domain: str | None
    merged_into: UUID | None
    root: UUID
    root_domain: str | None

    def __str__(self) -> str:
        return called(self.uuid, self.domain)


@dataclass(frozen=True)
class Listed:
    """A line of the list: a customer, since when it is known and who made it."""

    customer: Customer
    created_at: datetime
    created_by: str


@dataclass(frozen=True)
class FormerDomain:
    """A domain that a customer had: it goes on meaning that customer."""

    domain: str
    until: datetime
    renamed_by: str
    reason: str | None


@dataclass(frozen=True)
class Merge:
    """That a customer was merged into another: who said so, why, and whether it was undone."""

    id: int
    customer: UUID
    domain: str | None  # of the customer, now
    merged_into: UUID
    into_domain: str | None  # of the other, now
    given: str | None  # the domain that the other was given
    merged_at: datetime
    merged_by: str
    reason: str
    undone_at: datetime | None
    undone_by: str | None
    undone_reason: str | None


@dataclass(frozen=True)
class Shown:
    """All that the map has of a customer, without its ids: those are counted by app."""

    customer: Customer
    created_at: datetime
    created_by: str
    run_id: int | None
    former_domains: Sequence[FormerDomain]
    resolving: int  # other customers that resolve to this one
    merges: Sequence[Merge]
    ids: dict[str, int]


def called(uuid: UUID, domain: str | None) -> str:
    """A customer in a message."""
    return f"{domain} ({uuid})" if domain else str(uuid)


def uuid_of(text: str) -> UUID | None:
    """The uuid that a text is; None for anything else."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None


def find(tx: Connection, text: str) -> Customer | None:
    """The customer of this uuid, or of this domain, which it may have had before it was renamed. Raises ConfigError for what is neither."""
    if uuid := uuid_of(text):
        return of_uuid(tx, uuid)
    row = tx.execute(_SQL["of_domain"], {"domain": domain_of(text)}).fetchone()
    return of_uuid(tx, row[0]) if row else None


def of_uuid(tx: Connection, uuid: UUID) -> Customer | None:
    """The customer of this uuid."""
    row = tx.execute(_SQL["of_uuid"], {"uuid": uuid}).fetchone()
    return Customer(*row) if row else None


def get_or_create(tx: Connection, domain: str, by: str) -> tuple[Customer, bool]:
    """The customer of this domain, in any form, and whether it is new. In `place.writing`. Raises ConfigError for what is no domain."""
    if uuid_of(domain):
        raise ConfigError("that is a uuid, and a customer is made of a domain", hint="usersync customers show UUID looks it up")
    if found := find(tx, domain):
        return found, False
    tx.execute(_SQL["create"], {"domain": domain_of(domain), "by": by})
    made = find(tx, domain)
    assert made is not None  # noqa: S101  it was just made
    return made, True


def listed(tx: Connection, *, search: str, merged: bool, page: int, limit: int) -> tuple[list[Listed], int]:
    """A page of customers in the order of their domains, and how many there are in all. `search`: whose domain holds this text;
    `merged`: those that are merged into another too."""
    values = {"search": search.lower(), "merged": merged, "limit": limit, "skipped": (page - 1) * limit}
    found = [Listed(Customer(*row[:5]), row[5], row[6]) for row in tx.execute(_SQL["listed"], values).fetchall()]
    return found, scalar(tx, _SQL["counted"], values)


def shown(tx: Connection, found: Customer) -> Shown:
    """All that the map has of a customer."""
    values = {"uuid": found.uuid, "limit": _MERGES}
    ((created_at, created_by, run_id),) = tx.execute(_SQL["made"], values).fetchall()
    former = [FormerDomain(*row) for row in tx.execute(_SQL["former"], values).fetchall()]
    merges = [Merge(*row) for row in tx.execute(_SQL["merges"], values).fetchall()]
    ids: dict[str, int] = dict(tx.execute(_SQL["ids"], values).fetchall())
    return Shown(found, created_at, created_by, run_id, former, scalar(tx, _SQL["resolving"], values), merges, ids)
