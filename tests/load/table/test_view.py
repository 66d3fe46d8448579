"""Live views: made with the table, given the columns that it gets, never taken from a person; and tables of streams without records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
import pytest
from psycopg import sql
from pydantic import ValidationError

from tests import servers
from tests.conftest import Command, NewDatabase
from tests.list_source import TRANSFORM, ListSource, Sync, people
from tests.log_source import LogSource
from tests.simple_job import Job as SimpleJob
from usersync_cli.clients.postgres.catalog import describe
from usersync_cli.clients.postgres.connections import connect
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.config.jobs import Job, Load
from usersync_cli.load.table.view import LiveView
from usersync_cli.model import Database
from usersync_cli.ports import BringsComments, BringsTransform
from usersync_cli.signals import Stop
from usersync_cli.state import migrations

LOAD = {"on_missing": "mark", "live_view": True}
TABLE = "CREATE TABLE people (id int PRIMARY KEY, name text, age int, deleted_at timestamptz)"


@pytest.fixture
def target(database: Database) -> Database:
    migrations.upgrade(database)
    return database


@pytest.fixture
def source() -> ListSource:
    return ListSource({"people": people(1, 2, 3)})


@pytest.fixture
def sync(source: ListSource, target: Database) -> Sync:
    return Sync(source, target, {**LOAD})


def columns(sync: Sync, name: str = "people_live") -> list[str]:
    query = f"SELECT attname::text FROM pg_attribute WHERE attrelid = '{name}'::regclass AND attnum > 0 ORDER BY attnum"
    return [column for (column,) in sync.ask(query)]


def exists(sync: Sync, name: str) -> bool:
    return sync.ask(f"SELECT to_regclass('{name}') IS NOT NULL") == [(True,)]


# what it is


def test_it_shows_who_is_there(sync: Sync, source: ListSource) -> None:
    """
    All columns of the rows that are not marked; who comes back is there again.
    """
    sync.ok()
    assert [1, 2, 3] == sync.rows("people_live")
    source.streams["people"] = people(1, 3)
    sync.ok()

    assert [1, 3] == sync.rows("people_live")
    assert [1, 2, 3] == sync.rows()
    assert columns(sync, "people") == columns(sync)
    source.streams["people"] = people(1, 2, 3)
    sync.ok()
    assert [1, 2, 3] == sync.rows("people_live")


def test_a_table_that_is_there_gets_one(sync: Sync) -> None:
    """
    With the next run, also one that brings nothing; and from then on nothing is made.
    """
    sync.load = {"on_missing": "mark"}
    sync.ok()
    assert not exists(sync, "people_live")
    sync.load = {**LOAD}
    assert "0 0 3 0" == sync.ok()
    made = sync.ask("SELECT oid, xmin::text FROM pg_class WHERE relname = 'people_live'")

    assert [1, 2, 3] == sync.rows("people_live")
    assert "0 0 3 0" == sync.ok()
    assert made == sync.ask("SELECT oid, xmin::text FROM pg_class WHERE relname = 'people_live'")


def test_what_a_view_is_granted_opens_no_table(sync: Sync) -> None:
    """
    A reader needs rights on the table too, and its row-level security holds: nobody sees more through the view.
    """
    sync.ok()
    sync.ask("CREATE ROLE viewer LOGIN; GRANT SELECT ON people_live TO viewer")
    try:
        with psycopg.connect(sync.target.url.replace("postgres@", "viewer@"), autocommit=True) as viewer:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                viewer.execute("SELECT * FROM people_live")
            sync.ask("GRANT SELECT ON people TO viewer; ALTER TABLE people ENABLE ROW LEVEL SECURITY;"
                     " CREATE POLICY two ON people FOR SELECT TO viewer USING (id = 2)")  # fmt: skip
            assert [(2,)] == viewer.execute("SELECT id FROM people_live").fetchall()
    finally:
        sync.ask("DROP OWNED BY viewer; DROP ROLE viewer")


def test_names_are_quoted(sync: Sync) -> None:
    """
    Any name of a schema, table or column; and the view is where its table is.
    """
    sync.ask('CREATE SCHEMA "My ""Schema"; CREATE TABLE "My ""Schema"."Peo;ple" (id int PRIMARY KEY, name text, "a%s{}""b" int,'
             " age int, deleted_at timestamp)")  # fmt: skip
    sync.load["table"] = 'My "Schema.Peo;ple'
    sync.ok()

    assert [1, 2, 3] == sync.rows('"My ""Schema"."Peo;ple_live"')
    sync.ask('ALTER TABLE "My ""Schema"."Peo;ple" ADD "%s more" int')
    sync.ok()
    assert ['a%s{}"b', "age", "deleted_at", "%s more"] == columns(sync, '"My ""Schema"."Peo;ple_live"')[2:]  # fmt: skip


def test_twice_is_once(sync: Sync) -> None:
    """
    Made by a load since it was looked at, it is not made again; taken back by a savepoint, it is.
    """
    sync.ask(TABLE)
    view = LiveView(Load(table="people", key=["id"], on_missing="mark", live_view=True))
    with connect(sync.target, job="test", stop=Stop(), read_write=True) as tx:
        begin(tx)
        view.look(tx, "public", sql.SQL("public.people"), describe(tx, "people"))
        with tx.transaction(force_rollback=True):
            view.make(tx)
        view.make(tx)
        assert not view.is_lacking(tx)
        view.make(tx)
        tx.execute("COMMIT")
    assert [] == sync.rows("people_live")


# columns that come later


def test_it_gets_the_columns_that_the_table_gets(sync: Sync) -> None:
    """
    Names, grants, options and what a person built on it stay.
    """
    sync.ok()
    sync.ask("CREATE ROLE viewer; GRANT SELECT ON people_live TO viewer; CREATE VIEW mine AS SELECT name FROM people_live;"
             "ALTER VIEW people_live SET (security_barrier = true, security_invoker = false);"
             "ALTER TABLE people RENAME name TO full_name; ALTER TABLE people ADD COLUMN town text")  # fmt: skip
    sync.transform = "SELECT key::int AS id, data ->> 'name' AS full_name, (data ->> 'age')::int AS age, 'Ourtown' AS town FROM records"
    before = columns(sync)
    try:
        assert "0 3 0 0" == sync.ok(full=True)
        assert [*before, "town"] == columns(sync)
        assert [("Test User 1", "Ourtown")] == sync.ask("SELECT name, town FROM people_live WHERE id = 1")
        assert [(True,)] == sync.ask("SELECT has_table_privilege('viewer', 'people_live', 'SELECT')")
        assert 3 == len(sync.ask("SELECT * FROM mine"))
        (options,) = sync.ask("SELECT reloptions FROM pg_class WHERE relname = 'people_live'")
        assert {"security_barrier=true", "security_invoker=false"} == set(options[0])
    finally:
        sync.ask("DROP OWNED BY viewer; DROP ROLE viewer")


def test_it_is_the_same_on_the_oldest_server(new_database: NewDatabase, postgres15: servers.Server) -> None:
    """
    PostgreSQL 15 writes a view's text otherwise, and knows it again all the same.
    """
    target = new_database(on=postgres15)
    migrations.upgrade(target)
    sync = Sync(ListSource({"people": people(1, 2)}), target, {**LOAD})
    sync.ok()
    sync.ask("ALTER TABLE people RENAME age TO years; ALTER TABLE people ADD COLUMN town text")
    sync.transform = TRANSFORM.replace("AS age", "AS years")
    sync.ok()

    assert ["id", "name", "age"] == columns(sync)[:3]
    assert "town" in columns(sync)
    assert [1, 2] == sync.rows("people_live", "age = 30")


def test_what_a_person_made_of_it_stays(sync: Sync) -> None:
    """
    A view of this name that reads the table is the live view, whatever else it says; it is not overwritten, and check says so.
    """
    sync.ok()
    changed = "CREATE OR REPLACE VIEW people_live AS SELECT * FROM people WHERE deleted_at IS NULL AND age < 99"
    sync.ask(f"{changed}; ALTER TABLE people ADD COLUMN town text")
    before = sync.ask("SELECT pg_get_viewdef('people_live'::regclass)")

    assert "0 0 3 0" == sync.ok()
    assert before == sync.ask("SELECT pg_get_viewdef('people_live'::regclass)")
    (finding,) = [one for one in _check(sync) if "stream people" in one.what]
    assert "DROP VIEW" in finding.advice
    sync.ask("DROP VIEW people_live")
    sync.ok()
    assert "town" in columns(sync)


def test_a_name_that_is_taken_by_a_new_column(sync: Sync) -> None:
    """
    7, with the one statement that helps: no column of the view gets another meaning.
    """
    sync.ok()
    sync.ask("ALTER TABLE people RENAME age TO years; ALTER TABLE people ADD COLUMN age int")
    failed = sync.run()

    assert 7 == failed.exit_status
    assert "calls another column age already" in str(failed.steps[0].error)
    sync.ask("DROP VIEW people_live")
    sync.ok()
    assert columns(sync, "people") == columns(sync)


def _check(sync: Sync) -> list[Any]:
    from usersync_cli.report.check import check

    return list(check(sync.job, sync.context))


# what is in its way

IN_THE_WAY = {
    "CREATE TABLE people_live (id int)": ("a table", "ALTER TABLE"),
    "CREATE MATERIALIZED VIEW people_live AS SELECT * FROM people": ("a materialized view", "ALTER MATERIALIZED VIEW"),
    "CREATE VIEW people_live AS SELECT 1 AS id": ("a view that does not read people", "ALTER VIEW"),
    "CREATE SEQUENCE people_live": ("a sequence", "ALTER SEQUENCE"),
    "CREATE INDEX people_live ON people (age)": ("an index", "ALTER INDEX"),
    "CREATE TYPE people_live AS (id int)": ("a type", "ALTER TYPE"),
}


@pytest.mark.parametrize("made", IN_THE_WAY)
def test_something_else_of_its_name_is_never_touched(sync: Sync, source: ListSource, made: str) -> None:
    """
    7 before a record is read, with what it is and how it is renamed; check says the same, and without it the run goes well.
    """
    what, how = IN_THE_WAY[made]
    sync.ask(f"{TABLE}; {made}")
    failed = sync.run()
    (found,) = [one.error for one in _check(sync) if one.error]

    for error in (failed.steps[0].error, found):
        assert error is not None
        assert f"its live view would be called people_live, and that is {what}" in error.message
        assert how in error.hint
    assert (7, []) == (failed.exit_status, source.read)
    assert exists(sync, "people_live") or "TYPE" in how
    sync.ask(f'{how} "people_live" RENAME TO other')
    assert "3 0 0 0" == sync.ok()


# the config file


@pytest.mark.parametrize("how", ["keep", "delete"])
def test_it_needs_marks(how: str) -> None:
    with pytest.raises(ValidationError, match="needs on_missing"):
        Load(table="people", key=["id"], on_missing=how, live_view=True)


@pytest.mark.parametrize(
    ("table", "streams", "fits"),
    [("{}", ["a" * 58], True), ("{}", ["a" * 59], False), ("x_{}", ["people", "ä" * 29], False), ("s.{}", ["a" * 58], True)],
)
def test_its_name_is_not_cut(table: str, streams: list[str], *, fits: bool) -> None:
    """
    A name of more than 63 bytes is refused with the config file, for each of a step's tables.
    """
    load = {"table": table.format("{stream}"), "key": ["id"], **LOAD}
    step = {"name": "all", "extract": {"source": "crm", "streams": streams}, "load": load}
    if fits:
        Job.model_validate({"name": "sync", "steps": [step]})
        return
    with pytest.raises(ValidationError, match="bytes long, and a name has 63 at most"):
        Job.model_validate({"name": "sync", "steps": [step]})


# when it is made


def test_a_dry_run_makes_nothing(sync: Sync) -> None:
    """
    Neither with the table nor without; check says what would be made.
    """
    assert "3 0 0 0" == sync.ok(dry_run=True)
    assert not exists(sync, "people")
    sync.ask(TABLE)
    assert "3 0 0 0" == sync.ok(dry_run=True)
    assert not exists(sync, "people_live")
    assert any("people_live will be created" in one.what for one in _check(sync))
    assert not exists(sync, "people_live")
    sync.ok()
    assert any("people_live is its live view" in one.what for one in _check(sync))


def test_it_is_made_although_records_are_set_aside(sync: Sync, source: ListSource) -> None:
    """
    The first attempt to load a page takes table and view back; also where no record is left in the end.
    """
    source.streams["people"] = [{"id": "none"}, *people(2)]
    assert 3 == sync.run().exit_status
    assert [2] == sync.rows("people_live")
    sync.ask("DROP TABLE people CASCADE")
    source.streams["people"] = [{"id": "none"}]
    sync.run(full=True)
    assert [] == sync.rows("people_live")


def test_it_is_there_from_the_first_page_on(sync: Sync, source: ListSource) -> None:
    """
    A first reading that takes hours, or is killed, has its view as soon as it has its table.
    """

    def fail(_stream: str, page: int) -> None:
        if page == 1:
            raise KeyboardInterrupt

    source.fail, source.size = fail, 2
    with pytest.raises(KeyboardInterrupt):
        sync.run()
    assert [1, 2] == sync.rows("people_live")


# streams without records


def test_a_stream_without_records_has_its_table(target: Database) -> None:
    """
    After the first complete reading, with its columns and its view; that is no row, and changes no count.
    """
    source = ListSource({"people": people(1), "teams": []})
    sync = Sync(source, target, {**LOAD})

    assert "1 0 0 0" == sync.ok()
    assert [] == sync.rows("teams_live")
    assert columns(sync, "people") == columns(sync, "teams")
    assert "0 0 1 0" == sync.ok()
    source.streams["teams"] = people(7)
    assert "1 0 1 0" == sync.ok()
    assert [7] == sync.rows("teams_live")


@pytest.mark.parametrize("load", [{}, {"on_missing": "delete"}, LOAD])
def test_nothing_is_made_before_everything_was_read(target: Database, load: dict[str, Any]) -> None:
    """
    A reading that fails leaves no empty table that would look like a source without people.
    """
    source = ListSource({"teams": []})

    def fail(_stream: str, _page: int) -> None:
        raise KeyboardInterrupt

    sync = Sync(source, target, load)
    source.fail = fail
    with pytest.raises(KeyboardInterrupt):
        sync.run()
    assert not exists(sync, "teams")
    source.fail = lambda _stream, _page: None
    sync.ok(dry_run=True)
    assert not exists(sync, "teams")
    sync.ok()
    assert exists(sync, "teams")


def test_a_table_that_is_not_to_be_made_is_not(target: Database) -> None:
    """
    Without `create`, an empty stream that has no table is what one with records is: 7.
    """
    sync = Sync(ListSource({"teams": []}), target, {"create": False})
    assert 7 == sync.run().exit_status
    assert not exists(sync, "teams")


def test_streams_of_one_poll_have_their_tables(target: Database) -> None:
    """
    Also those that never have a listing, and of which the log says nothing.
    """
    source = LogSource({"people": {}, "events": {}}, unlisted=["events"])
    sync = Sync(source, target, {**LOAD})

    assert "0 0 0 0" == sync.ok()
    assert [] == sync.rows("people_live") + sync.rows("events_live")
    source.put("events", "1")
    assert "1 0 0 0" == sync.ok()
    assert [1] == sync.rows("events_live")


# what a source says of its columns


class Commented(BringsTransform, BringsComments, ListSource):
    """A source with a transform of its own, and something to say about its columns."""

    def transform(self, stream: str) -> str:
        return TRANSFORM

    def comments(self, stream: str) -> Mapping[str, str]:
        return {"age": f"It's {stream}: 100 % \\ {{}}", "deleted_at": "When it went.", "none": "No such column."}


def comments(sync: Sync, table: str) -> dict[str, str]:
    query = f"SELECT attname::text, col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0"
    return {name: said for name, said in sync.ask(query) if said}


def test_columns_are_commented(target: Database) -> None:
    """
    Of a table that we make, with rows or without; one that is there keeps its own.
    """
    sync = Sync(Commented({"people": people(1), "teams": [], "old": people(1)}), target, {"on_missing": "mark"}, None)
    sync.ask(TABLE.replace("people", "old") + "; COMMENT ON COLUMN old.age IS 'mine'")
    sync.ok()

    assert {"age": "It's people: 100 % \\ {}", "deleted_at": "When it went."} == comments(sync, "people")
    assert {"age": "It's teams: 100 % \\ {}", "deleted_at": "When it went."} == comments(sync, "teams")
    assert {"age": "mine"} == comments(sync, "old")


def test_columns_of_a_persons_own_select_are_not(target: Database) -> None:
    """
    What the source says of its own columns may not be true of others of the same name.
    """
    sync = Sync(Commented({"people": people(1)}), target)
    sync.ok()
    assert {} == comments(sync, "people")


# steps of tables


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> SimpleJob:
    return SimpleJob(usersync, new_database("source crm"), new_database())


@pytest.mark.parametrize("transform", [None, "SELECT id, name FROM records"])
def test_a_step_of_tables_has_one(job: SimpleJob, transform: str | None) -> None:
    """
    With its table, which is there also where the query gives no row; and a table that is there gets one.
    """
    job.write(transform=transform, load=LOAD)
    assert 0 == job.sync().exit_status
    assert [] == job.at_target("SELECT * FROM people_live")
    job.people("One", "Two")
    assert 0 == job.sync().exit_status
    job.at_target("DROP VIEW people_live")
    assert 0 == job.sync(dry_run=True).exit_status
    assert [(None,)] == job.at_target("SELECT to_regclass('people_live')")
    job.at_source("DELETE FROM people_at_source WHERE id = 1")

    assert 0 == job.sync().exit_status
    assert [(2, "Test User Two")] == job.at_target("SELECT id, name FROM people_live")
    job.at_target("ALTER TABLE people ADD COLUMN town text")
    assert 0 == job.sync().exit_status
    assert [(2, None)] == job.at_target("SELECT id, town FROM people_live")


@pytest.mark.parametrize("transform", [None, "SELECT id, name FROM records"])
def test_rows_that_come_first_bring_it_too(job: SimpleJob, transform: str | None) -> None:
    """
    A table that is filled without a stage is no exception, nor one whose first attempt fails on a key that comes twice.
    """
    job.write(transform=transform, load=LOAD)
    job.people("One")
    assert 0 == job.sync().exit_status
    assert [(1,)] == job.at_target("SELECT id FROM people_live")
    job.at_target("DROP TABLE people CASCADE")
    job.at_source(
        "ALTER TABLE people_at_source DROP CONSTRAINT people_at_source_pkey; INSERT INTO people_at_source VALUES (1, 'Test User Two')"
    )
    job.sync()
    assert [(1,)] == job.at_target("SELECT id FROM people_live")
