"""What Teamleader's answers look like: the parts that have to be known before a document is loaded, and each document as it came."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from usersync_cli.errors import Drift

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import Reply

YOUNG = timedelta(seconds=2)  # time stamps have whole seconds: so young a document may change without another one
FUTURE = timedelta(days=1)  # no clock and no zone is so far ahead: such a time stamp is only wrong


class _List(msgspec.Struct):
    data: list[msgspec.Raw]


class _Matches(msgspec.Struct):
    matches: int


class _Meta(msgspec.Struct):
    meta: _Matches


class _One(msgspec.Struct):
    data: msgspec.Raw


class _Account(msgspec.Struct):
    id: str


class _Me(msgspec.Struct):
    account: _Account


class _MeReply(msgspec.Struct):
    data: _Me


class _Module(msgspec.Struct):
    status: str


class Status(msgspec.Struct):
    data: _Module


class Head(msgspec.Struct):
    """What has to be known of a document before it is loaded."""

    id: str = ""
    updated_at: str | None = None
    problem: str = ""


class _Start(msgspec.Struct):
    id: str | None = None
    updated_at: str | None = None


_STARTS = msgspec.json.Decoder(_Start)


@dataclass(frozen=True)
class Listed:
    """One answer of .list."""

    rows: Sequence[bytes]
    at: datetime
    total: int | None = None  # of the whole list, where the answer says so

    @cached_property
    def heads(self) -> Sequence[Head]:
        return [head_of(row) for row in self.rows]

    def changes(self, until: str) -> Iterator[str]:
        """When its records were changed, as far as that is known and not later than this."""
        found = (as_text(moment) for head in self.heads if (moment := version_of(head)))
        return (moment for moment in found if moment <= until)

    @property
    def mark(self) -> str:
        """Tells this page from another, also when a record on it changes."""
        return mark_of(head.id.encode(errors="replace") for head in self.heads)


def whose(reply: Reply) -> str:
    return reply.decode(_MeReply).data.account.id


def date(reply: Reply) -> datetime:
    """Teamleader's time; without it, nobody could say from where to go on."""
    if (date := reply.date) is None:
        raise Drift(f"{reply.where} has no Date header", hint="does a proxy take it away?")
    return date


def mark_of(parts: Iterable[bytes]) -> str:
    return hashlib.blake2b(b"".join(parts), digest_size=8).hexdigest()


def as_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def as_moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def version_of(head: Head) -> datetime | None:
    """When it was changed, in UTC where it says no zone; None where nobody can tell."""
    try:
        found = datetime.fromisoformat(head.updated_at or "")
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):  # the engine says what is wrong with it
        return None


def is_settled(head: Head, at: datetime) -> bool:
    """Whether it can't change any more without another time; one that is in the future says nothing about that."""
    moment = version_of(head)
    return moment is None or not moment - FUTURE <= at < moment + YOUNG


def rows_of(reply: Reply) -> Sequence[bytes]:
    """The documents of a list, each as it came."""
    try:
        return [bytes(row) for row in msgspec.json.decode(reply.body, type=_List).data]
    except msgspec.ValidationError:
        reply.decode(_List)  # raises, in our words
        raise
    except msgspec.DecodeError:  # half surrogates are JSON, but not to msgspec
        return _elements(_member(reply.body.decode(errors="replace"), reply.where))


def total_of(reply: Reply) -> int | None:
    """How many records there are in all, where an answer says so: only with includes=pagination, which few lists take."""
    try:
        return msgspec.json.decode(reply.body, type=_Meta).meta.matches
    except msgspec.MsgspecError:
        return None


def document_of(reply: Reply) -> bytes:
    """The document of an answer of .info, as it came."""
    try:
        return bytes(msgspec.json.decode(reply.body, type=_One).data)
    except msgspec.ValidationError:
        reply.decode(_One)
        raise
    except msgspec.DecodeError:
        return _member(reply.body.decode(errors="replace"), reply.where).encode()


def head_of(row: bytes) -> Head:
    try:
        start = _STARTS.decode(row)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            found = json.loads(row)
        except (ValueError, RecursionError):
            return Head(problem="not_json")
        if not isinstance(found, dict):
            return Head(problem="not_an_object")
        start = _Start(*(one if isinstance(one := found.get(name), str) else None for name in ("id", "updated_at")))
    return Head(start.id, start.updated_at) if start.id else Head(problem="no_key")


def _member(text: str, where: str) -> str:
    """The value of `data` in an object, as it stands there. The whole is known to be JSON."""
    decoder, at = json.JSONDecoder(), _after(text, 0) + 1
    while text[(at := _after(text, at))] != "}":
        name, at = decoder.raw_decode(text, at)
        begin = _after(text, _after(text, at) + 1)
        _, at = decoder.raw_decode(text, begin)
        if name == "data":
            return text[begin:at]
        at = _after(text, at)
        at += text[at] == ","
    raise Drift(f"{where} has no data", hint="did the vendor change its API?")


def _elements(text: str) -> Sequence[bytes]:
    """The elements of an array."""
    decoder, at, found = json.JSONDecoder(), _after(text, 0) + 1, []
    while text[(at := _after(text, at))] != "]":
        _, end = decoder.raw_decode(text, at)
        found.append(text[at:end].encode())
        at = _after(text, end)
        at += text[at] == ","
    return found


def _after(text: str, at: int) -> int:
    """Behind white space."""
    while text[at] in " \t\r\n":
        at += 1
    return at
