"""How a stream fits into its table, while somebody else changes that table."""

from __future__ import annotations

import psycopg
import pytest

from tests.list_source import ListSource, Sync, people, person
from usersync_cli.model import Database
from usersync_cli.state import migrations


@pytest.fixture
def target(database: Database) -> Database:
    migrations.upgrade(database)
    return database


@pytest.fixture
def sync(target: Database) -> Sync:
    return Sync(ListSource({"people": people(*range(1, 11))}), target)


@pytest.mark.parametrize("on_missing", ["keep", "mark"])
def test_what_changes_while_a_source_is_asked_is_found(sync: Sync, on_missing: str) -> None:
    """
    A column that goes between the first look at the table and the page is reported as one that is missing, by its name.
    """
    sync.load = {"on_missing": on_missing}
    sync.ok()
    sync.source.streams["people"] = [*people(*range(1, 10)), person(10, "Test User Ten")]

    def alter(_stream: str, page: int) -> None:
        if page == 0:
            with psycopg.connect(sync.target.url, autocommit=True) as other:
                other.execute("ALTER TABLE people DROP COLUMN name")

    sync.source.fail = alter
    error = sync.run().steps[0].error

    assert "column name is missing" in str(error)
