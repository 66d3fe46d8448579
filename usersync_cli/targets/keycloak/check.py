"""What `usersync check` looks at in a realm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from usersync_cli.errors import ConfigError, Drift, UsersyncError
from usersync_cli.targets.keycloak.logins import look_at_logins
from usersync_cli.targets.keycloak.rules import ATTRIBUTE, ATTRIBUTE_HINT, UNDECLARED, actions_problem, attribute_problem

if TYPE_CHECKING:
    from usersync_cli.targets.keycloak.realm import Realm
    from usersync_cli.targets.keycloak.settings import Settings


def look(name: str, own: Settings, realm: Realm) -> Iterator[tuple[str, UsersyncError | None]]:
    """What was looked at, and what is wrong with it. Writes nothing; raises what keeps it from looking on."""
    yield f"realm {own.realm}, {realm.count():,} accounts", None
    realm.refuse_blindness()
    problem = attribute_problem(realm.profile())
    lacks = "manage-users", "view-realm"
    yield "rights of the service account", realm.lacking(*lacks, *(("manage-realm",) if _makes(own, realm, problem) else ()))
    if problem is UNDECLARED and own.create_missing:
        yield f"attribute {ATTRIBUTE} will be declared", None
    else:
        yield f"attribute {ATTRIBUTE}", Drift(f"target {name}: {problem}", hint=ATTRIBUTE_HINT) if problem else None
    odd = actions_problem(own.required_actions, realm.required_actions())
    yield "required actions", ConfigError(f"target {name}: {odd[0]}", hint=odd[1]) if odd else None
    yield from look_at_logins(name, own, realm.about())
    there = {str(role["name"]) for role in realm.roles()}
    groups = realm.group_ids(own.managed_groups)
    lacking = [f"role {one}" for one in own.managed_roles if one not in there]
    lacking += [f"group {one}" for one in own.managed_groups if one not in groups]
    if not lacking or own.create_missing:
        told = f", of which {', '.join(lacking)} will be made when somebody is to have them" if lacking else ""
        yield f"roles and groups of the maps{told}", None
        return
    hint = "make them, take them out of the maps, or say `create_missing: true`"
    said = f"target {name}: the realm {own.realm} lacks {', '.join(lacking)}; a person who is to have them stops a run"
    yield "maps", Drift(said, hint=hint)


def _makes(own: Settings, realm: Realm, problem: str | None) -> bool:
    """Whether a run may have to make a role, or declare the attribute: groups need no right of their own."""
    if not own.create_missing:
        return False
    there = {str(role["name"]) for role in realm.roles()}
    return problem is UNDECLARED or not there.issuperset(own.managed_roles)
