"""Staging: what a source gave, as tables of the target's transaction. They end with it.

A stage is a temp table. Parallel workers can't see those, so a big one is an unlogged table in the schema `usersync`,
made and dropped in the same transaction: nobody else ever sees it, and comparing a million rows takes two thirds of the
time on two cores (docs/decisions/0005).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg import sql

from usersync_cli.connections import Connection, identifier
from usersync_cli.errors import ConfigError, Drift
from usersync_cli.model import Column, Copy, Desired

BIG = 50_000  # rows; below, making an unlogged table costs more than its workers save

# What format_type() prints for built-in types; it becomes part of a statement and comes from another server.
_TYPE = re.compile(r'[a-z0-9_ "(),\[\]-]+')


@dataclass(frozen=True)
class Stage:
    """One staged extract: what transforms call it, and the table it is."""

    name: str
    table: sql.Composed
    temporary: bool


def create(tx: Connection, name: str, columns: Sequence[Column], *, rows: int = 0) -> Stage:
    """An empty stage; `rows` is about how many will come.

    Raises ConfigError for a name that would hide a table of PostgreSQL's own.
    """
    if tx.execute("SELECT 1 FROM pg_catalog.pg_class WHERE relname = %s AND relnamespace = 'pg_catalog'::regnamespace", (name,)).fetchone():
        raise ConfigError(f"extract {name}: that is the name of a table of PostgreSQL itself", hint="choose another name for the extract")
    if not columns:
        raise Drift(f"extract {name} has no columns")
    definitions = sql.SQL(", ").join(sql.SQL("{} {}").format(identifier(column.name), type_sql(column.type)) for column in columns)
    if rows >= BIG and _may_create(tx):
        unlogged = sql.SQL("usersync.{}").format(identifier(f"stage_{tx.info.backend_pid}_{name}"[:63]))
        tx.execute(sql.SQL("CREATE UNLOGGED TABLE {} ({})").format(unlogged, definitions))
        return Stage(name, unlogged, temporary=False)
    tx.execute(sql.SQL("CREATE TEMP TABLE {} ({}) ON COMMIT DROP").format(table(name), definitions))
    return Stage(name, table(name), temporary=True)


def _may_create(tx: Connection) -> bool:
    query = "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_catalog.pg_namespace WHERE nspname = 'usersync'"
    return tx.execute(query).fetchone() == (True,)


def table(name: str) -> sql.Composed:
    """The temp table of this extract; transforms call it by its bare name."""
    return sql.SQL("pg_temp.{}").format(identifier(name))


def desired(transform: str | None, stages: Sequence[Stage], rows: int) -> Desired:
    """What the target should hold: the user's SELECT over the stages, or the one stage as it is.

    Where a stage is not a temp table, its name in the transform is a WITH query.
    """
    if transform is None:
        return Desired(sql.SQL("SELECT * FROM {}").format(stages[0].table), rows)
    text = sql.SQL("\n{}\n").format(sql.SQL(transform.rstrip().rstrip(";")))
    named = [
        sql.SQL("{} AS NOT MATERIALIZED (SELECT * FROM {})").format(identifier(stage.name), stage.table)
        for stage in stages
        if not stage.temporary
    ]
    if not named:
        return Desired(text, rows)
    before = sql.SQL("WITH {} SELECT * FROM (").format(sql.SQL(", ").join(named))
    return Desired(before + text + sql.SQL(") AS transform"), rows, before)


def key_of(parts: Sequence[str]) -> str:
    """The key of a record that has several parts, as `merge.key_text` writes that of a row: like a record of PostgreSQL."""
    shown = []
    for part in parts:
        escaped = part.replace("\\", "\\\\").replace('"', '""')
        shown.append(f'"{escaped}"' if not part or re.search(r'[\s"\\(),]', part, re.ASCII) else part)
    return f"({','.join(shown)})"


def drop(tx: Connection, stages: Sequence[Stage]) -> None:
    """Temp tables go with the transaction; the others must not outlive it."""
    for stage in stages:
        if not stage.temporary:
            tx.execute(sql.SQL("DROP TABLE {}").format(stage.table))


def type_sql(type_: str) -> sql.SQL:
    """A type's name as SQL, if it looks like one."""
    if not _TYPE.fullmatch(type_):
        raise Drift(f"the source calls a type {type_[:40]!r}, which is not the name of a type")
    return sql.SQL(type_)


def copy(tx: Connection, into: sql.Composable, content: Copy, moved: Callable[[int], None], *, freeze: bool = False) -> int:
    """Pass the blocks on, as they come; returns the number of rows. `moved` hears of each block's bytes and may raise."""
    names = sql.SQL(", ").join(identifier(column.name) for column in content.columns)
    options = sql.SQL("FORMAT BINARY, FREEZE" if freeze else "FORMAT BINARY")
    cursor = tx.cursor()
    with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN ({})").format(into, names, options)) as sink:
        for block in content.blocks:
            moved(len(block))
            sink.write(block)
    return cursor.rowcount
