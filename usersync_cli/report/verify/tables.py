"""A step of tables: its extracts are staged whole, and what the transform makes of them is held against the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import psycopg
from psycopg import errors, sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.load import stage
from usersync_cli.load.binding import Own, bind
from usersync_cli.model import Desired, Step
from usersync_cli.report.verify.compare import Comparison
from usersync_cli.report.verify.report import VerifyOptions, VerifyReport, failures_in, say_if_silent
from usersync_cli.report.verify.shape import shape_of
from usersync_cli.report.verify.target import cursors_of, moved, only_read, rejects_of, table_of, transaction
from usersync_cli.run.context import Options as RunOptions
from usersync_cli.run.context import RunContext, refuse_silence
from usersync_cli.run.tables.reader import SourceReader, open_sources
from usersync_cli.state.ledger import StoredCursor


def compare(step: Step, context: RunContext, options: VerifyOptions) -> Iterator[VerifyReport]:
    """One report: a step of tables has one table."""
    report = VerifyReport(step.name, step.load.table)
    with failures_in([report]), transaction(context, f"comparing {step.load.table}") as tx:
        _compare(step, context, options, report, tx)
    say_if_silent(report, context.tools.job)
    yield report


def _compare(step: Step, context: RunContext, options: VerifyOptions, report: VerifyReport, tx: Connection) -> None:
    job = context.tools.job
    table, rejects = table_of(tx, step.load.table, job), rejects_of(tx, job, step.name)
    with ExitStack() as closing:
        readers = open_sources(step, context, closing, as_text=True)
        stored = cursors_of(tx, job, step.name)
        for reader in readers:
            reader.refuse_other_account(stored, RunOptions())
        stages = {
            stream.name: stage.create(tx, stream.name, reader.session.columns(stream)) for reader in readers for stream in reader.streams
        }
        desired = Desired(bind(tx, Own.of(step), list(stages.values())), 0)
        shape = shape_of(desired, step.load, table, tx, job)
        comparison = Comparison(shape, rejects, tx, context.tools.stop, report, limit=options.limit, values=options.values)
        comparison.begin()
        only_read(tx)
        for reader in readers:
            _stage(reader, stages, stored, context, tx)
    taken = _put(comparison, desired, list(stages.values()), rejects, tx)
    report.read += taken
    comparison.run(keyless=sum(key.startswith("sha256:") for key in rejects))


def _stage(
    reader: SourceReader, stages: Mapping[str, stage.Stage], stored: Mapping[str, StoredCursor], context: RunContext, tx: Connection
) -> None:
    """Copy everything that this source has into the stages, then close it."""
    for content in reader.pages():
        name, into = content.stream, stages[content.stream].table
        rows = stage.copy(tx, into, content, partial(moved, context, name), freeze=True)
        refuse_silence(f"extract {name}", stored[name].rows if name in stored else 0, rows, RunOptions())
        tx.execute(sql.SQL("ANALYZE {}").format(into))
    reader.close()


def _put(comparison: Comparison, desired: Desired, stages: Sequence[stage.Stage], rejects: Mapping[str, bytes], tx: Connection) -> int:
    """Put the rows of the transform next to the table. Records on which it fails are left out if they were set aside before.

    Returns how many were left out.
    """
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
    """Take the records out of a stage that were set aside just as they are. Returns their keys."""
    keys = {hash_: key for key, hash_ in rejects.items()}
    statement = sql.SQL("DELETE FROM {} AS f WHERE {hash} = ANY(%s) RETURNING {hash}").format(
        one.table, hash=sql.SQL("sha256(convert_to(row_to_json(f.*)::text, 'UTF8'))")
    )
    return [keys[hash_] for (hash_,) in tx.execute(statement, (list(keys),)).fetchall()]
