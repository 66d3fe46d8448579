"""`usersync seed`: three test users, for trying out and for logging in during development."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from psycopg import sql

from usersync_cli.cli import EXIT_STATUSES, config_option
from usersync_cli.clients.postgres.connections import Connection, connect
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.clients.postgres.sql import listed
from usersync_cli.clients.postgres.transactions import schemas, transaction
from usersync_cli.config.jobs import Load
from usersync_cli.errors import ConfigError
from usersync_cli.signals import Stop

if TYPE_CHECKING:
    from usersync_cli.config.jobs import Load
    from usersync_cli.model import Database

_IDS = [f"00000000-0000-4000-8000-00000000000{i}" for i in (1, 2, 3)]
_NAMES = ["One", "Two", "Three"]
_ACCOUNTS = [
    (id_, f"test-user-{n.lower()}", f"test.user.{n.lower()}@example.org", f"TEST-{n.upper()}") for id_, n in zip(_IDS, _NAMES, strict=True)
]
# The second profile has no picture, the third account has no profile.
_PROFILES = [
    (
        _IDS[0].replace("-8000-", "-9000-"),
        "Test User One",
        "Test Community",
        "+00 000 0001",
        "The first test user.",
        "TEST-ONE",
        "/test/one.png",
        _IDS[0],
    ),
    (_IDS[1].replace("-8000-", "-9000-"), "Test User Two", "Test Community", None, None, "TEST-TWO", None, _IDS[1]),
]

# The tables of the two sources, by the name of the extract that reads them, and their rows.
_SOURCES: dict[str, tuple[str, str, Sequence[tuple[str | None, ...]]]] = {
    "accounts": (
        """CREATE TABLE IF NOT EXISTS {}.users (
            id uuid PRIMARY KEY, username text, email text, asyncto_id text)""",
        "INSERT INTO {}.users (id, username, email, asyncto_id) VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO NOTHING",
        _ACCOUNTS,
    ),
    "profiles": (
        """CREATE TABLE IF NOT EXISTS {}.profiles (
            id uuid PRIMARY KEY, display_name text, community text, phone text, about text, asyncto_id text, profile_picture text,
            auroville_account_id uuid, inserted_at timestamp(0) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
            updated_at timestamp(0) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'))""",
        """INSERT INTO {}.profiles (id, display_name, community, phone, about, asyncto_id, profile_picture, auroville_account_id)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING""",
        _PROFILES,
    ),
}
# What `create: true` makes of the job's transform; tests/cli/test_seed.py holds the two together.
_TARGET = """CREATE TABLE IF NOT EXISTS {} (
    id uuid PRIMARY KEY, username text, email text, asyncto_id text,
    display_name text, community text, phone text, about text, profile_picture text,
    inserted_at timestamp with time zone NOT NULL DEFAULT now(), updated_at timestamp with time zone NOT NULL DEFAULT now())"""


@click.command(epilog=EXIT_STATUSES)
@click.option(
    "--job", "job_name", default="auroville", show_default=True, metavar="NAME", help="The job whose sources and target get the test users."
)
@config_option
@click.pass_obj
def seed(stop: Stop, job_name: str, config_path: Path | None) -> int:
    """Put three test users into the target and the embedded sources. Safe to repeat.

    Their ids are fixed, so that somebody can log in as them in development. Sources that are not embedded are left
    alone; outside development and test the command refuses.

    \b
    Examples:
      usersync seed
      usersync seed --config config.example.yaml
    """
    from usersync_cli.config import loader

    settings = loader.load(config_path)
    job = settings.job(job_name)
    if settings.environment not in loader.PLAYGROUNDS:
        raise ConfigError(
            f"seed is for development and test; this is environment {settings.environment}",
            hint="test users must not be able to log in anywhere else",
        )
    load = job.steps[0].load
    if not isinstance(load, Load):
        raise ConfigError(f"job {job.name} writes to {load.target}", hint="seed knows the auroville job of config.example.yaml")
    extracts = {name: extract.source for step in job.steps for name, extract in step.extract.items()}
    if not set(_SOURCES) <= set(extracts):
        raise ConfigError(
            f"job {job.name} has no extracts named accounts and profiles", hint="seed knows the auroville job of config.example.yaml"
        )
    for extract, (create, insert, rows) in _SOURCES.items():
        database = settings.source_database(extracts[extract])
        if database.embedded is None:
            click.echo(f"{database.name}: not embedded, left alone")
            continue
        click.echo(f"{database.name}: {_seed_source(database, create, insert, rows, stop)}")
    click.echo(f"target: {_seed_target(settings.target_database(), load, stop)}")
    return 0


def _seed_source(database: Database, create: str, insert: str, rows: Sequence[tuple[str | None, ...]], stop: Stop) -> str:
    connection = connect(database, job="seed", stop=stop, read_write=True)
    with translated(database, "seeding"), transaction(connection):
        connection.execute("SET LOCAL client_min_messages = warning")
        schema = next((name for name in schemas(connection) if name != "pg_catalog"), "public")
        connection.execute(sql.SQL(create).format(sql.Identifier(schema)))
        cursor = connection.cursor()
        cursor.executemany(sql.SQL(insert).format(sql.Identifier(schema)), rows)
        added = cursor.rowcount
    connection.close()
    return _told(added, len(rows), "test rows")


def _seed_target(database: Database, load: Load, stop: Stop) -> str:
    connection = connect(database, job="seed", stop=stop, read_write=True)
    with translated(database, f"seeding table {load.table}"), transaction(connection):
        connection.execute("SET LOCAL client_min_messages = warning")
        added = _add_accounts(connection, load)
    connection.close()
    return _told(added, len(_ACCOUNTS), "test users")


def _add_accounts(tx: Connection, load: Load) -> int:
    """Through the same merge as a run, so that a table with columns of its own (Ecto's time stamps) is served too."""
    from usersync_cli.load.table import TableLoad
    from usersync_cli.model import Desired

    target = TableLoad(load.model_copy(update={"order_by": None}))
    table = target.name(tx)
    tx.execute(sql.SQL(_TARGET).format(table))
    ids = ", ".join(f"'{id_}'" for id_ in _IDS)
    there = sql.SQL("SELECT id FROM {} WHERE id IN ({})").format(table, sql.SQL(ids))
    rows = listed(sql.SQL("({}::uuid, {}, {}, {})").format(*map(sql.Literal, row)) for row in _ACCOUNTS)
    wanted = sql.SQL("SELECT * FROM (VALUES {}) AS a(id, username, email, asyncto_id) WHERE id NOT IN ({})").format(rows, there)
    plan = target.plan(Desired(wanted, len(_ACCOUNTS)), tx)
    return target.apply(plan, tx).inserted


def _told(added: int, all_: int, noun: str) -> str:
    return f"{added} {noun} added" if added else f"all {all_} {noun} are there"
