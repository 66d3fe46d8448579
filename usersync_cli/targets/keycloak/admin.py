"""python-keycloak's paths and shapes on our transport, with the service account's token.

Its own sessions repeat POSTs, follow redirects, ask the environment for proxies and have no deadline: none of them is used."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import msgspec
import requests
from keycloak import KeycloakOpenIDConnection

from usersync_cli.clients.http.bearer import Bearer
from usersync_cli.clients.http.client import Client, Missing, Reply, Request
from usersync_cli.clients.http.private import as_requests
from usersync_cli.errors import ConfigError
from usersync_cli.model import Access
from usersync_cli.signals import Stop
from usersync_cli.targets.keycloak.refusals import ServiceAccount, no_keycloak, no_token, refusal

OURS = (400, 401, 403, 404, 409)  # what these mean is said here, not in rest
LIFE = 0.9  # of a token's life: then the next one is asked for
_TOKEN_LIFE_SECONDS = 60  # where Keycloak does not say


class AdminConnection(KeycloakOpenIDConnection):
    """The connection that KeycloakAdmin sends its requests through. Raises replies other than 2xx as our errors, so it never sees one."""

    def __init__(self, account: ServiceAccount, client: Client, stop: Stop) -> None:
        # Not the parent's, which opens sessions. Names of realms may hold spaces.
        self.realm_name = quote(account.realm, safe="")
        self._account, self._client, self._stop = account, client, stop
        self._bearer = Bearer(ServiceLogin(account, client), renewals=1)

    def raw_get(self, path: str, **params: Any) -> requests.Response:
        return _response(self.send("GET", path, params=params))

    def raw_post(self, path: str, data: Any, **params: Any) -> requests.Response:
        return _response(self.send("POST", path, data, params=params))

    def raw_put(self, path: str, data: Any, **params: Any) -> requests.Response:
        return _response(self.send("PUT", path, data, params={name: value for name, value in params.items() if value is not None}))

    def raw_delete(self, path: str, data: Any = None, **params: Any) -> requests.Response:
        return _response(self.send("DELETE", path, data, params=params))

    def send(self, method: str, path: str, data: Any = None, *, params: Mapping[str, Any] | None = None) -> Reply:
        """The reply, if it is 2xx. `data` is JSON as text, or nothing."""
        body = msgspec.Raw(data.encode()) if data else None
        once = _once(method, path)
        request = Request(method, f"/{path}", body, params or {}, repeat=not once, accept=(*OURS, 500) if once else OURS)
        reply = self._authorised(request)
        if reply.status >= 300:
            raise refusal(self._account, request, reply)
        return reply

    def rights(self) -> Collection[str] | None:
        """The client roles over the realm that our token lists; None where it lists none at all, as a light-weight one does."""
        held = _claims(self._bearer.access(self._stop.check).token).get("resource_access")
        if not isinstance(held, dict):
            return None
        found = held.get(self._account.management, {})
        return [str(role) for role in found.get("roles", ())]

    def _authorised(self, request: Request) -> Reply:
        """Send with a token, and with a newer one when that is refused: a refusal says that nothing was done."""
        reply = self._bearer.send(lambda token: self._client.send(_with(request, token)), self._stop.check, str)
        if reply.status == 401:
            raise ConfigError(
                f"{self._account.name} refuses a token that it gave a moment ago ({request})",
                hint="is url the address that Keycloak knows itself by? was the client, or the realm, just changed?",
            )
        return reply


def _once(method: str, path: str) -> bool:
    """Whether a request must not be repeated: that would make two accounts, two mails, or a password that the realm remembers."""
    return bool(re.fullmatch(r"POST .*/users|PUT .*/(execute-actions-email|reset-password)", f"{method} {path}"))


class ServiceLogin:
    """The service account's log-in: each call asks for its next token, which is kept in memory only."""

    def __init__(self, account: ServiceAccount, client: Client) -> None:
        self._account, self._client = account, client
        self._asked = 0

    def __call__(self, _after: int) -> Access:
        """A token to be used for 90 % of its life."""
        account, began = self._account, time.monotonic()
        form = {"grant_type": "client_credentials", "client_id": account.client_id, "client_secret": account.client_secret}
        path = f"/realms/{quote(account.login_realm, safe='')}/protocol/openid-connect/token"
        try:
            reply = self._client.send(Request("POST", path, form=form, accept=OURS))
        except Missing as missing:  # in HTML
            raise no_keycloak(account) from missing
        self._asked += 1
        if reply.status != 200:
            raise no_token(account, reply)
        granted = reply.decode(_Granted)
        return Access(granted.access_token, self._asked, began + LIFE * granted.expires_in)


def _claims(token: str) -> Mapping[str, Any]:
    """What a token says of itself. Nobody relies on it but for an earlier word: Keycloak decides. Empty for one that is no JWT."""
    try:
        body = token.split(".")[1]
        found = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class _Granted(msgspec.Struct):
    access_token: str
    expires_in: float = _TOKEN_LIFE_SECONDS


def _with(request: Request, token: str) -> Request:
    return replace(request, headers={"Authorization": f"Bearer {token}"})


def _response(reply: Reply) -> requests.Response:
    return as_requests(reply.status, reply.headers, reply.body)
