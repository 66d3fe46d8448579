"""`usersync mappings`: what a person says is a pin, said once; somebody else's is refused, or moved and what disagrees answered."""

from __future__ import annotations

from tests.cli.maps import Maps, maps
from usersync_cli.identity import place

__all__ = ["maps"]  # a fixture
REASON = ("--reason", "a test", "--by", "Test User")


def create(maps: Maps, id_: str, customer: str, *more: str, app: str = "shop") -> int:
    return maps("mappings", "create", "--app", app, "--id", id_, "--customer", customer, *more).status


def test_create_pins_and_twice_is_once(maps: Maps) -> None:
    """
    A mapping of a person is pinned, with who and why; the same again changes nothing, whatever way the customer is written.
    """
    uuid = maps.customer("xn--mnchen-3ya.example.com")
    assert 0 == create(maps, "4711", "München.Example.com.", *REASON)
    before = maps.everything()

    assert ("xn--mnchen-3ya.example.com", True) == maps.whose("shop", "4711")
    assert [("Test User", "a test", None)] == maps.ask("SELECT decided_by, reason, rule FROM usersync.mappings")
    assert 0 == create(maps, "4711", uuid, "--by", "Another User")
    assert before == maps.everything()
    assert {"result": "there", "app": "shop", "app_id": "4711", "domain": "xn--mnchen-3ya.example.com", "uuid": uuid}.items() <= maps.json(
        "mappings", "create", "--app", "shop", "--id", "4711", "--customer", uuid
    ).items()


def test_create_says_who_decided_without_being_told(maps: Maps) -> None:
    """
    Without --by, whoever is at work decided it.
    """
    maps.customer("example.com")
    create(maps, "1", "example.com")

    assert [(place.person(),)] == maps.ask("SELECT decided_by FROM usersync.mappings")


def test_create_pins_what_a_rule_has_said(maps: Maps) -> None:
    """
    The evidence of the rule stays, and no job changes it any more.
    """
    maps.map("shop", "1", "example.com")

    assert 0 == create(maps, "1", "example.com", *REASON)
    assert [("email", True, "Test User")] == maps.ask("SELECT rule, pinned, decided_by FROM usersync.mappings")


def test_somebody_elses_is_refused_with_what_is_there(maps: Maps) -> None:
    """
    Exit status 10, whose it is and by what, and what to type; nothing is changed.
    """
    maps.map("shop", "1", "example.com", value="secret.person@example.com")
    maps.customer("example.org")
    before = maps.everything()
    found = maps("mappings", "create", "--app", "shop", "--id", "1", "--customer", "example.org")

    assert 10 == found.status
    assert "shop:1 is customer example.com (" in found.stderr
    assert "rule email of job crm" in found.stderr
    assert "--customer example.org --move" in found.stderr
    assert "secret.person" not in found.stdout + found.stderr
    assert before == maps.everything()


def test_move_closes_and_answers_what_disagrees(maps: Maps) -> None:
    """
    The old mapping is closed as moved; its evidence, and open conflicts of the id, are answered and do not come back.
    """
    maps.map("shop", "1", "example.com")
    maps.customer("example.org")
    maps.conflict("domain", "shop:1", domain="example.org")
    maps.conflict("domain", "shop:1", domain="example.net")

    assert 0 == create(maps, "1", "example.org", "--move", *REASON)
    assert ("example.org", True) == maps.whose("shop", "1")
    closed = "SELECT closed_because, closed_by, closed_reason, rule, domain FROM usersync.closed_mappings"
    assert [("moved", "Test User", "a test", "email", "example.com")] == maps.ask(closed)
    statuses = dict(maps.ask("SELECT domain, status FROM usersync.identity_conflicts"))
    assert {"example.org": "accepted", "example.net": "rejected", "example.com": "rejected"} == statuses
    assert [0, 0, 0] == [maps.found_again("domain", "shop", "1", domain) for domain in statuses]


def test_unknown_names_are_9_with_what_is_near(maps: Maps) -> None:
    """
    An unknown app or customer is exit status 9, with the name that was probably meant.
    """
    maps.customer("example.com")
    app = maps("mappings", "create", "--app", "shpo", "--id", "1", "--customer", "example.com")
    domain = maps("mappings", "create", "--app", "shop", "--id", "1", "--customer", "exxample.com")
    uuid = maps("mappings", "create", "--app", "shop", "--id", "1", "--customer", "11111111-1111-4111-8111-111111111111")
    address = maps("mappings", "create", "--app", "shop", "--id", "1", "--customer", "test.user@example.com")

    assert (9, 9, 9, 2) == (app.status, domain.status, uuid.status, address.status)
    assert "did you mean shop?" in app.stderr
    assert "usersync apps add shpo" in app.stderr
    assert "did you mean example.com?" in domain.stderr
    assert "test.user" not in address.stderr


def test_a_merged_customer_resolves(maps: Maps) -> None:
    """
    The uuid of a customer that was merged names the one that it was merged into, and its mappings are listed there.
    """
    old, new = maps.customer("example.com"), maps.customer("example.org")
    maps.ask("UPDATE usersync.customers SET merged_into = %s WHERE uuid = %s", new, old)

    assert 0 == create(maps, "1", old)
    assert 0 == create(maps, "1", "example.org")
    assert [{"app": "shop", "domain": "example.org", "app_id": "1"}] == maps.json("mappings", "list", "--customer", "example.org")[
        "mappings"
    ]
    assert {"domain": "example.org", "uuid": new}.items() <= maps.json("mappings", "query", "--app", "shop", "--id", "1").items()


def test_list_says_when_there_is_more(maps: Maps) -> None:
    """
    A list ends at its limit and says so; by app and customer it holds what both have.
    """
    for number in range(3):
        maps.map("shop", str(number), "example.com")
    maps.map("crm.contacts", "9", "example.com")
    document = maps.json("mappings", "list", "--app", "shop", "--limit", "2")

    assert (["0", "1"], True) == ([one["app_id"] for one in document["mappings"]], document["more"])
    assert 1 == len(maps.json("mappings", "list", "--customer", "example.com", "--app", "crm.contacts")["mappings"])
    assert 2 == maps("mappings", "list").status


def test_remove_keeps_the_history_and_says_what_may_come(maps: Maps) -> None:
    """
    A removed mapping is closed with who and why; the jobs that fill the app are named, because they may map it again.
    """
    maps.map("shop", "1", "example.com")
    maps.conflict("domain", "shop:1", domain="example.org")
    statement = (
        "INSERT INTO usersync.identities (app, job, step, stream, relation, id_column, lists, run_id)"
        " VALUES ('shop', 'orders', 'copy', '', '\"orders\"', '\"id\"', '', 1)"
    )
    maps.ask(statement)
    found = maps("mappings", "remove", "--app", "shop", "--id", "1", *REASON)
    again = maps("mappings", "remove", "--app", "shop", "--id", "1")

    assert (0, None) == (found.status, maps.whose("shop", "1"))
    assert "job orders, step copy, may map it again" in found.stderr
    assert [("removed", "Test User", "a test")] == maps.ask("SELECT closed_because, closed_by, closed_reason FROM usersync.closed_mappings")
    assert [("over",)] == maps.ask("SELECT status FROM usersync.identity_conflicts")
    assert 9 == again.status
    assert "removed by Test User" in again.stderr


def test_an_id_that_is_an_address_is_not_repeated_in_errors(maps: Maps) -> None:
    """
    Messages say of which app it is, and not the address.
    """
    found = maps("mappings", "remove", "--app", "shop", "--id", "test.user@example.com")

    assert 9 == found.status
    assert "test.user" not in found.stderr


def test_without_a_map_reading_says_how_to_get_one(maps: Maps) -> None:
    """
    Before anything was mapped: exit status 9, and no conflict waits.
    """
    maps.ask("DROP SCHEMA usersync CASCADE")

    assert 9 == maps("mappings", "list", "--app", "shop").status
    assert 9 == maps("whois", "example.com").status
    assert "no conflict waits\n" == maps("mappings", "conflicts", "list").stdout


def test_stats_count_what_is_not_mapped(maps: Maps) -> None:
    """
    Ids without a customer come from the tables that fill an app, without rows that are marked as gone; conflicts by age.
    """
    maps.map("shop", "1", "example.com")
    maps.customer("example.org")
    maps.ask(
        "CREATE TABLE public.orders (id int, deleted_at timestamptz); INSERT INTO public.orders VALUES (1), (2), (3), (4);"
        "UPDATE public.orders SET deleted_at = now() WHERE id = 4"
    )
    maps.ask(
        "INSERT INTO usersync.identities (app, job, step, stream, relation, id_column, live, lists, run_id) VALUES"
        " ('shop', 'orders', 'copy', '', '\"public\".\"orders\"', '\"id\"', '\"deleted_at\"', '', 1),"
        " ('crm.contacts', 'crm', 'copy', '', '\"public\".\"gone\"', '\"id\"', NULL, '', 1)"
    )
    number = maps.conflict("domain", "shop:1", domain="example.org")
    maps.ask("UPDATE usersync.identity_conflicts SET found_at = now() - interval '8 days' WHERE id = %s", int(number))
    maps.ask("INSERT INTO usersync.crowded_domains (app, domain, ids, run_id) VALUES ('shop', 'example.net', 2000, 1)")
    found = maps.json("mappings", "stats")
    apps = {one["app"]: one for one in found["apps"]}

    assert (3, 2, 1, 1) == tuple(apps["shop"][name] for name in ("ids", "ids_without_customer", "customers", "customers_without_id"))
    assert (None, ["public.gone"]) == (apps["crm.contacts"]["ids"], apps["crm.contacts"]["tables_gone"])
    assert [(1, 0, 0, 1, 0)] == [
        tuple(one[name] for name in ("open", "days_1", "days_7", "days_30", "older")) for one in found["conflicts"]
    ]
    assert [{"app": "shop", "rule": "email", "mappings": 1}] == found["rules"]
    assert [("example.net", 2000)] == [(one["domain"], one["ids"]) for one in found["crowded_domains"]]
    assert [{"ids_up_to": 1, "customers": 1, "ids": 1}] == found["sizes"]
    assert "without customer" in maps("mappings", "stats", "--app", "shop").stdout
