"""Keys of documents are the same when the type of the key column says so, however their source spells them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests import servers
from tests.conftest import NewDatabase
from tests.list_source import ListSource, Sync, counts
from usersync_cli.clients.postgres.rows import key_of
from usersync_cli.load.spelling import parts_of
from usersync_cli.model import Database
from usersync_cli.report.verify import steps
from usersync_cli.report.verify.report import VerifyOptions

FOLDED = "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
Spell = Callable[[int], str]
# type of the key, what has to be there first, one spelling and another
KINDS: dict[str, tuple[str, str, Spell, Spell]] = {
    "citext": ("citext", "CREATE EXTENSION citext", "user{}".format, "User{}".format),
    "folded": ("text COLLATE folded", FOLDED, "user{}".format, "USER{}".format),
    "domain": ("name_of", f"{FOLDED}; CREATE DOMAIN name_of AS text COLLATE folded", "user{}".format, "USER{}".format),
    "numeric": ("numeric", "", "{}".format, "{}.0".format),
    "padded": ("char(9)", "", "u{}".format, "u{}   ".format),
    "bigint": ("bigint", "", "{}".format, "00{}".format),
    "inet": ("inet", "", "10.0.0.{}".format, "10.0.0.{}/32".format),
    "timestamptz": ("timestamptz", "", "2026-01-01T00:00:{:02}Z".format, "2026-01-01 01:00:{:02}+01".format),
    "date": ("date", "", "2026-01-{:02}".format, "202601{:02}".format),
    "uuid": ("uuid", "", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd38{:04}".format, "{{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD38{:04}}}".format),
    "interval": ("interval", "", "{} days".format, lambda i: f"{i * 24}:00:00"),
}  # fmt: skip


def person(key: str, name: str = "", **more: Any) -> dict[str, Any]:
    return {"id": key, "name": name or "Test User", **more}


@pytest.fixture
def new_sync(new_database: NewDatabase, request: pytest.FixtureRequest) -> Callable[..., Sync]:
    """A stream `people` whose table has a key of this kind; on PostgreSQL 15, which has citext and ICU, where that is needed."""

    def make(kind: str = "numeric", *keys: str, **load: Any) -> Sync:
        type_, before, *_ = KINDS[kind]
        on: dict[str, servers.Server] = {"on": request.getfixturevalue("postgres15")} if before else {}
        database: Database = new_database(**on)
        servers.migrate(database)
        sync = Sync(ListSource({"people": [person(key) for key in keys]}, size=50), database, {"on_missing": "delete", **load})
        sync.transform = f"SELECT key::{type_} AS id, data ->> 'name' AS name, (data ->> 'age')::int AS age FROM records"
        if before:
            sync.ask(before)
        sync.ask(f"CREATE TABLE people (id {type_} PRIMARY KEY, name text, age int)")
        return sync

    return make


def verified(sync: Sync) -> tuple[int, int, int, int]:
    """missing, extra, different, rejected"""
    (report,) = steps.verify(sync.job, sync.context, VerifyOptions())
    assert report.error is None, (report.error, report.error and report.error.hint)
    return report.missing, report.extra, report.different, report.rejected


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_is_listed_is_present(new_sync: Callable[..., Sync], kind: str) -> None:
    """
    A person whom the source spells otherwise from one run to the next, keeps the row; who is not listed under any
    spelling goes, whichever was the last. What is spelt as before costs nothing.
    """
    _, _, one, other = KINDS[kind]
    sync = new_sync(kind, *map(one, range(1, 13)))
    assert "12 0 0 0" == sync.ok()
    names = [name for (name,) in sync.ask("SELECT id::text FROM people ORDER BY id")]
    sync.source.streams["people"][:5] = [person(other(i)) for i in range(1, 6)]
    assert ("0 0 12 0", "0 0 12 0") == (sync.ok(), sync.ok())
    assert names == [name for (name,) in sync.ask("SELECT id::text FROM people ORDER BY id")]
    assert [(12,)] == sync.ask("SELECT count(*) FROM usersync.seen")

    sync.source.streams["people"] = [person(other(i), "Test User changed" if i == 2 else "") for i in range(2, 13)]
    dry = sync.run(dry_run=True)
    assert ("0 1 10 1", "0 1 10 1") == (counts(dry), sync.ok())
    assert (0, 0, 0, 0) == verified(sync)
    assert names[1:] == [name for (name,) in sync.ask("SELECT id::text FROM people ORDER BY id")]
    sync.source.streams["people"] = [person(one(i), "Test User changed" if i == 2 else "") for i in range(2, 12)]
    assert "0 0 10 1" == sync.ok()


@pytest.mark.parametrize("kind", ["citext", "uuid"])
def test_a_table_is_taken_over_in_its_own_spelling(new_sync: Callable[..., Sync], kind: str) -> None:
    """
    Rows that the source has under another spelling are no leftovers, also of people whose record can't be loaded today.
    """
    _, _, one, other = KINDS[kind]
    sync = new_sync(kind, *map(other, range(1, 11)), adopt_existing=True)
    sync.source.size = 4
    for i in range(1, 13):
        sync.ask(f"INSERT INTO people VALUES ('{one(i)}', 'Test User')")
    sync.source.streams["people"][6:8] = [person(other(7), age="x"), {"id": other(8), "_raw": b"{", "_problem": "not_json"}]

    refused = sync.run()
    result = sync.run(approve_deletes=refused.run_id) if refused.exit_status == 6 else refused

    assert (3, "0 0 8 2 rejected 2") == (result.exit_status, counts(result)), result.steps[0].error
    assert 10 == len(sync.rows())
    assert (0, 0, 0, 2) == verified(sync)


@pytest.mark.parametrize(("kind", "how"), [("citext", "cast"), ("numeric", "not_json"), ("bigint", "version"), ("uuid", "cast")])
def test_a_bad_record_is_its_person_too(new_sync: Callable[..., Sync], kind: str, how: str) -> None:
    """
    Somebody who is spelt otherwise, and whose record can't be loaded, is a reject and keeps the row; one reject under any spelling.
    """
    _, _, one, other = KINDS[kind]
    sync = new_sync(kind, *map(one, range(1, 11)))
    sync.ok()
    bad = {"cast": {"age": "x"}, "not_json": {"_raw": b"{", "_problem": "not_json"}, "version": {"_version": "yesterday"}}[how]
    for spell in (other, one, other):
        sync.source.streams["people"][0] = person(spell(1), **bad)
        result = sync.run()
        assert (3, "0 0 9 0 rejected 1") == (result.exit_status, counts(result)), result.steps[0].error
        assert [(spell(1),)] == sync.ask("SELECT key FROM usersync.rejects")
        assert (0, 0, 0) == verified(sync)[:3]
    assert 10 == len(sync.rows())
    sync.source.streams["people"][0] = person(one(1), "Test User good")

    assert "0 1 9 0" == sync.ok()
    assert [] == sync.ask("SELECT * FROM usersync.rejects")


@pytest.mark.parametrize("kind", ["citext", "bigint"])
def test_what_the_source_says_is_of_any_spelling(new_sync: Callable[..., Sync], kind: str) -> None:
    """
    Changes, and that somebody is gone, are of the person whom the target calls the same; older news stays old.
    """
    _, _, one, other = KINDS[kind]
    sync = new_sync(kind)
    sync.source.streams["people"] = [person(one(i), _version="2026-01-05T00:00:00Z") for i in range(1, 13)]
    sync.ok()
    sync.source.since = True
    sync.source.changes["people"] = [
        person(other(1), "Test User old", _version="2026-01-04T00:00:00Z"),
        {"id": other(2), "_deleted": True, "_version": "2026-01-06T00:00:00Z"},
        person(other(3), "Test User new", _version="2026-01-06T00:00:00Z"),
    ]  # fmt: skip
    dry = sync.run(dry_run=True)

    assert ("0 1 0 1 stale 1", "0 1 0 1 stale 1") == (counts(dry), sync.ok())
    sync.source.changes["people"] = [person(one(3), "Test User old", _version="2026-01-05T12:00:00Z")]
    assert "0 0 0 0 stale 1" == sync.ok()
    if kind == "bigint":  # one text for each value: who has no row any more is known as well
        sync.source.changes["people"] = [person(one(2), "Test User old", _version="2026-01-05T12:00:00Z")]
        assert "0 0 0 0 stale 1" == sync.ok()
    assert 11 == len(sync.rows())


@pytest.mark.parametrize(("kind", "size"), [("citext", 50), ("citext", 1), ("bigint", 50), ("bigint", 1), ("", 1)])
def test_of_two_that_are_the_same_one_counts(new_sync: Callable[..., Sync], kind: str, size: int) -> None:
    """
    The newer by version, else the later, on one page or on several: it is loaded, and does not change for ever. When it
    leaves, the other one counts.
    """
    _, _, one, other = KINDS[kind or "numeric"]
    if not kind:  # the same text twice
        other = one
    sync = new_sync(kind or "numeric")
    sync.source.size = size
    day = "2026-01-{:02}T00:00:00Z".format
    listed = [
        person(one(1), "Test User first"), person(one(2), "Test User newer", _version=day(2)), person(other(1), "Test User last"),
        person(other(2), "Test User older", _version=day(1)), person(one(3), "Test User x"),
    ]  # fmt: skip
    sync.source.streams["people"] = listed
    expected = [("Test User last",), ("Test User newer",), ("Test User x",)]
    for _ in range(2):
        sync.ok()
        assert expected == sync.ask("SELECT name FROM people ORDER BY id")
    assert {"50": "0 0 3 0 duplicates 2", "1": "0 0 3 0 stale 1 duplicates 1"}[str(size)].split()[:4] == sync.ok().split()[:4]
    assert "0 0" == sync.ok(full=True)[:3]
    assert (0, 0, 0, 0) == verified(sync)

    sync.source.streams["people"] = listed[:2] + listed[3:]
    sync.run()
    sync.run()
    assert [("Test User first",), *expected[1:]] == sync.ask("SELECT name FROM people ORDER BY id")
    assert "0 0 3 0" == " ".join(sync.ok().split()[:4])


def test_the_guard_and_its_list_know_the_rows(new_sync: Callable[..., Sync]) -> None:
    """
    A list that waits holds keys as rows spell them, and an approval lets exactly these go.
    """
    sync = new_sync("numeric", *(f"0{i}.0" for i in range(1, 41)))
    sync.ok()
    sync.source.streams["people"] = [person(f"{i}.00") for i in range(1, 21)]
    refused = sync.run()
    assert (6, "0 0 20 0") == (refused.exit_status, counts(refused))
    assert 6 == sync.run().exit_status
    sync.source.streams["people"].append(person("21"))

    assert "0 0 21 19" == sync.ok(approve_deletes=refused.run_id)
    assert 21 == len(sync.rows())
    assert "0 0 21 0" == sync.ok()


def test_rows_that_vanished_come_back(new_sync: Callable[..., Sync]) -> None:
    """
    A row that the target lost is found missing by its own spelling, and rows that are spelt otherwise are not.
    """
    sync = new_sync("numeric", *(f"{i}.0" for i in range(1, 11)))
    sync.ask("INSERT INTO people VALUES (1), (2.000)")
    assert "8 2 0 0" == sync.ok()
    assert "0 0 10 0" == sync.ok()
    sync.ask("DELETE FROM people WHERE id = 2")
    for _ in range(2):
        sync.run()
    assert 10 == len(sync.rows())
    assert "0 0 10 0" == sync.ok()


def test_a_key_of_several_columns(new_sync: Callable[..., Sync]) -> None:
    """
    Each part by its own type; a text that is no key of these columns is a reject and hides nobody.
    """
    sync = new_sync()
    sync.ask("DROP TABLE people; CREATE TABLE people (id numeric, lang char(4), name text, PRIMARY KEY (id, lang))")
    sync.load["key"] = ["id", "lang"]
    # as PostgreSQL reads a record, but through what the document says
    sync.transform = "SELECT (data ->> 'a')::numeric AS id, (data ->> 'b')::char(4) AS lang, data ->> 'name' AS name FROM records"

    def pair(a: str, b: str) -> dict[str, Any]:
        return {"id": key_of([a, b]), "a": a, "b": b, "name": "Test User"}

    sync.source.streams["people"] = [pair(str(i), 'a "x') for i in range(1, 11)]
    assert "10 0 0 0" == sync.ok()
    sync.source.streams["people"] = [pair(f"0{i}.0", 'a "x') for i in range(1, 10)]
    assert "0 0 9 1" == sync.ok()
    sync.source.streams["people"] += [{**pair("10", "b"), "id": "(10)"}, {**pair("11", "b"), "id": "(x,b)"}]

    result = sync.run()

    assert (3, "0 0 9 0 rejected 2") == (result.exit_status, counts(result)), result.steps[0].error


@pytest.mark.parametrize("parts", [["1", "x"], ["", " "], ['a"b', "c\\d"], ["(,)", '""'], ["a\nb", "\\"]])
def test_parts_of_a_key(parts: list[str]) -> None:
    """
    A key of several parts is read as it was written; what is none has no parts.
    """
    assert parts == parts_of(key_of(parts), 2)
    assert [None] * 4 == [parts_of(key, 2) for key in ("x", "(1,2,3)", '("a,b)', "(1,2")]


def test_keys_that_are_none(new_sync: Callable[..., Sync]) -> None:
    """
    A key that its column's type can't be is a reject, beside others that are spelt otherwise.
    """
    sync = new_sync("bigint", *(f"00{i}" for i in range(1, 11)), "x1")

    result = sync.run()

    assert (3, "10 0 0 0 rejected 1") == (result.exit_status, counts(result)), result.steps[0].error
    assert [("x1", "invalid_text_representation")] == sync.ask("SELECT key, reason FROM usersync.rejects")
    sync.source.streams["people"] = [person(str(i)) for i in range(1, 11)]
    assert "0 0 10 0" == sync.ok()


def test_a_table_that_is_made(new_sync: Callable[..., Sync]) -> None:
    """
    The type of the key is then that of the transform, from the first page on.
    """
    sync = new_sync("numeric", "1", "1.0", "2")
    sync.ask("DROP TABLE people")
    assert "2 0 0 0 duplicates 1" == sync.ok()
    sync.source.streams["people"] = [person("1.00"), person("2.000")]
    assert "0 0 2 0" == sync.ok()
