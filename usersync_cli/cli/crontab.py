"""`usersync crontab`: the lines that let cron start each job by its `schedule`."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from usersync_cli.cli import EXIT_STATUSES, config_option, output_option, write_json
from usersync_cli.errors import ConfigError

if TYPE_CHECKING:
    from usersync_cli.config.loader import Config, Job

_HEADER = """\
# Lines for a user's crontab (crontab -e), printed by `usersync crontab`. Times are in the time zone of cron.
# cron mails what is printed: with -q that is nothing when a run went well.
# Variables which the config needs: in .env beside the config file; cron hands none on.
"""
# What cron and our own reader of `schedule` both understand: *, numbers and three letters of a month or weekday.
_CRON_VALUE = re.compile(r"\*|[0-9]+|[A-Za-z]{3}")


@click.command(epilog=EXIT_STATUSES)
@config_option
@click.option("--job", "job_name", metavar="NAME", help="Only this job.")
@output_option
def crontab(config_path: Path | None, job_name: str | None, output: str) -> None:
    """Print crontab lines made from each job's schedule. Nothing is installed.

    \b
    Examples:
      usersync crontab                                          look at them
      (crontab -l; usersync crontab --job NAME) | crontab -     add one job's to yours
    """
    from usersync_cli.config.loader import load

    config = load(config_path)
    jobs = _chosen(config, job_name)
    lines = {job.name: _line(job, _command(config.path, job.name)) for job in jobs if job.schedule}
    if output == "json":
        write_json("crontab", {"jobs": [{"job": job.name, "schedule": job.schedule, "line": lines.get(job.name)} for job in jobs]})
        return
    click.echo(_HEADER + "\n".join(lines.get(job.name, f"# job {job.name} has no schedule in {_printable(config.path)}") for job in jobs))


def _chosen(config: Config, name: str | None) -> list[Job]:
    """The jobs to print. One that was asked for by name must have a schedule."""
    if name is None:
        return list(config.jobs.values())
    if name not in config.jobs:
        from usersync_cli.settings import suggestion

        raise ConfigError(f'{config.path}: there is no job "{name}"{suggestion(name, list(config.jobs))}')
    if config.jobs[name].schedule is None:
        raise ConfigError(f"{config.path}: job {name} has no schedule", hint='give it one, such as schedule: "*/10 * * * *"')
    return [config.jobs[name]]


def _command(config: Path, job: str) -> str:
    """What the shell runs; absolute, because cron starts elsewhere and with a PATH of its own."""
    beside = Path(sys.executable).with_name("usersync")
    program = [str(beside)] if beside.exists() else [sys.executable, "-m", "usersync_cli"]
    return shlex.join([*program, "run", "-q", "--job", job, "--config", str(config.absolute())])


def _line(job: Job, command: str) -> str:
    schedule = job.schedule or ""
    if not all(_CRON_VALUE.fullmatch(value) for value in re.split(r"[ ,/-]", schedule)):
        raise ConfigError(
            f'job {job.name}: cron does not know all of schedule "{schedule}"', hint="use numbers, *, lists, ranges, steps and names"
        )
    if not command.isprintable():
        raise ConfigError("the config file's path or usersync's has a line break or another control character, which a crontab cannot hold")
    return f"{schedule} {_escaped(command)}"


def _escaped(command: str) -> str:
    """cron turns % into a line break unless a backslash stands before it, and takes that backslash away.

    A backslash that is already there would be counted with ours: '' between the two is nothing to the shell.
    """
    return command.replace("\\%", "\\''%").replace("%", "\\%")


def _printable(path: Path) -> str:
    return str(path) if str(path).isprintable() else "the config file"
