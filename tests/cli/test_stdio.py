"""stdout and stderr that are full, closed, or without a reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers
from tests.conftest import Command
from tests.simple_job import execute
from usersync_cli.model import Database


@pytest.fixture
def job(usersync: Command, database: Database) -> Command:
    """Job `copy`: people.jsonl into the table people; a run whose log can't be written has loaded it."""
    servers.migrate(database)
    document = {
        "environment": "test",
        "target": database.url,
        "sources": {"crm": {"type": "file", "streams": {"people": {"path": "people.jsonl", "key": "id"}}}},
        "jobs": {"copy": {"steps": [{"extract": {"source": "crm", "streams": ["people"]},
                                     "load": {"table": "people", "key": ["id"], "create": True}}]}},
    }  # fmt: skip
    (usersync.folder / "config.yaml").write_text(json.dumps(document))
    (usersync.folder / "people.jsonl").write_text("".join(f'{{"id": {i}}}\n' for i in range(3)))
    return usersync


def shell(job: Command, line: str) -> tuple[int, str]:
    """The status and stderr of a line of bash, where `usersync` is the command."""
    words = f"usersync() {{ '{sys.executable}' -m usersync_cli \"$@\"; }}; set -o pipefail; {line}"
    done = subprocess.run(
        ["bash", "-c", words],
        cwd=job.folder, env=job.environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", ">/dev/full 2>&1", ">&- 2>&- <&-", "2>&1 | true"])
def test_the_copy_is_the_same(job: Command, where: str, database: Database) -> None:
    """
    A run whose log and result can't be written loads what it would, and ends with 0.
    """
    assert (0, "") == shell(job, f"usersync run --job copy {where}")
    assert [3] == [count for (count,) in execute(database.url, "SELECT count(*) FROM people")]


def test_the_status_is_the_same(job: Command) -> None:
    """
    A failure stays what it was; a result that is lost is one only where the result is what the command is for.
    """
    assert (2, "") == shell(job, "usersync run --job nope 2>/dev/full")
    assert (2, "") == shell(job, "usersync run --job nope 2>&1 | true")
    (job.folder / "people.jsonl").unlink()
    assert (4, "") == shell(job, "usersync run --job copy 2>&1 >&- | true")
    assert (0, "") == shell(job, "usersync status | head -0")
    for command in ("status", "crontab --help"):
        status, said = shell(job, f"usersync {command} >/dev/full")
        assert (4, "usersync: the result can't be written: No space left on device") == (status, said.splitlines()[0])


def test_a_closed_descriptor_is_nobodys_connection(tmp_path: Path) -> None:
    """
    What libraries write to stderr must not end up in the next file that is opened.
    """
    script = (
        "import os, sys; from usersync_cli import stdio; stdio.install(); kept = open(sys.argv[1], 'w'); os.write(2, b'noise');"
        " print('log', file=sys.stderr); print('data'); kept.write('mine')"
    )
    path = tmp_path / "kept"
    subprocess.run(["bash", "-c", '"$0" "$@" >&- 2>&- <&-', sys.executable, "-c", script, str(path)], check=True)

    assert "mine" == path.read_text()


def test_a_stream_that_is_full_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    """
    Another owner of the pipe may have made it non-blocking: nothing is lost while somebody reads.
    """
    script = "from usersync_cli import stdio; stdio.install(); [print('x' * 999) for _ in range(1000)]"
    read, write = os.pipe()
    os.set_blocking(write, False)
    with (
        subprocess.Popen([sys.executable, "-c", script], stdout=write, cwd=Path(__file__).parents[2]) as process,
        os.fdopen(read, "rb") as end,
    ):
        os.close(write)
        assert 1_000_000 == len(end.read())
        assert 0 == process.wait(10)
