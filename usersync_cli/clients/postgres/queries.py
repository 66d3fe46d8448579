"""A person's SQL, parsed by PostgreSQL alone: nothing of it is executed, and it stands in no statement of ours yet."""

from __future__ import annotations

import psycopg
from psycopg import generators
from psycopg.pq.abc import PGresult

from usersync_cli.clients.postgres.connections import Connection

# The syntax, parameters ($1), what no view may hold (INTO, data-modifying WITH), columns of no type of their own.
WRONG = ("42601", "42P02", "0A000", "42P16")


def bare(transform: str) -> str:
    """Without the semicolon at its end."""
    return transform.rstrip().rstrip(";")


def parse(tx: Connection, statement: str) -> list[str]:
    """The columns that a statement would give. PostgreSQL refuses several statements here, and executes nothing.

    Raises what PostgreSQL says.
    """
    tx.pgconn.send_prepare(b"", statement.encode())
    _result(tx)
    tx.pgconn.send_describe_prepared(b"")
    found = _result(tx)
    return [str(found.fname(i) or b"", "utf8") for i in range(found.nfields)]


def _result(tx: Connection) -> PGresult:
    found: PGresult = tx.wait(generators.execute(tx.pgconn))[-1]
    if found.status != psycopg.pq.ExecStatus.COMMAND_OK:
        raise psycopg.errors.error_from_result(found, encoding="utf8")
    return found


def place(text: str, error: psycopg.Error, before: int = 0) -> str:
    """Where PostgreSQL points to, in a text that has so many characters of ours before it: ` (line 2, column 8)`."""
    if not error.diag.statement_position:
        return ""
    until = text[: max(0, int(error.diag.statement_position) - 1 - before)]
    return f" (line {until.count(chr(10)) + 1}, column {len(until) - until.rfind(chr(10))})"


def wrong(error: psycopg.Error) -> str:
    """What is wrong with a statement, which is a person's own text. Of several at once PostgreSQL says where no mistake is."""
    if error.sqlstate == "42601" and not error.diag.statement_position:
        return "several statements, where one SELECT is expected"
    return error.diag.message_primary or "it cannot be parsed"
