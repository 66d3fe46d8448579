"""What the `Settings` of a source or target are made of: types of their fields, and the error that names the wrong one.

A vendor's folder imports this and nothing else of the config file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the top of the file: ("jobs", "auroville", "steps", 0)."""

UNSET = "usersync_unset_"
"""Begins the stand-in for a value that cannot be had. It passes as a name, so that the rest of the file can be checked."""

_ADDRESS = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^[0-9.]+\s*[smhd]?$|\$\{"}]}
"""For editors: `60s`, `2h`, bare seconds, or a variable."""


class Model(BaseModel):
    """Unknown keys are mistakes, nothing changes after reading, and pydantic's messages hold no values."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class FieldError(ValueError):
    """Raised by a validator of ours: the text is shown as it is. `at` leads from the validated value to the wrong one."""

    def __init__(self, text: str, at: Path = ()) -> None:
        super().__init__(text)
        self.at = at


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(known), n=1)), None)


def suggestion(word: str, known: Sequence[str]) -> str:
    """`; did you mean "table"?`, or the known words when none is near."""
    if meant := closest(word, known):
        return f'; did you mean "{meant}"?'
    return f"; known: {', '.join(known)}" if known else ""


def duration(value: object) -> timedelta:
    """`60s`, `50m`, `2h`, `7d` or bare seconds. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    text = str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    if not (match := _DURATION.fullmatch(text)):
        raise FieldError("must be a time such as 60s, 50m, 2h or 7d")
    try:
        return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    except OverflowError:
        raise FieldError("is too long a time") from None


def plain_name(value: str) -> str:
    """The names of jobs, sources and environments."""
    if not _NAME.fullmatch(value):
        raise FieldError("must be a name of lower-case letters, digits, _ and -, a letter first, 63 at most")
    return value


@dataclass(frozen=True)
class Address:
    """An http(s) address without a user, a query or a fragment, as `Annotated[str, Address("must be ...")]`.

    `mistake` is what a person reads who wrote something else. A slash at the end is taken off.
    """

    mistake: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.read, handler(source))

    def read(self, value: str) -> str:
        """The address without a slash at its end. Raises FieldError with `mistake`."""
        if value.startswith(UNSET):
            return value
        if not _ADDRESS.fullmatch(value):
            raise FieldError(self.mistake)
        return value.rstrip("/")


def in_clear_text(address: str) -> bool:
    """Whether others could read what is sent to this address: it begins with http:// and is not on this machine."""
    try:
        parts = urlsplit(address)
        return parts.scheme == "http" and parts.hostname != "localhost" and not ip_address(parts.hostname or "").is_loopback
    except ValueError:  # a name, or no host at all
        return address.startswith("http:")


Duration = Annotated[timedelta, BeforeValidator(duration), WithJsonSchema(DURATION_SCHEMA)]
Name = Annotated[str, AfterValidator(plain_name)]
