"""Calls over HTTP that can be cut short: threads that do them, each with its own session, and `post`, a single request.

requests has no total deadline and hears of no signal: looking up a name, connecting, TLS and header lines that come byte
by byte block as long as they like. So a call runs in a thread of its own, and whoever waits for it cuts its connection.
"""

from __future__ import annotations

import io
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import requests

from usersync_cli import __version__
from usersync_cli.clients.http.private import mount
from usersync_cli.patience import SILENCE
from usersync_cli.signals import Stop

T = TypeVar("T")
POLL = 0.1  # seconds between two looks at the signal and the clock
LEAVE = 0.5  # seconds for calls that were given up to notice it
CONNECT_SECONDS = 10.0
BLOCK_BYTES = 16 * 1024


class GivenUp(Exception):
    """Inside a call: nobody waits for it any more."""


class Call(Generic[T]):
    """One call on its way. `work` gets it and the session of the thread that does it; `until` is on the monotonic clock."""

    def __init__(self, work: Callable[[Call[T], requests.Session], T], *, until: float, stop: Stop) -> None:
        self.work = work
        self.until = until
        self.future: futures.Future[T] = futures.Future()
        self.line: CallThread | None = None
        self.began = time.monotonic()  # the request that is on its way
        self.expires = math.inf  # until when that may take, when there is one
        self.silent: Callable[[], None] = lambda: None
        """Called once when whoever waits has heard nothing for a while."""
        self._stop = stop
        self._given_up = False

    @property
    def left(self) -> float:
        """Seconds until the deadline; 0 when it has passed."""
        return max(0.0, self.until - time.monotonic())

    def check(self) -> None:
        """A safe point of the call."""
        if self._given_up:
            raise GivenUp
        self._stop.check()

    def alive(self) -> None:
        """The server gave a sign of life."""
        self.check()
        self._stop.heard = time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait, but not past a signal, nor when nobody wants the answer any more."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            self._stop.sleep(min(left, POLL))

    def result(self) -> T:
        """Wait for what `work` gives or raises. A signal ends the waiting, the deadline cuts the connection."""
        told = False
        try:
            while futures.wait([self.future], POLL).not_done:
                self._stop.check()
                if time.monotonic() >= min(self.until, self.expires):
                    self.cut()
                if not told and time.monotonic() - max(self.began, self._stop.heard) > SILENCE:
                    told = True
                    self.silent()
        except BaseException:
            self.give_up()
            raise
        return self.future.result()

    def give_up(self) -> None:
        """Nobody waits any more: the thread of the call leaves it at its next safe point, and its connection is cut."""
        self._given_up = True
        self.cut()

    def cut(self) -> None:
        """End what blocks in the connection, from another thread. To the call it looks as if the server had."""
        if self.line:
            self.line.cut(self)

    def hang_up(self) -> None:
        """For `work` itself: close the connection, whatever is still to come; the next request makes a new one."""
        if self.line:
            self.line.hang_up()


def leave(calls: Collection[Call[Any]]) -> None:
    """Give up those that are still on their way, and wait a moment for them to notice."""
    for call in calls:
        call.give_up()
    futures.wait([call.future for call in calls], LEAVE)


class CallThreads:
    """The threads of a client: made when needed, used again, and daemons, because nobody can end one that looks up a name."""

    def __init__(self, session: Callable[[], requests.Session]) -> None:
        self._session = session
        self._lines: list[CallThread] = []
        self._idle: list[CallThread] = []
        self._lock = threading.Lock()

    def start(self, call: Call[Any]) -> None:
        with self._lock:
            line = self._idle.pop() if self._idle else self._new()
        line.calls.put(call)

    def _new(self) -> CallThread:
        line = CallThread(self._session(), self._idle.append)
        self._lines.append(line)
        line.start()
        return line

    def close(self) -> None:
        """End the threads. One that does not hear is left to itself: it dies with the process."""
        with self._lock:
            lines, self._lines, self._idle = self._lines, [], []
        for line in lines:
            line.calls.put(None)
        until = time.monotonic() + LEAVE
        for line in lines:
            line.join(max(0.0, until - time.monotonic()))


class CallThread(threading.Thread):
    """A thread, its session, and the one connection that this has open."""

    def __init__(self, session: requests.Session, done: Callable[[CallThread], None]) -> None:
        super().__init__(name="rest", daemon=True)
        self.calls: SimpleQueue[Call[Any] | None] = SimpleQueue()
        self._session = session
        self._done = done
        self._call: Call[Any] | None = None
        self._twin: socket.socket | None = None
        self._lock = threading.Lock()
        mount(session, self.watch)

    def run(self) -> None:
        while call := self.calls.get():
            with self._lock:
                self._call = call
            call.line = self
            answer = self._do(call)
            with self._lock:
                self._call = None
            self._done(self)  # first, so that who gets the answer finds us free
            answer()
            del call, answer
        self.hang_up()

    def _do(self, call: Call[T]) -> Callable[[], None]:
        """Do the work; gives what then tells the one who waits."""
        try:
            call.check()
            given = call.work(call, self._session)
        except BaseException as error:  # noqa: BLE001  it is raised where the answer is waited for
            return partial(call.future.set_exception, error)
        return partial(call.future.set_result, given)

    def watch(self, opened: socket.socket) -> socket.socket:
        """Note a new connection. A twin of its descriptor, because TLS takes the socket itself away from us."""
        with self._lock:
            self._drop()
            self._twin = opened.dup()
        try:
            if self._call:
                self._call.check()
        except BaseException:
            opened.close()
            raise
        return opened

    def hang_up(self) -> None:
        """Both ends of the descriptor have to go: as long as one is open the server may go on sending."""
        self._session.close()
        with self._lock:
            self._drop()

    def cut(self, call: Call[Any]) -> None:
        """If it is still this call that is on the line."""
        with self._lock:
            if self._call is call and self._twin:
                with suppress(OSError):
                    self._twin.shutdown(socket.SHUT_RDWR)

    def _drop(self) -> None:
        if self._twin:
            self._twin.close()
            self._twin = None


class ThreadSession(requests.Session):
    """A session that keeps to itself: nothing of ~/.netrc over our own header, no proxy that nobody asked for, and no redirects.

    Even with allow_redirects=False requests looks where one would lead, for which it reads the body to its end. `ca` is a file
    or folder of certificates instead of the public ones.
    """

    def __init__(self, ca: Path | None = None) -> None:
        super().__init__()
        self.trust_env = False
        self.verify = str(ca) if ca else True
        self.headers["User-Agent"] = f"usersync/{__version__}"

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


# one request


@dataclass(frozen=True)
class Post:
    """A POST to make. `ca` is a file or folder of certificates instead of the public ones.

    Of the answer's body at most `most` bytes are taken; with 0 it is left unread.
    """

    url: str = field(repr=False)  # it may be a secret
    content: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    ca: Path | None = None
    most: int = 0


@dataclass(frozen=True)
class RawResponse:
    """A server's answer to `post`."""

    status: int
    headers: Mapping[str, str] = field(repr=False)  # asked for in any case
    body: bytes = field(repr=False)


class Lost(Exception):
    """No whole answer came to `post`. `error` is what requests raised, None when the time was over.

    `sent`: the body was on its way, so the server may have acted on it. `pending`: the server may still be at work on it,
    since it was we who lost patience.
    """

    def __init__(self, error: BaseException | None, *, sent: bool) -> None:
        super().__init__("no whole answer")
        self.error, self.sent = error, sent
        self.pending = error is None or isinstance(error, requests.ReadTimeout)


def post(request: Post, seconds: float) -> RawResponse:
    """One POST on a connection of its own, over in `seconds`, name look-up included, or LEAVE later.

    It is not repeated and not redirected, and nothing of the environment changes it. Raises Lost; signals wait.
    """
    body, lines = _Body(request.content), CallThreads(partial(ThreadSession, request.ca))
    call: Call[RawResponse] = Call(partial(_posted, request, body, seconds), until=time.monotonic() + seconds, stop=Stop())
    lines.start(call)
    futures.wait([call.future], seconds)
    late = not call.future.done()
    if late:  # what comes after the cut is no whole answer, however it looks
        body.withdraw()
        call.give_up()
    lines.close()
    if late:
        raise Lost(None, sent=body.asked)
    if error := call.future.exception():
        raise Lost(error, sent=body.asked)
    return call.future.result()


def system_certificates() -> Path | None:
    """The system's own certificates, to which an operator may have added one; None where there are none."""
    paths = ssl.get_default_verify_paths()
    return Path(found) if (found := paths.cafile or paths.capath) else None


def _posted(request: Post, body: _Body, seconds: float, _: Call[RawResponse], session: requests.Session) -> RawResponse:
    headers, timeout = {**request.headers, "Connection": "close"}, (min(CONNECT_SECONDS, seconds), seconds)
    data = body if request.content else None  # requests sends an empty stream in chunks
    with session.post(request.url, data=data, headers=headers, allow_redirects=False, timeout=timeout, stream=True) as response:
        content = b"".join(_pieces(response, request.most)) if request.most else b""
    return RawResponse(response.status_code, response.headers, content)


def _pieces(response: requests.Response, most: int) -> Iterator[bytes]:
    size = 0
    for block in response.iter_content(BLOCK_BYTES):
        size += len(block)
        if size > most:
            raise OSError(f"more than {most:,} bytes")
        yield block


class _Body(io.BytesIO):
    """The bytes to send. It knows whether it was asked for, and is not given away any more when that is too late."""

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

    def withdraw(self) -> None:
        """From now on it is not sent."""
        with self._guard:
            self._late = True
