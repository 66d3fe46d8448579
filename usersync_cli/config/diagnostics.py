"""Mistakes in the config file: where each one stands and what to do about it, in our words instead of pydantic's.

No message holds a value of the file, which may be a secret: only keys, and names of jobs, sources and streams.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_origin

from usersync_cli.errors import ConfigError
from usersync_cli.settings import FieldError, Path, closest, suggestion

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

_AT_MOST = 20
# What a key may look like to be shown. Text in the wrong column becomes a key too, and may be a password or a URL.
_SHOWABLE = re.compile(r"[\w.\- {}]{1,63}")


@dataclass(frozen=True, order=True)
class Mistake:
    """One mistake; line and column count from 1."""

    line: int
    column: int
    path: str  # jobs.auroville.steps[0].load; empty for the whole file
    text: str

    def show(self, file: str) -> str:
        """`config.yaml:12:7: jobs.auroville: ...`, as compilers write it, so that editors can jump there."""
        return f"{file}:{self.line}:{self.column}: {self.path + ': ' if self.path else ''}{self.text}"


class Mistakes(ConfigError):
    """All mistakes of one file at once, in the order of its lines."""

    def __init__(self, file: str, found: Iterable[Mistake]) -> None:
        self.file = file
        self.found = tuple(sorted(set(found)))
        lines = [mistake.show(file) for mistake in self.found[:_AT_MOST]]
        if len(self.found) > 1:
            lines.insert(0, f"{file}: {len(self.found)} mistakes")
        if len(self.found) > _AT_MOST:
            lines.append(f"... and {len(self.found) - _AT_MOST} more")
        super().__init__("\n".join(lines))


def show_key(key: str) -> str:
    """The key in quotes, unless it looks like text that slipped into a key's place."""
    return f'"{key}"' if _SHOWABLE.fullmatch(key) else "(not shown: it does not look like a key)"


def show_path(path: Path) -> str:
    """`jobs.auroville.steps[0].load`"""
    shown = ""
    for step in path:
        if isinstance(step, int):
            shown += f"[{step}]"
        else:
            shown += ("." if shown else "") + (step if _SHOWABLE.fullmatch(step) else "?")
    return shown


def in_our_words(errors: Iterable[ErrorDetails], model: type[BaseModel]) -> list[tuple[Path, bool, str]]:
    """Each of pydantic's errors as (path, whether the key itself is meant, text)."""
    errors = list(errors)
    meant = {_meant(error, model) for error in errors if error["type"] == "extra_forbidden"}
    # A misspelt required key is one mistake, not "unknown" and "missing".
    return [_put(error, model) for error in errors if not (error["type"] == "missing" and error["loc"] in meant)]


def _meant(error: ErrorDetails, model: type[BaseModel]) -> Path:
    *parent, key = error["loc"]
    return (*parent, closest(str(key), _fields(model, tuple(parent))) or "")


def _put(error: ErrorDetails, model: type[BaseModel]) -> tuple[Path, bool, str]:
    path, kind = error["loc"], error["type"]
    if kind == "extra_forbidden":
        key = str(path[-1])
        return path, True, f"unknown key {show_key(key)}{suggestion(key, _fields(model, path[:-1]))}"
    if kind == "missing":
        return path[:-1], False, f'key "{path[-1]}" is missing'
    if kind == "value_error":
        return _raised(error)
    return path, False, _words(kind, error["input"], error.get("ctx", {}))


def _raised(error: ErrorDetails) -> tuple[Path, bool, str]:
    cause = error["ctx"]["error"]
    path = error["loc"] + (cause.at if isinstance(cause, FieldError) else ())
    if path[-1:] == ("[key]",):
        return path[:-1], True, f"{show_key(str(path[-2]))}: {cause}"
    return path, False, str(cause)


_WORDS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping (key: value)",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "list_type": "must be a list",
    "mapping_type": "must be a mapping (key: value)",
    "model_type": "must be a mapping (key: value)",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must be at most {max_length} characters long",
    "too_long": "must have at most {max_length} entries",
}
STRUCTURE = frozenset({"dict_type", "list_type", "mapping_type", "model_type", "tuple_type"})
"""A scalar stands where a list or mapping belongs: no variable can fix that."""

_KINDS = {dict: "a mapping", list: "a list", bool: "true or false", int: "a number", float: "a number", type(None): "nothing"}


def _words(kind: str, given: object, context: Mapping[str, Any]) -> str:
    if kind == "string_type":
        quoted = "; put it in quotes" if isinstance(given, (bool, int, float)) else ""
        return f"must be text, not {_KINDS.get(type(given), 'this')}{quoted}"
    if kind == "literal_error":
        return f"must be {context['expected']}".replace("'", '"')
    return _WORDS.get(kind, "is not valid here").format_map(context)


def _fields(annotation: Any, path: Path) -> list[str]:
    """The keys of the model that stands at this path below a type."""
    fields = getattr(annotation, "model_fields", None)
    if fields is None:
        is_container = get_origin(annotation) not in (None, *_UNIONS) and get_origin(annotation).__name__ != "Annotated"
        rest = path[1:] if is_container else path
        return next((found for inner in get_args(annotation) if (found := _fields(inner, rest))), [])
    if not path:
        return list(fields)
    return _fields(fields[path[0]].annotation, path[1:]) if path[0] in fields else []


def _unions() -> tuple[Any, ...]:
    from types import UnionType
    from typing import Union

    return Union, UnionType


_UNIONS = _unions()
