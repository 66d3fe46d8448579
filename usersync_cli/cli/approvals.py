"""`usersync approvals`: the lists of rows that the guard did not let go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usersync_cli.cli import config_option, output_option, write_json

if TYPE_CHECKING:
    from usersync_cli.state.ledger import Connection

_EXIT_STATUSES = """\b
Exit status: 0 ok, 2 usage or config, 4 the target cannot be reached,
9 that run has no list."""


@click.group(epilog=_EXIT_STATUSES)
def approvals() -> None:
    """Show the rows that wait for a person's word before they are removed.

    \b
    Examples:
      usersync approvals list
      usersync approvals show 41
      usersync run --job auroville --approve-deletes 41
    """


@approvals.command(name="list", epilog=_EXIT_STATUSES)
@click.option("--job", "job_name", metavar="NAME", help="Only this job's.")
@config_option
@output_option
def list_(job_name: str | None, config_path: Path | None, output: str) -> None:
    """Show which lists wait, how long they are, and why the guard stopped them.

    \b
    Examples:
      usersync approvals list
      usersync approvals list --job auroville --output json
    """
    from usersync_cli.cli.text import moment
    from usersync_cli.state import approvals as state

    with _reading(config_path) as connection:
        found = state.lists(connection, job=job_name, waiting=True)
    if output == "json":
        write_json("approvals", {"approvals": [_document(one) for one in found]})
        return
    for one in found:
        click.echo(f"run {one.run_id}: {one.job}: step {one.step}: {one.keys:,} rows since {moment(one.created_at)}: {one.reason}")
    if not found:
        click.echo("nothing waits for approval")


@approvals.command(epilog=_EXIT_STATUSES)
@click.argument("run_id", type=click.IntRange(min=1), metavar="RUN")
@config_option
@output_option
def show(run_id: int, config_path: Path | None, output: str) -> None:
    """List the keys of the rows that run RUN did not remove.

    `usersync run --approve-deletes RUN` removes exactly those, once.

    \b
    Examples:
      usersync approvals show 41
      usersync approvals show 41 --output json | jq '.lists[].keys'
    """
    from usersync_cli.errors import NotFound
    from usersync_cli.state import approvals as state

    with _reading(config_path) as connection:
        found = [(one, state.keys(connection, one)) for one in state.lists(connection, run_id=run_id)]
    if not found:
        raise NotFound(f"run {run_id} has no list", hint="`usersync approvals list` shows the runs that have one")
    if output == "json":
        write_json("approval", {"run": run_id, "lists": [{**_document(one), "keys": keys} for one, keys in found]})
        return
    for one, keys in found:
        click.echo(f"run {one.run_id}: {one.job}: step {one.step}: {one.status}: {one.keys:,} rows: {one.reason}", err=True)
        for key in keys:
            click.echo(key)


def _document(one: Any) -> dict[str, Any]:
    return {"run": one.run_id, "job": one.job, "step": one.step, "status": one.status, "reason": one.reason, "rows": one.keys,
            "created_at": one.created_at.isoformat(), "ended_by": one.ended_by}  # fmt: skip


@contextmanager
def _reading(config_path: Path | None) -> Iterator[Connection]:
    from usersync_cli import log
    from usersync_cli.clients.postgres import connections
    from usersync_cli.config.loader import load
    from usersync_cli.state import ledger
    from usersync_cli.state.migrations import permitted

    log.configure(quiet=True)
    database = load(config_path).target_database()
    with connections.connect(database, job="approvals") as connection, permitted(connection, database, "reading the lists"):
        ledger.refuse_newer(connection)
        yield connection
