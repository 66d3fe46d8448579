"""Records that can't be loaded are set aside with their reason; all others are loaded; nothing vanishes."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.conftest import Command
from tests.simple_job import Job
from usersync_cli import migrations, rejects
from usersync_cli.errors import Drift, NotFound
from usersync_cli.model import Database
from usersync_cli.rejects import Limits, Reject, Stored

HERE = ("copy", "people", "")


# where they wait


def test_a_reject_waits_once(database: Database, connection: psycopg.Connection) -> None:
    """
    The same bad document is one row however often it is met; a changed one waits again; what was dropped stays so until then.
    """
    assert [] == rejects.waiting(connection)
    migrations.upgrade(database)
    bad, keyless = Reject("7", "not_null_violation", "column name", b'{"id": 7}', "v1"), Reject(None, "no_key", "", b"{}")

    assert Stored(new=2) == rejects.store(connection, *HERE, 1, [bad, keyless])
    assert Stored(known=2) == rejects.store(connection, *HERE, 2, [keyless, bad, bad])
    first, second = rejects.waiting(connection, "copy")
    assert ("7", 2, "waiting", "column name", "v1") == (first.key, first.run_id, first.status, first.detail, first.version)
    assert "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" == second.key
    assert b'{"id": 7}' == rejects.document(connection, first.id)

    assert 1 == rejects.drop(connection, [first.id])
    assert Stored(dropped=1) == rejects.store(connection, *HERE, 3, [bad])
    assert {("copy", "people"): 1} == rejects.count_waiting(connection)
    assert Stored(new=1) == rejects.store(connection, *HERE, 4, [Reject("7", "not_null_violation", "column name", b'{"id": 7, "x": 1}')])
    assert {("copy", "people"): 2} == rejects.count_waiting(connection, "copy", step="people")

    assert 1 == rejects.resolve_unmet(connection, *HERE, 4)
    assert 1 == rejects.resolve(connection, *HERE, ["7", "8"])
    assert [] == rejects.waiting(connection, dropped=True)


def test_documents_are_forgotten_after_30_days(database: Database, connection: psycopg.Connection) -> None:
    """
    Then the row has its reason and key left; when the record is met again, the document is back.
    """
    migrations.upgrade(database)
    bad = Reject("7", "not_null_violation", "", b"{}")
    rejects.store(connection, *HERE, 1, [bad])
    assert 0 == rejects.prune(connection, "copy")
    connection.execute("UPDATE usersync.rejects SET last_at = now() - interval '31 days'")

    assert 1 == rejects.prune(connection, "copy")

    (kept,) = rejects.chosen(connection, [1], "copy")
    assert not kept.has_document
    assert Stored(known=1) == rejects.store(connection, *HERE, 2, [bad])
    assert b"{}" == rejects.document(connection, 1)
    with pytest.raises(NotFound, match="no reject 5, 6"):
        rejects.chosen(connection, [1, 6, 5])


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

    assert rejects.is_about_data(error.value)
    assert expected == rejects.reason(error.value)


# a step of tables


@pytest.fixture
def job(usersync: Command, new_database: Callable[[], Database]) -> Job:
    return Job(usersync, new_database(), new_database())


def fill(job: Job, last: int, first: int = 1) -> None:
    job.at_source(f"INSERT INTO people_at_source SELECT i, 'Test User ' || i FROM generate_series({first}, {last}) i")


def waiting(job: Job) -> dict[str, str]:
    """Reason and detail of those that wait, by key."""
    rows = job.at_target("SELECT key, concat_ws(' ', reason, NULLIF(detail, '')) FROM usersync.rejects WHERE status = 'waiting' ORDER BY id")
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
