"""What the config file says of an account of Teamleader."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from usersync_cli.settings import Address, Duration

if TYPE_CHECKING:
    from usersync_cli.auth import oauth as grants

_Url = Annotated[str, Address("must be an address that begins with https://")]


class Settings(BaseModel):
    """An account of Teamleader Focus, and the integration that reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["teamleader"]
    client_id: str = Field(description="of the integration, as Teamleader's marketplace shows it")
    client_secret: str = Field(repr=False, description="of the integration")
    redirect_uri: str = Field(description="where Teamleader sends who authorised; one of those that the integration lists")
    api_url: _Url = Field("https://api.focus.teamleader.eu", description="Teamleader's API, or a proxy before it")
    auth_url: _Url = Field("https://focus.teamleader.eu", description="where a person authorises, and tokens come from")
    full_every: Duration = Field(
        timedelta(days=7),
        description="how often everything is listed, to find who has left, and details that change without a trace",
        json_schema_extra={"default": "7d"},
    )
    details_every: Duration = Field(
        timedelta(days=30),
        description="how often whole documents of all companies, contacts and invoices are read again, for what changes without a new time",
        json_schema_extra={"default": "30d"},
    )
    detail: Literal["full", "list"] = Field("full", description="list: store what lists have, which costs no request for each record")
    projects: Literal["auto", "legacy", "v2"] = Field("auto", description="which module for projects the account uses; auto asks")
    workers: int = Field(8, ge=1, le=32, description="requests at the same time")


def oauth(settings: Settings) -> grants.OAuthClient:
    """The integration, as it asks for tokens."""
    from usersync_cli.auth import oauth as grants

    own = settings.client_id, settings.client_secret, settings.redirect_uri
    return grants.OAuthClient(f"{settings.auth_url}/oauth2/authorize", f"{settings.auth_url}/oauth2/access_token", *own)
