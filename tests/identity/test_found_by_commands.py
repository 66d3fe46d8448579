"""What was found by trying the commands of the map as people would."""

from __future__ import annotations

from pathlib import Path

from tests.cli.maps import Maps, maps

__all__ = ["maps"]  # a fixture


def test_ids_with_blanks_around_them_can_be_meant(maps: Maps, tmp_path: Path) -> None:
    """
    A job's id may have blanks around it: commands mean it as it is typed, and an exported file brings it back; elsewhere blanks are cut.
    """
    for id_ in (" 7 ", "\t-9"):
        maps.map("shop", id_, "example.com")
    out = tmp_path / "out.csv"
    out.write_text(maps("mappings", "export").stdout)
    maps.ask("TRUNCATE usersync.mappings")

    assert 2 == maps.json("mappings", "import", str(out))["created"]
    assert [("\t-9",), (" 7 ",)] == sorted(maps.ask("SELECT id FROM usersync.mappings"))
    assert 0 == maps("mappings", "query", "--app", "shop", "--id", " 7 ").status
    assert 9 == maps("mappings", "query", "--app", "shop", "--id", "7").status
    assert "there" == maps.json("mappings", "create", "--app", "shop", "--id", " 7 ", "--customer", "example.com")["result"]
    assert "8" == maps.json("mappings", "create", "--app", "shop", "--id", " 8 ", "--customer", "example.com")["app_id"]
    assert " 7 " == maps.json("mappings", "remove", "--app", "shop", "--id", " 7 ")["app_id"]


def test_an_address_may_have_its_name_before_it(maps: Maps) -> None:
    """
    As mail programs write it, and whois itself shows it: the address counts, also to say that it is a role.
    """
    maps.map("shop", "1", "example.com")
    found = maps.json("whois", "Test User <test.user@Example.com>")
    role = maps("whois", '"Test, User" <info@example.com>')

    assert ("email", "example.com") == (found["asked"]["kind"], found["customers"][0]["domain"])
    assert (9, True) == (role.status, "info@ is a role" in role.stderr)


def test_a_name_below_a_domain_that_is_a_customer_by_itself_is_found_first(maps: Maps) -> None:
    """
    Of an address, too: a person has made it a customer. Other names below the domain are the domain's.
    """
    maps.map("shop", "1", "example.com")
    maps.map("shop", "2", "north.example.com")
    asked = ["test@north.example.com", "https://north.example.com/a", "test@south.example.com"]
    because = [maps.json("whois", one)["customers"][0]["because"][:-1] for one in asked]

    assert ["test@north.example.com", "e-mail domain", "north.example.com"] == because[0]
    assert ["north.example.com", "example.com"] == [one[-1] for one in because[1:]]
