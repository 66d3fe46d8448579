"""What the config file says of a realm: where it is, and which roles and groups may be given."""

from __future__ import annotations

from typing import Any

import pytest

from usersync_cli.targets.keycloak.settings import Settings, place

OWN = {"type": "keycloak", "url": "https://sso.example.org", "realm": "bank", "client_id": "usersync", "client_secret": "not-a-secret"}


def settings(**more: Any) -> Settings:
    return Settings.model_validate({**OWN, **more})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://sso.example.org", "realm bank of sso.example.org"),
        ("https://SSO.Example.org/", "realm bank of sso.example.org"),
        ("https://sso.example.org:443", "realm bank of sso.example.org"),
        ("https://sso.example.org:8443", "realm bank of sso.example.org:8443"),
        ("https://sso.example.org/auth/", "realm bank of sso.example.org/auth"),
        ("https://sso.example.org/Auth", "realm bank of sso.example.org/auth"),
        ("http://localhost:80", "realm bank of localhost"),
        ("http://localhost:443", "realm bank of localhost:443"),
    ],
)
def test_a_place_has_one_name(url: str, expected: str) -> None:
    """
    However an address is written, the realm has one name: two jobs that write to it are recognised.
    """
    assert expected == place(settings(url=url))


def test_only_what_the_maps_name_may_be_given() -> None:
    """
    Each role and group once, the default role too; a group without its parents is at the top.
    """
    own = settings(roles={"Cashier": "teller", "Clerk": "teller"}, default_role="staff", groups={"teller": "tellers", "staff": "/hq/staff"})

    assert (["teller", "staff"], ["/tellers", "/hq/staff"]) == (own.managed_roles, own.managed_groups)
