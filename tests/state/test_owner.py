"""Whether the owner of a job is known to be dead."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from tests import servers
from usersync_cli.state.owner import Owner
from usersync_cli.state.owner import process as process_of


def test_ourselves_are_alive() -> None:
    """
    A running process is alive; so is its owner written down and read again.
    """
    assert not Owner.me().dead()
    assert not Owner.parse(json.dumps(vars(Owner.me()))).dead()


def test_a_pid_that_was_used_again_is_dead() -> None:
    """
    The same pid, started at another time, is another process.
    """
    assert replace(Owner.me(), started="1").dead()


def test_a_process_that_has_ended_is_dead_also_as_a_zombie() -> None:
    """
    A killed process that nobody has waited for has still a pid, but it holds nothing.
    """
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        owner = replace(Owner.me(), pid=process.pid, started=process_of(process.pid)[1])
        assert not owner.dead()
        process.kill()
        servers.until(owner.dead)
    assert owner.dead()


@pytest.mark.parametrize("elsewhere", [{"host": "web2"}, {"boot": "another"}, {"pids": 1}, {"boot": ""}])
def test_elsewhere_nothing_is_known(elsewhere: dict[str, object]) -> None:
    """
    On another host, before the last boot of this one, or in another container the pid says nothing: the lease has to run out.
    """
    assert not replace(Owner.me(), started="1", **elsewhere).dead()


def test_what_cannot_be_read_is_not_dead() -> None:
    """
    An owner that a later version wrote is not judged.
    """
    assert not Owner.parse('{"host": "web1", "shape": "new"}').dead()
    assert not Owner.parse("not JSON").dead()
