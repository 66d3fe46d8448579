"""`usersync whois`: one answer for a uuid, a domain, an id or an e-mail address, with every step; and what is said where there is none."""

from __future__ import annotations

import pytest

from tests.cli.maps import Maps, maps

__all__ = ["maps"]  # a fixture


@pytest.fixture
def known(maps: Maps) -> str:
    """A customer with two ids by rule and one by hand; a run saw them last at noon."""
    uuid = maps.map("crm.contacts", "42", "example.com")
    maps.map("crm.companies", "42", "example.com")
    maps.ask("UPDATE usersync.mappings SET opened_at = '2026-01-01T00:00Z'")
    maps("mappings", "create", "--app", "shop", "--id", "a:b", "--customer", "example.com", "--by", "Test User", "--reason", "a letter")
    maps.ask(
        "INSERT INTO usersync.runs (job, status, exit_status, epoch, owner, usersync_version) VALUES ('crm', 'ok', 0, 1, '', '1');"
        "INSERT INTO usersync.run_steps (run_id, step, status, finished_at)"
        " SELECT id, 'people', 'ok', '2026-03-01T12:00Z' FROM usersync.runs;"
        "INSERT INTO usersync.runs (job, status, exit_status, epoch, owner, usersync_version) VALUES ('crm', 'failed', 4, 1, '', '1');"
        "INSERT INTO usersync.run_steps (run_id, step, status, finished_at)"
        " SELECT max(id), 'people', 'failed', '2026-03-02T12:00Z' FROM usersync.runs"
    )
    return uuid


STEPS = {
    "EXAMPLE.com.": ["example.com"],
    "www.example.com": ["www.example.com", "example.com"],
    "https://shop.example.com:443/x?y": ["https://shop.example.com:443/x?y", "web address", "example.com"],
    "Test.User+x@mail.example.com": ["Test.User+x@mail.example.com", "e-mail domain", "example.com"],
    "crm.contacts:42": ["crm.contacts:42", "rule email", "test.user@example.com", "example.com"],
    "shop:a:b": ["shop:a:b", "pinned by Test User (a letter)"],
    "crm:42": ["crm.companies:42", "rule email", "test.user@example.com", "example.com"],
}


def test_every_kind_of_question_is_answered_with_its_steps(maps: Maps, known: str) -> None:
    """
    Uuid, domain, name below a domain, web address, e-mail address, id, and an app without its object lead to the one customer.
    """
    for text, steps in {**STEPS, known: [], known.upper(): []}.items():
        (found,) = maps.json("whois", text)["customers"]
        assert (text, known, [*steps, f"customer {known}"]) == (text, found["uuid"], found["because"])
        assert 3 == len(found["mappings"])


def test_a_mapping_says_where_it_came_from(maps: Maps, known: str) -> None:
    """
    App, id, job or person, run, rule, evidence, when it was first seen, and when a good run of its step saw it last.
    """
    (found,) = maps.json("whois", known)["customers"]
    of = {one["app"]: one for one in found["mappings"]}
    names = ("app_id", "job", "step", "run", "rule", "evidence", "person", "first_seen", "last_seen")

    assert (
        "42", "crm", "people", 7, "email", "test.user@example.com", None, "2026-01-01T00:00:00+00:00", "2026-03-01T12:00:00+00:00",
    ) == tuple(of["crm.contacts"][name] for name in names)  # fmt: skip
    assert ("a:b", None, "Test User", "a letter", True, None) == tuple(
        of["shop"][name] for name in ("app_id", "job", "person", "reason", "pinned", "last_seen")
    )
    lines = maps("whois", "crm.contacts:42").stdout.splitlines()
    assert f"crm.contacts:42 -> rule email -> test.user@example.com -> example.com -> customer {known}" == lines[0]
    assert any("job crm, step people, run 7; first seen 2026-01-01 00:00:00 UTC, last seen 2026-03-01 12:00:00 UTC" in one for one in lines)


def test_merged_renamed_closed_and_disputed(maps: Maps, known: str) -> None:
    """
    A merged uuid and a former domain go on resolving, with the steps; closed mappings and conflicts are part of the answer.
    """
    old = maps.map("shop", "7", "example.org")
    maps.ask("UPDATE usersync.customers SET merged_into = %s WHERE uuid = %s", known, old)
    maps.ask("INSERT INTO usersync.merges (customer, merged_into, merged_by, reason) VALUES (%s, %s, 'Test User', 'one firm')", old, known)
    maps.ask("INSERT INTO usersync.former_domains (domain, customer, renamed_by) VALUES ('old.example', %s, 'Test User')", known)
    maps("mappings", "remove", "--app", "crm.companies", "--id", "42", "--by", "Test User", "--reason", "closed down")
    number = maps.conflict("domain", "crm.contacts:42", domain="example.net")
    (found,) = maps.json("whois", "old.example")["customers"]

    assert ["old.example", "renamed to example.com", f"customer {known}"] == found["because"]
    assert [f"customer {old}", f"merged into {known}"] == maps.json("whois", old)["customers"][0]["because"]
    assert ["example.org", f"customer {old}", f"merged into {known}"] == maps.json("whois", "example.org")["customers"][0]["because"]
    assert [(old, "one firm")] == [(one["uuid"], one["reason"]) for one in found["merged"]]
    assert [("crm.companies", "removed", "closed down")] == [
        (one["app"], one["closed_because"], one["closed_reason"]) for one in found["closed"]
    ]
    assert [int(number)] == [one["id"] for one in found["conflicts"]]
    text = maps("whois", "crm.contacts:42").stdout
    assert all(part in text for part in ("merged: ", "was old.example until", "closed: crm.companies:42", f"  {number}: crm.contacts:42"))


NOBODY = {
    "11111111-1111-4111-8111-111111111111": "no customer has the uuid 11111111-",
    "exxample.com": "did you mean example.com?",
    "test.user@gmail.com": "gmail.com identifies nobody: free",
    "info@example.com": "info@ is a role",
    "test.user@example-shop.myshopify.com": "identifies nobody",
    "crm.contacts:43": "crm.contacts:43 is not mapped",
    "crm.contcts:42": "did you mean crm.contacts?",
    "nonsense": "that is no uuid",
}


def test_nobody_is_9_with_what_was_looked_for(maps: Maps, known: str) -> None:
    """
    Each says what was looked for, or why it identifies nobody; a person's address is not repeated.
    """
    for text, said in NOBODY.items():
        found = maps("whois", text)
        assert (text, 9, "") == (text, found.status, found.stdout)
        assert said in found.stderr
        assert "test.user" not in found.stderr
    assert "not_found" == maps.json("whois", "exxample.com", status=9)["code"]


def test_an_id_that_was_somebody_has_its_history(maps: Maps, known: str) -> None:
    """
    What was closed is shown, with exit status 9: it is nobody's now.
    """
    maps("mappings", "remove", "--app", "shop", "--id", "a:b", "--reason", "a mistake")
    found = maps("whois", "shop:a:b")
    document = maps.json("whois", "shop:a:b", status=9)

    assert (9, []) == (found.status, document["customers"])
    assert "closed: shop:a:b -> pinned by Test User" in found.stdout
    assert [("removed", "a mistake")] == [(one["closed_because"], one["closed_reason"]) for one in document["closed"]]


def test_long_chains_and_long_lists_end(maps: Maps, known: str) -> None:
    """
    A chain of a thousand merges is followed; of a long list as many are shown as were asked for.
    """
    maps.ask(
        "INSERT INTO usersync.customers (uuid, merged_into, created_by)"
        " SELECT md5(n::text)::uuid, CASE n WHEN 1 THEN %s::uuid ELSE md5((n - 1)::text)::uuid END, 'test' FROM generate_series(1, 1000) n",
        known,
    )
    (last,) = maps.ask("SELECT md5('1000')::uuid::text")[0]
    found = maps.json("whois", last, "--limit", "2")

    assert (known, True, 2) == (found["customers"][0]["uuid"], found["more"], len(found["customers"][0]["mappings"]))
    assert "merges" in " ".join(found["customers"][0]["because"])
