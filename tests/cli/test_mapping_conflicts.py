"""`usersync mappings conflicts`: an answer is given once, does what it says, and does not come back."""

from __future__ import annotations

import pytest

from tests.cli.maps import Maps, maps
from tests.conftest import Result

__all__ = ["maps"]  # a fixture
THEIRS = "11111111-1111-4111-8111-111111111111"


def answer(maps: Maps, verdict: str, *numbers: str) -> Result:
    return maps("mappings", "conflicts", verdict, *numbers, "--reason", "a test", "--by", "Test User")


def status(maps: Maps, number: str) -> tuple[object, ...]:
    return maps.ask("SELECT status, answered_by, reason FROM usersync.identity_conflicts WHERE id = %s", int(number))[0]


def test_list_finds_by_app_kind_and_age(maps: Maps) -> None:
    """
    Conflicts are listed with both sides; app, kind, age and status narrow them down.
    """
    maps.map("shop", "1", "example.com")
    maps.map("crm.contacts", "2", "example.com")
    one = maps.conflict("domain", "shop:1", domain="example.org")
    two = maps.conflict("returned", "crm.contacts:2")
    three = maps.conflict("uuid", domain="example.com", uuid=THEIRS)
    maps.ask("UPDATE usersync.identity_conflicts SET found_at = now() - interval '8 days' WHERE id = %s", int(two))

    def ids(*options: str) -> list[str]:
        return [str(found["id"]) for found in maps.json("mappings", "conflicts", "list", *options)["conflicts"]]

    assert [one, two, three] == ids()
    assert [one] == ids("--app", "shop")
    assert [three] == ids("--kind", "uuid")
    assert [two] == ids("--older-than", "7d")
    assert [] == ids("--status", "accepted")
    assert 9 == maps("mappings", "conflicts", "list", "--app", "shpo").status
    assert 2 == maps("mappings", "conflicts", "list", "--older-than", "long").status
    first = maps.json("mappings", "conflicts", "list")["conflicts"][0]
    assert ("example.com", "example.org") == (first["domain"], first["found_domain"])


def test_accept_of_a_domain_moves_the_id_and_pins_it(maps: Maps) -> None:
    """
    The id goes to the customer that its record names, who is made if need be; other conflicts of the id are answered with it.
    """
    maps.map("shop", "1", "example.com")
    number = maps.conflict("domain", "shop:1", domain="example.org")
    other = maps.conflict("domain", "shop:1", domain="example.net")

    assert 0 == answer(maps, "accept", number).status
    assert ("example.org", True) == maps.whose("shop", "1")
    assert ("accepted", "Test User", "a test") == status(maps, number)
    assert "rejected" == status(maps, other)[0]
    assert [0, 0, 0] == [maps.found_again("domain", "shop", "1", domain) for domain in ("example.com", "example.org", "example.net")]


@pytest.mark.parametrize(("verdict", "pinned"), [("reject", True), ("ignore", False)])
def test_reject_pins_and_ignore_does_not(maps: Maps, verdict: str, *, pinned: bool) -> None:
    """
    Either leaves the id where it is, and the conflict does not come back.
    """
    maps.map("shop", "1", "example.com")
    number = maps.conflict("domain", "shop:1", domain="example.org")

    assert 0 == answer(maps, verdict, number).status
    assert ("example.com", pinned) == maps.whose("shop", "1")
    assert f"{verdict.rstrip('e')}ed" == status(maps, number)[0]
    assert 0 == maps.found_again("domain", "shop", "1", "example.org")


def test_an_answer_holds(maps: Maps) -> None:
    """
    The same answer again changes nothing; another one is refused, and so is one that is over, or unknown.
    """
    maps.map("shop", "1", "example.com")
    number = maps.conflict("domain", "shop:1", domain="example.org")
    over = maps.conflict("domain", "shop:1", domain="example.net")
    maps.ask("UPDATE usersync.identity_conflicts SET status = 'over' WHERE id = %s", int(over))
    answer(maps, "reject", number)
    before = maps.everything()
    found = [answer(maps, *words).status for words in (("reject", number), ("accept", number), ("accept", over), ("accept", "999"))]

    assert [0, 10, 9, 9] == found
    assert before == maps.everything()


def test_several_are_answered_together_or_none(maps: Maps) -> None:
    """
    One that can't be answered leaves all as they were; so do two of one id that are both accepted.
    """
    maps.map("shop", "1", "example.com")
    maps.map("shop", "2", "example.com")
    one, two, three = (
        maps.conflict("domain", f"shop:{id_}", domain=domain)
        for id_, domain in (("1", "example.org"), ("2", "example.org"), ("1", "example.net"))
    )
    before = maps.everything()

    assert (9, 2) == (answer(maps, "accept", one, "999").status, answer(maps, "accept", one, three).status)
    assert before == maps.everything()
    assert 0 == answer(maps, "accept", one, two).status
    assert ("example.org", True) == maps.whose("shop", "1") == maps.whose("shop", "2")


def test_accept_of_a_uuid_makes_theirs_the_root(maps: Maps) -> None:
    """
    Their uuid has the domain; ours is merged into it with the domain written down, and mappings resolve to theirs. Unmerging gives it back.
    """
    ours = maps.map("shop", "1", "example.com")
    number = maps.conflict("uuid", domain="example.com", uuid=THEIRS)

    assert 0 == answer(maps, "accept", number).status
    assert THEIRS == maps.json("mappings", "query", "--app", "shop", "--id", "1")["uuid"]
    merges = maps.ask("SELECT customer::text, merged_into::text, domain, merged_by, reason FROM usersync.merges")
    assert [(ours, THEIRS, "example.com", "Test User", "a test")] == merges
    assert {(THEIRS, "example.com"), (ours, None)} == set(maps.ask("SELECT uuid::text, domain FROM usersync.customers"))
    assert 0 == maps("customers", "unmerge", ours, "--reason", "a mistake").status
    assert {(THEIRS, None), (ours, "example.com")} == set(maps.ask("SELECT uuid::text, domain FROM usersync.customers"))


def test_a_uuid_that_is_one_customer_already_changes_nothing(maps: Maps) -> None:
    """
    Where a person has merged the two before, accepting is only an answer.
    """
    ours = maps.customer("example.com")
    maps.ask("INSERT INTO usersync.customers (uuid, merged_into, created_by) VALUES (%s, %s, 'test')", THEIRS, ours)
    number = maps.conflict("uuid", domain="example.com", uuid=THEIRS)
    before = maps.everything()["customers"]

    assert 0 == answer(maps, "accept", number).status
    assert before == maps.everything()["customers"]


def test_accept_of_a_renamed_customer_renames(maps: Maps) -> None:
    """
    The customer has the new domain, the old one goes on meaning it; a domain of another customer is refused.
    """
    uuid = maps.customer("example.com")
    maps.customer("example.org")
    taken = maps.conflict("renamed", domain="example.org", uuid=uuid)
    number = maps.conflict("renamed", domain="example.net", uuid=uuid)
    refused = answer(maps, "accept", taken)

    assert 10 == refused.status
    assert "usersync customers merge example.org" in refused.stderr
    assert 0 == answer(maps, "accept", number).status
    assert [("example.net",)] == maps.ask("SELECT domain FROM usersync.customers WHERE uuid = %s", uuid)
    assert uuid == maps.json("whois", "example.com")["customers"][0]["uuid"]


def test_accept_of_a_returned_id_lets_the_rules_decide(maps: Maps) -> None:
    """
    The pin is closed, and the next run of the steps that fill the app looks at all rows; reject keeps the pin.
    """
    maps.map("shop", "1", "example.com")
    maps.map("shop", "2", "example.com")
    maps.ask("UPDATE usersync.mappings SET pinned = true, decided_by = 'Test User'")
    maps.ask(
        "INSERT INTO usersync.identities (app, job, step, stream, relation, id_column, fingerprint, lists, run_id)"
        " VALUES ('shop', 'orders', 'copy', '', '\"orders\"', '\"id\"', 'known', '', 1)"
    )
    one, two = (maps.conflict("returned", f"shop:{id_}") for id_ in ("1", "2"))

    assert "the rules decide at the next run of orders" in answer(maps, "accept", one).stdout
    assert None is maps.whose("shop", "1")
    assert [("returned", "Test User")] == maps.ask("SELECT closed_because, closed_by FROM usersync.closed_mappings")
    assert [(None,)] == maps.ask("SELECT fingerprint FROM usersync.identities")
    assert 0 == answer(maps, "reject", two).status
    assert ("example.com", True) == maps.whose("shop", "2")
    assert "accepted" == status(maps, one)[0]
