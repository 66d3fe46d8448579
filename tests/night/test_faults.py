"""Servers in trouble while a run removes people: the documented exit status, and the next run converges. And what is never said."""

from __future__ import annotations

from typing import Any

import pytest

from tests import servers
from tests.conftest import Command, NewDatabase
from tests.simple_job import PERSON, SLOW, Job, finished
from usersync_cli import log

PHONE = "+00 5550 1234"
CANARY = f"{PERSON} {PHONE}"


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Job:
    log.configure(quiet=True)
    return Job(usersync, new_database("source crm"), new_database())


def converges(job: Job) -> None:
    assert 0 == job.sync().exit_status
    wanted = job.at_source("SELECT id, name FROM people_at_source ORDER BY id")
    assert wanted == [(id_, name.rstrip()) for id_, name in job.at_target("SELECT id, name FROM people ORDER BY id")]


@pytest.mark.slow
def test_a_target_that_is_restarted(usersync: Command, new_database: NewDatabase, server: servers.Server) -> None:
    """
    The target's server is restarted while people are read: exit 4, nobody is removed, and the next run converges.
    """
    with servers.postgres(server.bin, user="nobody" if server.as_user else "postgres") as own:
        own.execute("CREATE DATABASE people")
        job = Job(usersync, new_database("source crm"), servers.Database(own.url("people"), "target"))
        job.people(*(["One"] * 30))
        job.write(load={"on_missing": "delete"})
        assert 0 == job.sync().exit_status
        job.at_source("DELETE FROM people_at_source WHERE id > 27")
        job.write(extract={"query": SLOW}, transform="SELECT id, trim(name) AS name FROM records", load={"on_missing": "delete"})
        with job.started() as process:
            job.wait_for("query LIKE '%pg_sleep%'", at=job.source)
            own.control("-m", "fast", "restart")
            result = finished(process)

        assert result.status == 4, result
        assert [(30,)] == job.at_target("SELECT count(*) FROM people")
        job.write(load={"on_missing": "delete"})
        converges(job)


@pytest.mark.slow
def test_a_source_that_dribbles(job: Job) -> None:
    """
    One row in a second, under a lease of two: the run holds its job to the end and removes who left, and only them.
    """
    job.people(*(["One"] * 6))
    job.at_source("CREATE TABLE pace AS SELECT 0 AS seconds")
    job.write(extract={"query": SLOW.replace("0.1", "(SELECT seconds FROM pace)")}, lease="2s", load={"on_missing": "delete"})
    assert 0 == job.sync().exit_status
    job.at_source("DELETE FROM people_at_source WHERE id > 4; UPDATE pace SET seconds = 1")

    result = job.run()

    assert result.status == 0, result
    assert "2 gone" in result.stdout
    converges(job)


LOADS: list[dict[str, Any]] = [
    {"transform": "SELECT id, name::int AS name FROM records"},
    {"transform": "SELECT id, 1 / (length(name) - length(name)) AS name FROM records"},
    {"transform": "SELECT id, name, (name::json)->>'x' AS x FROM records"},
    {"transform": "SELECT id, name::date AS name FROM records GROUP BY id, name"},
    {"transform": "SELECT name::uuid AS id, name FROM records"},
    {"transform": "SELECT id, nme FROM records"},
    {"extract": {"query": "SELECT id, name, name::int AS number FROM people_at_source"}},
    {"extract": {"query": "SELECT id, name FROM people_at_source WHERE raise_it(name)"}},
]
TABLES = [
    "id int PRIMARY KEY, name varchar(5)",
    "id int PRIMARY KEY, name text UNIQUE",
    "id int PRIMARY KEY, name text CHECK (length(name) < 5)",
    "id int PRIMARY KEY, name text CHECK (refuse(name))",
    "id int PRIMARY KEY, name text REFERENCES names",
    "id int PRIMARY KEY, name text, EXCLUDE USING btree (name WITH =)",
    "id int PRIMARY KEY, name name_of_a_person",
    "id int PRIMARY KEY, name text GENERATED ALWAYS AS ('x') STORED",
]
RAISE = "CREATE FUNCTION {name}(text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'what of %', $1 USING DETAIL = $1; END$$"


@pytest.mark.parametrize("case", range(len(LOADS) + len(TABLES)))
def test_nobody_is_named_where_something_goes_wrong(job: Job, case: int) -> None:
    """
    Every error in reading, computing, casting and writing a person, at -vv: no name, no telephone number, no password.
    """
    job.at_source(RAISE.format(name="raise_it"))
    job.at_source(f"INSERT INTO people_at_source SELECT i, '{CANARY}' FROM generate_series(1, 4) i")
    job.at_target(
        RAISE.format(name="refuse") + "; CREATE TABLE names (name text PRIMARY KEY); CREATE DOMAIN name_of_a_person AS varchar(3)"
    )
    if case < len(LOADS):
        job.write(**LOADS[case])
    else:
        job.at_target(f"CREATE TABLE people ({TABLES[case - len(LOADS)]})")

    results = [job.run("-vv"), job.run("-vv", "--log-format", "json", "--output", "json")]

    for result in results:
        assert 0 != result.status, result
        assert result.stderr, "silent"
        for word in (PHONE, "5550", "1234"):
            assert word not in result.stdout + result.stderr, result
    said = job.at_target("SELECT r::text FROM usersync.runs r UNION ALL SELECT s::text FROM usersync.run_steps s")
    assert said
    assert not [row for (row,) in said if PERSON in row or "5550" in row]
