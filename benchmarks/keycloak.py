"""The job from Fineract to a real Keycloak: how much of its time is Keycloak's own, and how many requests it takes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import requests

from benchmarks import measure
from benchmarks.measure import Contestant, Run
from benchmarks.parts import USERSYNC
from benchmarks.report import Figure, Part
from benchmarks.server import Server
from tests.fineract_server import Fineract, made
from tests.keycloak_server import Bank, Front, Keycloak, shared
from tests.staff import GROUPS, REALM, ROLES, STAFF_EXCLUDED
from usersync_cli.targets.keycloak.passwords import Policy, first_passwords

WORKERS = 4
PAGE = 1000
MADE = 1000  # of them, for hashing takes its time: with a password each, an account costs the server 0.1 s
ACTIONS = ["UPDATE_PASSWORD", "VERIFY_EMAIL", "webauthn-register"]


@dataclass
class Staff:
    """`usersync run` between a local Fineract and a realm."""

    server: Server
    fineract: Fineract
    bank: Bank
    name: str

    def prepare(self, url: str) -> None:
        """A config, with Keycloak at this address."""
        sso = {"type": "keycloak", "url": url, "realm": self.bank.name, "client_id": self.bank.client_id, "roles": ROLES, "groups": GROUPS}
        document = {
            "environment": "test",
            "target": self.server.url(f"bench_{self.name}"),
            "sources": {"fineract": made(self.fineract.url, exclude=STAFF_EXCLUDED)},
            "targets": {"keycloak": {**sso, "client_secret": self.bank.client_secret, "workers": WORKERS}},
            "jobs": {
                "fineract": {
                    "steps": [{"name": "accounts", "extract": {"source": "fineract", "streams": ["users"]}, "load": {"target": "keycloak"}}]
                }
            },
        }
        (self.server.folder / f"{self.name}.yaml").write_text(json.dumps(document))

    def run(self, name: str, **counts: int) -> Run:
        """A run of the job; these counts are what it must have done."""
        command = f"{USERSYNC} run --job fineract --output json --config {self.server.folder / f'{self.name}.yaml'}"
        run = measure.run(self.server, Contestant(name, command))
        found = json.loads(run.stdout)["steps"][0]
        assert counts == {count: found[count] for count in counts}, f"{name}: expected {counts}, found {found}"
        return run


class Bare:
    """The same requests to Keycloak, and nothing else."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self._session = requests.Session()
        self._session.trust_env = False
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=WORKERS)
        self._session.mount("http://", adapter)
        self._session.headers["Authorization"] = f"Bearer {bank.token}"

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        reply = self._session.request(method, f"{self._bank.url}/admin/realms/{self._bank.name}{path}", timeout=60, **options)
        assert reply.ok, f"{reply.status_code} to {method} {path}"
        return reply

    def make(self, count: int) -> float:
        """So many people, two requests each, WORKERS at once; in so many seconds."""
        role = self.ask("GET", "/roles/teller").json()
        began = time.perf_counter()
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(lambda number: self._make(number, role), range(count)))
        return time.perf_counter() - began

    def _make(self, number: int, role: Any) -> None:
        user = {
            "username": f"user{number:05}", "email": f"user{number}@test.example", "firstName": "Test", "lastName": f"User {number}",
            "enabled": True, "requiredActions": ACTIONS, "groups": ["/tellers"], "attributes": {"usersync_id": [f"default:{number}"]},
            "credentials": [{"type": "password", "value": next(first_passwords(Policy())), "temporary": True}],
        }  # fmt: skip
        id_ = self.ask("POST", "/users", json=user).headers["Location"].rpartition("/")[2]
        self.ask("POST", f"/users/{id_}/role-mappings/realm", json=[role])

    def read(self) -> float:
        """The pages of users, role members and group members; in so many seconds."""
        began = time.perf_counter()
        paths = ["/users?briefRepresentation=false", *(f"/roles/{role}/users?briefRepresentation=true" for role in ROLES.values())]
        groups = {group["name"]: group["id"] for group in self.ask("GET", "/groups").json()}
        paths += [f"/groups/{groups[name]}/members?briefRepresentation=true" for name in dict.fromkeys(GROUPS.values())]
        for path in paths:
            first = 0
            while len(self.ask("GET", f"{path}&first={first}&max={PAGE}").json()) == PAGE:
                first += PAGE
        return time.perf_counter() - began


@contextmanager
def _bank(keycloak: Keycloak) -> Iterator[Bank]:
    with keycloak.bank(**REALM, accessTokenLifespan=36_000) as bank:
        yield bank


def keycloak(server: Server, people: int, rounds: int) -> Part:
    """Making accounts beside a bare loop; then a run that finds nothing to do for all people, beside a bare listing."""
    made = min(people, MADE)
    with shared() as real:
        with _bank(real) as bank, _bank(real) as other, Fineract().running() as fineract:
            Bare(other).make(100)  # the server compiles what it does often
            _empty(other)
            making, bare = _made(Staff(server, fineract, bank, "keycloak_made"), Bare(other), made)
        with _bank(real) as bank, Fineract().running() as fineract:
            staff = _filled(Staff(server, fineract, bank, "keycloak_same"), people)
            same, listing = [], []
            for _ in range(rounds):
                same.append(staff.run("unchanged", inserted=0, updated=0, unchanged=people))
                listing.append(Bare(bank).read())
            asked = _asked(staff, bank, people)
    pages = sum("first=" in one for one in asked)
    written = sum(not one.startswith("GET") for one in asked)
    return Part(
        "Keycloak",
        [
            _ratio(f"Keycloak, {made:,} accounts made, beside a bare loop of the same requests", making.seconds, bare, 1.2),
            _ratio(f"Keycloak, {people:,} unchanged, beside a bare listing", measure.seconds(same), median(listing), 2),
            Figure(f"Keycloak, {people:,} unchanged, requests beside pages", len(asked) - pages, "requests", 10, beside=f"{pages} pages"),
            Figure(f"Keycloak, {people:,} unchanged, writes", written, "requests", 0),
        ],
        {f"Keycloak, {made:,} accounts made": [making], f"Keycloak, {people:,} unchanged": same},
    )


def _made(staff: Staff, bare: Bare, count: int) -> tuple[Run, float]:
    staff.fineract.add(count)
    staff.prepare(staff.bank.url)
    return staff.run("accounts made", inserted=count), bare.make(count)


def _empty(bank: Bank) -> None:
    for user in bank.people().values():
        bank.ask("DELETE", f"/users/{user['id']}")


def _filled(staff: Staff, count: int) -> Staff:
    """Accounts like those that the job makes, without passwords, and one run that knows them."""
    users = [_like_ours(number) for number in staff.fineract.add(count)]
    for first in range(0, count, PAGE):
        staff.bank.ask("POST", "/partialImport", {"ifResourceExists": "FAIL", "users": users[first : first + PAGE]})
    staff.prepare(staff.bank.url)
    staff.run("first", unchanged=count)
    return staff


def _asked(staff: Staff, bank: Bank, people: int) -> Sequence[str]:
    """What an unchanged run asks, by way of a proxy that counts."""
    with Front(bank.url).running() as front:
        assert isinstance(front, Front)
        staff.prepare(front.url)
        staff.run("counted", unchanged=people)
        return front.requests


def memory(server: Server, people: int) -> Part:
    """The most that an unchanged run held, with a tenth of the people and with all of them."""
    runs = {}
    for count in (people // 10, people):
        with shared() as real, _bank(real) as bank, Fineract().running() as fineract:
            staff = _filled(Staff(server, fineract, bank, f"keycloak_{count}"), count)
            runs[f"Keycloak, unchanged, {count:,} people"] = [staff.run("again", unchanged=count)]
    few, many = (max(run.megabytes for run in found) for found in runs.values())
    what = f"client memory at {people:,} people of Keycloak, beside {people // 10:,}"
    return Part("Client memory of Keycloak", [Figure(what, many / few, "x", 1.2, f"{many:.1f} MB", f"{few:.1f} MB")], runs)


def _like_ours(number: int) -> dict[str, Any]:
    return {
        "username": f"user{number:05}", "email": f"user{number}@test.example", "firstName": "Test", "lastName": f"User {number}",
        "enabled": True, "attributes": {"usersync_id": [f"default:{number}"]}, "groups": ["/tellers"], "realmRoles": ["teller"],
    }  # fmt: skip


def _ratio(what: str, ours: float, theirs: float, limit: float) -> Figure:
    return Figure(what, ours / theirs, "x", limit, f"{ours:.1f} s", f"{theirs:.1f} s")
