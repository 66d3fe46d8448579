"""The source `fineract`: the users and roles of an Apache Fineract, one request for each.

Fineract has no pages, no filter and no time of change: a list is one array of everything, and so one moment. It holds only
those whose office is the caller's own or below it, without a word about the others. So who reads has to be in the head
office, which its own record in the list proves; and whoever the list lacks is asked for by id, which no office limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from usersync_cli.errors import ConfigError
from usersync_cli.ports import BringsAccounts, BringsTransform, DocumentSource
from usersync_cli.sources.fineract.session import Session
from usersync_cli.sources.fineract.settings import Settings, credentials

if TYPE_CHECKING:
    from usersync_cli.ports import Tools

TIMEOUT = timedelta(seconds=150)  # Fineract looks up the roles of one user after the other before it says a word
DEADLINE = timedelta(minutes=6)  # of one request, repeated once where it timed out
MOST_BYTES = 256_000_000  # of one array; 2,000 users have 600 kB

_ROLES = """ARRAY(
           SELECT role ->> 'name'
             FROM jsonb_array_elements(CASE jsonb_typeof(data -> 'selectedRoles') WHEN 'array' THEN data -> 'selectedRoles' END) AS role
            WHERE role ->> 'name' IS NOT NULL
            ORDER BY role ->> 'name' COLLATE "C"
       ) AS roles"""
_TRANSFORMS = {
    "users": f"""
SELECT key::bigint AS id,
       data ->> 'username' AS username,
       NULLIF(data ->> 'email', '') AS email,
       data ->> 'firstname' AS firstname,
       data ->> 'lastname' AS lastname,
       (data ->> 'officeId')::bigint AS office_id,
       data ->> 'officeName' AS office_name,
       {_ROLES},
       data
  FROM records""",  # noqa: S608  text of ours
    "roles": """
SELECT key::bigint AS id,
       data ->> 'name' AS name,
       data ->> 'description' AS description,
       (data ->> 'disabled')::boolean AS disabled,
       data
  FROM records""",
}


class Source(BringsTransform, BringsAccounts, DocumentSource):
    """A tenant; nothing is contacted before the first request."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings

    def transform(self, stream: str) -> str:
        """The columns of the mirror. Roles are those that somebody has, disabled ones too: they still grant what they grant."""
        return _TRANSFORMS[stream]

    def accounts(self, stream: str) -> str:
        """A SELECT over `records` for a target of accounts: id, username, email, first_name, last_name (text), roles (text[]), _key.

        The id has the tenant before it, since what takes the accounts may hold the people of two. Raises ConfigError where
        the stream has nobody in it.
        """
        from psycopg import sql

        if stream != "users":
            raise ConfigError(f"source {self.name}: there are no accounts in stream {stream}", hint="read the stream users")
        tenant = sql.Literal(f"{self._settings.tenant}:").as_string(None)
        return f"""
SELECT {tenant} || key AS id,
       key AS _key,
       data ->> 'username' AS username,
       NULLIF(data ->> 'email', '') AS email,
       data ->> 'firstname' AS first_name,
       data ->> 'lastname' AS last_name,
       {_ROLES}
  FROM records"""  # noqa: S608  a quoted name

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Session]:
        """Connections and threads end with the session."""
        from usersync_cli.clients.http.client import Client

        settings = self._settings
        with Client(
            settings.url,
            name=f"source {self.name}",
            stop=tools.stop,
            headers={"Fineract-Platform-TenantId": settings.tenant, "Authorization": credentials(settings)},
            ca=settings.ca,
            deadline=DEADLINE,
            timeout=TIMEOUT,
            max_body=MOST_BYTES,
        ) as client:
            yield Session(self.name, settings, client)
