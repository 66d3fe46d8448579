"""Usersync's own tables: made once, up and down, by whoever may."""

from __future__ import annotations

import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests import servers
from tests.conftest import NewDatabase
from usersync_cli import connections, embedded, migrations
from usersync_cli.errors import ConfigError, Drift
from usersync_cli.model import Database

READIES = (
    "import sys; from usersync_cli import connections, migrations; from usersync_cli.model import Database;"
    " database = Database(sys.argv[1], 'target'); connection = connections.connect(database, job='j');"
    " migrations.ready(connection, database, 'j');"
    " print(migrations.current(connection), 'alembic' in sys.modules, 'sqlalchemy' in sys.modules)"
)


def ready(database: Database) -> None:
    with connections.connect(database, job="test") as connection:
        migrations.ready(connection, database, "test")


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
    state = {"job_locks", "runs", "run_steps", "cursors"}
    people = {"seen_streams", "seen", "removals", "sweeps", "sweep_keys", "approvals", "approval_keys", "rejects"}
    tokens = {"tokens", "authorizations"}
    outside = {"accounts", "intents"}
    assert {"alembic_version", *state, *people, *tokens, *outside} == tables(connection)
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
    migration = importlib.import_module("usersync_cli.migrations.versions.0008_owed_mails")
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


def test_nothing_is_imported_when_nothing_is_to_do(database: Database) -> None:
    """
    A run on tables that are up to date imports neither Alembic nor SQLAlchemy.
    """
    ready(database)
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
