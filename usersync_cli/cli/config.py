"""`usersync config`: is the file right, and what does its schema look like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usersync_cli.cli import EXIT_STATUSES, config_option, output_option, write_json

if TYPE_CHECKING:
    from usersync_cli.config.diagnostics import Mistake
    from usersync_cli.config.loader import Config


@click.group(epilog=EXIT_STATUSES)
def config() -> None:
    """Check the config file, or print its JSON Schema.

    \b
    Examples:
      usersync config validate                       every mistake, with its line
      usersync config validate --job auroville       and: is every variable of this job set?
      usersync config schema > config.schema.json    for editors that complete and check YAML
    """


@config.command(epilog=EXIT_STATUSES)
def schema() -> None:
    """Print the JSON Schema of the config file.

    \b
    Example:
      usersync config schema > config.schema.json
    """
    import json

    from usersync_cli.config.loader import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@config.command(epilog=EXIT_STATUSES)
@config_option
@click.option("--job", metavar="NAME", help="Also insist that this job can run here.")
@output_option
@click.pass_context
def validate(ctx: click.Context, config_path: Path | None, job: str | None, output: str) -> None:
    """Read the config file and print every mistake in it. Nothing is contacted.

    \b
    Examples:
      usersync config validate
      usersync config validate --config staging.yaml --job auroville
    """
    from usersync_cli.config.diagnostics import Mistakes
    from usersync_cli.config.loader import load

    try:
        loaded = load(config_path)
        if job:
            loaded.job(job)
    except Mistakes as error:
        if output != "json":
            raise
        write_json("config", {"file": error.file, "ok": False, "mistakes": [vars(mistake) for mistake in error.found]})
        ctx.exit(error.status)
    if output == "json":
        write_json("config", _document(loaded))
    else:
        _print(loaded)


def _document(config: Config) -> dict[str, Any]:
    notes = [{**vars(note), "jobs": jobs} for note, jobs in _notes(config)]
    return {
        "file": str(config.path),
        "ok": True,
        "environment": config.environment,
        "jobs": list(config.jobs),
        "sources": list(config.sources),
        "notes": notes,
    }


def _print(config: Config) -> None:
    click.echo(f"{config.path}: {_count(len(config.jobs), 'job')}, {_count(len(config.sources), 'source')}: ok")
    for note, jobs in _notes(config):
        needed_by = f"needed by {', '.join(jobs)}" if jobs else "no job needs it"
        click.echo(f"{note.show(str(config.path))} ({needed_by})")


def _notes(config: Config) -> list[tuple[Mistake, list[str]]]:
    """What is no mistake of the file, but would keep a job from running here; with those jobs."""
    lacking = {job: config.lacking(job) for job in config.jobs}
    notes = sorted({*config.unset(), *(note for notes in lacking.values() for note in notes)})
    return [(note, [job for job, notes in lacking.items() if note in notes]) for note in notes]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
