"""The local Fineract, and the source, held to what a real Fineract was recorded to answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.fineract_server import BASE, Fineract, made
from usersync_cli.model import Database, Documents, Record, Stream
from usersync_cli.ports import Tools
from usersync_cli.signals import Stop
from usersync_cli.sources.fineract import Settings, Source

EXCHANGES = yaml.safe_load((Path(__file__).parents[2] / "samples" / "fineract" / "exchanges.yaml").read_text())
PASSWORDS = {one["request"]["username"]: one["request"]["password"] for one in reversed(EXCHANGES)}


def recorded(name: str) -> Any:
    """The body of an answer."""
    (found,) = (one["response"]["body"] for one in EXCHANGES if one["name"] == name)
    return json.loads(found)


@pytest.fixture
def bank() -> Iterator[Fineract]:
    """A Fineract with the recorded users and roles, and the password of each caller."""
    server = Fineract()
    server.users.clear()
    server.roles = {role["id"]: role for role in recorded("roles")}
    for user in recorded("list"):
        roles = [role["id"] for role in user["selectedRoles"]]
        own = {name: value for name, value in user.items() if name not in ("id", "username", "officeName", "selectedRoles")}
        server.put(user["id"], user["username"], password=PASSWORDS.get(user["username"], "none"), roles=roles, **own)
    server.next_id = recorded("create another one of that name")["resourceId"]
    with server.running():
        yield server


def play(server: Fineract, exchange: Any) -> requests.Response:
    """The recorded request, to the local server."""
    asked = exchange["request"]
    for id_, changed in exchange.get("changed", {}).items():
        server.change(id_, **changed)
    return requests.request(
        asked["method"],
        f"{server.url}{BASE}{asked['path']}",
        auth=(asked["username"], asked["password"]),
        headers={"Fineract-Platform-TenantId": asked["tenant"]} if asked["tenant"] else {},
        data=asked.get("body"),
        timeout=10,
    )


def comparable(body: Any) -> Any:
    """Without what differs each time: when it was, and the order of roles. Names stand in their order."""
    if isinstance(body, dict):
        found = {name: comparable(value) for name, value in body.items()}
        for name in {"selectedRoles", "availableRoles"} & found.keys():
            found[name].sort(key=lambda role: role[0][1])
        if "timestamp" in found:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["timestamp"])
            found["timestamp"] = "..."
        return list(found.items())
    return [comparable(one) for one in body] if isinstance(body, list) else body


def test_the_local_server_answers_as_the_real_one_did(bank: Fineract) -> None:
    """
    All recorded requests in their order: the same status, headers and documents, name by name.
    """
    for exchange in EXCHANGES:
        answer, expected = play(bank, exchange), exchange["response"]

        assert (exchange["name"], expected["status"]) == (exchange["name"], answer.status_code)
        assert expected["content_type"] == answer.headers["Content-Type"]
        assert expected.get("www_authenticate") == answer.headers.get("WWW-Authenticate")
        assert (exchange["name"], comparable(json.loads(expected["body"]))) == (exchange["name"], comparable(answer.json()))


def read(server: Fineract, stream: str, **settings: Any) -> list[Record]:
    """What the source makes of a list."""
    source = Source("bank", Settings.model_validate(made(server.url, password="password", **settings)))
    with source.open(Tools("job", Stop(), Database)) as session:
        pages = list(session.pages([Stream(stream)], {}))
    assert [True] == [page.complete for page in pages]
    return [record for page in pages if isinstance(page.content, Documents) for record in page.content.records]


@pytest.mark.parametrize("stream", ["users", "roles"])
def test_recorded_documents_come_whole(bank: Fineract, stream: str) -> None:
    """
    Each document as it was recorded, under its id, in the order of the list; but for the users that are left alone.
    """
    expected = {str(one["id"]): one for one in recorded("list" if stream == "users" else "roles")}
    records = read(bank, stream, exclude=["system"], self_service_users=True)
    expected = {key: one for key, one in expected.items() if one.get("username") != "system"}

    assert list(expected) == [record.key for record in records]
    assert comparable(list(expected.values())) == comparable([json.loads(record.data) for record in records])
    assert not any(record.problem or record.deleted or record.version for record in records)


def test_who_is_deleted_is_unknown_by_id(bank: Fineract) -> None:
    """
    Of ids that the list lacks, those are gone whom Fineract does not know; one that it knows is not.
    """
    source = Source("bank", Settings.model_validate(made(bank.url, password="password")))
    bank.delete(5)
    with source.open(Tools("job", Stop(), Database)) as session:
        assert {"5", "9999"} == session.gone("users", ["4", "5", "9999"])
        assert {"9999"} == session.gone("roles", ["3", "9999"])
