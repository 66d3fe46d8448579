"""A server of HTTP under a test's control: for each path a script of answers, with the faults that servers and networks have."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

Fault = Literal["", "truncated", "reset", "hang", "hang in body", "dribble", "dribble headers", "close", "closed after", "huge"]


@dataclass(frozen=True)
class Answer:
    """What comes back. A body that is not bytes is sent as JSON."""

    status: int = 200
    body: Any = field(default_factory=lambda: {"data": []})
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: Fault = ""


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    at: datetime
    connection: int  # which of the server's connections it came through

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Script = Answer | Callable[[Asked], Answer]


class HttpServer:
    """Listens on a port of its own. `asked` is what arrived, in order; a path without a script answers 404."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self.skew = timedelta()  # how far the server's clock is ahead of ours
        self.over = threading.Event()  # ends those that hang
        self.left = 0  # faults that ended because the client had gone
        self._scripts: dict[str, list[Script]] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.ours = self
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"

    def on(self, path: str, *answers: Script) -> None:
        """The answers to this path, one after the other; the last one for good."""
        self._scripts[path] = list(answers)

    def now(self) -> datetime:
        """The server's clock."""
        return datetime.now(UTC) + self.skew

    def count(self, path: str) -> int:
        with self._lock:
            return sum(asked.path == path for asked in self.asked)

    def connections(self) -> int:
        """How many are open."""
        return self._server.count_open()

    def cut(self) -> None:
        """Drop every connection."""
        self._server.cut()

    def answer(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            script = self._scripts.get(asked.path, [Answer(404, {"errors": [{"title": "Not found"}]})])
            answer = script.pop(0) if len(script) > 1 else script[0]
        return answer(asked) if callable(answer) else answer

    @contextmanager
    def running(self) -> Iterator[HttpServer]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self.over.set()
            self._server.shutdown()
            self._server.cut()
            self._server.server_close()  # joins the threads of its connections
            thread.join()


class Window:
    """A vendor's limit: so many requests in a sliding window. A refused one does not count."""

    def __init__(self, server: HttpServer, most: int, seconds: float, *, others: int = 0, silent: bool = False) -> None:
        self.refused: list[tuple[datetime, datetime]] = []  # (when a request was refused, the Reset that it was told)
        self._server, self._most, self._seconds, self._silent = server, most, timedelta(seconds=seconds), silent
        self._counted = [server.now()] * others
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Answer:
        with self._lock:
            return self._answer(asked)

    def _answer(self, asked: Asked) -> Answer:
        now = asked.at
        self._counted = [at for at in self._counted if at > now - self._seconds]
        if full := len(self._counted) >= self._most:
            self.refused.append((now, self._counted[0] + self._seconds))
        else:
            self._counted.append(now)
        reset = self._counted[0] + self._seconds
        # As the vendor writes it: milliseconds, some offset, no colon in it. Rounded up, for cutting would allow too early.
        reset = (reset + timedelta(microseconds=999)).astimezone(timezone(timedelta(hours=1)))
        text = f"{reset:%Y-%m-%dT%H:%M:%S}.{reset.microsecond // 1000:03}{reset:%z}"
        told = {
            "X-RateLimit-Limit": str(self._most),
            "X-RateLimit-Remaining": str(self._most - len(self._counted)),
            "X-RateLimit-Reset": text,
        }
        return Answer(429 if full else 200, {"errors": [{"title": "Too many"}]} if full else {"data": []}, {} if self._silent else told)


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64
    ours: HttpServer

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: dict[int, socket.socket] = {}
        self.numbers: dict[Any, int] = {}  # of connections, by the client's address

    def process_request(self, request: Any, client_address: Any) -> None:
        self.numbers[client_address] = len(self._open) + 1
        self._open[len(self._open) + 1] = request
        super().process_request(request, client_address)

    def count_open(self) -> int:
        return sum(request.fileno() != -1 for request in list(self._open.values()))

    def cut(self) -> None:
        """Ends kept-alive connections, whose threads wait for another request."""
        for request in self._open.values():
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        ours, url = self.server.ours, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        query = parse_qs(url.query)
        asked = Asked(self.command, url.path, query, dict(self.headers.items()), body, ours.now(), self.server.numbers[self.client_address])
        self._send(ours.answer(asked))

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  how http.server calls them

    def _send(self, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        headers = {"Content-Type": "application/json", "Date": format_datetime(self.server.ours.now(), usegmt=True), **answer.headers}
        headers = {name: value for name, value in headers.items() if value}
        if "Transfer-Encoding" in headers:
            half = len(body) // 2
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:], b""))
        else:
            headers["Content-Length"] = str(len(body) + (10**12 if answer.fault in {"huge", "dribble"} else 0))
        lines = [f"HTTP/1.1 {answer.status} said", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        head = "\r\n".join(lines).encode()
        if answer.fault:
            self.close_connection = True
            try:
                self._spoil(answer.fault, head, body)
            except OSError:
                self.server.ours.left += 1
        else:
            self.wfile.write(head + body)

    def _spoil(self, fault: Fault, head: bytes, body: bytes) -> None:
        over = self.server.ours.over
        match fault:
            case "truncated":
                self.wfile.write(head + body[: len(body) // 2])
            case "closed after":
                self.wfile.write(head + body)
            case "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            case "hang":
                self._until_gone(over)
            case "hang in body":
                self.wfile.write(head + body[:1])
                self._until_gone(over)
            case "dribble":
                self.wfile.write(head)
                self._dribble(over, body + b" " * 10**6)
            case "dribble headers":
                self._dribble(over, b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 60_000)
            case "huge":
                self.wfile.write(head)
                while not over.is_set():
                    self.wfile.write(b" " * 100_000)

    def _dribble(self, over: threading.Event, text: bytes) -> None:
        for position in range(len(text)):
            self.wfile.write(text[position : position + 1])
            if over.wait(0.02):
                return

    def _until_gone(self, over: threading.Event) -> None:
        """Silence until the client goes away."""
        self.connection.settimeout(0.02)
        while not over.is_set():
            try:
                if not self.connection.recv(1):
                    self.server.ours.left += 1
                    return
            except TimeoutError:
                continue
