"""What a server, a database or a role is set to decides nothing: each of our transactions says what it needs."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from tests import servers
from tests.conftest import Command, NewDatabase
from tests.simple_job import Job, clean
from usersync_cli.clients.postgres import connections
from usersync_cli.model import Database
from usersync_cli.state import migrations

ODD = {
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kolkata",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "xmloption": "document",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "150",
    "lock_timeout": "150",
    "idle_in_transaction_session_timeout": "150",
    "transaction_timeout": "150",
    "enable_hashjoin": "off",
    "enable_indexscan": "off",
    "check_function_bodies": "off",
    "row_security": "off",
    "quote_all_identifiers": "on",
    "client_min_messages": "debug1",
}
# What would be another value as text, or in another zone.
VALUES = r"""
    SELECT 1 AS id, 'Test User O''Neil \n' AS name, '2026-02-03'::date AS born, '2026-02-03 04:05:06+00'::timestamptz AS at,
           '1 mon -2 days'::interval AS span, 0.1::float8 AS share, '\x00ff'::bytea AS raw, ARRAY['a', NULL] AS tags,
           ROW('2026-02-03'::date, 0.1::float8) AS pair, NULL::int AS nothing
      FROM pg_sleep(0.2)
"""
FOUND = "SELECT name, born::text, at::text, span::text, share::text, raw::text, tags::text, pair, nothing FROM public.people"
RIGHT = (
    r"Test User O'Neil \n", "2026-02-03", "2026-02-03 04:05:06+00", "1 mon -2 days", "0.1", r"\x00ff", "{a,NULL}",
    "(2026-02-03,0.1)", None,
)  # fmt: skip


def odd(database: Database, on: servers.Server, **more: str) -> None:
    """Set all of it for everybody who connects to this database from now on."""
    name = database.url.split("/")[3].split("?")[0]
    known = {row[0] for row in on.execute("SELECT lower(name) FROM pg_settings")}
    for setting, value in {**ODD, **more}.items():
        if setting.lower() in known:
            on.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")


@pytest.fixture
def job(usersync: Command, new_database: NewDatabase, server: servers.Server) -> Job:
    return Job(usersync, new_database("source crm"), new_database())


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
def test_no_setting_decides(job: Job, server: servers.Server, pgbouncer: servers.Server, *, pooled: bool) -> None:
    """
    With every setting of both databases as odd as it can be, a run loads the same values, the next one changes nothing, and
    verify, status and check work.
    """
    job.write(extract={"query": VALUES}, load={"on_missing": "mark"})
    if pooled:
        source, target = (one.url.split("/")[3].split("?")[0] for one in (job.source, job.target))
        job.write(extract={"query": VALUES}, load={"on_missing": "mark"}, source=pgbouncer.url(source), target=pgbouncer.url(target))
    for database in (job.source, job.target):
        odd(database, server)
    first, second = job.sync(), job.sync()
    commands = [clean(job.usersync(*words)) for words in (["verify", "--job", "copy"], ["status"], ["check"])]

    assert [(0, 1, 0), (0, 0, 1)] == [(r.exit_status, r.steps[0].counts.inserted, r.steps[0].counts.unchanged) for r in (first, second)]
    with connections.connect(job.target, job="test") as connection:
        assert [RIGHT] == connection.execute(FOUND).fetchall()
    assert [0, 0, 0] == [result.status for result in commands], commands


def test_a_statement_alone_is_a_transaction_like_any_other(new_database: NewDatabase, server: servers.Server) -> None:
    """
    Also in autocommit: READ COMMITTED and our settings; nothing of it stays in the session.
    """
    database = new_database()
    odd(database, server, default_transaction_isolation="repeatable read")
    query = "SELECT current_setting('transaction_isolation'), current_setting('DateStyle'), current_setting('statement_timeout')"
    times = "SELECT '2026-02-01 04:05:06+01'::timestamptz, '2026-02-01'::date, '2026-02-01 04:05:06'::timestamp, '1 day -2 h'::interval"
    with connections.connect(database, job="test") as connection:
        inside = connection.execute(query).fetchone() or ()
        read = connection.execute(times).fetchone() or ()
        after = psycopg.Cursor(connection).execute("SHOW DateStyle").fetchone()
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT * FROM missing")
        assert psycopg.pq.TransactionStatus.IDLE == connection.info.transaction_status

    assert ("read committed", "ISO, MDY", "30s") == inside
    assert (datetime(2026, 2, 1, 3, 5, 6, tzinfo=UTC), date(2026, 2, 1), datetime(2026, 2, 1, 4, 5, 6), timedelta(hours=22)) == read  # noqa: DTZ001
    assert UTC is read[0].tzinfo
    assert ("German, DMY",) == after


def test_the_first_run_makes_its_tables_under_any_settings(new_database: NewDatabase, server: servers.Server) -> None:
    """
    Migrations are no exception: they begin, and set what they need, as every other transaction.
    """
    database = new_database()
    odd(database, server)
    migrations.upgrade(database)
    migrations.downgrade(database)

    assert [(None,)] == server.execute("SELECT to_regnamespace('usersync')", database.url.split("/")[3].split("?")[0])


@pytest.mark.parametrize("which", ["database", "role"])
def test_a_target_that_only_reads_by_default(job: Job, server: servers.Server, which: str) -> None:
    """
    Whoever says default_transaction_read_only wants nothing written: exit 2 from run and check, with the setting and what resets it.
    """
    name = job.target.url.split("/")[3].split("?")[0]
    server.execute("CREATE ROLE reads_only LOGIN SUPERUSER")
    what = f"DATABASE {name}" if which == "database" else f"ROLE reads_only IN DATABASE {name}"
    server.execute(f"ALTER {what} SET default_transaction_read_only = on")
    try:
        job.write(target=job.target.url.replace("postgres@", "reads_only@"))
        run, check = job.run(), clean(job.usersync("check"))
    finally:
        server.execute("DROP ROLE reads_only")

    assert (2, 2) == (run.status, check.status), run
    assert "default_transaction_read_only is on" in run.stderr
    assert "default_transaction_read_only is on" in check.stdout
    assert f'ALTER DATABASE "{name}" RESET default_transaction_read_only' in run.stderr
