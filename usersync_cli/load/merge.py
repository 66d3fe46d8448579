"""The SQL that makes a table equal to what was staged, and writes only what differs.

Compare first: one pass of a hash join over staged rows and table, which locks and writes nothing. Only when something
differs are those rows kept in a temp table, decided among duplicates, and written, sorted by key.

These statements hold a person's SQL, or set off their triggers, so they run with the person's search path (`as_user`). Nothing
of ours in them may depend on it: functions, types and operators say their schema, IS DISTINCT FROM and IN are not used (they
look `=` up along the path), and what can be computed here is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import and_, identifier, listed, or_, scalar
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.errors import Drift, VerificationFailed

CHANGES = sql.SQL("pg_temp.usersync_changes")
REJECTS = sql.SQL("pg_temp.usersync_rejects")  # the keys of rejects, and why; made when the first is found
_DUPLICATES = sql.SQL("pg_temp.usersync_duplicates")
SHOWN_KEYS = 5
WIDE = 1600
ATTEMPTS = 3  # to compare and keep the changes while somebody else writes


EQUAL = "pg_catalog.="


@dataclass(frozen=True)
class Field:
    """One column that is loaded: how the transform's value is turned into the target's type, and how the two compare."""

    name: str
    cast: str = ""  # type to cast to; "" where the types are the same
    collation: str = ""  # of the target's column, quoted, where it is not the type's own
    as_text: bool = False  # json has no equality: compared as text
    operator: str = EQUAL  # of equality, with its schema
    composite: bool = False  # IS NULL would be true of a row of NULLs too

    @property
    def column(self) -> sql.Identifier:
        return identifier(self.name)

    def same(self, one: str, other: str) -> sql.Composed:
        """The values of these two sides are equal; NULL where one is."""
        a, b = (
            sql.SQL("{}.{}{}").format(sql.SQL(side), self.column, sql.SQL("::pg_catalog.text" if self.as_text else ""))
            for side in (one, other)
        )
        return sql.SQL("{} OPERATOR({}) {}").format(a, sql.SQL(EQUAL if self.as_text else self.operator), b)  # from the catalog

    def differs(self, one: str, other: str) -> sql.Composed:
        """As IS DISTINCT FROM, whatever `=` means along the path."""
        a, b = (sql.SQL("{}.{}").format(sql.SQL(side), self.column) for side in (one, other))
        null = sql.SQL("pg_catalog.num_nulls({}, {}) OPERATOR(pg_catalog.=) 2" if self.composite else "{} IS NULL AND {} IS NULL")
        return sql.SQL("(({}) IS NOT TRUE AND NOT ({}))").format(self.same(one, other), null.format(a, b))


@dataclass(frozen=True)
class Merge:
    """What goes where: a table, the SELECT of what it should hold, and which columns say who is who."""

    table: sql.Composable
    fields: Sequence[Field]
    helpers: Sequence[str]  # columns of the transform that are not loaded but may be ordered by
    key: Sequence[str]
    transform: sql.Composable
    order_by: str | None = None
    on_insert: Sequence[tuple[str, str]] = ()  # (column, expression) of time stamps that we fill
    on_update: Sequence[tuple[str, str]] = ()
    overriding: bool = False  # an identity column GENERATED ALWAYS is given a value
    has_rules: bool = False  # ON CONFLICT is refused on a table with rules
    watched: bool = False  # it has triggers or rules: what was written is looked for afterwards
    marks: tuple[str, str] | None = None  # (column, expression) that says since when a row is missing; NULL for who is there
    sums: bool = False  # take the checksum of the keys that are matched, for `sweep`
    without_rejects: bool = False  # leave out the records in REJECTS, and those without a key
    part: bool = False  # a page of what the table holds: the rest of it is not read

    @property
    def found(self) -> sql.Composed:
        """The table as t, joined to w from the left. A page looks its rows up by their key whatever the planner knows about the
        table: one that grows page by page has no statistics, and would be read whole for each page."""
        if not self.part:
            return sql.SQL("LEFT JOIN {} AS t ON {}").format(self.table, self.same_key)
        return sql.SQL("LEFT JOIN LATERAL (SELECT * FROM {} AS t WHERE {} LIMIT 1) AS t ON true").format(self.table, self.same_key)

    @cached_property
    def wanted(self) -> sql.Composed:
        """The transform's rows in the types and collations of the table."""
        if not self.without_rejects:
            return self.everything
        return sql.SQL("SELECT w.* FROM ({}) AS w WHERE NOT {}").format(self.everything, self.is_reject)

    @property
    def is_reject(self) -> sql.Composed:
        """w is not to be loaded."""
        without = or_(sql.SQL("w.{} IS NULL").format(identifier(name)) for name in self.key)
        return sql.SQL("({} OR EXISTS (SELECT FROM {} AS a WHERE {}))").format(without, REJECTS, self.same("a", "w"))

    @property
    def present(self) -> sql.Composed:
        """t is at the source, be it as a reject."""
        keys = listed(identifier(name) for name in self.key)
        found = sql.SQL("SELECT {} FROM ({}) AS w").format(keys, self.wanted)
        if self.without_rejects:
            found += sql.SQL(" UNION ALL SELECT {} FROM {}").format(keys, REJECTS)
        return sql.SQL("EXISTS (SELECT FROM ({}) AS w WHERE {})").format(found, self.same_key)

    @cached_property
    def everything(self) -> sql.Composed:
        """`wanted` with the rejects."""
        parts: list[sql.Composable] = []
        for f in self.fields:
            value: sql.Composable = sql.SQL("v.{}").format(f.column)
            if f.cast:
                value = sql.SQL("{}::{}").format(value, sql.SQL(f.cast))  # from the catalog
            if f.collation:
                value = sql.SQL("{} COLLATE {}").format(value, sql.SQL(f.collation))  # from the catalog
            parts.append(sql.SQL("{} AS {}").format(value, f.column))
        parts += [sql.SQL("v.{}").format(identifier(name)) for name in self.helpers]
        return sql.SQL("SELECT {} FROM ({}) AS v").format(listed(parts), self.transform)

    @cached_property
    def same_key(self) -> sql.Composed:
        """t and w mean the same record."""
        return self.same("t", "w")

    def same(self, one: str, other: str) -> sql.Composed:
        """Of any two sides."""
        return and_(self.field(name).same(one, other) for name in self.key)

    def field(self, name: str) -> Field:
        """The one of this name."""
        return next((f for f in self.fields if f.name == name), Field(name))

    @cached_property
    def values(self) -> list[Field]:
        """The columns that are not part of the key."""
        return [f for f in self.fields if f.name not in self.key]

    @cached_property
    def differs(self) -> sql.Composed:
        """t and w, of the same key, hold different values."""
        return self.differs_from("w")

    @property
    def wide(self) -> bool:
        """Whether two rows side by side have more columns than PostgreSQL allows (1,664)."""
        return 2 * (len(self.fields) + len(self.helpers)) > WIDE

    @property
    def marked(self) -> sql.Composed:
        """t is marked as gone."""
        return sql.Composed([sql.SQL("t.{} IS NOT NULL").format(identifier(self.marks[0])) if self.marks else sql.SQL("false")])

    def differs_from(self, other: str) -> sql.Composed:
        """t and `other` ("w" or "excluded"), of the same key, hold different values."""
        marked = self.marked
        if not self.values:
            return marked
        differs: sql.Composed = or_(f.differs("t", other) for f in self.values)
        return sql.SQL("({} OR {})").format(differs, marked) if self.marks else differs

    @property
    def first_key(self) -> sql.Identifier:
        return identifier(self.key[0])


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
    """About how many the table holds."""
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
    """The outcome with winners only; `distinct` of `found` leaves the new rows out."""
    new_distinct = _count_new(tx, merge)
    if new_distinct == found.inserted and not duplicates:
        return replace(found, distinct=found.distinct + new_distinct)
    keys = _decide_duplicates(tx, merge)
    inserted, updated = _count_changes(tx)
    return Outcome(found.read, found.distinct + new_distinct, inserted, updated, keys)


_Found = tuple[int, int, int, int, int, int, int]  # read, without key, new, differing, matched, rows of the table that were hit, checksum


def _whole(tx: Connection, merge: Merge) -> _Found:
    """In one pass.

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
    """Where the table is far bigger than what was staged, so that it need not be read whole."""
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


def key_text(key: Sequence[str], side: str = "t") -> sql.Composed:
    """A row's key as text, in the types of the table: the one column, or a record of all of them."""
    columns = [sql.SQL("{}.{}::pg_catalog.text").format(sql.SQL(side), identifier(name)) for name in key]
    whole = columns[0] if len(columns) == 1 else sql.SQL("(ROW({}))::pg_catalog.text").format(listed(columns))
    return sql.SQL('({} COLLATE pg_catalog."C")').format(whole)


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
    return _number(tx, query)


def _count_changes(tx: Connection) -> tuple[int, int]:
    new, changed_ = (sql.SQL("pg_catalog.count(*) FILTER (WHERE {}usersync_is_new)").format(sql.SQL(which)) for which in ("", "NOT "))
    inserted, updated = _one(tx, sql.SQL("SELECT {}, {} FROM {}").format(new, changed_, CHANGES))
    return inserted, updated


def _decide_duplicates(tx: Connection, merge: Merge) -> list[str]:
    """One winner for each key that occurs twice, chosen among all its rows: the one that equals the table must not lose
    to its twin only because it is not among the changes. Ties end by the values, so every run decides the same."""
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


def write(tx: Connection, merge: Merge, outcome: Outcome, *, vacated: bool = False) -> None:
    """Update, then insert, what CHANGES holds. Twice is once: what is equal by then is left alone. Not so after `vacate`:
    a row that was to give up a value is equal by that alone, and its time stamp is to be written still.

    Raises VerificationFailed when rows are still missing or different afterwards: a trigger or a rule swallowed them.
    """
    written = 0
    with as_user(tx):
        if outcome.updated:
            written += _update(tx, merge, vacated=vacated)
        if outcome.inserted:
            written += tx.execute(insert(merge, sql.SQL("SELECT * FROM {} WHERE usersync_is_new").format(CHANGES), merge.key)).rowcount
        tx.execute("SET CONSTRAINTS ALL IMMEDIATE")  # a deferred foreign key would only fail at COMMIT, and say less
    if written < outcome.inserted + outcome.updated:
        _look_again(tx, merge, merge.differs)
    elif merge.watched:
        _look_again(tx, merge, merge.marked)


def _update(tx: Connection, merge: Merge, *, vacated: bool) -> int:
    # Locked in the order of the key, so that two writers which meet on the same rows wait instead of deadlocking.
    keys = listed(sql.SQL("t.{}").format(identifier(name)) for name in merge.key)
    tx.execute(
        sql.SQL("""
            SELECT pg_catalog.count(*) FROM (SELECT FROM {} AS t JOIN {} AS w ON {} WHERE NOT w.usersync_is_new
                                   ORDER BY {} FOR NO KEY UPDATE OF t) AS locked
        """).format(merge.table, CHANGES, merge.same_key, keys)
    )
    return tx.execute(update(merge, CHANGES, vacated=vacated)).rowcount


def update(merge: Merge, rows: sql.Composable, *, vacated: bool = False) -> sql.Composed:
    """UPDATE of those of these rows that are not new and differ still; of all that are not new after `vacate`."""
    differs = sql.SQL("true") if vacated else merge.differs
    return sql.SQL("UPDATE {} AS t SET {} FROM {} AS w WHERE {} AND NOT w.usersync_is_new AND {}").format(
        merge.table, _assignments(merge, "w"), rows, merge.same_key, differs
    )


def _assignments(merge: Merge, side: str) -> sql.Composed:
    own = [sql.SQL("{0} = {1}.{0}").format(f.column, sql.SQL(side)) for f in merge.values]  # "w" or "excluded"
    stamps = [sql.SQL("{} = {}").format(identifier(name), sql.SQL(value)) for name, value in merge.on_update]  # ours
    back = [sql.SQL("{} = NULL").format(identifier(merge.marks[0]))] if merge.marks else []
    return listed([*own, *stamps, *back])


def insert(merge: Merge, rows: sql.Composable, conflict: Sequence[str] = (), *, ordered: bool = True) -> sql.Composed:
    """INSERT of these rows; with `conflict` sorted by key, and whoever inserted the same key meanwhile is updated."""
    names = listed([*(f.column for f in merge.fields), *(identifier(name) for name, _ in merge.on_insert)])
    values = listed([*(sql.SQL("w.{}").format(f.column) for f in merge.fields), *(sql.SQL(value) for _, value in merge.on_insert)])  # ours
    statement = sql.SQL("INSERT INTO {} AS t ({}) {} SELECT {} FROM ({}) AS w").format(
        merge.table, names, sql.SQL("OVERRIDING SYSTEM VALUE" if merge.overriding else ""), values, rows
    )
    if not conflict:
        return statement
    keys = listed(identifier(name) for name in conflict)
    if ordered:
        statement += sql.SQL(" ORDER BY {}").format(listed(sql.SQL("w.{}").format(identifier(name)) for name in conflict))
    if merge.has_rules:
        return statement
    if not merge.values and not merge.marks:
        return statement + sql.SQL(" ON CONFLICT ({}) DO NOTHING").format(keys)
    assignments, differs = _assignments(merge, "excluded"), merge.differs_from("excluded")
    return statement + sql.SQL(" ON CONFLICT ({}) DO UPDATE SET {} WHERE {}").format(keys, assignments, differs)


def _look_again(tx: Connection, merge: Merge, wrong: sql.Composable) -> None:
    """Each row of CHANGES is there, and is not `wrong`."""
    left = sql.SQL("FROM {} AS w LEFT JOIN {} AS t ON {} WHERE t.{} IS NULL OR {}").format(
        CHANGES, merge.table, merge.same_key, merge.first_key, wrong
    )
    count = _number(tx, sql.SQL("SELECT pg_catalog.count(*) ") + left)
    if count:
        raise VerificationFailed(
            f"{count} rows were written to {merge.table.as_string(tx)} but are not there",
            hint="a trigger or rule of that table swallows them; nothing was committed. `usersync run --dry-run --diff` shows which"
            " would be written",
        )


def tally(tx: Connection, merge: Merge) -> tuple[int, int]:
    """How many rows this transaction has inserted into the table and deleted from it so far, whoever told it to."""
    table = sql.SQL("pg_catalog.to_regclass({})").format(sql.Literal(merge.table.as_string(tx)))
    query = sql.SQL("""
        WITH RECURSIVE every(one) AS (
            SELECT {}::oid UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN every ON i.inhparent = one
        )
        SELECT COALESCE(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_inserted(one)), 0)::bigint,
               COALESCE(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_deleted(one)), 0)::bigint FROM every
    """)
    inserted, deleted = tx.execute(query.format(table)).fetchone() or (0, 0)
    return inserted, deleted


def missing(tx: Connection, merge: Merge) -> int:
    """How many of those who were read are not in the table, also of those of whom nothing was written."""
    lost = sql.SQL("SELECT pg_catalog.count(*) FROM ({}) AS w WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})")
    with as_user(tx):
        return _number(tx, lost.format(merge.wanted, merge.table, merge.same_key))


def normalised(tx: Connection, merge: Merge) -> int:
    """How many of the rows just written hold something else now: a trigger of the table changes what we write."""
    return _number(
        tx,
        sql.SQL("SELECT pg_catalog.count(*) FROM {} AS w JOIN {} AS t ON {} WHERE {}").format(
            CHANGES, merge.table, merge.same_key, merge.differs
        ),
    )


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


def texts(side: str, columns: Iterable[sql.Identifier], *more: sql.Composable) -> sql.Composed:
    """The values of these columns as an array of text; and these values."""
    own = (sql.SQL("{}.{}::pg_catalog.text").format(sql.SQL(side), name) for name in columns)
    return sql.SQL("ARRAY[{}]").format(listed([*own, *more]))


def vacate(tx: Connection, merge: Merge, column: str, placeholder: str) -> None:
    """Take the value of a unique column from every row that gives it up, before anybody takes it: two people who swap
    their names would meet each other otherwise. The update that follows sets it again, in the same transaction."""
    statement = sql.SQL("UPDATE {} AS t SET {} = {} FROM {} AS w WHERE {} AND NOT w.usersync_is_new AND {}").format(
        merge.table, identifier(column), sql.SQL(placeholder), CHANGES, merge.same_key, merge.field(column).differs("t", "w")
    )
    with as_user(tx):
        tx.execute(statement)


def _number(tx: Connection, query: sql.Composed) -> int:
    (number,) = _one(tx, query)
    return int(number)


def _one(tx: Connection, query: sql.Composed) -> tuple[Any, ...]:
    """The only row."""
    (row,) = tx.execute(query).fetchall()
    return row
