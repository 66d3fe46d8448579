"""What a run needs of its target, `check` says before, with the statement that helps; a run says the same."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import Command, NewDatabase
from tests.simple_job import Job, clean
from usersync_cli.clients.postgres import errors, settings


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Iterator[Job]:
    """Its role may write usersync's own tables, read the source, and nothing else."""
    job = Job(usersync, new_database("source crm"), new_database())
    job.people("One")
    job.at_target(
        "CREATE ROLE weak LOGIN; GRANT USAGE ON SCHEMA usersync TO weak; GRANT ALL ON ALL TABLES IN SCHEMA usersync TO weak;"
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA usersync TO weak"
    )
    yield job
    job.at_target("DROP OWNED BY weak; DROP ROLE weak")


def says(job: Job, status: int, *words: str, role: str = "weak", **load: object) -> None:
    """Run and check end with this status, and say these words; nothing is written."""
    job.write(target=job.target.url.replace("postgres@", f"{role}@"), load={"create": False, **load})
    run, check = job.sync(), clean(job.usersync("check"))
    error = run.steps[0].error

    assert (status, status) == (run.exit_status, check.status), (run, check)
    assert error is not None
    for word in words:
        assert word in f"{error.message} {error.hint}"
        assert word in check.stdout, check.stdout


RIGHTS = [
    ("", {"create": True}, "the right to CREATE in schema public is missing", 'GRANT USAGE, CREATE ON SCHEMA "public" TO weak;'),
    ("CREATE SCHEMA app", {"create": True, "table": "app.people"}, "CREATE in schema app", 'GRANT USAGE, CREATE ON SCHEMA "app" TO weak;'),
    (
        "CREATE TABLE people (id int PRIMARY KEY, name text, pk serial); GRANT ALL ON people TO weak",
        {}, "a default takes numbers from public.people_pk_seq", "GRANT USAGE ON SEQUENCE public.people_pk_seq TO weak;",
    ),
    ("CREATE TABLE people (id int PRIMARY KEY, name text); GRANT SELECT ON people TO weak", {}, "INSERT, UPDATE", "GRANT INSERT, UPDATE"),
    (
        "CREATE TABLE people (id int PRIMARY KEY, name text, deleted_at timestamptz); GRANT ALL ON people TO weak",
        {"on_missing": "mark", "live_view": True},
        "its live view people_live is to be made, and the right to CREATE in schema public is missing",
        'GRANT USAGE, CREATE ON SCHEMA "public" TO weak;',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("made", "load", "what", "grant"), RIGHTS)
def test_rights_that_are_missing(job: Job, made: str, load: dict[str, object], what: str, grant: str) -> None:
    """
    Exit 2 with the GRANT, and with it the run goes well: no dead end between run and check.
    """
    job.at_target(made or "SELECT 1")
    says(job, 2, what, grant, **load)
    job.at_target(grant if grant.endswith(";") else "GRANT ALL ON people TO weak")

    assert 0 == job.sync().exit_status


SHAPES = [
    ("", {"create": True, "table": "nowhere.people"}, "there is no schema nowhere", 'CREATE SCHEMA "nowhere";'),
    ("CREATE TABLE people (id int PRIMARY KEY, name text) PARTITION BY HASH (id)", {}, "has no partition", "PARTITION OF"),
    ("CREATE DOMAIN must AS int NOT NULL; CREATE TABLE people (id int PRIMARY KEY, name text, more must)", {}, "more is NOT NULL", "more"),
    ("CREATE TABLE base (id int PRIMARY KEY, name text); CREATE VIEW people AS SELECT * FROM base", {}, "a view", "public.base"),
    ("CREATE TABLE base (id int, name text); CREATE MATERIALIZED VIEW people AS SELECT * FROM base", {}, "a materialized", "public.base"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "load", "what", "help_"), SHAPES)
def test_tables_that_do_not_fit(job: Job, made: str, load: dict[str, object], what: str, help_: str) -> None:
    """
    Exit 7, with what helps; of a view nothing that can only be altered in a table.
    """
    job.at_target(made or "SELECT 1")
    says(job, 7, what, help_, role="postgres", **load)

    assert "ALTER TABLE" not in clean(job.usersync("check")).stdout or "view" not in what


def test_a_domain_with_a_default_fills_itself(job: Job) -> None:
    """
    A NOT NULL that its domain fills is no reason to refuse the table.
    """
    job.at_target("CREATE DOMAIN must AS text NOT NULL DEFAULT 'x'; CREATE TABLE people (id int PRIMARY KEY, name text, extra must)")
    job.write(load={"create": False})

    assert 0 == job.sync().exit_status
    assert [("x",)] == job.at_target("SELECT extra FROM people")


def test_foreign_keys_that_would_not_be_looked_at(job: Job) -> None:
    """
    session_replication_role = replica turns constraints off: exit 2, by check too.
    """
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text); ALTER ROLE weak SUPERUSER")
    (name,) = job.at_target("SELECT current_database()")[0]
    job.at_target(f"ALTER ROLE weak IN DATABASE {name} SET session_replication_role = replica")

    says(job, 2, "session_replication_role is replica", "RESET session_replication_role")


def test_more_columns_than_two_rows_may_have(job: Job) -> None:
    """
    Two rows side by side would have too many: the first run, a change, a duplicate, nothing new, and verify.
    """
    columns = ", ".join(f"{i} AS c{i}" for i in range(850))
    job.at_source(f"CREATE TABLE wide AS SELECT i AS id, 'Test User ' || i AS name, {columns} FROM generate_series(1, 3) i")
    job.at_target(
        f"CREATE TABLE people (id int PRIMARY KEY, name text, deleted_at timestamptz, {', '.join(f'c{i} int' for i in range(850))})"
    )
    job.write(extract={"table": "wide"}, load={"on_missing": "mark"})
    first = job.sync().steps[0].counts
    job.at_source("UPDATE wide SET c849 = -1 WHERE id = 2; INSERT INTO wide SELECT * FROM wide WHERE id = 3")
    second, third = job.sync().steps[0], job.sync().steps[0].counts
    job.at_source("UPDATE wide SET c0 = -1 WHERE id = 1")

    assert (3, None) == (first.inserted, second.error)
    assert (1, 1, 2, 3) == (second.counts.updated, second.counts.duplicates, second.counts.unchanged, third.unchanged)
    assert [(-1, 0)] == job.at_target("SELECT c849, c0 FROM people WHERE id = 2")
    assert "1 different (c0 1)" in clean(job.usersync("verify", "--job", "copy")).stdout


def test_more_columns_than_a_run_can_handle(job: Job) -> None:
    """
    Refused before anything is written, by check too.
    """
    job.at_source(f"CREATE TABLE wide AS SELECT 1 AS id, {', '.join(f'{i} AS c{i}' for i in range(1595))}")
    job.write(extract={"table": "wide"})
    run, check = job.sync(), clean(job.usersync("check"))

    assert (7, 7, [(None,)]) == (run.exit_status, check.status, job.at_target("SELECT to_regclass('people')"))
    assert "1,596 columns are more than 1,590" in check.stdout


def test_a_url_with_a_newline_at_its_end(job: Job) -> None:
    """
    A variable often ends with one, as the contents of a secret do.
    """
    job.write(target="${TARGET_URL}", source="${SOURCE_URL}")

    assert 0 == job.run(TARGET_URL=job.target.url + "\n", SOURCE_URL=f" {job.source.url}\r\n").status


@pytest.mark.parametrize("adopt", [False, True])
def test_from_keep_to_mark_without_the_column(job: Job, *, adopt: bool) -> None:
    """
    A stream of documents that did not change: the ALTER that check prints, and not PostgreSQL's word for a missing column.
    """
    job.at_target("CREATE TABLE people (id text PRIMARY KEY, data jsonb)")
    (job.usersync.folder / "people.jsonl").write_text('{"id": "a"}\n')
    results = []
    for on_missing in ("keep", "mark"):
        job.write(load={"on_missing": on_missing, "adopt_existing": adopt and on_missing == "mark"})
        (step,) = job.document["jobs"]["copy"]["steps"]
        job.document["sources"] = {"crm": {"type": "file", "streams": {"people": {"path": "people.jsonl", "key": "id"}}}}
        step["extract"] = {"source": "crm", "streams": ["people"]}
        job.save()
        results.append(job.run())

    assert [0, 7] == [result.status for result in results], results
    assert 'ALTER TABLE "people" ADD COLUMN deleted_at timestamp with time zone;' in results[1].stderr


@pytest.mark.parametrize("type_", ["serial", "int GENERATED BY DEFAULT AS IDENTITY", "bigint GENERATED ALWAYS AS IDENTITY"])
def test_a_sequence_that_is_behind_is_told(job: Job, type_: str) -> None:
    """
    Ids are loaded past the sequence of their column: a warning, until it gives numbers that nobody has. No failure, and no wrong alarm.
    """
    job.at_target(f"CREATE TABLE people (id {type_} PRIMARY KEY, name text, n serial)")
    job.write(load={"create": False})
    assert "sequence" not in clean(job.usersync("check")).stdout
    assert 0 == job.sync().exit_status
    check = clean(job.usersync("check"))
    assert (0, 1) == (check.status, check.stdout.count("is behind the ids"))
    (statement,) = [line.strip() for line in check.stdout.splitlines() if "RESTART" in line]
    job.at_target(statement)
    job.at_target("INSERT INTO people (name) VALUES ('of the application')")

    assert "sequence" not in clean(job.usersync("check")).stdout


@pytest.mark.parametrize(
    "lock", ["LOCK TABLE people", "UPDATE people SET name = 'mine'; SELECT FROM people", "SELECT FROM people FOR UPDATE"]
)
def test_a_lock_that_is_waited_for_has_an_owner(job: Job, lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Whoever holds a table or a row for too long is named by process and application, not by what it executes: 4.
    """
    monkeypatch.setitem(settings.LONG, "lock_timeout", "300ms")
    monkeypatch.setattr(errors, "_LOCKERS", errors._LOCKERS.replace("10s", "200ms"))
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people VALUES (1, 'other')")
    job.write(load={"create": False})
    reader = f"{job.target.url}{'&' if '?' in job.target.url else '?'}application_name=harmless"
    with psycopg.connect(reader) as harmless, psycopg.connect(job.target.url, application_name="migration of the shop") as other:
        harmless.execute("SELECT FROM people" if "FROM" in lock else "SELECT")
        other.execute(lock)
        result = job.sync()
        error = result.steps[0].error
        pid = other.info.backend_pid

    assert error is not None
    assert 4 == result.exit_status, error
    assert f"locks are held by migration of the shop, process {pid}, idle in transaction since 20" in error.hint
    assert "harmless" not in error.hint
    assert "mine" not in error.hint + error.message
