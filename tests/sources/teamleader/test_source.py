"""The source `teamleader` against a local Teamleader: how little it asks, and that nothing is lost whatever happens meanwhile."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests import servers
from tests.conftest import Command, Result
from tests.teamleader_job import ALL, SECRET, Crm, made
from tests.teamleader_server import TOKEN, Asked, Teamleader
from usersync_cli.auth.keys import Keys
from usersync_cli.auth.tokens import Tokens
from usersync_cli.errors import status_of
from usersync_cli.model import Token
from usersync_cli.signals import Stop
from usersync_cli.sources.teamleader import limits

DAY = timedelta(days=1)
SIZES = {
    "contacts": 1000, "companies": 500, "events": 200, "invoices": 200, "projects": 200, "users": 200,
    "customFieldDefinitions": 200, "departments": 3,
}  # fmt: skip
STREAM_OF = {"customFieldDefinitions": "custom_fields", "projects-v2/projects": "projects"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five, so that a few records fill many."""
    monkeypatch.setattr(limits, "PAGE_RECORDS", 5)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that stays is told within a second."""
    monkeypatch.setattr(limits, "DEADLINE", timedelta(seconds=0.8))


def filled(server: Teamleader) -> dict[str, list[str]]:
    """The 2,503 records of a middling account; their ids."""
    return {resource: server.add(resource, count) for resource, count in SIZES.items()}


def at(path: str, number: int, act: Callable[[], object]) -> Callable[[Asked], None]:
    """A hook that acts once, before this page of this list is answered."""
    left = itertools.count()

    def before(asked: Asked) -> None:
        if asked.path == path and asked.page == number and next(left) == 0:
            act()

    return before


# how much is asked


def test_a_first_sync_and_those_after_it_ask_for_little(api: Teamleader, database: Any) -> None:
    """
    2,503 records: pages that exist, one or a few more for each resource, and .info of each; then next to nothing.
    """
    ids = filled(api)
    crm = Crm(api, database, ALL)
    first = crm.requests()
    lists = [asked for asked in first if asked.action == "list"]

    assert 2303 == sum(asked.action == "info" for asked in first), "definitions are listed whole"
    assert len(lists) <= 26 + 2 * 8 + 1, "two looks behind the last page, and one for what changed meanwhile"
    for resource, count in SIZES.items():
        assert count == len(crm.held(STREAM_OF.get(resource, resource)))
    assert crm.is_equal()
    assert len(crm.requests()) <= 45

    changed = [("contacts", 6), ("companies", 5), ("invoices", 4), ("projects", 4)]
    for resource, number in changed:
        for id_ in ids[resource][:number]:
            api.change(resource, id_, tags=["changed"])
    again = crm.requests()

    assert 19 <= sum(asked.action == "info" for asked in again)
    assert len(again) <= 60
    assert crm.is_equal()
    assert crm.is_equal("projects", "projects")


def test_lists_alone_ask_for_no_document(api: Teamleader, database: Any) -> None:
    """
    `detail: list` stores what lists have: 45 requests for everything, none of them .info.
    """
    filled(api)
    crm = Crm(api, database, ALL, {"detail": "list"})
    first = crm.requests()

    assert len(first) <= 45
    assert not [asked for asked in first if asked.action == "info"]
    assert [(1000,)] == crm.ask("SELECT count(*) FROM tl_contacts WHERE tl_content ? 'primary_address'")


def test_more_detail_later_loads_everything_again(crm: Crm) -> None:
    """
    What was stored as lists have it is no whole document: `detail: full` reads all of them.
    """
    crm.server.add("contacts", 7)
    crm.settings = {"detail": "list"}
    assert "7 0 0 0" == crm.ok()
    crm.settings = {}

    assert "0 7 0 0" == crm.ok()
    assert crm.is_equal()
    assert "0 0 7 0" == crm.ok()


def test_everything_is_listed_again_every_so_often(crm: Crm) -> None:
    """
    `full_every` by Teamleader's clock: then a listing of all, which asks for no document that it has.
    """
    ids = crm.server.add("contacts", 150)
    crm.ok()
    crm.server.delete("contacts", ids[3])
    assert "0 0 16 0" == crm.ok(), "those of the last 15 minutes before the newest"
    crm.server.ahead = 8 * DAY
    asked = crm.requests()

    assert [ids[3]] == crm.held(where="deleted_at IS NOT NULL")
    assert 2 == sum(one.action == "info" for one in asked), "whoever seems to be gone is asked for, and once more"
    behind, by_id = [150, 4, 5], [1]  # the list is shorter than it was, so that its end is looked at four times
    assert [3, 2, *behind, 1, *by_id] == [one.page for one in asked if one.action == "list"]
    assert "0 0 16 0" == crm.ok()


@pytest.mark.parametrize("resource", ["users", "departments", "events", "projects"])
def test_hidden_changes_are_found_every_so_often(api: Teamleader, database: Any, resource: str) -> None:
    """
    What neither list nor time stamp shows comes with the documents that are read again every `full_every`.
    """
    crm = Crm(api, database, [resource])
    ids = api.add(resource, 6)
    crm.ok()
    hidden = {"users": "time_zone", "departments": "website", "events": "links", "projects": "milestones"}[resource]
    stamp = api.records[resource][ids[2]].get("updated_at")
    api.change(resource, ids[2], **{hidden: "changed"}, **({"updated_at": stamp} if stamp else {}))
    crm.ok()
    api.ahead = 8 * DAY
    crm.ok()

    assert crm.is_equal(resource, resource)
    api.ahead = 9 * DAY
    assert not [asked for asked in crm.requests() if asked.action == "info"]


@pytest.mark.parametrize("resource", ["contacts", "companies", "invoices"])
def test_what_has_no_time_is_found_after_a_month(api: Teamleader, database: Any, resource: str) -> None:
    """
    What .info alone has may change without updated_at: `details_every` finds it, and not before, since that is a request for each.
    """
    crm = Crm(api, database, [resource])
    ids = api.add(resource, 6)
    crm.ok()
    hidden = {"contacts": "companies", "companies": "addresses", "invoices": "payments"}[resource]
    stamp = api.records[resource][ids[2]]["updated_at"]
    api.change(resource, ids[2], updated_at=stamp, **{hidden: ["changed"]})
    api.ahead = 29 * DAY
    assert not [asked for asked in crm.requests() if asked.action == "info"]
    api.ahead = 31 * DAY

    assert ids == sorted([asked.body["id"] for asked in crm.requests() if asked.action == "info"], key=ids.index)
    assert crm.is_equal(resource, resource)
    assert not [asked for asked in crm.requests() if asked.action == "info"]


def test_new_projects_are_read_where_the_account_has_them(api: Teamleader, database: Any) -> None:
    """
    `auto` asks which module it is; `v2` does not ask. Projects of the other module are other records.
    """
    api.module = "projects-v2"
    api.add("projects-v2/projects", 12)
    crm = Crm(api, database, ["projects"])

    assert "12 0 0 0" == crm.ok()
    assert crm.is_equal("projects", "projects-v2/projects")
    crm.settings = {"projects": "v2"}
    assert not [asked for asked in crm.requests() if asked.path == "accounts.projects-v2-status"]


# what changes


def test_changes_come_and_deletions_go(crm: Crm) -> None:
    """
    New, changed, the same, gone; a changed document is asked for, and only that.
    """
    ids = crm.server.add("contacts", 8)
    assert "8 0 0 0" == crm.ok()
    crm.server.change("contacts", ids[1], remarks="changed")
    crm.server.add("contacts", at=datetime.now(UTC))
    crm.server.delete("contacts", ids[2])

    assert "1 1 6 0" == crm.ok()
    assert "0 0 8 1" == crm.ok(full=True)
    assert crm.is_equal()


def test_a_young_document_is_read_again(crm: Crm) -> None:
    """
    Two changes in one second have one time stamp: what was read within two seconds of its change is asked for again.
    """
    (id_, *_) = crm.server.add("contacts", 3)
    crm.ok()
    crm.server.change("contacts", id_, remarks="first")
    crm.ok()
    stamp = crm.server.records["contacts"][id_]["updated_at"]
    crm.server.change("contacts", id_, remarks="second", updated_at=stamp)

    assert "0 1 0 0" == crm.ok()
    assert crm.is_equal()


@pytest.mark.parametrize("ahead", [timedelta(minutes=-20), timedelta(minutes=20)])
def test_teamleaders_clock_counts_alone(crm: Crm, ahead: timedelta) -> None:
    """
    Whether its clock is before ours or behind, no change is lost.
    """
    crm.server.ahead = ahead
    ids = crm.server.add("contacts", 6)
    crm.ok()
    for id_ in ids:
        crm.server.change("contacts", id_, remarks=f"changed {id_}")
        crm.ok()
        assert crm.is_equal()


def test_a_clock_that_was_set_back_loses_nothing(crm: Crm) -> None:
    """
    A cursor ahead of Teamleader's own clock would hide changes: everything is listed once.
    """
    crm.server.ahead = 2 * DAY
    (id_, *_) = crm.server.add("contacts", 6)
    crm.ok()
    crm.server.ahead = timedelta(0)
    crm.server.change("contacts", id_, remarks="changed")

    assert "0 1 5 0" == crm.ok()
    assert crm.is_equal()


def test_a_late_change_is_found(crm: Crm) -> None:
    """
    A change that becomes visible ten minutes late, with its old time stamp, is within the overlap.
    """
    (id_, *_) = crm.server.add("contacts", 6)
    crm.ok()
    crm.ok()
    late = (crm.server.now() - timedelta(minutes=10)).isoformat()
    crm.server.change("contacts", id_, remarks="late", updated_at=late)

    assert "0 1 5 0" == crm.ok()


# what changes while it is read

RESOURCES = ["contacts", "companies", "invoices", "projects", "events", "users", "customFieldDefinitions", "projects-v2/projects"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("number", [1, 2, 4, 6])
def test_what_changes_while_it_is_read_is_not_lost(api: Teamleader, database: Any, resource: str, number: int) -> None:
    """
    Records inserted (also at the beginning), deleted and updated before any page: all that is there is in the table after
    the next run, and nobody that is there was removed.
    """
    api.module = "legacy" if resource != "projects-v2/projects" else "projects-v2"
    stream = STREAM_OF.get(resource, resource)
    crm = Crm(api, database, [stream])
    ids = api.add(resource, 27)
    first = {"invoices": {"invoice_number": None}, "users": {"email": "a"}, "customFieldDefinitions": {"label": "A"},
             "events": {"starts_at": "2000-01-01T00:00:00+00:00"}}.get(resource, {})  # fmt: skip

    def disturb() -> None:
        for one in (1, 8, 14, 22):
            api.delete(resource, ids[one])
        api.add(resource, 2, at=api.now(), **first)
        api.change(resource, ids[12], title="changed", remarks="changed")

    api.before = at(f"{resource}.list", number, disturb)
    crm.ok()
    assert set(crm.here(stream)) <= {*crm.there(resource), *(ids[one] for one in (1, 8, 14, 22))}
    crm.ok()

    assert crm.has_all(stream, resource)
    api.ahead = 8 * DAY
    api.before = at(f"{resource}.list", number, lambda: (api.delete(resource, ids[3]), api.change(resource, ids[20], title="again")))
    crm.ok()
    crm.ok()
    assert crm.has_all(stream, resource)
    crm.ok(full=True)
    assert crm.is_equal(stream, resource)


@pytest.mark.usefixtures("small")
def test_a_list_that_is_disturbed_is_walked_again(api: Teamleader, database: Any) -> None:
    """
    A draft that comes first moves an old invoice behind us, where no later run would ask for it: the walk begins again.
    """
    crm = Crm(api, database, ["invoices"])
    api.add("invoices", 25)
    api.before = at("invoices.list", 2, lambda: api.add("invoices", at=api.now(), invoice_number=None) and None)

    assert crm.requests()
    assert crm.is_equal("invoices", "invoices")


@pytest.mark.usefixtures("small")
def test_many_changes_are_walked_like_everything(api: Teamleader, database: Any) -> None:
    """
    More changes than a page holds, and one more while they are read: none is missed after the next run.
    """
    for resource in ("contacts", "invoices", "projects"):
        crm = Crm(api, database, [resource])
        ids = api.add(resource, 40)
        crm.ok()
        for id_ in ids[:22]:
            api.change(resource, id_, title="changed")
        api.before = at(f"{resource}.list", 3, lambda: api.change(resource, ids[30], title="changed"))  # noqa: B023
        crm.ok()
        crm.ok()
        assert crm.is_equal(resource, resource)


def test_deleted_between_list_and_document(crm: Crm) -> None:
    """
    A record that is gone when its document is asked for was deleted: no failure, and no row.
    """
    ids = crm.server.add("contacts", 6)
    crm.server.before = at("contacts.list", 1, lambda: None)
    gone = iter([ids[4]])

    def before(asked: Asked) -> None:
        if asked.action == "info" and (id_ := next(gone, None)):
            crm.server.delete("contacts", id_)

    crm.server.before = before
    assert "5 0 0 0" == crm.ok()
    assert crm.is_equal()


# faults

STAYING = [500, 429, 502, "gateway", "html", "truncated", "not_json", "null", "nothing", "reset", "hang", 400, 403, 404, 401]
PLACES = [("contacts.list", 6), ("contacts.list", 2), ("contacts.list", 1), ("contacts.info", 0)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", STAYING)
def test_whatever_goes_wrong_the_next_run_repairs(crm: Crm, how: int | str) -> None:
    """
    A fault that stays, at any page or document, in a first sync and in a sweep: a status that is not 0, rows that are right as far
    as they go, nobody removed, and after the next run without it all is well.
    """
    gone = iter(crm.server.add("contacts", 27))
    for path, number in PLACES:
        crm.server.fail(how, path, times=1000, skip=0 if number else 2, **({"page": number} if number else {}))
        failed = crm.soon(full=True).steps[0].error

        assert failed is not None
        assert status_of(failed) in {2, 4, 5, 7}
        assert "Test User" not in f"{failed.message} {failed.hint}"
        assert set(crm.here() if crm.ask("SELECT FROM pg_class WHERE relname = 'tl_contacts'") else []) <= set(crm.there())
        crm.server.faults.clear()
        crm.server.change("contacts", crm.there()[-1], remarks=f"changed at {path} {number}")
        crm.ok(full=(how, path) == (404, "contacts.info"))  # a document that is not there is no fault
        crm.ok()
        assert crm.is_equal()
        crm.server.delete("contacts", next(gone))
        crm.ok(full=True)
        assert crm.is_equal()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", [500, "gateway", "html", "truncated", "not_json", "reset"])
def test_a_fault_that_passes_is_no_fault(crm: Crm, how: int | str) -> None:
    """
    What helps when it is asked for again is asked for again, within the run.
    """
    crm.server.add("contacts", 12)
    crm.server.fail(how, "contacts.list", page=2)
    crm.server.fail(how, "contacts.info", skip=3)

    assert "12 0 0 0" == crm.ok()
    assert crm.is_equal()


@pytest.mark.usefixtures("small")
def test_a_list_without_pages_is_refused(crm: Crm) -> None:
    """
    Something in between that gives the same page for every number is told, not walked for ever.
    """
    crm.server.add("contacts", 27)

    def first_page(asked: Asked) -> None:
        if asked.action == "list":
            asked.body["page"]["number"] = 1

    crm.server.before = first_page
    failed = crm.run().steps[0].error

    assert failed is not None
    assert "two pages are the same" in failed.message
    assert len(crm.server.asked) < 6


@pytest.mark.usefixtures("impatient")
def test_one_resource_that_fails_leaves_the_others_done(api: Teamleader, database: Any) -> None:
    """
    Each resource by itself: exit 4, since it may pass, and what could be read is there.
    """
    crm = Crm(api, database, ["companies", "contacts", "users"])
    for resource in crm.streams:
        api.add(resource, 4)
    api.fail(500, "contacts.list", times=1000)
    failed = crm.run().steps[0].error

    assert 4 == (failed and status_of(failed))
    assert crm.is_equal("companies", "companies")
    assert crm.is_equal("users", "users")
    api.faults.clear()
    assert "4 0 8 0" == crm.ok()


def test_a_missing_scope_is_named(api: Teamleader, database: Any) -> None:
    """
    403 says which scope the integration lacks, and what to type when it has it.
    """
    crm = Crm(api, database, ["contacts", "invoices"])
    api.add("contacts", 3)
    api.scopes.discard("invoices")
    failed = crm.run().steps[0].error

    assert failed is not None
    assert 2 == status_of(failed)
    assert "the scope invoices is missing" in failed.message
    assert "usersync oauth-url --source crm" in failed.hint
    assert crm.is_equal()


def test_another_account_is_refused(crm: Crm) -> None:
    """
    The people of another account are not loaded over those of this one: exit 7, and nothing is asked for.
    """
    crm.server.add("contacts", 3)
    crm.ok()
    crm.server.account = "11111111-2222-3333-4444-555555555555"
    before = crm.server.count("contacts.list")
    failed = crm.run().steps[0].error

    assert 7 == (failed and status_of(failed))
    assert before == crm.server.count("contacts.list")


@pytest.mark.parametrize("chosen", [{"streams": ["users"]}, {"steps": ["other"]}])
def test_another_account_is_refused_in_every_place(api: Teamleader, database: Any, chosen: dict[str, Any]) -> None:
    """
    What was read by another stream or step of the job counts too: two accounts' people never stand side by side.
    """
    crm = Crm(api, database, ["contacts", "users"], other=["departments"])
    for resource in ("contacts", "users", "departments"):
        api.add(resource, 3)
    crm.ok(streams=["contacts"])
    api.account = "11111111-2222-3333-4444-555555555555"

    assert 7 == crm.run(**chosen).exit_status
    assert ["tl_contacts"] == [name for (name,) in crm.ask("SELECT relname FROM pg_class WHERE relname ~ '^tl_[a-z]+$' AND relkind = 'r'")]
    assert 0 == crm.run(**chosen, accept_account=True).exit_status
    assert 0 == crm.run(accept_account=True).exit_status
    assert 0 == crm.run().exit_status


def test_the_rate_limit_is_kept(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    More requests than a window allows wait for their turn; the server refuses none.
    """
    crm.server.limit, crm.server.window = 20, timedelta(seconds=0.5)
    monkeypatch.setattr(limits, "WINDOW", crm.server.window)
    crm.server.add("contacts", 50)
    crm.ok()

    assert 429 not in {asked.status for asked in crm.server.asked}
    assert crm.is_equal()


# bad documents

NO_CHARACTER, NO_TEXT = "untranslatable_character", "invalid_text_representation"


def test_one_bad_document_costs_no_other(crm: Crm) -> None:
    """
    NUL, half surrogates, an id that is none, time stamps that are none: set aside with a reason, and the others are loaded.
    """
    ids = crm.server.add("contacts", 8)
    crm.server.change("contacts", ids[0], remarks="a\0b")
    crm.server.change("contacts", ids[1], tags=["\ud800 half"], updated_at="2016-02-04T16:44:33+00:00")
    crm.server.change("contacts", ids[2], emails=None, tags=None, custom_fields=None)
    crm.server.change("contacts", ids[3], remarks="long " * 40_000, unknown={"a": [1, {"b": 12345678901234567.5}]})
    crm.server.change("contacts", ids[4], updated_at="yesterday, or so")
    crm.server.records["contacts"]["no uuid"] = {**crm.server.records["contacts"][ids[5]], "id": "no uuid"}
    result = crm.run()

    assert result.steps[0].error is not None
    assert 3 == status_of(result.steps[0].error)
    reasons = dict(crm.ask("SELECT key, reason FROM usersync.rejects"))
    assert {ids[0]: NO_CHARACTER, ids[1]: NO_TEXT, ids[4]: "bad_version", "no uuid": NO_TEXT} == reasons
    assert sorted({*ids} - {ids[0], ids[1], ids[4]}) == crm.held()
    held = dict(crm.ask("SELECT tl_uuid::text, tl_content FROM tl_contacts"))
    assert {id_: crm.server.info("contacts", id_) for id_ in held} == held, "long texts, null arrays and unknown fields as they came"
    before = len(crm.server.asked)
    crm.run()
    assert not [asked for asked in crm.server.asked[before:] if asked.action == "info" and asked.body["id"] in ids[5:]]


def test_digits_stay_as_they_came(crm: Crm) -> None:
    """
    A document goes to jsonb as its own bytes: no number loses a digit.
    """
    number = "12345678901234567.890"
    crm.server.add("contacts", amount=f"as it is:{number}")
    crm.ok()

    assert [(number,)] == crm.ask("SELECT tl_content ->> 'amount' FROM tl_contacts")


# interrupted


def with_token(usersync: Command, crm: Crm, **more: Any) -> None:
    """A config file for the real command, and a token for it in the target."""
    step = {
        "name": "all",
        "extract": {"source": "crm", "streams": list(crm.streams)},
        "load": {"table": "tl_{stream}", "key": ["tl_uuid"], "create": True},
    }
    step["load"] |= {"on_missing": "mark", **more}
    document = {"environment": "test", "target": crm.target.url, "sources": {"crm": made(crm.server.url, **crm.settings)},
                "jobs": {"teamleader": {"steps": [step]}}}  # fmt: skip
    (usersync.folder / "config.yaml").write_text(json.dumps(document))
    servers.migrate(crm.target)
    tokens = Tokens(crm.target, lambda: Keys({"k1": KEY}), Stop(), job="teamleader")
    tokens.store("crm", Token(TOKEN, "a-refresh-token", timedelta(hours=1)))


KEY = b"0123456789abcdef0123456789abcdef"
VARIABLES = {"USERSYNC_KEYS": f"k1:{base64.b64encode(KEY).decode()}"}


def clean(result: Result) -> Result:
    """The result, after a look that it shows neither secrets nor people."""
    for word in ("Traceback", "internal error", SECRET, TOKEN, "a-refresh-token", "Test User"):
        assert word not in result.stdout + result.stderr, result
    return result


@pytest.mark.parametrize("meanwhile", ["before the sweep", "while it is dead"])
def test_a_sweep_that_is_killed_goes_on(api: Teamleader, database: Any, usersync: Command, meanwhile: str) -> None:
    """
    kill -9 on page 5 of 10 of a sweep, one record of page 2 and one of page 8 deleted before it or after: both and only
    both are marked, with fewer requests than a new sweep.
    """
    ids = api.add("contacts", 1000)
    crm = Crm(api, database, settings={"detail": "list", "full_every": "0s"})
    with_token(usersync, crm)
    assert 0 == clean(usersync("run", "--job", "teamleader", **VARIABLES)).status

    def leave() -> None:
        api.delete("contacts", ids[155])
        api.delete("contacts", ids[755])

    if meanwhile == "before the sweep":
        leave()
    there, before = threading.Event(), len(api.asked)
    api.before = at("contacts.list", 5, lambda: there.set() or api.wait(3))  # type: ignore[func-returns-value]
    with usersync.start("run", "--job", "teamleader", **VARIABLES) as process:
        assert there.wait(20)
        process.kill()
        process.communicate()
    if meanwhile == "while it is dead":
        leave()
    killed = len(api.asked)
    looks = [1001] if meanwhile == "while it is dead" else [999, 12, 13]  # behind the last record, and more where the list is shorter
    assert [1, 11, 10, *looks, 9, 8, 7, 6, 5] == [asked.page or 1 for asked in api.asked[before:killed]]
    assert 0 == clean(usersync("run", "--job", "teamleader", **VARIABLES)).status

    assert sorted([ids[155], ids[755]]) == crm.held(where="deleted_at IS NOT NULL")
    assert crm.there() == crm.here()
    assert sum("sort" in asked.body for asked in api.asked[killed:]) < 11, "pages of a new sweep"
    assert clean(usersync("run", "--job", "teamleader", **VARIABLES)).status == 0


def test_killed_in_a_first_sync_and_among_changes(api: Teamleader, database: Any, usersync: Command) -> None:
    """
    kill -9 between two documents of a first sync, then between two of a walk of changes, while others change: the next run ends equal.
    """
    crm = Crm(api, database)
    with_token(usersync, crm)
    ids = api.add("contacts", 250)

    def killed(skip: int) -> None:
        there, left = threading.Event(), itertools.count()
        api.before = lambda asked: asked.action == "info" and next(left) >= skip and (there.set() or api.wait(2))  # type: ignore[func-returns-value]
        with usersync.start("run", "--job", "teamleader", **VARIABLES) as process:
            assert there.wait(20)
            process.kill()
            process.communicate()
        api.before = lambda _asked: None

    killed(80)
    held = len(crm.held())
    api.change("contacts", ids[240], remarks="changed")
    api.change("contacts", ids[3], remarks="changed")
    api.delete("contacts", ids[245])
    before = api.count("contacts.info")
    crm.ok()
    crm.ok()
    assert held
    assert api.count("contacts.info") - before <= 250 - held + 4
    assert crm.is_equal()

    api.ahead = timedelta(hours=2)
    for number, id_ in enumerate(crm.there()[:130]):
        api.change("contacts", id_, remarks=f"changed {number}")
    killed(60)
    crm.ok()
    crm.ok()
    assert crm.is_equal()


@pytest.mark.usefixtures("small")
def test_a_first_sync_goes_on_where_it_stopped(crm: Crm) -> None:
    """
    What was loaded is not asked for again; nothing is lost that changed in between.
    """
    ids = crm.server.add("contacts", 50)
    crm.server.fail(400, "contacts.list", page=1)
    assert crm.run().steps[0].error is not None
    assert 45 == len(crm.held())
    crm.server.faults.clear()
    crm.server.change("contacts", ids[40], remarks="changed")
    crm.server.delete("contacts", ids[41])
    asked = crm.requests()

    assert 5 == sum(one.action == "info" for one in asked)
    crm.ok()
    assert crm.is_equal()


# a table of the old tool

OLD = """
CREATE TABLE tl_contacts (
    id serial PRIMARY KEY, tl_uuid uuid NOT NULL, tl_content jsonb NOT NULL, tl_type VARCHAR,
    created_at timestamp with time zone NOT NULL DEFAULT now(), updated_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT tl_contacts_constraint_key UNIQUE (tl_uuid))
"""


def test_a_table_of_the_old_tool_is_taken_over(crm: Crm) -> None:
    """
    Rows that are equal stay untouched, those that differ are fixed, those that are missing come; nothing else changes.
    """
    ids = crm.server.add("contacts", 6)
    crm.load = {"on_missing": "keep"}
    crm.ask(OLD)
    for number, id_ in enumerate([*ids[:5], str(uuid.UUID(int=5))]):
        content = crm.server.info("contacts", id_) if id_ in ids else {"id": id_}
        content = {**content, "remarks": "old"} if number == 2 else content
        crm.ask(
            "INSERT INTO tl_contacts (tl_uuid, tl_type, tl_content, updated_at)"
            f" VALUES ('{id_}', 'contacts', '{json.dumps(content)}', '2020-01-01')"
        )
    before = crm.ask("SELECT xmin::text, * FROM tl_contacts ORDER BY id")

    assert "1 1 4 0" == crm.ok()
    after = crm.ask("SELECT xmin::text, * FROM tl_contacts ORDER BY id")
    assert [row for row in before if row[1] != 3] == [row for row in after if row[1] not in (3, 7)]
    assert crm.ask("SELECT id FROM tl_contacts WHERE updated_at > '2020-01-02' ORDER BY id") == [(3,), (7,)]
    assert "0 0 6 0" == crm.ok(full=True)


def test_a_new_table_is_like_the_old_one(crm: Crm) -> None:
    """
    What reads the old tool's tables reads ours: the same columns, in their order, and one more with on_missing: mark.
    """
    crm.server.add("contacts", 2)
    crm.ok()
    query = """
        SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
         WHERE attrelid = 'tl_contacts'::regclass AND attnum > 0 ORDER BY attnum
    """
    ours = crm.ask(query)
    crm.ask(f"DROP TABLE tl_contacts; {OLD}")

    assert [*crm.ask(query), ("deleted_at", "timestamp with time zone", False)] == ours


# the commands


def test_check_and_verify_read_teamleader_too(api: Teamleader, database: Any, usersync: Command) -> None:
    """
    `check` asks for little and tells each stream; a dry run writes nothing and says what a run then does; `verify` agrees.
    """
    crm = Crm(api, database, ["contacts", "users", "departments"])
    for resource in crm.streams:
        api.add(resource, 3)
    with_token(usersync, crm)
    checked = clean(usersync("check", "--job", "teamleader", **VARIABLES))
    dry = clean(usersync("run", "--job", "teamleader", "--dry-run", **VARIABLES))

    assert (0, 0) == (checked.status, dry.status), checked
    assert "contacts.list answers" in checked.stdout
    assert "9 new" in dry.stdout
    assert "9 new" in clean(usersync("run", "--job", "teamleader", **VARIABLES)).stdout
    assert 0 == clean(usersync("verify", "--job", "teamleader", **VARIABLES)).status


def test_without_a_token_it_says_what_to_type(api: Teamleader, database: Any, usersync: Command) -> None:
    """
    Nobody has authorised yet: exit 5, the command that begins it, and no request.
    """
    with_token(usersync, Crm(api, database))
    Crm(api, database).ask("DELETE FROM usersync.tokens")
    result = clean(usersync("run", "--job", "teamleader", **VARIABLES))

    assert (5, 0) == (result.status, len(api.asked))
    assert "usersync oauth-url --source crm" in result.stderr
