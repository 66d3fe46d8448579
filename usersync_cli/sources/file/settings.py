"""What the config file says of files: where they are, and which fields of a document are its key, its version and its deletion."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from usersync_cli.settings import FieldError, Name


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
        places = [("key", path_of(key)) for key in self.keys]
        places += [(name, path_of(given)) for name, given in (("version", self.version), ("deleted", self.deleted)) if given]
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


def path_of(pointer: str) -> tuple[str, ...]:
    """A field's name, or a JSON pointer (RFC 6901) through objects."""
    if not pointer.startswith("/"):
        return (pointer,)
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/"))
