"""Cursors and the ledger: what is written, and what can be read by whom."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests import servers
from usersync_cli.clients.postgres import connections, transactions
from usersync_cli.errors import Fenced
from usersync_cli.model import Database
from usersync_cli.signals import Stop
from usersync_cli.state import lease, ledger, migrations

LONG = timedelta(seconds=60)


@pytest.fixture
def ready(database: Database) -> None:
    """The tables are there."""
    migrations.upgrade(database)


def test_a_cursor_moves_by_versions(connection: psycopg.Connection, ready: None) -> None:
    """
    The first move makes version 1, each other adds one; step, stream, value and account are kept apart.
    """
    ledger.advance(connection, "job", "users", "contacts", {"page": 1}, version=0, account="a")
    ledger.advance(connection, "job", "users", "contacts", {"page": 2, "ü": None}, version=1, account="b")
    ledger.advance(connection, "job", "users", "companies", {}, version=0, account="a")
    ledger.advance(connection, "job", "others", "contacts", {}, version=0, account="a")

    found = {stream: (one.value, one.version, one.account) for stream, one in ledger.cursors(connection, "job", "users").items()}
    assert {"contacts": ({"page": 2, "ü": None}, 2, "b"), "companies": ({}, 1, "a")} == found
    assert 3 == len(ledger.all_cursors(connection))
    assert [] == ledger.all_cursors(connection, "another job")


@pytest.mark.parametrize("version", [0, 1, 3])
def test_a_cursor_that_somebody_else_moved_fences(connection: psycopg.Connection, ready: None, version: int) -> None:
    """
    Moving from any version but the last one raises Fenced and changes nothing.
    """
    ledger.advance(connection, "job", "users", "contacts", {"page": 1}, version=0, account="a")
    ledger.advance(connection, "job", "users", "contacts", {"page": 2}, version=1, account="a")

    with pytest.raises(Fenced, match="users/contacts"):
        ledger.advance(connection, "job", "users", "contacts", {"page": 9}, version=version, account="a")
    assert {"page": 2} == ledger.cursors(connection, "job", "users")["contacts"].value


def test_of_two_transactions_that_move_a_cursor_one_is_fenced(database: Database, connection: psycopg.Connection, ready: None) -> None:
    """
    The second of two that read the same version waits for the first, and is fenced when that commits.
    """
    for version in (0, 1):
        with connections.connect(database, job="one") as one, psycopg.connect(database.url) as other:
            with transactions.transaction(one):
                ledger.advance(one, "job", "users", "contacts", {"by": "one"}, version=version, account="a")
                other.execute("SET LOCAL lock_timeout = '100ms'")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    ledger.advance(other, "job", "users", "contacts", {"by": "other"}, version=version, account="a")
                other.rollback()
            with pytest.raises(Fenced):
                ledger.advance(other, "job", "users", "contacts", {"by": "other"}, version=version, account="a")


def test_before_the_first_run_there_is_nothing_to_read(connection: psycopg.Connection) -> None:
    """
    Without the schema every question has an empty answer, inside a transaction too.
    """
    with connection.transaction():
        assert migrations.current(connection) is None
        assert {} == ledger.cursors(connection, "job", "users")
        assert [] == ledger.last_runs(connection)
        assert {} == ledger.latest(connection) == ledger.last_good(connection) == ledger.holders(connection)


def test_reading_needs_select_only(
    database: Database, connection: psycopg.Connection, standby: servers.Server, server: servers.Server
) -> None:
    """
    `status` works for a read-only role and on a standby.
    """
    with lease.hold(database, "job", lease=LONG, stop=Stop()) as held:
        held.start_step("users")
        held.finish_step("users", "ok")
        held.finish(exit_status=0, summary="fine")
    name = connection.info.dbname
    connection.execute(f"CREATE ROLE reader_{name} LOGIN".encode())
    connection.execute(f"GRANT USAGE ON SCHEMA usersync TO reader_{name}".encode())
    connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA usersync TO reader_{name}".encode())
    standby.catch_up(server)
    try:
        for url in (database.url, standby.url(name)):
            with psycopg.connect(url.replace("postgres@", f"reader_{name}@"), autocommit=True) as reader:
                (run,) = ledger.last_runs(reader, "job")
                assert ("ok", "fine", ["users"]) == (run.status, run.summary, [step.step for step in run.steps])
                assert {"job"} == set(ledger.latest(reader)) == set(ledger.last_good(reader))
    finally:
        connection.execute(f"DROP OWNED BY reader_{name}".encode())
        connection.execute(f"DROP ROLE reader_{name}".encode())


def test_a_run_whose_lease_is_over_reads_as_crashed(database: Database, connection: psycopg.Connection) -> None:
    """
    A run that is killed is shown as crashed once its lease is over, without another run having to find it.
    """
    with lease.hold(database, "job", lease=LONG, stop=Stop()):
        assert ["running"] == [run.status for run in ledger.last_runs(connection, "job")]
        connection.execute("UPDATE usersync.job_locks SET lease_until = clock_timestamp()")
        assert ["crashed"] == [run.status for run in ledger.last_runs(connection, "job")]
        assert ["running"] == [row[0] for row in connection.execute("SELECT status FROM usersync.runs")]


def test_the_last_good_run_is_not_the_last(database: Database, connection: psycopg.Connection) -> None:
    """
    Freshness is told by the last run that ended ok, however many failed since.
    """
    for exit_status in (0, 4, 3, 7):
        with lease.hold(database, "job", lease=LONG, stop=Stop()) as held:
            held.finish(exit_status=exit_status)

    assert ["failed", "partial", "failed", "ok"] == [run.status for run in ledger.last_runs(connection, "job")]
    assert 7 == ledger.latest(connection)["job"].exit_status
    assert 0 == ledger.last_good(connection)["job"].exit_status


def test_old_runs_are_forgotten(database: Database, connection: psycopg.Connection, ready: None) -> None:
    """
    The newest runs of each job are kept, older ones go with their steps; other jobs' stay.
    """
    connection.execute(
        "INSERT INTO usersync.runs (job, status, epoch, owner, usersync_version)"
        " SELECT job, 'ok', n, 'x', '1' FROM generate_series(1, 5) n, (VALUES ('job'), ('other')) AS j(job) ORDER BY n"
    )
    connection.execute("INSERT INTO usersync.run_steps (run_id, step, status) SELECT id, 'users', 'ok' FROM usersync.runs")

    for _ in range(2):
        ledger.prune(connection, "job", keep=2)
        assert [5, 4] == [run.epoch for run in ledger.last_runs(connection, "job")]
    assert 5 == len(ledger.last_runs(connection, "other"))
    assert [(7,)] == connection.execute("SELECT count(*) FROM usersync.run_steps").fetchall()
