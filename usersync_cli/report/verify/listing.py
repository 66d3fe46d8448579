"""A stream of documents, read whole and from no cursor into temp tables of the target.

Of each key the newest counts, by version and then by its place. Records that nobody could load are kept apart from the
others, so that one of them does not hide the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import Drift, Unavailable
from usersync_cli.load import stage
from usersync_cli.load.rejects import HALF_FROM, allowed, is_about_data
from usersync_cli.load.spelling import Spelling, of_table
from usersync_cli.model import Desired, Documents, Page, Record, Stream
from usersync_cli.ports import FollowsLog, KeepsOut, Session
from usersync_cli.report.verify.compare import Comparison
from usersync_cli.report.verify.report import VerifyReport
from usersync_cli.report.verify.shape import Shape
from usersync_cli.run.documents.page import PageRecord
from usersync_cli.run.documents.record import duplicates, read_record
from usersync_cli.run.documents.stream import StreamLoad, bound
from usersync_cli.state.rejects import Reject


def read(source: str, session: Session, listings: Sequence[Listing]) -> None:
    """Every page of these streams; of a source that follows a log, those of the listing, since the log lags behind it.

    Raises Unavailable when one of them ended before its listing was complete.
    """
    complete: set[str] = set()
    follows, wanted = isinstance(session, FollowsLog), {one.into.name for one in listings}
    pages = session.pages([Stream(one.into.name, ids=one.ids) for one in listings], {})
    with closing(pages):
        for page in pages:
            for one, records in _of_page(source, page, listings) if page.sweep or not follows else ():
                one.take(records)
            complete |= set(page.streams) if page.complete else set()
            if follows and complete >= wanted:
                break
    if isinstance(session, KeepsOut):
        for one in listings:
            one.left_alone = [key for key, why in session.kept_out(one.into.name).items() if not why.leaves]
    if missing := [one.into.name for one in listings if one.into.name not in complete]:
        raise Unavailable(
            f"source {source} ended before the listing of {', '.join(missing)} was complete", hint="nothing was compared; verify once more"
        )


def _of_page(source: str, page: Page, listings: Sequence[Listing]) -> list[tuple[Listing, list[Record]]]:
    assert isinstance(page.content, Documents)  # noqa: S101  sessions of documents give nothing else
    records = page.content.records
    mine = [one for one in listings if one.into.name in page.streams]
    if {record.stream for record in records} - {one.into.name for one in mine}:
        raise Drift(f"source {source} gave a page of other streams than those that were asked for")
    return [(one, [record for record in records if record.stream == one.into.name]) for one in mine]


@dataclass
class Listing:
    """One stream as its source has it, and how it compares with its table."""

    tx: Connection
    into: StreamLoad
    source: str
    details: Callable[[Sequence[str]], Iterable[Record]] | None  # where the listing is only part of the documents
    rejects: Mapping[str, bytes]  # key and hash
    report: VerifyReport
    moved: Callable[[int], None]  # told of bytes; may raise
    ids: Callable[[], Iterable[Sequence[str]]] = tuple  # for a source that is asked id by id (`Stream.ids`)
    number: int = 0  # among those of one transaction
    records: int = 0  # staged
    left_alone: Sequence[str] = ()  # keys of records that the source has and does not give: their rows stay as they are
    _comparison: Comparison = field(init=False)
    _spelling: Spelling = field(init=False)

    @property
    def _table(self) -> sql.Composed:
        return stage.table(f"usersync_listing_{self.number}")

    @property
    def _version_type(self) -> sql.SQL:
        return stage.type_sql(self.into.known.version_type)

    def begin(self, shape_of: Callable[[Desired], Shape], comparison_of: Callable[[Shape, Collection[str]], Comparison]) -> None:
        """Make the temp tables, while the transaction may still make any."""
        statement = sql.SQL(
            'CREATE TEMP TABLE {} (ord bigint PRIMARY KEY, key text COLLATE "C", data text, version {}, deleted boolean, aside boolean,'
            ' row_key text COLLATE "C") ON COMMIT DROP'
        )
        self.tx.execute(statement.format(self._table, self._version_type))
        with bound(self.tx, self.into) as desired:
            shape = shape_of(desired)
        self._spelling = of_table(shape.table, shape.load.key, self.number)
        self._spelling.prepare(self.tx)
        self._comparison = comparison_of(shape, set(self._rows(self.rejects).values()))
        self._comparison.begin()

    def _rows(self, keys: Collection[str]) -> dict[str, str]:
        """How the rows of the table spell these keys."""
        strange = [key for key in keys if not self._spelling.as_written(key)]
        spelt = self._spelling.read(self.tx, strange) if strange else {}
        return {key: spelt[key].row if key in spelt else key for key in keys}

    def _desired(self, first: int, last: int) -> Desired:
        """What the transform makes of the records in these places."""
        some = sql.SQL(  # OFFSET 0: a document is read as jsonb once, however often the transform names it
            '(SELECT key COLLATE pg_catalog."default" AS key, data::pg_catalog.jsonb AS data, version, deleted, ord FROM {}'
            " WHERE ord OPERATOR(pg_catalog.>=) {} AND ord OPERATOR(pg_catalog.<=) {} OFFSET 0) AS part"
        ).format(self._table, sql.Literal(first), sql.Literal(last))
        return Desired(stage.over(self.into.transform, [stage.Stage(self.into.stage, some, temporary=False)]), 0)

    # a page

    def take(self, records: Sequence[Record]) -> None:
        """The records of one page, those that can't be loaded apart."""
        self.moved(sum(len(record.data) for record in records))
        found = [read_record(record, self.into.known, self.into.codec) for record in records]
        items = [one for one in found if isinstance(one, PageRecord)]
        bad = [one.filed_as for one in found if isinstance(one, Reject)]
        if self.details:
            items = self._newest(items)
            found = list(self._whole([one for one in items if not one.record.deleted]))
            items = [one for one in items if one.record.deleted] + [one for one in found if isinstance(one, PageRecord)]
            bad += [one.filed_as for one in found if isinstance(one, Reject)]
        rows = self._rows([*(one.record.key for one in items), *bad])
        self._stage(items, rows)
        self._leave_out([rows[key] for key in bad])

    def _newest(self, items: Sequence[PageRecord]) -> list[PageRecord]:
        older = duplicates(items, numbered=self.into.known.numbered)
        self._pass_over(len(older))
        return [one for position, one in enumerate(items) if position not in older]

    def _whole(self, items: Sequence[PageRecord]) -> Iterator[PageRecord | Reject]:
        """The documents behind what is listed."""
        asked = {one.record.key: one for one in items}
        for record in self.details(list(asked)) if self.details and asked else ():
            if (listed := asked.pop(record.key, None)) is None:
                raise Unavailable(f"source {self.source} gave a document of {self.into.name} that was not asked for, or twice")
            self.moved(len(record.data))
            yield read_record(replace(record, version=record.version or listed.record.version), self.into.known, self.into.codec)
        if asked:
            raise Unavailable(f"source {self.source} gave no document for {len(asked)} of {self.into.name} that it lists")

    def _pass_over(self, number: int) -> None:
        self.report.duplicates += number
        self.report.read += number

    def _leave_out(self, keys: Sequence[str]) -> None:
        self.report.read += self._comparison.leave_out(keys)

    def _stage(self, items: Sequence[PageRecord], rows: Mapping[str, str]) -> None:
        if not items:
            return
        # as COPY: psycopg writes an array of documents ten times slower
        with self.tx.cursor() as cursor, cursor.copy(sql.SQL("COPY {} FROM STDIN").format(self._table)) as sink:
            for ord_, one in enumerate(items, self.records + 1):
                record = one.record
                sink.write_row(
                    (
                        ord_,
                        record.key,
                        one.document.decode(),
                        one.version,
                        record.deleted,
                        self._was_set_aside(record),
                        rows[record.key],
                    )
                )
        self.records += len(items)

    def _was_set_aside(self, record: Record) -> bool:
        """Whether a run set this very document aside."""
        return record.key in self.rejects and self.rejects[record.key] == hashlib.sha256(record.data).digest()

    # when all of it is there

    def compare(self) -> None:
        """Fill the report."""
        self.tx.execute(sql.SQL("ANALYZE {}").format(self._table))
        self._pass_over(self.tx.execute(sql.SQL(_OLDER).format(self._table)).rowcount)
        self.tx.execute(sql.SQL("DELETE FROM {} WHERE deleted").format(self._table))
        aside = self.tx.execute(sql.SQL("DELETE FROM {} WHERE aside RETURNING row_key").format(self._table)).fetchall()
        self._leave_out([key for (key,) in aside])
        self._put(1, self.records)
        self._comparison.leave_alone(self._rows(self.left_alone).values())
        self._comparison.run()

    def _put(self, first: int, last: int, bad: int = 0) -> int:
        """What the transform makes of these; what PostgreSQL refuses is halved until the bad ones stand alone.

        Gives how many are bad. Raises what PostgreSQL says when they are so many that a run would not set them aside.
        """
        try:
            with self.into.own.path(self.tx):
                self._comparison.put(self._desired(first, last))
        except psycopg.Error as error:
            if not is_about_data(error):
                raise
            if first < last:
                middle = (first + last) // 2
                return self._put(middle + 1, last, self._put(first, middle, bad))
            bad += 1
            if bad > allowed(self.records) or (bad >= HALF_FROM and bad * 2 >= self.records):
                raise
            query = sql.SQL("SELECT row_key FROM {} WHERE ord = %s").format(self._table)
            self._leave_out([key for (key,) in self.tx.execute(query, (first,))])
        return bad


_OLDER = """
DELETE FROM {0} AS l USING (
    SELECT ord, row_number() OVER (PARTITION BY row_key ORDER BY version DESC NULLS LAST, ord DESC) AS rank FROM {0}
) AS r WHERE r.ord = l.ord AND r.rank > 1
"""
