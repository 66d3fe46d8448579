"""Telling somebody how a run went: a real program, a real HTTP server, the real command."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests import servers
from tests.conftest import Command, NewDatabase, Result
from tests.simple_job import PASSWORD, PERSON, READING, SLOW, Job, finished
from usersync_cli import log
from usersync_cli.errors import Busy, Unavailable
from usersync_cli.run import notify
from usersync_cli.run.notify import Bounds, watching

CHECK = "a-check-that-is-secret"


@dataclass
class Monitor:
    """What a monitoring service hears: (method, path, run id, body), in its order. `answer` is what it says."""

    server: ThreadingHTTPServer
    heard: list[tuple[str, str, str, str]] = field(default_factory=list)
    answer: int = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{CHECK}"

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.heard]


@contextmanager
def monitor() -> Iterator[Monitor]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            (rid,) = parse_qs(url.query)["rid"]
            listening.heard.append((self.command, url.path.removeprefix(f"/{CHECK}"), rid, body))
            self.send_response(listening.answer)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's name
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        listening = Monitor(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield listening
        server.shutdown()


@pytest.fixture
def ears() -> Iterator[Monitor]:
    with monitor() as monitor_:
        yield monitor_


@contextmanager
def frozen() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/{CHECK}"


# in this process


@dataclass(frozen=True)
class OnFailure:
    command: str


@dataclass(frozen=True)
class Named:
    """A job as notify sees it."""

    name: str = "copy"
    on_failure: OnFailure | None = None
    ping_url: str | None = None


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """What a quiet run says on stderr."""
    log.configure(quiet=True)
    yield lambda: capsys.readouterr().err
    log.configure()


def document(status: int) -> dict[str, Any]:
    return {"job": "copy", "exit_status": status}


def tell(job: Named, status: int = 7, *, summary: list[str] | None = None) -> None:
    """A run of nothing that ends with this status."""
    with watching(job, "test") as watch:
        watch.began()
        watch.ended(document(status), summary or [])


def program(folder: Path, text: str) -> str:
    """An on_failure command: a Python program of this text, in a path that has to be quoted."""
    file = folder / "tell somebody.py"
    file.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return f"'{file}' --team 'data $HOME | x'"


@pytest.mark.parametrize(
    ("status", "paths"),
    [(0, ["/start", "/0"]), (7, ["/start", "/7"]), (76, ["/start", "/76"]), (130, ["/start", "/log"]), (143, ["/start", "/log"])],
)
def test_each_status_has_its_address(ears: Monitor, said: Any, status: int, paths: list[str]) -> None:
    """
    /start, then the exit status; a run that somebody stopped is neither good nor bad. One run id for both, as a plain UUID.
    """
    tell(Named(ping_url=ears.url), status, summary=[f"line {number}" for number in range(20)])

    assert paths == ears.paths
    assert ["", "\n".join(f"line {number}" for number in range(10))] == [body for *_, body in ears.heard]
    (rid,) = {rid for _, _, rid, _ in ears.heard}
    assert str(notify.uuid.UUID(rid)) == rid
    assert "" == said()


def test_a_job_that_is_taken_tells_nothing(ears: Monitor, said: Any) -> None:
    """
    The run that found the job taken says nothing at all: the other run does.
    """
    with pytest.raises(Busy), watching(Named(ping_url=ears.url, on_failure=OnFailure("false")), "test"):
        raise Busy("copy: another run holds the job")

    assert [] == ears.heard
    assert "" == said()


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (Unavailable("target: no answer", hint="wait"), 4, "target: no answer"),
        (ValueError(f"{PERSON} One"), 1, "internal error: ValueError"),
    ],
)
def test_a_run_that_could_not_begin(ears: Monitor, said: Any, tmp_path: Path, error: Exception, status: int, message: str) -> None:
    """
    It has no start, but an end, and the program hears the error; of a bug only its kind, since its words may quote rows.
    """
    command = program(tmp_path, f"open({str(tmp_path / 'heard')!r}, 'w').write(sys.stdin.read())")
    with pytest.raises(type(error)), watching(Named(ping_url=ears.url, on_failure=OnFailure(command)), "test"):
        raise error

    heard = json.loads((tmp_path / "heard").read_text())
    assert [f"/{status}"] == ears.paths
    assert ("run", "copy", None, status, []) == tuple(heard[name] for name in ("kind", "job", "run", "exit_status", "steps"))
    assert message == heard["error"]["message"]
    assert PERSON not in json.dumps(heard) + ears.heard[0][3] + said()


def test_the_program_hears_of_failures_alone(said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It is started for each status but 0, 75, 130 and 143, in words as a shell splits them but without a shell, with the run as JSON on
    its standard input and an environment that holds nothing of ours but the name of the environment. What it prints is nowhere.
    """
    for name in ("HOME", "LANG", "TZ", "USERSYNC_ENV", "USERSYNC_DATABASE_URL", "PGPASSWORD"):
        monkeypatch.setenv(name, f"the {name}")
    file = tmp_path / "heard"
    heard = "{'words': sys.argv[1:], 'environment': dict(os.environ), 'run': json.load(sys.stdin)}"
    job = Named(on_failure=OnFailure(program(tmp_path, f"print('noise')\njson.dump({heard}, open({str(file)!r}, 'x'))")))
    for status in (0, 75, 130, 143, 3):
        tell(job, status)

    found = json.loads(file.read_text())
    found["environment"].pop("LC_CTYPE", None)  # Python's own, where the locale is C
    passed_on = {"PATH": os.environ["PATH"], "HOME": "the HOME", "LANG": "the LANG", "TZ": "the TZ", "USERSYNC_ENV": "test"}
    expected = {"words": ["--team", "data $HOME | x"], "environment": passed_on, "run": {"version": 1, "kind": "run", **document(3)}}
    assert expected == found
    assert "" == said()


@pytest.mark.parametrize(
    ("script", "seconds", "why"),
    [
        ("exit 3", 10, "it ended with status 3"),
        ("exec <&-; exit 3", 10, "it ended with status 3"),
        ("sleep 60 & sleep 60", 1, "it took longer than 1 s and was killed"),
    ],
)
def test_a_program_that_does_not_work(said: Any, tmp_path: Path, script: str, seconds: float, why: str) -> None:
    """
    One that fails, does not read what it is told, or never ends is one warning; the last is killed with all that it started.
    """
    command = f"/bin/sh -c 'echo $$ > {tmp_path}/pid; {script}'"
    with watching(Named(on_failure=OnFailure(command)), "test", bounds=Bounds(program=seconds)) as watch:
        watch.ended({**document(7), "more": "x" * 1_000_000}, [])

    assert f"usersync: on_failure did not work (job copy, why {why})\n" == said()
    group = int((tmp_path / "pid").read_text())
    servers.until(lambda: not alive(group))


def alive(group: int) -> bool:
    """Whether a process of this group still runs; one that nobody waited for does not."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp, *_ = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(pgrp) == group and state not in "ZX":
            return True
    return False


def test_a_program_that_is_not_there(said: Any) -> None:
    """
    It is one warning, which does not hold the command: that may have a token in it.
    """
    tell(Named(on_failure=OnFailure(f"/nowhere/{CHECK} --token {PASSWORD}")))

    assert "usersync: on_failure did not work (job copy, why it could not be started: No such file or directory)\n" == said()


@pytest.mark.parametrize(
    ("answer", "why"), [(301, "it answered 301"), (404, "it answered 404"), (500, "it answered 500")], ids=["moved", "unknown", "broken"]
)
def test_an_address_that_answers_something_else(ears: Monitor, said: Any, answer: int, why: str) -> None:
    """
    Any status but 2xx is one warning for the whole run, without the address; nothing is asked again or elsewhere.
    """
    ears.answer = answer
    tell(Named(ping_url=ears.url), 0)

    assert ["/start", "/0"] == ears.paths
    assert f"usersync: ping_url could not be told (job copy, why {why})\n" == said()


def test_an_address_that_is_not_there(ears: Monitor, said: Any) -> None:
    """
    Nobody listens, the name is unknown, the certificate is nobody's: one warning each, without the address.
    """
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/{CHECK}"
    for url in (nobody, f"http://{'x' * 64}.example/{CHECK}", ears.url.replace("http", "https")):
        tell(Named(ping_url=url), 0)
        (line,) = said().splitlines()
        assert line.startswith("usersync: ping_url could not be told (job copy, why ")
        assert CHECK not in line
        assert "127.0.0.1" not in line
    assert [] == ears.heard


def test_a_frozen_server_holds_up_nothing(said: Any) -> None:
    """
    With a server that accepts and never answers the run begins at once, and ends when the bound says so.
    """
    with frozen() as url, watching(Named(ping_url=url), "test", bounds=Bounds(start=30, end=0.3)) as watch:
        watch.began()
        assert watch._ping
        assert watch._ping._starting
        assert watch._ping._starting.is_alive()
        watch.ended(document(0), [])

    assert "usersync: ping_url could not be told (job copy, why no answer within 0.3 s)\n" == said()


def test_proxies_of_the_environment_are_not_asked(ears: Monitor, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The address is a secret: it goes to its own server and to nobody in between.
    """
    with frozen() as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("ALL_PROXY", proxy)
        tell(Named(ping_url=ears.url), 0)

    assert ["/start", "/0"] == ears.paths
    assert "" == said()


# the real command


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Job:
    return Job(usersync, new_database("source crm"), new_database())


def heard_by(job: Job, ears: Monitor) -> Path:
    """The job tells the monitor, and a program that writes what it hears into this file, a line for each time."""
    file = job.usersync.folder / "heard"
    command = program(job.usersync.folder, f"open({str(file)!r}, 'a').write(sys.stdin.read() + '\\n')")
    job.document["jobs"]["copy"] |= {"ping_url": ears.url, "on_failure": {"command": command}}
    job.save()
    return file


def private(result: Result) -> Result:
    """The result, after a look whether the address or the command was printed."""
    assert CHECK not in result.stdout + result.stderr
    assert "data $HOME" not in result.stdout + result.stderr
    return result


def test_a_job_and_its_watchers(job: Job, ears: Monitor) -> None:
    """
    A good run, a dry one that fails, a failing one: whoever is told hears the first and the last, with the document that the command
    prints and the line that it shows. The address is in no log.
    """
    file = heard_by(job, ears)
    job.people("One", "Two")
    good = private(job.run("-q"))
    job.people()
    private(job.run("-q", "--dry-run"))
    assert ["/start", "/0"] == ears.paths
    assert not file.exists()
    bad = private(job.run("-vv", "--output", "json", "--log-format", "json"))

    assert (0, "", "") == (good.status, good.stdout, good.stderr)
    assert ["/start", "/0", "/start", "/7"] == ears.paths
    assert [True, True] == [ears.heard[1][3].startswith("copy: 2 records: 2 new"), ears.heard[3][3].startswith("copy: failed, nothing")]
    assert json.loads(bad.stdout) == json.loads(file.read_text())
    assert 1 == json.loads(bad.stdout)["failing"]["runs"]


def test_a_target_that_is_away(job: Job, ears: Monitor) -> None:
    """
    The run could not begin: no start, but an end, and the program hears why; the message on stderr is as ever.
    """
    file = heard_by(job, ears)
    job.document["target"] = f"postgresql://127.0.0.1:{servers.free_port()}/nowhere"
    job.save()
    result = private(job.run("-q"))
    heard = json.loads(file.read_text())

    assert ["/4"] == ears.paths
    assert (4, 4) == (result.status, heard["exit_status"])
    assert f"usersync: {heard['error']['message']}" == result.stderr.splitlines()[0]


def test_a_run_that_is_stopped(job: Job, ears: Monitor) -> None:
    """
    After SIGTERM the end is /log, with status 143; the program isn't started. A second run meanwhile tells nobody.
    """
    file = heard_by(job, ears)
    job.people(*map(str, range(100)))
    job.document["jobs"]["copy"]["steps"][0]["extract"] = {"source": "crm", "query": SLOW}
    job.save()
    with job.started("-q") as process:
        job.wait_for(READING)
        second = private(job.run("-q"))
        process.terminate()
        first = private(finished(process))

    assert (75, 143) == (second.status, first.status)
    assert ["/start", "/log"] == ears.paths
    assert not file.exists()


# what a quiet run prints


def test_quiet_says_what_since_when_and_what_to_do(job: Job) -> None:
    """
    A failing job says what failed, what to do, and since when, in how many runs; those before the last good run do not count.
    """
    before = (
        "INSERT INTO usersync.runs (job, status, exit_status, epoch, owner, started_at, usersync_version)"
        " SELECT 'copy', 'failed', 4, 1, '', timestamptz '2026-11-20 03:10Z' + number * interval '10 min', '0.1.0'"
        " FROM generate_series(0, 10) number"
    )
    job.people("One")
    job.at_target(before)
    job.run("-q")
    job.at_target(before)
    job.people()
    what, hint, *since = job.run("-q").stderr.splitlines()

    assert "usersync: copy: step people: extract records is empty; the last run read 1 rows; nothing was written" == what
    assert "--allow-empty" in hint
    assert ["usersync: copy: failing since 2026-11-20 03:10:00 UTC, 12 runs"] == since


def test_quiet_says_ten_lines_at_most(job: Job, ears: Monitor) -> None:
    """
    However many steps fail, and when nobody can be told: what failed first, since when, and where the rest is.
    """
    ears.answer = 500
    (step,) = job.document["jobs"]["copy"]["steps"]
    job.document["jobs"]["copy"] |= {
        "steps": [{**step, "name": f"step{number}", "extract": {"source": "crm", "table": f"nowhere{number}"}} for number in range(8)],
        "ping_url": ears.url,
        "on_failure": {"command": "false"},
    }
    job.save()
    result = private(job.run("-q"))
    said = result.stderr.splitlines()

    assert 10 == len(said) + len(result.stdout.splitlines())
    assert "usersync: copy: step step0: " in said[0]
    assert said[-4].endswith(" more lines without -q")
    assert said[-3].startswith("usersync: copy: failing since ")
    assert ["on_failure", "ping_url"] == [line.split()[1] for line in said[-2:]]


@pytest.mark.parametrize(("before", "lines"), [(0, 10), (3, 7)])
def test_quiet_shortens_a_long_hint(capsys: pytest.CaptureFixture[str], before: int, lines: int) -> None:
    """
    A run that could not begin says ten lines too, what it said before included, and how many it left out; elsewhere nothing is cut.
    """
    log.configure(quiet=True, most=10)
    for _ in range(before):
        log.once("an earlier run ended without a word", job="copy")
    capsys.readouterr()
    log.failure("config.yaml: 20 mistakes", "\n".join(f"mistake {number}" for number in range(20)), status=2)
    short = capsys.readouterr().err.splitlines()
    log.configure(quiet=True)
    log.failure("config.yaml: 20 mistakes", "\n".join(f"mistake {number}" for number in range(20)), status=2)

    assert lines == len(short)
    assert ["usersync: config.yaml: 20 mistakes", f"  {22 - lines} more lines without -q"] == [short[0], short[-1]]
    assert 21 == len(capsys.readouterr().err.splitlines())
    log.configure()
