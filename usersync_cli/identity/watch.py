"""Watches the rows that a step writes and removes, and fills an app's part of the map from them, in the same transaction.

New and changed rows are looked at as they come. All rows of the table are looked at when the rules or the lists have changed, or
when somebody asks for everything again (`everything`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres.catalog import Table, has_one_text
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, listed, scalar, statements
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.errors import ConfigError, PartialError
from usersync_cli.identity.domains import Domains
from usersync_cli.identity.facts import Facts
from usersync_cli.identity.place import visible
from usersync_cli.identity.resolve import Filled, Outcome, Resolver
from usersync_cli.load.deletes.guard import GONE, Sweep, same_row
from usersync_cli.load.merge import CHANGES, Merge
from usersync_cli.model import Identity

_SQL = statements(__name__)
CARRIED = 100_000  # facts that a preview takes along
_UNFIT = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded)  # what a rule's SQL may say of a value
BACK = "left, and is back"  # in a preview: a page took the record away, and a later one has it again


class Watch:
    """What one table says about one app's ids, in one run. `number` tells several of one transaction apart."""

    def __init__(self, identity: Identity, filled: Filled, domains: Domains, *, everything: bool, number: int = 0) -> None:
        self.identity, self._filled, self._domains = identity, filled, domains
        self._facts = Facts(identity, number)
        self._resolver: Resolver | None = None
        self._touched = False  # something was collected since the last look
        self._known = False  # the map has its tables
        self._carried: dict[str, list[tuple[Any, ...]]] = {}  # in a preview: facts of rows that it rolled back, by id
        self._gone: dict[str, str] = {}  # in a preview: ids whose rows it took back to where they were, and what became of them
        self._decided_before: list[str] = []  # in a preview with more of them than can be carried: ids that it has decided
        self.everything = everything  # all rows are still to be looked at
        self._whole = False  # the transaction under way looks at all rows
        self._remembered = False
        self.problem: PartialError | None = None  # why some rows could not be looked at; the next run looks at all of them

    def begin(self, tx: Connection, *, empty: bool) -> None:
        """Recall by which rules the rows that are there were looked at. `empty`: there are none, so that nothing is to be made up for."""
        self._known = bool(scalar(tx, "SELECT to_regclass('usersync.identities') IS NOT NULL"))
        query = "SELECT fingerprint FROM usersync.identities WHERE app = %s AND job = %s AND step = %s AND stream = %s"
        filled = self._filled
        with visible(tx):
            before = scalar(tx, query, (self.identity.app, filled.job, filled.step, filled.stream)) if self._known else None
        self._remembered = before == self.fingerprint
        self.everything = (self.everything or not self._remembered) and not empty

    @property
    def fingerprint(self) -> str:
        """The rules, the lists and whatever else decides what the rows say."""
        rules = [(rule.name, rule.domain, rule.uuid) for rule in self.identity.rules]
        text = repr((self.identity.id, rules, self.identity.max_ids, self._domains.dated))
        return hashlib.sha256(text.encode()).hexdigest()

    # called by the loader, before it writes

    def wrote(self, tx: Connection, merge: Merge, table: Table | None) -> None:
        """The rows of CHANGES are new, or change."""
        self._refuse_unknown(merge)
        with self._looking(tx):
            self._facts.open(tx)
            self._facts.collect(tx, self._changes(merge, table), self._roles)
            if table is not None and self.identity.id not in merge.key:
                self._let_go(tx, merge)

    def _let_go(self, tx: Connection, merge: Merge) -> None:
        """The ids that changed rows had before: those that no row has any more have left."""
        was, others = self._id("t"), self._id("o")
        query = sql.SQL("""
            INSERT INTO {undone} SELECT DISTINCT l.id, 'left' FROM (
                SELECT {was} AS id FROM {changes} AS w {found} WHERE {was} OPERATOR(pg_catalog.<>) COALESCE({will}, '')
            ) AS l WHERE NOT EXISTS (
                SELECT FROM {table} AS o WHERE {others} OPERATOR(pg_catalog.=) l.id AND {live}
                   AND NOT EXISTS (SELECT FROM {changes} AS w WHERE {same})
            )
        """).format(
            undone=self._facts.undone, was=was, will=self._id("w"), others=others, changes=CHANGES, found=merge.found,
            table=merge.table, live=_is_live(merge, "o"), same=merge.same("o", "w"),
        )  # fmt: skip
        with as_user(tx):
            tx.execute(query)

    def leaves(self, tx: Connection, found: Sweep, merge: Merge) -> None:
        """The rows of GONE that go are those of records that have left."""
        self._refuse_unknown(merge)
        with self._looking(tx):
            self._facts.open(tx)
            leaving = sql.SQL("SELECT t.{} FROM {} AS t JOIN {} AS g ON {} AND {}").format(
                identifier(self.identity.id), merge.table, GONE, same_row(merge), found.goes
            )
            if not self._unique(merge):
                leaving += sql.SQL(" EXCEPT SELECT t.{} FROM {} AS t WHERE {} AND NOT EXISTS (SELECT FROM {} AS g WHERE {} AND {})").format(
                    identifier(self.identity.id), merge.table, _is_live(merge), GONE, same_row(merge), found.goes
                )
            with as_user(tx):
                tx.execute(sql.SQL("INSERT INTO {} SELECT (l.{})::pg_catalog.text, 'left' FROM ({}) AS l").format(
                    self._facts.undone, identifier(self.identity.id), leaving
                ))  # fmt: skip

    def filled(self) -> None:
        """The table was empty, and is filled now."""
        self.everything = self._touched = True

    def check(self, tx: Connection, merge: Merge) -> None:
        """Raises ConfigError where a rule's SQL is wrong, or the id no column that the step loads."""
        self._refuse_unknown(merge)
        columns = listed(sql.SQL("w.{}").format(f.column) for f in merge.fields)
        self._facts.check(tx, sql.SQL("SELECT {} FROM ({}) AS w").format(columns, merge.wanted))

    @contextmanager
    def _looking(self, tx: Connection) -> Iterator[None]:
        """A value that a rule's SQL can't take loses nobody: the rows are loaded, and all of them are looked at again by the next run."""
        try:
            with tx.transaction():
                yield
        except _UNFIT as error:
            self._fail(error)
        else:
            self._touched = True

    def _fail(self, error: psycopg.Error) -> None:
        code = psycopg.errors.lookup(error.sqlstate or "XX000").__name__
        self._touched = True  # so that it is written down that all rows are owed a look
        self.problem = PartialError(
            f"app {self.identity.app}: a rule can't be applied to some rows: {code}; who they are was not looked at",
            hint="the rows are loaded. Make the rule's SQL hold for every value (NULLIF, CASE); the next run looks at all rows again",
        )

    # called at the end of the transaction

    def has_news(self, tx: Connection) -> bool:
        """Whether something was collected in this transaction, or could not be."""
        return self._touched and (self.problem is not None or self._facts.are_there(tx))

    @property
    def carries(self) -> bool:
        """Whether something is still to be decided that `carry` took along."""
        return bool(self._carried or self._gone)

    def decide(self, tx: Connection, merge: Merge, *, everything: bool, writes: bool) -> None:
        """Decide what was collected; with `everything`, for all rows of the table that were not collected."""
        self._refuse_unknown(merge)
        self._facts.open(tx)
        self._whole = everything
        resolver = self._resolver = Resolver(self._facts, self._filled, self._domains, unique=self._unique(merge), few=not everything)
        if self.carries:
            self._put_back(tx)
        if everything:
            self._collect_rest(tx, merge, sql.SQL("true"))
        tx.execute("SET LOCAL row_security TO on")  # for a role that may write the map, and does not own it
        resolver.open(tx, there=self._known)
        resolver.left(tx, writes=writes)
        if everything:
            resolver.unlist(tx)
            tx.execute(sql.SQL("ANALYZE {} (id)").format(self._facts.table))
        while resolver.decide(tx):
            tx.execute("SET LOCAL row_security TO off")
            here = sql.SQL("EXISTS (SELECT FROM {} AS u WHERE u.id OPERATOR(pg_catalog.=) {})").format(self._facts.undone, self._id("t"))
            self._collect_rest(tx, merge, here)
            tx.execute("SET LOCAL row_security TO on")

    def write(self, tx: Connection, merge: Merge) -> None:
        """Write what was decided, and by which rules, once all rows were looked at."""
        assert self._resolver is not None  # noqa: S101  `decide`
        filled, identity = self._filled, self.identity
        if not self._remembered:
            tx.execute(_SQL["add_app"], {"app": identity.app, "by": f"job {filled.job}"})
        self._resolver.write(tx)
        if (not self._remembered and (self._whole or not self.everything)) or self.problem:
            live = identifier(merge.marks[0]).as_string(tx) if merge.marks else None
            tx.execute(
                _SQL["remember"],
                {"app": identity.app, "job": filled.job, "step": filled.step, "stream": filled.stream, "run": filled.run_id,
                 "relation": merge.table.as_string(tx), "id": identifier(identity.id).as_string(tx), "live": live,
                 "fingerprint": None if self.problem else self.fingerprint, "lists": self._domains.dated},
            )  # fmt: skip

    def outcome(self, tx: Connection) -> Outcome:
        """What was decided, in numbers."""
        assert self._resolver is not None  # noqa: S101  `decide`
        return self._resolver.outcome(tx)

    def foreseen(self, tx: Connection) -> Iterator[tuple[str, str, str | None, str | None, str]]:
        """For a preview: what a run does (`Resolver.foreseen`)."""
        assert self._resolver is not None  # noqa: S101  `decide`
        yield from self._resolver.foreseen(tx)

    def carry(self, tx: Connection) -> bool:
        """In a preview, take what was collected along to the end, where all pages are decided together, as their run does it in effect.

        False, and nothing was taken, where that would be too much; then it is decided here, as if the pages before did not count.
        """
        facts = self._facts
        facts.open(tx)
        found = tx.execute(sql.SQL("SELECT * FROM {} LIMIT {}").format(facts.table, sql.Literal(CARRIED + 1))).fetchall()
        gone = [one for (one,) in tx.execute(sql.SQL("SELECT u.id FROM {} AS u").format(facts.undone)).fetchall()]
        if len(found) + len(gone) + len(self._carried) > CARRIED:
            self._decided_before += [*(row[0] for row in found), *gone]
            return False
        here = {row[0] for row in found}
        for id_ in here | set(gone):
            self._carried.pop(id_, None)
        for row in found:
            self._carried.setdefault(row[0], []).append(row)
        self._gone |= dict.fromkeys(set(gone) - here, "left") | dict.fromkeys(here & self._gone.keys(), BACK)
        return True

    def _put_back(self, tx: Connection) -> None:
        """What `carry` took along."""
        with tx.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(self._facts.table)) as copy:
            for rows in self._carried.values():
                for row in rows:
                    copy.write_row(row)
        with tx.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(self._facts.undone)) as copy:
            for row in sorted(self._gone.items()):
                copy.write_row(row)
        self._carried, self._gone = {}, {}

    def close(self, tx: Connection) -> None:
        """The end of what was collected: a transaction may go on."""
        facts = self._facts
        tx.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(listed([facts.table, facts.undone, facts.hosts, facts.decided])))
        tx.execute("SET LOCAL row_security TO off")
        self._touched, self._resolver = False, None

    def committed(self, *, everything: bool) -> None:
        """What was written has been committed; with `everything`, all rows were looked at."""
        if everything:
            self.everything = False
        if not self.everything and not self.problem:
            self._remembered = True

    # rows

    @property
    def _roles(self) -> Sequence[str]:
        return sorted(self._domains.roles)

    def _refuse_unknown(self, merge: Merge) -> None:
        columns = [field.name for field in merge.fields]
        if self.identity.id not in columns:
            raise ConfigError(
                f"identity: app {self.identity.app}: the step loads no column {self.identity.id}",
                hint=f"`id` is one of those that it loads: {', '.join(columns)}",
            )

    def _unique(self, merge: Merge) -> bool:
        """Whether an id has one row."""
        return list(merge.key) == [self.identity.id]

    def _id(self, side: str) -> sql.Composed:
        return sql.SQL("({}.{})::pg_catalog.text").format(sql.SQL(side), identifier(self.identity.id))

    def _changes(self, merge: Merge, table: Table | None) -> sql.Composed:
        """The rows of CHANGES; a row that is there spells its key as it is written there."""
        if table is None or not self._unique(merge) or has_one_text(table.columns[self.identity.id].bare):
            return sql.SQL("SELECT {} FROM {} AS w").format(listed(f.column for f in merge.fields), CHANGES)
        key, rest = identifier(self.identity.id), [sql.SQL(", w.{}").format(f.column) for f in merge.values]
        return sql.SQL("SELECT COALESCE(t.{0}, w.{0}) AS {0}{1} FROM {2} AS w {3}").format(
            key, sql.SQL("").join(rest), CHANGES, merge.found
        )

    def _collect_rest(self, tx: Connection, merge: Merge, which: sql.Composable) -> None:
        """The facts of rows of the table, of those which are live and whose id has none yet."""
        done = sql.SQL("EXISTS (SELECT FROM {} AS f WHERE f.id OPERATOR(pg_catalog.=) {})").format(self._facts.table, self._id("t"))
        done += sql.SQL(" OR EXISTS (SELECT FROM {} AS g WHERE g.because = 'left' AND g.id OPERATOR(pg_catalog.=) {})").format(
            self._facts.undone, self._id("t")
        )  # a preview has not taken its row away
        if self._decided_before:
            done += sql.SQL(" OR {} OPERATOR(pg_catalog.=) ANY ({})").format(self._id("t"), sql.Literal(list(self._decided_before)))
        rows = sql.SQL("SELECT {} FROM {} AS t WHERE {} AND {} AND NOT ({})").format(
            listed(sql.SQL("t.{}").format(f.column) for f in merge.fields), merge.table, _is_live(merge), which, done
        )
        if not scalar(tx, "SELECT to_regclass(%s) IS NOT NULL", (merge.table.as_string(tx),)):
            return  # a preview has not made it
        try:
            with tx.transaction():
                self._facts.collect(tx, rows, self._roles)
        except _UNFIT as error:
            self._fail(error)


def _is_live(merge: Merge, side: str = "t") -> sql.Composable:
    """A condition on a row of the table: it is not marked as gone."""
    return sql.SQL("{}.{} IS NULL").format(sql.SQL(side), identifier(merge.marks[0])) if merge.marks else sql.SQL("true")
