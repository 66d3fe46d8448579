"""What the config file says about an environment of WorkOS."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from usersync_cli.settings import UNSET, Address, Duration, FieldError, in_clear_text

LONGEST = timedelta(days=90)  # WorkOS keeps no event longer
_Url = Annotated[str, Address("must be an address such as https://api.workos.com")]
_KEY = re.compile(r"[!-~]{1,300}")
_TYPE = re.compile(r"[a-z0-9_]{1,60}(?:\.[a-z0-9_]{1,60}){1,4}")


class Settings(BaseModel):
    """An environment of WorkOS, which is that of its API key."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["workos"]
    api_key: str = Field(repr=False, description="a secret key of the environment (sk_...); one that may only read is enough for a job")
    api_url: _Url = Field("https://api.workos.com", description="WorkOS's API; http:// only on this machine, for an emulator")
    retention: Duration = Field(
        timedelta(days=30),
        description="how long WorkOS keeps events; after a longer pause everything is listed. A warning comes at half of it",
        json_schema_extra={"default": "30d"},
    )
    full_every: Duration = Field(
        timedelta(days=1),
        description="how often everything is listed and compared, for what no event reports, such as last_sign_in_at",
        json_schema_extra={"default": "1d"},
    )
    event_types: list[str] = Field(
        [], description="which types of events the stream `events` archives; empty: all that usersync knows, which are those of 2026"
    )
    workers: int = Field(8, ge=1, le=32, description="requests at the same time, where each organization is asked by itself")

    @field_validator("api_key")
    @classmethod
    def _fits_into_a_header(cls, value: str) -> str:
        if not _KEY.fullmatch(value):
            raise FieldError("must be a secret key of WorkOS, such as sk_live_...: letters, digits and signs of ASCII")
        return value

    @field_validator("api_url")
    @classmethod
    def _is_encrypted(cls, value: str) -> str:
        if in_clear_text(value):
            raise FieldError("would send the key and people in clear text; use https://")
        return value

    @field_validator("retention")
    @classmethod
    def _is_kept_so_long(cls, value: timedelta) -> timedelta:
        if not timedelta(hours=1) <= value <= LONGEST:
            raise FieldError(f"must be from 1h to {LONGEST.days}d, which is how long WorkOS keeps events")
        return value

    @field_validator("event_types")
    @classmethod
    def _are_types(cls, value: list[str]) -> list[str]:
        for number, one in enumerate(value):
            if not _TYPE.fullmatch(one) and not one.startswith(UNSET):
                raise FieldError("must be a type of event such as session.created", (number,))
        return list(dict.fromkeys(value))


def place_of(url: str) -> str:
    """The host, with its port where that is not the usual one: where it is, however one gets there."""
    parts = urlsplit(url)
    port = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return f"{parts.netloc.lower().removesuffix(port)}{parts.path}"
