"""Commands as typed into a shell, run in turns, and what they used: wall time, CPU of client and server, memory, WAL."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeAlias

from benchmarks.server import Server

LAUNCH = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Run:
    """What one run of a command used."""

    seconds: float
    cpu: float  # of the command and the processes it waited for, user and system
    megabytes: float  # the largest of them
    server_cpu: float | None
    wal: int  # bytes, of the whole server
    stdout: str = field(default="", repr=False)


@dataclass(frozen=True)
class Contestant:
    """A command, and what has to be done before each of its runs, unmeasured."""

    name: str
    command: str
    prepare: Callable[[], object] = lambda: None
    environment: Mapping[str, str] = field(default_factory=dict)


Runs: TypeAlias = Mapping[str, Sequence[Run]]


def take_turns(server: Server, contestants: Sequence[Contestant], rounds: int) -> Runs:
    """Each in its turn, `rounds` times over: A B A B. What disturbs the machine disturbs all alike."""
    runs: dict[str, list[Run]] = {one.name: [] for one in contestants}
    for _ in range(rounds):
        for one in contestants:
            one.prepare()
            runs[one.name].append(run(server, one))
    return runs


def run(server: Server, one: Contestant) -> Run:
    """Right after a checkpoint. Raises SystemExit, with what the command said, when it fails."""
    server.checkpoint()
    cpu, wal = server.cpu(), server.wal()
    used, stdout = _launch(server.folder, one)
    after = server.cpu()
    return Run(**used, server_cpu=None if cpu is None or after is None else after - cpu, wal=server.wal() - wal, stdout=stdout)


def clean(folder: Path) -> dict[str, str]:
    """Our environment without what would steer libpq or usersync."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "USERSYNC_", "AV_"))}
    return kept | {"HOME": str(folder)}


def _launch(folder: Path, one: Contestant) -> tuple[dict[str, float], str]:
    result = folder / "used.json"
    shell = [shutil.which("bash") or "/bin/bash", "-o", "pipefail", "-c", one.command]
    command = [sys.executable, "-I", "-S", str(LAUNCH), str(result), *shell]
    done = subprocess.run(command, cwd=folder, env={**clean(folder), **one.environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{one.name} ended with {done.returncode}\n$ {one.command}\n{done.stderr}{done.stdout}")
    return json.loads(result.read_text()), done.stdout


def seconds(runs: Sequence[Run]) -> float:
    """Of the run in the middle."""
    return median(run.seconds for run in runs)


def cpu(runs: Sequence[Run]) -> float:
    """Of the run in the middle."""
    return median(run.cpu for run in runs)


def megabytes(runs: Sequence[Run]) -> float:
    """Of the greediest run."""
    return max(run.megabytes for run in runs)
