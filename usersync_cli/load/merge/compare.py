"""What has to be written to make a table equal to what was staged: one pass of a hash join, which locks and writes nothing.

Only when something differs are those rows kept in a temp table, CHANGES, and duplicates among them decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import and_, identifier, listed, or_, scalar
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.errors import Drift, VerificationFailed
from usersync_cli.load.merge import CHANGES, Merge, key_text, texts

_DUPLICATES = sql.SQL("pg_temp.usersync_duplicates")
SHOWN_KEYS = 5
ATTEMPTS = 3  # to compare and keep the changes while somebody else writes


@dataclass(frozen=True)
class Outcome:
    """What the comparison found. `inserted` and `updated` count winners among duplicates."""

    read: int
    distinct: int
    inserted: int
    updated: int
    duplicate_keys: Sequence[str] = field(default=(), repr=False)
    matched: tuple[int, int] = (
        0,
        0,
    )  # the table's rows that were read, and the checksum of their keys (`Merge.sums`); unknown where keys recur

    @property
    def unchanged(self) -> int:
        return self.distinct - self.inserted - self.updated


class WithoutKey(Drift):
    """Some records have no key."""


def compare(tx: Connection, merge: Merge, *, rows: int) -> Outcome:
    """What has to be written; kept in CHANGES when there is anything. `rows` is about how many were staged.

    Raises WithoutKey for rows without a key.
    """
    with as_user(tx):
        return _compared(tx, merge, small=merge.part or _rows(tx, merge) > 4 * max(rows, 1))


def _rows(tx: Connection, merge: Merge) -> float:
    """About how many rows the table holds."""
    query = "SELECT reltuples FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s)::pg_catalog.oid"
    number = scalar(tx, query, (merge.table.as_string(tx),)) or 0
    return float(number)


def _compared(tx: Connection, merge: Merge, *, small: bool) -> Outcome:
    small = small and not merge.wide
    for _ in range(ATTEMPTS):
        read, without_key, new, differing, matched, hit, checksum = _small(tx, merge) if small else _whole(tx, merge)
        if without_key:
            raise WithoutKey(
                f"{without_key} of {read} records have no {' or '.join(merge.key)}, which is the key",
                hint="leave them out in the transform (WHERE ... IS NOT NULL), or choose a key that every record has",
            )
        if not new and not differing and matched == hit:
            return Outcome(read, hit, 0, 0, matched=(hit, int(checksum)))
        tx.execute(_keep_changes(merge))
        if _count_changes(tx) == (new, differing):
            sums = (hit, int(checksum)) if matched == hit else (0, 0)
            return _decided(tx, merge, Outcome(read, hit, new, differing, matched=sums), duplicates=matched > hit)
        tx.execute(sql.SQL("DROP TABLE {}").format(CHANGES))  # somebody else wrote in between; look again
    raise VerificationFailed(
        "what has to be written was another thing each time it was looked at",
        hint="does the transform give other rows each time (random(), LIMIT without ORDER BY), or does something else write them too?",
    )


def _decided(tx: Connection, merge: Merge, found: Outcome, *, duplicates: bool) -> Outcome:
    """The outcome that counts only the winners among duplicates; `distinct` of `found` leaves the new rows out."""
    new_distinct = _count_new(tx, merge)
    if new_distinct == found.inserted and not duplicates:
        return replace(found, distinct=found.distinct + new_distinct)
    keys = _decide_duplicates(tx, merge)
    inserted, updated = _count_changes(tx)
    return Outcome(found.read, found.distinct + new_distinct, inserted, updated, keys)


_Found = tuple[int, int, int, int, int, int, int]  # read, without key, new, differing, matched, rows of the table that were hit, checksum


def _whole(tx: Connection, merge: Merge) -> _Found:
    """Compare all rows of both sides in one pass.

    Keys of the table are unique: it has as many rows as the join hits, once each, plus those that the join leaves over.
    So the distinct keys among the matched rows need no sort and no second hash table (0.5 s for a million).
    """
    joined, staged, there, keyed, incomplete, differing, rows, checksum = _one(tx, whole_query(merge))
    return (
        staged + joined - keyed,
        joined - keyed + incomplete,
        keyed - there - incomplete,
        differing,
        staged + there - keyed,
        rows + staged - keyed,
        checksum,
    )


def whole_query(merge: Merge) -> sql.Composed:
    """The statement that compares all rows of both sides."""
    rest = [sql.SQL("w.{} IS NULL").format(identifier(name)) for name in merge.key[1:]]
    some = (
        sql.SQL("pg_catalog.count(*) FILTER (WHERE w.{k} IS NOT NULL AND {rest})").format(k=merge.first_key, rest=or_(rest))
        if rest
        else sql.SQL("0")
    )
    return sql.SQL("""
        SELECT pg_catalog.count(*), pg_catalog.count(w.{k}), pg_catalog.count(t.{k}), pg_catalog.count(COALESCE(w.{k}, t.{k})), {some},
               pg_catalog.count(*) FILTER (WHERE w.{k} IS NOT NULL AND t.{k} IS NOT NULL AND {differs}),
               (SELECT pg_catalog.count(*) FROM {table}), {checksum}
          FROM ({wanted}) AS w FULL JOIN {table} AS t ON {same_key}
    """).format(some=some, **{**_parts(merge), **(_packed(merge) if merge.wide else {})})


def _packed(merge: Merge) -> dict[str, sql.Composable]:
    """The values of each side in one column: a row of both would have more columns than PostgreSQL allows."""
    keys = [identifier(name) for name in merge.key]
    marks = [identifier(merge.marks[0])] if merge.marks else []
    values = {
        side: listed(
            sql.SQL("{}.{}{}").format(sql.SQL(side), f.column, sql.SQL("::pg_catalog.text" if f.as_text else "")) for f in merge.values
        )
        for side in ("w", "t")
    }
    packed = sql.SQL("(SELECT {}, ROW({}) AS usersync_values FROM {} OFFSET 0)")
    differs = sql.SQL("(w.usersync_values IS DISTINCT FROM t.usersync_values OR {})").format(merge.marked)
    wanted = packed.format(listed(sql.SQL("w.{}").format(key) for key in keys), values["w"], sql.SQL("({}) AS w").format(merge.wanted))
    there = [sql.SQL("t.{}").format(name) for name in [*keys, *marks]]
    return {
        "differs": differs,
        "wanted": sql.SQL("SELECT * FROM {} AS w").format(wanted),
        "table": packed.format(listed(there), values["t"], sql.SQL("{} AS t").format(merge.table)),
    }


def _small(tx: Connection, merge: Merge) -> _Found:
    """Compare by key, where the table is far bigger than what was staged, so that it need not be read whole."""
    hit = listed(sql.SQL("t.{}").format(identifier(name)) for name in merge.key)
    query = sql.SQL("""
        SELECT pg_catalog.count(*),
               pg_catalog.count(*) FILTER (WHERE {without_key}),
               pg_catalog.count(*) FILTER (WHERE t.{k} IS NULL),
               pg_catalog.count(*) FILTER (WHERE t.{k} IS NOT NULL AND {differs}),
               pg_catalog.count(t.{k}),
               pg_catalog.count(DISTINCT ({hit})) FILTER (WHERE t.{k} IS NOT NULL),
               {checksum}
          FROM ({wanted}) AS w {found}
    """)
    read, without, lacking, *rest = _one(tx, query.format(hit=hit, found=merge.found, **_parts(merge)))
    return (read, without, lacking - without, *rest)


def _parts(merge: Merge) -> dict[str, sql.Composable]:
    without = or_(sql.SQL("w.{} IS NULL").format(identifier(name)) for name in merge.key)
    checksum: sql.Composable = sql.SQL("0")
    if merge.sums:
        both = sql.SQL("FILTER (WHERE w.{0} IS NOT NULL AND t.{0} IS NOT NULL)").format(merge.first_key)
        checksum = sql.SQL("COALESCE(pg_catalog.sum(pg_catalog.hashtextextended({}, 0)) {}, 0)").format(key_text(merge.key), both)
    return {
        "checksum": checksum,
        "k": merge.first_key,
        "without_key": without,
        "differs": merge.differs,
        "wanted": merge.wanted,
        "table": merge.table,
        "same_key": merge.same_key,
    }


def _keep_changes(merge: Merge) -> sql.Composed:
    return sql.SQL("""
        CREATE TEMP TABLE usersync_changes ON COMMIT DROP AS
        SELECT w.*, t.{k} IS NULL AS usersync_is_new
          FROM ({wanted}) AS w {found}
         WHERE t.{k} IS NULL OR {differs}
    """).format(found=merge.found, **_parts(merge))


def _count_new(tx: Connection, merge: Merge) -> int:
    """Distinct keys among the new rows."""
    keys = listed(identifier(name) for name in merge.key)
    query = sql.SQL("SELECT pg_catalog.count(*) FROM (SELECT FROM {} WHERE usersync_is_new GROUP BY {}) AS d").format(CHANGES, keys)
    return int(scalar(tx, query))


def _count_changes(tx: Connection) -> tuple[int, int]:
    new, changed_ = (sql.SQL("pg_catalog.count(*) FILTER (WHERE {}usersync_is_new)").format(sql.SQL(which)) for which in ("", "NOT "))
    inserted, updated = _one(tx, sql.SQL("SELECT {}, {} FROM {}").format(new, changed_, CHANGES))
    return inserted, updated


def _decide_duplicates(tx: Connection, merge: Merge) -> list[str]:
    """Choose one winner for each key that occurs twice, among all its rows; gives the first of those keys, as text.

    The row that equals the table must not lose to its twin only because it is not among the changes. Ties end by the values, so
    every run decides the same.
    """
    columns = [sql.SQL("{} AS {}").format(identifier(name), identifier(f"usersync_key_{i}")) for i, name in enumerate(merge.key)]
    keys = listed(identifier(name) for name in merge.key)
    tx.execute(
        sql.SQL(
            "CREATE TEMP TABLE usersync_duplicates ON COMMIT DROP AS SELECT {} FROM ({}) AS w GROUP BY {}"
            " HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1"
        ).format(listed(columns), merge.wanted, keys)
    )
    same = [
        and_(
            sql.SQL("d.{} OPERATOR({}) {}.{}").format(
                identifier(f"usersync_key_{i}"), sql.SQL(merge.field(name).operator), sql.SQL(side), identifier(name)
            )
            for i, name in enumerate(merge.key)
        )
        for side in ("c", "w")
    ]
    tx.execute(sql.SQL("DELETE FROM {} AS c USING {} AS d WHERE {}").format(CHANGES, _DUPLICATES, same[0]))
    order = [sql.SQL("w.{}").format(identifier(name)) for name in merge.key]
    decided: list[sql.Composable] = [sql.SQL(merge.order_by)] if merge.order_by else []  # the user's own SQL
    tie = [sql.SQL("w.{}::pg_catalog.text").format(f.column) for f in merge.values]
    tie = [sql.SQL("ROW({})::pg_catalog.text").format(listed(tie))] if merge.wide else tie
    tx.execute(
        sql.SQL("""
        INSERT INTO {changes}
        SELECT w.*, t.{k} IS NULL
          FROM (SELECT DISTINCT ON ({order}) w.* FROM ({wanted}) AS w JOIN {duplicates} AS d ON {same} ORDER BY {all}) AS w
          LEFT JOIN {table} AS t ON {same_key}
         WHERE t.{k} IS NULL OR {differs}
    """).format(
            changes=CHANGES,
            order=listed(order),
            duplicates=_DUPLICATES,
            same=same[1],
            all=listed([*order, *decided, *tie]),
            **_parts(merge),
        )
    )
    shown = listed(sql.SQL("{}::pg_catalog.text").format(identifier(f"usersync_key_{i}")) for i in range(len(merge.key)))
    places = listed(sql.SQL(str(i + 1)) for i in range(len(merge.key)))
    query = sql.SQL("SELECT {} FROM {} ORDER BY {} LIMIT {}").format(shown, _DUPLICATES, places, sql.Literal(SHOWN_KEYS))
    return [",".join(row) for row in tx.execute(query).fetchall()]


def changed(merge: Merge) -> sql.Composed:
    """Each row of CHANGES, by key: whether it is new, its key, what the table holds and what it will hold, as arrays of text.

    The key is the table's own where there is a row: an update leaves it as it is written there.
    """
    keys, names = [identifier(name) for name in merge.key], [f.column for f in merge.fields]

    marks = [identifier(merge.marks[0])] if merge.marks else []
    return sql.SQL("""
        SELECT t.{k} IS NULL, CASE WHEN t.{k} IS NULL THEN {new_key} ELSE {key} END, {before}, {after}
          FROM {changes} AS w LEFT JOIN {table} AS t ON {same_key} ORDER BY {order}
    """).format(
        new_key=texts("w", keys),
        key=texts("t", keys),
        before=texts("t", [*names, *marks]),
        after=texts("w", names, *[sql.SQL("NULL::pg_catalog.text")] * len(marks)),
        changes=CHANGES,
        order=listed(sql.SQL("w.{}").format(name) for name in keys),
        **_parts(merge),
    )


def _one(tx: Connection, query: sql.Composed) -> tuple[Any, ...]:
    """The only row of a query."""
    (row,) = tx.execute(query).fetchall()
    return row
