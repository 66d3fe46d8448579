"""The merge against a plain dict: whatever the source gives, the table is what the dict says, and the counts add up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.load.merging import load_rows
from usersync_cli.clients.postgres.connections import Connection, connect
from usersync_cli.errors import Drift, UsersyncError
from usersync_cli.model import Counts, Database
from usersync_cli.signals import Stop

EXAMPLES = int(os.environ.get("USERSYNC_TEST_EXAMPLES", "30"))
COLUMNS = {"id": "integer", "name": "text", "age": "integer", "_order": "integer"}
LOAD = {"table": "people", "key": ["id"], "order_by": "_order DESC NULLS LAST"}

# Few keys and few names, so that duplicates, swaps and conflicts are the rule.
row = st.tuples(st.integers(1, 5), st.none() | st.sampled_from("abcde"), st.none() | st.integers(0, 2), st.none() | st.integers(0, 1))
histories = st.lists(st.lists(row, max_size=8), min_size=1, max_size=5)

Table = dict[int, tuple[str | None, int | None]]


def winners(rows: list[tuple[Any, ...]]) -> Table:
    """The last by `_order`, NULL before none; then the smallest by the values as text, NULL after all."""

    def rank(r: tuple[Any, ...]) -> tuple[Any, ...]:
        return (r[3] is None, -(r[3] or 0), r[1] is None, r[1] or "", r[2] is None, str(r[2]))

    found: Table = {}
    for r in sorted(rows, key=rank, reverse=True):
        found[r[0]] = (r[1], r[2])
    return found


def names_collide(table: Table) -> bool:
    names = [name for name, _ in table.values() if name is not None]
    return len(names) != len(set(names))


def expected_counts(before: Table, rows: list[tuple[Any, ...]]) -> Counts:
    wanted = winners(rows)
    return Counts(
        read=len(rows),
        duplicates=len(rows) - len(wanted),
        inserted=len(wanted.keys() - before.keys()),
        updated=sum(key in before and before[key] != value for key, value in wanted.items()),
        unchanged=sum(before.get(key) == value for key, value in wanted.items()),
    )


@pytest.fixture
def tx(database: Database) -> Iterator[Connection]:
    with connect(database, job="test", stop=Stop(), read_write=True) as tx:
        yield tx


def content(tx: psycopg.Connection[Any]) -> Table:
    return {id_: (name, age) for id_, name, age in tx.execute("SELECT id, name, age FROM public.people")}


@pytest.mark.parametrize(
    "ddl", ["name text UNIQUE", "name text UNIQUE DEFERRABLE INITIALLY DEFERRED", "name varchar(40), UNIQUE (name, is_there)"]
)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories)
def test_the_table_is_what_the_model_says(tx: Connection, ddl: str, history: list[list[tuple[Any, ...]]]) -> None:
    """Any sequence of source states, with duplicates, NULLs, swapped and passed-on unique names: table and counts equal
    the model's; names that really collide change nothing; the same state again writes nothing."""
    tx.execute(
        "DROP TABLE IF EXISTS public.people;"
        f"CREATE TABLE public.people (id int PRIMARY KEY, age int, is_there bool NOT NULL DEFAULT true, {ddl})"
    )
    model: Table = {}
    for rows in history:
        after = model | winners(rows)
        if names_collide(after):
            with pytest.raises((Drift, psycopg.errors.UniqueViolation)):
                load_rows(tx, COLUMNS, rows, LOAD)
        else:
            assert expected_counts(model, rows) == load_rows(tx, COLUMNS, rows, LOAD)[0]
            again, _ = load_rows(tx, COLUMNS, rows, LOAD)
            assert (0, 0, True) == (again.inserted, again.updated, again.adds_up())
            model = after
        assert model == content(tx)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(row, max_size=10), there=st.lists(row, max_size=40))
def test_a_small_sync_into_a_big_table_counts_the_same(tx: Connection, rows: list[tuple[Any, ...]], there: list[tuple[Any, ...]]) -> None:
    """The comparison that does not read the whole table gives the same counts as the one that does."""
    tx.execute("DROP TABLE IF EXISTS public.people; CREATE TABLE public.people (id int PRIMARY KEY, name text, age int)")
    tx.execute("INSERT INTO public.people SELECT i FROM generate_series(100, 300) i; ANALYZE public.people")
    model: Table = {}
    for state in (there, rows):
        assert expected_counts(model, state) == load_rows(tx, COLUMNS, state, LOAD)[0]
        model |= winners(state)
    assert model == {id_: value for id_, value in content(tx).items() if id_ < 100}


@pytest.mark.parametrize("rows", [[(None, "a", 1, 1)], [(1, "a", 1, 1), (None, None, None, None)]])
@pytest.mark.parametrize("there", [[], [(1, "b", 2, 1)]])
def test_a_record_without_a_key_is_an_error(tx: Connection, rows: list[tuple[Any, ...]], there: list[tuple[Any, ...]]) -> None:
    """A record without a key is neither loaded nor passed over in silence, whether the table is empty or not."""
    tx.execute("CREATE TABLE public.people (id int PRIMARY KEY, name text, age int)")
    load_rows(tx, COLUMNS, there, LOAD)
    before = content(tx)

    with pytest.raises(UsersyncError, match=r"1 of \d records have no id, which is the key"):
        load_rows(tx, COLUMNS, rows, LOAD)

    assert before == content(tx)
