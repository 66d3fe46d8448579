"""What the ledger holds of a job, as commands print it: a word or two for people, JSON for programs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from usersync_cli.cli.text import age_seconds, iso
from usersync_cli.cli.tokens import token_document
from usersync_cli.report.status import seconds, told

if TYPE_CHECKING:
    from usersync_cli.report.status import JobStatus
    from usersync_cli.report.streams import ListingStatus, StreamStatus
    from usersync_cli.shapes import LogPlace
    from usersync_cli.state.approvals import Approval
    from usersync_cli.state.ledger import Failing, Holder, Run, StepRun, StoredCursor


def job_document(job: JobStatus, at: datetime) -> dict[str, Any]:
    """A job with all that is known of it, for programs."""
    failures = job.failures
    return {
        "job": job.name,
        "configured": job.configured,
        "schedule": job.schedule,
        "running": job.holder and {"owner": owner(job.holder), "epoch": job.holder.epoch, "lease_until": iso(job.holder.lease_until)},
        "last_run": job.last and _run_document(job.last, at),
        "last_good": job.good and _run_document(job.good, at),
        "failing": {"runs": len(failures), "since": iso(failures[-1].started_at), **_error_document(failures[0])} if failures else None,
        "steps": [_step_document(step) for step in job.steps],
        "approvals": [_approval_document(one) for one in job.approvals],
        "rejects": [{"step": step, "waiting": number} for step, number in job.rejects.items()],
        "conflicts": [{"step": step, "waiting": number} for step, number in job.conflicts.items()],
        "cursors": [_cursor_document(cursor, at) for cursor in job.cursors],
        "streams": [_stream_document(one, at) for one in job.streams],
        "failing_streams": [failing_document(one, at) for one in job.failing],
        "tokens": [token_document(source, token) for source, token in job.tokens.items()],
    }


def _run_document(run: Run, at: datetime) -> dict[str, Any]:
    from usersync_cli.errors import STATUSES

    passed = seconds(run)
    return {
        "run": run.id,
        "status": run.status,
        "exit_status": run.exit_status,
        "meaning": None if run.exit_status is None else STATUSES.get(run.exit_status),
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
        "age_seconds": age_seconds(run.started_at, at),
        "seconds": None if passed is None else round(passed, 3),
        "full": run.full,
        "usersync_version": run.usersync_version,
        "summary": run.summary,
    }


def _error_document(run: Run) -> dict[str, str]:
    message, hint = told(run)
    return {"error": message, "hint": hint}


def _step_document(step: StepRun) -> dict[str, Any]:
    return {
        "step": step.step,
        "run": step.run_id,
        "status": step.status,
        "started_at": iso(step.started_at),
        "finished_at": iso(step.finished_at),
        **vars(step.counts),
        "bytes": step.bytes,
        "normalised": step.normalised,
        "error": step.error,
    }


def _approval_document(waiting: Approval) -> dict[str, Any]:
    return {
        "run": waiting.run_id,
        "step": waiting.step,
        "stream": waiting.stream,
        "rows": waiting.keys,
        "reason": waiting.reason,
        "created_at": iso(waiting.created_at),
    }


def _cursor_document(cursor: StoredCursor, at: datetime) -> dict[str, Any]:
    as_of = read_at(cursor)
    return {
        "step": cursor.step,
        "stream": cursor.stream,
        "account": cursor.account,
        "rows": cursor.rows,
        "version": cursor.version,
        "as_of": iso(as_of),
        "age_seconds": age_seconds(as_of or cursor.updated_at, at),
        "moved_at": iso(cursor.updated_at),
        "value": cursor.value,
    }


def _place_document(place: LogPlace, at: datetime) -> dict[str, Any]:
    """A place in a source's log of changes, for programs. Ages are by the target's clock."""
    return {
        "at": iso(place.at),
        "age_seconds": age_seconds(place.at, at),
        "polled_at": iso(place.polled),
        "poll_age_seconds": age_seconds(place.polled, at),
        "retention_seconds": round(place.retention.total_seconds()),
    }


def _stream_document(one: StreamStatus, at: datetime) -> dict[str, Any]:
    held = one.held
    return {
        "step": one.step,
        "stream": one.stream,
        "source": one.source,
        "table": one.table,
        "problem": one.problem or None,
        "rows": held.rows,
        "rows_exact": held.exact,
        "marked": held.marked,
        "newest_change": iso(held.newest),
        "cursor_moved_at": iso(one.cursor.updated_at) if one.cursor else None,
        "log": one.place and _place_document(one.place, at),
        "last_sweep": one.swept and _listing_document(one.swept),
        "sweep_under_way": one.under_way and _listing_document(one.under_way),
        "rejects": one.rejects,
        "on_missing": one.on_missing,
        "taken_over": one.taken_over,
        "unknown_rows": held.unknown,
        "mark_needs": one.mark_needs or None,
    }


def _listing_document(listing: ListingStatus) -> dict[str, Any]:
    return {
        "run": listing.run_id,
        "outcome": listing.outcome,
        "records": listing.records,
        "candidates": listing.candidates,
        "removed": listing.removed,
        "drift": None if listing.drift is None else dict(listing.drift),
        "started_at": iso(listing.started_at),
        "finished_at": iso(listing.finished_at),
    }


def failing_document(one: Failing, at: datetime) -> dict[str, Any]:
    """A stream whose last outcome was not good, for programs."""
    return {
        "step": one.step,
        "stream": one.stream or None,
        "exit_status": one.exit_status,
        "error": one.error,
        "hint": one.error_hint or "",
        "since": iso(one.since),
        "age_seconds": age_seconds(one.since, at),
        "runs": one.runs,
        "run": one.run_id,
    }


def read_at(cursor: StoredCursor) -> datetime | None:
    """When the source's snapshot was taken, by its own clock, if its cursor says so."""
    given = cursor.value.get("read_at")
    try:
        found = datetime.fromisoformat(given) if isinstance(given, str) else None
    except ValueError:
        return None
    return found if found and found.tzinfo else None


def outcome(run: Run) -> str:
    """How a run ended, in words."""
    from usersync_cli.errors import STATUSES

    if run.status == "running":
        return "under way"
    if run.exit_status is None:
        return "crashed"
    meaning = STATUSES.get(run.exit_status, run.status)
    return f"{meaning}, took {took(run)}" if run.exit_status == 0 else f"exit status {run.exit_status} ({meaning}), took {took(run)}"


def owner(holder: Holder) -> str:
    """Which process holds a job, and whether it is known to have ended."""
    from usersync_cli.state.owner import Owner

    found = Owner.parse(holder.owner)
    return f"{found} (that process has ended: the next run takes over)" if found.dead() else str(found)


def took(run: Run) -> str:
    """How long it took, in words."""
    passed = seconds(run)
    return "an unknown time" if passed is None else f"{passed:.1f} s"


def named(one: Failing) -> str:
    """A stream, or a step of tables."""
    return f"stream {one.stream}" if one.stream else f"step {one.step}"
