"""`usersync status` of streams of documents: what is in their tables, and how it came there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from tests.simple_job import PERSON
from tests.teamleader_job import SECRET, Crm, made
from tests.teamleader_server import TOKEN, Teamleader
from usersync_cli.cli import cli
from usersync_cli.model import Database
from usersync_cli.report import streams
from usersync_cli.signals import Stop

OLD = """
CREATE TABLE tl_{stream} (
    id serial PRIMARY KEY, tl_uuid uuid NOT NULL UNIQUE, tl_content jsonb NOT NULL, tl_type varchar,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
INSERT INTO tl_{stream} (tl_uuid, tl_content) VALUES ('00000000-0000-0000-0000-00000000000{number}', '{{}}')
"""


@dataclass
class House:
    """A job between a local Teamleader and a target, and the file that `status` reads."""

    crm: Crm
    folder: Path
    reader: str = "postgres"  # who asks

    def status(self, *arguments: str) -> str:
        (step,) = self.crm.job.steps
        load = {"table": step.load.table, "key": step.load.key, "create": step.load.create, "on_missing": step.load.on_missing}
        load |= {"adopt_existing": step.load.adopt_existing}
        steps = [{"name": "all", "extract": {"source": "crm", "streams": list(self.crm.streams)}, "load": load}]
        document = {
            "environment": "test",
            "target": self.crm.target.url.replace("postgres@", f"{self.reader}@"),
            "sources": {"crm": made(self.crm.server.url)},
            "jobs": {"teamleader": {"steps": steps}},
        }
        file = self.folder / "config.yaml"
        file.write_text(json.dumps(document))
        result = CliRunner().invoke(cli, ["status", *arguments, "--config", str(file)], obj=Stop(), catch_exceptions=False)
        for word in (SECRET, TOKEN, PERSON):
            assert word not in result.output
        assert 0 == result.exit_code
        return result.stdout

    def streams(self) -> list[dict[str, Any]]:
        (job,) = json.loads(self.status("--output", "json"))["jobs"]
        found: list[dict[str, Any]] = job["streams"]
        return found

    def lines(self) -> dict[str, list[str]]:
        """The lines of each heading."""
        found: dict[str, list[str]] = {}
        name = ""
        for line in self.status().splitlines()[1:]:
            if line.startswith("  read "):
                name, line = " ".join(line.split()[:2]), " ".join(line.split()[2:])  # noqa: PLW2901  without its heading
            elif line[2:18].strip():
                name, line = line[2:18].strip(), line[18:]  # noqa: PLW2901  without its heading
            found.setdefault(name, []).append(line.strip())
        return found


@pytest.fixture
def api() -> Iterator[Teamleader]:
    with Teamleader().running() as running:
        yield running


@pytest.fixture
def house(api: Teamleader, database: Database, tmp_path: Path) -> House:
    return House(Crm(api, database, ["contacts", "users"]), tmp_path)


def test_what_each_stream_has(house: House) -> None:
    """
    Rows, the newest change, the last complete listing, the cursor and rejects of each stream, as text and as JSON.
    """
    ids = house.crm.server.add("contacts", 12)
    house.crm.server.add("users", 3)
    house.crm.ok()
    house.crm.server.delete("contacts", ids[0])
    house.crm.server.change("contacts", ids[1], remarks="a\0b")
    house.crm.run(full=True)
    contacts, users = house.streams()
    lines = house.lines()

    assert ("contacts", "crm", "tl_contacts", 12, True, 1, 1) == tuple(
        contacts[name] for name in ("stream", "source", "table", "rows", "rows_exact", "marked", "rejects")
    )
    assert ("ok", 11, 1) == tuple(contacts["last_sweep"][name] for name in ("outcome", "records", "removed"))
    assert (3, 0, 3) == (users["rows"], users["rejects"], users["last_sweep"]["records"])
    for moment in (contacts["newest_change"], contacts["last_sweep"]["finished_at"], contacts["cursor_moved_at"]):
        assert datetime.now(UTC) - datetime.fromisoformat(moment) < timedelta(minutes=1)
    rows, cursor, listed, rejects = lines["read contacts"]
    assert rows.startswith("12 rows in tl_contacts, 1 of them marked as gone, newest change ")
    assert cursor.startswith("cursor moved ")
    assert listed.startswith("listed whole ")
    assert listed.endswith("11 records, 1 row removed")
    assert "1 record set aside" == rejects
    assert lines["read users"][2].endswith("3 records, ok")
    assert "on_missing" not in lines


def test_the_guard_is_told(house: House) -> None:
    """
    A listing that was complete, but whose removals the guard refused, says so.
    """
    ids = house.crm.server.add("contacts", 40)
    house.crm.ok()
    for id_ in ids[:15]:
        house.crm.server.delete("contacts", id_)
    house.crm.run(full=True)

    assert house.lines()["read contacts"][2].endswith("25 records, the guard kept 15 rows")
    assert ("refused", 15, 0) == tuple(house.streams()[0]["last_sweep"][name] for name in ("outcome", "candidates", "removed"))


def test_before_the_first_run(house: House) -> None:
    """
    Neither tables nor usersync's own: nothing to tell, and nothing is made.
    """
    assert [None, None] == [one["rows"] for one in house.streams()]
    assert ["is not there", None] == [house.streams()[0][name] for name in ("problem", "last_sweep")]
    assert "never run" in house.status()
    assert [(None,)] == house.crm.ask("SELECT to_regnamespace('usersync')")


def test_a_listing_under_way(house: House) -> None:
    """
    A complete listing that was interrupted shows how far it came.
    """
    house.crm.server.add("contacts", 150)
    house.crm.server.fail(403, "contacts.list", page=1)
    house.crm.run()
    first = house.streams()[0]

    assert (None, "open", 50) == (first["last_sweep"], first["sweep_under_way"]["outcome"], first["sweep_under_way"]["records"])
    assert house.lines()["read contacts"][2].startswith("listing since ")
    assert house.lines()["read contacts"][2].endswith("50 records so far")


@pytest.mark.parametrize("create", [{"create": True}, {"create": False}])
def test_tables_of_another_program(house: House, create: dict[str, bool]) -> None:
    """
    With on_missing: keep, one line says what `mark` and `adopt_existing` would do, with the ALTER for each table that needs one.
    """
    house.crm.load = {"on_missing": "keep", **create}
    for number, stream in enumerate(house.crm.streams):
        house.crm.server.add(stream, 2)
        house.crm.ask(OLD.format(stream=stream, number=number))
    house.crm.ask("ALTER TABLE tl_users ADD deleted_at timestamptz")
    house.crm.ok()
    told, *alters = house.lines()["on_missing"]

    assert ['mark needs: ALTER TABLE "tl_contacts" ADD COLUMN deleted_at timestamp with time zone;'] == alters
    assert "`on_missing: mark` would" in told
    assert "`adopt_existing: true`" in told
    assert "(2 rows now)" in told
    assert [(True, 1), (True, 1)] == [(one["taken_over"], one["unknown_rows"]) for one in house.streams()]

    house.crm.ask(alters[0].removeprefix("mark needs: "))
    house.crm.load = {"on_missing": "mark", "adopt_existing": True, **create}
    house.crm.ok(full=True)
    assert "on_missing" not in house.lines()
    assert [(False, 1), (False, 1)] == [(one["taken_over"], one["marked"]) for one in house.streams()]


def test_tables_of_our_own_need_no_advice(house: House) -> None:
    """
    A table that usersync made has only rows that it has seen.
    """
    house.crm.load = {"on_missing": "keep"}
    house.crm.server.add("contacts", 2)
    house.crm.ok()

    assert "on_missing" not in house.lines()
    assert [(False, 0), (False, 0)] == [(one["taken_over"], one["unknown_rows"]) for one in house.streams()]


def test_a_big_table_is_estimated(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It is not read whole: rows as the planner has them, the newest change only with an index, and that is said.
    """
    monkeypatch.setattr(streams, "SMALL_BYTES", 0)
    house.crm.server.add("contacts", 6)
    house.crm.ok()
    house.crm.ask("ALTER TABLE tl_contacts SET (autovacuum_enabled = false)")
    before = house.streams()[0]
    house.crm.ask("ANALYZE tl_contacts; CREATE INDEX ON tl_contacts (updated_at)")
    after = house.streams()[0]

    assert ((None, False), None) == ((before["rows"], before["rows_exact"]), before["newest_change"])
    assert (6, False, None) == (after["rows"], after["rows_exact"], after["unknown_rows"])
    assert datetime.fromisoformat(after["newest_change"])
    assert house.lines()["read contacts"][0].startswith("about 6 rows in tl_contacts, newest change ")


def test_times_that_python_has_not(house: House) -> None:
    """
    A table of others may hold `infinity`, in a column without zone too: the largest real time is told.
    """
    house.crm.server.add("contacts", 2)
    house.crm.ok()
    house.crm.ask("ALTER TABLE tl_contacts ALTER updated_at TYPE timestamp")
    house.crm.ask("UPDATE tl_contacts SET updated_at = CASE id WHEN 1 THEN 'infinity' ELSE '2020-01-02 03:04:05' END::timestamp")

    assert "2020-01-02T03:04:05.000+00:00" == house.streams()[0]["newest_change"]


def test_who_may_not_read_a_table_hears_the_rest(house: House) -> None:
    """
    Rights on usersync's own tables are enough for all but the rows; those of a table are estimated then, and where
    its row-level security hides some of them.
    """
    house.crm.server.add("contacts", 2)
    house.crm.ok()
    house.crm.ask("ANALYZE tl_contacts; DROP ROLE IF EXISTS streams_reader; CREATE ROLE streams_reader LOGIN")
    house.crm.ask("GRANT USAGE ON SCHEMA usersync TO streams_reader; GRANT SELECT ON ALL TABLES IN SCHEMA usersync TO streams_reader")
    try:
        house.reader = "streams_reader"
        first = house.streams()[0]
        assert (2, False, None) == (first["rows"], first["rows_exact"], first["newest_change"])
        assert 2 == first["last_sweep"]["records"]
        house.crm.ask("GRANT SELECT ON tl_contacts TO streams_reader")
        assert (2, True) == (house.streams()[0]["rows"], house.streams()[0]["rows_exact"])
        house.crm.ask("ALTER TABLE tl_contacts ENABLE ROW LEVEL SECURITY")
        assert (2, False) == (house.streams()[0]["rows"], house.streams()[0]["rows_exact"])
    finally:
        house.crm.ask("DROP OWNED BY streams_reader; DROP ROLE streams_reader")


def test_a_locked_table_keeps_nobody_waiting(house: House) -> None:
    """
    While somebody alters a table, all else is told.
    """
    house.crm.server.add("contacts", 2)
    house.crm.server.add("users", 1)
    house.crm.ok()
    with psycopg.connect(house.crm.target.url) as other:
        other.execute("LOCK TABLE tl_contacts")
        first, second = house.streams()

    assert ("is locked or slow at the moment", 2) == (first["problem"], first["last_sweep"]["records"])
    assert (None, 1) == (second["problem"], second["rows"])
