"""Is the table what its sources say? Everything is read, nothing is written, and every difference is found.

The merge's comparison, cursors and what was seen play no part: a mistake of theirs must not hide itself. Source and table
come as two streams in the order of the key, as text, and are matched here; only where two texts differ is PostgreSQL asked
whether the column's type calls them equal (numeric 1.0 and 1.00). The transaction is read-only but for its temp tables.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, TypeAlias

import psycopg
from psycopg import errors, sql

from usersync_cli import log, stage
from usersync_cli.catalog import Table, TableColumn, describe
from usersync_cli.connections import Connection, begin, connect, identifier, rollback, translated
from usersync_cli.errors import ConfigError, Drift, NotFound, Stopped, UsersyncError, VerificationFailed, status_of
from usersync_cli.model import Desired, Job, Load, Step
from usersync_cli.steps import World
from usersync_cli.tabular import open_sources
from usersync_cli.targets.postgres import MARK

BATCH = 500  # rows of each stream in our memory, which may be wide
CANDIDATES = 20  # of one key, as far as they differ from the table's row
WANTED = sql.SQL("pg_temp.usersync_wanted")

# How values are written as text, so that reading them again gives the same value; and nothing hidden by a policy.
SETTINGS = {
    "jit": "off", "row_security": "off", "bytea_output": "hex", "IntervalStyle": "postgres", "extra_float_digits": "1",
    "cursor_tuple_fraction": "1",
}  # fmt: skip
# Types in which two values are equal only if their texts are; of those of text, unless a collation says otherwise.
_EXACT = {
    "smallint", "integer", "bigint", "uuid", "boolean", "date", "bytea", "text", "character varying", "bpchar",
    "timestamp with time zone", "timestamp without time zone",
}  # fmt: skip
_MEASURED = {"character varying", "bpchar", '"bit"', "bit varying"}  # what is too long differs; it is no error here, and is not cut

Row: TypeAlias = Sequence[str | None]


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    steps: Sequence[str] = ()
    limit: int | None = 20  # differences kept of each step; None keeps all of them in memory
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
class Report:
    """How one step's table compares with its sources. `error` is None when it could be compared."""

    step: str
    table: str
    read: int = 0  # records that the transform gives
    duplicates: int = 0
    rows: int = 0  # of the table
    missing: int = 0
    extra: int = 0
    different: int = 0
    rejected: int = 0  # missing or different, because they were set aside
    kept: int = 0  # not in the source, which on_missing: keep allows
    marked: int = 0  # not in the source, and said so
    columns: Counter[str] = field(default_factory=Counter)
    found: list[Difference] = field(default_factory=list, repr=False)
    seconds: float = 0.0
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


def verify(job: Job, world: World, options: Options) -> Iterator[Report]:
    """Compare the job's steps in their order; one that can't be compared does not stop the next, but a signal does."""
    unknown = set(options.steps) - {step.name for step in job.steps}
    if unknown:
        raise ConfigError(
            f"job {job.name} has no step {', '.join(sorted(unknown))}", hint=f"its steps: {', '.join(s.name for s in job.steps)}"
        )
    for step in job.steps:
        if not options.steps or step.name in options.steps:
            report = Report(step.name, step.load.table)
            began = time.monotonic()
            try:
                _verify(step, world, options, report)
            except Stopped:
                raise
            except UsersyncError as error:
                report.error = error
            report.seconds = time.monotonic() - began
            yield report


def _verify(step: Step, world: World, options: Options, report: Report) -> None:
    tx = connect(world.target, job=world.tools.job, stop=world.tools.stop, read_write=True)
    try:
        with translated(world.target, f"comparing {step.load.table}"), ExitStack() as closing:
            begin(tx, long=True, **SETTINGS)  # type: ignore[arg-type]  # mypy takes any key for `long`
            table = describe(tx, step.load.table)
            if table is None:
                raise NotFound(f"target table {step.load.table} does not exist yet", hint=f"usersync run --job {world.tools.job}")
            rejects = _rejects(tx, world.tools.job, step.name)
            stages: dict[str, stage.Stage] = {}
            readers = open_sources(step, world, closing)
            for reader in readers:
                for stream in reader.streams:
                    stages[stream.name] = stage.create(tx, stream.name, reader.session.columns(stream))
            desired = stage.desired(step.transform, list(stages.values()), 0)
            shape = _shape(desired, step.load, table, tx, world.tools.job)
            tx.execute(shape.create())
            tx.execute("SET TRANSACTION READ ONLY")  # temp tables may still be filled; anything else is refused by the server

            def moved(extract: str, size: int) -> None:
                world.tools.stop.check()
                world.progress(extract, size)

            for reader in readers:
                for content in reader.pages():
                    name = content.stream
                    stage.copy(tx, stages[name].table, content, lambda size, name=name: moved(name, size), freeze=True)  # type: ignore[misc]
                    tx.execute(sql.SQL("ANALYZE {}").format(stages[name].table))
                reader.close()
            comparison = Comparison(shape, rejects, tx, world, options, report)
            comparison.fill(desired, list(stages.values()))
            comparison.run()
        if report.rows and not report.read:
            log.once("the sources have no records, so there was nothing to compare with", job=world.tools.job, step=step.name)
    finally:
        rollback(tx)
        tx.close()


def _rejects(tx: Connection, job: str, step: str) -> dict[str, bytes]:
    """Records that were set aside, key and hash. None where the role may not read them; then they count as missing."""
    query = (
        "SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'usersync' AND c.relname = 'rejects'"
    )
    if tx.execute(query).fetchone() != (True,):
        return {}
    return dict(tx.execute("SELECT key, hash FROM usersync.rejects WHERE job = %s AND step = %s", (job, step)).fetchall())


@dataclass(frozen=True)
class Shape:
    """Which columns are compared, in the target's types, and the SQL that reads both sides as text."""

    load: Load
    table: Table
    loaded: Sequence[str]
    helpers: Sequence[tuple[str, str]]  # (column, type) that only order_by uses
    inexact_key: bool  # keys may be equal whose texts differ

    @property
    def names(self) -> list[str]:
        """What is compared: all that is loaded but the key, and the mark where the step sets one."""
        return [name for name in self.loaded if name not in self.load.key] + ([MARK] if self.load.on_missing == "mark" else [])

    def create(self) -> sql.Composed:
        """The temp table of what the source wants, made as the target's columns are: what is put in is cast by PostgreSQL's
        own rules of assignment."""
        definitions: list[sql.Composable] = [
            sql.SQL("{} {} {}").format(
                identifier(name), sql.SQL(_wide(column)), sql.SQL(f"COLLATE {column.collation}" if column.collation else "")
            )
            for name, column in ((name, self.table.columns[name]) for name in self.loaded)
        ]
        definitions += [sql.SQL("{} {}").format(identifier(name), stage.type_sql(type_)) for name, type_ in self.helpers]
        return sql.SQL("CREATE TEMP TABLE usersync_wanted ({}) ON COMMIT DROP").format(sql.SQL(", ").join(definitions))

    def fill(self, desired: Desired) -> sql.Composed:
        """Put what the transform gives into it."""
        values: list[sql.Composable] = [
            sql.SQL("v.{}::text::{}").format(identifier(name), sql.SQL(self.table.columns[name].bare))
            if self.table.columns[name].is_enum
            else sql.SQL("v.{}").format(identifier(name))
            for name in self.loaded
        ]
        names = [identifier(name) for name in (*self.loaded, *(name for name, _ in self.helpers))]
        values += [sql.SQL("v.{}").format(identifier(name)) for name, _ in self.helpers]
        return sql.SQL("INSERT INTO {} ({}) SELECT {} FROM ({}) AS v").format(
            WANTED, sql.SQL(", ").join(names), sql.SQL(", ").join(values), desired.transform
        )

    def respell(self) -> sql.Composed:
        """Give the wanted keys the spelling of the table's where their type calls the two equal (citext, numeric)."""
        same = sql.SQL(" AND ").join(sql.SQL("t.{0} = w.{0}").format(identifier(name)) for name in self.load.key)
        to = sql.SQL(", ").join(sql.SQL("{0} = t.{0}").format(identifier(name)) for name in self.load.key)
        return sql.SQL("UPDATE {} AS w SET {} FROM {} AS t WHERE {} AND {} <> {}").format(
            WANTED, to, self.table.name, same, self.key("t"), self.key("w")
        )

    def without_key(self) -> sql.Composed:
        """How many wanted rows, each once, have no key."""
        return sql.SQL("SELECT count(DISTINCT (w.*)::text) FROM {} AS w WHERE NOT ({})").format(WANTED, self._has_key)

    def wanted(self) -> sql.Composed:
        """What the source wants, by key. Of several rows with one key, those that come first in order_by; without it, all."""
        rank = sql.SQL("1")
        if self.load.order_by:
            own = sql.SQL(self.load.order_by)
            rank = sql.SQL("rank() OVER (PARTITION BY {} ORDER BY {}\n)").format(self.key("w"), own)  # type: ignore[assignment]
        return sql.SQL(
            "SELECT {names} FROM (SELECT {values}, {rank} AS usersync_rank FROM {wanted} AS w WHERE {has_key}) AS r"
            " WHERE usersync_rank = 1 ORDER BY convert_to(usersync_key, 'UTF8')"
        ).format(names=self._names, values=self._values("w"), rank=rank, wanted=WANTED, has_key=self._has_key)

    def there(self) -> sql.Composed:
        """What the table holds, by key."""
        return sql.SQL("SELECT {} FROM (SELECT {} FROM {} AS t) AS r ORDER BY convert_to(usersync_key, 'UTF8')").format(
            self._names, self._values("t"), self.table.name
        )

    def key(self, side: str) -> sql.Composed:
        """A row's key as text, as `seen` and rejects have it too."""
        columns = [sql.SQL("{}.{}::text").format(sql.SQL(side), identifier(name)) for name in self.load.key]
        whole = columns[0] if len(columns) == 1 else sql.SQL("(ROW({}))::text").format(sql.SQL(", ").join(columns))
        return sql.SQL('({} COLLATE "C")').format(whole)

    @property
    def _has_key(self) -> sql.Composed:
        return sql.SQL(" AND ").join(sql.SQL("w.{} IS NOT NULL").format(identifier(name)) for name in self.load.key)

    @property
    def _names(self) -> sql.Composed:
        return sql.SQL(", ").join(identifier(name) for name in ("usersync_key", *self.names))

    def _values(self, side: str) -> sql.Composed:
        values = [sql.SQL("{} AS usersync_key").format(self.key(side))]
        for name in self.names:
            given = side == "t" or name in self.loaded
            value = sql.SQL("{}.{}::text").format(sql.SQL(side), identifier(name)) if given else sql.SQL("NULL::text")  # not marked
            values.append(sql.SQL("{} AS {}").format(value, identifier(name)))
        return sql.SQL(", ").join(values)


def _wide(column: TableColumn) -> str:
    """The column's type, without a length that would cut or refuse."""
    return column.bare if column.bare.removesuffix("[]") in _MEASURED else column.type


def _shape(desired: Desired, load: Load, table: Table, tx: Connection, job: str) -> Shape:
    """Raises Drift when the two sides have no columns to compare; all the rest is `usersync check`'s."""
    found = tx.execute(sql.SQL("SELECT * FROM ({}) AS v LIMIT 0").format(desired.transform)).pgresult
    assert found is not None  # noqa: S101  a SELECT always has a result
    names = [str(found.fname(i) or b"", "utf8") for i in range(found.nfields)]
    loaded = [name for name in names if not name.startswith("_")]
    problems = [f"column {name} is missing" for name in loaded if name not in table.columns]
    problems += [f"the key {name} is not a column of the transform" for name in load.key if name not in loaded]
    problems += [f"the key {name} may be NULL" for name in load.key if name in table.columns and not table.columns[name].not_null]
    problems += [f"column {MARK} is missing"] if load.on_missing == "mark" and MARK not in table.columns else []
    if problems:
        raise Drift(f"target table {load.table}: {'; '.join(problems)}", hint=f"`usersync check --job {job}` prints what would help")
    helpers: list[tuple[str, str]] = []
    if load.order_by:
        given = [(names[i], found.ftype(i), found.fmod(i)) for i in range(found.nfields) if names[i].startswith("_")]
        for name, oid, modifier in given:
            ((type_,),) = tx.execute("SELECT pg_catalog.format_type(%s::oid, %s)", (oid, modifier)).fetchall()
            helpers.append((name, type_))
    inexact = any(not _exact(table.columns[name]) for name in load.key)
    return Shape(load, table, loaded, helpers, inexact)


def _exact(column: TableColumn) -> bool:
    return column.bare in _EXACT and not column.collation


@dataclass(frozen=True)
class Pair:
    """What source and table have for one key. Without candidates the row is extra, without a row the record is missing."""

    key: str
    candidates: Sequence[Row] = field(repr=False)  # several where a key occurs more than once, and nothing says which is loaded
    row: Row | None = field(repr=False)


class Comparison:
    """One step's two streams, matched."""

    def __init__(  # noqa: PLR0913, PLR0917  all that a comparison is
        self, shape: Shape, rejects: Mapping[str, bytes], tx: Connection, world: World, options: Options, report: Report
    ) -> None:
        self._shape, self._rejects, self._tx, self._world, self._options, self._report = shape, rejects, tx, world, options, report
        self._loaded = 0  # records that the transform could take
        self._distinct = 0
        self._aside: dict[str, None] = {}  # keys of those that it could not

    def fill(self, desired: Desired, stages: Sequence[stage.Stage]) -> None:
        """Put what the transform gives beside the table. Records on which it fails are left out if they were set aside before."""
        try:
            self._insert(desired)
        except (psycopg.DataError, psycopg.IntegrityError, errors.CardinalityViolation):
            if not (taken := sum(self._take_out(one) for one in stages)):
                raise
            self._insert(desired)
            self._report.read += taken
        if self._shape.inexact_key:
            self._tx.execute(self._shape.respell())

    def _insert(self, desired: Desired) -> None:
        try:
            with self._tx.transaction():
                self._report.read = self._loaded = self._tx.execute(self._shape.fill(desired)).rowcount
        except errors.ReadOnlySqlTransaction as error:
            raise ConfigError(
                f"the transform writes, and verify only reads: {error.diag.message_primary}", hint="leave nextval() and the like out of it"
            ) from error

    def _take_out(self, one: stage.Stage) -> int:
        """Take the records out of a stage that were set aside just as they are; gives how many."""
        keys = {hash_: key for key, hash_ in self._rejects.items()}
        found = self._tx.execute(
            sql.SQL("DELETE FROM {} AS f WHERE {hash} = ANY(%s) RETURNING {hash}").format(
                one.table, hash=sql.SQL("sha256(convert_to(row_to_json(f.*)::text, 'UTF8'))")
            ),
            (list(keys),),
        ).fetchall()
        self._aside.update(dict.fromkeys(keys[hash_] for (hash_,) in found))
        return len(found)

    def run(self) -> None:
        """Fill the report."""
        without_key = self._without_key()
        batch: list[Pair] = []
        with self._tx.cursor("usersync_source") as wanted, self._tx.cursor("usersync_table") as there:
            wanted.itersize = there.itersize = BATCH
            for pair in self._pairs(wanted.execute(self._shape.wanted()), there.execute(self._shape.there())):
                batch.append(pair)
                if len(batch) == BATCH:
                    self._judge(batch)
                    batch = []
        self._judge(batch)
        for key in self._aside:
            self._note(Difference("rejected", key))
        self._report.duplicates = self._loaded - self._distinct - without_key

    def _without_key(self) -> int:
        ((without,),) = self._tx.execute(self._shape.without_key()).fetchall()
        aside = min(int(without), sum(key.startswith("sha256:") for key in self._rejects))
        for i in range(without):
            self._note(Difference("rejected" if i < aside else "missing", None))
        return int(without)

    def _pairs(self, wanted: Iterable[Any], there: Iterable[Any]) -> Iterator[Pair]:
        """Both streams side by side; what has the same text on both sides is passed over."""
        rows = self._counted(there)
        row = next(rows, None)
        for key, group in groupby(wanted, itemgetter(0)):
            self._distinct += 1
            while row is not None and row[0] < key:
                yield Pair(row[0], (), row[1:])
                row = next(rows, None)
            if row is None or row[0] != key:
                yield Pair(key, [next(group)[1:]], None)
                continue
            if (others := _some(group, row)) is not None:
                yield Pair(key, others, row[1:])
            row = next(rows, None)
        while row is not None:
            yield Pair(row[0], (), row[1:])
            row = next(rows, None)

    def _counted(self, there: Iterable[Any]) -> Iterator[Any]:
        for row in there:
            self._report.rows += 1
            if self._report.rows % BATCH == 0:
                self._world.tools.stop.check()
            yield row

    def _judge(self, batch: Sequence[Pair]) -> None:
        """Count these pairs, of which no two texts are the same."""
        equal = self._equal(batch)
        names = self._shape.names
        for number, pair in enumerate(batch):
            if pair.row is None:
                self._note(
                    Difference(
                        self._unless_rejected(pair.key, "missing"), pair.key, source=dict(zip(names, pair.candidates[0], strict=True))
                    )
                )
            elif not pair.candidates:
                self._judge_extra(pair.key, dict(zip(names, pair.row, strict=True)))
            else:
                differing = [
                    [i for i, value in enumerate(candidate) if value != pair.row[i] and (number, which, i) not in equal]
                    for which, candidate in enumerate(pair.candidates)
                ]
                least = min(differing, key=len)
                if least:
                    candidate = pair.candidates[differing.index(least)]
                    columns = [names[i] for i in least]
                    source, table = ({names[i]: side[i] for i in least} for side in (candidate, pair.row))
                    self._note(Difference(self._unless_rejected(pair.key, "different"), pair.key, columns, source, table))

    def _equal(self, batch: Sequence[Pair]) -> set[tuple[int, int, int]]:
        """Which of these values are equal although their texts differ, as (pair, candidate, column): PostgreSQL says so."""
        equal: set[tuple[int, int, int]] = set()
        for i, name in enumerate(self._shape.names):
            column = self._shape.table.columns[name]
            if _exact(column) or not column.equality or column.bare == "json":
                continue
            asked = [
                (number, which, candidate[i], pair.row[i])
                for number, pair in enumerate(batch)
                if pair.row is not None
                for which, candidate in enumerate(pair.candidates)
                if candidate[i] != pair.row[i] and candidate[i] is not None and pair.row[i] is not None
            ]
            if asked:
                type_ = sql.SQL(f"{column.bare} COLLATE {column.collation}" if column.collation else column.bare)  # from the catalog
                query = sql.SQL(
                    "SELECT p.i FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS p(a, b, i)"
                    " WHERE (p.a::{0}) IS NOT DISTINCT FROM (p.b::{0})"
                ).format(type_)
                for (place,) in self._tx.execute(query, ([a for *_, a, _ in asked], [b for *_, b in asked])):
                    equal.add((*asked[place - 1][:2], i))
        return equal

    def _judge_extra(self, key: str, row: Mapping[str, str | None]) -> None:
        if key in self._aside:
            return  # the source has it, and what it was before stays
        if self._shape.load.on_missing == "keep":
            self._report.kept += 1
        elif self._shape.load.on_missing == "mark" and row[MARK] is not None:
            self._report.marked += 1
        else:
            self._note(Difference("extra", key, table=row))

    def _unless_rejected(self, key: str, kind: Literal["missing", "different"]) -> Literal["missing", "different", "rejected"]:
        return "rejected" if key in self._rejects else kind

    def _note(self, found: Difference) -> None:
        report, limit = self._report, self._options.limit
        setattr(report, found.kind, getattr(report, found.kind) + 1)
        if found.kind == "different":
            report.columns.update(found.columns)
        if limit is None or len(report.found) < limit:
            report.found.append(found if self._options.values else replace(found, source={}, table={}))


def _some(group: Iterable[Any], row: Row | None) -> list[Row] | None:
    """The candidates of one key, without their keys, as far as they differ from one another; None when the table's row is one."""
    found: list[Row] = []
    for candidate in group:
        if candidate == row:
            return None
        if len(found) < CANDIDATES and candidate not in found:
            found.append(candidate)
    return [candidate[1:] for candidate in found]


def line(job: str, report: Report) -> str:
    """What was found, in people's words: `auroville: users: 412 read, 412 in the table: 1 missing, 0 extra, 2 different (email 2)`."""
    name = f"{job}: {report.step}"
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
