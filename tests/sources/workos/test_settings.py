"""What the config file may say about WorkOS."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from usersync_cli.sources.workos.settings import Settings, place_of


def made(**more: Any) -> Settings:
    return Settings.model_validate({"type": "workos", "api_key": "sk_test_1", **more})


def test_a_key_is_enough() -> None:
    """
    Everything else has a default, and the key is not shown.
    """
    settings = made()

    assert ("https://api.workos.com", timedelta(days=30), timedelta(days=1)) == (settings.api_url, settings.retention, settings.full_every)
    assert "sk_test_1" not in repr(settings)


@pytest.mark.parametrize("url", ["http://127.0.0.1:4100", "http://localhost:4100", "http://[::1]:4100", "https://proxy.example/workos/"])
def test_clear_text_is_for_this_machine(url: str) -> None:
    """
    An emulator has no certificate.
    """
    assert url.rstrip("/") == made(api_url=url).api_url


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"api_url": "http://api.workos.com"}, "clear text"),
        ({"api_url": "http://192.0.2.1"}, "clear text"),
        ({"api_url": "api.workos.com"}, "must be an address"),
        ({"api_url": "https://sk_test_1@api.workos.com"}, "must be an address"),
        ({"api_key": ""}, "must be a secret key"),
        ({"api_key": "sk_test 1"}, "must be a secret key"),
        ({"api_key": "sk_test_1\n"}, "must be a secret key"),
        ({"retention": "0s"}, "must be from 1h to 90d"),
        ({"retention": "91d"}, "must be from 1h to 90d"),
        ({"event_types": ["users"]}, "must be a type of event"),
        ({"event_types": ["user.created,user.updated"]}, "must be a type of event"),
        ({"workers": 0}, "greater than or equal to 1"),
        ({"key": "x"}, "Extra inputs"),
    ],
)
def test_mistakes_are_told_without_the_key(wrong: dict[str, Any], said: str) -> None:
    """
    Each by the setting that is wrong.
    """
    with pytest.raises(ValidationError, match=said) as error:
        made(**wrong)

    assert "sk_test" not in str(error.value)
    assert next(iter(wrong)) in str(error.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://api.workos.com", "api.workos.com"),
        ("https://API.workos.com:443", "api.workos.com"),
        ("http://127.0.0.1:4100", "127.0.0.1:4100"),
        ("https://proxy.example/workos", "proxy.example/workos"),
    ],
)
def test_a_place_is_the_same_however_it_is_written(url: str, place: str) -> None:
    """
    Rows of another place are refused, so its name has to stay.
    """
    assert place == place_of(url)
