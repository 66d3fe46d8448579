"""The job `workos` against a local WorkOS in its own process: 100,000 events over 10,000 users, and a poll without news."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import shlex
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from multiprocessing.managers import BaseManager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks import measure
from benchmarks.measure import Contestant, Run, Runs
from benchmarks.parts import TURNS, USERSYNC
from benchmarks.report import Figure, Part
from benchmarks.server import Server

USERS, EVENTS, ORGANIZATIONS = 10_000, 100_000, 10
PAGE = 100
KEY = "sk_test_of-a-benchmark"
TARGET = "bench_workos"
AGO = timedelta(hours=2)  # when the first run is; what happened since is read by the second
STREAMS = ["users", "organizations", "organization_memberships"]
# The same requests with nothing behind them: what reading alone takes in Python.
BARE = """
import json, sys, requests
url, count, last = sys.argv[1], int(sys.argv[2]), "event_" + "0" * 26
with requests.Session() as session:
    session.trust_env = False
    session.headers["Authorization"] = "Bearer {key}"
    while count:
        reply = session.get(url + "/events", params={{"after": last, "limit": 100, "events": "user.updated", "order": "asc"}})
        events = json.loads(reply.content)["data"]
        count, last = count - len(events), events[-1]["id"]
"""


class Local:
    """The server: documents that are made once, and a log of which any part can be asked for. Lives in a process of its own."""

    def __init__(self) -> None:
        self._born = datetime.now(UTC) - AGO
        self._at = self._born
        self._events: list[bytes] = []
        self._users = [_user(number, 0, self._born - timedelta(days=1)) for number in range(USERS)]
        self._organizations = [_organization(number, self._born - timedelta(days=1)) for number in range(ORGANIZATIONS)]
        self._asked: Counter[str] = Counter()

    def start(self) -> str:
        """Its address."""
        started: list[int] = []
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(started, ready)), daemon=True).start()
        ready.wait()
        return f"http://127.0.0.1:{started[0]}"

    def happen(self, count: int) -> None:
        """So many changes of users, a millisecond apart, each user as often as the others; and it is now."""
        for number in range(len(self._events), len(self._events) + count):
            moment = self._born + timedelta(seconds=10, milliseconds=number)
            user = _user(number * 7919 % USERS, number, moment)
            self._users[number * 7919 % USERS] = user
            event = {"object": "event", "id": f"event_{number + 1:026d}", "event": "user.updated", "created_at": _text(moment)}
            self._events.append(json.dumps({**event, "data": json.loads(user)}).encode())
        self._at = datetime.now(UTC)

    def requests(self) -> Counter[str]:
        """How many came since the last time, by path."""
        asked, self._asked = self._asked, Counter()
        return asked

    async def _serve(self, started: list[int], ready: threading.Event) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        started.append(server.sockets[0].getsockname()[1])
        ready.set()
        await server.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split(b" ", 2)[1].decode()
                self._asked[target.partition("?")[0]] += 1
                body = self._answer(target)
                date = format_datetime(self._at.replace(microsecond=0), usegmt=True)
                writer.write(
                    f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: {date}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, target: str) -> bytes:
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if url.path == "/events":
            return self._log(query)
        rows = {"/user_management/users": self._users, "/organizations": self._organizations}.get(url.path, [])
        begin = int(query["after"][-20:]) + 1 if "after" in query else 0
        return _page(rows[begin : begin + PAGE], json.loads(rows[begin + PAGE - 1])["id"] if len(rows) > begin + PAGE else None)

    def _log(self, query: Mapping[str, str]) -> bytes:
        if "after" in query:
            begin = int(query["after"].removeprefix("event_"))
        else:
            start = query.get("range_start", "")
            begin = next(
                (number for number, event in enumerate(self._events) if json.loads(event)["created_at"] >= start), len(self._events)
            )
        found = self._events[begin : begin + int(query["limit"])]
        more = begin + len(found) < len(self._events)
        return _page(found, f"event_{begin + len(found):026d}" if more else None)


def _page(rows: Sequence[bytes], after: str | None) -> bytes:
    end = json.dumps({"before": None, "after": after}).encode()
    return b'{"object":"list","data":[' + b",".join(rows) + b'],"list_metadata":' + end + b"}"


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _user(number: int, changed: int, moment: datetime) -> bytes:
    names = {"first_name": "Test", "last_name": f"User {number}", "name": f"Test User {number}", "email": f"user{number}@test.example"}
    rest = {
        "email_verified": True,
        "profile_picture_url": None,
        "last_sign_in_at": _text(moment),
        "external_id": str(number),
        "locale": "en",
    }
    stamps = {"created_at": "2026-01-01T00:00:00.000Z", "updated_at": _text(moment)}
    return json.dumps(
        {"object": "user", "id": f"user_01BENC{number:020d}", **names, **rest, "metadata": {"n": str(changed)}, **stamps}
    ).encode()


def _organization(number: int, moment: datetime) -> bytes:
    rest = {"name": f"Test Organization {number}", "domains": [], "external_id": None, "metadata": {}}
    stamps = {"created_at": _text(moment), "updated_at": _text(moment)}
    return json.dumps({"object": "organization", "id": f"org_01BENC{number:020d}", **rest, **stamps}).encode()


class _Manager(BaseManager):
    pass


_Manager.register("Local", Local, exposed=("start", "happen", "requests"))


@contextmanager
def serving() -> Iterator[Any]:
    """A server in its own process, by proxy; and its address."""
    with _Manager(ctx=multiprocessing.get_context("spawn")) as manager:
        local = manager.Local()  # type: ignore[attr-defined]
        yield local, local.start()


class Environment:
    """`usersync run` between such a server and a database of its own."""

    def __init__(self, server: Server, local: Any, url: str) -> None:
        self.server, self.local, self.url = server, local, url
        self.config = server.folder / "workos.yaml"
        load = {"table": "workos_{stream}", "key": ["id"], "create": True, "on_missing": "mark", "live_view": True}
        document = {
            "environment": "test",
            "target": server.url(TARGET),
            "sources": {"workos": {"type": "workos", "api_url": url, "api_key": KEY}},
            "jobs": {"workos": {"steps": [{"name": "copy", "extract": {"source": "workos", "streams": STREAMS}, "load": load}]}},
        }
        self.config.write_text(json.dumps(document))
        measure.run(server, Contestant("usersync db upgrade", f"{USERSYNC} db upgrade --config {self.config}"))

    def run(self, name: str, **counts: int) -> tuple[Run, Counter[str]]:
        """A run of the job, and how many requests it took; these counts are what it must have done."""
        self.local.requests()
        run = measure.run(self.server, Contestant(name, f"exec {USERSYNC} run --job workos --output json --config {self.config}"))
        found = json.loads(run.stdout)["steps"][0]
        assert counts == {count: found[count] for count in counts}, f"{name}: expected {counts}, found {found}"
        return run, self.local.requests()

    def bare(self, name: str) -> Run:
        """Reading all events with requests and json, and doing nothing with them."""
        script = self.server.folder / "bare.py"
        script.write_text(BARE.format(key=KEY))
        return measure.run(self.server, Contestant(name, f"exec {shlex.quote(sys.executable)} {script} {self.url} {EVENTS}"))


def workos(server: Server, rounds: int) -> Part:
    """A first run, the events that came since, and polls without news; beside it the bare reading of the same events."""
    runs: dict[str, Sequence[Run]] = {}
    with serving() as (local, url):
        environment = Environment(server, local, url)
        first, first_asked = environment.run("first run", inserted=USERS + ORGANIZATIONS)
        local.happen(EVENTS)
        bare = [environment.bare("the bare reading of the events")]
        news, news_asked = environment.run("100,000 events", read=EVENTS, inserted=0)
        bare += [environment.bare("the bare reading of the events") for _ in range(rounds - 1)]
        polls = [environment.run("no news", read=0) for _ in range(TURNS)]
        runs = {
            "first run": [first],
            "100,000 events": [news],
            "the bare reading of the events": bare,
            "no news": [run for run, _ in polls],
        }
    return Part("WorkOS", [*_of_events(runs, news_asked), *_of_polls(runs, max(asked.total() for _, asked in polls), first_asked)], runs)


def _of_events(runs: Runs, asked: Counter[str]) -> list[Figure]:
    ours, bare = runs["100,000 events"], runs["the bare reading of the events"]
    beside = f"the bare reading of the same events, requests and json: {measure.cpu(bare):.1f} s CPU, {measure.seconds(bare):.1f} s wall"
    what = f"WorkOS, {EVENTS:,} events over {USERS:,} users"
    rate = EVENTS / measure.seconds(ours)
    return [
        Figure(what, measure.cpu(ours), "s CPU", 10, f"{measure.seconds(ours):.1f} s wall", beside),
        Figure(f"{what}, time for 5,000 events", 5_000 / rate, "s", 1, f"{rate:,.0f} events a second", f"{asked.total():,} requests"),
        Figure(f"{what}, client memory", measure.megabytes(ours), "MB", 70),
    ]


def _of_polls(runs: Runs, asked: int, first_asked: Counter[str]) -> list[Figure]:
    polls, first = runs["no news"], runs["first run"]
    pages = -(-USERS // PAGE) + -(-ORGANIZATIONS // PAGE) + ORGANIZATIONS
    lists = first_asked.total() - first_asked["/events"]
    used, wall = [run.cpu for run in polls], f"{measure.seconds(polls):.2f} s wall"
    return [
        Figure(f"WorkOS, no news, median of {TURNS}", measure.cpu(polls), "s CPU", 0.7, wall, "", (min(used), max(used))),
        Figure("WorkOS, no news", asked, "requests", 1),
        Figure(
            f"WorkOS, first run of {USERS:,} users and {ORGANIZATIONS} organizations", lists, "requests", pages,
            f"{measure.seconds(first):.1f} s wall", f"and for the events: {first_asked['/events']}",
        ),
    ]  # fmt: skip
