"""The accounts of the realm, their roles and groups: staged as they are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import statements
from usersync_cli.targets.keycloak.rules import Rules, keys_of

if TYPE_CHECKING:
    from usersync_cli.targets.keycloak.realm import Realm
    from usersync_cli.targets.keycloak.settings import Settings

_SQL = statements(__name__)


def read(tx: Connection, realm: Realm, own: Settings, rules: Rules) -> None:
    """Stage all accounts, and which of them have the roles and groups that we may give, or gave once.

    `rules.groups` then also has those groups that only earlier maps named. An account that came on two pages is one.
    """
    tx.execute(_SQL["stages"])
    given, paths = _given(tx)
    rules.groups = {**rules.groups, **realm.group_ids([path for path in paths if path not in rules.groups])}
    with tx.cursor().copy("COPY pg_temp.usersync_read FROM STDIN") as copy:
        for page in realm.users():
            for user in page:
                copy.write_row(_account_row(user, own.required_actions))
    with tx.cursor().copy("COPY pg_temp.usersync_held_read FROM STDIN") as copy:
        for kind, name, managed, accounts in _members(realm, own, rules, given):
            for account in accounts:
                copy.write_row((kind, name, managed, account))
    tx.execute(_SQL["staged"])


def _members(realm: Realm, own: Settings, rules: Rules, given: Sequence[str]) -> Iterator[tuple[str, str, bool, Sequence[str]]]:
    managed = own.managed_roles
    for role in dict.fromkeys([*managed, *given]):
        if role in rules.roles:
            yield from (("role", role, role in managed, page) for page in realm.role_members(role))
    for path, group in rules.groups.items():
        yield from (("group", path, path in own.managed_groups, page) for page in realm.group_members(group))


def _account_row(user: Mapping[str, Any], actions: Sequence[str]) -> tuple[Any, ...]:
    """A row of `usersync_read`: `fresh` if its person has yet to choose a password, `pending` if any of `actions` is yet to be done."""
    asked = user.get("requiredActions") or ()
    ours = [one for one in keys_of(user) if one]
    return (
        user["id"], user["username"], user.get("email"), user.get("firstName"), user.get("lastName"), bool(user.get("enabled")),
        bool(user.get("emailVerified")), ours[0] if ours else None, "UPDATE_PASSWORD" in asked,
        not actions or any(one in asked for one in actions),
    )  # fmt: skip


def _given(tx: Connection) -> tuple[list[str], list[str]]:
    """The roles and the groups that we gave to somebody, whatever the maps say now."""
    query = "SELECT DISTINCT unnest({}) FROM pg_temp.usersync_accounts ORDER BY 1"
    roles, groups = ([str(name) for (name,) in tx.execute(query.format(kind).encode()).fetchall()] for kind in ("roles", "groups"))
    return roles, groups
