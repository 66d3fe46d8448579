"""What a person decided, and the runs that come after it: a pin stays, an answer is not asked for again."""

from __future__ import annotations

from typing import Any

from tests.identity.test_filled_by_tables import Shop, shop
from usersync_cli.identity import conflicts, mappings, place

__all__ = ["shop"]  # a fixture
BY = mappings.Decision("Test User", "a test")


def decide(shop: Shop, what: Any, *arguments: Any, **options: Any) -> Any:
    with place.writing(shop.target, "testing") as tx:
        return what(tx, *arguments, **options)


def test_an_answer_is_not_asked_for_again(shop: Shop) -> None:
    """
    After its answer no run finds a conflict again, whatever it looks at, and the job is well.
    """
    other = (9, "example.com", None)
    shop.has(*((number, "example.org", None) for number in (1, 2, 3)), other)
    shop.sync()
    shop.has(*((number, "example.com", None) for number in (1, 2, 3)), other)
    shop.sync()
    numbers = shop.at_target("SELECT id FROM usersync.identity_conflicts ORDER BY app_id")
    for (number,), verdict in zip(numbers, ("accepted", "rejected", "ignored"), strict=True):
        decide(shop, conflicts.answer, [number], verdict, BY)

    assert shop.sync(full=True).steps[0].error is None
    shop.has(*((number, "https://example.com/elsewhere", None) for number in (1, 2, 3)), other)
    assert shop.sync().steps[0].error is None
    assert [("1", "example.com"), ("2", "example.org"), ("3", "example.org"), ("9", "example.com")] == shop.map()
    assert [] == [one for one in shop.conflicts() if one[-1] == "open"]


def test_what_was_moved_by_hand_is_not_disputed_by_what_its_record_says(shop: Shop) -> None:
    """
    `--move` away from what the record says answers that too; other news of the record are a conflict still, and the pin stays.
    """
    shop.has((1, "example.org", None), (2, "example.com", None))
    shop.sync()
    decide(shop, mappings.create, "shop", "1", "example.com", BY, move=True)

    assert shop.sync(full=True).steps[0].error is None
    assert [("1", "example.com"), ("2", "example.com")] == shop.map()
    shop.has((1, "example.net", None), (2, "example.com", None))
    assert shop.sync().steps[0].error is not None
    assert [("1", "example.com"), ("2", "example.com")] == shop.map()


def test_a_removed_mapping_comes_back_when_its_row_is_looked_at(shop: Shop) -> None:
    """
    A run without news leaves it alone; one with --full maps it again by its rule, unpinned.
    """
    shop.has((1, "example.org", None))
    shop.sync()
    decide(shop, mappings.remove, "shop", "1", BY)
    shop.sync()
    assert [] == shop.map()

    shop.sync(full=True)
    assert [("1", "example.org")] == shop.map()
    assert [("website", False)] == shop.at_target("SELECT rule, pinned FROM usersync.mappings")


def test_a_returned_id_that_is_let_go_is_decided_by_the_rules(shop: Shop) -> None:
    """
    The record of a pin that left and came back is a conflict; once accepted, the next run says by its rules whose it is.
    """
    shop.define(load={"on_missing": "delete", "max_missing": "50%"})
    shop.has((1, "example.org", None), (2, "example.com", None))
    shop.sync()
    decide(shop, mappings.create, "shop", "1", "example.org", BY, move=False)
    shop.has((2, "example.com", None))
    shop.sync()
    shop.has((1, "example.net", None), (2, "example.com", None))
    shop.sync()
    numbers = [number for (number,) in shop.at_target("SELECT id FROM usersync.identity_conflicts WHERE kind = 'returned'")]
    decide(shop, conflicts.answer, numbers, "accepted", BY)

    assert shop.sync().steps[0].error is None
    assert [("1", "example.net"), ("2", "example.com")] == shop.map()
    assert [] == [one for one in shop.conflicts() if one[-1] == "open"]
