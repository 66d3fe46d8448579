"""`identity` in the config file: which app the rows of a step are the ids of, and the rules that say whose they are."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from usersync_cli.settings import Model


class IdentityRule(Model):
    """One way to tell from a row whose it is."""

    name: str
    domain: Annotated[str, AfterValidator(str.strip)]
    uuid: str | None = None


class Identity(Model):
    """Which app the rows of a table are the ids of, and whose they are."""

    stream: str = ""
    app: str
    id: str
    rules: list[IdentityRule]
    max_ids: int = Field(1000, ge=1)
