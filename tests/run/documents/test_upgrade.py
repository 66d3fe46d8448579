"""State of an earlier version is gone on with: what was known of records stays known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from tests.list_source import TRANSFORM, ListSource, Sync, counts, people, person, record
from tests.state.versions import move
from usersync_cli.model import Database, Record
from usersync_cli.state import migrations

OLD = "SELECT held, missing FROM usersync.seen WHERE key = '{}'"


def test_a_run_goes_on_from_the_state_of_version_0011(database: Database, connection: psycopg.Connection) -> None:
    """
    Loaded, set aside, left out, gone, said to be gone, kept by the guard: after the upgrade no document is fetched again, no
    row is written, and the list that waits is approved as it was.
    """
    migrations.upgrade(database)
    everybody = [*people(*range(1, 28)), person(28, "nobody"), person(29, age="x"), person(30)]
    source = ListSource({"people": everybody}, size=50)
    asked: list[str] = []

    def details(stream: str, keys: Sequence[str]) -> Iterator[Record]:
        asked.extend(keys)
        return (record(stream, one) for one in source.streams["people"] if str(one["id"]) in keys)

    source.details = details
    sync = Sync(source, database, {"on_missing": "delete", "missing_window": "0s"}, TRANSFORM + " WHERE data ->> 'name' <> 'nobody'")
    assert "28 0 0 0 rejected 1" == counts(sync.run())
    gone: dict[str, Any] = {"id": 30, "_deleted": True, "_version": "2026-01-01T00:00:00Z"}
    source.streams["people"] = [*everybody[:29], gone]
    assert "0 0 27 1 rejected 1" == counts(sync.run())
    # half of them are lacking, one is left out by now, of one it is said that it is gone: the guard keeps all of them
    left = [*everybody[:16], person(17, "nobody"), {**gone, "id": 18}, *everybody[27:29], gone]
    source.streams["people"] = left
    result = sync.run()
    assert 6 == result.exit_status
    query = "SELECT key, to_jsonb(s) - 'sweep_id' FROM usersync.seen AS s ORDER BY key"
    before, rows = connection.execute(query).fetchall(), connection.execute("SELECT xmin, id FROM people ORDER BY id").fetchall()
    kinds = {(one["status"], one["departure"]) for _, one in before}
    expected = {
        ("loaded", None),
        ("loaded", "kept"),
        ("no_row", "left_out"),
        ("loaded", "told"),
        ("removed", None),
        ("no_row", None),
        ("rejected", None),
    }
    assert expected == kinds

    move(database, "0011")
    olds = {key: connection.execute(OLD.format(key).encode()).fetchone() for key in (17, 18, 19, 28, 29, 30)}
    assert {17: (b"", -3), 28: (b"", 0), 29: (b"\x00", 0), 30: (b"\x01", 0)} == {key: olds[key] for key in (17, 28, 29, 30)}
    assert [-1, -2] == [(olds[key] or ())[1] for key in (18, 19)]
    asked.clear()
    again = sync.run()
    assert (6, "0 0 16 0 rejected 1") == (again.exit_status, counts(again)), again.steps[0].error
    assert [] == asked
    assert before == connection.execute(query).fetchall()
    assert rows == connection.execute("SELECT xmin, id FROM people ORDER BY id").fetchall()

    ((run, keys),) = connection.execute("SELECT run_id, keys FROM usersync.approvals WHERE status = 'waiting'").fetchall()
    assert 11 == keys
    assert "0 0 16 11 rejected 1" == counts(sync.run(approve_deletes=run, dry_run=True))
    assert "0 0 16 11 rejected 1" == counts(sync.run(approve_deletes=run))
    assert list(range(1, 17)) == sync.rows()
