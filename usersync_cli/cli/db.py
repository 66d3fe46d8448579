"""`usersync db`: look at a database; upgrade or print usersync's own tables."""

from __future__ import annotations

import os
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import click

from usersync_cli.cli import EXIT_STATUSES, config_option, output_option, write_json
from usersync_cli.errors import Busy, ConfigError

if TYPE_CHECKING:
    from usersync_cli.config.loader import Config
    from usersync_cli.model import Database

_PSQL = "usersync.psql"  # what stood after `--`, in the context's meta


@click.group(epilog=EXIT_STATUSES)
def db() -> None:
    """Look at a database; upgrade or print usersync's own tables.

    NAME is a source of the config file, or an embedded database by its own name; without it, the target.

    \b
    Examples:
      usersync db shell                              psql on the target
      usersync db shell av_accounts < dump.sql       load a dump into an embedded source
      usersync db shell -- -c 'SELECT * FROM users'  options for psql stand after --
      psql "$(usersync db url)"                      the same, with a client of your own
      usersync db upgrade --sql                      for a DBA: the tables that usersync needs
    """


@db.command(epilog=EXIT_STATUSES)
@click.argument("name", required=False)
@config_option
def url(name: str | None, config_path: Path | None) -> None:
    """Print the libpq URL of a database, without its password.

    An embedded server is started, and stays up.

    \b
    Examples:
      usersync db url
      pg_dump "$(usersync db url av_accounts)"
    """
    found = _libpq_url(_database(_load(config_path), name))
    given = _parsed(found)
    if _take_secrets(given):
        click.echo("The password is left out; libpq reads it from PGPASSWORD or ~/.pgpass.", err=True)
    click.echo(_url(given))


class _WithPsqlOptions(click.Command):
    """A command whose arguments end at `--`; what follows is psql's, options and all."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ours, _, psqls = _split(args)
        ctx.meta[_PSQL] = psqls
        return super().parse_args(ctx, ours)


def _split(args: list[str]) -> tuple[list[str], str, list[str]]:
    at = args.index("--") if "--" in args else len(args)
    return args[:at], "--", args[at + 1 :]


@db.command(cls=_WithPsqlOptions, epilog=EXIT_STATUSES)
@click.argument("name", required=False, metavar="[NAME] [-- PSQL OPTIONS]")
@config_option
@click.pass_context
def shell(ctx: click.Context, name: str | None, config_path: Path | None) -> None:
    """Open psql on a database, or feed it a file.

    Fed from a file or a pipe, psql stops at the first error, with its own exit status 3.

    \b
    Examples:
      usersync db shell
      usersync db shell av_accounts < dump.sql
      usersync db shell -- --csv -c 'SELECT id, username FROM users'
    """
    from psycopg.conninfo import make_conninfo

    from usersync_cli.clients.postgres import embedded

    database = _database(_load(config_path), name)
    given = _parsed(_libpq_url(database))
    program = str(embedded.psql(database.embedded))
    environment = _environment(given)
    # Input that is no terminal is a script: half of one is worse than none.
    script = [] if sys.stdin.isatty() else ["-v", "ON_ERROR_STOP=1"]
    sys.stdout.flush()
    try:
        os.execve(program, ["psql", *script, "-d", make_conninfo(**given), *ctx.meta[_PSQL]], environment)  # noqa: S606  no shell is wanted
    except OSError as error:
        raise ConfigError(f"psql could not be started: {error.strerror}", hint=f"looked at {program}") from error


@db.command(epilog=EXIT_STATUSES)
@click.option("--sql", is_flag=True, help="Print the SQL instead, for a DBA; nothing is contacted.")
@config_option
def upgrade(config_path: Path | None, *, sql: bool) -> None:
    """Bring usersync's own tables in the target up to date.

    They are kept in the schema `usersync`. `usersync run` does this by itself.

    \b
    Examples:
      usersync db upgrade
      usersync db upgrade --sql > usersync.sql       for a database that you may not change
    """
    from usersync_cli.state import migrations

    if sql:
        click.echo(migrations.upgrade_sql(), nl=False)
        return
    database = _load(config_path).target_database()
    before = _version(database)
    if before is not None and before > migrations.VERSION:
        raise migrations.newer(before)
    if before != migrations.VERSION:
        migrations.upgrade(database)
    was = "nothing to do" if before == migrations.VERSION else f"before: {before or 'none'}"
    click.echo(f"usersync's tables: version {migrations.VERSION} ({was})")


@db.command(epilog=EXIT_STATUSES)
@click.option("--yes", is_flag=True, help="Really do it.")
@config_option
def downgrade(config_path: Path | None, *, yes: bool) -> None:
    """Drop usersync's own tables; data tables stay.

    Cursors and the history of runs are lost: the next run of each job reads everything.

    \b
    Example:
      usersync db downgrade --yes
    """
    from usersync_cli.state import migrations

    database = _load(config_path).target_database()
    before = _version(database)
    if before is None:
        click.echo("usersync's tables: none")
        return
    if not yes:
        raise ConfigError(
            f"{database.name}: this drops usersync's cursors and its history of runs; the next run of each job reads everything",
            hint="say --yes if that is what you want; data tables stay either way",
        )
    _refuse_while_running(database)
    migrations.downgrade(database)
    click.echo(f"usersync's tables: none (before: {before})")


@db.command(epilog=EXIT_STATUSES)
@config_option
@output_option
def current(config_path: Path | None, output: str) -> None:
    """Print the version of usersync's own tables in the target.

    \b
    Example:
      usersync db current
    """
    from usersync_cli.state import migrations

    found = _version(_load(config_path).target_database())
    if output == "json":
        write_json("db", {"current": found, "newest": migrations.VERSION, "up_to_date": found == migrations.VERSION})
        return
    click.echo(f"usersync's tables: {_compared(found, migrations.VERSION)}")


def _compared(found: str | None, newest: str) -> str:
    if found is None:
        return f"none; `usersync db upgrade` or the next run makes them (version {newest})"
    if found == newest:
        return f"version {found}, up to date"
    if found < newest:
        return f"version {found}; `usersync db upgrade` or the next run brings them to {newest}"
    return f"version {found}, newer than this program, which knows {newest}"


@db.command(epilog=EXIT_STATUSES)
@config_option
def stop(config_path: Path | None) -> None:
    """Stop the embedded PostgreSQL server. The next command that needs it starts it again.

    \b
    Example:
      usersync db stop
    """
    from usersync_cli.clients.postgres import embedded
    from usersync_cli.config.loader import default_home, default_path

    home = default_home() if config_path is None and not default_path().exists() else _load(config_path).home
    stopped = embedded.stop(home)
    click.echo("the embedded PostgreSQL was stopped" if stopped else "the embedded PostgreSQL was not running")


def _load(path: Path | None) -> Config:
    from usersync_cli.config.loader import load

    return load(path)


def _database(config: Config, name: str | None) -> Database:
    """The target, a source's database, or an embedded database by its own name."""
    if name is None:
        return config.target_database()
    if name in config.sources:
        return config.source_database(name)
    for database in _databases(config):
        if database.embedded and database.url == name:
            return database
    known = ", ".join(config.sources) or "none"
    raise ConfigError(f'there is no source "{name}" in the config file', hint=f"its sources: {known}; without a name it is the target")


def _databases(config: Config) -> list[Database]:
    """All that can be known here: the others lack a variable, or are no databases."""
    found = []
    with suppress(ConfigError):
        found.append(config.target_database())
    for source in config.sources:
        with suppress(ConfigError):
            found.append(config.source_database(source))
    return found


def _libpq_url(database: Database) -> str:
    if database.embedded is None:
        return database.url
    from usersync_cli.clients.postgres import embedded

    return embedded.url(database.embedded, database.url)


def _parsed(url: str) -> dict[str, Any]:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        return dict(conninfo_to_dict(url))
    except psycopg.Error:
        # Its message may quote the URL.
        raise ConfigError(
            "the URL is not one that libpq understands", hint="expected postgresql://user:password@host:port/database"
        ) from None


def _take_secrets(given: dict[str, Any]) -> dict[str, str]:
    """The secrets among the parameters, which are left without them."""
    return {name: str(given.pop(name)) for name in ("password", "sslpassword") if name in given}


def _url(given: dict[str, Any]) -> str:
    """A URL of libpq's from its parameters; everything but user and database stands behind the question mark."""
    rest = dict(given)
    user, name = str(rest.pop("user", "")), str(rest.pop("dbname", ""))
    return f"postgresql://{quote(user, safe='')}{'@' if user else ''}/{quote(name, safe='')}?{urlencode(rest, quote_via=quote)}".rstrip("?")


def _environment(given: dict[str, Any]) -> dict[str, str]:
    """psql's environment: the password, which everybody could read on its command line, and TLS as careful as ours."""
    from psycopg.conninfo import make_conninfo

    from usersync_cli.clients.postgres import parameters

    environment = dict(os.environ)
    if password := _take_secrets(given).get("password"):
        environment["PGPASSWORD"] = password
    careful = parameters.defaults(make_conninfo(**given), "shell")
    for name in ("sslmode", "connect_timeout", "application_name"):
        if name in careful:
            given[name] = careful[name]
    if "sslrootcert" in careful and (certificates := ssl.get_default_verify_paths().cafile):
        given["sslrootcert"] = certificates  # "system" is for libpq 16 and newer
    return environment


def _version(database: Database) -> str | None:
    from usersync_cli.clients.postgres import connections
    from usersync_cli.state import migrations

    with connections.connect(database, job="db") as connection, migrations.permitted(connection, database, "reading usersync's version"):
        return migrations.current(connection)


def _refuse_while_running(database: Database) -> None:
    from usersync_cli.clients.postgres import connections
    from usersync_cli.state import ledger

    with connections.connect(database, job="db") as connection, ledger.permitted(connection, database, "looking for runs"):
        if held := ledger.holders(connection):
            raise Busy(f"{', '.join(held)}: a run is under way", hint="try again when it has ended")
