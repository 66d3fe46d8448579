"""The job `teamleader` against a local Teamleader that keeps to its limit: how many requests, how near to the rate it allows."""

from __future__ import annotations

import base64
import json
import multiprocessing
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.managers import BaseManager
from typing import Any, TypeAlias

from benchmarks import measure
from benchmarks.measure import Contestant, Run, Runs
from benchmarks.parts import USERSYNC
from benchmarks.report import Figure, Part
from benchmarks.server import Server
from tests.teamleader_server import TOKEN, Asked, Teamleader
from usersync_cli.auth.keys import Keys
from usersync_cli.auth.tokens import Tokens
from usersync_cli.model import Database, Token
from usersync_cli.signals import Stop

Took: TypeAlias = list[tuple[str, int, float]]  # requests: path, status, when
LIMIT, MINUTE = 200, 60.0  # requests, in so many seconds
PAGE = 100
SIZES = {
    "contacts": 1000, "companies": 500, "events": 200, "invoices": 200, "projects": 200, "users": 200, "customFieldDefinitions": 200,
    "departments": 3,
}  # fmt: skip
STREAMS = ["companies", "contacts", "custom_fields", "departments", "events", "invoices", "projects", "users"]
RECORDS = sum(SIZES.values())
CHANGED = {"contacts": 6, "companies": 5, "invoices": 4, "projects": 4}
LISTED_WHOLE = "customFieldDefinitions"  # .info would say nothing else
ENDS = 5  # requests to find the last page, of lists of which nothing is known yet
TIMES = 10  # as many records, to see whether memory grows
BESIDES = 0.25  # seconds in which what was on its way still arrives after a 429
KEY = b"0123456789abcdef0123456789abcdef"
TARGET = "bench_teamleader"
FIRST, CHANGES, SAME = f"first sync of {RECORDS:,} records", f"after {sum(CHANGED.values())} changes", "unchanged"
LISTS, SHARED = "first sync, detail: list", "while others use the limit"
# A minute of another length is no setting: the command as it is, in a process whose minute is that long.
SHORTENED = """
from datetime import timedelta
from usersync_cli.sources.teamleader import limits
limits.WINDOW = timedelta(seconds={window})
from usersync_cli.__main__ import main
main()
"""


class Local(Teamleader):
    """The server, with what a benchmark wants to know and to change. Lives in a process of its own."""

    def start(self) -> str:
        """Its address."""
        self._held = self.running()  # ends with the process
        return self._held.__enter__().url

    def fill(self, times: int = 1) -> None:
        for resource, count in SIZES.items():
            self.add(resource, count * times)

    def turn(self) -> None:
        """19 records change."""
        for resource, count in CHANGED.items():
            for id_ in self.ids(resource)[:count]:
                self.change(resource, id_, tags=["changed"])

    def later(self) -> None:
        """An hour later, when nobody has asked for a minute."""
        self.ahead += timedelta(hours=1)
        self._times.clear()
        self.asked.clear()

    def share(self, after: int) -> None:
        """Somebody else uses up the limit, once, when so many requests of ours have come."""
        others = iter([LIMIT])

        def before(_asked: Asked) -> None:
            with self._lock:
                if len(self.asked) > after and (count := next(others, 0)):
                    self._times.extend([time.monotonic()] * (count - len(self._times)))

        self.before = before

    def took(self) -> Took:
        """The requests since the last `later`: path, status, when."""
        return [(asked.path, asked.status, asked.at) for asked in self.asked]


class _Manager(BaseManager):
    pass


_MADE = ("start", "fill", "turn", "later", "share", "took")
_Manager.register("Local", Local, exposed=_MADE)


@contextmanager
def serving(**more: Any) -> Iterator[Any]:
    """A server in its own process, by proxy; and its address."""
    with _Manager(ctx=multiprocessing.get_context("spawn")) as manager:
        local = manager.Local(**more)  # type: ignore[attr-defined]
        yield local, local.start()


class Crm:
    """`usersync run` between such a server and a database of its own."""

    def __init__(self, server: Server, window: float, name: str) -> None:
        self.server, self.window, self.name = server, window, name
        self.folder = server.folder / name
        self.target = f"{TARGET}_{name}"

    def prepare(self, url: str) -> None:
        """A config, usersync's own tables, and a token that lasts."""
        self.folder.mkdir()
        own = {"type": "teamleader", "client_id": "a", "client_secret": "b", "redirect_uri": "https://usersync.test.example/back"}
        own |= {"api_url": url, "auth_url": url}
        load = {"key": ["tl_uuid"], "create": True, "on_missing": "mark"}
        jobs = {
            job: {"steps": [{"extract": {"source": source, "streams": streams}, "load": {**load, "table": f"{job}_{{stream}}"}}]}
            for job, source, streams in (("full", "full", STREAMS), ("lists", "lists", STREAMS), ("shared", "full", ["users"]))
        }
        sources = {"full": own, "lists": {**own, "detail": "list"}}
        document = {"environment": "test", "target": self.server.url(self.target), "sources": sources, "jobs": jobs}
        (self.folder / "config.yaml").write_text(json.dumps(document))
        measure.run(self.server, self._contestant("db upgrade", "usersync db upgrade"))
        tokens = Tokens(Database(self.server.url(self.target), "target"), lambda: Keys({"k1": KEY}), Stop(), job="full")
        for source in sources:
            tokens.store(source, Token(TOKEN, "a-refresh-token", timedelta(days=1)))

    def run(self, job: str, name: str, **counts: int) -> Run:
        """A run of the job; these counts are what it must have done."""
        run = measure.run(self.server, self._contestant(f"run --job {job} --output json", name))
        found = json.loads(run.stdout)["steps"][0]
        assert counts == {count: found[count] for count in counts}, f"{name}: expected {counts}, found {found}"
        return run

    def _contestant(self, arguments: str, name: str) -> Contestant:
        command = USERSYNC
        if self.window != MINUTE:
            command = f"{shlex.quote(sys.executable)} -c {shlex.quote(SHORTENED.format(window=self.window))}"
        keys = {"USERSYNC_KEYS": f"k1:{base64.b64encode(KEY).decode()}"}
        return Contestant(name, f"{command} {arguments} --config {self.folder / 'config.yaml'}", environment=keys)


def least(*, whole: bool) -> int:
    """Requests that nobody can do without: users.me, which module, each page and two looks behind the last, each document."""
    pages = sum(-(-count // PAGE) + 2 for count in SIZES.values()) - 2  # departments come at once
    documents = sum(count for resource, count in SIZES.items() if resource != LISTED_WHOLE)
    return 2 + pages + documents * whole


def rate(times: Sequence[float], window: float) -> float:
    """What was sent of what might have been, from the first request to the last for which a window had to be waited.

    Request 1 + n * LIMIT can't be there before n windows have passed since the first.
    """
    windows = (len(times) - 1) // LIMIT
    return windows * window / (times[windows * LIMIT] - times[0])


def early(took: Took, window: float) -> int:
    """Requests between a refusal and the moment when the first of the window is a window old, but those that were on their way."""
    asked = sorted((at, status) for _, status, at in took)
    refused = [at for at, status in asked if status == 429]
    assert refused, "nothing was refused: there is nothing to be measured"
    return sum(refused[0] + BESIDES < at < asked[0][0] + window for at, _ in asked)


def teamleader(server: Server, window: float) -> Part:
    """A first sync, one after 19 changes, one without; lists alone; and what happens when others use up the limit."""
    crm, runs, took = Crm(server, window, "crm"), {}, {}
    with serving(limit=LIMIT, window=timedelta(seconds=window)) as (local, url):
        local.fill()
        crm.prepare(url)

        def asked(job: str, name: str, **counts: int) -> None:
            local.later()
            runs[name] = [crm.run(job, name, **counts)]
            took[name] = local.took()

        asked("full", FIRST, inserted=RECORDS)
        local.turn()
        asked("full", CHANGES, inserted=0, updated=sum(CHANGED.values()))
        asked("full", SAME, inserted=0, updated=0)
        asked("lists", LISTS, inserted=RECORDS)
        local.share(50)
        asked("shared", SHARED, inserted=SIZES["users"])
    return Part("Teamleader", [*_counted(runs, took), _timed(runs, took, window), *_refusals(took, window)], runs)


def _counted(runs: Runs, took: Mapping[str, Took]) -> list[Figure]:
    limits = {FIRST: least(whole=True) + ENDS, CHANGES: 60, SAME: 45, LISTS: 45}
    beside = {FIRST: f"the least that the documents allow: {least(whole=True):,}", LISTS: f"the least: {least(whole=False):,}"}
    seconds = {name: f"{measure.seconds(runs[name]):.1f} s in all" for name in limits}
    return [_requests(name, len(took[name]), limit, beside.get(name, seconds[name])) for name, limit in limits.items()]


def _timed(runs: Runs, took: Mapping[str, Took], window: float) -> Figure:
    reached = rate([at for _, _, at in took[FIRST]], window)
    what = f"Teamleader, {FIRST}, time beside the least that {LIMIT} requests in {window:g} s allow"
    return Figure(what, 1 / reached, "x", 1 / 0.95, f"{reached:.1%} of the rate", f"{measure.seconds(runs[FIRST]):.0f} s in all")


def _refusals(took: Mapping[str, Took], window: float) -> list[Figure]:
    others = sum(_refused(found) for name, found in took.items() if name != SHARED)
    together = f"refused, on their way together: {_refused(took[SHARED])}"
    return [
        _requests("before Reset after a 429", early(took[SHARED], window), 0, together),
        _requests("refused in all other runs", others, 0, ""),
    ]


def memory(server: Server) -> Part:
    """Lists alone, without a limit: the most that the process held, with so many records and ten times as many."""
    runs = {}
    for times in (1, TIMES):
        crm = Crm(server, MINUTE, f"times_{times}")
        with serving() as (local, url):
            local.fill(times)
            crm.prepare(url)
            for name, inserted in (("loading", RECORDS * times), ("unchanged", 0)):
                local.later()
                runs[f"Teamleader, {name}, {RECORDS * times:,} records"] = [crm.run("lists", name, inserted=inserted)]
    few, many = (max(measure.megabytes(found) for name, found in runs.items() if f" {RECORDS * times:,} " in name) for times in (1, TIMES))
    what = f"client memory at {RECORDS * TIMES:,} records of Teamleader, beside {RECORDS:,}"
    return Part("Client memory of Teamleader", [Figure(what, many / few, "x", 1.1, f"{many:.1f} MB", f"{few:.1f} MB")], runs)


def _requests(name: str, count: int, limit: int, beside: str) -> Figure:
    return Figure(f"Teamleader, {name}", count, "requests", limit, beside=beside)


def _refused(took: Took) -> int:
    return sum(status == 429 for _, status, _ in took)
