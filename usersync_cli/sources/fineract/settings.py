"""What the config file says of a tenant of Fineract."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from usersync_cli.settings import Address, FieldError, in_clear_text

_Url = Annotated[str, Address("must be an address such as https://HOST/fineract-provider/api/v1, without a user, ? or #")]


class Settings(BaseModel):
    """A tenant of an Apache Fineract, and who reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["fineract"]
    url: _Url = Field(description="Fineract's API: https://HOST/fineract-provider/api/v1")
    tenant: str = Field("default", description="the identifier of the tenant")
    username: str | None = Field(None, description="who reads; beside a token only to see whether that user is in the right office")
    password: str | None = Field(None, repr=False, description="of that user")
    token: str | None = Field(None, repr=False, description="a bearer token, instead of a password")
    office: int = Field(1, ge=1, description="the id of the office that who reads has to be in: the head office, which sees all users")
    exclude: list[str] = Field(
        ["system", "interopUser", "mifos"], description="user names that are left alone, in any case; by default the API user is one too"
    )
    self_service_users: bool = Field(default=False, description="whether the bank's customers who may log in count as users")
    ca: Path | None = Field(None, description="a file of certificates (PEM) instead of the public ones, relative to the config file")
    allow_http: bool = Field(default=False, description="allow an address of another machine that begins with http://")

    @field_validator("tenant")
    @classmethod
    def _fits_into_a_header(cls, value: str) -> str:
        if not re.fullmatch(r"[!-~]{1,100}", value):
            raise FieldError("must be the identifier of a tenant, such as default: letters, digits and signs of ASCII")
        return value

    @field_validator("ca")
    @classmethod
    def _is_beside_the_config(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        folder = (info.context or {}).get("folder")
        return Path(folder, value).absolute() if folder and value else value

    @property
    def left_alone(self) -> set[str]:
        """User names of `exclude`, casefolded; by default that of the API user too, who is staff to nobody."""
        reader = [self.username] if self.username and "exclude" not in self.model_fields_set else []
        return {name.casefold() for name in (*self.exclude, *reader)}

    @model_validator(mode="after")
    def _has_one_way_to_log_in(self) -> Settings:
        if self.token and self.password:
            raise FieldError("is one too many beside a token", ("password",))
        if not self.token and not (self.username and self.password):
            raise FieldError("needs username and password, or a token")
        return self

    @model_validator(mode="after")
    def _is_encrypted(self) -> Settings:
        if in_clear_text(self.url) and not self.allow_http:
            raise FieldError(
                "would send passwords and people in clear text; use https://, or say allow_http: true inside a network you trust", ("url",)
            )
        return self


def credentials(settings: Settings) -> str:
    if settings.token:
        return f"Bearer {settings.token}"
    return "Basic " + base64.b64encode(f"{settings.username}:{settings.password}".encode()).decode()


def place_of(url: str) -> str:
    """Host and path: where it is, however one gets there."""
    parts = urlsplit(url)
    port = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return f"{parts.netloc.lower().removesuffix(port)}{parts.path}"
