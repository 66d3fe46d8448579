"""What is remembered of a stream's documents: hashes, versions, and whether complete listings lack them.

It decides what need not be fetched and written again, never that the target is right. Hashes are keyed with the
fingerprint of the step, so that nothing counts as unchanged once its source, transform or load is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from psycopg import sql

from usersync_cli.clients.postgres.arrays import Blobs, texts
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.load.guard import GONE, Sweep, kept
from usersync_cli.load.merge import Merge, key_text
from usersync_cli.state import ledger, readings
from usersync_cli.state.readings import Memory, Scope

# What the target has of a record.
Status = Literal["loaded", "rejected", "removed", "no_row"]
LOADED: Status = "loaded"  # a row, of the document whose hash is `held`; where that is NULL, the row is to be written again
REJECTED: Status = "rejected"  # what came last was set aside
REMOVED: Status = "removed"  # the source said that it is gone; kept for its version, so that older news does not bring it back
NO_ROW: Status = "no_row"  # the transform leaves it out
# Why a row that is still there is to go.
Departure = Literal["told", "kept", "left_out"]
TOLD: Departure = "told"  # the source said that it is gone
KEPT: Departure = "kept"  # a complete listing lacked it, and the guard kept its row
LEFT_OUT: Departure = "left_out"  # the transform leaves it out now
CANDIDATES = sql.SQL("pg_temp.usersync_candidates")  # key text, told boolean, free boolean: the guard has no say
LONGEST_FINGERPRINT = 64
LACKING_PAGE = 10_000
PASSED = 100  # documents that are remembered as passed over, of one key
BURIED = timedelta(days=30)  # how long the version of a record that is gone is kept, where complete listings do not have it


@dataclass(frozen=True)
class Met:
    """What was known of a record before it came."""

    duplicate: bool = False  # another of its page is newer
    stale: bool = False  # we hold a newer version
    listed: bool = False  # its document is the one that we have met before
    status: Status | None = None  # None: it is not remembered at all
    held: bytes | None = None  # hash of the document that its row came from; None: the row is to be written again
    departure: Departure | None = None
    missing: int = 0  # complete listings, one after the other, that lacked it
    reject: str | None = None  # waiting, dropped
    passed: bool = False  # another of the same key, later in the listing, counts instead

    @property
    def known(self) -> bool:
        """Whether it is remembered at all."""
        return self.status is not None

    @property
    def leaving(self) -> bool:
        """Whether its row may be about to go."""
        return self.missing > 0 or self.departure is not None


UNKNOWN = Met()
UNCHANGED = Met(listed=True, status=LOADED, held=b"...")  # what is known of a record of which `Known.look_up` says nothing


class Note(NamedTuple):
    """What is remembered of a record from now on."""

    key: str
    listed: bytes | None  # hash of what was listed; None: it counts as changed the next time
    status: Status
    held: bytes | None = None  # hash of the document that its row is of
    version: str | None = None  # None leaves the one that is known


@dataclass(frozen=True)
class OpenSweep:
    """A sweep under way: which of its records came so far. Without `keyed` their keys are not kept, and it removes nobody."""

    id: int
    name: str
    keyed: bool
    records: int
    run_id: int
    known: int  # how many were remembered when it began: those that come with it do not make more leave


@dataclass
class Known:
    """The memory of one stream of a step. Its state is that of the last commit: `begin` and those for sweeps give the next one."""

    scope: Scope
    numbered: bool = False  # versions are numbers, not time stamps
    memory: Memory = field(default_factory=Memory)
    fingerprint: str = ""
    sweep: OpenSweep | None = None
    there: bool = False  # usersync's tables
    respelt: bool = False  # rows spell some keys otherwise than their source
    held: int = 0  # rows that we wrote, and that should be there
    others: int = 0  # rows of the table that are not among them, when that was last looked at
    known_before: int = 0  # how many are or were in the target, as of the beginning of this reading

    def recall(self, connection: Connection) -> None:
        """Read what is there; nothing where usersync's tables are not."""
        self.memory, self.fingerprint, self.sweep, self.there, self.known_before = Memory(), "", None, False, 0
        self.respelt, self.held, self.others = False, 0, 0
        if ledger.current(connection) != ledger.VERSION:
            return
        self.there = True
        found = readings.recall(connection, self.scope)
        if found is None or found[1] != self.scope.target:
            self.memory = Memory(accepted=None if found is None else "")
            return
        self.memory, _, self.fingerprint = found
        self.others = self.memory.others
        self.respelt = connection.execute(_RESPELT, (self.memory.id,)).fetchone() == (True,)
        ((self.known_before, self.held),) = connection.execute(_KNOWN_AND_HELD, (self.memory.id,)).fetchall()
        row = connection.execute(_OPEN, (self.memory.id,)).fetchone()
        self.sweep = OpenSweep(*row) if row else None

    @property
    def resumable(self) -> bool:
        """Whether a cursor may be trusted: what stands before it was written by this same step."""
        return bool(self.memory.id) and self.fingerprint == self.scope.fingerprint

    def begin(self, tx: Connection, *, fresh: bool) -> Known:
        """In a checkpoint, before the rest: the stream's row, with this fingerprint; with `fresh`, no sweep is under way."""
        memory = self.memory
        if not memory.id:
            memory = readings.begin(tx, self.scope, instead=memory.accepted is not None)
        elif self.fingerprint != self.scope.fingerprint:
            tx.execute("UPDATE usersync.seen_streams SET fingerprint = %s WHERE id = %s", (self.scope.fingerprint, memory.id))
        if fresh:
            tx.execute(_ABANDON, {"stream": memory.id})
        return replace(self, memory=memory, fingerprint=self.scope.fingerprint, sweep=None if fresh else self.sweep)

    def hash(self, document: bytes) -> bytes:
        """Of a document, under this step."""
        hashed = _keyed(self.scope.fingerprint).copy()
        hashed.update(document)
        return hashed.digest()

    @property
    def version_type(self) -> str:
        return "numeric" if self.numbered else "timestamp with time zone"

    def _typed(self, statement: str, **more: sql.Composable) -> sql.Composed:
        """With the column and type of this stream's versions."""
        return sql.SQL(statement).format(
            version=sql.SQL("version_number" if self.numbered else "version_at"), type=sql.SQL(self.version_type), **more
        )

    def look_up(
        self,
        connection: Connection,
        keys: Sequence[str],
        hashes: Sequence[bytes],
        versions: Sequence[str | None],
        *,
        listing: bool = False,
    ) -> dict[int, Met]:
        """By position, for all but those that are known, unchanged, and in the target. `listing`: they are of a complete one."""
        values = {"keys": texts(keys), "hashes": Blobs(hashes), "versions": texts(versions), **vars(self.scope)}
        values |= {"stream_id": self.memory.id, "listing": listing}
        statement = self._typed(_LOOK_UP, rank=sql.SQL("1" if len(set(keys)) == len(keys) else _RANK))
        return {row[0]: Met(*row[1:]) for row in connection.execute(statement, values).fetchall()}

    def known_as(self, connection: Connection, rows: Sequence[str]) -> dict[str, str]:
        """Under which keys these rows are remembered, as far as they are."""
        found = connection.execute(_KNOWN_AS, {"stream": self.memory.id, "rows": texts(rows)}).fetchall()
        return dict(found)

    def respell(self, tx: Connection, spelt: Mapping[str, str]) -> None:
        """These are remembered under another spelling of their keys from now on, and their rejects too."""
        values = {**vars(self.scope), "id": self.memory.id, "before": texts(spelt), "after": texts(spelt.values())}
        for statement in _RESPELL:
            tx.execute(statement, values)
        self.respelt = True

    def spell(self, tx: Connection, rows: Mapping[str, str]) -> None:
        """How the rows of these are spelt."""
        if tx.execute(_SPELL, {"stream": self.memory.id, "keys": texts(rows), "rows": texts(rows.values())}).rowcount:
            self.respelt = True

    def listed(self, connection: Connection, keys: Sequence[str]) -> dict[str, bytes | None]:
        """What was listed of these, by key."""
        query = "SELECT key, listed FROM usersync.seen WHERE stream_id = %s AND key = ANY(%s)"
        return dict(connection.execute(query, (self.memory.id, list(keys))).fetchall())

    def has_numbers(self, connection: Connection) -> bool:
        """Whether the versions that are remembered are numbers."""
        query = """
            SELECT version_number IS NOT NULL FROM usersync.seen
             WHERE stream_id = %s AND (version_at IS NOT NULL OR version_number IS NOT NULL) LIMIT 1
        """
        return connection.execute(query, (self.memory.id,)).fetchone() == (True,)

    def note(self, tx: Connection, notes: Sequence[Note]) -> None:
        """Remember these records, which are at the source."""
        keys, listed, statuses, held, versions = zip(*notes, strict=True)
        values = {
            "stream": self.memory.id, "keys": texts(keys), "listed": Blobs(listed), "statuses": texts(statuses), "held": Blobs(held),
            "versions": texts(versions), "sweep": self.sweep.id if self.sweep else None, "most": PASSED,
        }  # fmt: skip
        tx.execute(self._typed(_NOTE), values)

    def back(self, tx: Connection, keys: Sequence[str]) -> None:
        """Complete listings lacked these, or they were said to be gone, and now they are there."""
        tx.execute(_BACK, (self.memory.id, texts(keys)))

    def owe(self, tx: Connection, keys: Collection[str]) -> None:
        """The documents of these could not be had: whatever is listed of them next time is not what was listed before."""
        tx.execute("UPDATE usersync.seen SET listed = NULL WHERE stream_id = %s AND key = ANY(%s)", (self.memory.id, texts(keys)))

    def told(self, tx: Connection, keys: Sequence[str], versions: Sequence[str | None], how: Departure = TOLD) -> None:
        """The source says that these are gone, or the transform leaves them out (`how`): their rows may go when the guard agrees."""
        tx.execute(self._typed(_TOLD), {"stream": self.memory.id, "keys": texts(keys), "versions": texts(versions), "told": how})

    def bury(self, tx: Connection, keys: Sequence[str], versions: Sequence[str | None]) -> None:
        """The source says that these are gone, and there is no row that could go now: older news of them does not make one."""
        values = {"stream": self.memory.id, "keys": texts(keys), "versions": texts(versions), "long": BURIED}
        tx.execute(self._typed(_BURY), values)

    def look_again(self, tx: Connection, keys: Collection[str]) -> None:
        """Of these, the listing had only records that it had passed over before: the next one decides anew."""
        tx.execute(_LOOK_AGAIN, (self.memory.id, texts(keys)))

    def open_sweep(self, tx: Connection, name: str, *, keyed: bool) -> Known:
        """The sweep of this name is under way; it begins if it is not, before anything of its first page is noted."""
        if self.sweep and self.sweep.name == name:
            return self
        values = {"stream": self.memory.id, "name": name, "keyed": keyed, "run": self.scope.run_id, "account": self.scope.account}
        tx.execute(_ABANDON, values)
        known = self.known_before
        if self.memory.previous is None:  # a list that changed is walked again: until one is accepted, earlier walks count too
            ((now, _),) = tx.execute(_KNOWN_AND_HELD, (self.memory.id,)).fetchall()
            known = max(known, now)
        ((id_,),) = tx.execute(_OPEN_SWEEP, {**values, "known": known}).fetchall()
        return replace(self, sweep=OpenSweep(id_, name, keyed, 0, self.scope.run_id or 0, known))

    def sweep_page(self, tx: Connection, keys: Collection[str], records: int) -> Known:
        """One more page of the sweep under way."""
        sweep = self.sweep
        assert sweep is not None  # noqa: S101  `open_sweep`
        if records:
            tx.execute("UPDATE usersync.sweeps SET records = records + %s WHERE id = %s", (records, sweep.id))
        if keys and sweep.keyed:
            tx.execute(_SWEEP_KEYS, {"id": sweep.id, "keys": texts(keys)})
        return replace(self, sweep=replace(sweep, records=sweep.records + records))

    def listed_so_far(self, connection: Connection) -> list[Sequence[str]]:
        """The keys of the sweep under way, page by page; none where they are not kept."""
        query = "SELECT keys FROM usersync.sweep_keys WHERE sweep_id = %s"
        return [keys for (keys,) in connection.execute(query, (self.sweep.id,)).fetchall()] if self.sweep else []

    # the end of a listing

    def lacking(self, connection: Connection, met: Collection[str], sweep: OpenSweep | None) -> int:
        """How many of those that are known the sweep and this page of it lack."""
        ((number,),) = connection.execute(_COUNT_LACKING, self._lack(met, sweep)).fetchall()
        return int(number)

    def kept(self, connection: Connection, found: Sweep, met: Collection[str], sweep: OpenSweep | None) -> str:
        """`sweep.kept` of those that the sweep and this page of it lack."""
        values = {**self._lack(met, sweep), "stream": self.scope.stream, "stream_id": self.memory.id}
        return kept(connection, found, _LACKING_ROWS, values)

    def waits(self, connection: Connection) -> bool:
        """Whether there is somebody whom no complete listing has to lack: told to be gone, left out, or on a list that waits."""
        return connection.execute(_WAITS, {**vars(self.scope), "id": self.memory.id}).fetchone() == (True,)

    def lacking_keys(self, connection: Connection, met: Collection[str], sweep: OpenSweep | None) -> dict[str, int]:
        """Their keys, and how many sweeps before lacked them too."""
        return dict(connection.execute(_LACKING, self._lack(met, sweep)).fetchall())

    def lacking_pages(self, connection: Connection, met: Collection[str], sweep: OpenSweep | None) -> Iterator[Sequence[tuple[str, int]]]:
        """The same a part at a time, since they may be many."""
        values, after = self._lack(met, sweep), ""
        while page := connection.execute(_LACKING_PAGE, {**values, "after": after, "most": LACKING_PAGE}).fetchall():
            yield page
            after = page[-1][0]

    def listed_keys(self, connection: Connection, run_id: int) -> set[str]:
        """The keys of the list that waits for approval under this run, as their rows have them and as they are remembered."""
        listed = {key for (key,) in connection.execute(_LISTED, {**vars(self.scope), "approved": run_id}).fetchall()}
        return listed | set(self.known_as(connection, list(listed)).values()) if self.respelt else listed

    def _lack(self, met: Collection[str], sweep: OpenSweep | None) -> Mapping[str, Any]:
        return {"stream": self.memory.id, "sweep": sweep.id if sweep else 0, "met": texts(met), "after": ""}

    def known_at(self, sweep: str) -> int:
        """How many are or were in the target, as of the beginning of the sweep of this name, or of this reading."""
        return self.sweep.known if self.sweep and self.sweep.name == sweep else self.known_before

    def candidates(  # noqa: PLR0913  who may go, and why
        self,
        tx: Connection,
        keys: Collection[str] | None,
        met: Collection[str],
        approved: int | None,
        told: Mapping[str, Departure],
        *,
        free: bool,
        complete: bool,
    ) -> None:
        """Put into CANDIDATES whoever was told to be gone, and these keys; with None, all that the sweep lacks.

        Those of lists that wait for approval are among them, unless they are back; with a complete listing, `keys` has those of
        the `approved` list. `told` were told, or are left out, but not noted. With `free`, the guard has no say about those of
        whom the source itself says that they are gone.
        """
        values = {**vars(self.scope), "id": self.memory.id, "approved": approved, "free": free, "complete": complete}
        values |= {"keys": texts(told), "how": texts(told.values())}
        tx.execute(
            'CREATE TEMP TABLE usersync_candidates (key text COLLATE "C" PRIMARY KEY, told boolean, free boolean DEFAULT false,'
            ' row text COLLATE "C") ON COMMIT DROP'
        )
        if told:
            tx.execute(_TOLD_NOW, values)
        if self.memory.id:
            tx.execute(_TOLD_CANDIDATES, values)
        if keys is None:
            tx.execute(_LACKING_CANDIDATES, self._lack(met, self.sweep))
        else:
            tx.execute(
                "INSERT INTO pg_temp.usersync_candidates (key, told) SELECT DISTINCT key, false FROM unnest(%s::text[]) AS g(key)"
                " ON CONFLICT DO NOTHING",
                (texts(keys),),
            )
        if self.memory.id:
            tx.execute(_KEPT_CANDIDATES.replace("<row>", "COALESCE(s.row_key, s.key)" if self.respelt else "s.key"), values)
        if self.respelt:
            tx.execute(_ROWS_OF_CANDIDATES, (self.memory.id,))
        tx.execute(sql.SQL("ANALYZE {}").format(CANDIDATES))

    def with_rows(self, tx: Connection, merge: Merge) -> tuple[int, int]:
        """Put into sweep.GONE those candidates that have a row which is not marked yet; how many, and how many of them are free."""
        there = sql.SQL("WHERE t.{} IS NULL").format(sql.Identifier(merge.marks[0])) if merge.marks else sql.SQL("")
        tx.execute(
            sql.SQL(
                "CREATE TEMP TABLE usersync_gone ON COMMIT DROP AS"
                " SELECT COALESCE(c.row, c.key) AS key, bool_or(c.free) AS free"
                " FROM {} AS c JOIN {} AS t ON {} = COALESCE(c.row, c.key) {} GROUP BY 1"
            ).format(CANDIDATES, merge.table, key_text(merge.key), there)
        )
        tx.execute(sql.SQL("ANALYZE {}").format(GONE))
        ((number, free),) = tx.execute(sql.SQL("SELECT count(*), count(*) FILTER (WHERE free) FROM {}").format(GONE)).fetchall()
        return int(number), int(free)

    def forget(self, tx: Connection, goes: sql.Composable, *, complete: bool) -> None:
        """After the rows of GONE that go went: the candidates that have none any more. Those that stay are remembered as such."""
        values = {"stream": self.memory.id, "long": BURIED}
        if complete:  # whoever it does not have need not be remembered as removed for ever
            tx.execute(_PURGE, values)
        for statement in _FORGET:
            tx.execute(sql.SQL(statement).format(goes=goes), values)

    def missed(self, tx: Connection, keys: Collection[str]) -> None:
        """A complete listing lacked them for the first time, and once is not enough."""
        tx.execute("UPDATE usersync.seen SET missing = 1 WHERE stream_id = %s AND key = ANY(%s)", (self.memory.id, texts(keys)))

    def check_rows(self, tx: Connection, merge: Merge) -> int:
        """Rows that the target has lost since we wrote them are written again by the next complete listing; how many."""
        statement = sql.SQL("UPDATE usersync.seen SET held = NULL WHERE stream_id = {} AND key IN ({})")
        return tx.execute(statement.format(sql.Literal(self.memory.id), self._lost(merge.table, merge.key))).rowcount

    def _lost(self, table: sql.Composable, key: Sequence[str]) -> sql.Composed:
        return sql.SQL(_LOST).format(stream=sql.Literal(self.memory.id), table=table, key=key_text(key))

    def count_others(self, tx: Connection, table: sql.Composable) -> int:
        """How many rows the table has beside those that we wrote; fewer than before, and some of ours have vanished."""
        ((rows,),) = tx.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchall()
        return int(rows) - self.held

    def lost(self, tx: Connection, table: sql.Composable, key: Sequence[str]) -> Iterator[str]:
        """The keys of rows that we wrote, and that the table does not have any more; they may be many."""
        with tx.cursor("usersync_lost") as cursor:
            cursor.itersize = LACKING_PAGE
            for (one,) in cursor.execute(self._lost(table, key)):
                yield one

    def note_others(self, tx: Connection, others: int) -> None:
        """So many rows of the table are not ours."""
        tx.execute("UPDATE usersync.seen_streams SET others = %s WHERE id = %s", (others, self.memory.id))

    def without_key(self, tx: Connection) -> bool:
        """Whether the sweep met records of which nobody knows who they are."""
        query = "SELECT EXISTS (SELECT FROM usersync.sweep_keys, unnest(keys) AS key WHERE sweep_id = %s AND key ~ '^sha256:[0-9a-f]{64}$')"
        return self.sweep is not None and tx.execute(query, (self.sweep.id,)).fetchone() == (True,)

    def close_sweep(self, tx: Connection, outcome: str, candidates: int, removed: int, *, adopted: bool) -> Known:
        """The end of a complete listing."""
        assert self.sweep is not None  # noqa: S101  its last page is part of it
        values = {
            "id": self.sweep.id, "stream": self.memory.id, "outcome": outcome, "candidates": candidates, "removed": removed,
            "adopted": adopted, "run": self.scope.run_id,
        }  # fmt: skip
        for statement in _CLOSE:
            tx.execute(statement, values)
        if outcome != "refused":
            readings.accept(tx, self.scope, self.memory.id)
        previous = self.sweep.records if outcome in ("ok", "approved") else self.memory.previous
        return replace(self, sweep=None, memory=replace(self.memory, previous=previous, adopted=self.memory.adopted or adopted))


@lru_cache
def _keyed(fingerprint: str) -> hashlib.blake2b:
    """To be copied: a key costs as much as a short document."""
    return hashlib.blake2b(digest_size=16, key=fingerprint.encode()[:LONGEST_FINGERPRINT])


_OPEN = """
SELECT id, name, keyed, records, run_id, known FROM usersync.sweeps WHERE stream_id = %s AND outcome = 'open' ORDER BY id DESC LIMIT 1
"""
_ABANDON = """
WITH old AS (
    UPDATE usersync.sweeps SET outcome = 'abandoned', finished_at = clock_timestamp()
     WHERE stream_id = %(stream)s AND outcome = 'open' RETURNING id
)
DELETE FROM usersync.sweep_keys WHERE sweep_id IN (SELECT id FROM old)
"""
_OPEN_SWEEP = """
INSERT INTO usersync.sweeps (stream_id, run_id, outcome, account, name, keyed, known)
VALUES (%(stream)s, %(run)s, 'open', %(account)s, %(name)s, %(keyed)s, %(known)s) RETURNING id
"""
_SWEEP_KEYS = "INSERT INTO usersync.sweep_keys (sweep_id, keys) VALUES (%(id)s, %(keys)s::text[])"
# One that is known, unchanged and in the target has no row here: an unchanged page gives none. LATERAL with LIMIT: each key
# is looked up in the index. A table that grows page by page has no statistics, and joined as usual it is read whole each time.
_RANK = "row_number() OVER (PARTITION BY key ORDER BY version DESC NULLS LAST, ord DESC)"
_LOOK_UP = """
SELECT p.ord - 1, p.rank > 1, (p.version < s.{version}) IS TRUE, (s.listed = p.hash) IS TRUE, s.status, s.held, s.departure,
       COALESCE(s.missing, 0), r.status, %(listing)s AND (p.hash = ANY(s.passed)) IS TRUE AND (p.version > s.{version}) IS NOT TRUE
  FROM (SELECT ord, key, hash, version, {rank} AS rank
          FROM unnest(%(keys)s::text[], %(hashes)s::bytea[], %(versions)s::{type}[]) WITH ORDINALITY AS g(key, hash, version, ord)) AS p
  LEFT JOIN LATERAL (SELECT * FROM usersync.seen AS s WHERE s.stream_id = %(stream_id)s AND s.key = p.key COLLATE "C" LIMIT 1) AS s ON true
  LEFT JOIN LATERAL (
       SELECT r.status FROM usersync.rejects AS r
        WHERE s.status = 'rejected' AND r.job = %(job)s AND r.step = %(step)s AND r.stream = %(stream)s AND r.key = s.key LIMIT 1
  ) AS r ON true
 WHERE (p.rank = 1 AND s.listed = p.hash AND s.held IS NOT NULL AND s.missing = 0 AND s.departure IS NULL
        AND (p.version < s.{version}) IS NOT TRUE) IS NOT TRUE
"""
# What a listing had before of the same key, it has passed over when something else comes later.
_NOTE = """
INSERT INTO usersync.seen AS s (stream_id, key, listed, status, held, {version}, sweep_id)
SELECT %(stream)s, g.*, %(sweep)s
  FROM unnest(%(keys)s::text[], %(listed)s::bytea[], %(statuses)s::text[], %(held)s::bytea[], %(versions)s::{type}[])
       AS g(key, listed, status, held, version) ORDER BY key COLLATE "C"
ON CONFLICT (stream_id, key) DO UPDATE
   SET listed = excluded.listed, status = excluded.status, held = excluded.held, missing = 0, departure = NULL,
       {version} = COALESCE(excluded.{version}, s.{version}), sweep_id = excluded.sweep_id,
       passed = CASE WHEN s.sweep_id = excluded.sweep_id AND s.listed <> excluded.listed
                     THEN (s.listed || array_remove(s.passed, excluded.listed))[:%(most)s]
                     ELSE array_remove(s.passed, excluded.listed) END
"""
_BACK = "UPDATE usersync.seen SET missing = 0, departure = NULL WHERE stream_id = %s AND key = ANY(%s)"
# As if there were a row, of which nothing is known.
_LOOK_AGAIN = """
UPDATE usersync.seen SET listed = NULL, status = 'loaded', held = NULL, passed = NULL WHERE stream_id = %s AND key = ANY(%s)
"""
_RESPELT = "SELECT EXISTS (SELECT FROM usersync.seen WHERE stream_id = %s AND row_key IS NOT NULL)"
_KNOWN_AS = """
SELECT row_key, key FROM usersync.seen WHERE stream_id = %(stream)s AND row_key = ANY(%(rows)s)
UNION ALL SELECT key, key FROM usersync.seen WHERE stream_id = %(stream)s AND key = ANY(%(rows)s) AND row_key IS NULL
"""
_RESPELL = (
    "DELETE FROM usersync.seen WHERE stream_id = %(id)s AND key = ANY(%(after)s)",
    """
    UPDATE usersync.seen AS s SET key = g.after, row_key = NULLIF(COALESCE(s.row_key, s.key), g.after)
      FROM unnest(%(before)s::text[], %(after)s::text[]) AS g(before, after)
     WHERE s.stream_id = %(id)s AND s.key = g.before COLLATE "C"
    """,
    """
    DELETE FROM usersync.rejects WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s AND key = ANY(%(after)s)
    """,
    """
    UPDATE usersync.rejects AS r SET key = g.after FROM unnest(%(before)s::text[], %(after)s::text[]) AS g(before, after)
     WHERE r.job = %(job)s AND r.step = %(step)s AND r.stream = %(stream)s AND r.key = g.before
    """,
)
_SPELL = """
UPDATE usersync.seen AS s SET row_key = NULLIF(g.row, s.key) FROM unnest(%(keys)s::text[], %(rows)s::text[]) AS g(key, row)
 WHERE s.stream_id = %(stream)s AND s.key = g.key COLLATE "C" AND s.row_key IS DISTINCT FROM NULLIF(g.row, s.key)
"""
_TOLD = """
UPDATE usersync.seen AS s SET missing = 0, departure = %(told)s, {version} = COALESCE(g.version, s.{version})
  FROM unnest(%(keys)s::text[], %(versions)s::{type}[]) AS g(key, version)
 WHERE s.stream_id = %(stream)s AND s.key = g.key COLLATE "C"
"""
# Said again, nothing is written, but for a sign of life from time to time.
_BURY = """
INSERT INTO usersync.seen AS s (stream_id, key, status, removed_at, {version})
SELECT %(stream)s, g.key, 'removed', clock_timestamp(), g.version
  FROM unnest(%(keys)s::text[], %(versions)s::{type}[]) AS g(key, version)
  LEFT JOIN usersync.seen AS b ON b.stream_id = %(stream)s AND b.key = g.key COLLATE "C"
 WHERE b.key IS NULL OR b.{version} < g.version OR b.removed_at < clock_timestamp() - %(long)s / 2
 ORDER BY g.key COLLATE "C"
ON CONFLICT (stream_id, key) DO UPDATE SET {version} = GREATEST(s.{version}, excluded.{version}), removed_at = excluded.removed_at
"""
# FULL JOIN, because what was never analysed may look small: for NOT EXISTS the planner then compares each key with each other.
# OFFSET 0 keeps it one where its result is joined once more.
_LACKING = """
SELECT s.key, s.missing
  FROM (SELECT key, missing FROM usersync.seen
         WHERE stream_id = %(stream)s AND (departure IS NULL OR departure = 'kept') AND key > %(after)s
           AND status IN ('loaded', 'rejected')) AS s
  FULL JOIN (SELECT unnest(keys) COLLATE "C" AS key FROM usersync.sweep_keys WHERE sweep_id = %(sweep)s
             UNION ALL SELECT key COLLATE "C" FROM unnest(%(met)s::text[]) AS m(key)) AS present ON present.key = s.key
 WHERE present.key IS NULL
"""
# By the keys of their rows, as lists have them.
_LACKING_ROWS = sql.SQL(
    f"""
    SELECT COALESCE(r.row_key, l.key) FROM ({_LACKING.replace("%(stream)s", "%(stream_id)s")}) AS l
      JOIN usersync.seen AS r ON r.stream_id = %(stream_id)s AND r.key = l.key
    """  # noqa: S608  our own text
)
_LACKING_PAGE = f"SELECT key, missing FROM ({_LACKING}) AS l ORDER BY key LIMIT %(most)s"  # noqa: S608  our own text
_COUNT_LACKING = f"SELECT count(*) FROM ({_LACKING}) AS l"  # noqa: S608  our own text
_LACKING_CANDIDATES = f"""
INSERT INTO pg_temp.usersync_candidates (key, told) SELECT key, false FROM ({_LACKING}) AS l ON CONFLICT DO NOTHING
"""  # noqa: S608  our own text
_LISTED = """
SELECT k.key FROM usersync.approval_keys k JOIN usersync.approvals a ON a.id = k.approval_id
 WHERE a.run_id = %(approved)s AND a.job = %(job)s AND a.step = %(step)s AND a.stream = %(stream)s AND a.status = 'waiting'
"""
_IS_KNOWN = "status <> 'removed' AND (status <> 'no_row' OR missing <> 0 OR departure IS NOT NULL)"
_KNOWN_AND_HELD = f"""
SELECT count(*) FILTER (WHERE {_IS_KNOWN}), count(held) FROM usersync.seen WHERE stream_id = %s
"""  # noqa: S608  our own text
# The remembered keys of rows that the table does not have.
_LOST = """
SELECT h.key
  FROM (SELECT key, COALESCE(row_key, key) AS row FROM usersync.seen WHERE stream_id = {stream} AND held IS NOT NULL) AS h
  FULL JOIN (SELECT {key} AS key FROM {table} AS t) AS t ON t.key = h.row WHERE t.key IS NULL OFFSET 0
"""
_WAITS = """
SELECT EXISTS (SELECT FROM usersync.seen WHERE stream_id = %(id)s AND departure IN ('told', 'left_out'))
    OR EXISTS (SELECT FROM usersync.approvals WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s AND status = 'waiting')
"""
# Whom this reading told of, where it notes nothing down; and whom it or an earlier one has noted.
_TOLD_NOW = """
INSERT INTO pg_temp.usersync_candidates
SELECT key, true, %(free)s AND how = 'told' FROM unnest(%(keys)s::text[], %(how)s::text[]) AS g(key, how)
"""
_TOLD_CANDIDATES = """
INSERT INTO pg_temp.usersync_candidates SELECT key, true, %(free)s AND departure = 'told' FROM usersync.seen
 WHERE stream_id = %(id)s AND departure IN ('told', 'left_out') ON CONFLICT DO NOTHING
"""
# Of the lists that wait: those that the guard kept, and those of a table that was taken over, which were never seen at the
# source. What is approved now has been looked up in a complete listing already.
_KEPT_CANDIDATES = """
INSERT INTO pg_temp.usersync_candidates (key, told)
SELECT COALESCE(s.key, k.key), false FROM usersync.approvals AS a JOIN usersync.approval_keys AS k ON k.approval_id = a.id
  LEFT JOIN usersync.seen AS s ON s.stream_id = %(id)s AND <row> = k.key
 WHERE a.job = %(job)s AND a.step = %(step)s AND a.stream = %(stream)s AND a.status = 'waiting' AND a.target = %(target)s
   AND (s.key IS NULL OR s.departure = 'kept')
   AND NOT (%(complete)s AND EXISTS (SELECT FROM usersync.approval_keys AS k2 JOIN usersync.approvals AS a2 ON a2.id = k2.approval_id
            WHERE a2.run_id = %(approved)s AND a2.job = a.job AND a2.step = a.step AND a2.stream = a.stream AND k2.key = k.key))
ON CONFLICT DO NOTHING
"""
_ROWS_OF_CANDIDATES = """
UPDATE pg_temp.usersync_candidates AS c SET row = s.row_key FROM usersync.seen AS s
 WHERE s.stream_id = %s AND s.key = c.key AND s.row_key IS NOT NULL
"""
_STILL = "EXISTS (SELECT FROM pg_temp.usersync_gone AS g WHERE g.key = COALESCE(c.row, c.key) AND NOT {goes})"
_PURGE = """
DELETE FROM usersync.seen AS s WHERE s.stream_id = %(stream)s AND s.status = 'removed' AND s.missing = 0 AND s.departure IS NULL
   AND (s.removed_at > clock_timestamp() - %(long)s) IS NOT TRUE
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_candidates AS c WHERE c.key = s.key)
"""
_FORGET = (
    f"""
    DELETE FROM usersync.seen AS s USING pg_temp.usersync_candidates AS c
     WHERE s.stream_id = %(stream)s AND s.key = c.key AND NOT c.told AND NOT {_STILL}
    """,  # noqa: S608  our own text
    f"""
    UPDATE usersync.seen AS s
       SET missing = 0, departure = NULL, listed = CASE WHEN s.status = 'no_row' THEN s.listed END,
           status = CASE WHEN s.status = 'no_row' THEN s.status ELSE 'removed' END, held = NULL, removed_at = clock_timestamp()
      FROM pg_temp.usersync_candidates AS c
     WHERE s.stream_id = %(stream)s AND s.key = c.key AND c.told AND NOT {_STILL}
    """,  # noqa: S608  our own text
    f"""
    UPDATE usersync.seen AS s SET departure = 'kept', missing = GREATEST(s.missing, 1) FROM pg_temp.usersync_candidates AS c
     WHERE s.stream_id = %(stream)s AND s.key = c.key AND NOT c.told AND s.departure IS DISTINCT FROM 'kept' AND {_STILL}
    """,  # noqa: S608  our own text
)
_CLOSE = (
    """
    UPDATE usersync.sweeps SET outcome = %(outcome)s, candidates = %(candidates)s, removed = %(removed)s, run_id = %(run)s,
           finished_at = clock_timestamp() WHERE id = %(id)s
    """,
    "DELETE FROM usersync.sweep_keys WHERE sweep_id = %(id)s",
    """
    UPDATE usersync.seen_streams SET adopted = adopted OR %(adopted)s,
           keys = (SELECT count(*) FROM usersync.seen WHERE stream_id = %(stream)s) WHERE id = %(stream)s
    """,
)
