"""Refuses two steps that write one table where one of them removes rows: each would remove the other's people in every run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from usersync_cli.clients.postgres.catalog import locate
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.transactions import schemas
from usersync_cli.errors import ConfigError


@dataclass(frozen=True)
class Writer:
    """A step of the config file, of any job, and where it writes: tables of the target, or a place outside it."""

    job: str
    step: str
    tables: Sequence[str]
    place: str  # "" for tables
    removes: bool

    def __str__(self) -> str:
        return f"step {self.step} of job {self.job}"


def refuse(tx: Connection, job: str, step: str, writers: Sequence[Writer]) -> None:
    """Raise ConfigError when another of the writers writes where this step does, and either removes what its source lacks."""
    mine = next((one for one in writers if (one.job, one.step) == (job, step)), None)
    others = [one for one in writers if mine and one is not mine and (mine.removes or one.removes)]
    if mine is None or not others:
        return
    for other, where in _shared(tx, mine, others):
        remover = mine if mine.removes else other
        raise ConfigError(
            f"{mine} and {other} both write {where}, and {remover} removes whom its own source lacks: the other's people too",
            hint="let one step write it (several extracts and a UNION ALL), give each its own, or say `on_missing: keep` in both",
        )


def _shared(tx: Connection, mine: Writer, others: Sequence[Writer]) -> Iterator[tuple[Writer, str]]:
    yield from ((other, mine.place) for other in others if mine.place and other.place == mine.place)
    for table in mine.tables:
        here = _identities(tx, table)
        for other in others:
            # Most have another name and are not a partition, so PostgreSQL need not be asked.
            near = [name for name in other.tables if len(here) > 1 or name.rpartition(".")[2] == table.rpartition(".")[2]]
            if any(_identity(tx, name) in here for name in near):
                yield other, f"table {table}"


def _identity(tx: Connection, table: str) -> str:
    """A name that all names of one table share, also before the table is made."""
    if (oid := locate(tx, table)) is not None:
        return str(oid)
    return table if "." in table else f"{next(iter(schemas(tx)), '')}.{table}"


def _identities(tx: Connection, table: str) -> set[str]:
    """The oids of the table, of those that it is a partition of, and of its own partitions: a row written to one is in the others."""
    if (oid := locate(tx, table)) is None:
        return {_identity(tx, table)}
    return {str(found) for (found,) in tx.execute(_FAMILY, {"oid": oid}).fetchall()}


_FAMILY = """
WITH RECURSIVE up (oid) AS (
    SELECT %(oid)s::oid UNION SELECT i.inhparent FROM pg_catalog.pg_inherits AS i JOIN up ON i.inhrelid = up.oid
), down (oid) AS (
    SELECT %(oid)s::oid UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN down ON i.inhparent = down.oid
)
SELECT oid FROM up UNION SELECT oid FROM down
"""
