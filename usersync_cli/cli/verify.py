"""`usersync verify`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usersync_cli.cli import config_option, output_option, write_json
from usersync_cli.cli.diff import escaped, quoted
from usersync_cli.patience import Patience
from usersync_cli.signals import Stop

if TYPE_CHECKING:
    from usersync_cli.report.verify.report import Difference, VerifyReport

_EXIT_STATUSES = """\b
Exit status: 0 no difference, 2 usage or config, 4 temporary, 7 the two
sides can't be compared, 8 differences, 9 a target table is not there yet,
129/130/143 stopped by a signal."""


@click.command(epilog=_EXIT_STATUSES)
@click.option("--job", "job_name", required=True, metavar="NAME", help="The job, by its name in the config file.")
@click.option("--step", "steps", multiple=True, metavar="NAME", help="Only this step; may be given several times.")
@click.option(
    "--stream", "streams", multiple=True, metavar="NAME", help="Only this stream of a source of documents; may be given several times."
)
@click.option("--values", is_flag=True, help="Print values too, of source and table: people's data.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="ROWS",
    help="Rows to list for each step or stream; 0 for all.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing when there is no difference: for cron, which mails what is printed.")
@config_option
@output_option
@click.pass_obj
def verify(  # noqa: PLR0913  each option is one
    stop: Stop,
    job_name: str,
    steps: tuple[str, ...],
    streams: tuple[str, ...],
    config_path: Path | None,
    *,
    values: bool,
    limit: int,
    quiet: bool,
    output: str,
) -> int:
    """Compare a job's tables with its sources, row by row; write nothing.

    Everything is read, whatever earlier runs noted down, and compared apart from how a run compares. Rows are missing,
    extra, or different in the columns named.
    What the source lacks is extra where the step says on_missing: delete, and where it says mark and the row is not
    marked; rows that never came from the source count too. With on_missing: keep they are only counted.
    Records that were set aside are counted as rejected. A run, or a change at the source, in the meantime looks like a
    difference: verify once more. Each stream of a step of documents is compared with its own table.

    \b
    Examples:
      usersync verify --job auroville
      usersync verify --job auroville --values             with what differs
      usersync verify --job teamleader --stream contacts
      usersync verify --job auroville --output json --limit 0
    """
    from usersync_cli import log
    from usersync_cli.cli.bootstrap import run_context
    from usersync_cli.config import loader
    from usersync_cli.errors import status_of, worst
    from usersync_cli.report.verify.report import VerifyOptions, line
    from usersync_cli.report.verify.steps import verify as compare

    log.configure(quiet=True)
    settings = loader.load(config_path)
    job = settings.job(job_name)
    settings.check_environment(job)
    stop.patience = Patience(job.max_wait.total_seconds(), partial(click.echo, err=True))
    reports: list[VerifyReport] = []
    for report in compare(job, run_context(settings, job, stop), VerifyOptions(steps, streams, limit or None, values=values)):
        reports.append(report)
        if output == "text" and not (quiet and report.exit_status == 0):
            click.echo(line(job.name, report))
            _list(report, values=values)
        if report.error and (len(reports) == 1 or report.error is not reports[-2].error):  # streams that share one are told once
            log.failure(f"{job.name}: step {report.step}: {report.error.message}", report.error.hint, status=status_of(report.error))
    status = worst(report.exit_status for report in reports)
    if output == "json":
        write_json("verify", {"job": job.name, "exit_status": status, "steps": [_document(one, values=values) for one in reports]})
    if found := sum(report.differences for report in reports):
        hint = f"`usersync run --job {job.name} --full` writes what is missing or different"
        if any(report.extra for report in reports):
            hint += "; it removes only what came from the source before"
        log.failure(f"{job.name}: {found:,} row{'s differ' if found > 1 else ' differs'} from the sources", hint, status=status)
    return status


def _list(report: VerifyReport, *, values: bool) -> None:
    for found in report.found:
        shown = f"  {found.kind:<9} {'without a key' if found.key is None else escaped(found.key)}"
        told = _told(found) if values else ", ".join(map(escaped, found.columns))
        click.echo(f"{shown}: {told}" if told else shown)
    if (more := report.differences + report.rejected - len(report.found)) > 0:
        click.echo(f"  ... and {more:,} more; --limit 0 lists all")


def _told(found: Difference) -> str:
    if not found.columns:
        return _named(found.source or found.table)
    return ", ".join(f"{escaped(name)} {quoted(found.table[name])} instead of {quoted(found.source[name])}" for name in found.columns)


def _named(values: Mapping[str, str | None]) -> str:
    return ", ".join(f"{escaped(name)} {quoted(value)}" for name, value in values.items())


def _document(report: VerifyReport, *, values: bool) -> dict[str, Any]:
    names = ("step", "table", "read", "duplicates", "rows", "missing", "extra", "different", "kept", "marked", "rejected")
    return {
        "stream": report.stream or None,
        **{name: getattr(report, name) for name in names},
        "columns": dict(report.columns),
        "differences": [
            {
                "kind": one.kind,
                "key": one.key,
                "columns": list(one.columns),
                **({"source": dict(one.source), "table": dict(one.table)} if values else {}),
            }
            for one in report.found
        ],
        "skipped": report.skipped or None,
        "seconds": round(report.seconds, 3),
        "error": report.error and {"message": report.error.message, "hint": report.error.hint},
    }
