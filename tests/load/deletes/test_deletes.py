"""Who left the source goes from the target, and nobody else: `on_missing`, the guard, and approvals."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests import servers
from tests.conftest import Command, NewDatabase
from tests.simple_job import PERSON, Job, execute
from usersync_cli.clients.postgres.connections import connect
from usersync_cli.config.jobs import Load
from usersync_cli.errors import Conflict, Drift, NotFound, UsersyncError
from usersync_cli.load.deletes import guard
from usersync_cli.load.deletes.guard import Sweep
from usersync_cli.state import ledger
from usersync_cli.state.readings import Memory, Scope

FILL = f"INSERT INTO people_at_source SELECT i, '{PERSON} ' || i FROM generate_series(%s, %s) i"


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Job:
    """100 test users, copied with `on_missing: delete`."""
    job = Job(usersync, new_database("source crm"), new_database())
    fill(job, 1, 100)
    return job


def fill(job: Job, first: int, last: int) -> None:
    job.at_source(FILL % (first, last))


def ids(job: Job, where: str = "true") -> list[int]:
    return [row[0] for row in job.at_target(f"SELECT id FROM people WHERE {where} ORDER BY id")]


def first_run(job: Job, **load: Any) -> None:
    job.write(load={"on_missing": "delete", **load})
    assert 0 == job.sync().exit_status


# what goes


@pytest.mark.parametrize("how", ["delete", "mark", "keep"])
def test_who_left_the_source_goes(job: Job, how: str) -> None:
    """
    Rows that the source had and has no more are deleted, marked or kept; rows of another origin are never touched.
    """
    first_run(job, on_missing=how)
    job.at_target(f"INSERT INTO people (id, name) VALUES (1000, '{PERSON} by hand')")
    job.at_source("DELETE FROM people_at_source WHERE id IN (3, 50)")
    fill(job, 101, 101)

    done = job.run()

    assert done.status == 0, done
    every = [*range(1, 102), 1000]
    assert ([i for i in every if i not in {3, 50}] if how == "delete" else every) == ids(job)
    if how == "mark":
        assert [3, 50] == ids(job, "deleted_at IS NOT NULL")
    assert ("0 gone" if how == "keep" else "2 gone") in done.stdout
    again = job.sync()
    assert (0, 0, 0) == (again.steps[0].counts.inserted, again.steps[0].counts.updated, again.steps[0].counts.gone)


def test_who_comes_back_is_there_again(job: Job) -> None:
    """
    deleted_at is taken away when the record is at the source again, though nothing else of it changed.
    """
    first_run(job, on_missing="mark")
    job.at_source("DELETE FROM people_at_source WHERE id = 7")
    job.sync()
    assert [7] == ids(job, "deleted_at IS NOT NULL")
    fill(job, 7, 7)

    back = job.sync()

    assert [] == ids(job, "deleted_at IS NOT NULL")
    assert 1 == back.steps[0].counts.updated


def test_rows_that_were_there_before_us(job: Job) -> None:
    """
    A table that is taken over: its other rows stay. With adopt_existing they go, once, behind the guard.
    """
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people SELECT i, '' FROM generate_series(96, 105) i")
    first_run(job)
    assert list(range(1, 106)) == ids(job)

    first_run(job, adopt_existing=True)

    assert list(range(1, 101)) == ids(job)
    job.at_target("INSERT INTO people VALUES (200, '')")
    assert 0 == job.sync().exit_status
    assert [*range(1, 101), 200] == ids(job), "adopted once"


def test_a_big_table_is_not_adopted_without_a_person(job: Job) -> None:
    """
    Of the rows of a table that is taken over, no more go than the guard lets.
    """
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people SELECT i, '' FROM generate_series(1, 150) i")
    job.write(load={"on_missing": "delete", "adopt_existing": True})

    assert 6 == job.sync().exit_status
    assert list(range(1, 151)) == ids(job)
    assert 0 == job.sync(approve_deletes=1).exit_status
    assert list(range(1, 101)) == ids(job)


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("uuid", "md5(i::text)::uuid"),
        ("text", "'a''\"\\ ' || i"),
        ("timestamptz", "'2024-01-01'::timestamptz + i * interval '1 s'"),
        ("numeric", "i + 0.10"),
        ("char(8)", "'k' || i"),
    ],
)
def test_keys_of_any_type(job: Job, type_: str, values: str) -> None:
    """
    What is written down of a key finds the row again.
    """
    job.at_source(f"DROP TABLE people_at_source; CREATE TABLE people_at_source (k {type_}, part int)")
    job.at_source(f"INSERT INTO people_at_source SELECT {values}, i FROM generate_series(1, 100) i")
    for key in (["k"], ["k", "part"]):
        job.at_target("DROP TABLE IF EXISTS people; TRUNCATE usersync.cursors, usersync.seen_streams CASCADE")
        first_run(job, key=key)
        job.at_source("DELETE FROM people_at_source WHERE part = 1")

        done = job.sync()

        assert (0, 1) == (done.exit_status, done.steps[0].counts.gone), done
        assert [(0,)] == job.at_target("SELECT count(*) FROM people WHERE part = 1")
        job.at_source(f"INSERT INTO people_at_source SELECT {values}, i FROM generate_series(1, 1) i")


def test_seen_never_hides_drift(job: Job) -> None:
    """
    Rows deleted, changed and added by hand in the target: the next run puts right what the source has, and leaves the rest.
    """
    first_run(job)
    job.at_target(f"DELETE FROM people WHERE id < 4; UPDATE people SET name = '' WHERE id = 9; INSERT INTO people VALUES (300, '{PERSON}')")
    job.at_source("DELETE FROM people_at_source WHERE id IN (1, 80)")

    done = job.sync(full=True).steps[0].counts

    assert (2, 1, 1) == (done.inserted, done.updated, done.gone)
    assert [*range(2, 80), *range(81, 101), 300] == ids(job)
    assert [] == ids(job, f"name NOT LIKE '{PERSON}%'")
    assert [(98,)] == job.at_target("SELECT keys FROM usersync.seen_streams")


def test_a_changed_step_rewrites_what_it_must(job: Job) -> None:
    """
    Another transform: every row is compared with the table itself; rows that it leaves out now go when a person has agreed.
    """
    first_run(job)
    job.write(transform="SELECT id, name || ' the same' AS name FROM records WHERE id > 4", load={"on_missing": "delete"})

    edited = job.sync()

    assert (6, 96, 0) == (edited.exit_status, edited.steps[0].counts.updated, edited.steps[0].counts.gone)
    approved = job.sync(approve_deletes=edited.run_id)
    assert (0, 96, 4) == (approved.exit_status, approved.steps[0].counts.unchanged, approved.steps[0].counts.gone)


# twelve broken sources, and some more


def emptied(job: Job) -> None:
    job.at_source("TRUNCATE people_at_source")


def halved(job: Job) -> None:
    job.at_source("DELETE FROM people_at_source WHERE id % 2 = 1")


def restored_from_long_ago(job: Job) -> None:
    job.at_source("DELETE FROM people_at_source WHERE id > 20")


def table_renamed(job: Job) -> None:
    job.at_source("ALTER TABLE people_at_source RENAME TO users; CREATE TABLE people_at_source_2 (id int)")


def column_renamed(job: Job) -> None:
    job.at_source("ALTER TABLE people_at_source RENAME COLUMN id TO user_id")


def numbered_anew(job: Job) -> None:
    job.at_source("UPDATE people_at_source SET id = id + 1000")


def another_type(job: Job) -> None:
    job.at_source("ALTER TABLE people_at_source ALTER COLUMN id TYPE text USING 'user-' || id")


def limited(job: Job) -> None:
    job.at_source("ALTER TABLE people_at_source RENAME TO users; CREATE VIEW people_at_source AS SELECT * FROM users ORDER BY id LIMIT 40")


def join_lost(job: Job) -> None:
    job.at_source(
        "ALTER TABLE people_at_source RENAME TO users; CREATE TABLE communities (id int);"
        " INSERT INTO communities SELECT generate_series(1, 70);"
        " CREATE VIEW people_at_source AS SELECT users.* FROM users JOIN communities USING (id)"
    )


def error_in_the_last_row(job: Job) -> None:
    job.at_source(
        "ALTER TABLE people_at_source RENAME TO users;"
        " CREATE VIEW people_at_source AS SELECT id / (100 - id) * 0 + id AS id, name FROM users ORDER BY users.id"
    )


def filtered_by_policy(job: Job) -> None:
    job.at_source(
        "ALTER TABLE people_at_source ENABLE ROW LEVEL SECURITY; ALTER TABLE people_at_source FORCE ROW LEVEL SECURITY;"
        " CREATE POLICY a_few ON people_at_source USING (id < 50); GRANT SELECT ON people_at_source TO PUBLIC;"
        " DO $$BEGIN CREATE ROLE clerk_of_deletes LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END$$"
    )
    _source_url(job, job.source.url.replace("postgres@", "clerk_of_deletes@"))


def right_revoked(job: Job) -> None:
    filtered_by_policy(job)
    job.at_source("ALTER TABLE people_at_source DISABLE ROW LEVEL SECURITY; REVOKE SELECT ON people_at_source FROM PUBLIC")


def server_away(job: Job) -> None:
    _source_url(job, "postgresql://postgres@127.0.0.1:1/none?connect_timeout=1")


def transform_that_finds_nobody(job: Job) -> None:
    job.document["jobs"]["copy"]["steps"][0]["transform"] = "SELECT * FROM records WHERE name LIKE 'Member %'"
    job.save()


def _source_url(job: Job, url: str) -> None:
    job.document["sources"]["crm"]["url"] = url
    job.save()


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        (emptied, 7),
        (halved, 6),
        (restored_from_long_ago, 6),
        (table_renamed, 7),
        (column_renamed, 7),
        (numbered_anew, 6),
        (another_type, 7),
        (limited, 6),
        (join_lost, 6),
        (error_in_the_last_row, 7),
        (filtered_by_policy, 2),
        (right_revoked, 2),
        (server_away, 4),
        (transform_that_finds_nobody, 6),
    ],
)
@pytest.mark.parametrize("how", ["delete", "mark"])
def test_a_broken_source_removes_nobody(job: Job, broken: Callable[[Job], None], status: int, how: str) -> None:
    """
    Whatever happens to the source, it ends without one deletion, and says so with its exit status; twice too.
    """
    first_run(job, on_missing=how)
    before = job.at_target("SELECT * FROM people ORDER BY id")
    broken(job)

    for _ in range(2):
        assert status == job.sync().exit_status
        assert before == job.at_target("SELECT * FROM people WHERE id <= 100 ORDER BY id")
        assert [(0,)] == job.at_target("SELECT count(*) FROM usersync.run_steps WHERE gone > 0")


def test_another_database_removes_nobody(job: Job, new_database: NewDatabase) -> None:
    """
    The URL of another database with other people: nothing is written; accepted and loaded, it still trips the guard.
    """
    first_run(job)
    other = new_database()
    execute(other.url, f"CREATE TABLE people_at_source (id int PRIMARY KEY, name text); {FILL % (501, 600)}")
    _source_url(job, other.url)

    assert 7 == job.sync().exit_status
    assert list(range(1, 101)) == ids(job)
    assert 6 == job.sync(accept_account=True).exit_status
    assert [*range(1, 101), *range(501, 601)] == ids(job)


def test_a_source_that_breaks_off_removes_nobody(usersync: Command, new_database: NewDatabase, proxy: servers.Proxy) -> None:
    """
    A connection that ends in the middle of the rows is an error, not the end of the rows.
    """
    job = Job(usersync, new_database("source crm"), new_database())
    fill(job, 1, 3000)
    job.write(extract={"query": "SELECT id, name || repeat(' ', 1000) AS name FROM people_at_source"}, load={"on_missing": "delete"})
    assert 0 == job.sync().exit_status
    _source_url(job, proxy.url(job.source.url.partition("@/")[2].partition("?")[0]))
    proxy.left = 1_000_000

    assert 4 == job.sync().exit_status
    assert list(range(1, 3001)) == ids(job)


# the guard


@pytest.mark.parametrize(
    ("known", "previous", "records", "missing", "goes"),
    [
        (100, 100, 90, 10, True),  # ten always may
        (100, 100, 89, 11, False),
        (1000, 1000, 950, 50, True),
        (1000, 1000, 949, 51, False),
        (15, 15, 8, 7, True),  # but never more than half
        (15, 15, 7, 8, False),
        (2, 2, 1, 1, True),
        (1, 1, 0, 1, False),
        (100, 300, 149, 1, False),  # the reading itself shrank to less than half
        (100, 300, 150, 1, True),
        (100, None, 99, 1, True),  # the first sweep has none to be compared with
    ],
)
def test_the_guard(known: int, previous: int | None, records: int, missing: int, goes: object) -> None:
    """
    At most 5 % of those seen before, always at least 10 rows, never more than half; and half of the last reading.
    """
    scope = Scope("copy", "people", 1, "people (id)", "", "test")
    load = Load(table="people", key=["id"], on_missing="delete")
    found = Sweep(scope, load, Memory(1, known, previous=previous), records, candidates=missing)

    assert goes is not bool(guard.judge(found, known))


def test_a_big_loss_waits_for_a_person(job: Job) -> None:
    """
    40 % gone: nothing is removed, what came is written, exit 6. The approved list goes, once, and nobody else, although
    the source changed again in between.
    """
    first_run(job)
    job.at_source("DELETE FROM people_at_source WHERE id <= 40")
    fill(job, 101, 102)
    refused = job.run()
    assert refused.status == 6, refused
    assert list(range(1, 103)) == ids(job)
    assert "usersync run --job copy --approve-deletes 2" in refused.stderr
    assert "2 new, 0 changed, 60 the same, 0 gone, who is missing was kept" in refused.stdout

    assert 6 == job.sync().exit_status
    shown = job.usersync("approvals", "show", "2")
    assert sorted(map(str, range(1, 41))) == shown.stdout.split()
    status = job.usersync("status").stdout
    assert "40 rows of step people wait since" in status
    assert "40 of 100 rows would go" in status
    assert "run 2: copy: step people: 40 rows since" in job.usersync("approvals", "list").stdout
    fill(job, 1, 5)  # five came back
    job.at_source("DELETE FROM people_at_source WHERE id IN (90, 91)")  # two more left
    job.at_target("DELETE FROM people WHERE id = 40")  # somebody was quicker

    approved = job.run("--approve-deletes", "2")

    assert approved.status == 0, approved
    assert [1, 2, 3, 4, 5, *range(41, 103)] == ids(job)
    twice = job.run("--approve-deletes", "2")
    assert twice.status == 10, twice
    assert "used by run 4" in twice.stderr
    assert job.sync().exit_status == 0
    assert [1, 2, 3, 4, 5, *(i for i in range(41, 103) if i not in {90, 91})] == ids(job)
    assert "nothing waits" in job.usersync("approvals", "list").stdout
    assert [] == json.loads(job.usersync("status", "--output", "json").stdout)["jobs"][0]["approvals"]


def test_an_approval_that_can_not_be(job: Job) -> None:
    """
    An unknown run, a run of another job, a list that was withdrawn: said before anything is read, and nothing changed.
    """
    first_run(job)
    job.document["jobs"]["other"] = {"steps": [{**job.document["jobs"]["copy"]["steps"][0], "load": {"table": "others", "key": ["id"]}}]}
    job.save()
    job.at_source("DELETE FROM people_at_source WHERE id <= 40")
    assert 6 == job.sync().exit_status

    with pytest.raises(NotFound, match="run 99 has no list"):
        job.sync(approve_deletes=99)
    with pytest.raises(NotFound, match="run 1 has no list"):
        job.sync(approve_deletes=1)
    assert 9 == job.usersync("run", "--job", "other", "--approve-deletes", "2").status
    assert 9 == job.usersync("approvals", "show", "1").status
    fill(job, 1, 40)
    assert 0 == job.sync().exit_status
    with pytest.raises(Conflict, match="withdrawn"):
        job.sync(approve_deletes=2)
    assert list(range(1, 101)) == ids(job)


def test_a_list_is_for_one_table(job: Job) -> None:
    """
    A list made for one table can't be spent on another that the step loads by now.
    """
    first_run(job)
    job.at_source("DELETE FROM people_at_source WHERE id <= 40")
    assert 6 == job.sync().exit_status
    job.at_target(
        f"CREATE TABLE clients (id int PRIMARY KEY, name text); INSERT INTO clients SELECT i, '{PERSON}' FROM generate_series(1, 9) i"
    )
    job.document["jobs"]["copy"]["steps"][0]["load"]["table"] = "clients"
    job.document["jobs"]["copy"]["steps"][0]["name"] = "people"
    job.save()

    done = job.sync(approve_deletes=2)

    assert isinstance(done.steps[0].error, Drift)
    assert [(9,)] == job.at_target("SELECT count(*) FROM clients")


def test_lists_do_not_pile_up(job: Job) -> None:
    """
    A source that loses more each night: three lists wait, the older are withdrawn and their keys forgotten.
    """
    first_run(job)
    for number in range(30, 36):
        job.at_source(f"DELETE FROM people_at_source WHERE id <= {number}")
        assert 6 == job.sync().exit_status

    found = job.at_target("SELECT run_id, status, (SELECT count(*) FROM usersync.approval_keys k WHERE k.approval_id = a.id) FROM"
                          " usersync.approvals a ORDER BY run_id")  # fmt: skip
    assert [
        (2, "withdrawn", 0),
        (3, "withdrawn", 0),
        (4, "withdrawn", 0),
        (5, "waiting", 33),
        (6, "waiting", 34),
        (7, "waiting", 35),
    ] == found


def test_an_emptied_source_can_be_meant(job: Job) -> None:
    """
    Everybody left, and it is meant: one person accepts the empty source, and then the list.
    """
    first_run(job)
    emptied(job)
    assert 7 == job.sync().exit_status
    refused = job.sync(allow_empty=True)
    assert refused.exit_status == 6
    assert isinstance(error := refused.steps[0].error, UsersyncError)
    assert "--approve-deletes 3 --allow-empty" in error.hint

    assert 0 == job.sync(approve_deletes=3, allow_empty=True).exit_status
    assert [] == ids(job)


def test_a_dry_run_tells_it_and_keeps_it(job: Job) -> None:
    """
    What would go is counted, and stays; a guard that would trip says so; nothing of it is written down.
    """
    first_run(job)
    job.at_source("DELETE FROM people_at_source WHERE id <= 5")
    told = job.sync(dry_run=True)
    assert (0, 5) == (told.exit_status, told.steps[0].counts.gone)
    job.at_source("DELETE FROM people_at_source WHERE id <= 50")

    told = job.sync(dry_run=True)

    assert (6, 0) == (told.exit_status, told.steps[0].counts.gone)
    assert list(range(1, 101)) == ids(job)
    assert [(1, 0)] == job.at_target("SELECT (SELECT count(*) FROM usersync.sweeps), (SELECT count(*) FROM usersync.approvals)")


# what the table itself says to it


def test_rows_that_others_refer_to(job: Job) -> None:
    """
    A foreign key keeps a row: the step fails whole and names the constraint; with CASCADE the others go with it.
    """
    first_run(job)
    job.at_target("CREATE TABLE orders (id int, person int CONSTRAINT of_a_person REFERENCES people); INSERT INTO orders VALUES (1, 3)")
    job.at_source("DELETE FROM people_at_source WHERE id = 3")
    fill(job, 101, 101)

    done = job.sync()

    assert 7 == done.exit_status
    assert "of_a_person" in str(done.steps[0].error)
    assert list(range(1, 101)) == ids(job)
    job.at_target(
        "ALTER TABLE orders DROP CONSTRAINT of_a_person; ALTER TABLE orders ADD FOREIGN KEY (person) REFERENCES people ON DELETE CASCADE"
    )
    assert 0 == job.sync().exit_status
    assert [(0,)] == job.at_target("SELECT count(*) FROM orders")


def test_a_cascade_that_takes_others_with_it(job: Job) -> None:
    """
    Removing one must not take another whom the source has: exit 8, nothing committed.
    """
    job.at_source("ALTER TABLE people_at_source ADD parent int")
    job.at_source("UPDATE people_at_source SET parent = 3 WHERE id = 4")
    first_run(job)
    job.at_target("ALTER TABLE people ADD FOREIGN KEY (parent) REFERENCES people ON DELETE CASCADE")
    job.at_source("DELETE FROM people_at_source WHERE id = 3")

    done = job.sync()

    assert 8 == done.exit_status
    assert "took 1 others" in str(done.steps[0].error)
    assert list(range(1, 101)) == ids(job)


def test_a_trigger_that_keeps_rows(job: Job) -> None:
    """
    A row that does not go although it was deleted is not counted as gone: exit 8.
    """
    first_run(job)
    job.at_target(
        "CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER stay BEFORE DELETE ON people FOR EACH ROW EXECUTE FUNCTION stay()"
    )
    job.at_source("DELETE FROM people_at_source WHERE id = 3")

    assert 8 == job.sync().exit_status
    assert list(range(1, 101)) == ids(job)


def test_a_unique_value_of_one_who_left(job: Job) -> None:
    """
    Somebody new has the name of somebody who left: removed and written in one transaction, whichever has to be first.
    """
    first_run(job)
    job.at_target("CREATE UNIQUE INDEX ON people (name)")
    job.at_source(f"DELETE FROM people_at_source WHERE id = 3; INSERT INTO people_at_source VALUES (103, '{PERSON} 3')")

    done = job.sync()

    assert (0, 1, 1) == (done.exit_status, done.steps[0].counts.inserted, done.steps[0].counts.gone)


@pytest.mark.parametrize(
    ("table", "load", "told"),
    [
        ("id int PRIMARY KEY, name text", {"on_missing": "mark"}, "ADD COLUMN deleted_at timestamp with time zone"),
        ("id int PRIMARY KEY, name text, deleted_at boolean", {"on_missing": "mark"}, "deleted_at is boolean"),
        ("id int PRIMARY KEY, name text, deleted_at timestamptz NOT NULL DEFAULT now()", {"on_missing": "mark"}, "DROP NOT NULL"),
    ],
)
def test_a_table_that_can_not_be_marked(job: Job, table: str, load: dict[str, Any], told: str) -> None:
    """
    What the table lacks is said with the statement that helps, before anything is read.
    """
    job.at_target(f"CREATE TABLE people ({table})")
    job.write(load=load)

    error = job.sync().steps[0].error

    assert isinstance(error, Drift)
    assert told in f"{error.message} {error.hint}"


def test_waiting_runs_are_not_forgotten(job: Job) -> None:
    """
    The ledger keeps a run as long as its list waits, however long ago it was.
    """
    first_run(job)
    job.at_source("DELETE FROM people_at_source WHERE id <= 40")
    job.sync()
    with connect(job.target, job="copy") as connection:
        for _ in range(3):
            job.sync()
        ledger.prune(connection, "copy", keep=1)

    assert [(2,), (5,)] == job.at_target("SELECT id FROM usersync.runs ORDER BY id")
