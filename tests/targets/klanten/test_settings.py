"""What may be said of a target klanten."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from usersync_cli.targets.klanten.settings import Settings, place


def settings(**more: Any) -> Settings:
    return Settings.model_validate({"type": "klanten", "url": "https://klanten.test", "api_key": "a-key", "apps": {"crm": "crm"}, **more})


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"url": "https://klanten.test/v1"}, "ends with /v1, which usersync adds"),
        ({"url": "http://klanten.test"}, "the key could be read on its way"),
        ({"apps": {"crm": "a/b"}}, "without / and white space"),
        ({"apps": {"crm": " a"}}, "without / and white space"),
        ({"apps": {"crm": "a", "shop": "a"}}, "is the name of crm already"),
        ({"apps": {"crm:x": "a"}}, "without a colon"),
        ({"apps": {}}, "at least 1"),
    ],
)
def test_mistakes(wrong: dict[str, Any], word: str) -> None:
    """
    Each is refused in words, and shows no key.
    """
    with pytest.raises(ValidationError, match=word) as error:
        settings(**wrong)

    assert "a-key" not in str(error.value)


def test_the_place_is_the_same_for_all_ways_to_write_its_address() -> None:
    """
    What was sent is remembered by the place, so that another way to write it asks nothing again.
    """
    ways = ("https://klanten.test", "https://KLANTEN.test:443/", "https://klanten.test/")

    assert {"Klanten at klanten.test"} == {place(settings(url=url)) for url in ways}
    assert "Klanten at klanten.test:8443/at" == place(settings(url="https://klanten.test:8443/at"))
