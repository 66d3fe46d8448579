"""Fixtures: real PostgreSQL servers, a new database for each test, and the real command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests import servers
from tests.keycloak_server import front, keycloak, mailbox, new_bank  # noqa: F401  fixtures of a real Keycloak
from tests.workos_emulator import emulator  # noqa: F401  WorkOS's own
from usersync_cli.model import Database

ROOT = Path(__file__).parent.parent
_databases = servers.Databases()

NewDatabase = Callable[..., Database]


# Under nohup the processes that tests start would ignore it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_xdist_auto_num_workers() -> int:
    """Twice as many as there are cores: most tests wait for a process, a server or a clock."""
    return 2 * (os.cpu_count() or 1)


@pytest.fixture(scope="session")
def server() -> Iterator[servers.Server]:
    """The wheel's PostgreSQL 18, started once for the session."""
    with servers.temporary_home() as home:
        yield servers.embedded_server(home)


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty USERSYNC_HOME; an embedded server that is started in it ends with the test."""
    with servers.temporary_home() as home:
        yield home


@pytest.fixture
def new_database(server: servers.Server) -> Iterator[NewDatabase]:
    """Makes empty databases: `new_database()` or `new_database("source av_accounts")`; emptied after the test.

    `on=` takes another server of the fixtures below (postgres15, ...).
    """
    made: list[tuple[servers.Server, str]] = []

    def make(called: str = "target", *, on: servers.Server = server) -> Database:
        name = _databases.take(on)
        made.append((on, name))
        return Database(on.url(name), called)

    yield make
    for on, name in made:
        _databases.give_back(on, name)


@pytest.fixture
def database(new_database: NewDatabase) -> Database:
    """One empty database on the session's server."""
    return new_database()


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection]:
    """A plain psycopg connection in autocommit to `database`, to set the stage and to look at the result."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def postgres15() -> Iterator[servers.Server]:
    """PostgreSQL 15 of the distribution, with contrib (citext, ...)."""
    servers.required(servers.POSTGRES15 / "initdb", "PostgreSQL 15")
    with servers.postgres(servers.POSTGRES15, options="-c max_prepared_transactions=10") as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(server: servers.Server) -> Iterator[servers.Server]:
    """PgBouncer in transaction mode before the session's server: `pgbouncer.url(name)` with a name made by `new_database`."""
    with servers.pgbouncer_before(server) as pooler:
        yield pooler


@pytest.fixture(scope="session")
def standby(server: servers.Server) -> Iterator[servers.Server]:
    """A streaming replica of the session's server, read-only. `standby.catch_up(server)` waits for what was just written."""
    with servers.standby_of(server) as replica:
        yield replica


@pytest.fixture
def proxy(server: servers.Server) -> Iterator[servers.Proxy]:
    """A proxy before the session's server which cuts or freezes: `proxy.url(name)`, `proxy.at(b"COMMIT", "cut")`."""
    proxy = servers.Proxy(server)
    yield proxy
    proxy.close()


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Command:
    """The real `usersync`, as a process of its own, in an empty folder and a clean environment."""

    folder: Path
    environment: dict[str, str]

    def start(self, *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
        """A process that the test talks to, signals or kills; pipes on stdin, stdout and stderr."""
        return subprocess.Popen(
            [sys.executable, "-m", "usersync_cli", *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **variables},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, *arguments: str | Path, stdin: str = "", timeout: float = 60, **variables: str) -> Result:
        with self.start(*arguments, **variables) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Result(process.returncode, stdout, stderr)


@pytest.fixture
def usersync(home: Path) -> Command:
    """`usersync("run", "--job", "x", USERSYNC_ENV="test")` -> status, stdout, stderr; `usersync.folder` is where it runs.

    Embedded servers that it starts (in the user's data directory, or in USERSYNC_HOME=`home`) end with the test.
    """
    folder = home / "work"
    folder.mkdir()
    environment = servers.environment() | {"HOME": str(home), "PYTHONPATH": str(ROOT), "TZ": "Asia/Kolkata"}
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "CI"):
        environment.pop(name, None)
    return Command(folder, environment)
