"""What `status` says of streams of documents: their tables, complete listings, cursors. Only reads, and never a big table whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from psycopg import errors, sql

from usersync_cli.clients.postgres.sql import scalar

if TYPE_CHECKING:
    from usersync_cli.clients.postgres.catalog import Table
    from usersync_cli.clients.postgres.connections import Connection
    from usersync_cli.model import Cursor, Job, Step
    from usersync_cli.shapes import LogPlace
    from usersync_cli.state.ledger import StoredCursor

SMALL_BYTES = 64 * 1024 * 1024  # a table of at most this size (without what is stored out of line) is counted, a bigger one estimated
_LOCK_SECONDS = 1  # who has locked the table is not waited for


@dataclass(frozen=True)
class ListingStatus:
    """A complete listing of a source, or one under way."""

    run_id: int
    outcome: str  # ok, approved, refused, open
    records: int
    candidates: int
    removed: int
    started_at: datetime
    finished_at: datetime | None
    drift: Mapping[str, int] | None = None  # what it had to put right although a log was followed; None: it did not look for that


@dataclass(frozen=True)
class Held:
    """What a table holds. None: nobody can say so without reading all of a big table."""

    rows: int | None = None
    exact: bool = False
    marked: int | None = None  # of these, with deleted_at
    newest: datetime | None = None  # the largest updated_at
    unknown: int | None = None  # rows that no complete listing had; None too before the first


@dataclass(frozen=True)
class StreamStatus:
    """One stream of a step, and its table."""

    step: str
    stream: str
    source: str
    table: str
    on_missing: str
    problem: str  # why the table could not be looked at
    held: Held
    cursor: StoredCursor | None
    swept: ListingStatus | None  # the last one that came to its end
    under_way: ListingStatus | None
    rejects: int  # that wait
    taken_over: bool  # others filled the table before us, and their rows were not adopted
    place: LogPlace | None  # in the source's log of changes
    mark_needs: str  # the ALTER without which on_missing: mark is refused


@dataclass(frozen=True)
class _Memory:
    """What usersync's own tables have of a stream."""

    id: int = 0
    adopted: bool = False
    swept: ListingStatus | None = None
    under_way: ListingStatus | None = None


def read(
    connection: Connection, job: Job, cursors: Sequence[StoredCursor], log_place: Callable[[str, Cursor], LogPlace | None]
) -> list[StreamStatus]:
    """Every stream of the job's steps of documents, inside a transaction. `log_place` reads cursors of a source."""
    moved = {(one.step, one.stream): one for one in cursors}
    rejected = _rejects(connection, job.name)
    found = []
    for step in job.steps:
        if step.load.target != "target":
            continue  # what stands outside Postgres is not looked at here
        for extract in step.extract.values():
            for stream in extract.streams:
                at = (step.name, stream)
                cursor = moved.get(at)
                place = log_place(extract.source, cursor.value) if cursor else None
                found.append(_stream(connection, job.name, step, extract.source, stream, cursor, place, rejected.get(at, 0)))
    return found


def _stream(  # noqa: PLR0913, PLR0917  which one, and what is known of it
    connection: Connection,
    job: str,
    step: Step,
    source: str,
    stream: str,
    cursor: StoredCursor | None,
    place: LogPlace | None,
    rejected: int,
) -> StreamStatus:
    from usersync_cli.clients.postgres.catalog import describe
    from usersync_cli.load.table.fit import lacks_mark

    load, name = step.load, step.load.table.replace("{stream}", stream)
    memory = _memory(connection, job, step, stream, name)
    held, problem, needs, theirs = Held(), "", "", False
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'".encode())
            if (table := describe(connection, name)) is None:
                problem = "is not there"
            else:
                held = _held(connection, table, step, memory)
                needs = (lacks_mark(table, name) or ("", ""))[1]
                theirs = not memory.adopted and (not load.create or bool(held.unknown))
    except errors.InsufficientPrivilege:
        problem = "may not be read by this role"
    except (errors.LockNotAvailable, errors.QueryCanceled):
        problem = "is locked or slow at the moment"
    return StreamStatus(
        *(step.name, stream, source, name, load.on_missing, problem, held, cursor),
        *(memory.swept, memory.under_way, rejected, theirs, place, needs),
    )


def _memory(connection: Connection, job: str, step: Step, stream: str, table: str) -> _Memory:
    from usersync_cli.run.documents.stream import named
    from usersync_cli.state.ledger import current

    if (current(connection) or "") < "0002":
        return _Memory()
    values = {"job": job, "step": step.name, "stream": stream, "target": named(table, step.load.key)}
    row = connection.execute(_MEMORY, values).fetchone()
    if row is None:
        return _Memory()
    drift = "drift" if (current(connection) or "") >= "0013" else "NULL"
    listing = [f"{_LISTING.format(drift=drift)} {rest}".encode() for rest in (_SWEPT, _UNDER_WAY)]
    swept, under_way = (connection.execute(query, (row[0],)).fetchone() for query in listing)
    return _Memory(row[0], row[1], ListingStatus(*swept) if swept else None, ListingStatus(*under_way) if under_way else None)


def _rejects(connection: Connection, job: str) -> Mapping[tuple[str, str], int]:
    from usersync_cli.state import rejects

    if not rejects.readable(connection):
        return {}
    return {(step, stream): number for step, stream, number in connection.execute(_REJECTS, (job,)).fetchall()}


def _held(connection: Connection, table: Table, step: Step, memory: _Memory) -> Held:
    size, estimate = connection.execute(_SIZE, {"oid": table.oid}).fetchone() or (None, None)
    # Who sees only some of the rows does not count them.
    may = sql.SQL("SELECT has_table_privilege({0}::oid, 'SELECT') AND NOT row_security_active({0}::oid)")
    if not scalar(connection, may.format(table.oid)):
        return Held(estimate)
    small = size is not None and size <= SMALL_BYTES
    newest = _newest(connection, table, small=small)
    if not small:
        return Held(estimate, newest=newest)
    marks = step.load.on_missing == "mark" and "deleted_at" in table.columns
    counted = sql.SQL("SELECT count(*), {} FROM {}").format(sql.SQL("count(deleted_at)" if marks else "NULL::bigint"), table.name)
    rows, marked = connection.execute(counted).fetchone() or (None, None)
    unknown = _unknown(connection, table, step, memory) if memory.swept and set(step.load.key) <= set(table.columns) else None
    return Held(rows, exact=True, marked=marked, newest=newest, unknown=unknown)


def _newest(connection: Connection, table: Table, *, small: bool) -> datetime | None:
    """By an index, where the table is not small."""
    column = table.columns.get("updated_at")
    zone = {"timestamp with time zone": "", "timestamp without time zone": " AT TIME ZONE 'UTC'"}.get(column.bare if column else "")
    if zone is None or not (small or scalar(connection, sql.SQL(_INDEXED).format(table.oid))):
        return None
    # Python has no infinity, and no year 10000.
    query = sql.SQL("SELECT max(updated_at){} FROM {} WHERE updated_at BETWEEN '0001-01-02' AND '9999-12-30'")
    found: datetime | None = scalar(connection, query.format(sql.SQL(zone), table.name))
    return found


def _unknown(connection: Connection, table: Table, step: Step, memory: _Memory) -> int:
    from usersync_cli.load.merge import key_text

    query = sql.SQL("""
        SELECT count(*) FROM {} AS t WHERE NOT EXISTS (SELECT FROM usersync.seen AS s WHERE s.stream_id = {} AND s.key = {})
    """)
    return int(scalar(connection, query.format(table.name, memory.id, key_text(step.load.key))))


_MEMORY = """
SELECT id, adopted FROM usersync.seen_streams
 WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s AND target = %(target)s
"""
_LISTING = (
    "SELECT run_id, outcome, records, candidates, removed, started_at, finished_at, {drift} FROM usersync.sweeps WHERE stream_id = %s"
)
_SWEPT = "AND outcome IN ('ok', 'approved', 'refused') ORDER BY id DESC LIMIT 1"
_UNDER_WAY = "AND outcome = 'open' ORDER BY id DESC LIMIT 1"
_REJECTS = "SELECT step, stream, count(*) FROM usersync.rejects WHERE job = %s AND status = 'waiting' GROUP BY step, stream"
# As the planner estimates: so many rows a page as ANALYZE or VACUUM last found, and so many pages as there are now.
_SIZE = """
SELECT sum(size)::bigint, CASE WHEN count(*) = count(rows) THEN sum(rows)::bigint END
  FROM (SELECT s.size, CASE WHEN c.reltuples < 0 THEN NULL WHEN c.relpages = 0 THEN c.reltuples
                            ELSE c.reltuples / c.relpages * (s.size / current_setting('block_size')::int) END AS rows
          FROM (SELECT %(oid)s::oid AS oid UNION SELECT relid FROM pg_catalog.pg_partition_tree(%(oid)s::oid)) AS p
          JOIN pg_catalog.pg_class c ON c.oid = p.oid AND c.relkind = 'r', pg_catalog.pg_relation_size(c.oid) AS s(size)) AS parts
"""
_INDEXED = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_index i
                 JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = c.relam AND m.amname = 'btree'
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'updated_at' AND a.attnum = i.indkey[0]
                WHERE i.indrelid = {}::oid AND i.indisvalid AND i.indpred IS NULL)
"""
