"""A record as PostgreSQL will get it: its version, and what can't be loaded at all."""

from __future__ import annotations

import pytest

from usersync_cli.load.known import Known
from usersync_cli.model import Record
from usersync_cli.run.documents.page import PageRecord
from usersync_cli.run.documents.record import LONGEST_KEY, duplicates, read_record
from usersync_cli.state.readings import Scope
from usersync_cli.state.rejects import Reject

SCOPE = Scope("j", "s", 1, "people (id)", "fingerprint", "ours")


def read(
    key: str = "1", document: bytes = b"{}", version: str | None = None, *, numbered: bool = False, codec: str | None = None
) -> PageRecord | Reject:
    return read_record(Record("people", key, document, version), Known(SCOPE, numbered=numbered), codec)


def page_record(key: str, version: str | None = None, *, numbered: bool = False) -> PageRecord:
    found = read(key, version=version, numbered=numbered)
    assert isinstance(found, PageRecord)
    return found


@pytest.mark.parametrize(("given", "numbered", "expected"), [
    (None, False, None),
    ("2026-01-02T03:04:05", False, "2026-01-02T03:04:05+00:00"),
    ("2026-01-02T03:04:05+02:00", False, "2026-01-02T03:04:05+02:00"),
    ("10", True, "10"), ("-1.5e3", True, "-1.5e3"),
    ("yesterday", False, "bad_version"), ("10", False, "bad_version"), ("1_0", True, "bad_version"), ("NaN", True, "bad_version"),
])  # fmt: skip
def test_versions_are_typed(given: str | None, expected: str | None, *, numbered: bool) -> None:
    """
    A time, in UTC where it has no zone, or a number; anything else is a reject.
    """
    found = read(version=given, numbered=numbered)

    assert expected == (found.reason if isinstance(found, Reject) else found.version)


@pytest.mark.parametrize(("key", "document", "expected"), [
    ("", b"{}", (None, "no_key")), ("a\0", b"{}", (None, "no_key")), ("\ud800", b"{}", (None, "no_key")),
    ("1", b"\xff", ("1", "not_json")), ("1", b'{"a": "\0"}', ("1", "not_json")),
])  # fmt: skip
def test_what_postgresql_can_not_hold(key: str, document: bytes, expected: tuple[str | None, str]) -> None:
    """
    A key or document that is not text for PostgreSQL is a reject, without its key where that is the reason.
    """
    found = read(key, document)

    assert isinstance(found, Reject)
    assert expected == (found.key, found.reason)


def test_what_the_encoding_of_the_target_lacks() -> None:
    """
    A character that the target can't keep makes its record a reject; without a limit, any character is fine.
    """
    document = '{"a": "\u20ac"}'.encode()
    found = read("1", document, codec="latin-1")

    assert isinstance(found, Reject)
    assert ("1", "untranslatable_character") == (found.key, found.reason)
    assert isinstance(read("1", document), PageRecord)
    assert isinstance(read("1", '{"a": "\xe4"}'.encode(), codec="latin-1"), PageRecord)


def test_a_key_that_no_index_can_hold() -> None:
    """
    It is a reject under its beginning and its hash; the longest that fits is a record.
    """
    found = read("k" * (LONGEST_KEY + 1))

    assert isinstance(found, Reject)
    assert ("k" * 64, "key_too_long") == (str(found.key)[:64], found.reason)
    assert "sha256:" in str(found.key)
    assert isinstance(read("k" * LONGEST_KEY), PageRecord)


def test_only_a_document_that_is_settled_counts_as_listed() -> None:
    """
    One whose version is as young as the clock's step may change again within it: it is fetched again.
    """
    assert page_record("1").listed == page_record("1").hash
    found = read_record(Record("people", "1", b"{}", settled=False), Known(SCOPE), None)
    assert isinstance(found, PageRecord)
    assert found.listed is None


def test_the_newest_of_a_key_counts() -> None:
    """
    By version, where one has any, then by place; versions are compared by what they mean.
    """
    records = [page_record("a", "9", numbered=True), page_record("a", "10", numbered=True), page_record("b"), page_record("b"),
               page_record("c", "1", numbered=True), page_record("c")]  # fmt: skip

    assert {0, 2, 5} == set(duplicates(records, numbered=True))
    assert {0, 2, 3, 5} == set(duplicates(records, numbered=True, same={"a": 1, "b": 1}))
