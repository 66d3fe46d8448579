"""Several processes that want a token at the same moment: one that has imported everything forks them.

Each prints a line of JSON: the token, or the exit status that the error stands for. `phase` is where it is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from usersync_cli import log
from usersync_cli.auth import keys
from usersync_cli.auth.oauth import OAuthClient
from usersync_cli.auth.store import Store
from usersync_cli.auth.tokens import Tokens
from usersync_cli.errors import UsersyncError, status_of
from usersync_cli.model import Database, Token
from usersync_cli.signals import Stop


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def work(url: str, given_keys: str, client: dict[str, str], phase: str, folder: str, after: int) -> dict[str, Any]:
    stop = Stop().install()
    if phase == "before claim":
        Store.claim = lambda *_: die()  # type: ignore[assignment,method-assign]
    tokens = Tokens(Database(url, "target"), lambda: keys.parse(given_keys), stop, job="test", folder=Path(folder))
    vendor = OAuthClient(**client)

    def refresh(spent: str) -> Token:
        if phase == "after claim":
            die()
        token = vendor.refresh(spent)
        if phase == "after reply":
            die()
        return token

    try:
        access = tokens.access("crm", refresh, after=after)
        if phase == "after persist":
            die()
        stop.check()
    except UsersyncError as error:
        return {"status": status_of(error), "message": error.message}
    return {"status": 0, "token": access.token, "generation": access.generation}


def main() -> None:
    number, phase, rest = int(sys.argv[1]), sys.argv[2], json.loads(sys.stdin.read())
    log.configure("json")
    import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401
    import oauthlib.oauth2  # noqa: F401
    import requests  # noqa: F401

    children = []
    for _ in range(number):
        if not (child := os.fork()):
            os.write(1, f"{json.dumps(work(phase=phase, **rest))}\n".encode())
            os._exit(0)
        children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))


if __name__ == "__main__":
    main()
