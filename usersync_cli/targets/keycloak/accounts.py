"""One account at a time, by a person's word: what `usersync keycloak ...` does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from usersync_cli.errors import ConfigError, Conflict, Drift, NotFound, PartialError, Unavailable, UsersyncError, VerificationFailed
from usersync_cli.targets.keycloak.logins import FirstPassword, credentials, mail_problem, policy, refuses_password
from usersync_cli.targets.keycloak.realm import NameTaken, Realm, Rejected, Unknown
from usersync_cli.targets.keycloak.refusals import what_helps
from usersync_cli.targets.keycloak.rules import ATTRIBUTE, ATTRIBUTE_HINT, UNDECLARED, actions_problem, attribute_problem, keys_of

if TYPE_CHECKING:
    from usersync_cli.targets.keycloak.settings import Settings

UPDATE_PASSWORD = "UPDATE_PASSWORD"  # noqa: S105  the name of a required action
LINK_LIFE = timedelta(hours=24)
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class Person:
    """An account as people look at it: roles of the realm given directly, without the one that everybody has; groups by path."""

    id: str
    username: str = field(repr=False)
    email: str | None = field(repr=False)
    first_name: str | None = field(repr=False)
    last_name: str | None = field(repr=False)
    enabled: bool
    email_verified: bool
    required_actions: Sequence[str]
    roles: Sequence[str]
    groups: Sequence[str]


@dataclass(frozen=True)
class Newcomer:
    """A person who is to get an account. `role` is the source's; `key`, if known, names the person whose account the job takes it for."""

    username: str = field(repr=False)
    email: str = field(repr=False)
    first_name: str = field(repr=False)
    last_name: str = field(repr=False)
    role: str
    key: str = ""


@dataclass(frozen=True)
class Made:
    """A new account, and the password for its first login; `password` is None where nobody is to know one."""

    person: Person
    password: str | None = field(repr=False)


class Exists(Conflict):
    """An account with this user name exists; `account` is its id."""

    def __init__(self, account: str) -> None:
        super().__init__("an account of this user name exists; nothing was changed", hint=f"usersync keycloak status {account}")
        self.account = account


def look_up(realm: Realm, who: str) -> Mapping[str, Any]:
    """Find the account with this id, or else with exactly this user name. Raises NotFound."""
    found = realm.get(who.lower()) if _ID.fullmatch(who) else None
    found = found or next(iter(realm.find(username=who)), None)
    if found is None:
        realm.refuse_blindness()
        raise NotFound(f"{realm.name}: there is no such account in the realm", hint="name it by its whole user name, or by its id")
    return found


def person(realm: Realm, user: Mapping[str, Any]) -> Person:
    """The account as people look at it. Its roles and its groups take a request each."""
    account = str(user["id"])
    roles = [str(role["name"]) for role in realm.user_roles(account)]
    return Person(
        id=account,
        username=str(user["username"]),
        email=user.get("email"),
        first_name=user.get("firstName"),
        last_name=user.get("lastName"),
        enabled=bool(user.get("enabled")),
        email_verified=bool(user.get("emailVerified")),
        required_actions=list(user.get("requiredActions", ())),
        roles=sorted(name for name in roles if not name.startswith("default-roles-")),
        groups=sorted(str(group["path"]).strip("/") for group in realm.user_groups(account)),
    )


def switch(realm: Realm, account: str, *, enabled: bool) -> None:
    """Enable or disable an account. Disabling also signs it out everywhere, even when Keycloak refuses: it does not do so by itself."""
    try:
        realm.update(account, {"enabled": enabled})
    except Rejected as rejected:
        if not enabled:
            realm.logout(account)
            raise StillEnabled(realm.name, account, rejected) from rejected
        raise
    if not enabled:
        realm.logout(account)


class StillEnabled(PartialError):
    """Keycloak refuses to disable the account; its sessions were ended."""

    def __init__(self, name: str, account: str, rejected: Rejected) -> None:
        said = f"{rejected.code or 'refused'}{f' of {rejected.field}' if rejected.field else ''}"
        super().__init__(
            f"{name}: Keycloak refuses to disable account {account} ({said}); it was signed out, and can log in again",
            hint=what_helps(rejected),
        )


def set_id(realm: Realm, user: Mapping[str, Any], key: str) -> bool:
    """Mark an account as this person's; False when it was marked so already.

    Raises Conflict when another account is this person's, Drift or VerificationFailed where Keycloak would drop the mark, or does.
    """
    account = str(user["id"])
    if problem := attribute_problem(realm.profile()):
        raise Drift(f"{realm.name}: {problem}", hint=ATTRIBUTE_HINT)
    if others := [str(one["id"]) for one in realm.find(attribute=(ATTRIBUTE, key)) if one["id"] != account]:
        hint = f"usersync keycloak status {others[0]}; take it from that account first, in Keycloak"
        raise Conflict(f"{realm.name}: another account has this {ATTRIBUTE}; nothing was changed", hint=hint)
    if keys_of(user) == [key]:
        return False
    found = realm.replace(account, lambda one: {**one, "attributes": {**(one.get("attributes") or {}), ATTRIBUTE: [key]}})
    if keys_of(found) != [key]:
        raise VerificationFailed(f"{realm.name}: Keycloak took {ATTRIBUTE} without an error, and does not have it")
    return True


def force_password_change(realm: Realm, user: Mapping[str, Any]) -> bool:
    """Ask for a new password at the next login, in addition to whatever else is asked then; False when it was asked for already."""
    account, asked = str(user["id"]), list(user.get("requiredActions", ()))
    if UPDATE_PASSWORD in asked:
        return False
    _refuse_unknown_actions(realm, [UPDATE_PASSWORD])
    realm.update(account, {"requiredActions": [*asked, UPDATE_PASSWORD]})
    if UPDATE_PASSWORD not in (realm.get(account) or {}).get("requiredActions", ()):
        raise VerificationFailed(f"{realm.name}: Keycloak took {UPDATE_PASSWORD} without an error, and does not have it")
    return True


def mail_password_link(realm: Realm, user: Mapping[str, Any]) -> None:
    """Mail a link that is valid for 24 hours. Raises ConfigError for an account without an address, and for a disabled one."""
    if not user.get("email"):
        raise ConfigError(f"{realm.name}: this account has no e-mail address; no mail was sent", hint=_NO_ADDRESS)
    if not user.get("enabled"):
        hint = f"usersync keycloak enable {user['id']}"
        raise ConfigError(f"{realm.name}: this account is disabled; no mail was sent", hint=hint)
    realm.send_actions(str(user["id"]), [UPDATE_PASSWORD], LINK_LIFE)


_NO_ADDRESS = "give it one at its source, or in Keycloak; or set a temporary password there"


def make(realm: Realm, own: Settings, new: Newcomer, tell: Callable[[str, str], None] | None) -> Made:
    """Make an account as the job does: with its first password, group and required actions in one request, then its role.

    `tell` gets user name and password as soon as the account is there; without it there is none. Raises Exists, Conflict,
    ConfigError for what can't be, before anything is written; PartialError when the account is there and something of it is not.
    """
    name, path = _role_and_group(own, new.role)
    about = realm.about()
    _look_before(realm, own, new, about)
    role = _needed(realm, own, name, path)
    if about.get("registrationEmailAsUsername"):
        new = replace(new, username=new.email)
    first = FirstPassword(policy(about) if tell else None, new.username, new.email)
    account = first.give(lambda password: _create(realm, {**_representation(own, new, path), **credentials(password)}, new.key))
    if tell and first.value:
        tell(new.username, first.value)
    _finish(realm, own, account, role)
    return Made(_verified(realm, account, own.required_actions, name, path), first.value)


def _representation(own: Settings, new: Newcomer, path: str) -> dict[str, Any]:
    """The new account as Keycloak is asked for it, without its password."""
    return {
        "username": new.username,
        "email": new.email,
        "firstName": new.first_name,
        "lastName": new.last_name,
        "enabled": True,
        "emailVerified": own.email_verified,
        "requiredActions": list(own.required_actions),
        "groups": [path] if path else [],
        "attributes": {ATTRIBUTE: [new.key]} if new.key else {},
    }


def _finish(realm: Realm, own: Settings, account: str, role: Mapping[str, Any]) -> None:
    """Give the new account its role, and mail its person. Raises PartialError: the account is there, and something of it is not."""
    try:
        realm.add_roles(account, [role])
        if own.notify == "email":
            realm.send_actions(account, list(own.required_actions), own.link_lifespan)
    except UsersyncError as error:
        hints = [f"usersync keycloak status {account}", error.hint]
        if own.notify == "email":
            hints.append(f"usersync keycloak reset-password {account}: mails a link, which nothing else does for this account")
        raise PartialError(
            f"{realm.name}: the account was made, but not all of it: {error.message}", hint="\n".join(filter(None, hints))
        ) from error


def _role_and_group(own: Settings, role: str) -> tuple[str, str]:
    """The realm role that this role of the source is mapped to, and the path of its group; empty where it has none."""
    names = {name.casefold(): realm_role for name, realm_role in own.roles.items()}
    found = names.get(role.strip().casefold()) or own.default_role
    if not found:
        known = ", ".join(own.roles)
        raise ConfigError("the map has no such role; nothing was written", hint=f"one of: {known}; or say `default_role`")
    group = own.groups.get(found, "")
    return found, f"/{group.strip('/')}" if group else ""


def _look_before(realm: Realm, own: Settings, new: Newcomer, about: Mapping[str, Any]) -> None:
    _refuse_unknown_actions(realm, own.required_actions)
    if odd := mail_problem(own, about):
        raise ConfigError(f"{realm.name}: {odd[0]}; nothing was written", hint=odd[1])
    if found := realm.find(username=new.username):
        raise Exists(str(found[0]["id"]))
    if not new.key:
        return
    problem = attribute_problem(realm.profile())
    if problem is UNDECLARED and own.create_missing:
        realm.declare(ATTRIBUTE)
    elif problem:
        raise Drift(f"{realm.name}: {problem}", hint=ATTRIBUTE_HINT)
    if found := realm.find(attribute=(ATTRIBUTE, new.key)):
        hint = f"usersync keycloak status {found[0]['id']}"
        raise Conflict(f"another account has this {ATTRIBUTE}; nothing was changed", hint=hint)


def _refuse_unknown_actions(realm: Realm, actions: Sequence[str]) -> None:
    if odd := actions_problem(actions, realm.required_actions()):
        raise ConfigError(f"{realm.name}: {odd[0]}", hint=odd[1])


def _needed(realm: Realm, own: Settings, name: str, path: str) -> Mapping[str, Any]:
    """Find the role, and make role and group where they are missing and `create_missing` is set. Raises Drift where it is not."""
    roles = {str(role["name"]): role for role in realm.roles()}
    lacks_group = bool(path) and realm.group(path) is None
    lacking = [f"role {name}"] * (name not in roles) + [f"group {path}"] * lacks_group
    if lacking and not own.create_missing:
        said = f"{realm.name}: the realm {own.realm} lacks {' and '.join(lacking)}; nothing was written"
        raise Drift(said, hint="make it there, fix the maps, or say `create_missing: true`")
    if lacks_group:
        realm.create_group(path)
    if name not in roles:
        realm.create_role(name)
        roles = {str(role["name"]): role for role in realm.roles()}
    return roles[name]


def _create(realm: Realm, user: Mapping[str, Any], key: str) -> str:
    try:
        return realm.create(user)
    except NameTaken as taken:
        what = "e-mail address" if taken.code == "same_email" else "user name"
        raise Conflict(f"another account has this {what}; nothing was changed", hint="is it the same person?") from taken
    except Rejected as rejected:
        if rejected.http_status != 400 or refuses_password(rejected):
            raise
        hint = "is it what Keycloak's user profile and password policy allow?"
        raise ConfigError(f"{rejected.message}; nothing was written", hint=hint) from rejected
    except Unknown as unknown:
        if found := realm.find(attribute=(ATTRIBUTE, key)) if key else ():
            return str(found[0]["id"])
        if not realm.find(username=user["username"]):
            raise Unavailable(f"{unknown.message}; no account was made", hint="try again") from unknown
        hint = "look with `usersync keycloak status`: nobody knows its password, and it has no role; delete it there and try again"
        raise Unknown(f"{unknown.message}; an account of this user name is there now", hint=hint) from unknown


def _verified(realm: Realm, account: str, actions: Sequence[str], role: str, path: str) -> Person:
    """Read the account back. Keycloak drops some things without a word: raises VerificationFailed when it did."""
    found = person(realm, look_up(realm, account))
    wanted = {*actions, role, *([path.strip("/")] if path else [])}
    if lacking := wanted - {*found.required_actions, *found.roles, *found.groups}:
        said = f"{realm.name}: the account was made, but lacks {', '.join(sorted(lacking))}, which Keycloak took without an error"
        raise VerificationFailed(said, hint=f"usersync keycloak status {account}")
    return found
