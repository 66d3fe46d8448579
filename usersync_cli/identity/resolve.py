"""From facts to mappings, set-wise, in the transaction of the rows: what is decided, then how it is written.

Whatever the order in which the same facts come, the map is the same: a customer's uuid is made of its domain, the first rule that
gives a domain decides, and a mapping that is there is never replaced by another fact: that is a conflict, which a person answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self
from uuid import NAMESPACE_DNS, UUID

from psycopg import sql

from usersync_cli.clients.postgres.arrays import texts
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import listed, scalar, statements
from usersync_cli.errors import ConfigError
from usersync_cli.identity.domains import Domains, domain_of
from usersync_cli.identity.facts import EXACT, Facts

_SQL = statements(__name__)
_BATCH = 5000  # hosts that are judged at a time
MAP = ("mappings", "customers", "former_domains", "crowded_domains", "identity_conflicts")


@dataclass(frozen=True)
class Filled:
    """Who fills an app: a stream of a step of a job, in one run."""

    job: str
    step: str
    stream: str
    run_id: int


@dataclass
class Outcome:
    """What became of the ids: new mappings, new conflicts, mappings that were closed."""

    mapped: int = 0
    conflicts: int = 0
    closed: int = 0

    def __iadd__(self, other: Outcome) -> Self:
        self.mapped, self.conflicts, self.closed = (
            self.mapped + other.mapped, self.conflicts + other.conflicts, self.closed + other.closed
        )  # fmt: skip
        return self

    def __bool__(self) -> bool:
        return any(vars(self).values())


class Resolver:
    """Decides and writes what the facts of one identity mean. Everything happens in the transaction that is handed in.

    `unique`: an id has one row. `few`: the facts are a page's. Without the tables of the map, as in a preview before the first run, they
    are taken as empty.
    """

    def __init__(self, facts: Facts, filled: Filled, domains: Domains, *, unique: bool, few: bool) -> None:
        self._facts, self._filled, self._domains, self._unique, self._few = facts, filled, domains, unique, few
        self._identity = facts.identity
        self._undone = False  # mappings are taken back
        self._outcome: Outcome | None = None
        self._crowds: list[tuple[str, UUID, int]] = []
        self._crowded: set[str] = set()
        self._there = True

    # what is decided

    def open(self, tx: Connection, *, there: bool) -> None:
        """Begin; `there`: the map has its tables."""
        self._there = there
        tx.execute(self._sql("hosts"))
        if not there:
            for statement in _STAND_INS:
                tx.execute(statement)

    def unlist(self, tx: Connection) -> None:
        """Take back what the lists and max_ids do not allow any more; for when all rows are looked at."""
        rules = [rule.name for rule in self._identity.rules if not rule.uuid]
        query = self._sql_of(
            "SELECT DISTINCT m.domain FROM {mappings} AS m WHERE m.app = %(app)s AND NOT m.pinned AND m.rule = ANY(%(rules)s)"
        )
        nobody = [one for (one,) in self._rows(tx, query, rules=rules) if one and self._domains.judge(one).domain is None]
        if nobody:
            self._execute(tx, "unlisted", domains=nobody, rules=rules)
        if crowds := self._execute(tx, "overfull", most=self._identity.max_ids, rules=rules).fetchall():
            self._crowd(tx, crowds)

    def left(self, tx: Connection, *, writes: bool) -> None:
        """Whose records have left: pins are kept, with the date; others than those that this step has mapped too."""
        if scalar(tx, self._sql_of("SELECT EXISTS (SELECT FROM {undone})")):
            if writes:
                self._execute(tx, "pins_left")
            self._execute(tx, "left")

    def decide(self, tx: Connection) -> Sequence[str]:
        """Decide; gives domains that turned out to be crowded: with the facts of the ids that they had, it is decided again."""
        self._judge(tx)
        self._undone = bool(scalar(tx, self._sql_of("SELECT EXISTS (SELECT FROM {undone})")))
        if self._crowds:
            tx.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._facts.decided))
        self._execute(tx, "decide")
        crowds = self._execute(tx, "crowds", most=self._identity.max_ids).fetchall()
        if not crowds:
            return ()
        return self._crowd(tx, crowds)

    def _crowd(self, tx: Connection, crowds: Sequence[tuple[str, UUID, int]]) -> Sequence[str]:
        """From now on these domains identify nobody in this app."""
        self._crowds += crowds
        self._crowded |= {one[0] for one in crowds}
        domains, customers = [one[0] for one in crowds], [one[1] for one in crowds]
        self._execute(tx, "crowd", domains=domains, customers=customers)
        tx.execute(self._sql_of("DELETE FROM {hosts} WHERE domain = ANY(%s) AND NOT starts_with(host, '=')"), (domains,))
        return domains

    def _judge(self, tx: Connection) -> None:
        """Find the domain of each host that was not judged yet."""
        said = sql.SQL(" UNION ").join(
            sql.SQL("SELECT f.h{} AS host FROM {} AS f").format(sql.SQL(str(rank)), self._facts.table) for rank in self._facts.ranks
        )
        unjudged = sql.SQL(
            "SELECT DISTINCT f.host FROM ({}) AS f WHERE f.host IS NOT NULL AND NOT EXISTS (SELECT FROM {} AS h WHERE h.host = f.host)"
        )
        query = unjudged.format(said, self._facts.hosts)
        if self._few:
            self._judged(tx, tx.execute(query).fetchall())
            return
        with tx.cursor("usersync_hosts") as cursor:
            cursor.execute(query)
            while batch := cursor.fetchmany(_BATCH):
                self._judged(tx, batch)

    def _judged(self, tx: Connection, batch: Sequence[tuple[str]]) -> None:
        found = [(host, domain) for (host,) in batch if (domain := self._domain(host))]
        hosts, domains = texts(host for host, _ in found), texts(domain for _, domain in found)
        self._execute(tx, "judged", hosts=hosts, domains=domains, made=texts(new_uuid(domain) for _, domain in found))

    def _domain(self, host: str) -> str | None:
        if not host.startswith(EXACT):
            found = self._domains.judge(host).domain
            return None if found in self._crowded else found
        try:
            return domain_of(host.removeprefix(EXACT))
        except ConfigError:
            return None

    # what is written

    def write(self, tx: Connection) -> None:
        """Write what was decided."""
        filled = self._filled
        if self._crowds:
            domains, ids = [one[0] for one in self._crowds], [one[2] for one in self._crowds]
            self._execute(tx, "add_crowds", domains=domains, ids=ids)
            self._execute(tx, "owed_by_others")
        self._execute(tx, "settle")
        found = self.outcome(tx)
        if found.closed:
            self._execute(tx, "close")
        if found.mapped:
            self._execute(tx, "add_customers", by=f"job {filled.job}")
            self._execute(tx, "add_mappings")
        if found.conflicts:
            self._execute(tx, "add_conflicts")
            self._execute(tx, "back")

    def outcome(self, tx: Connection) -> Outcome:
        """What a run does, in numbers."""
        if self._outcome is None:
            ((mapped, conflicts, returned, theirs),) = self._execute(tx, "outcome").fetchall()
            closed = scalar(tx, self._sql_of("SELECT count(DISTINCT u.id) FROM {undone} AS u"))
            self._outcome = Outcome(mapped, conflicts + returned + theirs, closed)
        return self._outcome

    def foreseen(self, tx: Connection) -> Iterator[tuple[str, str, str | None, str | None, str]]:
        """For a preview: kind (map, unmap, conflict), id, the customer's domain now, the one that it would be, and why; by id."""
        with tx.cursor("usersync_map") as cursor:
            cursor.itersize = 200
            cursor.execute(self._sql("foreseen"), self._values())
            yield from cursor

    # statements

    def _execute(self, tx: Connection, name: str, **more: Any) -> Any:
        return tx.execute(self._sql(name), self._values(**more))

    def _rows(self, tx: Connection, query: sql.Composed, **more: Any) -> list[tuple[Any, ...]]:
        return tx.execute(query, self._values(**more)).fetchall()

    def _values(self, **more: Any) -> dict[str, Any]:
        filled, identity = self._filled, self._identity
        rules = [rule.name for rule in identity.rules]
        return {"app": identity.app, "job": filled.job, "step": filled.step, "stream": filled.stream, "run": filled.run_id,
                "rules": rules, **more}  # fmt: skip

    def _sql(self, name: str) -> bytes:
        """A statement. It is the same for each page, and making it takes longer than many take to execute."""
        key = (name, self._there, self._unique, self._few, self._undone)
        if key not in self._facts.texts:
            self._facts.texts[key] = self._sql_of(_SQL[name]).as_bytes()
        return self._facts.texts[key]

    def _sql_of(self, text: Any) -> sql.Composed:
        facts, uuids = self._facts, any(rule.uuid for rule in self._identity.rules)
        tables: dict[str, sql.Composable] = {
            name: sql.SQL(f"usersync.{name}" if self._there else f"pg_temp.usersync_map_{name}") for name in MAP
        }
        tables |= {"facts_table": facts.table, "undone": facts.undone, "hosts": facts.hosts, "decided": facts.decided}
        parts: dict[str, sql.Composable] = {
            "customer": _CUSTOMER_OF_UUID if uuids else _CUSTOMER,
            "is_new": sql.SQL("AND k.uuid IS NULL" if uuids else ""),
            "theirs": _THEIRS if uuids else sql.SQL("NULL::text"),
            "by_uuid": sql.SQL("LEFT JOIN {customers} AS k ON k.uuid = d.uuid").format(**tables) if uuids else sql.SQL(""),
            "mapped": sql.SQL("x.mapped") if self._unique else _MAPPED,
            "root_of_mapped": self._root("y.mapped"),
            "root_of_customer": self._root("y.customer"),
            "facts": self._candidates(),
            "held": sql.SQL(_SQL["held_by_few" if self._few else "held"]),
            "but": sql.SQL("AND NOT EXISTS (SELECT FROM {undone} AS u WHERE u.id = m.id)" if self._undone else ""),
        }
        filled = {name: self._filled_in(part, tables) for name, part in parts.items()}
        filled["conflicts"] = sql.SQL(_SQL["conflicts"]).format(**tables)
        return sql.SQL(text).format(**tables, **filled)

    def _filled_in(self, part: sql.Composable, tables: dict[str, Any]) -> sql.SQL | sql.Composed:
        if not isinstance(part, sql.SQL):
            return sql.Composed([part])
        roots = {"root_of_k": self._root("k.uuid"), "root_of_known": self._root("d.known")}
        return part.format(**tables, **roots)

    def _root(self, customer: str) -> sql.SQL:
        return sql.SQL(f"usersync.root_of({customer})" if self._there else customer)

    def _candidates(self) -> sql.Composed:
        """A SELECT of what the first rule that decides says; for each id once (`turn` 1), unless its rows differ."""
        facts = self._facts
        names = ("rank", "value", "domain", "known", "made", "uuid")
        cases: dict[str, list[sql.Composable]] = {name: [] for name in names}
        joins: list[sql.Composable] = []
        for rank in facts.ranks:
            n = sql.SQL(str(rank))
            decides = sql.SQL(
                "a{n}.domain IS NOT NULL OR f.u{n} IS NOT NULL" if facts.identity.rules[rank - 1].uuid else "a{n}.domain IS NOT NULL"
            )
            values = {"rank": "{n}", "value": "f.v{n}", "domain": "a{n}.domain", "known": "a{n}.customer", "made": "a{n}.made"}
            for name, value in {**values, "uuid": "f.u{n}::uuid"}.items():
                cases[name].append(sql.SQL("WHEN {} THEN {}").format(decides.format(n=n), sql.SQL(value).format(n=n)))
            joins.append(sql.SQL("LEFT JOIN {hosts} AS a{n} ON a{n}.host = f.h{n}").format(hosts=facts.hosts, n=n))
        columns = listed(sql.SQL("CASE {} END AS {}").format(sql.SQL(" ").join(some), sql.Identifier(name)) for name, some in cases.items())
        each = sql.SQL("SELECT f.id, {} FROM {} AS f {}").format(columns, facts.table, sql.SQL(" ").join(joins))
        return (sql.SQL("SELECT e.*, 1 AS turn FROM ({}) AS e") if self._unique else _TURNS).format(each)


def new_uuid(domain: str) -> str:
    """The uuid of a customer that is made of this domain, as `usersync.uuid_of` makes it; 32 digits."""
    digits = hashlib.sha256(NAMESPACE_DNS.bytes + domain.encode()).hexdigest()
    return f"{digits[:12]}8{digits[13:16]}{'89ab'[int(digits[16], 16) & 3]}{digits[17:32]}"


# Rows of one id may differ. What the first rule that decides says in the one with the first domain counts, others are conflicts.
_TURNS = sql.SQL("""
    SELECT * FROM (
        SELECT e.*, row_number() OVER (PARTITION BY e.id ORDER BY e.rank, e.domain, e.uuid) AS turn,
               min(e.rank) OVER (PARTITION BY e.id) AS first
          FROM (SELECT DISTINCT ON (e.id, e.rank, e.domain, e.uuid) e.* FROM ({}) AS e
                 ORDER BY e.id, e.rank, e.domain, e.uuid, e.value COLLATE "C") AS e
    ) AS e WHERE e.turn = 1 OR e.rank = e.first
""")
_MAPPED = sql.SQL("COALESCE(x.mapped, CASE WHEN x.turn > 1 THEN first_value(x.customer) OVER (PARTITION BY x.id ORDER BY x.turn) END)")
_CUSTOMER = sql.SQL("COALESCE(d.known, d.made)")
# A list of somebody's own says the uuid too: it is kept, unless the domain is known by another. Of two for one domain, the lower.
_CUSTOMER_OF_UUID = sql.SQL("""
    COALESCE(k.uuid, d.known,
        CASE WHEN d.domain IS NOT NULL THEN (min(CASE WHEN k.uuid IS NULL THEN d.uuid::text END) OVER (PARTITION BY d.domain))::uuid END,
        d.uuid, d.made)
""")
_THEIRS = sql.SQL("""
    CASE WHEN d.uuid IS NULL OR d.domain IS NULL THEN NULL
         WHEN k.uuid IS NULL AND COALESCE(d.known,
              (min(CASE WHEN k.uuid IS NULL THEN d.uuid::text END) OVER (PARTITION BY d.domain))::uuid) <> d.uuid THEN 'uuid'
         WHEN k.uuid IS NOT NULL AND d.domain IS DISTINCT FROM (SELECT r.domain FROM {customers} AS r WHERE r.uuid = {root_of_k})
              AND {root_of_known} IS DISTINCT FROM {root_of_k} THEN 'renamed' END
""")
_STAND_INS = (
    """
    CREATE TEMP TABLE IF NOT EXISTS usersync_map_mappings (app text COLLATE "C", id text COLLATE "C", customer uuid, rule text, value text,
        domain text COLLATE "C", pinned boolean, job text, step text, left_at timestamptz) ON COMMIT DROP
    """,
    """
    CREATE TEMP TABLE IF NOT EXISTS usersync_map_customers (uuid uuid, domain text COLLATE "C", merged_into uuid) ON COMMIT DROP;
    CREATE TEMP TABLE IF NOT EXISTS usersync_map_former_domains (domain text COLLATE "C", customer uuid) ON COMMIT DROP;
    CREATE TEMP TABLE IF NOT EXISTS usersync_map_crowded_domains (app text COLLATE "C", domain text COLLATE "C") ON COMMIT DROP
    """,
    """
    CREATE TEMP TABLE IF NOT EXISTS usersync_map_identity_conflicts (kind text, app text COLLATE "C", app_id text COLLATE "C",
        domain text COLLATE "C", uuid uuid, status text) ON COMMIT DROP
    """,
)
