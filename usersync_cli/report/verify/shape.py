"""What `usersync verify` compares, and the SQL that reads both sides of it as text: what a source wants, and what a table holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from usersync_cli.clients.postgres.catalog import Table, TableColumn, has_one_text
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import and_, identifier, listed, scalar, type_name
from usersync_cli.errors import Drift
from usersync_cli.load import stage
from usersync_cli.load.merge import key_text
from usersync_cli.load.table.create import MARK
from usersync_cli.model import Desired, Load

_NULL = sql.SQL("NULL::pg_catalog.text")
_MEASURED = {"character varying", "bpchar", '"bit"', "bit varying"}  # what is too long differs; it is no error here, and is not cut


@dataclass(frozen=True)
class Shape:
    """Which columns are compared, in the target's types, and the SQL that reads both sides as text."""

    load: Load
    table: Table
    loaded: Sequence[str]
    helpers: Sequence[tuple[str, str]]  # (column, type) that only order_by uses
    inexact_key: bool  # keys may be equal whose texts differ
    number: int = 0  # among those of one transaction

    @property
    def into(self) -> sql.Composed:
        """The temp table of what the source wants."""
        return stage.table(f"usersync_wanted_{self.number}")

    @property
    def names(self) -> list[str]:
        """The columns that are compared: all that are loaded but the key, and the mark where the step sets one."""
        return [name for name in self.loaded if name not in self.load.key] + ([MARK] if self.load.on_missing == "mark" else [])

    def create(self) -> sql.Composed:
        """Make the table `into`, with the types of the target's columns: values are cast by PostgreSQL's own rules of assignment."""
        definitions: list[sql.Composable] = [
            sql.SQL("{} {} {}").format(
                identifier(name), sql.SQL(_wide(column)), sql.SQL(f"COLLATE {column.collation}" if column.collation else "")
            )
            for name, column in ((name, self.table.columns[name]) for name in self.loaded)
        ]
        definitions += [sql.SQL("{} {}").format(identifier(name), stage.type_sql(type_)) for name, type_ in self.helpers]
        return sql.SQL("CREATE TEMP TABLE {} ({}) ON COMMIT DROP").format(self.into, listed(definitions))

    def fill(self, desired: Desired) -> sql.Composed:
        """Put the rows of the transform into the table `into`."""
        values: list[sql.Composable] = [
            sql.SQL("v.{}::pg_catalog.text::{}").format(identifier(name), sql.SQL(type_name(self.table.columns[name].bare)))
            if self.table.columns[name].is_enum
            else sql.SQL("v.{}").format(identifier(name))
            for name in self.loaded
        ]
        names = [identifier(name) for name in (*self.loaded, *(name for name, _ in self.helpers))]
        values += [sql.SQL("v.{}").format(identifier(name)) for name, _ in self.helpers]
        return sql.SQL("INSERT INTO {} ({}) SELECT {} FROM ({}) AS v").format(self.into, listed(names), listed(values), desired.transform)

    def respell(self) -> sql.Composed:
        """Give the wanted keys the spelling of the table's where their type calls the two equal (citext, numeric)."""
        same = and_(
            sql.SQL("t.{0} OPERATOR({1}) w.{0}").format(identifier(name), sql.SQL(self.table.columns[name].operator))
            for name in self.load.key
        )
        to = listed(sql.SQL("{0} = t.{0}").format(identifier(name)) for name in self.load.key)
        return sql.SQL("UPDATE {} AS w SET {} FROM {} AS t WHERE {} AND {} <> {}").format(
            self.into, to, self.table.name, same, self.key("t"), self.key("w")
        )

    def without_key(self) -> sql.Composed:
        """How many wanted rows, each once, have no key."""
        return sql.SQL("SELECT count(DISTINCT (w.*)::text) FROM {} AS w WHERE NOT ({})").format(self.into, self._has_key)

    def wanted(self) -> sql.Composed:
        """What the source wants, by key. Of several rows with one key, those that come first in order_by; without it, all."""
        rank = sql.SQL("1")
        if self.load.order_by:
            own = sql.SQL(self.load.order_by)
            rank = sql.SQL("pg_catalog.rank() OVER (PARTITION BY {} ORDER BY {}\n)").format(self.key("w"), own)  # type: ignore[assignment]
        return sql.SQL(
            "SELECT {names} FROM (SELECT {values}, {rank} AS usersync_rank FROM {wanted} AS w WHERE {has_key}) AS r"
            " WHERE usersync_rank OPERATOR(pg_catalog.=) 1 ORDER BY pg_catalog.convert_to(usersync_key, 'UTF8')"
        ).format(names=self._names, values=self._values("w"), rank=rank, wanted=self.into, has_key=self._has_key)

    def there(self) -> sql.Composed:
        """What the table holds, by key."""
        return sql.SQL("SELECT {} FROM (SELECT {} FROM {} AS t) AS r ORDER BY pg_catalog.convert_to(usersync_key, 'UTF8')").format(
            self._names, self._values("t"), self.table.name
        )

    def key(self, side: str) -> sql.Composed:
        """A row's key as text, as `seen` and rejects have it too."""
        return key_text(self.load.key, side)

    @property
    def _has_key(self) -> sql.Composed:
        return and_(sql.SQL("w.{} IS NOT NULL").format(identifier(name)) for name in self.load.key)

    @property
    def _names(self) -> sql.Composed:
        return listed(identifier(name) for name in ("usersync_key", *self.names))

    def _values(self, side: str) -> sql.Composed:
        values = [sql.SQL("{} AS usersync_key").format(self.key(side))]
        for name in self.names:
            given = side == "t" or name in self.loaded
            value = sql.SQL("{}.{}::pg_catalog.text").format(sql.SQL(side), identifier(name)) if given else _NULL  # not marked
            values.append(sql.SQL("{} AS {}").format(value, identifier(name)))
        return listed(values)


def _wide(column: TableColumn) -> str:
    """The column's type, without a length that would cut or refuse."""
    return column.bare if column.bare.removesuffix("[]") in _MEASURED else column.type


def shape_of(  # noqa: PLR0913, PLR0917  all that decides it
    desired: Desired, load: Load, table: Table, tx: Connection, job: str, number: int = 0
) -> Shape:
    """Raises Drift when the two sides have no columns to compare; all the rest is `usersync check`'s."""
    found = tx.execute(sql.SQL("SELECT * FROM ({}) AS v LIMIT 0").format(desired.transform)).pgresult
    assert found is not None  # noqa: S101  a SELECT always has a result
    names = [str(found.fname(i) or b"", "utf8") for i in range(found.nfields)]
    loaded = [name for name in names if not name.startswith("_")]
    problems = [stage.used_by_us(name) for name in names if stage.OURS.fullmatch(name)]
    problems += [f"column {name} is missing" for name in loaded if name not in table.columns]
    problems += [f"the key {name} is not a column of the transform" for name in load.key if name not in loaded]
    problems += [f"the key {name} may be NULL" for name in load.key if name in table.columns and not table.columns[name].not_null]
    problems += [f"column {MARK} is missing"] if load.on_missing == "mark" and MARK not in table.columns else []
    if problems:
        raise Drift(f"target table {load.table}: {'; '.join(problems)}", hint=f"`usersync check --job {job}` prints what would help")
    helpers: list[tuple[str, str]] = []
    if load.order_by:
        given = [(names[i], found.ftype(i), found.fmod(i)) for i in range(found.nfields) if names[i].startswith("_")]
        for name, oid, modifier in given:
            type_ = scalar(tx, "SELECT pg_catalog.format_type(%s::oid, %s)", (oid, modifier))
            helpers.append((name, type_))
    inexact = any(not exact(table.columns[name]) for name in load.key)
    return Shape(load, table, loaded, helpers, inexact, number)


def exact(column: TableColumn) -> bool:
    return has_one_text(column.bare) and not column.collation
