"""Source and table, side by side: two streams in the order of the key, matched here as text.

Only where two texts differ is PostgreSQL asked whether the column's type calls them equal (numeric 1.0 and 1.00).
Memory does not grow with either side.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, TypeAlias

from psycopg import errors, sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar, type_name
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.errors import ConfigError
from usersync_cli.load import stage
from usersync_cli.load.table.create import MARK
from usersync_cli.model import Desired
from usersync_cli.report.verify.report import Difference, VerifyReport
from usersync_cli.report.verify.shape import Shape, exact
from usersync_cli.signals import Stop

BATCH = 500  # rows of each stream in our memory, which may be wide
CANDIDATES = 20  # of one key, as far as they differ from the table's row
_HASH = re.compile(r"sha256:[0-9a-f]{64}")  # what a record without a key is filed under

Row: TypeAlias = Sequence[str | None]


@dataclass(frozen=True)
class Pair:
    """What source and table have for one key. Without candidates the row is extra, without a row the record is missing."""

    key: str
    candidates: Sequence[Row] = field(repr=False)  # several where a key occurs more than once, and nothing says which is loaded
    row: Row | None = field(repr=False)


class Comparison:
    """One table's two streams, matched. What the source wants is `put` first, and who can't be loaded is `left_out`."""

    def __init__(  # noqa: PLR0913  all that a comparison is
        self, shape: Shape, rejects: Collection[str], tx: Connection, stop: Stop, report: VerifyReport, *, limit: int | None, values: bool
    ) -> None:
        """`rejects` are keys. Of the differences `limit` are kept, and their values only with `values`."""
        self._shape, self._rejects, self._tx, self._stop, self._report = shape, rejects, tx, stop, report
        self._limit, self._values = limit, values
        self._left_out = stage.table(f"usersync_left_out_{shape.number}")
        self._loaded = 0  # records that the transform could take
        self._distinct = 0
        self._without = 0  # records that can't be loaded
        self._left_alone: Collection[str] = ()

    def begin(self) -> None:
        """Make the temp tables, while the transaction may still make any."""
        self._tx.execute(self._shape.create())
        self._tx.execute(sql.SQL('CREATE TEMP TABLE {} (key text COLLATE "C" PRIMARY KEY) ON COMMIT DROP').format(self._left_out))

    def put(self, desired: Desired) -> None:
        """Put the rows of the transform next to the table; none of them when PostgreSQL raises."""
        try:
            with self._tx.transaction():
                number = self._tx.execute(self._shape.fill(desired)).rowcount
        except errors.ReadOnlySqlTransaction as error:
            raise ConfigError(
                f"the transform writes, and verify only reads: {error.diag.message_primary}", hint="leave nextval() and the like out of it"
            ) from error
        self._loaded += number
        self._report.read += number

    def leave_out(self, keys: Collection[str]) -> int:
        """Note keys that the source has and that can't be loaded: rejected when they were set aside, else missing.

        Returns how many were not noted before.
        """
        statement = sql.SQL("INSERT INTO {} SELECT DISTINCT key FROM unnest(%s::text[]) AS g(key) ON CONFLICT DO NOTHING")
        number = self._tx.execute(statement.format(self._left_out), (list(keys),)).rowcount if keys else 0
        self._without += number
        return number

    def leave_alone(self, keys: Collection[str]) -> None:
        """Rows with these keys are not the source's business: they count as kept."""
        self._left_alone = set(keys)

    def run(self, *, keyless: int = 0) -> None:
        """Fill the report. `keyless` is the number of rejects of rows for which the transform gives no key."""
        if self._shape.inexact_key:
            self._tx.execute(self._shape.respell())
        without_key = self._without_key(keyless)
        batch: list[Pair] = []
        # as_user: what order_by says is a person's
        with as_user(self._tx), self._tx.cursor("usersync_source") as wanted, self._tx.cursor("usersync_table") as there:
            wanted.itersize = there.itersize = BATCH
            for pair in self._pairs(wanted.execute(self._shape.wanted()), there.execute(self._shape.there())):
                batch.append(pair)
                if len(batch) == BATCH:
                    self._judge(batch)
                    batch = []
            self._judge(batch)
        self._tell_left_out()
        self._report.duplicates += self._loaded - self._distinct - without_key

    def _without_key(self, keyless: int) -> int:
        without = scalar(self._tx, self._shape.without_key())
        for i in range(without):
            self._note(Difference("rejected" if i < keyless else "missing", None))
        return int(without)

    def _tell_left_out(self) -> None:
        with self._tx.cursor("usersync_left_out") as keys:
            keys.itersize = BATCH
            for (key,) in keys.execute(sql.SQL("SELECT key FROM {} ORDER BY key").format(self._left_out)):
                self._note(Difference(self._unless_rejected(key, "missing"), None if _HASH.fullmatch(key) else key))

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
                self._stop.check()
            yield row

    def _judge(self, batch: Sequence[Pair]) -> None:
        """Count these pairs, of which no two texts are the same."""
        equal = self._equal(batch)
        left_out = self._who_is_left_out([pair.key for pair in batch if not pair.candidates])
        names = self._shape.names
        for number, pair in enumerate(batch):
            if pair.row is None:
                self._note(
                    Difference(
                        self._unless_rejected(pair.key, "missing"), pair.key, source=dict(zip(names, pair.candidates[0], strict=True))
                    )
                )
            elif pair.key in left_out:
                pass  # the source has it, and what it was before stays
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

    def _who_is_left_out(self, keys: Sequence[str]) -> set[str]:
        if not keys or not self._without:
            return set()
        query = sql.SQL("SELECT key FROM {} WHERE key OPERATOR(pg_catalog.=) ANY(%s::pg_catalog.text[])").format(self._left_out)
        return {key for (key,) in self._tx.execute(query, (keys,))}

    def _equal(self, batch: Sequence[Pair]) -> set[tuple[int, int, int]]:
        """Which of these values are equal although their texts differ, as (pair, candidate, column): PostgreSQL says so."""
        equal: set[tuple[int, int, int]] = set()
        for i, name in enumerate(self._shape.names):
            column = self._shape.table.columns[name]
            if exact(column) or not column.equality or column.bare == "json":
                continue
            asked = [
                (number, which, candidate[i], pair.row[i])
                for number, pair in enumerate(batch)
                if pair.row is not None
                for which, candidate in enumerate(pair.candidates)
                if candidate[i] != pair.row[i] and candidate[i] is not None and pair.row[i] is not None
            ]
            if asked:
                bare = type_name(column.bare)
                type_ = sql.SQL(f"{bare} COLLATE {column.collation}" if column.collation else bare)  # from the catalog
                query = sql.SQL(
                    "SELECT p.i FROM unnest(%s::pg_catalog.text[], %s::pg_catalog.text[]) WITH ORDINALITY AS p(a, b, i)"
                    " WHERE (p.a::{0}) OPERATOR({1}) (p.b::{0})"
                ).format(type_, sql.SQL(column.operator))
                for (place,) in self._tx.execute(query, ([a for *_, a, _ in asked], [b for *_, b in asked])):
                    equal.add((*asked[place - 1][:2], i))
        return equal

    def _judge_extra(self, key: str, row: Mapping[str, str | None]) -> None:
        if self._shape.load.on_missing == "keep" or key in self._left_alone:
            self._report.kept += 1
        elif self._shape.load.on_missing == "mark" and row[MARK] is not None:
            self._report.marked += 1
        else:
            self._note(Difference("extra", key, table=row))

    def _unless_rejected(self, key: str, kind: Literal["missing", "different"]) -> Literal["missing", "different", "rejected"]:
        return "rejected" if key in self._rejects else kind

    def _note(self, found: Difference) -> None:
        report, limit = self._report, self._limit
        setattr(report, found.kind, getattr(report, found.kind) + 1)
        if found.kind == "different":
            report.columns.update(found.columns)
        if limit is None or len(report.found) < limit:
            report.found.append(found if self._values else replace(found, source={}, table={}))


def _some(group: Iterable[Any], row: Row | None) -> list[Row] | None:
    """The candidates of one key, without their keys, as far as they differ from one another; None when the table's row is one."""
    found: list[Row] = []
    for candidate in group:
        if candidate == row:
            return None
        if len(found) < CANDIDATES and candidate not in found:
            found.append(candidate)
    return [candidate[1:] for candidate in found]
