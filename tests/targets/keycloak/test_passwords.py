"""First logins: passwords that a realm's policy asks for, and nothing that a spreadsheet runs; addresses that can be verified."""

from __future__ import annotations

import csv
import io
import itertools
import re
from typing import Any

import pytest

from usersync_cli.targets.keycloak.logins import is_possible, mail_problem, policy
from usersync_cli.targets.keycloak.passwords import DIGITS, LOWER, SIGNS, UPPER, first_passwords
from usersync_cli.targets.keycloak.settings import Settings


def made(text: str, number: int, *names: str) -> list[str]:
    """So many passwords that are tried first in a realm of this policy."""
    wanted = policy({"passwordPolicy": text}).without(*names)
    return [next(first_passwords(wanted)) for _ in range(number)]


def test_where_nobody_asks_for_more() -> None:
    """
    16 characters of four classes, no two equal ones next to each other, never the same twice.
    """
    passwords = made("", 300)

    assert {16} == {len(one) for one in passwords}
    assert all(any(character in kind for character in one) for one in passwords for kind in (LOWER, UPPER, DIGITS, SIGNS))
    assert all(a != b for one in passwords for a, b in itertools.pairwise(one))
    assert len(passwords) == len(set(passwords))


@pytest.mark.parametrize("text", ["", "specialChars(12)", "regexPattern([^a-zA-Z0-9]+.*)"])
def test_no_password_is_a_formula(text: str) -> None:
    """
    Not in a spreadsheet that opens the file, whatever CSV puts around it.
    """
    for password in made(text, 300):
        line = io.StringIO()
        csv.writer(line).writerow(["somebody", password])
        assert ["somebody", password] == next(csv.reader([line.getvalue()]))
        assert password[0] not in "=+-@\t\r\n"


def count(characters: str, password: str) -> int:
    return sum(one in characters for one in password)


@pytest.mark.parametrize(
    ("text", "least", "length"),
    [
        ("length(20)", {}, 20),
        ("length", {}, 16),
        ("length(64) and maxLength(64)", {}, 64),
        ("maxLength(8)", {}, 8),
        ("maxLength(3)", {}, 3),
        ("specialChars(2) and digits(3) and lowerCase(4) and upperCase(5)", {SIGNS: 2, DIGITS: 3, LOWER: 4, UPPER: 5}, 16),
        ("specialChars(9) and digits(9)", {SIGNS: 9, DIGITS: 9}, 18),
        ("digits and upperCase(undefined)", {DIGITS: 1, UPPER: 1}, 16),
        ("hashAlgorithm(argon2) and hashIterations(5) and passwordHistory(3) and notUsername(undefined) and length(18)", {}, 18),
    ],
)
def test_numbers_of_the_policy(text: str, least: dict[str, int], length: int) -> None:
    """
    As many characters, and as many of each class, as the realm asks for; the number that Keycloak takes where there is none.
    """
    for password in made(text, 50):
        assert length == len(password)
        assert all(count(characters, password) >= number for characters, number in least.items())


@pytest.mark.parametrize(
    "pattern", ["[a-z0-9]{10,}", r"^(?=.*\d)(?=.*[A-Z]).{12,}$", r"\d{16}", "[A-Z]+", "^[^!@]*$", "[a-zA-Z]+[0-9a-zA-Z]*"]
)
def test_patterns_of_the_policy(pattern: str) -> None:
    """
    One kind of characters after the other is tried, until the pattern is matched.
    """
    assert all(re.fullmatch(pattern, password) for password in made(f"regexPattern({pattern}) and length(8)", 3))


@pytest.mark.parametrize("pattern", [r"[\p{Lower}\p{Digit}]+", "[a-z0-9&&[^0]]+", "(?<all>[a-z0-9]+)"])
def test_a_pattern_that_only_java_reads_is_left_to_the_server(pattern: str) -> None:
    """
    Each kind of characters comes in turn, so that what the server wants is among them, and there is an end.
    """
    tried = list(first_passwords(policy({"passwordPolicy": f"regexPattern({pattern})"})))

    assert any(re.fullmatch("[a-z0-9]+", password) for password in tried)
    assert len(tried) < 20


def test_own_names_are_no_password() -> None:
    """
    Not in any case, and not within it.
    """
    assert all("a" not in password.casefold() for password in made("notContainsUsername", 100, "A", ""))


@pytest.mark.parametrize("text", ["length(20) and maxLength(10)", "digits(9) and maxLength(8)", r"regexPattern(Bank-\d{4}-[a-z]{8})"])
def test_what_no_password_can_be(text: str) -> None:
    """
    Is found out before anybody asks the server.
    """
    assert not is_possible(policy({"passwordPolicy": text}))
    assert is_possible(policy({"passwordPolicy": None}))


SERVER = {"host": "127.0.0.1", "from": "bank@example.org"}


@pytest.mark.parametrize(
    ("settings", "about", "fails"),
    [
        ({}, {"verifyEmail": True}, False),
        ({"email_verified": False}, {"smtpServer": {}}, True),
        ({"email_verified": False}, {"smtpServer": None}, True),
        ({"email_verified": False}, {"smtpServer": SERVER}, False),
        ({"email_verified": False}, {"smtpServer": {"host": "127.0.0.1"}}, True),
        ({"email_verified": False, "required_actions": ["UPDATE_PASSWORD"]}, {"verifyEmail": True}, True),
        ({"email_verified": False, "required_actions": ["UPDATE_PASSWORD"]}, {"verifyEmail": False}, False),
    ],
)
def test_who_has_to_verify_an_address_needs_a_mail_server(settings: dict[str, Any], about: dict[str, Any], *, fails: bool) -> None:
    """
    Whether the required actions ask for it, or the realm itself.
    """
    own = {"type": "keycloak", "url": "https://sso.example.org", "realm": "bank", "client_id": "usersync", "client_secret": "-"}
    assert fails == (mail_problem(Settings.model_validate({**own, **settings}), about) is not None)
