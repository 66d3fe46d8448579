"""What a page asks, as far as it takes more than the page itself to know."""

from __future__ import annotations

from tests.list_source import ListSource, Sync, people, person
from usersync_cli.model import Database
from usersync_cli.state import migrations


def test_a_record_that_was_passed_over_counts_when_the_other_has_left(database: Database) -> None:
    """
    Of two records of one key, on two pages, the later one counts in each listing; when only the earlier one is left, the next listing
    loads it.
    """
    migrations.upgrade(database)
    sync = Sync(ListSource({"people": [*people(1, 2, 3), person(1, "Other"), *people(4)]}), database)
    name = "SELECT name FROM people WHERE id = 1"

    assert "4 1 0 0" == sync.ok()
    assert "0 0 4 0 duplicates 1" == sync.ok()
    assert [("Other",)] == sync.ask(name)

    sync.source.streams["people"] = people(1, 2, 3, 4)
    assert "0 0 3 0 duplicates 1" == sync.ok()
    assert "0 1 3 0" == sync.ok()
    assert [("Test User 1",)] == sync.ask(name)
    assert "0 0 4 0" == sync.ok()
