"""The job that sends our map to Klanten: what it lacks is made there, and nothing is changed or removed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests import servers
from tests.conftest import Command
from tests.http_server import Answer
from tests.klanten_job import Sending
from tests.klanten_server import HTML, NOT_FOUND, PAGE, Klanten, Unknown, fault, of_path, out_of_order
from usersync_cli.cli.bootstrap import run_context
from usersync_cli.config import loader
from usersync_cli.errors import ConfigError, status_of
from usersync_cli.model import Database
from usersync_cli.report.check import check
from usersync_cli.report.verify.report import VerifyOptions
from usersync_cli.report.verify.steps import verify
from usersync_cli.signals import Stop


@pytest.fixture
def sending(database: Database, tmp_path: Path) -> Iterator[Sending]:
    """An empty map, and a Klanten that knows the app crm."""
    servers.migrate(database)
    with Klanten("crm").running() as klanten:
        assert isinstance(klanten, Klanten)
        yield Sending(klanten, database, tmp_path)


def test_what_it_lacks_is_made(sending: Sending) -> None:
    """
    A customer once, however many ids it has, and the mappings; a dry run tells exactly what the run then does; a second run asks nothing.
    """
    sending.map({"1": "example.com", "2": "example.com", "3": "example.org"})
    sending.map({"1": "example.net"}, app="shop")
    told = sending.preview()
    result = sending.run()

    assert ({"of other apps": 1}, None) == (result.steps[0].left_out, result.steps[0].error)
    assert [("insert", "crm:1"), ("insert", "crm:2"), ("insert", "crm:3")] == told
    assert {("crm", "1"): "example.com", ("crm", "2"): "example.com", ("crm", "3"): "example.org"} == sending.klanten.held()
    assert [2, 3] == [sending.klanten.sent().count(f"POST /v1/{what}/") for what in ("customers", "mappings")]
    assert [] == sending.asked()
    assert "0 0 3 0" == sending.ok()


@pytest.mark.parametrize("unknown", ["404", "404 html", "500 html"])
def test_each_reading_of_unknown(sending: Sending, unknown: Unknown) -> None:
    """
    Whatever Klanten answers for an unknown id: what is there as we want it stays, what is somebody else's and what does not fit its
    path are conflicts, all else is made, for the customer that is there, in whatever case its domain is.
    """
    klanten = sending.klanten
    klanten.unknown = unknown
    klanten.add("Example.COM", ("crm", "1"))
    klanten.add("example.net", ("crm", "2"))
    sending.map({"1": "example.com", "2": "example.com", "3": "example.com", "4": "example.org", "a/b": "example.org"})
    told = sending.preview()
    before = dict(klanten.mappings)

    assert 3 == status_of(sending.failed())
    assert [("insert", "crm:3"), ("insert", "crm:4"), ("reject", "crm:2"), ("reject", "crm:a/b")] == told
    assert {"crm:2": "somebody_elses", "crm:a/b": "id_does_not_fit"} == sending.conflicts()
    assert before.items() <= klanten.mappings.items()
    assert {("crm", "3"): "Example.COM", ("crm", "4"): "example.org"}.items() <= klanten.held().items()
    assert ["example.com", "example.net", "example.org"] == sorted(domain.lower() for domain in klanten.customers)
    assert ["GET /v1/query/crm/2"] == sending.asked()


def test_an_outage_is_not_unknown(sending: Sending) -> None:
    """
    A Klanten that answers 500 for everything: 4, and nothing is planned, once an id is known that it has; before, nothing is made.
    """
    klanten, down = sending.klanten, of_path("/v1/", out_of_order())
    klanten.unknown = "500 html"
    sending.map({"1": "example.com"})
    klanten.trouble = down
    first = sending.failed()
    klanten.trouble = lambda _: None
    assert "1 0 0 0" == sending.ok()
    sending.map({"2": "example.com"})
    klanten.trouble, sending.patience = down, 0.3
    intents = sending.ask("SELECT count(*) FROM usersync.intents")
    second = sending.failed()

    assert [4, 4] == [status_of(first), status_of(second)]
    assert "also for an id that it has" in second.message
    assert intents == sending.ask("SELECT count(*) FROM usersync.intents")
    assert {("crm", "1"): "example.com"} == klanten.held()


def test_a_500_that_passes_is_not_unknown(sending: Sending) -> None:
    """
    An id that Klanten has, and that gets a 500 once, is asked for again: a dry run does not say that it would be made.
    """
    sending.klanten.add("example.com", ("crm", "1"), ("crm", "2"))
    sending.map({"1": "example.com", "2": "example.com"})
    sending.klanten.trouble = of_path("/v1/query/crm/1", out_of_order(), times=1)

    assert [] == sending.preview()


def test_a_klanten_that_lost_everything(sending: Sending) -> None:
    """
    Where it knows none of the ids that it had, a run stops with 7; --full makes them again.
    """
    sending.map({"1": "example.com"})
    sending.ok()
    sending.klanten.mappings.clear()
    sending.map({"2": "example.org"})

    assert 7 == status_of(sending.failed())
    assert "2 0 0 0" == sending.ok(full=True)


@pytest.mark.parametrize(("route", "asked"), [("/v1/customers/", 2), ("/v1/mappings/", 1)])
def test_a_lost_answer_makes_nothing_twice(sending: Sending, route: str, asked: int) -> None:
    """
    What was carried out without an answer is looked up, and counts as made; what was not is sent again.
    """
    klanten = sending.klanten
    sending.settings = {"workers": 1}
    sending.map({"1": "example.com", "2": "example.org"})
    klanten.lost = of_path(route, fault("reset"), times=1, method="POST")
    klanten.trouble = of_path(route, fault("reset"), skip=asked, times=1, method="POST")  # the first for the second id

    assert "2 0 0 0" == sending.ok()
    assert {("crm", "1"): "example.com", ("crm", "2"): "example.org"} == klanten.held()
    assert 2 == len(klanten.customers)
    assert [] == sending.asked()


def test_no_answer_at_all_is_left_to_the_next_run(sending: Sending) -> None:
    """
    4, and what was not made is made by the next run, without a conflict.
    """
    sending.map({str(number): "example.com" for number in range(5)})
    sending.klanten.trouble = of_path("/v1/mappings", Answer(200, b"<p>maintenance", HTML))
    error = sending.failed()
    sending.klanten.trouble = lambda _: None

    assert (4, True) == (status_of(error), "left to the next run" in error.message)
    assert ({}, {}) == (sending.klanten.held(), sending.conflicts())
    assert "5 0 0 0" == sending.ok()


def test_what_is_no_answer(sending: Sending) -> None:
    """
    A refused key, a redirect, HTML with 200, another API, silence: said in words, and nothing is planned.
    """
    sending.map({"1": "example.com"})
    for answer, status, word in (
        (Answer(403, {"detail": "Invalid."}), 2, "does not accept the key"),
        (Answer(401, PAGE, HTML), 2, "does not accept the key"),
        (Answer(302, b"", {"Location": "https://login.test/"}), 2, "was not followed"),
        (Answer(200, b"<p>welcome", HTML), 4, "not JSON"),
        (Answer(200, {"page": 1}), 7, "another shape"),
        (fault("hang"), 4, "did not answer in time"),
    ):
        sending.klanten.trouble = of_path("/v1/query", answer)
        sending.patience = {"not JSON": 1.0, "did not answer in time": 0.2}.get(word, 5.0)
        error = sending.failed()
        assert (status, True) == (status_of(error), word in error.message), error.message

    assert [] == sending.klanten.sent()
    assert [(0,)] == sending.ask("SELECT count(*) FROM usersync.intents")


def test_a_wrong_address(sending: Sending) -> None:
    """
    A web server that answers 404 for everything looks as if no id were known; nothing can be made there, and the address is named.
    """
    sending.map({"1": "example.com"})
    sending.klanten.trouble = of_path("/", Answer(404, NOT_FOUND, HTML))
    error = sending.failed()

    assert (7, True) == (status_of(error), "is url in the config file right" in error.hint)


@pytest.mark.parametrize("answer", [400, 404])
def test_an_app_that_klanten_does_not_know(sending: Sending, answer: int) -> None:
    """
    After three refusals no more of its ids are sent, other apps' are; 2 names the app, and once it is there all is made.
    """
    sending.klanten.no_app = answer
    sending.settings = {"apps": {"crm": "new", "shop": "crm"}, "workers": 1}
    sending.map({str(number): "example.com" for number in range(6)})
    sending.map({"1": "example.com"}, app="shop")
    error = sending.failed()

    assert (2, True) == (status_of(error), "app new: the first 3 were refused" in error.message)
    assert {("crm", "1"): "example.com"} == sending.klanten.held()
    assert {} == sending.conflicts()
    sending.klanten.apps.add("new")
    assert "6 0 1 0" == sending.ok()


def test_what_klanten_refuses_waits(sending: Sending) -> None:
    """
    An id that it does not take is set aside with the reason, and not sent again until somebody says so.
    """
    sending.map({"1": "example.com"})
    sending.ok()
    sending.klanten.trouble = of_path("/v1/mappings/", Answer(400, {"detail": "No."}), method="POST")
    sending.map({"2": "example.com"})
    first, again, retried = (sending.asked(**options) for options in ({}, {}, {"retry": ()}))

    assert [1, 0, 1] == [asked.count("POST /v1/mappings/") for asked in (first, again, retried)]
    assert {"crm:2": "refused_by_klanten"} == sending.conflicts()
    sending.klanten.trouble = lambda _: None
    assert "1 0 1 0" == sending.ok(retry=())


def test_two_of_theirs_that_are_one_of_ours(sending: Sending) -> None:
    """
    Ids that are there stay; of a new one a person decides, and hears which two there are.
    """
    for number, domain in enumerate(("Example.com", "EXAMPLE.com."), 1):
        sending.klanten.add(domain, ("crm", str(number)))
    sending.map({"1": "example.com", "2": "example.com", "3": "example.com"})
    sending.failed()

    assert {"crm:3": "two_customers"} == sending.conflicts()
    assert [(True, True)] == sending.ask("SELECT detail LIKE '%Example.com (%', detail LIKE '%EXAMPLE.com. (%' FROM usersync.rejects")
    assert [] == sending.klanten.sent()


def test_a_customer_that_was_renamed_or_merged_here(sending: Sending) -> None:
    """
    Ids that Klanten has for what is the same customer here are equal, and new ones go to the one with the domain that holds now.
    """
    sending.map({"1": "example.com", "2": "example.org"})
    sending.ok()
    one, other = sending.uuid("example.com"), sending.uuid("example.org")
    sending.ask(f"UPDATE usersync.customers SET domain = NULL, merged_into = '{one}' WHERE uuid = '{other}' RETURNING 1")
    sending.ask(f"INSERT INTO usersync.former_domains VALUES ('example.org', '{other}', now(), 'a test') RETURNING 1")
    assert "0 0 2 0" == sending.ok()

    sending.map({"3": "example.com"})
    assert "1 0 2 0" == sending.ok()
    assert {("crm", "1"): "example.com", ("crm", "2"): "example.org", ("crm", "3"): "example.com"} == sending.klanten.held()


# Klanten's uuids


def test_its_uuid_is_another_name_of_our_customer(sending: Sending) -> None:
    """
    What Klanten calls the customer that it made is in our map, merged into ours by klanten: once, and nothing else changes.
    """
    sending.map({"1": "example.com", "2": "example.com"})
    sending.ok()
    theirs, ours = sending.klanten.customers["example.com"], sending.uuid("example.com")

    assert [(theirs, None, ours, "klanten")] == sending.ask(
        "SELECT uuid, domain, merged_into, created_by FROM usersync.customers WHERE merged_into IS NOT NULL"
    )
    assert [(theirs, ours, None, "klanten")] == sending.ask("SELECT customer, merged_into, domain, merged_by FROM usersync.merges")
    assert [(ours,)] == sending.ask(f"SELECT usersync.root_of('{theirs}')")
    assert [("1", ours), ("2", ours)] == sending.ask("SELECT id, uuid FROM usersync.customer_ids ORDER BY id")


def test_what_was_sent_is_no_news_when_it_is_read_back(sending: Sending) -> None:
    """
    A source klanten finds no difference to the map in what a target klanten has made, although the uuids are others there.
    """
    sending.map({"1": "example.com", "2": "example.com", "3": "example.org"})
    before = sending.ask("SELECT app, id, uuid, domain FROM usersync.customer_ids ORDER BY id")
    sending.ok()
    result = sending.run("import")

    assert (None, 3) == (result.steps[0].error, result.steps[0].counts.inserted)
    assert [(0,)] == sending.ask("SELECT count(*) FROM usersync.identity_conflicts")
    assert before == sending.ask("SELECT app, id, uuid, domain FROM usersync.customer_ids ORDER BY id")


def test_a_uuid_that_is_somebody_else_here(sending: Sending) -> None:
    """
    Our map has Klanten's uuid as another customer: a conflict, before the mapping is made, and after when a look-up shows it.
    """
    uuids = [sending.klanten.add(domain, *ids) for domain, ids in (("example.com", ()), ("example.org", [("crm", "2")]))]
    sending.map({"1": "example.com", "2": "example.org"})
    for number, uuid in enumerate(uuids):
        sending.ask(f"INSERT INTO usersync.customers VALUES ('{uuid}', 'example-{number}.test', NULL, now(), 'a test') RETURNING 1")
    sending.failed()

    assert {"crm:1": "uuid_of_another", "crm:2": "uuid_of_another"} == sending.conflicts()
    assert ["POST /v1/customers/"] == sending.klanten.sent()
    assert [(0,)] == sending.ask("SELECT count(*) FROM usersync.merges")


def test_what_a_person_was_asked_about_a_uuid_holds(sending: Sending) -> None:
    """
    A uuid that an import found, and that a person has not said yes to, is not merged behind their back; the mapping is made all the same.
    """
    for status in ("open", "rejected", "ignored", "accepted", "over"):
        uuid = sending.klanten.add(f"{status}.test")
        sending.map({status: f"{status}.test"})
        values = f"'uuid', 'crm', '{status}', '{status}.test', '{uuid}', '{status}'"
        sending.ask(f"INSERT INTO usersync.identity_conflicts (kind, app, app_id, domain, uuid, status) VALUES ({values}) RETURNING 1")

    assert "5 0 0 0" == sending.ok()
    merged = "SELECT c.domain FROM usersync.merges AS m JOIN usersync.customers AS c ON c.uuid = m.merged_into ORDER BY 1"
    assert [("accepted.test",), ("over.test",)] == sending.ask(merged)


# how it ends, and what else is said


def test_a_killed_run_goes_on(sending: Sending, usersync: Command) -> None:
    """
    Killed after Klanten has made a mapping and before that was written down: the next run finds it, and makes the others.
    """
    sending.map({str(number): "example.com" for number in range(4)})
    sending.settings = {"workers": 1}
    (usersync.folder / "config.yaml").write_text(sending.config().read_text())
    process: list[subprocess.Popen[str]] = []
    sending.klanten.lost = _once("/v1/mappings/", 2, lambda: os.kill(process[0].pid, signal.SIGKILL))
    with usersync.start("run", "--job", "send", "-q") as started:
        process.append(started)
        started.wait(60)
    sending.klanten.lost = lambda _: None

    assert [("0", True), ("1", False)] == sending.ask(
        "SELECT wanted ->> 'id', state = 'done' FROM usersync.intents WHERE wanted ->> 'id' < '2' ORDER BY 1"
    )
    assert "2 0 2 0" == sending.ok()
    assert ["POST /v1/customers/", *["POST /v1/mappings/"] * 4] == sending.klanten.sent()
    assert {str(number) for number in range(4)} == {id_ for _, id_ in sending.klanten.held()}


def _once(path: str, number: int, then: Callable[[], None]) -> Callable[[object], None]:
    """Call `then` when the so many-th request of this path was carried out."""
    seen = []

    def count(asked: object) -> None:
        seen.append(getattr(asked, "path", "") == path)
        if sum(seen) == number and seen[-1]:
            then()

    return count


def test_rows_that_can_not_be_sent(sending: Sending) -> None:
    """
    Without an app, an id or a domain, with a domain that is none or an id that a path or form would change: a reason each, nothing is sent.
    """
    odd = {"..": "example.com", " 1": "example.com", "a\nb": "example.com", "2": "not a domain", "3": None}
    rows = ", ".join(f"('crm', {_quoted(id_)}, {_quoted(domain)})" for id_, domain in odd.items())
    sending.query = f"SELECT * FROM (VALUES {rows}, ('crm', NULL, 'example.com'), (NULL, '4', 'example.com')) AS r(app, id, domain)"
    sending.failed()
    reasons = sorted(sending.conflicts().values())

    assert ["id_does_not_fit"] * 3 + ["no_domain"] + ["no_key"] * 2 + ["not_a_domain"] == reasons
    assert [] == sending.klanten.asked


def _quoted(text: str | None) -> str:
    return "NULL" if text is None else f"'{text}'"


def test_an_id_that_a_server_refuses_in_a_path(sending: Sending) -> None:
    """
    414, such as for an id that is too long, or 400: a conflict, and all others are made.
    """
    sending.map({"1": "example.com", "2": "example.com", "3": "example.com"})
    answers = {"/v1/query/crm/1": Answer(414, PAGE, HTML), "/v1/query/crm/2": Answer(400, PAGE, HTML)}
    sending.klanten.trouble = lambda asked: answers.get(asked.path)

    assert 3 == status_of(sending.failed())
    assert {"crm:1": "id_does_not_fit", "crm:2": "id_does_not_fit"} == sending.conflicts()
    assert {("crm", "3"): "example.com"} == sending.klanten.held()


def test_columns(sending: Sending) -> None:
    """
    The columns are app, id and domain; our uuid may come along, since the view has it, and all others are refused.
    """
    for columns, word in (("app, id", "lack a column domain"), ("app, id, domain, 1 AS size", "have a column size")):
        sending.query = f"SELECT {columns} FROM usersync.customer_ids"
        error = sending.failed()
        assert (7, True) == (status_of(error), word in error.message)
    sending.query = "SELECT app, id, domain, uuid FROM usersync.customer_ids"
    assert "0 0 0 0" == sending.ok()


def test_a_dry_run_before_the_first_run(sending: Sending) -> None:
    """
    The map is not there yet: the error says what makes it, and nothing is made.
    """
    with psycopg.connect(sending.target.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA usersync CASCADE")

    assert "`usersync db upgrade`" in sending.failed(dry_run=True).hint
    assert [(None,)] == sending.ask("SELECT to_regnamespace('usersync')")


def test_verify_asks_for_what_is_remembered(sending: Sending) -> None:
    """
    A mapping that somebody removed at Klanten is missing for verify, and made again by a full run; one that was moved is a conflict then.
    """
    sending.map({"1": "example.com", "2": "example.com"})
    sending.ok()
    del sending.klanten.mappings["crm", "2"]
    config = loader.load(sending.config())
    job = config.job("send")
    (report,) = verify(job, run_context(config, job, Stop()), VerifyOptions())

    assert (1, ["crm:2"]) == (report.missing, [one.key for one in report.found])
    assert "0 0 2 0" == sending.ok()
    assert "1 0 1 0" == sending.ok(full=True)
    sending.klanten.add("example.net", ("crm", "2"))
    assert [3, 3] == [status_of(sending.failed(**options)) for options in ({"full": True}, {})]


def test_check_writes_nothing(sending: Sending) -> None:
    """
    It says whether the key is accepted, and which apps have ids that we know; without one that is an honest "not known".
    """

    def findings() -> list[tuple[str, int]]:
        config = loader.load(sending.config())
        job = config.job("send")
        found = check(job, run_context(config, job, Stop()))
        return [
            (one.what.partition("target klanten: ")[2], status_of(one.error) if one.error else 0) for one in found if "klanten" in one.what
        ]

    place = f"Klanten at {sending.klanten.url.removeprefix('http://')}"
    later = "; whether it is an app there shows when the first id is sent"
    assert [(f"{place} accepts the key", 0), (f"app crm: no id of crm is known here to ask it for{later}", 0)] == findings()
    sending.map({"1": "example.com"})
    assert (f"app crm: has none of the 1 ids of crm that it was asked for{later}", 0) == findings()[1]
    sending.ok()
    assert ("app crm: has ids of crm", 0) == findings()[1]
    sending.klanten.trouble = of_path("/v1/query", out_of_order())
    assert ("app crm", 4) == findings()[1]
    sending.klanten.trouble, sending.klanten.key = (lambda _: None), "another"
    assert [(place, 2)] == findings()
    assert 2 == len(sending.klanten.sent())


def test_nothing_can_be_removed_there(sending: Sending) -> None:
    """
    A step that says so is refused where it is said; `on_missing: keep` may be said, and holds where nothing is.
    """
    for load, word in (
        ({"on_missing": "disable"}, 'on_missing: can only be "keep": nothing is ever removed or disabled there'),
        ({"max_missing": "5%"}, "max_missing: has no effect: nothing is ever removed"),
    ):
        sending.load = load
        with pytest.raises(ConfigError, match=word):
            loader.load(sending.config())
    for load in ({"on_missing": "keep"}, {}):
        sending.load = load
        assert "keep" == loader.load(sending.config()).job("send").steps[0].load.on_missing
