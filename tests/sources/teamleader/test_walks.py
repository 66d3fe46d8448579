"""Lists of Teamleader that change, lie or are shuffled while they are walked: nothing is lost, nobody is removed who is there."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.teamleader_job import Crm
from tests.teamleader_server import Asked, Teamleader
from usersync_cli import log
from usersync_cli.errors import status_of
from usersync_cli.sources.teamleader import limits

STREAM_OF = {"customFieldDefinitions": "custom_fields", "projects-v2/projects": "projects"}
SINCE = ["contacts", "invoices", "projects"]  # those whose changes can be asked for; companies are like contacts


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five, so that a few records fill many."""
    monkeypatch.setattr(limits, "PAGE_RECORDS", 5)


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


# records that sort alike


@pytest.mark.parametrize("resource", ["contacts", "companies"])
def test_equal_times_are_put_in_order(api: Teamleader, database: Any, resource: str) -> None:
    """
    A bulk import gives more than a page one time stamp, and the vendor orders those otherwise each time: a second field does.
    """
    api.shuffled = True
    crm = Crm(api, database, [resource])
    ids = api.add(resource, 30, at=api.now() - timedelta(days=9))
    crm.ok()
    assert crm.is_equal(resource, resource)
    stamp = api.now().isoformat()
    for number, id_ in enumerate(ids[:13]):
        api.change(resource, id_, remarks=f"changed {number}", updated_at=stamp)

    assert "0 13 17 0" == crm.ok()
    assert crm.is_equal(resource, resource)


TIES = {"contacts": {"first_name": "Test", "last_name": "User"}, "invoices": {"invoice_number": None, "invoice_date": None},
        "projects": {"title": "Project"}, "users": {"email": None, "last_name": "User"},
        "events": {"starts_at": "2020-01-01T00:00:00+00:00"}}  # fmt: skip


@pytest.mark.parametrize("resource", TIES)
def test_what_can_not_be_ordered_is_noticed(api: Teamleader, database: Any, resource: str) -> None:
    """
    Where the order of a dozen records is another one with each request, some are on no page that we read. That ends with all of
    them, or with a status that is not 0 and a next run that lists everything again.
    """
    crm = Crm(api, database, [resource])
    api.add(resource, 12, at=api.now() - timedelta(days=9), **TIES[resource])
    api.shuffled = True
    result = crm.run()

    assert result.exit_status in {0, 4}
    assert crm.is_equal(resource, resource) or result.exit_status == 4
    api.shuffled = False
    asked = next(one for one in crm.requests() if one.action == "list")
    assert crm.is_equal(resource, resource)
    assert result.exit_status == 0 or "updated_since" not in asked.body.get("filter", {})


@pytest.mark.parametrize("resource", ["contacts", "projects"])
def test_changes_that_can_not_be_ordered_are_noticed(api: Teamleader, database: Any, resource: str) -> None:
    """
    The same, of a dozen changes.
    """
    crm = Crm(api, database, [resource])
    ids = api.add(resource, 14, at=api.now() - timedelta(days=9), **TIES[resource])
    crm.ok()
    stamp = api.now().isoformat()
    for number, id_ in enumerate(ids[:12]):
        api.change(resource, id_, tags=[f"changed {number}"], updated_at=stamp)
    api.shuffled = True
    result = crm.run()

    assert crm.is_equal(resource, resource) or result.exit_status == 4
    api.shuffled = False
    crm.ok()
    assert crm.is_equal(resource, resource)


# lists that change each time


@pytest.mark.parametrize("how", ["everything", "changes"])
def test_a_list_that_never_rests_is_told(api: Teamleader, database: Any, how: str) -> None:
    """
    A draft invoice comes first in each of three walks: status 4 and what to do, nobody removed. What changed is not asked for
    again and again, and the next run lists everything.
    """
    crm = Crm(api, database, ["invoices"])
    ids = api.add("invoices", 22)
    if how == "changes":
        crm.ok()
        for id_ in ids[:12]:
            api.change("invoices", id_, note="changed")
    api.before = at("invoices.list", 2, lambda: api.add("invoices", at=api.now(), invoice_number=None), times=1000)
    failed = crm.run().steps[0].error

    assert failed is not None
    assert (4, True) == (status_of(failed), "changed each of the 3 times" in failed.message)
    assert [("", None)] == crm.ask("SELECT value ->> 'swept', value -> 'walk' FROM usersync.cursors")
    assert [] == crm.held("invoices", "deleted_at IS NOT NULL")
    api.before = lambda _asked: None
    before = len(api.asked)
    crm.ok()
    assert crm.is_equal("invoices", "invoices")
    assert "updated_since" not in api.asked[before + 1].body.get("filter", {})


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("resource", ["invoices", "projects"])
def test_a_change_in_the_second_of_the_beginning(api: Teamleader, database: Any, resource: str, exclusive: bool) -> None:  # noqa: FBT001
    """
    Whether updated_since has its very second or not: what moved in the second in which a walk began is noticed.
    """
    api.exclusive = exclusive
    crm = Crm(api, database, [resource])
    ids = api.add(resource, 27)
    crm.ok()
    for id_ in ids[9:20]:
        api.change(resource, id_, title="changed")
    first = {"invoices": {"invoice_number": None}, "projects": {"title": "first"}}[resource]
    api.before = at(f"{resource}.list", 2, lambda: api.change(resource, ids[0], **first))
    crm.ok()
    crm.ok()

    assert crm.is_equal(resource, resource)


# answers that are wrong


def test_a_list_without_pages_that_changes_is_refused(crm: Crm) -> None:
    """
    Something in between that gives a first page for every number, another one each time, is told after a few requests.
    """
    ids = crm.server.add("contacts", 27)
    numbers = itertools.count()

    def first_page(asked: Asked) -> None:
        if asked.action == "list":
            asked.body["page"]["number"] = 1
            crm.server.change("contacts", ids[0], added_at=f"2030-01-01T00:00:{next(numbers) % 60:02}+00:00")
            crm.server.delete("contacts", ids.pop(0))

    crm.server.before = first_page
    failed = crm.run().steps[0].error

    assert failed is not None
    assert 4 == status_of(failed)
    assert len(crm.server.asked) < 30


@pytest.mark.parametrize("how", ["empty", "short"])
@pytest.mark.parametrize("when", ["first sync", "sweep", "changes"])
@pytest.mark.parametrize("times", [1, 1000])
def test_a_page_that_lacks_records_is_no_end(crm: Crm, how: str, when: str, times: int) -> None:
    """
    `data: []` or half a page, of any page but the last: it is asked for again, and an error when it stays so. Nobody is removed.
    """
    ids = crm.server.add("contacts", 25)
    if when != "first sync":
        crm.ok()
    if when == "changes":
        for age, id_ in enumerate(ids):
            crm.server.change("contacts", id_, remarks="changed", updated_at=(crm.server.now() - timedelta(seconds=60 - age)).isoformat())
    # Of changes, a page that is always silent is where they end, for all that anybody can tell.
    for number in () if (when, how, times) == ("changes", "empty", 1000) else (1, 3, 5):
        crm.server.fail(how, "contacts.list", page=number, times=times)
        result = crm.run(full=when == "sweep")
        crm.server.faults.clear()
        settled = crm.is_equal() if crm.ask("SELECT FROM pg_class WHERE relname = 'tl_contacts'") else False

        assert result.exit_status in {0, 4}
        assert settled or result.exit_status == 4
        assert times > 1 or result.exit_status == 0
    crm.ok()
    crm.ok()
    assert crm.is_equal()


# interrupted


EVERY = [*SINCE, "companies", "events", "users", "customFieldDefinitions", "projects-v2/projects"]


def broken_off(crm: Crm, resource: str, page: int, **options: Any) -> None:
    """A run that ends before this page of the list, for good."""
    crm.server.fail(400, f"{resource}.list", page=page, times=1000)
    assert 7 == crm.run(**options).exit_status
    crm.server.faults.clear()


@pytest.mark.parametrize(
    ("resource", "detail"), [*((resource, "full") for resource in EVERY), ("contacts", "list"), ("projects", "list"), ("users", "list")]
)
def test_who_left_while_a_sweep_was_broken_off(api: Teamleader, database: Any, resource: str, detail: str) -> None:
    """
    One record of a page that was read and one of a page that was not are deleted between two runs of one sweep: both and
    only both are marked, and a document that is held is not asked for again.
    """
    api.module = "legacy" if resource != "projects-v2/projects" else "projects-v2"
    stream = STREAM_OF.get(resource, resource)
    crm = Crm(api, database, [stream], {"detail": detail})
    ids = api.add(resource, 47)
    crm.ok()
    api.ahead = timedelta(days=8)
    broken_off(crm, resource, 5)
    api.delete(resource, ids[7])
    api.delete(resource, ids[37])
    asked = crm.requests()

    assert sorted([ids[7], ids[37]]) == crm.held(stream, "deleted_at IS NOT NULL")
    assert crm.there(resource) == crm.here(stream)
    hidden = detail == "full" and resource not in ("contacts", "companies", "invoices", "customFieldDefinitions")
    assert len([one for one in asked if one.action == "info"]) <= (25 if hidden else 0) + 4
    again = crm.run()
    assert (0, 0) == (again.exit_status, again.steps[0].counts.gone)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("resource", SINCE)
def test_what_was_broken_off_ends_whole(api: Teamleader, database: Any, resource: str, keep: bool) -> None:  # noqa: FBT001  a parameter
    """
    A first sync and a walk of changes that end in the middle, while records come, change and go: two plain runs later all is there.
    """
    crm = Crm(api, database, [resource], load={"on_missing": "keep" if keep else "mark"})
    ids = api.add(resource, 27)
    broken_off(crm, resource, 3)
    api.change(resource, ids[20], title="changed", remarks="changed")
    api.change(resource, ids[2], title="changed", remarks="changed")
    api.delete(resource, ids[25])
    api.delete(resource, ids[3])
    crm.ok()
    crm.ok()
    gone = {ids[3], ids[25]}
    assert set(crm.there(resource)) <= set(crm.held(resource)) <= {*crm.there(resource), *gone}

    api.ahead = timedelta(hours=1)
    for age, id_ in enumerate(api.ids(resource)[:13]):
        api.change(resource, id_, title="again", remarks="again", updated_at=(api.now() - timedelta(seconds=60 - age)).isoformat())
    broken_off(crm, resource, 2)
    api.change(resource, ids[12], title="once more", remarks="once more")
    crm.ok()
    crm.ok()
    documents = dict(crm.ask(f"SELECT tl_uuid::text, tl_content FROM tl_{resource}"))
    assert {id_: api.info(resource, id_) for id_ in api.ids(resource)} == {id_: documents[id_] for id_ in api.ids(resource)}


# while changes are read


def insert(api: Teamleader, resource: str, _ids: list[str]) -> None:
    first = {"invoices": {"invoice_number": None}, "projects": {"title": "A"}}.get(resource, {})
    api.add(resource, at=api.now(), **first)


def delete(api: Teamleader, resource: str, ids: list[str]) -> None:
    api.delete(resource, ids.pop(0))


def update(api: Teamleader, resource: str, ids: list[str]) -> None:
    api.change(resource, ids.pop(0), title="meanwhile", remarks="meanwhile")


@pytest.mark.parametrize("what", [insert, delete, update])
@pytest.mark.parametrize("resource", SINCE)
def test_what_happens_while_changes_are_read(api: Teamleader, database: Any, resource: str, what: Callable[..., None]) -> None:
    """
    One record, or as many as a page holds, before any of three pages of changes: after two plain runs each document is as it is there.
    """
    crm = Crm(api, database, [resource])
    ids = api.add(resource, 45)
    crm.ok()
    for hours, (number, count) in enumerate([(1, 5), (2, 1), (3, 5)], 1):
        api.ahead = timedelta(hours=hours)
        some = list(ids[:13])
        for age, id_ in enumerate(some):
            moment = (api.now() - timedelta(seconds=60 - age)).isoformat()
            api.change(resource, id_, title=f"{number} {count}", remarks=f"{number} {count}", updated_at=moment)
        api.before = at(f"{resource}.list", number, lambda: [what(api, resource, some) for _ in range(count)])  # noqa: B023
        crm.run()
        crm.ok()
        ids = [id_ for id_ in ids if id_ in api.records[resource]]

        assert crm.has_all(resource, resource), (number, count)


# Records: pages of a first sync of contacts and of events, and of a list whose length is known.
LENGTHS = {
    0: ([11, 10, 5, 2, 1, 1], [3, 2, 1, 1], [3, 2, 1, 1]),
    1: ([11, 10, 5, 2, 1, 2], [3, 2, 1, 2], [2, 1, 2]),
    4: ([11, 10, 5, 2, 1, 5], [3, 2, 1, 5], [2, 1, 5]),
    5: ([11, 10, 5, 2, 1, 6], [3, 2, 1, 6], [2, 1, 6]),
    6: ([11, 10, 5, 2, 4, 3, 7, 1], [3, 2, 7, 1], [3, 2, 7, 1]),
    10: ([11, 10, 5, 2, 4, 3, 11, 2, 1], [3, 2, 11, 1], [3, 2, 11, 1]),
    11: ([11, 10, 5, 2, 4, 3, 12, 2, 1], [3, 5, 4, 12, 2, 1], [4, 3, 12, 2, 1]),
}


@pytest.mark.parametrize("count", LENGTHS)
def test_lists_of_any_length(api: Teamleader, database: Any, count: int) -> None:
    """
    Nothing, one, a page less one, a page, and one more: all rows, and pages from the last to the first, behind a look that it is the last,
    and one for the record behind its last one.
    """
    contacts, events = Crm(api, database), Crm(api, database, ["events"])
    api.add("contacts", count)
    api.add("events", count)
    asked = [[one.page for one in crm.requests() if one.action == "list"] for crm in (contacts, events, events)]

    assert list(LENGTHS[count]) == asked
    assert contacts.there() == (contacts.held() if count else [])
    assert events.there("events") == (events.held("events") if count else [])


@pytest.mark.parametrize("resource", ["contacts", "users", "projects-v2/projects"])
@pytest.mark.parametrize("times", [1, 2, 1000])
def test_silence_is_not_the_end(api: Teamleader, database: Any, resource: str, times: int) -> None:
    """
    Any page but the first says `data: []` once, twice or always, in a first sync and in a later one: all is there, or the status is 4.
    """
    api.module = "projects-v2" if resource == "projects-v2/projects" else "legacy"
    stream = STREAM_OF.get(resource, resource)
    crm = Crm(api, database, [stream], {"detail": "list"})
    ids = api.add(resource, 18)
    for number in (2, 3, 4):
        api.fail("empty", f"{resource}.list", page=number, times=times)
        results = [crm.run(full=True), crm.run()]
        api.faults.clear()
        there = {id_ for (id_,) in crm.ask(f"SELECT tl_uuid::text FROM tl_{stream}")} if table_is_there(crm, stream) else set()

        first, second = (result.exit_status for result in results)
        assert first in {1: {0}, 2: {0, 4}, 1000: {4}}[times]
        assert (second, there) == (0, set(ids)) or times == 1000
        crm.ok()
        assert set(ids) == set(crm.here(stream))
        crm.ask(f"DROP TABLE tl_{stream}; DELETE FROM usersync.cursors; DELETE FROM usersync.seen_streams")


def table_is_there(crm: Crm, stream: str) -> bool:
    return bool(crm.ask(f"SELECT FROM pg_class WHERE relname = 'tl_{stream}'"))


@pytest.mark.parametrize("resource", ["contacts", "events", "companies"])
def test_a_last_page_that_lacks_records_is_noticed(api: Teamleader, database: Any, resource: str) -> None:
    """
    The last page shows two of its four records, always: what one more look finds behind them ends with 4, and nobody is removed.
    """
    crm = Crm(api, database, [resource], {"detail": "list"})
    ids = api.add(resource, 14)
    api.fail("short", f"{resource}.list", page=3, times=1000)
    assert 4 == crm.run().exit_status
    api.faults.clear()
    crm.ok()
    api.fail("short", f"{resource}.list", page=3, times=1000)
    assert 4 == crm.run(full=True).exit_status
    assert ids == sorted(crm.here(resource), key=ids.index)


@pytest.mark.parametrize("total", [13, 20])
def test_a_total_that_disagrees_is_an_error(crm: Crm, monkeypatch: pytest.MonkeyPatch, total: int) -> None:
    """
    Where an answer says how many there are, that many have to come.
    """
    crm.server.add("contacts", 14)
    listed = Teamleader._list
    monkeypatch.setattr(Teamleader, "_list", lambda *given: {**listed(*given), "meta": {"page": {}, "matches": total}})
    failed = crm.run().steps[0].error

    assert failed is not None
    assert (4, True) == (status_of(failed), f"as if 14 were all; but the answer says {total}" in failed.message), failed.message


def test_a_shorter_list_is_looked_at_more_closely(crm: Crm, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A list that has fewer records than it had: the two pages behind the empty one are looked at too, and the log says so.
    """
    crm.load = {"on_missing": "keep"}
    ids = crm.server.add("contacts", 14)
    crm.ok()
    for id_ in ids[:9]:
        crm.server.delete("contacts", id_)
    crm.server.ahead = timedelta(days=8)
    log.configure("json")
    asked = crm.requests()

    assert [4, 3, 1, 2, 6, 3, 4, 1] == [one.page for one in asked if one.action == "list"]
    assert "list is shorter than when it was last listed whole" in capsys.readouterr().err
