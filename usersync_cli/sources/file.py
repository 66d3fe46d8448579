"""The source `file`: JSON Lines, one document a line, in one or several files for each stream; gzip by the suffix .gz.

What the files hold is all there is: each reading is a complete listing. A reading that was interrupted goes on at its
line as long as the files are the same (names, sizes, times of change); otherwise it begins again.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from usersync_cli.errors import ConfigError, Drift, Unavailable
from usersync_cli.jobs import Name
from usersync_cli.mistakes import Misfit
from usersync_cli.model import Cursor, Documents, Page, Record, Stream, Tools
from usersync_cli.stage import key_of

KIND = "documents"

PAGE_RECORDS = 1000
PAGE_BYTES = 4_000_000  # lines may be long
LONGEST_LINE = 64_000_000


class FileStream(BaseModel):
    """One kind of record: which files, and where in a document its key, version and deletion stand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="a file or a pattern such as people-*.jsonl, relative to the config file")
    key: str | list[str] = Field(description="the field that says who it is, a JSON pointer (/person/id), or several of them")
    version: str | None = Field(None, description="the field that grows when a record changes, such as updated_at")
    version_type: Literal["time", "number"] = Field("time", description="what a version is")
    deleted: str | None = Field(None, description="the field that says that a record is gone, when it is neither false, null, 0 nor empty")

    @field_validator("path")
    @classmethod
    def _is_beside_the_config(cls, value: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("folder")
        if not value or "\0" in value:
            raise Misfit("must be the name of a file, or a pattern such as people-*.jsonl")
        return str(Path(folder, value).absolute()) if folder else value

    @field_validator("key")
    @classmethod
    def _is_a_key(cls, value: str | list[str]) -> str | list[str]:
        if not value or (isinstance(value, list) and len(set(value)) < len(value)):
            raise Misfit("must name a field, or several different ones")
        return value


class Settings(BaseModel):
    """Files of JSON Lines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["file"]
    streams: dict[Name, FileStream] = Field(min_length=1, description="the kinds of record, by name")


def streams(settings: Mapping[str, Any]) -> Sequence[str]:
    """The streams that a source's part of the config file has."""
    found = settings.get("streams")
    return list(found) if isinstance(found, dict) else ()


class Source:
    """Where to read; no file is touched before `open`."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._streams = settings.streams

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Session]:
        """Nothing stays open: each page opens its file."""
        del tools
        yield Session(self.name, self._streams)


class Session:
    """The files as they are now. `account` is the folder that they all stand in."""

    snapshot = True

    def __init__(self, name: str, streams_: Mapping[str, FileStream]) -> None:
        self._name = name
        self._streams = streams_
        self.numbered = {stream for stream, settings in streams_.items() if settings.version_type == "number"}
        self.account = os.path.commonpath([Path(settings.path).absolute().parent for settings in streams_.values()])

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Iterator[Page]:
        """Each stream's files in the order of their names, 1000 lines a page. Raises Unavailable when files are missing, or
        change while they are read."""
        for stream in streams:
            if stream.name not in self._streams:
                raise Drift(f"source {self._name} has no stream {stream.name}", hint=f"its streams: {', '.join(self._streams)}")
            yield from _Listing(f"source {self._name}, stream {stream.name}", stream.name, self._streams[stream.name]).pages(
                since.get(stream.name)
            )


@dataclass(frozen=True)
class _Place:
    """A line: where it ends."""

    file: int
    offset: int
    line: int


class _Listing:
    """One stream's files, once through."""

    def __init__(self, where: str, stream: str, settings: FileStream) -> None:
        self._where, self._stream, self._settings = where, stream, settings
        self._read = _reader(stream, settings)
        self._files = self._find()
        self._state = self._look()

    def _find(self) -> list[str]:
        path = self._settings.path
        found = [path] if Path(path).exists() else sorted(glob.glob(path, recursive=True))  # noqa: PTH207  Path.glob wants a folder
        if not found:
            raise Unavailable(f"{self._where}: there is no file {path}", hint="is the export late, or the path misspelt?")
        if odd := [one for one in found if not Path(one).is_file()]:
            raise ConfigError(f"{self._where}: {odd[0]} is not a file", hint="give the path of a file, or a pattern that only files fit")
        return found

    def _look(self) -> str:
        """What changes when a file does."""
        state = []
        for file in self._files:
            with self._told(file):
                seen = Path(file).stat()
            state.append(f"{file}|{seen.st_size}|{seen.st_mtime_ns}")
        return hashlib.blake2b("\n".join(state).encode(), digest_size=16).hexdigest()

    def pages(self, since: Cursor | None) -> Iterator[Page]:
        sweep, at = uuid.uuid4().hex, _Place(0, 0, 0)
        if since and since.get("files") == self._state and not since.get("done"):
            sweep, at = str(since["sweep"]), _Place(int(since["file"]), int(since["offset"]), int(since["line"]))
        page: list[Record] = []
        size = 0
        for place, line in self._lines(at):
            if len(page) >= PAGE_RECORDS or size >= PAGE_BYTES:
                cursor = {"sweep": sweep, "files": self._state, "file": at.file, "offset": at.offset, "line": at.line}
                yield Page(Documents(page), cursor, complete=False, streams=(self._stream,), sweep=sweep)
                page, size = [], 0
            at = place
            if line:
                page.append(self._read(line))
                size += len(line)
        if self._find() != self._files or self._look() != self._state:
            raise Unavailable(f"{self._where}: a file was changed while it was read", hint="the next run reads it again")
        cursor = {"sweep": sweep, "files": self._state, "done": True}
        yield Page(Documents(page), cursor, complete=True, streams=(self._stream,), sweep=sweep)

    def _lines(self, at: _Place) -> Iterator[tuple[_Place, bytes]]:
        """Each line without its end, and the place after it; empty for a blank one."""
        for number in range(at.file, len(self._files)):
            offset, line = (at.offset, at.line) if number == at.file else (0, 0)
            with self._told(self._files[number]), _opened(self._files[number]) as lines:
                lines.seek(offset)
                while text := lines.readline(LONGEST_LINE):
                    offset, line = offset + len(text), line + 1
                    stripped = text.removeprefix(b"\xef\xbb\xbf").strip() if line == 1 else text.strip()
                    if not text.endswith(b"\n"):
                        self._check_the_end(stripped, len(text), f"{self._files[number]}:{line}")
                    yield _Place(number, offset, line), stripped

    def _check_the_end(self, text: bytes, size: int, where: str) -> None:
        """A last line may lack its end; but one that is not JSON either is still being written."""
        if size >= LONGEST_LINE:
            raise Drift(f"{self._where}: {where}: a line is longer than {LONGEST_LINE:,} bytes", hint="is it one document a line?")
        try:
            msgspec.json.decode(text or b"{}", type=msgspec.Raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unavailable(
                f"{self._where}: {where}: the file ends in the middle of a line",
                hint="it is still being written, or was cut off; the next run reads it again. What was read before stays",
            ) from error

    @contextmanager
    def _told(self, file: str) -> Iterator[None]:
        """What the operating system or gzip says, in our words."""
        try:
            yield
        except FileNotFoundError as error:
            raise Unavailable(f"{self._where}: {file} is gone", hint="the next run looks for it again") from error
        except PermissionError as error:
            raise ConfigError(
                f"{self._where}: {file} may not be read", hint="give the user that runs usersync the right to read it"
            ) from error
        except EOFError as error:
            raise Unavailable(f"{self._where}: {file} ends too early", hint="it is still being written, or was cut off") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise Drift(f"{self._where}: {file} is not what gzip writes", hint="only files that gzip wrote may end in .gz") from error
        except OSError as error:
            raise Unavailable(f"{self._where}: {file} can't be read: {error.strerror}", hint="the next run tries again") from error


def _opened(file: str) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(file, "rb")) if file.endswith(".gz") else Path(file).open("rb")


# what a line says of itself


def _reader(stream: str, settings: FileStream) -> Callable[[bytes], Record]:
    """From a line to its record, by a struct of just the fields that are needed: the document itself is not parsed into objects."""
    parts = [settings.key] if isinstance(settings.key, str) else settings.key
    paths = [_path(part) for part in parts]
    version = _path(settings.version) if settings.version else None
    deleted = _path(settings.deleted) if settings.deleted else None
    decoder = msgspec.json.Decoder(_struct([path for path in (*paths, version, deleted) if path]))

    def read(line: bytes) -> Record:
        try:
            found = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Record(stream, "", line, problem=_problem(line))
        key = [_text(_value(found, path)) for path in paths]
        if not all(key):
            return Record(stream, "", line, problem="no_key")
        whole = key[0] if len(key) == 1 else key_of([part or "" for part in key])
        gone = deleted is not None and _value(found, deleted) not in (b"", b"false", b"null", b"0", b'""')
        raw = _value(found, version) if version else b""
        if raw in (b"", b"null"):
            return Record(stream, whole or "", line, None, gone)
        # what is neither text nor number is no version; the engine says so
        return Record(stream, whole or "", line, _text(raw) or "?", gone)

    return read


def _path(pointer: str) -> tuple[str, ...]:
    """A field's name, or a JSON pointer (RFC 6901)."""
    if not pointer.startswith("/"):
        return (pointer,)
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/"))


def _struct(paths: Sequence[tuple[str, ...]]) -> Any:
    """A type with just these fields; whatever else a document has is passed over."""
    if () in paths:
        return msgspec.Raw
    names = list(dict.fromkeys(path[0] for path in paths))
    fields: list[tuple[str, Any, Any]] = []
    for number, name in enumerate(names):
        inner = _struct([path[1:] for path in paths if path[0] == name])
        default = msgspec.Raw(b"") if inner is msgspec.Raw else None
        fields.append((f"f{number}", inner if inner is msgspec.Raw else inner | None, default))
    renamed = {f"f{number}": name for number, name in enumerate(names)}
    made = msgspec.defstruct("Fields", fields, rename=renamed)
    made.places = {name: f"f{number}" for number, name in enumerate(names)}  # type: ignore[attr-defined]
    return made


def _value(found: Any, path: tuple[str, ...]) -> bytes:
    """The JSON at this place, empty where there is none."""
    for name in path:
        if found is None:
            return b""
        found = getattr(found, type(found).places[name])
    return bytes(found) if found is not None else b""


_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def _text(raw: bytes) -> str | None:
    """A text or number as text, as it stands there; None for whatever else."""
    if raw.startswith(b'"'):
        try:
            return msgspec.json.decode(raw, type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
    return raw.decode() if _NUMBER.fullmatch(raw) else None


def _problem(line: bytes) -> str:
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "not_json"
    return "no_key" if isinstance(found, dict) else "not_an_object"
