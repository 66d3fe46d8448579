"""What a realm's settings and user profile mean for what is written to it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from usersync_cli.targets.keycloak.rules import ATTRIBUTE, REFUSED_SIGNS, UNDECLARED, actions_problem, attribute_problem, keys_of

ACTIONS = [{"alias": "UPDATE_PASSWORD", "enabled": True}, {"alias": "VERIFY_EMAIL", "enabled": False}]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ([], UNDECLARED),
        ([{"name": "username"}], UNDECLARED),
        ([{"name": ATTRIBUTE}], None),
        ([{"name": ATTRIBUTE, "permissions": {"edit": ["admin"]}}], None),
        ([{"name": ATTRIBUTE, "permissions": {"edit": ["admin", "user"]}}], "lets people themselves change"),
    ],
)
def test_our_attribute_is_declared_and_closed(attributes: list[dict[str, Any]], expected: str | None) -> None:
    """
    A profile without our attribute drops it; one that lets people change it lets them take over accounts.
    """
    problem = attribute_problem({"attributes": attributes})

    assert (expected or "") in (problem or "")
    assert (expected is None) == (problem is None)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], ""),
        (["UPDATE_PASSWORD"], ""),
        (["UPDATE_PASSWORD", "VERIFY_EMAIL"], "VERIFY_EMAIL is switched off"),
        (["NONE"], "NONE is not known"),
    ],
)
def test_required_actions_exist_and_are_enabled(wanted: list[str], expected: str) -> None:
    """
    The first action that the realm would drop is named, with what is wrong with it; the hint names those that it has.
    """
    found = actions_problem(wanted, ACTIONS)

    assert expected in (found[0] if found else "")
    assert bool(expected) == bool(found and found[1].endswith("UPDATE_PASSWORD"))


@pytest.mark.parametrize(
    ("user", "expected"),
    [({}, []), ({"attributes": None}, []), ({"attributes": {ATTRIBUTE: None}}, []), ({"attributes": {ATTRIBUTE: ["b:7"]}}, ["b:7"])],
)
def test_whose_an_account_is(user: dict[str, Any], expected: list[str]) -> None:
    """
    The keys in our attribute; none in an account without it.
    """
    assert expected == list(keys_of(user))


def test_refused_signs_are_an_expression_that_both_read() -> None:
    """
    Python reads the signs between brackets as PostgreSQL does; letters, digits and . _ - @ are not among them.
    """
    refused = re.compile(f"[{''.join(REFUSED_SIGNS.values())}]")

    assert not refused.search("abz019._-@+éß")
    assert all(refused.search(sign) for sign in " \t'/<\"\u00a0\u0436\u03b1\u4e2d")
