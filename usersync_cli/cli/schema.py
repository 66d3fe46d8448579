"""`usersync schema`: a model and a migration of the users table, for an application that lets usersync fill it."""

from __future__ import annotations

import hashlib
import keyword
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from usersync_cli.cli import EXIT_STATUSES, output_option, write_json
from usersync_cli.errors import ConfigError

_TEXTS = ("username", "email", "asyncto_id", "display_name", "community", "phone", "about", "profile_picture")
_MIGRATIONS = "migrations/versions"

_MODEL = '''\
"""The table {relation}, which usersync fills. `usersync schema` wrote this file; it is yours from here on."""

import datetime
import uuid

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Take your application's own instead, if it has one."""


class {model}(Base):
    __tablename__ = "{table}"
{schema_line}
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
{text_lines}
    inserted_at: Mapped[datetime.datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    updated_at: Mapped[datetime.datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
'''
_MODEL_TEXT = "    {name}: Mapped[str | None] = mapped_column(sa.Text)"

_MIGRATION = '''\
"""Create the table {relation}, which usersync fills."""

import sqlalchemy as sa
from alembic import op

revision: str = "{revision}"
down_revision: str | None = {down_revision}
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "{table}",
        sa.Column("id", sa.Uuid(), primary_key=True),
{text_lines}
        sa.Column("inserted_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
{schema_lines}    )


def downgrade() -> None:
    op.drop_table("{table}"{schema_argument})
'''
_MIGRATION_TEXT = '        sa.Column("{name}", sa.Text()),'

_MODEL_PART = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
_TABLE_PART = re.compile(r"[a-z][a-z0-9_]{0,62}")
_REVISION = re.compile(r"[A-Za-z0-9_]{1,32}")  # Alembic keeps it in a varchar(32)


@dataclass(frozen=True)
class SchemaModel:
    """`Accounts.User`: the class User in accounts/user.py."""

    modules: tuple[str, ...]
    name: str

    @property
    def file(self) -> str:
        return "/".join(self.modules) + ".py"


@dataclass(frozen=True)
class SchemaTable:
    """`users` or `app.users`."""

    schema: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


@click.command(epilog=EXIT_STATUSES)
@click.argument("model", default="User")
@click.argument("table", default="users")
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=".", metavar="DIR", help="Where the model goes. Default: here.")
@click.option(
    "--migrations", type=click.Path(path_type=Path), metavar="DIR", help=f"Where the migration goes. Default: {_MIGRATIONS} below --dir."
)
@click.option("--down-revision", metavar="REV", help="The migration before this one, as `alembic heads` shows it. Default: none.")
@click.option("--force", is_flag=True, help="Write over files that are already there.")
@output_option
def schema(model: str, table: str, folder: Path, migrations: Path | None, down_revision: str | None, force: bool, output: str) -> None:  # noqa: FBT001, PLR0913, PLR0917  click's arguments
    """Write a SQLAlchemy model and an Alembic migration for the users table.

    MODEL is a class in CamelCase, in modules if it has dots: Accounts.User is the class User in accounts/user.py.
    TABLE is in snake_case, and may begin with a schema that exists: app.users. Defaults: User, users.

    \b
    Examples:
      usersync schema
      usersync schema Accounts.User app.users --dir src
      usersync schema User users --migrations alembic/versions --down-revision 1a2b3c4d5e6f
    """
    class_, relation = model_name(model), table_name(table)
    revision = _revision(relation, down_revision)
    migration = (migrations or folder / _MIGRATIONS) / f"{revision}_create_{relation.name}.py"
    files = {
        folder / class_.file: model_text(class_, relation),
        migration: migration_text(relation, revision, down_revision),
    }
    write_all(files, force=force)
    if output == "json":
        write_json("schema", {"files": [str(file) for file in files], "revision": revision, "down_revision": down_revision})
        return
    click.echo("\n".join(f"wrote {file}" for file in files))
    click.echo(_next_steps(relation, revision, migration.parent))


def model_name(text: str) -> SchemaModel:
    """Raises ConfigError for what is no class in modules that Python can import."""
    parts = text.split(".")
    if not all(_MODEL_PART.fullmatch(part) for part in parts):
        raise ConfigError(f"MODEL {text!r} is not a class name", hint="CamelCase, with dots between modules: User, Accounts.User")
    modules = tuple(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", part).lower() for part in parts)
    for word in (*modules, parts[-1]):
        if keyword.iskeyword(word):
            raise ConfigError(f"MODEL {text!r} would need the name {word!r}, a keyword of Python", hint="choose another, such as User")
    if modules[0] in sys.stdlib_module_names or modules[0] in ("alembic", "sqlalchemy"):
        raise ConfigError(f"MODEL {text!r} would hide Python's module {modules[0]!r}", hint="choose another, such as Accounts.User")
    if parts[-1] in ("Base", "DeclarativeBase", "Mapped"):
        raise ConfigError(f"MODEL {text!r}: the file itself uses the name {parts[-1]!r}", hint="choose another, such as User")
    return SchemaModel(modules, parts[-1])


def table_name(text: str) -> SchemaTable:
    """Raises ConfigError for a table that could only be written in quotes, or that is not for users."""
    from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

    parts = text.split(".")
    if len(parts) > 2 or not all(_TABLE_PART.fullmatch(part) for part in parts):
        raise ConfigError(f"TABLE {text!r} is not a table name", hint="snake_case, 63 letters at most: users, or app.users with a schema")
    if reserved := next((part for part in parts if part in RESERVED_WORDS), None):
        raise ConfigError(f"TABLE {text!r}: {reserved!r} is a reserved word of PostgreSQL", hint="choose another, such as users")
    *schemas, name = parts
    if schemas and (schemas[0] in ("usersync", "information_schema") or schemas[0].startswith("pg_")):
        raise ConfigError(f"TABLE {text!r}: the schema {schemas[0]} is not for tables of yours", hint="choose another, such as public")
    return SchemaTable(schemas[0] if schemas else None, name)


def _revision(table: SchemaTable, down_revision: str | None) -> str:
    """A revision id that is the same for the same table, so that a second call finds the first file instead of adding another."""
    revision = hashlib.sha256(f"usersync schema {table}".encode()).hexdigest()[:12]
    if down_revision is not None and not _REVISION.fullmatch(down_revision):
        raise ConfigError("--down-revision is not the id of a migration", hint="1 to 32 letters, digits and _, as `alembic heads` shows it")
    if down_revision == revision:
        raise ConfigError(f"--down-revision {revision} is the migration that would be written", hint="name the one before it")
    return revision


def model_text(model: SchemaModel, table: SchemaTable) -> str:
    """The model's file. Its class has the columns of the migration, no more and no less."""
    return _MODEL.format(
        relation=table,
        model=model.name,
        table=table.name,
        schema_line=f'    __table_args__ = ({{"schema": "{table.schema}"}},)\n' if table.schema else "",
        text_lines="\n".join(_MODEL_TEXT.format(name=name) for name in _TEXTS),
    )


def migration_text(table: SchemaTable, revision: str, down_revision: str | None) -> str:
    """The migration's file."""
    schema = f'schema="{table.schema}"' if table.schema else ""
    return _MIGRATION.format(
        relation=table,
        table=table.name,
        revision=revision,
        down_revision=f'"{down_revision}"' if down_revision else None,
        text_lines="\n".join(_MIGRATION_TEXT.format(name=name) for name in _TEXTS),
        schema_lines=f"        {schema},\n" if schema else "",
        schema_argument=f", {schema}" if schema else "",
    )


def write_all(files: Mapping[Path, str], *, force: bool) -> None:
    """Writes all files or none: each beside its place first, so that a full disk shows before anything is replaced."""
    there = [file for file in files if file.exists() or file.is_symlink()]
    if there and not force:
        raise ConfigError(f"already there: {' and '.join(map(str, there))}; nothing was written", hint="--force writes over what is there")
    if folder := next((file for file in there if file.is_dir()), None):
        raise ConfigError(f"{folder} is a folder; nothing was written")
    drafts = {file: file.with_name(f".{file.name}.{os.getpid()}") for file in files}
    try:
        for file, draft in drafts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(files[file], encoding="utf-8")
        for file, draft in drafts.items():
            draft.replace(file)
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename}: {error.strerror}") from error
    finally:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink()


def _next_steps(table: SchemaTable, revision: str, migrations: Path) -> str:
    exists = f"the schema {table.schema} must be there, and " if table.schema else ""
    return f"""\
Next:
  alembic upgrade {revision}     {exists}Alembic has to look in {migrations}
  alembic stamp {revision}       instead, if the table is already there
  in usersync's config file:       load: {{table: {table}, key: [id]}}"""
