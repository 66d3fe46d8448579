"""What a run prints: its progress on a terminal, its result in lines or as JSON, and what cron mails when it failed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from usersync_cli.cli import write_json
from usersync_cli.cli.diff import TERMINAL_ROWS, DiffDocument, DiffLines
from usersync_cli.cli.text import moment, plural

if TYPE_CHECKING:
    from usersync_cli.errors import UsersyncError
    from usersync_cli.model import Change
    from usersync_cli.run.context import Diff, StepResult
    from usersync_cli.run.job import RunResult

_QUIET_STEPS = 2  # of those that failed, with a line on stdout
_NOTICES = 2  # lines that may follow: on_failure or ping_url did not work


@contextmanager
def printing(output: str, *, diff: bool, diff_limit: int | None) -> Iterator[DiffLines | DiffDocument | None]:
    """Where the changes go; stdout as it is now, because a progress bar puts something else there."""
    from usersync_cli.log import coloured

    if not diff:
        yield None
    elif output == "json":
        with DiffDocument(sys.stdout) as document:
            yield document
    else:
        limit = TERMINAL_ROWS if diff_limit is None and sys.stdout.isatty() else diff_limit
        yield DiffLines(sys.stdout, limit=limit or None, coloured=coloured(sys.stdout))


def report(result: RunResult, output: str, printer: DiffLines | DiffDocument | None, *, quiet: bool) -> None:
    from usersync_cli.run.job import line

    if isinstance(printer, DiffDocument):
        printer.finish(document(result))
    elif output == "json":
        write_json("run", document(result))
    if isinstance(printer, DiffLines):
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
                "identity": asdict(step.identity) if step.identity is not None else None,
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


class Bar:
    """No progress bar at all."""

    def advance(self, extract: str, size: int) -> None:
        """So many bytes more were read."""

    def aside(self, diff: Diff) -> Diff:
        """A diff that prints with the bar out of the way."""
        return diff


@contextmanager
def progress(*, shown: bool) -> Iterator[Bar]:
    """A line a stage with the megabytes so far, on a terminal only: how much is to come isn't known."""
    if not shown:
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        class Shown(Bar):
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
