"""`usersync rejects`: what waits is shown without a person's data, tried again through the path of a run, or dropped."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from tests import servers
from tests.cli.ledgers import Ledger
from tests.conftest import Command, NewDatabase, Result
from tests.night.test_crash import Fault, counting
from tests.simple_job import DAWDLE, PERSON, SLEEPING, Job, clean, execute, with_password
from usersync_cli import log
from usersync_cli.cli import cli
from usersync_cli.cli.bootstrap import run_context
from usersync_cli.config import loader
from usersync_cli.errors import UsersyncError, status_of
from usersync_cli.model import Database
from usersync_cli.run import context
from usersync_cli.run import job as run
from usersync_cli.run.job import RunResult
from usersync_cli.signals import Stop
from usersync_cli.state.lease import hold

PHONE = "+999 555 0100"
TRANSFORM = "SELECT key::int AS id, data ->> 'name' AS name, data ->> 'phone' AS phone, (data ->> 'age')::int AS age FROM records"
STREAM = {"path": "people.jsonl", "key": "id", "version": "at"}
NOTHING = "nothing waits\n"


def person(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "name": f"{PERSON} {number}", "phone": PHONE, "age": 30, **more}


@dataclass
class Export:
    """Job `copy`: the documents of people.jsonl into the table people, whose ages are below 100."""

    usersync: Command
    target: Database
    document: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        servers.migrate(self.target)
        self.ask("CREATE TABLE people (id int PRIMARY KEY, name text, phone text, age int CONSTRAINT young CHECK (age < 100))")
        self.write()

    def write(self, *, transform: str = TRANSFORM, stream: dict[str, Any] | None = None, **load: Any) -> None:
        """The config file."""
        step = {
            "extract": {"source": "export", "streams": ["people"]},
            "transform": transform,
            "load": {"table": "people", "key": ["id"], **load},
        }
        self.document = {
            "environment": "test",
            "target": with_password(self.target.url),
            "sources": {"export": {"type": "file", "streams": {"people": stream or STREAM}}},
            "jobs": {"copy": {"steps": [{"name": "people", **step}]}},
        }
        self.save()

    def save(self) -> None:
        (self.usersync.folder / "config.yaml").write_text(json.dumps(self.document))

    def holds(self, *documents: dict[str, Any] | str) -> None:
        """What the source has from now on, in lines."""
        lines = [one if isinstance(one, str) else json.dumps(one) for one in documents]
        (self.usersync.folder / "people.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def sync(self, **options: Any) -> RunResult:
        settings = loader.load(self.usersync.folder / "config.yaml")
        job = settings.job("copy")
        return run.run(job, run_context(settings, job, Stop()), context.Options(**options))

    def ran(self, **options: Any) -> str:
        """Exit status of a run, and how many rows are new, changed, the same, set aside."""
        result = self.sync(**options)
        (step,) = result.steps
        c = step.counts
        return f"{result.exit_status}: {c.inserted} {c.updated} {c.unchanged} {c.rejected}"

    def rejects(self, *words: object, spoken: bool = False) -> Result:
        return self.command("rejects", *words, spoken=spoken)

    def command(self, *words: object, spoken: bool = False) -> Result:
        """In this process, as `main` would end it; unless `spoken`, after a look whether a person was named."""
        arguments = [*map(str, words), "--config", str(self.usersync.folder / "config.yaml")]
        done = CliRunner().invoke(cli, arguments, obj=Stop(), standalone_mode=False)
        log.configure()
        status, stderr = done.return_value or 0, done.stderr
        if isinstance(done.exception, UsersyncError):
            status, stderr = status_of(done.exception), f"{stderr}{done.exception.message}\n{done.exception.hint}\n"
        elif done.exception:
            raise done.exception
        result = Result(status, done.stdout, stderr)
        if not spoken:
            assert PHONE not in result.stdout + result.stderr, result
            clean(result)
        return result

    def json(self, *arguments: object, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.rejects(*arguments, "--output", "json", **options).stdout)
        assert 1 == found["version"]
        return found

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        return execute(self.target.url, statement)

    def people(self) -> list[int]:
        return [id_ for (id_,) in self.ask("SELECT id FROM people ORDER BY id")]

    def left(self) -> list[tuple[str, str]]:
        """Key and status of every reject."""
        return [(key, status) for key, status in self.ask('SELECT key, status FROM usersync.rejects ORDER BY key COLLATE "C"')]

    def fix(self) -> None:
        self.ask("ALTER TABLE people DROP CONSTRAINT young")


@pytest.fixture
def export(usersync: Command, database: Database) -> Export:
    """Nobody was copied yet."""
    return Export(usersync, database)


@pytest.fixture
def bad(export: Export) -> Export:
    """Six people were copied, but for 2 and 4, who are too old for the table."""
    export.holds(*(person(i, age=200 if i in {2, 4} else 30) for i in range(1, 7)))
    assert "3: 4 0 0 2" == export.ran()
    return export


# list and show


def test_before_the_first_run(usersync: Command, database: Database) -> None:
    """
    Where usersync's tables are not, nothing waits, and none are made.
    """
    result = Ledger(usersync, database).command("rejects", "list")

    assert Result(0, NOTHING, "") == result
    assert [(None,)] == execute(database.url, "SELECT to_regnamespace('usersync')")


def test_list(bad: Export) -> None:
    """
    Number, step, key, reason and since when of each, and how many; as JSON too. No document.
    """
    result = bad.rejects("list")
    first, second, total = result.stdout.splitlines()
    document = bad.json("list", "--job", "copy", "--step", "people")

    assert (0, "") == (result.status, result.stderr)
    assert first.startswith("1: copy: step people, people: key 2: check_violation (constraint young, table people), since 20")
    assert second.startswith("2: copy: step people, people: key 4: ")
    assert "copy: step people: 2 waiting: 2 check_violation" == total
    assert "rejects" == document["kind"]
    assert [(1, "2", "waiting", True), (2, "4", "waiting", True)] == [
        (one["id"], one["key"], one["status"], one["has_document"]) for one in document["rejects"]
    ]
    assert [{"job": "copy", "step": "people", "waiting": 2, "dropped": 0, "reasons": {"check_violation": 2}}] == document["counts"]


def test_show(bad: Export) -> None:
    """
    Everything about one; the document itself only when it is asked for, as it came and alone on stdout.
    """
    result = bad.rejects("show", 2)
    rows = {line[2:18].strip(): line[18:] for line in result.stdout.splitlines()[1:]}
    asked = bad.rejects("show", 2, "--document", spoken=True)

    assert (0, "reject 2: waiting") == (result.status, result.stdout.splitlines()[0])
    assert ("copy", "people", "4", "kept; --document prints it") == (rows["job"], rows["stream"], rows["key"], rows["document"])
    assert (0, json.dumps(person(4, age=200)) + "\n") == (asked.status, asked.stdout)
    assert asked.stderr == result.stdout
    assert "document" not in bad.json("show", 2)
    assert person(4, age=200) == json.loads(bad.json("show", 2, "--document", spoken=True)["document"])


def test_a_terminal_is_not_told_what_to_do(bad: Export) -> None:
    """
    On a terminal a document is shown without what that would obey.
    """
    bad.ask("UPDATE usersync.rejects SET document = '{\"name\": \"\x1b]0;owned\x07\xff\"}'::bytea WHERE id = 1".replace("\xff", "\\377")
            .replace("\x1b", "\\033").replace("\x07", "\\007"))  # fmt: skip
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "usersync_cli", "rejects", "show", "1", "--document"],
        cwd=bad.usersync.folder, env=bad.usersync.environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE, check=True,
    )  # fmt: skip
    os.close(theirs)

    assert rb'{"name": "\x1b]0;owned\x07\xff"}' == os.read(ours, 1000).strip()
    assert b"\x1b" not in done.stderr
    os.close(ours)


def test_names_that_are_not_there(bad: Export) -> None:
    """
    A misspelt job or step is a mistake and not "nothing waits"; one that exists and has none is.
    """
    bad.document["jobs"]["other"] = {"steps": [{**bad.document["jobs"]["copy"]["steps"][0], "name": "elsewhere"}]}
    bad.save()
    misspelt = bad.rejects("list", "--job", "kopy")

    assert (2, "") == (misspelt.status, misspelt.stdout)
    assert 'did you mean "copy"' in misspelt.stderr
    assert 2 == bad.rejects("list", "--step", "persons").status
    assert 2 == bad.rejects("drop", "--all", "--job", "copy", "--step", "elsewhere").status
    assert Result(0, NOTHING, "") == bad.rejects("list", "--job", "other", "--step", "elsewhere")


@pytest.mark.parametrize(
    "words",
    [
        ("drop",), ("drop", "--all"), ("drop", "1", "--all", "--job", "copy"), ("drop", "1", "--step", "people"), ("drop", "x"),
        ("retry", "--job", "copy"), ("retry", "1"), ("retry", "1", "--all", "--job", "copy"), ("retry", "0", "--job", "copy"),
        ("show", "99999999999999999999"),
    ],
)  # fmt: skip
def test_vague_words(words: tuple[str, ...]) -> None:
    """
    Which ones has to be said: numbers, or all of a job.
    """
    result = CliRunner().invoke(cli, ["rejects", *words], obj=Stop())

    assert 2 == result.exit_code
    assert "Usage: " in result.stderr


@pytest.mark.parametrize(
    "words", [("show", 9), ("drop", 1, 9), ("retry", 1, 9, "--job", "copy"), ("drop", 1, "--job", "other"), ("retry", 1, "--job", "other")]
)
def test_unknown_numbers(bad: Export, words: tuple[object, ...]) -> None:
    """
    A number that is not there, or another job's: 9, and nothing is changed.
    """
    bad.document["jobs"]["other"] = bad.document["jobs"]["copy"]
    bad.save()
    result = bad.rejects(*words)

    assert (9, "") == (result.status, result.stdout)
    assert f"there is no reject {words[1] if 'other' in words or 'show' in words else 9}" in result.stderr
    assert [("2", "waiting"), ("4", "waiting")] == bad.left()
    assert 1 == len(bad.ask("SELECT FROM usersync.runs"))


def test_newer_tables(bad: Export) -> None:
    """
    The tables of a newer usersync are not guessed at: 7.
    """
    bad.ask("UPDATE usersync.alembic_version SET version_num = '9999'")

    assert [7, 7, 7] == [bad.rejects(*words).status for words in (("list",), ("drop", 1), ("retry", 1, "--job", "copy"))]


# drop


def test_dropped_ones_count_no_more(bad: Export) -> None:
    """
    A person has looked: the run ends with 0, until the document changes; then it waits again.
    """
    dropped = bad.rejects("drop", 1, 2)

    assert Result(0, "2 dropped, until what they hold changes\n", "") == dropped
    assert "0: 0 0 4 2" == bad.ran()
    assert NOTHING == bad.rejects("list").stdout
    assert "copy: step people: 0 waiting, 2 dropped: 2 check_violation" == bad.rejects("list", "--dropped").stdout.splitlines()[-1]
    bad.holds(*(person(i, age=201 if i == 4 else 200 if i == 2 else 30) for i in range(1, 7)))
    assert "3: 0 0 4 2" == bad.ran()
    assert [("2", "dropped"), ("4", "waiting")] == bad.left()


def test_dropping_twice(bad: Export) -> None:
    """
    One that was dropped before is said to be; all of a job are those that wait.
    """
    bad.rejects("drop", 1)

    assert Result(0, "nothing was changed\n1 was dropped before\n", "") == bad.rejects("drop", 1)
    assert {"dropped": 1, "dropped_before": 0, "ids": [2]}.items() <= bad.json("drop", "--all", "--job", "copy").items()
    assert Result(0, "0 dropped, until what they hold changes\n", "") == bad.rejects("drop", "--all", "--job", "copy", "--step", "people")


# retry


def test_retry_after_the_table_was_mended(bad: Export) -> None:
    """
    They are loaded, without the source being asked and without moving its cursor; the next run finds nothing to do.
    """
    cursor = bad.ask("SELECT value, version, rows FROM usersync.cursors")
    bad.fix()
    (bad.usersync.folder / "people.jsonl").rename(bad.usersync.folder / "away")
    result = bad.rejects("retry", "--all", "--job", "copy", "-vv")

    assert 0 == result.status
    assert result.stdout.startswith("copy: 2 records: 2 new, 0 changed, 0 the same, 0 gone (")
    assert [1, 2, 3, 4, 5, 6] == bad.people()
    assert [] == bad.left()
    assert cursor == bad.ask("SELECT value, version, rows FROM usersync.cursors")
    (bad.usersync.folder / "away").rename(bad.usersync.folder / "people.jsonl")
    assert "0: 0 0 6 0" == bad.ran()
    assert [("partial", 3, 6), ("ok", 0, 2), ("ok", 0, 6)] == bad.ask(
        "SELECT r.status, exit_status, read FROM usersync.runs r JOIN usersync.run_steps s ON s.run_id = r.id ORDER BY r.id"
    )


def test_some_still_fail(bad: Export) -> None:
    """
    Those that fit are loaded, the others wait on, one row each: 3.
    """
    bad.ask("ALTER TABLE people DROP CONSTRAINT young, ADD CHECK (id <> 2)")
    result = bad.rejects("retry", 1, 2, "--job", "copy", "-vv")
    again = bad.json("retry", 1, "--job", "copy")

    assert 3 == result.status
    assert result.stdout.startswith("copy: 2 records: 1 new, 0 changed, 0 the same, 0 gone, 1 set aside (")
    assert "1 record set aside, waiting for somebody to look\n  usersync rejects list --job copy says why; " in result.stderr
    assert ("run", 3, 1) == (again["kind"], again["exit_status"], again["steps"][0]["rejected"])
    assert [1, 3, 4, 5, 6] == bad.people()
    assert [("2", "people_id_check")] == [(key, detail[11:26]) for key, detail in bad.ask("SELECT key, detail FROM usersync.rejects")]
    assert "3: 0 0 5 1" == bad.ran()
    assert [("2", "waiting")] == bad.left()


def test_many_that_fail_stop_nothing(export: Export) -> None:
    """
    How many fail is no news: no limit applies, though all of them fail, and for whatever reason.
    """
    export.write(transform=TRANSFORM.replace("key::int", "key::int + CASE WHEN data ? 'odd' THEN 1000 ELSE 0 END"))
    export.holds(*(person(i, **({"odd": 1} if i < 4 else {"age": 200} if i < 8 else {})) for i in range(1, 21)))
    assert "3: 13 0 0 7" == export.ran()
    before = export.ask("SELECT key, reason FROM usersync.rejects ORDER BY id")

    assert {"key_differs", "check_violation"} == {reason for _, reason in before}
    assert 3 == export.rejects("retry", "--all", "--job", "copy").status
    assert before == export.ask("SELECT key, reason FROM usersync.rejects ORDER BY id")


def test_a_dropped_one_may_be_tried(bad: Export) -> None:
    """
    Named by its number, a dropped one is tried too: it stays dropped when it fails, and `--all` leaves it alone.
    """
    bad.rejects("drop", 1, 2)

    assert Result(0, "copy: nothing waits\n", "") == bad.rejects("retry", "--all", "--job", "copy")
    failed = bad.rejects("retry", 1, "--job", "copy")
    assert 3 == failed.status
    assert "1 still can't be loaded; they stay dropped" in failed.stderr
    bad.fix()
    assert 0 == bad.rejects("retry", 1, "--job", "copy").status
    assert [("4", "dropped")] == bad.left()


def test_newer_news_wins(bad: Export) -> None:
    """
    Where a newer version is held by now, the reject is outdated: it goes, and nothing is loaded.
    """
    bad.holds(*(person(i, age=200 if i in {2, 4} else 30, at="2026-01-02T00:00:00Z") for i in range(1, 7)))
    assert "3: 0 0 4 2" == bad.ran()
    bad.fix()
    bad.ask("UPDATE usersync.seen SET version_at = '2026-01-03' WHERE key = '2'")
    result = bad.rejects("retry", "--all", "--job", "copy")

    assert (0, True) == (result.status, "1 new, 0 changed, 0 the same, 0 gone, 1 older than what is there" in result.stdout)
    assert [1, 3, 4, 5, 6] == bad.people()
    assert [] == bad.left()


@pytest.mark.parametrize("version", [9, None])
def test_versions_that_are_numbers(export: Export, version: int | None) -> None:
    """
    The transform is given a version of the type that a run gives it, also where no reject has one.
    """
    export.ask("ALTER TABLE people ADD version numeric")
    export.write(transform=TRANSFORM.replace(" FROM", ", version + 1 AS version FROM"), stream={**STREAM, "version_type": "number"})
    export.holds(person(1, at=1), person(2, age=200, at=version), person(3, at=10))
    assert "3: 2 0 0 1" == export.ran()
    export.fix()

    assert 0 == export.rejects("retry", "--all", "--job", "copy").status
    assert [(1, 2), (2, version and 10), (3, 11)] == export.ask("SELECT id, version FROM people ORDER BY id")


def test_what_is_no_whole_record(export: Export) -> None:
    """
    What has no key, no version that is one, or is no JSON, fails again and stays as it is; the source has to be asked.
    """
    export.holds("{", "[]", json.dumps({"name": f"{PERSON} X"}), person(9, at="yesterday"), *(person(i) for i in range(1, 10)))
    assert 3 == export.sync().exit_status
    before = export.ask("SELECT * FROM usersync.rejects ORDER BY id")
    result = export.rejects("retry", "--all", "--job", "copy")

    assert 3 == result.status
    assert "what was kept of 4 is no whole record: `usersync run --job copy --full` reads them from the source again" in result.stderr
    assert result.stdout.startswith("copy: 4 records: 0 new, 0 changed, 0 the same, 0 gone, 4 set aside")
    assert before == export.ask("SELECT * FROM usersync.rejects ORDER BY id")


def test_a_document_that_was_forgotten(bad: Export) -> None:
    """
    After 30 days a run forgets it; show and retry say so, and that --full reads it again, which it does.
    """
    bad.ask("UPDATE usersync.rejects SET last_at = now() - interval '31 days', step = 'elsewhere'")
    bad.sync()
    bad.ask("DELETE FROM usersync.rejects WHERE step = 'people'; UPDATE usersync.rejects SET step = 'people'")
    bad.fix()
    shown, asked, tried = bad.rejects("show", 1), bad.rejects("show", 1, "--document"), bad.rejects("retry", 1, "--job", "copy")

    assert "forgotten, 30 days after the record was last met; `usersync run --job copy --full` reads it" in shown.stdout
    assert (9, "") == (asked.status, asked.stdout)
    assert (3, [1, 3, 5, 6]) == (tried.status, bad.people())
    assert "the document of 1 was forgotten after 30 days: `usersync run --job copy --full` reads them" in tried.stderr
    assert "0: 2 0 4 0" == bad.ran(full=True)
    assert [] == bad.left()


def test_a_run_holds_the_job(bad: Export) -> None:
    """
    While a run has the job: 75, and nothing is changed.
    """
    bad.fix()
    with hold(bad.target, "copy", lease=loader.load(bad.usersync.folder / "config.yaml").jobs["copy"].lease, stop=Stop()):
        result = bad.rejects("retry", "--all", "--job", "copy")

    assert (75, "") == (result.status, result.stdout)
    assert "another run holds the job" in result.stderr
    assert ([1, 3, 5, 6], [("2", "waiting"), ("4", "waiting")]) == (bad.people(), bad.left())


def test_killed_in_the_middle(export: Export) -> None:
    """
    kill -9 between two pages: what was committed stays, the rest still waits, and the next retry does it; nothing twice.
    """
    big = {"more": "x" * 3_000_000, "age": 200}  # a page holds one of these
    slow = person(2, **big) | {"name": f"{PERSON} slow"}
    export.holds(*(person(i) for i in range(4, 9)), person(1, **big), slow, person(3, **big))
    assert "3: 5 0 0 3" == export.ran()
    export.fix()
    export.ask(DAWDLE.format(seconds=60))
    with (
        export.usersync.start("rejects", "retry", "--all", "--job", "copy", "-vv") as process,
        psycopg.connect(export.target.url, autocommit=True) as connection,
    ):
        servers.until(lambda: connection.execute(f"SELECT FROM pg_stat_activity WHERE {SLEEPING}").fetchall())
        process.kill()
        _, stderr = process.communicate()

    assert PERSON not in stderr
    assert ([1, *range(4, 9)], [("2", "waiting"), ("3", "waiting")]) == (export.people(), export.left())
    export.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'; DROP FUNCTION dawdle CASCADE")
    result = export.rejects("retry", "--all", "--job", "copy")
    assert (0, True) == (result.status, result.stdout.startswith("copy: 2 records: 2 new"))
    assert (list(range(1, 9)), []) == (export.people(), export.left())
    assert "0: 0 0 8 0" == export.ran()


def test_calls_to_the_database_that_fail(bad: Export) -> None:
    """
    Whichever call does not arrive, or its answer not: each record is loaded or waits, never both; the next retry does the rest.
    """
    fault = Fault()
    while fault.calls >= fault.at:
        fault = Fault(fault.at + 7, "lost" if fault.at % 2 else "cut")
        bad.fix()
        with counting(fault):
            assert bad.rejects("retry", "--all", "--job", "copy").status in {0, 3, 4, 76}, fault
        assert list(range(1, 7)) == sorted([*bad.people(), *(int(key) for key, _ in bad.left())]), fault
        bad.ask("UPDATE usersync.job_locks SET owner = NULL")  # as if the process had ended, where it could not let go
        assert 0 == bad.rejects("retry", "--all", "--job", "copy").status, fault
        assert (list(range(1, 7)), []) == (bad.people(), bad.left())
        bad.ask("DELETE FROM people WHERE age = 200; ALTER TABLE people ADD CONSTRAINT young CHECK (age < 100)")
        assert "3: 0 0 4 2" == bad.ran(full=True)

    assert fault.calls > 30, "the calls are not counted"


def test_another_transform(bad: Export) -> None:
    """
    A fixed transform is tried at once; the step still counts as another, so the next run looks at everything.
    """
    before = bad.ask("SELECT fingerprint FROM usersync.seen_streams")
    bad.write(transform=TRANSFORM.replace("(data ->> 'age')::int", "least((data ->> 'age')::int, 99)"))

    assert 0 == bad.rejects("retry", "--all", "--job", "copy").status
    assert before == bad.ask("SELECT fingerprint FROM usersync.seen_streams")
    assert "0: 0 0 6 0" == bad.ran()
    assert before != bad.ask("SELECT fingerprint FROM usersync.seen_streams")


def test_another_table(bad: Export) -> None:
    """
    A table into which nothing was read yet is not begun with what failed: 2; the run that reads everything does it.
    """
    bad.write(table="members", create=True)
    result = bad.rejects("retry", "--all", "--job", "copy")

    assert 2 == result.status
    assert "usersync run --job copy --step people: it reads everything" in result.stderr
    assert "0: 6 0 0 0" == bad.ran()
    assert [] == bad.left()


def test_a_step_that_left_the_config(bad: Export) -> None:
    """
    Rejects of a step that is no more can be dropped: retry says so with 2, before anything is done.
    """
    bad.document["jobs"]["copy"]["steps"][0]["name"] = "persons"
    bad.save()
    result = bad.rejects("retry", "--all", "--job", "copy")

    assert (2, "") == (result.status, result.stdout)
    assert "`usersync rejects drop 1`" in result.stderr
    assert 0 == bad.rejects("drop", 1, 2).status


def test_what_waits_elsewhere(bad: Export) -> None:
    """
    The job is not well while rejects of another step wait, whatever became of these.
    """
    (step,) = bad.document["jobs"]["copy"]["steps"]
    bad.document["jobs"]["copy"]["steps"].append({**step, "name": "others", "load": {"table": "others", "key": ["id"]}})
    bad.save()
    bad.ask("CREATE TABLE others (LIKE people INCLUDING ALL)")
    assert 3 == bad.sync().exit_status
    bad.fix()
    result = bad.rejects("retry", 1, 2, "--job", "copy")

    assert 3 == result.status
    assert 1 == result.stdout.count("\n")
    assert "copy: step others: 2 records set aside, waiting for somebody to look" in result.stderr
    assert (list(range(1, 7)), "partial") == (bad.people(), *bad.ask("SELECT status FROM usersync.runs ORDER BY id DESC LIMIT 1")[0])


def test_a_step_of_tables(usersync: Command, database: Database, new_database: NewDatabase) -> None:
    """
    Its rejects are tried by a run of the step.
    """
    job = Job(usersync, new_database("source crm"), database)
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text CHECK (name <> 'Test User Two'))")
    job.people("One", "Two", "Three")
    assert 3 == job.sync().exit_status
    failed = clean(usersync("rejects", "retry", "1", "--job", "copy", "-vv"))
    job.at_target("ALTER TABLE people DROP CONSTRAINT people_name_check")
    fixed = clean(usersync("rejects", "retry", "--all", "--job", "copy", "-vv"))

    assert (3, 0) == (failed.status, fixed.status)
    assert fixed.stdout.startswith("copy: 3 records: 1 new, 0 changed, 2 the same")
    assert [(1, "One"), (2, "Two"), (3, "Three")] == job.loaded()
    assert [] == job.at_target("SELECT FROM usersync.rejects")


# status and health


def test_status_shows_what_waits(bad: Export) -> None:
    """
    How many wait in each step, with the command that lists them; health counts the job as not well.
    """
    status = bad.command("status")
    (job,) = json.loads(bad.command("status", "--output", "json").stdout)["jobs"]

    assert "  rejects         2 records of step people set aside, waiting for somebody to look\n" in status.stdout
    assert "                  `usersync rejects list --job copy --step people` lists them\n" in status.stdout
    assert [{"step": "people", "waiting": 2}] == job["rejects"]
    assert 3 == bad.command("health", "--job", "copy").status
    bad.rejects("drop", "--all", "--job", "copy")
    bad.sync()
    assert "rejects" not in bad.command("status").stdout
    assert 0 == bad.command("health", "--job", "copy").status
