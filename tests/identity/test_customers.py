"""Customers by hand: renamed, merged, apart again, exactly; and what the map said at an earlier moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import servers
from usersync_cli.clients.postgres import connections
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.transactions import transaction
from usersync_cli.errors import ConfigError, Conflict, NotFound
from usersync_cli.identity import customers, merging
from usersync_cli.model import Database

NAMES = ["a.test", "b.test", "c.test", "d.test", None, None]
IDS = [UUID(int=number) for number in range(1, 7)]
STATE = "SELECT c.uuid, c.domain, c.merged_into FROM usersync.customers AS c ORDER BY 1"
RESOLVED = """
SELECT c.uuid, c.domain, r.uuid, r.domain
  FROM usersync.customers AS c JOIN usersync.customers AS r ON r.uuid = usersync.root_of(c.uuid)
"""
CLUSTERS = """
SELECT (SELECT count(*) FROM usersync.customers AS c WHERE c.merged_into IS NOT NULL) - (SELECT count(*) FROM usersync.merged_customers),
       (SELECT count(*) FROM usersync.clusters AS k
         WHERE k.size <> (SELECT count(*) FROM usersync.merged_customers AS m WHERE m.cluster = k.cluster))
"""


class Undo(Exception):
    """Ends a transaction without its changes."""


@pytest.fixture
def map_(database: Database) -> Iterator[Connection]:
    """A connection to a target with the map's tables."""
    servers.migrate(database)
    with connections.connect(database, job="test", read_write=True) as connection:
        yield connection


@contextmanager
def undone(map_: Connection) -> Iterator[None]:
    """Six customers, two of them without a domain, in a transaction that is rolled back."""
    with pytest.raises(Undo), transaction(map_):
        for uuid, domain in zip(IDS, NAMES, strict=True):
            map_.execute("INSERT INTO usersync.customers (uuid, domain, created_by) VALUES (%s, %s, 'test')", (uuid, domain))
        yield
        raise Undo


def roots(pointers: dict[UUID, UUID]) -> dict[UUID, UUID]:
    """What each customer resolves to, by following what it was merged into."""
    found = {}
    for uuid in IDS:
        at = uuid
        while at in pointers:
            at = pointers[at]
        found[uuid] = at
    return found


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_merges_taken_back_in_any_order_leave_nothing(map_: Connection, data: st.DataObject) -> None:
    """
    Each customer resolves to the end of what it was merged into; a circle is refused, and so is a second merge; when all merges are
    taken back, in any order, every customer is what it was, domain and all.
    """
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(IDS)), max_size=8))
    with undone(map_):
        before = map_.execute(STATE).fetchall()
        pointers: dict[UUID, UUID] = {}
        for one, into in pairs:
            if one == into or roots(pointers)[into] == one or pointers.get(one, into) != into:
                with pytest.raises(Conflict):
                    merging.merge(map_, str(one), str(into), "test", "why")
            else:
                assert (one not in pointers) == merging.merge(map_, str(one), str(into), "test", "why").changed
                pointers[one] = into
            check(map_, pointers)
        for one in data.draw(st.permutations(sorted(pointers))):
            merging.unmerge(map_, str(one), "test", "not so")
            del pointers[one]
            check(map_, pointers)

        assert before == map_.execute(STATE).fetchall()
        with pytest.raises(NotFound):
            merging.unmerge(map_, str(IDS[0]), "test", "not so")


def check(map_: Connection, pointers: dict[UUID, UUID]) -> None:
    """The map resolves as the pointers do, each domain means who it meant, and no customer that could have one is without."""
    expected = roots(pointers)
    found = {uuid: (domain, root, called) for uuid, domain, root, called in map_.execute(RESOLVED).fetchall()}
    assert expected == {uuid: root for uuid, (_, root, _) in found.items()}
    meant = {domain: root for domain, root, _ in found.values() if domain}
    assert {domain: expected[uuid] for uuid, domain in zip(IDS, NAMES, strict=True) if domain} == meant
    named = {expected[uuid] for uuid, domain in zip(IDS, NAMES, strict=True) if domain}
    assert named == {root for _, root, called in found.values() if called}
    assert [(0, 0)] == map_.execute(CLUSTERS).fetchall()


def test_a_domain_that_was_given_is_taken_back_after_a_rename(map_: Connection) -> None:
    """
    A customer without a domain takes that of the one merged into it; renamed since, it keeps its new domain when that is undone,
    and the first domain means the first customer again.
    """
    with undone(map_):
        merging.merge(map_, "a.test", str(IDS[4]), "test", "why")
        assert (IDS[4], "a.test") == pair(map_, "a.test")
        merging.rename(map_, "a.test", "new.test", "test")
        assert (IDS[4], "new.test") == pair(map_, "a.test")
        with pytest.raises(Conflict):
            merging.rename(map_, "b.test", "a.test", "test")
        merging.unmerge(map_, str(IDS[0]), "test", "not so")

        assert (IDS[0], "a.test") == pair(map_, "a.test")
        assert (IDS[4], "new.test") == pair(map_, "new.test")


def test_a_rename(map_: Connection) -> None:
    """
    A former domain goes on meaning its customer and nobody else's; the uuid stays; who is merged, or called so already, is not renamed.
    """
    with undone(map_):
        assert merging.rename(map_, "a.test", "New.TEST.", "test", "why").changed
        assert not merging.rename(map_, "a.test", "new.test", "test").changed
        assert (IDS[0], "new.test") == pair(map_, "a.test") == pair(map_, "new.test")
        assert (customers.find(map_, "a.test"), False) == customers.get_or_create(map_, "a.test", "test")
        merging.rename(map_, "new.test", "a.test", "test")
        assert (IDS[0], "a.test") == pair(map_, "new.test")
        merging.merge(map_, "a.test", "b.test", "test", "why")
        for text, domain, error in (
            ("a.test", "x.test", Conflict),
            ("b.test", "new.test", Conflict),
            ("c.test", "d.test", Conflict),
            ("c.test", "test@d.test", ConfigError),
            ("e.test", "x.test", NotFound),
        ):
            with pytest.raises(error):
                merging.rename(map_, text, domain, "test")


def pair(map_: Connection, text: str) -> tuple[UUID, str | None]:
    found = customers.find(map_, text)
    assert found is not None
    return found.root, found.root_domain


def test_who_has_lent_a_domain_is_found_by_it(map_: Connection) -> None:
    """
    `unmerge` of a domain means the merged customer that has lent it to one without a domain.
    """
    with undone(map_):
        merging.merge(map_, "a.test", str(IDS[4]), "test", "why")
        merging.merge(map_, str(IDS[4]), str(IDS[5]), "test", "why")
        assert IDS[0] == merging.unmerge(map_, "a.test", "test", "not so").customer.uuid
        assert (IDS[5], None) == pair(map_, str(IDS[4]))


def test_a_long_chain_is_resolved_at_once(map_: Connection) -> None:
    """
    In a chain of merges the first resolves to the last without a step for each, and can be cut and joined in the middle.
    """
    map_.execute(
        "INSERT INTO usersync.customers (uuid, created_by) SELECT lpad(to_hex(i), 32, '0')::uuid, 'test' FROM generate_series(1, 1500) i"
    )
    map_.execute(
        "UPDATE usersync.customers SET merged_into = lpad(to_hex(i + 1), 32, '0')::uuid FROM generate_series(1, 1499) i"
        " WHERE uuid = lpad(to_hex(i), 32, '0')::uuid"
    )
    first, middle, last = UUID(int=1), UUID(int=700), UUID(int=1500)
    plan = map_.execute("EXPLAIN (ANALYZE, COSTS OFF) SELECT usersync.root_of(uuid) FROM usersync.customers WHERE uuid = %s", (first,))
    assert "Recursive" not in str(plan.fetchall())
    assert last == root(map_, first)
    with transaction(map_):
        map_.execute(
            "INSERT INTO usersync.merges (customer, merged_into, merged_by, reason)"
            " SELECT uuid, merged_into, 'test', 'why' FROM usersync.customers WHERE uuid = %s",
            (middle,),
        )
        merging.unmerge(map_, str(middle), "test", "not so")
        assert (middle, last) == (root(map_, first), root(map_, UUID(int=701)))
        with pytest.raises(Conflict):
            merging.merge(map_, str(middle), str(first), "test", "why")
        merging.merge(map_, str(middle), str(UUID(int=701)), "test", "why")
        assert last == root(map_, first)


def root(map_: Connection, uuid: UUID) -> UUID:
    found = customers.of_uuid(map_, uuid)
    assert found is not None
    return found.root


def test_conflicts_between_customers_that_become_one(map_: Connection) -> None:
    """
    They are over while the merge stands, and open again without it; others are not touched.
    """
    with undone(map_):
        map_.execute("INSERT INTO usersync.mappings (app, id, customer) VALUES ('shop', '1', %s), ('shop', '2', %s)", (IDS[0], IDS[0]))
        map_.execute(
            "INSERT INTO usersync.identity_conflicts (kind, app, app_id, domain)"
            " VALUES ('domain', 'shop', '1', 'b.test'), ('domain', 'shop', '2', 'c.test')"
        )
        query = "SELECT app_id, status FROM usersync.identity_conflicts ORDER BY app_id"
        assert 1 == merging.merge(map_, "b.test", "a.test", "test", "why").conflicts
        assert [("1", "over"), ("2", "open")] == map_.execute(query).fetchall()
        assert 1 == merging.unmerge(map_, "b.test", "test", "not so").conflicts
        assert [("1", "open"), ("2", "open")] == map_.execute(query).fetchall()


def test_the_map_as_it_was(map_: Connection, connection: psycopg.Connection[Any]) -> None:
    """
    customer_ids_at gives what customer_ids gave at that moment: mappings, merges and names; by id and by uuid too.
    """
    with transaction(map_):
        for domain in ("a.test", "b.test", "c.test"):
            customers.get_or_create(map_, domain, "test")
        map_.execute("INSERT INTO usersync.apps (name, added_by) VALUES ('shop', 'test')")
    seen: list[tuple[str, list[Any]]] = []
    for step in (
        "INSERT INTO usersync.mappings (app, id, customer) SELECT 'shop', left(domain, 1), uuid FROM usersync.customers",
        lambda: merging.merge(map_, "a.test", "b.test", "test", "why"),
        lambda: merging.merge(map_, "b.test", "c.test", "test", "why"),
        lambda: merging.rename(map_, "c.test", "new.test", "test"),
        MOVE,
        lambda: merging.unmerge(map_, "a.test", "test", "not so"),
        lambda: merging.rename(map_, "new.test", "newer.test", "test"),
        CLOSE,
        lambda: merging.unmerge(map_, "b.test", "test", "not so"),
    ):
        with transaction(map_):
            map_.execute(step) if isinstance(step, str) else step()
        ((moment,),) = map_.execute("SELECT clock_timestamp()::text").fetchall()
        seen.append((moment, rows(connection, "usersync.customer_ids")))

    assert seen == [(moment, rows(connection, f"usersync.customer_ids_at('{moment}')")) for moment, _ in seen]
    assert 8 == len({str(found) for _, found in seen})  # taking a domain's mapping away and the last merge show different rows
    for moment, found in seen:
        for app, id_, uuid, domain in found:
            assert [(app, id_, uuid, domain)] == rows(connection, f"usersync.customer_ids_at('{moment}', '{app}', '{id_}')")
            same = [row for row in found if row[2] == uuid]
            assert same == rows(connection, f"usersync.customer_ids_at('{moment}', of_uuid => '{uuid}')")
    assert [] == rows(connection, "usersync.customer_ids_at('2000-01-01')") == rows(connection, "usersync.customer_ids_at(NULL)")
    assert [("",)] == connection.execute("SELECT COALESCE(current_setting('usersync.at', true), '')").fetchall()


MOVE = """
WITH gone AS (DELETE FROM usersync.mappings WHERE id = 'c' RETURNING *)
INSERT INTO usersync.closed_mappings (app, id, customer, opened_at, closed_because) SELECT app, id, customer, opened_at, 'moved' FROM gone;
INSERT INTO usersync.mappings (app, id, customer) SELECT 'shop', 'c', uuid FROM usersync.customers WHERE domain = 'a.test'
"""
CLOSE = """
WITH gone AS (DELETE FROM usersync.mappings WHERE id = 'c' RETURNING *)
INSERT INTO usersync.closed_mappings (app, id, customer, opened_at, closed_because) SELECT app, id, customer, opened_at, 'removed' FROM gone
"""


def rows(connection: psycopg.Connection[Any], what: str) -> list[Any]:
    return connection.execute(f"SELECT app, id, uuid, domain FROM {what} ORDER BY app, id").fetchall()
