"""`usersync check`, as a process: what will not work is told before it is needed, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests import servers
from tests.conftest import Command, NewDatabase, Result
from tests.list_source import ListSource, Sync, people
from tests.simple_job import Job, clean
from usersync_cli.errors import Unavailable
from usersync_cli.report.check import Finding
from usersync_cli.report.check import check as look


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Job:
    return Job(usersync, new_database("source crm"), new_database(), migrated=False)


def check(job: Job, *arguments: str, **variables: str) -> Result:
    return clean(job.usersync("check", *arguments, **variables))


def test_all_is_well(job: Job) -> None:
    """
    One line for the server, usersync's tables, each extract and each target table; exit 0, and nothing was made.
    """
    job.people("One")
    result = check(job, "--job", "copy")
    lines = [line.partition("copy: ")[2] for line in result.stdout.splitlines()]

    assert (0, "") == (result.status, result.stderr), result
    assert all(line.startswith("ok ") for line in result.stdout.splitlines())
    assert lines[0].startswith("target: PostgreSQL 18.")
    assert "step people: extract records from source crm: 2 columns" in lines
    assert any("people" in line and "will be created with 2 columns" in line for line in lines), lines
    assert [] == job.at_target("SELECT FROM pg_namespace WHERE nspname = 'usersync'")
    assert [(None,)] == job.at_target("SELECT to_regclass('people')")


def test_no_row_is_read(job: Job) -> None:
    """
    A query is described, not run: one that would take an hour is checked at once.
    """
    job.write(extract={"query": "SELECT id, name FROM people_at_source WHERE pg_sleep(3600) IS NOT NULL"})
    job.people("One")

    assert 0 == check(job).status


def test_a_misfit_with_the_alter_that_helps(job: Job) -> None:
    """
    A column that is missing at the target: exit 7 with the ALTER, which is enough; the transform may use the stage's columns.
    """
    job.at_target("CREATE TABLE people (id int PRIMARY KEY)")
    first = check(job, "--job", "copy")
    (alter,) = [line.strip() for line in first.stdout.splitlines() if "ALTER" in line]
    job.at_target(alter)
    second = check(job, "--job", "copy")

    assert (7, 'ALTER TABLE "people" ADD COLUMN "name" text;', 0) == (first.status, alter, second.status)
    assert "2 columns fit into" in second.stdout


@pytest.fixture
def clerk(server: servers.Server) -> Iterator[str]:
    """A role without any right of its own."""
    server.execute("CREATE ROLE clerk LOGIN")
    yield "clerk"
    for (name,) in server.execute("SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0'"):
        server.execute("DROP OWNED BY clerk", name)
    server.execute("DROP ROLE clerk")


def test_every_grant_leads_on_until_the_job_runs(job: Job, clerk: str) -> None:
    """
    A role without rights: following what `check` prints, statement by statement, ends in a job that runs.
    """
    ((target,),) = job.at_target("SELECT current_database()")
    job.at_target(f"REVOKE TEMPORARY ON DATABASE {target} FROM PUBLIC; CREATE TABLE people (id int PRIMARY KEY, name text)")
    job.people("One")
    job.write(source=job.source.url.replace("postgres@", "clerk@"), target=job.target.url.replace("postgres@", "clerk@"))
    told = []
    for _ in range(8):
        result = check(job, "--job", "copy", "--output", "json")
        failed = [finding for finding in json.loads(result.stdout)["findings"] if not finding["ok"]]
        if not failed:
            break
        for finding in failed:
            for line in finding["hint"].splitlines():
                if line.strip().startswith("GRANT"):
                    told.append(line.strip())
                    (job.at_source if "source" in finding["what"] else job.at_target)(line)
    else:
        pytest.fail(f"no end: {told} {failed}")

    assert 0 == result.status
    assert 0 == job.run().status
    assert [(1, "One")] == job.loaded()


def test_what_cannot_be_reached(job: Job) -> None:
    """
    A server that is away: exit 4 with which of them; the target's trouble ends the check, a source's only that step's.
    """
    nobody = f"postgresql://postgres@127.0.0.1:{servers.free_port()}/x"
    job.write(source=nobody)
    source = check(job)
    job.write(target=nobody)
    target = check(job)

    assert (4, 4) == (source.status, target.status)
    assert "ok   copy: target: PostgreSQL" in source.stdout
    assert "FAIL copy: step people: source crm: connecting: " in source.stdout
    assert ["FAIL copy: target: connecting:"] == [line[:30] for line in target.stdout.splitlines() if line.startswith(("ok", "FAIL"))]


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ({"extract": {"table": "nowhere"}}, 7, ['relation "nowhere" does not exist']),
        ({"transform": "SELECT id, name FROM records, people_at_source"}, 7, ["transform (line 1, column "]),
        ({"transform": "SELECT id\nFORM records"}, 2, ["transform (line 2, column "]),
        ({"load": {"key": ["uuid"]}}, 7, ["the key uuid is not a column of the transform"]),
        ({"load": {"order_by": "nothing DESC"}}, 2, ["load.order_by (line 1, column 1): ", '"nothing"']),
        ({"load": {"create": False}}, 7, ["target table people does not exist", "CREATE TABLE"]),
    ],
)
def test_what_will_not_work(job: Job, how: dict[str, object], status: int, words: list[str]) -> None:
    """
    Mistakes in queries, transforms, keys and orders: the exit status of the run that would meet them, and where to look.
    """
    job.people("One")
    job.write(**how)  # type: ignore[arg-type]
    checked, ran = check(job, "--job", "copy"), job.run()

    assert (status, status) == (checked.status, ran.status), (checked, ran)
    for word in words:
        assert word in checked.stdout
        assert word in ran.stderr


def test_json_is_one_document(job: Job) -> None:
    """
    --output json: every finding with whether it is well, and the exit status.
    """
    job.write(extract={"table": "nowhere"})
    result = check(job, "--output", "json")
    document = json.loads(result.stdout)

    assert (1, "check", 7, result.status) == (document["version"], document["kind"], document["exit_status"], 7)
    assert [True, True, False] == [finding["ok"] for finding in document["findings"]]
    assert 'relation "nowhere" does not exist' in document["findings"][-1]["error"]


def test_the_sql_of_each_step(job: Job) -> None:
    """
    --sql prints what a step selects, also one that nobody typed, and contacts nobody.
    """
    nobody = f"postgresql://postgres@127.0.0.1:{servers.free_port()}/x"
    job.write(target=nobody, source=nobody)
    default = check(job, "--sql")
    job.write(target=nobody, source=nobody, transform="SELECT id, upper(name) AS name FROM records")
    own = check(job, "--sql", "--job", "copy")

    assert (0, 0) == (default.status, own.status)
    assert "SELECT * FROM records" in default.stdout
    assert "SELECT id, upper(name) AS name FROM records" in own.stdout


# streams of documents

TYPED = "SELECT key::int AS id, data ->> 'name' AS name FROM records"


def streams(job: Job, *, transform: str | None = TYPED, extract: dict[str, Any] | None = None, **more: Any) -> None:
    """Streams people and companies of files, into tables of their names."""
    step: dict[str, Any] = {
        "name": "all",
        "extract": extract or {"source": "export", "streams": ["people", "companies"]},
        "load": {"table": "{stream}", "key": ["id"], "create": True, "on_missing": "delete"},
    }
    if transform:
        step["transform"] = transform
    files = {name: {"path": f"{name}-*.jsonl", "key": "id"} for name in ("people", "companies")}
    job.document["sources"] = {"export": {"type": "file", "streams": files}}
    job.document["jobs"] = {"copy": {"steps": [step]}}
    job.document |= more
    job.save()


def lines(result: Result) -> list[str]:
    """Those of streams."""
    return [line for line in result.stdout.splitlines() if ": step all: " in line or "FAIL" in line]


def test_streams_are_well(job: Job) -> None:
    """
    A line for each stream: what is there, and whether it fits its table. No record is read, and nothing is made.
    """
    streams(job)
    job.at_target("CREATE TABLE companies (id int PRIMARY KEY, name text)")
    for name in ("people-1", "people-2", "companies-1"):
        (job.usersync.folder / f"{name}.jsonl").write_text("this is no JSON, which only who reads it can tell\n")
    result = check(job, "--job", "copy")

    assert 0 == result.status, result
    assert [
        'ok   copy: step all: stream people from source export: 2 files; "public"."people" will be created with 2 columns',
        'ok   copy: step all: stream companies from source export: 1 file; 2 columns fit into "public"."companies"',
    ] == lines(result)
    assert [] == job.at_target("SELECT FROM pg_namespace WHERE nspname = 'usersync'")
    assert [(None,)] == job.at_target("SELECT to_regclass('people')")


def test_streams_that_will_not_work(job: Job) -> None:
    """
    Each stream by itself: a file that is missing, a table that lacks a column, a transform with a mistake.
    """
    streams(job)
    job.at_target("CREATE TABLE companies (id int PRIMARY KEY)")
    (job.usersync.folder / "companies-1.jsonl").write_text("")
    result = check(job)
    streams(job, transform="SELECT key::int AS id, nam FROM records")
    (job.usersync.folder / "people-1.jsonl").write_text("")
    mistake = check(job)

    told = lines(result)
    assert (7, 2) == (result.status, len(told)), result
    assert told[0].startswith("FAIL copy: step all: source export, stream people: there is no file ")
    assert 'ALTER TABLE "companies" ADD COLUMN "name" text;' in result.stdout
    where = 'FAIL copy: step all: transform (line 1, column 24): column "nam" does not exist'
    assert (7, 2) == (mistake.status, mistake.stdout.count(where)), mistake


def test_another_account_of_streams(job: Job) -> None:
    """
    Files of another folder than those that were loaded: what a run would refuse.
    """
    streams(job)
    for name in ("people-1", "companies-1"):
        (job.usersync.folder / f"{name}.jsonl").write_text('{"id": 1}\n')
    assert 0 == job.sync().exit_status
    job.at_target("UPDATE usersync.cursors SET account = '/elsewhere'")
    result = check(job)

    assert 7 == result.status
    assert "the rows in the target came from /elsewhere" in result.stdout


def test_a_source_that_can_only_be_read(job: Job) -> None:
    """
    Where a session can't tell otherwise, its first page is read, and no more; where that fails, the finding says why.
    """
    sync = Sync(ListSource({"companies": people(1, 2), "people": people(1, 2, 3, 4)}), job.target)

    def findings() -> list[Finding]:
        return [finding for finding in look(sync.job, sync.context) if finding.what.startswith("step")]

    found = findings()

    assert [
        'step all: stream companies from source crm: 2 on its first page; "public"."companies" will be created with 3 columns',
        'step all: stream people from source crm: 3 on its first page; "public"."people" will be created with 3 columns',
    ] == [finding.what for finding in found]
    assert [("companies", 0), ("people", 0)] == sync.source.read

    def fail(stream: str, _page: int) -> None:
        if stream == "people":
            raise Unavailable("the source is away")

    sync.source.fail = fail
    assert [None, "the source is away"] == [finding.error and finding.error.message for finding in findings()]


def test_the_sql_of_each_stream(job: Job) -> None:
    """
    --sql prints the transform of each stream as it could be typed, and contacts nobody: the files need not be there.
    """
    nobody = f"postgresql://postgres@127.0.0.1:{servers.free_port()}/x"
    streams(job, transform=None, target=nobody)
    default = check(job, "--sql")
    streams(job, transform=None, extract={"export": {"source": "export", "streams": ["people", "companies"]}})
    named = check(job, "--sql")
    streams(job)
    own = check(job, "--sql")

    assert [0, 0, 0] == [default.status, named.status, own.status]
    assert [
        "-- job copy, step all, stream people, into people", 'SELECT key AS "id", data FROM records', "",
        "-- job copy, step all, stream companies, into companies", 'SELECT key AS "id", data FROM records', "",
    ] == default.stdout.splitlines()  # fmt: skip
    assert "-- in the step's own transform, records is called export" in named.stdout
    assert 2 == own.stdout.count(TYPED)


def test_an_unknown_job(job: Job) -> None:
    """
    A job that does not exist: exit 2 with the one that is meant.
    """
    result = check(job, "--job", "cpy")

    assert 2 == result.status
    assert 'did you mean "copy"?' in result.stderr
