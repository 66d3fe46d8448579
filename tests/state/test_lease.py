"""One run per job: who holds it, who takes it over, and that who was replaced writes nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import timedelta

import psycopg
import pytest

from tests import servers
from tests.conftest import NewDatabase
from tests.state.holding import LONG, SHORT, data, expire, refused, rows, running
from usersync_cli.clients.postgres import connections, transactions
from usersync_cli.errors import Fenced, Unavailable, UsersyncError
from usersync_cli.model import Counts, Database
from usersync_cli.signals import Stop
from usersync_cli.state import lease, ledger
from usersync_cli.state.lease import Lease


def test_leaving_releases_on_any_outcome(database: Database, stop: Stop, connection: psycopg.Connection) -> None:
    """
    After success, an error of ours and a bug the job is free at once, and the ledger knows how each ended.
    """
    with lease.hold(database, "job", lease=LONG, stop=stop, full=True) as held:
        held.finish(exit_status=0, summary="all well")
    with pytest.raises(Unavailable), lease.hold(database, "job", lease=LONG, stop=stop):
        raise Unavailable("the source is away")
    with pytest.raises(ZeroDivisionError), lease.hold(database, "job", lease=LONG, stop=stop) as last:
        raise ZeroDivisionError

    runs = [(run.status, run.exit_status, run.full, run.summary, run.error, run.epoch) for run in ledger.last_runs(connection, "job")]
    assert [
        ("failed", 1, False, None, None, 3),
        ("failed", 4, False, None, "the source is away", 2),
        ("ok", 0, True, "all well", None, 1),
    ] == runs
    assert (3, 0) == (last.epoch, last.crashed)
    assert {} == ledger.holders(connection)


def test_the_lease_is_renewed_while_the_run_lasts(database: Database, stop: Stop, connection: psycopg.Connection) -> None:
    """
    A thread renews: a run of twice its lease still holds the job. It does not for a run without a sign of life.
    """
    with lease.hold(database, "job", lease=timedelta(seconds=1), stop=stop) as held:
        time.sleep(2)
        refused(database, stop)
        held.progress = lambda: time.monotonic() - lease.PROGRESS_SECONDS - 1
        servers.until(lambda: not ledger.holders(connection))


def test_a_lost_lease_is_noticed_by_the_renewing_thread(database: Database, stop: Stop, connection: psycopg.Connection) -> None:
    """
    Whoever is replaced while fetching hears of it from `check` within a quarter of the lease.
    """
    with lease.hold(database, "job", lease=SHORT, stop=stop) as held:
        held.check()
        connection.execute("UPDATE usersync.job_locks SET epoch = epoch + 1")
        time.sleep(0.8)
        with pytest.raises(Fenced):
            held.check()


@pytest.mark.slow
def test_a_checkpoint_may_outlast_the_lease(database: Database, connection: psycopg.Connection, table: None) -> None:
    """
    A merge of 6 s under a lease of 2 s, with another waiting for the row when it commits: the first ends well, the other is busy.
    """
    stop = Stop()
    other = (
        "import sys; from datetime import timedelta; from usersync_cli.state import lease; from usersync_cli.model import Database;"
        " from usersync_cli.signals import Stop; from usersync_cli.errors import Busy\n"
        "try:\n with lease.hold(Database(sys.argv[1], 'target'), 'job', lease=timedelta(seconds=2), stop=Stop()): print('took it')\n"
        "except Busy: print('busy')"
    )
    with lease.hold(database, "job", lease=SHORT, stop=stop) as held, data(database, stop) as tx:
        with held.checkpoint(tx):
            tx.execute("SELECT pg_sleep(0.3)")
            first = subprocess.Popen([sys.executable, "-c", other, database.url], stdout=subprocess.PIPE, text=True)
            tx.execute("SELECT pg_sleep(3.7)")
            second = subprocess.Popen([sys.executable, "-c", other, database.url], stdout=subprocess.PIPE, text=True)
            tx.execute("SELECT pg_sleep(2)")
            tx.execute("INSERT INTO public.t VALUES (1)")
        assert ["busy\n", "busy\n"] == [first.communicate()[0], second.communicate()[0]]
        held.check()
        transactions.begin(tx)
        with held.checkpoint(tx):
            tx.execute("INSERT INTO public.t VALUES (2)")

    assert [1, 2] == rows(connection)


def test_an_error_of_a_run_that_holds_its_job_stays_what_it_is(database: Database, stop: Stop, connection: psycopg.Connection) -> None:
    """
    A connection that somebody else cut is Unavailable, as long as the job is still ours.
    """
    with lease.hold(database, "job", lease=LONG, stop=stop) as held:
        error = Unavailable("connection lost")

        assert error is held.verdict(error)


@pytest.mark.parametrize(("then", "arrives"), [("cut", False), ("cut after", True)])
def test_a_connection_lost_in_commit_is_looked_up_not_guessed(
    database: Database, connection: psycopg.Connection, proxy: servers.Proxy, table: None, *, then: str, arrives: bool
) -> None:
    """
    COMMIT that reached the server is a success, with `tx` closed; one that did not is Unavailable, and the row is not there.
    """
    stop = Stop()
    behind = Database(proxy.url(connection.info.dbname), "target")
    with lease.hold(database, "job", lease=LONG, stop=stop) as held, data(behind, stop) as tx:
        proxy.at(b"COMMIT", then)
        try:
            with held.checkpoint(tx):
                tx.execute("INSERT INTO public.t VALUES (1)")
            outcome = "committed"
        except Unavailable as error:
            outcome = error.message

    assert proxy.happened.is_set()
    assert tx.closed
    assert ("committed" if arrives else "target: the connection was lost in COMMIT; the checkpoint was rolled back") == outcome
    assert ([1] if arrives else []) == rows(connection)


@pytest.mark.slow
def test_a_commit_that_never_arrives_at_a_frozen_connection(
    database: Database, connection: psycopg.Connection, proxy: servers.Proxy, stop: Stop, table: None
) -> None:
    """
    The network swallows COMMIT and keeps the connection: the server waits on, so its transaction is ended, then looked up.
    """
    behind = Database(proxy.url(connection.info.dbname), "target")
    with lease.hold(database, "job", lease=LONG, stop=stop) as held, data(behind, stop) as tx:
        tx.silence_seconds = 1
        tx.alive = held._control.silent  # the real one asks for 10 s whether the server answers
        proxy.at(b"COMMIT", "freeze")
        with pytest.raises(Unavailable, match="rolled back"), held.checkpoint(tx):
            tx.execute("INSERT INTO public.t VALUES (1)")

    assert [] == rows(connection)


def test_the_lease_survives_its_control_connection(database: Database, connection: psycopg.Connection, stop: Stop) -> None:
    """
    A control connection that breaks is made anew; the job stays held, renewed and is released.
    """
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with lease.hold(database, "job", lease=timedelta(seconds=1), stop=stop) as held:
        for _ in range(3):
            connection.execute(kill)
            time.sleep(0.5)
        held.check()
        assert {"job"} == set(ledger.holders(connection))
        connection.execute(kill)
        held.finish(exit_status=0)
        connection.execute(kill)

    assert {} == ledger.holders(connection)
    assert "ok" == ledger.last_runs(connection)[0].status


@pytest.mark.slow
def test_a_frozen_server_does_not_keep_us(database: Database, connection: psycopg.Connection, proxy: servers.Proxy, stop: Stop) -> None:
    """
    When the control connection freezes, leaving takes 10 s at most, with the error that the run ended with.
    """
    behind = Database(proxy.url(connection.info.dbname), "target")
    with pytest.raises(Unavailable, match="silent"), lease.hold(behind, "job", lease=LONG, stop=stop):
        proxy.frozen = True
        began = time.monotonic()
        raise Unavailable("the server is silent")

    assert lease.RELEASE_SECONDS + 1 > time.monotonic() - began


@pytest.mark.parametrize("moment", ["held", "copying", "fenced"])
def test_sigterm_rolls_back_and_releases(database: Database, connection: psycopg.Connection, table: None, moment: str) -> None:
    """
    SIGTERM at any moment before COMMIT: the run ends within 2 s, its transaction rolled back, the job free, the ledger says stopped.
    """
    with running(database, moment) as process:
        process.send_signal(signal.SIGTERM)
        process.wait(2)
        said = process.stdout.read() if process.stdout else ""

    assert "Stopped\n" == said
    assert {} == ledger.holders(connection)
    assert [("stopped", 143)] == [(run.status, run.exit_status) for run in ledger.last_runs(connection)]
    assert [] == rows(connection)


def test_a_bug_in_the_body_rolls_back(database: Database, connection: psycopg.Connection, stop: Stop, table: None) -> None:
    """
    Any exception in a checkpoint rolls it back, and the same connection and lease serve the next one.
    """
    with lease.hold(database, "job", lease=LONG, stop=stop) as held, data(database, stop) as tx:
        with pytest.raises(ZeroDivisionError), held.checkpoint(tx):
            tx.execute("INSERT INTO public.t VALUES (1)")
            raise ZeroDivisionError
        transactions.begin(tx)
        with held.checkpoint(tx):
            tx.execute("INSERT INTO public.t VALUES (2)")

    assert [2] == rows(connection)


def test_a_deferred_constraint_fails_as_itself(database: Database, connection: psycopg.Connection, stop: Stop) -> None:
    """
    An error that COMMIT itself raises is that error, and nothing was written.
    """
    connection.execute("CREATE TABLE public.t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    deferred = pytest.raises(UsersyncError, match=r"unique violation.*23505")
    with lease.hold(database, "job", lease=LONG, stop=stop) as held, data(database, stop) as tx, deferred, held.checkpoint(tx):
        tx.execute("INSERT INTO public.t VALUES (1), (1)")

    assert [] == rows(connection)


def test_through_a_pooler_in_transaction_mode(connection: psycopg.Connection, pgbouncer: servers.Server, stop: Stop, table: None) -> None:
    """
    Everything of the lease works behind PgBouncer: two holders, a checkpoint, a take-over that fences.
    """
    pooled = Database(pgbouncer.url(connection.info.dbname), "target")
    with pytest.raises(Fenced), lease.hold(pooled, "job", lease=LONG, stop=stop) as old, data(pooled, stop) as tx:
        old.attach(tx)
        with old.checkpoint(tx):
            tx.execute("INSERT INTO public.t VALUES (1)")
        refused(pooled, stop)
        expire(connection)
        transactions.begin(tx)
        tx.execute("INSERT INTO public.t VALUES (2)")
        with lease.hold(pooled, "job", lease=LONG, stop=stop), old.checkpoint(tx):
            pass

    assert [1] == rows(connection)


def test_on_postgres_15(postgres15: servers.Server, new_database: NewDatabase, stop: Stop) -> None:
    """
    The oldest server that we support has all that the lease needs.
    """
    database = new_database(on=postgres15)
    with lease.hold(database, "job", lease=LONG, stop=stop) as held, data(database, stop) as tx:
        held.start_step("users")
        held.attach(tx)
        with held.checkpoint(tx):
            ledger.count(tx, held.run_id, "users", Counts(read=1, inserted=1), done=True)
        held.finish(exit_status=0)
        assert ["ok"] == [run.status for run in ledger.last_runs(tx)]


def checkpoint_counts(held: Lease, tx: connections.Connection, counts: Counts) -> None:
    with held.checkpoint(tx):
        ledger.count(tx, held.run_id, "users", counts)
    transactions.begin(tx)


def test_counts_are_there_exactly_if_the_rows_are(database: Database, connection: psycopg.Connection, stop: Stop) -> None:
    """
    Counts of committed checkpoints add up in the step's row; those of one that was rolled back are not there.
    """
    with lease.hold(database, "job", lease=LONG, stop=stop) as held, data(database, stop) as tx:
        held.start_step("users")
        checkpoint_counts(held, tx, Counts(read=3, inserted=2, duplicates=1))
        checkpoint_counts(held, tx, Counts(read=1, updated=1))
        with pytest.raises(ZeroDivisionError), held.checkpoint(tx):
            ledger.count(tx, held.run_id, "users", Counts(read=100))
            raise ZeroDivisionError
        held.finish_step("users", "failed", error=Unavailable("the source is away"))
        held.finish(exit_status=4, error=Unavailable("the source is away", hint="wait"))

    (run,) = ledger.last_runs(connection, "job")
    assert ("failed", 4, "the source is away", "wait") == (run.status, run.exit_status, run.error, run.error_hint)
    (step,) = run.steps
    assert ("users", "failed", "the source is away") == (step.step, step.status, step.error)
    assert Counts(read=4, inserted=2, updated=1, duplicates=1) == step.counts
    assert step.counts.adds_up()
