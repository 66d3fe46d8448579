"""What requests-oauthlib does that we rely on, and what it would do that must not happen: a new version that differs fails here."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import oauthlib
import pytest
import requests
import requests_oauthlib
from oauthlib.oauth2 import InsecureTransportError, WebApplicationClient
from oauthlib.oauth2.rfc6749.errors import MissingTokenTypeError
from requests_oauthlib import OAuth2Session

from tests.oauth_server import CLIENT_SECRET, REDIRECT_URI, oauth_server
from usersync_cli.auth.oauth import OAuthClient
from usersync_cli.auth.outcomes import InvalidGrant, UnknownOutcome
from usersync_cli.auth.session import GrantSession, secure
from usersync_cli.clients.http.private import as_requests
from usersync_cli.errors import ConfigError
from usersync_cli.model import Token

TOKEN = {"token_type": "Bearer", "access_token": "an-access-token", "refresh_token": "a-refresh-token", "expires_in": 3600}
ENDPOINT = "https://vendor.example/token"


class Vendor:
    """A token endpoint without a network: what it was sent, and what it answers."""

    def __init__(self, answer: Any = TOKEN, status: int = 200) -> None:
        self.body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.status = status
        self.sent: list[tuple[dict[str, list[str]], Mapping[str, str]]] = []

    def post(self, body: bytes, headers: Mapping[str, str]) -> requests.Response:
        self.sent.append((parse_qs(body.decode(), keep_blank_values=True), headers))
        return as_requests(self.status, {}, self.body)

    def plain(self) -> GrantSession:
        """The library as it is, but for the network."""
        return GrantSession("client", REDIRECT_URI, self.post, lambda response: response)

    def client(self, secret: str = CLIENT_SECRET) -> OAuthClient:
        """Ours, with this endpoint."""
        client = OAuthClient("http://vendor.example/authorize", ENDPOINT, "client", secret, REDIRECT_URI)
        object.__setattr__(client, "_post", self.post)  # frozen
        return client


def test_the_versions_that_are_known() -> None:
    """
    What is written down here was found in these versions.
    """
    assert "2" == requests_oauthlib.__version__.split(".")[0]
    assert 3 <= int(oauthlib.__version__.split(".")[0]) < 5


def test_http_is_refused_by_the_library_alone() -> None:
    """
    It takes no address that begins with http, which a server on this machine that stands in has: it is shown another scheme.
    """
    with pytest.raises(InsecureTransportError):
        OAuth2Session("client").fetch_token("http://127.0.0.1/", code="code")
    with pytest.raises(InsecureTransportError):
        OAuth2Session("client").authorization_url("http://127.0.0.1/")

    assert ["https://host:1/x", "https://host/x"] == [secure("HTTP://host:1/x"), secure("https://host/x")]
    with oauth_server() as vendor:
        assert vendor.good(vendor.client().exchange(vendor.code()).access_token)
        assert vendor.good(vendor.client().refresh(vendor.pair()[1]).access_token)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_address_that_a_person_opens(scheme: str) -> None:
    """
    It is the configured one with our state and nothing that we did not ask for: no scope, no PKCE.
    """
    url = OAuthClient(f"{scheme}://vendor.example/authorize?tenant=a%20b", ENDPOINT, "cl&ient", "secret", REDIRECT_URI).url("the state")
    query = {"tenant": ["a b"], "response_type": ["code"], "client_id": ["cl&ient"], "redirect_uri": [REDIRECT_URI], "state": ["the state"]}

    assert url.startswith(f"{scheme}://vendor.example/authorize?")
    assert query == parse_qs(urlsplit(url).query)


@pytest.mark.parametrize("secret", [CLIENT_SECRET, "a+b%20c&d=e é", ""])
def test_what_is_sent(secret: str) -> None:
    """
    The credentials are in the body, letter for letter, and no Authorization header is added; JSON is asked for.
    """
    vendor = Vendor()
    vendor.client(secret).exchange("the+code")
    vendor.client(secret).refresh("the refresh")
    own = {"client_id": ["client"], "client_secret": [secret]}
    code = {"grant_type": ["authorization_code"], "code": ["the+code"], "redirect_uri": [REDIRECT_URI], **own}
    refresh = {"grant_type": ["refresh_token"], "refresh_token": ["the refresh"], **own}
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}

    assert [(code, headers), (refresh, headers)] == vendor.sent


def test_without_a_word_the_library_sends_basic_credentials() -> None:
    """
    This is why the exchange says include_client_id: else id and secret are Basic credentials, which our transport does not send.
    """
    vendor = Vendor()
    vendor.plain().fetch_token(ENDPOINT, code="code", client_secret="secret")

    assert {"client_id", "client_secret"}.isdisjoint(vendor.sent[0][0])


def test_nothing_happens_by_itself() -> None:
    """
    No refresh of its own, no token in the session before it is asked for, and no hooks but the judge of answers.
    """
    session = Vendor().client()._session()
    hooks = {name: len(hooks) for name, hooks in session.compliance_hook.items() if hooks}

    assert (None, None, {}) == (session.auto_refresh_url, session.token_updater, session.auto_refresh_kwargs)
    assert not session.authorized
    assert {"access_token_response": 1, "refresh_token_response": 1} == hooks


def test_the_status_is_not_looked_at_by_the_library() -> None:
    """
    It takes a token from any answer; for us an answer of 500 has none, and an error code of a 200 is an error.
    """
    assert TOKEN["access_token"] == Vendor(status=500).plain().refresh_token(ENDPOINT, "r")["access_token"]
    with pytest.raises(UnknownOutcome):
        Vendor(status=500).client().refresh("r")
    for error, raised in {"invalid_grant": InvalidGrant, "invalid_client": ConfigError, "slow_down": UnknownOutcome}.items():
        with pytest.raises(raised):
            Vendor({**TOKEN, "error": error}).client().refresh("r")


def test_the_old_refresh_token_is_kept_by_the_library() -> None:
    """
    An answer without one leaves it with the one that is spent; for us it is no answer.
    """
    answer = {name: value for name, value in TOKEN.items() if name != "refresh_token"}

    assert "the spent one" == Vendor(answer).plain().refresh_token(ENDPOINT, "the spent one")["refresh_token"]
    with pytest.raises(UnknownOutcome, match="no usable refresh_token"):
        Vendor(answer).client().refresh("the spent one")


def test_a_form_is_an_answer_for_the_library() -> None:
    """
    It falls back to reading a form where the body is not JSON; for us that is no answer.
    """
    form = b"access_token=a&refresh_token=r"

    assert "a" == Vendor(form).plain().refresh_token(ENDPOINT, "r")["access_token"]
    with pytest.raises(UnknownOutcome, match="no JSON object"):
        Vendor(form).client().refresh("r")


@pytest.mark.parametrize(
    "more", [{"scope": "read write"}, {"scope": 5}, {"scope": None}, {"error": None}, {"expires_at": "soon"}, {"token_type": 1}]
)
def test_what_else_an_answer_holds_costs_no_token(more: dict[str, Any]) -> None:
    """
    Scopes, a null error, a type that is none: the two tokens are there, so they are kept.
    """
    expected = Token(str(TOKEN["access_token"]), str(TOKEN["refresh_token"]), timedelta(hours=1))

    assert expected == Vendor({**TOKEN, **more}).client().refresh("r")


def test_a_missing_type_is_bearer_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A variable makes the library refuse an answer without token_type, which would cost the login.
    """
    monkeypatch.setenv("OAUTHLIB_STRICT_TOKEN_TYPE", "1")
    answer = {name: value for name, value in TOKEN.items() if name != "token_type"}
    with pytest.raises(MissingTokenTypeError):
        Vendor(answer).plain().refresh_token(ENDPOINT, "r")

    assert TOKEN["access_token"] == Vendor(answer).client().refresh("r").access_token


@pytest.mark.parametrize(
    ("given", "seconds"), [(60, 60), ("90", 90), (1.9, 1), (0, 3600), (-5, 3600), (None, 3600), ("soon", 3600), (1e12, 366 * 86400)]
)
def test_a_life_is_seconds(given: Any, seconds: int) -> None:
    """
    Numbers, also as text, up to a year; where it says nothing that can be true, an hour.
    """
    assert timedelta(seconds=seconds) == Vendor({**TOKEN, "expires_in": given}).client().refresh("r").expires_in


def test_the_end_is_by_our_clock_in_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It computes `expires_at` from this machine's clock, which may be wrong: only the life is taken.
    """
    monkeypatch.setattr(time, "time", lambda: 1000.0)

    assert 4600 == round(Vendor().plain().refresh_token(ENDPOINT, "r")["expires_at"])
    assert timedelta(hours=1) == Vendor().client().refresh("r").expires_in


def test_its_debug_lines_are_never_written(caplog: pytest.LogCaptureFixture) -> None:
    """
    It writes tokens, codes and secrets into its log at DEBUG; ours has none of them, even if all logging is at DEBUG.
    """
    caplog.set_level(logging.DEBUG)
    logging.getLogger("requests_oauthlib").setLevel(logging.DEBUG)
    with oauth_server() as vendor:
        vendor.client().refresh(vendor.client().exchange(vendor.code()).refresh_token)
        hidden = vendor.secrets
    assert [] == [one for one in hidden if one in caplog.text]

    logger = logging.getLogger("requests_oauthlib.oauth2_session")
    logger.disabled = False
    try:
        Vendor().plain().fetch_token(ENDPOINT, code="code")
    finally:
        logger.disabled = True
    assert str(TOKEN["access_token"]) in caplog.text


def test_where_a_token_is_in_a_request() -> None:
    """
    In the header that the library would write, whose own way to an API refuses http, logs the token and asks this machine's clock.
    """
    client = WebApplicationClient("client", token={"access_token": "abc", "token_type": "Bearer"})
    _, headers, _ = client.add_token("https://api.example/x", headers={})

    assert {"Authorization": "Bearer abc"} == headers
