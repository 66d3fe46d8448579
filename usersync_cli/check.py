"""Will a job work? Both ends are asked, rights and columns compared; nothing is written and no row is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import psycopg

from usersync_cli import state
from usersync_cli.connections import Connection, begin, connect, identifier, rollback, translated
from usersync_cli.errors import ConfigError, Drift, UsersyncError
from usersync_cli.model import Job, Step
from usersync_cli.steps import Options, StepResult, World
from usersync_cli.tabular import Loading, Reader
from usersync_cli.targets.postgres import SETTINGS

OLDEST_TARGET, OLDEST_SOURCE = 150000, 120000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `error` is None when it is well."""

    what: str
    error: UsersyncError | None = None


def check(job: Job, world: World) -> Iterator[Finding]:
    """Look at the target, then at every step with its sources. What can't be looked at any more is left out."""
    try:
        tx = connect(world.target, job=job.name, stop=world.tools.stop, read_write=True)
    except UsersyncError as error:
        yield Finding("target", error)
        return
    try:
        yield from _target(tx, world)
        for step in job.steps:
            yield from _step(step, tx, world)
    finally:
        rollback(tx)
        tx.close()


def _target(tx: Connection, world: World) -> Iterator[Finding]:
    with translated(world.target, "looking at the server"):
        role, database, temp = tx.execute(
            "SELECT current_user, current_database(), has_database_privilege(current_database(), 'TEMPORARY')"
        ).fetchone() or ("", "", True)
    version = tx.info.server_version
    too_old = (
        Drift(f"target: PostgreSQL {_release(version)} is too old", hint="usersync is tested on 15 to 18")
        if version < OLDEST_TARGET
        else None
    )
    yield Finding(f"target: PostgreSQL {_release(version)}, database {database}, role {role}", too_old)
    if not temp:
        grant = f"GRANT TEMPORARY ON DATABASE {identifier(database).as_string(tx)} TO {identifier(role).as_string(tx)};"
        yield Finding("target: temporary tables", ConfigError("target: the right to make temporary tables is missing", hint=grant))
    try:
        with translated(world.target, "looking at usersync's own tables"):
            yield Finding(f"target: {state.inspect(tx)}")
    except UsersyncError as error:
        yield Finding("target: usersync's own tables", error)


def _step(step: Step, tx: Connection, world: World) -> Iterator[Finding]:
    stored: dict[str, state.StoredCursor] = {}
    with ExitStack() as closing:
        readers: list[Reader] = []
        with suppress(psycopg.Error):  # `_target` has told what is wrong with them
            stored = state.cursors(tx, world.tools.job, step.name)
        for source in dict.fromkeys(extract.source for extract in step.extract.values()):
            try:
                reader = Reader(source, world, step, closing)
                reader.refuse_other_account(stored, Options())
                for stream in reader.streams:
                    columns = reader.session.columns(stream)
                    yield Finding(f"step {step.name}: extract {stream.name} from source {source}: {len(columns)} columns")
                readers.append(reader)
            except UsersyncError as error:
                yield Finding(f"step {step.name}: source {source}", error)
                return
        try:
            with translated(world.target, f"loading {step.load.table}"):
                begin(tx, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
                yield Finding(
                    f"step {step.name}: {Loading(world.tools.job, step, readers, {}, tx, StepResult(step.name), world.progress).describe()}"
                )
        except UsersyncError as error:
            yield Finding(f"step {step.name}: target table {step.load.table}", error)
        finally:
            rollback(tx)


def _release(version: int) -> str:
    return f"{version // 10000}.{version % 10000}"
