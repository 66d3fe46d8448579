"""What every checkpoint promises (run/checkpoint.py): that of a run and that of a preview, against a real database."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

import usersync_cli
from tests.load.merging import Load
from usersync_cli.clients.postgres.connections import Connection, connect
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.errors import Fenced, Stopped, Unavailable
from usersync_cli.load.table import TableLoad
from usersync_cli.model import Change, Database, Desired
from usersync_cli.run.checkpoint import Checkpoint, Committed, Preview
from usersync_cli.run.context import StepResult
from usersync_cli.signals import Stop
from usersync_cli.state import lease

PACKAGE = Path(usersync_cli.__file__).parent
BEFORE = [(1, "one"), (2, "two")]
DESIRED = "SELECT * FROM (VALUES (1, 'one'), (2, 'TWO'), (3, 'three')) AS v(id, name)"


@pytest.fixture(params=["committed", "preview"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def told() -> list[Change]:
    """The changes that a preview reported."""
    return []


@pytest.fixture
def checkpoint(kind: str, database: Database, told: list[Change]) -> Iterator[Checkpoint]:
    def diff(change: Change) -> bool:
        told.append(change)
        return len(told) < 2

    if kind == "preview":
        yield Preview(diff)
        return
    with lease.hold(database, "job", lease=timedelta(seconds=60), stop=Stop()) as held:
        yield Committed(held)


@pytest.fixture
def tx(database: Database, connection: psycopg.Connection) -> Iterator[Connection]:
    """A transaction that has begun, beside a table with two rows."""
    connection.execute("CREATE TABLE public.people (id int PRIMARY KEY, name text)")
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO public.people VALUES (%s, %s)", BEFORE)
    with connect(database, job="job", stop=Stop(), read_write=True) as tx:
        begin(tx, long=True)
        yield tx


@pytest.fixture
def done() -> StepResult:
    return StepResult("people")


def rows(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT * FROM public.people ORDER BY id").fetchall()


def insert(tx: Connection, number: int) -> int:
    return tx.execute(f"INSERT INTO public.people VALUES ({number}, 'new')".encode()).rowcount


@pytest.mark.parametrize("kind", ["committed"], indirect=True)
def test_what_a_run_does_stays(checkpoint: Checkpoint, tx: Connection, done: StepResult, connection: psycopg.Connection) -> None:
    """
    Behind the body is a COMMIT, and `done` says so; what is kept gives what its function gives, what is foreseen is not looked for.
    """
    with checkpoint.transaction(tx, done):
        assert not done.written
        assert 1 == checkpoint.keep(insert, tx, number=3)
        assert None is checkpoint.foresee(insert, tx, 4)

    assert [*BEFORE, (3, "new")] == rows(connection)
    assert done.written


@pytest.mark.parametrize("kind", ["preview"], indirect=True)
def test_a_preview_writes_nothing_whatever_is_kept(
    checkpoint: Checkpoint, tx: Connection, done: StepResult, connection: psycopg.Connection
) -> None:
    """
    What is kept is not even called: the transaction gets no number, so that nothing is written to the log of the database.
    """
    checkpoint.start("people")
    checkpoint.attach(tx)
    with checkpoint.transaction(tx, done):
        assert None is checkpoint.keep(insert, tx, number=3)
        assert (None,) == tx.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()
        assert "seen" == checkpoint.foresee(lambda what: what, "seen")
    checkpoint.note_streams("people", [("", None)])
    checkpoint.end("people", "ok")

    assert BEFORE == rows(connection)
    assert not done.written
    assert (None,) == connection.execute("SELECT to_regnamespace('usersync')").fetchone()


@pytest.mark.parametrize("kind", ["preview"], indirect=True)
def test_a_preview_ends_in_rollback(checkpoint: Checkpoint, tx: Connection, done: StepResult, connection: psycopg.Connection) -> None:
    """
    A write that went past `keep`, and the tables that a comparison makes, are taken back at the end of the transaction.
    """
    with checkpoint.transaction(tx, done):
        insert(tx, 3)

    assert BEFORE == rows(connection)
    assert psycopg.pq.TransactionStatus.IDLE == tx.info.transaction_status


@pytest.mark.parametrize("error", [Unavailable("the source is away"), ZeroDivisionError()])
def test_an_error_takes_everything_back(
    checkpoint: Checkpoint, tx: Connection, done: StepResult, connection: psycopg.Connection, error: Exception
) -> None:
    """
    Whatever the body raises comes out of it, behind a ROLLBACK.
    """
    with pytest.raises(type(error)), checkpoint.transaction(tx, done):
        insert(tx, 3)
        raise error

    assert BEFORE == rows(connection)
    assert not done.written
    assert psycopg.pq.TransactionStatus.IDLE == tx.info.transaction_status


@pytest.mark.parametrize("kind", ["committed"], indirect=True)
@pytest.mark.parametrize("at", ["before the fence", "before COMMIT"])
def test_a_run_that_was_replaced_commits_nothing(
    database: Database, checkpoint: Checkpoint, tx: Connection, done: StepResult, connection: psycopg.Connection, at: str
) -> None:
    """
    Once another run has the job, nothing passes the fence, and nothing the fence in front of COMMIT.
    """
    take_over = "UPDATE usersync.job_locks SET epoch = epoch + 1 WHERE job = 'job'"
    early = at == "before the fence"
    if early:
        connection.execute(take_over)
    with translated(database, "writing"), pytest.raises(Fenced), checkpoint.transaction(tx, done):
        assert not early, "passed the fence"
        insert(tx, 3)
        tx.execute(take_over.encode())  # the row is locked: only from inside can it be changed now

    assert BEFORE == rows(connection)
    assert not done.written
    with pytest.raises(Fenced):
        checkpoint.check()


def test_a_plan_is_applied_or_told(
    kind: str, checkpoint: Checkpoint, tx: Connection, done: StepResult, connection: psycopg.Connection, told: list[Change]
) -> None:  # fmt: skip
    """
    A run applies a plan and tells nothing. A preview tells each change until its reader has heard enough, and applies nothing.
    """
    target = TableLoad(Load(table="public.people", key=["id"]))
    more = iter([Change("people", "reject", {"id": str(number)}, reason="no_key") for number in (4, 5)])
    with checkpoint.transaction(tx, done):
        plan = target.plan(Desired(sql.SQL(DESIRED), 3), tx)
        checkpoint.load(target, plan, "people", tx)
        checkpoint.tell(more)

    if kind == "committed":
        assert ([(1, "one"), (2, "TWO"), (3, "three")], []) == (rows(connection), told)
        assert next(more)  # not even asked for
    else:
        assert [("update", {"id": "2"}), ("insert", {"id": "3"}), ("reject", {"id": "4"})] == [(one.kind, one.key) for one in told]
        assert BEFORE == rows(connection)


@pytest.mark.parametrize("kind", ["committed"], indirect=True)
def test_the_ledger_of_a_run(database: Database, checkpoint: Checkpoint, connection: psycopg.Connection) -> None:
    """
    The step's row begins and ends with the step, and its streams are noted; a preview has no row (above).
    """
    checkpoint.start("people")
    checkpoint.end("people", "partial", Unavailable("away"))
    checkpoint.note_streams("people", [("a", None), ("b", Unavailable("away"))])

    query = "SELECT run_id, status, error FROM usersync.run_steps"
    assert [(checkpoint.run_id, "partial", "away")] == connection.execute(query).fetchall()
    assert [("a", 0), ("b", 4)] == connection.execute("SELECT stream, exit_status FROM usersync.run_streams ORDER BY 1").fetchall()


def test_who_knows_of_the_lease() -> None:
    """
    In a run, only the run itself and its checkpoint do, and the one record that a command puts in, which is a run of its own: no step
    asks whether there is one.
    """
    files = [file for file in (PACKAGE / "run").rglob("*.py") if re.search(r"state\.lease|\b_?lease\b *(is|if|else|\))", file.read_text())]

    assert ["run/checkpoint.py", "run/documents/put.py", "run/job.py"] == sorted(file.relative_to(PACKAGE).as_posix() for file in files)


def test_an_error_is_what_it_was(kind: str, checkpoint: Checkpoint, database: Database) -> None:
    """
    A run that was replaced says so, whatever it met then; a signal stays a signal, and a preview has no job to lose.
    """
    away, stopped = Unavailable("the source is away"), Stopped(signal.SIGTERM)
    assert away is checkpoint.verdict(away)
    if kind == "committed":
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("UPDATE usersync.job_locks SET epoch = epoch + 1")
        assert isinstance(checkpoint.verdict(away), Fenced)

    assert stopped is checkpoint.verdict(stopped)
