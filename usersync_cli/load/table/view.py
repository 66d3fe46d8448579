"""The live view of a table: its rows that are not marked as deleted. Made with the table, and never taken away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import errors, sql

from usersync_cli.clients.postgres.catalog import Table
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, listed, scalar
from usersync_cli.errors import ConfigError, Drift
from usersync_cli.load.table.create import MARK, quoted
from usersync_cli.load.table.fit import KINDS
from usersync_cli.model import LIVE, Load

# The reader's own rights and row-level security hold, as if the table itself were read: what a view is granted opens no table.
_OPTIONS = ("security_invoker=true",)

_FOUND = """
SELECT c.oid, c.relkind::text, COALESCE(c.reloptions, '{}'), pg_catalog.pg_has_role(c.relowner, 'USAGE'),
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       EXISTS (SELECT FROM pg_catalog.pg_rewrite AS r
                 JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
                WHERE r.ev_class = c.oid AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = %(table)s)
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(name)s
"""


@dataclass(frozen=True)
class _There:
    """What has the view's name."""

    oid: int
    kind: str
    options: Sequence[str]
    mine: bool  # our role may replace it
    columns: Sequence[str]
    reads: bool  # the table


class LiveView:
    """The live view of one step's table, as it was last looked at.

    A view of its name that reads the table is the live view, whoever made it. One that is still as we make it is given the columns
    that its table got since; one that a person has changed is left as it is. Anything else of that name is in the way.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._name = load.table.rpartition(".")[2] + LIVE
        self._whole: sql.Composable = sql.SQL("")  # with its schema
        self._statement: sql.Composed | None = None  # what is to be executed
        self._made = False  # by that, it is new
        self.advice = ""

    @property
    def told(self) -> str:
        """What a check says of it."""
        if self._statement is None:
            return f", {self._name} is its live view"
        return f", {self._name} will {'be created' if self._made else 'get its new columns'}"

    def is_lacking(self, tx: Connection) -> bool:
        """Whether there is something to make, which nobody has made since the last look."""
        return self._statement is not None and not (self._made and self._is_there(tx))

    def _is_there(self, tx: Connection) -> bool:
        return scalar(tx, "SELECT pg_catalog.to_regclass(%s)", (self._whole.as_string(tx),)) is not None

    def look(self, tx: Connection, schema: str, name: sql.Composable, table: Table | None) -> None:
        """Find out what is to be made, of the table of this name in this schema; None: that is to be made too.

        Raises Drift where something else has the view's name, ConfigError where our role may not make one.
        """
        values = {"schema": schema, "name": self._name, "table": table.oid if table else 0}
        row = tx.execute(_FOUND, values).fetchone()
        self._statement, self._made, self.advice = None, row is None, ""
        self._whole = sql.SQL("{}.{}").format(identifier(schema), identifier(self._name))
        if row is None:
            self._statement = _statement(sql.SQL("CREATE VIEW"), self._whole, (), _OPTIONS, name)
            self._check_right(tx, schema)
            return
        there = _There(*row)
        if table is None or there.kind != "v" or not there.reads:
            raise self._in_the_way(tx, there)
        if len(there.columns) < len(table.columns):
            self._extend(tx, there, table)

    def make(self, tx: Connection) -> None:
        """Make what the last look found lacking; twice is once, and what a savepoint has taken back is made again."""
        if self._statement is None or not self.is_lacking(tx):
            return
        try:
            tx.execute(self._statement)
        except (errors.DuplicateTable, errors.DuplicateObject) as error:  # somebody was faster
            raise Drift(f"target table {self._load.table}: something else is called {self._name} since", hint=_ELSE) from error
        if self._made:
            said = (
                f"The rows of {self._load.table} whose {MARK} is NULL. usersync made this view, and gives it columns that the table gets."
            )
            tx.execute(sql.SQL("COMMENT ON VIEW {} IS {}").format(self._whole, sql.Literal(said)))

    def _check_right(self, tx: Connection, schema: str) -> None:
        query = "SELECT pg_catalog.has_schema_privilege(oid, 'CREATE') FROM pg_catalog.pg_namespace WHERE nspname = %s"
        if scalar(tx, query, (schema,)):
            return
        assert self._statement is not None  # noqa: S101  `look`
        role = scalar(tx, "SELECT pg_catalog.quote_ident(current_user)")
        raise ConfigError(
            f"target table {self._load.table}: its live view {self._name} is to be made,"
            f" and the right to CREATE in schema {schema} is missing",
            hint=f"GRANT USAGE, CREATE ON SCHEMA {quoted(schema)} TO {role};\n"
            f"or an administrator makes the view: {self._statement.as_string(tx)};",
        )

    def _in_the_way(self, tx: Connection, there: _There) -> Drift:
        what = KINDS.get(there.kind, "something else")
        what = f"{what} that does not read {self._load.table}" if there.kind == "v" else what
        kind = {"v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE", "i": "INDEX", "I": "INDEX", "c": "TYPE"}.get(there.kind, "TABLE")
        rename = f"ALTER {kind} {self._whole.as_string(tx)} RENAME TO ...;"
        return Drift(
            f"target table {self._load.table}: its live view would be called {self._name}, and that is {what}",
            hint=f"{rename} {_ELSE}",
        )

    def _extend(self, tx: Connection, there: _There, table: Table) -> None:
        """Columns that the view has keep their names and places, whatever they are called in the table by now."""
        if not there.mine or not _is_as_made(tx, there, table):
            self.advice = (
                f"the view {self._name} has fewer columns than {self._load.table}, and is left as somebody else made it;"
                f" to have it made anew: DROP VIEW {self._whole.as_string(tx)};"
            )
            return
        names = [*there.columns, *list(table.columns)[len(there.columns) :]]
        if twice := {name for name in names if names.count(name) > 1}:
            raise Drift(
                f"target table {self._load.table}: its live view {self._name} calls another column {', '.join(sorted(twice))} already",
                hint=f"DROP VIEW {self._whole.as_string(tx)}; and the next run makes it anew",
            )
        self._statement = _statement(sql.SQL("CREATE OR REPLACE VIEW"), self._whole, names, there.options, table.name)


_ELSE = "or take `live_view` out of the step's load"


def _statement(how: sql.SQL, whole: sql.Composable, names: Sequence[str], options: Sequence[str], table: sql.Composable) -> sql.Composed:
    """Nothing in it is looked up along a search path."""
    given = [option.partition("=") for option in options]
    parts = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, _, value in given]
    return sql.SQL("{} {}{}{} AS SELECT * FROM {} WHERE {} IS NULL").format(
        how,
        whole,
        sql.SQL(" ({})").format(listed(identifier(name) for name in names)) if names else sql.SQL(""),
        sql.SQL(" WITH ({})").format(listed(parts)) if parts else sql.SQL(""),
        table,
        identifier(MARK),
    )


def _is_as_made(tx: Connection, there: _There, table: Table) -> bool:
    """Whether the view is what we make of the table's first columns, to PostgreSQL's own understanding; nothing stays of the look."""
    selected = listed(identifier(name) for name in list(table.columns)[: len(there.columns)])
    again = sql.SQL("CREATE TEMP VIEW usersync_live ({}) AS SELECT {} FROM {} WHERE {} IS NULL").format(
        listed(identifier(name) for name in there.columns), selected, table.name, identifier(MARK)
    )
    with tx.transaction(force_rollback=True):
        tx.execute(again)
        query = "SELECT pg_catalog.pg_get_viewdef(%s::oid) = pg_catalog.pg_get_viewdef('pg_temp.usersync_live'::regclass)"
        return tx.execute(query, (there.oid,)).fetchone() == (True,)
