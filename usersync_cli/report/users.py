"""People who sign in, as a copy in the target has them: a page of them, one of them with memberships, and how old the copy is.

Only reads, and contacts no source. Values come as the server writes them in JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import errors, sql

from usersync_cli.clients.postgres.catalog import Table, describe
from usersync_cli.clients.postgres.connections import Connection, connect
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.clients.postgres.sql import and_, listed, scalar
from usersync_cli.clients.postgres.transactions import transaction
from usersync_cli.errors import ConfigError, Drift, NotFound
from usersync_cli.model import Database, Step
from usersync_cli.shapes import UsersShape
from usersync_cli.state import ledger

Row = Mapping[str, Any]
_MARK = "deleted_at"


@dataclass(frozen=True)
class UsersTable:
    """Where the config file says that a job keeps its copy of people. `others`: the job's tables by stream of the same source."""

    job: str
    step: Step
    source: str  # its name
    shape: UsersShape
    others: Mapping[str, Step] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return table_of(self.step, self.shape.stream)


def table_of(step: Step, stream: str) -> str:
    """The table of a stream."""
    return step.load.table.replace("{stream}", stream)


@dataclass(frozen=True)
class CopyAge:
    """How fresh a copy is. `polled` is when a run last took up what there was, None where none has; `at` is the database's time now."""

    at: datetime
    polled: datetime | None
    complete: bool  # everything was listed at least once: the people, and what the job copies of their memberships

    @property
    def known(self) -> datetime | None:
        """As of when the copy is whole; None where it never was."""
        return self.polled if self.complete else None


@dataclass(frozen=True)
class Wanted:
    """Which people are asked for, and which page of them."""

    page: int = 1
    limit: int = 50
    email: str = ""  # in any case
    organization: str = ""  # its id
    deleted: bool = False  # also those that are marked as deleted


@dataclass(frozen=True)
class UsersPage:
    """A page of people, in the order of their ids."""

    age: CopyAge
    key: str  # the column that has their ids
    columns: Sequence[str]  # those of the shape that the table has, the key first
    rows: Sequence[Row] = field(repr=False)
    total: int = 0
    unknown_organization: bool = False

    def pages(self, limit: int) -> int:
        return max(1, -(-self.total // limit))


@dataclass(frozen=True)
class ShownUser:
    """All that the copy has of one person."""

    key: str
    row: Row = field(repr=False)
    memberships: Sequence[Row] = field(repr=False, default=())
    deleted: bool = False


@dataclass(frozen=True)
class ShownUsers:
    """Who has the id or the e-mail address that was asked for."""

    age: CopyAge
    users: Sequence[ShownUser]
    has_memberships: bool  # the job copies them


def page(database: Database, where: UsersTable, wanted: Wanted) -> UsersPage:
    """A page of the people in the copy. Raises NotFound for a table that is not there yet, ConfigError for a missing right."""
    with _opened(database, where) as tx:
        age, people = _age(tx, where), _People.of(tx, where)
        condition = people.condition(tx, wanted)
        total = int(scalar(tx, sql.SQL("SELECT pg_catalog.count(*) FROM {} AS t WHERE {}").format(people.table.name, condition)))
        columns = [people.key, *(name for name in where.shape.columns if name in people.table.columns and name != people.key)]
        chosen = listed(sql.SQL("t.{}").format(sql.Identifier(name)) for name in columns)
        behind = sql.SQL("LIMIT {} OFFSET {}").format(wanted.limit, (wanted.page - 1) * wanted.limit)
        rows = people.rows(tx, chosen, condition, behind)
        strange = bool(wanted.organization) and not people.has_organization(tx, wanted.organization)
        return UsersPage(age, people.key, columns, rows, total, strange)


def show(database: Database, where: UsersTable, who: str) -> ShownUsers:
    """Those whose id, or e-mail address in any case, is this one; deleted ones too. Raises NotFound where there is none."""
    with _opened(database, where) as tx:
        age, people = _age(tx, where), _People.of(tx, where)
        rows = people.rows(tx, sql.SQL("t.*"), people.called(who), sql.SQL(""))
        if not rows:
            raise NotFound(
                f"table {where.name} has nobody with that id or e-mail address, deleted or not",
                hint=f"it may be older than you think: `usersync users list` says how old it is, `usersync run --job {where.job}` reads on",
            )
        found = [
            ShownUser(str(row[people.key]), row, people.memberships(tx, str(row[people.key])), row.get(_MARK) is not None) for row in rows
        ]
        return ShownUsers(age, found, where.shape.memberships in where.others)


def ids_by_email(tx: Connection, where: UsersTable, email: str) -> list[str]:
    """The ids of those who have this e-mail address, in any case; none where the table is not there yet."""
    if describe(tx, where.name) is None:
        return []
    people = _People.of(tx, where)
    rows = people.rows(tx, sql.SQL("t.{}").format(sql.Identifier(people.key)), people.condition(tx, Wanted(email=email)), sql.SQL(""))
    return [str(row[people.key]) for row in rows]


def whole_as_of(tx: Connection, where: UsersTable) -> datetime | None:
    """As of when the copy is whole; None where it never was."""
    return _age(tx, where).known


def some_ids(tx: Connection, where: UsersTable, number: int = 3) -> list[str]:
    """The ids of a few people who are not deleted; none where the table is not there yet."""
    if describe(tx, where.name) is None:
        return []
    people = _People.of(tx, where)
    condition, behind = people.condition(tx, Wanted()), sql.SQL("LIMIT {}").format(number)
    return [str(row[people.key]) for row in people.rows(tx, sql.SQL("t.{}").format(sql.Identifier(people.key)), condition, behind)]


def has_row(tx: Connection, where: UsersTable, id_: str) -> bool:
    """Whether the copy has the person with this id, deleted or not."""
    if describe(tx, where.name) is None:
        return False
    people = _People.of(tx, where)
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} AS t WHERE t.{}::pg_catalog.text = {})")
    return bool(scalar(tx, query.format(people.table.name, sql.Identifier(people.key), sql.Literal(id_))))


# in the snapshot


@contextmanager
def _opened(database: Database, where: UsersTable) -> Iterator[Connection]:
    doing = f"reading {where.name}"
    with connect(database, job="users") as connection, translated(database, doing):
        try:
            with transaction(connection, snapshot=True, row_security="off"):
                yield connection
        except errors.InsufficientPrivilege as error:
            role = sql.Identifier(connection.info.user).as_string(None)
            hint = f"the role {role} needs SELECT on {where.name}, on the job's other tables and on those of the schema usersync"
            raise ConfigError(f"{database.name}: a right is missing ({doing})", hint=hint) from error


def _age(tx: Connection, where: UsersTable) -> CopyAge:
    (at,) = tx.execute("SELECT clock_timestamp()").fetchone() or (None,)
    ledger.refuse_newer(tx)
    values: dict[str, Any] = {"job": where.job, "step": where.step.name, "stream": where.shape.stream}
    parts = {where.shape.stream: where.step} | {name: where.others[name] for name in where.shape.parts if name in where.others}
    values |= {"streams": list(parts), "steps": [step.name for step in parts.values()]}
    if not ledger.may_read(tx, "cursors") or not ledger.may_read(tx, "sweeps"):
        return CopyAge(at, None, complete=False)
    polled = scalar(tx, "SELECT updated_at FROM usersync.cursors WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s", values)
    return CopyAge(at, polled, complete=bool(scalar(tx, _COMPLETE, values)))


@dataclass(frozen=True)
class _People:
    """The table of people, with what is asked of it in a transaction."""

    where: UsersTable
    table: Table
    key: str

    @classmethod
    def of(cls, tx: Connection, where: UsersTable) -> _People:
        """Raises NotFound for a table that is not there yet, Drift for one that a transform of the config file gave other columns."""
        table = describe(tx, where.name)
        if table is None:
            hint = f"usersync run --job {where.job}: its first run makes the table and fills it"
            raise NotFound(f"there is no table {where.name} in the target yet: nothing was copied", hint=hint)
        key, *more = where.step.load.key
        if lacking := [name for name in (key, "email") if name not in table.columns] or more:
            raise Drift(
                f"table {where.name} is none that `usersync users` can read: its key has to be one column, and another one is email",
                hint=f"step {where.step.name} of job {where.job} has a transform or key of its own ({', '.join(lacking)})",
            )
        return cls(where, table, key)

    def rows(self, tx: Connection, columns: sql.Composable, condition: sql.Composable, behind: sql.Composable) -> list[Row]:
        """Rows in the order of their keys, byte by byte, which is the same everywhere."""
        query = sql.SQL('SELECT {} FROM {} AS t WHERE {} ORDER BY t.{}::pg_catalog.text COLLATE "C" {}').format(
            columns, self.table.name, condition, sql.Identifier(self.key), behind
        )
        found = tx.execute(sql.SQL("SELECT pg_catalog.row_to_json(q)::pg_catalog.text FROM ({}) AS q").format(query)).fetchall()
        return [json.loads(text) for (text,) in found]

    def condition(self, tx: Connection, wanted: Wanted) -> sql.Composed:
        parts: list[sql.Composable] = [sql.SQL("true")]
        if not wanted.deleted and _MARK in self.table.columns:
            parts.append(sql.SQL("t.{} IS NULL").format(sql.Identifier(_MARK)))
        if wanted.email:
            parts.append(self._has_email(wanted.email))
        if wanted.organization:
            parts.append(self._is_in(tx, wanted.organization))
        return and_(parts)

    def called(self, who: str) -> sql.Composed:
        """The id is this one, or the e-mail address."""
        return sql.SQL("(t.{}::pg_catalog.text = {} OR {})").format(sql.Identifier(self.key), sql.Literal(who), self._has_email(who))

    def _has_email(self, email: str) -> sql.Composed:
        return sql.SQL("pg_catalog.lower(t.email::pg_catalog.text) = pg_catalog.lower({}::pg_catalog.text)").format(sql.Literal(email))

    def _is_in(self, tx: Connection, organization: str) -> sql.Composed:
        memberships = self._memberships(tx)
        if memberships is None:
            raise ConfigError(
                f"job {self.where.job} copies no memberships, by which people are found in an organization",
                hint=f"add {self.where.shape.memberships} to the streams of step {self.where.step.name}, and run it once",
            )
        gone = sql.SQL("AND m.{} IS NULL").format(sql.Identifier(_MARK)) if _MARK in memberships.columns else sql.SQL("")
        return sql.SQL(
            "EXISTS (SELECT FROM {} AS m WHERE m.user_id::pg_catalog.text = t.{}::pg_catalog.text"
            " AND m.organization_id::pg_catalog.text = {} {})"
        ).format(memberships.name, sql.Identifier(self.key), sql.Literal(organization), gone)

    def has_organization(self, tx: Connection, id_: str) -> bool:
        """Whether the copy has this organization; True where it has none of them at all."""
        table, step = self._other(tx, self.where.shape.organizations)
        if table is None or step is None:
            return True
        (key, *_) = step.load.key
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} AS o WHERE o.{}::pg_catalog.text = {})")
        return bool(scalar(tx, query.format(table.name, sql.Identifier(key), sql.Literal(id_))))

    def memberships(self, tx: Connection, user: str) -> list[Row]:
        """Somebody's memberships, each with its organization's name where that is known."""
        memberships = self._memberships(tx)
        if memberships is None:
            return []
        organizations, step = self._other(tx, self.where.shape.organizations)
        name, join = sql.SQL("").format(), sql.SQL("").format()
        if organizations and step and "name" in organizations.columns:
            (key, *_) = step.load.key
            name = sql.SQL(", o.name AS organization").format()
            join = sql.SQL("LEFT JOIN {} AS o ON o.{}::pg_catalog.text = m.organization_id::pg_catalog.text").format(
                organizations.name, sql.Identifier(key)
            )
        chosen = listed(sql.SQL("m.{}").format(sql.Identifier(column)) for column in memberships.columns if column != "document")
        query = sql.SQL(
            'SELECT {}{} FROM {} AS m {} WHERE m.user_id::pg_catalog.text = {} ORDER BY m.organization_id::pg_catalog.text COLLATE "C"'
        ).format(chosen, name, memberships.name, join, sql.Literal(user))
        found = tx.execute(sql.SQL("SELECT pg_catalog.row_to_json(q)::pg_catalog.text FROM ({}) AS q").format(query)).fetchall()
        return [json.loads(text) for (text,) in found]

    def _memberships(self, tx: Connection) -> Table | None:
        table, _ = self._other(tx, self.where.shape.memberships)
        return table if table and {"user_id", "organization_id"} <= table.columns.keys() else None

    def _other(self, tx: Connection, stream: str) -> tuple[Table | None, Step | None]:
        step = self.where.others.get(stream)
        return (describe(tx, table_of(step, stream)), step) if step else (None, None)


_COMPLETE = """
SELECT pg_catalog.bool_and(EXISTS (
           SELECT FROM usersync.sweeps w JOIN usersync.seen_streams s ON s.id = w.stream_id
            WHERE s.job = %(job)s AND s.step = p.step AND s.stream = p.stream AND w.outcome IN ('ok', 'approved', 'refused')))
  FROM unnest(%(steps)s::text[], %(streams)s::text[]) AS p (step, stream)
"""
