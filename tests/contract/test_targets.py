"""What every target promises (ports.py: OutboundTarget), held against a live one, and the table of PostgreSQL (load/table) too.

A new target brings a sample, see live.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, get_args

import pytest

from tests.contract.live import README, LiveOutbound, LiveTarget, sample
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.config.registry import target_port, target_types
from usersync_cli.errors import Drift
from usersync_cli.model import Change, Counts
from usersync_cli.ports import DisablesAccounts, LeavesOut, OutboundTarget, Tools
from usersync_cli.run.checkpoint import Preview
from usersync_cli.signals import Stop
from usersync_cli.state.outbox import StepContext, StepScope

Rows = Sequence[tuple[int, str]]

OUTBOUND = [*target_types(), README["targets"]]
DISABLE = [name for name in OUTBOUND if name == README["targets"] or target_port(name).disables]
NAMES = [*OUTBOUND, "postgres"]
BEFORE = [(1, "one"), (2, "two"), (3, "three")]
# One changed, one new, one the same, one that the source no longer has, and one twice.
AFTER = [(1, "one"), (2, "TWO"), (4, "four"), (4, "four")]


@pytest.fixture(params=NAMES)
def live(request: pytest.FixtureRequest, readme: None) -> LiveTarget:
    found: LiveTarget = sample("targets", request.param).live(request)
    found.fill(BEFORE)
    return found


@pytest.fixture
def planned(live: LiveTarget) -> Callable[[Rows], tuple[Any, Any, Connection]]:
    """A target and its plan for these rows, in a transaction of its own."""

    def plan(rows: Rows) -> tuple[Any, Any, Connection]:
        tx, target = live.begin(), live.target()
        return target, target.plan(live.desired(tx, rows), tx), tx

    return plan


@pytest.fixture
def load(live: LiveTarget, planned: Callable[[Rows], tuple[Any, Any, Connection]]) -> Callable[[Rows], Counts]:
    """Plan, apply, commit: what a step does."""

    def run(rows: Rows) -> Counts:
        target, plan, tx = planned(rows)
        if not live.in_checkpoint:
            tx.execute("COMMIT")
        counts: Counts = target.apply(plan, tx)
        if live.in_checkpoint:
            tx.execute("COMMIT")
        return counts

    return run


def after(live: LiveTarget) -> Rows:
    """What is there once AFTER was loaded over BEFORE."""
    return [(1, "one"), (2, "TWO" if live.changes else "two"), (3, "three"), (4, "four")]


Planned = Callable[[Rows], tuple[Any, Any, Connection]]
Loads = Callable[[Rows], Counts]


def test_every_target_can_be_tested() -> None:
    """
    Each file in targets/ has a PORT and a sample here; without one, nothing would hold it to the contract.
    """
    assert target_types()
    for name in target_types():
        assert name == get_args(target_port(name).settings.model_fields["type"].annotation)[0]
        assert callable(sample("targets", name).live), name


def test_what_does_not_fit_is_refused_before_anything_is_written(live: LiveTarget) -> None:
    """
    A plan that doesn't fit raises Drift with what would help, and nothing was written, not even in the transaction.
    """
    before = live.fingerprint()
    tx = live.begin()
    desired = live.desired(tx, AFTER)
    with pytest.raises(Drift) as error:
        live.misfit().plan(desired, tx)

    assert error.value.hint
    assert 0 == live.written(tx)
    tx.execute("COMMIT")
    assert before == live.fingerprint()


def test_a_plan_writes_nothing_outside_its_transaction(live: LiveTarget, planned: Planned) -> None:
    """
    Rolled back, a plan has left nothing: the target is byte for byte what it was. That is a dry run.
    """
    before = live.fingerprint()
    _, plan, tx = planned(AFTER)
    during = live.fingerprint()
    written = live.written(tx)
    tx.execute("ROLLBACK")

    assert plan.counts.inserted
    assert 0 == written
    assert [before, before] == [during, live.fingerprint()]


def test_apply_does_what_was_planned(live: LiveTarget, load: Loads) -> None:
    """
    Afterwards the target holds what was desired; what the source does not mention stays, and so does what a person decides.
    """
    load(AFTER)

    assert after(live) == list(live.rows())


@pytest.mark.parametrize("rows", [AFTER, BEFORE, [], [(9, "nine")], [(2, "x"), (2, "x"), (2, "x")]], ids=repr)
def test_counts_add_up(live: LiveTarget, load: Loads, rows: Rows) -> None:
    """
    read = distinct + duplicates, and distinct = inserted + updated + unchanged + stale + rejected, none of them negative.
    """
    there = dict(BEFORE)
    desired = dict(rows)
    counts = load(rows)

    assert counts.adds_up()
    assert (len(rows), len(desired)) == (counts.read, counts.distinct)
    assert len(desired.keys() - there.keys()) == counts.inserted
    different = len([key for key in desired.keys() & there.keys() if desired[key] != there[key]])
    assert (different if live.changes else 0, 0 if live.changes else different) == (counts.updated, counts.rejected)
    assert min(asdict(counts).values()) >= 0


def test_a_dry_run_has_the_numbers_of_the_real_one(planned: Planned, load: Loads) -> None:
    """
    The counts of a plan that was rolled back are those of the same plan, applied.
    """
    _, plan, tx = planned(AFTER)
    tx.execute("ROLLBACK")

    assert asdict(load(AFTER)) == asdict(plan.counts)


def test_twice_is_once(live: LiveTarget, load: Loads) -> None:
    """
    The same rows again: nothing is inserted, updated or gone, and the target is the same.
    """
    first = load(AFTER)
    before = live.fingerprint()
    again = load(AFTER)

    assert (1, 1) == (first.inserted, first.updated if live.changes else first.rejected)
    assert (0, 0, 0, 3) == (again.inserted, again.updated, again.gone, again.unchanged + again.rejected)
    assert before == live.fingerprint()


def test_applying_a_plan_twice_is_once(live: LiveTarget, planned: Planned) -> None:
    """
    Who does not know whether a plan was applied, applies it again.
    """
    target, plan, tx = planned(AFTER)
    first = target.apply(plan, tx)
    target.apply(plan, tx)
    tx.execute("COMMIT")

    assert asdict(plan.counts) == asdict(first)
    assert after(live) == list(live.rows())


def test_unchanged_writes_nothing(live: LiveTarget, planned: Planned) -> None:
    """
    Where nothing differs, no row is inserted, updated or deleted: no table, no index, no log.
    """
    target, plan, tx = planned(BEFORE)
    counts = target.apply(plan, tx)

    assert (3, 0) == (counts.unchanged, live.written(tx))
    tx.execute("COMMIT")


def test_only_what_differs_is_written(live: LiveTarget, planned: Planned) -> None:
    """
    As many rows are written as are new or changed.
    """
    target, plan, tx = planned(AFTER)
    counts = target.apply(plan, tx)

    assert counts.inserted + counts.updated + counts.gone == live.written(tx)
    tx.execute("COMMIT")


def test_a_rolled_back_apply_left_nothing(live: LiveTarget, planned: Planned) -> None:
    """
    Where apply stands in the checkpoint, rolling that back takes the rows with it.
    """
    target, plan, tx = planned(AFTER)
    if not live.in_checkpoint:
        return
    target.apply(plan, tx)
    tx.execute("ROLLBACK")

    assert BEFORE == list(live.rows())


# what a target outside PostgreSQL promises in addition


@pytest.fixture(params=OUTBOUND)
def outbound(request: pytest.FixtureRequest, readme: None) -> LiveOutbound:
    found: LiveOutbound = sample("targets", request.param).live(request)
    found.fill(BEFORE)
    return found


@pytest.fixture(params=DISABLE)
def accounts(request: pytest.FixtureRequest, readme: None) -> LiveOutbound:
    found: LiveOutbound = sample("targets", request.param).live(request)
    found.fill(BEFORE)
    return found


@pytest.fixture
def later(accounts: LiveOutbound) -> tuple[DisablesAccounts[Any], Any, Connection]:
    """A target and its plan for AFTER, in a transaction of its own, behind a run that has written BEFORE down."""
    tx, first = accounts.begin(), accounts.target()
    plan = first.plan(accounts.desired(tx, BEFORE), tx)
    tx.execute("COMMIT")
    first.apply(plan, tx)
    tx, target = accounts.begin(), accounts.target()
    assert isinstance(target, DisablesAccounts)
    return target, target.plan(accounts.desired(tx, AFTER), tx), tx


Later = tuple[DisablesAccounts[Any], Any, Connection]


def gone(tx: Connection, *keys: str) -> None:
    """What the engine stages before it calls `disable`."""
    tx.execute("CREATE TEMP TABLE usersync_gone ON COMMIT DROP AS SELECT unnest(%s::text[]) AS key, false AS free", (list(keys),))


def test_it_has_no_public_name_that_the_port_does_not_know(outbound: LiveOutbound) -> None:
    """
    The target inherits the port by name; what it has in addition is private to its folder.
    """
    target = outbound.target()

    assert isinstance(target, OutboundTarget)
    assert set() == {name for name in vars(type(target)) if not name.startswith("_")} - set(dir(DisablesAccounts)) - set(dir(LeavesOut))


@pytest.mark.usefixtures("readme")
@pytest.mark.parametrize("name", OUTBOUND)
def test_opening_it_contacts_nothing(request: pytest.FixtureRequest, name: str) -> None:
    """
    `opened` gives an OutboundTarget, and `place` names what is written to without a secret; neither asks it anything.
    """
    live: LiveOutbound = sample("targets", name).live(request)
    before = live.fingerprint(), live.written(live.begin())
    context = StepContext(StepScope("contract", "people", 0), Stop(), Preview().keep)
    tools = Tools("contract", Stop(), lambda *_: pytest.fail("no database is asked for"))

    with target_port(name).opened(name, live.settings, context, tools) as target:
        assert isinstance(target, OutboundTarget)
        assert target_port(name).disables == isinstance(target, DisablesAccounts)
    place = target_port(name).place(live.settings)

    assert place
    assert not [value for key, value in dict(live.settings).items() if "secret" in key and value in place]
    assert before == (live.fingerprint(), live.written(live.begin()))


def test_who_is_leaving(later: Later) -> None:
    """
    Accounts whose people are not desired are counted and listed, of all enabled ones that an earlier run wrote down.
    """
    target, _plan, tx = later
    listed = tx.execute("SELECT key, record, known FROM pg_temp.usersync_leaving").fetchall()

    assert ([("3", "3", True)], (1, 3)) == (listed, target.leaving(tx, known=True))
    assert 0 == target.leaving(tx, known=False)[0]
    tx.execute("ROLLBACK")


def test_an_account_that_nobody_wrote_down(live: LiveTarget, planned: Planned) -> None:
    """
    An account that only the target says is ours leaves apart from those that this job remembers.
    """
    target, _plan, tx = planned(AFTER)
    if isinstance(target, DisablesAccounts):
        assert ((0, 0), (1, 3)) == (target.leaving(tx, known=True), target.leaving(tx, known=False))
    tx.execute("ROLLBACK")


def test_gone_is_disabled_and_nobody_else(accounts: LiveOutbound, later: Later) -> None:
    """
    Accounts on `usersync_gone` are disabled when the plan is applied, and stay there; all others stay enabled.
    """
    target, plan, tx = later
    gone(tx, "3")
    target.disable(tx, plan, known=True)
    tx.execute("COMMIT")
    target.apply(plan, tx)

    assert [1, 2, 4] == list(accounts.enabled())
    assert [(1, "one"), (2, "TWO"), (3, "three"), (4, "four")] == list(accounts.rows())


def test_a_preview_keeps_nothing(outbound: LiveOutbound) -> None:
    """
    What a plan leaves behind goes through the step's door: in a dry run no table of usersync has a new row, not even for a while.
    """
    target, tx = outbound.preview(), outbound.begin()
    plan = target.plan(outbound.desired(tx, AFTER), tx)
    gone(tx)
    for known in (True, False) if isinstance(target, DisablesAccounts) else ():
        target.disable(tx, plan, known=known)

    assert [(0,), (0,)] == tx.execute("SELECT count(*) FROM usersync.intents UNION ALL SELECT count(*) FROM usersync.accounts").fetchall()
    tx.execute("ROLLBACK")


def test_whom_the_guard_keeps_stays_enabled(accounts: LiveOutbound, later: Later) -> None:
    """
    An account that is leaving and is not on `usersync_gone` is left as it is.
    """
    target, plan, tx = later
    gone(tx)
    for known in (True, False):
        target.disable(tx, plan, known=known)
    tx.execute("COMMIT")
    target.apply(plan, tx)

    assert [1, 2, 3, 4] == list(accounts.enabled())


def test_who_is_kept_out_does_not_leave(later: Later) -> None:
    """
    An account whose person the source lists and does not give becomes a conflict with that reason, and leaves the list.
    """
    target, _plan, tx = later

    assert 1 == target.kept_out(tx, {"3": "on_leave", "nobody": "on_leave"})
    assert (0, 3) == target.leaving(tx, known=True)
    assert [("3", "on_leave")] == tx.execute("SELECT id, reason FROM pg_temp.usersync_conflicts").fetchall()
    tx.execute("ROLLBACK")


def test_changes_are_what_is_counted(later: Later) -> None:
    """
    A preview has one change for each person that the counts speak of, and for each account that goes.
    """
    target, plan, tx = later
    gone(tx, "3")
    target.disable(tx, plan, known=True)
    changes: list[Change] = list(target.changes("people", tx))

    assert [("disable", "3"), ("insert", "4"), ("update", "2")] == sorted((one.kind, str(one.key["id"])) for one in changes)
    assert (1, 1) == (plan.counts.inserted, plan.counts.updated)
    tx.execute("ROLLBACK")


def test_a_look_writes_nothing_and_finds_what_is_wrong(outbound: LiveOutbound) -> None:
    """
    `look` says in words what it looked at, without a problem where there is none; where a plan would not fit, with what helps.
    """
    before = outbound.fingerprint()
    target, misfit = outbound.target(), outbound.misfit()
    assert isinstance(target, OutboundTarget)
    assert isinstance(misfit, OutboundTarget)
    tx = outbound.begin()
    looked = list(target.look(tx))

    assert looked
    assert {None} == {problem for _, problem in looked}
    assert [problem.hint for _, problem in misfit.look(tx) if problem]
    assert before == outbound.fingerprint()
