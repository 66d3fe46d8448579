"""A local Fineract: users, roles and offices over HTTP as a real one answers, held to its recorded answers by
tests/sources/fineract/test_shapes.py; with faults on request.

Deletes are soft: 404 by id, gone from the list, the name free for a new id. A list shows the caller's office and those below.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tests.http_server import Answer, Asked, Fault, HttpServer

BASE = "/fineract-provider/api/v1"
PASSWORD = "a-password-to-look-for"
TOKEN = "a-token-to-look-for"
SPRING_REALM = {"WWW-Authenticate": 'Basic realm="Fineract Platform API"'}
OFFICES = {1: ("Head Office", "."), 2: ("North Branch", ".2."), 3: ("North Sub Branch", ".2.3."), 4: ("South Branch", ".4.")}
ROLES = {
    1: {"id": 1, "name": "Super user", "description": "This role provides all application permissions.", "disabled": False},
    2: {"id": 2, "name": "Self Service User", "description": "self service user role", "disabled": True},
    3: {"id": 3, "name": "Teller", "description": "Handles cash", "disabled": False},
    4: {"id": 4, "name": "Auditor", "description": "Reads everything", "disabled": False},
}
PERMISSIONS = {1: {"ALL_FUNCTIONS"}, 4: {"READ_USER", "READ_ROLE"}}

Document = dict[str, Any]


def made(url: str, **more: Any) -> dict[str, Any]:
    """The settings of a source at this address, as its administrator."""
    login = {} if "token" in more else {"username": "mifos", "password": PASSWORD}
    return {"type": "fineract", "url": f"{url}{BASE}", **login, **more}


@dataclass
class Trouble:
    """What goes wrong with requests of this path (/users, /users?name): after `skip` of them, `times` times."""

    how: int | str  # a status; html, not_json, null, object, empty, slow, or a fault of HttpServer's
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


class Fineract(HttpServer):
    """The server, with the users of a fresh tenant. `before` is called with each path before it is answered."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.tenants = {"default"}
        self.tokens = {TOKEN: "mifos"}  # of whom
        self.offices = dict(OFFICES)
        self.roles: dict[int, Document] = {number: dict(role) for number, role in ROLES.items()}
        self.permissions = {number: set(given) for number, given in PERMISSIONS.items()}
        self.users: dict[int, Document] = {}
        self.passwords: dict[int, str] = {}
        self.backwards = False  # selectedRoles come in any order
        self.stale: set[int] = set()  # users that a cached list lacks
        self.odd: list[Any] = []  # more elements of the list of users
        self.next_id = 4
        self.troubles: list[Trouble] = []
        self.instead: Answer | None = None  # to whatever is asked for
        self.on_wire: Callable[[bytes], bytes] = lambda body: body
        self.before: Callable[[str], None] = lambda _path: None
        self.put(1, "mifos", firstname="App", lastname="Administrator", email="mifos@test.example", roles=[1])
        self.put(2, "system", firstname="system", lastname="system", email="system@test.example", roles=[])
        self.put(3, "interopUser", firstname="Interop", lastname="User", email="interop@test.example", roles=[1])

    # data

    def add(self, count: int = 1, **more: Any) -> list[int]:
        """New users, with the role Teller in the head office where nothing else is said; their ids."""
        made = []
        for _ in range(count):
            number, self.next_id = self.next_id, self.next_id + 1
            own = {"firstname": "Test", "lastname": f"User {number}", "email": f"user{number}@test.example", "roles": [3], **more}
            self.put(number, own.pop("username", f"user{number:05}"), **own)
            made.append(number)
        return made

    def change(self, id_: int, **more: Any) -> None:
        self.users[id_] |= more

    def delete(self, id_: int) -> None:
        """As Fineract does: the row stays, under another name and without roles."""
        user = self.users[id_]
        self.users[id_] = {**user, "deleted": True, "username": f"{id_}_DELETED_{user['username']}", "roles": []}

    def put(self, id_: int, username: str, *, password: str = PASSWORD, **more: Any) -> None:
        own = {"officeId": 1, "passwordNeverExpires": False, "isSelfServiceUser": False, "deleted": False, **more}
        self.users[id_] = {"id": id_, "username": username, **own}
        self.passwords[id_] = password

    def listed(self) -> list[Document]:
        """All users that are not deleted, as the list of the head office has them."""
        return [self.shown(user) for user in sorted(self._there(), key=lambda one: str(one["username"]))]

    def shown(self, user: Mapping[str, Any], *, alone: bool = False) -> Document:
        """A user as an element of the list, or by id. What is absent has no key, but for the e-mail, which is empty."""
        others = [role for number, role in self.roles.items() if number not in user["roles"]]
        roles = [self.roles[number] for number in user["roles"]]
        return {
            "id": user["id"],
            "username": user["username"],
            "officeId": user["officeId"],
            "officeName": self.offices[user["officeId"]][0],
            "firstname": user["firstname"],
            "lastname": user["lastname"],
            "email": user["email"],
            "passwordNeverExpires": user["passwordNeverExpires"],
            **({"availableRoles": others} if alone else {}),
            "selectedRoles": roles[::-1] if self.backwards else roles,
            **({"staff": user["staff"]} if "staff" in user else {}),
            "isSelfServiceUser": user["isSelfServiceUser"],
            **user.get("more", {}),
        }

    def _there(self) -> list[Document]:
        return [user for user in self.users.values() if not user["deleted"]]

    # requests

    def fail(self, how: int | str, path: str, *, times: int = 1_000_000, skip: int = 0) -> None:
        """Let requests of this path (/users) go wrong."""
        self.troubles.append(Trouble(how, path, times, skip))

    def paths(self) -> list[str]:
        """What was asked for, in order, without the base."""
        return [asked.path.removeprefix(BASE) for asked in self.asked]

    def answer(self, asked: Asked) -> Answer:
        path = asked.path.removeprefix(BASE)
        with self._lock:
            self.asked.append(asked)
        asked_for = path + ("?" + "&".join(asked.query) if asked.query else "")
        self.before(asked_for)
        trouble = next((one for one in self.troubles if one.strikes(asked_for)), None)
        with self._lock:
            answer = self._answered(asked, path)
        if trouble:
            return self._spoilt(trouble.how, asked, answer)
        if isinstance(answer.body, list):
            answer = replace(answer, body=self.on_wire(json.dumps(answer.body).encode()))
        return self.instead or answer

    def _answered(self, asked: Asked, path: str) -> Answer:
        if asked.headers.get("Fineract-Platform-TenantId") not in self.tenants:
            return _spring(400, "Bad Request", asked)
        caller = self._caller(asked.headers.get("Authorization", ""))
        if caller is None:
            return _spring(401, "Unauthorized", asked)
        kind, _, id_ = path.removeprefix("/").partition("/")
        if kind not in ("users", "roles") or (id_ and not id_.isdecimal()):
            return _error(404, "error.msg.resource.not.found", "The requested resource is not available.", [])
        if asked.method == "GET" and not self._may(caller, f"READ_{kind[:-1].upper()}") and str(caller["id"]) != id_:
            return _not_authorized(kind)
        return self._users(asked, int(id_ or 0), caller) if kind == "users" else self._roles(int(id_ or 0))

    def _caller(self, authorization: str) -> Document | None:
        kind, _, given = authorization.partition(" ")
        if kind == "Bearer":
            name, password = self.tokens.get(given, ""), None
        else:
            name, _, password = base64.b64decode(given).decode().partition(":")
        found = [user for user in self._there() if user["username"] == name]
        return next((one for one in found if password is None or self.passwords[one["id"]] == password), None)

    def _may(self, caller: Document, permission: str) -> bool:
        granted = {one for number in caller["roles"] for one in self.permissions.get(number, ())}  # by disabled roles too
        return bool(granted & {permission, "ALL_FUNCTIONS"})

    def _roles(self, id_: int) -> Answer:
        if not id_:
            return Answer(body=list(self.roles.values()))
        return Answer(body=self.roles[id_]) if id_ in self.roles else _unknown("role", f"Role with identifier {id_} does not exist", id_)

    def _users(self, asked: Asked, id_: int, caller: Document) -> Answer:
        if asked.method == "POST":
            return self._create(asked.json)
        if not id_:
            mine = self.offices[caller["officeId"]][1]
            there = [one for one in self.listed() if one["id"] not in self.stale]
            return Answer(body=[one for one in there if self.offices[one["officeId"]][1].startswith(mine)] + self.odd)
        user = self.users.get(id_)
        if user and asked.method == "PUT":  # a deleted one too
            user |= {name: value for name, value in asked.json.items() if name in user}
            return Answer(body={"officeId": user["officeId"], "resourceId": id_, "changes": asked.json})
        if user is None or user["deleted"]:
            return _unknown("user", f"User with ID {id_} does not exist", id_)
        if asked.method == "DELETE":
            self.delete(id_)
            return Answer(body={"officeId": user["officeId"], "resourceId": id_})
        return Answer(body=self.shown(user, alone=True))

    def _create(self, given: Document) -> Answer:
        if any(user["username"] == given["username"] for user in self.users.values()):
            what = f"User with username '{given['username']}' already exists"
            return _error(403, "error.msg.user.duplicate.username", what, [])
        known = ("username", "firstname", "lastname", "email", "officeId", "roles", "password")
        (id_,) = self.add(**{name: given[name] for name in known if name in given})
        return Answer(body={"officeId": given["officeId"], "resourceId": id_})

    # faults

    def _spoilt(self, how: int | str, asked: Asked, answer: Answer) -> Answer:
        if isinstance(how, int):
            return _spring(how, "Internal Server Error", asked)
        if how == "slow":
            self.over.wait(0.3)
            return answer
        whole = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        bodies: dict[str, Any] = {
            "not_json": whole[: len(whole) // 2],
            "null": None,
            "object": b'{"users": %s}' % whole,
            "empty": [],
            "nothing": b"",
        }
        if how in bodies:
            return Answer(body=bodies[how])
        if how == "html":
            return Answer(body=b"<html><body>Test User 4: maintenance</body></html>", headers={"Content-Type": "text/html"})
        faults: dict[str, Fault] = {"truncated": "truncated", "reset": "reset", "hang": "hang", "hang in body": "hang in body"}
        return Answer(body=answer.body, fault=faults[how])


def _spring(status: int, error: str, asked: Asked) -> Answer:
    """What comes from before Fineract's own code."""
    now = datetime.now(UTC)
    stamp = f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}Z"
    headers = SPRING_REALM if status < 500 else {}
    return Answer(status, {"timestamp": stamp, "status": status, "error": error, "path": asked.path}, headers)


def _error(status: int, code: str, message: str, errors: list[Document], developers: str = "") -> Answer:
    body = {
        "developerMessage": developers or message,
        "httpStatusCode": str(status),
        "defaultUserMessage": message,
        "userMessageGlobalisationCode": code,
        "errors": errors,
    }
    return Answer(status, json.dumps(body, indent=1).encode())


def _inner(code: str, message: str, args: list[Document]) -> Document:
    return {
        "developerMessage": message,
        "defaultUserMessage": message,
        "userMessageGlobalisationCode": code,
        "parameterName": "id",
        "args": args,
    }


def _unknown(kind: str, message: str, id_: int) -> Answer:
    inner = _inner(f"error.msg.{kind}.id.invalid", message, [{"value": id_}])
    return _error(404, "error.msg.resource.not.found", "The requested resource is not available.", [inner])


def _not_authorized(kind: str) -> Answer:
    code, developers = "error.msg.not.authorized", (
        "The user associated with credentials passed on this request does not have sufficient privileges to perform this action."
    )  # fmt: skip
    inner = _inner(code, f"User has no authority to READ {kind}", [])
    return _error(403, code, "Insufficient privileges to perform this action.", [inner], developers)
