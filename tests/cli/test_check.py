"""`usersync check`, as a process: what will not work is told before it is needed, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests import servers
from tests.conftest import Command, NewDatabase, Result
from tests.simple_job import Job, clean


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
    assert "FAIL copy: source crm: connecting: " in source.stdout
    assert ["FAIL copy: target: connecting:"] == [line[:30] for line in target.stdout.splitlines() if line.startswith(("ok", "FAIL"))]


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ({"extract": {"table": "nowhere"}}, 7, ['relation "nowhere" does not exist']),
        ({"transform": "SELECT id, name FROM records, people_at_source"}, 7, ["transform (line 1, column "]),
        ({"transform": "SELECT id\nFORM records"}, 2, ["transform (line 2, column "]),
        ({"load": {"key": ["uuid"]}}, 7, ["the key uuid is not a column of the transform"]),
        ({"load": {"order_by": "nothing DESC"}}, 2, ["load.order_by: ", '"nothing"']),
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


def test_an_unknown_job(job: Job) -> None:
    """
    A job that does not exist: exit 2 with the one that is meant.
    """
    result = check(job, "--job", "cpy")

    assert 2 == result.status
    assert 'did you mean "copy"?' in result.stderr
