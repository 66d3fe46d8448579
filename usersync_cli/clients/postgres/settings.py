"""What each of our transactions sets, so that no server, database, role or pooler decides what our SQL means.

Whoever may create something in a schema of the search path could give `=`, `count` or a type another meaning there, and have
it run as us. So each statement of ours runs with nothing but PostgreSQL's own schema in the path (SAFE), also one in autocommit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import psycopg
from psycopg import pq, sql

TRANSACTION_TIMEOUT = 170000  # the first version that has it

SAFE = "pg_catalog, pg_temp"
# What values look like as text, and what SQL means, must not depend on what a server, a database or a role is set to.
MEANING = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmloption": "content",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
}
SMALL = {**MEANING, "statement_timeout": "30s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "5min"}
LONG = {**SMALL, "statement_timeout": "0", "client_connection_check_interval": "10s"}


def settings_of(connection: psycopg.Connection[Any], *, long: bool = False) -> dict[str, str]:
    """What each transaction of this connection sets."""
    newer = {"transaction_timeout": "0"} if connection.info.server_version >= TRANSACTION_TIMEOUT else {}
    return {**(LONG if long else SMALL), **newer}


def beginning(connection: psycopg.Connection[Any], *, long: bool = False, snapshot: bool = False, **settings: str) -> Sequence[bytes]:
    """BEGIN and a SET LOCAL for each setting: statements for one message. `snapshot` is REPEATABLE READ READ ONLY."""
    return _statements({**settings_of(connection, long=long), **settings}.items(), snapshot=snapshot)


def beginning_in_two(connection: psycopg.Connection[Any]) -> tuple[bytes, bytes]:
    """BEGIN and one SELECT that does what the statements of `beginning` do, for where each statement is a message.

    Nothing in it depends on the search path that it runs with. It takes a snapshot, so it does not do for REPEATABLE READ.
    """
    return _READ_COMMITTED, _select({"search_path": SAFE, **settings_of(connection)}.items())


_READ_COMMITTED = b"BEGIN ISOLATION LEVEL READ COMMITTED"
_SNAPSHOT = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def _statements(values: Iterable[tuple[str, str]], *, snapshot: bool) -> Sequence[bytes]:
    return [_SNAPSHOT if snapshot else _READ_COMMITTED, f"SET LOCAL search_path TO {SAFE}".encode(), *(_set(*value) for value in values)]


@cache
def _set(name: str, value: str) -> bytes:
    return f"SET LOCAL {name} TO {sql.Literal(value).as_string(None)}".encode()


def _select(values: Iterable[tuple[str, str]]) -> bytes:
    return b"SELECT " + b", ".join(_set_config(*value) for value in values)


@cache
def _set_config(name: str, value: str) -> bytes:
    return sql.SQL("pg_catalog.set_config({}, {}, true)").format(name, value).as_bytes(None)


def idle(connection: psycopg.Connection[Any]) -> bool:
    """Whether no transaction is open."""
    return not connection.closed and connection.info.transaction_status == pq.TransactionStatus.IDLE
