"""`usersync status`: what the ledger in the target says of each job. It only reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from usersync_cli.cli import config_option, output_option, write_json
from usersync_cli.cli.ledger import job_document, named, outcome, owner, read_at, took
from usersync_cli.cli.text import iso, lasting, moment, plural, when
from usersync_cli.cli.tokens import token_hints, token_line
from usersync_cli.report.status import told

if TYPE_CHECKING:
    from usersync_cli.auth.store import State
    from usersync_cli.report.status import JobStatus
    from usersync_cli.report.streams import ListingStatus, StreamStatus
    from usersync_cli.shapes import LogPlace
    from usersync_cli.state.ledger import Run, StepRun, StoredCursor

_EXIT_STATUSES = """\b
Exit status: 0 also when the last run failed (`usersync health` judges),
2 usage or config, 4 the target cannot be reached, 7 newer tables than this program knows."""


@click.command(epilog=_EXIT_STATUSES)
@click.option("--job", "job_name", metavar="NAME", help="Only this job.")
@config_option
@output_option
def status(job_name: str | None, config_path: Path | None, output: str) -> None:
    """Show each job's last runs, freshness and cursors.

    Of streams of documents also their tables: rows, the newest change, the last complete listing. A big table is
    estimated, not counted.

    Only reads: SELECT rights on the schema usersync are enough, and on those tables to count their rows.

    \b
    Examples:
      usersync status
      usersync status --job auroville
      usersync status --output json | jq '.jobs[].last_good.age_seconds'
    """
    from usersync_cli import log
    from usersync_cli.config.loader import load
    from usersync_cli.report.status import read

    log.configure(quiet=True)
    report = read(load(config_path), job_name, tables=True)
    if output == "json":
        write_json("status", {"at": iso(report.at), "jobs": [job_document(job, report.at) for job in report.jobs]})
    else:
        click.echo("\n\n".join("\n".join(_lines(job, report.at)) for job in report.jobs))


# as text


def _lines(job: JobStatus, at: datetime) -> Iterator[str]:
    yield job.name + ("" if job.configured else " (no longer in the config file)")
    yield _row("schedule", f"{job.schedule} (cron)" if job.schedule else "none")
    if job.holder:
        yield _row("running", f"now, held by {owner(job.holder)}, lease until {moment(job.holder.lease_until)}")
    for source, token in job.tokens.items():
        yield from _token(source, token)
    if job.finished is None:
        yield _row("last run", "under way, the first one" if job.holder else "never run")
    else:
        yield from _ran(job, job.finished, at)
    if job.runs:
        yield from _read(job, at)


def _ran(job: JobStatus, finished: Run, at: datetime) -> Iterator[str]:
    """How it ended, and what waits for a person since."""
    yield _row("last run", f"{when(finished.started_at, at)}: {outcome(finished)}")
    if job.good is None:
        yield _row("last good", "never")
    elif job.good is not finished and job.good.id != finished.id:
        yield _row("last good", f"{when(job.good.started_at, at)}, took {took(job.good)}")
    yield from _failing(job, at)
    for one in job.failing:
        yield _row("failing", f"{named(one)} since {when(one.since, at)}, {plural(one.runs, 'run')}, exit status {one.exit_status}:")
        yield _row("", f"{one.error}")
        yield from (_row("", line) for line in (one.error_hint or "").splitlines())
    for step in job.steps:
        yield _row(f"step {step.step}", _counted(step))
    for waiting in job.approvals:
        yield _row(
            "approval", f"{plural(waiting.keys, 'row')} of step {waiting.step} wait since {when(waiting.created_at, at)}: {waiting.reason}"
        )
        yield _row("", f"`usersync approvals show {waiting.run_id}` lists them")
    for name, number in job.rejects.items():
        yield _row("rejects", f"{plural(number, 'record')} of step {name} set aside, waiting for somebody to look")
        yield _row("", f"`usersync rejects list --job {job.name} --step {name}` lists them")
    for name, number in job.conflicts.items():
        yield _row("conflicts", f"{plural(number, 'id')} of step {name}: one customer on the map, another at the source")
        yield _row("", "`usersync mappings conflicts list` shows them; a person decides")


def _read(job: JobStatus, at: datetime) -> Iterator[str]:
    """How far each stream was read; of documents, what became of it."""
    for one in job.streams:
        first, *more = _stream(one, at)
        yield _row(f"read {one.stream}", first)
        yield from (_row("", line) for line in more)
    looked_at = {(one.step, one.stream) for one in job.streams}
    for cursor in job.cursors:
        if (cursor.step, cursor.stream) not in looked_at:
            yield _row(f"read {cursor.stream}", f"{plural(cursor.rows, 'row')} {_position(cursor, at)}")
    for step in dict.fromkeys(one.step for one in job.streams):
        yield from _kept([one for one in job.streams if one.step == step and one.taken_over and one.on_missing == "keep"])


def _stream(one: StreamStatus, at: datetime) -> Iterator[str]:
    yield _held(one, at)
    yield _in_log(one.place, at) if one.place else _position(one.cursor, at) if one.cursor else "not read yet"
    if one.swept:
        yield f"listed whole {when(one.swept.finished_at or one.swept.started_at, at)}: {_listed(one.swept)}{_drift(one.swept)}"
    if one.under_way:
        yield f"listing since {when(one.under_way.started_at, at)}: {plural(one.under_way.records, 'record')} so far"
    if one.rejects:
        yield f"{plural(one.rejects, 'record')} set aside"


def _held(one: StreamStatus, at: datetime) -> str:
    if one.problem:
        return f"{one.table} {one.problem}"
    held = one.held
    if held.rows is None:
        rows = f"an unknown number of rows in {one.table}"
    elif held.exact:
        rows = f"{plural(held.rows, 'row')} in {one.table}"
    else:
        rows = f"about {float(f'{held.rows:.2g}'):,.0f} rows in {one.table}"
    marked = f", {held.marked:,} of them marked as gone" if held.marked else ""
    return rows + marked + (f", newest change {when(held.newest, at)}" if held.newest else "")


def _listed(listing: ListingStatus) -> str:
    refused = f"the guard kept {plural(listing.candidates, 'row')}"
    outcome = {"refused": refused, "approved": f"{plural(listing.removed, 'row')} removed, as approved"}.get(listing.outcome)
    removed = f"{plural(listing.removed, 'row')} removed" if listing.removed else "ok"
    return f"{plural(listing.records, 'record')}, {outcome or removed}"


def _drift(listing: ListingStatus) -> str:
    """What the listing had to put right although the source's changes were followed."""
    if listing.drift is None:
        return ""
    found = ", ".join(f"{name} {number:,}" for name, number in listing.drift.items())
    return f"; it differed from what changes had led to: {found}" if found else ", as changes had led to"


def _kept(streams: Sequence[StreamStatus]) -> Iterator[str]:
    """What else could become of rows in tables of another program."""
    if not streams:
        return
    unknown = sum(one.held.unknown or 0 for one in streams)
    theirs = f" ({plural(unknown, 'row')} now)" if unknown else ""
    yield _row(
        "on_missing",
        "keep: rows stay whose records have left. `on_missing: mark` would set deleted_at in those that usersync has seen at the source,"
        f" with `adopt_existing: true` once also in those that it never saw there{theirs}",
    )
    for one in streams:
        if one.mark_needs:
            yield _row("", f"mark needs: {one.mark_needs}")


def _token(source: str, token: State | None) -> Iterator[str]:
    yield _row(f"token {source}", token_line(token))
    for line in token_hints(source, token):
        yield _row("", line.strip())


def _row(name: str, text: str) -> str:
    return f"  {name:<15} {text}"


def _failing(job: JobStatus, at: datetime) -> Iterator[str]:
    if not job.failures:
        return
    first, newest = job.failures[-1], job.failures[0]
    yield _row("failing", f"{plural(len(job.failures), 'run')}, since {when(first.started_at, at)}")
    message, hint = told(newest)
    yield _row("error", message)
    for line in hint.splitlines():
        yield _row("", line)


def _counted(step: StepRun) -> str:
    if step.status != "ok":
        return f"{step.status}: {step.error}" if step.error else step.status
    counts = step.counts
    parts = [f"{counts.inserted:,} new", f"{counts.updated:,} changed", *counts.unchanged_in_words, f"{counts.gone:,} gone"]
    more = {"duplicate": counts.duplicates, "older than what is there": counts.stale, "rejected": counts.rejected}
    return f"{counts.read:,} read: " + ", ".join([*parts, *(f"{number:,} {word}" for word, number in more.items() if number)])


def _in_log(place: LogPlace, at: datetime) -> str:
    """How far a source's changes were read, and how long they can be caught up with."""
    read, polled = when(place.at, at), when(place.polled, at)
    return f"changes read up to {read}, last asked for {polled}; the source keeps them for {lasting(place.retention)}"


def _position(cursor: StoredCursor, at: datetime) -> str:
    as_of = read_at(cursor)
    shown = f"as of {when(as_of, at)}" if as_of else f"cursor moved {when(cursor.updated_at, at)}" if cursor.updated_at else "cursor moved"
    return f"{shown}, from {cursor.account}, version {cursor.version}"
