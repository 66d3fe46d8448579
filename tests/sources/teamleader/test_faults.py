"""Teamleader answers wrongly, little or not at all: a status that is not 0, nobody removed, and the next run repairs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.teamleader_job import Crm
from tests.teamleader_server import Fault, Teamleader
from usersync_cli.errors import status_of
from usersync_cli.sources.teamleader import limits


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five, so that a few records fill many; and nothing is waited for."""
    monkeypatch.setattr(limits, "PAGE_RECORDS", 5)
    monkeypatch.setattr(limits, "REPEATS", [timedelta(0)] * 2)


def test_without_headers_the_documented_limit_counts(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A proxy that takes the limit's headers away: no request is refused all the same.
    """
    crm.server.limit, crm.server.window, crm.server.shows_limit = 20, timedelta(seconds=0.3), False
    monkeypatch.setattr(limits, "LIMIT", 20)
    monkeypatch.setattr(limits, "WINDOW", crm.server.window)
    crm.server.add("contacts", 60)
    crm.ok()

    assert 429 not in {asked.status for asked in crm.server.asked}
    assert 200 == DOCUMENTED


DOCUMENTED = limits.LIMIT


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


# faults

STAYING = [500, "html", "truncated", "not_json", "null", "nothing", "reset", 403, 404, 429, "hang"]


@pytest.mark.parametrize("resource", ["contacts", "companies", "invoices", "projects"])
def test_whatever_goes_wrong_while_changes_are_read(api: Teamleader, database: Any, monkeypatch: pytest.MonkeyPatch, resource: str) -> None:
    """
    A fault that stays, on a page or a document of 13 changes: a status that is not 0, nobody marked, and two plain runs later all is there.
    """
    crm = Crm(api, database, [resource])
    ids = api.add(resource, 27)
    crm.ok()
    for number, how in enumerate(STAYING if resource == "contacts" else STAYING[1::3]):
        api.ahead = timedelta(hours=number)
        for age, id_ in enumerate(ids[:13]):
            moment = (api.now() - timedelta(seconds=60 - age)).isoformat()
            api.change(resource, id_, title=str(how), remarks=str(how), updated_at=moment)
        if number % 2:
            api.fail(how, f"{resource}.list", times=1000, page=2)
        else:
            api.fail(how, f"{resource}.info", times=1000, skip=7)
        failed = crm.soon(0.3)
        api.faults.clear()

        # A document that is not there any more is no fault: its row goes when a list lacks it too.
        assert failed.exit_status or (how, number % 2) == (404, 0), how
        assert [] == crm.held(resource, "deleted_at IS NOT NULL")
        crm.ok()
        crm.ok()
        assert crm.is_equal(resource, resource), how


@pytest.mark.parametrize("how", [500, "null", 404])
@pytest.mark.parametrize("path", ["users.me", "accounts.projects-v2-status", "contacts.list", "contacts.info", "invoices.list"])
def test_whatever_goes_wrong_beside_the_lists(api: Teamleader, database: Any, path: str, how: int | str) -> None:
    """
    A fault of whose account it is, of which projects it has, of a list of ids, of the .info of who seems to be gone, of the look behind
    a walk: a status that is not 0 where it matters, nobody marked who is there, and the next run repairs.
    """
    crm = Crm(api, database, ["projects", "invoices", "contacts"])
    ids = {resource: api.add(resource, 12) for resource in crm.streams}
    crm.ok()
    api.delete("contacts", ids["contacts"][3])
    if path == "contacts.list":  # a sweep that another run has begun, and a list of the ids that it had
        api.fail(400, "contacts.list", page=1, times=1000)
        assert crm.run(full=True).exit_status
        api.faults.clear()
        api.delete("contacts", ids["contacts"][11])
        api.faults.append(Fault(how, lambda asked: "ids" in asked.body.get("filter", {}), 1000))
    elif path == "invoices.list":
        api.faults.append(Fault(how, lambda asked: asked.path == path and "updated_since" in asked.body.get("filter", {}), 1000))
    else:
        api.fail(how, path, times=1000)
    failed = crm.soon(0.3, full=path != "contacts.list")
    api.faults.clear()

    proof = (path, how) == ("contacts.info", 404)  # that is how somebody is gone
    assert failed.exit_status or proof
    marked = {*crm.held("contacts", "deleted_at IS NOT NULL")}
    assert marked <= {*ids["contacts"]} - {*api.ids("contacts")}
    assert [] == [*crm.held("projects", "deleted_at IS NOT NULL"), *crm.held("invoices", "deleted_at IS NOT NULL")]
    crm.ok()
    crm.ok(full=True)
    for resource in crm.streams:
        assert crm.is_equal(resource, resource)


# one document


@pytest.mark.parametrize("detail", ["first sync", "changes", "sweep"])
@pytest.mark.parametrize("resource", ["contacts", "projects", "users"])
def test_one_document_that_never_comes_blocks_no_other(api: Teamleader, database: Any, resource: str, detail: str) -> None:
    """
    .info of one record answers 500 for ever: all others are loaded, status 4 says how many are missing, nobody is marked, and each run
    asks for it again until it comes.
    """
    crm = Crm(api, database, [resource])
    ids = api.add(resource, 27)
    if detail != "first sync":
        crm.ok()
        api.ahead = timedelta(hours=1) if detail == "changes" else timedelta(days=31)
        for id_ in ids[:13]:
            api.change(resource, id_, title="changed", remarks="changed", time_zone="changed")
    api.fail(500, f"{resource}.info", times=1000, id=ids[7])
    for _ in range(2):
        before = len(api.asked)
        failed = crm.soon(1.2).steps[0].error

        assert failed is not None
        assert (4, True) == (status_of(failed), "1 without an answer" in failed.message)
        assert ids[7] in [one.body.get("id") for one in api.asked[before:]]
        documents = dict(crm.ask(f"SELECT tl_uuid::text, tl_content FROM tl_{resource} WHERE deleted_at IS NULL"))
        there = {id_: api.info(resource, id_) for id_ in api.ids(resource)}
        assert {id_: there[id_] for id_ in ids if id_ != ids[7]} == {id_: held for id_, held in documents.items() if id_ != ids[7]}
        assert (ids[7] in documents) == (detail != "first sync")
    api.faults.clear()
    crm.ok()
    assert crm.is_equal(resource, resource)


def test_many_documents_that_never_come_end_the_stream(crm: Crm) -> None:
    """
    Where no document comes, it is not the documents: the run ends soon, and the next one reads that page again.
    """
    crm.server.add("contacts", 27)
    crm.server.fail(500, "contacts.info", times=100_000)
    failed = crm.soon().steps[0].error

    assert failed is not None
    assert 4 == status_of(failed)
    assert not {one.page for one in crm.server.asked} & {4, 3}
    crm.server.faults.clear()
    crm.ok()
    crm.ok()
    assert crm.is_equal()


def test_what_is_owed_is_not_forgotten_when_a_run_ends_early(crm: Crm) -> None:
    """
    What an earlier run of the same walk could not have is asked for by the one that goes on with it: 0 means that it is there.
    """
    ids = crm.server.add("contacts", 27)
    crm.server.fail(500, "contacts.info", times=1000, id=ids[22])
    crm.server.fail(400, "contacts.list", times=1000, page=2)
    assert crm.soon().exit_status
    crm.server.faults.pop()
    assert 4 == crm.soon().exit_status
    crm.server.faults.clear()
    crm.ok()
    assert crm.is_equal()
