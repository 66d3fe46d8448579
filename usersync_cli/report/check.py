"""Will a job work? Both ends are asked, rights and columns compared; nothing is written, and no row is read.

Of a source of documents that can't tell otherwise whether a stream is there, the first page is read, and thrown away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace

import psycopg

from usersync_cli.clients.postgres.catalog import others_may_create
from usersync_cli.clients.postgres.connections import Connection, connect, rollback
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.clients.postgres.sql import identifier
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.errors import ConfigError, Drift, Unavailable, UsersyncError
from usersync_cli.load import writers
from usersync_cli.load.table import SETTINGS
from usersync_cli.load.table.fit import misplaced, sequences
from usersync_cli.model import Documents, Job, Step, Stream
from usersync_cli.ports import CanLook, RunsSql, Session
from usersync_cli.report import identities
from usersync_cli.run.checkpoint import Preview
from usersync_cli.run.context import Options, RunContext, StepResult, is_outbound, reads_streams, refuse_other_account
from usersync_cli.run.documents.stream import StreamLoad, bound, fit, is_numbered
from usersync_cli.run.outbound.reader import try_transform
from usersync_cli.run.tables.reader import SourceReader
from usersync_cli.run.tables.step import TableStep
from usersync_cli.state import ledger
from usersync_cli.state.outbox import StepContext, StepScope

OLDEST_TARGET, OLDEST_SOURCE = 150000, 120000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `error` is None when it is well. `advice` says what a person should know all the same."""

    what: str
    error: UsersyncError | None = None
    advice: str = ""
    step: str = ""


def check(job: Job, context: RunContext) -> Iterator[Finding]:
    """Look at the target, then at every step with its sources. What can't be looked at any more is left out."""
    try:
        tx = connect(context.target, job=job.name, stop=context.tools.stop, read_write=True)
    except UsersyncError as error:
        yield Finding("target", error)
        return
    try:
        yield from _target(tx, context)
        yield from (Finding(told) for told in identities.lists(job.steps, context))
        for step in job.steps:
            yield from _rivals(step, tx, context)
            look = _outbound if is_outbound(step) else _streams if reads_streams(step) else _tables
            yield from (replace(finding, step=step.name) for finding in look(step, tx, context))
    finally:
        rollback(tx)
        tx.close()


def _target(tx: Connection, context: RunContext) -> Iterator[Finding]:
    with translated(context.target, "looking at the server"):
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
    with translated(context.target, "looking at its search path"):
        yield from (Finding(*one) for one in _others("target", others_may_create(tx)))
    try:
        with translated(context.target, "looking at usersync's own tables"):
            yield Finding(f"target: {ledger.inspect(tx)}")
    except UsersyncError as error:
        yield Finding("target: usersync's own tables", error)


def _others(where: str, others: Iterable[tuple[str, str, bool]]) -> Iterator[tuple[str, None, str]]:
    """Who else decides what names mean in a person's SQL."""
    for schema, role, owns in others:
        how = "owns" if owns else "may create objects in"
        help_ = f"write names with their schema, or: REVOKE CREATE ON SCHEMA {schema} FROM {role};"
        if owns:
            help_ = "write names with their schema, or take the schema out of the role's search path"
        yield (
            f"{where}: {role} {how} schema {schema}, which is in the search path",
            None,
            f"transforms, queries and triggers that name something without its schema may run what is made there; {help_}",
        )


def _rivals(step: Step, tx: Connection, context: RunContext) -> Iterator[Finding]:
    """Only what is wrong."""
    try:
        with translated(context.target, "looking for other steps of the same table"):
            writers.refuse(tx, context.tools.job, step.name, context.writers)
    except UsersyncError as error:
        yield Finding(f"step {step.name}: other steps", error)


def _stored(step: Step, tx: Connection, context: RunContext) -> dict[str, ledger.StoredCursor]:
    with suppress(psycopg.Error):  # `_target` has told what is wrong with them
        return ledger.cursors(tx, context.tools.job, step.name)
    return {}


def _tables(step: Step, tx: Connection, context: RunContext) -> Iterator[Finding]:
    stored = _stored(step, tx, context)
    with ExitStack() as stack:
        readers: list[SourceReader] = []
        for source in dict.fromkeys(extract.source for extract in step.extract.values()):
            try:
                reader = SourceReader(source, context, step, stack)
                reader.refuse_other_account(stored, Options())
                for stream in reader.streams:
                    columns = reader.session.columns(stream)
                    yield Finding(f"step {step.name}: extract {stream.name} from source {source}: {len(columns)} columns")
                if isinstance(reader.session, RunsSql):
                    yield from (Finding(*one) for one in _others(f"step {step.name}: source {source}", reader.session.others_may_create()))
                readers.append(reader)
            except UsersyncError as error:
                yield Finding(f"step {step.name}: source {source}", error)
                return
        try:
            with translated(context.target, f"loading {step.load.table}"):
                begin(tx, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
                loading = TableStep(context.tools.job, step, readers, {}, tx, StepResult(step.name), Preview(), context.progress)
                told = f"step {step.name}: {loading.describe()}"
                advice = [misplaced(tx, step.load), sequences(tx, step.load.table, loading.columns), loading.advice]
                yield Finding(told, advice="\n".join(filter(None, advice)))
                if identities.of(step, ""):
                    for one, advised in identities.look(step, "", tx, loading.merge(tx), context):
                        yield Finding(f"step {step.name}: {one}", advice=advised)
        except UsersyncError as error:
            yield Finding(f"step {step.name}: target table {step.load.table}", error)
        finally:
            rollback(tx)


def _streams(step: Step, tx: Connection, context: RunContext) -> Iterator[Finding]:
    """Each stream by itself, so that all are told that do not fit."""
    (extract,) = step.extract.values()
    stored = _stored(step, tx, context)
    with ExitStack() as stack:
        try:
            session = stack.enter_context(context.sources[extract.source].open(context.tools))
            before = [stored[name] for name in extract.streams if name in stored]
            refuse_other_account(extract.source, session.account, before, Options())
        except UsersyncError as error:
            yield Finding(f"step {step.name}: source {extract.source}", error)
            return
        for name in extract.streams:
            what = f"step {step.name}: stream {name} from source {extract.source}"
            try:
                fits, advice = _fitting(step, name, session, tx, context)
                yield Finding(f"{what}: {_look(extract.source, session, name)}; {fits}", advice=advice)
                for told, advised in _identities(step, name, session, tx, context):
                    yield Finding(f"{what}: {told}", advice=advised)
            except UsersyncError as error:
                yield Finding(what, error)


def _outbound(step: Step, tx: Connection, context: RunContext) -> Iterator[Finding]:
    """The source, then the target: what is missing there, all of it."""
    sessions: dict[str, Session] = {}
    with ExitStack() as stack:
        for name in dict.fromkeys(extract.source for extract in step.extract.values()):
            what = f"step {step.name}: source {name}"
            try:
                session = sessions[name] = stack.enter_context(context.sources[name].open(context.tools))
                for stored in _stored(step, tx, context).values():
                    refuse_other_account(name, session.account, [stored], Options())
                for extract in step.extract.values():
                    for stream in extract.streams if extract.source == name else ():
                        yield Finding(f"{what}: {_look(name, session, stream)}")
            except UsersyncError as error:
                yield Finding(what, error)
        if len(sessions) == len({extract.source for extract in step.extract.values()}):
            try:
                with translated(context.target, f"looking at the transform of {step.name}"):
                    begin(tx, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
                    try_transform(step, tx, context.sources, sessions)
                yield Finding(f"step {step.name}: its transform reads {', '.join(step.extract)}")
            except UsersyncError as error:
                yield Finding(f"step {step.name}: transform", error)
            finally:
                rollback(tx)
        step_context = StepContext(StepScope(context.tools.job, step.name, 0), context.tools.stop, Preview().keep)
        what = f"step {step.name}: target {step.load.target}"
        try:
            for said, problem in stack.enter_context(context.targets[step.load.target](step_context, context.tools)).look(tx):
                yield Finding(f"{what}: {said}", problem)
        except UsersyncError as error:
            yield Finding(what, error)


def _look(source: str, session: Session, stream: str) -> str:
    """What is there, in words, without a record if the session can tell that."""
    if isinstance(session, CanLook):
        return session.look(stream)
    pages = session.pages([Stream(stream)], {})
    with closing(pages):
        first = next(iter(pages), None)
    if first is None:
        raise Unavailable(f"source {source} gave no page of {stream}", hint="a run would not take that for an empty stream either")
    assert isinstance(first.content, Documents)  # noqa: S101  sessions of documents give nothing else
    return f"{len(first.content.records)} on its first page"


def _fitting(step: Step, stream: str, session: Session, tx: Connection, context: RunContext) -> tuple[str, str]:
    """How the stream's transform fits its table, and advice. Raises Drift where it does not."""
    into = _load_of(step, stream, session, context)
    try:
        with translated(context.target, f"loading {into.load.table}"):
            begin(tx, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
            merge, table = fit(tx, into)
            name = merge.table.as_string(tx)
            advice = sequences(tx, into.load.table, [field.name for field in merge.fields]) if table else ""
    finally:
        rollback(tx)
    told = f"{len(merge.fields)} columns fit into {name}" if table else f"{name} will be created with {len(merge.fields)} columns"
    return told + into.target.told, "\n".join(filter(None, [advice, into.target.view.advice if into.target.view else ""]))


def _load_of(step: Step, stream: str, session: Session, context: RunContext) -> StreamLoad:
    ((_, extract),) = step.extract.items()
    scope = {"job": context.tools.job, "step": step.name, "run_id": 0, "account": session.account}
    return StreamLoad(step, context.sources[extract.source], stream, scope, numbered=is_numbered(session, stream))


def _identities(step: Step, stream: str, session: Session, tx: Connection, context: RunContext) -> Iterator[tuple[str, str]]:
    """Whose the stream's rows are. Raises ConfigError where a rule will not work."""
    if not identities.of(step, stream):
        return
    into = _load_of(step, stream, session, context)
    try:
        with translated(context.target, f"trying the rules of {into.load.table}"):
            begin(tx, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
            with bound(tx, into) as desired:
                yield from list(identities.look(step, stream, tx, into.target.fit(desired, tx)[0], context))
    finally:
        rollback(tx)


def _release(version: int) -> str:
    return f"{version // 10000}.{version % 10000}"
