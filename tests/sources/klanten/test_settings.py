"""What the config file says of a source `klanten`."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from usersync_cli.sources.klanten import Settings

STREAMS = {"companies": "crm", "shops": "shop"}


@pytest.mark.parametrize(
    "given",
    [
        {"url": "https://klanten.example.org/v1"},
        {"url": "http://klanten.example.org"},
        {"url": "klanten.example.org"},
        {"api_key": ""},
        {"api_key": "Api-Key a.b"},
        {"api_key": "a.b\n"},
        {"streams": {}},
        {"streams": {"companies": "a/b"}},
        {"streams": {"companies": ".."}},
        {"streams": {"Companies": "crm"}},
        {"streams": {"companies": "crm", "others": "crm"}},
        {"known": {"crm": "a/b"}},
        {"workers": 0},
    ],
    ids=str,
)
def test_settings_that_can_not_be(given: dict[str, Any]) -> None:
    """
    What could never work is refused before anything is asked, without showing the key.
    """
    good = {"url": "https://klanten.example.org", "api_key": "a.b", "streams": STREAMS}
    Settings(type="klanten", **good, known={"crm": 1})
    with pytest.raises(ValidationError) as error:
        Settings(type="klanten", **{**good, **given})

    assert "a.b" not in str(error.value)
