"""The map filled by a step of tables: whose rows are whose, and what is never moved without a person."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Command, NewDatabase
from tests.simple_job import Job
from usersync_cli.errors import PartialError
from usersync_cli.identity.resolve import Outcome
from usersync_cli.model import Change

RULES = [{"name": "website", "domain": "website"}, {"name": "email", "domain": "email"}]
PEOPLE = "DROP TABLE people_at_source; CREATE TABLE people_at_source (id int PRIMARY KEY, website text, email text)"
MAP = "SELECT id, domain FROM usersync.customer_ids ORDER BY id"
TABLES = ("mappings", "customers", "identities", "apps")
CONFLICTS = "SELECT kind, app_id, domain, status FROM usersync.identity_conflicts ORDER BY id"


class Shop(Job):
    """A job whose table has the ids of the app shop, with a website and an e-mail address each."""

    def define(self, *, load: dict[str, Any] | None = None, top: dict[str, Any] | None = None, **identity: Any) -> None:
        self.write(load=load, **(top or {}))
        step = self.document["jobs"]["copy"]["steps"][0]
        step["identity"] = {"app": "shop", "id": "id", "rules": RULES, **identity}
        self.save()

    def has(self, *rows: tuple[int, str | None, str | None]) -> None:
        """What the source has from now on: id, website, e-mail address."""
        self.at_source("DELETE FROM people_at_source")
        for row in rows:
            values = ", ".join("NULL" if one is None else f"'{one}'" for one in row)
            self.at_source(f"INSERT INTO people_at_source VALUES ({values})")

    def foreseen(self, **options: Any) -> list[Change]:
        """What a dry run says of the map."""
        found: list[Change] = []
        self.sync(dry_run=True, diff=lambda change: found.append(change) is None, **options)
        return [one for one in found if one.kind in {"map", "unmap", "conflict"}]

    def map(self) -> list[tuple[Any, ...]]:
        return self.at_target(MAP)

    def conflicts(self) -> list[tuple[Any, ...]]:
        return self.at_target(CONFLICTS)


@pytest.fixture
def shop(usersync: Command, new_database: NewDatabase) -> Shop:
    made = Shop(usersync, new_database("source"), new_database("target"))
    made.at_source(PEOPLE)
    made.define()
    return made


def test_the_first_rule_that_decides(shop: Shop) -> None:
    """
    The first rule that gives a domain decides; free mail, role addresses and rows that say nothing identify nobody.
    """
    shop.has(
        (1, "https://www.Example.org:8080/x?y", "test.user@example.com"),
        (2, None, "Test User <test.user@Example.ORG.>"),
        (3, "", "test.user@gmail.com"),
        (4, None, "info@example.net"),
        (5, "not a domain", None),
        (6, "//shop.example.net", None),
    )

    foreseen = [(*one.key.values(), one.after["customer"]) for one in shop.foreseen()]
    result = shop.sync()

    assert result.steps[0].error is None
    assert [("1", "example.org"), ("2", "example.org"), ("6", "example.net")] == shop.map() == foreseen
    assert Outcome(mapped=3) == result.steps[0].identity
    evidence = "SELECT id, rule, value, domain, job, step, pinned FROM usersync.mappings ORDER BY id"
    assert ("2", "email", "Test User <test.user@Example.ORG.>", "example.org", "copy", "people", False) == shop.at_target(evidence)[1]
    assert [] == shop.at_target("SELECT domain FROM usersync.customers WHERE uuid <> usersync.uuid_of(domain)")
    # RFC 9562, appendix B.2
    assert [("5c146b14-3c52-8afd-938a-375d0df1fbf6",)] == shop.at_target("SELECT usersync.uuid_of('www.example.com')::text")
    assert [("shop", "job copy")] == shop.at_target("SELECT name, added_by FROM usersync.apps")


def test_a_second_run_writes_nothing(shop: Shop) -> None:
    """
    Unchanged rows are not looked at again; with --full they are, and nothing is written either.
    """
    shop.has((1, "example.org", None), (2, None, "test.user@example.com"))
    shop.sync()
    before = [shop.at_target(f"SELECT ctid, xmin, * FROM usersync.{table}") for table in TABLES]

    shop.sync()
    shop.sync(full=True)

    assert before == [shop.at_target(f"SELECT ctid, xmin, * FROM usersync.{table}") for table in TABLES]


def test_another_domain_is_a_conflict(shop: Shop) -> None:
    """
    A record whose domain is another customer's now is not moved: a person decides, and the job says so until then. When the record
    says the first again, it is over.
    """
    shop.has((1, "example.org", None), (2, "example.com", None))
    shop.sync()
    shop.has((1, "example.com", None), (2, "example.com", None))

    (foreseen,) = shop.foreseen()
    result = shop.sync()

    assert ("conflict", {"shop": "1"}, {"customer": "example.org"}, {"customer": "example.com"}) == (
        foreseen.kind, foreseen.key, foreseen.before, foreseen.after
    )  # fmt: skip
    assert isinstance(result.steps[0].error, PartialError)
    assert [("1", "example.org"), ("2", "example.com")] == shop.map()
    assert [("domain", "1", "example.com", "open")] == shop.conflicts()

    assert isinstance(shop.sync().steps[0].error, PartialError)
    shop.has((1, "example.org", None), (2, "example.com", None))
    assert shop.sync().steps[0].error is None
    assert [("domain", "1", "example.com", "over")] == shop.conflicts()


def test_who_has_left(shop: Shop) -> None:
    """
    The mapping of a record that left its source is closed with its date. When the id comes back, its rules decide anew.
    """
    shop.define(load={"on_missing": "mark"})
    shop.has(*((number, f"example{number}.org", None) for number in range(1, 6)))
    shop.sync()
    shop.has(*((number, f"example{number}.org", None) for number in range(2, 6)))

    (foreseen,) = shop.foreseen()
    shop.sync()

    assert ("unmap", {"shop": "1"}, {"customer": "example1.org"}, "left") == (foreseen.kind, foreseen.key, foreseen.before, foreseen.reason)
    assert ["2", "3", "4", "5"] == [id_ for id_, _ in shop.map()]
    assert [("1", "left", True)] == shop.at_target("SELECT id, closed_because, closed_at > opened_at FROM usersync.closed_mappings")

    shop.has((1, "other.example.net", None), *((number, f"example{number}.org", None) for number in range(2, 6)))
    shop.sync()
    assert ("1", "example.net") == shop.map()[0]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_crowded_domain(shop: Shop, *, at_once: bool) -> None:
    """
    A domain with more ids than max_ids identifies nobody, whether they come at once or one by one; the next rule decides.
    """
    shop.define(max_ids=2)
    rows = [(1, "hosting.test", "test.user@example.org"), (2, "hosting.test", None), (3, "hosting.test", "test.user@example.com")]
    for number in [3] if at_once else [1, 2, 3]:
        shop.has(*rows[:number])
        foreseen = [(one.kind, *one.key.values()) for one in shop.foreseen()]
        shop.sync()

    assert [("1", "example.org"), ("3", "example.com")] == shop.map()
    assert [("hosting.test", 3)] == shop.at_target("SELECT domain, ids FROM usersync.crowded_domains")
    if not at_once:
        assert [("map", "1"), ("unmap", "1"), ("unmap", "2"), ("map", "3")] == foreseen


def test_a_limit_that_is_lowered(shop: Shop) -> None:
    """
    A domain with more ids than max_ids allows now is crowded: its mappings are closed, and the next rule decides, as in a new map.
    """
    shop.has((1, "hosting.test", "x@example.org"), (2, "hosting.test", None), (3, "example.com", None))
    shop.sync()
    shop.define(max_ids=1)

    foreseen = [(one.kind, *one.key.values(), one.after.get("customer")) for one in shop.foreseen()]
    result = shop.sync()

    assert [("map", "1", "example.org"), ("unmap", "1", None), ("unmap", "2", None)] == foreseen
    assert [("1", "example.org"), ("3", "example.com")] == shop.map()
    assert Outcome(mapped=1, closed=2) == result.steps[0].identity
    assert [("hosting.test", 2)] == shop.at_target("SELECT domain, ids FROM usersync.crowded_domains")


def test_a_rule_that_is_changed(shop: Shop) -> None:
    """
    After a change of the rules all rows are looked at again: `--dry-run --diff` says what the run then does. Nothing is moved.
    """
    shop.define(rules=RULES[1:])
    shop.has((1, "example.org", "test.user@example.com"), (2, "example.org", None), (3, None, "test.user@example.com"))
    assert shop.sync().steps[0].error is None
    shop.define()

    foreseen = [(one.kind, *one.key.values(), one.after.get("customer")) for one in shop.foreseen()]
    shop.sync()

    assert [("conflict", "1", "example.org"), ("map", "2", "example.org")] == foreseen
    assert Outcome() == shop.sync(full=True).steps[0].identity  # the conflict is known
    assert [("1", "example.com"), ("2", "example.org"), ("3", "example.com")] == shop.map()
    assert [("domain", "1", "example.org", "open")] == shop.conflicts()


def test_an_id_with_several_rows(shop: Shop) -> None:
    """
    Where an id has several rows, the first domain counts, and each other one is a conflict.
    """
    shop.at_source("ALTER TABLE people_at_source ADD customer int")
    shop.define(id="customer")
    shop.at_source("INSERT INTO people_at_source VALUES (1, 'b.test', NULL, 7), (2, 'a.test', NULL, 7)")
    shop.at_source("INSERT INTO people_at_source VALUES (3, 'a.test', NULL, 8), (4, NULL, 'x@c.test', 7)")

    shop.sync()

    assert [("7", "a.test"), ("8", "a.test")] == shop.map()
    assert [("domain", "7", "b.test", "open")] == shop.conflicts()


def test_a_value_that_a_rule_cannot_take(shop: Shop) -> None:
    """
    A rule whose SQL fails on a value loses nobody: the rows are loaded, the job says what is missing, and the next run looks at all.
    """
    shop.has((1, "example.org", "0"), (2, "example.com", "5"))
    shop.define(rules=[{"name": "odd", "domain": "CASE WHEN 1 / email::int = 0 THEN website END"}])

    result = shop.sync()

    assert [(2,)] == shop.at_target("SELECT count(*) FROM people")
    assert "division_by_zero" in str(result.steps[0].error).replace("DivisionByZero", "division_by_zero")
    shop.define()
    shop.sync()
    assert [("1", "example.org"), ("2", "example.com")] == shop.map()
