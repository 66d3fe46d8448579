"""A job of one step between two real databases, run by the real command; every output is searched for what must not be in it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests import servers
from tests.conftest import Command, Result
from usersync_cli.cli.bootstrap import run_context
from usersync_cli.config import loader
from usersync_cli.model import Database
from usersync_cli.run import context
from usersync_cli.run import job as run
from usersync_cli.run.job import RunResult
from usersync_cli.signals import Stop

PASSWORD = "a-password-to-look-for"
PERSON = "Test User"  # how every person's name begins: no output may hold one
PEOPLE = "CREATE TABLE people_at_source (id int PRIMARY KEY, name text)"
# One row in 0.1 s, each so big that it is passed on at once.
SLOW = "SELECT id, name || repeat(' ', 150000) AS name FROM people_at_source WHERE pg_sleep(0.1) IS NOT NULL"
# A trigger that takes {seconds} for whoever is called slow.
DAWDLE = """
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN IF NEW.name LIKE '%slow%' THEN PERFORM pg_sleep({seconds}); END IF; RETURN NEW; END$$;
CREATE TRIGGER dawdle BEFORE INSERT OR UPDATE ON people FOR EACH ROW EXECUTE FUNCTION dawdle();
"""


def with_password(url: str) -> str:
    """The URL with a password, which a server that trusts us does not ask for."""
    return url.replace("postgres@", f"postgres:{PASSWORD}@")


def clean(result: Result) -> Result:
    """The result, after a look whether its outputs hold a traceback, the password or a person."""
    for word in ("Traceback", "internal error", PASSWORD, PERSON):
        assert word not in result.stdout + result.stderr, f"{word!r} was printed: {result}"
    return result


@dataclass
class Job:
    """Job `copy`: from `source` (a table people_at_source) to the table people of `target`. `write` writes its config file."""

    usersync: Command
    source: Database
    target: Database
    document: dict[str, Any] = field(default_factory=dict)
    migrated: bool = True

    def __post_init__(self) -> None:
        if self.migrated:
            servers.migrate(self.target)
        self.at_source(PEOPLE)
        self.write()

    def write(
        self,
        *,
        extract: dict[str, Any] | None = None,
        transform: str | None = None,
        lease: str = "60s",
        source: str | None = None,
        target: str | None = None,
        load: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """The config file. What is not given is the simplest: the whole table, made where it is missing."""
        step: dict[str, Any] = {"name": "people", "extract": {"source": "crm", **(extract or {"table": "people_at_source"})}}
        if transform:
            step["transform"] = transform
        step["load"] = {"table": "people", "key": ["id"], "create": True, **(load or {})}
        self.document = {
            "environment": "test",
            "target": with_password(target or self.target.url),
            "sources": {"crm": {"type": "postgres", "url": with_password(source or self.source.url)}},
            "jobs": {"copy": {"lease": lease, "steps": [step]}},
            **more,
        }
        self.save()

    def save(self) -> None:
        (self.usersync.folder / "config.yaml").write_text(json.dumps(self.document))

    def run(self, *arguments: str, timeout: float = 60, **variables: str) -> Result:
        return clean(self.usersync("run", "--job", "copy", *arguments, timeout=timeout, **variables))

    def sync(self, **options: Any) -> RunResult:
        """A run in this process, without command line and log: cheaper where those are not the point."""
        settings = loader.load(self.usersync.folder / "config.yaml")
        job = settings.job("copy")
        return run.run(job, run_context(settings, job, Stop()), context.Options(**options))

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A run that the test talks to; killed when the test has not waited for it (`finished`)."""
        with self.usersync.start("run", "--job", "copy", *arguments) as process:
            try:
                yield process
            finally:
                process.kill()

    def people(self, *names: str) -> None:
        """What the source holds from now on: Test User <name>, numbered from 1."""
        values = ", ".join(f"({i}, '{PERSON} {name}')" for i, name in enumerate(names, 1))
        self.at_source("DELETE FROM people_at_source" + (f"; INSERT INTO people_at_source VALUES {values}" if names else ""))

    def loaded(self) -> list[tuple[int, str]]:
        """What the target holds: number and name, without `Test User`."""
        found = self.at_target("SELECT id, trim(substr(name, 11)) FROM people ORDER BY id")
        return [(int(id_), str(name)) for id_, name in found]

    def at_source(self, statement: str) -> list[tuple[Any, ...]]:
        return execute(self.source.url, statement)

    def at_target(self, statement: str) -> list[tuple[Any, ...]]:
        return execute(self.target.url, statement)

    def wait_for(self, what: str, *, at: Database | None = None, seconds: float = 20) -> None:
        """Until a connection of usersync does this, by a condition on pg_stat_activity."""
        query = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'usersync/%'"
            f" AND pid <> pg_backend_pid() AND ({what})"
        )
        with psycopg.connect((at or self.target).url, autocommit=True) as connection:
            servers.until(lambda: connection.execute(query).fetchall(), seconds)

    def lock(self) -> tuple[Any, ...]:
        """Owner and epoch of the job, and the version of its cursor."""
        found = self.at_target(
            "SELECT (SELECT owner FROM usersync.job_locks WHERE job = 'copy'), (SELECT epoch FROM usersync.job_locks WHERE job = 'copy'),"
            " (SELECT version FROM usersync.cursors WHERE job = 'copy')"
        )
        return found[0]

    def runs(self) -> list[tuple[str, int | None]]:
        """Status and exit status of every run, oldest first."""
        found = self.at_target("SELECT status, exit_status FROM usersync.runs ORDER BY id")
        return [(str(status), exit_status) for status, exit_status in found]


READING = "EXISTS (SELECT FROM pg_stat_progress_copy p WHERE p.pid = pg_stat_activity.pid AND p.bytes_processed > 300000)"
SLEEPING = "wait_event = 'PgSleep'"


def finished(process: subprocess.Popen[str], timeout: float = 30) -> Result:
    """How a started run ended."""
    stdout, stderr = process.communicate(timeout=timeout)
    return clean(Result(process.returncode, stdout, stderr))


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """One or several statements in autocommit; the rows of the last."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        while cursor.nextset():
            pass
        gave_rows = cursor.pgresult is not None and cursor.pgresult.status == psycopg.pq.ExecStatus.TUPLES_OK
        return cursor.fetchall() if gave_rows else []  # a SELECT without columns too
