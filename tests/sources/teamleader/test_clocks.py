"""Clocks of Teamleader that disagree, of its documents and of its Date header: no change is lost, no bulk import is listed for ever."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.teamleader_job import Crm
from tests.teamleader_server import Asked, Teamleader
from usersync_cli.sources.teamleader import limits

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BEHIND = [timedelta(minutes=20), timedelta(hours=5), timedelta(minutes=-20), timedelta(hours=-14)]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five, so that a few records fill many."""
    monkeypatch.setattr(limits, "PAGE_RECORDS", 5)


def lists(asked: list[Asked]) -> list[int]:
    """The pages that were asked for."""
    return [one.page for one in asked if one.action == "list"]


def hours(crm: Crm, ids: list[str], number: int) -> None:
    """Changes and runs by turns, an hour apart: nothing is missing after any of them."""
    for _ in range(number):
        crm.server.ahead += HOUR
        for id_ in ids:
            crm.server.change("contacts", id_, remarks=str(crm.server.ahead))
        crm.server.ahead += timedelta(seconds=5)
        crm.ok()
        assert crm.has_all(), crm.server.ahead


@pytest.mark.parametrize("zone", ["+00:00", ""])
@pytest.mark.parametrize("behind", BEHIND)
def test_the_clock_of_the_documents_is_another(crm: Crm, behind: timedelta, zone: str) -> None:
    """
    Documents whose times are 20 minutes or five hours behind the header Date, or ahead of it, with or without a zone: each change comes.
    """
    crm.server.behind, crm.server.zone = behind, zone
    ids = crm.server.add("contacts", 12)
    crm.ok()

    hours(crm, ids[3:6], 3)


def test_projects_show_no_time_but_have_an_hour(api: Teamleader, database: Any) -> None:
    """
    Where a list shows no time of a change, changes are asked for since an hour before the last walk.
    """
    api.behind = timedelta(minutes=50)
    crm = Crm(api, database, ["projects"])
    ids = api.add("projects", 7)
    crm.ok()
    for number in range(3):
        api.change("projects", ids[number], title="changed")
        crm.ok()
        assert crm.has_all("projects", "projects")


def wrong_once(moment: datetime) -> Callable[[datetime], datetime]:
    """One answer of several has this time."""
    numbers = itertools.count()
    return lambda date: moment if next(numbers) == 2 else date


@pytest.mark.parametrize("how", ["far ahead", "backwards", "ahead once"])
def test_dates_that_jump(crm: Crm, how: str) -> None:
    """
    The Date of one walk is years ahead, or goes backwards from answer to answer: later changes come, and sweeps too.
    """
    ids = crm.server.add("contacts", 12)
    crm.ok()
    numbers = itertools.count()
    ahead = crm.server.now() + 9000 * DAY
    crm.server.dates = {
        "far ahead": lambda date: date + 9000 * DAY,
        "backwards": lambda date: date + HOUR - timedelta(minutes=20) * (next(numbers) % 4),
        "ahead once": wrong_once(ahead),
    }[how]
    crm.ok(full=True)
    crm.server.dates = (lambda date: date) if how != "backwards" else crm.server.dates
    hours(crm, ids[3:6], 2)
    crm.server.delete("contacts", ids[8])
    crm.server.ahead += 8 * DAY
    crm.ok()
    assert crm.is_equal()
    assert not [one for one in crm.requests() if one.action == "list" and "filter" not in one.body], "it is not listed whole each time"


@pytest.mark.parametrize("behind", [timedelta(0), timedelta(minutes=20)])
def test_a_bulk_import_is_not_listed_for_ever(crm: Crm, behind: timedelta) -> None:
    """
    27 records changed at one moment are six pages: once they were listed again, changes are asked for since later, and all that
    changes then still comes.
    """
    crm.server.behind = behind
    ids = crm.server.add("contacts", 27)
    crm.ok()
    stamp = crm.server.now() - behind
    for id_ in ids:
        crm.server.change("contacts", id_, remarks="imported", updated_at=stamp.isoformat())
    asked = []
    for _ in range(4):
        crm.server.ahead += HOUR
        asked.append(len(lists(crm.requests())))

    assert asked[0] > 6
    assert [2, 2] == asked[2:], "nothing, and a second look"
    hours(crm, ids[3:6], 2)


def test_one_time_in_the_future_is_not_believed(crm: Crm) -> None:
    """
    A record of the year 2099 says nothing of what time it is there: others that lag still come, and it is not asked for each time.
    """
    crm.server.behind = timedelta(minutes=20)
    ids = crm.server.add("contacts", 12)
    crm.server.change("contacts", ids[0], updated_at="2099-01-01T00:00:00+00:00")
    crm.ok()
    hours(crm, ids[3:6], 2)
    crm.server.ahead += HOUR

    assert not [one for one in crm.requests() if one.action == "info"]


def test_without_a_date_nothing_is_guessed(crm: Crm) -> None:
    """
    A run without any Date ends before it writes, and says what to look for.
    """
    crm.server.add("contacts", 3)
    crm.server.shows_date = False
    failed = crm.soon().exit_status

    assert 7 == failed
