"""`usersync status`: a report that only reads."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.cli.ledgers import Ledger
from tests.conftest import Command
from tests.servers import free_port
from tests.simple_job import Job, clean
from usersync_cli.model import Database
from usersync_cli.state import migrations


@pytest.fixture
def ledger(usersync: Command, database: Database) -> Ledger:
    return Ledger(usersync, database)


def test_before_the_first_run(ledger: Ledger) -> None:
    """
    Without usersync's schema every job of the config file has never run; and none is made.
    """
    ledger.write({"members": "*/10 * * * *", "by_hand": None})
    result = ledger.command("status")

    assert (0, "") == (result.status, result.stderr)
    assert ["members", "by_hand"] == [line for line in result.stdout.splitlines() if line and line[0] != " "]
    assert 2 == result.stdout.count("never run")
    assert [(None,)] == ledger.execute("SELECT to_regnamespace('usersync')")


def test_a_good_run(usersync: Command, database: Database, server: object, new_database: object) -> None:
    """
    After a real run: when, how it ended, what it counted, and how old the data is.
    """
    source: Database = new_database("source crm")  # type: ignore[operator]
    job = Job(usersync, source, database)
    job.people("One", "Two")
    job.run()
    result = clean(usersync("status"))
    _, *lines = result.stdout.splitlines()
    rows = {line[2:18].strip(): line[18:] for line in lines}
    document = json.loads(clean(usersync("status", "--output", "json")).stdout)
    (copy,) = document["jobs"]

    assert 0 == result.status
    assert "none" == rows["schedule"]
    assert "s ago): ok, took " in rows["last run"]
    assert "2 read: 2 new, 0 changed, 0 the same, 0 gone" == rows["step people"]
    assert rows["read records"].startswith("2 rows as of ")
    assert rows["read records"].endswith(f"from {copy['cursors'][0]['account']}, version 1")
    assert (1, "status") == (document["version"], document["kind"])
    assert ("ok", 0, None) == (copy["last_run"]["status"], copy["last_run"]["exit_status"], copy["failing"])
    assert copy["last_run"] == copy["last_good"]
    assert 0 <= copy["cursors"][0]["age_seconds"] < 60
    assert datetime.now(UTC) - datetime.fromisoformat(document["at"]) < timedelta(minutes=1)


def test_failures_since_the_last_good_run(ledger: Ledger) -> None:
    """
    Runs that failed in a row are counted from the first; the newest error is shown with its hint, the good run beside it.
    """
    ledger.ran(7, ago="5 h", error="an error of yesterday")
    ledger.ran(0, ago="4 h")
    ledger.ran(4, ago="3 h", error="the first")
    ledger.ran(3, ago="2 h", error="the second")
    ledger.ran(7, ago="1 h", error="column x is missing", hint="ALTER TABLE y;\nor leave it out")
    result = ledger.command("status")
    _, document = ledger.document("status")
    (job,) = document["jobs"]

    assert 0 == result.status
    assert "exit status 7 (drift: schema or source identity changed, or most records bad), took 2.0 s" in result.stdout
    assert "(4 h ago), took 2.0 s" in result.stdout
    assert "3 runs, since " in result.stdout
    assert "(3 h ago)" in result.stdout
    assert "  error           column x is missing\n                  ALTER TABLE y;\n                  or leave it out\n" in result.stdout
    assert "yesterday" not in result.stdout
    assert (3, "column x is missing") == (job["failing"]["runs"], job["failing"]["error"])
    assert 3.9 * 3600 < job["last_good"]["age_seconds"] < 4.1 * 3600


def test_a_long_row_of_failures_is_counted_to_its_beginning(ledger: Ledger) -> None:
    """
    A job that fails every ten minutes for days: all its failures count, and the good run before them is found.
    """
    ledger.ran(0, ago="10 days")
    for i in range(30):
        ledger.ran(4, ago=f"{9 * 24 - i} h")
    _, document = ledger.document("status")

    assert 30 == document["jobs"][0]["failing"]["runs"]
    assert 9.9 * 86400 < document["jobs"][0]["last_good"]["age_seconds"]


def test_a_run_under_way(ledger: Ledger) -> None:
    """
    Who holds the job now is named, and the last run that ended is still told.
    """
    ledger.ran(0, ago="10 min")
    ledger.ran(None)
    ledger.hold()
    result = ledger.command("status")
    _, document = ledger.document("status")

    assert f"pid {os.getpid()}" in result.stdout
    assert "(10 min ago): ok" in result.stdout
    assert "running" == document["jobs"][0]["last_run"]["status"]
    assert f"pid {os.getpid()}" in document["jobs"][0]["running"]["owner"]


def test_the_first_run_under_way(ledger: Ledger) -> None:
    """
    A first run that has not ended is not "never run".
    """
    ledger.ran(None)
    ledger.hold()

    assert "under way, the first one" in ledger.command("status").stdout


def test_a_crashed_run(ledger: Ledger) -> None:
    """
    A run that nobody holds any more has crashed; status says so before the next run does.
    """
    ledger.ran(None, ago="10 min")
    result = ledger.command("status")

    assert "crashed" in result.stdout
    assert "ended without a word" in result.stdout


def test_a_job_that_left_the_config_file(ledger: Ledger) -> None:
    """
    What the ledger alone knows is listed too, after the others, and can be asked for.
    """
    ledger.ran(job="former")

    assert ["members", "former (no longer in the config file)"] == [
        line for line in ledger.command("status").stdout.splitlines() if line and line[0] != " "
    ]
    assert "former" in ledger.command("status", "--job", "former").stdout


def test_an_unknown_job(ledger: Ledger) -> None:
    """
    A misspelt name ends with 2 and the name that was meant.
    """
    result = ledger.command("status", "--job", "membres")

    assert (2, "") == (result.status, result.stdout)
    assert '"members"' in result.stderr


def test_an_unreachable_target(ledger: Ledger) -> None:
    """
    Nobody answers: 4, and a message instead of "never run".
    """
    ledger.write({"members": None}, target=f"postgresql://nobody@127.0.0.1:{free_port()}/x")
    result = ledger.command("status")

    assert (4, "") == (result.status, result.stdout)
    assert "target: connecting" in result.stderr


def test_select_rights_are_enough(ledger: Ledger) -> None:
    """
    A role that may only SELECT reads everything; one that may not gets the GRANT that helps, and that GRANT is enough.
    """
    ledger.ran()
    ledger.execute("DROP ROLE IF EXISTS status_reader")
    ledger.execute("CREATE ROLE status_reader LOGIN")
    try:
        ledger.write({"members": None}, target=ledger.target.url.replace("postgres@", "status_reader@"))
        refused = ledger.command("status")
        grant = refused.stderr.partition("their owner runs: ")[2]
        ledger.execute(grant)

        assert (2, "") == (refused.status, refused.stdout)
        assert "INSERT" not in grant
        assert "ok, took 2.0 s" in ledger.command("status").stdout
    finally:
        ledger.execute("DROP OWNED BY status_reader; DROP ROLE status_reader")


def test_nothing_is_written(ledger: Ledger) -> None:
    """
    Neither command takes a transaction id, so neither can have written anything.
    """
    ledger.ran(None)
    with psycopg.connect(ledger.target.url, autocommit=True) as connection:

        def next_transaction() -> tuple[Any, ...] | None:
            return connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())").fetchone()

        def writes() -> bool:
            before = next_transaction()
            ledger.command("status")
            ledger.command("health")
            return before != next_transaction()

        # autovacuum takes ids too, in whichever database of the server it is
        assert not all(writes() for _ in range(4))


def test_newer_tables(ledger: Ledger) -> None:
    """
    The tables of a newer usersync are not guessed at: 7.
    """
    migrations.upgrade(ledger.target)
    ledger.execute("UPDATE usersync.alembic_version SET version_num = '9999'")

    for command in ("status", "health"):
        result = ledger.command(command)
        assert (7, "") == (result.status, result.stdout)
        assert "use the newer usersync that upgraded them" in result.stderr
