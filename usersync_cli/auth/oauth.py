"""The authorization code grant of OAuth 2 (RFC 6749, 4.1 and 6): where a person is sent, and what a code or a refresh token buys.

requests-oauthlib writes and reads the messages (`session`); what an answer means for the token that was spent is decided here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from usersync_cli.auth.outcomes import POST_SECONDS, InvalidGrant, NotSent, UnknownOutcome
from usersync_cli.auth.store import LONGEST
from usersync_cli.clients.http.rate_limit import retry_after
from usersync_cli.errors import ConfigError, UsersyncError
from usersync_cli.model import Token

if TYPE_CHECKING:
    import requests

    from usersync_cli.auth.session import GrantSession
    from usersync_cli.clients.http.transport import Lost

_LARGEST = 256 * 1024
_NO_LIFE = 3600  # seconds, where the answer does not say: a token that was refused earlier is refreshed then
_TOKEN = re.compile(r"[!-~]{1,16384}")  # what may stand in a header; longer than any that we know
_NOWHERE = {404, 405, 410}
_PASSING = {"server_error", "temporarily_unavailable", "slow_down"}
_KNOWN = {"invalid_request", "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "redirect_uri_mismatch"}


@dataclass(frozen=True)
class OAuthClient:
    """An integration as it is registered with a vendor."""

    authorize_url: str
    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
    ca: Path | None = None  # certificates to trust instead of the usual ones

    def url(self, state: str) -> str:
        """Where a person says yes; the vendor sends them back to `redirect_uri` with a code and this state."""
        from usersync_cli.auth.session import secure

        url, _ = self._session().authorization_url(secure(self.authorize_url), state)
        return self.authorize_url.partition("://")[0] + str(url).removeprefix("https")

    def exchange(self, code: str) -> Token:
        """The token for a code that a person brought back. Raises InvalidGrant for one that is spent, expired or somebody else's."""
        from usersync_cli.auth.session import secure

        # In the body, as Teamleader documents it; without include_client_id the library sends them as Basic credentials.
        ours: dict[str, Any] = {"include_client_id": True, "client_secret": self.client_secret}
        return _token(self._session().fetch_token(secure(self.token_url), code, **ours))

    def refresh(self, refresh_token: str) -> Token:
        """The next token; this one is spent then. An `outcomes.Refresh`."""
        from usersync_cli.auth.session import secure

        ours: dict[str, Any] = {"client_id": self.client_id, "client_secret": self.client_secret}
        return _token(self._session().refresh_token(secure(self.token_url), refresh_token, **ours))

    @property
    def _host(self) -> str:
        return urlsplit(self.token_url).netloc.rpartition("@")[2]

    def _session(self) -> GrantSession:
        from usersync_cli.auth.session import GrantSession

        return GrantSession(self.client_id, self.redirect_uri, self._post, self._judged)

    def _post(self, body: bytes, headers: Mapping[str, str]) -> requests.Response:
        from usersync_cli.clients.http import transport
        from usersync_cli.clients.http.private import as_requests

        try:
            answer = transport.post(transport.Post(self.token_url, body, headers, self.ca, _LARGEST), POST_SECONDS)
        except transport.Lost as lost:
            raise self._lost(lost) from None
        return as_requests(answer.status, answer.headers, answer.body)

    def _lost(self, lost: Lost) -> UsersyncError:
        why = _reason(lost.error)
        if lost.sent:
            return UnknownOutcome(f"{self._host}: the token endpoint gave no whole answer: {why}", hint=_AGAIN, pending=lost.pending)
        return NotSent(f"{self._host}: the token endpoint can't be reached: {why}", hint=f"no token was spent; {_AGAIN}")

    def _judged(self, response: requests.Response) -> requests.Response:
        """The answer, with what we know of a token and nothing else. Raises what it means when it brings none.

        The library looks at no status, keeps the spent refresh token where no new one comes, and stops at scopes, at a lifetime in
        words, at an "error" that is null, and where a variable says so at an answer without a type.
        """
        from usersync_cli.clients.http.private import as_requests

        status, body, later = response.status_code, response.content, retry_after(response.headers) or 0
        if 300 <= status < 400:
            raise ConfigError(
                f"{self._host}: the token endpoint answered with a redirect ({status}), which is not followed with a secret",
                hint="fix the vendor's address in the config file",
            )
        if status >= 500 or status == 429:
            told = f" and asks to wait {later:.0f} s" if later else ""
            raise UnknownOutcome(f"{self._host}: the token endpoint answered {status}{told}", hint=_AGAIN, later=later)
        answer = self._json(status, body)
        if answer.get("error") or status >= 400:
            raise self._refused(status, str(answer.get("error")))
        return as_requests(status, {}, json.dumps(self._known(answer)).encode())

    def _json(self, status: int, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) and status in _NOWHERE:
            raise ConfigError(
                f"{self._host}: there is no token endpoint at the vendor's address: it answered {status}",
                hint="fix the vendor's address in the config file",
            )
        if not isinstance(answer, dict):
            what = "an HTML page" if body.lstrip()[:1] == b"<" else "no JSON object"
            raise UnknownOutcome(
                f"{self._host}: the token endpoint answered {status} with {what} of {len(body):,} bytes",
                hint=f"is the vendor's address in the config file right? {_AGAIN}",
            )
        return answer

    def _refused(self, status: int, error: str) -> UsersyncError:
        """By the error's code (RFC 6749, 5.2); its description may hold anything, and is not repeated."""
        if error in _PASSING:
            return UnknownOutcome(f"{self._host}: the token endpoint answered {status}: {error}", hint=_AGAIN)
        if error == "invalid_grant":
            return InvalidGrant(f"{self._host} says that the code or token is spent, withdrawn, or of another redirect_uri (invalid_grant)")
        what = error if error in _KNOWN else "an error of its own"
        if error in {"invalid_client", "unauthorized_client"} or (status == 401 and error not in _KNOWN):
            hint = "fix client_id and client_secret in the config file (or the variables that they come from)"
        elif error == "redirect_uri_mismatch":
            hint = "redirect_uri in the config file must be one of those that are registered with the vendor, letter for letter"
        else:
            hint = "look at client_id, client_secret, redirect_uri and the vendor's addresses in the config file"
        return ConfigError(f"{self._host}: the token endpoint refused us ({status}): {what}", hint=hint)

    def _known(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Raises Unknown for an answer without both tokens: keeping the old refresh token would keep a spent one."""
        for name in ("access_token", "refresh_token"):
            if not isinstance(answer.get(name), str) or not _TOKEN.fullmatch(answer[name]):
                raise UnknownOutcome(f"{self._host}: the token endpoint's answer has no usable {name}", hint=_AGAIN)
        known = {name: answer[name] for name in ("access_token", "refresh_token")}
        return {**known, "token_type": "Bearer", "expires_in": int(_life(answer.get("expires_in")).total_seconds())}


def _token(read: Mapping[str, Any]) -> Token:
    """The token that the library read, without its `expires_at`, which is by this machine's clock: the database's counts."""
    return Token(str(read["access_token"]), str(read["refresh_token"]), timedelta(seconds=read["expires_in"]))


_AGAIN = "the next run tries again"


def _life(given: object) -> timedelta:
    """`expires_in`, which some send as text."""
    try:
        seconds = float(given)  # type: ignore[arg-type]  # whatever it is
    except (TypeError, ValueError, OverflowError):
        seconds = _NO_LIFE
    if not seconds >= 1:  # NaN too
        seconds = _NO_LIFE
    return timedelta(seconds=min(seconds, LONGEST.total_seconds()))


def _reason(error: BaseException | None) -> str:
    """Which kind of error, without its text, which may quote what was sent."""
    from requests import exceptions

    if error is None:
        return f"no answer for {POST_SECONDS:.0f} s"
    kinds: dict[type[BaseException] | tuple[type[BaseException], ...], str] = {
        exceptions.SSLError: "no verified TLS connection",
        exceptions.Timeout: "a time-out",
        (exceptions.InvalidURL, exceptions.InvalidSchema, exceptions.MissingSchema): "its address is none",
        (exceptions.ChunkedEncodingError, exceptions.ContentDecodingError): "it was cut off",
        exceptions.ConnectionError: "the connection was refused or lost",
    }
    known = (words for kind, words in kinds.items() if isinstance(error, kind))
    return next(known, str(error) if type(error) is OSError else type(error).__name__)
