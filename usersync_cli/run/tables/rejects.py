"""The rejects of a step of tables: found while it is loaded without them, and stored with its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from usersync_cli.clients.postgres.sql import identifier, scalar
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.errors import PartialError
from usersync_cli.load.bisect import found
from usersync_cli.load.bisect.finder import Finder
from usersync_cli.load.merge import REJECTS, Merge, texts
from usersync_cli.load.rejects import NO_KEY, detail
from usersync_cli.model import Change, Counts
from usersync_cli.state import rejects


class Rejects(Finder):
    """The rejects of one step while it is being loaded. Everything happens in its transaction."""

    def finish(self, merge: Merge, read: int) -> Counts:
        """Count the rejects among the records, those without a key too; `read` others can be loaded. Raises Drift for too many."""
        if not self.begun:
            return Counts()
        keyless = sql.SQL("""
            INSERT INTO {} (usersync_reason, usersync_detail, usersync_document)
            SELECT {}, {}, {} FROM ({}) AS w WHERE {}
        """).format(
            REJECTS,
            sql.Literal(NO_KEY),
            sql.Literal(detail(" or ".join(merge.key))),
            found.record(merge, "w"),
            merge.everything,
            found.without_key(merge, "w"),
        )
        there = sql.SQL("SELECT pg_catalog.count(*) FROM ({}) AS w WHERE {}").format(merge.everything, merge.is_reject)
        with as_user(self._tx):
            self._tx.execute(keyless)
            records = self._number(there)
        # Of those that were taken out of their stage, the number is below 0; all others are still among the transform's rows.
        records += self._number(sql.SQL("SELECT count(*) FROM {} WHERE usersync_ord < 0").format(REJECTS))
        self.judge(merge, read + records)
        self._tx.execute(sql.SQL("UPDATE {} AS t SET usersync_key = {}").format(REJECTS, found.filed_as(merge, "t")))
        rejected = self._number(sql.SQL("SELECT count(DISTINCT usersync_key) FROM {}").format(REJECTS))
        return Counts(read=records, duplicates=records - rejected, rejected=rejected)

    def store(self, run_id: int) -> None:
        """File the rejects; forget those of earlier runs that this one did not meet, and documents of long ago."""
        if self.begun:
            rejects.store_rows(self._tx, self._job, self._step, "", run_id, _FILED, {})
        rejects.resolve_unmet(self._tx, self._job, self._step, "", run_id)
        rejects.prune(self._tx, self._job)

    def changes(self, merge: Merge) -> Iterator[Change]:
        """The rejects as changes of a preview."""
        if not self.begun:
            return
        keys = [identifier(name) for name in merge.key]
        query = sql.SQL("SELECT DISTINCT ON (usersync_key) {}, usersync_reason, usersync_detail FROM {} AS t ORDER BY usersync_key").format(
            texts("t", keys), REJECTS
        )
        for key, why, where in self._tx.execute(query).fetchall():
            yield Change(self._step, "reject", dict(zip(merge.key, key, strict=True)), reason=f"{why} ({where})" if where else why)

    def waiting(self) -> int:
        """How many rejects of the step wait, earlier runs included."""
        return rejects.count_waiting(self._tx, self._job, step=self._step).get((self._job, self._step), 0)

    def would_wait(self) -> int:
        """How many were found that a run would file, without those that a person has dropped."""
        return self._met() if self.begun else 0

    def left_out(self, number: int) -> PartialError:
        """The step's error while so many rejects wait."""
        return PartialError(f"{number:,} record{'' if number == 1 else 's'} set aside", hint=rejects.looking(self._job))

    def unknown(self) -> int:
        """How many rejects have no known key and were not dropped: they may be any row of the target."""
        return self._met("a.usersync_key LIKE 'sha256:%'") if self.begun else 0

    def _met(self, which: str = "true") -> int:
        """How many were found now, without those that are dropped."""
        query = sql.SQL("SELECT count(DISTINCT usersync_key) FROM {} AS a WHERE {}").format(REJECTS, sql.SQL(which))
        if rejects.readable(self._tx):
            query += sql.SQL(
                " AND NOT EXISTS (SELECT FROM usersync.rejects AS r WHERE r.job = {} AND r.step = {} AND r.stream = ''"
                " AND r.key = a.usersync_key AND r.hash = sha256(a.usersync_document) AND r.status = 'dropped')"
            ).format(sql.Literal(self._job), sql.Literal(self._step))
        return self._number(query)

    def _number(self, query: sql.Composed) -> int:
        number = scalar(self._tx, query)
        return int(number)


# Of one key, the last that was found; which one does not matter, but it has to be the same each time.
_FILED = sql.SQL("""
    SELECT DISTINCT ON (usersync_key) usersync_key AS key, '' AS part, usersync_reason AS reason, COALESCE(usersync_detail, '') AS detail,
           usersync_document AS document, NULL::text AS version
      FROM pg_temp.usersync_rejects ORDER BY usersync_key, usersync_document, usersync_reason
""")
