"""A vendor's token endpoint on this machine: refresh tokens are good once, and a second use revokes all that came from them.

It remembers every request, loses answers and answers nonsense when it is told to.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from usersync_cli.auth.oauth import OAuthClient

CLIENT_SECRET = "canary-client-secret"
REDIRECT_URI = "https://example.org/callback"


@dataclass
class Family:
    """All tokens that come from one authorisation."""

    account: str
    current: str = ""
    access: str = ""
    revoked: bool = False
    before: dict[str, float] = field(default_factory=dict)  # spent refresh tokens, and when


@dataclass
class OAuthServer:
    """`faults` are used up one by one, the first by the next token request:

    lost (rotates, then hangs up), reset (hangs up unheard), 500, 429, 429 in 120 (with Retry-After), html, truncated, cut
    chunks, redirect, hang, drip, huge, list, no refresh, no access, no life, life VALUE, null error, an error code such as
    invalid_client, which comes with 400, or with 200 as in 200 invalid_client.
    """

    delay: float = 0.0  # seconds before a token request is answered
    grace: float = 0.0  # seconds in which a spent refresh token still gives the token that it gave
    life: int = 3600
    account: str = "account-1"
    faults: list[str] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    elsewhere: int = 0  # requests to where a redirect leads
    _families: list[Family] = field(default_factory=list)
    _codes: dict[str, Family | None] = field(default_factory=dict)  # None: used
    _busy: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    ended: threading.Event = field(default_factory=threading.Event)

    def client(self, **more: Any) -> OAuthClient:
        known = {"client_id": "client", "client_secret": CLIENT_SECRET, "redirect_uri": REDIRECT_URI}
        return OAuthClient(f"{self.url}/authorize", f"{self.url}/access_token", **{**known, **more})

    def code(self) -> str:
        """Somebody said yes: the code that they are sent back with."""
        code = f"canary-code-{secrets.token_hex(8)}"
        self._codes[code] = Family(self.account)
        return code

    def answer(self, authorize_url: str) -> str:
        """Somebody opens the address and says yes: where they are sent."""
        query = dict(parse_qsl(urlsplit(authorize_url).query))
        assert {"client", "code", REDIRECT_URI} == {query["client_id"], query["response_type"], query["redirect_uri"]}
        return f"{REDIRECT_URI}?{urlencode({'code': self.code(), 'state': query['state']})}"

    def pair(self) -> tuple[str, str]:
        """An access and a refresh token that are good."""
        family = Family(self.account)
        self._families.append(family)
        return self._rotate(family)

    def good(self, access: str) -> bool:
        """Whether the API would take this token."""
        return any(family.access == access and not family.revoked for family in self._families)

    def __contains__(self, access: object) -> bool:
        return isinstance(access, str) and self.good(access)

    def expire(self) -> None:
        """No access token is good any more; what refreshes them is."""
        with self._lock:
            for family in self._families:
                family.access = "none"

    def owner(self, access: str) -> str | None:
        return next((family.account for family in self._families if family.access == access and not family.revoked), None)

    def revoke(self) -> None:
        for family in self._families:
            family.revoked = True

    @property
    def secrets(self) -> list[str]:
        """All that must be found nowhere."""
        found = [CLIENT_SECRET, *self._codes]
        for family in self._families:
            found += [family.current, family.access, *family.before]
        return [one for one in found if one]

    def _rotate(self, family: Family) -> tuple[str, str]:
        if family.current:
            family.before[family.current] = time.monotonic()
        family.access, family.current = f"canary-access-{secrets.token_hex(8)}", f"canary-refresh-{secrets.token_hex(8)}"
        return family.access, family.current

    def grant(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            if (form.get("client_id"), form.get("client_secret")) != ("client", CLIENT_SECRET):
                return 401, {"error": "invalid_client", "error_description": f"bad secret {form.get('client_secret')}"}
            family = self._of_code(form) if form["grant_type"] == "authorization_code" else self._of_token(form["refresh_token"])
            if family is None or family.revoked:
                return 400, {"error": "invalid_grant", "error_description": f"no such grant {form}"}
            if form.get("refresh_token") in family.before:
                return 200, self._given(family)
            self._rotate(family)
            return 200, self._given(family)

    def _given(self, family: Family) -> dict[str, Any]:
        return {"token_type": "Bearer", "expires_in": self.life, "access_token": family.access, "refresh_token": family.current}

    def _of_code(self, form: dict[str, str]) -> Family | None:
        family = self._codes.get(form["code"])
        if form["code"] in self._codes:
            self._codes[form["code"]] = None
        if family is None or form.get("redirect_uri") != REDIRECT_URI:
            return None
        self._families.append(family)
        return family

    def _of_token(self, token: str) -> Family | None:
        for family in self._families:
            if family.current == token:
                return family
            if token in family.before:
                if time.monotonic() - family.before[token] > self.grace:
                    family.revoked = True
                return family
        return None

    @contextmanager
    def counted(self, form: dict[str, str]) -> Iterator[str]:
        """One token request, and what is to go wrong with it."""
        with self._lock:
            self.requests.append(form)
            self._busy += 1
            self.most_at_once = max(self.most_at_once, self._busy)
            fault = self.faults.pop(0) if self.faults else ""
        try:
            yield fault
        finally:
            with self._lock:
                self._busy -= 1


class _Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.vendor.elsewhere += 1
        self._answer(200, b"{}")

    def do_POST(self) -> None:
        vendor: OAuthServer = self.server.vendor
        form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        if self.path not in {"/access_token", "/oauth2/access_token"}:
            vendor.elsewhere += 1
            self._answer(200, b"{}")
            return
        with vendor.counted(form) as fault:
            self._grant(vendor, form, fault)

    def _grant(self, vendor: OAuthServer, form: dict[str, str], fault: str) -> None:
        vendor.ended.wait(vendor.delay)
        if fault in {"reset", "hang"}:
            vendor.ended.wait(30 if fault == "hang" else 0)
            self.close_connection = True
        elif fault == "redirect":
            self._answer(307, b"", Location=f"{vendor.url}/elsewhere")
        elif fault[:3].isdigit() and fault[:3] != "200":
            later = {"Retry-After": fault[7:]} if fault[7:] else {}
            self._answer(int(fault[:3]), b"<html>canary</html>", **later)
        elif fault in {"html", "list"}:
            self._answer(200, b"<!doctype html>..." if fault == "html" else b"[1]")
        elif fault.startswith("200 "):
            self._answer(200, json.dumps({"error": fault[4:], "error_description": "canary"}).encode())
        elif fault.startswith("invalid_") or fault in {"unauthorized_client", "redirect_uri_mismatch", "temporarily_unavailable"}:
            self._answer(400, json.dumps({"error": fault, "error_description": f"canary-description {form}"}).encode())
        else:
            self._rotated(vendor, form, fault)

    def _rotated(self, vendor: OAuthServer, form: dict[str, str], fault: str) -> None:
        status, answer = vendor.grant(form)
        for name in {"no refresh": ["refresh_token"], "no access": ["access_token"], "no life": ["expires_in"]}.get(fault, []):
            answer.pop(name, None)
        if fault.startswith("life "):
            answer["expires_in"] = json.loads(fault[5:])
        if fault == "null error":
            answer |= {"error": None, "error_description": None}
        if fault == "newline":
            answer["access_token"] += "\r\nX-Header: 1"
        body = json.dumps(answer).encode()
        if fault == "lost":
            self.close_connection = True
        elif fault == "truncated":
            self._answer(status, body[:-20], length=len(body))
        elif fault == "drip":
            self._drip(vendor, body)
        elif fault == "cut chunks":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n" + body[:32] + b"\r\n20\r\n" + body[32:40])
            self.close_connection = True
        else:
            self._answer(status, body + (b" " * 1_000_000 if fault == "huge" else b""))

    def _drip(self, vendor: OAuthServer, body: bytes) -> None:
        self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        try:
            for byte in body:
                self.wfile.write(bytes([byte]))
                if vendor.ended.wait(0.1):
                    break
        except OSError:
            pass
        self.close_connection = True

    def _answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Connection", "close")
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)
        self.close_connection = True


@contextmanager
def oauth_server(**how: Any) -> Iterator[OAuthServer]:
    """A vendor, for as long as the test runs."""
    vendor = OAuthServer(**how)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.vendor = vendor  # type: ignore[attr-defined]
    vendor.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield vendor
    finally:
        vendor.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
