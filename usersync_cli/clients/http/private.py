"""What we use of requests and urllib3 that they do not promise to keep.

tests/clients/http/test_private.py names the versions that this is known to fit, and pyproject.toml allows no others.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

Watch = Callable[[socket.socket], socket.socket]


def mount(session: requests.Session, watch: Watch) -> None:
    """Have every socket that the session opens pass through `watch`, before TLS; one connection at a time, nothing repeated.

    urllib3 has no public way to it: `_new_conn` of its connections makes it, `_new_conn` of its pools makes those.
    """
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter(watch))


class _Adapter(HTTPAdapter):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch  # first: the parent's makes the pools
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        ours = {"watch": staticmethod(self._watch)}
        pools = {"http": type("HttpPool", (HttpPool,), ours), "https": type("HttpsPool", (HttpsPool,), ours)}
        self.poolmanager.pool_classes_by_scheme = pools


class _Http(HTTPConnection):
    watch: Watch

    def _new_conn(self) -> socket.socket:
        return self.watch(super()._new_conn())


class _Https(HTTPSConnection):
    watch: Watch

    def _new_conn(self) -> socket.socket:
        return self.watch(super()._new_conn())


class HttpPool(HTTPConnectionPool):
    """Connections that know who watches them. Tests put others in their place."""

    ConnectionCls = _Http
    watch: Watch

    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        connection.watch = self.watch
        return connection


class HttpsPool(HTTPSConnectionPool):
    """`HttpPool` with TLS."""

    ConnectionCls = _Https
    watch: Watch

    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        connection.watch = self.watch
        return connection


def as_requests(status: int, headers: Mapping[str, str], body: bytes) -> requests.Response:
    """An answer as libraries on top of requests expect it; without the request, whose URL and body they write into logs.

    requests has no public way to give a response its body: `_content` is its place.
    """
    response = requests.Response()
    response.status_code, response._content, response.encoding = status, body, "utf-8"  # noqa: SLF001  the one place that knows
    response.headers = CaseInsensitiveDict(headers)
    response.request = requests.PreparedRequest()
    return response
