"""What comes back from an API and what it means: an answer, something to try again, or an error that says what to do next.

No message holds a token, a value of a query string or a part of a body: those may be a person's. It has the path, the
status and the request's id, which is what the vendor's support asks for.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn, TypeVar
from urllib.parse import urljoin, urlsplit

import msgspec
import requests
from urllib3.exceptions import NewConnectionError, ReadTimeoutError

from usersync_cli.clients.http.rate_limit import moment
from usersync_cli.errors import ConfigError, Drift, Unanswered, Unavailable, UsersyncError

T = TypeVar("T")
_ERRORS = """
a access account action active allowed an and any api application are array authenticate authenticated authentication
authorization authorized bad be been billing blocked by can can't cannot client could couldn't currently customer data date denied
deprecated disabled do does doesn't don't empty enabled endpoint error exceed exceeded exceeds exist exists expired failed feature
field fields filter for forbidden format found greater has have header id ids in inactive include includes insufficient
integration invalid is isn't it json key less limit list longer malformed maximum may method minimum missing module more most must
no not number object of on one only or order package page page_size pagination parameter payment permission permissions permitted
plan please privileges problem provide provided query read record refused request requested requests required requires resource
revoked right rights scope scopes server service should size sort sort_field status string subscription supported suspended
temporarily than the there this to token too try type unable unauthenticated unauthorised unauthorized unavailable unexpected
unknown unsupported updated_since upgrade user valid value version was were with without wrong you your
"""  # what titles of errors are made of, and nobody is called
_WORDS = frozenset(_ERRORS.split())
REPEATED = (429, 500, 502, 503, 504)
_FOREIGN = re.compile("VERSION|PROTOCOL|CIPHER|ALERT|HTTP_REQUEST|RECORD_LAYER|HANDSHAKE|SIGNATURE|DH_KEY")  # reasons of OpenSSL
_REQUEST_IDS = ("X-Request-ID", "Request-Id", "X-Correlation-ID", "CF-Ray")


class Refused(UsersyncError):
    """An answer that repeating the request does not change. `title` is the vendor's own, which may name people: messages have `words`."""

    status = 7

    def __init__(self, message: str, *, http_status: int, title: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.http_status = http_status
        self.title = title

    @property
    def words(self) -> str:
        """The title, where it is made of words of such errors alone, so that it can't name anybody; else nothing."""
        found = re.findall(r"[a-z_'-]+|[^a-z_'\s-]", self.title.lower())
        return self.title if found and all(word in _WORDS or word in ".,:;()" for word in found) else ""


class Forbidden(Refused):
    """A right, a scope or the credentials: a person has to fix them."""

    status = 2


class Missing(Refused):
    """There is no such record, or no such path."""


class Unknown(Unanswered):
    """The server was asked once, and what became of that is not known."""


class Untrusted(ConfigError):
    """Nobody that we trust vouches for the server's certificate; nothing was sent."""


@dataclass(frozen=True)
class Request:
    """A request to an API. `repeat` says that asking twice does no harm; `accept` are statuses other than 2xx that are an answer.

    `bare` are such statuses too, whatever their body is: for an API that says no with a page in HTML. `named` is how messages
    call the path, where that has what may be a person's.
    """

    method: str
    path: str
    json: Any = field(default=None, repr=False)
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)  # instead of JSON
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    repeat: bool = True
    accept: Collection[int] = ()  # their body has to be JSON all the same: the 404 of a proxy is no answer
    bare: Collection[int] = ()
    named: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.named or self.path.partition('?')[0]}"


@dataclass(frozen=True)
class Reply:
    """An answer with a body that is JSON, or with none (201, 202, 204)."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)  # asked for in any case
    where: str = ""  # how messages call it

    @property
    def date(self) -> datetime | None:
        """When it was, by the server's clock; whole seconds."""
        return moment(self.headers.get("Date", ""))

    @property
    def request_id(self) -> str:
        """The id that the vendor's log has for this request; empty when it does not say."""
        named = (self.headers.get(name, "") for name in _REQUEST_IDS)
        return next((text for text in named if re.fullmatch(r"[\w.:/=+-]{1,80}", text)), "")

    def json(self) -> Any:
        """The body; None when there is none. Half surrogates, which JSON allows, come as they are."""
        return _parsed(self.body) if self.body else None

    def decode(self, type_: type[T]) -> T:
        """The body as msgspec reads it into `type_`. Raises Drift when it has another shape."""
        try:
            return msgspec.json.decode(self.body, type=type_)
        except msgspec.MsgspecError as error:
            # What it says of an enumeration quotes the value.
            why = str(error) if str(error).startswith(("Expected `", "Object missing")) else "it can't be read"
        raise Drift(f"{self.where} has another shape than documented: {why}", hint="did the vendor change its API?")


class Again(Exception):
    """An outcome that may differ when the request is sent again. `untouched`: the server did nothing; `told`: the log says so already."""

    def __init__(self, message: str, *, untouched: bool = False, told: bool = False) -> None:
        super().__init__(message)
        self.untouched = untouched
        self.told = told


@dataclass(frozen=True)
class Server:
    """Whom we talk to: how messages call it, and the address before each path."""

    name: str
    url: str

    def __post_init__(self) -> None:
        with suppress(ValueError):
            parts = urlsplit(self.url)
            told = parts.username or parts.password or parts.query or parts.fragment
            if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and not told:
                return
        raise ConfigError(
            f"the address of {self.name} is not one of an API", hint="it is https://HOST or https://HOST/PATH, without a user, ? or #"
        )

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def judged(self, request: Request, reply: Reply) -> Reply:
        """The reply if it is an answer; else raises what it means."""
        good = 200 <= reply.status < 300
        if reply.status in request.bare:
            return reply
        if good and reply.status != 200 and not reply.body:
            return reply
        if (good or reply.status in request.accept) and _is_json(reply.body):
            return reply
        if good:
            kind = reply.headers.get("Content-Type", "").partition(";")[0]
            shown = f" of type {kind}" if re.fullmatch(r"[a-z]+/[a-z.+-]+", kind) else ""
            raise Again(f"answered {reply.status} with {len(reply.body):,} bytes{shown} that are not JSON, or not all of it")
        if reply.status in REPEATED:
            raise Again(said(reply), untouched=reply.status == 429, told=reply.status == 429)
        raise self._refusal(request, reply)

    def _refusal(self, request: Request, reply: Reply) -> UsersyncError:
        what = f"{self.name} {said(reply)} to {request}"
        if 300 <= reply.status < 400:
            return ConfigError(
                f"{what}, which points to {self._elsewhere(request, reply)}; it was not followed",
                hint="if that is where the API is, set the source's address to it; otherwise something stands in between",
            )
        if reply.status == 408 or reply.status >= 500:
            return Unavailable(what, hint="nothing was lost; the next run tries again")
        kind, hint = _KINDS.get(reply.status, (Refused, "the vendor's support finds the request by its id; did its API change?"))
        return kind(what, http_status=reply.status, title=_title(reply.body), hint=hint)

    def _elsewhere(self, request: Request, reply: Reply) -> str:
        """Where a redirect points: without query and credentials, and without the request's path when it ends in that."""
        with suppress(ValueError):
            to = urlsplit(urljoin(self.url + request.path, reply.headers.get("Location", "")))
            if to.hostname:
                host = f"[{to.hostname}]" if ":" in to.hostname else to.hostname
                path = to.path.removesuffix(request.path) if to.path.endswith(request.path) else ""
                return f"{to.scheme}://{host}{f':{to.port}' if to.port else ''}{path}"
        return "nowhere"

    def problem(self, error: Exception, *, late: bool = False) -> Exception:
        """What it means that there was no reply at all; `late` when the deadline had passed, so that it may be we who cut the
        connection. Not for `raise ... from`: foreign texts hold the query string."""
        found = list(causes(error))
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in found):
            return Untrusted(
                f"the certificate of {self.name} ({self.host}) is not trusted",
                hint="is the address right? for a certificate of your own authority, name its file of certificates in the config file",
            )
        if reason := next((why for cause in found if isinstance(cause, ssl.SSLError) and (why := _no_tls(cause))), ""):
            hint = "does the server speak TLS at this port? then its TLS, or that of what stands before it, is another than ours"
            return Untrusted(f"no TLS connection to {self.name} ({self.host}): {reason}", hint=hint)
        if isinstance(error, ValueError):  # InvalidURL, InvalidHeader and the like, which quote what they dislike
            hint = "fix its address or its credentials in the config file"
            return ConfigError(f"no request to {self.name} can be made: {type(error).__name__}", hint=hint)
        if any(isinstance(cause, requests.ConnectTimeout | NewConnectionError) for cause in found):
            why = ": no such host name" if any(isinstance(cause, socket.gaierror) for cause in found) else ""
            return Again(f"can't be reached at {self.host}{why}", untouched=True)
        if late or any(isinstance(cause, TimeoutError | requests.Timeout | ReadTimeoutError) for cause in found):
            return Again("did not answer in time")
        return Again("cut the connection")


def _no_tls(error: ssl.SSLError) -> str:
    """Why the two can't agree, however often they try; empty for a connection that was lost, which may pass."""
    reason = str(error.reason or "")
    return reason.replace("_", " ").lower() if _FOREIGN.search(reason) and "INTERNAL" not in reason else ""


def said(reply: Reply) -> str:
    """The words for a reply, for the middle of a sentence."""
    return f"answered {reply.status}" + (f" (request id {reply.request_id})" if reply.request_id else "")


_KINDS: Mapping[int, tuple[type[Refused], str]] = {
    401: (Forbidden, "fix the credentials in the config file"),
    403: (Forbidden, "give the integration the right or scope for this, where it is registered, then authorise again"),
    404: (Missing, "no such record or path; is the source's address in the config file right?"),
}


def _is_json(body: bytes) -> bool:
    with suppress(ValueError):
        _parsed(body, msgspec.Raw)
        return True
    return False


def _parsed(body: bytes, type_: Any = Any) -> Any:
    """msgspec is quick, but takes no half surrogate; one in one record must not cost the others of its page."""
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.DecodeError:
        return json.loads(body.decode("utf-8", "replace"), parse_constant=_no_constant)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _title(body: bytes) -> str:
    with suppress(ValueError, LookupError, TypeError):
        return str(_parsed(body)["errors"][0]["title"])[:200]
    return ""


def causes(error: object) -> Iterator[BaseException]:
    """An error and all that it wraps: urllib3 and requests do that in four ways."""
    todo, known = [error], set[int]()
    while todo:
        error = todo.pop()
        if isinstance(error, BaseException) and id(error) not in known:
            known.add(id(error))
            yield error
            todo += [error.__cause__, error.__context__, getattr(error, "reason", None), *error.args]
