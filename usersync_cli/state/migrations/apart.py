"""Tables that are up to date before a run uses them, by an upgrade in a process of its own.

In the run's own process, Alembic and SQLAlchemy would take 20 MB to its end. The database's URL, which may hold a password,
goes through stdin: nobody finds it among the arguments or in the environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from usersync_cli import errors
from usersync_cli.clients.postgres import connections
from usersync_cli.errors import Unavailable, UsersyncError
from usersync_cli.model import Database
from usersync_cli.signals import Stop
from usersync_cli.state import migrations

# -P: nothing of the folder that somebody stands in is imported.
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from usersync_cli.state.migrations import apart; apart.main()"
_COMMAND = (sys.executable, "-P", "-c", _PROGRAM)
_POLL_SECONDS = 0.1


def ready(connection: connections.Connection, database: Database, job: str) -> None:
    """Upgrade the tables if they are older than this program. Two small queries when they are not.

    Raises Drift when they are newer, ConfigError with the GRANT that helps when a right is missing.
    """
    with migrations.permitted(connection, database, "reading usersync's version"):
        found = migrations.current(connection)
    if found == migrations.VERSION:
        return
    if found is not None and found > migrations.VERSION:
        raise migrations.newer(found)
    if "alembic" in sys.modules:  # what a process of its own would save is spent
        migrations.upgrade(database, job)
        return
    upgrade(database, job, connection.stop)


def upgrade(database: Database, job: str, stop: Stop | None) -> None:
    """Run `migrations.upgrade` in a process of its own, and raise its errors here. A signal ends the process, and the server rolls back."""
    given = {"url": database.url, "name": database.name, "embedded": database.embedded and str(database.embedded), "job": job}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen([*_COMMAND, str(Path(__file__).parents[3])], **pipes) as process:
        said = _answer(process, json.dumps(given).encode(), stop)
    if process.returncode or not said:
        raise Unavailable(
            f"{database.name}: the process that upgrades usersync's tables ended with {process.returncode}",
            hint="nothing was changed. Too little memory? `usersync db upgrade` does the same",
        )
    _raise(json.loads(said))


def _answer(process: subprocess.Popen[bytes], given: bytes, stop: Stop | None) -> bytes:
    answers: list[bytes] = []
    reader = threading.Thread(target=lambda: answers.append(process.communicate(given)[0]), daemon=True)
    reader.start()
    try:
        while reader.is_alive():
            reader.join(_POLL_SECONDS)
            if stop:
                stop.check()
    except BaseException:
        process.kill()
        reader.join()
        raise
    return answers[0] if answers else b""


def _raise(answer: dict[str, str]) -> None:
    if "bug" in answer:
        raise AssertionError(answer["bug"])
    if "error" in answer:
        kind = getattr(errors, answer["error"], None)
        kind = kind if isinstance(kind, type) and issubclass(kind, UsersyncError) else UsersyncError
        raise kind(answer["message"], hint=answer["hint"])


def main() -> None:
    """The process: what is to be done on stdin, how it went on stdout. Its own words are no foreign text."""
    given = json.load(sys.stdin)
    embedded = Path(given["embedded"]) if given["embedded"] else None
    answer: dict[str, str] = {}
    try:
        migrations.upgrade(Database(given["url"], given["name"], embedded), given["job"])
    except UsersyncError as error:
        answer = {"error": _kind(error), "message": error.message, "hint": error.hint}
    except Exception as error:  # noqa: BLE001  told by the process that asked
        answer = {"bug": type(error).__name__}
    sys.stdout.write(json.dumps(answer))


def _kind(error: UsersyncError) -> str:
    """The class in `errors` that says what the operator does next."""
    return str(next(one.__name__ for one in type(error).__mro__ if getattr(errors, one.__name__, None) is one))
