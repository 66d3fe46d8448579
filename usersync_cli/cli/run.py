"""`usersync run`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import click

from usersync_cli import stdio
from usersync_cli.cli import EXIT_STATUSES, config_option, output_option
from usersync_cli.cli.diff import TERMINAL_ROWS, as_long_as_somebody_reads
from usersync_cli.cli.reporter import document, printing, progress, report
from usersync_cli.patience import Patience
from usersync_cli.signals import Stop

_MAIL_LINES = 10  # of a quiet run that failed: cron mails them


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
    from usersync_cli.cli.bootstrap import run_context
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
        printing(output, diff=diff, diff_limit=diff_limit) as printer,
    ):
        with progress(shown=sys.stderr.isatty() and not quiet and output == "text") as bar:
            told = replace(options, diff=bar.aside(printer)) if printer else options
            result = run_job(job, replace(run_context(settings, job, stop, bar.advance), began=watch.began), told)
        watch.ended(document(result), [line(result, step) for step in result.steps])
        report(result, output, printer, quiet=quiet)
    return result.exit_status


def _check_diff(*, dry_run: bool, diff: bool, diff_limit: int | None, output: str) -> None:
    if diff and not dry_run:
        raise click.UsageError("--diff shows what a run would do, before it does it: add --dry-run.")
    if diff_limit is not None and not diff:
        raise click.UsageError("--diff-limit is for --dry-run --diff.")
    if diff_limit is not None and output == "json":
        raise click.UsageError("--output json has every change: leave --diff-limit out.")


def _duration(text: str) -> timedelta:
    from usersync_cli.config.loader import duration

    try:
        return duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--max-runtime") from None
