"""What answers of WorkOS look like, and the records that are made of them. Pure functions, some microseconds a document.

A document is stored in one spelling, so that an event's and a listing's are the same bytes: without secrets at any depth, its fields
in alphabetical order, arrays that are sets sorted. Values keep their own bytes: numbers are not parsed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from usersync_cli.errors import Drift
from usersync_cli.model import Record
from usersync_cli.sources.workos.streams import ARCHIVE, STREAMS, Kind

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import Reply

SECRETS = frozenset(
    (
        *("verification_token", "verification_prefix", "token", "accept_invitation_url", "password_reset_token", "password_reset_url"),
        *("secret", "client_secret", "access_token", "refresh_token", "password", "password_hash", "code_verifier"),
    )
)
"""Fields that let somebody in. They are taken out before anything is stored, of records that are set aside too."""

SETS: Mapping[str, str] = {"domains": "id", "roles": "slug", "groups": "id", "permissions": ""}
"""Arrays whose order means nothing, and what their elements are sorted by; "": by themselves."""


class _Metadata(msgspec.Struct):
    after: str | None = None


class _Paged(msgspec.Struct):
    data: list[msgspec.Raw]
    list_metadata: _Metadata  # has to be there: a page that was cut short is not the last one


class _Whole(msgspec.Struct):
    data: list[msgspec.Raw]
    list_metadata: _Metadata | None = None


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_VALUE = msgspec.json.Decoder()
_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True)
class Listed:
    """One answer of a list."""

    rows: Sequence[bytes]
    after: str | None  # behind which object the next page begins; None: there is none


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the log. `problem` says why it can't be understood: then it is set aside, and the cursor moves past it."""

    id: str
    type: str
    at: datetime | None
    created_at: str
    data: bytes
    raw: bytes
    problem: str = ""


def listed(reply: Reply, *, paged: bool = True) -> Listed:
    """The rows of a list. Raises Drift when that is not its shape."""
    kind: type[_Paged | _Whole] = _Paged if paged else _Whole
    try:
        found = msgspec.json.decode(reply.body, type=kind)
    except msgspec.ValidationError:
        found = reply.decode(kind)  # raises, in our words
    except (msgspec.DecodeError, UnicodeDecodeError):  # half surrogates are JSON, but not to msgspec
        return _listed_slowly(reply)
    metadata = found.list_metadata
    return Listed([bytes(row) for row in found.data], metadata.after or None if metadata else None)


def _listed_slowly(reply: Reply) -> Listed:
    try:
        body = json.loads(reply.body.decode("utf-8", "replace"))
        return Listed([json.dumps(row).encode() for row in body["data"]], (body.get("list_metadata") or {}).get("after"))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Drift(f"{reply.where} has another shape than documented", hint="did the vendor change its API?") from None


# documents


def fields_of(row: bytes) -> dict[str, msgspec.Raw] | None:
    """The fields of an object, each as it came; None of what is none."""
    try:
        return _FIELDS.decode(row)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def canonical(row: bytes, fields: Mapping[str, msgspec.Raw]) -> bytes:
    """The document in its one spelling."""
    given = _clean(fields) if _may_have_secrets(row) else dict(fields)
    for name, key in SETS.items():
        if name in given:
            given[name] = _as_set(given[name], key)
    return _encode(given)


def without_secrets(row: bytes) -> bytes:
    """Whatever came, as it may be kept for a person to look at: its secrets are taken out, or all of it where it can't be read."""
    fields = fields_of(row)
    if fields is not None:
        return canonical(row, fields)
    try:
        found = json.loads(row)
    except (ValueError, RecursionError):
        return b'"unreadable"' if _may_have_secrets(row) else row
    return json.dumps(_clean_value(found), sort_keys=True, separators=(",", ":")).encode()


def _may_have_secrets(row: bytes) -> bool:
    """Whether it is worth looking closer: the end of a secret's name is there, or a letter is escaped, which may be one of it."""
    # One by one: a loop over them takes as long as all else that is done with a document.
    return (
        b'token"' in row or b"\\u00" in row or b'secret"' in row or b'on_url"' in row or b'reset_url"' in row
        or b'on_prefix"' in row or b'password"' in row or b'_hash"' in row or b'_verifier"' in row
    )  # fmt: skip


def _clean(fields: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """The fields without secrets, at any depth; all else as it came."""
    return {name: _cleaned(value) for name, value in fields.items() if name not in SECRETS}


def _cleaned(value: msgspec.Raw) -> msgspec.Raw:
    text = bytes(value)
    if text[:1] == b"{":
        return msgspec.Raw(msgspec.json.encode(_clean(_FIELDS.decode(text))))
    if text[:1] == b"[":
        return msgspec.Raw(msgspec.json.encode([_cleaned(one) for one in _ARRAY.decode(text)]))
    return value


def _clean_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _clean_value(one) for name, one in value.items() if name not in SECRETS}
    return [_clean_value(one) for one in value] if isinstance(value, list) else value


def _as_set(value: msgspec.Raw, key: str) -> msgspec.Raw:
    """An array in the order of this field of its elements; what is none stays as it came."""
    if bytes(value)[:1] != b"[":
        return value
    given = _ARRAY.decode(value)
    if len(given) < 2:
        return value
    return msgspec.Raw(msgspec.json.encode(sorted(given, key=lambda one: _place(bytes(one), key))))


def _place(element: bytes, key: str) -> tuple[bytes, bytes]:
    fields = fields_of(element) if key and element[:1] == b"{" else None
    return bytes(fields[key]) if fields and key in fields else b"", element


# records


def text_of(fields: Mapping[str, msgspec.Raw], name: str) -> str:
    """A field that is a text; empty where it is something else, or not there."""
    raw = fields.get(name)
    if raw is None:
        return ""
    text = bytes(raw)
    if text[:1] != b'"':
        return ""
    return str(_VALUE.decode(text)) if b"\\" in text else text[1:-1].decode()


def record_of(stream: str, row: bytes, as_of: str) -> Record:
    """An object as a list, or a look-up by id, shows it."""
    fields = fields_of(row)
    if fields is None:
        return Record(stream, "", without_secrets(row), problem="not_an_object")
    key = text_of(fields, STREAMS[stream].key)
    version = text_of(fields, "updated_at") or None
    return Record(stream, key, canonical(row, fields), version, problem="" if key else "no_key", as_of=as_of)


def change_of(stream: str, event: Event, kind: Kind) -> tuple[Record, Collection[str]]:
    """What an event says about its object, and the fields that its document has."""
    fields = fields_of(event.data)
    if fields is None:
        return aside(stream, event, "not_an_object"), ()
    key = text_of(fields, STREAMS[stream].key)
    if not key:
        return aside(stream, event, "no_key"), ()
    document = canonical(event.data, fields)
    if kind is Kind.DELETED:  # its document is older than the event: that of the last change
        return Record(stream, key, document, event.created_at, deleted=True, as_of=event.created_at), fields.keys()
    version = text_of(fields, "updated_at") or None
    return Record(stream, key, document, version, as_of=event.created_at, partial=True), fields.keys()


def aside(stream: str, event: Event, problem: str) -> Record:
    """An event that nobody can apply, under its own id, for a person to look at."""
    document = without_secrets(event.raw)
    key = event.id or f"event without an id, sha256:{hashlib.sha256(document).hexdigest()[:32]}"
    return Record(stream, key, document, problem=problem)


def archived(event: Event) -> Record:
    """An event as a record of the archive."""
    fields = fields_of(event.raw)
    document = without_secrets(event.raw) if fields is None else canonical(event.raw, fields)
    return Record(ARCHIVE, event.id, document, event.created_at, as_of=event.created_at)


# events


def event_of(row: bytes) -> Event:
    """An event of the log, with its problem if it has one."""
    fields = fields_of(row)
    if fields is None:
        return Event("", "", None, "", b"", row, "not_an_object")
    id_, type_, created_at = (text_of(fields, name) for name in ("id", "event", "created_at"))
    at = moment(created_at)
    data = bytes(fields.get("data", b""))
    problem = "no_key" if not id_ else "bad_version" if at is None else "not_an_object" if data[:1] != b"{" else ""
    return Event(id_, type_, at, created_at, data, row, problem)


def moment(text: str) -> datetime | None:
    """A time stamp of WorkOS, in UTC where it says no zone; None for anything else."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def as_text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
