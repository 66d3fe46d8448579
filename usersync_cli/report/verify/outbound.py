"""A step with a target outside PostgreSQL: what a run would do there is what differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from usersync_cli.errors import GuardRefused, PartialError
from usersync_cli.model import Change, Step
from usersync_cli.report.verify.report import Difference, VerifyOptions, VerifyReport, failures_in
from usersync_cli.run.checkpoint import Preview
from usersync_cli.run.context import Options as RunOptions
from usersync_cli.run.context import RunContext, StepResult
from usersync_cli.run.outbound import step as outbound


def compare(step: Step, context: RunContext, options: VerifyOptions) -> Iterator[VerifyReport]:
    """One report, from a preview of the step that leaves nothing out."""
    report = VerifyReport(step.name, step.load.table)

    def tell(change: Change) -> bool:
        kind = _KINDS.get(change.kind)
        if kind and (options.limit is None or len(report.found) < options.limit):
            values = {"source": dict(change.after), "table": dict(change.before)} if options.values else {}
            (key,) = change.key.values()
            report.found.append(Difference(kind, str(key), tuple(change.after) if kind == "different" else (), **values))
        report.columns.update(list(change.after) if kind == "different" else ())
        return True

    with failures_in([report]):
        done = StepResult(step.name)
        outbound.run_step(step, context, RunOptions(everybody=True), Preview(tell), done)
        if done.error and not isinstance(done.error, (PartialError, GuardRefused)):
            raise done.error
        counts = done.counts
        report.read, report.duplicates, report.rejected = counts.read, counts.duplicates, counts.rejected
        report.missing, report.different, report.extra = counts.inserted, counts.updated, counts.gone
        report.rows = counts.distinct - counts.inserted - counts.rejected + counts.gone
    yield report


_KINDS: dict[str, Any] = {"insert": "missing", "update": "different", "disable": "extra", "reject": "rejected"}
