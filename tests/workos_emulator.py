"""WorkOS's own emulator (npm `workos`, by the vendor) for the tests: fetched by npm once, a process of its own for each test.

`python -m tests.workos_emulator` fetches it. Only what the emulator imports is installed: three packages, with the versions and
checksums of tests/vendors/workos/package-lock.json; without addresses, which belong to the machine's own settings of npm.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.keycloak_server import CACHE, locked
from tests.servers import required
from tests.workos_world import Document, canonical

HERE = Path(__file__).parent / "vendors/workos"
FOLDER = CACHE / f"workos-{hashlib.sha256((HERE / 'package-lock.json').read_bytes()).hexdigest()[:12]}"
KEYS = [f"sk_test_key-to-look-for-{number}" for number in range(10)]  # each may ask 999 times a minute
PATIENCE = 60  # seconds for a start on a busy machine; a free one takes 0.4
LISTS = {
    "users": "/user_management/users",
    "organizations": "/organizations",
    "organization_memberships": "/user_management/organization_memberships",
    "invitations": "/user_management/invitations",
    "roles": "/authorization/roles",
}


def fetch() -> Path:
    """Where it is installed, after installing it where it is not."""
    node = str(required(shutil.which("node"), "Node, which WorkOS's emulator needs,"))
    version: str = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    required(
        node if int(version.removeprefix("v").partition(".")[0]) >= 20 else None,
        f"Node 20, which WorkOS's emulator needs ({version} is there),",
    )
    CACHE.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / "workos-lock"):
        if not FOLDER.exists():
            _install()
    return FOLDER


def _install() -> None:
    npm = required(shutil.which("npm"), "npm, which fetches WorkOS's emulator,")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        place = Path(folder) / "emulator"
        shutil.copytree(HERE, place)
        command = [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=place, check=False, capture_output=True, text=True, timeout=300)
        assert "EINTEGRITY" not in done.stderr, f"a package of the emulator is not what the lock file says:\n{done.stderr}"
        required(place / "node_modules", f"WorkOS's emulator (npm could not fetch it: {done.stderr[-500:].strip()})")
        assert done.returncode == 0, done.stderr
        place.rename(FOLDER)


@dataclass
class Emulator:
    """One that runs. `ask` asks as an administrator would, with a key that the source does not use."""

    url: str
    process: subprocess.Popen[str]
    key: str = KEYS[0]
    asked: int = 0
    session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.session.trust_env = False

    def settings(self, **more: Any) -> dict[str, Any]:
        """Of a source at this address."""
        return {"type": "workos", "api_url": self.url, "api_key": self.key, **more}

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The reply's body, after an answer of 200 to 204."""
        key = KEYS[1 + self.asked // 900 % (len(KEYS) - 1)]
        self.asked += 1
        reply = self.session.request(
            method, self.url + path, params=query, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE
        )
        assert reply.status_code < 300, (method, path, reply.status_code, reply.text)
        return reply.json() if reply.content else None

    def listed(self, stream: str) -> list[Document]:
        """All of a stream, as the API lists it."""
        found: list[Document] = []
        page: Mapping[str, Any] = {"limit": 100}
        while page:
            reply = self.ask("GET", LISTS[stream], **page)
            found += reply["data"]
            after = reply.get("list_metadata", {}).get("after")
            page = {"limit": 100, "after": after} if after else {}
        return found

    def truth(self, stream: str) -> dict[str, Document]:
        """What the table of a stream should hold, by id."""
        return {document["id"]: canonical(document) for document in self.listed(stream)}

    def reset(self) -> None:
        """Empty but for the seed, with new ids: places in the log from before are unknown."""
        self.process.stdin.write("reset\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        self.process.stdout.readline()  # type: ignore[union-attr]


@contextmanager
def running(seed: Mapping[str, Any] | None = None) -> Iterator[Emulator]:
    """An emulator with this seed, on a port of its own; it ends with the block, and with whoever started it."""
    command = ["node", str(HERE / "emulator.mjs"), str(fetch())]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        try:
            process.stdin.write(json.dumps({**(seed or {}), "apiKeys": {key: {"environment": "test"} for key in KEYS}}) + "\n")
            process.stdin.flush()
            emulator = Emulator(json.loads(process.stdout.readline())["url"], process)
            with emulator.session:
                yield emulator
        finally:
            process.stdin.close()
            process.wait(PATIENCE)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """An empty one."""
    with running() as emulator:
        yield emulator


if __name__ == "__main__":
    fetch()
