"""What a file is by its first bytes, gzip without forgiveness, and what a value says of a deletion."""

from __future__ import annotations

import codecs
import io
import re
import zlib
from datetime import UTC, datetime, timedelta
from typing import IO

import msgspec

BLOCK = 1 << 16

# The signatures of formats that exports come in by mistake (their specifications; file(1) knows the same).
_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive or an Excel file", "unpack it, or export JSON Lines"),
    (b"PK\x05\x06", "an empty zip archive", "export JSON Lines"),
    (b"\x1f\x8b", "compressed by gzip", "give it a name that ends in .gz, once"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it, or use gzip"),
    (b"\xfd7zXZ\x00", "compressed by xz", "unpack it, or use gzip"),
    (b"BZh", "compressed by bzip2", "unpack it, or use gzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it, or use gzip"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "export JSON Lines"),
    (b"SQLite format 3\x00", "an SQLite database", "export JSON Lines"),
    (b"%PDF-", "a PDF", "export JSON Lines"),
    (b"PAR1", "a Parquet file", "export JSON Lines"),
    (codecs.BOM_UTF32_LE, "text in UTF-32", "write it in UTF-8"),
    (codecs.BOM_UTF32_BE, "text in UTF-32", "write it in UTF-8"),
    (codecs.BOM_UTF16_LE, "text in UTF-16", "write it in UTF-8"),
    (codecs.BOM_UTF16_BE, "text in UTF-16", "write it in UTF-8"),
)
# What the text of other formats begins with, behind a byte order mark and white space.
_BEGINNINGS = (
    (re.compile(rb"[\[{\"]\x00|\x00+[\[{\"]"), "text in UTF-16 or UTF-32", "write it in UTF-8"),
    (re.compile(rb"\x00+\Z"), "nothing but zeroes, as a crash leaves it", "write it again"),
    (
        re.compile(rb"<(!doctype html|html|head|body|!--|script)", re.IGNORECASE),
        "a web page, perhaps one that asks for a login or reports an error",
        "open it, and fix what fetches the export",
    ),
    (re.compile(rb"<"), "XML or a web page", "export JSON Lines"),
    (re.compile(rb"\[\s*\{"), "one JSON array", _JQ := "write one document a line: jq -c '.[]'"),
)


def mistaken_for(head: bytes) -> tuple[str, str] | None:
    """What a file that begins like this is instead of JSON Lines, and what to do about it; None when it may be JSON Lines.

    A single line that is no document is a record that is set aside; this is about files of which no line can be one.
    """
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    for signature, what, help_ in _SIGNATURES:
        if head.startswith(signature):
            return what, help_
    for beginning, what, help_ in _BEGINNINGS:
        if beginning.match(text):
            return what, help_
    first = text.partition(b"\n")[0]
    return ("one JSON array", _JQ) if first.startswith(b"[") and not _is_json(first) else None


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def may_continue(text: bytes) -> bool:
    """Whether more bytes could make a document of these: it is the beginning of a JSON object that was cut off."""
    if not text.startswith(b"{"):
        return not text
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text)
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        return "truncated" in str(error) or f"(byte {len(text)})" in str(error)  # after a sign or an exponent
    except (UnicodeDecodeError, RecursionError):
        return False
    return True


class Gunzip(io.RawIOBase):
    """What gzip compressed, members one behind the other (RFC 1952), and nothing else.

    The standard library's reader passes over zeroes behind a member, as tapes had them. A file system that crashed leaves
    zeroes where a member was, and the people in it would seem to have left. Raises EOFError where the file ends too early,
    zlib.error for what gzip did not write.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._member = zlib.decompressobj(wbits=31)
        self._rest = b""  # read, and not of this member
        self._begun = False  # this member has a byte

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # whatever can be written to
        while True:
            given = self._member.unconsumed_tail or self._rest or self._file.read(BLOCK)
            if not given and not self._begun:
                return 0
            self._rest, self._begun = b"", True
            out = self._member.decompress(given, len(buffer))
            if self._member.eof:
                self._rest, self._begun, self._member = self._member.unused_data, False, zlib.decompressobj(wbits=31)
            elif not given and not out:
                raise EOFError
            if out:
                buffer[: len(out)] = out
                return len(out)

    def close(self) -> None:
        self._file.close()
        super().close()


# what a value says of a deletion

_FALSE = frozenset({"", "0", "f", "false", "n", "no", "null", "none"})
_TRUE = frozenset({"1", "t", "true", "y", "yes"})
_SECONDS = 100_000_000  # the least number that is read as a Unix time: 1973
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,9})?")


def says_deleted(raw: bytes) -> bool | None:
    """Whether this JSON value says that its record is gone; None when that is not clear, and a person has to look.

    True, 1, the words of _TRUE, and a time that has been do; false, 0, null, an empty text, the words of _FALSE don't. Not
    clear are other words (`off`, `N/A`, `-`), times that stand for none (`0000-00-00`, `0001-01-01`, 1970-01-01) and times
    to come, such as 9999-12-31 for "never".
    """
    if not raw:
        return False
    value = msgspec.json.decode(raw)
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, (int, float)):
        return bool(value) if value in {0, 1} else _has_been(str(value))
    if not isinstance(value, str):
        return None
    word = value.strip().lower()
    if word in _FALSE or word in _TRUE:
        return word in _TRUE
    return _has_been(word)


def _has_been(text: str) -> bool | None:
    """Whether it is a time that has been; None when it is none, stands for none, or is still to come."""
    moment = _moment(text)
    if moment is None or not datetime(1970, 1, 2, tzinfo=UTC) <= moment <= datetime.now(UTC) + timedelta(days=1):
        return None
    return True


def _moment(text: str) -> datetime | None:
    """An ISO 8601 date or time, or a Unix time in seconds, milliseconds, microseconds or nanoseconds."""
    try:
        if _NUMBER.fullmatch(text) and len(text) != len("20260101"):
            return _unix(float(text))
        moment = datetime.fromisoformat(text.upper())
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _unix(number: float) -> datetime | None:
    for unit in (1, 1e3, 1e6, 1e9):
        if _SECONDS <= number / unit < 100 * _SECONDS:
            return datetime.fromtimestamp(number / unit, UTC)
    return None
