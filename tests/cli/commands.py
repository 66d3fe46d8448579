"""For the tests of help and docs: the command tree, and reading command lines out of text as click would."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

import click

from usersync_cli.cli import cli

# What a shell would not hand to usersync.
_SHELL = re.compile(r"\s[|<>#].*$|\)\"?.*$")


def tree(command: click.Command = cli, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below this one, by its words."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, name
            yield from tree(found, *path, name)


def parse(words: Sequence[str]) -> None:
    """As click reads these arguments, without doing anything. Raises click.UsageError."""
    command: click.Command = cli
    try:
        context = cli.make_context("usersync", list(words))
        while isinstance(command, click.Group):
            name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None, name
            command, context = found, found.make_context(name, rest, parent=context)
    except click.exceptions.Exit:
        pass  # --help, --version


def in_examples(text: str) -> list[str]:
    """The command lines in a shell example: what stands behind `usersync`, without pipes, redirections and comments."""
    starts = re.compile(r"(?:^\s*(?:\S*/)?|\$\(|[;(] *|^docker run .* )usersync (?=[a-z-])(.*)")
    lines = [match[1] for line in text.splitlines() if (match := starts.search(line)) and not line.lstrip().startswith("#")]
    return [_SHELL.sub("", re.split(r"\s{3,}", line)[0]).strip() for line in lines]


def in_prose(text: str) -> list[str]:
    """The command lines in backticks."""
    return [match[1] for match in re.finditer(r"(?<!`)`usersync ([a-z-][^`]*)`(?!`)", text)]


def complaint(line: str) -> str | None:
    """What click says against a command line; None when it takes it. One without its options is fine, and so is RUN or ID for a number."""
    try:
        parse(["1" if word in {"RUN", "ID"} else word for word in shlex.split(line)])
    except click.MissingParameter:
        return None
    except click.UsageError as error:
        return f"usersync {line}: {error.format_message()}"
    return None
