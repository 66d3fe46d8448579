"""The source of a step whose target is outside PostgreSQL: read whole, into tables of the transaction that plans."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection, codec
from usersync_cli.errors import ConfigError, Unavailable
from usersync_cli.load import stage
from usersync_cli.load.binding import Own, bind
from usersync_cli.load.rejects import NO_KEY, NOT_JSON
from usersync_cli.model import Column, Cursor, Desired, Documents, KeptOut, Record, Step, Stream
from usersync_cli.ports import BringsAccounts, HasDetails, KeepsOut, LeavesOut, Session, Source
from usersync_cli.run.context import Options, RunContext, StepResult, reads_streams, refuse_other_account, refuse_silence
from usersync_cli.run.tables.reader import open_sources, tabular
from usersync_cli.state import ledger
from usersync_cli.state.rejects import Reject

COLUMNS = (Column("key", "text"), Column("data", "jsonb"), Column("version", "text"), Column("deleted", "boolean"), Column("ord", "bigint"))


class WholeSource:
    """The source of a step, whole: staged in the transaction that is open."""

    def __init__(self, step: Step, context: RunContext, options: Options, tx: Connection, done: StepResult, stack: ExitStack) -> None:  # noqa: PLR0913, PLR0917
        self._step, self._context, self._options, self._tx, self._done = step, context, options, tx, done
        self._stack = stack
        self.stored = ledger.cursors(tx, context.tools.job, step.name)
        self.cursors: dict[str, tuple[Cursor, str, int]] = {}  # stream: cursor, account, rows
        self.bad: list[Reject] = []
        self.session: Session | None = None
        self.stream = ""
        self.transform = step.transform  # or the source's own

    @property
    def account(self) -> str:
        return ", ".join(dict.fromkeys(account for _, account, _ in self.cursors.values()))

    @property
    def records(self) -> int:
        return sum(rows for _, _, rows in self.cursors.values())

    def read(self, check: Callable[[int], None]) -> Desired:
        """Everything that the source has. Raises Drift when it is another account's, or fell silent."""
        desired = self._documents(check) if reads_streams(self._step) else self._tables(check)
        for name, (_, _, rows) in self.cursors.items():
            before = self.stored[name].rows if name in self.stored else 0
            had = f"the last run read {before:,} records; nothing was written"
            refuse_silence(f"{name} of source {self._source}", before, rows, self._options, had=had)
        return desired

    @property
    def _source(self) -> str:
        return next(iter(self._step.extract.values())).source

    def _tables(self, check: Callable[[int], None]) -> Desired:
        stages: dict[str, stage.Stage] = {}
        for reader in open_sources(self._step, self._context, self._stack):
            reader.refuse_other_account(self.stored, self._options)
            for stream in reader.streams:
                stages[stream.name] = stage.create(self._tx, stream.name, reader.session.columns(stream))
            for content in reader.pages():
                rows = stage.copy(self._tx, stages[content.stream].table, content, check, freeze=True)
                self.cursors[content.stream] = ({}, reader.session.account, rows)
            for name, cursor in reader.cursors.items():
                self.cursors[name] = (cursor, *self.cursors[name][1:])
            reader.close()
        return Desired(bind(self._tx, Own.of(self._step), list(stages.values())), self.records)

    def _documents(self, check: Callable[[int], None]) -> Desired:
        ((name, extract),) = self._step.extract.items()
        source = self._context.sources[extract.source]
        (self.stream,) = extract.streams
        self.transform = self._step.transform or transform_of(source, extract.source, self.stream)
        self.session = session = self._stack.enter_context(source.open(self._context.tools))
        before = [self.stored[self.stream]] if self.stream in self.stored else []
        refuse_other_account(extract.source, session.account, before, self._options)
        staged = stage.create(self._tx, name if self._step.transform else "records", COLUMNS)
        bound = bind(self._tx, Own.of(self._step, self.transform), [staged])
        rows, complete = 0, False
        cursor: Cursor = {}
        pages = session.pages([Stream(self.stream)], {})
        with closing(pages):
            for page in pages:
                assert isinstance(page.content, Documents)  # noqa: S101  sessions of documents give nothing else
                check(sum(len(record.data) for record in page.content.records))
                rows += self._put(staged, self._whole(page.content.records), rows)
                complete, cursor = page.complete, page.cursor
        if not complete:
            raise Unavailable(
                f"source {extract.source} gave no complete listing of {self.stream}",
                hint="nothing was written; the next run reads it again",
            )
        self.cursors[self.stream] = (cursor, session.account, rows)
        self._done.left_out = dict(session.left_out) if isinstance(session, LeavesOut) else {}
        return Desired(bound, rows)

    @property
    def kept_out(self) -> Mapping[str, KeptOut]:
        """Why the source does not give some of those whom it lists, by key."""
        if isinstance(self.session, KeepsOut):
            return self.session.kept_out(self.stream)
        return {}

    def _whole(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records with their whole documents, where a listing has only part of them."""
        if not isinstance(self.session, HasDetails) or self.stream not in self.session.detailed:
            return records
        return list(self.session.details(self.stream, [record.key for record in records if not record.problem and not record.deleted]))

    def _put(self, staged: stage.Stage, records: Sequence[Record], at: int) -> int:
        """Stage a page, without records that can't be read; gives how many records came."""
        good, held = [], codec(self._tx) or "utf-8"
        for record in records:
            if record.deleted:
                continue
            if record.problem or not record.key or not _is_json(record.data, held):
                self.bad.append(Reject(None, record.problem or (NOT_JSON if record.key else NO_KEY), document=record.data))
            else:
                good.append(record)
        self._done.bytes += sum(len(record.data) for record in records)
        with self._tx.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(staged.table)) as copy:
            for position, record in enumerate(good):
                copy.write_row((record.key, record.data.decode(), record.version, False, at + position))
        return len(records)


def transform_of(source: Source, name: str, stream: str) -> str:
    """The SELECT that makes accounts of a source's records, where the step has none."""
    if not isinstance(source, BringsAccounts):
        raise ConfigError(f"source {name} brings no SELECT that makes accounts of {stream}", hint="write one as the step's `transform`")
    return source.accounts(stream)


def try_transform(step: Step, tx: Connection, sources: Mapping[str, Source], sessions: Mapping[str, Session]) -> None:
    """Try the transform of a step, for `usersync check`, without a record. Raises ConfigError or Drift where it is not one SELECT."""
    transform = None
    if reads_streams(step):
        ((name, extract),) = step.extract.items()
        if not step.transform:
            transform = transform_of(sources[extract.source], extract.source, extract.streams[0])
        stages = [stage.create(tx, name if step.transform else "records", COLUMNS)]
    else:
        streams_ = {name: Stream(name, one.table, one.query) for name, one in step.extract.items()}
        opened = {name: tabular(one.source, sessions[one.source]) for name, one in step.extract.items()}
        stages = [stage.create(tx, name, opened[name].columns(one)) for name, one in streams_.items()]
    bind(tx, Own.of(step, transform), stages)


def _is_json(data: bytes, held: str) -> bool:
    """Whether PostgreSQL takes the document as jsonb: no NUL, no half surrogates, nothing that its encoding lacks."""
    try:
        found = json.loads(data)
        json.dumps(found, ensure_ascii=False).encode(held)
    except (ValueError, RecursionError):
        return False
    return b"\\u0000" not in data or not _has_nul(found)


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any("\0" in key or _has_nul(inner) for key, inner in value.items())
    return any(map(_has_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value
