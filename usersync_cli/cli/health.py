"""`usersync health`: is every scheduled job well? For probes and monitoring; it only reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click

from usersync_cli.cli import config_option, output_option, write_json
from usersync_cli.cli.ledger import failing_document, named
from usersync_cli.cli.text import ago, lasting, moment, plural, when
from usersync_cli.report.status import JobStatus, read, seconds, told

if TYPE_CHECKING:
    from usersync_cli.auth.store import State
    from usersync_cli.config.loader import Config
    from usersync_cli.state.ledger import Failing, Run

_MISSED = 2  # starts that may pass without a good run: one is skipped when a run takes long, one may fail to start
_TEMPORARY = 4
_PASSING = {_TEMPORARY, 75, 76}  # what a later run puts right by itself; also being stopped, and a crash

_EXIT_STATUSES = """\b
Exit status: 0 all well; otherwise that of the last run (the worst of several jobs);
5 where a person must authorise a source;
4 for a job that never ran, is overdue, crashed or was stopped, and when the
target cannot be reached; 2 usage or config, also when no job has a schedule."""


@click.command(epilog=_EXIT_STATUSES)
@click.option("--job", "job_name", metavar="NAME", help="Only this job, with or without a schedule.")
@config_option
@output_option
@click.pass_context
def health(ctx: click.Context, job_name: str | None, config_path: Path | None, output: str) -> None:
    """Exit 0 when every scheduled job is well; for probes and monitoring.

    A job is well when its last run ended with 0 and its last good run is recent: not more than two starts of its
    schedule have passed since, not counting the time that the job usually takes. The schedule is read in UTC.
    Every step and stream must have ended well when it was last read: a good run of one stream says nothing about others.

    A scheduled job that only follows a log of changes (WorkOS) is judged by the age of its last poll instead: runs that could not
    reach the source, crashed or were stopped count once that poll is overdue. Problems that a person has to solve always count.
    Changes that were last asked for longer ago than half of the time that the source keeps them are a problem too.

    \b
    Examples:
      usersync health
      usersync health --job auroville --output json
    """
    from usersync_cli import log
    from usersync_cli.config.loader import load
    from usersync_cli.errors import worst

    log.configure(quiet=True)
    config = load(config_path)
    if job_name is None:
        _refuse_nothing(config)
    report = read(config, job_name)
    judged = [job for job in report.jobs if job_name or job.schedule]
    verdicts = [judge(job, report.at) for job in judged]
    status = worst(verdict.status for verdict in verdicts)
    if output == "json":
        write_json(
            "health",
            {
                "exit_status": status,
                "jobs": [
                    {**vars(verdict), "failing_streams": [failing_document(one, report.at) for one in job.failing]}
                    for job, verdict in zip(judged, verdicts, strict=True)
                ],
            },
        )
    else:
        _print(verdicts)
    ctx.exit(status)


@dataclass(frozen=True)
class Health:
    """What is wrong with a job, since when, and what to do; status 0 when it is well."""

    job: str
    status: int
    what: str
    todo: str = ""


def judge(job: JobStatus, at: datetime) -> Health:
    """One job at this moment. Rows that the guard kept are told also after runs that had nothing to do with them."""
    from usersync_cli.errors import worst

    verdict, kept = _judged(job, at), _kept(job, at)
    return kept if kept and worst([verdict.status, kept.status]) != verdict.status else verdict


def _kept(job: JobStatus, at: datetime) -> Health | None:
    from usersync_cli.errors import GuardRefused

    if not job.approvals:
        return None
    newest = max(job.approvals, key=lambda one: one.run_id)
    stream = f"stream {newest.stream}, " if newest.stream else ""
    others = len({(one.step, one.stream) for one in job.approvals}) - 1
    what = (
        f"the guard kept {plural(newest.keys, 'row')} of step {newest.step}, {stream}table {newest.table},"
        f" since {when(newest.created_at, at)}: {newest.reason}" + (f"; and {plural(others, 'other list')}" if others else "")
    )
    return Health(job.name, GuardRefused.status, what, f"usersync approvals show {newest.run_id}; if they may go: "
                   f"usersync run --job {job.name} --approve-deletes {newest.run_id}")  # fmt: skip


def _judged(job: JobStatus, at: datetime) -> Health:
    from usersync_cli.auth.authorizations import to_authorize
    from usersync_cli.errors import LoginRequired

    for source, token in job.tokens.items():
        if token is None or token.state != "ok":
            what = f"a person must authorise source {source}" + (f" again: {token.last_error}" if token else ": no token yet")
            return Health(job.name, LoginRequired.status, what, to_authorize(source))
    if job.finished is None:
        if job.holder:
            return Health(job.name, 0, "running for the first time")
        return Health(job.name, _TEMPORARY, "never ran", f"usersync run --job {job.name}; then `usersync crontab` shows how to start it")
    passing = _passes(job, at)
    if (job.failures or job.failing) and not passing:
        return _failed(job, at) if job.failures else _streams_failed(job, at)
    began = job.good.started_at if passing and job.good else job.finished.started_at
    well = Health(job.name, 0, f"last good run {ago(at - began)}{passing}{''.join(map(_token, job.tokens.items()))}")
    return _late(job, at) or well


def _late(job: JobStatus, at: datetime) -> Health | None:
    """A job that failed in nothing, but has not run or asked for changes for too long."""
    if job.log and at - job.log.polled > job.log.retention / 2:
        what = f"changes were last asked for {when(job.log.polled, at)}, and the source keeps them for {lasting(job.log.retention)} only"
        return Health(job.name, _TEMPORARY, what, f"usersync run --job {job.name}; then `usersync crontab` shows how to start it")
    if job.schedule and job.good and (missed := overdue(job, at)):
        return Health(
            job.name,
            _TEMPORARY,
            f"overdue: the last good {'poll was' if job.log else 'run began'} {when(_since(job, job.good), at)},"
            f" {_MISSED + 1} scheduled starts have passed since, the third at {moment(missed)}",
            f"is cron running? a run that cannot begin leaves no trace here: usersync check --job {job.name}",
        )
    return None


def _passes(job: JobStatus, at: datetime) -> str:
    """What has gone wrong since the last good poll of a log of changes, while that is recent; "" where it counts, or nothing did."""
    if not (job.log and job.schedule and job.good and (job.failures or job.failing)):
        return ""
    statuses = [*(run.exit_status for run in job.failures), *(one.exit_status for one in job.failing)]
    if overdue(job, at) or any(status is not None and status not in _PASSING and status < 128 for status in statuses):
        return ""
    if not job.failures:
        return f"; for now {_stream_failed(job.failing[0], at)}"
    return f"; {plural(len(job.failures), 'run')} since then did not get through, and a later one may: {told(job.failures[0])[0]}"


def _token(one: tuple[str, State | None]) -> str:
    source, token = one
    return f", token of {source} generation {token.generation}, refreshed {ago(token.age)}" if token else ""


def _failed(job: JobStatus, at: datetime) -> Health:
    newest, first = job.failures[0], job.failures[-1]
    message, hint = told(newest)
    # A probe that itself ended with 129, 130 or 143 would look as if it had been stopped.
    status = newest.exit_status if newest.exit_status is not None and newest.exit_status < 128 else _TEMPORARY
    how = "crashed" if newest.exit_status is None else f"exit status {newest.exit_status}"
    what = f"{how} since {when(first.started_at, at)}, {plural(len(job.failures), 'run')}: {message}"
    what = "; ".join([what, *(_stream_failed(one, at) for one in job.failing if one.run_id != newest.id)])
    return Health(job.name, status, what, "; ".join(line.strip() for line in hint.splitlines()))


def _streams_failed(job: JobStatus, at: datetime) -> Health:
    """The last run was good, but it did not read everything."""
    from usersync_cli.errors import worst

    todo = dict.fromkeys(line.strip() for one in job.failing for line in (one.error_hint or "").splitlines())
    found = (_stream_failed(one, at) for one in job.failing)
    return Health(job.name, worst(one.exit_status for one in job.failing), "; ".join(found), "; ".join(todo))


def _stream_failed(one: Failing, at: datetime) -> str:
    return f"{named(one)} failed since {when(one.since, at)}, {plural(one.runs, 'run')}: {one.error}"


def overdue(job: JobStatus, at: datetime) -> datetime | None:
    """The scheduled start by which a job should have run again, once a run of the usual length from then would be over."""
    from cronsim import CronSim

    if job.schedule is None or job.good is None:
        return None
    usual = timedelta(seconds=median([seconds(run) or 0 for run in job.runs if run.status == "ok"] or [0]))
    starts = CronSim(job.schedule, (_since(job, job.good) + usual).astimezone(UTC))
    missed = list(islice(starts, _MISSED + 1))
    # Fewer: a schedule such as 30 February.
    return missed[-1] if len(missed) > _MISSED and missed[-1] + usual < at else None


def _since(job: JobStatus, good: Run) -> datetime:
    """Since when a job is to run again: its last good run; or the last time that changes were asked for, if that is longer ago."""
    return min(good.started_at, job.log.polled) if job.log else good.started_at


def _refuse_nothing(config: Config) -> None:
    """What nobody looked at is not well."""
    from usersync_cli.errors import ConfigError

    if not any(job.schedule for job in config.jobs.values()):
        raise ConfigError(f"{config.path}: no job has a schedule, so none can be judged", hint="give it one, or name a job with --job")


def _print(verdicts: list[Health]) -> None:
    for verdict in verdicts:
        if verdict.status:
            click.echo(f"{verdict.job}: {verdict.what}" + (f"; {verdict.todo}" if verdict.todo else ""))
    if not any(verdict.status for verdict in verdicts):
        click.echo("; ".join(f"{verdict.job}: ok, {verdict.what}" for verdict in verdicts))
