"""What a database role learns from plans, and from how they are carried out: nothing of apps that it was not granted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests import servers
from usersync_cli.clients.postgres import connections
from usersync_cli.identity import apps
from usersync_cli.model import Database

MAP = """
INSERT INTO usersync.apps (name, added_by) VALUES ('shop', 'test'), ('crm', 'test');
INSERT INTO usersync.customers (uuid, domain, created_by)
SELECT usersync.uuid_of(name), name, 'test' FROM unnest(ARRAY['own.test', 'both.test', 'rival.test', 'gone.test']) AS name;
INSERT INTO usersync.customers (uuid, domain, merged_into, created_by) VALUES
    (usersync.uuid_of('old.test'), 'old.test', usersync.uuid_of('both.test'), 'test'),
    (usersync.uuid_of('merged.test'), 'merged.test', usersync.uuid_of('rival.test'), 'test');
INSERT INTO usersync.mappings (app, id, customer)
SELECT app, id, usersync.uuid_of(name) FROM (VALUES ('shop', '1', 'own.test'), ('shop', '2', 'both.test'), ('shop', '3', 'old.test'),
    ('crm', '2', 'both.test'), ('crm', '4', 'rival.test'), ('crm', '5', 'merged.test')) AS v(app, id, name);
INSERT INTO usersync.closed_mappings (app, id, customer, closed_because) VALUES ('crm', '6', usersync.uuid_of('gone.test'), 'left');
ANALYZE
"""


@pytest.fixture
def reader(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """Signed in as a role that was granted the app shop of a map of two."""
    servers.migrate(database)
    with connections.connect(database, job="test", read_write=True) as owner:
        name = f"plans_{owner.info.dbname}"
        owner.execute(MAP)
        owner.execute(f"CREATE ROLE {name} LOGIN".encode())
        apps.grant(owner, "shop", name, "test")
        with psycopg.connect(database.url.replace("postgres@", f"{name}@"), autocommit=True) as reader:
            yield reader
        owner.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}".encode())


# What a role may say that the planner should not do.
PLANNER = ("", "seqscan", "indexscan bitmapscan indexonlyscan", "nestloop", "hashjoin", "mergejoin hashjoin", "seqscan nestloop")
QUESTIONS = ("app = 'crm' AND id = '{id}'", "id = '{id}'", "uuid = usersync.uuid_of('{domain}')", "domain = '{domain}'")


def test_what_is_there_and_what_is_not_look_the_same(reader: psycopg.Connection[Any]) -> None:
    """
    A question about an id, a uuid or a domain of another app does the same work as one about something that nobody has: the plans,
    with the rows that each node read and threw away, are equal, whatever plans a role does not let the planner make.
    """
    own = work(reader, "SELECT FROM usersync.customer_ids WHERE app = 'shop' AND id = '1'")
    assert own != work(reader, "SELECT FROM usersync.customer_ids WHERE app = 'shop' AND id = '9'")
    there = [{"id": "4", "domain": domain} for domain in ("rival.test", "merged.test", "gone.test")]
    for settings in PLANNER:
        reader.execute("RESET ALL")
        for name in settings.split():
            reader.execute(f"SET enable_{name} = off")
        for view in ("customer_ids", "customer_ids_then"):
            for question in QUESTIONS:
                query = f"SELECT FROM usersync.{view} WHERE {question}"
                nothing = work(reader, query.format(id="9", domain="nobody.test"))
                for values in there:
                    assert nothing == work(reader, query.format(**values)), (settings, question)


def work(reader: psycopg.Connection[Any], query: str) -> list[tuple[Any, ...]]:
    """The nodes of a plan with what they did: name, index, loops, rows that came out and that were removed."""
    ((plan,),) = reader.execute(f"EXPLAIN (ANALYZE, FORMAT json, TIMING OFF, SUMMARY OFF, COSTS OFF, BUFFERS OFF) {query}").fetchall()
    found: list[tuple[Any, ...]] = []

    def walk(node: dict[str, Any]) -> None:
        found.append(
            tuple((key, value) for key, value in node.items() if "Rows" in key or "Loops" in key or "Type" in key or "Name" in key)
        )
        for below in node.get("Plans", []):
            walk(below)

    walk(json.loads(json.dumps(plan))[0]["Plan"])
    return found
