"""Streams of documents: a page is a checkpoint; what is known is not written again; who left goes, by proof."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import psycopg
import pytest

from tests import servers
from tests.list_source import TRANSFORM, ListSource, Sync, counts, people, person
from usersync_cli.clients.postgres.sql import statements
from usersync_cli.errors import Unavailable, UsersyncError
from usersync_cli.model import Database, Record
from usersync_cli.ports import BringsDefinition
from usersync_cli.report.verify import steps
from usersync_cli.report.verify.report import VerifyOptions
from usersync_cli.run.job import line
from usersync_cli.state import migrations


class Crashed(BaseException):
    """As if the process had been killed."""


@pytest.fixture
def target(database: Database) -> Database:
    migrations.upgrade(database)
    return database


@pytest.fixture
def sync(target: Database) -> Sync:
    return Sync(ListSource({"people": people(*range(1, 11))}), target)


def test_before_before_after(sync: Sync) -> None:
    """
    New documents are inserted, changed ones updated, unchanged ones not even staged; who left goes.
    """
    sync.load = {"on_missing": "delete"}
    assert "10 0 0 0" == sync.ok()
    assert "0 0 10 0" == sync.ok()

    sync.source.streams["people"] = [*people(*range(2, 10)), person(10, "Test User Ten"), person(11)]

    assert "1 1 8 1" == sync.ok()
    assert list(range(2, 12)) == sync.rows()
    assert [("Test User Ten",)] == sync.ask("SELECT name FROM people WHERE id = 10")


# a crash


@pytest.mark.parametrize("at", range(4))
def test_a_crash_at_each_page_loses_nothing(sync: Sync, at: int) -> None:
    """
    Killed before any page, the next run goes on there: no page is read twice, nothing is lost, and who left goes once.
    """
    sync.load = {"on_missing": "delete"}
    sync.ok()
    sync.source.streams["people"] = [*people(*range(2, 11)), person(11)]
    sync.source.read.clear()

    def crash(_stream: str, page: int) -> None:
        if page == at:
            raise Crashed

    sync.source.fail = crash
    with pytest.raises(Crashed):
        sync.run()
    assert [(1,)] == sync.ask("SELECT count(*) FROM people WHERE id = 1")
    sync.source.fail = lambda _stream, _page: None
    done = sync.ok()

    assert [("people", page) for page in range(4)] == sync.source.read
    assert list(range(2, 12)) == sync.rows()
    assert f"1 0 {9 - 3 * at} 1" == done
    assert [("ok", 10, 1)] == sync.ask("SELECT outcome, records, removed FROM usersync.sweeps ORDER BY id DESC LIMIT 1")
    assert [] == sync.ask("SELECT * FROM usersync.sweep_keys")


def test_an_error_in_the_middle_keeps_what_was_stored(sync: Sync) -> None:
    """
    A source that fails on page 3 leaves two pages, the cursor behind them, and the status of its error.
    """

    def fail(_stream: str, page: int) -> None:
        if page == 2:
            raise Unavailable("the source is away")

    sync.source.fail = fail
    result = sync.run()

    assert 4 == result.exit_status
    assert [1, 2, 3, 4, 5, 6] == sync.rows()
    assert [("failed", 6)] == sync.ask("SELECT status, inserted FROM usersync.run_steps") or [("partial", 6)] == sync.ask(
        "SELECT status, inserted FROM usersync.run_steps"
    )
    sync.source.fail = lambda _stream, _page: None
    assert "4 0 0 0" == sync.ok()


def test_one_stream_fails_and_the_others_are_done(target: Database) -> None:
    """
    Each stream is read by itself; what may pass next time is temporary (4), what a person has to fix keeps its status.
    """

    def fail(stream: str, _page: int) -> None:
        if stream == "events":
            raise Unavailable("the source is away")

    source = ListSource({name: people(1, 2) for name in ("companies", "events", "people")}, fail=fail)
    sync = Sync(source, target)
    result = sync.run()

    assert 4 == result.exit_status
    assert "stream events" in str(result.steps[0].error)
    assert [1, 2] == sync.rows("people") == sync.rows("companies")
    source.fail = lambda _stream, _page: None
    source.read.clear()
    assert "2 0 0 0" == sync.ok(streams=["events"])
    assert {"events"} == {stream for stream, _ in source.read}


# who left


def test_only_a_complete_listing_removes(sync: Sync) -> None:
    """
    A reading of changes removes nobody whom it does not name.
    """
    sync.load = {"on_missing": "delete"}
    sync.ok()
    sync.source.since, sync.source.changes = True, {"people": [person(3, "Test User Three"), person(11)]}
    sync.source.streams["people"] = people(*range(2, 11))

    assert "1 1 0 0" == sync.ok()
    assert list(range(1, 12)) == sync.rows()
    assert "0 0 9 2" == sync.ok(full=True).replace("0 1 8", "0 0 9")


def test_two_listings_have_to_lack_a_record(sync: Sync) -> None:
    """
    Where a listing is not one moment and nobody can be asked, one that lacks a record proves nothing.
    """
    sync.load, sync.source.snapshot = {"on_missing": "delete"}, False
    sync.ok()
    everybody = sync.source.streams["people"]
    sync.source.streams["people"] = everybody[2:]
    assert "0 0 8 0" == sync.ok()
    sync.source.streams["people"] = everybody[1:]
    assert "0 0 9 1" == sync.ok()
    assert list(range(2, 11)) == sync.rows()
    sync.source.streams["people"] = everybody[2:]
    assert "0 0 8 0" == sync.ok(), "two was there in between"
    assert "0 0 8 1" == sync.ok()


def test_the_vendor_is_asked_who_is_gone(sync: Sync) -> None:
    """
    A candidate goes only when the vendor does not know it either; an error of that question is never a yes.
    """
    asked: list[list[str]] = []

    def gone(_stream: str, keys: Sequence[str]) -> Collection[str]:
        asked.append(list(keys))
        if len(asked) == 1:
            raise Unavailable("the vendor is away")
        return ["2"]

    sync.load, sync.source.gone = {"on_missing": "mark"}, gone
    sync.ok()
    sync.source.streams["people"] = people(*range(3, 11))
    assert 4 == sync.run().exit_status
    assert list(range(1, 11)) == sync.rows()

    assert "0 0 2 1" == sync.ok()
    assert [["1", "2"], ["1", "2"]] == asked
    assert [2] == sync.rows(where="deleted_at IS NOT NULL")
    sync.source.streams["people"] = people(*range(1, 11))
    assert "0 1 9 0" == sync.ok()
    assert [] == sync.rows(where="deleted_at IS NOT NULL")


@pytest.mark.parametrize("how", ["delete", "mark", "keep"])
def test_the_source_says_who_is_gone(sync: Sync, how: str) -> None:
    """
    A record that is said to be deleted goes at the end of the reading; older news of it does not bring it back.
    """
    sync.load, sync.source.since = {"on_missing": how}, True
    sync.source.streams["people"] = [person(i, _version="2026-01-01T00:00:00Z") for i in range(1, 11)]
    sync.ok()
    sync.source.changes["people"] = [{"id": 4, "_deleted": True, "_version": "2026-01-03T00:00:00Z"}, {"id": 99, "_deleted": True}]
    removed = 0 if how == "keep" else 1

    assert ("0 0 2 0" if how == "keep" else "0 0 0 1") == sync.ok()
    there = [i for i in range(1, 11) if i != 4]
    assert (list(range(1, 11)) if how != "delete" else there) == sync.rows()
    assert ([4] if how == "mark" else []) == (sync.rows(where="deleted_at IS NOT NULL") if how == "mark" else [])
    if not removed:
        return
    assert "0 0 0 0" == sync.ok(), "said again"
    sync.source.changes["people"] = [person(4, "Test User Old", _version="2026-01-02T00:00:00Z")]
    assert "0 0 0 0 stale 1" == sync.ok()
    sync.source.changes["people"] = [person(4, _version="2026-01-04T00:00:00Z")]
    assert ("1 0 0 0" if how == "delete" else "0 1 0 0") == sync.ok()


def test_a_source_that_says_everybody_is_gone_is_not_believed(sync: Sync) -> None:
    """
    The guard stands before what the source says too; the list that is approved goes, though the next reading says nothing of it.
    """
    sync.source.streams["people"] = people(*range(1, 101))
    sync.load, sync.source.since = {"on_missing": "delete"}, True
    sync.ok()
    sync.source.changes["people"] = [{"id": i, "_deleted": True} for i in range(1, 41)] + [person(101)]
    refused = sync.run()
    assert (6, "1 0 0 0") == (refused.exit_status, counts(refused))
    sync.source.changes["people"] = [person(5)]  # five is back
    assert 6 == sync.run().exit_status, "it is told until somebody decides"
    waiting = sync.ask("SELECT run_id, keys FROM usersync.approvals WHERE status = 'waiting' ORDER BY id DESC")
    assert 39 == waiting[0][1]

    assert "0 0 1 39" == sync.ok(approve_deletes=waiting[0][0]).replace("0 1 0", "0 0 1")
    assert [5, *range(41, 102)] == sync.rows()


def test_a_big_loss_waits_for_a_person(sync: Sync) -> None:
    """
    A complete listing that lacks too many removes nobody until the list is approved; then exactly that list, once.
    """
    sync.source.streams["people"] = people(*range(1, 101))
    sync.load = {"on_missing": "delete"}
    sync.ok()
    sync.source.streams["people"] = people(*range(41, 102))
    refused = sync.run()
    assert (6, "1 0 60 0") == (refused.exit_status, counts(refused))
    sync.source.streams["people"] = people(1, *range(43, 102))

    approved = sync.run(approve_deletes=refused.run_id)

    assert (None, "0 0 60 39") == (approved.steps[0].error, counts(approved))
    assert [1, *range(41, 102)] == sync.rows()
    with pytest.raises(UsersyncError, match="approved before"):
        sync.run(approve_deletes=refused.run_id)
    assert "0 0 60 2" == sync.ok()


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_list_is_whole(sync: Sync, *, dry_run: bool) -> None:
    """
    What the source says and what its listing lacks are judged together: nobody of a list that waits goes beforehand.
    """
    sync.source.streams["people"] = people(*range(1, 101))
    sync.load = {"on_missing": "delete"}
    sync.ok()
    sync.source.streams["people"] = [*people(*range(41, 101)), {"id": 1, "_deleted": True}, {"id": 2, "_deleted": True}]
    if dry_run:
        dry = sync.run(dry_run=True)
        assert (6, "0 0 60 0") == (dry.exit_status, counts(dry)), dry.steps[0].error
    for _ in range(2):
        refused = sync.run()
        assert (6, "0 0 60 0") == (refused.exit_status, counts(refused))
        assert list(range(1, 101)) == sync.rows()
    ((list_, keys),) = sync.ask("SELECT run_id, keys FROM usersync.approvals WHERE status = 'waiting'")
    assert 40 == keys

    assert "0 0 60 40" == sync.ok(approve_deletes=list_)


def test_an_empty_listing_changes_nothing(sync: Sync) -> None:
    """
    A source that fell silent is no source without people; allowed to be empty, it meets the guard.
    """
    sync.load = {"on_missing": "delete"}
    sync.ok()
    sync.source.streams["people"] = []

    assert 7 == sync.run().exit_status
    assert 6 == sync.run(allow_empty=True).exit_status
    assert list(range(1, 11)) == sync.rows()


def test_a_table_is_taken_over(sync: Sync) -> None:
    """
    Rows that were there before us stay; with adopt_existing, those that the source lacks go too, once, behind the guard.
    """
    sync.ask("CREATE TABLE people (id int PRIMARY KEY, name text, age int); INSERT INTO people SELECT i, 'Test User ' || i, 30"
             " FROM generate_series(1, 12) i")  # fmt: skip
    sync.load = {"on_missing": "delete"}
    assert "0 0 10 0" == sync.ok()
    assert list(range(1, 13)) == sync.rows()
    sync.load["adopt_existing"] = True

    assert "0 0 10 2" == sync.ok()
    sync.ask("INSERT INTO people VALUES (99)")
    assert "0 0 10 0" == sync.ok()
    assert [*range(1, 11), 99] == sync.rows()


# what is known


def test_older_versions_are_stale(sync: Sync) -> None:
    """
    A version less than the one that is held is not written, compared as a time or a number, never as text.
    """
    sync.source.streams = {
        "people": [person(1, _version="2026-01-02T00:00:00+02:00")],
        "numbered": [person(1, _version="9")],
    }
    sync.ok()
    sync.source.streams = {
        "people": [person(1, "Test User Old", _version="2026-01-01T21:59:59Z")],
        "numbered": [person(1, "Test User New", _version="10")],
    }

    assert "0 1 0 0 stale 1" == sync.ok()
    assert "0 1 0 0 stale 1" == sync.ok(full=True).replace("0 0 1 0", "0 1 0 0")
    assert [("Test User 1",)] == sync.ask("SELECT name FROM people")
    assert [("Test User New",)] == sync.ask("SELECT name FROM numbered")


def test_of_one_key_the_newest_counts(sync: Sync) -> None:
    """
    Within a page by version, then by position; a later page is later news.
    """
    sync.source.size = 4
    sync.source.streams["people"] = [
        person(1, "Test User B", _version="2026-01-02"), person(1, "Test User A", _version="2026-01-01"), person(2, "Test User C"),
        person(2, "Test User D"), person(2, "Test User E"), person(1, "Test User A", _version="2026-01-01"),
    ]  # fmt: skip

    assert "2 1 0 0 stale 1 duplicates 2" == sync.ok()
    assert [(1, "Test User B"), (2, "Test User E")] == sync.ask("SELECT id, name FROM people ORDER BY id")


def test_seen_hides_no_drift(sync: Sync) -> None:
    """
    A row that was changed by hand is put right by --full, and no run says before that it was compared; one that was deleted is
    written by the next run.
    """
    sync.ok()
    sync.ask("UPDATE people SET name = 'by hand' WHERE id = 1; DELETE FROM people WHERE id = 2")

    result = sync.run()
    assert ("1 0 9 0", 9) == (counts(result), result.steps[0].counts.not_compared)
    assert "1 new, 0 changed, 9 not listed as changed, 0 gone (" in line(result, result.steps[0])
    result = sync.run(full=True)
    assert ("0 1 9 0", 0) == (counts(result), result.steps[0].counts.not_compared)
    assert "0 new, 1 changed, 9 the same, 0 gone (" in line(result, result.steps[0])
    assert [("Test User 1",)] == sync.ask("SELECT name FROM people WHERE id = 1")
    assert [(9,), (0,)] == sync.ask("SELECT not_compared FROM usersync.run_steps WHERE run_id > 1 ORDER BY run_id")


@pytest.mark.parametrize("how", ["keep", "mark", "delete"])
@pytest.mark.parametrize("lost", ["id IN (2, 9)", "true"])
def test_rows_that_vanish_come_back(sync: Sync, how: str, lost: str) -> None:
    """
    A run that reads only changes finds that rows are missing, also beside rows that are not ours, and writes them again; a
    run that is killed meanwhile leaves that to the next one. Who is not at the source either is not looked for again.
    """
    sync.source.since, sync.load = True, {"on_missing": how}
    sync.ok()
    sync.ask("INSERT INTO people VALUES (50), (51), (52)")
    sync.ok()
    sync.ask(f"DELETE FROM people WHERE {lost}")
    number = 10 if lost == "true" else 2
    assert f"{number} 0 {10 - number} 0" == counts(sync.run(dry_run=True))

    def crash(_stream: str, page: int) -> None:
        if page == 2:
            raise Crashed

    sync.source.fail = crash
    with pytest.raises(Crashed):
        sync.run()
    sync.source.fail = lambda _stream, _page: None
    sync.ok()
    assert list(range(1, 11)) == sync.rows(where="id < 50")
    sync.source.read.clear()
    assert ("0 0 0 0", []) == (sync.ok(), sync.source.read)

    sync.ask("DELETE FROM people WHERE id = 3")
    sync.source.streams["people"] = [one for one in sync.source.streams["people"] if one["id"] != 3]
    sync.ok()
    assert [] != sync.source.read
    sync.source.read.clear()
    assert ("0 0 0 0", []) == (sync.ok(), sync.source.read)
    assert [1, 2, *range(4, 11)] == sync.rows(where="id < 50")


def test_only_what_vanished_is_fetched(sync: Sync) -> None:
    """
    Where whole documents are asked for one by one, those of rows that are there are not asked for again.
    """
    asked: list[str] = []

    def details(stream: str, keys: Sequence[str]) -> Iterator[Record]:
        asked.extend(keys)
        for key in keys:
            yield Record(stream, key, b'{"name": "Test User", "age": 1}')

    sync.source.details, sync.source.since = details, True
    sync.ok()
    asked.clear()
    sync.ask("DELETE FROM people WHERE id IN (4, 7)")

    assert ("2 0 8 0", ["4", "7"]) == (sync.ok(), asked)


def test_another_transform_rewrites_everything(sync: Sync) -> None:
    """
    Where the step is another, nothing counts as known: everything is read from the beginning, also after a crash half way.
    """
    sync.ok()
    sync.source.since = True
    assert sync.transform
    sync.transform = sync.transform.replace("data ->> 'name'", "upper(data ->> 'name')")

    def crash(_stream: str, page: int) -> None:
        if page == 2:
            raise Crashed

    sync.source.fail = crash
    with pytest.raises(Crashed):
        sync.run()
    sync.source.fail = lambda _stream, _page: None
    assert "0 4 0 0" == sync.ok()
    assert [("TEST USER 1",), ("TEST USER 10",)] == sync.ask("SELECT name FROM people WHERE id IN (1, 10) ORDER BY id")


def test_what_the_transform_leaves_out(sync: Sync) -> None:
    """
    A record without a row is no record of the step; when the transform leaves it out later, its row goes as if it were gone.
    """
    sync.transform = TRANSFORM + " WHERE data ->> 'name' <> 'nobody'"
    sync.load = {"on_missing": "delete"}
    sync.source.streams["people"] = [*people(*range(1, 10)), person(10, "nobody")]
    assert "9 0 0 0" == sync.ok()
    assert "0 0 9 0" == sync.ok()
    sync.source.streams["people"] = [*people(*range(1, 9)), person(9, "nobody"), person(10)]

    assert "1 0 8 1" == sync.ok()
    assert [*range(1, 9), 10] == sync.rows()
    assert "0 0 9 0" == sync.ok()


def test_a_poll_may_feed_several_tables(target: Database) -> None:
    """
    One page, several streams, one checkpoint: a cursor for each of them.
    """
    sync = Sync(ListSource({"people": people(1, 2), "members": people(3)}, together=True), target)

    assert "3 0 0 0" == sync.ok()
    assert "0 0 3 0" == sync.ok()
    assert ([1, 2], [3]) == (sync.rows("people"), sync.rows("members"))
    assert [("members", 2), ("people", 2)] == sync.ask("SELECT stream, version FROM usersync.cursors ORDER BY 1")


def test_only_changed_listings_are_fetched(sync: Sync) -> None:
    """
    Whole documents are asked for where the listing is new or changed, and where a document was too young to be trusted.
    """
    asked: list[str] = []

    def details(stream: str, keys: Sequence[str]) -> Iterator[Record]:
        asked.extend(keys)
        for key in keys:
            yield Record(stream, key, b'{"name": "Test User %s", "age": 1}' % key.encode(), settled=key != "2", deleted=key == "9")

    sync.source.details, sync.load = details, {"on_missing": "delete"}
    assert "8 0 0 0" == sync.ok().replace("9 0 0 0", "8 0 0 0")
    sync.source.streams["people"][3]["name"] = "listed otherwise"
    asked.clear()

    assert sync.ok()
    assert ["2", "4", "9"] == sorted(asked)
    asked.clear()
    sync.ok(full=True)
    assert 10 == len(asked)


# rejects


def test_a_source_may_want_whole_documents_again(sync: Sync) -> None:
    """
    What a list shows may be the same while the document is not: a record that says so is read whole, and compared.
    """
    asked: list[str] = []
    ages = dict.fromkeys(map(str, range(1, 11)), 30)

    def details(stream: str, keys: Sequence[str]) -> Iterator[Record]:
        asked.extend(keys)
        for key in keys:
            yield Record(stream, key, json.dumps({"name": key, "age": ages[key]}).encode())

    sync.source.details = details
    sync.ok()
    asked.clear()
    ages["3"] = 31
    assert ("0 0 10 0", []) == (sync.ok(), asked)
    sync.source.streams["people"] = [person(number, _whole=number in (2, 3)) for number in range(1, 11)]

    assert ("0 1 9 0", ["2", "3"]) == (sync.ok(), asked)


def test_a_source_hears_what_was_listed_before(sync: Sync) -> None:
    """
    One that goes on with a listing is told the keys of its pages so far; who of them left meanwhile may be told with the rest.
    """
    sync.load = {"on_missing": "delete"}
    sync.ok()
    assert [] == sync.source.listed

    def fail(_stream: str, page: int) -> None:
        if page == 2:
            raise Unavailable("away")

    sync.source.fail = fail
    assert sync.run().steps[0].error is not None
    sync.source.fail = lambda _stream, _page: None
    sync.source.streams["people"].append({"id": 2, "_deleted": True})

    assert "0 0 4 1" == sync.ok()
    assert [["1", "2", "3"], ["4", "5", "6"]] == [list(keys) for keys in sync.source.listed]
    assert [1, *range(3, 11)] == sync.rows()


def test_a_source_may_say_what_its_tables_are_like(sync: Sync) -> None:
    """
    A table that is made for a source's own transform has the columns that the source gives it, and a mark where that is asked for.
    """

    class Defined(BringsDefinition, ListSource):
        def transform(self, stream: str) -> str:
            return TRANSFORM

        def definition(self, stream: str) -> str:
            return "number serial PRIMARY KEY, id int NOT NULL, name text, age smallint, created_at timestamptz"

    sync.source = Defined(sync.source.streams)
    sync.transform, sync.load = None, {"on_missing": "mark"}
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'people'::regclass AND attnum > 0 ORDER BY attnum"

    assert "10 0 0 0" == sync.ok()
    assert ["number", "id", "name", "age", "created_at", "deleted_at"] == [name for (name,) in sync.ask(columns)]
    assert "0 0 10 0" == sync.ok()


@pytest.mark.parametrize("bad", [[], [0], [9], [4, 5], [0, 2, 5, 9]])
def test_bad_records_are_set_aside_one_by_one(sync: Sync, bad: list[int]) -> None:
    """
    Whatever their positions: each bad record is a reject with its reason, all others are loaded; unchanged, it costs nothing more.
    """
    sync.source.size = 10
    for position in bad:
        sync.source.streams["people"][position]["age"] = "not a number"

    first = sync.run()

    told = "" if not bad else f" rejected {len(bad)}"
    assert f"{10 - len(bad)} 0 0 0{told}" == counts(first)
    assert (3 if bad else 0) == first.exit_status
    found = sync.ask("SELECT key, reason, detail FROM usersync.rejects ORDER BY key::int")
    assert [(str(position + 1), "invalid_text_representation", "column age") for position in bad] == found
    second = sync.run()
    assert (f"0 0 {10 - len(bad)} 0{told}", first.exit_status) == (counts(second), second.exit_status)
    for position in bad:
        sync.source.streams["people"][position]["age"] = 31
    assert f"{len(bad)} 0 {10 - len(bad)} 0" == sync.ok()
    assert [] == sync.ask("SELECT * FROM usersync.rejects")


@pytest.mark.parametrize("transform", [TRANSFORM, f"{TRANSFORM} ORDER BY 2 DESC"], ids=["as they come", "sorted"])
def test_few_bad_ones_of_a_big_page(sync: Sync, transform: str) -> None:
    """
    They are found among many by how far the server came, or by halving where that tells nothing: each by its own reason.
    """
    sync.ask("CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, age int)")
    sync.source.size, sync.transform = 1000, transform
    listed = sync.source.streams["people"] = people(*range(1, 1001))
    for number in (1, 2, 333, 1000):
        listed[number - 1]["age"] = "not a number"
    listed[499] = {"id": 500, "_raw": b'{"name": "\\u0000", "age": 30}'}
    for number in (400, 401):
        listed[number - 1]["name"] = None

    result = sync.run()

    assert "993 0 0 0 rejected 7" == counts(result), result.steps[0].error
    assert [
        ("1", "invalid_text_representation"), ("2", "invalid_text_representation"), ("333", "invalid_text_representation"),
        ("400", "not_null_violation"), ("401", "not_null_violation"), ("500", "untranslatable_character"),
        ("1000", "invalid_text_representation"),
    ] == sync.ask("SELECT key, reason FROM usersync.rejects ORDER BY key::int")  # fmt: skip


def test_what_is_no_record_is_a_reject_at_once(sync: Sync) -> None:
    """
    What is not JSON, has no key, or a version that is none; jsonb's own objections too. One row each, however often they come.
    """
    sync.source.size = 20
    sync.source.streams["people"] += [
        {"_raw": b"{", "_problem": "not_json"}, {"_raw": b"[]", "_problem": "not_an_object"}, {"name": "Test User"},
        {"id": 20, "_raw": b'{"name": "\xff"}'}, {"id": 21, "_raw": b'{"name": "\\u0000"}'}, {"id": 22, "_version": "yesterday"},
        {"id": 23, "_raw": b'{"name": "\\ud800"}'}, {"id": "a\0b"}, {"id": "x1"},
    ]  # fmt: skip
    for _ in range(2):
        result = sync.run()
        assert (3, 10, 9) == (result.exit_status, *[sum(vars(result.steps[0].counts)[n] for n in names)
                                                     for names in (("inserted", "unchanged"), ("rejected",))])  # fmt: skip
        reasons = sync.ask("SELECT reason, count(*) FROM usersync.rejects GROUP BY 1 ORDER BY 1")
        assert [
            ("bad_version", 1), ("invalid_text_representation", 2), ("no_key", 2), ("not_an_object", 1), ("not_json", 2),
            ("untranslatable_character", 1),
        ] == reasons  # fmt: skip


def test_a_key_of_another_record_is_a_mistake(sync: Sync) -> None:
    """
    The transform has to keep the record's own key: otherwise nobody could tell whose row it is.
    """
    sync.transform = "SELECT key::int + 1 AS id, data ->> 'name' AS name FROM records"
    result = sync.run()

    assert 7 == result.exit_status, result.steps[0].error
    assert "other keys" in str(result.steps[0].error)


def test_the_table_refuses_some(sync: Sync) -> None:
    """
    NOT NULL, CHECK, lengths and unique values: each bad record alone is set aside; two who swap names are not bad.
    """
    sync.source.size = 20
    sync.ask("CREATE TABLE people (id int PRIMARY KEY, name varchar(20) NOT NULL UNIQUE, age int CHECK (age > 0))")
    sync.ok()
    listed = sync.source.streams["people"]
    listed[0]["name"], listed[1]["name"] = listed[1]["name"], listed[0]["name"]
    listed[2]["name"], listed[3]["name"] = "x" * 21, None
    listed[4]["age"] = 0
    listed[5]["name"] = "Test User 10"
    listed += [person(11), person(12)]

    result = sync.run()

    assert "2 2 4 0 rejected 4" == counts(result), result.steps[0].error
    assert [
        ("3", "string_data_right_truncation"), ("4", "not_null_violation"), ("5", "check_violation"), ("6", "unique_violation"),
    ] == sync.ask("SELECT key, reason FROM usersync.rejects ORDER BY key::int")  # fmt: skip
    assert [("Test User 2",), ("Test User 1",), ("Test User 3",)] == sync.ask("SELECT name FROM people ORDER BY id LIMIT 3")


def test_a_trigger_refuses_some(sync: Sync) -> None:
    """
    What only writing can tell is halved until the bad ones stand alone.
    """
    sync.source.size = 20
    sync.ask("""CREATE TABLE people (id int PRIMARY KEY, name text, age int);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN IF NEW.age = 13 THEN RAISE check_violation; END IF; RETURN NEW; END$$;
        CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON people FOR EACH ROW EXECUTE FUNCTION refuse()""")
    for position in (1, 2, 8):
        sync.source.streams["people"][position]["age"] = 13

    assert "7 0 0 0 rejected 3" == counts(sync.run())
    assert [("2",), ("3",), ("9",)] == sync.ask("SELECT key FROM usersync.rejects ORDER BY key")


def test_too_many_bad_records_stop_the_stream(sync: Sync) -> None:
    """
    When most are bad it is not the records: the step stops, and its cursor stays before that page.
    """
    sync.source.size = 100
    sync.source.streams["people"] = people(*range(1, 101)) + [person(i, age="x") for i in range(101, 201)] + people(201)
    result = sync.run()

    assert 7 == result.exit_status, result.steps[0].error
    assert list(range(1, 101)) == sync.rows()
    assert [] == sync.ask("SELECT * FROM usersync.rejects")
    assert [({"page": 1, "sweep": "sweep 1"},)] == sync.ask("SELECT value FROM usersync.cursors")


def test_the_end_of_a_listing_is_judged_with_its_beginning(sync: Sync) -> None:
    """
    A run that goes on with a listing may find that all it reads is bad, and that is still the smaller part of the listing.
    """
    sync.source.streams["people"] += [person(i, age="x") for i in (11, 12, 13)]
    sync.source.size = 10

    def fail(_stream: str, page: int) -> None:
        if page == 1:
            raise Unavailable("the source is away")

    sync.source.fail = fail
    assert 4 == sync.run().exit_status
    sync.source.fail = lambda _stream, _page: None
    result = sync.run()

    assert (3, "0 0 0 0 rejected 3") == (result.exit_status, counts(result)), result.steps[0].error
    assert [(3,)] == sync.ask("SELECT count(*) FROM usersync.rejects")


@pytest.mark.parametrize(
    ("waiting", "bad", "good", "status"),
    [(3, 0, 3, 3), (3, 3, 0, 3), (0, 4, 2, 3), (0, 19, 0, 3), (0, 15, 15, 7), (5, 10, 10, 7), (30, 9, 11, 3)],
)
def test_what_waits_keeps_nobody_out(sync: Sync, waiting: int, bad: int, good: int, status: int) -> None:
    """
    Records that were set aside before do not count, and a few changes say nothing of the source; when most of many are bad, it is
    the source.
    """
    sync.source.size = 100
    sync.source.streams["people"] = people(*range(1, 101))
    sync.ok()
    sync.source.since = True
    sync.source.changes["people"] = [person(i, age="x") for i in range(1, waiting + 1)] + people(*range(200, 300))
    assert sync.run().exit_status == (3 if waiting else 0)
    sync.source.changes["people"] = [
        *(person(i, f"Test User again {i}", age="x") for i in range(1, waiting + 1)),
        *(person(300 + i, age="x") for i in range(bad)), *(person(400 + i) for i in range(good)),
    ]  # fmt: skip
    dry, result = sync.run(dry_run=True), sync.run()

    assert (status, status) == (dry.exit_status, result.exit_status), (dry.steps[0].error, result.steps[0].error)
    assert ([] if status == 7 else list(range(400, 400 + good))) == sync.rows(where="id >= 400")
    hint = result.steps[0].error.hint if result.steps[0].error else ""
    assert "rejects retry --all --job sync" in hint
    assert "rejects drop" in hint


@pytest.mark.parametrize("size", [3, 12])
def test_all_that_a_source_has_is_no_small_sample(sync: Sync, size: int) -> None:
    """
    A listing in small pages is judged as a whole, by each run that goes on with it, until somebody has looked at its rejects.
    """
    sync.source.size = size
    sync.source.streams["people"] = [person(i, age="x") for i in range(1, 9)] + people(*range(9, 13))

    assert [7, 7] == [sync.run().exit_status for _ in range(2)]
    sync.ask("UPDATE usersync.rejects SET status = 'dropped'")
    assert (7 if size == 12 else 0) == sync.run().exit_status


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP"])
def test_what_the_target_can_not_write(server: servers.Server, encoding: str) -> None:
    """
    A target of another encoding lacks characters: whoever has one, also as an escape or in the key, is one reject, and verify agrees.
    """
    name = f"test_{encoding.lower()}"
    server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        target = Database(server.url(name), "target")
        servers.migrate(target)
        sync = Sync(ListSource({"people": people(*range(1, 11))}, size=20), target)
        sync.transform = "SELECT key AS id, data ->> 'name' AS name FROM records"
        sync.source.streams["people"] += [
            {"id": 11, "_raw": '{"name": "Test User 😀"}'.encode()}, {"id": 12, "_raw": b'{"name": "\\ud83d\\ude00"}'},
            {"id": "13😀", "_raw": b"{}"}, {"id": 14, "_raw": b'{"name": "\\u0000"}'},
        ]  # fmt: skip
        for expected in ("10 0 0 0 rejected 4", "0 0 10 0 rejected 4"):
            result = sync.run()
            assert (3, expected) == (result.exit_status, counts(result)), result.steps[0].error
        assert [("no_key", 1), ("untranslatable_character", 3)] == sync.ask(
            "SELECT reason, count(*) FROM usersync.rejects GROUP BY 1 ORDER BY 1"
        )
        (report,) = steps.verify(sync.job, sync.context, VerifyOptions())
        assert (None, 0, 0, 0) == (report.error, report.missing, report.extra, report.different)
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_reason_names_the_right_column(sync: Sync) -> None:
    """
    What no column is to blame for is said of the document; which table a step loads is said of the stream that fails.
    """
    sync.source.streams["people"][2:4] = [{"id": 3, "_raw": b'{"name": "\\u0000"}'}, person(4, age="x")]
    sync.run()

    assert [("untranslatable_character", "the document itself"), ("invalid_text_representation", "column age")] == sync.ask(
        "SELECT reason, detail FROM usersync.rejects ORDER BY key"
    )


# a dry run


def test_a_dry_run_is_the_run(sync: Sync) -> None:
    """
    The same counts and, row by row, the same changes, and nothing is written; its pages, rejects and deletes too.
    """
    sync.load = {"on_missing": "delete"}
    assert "10 0 0 0" == counts(sync.run(dry_run=True))
    assert [(None,)] == sync.ask("SELECT to_regclass('people')::text")
    sync.ok()
    sync.source.streams["people"] = [*people(*range(2, 9)), person(9, "Test User Nine"), person(10, age="x"), person(11), person(11),
                                     person(2, "Test User Two")]  # fmt: skip
    before = sync.ask("SELECT (SELECT max(id) FROM usersync.runs), (SELECT array_agg(c ORDER BY c.version) FROM usersync.cursors c)::text")
    told: list[tuple[str, Any]] = []

    def tell(change: Any) -> bool:
        told.append((change.kind, change.key["id"]))
        return True

    dry = sync.run(dry_run=True, diff=tell)

    assert before == sync.ask(
        "SELECT (SELECT max(id) FROM usersync.runs), (SELECT array_agg(c ORDER BY c.version) FROM usersync.cursors c)::text"
    )
    assert list(range(1, 11)) == sync.rows()
    wet = sync.run()
    assert (counts(wet), wet.exit_status) == (counts(dry), dry.exit_status)
    assert sorted([("delete", "1"), ("insert", "11"), ("reject", "10"), ("update", "2"), ("update", "9")]) == sorted(told)


def test_another_account_is_refused(sync: Sync) -> None:
    """
    The people of another account are not loaded over ours, unless somebody says so.
    """
    sync.ok()
    sync.source.account = "theirs"

    assert 7 == sync.run().exit_status
    assert "0 0 10 0" == sync.ok(accept_account=True)


def test_a_big_listing_is_not_compared_key_by_key(sync: Sync) -> None:
    """
    Who is lacking is found by one pass over both sides, also where PostgreSQL believes that there are but a few: on a first
    load nothing was ever analysed, and 100,000 keys against each other took six minutes.
    """
    sync.load = {"on_missing": "delete"}
    sync.ok()
    plans: list[str] = []
    with psycopg.connect(sync.target.url) as tx:
        values = {"stream_id": 1, "after": "", "sweep": 1, "met": []}
        lacking = statements("usersync_cli.load.deletes.candidates")["lacking"]
        plans += [line for (line,) in tx.execute("EXPLAIN " + lacking, values).fetchall()]

    assert any("Full Join" in line for line in plans), plans
    assert not any("Nested Loop" in line for line in plans), plans


def test_new_records_do_not_make_more_leave(sync: Sync) -> None:
    """
    Everybody has another number: the guard measures those who leave by those who were there before, not by those who came.
    """
    sync.source.streams["people"] = people(*range(1, 13))
    sync.load = {"on_missing": "delete"}
    sync.ok()
    sync.source.streams["people"] = people(*range(101, 401))

    assert 6 == sync.run().exit_status
    assert list(range(1, 13)) == sync.rows(where="id < 100")


def test_rejects_that_leave_ask_nobody(sync: Sync) -> None:
    """
    Records that were set aside and never had a row are no rows that would go: when the source has them no more, nobody is asked.
    """
    sync.source.streams["people"] = [person(1), person(2, age="x")]
    sync.load = {"on_missing": "delete"}
    assert 3 == sync.run().exit_status
    sync.source.streams["people"] = [person(1), {**person(2), "_deleted": True}]

    assert (0, 0) == (sync.run(dry_run=True).exit_status, sync.run().exit_status)
    assert [] == sync.ask("SELECT * FROM usersync.rejects")
