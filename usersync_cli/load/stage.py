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

from usersync_cli.clients.postgres import queries
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, listed
from usersync_cli.errors import ConfigError, Drift
from usersync_cli.model import Column, Copy

BIG = 50_000  # rows; below, making an unlogged table costs more than its workers save

# Names of columns that our own SQL uses beside a person's; what Keycloak calls the id of ours is not one of them.
OURS = re.compile(r"usersync_(?!id$).*", re.DOTALL)

# What format_type() prints for built-in types; it becomes part of a statement and comes from another server.
_TYPE = re.compile(r'[a-z0-9_ "(),\[\]-]+')


@dataclass(frozen=True)
class Stage:
    """One staged extract: what transforms call it, and the table it is."""

    name: str
    table: sql.Composed
    temporary: bool
    columns: Sequence[Column] = ()  # where some of them are staged as another type than the transform sees

    @property
    def named(self) -> bool:
        """Whether its table is just what transforms call it; otherwise that is a view of it."""
        return self.temporary and not self.columns

    @property
    def as_seen(self) -> sql.Composed:
        """The SELECT that the transform sees."""
        seen = [sql.SQL("{0}::{1} AS {0}" if one.wire else "{0}").format(identifier(one.name), type_sql(one.type)) for one in self.columns]
        return sql.SQL("SELECT {} FROM {}").format(listed(seen) if seen else sql.SQL("*"), self.table)


def create(tx: Connection, name: str, columns: Sequence[Column], *, rows: int = 0) -> Stage:
    """An empty stage; `rows` is about how many will come.

    Raises ConfigError for a name that would hide a table of PostgreSQL's own.
    """
    if tx.execute("SELECT 1 FROM pg_catalog.pg_class WHERE relname = %s AND relnamespace = 'pg_catalog'::regnamespace", (name,)).fetchone():
        raise ConfigError(f"extract {name}: that is the name of a table of PostgreSQL itself", hint="choose another name for the extract")
    if not columns:
        raise Drift(f"extract {name} has no columns")
    for column in columns:
        if OURS.fullmatch(column.name):
            raise Drift(f"extract {name}: {used_by_us(column.name)}", hint="name it otherwise with AS, in a query")
    definitions = listed(sql.SQL("{} {}").format(identifier(column.name), type_sql(column.wire or column.type)) for column in columns)
    seen = tuple(columns) if any(column.wire for column in columns) else ()
    if rows >= BIG and _may_create(tx):
        unlogged = sql.SQL("usersync.{}").format(identifier(f"stage_{tx.info.backend_pid}_{name}"[:63]))
        tx.execute(sql.SQL("CREATE UNLOGGED TABLE {} ({})").format(unlogged, definitions))
        return Stage(name, unlogged, temporary=False, columns=seen)
    temporary = table(f"usersync_stage_{name}"[:63] if seen else name)
    tx.execute(sql.SQL("CREATE TEMP TABLE {} ({}) ON COMMIT DROP").format(temporary, definitions))
    return Stage(name, temporary, temporary=True, columns=seen)


def _may_create(tx: Connection) -> bool:
    query = "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_catalog.pg_namespace WHERE nspname = 'usersync'"
    return tx.execute(query).fetchone() == (True,)


def used_by_us(column: str) -> str:
    """The complaint about a column whose name is one of OURS."""
    return f"column {column} has a name that usersync uses itself"


def table(name: str) -> sql.Composed:
    """The temp table of this extract; transforms call it by its bare name."""
    return sql.SQL("pg_temp.{}").format(identifier(name))


def over(transform: str | None, parts: Sequence[Stage]) -> sql.Composed:
    """A transform that was bound before (`binding`), over other rows: its text, with what is not a temp table as a WITH query."""
    if transform is None:
        return parts[0].as_seen
    text = sql.SQL("\n{}\n").format(sql.SQL(queries.bare(transform)))
    query = sql.SQL("{} AS NOT MATERIALIZED ({})")
    named = [query.format(identifier(part.name), part.as_seen) for part in parts if not part.temporary]
    if not named:
        return text
    return sql.SQL("WITH {} SELECT * FROM ({}) AS transform").format(listed(named), text)


def relname(tx: Connection, stage: Stage) -> str:
    """The name of its table in the catalog."""
    query = "SELECT relname FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass(%s)"
    (name,) = tx.execute(query, (stage.table.as_string(tx),)).fetchone() or ("",)
    return str(name)


def drop(tx: Connection, stages: Sequence[Stage]) -> None:
    """Drop the stages that are not temp tables: nothing else ends them."""
    for stage in stages:
        if not stage.temporary:
            tx.execute(sql.SQL("DROP TABLE {} CASCADE").format(stage.table))  # and the views of them


def type_sql(type_: str) -> sql.SQL:
    """A type's name as SQL, if it looks like one."""
    if not _TYPE.fullmatch(type_):
        raise Drift(f"the source calls a type {type_[:40]!r}, which is not the name of a type")
    return sql.SQL(type_)


def copy(tx: Connection, into: sql.Composable, content: Copy, moved: Callable[[int], None], *, freeze: bool = False) -> int:
    """Pass the blocks on as they come; returns the number of rows. `moved` gets the size of each block in bytes, and may raise."""
    names = listed(identifier(column.name) for column in content.columns)
    options = sql.SQL(f"FORMAT {content.format}{', FREEZE' if freeze else ''}")
    cursor = tx.cursor()
    with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN ({})").format(into, names, options)) as sink:
        for block in content.blocks:
            moved(len(block))
            sink.write(block)
    return cursor.rowcount
