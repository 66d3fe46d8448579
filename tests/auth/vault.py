"""A target with a token in it, and processes that want that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from tests import servers
from tests.conftest import ROOT
from tests.oauth_server import CLIENT_SECRET, REDIRECT_URI, OAuthServer
from usersync_cli.auth import keys
from usersync_cli.auth.outcomes import Refresh
from usersync_cli.auth.tokens import Tokens
from usersync_cli.model import Access, Database, Token
from usersync_cli.signals import Stop

KEYS = "k1:" + "QUFB" * 10 + "QUE="


TWO_KEYS = "k2:" + "QkJC" * 10 + "QkI=," + KEYS

# what an endpoint may answer that is no token (oauth_server.py)
UNUSABLE = [
    *("lost", "reset", "500", "503", "429", "429 in 0", "html", "list", "truncated", "cut chunks", "huge", "no refresh", "no access"),
    *("newline", "200 temporarily_unavailable"),
]


@dataclass
class Store:
    """A target with a token of source crm, and the vendor that gave it."""

    database: Database
    vendor: OAuthServer
    folder: Path
    stop: Stop = field(default_factory=Stop)
    keys: str = KEYS
    access: str = ""
    refresh: str = ""

    def __post_init__(self) -> None:
        servers.migrate(self.database)
        self.authorise()

    def tokens(self) -> Tokens:
        """As a new process would have them."""
        return Tokens(self.database, lambda: keys.parse(self.keys), self.stop, job="test", folder=self.folder)

    def authorise(self) -> None:
        self.access, self.refresh = self.vendor.pair()
        self.tokens().store("crm", Token(self.access, self.refresh, timedelta(hours=1)), account="account-1")

    def get(self, after: int = 0, refresh: Refresh | None = None) -> Access:
        return self.tokens().access("crm", refresh or self.vendor.client().refresh, after=after)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def expire(self) -> None:
        """Its time is over, and so is that of every lease and pause."""
        self.run(
            "UPDATE usersync.tokens SET expires_at = clock_timestamp() + interval '1 min',"
            " refreshed_at = clock_timestamp() - interval '1 h', lease_until = clock_timestamp() - interval '1 s', not_before = NULL"
        )

    def row(self) -> tuple[int, str]:
        (found,) = self.run("SELECT generation, state FROM usersync.tokens")
        return found[0], found[1]


@contextmanager
def workers(store: Store, number: int, phase: str = "-", after: int = 0) -> Iterator[subprocess.Popen[str]]:
    client = {"authorize_url": "http://-", "token_url": f"{store.vendor.url}/access_token", "client_id": "client"}
    client |= {"client_secret": CLIENT_SECRET, "redirect_uri": REDIRECT_URI}
    given = {"url": store.database.url, "given_keys": store.keys, "client": client, "folder": str(store.folder), "after": after}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "tests.oauth_worker", str(number), phase]
    with subprocess.Popen(command, cwd=ROOT, env=servers.environment(), **pipes) as process:
        assert process.stdin
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        process.stdin = None
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What each of the processes said; those that were killed say nothing."""
    stdout, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    return [json.loads(line) for line in stdout.splitlines()]
