"""A person's SQL in a step: parsed by PostgreSQL alone (`queries`), before any of it stands in a statement of ours, and what it reads.

A transform is one SELECT. It becomes a temp view, which holds it as PostgreSQL has understood it with the person's search path;
our statements name that view. What the view depends on says which tables it reads, whatever the text looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NoReturn

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres import queries
from usersync_cli.clients.postgres.catalog import locate
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar
from usersync_cli.clients.postgres.sqlstates import passes
from usersync_cli.clients.postgres.transactions import as_ours, as_user
from usersync_cli.errors import ConfigError, Drift, UsersyncError
from usersync_cli.load import stage
from usersync_cli.model import OWN_SCHEMA, Step

_ONE_SELECT = "a transform is one SELECT that writes nothing, and `order_by` what stands behind ORDER BY"
_NAMES = "the names after FROM are those of the step's extracts; their columns are those that the queries give"


@dataclass(frozen=True)
class Own:
    """The SQL of a step that a person wrote. `reads` are tables of the target that the transform may read, beside its extracts."""

    transform: str | None  # the step's own or its source's; None where an extract is loaded as it is
    order_by: str | None = None
    reads: Sequence[str] = ()
    theirs: bool = True  # it is not the source's, which needs nothing but PostgreSQL's own names

    @classmethod
    def of(cls, step: Step, transform: str | None = None) -> Own:
        """The SQL of this step; `transform` is the source's, where the step has none."""
        own = step.transform
        return cls(own if transform is None else transform, step.load.order_by, step.reads, theirs=own is not None)

    @property
    def path(self) -> Callable[[Connection], AbstractContextManager[None]]:
        """The search path that it is written for."""
        return as_user if self.theirs else as_ours


def bind(tx: Connection, own: Own, stages: Sequence[stage.Stage], number: int = 0) -> sql.Composed:
    """A SELECT of ours that gives what the transform gives over these stages; it is valid until the transaction ends.

    `number` tells several of one transaction apart. Raises ConfigError for what is not one SELECT, does not read each of the
    stages, or reads something else of the target; Drift for a name that is not there. Nothing of it has been executed then.
    """
    for one in stages:
        if not one.named and (own.transform is not None or one.columns):
            tx.execute(sql.SQL("CREATE TEMP VIEW {} AS {}").format(sql.Identifier(one.name), one.as_seen))
    if own.transform is None:
        relation = stage.table(stages[0].name) if stages[0].columns else stages[0].table
    else:
        relation = stage.table(f"usersync_transform_{number}")
        _view(tx, own, relation)
        _refuse_other_tables(tx, own, stages, relation)
    found = sql.SQL("SELECT * FROM {}").format(relation)
    if own.order_by:
        _check_order(tx, own, found)
    return found


def _view(tx: Connection, own: Own, name: sql.Composed) -> None:
    """Make a view of the transform. Its text is alone in both statements, so there is no bracket of ours that it could close."""
    text = queries.bare(own.transform or "")
    start = sql.SQL("CREATE TEMP VIEW {} AS\n").format(name).as_string(tx)
    with own.path(tx):
        before = 0
        try:
            names = queries.parse(tx, text)
            before = len(start)
            _refuse_twice(names)
            tx.execute((start + text).encode())
        except psycopg.Error as error:
            _complain("transform", text, error, before)


def _refuse_twice(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise Drift(f"the transform has two columns named {name}", hint="name one of them with AS, or leave it out")


def _check_order(tx: Connection, own: Own, rows: sql.Composable) -> None:
    """Parse `order_by` at the end of a statement and in a window: what fits into both can neither close a bracket nor bring a LIMIT.

    It is only used when a key occurs twice, and its mistakes are found now, not in that night.
    """
    text = own.order_by or ""
    found = sql.SQL("({}) AS w").format(rows).as_string(tx)
    with as_user(tx):
        for start, end in (
            (f"SELECT FROM {found} ORDER BY\n", "\n"),
            ("SELECT pg_catalog.row_number() OVER (ORDER BY\n", f"\n) FROM {found}"),
        ):
            try:
                queries.parse(tx, start + text + end)
            except psycopg.Error as error:
                _complain("load.order_by", text, error, len(start))


def _complain(what: str, text: str, error: psycopg.Error, before: int) -> NoReturn:
    """Raise PostgreSQL's complaint as ours. The statement's text is the person's own, so it may be repeated."""
    if passes(error):
        raise error
    said = f"{what}{queries.place(text, error, before)}: {queries.wrong(error)}"
    if (error.sqlstate or "") in queries.WRONG:
        raise ConfigError(said, hint=error.diag.message_hint or _ONE_SELECT) from error
    kind: type[UsersyncError] = ConfigError if what == "load.order_by" else Drift
    hint = "it may use the columns that the transform gives" if kind is ConfigError else _NAMES
    raise kind(said, hint=error.diag.message_hint or hint) from error


# what it reads


def _refuse_other_tables(tx: Connection, own: Own, stages: Sequence[stage.Stage], view: sql.Composed) -> None:
    """Raise ConfigError for an extract that is not read, and for a table of the target that the step does not name. The tables that a
    function reads are its own affair."""
    found = {oid: (schema, name) for oid, schema, name in tx.execute(_READ, (view.as_string(tx),)).fetchall()}
    mine = {one.name: _oid(tx, stage.table(one.name)) for one in stages}
    allowed = {*mine.values(), *(locate(tx, name) for name in own.reads)}
    others = [_shown(*whose) for oid, whose in found.items() if oid not in allowed or whose[0] == OWN_SCHEMA]
    unread = [name for name, oid in mine.items() if oid not in found]
    if not unread and _has_unread_queries(tx, view):
        unread = _unread_by_plan(tx, view, stages)
    extracts = ", ".join(mine)
    if unread:
        instead = f"; it reads the target's own {_tables(others)} instead" if others else ""
        raise ConfigError(
            f"the transform does not read the extract {', '.join(unread)}{instead}",
            hint=f"its extracts: {extracts}. Write FROM {unread[0]}, outside of WITH queries that nothing uses;"
            " an extract that is not needed can be left out of the step",
        )
    if any(whose[0] == OWN_SCHEMA for whose in found.values()):
        raise ConfigError(
            f"the transform reads {_tables(others)}, and the schema {OWN_SCHEMA} is usersync's own",
            hint=f"its extracts: {extracts}. To move a table of yours out of it: ALTER TABLE {OWN_SCHEMA}.name SET SCHEMA public;",
        )
    if others:
        raise ConfigError(
            f"the transform reads the target's own {_tables(others)}, which the step does not name",
            hint=f"its extracts: {extracts}. If this is intentional, add to the step: reads: [{', '.join(others)}]",
        )


def _tables(names: Sequence[str]) -> str:
    return f"{'table' if len(names) == 1 else 'tables'} {', '.join(names)}"


def _shown(schema: str, name: str) -> str:
    return f"{schema}.{name}"


def _oid(tx: Connection, relation: sql.Composed) -> int | None:
    oid = scalar(tx, "SELECT pg_catalog.to_regclass(%s)::oid", (relation.as_string(tx),))
    return None if oid is None else int(oid)


def _has_unread_queries(tx: Connection, view: sql.Composed) -> bool:
    """Whether it has WITH queries that nothing in it uses: PostgreSQL counts who does, and what those read does not count."""
    return tx.execute(_UNREAD, (view.as_string(tx),)).fetchone() == (True,)


def _unread_by_plan(tx: Connection, view: sql.Composed, stages: Sequence[stage.Stage]) -> list[str]:
    """The extracts that only unused WITH queries read: those are in no plan."""
    with as_user(tx):
        plan = str(tx.execute(sql.SQL("EXPLAIN (FORMAT JSON) SELECT * FROM {}").format(view)).fetchall())
    return [one.name for one in stages if f"'Relation Name': {stage.relname(tx, one)!r}" not in plan]


# Of PostgreSQL's own relations nobody's rows are read by mistake, and what comes with the server is not listed as a dependency.
_READ = """
SELECT DISTINCT c.oid, n.nspname, c.relname
  FROM pg_catalog.pg_rewrite r
  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
                             AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.ev_class
  JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema')
 WHERE r.ev_class = pg_catalog.to_regclass(%s) ORDER BY n.nspname, c.relname
"""
_UNREAD = "SELECT r.ev_action::text LIKE '%%:cterefcount 0 %%' FROM pg_catalog.pg_rewrite r WHERE r.ev_class = pg_catalog.to_regclass(%s)"
