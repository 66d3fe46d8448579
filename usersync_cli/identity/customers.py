"""Customers: a domain and a uuid each, which never changes; merged into one another, and apart again."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import ConfigError
from usersync_cli.identity.domains import domain_of


@dataclass(frozen=True)
class Customer:
    """A customer as it stands in the map, and the one that it resolves to; for one that is not merged, itself."""

    uuid: UUID
    domain: str | None
    merged_into: UUID | None
    root: UUID
    root_domain: str | None


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
    row = tx.execute(_OF_DOMAIN, {"domain": domain_of(text)}).fetchone()
    return of_uuid(tx, row[0]) if row else None


def of_uuid(tx: Connection, uuid: UUID) -> Customer | None:
    """The customer of this uuid."""
    row = tx.execute(_OF_UUID, (uuid,)).fetchone()
    return Customer(*row) if row else None


def get_or_create(tx: Connection, domain: str, by: str) -> tuple[Customer, bool]:
    """The customer of this domain, in any form, and whether it is new. In `place.writing`. Raises ConfigError for what is no domain."""
    if uuid_of(domain):
        raise ConfigError("that is a uuid, and a customer is made of a domain", hint="usersync customers show UUID looks it up")
    if found := find(tx, domain):
        return found, False
    tx.execute(_CREATE, {"domain": domain_of(domain), "by": by})
    made = find(tx, domain)
    assert made is not None  # noqa: S101  it was just made
    return made, True


_OF_UUID = """
    SELECT c.uuid, c.domain, c.merged_into, r.uuid, r.domain
      FROM usersync.customers AS c JOIN usersync.customers AS r ON r.uuid = usersync.root_of(c.uuid) WHERE c.uuid = %s
"""
_OF_DOMAIN = """
    SELECT c.uuid FROM usersync.customers AS c WHERE c.domain = %(domain)s COLLATE "C"
    UNION ALL
    (SELECT f.customer FROM usersync.former_domains AS f WHERE f.domain = %(domain)s COLLATE "C" LIMIT 1)
     LIMIT 1
"""
_CREATE = """
    INSERT INTO usersync.customers (uuid, domain, created_by) VALUES (usersync.uuid_of(%(domain)s), %(domain)s, %(by)s)
"""
