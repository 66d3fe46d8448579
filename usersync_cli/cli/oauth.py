"""`usersync oauth-...`: a person lets usersync read from a vendor, and what became of that."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from usersync_cli.cli import config_option, output_option, write_json

if TYPE_CHECKING:
    from usersync_cli.auth.authorizations import Opened
    from usersync_cli.auth.oauth import OAuthClient
    from usersync_cli.auth.rescue import Rescue
    from usersync_cli.auth.tokens import Tokens
    from usersync_cli.clients.postgres.connections import Connection
    from usersync_cli.config.loader import Config
    from usersync_cli.model import Token
    from usersync_cli.signals import Stop

_JOB = "oauth"

_source_option = click.option("--source", "source_name", metavar="NAME", help="Which source; only needed when several are authorised so.")


@click.command(
    name="oauth-url",
    epilog="""\b
Exit status: 0 ok, 2 usage or config, 4 the target cannot be reached.""",
)
@_source_option
@config_option
@click.pass_obj
def oauth_url(stop: Stop, source_name: str | None, config_path: Path | None) -> None:
    """Print the address where a person lets usersync read from a source.

    It is good for one answer, for ten minutes. Open it in a browser and log in; the vendor then sends you to
    redirect_uri. Whatever is shown there: give the whole address to `usersync oauth-callback`.

    \b
    Examples:
      usersync oauth-url
      usersync oauth-url --source teamleader
    """
    from usersync_cli.auth import authorizations

    config = _config(config_path)
    name = _source(config, source_name)
    client = config.oauth_client(name)
    config.keys()  # who has none hears it before the browser is opened
    with _database(config, stop) as connection:
        state = authorizations.begin(connection, name)
    click.echo(client.url(state))
    click.echo(f"Open it in a browser within {authorizations.MINUTES} minutes, then give the address that you are sent to:", err=True)
    click.echo("  usersync oauth-callback 'ADDRESS'", err=True)


@click.command(
    name="oauth-callback",
    epilog="""\b
Exit status: 0 ok, 2 usage or config, 4 the vendor or the target cannot be
reached, 5 denied, too late, used already or of another state: begin again,
7 the account is another one than before.""",
)
@click.argument("code", metavar="CODE")
@click.option("--state", metavar="S", help="The state that came with a bare code; a whole address has it.")
@_source_option
@config_option
@click.pass_obj
def oauth_callback(stop: Stop, code: str, state: str | None, source_name: str | None, config_path: Path | None) -> None:
    """Take the answer of a vendor: CODE is the whole address that it sent you to, or the code in it.

    Put the address in quotes: the shell ends it at the first &. Without its state, a bare code is taken only while
    an authorisation is open.

    \b
    Examples:
      usersync oauth-callback 'https://example.org/callback?code=...&state=...'
      usersync oauth-callback CODE --state STATE
    """
    from usersync_cli import log
    from usersync_cli.auth import authorizations
    from usersync_cli.cli.bootstrap import tokens
    from usersync_cli.errors import LoginRequired

    config = _config(config_path)
    answer = authorizations.parse(code, state)
    named = _source(config, source_name) if source_name or answer.state is None else None
    config.keys()
    with _database(config, stop) as connection:
        opened = authorizations.use(connection, answer, named)
        if answer.state is None:
            log.once("a bare code was taken, whose state was not seen", source=opened.source)
        if answer.error:
            raise LoginRequired(
                f"{opened.source}: the vendor says {answer.error}: usersync may not read there; nothing was changed",
                hint=f"begin again when somebody agrees: usersync oauth-url --source {opened.source}",
            )
        _source(config, opened.source)
        with stop.held():
            token = _exchange(config.oauth_client(opened.source), answer.code, opened, connection)
            account = _account(config, opened.source, token)
            generation = tokens(config, stop, _JOB).store(opened.source, token, account=account)
    of = f", account {account}" if account else ""
    click.echo(f"{opened.source}: authorised{of}; its token is kept, encrypted (generation {generation})")


def _exchange(client: OAuthClient, code: str, opened: Opened, connection: Connection) -> Token:
    """Only the vendor knows whether a code is spent: until it says so, the same answer may be given again."""
    from usersync_cli.auth import authorizations
    from usersync_cli.auth.outcomes import InvalidGrant, NotSent
    from usersync_cli.errors import ConfigError, LoginRequired, Unavailable

    again, anew = f"within its {authorizations.MINUTES} minutes", authorizations.to_authorize(opened.source)
    try:
        return client.exchange(code)
    except InvalidGrant as error:
        raise LoginRequired(
            f"{opened.source}: the vendor does not take this code: {error.message}",
            hint=f"a code is good once, for a few minutes, with the redirect_uri of the config file; begin again: {anew}",
        ) from error
    except ConfigError as error:
        authorizations.reopen(connection, opened)
        raise ConfigError(error.message, hint=f"{error.hint}; then give the same answer again, {again}") from error
    except NotSent as error:
        authorizations.reopen(connection, opened)
        raise NotSent(error.message, hint=f"nothing was sent: give the same answer again, {again}") from error
    except Unavailable as error:
        authorizations.reopen(connection, opened)
        hint = f"give the same answer again, {again}; if its code is spent by then, begin again: {anew}"
        raise Unavailable(error.message, hint=hint) from error


def _account(config: Config, source: str, token: Token) -> str:
    """Whose data the token opens, as the vendor says; empty while it can't say it.

    The code is spent: whatever goes wrong here must not lose what it bought. Each run asks for the account again.
    """
    from usersync_cli import log
    from usersync_cli.errors import Unavailable

    try:
        return config.oauth_account(source, token.access_token)
    except Unavailable as error:
        log.once("the token is kept, but whose data it opens could not be asked; the next run asks", source=source, error=error.message)
        return ""


@click.command(
    name="oauth-status",
    epilog="""\b
Exit status: 0 every source is authorised, 2 usage or config,
4 the target cannot be reached, 5 a person must authorise.""",
)
@_source_option
@config_option
@output_option
@click.pass_context
def oauth_status(ctx: click.Context, source_name: str | None, config_path: Path | None, output: str) -> None:
    """Show the tokens of each source: state, generation, age; never a token.

    \b
    Examples:
      usersync oauth-status
      usersync oauth-status --source teamleader --output json
    """
    from usersync_cli import log
    from usersync_cli.cli.tokens import token_document, token_hints, token_line
    from usersync_cli.errors import LoginRequired
    from usersync_cli.report.status import token_states

    log.configure(quiet=True)
    config = _load(config_path)
    found = token_states(config)
    names = [_source(config, source_name)] if source_name else list(dict.fromkeys([*config.oauth_sources(), *found]))
    if output == "json":
        write_json("oauth-status", {"sources": [token_document(name, found.get(name)) for name in names]})
    else:
        for name in names:
            click.echo("\n".join([f"{name}: {token_line(found.get(name))}", *token_hints(name, found.get(name))]))
    if not names:
        click.echo("no source of this config file is authorised by a person", err=True)
    ctx.exit(0 if all(name in found and found[name].state == "ok" for name in names) else LoginRequired.status)


@click.command(
    name="oauth-rescue",
    epilog="""\b
Exit status: 0 ok, 2 usage or config, 4 the target cannot be reached,
9 nothing to rescue, 10 the database has it, or a newer one.""",
)
@click.argument("file", required=False, metavar="[FILE]")
@config_option
@click.pass_obj
def oauth_rescue(stop: Stop, file: str | None, config_path: Path | None) -> None:
    """Put a token back that the database could not take when it came.

    FILE is what the run wrote, or a log with its line USERSYNC-RESCUE; - reads stdin. Without FILE, the files that
    lie where runs write them are taken. Do it before the next run: the token before it is spent.

    \b
    Examples:
      usersync oauth-rescue
      usersync oauth-rescue usersync-rescue-teamleader-42.txt
      kubectl logs POD | usersync oauth-rescue -
    """
    from usersync_cli.cli.bootstrap import tokens
    from usersync_cli.errors import NotFound

    config = _config(config_path)
    found = _rescues(config, file)
    if not found:
        raise NotFound("no line USERSYNC-RESCUE was found", hint="name the file, or pipe the log of the run that failed into it with -")
    with _database(config, stop):
        pass  # its tables may be gone too
    store = tokens(config, stop, _JOB)
    for source in dict.fromkeys(one.source for one in found):
        newest = next(one for one in found if one.source == source)
        click.echo(f"{source}: its token is back (generation {store.restore(newest)}); the file, if there is one, may go")


def _rescues(config: Config, file: str | None) -> Sequence[Rescue]:
    from usersync_cli.auth import rescue
    from usersync_cli.errors import ConfigError

    if file == "-":
        return rescue.read(sys.stdin.read())
    try:
        paths = [Path(file)] if file else list(rescue.files([config.path.parent]))
        return rescue.read("\n".join(path.read_text(errors="replace") for path in paths))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None


@click.command(
    name="oauth-import",
    epilog="""\b
Exit status: 0 ok, 2 usage or config, 4 the target cannot be reached,
7 the table is another one, 9 it is empty, 10 there is a token already.""",
)
@click.option("--from-table", "table", required=True, metavar="TABLE", help="The other tool's table in the target database.")
@_source_option
@config_option
@click.pass_obj
def oauth_import(stop: Stop, table: str, source_name: str | None, config_path: Path | None) -> None:
    """Take over the tokens of an older tool from its table: auth_token, refresh_token, created_at, updated_at.

    Stop that tool first: a refresh token is good once, and whoever uses it next ends the other's log-in. The first
    run refreshes. The table stays as it is, with its tokens in clear: drop it when that run was well.

    \b
    Examples:
      usersync oauth-import --from-table shared.tl_auth
    """
    from usersync_cli.cli.bootstrap import tokens
    from usersync_cli.clients.postgres.sql import relation
    from usersync_cli.errors import Conflict

    config = _config(config_path)
    name = _source(config, source_name)
    store = tokens(config, stop, _JOB)
    config.keys()
    with _database(config, stop) as connection:
        if any(state.source == name and state.state == "ok" for state in store.states()):
            raise Conflict(f"{name}: a token is here already; nothing was changed", hint="usersync oauth-status")
        token = _foreign(config, connection, table)
    _keep_foreign(store, name, token)
    click.echo(f"{name}: the token of {table} is kept, encrypted; the first run refreshes it. See to it that the other tool does not")
    click.echo(f"{table} still holds its tokens in clear. When the first run was well: DROP TABLE {relation(table).as_string(None)}")


def _keep_foreign(store: Tokens, name: str, token: Token) -> None:
    """As one that has expired: how old it is, nobody can say."""
    store.store(name, token, expired=True)


def _foreign(config: Config, connection: Connection, table: str) -> Token:
    from datetime import timedelta

    import psycopg

    from usersync_cli.clients.postgres.errors import translate
    from usersync_cli.clients.postgres.sql import relation
    from usersync_cli.clients.postgres.transactions import as_user, transaction
    from usersync_cli.errors import Drift, NotFound
    from usersync_cli.model import Token

    query = psycopg.sql.SQL("SELECT auth_token, refresh_token FROM {} ORDER BY coalesce(updated_at, created_at) DESC NULLS LAST LIMIT 1")
    try:
        with transaction(connection), as_user(connection):
            row = connection.execute(query.format(relation(table))).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName):
        raise Drift(
            f"{table}: there is no such table in the target, or it has no columns auth_token, refresh_token, created_at, updated_at",
            hint="name the table of the older tool, as schema.table; or authorise anew: usersync oauth-url",
        ) from None
    except psycopg.Error as error:
        raise translate(error, config.target_database(), f"reading {table}") from error
    if row is None or not row[1]:
        raise NotFound(f"{table} holds no refresh token", hint="authorise anew: usersync oauth-url")
    return Token(str(row[0] or ""), str(row[1]), timedelta(hours=1))


# what they share


def _config(path: Path | None) -> Config:
    from usersync_cli import log

    log.configure(quiet=True)
    return _load(path)


def _load(path: Path | None) -> Config:
    from usersync_cli.config.loader import load

    return load(path)


def _source(config: Config, name: str | None) -> str:
    """The source that is meant: the only one with OAuth, or the one that was named."""
    from usersync_cli.errors import ConfigError
    from usersync_cli.settings import suggestion

    known = config.oauth_sources()
    if name is None and len(known) == 1:
        return known[0]
    if not known:
        raise ConfigError(f"{config.path}: no source is authorised by a person", hint="only such sources have tokens")
    if name is None:
        raise ConfigError(f"{config.path}: several sources are authorised by a person", hint=f"--source {' or --source '.join(known)}")
    if name not in known:
        raise ConfigError(f'{config.path}: no source "{name}" is authorised by a person{suggestion(name, known)}')
    return name


@contextmanager
def _database(config: Config, stop: Stop) -> Iterator[Connection]:
    """The target with usersync's tables, made where they are missing."""
    from usersync_cli.clients.postgres import connections
    from usersync_cli.state import ledger

    database = config.target_database()
    with connections.connect(database, job=_JOB, stop=stop, read_write=True) as connection:
        ledger.ready(connection, database, _JOB)
        with ledger.permitted(connection, database, "keeping authorisations"):
            yield connection
