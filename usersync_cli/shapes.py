"""What a source brings for commands: its documents as a table, its people, and how far its log of changes was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg import sql


@dataclass(frozen=True)
class LogPlace:
    """Where a cursor stands in a source's log of changes, for `usersync status`."""

    at: datetime  # everything before this moment was read
    polled: datetime  # when the source was last asked, by its own clock
    retention: timedelta  # how long it keeps changes


@dataclass(frozen=True)
class ExportShape:
    """Documents of one stream as a table of named columns, for `usersync export STREAM`."""

    stream: str  # such as "contacts"
    noun: str  # one of them: "contact"
    vendor: str  # what people call the source: "Teamleader"
    table: str  # where the documents are when no step of the config file reads the stream
    document: str  # the column of that table that holds them
    columns: Sequence[str]  # in the order in which they are written
    select: Callable[[sql.Composable, Mapping[str, str]], sql.Composed]
    """A SELECT of all columns, as text, over a table that it calls t; without a WHERE. The mapping: column -> custom field instead."""
    lacks: Callable[[sql.Composable, str], sql.Composed]
    """A SELECT of one boolean: the table has documents, and none has this custom field."""
    field: Callable[[str], tuple[str, str]]
    """`COLUMN=ID` as column and custom field. Raises ConfigError for anything else."""


@dataclass(frozen=True)
class UsersShape:
    """The stream of a source whose records are people who sign in, for `usersync users`.

    Columns are those of the source's own transforms. A membership has `user_id`, `organization_id` and, where it is known,
    `organization_name`; an organization has a `name`.
    """

    stream: str  # of the people: "users"
    vendor: str  # what people call the source: "WorkOS"
    columns: Sequence[str]  # what `usersync users list` writes of each, without the key; `email` is one of them
    shown: Sequence[str]  # those that fit into a line of a terminal
    memberships: str  # the stream with one record for each organization that somebody is in
    organizations: str  # the stream of these

    @property
    def parts(self) -> Sequence[str]:
        """Its streams besides the people."""
        return self.memberships, self.organizations
