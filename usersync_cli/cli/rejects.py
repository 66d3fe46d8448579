"""`usersync rejects`: the records that were set aside, with their reasons; and what a person does about them.

Nothing here prints a document, which is people's data, unless `show --document` asks for it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usersync_cli.cli import EXIT_STATUSES, config_option, output_option, write_json
from usersync_cli.patience import Patience
from usersync_cli.signals import Stop

if TYPE_CHECKING:
    from usersync_cli.clients.postgres.connections import Connection
    from usersync_cli.config.loader import Config
    from usersync_cli.run.job import RunResult
    from usersync_cli.state.rejects import Waiting

_EXIT_STATUSES = """\b
Exit status: 0 ok, 2 usage or config, 4 the target cannot be reached,
7 newer tables than this program knows, 9 there is no such reject."""
_NUMBER = click.IntRange(1, 2**63 - 1)


@click.group(epilog=_EXIT_STATUSES)
def rejects() -> None:
    """Show, retry or drop the records that were set aside.

    A record that can't be loaded waits here with its reason, and the run ends with 3 until it was loaded or dropped.

    \b
    Examples:
      usersync rejects list --job auroville
      usersync rejects show 7
      usersync rejects retry --all --job auroville       after the table or the record was fixed
      usersync rejects drop 7                            it may stay out
    """


@rejects.command(name="list", epilog=_EXIT_STATUSES)
@click.option("--job", "job_name", metavar="NAME", help="Only this job's.")
@click.option("--step", "step_name", metavar="NAME", help="Only those of this step.")
@click.option("--dropped", is_flag=True, help="Also those that somebody has dropped.")
@config_option
@output_option
def list_(job_name: str | None, step_name: str | None, config_path: Path | None, output: str, *, dropped: bool) -> None:
    """Show which records wait, why, and since when. Their documents are not shown.

    \b
    Examples:
      usersync rejects list
      usersync rejects list --job auroville --step users
      usersync rejects list --output json | jq '.rejects[].key'
    """
    from usersync_cli.state.rejects import waiting

    with _opened(config_path) as (config, connection):
        found = waiting(connection, job_name, step=step_name, dropped=dropped)
        if not found:
            _refuse_unknown(config, job_name, step_name)
    if output == "json":
        write_json("rejects", {"rejects": [_document(one) for one in found], "counts": _counts(found)})
        return
    for one in found:
        click.echo(_line(one))
    for counted in _counts(found):
        click.echo(_sum(counted))
    if not found:
        click.echo("nothing waits")


@rejects.command(epilog=_EXIT_STATUSES)
@click.argument("id_", type=_NUMBER, metavar="ID")
@click.option("--document", "with_document", is_flag=True, help="Print the document itself, which is people's data; the rest on stderr.")
@config_option
@output_option
def show(id_: int, config_path: Path | None, output: str, *, with_document: bool) -> None:
    """Show everything about one reject; with --document, the record as it came.

    \b
    Examples:
      usersync rejects show 7
      usersync rejects show 7 --document | jq .
    """
    from usersync_cli.errors import NotFound
    from usersync_cli.state.rejects import chosen, document

    with _opened(config_path) as (_, connection):
        (one,) = chosen(connection, [id_])
        kept = document(connection, id_) if with_document else None
    if output == "json":
        write_json("reject", {**_document(one), **(_kept(kept) if with_document else {})})
        return
    for line in _lines(one):
        click.echo(line, err=with_document)
    if with_document and kept is None:
        raise NotFound(f"the document of reject {id_} was {_forgotten()}", hint=_read_again(one))
    if kept is not None:
        _print(kept)


@rejects.command(epilog=EXIT_STATUSES)
@click.argument("ids", nargs=-1, type=_NUMBER, metavar="[ID]...")
@click.option("--job", "job_name", required=True, metavar="NAME", help="The job that they are of.")
@click.option("--all", "everything", is_flag=True, help="All of the job's that wait.")
@config_option
@output_option
@click.option("-v", "--verbose", count=True, help="Log more.")
@click.pass_obj
def retry(  # noqa: PLR0913  each option is one
    stop: Stop, ids: tuple[int, ...], job_name: str, config_path: Path | None, *, everything: bool, output: str, verbose: int
) -> int:
    """Try to load them again, as a run would: after the table, a trigger or a record that they need was fixed.

    Of a source of documents, what was kept is loaded, without asking the source; a newer version that has arrived since
    wins. Of a step of tables nothing less than everything can be compared: its rejects are tried by a run of the step.
    Exit status 0 when none is left, 3 while some wait, 75 while a run holds the job.

    \b
    Examples:
      usersync rejects retry 7 8 --job auroville
      usersync rejects retry --all --job auroville
    """
    from usersync_cli import log
    from usersync_cli.cli.bootstrap import run_context
    from usersync_cli.config import loader
    from usersync_cli.run.context import Options
    from usersync_cli.run.documents import retry as retrying
    from usersync_cli.run.job import RunResult, run

    _refuse_vague(ids, everything=everything)
    log.configure(verbosity=verbose)
    settings = loader.load(config_path)
    job = settings.job(job_name)
    settings.check_environment(job)
    stop.limit(job.max_runtime.total_seconds() if job.max_runtime else None)
    stop.patience = Patience(job.max_wait.total_seconds())
    target = run_context(settings, job, stop)
    chosen = retrying.chosen(job, target, ids)
    if not chosen:
        _say_retried(RunResult(job.name, job.noun, dry_run=False), output)
        return 0
    steps = list(dict.fromkeys(one.step for one in chosen))
    result = run(job, target, Options(steps, retry=[one.id for one in chosen]))
    _say_retried(result, output, steps)
    return result.exit_status


@rejects.command(epilog=_EXIT_STATUSES)
@click.argument("ids", nargs=-1, type=_NUMBER, metavar="[ID]...")
@click.option("--job", "job_name", metavar="NAME", help="The job that they are of.")
@click.option("--step", "step_name", metavar="NAME", help="With --all: only those of this step.")
@click.option("--all", "everything", is_flag=True, help="All of the job's that wait.")
@config_option
@output_option
def drop(  # noqa: PLR0913  each option is one
    ids: tuple[int, ...], job_name: str | None, step_name: str | None, config_path: Path | None, *, everything: bool, output: str
) -> None:
    """Say that somebody has looked and these may stay out: they keep the job at 3 no longer, until their document changes.

    \b
    Examples:
      usersync rejects drop 7 8
      usersync rejects drop --all --job auroville
    """
    from usersync_cli.clients.postgres.transactions import transaction
    from usersync_cli.state import rejects as stored

    _refuse_vague(ids, everything=everything)
    if everything and not job_name:
        raise click.UsageError("--all needs --job.")
    if step_name and not everything:
        raise click.UsageError("--step is for --all.")
    with _opened(config_path, write=True) as (config, connection), transaction(connection):
        found = stored.chosen(connection, ids, job_name) if ids else stored.waiting(connection, job_name, step=step_name)
        if not found:
            _refuse_unknown(config, job_name, step_name)
        dropped = stored.drop(connection, [one.id for one in found]) if found else 0
    before = len(found) - dropped
    if output == "json":
        write_json("dropped", {"dropped": dropped, "dropped_before": before, "ids": [one.id for one in found]})
        return
    click.echo(f"{dropped:,} dropped, until what they hold changes" if dropped or not before else "nothing was changed")
    if before:
        click.echo(f"{before:,} {'was' if before == 1 else 'were'} dropped before")


# what they share


def _refuse_vague(ids: Sequence[int], *, everything: bool) -> None:
    if everything == bool(ids):
        raise click.UsageError("Give the numbers that `usersync rejects list` shows, or --all with --job.")


def _refuse_unknown(config: Config, job: str | None, step: str | None) -> None:
    """A misspelt name is not told as "nothing waits"."""
    from usersync_cli.errors import ConfigError
    from usersync_cli.settings import suggestion

    if job is not None and job not in config.jobs:
        raise ConfigError(f'{config.path}: there is no job "{job}", nor rejects of it{suggestion(job, list(config.jobs))}')
    steps = [one.name for name, known in config.jobs.items() if job in (None, name) for one in known.steps]
    if step is not None and step not in steps:
        raise ConfigError(f'{config.path}: there is no step "{step}", nor rejects of it{suggestion(step, steps)}')


@contextmanager
def _opened(config_path: Path | None, *, write: bool = False) -> Iterator[tuple[Config, Connection]]:
    from usersync_cli import log
    from usersync_cli.clients.postgres import connections
    from usersync_cli.config.loader import load
    from usersync_cli.state.migrations import VERSION, current, newer, permitted

    log.configure(quiet=True)
    config = load(config_path)
    database = config.target_database()
    doing = "dropping rejects" if write else "reading rejects"
    with connections.connect(database, job="rejects", read_write=write) as connection, permitted(connection, database, doing):
        if (found := current(connection)) is not None and found > VERSION:
            raise newer(found)
        yield config, connection


# as text


def _line(one: Waiting) -> str:
    from usersync_cli.cli.diff import escaped
    from usersync_cli.cli.text import moment

    word = "" if one.status == "waiting" else f", {one.status}"
    where = f"step {one.step}" + (f", {one.stream}" if one.stream else "")
    return (
        f"{one.id}: {one.job}: {where}: key {escaped(one.key)}: {_reason(one)}{word},"
        f" since {moment(one.first_at)}, last met {moment(one.last_at)}"
    )


def _reason(one: Waiting) -> str:
    return f"{one.reason} ({one.detail})" if one.detail else one.reason


def _counts(found: Sequence[Waiting]) -> list[dict[str, Any]]:
    """How many of each step, by reason."""
    counted = []
    for job, step in dict.fromkeys((one.job, one.step) for one in found):
        mine = [one for one in found if (one.job, one.step) == (job, step)]
        waiting = sum(one.status == "waiting" for one in mine)
        reasons = Counter(one.reason for one in mine)
        counted.append(
            {"job": job, "step": step, "waiting": waiting, "dropped": len(mine) - waiting, "reasons": dict(reasons.most_common())}
        )
    return counted


def _sum(counted: dict[str, Any]) -> str:
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in counted["reasons"].items())
    dropped = f", {counted['dropped']:,} dropped" if counted["dropped"] else ""
    return f"{counted['job']}: step {counted['step']}: {counted['waiting']:,} waiting{dropped}: {reasons}"


def _lines(one: Waiting) -> Iterator[str]:
    from usersync_cli.cli.diff import escaped
    from usersync_cli.cli.text import moment

    yield f"reject {one.id}: {one.status}"
    for name, text in {
        "job": one.job,
        "step": one.step,
        "stream": one.stream,
        "key": escaped(one.key),
        "reason": _reason(one),
        "version": escaped(one.version or ""),
        "since": moment(one.first_at),
        "last met": f"{moment(one.last_at)}, run {one.run_id}",
        "document": "kept; --document prints it" if one.has_document else f"{_forgotten()}; {_read_again(one)}",
    }.items():
        if text:
            yield f"  {name:<15} {text}"


def _forgotten() -> str:
    from usersync_cli.state.rejects import KEPT

    return f"forgotten, {KEPT.days} days after the record was last met"


def _read_again(one: Waiting) -> str:
    return f"`usersync run --job {one.job} --full` reads it from the source again"


def _print(document: bytes) -> None:
    """As it came; on a terminal without what that would obey."""
    from usersync_cli.cli.diff import escaped

    click.echo(escaped(document.decode(errors="backslashreplace")) if sys.stdout.isatty() else document)


def _say_retried(result: RunResult, output: str, steps: Sequence[str] = ()) -> None:
    from usersync_cli.cli.reporter import document, tell
    from usersync_cli.run.job import line

    if output == "json":
        write_json("run", document(result))
    elif not steps:
        click.echo(f"{result.job}: nothing waits")
    else:
        for step in result.steps:
            if step.name in steps:
                click.echo(line(result, step))
    tell(result)


# as JSON


def _document(one: Waiting) -> dict[str, Any]:
    from usersync_cli.cli.text import iso

    return {
        "id": one.id,
        "job": one.job,
        "step": one.step,
        "stream": one.stream,
        "key": one.key,
        "status": one.status,
        "reason": one.reason,
        "detail": one.detail,
        "record_version": one.version,
        "since": iso(one.first_at),
        "last_met": iso(one.last_at),
        "run": one.run_id,
        "has_document": one.has_document,
    }


def _kept(document: bytes | None) -> dict[str, str | None]:
    """The document as text; what is no UTF-8 is written with backslashes."""
    return {"document": None if document is None else document.decode(errors="backslashreplace")}
