"""Is the table what its sources say? Everything is read, nothing is written, and every difference is found."""

from __future__ import annotations

from collections.abc import Iterator

from usersync_cli.model import Job
from usersync_cli.report.verify import documents, outbound, tables
from usersync_cli.report.verify.report import VerifyOptions, VerifyReport
from usersync_cli.run.context import RunContext, chosen, is_outbound, reads_streams


def verify(job: Job, context: RunContext, options: VerifyOptions) -> Iterator[VerifyReport]:
    """Compare the job's steps in their order, each stream by itself; one that can't be compared does not stop the next, but
    a signal does."""
    for step in chosen(job, options.steps, options.streams):
        kind = outbound if is_outbound(step) else documents if reads_streams(step) else tables
        yield from kind.compare(step, context, options)
