"""Records that were set aside with their reason, and wait for somebody to look: one row each in `usersync.rejects`.

Rows are written in the transaction of the records that were loaded. Documents hold people's data: they stay in the database that
holds the same people anyway, and are never logged.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from usersync_cli.clients.postgres.arrays import Blobs, texts
from usersync_cli.errors import NotFound, PartialError
from usersync_cli.state.migrations import current

PAGE_RECORDS, PAGE_BYTES = 1000, 4_000_000  # that are tried again at once
KEPT = timedelta(days=30)  # a document, after its record was last met; its row stays

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Reject:
    """A record that can't be loaded, as it came. `detail` names columns and constraints, never a value."""

    key: str | None  # None: filed under the hash of its document
    reason: str
    detail: str = ""
    document: bytes = field(repr=False, default=b"")
    version: str | None = None
    part: str = ""  # which of several matters of the same record; '' where it is set aside whole

    @property
    def filed_as(self) -> str:
        """The key under which it waits."""
        return self.key if self.key is not None else f"sha256:{hashlib.sha256(self.document).hexdigest()}"


@dataclass(frozen=True)
class Stored:
    """How many rejects of a page were new (also a known record whose document changed), known, or dropped before."""

    new: int = 0
    known: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class Waiting:
    """A reject as the table has it, without its document. `status`: waiting or dropped."""

    id: int
    job: str
    step: str
    stream: str
    key: str
    status: str
    reason: str
    detail: str
    version: str | None
    run_id: int
    first_at: datetime
    last_at: datetime
    has_document: bool


@dataclass(frozen=True)
class Kept:
    """The document of a reject, to be tried again."""

    id: int
    key: str
    version: str | None
    document: bytes = field(repr=False)


# storing


def store(tx: Connection, job: str, step: str, stream: str, run_id: int, rejects: Sequence[Reject]) -> Stored:  # noqa: PLR0913, PLR0917  a reject has a long name
    """Set rejects aside, in the transaction of the page that they came with; twice is once. Of one key and part, the last counts.

    A document that was met before only moves `last_at`; a dropped one stays dropped. A changed document waits again.
    """
    if not rejects:
        return Stored()
    given = {(one.filed_as, one.part): one for one in rejects}
    columns = {
        "keys": texts(key for key, _ in given),
        "parts": texts(part for _, part in given),
        "reasons": texts(one.reason for one in given.values()),
        "details": texts(one.detail for one in given.values()),
        "documents": Blobs([one.document for one in given.values()]),
        "versions": texts(one.version for one in given.values()),
    }
    rows = sql.SQL(
        "SELECT * FROM unnest(%(keys)s::text[], %(parts)s::text[], %(reasons)s::text[], %(details)s::text[], %(documents)s::bytea[],"
        " %(versions)s::text[]) AS g(key, part, reason, detail, document, version)"
    )
    return store_rows(tx, job, step, stream, run_id, rows, columns)


def store_rows(  # noqa: PLR0913, PLR0917  a reject has a long name
    tx: Connection, job: str, step: str, stream: str, run_id: int, rows: sql.Composable, values: Mapping[str, Any]
) -> Stored:
    """`store` for the rows of a query (key, part, reason, detail, document bytea, version), each key and part once."""
    found = tx.execute(sql.SQL(_STORE).format(rows=rows), {**values, "job": job, "step": step, "stream": stream, "run": run_id}).fetchone()
    return Stored(*(found or ()))


def resolve(tx: Connection, job: str, step: str, stream: str, keys: Collection[str], *, part: str | None = None) -> int:  # noqa: PLR0913  a reject has a long name
    """Forget the rejects of records that were loaded now, dropped ones too, or only this part of each; gives how many there were."""
    # mostly there are none at all: then the keys are not even looked at
    statement = (
        "DELETE FROM usersync.rejects WHERE job = %s AND step = %s AND stream = %s AND key IN (SELECT unnest(%s::text[]))"
        " AND (%s::text IS NULL OR part = %s)"
    )
    return tx.execute(statement, (job, step, stream, texts(keys), part, part)).rowcount if keys else 0


def resolve_unmet(tx: Connection, job: str, step: str, stream: str, run_id: int) -> int:
    """Forget the rejects that a run which read everything did not meet; gives how many there were."""
    statement = "DELETE FROM usersync.rejects WHERE job = %s AND step = %s AND stream = %s AND run_id <> %s"
    return tx.execute(statement, (job, step, stream, run_id)).rowcount


def touch(tx: Connection, job: str, step: str, stream: str, run_id: int, keys: Collection[str]) -> None:  # noqa: PLR0913, PLR0917  a reject has a long name
    """Note that the rejects with these keys came again, unchanged."""
    statement = (
        "UPDATE usersync.rejects SET last_at = clock_timestamp(), run_id = %s"
        " WHERE job = %s AND step = %s AND stream = %s AND key = ANY(%s)"
    )
    tx.execute(statement, (run_id, job, step, stream, texts(keys)))


def resolve_unswept(tx: Connection, job: str, step: str, stream: str, sweep_id: int) -> int:
    """Forget the rejects that a complete listing did not have, by its keys; gives how many there were."""
    statement = (
        "DELETE FROM usersync.rejects WHERE id IN (SELECT r.id"
        " FROM (SELECT id, key FROM usersync.rejects WHERE job = %s AND step = %s AND stream = %s) AS r"
        " FULL JOIN (SELECT unnest(keys) AS key FROM usersync.sweep_keys WHERE sweep_id = %s) AS k ON k.key = r.key"
        " WHERE k.key IS NULL OFFSET 0)"
    )
    return tx.execute(statement, (job, step, stream, sweep_id)).rowcount


def prune(connection: Connection, job: str) -> int:
    """Forget the documents that were not met for 30 days; reason, key and hash stay."""
    statement = "UPDATE usersync.rejects SET document = NULL WHERE job = %s AND document IS NOT NULL AND last_at < clock_timestamp() - %s"
    return connection.execute(statement, (job, KEPT)).rowcount


# reading


def waiting(
    connection: Connection, job: str | None = None, *, step: str | None = None, dropped: bool = False, ids: Sequence[int] | None = None
) -> list[Waiting]:
    """The rejects that wait (with `dropped`, those too), by job, step and age. Empty where the table is not there yet."""
    if not readable(connection):
        return []
    with connection.cursor(row_factory=class_row(Waiting)) as cursor:
        values = {"job": job, "step": step, "dropped": dropped, "ids": None if ids is None else list(ids)}
        return cursor.execute(_WAITING.encode(), values).fetchall()


def count_waiting(connection: Connection, job: str | None = None, *, step: str | None = None) -> dict[tuple[str, str], int]:
    """How many rejects wait, by job and step. Empty where the table is not there yet."""
    if not readable(connection):
        return {}
    rows = connection.execute(_COUNT_WAITING.encode(), {"job": job, "step": step}).fetchall()
    return {(one_job, one_step): number for one_job, one_step, number in rows}


def document(connection: Connection, id_: int) -> bytes | None:
    """The document of a reject, as it came; None when it has been forgotten."""
    row = connection.execute("SELECT document FROM usersync.rejects WHERE id = %s", (id_,)).fetchone()
    return None if row is None or row[0] is None else bytes(row[0])


def kept(connection: Connection, ids: Sequence[int], after: int) -> list[Kept]:
    """The documents of these rejects that are still there, in pages behind `after`, by number: at most PAGE_RECORDS and PAGE_BYTES."""
    values = {"ids": list(ids), "after": after, "records": PAGE_RECORDS, "bytes": PAGE_BYTES}
    with connection.cursor(row_factory=class_row(Kept)) as cursor:
        return cursor.execute(_KEPT.encode(), values).fetchall()


def left(job: str, number: int) -> PartialError:
    """The error at the end of a step while so many records wait."""
    records = "record" if number == 1 else "records"
    return PartialError(f"{number:,} {records} set aside, waiting for somebody to look", hint=looking(job))


def looking(job: str) -> str:
    """The hint where rejects wait: what to type."""
    return (
        f"usersync rejects list --job {job} says why; then `usersync rejects retry --all --job {job}`, or `usersync rejects drop ID`"
        " for one that may stay out"
    )


def chosen(connection: Connection, ids: Sequence[int], job: str | None = None) -> list[Waiting]:
    """The rejects of these numbers, dropped ones too. Raises NotFound for a number that none has (in this job)."""
    found = waiting(connection, job, dropped=True, ids=ids)
    if missing := sorted(set(ids) - {one.id for one in found}):
        of = f" in job {job}" if job else ""
        raise NotFound(
            f"there is no reject {', '.join(map(str, missing))}{of}",
            hint="`usersync rejects list` shows those that wait; one whose record was loaded since is gone. Nothing was changed",
        )
    return found


def stored(connection: Connection, job: str, step: str, stream: str, rejects: Collection[Reject]) -> dict[str, bool]:
    """The rejects that were set aside before, and whether somebody dropped them as they are now."""
    if not rejects or not readable(connection):
        return {}
    given = {one.filed_as: hashlib.sha256(one.document).digest() for one in rejects}
    query = "SELECT key, status, hash FROM usersync.rejects WHERE job = %s AND step = %s AND stream = %s AND key = ANY(%s)"
    found = connection.execute(query, (job, step, stream, texts(given))).fetchall()
    return {key: status == "dropped" and hash_ == given[key] for key, status, hash_ in found}


def met_since(connection: Connection, job: str, step: str, stream: str, sweep_id: int) -> Counter[tuple[str, str]]:
    """How many rejects wait that were met for the first time while this sweep was under way, by reason and detail."""
    query = (
        "SELECT reason, detail, count(*) FROM usersync.rejects WHERE job = %s AND step = %s AND stream = %s AND status = 'waiting'"
        " AND first_at >= (SELECT started_at FROM usersync.sweeps WHERE id = %s) GROUP BY 1, 2"
    )
    found = connection.execute(query, (job, step, stream, sweep_id)).fetchall()
    return Counter({(why, where): number for why, where, number in found})


def drop(tx: Connection, ids: Sequence[int]) -> int:
    """Drop rejects: somebody has looked, and they no longer count until their document changes. Returns how many waited."""
    statement = "UPDATE usersync.rejects SET status = 'dropped' WHERE id = ANY(%s) AND status = 'waiting'"
    return tx.execute(statement, (list(ids),)).rowcount


def readable(connection: Connection) -> bool:
    """Whether the table of rejects exists."""
    return (current(connection) or "") >= "0002"


_STORE = """
WITH given AS (SELECT key, part, reason, detail, document, sha256(document) AS hash, version FROM ({rows}) AS r),
before AS (
    SELECT r.key, r.part, r.hash, r.status FROM usersync.rejects AS r JOIN given AS g ON g.key = r.key AND g.part = r.part
     WHERE r.job = %(job)s AND r.step = %(step)s AND r.stream = %(stream)s
),
kept AS (
    INSERT INTO usersync.rejects AS r (job, step, stream, key, part, reason, detail, document, hash, version, run_id)
    SELECT %(job)s, %(step)s, %(stream)s, key, part, reason, detail, document, hash, version, %(run)s FROM given ORDER BY key, part
    ON CONFLICT (job, step, stream, key, part) DO UPDATE
       SET status = CASE WHEN r.hash = excluded.hash AND (r.part = '' OR r.detail = excluded.detail) THEN r.status ELSE 'waiting' END,
           reason = excluded.reason, detail = excluded.detail, version = excluded.version,
           document = excluded.document, hash = excluded.hash, run_id = excluded.run_id, last_at = clock_timestamp()
)
SELECT count(*) FILTER (WHERE b.hash IS DISTINCT FROM g.hash),
       count(*) FILTER (WHERE b.hash = g.hash AND b.status = 'waiting'),
       count(*) FILTER (WHERE b.hash = g.hash AND b.status = 'dropped')
  FROM given AS g LEFT JOIN before AS b ON b.key = g.key AND b.part = g.part
"""
_WAITING = """
SELECT id, job, step, stream, key, status, reason, detail, version, run_id, first_at, last_at, document IS NOT NULL AS has_document
  FROM usersync.rejects
 WHERE (%(job)s::text IS NULL OR job = %(job)s) AND (%(step)s::text IS NULL OR step = %(step)s)
   AND (status = 'waiting' OR %(dropped)s) AND (%(ids)s::bigint[] IS NULL OR id = ANY(%(ids)s))
 ORDER BY job, step, stream, id
"""
_KEPT = """
SELECT id, key, version, document
  FROM (SELECT id, key, version, document, row_number() OVER w AS number, sum(octet_length(document)) OVER w AS size
          FROM (SELECT * FROM usersync.rejects WHERE id = ANY(%(ids)s) AND id > %(after)s AND document IS NOT NULL
                 ORDER BY id LIMIT %(records)s) AS r
        WINDOW w AS (ORDER BY id)) AS r
 WHERE number = 1 OR size <= %(bytes)s ORDER BY id
"""
_COUNT_WAITING = """
SELECT job, step, count(DISTINCT (stream, key)) FROM usersync.rejects
 WHERE status = 'waiting' AND (%(job)s::text IS NULL OR job = %(job)s) AND (%(step)s::text IS NULL OR step = %(step)s)
 GROUP BY job, step ORDER BY job, step
"""
