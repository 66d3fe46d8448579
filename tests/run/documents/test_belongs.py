"""Records that belong to a record of another stream go with it, and the guard is not asked about what is known already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from tests.list_source import Sync
from tests.log_source import LogSession, LogSource
from usersync_cli.model import Database, Page
from usersync_cli.ports import BelongsTo, Tools
from usersync_cli.state import migrations

SELECT = "SELECT key AS id, data->>'name' AS name, data->>'team' AS team FROM records"


class TeamSource(LogSource):
    """People belong to teams, whose listing comes first."""

    @contextmanager
    def open(self, tools: Tools) -> Iterator[LogSession]:
        yield TeamSession(self)


class TeamSession(BelongsTo, LogSession):
    """What TeamSource opens."""

    def parent(self, stream: str) -> tuple[str, str] | None:
        return ("teams", "team") if stream == "people" else None


@pytest.fixture
def source() -> TeamSource:
    source = TeamSource({"teams": {}, "people": {}})
    for team in "abcd":
        source.put("teams", team)
    for number in range(1, 41):
        source.put("people", str(number), team="a" if number <= 30 else "bcd"[number % 3])
    return source


@pytest.fixture
def sync(source: TeamSource, database: Database) -> Sync:
    migrations.upgrade(database)
    sync = Sync(source, database, {"on_missing": "mark"})
    sync.transform = SELECT
    sync.ok()
    return sync


def live(sync: Sync, table: str) -> list[str]:
    return [key for (key,) in sync.ask(f"SELECT id FROM {table} WHERE deleted_at IS NULL ORDER BY id")]


def dissolve(source: TeamSource, team: str, *, silent: bool) -> datetime:
    """Delete a team and, without a word, its people; gives when."""
    for key in [key for key, one in source.streams["people"].items() if one["team"] == team]:
        source.remove("people", key, silent=True)
    source.remove("teams", team, silent=silent)
    return source.now


def test_who_belongs_to_what_is_reported_as_deleted_goes_with_it(sync: Sync, source: TeamSource) -> None:
    """
    At once, as of the same moment, however many; the next complete listing has nothing to add, and nobody is looked up.
    """
    at = dissolve(source, "a", silent=False)

    assert "0 0 0 31" == sync.ok()
    assert {at} == {when for (when,) in sync.ask("SELECT deleted_at FROM people WHERE team = 'a'")}
    assert 10 == len(live(sync, "people"))
    assert "0 0 13 0" == sync.ok(full=True)


def test_who_belongs_to_what_a_listing_lacks_goes_with_it(sync: Sync, source: TeamSource) -> None:
    """
    The guard has let the team go; its people are no further loss, although they are most of all.
    """
    sync.load["max_missing"] = "25%"
    dissolve(source, "a", silent=True)

    assert "0 0 13 31" == sync.ok(full=True)
    assert [(31,)] == sync.ask("SELECT count(*) FROM (SELECT deleted_at FROM people UNION ALL SELECT deleted_at FROM teams) AS t"
                               " WHERE deleted_at > now() - interval '1 hour'")  # fmt: skip
    assert "0 0 13 0" == sync.ok(full=True)


def test_where_the_guard_keeps_the_one_it_keeps_the_others(sync: Sync, source: TeamSource) -> None:
    """
    Of four teams three are missing: nobody of theirs goes, until a person approves both lists.
    """
    for team in "abc":
        dissolve(source, team, silent=True)
    refused = sync.run(full=True)

    assert 6 == refused.exit_status
    assert (4, 40) == (len(live(sync, "teams")), len(live(sync, "people")))


def test_what_is_listed_again_is_there_again(sync: Sync, source: TeamSource) -> None:
    """
    A report that was wrong is put right by the next listing, for the team and for its people.
    """
    source.tell("teams", {"id": "b"}, deleted=True)
    sync.ok()
    assert "b" not in live(sync, "teams")
    before = len(live(sync, "people"))
    source.now = source.now.replace(year=2027)
    sync.ok(full=True)

    assert (4, 40) == (len(live(sync, "teams")), len(live(sync, "people")))
    assert before < 40


def test_who_moved_to_another_team_stays(sync: Sync, source: TeamSource) -> None:
    """
    What counts is whom the last document names, be it whole or partial; one that names nobody belongs to nobody.
    """
    source.put("people", "1", team="d")
    source.put("people", "2", team=["a"])
    source.put("people", "4", team=None)
    sync.ok()
    source.tell("teams", {"id": "a"}, deleted=True)
    sync.ok()

    assert {"1", "2", "4"} <= {*live(sync, "people")}
    assert "3" not in live(sync, "people")


def test_a_killed_run_does_not_forget_them(sync: Sync, source: TeamSource) -> None:
    """
    They are remembered with the page of their team, so the next run marks them.
    """
    dissolve(source, "a", silent=False)
    source.put("teams", "e")
    source.put("teams", "f")
    source.put("teams", "g")

    def fail(page: Page) -> None:
        if page.cursor["place"] == len(source.log):
            raise KeyboardInterrupt

    source.fail = fail
    with pytest.raises(KeyboardInterrupt):
        sync.run()
    assert ("a" in live(sync, "teams"), len(live(sync, "people"))) == (False, 40)
    source.fail = lambda _page: None
    sync.ok()
    assert 10 == len(live(sync, "people"))


def test_with_delete_they_wait_for_the_guard(sync: Sync, source: TeamSource) -> None:
    """
    Rows that are deleted cannot be brought back: a person decides about so many, team and people.
    """
    sync.load["on_missing"] = "delete"
    sync.ok(full=True)
    dissolve(source, "a", silent=False)
    refused = sync.run()

    assert 6 == refused.exit_status
    assert 40 == len(sync.ask("SELECT id FROM people"))
    assert "0 0 0 30" == sync.ok(approve_deletes=refused.run_id)


def test_a_preview_tells_of_them(sync: Sync, source: TeamSource) -> None:
    """
    A dry run shows the marks of both, and leaves nothing.
    """
    dissolve(source, "a", silent=False)
    told: list[Any] = []
    dry = sync.run(dry_run=True, diff=lambda change: told.append(change.kind) or True)

    assert (None, 31) == (dry.steps[0].error, dry.steps[0].counts.gone)
    assert ["mark"] * 31 == told
    assert (4, 40) == (len(live(sync, "teams")), len(live(sync, "people")))


def test_what_the_transform_leaves_out_takes_nobody_along(sync: Sync, source: TeamSource) -> None:
    """
    A team that is at the source is not gone, whether it has a row or not; a preview knows that too.
    """
    sync.transform = f"{SELECT} WHERE data->>'name' <> 'hidden'"
    sync.ok()
    source.put("teams", "a", name="hidden")

    for dry_run in (True, False):
        assert "0 0 0 1" == sync.ok(dry_run=dry_run)
    assert "a" not in live(sync, "teams")
    assert 40 == len(live(sync, "people"))


def test_a_listing_is_not_measured_by_them(sync: Sync, source: TeamSource) -> None:
    """
    All teams are reported as deleted before the listing of the same run: that nobody is left is no silence.
    """
    for team in "abcd":
        dissolve(source, team, silent=False)
    source.put("teams", "e")

    assert "1 0 1 44" == sync.ok(full=True)
    assert (["e"], []) == (live(sync, "teams"), live(sync, "people"))


def test_a_report_behind_the_listing_is_heard(sync: Sync, source: TeamSource) -> None:
    """
    A team that is deleted while its people are listed takes them along in the same run.
    """

    def fail(page: Page) -> None:
        if page.sweep.endswith("people") and "a" in source.streams["teams"]:
            dissolve(source, "a", silent=False)

    source.fail = fail
    sync.ok(full=True)
    assert 10 == len(live(sync, "people"))
