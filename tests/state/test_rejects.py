"""Where records that were set aside wait: once each, until they are loaded, dropped or forgotten."""

from __future__ import annotations

import psycopg
import pytest

from usersync_cli.errors import NotFound
from usersync_cli.model import Database
from usersync_cli.state import migrations, rejects
from usersync_cli.state.rejects import Reject, Stored

HERE = ("copy", "people", "")


def test_a_reject_waits_once(database: Database, connection: psycopg.Connection) -> None:
    """
    The same bad document is one row however often it is met; a changed one waits again; what was dropped stays so until then.
    """
    assert [] == rejects.waiting(connection)
    migrations.upgrade(database)
    bad, keyless = Reject("7", "not_null_violation", "column name", b'{"id": 7}', "v1"), Reject(None, "no_key", "", b"{}")

    assert Stored(new=2) == rejects.store(connection, *HERE, 1, [bad, keyless])
    assert Stored(known=2) == rejects.store(connection, *HERE, 2, [keyless, bad, bad])
    first, second = rejects.waiting(connection, "copy")
    assert ("7", 2, "waiting", "column name", "v1") == (first.key, first.run_id, first.status, first.detail, first.version)
    assert "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" == second.key
    assert b'{"id": 7}' == rejects.document(connection, first.id)

    assert 1 == rejects.drop(connection, [first.id])
    assert Stored(dropped=1) == rejects.store(connection, *HERE, 3, [bad])
    assert {("copy", "people"): 1} == rejects.count_waiting(connection)
    assert Stored(new=1) == rejects.store(connection, *HERE, 4, [Reject("7", "not_null_violation", "column name", b'{"id": 7, "x": 1}')])
    assert {("copy", "people"): 2} == rejects.count_waiting(connection, "copy", step="people")

    assert 1 == rejects.resolve_unmet(connection, *HERE, 4)
    assert 1 == rejects.resolve(connection, *HERE, ["7", "8"])
    assert [] == rejects.waiting(connection, dropped=True)


def test_documents_are_forgotten_after_30_days(database: Database, connection: psycopg.Connection) -> None:
    """
    Then the row has its reason and key left; when the record is met again, the document is back.
    """
    migrations.upgrade(database)
    bad = Reject("7", "not_null_violation", "", b"{}")
    rejects.store(connection, *HERE, 1, [bad])
    assert 0 == rejects.prune(connection, "copy")
    connection.execute("UPDATE usersync.rejects SET last_at = now() - interval '31 days'")

    assert 1 == rejects.prune(connection, "copy")

    (kept,) = rejects.chosen(connection, [1], "copy")
    assert not kept.has_document
    assert Stored(known=1) == rejects.store(connection, *HERE, 2, [bad])
    assert b"{}" == rejects.document(connection, 1)
    with pytest.raises(NotFound, match="no reject 5, 6"):
        rejects.chosen(connection, [1, 6, 5])
