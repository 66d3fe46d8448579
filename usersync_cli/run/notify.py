"""Telling somebody how a run went: a program (`on_failure`) and an address (`ping_url`).

Both come after the run: its rows are committed, its ledger is written, its job is free. Neither can fail it, change its exit
status, or hold it up for longer than the bounds below. What goes wrong here is one warning, which never holds the address or the command.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from usersync_cli import log
from usersync_cli.errors import UsersyncError, status_of

_WELL = {0, 75, 129, 130, 143}  # all well, another run is at it, or somebody stopped it: nobody has to be woken
_BUSY = 75
_STOPPED = {129, 130, 143}
_LINES = 10
_LAST = 1.0  # seconds that a killed program has to be gone
# What a program needs to be found and to speak; nothing of usersync's own, which may be secret.
_PASSED_ON = ("PATH", "HOME", "LANG", "TZ")


class OnFailure(Protocol):
    """The program to start when a run did not end well."""

    @property
    def command(self) -> str: ...


class NotifyingJob(Protocol):
    """The part of a job in the config file that says whom to tell."""

    @property
    def name(self) -> str: ...
    @property
    def on_failure(self) -> OnFailure | None: ...
    @property
    def ping_url(self) -> str | None: ...


@dataclass(frozen=True)
class Bounds:
    """How long telling may take, in seconds."""

    program: float = 10.0
    start: float = 2.0  # on a thread beside the run; a quick run waits for it, because the end must not overtake the start
    end: float = 5.0  # with what is left of the start


@dataclass
class Ended:
    """How a run ended: the JSON document of `run --output json`, and its lines in people's words."""

    document: Mapping[str, Any] = field(repr=False)
    summary: Sequence[str] = ()

    @property
    def exit_status(self) -> int:
        return int(self.document["exit_status"])


class Watch:
    """A run that somebody will be told about. `began` once the job is taken, `ended` with how it went."""

    def __init__(self, ping: Ping | None) -> None:
        self._ping = ping
        self.outcome: Ended | None = None

    def began(self) -> None:
        """The job is ours and the work begins. Returns at once."""
        if self._ping:
            self._ping.start()

    def ended(self, document: Mapping[str, Any], summary: Sequence[str]) -> None:
        """Note what to report at the end, when there is a result."""
        self.outcome = Ended(document, summary)

    def finish(self, job: NotifyingJob, outcome: Ended, environment: str, bounds: Bounds) -> None:
        """Tell both, side by side, and wait for them no longer than the bounds."""
        if self._ping:
            self._ping.end(outcome)
        if job.on_failure and outcome.exit_status not in _WELL:
            text = json.dumps({"version": 1, "kind": "run", **outcome.document}, default=str)
            _warn("on_failure did not work", job, _start(job.on_failure.command, text, environment, bounds.program))
        if self._ping:
            _warn("ping_url could not be told", job, self._ping.wait())


@contextmanager
def watching(job: NotifyingJob, environment: str, *, dry_run: bool = False, bounds: Bounds | None = None) -> Iterator[Watch]:
    """A run inside of which errors pass through; whom the job names is told when it is over, however it ended. A dry run tells nobody."""
    bounds = bounds or Bounds()
    if dry_run:
        yield Watch(None)
        return
    watch = Watch(Ping(job.ping_url, bounds) if job.ping_url else None)
    began = time.monotonic()
    try:
        yield watch
    except Exception as error:
        outcome = watch.outcome or _not_begun(job, error, time.monotonic() - began)
        watch.finish(job, outcome, environment, bounds)
        raise
    if watch.outcome:
        watch.finish(job, watch.outcome, environment, bounds)


def _not_begun(job: NotifyingJob, error: Exception, seconds: float) -> Ended:
    """A run without a result: the target is away, the job is taken, or there is a bug, whose own words may quote rows."""
    ours = isinstance(error, UsersyncError)
    message = error.message if isinstance(error, UsersyncError) else f"internal error: {type(error).__name__}"
    document: dict[str, Any] = {
        "job": job.name,
        "run": None,
        "dry_run": False,
        "exit_status": status_of(error),
        "seconds": round(seconds, 3),
        "steps": [],
        "error": {"message": message, "hint": error.hint if isinstance(error, UsersyncError) else "this is a bug: please report it"},
    }
    return Ended(document, [f"{job.name}: the run could not begin" if ours else f"{job.name}: internal error"])


def _warn(event: str, job: NotifyingJob, why: str) -> None:
    if why:
        log.once(event, job=job.name, why=why)


def _start(command: str, text: str, environment: str, seconds: float) -> str:
    """Run the program with this text as its standard input; what went wrong, in words, or nothing."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        process = subprocess.Popen(
            shlex.split(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**passed_on, "USERSYNC_ENV": environment},
            start_new_session=True,  # a group of its own: killed whole, and out of reach of a terminal's Ctrl-C
        )
    except (OSError, ValueError) as error:
        return f"it could not be started: {getattr(error, 'strerror', None) or type(error).__name__}"
    try:
        process.communicate(text.encode(), seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LAST)
        if process.stdin:
            process.stdin.close()
        return f"it took longer than {seconds:g} s and was killed"
    return f"it ended with status {process.returncode}" if process.returncode else ""


class Ping:
    """Requests by the conventions of healthchecks.io (https://healthchecks.io/docs/http_api/): /start, /<exit status>, /log.

    They carry a run id (`rid`), so that an end belongs to its start also where runs of several jobs tell one check. One after the
    other on threads of their own, because no time-out of Python's covers a look-up of a name or a server that dribbles.
    """

    def __init__(self, url: str, bounds: Bounds) -> None:
        self._url = url
        self._bounds = bounds
        self._rid = uuid.uuid4()
        self._starting: threading.Thread | None = None
        self._ending: threading.Thread | None = None
        self._deadline = 0.0
        self._why = ""

    def start(self) -> None:
        """The run begins; returns at once. That this one got lost is not worth a word, if the one at the end arrives."""
        self._starting = _beside(self._send, "/start", "", self._bounds.start)

    def end(self, outcome: Ended) -> None:
        """The run has ended; returns at once, `wait` says what became of it."""
        if outcome.exit_status == _BUSY:
            return
        path = "/log" if outcome.exit_status in _STOPPED else f"/{outcome.exit_status}"
        self._deadline = time.monotonic() + self._bounds.end
        self._why = f"no answer within {self._bounds.end:g} s"
        self._ending = _beside(self._end, path, "\n".join(outcome.summary[:_LINES]))

    def _end(self, path: str, body: str) -> None:
        if self._starting:
            self._starting.join(self._bounds.start)
        self._why = self._send(path, body, max(0.01, self._deadline - time.monotonic()))

    def wait(self) -> str:
        """What went wrong with the end, in words that do not hold the address; or nothing."""
        if self._ending:
            self._ending.join(max(0.0, self._deadline - time.monotonic()))
        return self._why

    def _send(self, path: str, body: str, seconds: float) -> str:
        """What went wrong, in words that do not hold the address; or nothing. Late, because requests takes a while to import."""
        try:
            from usersync_cli.clients.http import transport

            headers = {"Content-Type": "text/plain; charset=utf-8"}
            request = transport.Post(self._address(path), body.encode(), headers, transport.system_certificates())
            status = transport.post(request, seconds).status
        except Exception as error:  # noqa: BLE001  whatever it is, it must not end the thread in a traceback with the address
            return self._said(error)
        return "" if 200 <= status < 300 else f"it answered {status}"

    def _address(self, path: str) -> str:
        """Without what else the address holds: a user, a query, a fragment."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{path}?rid={self._rid}"

    def _said(self, error: Exception) -> str:
        import ssl

        import requests

        from usersync_cli.clients.http.responses import causes
        from usersync_cli.clients.http.transport import Lost

        found = list(causes(error.error if isinstance(error, Lost) else error))
        if any(isinstance(one, ssl.SSLCertVerificationError) for one in found):
            return "its certificate could not be verified"
        if not found or any(isinstance(one, TimeoutError | requests.Timeout) for one in found):
            return f"no answer within {self._bounds.end:g} s"
        return next((one.strerror for one in found if isinstance(one, OSError) and one.strerror), type(found[-1]).__name__)


def _beside(work: Callable[..., object], *arguments: object) -> threading.Thread | None:
    """A thread that the process does not wait for; None where the machine has none left, which must not end the run."""
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread
