"""`usersync customers` as it is typed: forms of a domain, what is refused, lists; what it does to the map is in tests/identity."""

from __future__ import annotations

import pytest

from tests.cli.maps import Maps, maps

__all__ = ["maps"]
NOBODY = "9d4e0f8e-0000-8000-8000-000000000000"


def test_a_customer_is_made_once(maps: Maps) -> None:
    """
    create gets or creates, whatever the form of the domain, and prints domain and uuid in Klanten's shape.
    """
    made = maps.json("customers", "create", "Bücher.Example.")

    assert {"version": 1, "kind": "customer", "domain": "xn--bcher-kva.example", "uuid": made["uuid"], "created": True} == made
    assert {**made, "created": False} == maps.json("customers", "create", "xn--bcher-kva.example")
    assert [(made["uuid"],)] == maps.ask("SELECT usersync.uuid_of('xn--bcher-kva.example')::text")


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("test.user@example.org", "type example.org"),
        ("https://www.example.org/x?y", "type www.example.org"),
        ("192.0.2.7", "an IP address or a number"),
        ("localhost", "one label only"),
        (NOBODY, "usersync customers show UUID"),
    ],
)
def test_what_is_no_domain(maps: Maps, text: str, instead: str) -> None:
    """
    What is no domain is refused with what to type instead; a person's address is not repeated.
    """
    found = maps("customers", "create", text)

    assert (2, "") == (found.status, found.stdout)
    assert instead in found.stderr
    assert "test.user" not in found.stderr
    assert [] == maps.ask("SELECT FROM usersync.customers")


def test_an_unknown_customer(maps: Maps) -> None:
    """
    An unknown customer is exit 9 for each command, with what comes near.
    """
    maps.customer("example.com")
    maps.customer("example.net")
    commands = [("show",), ("rename", "other.test"), ("merge", "example.net", "--reason", "x"), ("unmerge", "--reason", "x")]

    for command, *rest in commands:
        near, unknown = maps("customers", command, "example.con", *rest), maps("customers", command, NOBODY, *rest)
        assert (9, "", 9, "") == (near.status, near.stdout, unknown.status, unknown.stdout)
        assert "did you mean example.com?" in near.stderr
        assert "usersync customers list" in unknown.stderr


def test_why_has_to_be_said(maps: Maps) -> None:
    """
    Nobody merges or unmerges without a reason.
    """
    for domain in ("a.test", "b.test"):
        maps.customer(domain)

    assert [2, 2] == [maps("customers", *one).status for one in (("merge", "a.test", "b.test"), ("unmerge", "a.test"))]
    assert [] == maps.ask("SELECT FROM usersync.merges")


def test_lists_and_shows(maps: Maps) -> None:
    """
    A page of customers with how many there are; a customer with its ids, those of customers that were merged into it too.
    """
    for number, domain in enumerate(["a.test", "b.test", "c.test"]):
        maps.map("shop", str(number), domain)
    maps("customers", "merge", "a.test", "c.test", "--reason", "one firm", "--by", "Tester")

    def listed(*options: str) -> tuple[list[str], int]:
        found = maps.json("customers", "list", *options)
        return [one["domain"] for one in found["customers"]], found["total"]

    assert (["b.test", "c.test"], 2) == listed()
    assert (["a.test", "b.test", "c.test"], 3) == listed("--merged")
    assert (["c.test"], 2) == listed("--limit", "1", "--page", "2")
    assert ([], 2) == listed("--page", "3")
    assert (["a.test"], 1) == listed("--merged", "--search", "A.TEST")
    assert {"shop": 2} == maps.json("customers", "show", "c.test")["mappings"]
    merged = maps.json("customers", "show", "a.test")
    assert ("a.test", "c.test", "one firm") == (merged["domain"], merged["resolves_to"]["domain"], merged["merges"][0]["reason"])
    assert "by Tester: one firm" in maps("customers", "show", "c.test").stdout
    assert "merged into it" in maps("customers", "create", "a.test").stderr
