"""Documents and events of WorkOS as records: pure functions, each rule on its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from usersync_cli.model import Record
from usersync_cli.sources.workos.shapes import (
    SECRETS,
    Event,
    archived,
    aside,
    canonical,
    change_of,
    event_of,
    fields_of,
    moment,
    record_of,
    without_secrets,
)
from usersync_cli.sources.workos.streams import NAMES, OF_TYPE, STREAMS, Kind, asked_types
from usersync_cli.sources.workos.types import TYPES

USER = {
    "object": "user",
    "id": "user_01",
    "email": "test.user@test.example",
    "first_name": "Test",
    "updated_at": "2026-01-01T00:00:00.000Z",
}
AT = "2026-01-02T00:00:00.000Z"


def spelt(document: Any) -> bytes:
    """A document in its one spelling."""
    row = document if isinstance(document, bytes) else json.dumps(document).encode()
    fields = fields_of(row)
    assert fields is not None
    return canonical(row, fields)


def event(type_: str = "user.updated", data: Any = USER, **more: Any) -> Event:
    return event_of(json.dumps({"object": "event", "id": "event_01", "event": type_, "data": data, "created_at": AT, **more}).encode())


# documents


def test_fields_are_in_alphabetical_order_with_their_own_bytes() -> None:
    """
    The order of fields does not matter, and numbers keep all their digits.
    """
    row = b'{"id": "org_01", "amount": 12345678901234567.890, "big": 123456789012345678901234567890, "a": {"z": 1.0, "b": [1E2]}}'

    expected = b'{"a":{"z": 1.0, "b": [1E2]},"amount":12345678901234567.890,"big":123456789012345678901234567890,"id":"org_01"}'
    assert expected == spelt(row)


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_secrets_are_taken_out_at_any_depth(name: str) -> None:
    """
    A field that lets somebody in is nowhere in what is stored, however deep it is.
    """
    deep = {
        "id": "org_01",
        name: "hidden",
        "domains": [{"id": "a", name: {"x": "hidden"}}],
        "more": {"list": [[{name: ["hidden"]}]], "kept": 1},
    }

    assert b"hidden" not in spelt(deep).replace(f'"{name}"'.encode(), b"")
    assert {"id": "org_01", "domains": [{"id": "a"}], "more": {"list": [[{}]], "kept": 1}} == json.loads(spelt(deep))


def test_a_secret_with_an_escaped_name_is_taken_out_too() -> None:
    """
    JSON may spell a name in other ways.
    """
    assert b'{"id":"org_01"}' == spelt(rb'{"id":"org_01","\u0074oken":"hidden"}')


def test_what_only_looks_like_a_secret_stays() -> None:
    """
    A value may be the word token, and a longer name may end with it.
    """
    kept = {"id": "x", "name": "token", "token_type": "a", "my_secret_santa": "b", "invitation_url": "c"}

    assert kept == json.loads(spelt(kept))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("domains", [{"id": "b"}, {"id": "a", "domain": "z"}]),
        ("roles", [{"slug": "member"}, {"slug": "admin"}]),
        ("permissions", ["users:write", "users:read"]),
        ("domains", [{"no": "id"}, {"id": "a"}, "text", 5, None]),
    ],
)
def test_sets_are_sorted(name: str, given: list[Any]) -> None:
    """
    An array that is a set is the same bytes in any order.
    """
    assert spelt({"id": "x", name: given}) == spelt({"id": "x", name: given[::-1]})


@pytest.mark.parametrize("value", [None, "text", {"a": 1}, 5, [], [{"id": "a"}]])
def test_what_is_no_set_is_left_alone(value: Any) -> None:
    """
    Where a set is expected, anything else stays as it came.
    """
    assert {"domains": value} == json.loads(spelt({"domains": value}))


@pytest.mark.parametrize("row", [b'"token"', b"[1", b"{", b'{"a": "\xff"}', b'{"token": "\\ud800"}', b'nonsense token"'])
def test_what_can_not_be_read_shows_no_secret(row: bytes) -> None:
    """
    Whatever came may be kept for a person to look at, but nothing of it that may be a secret.
    """
    assert b'token":' not in without_secrets(row)
    assert b"nonsense" not in without_secrets(row)


# records


def test_a_listed_object_is_whole_and_as_of_its_listing() -> None:
    """
    Its version is its own time of change.
    """
    record = record_of("users", json.dumps(USER).encode(), AT)

    assert ("user_01", USER["updated_at"], AT, False, False, "") == _facts(record)


def _facts(record: Record) -> tuple[object, ...]:
    return record.key, record.version, record.as_of, record.deleted, record.partial, record.problem


def test_a_change_is_as_of_its_event() -> None:
    """
    Its version is that of the document; a document of an event may lack fields.
    """
    record, fields = change_of("users", event(), Kind.CHANGED)

    assert ("user_01", USER["updated_at"], AT, False, True, "") == _facts(record)
    assert {*USER} == {*fields}


def test_a_delete_counts_from_its_event_on() -> None:
    """
    The document of a delete has the time of the last change before it.
    """
    record, _ = change_of("users", event("user.deleted"), Kind.DELETED)

    assert ("user_01", AT, AT, True, False, "") == _facts(record)


def test_roles_are_known_by_their_slug() -> None:
    """
    Their events have no id.
    """
    record, _ = change_of("roles", event("role.updated", {"object": "role", "slug": "admin", "updated_at": AT}), Kind.CHANGED)

    assert "admin" == record.key


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b"[]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"null", "not_an_object"),
        (b"{}", "no_key"),
        (b'{"id": 5}', "no_key"),
        (b'{"id": null}', "no_key"),
    ],
)
def test_an_object_that_is_none_says_why(row: bytes, problem: str) -> None:
    """
    It is a record with a problem, which is set aside.
    """
    assert problem == record_of("users", row, AT).problem


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"data": None}, "not_an_object"),
        ({"data": [1]}, "not_an_object"),
        ({"data": "text"}, "not_an_object"),
        ({"created_at": None}, "bad_version"),
        ({"created_at": "yesterday"}, "bad_version"),
        ({"id": None}, "no_key"),
        ({"id": ""}, "no_key"),
    ],
)
def test_an_event_that_nobody_understands_says_why(more: dict[str, Any], problem: str) -> None:
    """
    It can be set aside under its own id, or under a hash of it.
    """
    odd = event(**more)

    assert problem == odd.problem
    assert ("event_01" if odd.id else "event without an id") in aside("users", odd, odd.problem).key


def test_two_events_without_an_id_are_two_records() -> None:
    """
    Each has a key of its own, the same one each time it comes.
    """
    first, second = (aside("users", event(id=None, created_at=at), "no_key").key for at in (AT, "2026-01-03T00:00:00.000Z"))

    assert first != second
    assert first == aside("users", event(id=None), "no_key").key


def test_an_event_that_is_set_aside_has_no_secrets() -> None:
    """
    What waits for a person is read by people.
    """
    odd = event("invitation.created", {"id": None, "token": "secret", "accept_invitation_url": "https://test.example/secret"})

    assert b"secret" not in aside("invitations", odd, "no_key").data


def test_an_archived_event_has_its_own_id_and_no_secrets() -> None:
    """
    The archive keeps the whole event.
    """
    record = archived(event("invitation.created", {"id": "invitation_01", "token": "secret"}))

    assert ("event_01", AT, AT, False, False, "") == _facts(record)
    assert {"id": "invitation_01"} == json.loads(record.data)["data"]


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2026-01-02T00:00:00.000Z", "2026-01-02T00:00:00+00:00"),
        ("2026-01-02 00:00:00.000", "2026-01-02T00:00:00+00:00"),  # without a zone, as WorkOS's documentation shows it
        ("2026-01-02T02:00:00+02:00", "2026-01-02T02:00:00+02:00"),
        ("", None),
        ("now", None),
    ],
)
def test_times_without_a_zone_are_utc(text: str, iso: str | None) -> None:
    """
    Anything else is no time.
    """
    found = moment(text)

    assert iso == (found.isoformat() if found else None)


# types


def test_each_type_that_is_asked_for_is_one_that_workos_has() -> None:
    """
    It refuses types that it does not know; those of emulators are taken, but not asked for.
    """
    asked = asked_types(NAMES, ())

    assert [] == sorted({*asked} - {*TYPES})
    assert {type_ for stream in STREAMS.values() for type_ in stream.events} <= {*asked}
    assert "directory_user.created" in OF_TYPE
    assert "directory_user.created" not in asked


def test_only_types_of_the_streams_are_asked_for() -> None:
    """
    The three streams of the usual job need 14 types; the archive can be narrowed.
    """
    assert 14 == len(asked_types(("users", "organizations", "organization_memberships"), ()))
    assert ["session.created"] == asked_types(("events",), ("session.created",))


def test_what_is_told_has_the_version() -> None:
    """
    An event without a time of change can't be compared; last_sign_in_at is never told.
    """
    for name, stream in STREAMS.items():
        assert {"updated_at", stream.key} <= stream.told, name
    assert "last_sign_in_at" not in STREAMS["users"].told
