"""Usersync's own tables: made once, up and down, by whoever may."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests import servers
from tests.conftest import Command, NewDatabase
from tests.simple_job import Job
from tests.state.versions import move
from usersync_cli.clients.postgres import connections, embedded
from usersync_cli.errors import ConfigError, Drift, Stopped, Unavailable, UsersyncError
from usersync_cli.model import Database
from usersync_cli.signals import Stop
from usersync_cli.state import migrations
from usersync_cli.state.migrations import apart

READIES = (
    "import sys; from usersync_cli.clients.postgres import connections; from usersync_cli.state import migrations;"
    " from usersync_cli.state.migrations import apart;"
    " from usersync_cli.model import Database;"
    " database = Database(sys.argv[1], 'target'); connection = connections.connect(database, job='j');"
    " apart.ready(connection, database, 'j');"
    " print(migrations.current(connection), 'alembic' in sys.modules, 'sqlalchemy' in sys.modules)"
)


def ready(database: Database) -> None:
    with connections.connect(database, job="test") as connection:
        apart.ready(connection, database, "test")


def tables(connection: psycopg.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'usersync'")}


def as_role(database: Database, connection: psycopg.Connection, *statements: str) -> Database:
    """The same database for a role of its own that may do only what these statements grant; `{role}` is its name."""
    role = f"weak {connection.info.dbname}"
    for statement in ('CREATE ROLE "{role}" LOGIN', *statements):
        connection.execute(statement.format(role=role))
    return Database(database.url.replace("postgres@", role.replace(" ", "%20") + "@"), "target")


@pytest.fixture(autouse=True)
def _drop_roles(server: servers.Server) -> object:
    yield
    for (role,) in server.execute("SELECT quote_ident(rolname) FROM pg_roles WHERE rolname LIKE 'weak %'"):
        for (name,) in server.execute("SELECT datname FROM pg_database WHERE datname LIKE 'test_%'"):
            server.execute(f"DROP OWNED BY {role}", name)
        server.execute(f"DROP ROLE {role}")


def test_the_constant_is_the_newest_file() -> None:
    """
    VERSION, which spares a run the import of Alembic, is the newest of the migrations, which are one after the other.
    """
    files = sorted(path.name[:4] for path in (Path(migrations.__file__).parent / "versions").glob("[0-9]*.py"))

    assert [f"{number:04}" for number in range(1, len(files) + 1)] == files
    assert files[-1] == migrations.VERSION


def test_up_and_down_and_up(database: Database, connection: psycopg.Connection) -> None:
    """
    Down takes away all that up has made, schema included, and leaves other tables alone.
    """
    connection.execute("CREATE TABLE people (id int)")
    assert migrations.current(connection) is None

    ready(database)
    state = {"job_locks", "runs", "run_steps", "run_streams", "cursors"}
    people = {"seen_streams", "seen", "removals", "sweeps", "sweep_keys", "approvals", "approval_keys", "rejects"}
    tokens = {"tokens", "authorizations"}
    outside = {"accounts", "intents"}
    map_ = {"apps", "identities", "customers", "former_domains", "merges", "mappings", "closed_mappings"}
    map_ |= {"identity_conflicts", "crowded_domains", "app_roles", "customer_history", "clusters", "merged_customers"}
    assert {"alembic_version", *state, *people, *tokens, *outside, *map_} == tables(connection)
    assert migrations.VERSION == migrations.current(connection)

    migrations.downgrade(database)
    migrations.downgrade(database)
    assert [(None,)] == connection.execute("SELECT to_regnamespace('usersync')").fetchall()
    assert [(0,)] == connection.execute("SELECT count(*) FROM people").fetchall()

    migrations.upgrade(database)
    assert migrations.VERSION == migrations.current(connection)


def test_mails_that_earlier_versions_did_not_send_are_owed(database: Database, connection: psycopg.Connection) -> None:
    """
    But one that may have been sent is not sent again, and where none failed nothing is owed.
    """
    ready(database)
    migration = importlib.import_module("usersync_cli.state.migrations.versions.0008_owed_mails")
    connection.execute("ALTER TABLE usersync.accounts DROP COLUMN mail")
    connection.execute(
        "INSERT INTO usersync.accounts (job, step, target, key, account) SELECT 'j', 's', 't', k, k FROM unnest('{a,b,c,d}'::text[]) AS k"
    )
    connection.execute(
        "INSERT INTO usersync.rejects (job, step, stream, key, reason, detail, hash, run_id) VALUES"
        " ('j', 's', '', 'a', 'mail_failed', 'the mail server took none', '', 1), ('j', 's', '', 'c', 'extra_role', '', '', 1),"
        " ('j', 's', '', 'b', 'mail_failed', 'no answer: it may have been sent', '', 1), ('j', 'x', '', 'd', 'mail_failed', '', '', 1)"
    )
    for statement in migration.UP:
        connection.execute(statement)

    expected = [("a", "owed"), ("b", "sending"), ("c", None), ("d", None)]
    assert expected == connection.execute("SELECT key, mail FROM usersync.accounts ORDER BY key").fetchall()


REVISIONS = [f"{number:04}" for number in range(1, int(migrations.VERSION))]
# What `held` and `missing` said before 0012, and what they say now: status, held, departure, missing.
HELD = {
    "'\\x00'": ("rejected", False),
    "'\\x01'": ("removed", False),
    "''": ("no_row", False),
    "'\\x0102'": ("loaded", True),
    "NULL": ("loaded", False),
}
MISSING = {-3: ("left_out", 0), -2: ("kept", 1), -1: ("told", 0), 0: (None, 0), 2: (None, 2)}


def contents(connection: psycopg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of all tables but their version, as JSON."""
    return {
        table: connection.execute(f"SELECT to_jsonb(t) FROM usersync.{table} AS t ORDER BY 1".encode()).fetchall()
        for table in tables(connection) - {"alembic_version"}
    }


@pytest.mark.parametrize("revision", [one for one in REVISIONS if one < "0012"])
def test_known_records_of_each_earlier_version_stay_known(database: Database, connection: psycopg.Connection, revision: str) -> None:
    """
    Up, what was said in `held` and `missing` is said in words; down again, all tables hold what they held.
    """
    move(database, revision)
    connection.execute(
        "INSERT INTO usersync.cursors (job, step, stream, value, version, account) VALUES ('j', 's', 'people', '{}', 1, 'ours')"
    )
    if revision > "0001":
        connection.execute("INSERT INTO usersync.seen_streams (job, step, target, fingerprint) VALUES ('j', 's', 'people (id)', 'f')")
        values = ", ".join(f"(1, $${held} {missing}$$, {held}, {missing})" for held in HELD for missing in MISSING)
        connection.execute(f"INSERT INTO usersync.seen (stream_id, key, held, missing) VALUES {values}".encode())
    before = contents(connection)

    migrations.upgrade(database)
    query = "SELECT key, status, held IS NOT NULL, departure, missing FROM usersync.seen"
    found = {key: tuple(rest) for key, *rest in connection.execute(query).fetchall()}
    expected = {f"{held} {missing}": (*HELD[held], *MISSING[missing]) for held in HELD for missing in MISSING}
    assert (expected if revision > "0001" else {}) == found

    move(database, revision)
    assert before == contents(connection)


@pytest.mark.parametrize("odd", ["missing = -1", "held = '', status = 'no_row'", "status = 'gone'", "departure = 'left'"])
def test_what_is_known_of_a_record_is_of_closed_lists(connection: psycopg.Connection, database: Database, odd: str) -> None:
    """
    A number is a number, a hash is of a row of ours, and each word is one of the list.
    """
    ready(database)
    connection.execute("INSERT INTO usersync.seen_streams (job, step, target, fingerprint) VALUES ('j', 's', 'people (id)', 'f')")
    connection.execute("INSERT INTO usersync.seen (stream_id, key) VALUES (1, 'a')")

    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(f"UPDATE usersync.seen SET {odd}".encode())


def test_a_failed_upgrade_leaves_nothing(database: Database, connection: psycopg.Connection) -> None:
    """
    The upgrade is one transaction: an error in the middle leaves no table, and no SQLAlchemy in the message.
    """
    connection.execute("CREATE SCHEMA usersync")
    connection.execute("CREATE TABLE usersync.cursors (mine int)")

    with pytest.raises(Drift, match=r"target: upgrading usersync's tables: relation \"cursors\" already exists"):
        ready(database)
    assert {"cursors"} == tables(connection)


def test_processes_at_once_upgrade_once(database: Database) -> None:
    """
    Several first runs at once: one makes the tables, the others wait and find them.
    """

    def start(_: int) -> str:
        command = [sys.executable, "-c", READIES, database.url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout.split()[0] if done.returncode == 0 else done.stderr

    with ThreadPoolExecutor(4) as pool:
        assert [migrations.VERSION] * 4 == list(pool.map(start, range(4)))


def test_a_run_imports_no_alembic(database: Database) -> None:
    """
    A run imports neither Alembic nor SQLAlchemy: not on tables that are up to date, nor where it has them made.
    """
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", READIES, database.url], capture_output=True, text=True, check=True)
        assert f"{migrations.VERSION} False False\n" == done.stdout


def test_newer_tables_are_not_touched(database: Database, connection: psycopg.Connection) -> None:
    """
    An older program on newer tables stops with exit 7 and says which program to install.
    """
    ready(database)
    connection.execute("UPDATE usersync.alembic_version SET version_num = '9999'")

    for go in (ready, migrations.upgrade, migrations.downgrade):
        with pytest.raises(Drift, match="9999") as caught:
            go(database)
        assert "newer usersync" in caught.value.hint


def test_the_sql_for_a_dba_makes_the_same_tables(database: Database, connection: psycopg.Connection, new_database: NewDatabase) -> None:
    """
    What `upgrade --sql` prints, fed to psql, gives a database that a run finds up to date.
    """
    psql = [embedded.psql(None), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.url]
    subprocess.run(psql, input=migrations.upgrade_sql(), text=True, check=True, env=servers.environment())
    other = new_database()
    ready(other)

    describe = (
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
        " WHERE table_schema = 'usersync' ORDER BY 1, 2"
    )
    with psycopg.connect(other.url) as second:
        assert second.execute(describe).fetchall() == connection.execute(describe).fetchall()
    assert migrations.VERSION == migrations.current(connection)


def test_no_right_to_create_the_schema_prints_the_grant(database: Database, connection: psycopg.Connection) -> None:
    """
    Without CREATE on the database: exit 2 with the GRANT, and after that GRANT it works.
    """
    weak = as_role(database, connection)

    with pytest.raises(ConfigError, match="no right to create the schema usersync") as caught:
        ready(weak)
    grant = f'GRANT CREATE ON DATABASE {connection.info.dbname} TO "weak {connection.info.dbname}";'
    assert grant in caught.value.hint
    assert "usersync db upgrade --sql" in caught.value.hint

    connection.execute(grant.encode())
    ready(weak)
    assert migrations.VERSION == migrations.current(connection)


def test_no_right_on_the_tables_prints_the_grant(database: Database, connection: psycopg.Connection) -> None:
    """
    Tables that a DBA made, without rights for our role: exit 2 with the GRANTs, and after them it works.
    """
    ready(database)
    weak = as_role(database, connection)

    with pytest.raises(ConfigError, match="a right on usersync's own tables is missing") as caught:
        ready(weak)
    grants = caught.value.hint.removeprefix("their owner runs: ")
    connection.execute(grants.encode())
    ready(weak)


def test_through_a_pooler_and_on_postgres_15(
    database: Database, connection: psycopg.Connection, pgbouncer: servers.Server, postgres15: servers.Server, new_database: NewDatabase
) -> None:
    """
    The upgrade leaves nothing in the session, so PgBouncer in transaction mode is fine, and so is PostgreSQL 15.
    """
    for target in (Database(pgbouncer.url(connection.info.dbname), "target"), new_database(on=postgres15)):
        ready(target)
        with connections.connect(target, job="test") as other:
            assert migrations.VERSION == migrations.current(other)


@contextmanager
def upgrading(connection: psycopg.Connection, stop: Stop) -> Iterator[tuple[int, list[BaseException]]]:
    """The process that upgrades, which waits for a lock that we hold; and what its parent got in the end."""
    secret = connection.info.dsn  # the test's own server asks for no password, so any will do
    database = Database(f"postgresql:///{connection.info.dbname}?{urlencode(parse(secret))}&password=canary", "target")
    raised: list[BaseException] = []

    def work() -> None:
        try:
            apart.upgrade(database, "test", stop)
        except UsersyncError as error:
            raised.append(error)

    with psycopg.connect(secret) as other:
        other.execute(f"SELECT pg_advisory_xact_lock({migrations._LOCK})".encode())
        thread = threading.Thread(target=work)
        thread.start()
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        servers.until(lambda: connection.execute(waits).fetchone() == (1,))
        (pid,) = upgrades()
        yield pid, raised
        thread.join(5)
    assert not thread.is_alive()
    assert migrations.current(connection) is None


def parse(dsn: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(dsn).items() if name in {"host", "port", "user"}}


def upgrades() -> list[int]:
    """The processes of ours that upgrade."""
    children = [int(one) for file in Path("/proc/self/task").glob("*/children") for one in file.read_text().split()]
    return [one for one in children if is_upgrade(one)]


def is_upgrade(pid: int) -> bool:
    return b"migrations import apart" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_upgrade_has_its_own_process(connection: psycopg.Connection) -> None:
    """
    No password stands where others can read it. A signal ends that process, and the server rolls back.
    """
    stop = Stop()
    with upgrading(connection, stop) as (pid, raised):
        for file in ("cmdline", "environ"):
            assert b"canary" not in Path(f"/proc/{pid}/{file}").read_bytes()
        stop._note(signal.SIGTERM, None)
        servers.until(lambda: raised)
    assert isinstance(raised[0], Stopped)


def test_an_upgrade_that_is_killed_is_temporary(connection: psycopg.Connection) -> None:
    """
    Memory was short, say: status 4, nothing changed.
    """
    with upgrading(connection, Stop()) as (pid, raised):
        os.kill(pid, signal.SIGKILL)
        servers.until(lambda: raised)
    assert "ended with -9" in str(raised[0])


def test_errors_of_the_upgrade_arrive_as_they_are(database: Database, connection: psycopg.Connection) -> None:
    """
    A missing right is told with its GRANT, by the class that has its exit status; where there is nothing to upgrade, nothing is said.
    """
    weak = as_role(database, connection)
    with pytest.raises(ConfigError, match="no right to create the schema usersync") as error:
        apart.upgrade(weak, "test", None)
    assert "GRANT CREATE ON DATABASE" in error.value.hint
    apart.upgrade(database, "test", None)
    apart.upgrade(database, "test", None)
    assert migrations.VERSION == migrations.current(connection)


# an upgrade that was killed, and tables that no run can go on from


def test_an_upgrade_that_is_killed_between_two_migrations(database: Database, connection: psycopg.Connection) -> None:
    """
    The tables are as they were, version and rows included, and the next upgrade brings them up.
    """
    upgraded_to(database, "0004")
    connection.execute("INSERT INTO usersync.runs (job, status, epoch, owner, usersync_version) VALUES ('j', 'ok', 1, '', '0')")
    before, raised = columns(connection), list[UsersyncError]()

    def work() -> None:
        try:
            apart.upgrade(database, "test", None)
        except UsersyncError as error:
            raised.append(error)

    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE usersync.seen")  # 0006 wants to change it; by then 0005 is done
        thread = threading.Thread(target=work)
        thread.start()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'usersync.seen'::regclass"
        servers.until(lambda: connection.execute(waits).fetchone() == (1,))
        (pid,) = upgrades()
        os.kill(pid, signal.SIGKILL)
        thread.join(10)
    assert ["ended with -9"] == [error.message[-13:] for error in raised]
    assert Unavailable.status == raised[0].status
    servers.until(lambda: connection.execute(waits.replace("NOT granted AND ", "")).fetchone() == (0,))
    assert ("0004", before) == (migrations.current(connection), columns(connection))

    apart.upgrade(database, "test", None)
    assert migrations.VERSION == migrations.current(connection)
    assert [("j", "ok")] == connection.execute("SELECT job, status FROM usersync.runs").fetchall()


def upgraded_to(database: Database, version: str) -> None:
    """The tables as an older usersync left them."""
    from alembic import command

    migrations._migrate(database, "test", lambda config: command.upgrade(config, version))


def columns(connection: psycopg.Connection) -> list[tuple[object, ...]]:
    """Every column that there is, and how it is."""
    query = (
        "SELECT table_schema, table_name, column_name, data_type, column_default FROM information_schema.columns"
        " WHERE table_schema IN ('usersync', 'public') ORDER BY 1, 2, 3"
    )
    return connection.execute(query).fetchall()


NEWER = ("UPDATE usersync.alembic_version SET version_num = '9999'", "use the newer usersync that upgraded them")
NO_VERSION = ("DROP TABLE usersync.alembic_version, usersync.rejects", "the schema usersync has tables of no version")
EMPTY = ("DELETE FROM usersync.alembic_version", "the schema usersync has tables of no version")
UNKNOWN = ("UPDATE usersync.alembic_version SET version_num = '0000'", "tables of version 0000, which no usersync gives")
RUN, DRY_RUN = ("run", "--job", "copy", "-q"), ("run", "--job", "copy", "-q", "--dry-run")
READ = [("status",), ("rejects", "list"), ("approvals", "list"), ("intents",)]
UPGRADE, DOWNGRADE = ("db", "upgrade"), ("db", "downgrade", "--yes")


@pytest.mark.parametrize(
    ("made", "commands"),
    [
        (NEWER, [RUN, DRY_RUN, *READ, UPGRADE, DOWNGRADE]),
        (NO_VERSION, [RUN, DRY_RUN, *READ, UPGRADE, DOWNGRADE, ("db", "current")]),
        (EMPTY, [RUN, UPGRADE]),
        (UNKNOWN, [RUN, DRY_RUN, UPGRADE, DOWNGRADE]),
    ],
    ids=["newer", "without a version", "with an empty version", "with an unknown version"],
)
def test_tables_that_no_run_can_go_on_from(
    usersync: Command, new_database: NewDatabase, made: tuple[str, str], commands: list[tuple[str, ...]]
) -> None:
    """
    A newer program's, or a part of a schema: each command says so with exit 7, and changes nothing.
    """
    job, (statement, message) = Job(usersync, new_database("source crm"), new_database()), made
    job.people("One")
    with psycopg.connect(job.target.url, autocommit=True) as connection:
        connection.execute(statement.encode())
        before = columns(connection)
        said = {words: usersync(*words) for words in commands}
        after = columns(connection)
        runs = connection.execute("SELECT count(*) FROM usersync.runs").fetchone()

    assert dict.fromkeys(commands, 7) == {words: result.status for words, result in said.items()}
    assert [] == [words for words, result in said.items() if message not in result.stderr]
    assert (before, (0,)) == (after, runs)
