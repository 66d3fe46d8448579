"""What PostgreSQL's catalog says of a table: columns, unique indexes, whatever decides how it can be loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, scalar, statements
from usersync_cli.clients.postgres.transactions import schemas

_SQL = statements(__name__)
_COLUMNS = _SQL["columns"].format(equality=_SQL["equality"].format(type="a.atttypid"), operator=_SQL["operator"])


@dataclass(frozen=True)
class TableColumn:
    """A column of the target table, from the catalog."""

    name: str
    type: str  # with its length or precision
    bare: str  # without; "bpchar" and '"bit"', because `character` and `bit` alone would mean a length of 1
    not_null: bool
    has_default: bool
    identity: str  # "", "a" always, "d" by default
    generated: bool
    collation: str  # quoted, "" where it is the type's own
    is_enum: bool
    equality: bool
    base: str  # `bare` of the type that a domain is made of; of any other type its own
    composite: bool = False
    operator: str = "pg_catalog.="  # of equality, as its index has it: under our path citext would be compared as text


@dataclass(frozen=True)
class Table:
    """The target table as it is now."""

    name: sql.Composed
    oid: int
    kind: str
    has_triggers: bool  # the table or one of its partitions; one that is a foreign table may have any
    has_rules: bool
    columns: dict[str, TableColumn]
    unique: Sequence[frozenset[str]]  # columns of each usable unique index
    relname: str = ""  # as the server's errors call it
    schema: str = ""

    @property
    def watched(self) -> bool:
        """Whether something of the table's own may change what we write, or take it away again."""
        return self.has_triggers or self.has_rules


def describe(tx: Connection, name: str) -> Table | None:
    """The table of this name as a person's SQL would find it (`transactions.schemas`), or None."""
    row = tx.execute(_SQL["table"].format(found=_SQL["locate"]), _where(tx, name)).fetchone()
    if row is None:
        return None
    oid, schema, relname, kind, has_triggers, has_rules = row
    columns = {c[0]: TableColumn(*c) for c in tx.execute(_COLUMNS, (oid,)).fetchall()}
    unique = [frozenset(names) for (names,) in tx.execute(_SQL["unique"], (oid,)).fetchall()]
    name_ = sql.SQL("{}.{}").format(identifier(schema), identifier(relname))
    return Table(name_, oid, kind, has_triggers, has_rules, columns, unique, relname, schema)


def has_one_text(type_: str) -> bool:
    """Whether two values of this type (its bare name) are equal only if their texts are; of text, unless a collation says otherwise."""
    return type_ in _ONE_TEXT


def locate(tx: Connection, name: str) -> int | None:
    """The oid of the table or view of this name, `table` or `schema.table`; None where there is none."""
    found = scalar(tx, _SQL["locate"], _where(tx, name))
    return None if found is None else int(found)


def _where(tx: Connection, name: str) -> tuple[Sequence[str], str]:
    """The schemas in which a table is looked for, and its name there."""
    *schema, table = name.split(".", 1)
    for part in (*schema, table):
        identifier(part)
    return schema or path(tx), table


def path(tx: Connection) -> list[str]:
    """All schemas in which a person's SQL finds a name without one, PostgreSQL's own included."""
    found = schemas(tx)
    return [*found] if "pg_catalog" in found else ["pg_catalog", *found]


def has_equality(tx: Connection, type_: str) -> bool:
    """Whether values of this type can be compared with IS DISTINCT FROM."""
    return bool(scalar(tx, "SELECT " + _SQL["equality"].format(type="%s::regtype"), (type_,)))


def equality(tx: Connection, type_: str) -> str:
    """The operator of equality of a type, as `TableColumn.operator`."""
    return str(scalar(tx, _SQL["operator_of"].format(operator=_SQL["operator"]), (type_,)))


def others_may_create(connection: Connection) -> list[tuple[str, str, bool]]:
    """(schema, role, whether it owns it), quoted, of each schema in which a person's names are looked for: who else may put something
    there. No superusers, and none that our role is a member of, or that is a member of ours; PUBLIC is one."""
    found = connection.execute(_SQL["others"], (list(schemas(connection)),)).fetchall()
    return [(str(schema), str(role), bool(owns)) for schema, role, owns in found]


def unique_values(tx: Connection, table: Table, names: Sequence[str]) -> list[str]:
    """Which of these columns any unique or exclusion index depends on, by expressions and predicates too."""
    return [name for (name,) in tx.execute(_SQL["unique_values"], (table.oid, list(names))).fetchall()]


_ONE_TEXT = {
    "smallint", "integer", "bigint", "uuid", "boolean", "date", "bytea", "text", "character varying", "bpchar",
    "timestamp with time zone", "timestamp without time zone",
}  # fmt: skip


def has_partition(tx: Connection, table: Table) -> bool:
    """Whether a partitioned table has any place for a row."""
    query = "SELECT EXISTS (SELECT FROM pg_catalog.pg_partition_tree(%s) WHERE isleaf AND level > 0)"
    return bool(scalar(tx, query, (table.oid,)))


def read_by(tx: Connection, view: Table) -> list[str]:
    """The tables that a view reads, quoted."""
    return [name for (name,) in tx.execute(_SQL["read_by"], (view.oid,)).fetchall()]


def locked_sequences(tx: Connection, table: Table, columns: Sequence[str]) -> list[str]:
    """Sequences of these columns' defaults that the role may not use, quoted; an identity column's needs no right."""
    return [name for (name,) in tx.execute(_SQL["locked"], (table.oid, list(columns))).fetchall()]


def behind(tx: Connection, table: Table, columns: Sequence[str]) -> list[str]:
    """Sequences of these columns, quoted, that would give a number that a row has already."""
    found = tx.execute(_SQL["sequences"], (table.oid, list(columns))).fetchall()
    query = sql.SQL("SELECT pg_catalog.max({0}) > COALESCE(pg_catalog.pg_sequence_last_value({1}), 0) FROM {2}")
    return [
        str(name)
        for oid, name, column in found
        if tx.execute(query.format(identifier(column), sql.Literal(oid), table.name)).fetchone() == (True,)
    ]
