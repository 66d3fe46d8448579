"""What is remembered of the readings of a step: how many keys it knows, and how its last complete listings ended.

The keys themselves are in `usersync.seen`. The guard on deletes measures by this; how many rows went lately is here too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.state import ledger

KEPT_SWEEPS = 100


@dataclass(frozen=True)
class Scope:
    """The step that is read, and the run that reads it. `target` says what the keys mean: the table and its key columns."""

    job: str
    step: str
    run_id: int  # 0 in a dry run
    target: str
    fingerprint: str
    account: str
    stream: str = ""
    reads: str = ""  # what the sources' own settings say of which records there are
    window: timedelta = timedelta(0)  # how far back the guard looks; 0: it judges each run by itself

    @property
    def edition(self) -> str:
        """A hash of the step and of what its source is told to read: another edition may lack people who are still at the source."""
        return hashlib.sha256(f"{self.fingerprint} {self.reads}".encode()).hexdigest()


@dataclass(frozen=True)
class Memory:
    """The keys that `seen` holds for a step: how many, and a checksum that tells one set of keys from another."""

    id: int = 0
    keys: int = 0
    checksum: int = 0
    adopted: bool = False
    previous: int | None = None  # records of the last sweep that was accepted
    accepted: str | None = None  # the step's edition in that sweep; None: nobody knows
    lately: int = 0  # rows that went within the window, without a person
    before: int = 0  # rows that were known when the first of these went
    others: int = 0  # of documents: rows of the table that are not among them


def recall(connection: Connection, scope: Scope) -> tuple[Memory, str, str] | None:
    """The memory of this step, its table and key, and the fingerprint under which it was noted; None when the step never ran."""
    found = connection.execute(_LOOK, vars(scope)).fetchone()
    if found is None:
        return None
    target, fingerprint, id_, keys, checksum, adopted, *rest = found
    return Memory(id_, keys, int(checksum), adopted, *rest), target, fingerprint


def begin(tx: Connection, scope: Scope, *, instead: bool) -> Memory:
    """Begin an empty memory. `instead`: something was, of another table or key; then the step counts as edited."""
    if instead:
        tx.execute("DELETE FROM usersync.seen_streams WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s", vars(scope))
    ((id_,),) = tx.execute(_BEGIN, {**vars(scope), "accepted": "" if instead else None}).fetchall()
    return Memory(id_, accepted="" if instead else None)


def remember(tx: Connection, scope: Scope) -> Memory:
    """The memory of this step. Keys of another table or of other key columns mean nothing any more and are forgotten."""
    write = scope.run_id != 0
    if not write and ledger.current(tx) != ledger.VERSION:
        return Memory()
    found = recall(tx, scope)
    if found is not None and found[1] == scope.target:
        return found[0]
    return begin(tx, scope, instead=found is not None) if write else Memory(accepted=None if found is None else "")


def note(tx: Connection, scope: Scope, memory: Memory, outcome: str, *, records: int, candidates: int, removed: int) -> None:  # noqa: PLR0913  the row
    """Write down how a complete listing ended, for the guard of the next one: `outcome` is ok, approved or refused."""
    values = {"outcome": outcome, "records": records, "candidates": candidates, "removed": removed}
    tx.execute(_SWEPT, {**vars(scope), "id": memory.id, **values})
    tx.execute(_FORGET, {"id": memory.id, "keep": KEPT_SWEEPS})
    if outcome != "refused":
        accept(tx, scope, memory.id)


def accept(tx: Connection, scope: Scope, id_: int) -> None:
    """Write down that a complete reading of this edition of the step has passed the guard."""
    statement = "UPDATE usersync.seen_streams SET accepted = %s WHERE id = %s AND accepted IS DISTINCT FROM %s"
    tx.execute(statement, (scope.edition, id_, scope.edition))


def note_removed(tx: Connection, scope: Scope, memory: Memory, *, rows: int, known: int) -> None:
    """Write down that `rows` of the `known` ones went without a person: they count in the next days."""
    tx.execute(_REMOVED, {**vars(scope), "id": memory.id, "run": scope.run_id, "rows": rows, "known": known})


def forget_removed(tx: Connection, memory: Memory) -> None:
    """Forget the rows that went lately: a person has approved a list, and they no longer count."""
    tx.execute("DELETE FROM usersync.removals WHERE stream_id = %s", (memory.id,))


_LOOK = """
SELECT target, fingerprint, id, keys, checksum, adopted,
       (SELECT records FROM usersync.sweeps w WHERE w.stream_id = s.id AND w.outcome IN ('ok', 'approved') ORDER BY w.id DESC LIMIT 1),
       accepted, COALESCE(r.rows, 0), COALESCE(r.before, 0), others
  FROM usersync.seen_streams s
  LEFT JOIN LATERAL (SELECT sum(rows)::bigint AS rows, (array_agg(known ORDER BY removed_at))[1] AS before FROM usersync.removals r
                      WHERE r.stream_id = s.id AND r.removed_at > clock_timestamp() - %(window)s) AS r ON true
 WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s
"""
_BEGIN = """
INSERT INTO usersync.seen_streams (job, step, stream, target, fingerprint, accepted)
VALUES (%(job)s, %(step)s, %(stream)s, %(target)s, %(fingerprint)s, %(accepted)s) RETURNING id
"""
_SWEPT = """
INSERT INTO usersync.sweeps (stream_id, run_id, outcome, account, records, candidates, removed, finished_at)
VALUES (%(id)s, %(run_id)s, %(outcome)s, %(account)s, %(records)s, %(candidates)s, %(removed)s, clock_timestamp())
"""
_FORGET = """
DELETE FROM usersync.sweeps WHERE stream_id = %(id)s
   AND id < (SELECT id FROM usersync.sweeps WHERE stream_id = %(id)s ORDER BY id DESC OFFSET %(keep)s - 1 LIMIT 1)
   AND id <> (SELECT max(id) FROM usersync.sweeps WHERE stream_id = %(id)s AND outcome IN ('ok', 'approved'))
"""
# Older ones are of no use: they are beyond any window that makes sense.
_REMOVED = """
WITH old AS (
    DELETE FROM usersync.removals WHERE stream_id = %(id)s AND removed_at < clock_timestamp() - GREATEST(%(window)s, interval '30 days')
)
INSERT INTO usersync.removals (stream_id, run_id, rows, known) VALUES (%(id)s, %(run)s, %(rows)s, %(known)s)
"""
