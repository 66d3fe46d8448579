"""A local WorkOS that does what the specification says, where the vendor's emulator is kind: nothing is guessed for the client.

No list of all memberships; only active ones unless others are asked for; events only of the types that are asked for, oldest first
whatever `order` says; `after` and `range_start` exclude each other; a limit of 101 is an error. Faults on request.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from tests.http_server import Answer, Asked, Fault, HttpServer
from tests.workos_world import PREFIXES, Document, World

KEY = "sk_test_a-key-to-look-for"
OTHER_KEY = "sk_test_of-another-environment"
EVENTS = "/events"
LISTS = {
    "/user_management/users": "users",
    "/organizations": "organizations",
    "/user_management/organization_memberships": "organization_memberships",
    "/directories": "directories",
    "/directory_users": "directory_users",
    "/directory_groups": "directory_groups",
    "/connections": "connections",
    "/authorization/roles": "roles",
    "/user_management/invitations": "invitations",
}
PATHS = {stream: path for path, stream in LISTS.items()}
# What a list refuses to be asked without; at least one of these [spec, and the vendor's documentation of directories].
NEEDED = {
    "organization_memberships": ("user_id", "organization_id"),
    "directory_users": ("directory", "group"),
    "directory_groups": ("directory", "user"),
}
TYPES = frozenset((Path(__file__).parent / "samples/workos_event_types.txt").read_text().split())  # of the specification and the SDK

Lost = Literal[404, 400, 422, "empty", "rewound"]


@dataclass
class Trouble:
    """What goes wrong with requests of this path: after `skip` of them, `times` times."""

    how: int | str  # a status; "half" (a body cut in two), "html", "null", "empty", "busy in seconds", "busy until", a fault of HttpServer
    path: str
    times: int
    skip: int

    def strikes(self, path: str) -> bool:
        if not self.times or path != self.path:
            return False
        self.skip -= 1
        if self.skip < 0:
            self.times -= 1
        return self.skip < 0


class WorkOS(HttpServer):
    """The server. `world` is what its key opens; `worlds` has others, by key. `before` is called with each request first."""

    def __init__(self, world: World | None = None) -> None:
        super().__init__()
        self.world = world or World()
        self.worlds: dict[str, World] = {KEY: self.world, OTHER_KEY: World("OTHER")}
        self.forbidden: dict[str, set[str]] = {}  # paths that a restricted key may not list, by key
        self.lost_cursor: Lost = 404  # what becomes of an event that nobody knows
        self.lost_page: Lost = 422  # and of a place in a list that nobody knows
        self.forgets = False  # a list does not know the place of an object that is deleted
        self.strict = True  # unknown types of events are refused
        self.takes_no_type = False  # the filter by type does nothing, as in the emulator
        self.doubled = False  # each page of events has its last event twice
        self.before: Callable[[Asked], None] = lambda _asked: None
        self.troubles: list[Trouble] = []

    # what a test says and sees

    def fail(self, how: int | str, path: str, *, times: int = 1_000_000, skip: int = 0) -> None:
        """Let requests of this path (/events) go wrong."""
        self.troubles.append(Trouble(how, path, times, skip))

    def counts(self) -> dict[str, int]:
        """How many requests arrived, by path; those by an id as `/organizations/{id}`."""
        with self._lock:
            return dict(Counter(re.sub(r"/(external_id/.+|[a-z_]+_01[^/]*)$", "/{id}", asked.path) for asked in self.asked))

    def forget_requests(self) -> None:
        with self._lock:
            self.asked.clear()

    @contextmanager
    def requests(self) -> Iterator[dict[str, int]]:
        """Counts of the requests that arrive while it is open; filled at its end."""
        self.forget_requests()
        counted: dict[str, int] = {}
        yield counted
        counted |= self.counts()

    def truth(self, stream: str) -> dict[str, Document]:
        return self.world.truth(stream)

    def settings(self, **more: Any) -> dict[str, Any]:
        """Of a source at this address."""
        return {"type": "workos", "api_url": self.url, "api_key": KEY, **more}

    def now(self) -> datetime:
        return self.world.now()

    # requests

    def answer(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            number = len(self.asked)
        self.before(asked)
        with self._lock:
            trouble = next((one for one in self.troubles if one.strikes(asked.path)), None)
        world = self.worlds.get(asked.headers.get("Authorization", "").removeprefix("Bearer "))
        if world is None:
            answer = Answer(401, {"message": "Unauthorized", "code": "unauthorized"})
        else:
            with world.lock:
                answer = self._answered(asked, world)
        answer = replace(answer, headers={"X-Request-ID": f"req_TEST{number}", **answer.headers})
        return self._spoilt(trouble.how, answer) if trouble else answer

    def _answered(self, asked: Asked, world: World) -> Answer:
        key = asked.headers["Authorization"].removeprefix("Bearer ")
        if any(asked.path.startswith(path) for path in self.forbidden.get(key, ())):
            return Answer(403, {"message": "This API key does not have the required permissions.", "code": "forbidden"})
        if asked.path == EVENTS and asked.method == "GET":
            return self._events(asked.query, world)
        if asked.path in LISTS and asked.method == "GET":
            return self._list(LISTS[asked.path], asked.query, world)
        if asked.path == PATHS["users"] and asked.method == "POST":
            return _create_user(asked, world)
        where, _, id_ = asked.path.rpartition("/")
        if where.endswith("/external_id"):
            return _by_external_id(LISTS.get(where.removesuffix("/external_id"), ""), unquote(id_), world)
        return self._by_id(asked, LISTS.get(where, ""), id_, world)

    def _by_id(self, asked: Asked, stream: str, id_: str, world: World) -> Answer:
        if id_ not in world.streams.get(stream, {}):
            return _not_found(stream, id_)
        if asked.method == "PUT" and stream == "users":
            world.update_user(id_, **asked.json)
        if asked.method == "DELETE":
            {"users": world.delete_user, "organizations": world.delete_organization}[stream](id_)
            return Answer(204, b"")
        return Answer(body=world.listed(stream, id_))

    # lists

    def _list(self, stream: str, query: Mapping[str, Sequence[str]], world: World) -> Answer:
        asked = {name: values[-1] for name, values in query.items()}
        if wrong := _refused(stream, asked):
            return wrong
        ids = [id_ for id_ in world.ids(stream) if _wanted(stream, world.streams[stream][id_], asked, world)]
        if stream == "roles":  # has no pages [spec]
            return Answer(body={"object": "list", "data": [world.listed(stream, id_) for id_ in ids]})
        after, limit, backwards = asked.get("after"), int(asked.get("limit", 10)), asked.get("order", "desc") != "asc"
        if after and after not in world.streams[stream] and (self.forgets or not after.startswith(f"{PREFIXES[stream]}_01{world.name}")):
            if self.lost_page != "rewound":
                return Answer(body=_page([], None)) if self.lost_page == "empty" else _unknown(self.lost_page, after)
            after = None
        ids = ids[::-1] if backwards else ids
        rest = [id_ for id_ in ids if not after or ((id_ < after) if backwards else (id_ > after))]  # ids sort as they were made
        shown = rest[:limit]
        return Answer(body=_page([world.listed(stream, id_) for id_ in shown], shown[-1] if len(rest) > limit else None, before=after))

    def _events(self, query: Mapping[str, Sequence[str]], world: World) -> Answer:
        asked = {name: values[-1] for name, values in query.items()}
        wanted = [name for name in asked.get("events", "").split(",") if name]
        if wrong := _limit(asked) or self._wrong_events(asked, wanted):
            return wrong
        log, after = world.log, asked.get("after")
        place = 0
        if after:
            at = next((number for number, event in enumerate(log) if event["id"] == after), None)
            if at is None and self.lost_cursor != "rewound":
                return Answer(body=_page([], None)) if self.lost_cursor == "empty" else _unknown(self.lost_cursor, after)
            place = 0 if at is None else at + 1
        start, end = asked.get("range_start", ""), asked.get("range_end", "9")
        kept = [
            event for event in log[place:] if self._gives(event["event"], wanted) and start <= event["created_at"].replace(" ", "T") <= end
        ]
        limit = int(asked.get("limit", 10))
        shown = kept[:limit]
        return Answer(body=_page(shown + shown[-1:] if self.doubled else shown, shown[-1]["id"] if len(kept) > limit else None))

    def _gives(self, type_: str, wanted: Sequence[str]) -> bool:
        """Whether events of a type are in the answer. Those that nobody knows always are."""
        return self.takes_no_type or type_ in wanted or type_ not in TYPES

    def _wrong_events(self, asked: Mapping[str, str], wanted: Sequence[str]) -> Answer | None:
        if not wanted:
            return _invalid("required", "events")
        if self.strict and (unknown := [name for name in wanted if name not in TYPES]):
            return Answer(400, {"code": "unknown_event_type", "message": f"Unknown event types: {', '.join(unknown)}"})
        if "after" in asked and "range_start" in asked:
            return _invalid("mutually_exclusive", "range_start")
        for name in ("range_start", "range_end"):
            if name in asked and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", asked[name]):
                return _invalid("invalid_date", name)
        return None

    # faults

    def _spoilt(self, how: int | str, answer: Answer) -> Answer:
        whole = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        busy = {"message": "Too Many Requests", "code": "rate_limit_exceeded"}
        if isinstance(how, int):
            return Answer(how, {"message": "Test trouble", "code": "test_trouble"}, answer.headers)
        if how == "busy in seconds":
            return Answer(429, busy, {"Retry-After": "1"})
        if how == "busy until":
            return Answer(429, busy, {"Retry-After": format_datetime(self.now() + timedelta(seconds=1), usegmt=True)})
        bodies: dict[str, Any] = {
            "half": whole[: len(whole) // 2],
            "html": b"<html><body>Test User: maintenance</body></html>",
            "null": b"null",
            "empty": b'{"object":"list","data":[],"list_metadata":{"before":null,"after":null}}',
            "no list": b"{}",
        }
        if how in bodies:
            return Answer(body=bodies[how])
        faults: dict[str, Fault] = {name: name for name in ("truncated", "reset", "hang", "hang in body", "close")}
        return Answer(body=answer.body, fault=faults[how])


# what lists refuse, and whom they show


def _refused(stream: str, asked: Mapping[str, str]) -> Answer | None:
    needed = NEEDED.get(stream)
    if stream == "organization_memberships" and not any(name in asked for name in needed or ()):
        return Answer(400, {"code": "missing_user_id_or_organization_id", "message": "Request could not be processed."})
    if needed and not any(name in asked for name in needed):
        return Answer(422, {"message": f"One of {' or '.join(needed)} is required."})
    statuses = asked.get("statuses", "active").split(",")
    if stream == "organization_memberships" and not set(statuses) <= {"active", "inactive", "pending"}:
        return _invalid("invalid_request_parameters", "statuses")
    return _limit(asked)


def _limit(asked: Mapping[str, str]) -> Answer | None:
    limit = asked.get("limit", "10")
    return None if limit.isdecimal() and 1 <= int(limit) <= 100 else _invalid("invalid_request_parameters", "limit")


def _wanted(stream: str, document: Document, asked: Mapping[str, str], world: World) -> bool:
    if stream == "organization_memberships" and document["status"] not in asked.get("statuses", "active").split(","):
        return False
    if stream == "users" and "organization_id" in asked:
        memberships = world.streams["organization_memberships"].values()
        return any(one["user_id"] == document["id"] and one["organization_id"] == asked["organization_id"] for one in memberships)
    fields = {"user_id": "user_id", "organization_id": "organization_id", "directory": "directory_id"}
    if any(name in asked and document.get(of) != asked[name] for name, of in fields.items()):
        return False
    return "email" not in asked or document.get("email", "").lower() == asked["email"].lower()


def _page(data: Sequence[Document], after: str | None, before: str | None = None) -> Document:
    return {"object": "list", "data": list(data), "list_metadata": {"before": before and data[0]["id"] if data else None, "after": after}}


def _unknown(status: int, id_: str) -> Answer:
    if status == 422:
        return Answer(422, {"message": "Validation failed.", "errors": [{"code": "invalid", "field": "after"}]})
    return Answer(status, {"message": f"Event not found: '{id_}'.", "code": "entity_not_found" if status == 404 else "invalid_cursor"})


def _invalid(code: str, field_: str) -> Answer:
    return Answer(422, {"message": "Validation failed.", "code": "invalid_request_parameters", "errors": [{"code": code, "field": field_}]})


def _not_found(stream: str, id_: str) -> Answer:
    what = stream.removesuffix("s").replace("_", " ").capitalize() or "Path"
    return Answer(404, {"message": f"{what} not found: '{id_}'.", "code": "entity_not_found", "entity_id": id_})


def _by_external_id(stream: str, external: str, world: World) -> Answer:
    found = [id_ for id_, document in world.streams.get(stream, {}).items() if document.get("external_id") == external]
    return Answer(body=world.listed(stream, found[0])) if found else _not_found(stream, external)


# POST of a user


def _create_user(asked: Asked, world: World) -> Answer:
    try:
        given = json.loads(asked.body)
    except ValueError:
        return Answer(400, {"message": "Problems parsing JSON", "code": "invalid_request_body"})
    if problem := _wrong_user(given, world):
        return problem
    known = ("email", "first_name", "last_name", "name", "email_verified", "external_id", "metadata", "locale")
    nothing = dict.fromkeys(("first_name", "last_name", "name"))
    id_ = world.create_user(**{**nothing, **{name: given[name] for name in known if name in given}})
    return Answer(201, world.listed("users", id_))


def _wrong_user(given: Mapping[str, Any], world: World) -> Answer | None:
    email, external, there = given.get("email"), given.get("external_id"), world.streams["users"].values()
    if not isinstance(email, str) or not email:
        return _invalid("email_required", "email")
    if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", email):
        return _creation("invalid_email", "The email address is not valid.")
    if any(one["email"].lower() == email.lower() for one in there):
        return _creation("email_not_available", "This email is not available.")
    if external is not None and any(one["external_id"] == external for one in there):
        return Answer(400, {"code": "external_id_already_used", "message": "The external ID is already in use by another user."})
    return _wrong_details(external, given.get("metadata") or {})


def _wrong_details(external: Any, metadata: Mapping[str, Any]) -> Answer | None:
    if external is not None and not 1 <= len(external) <= 128:
        return _invalid("external_id_too_long", "external_id")
    if len(metadata) > 50 or any(len(name) > 40 or not isinstance(value, str) or len(value) > 600 for name, value in metadata.items()):
        errors = [{"code": "invalid", "message": "metadata values are texts of 600 characters at most"}]
        return Answer(400, {"code": "invalid_metadata", "message": "Metadata is invalid.", "errors": errors})
    return None


def _creation(code: str, message: str) -> Answer:
    return Answer(400, {"code": "user_creation_error", "message": "Could not create user.", "errors": [{"code": code, "message": message}]})
