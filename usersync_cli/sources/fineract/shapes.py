"""What Fineract's answers look like: the parts of a record that have to be known before it is loaded, and the codes of an error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from usersync_cli.model import Record

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import Reply

_CODE = re.compile(r"(?:error|validation)\.msg(?:\.[A-Za-z0-9_-]{1,40}){1,10}")  # not any text: others of its texts echo what was sent


class _Start(msgspec.Struct):
    id: Any = None
    username: Any = None
    officeId: Any = None  # noqa: N815  Fineract's name
    isSelfServiceUser: Any = None  # noqa: N815
    selectedRoles: msgspec.Raw = msgspec.Raw(b"")  # noqa: N815


class _Role(msgspec.Struct):
    id: int


class _Inner(msgspec.Struct):
    code: str | None = msgspec.field(name="userMessageGlobalisationCode", default=None)


class _Error(_Inner):
    errors: list[_Inner] | None = None


@dataclass(frozen=True)
class Head:
    """What has to be known of a record before it is loaded."""

    key: str = ""
    username: str | None = None
    office: int | None = None
    roles: bytes = b""
    self_service: bool = False
    problem: str = ""


_STARTS = msgspec.json.Decoder(_Start)
_ERRORS = msgspec.json.Decoder(_Error)
_LISTS = msgspec.json.Decoder(list[msgspec.Raw])
_ROLE = msgspec.json.Decoder(_Role)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def head_of(row: bytes) -> Head:
    try:
        start = _STARTS.decode(row)
    except msgspec.ValidationError:
        return Head(problem="not_an_object")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Head(problem="not_json")
    key = str(start.id) if type(start.id) is int else ""
    username = start.username if isinstance(start.username, str) else None
    office = start.officeId if type(start.officeId) is int else None
    self_service = _truth(start.isSelfServiceUser)
    problem = "no_key" if not key else "self_service_unclear" if self_service is None else ""
    return Head(key, username, office, bytes(start.selectedRoles), bool(self_service), problem)


def _truth(flag: Any) -> bool | None:
    """A flag as yes or no. Some versions give it as text or a number, older ones leave it out, which is no; None: it says neither."""
    return _FLAGS.get("" if flag is None else str(flag).strip().casefold())


_FLAGS = {**dict.fromkeys(("true", "1", "yes"), True), **dict.fromkeys(("false", "0", "no", ""), False)}


def record_of(stream: str, head: Head, row: bytes) -> Record:
    return Record(stream, head.key, _in_order(row, head.roles), problem=head.problem)


def _in_order(row: bytes, roles: bytes) -> bytes:
    """The document with its selected roles by id, which Fineract gives in any order; all else as it came, digit by digit."""
    try:
        given = _LISTS.decode(roles)
        ordered = sorted(given, key=lambda role: _ROLE.decode(role).id)
    except (msgspec.DecodeError, UnicodeDecodeError):  # none, or not of the shape that we know
        return row
    if ordered == given:
        return row
    return msgspec.json.encode({**_FIELDS.decode(row), "selectedRoles": ordered})


def codes_of(reply: Reply) -> list[str]:
    """Fineract's codes for what went wrong, the outer one first; none of them where the answer is not Fineract's own."""
    try:
        error = _ERRORS.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    return [one.code for one in (error, *(error.errors or ())) if one.code and _CODE.fullmatch(one.code)]


def caller_among(heads: Sequence[Head], username: str) -> Head | None:
    """The API user among these users. Some databases under Fineract ignore the case of letters at log-in."""
    for head in heads:
        if head.username == username:
            return head
    alike = [head for head in heads if head.username and head.username.casefold() == username.casefold()]
    return alike[0] if len(alike) == 1 else None
