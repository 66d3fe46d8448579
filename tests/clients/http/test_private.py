"""The private parts of requests and urllib3 that we use are as they were in the versions that pyproject.toml allows."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Iterator

import pytest
import requests
import urllib3
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from tests.http_server import Answer, HttpServer
from usersync_cli.clients.http.private import as_requests, mount
from usersync_cli.clients.http.transport import ThreadSession


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer().running() as server:
        server.on("/x", Answer(200, b"{}"))
        yield server


def version(module: object) -> tuple[int, ...]:
    return tuple(int(part) for part in module.__version__.split(".")[:2])  # type: ignore[attr-defined]


def test_the_versions_that_are_known() -> None:
    """
    requests 2.32 and later, urllib3 2.6 and later, none of a new major version; and what we override is still there.
    """
    assert (2, 32) <= version(requests) < (3, 0)
    assert (2, 6) <= version(urllib3) < (3, 0)
    for kind in (HTTPConnection, HTTPSConnection):
        assert ["self"] == list(inspect.signature(kind._new_conn).parameters)
    for pool in (HTTPConnectionPool, HTTPSConnectionPool):
        assert ["self"] == list(inspect.signature(pool._new_conn).parameters)


def test_each_new_connection_is_seen(server: HttpServer) -> None:
    """
    Once for each connection, in its own thread, before anything is sent; one that is kept is not seen again.
    """
    seen: list[int] = []

    def watch(opened: socket.socket) -> socket.socket:
        seen.append(len(server.asked))
        return opened

    with ThreadSession() as session:
        mount(session, watch)
        for _ in range(2):
            assert 200 == session.get(f"{server.url}/x").status_code
        server.cut()
        session.get(f"{server.url}/x")

    assert [0, 2] == seen


def test_tls_connections_are_seen_too(server: HttpServer) -> None:
    """
    Before the handshake, which may take as long as any answer.
    """
    seen: list[socket.socket] = []

    def refuse(opened: socket.socket) -> socket.socket:
        seen.append(opened)
        opened.close()
        raise OSError("seen")

    with ThreadSession() as session:
        mount(session, refuse)
        with pytest.raises(requests.ConnectionError):
            session.get(server.url.replace("http", "https"))

    assert 1 == len(seen)
    assert type(seen[0]) is socket.socket


def test_a_response_of_our_own() -> None:
    """
    Its body, status and headers are read as from any other, its request holds nothing.
    """
    response = as_requests(201, {"Content-Type": "x"}, '{"a": "é"}'.encode())

    assert (201, {"a": "é"}, "x", '{"a": "é"}') == (response.status_code, response.json(), response.headers["content-type"], response.text)
    assert (None, None) == (response.request.url, response.request.body)
