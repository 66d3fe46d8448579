"""From a line to its record: its key, version and deletion, read without parsing the rest of the document into objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from usersync_cli.clients.postgres.rows import key_of
from usersync_cli.model import Record
from usersync_cli.sources.file.formats import says_deleted
from usersync_cli.sources.file.settings import FileStream, path_of


def reader(stream: str, settings: FileStream) -> Callable[[bytes], Record]:
    """From a line to its record, by a struct of just the fields that are needed: the document itself is not parsed into objects."""
    paths = [path_of(key) for key in settings.keys]
    version = path_of(settings.version) if settings.version else None
    deleted = path_of(settings.deleted) if settings.deleted else None
    decoder = msgspec.json.Decoder(_struct([path for path in (*paths, version, deleted) if path]))

    def read(line: bytes) -> Record:
        try:
            found = decoder.decode(line)
        except msgspec.ValidationError:
            if problem := problem_of(line):
                return Record(stream, "", line, problem=problem)
            found = line  # one of the places is inside of what is no object
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Record(stream, "", line, problem=problem_of(line) or "not_json")
        key = [_text(_value(found, path)) for path in paths]
        if not all(key):
            return Record(stream, "", line, problem=problem_of(line) or "no_key")
        whole = (key[0] if len(key) == 1 else key_of([part or "" for part in key])) or ""
        gone = says_deleted(_value(found, deleted)) if deleted else False
        if gone is None:
            return Record(stream, whole, line, problem=problem_of(line) or "deleted_unclear")
        raw = _value(found, version) if version else b""
        if raw in (b"", b"null"):
            return Record(stream, whole, line, None, gone)
        # what is neither text nor number is no version, and no number is a time; the engine says so
        odd = settings.version_type == "time" and not raw.startswith(b'"')
        return Record(stream, whole, line, "?" if odd else _text(raw) or "?", gone)

    return read


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


def problem_of(line: bytes) -> str:
    """What keeps a line from being a document; empty when nothing does."""
    try:
        found = msgspec.json.decode(line)
    except RecursionError:
        return "too_deep"
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "not_json"
    return "" if isinstance(found, dict) else "not_an_object"
