"""What usersync remembers in the target database: cursors, and the ledger of runs and steps.

Who writes does so in the transaction of the rows it stands for (`advance`, `count`) or through the lease (`lease.py`).
Reading needs SELECT rights only, and finds nothing where the schema does not exist yet. Postgres' errors pass through;
`migrations.permitted` makes them ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from usersync_cli.errors import ConfigError, Fenced
from usersync_cli.model import Counts, Cursor
from usersync_cli.state.migrations import VERSION, current, newer, permitted
from usersync_cli.state.migrations.apart import ready

__all__ = [
    "VERSION", "Failing", "Holder", "Run", "StepRun", "StoredCursor", "advance", "all_cursors", "count", "current", "cursors", "failing",
    "holders", "inspect", "last_good", "last_runs", "latest", "normalised_before", "permitted", "prune", "ready",
]  # fmt: skip

COUNTS = tuple(one.name for one in fields(Counts))
Connection = psycopg.Connection[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class StoredCursor:
    """Where a stream resumes. `version` counts its moves: who moves it has to know the last one."""

    value: Cursor
    version: int
    account: str  # whose data it stands for, in the source's words
    rows: int = 0  # how many were read up to it
    updated_at: datetime | None = None
    job: str = ""
    step: str = ""
    stream: str = ""


def cursors(connection: Connection, job: str, step: str) -> dict[str, StoredCursor]:
    """The cursors of a step by stream; a stream that was never read is not in it."""
    return {one.stream: one for one in all_cursors(connection, job) if one.step == step}


def may_read(connection: Connection, table: str) -> bool:
    """Whether this table of ours is there, and the role may read it."""
    query = (
        "SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'usersync' AND c.relname = %s"
    )
    return connection.execute(query, (table,)).fetchone() == (True,)


def refuse_newer(connection: Connection) -> None:
    """Raises Drift where a newer program has upgraded our tables, or only some are there: what is noted down means something else.

    Says nothing where this role may not read them.
    """
    readable = may_read(connection, "alembic_version") or may_read(connection, "job_locks")
    if readable and (found := current(connection)) is not None and found > VERSION:
        raise newer(found)


def all_cursors(connection: Connection, job: str | None = None) -> list[StoredCursor]:
    """Every cursor (of a job)."""
    query = "SELECT * FROM usersync.cursors WHERE %(job)s::text IS NULL OR job = %(job)s ORDER BY job, step, stream"
    return _read(connection, StoredCursor, query, job=job)


def advance(  # noqa: PLR0913  a cursor has a long name
    tx: Connection, job: str, step: str, stream: str, value: Cursor, *, version: int, account: str, rows: int = 0
) -> None:
    """Move a cursor from `version` (0: there was none) to the next, in the transaction of the rows it stands for.

    Raises Fenced when somebody else has moved it since it was read: then these rows must not be committed.
    """
    if version == 0:
        statement = (
            "INSERT INTO usersync.cursors (job, step, stream, value, version, account, rows)"
            " VALUES (%(job)s, %(step)s, %(stream)s, %(value)s, 1, %(account)s, %(rows)s) ON CONFLICT DO NOTHING"
        )
    else:
        statement = (
            "UPDATE usersync.cursors SET value = %(value)s, version = version + 1, account = %(account)s, rows = %(rows)s,"
            " updated_at = clock_timestamp() WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s AND version = %(version)s"
        )
    values = {"job": job, "step": step, "stream": stream, "value": Jsonb(value), "version": version, "account": account, "rows": rows}
    if tx.execute(statement, values).rowcount != 1:
        raise Fenced(f"{job}: the cursor of {step}/{stream} was moved by another run; this checkpoint was rolled back")


def count(  # noqa: PLR0913  what happened, and where it is written
    tx: Connection, run_id: int, step: str, counts: Counts, *, bytes_: int = 0, normalised: int = 0, done: bool = False
) -> None:
    """Add a checkpoint's counts to its step, in its transaction: they are there exactly if the rows are.

    `done` ends the step as ok in the same breath; the step was begun with `Lease.start_step`.
    """
    added = ", ".join(f"{name} = {name} + %({name})s" for name in (*COUNTS, "bytes", "normalised"))
    ended = ", status = 'ok', finished_at = clock_timestamp()" if done else ""
    statement = f"UPDATE usersync.run_steps SET {added}{ended} WHERE run_id = %(run_id)s AND step = %(step)s"  # noqa: S608  our own names
    tx.execute(statement, {**vars(counts), "bytes": bytes_, "normalised": normalised, "run_id": run_id, "step": step})


def normalised_before(connection: Connection, job: str, step: str) -> bool:
    """Whether the last good run of this step met a trigger that changed what it wrote."""
    query = (
        "SELECT s.normalised > 0 FROM usersync.run_steps s JOIN usersync.runs r ON r.id = s.run_id"
        " WHERE r.job = %s AND s.step = %s AND s.status = 'ok' ORDER BY s.run_id DESC LIMIT 1"
    )
    return connection.execute(query, (job, step)).fetchone() == (True,)


@dataclass(frozen=True)
class StepRun:
    """One step of a run, with its counts."""

    run_id: int = field(repr=False)
    step: str
    status: str
    started_at: datetime
    finished_at: datetime | None
    read: int
    duplicates: int
    inserted: int
    updated: int
    unchanged: int
    stale: int
    rejected: int
    gone: int
    not_compared: int
    bytes: int
    normalised: int  # rows that a trigger of the table changed while they were written
    error: str | None

    @property
    def counts(self) -> Counts:
        return Counts(**{name: getattr(self, name) for name in COUNTS})


@dataclass(frozen=True)
class Run:
    """One run as the ledger has it. `status`: running, ok, partial, failed, crashed or stopped."""

    id: int
    job: str
    status: str
    exit_status: int | None
    epoch: int
    owner: str = field(repr=False)
    started_at: datetime
    finished_at: datetime | None
    usersync_version: str
    full: bool
    summary: str | None
    error: str | None
    error_hint: str | None
    steps: Sequence[StepRun] = ()


# A run whose lease is over, or whose job has gone to another, did not live to say how it ended.
_RUNS = """
SELECT r.id, r.job, r.exit_status, r.epoch, r.owner, r.started_at, r.finished_at, r.usersync_version, r."full", r.summary, r.error,
       r.error_hint, CASE WHEN r.status = 'running' AND (l.epoch = r.epoch AND l.lease_until > clock_timestamp()) IS NOT TRUE
                          THEN 'crashed' ELSE r.status END AS status
  FROM usersync.runs r LEFT JOIN usersync.job_locks l ON l.job = r.job
"""


def last_runs(connection: Connection, job: str | None = None, limit: int = 10) -> list[Run]:
    """The last runs with their steps, newest first; of every job together without `job`. Empty means: never run."""
    query = _RUNS + " WHERE %(job)s::text IS NULL OR r.job = %(job)s ORDER BY r.id DESC LIMIT %(limit)s"
    return _with_steps(connection, _read(connection, Run, query, job=job, limit=limit))


def latest(connection: Connection) -> dict[str, Run]:
    """The last run of each job."""
    query = _RUNS + " WHERE r.id IN (SELECT max(id) FROM usersync.runs GROUP BY job) ORDER BY r.job"  # noqa: S608  our own text
    return {run.job: run for run in _with_steps(connection, _read(connection, Run, query))}


def inspect(connection: Connection) -> str:
    """Whether the tables are there, in words; raises ConfigError with the GRANT when they could not be made, Drift when they are newer."""
    found = current(connection)
    if found is not None and found > VERSION:
        raise newer(found)
    role, name, may = connection.execute(
        "SELECT quote_ident(current_user), quote_ident(current_database()), has_database_privilege(current_database(), 'CREATE')"
    ).fetchone() or ("", "", True)
    if found is None and not may:
        raise ConfigError(
            "target: no right to create the schema usersync, where runs and cursors are kept",
            hint=f"GRANT CREATE ON DATABASE {name} TO {role};\nor an administrator runs the output of `usersync db upgrade --sql`",
        )
    if found == VERSION:
        return f"usersync's own tables are up to date (version {found})"
    return "usersync's own tables will be " + (f"upgraded from {found} to {VERSION}" if found else "made by the first run")


def last_good(connection: Connection) -> dict[str, Run]:
    """The last run of each job that ended ok: how fresh its data is. A job that never did is not in it."""
    query = _RUNS + " WHERE r.id IN (SELECT max(id) FROM usersync.runs WHERE status = 'ok' GROUP BY job) ORDER BY r.job"  # noqa: S608  our own text
    return {run.job: run for run in _with_steps(connection, _read(connection, Run, query))}


def _with_steps(connection: Connection, runs: Sequence[Run]) -> list[Run]:
    query = "SELECT * FROM usersync.run_steps WHERE run_id = ANY(%(ids)s) ORDER BY run_id, started_at"
    of: dict[int, list[StepRun]] = {run.id: [] for run in runs}
    for step in _read(connection, StepRun, query, ids=list(of)) if of else []:
        of[step.run_id].append(step)
    return [replace(run, steps=tuple(of[run.id])) for run in runs]


@dataclass(frozen=True)
class Failing:
    """A stream whose last run did not end well, whatever ran since. `stream` is empty for a step of tables."""

    step: str
    stream: str
    exit_status: int
    error: str | None
    error_hint: str | None
    since: datetime  # the first run that failed since it was last well
    runs: int
    run_id: int


def failing(connection: Connection, job: str) -> list[Failing]:
    """The streams of a job whose last outcome is a failure."""
    if (current(connection) or "") < "0011":
        return []
    return _read(connection, Failing, _FAILING, job=job)


_FAILING = """
WITH noted AS (
    SELECT s.*, r.started_at, pg_catalog.max(s.run_id) FILTER (WHERE s.exit_status = 0) OVER stream AS well,
           pg_catalog.max(s.run_id) OVER stream AS newest
      FROM usersync.run_streams s JOIN usersync.runs r ON r.id = s.run_id WHERE r.job = %(job)s
    WINDOW stream AS (PARTITION BY s.step, s.stream)
), bad AS (SELECT * FROM noted WHERE exit_status <> 0 AND newest > COALESCE(well, 0) AND run_id > COALESCE(well, 0))
SELECT b.step, b.stream, b.exit_status, b.error, b.error_hint, b.run_id,
       (SELECT pg_catalog.min(o.started_at) FROM bad o WHERE o.step = b.step AND o.stream = b.stream) AS since,
       (SELECT pg_catalog.count(*) FROM bad o WHERE o.step = b.step AND o.stream = b.stream) AS runs
  FROM bad b WHERE b.run_id = b.newest ORDER BY b.step, b.stream
"""


@dataclass(frozen=True)
class Holder:
    """The run that holds a job now. `owner` is the lease's own JSON (host, pid, ...)."""

    job: str
    owner: str
    epoch: int
    lease_until: datetime


def holders(connection: Connection) -> dict[str, Holder]:
    """The jobs that are held by a run at this moment."""
    query = "SELECT job, owner, epoch, lease_until FROM usersync.job_locks WHERE owner IS NOT NULL AND lease_until > clock_timestamp()"
    return {one.job: one for one in _read(connection, Holder, query)}


def _read(connection: Connection, kind: type[T], query: str, **values: Any) -> list[T]:
    if current(connection) is None:
        return []
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(query.encode(), values).fetchall()


def prune(connection: Connection, job: str, keep: int = 1000) -> None:
    """Forget all but the newest runs of a job, and those whose list still waits for approval."""
    connection.execute(
        "DELETE FROM usersync.runs WHERE job = %(job)s"
        " AND NOT EXISTS (SELECT FROM usersync.approvals a WHERE a.run_id = runs.id AND a.status = 'waiting')"
        " AND id < (SELECT id FROM usersync.runs WHERE job = %(job)s ORDER BY id DESC OFFSET %(keep)s - 1 LIMIT 1)",
        {"job": job, "keep": keep},
    )
