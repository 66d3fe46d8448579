"""Partial documents: what changes of a log may lack is remembered of the last whole document, and added to them.

A field that a partial document has counts, also where it is null; one that it lacks stays as the last listing had it. Fields keep
their bytes, and are in alphabetical order, as a source that sends partial documents has them in whole ones: then a document that is
completed is the one that a listing shows, byte by byte.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import msgspec

from usersync_cli.load.known import LOADED, Known
from usersync_cli.run.documents.page import PageRecord

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder(order="sorted").encode


def rest_of(document: bytes, told: Collection[str]) -> str | None:
    """What is to be remembered of a whole document: the fields that partial ones may lack. None where nothing is told of the stream."""
    fields = _fields(document) if told else None
    return None if fields is None else _encode({name: value for name, value in fields.items() if name not in told}).decode()


def complete(one: PageRecord, known: Known) -> None:
    """Add the fields that its partial document lacks, and look again whether it is the one that is known."""
    assert one.before.rest is not None  # noqa: S101  the planner has asked
    fields, rest = _fields(one.document), _fields(one.before.rest.encode())
    if fields is None or rest is None or rest.keys() <= fields.keys():
        return
    one.document = _encode(rest | fields)
    one.record = replace(one.record, data=one.document)
    one.hash = known.hash(one.document)
    one.listed = one.hash if one.record.settled else None
    same = one.before.status == LOADED and one.before.held == one.hash
    one.before = replace(one.before, listed=same)


def _fields(document: bytes) -> dict[str, msgspec.Raw] | None:
    """The fields of an object, None of what is none."""
    try:
        return _FIELDS.decode(document)
    except msgspec.MsgspecError:
        return None
