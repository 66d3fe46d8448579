"""`usersync check`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from usersync_cli.cli import EXIT_STATUSES, config_option, output_option, write_json
from usersync_cli.signals import Stop

if TYPE_CHECKING:
    from usersync_cli.config.loader import Config
    from usersync_cli.model import Job, Step
    from usersync_cli.report.check import Finding


@click.command(epilog=EXIT_STATUSES)
@click.option("--job", "job_name", metavar="NAME", help="Only this job; otherwise all of them.")
@click.option("--sql", "show_sql", is_flag=True, help="Print each step's transform, or that of each stream, instead of trying it.")
@config_option
@output_option
@click.pass_obj
def check(stop: Stop, job_name: str | None, config_path: Path | None, *, show_sql: bool, output: str) -> int:
    """Try a job's config, connections, rights and columns; write nothing.

    What is missing is printed with the GRANT or ALTER that would help.

    \b
    Examples:
      usersync check                               every job
      usersync check --job auroville
      usersync check --job auroville --sql         the SQL of each step, to copy
    """
    from usersync_cli import log
    from usersync_cli.config import loader

    log.configure(quiet=True)
    settings = loader.load(config_path)
    jobs = [settings.job(name) for name in ([job_name] if job_name else settings.jobs)]
    if show_sql:
        for job in jobs:
            _print_sql(settings, job)
        return 0
    from usersync_cli.cli.bootstrap import run_context
    from usersync_cli.errors import status_of, worst
    from usersync_cli.report.check import check as look

    stop.patience.tell = partial(click.echo, err=True)
    findings: list[tuple[str, Finding]] = []
    for job in jobs:
        settings.check_environment(job)
        for finding in look(job, run_context(settings, job, stop)):
            findings.append((job.name, finding))
            if output == "text":
                _print(job.name, finding)
    status = worst(status_of(finding.error) for _, finding in findings if finding.error)
    if output == "json":
        write_json(
            "check",
            {
                "exit_status": status,
                "findings": [
                    {
                        "job": job_name,
                        "step": f.step or None,
                        "what": f.what,
                        "ok": f.error is None,
                        "error": f.error and f.error.message,
                        "hint": f.error and f.error.hint,
                        "advice": f.advice or None,
                    }
                    for job_name, f in findings
                ],
            },
        )
    return status


def _print(job: str, finding: Finding) -> None:
    word = "FAIL" if finding.error else "warn" if finding.advice else "ok  "
    where = f"step {finding.step}: " if finding.step else ""
    click.echo(f"{word} {job}: {where + finding.error.message if finding.error else finding.what}")
    for hint in (finding.error.hint if finding.error else finding.advice).splitlines():
        click.echo(f"       {hint}")


def _print_sql(settings: Config, job: Job) -> None:
    from usersync_cli.run.context import is_outbound, reads_streams

    for step in job.steps:
        if is_outbound(step) and reads_streams(step) and not step.transform:
            _print_accounts_sql(settings, job, step)
            continue
        if reads_streams(step) and not is_outbound(step):
            _print_stream_sql(settings, job, step)
            continue
        click.echo(f"-- job {job.name}, step {step.name}, into {step.load.table}")
        only = next(iter(step.extract))
        click.echo((step.transform or f"SELECT * FROM {only}").rstrip() + "\n")  # noqa: S608  shown, not run


def _print_accounts_sql(settings: Config, job: Job, step: Step) -> None:
    """The source's own SELECT of accounts."""
    from usersync_cli.cli.bootstrap import source
    from usersync_cli.run.outbound.reader import transform_of

    (extract,) = step.extract.values()
    click.echo(f"-- job {job.name}, step {step.name}, into {step.load.target}")
    click.echo(transform_of(source(settings, extract.source), extract.source, extract.streams[0]).rstrip() + "\n")


def _print_stream_sql(settings: Config, job: Job, step: Step) -> None:
    """The step's own, or that of its source for each stream."""
    from usersync_cli.cli.bootstrap import source
    from usersync_cli.run.documents.stream import transform_of

    ((name, extract),) = step.extract.items()
    read = source(settings, extract.source)
    for stream in extract.streams:
        click.echo(f"-- job {job.name}, step {step.name}, stream {stream}, into {step.load.table.replace('{stream}', stream)}")
        if name != "records" and not step.transform:
            click.echo(f"-- in the step's own transform, records is called {name}")
        click.echo(transform_of(step, read, stream).rstrip() + "\n")
