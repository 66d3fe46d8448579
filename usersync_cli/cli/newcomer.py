"""`usersync users create`, between the command line and the run: the person that is meant, and how what became of it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from usersync_cli.cli import write_json
from usersync_cli.cli.people import cell

if TYPE_CHECKING:
    from usersync_cli.config.loader import Config
    from usersync_cli.model import NewUser
    from usersync_cli.report.users import UsersTable
    from usersync_cli.run.documents.create import Outcome
    from usersync_cli.signals import Stop

_PATIENCE = 60.0  # seconds in all with a source that does not answer: somebody waits
_SAID = {"created": "created", "exists": "exists already, nothing was changed", "would_create": "would be created"}


def new_user(metadata: Sequence[str], **given: str | None) -> NewUser:
    """The person that the options are about. Raises UsageError for metadata that is not KEY=VALUE."""
    from usersync_cli.model import NewUser

    found: dict[str, str] = {}
    for one in metadata:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise click.UsageError("--metadata is KEY=VALUE.")
        if name in found:
            raise click.UsageError(f"--metadata {name}=... was given twice.")
        found[name] = value
    return NewUser(**given, metadata=found)  # type: ignore[arg-type]  # an address is required


def created(config: Config, where: UsersTable, stop: Stop, new: NewUser, *, dry_run: bool) -> Outcome:
    """Create them, in an environment in which the job may run."""
    from usersync_cli.cli.bootstrap import run_context
    from usersync_cli.patience import Patience
    from usersync_cli.report.users import has_row, ids_by_email, some_ids, whole_as_of
    from usersync_cli.run.documents.create import Copied, Where, create

    job = config.job(where.job)
    config.check_environment(job)
    stop.patience = Patience(_PATIENCE)
    copied = Copied(
        lambda tx, email: ids_by_email(tx, where, email),
        lambda tx: some_ids(tx, where),
        lambda tx, id_: has_row(tx, where, id_),
        lambda tx: whole_as_of(tx, where),
    )
    at = Where(job, where.step, where.source, where.shape.stream)
    return create(at, run_context(config, job, stop), new, copied, dry_run=dry_run)


def print_outcome(where: UsersTable, new: NewUser, outcome: Outcome, output: str) -> int:
    """On stdout what became of it, on stderr what a person has to hear; gives the exit status."""
    from usersync_cli import log
    from usersync_cli.errors import status_of

    if output == "json":
        write_json("user-create", _document(where, new, outcome))
    else:
        for line in _lines(where, new, outcome):
            click.echo(line)
    if outcome.error is None:
        return 0
    status = status_of(outcome.error)
    log.failure(outcome.error.message, outcome.error.hint, status=status)
    return status


def _document(where: UsersTable, new: NewUser, outcome: Outcome) -> dict[str, Any]:
    (one,) = outcome.people if len(outcome.people) == 1 else (None,)
    error = outcome.error
    return {
        "outcome": outcome.kind,
        "id": one.id if one else None,
        "ids": [found.id for found in outcome.people],
        "email": one.email if one else new.email,
        "external_id": one.external_id if one else new.external_id,
        "in_copy": outcome.copied,
        "table": where.name,
        "differs": _differs(new, outcome),
        "request": dict(outcome.request) if outcome.kind == "would_create" else None,
        "message": error.message if error else None,
        "hint": (error.hint or None) if error else None,
    }


def _lines(where: UsersTable, new: NewUser, outcome: Outcome) -> list[str]:
    if outcome.kind == "would_create":
        request = [f"  {name}: {cell(value)}" for name, value in outcome.request.items()]
        return [f"nobody has that e-mail address or external id; {where.shape.vendor} would be sent:", *request]
    if outcome.kind == "conflict":
        return [f"{cell(one.id)}: {cell(one.email)}, external id {cell(one.external_id) or '-'}" for one in outcome.people]
    (one,) = outcome.people
    lines = [f"{cell(one.id)}: {_SAID[outcome.kind]} in {where.shape.vendor}{f', and in {where.name}' if outcome.copied else ''}"]
    if differs := _differs(new, outcome):
        lines.append(f"  it has other values there of: {', '.join(differs)}")
    return lines


def _differs(new: NewUser, outcome: Outcome) -> list[str]:
    """Which of the fields that were asked for a person who exists has otherwise."""
    import json

    if outcome.kind != "exists":
        return []
    (one,) = outcome.people
    has = json.loads(one.record.data)
    wanted = {"first_name": new.first_name, "last_name": new.last_name, "external_id": new.external_id, "metadata": new.metadata or None}
    return [name for name, value in wanted.items() if value is not None and value != has.get(name)]
