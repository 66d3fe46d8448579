"""What happens at night: two runs at once, runs that are frozen, stopped and killed, servers that go away. Real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests import servers
from tests.conftest import Command, NewDatabase, Result
from tests.simple_job import DAWDLE, PASSWORD, READING, SLEEPING, SLOW, Job, clean, finished

STAGED = {"transform": "SELECT id, name FROM records"}
READY = "CREATE TABLE people (id int PRIMARY KEY, name text)"


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Job:
    return Job(usersync, new_database("source crm"), new_database())


@pytest.fixture
def hole() -> Iterator[str]:
    """A URL where somebody takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield f"postgresql://postgres@127.0.0.1:{listener.getsockname()[1]}/x"


def converges(job: Job, *names: str) -> Result:
    """The next run starts at once, ends 0, and the target is what the source is."""
    result = job.run(timeout=20)

    assert (0, list(enumerate(names, 1))) == (result.status, job.loaded()), result
    return result


# two at once


@pytest.mark.slow
def test_two_runs_at_once(job: Job) -> None:
    """
    A merge of 6 s under a lease of 2 s: the first run ends 0, whoever comes in between ends 75, the cursor moves once.
    """
    job.write(lease="2s")
    job.at_target(READY + ";" + DAWDLE.format(seconds=6))
    job.people("One")
    assert 0 == job.run().status
    _, epoch, version = job.lock()

    job.people("slow")
    with job.started() as first:
        job.wait_for(SLEEPING)
        with job.started() as second:
            time.sleep(2.5)
            third = job.run()
            results = [finished(first), finished(second), third]

    assert [0, 75, 75] == [result.status for result in results]
    assert re.search(r"another run holds the job: host \S+, pid \d+, since .* UTC", third.stderr)
    assert (None, epoch + 1, version + 1) == job.lock()
    assert [(1, "slow")] == job.loaded()
    assert [("ok", 0), ("ok", 0)] == job.runs()


@pytest.mark.slow
def test_a_run_frozen_in_copy_is_replaced(usersync: Command, new_database: NewDatabase, tmp_path: Path) -> None:
    """
    SIGSTOP in the middle of COPY, into a stage or straight into an empty table, for three leases: another run finishes
    meanwhile; after SIGCONT the first ends 76, and none of its rows are there.
    """
    jobs = []
    for name, how in {"staged": STAGED, "direct": {}}.items():
        (tmp_path / name).mkdir()
        job = Job(Command(tmp_path / name, usersync.environment), new_database("source crm"), new_database())
        job.write(extract={"query": SLOW}, lease="2s", **how)  # type: ignore[arg-type]
        job.people(*["old"] * 100)
        job.at_target(READY)
        jobs.append(job)
    with jobs[0].started() as staged, jobs[1].started() as direct:
        for job, process in zip(jobs, (staged, direct), strict=True):
            job.wait_for(READING)
            process.send_signal(signal.SIGSTOP)
            job.people("new")
        frozen = time.monotonic()
        time.sleep(max(0, frozen + 6 - time.monotonic()))
        for job in jobs:
            converges(job, "new")
        for process in (staged, direct):
            process.send_signal(signal.SIGCONT)
        results = [finished(staged), finished(direct)]

    assert [76, 76] == [result.status for result in results], results
    for job in jobs:
        assert [(1, "new")] == job.loaded()
        assert [("crashed", None), ("ok", 0)] == job.runs()


# signals


def connecting_to_target(job: Job, hole: str) -> str:
    job.write(target=hole)
    return ""


def connecting_to_source(job: Job, hole: str) -> str:
    job.write(source=hole)
    return "state = 'idle' AND EXISTS (SELECT FROM usersync.runs WHERE status = 'running')"


def reading(job: Job, hole: str) -> str:
    job.write(extract={"query": SLOW}, **STAGED)  # type: ignore[arg-type]
    job.people(*["old"] * 100)
    return READING


def reading_without_a_row(job: Job, hole: str) -> str:
    job.write(extract={"query": "SELECT id, name FROM people_at_source WHERE pg_sleep(30) IS NOT NULL"})
    job.people("old")
    return "query LIKE 'COPY%FROM STDIN%'"


def merging(job: Job, hole: str) -> str:
    job.at_target(DAWDLE.format(seconds=30))
    job.people("slow")
    return SLEEPING


PHASES = [connecting_to_target, connecting_to_source, reading, reading_without_a_row, merging]


@contextmanager
def run_in(phase: object, job: Job, hole: str) -> Iterator[subprocess.Popen[str]]:
    """A run that has arrived in a phase; before it, a run has loaded Test User before."""
    job.at_target(READY)
    job.people("before")
    assert 0 == job.run().status
    moment = phase(job, hole)  # type: ignore[operator]
    with job.started() as process:
        if moment:
            job.wait_for(moment)
        elif process.poll() is None:
            servers.until(lambda: "usersync" in _command(process.pid) and _connections(process.pid))
        time.sleep(0.3)
        yield process


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def _connections(pid: int) -> list[str]:
    """The open sockets of a process."""
    with suppress(FileNotFoundError):
        return [link for fd in Path(f"/proc/{pid}/fd").iterdir() if (link := str(fd.readlink())).startswith("socket:")]
    return []


@pytest.mark.parametrize(
    ("signum", "phase"),
    [
        *((signal.SIGTERM, phase) for phase in PHASES),
        (signal.SIGINT, reading),
        (signal.SIGINT, connecting_to_target),
        (signal.SIGHUP, merging),
    ],
)
def test_a_signal_ends_a_run_soon(job: Job, hole: str, signum: signal.Signals, phase: object) -> None:
    """
    SIGTERM, SIGINT and SIGHUP end a run soon, with 128 and the signal's number, and nothing half; the job is free at once, the
    ledger says stopped.
    """
    with run_in(phase, job, hole) as process:
        process.send_signal(signum)
        began = time.monotonic()
        result = finished(process)

    assert 128 + signum == result.status, result
    assert time.monotonic() - began < 5  # it says 2 s; this is a slow machine
    assert [(1, "before")] == job.loaded()
    assert job.lock()[0] is None
    assert [("ok", 0), ("stopped", 128 + signum)][: 1 if phase is connecting_to_target else 2] == job.runs()

    job.write()
    job.people("after")
    assert "ended without a word" not in converges(job, "after").stderr


def test_a_terminal_that_goes_away_ends_a_run(job: Job) -> None:
    """
    Who closes the window stops the run as SIGTERM does, although nothing can be printed any more; under nohup it goes on.
    """
    job.at_target(READY)
    job.at_target(DAWDLE.format(seconds=30))
    job.people("slow")
    command = ["setsid", "--ctty", sys.executable, "-m", "usersync_cli", "run", "--job", "copy"]
    ours, theirs = os.openpty()
    with subprocess.Popen(
        command, cwd=job.usersync.folder, env=job.usersync.environment, stdin=theirs, stdout=theirs, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        job.wait_for(SLEEPING)
        os.close(ours)
        assert 129 == process.wait(10)
    assert [("stopped", 129)] == job.runs()
    assert job.lock()[0] is None


def test_nohup_is_heeded() -> None:
    """
    Where SIGHUP is ignored already, it stays ignored.
    """
    script = (
        "import signal; from usersync_cli.signals import Stop; Stop().install(); print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    )
    done = subprocess.run(["nohup", sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "True\n" == done.stdout


@pytest.mark.slow
def test_a_commit_is_waited_for(job: Job, proxy: servers.Proxy) -> None:
    """
    SIGTERM while the last COMMIT is under way (here: on a slow network): its outcome is waited for, and a run that has done all ends 0.
    """
    job.write(extract={"query": SLOW}, target=proxy.url(job.target.url.split("/")[3].split("?")[0]), **STAGED)  # type: ignore[arg-type]
    job.people(*["One"] * 10)
    with job.started() as process:
        job.wait_for(READING)
        proxy.at(b"COMMIT\0", "freeze")
        assert proxy.happened.wait(20)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2.5)
        proxy.frozen = False
        result = finished(process)

    assert (0, 10) == (result.status, len(job.loaded()))
    assert [("ok", 0)] == job.runs()
    assert job.lock()[0] is None


def test_a_signal_between_two_steps(job: Job) -> None:
    """
    What was committed stays: a signal in the second step leaves the first one's rows and its word in the ledger.
    """
    job.people(*["One"] * 100)
    job.write(extract={"query": SLOW}, **STAGED)  # type: ignore[arg-type]
    (slow,) = job.document["jobs"]["copy"]["steps"]
    quick = {"name": "quick", "extract": {"source": "crm", "table": "people_at_source"}, "load": {**slow["load"], "table": "quick"}}
    job.document["jobs"]["copy"]["steps"] = [quick, slow, {**quick, "name": "never"}]
    job.save()
    with job.started() as process:
        job.wait_for(READING)
        process.send_signal(signal.SIGTERM)
        result = finished(process)

    assert 143 == result.status, result
    assert [("people", "stopped"), ("quick", "ok")] == job.at_target("SELECT step, status FROM usersync.run_steps ORDER BY step")
    assert [(100,)] == job.at_target("SELECT count(*) FROM quick")
    assert "copy: quick: 100 records: 100 new" in result.stdout


def test_pid_1_stops_on_sigterm(job: Job) -> None:
    """
    As the first process of a container, which has no default handlers, it ends on SIGTERM like anywhere else.
    """
    inside = ["unshare", "--pid", "--fork", "--mount-proc"]
    with suppress(FileNotFoundError):
        if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode == 0:
            job.write(extract={"query": SLOW})
            job.people(*["One"] * 100)
            command = [*inside, sys.executable, "-m", "usersync_cli", "run", "--job", "copy"]
            with subprocess.Popen(
                command, cwd=job.usersync.folder, env=job.usersync.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as process:
                job.wait_for(READING)
                (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                os.kill(int(child), signal.SIGTERM)
                assert 143 == finished(process, 5).status
            assert job.lock()[0] is None
            return
    pytest.skip("unshare is not permitted here")


def test_max_runtime_ends_a_run(job: Job) -> None:
    """
    Past --max-runtime (or the job's max_runtime) a run ends with 4 at the next safe point, nothing half.
    """
    job.write(extract={"query": SLOW}, **STAGED)  # type: ignore[arg-type]
    job.people(*["One"] * 100)
    job.at_target(READY)
    result = job.run("--max-runtime", "1s")

    assert (4, []) == (result.status, job.loaded())
    assert "longer than --max-runtime" in result.stderr
    assert [("failed", 4)] == job.runs()


# kill -9


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_run_does_not_block_the_next(job: Job, hole: str, phase: object) -> None:
    """
    kill -9 in any phase: the next run on this host starts at once, says that one ended without a word, and converges.
    """
    with run_in(phase, job, hole) as process:
        process.kill()
        process.wait()
    job.write()
    job.people("after", "all")
    result = converges(job, "after", "all")

    known = phase is not connecting_to_target
    assert known == ("an earlier run ended without a word" in result.stderr)
    assert [("ok", 0), *([("crashed", None)] if known else []), ("ok", 0)] == job.runs()


@pytest.mark.slow
def test_killed_while_it_waits_for_the_job(job: Job) -> None:
    """
    kill -9 in the middle of taking the job leaves no run behind.
    """
    job.people("One")
    job.run()
    with psycopg.connect(job.target.url) as other:
        other.execute("SELECT FROM usersync.job_locks FOR UPDATE")
        with job.started() as process:
            job.wait_for("wait_event_type = 'Lock'")
            process.kill()
    job.people("Two")

    assert "without a word" not in converges(job, "Two").stderr
    assert [("ok", 0), ("ok", 0)] == job.runs()


def test_killed_after_its_commit(job: Job) -> None:
    """
    kill -9 between COMMIT and the ledger's last word: the rows are there, the next run finds nothing to do and says what it found.
    """
    job.people("before")
    job.run()
    job.write(extract={"query": SLOW.replace("150000", "0")}, **STAGED)  # type: ignore[arg-type]
    job.people(*["One"] * 10)
    with job.started() as process, psycopg.connect(job.target.url) as other:
        job.wait_for("query LIKE 'COPY%FROM STDIN%'")
        other.execute("LOCK usersync.runs IN SHARE MODE")
        job.wait_for("wait_event_type = 'Lock' AND query LIKE 'UPDATE usersync.runs%'")
        process.kill()
        process.wait()
        waiting = "wait_event_type = 'Lock' AND query LIKE 'UPDATE usersync.runs%'"
        other.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {waiting}".encode())
    loaded = job.loaded()
    result = job.run()

    assert 10 == len(loaded)
    assert loaded == job.loaded()
    assert "nothing changed" in result.stdout
    assert "an earlier run ended without a word" in result.stderr
    assert [("ok", 0), ("crashed", None), ("ok", 0)] == job.runs()


@pytest.mark.parametrize("then", ["freeze", "cut after"])
def test_killed_in_commit(job: Job, proxy: servers.Proxy, then: str) -> None:
    """
    kill -9 in COMMIT, whether it arrived or not: all rows are there or none, and the next run converges.
    """
    through_proxy(job, proxy)
    with job.started() as process:
        job.wait_for(READING)
        proxy.at(b"COMMIT\0", then)
        assert proxy.happened.wait(20)
        process.kill()
        process.wait()
    proxy.frozen = False

    active = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'usersync/%' AND datname = current_database() AND state = 'active'"
    servers.until(lambda: not job.at_target(active))
    assert len(job.loaded()) in {0, 10}
    job.write()
    job.people("One", "Two")
    result = job.run()
    assert 0 == result.status
    assert [(1, "One"), (2, "Two")] == job.loaded()[:2]


def through_proxy(job: Job, proxy: servers.Proxy) -> None:
    """Ten people, read slowly, into a target behind the proxy."""
    job.at_target(READY)
    job.people(*["Ten"] * 10)
    name = job.at_target("SELECT current_database()")[0][0]
    job.write(extract={"query": SLOW}, target=proxy.url(name), **STAGED)  # type: ignore[arg-type]


@pytest.mark.parametrize(("then", "rows"), [("cut", 0), ("cut after", 10)])
def test_a_connection_that_is_cut_in_commit(job: Job, proxy: servers.Proxy, then: str, rows: int) -> None:
    """
    COMMIT that arrived is a success although nobody answered; one that did not is exit 4 and nothing written. The next run converges.
    """
    through_proxy(job, proxy)
    with job.started() as process:
        job.wait_for(READING)
        proxy.at(b"COMMIT\0", then)
        result = finished(process)

    assert proxy.happened.is_set()
    assert (0 if rows else 4, rows) == (result.status, len(job.loaded())), result
    assert 0 == job.run().status
    assert 10 == len(job.loaded())


def test_a_target_that_goes_away_while_reading(job: Job, proxy: servers.Proxy) -> None:
    """
    The target's connection is lost while rows are staged: exit 4, nothing written, the job free.
    """
    through_proxy(job, proxy)
    with job.started() as process:
        job.wait_for(READING)
        proxy.cut()
        result = finished(process)

    assert (4, []) == (result.status, job.loaded()), result
    assert job.lock()[0] is None
    assert 0 == job.run().status


# servers that do not let us in


def test_an_unreachable_server(job: Job) -> None:
    """
    A server that is down is exit 4, as target and as source, and the message says which of them.
    """
    nobody = f"postgresql://postgres@127.0.0.1:{servers.free_port()}/x"
    job.write(target=nobody)
    target = job.run()
    job.write(source=nobody)
    source = job.run()

    assert (4, 4) == (target.status, source.status)
    assert "target: connecting: " in target.stderr
    assert "source crm: connecting: " in source.stderr
    assert "is the server running and reachable from here?" in source.stderr


def test_a_server_that_takes_the_call_and_says_nothing(job: Job, hole: str) -> None:
    """
    Connecting has its own time-out: exit 4.
    """
    job.write(source=hole + "?connect_timeout=2")
    result = job.run(timeout=20)

    assert (4, True) == (result.status, "timeout" in result.stderr), result


def test_a_missing_database(job: Job) -> None:
    """
    A database that does not exist is exit 2: it is the URL that has to be fixed.
    """
    name = job.source.url.split("/")[3].split("?")[0]
    job.write(target=job.target.url.replace(job.target.url.split("/")[3].split("?")[0], "nowhere"))
    target = job.run()
    job.write(source=job.source.url.replace(name, "nowhere"))
    source = job.run()

    assert (2, 2) == (target.status, source.status), (target, source)
    assert "fix the database in the URL" in target.stderr
    assert 'database "nowhere" does not exist' in source.stderr


@pytest.fixture
def guarded(postgres15: servers.Server) -> Iterator[servers.Server]:
    """A server where the role guarded needs its password, "right"."""
    hba = postgres15.folder / "pg_hba.conf"
    before = hba.read_text()
    postgres15.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    hba.write_text(f"local all guarded scram-sha-256\n{before}")
    postgres15.execute("SELECT pg_reload_conf()")
    url = postgres15.url().replace("postgres@", "guarded:wrong@")
    servers.until(lambda: _refused(url))
    yield postgres15
    hba.write_text(before)
    postgres15.execute("SELECT pg_reload_conf()")
    postgres15.execute("DROP ROLE guarded")


def _refused(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return True
    return False


def test_a_wrong_password(job: Job, guarded: servers.Server) -> None:
    """
    A password that the server refuses, or none: exit 2, and it is nowhere in the output.
    """
    results = []
    for user in (f"guarded:{PASSWORD}@", "guarded@"):
        url = guarded.url().replace("postgres@", user)
        job.write(target=url)
        results.append(job.run())
        job.write(source=url)
        results.append(job.run())

    assert [2, 2, 2, 2] == [result.status for result in results]
    assert "target: connecting: " in results[0].stderr
    assert "source crm: connecting: " in results[1].stderr
    assert all("fix the user or password in the URL" in result.stderr for result in results), results


@pytest.fixture
def clerk(server: servers.Server) -> Iterator[str]:
    """A role without any right of its own."""
    server.execute("CREATE ROLE clerk LOGIN")
    yield "clerk"
    for (name,) in server.execute("SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0'"):
        server.execute("DROP OWNED BY clerk", name)
    server.execute("DROP ROLE clerk")


def _as(url: str, role: str) -> str:
    return url.replace("postgres@", f"{role}@")


def test_the_schema_may_not_be_created(usersync: Command, new_database: NewDatabase, clerk: str) -> None:
    """
    Without the right to create the schema: exit 2 with the GRANT, and the GRANT is enough.
    """
    job = Job(usersync, new_database("source crm"), new_database(), migrated=False)
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text); GRANT SELECT, INSERT, UPDATE ON people TO clerk")
    job.people("One")
    job.write(target=_as(job.target.url, clerk))
    refused = job.run()
    grant = re.search(r"GRANT CREATE ON DATABASE .*?;", refused.stderr)

    assert 2 == refused.status
    assert grant, refused.stderr
    job.at_target(grant[0])
    converges(job, "One")


def test_an_administrator_makes_the_schema(usersync: Command, new_database: NewDatabase, clerk: str) -> None:
    """
    The other way that the message names: `usersync db upgrade --sql` run by somebody else, then the GRANTs that it prints.
    """
    job = Job(usersync, new_database("source crm"), new_database(), migrated=False)
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text); GRANT SELECT, INSERT, UPDATE ON people TO clerk")
    job.people("One")
    job.write(target=_as(job.target.url, clerk))
    grants = re.search(r"GRANT USAGE ON SCHEMA usersync .*;", job.run().stderr)
    job.at_target(usersync("db", "upgrade", "--sql").stdout)
    still = job.run()

    assert grants
    assert 2 == still.status
    assert grants[0] in still.stderr
    job.at_target(grants[0])
    converges(job, "One")


def test_no_right_to_make_temporary_tables(job: Job, clerk: str) -> None:
    """
    A role that may not make temporary tables: exit 2; `usersync check` prints the GRANT, and it is enough.
    """
    name = job.at_target("SELECT current_database()")[0][0]
    job.at_target(
        f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC; {READY}; GRANT SELECT, INSERT, UPDATE ON people TO clerk;"
        " GRANT USAGE ON SCHEMA usersync TO clerk; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA usersync TO clerk"
    )
    job.people("One")
    job.write(target=_as(job.target.url, clerk))
    refused = job.run()
    checked = clean(job.usersync("check", "--job", "copy"))
    grant = re.search(r"GRANT TEMPORARY ON DATABASE .*?;", checked.stdout)

    assert (2, 2) == (refused.status, checked.status), (refused, checked)
    assert "usersync check" in refused.stderr
    assert grant, checked
    job.at_target(grant[0])
    converges(job, "One")


def test_a_target_that_only_reads(job: Job, standby: servers.Server, server: servers.Server, clerk: str) -> None:
    """
    A standby as the target, or a role that may only read: exit 2, before anything is read.
    """
    standby.catch_up(server)
    name = job.at_target("SELECT current_database()")[0][0]
    job.write(target=standby.url(name))
    on_standby = job.run()
    server.execute("ALTER ROLE clerk SET default_transaction_read_only = on")
    job.write(target=_as(job.target.url, clerk))
    as_reader = job.run()

    assert (2, 2) == (on_standby.status, as_reader.status), (on_standby, as_reader)
    assert "point the target's URL at the primary" in on_standby.stderr


@pytest.mark.slow
def test_a_full_disk(usersync: Command, new_database: NewDatabase, postgres15: servers.Server) -> None:
    """
    The target's disk is full in the middle of a load: exit 4, what was there is there, and once there is room the next run goes on.
    """
    server = postgres15  # a standby of the other one could not follow it to this disk
    job = Job(usersync, new_database("source crm"), new_database(on=server))
    with small_tablespace(server) as tablespace:
        name = job.at_target("SELECT current_database()")[0][0]
        job.people("before")
        job.run()
        server.execute(f"ALTER DATABASE {name} SET TABLESPACE {tablespace}")
        job.at_source(
            "INSERT INTO people_at_source SELECT g, 'Test User ' || (SELECT string_agg(md5(random()::text), '')"
            " FROM generate_series(1, 300 + g * 0)) FROM generate_series(2, 6000) AS g"
        )
        full = job.run()
        left = job.loaded()
        job.people("after")
        again = job.run()
        found = job.loaded()
        server.execute(f"ALTER DATABASE {name} SET TABLESPACE pg_default")

    assert (4, [(1, "before")]) == (full.status, left), full
    assert "disk is full; nothing was lost" in full.stderr
    assert (0, [(1, "after")]) == (again.status, found)


@contextmanager
def small_tablespace(server: servers.Server) -> Iterator[str]:
    """A tablespace on a disk of 30 MB."""
    folder = Path(f"/tmp/us-small-{os.getpid()}")
    folder.mkdir()
    owner = server.folder.stat()
    mount = ["mount", "-t", "tmpfs", "-o", f"size=30m,uid={owner.st_uid},gid={owner.st_gid},mode=700", "tmpfs", str(folder)]
    try:
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting a small disk is not permitted here")
        server.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        try:
            yield "small"
        finally:
            server.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", str(folder)], capture_output=True, check=False)
        folder.rmdir()
