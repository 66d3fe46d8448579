"""Staging: what a source gave, as temp tables of the target's transaction. They end with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from psycopg import sql

from usersync_cli.connections import Connection, identifier
from usersync_cli.errors import ConfigError, Drift
from usersync_cli.model import Column, Copy

# What format_type() prints for built-in types; it becomes part of a statement and comes from another server.
_TYPE = re.compile(r'[a-z0-9_ "(),\[\]-]+')


def table(name: str) -> sql.Composed:
    """The staged table of this extract; transforms call it by its bare name."""
    return sql.SQL("pg_temp.{}").format(identifier(name))


def create(tx: Connection, name: str, columns: Sequence[Column]) -> None:
    """An empty stage. Raises ConfigError for a name that would hide a table of PostgreSQL's own."""
    if tx.execute("SELECT 1 FROM pg_catalog.pg_class WHERE relname = %s AND relnamespace = 'pg_catalog'::regnamespace", (name,)).fetchone():
        raise ConfigError(f"extract {name}: that is the name of a table of PostgreSQL itself", hint="choose another name for the extract")
    if not columns:
        raise Drift(f"extract {name} has no columns")
    definitions = sql.SQL(", ").join(sql.SQL("{} {}").format(identifier(column.name), type_sql(column.type)) for column in columns)
    tx.execute(sql.SQL("CREATE TEMP TABLE {} ({}) ON COMMIT DROP").format(table(name), definitions))


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
