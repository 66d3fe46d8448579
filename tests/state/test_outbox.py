"""The outbox: calls are written down before they are made, each run's own, and what may have been given counts as given."""

from __future__ import annotations

import json
from dataclasses import replace

import psycopg
import pytest

from usersync_cli.model import Database
from usersync_cli.state import migrations, outbox
from usersync_cli.state.outbox import Living, StepScope

ALIVE = Living(("accounts",), None)
FIRST = StepScope("staff", "accounts", 1, target="realm one")
PLANNED = """
    CREATE TEMP TABLE usersync_planned AS
    SELECT row_number() OVER () AS number, key, action, account, wanted::jsonb AS wanted
      FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS p(key, action, account, wanted)
"""


@pytest.fixture
def tx(database: Database, connection: psycopg.Connection) -> psycopg.Connection:
    migrations.upgrade(database)
    return connection


def plan(tx: psycopg.Connection, scope: StepScope, *rows: tuple[str, str, str | None, dict[str, object]]) -> None:
    """What a target stages, and writes down: key, action, account, wanted."""
    tx.execute("DROP TABLE IF EXISTS pg_temp.usersync_planned")
    keys, actions, accounts, wanted = zip(*rows, strict=True)
    tx.execute(PLANNED, (list(keys), list(actions), list(accounts), [json.dumps(one) for one in wanted]))
    outbox.write(tx, scope)


def keys(tx: psycopg.Connection, scope: StepScope, which: outbox.Which) -> list[str]:
    return [intent.key for intent in outbox.open_ones(tx, scope, which)]


def recalled(tx: psycopg.Connection, scope: StepScope, living: Living = ALIVE) -> tuple[list[str], list[str], list[str]]:
    """Keys of our accounts, accounts of others, keys that were begun."""
    with tx.transaction(force_rollback=True):
        outbox.recall(tx, scope, living, there=True)
        mine, elsewhere, begun = (
            [str(value) for (value,) in tx.execute(f"SELECT {column} FROM pg_temp.usersync_{table} ORDER BY 1").fetchall()]
            for column, table in (("key", "accounts"), ("account", "elsewhere"), ("key", "begun"))
        )
    return mine, elsewhere, begun


def test_intents_are_written_once_and_are_those_of_their_run(tx: psycopg.Connection) -> None:
    """
    Written twice is once; people who leave, who give up a name, and all others are told apart; a later run ends what was left open.
    """
    rows = [("a", "create", None, {}), ("b", "update", "acc-b", {"park": {}}), ("c", "disable", "acc-c", {})]
    for _ in range(2):
        plan(tx, FIRST, *rows)

    found = {which: keys(tx, FIRST, which) for which in ("leaving", "parked", "staying")}
    assert {"leaving": ["c"], "parked": ["b"], "staying": ["a", "b"]} == found

    second = replace(FIRST, run_id=2)
    plan(tx, second, ("a", "create", None, {}))
    assert ([], ["a"]) == (keys(tx, FIRST, "staying"), keys(tx, second, "staying"))
    assert ["left", "left", "left", "open"] == sorted(one.state for one in outbox.written(tx, "staff", everything=True))


def test_what_may_have_been_given_counts_as_given(tx: psycopg.Connection) -> None:
    """
    An account is ours from the moment that it exists, with the roles that are yet to be given; without an outcome it is begun.
    """
    plan(tx, FIRST, ("a", "create", None, {"roles": ["teller"], "groups": [], "mail": "first"}), ("b", "create", None, {"roles": []}))
    a, _b = outbox.open_ones(tx, FIRST, "staying")
    assert ([], [], ["a", "b"]) == recalled(tx, FIRST)

    outbox.created(tx, FIRST, a, "acc-a")
    assert (["a"], [], ["a", "b"]) == recalled(tx, FIRST)
    assert (["teller"], "owed") == tx.execute("SELECT roles, mail FROM usersync.accounts").fetchone()

    outbox.mail(tx, FIRST, a, "sent")
    outbox.finish(tx, FIRST, a)
    assert (["a"], [], ["b"]) == recalled(tx, FIRST)
    assert ("sent",) == tx.execute("SELECT mail FROM usersync.accounts").fetchone()


def test_accounts_of_another_place_or_step_are_not_ours(tx: psycopg.Connection) -> None:
    """
    Another realm has other accounts; those of another living step or job at the same place are known as such, those of a dead one not.
    """
    for scope, account in ((FIRST, "x"), (replace(FIRST, step="others"), "y"), (replace(FIRST, job="dead"), "z")):
        plan(tx, scope, (account, "create", None, {}))
        (intent,) = outbox.open_ones(tx, scope, "staying")
        outbox.created(tx, scope, intent, f"acc-{account}")

    assert ([], []) == recalled(tx, replace(FIRST, target="realm two"), Living(("accounts", "others"), None))[:2]
    assert (["x"], ["acc-y"]) == recalled(tx, FIRST, Living(("accounts", "others"), ("staff",)))[:2]
    assert (["x"], ["acc-y", "acc-z"]) == recalled(tx, FIRST, Living(("accounts", "others"), None))[:2]


def test_what_was_wanted_is_forgotten_after_30_days(tx: psycopg.Connection) -> None:
    """
    It is people's data: an ended intent keeps its outcome, and nothing of what it wanted; an open one is left alone.
    """
    plan(tx, FIRST, ("a", "update", "acc-a", {"roles": ["teller"]}), ("b", "update", "acc-b", {"roles": ["teller"]}))
    a, _b = outbox.open_ones(tx, FIRST, "staying")
    outbox.did(tx, a, "update")
    outbox.end(tx, a, "refused", "same_email")
    tx.execute("UPDATE usersync.intents SET ended_at = ended_at - interval '31 days'")

    outbox.prune(tx, "staff")

    first, second = outbox.written(tx, "staff", everything=True)
    assert ("refused", "same_email", ["update"], None) == (first.state, first.error, list(first.done), first.wanted)
    assert ("open", {"roles": ["teller"]}) == (second.state, second.wanted)
    assert ["b"] == [one.key for one in outbox.written(tx, None, everything=False)]
