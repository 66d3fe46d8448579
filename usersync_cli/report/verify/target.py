"""The target while it is compared: a transaction that writes nothing but temp tables, and what it knows of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from usersync_cli.clients.postgres.catalog import Table, describe
from usersync_cli.clients.postgres.connections import Connection, connect, rollback
from usersync_cli.clients.postgres.errors import translated
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.errors import NotFound
from usersync_cli.run.context import RunContext
from usersync_cli.state import ledger
from usersync_cli.state.ledger import StoredCursor

# Nothing hidden by a policy; how values are written as text, every transaction sets (`transactions.begin`).
SETTINGS = {"jit": "off", "row_security": "off", "cursor_tuple_fraction": "1"}


@contextmanager
def transaction(context: RunContext, doing: str, **settings: str) -> Iterator[Connection]:
    """A transaction of the target, rolled back at its end."""
    tx = connect(context.target, job=context.tools.job, stop=context.tools.stop, read_write=True)
    try:
        with translated(context.target, doing):
            begin(tx, long=True, **SETTINGS, **settings)  # type: ignore[arg-type]  # mypy takes any key for `long`
            yield tx
    finally:
        rollback(tx)
        tx.close()


def only_read(tx: Connection) -> None:
    """Temp tables that are there may still be filled; anything else is refused by the server."""
    tx.execute("SET TRANSACTION READ ONLY")


def table_of(tx: Connection, name: str, job: str) -> Table:
    table = describe(tx, name)
    if table is None:
        raise NotFound(f"target table {name} does not exist yet", hint=f"usersync run --job {job}")
    return table


def rejects_of(tx: Connection, job: str, step: str, stream: str = "") -> dict[str, bytes]:
    """Records that were set aside, key and hash. None where the role may not read them; then they count as missing."""
    if not ledger.may_read(tx, "rejects"):
        return {}
    query = "SELECT key, hash FROM usersync.rejects WHERE job = %s AND step = %s AND stream = %s"
    return dict(tx.execute(query, (job, step, stream)).fetchall())


def cursors_of(tx: Connection, job: str, step: str) -> Mapping[str, StoredCursor]:
    """What the last run read, by stream. Raises Drift where a newer program wrote that; empty where the role may not read it."""
    ledger.refuse_newer(tx)
    return ledger.cursors(tx, job, step) if ledger.may_read(tx, "cursors") else {}


def moved(context: RunContext, name: str, size: int) -> None:
    """So many bytes of an extract or stream were read: a step of the progress, and a place to stop."""
    context.tools.stop.check()
    context.progress(name, size)
