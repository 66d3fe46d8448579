"""Whose names mean what: our SQL finds PostgreSQL's own alone, a person's SQL what their role finds, and nobody our schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests import servers
from tests.conftest import Command
from tests.list_source import ListSource, Sync, people
from tests.simple_job import Job
from usersync_cli.cli.bootstrap import run_context
from usersync_cli.clients.postgres import catalog
from usersync_cli.clients.postgres.connections import connect
from usersync_cli.clients.postgres.transactions import transaction
from usersync_cli.config.loader import load as load_config
from usersync_cli.load.table.fit import misplaced
from usersync_cli.model import Database
from usersync_cli.report import check
from usersync_cli.report.verify import steps
from usersync_cli.report.verify.report import VerifyOptions
from usersync_cli.signals import Stop

NewDatabase = Callable[..., Database]


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase) -> Job:
    job = Job(usersync, new_database("source crm"), new_database())
    job.people("One", "Two")
    return job


def outcomes(job: Job) -> tuple[int, int, int, int, str]:
    """Exit statuses of run, dry run, verify and check, and what the run said."""
    settings = load_config(job.usersync.folder / "config.yaml")
    configured = settings.job("copy")
    ran, tried = job.sync(), job.sync(dry_run=True)
    (report,) = steps.verify(configured, run_context(settings, configured, Stop()), VerifyOptions())
    found = [one for one in check.check(configured, run_context(settings, configured, Stop())) if one.error]
    findings = [one.error for one in found if one.error]
    error = ran.steps[0].error
    assert {"people"} == {one.step for one in found}
    said = f"{error.message} | {error.hint}" if error else ""
    return ran.exit_status, tried.exit_status, report.exit_status, max([one.status for one in findings], default=0), said


# a transform is one SELECT over its extracts


ODD_SQL: list[tuple[dict[str, Any], str]] = [
    (
        {"transform": "SELECT id, name FROM records) AS v; COMMIT; DROP TABLE bait; SELECT * FROM (SELECT 1"},
        "transform (line 1, column 29)",
    ),
    ({"transform": "SELECT id, name\nFROM records; DROP TABLE bait"}, "transform"),
    ({"transform": "WITH gone AS (DELETE FROM bait RETURNING id) SELECT r.id, r.name FROM records r, gone"}, "transform"),
    ({"transform": "SELECT id, name INTO made FROM records"}, "transform"),
    ({"transform": "DROP TABLE bait"}, "transform (line 1, column 1)"),
    ({"load": {"order_by": "id) AS w; COMMIT; DROP TABLE bait; SELECT * FROM (SELECT 1"}}, "load.order_by (line 1, column 3)"),
    ({"load": {"order_by": "id LIMIT 1"}}, "load.order_by (line 1, column 4)"),
    ({"load": {"order_by": "id; DROP TABLE bait"}}, "load.order_by"),
    ({"extract": {"query": "SELECT 1 AS id) AS q; COMMIT; DROP TABLE bait; SELECT * FROM (SELECT 1"}}, "(line 1, column 15)"),
    ({"extract": {"query": "SELECT 1 AS id; DROP TABLE bait"}}, "query of extract records"),
    ({"extract": {"query": "WITH g AS (DELETE FROM bait RETURNING id) SELECT id, '' AS name FROM g"}}, "query of extract records"),
]  # fmt: skip


def test_only_one_select_is_executed(job: Job) -> None:
    """
    Text that closes our bracket, several statements, a SELECT that writes: 2, with step and place, and nothing of it has run.
    """
    for execute in (job.at_source, job.at_target):
        execute("CREATE TABLE bait (id int); INSERT INTO bait VALUES (1)")
    job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text)")
    for step, where in ODD_SQL:
        job.write(**step)
        *statuses, said = outcomes(job)

        assert [2, 2, 2, 2] == statuses, (step, said)
        assert where in said, (step, said)
        assert [(1,)] == job.at_source("SELECT id FROM bait") == job.at_target("SELECT id FROM bait")


OTHER = "the target's own table public.other"


TRANSFORMS: list[tuple[str, list[str], str]] = [
    ("SELECT id, name FROM other", [], f"does not read the extract records; it reads {OTHER} instead"),
    ("SELECT id, name FROM other", ["other"], "does not read the extract records"),
    ("SELECT o.id, o.name FROM other o JOIN records USING (id)", [], f"reads {OTHER}, which the step does not name"),
    ("SELECT o.id, o.name FROM other o JOIN records USING (id)", ["other"], ""),
    ("SELECT o.id, o.name FROM seen_people o JOIN records USING (id)", ["other"], "public.seen_people, which the step"),
    ("SELECT o.id, o.name FROM seen_people o JOIN records USING (id)", ["public.seen_people"], ""),
    ("WITH records AS (SELECT * FROM other) SELECT id, name FROM records", ["other"], "does not read the extract records"),
    ("WITH unused AS (SELECT * FROM records) SELECT id, name FROM other", ["other"], "does not read the extract records"),
    ("WITH a AS (SELECT * FROM records), b AS (SELECT * FROM a) SELECT id, name FROM other", ["other"], "does not read"),
    ("WITH unused AS (SELECT 1), a AS (SELECT * FROM records) SELECT id, name FROM a", [], ""),
    ("SELECT 1 AS id, (SELECT max(name) FROM records) AS name", [], ""),
    ("SELECT id, name FROM public.records", ["public.records"], "does not read the extract records"),
    ("SELECT * FROM all_other()", [], "does not read the extract records"),
    ("SELECT id, shout(name) AS name FROM records", [], ""),
    ("VALUES (1, 'x')", [], "does not read the extract records"),
    ("SELECT i AS id, 'x' AS name FROM unnest(ARRAY[1, 2]) AS i", [], "does not read the extract records"),
    ("SELECT id, pg_catalog.lower(name) AS name FROM records, pg_catalog.pg_class WHERE relname = 'pg_class'", [], ""),
    ("SELECT r.id, l.job AS name FROM records r, usersync.job_locks l", [], "schema usersync is usersync's own"),
]  # fmt: skip


def test_a_transform_reads_its_extracts(job: Job) -> None:
    """
    Each extract, whatever the text looks like, and of the target what the step names; big stages, which are no temp tables, too.
    """
    job.at_target(
        "CREATE TABLE other AS SELECT 1 AS id, 'other' AS name; CREATE TABLE public.records AS TABLE other;"
        " CREATE VIEW seen_people AS TABLE other;"
        " CREATE FUNCTION all_other() RETURNS SETOF other LANGUAGE sql AS 'SELECT * FROM other';"
        " CREATE FUNCTION shout(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN loud($1); END';"
        " CREATE FUNCTION loud(text) RETURNS text LANGUAGE sql AS 'SELECT pg_catalog.upper($1)';"
        " CREATE TABLE people (id int PRIMARY KEY, name text)"
    )
    for big in (False, True):
        for transform, reads, said in TRANSFORMS:
            job.write(transform=transform)
            job.document["jobs"]["copy"]["steps"][0]["reads"] = reads
            job.save()
            result = job.sync()
            error = result.steps[0].error

            assert (2 if said else 0) == result.exit_status, (transform, error)
            assert said in (error.message if error else ""), (transform, error)
        if not big:
            job.at_target("UPDATE usersync.cursors SET rows = 100000")
    assert [] == job.at_target("SELECT relname FROM pg_class WHERE relname LIKE 'usersync_transform%'")


def test_documents_are_read_too(database: Database) -> None:
    """
    The same for pages of documents, in runs, dry runs, verify and check.
    """
    servers.migrate(database)
    sync = Sync(ListSource({"people": people(1, 2)}), database, transform="SELECT key::int AS id, 'x' AS name FROM other")
    sync.ask("CREATE TABLE other AS SELECT '1' AS key; CREATE TABLE people (id int PRIMARY KEY, name text)")
    ran, tried = sync.run(), sync.run(dry_run=True)
    (report,) = steps.verify(sync.job, sync.context, VerifyOptions())
    found = [one.error for one in check.check(sync.job, sync.context) if one.error]

    assert [2, 2, 2, 2] == [ran.exit_status, tried.exit_status, report.exit_status, found[0].status]
    assert "the transform does not read the extract records; it reads the target's own table public.other" in found[0].message
    assert [] == sync.rows()


def test_functions_of_theirs_find_their_names(job: Job) -> None:
    """
    What a trigger, a CHECK, a transform or a view calls looks names up along the role's own path, as it does for any client.
    """
    job.at_target(
        "CREATE TABLE audit (id int);"
        " CREATE FUNCTION loud(text) RETURNS text LANGUAGE sql AS 'SELECT upper($1)';"
        " CREATE FUNCTION shout(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN loud($1); END';"
        " CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NEW; END';"
        " CREATE TABLE people (id int PRIMARY KEY, name text CHECK (shout(name) = name));"
        " CREATE TRIGGER note AFTER INSERT OR UPDATE ON people FOR EACH ROW EXECUTE FUNCTION note();"
        " CREATE VIEW loud_people AS SELECT id, shout(name) AS name FROM people"
    )
    job.write(transform="SELECT id, shout(name) AS name FROM records", load={"order_by": "shout(name)"})
    first = job.sync()
    job.people("One", "Three")
    second = job.sync()
    exported = job.usersync("export", "loud_people")

    assert [0, 0] == [first.exit_status, second.exit_status], second.steps[0].error
    assert [(1,), (2,), (2,)] == job.at_target("SELECT id FROM audit ORDER BY id")
    assert "2;TEST USER THREE" in exported.stdout
    assert 0 == job.usersync("verify", "--job", "copy").status


# our schema is nobody's


def test_a_role_called_usersync(usersync: Command, new_database: NewDatabase) -> None:
    """
    "$user" of its search path is our schema: its tables are made and found elsewhere, and what was made there by mistake can be moved.
    """
    source, target = new_database("source crm"), new_database()
    with psycopg.connect(target.url, autocommit=True) as admin:
        admin.execute("DO $$BEGIN CREATE ROLE usersync LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
        admin.execute(f"GRANT CREATE ON DATABASE {admin.info.dbname} TO usersync; GRANT CREATE ON SCHEMA public TO usersync".encode())
    job = Job(usersync, source, target, migrated=False)
    job.people("One", "Two")
    job.write(target=target.url.replace("postgres@", "usersync@"))
    told = []
    for table in ("people", "accounts"):
        job.document["jobs"]["copy"]["steps"][0]["load"]["table"] = table
        job.save()
        told.append(job.usersync("check", "--job", "copy").stdout)
        assert [0, 0] == [job.sync().exit_status, job.sync().exit_status]

    assert 'step people: "public"."people" will be created' in told[0]
    assert 'step people: "public"."accounts" will be created' in told[1]
    assert [("accounts",), ("people",)] == job.at_target("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    assert 0 == job.usersync("export", "people").status

    job.document["jobs"]["copy"]["steps"][0]["load"]["table"] = "people"
    job.save()
    job.at_target("ALTER TABLE public.people SET SCHEMA usersync")
    stranded = job.sync()
    error = stranded.steps[0].error
    assert (7, 'move it: ALTER TABLE "usersync"."people" SET SCHEMA "public";') == (stranded.exit_status, error.hint if error else "")
    job.at_target("CREATE TABLE public.people AS TABLE usersync.people; ALTER TABLE public.people ADD PRIMARY KEY (id)")
    job.at_target("ALTER TABLE public.people OWNER TO usersync")
    assert 'DROP TABLE "usersync"."people";' in job.usersync("check", "--job", "copy").stdout
    job.at_target("DROP OWNED BY usersync; DROP SCHEMA IF EXISTS usersync CASCADE; DROP ROLE usersync")


@pytest.mark.parametrize(
    "change", [{"load": {"table": "usersync.tokens", "key": ["id"]}}, {"reads": ["usersync.seen"], "transform": "SELECT 1"}]
)
def test_our_schema_is_no_target(job: Job, change: dict[str, Any]) -> None:
    """
    A table of the schema usersync is refused where the config is read, as a target and as something to read.
    """
    job.document["jobs"]["copy"]["steps"][0].update(change)
    job.save()
    result = job.usersync("config", "validate")

    assert 2 == result.status
    assert "the schema usersync holds usersync's own tables" in result.stderr


def test_our_own_tables_are_not_taken_for_theirs(job: Job, database: Database) -> None:
    """
    A table of theirs may be called like one of ours; nobody is told to move or drop ours.
    """
    settings = load_config(job.usersync.folder / "config.yaml").job("copy").steps[0].load
    with connect(job.target, job="test") as connection, transaction(connection):
        names = [str(name) for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'usersync'").fetchall()]
        columns = {name: set(table.columns) for name in names if (table := catalog.describe(connection, f"usersync.{name}"))}
        told = [
            misplaced(connection, settings.model_copy(update={"table": name, "key": [column]}))  # type: ignore[union-attr, arg-type]
            for name in names
            for column in columns[name]
        ]

    assert len(names) > 10
    assert {""} == set(told)


def test_who_else_may_create(job: Job, database: Database) -> None:
    """
    check warns of PUBLIC and of roles that have nothing to do with us, at target and sources; it ends with 0 all the same.
    """
    job.at_target("DO $$BEGIN CREATE ROLE mallory; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
    job.at_target("GRANT CREATE ON SCHEMA public TO mallory; CREATE SCHEMA aside; GRANT CREATE ON SCHEMA aside TO PUBLIC")
    job.at_source("GRANT CREATE ON SCHEMA public TO PUBLIC")
    result = job.usersync("check", "--job", "copy")
    job.at_target("REVOKE CREATE ON SCHEMA public FROM mallory; GRANT mallory TO postgres")
    job.at_target("GRANT CREATE ON SCHEMA public TO mallory")
    member = job.usersync("check", "--job", "copy", "--output", "json")
    job.at_target("DROP OWNED BY mallory; DROP ROLE mallory")
    warned = [line for line in result.stdout.splitlines() if line.startswith("warn")]

    assert (0, 2) == (result.status, len(warned)), result.stdout
    assert "warn copy: target: mallory may create objects in schema public, which is in the search path" == warned[0]
    assert "warn copy: step people: source crm: PUBLIC may create objects in schema public, which is in the search path" == warned[1]
    advice = [one["what"] for one in json.loads(member.stdout)["findings"] if one["advice"]]
    assert ["step people: source crm: PUBLIC may create objects in schema public, which is in the search path"] == advice


# whatever stands in other schemas

TYPES = ["text", "varchar", "bpchar", "name", "int2", "int4", "int8", "numeric", "bool", "uuid", "timestamptz", "timestamp", "interval",
         "jsonb", "json", "oid", "bytea", "regclass", "text[]", "varchar[]", "int4[]", "name[]", "public.mood", "public.pair",
         "public.mood[]"]  # fmt: skip
PLANT = """
SET search_path = pg_catalog;
CREATE TYPE public.mood AS ENUM ('glad', 'sad');
CREATE TYPE public.pair AS (a int, b varchar);
CREATE SEQUENCE public.hostile;
CREATE FUNCTION public.hostile_called() RETURNS boolean LANGUAGE plpgsql AS
    $$BEGIN PERFORM pg_catalog.nextval('public.hostile'); RAISE 'a hostile function was called'; END$$;
DO $plant$
DECLARE one record; arguments text; body text := $$BEGIN PERFORM public.hostile_called(); END$$; number int := 0;
BEGIN
    SET LOCAL client_min_messages = error;
    FOR one IN SELECT DISTINCT o.oprname, l.t AS l, r.t AS r FROM pg_operator o
                 CROSS JOIN unnest(%(types)s::text[]) l(t) CROSS JOIN unnest(%(types)s::text[]) r(t)
                WHERE o.oprname IN ('=', '<>', '<', '>', '<=', '>=', '||', '+', '-', '~', '!~', '~~', '!~*', '->>')
                  AND (l.t = r.t OR (l.t IN ('text', 'varchar', 'name', 'bpchar') AND r.t IN ('text', 'varchar', 'name', 'bpchar'))
                       OR (l.t IN ('int2', 'int4', 'int8', 'oid', 'regclass') AND r.t IN ('int2', 'int4', 'int8', 'oid', 'regclass'))
                       OR (l.t, r.t) IN (('text[]', 'text'), ('jsonb', 'text'), ('json', 'text'), ('timestamptz', 'interval')))
    LOOP
        number := number + 1;
        EXECUTE format('CREATE FUNCTION public.hostile_%%s(%%s, %%s) RETURNS %%s LANGUAGE plpgsql AS %%L', number, one.l, one.r,
                       CASE WHEN one.oprname IN ('||', '+', '-', '->>') THEN one.l ELSE 'boolean' END, body);
        EXECUTE format('CREATE OPERATOR public.%%s (LEFTARG = %%s, RIGHTARG = %%s, FUNCTION = public.hostile_%%s)',
                       one.oprname, one.l, one.r, number);
    END LOOP;
    FOR one IN SELECT DISTINCT p.proname, p.prokind, t.t AS t, p.proargtypes, p.pronargs, p.provariadic <> 0 AS variadic
                 FROM pg_proc p CROSS JOIN unnest(%(types)s::text[]) t(t)
                WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY (%(names)s::text[])
    LOOP
        SELECT string_agg(CASE WHEN y.typtype = 'p' THEN one.t ELSE y.oid::regtype::text END, ', ' ORDER BY a.i) INTO arguments
          FROM unnest(one.proargtypes) WITH ORDINALITY a(oid, i) JOIN pg_type y ON y.oid = a.oid;
        BEGIN
            IF one.prokind = 'a' THEN
                EXECUTE format('CREATE FUNCTION public.hostile_state(bigint, %%s) RETURNS bigint LANGUAGE plpgsql AS %%L', one.t, body);
                EXECUTE format('CREATE AGGREGATE public.%%I(%%s) (SFUNC = public.hostile_state, STYPE = bigint)', one.proname, one.t);
            ELSE
                EXECUTE format('CREATE FUNCTION public.%%I(%%s) RETURNS bigint LANGUAGE plpgsql AS %%L', one.proname,
                               COALESCE(arguments, ''), body);
            END IF;
        EXCEPTION WHEN duplicate_function OR datatype_mismatch OR invalid_function_definition THEN
            IF one.prokind = 'a' THEN
                BEGIN
                    EXECUTE format('CREATE AGGREGATE public.%%I(%%s) (SFUNC = public.hostile_state, STYPE = bigint)', one.proname, one.t);
                EXCEPTION WHEN duplicate_function OR invalid_function_definition THEN NULL;
                END;
            END IF;
        END;
    END LOOP;
    -- last, because from here on a name means it where public comes first
    FOREACH arguments IN ARRAY ARRAY['text', 'uuid', 'jsonb', 'bytea', 'name', 'regclass', 'oid', 'int8', 'void'] LOOP
        IF arguments <> 'void' THEN
            EXECUTE format('CREATE DOMAIN public.%%I AS pg_catalog.%%I CHECK (public.hostile_called())', arguments, arguments);
        END IF;
    END LOOP;
    EXECUTE format('ALTER DATABASE %%I SET search_path = public, pg_catalog', current_database());
END $plant$;
"""
NAMES = """
    count sum min max array_agg string_agg bool_or now clock_timestamp unnest length octet_length substr lower btrim rtrim encode sha256 md5
    random concat concat_ws format quote_ident to_jsonb row_to_json json_build_object jsonb_build_object convert_to hashtextextended
    num_nulls num_nonnulls set_config current_setting current_database current_schemas pg_backend_pid generate_series cardinality
    row_number rank setval nextval to_regclass to_regnamespace to_regprocedure has_table_privilege has_schema_privilege pg_sleep
    has_database_privilege format_type pg_get_expr aclexplode gen_random_uuid translate regexp_replace jsonb_typeof timezone
    pg_advisory_xact_lock pg_current_xact_id pg_terminate_backend row_security_active pg_relation_size pg_total_relation_size
    version current_schema pg_table_size array_to_string coalesce
""".split()  # noqa: SIM905
PERSON = "id varchar PRIMARY KEY, name varchar, mood text, tags text[], numbers int[], at timestamptz, facts jsonb"
TABLE = "id varchar PRIMARY KEY, name varchar UNIQUE, mood public.mood, tags varchar[], numbers int[], at timestamptz, facts jsonb,"
ROWS = "('{0}', 'Test User {0}', 'glad', '{{a,b}}', '{{1,2}}', '2024-01-01', '{{}}')"


def plant(database: Database) -> None:
    """Everything that could be meant instead of PostgreSQL's own; and names are looked for there first."""
    with psycopg.Connection.connect(database.url, autocommit=True, cursor_factory=psycopg.ClientCursor) as admin:
        admin.execute(PLANT, {"types": TYPES, "names": NAMES})


def test_nothing_of_other_schemas_is_called(usersync: Command, new_database: NewDatabase) -> None:
    """
    Operators, functions, aggregates and types of public, for every type at hand and ahead of PostgreSQL's own in the search path:
    no command calls any of them, on the target or at the source.
    """
    source, target = new_database("source crm"), new_database()
    job = Job(usersync, source, target, migrated=False)
    job.at_source("DROP TABLE people_at_source")
    for database in (source, target):
        plant(database)
    safe = {"options": "-c search_path=pg_catalog"}

    def sql(database: Database, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.Connection.connect(database.url, autocommit=True, **safe) as admin:
            cursor = admin.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def at_source(*numbers: int) -> None:
        values = ", ".join(ROWS.format(number) for number in numbers)
        sql(source, f"DELETE FROM public.people_at_source; INSERT INTO public.people_at_source VALUES {values}")

    def ok(*arguments: str, status: int = 0, **variables: str) -> str:
        result = usersync(*arguments, **variables)
        assert status == result.status, f"{arguments}: {result.stdout}{result.stderr}"
        return result.stdout

    sql(source, f"CREATE TABLE public.people_at_source ({PERSON})")
    at_source(*range(1, 31))
    stamps = "inserted_at timestamptz NOT NULL, updated_at timestamp(0) NOT NULL, deleted_at timestamptz"
    sql(target, f"CREATE TABLE public.people ({TABLE} {stamps}); CREATE TABLE public.docs (id varchar PRIMARY KEY, data jsonb)")
    transform = "SELECT id, name, mood, tags, numbers, at, facts FROM records"
    job.write(transform=transform, load={"create": False, "on_missing": "mark", "order_by": "at DESC"})
    lines = [json.dumps({"id": f"k{i}", "name": "Test User", "at": f"2024-01-0{i}T00:00:00Z"}) for i in range(1, 8)]
    (usersync.folder / "docs.jsonl").write_text("\n".join(lines) + "\n")
    job.document["sources"]["file"] = {"type": "file", "streams": {"docs": {"path": "docs.jsonl", "key": "id", "version": "at"}}}
    load = {"table": "docs", "key": ["id"], "on_missing": "delete"}
    job.document["jobs"]["copy"]["steps"].append({"name": "docs", "extract": {"source": "file", "streams": ["docs"]}, "load": load})
    made = {"table": "made", "key": ["id"], "create": True, "on_missing": "delete"}
    job.document["jobs"]["copy"]["steps"].append({"name": "made", "extract": {"source": "crm", "table": "people_at_source"}, "load": made})
    job.document["jobs"]["copy"]["schedule"] = "0 0 1 1 *"
    job.save()

    ok("check", "--job", "copy")
    ok("run", "--job", "copy")  # with the migration
    at_source(*range(2, 33))
    sql(source, "UPDATE public.people_at_source SET name = 'Test User 6' WHERE id = '5'; UPDATE public.people_at_source SET name = NULL"
                " WHERE id = '6'; UPDATE public.people_at_source SET mood = 'angry' WHERE id = '7'")  # fmt: skip
    (usersync.folder / "docs.jsonl").write_text("\n".join([*lines[1:], lines[3].replace("User", "Person")]) + "\n")
    ok("run", "--job", "copy", "--dry-run", "--diff", status=3)
    assert 3 == job.sync(full=True).exit_status
    assert "7" in ok("rejects", "list")
    ok("verify", "--job", "copy", status=0)
    assert 3 == job.sync().exit_status
    ok("rejects", "retry", "--all", "--job", "copy", status=3)
    at_source(40, 41, 42)
    refused = job.sync()
    assert (6, 0) == (refused.exit_status, job.sync(approve_deletes=refused.run_id).exit_status)
    for arguments in (("status", "--job", "copy"), ("approvals", "list"), ("export", "people"), ("export", "docs", "--format", "jsonl")):
        ok(*arguments)
    assert usersync("health").status != 1
    called = [sql(database, "SELECT is_called FROM public.hostile") for database in (source, target)]

    assert [[(False,)], [(False,)]] == called
    assert [(3, 35)] == sql(target, "SELECT count(*) FILTER (WHERE deleted_at IS NULL), count(*) FROM public.people")
