"""What the config file says of a source `klanten`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from usersync_cli.clients.klanten.paths import misfit
from usersync_cli.settings import UNSET, Address, FieldError, in_clear_text

_Url = Annotated[str, Address("must be an address such as https://klanten.example.org, without /v1")]
_KEY = re.compile(r"[!-~]{1,300}")
_STREAM = re.compile(r"[a-z][a-z0-9_]{0,40}")


class Settings(BaseModel):
    """A Klanten, and which of its apps are read."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, coerce_numbers_to_str=True)

    type: Literal["klanten"]
    url: _Url = Field(description="of the service, such as https://klanten.example.org, without /v1")
    api_key: str = Field(repr=False, description="as Klanten showed it when it was made, without `Api-Key` before it")
    streams: dict[str, str] = Field(min_length=1, description="name of a stream: Klanten's name of the app whose ids it has")
    known: dict[str, str] = Field(
        {},
        description="Klanten's name of an app: an id of it that Klanten has, to tell an outage from an unknown id while none was found",
    )
    workers: int = Field(4, ge=1, le=32, description="requests at the same time; with 1 there are as few as can be")
    ca: Path | None = Field(None, description="a file of certificates (PEM) instead of the public ones, relative to the config file")
    allow_http: bool = Field(default=False, description="allow an address of another machine that begins with http://")

    @field_validator("url")
    @classmethod
    def _is_before_the_routes(cls, value: str) -> str:
        if value.endswith("/v1"):
            raise FieldError("ends with /v1, which usersync adds; take it off")
        return value

    @field_validator("api_key")
    @classmethod
    def _fits_into_a_header(cls, value: str) -> str:
        if not _KEY.fullmatch(value):
            raise FieldError("must be a key of Klanten, letters, digits and signs of ASCII, without `Api-Key` before it")
        return value

    @field_validator("streams")
    @classmethod
    def _are_apps(cls, value: dict[str, str]) -> dict[str, str]:
        seen: dict[str, str] = {}
        for stream, app in value.items():
            if not _STREAM.fullmatch(stream):
                raise FieldError("must be a name of lower-case letters, digits and _, a letter first: it is part of a table's", (stream,))
            _refuse_misfit(app, "the name of an app", stream)
            if other := seen.get(app):
                raise FieldError(f"is the app of stream {other} already", (stream,))
            seen[app] = stream
        return value

    @field_validator("known")
    @classmethod
    def _can_be_asked_for(cls, value: dict[str, str]) -> dict[str, str]:
        for app, id_ in value.items():
            _refuse_misfit(app, "the name of an app", app)
            _refuse_misfit(id_, "an id", app)
        return value

    @field_validator("ca")
    @classmethod
    def _is_beside_the_config(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        folder = (info.context or {}).get("folder")
        return Path(folder, value).absolute() if folder and value else value

    @model_validator(mode="after")
    def _is_encrypted(self) -> Settings:
        if in_clear_text(self.url) and not self.allow_http:
            raise FieldError("begins with http://: the key could be read on its way; say https://, or allow_http: true", ("url",))
        return self


def _refuse_misfit(text: str, what: str, at: str) -> None:
    if not text.startswith(UNSET) and (why := misfit(text)):
        raise FieldError(f"must be {what} as a part of Klanten's paths: {why}", (at,))


def streams_of(given: Mapping[str, Any]) -> list[str]:
    """The streams that the source's part of the config file names, mistakes in it left out."""
    streams = given.get("streams")
    return [name for name in streams if isinstance(name, str)] if isinstance(streams, dict) else []


def place_of(url: str) -> str:
    """What messages call the service: the same for all ways to write its address."""
    parts = urlsplit(url)
    port = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return f"Klanten at {parts.netloc.lower().removesuffix(port)}{parts.path}"
