"""The map filled by steps of documents, page by page; and that the same facts give the same map, whatever the order."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.list_source import ListSource, Sync
from usersync_cli.errors import PartialError, Unavailable
from usersync_cli.identity.resolve import Outcome
from usersync_cli.model import Change, Database
from usersync_cli.state import migrations

EXAMPLES = int(os.environ.get("USERSYNC_TEST_EXAMPLES", "2"))
RULES = [{"name": "website", "domain": "website"}, {"name": "email", "domain": "email"}]
SELECT = "SELECT key AS id, data ->> 'website' AS website, data ->> 'email' AS email FROM records"
MAP = """
    SELECT m.app, m.id, m.customer::text, c.domain, m.rule, m.value, m.domain, m.pinned
      FROM usersync.mappings AS m JOIN usersync.customers AS c ON c.uuid = m.customer ORDER BY 1, 2
"""


def identity(stream: str, **more: Any) -> dict[str, Any]:
    return {"stream": stream, "app": f"crm.{stream}", "id": "id", "rules": RULES, **more}


def company(key: str, website: str | None, email: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": key, "website": website, "email": email, **more}


@pytest.fixture
def source() -> ListSource:
    return ListSource({"companies": [], "contacts": []}, size=2)


@pytest.fixture
def sync(source: ListSource, database: Database) -> Sync:
    migrations.upgrade(database)
    return Sync(source, database, {"on_missing": "mark"}, SELECT, [identity("companies"), identity("contacts")])


def ids(sync: Sync) -> list[tuple[Any, ...]]:
    return sync.ask("SELECT app, id, domain FROM usersync.customer_ids ORDER BY app, id")


def foreseen(sync: Sync, **options: Any) -> list[tuple[Any, ...]]:
    """What a dry run says of the map: kind, id, domain before and after."""
    found: list[Change] = []
    sync.run(dry_run=True, diff=lambda change: found.append(change) is None, **options)
    return sorted(
        (one.kind, *one.key.values(), one.before.get("customer"), one.after.get("customer"))
        for one in found if one.kind in {"map", "unmap", "conflict"}
    )  # fmt: skip


def test_pages_of_two_streams(sync: Sync, source: ListSource) -> None:
    """
    Each page's rows are on the map with the page. Companies and contacts of one domain are of one customer; a second run writes
    nothing, and a record that has left is closed.
    """
    source.streams["companies"] = [company(f"c{n}", f"https://example{n}.org") for n in range(5)]
    source.streams["contacts"] = [company(f"p{n}", None, f"test.user{n}@example{n % 2}.org") for n in range(5)]
    will = foreseen(sync)

    result = sync.run()

    assert result.steps[0].error is None
    assert Outcome(mapped=10) == result.steps[0].identity
    assert len(ids(sync)) == len(will) == 10
    assert {("crm.companies", "c1", "example1.org"), ("crm.contacts", "p3", "example1.org")} < {*ids(sync)}
    assert [(5,)] == sync.ask("SELECT count(*) FROM usersync.customers")

    before = sync.ask("SELECT xmin, ctid, * FROM usersync.mappings")
    sync.ok()
    sync.ok(full=True)
    assert before == sync.ask("SELECT xmin, ctid, * FROM usersync.mappings")

    source.streams["contacts"] = source.streams["contacts"][1:]
    will = foreseen(sync)
    sync.ok()
    assert will == [("unmap", "p0", "example0.org", None)]
    assert [("crm.contacts", "p0", "left")] == sync.ask("SELECT app, id, closed_because FROM usersync.closed_mappings")


def test_killed_between_pages(sync: Sync, source: ListSource) -> None:
    """
    A page that was committed has its ids on the map; the next run goes on, and knows that it owes nothing.
    """
    source.streams["companies"] = [company(f"c{n}", f"example{n}.org") for n in range(6)]

    def fail(stream: str, page: int) -> None:
        if (stream, page) == ("companies", 2):
            raise Unavailable("gone for a while")

    source.fail = fail
    sync.run()
    assert ["c0", "c1", "c2", "c3"] == [id_ for _, id_, _ in ids(sync)]

    source.fail = lambda _stream, _page: None
    sync.ok()
    assert len(ids(sync)) == 6


def test_killed_before_all_rows_were_looked_at(sync: Sync, source: ListSource) -> None:
    """
    The rows that were there before the step had an identity are still owed after a run that wrote some, and broke off.
    """
    own, sync.identity = sync.identity, []
    source.streams["companies"] = [company(f"c{n}", f"example{n}.org") for n in range(6)]
    sync.ok()
    sync.identity = own
    source.streams["companies"] = [company("c0", "example.net"), *source.streams["companies"][1:]]

    def fail(stream: str, page: int) -> None:
        if stream == "contacts":
            raise KeyboardInterrupt

    source.fail = fail
    with suppress(KeyboardInterrupt):
        sync.run()
    assert ["c0"] == [id_ for _, id_, _ in ids(sync)]

    source.fail = lambda _stream, _page: None
    sync.ok()
    assert len(ids(sync)) == 6


def test_a_table_that_is_there(sync: Sync, source: ListSource) -> None:
    """
    When a step is given an identity, the rows that are there are looked at too, although the source has nothing new; a dry run says
    so before, together with what is new.
    """
    own, sync.identity = sync.identity, []
    source.streams["companies"] = [company(f"c{n}", f"example{n}.org") for n in range(3)]
    sync.ok()
    sync.identity = own
    source.streams["companies"] = [company("c0", "other.example.net"), *source.streams["companies"][1:], company("c3", "example3.org")]

    will = foreseen(sync)
    result = sync.run()

    assert ["example.net", "example1.org", "example2.org", "example3.org"] == [domain for *_, domain in ids(sync)]
    assert [("map", id_, None, domain) for _, id_, domain in ids(sync)] == will
    assert Outcome(mapped=4) == result.steps[0].identity
    assert Outcome() == sync.run().steps[0].identity


def test_an_id_that_comes_back(sync: Sync, source: ListSource) -> None:
    """
    An id that comes back does not inherit a person: its rules decide. A pinned one keeps its customer, and a person is asked.
    """
    everybody = [company(f"c{n}", f"example{n}.org") for n in range(4)]
    source.streams["companies"] = everybody
    sync.ok()
    sync.ask("UPDATE usersync.mappings SET pinned = true, rule = NULL, value = NULL, domain = NULL WHERE id = 'c1' RETURNING id")
    source.streams["companies"] = everybody[2:]
    sync.ok()
    assert ["c1", "c2", "c3"] == [id_ for _, id_, _ in ids(sync)]
    assert [("c1",)] == sync.ask("SELECT id FROM usersync.mappings WHERE left_at IS NOT NULL")

    source.streams["companies"] = [company("c0", None), *everybody[1:]]
    will = foreseen(sync)
    result = sync.run()

    assert [("conflict", "c1", "example1.org", None)] == will
    assert isinstance(result.steps[0].error, PartialError)
    assert ["c1", "c2", "c3"] == [id_ for _, id_, _ in ids(sync)]
    assert [("returned", "c1", "open")] == sync.ask("SELECT kind, app_id, status FROM usersync.identity_conflicts")


# any order

HOSTS = st.sampled_from([None, "a.test", "https://www.a.test/x", "b.test", "B.test.", "crowd.test", "x.crowd.test", "gmail.com"])
MAILS = st.sampled_from([None, "test@a.test", "Test <test@c.test>", "info@b.test", "test@crowd.test", "test@gmail.com", "nonsense"])
FACTS = st.dictionaries(st.sampled_from([f"k{n}" for n in range(7)]), st.tuples(HOSTS, MAILS), min_size=1)


def wipe(sync: Sync) -> None:
    tables = sync.ask("""
        SELECT string_agg(format('usersync.%I', tablename), ', ') FROM pg_tables
         WHERE schemaname = 'usersync' AND tablename <> 'alembic_version'
    """)
    with suppress(psycopg.ProgrammingError):
        sync.ask(f"TRUNCATE {tables[0][0]}")
    with suppress(psycopg.ProgrammingError):
        sync.ask("DROP TABLE IF EXISTS companies, contacts")


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(companies=FACTS, contacts=FACTS, data=st.data())
def test_any_order_gives_the_same_map(sync: Sync, source: ListSource, companies: Any, contacts: Any, data: st.DataObject) -> None:
    """
    The same facts give the same map, uuids included: all at once, or a record at a time in any order, with full runs in between, by
    one job or two.
    """
    rules = [identity("companies", max_ids=2), identity("contacts", max_ids=3)]
    facts = [
        (stream, company(key, *said)) for stream, some in (("companies", companies), ("contacts", contacts)) for key, said in some.items()
    ]
    maps = []
    for plan in ("at once", "one by one"):
        wipe(sync)
        sync.identity = rules
        source.streams["companies"], source.streams["contacts"] = [], []
        order = facts if plan == "at once" else data.draw(st.permutations(facts))
        source.size = 100 if plan == "at once" else data.draw(st.integers(1, 3))
        for number, (stream, one) in enumerate(order):
            source.streams[stream] = [*source.streams[stream], one]
            if plan == "one by one" and data.draw(st.booleans()) and number < len(order) - 1:
                sync.ok(full=data.draw(st.booleans()))
        sync.ok()
        maps.append(sync.ask(MAP))

    assert maps[0] == maps[1]
    assert [] == sync.ask("SELECT FROM usersync.identity_conflicts")


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=FACTS, after=FACTS, data=st.data())
def test_a_dry_run_of_other_rules(sync: Sync, source: ListSource, before: Any, after: Any, data: st.DataObject) -> None:
    """
    What a dry run says of the map, with other rules or other limits, and with other records, is what the run then does to it.
    """
    wipe(sync)
    source.size = data.draw(st.integers(1, 7))
    sync.identity = [
        identity("companies", max_ids=data.draw(st.integers(1, 4)), rules=data.draw(st.sampled_from([RULES[:1], RULES[1:], RULES])))
    ]
    source.streams["companies"] = [company(key, *said) for key, said in before.items()]
    sync.run()
    sync.identity = [identity("companies", max_ids=data.draw(st.integers(1, 4)), rules=data.draw(st.sampled_from([RULES, RULES[::-1]])))]
    if data.draw(st.booleans()):
        source.streams["companies"] = [company(key, *said) for key, said in {**before, **after}.items()]
    had, asked = map_of(sync), conflicts_of(sync)

    will = foreseen(sync)
    assert (had, asked) == (map_of(sync), conflicts_of(sync))
    sync.run()

    has = map_of(sync)
    did = [("unmap", id_, domain, None) for id_, domain in had.items() if has.get(id_) != domain]
    did += [("map", id_, None, domain) for id_, domain in has.items() if had.get(id_) != domain]
    did += [("conflict", id_, has[id_], domain) for id_, domain in conflicts_of(sync) if (id_, domain) not in asked]
    assert sorted(did) == will


def map_of(sync: Sync) -> dict[str, str]:
    with suppress(psycopg.errors.UndefinedTable):
        return dict(sync.ask("SELECT id, domain FROM usersync.customer_ids"))
    return {}


def conflicts_of(sync: Sync) -> list[tuple[Any, ...]]:
    return sync.ask("SELECT app_id, domain FROM usersync.identity_conflicts WHERE status = 'open' ORDER BY 1, 2")


def test_what_another_job_found_is_not_taken_back(database: Database) -> None:
    """
    Two jobs fill one app, and the second says another customer. That the first still says its own does not settle the conflict; that
    the second says the same now does.
    """
    migrations.upgrade(database)
    sources = [ListSource({"companies": [company("c1", domain)]}) for domain in ("a.test", "b.test")]
    first, second = (
        Sync(one, database, {"table": f"of_{n}"}, SELECT, [identity("companies", app="crm")], name=f"job{n}")
        for n, one in enumerate(sources)
    )
    first.run()
    second.run()

    first.run(full=True)
    assert [("c1", "b.test")] == conflicts_of(first)
    assert isinstance(first.run().steps[0].error, PartialError)

    sources[1].streams["companies"] = [company("c1", "a.test")]
    second.ok()
    assert [] == conflicts_of(first)


def test_eight_at_once(database: Database) -> None:
    """
    Eight jobs that fill one app, with the same ids and other domains, in other orders: each id has one customer, whatever another job
    said of it is a conflict, and nobody waits for each other in a circle.
    """
    migrations.upgrade(database)
    jobs = []
    for n in range(8):
        records = [company(f"c{i}", f"d{(i + n) % 9}.test") for i in range(40)]
        source = ListSource({"companies": records[::-1] if n % 2 else records}, size=7)
        jobs.append(Sync(source, database, {"table": f"of_{n}"}, SELECT, [identity("companies", app="crm")], name=f"job{n}"))

    with ThreadPoolExecutor(8) as pool:
        errors = [result.steps[0].error for result in pool.map(lambda one: one.run(), jobs)]

    assert {type(None), PartialError} >= {type(error) for error in errors}, errors
    ask = jobs[0].ask
    assert [(40, 40)] == ask("SELECT count(*), count(DISTINCT id) FROM usersync.mappings")
    assert [(9,)] == ask("SELECT count(*) FROM usersync.customers")
    said = {(f"c{i}", f"d{(i + n) % 9}.test") for n in range(8) for i in range(40)}
    held, asked = {*ask("SELECT id, domain FROM usersync.customer_ids")}, {*ask("SELECT app_id, domain FROM usersync.identity_conflicts")}
    assert said == held | asked
    assert not held & asked
