"""Connections: their waits end when they have to, they leave nothing behind, and their errors say what to do next."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest

from tests import servers
from usersync_cli.clients.postgres import connections, errors, parameters, transactions
from usersync_cli.errors import ConfigError, Drift, Stopped, Unavailable, UsersyncError
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


def test_settings_end_with_their_transaction(connection: psycopg.Connection, pgbouncer: servers.Server) -> None:
    """
    Behind a pooler the next client finds the session as it was: no settings, no temp table, no prepared statement.
    """
    looked_at = "SELECT name, setting, source FROM pg_settings WHERE source = 'session' AND name <> 'client_encoding'"
    with connections.connect(Database(pgbouncer.url(connection.info.dbname), "target"), job="test", read_write=True) as tx:
        before = psycopg.Cursor(tx).execute(looked_at).fetchall()
        for _ in range(7):  # psycopg would prepare from the fifth time on
            with transactions.transaction(tx, long=True):
                tx.execute("CREATE TEMP TABLE stage (a int) ON COMMIT DROP")
                tx.execute("INSERT INTO stage VALUES (%s)", (1,))
                assert ("0",) == tx.execute("SHOW statement_timeout").fetchone()

        assert before == psycopg.Cursor(tx).execute(looked_at).fetchall()
        assert [(0,)] == tx.execute("SELECT count(*) FROM pg_prepared_statements").fetchall()
        assert [(None,)] == tx.execute("SELECT to_regclass('stage')").fetchall()


def test_a_snapshot_does_not_see_what_comes_later(database: Database, connection: psycopg.Connection) -> None:
    """
    `snapshot` reads one state of the source, and cannot write; on a standby too.
    """
    connection.execute("CREATE TABLE public.t AS SELECT 1 AS a")
    with connections.connect(database, job="test") as source, transactions.transaction(source, snapshot=True):
        source.execute("SELECT FROM public.t")
        connection.execute("INSERT INTO public.t VALUES (2)")
        assert [(1,)] == source.execute("SELECT a FROM public.t").fetchall()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            source.execute("INSERT INTO public.t VALUES (3)")


def test_a_transaction_is_rolled_back_on_any_error(database: Database, connection: psycopg.Connection) -> None:
    """
    A bug in the body leaves no row, and a connection that can be used again.
    """
    connection.execute("CREATE TABLE t (a int)")
    with connections.connect(database, job="test") as tx:
        with pytest.raises(ZeroDivisionError), transactions.transaction(tx):
            tx.execute("INSERT INTO public.t VALUES (1 / 1)")
            raise ZeroDivisionError
        assert [(0,)] == tx.execute("SELECT count(*) FROM public.t").fetchall()


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


@contextmanager
def refusing(state: str, said: str) -> Iterator[str]:
    """The URL of a server that refuses everybody with these words, in the wire protocol of PostgreSQL."""
    fields = b"".join(tag + value.encode() + b"\0" for tag, value in ((b"S", "FATAL"), (b"C", state), (b"M", said)) if value) + b"\0"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(4096)
                        if state:
                            client.sendall(b"E" + (len(fields) + 4).to_bytes(4) + fields)

        threading.Thread(target=answer, daemon=True).start()
        yield f"postgresql://x:s3cret@127.0.0.1:{listener.getsockname()[1]}/app?sslmode=disable&gssencmode=disable"


@pytest.mark.parametrize(
    ("state", "said", "kind"),
    [
        ("28P01", "Passwort-Authentifizierung für Benutzer »x« fehlgeschlagen", ConfigError),
        ("28000", "Rolle »x« existiert nicht", ConfigError),
        ("3D000", "Datenbank »app« existiert nicht", ConfigError),
        ("42501", "keine Berechtigung für Datenbank »app«", ConfigError),
        ("42704", "unbekannter Konfigurationsparameter »unsinn«", ConfigError),
        ("22023", "ungültiger Wert für Parameter »client_encoding«: »unsinn«", ConfigError),
        ("08P01", "unsupported startup parameter: options", ConfigError),  # of a pooler
        ("53300", "tut mir leid, schon zu viele Verbindungen", Unavailable),
        ("57P03", "das Datenbanksystem wird hochgefahren", Unavailable),
        ("57P01", "die Datenbank wurde beendet", Unavailable),
        ("08P01", "das Datenbanksystem wird hochgefahren", Unavailable),  # passed on by a pooler
        ("99999", "database, role, password, SSL: does not exist", Unavailable),
        ("", "", Unavailable),  # hangs up without a word
    ],
)
def test_servers_that_speak_another_language(state: str, said: str, kind: type[UsersyncError]) -> None:
    """
    Why a log-in was refused is told by its SQLSTATE, whatever the language; the words are passed on as they are.
    """
    with refusing(state, said) as url, pytest.raises(kind) as caught:
        connections.connect(Database(url, "target"), job="test")

    assert type(caught.value) is kind
    assert said in caught.value.message
    assert "s3cret" not in caught.value.message + caught.value.hint


def test_a_savepoint_that_could_not_be_set(database: Database, connection: psycopg.Connection) -> None:
    """
    psycopg loses count when SAVEPOINT fails, and complains about that: what is told is why it failed.
    """
    with (
        connections.connect(database, job="test") as tx,
        pytest.raises(UsersyncError) as caught,
        errors.translated(database, "loading people"),
        transactions.transaction(tx),
        tx.transaction(),
    ):
        connection.execute("SELECT pg_terminate_backend(%s)", tx.execute("SELECT pg_backend_pid()").fetchone())
        with tx.transaction():
            pass

    assert type(caught.value) is Unavailable
    assert "terminating connection" in caught.value.message


@pytest.mark.parametrize(("state", "kind"), [("53100", Unavailable), ("42501", ConfigError), ("22001", Drift)])
def test_what_hides_behind_a_complaint_about_nesting(state: str, kind: type[UsersyncError]) -> None:
    """
    The error that psycopg hides behind its own decides, not that it has no SQLSTATE.
    """
    nesting = psycopg.transaction.OutOfOrderTransactionNesting("savepoints")
    nesting.__context__ = psycopg.errors.lookup(state)("why")

    assert type(errors.translate(nesting, Database("postgresql:///app", "target"), "loading")) is kind


def test_a_line_that_breaks_is_no_mistake_of_the_url() -> None:
    """
    SSL in the words of an error that comes later says nothing about certificates: the next run tries again.
    """
    lost = psycopg.OperationalError("consuming input failed: SSL connection has been closed unexpectedly")

    assert isinstance(errors.translate(lost, Database("postgresql:///app", "target"), "loading"), Unavailable)


@pytest.mark.parametrize(
    ("statement", "kind", "says"),
    [
        ("SELECT 'Test User One'::int", Drift, "invalid text representation [22P02]"),
        ("INSERT INTO public.t VALUES (1, 'Test User One')", Drift, "unique violation (constraint t_pkey, table t) [23505]"),
        ("INSERT INTO public.t VALUES (NULL, 'Test User One')", Drift, "not null violation (column id, table t) [23502]"),
        ("DO $$ BEGIN RAISE 'Test User One'; END $$", Drift, "raise exception [P0001]"),
        ("SELECT * FROM missing", Drift, 'relation "missing" does not exist [42P01]'),
        ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(1), 'Test User One'", Unavailable, "statement timeout [57014]"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", Unavailable, "terminating connection"),
        ("SET LOCAL transaction_read_only = on; INSERT INTO public.t VALUES (2, 'x')", ConfigError, "read-only transaction [25006]"),
        ("SET LOCAL ROLE pg_monitor; SELECT * FROM public.t", ConfigError, "permission denied for table t [42501]"),
    ],
)
def test_errors_of_the_server_become_ours(
    database: Database, connection: psycopg.Connection, statement: str, kind: type[UsersyncError], says: str
) -> None:
    """
    By SQLSTATE: what passes by itself, what the config's author fixes, what is not as the step expects; nobody's data is quoted.
    """
    connection.execute("CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO public.t VALUES (1, 'Test User One')")
    with (
        connections.connect(database, job="test") as tx,
        pytest.raises(UsersyncError) as caught,
        errors.translated(database, "merging"),
    ):
        transactions.begin(tx)
        tx.execute(statement.encode())

    assert type(caught.value) is kind
    assert caught.value.message.startswith("target: merging: ")
    assert says in caught.value.message
    assert caught.value.hint
    assert "Test User" not in caught.value.message + caught.value.hint


def test_application_name_says_who_we_are(database: Database, connection: psycopg.Connection) -> None:
    """
    A DBA sees the job in pg_stat_activity.
    """
    with connections.connect(database, job="auroville"):
        query = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert [("usersync/auroville",)] == connection.execute(query).fetchall()


@pytest.mark.parametrize("host", ["db.example.com", "10.1.2.3", "localhost,db.example.com"])
def test_a_server_elsewhere_is_verified(host: str) -> None:
    """
    Unless the URL says otherwise, a server that is not on this machine has to show a certificate for its name.
    """
    assert "verify-full" == parameters.defaults(f"postgresql://{host}/app", "job")["sslmode"]
    assert "sslmode" not in parameters.defaults(f"postgresql://{host}/app?sslmode=require", "job")


@pytest.mark.parametrize(
    "url", ["postgresql:///app", "postgresql://localhost/app", "postgresql://[::1]/app", "postgresql:///app?host=/run/pg"]
)
def test_a_local_server_needs_no_certificate(url: str) -> None:
    """
    Sockets and loopback addresses do not leave the machine.
    """
    assert "sslmode" not in parameters.defaults(url, "job")


def test_what_somebody_left_in_the_session_does_not_count(database: Database) -> None:
    """Behind a pooler another client's SET may be there: ours are PostgreSQL's own names, or the role's; dates and zone of our own."""
    with connections.connect(database, job="test") as connection:
        connection.execute("CREATE SCHEMA mine")
        connection.execute("ALTER ROLE CURRENT_USER IN DATABASE " + connection.info.dbname + " SET search_path = mine, nowhere, public")
    with connections.connect(database, job="test") as connection:
        connection.execute("SET search_path = theirs; SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'German'; SET row_security = off")
        with transactions.transaction(connection):
            inside = [connection.execute(f"SHOW {name}".encode()).fetchone() for name in ("search_path", "TimeZone", "DateStyle")]
            with transactions.as_user(connection):
                inside.append(connection.execute("SHOW search_path").fetchone())
        alone = connection.execute("SHOW search_path").fetchone()
        after = psycopg.Cursor(connection).execute("SHOW search_path").fetchone()

    assert [("pg_catalog, pg_temp",), ("UTC",), ("ISO, MDY",), ("mine, public",)] == inside
    assert [("pg_catalog, pg_temp",), ("theirs",)] == [alone, after]
