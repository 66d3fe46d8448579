"""SQL in pieces: quoted names, lists and conditions, the one value of a query, and statements that are kept in .sql files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, LiteralString, TypeAlias, cast

import psycopg
from psycopg import sql
from psycopg.abc import Params
from psycopg.rows import TupleRow

from usersync_cli.errors import ConfigError

MAX_NAME_BYTES = 63

Statement: TypeAlias = LiteralString | bytes | sql.SQL | sql.Composed  # what psycopg executes


def identifier(name: str) -> sql.Identifier:
    """A quoted name. PostgreSQL cuts longer names and psycopg stops at a NUL, both without a word: refused here."""
    if not name or "\0" in name or len(name.encode()) > MAX_NAME_BYTES:
        raise ConfigError("a name has to be 1 to 63 bytes long, without NUL", hint=f"shorten the one that begins with {name[:20]!r}")
    return sql.Identifier(name)


def relation(name: str) -> sql.Composed:
    """A quoted table name, `table` or `schema.table`."""
    return sql.SQL(".").join(identifier(part) for part in name.split(".", 1))


# Types whose names are words of SQL's grammar. Every other name is looked for along the path.
_WORDS = re.compile(r"(bigint|bit|boolean|character|double precision|integer|interval|numeric|real|smallint|time|timestamp)\b(?! *\.)")
_QUALIFIED = re.compile(r'("(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)\.')


def type_name(type_: str) -> str:
    """A type's name as `format_type` writes it under our path, so that it means the same under every path."""
    return type_ if _WORDS.match(type_) or _QUALIFIED.match(type_) else f"pg_catalog.{type_}"


def listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    """The parts with commas between them."""
    return sql.SQL(", ").join(parts)


def and_(parts: Iterable[sql.Composable]) -> sql.Composed:
    """All of these conditions. AND binds closer than OR, so it needs no brackets where it is one side of that."""
    return sql.SQL(" AND ").join(parts)


def or_(parts: Iterable[sql.Composable]) -> sql.Composed:
    """Any of these conditions, in brackets."""
    return sql.SQL("({})").format(sql.SQL(" OR ").join(parts))


def scalar(connection: psycopg.Connection[TupleRow], query: Statement, parameters: Params | None = None) -> Any:
    """The value of a query that gives one column of at most one row; None where there is no row."""
    row = connection.execute(query, parameters or None).fetchone()
    if row is None:
        return None
    (value,) = row
    return value


@cache
def statements(module: str) -> Mapping[str, LiteralString]:
    """The statements in the .sql file beside a module (its `__name__`), by name.

    A line `-- name: locate` begins the statement `locate`. Lines that are comments are not part of it, so they may say anything:
    psycopg would look for placeholders in them. The text is a program's own, as safe to execute as a literal.
    """
    package, _, name = module.rpartition(".")
    text = (resources.files(package) / f"{name}.sql").read_text(encoding="utf-8")
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    found = {name: re.sub(r"^ *--.*\n", "", body, flags=re.MULTILINE).strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}
    return MappingProxyType(cast(dict[str, LiteralString], found))
