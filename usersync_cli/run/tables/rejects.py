"""What a step of tables sets aside: found, kept by key while the step is loaded without it, and filed with the checkpoint.

A step that meets a bad record begins again without it, until nothing bad is left: so the target is what loading the good
records alone would have made of it. ASIDE holds what was found so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres.catalog import Table
from usersync_cli.clients.postgres.connections import Connection, as_user
from usersync_cli.clients.postgres.sql import identifier, listed, or_, scalar
from usersync_cli.errors import PartialError
from usersync_cli.load import bisect, constraints
from usersync_cli.load.merge import ASIDE, Merge, key_text, texts
from usersync_cli.load.rejects import NO_KEY, Limits, allowed, detail
from usersync_cli.load.stage import Stage
from usersync_cli.model import Change, Counts
from usersync_cli.state import rejects


class Aside:
    """The rejects of one step while it is being loaded. Everything happens in its transaction."""

    def __init__(self, tx: Connection, job: str, step: str) -> None:
        self.begun = False  # ASIDE is there: `Merge.aside`
        self._tx, self._job, self._step = tx, job, step

    # finding

    def begin(self, merge: Merge) -> None:
        """From here on, records without a key and those in ASIDE are left out."""
        if self.begun:
            return
        keys = listed(sql.SQL("w.{}").format(identifier(name)) for name in merge.key)
        with as_user(self._tx):
            self._tx.execute(
                sql.SQL("CREATE TEMP TABLE usersync_aside ON COMMIT DROP AS SELECT {} FROM ({}) AS w WITH NO DATA").format(
                    keys, merge.everything
                )
            )
        self._tx.execute("""
            ALTER TABLE pg_temp.usersync_aside ADD usersync_ord bigint, ADD usersync_column text, ADD usersync_reason text,
                ADD usersync_detail text, ADD usersync_document bytea, ADD usersync_key text
        """)
        self.begun = True

    def transform(self, merge: Merge, text: str | None, stages: Sequence[Stage]) -> bool:
        """Find the records that the transform or a cast failed on; whether there were any. Raises Drift for too many."""
        self.begin(merge)
        found, rows = bisect.transform(self._tx, merge, text, stages)
        self._judge(merge, rows)
        return bool(found)

    def check(self, merge: Merge, table: Table | None, read: int, stays: sql.Composable | None = None) -> bool:
        """Find the records of CHANGES that the table's constraints refuse, by looking; whether there were any.

        `stays` as in `constraints.conditions`.
        """
        broken = constraints.conditions(self._tx, merge, table, stays) if table else []
        if not broken:
            return False
        first = not self.begun
        self.begin(merge)
        found = sum(constraints.set_aside(self._tx, merge, one) for one in broken)
        if first and not found:
            self._tx.execute(sql.SQL("DROP TABLE {}").format(ASIDE))
            self.begun = False
        elif found:
            self._judge(merge, read)
        return found > 0

    def write(self, merge: Merge, read: int, prepare: Callable[[], None]) -> bool:
        """Find the records of CHANGES that the table refuses, by writing them and taking it back; whether there were any.

        `prepare` does, in the same savepoint, what comes before writing.
        """
        self.begin(merge)
        bisect.number_changes(self._tx, merge)
        with self._tx.transaction() as savepoint:
            prepare()
            found = bisect.write(self._tx, merge, allowed(read))
            raise psycopg.Rollback(savepoint)
        if found:
            bisect.set_aside(self._tx, merge, found)
        self._judge(merge, read)
        return bool(found)

    def _judge(self, merge: Merge, read: int) -> None:
        """Raises Drift when so many are bad that it is not the records. What was set aside before has been judged."""
        before: sql.Composable = sql.SQL("false")
        if rejects.readable(self._tx):
            before = sql.SQL(
                "EXISTS (SELECT FROM usersync.rejects AS r WHERE r.job = {} AND r.step = {} AND r.stream = '' AND r.key = {})"
            ).format(sql.Literal(self._job), sql.Literal(self._step), _filed_as(merge, "a"))
        query = sql.SQL("SELECT usersync_reason, usersync_detail, count(*), count(*) FILTER (WHERE {}) FROM {} AS a GROUP BY 1, 2")
        found = self._tx.execute(query.format(before, ASIDE)).fetchall()
        total, again = sum(number for *_, number, _ in found), sum(number for *_, number in found)
        new = {(reason, detail): number - known for reason, detail, number, known in found}
        Limits(self._step, job=self._job).count(max(read, total) - again, new)

    # filing

    def finish(self, merge: Merge, read: int) -> Counts:
        """The rejects among the records, those without a key too, beside `read` that can be loaded. Raises Drift for too many."""
        if not self.begun:
            return Counts()
        keyless = sql.SQL("""
            INSERT INTO {} (usersync_reason, usersync_detail, usersync_document)
            SELECT {}, {}, {} FROM ({}) AS w WHERE {}
        """).format(
            ASIDE,
            sql.Literal(NO_KEY),
            sql.Literal(detail(" or ".join(merge.key))),
            bisect.record(merge, "w"),
            merge.everything,
            _without_key(merge, "w"),
        )
        there = sql.SQL("SELECT pg_catalog.count(*) FROM ({}) AS w WHERE {}").format(merge.everything, merge.is_aside)
        with as_user(self._tx):
            self._tx.execute(keyless)
            records = self._number(there)
        # Of those that were taken out of their stage, the number is below 0; all others are still among the transform's rows.
        records += self._number(sql.SQL("SELECT count(*) FROM {} WHERE usersync_ord < 0").format(ASIDE))
        self._judge(merge, read + records)
        self._tx.execute(sql.SQL("UPDATE {} AS t SET usersync_key = {}").format(ASIDE, _filed_as(merge, "t")))
        rejected = self._number(sql.SQL("SELECT count(DISTINCT usersync_key) FROM {}").format(ASIDE))
        return Counts(read=records, duplicates=records - rejected, rejected=rejected)

    def store(self, run_id: int) -> None:
        """File them; forget those of earlier runs that this one did not meet, and documents of long ago."""
        if self.begun:
            rejects.store_rows(self._tx, self._job, self._step, "", run_id, _FILED, {})
        rejects.resolve_unmet(self._tx, self._job, self._step, "", run_id)
        rejects.prune(self._tx, self._job)

    def changes(self, merge: Merge) -> Iterator[Change]:
        """Each of them, for a preview."""
        if not self.begun:
            return
        keys = [identifier(name) for name in merge.key]
        query = sql.SQL("SELECT DISTINCT ON (usersync_key) {}, usersync_reason, usersync_detail FROM {} AS t ORDER BY usersync_key").format(
            texts("t", keys), ASIDE
        )
        for key, why, where in self._tx.execute(query).fetchall():
            yield Change(self._step, "reject", dict(zip(merge.key, key, strict=True)), reason=f"{why} ({where})" if where else why)

    def waiting(self) -> int:
        """How many rejects of the step wait, be they of an earlier run."""
        return rejects.count_waiting(self._tx, self._job, step=self._step).get((self._job, self._step), 0)

    def would_wait(self) -> int:
        """How many were found that a run would file, without those that a person has dropped."""
        return self._met() if self.begun else 0

    def left_out(self, number: int) -> PartialError:
        """What the step's end says while so many rejects wait."""
        return PartialError(f"{number:,} record{'' if number == 1 else 's'} set aside", hint=rejects.looking(self._job))

    def unknown(self) -> int:
        """Records whose key is not known: they may be any of the target. Nobody has said that these may be forgotten."""
        return self._met("a.usersync_key LIKE 'sha256:%'") if self.begun else 0

    def _met(self, which: str = "true") -> int:
        """How many were found now, without those that are dropped."""
        query = sql.SQL("SELECT count(DISTINCT usersync_key) FROM {} AS a WHERE {}").format(ASIDE, sql.SQL(which))
        if rejects.readable(self._tx):
            query += sql.SQL(
                " AND NOT EXISTS (SELECT FROM usersync.rejects AS r WHERE r.job = {} AND r.step = {} AND r.stream = ''"
                " AND r.key = a.usersync_key AND r.hash = sha256(a.usersync_document) AND r.status = 'dropped')"
            ).format(sql.Literal(self._job), sql.Literal(self._step))
        return self._number(query)

    def _number(self, query: sql.Composed) -> int:
        number = scalar(self._tx, query)
        return int(number)


def _filed_as(merge: Merge, side: str) -> sql.Composed:
    """The key under which a record of ASIDE waits."""
    return sql.SQL("CASE WHEN {0} THEN 'sha256:' || encode(sha256({1}.usersync_document), 'hex') ELSE {2} END").format(
        _without_key(merge, side), sql.SQL(side), key_text(merge.key, side)
    )


def _without_key(merge: Merge, side: str) -> sql.Composed:
    return or_(sql.SQL("{}.{} IS NULL").format(sql.SQL(side), identifier(name)) for name in merge.key)


# Of one key, the last that was found; which one does not matter, but it has to be the same each time.
_FILED = sql.SQL("""
    SELECT DISTINCT ON (usersync_key) usersync_key AS key, '' AS part, usersync_reason AS reason, COALESCE(usersync_detail, '') AS detail,
           usersync_document AS document, NULL::text AS version
      FROM pg_temp.usersync_aside ORDER BY usersync_key, usersync_document, usersync_reason
""")
