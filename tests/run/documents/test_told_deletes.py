"""Records that a source reports as deleted, one by one: marked with the page that says so, as of the moment that it says."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.list_source import Sync
from tests.log_source import LogSource
from usersync_cli.errors import Unavailable
from usersync_cli.model import Database, Page
from usersync_cli.state import migrations

SELECT = "SELECT key AS id, data->>'name' AS name FROM records"


@pytest.fixture
def source() -> LogSource:
    return LogSource({"people": {}})


@pytest.fixture
def sync(source: LogSource, database: Database) -> Sync:
    migrations.upgrade(database)
    sync = Sync(source, database, {"on_missing": "mark", "max_missing": "50%"})
    sync.transform = SELECT
    return sync


def fill(sync: Sync, source: LogSource, number: int = 8) -> None:
    for i in range(1, number + 1):
        source.put("people", str(i))
    sync.ok()


def marks(sync: Sync) -> dict[str, datetime]:
    return dict(sync.ask("SELECT id::text, deleted_at FROM people WHERE deleted_at IS NOT NULL"))


def versions(sync: Sync) -> list[tuple[Any, ...]]:
    """What changes with any row that is written: of the table, and of what is remembered."""
    return [*sync.ask("SELECT id, xmin::text FROM people ORDER BY id"), *sync.ask("SELECT key, xmin::text FROM usersync.seen ORDER BY key")]


def remove(source: LogSource, *keys: str, silent: bool = False) -> list[datetime]:
    """Delete these at the source; gives when each was deleted."""
    moments = []
    for key in keys:
        source.remove("people", key, silent=silent)
        moments.append(source.now)
    return moments


def test_a_row_is_deleted_when_its_record_was(sync: Sync, source: LogSource) -> None:
    """
    `deleted_at` is the moment that the source says, whenever the run was.
    """
    fill(sync, source)
    two, five = remove(source, "2", "5")

    assert "0 0 0 2" == sync.ok()
    assert {"2": two, "5": five} == marks(sync)


@pytest.mark.parametrize("type_", ["timestamp", "timestamp(0)", "timestamptz(3)"])
def test_the_moment_is_in_the_columns_own_type(sync: Sync, source: LogSource, type_: str) -> None:
    """
    A column without a time zone has UTC; one with fewer digits is not written anew for the sake of those that it lacks.
    """
    sync.ask(f"CREATE TABLE people (id text PRIMARY KEY, name text, deleted_at {type_})")
    fill(sync, source)
    source.now += timedelta(microseconds=123_456)
    (two,) = remove(source, "2")
    remove(source, "3", silent=True)
    sync.ok()
    sync.ok(full=True)
    source.tell("people", {"id": "3"}, deleted=True, at=source.now)
    sync.ok()
    before = versions(sync)
    source.log.append(source.log[-1])

    assert [(True,)] == sync.ask(f"SELECT deleted_at = (timestamptz '{two}' AT TIME ZONE 'UTC')::{type_} FROM people WHERE id = '2'"
                                 if "tz" not in type_ else f"SELECT deleted_at = '{two}'::{type_} FROM people WHERE id = '2'")  # fmt: skip
    assert "0 0 0 0 stale 1" == sync.ok()
    assert before == versions(sync)


def test_a_moment_that_the_column_cannot_tell_apart_writes_no_row(sync: Sync, source: LogSource) -> None:
    """
    Reported again as of another fraction of the same second, a row of timestamp(0) stays as it is.
    """
    sync.ask("CREATE TABLE people (id text PRIMARY KEY, name text, deleted_at timestamp(0))")
    fill(sync, source)
    (two,) = remove(source, "2")
    sync.ok()
    before = sync.ask("SELECT xmin::text FROM people WHERE id = '2'")
    source.tell("people", {"id": "2"}, deleted=True, at=two + timedelta(seconds=0.3))

    assert "0 0 0 0" == sync.ok()
    assert before == sync.ask("SELECT xmin::text FROM people WHERE id = '2'")
    source.tell("people", {"id": "2"}, deleted=True, at=two + timedelta(seconds=2))
    sync.ok()
    assert [two.replace(tzinfo=None) + timedelta(seconds=2)] == list(marks(sync).values())


def test_what_a_listing_lacks_is_deleted_now_until_the_source_says_when(sync: Sync, source: LogSource) -> None:
    """
    A row that only a listing missed has the time of the run; the report that comes late puts that right, once.
    """
    fill(sync, source)
    (two,) = remove(source, "2", silent=True)
    sync.ok(full=True)
    assert [(True,)] == sync.ask("SELECT deleted_at > now() - interval '1 hour' FROM people WHERE id = '2'")
    source.tell("people", {"id": "2"}, deleted=True, at=two)

    assert "0 0 0 0" == sync.ok()
    assert {"2": two} == marks(sync)
    before = versions(sync)
    source.tell("people", {"id": "2"}, deleted=True, at=two)
    assert "0 0 0 0 stale 1" == sync.ok()
    assert before == versions(sync)


def test_somebody_elses_rows_are_left_alone(sync: Sync, source: LogSource) -> None:
    """
    A report about a record that this step never saw marks no row.
    """
    sync.ask("CREATE TABLE people (id int PRIMARY KEY, name text, deleted_at timestamptz); INSERT INTO people VALUES (99, 'ours')")
    sync.transform = "SELECT key::int AS id, data->>'name' AS name FROM records"
    fill(sync, source)
    for key in ("99", "not a number"):
        source.tell("people", {"id": key}, deleted=True)
    remove(source, "3")

    assert "0 0 0 1" == sync.ok()
    assert ["3"] == list(marks(sync))


def test_rows_are_found_however_they_spell_their_keys(sync: Sync, source: LogSource) -> None:
    """
    A key that the row spells otherwise is the same key, in this report as in any other.
    """
    sync.ask("CREATE TABLE people (id int, part text, name text, deleted_at timestamptz, PRIMARY KEY (id, part))")
    sync.load["key"] = ["id", "part"]
    sync.transform = "SELECT (data->>'number')::int AS id, data->>'part' AS part, data->>'name' AS name FROM records"
    for i in range(4):
        source.put("people", f"(00{i},x)", number=i, part="x")
    sync.ok()
    (two,) = remove(source, "(002,x)")
    remove(source, "(003,x)", silent=True)

    assert "0 0 0 1" == sync.ok()
    assert {"2": two} == marks(sync)
    sync.ok(full=True)
    source.tell("people", {"id": "(003,x)"}, deleted=True, at=two)
    sync.ok()
    assert {"2": two, "3": two} == marks(sync)


@pytest.mark.parametrize("how", ["mark", "delete"])
def test_a_killed_run_has_marked_what_it_read(sync: Sync, source: LogSource, how: str) -> None:
    """
    Rows are marked with the page of their report, so a run that ends early leaves none of them; with `delete`, all wait for the end.
    """
    sync.load["on_missing"] = how
    fill(sync, source)
    remove(source, "1", "2", "3")

    def fail(page: Page) -> None:
        if page.cursor["place"] == len(source.log):
            raise Unavailable("the source hung up")

    source.fail = fail
    assert sync.run().steps[0].error
    marked = sync.ask(f"SELECT id FROM people {'WHERE deleted_at IS NULL' if how == 'mark' else ''} ORDER BY id")
    assert ([3, 4, 5, 6, 7, 8] if how == "mark" else [1, 2, 3, 4, 5, 6, 7, 8]) == [int(key) for (key,) in marked]
    assert ([("1",), ("2",)] if how == "mark" else []) == sync.ask("SELECT key FROM usersync.seen WHERE status = 'removed' ORDER BY key")
    source.fail = lambda _page: None
    assert ("0 0 0 1" if how == "mark" else "0 0 0 3") == sync.ok()


def test_somebody_who_was_marked_comes_back(sync: Sync, source: LogSource) -> None:
    """
    Deleted on one page and made again on a later one: marked, then not any more, and the row has what came last.
    """
    fill(sync, source)
    remove(source, "1", "2")
    source.put("people", "1", name="Test User Again")

    assert "0 1 0 2" == sync.ok()
    assert ["2"] == list(marks(sync))
    assert [("Test User Again",)] == sync.ask("SELECT name FROM people WHERE id = '1'")


def test_after_an_edit_the_guard_has_its_say(sync: Sync, source: LogSource) -> None:
    """
    What the step was edited into is not believed: the rows wait for a person, who lets them go as of the moment of their report.
    """
    fill(sync, source)
    sync.transform = f"{SELECT} WHERE true"
    two, five = remove(source, "2", "5")

    refused = sync.run()
    assert (6, {}) == (refused.exit_status, marks(sync))
    assert "0 0 0 2" == sync.ok(approve_deletes=refused.run_id).replace("0 0 6 2", "0 0 0 2")
    assert {"2": two, "5": five} == marks(sync)


def test_reports_are_in_a_listing_too(sync: Sync, source: LogSource) -> None:
    """
    More than the guard would let go: they count towards none of its limits, also where a complete listing ends in the same run.
    """
    fill(sync, source, 40)
    moments = remove(source, *(str(i) for i in range(1, 31)))

    assert "0 0 10 30" == sync.ok(full=True)
    assert {str(i): moment for i, moment in enumerate(moments, 1)} == marks(sync)


def test_a_preview_tells_each_mark_once(sync: Sync, source: LogSource) -> None:
    """
    A dry run shows what would be marked, and marks nothing.
    """
    fill(sync, source)
    remove(source, "2", "5")
    told: list[tuple[str, Any]] = []
    before = versions(sync)

    dry = sync.run(dry_run=True, diff=lambda change: told.append((change.kind, dict(change.key))) or True)

    assert None is dry.steps[0].error
    assert [("mark", {"id": "2"}), ("mark", {"id": "5"})] == told
    assert before == versions(sync)
    assert 2 == dry.steps[0].counts.gone
