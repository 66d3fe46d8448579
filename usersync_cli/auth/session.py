"""requests-oauthlib's `OAuth2Session` on our transport: it writes the messages and reads the answers, and sends nothing itself.

What its own `request` does around a message can spend a token: it follows redirects, asks the environment for proxies and ~/.netrc,
and has no deadline. Nothing is refreshed by itself, and no answer without a new refresh token reaches it, since it would keep the old one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import requests
from requests_oauthlib import OAuth2Session

# Its debug lines hold tokens, codes and secrets. No configuration of logging but one that names it can bring them back.
logging.getLogger("requests_oauthlib.oauth2_session").disabled = True

Send = Callable[[bytes, Mapping[str, str]], requests.Response]


class GrantSession(OAuth2Session):
    """Messages of one integration to its vendor.

    `send` posts a body with these headers, to wherever it is right; `judge` raises what an answer means that is not a token,
    and gives one that is.
    """

    def __init__(self, client_id: str, redirect_uri: str, send: Send, judge: Callable[[requests.Response], requests.Response]) -> None:
        super().__init__(client_id, redirect_uri=redirect_uri)
        self._send = send
        self.register_compliance_hook("access_token_response", judge)
        self.register_compliance_hook("refresh_token_response", judge)

    def request(  # type: ignore[override]  # as the parent's differs from that of requests
        self, method: str | bytes, url: str | bytes, data: Any = None, headers: Any = None, **_: Any
    ) -> requests.Response:
        """The one method by which the parent sends its messages."""
        return self._send(urlencode(data).encode(), headers)


def secure(url: str) -> str:
    """The address as the library takes it, which refuses http, also that of a server on this machine that stands in for a vendor."""
    return f"https://{url.partition('://')[2]}"
