"""What an app may be called."""

from __future__ import annotations

import pytest

from usersync_cli.identity import names


@pytest.mark.parametrize("name", ["amc", "teamleader.companies", "Shop-2", "a_b.c-d.e", "Büro", "a" * 63])
def test_names_of_apps(name: str) -> None:
    """
    Words of letters, digits, _ and -, with dots between them.
    """
    assert names.is_app(name)


@pytest.mark.parametrize("name", ["", "a:1", "a b", " a", ".a", "a.", "a..b", "1a", "_a", "a/b", "a@b", "a,b", "a\n", "a" * 64])
def test_what_is_no_name_of_an_app(name: str) -> None:
    """
    What would be taken for an id, an address or two words is none.
    """
    assert not names.is_app(name)
