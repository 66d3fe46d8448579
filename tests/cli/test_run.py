"""`usersync run`, as a process: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import socket
from typing import Any

import psycopg
import pytest

from tests.conftest import Command, NewDatabase
from tests.simple_job import Job

COUNTS = ("read", "duplicates", "inserted", "updated", "unchanged", "stale", "rejected", "gone")


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Job:
    return Job(usersync, new_database("source crm"), new_database())


def step_of(stdout: str) -> dict[str, Any]:
    (step,) = json.loads(stdout)["steps"]
    return dict(step)


# what is printed


def test_one_line_in_peoples_words(job: Job) -> None:
    """
    A run prints one line a step on stdout: how many, and what became of them; the second says that nothing changed.
    """
    job.people("One", "Two")
    job.document["jobs"]["copy"]["noun"] = "members"
    job.save()
    first, second = job.run(), job.run()
    job.people("One", "2", "Three")
    third = job.run()

    lines = [result.stdout.rpartition(" (")[0] for result in (first, second, third)]
    assert [
        "copy: 2 members: 2 new, 0 changed, 0 the same, 0 gone",
        "copy: 2 members: 0 new, 0 changed, 2 the same, 0 gone: nothing changed",
        "copy: 3 members: 1 new, 1 changed, 1 the same, 0 gone",
    ] == lines
    assert all(result.stdout.endswith(" s)\n") and result.stdout.count("\n") == 1 for result in (first, second, third))


def test_json_is_one_document(job: Job) -> None:
    """
    With --output json stdout is one document, versioned, whose counts add up; logs go to stderr, one JSON event a line.
    """
    job.people("One", "Two")
    result = job.run("--output", "json", "--log-format", "json")
    document = json.loads(result.stdout)
    step = step_of(result.stdout)
    events = [json.loads(line) for line in result.stderr.splitlines()]

    assert 1 == result.stdout.count("\n")
    assert (1, "run", "copy", False, 0) == tuple(document[name] for name in ("version", "kind", "job", "dry_run", "exit_status"))
    assert [(document["run"],)] == job.at_target("SELECT id FROM usersync.runs")
    assert [2, 0, 2, 0, 0, 0, 0, 0] == [step[name] for name in COUNTS]
    assert ("people", None, []) == (step["step"], step["error"], step["duplicate_keys"])
    assert step["bytes"] > 0
    assert [("step done", "copy", "people", 2)] == [(e["event"], e["job"], e["step"], e["inserted"]) for e in events]
    assert all(event["timestamp"].endswith("Z") for event in events)


def test_json_of_a_run_that_fails(job: Job) -> None:
    """
    A step's error is part of the document, and the exit status too; stderr has it as one event in JSON.
    """
    job.write(extract={"table": "nowhere"})
    result = job.run("--output", "json", "--log-format", "json")
    document = json.loads(result.stdout)
    (event,) = [json.loads(line) for line in result.stderr.splitlines()]

    assert (7, 7, 7) == (result.status, document["exit_status"], event["status"])
    assert 'relation "nowhere" does not exist' in step_of(result.stdout)["error"]["message"]
    assert (event["error"].removeprefix("copy: step people: "), event["hint"]) == tuple(step_of(result.stdout)["error"].values())


def test_quiet_prints_nothing_when_all_is_well(job: Job) -> None:
    """
    With -q a run that went well says nothing at all, on stdout and stderr, whether rows changed or not. A source that shrank to
    less than half is not well: tests/sources/test_postgres.py.
    """
    job.people("One", "Two", "Three")
    silent = [job.run("-q")]
    job.people("Another One", "Two")
    silent += [job.run("-q"), job.run("-q", "--dry-run")]

    assert [(0, "", "")] * 3 == [(result.status, result.stdout, result.stderr) for result in silent]


def test_quiet_prints_what_failed(job: Job) -> None:
    """
    With -q a run that failed says so, and what to do, in plain text: it is what cron mails.
    """
    job.people("One")
    job.run("-q")
    job.people()
    result = job.run("-q")

    assert 7 == result.status
    assert "copy: failed, nothing of this step was written" in result.stdout
    said = "usersync: copy: step people: extract records is empty; the last run read 1 rows; nothing was written"
    assert said == result.stderr.splitlines()[0]
    assert "--allow-empty" in result.stderr


def test_verbose_is_more_and_still_nobodys_data(job: Job) -> None:
    """
    -v adds events; what every output is searched for is not in them.
    """
    job.people("One")

    assert 0 == job.run("-vv", "--log-format", "console").status


def test_stdout_that_nobody_reads(job: Job) -> None:
    """
    A reader that has gone (`usersync run | head -0`) is no traceback, and the run is done and in the ledger.
    """
    job.people("One")
    with job.started() as process:
        assert process.stdout
        process.stdout.close()
        process.wait(30)
        said = process.stderr.read() if process.stderr else ""

    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert [("ok", 0)] == job.runs()


# what is refused before anything is done


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--job", "cpy"], ['there is no job "cpy"', 'did you mean "copy"?']),
        (["--job", "nope"], ['there is no job "nope"']),
        (["--job", "copy", "--step", "peple"], ["job copy has no step peple", "its steps: people"]),
        (["--job", "copy", "--stream", "users"], ["job copy has no streams", "--step"]),
        (["--job", "copy", "--max-runtime", "soon"], ["--max-runtime", "must be a time such as 60s, 50m, 2h or 7d"]),
        (["--job", "copy", "--output", "xml"], ["--output", "text"]),
        (["--job", "copy", "--config", "nowhere.yaml"], ["nowhere.yaml does not exist", "--config"]),
        ([], ["--job"]),
    ],
)
def test_a_command_that_does_not_make_sense(job: Job, arguments: list[str], words: list[str]) -> None:
    """
    A name that does not exist, an option that does not fit: exit 2 with what there is, and no run begins.
    """
    result = job.usersync("run", *arguments)

    assert (2, "") == (result.status, result.stdout), result
    for word in words:
        assert word in result.stderr
    assert [] == job.runs()


def test_the_help_begins_with_examples(usersync: Command) -> None:
    """
    -h shows what to type and every exit status, and needs no config.
    """
    result = usersync("run", "-h")

    assert 0 == result.status
    assert "usersync run --job auroville" in result.stdout.partition("Options:")[0]
    for status in (
        "0 ok",
        "2 usage or config",
        "4 temporary",
        "7 drift",
        "75 another run holds the job",
        "76 fenced",
        "129/130/143 stopped",
    ):
        assert status in " ".join(result.stdout.split())


# steps


def _two_steps(job: Job) -> None:
    """people from people_at_source, and others from a table that is missing; others first."""
    (step,) = job.document["jobs"]["copy"]["steps"]
    load = {"table": "others", "key": ["id"], "create": True}
    other = {"name": "others", "extract": {"source": "crm", "table": "others_at_source"}, "load": load}
    job.document["jobs"]["copy"]["steps"] = [other, step]
    job.save()


def test_a_step_that_fails_does_not_stop_the_next(job: Job) -> None:
    """
    The others go on, each prints its line, and the exit status is the worst one; the ledger has both.
    """
    job.people("One")
    _two_steps(job)
    result = job.run()
    steps = job.at_target("SELECT step, status, inserted FROM usersync.run_steps ORDER BY step")

    assert 7 == result.status
    assert ["copy: others: failed, nothing of this step was written", "copy: people: 1 records: 1 new, 0 changed, 0 the same, 0 gone"] == [
        line.rpartition(" (")[0] for line in result.stdout.splitlines()
    ]
    assert [("others", "failed", 0), ("people", "ok", 1)] == steps
    assert [(1, "One")] == job.loaded()


def test_only_one_step(job: Job) -> None:
    """
    --step leaves the others alone.
    """
    job.people("One")
    _two_steps(job)
    result = job.run("--step", "people")

    assert (0, [(1, "One")]) == (result.status, job.loaded())
    assert [("people",)] == job.at_target("SELECT step FROM usersync.run_steps")


# --dry-run


def test_a_dry_run_writes_nothing(usersync: Command, new_database: NewDatabase) -> None:
    """
    On a target that has nothing yet: its numbers are those of the run that follows; no table, no schema, no lease.
    """
    job = Job(usersync, new_database("source crm"), new_database(), migrated=False)
    job.people("One", "Two")
    dry = job.run("--dry-run", "--output", "json")
    left = job.at_target("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") + job.at_target(
        "SELECT nspname FROM pg_namespace WHERE nspname = 'usersync'"
    )
    real = job.run("--output", "json")

    assert (0, []) == (dry.status, left), dry
    assert (True, None) == (json.loads(dry.stdout)["dry_run"], json.loads(dry.stdout)["run"])
    assert [step_of(real.stdout)[name] for name in COUNTS] == [step_of(dry.stdout)[name] for name in COUNTS]


def test_a_dry_run_of_changes(job: Job) -> None:
    """
    New, changed, unchanged and duplicate records are counted as the run that follows counts them; not a row, cursor or ledger entry moves.
    """
    job.people("One", "Two", "Three")
    assert 0 == job.run().status
    job.at_source("ALTER TABLE people_at_source DROP CONSTRAINT people_at_source_pkey")
    job.at_source("UPDATE people_at_source SET name = 'Test User 2' WHERE id = 2")
    job.at_source("INSERT INTO people_at_source VALUES (4, 'Test User Four'), (4, 'Test User Vier')")
    everything = (
        "SELECT (SELECT array_agg(p::text || xmin ORDER BY id) FROM people p), (SELECT array_agg(c::text) FROM usersync.cursors c),"
        " (SELECT array_agg(l::text) FROM usersync.job_locks l), (SELECT count(*) FROM usersync.runs)"
    )
    before = job.at_target(everything)
    dry = job.run("--dry-run", "--output", "json")
    said = job.run("--dry-run")
    after = job.at_target(everything)
    real = job.run("--output", "json")

    assert before == after
    assert [5, 1, 1, 1, 2, 0, 0, 0] == [step_of(dry.stdout)[name] for name in COUNTS]
    assert [step_of(real.stdout)[name] for name in COUNTS] == [step_of(dry.stdout)[name] for name in COUNTS]
    assert "1 new, 1 changed, 2 the same, 0 gone, 1 duplicate passed over: dry run, nothing was written" in said.stdout


def test_a_dry_run_needs_no_lease(job: Job) -> None:
    """
    It works while another run holds the job, which makes a real run exit 75.
    """
    job.people("One")
    with psycopg.connect(job.target.url, autocommit=True) as other:
        other.execute("INSERT INTO usersync.job_locks VALUES ('copy', 'somebody', 1, clock_timestamp() + interval '1 min')")
        dry, real = job.run("--dry-run"), job.run()

    assert (0, 75) == (dry.status, real.status)
    assert "copy: another run holds the job" in real.stderr


def test_a_dry_run_tells_what_would_fail(job: Job) -> None:
    """
    Its exit status is that of the run: drift is 7 in both.
    """
    job.people("One")
    job.at_target("CREATE TABLE people (id int PRIMARY KEY)")
    dry, real = job.run("--dry-run"), job.run()

    assert (7, 7) == (dry.status, real.status)
    assert 'ALTER TABLE "people" ADD COLUMN "name" text;' in dry.stderr
    assert dry.stderr == real.stderr


# what a person in the data must not meet


# A table that refuses people, or a transform that fails on them: how, whether the table has rows already, and how it ends.
BREAKING: list[tuple[dict[str, Any], bool, int]] = [
    *(
        ({"transform": "SELECT id, name FROM records", "load": {"table": table}}, rows, status)
        for table, status in (("unique_people", 3), ("short_people", 3), ("checked_people", 3), ("loud_people", 7))
        for rows in (False, True)
    ),
    ({"transform": "SELECT id, name::int AS name FROM records"}, False, 3),
    ({"transform": "SELECT id, name FROM records WHERE 1 / (id - 1) > 0"}, True, 3),
    ({"transform": "SELECT NULL::int AS id, name FROM records"}, True, 3),
    ({"transform": "SELECT id, name, nobody FROM records"}, True, 7),
    ({"extract": {"query": "SELECT id, name::date AS name FROM people_at_source"}}, True, 7),
    ({"extract": {"query": "SELECT id, loud(name) AS name FROM people_at_source"}}, False, 7),
]


@pytest.mark.parametrize(("how", "rows", "status"), BREAKING)
def test_no_value_of_a_row_in_any_message(job: Job, how: dict[str, Any], status: int, *, rows: bool) -> None:
    """
    Casts, constraints and triggers that fail quote the value; the message that we print does not, nor do the ledger and what is
    said of a record that was set aside. A step that failed has written nothing.
    """
    job.people("One", "One")
    loud = "LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no room for %', {} USING DETAIL = {}; END$$"
    job.at_source(f"CREATE FUNCTION loud(value text) RETURNS text {loud.format('value', 'value')}")
    job.at_target(
        "CREATE TABLE unique_people (id int PRIMARY KEY, name text UNIQUE);"
        "CREATE TABLE short_people (id int PRIMARY KEY, name varchar(3));"
        "CREATE TABLE checked_people (id int PRIMARY KEY, name text CHECK (name NOT LIKE 'Test%'));"
        "CREATE TABLE people (id int PRIMARY KEY, name text); CREATE TABLE loud_people (id int PRIMARY KEY, name text);"
        f"CREATE FUNCTION loud() RETURNS trigger {loud.format('NEW.name', 'NEW.name')};"
        "CREATE TRIGGER loud BEFORE INSERT ON loud_people FOR EACH ROW EXECUTE FUNCTION loud()"
    )
    tables = ["unique_people", "short_people", "checked_people", "people"]
    if rows:
        for table in tables:
            job.at_target(f"INSERT INTO {table} VALUES (99, 'x')")
    job.write(**how)
    result = job.run("-vv")

    assert status == result.status, result
    assert result.stderr
    assert [] == job.at_target("SELECT FROM usersync.runs r, usersync.run_steps s WHERE r::text || s::text LIKE '%Test User%'")
    assert [] == job.at_target("SELECT FROM usersync.rejects WHERE concat(key, reason, detail, version) LIKE '%Test User%'")
    assert (status == 3) == bool(job.at_target("SELECT FROM usersync.rejects"))
    if status == 7:
        for table in [*tables, "loud_people"]:
            assert [] == job.at_target(f"SELECT FROM {table} WHERE id <> 99")


def test_nothing_is_contacted_by_a_config_that_is_wrong(job: Job) -> None:
    """
    A mistake in the file: exit 2 with its line, before any connection is made; no value of the file is quoted.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"postgresql://postgres@127.0.0.1:{listener.getsockname()[1]}/x"
        job.write(target=url, source=url, load={"tabel": "people"})
        result = job.run()
        listener.setblocking(False)  # noqa: FBT003  the standard library's own
        with pytest.raises(BlockingIOError):
            listener.accept()

    assert 2 == result.status
    assert "config.yaml:1:" in result.stderr
    assert 'did you mean "table"?' in result.stderr
