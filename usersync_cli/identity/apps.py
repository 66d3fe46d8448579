"""Apps: the systems whose ids are mapped, and which database role may read which app's rows. What changes them is in `place.writing`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, scalar, statements
from usersync_cli.errors import ConfigError, Conflict, NotFound
from usersync_cli.identity.mappings import require_app
from usersync_cli.identity.names import RULE, is_app
from usersync_cli.settings import closest

_SQL = statements(__name__)
_TAKE_OUT = "take `identity` out of the config file first, or the next run adds the app again"
_GRANT = """
GRANT USAGE ON SCHEMA usersync TO {role};
GRANT SELECT ON usersync.customer_ids, usersync.customer_ids_then TO {role};
GRANT EXECUTE ON FUNCTION usersync.customer_ids_at(timestamptz, text, text, uuid) TO {role}
"""
_REVOKE = """
REVOKE SELECT ON usersync.customer_ids, usersync.customer_ids_then FROM {role};
REVOKE EXECUTE ON FUNCTION usersync.customer_ids_at(timestamptz, text, text, uuid) FROM {role}
"""
_REVOKE_SCHEMA = "REVOKE USAGE ON SCHEMA usersync FROM {role}"


@dataclass(frozen=True)
class App:
    """An app: how many ids of it are mapped, which roles may read them, and which steps of jobs fill it."""

    name: str
    added_at: datetime
    added_by: str
    ids: int
    roles: Sequence[str]
    filled_by: Sequence[str]


@dataclass(frozen=True)
class Granted:
    """What a role may read after a grant: whether that is new, and what it may read anyway."""

    new: bool
    notes: Sequence[str] = ()


def add(tx: Connection, app: str, by: str) -> bool:
    """Add an app; whether it is new. Raises ConfigError for a name that a config file could not have."""
    if not is_app(app):
        raise ConfigError(f"an app's name {RULE}")
    return bool(tx.execute(_SQL["add"], {"app": app, "by": by}).rowcount)


def listed(tx: Connection) -> list[App]:
    """All apps, by name."""
    return [App(*row) for row in tx.execute(_SQL["listed"]).fetchall()]


def remove(tx: Connection, app: str, by: str, steps: Sequence[str]) -> None:
    """Remove an app that has no mappings, with the rights to read it. `steps`: those of the config file that fill it.

    Raises NotFound, and Conflict while it has mappings or a step fills it, which would add it again.
    """
    require_app(tx, app)
    if ids := scalar(tx, _SQL["ids"], {"app": app}):
        raise _not_empty(app, ids, steps)
    if steps:
        raise Conflict(f"app {app} is filled by {'; '.join(steps)}; nothing was removed", hint=_TAKE_OUT)
    for (role,) in tx.execute(_SQL["roles_of"], {"app": app}).fetchall():
        revoke(tx, app, role)
    tx.execute(_SQL["remove"], {"app": app, "by": by})


def _not_empty(app: str, ids: int, steps: Sequence[str]) -> Conflict:
    filled = f"\n{'; '.join(steps)} {'fills' if len(steps) == 1 else 'fill'} it: {_TAKE_OUT}" if steps else ""
    return Conflict(
        f"app {app} has {ids:,} {'mapping' if ids == 1 else 'mappings'}; nothing was removed",
        hint=f"`usersync mappings list --app {app}` shows them, `usersync mappings remove --app {app} --id ID` removes one{filled}",
    )


# roles


def grant(tx: Connection, app: str, role: str, by: str) -> Granted:
    """Let a database role read this app's rows, and nothing else: the views and the schema. Raises NotFound for an unknown one."""
    require_app(tx, app)
    row = tx.execute(_SQL["role"], {"role": role}).fetchone()
    if row is None:
        raise _no_role(tx, role)
    if not scalar(tx, _SQL["has_rights"], {"role": role}):
        tx.execute(_SQL["forget"], {"role": role})  # what is written down is of a role of this name that was dropped
    new = bool(tx.execute(_SQL["allow"], {"app": app, "role": role, "by": by}).rowcount)
    if not scalar(tx, _SQL["may_read"], {"role": role}) or not scalar(tx, _SQL["has_rights"], {"role": role}):
        with _by_owner(tx, role, _GRANT):
            tx.execute(sql.SQL(_GRANT).format(role=identifier(role)))
        if not scalar(tx, _SQL["may_read"], {"role": role}):  # PostgreSQL only warns whoever may not grant
            raise _not_the_owner(tx, role, _GRANT)
    above, writes, reads_tables = row
    return Granted(new, tuple(_notes(role, above=above, writes=writes, reads_tables=reads_tables)))


def _notes(role: str, *, above: bool, writes: bool, reads_tables: bool) -> Iterator[str]:
    """What a role may read whatever it is granted here."""
    if above:
        yield f"role {role} is a superuser or bypasses row-level security: it reads every app"
    elif writes:
        yield f"role {role} may write usersync's tables: it reads every app"
    elif reads_tables:
        yield f"role {role} has rights on usersync's tables, which it does not need: it reads its own apps' rows there, no more"


def revoke(tx: Connection, app: str, role: str) -> bool:
    """Take the right to read this app from a role; whether it had it. With the last app it loses the views and the schema too.

    A role that was dropped is forgotten. Raises NotFound for an app or a role that is not known.
    """
    require_app(tx, app)
    had = bool(tx.execute(_SQL["forbid"], {"app": app, "role": role}).rowcount)
    if tx.execute(_SQL["role"], {"role": role}).fetchone() is None:
        if not had:
            raise _no_role(tx, role)
        return True
    if had and not scalar(tx, _SQL["others"], {"role": role}):
        with _by_owner(tx, role, _REVOKE):
            tx.execute(sql.SQL(_REVOKE).format(role=identifier(role)))
            if not scalar(tx, _SQL["has_more"], {"role": role}):
                tx.execute(sql.SQL(_REVOKE_SCHEMA).format(role=identifier(role)))
    return had


def _no_role(tx: Connection, role: str) -> NotFound:
    meant = closest(role, [name for (name,) in tx.execute(_SQL["roles"]).fetchall()])
    hint = f"did you mean {meant}? " if meant else ""
    quoted = identifier(role).as_string(None)
    return NotFound(f"the database has no role {role}", hint=f"{hint}an administrator makes one: CREATE ROLE {quoted} LOGIN;")


@contextmanager
def _by_owner(tx: Connection, role: str, statement: str) -> Iterator[None]:
    """In a savepoint, since an error has to be explained by what the catalog says."""
    try:
        with tx.transaction():
            yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise _not_the_owner(tx, role, statement) from error


def _not_the_owner(tx: Connection, role: str, statement: str) -> ConfigError:
    quoted = " ".join(statement.format(role=identifier(role).as_string(None)).split())
    return ConfigError(
        f"only the owner of usersync's tables can do this for role {role}; nothing was changed",
        hint=f"their owner {scalar(tx, _SQL['owner'])} runs the same command, or first: {quoted};",
    )
