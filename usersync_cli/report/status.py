"""What the ledger in the target says of each job, next to what the config file says. Only reads; nothing is upgraded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from usersync_cli.model import Cursor, Job

if TYPE_CHECKING:
    from usersync_cli.auth.store import State
    from usersync_cli.clients.postgres.connections import Connection
    from usersync_cli.model import Database
    from usersync_cli.report.streams import StreamStatus
    from usersync_cli.shapes import LogPlace
    from usersync_cli.state.approvals import Approval
    from usersync_cli.state.ledger import Failing, Holder, Run, StepRun, StoredCursor

_RECENT = 20  # runs of a job to look at first
_KEPT = 1000  # as many as the ledger keeps of a job


class ScheduledJob(Job, Protocol):
    """A job with the times at which cron starts it; None: a person does."""

    @property
    def schedule(self) -> str | None: ...


class Configured(Protocol):
    """The config file, as far as it is compared with the ledger."""

    @property
    def path(self) -> Path: ...
    @property
    def jobs(self) -> Mapping[str, ScheduledJob]: ...
    def target_database(self) -> Database:
        """The database that has the ledger."""
        ...

    def sources_of(self, job: str) -> Sequence[str]:
        """The names of the sources that a job reads."""
        ...

    def log_place(self, source: str, cursor: Cursor) -> LogPlace | None:
        """Where a stored cursor of this source stands in its log of changes."""
        ...

    def oauth_sources(self) -> Sequence[str]:
        """The names of the sources that a person authorises."""
        ...


@dataclass(frozen=True)
class JobStatus:
    """One job as the config file and the ledger have it."""

    name: str
    configured: bool
    schedule: str | None
    holder: Holder | None
    runs: Sequence[Run]  # newest first; all that are kept, when none of the last 20 is good
    good: Run | None
    cursors: Sequence[StoredCursor]
    approvals: Sequence[Approval]  # lists that wait
    rejects: Mapping[str, int] = field(default_factory=dict)  # records that wait, by step
    tokens: Mapping[str, State | None] = field(default_factory=dict)  # of its sources that a person authorises; None: not yet
    streams: Sequence[StreamStatus] = ()  # of documents, where they were asked for
    failing: Sequence[Failing] = ()  # streams that the config still has, and whose last outcome was not good
    log: LogPlace | None = None  # the one asked longest ago, where each of its streams follows a source's log of changes
    conflicts: Mapping[str, int] = field(default_factory=dict)  # of the map, that wait for a person, by step of the config

    @property
    def last(self) -> Run | None:
        """The last run, which may be under way."""
        return self.runs[0] if self.runs else None

    @property
    def finished(self) -> Run | None:
        """The last run that ended, however."""
        return next((run for run in self.runs if run.status != "running"), None)

    @property
    def failures(self) -> Sequence[Run]:
        """The runs since the last good one that ended otherwise, newest first."""
        return [run for run in self.runs if run.status != "running" and (self.good is None or run.id > self.good.id)]

    @property
    def steps(self) -> Sequence[StepRun]:
        """The last that is known of each step: a run may have done some of them only."""
        found: dict[str, StepRun] = {}
        for run in self.runs:
            for step in run.steps:
                found.setdefault(step.step, step)
        return list(found.values())


@dataclass(frozen=True)
class StatusReport:
    """All jobs, at one moment of the target's clock."""

    at: datetime
    jobs: Sequence[JobStatus]


def read(config: Configured, only: str | None = None, *, tables: bool = False) -> StatusReport:
    """Every job of the config file, and those that the ledger alone still knows; or the one that was asked for.

    `tables` looks at the tables of streams of documents too.

    Raises ConfigError for a name that neither knows, and for a missing right to read.
    """
    from usersync_cli.clients.postgres import connections, transactions

    database = config.target_database()
    with (
        connections.connect(database, job="status") as connection,
        _readable(connection, database),
        transactions.transaction(connection, snapshot=True),
    ):
        return _read(config, connection, only, tables=tables)


def _read(config: Configured, connection: Connection, only: str | None, *, tables: bool) -> StatusReport:
    from usersync_cli.auth import store
    from usersync_cli.report import streams
    from usersync_cli.state import approvals, ledger, migrations, rejects

    found = ledger.current(connection)
    if found is not None and found > ledger.VERSION:
        raise migrations.newer(found)
    good, held = ledger.last_good(connection), ledger.holders(connection)
    waiting = rejects.count_waiting(connection)
    personal, authorised = config.oauth_sources(), {one.source: one for one in store.states(connection)}
    jobs = []
    for name in _names(config, list(ledger.latest(connection)), only):
        configured = config.jobs.get(name)
        cursors = ledger.all_cursors(connection, name)
        jobs.append(
            JobStatus(
                name,
                configured is not None,
                configured.schedule if configured else None,
                held.get(name),
                _history(connection, name),
                good.get(name),
                cursors,
                approvals.lists(connection, job=name, waiting=True),
                {step: number for (job, step), number in waiting.items() if job == name},
                {source: authorised.get(source) for source in config.sources_of(name) if source in personal},
                streams.read(connection, configured, cursors, config.log_place) if tables and configured else (),
                _failing(connection, name, configured),
                _log(config, configured, cursors) if configured else None,
                _conflicts(connection, name, configured) if configured else {},
            )
        )
    (at,) = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
    return StatusReport(at, jobs)


def token_states(config: Configured) -> Mapping[str, State]:
    """The state of each source's tokens, by the source's name."""
    from usersync_cli.auth import store
    from usersync_cli.clients.postgres import connections

    database = config.target_database()
    with connections.connect(database, job="status") as connection, _readable(connection, database):
        return {one.source: one for one in store.states(connection)}


def _names(config: Configured, ran: Sequence[str], only: str | None) -> list[str]:
    every = list(dict.fromkeys([*config.jobs, *ran]))
    if only is None:
        return every
    if only not in every:
        from usersync_cli.errors import ConfigError
        from usersync_cli.settings import suggestion

        raise ConfigError(f'{config.path}: there is no job "{only}"{suggestion(only, every)}')
    return [only]


def _history(connection: Connection, job: str) -> Sequence[Run]:
    from usersync_cli.state import ledger

    runs = ledger.last_runs(connection, job, _RECENT)
    return runs if len(runs) < _RECENT or any(run.status == "ok" for run in runs) else ledger.last_runs(connection, job, _KEPT)


def _failing(connection: Connection, name: str, job: Job | None) -> list[Failing]:
    from usersync_cli.run.context import streams
    from usersync_cli.state import ledger

    read = {(step.name, stream) for step in job.steps for stream in streams(step) or [""]} if job else set()
    return [one for one in ledger.failing(connection, name) if (one.step, one.stream) in read]


def _log(config: Configured, job: Job, cursors: Sequence[StoredCursor]) -> LogPlace | None:
    """The place that was asked longest ago, in the logs that a job follows; None where it reads anything else, or has not begun."""
    moved = {(one.step, one.stream): one.value for one in cursors}
    places = []
    for step in job.steps:
        for extract in step.extract.values():
            for stream in extract.streams or [""]:
                cursor = moved.get((step.name, stream))
                place = config.log_place(extract.source, cursor) if cursor and stream else None
                if place is None:
                    return None
                places.append(place)
    return min(places, key=lambda place: place.polled, default=None)


def _conflicts(connection: Connection, name: str, job: Job) -> dict[str, int]:
    """Those that keep a step at exit status 3."""
    from usersync_cli.run.identities import waiting

    numbers = {step.name: waiting(connection, [one.app for one in step.identity], name, step.name) for step in job.steps if step.identity}
    return {step: number for step, number in numbers.items() if number}


@contextmanager
def _readable(connection: Connection, database: Database) -> Iterator[None]:
    """Errors of Postgres become ours; where a right is missing, those which reading takes are printed, not all of a run's."""
    from psycopg import errors, sql

    from usersync_cli.clients.postgres.errors import translated
    from usersync_cli.errors import ConfigError

    with translated(database, "reading usersync's own tables"):
        try:
            yield
        except errors.InsufficientPrivilege as error:
            role = sql.Identifier(connection.info.user).as_string(None)
            raise ConfigError(
                f"{database.name}: the right to read usersync's own tables is missing",
                hint=f"their owner runs: GRANT USAGE ON SCHEMA usersync TO {role};"
                f" GRANT SELECT ON ALL TABLES IN SCHEMA usersync TO {role};",
            ) from error


def seconds(run: Run) -> float | None:
    """How long a run took; None for one that did not end by itself."""
    if run.finished_at is None or run.exit_status is None:
        return None
    return (run.finished_at - run.started_at).total_seconds()


def told(run: Run) -> tuple[str, str]:
    """What went wrong and what to do next. A crashed run could not say it itself."""
    if run.exit_status is None:
        return (
            "the run ended without a word: killed, or its machine went away",
            "what it had committed stays, and the next run goes on by itself; out of memory? a time limit of whatever starts it?",
        )
    return run.error or "no error was written down", run.error_hint or ""
