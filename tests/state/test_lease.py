"""One run per job: who holds it, who takes it over, and that who was replaced writes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from tests import servers
from tests.conftest import NewDatabase
from usersync_cli.clients.postgres import connections
from usersync_cli.errors import Busy, Fenced, Unavailable, UsersyncError
from usersync_cli.model import Counts, Database
from usersync_cli.signals import Stop
from usersync_cli.state import lease, ledger
from usersync_cli.state.lease import Lease, Owner

LONG = timedelta(seconds=60)
SHORT = timedelta(seconds=2)

# A run in a process of its own: holds the job, writes rows in a checkpoint, and waits for a line at one moment of it.
RUN = """
import select, sys
from datetime import timedelta
from usersync_cli.clients.postgres import connections
from usersync_cli.state import lease
from usersync_cli.errors import UsersyncError
from usersync_cli.model import Database
from usersync_cli.signals import Stop
database, stop, what = Database(sys.argv[1], "target"), Stop().install(), sys.argv[2]
def say(word):
    print(word, flush=True)
    while word == what and not select.select([sys.stdin], [], [], 0.1)[0]:
        stop.check()
try:
    with lease.hold(database, "job", lease=timedelta(seconds=float(sys.argv[3])), stop=stop) as held:
        say("held")
        with connections.connect(database, job="job", stop=stop, read_write=True) as tx:
            connections.begin(tx, long=True)
            held.attach(tx)
            with tx.cursor() as cursor, cursor.copy("COPY public.t FROM STDIN") as copy:
                copy.write(b"1\\n")
                say("copying")
            with connections.translated(database, "writing"), held.checkpoint(tx):
                say("fenced")
                tx.execute("INSERT INTO public.t VALUES (2)")
        held.finish(exit_status=0)
except UsersyncError as error:
    print(type(error).__name__, flush=True)
"""


@pytest.fixture
def stop() -> Stop:
    return Stop()


@contextmanager
def data(database: Database, stop: Stop) -> Iterator[connections.Connection]:
    """A data connection with a transaction begun."""
    with connections.connect(database, job="test", stop=stop, read_write=True) as tx:
        connections.begin(tx, long=True)
        yield tx


@contextmanager
def running(database: Database, at: str, seconds: float = 60) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the job and stays at this word: held, copying, fenced."""
    command = [sys.executable, "-c", RUN, database.url, at, str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            for line in process.stdout:
                if line.strip() == at:
                    break
            yield process
        finally:
            process.kill()


def refused(database: Database, stop: Stop, match: str = "another run holds the job") -> None:
    with pytest.raises(Busy, match=match), lease.hold(database, "job", lease=LONG, stop=stop):
        pass


def expire(connection: psycopg.Connection) -> None:
    connection.execute("UPDATE usersync.job_locks SET lease_until = clock_timestamp() - interval '1 s'")


@pytest.fixture
def table(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE public.t (a int)")


def rows(connection: psycopg.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT a FROM public.t ORDER BY a")]


def test_a_second_holder_is_busy_and_told_by_whom(database: Database, stop: Stop) -> None:
    """
    While a run holds the job another is refused with exit 75 and the holder's host and pid; another job is free.
    """
    busy = rf"job: another run holds the job: host .*, pid {os.getpid()}, since 20.* UTC"
    with lease.hold(database, "job", lease=LONG, stop=stop), lease.hold(database, "other job", lease=LONG, stop=stop):
        refused(database, stop, busy)


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
        connections.begin(tx)
        with held.checkpoint(tx):
            tx.execute("INSERT INTO public.t VALUES (2)")

    assert [1, 2] == rows(connection)


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
    monkeypatch.setattr(lease, "LOCK_SECONDS", 1.0)
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
    monkeypatch.setattr(lease, "LOCK_SECONDS", 1.0)
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
    monkeypatch.setattr(lease, "LOCK_SECONDS", 1.0)
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
        with connections.translated(database, "writing"):
            tx.execute("INSERT INTO public.t VALUES (1)")


def test_an_error_of_a_run_that_holds_its_job_stays_what_it_is(database: Database, stop: Stop, connection: psycopg.Connection) -> None:
    """
    A connection that somebody else cut is Unavailable, as long as the job is still ours.
    """
    with lease.hold(database, "job", lease=LONG, stop=stop) as held:
        error = Unavailable("connection lost")

        assert error is held.verdict(error)


def test_only_that_transaction_is_ended(database: Database, stop: Stop, connection: psycopg.Connection, table: None) -> None:
    """
    A backend that has gone on to another transaction (a pooler lends it to others) is left alone.
    """
    with ExitStack() as stack:
        old = stack.enter_context(lease.hold(database, "job", lease=LONG, stop=stop))
        tx = stack.enter_context(data(database, stop))
        old.attach(tx)
        tx.execute("COMMIT")
        connections.begin(tx)
        expire(connection)
        with lease.hold(database, "job", lease=LONG, stop=stop):
            assert [(1,)] == tx.execute("SELECT 1").fetchall()


class TestOwner:
    """Who counts as dead."""

    def test_ourselves_are_alive(self) -> None:
        """
        A running process is alive; so is its owner written down and read again.
        """
        assert not Owner.me().dead()
        assert not Owner.parse(json.dumps(vars(Owner.me()))).dead()

    def test_a_pid_that_was_used_again_is_dead(self) -> None:
        """
        The same pid, started at another time, is another process.
        """
        assert replace(Owner.me(), started="1").dead()

    def test_a_process_that_has_ended_is_dead_also_as_a_zombie(self) -> None:
        """
        A killed process that nobody has waited for has still a pid, but it holds nothing.
        """
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
            owner = replace(Owner.me(), pid=process.pid, started=lease._process(process.pid)[1])
            assert not owner.dead()
            process.kill()
            servers.until(owner.dead)
        assert owner.dead()

    @pytest.mark.parametrize("elsewhere", [{"host": "web2"}, {"boot": "another"}, {"pids": 1}, {"boot": ""}])
    def test_elsewhere_nothing_is_known(self, elsewhere: dict[str, object]) -> None:
        """
        On another host, before the last boot of this one, or in another container the pid says nothing: the lease has to run out.
        """
        assert not replace(Owner.me(), started="1", **elsewhere).dead()

    def test_what_cannot_be_read_is_not_dead(self) -> None:
        """
        An owner that a later version wrote is not judged.
        """
        assert not Owner.parse('{"host": "web1", "shape": "new"}').dead()
        assert not Owner.parse("not JSON").dead()


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
        tx.alive = held._control._silent  # the real one asks for 10 s whether the server answers
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
        connections.begin(tx)
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
        connections.begin(tx)
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
    connections.begin(tx)


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
