"""Targets outside PostgreSQL: a file or folder for each, found by its name. README.md says how to write one; `keycloak` has
accounts, `klanten` has ids of customers. Tables of PostgreSQL are the engine's own: `load/`.

Each has a `PORT`, which is all that the engine looks at: a `TargetPort`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

    from usersync_cli.ports import OutboundTarget, Tools
    from usersync_cli.state.outbox import StepContext

S = TypeVar("S", bound="BaseModel")


@dataclass(frozen=True)
class TargetPort(Generic[S]):
    """What a target outside PostgreSQL is made of."""

    settings: type[S]  # what the config file says of it; extra="forbid", and `type` is the name of its file or folder
    # From its name in the config file, its settings, and what the step gives it; for one step of one run. Contacts nothing.
    opened: Callable[[str, S, StepContext, Tools], AbstractContextManager[OutboundTarget[Any]]]
    place: Callable[[S], str]  # where it writes, in words that are the same for all who write there: two jobs may not
    disables: bool = True  # its targets are `ports.DisablesAccounts`; otherwise a step's `on_missing` is `keep`, and can't be anything else
