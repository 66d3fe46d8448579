"""`usersync run`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usersync_cli import stdio
from usersync_cli.cli import EXIT_STATUSES, config_option, output_option, write_json
from usersync_cli.cli.diff import TERMINAL_ROWS, Document, Lines, as_long_as_somebody_reads
from usersync_cli.patience import Patience
from usersync_cli.signals import Stop

if TYPE_CHECKING:
    from usersync_cli.errors import UsersyncError
    from usersync_cli.model import Change
    from usersync_cli.run.context import Diff, StepResult
    from usersync_cli.run.job import RunResult

_MAIL_LINES = 10  # of a quiet run that failed: cron mails them
_QUIET_STEPS = 2  # of those that failed, with a line on stdout
_NOTICES = 2  # lines that may follow: on_failure or ping_url did not work


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
@click.option(
    "--diff", is_flag=True, help="With --dry-run: print each row that would be inserted, changed or removed, with old and new values."
)
@click.option(
    "--diff-limit",
    type=click.IntRange(min=0),
    metavar="ROWS",
    help=f"Rows that --diff prints; 0 for all. Default: {TERMINAL_ROWS} on a terminal, all elsewhere.",
)
@click.option("--max-runtime", metavar="TIME", help="Stop at the next safe point after this long, such as 50m; exit status 4.")
@click.option("--allow-empty", is_flag=True, help="Accept, once, that an extract which had rows is empty now.")
@click.option(
    "--approve-deletes",
    type=click.IntRange(min=1),
    metavar="RUN",
    help="Remove the rows of this run's list, which a guard kept (`usersync approvals show RUN`).",
)
@click.option(
    "--credentials-out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Make first passwords for new accounts, and append them to this CSV file, which only you can read.",
)
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
    diff: bool,
    diff_limit: int | None,
    max_runtime: str | None,
    allow_empty: bool,
    approve_deletes: int | None,
    credentials_out: Path | None,
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
      usersync run --job auroville --dry-run --diff        what would change, row by row
      usersync run --job auroville -q                      for cron: silent when all is well
      usersync run --job auroville --output json           one JSON document on stdout
    """
    from usersync_cli import log
    from usersync_cli.cli.bootstrap import world
    from usersync_cli.config import loader
    from usersync_cli.run.context import Options
    from usersync_cli.run.job import line
    from usersync_cli.run.job import run as run_job
    from usersync_cli.run.notify import watching

    _check_diff(dry_run=dry_run, diff=diff, diff_limit=diff_limit, output=output)
    if not dry_run:
        stdio.result_is_elsewhere()
    log.configure(log_format, verbosity=verbose, quiet=quiet, most=_MAIL_LINES if quiet else None)
    settings = loader.load(config_path)
    job = settings.job(job_name)
    settings.check_environment(job)
    limit = _duration(max_runtime) if max_runtime else job.max_runtime
    stop.limit(limit.total_seconds() if limit else None)
    stop.patience = Patience(job.max_wait.total_seconds())
    options = Options(
        steps,
        streams,
        full=full,
        dry_run=dry_run,
        allow_empty=allow_empty,
        accept_account=accept_account,
        approve_deletes=approve_deletes,
        credentials_out=credentials_out,
    )
    if credentials_out and not settings.targets_of(job_name):
        raise click.UsageError(f"--credentials-out is for jobs that make accounts, and {job_name} makes none.")
    with (
        watching(job, settings.environment, dry_run=dry_run) as watch,
        as_long_as_somebody_reads() if diff else nullcontext(),
        _printer(output, diff=diff, diff_limit=diff_limit) as printer,
    ):
        with _progress(shown=sys.stderr.isatty() and not quiet and output == "text") as bar:
            told = replace(options, diff=bar.aside(printer)) if printer else options
            result = run_job(job, replace(world(settings, job, stop, bar.advance), began=watch.began), told)
        watch.ended(document(result), [line(result, step) for step in result.steps])
        _print(result, output, printer, quiet=quiet)
    return result.exit_status


def _check_diff(*, dry_run: bool, diff: bool, diff_limit: int | None, output: str) -> None:
    if diff and not dry_run:
        raise click.UsageError("--diff shows what a run would do, before it does it: add --dry-run.")
    if diff_limit is not None and not diff:
        raise click.UsageError("--diff-limit is for --dry-run --diff.")
    if diff_limit is not None and output == "json":
        raise click.UsageError("--output json has every change: leave --diff-limit out.")


@contextmanager
def _printer(output: str, *, diff: bool, diff_limit: int | None) -> Iterator[Lines | Document | None]:
    """Where the changes go; stdout as it is now, because a progress bar puts something else there."""
    from usersync_cli.log import coloured

    if not diff:
        yield None
    elif output == "json":
        with Document(sys.stdout) as document:
            yield document
    else:
        limit = TERMINAL_ROWS if diff_limit is None and sys.stdout.isatty() else diff_limit
        yield Lines(sys.stdout, limit=limit or None, coloured=coloured(sys.stdout))


def _duration(text: str) -> timedelta:
    from usersync_cli.config.loader import duration

    try:
        return duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--max-runtime") from None


def _print(result: RunResult, output: str, printer: Lines | Document | None, *, quiet: bool) -> None:
    from usersync_cli.run.job import line

    if isinstance(printer, Document):
        printer.finish(document(result))
    elif output == "json":
        write_json("run", document(result))
    if isinstance(printer, Lines):
        printer.finish(result)
    failed = [step for step in result.steps if step.error]
    lines = [line(result, step) for step in (failed[:_QUIET_STEPS] if quiet else result.steps)] if output == "text" else []
    for one in lines:
        click.echo(one)
    if quiet:
        _mail(result, kept=len(lines) + _NOTICES)
    else:
        tell(result)


def tell(result: RunResult) -> None:
    """On stderr, what went wrong and what to do."""
    from usersync_cli.errors import status_of
    from usersync_cli.log import failure

    for step in result.steps:
        if step.error:
            failure(_what(result, step), step.error.hint, status=status_of(step.error), job=result.job, step=step.name)


def _mail(result: RunResult, *, kept: int) -> None:
    """What cron mails: what failed and what to do, since when; ten lines at most, whatever failed."""
    from usersync_cli.cli.text import moment, plural
    from usersync_cli.log import tell

    lines: list[str] = []
    for step in result.steps:
        if step.error:
            lines += [f"usersync: {_what(result, step)}", *(f"  {one}" for one in step.error.hint.splitlines())]
    since = (
        [f"usersync: {result.job}: failing since {moment(result.failing[0])}, {plural(result.failing[1], 'run')}"] if result.failing else []
    )
    tell(lines, last=since, kept=kept)


def _what(result: RunResult, step: StepResult) -> str:
    named = f"step {step.name}: "
    return f"{result.job}: {named}{step.error.message.removeprefix(named)}" if step.error else ""


def document(result: RunResult) -> dict[str, Any]:
    """The run as JSON: counts and keys, never a person's data."""
    return {
        "job": result.job,
        "run": result.run_id,
        "dry_run": result.dry_run,
        "exit_status": result.exit_status,
        "seconds": round(result.seconds, 3),
        "failing": result.failing and {"since": result.failing[0].isoformat(), "runs": result.failing[1]},
        "steps": [
            {
                "step": step.name,
                **asdict(step.counts),
                "left_out": {what.replace(" ", "_").replace("-", "_"): number for what, number in step.left_out.items()},
                "bytes": step.bytes,
                "seconds": round(step.seconds, 3),
                "duplicate_keys": list(step.duplicate_keys) if result.dry_run else [],  # they may be names: only who asks sees them
                "error": _error(step.error),
                "streams": [
                    {"stream": one.name, "exit_status": _status(one.error), **asdict(one.counts), "error": _error(one.error)}
                    for one in step.streams
                ],
            }
            for step in result.steps
        ],
    }


def _error(error: UsersyncError | None) -> dict[str, str] | None:
    return {"message": error.message, "hint": error.hint} if error else None


def _status(error: UsersyncError | None) -> int:
    from usersync_cli.errors import status_of

    return status_of(error) if error else 0


class _Bar:
    """No progress bar at all."""

    def advance(self, extract: str, size: int) -> None:
        """So many bytes more were read."""

    def aside(self, diff: Diff) -> Diff:
        """The same, with the bar out of the way while it prints."""
        return diff


@contextmanager
def _progress(*, shown: bool) -> Iterator[_Bar]:
    """A line a stage with the megabytes so far, on a terminal only: how much is to come isn't known."""
    if not shown:
        yield _Bar()
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        class Shown(_Bar):
            def advance(self, extract: str, size: int) -> None:
                bar.start()
                if extract not in tasks:
                    tasks[extract] = bar.add_task(f"reading {extract}", total=None)
                bar.advance(tasks[extract], size)

            def aside(self, diff: Diff) -> Diff:
                def told(change: Change) -> bool:
                    if bar.live.is_started:
                        bar.stop()
                    return diff(change)

                return told

        yield Shown()
