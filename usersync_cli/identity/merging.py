"""What a person does to customers: one gets another domain, one is merged into another, and is apart again. In `place.writing`.

A merge is a pointer, which everything follows that is shown; mappings stay with the customer that they were decided for. So an
`unmerge` leaves nothing behind but the history of both.

A customer without a domain, as another list of customers may have given it, goes by the domain of the first one that was merged into
it and has one: that is lent (`merges.domain`), since a domain is one customer's, and given back before anything changes between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar, statements
from usersync_cli.errors import Conflict, NotFound
from usersync_cli.identity.customers import Customer, called, find, of_uuid, uuid_of
from usersync_cli.identity.domains import domain_of
from usersync_cli.identity.mappings import require_customer

_SQL = statements(__name__)


@dataclass(frozen=True)
class Changed:
    """A customer after a change, whether there was one, and what else followed from it."""

    customer: Customer
    changed: bool
    other: Customer | None = None  # the one that it was merged into
    conflicts: int = 0  # that are over now, or open again


def rename(tx: Connection, text: str, domain: str, by: str, reason: str | None = None) -> Changed:
    """Give the customer of this uuid or domain another domain; the one that it had goes on meaning it.

    Raises NotFound, or Conflict where the domain is another customer's or the customer is merged.
    """
    customer, new = require_customer(tx, text), domain_of(domain)
    if customer.merged_into:
        raise Conflict(
            f"{customer} is merged into {called(customer.root, customer.root_domain)}; nothing was renamed",
            hint=f"rename that one: `usersync customers rename {customer.root} {new}`",
        )
    if customer.domain == new:
        return Changed(customer, changed=False)
    other = find(tx, new)
    if other and other.uuid != customer.uuid:
        raise _taken(customer, other, new)
    values = {"uuid": customer.uuid, "by": by, "reason": reason}
    tx.execute(_SQL["former_no_more"], {**values, "domain": new})
    if not _give_back(tx, customer.uuid) and customer.domain:
        tx.execute(_SQL["leave_behind"], {**values, "domain": customer.domain})
    tx.execute(_SQL["call"], {**values, "domain": new})
    return Changed(_now(tx, customer.uuid), changed=True)


def _taken(customer: Customer, other: Customer, domain: str) -> Conflict:
    if other.root == customer.uuid:
        return Conflict(
            f"{domain} is the domain of {other.uuid}, which is merged into this customer; nothing was renamed",
            hint=f"it means this customer already: `usersync customers show {domain}`",
        )
    has = "is" if other.domain == domain else "was"
    return Conflict(
        f"{domain} {has} the domain of another customer: {other}; nothing was renamed",
        hint=f"are they one? `usersync customers merge {customer.uuid} {other.uuid} --reason WHY`",
    )


def merge(tx: Connection, text: str, into_text: str, by: str, reason: str) -> Changed:
    """Let the first customer resolve to the second, or to what that one resolves to. Nothing is done where it is so already.

    Raises NotFound, or Conflict for a circle and for a customer that is merged into another.
    """
    customer, into = require_customer(tx, text), require_customer(tx, into_text)
    if customer.merged_into == into.uuid:
        return Changed(customer, changed=False, other=into)
    _refuse_merge(customer, into)
    values = {"uuid": customer.uuid, "into": into.uuid, "by": by, "reason": reason}
    _give_back(tx, customer.uuid)
    number = scalar(tx, _SQL["merge"], values)
    tx.execute(_SQL["point"], values)
    _borrow(tx, into.root)
    over = tx.execute(_SQL["settle"], {"root": into.root, "merge": number, "by": by}).rowcount
    return Changed(_now(tx, customer.uuid), changed=True, other=_now(tx, into.uuid), conflicts=over)


def _refuse_merge(customer: Customer, into: Customer) -> None:
    if customer.uuid == into.uuid:
        raise Conflict(f"both are the same customer: {customer}; nothing was merged", hint=f"`usersync customers show {customer.uuid}`")
    if customer.merged_into:
        raise Conflict(
            f"{customer} is merged into {customer.merged_into} already; nothing was merged",
            hint=f"`usersync customers unmerge {customer.uuid} --reason WHY` first, "
            f"or merge what it resolves to: `usersync customers merge {customer.root} {into.uuid} --reason WHY`",
        )
    if into.root == customer.uuid:
        raise Conflict(
            f"that would be a circle: {into} is merged into {customer} already; nothing was merged",
            hint=f"the other way round? `usersync customers unmerge {into.uuid} --reason WHY` first",
        )


def unmerge(tx: Connection, text: str, by: str, reason: str) -> Changed:
    """Take back that the customer was merged: everything is as it was without that merge, in whatever order merges are undone.

    Raises NotFound for a customer that is not merged.
    """
    customer = _merged(tx, text)
    (number, into) = tx.execute(_SQL["standing"], {"uuid": customer.uuid}).fetchone() or (None, None)
    if number is None:
        raise NotFound(
            f"{customer} is not merged into another; nothing was undone",
            hint=f"`usersync customers show {customer.uuid}` shows its merges",
        )
    values = {"uuid": customer.uuid, "merge": number, "by": by, "reason": reason}
    _give_back(tx, customer.root)
    tx.execute(_SQL["undo"], values)
    tx.execute(_SQL["part"], values)
    _borrow(tx, customer.root)
    _borrow(tx, customer.uuid)
    again = tx.execute(_SQL["unsettle"], values).rowcount
    return Changed(_now(tx, customer.uuid), changed=True, other=_now(tx, into), conflicts=again)


def _merged(tx: Connection, text: str) -> Customer:
    """The customer of this uuid or domain; where a merged one has lent its domain, that one is meant."""
    found = require_customer(tx, text)
    if found.merged_into or uuid_of(text):
        return found
    lent = scalar(tx, _SQL["lent"], {"domain": domain_of(text)})
    return _now(tx, lent) if lent else found


def _give_back(tx: Connection, root: UUID) -> bool:
    """Give the domain that a customer goes by back to the merged one that has lent it; whether it was lent."""
    found = tx.execute(_SQL["lender"], {"uuid": root}).fetchone()
    if found is None:
        return False
    number, lender, domain = found
    tx.execute(_SQL["lend"], {"merge": number, "domain": None})
    tx.execute(_SQL["call"], {"uuid": root, "domain": None})
    tx.execute(_SQL["call"], {"uuid": lender, "domain": domain})
    return True


def _borrow(tx: Connection, root: UUID) -> None:
    """Let a customer without a domain go by that of one that resolves to it."""
    if _now(tx, root).domain:
        return
    if found := tx.execute(_SQL["may_lend"], {"uuid": root}).fetchone():
        number, lender, domain = found
        tx.execute(_SQL["lend"], {"merge": number, "domain": domain})
        tx.execute(_SQL["call"], {"uuid": lender, "domain": None})
        tx.execute(_SQL["call"], {"uuid": root, "domain": domain})


def _now(tx: Connection, uuid: UUID) -> Customer:
    found = of_uuid(tx, uuid)
    assert found is not None  # noqa: S101  customers are never removed
    return found
