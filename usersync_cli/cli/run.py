"""`usersync run`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usersync_cli.cli import EXIT_STATUSES, config_option, output_option, write_json
from usersync_cli.signals import Stop

if TYPE_CHECKING:
    from usersync_cli.run import Progress, RunResult


@click.command(epilog=EXIT_STATUSES)
@click.option("--job", "job_name", required=True, metavar="NAME", help="The job, by its name in the config file.")
@config_option
@click.option("--step", "steps", multiple=True, metavar="NAME", help="Only this step; may be given several times.")
@click.option(
    "--stream", "streams", multiple=True, metavar="NAME", help="Only this stream of a source of documents; may be given several times."
)
@click.option("--full", is_flag=True, help="Read and compare everything, whatever the cursors say. Never truncates.")
@click.option(
    "--dry-run", is_flag=True, help="Extract, stage and compare for real, then roll back: the numbers are true, nothing is written."
)
@click.option("--max-runtime", metavar="TIME", help="Stop at the next safe point after this long, such as 50m; exit status 4.")
@click.option("--allow-empty", is_flag=True, help="Accept, once, that an extract which had rows is empty now.")
@click.option("--accept-account", is_flag=True, help="Accept, once, that a source is another database or account now.")
@output_option
@click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    default="auto",
    show_default=True,
    help="How to log on stderr; auto is console on a terminal, JSON elsewhere.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing when all went well: for cron, which mails what is printed.")
@click.option("-v", "--verbose", count=True, help="Log more.")
@click.pass_obj
def run(  # noqa: PLR0913  each option is one
    stop: Stop,
    job_name: str,
    config_path: Path | None,
    steps: tuple[str, ...],
    streams: tuple[str, ...],
    *,
    full: bool,
    dry_run: bool,
    max_runtime: str | None,
    allow_empty: bool,
    accept_account: bool,
    output: str,
    log_format: str,
    quiet: bool,
    verbose: int,
) -> int:
    """Run a job: extract, transform, load, then exit. Running it again is always safe.

    \b
    Examples:
      usersync run --job auroville
      usersync run --job auroville --dry-run
      usersync run --job auroville -q                      for cron: silent when all is well
      usersync run --job auroville --output json           one JSON document on stdout
    """
    from usersync_cli import config, log
    from usersync_cli.cli.world import world
    from usersync_cli.run import Options
    from usersync_cli.run import run as run_job

    log.configure(log_format, verbosity=verbose, quiet=quiet)
    settings = config.load(config_path)
    job = settings.job(job_name)
    settings.check_environment(job)
    limit = _duration(max_runtime) if max_runtime else job.max_runtime
    stop.limit(limit.total_seconds() if limit else None)
    with _progress(shown=sys.stderr.isatty() and not quiet and output == "text") as progress:
        result = run_job(
            job,
            world(settings, job, stop, progress),
            Options(steps, streams, full=full, dry_run=dry_run, allow_empty=allow_empty, accept_account=accept_account),
        )
    _print(result, output, quiet=quiet)
    return result.exit_status


def _duration(text: str) -> timedelta:
    from usersync_cli.config import duration

    try:
        return duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--max-runtime") from None


def _print(result: RunResult, output: str, *, quiet: bool) -> None:
    from usersync_cli.errors import status_of
    from usersync_cli.log import failure
    from usersync_cli.run import line

    if output == "json":
        write_json("run", document(result))
    elif not (quiet and result.exit_status == 0):
        for step in result.steps:
            click.echo(line(result, step))
    for step in result.steps:
        if step.error:
            failure(
                f"{result.job}: step {step.name}: {step.error.message}",
                step.error.hint,
                status=status_of(step.error),
                job=result.job,
                step=step.name,
            )


def document(result: RunResult) -> dict[str, Any]:
    """The run as JSON: counts and keys, never a person's data."""
    return {
        "job": result.job,
        "run": result.run_id,
        "dry_run": result.dry_run,
        "exit_status": result.exit_status,
        "seconds": round(result.seconds, 3),
        "steps": [
            {
                "step": step.name,
                **asdict(step.counts),
                "bytes": step.bytes,
                "seconds": round(step.seconds, 3),
                "duplicate_keys": list(step.duplicate_keys),
                "error": step.error and {"message": step.error.message, "hint": step.error.hint},
            }
            for step in result.steps
        ],
    }


@contextmanager
def _progress(*, shown: bool) -> Iterator[Progress]:
    """A line a stage with the megabytes so far, on a terminal only: how much is to come isn't known."""
    if not shown:
        yield lambda _extract, _size: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def advance(extract: str, size: int) -> None:
            if extract not in tasks:
                tasks[extract] = bar.add_task(f"reading {extract}", total=None)
            bar.advance(tasks[extract], size)

        yield advance
