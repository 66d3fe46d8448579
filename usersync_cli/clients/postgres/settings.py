"""What each of our transactions sets, so that no server, database, role or pooler decides what our SQL means.

Whoever may create something in a schema of the search path could give `=`, `count` or a type another meaning there, and have
it run as us. So each statement of ours runs with nothing but PostgreSQL's own schema in the path (SAFE), also one in autocommit.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import pq, sql

TRANSACTION_TIMEOUT = 170000  # the first version that has it

SAFE = "pg_catalog, pg_temp"
# What values look like as text, and what SQL means, must not depend on what a server, a database or a role is set to.
_MEANING = {
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
SMALL = {**_MEANING, "statement_timeout": "30s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "5min"}
LONG = {**SMALL, "statement_timeout": "0", "client_connection_check_interval": "10s"}


def settings_of(connection: psycopg.Connection[Any], *, long: bool = False) -> dict[str, str]:
    """What each transaction of this connection sets."""
    newer = {"transaction_timeout": "0"} if connection.info.server_version >= TRANSACTION_TIMEOUT else {}
    return {**(LONG if long else SMALL), **newer}


def beginning(connection: psycopg.Connection[Any], *, long: bool = False, snapshot: bool = False, **settings: str) -> bytes:
    """BEGIN and the settings, as one message of the simple protocol. `snapshot` is REPEATABLE READ READ ONLY."""
    how = "BEGIN ISOLATION LEVEL " + ("REPEATABLE READ READ ONLY" if snapshot else "READ COMMITTED")
    every = {**settings_of(connection, long=long), **settings}
    values = [f"SET LOCAL {name} TO {sql.Literal(value).as_string(connection)}" for name, value in every.items()]
    return "; ".join([how, f"SET LOCAL search_path TO {SAFE}", *values]).encode()


def idle(connection: psycopg.Connection[Any]) -> bool:
    """Whether no transaction is open."""
    return not connection.closed and connection.info.transaction_status == pq.TransactionStatus.IDLE
