"""What the commands of `usersync keycloak` share: options, the realm that they name, its errors, and an account as they show it.

The answers in JSON are those of the service that usersync replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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

_DEADLINE = timedelta(seconds=10)  # somebody waits
_LONGEST = 255  # characters of a user name


class Where(NamedTuple):
    """Which realm, and how to answer: what every command is told."""

    stop: Stop
    target_name: str | None
    config_path: Path | None
    output: str

    @property
    def in_json(self) -> bool:
        return self.output == "json"


def on_a_realm(command: Callable[..., None]) -> Callable[..., None]:
    """`--target`, `--config` and `--output`, as one argument."""

    def told_where(stop: Stop, target_name: str | None, config_path: Path | None, output: str, **own: Any) -> None:
        command(Where(stop, target_name, config_path, output), **own)

    wrapped: Callable[..., Any] = wraps(command)(told_where)
    told = "Which Keycloak; only needed when the config file has several."
    target = click.option("--target", "target_name", metavar="NAME", help=told)
    return target(config_option(output_option(click.pass_obj(wrapped))))


class Filled(click.ParamType[str]):
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


class _At(NamedTuple):
    realm: Realm
    settings: Settings


@contextmanager
def opened(where: Where, kind: str) -> Iterator[_At]:
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


def answer(kind: str, message: str, **document: Any) -> None:
    write_json(f"keycloak-{kind}", {"status": "success", "message": message, **document})


def person_document(person: Person) -> Mapping[str, Any]:
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


def made_document(made: Made, password: str | None) -> Mapping[str, Any]:
    return {
        "keycloak_user_id": made.person.id,
        "temporary_password": password,
        "required_actions": made.person.required_actions,
        "keycloak_user": person_document(made.person),
    }


def print_person(person: Person) -> None:
    """Print an account for people."""
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
        print_line(what, value or "-")


def print_line(what: str, value: str) -> None:
    from usersync_cli.cli.diff import escaped

    click.echo(f"  {what:17} {escaped(value)}")
