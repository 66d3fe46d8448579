"""What is remembered of a stream's records: hashes, versions, what the target has of them, and why their rows may go.

It decides what need not be fetched and written again, never that the target is right. Hashes are keyed with the
fingerprint of the step, so that nothing counts as unchanged once its source, transform or load is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache
from itertools import islice
from typing import Literal, NamedTuple

from psycopg import sql
from psycopg.types.json import Jsonb

from usersync_cli.clients.postgres.arrays import Blobs, Texts, texts
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import statements
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
LONGEST_FINGERPRINT = 64
LOST_PART = 10_000  # keys
PASSED = 100  # documents that are remembered as passed over, of one key
BURIED = timedelta(days=30)  # how long the version of a record that is gone is kept, where complete listings do not have it
_SQL = statements(__name__)
_KNOWN_AND_HELD = _SQL["known_and_held"].format(is_known=_SQL["is_known"])


@dataclass(frozen=True)
class Met:
    """What is known of a record when it comes."""

    duplicate: bool = False  # another record of its page has its key, and is newer
    stale: bool = False  # we hold a newer version
    listed: bool = False  # its document is the one that was listed before
    status: Status | None = None  # None: it is not remembered at all
    held: bytes | None = None  # hash of the document that its row came from; None: the row is to be written again
    departure: Departure | None = None
    missing: int = 0  # complete listings, one after the other, that lacked it
    reject: str | None = None  # waiting, dropped
    passed: bool = False  # another record of the same key, later in the listing, counts instead
    rest: str | None = None  # a JSON object: fields of its last whole document that partial ones may lack

    @property
    def known(self) -> bool:
        """Whether the record is remembered at all."""
        return self.status is not None

    @property
    def leaving(self) -> bool:
        """Whether the record's row may be about to go."""
        return self.missing > 0 or self.departure is not None


UNKNOWN = Met()
UNCHANGED = Met(listed=True, status=LOADED, held=b"...")  # what is known of a record of which `Known.look_up` says nothing


class Note(NamedTuple):
    """What is remembered of a record from now on."""

    key: str
    listed: bytes | None  # hash of what was listed; None: it counts as changed the next time
    status: Status
    held: bytes | None = None  # hash of the document that its row is of
    version: str | None = None  # None leaves the one that is known, as with the next three
    as_of: str | None = None
    rest: str | None = None
    parent: str | None = None


class Gone(NamedTuple):
    """A record that is gone: the version from which on older news of it is stale, and when it went, as the source says."""

    key: str
    version: str | None = None
    as_of: str | None = None


@dataclass(frozen=True)
class OpenSweep:
    """A complete listing under way (a sweep). Without `keyed`, the keys that came so far are not kept, and it removes no rows."""

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
        self.respelt = connection.execute(_SQL["respelt"], (self.memory.id,)).fetchone() == (True,)
        ((self.known_before, self.held, expected),) = connection.execute(_KNOWN_AND_HELD, (self.memory.id,)).fetchall()
        if self.memory.previous is not None:
            self.memory = replace(self.memory, previous=min(self.memory.previous, expected))
        row = connection.execute(_SQL["open"], (self.memory.id,)).fetchone()
        self.sweep = OpenSweep(*row) if row else None

    @property
    def resumable(self) -> bool:
        """Whether a cursor may be trusted: what comes before it was written by this same step."""
        return bool(self.memory.id) and self.fingerprint == self.scope.fingerprint

    def begin(self, tx: Connection, *, fresh: bool) -> Known:
        """Write the stream's row, with this step's fingerprint: first of all in a checkpoint. With `fresh`, no sweep is under way."""
        memory = self.memory
        if not memory.id:
            memory = readings.begin(tx, self.scope, instead=memory.accepted is not None)
        elif self.fingerprint != self.scope.fingerprint:
            tx.execute("UPDATE usersync.seen_streams SET fingerprint = %s WHERE id = %s", (self.scope.fingerprint, memory.id))
        if fresh:
            tx.execute(_SQL["abandon"], {"stream": memory.id})
        return replace(self, memory=memory, fingerprint=self.scope.fingerprint, sweep=None if fresh else self.sweep)

    def hash(self, document: bytes) -> bytes:
        """The hash of a document, keyed with the fingerprint of the step (16 bytes)."""
        hashed = _keyed(self.scope.fingerprint).copy()
        hashed.update(document)
        return hashed.digest()

    @property
    def version_type(self) -> str:
        return "numeric" if self.numbered else "timestamp with time zone"

    def _typed(self, name: str, **more: sql.Composable) -> sql.Composed:
        """The statement of this name, with the column and type of this stream's versions."""
        return sql.SQL(_SQL[name]).format(
            version=sql.SQL("version_number" if self.numbered else "version_at"), type=sql.SQL(self.version_type), **more
        )

    def look_up(  # noqa: PLR0913  what came, column by column
        self,
        connection: Connection,
        keys: Sequence[str],
        hashes: Sequence[bytes],
        versions: Sequence[str | None],
        as_of: Sequence[str | None] = (),
        *,
        listing: bool = False,
        overrules: str = "",
    ) -> dict[int, Met]:
        """What is known of these records, by position; nothing of those that are known, unchanged, and in the target (UNCHANGED).

        `listing`: they are of a complete listing, which `overrules` what was known up to then.
        """
        values = {"keys": texts(keys), "hashes": Blobs(hashes), "versions": texts(versions), "as_of": texts(as_of), **vars(self.scope)}
        values |= {"stream_id": self.memory.id, "listing": listing, "overrules": overrules or None}
        rank = sql.SQL("1" if len(set(keys)) == len(keys) else _SQL["rank"])
        statement = self._typed("look_up", rank=rank, stale=self._typed("stale"))
        return {row[0]: Met(*row[1:]) for row in connection.execute(statement, values).fetchall()}

    def known_as(self, connection: Connection, rows: Sequence[str]) -> dict[str, str]:
        """The keys under which these rows are remembered, by row; rows that are not remembered are left out."""
        found = connection.execute(_SQL["known_as"], {"stream": self.memory.id, "rows": texts(rows)}).fetchall()
        return dict(found)

    def respell(self, tx: Connection, spelt: Mapping[str, str]) -> None:
        """Remember these records under another spelling of their keys from now on, their rejects too: keys before and after."""
        values = {**vars(self.scope), "id": self.memory.id, "before": texts(spelt), "after": texts(spelt.values())}
        for statement in ("respell_replaced", "respell", "respell_replaced_rejects", "respell_rejects"):
            tx.execute(_SQL[statement], values)
        self.respelt = True

    def spell(self, tx: Connection, rows: Mapping[str, str]) -> None:
        """Remember how rows spell their keys, by the keys of their records."""
        if tx.execute(_SQL["spell"], {"stream": self.memory.id, "keys": texts(rows), "rows": texts(rows.values())}).rowcount:
            self.respelt = True

    def listed(self, connection: Connection, keys: Sequence[str]) -> dict[str, bytes | None]:
        """The hashes of what was last listed of these records, by key."""
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
        keys, listed, statuses, held, versions, as_of, rest, parents = zip(*notes, strict=True)
        values = {
            "stream": self.memory.id, "keys": texts(keys), "listed": Blobs(listed), "statuses": texts(statuses), "held": Blobs(held),
            "versions": texts(versions), "as_of": texts(as_of), "rest": texts(rest), "sweep": self.sweep.id if self.sweep else None,
            "parents": texts(parents), "most": PASSED,
        }  # fmt: skip
        tx.execute(self._typed("note"), values)

    def back(self, tx: Connection, keys: Sequence[str]) -> None:
        """Records that complete listings lacked, or that were reported as gone, are there again."""
        tx.execute(_SQL["back"], (self.memory.id, texts(keys)))

    def owe(self, tx: Connection, keys: Collection[str]) -> None:
        """Forget what was listed of records whose documents could not be had, so that they are fetched the next time."""
        tx.execute("UPDATE usersync.seen SET listed = NULL WHERE stream_id = %s AND key = ANY(%s)", (self.memory.id, texts(keys)))

    def told(self, tx: Connection, gone: Sequence[Gone], how: Departure = TOLD) -> None:
        """Remember that the source reports these as gone, or that the transform leaves them out (`how`): their rows may go."""
        tx.execute(self._typed("told"), {"stream": self.memory.id, "told": how, **_arrays(gone)})

    def children(self, connection: Connection, parents: Sequence[Gone]) -> list[str]:
        """The keys of those at the source that belong to any of these records of another stream."""
        values = {"stream": self.memory.id, "parents": texts(one.key for one in parents)}
        return [key for (key,) in connection.execute(_SQL["children"], values).fetchall()]

    def told_with(self, tx: Connection, parents: Sequence[Gone]) -> int:
        """Remember that records are gone which belong to these of another stream, as they are; gives how many."""
        values = {"stream": self.memory.id, "parents": texts(one.key for one in parents), "as_of": texts(one.as_of for one in parents)}
        return tx.execute(_SQL["told_with"], values).rowcount

    def bury(self, tx: Connection, gone: Sequence[Gone]) -> None:
        """Remember the versions of records that are gone and have no row that could go now: older news of them does not make one."""
        tx.execute(self._typed("bury"), {"stream": self.memory.id, "long": BURIED, **_arrays(gone)})

    def some(self, connection: Connection, number: int = 3) -> list[str]:
        """The keys of a few records whose rows the target holds, to ask the source whether it knows them at all."""
        return [key for (key,) in connection.execute(_SQL["some"], (self.memory.id, number)).fetchall()]

    def look_again(self, tx: Connection, keys: Collection[str]) -> None:
        """Let the next listing decide anew about keys of which this one had only records that it had passed over before."""
        tx.execute(_SQL["look_again"], (self.memory.id, texts(keys)))

    def open_sweep(self, tx: Connection, name: str, *, keyed: bool) -> Known:
        """Go on with the sweep of this name, or begin it, before anything of its first page is noted."""
        if self.sweep and self.sweep.name == name:
            return self
        values = {"stream": self.memory.id, "name": name, "keyed": keyed, "run": self.scope.run_id, "account": self.scope.account}
        tx.execute(_SQL["abandon"], values)
        known = self.known_before
        if self.memory.previous is None:  # a list that changed is walked again: until one is accepted, earlier walks count too
            ((now, *_),) = tx.execute(_KNOWN_AND_HELD, (self.memory.id,)).fetchall()
            known = max(known, now)
        ((id_,),) = tx.execute(_SQL["open_sweep"], {**values, "known": known}).fetchall()
        return replace(self, sweep=OpenSweep(id_, name, keyed, 0, self.scope.run_id or 0, known))

    def sweep_page(self, tx: Connection, keys: Collection[str], records: int) -> Known:
        """Add a page to the sweep under way: the keys that it has, and how many records."""
        sweep = self.sweep
        assert sweep is not None  # noqa: S101  `open_sweep`
        if records:
            tx.execute("UPDATE usersync.sweeps SET records = records + %s WHERE id = %s", (records, sweep.id))
        if keys and sweep.keyed:
            tx.execute(_SQL["sweep_keys"], {"id": sweep.id, "keys": texts(keys)})
        return replace(self, sweep=replace(sweep, records=sweep.records + records))

    def note_drift(self, tx: Connection, drift: Mapping[str, int]) -> None:
        """Add what a page of the sweep under way had to put right, by column; nothing at all says that it was looked for."""
        assert self.sweep is not None  # noqa: S101  `open_sweep`
        tx.execute(_SQL["note_drift"], {"id": self.sweep.id, "drift": Jsonb(drift)})

    def drift(self, tx: Connection) -> dict[str, int]:
        """What the sweep under way had to put right so far, by column."""
        assert self.sweep is not None  # noqa: S101  `open_sweep`
        ((found,),) = tx.execute(_SQL["drift"], (self.sweep.id,)).fetchall()
        return found or {}

    def listed_so_far(self, connection: Connection) -> list[Sequence[str]]:
        """The keys of the sweep under way, page by page; none where they are not kept."""
        query = "SELECT keys FROM usersync.sweep_keys WHERE sweep_id = %s"
        return [keys for (keys,) in connection.execute(query, (self.sweep.id,)).fetchall()] if self.sweep else []

    def expect_fewer(self, number: int) -> Known:
        """So many rows went because the source itself reported their records as gone: the next listing is not measured by them."""
        previous = self.memory.previous
        return self if previous is None else replace(self, memory=replace(self.memory, previous=max(0, previous - number)))

    def known_at(self, sweep: str) -> int:
        """The number of records that had a row when the sweep of this name began; without that sweep, when this reading began."""
        return self.sweep.known if self.sweep and self.sweep.name == sweep else self.known_before

    def check_rows(self, tx: Connection, merge: Merge) -> int:
        """Have the next complete listing write the rows again that the target has lost since we wrote them; gives their number.

        In two statements: joined in one, a planner without statistics of a new stream looks for them again for each row that is known.
        """
        lost, keys = 0, self.lost(tx, merge.table, merge.key)
        while part := list(islice(keys, LOST_PART)):
            lost += tx.execute(
                "UPDATE usersync.seen SET held = NULL WHERE stream_id = %s AND key = ANY(%s)", (self.memory.id, texts(part))
            ).rowcount
        return lost

    def _lost(self, table: sql.Composable, key: Sequence[str]) -> sql.Composed:
        return sql.SQL(_SQL["lost"]).format(stream=sql.Literal(self.memory.id), table=table, key=key_text(key))

    def count_others(self, tx: Connection, table: sql.Composable) -> int:
        """The number of rows in the table that we did not write; when it is less than before, some of ours have vanished."""
        ((rows,),) = tx.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchall()
        return int(rows) - self.held

    def lost(self, tx: Connection, table: sql.Composable, key: Sequence[str]) -> Iterator[str]:
        """The keys of rows that we wrote, and that the table does not have any more; they may be many."""
        with tx.cursor("usersync_lost") as cursor:
            cursor.itersize = LOST_PART
            for (one,) in cursor.execute(self._lost(table, key)):
                yield one

    def note_others(self, tx: Connection, others: int) -> None:
        """Remember how many rows of the table are not ours."""
        tx.execute("UPDATE usersync.seen_streams SET others = %s WHERE id = %s", (others, self.memory.id))

    def close_sweep(self, tx: Connection, outcome: str, candidates: int, removed: int, *, adopted: bool) -> Known:
        """End the complete listing under way. `outcome`: ok, approved, refused."""
        assert self.sweep is not None  # noqa: S101  its last page is part of it
        values = {
            "id": self.sweep.id, "stream": self.memory.id, "outcome": outcome, "candidates": candidates, "removed": removed,
            "adopted": adopted, "run": self.scope.run_id,
        }  # fmt: skip
        for statement in ("close_sweep", "drop_sweep_keys", "count_known"):
            tx.execute(_SQL[statement], values)
        if outcome != "refused":
            readings.accept(tx, self.scope, self.memory.id)
        previous = self.sweep.records if outcome in ("ok", "approved") else self.memory.previous
        return replace(self, sweep=None, memory=replace(self.memory, previous=previous, adopted=self.memory.adopted or adopted))


def _arrays(gone: Sequence[Gone]) -> dict[str, Texts]:
    keys, versions, as_of = zip(*gone, strict=True)
    return {"keys": texts(keys), "versions": texts(versions), "as_of": texts(as_of)}


@lru_cache
def _keyed(fingerprint: str) -> hashlib.blake2b:
    """A hash to copy for each document: keying one costs as much as hashing a short document."""
    return hashlib.blake2b(digest_size=16, key=fingerprint.encode()[:LONGEST_FINGERPRINT])
