"""What psycopg does not promise: the versions that we know, and what we need of each private part."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from inspect import signature
from pathlib import Path

import psycopg
import pytest

from tests.servers import Server
from usersync_cli.clients.postgres import connections, private
from usersync_cli.errors import Stopped
from usersync_cli.model import Database
from usersync_cli.signals import Stop

KNOWN = "psycopg[binary]>=3.2.9,<3.4"
PARTS = [
    (psycopg.Connection, "_connect_gen", ["conninfo", "timeout"]),
    (psycopg.Connection, "_start_query", ["self"]),
    (psycopg.Connection, "_exec_command", ["self", "command", "result_format"]),
    (psycopg.Connection, "wait", ["self", "gen", "interval"]),
    (psycopg.Cursor, "_execute_gen", ["self", "query", "params", "prepare", "binary"]),
    (psycopg.Cursor, "_maybe_prepare_gen", ["self", "pgq", "prepare", "binary"]),
    (psycopg.Cursor, "_execute_send", ["self", "query", "force_extended", "binary"]),
    (psycopg.Cursor, "_check_results", ["self", "results"]),
    (psycopg.Cursor, "_set_results", ["self", "results"]),
]


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def test_versions_that_are_known() -> None:
    """
    pyproject.toml asks for the versions whose private parts we know, and one of these is installed.
    """
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    first, last = KNOWN.split(",")

    assert KNOWN in project["dependencies"]
    assert numbers(first) <= numbers(version("psycopg")) < numbers(last)


@pytest.mark.parametrize(("owner", "name", "parameters"), PARTS, ids=[name for _, name, _ in PARTS])
def test_private_parts_are_as_we_know_them(owner: type, name: str, parameters: list[str]) -> None:
    """
    A new psycopg that renames one of them, or wants other arguments, is noticed here and not by a watchdog that never wakes.
    """
    ours = [one for one in signature(getattr(owner, name)).parameters if one in parameters]

    assert [one for one in parameters if one != "timeout"] == ours or parameters == ours


@pytest.fixture(params=["direct", "pooled"])
def tx(request: pytest.FixtureRequest, database: Database, pgbouncer: Server) -> Iterator[connections.Connection]:
    """A connection of ours in autocommit, also through a pooler in transaction mode."""
    name = database.url.split("/")[3].split("?")[0]
    url = pgbouncer.url(name) if request.param == "pooled" else database.url
    with connections.connect(Database(url, "target"), job="test") as connection:
        yield connection


STATEMENTS = [
    ("SELECT 1 + 2", None, {}),
    (b"SELECT 1 + 2 -- said", None, {}),
    ("SELECT 1 + %s", (2,), {}),
    ("SELECT 1 + %(two)s", {"two": 2}, {}),
    ("SELECT 1 + 2", None, {"binary": True}),
]


@pytest.mark.parametrize(("query", "params", "options"), STATEMENTS)
def test_a_statement_alone_is_one_round_trip(tx: connections.Connection, query: str, params: object, options: dict[str, bool]) -> None:
    """
    A statement in autocommit goes with its transaction and our settings in one round trip; the cursor has its result alone.
    """
    heard = os.memfd_create("libpq")
    tx.pgconn.trace(heard)
    cursor = tx.execute(query, params, **options)  # type: ignore[call-overload]
    tx.pgconn.untrace()
    said = os.pread(heard, 1 << 20, 0).decode()

    assert [(3,)] == cursor.fetchall()
    assert 1 == cursor.rowcount
    assert 1 == len(re.findall(r"^\S* ?\S*\tB\t\d+\tReadyForQuery", said, re.MULTILINE))
    assert psycopg.pq.TransactionStatus.IDLE == tx.info.transaction_status


def test_several_statements_alone(tx: connections.Connection) -> None:
    """
    Several statements in autocommit are one transaction, with our settings.
    """
    tx.execute("CREATE TABLE public.pair (a text); INSERT INTO public.pair VALUES (current_setting('search_path'))")

    assert ("pg_catalog, pg_temp",) == tx.execute("SELECT a FROM public.pair").fetchone()


@pytest.mark.parametrize("params", [None, (0,)])
def test_an_error_of_a_statement_alone(tx: connections.Connection, params: tuple[int] | None) -> None:
    """
    The error is that of the statement, with its SQLSTATE; nothing was done, and the connection can be used again.
    """
    tx.execute("CREATE TABLE public.one_trip (a int)")
    query = "INSERT INTO public.one_trip SELECT 1 / " + ("%s" if params else "0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        tx.execute(query.encode(), params)

    assert psycopg.pq.TransactionStatus.IDLE == tx.info.transaction_status
    assert (0,) == tx.execute("SELECT count(*) FROM public.one_trip WHERE a IS NOT NULL OR %s", (True,)).fetchone()


def test_the_first_error_is_the_one(tx: connections.Connection) -> None:
    """
    Of several statements in one round trip the first that fails is reported, and none after it is executed.
    """
    cursor = private.SurroundedCursor(tx)
    with pytest.raises(psycopg.errors.UndefinedObject, match="no_such"):
        cursor.execute_between([b"BEGIN", b"SELECT set_config('no_such', '', true)"], "SELECT %s", (1,), [b"END"])
    connections.rollback(tx)

    assert (2,) == tx.execute("SELECT 1 + %s", (1,)).fetchone()


@pytest.mark.parametrize("query", ["SELECT pg_sleep(30)", "SELECT pg_sleep(30); SELECT 1"])
def test_a_signal_ends_a_statement_alone(database: Database, query: str) -> None:
    """
    SIGTERM in a statement in autocommit that takes long: Stopped within a second, and the connection is closed.
    """
    stop = Stop()
    timer = threading.Timer(0.3, stop._note, (signal.SIGTERM, None))
    with connections.connect(database, job="test", stop=stop) as tx:
        began = time.monotonic()
        timer.start()
        with pytest.raises(Stopped):
            tx.execute(query.encode())

    assert 1.5 > time.monotonic() - began
    assert tx.closed


def test_asking_has_a_time_limit_of_its_own(database: Database) -> None:
    """
    The smallest of questions comes back from a server that answers.
    """
    with psycopg.connect(database.url, autocommit=True) as connection:
        private.ask(connection, 10)
