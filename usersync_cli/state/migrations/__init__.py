"""Usersync's own tables, schema `usersync` in the target database: their version, and the way up and down.

Alembic and SQLAlchemy take half a second to import, and 20 MB: they are imported only when there is something to do, and a run
leaves that to a process of its own (`apart`, whose `ready` each run begins with).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import psycopg
from psycopg import errors

from usersync_cli.clients.postgres import connections, settings
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.errors import ConfigError, Drift
from usersync_cli.model import Database

if TYPE_CHECKING:
    from alembic.config import Config

VERSION = "0015"
"""The newest migration; tests hold it together with the files in `versions/`. Revisions are numbers, so they compare as text."""

_A_VERSION = re.compile(r"(?!0000)\d{4}")
_LOCK = 0x7573657273796E63  # "usersync"; which migration runs, of whatever database

GRANTS = "GRANT USAGE ON SCHEMA usersync TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA usersync TO {role};"


_up_to_date: WeakSet[psycopg.Connection[Any]] = WeakSet()


def current(connection: psycopg.Connection[Any]) -> str | None:
    """The version of the tables in this database, None when there are none. Needs SELECT rights only.

    A connection that has seen VERSION is not asked again: only the upgrade of a newer program would change it. Raises Drift where
    there are tables without a version that any usersync gave them: part of a schema, which nobody can go on from.
    """
    if connection in _up_to_date:
        return VERSION
    found = _found(connection)
    if found == VERSION:
        _up_to_date.add(connection)
    return found


def _found(connection: psycopg.Connection[Any]) -> str | None:
    query = "SELECT to_regclass('usersync.alembic_version'), to_regclass('usersync.job_locks')"
    table, locks = connection.execute(query).fetchone() or (None, None)
    row = connection.execute("SELECT version_num FROM usersync.alembic_version").fetchone() if table else None
    if row is None and locks is None:
        return None
    if row is None or not _A_VERSION.fullmatch(row[0]):
        raise Drift(
            f"the schema usersync has tables of {f'version {row[0]}, which no usersync gives' if row else 'no version'}",
            hint="nothing was changed. Was it made, or restored, in part? Bring it back whole from a backup, or begin anew:\n"
            "DROP SCHEMA usersync CASCADE; then the next run of each job reads everything, and people authorise again",
        )
    return str(row[0])


def newer(found: str) -> Drift:
    return Drift(
        f"usersync's tables are of version {found}, this program knows {VERSION} and older",
        hint="use the newer usersync that upgraded them; an older one can't work with them",
    )


def upgrade(database: Database, job: str = "upgrade") -> None:
    """Bring the tables to VERSION in one transaction. Of two processes at once one waits, and finds nothing to do."""

    def work(config: Config) -> None:
        from alembic import command

        command.upgrade(config, "head")

    _migrate(database, job, work)


def downgrade(database: Database, job: str = "downgrade") -> None:
    """Drop the schema `usersync` with all of usersync's state; data tables stay. A schema that is somebody else's stays, empty."""

    def work(config: Config) -> None:
        from alembic import command

        if config.attributes["found"] is None:
            return
        command.downgrade(config, "base")
        connection = config.attributes["connection"]
        connection.exec_driver_sql("DROP TABLE usersync.alembic_version")
        with suppress(DBAPIError), connection.begin_nested():
            connection.exec_driver_sql("DROP SCHEMA usersync")

    from sqlalchemy.exc import DBAPIError

    _migrate(database, job, work)


def upgrade_sql() -> str:
    """The SQL that `upgrade` would run on an empty database, for a DBA."""
    from alembic import command

    config = _config()
    config.output_buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    return str(config.output_buffer.getvalue())


def _config() -> Config:
    from alembic.config import Config

    config = Config(stdout=io.StringIO())
    # A literal %: Alembic's options are interpolated.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _migrate(database: Database, job: str, work: Callable[[Config], None]) -> None:
    """Run `work` over a connection of ours, in one transaction behind a lock of that transaction (a pooler may be between)."""
    import sqlalchemy
    from sqlalchemy.pool import StaticPool

    with connections.connect(database, job=job, read_write=True) as raw:
        raw.autocommit = False  # SQLAlchemy expects psycopg to begin by itself
        raw.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: raw, poolclass=StaticPool, use_native_hstore=False)
        config = _config()
        with permitted(raw, database, "upgrading usersync's tables"), _unwrapped(), engine.begin() as connection:
            for name, value in (settings.settings_of(raw, long=True) | {"lock_timeout": "60s"}).items():
                connection.exec_driver_sql("SELECT set_config(%s, %s, true)", (name, value))
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            found = current(raw)
            if found is not None and found > VERSION:
                raise newer(found)
            config.attributes |= {"connection": connection, "found": found}
            work(config)


@contextmanager
def _unwrapped() -> Iterator[None]:
    """SQLAlchemy's errors as the psycopg errors that they wrap."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from None
        raise


@contextmanager
def permitted(connection: connections.Connection, database: Database, doing: str) -> Iterator[None]:
    """`errors.translated`, and where a right on usersync's own tables is missing, the GRANT that helps."""
    with translated(database, doing):
        try:
            yield
        except errors.InsufficientPrivilege as error:
            raise _grant(connection, database, doing) or error from error


def _grant(connection: connections.Connection, database: Database, doing: str) -> ConfigError | None:
    connections.rollback(connection)
    if connection.closed:
        return None
    row = connection.execute(
        "SELECT quote_ident(current_user), quote_ident(current_database()), to_regnamespace('usersync') IS NULL"
    ).fetchone()
    connections.rollback(connection)
    if row is None:
        return None
    role, name, missing = row
    if missing:
        return ConfigError(
            f"{database.name}: no right to create the schema usersync, where runs and cursors are kept",
            hint=f"an administrator runs: GRANT CREATE ON DATABASE {name} TO {role};\n"
            f"  or the output of `usersync db upgrade --sql`, then: {GRANTS.format(role=role)}",
        )
    return ConfigError(
        f"{database.name}: a right on usersync's own tables is missing ({doing})", hint=f"their owner runs: {GRANTS.format(role=role)}"
    )
