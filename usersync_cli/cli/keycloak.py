"""`usersync keycloak`: look after single accounts of a realm. The answers in JSON are those of the service that usersync replaces."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from usersync_cli.cli import config_option, output_option, write_json

if TYPE_CHECKING:
    from usersync_cli.signals import Stop
    from usersync_cli.targets.keycloak.accounts import Made, Person
    from usersync_cli.targets.keycloak.realm import Realm
    from usersync_cli.targets.keycloak.settings import Settings


_EXIT_STATUSES = """\b
Exit status: 0 ok, 2 usage or config, 4 Keycloak cannot be reached,
9 there is no such account."""


_DEADLINE = timedelta(seconds=10)  # somebody waits


class _Where(NamedTuple):
    """Which realm, and how to answer: what every command is told."""

    stop: Stop
    target_name: str | None
    config_path: Path | None
    output: str

    @property
    def in_json(self) -> bool:
        return self.output == "json"


def _where(command: Callable[..., None]) -> Callable[..., None]:
    """`--target`, `--config` and `--output`, as one argument."""

    def told_where(stop: Stop, target_name: str | None, config_path: Path | None, output: str, **own: Any) -> None:
        command(_Where(stop, target_name, config_path, output), **own)

    wrapped: Callable[..., Any] = wraps(command)(told_where)
    told = "Which Keycloak; only needed when the config file has several."
    target = click.option("--target", "target_name", metavar="NAME", help=told)
    return target(config_option(output_option(click.pass_obj(wrapped))))


_LONGEST = 255  # characters of a user name


class _Filled(click.ParamType[str]):
    """Text with something in it: an empty one comes from a variable that is not set, and is nobody's name or address."""

    name = "text"

    def __init__(self, without: str = "") -> None:
        self._without = without

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        if not text:
            self.fail("it is empty; is a variable not set?", param, ctx)
        if len(text) > _LONGEST:
            self.fail(f"it is longer than {_LONGEST} characters", param, ctx)
        if not text.isprintable():  # nor are half surrogates, which come of an argument that is not UTF-8
            self.fail("it holds a character that can't be printed, or is not UTF-8", param, ctx)
        if found := next((sign for sign in self._without if sign in text), None):
            self.fail(f"it holds {found}, which Keycloak can't look for", param, ctx)
        return text


_user = click.argument("user", metavar="USER", type=_Filled())


@click.group(epilog=_EXIT_STATUSES)
def keycloak() -> None:
    """Look after single accounts: make, show, enable, disable, passwords.

    USER is a user name, or the account's id. What a job makes and keeps equal needs none of this: usersync run.

    \b
    Examples:
      usersync keycloak status test-user-one
      usersync keycloak disable test-user-one                and sign it out everywhere
      usersync keycloak reset-password test-user-one         mail a link that is good for 24 hours
      usersync keycloak health
    """


@keycloak.command(
    name="sync-user",
    epilog="""\b
Exit status: 0 made, 2 usage or config, 3 made, but not all of it,
4 Keycloak cannot be reached, 7 the realm lacks the role or group,
8 Keycloak dropped something of it, 10 such an account exists.""",
)
@click.option("--username", required=True, type=_Filled(), help="Of the account; Keycloak stores it in lower case.")
@click.option("--email", required=True, type=_Filled(), help="Of the person; no other account may have it.")
@click.option("--first-name", default="", help="Of the person.")
@click.option("--last-name", default="", help="Of the person.")
@click.option(
    "--role",
    required=True,
    type=_Filled(),
    metavar="ROLE",
    help="The source's name of the role, as the map under `roles` has it, in any case.",
)
@click.option(
    "--id",
    "key",
    type=_Filled(without='"'),
    metavar="ID",
    help="The job's id of this person, so that it knows the account (Fineract: TENANT:ID).",
)
@click.option(
    "--credentials-out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Make a first password, and append name and password to this CSV file of mode 0600.",
)
@click.option("--show-password", is_flag=True, help="Make a first password, and show it, on a terminal only.")
@_where
def sync_user(where: _Where, credentials_out: Path | None, *, show_password: bool, **person: str | None) -> None:
    """Make the account of one person, as a job does: role, group, required actions, a password for once.

    An account of that user name is left as it is. A password is made only where you say where it goes: into a file of
    mode 0600, or onto the terminal; else let the person have a link with reset-password.

    \b
    Examples:
      usersync keycloak sync-user --username test-user-one --email one@example.org --first-name Test --last-name One --role "Loan Officer"
      usersync keycloak sync-user --username test-user-two --email two@example.org --role Cashier --credentials-out passwords.csv
    """
    from usersync_cli.targets.keycloak import accounts
    from usersync_cli.targets.keycloak.credentials import Credentials

    if show_password and not sys.stdout.isatty():
        raise click.UsageError("--show-password is for a terminal, and stdout is none; --credentials-out writes a file.")
    with _opened(where, "sync-user") as at, ExitStack() as stack:
        new = accounts.Newcomer(**{name: (value or "").strip() for name, value in person.items()})
        file = stack.enter_context(closing(Credentials(credentials_out))) if credentials_out else None

        def tell(name: str, password: str) -> None:
            """At once, whatever goes wrong afterwards."""
            if file:
                file.write(name, password)
            if show_password and not where.in_json:
                _print_line("first password", password)

        made = accounts.make(at.realm, at.settings, new, tell if credentials_out or show_password else None)
    if not (made.password or at.settings.notify == "email"):
        click.echo("it has no password yet: `usersync keycloak reset-password` mails a link", err=True)
    if where.in_json:
        shown = made.password if show_password else None
        _answer("sync-user", "the account was made", **_made_document(made, shown))
    else:
        _print(made.person)


@keycloak.command(epilog=_EXIT_STATUSES)
@_user
@_where
def status(where: _Where, user: str) -> None:
    """Show an account: address, names, enabled or not, what is asked at the next login, roles, groups.

    \b
    Examples:
      usersync keycloak status test-user-one
      usersync keycloak status test-user-one --output json | jq .keycloak_user.roles
    """
    from usersync_cli.targets.keycloak import accounts

    with _opened(where, "status") as at:
        found = accounts.person(at.realm, accounts.look_up(at.realm, user))
    if where.in_json:
        write_json("keycloak-status", {"status": "success", "keycloak_user": _document(found)})
    else:
        _print(found)


@keycloak.command(epilog=_EXIT_STATUSES)
@_user
@_where
def enable(where: _Where, user: str) -> None:
    """Let an account log in again; this also ends a lock after too many wrong passwords.

    \b
    Examples:
      usersync keycloak enable test-user-one
    """
    _switch(where, user, enabled=True)


@keycloak.command(epilog=_EXIT_STATUSES)
@_user
@_where
def disable(where: _Where, user: str) -> None:
    """Let an account log in no more, and end its sessions.

    A job leaves it so, and tells that it was locked by hand, as long as the source has the person.

    \b
    Examples:
      usersync keycloak disable test-user-one
    """
    _switch(where, user, enabled=False)


def _switch(where: _Where, user: str, *, enabled: bool) -> None:
    from usersync_cli.targets.keycloak import accounts

    done = "enabled" if enabled else "disabled"
    with _opened(where, done.removesuffix("d")) as at:
        found = accounts.look_up(at.realm, user)
        accounts.switch(at.realm, str(found["id"]), enabled=enabled)
    name = str(found["username"])
    if where.in_json:
        _answer(done.removesuffix("d"), f"the account is {done}", username=name, enabled=enabled)
    else:
        click.echo(f"{name}: {done}" if enabled else f"{name}: {done}, and signed out")


@keycloak.command(
    name="set-id",
    epilog="""\b
Exit status: 0 done, 2 usage or config, 4 Keycloak cannot be reached,
7 the realm would drop it, 9 there is no such account, 10 another account has this id.""",
)
@_user
@click.argument("key", metavar="KEY", type=_Filled(without='"'))
@_where
def set_id(where: _Where, user: str, key: str) -> None:
    """Say whose account it is: KEY is the job's id of that person, as `usersync rejects list` shows it.

    From the next run on the account is kept equal to that person, and enabled if it was a run that disabled it. For somebody
    who came back under another id, and for an account that was there before.

    \b
    Examples:
      usersync keycloak set-id test-user-one default:12
    """
    from usersync_cli.targets.keycloak import accounts

    with _opened(where, "set-id") as at:
        found = accounts.look_up(at.realm, user)
        new = accounts.set_id(at.realm, found, key)
    name = str(found["username"])
    if where.in_json:
        _answer("set-id", "the account has this id" if new else "the account had this id already", username=name)
    else:
        click.echo(f"{name}: {'has' if new else 'had already'} the id {key}")


@keycloak.command(name="reset-password", epilog=_EXIT_STATUSES)
@_user
@_where
def reset_password(where: _Where, user: str) -> None:
    """Let the realm mail the person a link to choose a new password, which is good for 24 hours.

    The old password works until then. Every call is a mail.

    \b
    Examples:
      usersync keycloak reset-password test-user-one
    """
    from usersync_cli.targets.keycloak import accounts

    with _opened(where, "reset-password") as at:
        found = accounts.look_up(at.realm, user)
        accounts.mail_password_link(at.realm, found)
    name, email = str(found["username"]), str(found["email"])
    if where.in_json:
        _answer("reset-password", f"a link was mailed to {email}", username=name, email=email)
    else:
        click.echo(f"{name}: a link that is good for 24 hours was mailed to {email}")


@keycloak.command(name="force-password-change", epilog=_EXIT_STATUSES)
@_user
@_where
def force_password_change(where: _Where, user: str) -> None:
    """Ask for a new password at the next login, beside whatever else is asked for then.

    \b
    Examples:
      usersync keycloak force-password-change test-user-one
    """
    from usersync_cli.targets.keycloak import accounts

    with _opened(where, "force-password-change") as at:
        found = accounts.look_up(at.realm, user)
        new = accounts.force_password_change(at.realm, found)
    name = str(found["username"])
    if where.in_json:
        said = "the next login asks for a new password" if new else "the next login asked for a new password already"
        _answer("force-password-change", said, username=name)
    else:
        click.echo(f"{name}: {'has' if new else 'had already'} to choose a new password at the next login")


@keycloak.command(
    epilog="""\b
Exit status: 0 healthy, 2 usage or config, 4 Keycloak cannot be reached."""
)
@_where
def health(where: _Where) -> None:
    """Log in to Keycloak, read the realm, and look at the rights; for probes. `usersync check` looks at roles and groups too.

    \b
    Examples:
      usersync keycloak health
      usersync keycloak health --output json
    """
    with _opened(where, "health") as at:
        realm = str(at.realm.about()["realm"])
        at.realm.refuse_blindness()
        if lacks := at.realm.lacking("manage-users", "view-realm"):
            raise lacks
    if where.in_json:
        write_json("keycloak-health", {"status": "healthy", "service": "usersync", "keycloak_connected": True, "realm": realm})
    else:
        click.echo(f"{at.realm.name}: healthy, realm {realm}")


# what they share


class _At(NamedTuple):
    realm: Realm
    settings: Settings


@contextmanager
def _opened(where: _Where, kind: str) -> Iterator[_At]:
    """The realm that is meant. With JSON wanted, an error is told on stdout too, as the service before usersync told it."""
    from usersync_cli import log
    from usersync_cli.config.loader import load
    from usersync_cli.errors import CODES, UsersyncError, status_of
    from usersync_cli.targets.keycloak import target
    from usersync_cli.targets.keycloak.settings import Settings

    log.configure(quiet=True)
    try:
        config = load(where.config_path)
        name = _named(config.targets_named("keycloak"), where.target_name, config.path)
        settings = config.target(name)
        assert isinstance(settings, Settings)  # noqa: S101  by its type
        with target.realm(name, settings, where.stop, _DEADLINE) as realm:
            yield _At(realm, settings)
    except UsersyncError as error:
        if where.in_json:
            write_json(f"keycloak-{kind}", {"code": CODES.get(status_of(error), "stopped"), **_failure(kind, error)})
        raise


def _named(known: list[str], name: str | None, file: Path) -> str:
    """The target that is meant: the only Keycloak, or the one that was named."""
    from usersync_cli.errors import ConfigError
    from usersync_cli.settings import suggestion

    if name is None and len(known) == 1:
        return known[0]
    if not known:
        raise ConfigError(f"{file}: there is no target of type keycloak", hint="docs/keycloak.md shows one")
    if name is None:
        raise ConfigError(f"{file}: there are several targets of type keycloak", hint=f"--target {' or --target '.join(known)}")
    if name not in known:
        raise ConfigError(f'{file}: there is no target "{name}" of type keycloak{suggestion(name, known)}')
    return name


def _failure(kind: str, error: Exception) -> dict[str, Any]:
    from usersync_cli.errors import NotFound
    from usersync_cli.targets.keycloak.accounts import Exists

    if kind == "health":
        return {"status": "unhealthy", "error": str(error)}
    if isinstance(error, Exists):
        return {"status": "exists", "message": str(error), "keycloak_user_id": error.account}
    return {"status": "not_found" if kind == "status" and isinstance(error, NotFound) else "error", "message": str(error)}


def _answer(kind: str, message: str, **document: Any) -> None:
    write_json(f"keycloak-{kind}", {"status": "success", "message": message, **document})


def _document(person: Person) -> Mapping[str, Any]:
    return {
        "id": person.id,
        "username": person.username,
        "email": person.email,
        "firstName": person.first_name,
        "lastName": person.last_name,
        "enabled": person.enabled,
        "emailVerified": person.email_verified,
        "requiredActions": person.required_actions,
        "roles": person.roles,
        "groups": person.groups,
    }


def _made_document(made: Made, password: str | None) -> Mapping[str, Any]:
    return {
        "keycloak_user_id": made.person.id,
        "temporary_password": password,
        "required_actions": made.person.required_actions,
        "keycloak_user": _document(made.person),
    }


def _print(person: Person) -> None:
    """For people."""
    from usersync_cli.cli.diff import escaped

    name = " ".join(part for part in (person.first_name, person.last_name) if part)
    email = f"{person.email}, {'verified' if person.email_verified else 'not verified'}" if person.email else ""
    lines = {
        "id": person.id,
        "e-mail": email,
        "name": name,
        "enabled": "yes" if person.enabled else "no",
        "required actions": ", ".join(person.required_actions),
        "roles": ", ".join(person.roles),
        "groups": ", ".join(person.groups),
    }
    click.echo(escaped(person.username))
    for what, value in lines.items():
        _print_line(what, value or "-")


def _print_line(what: str, value: str) -> None:
    from usersync_cli.cli.diff import escaped

    click.echo(f"  {what:17} {escaped(value)}")
