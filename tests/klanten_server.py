"""A local Klanten: customers, apps and mappings over its documented routes, with its key check; in each reading of what is not documented.

Documented: bodies are forms, also that of GET /v1/mappings/; a new mapping is a 201; creating a customer gives the one that there is; the
id's field is called aoo_id in its own example. Inferred: a wrong key is 403; an unknown id is 404, or a 500 with a page in HTML; a second
mapping is 400 with the same words for "already so" and "somebody else's"; domains are compared as they are, case included.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import parse_qs, unquote
from uuid import UUID, uuid4

from tests.http_server import Answer, Asked, Fault, HttpServer

KEY = "a-key.to-look-for"
PAGE = b"<!doctype html><title>Server Error (500)</title><h1>Server Error (500)</h1>"
NOT_FOUND = b"<!doctype html><title>Not Found</title><h1>Not Found</h1>"
HTML = {"Content-Type": "text/html; charset=utf-8"}
REFUSED = {"detail": "The mapping could not be created."}
Unknown = Literal["404", "404 html", "500 html"]
Trouble = Callable[[Asked], Answer | None]


class Klanten(HttpServer):
    """The service. `unknown` and `id_field` are readings of its page; `takes` is where the customer of GET /v1/mappings/ is looked for.

    `no_app` is what a mapping to an unknown app gets. `trouble` is asked before each request, and answers in its place; `lost` after
    one was carried out: its answer is the one that comes.
    """

    def __init__(self, *apps: str, unknown: Unknown = "404", id_field: str = "aoo_id", takes: Literal["form", "query"] = "form") -> None:
        super().__init__()
        self.apps, self.unknown, self.id_field, self.takes = set(apps), unknown, id_field, takes
        self.customers: dict[str, UUID] = {}  # by domain, as it was given
        self.mappings: dict[tuple[str, str], UUID] = {}
        self.key, self.no_app = KEY, 400
        self.trouble: Trouble = lambda _: None
        self.lost: Trouble = lambda _: None
        self._at_a_time = threading.Lock()

    def add(self, domain: str, *ids: tuple[str, str], uuid: UUID | None = None) -> UUID:
        """A customer that somebody made there, with these ids (app, id)."""
        found = self.customers.setdefault(domain, uuid or uuid4())
        self.apps |= {app for app, _ in ids}
        self.mappings |= dict.fromkeys(ids, found)
        return found

    def held(self) -> dict[tuple[str, str], str]:
        """The domain of each id."""
        domains = {uuid: domain for domain, uuid in self.customers.items()}
        return {ids: domains[uuid] for ids, uuid in sorted(self.mappings.items())}

    def sent(self) -> list[str]:
        """What was asked to be made, in order: method and path."""
        return [f"{one.method} {one.path}" for one in self.asked if one.method != "GET"]

    def answer(self, asked: Asked) -> Answer:
        with self._at_a_time:
            self.asked.append(asked)
            if spoilt := self.trouble(asked):
                return spoilt
            if asked.headers.get("Authorization") != f"Api-Key {self.key}":
                return Answer(403, {"detail": "Authentication credentials were not provided."})
            answer = self._carried_out(asked)
            return self.lost(asked) or answer

    def _carried_out(self, asked: Asked) -> Answer:
        form = {name: values[0] for name, values in parse_qs(asked.body.decode(), keep_blank_values=True).items()}
        parts = asked.path.strip("/").split("/")
        if asked.method == "GET" and parts[:2] == ["v1", "query"] and len(parts) == 4 and not asked.path.endswith("/"):
            return self._customer_of(unquote(parts[2]), unquote(parts[3]))
        if asked.path == "/v1/mappings/" and asked.method == "GET":
            of = form if self.takes == "form" else {name: values[0] for name, values in asked.query.items()}
            return self._mappings_of(of.get("customer", ""))
        if asked.path == "/v1/mappings/":
            return self._map(form)
        if asked.path == "/v1/customers/" and asked.method == "POST":
            domain = form.get("domain", "").strip()
            return self._shown(domain, self.customers.setdefault(domain, uuid4())) if domain else Answer(400, {"domain": ["Required."]})
        return Answer(404, NOT_FOUND, HTML)

    def _customer_of(self, app: str, id_: str) -> Answer:
        uuid = self.mappings.get((app, id_))
        return self._unknown() if uuid is None else self._shown(self._domain(uuid), uuid)

    def _mappings_of(self, customer: str) -> Answer:
        uuid = next((one for one in self.customers.values() if str(one) == customer), None)
        if uuid is None:
            return self._unknown()
        found = [ids for ids, one in self.mappings.items() if one == uuid]
        return Answer(200, [{"app": app, "domain": self._domain(uuid), self.id_field: id_} for app, id_ in found])

    def _map(self, form: Mapping[str, str]) -> Answer:
        app, id_, customer = (form.get(name, "").strip() for name in ("app", "customer_app_id", "customer"))
        uuid = next((one for one in self.customers.values() if str(one) == customer), None)
        if app not in self.apps:
            return Answer(self.no_app, REFUSED)
        if not id_ or uuid is None or (app, id_) in self.mappings:
            return Answer(400, REFUSED)
        self.mappings[app, id_] = uuid
        return Answer(201, {"customer_app_id": id_, "customer": customer, "app": app})

    def _domain(self, uuid: UUID) -> str:
        return next(domain for domain, one in self.customers.items() if one == uuid)

    def _shown(self, domain: str, uuid: UUID) -> Answer:
        return Answer(200, {"domain": domain, "uuid": str(uuid)})

    def _unknown(self) -> Answer:
        if self.unknown == "500 html":
            return Answer(500, PAGE, HTML)
        return Answer(404, NOT_FOUND, HTML) if self.unknown == "404 html" else Answer(404, {"detail": "Does not exist."})


def of_path(begin: str, answer: Answer, *, times: int = 1_000_000, skip: int = 0, method: str = "") -> Trouble:
    """Trouble with requests whose path begins so: after `skip` of them, `times` times."""
    left = [skip, times]

    def spoil(asked: Asked) -> Answer | None:
        if not asked.path.startswith(begin) or method not in {"", asked.method}:
            return None
        if left[0]:
            left[0] -= 1
            return None
        left[1] -= 1
        return answer if left[1] >= 0 else None

    return spoil


def fault(kind: Fault) -> Answer:
    """An answer that does not come, or not all of it."""
    return Answer(200, {"domain": "example.com"}, fault=kind)


def out_of_order() -> Answer:
    """What any service of its kind answers whose database is away."""
    return Answer(500, PAGE, HTML)


def settings(url: str, **more: Any) -> dict[str, Any]:
    """What the config file says of it, without its type."""
    return {"url": url, "api_key": KEY, **more}
