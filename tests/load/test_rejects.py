"""Records that can't be loaded are set aside with their reason; all others are loaded; nothing vanishes."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Command
from tests.simple_job import Job
from usersync_cli.errors import Drift, PartialError
from usersync_cli.load.rejects import Limits, is_about_data, reason
from usersync_cli.model import Database


@pytest.mark.parametrize(
    ("records", "bad", "stops"),
    [
        (100_000, 1000, False), (100_000, 1001, True), (1000, 50, False), (1000, 51, True),
        (4, 2, False), (6, 3, True), (7, 3, False), (2, 2, False), (3, 3, True),
    ],
)  # fmt: skip
def test_too_many_rejects_stop_the_step(records: int, bad: int, *, stops: bool) -> None:
    """
    More than 50 and more than 1 % of the records, or half of them from the third on.
    """
    limits = Limits("people")
    limits.add(records - bad)
    counted = {("not_null_violation", "column email"): bad}

    if stops:
        with pytest.raises(Drift, match=rf"at least {bad:,} of {records:,} records of step people .* not_null_violation \(column email\)"):
            limits.count(bad, counted)
    else:
        limits.count(bad, counted)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("INSERT INTO t VALUES (NULL, 'Test User One')", ("not_null_violation", "column id, table t")),
        ("INSERT INTO t VALUES (1, 'Test User One')", ("check_violation", "constraint short, table t")),
        ("SELECT 'Test User One'::int", ("invalid_text_representation", "")),
        ("SELECT 99999999999::int", ("numeric_value_out_of_range", "")),
        ("INSERT INTO t (id, code) VALUES (1, 'Test User One')", ("string_data_right_truncation", "")),
        ("SELECT '2026-02-30'::date", ("datetime_field_overflow", "")),
    ],
)
def test_reasons_name_no_values(connection: psycopg.Connection, statement: str, expected: tuple[str, str]) -> None:
    """
    The condition's name and those of column, constraint and table; never what the server quotes of the row.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS t (id int NOT NULL, name text CONSTRAINT short CHECK (length(name) < 5), code varchar(3))"
    )

    with pytest.raises(psycopg.Error) as error:
        connection.execute(statement.encode())

    assert is_about_data(error.value)
    assert expected == reason(error.value)


# a step of tables


@pytest.fixture
def job(usersync: Command, new_database: Callable[[], Database]) -> Job:
    return Job(usersync, new_database(), new_database())


def fill(job: Job, last: int, first: int = 1) -> None:
    job.at_source(f"INSERT INTO people_at_source SELECT i, 'Test User ' || i FROM generate_series({first}, {last}) i")


def waiting(job: Job) -> dict[str, str]:
    """Reason and detail of those that wait, by key."""
    rows = job.at_target(
        "SELECT key, concat_ws(' ', reason, NULLIF(detail, '')) FROM usersync.rejects WHERE status = 'waiting' ORDER BY id"
    )
    return {str(key): str(reason) for key, reason in rows}


def ids(job: Job, where: str = "true") -> list[int]:
    return [row[0] for row in job.at_target(f"SELECT id FROM people WHERE {where} ORDER BY id")]


def test_a_bad_record_stops_nobody_else(job: Job) -> None:
    """
    It is set aside with its reason, all others are loaded, the run ends with 3 and moves its cursor; a second run doubles
    nothing, and when the source is corrected, the reject is gone.
    """
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL)")
    fill(job, 100)
    job.at_source("UPDATE people_at_source SET name = NULL WHERE id IN (1, 50, 51, 100)")

    first = job.run()

    assert first.status == 3, first
    assert "copy: 100 records: 96 new, 0 changed, 0 the same, 0 gone, 4 set aside (" in first.stdout
    assert "usersync rejects list --job copy" in first.stderr
    assert [i for i in range(1, 101) if i not in {1, 50, 51, 100}] == ids(job)
    because = "not_null_violation column name, table people"
    assert dict.fromkeys(["1", "50", "51", "100"], because) == waiting(job)
    assert 1 == job.lock()[2]

    second = job.run()

    assert second.status == 3, second
    assert "0 new, 0 changed, 96 the same, 0 gone, 4 set aside: nothing changed" in second.stdout
    assert dict.fromkeys(["1", "50", "51", "100"], because) == waiting(job)

    job.at_source("UPDATE people_at_source SET name = 'Test User again' WHERE name IS NULL")
    corrected = job.run()

    assert corrected.status == 0, corrected
    assert {} == waiting(job)
    assert list(range(1, 101)) == ids(job)


def test_what_waits_stops_nobody_else(job: Job) -> None:
    """
    In a small table, records that were set aside before and one that is new are not "most of them"; all of it bad is.
    """
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL)")
    fill(job, 5)
    for bad in ((1, 2), (1, 2, 3), (1, 2, 3, 4)):
        job.at_source(f"UPDATE people_at_source SET name = NULL WHERE id IN {bad}")
        assert 3 == job.sync().exit_status
        assert len(bad) == len(waiting(job))
    job.at_source("INSERT INTO people_at_source SELECT i, NULL FROM generate_series(6, 9) i")

    result = job.sync()

    assert 7 == result.exit_status
    assert "4 of 5 records" in str(result.steps[0].error)
    assert "rejects drop" in (result.steps[0].error.hint if result.steps[0].error else "")


def test_a_value_that_no_index_holds_stops_nobody_else(job: Job) -> None:
    """
    Too big for an index is as much a matter of one record as too long for its column.
    """
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text); CREATE INDEX ON people (name)")
    fill(job, 10)
    job.at_source("UPDATE people_at_source SET name = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i) WHERE id = 4")

    result = job.sync()

    assert (3, 9, 1) == (result.exit_status, result.steps[0].counts.inserted, result.steps[0].counts.rejected), result.steps[0].error
    assert {"4": "program_limit_exceeded"} == waiting(job)


# whatever their positions


ALL = 10_000
# Each way in which a record can be bad: what the source says of it, its reason, and what the table says against it.
CHECKED = "CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL CHECK (length(name) < 30), born date, code varchar(8) UNIQUE)"
BAD = {
    "cast": ("born = 'Test User soon'", "invalid_datetime_format column born"),
    "range": ("born = '2026-02-30'", "datetime_field_overflow column born"),
    "null": ("name = NULL", "not_null_violation column name, table people"),
    "check": ("name = repeat('Test User ', 5)", "check_violation constraint people_name_check, table people"),
    "length": ("code = repeat('Test', 3)", "string_data_right_truncation"),
    "unique": ("code = 'taken'", "unique_violation constraint people_code_key, table people"),
}
TRIGGER = """
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER nothing BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION nothing()
"""


@pytest.fixture
def many(job: Job) -> Job:
    """A source of 10,000 people, whose table has constraints and one row of somebody else's."""
    job.at_source("DROP TABLE people_at_source; CREATE TABLE people_at_source (id int, name text, born text, code text)")
    job.write(transform="SELECT id, name, born::date AS born, code FROM records")
    return job


def begin(many: Job, bad: dict[int, str], *, trigger: bool) -> dict[str, str]:
    """Everybody is new again, and these are bad, each in its way; gives what has to wait."""
    many.at_target(f"DROP TABLE IF EXISTS people; {CHECKED}; INSERT INTO people VALUES (0, 'somebody', NULL, 'taken')")
    if trigger:
        many.at_target("DROP FUNCTION IF EXISTS nothing;" + TRIGGER)
    many.at_target("TRUNCATE usersync.rejects, usersync.cursors, usersync.runs CASCADE")
    many.at_source(
        "TRUNCATE people_at_source;"
        f"INSERT INTO people_at_source SELECT i, 'Test User ' || i, '2000-01-01', i FROM generate_series(1, {ALL}) i;"
        + ";".join(f"UPDATE people_at_source SET {BAD[how][0]} WHERE id = {id_}" for id_, how in bad.items())
    )
    return {str(id_): BAD[how][1] for id_, how in bad.items()}


def check(many: Job, bad: dict[int, str], *, trigger: bool = False) -> None:
    expected = begin(many, bad, trigger=trigger)
    dry = many.sync(dry_run=True).steps[0]

    (step,) = many.sync().steps

    found = {key: reason.removesuffix(" column code") if reason.startswith("string_") else reason for key, reason in waiting(many).items()}
    assert expected == found
    assert [0, *(i for i in range(1, ALL + 1) if i not in bad)] == ids(many)
    assert (ALL, ALL - len(bad), len(bad)) == (step.counts.read, step.counts.inserted, step.counts.rejected)
    assert (type(step.error), step.counts) == (PartialError if bad else type(None), step.counts)
    if not trigger:
        assert (step.counts, str(step.error)) == (dry.counts, str(dry.error))


POSITIONS = {
    "first": {1},
    "last": {ALL},
    "both": {1, ALL},
    "adjacent": set(range(5000, 5007)),
    "one half": set(range(2, 101)),
    "spread": set(range(101, ALL, 1414)),
}


def test_exactly_the_bad_ones_are_set_aside(many: Job) -> None:
    """
    k bad of 10,000 give k rejects with their reasons, whatever their positions; all others are loaded.
    """
    for number, positions in enumerate(POSITIONS.values()):
        check(many, {id_: list(BAD)[(id_ + number) % len(BAD)] for id_ in positions}, trigger=number % 2 == 0)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(bad=st.dictionaries(st.integers(1, ALL), st.sampled_from(sorted(BAD)), max_size=40), trigger=st.booleans())
def test_wherever_and_however(many: Job, bad: dict[int, str], *, trigger: bool) -> None:
    """
    The same for any positions and any mixture of reasons, whether the table's constraints can be looked at or only tried.
    """
    check(many, bad, trigger=trigger)
