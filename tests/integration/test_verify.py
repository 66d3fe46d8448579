"""`usersync verify`: every difference between a table and its sources is found, and nothing is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from tests.conftest import Command, NewDatabase
from tests.simple_job import PASSWORD, Job
from usersync_cli.cli import cli
from usersync_cli.signals import Stop

PERSON = "Test User"


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Job:
    return Job(usersync, new_database("source crm"), new_database(), migrated=False)


def command(job: Job, *arguments: str) -> tuple[int, str, str]:
    """A command in this process: exit status, stdout, stderr; raises what the command raises."""
    runner = CliRunner()
    done = runner.invoke(cli, [*arguments, "--config", str(job.usersync.folder / "config.yaml")], obj=Stop(), standalone_mode=False)
    if done.exception:
        raise done.exception
    for word in (PASSWORD, *(() if "--values" in arguments else (PERSON,))):
        assert word not in done.stdout + done.stderr
    return done.return_value, done.stdout, done.stderr


def verify(job: Job, *arguments: str) -> tuple[int, str, str]:
    return command(job, "verify", "--job", "copy", *arguments)


def found(job: Job, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status and what the one step's report says."""
    status, stdout, _ = verify(job, "--output", "json", *arguments)
    document = json.loads(stdout)
    assert (1, "verify", "copy", status) == (document["version"], document["kind"], document["job"], document["exit_status"])
    (step,) = document["steps"]
    return status, step


def differences(step: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["kind"], one["key"], ",".join(one["columns"])) for one in step["differences"]]


def run(job: Job) -> None:
    status, _, stderr = command(job, "run", "--job", "copy", "-q")
    assert 0 == status, stderr


def test_every_kind_of_difference(job: Job) -> None:
    """
    Missing, extra and changed rows are found and named; values are told only when asked for; nothing is written, not even
    usersync's own tables.
    """
    job.write(load={"on_missing": "delete", "create": False})
    job.people(*"abcdefghij")
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text); CREATE SCHEMA other")
    job.at_target("INSERT INTO people SELECT i, 'Test User ' || chr(96 + i) FROM generate_series(1, 10) AS i")
    rows = "SELECT xmin::text, ctid::text, p::text FROM people p ORDER BY id"
    before = job.at_target(rows)

    assert (0, 10, 10, []) == ((good := found(job))[0], good[1]["read"], good[1]["rows"], good[1]["differences"])
    assert verify(job)[1].startswith("copy: people: 10 read, 10 in the table: 0 missing, 0 extra, 0 different (")
    assert (0, "", "") == verify(job, "-q")
    assert before == job.at_target(rows)
    assert [] == job.at_target("SELECT FROM pg_namespace WHERE nspname = 'usersync'")

    job.at_target("""
        DELETE FROM people WHERE id IN (1, 10);
        INSERT INTO people VALUES (0, 'Test User x'), (11, 'Test User y');
        UPDATE people SET name = name || ' ' WHERE id = 2;
        UPDATE people SET name = upper(name) WHERE id = 3;
        UPDATE people SET name = NULL WHERE id = 4;
    """)
    job.at_source("UPDATE people_at_source SET name = NULL WHERE id = 6")
    job.at_target("UPDATE people SET name = '' WHERE id = 6")
    changed = [("different", id_, "name") for id_ in "2346"]
    expected = sorted([("missing", "1", ""), ("missing", "10", ""), ("extra", "0", ""), ("extra", "11", ""), *changed], key=lambda d: d[1])
    status, step = found(job)
    text = verify(job, "--values", "--limit", "3")

    assert (8, expected) == (status, differences(step))
    assert (2, 2, 4, {"name": 4}) == (step["missing"], step["extra"], step["different"], step["columns"])
    assert (8, True) == (text[0], "10 read, 10 in the table: 2 missing, 2 extra, 4 different (name 4) (" in text[1])
    assert [
        '  extra     0: name "Test User x"',
        '  missing   1: name "Test User a"',
        '  missing   10: name "Test User j"',
        "  ... and 5 more; --limit 0 lists all",
    ] == text[1].splitlines()[1:]
    assert "8 rows differ from the sources" in text[2]
    assert "`usersync run --job copy --full`" in text[2]
    assert {"source": {"name": None}, "table": {"name": ""}}.items() <= found(job, "--values")[1]["differences"][-1].items()
    assert '  different 6: name "" instead of NULL' in verify(job, "--values")[1].splitlines()


TYPES = """
    id int PRIMARY KEY, amount numeric, price numeric(10,2), at timestamptz, seconds timestamp(0), facts jsonb, told json,
    fold {loose}, short varchar(5), tags numeric[], code char(4), raw bytea, long interval
"""
VALUES = """
    1, {amount}, {price}, {at}, {seconds}, {facts}, {told}, {fold}, {short}, {tags}, {code}, {raw}, {long}
"""
SOURCE = {
    "amount": "1.0", "price": "1.005", "at": "'2024-01-01 12:00+00'", "seconds": "'2024-01-01 00:00:00.4'", "told": """'{"a": 1}'""",
    "facts": """'{"a": 1.0, "b": [1]}'""", "fold": "'Ann'", "short": "'abcde'", "tags": "'{1.0,2}'", "code": "'ab'", "raw": "'\\x00ff'",
    "long": "'24:00'",
}  # fmt: skip
SAME = {
    "amount": "1.00", "price": "1.01", "at": "'2024-01-01 17:30+05:30'", "seconds": "'2024-01-01 00:00:00'",
    "facts": """'{"b":[1.00],"a":1}'""", "fold": "'ANN'", "tags": "'{1,2.000}'", "code": "'ab  '", "long": "'1 day'",
}  # fmt: skip
OTHER = {
    "amount": "1.000001", "price": "1.02", "at": "'2024-01-01 12:00+05:30'", "seconds": "'2024-01-01 00:00:01'",
    "facts": """'{"a": 1.0, "b": [1, null]}'""", "told": """'{"a":1}'""", "fold": "'Anne'", "short": "'abcd'", "tags": "'{2,1}'",
    "code": "'Ab'", "raw": "'\\x00fe'", "long": "'24:01'",
}  # fmt: skip


def test_equality_is_that_of_the_column(job: Job) -> None:
    """
    What the column's type and collation call equal is no difference: scale, time zone, order of keys, case where it is
    folded. Anything else is, in each column, and a value that the column would have to cut.
    """
    job.at_target("CREATE COLLATION folded (provider = builtin, locale = 'C.UTF-8')")
    source, target = TYPES.format(loose="text"), TYPES.format(loose="text")
    wider = source.replace("varchar(5)", "text").replace("(10,2)", "").replace("timestamp(0)", "timestamp").replace("char(4)", "text")
    job.at_source(f"CREATE TABLE typed ({wider}); INSERT INTO typed VALUES ({VALUES.format(**SOURCE)})")
    job.at_target(
        f"CREATE TABLE people ({target}); INSERT INTO people VALUES ({VALUES.format(**{**SOURCE, **SAME, 'fold': SOURCE['fold']})})"
    )
    job.write(extract={"table": "typed"})

    assert (0, []) == ((same := found(job))[0], same[1]["differences"])
    for column, value in OTHER.items():
        job.at_target(f"DELETE FROM people; INSERT INTO people VALUES ({VALUES.format(**{**SOURCE, column: value})})")
        assert (8, [("different", "1", column)]) == ((other := found(job))[0], differences(other[1])), column
    job.at_target(f"DELETE FROM people; INSERT INTO people VALUES ({VALUES.format(**SOURCE)})")
    job.at_source("UPDATE typed SET short = 'abcdef'")
    assert [("different", "1", "short")] == differences(found(job)[1])
