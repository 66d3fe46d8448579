"""`usersync init`: a few questions, each answer tried at once, then a config.yaml and a .env that replace nothing."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from usersync_cli.cli import EXIT_STATUSES, config_option
from usersync_cli.cli.interview import KINDS, Given, Interview, complain
from usersync_cli.errors import ConfigError, Stopped
from usersync_cli.signals import Stop

if TYPE_CHECKING:
    from usersync_cli.config.loader import Config
    from usersync_cli.config.template import Answers


@click.command(epilog=EXIT_STATUSES)
@click.option(
    "--kind", type=click.Choice(KINDS), help="auroville: the sync of two databases; copy: one table or query into a table of yours."
)
@click.option("--target", metavar="URL", help='The PostgreSQL that is written, or "embedded" for trying out.')
@click.option("--accounts", metavar="URL", help="auroville: the database of the accounts, or embedded.")
@click.option("--profiles", metavar="URL", help="auroville: the database of the profiles, or embedded.")
@click.option("--source", metavar="URL", help="copy: the database that is read, or embedded.")
@click.option("--table", metavar="NAME", help="copy: the table that is read, or")
@click.option("--query", metavar="SQL", help="copy: a SELECT.")
@click.option("--key", metavar="COLUMN", multiple=True, help="copy: what makes two rows the same; may be given several times. Default: id.")
@click.option("--into", metavar="TABLE", help="The table that is loaded. Default: users, or the name of --table.")
@click.option("--environment", metavar="NAME", help="Default: development with embedded databases, production without.")
@click.option("--schedule", metavar="CRON", help='When to run, for `usersync crontab`. Default: "*/10 * * * *".')
@click.option("--job", metavar="NAME", help="What to call the job. Default: its kind. Not asked.")
@click.option("--no-check", is_flag=True, help="Contact no database.")
@click.option("--yes", is_flag=True, help="Ask nothing: the defaults stand for what is not given. So it is without a terminal.")
@config_option
@click.pass_obj
def init(  # noqa: PLR0913  each option is one
    stop: Stop,
    /,
    config_path: Path | None,
    *,
    accounts: str | None,
    profiles: str | None,
    source: str | None,
    no_check: bool,
    yes: bool,
    **given: object,
) -> int:
    """Ask a few questions, try the answers, write config.yaml and .env.

    Every question is an option too. Databases are tried at once, and nothing is written to them. A file that is there is
    never replaced. A password that is asked for stays out of the shell's history.

    \b
    Examples:
      usersync init                                     asks
      usersync init --kind auroville --target embedded --accounts embedded --profiles embedded
      usersync init --kind copy --source URL --table contacts --target URL --key id
    """
    options = Given(urls={"--accounts": accounts, "--profiles": profiles, "--source": source}, **given)  # type: ignore[arg-type]
    asking = not yes and sys.stdin.isatty() and sys.stdout.isatty()
    try:
        return _hold(Interview(options, config_path, stop, asking=asking, checking=not no_check))
    except Stopped as stopped:
        stopped.message, stopped.hint = f"{stopped.message.partition(';')[0]}; nothing was written", ""
        raise


def _hold(interview: Interview) -> int:
    """From the first question to the last word. Raises before anything is written, or not at all."""
    from usersync_cli.config.template import PLAIN, SECRET, config_yaml, dotenv, drafts, place, refuse_existing

    refuse_existing([interview.config, interview.env])
    if interview.config.name == interview.env.name:
        raise ConfigError(".env is for the variables; the config file needs another name", hint="leave --config out for config.yaml")
    if not interview.config.parent.is_dir():
        raise ConfigError(f"there is no folder {interview.config.parent}; nothing was written", hint="make it first: mkdir")
    answers = interview.answers()
    # .env first: it is needed by config.yaml, not the other way round.
    files = {interview.env: (dotenv(answers), SECRET), interview.config: (config_yaml(answers), PLAIN)}
    with drafts(files) as made:
        settings = _read_back(made[interview.config], answers)
    if interview.checking and not interview.to_fill:
        _check(interview, settings, answers)
    interview.stop.check()
    with drafts(files) as made:
        place(made)
    _say_what_comes_next(interview, answers)
    return 0


def _check(interview: Interview, settings: Config, answers: Answers) -> None:
    """Checks the job as `usersync check` does. Raises what was found, unless somebody wants the files all the same."""
    from usersync_cli.cli.bootstrap import run_context
    from usersync_cli.report.check import check

    job = settings.job(answers.job)
    settings.check_environment(job)
    found = [finding.error for finding in check(job, run_context(settings, job, interview.stop)) if finding.error]
    if not found:
        click.echo("  ok    the job fits the table that is loaded")
        return
    if not interview.asking:
        error = found[0]
        error.hint = f"{error.hint}\nnothing was written; fix this first, or write the files with --no-check".lstrip("\n")
        raise error
    for error in found:
        complain(error)
    if not interview.ask("Write the files all the same, and fix this later? yes or no", "no").lower().startswith("y"):
        raise ConfigError("nothing was written", hint="fix this first: usersync init asks again")


def _read_back(config: Path, answers: Answers) -> Config:
    """What `run` will read. Raises ConfigError when the environment, which wins over .env, says something else."""
    from usersync_cli.config.diagnostics import Mistakes
    from usersync_cli.config.loader import load
    from usersync_cli.config.template import VARIABLES

    try:
        load(config, {})
    except Mistakes as error:
        raise ConfigError(f"{error.message.replace(str(config), config.name)}; nothing was written") from None
    shadowed: list[str] = []
    try:
        settings = load(config)
        found = {"target": settings.target_database(), **{name: settings.source_database(name) for name in answers.sources}}
        shadowed = [VARIABLES[name] for name, url in answers.urls.items() if found[name] != settings.database(url, found[name].name)]
        if settings.environment != answers.environment:
            shadowed.append("USERSYNC_ENV")
    except Mistakes:
        shadowed = [VARIABLES[name] for name in answers.urls] + ["USERSYNC_ENV"]
    if shadowed:
        raise ConfigError(
            f"{' or '.join(shadowed)} has another value in the environment, which wins over .env; nothing was written",
            hint=f"take it out of the environment (unset {' '.join(shadowed)}), or answer what it says",
        )
    return settings


def _say_what_comes_next(interview: Interview, answers: Answers) -> None:
    named, job = interview.named, ["--job", answers.job]
    steps: list[tuple[list[str], str]] = []
    if answers.table or answers.query:
        if interview.to_fill:
            steps.append((["db", "shell", "origin", *named, "<", "dump.sql"], "loads tables into the embedded source"))
    elif interview.to_fill:
        steps.append((["seed", *(job if answers.job != "auroville" else []), *named], "makes three test users"))
    steps += [
        (["check", *job, *named], "rights and columns; prints the GRANT or ALTER that is missing"),
        (["run", *job, *named, "--dry-run", "--diff"], "what would change, row by row; nothing is written"),
        (["run", *job, *named], ""),
        (["crontab", *named], "the line that lets cron start it"),
    ]
    env = interview.env
    click.echo(f"\nwrote {interview.config} and {env} ({env.name} is readable by you alone: it is the place for passwords)\n\nNext:")
    lines = [("usersync " + " ".join(word if word == "<" else shlex.quote(word) for word in words), text) for words, text in steps]
    width = min(60, max(len(command) for command, _ in lines))
    for command, text in lines:
        click.echo(f"  {command:{width}}   {text}".rstrip())
