"""What Keycloak's refusals mean, in our words.

No error holds a user name, an e-mail address or a part of a body; the id that Keycloak gave an account is nobody's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from usersync_cli.clients.http.client import Reply, Request
from usersync_cli.errors import ConfigError, Drift, Unavailable, UsersyncError


class Rejected(UsersyncError):
    """Keycloak refuses this for one account; others are not concerned.

    `code` is "same_username", "same_email", "no_email", ... of `_CODES`, or Keycloak's own, such as error-invalid-email;
    empty for one that we don't know. `field` is the one that is meant, if any.
    """

    status = 3

    def __init__(self, message: str, *, http_status: int, code: str = "", field: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.http_status = http_status
        self.code = code
        self.field = field


class NameTaken(Rejected):
    """Another account has this user name or e-mail address."""

    status = 10


class Gone(UsersyncError):
    """The account does not exist, or no longer."""

    status = 9


class Denied(ConfigError):
    """The service account lacks the client role `right`."""

    def __init__(self, message: str, *, right: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.right = right


@dataclass(frozen=True)
class ServiceAccount:
    """The service account that we are to Keycloak, and the realm that it looks after."""

    name: str  # how messages call the target
    realm: str
    login_realm: str
    client_id: str
    client_secret: str = field(repr=False)

    @property
    def management(self) -> str:
        """The client whose roles are the rights over the realm."""
        return "realm-management" if self.login_realm == self.realm else f"{self.realm}-realm"

    def denied(self, right: str) -> Denied:
        what = f"the client role {right} of {self.management}"
        return Denied(
            f"{self.name}: the service account of the client {self.client_id} lacks {what}",
            right=right,
            hint=f"assign it in realm {self.login_realm}: Clients > {self.client_id} > Service account roles",
        )


def refusal(account: ServiceAccount, request: Request, reply: Reply) -> UsersyncError:
    """The error that a reply of the admin API other than 2xx means."""
    said = _Said.of(reply)
    below = "/".join(request.path.split("/")[4:])  # of /admin/realms/REALM
    what = f"{account.name} answered {reply.status} to {request.method} /{below}"
    if reply.status == 403:
        return account.denied(_right(request.method, below))
    if said.text == "Realm not found.":
        return _no_realm(account, account.realm)
    if said.text == "User not found":
        return Gone(f"{account.name} has no such account", hint="somebody deleted it")
    if said.code == "mail_failed":
        hint = "Realm settings > Email: is the mail server right? Keycloak's log says what it answered"
        return Unavailable(f"{account.name}: the realm's mail server did not take the mail", hint=hint)
    if reply.status == 404 and not said.code:
        return Drift(what, hint="usersync needs Keycloak 24 or newer")
    kind = NameTaken if reply.status == 409 and said.code in _TAKEN else Rejected
    why = said.code + (f" of {said.field}" if said.field else "")
    return kind(
        f"{what}{f': {why}' if why else ''}", http_status=reply.status, code=said.code, field=said.field, hint=_HINTS.get(said.code, "")
    )


@dataclass(frozen=True)
class _Said:
    """The parts of a refusal's body that may be repeated: codes, never its values."""

    text: str  # to compare with, not to show
    code: str = ""
    field: str = ""

    @classmethod
    def of(cls, reply: Reply) -> _Said:
        body = reply.json()
        body = body if isinstance(body, dict) else {}
        # Several come in any order.
        errors = sorted((one for one in body.get("errors", []) if isinstance(one, dict)), key=lambda one: str(one.get("field")))
        first = errors[0] if errors else body
        text = next((value for name in ("errorMessage", "error") if isinstance(value := first.get(name), str)), "")
        known = next((code for begin, code in _CODES.items() if text.startswith(begin)), "")
        own = text if re.fullmatch(r"[a-zA-Z_-]{1,80}", text) else ""
        field = str(first.get("field", ""))
        return cls(text, known or own, field if re.fullmatch(r"[\w.-]{1,80}", field) else "")


_CODES = {
    "User exists with same username or email": "same_username_or_email",
    "User exists with same username": "same_username",
    "User exists with same email": "same_email",
    "User email missing": "no_email",
    "User name is missing": "no_username",
    "User is disabled": "disabled",
    "User is read only": "read_only",
    "Failed to send": "mail_failed",
    "Provided invalid required actions": "unknown_action",
    "Role not found": "no_role",
    "Could not find role": "no_role",
    "Role with name": "role_exists",
    "Group not found": "no_group",
    "Could not find group": "no_group",
    "Group path does not exist": "no_group",
    "Top level group named": "group_exists",
    "Sibling group named": "group_exists",
}
_TAKEN = {"same_username_or_email", "same_username", "same_email"}
_HINTS = {
    "unknown_error": "a group that does not exist ends so, among others; Keycloak's log says more",
    "no_email": "give the account an e-mail address first",
    "disabled": "enable the account first",
    "read_only": "the account belongs to a user federation, which can't be written",
    "invalidPasswordHistoryMessage": "the realm's password policy remembers it",
}


def what_helps(rejected: Rejected) -> str:
    """What to do so that an account can be changed: the hint of a refusal."""
    if rejected.field:
        return f"give the account a {rejected.field} that the realm's user profile takes, or change the profile"
    return rejected.hint or "look at the account in Keycloak"


def _right(method: str, path: str) -> str:
    """The client role whose absence makes this request a 403; seen on Keycloak 26."""
    kind = path.partition("/")[0]
    reads = method == "GET"
    if kind == "roles" and path.endswith("/users"):
        return "view-realm or view-users"
    if path == "users/profile" or kind in {"", "roles", "authentication"}:
        return "view-realm" if reads else "manage-realm"
    return "view-users" if reads else "manage-users"


def _no_realm(account: ServiceAccount, realm: str) -> ConfigError:
    return ConfigError(f"{account.name}: there is no realm {realm}", hint="fix realm in the config file; upper and lower case differ")


def no_token(account: ServiceAccount, reply: Reply) -> ConfigError:
    """The error that a refused request for a token means."""
    body = reply.json()
    said = [str(body.get(name, "")) for name in ("error_description", "error")] if isinstance(body, dict) else []
    if "Realm does not exist" in said:
        return _no_realm(account, account.login_realm)
    found = next((_LOGIN[text] for text in said if text in _LOGIN), _NO_KEYCLOAK if reply.status == 404 else _NO_TOKEN)
    names = {"client": f"the client {account.client_id}", "realm": account.login_realm, "status": reply.status}
    return ConfigError(f"{account.name}: {found[0].format(**names)}", hint=found[1].format(**names))


def no_keycloak(account: ServiceAccount) -> ConfigError:
    """The error for an address at which there is no Keycloak."""
    return ConfigError(f"{account.name}: {_NO_KEYCLOAK[0]}", hint=_NO_KEYCLOAK[1])


# What Keycloak says when asked for a token, what that means, and what to do.
_LOGIN = {
    "Realm not enabled": ("the realm {realm} is disabled", "enable it, or fix realm in the config file"),
    "Client not enabled to retrieve service account": (
        "{client} has no service account",
        'turn on "Service accounts roles" in its settings',
    ),
    "Public client not allowed to retrieve service account": ("{client} is public", 'turn on "Client authentication" in its settings'),
    "invalid_client": ("the realm {realm} does not know {client}, or it is disabled", "fix client_id in the config file"),
    "unauthorized_client": ("the secret of {client} is wrong", "Keycloak shows it under Credentials of the client; fix client_secret"),
}
_NO_KEYCLOAK = ("there is no Keycloak at its url", "old ones have /auth at the end; fix url in the config file")
_NO_TOKEN = ("answered {status} when {client} asked for a token", "look at the client in realm {realm}")
