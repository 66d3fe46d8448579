"""A local Teamleader: eight resources over HTTP as the vendor documents them, live while they are read, with faults on request.

What is not documented is refused with 400: a filter, sort field or include that a resource does not have, a page of 101.
Times are those of its own clock (`ahead` of ours), also in its Date header.
"""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Document = dict[str, Any]
TOKEN = "an-access-token"
VERSION = "2023-09-26"
BORN = datetime(2016, 2, 4, 16, 44, 33, tzinfo=UTC)  # when the first record of each resource was added; the next a minute later


@dataclass(frozen=True)
class Resource:
    """What the vendor documents of one resource."""

    sorts: tuple[str, ...]  # the default first
    scope: str
    since: bool = False
    ids: bool = True
    stamps: tuple[str, ...] = ()  # created, updated
    includes: tuple[str, ...] = ()  # of .list
    paged: bool = True
    only_info: tuple[str, ...] = ()
    only_list: tuple[str, ...] = ()
    descending: bool = False


RESOURCES = {
    "companies": Resource(
        ("name", "added_at", "updated_at"), "companies", since=True, stamps=("added_at", "updated_at"), includes=("custom_fields",),
        only_info=("addresses", "remarks", "marketing_mails_consent"), only_list=("primary_address",),
    ),
    "contacts": Resource(
        ("name", "added_at", "updated_at"), "contacts", since=True, stamps=("added_at", "updated_at"), includes=("custom_fields",),
        only_info=("vat_number", "addresses", "companies", "remarks", "marketing_mails_consent"), only_list=("primary_address",),
    ),
    "customFieldDefinitions": Resource(("label", "context"), ""),
    "departments": Resource(
        ("default_department", "created_at", "name"), "departments", paged=False, only_info=("address", "telephones", "website", "iban"),
    ),
    "events": Resource(("starts_at",), "events"),
    "invoices": Resource(
        ("invoice_number", "invoice_date"), "invoices", since=True, stamps=("created_at", "updated_at"), includes=("late_fees",),
        only_info=("grouped_lines", "payments", "note", "custom_fields"), only_list=("web_url",),
    ),
    "projects": Resource(
        ("due_on", "title", "created_at"), "projects", since=True, ids=False, stamps=("created_at", "updated_at"),
        only_info=("milestones", "participants", "custom_fields"), only_list=("created_at",),
    ),
    "projects-v2/projects": Resource(
        ("project_key", "start_date", "end_date", "title", "status"), "projects",
        includes=("custom_fields", "legacy_project", "pagination"),
        only_info=("update_rights", "custom_user_rates"), only_list=("time_estimated",), descending=True,
    ),
    "users": Resource(("first_name", "last_name", "email", "function"), "users", only_info=("time_zone",)),
}  # fmt: skip


def document(resource: str, number: int, id_: str) -> Document:
    """The whole of a new record, of a plainly made-up person or thing."""
    label = f"Test User {number}"
    custom = [{"definition": {"type": "customFieldDefinition", "id": str(uuid.UUID(int=1))}, "value": number}]
    address = {"line_1": f"Teststraat {number}", "postal_code": "9000", "city": "Gent", "country": "BE", "area_level_two": None}
    of_person: Document = {
        "status": "active", "emails": [{"type": "primary", "email": f"user{number}@test.example"}],
        "telephones": [{"type": "phone", "number": f"+32 9 000 {number:04}"}], "website": None, "primary_address": address,
        "addresses": [{"type": "primary", "address": address}], "vat_number": None, "iban": None, "bic": None, "language": "nl",
        "remarks": f"Remark {number}", "marketing_mails_consent": False, "tags": ["test"], "custom_fields": custom,
        "web_url": f"https://focus.teamleader.eu/detail.php?id={id_}",
    }  # fmt: skip
    made: dict[str, Document] = {
        "companies": {"name": f"Test Company {number}", **of_person},
        "contacts": {"first_name": "Test", "last_name": f"User {number}", "salutation": None, "companies": [], **of_person},
        "customFieldDefinitions": {"context": "contact", "type": "single_line", "label": f"Field {number:05}",
                                   "group": "Test", "required": False},
        "departments": {"name": f"Department {number}", "vat_number": None, "currency": "EUR", "emails": [], "status": "active",
                        "address": address, "telephones": [], "website": None, "iban": None},
        "events": {"creator": None, "task": None, "title": label, "starts_at": _text(BORN + timedelta(minutes=number)), "links": []},
        "invoices": {"invoice_number": f"2017 / {number:05}", "invoice_date": "2017-01-01", "status": "outstanding", "paid": False,
                     "total": {"payable": {"amount": 123.30, "currency": "EUR"}}, "web_url": "https://focus.teamleader.eu/invoice",
                     "grouped_lines": [], "payments": [], "note": f"Note {number}", "custom_fields": custom},
        "projects": {"reference": f"PRO-{number}", "title": f"Project {number}", "status": "active", "due_on": "2016-02-04",
                     "milestones": [], "participants": [], "custom_fields": custom},
        "projects-v2/projects": {"project_key": number, "title": f"Project {number}", "status": "open", "time_estimated": None,
                                 "update_rights": "owners", "custom_user_rates": [], "custom_fields": custom},
        "users": {"account": None, "first_name": "Test", "last_name": f"User {number}", "email": f"user{number:05}@test.example",
                  "telephones": [], "language": "nl", "function": None, "time_zone": "Europe/Brussels", "status": "active", "teams": []},
    }  # fmt: skip
    return {"id": id_, **made[resource]}


@dataclass
class Asked:
    """A request that arrived."""

    path: str
    body: Document
    status: int = 0
    at: float = 0.0  # on the monotonic clock

    @property
    def page(self) -> int:
        """The number of the page that it wants; 0 where it wants none."""
        return int(self.body.get("page", {}).get("number", 0))

    @property
    def resource(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def action(self) -> str:
        return self.path.rpartition(".")[2]


@dataclass
class Fault:
    """What goes wrong, with which of the requests that fit: after `skip` of them, `times` times."""

    how: int | str  # a status; html, truncated, reset, hang, empty, null, not_json, wait
    fits: Callable[[Asked], bool]
    times: int = 1
    skip: int = 0

    def strikes(self, asked: Asked) -> bool:
        if not self.times or not self.fits(asked):
            return False
        self.skip -= 1
        if self.skip < 0:
            self.times -= 1
        return self.skip < 0


@dataclass
class Teamleader:
    """The server. `before` is called with each request before it is answered: there the data may change."""

    limit: int = 1_000_000
    window: timedelta = timedelta(minutes=1)
    module: str = "legacy"
    ahead: timedelta = timedelta(0)
    behind: timedelta = timedelta(0)  # the clock of its documents, compared with that of its Date header
    zone: str = "+00:00"  # what its documents say of it; "": nothing
    dates: Callable[[datetime], datetime] = lambda moment: moment  # of the Date header
    shuffled: bool = False  # records that sort alike come in another order with each request
    exclusive: bool = False  # updated_since leaves out what changed in that very second
    shows_limit: bool = True
    shows_date: bool = True
    omits: str = ""  # records of this status are not in lists
    account: str = "0fc55513-7f68-4865-aba0-de5da9e4e43d"
    scopes: set[str] = field(default_factory=lambda: {resource.scope for resource in RESOURCES.values()})
    tokens: Container[str] = field(default_factory=lambda: {TOKEN})  # those that it takes, such as an OAuthServer has
    before: Callable[[Asked], None] = lambda _asked: None
    records: dict[str, dict[str, Document]] = field(default_factory=lambda: {name: {} for name in RESOURCES})
    asked: list[Asked] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    port: int = 0
    connections: set[socket.socket] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._numbers = dict.fromkeys(RESOURCES, 0)
        self._lock = threading.RLock()
        self._times: deque[float] = deque()
        self._closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # data

    def now(self) -> datetime:
        """By its own clock, in whole seconds."""
        return (datetime.now(UTC) + self.ahead).replace(microsecond=0)

    def add(self, resource: str, count: int = 1, *, at: datetime | None = None, **more: Any) -> list[str]:
        """New records, added a minute apart since 2016, or at this moment; their ids."""
        made = []
        with self._lock:
            for _ in range(count):
                number = self._numbers[resource] = self._numbers[resource] + 1
                id_ = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{resource}/{number}"))
                moment = _text(at or BORN + timedelta(minutes=number))
                stamps = dict.fromkeys(RESOURCES[resource].stamps, moment)
                self.records[resource][id_] = {**document(resource, number, id_), **stamps, **more}
                made.append(id_)
        return made

    def change(self, resource: str, id_: str, **more: Any) -> None:
        """New values; moves `updated_at`."""
        with self._lock:
            stamps = {name: _text(self.now() - self.behind).removesuffix("+00:00") + self.zone for name in RESOURCES[resource].stamps[1:]}
            self.records[resource][id_] = {**self.records[resource][id_], **stamps, **more}

    def delete(self, resource: str, id_: str) -> None:
        with self._lock:
            del self.records[resource][id_]

    def ids(self, resource: str) -> list[str]:
        return list(self.records[resource])

    # requests

    def fail(self, how: int | str, path: str, *, times: int = 1, skip: int = 0, **fields: Any) -> None:
        """Let requests of this path go wrong; with fields, only those that have them: page=3, id=..."""

        def fits(asked: Asked) -> bool:
            return asked.path == path and all(
                (asked.page if name == "page" else asked.body.get(name)) == value for name, value in fields.items()
            )

        self.faults.append(Fault(how, fits, times, skip))

    def count(self, path: str = "") -> int:
        """How many requests arrived, of this path or of all."""
        return sum(not path or asked.path == path for asked in self.asked)

    def counts(self) -> dict[str, int]:
        """How many requests of each path arrived."""
        return {path: self.count(path) for path in sorted({asked.path for asked in self.asked})}

    def take(self, asked: Asked, headers: Mapping[str, str]) -> tuple[int, Any, dict[str, str]]:
        """Status, body, headers of one request."""
        with self._lock:
            self.asked.append(asked)
            asked.at = time.monotonic()
        self.before(asked)
        with self._lock:
            allowed, limits = self._limited()
            if not allowed:
                return 429, _error("Too many requests", 429), limits
            try:
                self._admit(headers)
                return 200, self._answer(asked), limits
            except _Refused as refused:
                return refused.status, _error(refused.title, refused.status), limits

    def _admit(self, headers: Mapping[str, str]) -> None:
        if headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            raise _Refused(401, "Unauthorized")
        if headers.get("X-Api-Version", VERSION) != VERSION:
            raise _Refused(400, "unknown version")

    def _limited(self) -> tuple[bool, dict[str, str]]:
        now, window = time.monotonic(), self.window.total_seconds()
        while self._times and self._times[0] <= now - window:
            self._times.popleft()
        allowed = len(self._times) < self.limit
        if allowed:
            self._times.append(now)
        reset = datetime.now(UTC) + self.ahead + timedelta(seconds=self._times[0] + window - now if self._times else 0)
        stamp = reset.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{reset.microsecond // 1000:03}+0000"
        remaining = self.limit - len(self._times)
        if not self.shows_limit:
            return allowed, {}
        return allowed, {"X-RateLimit-Limit": str(self.limit), "X-RateLimit-Remaining": str(remaining), "X-RateLimit-Reset": stamp}

    def _answer(self, asked: Asked) -> Any:
        if asked.path == "users.me":
            return {"data": {"id": str(uuid.UUID(int=7)), "account": {"type": "account", "id": self.account}, "email": "me@test.example"}}
        if asked.path == "accounts.projects-v2-status":
            return {"data": {"status": self.module}}
        resource = RESOURCES.get(asked.resource)
        if resource is None or asked.action not in ("list", "info"):
            raise _Refused(404, "Not found")
        if resource.scope not in self.scopes:
            raise _Refused(403, "You are not allowed")
        if asked.action == "list":
            return self._list(asked, resource)
        if (id_ := asked.body.get("id", "")) not in self.records[asked.resource]:
            raise _Refused(404, "Not found")
        return {"data": self.info(asked.resource, id_)}

    def info(self, resource: str, id_: str) -> Document:
        """The document that .info gives."""
        documented = RESOURCES[resource]
        hidden = {*documented.only_list, *(documented.stamps if resource == "projects" else ())}
        return {name: value for name, value in self.records[resource][id_].items() if name not in hidden}

    def _list(self, asked: Asked, resource: Resource) -> Any:
        chosen = self._filtered(asked, resource)
        if self.shuffled:
            random.shuffle(chosen)
        for order in reversed(asked.body.get("sort", [{"field": resource.sorts[0], "order": "desc" if resource.descending else "asc"}])):
            if order["field"] not in resource.sorts:
                raise _Refused(400, "unknown sort field")
            chosen.sort(key=lambda one: _sortable(asked.resource, one, order["field"]), reverse=order["order"] == "desc")
        wanted = [one for one in asked.body.get("includes", "").split(",") if one]
        if set(wanted) - set(resource.includes):
            raise _Refused(400, "unknown include")
        hidden = {*resource.only_info, *({"updated_at"} if asked.resource == "projects" else ())}
        if "custom_fields" in resource.includes and "custom_fields" not in wanted:
            hidden.add("custom_fields")
        total, page = len(chosen), asked.body.get("page", {})
        if resource.paged:
            size, number = page.get("size", 20), page.get("number", 1)
            if not 1 <= size <= 100 or number < 1:
                raise _Refused(400, "bad page")
            chosen = chosen[(number - 1) * size : number * size]
        listed = {"data": [{name: value for name, value in one.items() if name not in hidden} for one in chosen]}
        return listed | ({"meta": {"page": page, "matches": total}} if "pagination" in wanted else {})

    def _filtered(self, asked: Asked, resource: Resource) -> list[Document]:
        filters = asked.body.get("filter", {})
        chosen = [one for one in self.records[asked.resource].values() if not self.omits or one.get("status") != self.omits]
        if set(filters) - {*(["ids"] if resource.ids else []), *(["updated_since"] if resource.since else [])}:
            raise _Refused(400, "unknown filter")
        if "ids" in filters:
            chosen = [one for one in chosen if one["id"] in filters["ids"]]
        if "updated_since" in filters:
            since = datetime.fromisoformat(filters["updated_since"])
            since += timedelta(seconds=self.exclusive)
            chosen = [one for one in chosen if _moment(one["updated_at"]) >= since]
        return chosen

    # the wire

    @contextmanager
    def running(self) -> Iterator[Teamleader]:
        """From here on it answers at `url`."""
        server = _Server(("127.0.0.1", 0), _Handler)
        server.teamleader = self
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._closing.set()
            server.shutdown()
            self.cut()
            server.server_close()
            thread.join(5)

    def wait(self, seconds: float) -> None:
        """Say nothing for so long, or until the server ends."""
        self._closing.wait(seconds)

    def cut(self) -> None:
        """Drop every connection."""
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    teamleader: Teamleader

    def handle_error(self, *_: Any) -> None:
        """Clients hang up."""


class _Refused(Exception):
    def __init__(self, status: int, title: str) -> None:
        super().__init__(title)
        self.status, self.title = status, title


def _error(title: str, status: int) -> Any:
    return {"errors": [{"title": title, "code": 0, "status": status}]}


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _moment(text: str) -> datetime:
    """A time stamp; what is none was long ago."""
    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    except ValueError:
        return BORN


def _sortable(resource: str, one: Document, name: str) -> tuple[Any, ...]:
    if resource == "contacts" and name == "name":
        return (one["last_name"] or "", one["first_name"] or "")
    value = one.get(name)
    return (value is not None, value if value is not None else "")


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.teamleader.connections.add(self.connection)

    def finish(self) -> None:
        self.server.teamleader.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.path.lstrip("/"), json.loads(text or b"{}"))
        fault = next((one for one in self.server.teamleader.faults if one.strikes(asked)), None)
        status, body, headers = self.server.teamleader.take(asked, self.headers)
        kind, content = "application/json", re.sub(rb'"as it is:([^"]*)"', rb"\1", json.dumps(body).encode())
        if fault:
            status, kind, content = self._spoilt(fault.how, status, kind, content)
        asked.status = status
        if not status:
            self.close_connection = True
            return
        size = len(content) + (100 if fault and fault.how == "truncated" else 0)
        teamleader = self.server.teamleader
        date = {"Date": format_datetime(teamleader.dates(teamleader.now()), usegmt=True)} if teamleader.shows_date else {}
        head = {**date, "Content-Type": kind, "Content-Length": str(size), "X-Api-Version": VERSION,
                "X-Request-ID": f"request-{len(teamleader.asked)}", **headers}  # fmt: skip
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        self.wfile.write(f"HTTP/1.1 {status} Answer\r\n{lines}\r\n".encode() + content)
        if size > len(content):
            self.close_connection = True

    def _spoilt(self, how: int | str, status: int, kind: str, content: bytes) -> tuple[int, str, bytes]:
        if isinstance(how, int):
            return how, kind, json.dumps(_error("Test User 1 can't be shown", how)).encode()
        if how == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return 0, kind, content
        if how in ("hang", "wait"):
            self.server.teamleader.wait(60 if how == "hang" else 0.3)
            return (0 if how == "hang" else status), kind, content
        return {
            "html": (200, "text/html", b"<html><body>Test User 1: maintenance</body></html>"),
            "gateway": (502, "text/html", b"<html><body>Bad gateway</body></html>"),
            "truncated": (200, kind, content[: len(content) // 2]),
            "not_json": (200, kind, content[: len(content) // 2]),
            "empty": (200, kind, b'{"data": []}'),
            "short": (200, kind, json.dumps({"data": json.loads(content).get("data", [])[:2]}).encode()),
            "null": (200, kind, b'{"data": null}'),
            "other": (200, kind, b'{"data": {"id": "00000000-0000-0000-0000-000000000005"}}'),
            "nothing": (200, kind, b""),
        }[how]

    def log_message(self, *_: Any) -> None:
        """pytest shows what failed."""
