"""The same value on both sides, whatever servers they are: each type that travels as bytes, at its edges, compared as text."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql

from tests import servers
from tests.conftest import Command, NewDatabase
from tests.simple_job import Job, execute
from usersync_cli.cli.bootstrap import run_context
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.config import loader
from usersync_cli.load import stage
from usersync_cli.model import Copy
from usersync_cli.report.verify import steps
from usersync_cli.report.verify.report import VerifyOptions, VerifyReport
from usersync_cli.signals import Stop

# What both versions have, with the values at the edges.
EDGES: dict[str, list[str]] = {
    "boolean": ["t", "f"],
    "smallint": ["-32768", "32767"],
    "integer": ["-2147483648", "2147483647"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "oid": ["0", "4294967295"],
    "real": ["NaN", "-Infinity", "1e-45", "3.4028235e+38", "-0"],
    "double precision": ["NaN", "Infinity", "5e-324", "1.7976931348623157e+308", "-0", "0.1"],
    "numeric": ["NaN", "Infinity", "-Infinity", "1e-1000", "12345678901234567890.10", "0.00"],
    "numeric(10,2)[]": ["{1.00,NULL,NaN}"],
    "date": ["-infinity", "4713-01-01 BC", "5874897-12-31", "0001-01-01"],
    "time without time zone": ["00:00:00", "24:00:00", "23:59:59.999999"],
    "time with time zone": ["24:00:00-15:59", "00:00:00+15:59"],
    "timestamp without time zone": ["infinity", "4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999"],
    "timestamp with time zone": ["-infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"],
    "interval": ["178000000 years -11 mons", "-1 mons +2 days -03:04:05.6", "00:00:00", "-00:00:00.000001"],
    "interval(2)": ["1 day 00:00:01.23"],
    "interval[]": ['{"1 mon",NULL,-00:00:01}'],
    "text": ["", r"\N", "a\tb\\\r\n'\"", "👩‍🚀 é", "NULL"],
    "text[]": [r'{NULL,"NULL","","a,b","\\"}', "{}", "[0:1]={a,b}"],
    "character(3)": ["a", "éé"],
    "character varying(3)": ["a  "],
    '"char"': ["x", ""],
    "name": ["n" * 63],
    "bytea": [r"\x", r"\x00ff5c"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "bit(3)": ["101"],
    "bit varying": ["", "1" * 65],
    "inet": ["::1/128", "10.1.2.3/8", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/0"],
    "cidr": ["0.0.0.0/0", "2001:db8::/32"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:ff:fe:01:02:03"],
    "json": ['{"a": 1, "a": 1.00}', "null"],
    "jsonb": ['{"a": 1.000000000000000000001, "\\u00e9": [null, "\\\\"]}', "1e1000"],
    "tsvector": ["'a':1A,16383 'b c'"],
    "tsquery": ["'a':*B & !( 'b' <2> 'c' )"],
    "int4range": ["empty", "(,)", "[1,2147483647)"],
    "numrange": ["[-Infinity,Infinity]", "(0.10,)"],
    "daterange": ["[-infinity,infinity)", "(,2026-01-01)"],
    "tstzrange": ['["2026-01-01 00:00:00+00",infinity)'],
    "int8multirange": ["{}", "{[1,2),[5,9223372036854775807)}"],
    "xid8": ["18446744073709551615"],
    "tid": ["(4294967295,65535)"],
}

SETTINGS = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; "


def between(request: pytest.FixtureRequest, usersync: Command, new_database: NewDatabase, source: str, target: str) -> Job:
    on = {"15": request.getfixturevalue("postgres15"), "18": request.getfixturevalue("server")}
    return Job(usersync, new_database("source crm", on=on[source]), new_database(on=on[target]))


@pytest.fixture(params=[("15", "18"), ("18", "15")], ids=["15 to 18", "18 to 15"])
def job(request: pytest.FixtureRequest, usersync: Command, new_database: NewDatabase) -> Job:
    return between(request, usersync, new_database, *request.param)


def verified(job: Job) -> VerifyReport:
    settings = loader.load(job.usersync.folder / "config.yaml")
    one = settings.job("copy")
    (report,) = steps.verify(one, run_context(settings, one, Stop()), VerifyOptions())
    return report


@pytest.mark.parametrize("through", ["copied whole", "transformed"])
def test_the_edges_of_each_type(job: Job, through: str) -> None:
    """
    Between the oldest and the newest version, either way, by COPY alone and through the stage: the same text on both sides,
    in a column of the same type; the next run changes nothing, and verify agrees.
    """
    rows = max(map(len, EDGES.values()))
    job.at_source(f"CREATE TABLE typed (id int PRIMARY KEY, {', '.join(f'c{i} {type_}' for i, type_ in enumerate(EDGES))})")
    for row in range(rows):
        values = [values[row] if row < len(values) else None for values in EDGES.values()]
        quoted = ", ".join("NULL" if value is None else "E'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" for value in values)
        job.at_source(f"INSERT INTO typed VALUES ({row}, {quoted})")
    job.write(extract={"table": "typed"}, transform="SELECT * FROM records" if through == "transformed" else None)
    first, second = job.sync().steps[0], job.sync().steps[0]
    types = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = '{}'::regclass AND attname ~ '^c[0-9]+$' ORDER BY 1"
    )
    shown = SETTINGS + "SELECT " + ", ".join(f"c{i}::text" for i in range(len(EDGES))) + " FROM {} ORDER BY id"

    assert (None, rows, rows) == (first.error or second.error, first.counts.inserted, second.counts.unchanged)
    assert job.at_source(types.format("typed")) == job.at_target(types.format("people"))
    assert job.at_source(shown.format("typed")) == job.at_target(shown.format("people"))
    assert (0, rows, 0) == ((report := verified(job)).differences, report.rows, report.exit_status), report


ODD = {
    ("18", "15"): ["infinity", "-infinity"],
    ("15", "18"): [
        "178956970 years 7 mons 2147483647 days 2562047788:00:54.775807",
    ],
}


@pytest.mark.parametrize(("source", "target"), list(ODD), ids=["18 to 15", "15 to 18"])
@pytest.mark.parametrize("type_", ["interval", "interval[]", "lasting"])
def test_an_interval_that_the_target_does_not_have(
    request: pytest.FixtureRequest, usersync: Command, new_database: NewDatabase, source: str, target: str, type_: str
) -> None:
    """
    Infinite intervals came with version 17, with bytes that were the longest one before: on the other side such a record is
    set aside, and never another value; the others are loaded. What is wrong in the table all the same, verify finds.
    """
    job = between(request, usersync, new_database, source, target)
    odd = ODD[source, target]
    shown = [f"ARRAY['{value}'::interval]" if "[]" in type_ else f"'{value}'::interval" for value in [*odd, "1 day"]]
    job.at_source("CREATE DOMAIN lasting AS interval; CREATE TABLE typed (id int PRIMARY KEY, lasts " + type_ + ")")
    for number, value in enumerate(shown):
        job.at_source(f"INSERT INTO typed VALUES ({number}, {value})")
    job.write(extract={"table": "typed"})
    result = job.sync()

    assert (3, len(odd), 1) == (result.exit_status, result.steps[0].counts.rejected, result.steps[0].counts.inserted)
    assert [("1 day" if "[]" not in type_ else '{"1 day"}',)] == job.at_target("SELECT lasts::text FROM people")
    assert (0, len(odd)) == ((report := verified(job)).exit_status, report.rejected), report
    job.at_target("UPDATE people SET lasts = NULL")
    assert 1 == verified(job).different


def test_verify_does_not_travel_like_a_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A run passes bytes on, verify text: a value that the one way changes is a difference on the other.
    """
    ways, copy = [], stage.copy

    def noted(tx: Connection, into: sql.Composable, content: Copy, moved: Any, *, freeze: bool = False) -> int:
        ways.append(content.format)
        return copy(tx, into, content, moved, freeze=freeze)

    monkeypatch.setattr(stage, "copy", noted)
    job.at_source("CREATE TABLE typed (id int PRIMARY KEY, name text); INSERT INTO typed VALUES (1, E'\\\\N\\t')")
    job.write(extract={"table": "typed"})

    assert (0, 0) == (job.sync().exit_status, verified(job).differences)
    assert ["binary", "text"] == ways


def test_money_is_read_as_the_number_that_it_means(job: Job) -> None:
    """
    The bytes of money count what lc_monetary says on each side: a source's money is read as numeric, and is money again
    where the target's column is.
    """
    job.at_source("CREATE TABLE typed (id int PRIMARY KEY, owes money, owed money[])")
    job.at_source("INSERT INTO typed VALUES (1, '-92233720368547758.08', ARRAY['1.50', NULL]::money[])")
    job.write(extract={"table": "typed"})
    first = job.sync()
    made = job.at_target("SELECT owes::text, pg_typeof(owes)::text, owed::text, pg_typeof(owed)::text FROM people")
    job.at_target("DROP TABLE people; CREATE TABLE people (id int PRIMARY KEY, owes money, owed numeric[])")
    second, third = job.sync(), job.sync()

    assert (0, 0) == (first.exit_status, second.exit_status)
    assert [("-92233720368547758.08", "numeric", "{1.50,NULL}", "numeric[]")] == made
    assert [("-92233720368547758.08",)] == job.at_target("SELECT owes::numeric::text FROM people")
    assert 1 == third.steps[0].counts.unchanged


@pytest.mark.parametrize(("value", "fits"), [("'abc'", True), (r"'\xfffe'", False)])
def test_a_source_without_an_encoding(
    usersync: Command, new_database: NewDatabase, server: servers.Server, value: str, *, fits: bool
) -> None:
    """
    What a SQL_ASCII database holds and is no UTF-8 is an error, never another text.
    """
    job = Job(usersync, new_database("source crm"), new_database())
    server.execute("CREATE DATABASE ascii ENCODING SQL_ASCII TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        execute(server.url("ascii"), f"CREATE TABLE typed AS SELECT 1 AS id, convert_from({value}::bytea, 'SQL_ASCII') AS name")
        job.write(extract={"table": "typed"}, source=server.url("ascii"))
        result = job.sync()
    finally:
        server.execute("DROP DATABASE ascii WITH (FORCE)")

    assert fits == (result.exit_status == 0), result
    assert [("abc",)] == job.at_target("SELECT name FROM people") if fits else result.exit_status in {3, 7}
