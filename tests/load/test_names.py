"""Columns, tables and extracts may have any name that PostgreSQL takes: none of them means something else to our SQL."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from tests import servers
from tests.conftest import Command, NewDatabase
from tests.list_source import ListSource, Sync
from tests.simple_job import Job
from usersync_cli.cli.bootstrap import run_context
from usersync_cli.config import loader
from usersync_cli.model import Change
from usersync_cli.report.verify import steps
from usersync_cli.report.verify.report import VerifyOptions
from usersync_cli.run.job import RunResult
from usersync_cli.signals import Stop

NAMES = [
    *"abcdfgijklmnoprstuvwxy", "key", "data", "version", "ord", "row", "rank", "number", "names", "part", "records", "transform",
    "order", "user", "select", "group", "Upper", "with space", 'quo"te', "dot.ted", "per%cent", "%s", "%(x)s", "$1", "{brace}", "{}", "{0}",
    "back\\slash", "ünïcode", "x" * 63, "-- x", "/*", "usersync_id", "oid", "true", "?", ":name", "'", "a,b", "(a)",
]  # fmt: skip
KEY = ["r", "per%cent"]
TABLE = 'odd "%s" table %'
QUOTED = ['"' + name.replace('"', '""') + '"' for name in NAMES]


def create(table: str, rest: str) -> str:
    return f"CREATE TABLE {table} (" + ", ".join(f"{name} text" for name in QUOTED) + f', "deleted_at" timestamptz{rest})'


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Job:
    """A table with all of these columns, into another one with a name of that kind; the third is a number there."""
    job = Job(usersync, new_database("source crm"), new_database())
    rest = ', PRIMARY KEY ("r", "per%cent"), CHECK ("b" <> \'refused\' AND "b" NOT LIKE \'%no\'), UNIQUE ("%s")'
    table = '"' + TABLE.replace('"', '""') + '"'
    job.at_target(f'CREATE SCHEMA odd; {create("odd." + table, rest)}; ALTER TABLE odd.{table} ALTER "c" TYPE int USING 1')
    job.at_source(create("odd", "") + '; ALTER TABLE odd DROP "deleted_at"')
    fill(job, 60)
    return job


def fill(job: Job, number: int) -> None:
    values = ", ".join({"c": "i::text", "r": "'r' || i", "per%cent": "'%' || i", "%s": "i::text"}.get(name, "'x'") for name in NAMES)
    job.at_source(f"INSERT INTO odd SELECT {values} FROM generate_series(1, {number}) i")


def write(job: Job, names: tuple[str, str] = ("w", "t"), **load: Any) -> None:
    """Joined from two extracts, and cast in the transform."""
    one, other = names
    columns = ", ".join(f'{one}."c"::int AS "c"' if name == '"c"' else f"{one}.{name}" for name in QUOTED)
    on = f'{other}."r" = {one}."r" AND {other}."r" NOT LIKE \'%\\%s\' AND 7 % 2 = 1'
    job.write(load={"table": f"odd.{TABLE}", "key": KEY, "create": False, "on_missing": "mark", "order_by": '"t" DESC, "w"', **load})
    step = job.document["jobs"]["copy"]["steps"][0]
    step["name"] = "odd"
    step["extract"] = {one: {"source": "crm", "table": "odd"}, other: {"source": "crm", "query": 'SELECT "r" FROM odd WHERE 5 % 2 = 1'}}
    step["transform"] = f"SELECT {columns} FROM {one} JOIN {other} ON {on}"
    job.save()


def done(result: RunResult) -> tuple[int, ...]:
    c = result.steps[0].counts
    return (result.exit_status, c.inserted, c.updated, c.unchanged, c.gone, c.rejected, c.duplicates)


@pytest.mark.parametrize("names", [("w", "t"), ("g", "p"), ("c", "r"), ("transform", "data")])
def test_tables(job: Job, names: tuple[str, str]) -> None:
    """
    Load, change, mark, set aside by each way of searching, decide duplicates, preview, compare: a name is a name.
    """
    write(job, names)
    assert (0, 60, 0, 0, 0, 0, 0) == done(job.sync()), job.sync().steps[0].error
    job.at_source("""
        UPDATE odd SET "w" = 'changed' WHERE "r" = 'r1'; DELETE FROM odd WHERE "r" = 'r2';
        UPDATE odd SET "b" = 'refused' WHERE "r" = 'r3'; UPDATE odd SET "c" = 'no number' WHERE "r" = 'r4';
        UPDATE odd SET "%s" = '60' WHERE "r" = 'r5'
    """)
    job.at_source('INSERT INTO odd SELECT * FROM odd WHERE "r" = \'r6\'; UPDATE odd SET "per%cent" = NULL WHERE "r" = \'r7\'')
    told: list[Change] = []
    settings = loader.load(job.usersync.folder / "config.yaml")

    dry, wet = job.sync(dry_run=True, diff=lambda change: told.append(change) or True), job.sync()

    assert done(dry)[:2] == done(wet)[:2] == (6 if done(wet)[0] == 6 else 3, 0), (wet.steps[0].error, dry.steps[0].error)
    reasons = dict(job.at_target("SELECT reason, detail FROM usersync.rejects"))
    assert {"check_violation", "invalid_text_representation", "unique_violation", "no_key"} == set(reasons)
    assert ("column c", f"constraint {TABLE}") == (reasons["invalid_text_representation"], reasons["unique_violation"].split("_%s_key")[0])
    assert {"changed"} == {change.after.get("w") for change in told if change.kind == "update"}
    reports = list(steps.verify(settings.job("copy"), run_context(settings, settings.job("copy"), Stop()), VerifyOptions()))
    assert [None] == [report.error for report in reports]
    assert [(0, 0)] == [(report.missing, report.different) for report in reports]


def test_documents(new_database: NewDatabase) -> None:
    """
    The same of a stream: cast, checks, unique values, keys, duplicates, deletes, verify.
    """
    target = new_database()
    servers.migrate(target)
    sync = Sync(ListSource({"people": []}, size=40), target, {"key": KEY, "on_missing": "delete", "table": TABLE + "{stream}"})
    table = '"' + (TABLE + "people").replace('"', '""') + '"'
    rest = ', PRIMARY KEY ("r", "per%cent"), CHECK ("b" <> \'refused\'), UNIQUE ("%s")'
    sync.ask(f'{create(table, rest)}; ALTER TABLE {table} ALTER "c" TYPE int USING 1')

    def one(number: int, **more: Any) -> dict[str, Any]:
        values = dict.fromkeys(NAMES, "x") | {"c": str(number), "r": f"r{number}", "per%cent": "%", "%s": str(number)} | more
        return {"id": f"(r{number},%)", "values": values}

    columns = ", ".join(
        "(data #>> '{values,c}')::int AS \"c\""
        if name == "c"
        else f"data -> 'values' ->> '{name.replace(chr(39), chr(39) * 2)}' AS {quoted}"
        for name, quoted in zip(NAMES, QUOTED, strict=True)
    )
    sync.transform = f"SELECT {columns} FROM records WHERE key LIKE '%\\%)' AND 7 % 2 = 1"
    sync.source.streams["people"] = [one(i) for i in range(1, 31)]
    assert "30 0 0 0" == sync.ok()
    sync.source.streams["people"] = [
        one(1, w="changed"), *(one(i) for i in range(3, 25)), one(25, b="refused"), one(26, c="none"), one(27, **{"%s": "30"}),
        one(28, **{"per%cent": None}), one(29), one(29, t="later"), one(30),
    ]  # fmt: skip
    assert ["0", "2", "23", "1", "rejected", "4", "duplicates", "1"][:3] == [str(n) for n in done(sync.run())[1:4]]
    (report,) = steps.verify(sync.job, sync.context, VerifyOptions())
    assert (None, 0, 0) == (report.error, report.missing, report.different)
    assert {"check_violation", "invalid_text_representation", "unique_violation", "no_key"} == {
        reason for (reason,) in sync.ask("SELECT reason FROM usersync.rejects")
    }


def test_export(job: Job) -> None:
    """
    What is exported has the names as they are.
    """
    write(job)
    assert 0 == job.sync().exit_status
    result = job.usersync("export", f"odd.{TABLE}", "--format", "csv")

    assert 0 == result.status, result
    header, *rows = csv.reader(io.StringIO(result.stdout), delimiter=";")
    assert (60, set(NAMES)) == (len(rows), {name.replace("'--", "--") for name in header} - {"deleted_at"}), "no formula in a spreadsheet"
    lines = job.usersync("export", f"odd.{TABLE}", "--format", "jsonl").stdout.splitlines()
    assert set(NAMES) < set(json.loads(lines[0]))


@pytest.mark.parametrize("name", ["usersync_key", "usersync_ord", "usersync_is_new", "usersync_reason", "usersync_rank", "usersync_key_0"])
def test_names_of_ours_are_refused(job: Job, name: str) -> None:
    """
    The few names that our own SQL uses are told, before anything is written, by run and verify.
    """
    job.at_source(
        f"DELETE FROM people_at_source; ALTER TABLE people_at_source ADD {name} text; INSERT INTO people_at_source VALUES (1, 'a', 'b')"
    )
    job.at_target(f"CREATE TABLE people (id int PRIMARY KEY, name text, {name} text)")
    job.write()
    settings = loader.load(job.usersync.folder / "config.yaml")
    (report,) = steps.verify(settings.job("copy"), run_context(settings, settings.job("copy"), Stop()), VerifyOptions())

    for error in (job.sync().steps[0].error, report.error):
        assert f"column {name} has a name that usersync uses itself" in str(error)
    assert [] == job.at_target("SELECT * FROM people")
