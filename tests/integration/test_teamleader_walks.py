"""Lists of Teamleader that change, lie or are shuffled while they are walked: nothing is lost, nobody is removed who is there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.teamleader_job import Crm
from tests.teamleader_server import Asked, Teamleader
from usersync_cli.sources import teamleader

STREAM_OF = {"customFieldDefinitions": "custom_fields", "projects-v2/projects": "projects"}
SINCE = ["contacts", "companies", "invoices", "projects"]  # those whose changes can be asked for


@pytest.fixture
def api() -> Iterator[Teamleader]:
    with Teamleader().running() as running:
        yield running


@pytest.fixture
def crm(api: Teamleader, database: Any) -> Crm:
    """Contacts alone."""
    return Crm(api, database)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five, so that a few records fill many."""
    monkeypatch.setattr(teamleader, "PAGE_RECORDS", 5)


def at(path: str, number: int, act: Callable[[], object], *, times: int = 1) -> Callable[[Asked], None]:
    """A hook that acts before this page of this list is answered, so many times."""
    left = itertools.count()

    def before(asked: Asked) -> None:
        if asked.path == path and asked.page == number and next(left) < times:
            act()

    return before


# exactly a page


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_page_that_slid_down_is_no_copy(crm: Crm, number: int) -> None:
    """
    As many records as a page holds are deleted below: the next page shows what the last one showed, and that is right.
    """
    ids = crm.server.add("contacts", 27)
    crm.server.before = at("contacts.list", number, lambda: [crm.server.delete("contacts", id_) for id_ in ids[:5]])
    crm.ok()
    crm.ok(full=True)

    assert crm.is_equal()


@pytest.mark.parametrize("resource", ["contacts", "companies"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_page_of_changes_that_slid_down_is_no_copy(api: Teamleader, database: Any, resource: str, number: int) -> None:
    """
    As many changed records as a page holds change once more while changes are read: they stand behind us then.
    """
    crm = Crm(api, database, [resource])
    ids = api.add(resource, 27)
    crm.ok()
    for age, id_ in enumerate(ids[:13]):
        api.change(resource, id_, remarks="changed", updated_at=(api.now() - timedelta(seconds=60 - age)).isoformat())
    api.before = at(f"{resource}.list", number, lambda: [api.change(resource, id_, remarks="again") for id_ in ids[:5]])
    crm.ok()
    crm.ok()

    assert crm.is_equal(resource, resource)
