"""A run that is killed, or loses its database, at any moment: after the next run the target equals the source."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from tests.conftest import Command, NewDatabase
from tests.simple_job import PERSON, Job
from usersync_cli import log
from usersync_cli.connections import Connection
from usersync_cli.errors import UsersyncError

KILLS = int(os.environ.get("USERSYNC_TEST_KILLS", "30"))
PEOPLE = 60


@dataclass
class Fault:
    """What happens to the n-th call to a database of this process; `calls` counts them."""

    at: int = 0
    then: str = "cut"  # cut: the call does not arrive; lost: it does, and its answer not; kill: the process ends
    calls: int = 0
    connection: Connection | None = field(default=None, repr=False)


@contextmanager
def counting(fault: Fault) -> Iterator[Fault]:
    """Every call that waits for a database is counted, and one of them fails."""
    wait = Connection.wait

    def counted(self: Connection, gen: Generator[Any, Any, Any], *arguments: Any, **options: Any) -> Any:
        fault.calls += 1
        if fault.calls != fault.at:
            return wait(self, gen, *arguments, **options)
        if fault.then == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.then == "lost":
            wait(self, gen, *arguments, **options)
        hang_up(self)
        if fault.then == "lost":
            raise psycopg.OperationalError("the answer was lost")
        return wait(self, gen, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "wait", counted)
        yield fault


def hang_up(connection: Connection) -> None:
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


@dataclass
class Life:
    """A job with deletes and lists to approve, whose source never stands still."""

    job: Job
    chance: random.Random = field(default_factory=lambda: random.Random(20261123))
    used: list[int] = field(default_factory=list)  # lists that were approved

    def __post_init__(self) -> None:
        self.job.write(load={"on_missing": "delete"})
        self._refill()
        assert 0 == self.sync()

    def sync(self, **options: Any) -> int:
        """Exit status of a run in this process."""
        try:
            return self.job.sync(**options).exit_status
        except UsersyncError as error:
            return error.status

    def small_change(self) -> None:
        """Some come, some change, a few leave."""
        gone = ", ".join(map(str, self.chance.sample(range(1, PEOPLE), 3)))
        self.job.at_source(f"DELETE FROM people_at_source WHERE id IN ({gone})")
        self._refill(self.chance.sample(range(1, PEOPLE), 3))

    def big_loss(self) -> int:
        """So many leave that a person is asked. Returns the run whose list waits."""
        self._refill(range(1, PEOPLE))
        assert 0 == self.sync()
        gone = ", ".join(map(str, self.chance.sample(range(1, PEOPLE), 20)))
        self.job.at_source(f"DELETE FROM people_at_source WHERE id IN ({gone})")
        assert 6 == self.sync()
        ((run,),) = self.job.at_target("SELECT run_id FROM usersync.approvals WHERE status = 'waiting'")
        return int(run)

    def _refill(self, ids: Any = range(1, PEOPLE)) -> None:
        values = ", ".join(f"({i}, '{PERSON} {self.chance.random()}')" for i in ids)
        self.job.at_source(f"INSERT INTO people_at_source VALUES {values} ON CONFLICT (id) DO UPDATE SET name = excluded.name")

    def equal(self) -> None:
        """The target holds what the source holds, and every list that went was used once."""
        people = self.job.at_source("SELECT id, name FROM people_at_source ORDER BY id")
        assert people == self.job.at_target("SELECT id, name FROM people ORDER BY id")
        assert [(len(people), len(people))] == self.job.at_target(
            "SELECT keys, (SELECT count(*) FROM usersync.seen) FROM usersync.seen_streams"
        )

    def spent(self, list_: int) -> None:
        """The list is used up: exactly its rows went, in exactly one run."""
        ((status, keys, removed, runs),) = self.job.at_target(
            "SELECT status, keys, removed, (SELECT count(*) FROM usersync.run_steps WHERE run_id = ended_by AND gone = removed)"
            f" FROM usersync.approvals WHERE run_id = {list_}"
        )
        assert ("used", keys, 1) == (status, removed, runs)
        assert 10 == self.sync(approve_deletes=list_)


@pytest.fixture
def life(usersync: Command, new_database: NewDatabase) -> Life:
    log.configure(quiet=True)
    return Life(Job(usersync, new_database("source crm"), new_database()))


def forked(work: Callable[[], object]) -> int:
    """The process of its own that does this; it ends with 0, or is killed."""
    if child := os.fork():
        return child
    try:
        work()
    finally:
        os._exit(0)


def test_each_call_to_a_database_fails_once(life: Life) -> None:
    """
    The n-th call of a run fails, for all n: it never arrives, its answer is lost, or the process is killed there. The run
    says that it failed or has done its work whole; the next one makes the target equal; no approval is used twice.
    """
    with counting(Fault()) as whole:
        life.small_change()
        assert 0 == life.sync()
    assert 40 < whole.calls < 400, "the calls are not counted"

    ways = ["cut", "lost", "kill"]
    for n in range(1, whole.calls + 10):
        list_ = life.big_loss() if n % 4 == 0 else None
        if not list_:
            life.small_change()
        fault = Fault(n, ways[(n + n // 3) % 3])
        with counting(fault):
            if fault.then == "kill":
                child = forked(lambda approved=list_: life.sync(approve_deletes=approved))
                os.waitpid(child, 0)
            else:
                status = life.sync(approve_deletes=list_)
                assert status in {0, 4, 76}, fault
        waits = list_ and life.job.at_target(f"SELECT 1 FROM usersync.approvals WHERE run_id = {list_} AND status = 'waiting'")
        assert 0 == life.sync(approve_deletes=list_ if waits else None), fault
        life.equal()
        if list_:
            life.spent(list_)
    assert fault.calls < fault.at or fault.then == "kill", "the last ones should be past the end of the run"


def test_killed_at_any_moment(life: Life) -> None:
    """
    kill -9 at random moments: what was committed is whole, the next run goes on at once, and the target equals the source.
    """
    began = time.monotonic()
    life.small_change()
    life.sync()
    length = time.monotonic() - began
    inside = 0
    while inside < KILLS:
        list_ = life.big_loss() if inside % 4 == 0 else None
        if not list_:
            life.small_change()
        child = forked(lambda approved=list_: life.sync(approve_deletes=approved))
        time.sleep(life.chance.uniform(0, length))
        os.kill(child, signal.SIGKILL)
        _, how = os.waitpid(child, 0)
        inside += os.WIFSIGNALED(how)
        waits = list_ and life.job.at_target(f"SELECT 1 FROM usersync.approvals WHERE run_id = {list_} AND status = 'waiting'")
        assert 0 == life.sync(approve_deletes=list_ if waits else None)
        life.equal()
        if list_:
            life.spent(list_)
