"""Is the table what its sources say? Everything is read, nothing is written, and every difference is found.

The merge's comparison, cursors and what was seen play no part: a mistake of theirs must not hide itself. What the sources
have is staged whole (here tables, in `listing` streams of documents), and `compare` holds it against the table. The
transaction is read-only but for its temp tables.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from psycopg import errors, sql

from usersync_cli import log
from usersync_cli.clients.postgres.catalog import Table, describe
from usersync_cli.clients.postgres.connections import Connection, codec, connect, rollback
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.clients.postgres.transactions import as_user, begin
from usersync_cli.errors import GuardRefused, NotFound, PartialError, Stopped, UsersyncError
from usersync_cli.load import stage
from usersync_cli.load.binding import Own, bind
from usersync_cli.model import Change, Desired, Job, Step
from usersync_cli.ports import HasDetails, ReadsTogether, Session
from usersync_cli.report import listing
from usersync_cli.report.compare import Comparison, Difference, Report
from usersync_cli.report.listing import Listing
from usersync_cli.report.shape import shape_of
from usersync_cli.run.checkpoint import Preview
from usersync_cli.run.context import Options as RunOptions
from usersync_cli.run.context import (
    StepResult,
    World,
    chosen,
    chosen_streams,
    is_outward,
    reads_streams,
    refuse_other_account,
    refuse_silence,
)
from usersync_cli.run.documents.stream import StreamLoad, is_numbered
from usersync_cli.run.outbound import step as outbound
from usersync_cli.run.tables.reader import SourceReader, open_sources
from usersync_cli.state import ledger, readings
from usersync_cli.state.ledger import StoredCursor

# Nothing hidden by a policy; how values are written as text, every transaction sets (`transactions.begin`).
SETTINGS = {"jit": "off", "row_security": "off", "cursor_tuple_fraction": "1"}
# A source of documents may let us wait for a page: its rate limits are minutes long.
PATIENT = {"idle_in_transaction_session_timeout": "1h"}


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    steps: Sequence[str] = ()
    streams: Sequence[str] = ()
    limit: int | None = 20  # differences kept of each report; None keeps all of them in memory
    values: bool = False  # keep values with them: people's data


def verify(job: Job, world: World, options: Options) -> Iterator[Report]:
    """Compare the job's steps in their order, each stream by itself; one that can't be compared does not stop the next, but
    a signal does."""
    for step in chosen(job, options.steps, options.streams):
        compare = _outward if is_outward(step) else _streams if reads_streams(step) else _tables
        yield from compare(step, world, options)


@contextmanager
def _told(reports: Sequence[Report]) -> Iterator[None]:
    """What goes wrong here is said in the reports."""
    began = time.monotonic()
    try:
        yield
    except Stopped:
        raise
    except UsersyncError as error:
        for report in reports:
            report.fail(error)
    for report in reports:
        report.seconds = time.monotonic() - began


@contextmanager
def _target(world: World, doing: str, **settings: str) -> Iterator[Connection]:
    """A transaction of the target, rolled back at its end."""
    tx = connect(world.target, job=world.tools.job, stop=world.tools.stop, read_write=True)
    try:
        with translated(world.target, doing):
            begin(tx, long=True, **SETTINGS, **settings)  # type: ignore[arg-type]  # mypy takes any key for `long`
            yield tx
    finally:
        rollback(tx)
        tx.close()


def _only_read(tx: Connection) -> None:
    """Temp tables that are there may still be filled; anything else is refused by the server."""
    tx.execute("SET TRANSACTION READ ONLY")


def _table(tx: Connection, name: str, job: str) -> Table:
    table = describe(tx, name)
    if table is None:
        raise NotFound(f"target table {name} does not exist yet", hint=f"usersync run --job {job}")
    return table


def _rejects(tx: Connection, job: str, step: str, stream: str = "") -> dict[str, bytes]:
    """Records that were set aside, key and hash. None where the role may not read them; then they count as missing."""
    if not ledger.may_read(tx, "rejects"):
        return {}
    query = "SELECT key, hash FROM usersync.rejects WHERE job = %s AND step = %s AND stream = %s"
    return dict(tx.execute(query, (job, step, stream)).fetchall())


def _stored(tx: Connection, job: str, step: str) -> Mapping[str, StoredCursor]:
    """What the last run read, by stream. Raises Drift where a newer program wrote that; empty where the role may not read it."""
    ledger.refuse_newer(tx)
    return ledger.cursors(tx, job, step) if ledger.may_read(tx, "cursors") else {}


def _moved(world: World, name: str, size: int) -> None:
    world.tools.stop.check()
    world.progress(name, size)


def _say_if_silent(report: Report, job: str) -> None:
    if report.rows and not report.read and report.error is None:
        facts = {"stream": report.stream} if report.stream else {}
        log.once("the sources have no records, so there was nothing to compare with", job=job, step=report.step, **facts)


# a step of tables


def _tables(step: Step, world: World, options: Options) -> Iterator[Report]:
    report = Report(step.name, step.load.table)
    with _told([report]), _target(world, f"comparing {step.load.table}") as tx:
        _compare_tables(step, world, options, report, tx)
    _say_if_silent(report, world.tools.job)
    yield report


def _compare_tables(step: Step, world: World, options: Options, report: Report, tx: Connection) -> None:
    job = world.tools.job
    table, rejects = _table(tx, step.load.table, job), _rejects(tx, job, step.name)
    with ExitStack() as closing:
        readers = open_sources(step, world, closing, as_text=True)
        stored = _stored(tx, job, step.name)
        for reader in readers:
            reader.refuse_other_account(stored, RunOptions())
        stages = {
            stream.name: stage.create(tx, stream.name, reader.session.columns(stream)) for reader in readers for stream in reader.streams
        }
        desired = Desired(bind(tx, Own.of(step), list(stages.values())), 0)
        shape = shape_of(desired, step.load, table, tx, job)
        comparison = Comparison(shape, rejects, tx, world.tools.stop, report, limit=options.limit, values=options.values)
        comparison.begin()
        _only_read(tx)
        for reader in readers:
            _stage(reader, stages, stored, world, tx)
    taken = _put(comparison, desired, list(stages.values()), rejects, tx)
    report.read += taken
    comparison.run(keyless=sum(key.startswith("sha256:") for key in rejects))


def _stage(
    reader: SourceReader, stages: Mapping[str, stage.Stage], stored: Mapping[str, StoredCursor], world: World, tx: Connection
) -> None:
    """All that this source has; then it is closed."""
    for content in reader.pages():
        name, into = content.stream, stages[content.stream].table
        rows = stage.copy(tx, into, content, partial(_moved, world, name), freeze=True)
        refuse_silence(f"extract {name}", stored[name].rows if name in stored else 0, rows, RunOptions())
        tx.execute(sql.SQL("ANALYZE {}").format(into))
    reader.close()


def _put(comparison: Comparison, desired: Desired, stages: Sequence[stage.Stage], rejects: Mapping[str, bytes], tx: Connection) -> int:
    """Records on which the transform fails are left out if they were set aside before; gives how many."""
    taken = 0
    try:
        with as_user(tx):
            comparison.put(desired)
    except (psycopg.DataError, psycopg.IntegrityError, errors.CardinalityViolation):
        keys = [_take_out(one, rejects, tx) for one in stages]
        if not (taken := sum(map(len, keys))):
            raise
        with as_user(tx):
            comparison.put(desired)
        for some in keys:
            comparison.leave_out(some)
    return taken


def _take_out(one: stage.Stage, rejects: Mapping[str, bytes], tx: Connection) -> list[str]:
    """Take the records out of a stage that were set aside just as they are; gives their keys."""
    keys = {hash_: key for key, hash_ in rejects.items()}
    statement = sql.SQL("DELETE FROM {} AS f WHERE {hash} = ANY(%s) RETURNING {hash}").format(
        one.table, hash=sql.SQL("sha256(convert_to(row_to_json(f.*)::text, 'UTF8'))")
    )
    return [keys[hash_] for (hash_,) in tx.execute(statement, (list(keys),)).fetchall()]


# a step with a target outside PostgreSQL


def _outward(step: Step, world: World, options: Options) -> Iterator[Report]:
    """What a run would do there is what differs."""
    report = Report(step.name, step.load.table)

    def tell(change: Change) -> bool:
        kind = _KINDS.get(change.kind)
        if kind and (options.limit is None or len(report.found) < options.limit):
            values = {"source": dict(change.after), "table": dict(change.before)} if options.values else {}
            (key,) = change.key.values()
            report.found.append(Difference(kind, str(key), tuple(change.after) if kind == "different" else (), **values))
        report.columns.update(list(change.after) if kind == "different" else ())
        return True

    with _told([report]):
        done = StepResult(step.name)
        outbound.run_step(step, world, RunOptions(everybody=True), Preview(tell), done)
        if done.error and not isinstance(done.error, (PartialError, GuardRefused)):
            raise done.error
        counts = done.counts
        report.read, report.duplicates, report.rejected = counts.read, counts.duplicates, counts.rejected
        report.missing, report.different, report.extra = counts.inserted, counts.updated, counts.gone
        report.rows = counts.distinct - counts.inserted - counts.rejected + counts.gone
    yield report


_KINDS: dict[str, Any] = {"insert": "missing", "update": "different", "disable": "extra", "reject": "rejected"}

# a step of documents


def _streams(step: Step, world: World, options: Options) -> Iterator[Report]:
    (extract,) = step.extract.values()
    source = world.sources[extract.source]
    reports = [Report(step.name, step.load.table.replace("{stream}", name), name) for name in chosen_streams(extract, options.streams)]
    with ExitStack() as closing:
        session: Session | None = None
        with _told(reports):
            session = closing.enter_context(source.open(world.tools))
        if session is None:
            yield from reports
            return
        for group in [reports] if isinstance(session, ReadsTogether) else [[report] for report in reports]:
            with _told(group), _target(world, f"comparing {', '.join(report.table for report in group)}", **PATIENT) as tx:
                _compare_streams(step, world, options, session, group, tx)
            for report in group:
                _say_if_silent(report, world.tools.job)
                yield report


def _compare_streams(  # noqa: PLR0913, PLR0917  all that it takes
    step: Step, world: World, options: Options, session: Session, reports: Sequence[Report], tx: Connection
) -> None:
    """Streams that are read together are read once; one that has no table leaves the others."""
    (extract,) = step.extract.values()
    listings: list[Listing] = []
    for number, report in enumerate(reports):
        with _told([report]), translated(world.target, f"comparing {report.table}"), tx.transaction():
            listings.append(_listing(step, world, options, session, report, number, tx))
    if not listings:
        return
    stored = _stored(tx, world.tools.job, step.name)
    refuse_other_account(extract.source, session.account, [stored[one] for one in extract.streams if one in stored], RunOptions())
    before = {one.into.name: _listed_before(tx, one) for one in listings}
    _only_read(tx)
    listing.read(extract.source, session, listings)
    for one in listings:
        with _told([one.report]):
            refuse_silence(f"stream {one.into.name}", before[one.into.name], one.records + one.report.read, RunOptions())
        if one.report.error:
            continue
        with _told([one.report]), translated(world.target, f"comparing {one.report.table}"), tx.transaction():
            one.compare()


def _listed_before(tx: Connection, one: Listing) -> int:
    """Records of the last complete reading that was accepted."""
    if not (ledger.may_read(tx, "seen_streams") and ledger.may_read(tx, "sweeps")):
        return 0
    found = readings.recall(tx, one.into.known.scope)
    return (found[0].previous or 0) if found else 0


def _listing(  # noqa: PLR0913, PLR0917  all that it takes
    step: Step, world: World, options: Options, session: Session, report: Report, number: int, tx: Connection
) -> Listing:
    """A stream before anything of it was read. Raises NotFound without its table, Drift where the transform does not fit it."""
    ((_, extract),) = step.extract.items()
    job, stream = world.tools.job, report.stream
    scope = {"job": job, "step": step.name, "run_id": 0, "account": session.account}
    into = StreamLoad(step, world.sources[extract.source], stream, scope, numbered=is_numbered(session, stream))
    into.codec = codec(tx)
    table, rejects = _table(tx, into.load.table, job), _rejects(tx, job, step.name, stream)
    details = partial(session.details, stream) if isinstance(session, HasDetails) and stream in session.detailed else None
    found = Listing(tx, into, extract.source, details, rejects, report, partial(_moved, world, stream), number)
    found.begin(
        lambda desired: shape_of(desired, into.load, table, tx, job, number),
        lambda shape, rejects: Comparison(shape, rejects, tx, world.tools.stop, report, limit=options.limit, values=options.values),
    )
    return found


def line(job: str, report: Report) -> str:
    """What was found, in people's words: `auroville: users: 412 read, 412 in the table: 1 missing, 0 extra, 2 different (email 2)`."""
    name = f"{job}: {report.step}/{report.stream}" if report.stream else f"{job}: {report.step}"
    if report.error:
        return f"{name}: could not be compared ({report.seconds:.1f} s)"
    columns = ", ".join(f"{column} {count:,}" for column, count in report.columns.most_common())
    parts = [
        f"{report.missing:,} missing",
        f"{report.extra:,} extra",
        f"{report.different:,} different{f' ({columns})' if columns else ''}",
    ]
    parts += [f"{getattr(report, kind):,} {kind}" for kind in ("kept", "marked", "rejected") if getattr(report, kind)]
    if report.duplicates:
        parts.append(f"{report.duplicates:,} duplicate{'s' if report.duplicates > 1 else ''} passed over")
    return f"{name}: {report.read:,} read, {report.rows:,} in the table: {', '.join(parts)} ({report.seconds:.1f} s)"
