"""One POST that can be cut short: over in its time whatever the server does, and it says whether the server may have acted on it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests import servers
from tests.http_server import Answer, Fault, HttpServer
from usersync_cli.clients.http.transport import LEAVE, Lost, Post, _Body, post


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer().running() as server:
        server.on("/x", Answer(200, b"0123456789"))
        yield server


def to(url: str, *, content: bytes = b"a=b", most: int = 100) -> Post:
    return Post(url, content, {"X-Ours": "1"}, most=most)


@pytest.mark.parametrize(("content", "most", "body"), [(b"a=b", 10, b"0123456789"), (b"", 10, b"0123456789"), (b"a=b", 0, b"")])
def test_an_answer(server: HttpServer, content: bytes, most: int, body: bytes) -> None:
    """
    Status, headers and body come back; each request has a connection of its own, a length, our headers and our name.
    """
    answers = [post(to(f"{server.url}/x", content=content, most=most), 10) for _ in range(2)]

    assert [(200, body)] * 2 == [(answer.status, answer.body) for answer in answers]
    assert [content] * 2 == [asked.body for asked in server.asked]
    assert 2 == len({asked.connection for asked in server.asked})
    headers = server.asked[0].headers
    assert ("1", "close", str(len(content))) == (headers["X-Ours"], headers["Connection"], headers["Content-Length"])
    assert headers["User-Agent"].startswith("usersync/")


def test_a_redirect_is_an_answer(server: HttpServer) -> None:
    """
    It is not followed, whatever it says.
    """
    server.on("/x", Answer(307, b"", {"Location": "/y"}))

    assert 307 == post(to(f"{server.url}/x"), 10).status
    assert 1 == len(server.asked)


def test_a_body_that_is_too_big(server: HttpServer) -> None:
    """
    It is read no further, and no answer.
    """
    with pytest.raises(Lost) as lost:
        post(to(f"{server.url}/x", most=9), 10)

    assert ("more than 9 bytes", True, False) == (str(lost.value.error), lost.value.sent, lost.value.pending)


def test_nobody_listens() -> None:
    """
    Nothing was sent.
    """
    with pytest.raises(Lost) as lost:
        post(to(f"http://127.0.0.1:{servers.free_port()}/"), 10)

    assert (False, False) == (lost.value.sent, lost.value.pending)


def test_a_server_that_never_answers() -> None:
    """
    It is left when the time is over; it may still be at work on what it has got.
    """
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        began = time.monotonic()
        with pytest.raises(Lost) as lost:
            post(to(f"http://127.0.0.1:{frozen.getsockname()[1]}/"), 0.3)
        took = time.monotonic() - began
        connection, _ = frozen.accept()
        with connection:
            connection.settimeout(2)
            heard = b"".join(iter(lambda: connection.recv(4096), b""))  # to its end: it was cut

    assert (True, True) == (lost.value.sent, lost.value.pending)
    assert heard.endswith(b"a=b")
    assert took < 0.3 + LEAVE + 1


@pytest.mark.parametrize("fault", ["dribble headers", "dribble"])
def test_a_server_that_dribbles_is_cut(server: HttpServer, fault: Fault) -> None:
    """
    Each byte comes within every time-out, the whole never: the connection is cut when the time is over.
    """
    server.on("/x", Answer(200, b"0123456789" * 100, fault=fault))
    before = set(threading.enumerate())
    with pytest.raises(Lost) as lost:
        post(to(f"{server.url}/x", most=10_000), 0.3)

    assert (None, True, True) == (lost.value.error, lost.value.sent, lost.value.pending)
    servers.until(lambda: server.left == 1)
    assert [] == [thread.name for thread in set(threading.enumerate()) - before if thread.name == "rest"]


def test_a_name_that_is_looked_up_for_ever(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No time-out of Python's covers that; when the name is found after all, nothing is sent any more.
    """
    found, look_up = threading.Event(), socket.getaddrinfo

    def slow(*arguments: object, **options: object) -> object:
        found.wait(10)
        return look_up(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    before = set(threading.enumerate())
    with pytest.raises(Lost) as lost:
        post(to(f"{server.url}/x"), 0.2)
    left = set(threading.enumerate()) - before
    found.set()
    for thread in left:
        thread.join(10)

    assert (None, False) == (lost.value.error, lost.value.sent)
    assert [] == server.asked


def test_a_body_that_was_withdrawn_is_not_sent() -> None:
    """
    From then on it is not given away, so that what was said of it stays true.
    """
    body = _Body(b"a=b")
    body.withdraw()
    with pytest.raises(TimeoutError):
        body.read()

    assert not body.asked
