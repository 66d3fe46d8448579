"""What Teamleader says is not there: one answer proves nothing, and whatever a list shows is there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.teamleader_job import Crm
from tests.teamleader_server import Teamleader
from usersync_cli.errors import status_of
from usersync_cli.sources.teamleader import limits

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five, so that a few records fill many; and nothing is waited for."""
    monkeypatch.setattr(limits, "PAGE_RECORDS", 5)
    monkeypatch.setattr(limits, "REPEATS", [timedelta(0)] * 2)


def changed(api: Teamleader, resource: str, ids: list[str], what: str) -> None:
    for id_ in ids:
        api.change(resource, id_, title=what, remarks=what)


WHEN = ["first sync", "changes", "sweep"]


WRONG = [*((404, when) for when in WHEN), (410, "sweep"), ("null", "changes"), ("empty", "sweep"), ("other", "sweep")]


@pytest.mark.parametrize(("how", "when"), WRONG)
def test_one_wrong_answer_removes_nobody(crm: Crm, how: int | str, when: str) -> None:
    """
    A record that a list shows, and whose .info is once not known, empty or another record's: it is asked for again, and loaded.
    """
    ids = crm.server.add("contacts", 12)
    if when != "first sync":
        crm.ok()
        changed(crm.server, "contacts", ids[4:7], "changed")
    crm.server.fail(how, "contacts.info", id=ids[5])
    crm.ok(full=when == "sweep")

    assert crm.is_equal()


KEPT = [*(("contacts", 404, 4, when) for when in WHEN), ("contacts", 410, 4, "changes"), ("contacts", 403, 3, "first sync"),
        ("projects", 404, 4, "changes"), ("users", 404, 4, "sweep")]  # fmt: skip


@pytest.mark.parametrize(("resource", "how", "status", "when"), KEPT)
def test_what_a_list_shows_is_there(api: Teamleader, database: Any, resource: str, how: int, status: int, when: str) -> None:
    """
    Two of twelve records whose .info stays unknown or refused: the others are loaded, no row goes, the status says so, and the next
    run asks for them again; among them one that nobody has yet.
    """
    crm = Crm(api, database, [resource])
    ids = api.add(resource, 12)
    if when != "first sync":
        crm.ok()
        changed(api, resource, ids[4:8], "changed")
        ids += api.add(resource, at=api.now())
    new = [ids[5], ids[-1]]
    for id_ in new:
        api.fail(how, f"{resource}.info", id=id_, times=1000)
    failed = crm.run(full=when == "sweep").steps[0].error

    assert failed is not None
    assert (status, True) == (status_of(failed), "no document for 2 records" in failed.message)
    assert [] == crm.held(resource, "deleted_at IS NOT NULL")
    documents = dict(crm.ask(f"SELECT tl_uuid::text, tl_content FROM tl_{resource}"))
    assert all(documents[id_] == api.info(resource, id_) for id_ in ids if id_ not in new)
    api.faults.clear()
    crm.ok()
    assert crm.is_equal(resource, resource)


def test_unknown_at_first_and_then_there(crm: Crm) -> None:
    """
    Of several records of each page .info says 404, then 200: all are loaded by that run.
    """
    ids = crm.server.add("contacts", 25)
    for number, id_ in enumerate(ids):
        if number % 5 < 3:
            crm.server.fail(404, "contacts.info", id=id_)

    assert "25 0 0 0" == crm.ok()
    assert crm.is_equal()


def test_where_every_document_is_refused_the_right_is_missing(crm: Crm) -> None:
    """
    403 to all of a page is no matter of its records: status 2, and which scope to give.
    """
    crm.server.add("contacts", 7)
    crm.server.fail(403, "contacts.info", times=1000)
    failed = crm.run().steps[0].error

    assert failed is not None
    assert (2, True) == (status_of(failed), "the scope contacts is missing" in failed.message)


@pytest.mark.parametrize("resource", ["contacts", "projects", "users", "departments"])
def test_deleted_since_it_was_listed(api: Teamleader, database: Any, resource: str) -> None:
    """
    Whoever is really deleted between the list and its document keeps the row until a list lacks it: then it goes.
    """
    crm = Crm(api, database, [resource])
    ids = api.add(resource, 4)
    crm.ok()
    changed(api, resource, ids, "changed")
    gone = iter([ids[2]])
    api.before = lambda asked: [api.delete(resource, id_) for id_ in gone] and None if asked.action == "info" else None
    result = crm.run(full=True)

    assert (4 if resource == "projects" else 0) == result.exit_status, "legacy projects can't be listed by id"
    assert [] == crm.held(resource, "deleted_at IS NOT NULL")
    crm.ok(full=True)
    assert [ids[2]] == crm.held(resource, "deleted_at IS NOT NULL")
    assert crm.is_equal(resource, resource)


def test_who_is_never_listed_is_not_gone_for_one_404(crm: Crm) -> None:
    """
    A list that leaves out deactivated contacts, by id too, and one 404 of such a one: it is asked for at another moment, and stays.
    """
    ids = crm.server.add("contacts", 12)
    crm.ok()
    crm.server.change("contacts", ids[3], status="deactivated")
    crm.ok()
    crm.server.omits = "deactivated"
    crm.server.delete("contacts", ids[7])
    crm.server.fail(404, "contacts.info", id=ids[3])
    crm.ok(full=True)

    assert [ids[7]] == crm.held(where="deleted_at IS NOT NULL")


@pytest.mark.parametrize("resource", ["contacts", "users", "departments"])
def test_a_list_that_leaves_somebody_out_is_no_success(api: Teamleader, database: Any, resource: str) -> None:
    """
    A complete listing lacks a record, .info says 404, and a list of its id shows it: nobody is removed, the status is 4, and the next
    run lists everything again.
    """
    crm = Crm(api, database, [resource])
    ids = api.add(resource, 9)
    crm.ok()
    hidden = api.records[resource].pop(ids[4])

    def before(asked: Any) -> None:
        by_id = asked.body.get("filter", {}).get("ids") == [ids[4]]
        api.records[resource].pop(ids[4], None)
        if by_id:
            api.records[resource][ids[4]] = hidden

    api.before = before
    failed = crm.run(full=True).steps[0].error

    assert failed is not None
    assert (4, True) == (status_of(failed), "left out 1 record that it shows when asked for by id" in failed.message)
    assert [] == crm.held(resource, "deleted_at IS NOT NULL")
    api.before, api.records[resource][ids[4]] = lambda _asked: None, hidden
    asked = crm.requests()
    assert not [one for one in asked if "updated_since" in one.body.get("filter", {})]
    assert crm.is_equal(resource, resource)
