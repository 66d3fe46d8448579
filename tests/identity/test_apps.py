"""Apps by hand: added, listed, removed when nobody uses them."""

from __future__ import annotations

import json

import pytest

from tests.cli.maps import Maps, maps
from tests.identity.test_grants import Role, as_, ask, role

__all__ = ["maps", "role"]


def test_an_app_is_added_once(maps: Maps) -> None:
    """
    An app that is there already stays as it is.
    """
    assert [True, False] == [maps.json("apps", "add", "erp", "--by", who)["created"] for who in ("Tester", "Other")]
    (erp,) = [one for one in maps.json("apps", "list")["apps"] if one["name"] == "erp"]
    assert ("Tester", 0, [], []) == (erp["added_by"], erp["ids"], erp["roles"], erp["filled_by"])


@pytest.mark.parametrize("name", ["shop:7", "a" * 300, "two\nlines"])
def test_what_is_no_name(maps: Maps, name: str) -> None:
    """
    A name that could not be told from an id is refused.
    """
    assert 2 == maps("apps", "add", name).status
    assert 3 == len(maps.json("apps", "list")["apps"])


def test_an_app_in_use_stays(maps: Maps) -> None:
    """
    An app with mappings, or that a step of the config file fills, is not removed: how many, which step, and what to type is said.
    """
    maps.map("shop", "1", "a.test")
    config = maps.folder / "config.yaml"
    document = json.loads(config.read_text())
    identity = {"app": "crm.contacts", "id": "id", "rules": [{"name": "site", "domain": "website"}]}
    document["jobs"]["crm"]["steps"][0] |= {"name": "people", "identity": identity}
    config.write_text(json.dumps(document))

    found = {app: maps("apps", "remove", app) for app in ("shop", "crm.contacts", "crm.companies", "shpo")}

    assert [10, 10, 0, 9] == [one.status for one in found.values()]
    assert "1 mapping;" in found["shop"].stderr
    assert "usersync mappings remove --app shop" in found["shop"].stderr
    assert "job crm, step people" in found["crm.contacts"].stderr
    assert "did you mean shop?" in found["shpo"].stderr
    assert ["crm.contacts", "shop"] == [one["name"] for one in maps.json("apps", "list")["apps"]]


def test_a_removed_app_takes_its_grants_along(maps: Maps, role: Role) -> None:
    """
    A role that could read a removed app loses its rights; when the app is added again, it is not the role's.
    """
    reader = role("reader")
    maps("apps", "grant", "shop", "--role", reader)

    assert 0 == maps("apps", "remove", "shop").status
    assert [(False,)] == maps.ask("SELECT has_schema_privilege(%s, 'usersync', 'USAGE')", reader)
    maps("apps", "add", "shop")
    assert [] == next(one["roles"] for one in maps.json("apps", "list")["apps"] if one["name"] == "shop")


def test_a_new_role_of_an_old_name(maps: Maps, role: Role) -> None:
    """
    A role that was dropped and made anew has none of the apps of the old one, also once it is granted another.
    """
    reader = role("reader")
    for app in ("shop", "crm.contacts"):
        maps.map(app, "1", "a.test")
        maps("apps", "grant", app, "--role", reader)
    maps.ask(f"DROP OWNED BY {reader}")
    maps.ask(f"DROP ROLE {reader}")
    maps.ask(f"CREATE ROLE {reader} LOGIN")

    assert 0 == maps("apps", "grant", "shop", "--role", reader).status

    assert [("shop",)] == ask(as_(reader, maps.target), "SELECT app FROM usersync.customer_ids")
