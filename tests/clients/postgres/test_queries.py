"""A person's SQL is parsed by PostgreSQL alone, and its mistakes are said in places of the person's own text."""

from __future__ import annotations

import psycopg
import pytest

from usersync_cli.clients.postgres.queries import WRONG, bare, parse, place, wrong


def mistake(connection: psycopg.Connection, text: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        parse(connection, text)  # type: ignore[arg-type]
    return caught.value


def test_the_columns_of_a_statement_that_is_not_executed(connection: psycopg.Connection) -> None:
    """
    PostgreSQL says which columns a statement would give, without executing it.
    """
    assert ["a", "é"] == parse(connection, 'SELECT 1 / 0 AS a, 2 AS "é"')  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("SELECT 1;\nDROP TABLE t", "", "several statements, where one SELECT is expected"),
        ("SELECT 1,\n  2 FORM t", " (line 2, column 10)", 'syntax error at or near "t"'),
        ("SELECT a", " (line 1, column 8)", 'column "a" does not exist'),
    ],
)
def test_mistakes_of_the_text(connection: psycopg.Connection, text: str, where: str, what: str) -> None:
    """
    Where PostgreSQL points to, and what it says. Of several statements it points to none.
    """
    error = mistake(connection, text)

    assert (where, what) == (place(text, error), wrong(error))


def test_a_place_does_not_count_what_is_ours(connection: psycopg.Connection) -> None:
    """
    A text that has a line of ours before it is counted from its own beginning.
    """
    ours, text = "SELECT * FROM (\n", "SELECT 1\n FROM FROM"
    error = mistake(connection, ours + text + "\n) AS q")

    assert " (line 2, column 7)" == place(text, error, len(ours))
    assert error.sqlstate in WRONG


@pytest.mark.parametrize(("text", "expected"), [("SELECT 1", "SELECT 1"), ("SELECT 1 ;; \n", "SELECT 1 "), ("SELECT ';'", "SELECT ';'")])
def test_a_semicolon_at_the_end_is_taken_off(text: str, expected: str) -> None:
    """
    Inside a statement of ours it would end that.
    """
    assert expected == bare(text)
