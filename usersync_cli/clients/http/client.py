"""The one REST client: JSON over HTTP with tokens, a rate limit, repetitions and deadlines. What replies mean: responses.py."""

from __future__ import annotations

import math
import ssl
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self

import msgspec
import requests
import tenacity
from urllib3.exceptions import HTTPError

from usersync_cli import log
from usersync_cli.clients.http.bearer import Bearer
from usersync_cli.clients.http.rate_limit import RateLimit
from usersync_cli.clients.http.responses import Again, Forbidden, Missing, Refused, Reply, Request, Server, Unknown, Untrusted, said
from usersync_cli.clients.http.transport import CONNECT_SECONDS, Call, CallThreads, ThreadSession, leave
from usersync_cli.errors import ConfigError, Drift, LoginRequired, Unavailable
from usersync_cli.model import Access
from usersync_cli.patience import Share
from usersync_cli.signals import Stop

__all__ = ["Client", "Forbidden", "Missing", "RateLimit", "Refused", "Reply", "Request", "Unknown", "Untrusted"]

PIECE_BYTES = 65_536


class Client:
    """One vendor's API. Calls may come from several threads; each is bounded by `deadline`, waits for the limit included.

    `access(after)` gives a bearer token of a newer generation than `after`: called with 0 first, with g after a 401 with
    generation g; it raises LoginRequired when a newer one would not help. `name` is how messages call the vendor. `ca` is
    a file of certificates instead of the public ones.
    `pause` is the first one before a repetition; each is twice as long as the last, and chance adds to it. `login` says
    what a person does whose token is taken no more.
    """

    def __init__(  # noqa: PLR0913  all but the first three have a default
        self,
        base_url: str,
        *,
        name: str,
        stop: Stop,
        access: Callable[[int], Access] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        limit: RateLimit | None = None,
        ca: Path | None = None,
        deadline: timedelta = timedelta(minutes=5),
        timeout: timedelta = timedelta(seconds=30),
        max_body: int = 64_000_000,
        pause: timedelta = timedelta(seconds=0.5),
        login: str = "`usersync oauth-url` begins a new authorisation",
    ) -> None:
        self._server, self._stop, self._share = Server(name, base_url.rstrip("/")), stop, stop.patience.of(name)
        self._limit = limit or RateLimit()
        self._bearer = Bearer(access, hint=login) if access else None
        self._headers, self._auth, self._ca = dict(headers or {}), auth, _certificates(ca, name)
        self._deadline, self._timeout = deadline.total_seconds(), timeout.total_seconds()
        self._max_body, self._pause = max_body, pause.total_seconds()
        self._lines = CallThreads(self._session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections and threads."""
        self._lines.close()

    def post(self, path: str, json: Mapping[str, Any], *, repeat: bool = True) -> Reply:
        """Raises Refused, Missing, LoginRequired, ConfigError, Unavailable, Drift; Stopped after a signal.

        Of what is not to be repeated Unknown says that it may have been done; Unavailable then, that it was not.
        """
        return self.send(Request("POST", path, json, repeat=repeat))

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, repeat: bool = True) -> Reply:
        """GET; it raises what `post` raises."""
        return self.send(Request("GET", path, params=params or {}, repeat=repeat))

    def send(self, request: Request) -> Reply:
        """Send any request; it raises what `post` raises."""
        call = self._start(request)
        with self._leaving([call]):
            return call.result()

    def each(self, asked: Iterable[Request], workers: int) -> Generator[Reply, None, None]:
        """The replies in the order of the requests, at most `workers` of which are on their way or wait to be taken.

        Requests are drawn as there is room. What `post` raises ends it, and so does closing it; no call goes on after that.
        """
        asked, calls = iter(asked), deque[Call[Reply]]()
        with self._leaving(calls):
            while True:
                while len(calls) < workers and (request := next(asked, None)):
                    calls.append(self._start(request))
                if not calls:
                    return
                reply = calls[0].result()
                calls.popleft()
                yield reply

    def _start(self, request: Request) -> Call[Reply]:
        call = Call(partial(self._repeat, request), until=time.monotonic() + self._deadline, stop=self._stop)
        call.silent = partial(self._tell_silent, request, call)
        self._lines.start(call)
        return call

    @contextmanager
    def _leaving(self, calls: Collection[Call[Reply]]) -> Iterator[None]:
        """Whatever happens: none of these is on its way afterwards, and no token is being asked for."""
        try:
            yield
        finally:
            leave(calls)
            if self._bearer and not all(call.future.done() for call in calls):
                self._bearer.settle()

    def _session(self) -> requests.Session:
        session = ThreadSession(self._ca)
        session.auth = self._auth
        session.headers.update({"Accept": "application/json", **self._headers})
        return session

    def _repeat(self, request: Request, call: Call[Reply], session: requests.Session) -> Reply:
        """Ask until there is an answer, or the deadline comes before it, or the run has waited long enough."""
        began, share = time.monotonic(), self._share
        if not share.left:
            raise Unavailable(f"{self._server.name} has not answered before, and was not asked again ({request})", hint=share.over)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, Again) and (request.repeat or error.untouched)),
            wait=tenacity.wait_exponential(multiplier=self._pause, max=30) + tenacity.wait_random(0, self._pause),
            stop=tenacity.stop_any(tenacity.stop_before_delay(call.left), _OutOfPatience(share)),
            sleep=partial(self._pause_for, call),
            before_sleep=partial(self._tell, request),
            reraise=True,
        )
        try:
            return retrying(self._try, request, call, session)
        except Again as again:
            problem, tries, harmless = str(again), retrying.statistics["attempt_number"], request.repeat or again.untouched
        took = f"tried {tries:,} {'time' if tries == 1 else 'times'} in {time.monotonic() - began:,.0f} seconds"
        what = f"{self._server.name} {problem} ({request}; {took})"
        if harmless:
            raise Unavailable(what, hint="nothing was lost; the next run tries again" + ("" if share.left else f"; {share.over}"))
        raise Unknown(what, hint="it may have been done all the same: look first")

    def _try(self, request: Request, call: Call[Reply], session: requests.Session) -> Reply:
        """Once, and what that costs of the run's patience: from when the request went out, not from when it had to queue."""
        try:
            reply = self._ask(request, call, session)
        except Again as again:
            self._share.spend(call.began, lent=again.told)
            raise
        self._share.answered()
        return reply

    def _pause_for(self, call: Call[Reply], seconds: float) -> None:
        began = time.monotonic()
        call.sleep(seconds)
        self._share.spend(began)

    def _ask(self, request: Request, call: Call[Reply], session: requests.Session) -> Reply:
        """Once; with a newer token again when that is what is wrong."""
        if self._bearer is None:
            return self._server.judged(request, self._exchange(request, call, session))
        reply = self._bearer.send(partial(self._exchange, request, call, session), call.check, partial(self._told, request))
        if reply.status == 401:
            raise LoginRequired(f"{self._told(request, reply)}, with a new token too", hint=self._bearer.hint)
        return self._server.judged(request, reply)

    def _told(self, request: Request, reply: Reply) -> str:
        return f"{self._server.name} {said(reply)} to {request}"

    def _tell(self, request: Request, state: tenacity.RetryCallState) -> None:
        """Before a repetition; of a 429 the rate limit tells."""
        again, action = state.outcome and state.outcome.exception(), state.next_action
        if isinstance(again, Again) and action and not again.told:
            left = round(self._share.left)
            log.get().warning("request repeated", request=str(request), why=str(again), seconds=round(action.sleep, 1), waits=left)
            self._share.tell(f"{again} ({request}); it is asked again, for {left:,} s at most")

    def _tell_silent(self, request: Request, call: Call[Reply]) -> None:
        seconds = round(time.monotonic() - call.began)
        log.get().warning("waiting for an answer", server=self._server.name, request=str(request), seconds=seconds)
        self._share.tell(f"has not answered for {seconds} s ({request}); waiting")

    def _exchange(self, request: Request, call: Call[Reply], session: requests.Session, token: str = "") -> Reply:
        """One request and what comes back, whatever its status. Raises Again when that is nothing."""
        with self._limit.slot(call.sleep, call.until, self._share) as slot:
            call.check()
            call.began, call.expires = (now := time.monotonic()), min(call.until, now + self._share.left)
            try:
                with self._sent(request, call, session, token) as response:
                    call.alive()
                    self._limit.learn(slot, response.status_code, response.headers)
                    # Nobody reads what a gateway has to say.
                    unread = response.status_code >= 500 and response.status_code not in (*request.accept, *request.bare)
                    body = b"" if unread else self._read(request, response, call)
                    return Reply(response.status_code, body, response.headers, f"{self._server.name}'s answer to {request}")
            except (OSError, HTTPError, HTTPException, UnicodeError) as error:
                call.hang_up()
                call.check()  # if we cut it ourselves
                problem = self._server.problem(error, late=time.monotonic() >= call.expires)
            except BaseException:
                call.hang_up()
                raise
            finally:
                call.expires = math.inf
        raise problem

    def _sent(self, request: Request, call: Call[Reply], session: requests.Session, token: str) -> requests.Response:
        body: Any = request.form
        headers = dict(request.headers)
        if request.json is not None:
            body, headers["Content-Type"] = msgspec.json.encode(request.json), "application/json"
        if token:
            headers["Authorization"] = f"Bearer {token}"
        left = max(call.expires - call.began, 0.001)
        return session.request(
            request.method,
            self._server.url + request.path,
            params=request.params,
            data=body,
            headers=headers,
            timeout=(min(CONNECT_SECONDS, self._timeout, left), min(self._timeout, left)),
            allow_redirects=False,
            stream=True,
        )

    def _read(self, request: Request, response: requests.Response, call: Call[Reply]) -> bytes:
        """The body in pieces, each of which is as much as there is: who sends a byte a second finds the deadline."""
        body = bytearray()
        while piece := response.raw.read1(PIECE_BYTES, decode_content=True):
            call.alive()
            body += piece
            if len(body) > self._max_body:
                raise Drift(
                    f"{self._server.name} answered more than {self._max_body:,} bytes to {request}",
                    hint="is its address in the config file right? an API answers in pages",
                )
            if time.monotonic() >= call.expires:
                raise Again("did not finish its answer in time")
        return bytes(body)


class _OutOfPatience(tenacity.stop.stop_base):
    """The next pause is longer than the run may still wait."""

    def __init__(self, share: Share) -> None:
        self._share = share

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return self._share.give_up(retry_state.upcoming_sleep)


def _certificates(ca: Path | None, name: str) -> Path | None:
    try:
        if ca:
            ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigError(
            f"{name}: {ca} is no file of certificates: {error.strerror or error}", hint="it holds them in PEM form"
        ) from error
    return ca
