"""The source `file`: JSON Lines, one document a line, in one or several files for each stream; gzip by the suffix .gz.

What the files hold is all there is: each reading is a complete listing. A reading that was interrupted goes on at its
line as long as the files are the same (names, sizes, times of change); otherwise it begins again. Only plain files are
read: nothing that has to be waited for, such as a named pipe, whose content could not be read a second time either.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import itertools
import os
import re
import stat
import time
import uuid
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from usersync_cli.errors import ConfigError, Drift, Unavailable
from usersync_cli.load.stage import key_of
from usersync_cli.model import Cursor, Documents, Page, Record, Stream, Tools
from usersync_cli.settings import FieldError, Name
from usersync_cli.signals import Stop
from usersync_cli.sources.file.formats import Gunzip, may_continue, mistaken_for, says_deleted

KIND = "documents"

PAGE_RECORDS = 2000
PAGE_BYTES = 4_000_000  # lines may be long
LONGEST_LINE = 64_000_000
BREATH_BYTES = 1_000_000  # read between two looks at whether the run has to end
HEAD_BYTES = 4096  # of a file, that say what it is
WRITTEN_SECONDS = 3600  # a file that nobody has written to for so long is not being written


class FileStream(BaseModel):
    """One kind of record: which files, and where in a document its key, version and deletion stand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="a file or a pattern such as people-*.jsonl, relative to the config file")
    key: str | list[str] = Field(description="the field that says who it is, a JSON pointer (/person/id), or several of them")
    version: str | None = Field(None, description="the field that grows when a record changes, such as updated_at")
    version_type: Literal["time", "number"] = Field("time", description="what a version is")
    deleted: str | None = Field(
        None, description="the field that says that a record is gone: true, 1, yes, or the time; not when it is false, null, 0, no or empty"
    )

    @field_validator("path")
    @classmethod
    def _is_beside_the_config(cls, value: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("folder")
        if not value or "\0" in value:
            raise FieldError("must be the name of a file, or a pattern such as people-*.jsonl")
        return str(Path(folder, value).absolute()) if folder else value

    @field_validator("key", mode="before")
    @classmethod
    def _is_a_key(cls, value: Any) -> Any:
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
            raise FieldError("must name a field, or several different ones in a list")
        return value

    @field_validator("key", "version", "deleted")
    @classmethod
    def _are_places(cls, value: str | list[str] | None) -> str | list[str] | None:
        for name in value if isinstance(value, list) else [value]:
            if name == "" or (name and name.startswith("/") and re.search("~(?![01])", name)):
                raise FieldError("must be a field's name, or a JSON pointer such as /person/id (with ~1 for / and ~0 for ~ in a name)")
        return value

    @model_validator(mode="after")
    def _stand_beside_each_other(self) -> FileStream:
        """A text or number has nothing inside it."""
        places = [("key", _path(key)) for key in self.keys]
        places += [(name, _path(given)) for name, given in (("version", self.version), ("deleted", self.deleted)) if given]
        for name, one in places:
            if any(one != other and one[: len(other)] == other for _, other in places):
                raise FieldError("names a place inside another field that is read as a text or number", (name,))
        return self

    @model_validator(mode="after")
    def _is_typed_for_a_reason(self) -> FileStream:
        if self.version is None and "version_type" in self.model_fields_set:
            raise FieldError('has an effect only beside "version"', ("version_type",))
        return self

    @property
    def keys(self) -> list[str]:
        """The parts of the key."""
        return [self.key] if isinstance(self.key, str) else self.key


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

    def reads(self, stream: str) -> str:
        """Which files, and which of their fields say who it is and whether they are gone."""
        return repr(self._streams[stream])

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Session]:
        """The file that is being read is closed with the session."""
        session = Session(self.name, self._streams, tools.stop)
        try:
            yield session
        finally:
            session.close()


class Session:
    """The files as they are now. `account` is the folder that they all stand in."""

    snapshot = True

    def __init__(self, name: str, streams_: Mapping[str, FileStream], stop: Stop) -> None:
        self._name = name
        self._streams = streams_
        self._stop = stop
        self._reading: list[Generator[Page, None, None]] = []
        self._closed = False
        self.numbered = {stream for stream, settings in streams_.items() if settings.version_type == "number"}
        self.account = os.path.commonpath([_folder(settings.path) for settings in streams_.values()])

    def close(self) -> None:
        """Close the file that is half read."""
        self._closed = True
        for pages in self._reading:
            pages.close()

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Iterator[Page]:
        """Each stream's files in the order of their names, 2000 lines a page. Raises Unavailable when files are missing, or
        change while they are read."""
        for stream in streams:
            if stream.name not in self._streams:
                raise Drift(f"source {self._name} has no stream {stream.name}", hint=f"its streams: {', '.join(self._streams)}")
            where = f"source {self._name}, stream {stream.name}"
            self._reading = [_Listing(where, stream.name, self._streams[stream.name], self._stop).pages(since.get(stream.name))]
            yield from self._reading[0]
            if self._closed:
                raise Unavailable(f"{where}: closed in the middle of it")

    def look(self, stream: str) -> str:
        """How many files there are of it. Raises what `pages` would when they are missing, may not be read, or begin like
        something else."""
        if stream not in self._streams:
            raise Drift(f"source {self._name} has no stream {stream}", hint=f"its streams: {', '.join(self._streams)}")
        number = _Listing(f"source {self._name}, stream {stream}", stream, self._streams[stream], self._stop).try_files()
        return f"{number} file{'s' if number > 1 else ''}"


@dataclass(frozen=True)
class _Place:
    """A line: where it ends."""

    file: int
    offset: int
    line: int


class _Listing:
    """One stream's files, once through."""

    def __init__(self, where: str, stream: str, settings: FileStream, stop: Stop) -> None:
        self._where, self._stream, self._settings, self._stop = where, stream, settings, stop
        self._read = _reader(stream, settings)
        self._files = self._find()
        self._state = self._look()

    def _find(self) -> list[str]:
        path = self._settings.path
        with self._told(path):
            found = [path] if Path(path).exists() else self._fitting(path) if glob.has_magic(path) else []
        if not found:
            raise Unavailable(f"{self._where}: there is no file {path}", hint="is the export late, or the path misspelt?")
        return found

    def _fitting(self, pattern: str) -> list[str]:
        """The files of a pattern. Raises ConfigError for a folder that may not be read, whose files would seem to be gone."""
        whole = _folder(pattern)
        for folder in [one for one in Path(pattern).parents if whole in (one, *one.parents)]:
            for one in glob.glob(str(folder), recursive=True):  # noqa: PTH207  Path.glob wants a folder
                if Path(one).is_dir() and not os.access(one, os.R_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), one)
        return sorted(set(glob.glob(pattern, recursive=True)))  # noqa: PTH207

    def _look(self) -> str:
        """What changes when a file does, or how it is read."""
        state = [repr(self._settings)]
        for file in self._files:
            with self._told(file):
                seen = Path(file).stat()
            if not stat.S_ISREG(seen.st_mode):
                raise ConfigError(
                    f"{self._where}: {file} is {_KINDS.get(stat.S_IFMT(seen.st_mode), 'no file')}, and only plain files are read",
                    hint="give the path of a file, or a pattern that only files fit",
                )
            state.append(f"{file}|{seen.st_ino}|{seen.st_size}|{seen.st_mtime_ns}")
        return hashlib.blake2b("\n".join(state).encode(errors="surrogateescape"), digest_size=16).hexdigest()

    def _breathe(self) -> None:
        """Whoever reads a long file is alive, and ends when the run has to."""
        self._stop.check()
        self._stop.heard = time.monotonic()

    def try_files(self) -> int:
        """Whether all of them may be read and begin like JSON Lines; gives how many there are."""
        for file in self._files:
            with self._told(file), _opened(file) as lines:
                self._refuse_other_formats(file, lines)
        return len(self._files)

    def pages(self, since: Cursor | None) -> Generator[Page, None, None]:
        sweep, at = uuid.uuid4().hex, _Place(0, 0, 0)
        if since and since.get("files") == self._state and not since.get("done"):
            sweep, at = str(since["sweep"]), _Place(int(since["file"]), int(since["offset"]), int(since["line"]))
        page: list[Record] = []
        size, bad, good = 0, 0, at.line
        for place, line in self._lines(at):
            if len(page) >= PAGE_RECORDS or size >= PAGE_BYTES:
                cursor = {"sweep": sweep, "files": self._state, "file": at.file, "offset": at.offset, "line": at.line}
                yield Page(Documents(page), cursor, complete=False, streams=(self._stream,), sweep=sweep)
                page, size = [], 0
            at = place
            if line:
                page.append(self._read(line))
                size += len(line)
                bad, good = (bad, good + 1) if page[-1].key else (bad + 1, good)
        if self._find() != self._files or self._look() != self._state:
            raise Unavailable(f"{self._where}: a file was changed while it was read", hint="the next run reads it again")
        if bad and not good:
            raise Drift(
                f"{self._where}: {bad:,} line{'s' if bad > 1 else ''}, and none is a document with a key"
                f" ({', '.join(self._settings.keys)})",
                hint="is each line one JSON document, and is that the name of its key? Change `key` or the export; nothing was removed",
            )
        cursor = {"sweep": sweep, "files": self._state, "done": True}
        yield Page(Documents(page), cursor, complete=True, streams=(self._stream,), sweep=sweep)

    def _lines(self, at: _Place) -> Iterator[tuple[_Place, bytes]]:
        """Each line without its end, and the place after it; empty for a blank one."""
        for number in range(at.file, len(self._files)):
            offset, line = (at.offset, at.line) if number == at.file else (0, 0)
            with self._told(self._files[number]), _opened(self._files[number]) as lines:
                self._refuse_other_formats(self._files[number], lines)
                self._skip(lines, offset)
                breath = offset
                while text := lines.readline(LONGEST_LINE):
                    offset, line = offset + len(text), line + 1
                    if offset >= breath or line % PAGE_RECORDS == 0:
                        self._breathe()
                        breath = offset + BREATH_BYTES
                    stripped = text.removeprefix(b"\xef\xbb\xbf").strip() if line == 1 else text.strip()
                    if not text.endswith(b"\n"):
                        self._check_the_end(stripped, len(text), self._files[number], line)
                    yield _Place(number, offset, line), stripped

    def _refuse_other_formats(self, file: str, lines: io.BufferedReader) -> None:
        """What can never be JSON Lines is not waited for."""
        if (found := mistaken_for(lines.peek(HEAD_BYTES)[:HEAD_BYTES])) is not None:
            what, help_ = found
            raise Drift(f"{self._where}: {file} is {what}, not JSON Lines", hint=help_)

    def _skip(self, lines: io.BufferedReader, offset: int) -> None:
        """To this place; what is compressed has to be read up to there."""
        if lines.seekable():
            lines.seek(offset)
            return
        left = offset
        while left > 0 and (skipped := len(lines.read(min(left, BREATH_BYTES)))):
            left -= skipped
            self._breathe()

    def _check_the_end(self, text: bytes, size: int, file: str, line: int) -> None:
        """A last line may lack its end. One that can still become a document is being written; another is a bad record."""
        where = f"{self._where}: {file}:{line}"
        if size >= LONGEST_LINE:
            raise Drift(f"{where}: a line is longer than {LONGEST_LINE:,} bytes", hint="is it one document a line?")
        if text.endswith(b"\0"):
            raise Drift(f"{where}: the file ends in zeroes, as a crash leaves them", hint="write the export again; nobody was removed")
        if not text or not _problem(text) or not may_continue(text):
            return
        raise self._cut_off(file, f"{where}: the file ends in the middle of a line")

    def _cut_off(self, file: str, what: str) -> Unavailable | Drift:
        """What lacks its end is waited for only while somebody may be writing it."""
        hours = (time.time() - Path(file).stat().st_mtime) / 3600
        if hours * 3600 > WRITTEN_SECONDS:
            return Drift(
                f"{what}, and nobody has written to it for {hours:,.0f} hours",
                hint="it was cut off: write the export again. What was read before stays, nobody was removed",
            )
        return Unavailable(what, hint="it is still being written, or was cut off; the next run reads it again. What was read before stays")

    @contextmanager
    def _told(self, file: str) -> Iterator[None]:
        """What the operating system or gzip says, in our words."""
        try:
            yield
        except FileNotFoundError as error:
            raise Unavailable(f"{self._where}: {file} is gone", hint="the next run looks for it again") from error
        except PermissionError as error:
            raise ConfigError(
                f"{self._where}: {error.filename or file} may not be read",
                hint="give the user that runs usersync the right to read it, and to enter its folders",
            ) from error
        except EOFError as error:
            raise self._cut_off(file, f"{self._where}: {file} ends too early") from error
        except zlib.error as error:
            raise Drift(
                f"{self._where}: {file} is not what gzip writes, or not all of it is",
                hint="only files that gzip wrote may end in .gz; is it damaged, or padded with zeroes? Write it again",
            ) from error
        except OSError as error:
            raise Unavailable(f"{self._where}: {file} can't be read: {error.strerror}", hint="the next run tries again") from error


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _folder(path: str) -> Path:
    """The folder that a path is in, or all that a pattern can find."""
    parents = [*reversed(Path(path).absolute().parents)]
    return next((above for above, one in itertools.pairwise(parents) if glob.has_magic(one.name)), parents[-1])


def _opened(file: str) -> io.BufferedReader:
    lines = Path(file).open("rb")  # noqa: SIM115  the caller closes it
    return io.BufferedReader(Gunzip(lines), BREATH_BYTES) if file.endswith(".gz") else lines


# what a line says of itself


def _reader(stream: str, settings: FileStream) -> Callable[[bytes], Record]:
    """From a line to its record, by a struct of just the fields that are needed: the document itself is not parsed into objects."""
    paths = [_path(key) for key in settings.keys]
    version = _path(settings.version) if settings.version else None
    deleted = _path(settings.deleted) if settings.deleted else None
    decoder = msgspec.json.Decoder(_struct([path for path in (*paths, version, deleted) if path]))

    def read(line: bytes) -> Record:
        try:
            found = decoder.decode(line)
        except msgspec.ValidationError:
            if problem := _problem(line):
                return Record(stream, "", line, problem=problem)
            found = line  # one of the places is inside of what is no object
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Record(stream, "", line, problem=_problem(line) or "not_json")
        key = [_text(_value(found, path)) for path in paths]
        if not all(key):
            return Record(stream, "", line, problem=_problem(line) or "no_key")
        whole = (key[0] if len(key) == 1 else key_of([part or "" for part in key])) or ""
        gone = says_deleted(_value(found, deleted)) if deleted else False
        if gone is None:
            return Record(stream, whole, line, problem=_problem(line) or "deleted_unclear")
        raw = _value(found, version) if version else b""
        if raw in (b"", b"null"):
            return Record(stream, whole, line, None, gone)
        # what is neither text nor number is no version, and no number is a time; the engine says so
        odd = settings.version_type == "time" and not raw.startswith(b'"')
        return Record(stream, whole, line, "?" if odd else _text(raw) or "?", gone)

    return read


def _path(pointer: str) -> tuple[str, ...]:
    """A field's name, or a JSON pointer (RFC 6901) through objects."""
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
    """The JSON at this place of a struct, or of a line, empty where there is none."""
    for name in path:
        if found is None:
            return b""
        if isinstance(found, (bytes, msgspec.Raw)):
            try:
                found = msgspec.json.decode(found, type=dict[str, msgspec.Raw]).get(name)
            except msgspec.ValidationError:
                return b""
        else:
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
    """What keeps a line from being a document; empty when nothing does."""
    try:
        found = msgspec.json.decode(line)
    except RecursionError:
        return "too_deep"
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "not_json"
    return "" if isinstance(found, dict) else "not_an_object"
