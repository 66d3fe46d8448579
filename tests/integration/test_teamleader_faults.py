"""Teamleader answers wrongly, little or not at all: a status that is not 0, nobody removed, and the next run repairs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.teamleader_job import Crm
from tests.teamleader_server import Teamleader
from usersync_cli.errors import status_of
from usersync_cli.sources import teamleader


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
    """Pages of five, and a fault that stays is told within a second."""
    monkeypatch.setattr(teamleader, "PAGE_RECORDS", 5)
    monkeypatch.setattr(teamleader, "DEADLINE", timedelta(seconds=0.5))


def test_without_headers_the_documented_limit_counts(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A proxy that takes the limit's headers away: no request is refused all the same.
    """
    crm.server.limit, crm.server.window, crm.server.shows_limit = 20, timedelta(seconds=0.3), False
    monkeypatch.setattr(teamleader, "LIMIT", 20)
    monkeypatch.setattr(teamleader, "WINDOW", crm.server.window)
    monkeypatch.setattr(teamleader, "DEADLINE", timedelta(seconds=10))
    crm.server.add("contacts", 60)
    crm.ok()

    assert 429 not in {asked.status for asked in crm.server.asked}
    assert 200 == DOCUMENTED


DOCUMENTED = teamleader.LIMIT


# who is gone


@pytest.mark.parametrize("detail", ["list", "full"])
def test_who_is_not_listed_is_asked_for(crm: Crm, detail: str) -> None:
    """
    A list may leave out deactivated contacts, who are there all the same: only .info says who is gone.
    """
    crm.settings = {"detail": detail}
    ids = crm.server.add("contacts", 22)
    crm.ok()
    crm.server.change("contacts", ids[3], status="deactivated")
    crm.ok()
    crm.server.omits = "deactivated"
    crm.server.delete("contacts", ids[17])
    crm.ok(full=True)

    assert [ids[17]] == crm.held(where="deleted_at IS NOT NULL")


@pytest.mark.parametrize("how", ["null", "empty", "other"])
def test_an_answer_without_the_record_is_no_proof(crm: Crm, how: str) -> None:
    """
    200 without the record that was asked for says neither that it is there nor that it is gone: an error, and nobody is marked.
    """
    ids = crm.server.add("contacts", 22)
    crm.ok()
    crm.server.delete("contacts", ids[3])
    crm.server.delete("contacts", ids[4])
    crm.server.fail(how, "contacts.info", times=1000, id=ids[4])
    failed = crm.run(full=True).steps[0].error

    assert failed is not None
    assert 7 == status_of(failed)
    assert [] == crm.held(where="deleted_at IS NOT NULL")
    crm.server.faults.clear()
    crm.ok(full=True)
    assert sorted(ids[3:5]) == crm.held(where="deleted_at IS NOT NULL")
