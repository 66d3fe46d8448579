"""The order of attempts, tried with statements made up here: plain functions that refuse some records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import pytest

from usersync_cli.load.bisect.attempts import PAIRS, AttemptFailed, Attempts, Cause

BAD = Cause("bad", "column it")
ALONE = Cause("refused")
Refuses = Callable[[Collection[str], Collection[str]], bool]


class Statement:
    """Takes records, letter by letter, unless it `refuses` them next to those that it took before; `found` are those that looking finds."""

    def __init__(self, refuses: Refuses, found: Collection[str] = (), known: Collection[str] = ()) -> None:
        self.refuses, self.found, self.known = refuses, found, known
        self.said: list[str] = []  # what was tried, in order: `abc` all of these, `?abc` look among these
        self.taken: list[str] = []
        self.rejected: dict[str, Cause] = {}

    def attempt(self, items: Sequence[str]) -> None:
        self.said.append("".join(items))
        if bad := {place: BAD for place, item in enumerate(items) if item in self.known}:
            raise AttemptFailed(ALONE, bad)
        if self.refuses(items, self.taken):
            raise AttemptFailed(ALONE)
        self.taken += items

    def find(self, items: Sequence[str], refused: AttemptFailed) -> Mapping[int, Cause]:
        assert refused.cause == ALONE
        self.said.append("?" + "".join(items))
        return {place: BAD for place, item in enumerate(items) if item in self.found}

    def load(self, items: str) -> Statement:
        Attempts(self.attempt, self.find, self.rejected.__setitem__).load(items)
        return self


def any_of(bad: str) -> Refuses:
    return lambda items, _: bool({*items} & {*bad})


@pytest.mark.parametrize(
    ("statement", "said", "rejected"),
    [
        (Statement(any_of("")), ["1234"], {}),
        (Statement(any_of("2"), found="2"), ["1234", "?1234", "134"], {"2": BAD}),
        (Statement(any_of("2"), known="2"), ["1234", "134"], {"2": BAD}),
        (Statement(any_of("2")), ["1234", "?1234", "12", "1", "2", "34", "2"], {"2": ALONE}),
        (Statement(any_of("23"), found="2"), ["1234", "?1234", "134", "?134", "1", "34", "3", "4", "3"], {"2": BAD, "3": ALONE}),
        (Statement(any_of("23"), known="3"), ["1234", "124", "?124", "1", "24", "2", "4", "2"], {"2": ALONE, "3": BAD}),
    ],
    ids=["all at once", "without those that are found", "known without looking", "halves", "found, then halves", "known, then halves"],
)
def test_the_order_of_attempts(statement: Statement, said: list[str], rejected: dict[str, Cause]) -> None:
    """
    All at once, then without those that are found, then in halves until records fail alone, then those once more.
    """
    statement.load("1234")

    assert said == statement.said
    assert rejected == statement.rejected
    assert {*"1234"} == {*statement.taken, *statement.rejected}


def test_nothing_is_tried_for_nobody() -> None:
    """
    Without records, nothing is asked.
    """
    assert [] == Statement(any_of("")).load("").said


def test_a_record_that_needs_another_one() -> None:
    """
    What failed alone is tried again when the others are there, as long as that helps: a refers to c, and c to d.
    """
    needs = {"a": "c", "c": "d"}
    statement = Statement(lambda items, taken: any(needs.get(item, item) not in {*items, *taken} for item in items) or len(items) > 1)

    assert ["b", "d", "c", "a"] == statement.load("abcd").taken
    assert {} == statement.rejected


def test_two_who_swap() -> None:
    """
    Two records that only fit together are found among those that fail alone; the bad one between them is rejected.
    """
    statement = Statement(lambda items, _: "x" in items or ("a" in items) != ("b" in items))

    assert {*"abc"} == {*statement.load("axcb").taken}
    assert {"x": ALONE} == statement.rejected


@pytest.mark.parametrize(("bad", "together"), [(PAIRS - 2, True), (PAIRS - 1, False)])
def test_pairs_are_tried_of_a_few_only(bad: int, *, together: bool) -> None:
    """
    Pairs of many would be too many attempts: records that only fit together are rejected then.
    """
    others = "".join(chr(ord("A") + i) for i in range(bad))
    statement = Statement(lambda items, _: bool({*items} & {*others}) or ("a" in items) != ("b" in items))

    assert {*others, *("" if together else "ab")} == {*statement.load(f"a{others}b").rejected}


def test_any_other_error_ends_the_search() -> None:
    """
    What is not about the records is raised, and nobody is rejected.
    """

    def lost(_: Sequence[str]) -> None:
        raise ConnectionError

    statement = Statement(any_of(""))
    with pytest.raises(ConnectionError):
        Attempts(lost, statement.find, statement.rejected.__setitem__).load("ab")

    assert {} == statement.rejected
