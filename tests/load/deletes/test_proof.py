"""Whether a row may go: the table of load/deletes/proof.py, and that the guard's SQL follows it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import product

import pytest
from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection, connect
from usersync_cli.config.jobs import Load
from usersync_cli.errors import GuardRefused
from usersync_cli.load.deletes import proof
from usersync_cli.load.deletes.guard import GONE, Sweep
from usersync_cli.load.deletes.proof import DeleteVerdict, Evidence, Guard
from usersync_cli.model import Database
from usersync_cli.ports import OneMoment, TellsWhoIsGone
from usersync_cli.signals import Stop
from usersync_cli.state.readings import Memory, Scope

PROOFS = """
told  complete  asked  snapshot  lacked | verdict
no    no        -      no        no     | not proven
no    no        -      no        yes    | not proven
no    no        -      yes       no     | not proven
no    no        -      yes       yes    | not proven
no    no        no     no        no     | not proven
no    no        no     no        yes    | not proven
no    no        no     yes       no     | not proven
no    no        no     yes       yes    | not proven
no    no        yes    no        no     | not proven
no    no        yes    no        yes    | not proven
no    no        yes    yes       no     | not proven
no    no        yes    yes       yes    | not proven
no    yes       -      no        no     | first time lacked
no    yes       -      no        yes    | goes
no    yes       -      yes       no     | goes
no    yes       -      yes       yes    | goes
no    yes       no     no        no     | not proven
no    yes       no     no        yes    | not proven
no    yes       no     yes       no     | not proven
no    yes       no     yes       yes    | not proven
no    yes       yes    no        no     | goes
no    yes       yes    no        yes    | goes
no    yes       yes    yes       no     | goes
no    yes       yes    yes       yes    | goes
"""
GUARD = """
free  refused  listed | verdict
no    no       -      | goes
no    no       no     | kept by the guard
no    no       yes    | goes
no    yes      -      | kept by the guard
no    yes      no     | kept by the guard
no    yes      yes    | goes
yes   no       -      | free
yes   no       no     | free
yes   no       yes    | free
yes   yes      -      | free
yes   yes      no     | free
yes   yes      yes    | free
"""
WORDS = {False: "no", True: "yes", None: "-"}
BOTH, THREE = (False, True), (None, False, True)
GUARDS = [Guard(*values) for values in product(BOTH, BOTH, THREE)]


def table(heads: str, rows: list[tuple[tuple[bool | None, ...], DeleteVerdict]]) -> str:
    """The rows as the tables above have them."""
    names = heads.split()
    lines = [f"{heads} | verdict"]
    for values, verdict in rows:
        cells = "  ".join(f"{WORDS[value]:{len(name)}}" for name, value in zip(names, values, strict=True))
        lines.append(f"{cells} | {verdict.value}")
    return "\n".join(["", *lines, ""])


def test_the_proof() -> None:
    """
    A record is gone when a complete listing lacks it and one more thing says so: a second look if there can be one, else that
    the listing is of one moment, else an earlier listing. A second look that still finds it outranks both.
    """
    cases = product([False], BOTH, THREE, BOTH, BOTH)

    assert table("told  complete  asked  snapshot  lacked", [(case, proof.verdict(Evidence(*case))) for case in cases]) == PROOFS


def test_what_the_source_reports_itself_is_proven() -> None:
    """
    A deletion that the source reports, or that the transform makes by leaving a record out, needs no listing.
    """
    assert {DeleteVerdict.GOES} == {proof.verdict(Evidence(*rest)) for rest in product([True], BOTH, THREE, BOTH, BOTH)}


def test_the_guard() -> None:
    """
    Of rows whose records are gone: an approved list lets exactly its own go, a refusal keeps all, and neither touches a free one.
    """
    cases = product(BOTH, BOTH, THREE)

    assert table("free  refused  listed", [(case, proof.verdict(proof.PROVEN, Guard(*case))) for case in cases]) == GUARD


@pytest.mark.parametrize("guard", GUARDS)
def test_no_guard_lets_go_what_is_not_proven(guard: Guard) -> None:
    """
    Neither an approval nor that a row is free replaces the proof.
    """
    assert DeleteVerdict.UNPROVEN is proof.verdict(Evidence(complete=True, confirmed=False), guard)
    assert DeleteVerdict.FIRST is proof.verdict(Evidence(complete=True), guard)


@pytest.mark.parametrize(
    ("gone", "snapshot", "goes", "first", "unproven"),
    [
        ({"a", "x"}, False, ["a"], [], ["b"]),  # what was not asked for does not count
        (set(), True, [], [], ["a", "b"]),
        (None, True, ["a", "b"], [], []),
        (None, False, ["b"], ["a"], []),
    ],
)
def test_sorting_what_a_listing_lacks(
    gone: set[str] | None, *, snapshot: bool, goes: list[str], first: list[str], unproven: list[str]
) -> None:
    """
    Each key that a complete listing lacks gets its verdict: a is lacked for the first time, b was lacked before.
    """
    found = proof.sort({"a": False, "b": True}, gone=gone, snapshot=snapshot)

    assert (goes, first, unproven) == (found[DeleteVerdict.GOES], found[DeleteVerdict.FIRST], found[DeleteVerdict.UNPROVEN])
    assert 2 == sum(map(len, found.values()))


class Listed:
    """A session that only lists."""


class Snapshot(OneMoment):
    """A session whose listing shows one moment."""


class Asked(TellsWhoIsGone):
    """A session that can be asked, and answers that all but b are gone. It keeps what it was asked."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def gone(self, stream: str, keys: Sequence[str]) -> Collection[str]:
        self.keys += [stream, *keys]
        return set(keys) - {"b"}


class AskedSnapshot(Asked, OneMoment):
    """A session that could do both; what it is asked counts."""


@pytest.mark.parametrize(
    ("session", "by_listing", "goes", "first"),
    [
        (None, True, None, None),  # a source of tables: read in one snapshot, so nothing is asked for by key
        (Listed(), False, ["b"], ["a"]),
        (Snapshot(), True, ["a", "b"], []),
        (Asked(), False, ["a"], []),
        (AskedSnapshot(), False, ["a"], []),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_a_source_can_do_decides_how_it_is_proven(
    session: object, *, by_listing: bool, goes: list[str] | None, first: list[str] | None
) -> None:
    """
    A source that can be asked is asked, of all that a listing lacks at once, and of nobody else.
    """
    assert by_listing is proof.by_listing(session)
    if session is None:
        return
    found = proof.look_again(session, "people", {"b": True, "a": False})
    assert (goes, first) == (sorted(found[DeleteVerdict.GOES]), found[DeleteVerdict.FIRST])
    if isinstance(session, Asked):
        assert ["people", "a", "b"] == session.keys
        proof.look_again(session, "people", {})
        assert 3 == len(session.keys)


@pytest.fixture
def gone(database: Database) -> Iterator[Connection]:
    """GONE with a row for each of free and listed, and the list 7 that has the listed ones."""
    with connect(database, job="test", stop=Stop(), read_write=True) as tx:
        tx.execute("CREATE SCHEMA usersync; CREATE TABLE usersync.approval_keys (approval_id bigint, key text)")
        tx.execute(
            "CREATE TEMP TABLE usersync_gone AS SELECT concat(free, listed) AS key, free, listed"
            " FROM unnest('{t,f}'::boolean[]) AS free, unnest('{t,f}'::boolean[]) AS listed"
        )
        tx.execute("INSERT INTO usersync.approval_keys SELECT 7, key FROM pg_temp.usersync_gone WHERE listed UNION ALL SELECT 8, 'ff'")
        yield tx


def test_the_statement_follows_the_table(gone: Connection) -> None:
    """
    `Sweep.goes`, by which rows are deleted, marked and shown, lets exactly those go that the table lets go.
    """
    scope, load = Scope("job", "people", 1, "people (id)", "", ""), Load(table="people", key=["id"])
    for refused, approval in product(BOTH, (None, 7)):
        refusal = GuardRefused("too many") if refused else None
        sweep = Sweep(scope, load, Memory(1), 9, approval=approval, refusal=refusal, looked=True)
        rows = gone.execute(sql.SQL("SELECT free, listed, {} FROM {} AS g").format(sweep.goes, GONE)).fetchall()

        table_ = [(free, listed, proof.goes(Guard(free, refused, listed if approval else None))) for free, listed, _ in rows]
        assert (4, table_) == (len(rows), rows)
