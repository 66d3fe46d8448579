"""Connections: their waits end when they have to, they leave nothing behind, and a refusal says what to do next."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests import servers
from usersync_cli.clients.postgres import connections, parameters, transactions
from usersync_cli.errors import ConfigError, Stopped, Unavailable, UsersyncError
from usersync_cli.model import Database
from usersync_cli.signals import Stop


@contextmanager
def signalled(stop: Stop, after: float) -> Iterator[None]:
    """What a SIGTERM does to `stop`, from a timer."""
    timer = threading.Timer(after, stop._note, (signal.SIGTERM, None))
    timer.start()
    yield
    timer.join()


def backends(connection: psycopg.Connection) -> int:
    """Other connections to this database."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    return int((connection.execute(query).fetchone() or (0,))[0])


@pytest.mark.parametrize("statement", ["SELECT pg_sleep(30)", "INSERT INTO public.t SELECT 1 FROM pg_sleep(30)"])
def test_a_signal_ends_a_long_statement(database: Database, connection: psycopg.Connection, statement: str) -> None:
    """
    SIGTERM in a statement that takes long: Stopped within a second, and the server has stopped working on it.
    """
    connection.execute("CREATE TABLE t (a int)")
    stop = Stop()
    with connections.connect(database, job="test", stop=stop) as tx:
        began = time.monotonic()
        with signalled(stop, 0.3), pytest.raises(Stopped), transactions.transaction(tx, long=True):
            tx.execute(statement.encode())
        assert 1.5 > time.monotonic() - began
    servers.until(lambda: backends(connection) == 0, seconds=2)
    assert [(0,)] == connection.execute("SELECT count(*) FROM public.t").fetchall()


def test_a_signal_ends_a_copy_that_waits(database: Database, connection: psycopg.Connection) -> None:
    """
    SIGTERM while COPY ... TO waits for its server: Stopped, not a hang in psycopg.
    """
    stop = Stop()
    query = "COPY (SELECT pg_sleep(30)) TO STDOUT"
    with (
        connections.connect(database, job="test", stop=stop) as tx,
        signalled(stop, 0.3),
        pytest.raises(Stopped),
        tx.cursor().copy(query) as copy,
    ):
        list(copy)
    servers.until(lambda: backends(connection) == 0, seconds=2)


def test_max_runtime_ends_a_statement_too(database: Database) -> None:
    """
    Past the limit a wait ends with Unavailable: try again later.
    """
    stop = Stop()
    stop.limit(0.3)
    with connections.connect(database, job="test", stop=stop) as tx, pytest.raises(Unavailable, match="max-runtime"):
        tx.execute("SELECT pg_sleep(30)")


def test_commit_is_not_interrupted(database: Database, connection: psycopg.Connection) -> None:
    """
    A signal that arrives in COMMIT waits until it is over: the row is there, and the next statement is Stopped.
    """
    connection.execute("CREATE TABLE t (a int)")
    connection.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    stop = Stop()
    with connections.connect(database, job="test", stop=stop) as tx:
        with signalled(stop, 0.3), transactions.transaction(tx):
            tx.execute("INSERT INTO public.t VALUES (1)")
        with pytest.raises(Stopped):
            tx.execute("SELECT pg_sleep(1)")

    assert [(1,)] == connection.execute("SELECT a FROM public.t").fetchall()


def test_a_frozen_server_is_noticed(connection: psycopg.Connection, proxy: servers.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A server that says nothing is asked on a new connection; where that hangs too, the run ends with Unavailable.
    """
    monkeypatch.setattr(parameters, "CONNECT_SECONDS", 2)
    with connections.connect(Database(proxy.url(connection.info.dbname), "target"), job="test") as tx:
        tx.silence_seconds = 0.5
        proxy.frozen = True
        began = time.monotonic()
        with pytest.raises(Unavailable, match="target: the server has been silent"):
            tx.execute("SELECT 1")

    assert 8 > time.monotonic() - began


def test_a_slow_server_is_waited_for(database: Database) -> None:
    """
    Silence alone is no reason to give up: a server that still answers others is waited for, which counts as a sign of life.
    """
    stop = Stop()
    with connections.connect(database, job="test", stop=stop) as tx:
        tx.silence_seconds = 0.2
        began = time.monotonic()
        tx.execute("SELECT pg_sleep(1)")

    assert stop.heard > began + 0.8


def test_a_standby_is_refused_as_target_and_fine_as_source(standby: servers.Server) -> None:
    """
    A target has to be a primary: exit 2. A source may be a standby.
    """
    with pytest.raises(ConfigError, match=r"target: connecting: .*only reads") as caught:
        connections.connect(Database(standby.url(), "target"), job="test", read_write=True)
    assert "primary" in caught.value.hint
    with connections.connect(Database(standby.url(), "source"), job="test") as source:
        assert [(True,)] == source.execute("SELECT pg_is_in_recovery()").fetchall()


@pytest.mark.parametrize(
    ("url", "kind", "says"),
    [
        ("postgresql://x:s3cret@127.0.0.1:1/app", Unavailable, "refused"),
        ("postgresql://x:s3cret@no-such-host.invalid/app", Unavailable, "no-such-host.invalid"),
        ("postgresql://x:s3cret@127.0.0.1:1/app?nonsense=s3cret", ConfigError, "not one that libpq understands"),
        ("{server}/no_such_database", ConfigError, "does not exist"),
        ("{server_tls}", ConfigError, "TLS"),
        ("postgresql://x:s3cret@127.0.0.1:99999/app", ConfigError, "a port of the URL"),
        ("postgresql://x:s3cret@127.0.0.1:/app?port=fünf", ConfigError, "a port of the URL"),
        ("postgresql://x:s3cret@127.0.0.1/app?service=nobody", ConfigError, "nobody"),
        ("postgresql://x:s3cret@127.0.0.1:1/app?sslmode=perhaps", ConfigError, "sslmode"),
        ("postgresql://x:s3cret@127.0.0.1:1/app?target_session_attrs=any-old", ConfigError, "target_session_attrs"),
        ("postgresql://x:s3cret@/app?host=127.0.0.1,::1&port=1,2,3", ConfigError, "number of ports"),
        ("postgresql://x:s3cret@/app?host=/nowhere-at-all", Unavailable, "No such file"),
    ],
)
def test_what_keeps_us_from_connecting(
    server: servers.Server, proxy: servers.Proxy, url: str, kind: type[UsersyncError], says: str
) -> None:
    """
    Each reason has its class (a person fixes the config, or the next run tries again) and never the password in its message.
    """
    plain = server.url().replace("/postgres?", "/no_such_database?")
    tls = proxy.url("postgres").replace("sslmode=disable", "sslmode=require").replace("postgres@", "postgres:s3cret@")
    url = plain if url.startswith("{server}") else tls if url.startswith("{server_tls}") else url
    with pytest.raises(kind, match=says) as caught:
        connections.connect(Database(url, "target"), job="test")

    assert type(caught.value) is kind
    assert caught.value.message.startswith("target: connecting: ")
    assert caught.value.hint
    assert "s3cret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("which", "options"),
    [("pgbouncer", "options=-csearch_path%3Dx"), ("server", "options=-cnonsense%3Dx"), ("server", "options=-cwork_mem%3Dmuch")],
)
def test_what_a_pooler_or_a_server_does_not_take(request: pytest.FixtureRequest, which: str, options: str) -> None:
    """
    Parameters of the URL that the other side refuses stay refused: exit 2, be it PgBouncer or PostgreSQL.
    """
    url = f"{request.getfixturevalue(which).url()}&{options}"
    with pytest.raises(ConfigError, match="parameter") as caught:
        connections.connect(Database(url, "target"), job="test")

    assert "options=" in caught.value.hint


def test_application_name_says_who_we_are(database: Database, connection: psycopg.Connection) -> None:
    """
    A DBA sees the job in pg_stat_activity.
    """
    with connections.connect(database, job="auroville"):
        query = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert [("usersync/auroville",)] == connection.execute(query).fetchall()
