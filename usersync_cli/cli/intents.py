"""`usersync intents`: the calls to a target outside PostgreSQL that are written down, and what became of them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usersync_cli.cli import config_option, output_option, write_json

if TYPE_CHECKING:
    from usersync_cli.state.outbox import Written

_EXIT_STATUSES = """\b
Exit status: 0 ok, also when calls are unfinished, 2 usage or config,
4 the target cannot be reached, 7 newer tables than this program knows."""


@click.command(epilog=_EXIT_STATUSES)
@click.option("--job", "job_name", metavar="NAME", help="Only this job's.")
@click.option("--all", "everything", is_flag=True, help="Also those that have ended, of the last 30 days.")
@click.option("--people", is_flag=True, help="Show whose they are and what is wanted: people's data.")
@config_option
@output_option
def intents(job_name: str | None, config_path: Path | None, *, everything: bool, people: bool, output: str) -> None:
    """Show the calls to Keycloak and WorkOS that were planned and are not finished.

    A run, or `usersync users create`, writes them down before the first is made. While it goes on, these are what is left to do; after
    one that was killed, what the next one looks up and finishes. Accounts are shown by the target's own id.

    \b
    Examples:
      usersync intents --job fineract
      usersync intents --all --output json | jq '.intents[] | select(.state == "refused")'
      usersync intents --people
    """
    from usersync_cli import log
    from usersync_cli.cli.diff import escaped
    from usersync_cli.clients.postgres import connections
    from usersync_cli.config.loader import load
    from usersync_cli.state import ledger
    from usersync_cli.state.migrations import permitted
    from usersync_cli.state.outbox import written

    log.configure(quiet=True)
    config = load(config_path)
    if job_name is not None:
        config.job(job_name)
    database = config.target_database()
    with closing(connections.connect(database, job="intents")) as connection, permitted(connection, database, "reading the intents"):
        ledger.refuse_newer(connection)
        found = written(connection, job_name, everything=everything)
    if output == "json":
        write_json("intents", {"intents": [_document(one, people=people) for one in found]})
        return
    for one in found:
        click.echo(_line(one))
        if people:
            click.echo(f"  {escaped(one.key)}: {escaped(json.dumps(one.wanted, ensure_ascii=False, sort_keys=True))}")
    if not found:
        click.echo("nothing was planned in the last 30 days" if everything else "nothing is unfinished")


def _line(one: Written) -> str:
    from usersync_cli.cli.text import moment

    parts = [f"account {one.account}" if one.account else "no account yet", f"done: {', '.join(one.done) or 'nothing'}"]
    ended = f"{one.state}{f' ({one.error})' if one.error else ''}"
    by = f"run {one.run_id}" if one.run_id else "users create"
    return f"{one.id}: {one.job}: step {one.step}: {one.action}, {ended}, {', '.join(parts)}; {by}, {moment(one.created_at)}"


def _document(one: Written, *, people: bool) -> dict[str, Any]:
    own = {"id": one.id, "run": one.run_id, "job": one.job, "step": one.step, "action": one.action, "state": one.state,
           "account": one.account, "done": list(one.done), "error": one.error or None, "created_at": one.created_at.isoformat(),
           "ended_at": one.ended_at.isoformat() if one.ended_at else None}  # fmt: skip
    return {**own, "key": one.key, "wanted": one.wanted} if people else own
