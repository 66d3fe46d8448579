"""Which rows of a stream may go: those of records that a complete listing lacks, and of those that are told to be gone or left out.

They are collected in a temporary table, CANDIDATES; the guard judges them, and whatever stays is remembered with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from psycopg import sql

from usersync_cli.clients.postgres.arrays import texts
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, listed, scalar, statements
from usersync_cli.load.deletes import guard
from usersync_cli.load.deletes.guard import GONE, Sweep
from usersync_cli.load.known import BURIED, Departure, Gone, Known, OpenSweep
from usersync_cli.load.merge import Merge, key_text
from usersync_cli.load.spelling import Spelling


class ToldRow(NamedTuple):
    """A row whose record the source reports as deleted."""

    row: str  # its key, as the row spells it
    there: bool  # it is not marked yet
    at: str | None  # when it was deleted, if the source says so


CANDIDATES = sql.SQL("pg_temp.usersync_candidates")
PART = 10_000  # keys
_SQL = statements(__name__)


def waits(connection: Connection, known: Known) -> bool:
    """Whether there are rows that may go without a complete listing: told to be gone, left out, or on a list that waits."""
    return bool(scalar(connection, _SQL["waits"], {**vars(known.scope), "id": known.memory.id}))


def count_lacking(connection: Connection, known: Known, met: Collection[str], sweep: OpenSweep | None) -> int:
    """How many of the records that are known the sweep and this page of it lack."""
    return int(scalar(connection, _SQL["count_lacking"].format(lacking=_SQL["lacking"]), _lack(known, met, sweep)))


def lacking_keys(connection: Connection, known: Known, met: Collection[str], sweep: OpenSweep | None) -> dict[str, int]:
    """The keys of records that the sweep and this page of it lack, and how many sweeps before lacked them too."""
    return dict(connection.execute(_SQL["lacking"], _lack(known, met, sweep)).fetchall())


def lacking_pages(
    connection: Connection, known: Known, met: Collection[str], sweep: OpenSweep | None
) -> Iterator[Sequence[tuple[str, int]]]:
    """What `lacking_keys` gives, in parts, since they may be many."""
    query, values = _SQL["lacking_page"].format(lacking=_SQL["lacking"]), {**_lack(known, met, sweep), "most": PART}
    while page := connection.execute(query, values).fetchall():
        yield page
        values["after"] = page[-1][0]


def kept(connection: Connection, known: Known, found: Sweep, met: Collection[str], sweep: OpenSweep | None) -> str:
    """Why the refusal of an earlier run still holds for records that the sweep and this page of it lack: see `guard.kept`."""
    values = {**_lack(known, met, sweep), "stream": known.scope.stream}
    return guard.kept(connection, found, sql.SQL(_SQL["lacking_rows"].format(lacking=_SQL["lacking"])), values)


def listed_keys(connection: Connection, known: Known, run_id: int) -> set[str]:
    """The keys of the list that waits for approval under this run, as their rows have them and as they are remembered."""
    listed = {key for (key,) in connection.execute(_SQL["listed"], {**vars(known.scope), "approved": run_id}).fetchall()}
    return listed | set(known.known_as(connection, list(listed)).values()) if known.respelt else listed


def collect(  # noqa: PLR0913, PLR0917  what may go, and why
    tx: Connection,
    known: Known,
    keys: Collection[str] | None,
    met: Collection[str],
    approved: int | None,
    told: Mapping[str, Departure],
    *,
    free: bool,
    complete: bool,
) -> None:
    """Put into CANDIDATES the records that were told to be gone, and these keys; with None, all that the sweep lacks.

    Those of lists that wait for approval are among them, unless they are back; with a complete listing, `keys` has those of
    the `approved` list. `told` were told, or are left out, but not noted. With `free`, the guard has no say about those of
    whom the source itself says that they are gone.
    """
    values = {**vars(known.scope), "id": known.memory.id, "approved": approved, "free": free, "complete": complete}
    values |= {"keys": texts(told), "how": texts(told.values())}
    tx.execute(_SQL["create"])
    if told:
        tx.execute(_SQL["collect_told_now"], values)
    if known.memory.id:
        tx.execute(_SQL["collect_told"], values)
    if keys is None:
        tx.execute(_SQL["collect_lacking"].format(lacking=_SQL["lacking"]), _lack(known, met, known.sweep))
    else:
        tx.execute(_SQL["collect"], (texts(keys),))
    if known.memory.id:
        tx.execute(_SQL["collect_kept"].format(row="COALESCE(s.row_key, s.key)" if known.respelt else "s.key"), values)
    if known.respelt:
        tx.execute(_SQL["rows"], (known.memory.id,))
    tx.execute(sql.SQL("ANALYZE {}").format(CANDIDATES))


def with_rows(tx: Connection, merge: Merge) -> tuple[int, int]:
    """Put into guard.GONE those candidates that have a row which is not marked yet; how many, and how many of them are free."""
    there = sql.SQL("WHERE t.{} IS NULL").format(sql.Identifier(merge.marks[0])) if merge.marks else sql.SQL("")
    tx.execute(
        sql.SQL(
            "CREATE TEMP TABLE usersync_gone ON COMMIT DROP AS"
            " SELECT COALESCE(c.row, c.key) AS key, bool_or(c.free) AS free, max(c.at) AS at, {}"
            " FROM {} AS c JOIN {} AS t ON {} = COALESCE(c.row, c.key) {} GROUP BY 1, {}"
        ).format(
            guard.own_columns(merge, "t"),
            CANDIDATES,
            merge.table,
            key_text(merge.key),
            there,
            listed(sql.SQL("t.{}").format(identifier(name)) for name in merge.key),
        )
    )
    tx.execute(sql.SQL("ANALYZE {}").format(GONE))
    ((number, free),) = tx.execute(sql.SQL("SELECT count(*), count(*) FILTER (WHERE free) FROM {}").format(GONE)).fetchall()
    return int(number), int(free)


def told_rows(tx: Connection, known: Known, spelling: Spelling, merge: Merge, keys: Sequence[str], *, free: bool) -> list[ToldRow]:  # noqa: PLR0913  what it is about
    """The rows of these records, which the source reports as deleted, that are to be marked, or were marked with another time.

    Without `free`, only those that are marked. Rows are found by an index. In a transaction.
    """
    assert merge.marks  # noqa: S101  rows that are deleted wait for the end of the reading
    query = sql.SQL(_SQL["told_rows"]).format(
        row=key_text(merge.key),
        typed=spelling.typed,
        stream=sql.Literal(known.memory.id),
        table=merge.table,
        same=merge.same("t", "k"),
        mark=identifier(merge.marks[0]),
        at=sql.SQL(merge.marks[1]),
        free=sql.Literal(free),
    )
    return [ToldRow(*row) for row in spelling.ask(tx, query, keys)]


def let_go(tx: Connection, merge: Merge, spelling: Spelling, rows: Sequence[ToldRow]) -> None:
    """Put these rows into guard.GONE: they go, whatever the guard says."""
    statement = sql.SQL(_SQL["let_go"]).format(own=guard.own_columns(merge, "k"), typed=spelling.typed)
    keys = [one.row for one in rows]
    tx.execute(statement, [*spelling.columns(keys), texts(keys), texts(one.at for one in rows)])


def went(tx: Connection, known: Known, keys: Sequence[str]) -> None:
    """Remember, after their rows went, that these are gone: the source said so."""
    tx.execute(_SQL["went"], (known.memory.id, texts(keys)))


def gone(tx: Connection, known: Known, goes: sql.Composable) -> list[Gone]:
    """The candidates that are gone, before they are forgotten: those whose rows go, or that have none, and that are not just left out."""
    statement = sql.SQL(_SQL["gone"]).format(still=sql.SQL(_SQL["still"]).format(goes=goes))
    return [Gone(key, as_of=at) for key, at in tx.execute(statement, (known.memory.id,)).fetchall()]


def forget(tx: Connection, known: Known, goes: sql.Composable, *, complete: bool) -> None:
    """After the rows of GONE that go went: the candidates that have none any more. Those that stay are remembered as such."""
    values = {"stream": known.memory.id, "long": BURIED}
    if complete:  # whoever it does not have need not be remembered as removed for ever
        tx.execute(_SQL["purge"], values)
    still = sql.SQL(_SQL["still"]).format(goes=goes)
    for name in ("forget_lacking", "forget_told", "keep"):
        tx.execute(sql.SQL(_SQL[name]).format(still=still), values)


def missed(tx: Connection, known: Known, keys: Collection[str]) -> None:
    """Remember that a complete listing lacked these for the first time, where once is not enough."""
    tx.execute(_SQL["missed"], (known.memory.id, texts(keys)))


def without_key(tx: Connection, known: Known) -> bool:
    """Whether the sweep met records without a key, which may be any of those that it lacks."""
    return known.sweep is not None and bool(scalar(tx, _SQL["without_key"], (known.sweep.id,)))


def _lack(known: Known, met: Collection[str], sweep: OpenSweep | None) -> dict[str, Any]:
    return {"stream_id": known.memory.id, "sweep": sweep.id if sweep else 0, "met": texts(met), "after": ""}
