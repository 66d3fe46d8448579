"""The source `postgres` with the real command: what it reads, from which servers, and what it refuses (the three laws)."""

from __future__ import annotations

import json
import re
from typing import Any

import psycopg
import pytest

from tests import servers
from tests.conftest import Command, NewDatabase, Result
from tests.simple_job import READING, SLOW, Job, clean, execute, finished
from usersync_cli.state import migrations


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Job:
    return Job(usersync, new_database("source crm"), new_database())


def loads(job: Job, *arguments: str) -> dict[str, Any]:
    """The step of a run that ends well, as JSON."""
    result = job.run("--output", "json", *arguments)

    assert 0 == result.status, result
    (step,) = json.loads(result.stdout)["steps"]
    return dict(step)


def drifts(job: Job, *words: str, status: int = 7) -> Result:
    """A run that ends with 7 and says all of these words, and writes nothing."""
    before = _content(job)
    result = job.run()

    assert status == result.status, result
    for word in words:
        assert word in result.stderr, result.stderr
    assert before == _content(job)
    return result


def _content(job: Job) -> list[tuple[Any, ...]] | None:
    if job.at_target("SELECT to_regclass('people')") == [(None,)]:
        return None
    return job.at_target("SELECT p.*, p.xmin::text FROM people p ORDER BY id")


# what is read


def test_a_table_or_a_query(job: Job) -> None:
    """
    A table is all of its columns; a query is what it says. Both give the same target, so the second run changes nothing.
    """
    job.people("One", "Two")
    table = loads(job)
    job.write(extract={"query": "SELECT id, name FROM people_at_source"})
    query = loads(job)

    assert (2, 2, 0) == (table["read"], table["inserted"], table["unchanged"])
    assert (2, 0, 2) == (query["read"], query["inserted"], query["unchanged"])
    assert [(1, "One"), (2, "Two")] == job.loaded()


@pytest.mark.parametrize("query", ["SELECT id, name FROM people_at_source -- everybody", "SELECT id, name FROM people_at_source;\n",
                                   "WITH p AS (TABLE people_at_source) SELECT * FROM p ;  "])  # fmt: skip
def test_a_query_as_people_write_it(job: Job, query: str) -> None:
    """
    A comment or a semicolon at its end, or WITH at its beginning, do no harm.
    """
    job.people("One")
    job.write(extract={"query": query})

    assert 1 == loads(job)["inserted"]


def test_extracts_of_one_source_share_a_snapshot(job: Job) -> None:
    """
    What changes at the source while the first extract is read is not seen by the second: they are of one moment.
    """
    job.people("One", "Two", "Three")
    job.write(transform="SELECT a.id, a.name, (SELECT count(*) FROM b) AS count, b.name AS other FROM a JOIN b USING (id)")
    steps = job.document["jobs"]["copy"]["steps"]
    steps[0]["extract"] = {
        "a": {"source": "crm", "query": SLOW.replace("0.1", "0.5")},
        "b": {"source": "crm", "table": "people_at_source"},
    }
    job.save()
    with job.started() as process:
        job.wait_for("query LIKE 'COPY (SELECT%' AND wait_event = 'PgSleep'", at=job.source)
        job.at_source("DELETE FROM people_at_source WHERE id = 3; UPDATE people_at_source SET name = 'Test User Changed'")
        assert 0 == finished(process).status

    assert [(1, 3, "Test User One"), (2, 3, "Test User Two"), (3, 3, "Test User Three")] == job.at_target(
        "SELECT id, count, other FROM people ORDER BY id"
    )


TYPES = {
    "role": ("role", "text", "'admin'", "admin"),
    "roles": ("role[]", "text[]", "ARRAY['admin', 'guest']::role[]", "{admin,guest}"),
    "age": ("years", "integer", "17", "17"),
    "mail": ("citext", "text", "'A@Example.org'", "A@Example.org"),
    "mails": ("citext[]", "text[]", "ARRAY['A', NULL]::citext[]", "{A,NULL}"),
    "exact": ("numeric", "numeric", "12345678901234567.890", "12345678901234567.890"),
    "cents": ("numeric(30,3)", "numeric(30,3)", "12345678901234567.890", "12345678901234567.890"),
    "no_number": ("numeric", "numeric", "'NaN'", "NaN"),
    "no_double": ("float8", "double precision", "'-Infinity'", "-Infinity"),
    "third": ("float8", "double precision", "1::float8 / 3", "0.3333333333333333"),
    "raw": ("bytea", "bytea", r"'\x00ff01'", r"\x00ff01"),
    "ever": ("timestamptz", "timestamp with time zone", "'infinity'", "infinity"),
    "never": ("timestamp", "timestamp without time zone", "'-infinity'", "-infinity"),
    "before": ("date", "date", "'0044-03-15 BC'", "0044-03-15 BC"),
    "precise": ("timestamptz(3)", "timestamp(3) with time zone", "'2024-02-29 23:59:59.999+05:30'", "2024-02-29 18:29:59.999+00"),
    "empty": ("text", "text", "''", ""),
    "missing": ("text", "text", "NULL", None),
    "odd": ("text", "text", "E'\\x01\\t\\n\\\\.\\\\N'", "\x01\t\n\\.\\N"),
    "emoji": ("varchar(40)", "character varying(40)", "'👩‍🚀 e\u0301'", "👩‍🚀 e\u0301"),
    "padded": ("char(5)", "character(5)", "'ab'", "ab"),
    "document": ("jsonb", "jsonb", """'{"a": 1.000000000000000000001}'""", '{"a": 1.000000000000000000001}'),
    "address": ("inet", "inet", "'::1/128'", "::1/128"),
    "span": ("tstzrange", "tstzrange", "'[2024-01-01 00:00+00,)'", '["2024-01-01 00:00:00+00",)'),
    "bits": ("bit varying(8)", "bit varying(8)", "B'101'", "101"),
    "how_long": ("interval", "interval", "'1 mon 2 days 03:04:05.6'", "1 mon 2 days 03:04:05.6"),
}


def test_every_type_keeps_its_value(usersync: Command, new_database: NewDatabase, postgres15: servers.Server) -> None:
    """
    Values arrive as they are, to the last digit; types that the target may not have become text, arrays of them text[].
    A second run finds nothing changed.
    """
    job = Job(usersync, new_database("source crm", on=postgres15), new_database())
    columns = ", ".join(f"{name} {at_source}" for name, (at_source, *_) in TYPES.items())
    values = ", ".join(value for _, _, value, _ in TYPES.values())
    job.at_source(
        "CREATE EXTENSION citext; CREATE TYPE role AS ENUM ('guest', 'admin'); CREATE DOMAIN years AS integer CHECK (VALUE > 0);"
        f"CREATE TABLE typed (id uuid PRIMARY KEY, {columns}); INSERT INTO typed VALUES (gen_random_uuid(), {values})"
    )
    job.write(extract={"table": "typed"})
    first, second = loads(job), loads(job)
    types = job.at_target("SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'people'::regclass")
    shown = ", ".join(f"{name}::text" for name in TYPES)
    ((*found,),) = job.at_target(f"SET TimeZone = 'UTC'; SELECT {shown} FROM people")

    assert (1, 0, 1) == (first["inserted"], second["updated"], second["unchanged"])
    assert {name: type_ for name, (_, type_, _, _) in TYPES.items()} == {name: type_ for name, type_ in types if name in TYPES}
    assert {name: value for name, (_, _, _, value) in TYPES.items()} == dict(zip(TYPES, found, strict=True))


def test_a_source_that_is_not_utf8(job: Job, server: servers.Server) -> None:
    """
    A LATIN1 database is read through the server's own conversion.
    """
    server.execute("DROP DATABASE IF EXISTS latin")
    server.execute("CREATE DATABASE latin ENCODING LATIN1 TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        execute(server.url("latin"), "CREATE TABLE people_at_source AS SELECT 1 AS id, 'Test User ' || chr(233) AS name")
        job.write(source=server.url("latin"))
        loads(job)
    finally:
        server.execute("DROP DATABASE latin WITH (FORCE)")

    assert [(1, "é")] == job.loaded()


# from which servers


def test_postgres_15_on_either_side(job: Job, usersync: Command, new_database: NewDatabase, postgres15: servers.Server) -> None:
    """
    The oldest supported server is a source for the newest, and a target.
    """
    old = new_database("target", on=postgres15)
    migrations.upgrade(old)
    job.people("One", "Two")
    job.write(target=old.url, load={"table": "people_at_source"}, transform="SELECT * FROM records")
    first = loads(job)
    job.write(source=old.url)
    second = loads(job)

    assert (2, 2) == (first["inserted"], second["inserted"])
    assert [(1, "One"), (2, "Two")] == job.loaded()


def test_a_standby_and_a_role_that_may_only_read(job: Job, standby: servers.Server, server: servers.Server) -> None:
    """
    A replica is source enough, with a role that may SELECT the table and nothing else.
    """
    (name,) = job.at_source("SELECT current_database()")[0]
    job.people("One")
    job.at_source("CREATE ROLE reader LOGIN; GRANT SELECT ON people_at_source TO reader")
    job.at_source("ALTER ROLE reader SET default_transaction_read_only = on")
    try:
        standby.catch_up(server)
        job.write(source=standby.url(name).replace("postgres@", "reader@"))
        assert 1 == loads(job)["inserted"]
    finally:
        job.at_source("DROP OWNED BY reader; DROP ROLE reader")

    assert [(1, "One")] == job.loaded()


def test_through_a_pooler(job: Job, pgbouncer: servers.Server) -> None:
    """
    Source and target behind PgBouncer in transaction mode: created, changed, unchanged; nothing of ours stays in its sessions.
    """
    source, target = job.at_source("SELECT current_database()")[0][0], job.at_target("SELECT current_database()")[0][0]
    job.people("One", "Two")
    job.write(source=pgbouncer.url(source), target=pgbouncer.url(target))
    first = loads(job)
    job.people("One", "2")
    second, third = loads(job), loads(job)
    temp = job.at_target("SELECT relname FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'")
    with psycopg.connect(pgbouncer.url(target), prepare_threshold=None) as pooled:
        names = ("work_mem", "statement_timeout", "search_path")
        settings = [pooled.execute("SELECT current_setting(%s)", (name,)).fetchone() for name in names]

    assert (2, 1, 0) == (first["inserted"], second["updated"], third["updated"])
    assert [(1, "One"), (2, "2")] == job.loaded()
    assert [] == temp
    assert [("4MB",), ("0",), ('"$user", public',)] == settings


# what is refused


def test_row_security_is_an_error_and_not_a_shorter_list(job: Job) -> None:
    """
    A policy that would hide people from us: exit not 0, and nothing is loaded.
    """
    job.people("One", "Two")
    job.at_source(
        "ALTER TABLE people_at_source ENABLE ROW LEVEL SECURITY; CREATE ROLE half LOGIN; GRANT SELECT ON people_at_source TO half;"
        " CREATE POLICY half ON people_at_source TO half USING (id = 1)"
    )
    try:
        job.write(source=job.source.url.replace("postgres@", "half@"))
        result = job.run()
    finally:
        job.at_source("DROP POLICY half ON people_at_source; DROP OWNED BY half; DROP ROLE half")

    assert (2, None) == (result.status, _content(job))
    assert 'row-level security policy for table "people_at_source"' in result.stderr
    assert 'ALTER ROLE "half" BYPASSRLS;' in result.stderr


MISSING: list[tuple[dict[str, str], tuple[str, ...]]] = [
    ({"table": "nowhere"}, ("source crm: looking at table nowhere", 'relation "nowhere" does not exist')),
    ({"query": "SELECT id, email FROM people_at_source"}, ("looking at the query of extract records", 'column "email" does not exist')),
    ({"query": "SELECT id, id FROM people_at_source"}, ("has two columns named id", "name one of them with AS")),
    ({"query": "SELECT id, (1, 2) AS pair FROM people_at_source"}, ("pair",)),
]  # fmt: skip


@pytest.mark.parametrize(("extract", "words"), MISSING, ids=[next(iter(extract.values())) for extract, _ in MISSING])
def test_what_the_source_does_not_have(job: Job, extract: dict[str, str], words: tuple[str, ...]) -> None:
    """
    A missing table or column, or one name twice: exit 7, and the message names it.
    """
    job.people("One")
    loads(job)
    job.write(extract=dict(extract))

    drifts(job, *words)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT id, name FROM people_at_source WHERE", "(line 1, column 44): syntax error"),
        ("SELECT 1 AS id; SELECT 2 AS id", "several statements"),
    ],
)
def test_what_is_not_sql(job: Job, query: str, said: str) -> None:
    """
    A query that can't be parsed is a mistake of the config file: exit 2, nothing written.
    """
    job.people("One")
    loads(job)
    job.write(extract={"query": query})

    drifts(job, said, "fix the SQL in the config file", status=2)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id, name FROM add_one()",
        "SELECT id, name FROM people_at_source FOR UPDATE",
        "WITH w AS (DELETE FROM people_at_source RETURNING *) SELECT * FROM w",
        "SELECT setval('numbers', 7)::int AS id",
    ],
)
def test_a_query_that_writes_is_refused(job: Job, query: str) -> None:
    """
    A source is only read: whatever a query tries to write there, it is refused, and nothing happens on either side.
    """
    job.people("One")
    job.at_source(
        "CREATE SEQUENCE numbers; CREATE FUNCTION add_one() RETURNS SETOF people_at_source LANGUAGE sql AS"
        " $$INSERT INTO people_at_source VALUES (99, 'Test User Ninety-nine') RETURNING *$$"
    )
    job.write(extract={"query": query})
    result = job.run()

    assert result.status in {2, 7}, result
    assert _content(job) is None
    assert [(1, 1)] == job.at_source("SELECT count(*), (SELECT last_value FROM numbers) FROM people_at_source")


# a source that falls silent, breaks or is another one


def test_a_source_that_returns_nothing(job: Job) -> None:
    """
    An extract that had rows and is empty now: exit 7, nothing written, and the switch that accepts it once. Then it is the new normal.
    """
    job.people("One", "Two")
    loads(job)
    job.people()
    drifts(job, "extract records is empty; the last run read 2 rows; nothing was written", "--allow-empty")

    assert 0 == job.run("--dry-run", "--allow-empty").status
    drifts(job, "--allow-empty")
    assert 0 == loads(job, "--allow-empty")["read"]
    assert 0 == loads(job)["read"]
    assert [(1, "One"), (2, "Two")] == job.loaded()


def test_a_source_that_was_always_empty(job: Job) -> None:
    """
    A source without rows is fine as long as it never had any; the table is made all the same.
    """
    assert (0, 0) == (loads(job)["read"], loads(job)["read"])
    assert [] == job.loaded()


def test_half_of_a_source(job: Job) -> None:
    """
    Less than half of what was read before is loaded, with a warning; nobody is removed.
    """
    job.people("One", "Two", "Three", "Four", "Five")
    loads(job)
    job.people("1", "2")
    result = job.run("--log-format", "json")
    (warning,) = [event for event in map(json.loads, result.stderr.splitlines()) if event["level"] == "warning"]

    assert (0, "extract shrank to less than half", 2, 5) == (result.status, warning["event"], warning["rows"], warning["before"])
    assert [(1, "1"), (2, "2"), (3, "Three"), (4, "Four"), (5, "Five")] == job.loaded()


def test_a_view_that_lost_a_join(job: Job) -> None:
    """
    A view that gives nobody any more because a table that it joins was emptied is an empty source, not an empty world.
    """
    job.people("One")
    job.at_source("CREATE TABLE active AS SELECT id FROM people_at_source")
    job.at_source("CREATE VIEW members AS SELECT p.* FROM people_at_source p JOIN active USING (id)")
    job.write(extract={"table": "members"})
    loads(job)
    job.at_source("TRUNCATE active")

    drifts(job, "extract records is empty")


@pytest.mark.parametrize("transform", [None, "SELECT id, name FROM records"])
def test_an_error_on_the_last_row(job: Job, transform: str | None) -> None:
    """
    999 rows arrive and the 1,000th is an error: none of them is loaded, into an empty table as into one with rows.
    """
    job.at_source("INSERT INTO people_at_source SELECT g, 'Test User ' || g FROM generate_series(1, 1000) AS g")
    job.write(extract={"query": "SELECT id, name, 1 / (1000 - id) AS share FROM people_at_source ORDER BY id"}, transform=transform)
    drifts(job, "source crm: reading the query of extract records")
    job.write()
    loads(job)
    job.at_source("UPDATE people_at_source SET name = 'Test User Changed'")
    failing = "SELECT id, left(name, 20 / (1000 - id) + 20) AS name FROM people_at_source ORDER BY id"
    job.write(extract={"query": failing}, transform=transform)

    drifts(job, "source crm: reading the query of extract records")


def test_a_source_that_goes_away_in_the_middle(job: Job, proxy: servers.Proxy) -> None:
    """
    The source's connection is lost in the middle of its rows: exit 4, nothing written.
    """
    job.people(*["old"] * 100)
    job.write(extract={"query": SLOW}, source=proxy.url(job.at_source("SELECT current_database()")[0][0]))
    with job.started() as process:
        job.wait_for(READING)
        proxy.cut()
        result = finished(process)

    assert (4, None) == (result.status, _content(job)), result
    assert "source crm: " in result.stderr
    assert "the next run tries again" in result.stderr


def test_another_database(job: Job, new_database: NewDatabase) -> None:
    """
    A source whose URL leads to another database: exit 7 before a row is read; --accept-account takes it once and for all.
    """
    job.people("One")
    loads(job)
    other = new_database("source crm")
    execute(other.url, "CREATE TABLE people_at_source AS SELECT 1 AS id, 'Test User Other' AS name")
    job.write(source=other.url)
    drifts(job, "the rows in the target came from", "--accept-account")
    check = job.usersync("check")
    assert (7, True) == (check.status, "the rows in the target came from" in check.stdout)

    assert 1 == loads(job, "--accept-account")["updated"]
    assert 1 == loads(job)["unchanged"]


def test_another_server_with_a_database_of_the_same_name(job: Job, postgres15: servers.Server, server: servers.Server) -> None:
    """
    A dump that was restored elsewhere is another source, whatever its database is called: run, dry run, and check end with 7.
    """
    job.people("One", "Two")
    loads(job)
    (name,) = job.at_source("SELECT current_database()")[0]
    there = postgres15.execute(f"SELECT FROM pg_database WHERE datname = '{name}'")
    if not there:  # or another test has it
        postgres15.execute(f"CREATE DATABASE {name}")
    execute(postgres15.url(name), "CREATE TABLE people_at_source AS SELECT 1 AS id, 'Test User X' AS name")
    try:
        job.write(source=postgres15.url(name))
        drifts(job, f"source crm is {name} on server ", f"the rows in the target came from {name} on server ", "--accept-account")
        dry, check = job.run("--dry-run"), job.usersync("check")
        accepted = job.sync(accept_account=True)
    finally:
        execute(postgres15.url(name), "DROP TABLE people_at_source")
        if not there:
            postgres15.execute(f"DROP DATABASE {name} WITH (FORCE)")

    assert (7, 7, 0) == (dry.status, check.status, accepted.exit_status)


def test_a_standby_is_the_same_source(job: Job, standby: servers.Server, server: servers.Server, pgbouncer: servers.Server) -> None:
    """
    A standby, and a pooler before either, read the same people: no account is to be accepted.
    """
    job.people("One")
    loads(job)
    (name,) = job.at_source("SELECT current_database()")[0]
    standby.catch_up(server)
    statuses = []
    for url in (standby.url(name), pgbouncer.url(name)):
        job.write(source=url)
        statuses.append(job.sync().exit_status)

    assert [0, 0] == statuses


def test_an_account_from_before_servers_were_told_apart(job: Job) -> None:
    """
    Where only the database's name was written down, it is accepted, and replaced by what it is called now.
    """
    job.people("One")
    loads(job)
    (now,) = job.at_target("SELECT account FROM usersync.cursors")[0]
    (name,) = job.at_source("SELECT current_database()")[0]
    job.at_target(f"UPDATE usersync.cursors SET account = '{name}'")
    upgraded = job.sync()
    after = job.at_target("SELECT account FROM usersync.cursors")
    job.at_target("UPDATE usersync.cursors SET account = 'elsewhere'")

    assert (0, [(now,)], 7) == (upgraded.exit_status, after, job.sync().exit_status)
    assert re.fullmatch(f"{name} on server [0-9]+", now)


def test_a_service_that_does_not_say_which_server_it_is(job: Job) -> None:
    """
    Where a role may not ask, the database's name has to do; a right that is taken away later is an unknown server, told with the GRANT.
    """
    job.people("One")
    job.at_source("CREATE ROLE kept_out LOGIN; GRANT SELECT ON people_at_source TO kept_out")
    job.write(source=job.source.url.replace("postgres@", "kept_out@"))
    known = job.sync()
    job.at_source("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    try:
        taken = job.run()
        accepted, again = job.sync(accept_account=True), job.sync()
    finally:
        job.at_source("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC; DROP OWNED BY kept_out; DROP ROLE kept_out")

    assert [0, 7, 0, 0] == [known.exit_status, taken.status, accepted.exit_status, again.exit_status]
    assert "GRANT EXECUTE ON FUNCTION pg_control_system()" in taken.stderr


def test_check_writes_nothing_to_a_source(job: Job) -> None:
    """
    Looking at a query's columns does not run it: `check` of a query that would take an hour is quick.
    """
    job.write(extract={"query": "SELECT id, name FROM people_at_source WHERE pg_sleep(3600) IS NOT NULL"})
    job.people("One")

    assert 0 == clean(job.usersync("check", "--job", "copy", timeout=30)).status


def test_quiet_runs_tell_what_comes_once(job: Job) -> None:
    """
    With -q a warning that will not come again is told, in plain words; the next quiet run says nothing.
    """
    job.people(*("One", "Two", "Three", "Four", "Five"))
    loads(job)
    job.at_source("DELETE FROM people_at_source WHERE id > 2")
    shrunk, after = job.run("-q"), job.run("-q")

    assert (0, "", "usersync: extract shrank to less than half (step people, extract records, rows 2, before 5)\n") == (
        shrunk.status, shrunk.stdout, shrunk.stderr)  # fmt: skip
    assert (0, "", "") == (after.status, after.stdout, after.stderr)
