"""What a dry run of documents shows is what the next run does, for generated histories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import servers
from tests.list_source import ListSource, Sync, person
from usersync_cli import log
from usersync_cli.errors import GuardRefused, PartialError, UsersyncError
from usersync_cli.model import Change, Counts, Database

Row = dict[str, str | None]
COLUMNS = ("id", "name", "age")
UNIQUE = "CREATE TABLE people (id int PRIMARY KEY, name text UNIQUE, age int CHECK (age < 100), deleted_at timestamptz)"
PLAIN = "CREATE TABLE people (id int PRIMARY KEY, name text, age int CHECK (age < 100), deleted_at timestamptz)"


class History:
    """A stream, its table, and what becomes of both."""

    def __init__(self, target: Database) -> None:
        self.target = target
        self.connection = psycopg.connect(target.url, autocommit=True)

    def begin(self, load: dict[str, Any], *, unique: bool) -> None:
        """A job that never ran.

        A dry run does not see what the pages before would have written: with unique names, or a key twice, all records come in
        one page.
        """
        self.connection.execute("DROP TABLE IF EXISTS people")
        self.connection.execute(UNIQUE if unique else PLAIN)
        self.connection.execute(
            "TRUNCATE usersync.cursors, usersync.seen_streams, usersync.approvals, usersync.rejects, usersync.runs CASCADE"
        )
        self.sync = Sync(ListSource({"people": []}, size=100 if unique else 3), self.target, load)
        self.refused: list[int] = []

    def by_hand(self, doing: str, key: int, name: str) -> None:
        statement = {
            "remove": "DELETE FROM people WHERE id = %(id)s",
            "change": "UPDATE people SET age = 99 WHERE id = %(id)s",
            "add": "INSERT INTO people VALUES (%(id)s + 100, %(name)s, 1) ON CONFLICT DO NOTHING",
        }[doing]
        self.connection.execute(statement.encode(), {"id": key, "name": name})

    def content(self) -> dict[str, Row]:
        found = self.connection.execute("SELECT id::text, name, age::text, (deleted_at IS NOT NULL)::text FROM people").fetchall()
        return {row[0]: dict(zip((*COLUMNS, "deleted_at"), row, strict=True)) for row in found}

    def everything(self) -> list[Any]:
        """What no preview may change."""
        return [
            self.connection.execute(f"SELECT t::text FROM {table} AS t ORDER BY 1").fetchall()
            for table in ("people", "usersync.seen", "usersync.sweeps", "usersync.cursors", "usersync.rejects", "usersync.runs")
        ]

    def preview(self, **options: Any) -> tuple[list[Change], Counts, UsersyncError | None]:
        changes: list[Change] = []
        before = self.everything()
        counts, error = self.run(dry_run=True, diff=lambda change: not changes.append(change), **options)  # type: ignore[func-returns-value]
        assert before == self.everything()
        return changes, counts, error

    def run(self, **options: Any) -> tuple[Counts, UsersyncError | None]:
        try:
            result = self.sync.run(**options)
        except UsersyncError as error:
            return Counts(), error
        (step,) = result.steps
        if isinstance(step.error, GuardRefused) and result.run_id:
            self.refused.append(result.run_id)
        return step.counts, step.error


def applied(changes: list[Change], before: dict[str, Row]) -> dict[str, Row]:
    """The table after these changes, in their order."""
    after = {key: dict(row) for key, row in before.items()}
    for change in changes:
        key = str(change.key["id"])
        if change.kind == "insert":
            after[key] = {**change.after, "deleted_at": "false"}
        elif change.kind == "update":
            after[key] |= {name: value for name, value in change.after.items() if name != "deleted_at"}
            after[key]["deleted_at"] = "false" if "deleted_at" in change.before else after[key]["deleted_at"]
        elif change.kind == "mark":
            after[key]["deleted_at"] = "true"
        elif change.kind == "delete":
            del after[key]
    return after


names = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h"])
ages = st.sampled_from([30, 30, 30, 31, 100, "x"])
records = st.tuples(st.integers(1, 12), names, ages, st.sampled_from([False] * 9 + [True]))
steps = st.fixed_dictionaries({
    "listed": st.lists(records, max_size=14),
    "hands": st.lists(st.tuples(st.sampled_from(["remove", "change", "add"]), st.integers(1, 12), names), max_size=2),
    "full": st.booleans(),
    "approve": st.booleans(),
    "allow_empty": st.booleans(),
})  # fmt: skip


@pytest.fixture
def history(database: Database) -> Iterator[History]:
    log.configure(quiet=True)
    servers.migrate(database)
    history = History(database)
    yield history
    history.connection.close()


@settings(
    max_examples=7,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    how=st.sampled_from(["keep", "mark", "delete"]),
    adopt=st.booleans(),
    unique=st.booleans(),
    nights=st.lists(steps, min_size=2, max_size=4),
)
def test_preview_and_run_agree(history: History, how: str, *, adopt: bool, unique: bool, nights: list[dict[str, Any]]) -> None:
    """
    Whatever is listed, in however many pages, with bad and doubled records, and whatever was done by hand: the changes that a dry
    run shows lead from the table before to the table after the run; counts, errors and rejects are the same.
    """
    history.begin({"on_missing": how, **({"adopt_existing": adopt} if how != "keep" else {})}, unique=unique)
    for night in nights:
        listed = night["listed"] if unique else list({one[0]: one for one in night["listed"]}.values())
        history.sync.source.streams["people"] = [
            person(key, name, age=age, **({"_deleted": True} if deleted else {})) for key, name, age, deleted in listed
        ]
        for doing in night["hands"]:
            history.by_hand(*doing)
        approved = history.refused[-1] if night["approve"] and history.refused else None
        options = {"full": night["full"], "allow_empty": night["allow_empty"], "approve_deletes": approved}

        before = history.content()
        changes, counts, error = history.preview(**options)
        done, failed = history.run(**options)

        if not (error is None and isinstance(failed, PartialError)):  # which may speak of records that earlier runs set aside
            assert type(error) is type(failed), (error, failed)
        if error and not isinstance(error, (PartialError, GuardRefused)):
            assert error.message == failed.message if failed else None
            continue
        assert counts == done
        assert history.content() == applied(changes, before)
