"""The job by the real command, as a process that is killed, and two at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import Command
from tests.http_server import Asked
from tests.workos_job import LOAD, THREE, Copy
from tests.workos_server import KEY, OTHER_KEY, PATHS, WorkOS
from tests.workos_world import SECRET
from usersync_cli.model import Database

RUN = ("run", "--job", "workos", "--output", "json")
MEMBERS = PATHS["organization_memberships"]


@pytest.fixture
def workos() -> Iterator[WorkOS]:
    server = WorkOS()
    with server.running():
        users = [server.world.create_user() for _ in range(230)]
        for number in range(12):
            organization = server.world.create_organization(domains=[f"d{number}.example"])
            for user in users[number * 10 : number * 10 + 15]:
                server.world.create_membership(user, organization)
        yield server


@pytest.fixture
def copy(workos: WorkOS, database: Database) -> Copy:
    return Copy(workos, database)


def configured(usersync: Command, copy: Copy, **settings: Any) -> Command:
    """With this job in its config file."""
    steps = [{"name": "copy", "extract": {"source": "workos", "streams": list(THREE)}, "load": LOAD}]
    source = copy.server.settings(**settings)
    document = {"environment": "test", "target": copy.target.url, "sources": {"workos": source}, "jobs": {"workos": {"steps": steps}}}
    (usersync.folder / "config.yaml").write_text(json.dumps(document))
    return usersync


def at(path: str, number: int, then: Callable[[], None]) -> Callable[[Asked], None]:
    """What happens before the n-th request of a path is answered."""
    seen, lock = [0], threading.Lock()

    def before(asked: Asked) -> None:
        with lock:
            seen[0] += asked.path == path
            reached = asked.path == path and seen[0] == number
        if reached:
            then()

    return before


def killed(usersync: Command, workos: WorkOS, path: str, number: int) -> None:
    """A run that dies with kill -9 when the server has heard the n-th request of a path."""
    process: list[subprocess.Popen[str]] = []
    workos.before = at(path, number, lambda: os.kill(process[0].pid, signal.SIGKILL))
    with usersync.start(*RUN, "-q") as started:
        process.append(started)
        started.communicate(timeout=60)
    workos.before = lambda _asked: None
    assert started.returncode == -signal.SIGKILL, f"nobody asked {number} times for {path}"


@pytest.mark.parametrize(
    ("path", "number", "not_again"),
    [
        (PATHS["users"], 2, 1),
        (MEMBERS, 6, 3),
    ],
)
def test_killed_in_the_first_listing(path: str, number: int, not_again: int, workos: WorkOS, copy: Copy, usersync: Command) -> None:
    """
    The next run goes on where it was: pages of users that were stored are not read again, and what happened meanwhile is seen.
    """
    configured(usersync, copy)
    killed(usersync, workos, path, number)
    workos.world.delete_user(workos.world.ids("users")[0])
    workos.world.update_user(workos.world.ids("users")[50], last_name="User meanwhile")
    workos.world.create_membership(workos.world.ids("users")[-1], workos.world.ids("organizations")[0])

    with workos.requests() as counted:
        done = usersync(*RUN)

    assert done.status == 0, done.stderr
    assert counted.get(PATHS["users"], 0) <= 3 - not_again
    assert copy.differences() == {}


def test_killed_between_pages_of_the_log(workos: WorkOS, copy: Copy, usersync: Command) -> None:
    """
    What a checkpoint has stored is not read again, and nothing is missed: 2,400 events are three checkpoints.
    """
    configured(usersync, copy)
    assert usersync(*RUN).status == 0
    for number in range(2400):
        workos.world.update_user(workos.world.ids("users")[number % 230], last_name=f"User {number}")
    workos.world.delete_user(workos.world.ids("users")[0])
    killed(usersync, workos, "/events", 19)

    with workos.requests() as counted:
        done = usersync(*RUN)

    assert done.status == 0, done.stderr
    assert counted["/events"] <= 17
    assert copy.differences() == {}


def test_two_at_once(workos: WorkOS, copy: Copy, usersync: Command) -> None:
    """
    The second one is told that the first has the job (75), and breaks nothing.
    """
    configured(usersync, copy)
    reached, over = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        over.wait(60)

    workos.before = at(PATHS["organizations"], 1, wait)
    with usersync.start(*RUN) as first:
        assert reached.wait(60)
        second = usersync(*RUN)
        over.set()
        _, said = first.communicate(timeout=60)

    assert second.status == 75, second.stderr
    assert first.returncode == 0, said
    assert copy.differences(whole=True) == {}


def test_a_key_that_is_wrong_and_one_of_another_environment(workos: WorkOS, copy: Copy, usersync: Command) -> None:
    """
    Exit 2 and 7, a message that says what to do, and no secret in it; then the right key goes on.
    """
    assert configured(usersync, copy)(*RUN).status == 0
    wrong = configured(usersync, copy, api_key="sk_test_nobody-has-this")(*RUN)
    other = configured(usersync, copy, api_key=OTHER_KEY)(*RUN, "--full")
    right = configured(usersync, copy)(*RUN)

    assert [2, 7, 0] == [one.status for one in (wrong, other, right)]
    for one in (wrong, other):
        assert "api_key" in one.stderr
        assert all(word not in one.stderr + one.stdout for word in ("sk_test", KEY, SECRET, "Test User", "Traceback"))
    assert copy.differences(whole=True) == {}


def test_a_dry_run_writes_nothing(workos: WorkOS, copy: Copy) -> None:
    """
    Before the first run there is nothing to write in; afterwards neither rows nor the cursor move, and its counts are right.
    """
    assert not copy.run(dry_run=True).steps[0].error
    assert copy.ask("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'workos%'") == [(0,)]
    copy.ok()
    workos.world.delete_user(workos.world.ids("users")[0])
    workos.world.update_user(workos.world.ids("users")[0], last_name="User after")
    before = copy.untouched(), copy.ask("SELECT stream, value FROM usersync.cursors ORDER BY 1")

    dry = copy.run(dry_run=True).steps[0].counts

    assert (copy.untouched(), copy.ask("SELECT stream, value FROM usersync.cursors ORDER BY 1")) == before
    real = copy.run().steps[0].counts
    assert (dry.read, dry.updated, dry.gone) == (real.read, real.updated, real.gone) == (1, 1, 2)
