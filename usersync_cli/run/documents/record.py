"""A record of a page, as PostgreSQL will get it: its document, its hash and its version; or the reason why it can't be loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from usersync_cli.load import rejects
from usersync_cli.load.known import Known, Met
from usersync_cli.model import Record
from usersync_cli.run.documents.page import PageRecord
from usersync_cli.state.rejects import Reject

BAD_VERSION = "bad_version"
KEY_TOO_LONG = "key_too_long"
LONGEST_KEY = 2000  # bytes: an index entry has 2,704 at most, and that of a reject holds the names of job, step and stream too
_NUMBER = re.compile(r"[+-]?[0-9]{1,1000}(\.[0-9]{1,1000})?([eE][+-]?[0-9]{1,4})?")


def read_record(record: Record, known: Known, codec: str | None) -> PageRecord | Reject:
    """The record with its hash and its version as PostgreSQL reads it; a reject, if it can't be loaded into a database of this encoding.

    `codec` is Python's name of the encoding in which the target keeps text, None where it holds any.
    """
    key = record.key if _is_text(record.key, codec) else None
    if record.problem or key is None:
        return Reject(key, record.problem or rejects.NO_KEY, document=record.data)
    if len(key.encode()) > LONGEST_KEY:
        return Reject(f"{key[:64]}... sha256:{hashlib.sha256(key.encode()).hexdigest()}", KEY_TOO_LONG, document=record.data)
    document = b"{}" if record.deleted else record.data
    if not _is_utf8(document):
        return Reject(key, rejects.NOT_JSON, document=record.data)
    if not _can_be_held(document, codec):
        return Reject(key, rejects.UNTRANSLATABLE, document=record.data)
    version, as_of = _version(record.version, numbered=known.numbered), _version(record.as_of, numbered=False)
    if "" in {version, as_of}:
        return Reject(key, BAD_VERSION, document=record.data)
    hashed = known.hash(record.data)
    return PageRecord(record, document, version, hashed if record.settled else None, hashed, as_of=as_of)


def parent_of(document: bytes, field: str) -> str:
    """The key of the record that a document belongs to, which is in this field of it; "" where none is."""
    try:
        found = _child(field).decode(document).parent
    except msgspec.MsgspecError:
        return ""
    return "" if found is None else str(found)


@lru_cache
def _child(field: str) -> msgspec.json.Decoder[Any]:
    """A decoder that reads only this field."""
    return msgspec.json.Decoder(msgspec.defstruct("Child", [("parent", str | int | None, msgspec.field(name=field, default=None))]))


def _is_utf8(document: bytes) -> bool:
    """Whether PostgreSQL reads the document as text."""
    try:
        return b"\0" not in document and (document.isascii() or bool(document.decode()))
    except UnicodeDecodeError:
        return False


def _can_be_held(document: bytes, codec: str | None) -> bool:
    """Whether the target's encoding has all of its characters."""
    if codec is None or document.isascii():
        return True
    try:
        document.decode().encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def _is_text(key: str, codec: str | None) -> bool:
    """Whether PostgreSQL can hold the key in this encoding."""
    if not key or "\0" in key:
        return False
    if key.isascii():
        return True
    try:
        key.encode(codec or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _version(given: str | None, *, numbered: bool) -> str | None:
    """The version as PostgreSQL reads it, a time without a zone in UTC; None for none, "" for what is not a version."""
    if given is None:
        return None
    if numbered:
        return given if _NUMBER.fullmatch(given) else ""
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        return ""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def duplicates(items: Sequence[PageRecord], *, numbered: bool, same: Mapping[str, object] | None = None) -> dict[int, Met]:
    """Records of which the page has a newer one, by version, then by place. `same` says which keys are one, where keys alone don't."""
    best: dict[object, tuple[Any, int]] = {}
    for position, item in enumerate(items):
        version = item.version
        order = (version is not None, (Decimal(version) if numbered else datetime.fromisoformat(version)) if version else 0)
        who = (same or {}).get(item.record.key, item.record.key)
        if who not in best or best[who][0] <= order:
            best[who] = (order, position)
    winners = {position for _, position in best.values()}
    return {position: Met(duplicate=True) for position in range(len(items)) if position not in winners}
