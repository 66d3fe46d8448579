"""`usersync schema`: names, files, and a migration that really runs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from tests.conftest import Command
from usersync_cli.model import Database

COLUMNS = [
    ("id", "uuid", "NO", None),
    ("username", "text", "YES", None),
    ("email", "text", "YES", None),
    ("asyncto_id", "text", "YES", None),
    ("display_name", "text", "YES", None),
    ("community", "text", "YES", None),
    ("phone", "text", "YES", None),
    ("about", "text", "YES", None),
    ("profile_picture", "text", "YES", None),
    ("inserted_at", "timestamp with time zone", "NO", "now()"),
    ("updated_at", "timestamp with time zone", "NO", "now()"),
]
ENV = """
from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
"""


@pytest.fixture
def connection(database: Database) -> Iterator[sa.Connection]:
    """SQLAlchemy's connection to an empty database."""
    engine = sa.create_engine(database.url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def alembic(folder: Path, connection: sa.Connection) -> Config:
    """An application's Alembic, whose migrations are where `usersync schema` puts them."""
    (folder / "migrations" / "env.py").write_text(ENV)
    config = Config()
    config.set_main_option("script_location", str(folder / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=folder, check=False, capture_output=True, text=True)


def columns(connection: sa.Connection, schema: str, table: str) -> list[tuple[str | None, ...]]:
    said = connection.execute(
        sa.text(
            "SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns "
            "WHERE table_schema = :schema AND table_name = :table ORDER BY ordinal_position"
        ),
        {"schema": schema, "table": table},
    )
    return [tuple(row) for row in said]


@pytest.mark.parametrize(
    ("arguments", "schema", "table", "model"),
    [([], "public", "users", "user.py"), (["Accounts.UserAccount", "app.people"], "app", "people", "accounts/user_account.py")],
)
def test_migration_and_model_agree(
    usersync: Command, connection: sa.Connection, arguments: list[str], schema: str, table: str, model: str
) -> None:
    """
    The migration makes the table of the design, the model fits it without a difference, and going back removes it.
    """
    connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS app"))
    connection.commit()
    result = usersync("schema", *arguments)
    config = alembic(usersync.folder, connection)
    command.upgrade(config, "head")
    metadata = imported(usersync.folder / model).Base.metadata
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True, "include_schemas": True, "include_name": _ours}
    )

    assert (0, "") == (result.status, result.stderr)
    assert COLUMNS == columns(connection, schema, table)
    assert ["id"] == sa.inspect(connection).get_pk_constraint(table, schema)["constrained_columns"]
    assert [] == compare_metadata(context, metadata)
    connection.rollback()
    command.downgrade(config, "base")
    assert [] == columns(connection, schema, table)


def _ours(name: str | None, type_: str, _parents: object) -> bool:
    return (type_ == "schema" and name in (None, "app")) or (type_ == "table" and name != "alembic_version") or type_ == "column"


def test_files_please_other_tools(usersync: Command) -> None:
    """
    What is written passes ruff's default rules and mypy --strict.
    """
    usersync("schema")
    usersync("schema", "Accounts.User", "app.users", "--down-revision", "36ac66efd5db")
    ruff = tool(usersync.folder, "ruff", "check", "--isolated", "--no-cache", ".")
    mypy = tool(usersync.folder, "mypy", "--strict", "--config-file=", "--cache-dir=../cache", "--explicit-package-bases", ".")

    assert (0, "All checks passed!\n") == (ruff.returncode, ruff.stdout)
    assert 0 == mypy.returncode, mypy.stdout


def test_says_what_was_written(usersync: Command) -> None:
    """
    The files are named, then what comes next; the migration can follow another one and lie elsewhere.
    """
    result = usersync("schema", "User", "users", "--dir", "app", "--migrations", "alembic/versions", "--down-revision", "1a2b3c")

    written = ["alembic/versions/36ac66efd5db_create_users.py", "app/user.py"]
    assert written == files(usersync.folder)
    assert ["wrote app/user.py", f"wrote {written[0]}", "Next:"] == result.stdout.splitlines()[:3]
    assert 'down_revision: str | None = "1a2b3c"' in (usersync.folder / written[0]).read_text()


def test_json_is_one_document(usersync: Command) -> None:
    """
    --output json names the files and the revision.
    """
    document = json.loads(usersync("schema", "--output", "json").stdout)

    expected = {"version": 1, "kind": "schema", "revision": "36ac66efd5db", "down_revision": None}
    assert ["user.py", "migrations/versions/36ac66efd5db_create_users.py"] == document.pop("files")
    assert expected == document


@pytest.mark.parametrize("kept", ["user.py", "migrations/versions/36ac66efd5db_create_users.py"])
def test_nothing_is_overwritten(usersync: Command, kept: str) -> None:
    """
    One file that is there keeps both from being written, unless --force says so.
    """
    file = usersync.folder / kept
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    refused = usersync("schema")

    assert (2, "") == (refused.status, refused.stdout)
    assert f"usersync: already there: {kept}; nothing was written\n  --force writes over what is there\n" == refused.stderr
    assert ([kept], "mine") == (files(usersync.folder), file.read_text())
    assert 0 == usersync("schema", "--force").status
    assert "mine" != file.read_text()
    assert 2 == len(files(usersync.folder))


def test_a_folder_in_the_way(usersync: Command) -> None:
    """
    A place that cannot be written is an error, and the other file is not written either.
    """
    (usersync.folder / "migrations").write_text("a file")
    result = usersync("schema")

    assert (2, "") == (result.status, result.stdout)
    assert result.stderr.startswith("usersync: cannot write migrations")
    assert ["migrations"] == files(usersync.folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["user"], "MODEL 'user' is not a class name"),
        (["accounts.User"], "MODEL 'accounts.User' is not a class name"),
        (["Accounts..User"], "MODEL 'Accounts..User' is not a class name"),
        (["User;"], "MODEL 'User;' is not a class name"),
        (["../User"], "MODEL '../User' is not a class name"),
        (["Üser"], "MODEL 'Üser' is not a class name"),
        (["User\n"], "MODEL 'User\\n' is not a class name"),
        (["None"], "keyword of Python"),
        (["Class.User"], "'class', a keyword of Python"),
        (["Token.User"], "would hide Python's module 'token'"),
        (["Accounts.Base"], "the file itself uses the name 'Base'"),
        (["User", "Users"], "TABLE 'Users' is not a table name"),
        (["User", "a.b.c"], "TABLE 'a.b.c' is not a table name"),
        (["User", 'users"'], "is not a table name"),
        (["User", "u" * 64], "is not a table name"),
        (["User", "user"], "'user' is a reserved word of PostgreSQL"),
        (["User", "pg_catalog.users"], "the schema pg_catalog is not for tables of yours"),
        (["User", "usersync.users"], "the schema usersync is not for tables of yours"),
        (["--down-revision", 'x"'], "--down-revision is not the id of a migration"),
        (["--down-revision", "36ac66efd5db"], "is the migration that would be written"),
    ],
)
def test_wrong_names(usersync: Command, arguments: list[str], said: str) -> None:
    """
    A wrong name is a message that says what is expected, status 2, and no file.
    """
    result = usersync("schema", *arguments)

    assert (2, "") == (result.status, result.stdout)
    assert result.stderr.startswith("usersync: ")
    assert said in result.stderr
    assert 2 == len(result.stderr.splitlines())
    assert [] == files(usersync.folder)
