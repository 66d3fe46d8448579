"""A step of documents: each stream is read from no cursor, streams that a source reads together in one go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from usersync_cli.clients.postgres.connections import Connection, codec
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.identity import known_ids
from usersync_cli.load.known import Known
from usersync_cli.model import Step
from usersync_cli.ports import FollowsLog, HasDetails, ReadsTogether, Session
from usersync_cli.report.verify import listing
from usersync_cli.report.verify.compare import Comparison
from usersync_cli.report.verify.listing import Listing
from usersync_cli.report.verify.report import VerifyOptions, VerifyReport, failures_in, say_if_silent
from usersync_cli.report.verify.shape import shape_of
from usersync_cli.report.verify.target import cursors_of, moved, only_read, rejects_of, table_of, transaction
from usersync_cli.run.context import Options as RunOptions
from usersync_cli.run.context import RunContext, chosen_streams, refuse_other_account, refuse_silence
from usersync_cli.run.documents.stream import StreamLoad, is_numbered
from usersync_cli.state import ledger

# A source of documents may let us wait for a page: its rate limits are minutes long.
_PATIENT = {"idle_in_transaction_session_timeout": "1h"}


def compare(step: Step, context: RunContext, options: VerifyOptions) -> Iterator[VerifyReport]:
    """A report for each stream; one that can't be compared does not stop the others."""
    (extract,) = step.extract.values()
    source = context.sources[extract.source]
    names = chosen_streams(extract, options.streams)
    reports = [VerifyReport(step.name, step.load.table.replace("{stream}", name), name) for name in names]
    with ExitStack() as closing:
        session: Session | None = None
        with failures_in(reports):
            session = closing.enter_context(source.open(context.tools))
        if session is None:
            yield from reports
            return
        if isinstance(session, FollowsLog):
            yield from (unlisted := [report for report in reports if _has_no_listing(report, session)])
            reports = [report for report in reports if report not in unlisted]
        for group in filter(None, [reports] if isinstance(session, ReadsTogether) else [[report] for report in reports]):
            with failures_in(group), transaction(context, f"comparing {', '.join(report.table for report in group)}", **_PATIENT) as tx:
                _compare(step, context, options, session, group, tx)
            for report in group:
                say_if_silent(report, context.tools.job)
                yield report


def _has_no_listing(report: VerifyReport, session: FollowsLog) -> bool:
    """Whether the stream is only the log's: then its source has nothing that is whole."""
    if session.told(report.stream):
        return False
    report.skipped = "it keeps what the log says, of which the source has no listing"
    return True


def _compare(  # noqa: PLR0913, PLR0917  all that it takes
    step: Step, context: RunContext, options: VerifyOptions, session: Session, reports: Sequence[VerifyReport], tx: Connection
) -> None:
    """Streams that are read together are read once; one that has no table leaves the others."""
    (extract,) = step.extract.values()
    listings: list[Listing] = []
    for number, report in enumerate(reports):
        with failures_in([report]), translated(context.target, f"comparing {report.table}"), tx.transaction():
            listings.append(_listing(step, context, options, session, report, number, tx))
    if not listings:
        return
    stored = cursors_of(tx, context.tools.job, step.name)
    refuse_other_account(extract.source, session.account, [stored[one] for one in extract.streams if one in stored], RunOptions())
    before = {one.into.name: _listed_before(tx, one) for one in listings}
    only_read(tx)
    listing.read(extract.source, session, listings)
    for one in listings:
        with failures_in([one.report]):
            refuse_silence(f"stream {one.into.name}", before[one.into.name], one.records + one.report.read, RunOptions())
        if one.report.error:
            continue
        with failures_in([one.report]), translated(context.target, f"comparing {one.report.table}"), tx.transaction():
            one.compare()


def _listed_before(tx: Connection, one: Listing) -> int:
    """Records of the last complete reading that was accepted, without those that the source has reported as gone since."""
    if not all(ledger.may_read(tx, name) for name in ("alembic_version", "seen_streams", "sweeps", "seen", "removals")):
        return 0
    known = Known(one.into.known.scope, one.into.known.numbered)
    known.recall(tx)
    return known.memory.previous or 0


def _ids(step: Step, stream: str, tx: Connection) -> Iterator[Sequence[str]]:
    """The ids that the target knows of the stream's app, if it has one."""
    for identity in step.identity:
        if identity.stream in {"", stream}:
            yield from known_ids.ids_in(tx, identity.app)


def _listing(  # noqa: PLR0913, PLR0917  all that it takes
    step: Step, context: RunContext, options: VerifyOptions, session: Session, report: VerifyReport, number: int, tx: Connection
) -> Listing:
    """A stream before anything of it was read. Raises NotFound without its table, Drift where the transform does not fit it."""
    ((_, extract),) = step.extract.items()
    job, stream = context.tools.job, report.stream
    scope = {"job": job, "step": step.name, "run_id": 0, "account": session.account}
    into = StreamLoad(step, context.sources[extract.source], stream, scope, numbered=is_numbered(session, stream))
    into.codec = codec(tx)
    table, rejects = table_of(tx, into.load.table, job), rejects_of(tx, job, step.name, stream)
    details = partial(session.details, stream) if isinstance(session, HasDetails) and stream in session.detailed else None
    found = Listing(
        tx, into, extract.source, details, rejects, report, partial(moved, context, stream), partial(_ids, step, stream, tx), number
    )
    found.begin(
        lambda desired: shape_of(desired, into.load, table, tx, job, number),
        lambda shape, rejects: Comparison(shape, rejects, tx, context.tools.stop, report, limit=options.limit, values=options.values),
    )
    return found
