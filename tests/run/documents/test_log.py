"""Sources whose changes come from a log: one cursor for all streams, who wins, partial documents, tombstones, resuming."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from tests import log_source
from tests.list_source import Sync
from tests.log_source import BEGIN, LogSource
from usersync_cli import log
from usersync_cli.errors import Unavailable
from usersync_cli.model import Database, Page
from usersync_cli.state import migrations

SELECT = "SELECT key AS id, data->>'name' AS name, (data->>'age')::int AS age, data->>'title' AS title FROM records"


@pytest.fixture
def target(database: Database) -> Database:
    migrations.upgrade(database)
    return database


@pytest.fixture
def source() -> LogSource:
    return LogSource({"people": {}, "teams": {}})


@pytest.fixture
def sync(source: LogSource, target: Database) -> Sync:
    sync = Sync(source, target, {"on_missing": "mark", "max_missing": "50%"}, transform=None)
    sync.transform = SELECT
    return sync


def table(sync: Sync, name: str = "people") -> list[tuple[Any, ...]]:
    return sync.ask(f"SELECT id, name, age, title FROM {name} WHERE deleted_at IS NULL ORDER BY id")


def cursors(sync: Sync) -> list[Any]:
    return [value for (value,) in sync.ask("SELECT value FROM usersync.cursors ORDER BY stream")]


def test_one_cursor_stands_for_all_streams(sync: Sync, source: LogSource) -> None:
    """
    Each page moves the cursor of every stream, also of those that it says nothing of; so a later run goes on in the log.
    """
    source.put("people", "a")
    sync.ok()
    source.put("people", "b")

    assert "1 0 0 0" == sync.ok()
    assert [{"place": 2}, {"place": 2}] == cursors(sync)
    assert 1 == source.listings


def test_a_run_without_news_gives_no_page_and_writes_no_row(sync: Sync, source: LogSource) -> None:
    source.put("people", "a")
    sync.ok()
    before = sync.ask("SELECT xmin, * FROM people UNION ALL SELECT xmin, * FROM people")

    assert "0 0 0 0" == sync.ok()
    assert before == sync.ask("SELECT xmin, * FROM people UNION ALL SELECT xmin, * FROM people")


def test_everything_again_keeps_the_place_in_the_log(sync: Sync, source: LogSource) -> None:
    """
    `since` has the place in the log with --full too: what happened before the listing is not lost to a stream without one.
    """
    source.put("people", "a")
    sync.ok()
    source.put("people", "b")
    source.given.clear()
    sync.ok(full=True)

    assert [False, True, True] == [bool(page.sweep) for page in source.given]
    assert [("a",), ("b",)] == sync.ask("SELECT id FROM people ORDER BY id")


def test_an_interrupted_first_listing_is_resumed(sync: Sync, source: LogSource) -> None:
    """
    A listing goes on where it was, whichever of its streams that was in, and is not begun again.
    """
    for key in "abcde":
        source.put("people", key)
        source.put("teams", key)

    def fail(page: Page) -> None:
        if page.streams == ["teams"] and len(source.given) == 4:
            raise Unavailable("the source hung up")

    source.fail = fail
    assert sync.run().steps[0].error
    source.fail = lambda _page: None
    sync.ok()

    assert 1 == source.listings
    assert ["people"] * 3 + ["teams"] * 3 == [page.streams[0] for page in source.given if page.sweep]
    assert [5, 5] == [len(table(sync, name)) for name in ("people", "teams")]


def test_a_listing_beats_an_older_change_of_the_same_version(sync: Sync, source: LogSource) -> None:
    """
    At one version, what the source said later counts.
    """
    source.put("people", "a", age=41)
    version = source.streams["people"]["a"]["updated_at"]
    sync.ok()
    source.tell("people", {"id": "a", "name": "Poor", "age": 0, "updated_at": version}, at=BEGIN)

    assert "0 0 0 0 stale 1" == sync.ok()
    assert [("a", "Test User a", 41, None)] == table(sync)


def test_a_later_change_of_the_same_version_counts(sync: Sync, source: LogSource) -> None:
    source.put("people", "a", age=41)
    sync.ok()
    for age in (42, 43, 44):
        source.put("people", "a", at=source.now, age=age)
    sync.ok()

    assert [("a", "Test User a", 44, None)] == table(sync)


def test_a_delete_is_not_undone_by_a_change_of_the_same_moment(sync: Sync, source: LogSource) -> None:
    """
    Created, deleted and told of once more, all in one moment and one version: it stays gone.
    """
    source.put("people", "z")
    sync.ok()
    source.put("people", "a")
    document, at = source.streams["people"]["a"], source.now
    del source.streams["people"]["a"]
    source.tell("people", document, deleted=True, at=at)
    sync.ok()
    source.tell("people", document, at=at)
    sync.ok()

    assert ["z"] == [key for key, *_ in table(sync)]


def test_older_news_does_not_bring_back_what_was_never_held(sync: Sync, source: LogSource) -> None:
    """
    Created and deleted within one page, then an older update: a tombstone of a record that never had a row.
    """
    source.put("people", "z")
    sync.ok()
    source.size = 10
    source.put("people", "a")
    document = source.streams["people"]["a"]
    source.remove("people", "a")
    sync.ok()
    source.tell("people", {**document, "name": "Older"}, at=source.now)
    sync.ok()

    assert [("z",)] == sync.ask("SELECT id FROM people")


def test_a_listing_overrules_a_newer_version_that_was_said_before_it(sync: Sync, source: LogSource) -> None:
    """
    A wrong version, far in the future, does not keep the row wrong beyond the next listing, nor what comes after it.
    """
    source.put("people", "a", age=41)
    sync.ok()
    source.tell("people", {"id": "a", "name": "Wrong", "age": 0, "updated_at": (BEGIN + timedelta(days=9999)).isoformat()})
    sync.ok()

    assert "0 1 0 0" == sync.ok(full=True)
    assert [("a", "Test User a", 41, None)] == table(sync)
    source.put("people", "a", age=42)
    assert "0 1 0 0" == sync.ok()


def test_what_only_listings_have_stays(sync: Sync, source: LogSource) -> None:
    """
    A change lacks a field of the listing: the row keeps it, and takes all others; null is a value, not a lack.
    """
    source.put("people", "a", title="Doctor")
    sync.ok()
    source.put("people", "a", age=None)
    sync.ok()

    assert [("a", "Test User a", None, "Doctor")] == table(sync)


def test_a_partial_document_that_says_what_is_known_writes_nothing(sync: Sync, source: LogSource) -> None:
    source.put("people", "a", title="Doctor")
    sync.ok()
    source.log.append(source.log[0] | {"at": source.now.isoformat()})
    before = sync.ask("SELECT xmin, key FROM usersync.seen")

    assert "0 0 1 0" == sync.ok()
    assert before == sync.ask("SELECT xmin, key FROM usersync.seen")


def test_a_field_that_the_next_listing_lacks_goes(sync: Sync, source: LogSource) -> None:
    source.put("people", "a", title="Doctor")
    sync.ok()
    del source.streams["people"]["a"]["title"]
    sync.ok(full=True)
    source.put("people", "a", age=31)
    sync.ok()

    assert [("a", "Test User a", 31, None)] == table(sync)


def test_of_a_record_that_is_gone_only_its_version_is_remembered(sync: Sync, source: LogSource) -> None:
    """
    What a listing said of somebody is not kept beyond the row's own mark.
    """
    source.put("people", "a", title="Doctor")
    sync.ok()
    assert [("a", '{"title":"Doctor"}')] == sync.ask("SELECT key, rest FROM usersync.seen")
    source.remove("people", "a")
    sync.ok()

    assert [("a", "removed", None)] == sync.ask("SELECT key, status, rest FROM usersync.seen")


def test_keys_that_are_held_are_at_hand(sync: Sync, source: LogSource) -> None:
    """
    A session can ask whether a few records that we hold are known at all; not where another account was accepted.
    """
    for key in "abcde":
        source.put("people", key)
    sync.ok()
    sync.ok()
    assert len({*source.held} & {*"abcde"}) == len(source.held) == 3
    sync.ok(accept_account=True)

    assert [] == [*source.held]


def test_a_lost_place_in_the_log_is_a_listing(sync: Sync, source: LogSource) -> None:
    source.put("people", "a")
    sync.ok()
    source.put("people", "b", silent=True)
    source.lost = True

    assert "1 0 1 0" == sync.ok()
    assert 2 == source.listings


def test_a_stream_that_is_added_has_all_of_them_listed(source: LogSource, sync: Sync) -> None:
    """
    The new stream has no cursor; the others keep theirs, and what the log said meanwhile is not lost.
    """
    source.put("people", "a")
    sync.ok(streams=["people"])
    source.put("people", "b")
    source.put("teams", "t")
    sync.ok()

    assert [1, 2] == [len(table(sync, "teams")), len(table(sync))]


def test_a_dry_run_counts_as_the_run_would(sync: Sync, source: LogSource) -> None:
    """
    Changes that a listing of the same dry run has overtaken change nothing.
    """
    source.put("people", "a", age=41)
    source.lost = True
    first = source.pages

    def slow(streams: Any, since: Any) -> Any:
        for page in first(streams, since):
            yield page
            if page.sweep and page.streams == ["people"]:
                source.log.append(
                    {"stream": "people", "document": source.streams["people"]["a"], "deleted": False, "at": BEGIN.isoformat()}
                )

    source.pages = slow  # type: ignore[method-assign]
    foreseen, done = sync.run(dry_run=True), sync.run()
    assert vars(foreseen.steps[0].counts) == vars(done.steps[0].counts)
    assert 1 == done.steps[0].counts.inserted


def test_a_page_is_one_line_of_the_log(sync: Sync, source: LogSource, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A page of two streams is one line; a stream without records has none.
    """

    def pages() -> list[str]:
        lines = map(json.loads, capsys.readouterr().err.splitlines())
        return [one["stream"] for one in lines if "page" in one["event"]]

    log.configure("json")
    source.put("people", "z")
    sync.ok()
    assert ["people"] == pages()
    source.put("people", "a")
    source.put("teams", "t")
    sync.ok()

    assert ["people, teams"] == pages()


def drift(sync: Sync) -> list[Any]:
    """What each complete listing of people had to put right, newest last."""
    return [found for (found,) in sync.ask(
        "SELECT w.drift FROM usersync.sweeps w JOIN usersync.seen_streams s ON s.id = w.stream_id WHERE s.stream = 'people' ORDER BY w.id"
    )]  # fmt: skip


def test_a_listing_that_agrees_with_the_log_has_no_drift(sync: Sync, source: LogSource) -> None:
    """
    Of the first listing nothing can be said; fields that no change carries do not count.
    """
    source.put("people", "a")
    sync.ok()
    source.put("people", "b", age=31)
    source.put("people", "a", silent=True, title="Doctor")
    sync.ok(full=True)

    assert [None, {}] == drift(sync)


def test_what_the_log_did_not_bring_is_drift_by_column(sync: Sync, source: LogSource, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Rows that were changed, came and left without a word, those that were edited by hand, and those that are back; each is put right.
    """
    for key in "abcdef":
        source.put("people", key)
    sync.ok()
    source.remove("people", "f")
    sync.ok()
    source.put("people", "f", silent=True)
    source.put("people", "a", silent=True, name="Test User One", age=1)
    source.put("people", "b", silent=True, age=2, title="Doctor")
    source.put("people", "new", silent=True)
    source.remove("people", "c", silent=True)
    sync.ask("UPDATE people SET name = 'Edited' WHERE id = 'd' RETURNING 1")
    log.configure("console")
    capsys.readouterr()
    sync.ok(full=True)

    expected = {"name": 2, "age": 2, "rows missing": 1, "rows left over": 1, "rows marked as deleted": 1}
    assert expected == drift(sync)[-1]
    assert "differed from what the log" in capsys.readouterr().err
    sync.ok(full=True)
    assert {} == drift(sync)[-1]


def test_drift_in_a_column_of_documents_is_by_field(sync: Sync, source: LogSource) -> None:
    """
    A field that has a column of its own is not counted twice.
    """
    sync.transform = "SELECT key AS id, data->>'name' AS name, data AS document FROM records"
    source.put("people", "a")
    sync.ok()
    source.put("people", "a", silent=True, name="Test User One", age=1, title="Doctor")
    sync.ok(full=True)

    assert {"name": 1, "document.age": 1} == drift(sync)[-1]


@pytest.mark.parametrize("reason", ["lost", "edited"])
def test_without_a_log_that_was_followed_there_is_no_drift(sync: Sync, source: LogSource, reason: str) -> None:
    """
    A lost place in the log and an edited step explain what differs.
    """
    source.put("people", "a")
    sync.ok()
    source.put("people", "a", silent=True, age=1)
    source.lost = reason == "lost"
    if reason == "edited":
        sync.transform = f"{SELECT} WHERE true"
    sync.ok()

    assert [None, None] == drift(sync)


def test_a_listing_that_is_resumed_adds_up_its_drift(sync: Sync, source: LogSource) -> None:
    for key in "abcde":
        source.put("people", key)
    sync.ok()
    for key in "abe":
        source.put("people", key, silent=True, age=1)

    def fail(page: Page) -> None:
        if page.complete and page.streams == ["people"]:
            raise Unavailable("the source hung up")

    source.fail = fail
    assert sync.run(full=True).steps[0].error
    source.fail = lambda _page: None
    sync.ok()

    assert {"age": 3} == drift(sync)[-1]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("later", [False, True])
def test_a_listing_is_not_measured_by_those_who_were_reported_as_gone(sync: Sync, source: LogSource, *, later: bool, dry_run: bool) -> None:
    """
    All of a stream may go one by one, and most of another: neither is a source that fell silent, in the same run or a later one.
    """
    source.size = 50
    for number in range(30):
        source.put("people", f"p{number:02}")
        source.put("teams", f"t{number:02}")
    sync.ok()
    for number in range(30):
        source.remove("teams", f"t{number:02}")
    for number in range(25):
        source.remove("people", f"p{number:02}")
    if later:
        sync.ok()
    source.remove("people", "p25", silent=True)
    sync.ok(full=True, dry_run=dry_run)
    sync.ok(full=True)

    assert ([], ["p26", "p27", "p28", "p29"]) == (table(sync, "teams"), [key for key, *_ in table(sync)])


@pytest.mark.parametrize("why", ["lost", "full"])
def test_every_listing_is_compared_with_the_rows(sync: Sync, source: LogSource, why: str) -> None:
    """
    A row that was edited by hand is put right by any listing, not only by --full; what is right already is not remembered once more.
    """
    for key in "ab":
        source.put("people", key)
    sync.ok()
    before = sync.ask("SELECT xmin FROM usersync.seen WHERE key = 'b'")
    sync.ask("UPDATE people SET name = 'Edited' WHERE id = 'a' RETURNING 1")
    source.lost = why == "lost"

    assert "0 1 1 0" == sync.ok(full=why == "full")
    assert ["Test User a", "Test User b"] == [name for _, name, *_ in table(sync)]
    assert before == sync.ask("SELECT xmin FROM usersync.seen WHERE key = 'b'")


def test_whoever_approves_what_an_edit_made_approves_the_edit(sync: Sync, source: LogSource) -> None:
    """
    Deletes after that are measured as always, also where no complete listing came in between.
    """
    sync.load["on_missing"] = "delete"
    for number in range(30):
        source.put("people", f"p{number:02}")
    sync.ok()
    sync.transform = f"{SELECT} WHERE true"
    source.remove("people", "p00")
    refused = sync.run()
    assert "was edited" in str(refused.steps[0].error)
    ((run,),) = sync.ask("SELECT max(run_id) FROM usersync.approvals")
    sync.ok(approve_deletes=run)
    source.remove("people", "p01")

    assert "0 0 0 1" == sync.ok()
    assert 28 == len(sync.ask("SELECT id FROM people"))


def test_whoever_is_gone_need_not_be_loaded_any_more(sync: Sync, source: LogSource) -> None:
    """
    A reject ends when the source reports its record as gone.
    """
    source.put("people", "a")
    sync.ok()
    source.put("people", "b", age="none")
    source.put("people", "c", age="none")
    assert 2 == sync.run().steps[0].counts.rejected
    source.remove("people", "b")
    sync.run()

    assert [("c",)] == sync.ask("SELECT key FROM usersync.rejects WHERE status = 'waiting'")


def test_columns_may_have_any_name(sync: Sync, source: LogSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Also those that lines of our log give to other things.
    """
    names = ("event", "step", "stream", "rows", "level")
    monkeypatch.setattr(log_source, "TOLD", (*log_source.TOLD, *names))
    sync.transform = f"SELECT key AS id, {', '.join(f'data->>{name!r} AS {name}' for name in names)} FROM records"
    source.put("people", "a", **dict.fromkeys(names, "one"))
    sync.ok()
    source.put("people", "a", silent=True, **dict.fromkeys(names, "other"))
    sync.ok(full=True)

    assert dict.fromkeys(names, 1) == drift(sync)[-1]
