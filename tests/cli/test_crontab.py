"""`usersync crontab`, and the crontab that is shipped."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import Command
from usersync_cli.cli.crontab import _escaped

ROOT = Path(__file__).parents[2]
CONFIG = """
target: embedded
sources:
  people: {{type: postgres, url: "${{PEOPLE_URL}}"}}
jobs:
  nightly:
    schedule: "{schedule}"
    steps: [{{extract: {{source: people, table: people}}, load: {{table: users, key: [id]}}}}]
  by_hand:
    steps: [{{extract: {{source: people, table: people}}, load: {{table: users, key: [id]}}}}]
"""


def write(folder: Path, schedule: str = "5 3 * * mon-fri") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.yaml"
    file.write_text(CONFIG.format(schedule=schedule))
    return file


def as_cron_reads(line: str) -> str:
    """The command of a crontab line, by the rules of cron(5): \\% is a %, a bare % ends it."""
    command = line.split(None, 5)[5]
    said, escaped = "", False
    for letter in command:
        if escaped and letter == "%":
            said = said[:-1]
        elif letter == "%":
            return said
        said += letter
        escaped = letter == "\\" and not escaped
    return said


def test_a_line_for_each_schedule(usersync: Command) -> None:
    """
    A job with a schedule becomes a quiet line with absolute paths, one without becomes a comment; no variable has to be set.
    """
    file = write(usersync.folder)
    result = usersync("crontab", "--config", "config.yaml")
    *comments, line, by_hand = result.stdout.splitlines()
    program, *arguments = shlex.split(as_cron_reads(line))

    assert (0, "") == (result.status, result.stderr)
    assert all(comment.startswith("#") for comment in comments)
    assert line.startswith("5 3 * * mon-fri /")
    assert Path(program).is_absolute()
    assert ["run", "-q", "--job", "nightly", "--config", str(file)] == arguments[-6:]
    assert "# job by_hand has no schedule in config.yaml" == by_hand


def test_json_is_one_document(usersync: Command) -> None:
    """
    --output json prints the same lines as one document.
    """
    write(usersync.folder)
    document = json.loads(usersync("crontab", "--output", "json").stdout)

    assert ("crontab", ["nightly", "by_hand"]) == (document["kind"], [job["job"] for job in document["jobs"]])
    assert document["jobs"][0]["line"].startswith("5 3 * * mon-fri /")
    assert document["jobs"][1]["line"] is None


@pytest.mark.parametrize("name", ["a b", "100%", "it's", "$HOME", "back\\slash", "\\%", "50\\\\%\\", "%%", "ünï"])
def test_any_path_survives_cron_and_shell(usersync: Command, name: str) -> None:
    """
    Whatever a folder is called, cron and the shell hand usersync its very name.
    """
    file = write(usersync.folder / name)
    result = usersync("crontab", "--job", "nightly", "--config", file)
    line = result.stdout.splitlines()[-1]
    said = subprocess.run(["/bin/sh", "-c", f"printf '%s\\n' {as_cron_reads(line)}"], capture_output=True, text=True, check=True).stdout

    assert str(file) == said.splitlines()[-1]


def test_percent_is_never_bare() -> None:
    """
    No % stands without a backslash of its own.
    """
    assert r"a\%b" == _escaped("a%b")
    assert r"a\''\%b" == _escaped(r"a\%b")


def test_unknown_job(usersync: Command) -> None:
    """
    A misspelt job is an error with a suggestion, not an empty crontab.
    """
    write(usersync.folder)
    result = usersync("crontab", "--job", "nigthly")

    assert (2, "") == (result.status, result.stdout)
    assert 'usersync: config.yaml: there is no job "nigthly"; did you mean "nightly"?\n' == result.stderr


def test_job_without_schedule(usersync: Command) -> None:
    """
    A job that was asked for by name and has no schedule is an error.
    """
    write(usersync.folder)
    result = usersync("crontab", "--job", "by_hand")

    assert (2, "") == (result.status, result.stdout)
    assert result.stderr.startswith("usersync: config.yaml: job by_hand has no schedule\n")


@pytest.mark.parametrize("schedule", ["0 0 L * *", "0 0 * * 1#2"])
def test_schedule_that_cron_lacks(usersync: Command, schedule: str) -> None:
    """
    What only other schedulers understand is refused instead of breaking the crontab.
    """
    write(usersync.folder, schedule)
    result = usersync("crontab")

    assert (2, "") == (result.status, result.stdout)
    assert f'usersync: job nightly: cron does not know all of schedule "{schedule}"' in result.stderr


def test_folder_with_a_line_break(usersync: Command) -> None:
    """
    A path that a crontab cannot hold is refused.
    """
    file = write(usersync.folder / "a\nb")
    result = usersync("crontab", "--config", file)

    assert (2, "") == (result.status, result.stdout)
    assert "line break" in result.stderr


def test_no_config(usersync: Command) -> None:
    """
    Without a config file: one message, status 2.
    """
    result = usersync("crontab")

    assert (2, "") == (result.status, result.stdout)
    assert "Traceback" not in result.stderr


def test_shipped_crontab_is_the_example_config() -> None:
    """
    The shipped crontab starts every scheduled job of config.example.yaml, at its schedule, as its own user, quietly.
    """
    jobs = yaml.safe_load((ROOT / "config.example.yaml").read_text())["jobs"]
    lines = [line for line in (ROOT / "crontab").read_text().splitlines() if line and not re.match(r"#|[A-Z_]+=", line)]
    entries = [line.split(None, 6) for line in lines]

    scheduled = {name: job["schedule"] for name, job in jobs.items() if "schedule" in job}

    assert scheduled == {entry[6].split()[-1]: " ".join(entry[:5]) for entry in entries}
    assert all(entry[5] == "usersync" and entry[6].startswith("/opt/usersync/bin/usersync run -q --job ") for entry in entries)


def test_help(usersync: Command) -> None:
    """
    -h shows an example and the exit statuses.
    """
    result = usersync("crontab", "-h")

    assert 0 == result.status
    assert "Examples:" in result.stdout
    assert "Exit status:" in result.stdout
