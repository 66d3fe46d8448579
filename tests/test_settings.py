"""What the settings of sources and targets are made of."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from usersync_cli.settings import UNSET, Address, in_clear_text

ADDRESS = TypeAdapter(Annotated[str, Address("must be an address of ours")])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://sso.example.org", "https://sso.example.org"),
        ("https://sso.example.org/", "https://sso.example.org"),
        ("http://[::1]:8080/auth//", "http://[::1]:8080/auth"),
        (f"{UNSET}3", f"{UNSET}3"),
    ],
)
def test_an_address_loses_the_slash_at_its_end(given: str, expected: str) -> None:
    """
    Paths are put behind it; the stand-in for a variable that is missing passes as it is.
    """
    assert expected == ADDRESS.validate_python(given)


@pytest.mark.parametrize(
    "given",
    ["", "sso.example.org", "ftp://sso.example.org", "https://", "https:///path", "https://user:word@sso.example.org"]
    + [f"https://sso.example.org{end}" for end in ("?a=1", "/#top", "/a b", "/path\n")],
)
def test_what_is_no_address_is_refused_in_its_owners_words(given: str) -> None:
    """
    A user, a query, a fragment or white space would not survive a path that is put behind it.
    """
    with pytest.raises(ValidationError, match="must be an address of ours"):
        ADDRESS.validate_python(given)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://sso.example.org", False),
        ("http://sso.example.org", True),
        ("http://10.0.0.1:8080", True),
        ("http://localhost.example.org", True),
        ("http://127.0.0.1.example.org/", True),
        ("http://[bad", True),
        ("http://localhost:8080/auth", False),
        ("http://LOCALHOST", False),
        ("http://127.0.0.1", False),
        ("http://[::1]:8080", False),
        (f"{UNSET}3", False),
    ],
)
def test_http_is_in_clear_text_except_to_this_machine(address: str, *, expected: bool) -> None:
    """
    Only an address that certainly stays on this machine may begin with http:// without a word.
    """
    assert expected == in_clear_text(address)
