"""Customers: a domain and a uuid each, which never changes; merged into one another, and apart again."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from usersync_cli.clients.postgres.connections import Connection


@dataclass(frozen=True)
class Customer:
    """A customer as it stands in the map, and the one that it resolves to; for one that is not merged, itself."""

    uuid: UUID
    domain: str | None
    merged_into: UUID | None
    root: UUID
    root_domain: str | None


def find(tx: Connection, text: str) -> Customer | None:
    """The customer of this uuid, or of this domain, which it may have had before it was renamed. Raises ConfigError for what is neither."""
    raise NotImplementedError


def get_or_create(tx: Connection, domain: str, by: str) -> tuple[Customer, bool]:
    """The customer of this domain, in any form, and whether it is new. In `place.writing`. Raises ConfigError for what is no domain."""
    raise NotImplementedError
