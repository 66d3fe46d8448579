"""What differs between the ids that are desired and those that Klanten has, in temp tables of the transaction that plans.

What we remember of an id, in `usersync.accounts`: the domain that it was wanted for (`record`), Klanten's uuid of its customer (`account`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from usersync_cli import log
from usersync_cli.clients.postgres.arrays import texts
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import statements
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.errors import UsersyncError
from usersync_cli.model import Counts
from usersync_cli.state import outbox
from usersync_cli.state.outbox import StepScope

BATCH = 500
REFUSED = "refused_by_klanten"  # reason of a reject: it is not asked again about the same id and domain
SOMEBODY_ELSES = "somebody_elses"
UUID_OF_ANOTHER = "uuid_of_another"
COLUMNS = ("app", "id", "domain")

_DOCUMENT = "convert_to(jsonb_build_object('app', i.app, 'id', i.id, 'domain', i.domain)::text, 'UTF8')"
_CUSTOMER = """
COALESCE((SELECT c.uuid FROM usersync.customers AS c WHERE c.domain = {0}),
         (SELECT d.customer FROM usersync.former_domains AS d WHERE d.domain = {0} ORDER BY d.until DESC LIMIT 1))
"""
_NO_MAP = "SELECT NULL::uuid AS theirs, NULL::uuid AS ours, NULL::uuid AS named"
_SQL = statements(__name__)


@dataclass
class MappingPlan:
    """The mappings that are to be made; they are in the outbox. `counts` follows what is done."""

    name: str  # of the target
    counts: Counts
    scope: StepScope
    problems: list[UsersyncError] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """An id that is to be asked for, with its app at Klanten and the domain that it should have there."""

    number: int
    key: str
    app: str
    id: str
    domain: str | None


def stage(
    tx: Connection, transform: sql.Composable, apps: Mapping[str, str], order_by: str | None, *, afresh: bool
) -> tuple[int, int, int]:
    """Stage the rows of the transform; returns how many there are, how many different ids, and how many of other apps.

    Ids that we remember (`usersync_accounts`) to be there as they are wanted are not asked for, unless `afresh`.
    """
    order = sql.SQL("ORDER BY {}").format(sql.SQL(order_by)) if order_by else sql.SQL("ORDER BY q.domain")
    with as_user(tx):
        tx.execute(sql.SQL(_ROWS).format(transform=transform, order=order, key=sql.SQL(_KEY)))
    tx.execute(_statement("stages"))
    tx.execute(_SQL["apps"], {"ours": texts(apps), "theirs": texts(apps.values())})
    for name in ("ids", "index_ids", "without_a_key"):
        tx.execute(_SQL[name], {"afresh": afresh} if name == "ids" else None)
    ((read, distinct),) = tx.execute(_SQL["read"]).fetchall()
    ((left_out,),) = tx.execute(_SQL["left_out"]).fetchall()
    return read, distinct, left_out


_KEY = 'q.app::pg_catalog.text COLLATE pg_catalog."C", q.id::pg_catalog.text COLLATE pg_catalog."C"'
_ROWS = """
CREATE TEMP TABLE usersync_rows ON COMMIT DROP AS
SELECT q.app::pg_catalog.text AS app, q.id::pg_catalog.text AS id, q.domain::pg_catalog.text AS domain,
       CASE WHEN q.app IS NULL OR q.id IS NULL THEN 1
            ELSE pg_catalog.row_number() OVER (PARTITION BY {key} {order}) END AS nth
  FROM ({transform}) AS q
"""


def recall_refused(tx: Connection, scope: StepScope) -> None:
    """Ids that Klanten has refused as they are now are conflicts, and not sent again."""
    tx.execute(_statement("recall_refused"), {**vars(scope), "refused": REFUSED})


def to_ask(tx: Connection) -> Iterator[Sequence[Wanted]]:
    """The ids that have to be asked for, BATCH at a time."""
    after = 0
    while rows := tx.execute(_SQL["to_ask"], {"after": after, "batch": BATCH}).fetchall():
        batch = [Wanted(*row) for row in rows]
        after = batch[-1].number
        yield batch
        tx.execute("UPDATE pg_temp.usersync_ids SET state = 'asked' WHERE key = ANY(%s)", (texts(one.key for one in batch),))


def ask_siblings(tx: Connection) -> bool:
    """Where a customer has new ids, those of its other ids that we only remember have to be asked for; returns whether there are any."""
    return tx.execute(_SQL["siblings"]).rowcount > 0


def known(tx: Connection) -> list[tuple[str, str]]:
    """A few ids (app, id) that Klanten had when we looked last."""
    return [(str(app), str(id_)) for app, id_ in tx.execute(_SQL["known"]).fetchall()]


def compare(tx: Connection, *, mapped: bool) -> None:
    """Find what is to be made, and what a person has to decide. `mapped`: our map is there, and says which customers are one."""
    of = {"@of_ours@": _CUSTOMER.format("t.ours"), "@of_theirs@": _CUSTOMER.format("t.normal")}
    roots = str(_SQL["roots"]) if mapped else _NO_MAP
    for name, text in of.items():
        roots = roots.replace(name, text)
    tx.execute(str(_SQL["found"]).replace("@roots@", roots).encode())
    for name in ("candidates", "conflicts", "planned"):
        tx.execute(_statement(name))


def count(tx: Connection, read: int, distinct: int) -> Counts:
    """Count the ids: each is new, there, or has something for somebody to decide."""
    ((created, rejected, ambiguous),) = tx.execute(_SQL["count"]).fetchall()
    if ambiguous:
        log.get().warning(
            "Klanten has more than one customer for what is one here: their domains differ by case alone", customers=ambiguous
        )
    return Counts(read, read - distinct, inserted=created, unchanged=distinct - created - rejected, rejected=rejected)


def write_down(tx: Connection, scope: StepScope) -> None:
    """Write down what was found there as it is wanted, and the calls of this run."""
    tx.execute(_SQL["remember"], vars(scope))
    tx.execute(_SQL["forget"], vars(scope))
    outbox.write(tx, scope)


def changes(tx: Connection) -> Generator[tuple[Any, str, dict[str, str], str], None, None]:
    """What is to be made or decided, as (kind, key, what it will be, reason)."""
    with tx.cursor() as cursor:
        yield from cursor.execute(_SQL["changes"])


def _statement(name: str) -> bytes:
    return str(_SQL[name]).replace("@document@", _DOCUMENT).encode()
