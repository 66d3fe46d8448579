"""What a database role may read of the map, with real login roles: one that was granted an app, one that would like more, and one
that writes the map without owning it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests import servers
from tests.cli.maps import Maps, maps
from tests.identity.test_filled_by_tables import Shop, shop
from usersync_cli.model import Database
from usersync_cli.state.migrations import GRANTS

__all__ = ["maps", "shop"]
Role = Callable[..., str]
SECRETS = ("hidden", "9999")  # in every domain and id of an app that the reader was not granted
EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS off, TIMING off, SUMMARY off, COSTS off)"
RELATIONS = "SELECT relname FROM pg_class WHERE relnamespace = 'usersync'::regnamespace AND relkind IN ('r', 'v')"
ALL = "SELECT app, id, uuid::text, domain FROM usersync.customer_ids"


@pytest.fixture
def role(server: servers.Server, database: Database) -> Iterator[Role]:
    """Makes a login role that owns nothing: `role("reader", "GRANT ... TO {role}")` -> its name."""
    made: list[str] = []

    def make(called: str, *statements: str, target: Database = database) -> str:
        with psycopg.connect(target.url, autocommit=True) as connection:
            name = f"{called}_{connection.info.dbname}"
            made.append(name)
            for statement in (f"CREATE ROLE {name} LOGIN", *statements):
                connection.execute(statement.format(role=name).encode())
        return name

    yield make
    for name in reversed(made):
        for (where,) in server.execute("SELECT datname FROM pg_database WHERE datname LIKE 'test_%'"):
            server.execute(f"DROP OWNED BY {name} CASCADE", where)
        server.execute(f"DROP ROLE {name}")


def as_(role: str, database: Database) -> str:
    """The URL with which a role signs in."""
    return database.url.replace("postgres@", f"{role}@")


def ask(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []


def heard(url: str, *statements: str) -> str:
    """All that a role gets to see of these statements: rows, errors with their details, and notices."""
    said: list[str] = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: said.append(f"{notice.message_primary} {notice.message_detail}"))
        for statement in statements:
            try:
                cursor = connection.execute(statement.encode())
                said += [str(cursor.fetchall())] if cursor.description else []
            except psycopg.Error as error:
                said.append(f"{error} {error.diag.message_detail} {error.diag.context}")
    return "\n".join(said)


@pytest.fixture
def two_apps(maps: Maps) -> Maps:
    """The app shop, which a test grants, and crm.contacts, of which nothing may be seen. A merge, a rename and a closed mapping each."""
    maps.map("shop", "1", "a.test")
    maps.map("shop", "2", "old.test")
    maps.map("crm.contacts", "9999", "hidden.test")
    maps.map("crm.contacts", "99991", "hidden-old.test")
    maps.map("crm.contacts", "99992", "a.test")
    maps.customer("hidden-nobody.test")
    maps.conflict("domain", "crm.contacts:9999", domain="hidden-conflict.test")
    for one, into in (("old.test", "new.test"), ("hidden-old.test", "hidden-new.test")):
        maps.customer(into)
        assert 0 == maps("customers", "merge", one, into, "--reason", "one").status
    assert 0 == maps("customers", "rename", "hidden.test", "hidden-renamed.test", "--reason", "hidden").status
    assert 0 == maps("mappings", "create", "--app", "crm.contacts", "--id", "99993", "--customer", "hidden.test").status
    assert 0 == maps("mappings", "remove", "--app", "crm.contacts", "--id", "99993", "--reason", "hidden").status
    return maps


def test_a_role_reads_its_own_app_alone(two_apps: Maps, role: Role) -> None:
    """
    A role that was granted an app reads its rows in the view and in the function, resolved; no table; and nothing once it is revoked.
    """
    reader = role("reader")
    url = as_(reader, two_apps.target)
    assert "permission denied" in heard(url, ALL)

    first = two_apps("apps", "grant", "shop", "--role", reader)
    again = two_apps("apps", "grant", "shop", "--role", reader)

    assert (0, 0) == (first.status, again.status)
    new = two_apps.customer("new.test")
    rows = [("shop", "1", two_apps.customer("a.test"), "a.test"), ("shop", "2", new, "new.test")]
    assert rows == ask(url, f"{ALL} ORDER BY id")
    assert rows == ask(url, "SELECT app, id, uuid::text, domain FROM usersync.customer_ids_at(now()) ORDER BY id")
    assert [] == ask(url, "SELECT * FROM usersync.customer_ids_at(now() - interval '1 day')")
    assert rows[1:] == ask(url, f"{ALL} WHERE uuid = '{new}'")
    tables = f"{RELATIONS} AND has_table_privilege(oid, 'SELECT')"
    assert [("customer_ids",), ("customer_ids_then",)] == sorted(ask(url, tables))
    assert [reader] == next(one["roles"] for one in two_apps.json("apps", "list")["apps"] if one["name"] == "shop")

    assert 0 == two_apps("apps", "grant", "crm.companies", "--role", reader).status
    assert 0 == two_apps("apps", "revoke", "crm.companies", "--role", reader).status
    assert rows == ask(url, f"{ALL} ORDER BY id")
    assert (0, 0) == (
        two_apps("apps", "revoke", "shop", "--role", reader).status,
        two_apps("apps", "revoke", "shop", "--role", reader).status,
    )
    assert "permission denied for schema usersync" in heard(url, ALL)


def test_unknown_apps_and_roles(two_apps: Maps, role: Role) -> None:
    """
    An unknown app or role is exit 9, with what was probably meant; nothing is granted.
    """
    reader = role("reader")

    for words, app, name in (("did you mean shop?", "shpo", reader), (f"did you mean {reader}?", "shop", reader[1:])):
        found = two_apps("apps", "grant", app, "--role", name)
        assert (9, "") == (found.status, found.stdout)
        assert words in found.stderr
    assert 9 == two_apps("apps", "revoke", "shop", "--role", "nobody_of_that_name").status
    assert [] == two_apps.ask("SELECT FROM usersync.app_roles")


def test_members_and_set_role(two_apps: Maps, role: Role) -> None:
    """
    A role that is a member of a granted one sees its rows; one that has to say SET ROLE, as PostgREST does, sees them after that.
    """
    reader, other = role("reader"), role("other")
    two_apps("apps", "grant", "shop", "--role", reader)
    two_apps("apps", "grant", "crm.contacts", "--role", other)
    member, front = (
        role("member", f"GRANT {reader} TO {{role}}"),
        role("front", "ALTER ROLE {role} NOINHERIT", f"GRANT {reader} TO {{role}}"),
    )

    assert {("1",), ("2",)} == set(ask(as_(member, two_apps.target), "SELECT id FROM usersync.customer_ids"))
    assert "permission denied" in heard(as_(front, two_apps.target), ALL)
    assert {("1",), ("2",)} == set(ask(as_(front, two_apps.target), f"SET ROLE {reader}; SELECT id FROM usersync.customer_ids"))
    assert "permission denied to set role" in heard(as_(front, two_apps.target), f"SET ROLE {other}")


OWN = """
CREATE FUNCTION mine.tell(t text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$BEGIN RAISE NOTICE 'seen %', t; RETURN true; END$$;
CREATE FUNCTION mine.same(a text, b text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
AS $$BEGIN RAISE NOTICE '% %', a, b; RETURN true; END$$;
CREATE OPERATOR mine.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.same, RESTRICT = eqsel);
CREATE OPERATOR mine.= (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.same, RESTRICT = eqsel);
CREATE FUNCTION mine.has_table_privilege(name, regclass, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION mine.pg_has_role(name, oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE VIEW mine.ids AS SELECT * FROM usersync.customer_ids;
CREATE VIEW mine.ids_as_invoker WITH (security_invoker) AS SELECT * FROM usersync.customer_ids;
CREATE FUNCTION mine.definer() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT v::text FROM usersync.customer_ids AS v';
CREATE TABLE mine.customers (uuid uuid, domain text, merged_into uuid);
CREATE TABLE mine.mappings (app text, id text, customer uuid)
"""
ATTACKS = (
    f"{ALL} WHERE mine.tell(domain)",
    f"{ALL} WHERE mine.tell(id)",
    f"{ALL} WHERE domain OPERATOR(mine.===) 'x'",
    f"{ALL} WHERE id::int > 0 AND 1 / (id::int - 9999) < 5",
    f"{ALL} ORDER BY mine.tell(uuid::text)",
    "SELECT count(*), array_agg(c.id) FROM usersync.customer_ids c JOIN mine.customers m ON mine.tell(c.domain)",
    f"SET search_path = mine, pg_temp, usersync, pg_catalog; {ALL} WHERE id = 'x'",
    "SELECT customer_ids_at(now()) FROM usersync.customer_ids_at(now())",
    "SET usersync.at = 'nonsense'; SELECT * FROM usersync.customer_ids_then",
    "RESET usersync.at; SELECT * FROM usersync.customer_ids_then WHERE mine.tell(domain)",
    "RESET search_path; SELECT * FROM usersync.customer_ids_at(now()) WHERE mine.tell(domain)",
    "SELECT * FROM usersync.customer_ids_at(now(), 'crm.contacts')",
    "SELECT * FROM usersync.customer_ids_at(now(), NULL, '9999')",
    "SELECT * FROM usersync.customer_ids_at('infinity')",
    "SELECT * FROM mine.ids",
    "SELECT * FROM mine.ids_as_invoker WHERE mine.tell(domain)",
    "SELECT mine.definer()",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "SET row_security = off; SELECT * FROM usersync.customer_ids",
    "SELECT * FROM usersync.own_apps",
    "SELECT * FROM usersync.mappings",
    "SELECT usersync.root_of(usersync.uuid_of('hidden.test'))",
    "SELECT * FROM pg_stats WHERE schemaname = 'usersync'",
    "COPY usersync.mappings TO STDOUT",
    "INSERT INTO usersync.app_roles VALUES ('crm.contacts', current_user, now(), 'me')",
    "UPDATE usersync.customer_ids SET app = 'crm.contacts'",
    "CREATE OR REPLACE VIEW usersync.customer_ids AS SELECT 1",
    "CREATE RULE r AS ON SELECT TO usersync.customer_ids DO INSTEAD SELECT 1",
    "ALTER VIEW usersync.customer_ids RESET (security_barrier)",
)


def test_a_role_that_would_like_more(two_apps: Maps, role: Role) -> None:
    """
    Own functions, operators, views, tables and search path show a role nothing of an app that it was not granted, nor do errors.
    """
    reader = role("reader", "CREATE SCHEMA mine AUTHORIZATION {role}")
    two_apps("apps", "grant", "shop", "--role", reader)
    url = as_(reader, two_apps.target)
    two_apps.ask("ANALYZE")
    ask(url, OWN)

    said = {attack: heard(url, *attack.split("; ")) for attack in ATTACKS}

    assert [] == [(attack, text) for attack, text in said.items() if any(secret in text for secret in SECRETS)]
    assert "seen a.test" in said[ATTACKS[0]]  # the attack was one
    assert "invalid input syntax" in said["SET usersync.at = 'nonsense'; SELECT * FROM usersync.customer_ids_then"]


@pytest.mark.parametrize("with_execute", [False, True])
def test_nobody_writes_the_history_by_a_table_of_their_own(two_apps: Maps, role: Role, *, with_execute: bool) -> None:
    """
    The trigger that keeps clusters and history with its owner's rights does it for usersync.customers alone.
    """
    execute = "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA usersync TO {role}"
    reader = role("reader", "CREATE SCHEMA mine AUTHORIZATION {role}", *([execute] if with_execute else []))
    two_apps("apps", "grant", "shop", "--role", reader)
    before = (
        two_apps.ask("SELECT * FROM usersync.merged_customers ORDER BY 1"),
        two_apps.ask("SELECT count(*) FROM usersync.customer_history"),
    )

    said = heard(
        as_(reader, two_apps.target),
        "CREATE TABLE mine.customers (uuid uuid, domain text, merged_into uuid)",
        "CREATE TRIGGER t AFTER INSERT OR UPDATE ON mine.customers FOR EACH ROW EXECUTE FUNCTION usersync.customer_changed()",
        "INSERT INTO mine.customers VALUES (usersync.uuid_of('a.test'), 'a.test', usersync.uuid_of('hidden-nobody.test'))",
        "UPDATE mine.customers SET domain = 'b.test'",
    )

    assert ("this trigger is for usersync.customers" if with_execute else "permission denied for function") in said
    assert before == (
        two_apps.ask("SELECT * FROM usersync.merged_customers ORDER BY 1"), two_apps.ask("SELECT count(*) FROM usersync.customer_history")
    )  # fmt: skip
    assert "hidden" not in heard(as_(reader, two_apps.target), ALL)


@pytest.mark.parametrize("asked", ["id = {}", "uuid = usersync.uuid_of({})", "domain = {}"])
def test_a_plan_says_nothing_of_others(two_apps: Maps, role: Role, asked: str) -> None:
    """
    What PostgreSQL says that it did (EXPLAIN ANALYZE) is the same for what another app has and for what nobody has.
    """
    reader = role("reader")
    two_apps("apps", "grant", "shop", "--role", reader)
    there, not_there = ("'9999'", "'8888'") if asked.startswith("id") else ("'hidden-new.test'", "'nobody-new.test'")

    plans = [
        ask(as_(reader, two_apps.target), f"{EXPLAIN} {ALL} WHERE {asked.format(one)}")
        for one in (there, not_there)
    ]  # fmt: skip

    shown = [re.sub(r"'[0-9a-z.-]+'|Memory: \w+|Memory Usage: \w+", "", str(plan)) for plan in plans]
    assert shown[1] == shown[0]


def test_a_role_that_was_granted_too_much(two_apps: Maps, role: Role) -> None:
    """
    With SELECT on all tables a role still sees its own app's rows alone, wherever the map is kept.
    """
    reader = role("reader", "GRANT USAGE ON SCHEMA usersync TO {role}", "GRANT SELECT ON ALL TABLES IN SCHEMA usersync TO {role}")
    two_apps("apps", "grant", "shop", "--role", reader)
    url = as_(reader, two_apps.target)
    relations = ask(url, f"{RELATIONS} ORDER BY 1")

    said = {name: heard(url, f"SELECT * FROM usersync.{name}") for (name,) in relations}

    assert [] == [(name, text) for name, text in said.items() if any(secret in text for secret in SECRETS)]
    assert {("1",), ("2",)} == set(ask(url, "SELECT id FROM usersync.mappings"))
    assert "hidden" not in heard(url, "SELECT usersync.root_of(usersync.uuid_of('hidden.test')), * FROM usersync.customer_ids_at(now())")


def test_a_role_that_does_not_own_the_map_fills_it(shop: Shop, role: Role) -> None:
    """
    A role with the rights that usersync asks for, and no more, runs steps with `identity`: row-level security hides no row from it.
    """
    writer = role("writer", GRANTS, "GRANT ALL ON SCHEMA public TO {role}", target=shop.target)
    shop.document["target"] = as_(writer, shop.target)
    shop.save()

    shop.has((1, "example.org", None), (2, "example.com", None))
    assert shop.sync().steps[0].error is None
    shop.has((1, "example.com", None), (2, "example.com", None), (3, "example.net", None))
    assert "a person decides" in str(shop.sync(full=True).steps[0].error)

    assert [("1", "example.org"), ("2", "example.com"), ("3", "example.net")] == shop.map()
    assert [("domain", "1", "example.com", "open")] == shop.conflicts()


def test_a_role_that_does_not_own_the_map_answers(two_apps: Maps, role: Role) -> None:
    """
    So do the commands, except that only the owner can pass rights on: what they have to run is printed.
    """
    writer, reader = role("writer", GRANTS), role("reader")
    config = two_apps.folder / "config.yaml"
    config.write_text(config.read_text().replace("postgres@", f"{writer}@"))

    done = [
        two_apps("customers", "merge", "a.test", "new.test", "--reason", "one").status,
        two_apps("customers", "unmerge", "a.test", "--reason", "two").status,
        two_apps("customers", "rename", "a.test", "z.test").status,
        two_apps("mappings", "create", "--app", "shop", "--id", "7", "--customer", "old.test").status,
        two_apps("whois", "crm.contacts:9999").status,
        two_apps("apps", "remove", "crm.contacts").status,
        two_apps("apps", "remove", "crm.companies").status,
    ]
    refused = two_apps("apps", "grant", "shop", "--role", reader)

    assert [0, 0, 0, 0, 0, 10, 0] == done
    assert 2 == refused.status
    assert f'GRANT SELECT ON usersync.customer_ids, usersync.customer_ids_then TO "{reader}"' in refused.stderr
    assert [] == two_apps.ask("SELECT FROM usersync.app_roles")
    assert {"hidden-renamed.test", "z.test", "new.test", "hidden-new.test"} == {
        domain for (domain,) in ask(as_(writer, two_apps.target), "SELECT domain FROM usersync.customer_ids")
    }
