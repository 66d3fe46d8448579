"""What the config file says of a target `klanten`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from usersync_cli.settings import UNSET, Address, FieldError, in_clear_text

_Url = Annotated[str, Address("must be an address such as https://klanten.example.org, without /v1")]


class Settings(BaseModel):
    """A Klanten, and which of our apps it is to know."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["klanten"]
    url: _Url = Field(description="of the service, such as https://klanten.example.org, without /v1")
    api_key: str = Field(min_length=1, repr=False, description="as Klanten showed it when it was made")
    apps: dict[str, str] = Field(min_length=1, description="our app: its name at Klanten; ids of all other apps are not sent, and counted")
    ca: str | None = Field(None, description="a file with the certificates to trust instead of the public ones")
    allow_http: bool = Field(default=False, description="http:// also to other hosts than this one")
    workers: int = Field(4, ge=1, le=16, description="requests at the same time")

    @field_validator("url")
    @classmethod
    def _is_before_the_routes(cls, value: str) -> str:
        if value.endswith("/v1"):
            raise FieldError("ends with /v1, which usersync adds; take it off")
        return value

    @field_validator("ca")
    @classmethod
    def _is_beside_the_config(cls, value: str | None, info: ValidationInfo) -> str | None:
        folder = (info.context or {}).get("folder")
        return str(Path(folder, value).absolute()) if folder and value and not value.startswith(UNSET) else value

    @field_validator("apps")
    @classmethod
    def _are_names(cls, value: dict[str, str]) -> dict[str, str]:
        seen: dict[str, str] = {}
        for ours, theirs in value.items():
            if not ours or ":" in ours:
                raise FieldError("must be the name of an app, without a colon", (ours,))
            if not theirs or "/" in theirs or theirs in {".", ".."} or theirs != theirs.strip():
                raise FieldError(
                    "must be the name of an app of Klanten, as a part of its paths: without / and white space around it", (ours,)
                )
            if other := seen.get(theirs):
                raise FieldError(f"is the name of {other} already: the ids of two apps can't be told apart in one of Klanten's", (ours,))
            seen[theirs] = ours
        return value

    @model_validator(mode="after")
    def _is_encrypted(self) -> Settings:
        if in_clear_text(self.url) and not self.allow_http:
            raise FieldError("begins with http://: the key could be read on its way; say https://, or allow_http: true", ("url",))
        return self


def place(settings: Settings) -> str:
    """What messages call the service; the same for all ways to write its address."""
    parts = urlsplit(settings.url.lower())
    port = "" if parts.port in {None, {"http": 80, "https": 443}.get(parts.scheme)} else f":{parts.port}"
    return f"Klanten at {parts.hostname}{port}{parts.path.rstrip('/')}"
