"""Whois in a map of ten million mappings: each kind of question, as the command asks it, over one connection."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from benchmarks import measure
from benchmarks.measure import Contestant
from benchmarks.parts import USERSYNC
from benchmarks.report import Figure, Part
from benchmarks.server import Server
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.identity import whois
from usersync_cli.identity.domains import Domains
from usersync_cli.identity.mappings import reading
from usersync_cli.model import Database

CUSTOMERS, IDS = 2_000_000, 5  # ids of each customer
MERGED, CONFLICTS, CLOSED, RUNS = 100_000, 100_000, 500_000, 1000
TARGET = "bench_whois"
TIMES = 200  # questions of each kind, each another one
LIMIT = 50  # ms
APPS = ("shop", "crm.contacts", "crm.companies", "billing", "helpdesk")

_OF_APPS = "unnest('{" + ",".join(APPS) + "}'::text[]) AS a(app)"
_FILL = (
    f"INSERT INTO usersync.apps (name, added_by) SELECT a.app, 'benchmark' FROM {_OF_APPS}",
    f"""
    INSERT INTO usersync.customers (uuid, domain, created_by)
    SELECT usersync.uuid_of(d.domain), d.domain, 'job crm'
      FROM (SELECT 'c' || n || '-bench.test' FROM generate_series(1, {CUSTOMERS}) n) d(domain)
    """,
    # The index is made when all rows are there, as its own definition says: uuids come in random order.
    f"""
    DO $$
    DECLARE made text := (SELECT indexdef FROM pg_indexes WHERE schemaname = 'usersync' AND indexname = 'mappings_customer');
    BEGIN
        SET LOCAL maintenance_work_mem = '512MB';
        SET LOCAL work_mem = '512MB';
        DROP INDEX usersync.mappings_customer;
        INSERT INTO usersync.mappings (app, id, customer, rule, value, domain, job, step, run_id)
        SELECT a.app, c.number, c.uuid, 'email', 'user' || c.number || '@' || c.domain, c.domain, 'crm', 'step ' || a.app, 7
          FROM {_OF_APPS}, (SELECT substr(c.domain, 2, strpos(c.domain, '-') - 2) AS number, c.domain, c.uuid
                              FROM usersync.customers c) c ORDER BY a.app, c.number COLLATE "C";
        EXECUTE made;
    END $$
    """,
    f"""
    INSERT INTO usersync.closed_mappings (app, id, customer, rule, domain, job, step, run_id, closed_because)
    SELECT 'shop', (n * 3)::text, usersync.uuid_of('c' || n || '-bench.test'), 'email', 'c' || n || '-bench.test', 'crm', 'step shop', 7,
           'left'
      FROM generate_series(1, {CLOSED}) n
    """,
    f"""
    UPDATE usersync.customers SET merged_into = usersync.uuid_of('c' || n || '-bench.test') FROM generate_series(1, {MERGED}) n
     WHERE domain = 'c' || (n + {CUSTOMERS // 2}) || '-bench.test'
    """,
    f"""
    INSERT INTO usersync.identity_conflicts (kind, app, app_id, domain, rule, value, job, step, run_id)
    SELECT 'domain', 'shop', n::text, 'c' || (n + 1) || '-bench.test', 'email', 'user@c' || (n + 1) || '-bench.test', 'crm',
           'step shop', 8
      FROM generate_series(1, {CONFLICTS}) n
    """,
    f"""
    INSERT INTO usersync.runs (job, status, exit_status, epoch, owner, usersync_version)
    SELECT 'crm', 'ok', 0, 1, '', '' FROM generate_series(1, {RUNS})
    """,
    f"""
    INSERT INTO usersync.run_steps (run_id, step, status, finished_at)
    SELECT r.id, 'step ' || a.app, 'ok', now() FROM usersync.runs r, {_OF_APPS}
    """,
    "VACUUM ANALYZE",
)


def part(server: Server) -> Part:
    """Questions of each kind, spread over the map, half of them at its merged end; and the command, from start to end."""
    config = server.folder / "whois.yaml"
    config.write_text(json.dumps({"environment": "test", "target": server.url(TARGET), "sources": _SOURCES, "jobs": _JOBS}))
    measure.run(server, Contestant("usersync db upgrade", f"{USERSYNC} db upgrade --config {config}"))
    server.execute(TARGET, *_FILL)
    ((mappings,),) = server.execute(TARGET, "SELECT count(*) FROM usersync.mappings")
    figures = []
    with _asking(server) as tx:
        domains = Domains()
        for kind, made in _QUESTIONS.items():
            took = [_took(tx, made.format(n=number, uuid=uuid), domains) for number, uuid in _spread(tx)]
            what = f"whois by {kind}, {mappings:,} mappings"
            figures.append(
                Figure(what, median(took), "ms", LIMIT, f"slowest of {len(took)}: {max(took):.1f} ms", "", (min(took), max(took)))
            )
    command = measure.run(server, Contestant("usersync whois", f"{USERSYNC} whois shop:{CUSTOMERS // 3} --config {config}"))
    return Part("Whois", figures, {"usersync whois": [command]})


_SOURCES = {"crm": {"type": "postgres", "url": "postgresql://nobody.example.com/never"}}  # no source is asked
_JOBS = {"crm": {"steps": [{"extract": {"source": "crm", "table": "people"}, "load": {"table": "people", "key": ["id"], "create": True}}]}}
_QUESTIONS = {
    "uuid": "{uuid}",
    "domain": "c{n}-bench.test",
    "id": "shop:{n}",
    "app without its object": "crm:{n}",
    "e-mail address": "test.user@c{n}-bench.test",
}


@contextmanager
def _asking(server: Server) -> Iterator[Connection]:
    with reading(Database(server.url(TARGET), "target"), "measuring") as tx:
        assert tx is not None
        yield tx


def _spread(tx: Connection) -> Iterator[tuple[int, str]]:
    numbers = [CUSTOMERS * turn // TIMES // 2 + (turn % 2) * CUSTOMERS // 2 + 1 for turn in range(TIMES)]
    for number in numbers:
        ((uuid,),) = tx.execute("SELECT usersync.uuid_of(%s)::text", (f"c{number}-bench.test",)).fetchall()
        yield number, uuid


def _took(tx: Connection, text: str, domains: Domains) -> float:
    """Milliseconds, from the question to the answer in Python."""
    began = time.perf_counter()
    found = whois.ask(tx, whois.question(tx, text, domains), most=200)
    took = (time.perf_counter() - began) * 1000
    assert found.customers, text
    return took
