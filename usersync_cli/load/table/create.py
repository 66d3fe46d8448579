"""A table that is made for a step: where, with which columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from psycopg import sql

from usersync_cli.clients.postgres.catalog import describe
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, listed, scalar
from usersync_cli.clients.postgres.transactions import schemas
from usersync_cli.errors import ConfigError, Drift
from usersync_cli.load import stage
from usersync_cli.load.merge import Merge
from usersync_cli.model import Column, Load

MARK = "deleted_at"  # set by on_missing: mark


class NewTable:
    """The table of a step's load, where it is not there yet.

    `definition`: its columns, where they are not just those of the transform; without its key. `comments`: what is said of columns.
    """

    def __init__(self, load: Load, definition: str = "", comments: Mapping[str, str] = MappingProxyType({})) -> None:
        self.load = load
        self._definition, self._comments = definition, comments

    def statement(self, merge: Merge, columns: Sequence[Column], *, with_key: bool) -> sql.Composed:
        """The table that the transform describes, and when each row came and last changed."""
        loaded = [c for c in columns if not c.name.startswith("_")]
        names = {c.name for c in loaded}
        key = listed(identifier(name) for name in merge.key)
        mark = (
            [sql.SQL("{} timestamp with time zone").format(identifier(MARK))]
            if self.load.on_missing == "mark" and MARK not in names
            else []
        )
        if self._definition:
            own = [sql.SQL(self._definition), *mark, sql.SQL("UNIQUE ({})").format(key)]
            return sql.SQL("CREATE TABLE {} ({})").format(merge.table, listed(own))
        definitions = [sql.SQL("{} {}").format(identifier(c.name), stage.type_sql(_storable(c.type))) for c in loaded]
        stamps = [
            name for name in ("inserted_at", "updated_at") if name not in names and not (name == "inserted_at" and "created_at" in names)
        ]
        definitions += [sql.SQL("{} timestamp with time zone NOT NULL DEFAULT now()").format(identifier(name)) for name in stamps]
        definitions += mark
        if with_key:
            definitions.append(sql.SQL("PRIMARY KEY ({})").format(key))
        return sql.SQL("CREATE TABLE {} ({})").format(merge.table, listed(definitions))

    def comment(self, tx: Connection) -> None:
        """Say what is to be said of the columns of a table that was just made; of others that are named, nothing."""
        table = describe(tx, self.load.table) if self._comments else None
        for column in table.columns if table else ():
            if said := self._comments.get(column):
                assert table is not None  # noqa: S101  it has the column
                tx.execute(sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(table.name, identifier(column), sql.Literal(said)))

    def text(self, columns: Sequence[Column], tx: Connection) -> str:
        """`statement`, as a person may type it."""
        merge = Merge(table=self.name(tx), fields=(), helpers=(), key=self.load.key, transform=sql.SQL(""))
        return self.statement(merge, columns, with_key=True).as_string(tx) + ";"

    def add_key(self, merge: Merge) -> sql.Composed:
        """The statement that adds the key to a table that was made without it."""
        return sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(merge.table, listed(identifier(name) for name in merge.key))

    def name(self, tx: Connection) -> sql.Composed:
        """Where a table without a schema is made: the first schema of the role's search path that exists, and is not ours."""
        return sql.SQL("{}.{}").format(identifier(self.schema(tx)), identifier(self.load.table.rpartition(".")[2]))

    def schema(self, tx: Connection) -> str:
        """The schema of `name`."""
        schema = self.load.table.split(".", 1)[0] if "." in self.load.table else None
        schema = schema or next((name for name in schemas(tx) if name != "pg_catalog"), None)
        if schema is None:
            raise ConfigError(f"there is no schema to create {self.load.table} in", hint="write schema.table, or create the schema public")
        self._check_schema(schema, tx)
        return schema

    def _check_schema(self, schema: str, tx: Connection) -> None:
        """Whether a table can be made in it, which most roles may not in `public` since PostgreSQL 15."""
        query = "SELECT pg_catalog.has_schema_privilege(oid, 'CREATE') FROM pg_catalog.pg_namespace WHERE nspname = %s"
        may = scalar(tx, query, (schema,))
        if may is None:
            raise Drift(f"target table {self.load.table}: there is no schema {schema}", hint=f"CREATE SCHEMA {quoted(schema)};")
        if not may:
            role = scalar(tx, "SELECT quote_ident(current_user)")
            raise ConfigError(
                f"target table {self.load.table} is to be made, and the right to CREATE in schema {schema} is missing",
                hint=f"GRANT USAGE, CREATE ON SCHEMA {quoted(schema)} TO {role};\nor an administrator makes the table",
            )


def _storable(type_: str) -> str:
    return "text" if type_ == "unknown" else type_


def shown(table: str) -> str:
    """The name of a table, quoted as a person would type it."""
    return ".".join(quoted(part) for part in table.split(".", 1))


def quoted(name: str) -> str:
    """A quoted name."""
    return sql.Identifier(name).as_string(None)
