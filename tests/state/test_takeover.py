"""Taking a job: from nobody, from an owner that is dead or frozen, and never from one that is at work."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from tests import servers
from tests.state.holding import LONG, SHORT, data, expire, refused, rows, running
from usersync_cli.clients.postgres import errors, transactions
from usersync_cli.errors import Busy, Fenced
from usersync_cli.model import Database
from usersync_cli.signals import Stop
from usersync_cli.state import lease, ledger, takeover


def test_a_second_holder_is_busy_and_told_by_whom(database: Database, stop: Stop) -> None:
    """
    While a run holds the job another is refused with exit 75 and the holder's host and pid; another job is free.
    """
    busy = rf"job: another run holds the job: host .*, pid {os.getpid()}, since 20.* UTC"
    with lease.hold(database, "job", lease=LONG, stop=stop), lease.hold(database, "other job", lease=LONG, stop=stop):
        refused(database, stop, busy)


def test_an_expired_lease_is_taken_over_and_the_old_run_is_fenced(
    database: Database, stop: Stop, connection: psycopg.Connection, table: None
) -> None:
    """
    A run whose lease ran out and was taken commits nothing more: its next checkpoint raises Fenced and is rolled back.
    """
    with pytest.raises(Fenced), lease.hold(database, "job", lease=LONG, stop=stop) as old, data(database, stop) as tx:
        tx.execute("INSERT INTO public.t VALUES (1)")
        expire(connection)
        with lease.hold(database, "job", lease=LONG, stop=stop) as new, data(database, stop) as other:
            assert (old.epoch + 1, 1) == (new.epoch, new.crashed)
            with pytest.raises(Fenced), old.checkpoint(tx):
                tx.execute("INSERT INTO public.t VALUES (2)")
            with new.checkpoint(other):
                other.execute("INSERT INTO public.t VALUES (3)")
            new.finish(exit_status=0)
        old.check()

    assert [3] == rows(connection)
    assert ["ok", "crashed"] == [run.status for run in ledger.last_runs(connection)]


@pytest.mark.slow
def test_whoever_meets_a_checkpoint_is_busy_however_long_it_takes(database: Database, stop: Stop) -> None:
    """
    While a merge of hours holds the job's row, its lease long over on paper, another run waits 5 s for it and is told Busy.
    """
    with lease.hold(database, "job", lease=SHORT, stop=stop) as held, data(database, stop) as tx, held.checkpoint(tx):
        time.sleep(2.5)
        began = time.monotonic()
        refused(database, Stop())
        assert 7 > time.monotonic() - began


@pytest.mark.parametrize("moment", ["held", "copying", "fenced"])
def test_a_killed_run_does_not_block_the_next(
    database: Database, stop: Stop, connection: psycopg.Connection, table: None, moment: str
) -> None:
    """
    kill -9 at any moment: the next run on the same host takes the job at once, not when the lease runs out.
    """
    with running(database, moment) as process:
        process.kill()
        process.wait()
        began = time.monotonic()
        with lease.hold(database, "job", lease=LONG, stop=stop) as held:
            assert 1 == held.crashed
        assert 8 > time.monotonic() - began

    assert [] == rows(connection)


@pytest.mark.slow
def test_a_run_frozen_in_copy_is_replaced_and_writes_nothing(
    database: Database, stop: Stop, connection: psycopg.Connection, table: None
) -> None:
    """
    SIGSTOP in the middle of COPY for longer than the lease: its transaction is ended by who takes over; SIGCONT: Fenced, no row.
    """
    with running(database, "copying", seconds=2) as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        with lease.hold(database, "job", lease=LONG, stop=stop) as held, data(database, stop) as tx:
            tx.execute("LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE")
            with held.checkpoint(tx):
                tx.execute("INSERT INTO public.t VALUES (3)")
            held.finish(exit_status=0)
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate("go on\n", timeout=10)

    assert "Fenced\n" == said
    assert [3] == rows(connection)
    assert ["ok", "crashed"] == [run.status for run in ledger.last_runs(connection)]


@pytest.mark.parametrize("pooled", [False, True])
def test_a_run_frozen_before_commit_is_replaced(
    request: pytest.FixtureRequest,
    database: Database,
    connection: psycopg.Connection,
    table: None,
    monkeypatch: pytest.MonkeyPatch,
    pooled: bool,  # noqa: FBT001  a parameter
) -> None:
    """
    SIGSTOP between fence and COMMIT: while its lease may still run the next run is busy; then it ends the idle transaction, also
    behind a pooler. SIGCONT: Fenced, no row.
    """
    monkeypatch.setattr(takeover, "LOCK_SECONDS", 1.0)
    if pooled:
        pooler = request.getfixturevalue("pgbouncer")
        database = Database(pooler.url(connection.info.dbname), "target")
    with running(database, "fenced", seconds=2) as process:
        process.send_signal(signal.SIGSTOP)
        refused(database, Stop(), "its lease runs until")
        time.sleep(0.5)
        refused(database, Stop(), "has locked the job's row, idle for [0-9] s")
        with lease.hold(database, "job", lease=SHORT, stop=Stop()) as held:
            assert 1 == held.crashed
            held.finish(exit_status=0)
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate("go on\n", timeout=10)

    assert "Fenced\n" == said
    assert [] == rows(connection)
    assert ["ok", "crashed"] == [run.status for run in ledger.last_runs(connection)]


def test_whoever_is_at_work_is_left_alone(
    database: Database, connection: psycopg.Connection, table: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A statement that takes longer than the lease is no frozen run, and somebody's psql that has locked the row is no run at all.
    """
    monkeypatch.setattr(takeover, "LOCK_SECONDS", 1.0)
    with lease.hold(database, "job", lease=timedelta(seconds=0.5), stop=Stop()) as held, data(database, Stop()) as tx:
        with held.checkpoint(tx):
            thread = threading.Thread(target=tx.execute, args=("SELECT pg_sleep(1.8)",))
            thread.start()
            time.sleep(0.6)
            with pytest.raises(Busy, match="at work for"), lease.hold(database, "job", lease=timedelta(seconds=0.5), stop=Stop()):
                pass
            thread.join()
            tx.execute("INSERT INTO public.t VALUES (1)")
        held.check()
    assert [1] == rows(connection)
    with psycopg.connect(database.url) as other:
        other.execute("UPDATE usersync.job_locks SET owner = '?', lease_until = clock_timestamp()")
        time.sleep(0.6)
        with pytest.raises(Busy), lease.hold(database, "job", lease=timedelta(seconds=0.5), stop=Stop()):
            pass
        other.execute("SELECT 1")


def test_another_roles_transaction_is_left_alone(
    server: servers.Server, database: Database, connection: psycopg.Connection, table: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What this role may not look at is not ended; the message names the role, and the right that is missing.
    """
    monkeypatch.setattr(takeover, "LOCK_SECONDS", 1.0)
    servers.migrate(database)
    role = f"other_{os.getpid()}"
    connection.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA usersync TO {role};"
        f" GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA usersync TO {role}".encode()
    )
    other = Database(replace(server, user=role).url(connection.info.dbname), "target")
    try:
        with running(database, "fenced", seconds=0.5) as process:
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.6)
            with pytest.raises(Busy, match="has locked the job's row") as busy, lease.hold(other, "job", lease=SHORT, stop=Stop()):
                pass
            assert "GRANT pg_read_all_stats, pg_signal_backend" in busy.value.hint
    finally:
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_a_frozen_run_that_wakes_ends_fenced(database: Database, stop: Stop, connection: psycopg.Connection, table: None) -> None:
    """
    The error of a connection that the new owner cut is not "try again later" but Fenced: `hold` and `verdict` ask whose the job is.
    """
    with pytest.raises(Fenced), lease.hold(database, "job", lease=LONG, stop=stop) as old, data(database, stop) as tx:
        old.attach(tx)
        expire(connection)
        with lease.hold(database, "job", lease=LONG, stop=stop):
            pass
        servers.until(lambda: not connection.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (tx.info.backend_pid,)).fetchall())
        with errors.translated(database, "writing"):
            tx.execute("INSERT INTO public.t VALUES (1)")


def test_only_that_transaction_is_ended(database: Database, stop: Stop, connection: psycopg.Connection, table: None) -> None:
    """
    A backend that has gone on to another transaction (a pooler lends it to others) is left alone.
    """
    with ExitStack() as stack:
        old = stack.enter_context(lease.hold(database, "job", lease=LONG, stop=stop))
        tx = stack.enter_context(data(database, stop))
        old.attach(tx)
        tx.execute("COMMIT")
        transactions.begin(tx)
        expire(connection)
        with lease.hold(database, "job", lease=LONG, stop=stop):
            assert [(1,)] == tx.execute("SELECT 1").fetchall()
