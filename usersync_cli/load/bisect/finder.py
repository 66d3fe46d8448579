"""The bad records of one step of tables, found while it is loaded: REJECTS holds them, so that it can be loaded without them.

A step that meets a bad record begins again without it, until nothing bad is left: so the target is what loading the good
records alone would have made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres.catalog import Table
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.load.bisect import constraints, extracts, found, writing
from usersync_cli.load.merge import REJECTS, Merge
from usersync_cli.load.rejects import Limits, allowed
from usersync_cli.load.stage import Stage
from usersync_cli.state import rejects


class Finder:
    """Finds the bad records of one step. Everything happens in its transaction."""

    def __init__(self, tx: Connection, job: str, step: str) -> None:
        self.begun = False  # REJECTS is there: `Merge.without_rejects`
        self._tx, self._job, self._step = tx, job, step

    def begin(self, merge: Merge) -> None:
        """Leave out records without a key and those in REJECTS from here on."""
        if not self.begun:
            found.create(self._tx, merge)
            self.begun = True

    def transform(self, merge: Merge, text: str | None, stages: Sequence[Stage]) -> bool:
        """Find the records that the transform or a cast failed on; whether there were any. Raises Drift for too many."""
        self.begin(merge)
        failures, rows = extracts.transform(self._tx, merge, text, stages)
        self.judge(merge, rows)
        return bool(failures)

    def check(self, merge: Merge, table: Table | None, read: int, stays: sql.Composable | None = None) -> bool:
        """Find the records of CHANGES that the table's constraints refuse, by looking; whether there were any.

        `stays` as in `constraints.conditions`.
        """
        broken = constraints.conditions(self._tx, merge, table, stays) if table else []
        if not broken:
            return False
        first = not self.begun
        self.begin(merge)
        number = sum(constraints.set_aside(self._tx, merge, one) for one in broken)
        if first and not number:
            self._tx.execute(sql.SQL("DROP TABLE {}").format(REJECTS))
            self.begun = False
        elif number:
            self.judge(merge, read)
        return number > 0

    def refused(self, merge: Merge, table: Table | None, read: int, prepare: Callable[[], None]) -> bool:
        """Find the records of CHANGES that the table refuses: by looking, and where that finds nobody by writing."""
        return self.check(merge, table, read) or self.write(merge, read, prepare)

    def write(self, merge: Merge, read: int, prepare: Callable[[], None]) -> bool:
        """Find the records of CHANGES that the table refuses, by writing them and taking it back; whether there were any.

        `prepare` does, in the same savepoint, what comes before writing.
        """
        self.begin(merge)
        writing.number_changes(self._tx, merge)
        with self._tx.transaction() as savepoint:
            prepare()
            failures = writing.write(self._tx, merge, allowed(read))
            raise psycopg.Rollback(savepoint)
        if failures:
            writing.set_aside(self._tx, merge, failures)
        self.judge(merge, read)
        return bool(failures)

    def judge(self, merge: Merge, read: int) -> None:
        """Raise Drift when so many are bad that it is not the records. Rejects of earlier runs do not count."""
        before: sql.Composable = sql.SQL("false")
        if rejects.readable(self._tx):
            before = sql.SQL(
                "EXISTS (SELECT FROM usersync.rejects AS r WHERE r.job = {} AND r.step = {} AND r.stream = '' AND r.key = {})"
            ).format(sql.Literal(self._job), sql.Literal(self._step), found.filed_as(merge, "a"))
        query = sql.SQL("SELECT usersync_reason, usersync_detail, count(*), count(*) FILTER (WHERE {}) FROM {} AS a GROUP BY 1, 2")
        groups = self._tx.execute(query.format(before, REJECTS)).fetchall()
        total, again = sum(number for *_, number, _ in groups), sum(number for *_, number in groups)
        new = {(reason, detail): number - known for reason, detail, number, known in groups}
        Limits(self._step, job=self._job).count(max(read, total) - again, new)
