"""What a comparison found: a report for each table, kept small however many rows differ, and its line in people's words."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from usersync_cli import log
from usersync_cli.errors import Stopped, UsersyncError, VerificationFailed, status_of


@dataclass(frozen=True)
class VerifyOptions:
    """What the command line asks for."""

    steps: Sequence[str] = ()
    streams: Sequence[str] = ()
    limit: int | None = 20  # differences kept of each report; None keeps all of them in memory
    values: bool = False  # keep values with them: people's data


@dataclass(frozen=True)
class Difference:
    """One row that is not as it should be. Values are as PostgreSQL writes them; None is NULL."""

    kind: Literal["missing", "extra", "different", "rejected"]
    key: str | None = field(repr=False)  # several columns as PostgreSQL writes a record: (1,en); None for a record without
    columns: Sequence[str] = ()  # those that differ
    source: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    table: Mapping[str, str | None] = field(default_factory=dict, repr=False)


@dataclass
class VerifyReport:
    """How the table of one step, or of one of its streams, compares with its sources. `error` is None when it could be compared."""

    step: str
    table: str
    stream: str = ""  # of a step of documents
    read: int = 0  # records that the transform gives
    duplicates: int = 0
    rows: int = 0  # of the table
    missing: int = 0
    extra: int = 0
    different: int = 0
    rejected: int = 0  # missing or different, because they were set aside
    kept: int = 0  # not in the source, which on_missing: keep allows; or left alone by it
    marked: int = 0  # not in the source, and said so
    columns: Counter[str] = field(default_factory=Counter)
    found: list[Difference] = field(default_factory=list, repr=False)
    seconds: float = 0.0
    skipped: str = ""  # why nothing was compared, where that is no error
    error: UsersyncError | None = None

    @property
    def differences(self) -> int:
        return self.missing + self.extra + self.different

    @property
    def exit_status(self) -> int:
        """0, 8 for differences, or that of the error."""
        if self.error:
            return status_of(self.error)
        return VerificationFailed.status if self.differences else 0

    def fail(self, error: UsersyncError) -> None:
        """It could not be compared after all: what was found until then says nothing."""
        vars(self).update(vars(VerifyReport(self.step, self.table, self.stream, error=error)))


@contextmanager
def failures_in(reports: Sequence[VerifyReport]) -> Iterator[None]:
    """An error of this block ends these reports, and no others; a signal ends all."""
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


def say_if_silent(report: VerifyReport, job: str) -> None:
    """A line in the log where an empty source would otherwise look like a good comparison."""
    if report.rows and not report.read and report.error is None:
        facts = {"stream": report.stream} if report.stream else {}
        log.once("the sources have no records, so there was nothing to compare with", job=job, step=report.step, **facts)


def line(job: str, report: VerifyReport) -> str:
    """What was found, in people's words: `auroville: users: 412 read, 412 in the table: 1 missing, 0 extra, 2 different (email 2)`."""
    name = f"{job}: {report.step}/{report.stream}" if report.stream else f"{job}: {report.step}"
    if report.error:
        return f"{name}: could not be compared ({report.seconds:.1f} s)"
    if report.skipped:
        return f"{name}: not compared: {report.skipped}"
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
