"""Klanten's uuid of a customer that it made for us: in our map it becomes another name of the same customer."""

from __future__ import annotations

from uuid import UUID

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import statements
from usersync_cli.clients.postgres.transactions import transaction
from usersync_cli.errors import UsersyncError
from usersync_cli.identity import place
from usersync_cli.state.outbox import StepScope

BY = "klanten"  # who made the customer, and who merged it
_SQL = statements(__name__)


class OfAnother(UsersyncError):
    """Our map has another customer by this uuid: a person decides."""

    status = 10


def adopt(connection: Connection, scope: StepScope, domain: str, uuid: UUID) -> None:
    """Write down that this uuid is the customer of this domain. Raises OfAnother where it is another one.

    Nothing is written where our map has no such domain, or where a person was asked about this uuid and has not said yes.
    """
    values = {"domain": domain, "uuid": uuid, "run": scope.run_id, "by": BY}
    if not _new(connection, values):
        return
    with transaction(connection):
        place.lock(connection)
        if _new(connection, values):
            connection.execute(_SQL["adopt"], values)


def _new(connection: Connection, values: dict[str, object]) -> bool:
    ((state,),) = connection.execute(_SQL["state"], values).fetchall()
    if state == "other":
        raise OfAnother(f"{values['uuid']} is another customer")
    return bool(state == "new")
