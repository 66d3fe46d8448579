"""Arrays of many values as parameters, in PostgreSQL's binary format: psycopg writes those of a list one by one, as text,
and quotes them with regular expressions, which takes longer than the server needs to load what they hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = struct.Struct("!iiIii").pack  # dimensions, whether there may be NULLs, type of the elements, how many, from which number
_LENGTH = struct.Struct("!i").pack
_NULL = _LENGTH(-1)
_TEXT, _BYTEA = 25, 17  # pg_type.oid


@dataclass(frozen=True)
class Texts:
    """A parameter of type text[]: UTF-8, or None for NULL."""

    values: Sequence[bytes | None] = field(repr=False)


@dataclass(frozen=True)
class Blobs:
    """A parameter of type bytea[]."""

    values: Sequence[bytes | None] = field(repr=False)


def texts(values: Iterable[str | None]) -> Texts:
    """A parameter of type text[] from strings."""
    return Texts([None if value is None else value.encode() for value in values])


class _TextsDumper(Dumper):
    """Writes `Texts` for psycopg."""

    format = Format.BINARY
    oid = 1009

    def dump(self, obj: Texts) -> bytes:
        return _array(_TEXT, obj.values)


class _BlobsDumper(Dumper):
    """Writes `Blobs` for psycopg."""

    format = Format.BINARY
    oid = 1001

    def dump(self, obj: Blobs) -> bytes:
        return _array(_BYTEA, obj.values)


def _array(element: int, values: Sequence[bytes | None]) -> bytes:
    """As `array_recv` of the server reads it."""
    if not values:
        return struct.pack("!iiI", 0, 0, element)
    parts = [_HEADER(1, 1, element, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts += (_LENGTH(len(value)), value)
    return b"".join(parts)


psycopg.adapters.register_dumper(Texts, _TextsDumper)
psycopg.adapters.register_dumper(Blobs, _BlobsDumper)
