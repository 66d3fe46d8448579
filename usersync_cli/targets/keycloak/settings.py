"""What the config file says of a target `keycloak`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from usersync_cli.settings import UNSET, Address, Duration, FieldError, in_clear_text

ROLES = {
    "Account Manager": "account-manager", "Loan Officer": "loan-officer", "Branch Manager": "branch-manager", "Accountant": "accountant",
    "Cashier": "teller", "System Administrator": "admin", "Super User": "Super User", "Admin": "admin", "Manager": "Manager",
    "Viewer": "Viewer", "KYC Manager": "KYC_MANAGER", "Asset Manager": "ASSET_MANAGER",
}  # fmt: skip
GROUPS = {
    "admin": "head-office", "Super User": "head-office", "Manager": "head-office", "Viewer": "head-office", "KYC_MANAGER": "head-office",
    "ASSET_MANAGER": "head-office", "staff": "head-office", "account-manager": "account-managers", "loan-officer": "loan-officers",
    "branch-manager": "branch-managers", "teller": "tellers",
}  # fmt: skip
ACTIONS = ("UPDATE_PASSWORD", "VERIFY_EMAIL", "webauthn-register")
_Url = Annotated[str, Address("must be an address such as https://sso.example.org")]


class Settings(BaseModel):
    """A realm of a Keycloak 26, and the client that looks after its accounts."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["keycloak"]
    url: _Url = Field(description="of the server, such as https://sso.example.org; with /auth where it is an old one")
    realm: str = Field(min_length=1, description="whose accounts are looked after")
    client_id: str = Field(min_length=1, description="a client of the realm with a service account")
    client_secret: str = Field(min_length=1, repr=False, description="of that client")
    ca: str | None = Field(None, description="a file with the certificates to trust instead of the public ones")
    allow_http: bool = Field(default=False, description="http:// also to other hosts than this one")
    adopt: Literal["never", "by_username", "by_email_verified"] = Field(
        "never", description="which accounts of people that are there already become ours; of all others a person decides"
    )
    roles: dict[str, str] = Field(default_factory=lambda: dict(ROLES), description="source's role: realm role, in any case")
    groups: dict[str, str] = Field(default_factory=lambda: dict(GROUPS), description="realm role: group, a name or /path/to/it")
    default_role: str | None = Field(None, description="realm role for roles that the map lacks; without it they are conflicts")
    extra_roles: Literal["report", "remove"] = Field(
        "report", description="mapped roles and groups that somebody else gave: a conflict for a person, or taken away"
    )
    create_missing: bool = Field(default=False, description="make roles, groups and the attribute usersync_id where the realm lacks them")
    required_actions: list[str] = Field(default_factory=lambda: list(ACTIONS), description="of new accounts, at their first login")
    email_verified: bool = Field(default=True, description="take e-mail addresses for verified; then Keycloak asks nobody to VERIFY_EMAIL")
    notify: Literal["none", "email"] = Field("none", description="email: the realm mails new people a link to their required actions")
    link_lifespan: Duration = Field(
        timedelta(hours=24), description="how long the link in a mail is good", json_schema_extra={"default": "24h"}
    )
    workers: int = Field(4, ge=1, le=16, description="calls at the same time; the server hashes passwords on all of its cores")

    @field_validator("ca")
    @classmethod
    def _is_beside_the_config(cls, value: str | None, info: ValidationInfo) -> str | None:
        folder = (info.context or {}).get("folder")
        return str(Path(folder, value).absolute()) if folder and value and not value.startswith(UNSET) else value

    @field_validator("roles")
    @classmethod
    def _names_each_once(cls, value: dict[str, str]) -> dict[str, str]:
        seen: dict[str, str] = {}
        for name, role in value.items():
            if name.casefold() in seen:
                raise FieldError("is there twice: names of roles are compared without case", (name,))
            seen[name.casefold()] = role
            _refuse_default_roles(role, name)
        return value

    @field_validator("default_role")
    @classmethod
    def _is_no_default_role(cls, value: str | None) -> str | None:
        if value:
            _refuse_default_roles(value)
        return value

    @model_validator(mode="after")
    def _is_encrypted(self) -> Settings:
        if in_clear_text(self.url) and not self.allow_http:
            said = "begins with http://: the client's secret could be read on its way; say https://, or allow_http: true"
            raise FieldError(said, ("url",))
        return self

    @property
    def managed_roles(self) -> list[str]:
        """Realm roles that may be given."""
        return list(dict.fromkeys([*self.roles.values(), *([self.default_role] if self.default_role else [])]))

    @property
    def managed_groups(self) -> list[str]:
        """Paths of groups that people may join."""
        return list(dict.fromkeys(group_path(group) for group in self.groups.values()))


def _refuse_default_roles(role: str, *at: str) -> None:
    if role.startswith("default-roles-"):
        raise FieldError("is the role that Keycloak itself gives everybody; choose another", at)


def group_path(group: str) -> str:
    """A group's path in the realm: /group for one that is named without its parents."""
    return group if group.startswith("/") else f"/{group}"


def place(settings: Settings) -> str:
    """What messages call the realm; the same for all ways to write its address."""
    parts = urlsplit(settings.url.lower())
    port = "" if parts.port in {None, {"http": 80, "https": 443}.get(parts.scheme)} else f":{parts.port}"
    return f"realm {settings.realm} of {parts.hostname}{port}{parts.path.rstrip('/')}"
