"""Commands: each reads its arguments, calls one function, prints, and chooses the exit status.

This file is the group: names and one-line helps, so that `usersync --help` imports none of the commands.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from usersync_cli import __version__

F = TypeVar("F", bound=Callable[..., Any] | click.Command)

# command: (module, what `usersync --help` says). The module's function of the same name is the command; tests/cli holds the two together.
COMMANDS = {
    "init": ("init", "Ask a few questions, try the answers, write config.yaml and .env."),
    "run": ("run", "Run a job: extract, transform, load, then exit."),
    "status": ("status", "Show each job's last runs, freshness and cursors."),
    "check": ("check", "Try a job's config, connections, rights and columns; write nothing."),
    "verify": ("verify", "Compare a job's tables with its sources, row by row; write nothing."),
    "health": ("health", "Exit 0 when every scheduled job is well; for probes and monitoring."),
    "approvals": ("approvals", "Show the rows that wait for a person's word before they are removed."),
    "rejects": ("rejects", "Show, retry or drop the records that were set aside."),
    "intents": ("intents", "Show the calls to Keycloak and WorkOS that were planned and are not finished."),
    "oauth-url": ("oauth", "Print the address where a person lets usersync read from a source."),
    "oauth-callback": ("oauth", "Take the answer of a vendor: CODE is the whole address that it sent you to, or the code in it."),
    "oauth-status": ("oauth", "Show the tokens of each source: state, generation, age; never a token."),
    "oauth-rescue": ("oauth", "Put a token back that the database could not take when it came."),
    "oauth-import": ("oauth", "Take over the tokens of an older tool from its table: auth_token, refresh_token, created_at, updated_at."),
    "export": ("export", "Write Teamleader's contacts, or any table of the target, as CSV or JSON Lines."),
    "keycloak": ("keycloak", "Look after single accounts: make, show, enable, disable, passwords."),
    "users": ("users", "List and show people of WorkOS from the copy; create one in both."),
    "apps": ("apps", "Add, list and remove apps whose ids are mapped; let a database role read one."),
    "customers": ("customers", "Make, list, show, rename and merge customers."),
    "mappings": ("mappings", "Say which id of which app is which customer; list, import and export that."),
    "whois": ("whois", "Say who a uuid, a domain, an id of an app or an e-mail address is, and why."),
    "crontab": ("crontab", "Print crontab lines made from each job's schedule."),
    "seed": ("seed", "Put three test users into the target and the embedded sources."),
    "schema": ("schema", "Write a SQLAlchemy model and an Alembic migration for the users table."),
    "config": ("config", "Check the config file, or print its JSON Schema."),
    "db": ("db", "Look at a database; upgrade or print usersync's own tables."),
}

EXIT_STATUSES = """\b
Exit status: 0 ok, 1 bug, 2 usage or config, 3 partial, 4 temporary,
5 a person must authorise, 6 guard refused, 7 drift, 8 verification failed,
9 not found, 10 conflict, 75 another run holds the job, 76 fenced,
129/130/143 stopped by a signal, state saved."""


BIGINT = 2**63 - 1  # the largest number that the database has ids of


class _Whole(click.IntRange):
    """A whole number; click calls that an integer range."""

    name = "whole number"


class Commands(click.Group):
    """Imports a command's module when that command is called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuses what is no text: neither the database nor a JSON document could hold it."""
        for number, text in enumerate(args, 1):
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise click.UsageError(f"argument {number} is not UTF-8 text. Is the terminal's encoding another one?", ctx)
            if "\0" in text:
                raise click.UsageError(f"argument {number} holds a NUL character.", ctx)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"usersync_cli.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        _bound(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _bound(command: click.Command) -> None:
    """Whole numbers end where those of the database do."""
    for found in command.commands.values() if isinstance(command, click.Group) else ():
        _bound(found)
    for param in command.params:
        kind = param.type
        if isinstance(kind, click.types.IntParamType) and getattr(kind, "max", None) is None:
            param.type = _Whole(getattr(kind, "min", None), BIGINT)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_STATUSES)
@click.version_option(__version__, prog_name="usersync", message="%(prog)s %(version)s")
def cli() -> None:
    """Copy users and customers from the systems that own them into a Postgres that you own, then exit.

    \b
    Examples:
      usersync run --job auroville                   run a job now
      usersync run --job auroville --dry-run         the same, but nothing is written
      usersync status                                what happened last
      usersync check --job auroville                 will it work? which GRANT is missing?
    """


def config_option(command: F) -> F:
    """`--config FILE`: the config file of every command that reads one."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Config file. Default: $USERSYNC_CONFIG, then ./config.yaml.",
    )(command)


def output_option(command: F) -> F:
    """`--output text|json`: text for people, one versioned JSON document for programs."""
    return click.option(
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="How to print the result on stdout.",
    )(command)


_answered = False


def write_json(kind: str, document: dict[str, Any]) -> None:
    """One document on stdout, one line: `{"version": 1, "kind": ..., ...}`."""
    import json

    answered()
    click.echo(json.dumps({"version": 1, "kind": kind, **document}, default=str))


def answered() -> None:
    """The command's document is on stdout, or has begun to be: an error does not get one of its own any more."""
    global _answered  # noqa: PLW0603  one process has one command
    _answered = True


def write_error(arguments: list[str], status: int, message: str, hint: str = "", *, usage: bool = False) -> None:
    """Where JSON was asked for and no document is there yet: what went wrong, with a code that is stable."""
    from usersync_cli.errors import CODES

    if not _answered and wants_json(arguments):
        code = "usage" if usage else CODES.get(status, "stopped")
        write_json("error", {"code": code, "exit_status": status, "message": message, "hint": hint or None})


def wants_json(arguments: list[str]) -> bool:
    """Whether `--output json` is on the command line, which may be too wrong to be parsed."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    pairs = list(zip(options, [*options[1:], ""], strict=False))
    given = [after if one == "--output" else one.partition("=")[2] for one, after in pairs if one.partition("=")[0] == "--output"]
    return given[-1:] == ["json"]
