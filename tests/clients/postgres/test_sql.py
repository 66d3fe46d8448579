"""SQL in pieces: names that stay names, conditions that keep together, and statements in files of their own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import usersync_cli
from usersync_cli.clients.postgres.sql import and_, identifier, listed, or_, relation, scalar, statements, type_name
from usersync_cli.errors import ConfigError
from usersync_cli.sources.workos.streams import STREAMS

PACKAGE = Path(usersync_cli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.sql"))


def module_of(file: Path) -> str:
    """The module that a .sql file is beside."""
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.mark.parametrize("name", ["", "a\0b", "ü" * 32])
def test_names_that_would_be_cut_are_refused(name: str) -> None:
    """
    1 to 63 bytes without NUL; PostgreSQL and psycopg cut others without a word.
    """
    with pytest.raises(ConfigError, match="1 to 63 bytes"):
        identifier(name)


def test_names_are_quoted() -> None:
    """
    Whatever a name holds, it stays a name.
    """
    assert '"a""; DROP TABLE t; --"' == identifier('a"; DROP TABLE t; --').as_string()
    assert '"app"."users"' == relation("app.users").as_string()


# (as format_type writes it, as it means the same under every path)
TYPES = [
    ("integer", "integer"),
    ("timestamp(3) with time zone", "timestamp(3) with time zone"),
    ("bit", "bit"),
    ('"bit"', 'pg_catalog."bit"'),
    ("bpchar", "pg_catalog.bpchar"),
    ("text[]", "pg_catalog.text[]"),
    ("public.citext", "public.citext"),
    ('"Own"."a type"', '"Own"."a type"'),
    ("time.of_day", "time.of_day"),
]


@pytest.mark.parametrize(("type_", "expected"), TYPES)
def test_types_mean_the_same_under_every_path(type_: str, expected: str) -> None:
    """
    A type of PostgreSQL's is looked for in its own schema, except where its name is a word of the grammar.
    """
    assert expected == type_name(type_)


def test_conditions_keep_together() -> None:
    """
    "Any of these" stays one condition inside "all of these".
    """
    a, b, c = (sql.SQL(name) for name in ("a", "b", "c"))

    assert "a, b" == listed([a, b]).as_string()
    assert "a AND (b OR c)" == and_([a, or_([b, c])]).as_string()


def test_the_value_of_a_query(connection: psycopg.Connection) -> None:
    """
    One column of one row gives its value, no row gives None, and more than one column is a mistake.
    """
    assert 3 == scalar(connection, "SELECT %s + 1", (2,))
    assert None is scalar(connection, "SELECT 1 WHERE false")
    with pytest.raises(ValueError, match="unpack"):
        scalar(connection, "SELECT 1, 2")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_statements_are_those_that_the_module_names(file: Path) -> None:
    """
    A module asks only for statements that the .sql file beside it has, and names each of them, or asks for one of each stream.
    """
    code = ast.parse(file.with_suffix(".py").read_text())
    subscripts = [node for node in ast.walk(code) if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "_SQL"]
    asked = {node.slice.value for node in subscripts if isinstance(node.slice, ast.Constant)}
    named = {word for node in ast.walk(code) if isinstance(node, ast.Constant) for word in re.findall(r"\w+", str(node.value))}
    there = set(statements(module_of(file)))

    assert set() == asked - there
    assert set() == there - named - {*STREAMS} or any(
        isinstance(node, ast.Attribute) and ast.unparse(node) == "_SQL.values" for node in ast.walk(code)
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_comments_stay_in_the_file(file: Path) -> None:
    """
    Nothing of a comment is sent, where psycopg would look for placeholders; each name is there once.
    """
    texts = statements(module_of(file))

    assert [] == [name for name, text in texts.items() if "--" in text or not text]
    assert len(texts) == len(re.findall(r"^-- name: ", file.read_text(), re.MULTILINE))


def long_texts(file: Path) -> list[int]:
    """The lines at which a text of more than 40 lines begins that is no docstring."""
    code = ast.parse(file.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    told = {id(node.body[0].value) for node in ast.walk(code) if isinstance(node, documented) and isinstance(node.body[0], ast.Expr)}
    texts = [node for node in ast.walk(code) if isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)]
    return [node.lineno for node in texts if id(node) not in told and (node.end_lineno or 0) - node.lineno >= 40]


def test_long_sql_is_in_files_of_its_own() -> None:
    """
    No module holds a text longer than a screen; the one that does holds a config file.
    """
    modules = {file.relative_to(PACKAGE).as_posix(): long_texts(file) for file in PACKAGE.rglob("*.py")}

    assert ["config/template.py"] == [module for module, lines in modules.items() if lines]
