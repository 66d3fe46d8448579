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
    "oauth-url": ("oauth", "Print the address where a person lets usersync read from a source."),
    "oauth-callback": ("oauth", "Take the answer of a vendor: CODE is the whole address that it sent you to, or the code in it."),
    "oauth-status": ("oauth", "Show the tokens of each source: state, generation, age; never a token."),
    "oauth-rescue": ("oauth", "Put a token back that the database could not take when it came."),
    "oauth-import": ("oauth", "Take over the tokens of an older tool from its table: auth_token, refresh_token, created_at, updated_at."),
    "export": ("export", "Write Teamleader's contacts, or any table of the target, as CSV or JSON Lines."),
    "keycloak": ("keycloak", "Look after single accounts: make, show, enable, disable, passwords."),
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


class Commands(click.Group):
    """Imports a command's module when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"usersync_cli.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


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


def write_json(kind: str, document: dict[str, Any]) -> None:
    """One document on stdout, one line: `{"version": 1, "kind": ..., ...}`."""
    import json

    click.echo(json.dumps({"version": 1, "kind": kind, **document}, default=str))
