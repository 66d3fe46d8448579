"""What a realm has and allows: its settings, its user profile, its roles and groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from usersync_cli import log
from usersync_cli.errors import ConfigError, Drift
from usersync_cli.targets.keycloak.logins import mail_problem, policy
from usersync_cli.targets.keycloak.passwords import Policy

if TYPE_CHECKING:
    from usersync_cli.targets.keycloak.realm import Realm
    from usersync_cli.targets.keycloak.settings import Settings

ATTRIBUTE = "usersync_id"  # of an account: whose it is
_FIELDS = {"email": "email", "firstName": "first_name", "lastName": "last_name"}
UNDECLARED = f"its user profile does not declare the attribute {ATTRIBUTE}, so Keycloak would drop it without a word"
_OPEN_TO_USERS = f"its user profile lets people themselves change the attribute {ATTRIBUTE}, so they could take another's account over"
ATTRIBUTE_HINT = (
    f'Realm settings, User profile, Create attribute {ATTRIBUTE}, admins only may view and edit it; as JSON: {{"name": "{ATTRIBUTE}",'
    ' "permissions": {"view": ["admin"], "edit": ["admin"]}, "multivalued": false}; or say `create_missing: true`'
)
# What the validators of a user profile surely refuse of a user name, so that a preview knows it; the rest the server decides.
# Seen on Keycloak 26.7: white space and most signs of ASCII; and what is neither Latin nor common to all scripts.
REFUSED_SIGNS = {
    "username-prohibited-characters": (
        r"\u0001-\u0020!\"#$%&'()*,/:;<=>?\[\\\]^`{|}~\u007f\u0085\u00a0\u00a7\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    ),
    # Combining marks; letters of Greek, Coptic and Cyrillic, Armenian, Hebrew, Arabic, Devanagari, Thai, Georgian, Hangul, Ethiopic,
    # Kana and Han.
    "up-username-not-idn-homograph": (
        r"\u0300-\u036f\u0386\u0388-\u0484\u0487-\u052f\u0531-\u0556\u0561-\u0587\u05d0-\u05ea\u0620-\u063f\u0641-\u064a\u0671-\u06d3"
        r"\u0904-\u0939\u0e01-\u0e30\u10a0-\u10c5\u10d0-\u10fa\u1100-\u11ff\u1200-\u1248\u1f20-\u1f45\u3041-\u3096\u30a1-\u30fa"
        r"\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
    ),
}


@dataclass
class Rules:
    """What a realm has and allows, apart from its accounts."""

    id: str
    duplicate_emails: bool
    editable_usernames: bool
    email_as_username: bool
    login_with_email: bool
    fields: Sequence[str]  # of e-mail address and names, those that we can write
    username_length: tuple[int, int]
    username_refused: str
    passwords: Policy
    mail_problem: tuple[str, str] | None  # why the first login of new people would fail, and what to do
    roles: Mapping[str, Mapping[str, Any]]
    groups: Mapping[str, str]


def read(name: str, own: Settings, realm: Realm) -> Rules:
    """Read what the realm has and allows. Raises Drift or ConfigError where it would drop what we write."""
    about, profile = realm.about(), realm.profile()
    problem = attribute_problem(profile)
    if problem and not (own.create_missing and problem is UNDECLARED):
        raise Drift(f"target {name}: {problem}", hint=ATTRIBUTE_HINT)
    if odd := actions_problem(own.required_actions, realm.required_actions()):
        raise ConfigError(f"target {name}: {odd[0]}", hint=odd[1])
    return Rules(
        id=str(about["id"]),
        duplicate_emails=bool(about.get("duplicateEmailsAllowed")),
        editable_usernames=bool(about.get("editUsernameAllowed")),
        email_as_username=bool(about.get("registrationEmailAsUsername")),
        login_with_email=bool(about.get("loginWithEmailAllowed")),
        fields=_fields(profile),
        username_length=_username_length(profile),
        username_refused="".join(signs for rule, signs in REFUSED_SIGNS.items() if rule in _username_rules(profile)),
        passwords=policy(about),
        mail_problem=mail_problem(own, about),
        roles={str(role["name"]): role for role in realm.roles()},
        groups=realm.group_ids(own.managed_groups),
    )


def _fields(profile: Mapping[str, Any]) -> Sequence[str]:
    """The fields that the user profile has and lets admins change. Keycloak drops any other without a word, or refuses it."""
    open_ = {str(one["name"]) for one in profile.get("attributes", ()) if "admin" in one.get("permissions", {}).get("edit", ("admin",))}
    for name in _FIELDS:
        if name not in open_:
            log.once("the realm's user profile has no such attribute that admins may change; it is left out", attribute=name)
    return [ours for name, ours in _FIELDS.items() if name in open_]


def keys_of(user: Mapping[str, Any]) -> Sequence[str]:
    """The keys that an account carries in our attribute: whose it says that it is."""
    return (user.get("attributes") or {}).get(ATTRIBUTE) or ()


def attribute_problem(profile: Mapping[str, Any]) -> str | None:
    """What is wrong with how the realm's user profile treats our attribute."""
    declared = next((one for one in profile.get("attributes", ()) if one.get("name") == ATTRIBUTE), None)
    if declared is None:
        return UNDECLARED
    return _OPEN_TO_USERS if "user" in declared.get("permissions", {}).get("edit", ()) else None


def actions_problem(wanted: Iterable[str], known: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Required actions that the realm would drop without a word: what is wrong, and what to do."""
    enabled = {str(one["alias"]): bool(one.get("enabled")) for one in known}
    odd = [name for name in wanted if not enabled.get(name)]
    if not odd:
        return None
    state_ = "switched off" if odd[0] in enabled else "not known"
    others = ", ".join(alias for alias, on in enabled.items() if on)
    return (
        f"required action {odd[0]} is {state_} in the realm, which would drop it without a word",
        f"switch it on under Authentication, Required actions; or name others in required_actions: {others}",
    )


def _username_rules(profile: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((one.get("validations") or {} for one in profile.get("attributes", ()) if one.get("name") == "username"), {})


def _username_length(profile: Mapping[str, Any]) -> tuple[int, int]:
    length = _username_rules(profile).get("length") or {}
    return int(length.get("min") or 1), int(length.get("max") or 255)
