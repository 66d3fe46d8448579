"""The API of WorkOS: requests that say what they are for, and what its refusals mean, in its own words."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from usersync_cli import __version__
from usersync_cli.errors import ConfigError, Drift

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import Client, RateLimit, Reply, Request
    from usersync_cli.signals import Stop
    from usersync_cli.sources.workos.settings import Settings

Phase: TypeAlias = Literal["events", "listing", "look-up", "check", "users"]
"""What requests are for: in their User-Agent, and so in WorkOS's own log."""

DEADLINE = timedelta(minutes=5)  # of one request, with its repetitions
LOG = "/events"
MOST_OF_ALL, OF_ALL = 3000, timedelta(seconds=60)  # half of what WorkOS documents for all requests (6,000 in 60 s)
MOST, WINDOW = 500, timedelta(seconds=10)  # half of what WorkOS documents for reads of /user_management (1,000 in 10 s)
REFUSALS = (400, 401, 403, 404, 409, 422)  # WorkOS explains them in JSON
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,79}")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]]{0,59}")


class WrongKey(ConfigError):
    """WorkOS does not know the API key at all; a restricted one it knows."""


class _Problem(msgspec.Struct):
    code: Any = None
    field: Any = None


class _Body(msgspec.Struct):
    message: Any = None
    code: Any = None
    error: Any = None
    errors: Any = None


@dataclass(frozen=True)
class Limits:
    """The limits that all sessions of a run share: of the log, and of all else."""

    log: RateLimit
    others: RateLimit


def limits() -> Limits:
    """Half of what WorkOS documents, each."""
    from usersync_cli.clients.http.client import RateLimit

    return Limits(RateLimit(MOST_OF_ALL, OF_ALL, raised=False), RateLimit(MOST, WINDOW, raised=False))


def client(settings: Settings, name: str, stop: Stop, limit: RateLimit) -> Client:
    """A client for the environment of the key; nothing is contacted before its first request."""
    from usersync_cli.clients.http.client import Client

    headers = {"Authorization": f"Bearer {settings.api_key}"}
    return Client(settings.api_url, name=f"source {name}", stop=stop, headers=headers, limit=limit, deadline=DEADLINE)


def request(path: str, params: Mapping[str, Any] | None = None, *, phase: Phase) -> Request:
    """A GET whose User-Agent says what it is for."""
    from usersync_cli.clients.http.client import Request

    return Request("GET", path, params=params or {}, headers={"User-Agent": agent(phase)}, accept=REFUSALS)


def agent(phase: Phase) -> str:
    return f"usersync/{__version__} ({phase})"


class Api:
    """What the source asks of WorkOS. Raises ConfigError for the key and its rights, Drift for what it refuses, Unavailable for silence."""

    def __init__(self, name: str, log: Client, others: Client, workers: int) -> None:
        self.name = name
        self._log, self._client, self._workers = log, others, workers

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, phase: Phase) -> Reply:
        """An answer to GET that is none of REFUSALS."""
        reply = self.ask(path, params, phase=phase)
        self.refuse(reply, path)
        return reply

    def ask(self, path: str, params: Mapping[str, Any] | None = None, *, phase: Phase) -> Reply:
        """An answer to GET, be it a refusal that WorkOS itself explains."""
        return self.send(request(path, params, phase=phase))

    def send(self, request: Request) -> Reply:
        """An answer to any request, be it a refusal that WorkOS itself explains."""
        with _ours(self.name):
            return (self._log if request.path == LOG else self._client).send(request)

    def each(self, requests: Iterable[Request]) -> Generator[Reply, None, None]:
        """The answers to these, in order, several at once; be they refusals that WorkOS itself explains."""
        with _ours(self.name), closing(self._client.each(requests, self._workers)) as replies:
            yield from replies

    def refuse(self, reply: Reply, path: str) -> None:
        """Raises what a refusal means, in the vendor's words, without what may be a person's."""
        if reply.status not in REFUSALS:
            return
        number = f", request id {reply.request_id}" if reply.request_id else ""
        what = f"source {self.name}: WorkOS answered {reply.status} to GET {path} ({said(reply)}{number})"
        if reply.status == 401:
            hint = "set `api_key` to a secret key (sk_...) of your environment, as the dashboard shows it under API Keys; was it revoked?"
            raise WrongKey(f"{what}: it does not know the API key", hint=hint)
        if reply.status == 403:
            without = "" if path == LOG else ", or leave out the stream that needs it"
            hint = f"the key is restricted: give it the right to read {path} in WorkOS's dashboard{without}"
            raise ConfigError(f"{what}: the API key may not read {path}", hint=hint)
        if reply.status == 404:
            raise Drift(f"{what}: there is no such path", hint="is `api_url` right? it is https://api.workos.com")
        raise Drift(what, hint="did the API of WorkOS change? nothing was stored; its support finds the request by its id")


class _ours:  # noqa: N801  it reads as a statement
    """Refusals that WorkOS did not write itself, such as those of a proxy, in our words."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from usersync_cli.clients.http.client import Refused

        if isinstance(error, Refused):
            hint = "that answer is not WorkOS's own: is `api_url` right, and does something between it and us refuse the request?"
            raise ConfigError(error.message, hint=hint) from error


def said(reply: Reply) -> str:
    """What a refusal of WorkOS says: its message where that can't name anybody, else its code; and each field that it complains about."""
    from usersync_cli.clients.http.client import Refused

    try:
        body = msgspec.json.decode(reply.body, type=_Body)
    except msgspec.MsgspecError:
        return "without an explanation"
    message = Refused("", http_status=reply.status, title=body.message if isinstance(body.message, str) else "").words.rstrip(". ")
    code = next((one for one in (body.code, body.error) if isinstance(one, str) and _CODE.fullmatch(one)), "")
    fields = ", ".join(_complaints(body.errors))
    return ": ".join(part for part in (message or code, code if message and fields else "", fields) if part) or "without an explanation"


def _complaints(errors: Any) -> Iterator[str]:
    """`email: required` of each error that names a field, the bare code of others."""
    for one in errors if isinstance(errors, list) else ():
        try:
            problem = msgspec.convert(one, _Problem)
        except msgspec.MsgspecError:
            continue
        code = problem.code if isinstance(problem.code, str) and _CODE.fullmatch(problem.code) else ""
        field = problem.field if isinstance(problem.field, str) and _FIELD.fullmatch(problem.field) else ""
        if code or field:
            yield ": ".join(part for part in (field, code) if part)


def is_unknown(reply: Reply) -> bool:
    """Whether WorkOS itself says that there is no such object: a 404 with its explanation."""
    try:
        body = msgspec.json.decode(reply.body, type=_Body) if reply.status == 404 else None
    except msgspec.MsgspecError:
        return False
    return body is not None and (isinstance(body.message, str) or isinstance(body.code, str))


def date(reply: Reply) -> datetime:
    """WorkOS's time, in whole seconds; without its header, ours."""
    return reply.date or datetime.now(UTC).replace(microsecond=0)
