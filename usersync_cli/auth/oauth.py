"""The authorization code grant of OAuth 2 (RFC 6749, 4.1 and 6): where a person is sent, and what a code or a refresh token buys.

oauthlib builds and reads the messages; we send them ourselves, because what it does around them spends tokens: a POST that
is repeated, redirected, or answered without a new refresh token.
"""

from __future__ import annotations

import io
import json
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from usersync_cli.auth.outcomes import POST_SECONDS, InvalidGrant, NotSent, Unknown
from usersync_cli.auth.store import LONGEST
from usersync_cli.clients.http.rate_limit import retry_after
from usersync_cli.errors import ConfigError, UsersyncError
from usersync_cli.model import Token

if TYPE_CHECKING:
    import requests
    from oauthlib.oauth2 import WebApplicationClient
    from requests.adapters import HTTPAdapter

CONNECT_SECONDS = 10.0
_LARGEST = 256 * 1024
_NO_LIFE = 3600  # seconds, where the answer does not say: a token that was refused earlier is refreshed then
_TOKEN = re.compile(r"[!-~]{1,16384}")  # what may stand in a header; longer than any that we know
_NOWHERE = {404, 405, 410}
_PASSING = {"server_error", "temporarily_unavailable", "slow_down"}
_KNOWN = {"invalid_request", "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "redirect_uri_mismatch"}


@dataclass(frozen=True)
class Client:
    """An integration as it is registered with a vendor."""

    authorize_url: str
    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
    ca: Path | None = None  # certificates to trust instead of the usual ones

    def url(self, state: str) -> str:
        """Where a person says yes; the vendor sends them back to `redirect_uri` with a code and this state."""
        # not WebApplicationClient.prepare_request_uri: it refuses http, also that of a server on this machine that stands in
        from oauthlib.common import add_params_to_uri

        asked = {"response_type": "code", "client_id": self.client_id, "redirect_uri": self.redirect_uri, "state": state}
        return str(add_params_to_uri(self.authorize_url, list(asked.items())))

    def exchange(self, code: str) -> Token:
        """The token for a code that a person brought back. Raises InvalidGrant for one that is spent, expired or somebody else's."""
        body = self._oauthlib().prepare_request_body(code=code, redirect_uri=self.redirect_uri, client_secret=self.client_secret)
        return self._ask(body)

    def refresh(self, refresh_token: str) -> Token:
        """The next token; this one is spent then. A `tokens.Refresh`."""
        ours = {"client_id": self.client_id, "client_secret": self.client_secret}
        return self._ask(self._oauthlib().prepare_refresh_body(refresh_token=refresh_token, **ours))

    @property
    def _host(self) -> str:
        return urlsplit(self.token_url).netloc.rpartition("@")[2]

    def _oauthlib(self) -> WebApplicationClient:
        from oauthlib.oauth2 import WebApplicationClient

        return WebApplicationClient(self.client_id)

    def _ask(self, body: str) -> Token:
        return self._read(*_Post(self.token_url, body.encode(), self.ca).send())

    def _read(self, status: int, body: bytes, later: float = 0) -> Token:
        if 300 <= status < 400:
            raise ConfigError(
                f"{self._host}: the token endpoint answered with a redirect ({status}), which is not followed with a secret",
                hint="fix the vendor's address in the config file",
            )
        if status >= 500 or status == 429:
            told = f" and asks to wait {later:.0f} s" if later else ""
            raise Unknown(f"{self._host}: the token endpoint answered {status}{told}", hint=_AGAIN, later=later)
        answer = self._json(status, body)
        if answer.get("error") or status >= 400:
            raise self._refused(status, str(answer.get("error")))
        return self._token(answer)

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
            raise Unknown(
                f"{self._host}: the token endpoint answered {status} with {what} of {len(body):,} bytes",
                hint=f"is the vendor's address in the config file right? {_AGAIN}",
            )
        return answer

    def _refused(self, status: int, error: str) -> UsersyncError:
        """By the error's code (RFC 6749, 5.2); its description may hold anything, and is not repeated."""
        if error in _PASSING:
            return Unknown(f"{self._host}: the token endpoint answered {status}: {error}", hint=_AGAIN)
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

    def _token(self, answer: dict[str, Any]) -> Token:
        """Raises Unknown for an answer without both tokens: keeping the old refresh token would keep a spent one."""
        for name in ("access_token", "refresh_token"):
            if not isinstance(answer.get(name), str) or not _TOKEN.fullmatch(answer[name]):
                raise Unknown(f"{self._host}: the token endpoint's answer has no usable {name}", hint=_AGAIN)
        from oauthlib.oauth2 import OAuth2Error

        known = {name: answer[name] for name in ("access_token", "refresh_token", "token_type") if name in answer}
        try:
            read = self._oauthlib().parse_request_body_response(json.dumps(known))
        except (OAuth2Error, ValueError) as error:
            raise Unknown(f"{self._host}: the token endpoint's answer is none ({type(error).__name__})", hint=_AGAIN) from None
        return Token(str(read["access_token"]), str(read["refresh_token"]), _life(answer.get("expires_in")))


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


class _Body(io.BytesIO):
    """What is sent. It knows whether it was asked for, and is not given away any more when that is too late."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.asked = False
        self._late = False
        self._guard = threading.Lock()

    def read(self, size: int | None = -1, /) -> bytes:
        with self._guard:
            if self._late:
                raise TimeoutError("too late to send anything")
            self.asked = True
        return super().read(size)

    def withdraw(self) -> bool:
        """From now on it is not sent. Whether it had been asked for before."""
        with self._guard:
            self._late = True
            return self.asked


class _Post:
    """One POST on a new connection: not repeated, not redirected, no proxy, netrc or other word of the environment.

    A thread of its own, because no library ends a request at a given time whatever the server sends, name look-up included.
    """

    def __init__(self, url: str, content: bytes, ca: Path | None) -> None:
        self._url, self._body, self._ca = url, _Body(content), ca
        self._connections: list[Any] = []
        self._done: tuple[int, bytes, float] | BaseException | None = None

    def send(self) -> tuple[int, bytes, float]:
        """Status, body, and how many seconds Retry-After asks for. Raises NotSent or Unknown."""
        began = time.monotonic()
        thread = threading.Thread(target=self._work, daemon=True, name="token request")
        thread.start()
        thread.join(POST_SECONDS)
        if thread.is_alive():
            asked = self._body.withdraw()
            self._hang_up()
            thread.join(0.5)
            raise self._failed(f"no answer for {time.monotonic() - began:.0f} s", sent=asked, pending=True)
        if isinstance(self._done, tuple):
            return self._done
        raise self._failed(_reason(self._done), sent=self._body.asked, pending=_is_pending(self._done)) from None

    def _failed(self, why: str, *, sent: bool, pending: bool) -> UsersyncError:
        host = urlsplit(self._url).netloc.rpartition("@")[2]
        if sent:
            return Unknown(f"{host}: the token endpoint gave no whole answer: {why}", hint=_AGAIN, pending=pending)
        return NotSent(f"{host}: the token endpoint can't be reached: {why}", hint=f"no token was spent; {_AGAIN}")

    def _work(self) -> None:
        import requests

        try:
            with requests.Session() as session:
                session.trust_env = False
                for scheme in ("https://", "http://"):
                    session.mount(scheme, self._adapter())
                self._done = self._request(session)
        except Exception as error:  # noqa: BLE001  told by `send`, in the thread that asked
            self._done = error

    def _request(self, session: requests.Session) -> tuple[int, bytes, float]:
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json", "Connection": "close"}
        verify = str(self._ca) if self._ca else True
        options: dict[str, Any] = {"allow_redirects": False, "timeout": (CONNECT_SECONDS, POST_SECONDS), "stream": True, "verify": verify}
        with session.post(self._url, data=self._body, headers=headers, **options) as response:
            content = b"".join(self._limited(response))
        return response.status_code, content, retry_after(response.headers) or 0

    def _limited(self, response: requests.Response) -> Any:
        size = 0
        for block in response.iter_content(16 * 1024):
            size += len(block)
            if size > _LARGEST:
                raise OSError(f"more than {_LARGEST:,} bytes")
            yield block

    def _adapter(self) -> HTTPAdapter:
        from requests.adapters import HTTPAdapter

        made = self._connections

        class Adapter(HTTPAdapter):
            """Without retries; its connections can be hung up from outside."""

            def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
                pool: Any = super().get_connection_with_tls_context(*arguments, **options)
                make = pool.ConnectionCls

                def remember(*given: Any, **more: Any) -> Any:
                    made.append(make(*given, **more))
                    return made[-1]

                pool.ConnectionCls = remember
                return pool

        return Adapter(max_retries=0)

    def _hang_up(self) -> None:
        import socket
        from contextlib import suppress

        for connection in self._connections:
            if line := getattr(connection, "sock", None):
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)


def _is_pending(error: object) -> bool:
    """Whether the server may still be at work: it was we who lost patience."""
    import requests

    return isinstance(error, requests.ReadTimeout)


def _reason(error: object) -> str:
    """Which kind of error, without its text, which may quote what was sent."""
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        return "no verified TLS connection"
    if isinstance(error, requests.Timeout):
        return "a time-out"
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema)):
        return "its address is none"
    if isinstance(error, requests.exceptions.ChunkedEncodingError | requests.exceptions.ContentDecodingError):
        return "it was cut off"
    if isinstance(error, requests.ConnectionError):
        return "the connection was refused or lost"
    return str(error) if type(error) is OSError else type(error).__name__
