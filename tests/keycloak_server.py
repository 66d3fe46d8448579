"""A real Keycloak for the tests: fetched by Maven once, started once for all who test at the same time; a realm for each test.

`python -m tests.keycloak_server fetch` fetches and unpacks it; `keep` starts one, and ends it when nobody uses it any more.
"""

from __future__ import annotations

import fcntl
import html
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.http_server import Answer, Asked, HttpServer
from tests.servers import environment, free_port, required, until

VERSION = "26.7.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "usersync-tests"
FOLDER = CACHE / f"keycloak-{VERSION}"
ARCHIVE = CACHE / f"keycloak-quarkus-dist-{VERSION}.zip"
RUNNING = CACHE / f"running-{VERSION}"  # locks, log and address of the server that runs
ROOT = Path(__file__).parent.parent
PATIENCE = 400  # seconds for a start on a busy machine; a free one takes 30 for the first and 11 for others
LEAST_RIGHTS = ("manage-users", "view-realm")
# A small heap, and a quick compiler: tests end before a thorough one pays.
JAVA = {"JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m", "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1"}


# The server


@contextmanager
def shared() -> Iterator[Keycloak]:
    """The server that whoever tests on this machine uses too; the last one to leave ends it, also one who is killed.

    Each user holds a shared lock on `users`; the keeper waits for an exclusive one.
    """
    required(shutil.which("java"), "Java 17, which Keycloak needs,")
    if not ARCHIVE.exists():
        required(shutil.which("mvn"), "Maven, which fetches Keycloak,")
    RUNNING.mkdir(parents=True, exist_ok=True)
    with (RUNNING / "users").open("a") as users:
        with locked(RUNNING / "lock"):
            fcntl.flock(users, fcntl.LOCK_SH)  # waits while the keeper ends the last one
            server = _running() or _start()
        yield server


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _running() -> Keycloak | None:
    """What somebody else has started, if it answers."""
    with suppress(OSError, ValueError):
        server = Keycloak(**json.loads((RUNNING / "server.json").read_text()))
        if server.answers():
            return server
    return None


def _start() -> Keycloak:
    fetch()
    said = RUNNING / "server.json"
    said.unlink(missing_ok=True)
    subprocess.run([sys.executable, "-m", "tests.keycloak_server", "keep"], cwd=ROOT, check=True)  # returns at once
    described = until(lambda: said.exists() and json.loads(said.read_text()), PATIENCE)
    assert "failed" not in described, described["failed"]
    return Keycloak(**described)


def fetch() -> None:
    """Have an unpacked server in the cache. One whose first start was cut short may be half built: it is unpacked again."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / "lock"):
        if not ARCHIVE.exists():
            _download()
        if not (FOLDER / "started").exists():
            shutil.rmtree(FOLDER, ignore_errors=True)
            _unpack()


def _download() -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        artifact = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
        command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"]
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=PATIENCE)
        found = Path(folder) / ARCHIVE.name
        required(found, f"{artifact} (Maven could not fetch it: {done.stdout[-500:].strip()})")
        found.replace(ARCHIVE)


def _unpack() -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder, zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
        unpacked = Path(folder) / FOLDER.name
        (unpacked / "bin/kc.sh").chmod(0o755)
        unpacked.rename(FOLDER)


def keep() -> None:
    """Start a server, say where it is, and end it as soon as nobody holds a lock on `users`."""
    if os.fork():
        return
    os.setsid()
    server = Keycloak(f"http://127.0.0.1:{free_port()}", secrets.token_hex(16))
    with (RUNNING / "log").open("w") as log, (RUNNING / "users").open("a") as users:
        process = _process(server, log)
        try:
            deadline = time.monotonic() + PATIENCE - 10
            while not server.answers() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            if not server.answers():
                _say({"failed": f"Keycloak did not start:\n{(RUNNING / 'log').read_text()[-4000:]}"})
                return
            (FOLDER / "started").touch()
            server.ask("PUT", "/admin/realms/master", json={"accessTokenLifespan": 36_000})
            _say({"url": server.url, "password": server.password})
            fcntl.flock(users, fcntl.LOCK_EX)
            (RUNNING / "server.json").unlink(missing_ok=True)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # it keeps nothing that it could lose
            process.wait()


def _process(server: Keycloak, log: Any) -> subprocess.Popen[bytes]:
    where = ["--http-host=127.0.0.1", f"--http-port={server.url.rpartition(':')[2]}"]
    admin = {"KC_BOOTSTRAP_ADMIN_USERNAME": "admin", "KC_BOOTSTRAP_ADMIN_PASSWORD": server.password}
    command = [str(FOLDER / "bin/kc.sh"), "start-dev", "--db=dev-mem", *where]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
    return subprocess.Popen(command, cwd=FOLDER, env={**environment(), **JAVA, **admin}, start_new_session=True, **streams)


def _say(what: Mapping[str, str]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=RUNNING, delete=False) as file:  # only we can read it
        json.dump(what, file)
    Path(file.name).replace(RUNNING / "server.json")


@dataclass
class Keycloak:
    """The server, and its administrator."""

    url: str
    password: str

    def answers(self) -> bool:
        with suppress(requests.RequestException):
            return _http("GET", f"{self.url}/realms/master").status_code == 200
        return False

    def token(self) -> str:
        """The administrator's: for realms that exist now."""
        form = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": self.password}
        reply = _http("POST", f"{self.url}/realms/master/protocol/openid-connect/token", data=form)
        assert reply.status_code == 200, reply.text
        token: str = reply.json()["access_token"]
        return token

    def ask(self, method: str, path: str, token: str = "", **options: Any) -> requests.Response:
        """One request as the administrator; any status but 2xx fails the test."""
        reply = _http(method, self.url + path, headers={"Authorization": f"Bearer {token or self.token()}"}, **options)
        assert reply.ok, f"{reply.status_code} to {method} {path}: {reply.text[:500]}"
        return reply

    @contextmanager
    def bank(self, **options: Any) -> Iterator[Bank]:
        """A realm of its own; `options` as `describe` takes them. It goes with the server: deleting it takes as long as making it."""
        name = f"bank-{secrets.token_hex(4)}"
        self.ask("POST", "/admin/realms", json=describe(name, **options))
        yield Bank(self, name, self.token())

    @contextmanager
    def lent(self, **options: Any) -> Iterator[Bank]:
        """A realm like that of `bank`, which others had before and will have: whatever was changed in it is undone afterwards."""
        idle = _IDLE.setdefault((self.url, json.dumps(options, sort_keys=True)), [])
        if not idle:
            with self.bank(**options) as made:
                idle.append((made, made.state()))
        bank, state = idle.pop()
        yield bank
        bank.restore(state)
        idle.append((bank, state))  # not after a failure: who knows what is left there


_IDLE: dict[tuple[str, str], list[tuple[Bank, State]]] = {}  # of this process


def _http(method: str, url: str, **options: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, timeout=60, allow_redirects=False, **options)


# A realm, as a bank has it

CLIENT, SECRET = "usersync", "not-a-secret"


def describe(
    name: str,
    *,
    roles: Sequence[str] = (),
    groups: Sequence[str] = (),
    rights: Sequence[str] = LEAST_RIGHTS,
    declared: Sequence[str] = ("usersync_id",),
    users: Sequence[Mapping[str, Any]] = (),
    **fields: Any,
) -> dict[str, Any]:
    """What makes a realm with the client `usersync`, whose service account has these rights.

    `groups` are paths ("/tellers", "/head-office/it"), `declared` attributes of the user profile, `fields` any of Keycloak's
    own of a realm (accessTokenLifespan in seconds, smtpServer, ...).
    """
    account = {"username": f"service-account-{CLIENT}", "enabled": True, "serviceAccountClientId": CLIENT}
    return {
        "realm": name,
        "enabled": True,
        "roles": {"realm": [{"name": role} for role in roles]},
        "groups": _tree(groups),
        "clients": [{"clientId": CLIENT, "secret": SECRET, "serviceAccountsEnabled": True, "standardFlowEnabled": False}],
        "users": [{**account, "clientRoles": {"realm-management": list(rights)}}, *users],
        "components": {**_KEYS, **_profile(declared)},
        "defaultSignatureAlgorithm": "ES256",
        **fields,
    }


def _tree(paths: Sequence[str]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        above = ""
        for name in path.strip("/").split("/"):
            here = f"{above}/{name}"
            if here not in found:
                found[here] = {"name": name, "path": here, "subGroups": []}
                if above:
                    found[above]["subGroups"].append(found[here])
            above = here
    return [group for path, group in found.items() if path.count("/") == 1]


ADMINS_ONLY = {"view": ["admin"], "edit": ["admin"]}


def _profile(declared: Sequence[str]) -> dict[str, Any]:
    """Keycloak's default user profile, and these attributes."""
    both = {"view": ["admin", "user"], "edit": ["admin", "user"]}
    needed = {"permissions": both, "required": {"roles": ["user"]}}
    names = {"length": {"max": 255}, "person-name-prohibited-characters": {}}
    signs = {"length": {"min": 3, "max": 255}, "username-prohibited-characters": {}, "up-username-not-idn-homograph": {}}
    own = [
        {"name": "username", "permissions": both, "validations": signs},
        {"name": "email", **needed, "validations": {"email": {}, "length": {"max": 255}}},
        {"name": "firstName", **needed, "validations": names},
        {"name": "lastName", **needed, "validations": names},
    ]
    ours = [{"name": name, "permissions": ADMINS_ONLY, "multivalued": False} for name in declared]
    config = {"kc.user.profile.config": [json.dumps({"attributes": [*own, *ours]})]}
    kind = "org.keycloak.userprofile.UserProfileProvider"
    return {kind: [{"providerId": "declarative-user-profile", "config": config}]} if declared else {}


# Keys that are made at once: for RSA, which is the default, a realm takes seconds.
_KEYS = {
    "org.keycloak.keys.KeyProvider": [
        {"name": "signatures", "providerId": "ecdsa-generated", "config": {"ecdsaEllipticCurveKey": ["P-256"]}},
        {"name": "links", "providerId": "hmac-generated", "config": {"algorithm": ["HS512"]}},
        {"name": "secrets", "providerId": "aes-generated", "config": {}},
    ]
}


# What a login form may ask for, by a field of it, and what is sent then.
FORMS = {
    "password-new": {"password-new": "Another-1-than-that", "password-confirm": "Another-1-than-that"},
    "password": {},
    "clientDataJSON": {},
    "firstName": {"firstName": "Test", "lastName": "User", "email": "later@example.org"},
}


@dataclass(frozen=True)
class State:
    """A realm without its people."""

    settings: dict[str, Any]
    profile: dict[str, Any]
    client: dict[str, Any]
    rights: set[str]
    roles: set[str]
    groups: set[str]


@dataclass
class Bank:
    """A realm under a test's control, whose administrator changes things by hand."""

    server: Keycloak
    name: str
    token: str = field(repr=False)
    client_id: str = CLIENT
    client_secret: str = SECRET

    @property
    def url(self) -> str:
        """Keycloak's, as the config file has it."""
        return self.server.url

    def ask(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """`ask("GET", "/users", first=0)`: what the realm's admin API answers; any status but 2xx fails the test."""
        reply = self.server.ask(method, f"/admin/realms/{self.name}{path}", self.token, json=body, params=params)
        return reply.json() if reply.content else None

    # people

    def add(self, username: str, *, roles: Sequence[str] = (), password: str = "", **fields: Any) -> str:
        """A new account, enabled, with an e-mail address of its own; its id."""
        names = {"firstName": "Test", "lastName": "User", "email": f"{username}@example.org"}
        credentials = [{"type": "password", "value": password, "temporary": False}] if password else []
        self.ask("POST", "/users", {"username": username, "enabled": True, **names, "credentials": credentials, **fields})
        id_: str = self.person(username)["id"]
        if roles:
            self.ask("POST", f"/users/{id_}/role-mappings/realm", [self.ask("GET", f"/roles/{quote(role)}") for role in roles])
        return id_

    def try_(self, username: str) -> requests.Response:
        """What Keycloak answers to a new account of this name."""
        body = {"username": username, "enabled": True}
        return _http("POST", f"{self.url}/admin/realms/{self.name}/users", headers={"Authorization": f"Bearer {self.token}"}, json=body)

    def add_many(self, usernames: Sequence[str], **fields: Any) -> None:
        """Accounts without a password, 1.7 ms each."""
        users = [{"username": name, "enabled": True, "email": f"{name}@example.org", **fields} for name in usernames]
        for first in range(0, len(users), 1000):
            self.ask("POST", "/partialImport", {"ifResourceExists": "FAIL", "users": users[first : first + 1000]})

    def people(self) -> dict[str, dict[str, Any]]:
        """Whole representations by username."""
        return {user["username"]: user for user in self.ask("GET", "/users", max=100_000, briefRepresentation="false")}

    def person(self, username: str) -> dict[str, Any]:
        (found,) = self.ask("GET", "/users", username=username, exact="true", briefRepresentation="false")
        return dict(found)

    def change(self, username: str, **fields: Any) -> None:
        """By hand: the whole representation with these fields instead."""
        user = self.person(username)
        self.ask("PUT", f"/users/{user['id']}", {**user, **fields})

    def delete(self, username: str) -> None:
        self.ask("DELETE", f"/users/{self.person(username)['id']}")

    def roles_of(self, username: str) -> set[str]:
        """Realm roles given directly, without the one that everybody has."""
        found = self.ask("GET", f"/users/{self.person(username)['id']}/role-mappings/realm")
        return {role["name"] for role in found} - {f"default-roles-{self.name}"}

    def groups_of(self, username: str) -> set[str]:
        return {group["path"] for group in self.ask("GET", f"/users/{self.person(username)['id']}/groups")}

    def sessions_of(self, username: str) -> int:
        return len(self.ask("GET", f"/users/{self.person(username)['id']}/sessions"))

    def log_in(self, username: str, password: str) -> requests.Response:
        """As that person; 200 where it works, and a session begins."""
        form = {"grant_type": "password", "client_id": "admin-cli", "username": username, "password": password}
        return _http("POST", f"{self.url}/realms/{self.name}/protocol/openid-connect/token", data=form)

    def credentials_of(self, username: str) -> list[str]:
        """What the account can log in with: password, ..."""
        return [one["type"] for one in self.ask("GET", f"/users/{self.person(username)['id']}/credentials")]

    def log_in_by_form(self, username: str, password: str) -> list[str]:
        """In a browser, with another password where one is asked for: the pages that come, by what they ask for, in order.

        The last one is "in", the status of an error, or what only a person can do.
        """
        with requests.Session() as browser:
            browser.trust_env = False
            base, pages = f"{self.url}/realms/{self.name}", list[str]()
            where = {"client_id": "account", "redirect_uri": f"{base}/account/", "response_type": "code", "scope": "openid"}
            page = browser.get(f"{base}/protocol/openid-connect/auth", params=where, timeout=60)
            while page.status_code == 200 and len(pages) < 6:
                fields = re.findall(r'<input[^>]*name="([^"]+)"', page.text)
                form = re.search(r'<form[^>]*action="([^"]+)"', page.text)
                asked = next((name for name in FORMS if name in fields), "else")
                pages.append(asked)
                if asked in {"else", "clientDataJSON"} or not form:
                    return pages
                given = {"username": username, "password": password} if asked == "password" else FORMS[asked]
                page = self._sent(browser, html.unescape(form[1]), given)
                if "code=" in page.headers.get("Location", ""):
                    return [*pages, "in"]
            return [*pages, str(page.status_code)]

    @staticmethod
    def _sent(browser: requests.Session, url: str, data: dict[str, str]) -> requests.Response:
        for cookie in browser.cookies:
            cookie.secure = False  # browsers trust this machine also without TLS
        page = browser.post(url, data=data, allow_redirects=False, timeout=60)
        while page.is_redirect and "code=" not in page.headers["Location"]:
            page = browser.get(page.headers["Location"], allow_redirects=False, timeout=60)
        return page

    # all of it

    def configure(self, **fields: Any) -> None:
        """Some of the realm's own settings."""
        self.ask("PUT", "", fields)

    def state(self) -> State:
        """What `restore` goes back to."""
        own = self.ask("GET", "/clients", clientId=self.client_id)[0]
        roles = {role["name"] for role in self.ask("GET", "/roles")}
        groups = {group["id"] for group in self.ask("GET", "/groups")}
        return State(self.ask("GET", ""), self.ask("GET", "/users/profile"), own, self._rights(), roles, groups)

    def restore(self, before: State) -> None:
        """Nobody in it, and all else as it was."""
        for user in self.people().values():
            self.ask("DELETE", f"/users/{user['id']}")
        now = self.state()
        for role in now.roles - before.roles:
            self.ask("DELETE", f"/roles/{quote(role)}")
        for group in now.groups - before.groups:
            self.ask("DELETE", f"/groups/{group}")
        if now.profile != before.profile:
            self.ask("PUT", "/users/profile", before.profile)
        if now.client != before.client:
            self.ask("PUT", f"/clients/{before.client['id']}", before.client)
        if now.rights != before.rights:
            self.rights(*before.rights)
        if now.settings != before.settings:
            added = now.settings.keys() - before.settings.keys()
            cleared = {name: "" if isinstance(now.settings[name], str) else None for name in added}  # a policy stays when it is null
            self.ask("PUT", "", {**cleared, **before.settings})

    # the client

    def _rights(self) -> set[str]:
        (management,) = self.ask("GET", "/clients", clientId="realm-management")
        (own,) = self.ask("GET", "/clients", clientId=self.client_id)
        account = self.ask("GET", f"/clients/{own['id']}/service-account-user")
        return {right["name"] for right in self.ask("GET", f"/users/{account['id']}/role-mappings/clients/{management['id']}")}

    def rights(self, *rights: str) -> None:
        """From now on the service account has these client roles of realm-management, and no others."""
        (management,) = self.ask("GET", "/clients", clientId="realm-management")
        (own,) = self.ask("GET", "/clients", clientId=self.client_id)
        account = self.ask("GET", f"/clients/{own['id']}/service-account-user")
        path = f"/users/{account['id']}/role-mappings/clients/{management['id']}"
        self.ask("DELETE", path, self.ask("GET", path))
        self.ask("POST", path, [self.ask("GET", f"/clients/{management['id']}/roles/{right}") for right in rights])

    def change_client(self, **fields: Any) -> None:
        (own,) = self.ask("GET", "/clients", clientId=self.client_id)
        self.ask("PUT", f"/clients/{own['id']}", {**own, **fields})


# What stands before it


@dataclass(frozen=True)
class Trouble:
    """What happens to a request instead of its answer: `after` Keycloak did what it asks for, or before it hears of it."""

    answer: Answer
    after: bool = False


LOST = Trouble(Answer(fault="close"), after=True)  # it was done, and nobody hears
CUT = Trouble(Answer(fault="close"))  # it never arrived
BUSY = Trouble(Answer(503, b"<html>Service unavailable</html>"))


class Front(HttpServer):
    """A reverse proxy before Keycloak that keeps a list of what was asked for, and makes trouble when it is told to."""

    def __init__(self, behind: str) -> None:
        super().__init__()
        self._behind = behind
        self._session = requests.Session()
        self._session.trust_env = False
        self._plans: list[tuple[re.Pattern[str], list[Trouble | Callable[[], None] | None]]] = []

    def at(self, request: str, *plan: Trouble | Callable[[], None] | None) -> None:
        """`at("POST .*/users$", LOST)`: what happens to the next requests like this; None passes one, a function is called before it."""
        self._plans.append((re.compile(request), list(plan)))

    @property
    def requests(self) -> list[str]:
        """`GET /users?first=0&max=1000` and so on, in order: paths below the realm's own; without those for tokens."""
        return [_short(asked) for asked in self.asked if "/admin/" in asked.path]

    @property
    def tokens(self) -> int:
        return sum(asked.path.endswith("/token") for asked in self.asked)

    def answer(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            plan = next((plan for pattern, plan in self._plans if plan and pattern.fullmatch(f"{asked.method} {asked.path}")), None)
            step = plan.pop(0) if plan else None
        if isinstance(step, Trouble):
            if step.after:
                self._forward(asked)
            return step.answer
        if step:
            step()
        return self._forward(asked)

    def _forward(self, asked: Asked) -> Answer:
        headers = {name: value for name, value in asked.headers.items() if name.lower() not in {"connection", "accept-encoding"}}
        query = [(name, value) for name, values in asked.query.items() for value in values]
        reply = _http(asked.method, self._behind + asked.path, params=query, data=asked.body or None, headers=headers)
        kept = {name: value for name, value in reply.headers.items() if name.lower() in {"content-type", "location"}}
        return Answer(reply.status_code, reply.content, {"Content-Type": "", **kept})


def _short(asked: Asked) -> str:
    path = re.sub(r"^.*/admin/realms/[^/]+", "", asked.path)
    query = "&".join(f"{name}={value}" for name, values in asked.query.items() for value in values)
    return f"{asked.method} {path}{f'?{query}' if query else ''}"


# Mail


class Mailbox:
    """A mail server of its own: `smtp` is for the realm, `mails` is what came."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self._controller = Controller(self, hostname="127.0.0.1", port=free_port())

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  aiosmtpd's name
        content = envelope.content
        message = message_from_bytes(content if isinstance(content, bytes) else str(content).encode(), policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.append(message)
        return "250 OK"

    @property
    def smtp(self) -> dict[str, str]:
        return {"host": "127.0.0.1", "port": str(self._controller.port), "from": "bank@example.org"}

    @contextmanager
    def running(self) -> Iterator[Mailbox]:
        self._controller.start()
        try:
            yield self
        finally:
            self._controller.stop()


# Fixtures; conftest.py passes them on


NewBank = Callable[..., Bank]


@pytest.fixture(scope="session")
def keycloak() -> Iterator[Keycloak]:
    """The real server, started by whoever needs it first."""
    with shared() as server:
        yield server


@pytest.fixture
def new_bank(keycloak: Keycloak) -> Iterator[NewBank]:
    """Lends realms: `new_bank(roles=["teller"], groups=["/tellers"], rights=[...])`; the first of each kind costs a second of CPU."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(keycloak.lent(**options))


@pytest.fixture
def front(keycloak: Keycloak) -> Iterator[Front]:
    """Before the server: `front.requests`, `front.at("POST .*/users", LOST)`."""
    with Front(keycloak.url).running() as front:
        assert isinstance(front, Front)
        yield front


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox().running() as mailbox:
        yield mailbox


def prepare() -> None:
    """Fetch it when nobody is starting it."""
    RUNNING.mkdir(parents=True, exist_ok=True)
    with locked(RUNNING / "lock"):
        fetch()


if __name__ == "__main__":
    {"fetch": prepare, "keep": keep}[sys.argv[1]]()
