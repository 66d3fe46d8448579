"""A key of several parts is the text that PostgreSQL itself makes of a row."""

from __future__ import annotations

import psycopg
import pytest

from usersync_cli.clients.postgres.rows import key_of


@pytest.mark.parametrize(
    "parts",
    [["a", "b"], ["", "b"], ["a b", "c"], ['say "x"', "\\"], ["(a)", "b,c"], ["\u00a0", "\u2003é"], ["\ta", "b\n"], ["NULL", "null"]],
)
def test_a_key_is_written_as_postgres_writes_a_row(connection: psycopg.Connection, parts: list[str]) -> None:
    """
    Keys that a source writes are compared with those that SQL makes of rows.
    """
    assert connection.execute("SELECT ROW(%s::text, %s::text)::text", parts).fetchone() == (key_of(parts),)
