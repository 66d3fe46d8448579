"""The source `klanten` against a local Klanten: what is asked for, what that costs, and that an outage is never "unknown"."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import pytest

from tests.http_server import Answer, Fault
from tests.klanten_server import HTML, NOT_FOUND, Klanten, fault, of_path, out_of_order, settings
from usersync_cli.clients.http.client import Client
from usersync_cli.errors import ConfigError, Drift, Unavailable, UsersyncError
from usersync_cli.model import Cursor, Database, Documents, Page, Stream
from usersync_cli.patience import Patience
from usersync_cli.ports import Tools
from usersync_cli.signals import Stop
from usersync_cli.sources.klanten import Settings, Source, walk

STREAMS = {"companies": "crm", "shops": "shop"}
QUERY = "/v1/query/"
READINGS: Sequence[dict[str, Any]] = [
    {"unknown": "404", "id_field": "aoo_id", "takes": "form"},
    {"unknown": "404 html", "id_field": "app_id", "takes": "query"},
    {"unknown": "500 html", "id_field": "customer_app_id", "takes": "form"},
]


class Reading:
    """One reading of a Klanten, by a session of its own."""

    def __init__(self, klanten: Klanten, ids: Mapping[str, Sequence[str]], since: Mapping[str, Cursor] | None = None, **more: Any) -> None:
        self.found: dict[str, dict[str, tuple[str, str]]] = {name: {} for name in ids}
        self.pages: list[Page] = []
        self.error: UsersyncError | None = None
        stop = Stop()
        stop.patience = Patience(0.15)
        streams = [Stream(name, ids=lambda given=given: [given[:3], given[3:]]) for name, given in ids.items()]  # type: ignore[misc]
        given = Settings(type="klanten", **settings(klanten.url, **{"streams": STREAMS, "workers": 1, **more}))
        with Source("klanten", given).open(Tools("test", stop, Database)) as session:
            try:
                for page in session.pages(streams, since or {}):
                    self._take(page)
            except UsersyncError as error:
                self.error = error
            self.left_out = dict(session.left_out)
            self.kept_out = {name: {*session.kept_out(name)} for name in ids}

    def _take(self, page: Page) -> None:
        self.pages.append(page)
        assert isinstance(page.content, Documents)
        for record in page.content.records:
            data = json.loads(record.data)
            assert record.stream in page.streams
            assert record.key not in self.found[record.stream], "given twice"
            assert {"id", "uuid", "domain"} == {*data}
            assert record.key == data["id"]
            self.found[record.stream][record.key] = (data["uuid"], data["domain"])

    @property
    def domains(self) -> dict[str, dict[str, str]]:
        return {name: {id_: domain for id_, (_, domain) in sorted(found.items())} for name, found in self.found.items()}


def failed(klanten: Klanten, ids: Mapping[str, Sequence[str]], **more: Any) -> UsersyncError:
    error = Reading(klanten, ids, **more).error
    assert error is not None
    assert "to-look-for" not in f"{error.message} {error.hint}"
    return error


def queries(klanten: Klanten) -> list[str]:
    """What was asked for by id: app/id."""
    return [unquote(one.path.removeprefix(QUERY)) for one in klanten.asked if one.path.startswith(QUERY)]


@pytest.fixture(params=READINGS, ids=lambda one: str(one["unknown"]))
def klanten(request: pytest.FixtureRequest) -> Iterator[Klanten]:
    """Two customers with ids in two apps, in one of the readings."""
    with Klanten("crm", "shop", "other", **request.param).running() as server:
        assert isinstance(server, Klanten)
        yield filled(server)


@pytest.fixture
def plain() -> Iterator[Klanten]:
    with Klanten("crm", "shop", unknown="404").running() as server:
        assert isinstance(server, Klanten)
        yield filled(server)


def filled(server: Klanten) -> Klanten:
    server.add("example.com", ("crm", "1"), ("crm", "4"), ("shop", "a"), ("other", "x"))
    server.add("Example.ORG", ("crm", "3"), ("shop", "b"))
    return server


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of two ids, and no pause before a request is repeated."""
    monkeypatch.setattr(walk, "PAGE_IDS", 2)
    monkeypatch.setitem(Client.__init__.__kwdefaults__ or {}, "pause", timedelta(seconds=0.01))


IDS = {"companies": ["1", "2", "3", "4"], "shops": ["a", "b", "c"]}
FOUND = {"companies": {"1": "example.com", "3": "Example.ORG", "4": "example.com"}, "shops": {"a": "example.com", "b": "Example.ORG"}}


def test_each_reading_of_the_documentation(klanten: Klanten) -> None:
    """
    Uuids and domains are as Klanten has them; what it does not know is counted; each id and each customer is asked for as seldom as can be.
    """
    read = Reading(klanten, IDS)

    assert read.error is None
    assert FOUND == read.domains
    assert {str(klanten.customers["example.com"])} == {read.found["companies"][one][0] for one in ("1", "4")}
    assert {"unknown at the source": 2} == read.left_out
    assert {"companies": {"2"}, "shops": {"c"}} == read.kept_out
    assert [False] * (len(read.pages) - 1) + [True] == [page.complete for page in read.pages]
    assert 1 == len({page.sweep for page in read.pages})
    assert 2 == klanten.count("/v1/mappings/")
    assert ["crm/1", "crm/2", "crm/3", "shop/c"] == list(dict.fromkeys(queries(klanten)))
    if klanten.unknown != "500 html":
        assert 4 == len(queries(klanten))


def test_a_second_reading_finds_the_same(plain: Klanten) -> None:
    """
    Behind a finished reading comes a new one of everything, since anything may have changed.
    """
    first = Reading(plain, IDS)
    second = Reading(plain, IDS, dict.fromkeys(IDS, first.pages[-1].cursor))

    assert first.domains == second.domains == FOUND
    assert first.pages[0].sweep != second.pages[0].sweep


def test_an_interrupted_reading_goes_on(plain: Klanten) -> None:
    """
    From each page's cursor a later session gives the rest, and asks for nothing that was asked before.
    """
    whole = Reading(plain, IDS)
    for number, page in enumerate(whole.pages[:-1], 1):
        plain.asked.clear()
        cursor = json.loads(json.dumps(page.cursor))
        rest = Reading(plain, IDS, dict.fromkeys(IDS, cursor))
        expected = [record.key for one in whole.pages[number:] for record in one.content.records]  # type: ignore[union-attr]
        assert expected == [record.key for one in rest.pages for record in one.content.records]  # type: ignore[union-attr]
        assert whole.pages[0].sweep == rest.pages[0].sweep
        behind = {f"{STREAMS[cursor['stream']]}/{id_}" for id_ in IDS[cursor["stream"]] if id_ <= cursor["behind"]}
        assert not behind & {*queries(plain)}


def test_ids_that_nobody_here_knows_come_with_their_customer(plain: Klanten) -> None:
    """
    What a customer has in an app of a stream is given too, of an app without any id here too; other apps are nobody's business.
    """
    read = Reading(plain, {"shops": [], "companies": ["1"]})

    assert {"companies": {"1": "example.com", "4": "example.com"}, "shops": {"a": "example.com"}} == read.domains
    assert {} == read.left_out


# ids


@pytest.mark.parametrize(
    "id_", ["a?b", "a#b", "50%", "%2F", "a b", "a+b", "a&b=c", "Ünïcode €", "test.user@example.com", "a;b", "...", "~"]
)
def test_an_id_is_asked_for_as_it_is(plain: Klanten, id_: str) -> None:
    """
    Whatever means something in a URL arrives as it is.
    """
    plain.add("example.net", ("crm", id_))

    assert {id_: "example.net"} == Reading(plain, {"companies": [id_]}).domains["companies"]


def test_an_id_that_does_not_fit_is_not_mangled(plain: Klanten) -> None:
    """
    It is not asked for, and counted; where another id leads to its customer, it is given all the same.
    """
    plain.add("example.net", ("crm", "n/2"), ("crm", "z"))
    odd = ["", "..", "a/b", "n/2"]
    read = Reading(plain, {"companies": [*odd, "z"]})

    assert {"n/2": "example.net", "z": "example.net"} == read.domains["companies"]
    assert {"unfit to be asked for": 3} == read.left_out
    assert ["crm/z"] == queries(plain)


def test_an_id_that_is_refused_keeps_no_other_back(plain: Klanten) -> None:
    """
    A 400 for one id, by Klanten or what stands before it, is counted; for every id it is drift.
    """
    plain.trouble = of_path(f"{QUERY}crm/2", Answer(400, b"<h1>Bad Request</h1>", HTML))
    read = Reading(plain, IDS)
    assert (None, FOUND) == (read.error, read.domains)
    assert {"unknown at the source": 1, "unfit to be asked for": 1} == read.left_out
    plain.trouble = of_path("/v1/", Answer(400, {}))
    assert isinstance(failed(plain, IDS), Drift)


# outages


@pytest.mark.parametrize("skip", [0, 1, 3, 5])
def test_an_outage_in_the_middle_is_not_unknown(klanten: Klanten, skip: int) -> None:
    """
    A Klanten that answers 500 from some moment on ends the reading, whatever it answers to unknown ids; the next run goes on.
    """
    klanten.trouble = of_path("/v1/", out_of_order(), skip=skip)
    read = Reading(klanten, IDS)

    assert isinstance(read.error, Unavailable)
    assert not any(page.complete for page in read.pages)
    klanten.trouble = lambda _: None
    since = dict.fromkeys(IDS, read.pages[-1].cursor) if read.pages else {}
    rest = Reading(klanten, IDS, since)
    assert FOUND == {name: read.domains[name] | rest.domains[name] for name in IDS}


@pytest.mark.parametrize("skip", [1, 2, 3, 4])
def test_a_short_outage_costs_nothing(klanten: Klanten, skip: int) -> None:
    """
    Answers of 500 that pass are asked for again, once an id that Klanten has is answered.
    """
    klanten.trouble = of_path("/v1/", out_of_order(), skip=skip, times=2)
    read = Reading(klanten, IDS)

    assert read.error is None
    assert FOUND == read.domains


def test_without_a_known_id_an_outage_can_not_be_told() -> None:
    """
    Where everything is a 500 the reading ends as an outage, unless an id is named that Klanten has.
    """
    with Klanten("crm", unknown="500 html").running() as server:
        assert isinstance(server, Klanten)
        server.add("example.com", ("crm", "known"))
        error = failed(server, {"companies": ["1", "2", "3"]})
        assert isinstance(error, Unavailable)
        assert "known" in error.hint
        read = Reading(server, {"companies": ["1", "2", "3"]}, known={"crm": "known"})
        assert (None, {"unknown at the source": 3}) == (read.error, read.left_out)
        server.trouble = of_path("/v1/", out_of_order())
        assert isinstance(failed(server, {"companies": ["1"]}, known={"crm": "known"}), Unavailable)


def test_what_was_found_once_tells_an_outage_later() -> None:
    """
    A finished reading leaves a few ids that Klanten has, by which the next one tells an outage from unknown ids.
    """
    with Klanten("crm", "shop", unknown="500 html").running() as server:
        assert isinstance(server, Klanten)
        first = Reading(filled(server), {"companies": ["1"]})
        since = {"companies": first.pages[-1].cursor}
        assert {"unknown at the source": 2} == Reading(server, {"companies": ["7", "8"]}, since).left_out
        server.trouble = of_path("/v1/", out_of_order())
        assert isinstance(Reading(server, {"companies": ["7", "8"]}, since).error, Unavailable)


PAGE = Answer(200, b"<!doctype html><title>Log in</title>", HTML)
FAULTS: Sequence[Fault] = ["truncated", "reset", "hang"]


@pytest.mark.parametrize(
    "answer",
    [PAGE, Answer(503, b"", HTML), Answer(429, {}, {"Retry-After": "1"}), *map(fault, FAULTS)],
    ids=lambda one: one.fault or one.status,
)
@pytest.mark.parametrize("path", [QUERY, "/v1/mappings/"])
def test_no_answer_is_not_unknown(plain: Klanten, answer: Answer, path: str) -> None:
    """
    A page in HTML with a 200, a server that is busy, a body that is cut: the reading ends as an outage.
    """
    plain.trouble = of_path(path, answer)

    assert isinstance(failed(plain, IDS), Unavailable)


def test_an_answer_of_another_type_is_read(plain: Klanten) -> None:
    """
    What counts is whether it is JSON, not what it calls itself.
    """
    uuid = str(plain.customers["example.com"])
    plain.trouble = of_path(f"{QUERY}crm/1", Answer(200, {"domain": "example.com", "uuid": uuid}, HTML))
    assert FOUND == Reading(plain, IDS).domains


# refusals


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_says_so(plain: Klanten, status: int) -> None:
    """
    In words that say what to fix, without the key.
    """
    plain.trouble = of_path("/v1/", Answer(status, {"detail": "Authentication credentials were not provided."}))
    error = failed(plain, IDS)

    assert isinstance(error, ConfigError)
    assert "api_key" in error.hint


@pytest.mark.parametrize("to", ["https://klanten.example.org/v1/query/crm/1", "/accounts/login/?next=/v1/"])
def test_a_redirect_is_not_followed(plain: Klanten, to: str) -> None:
    """
    The key goes nowhere else.
    """
    plain.trouble = of_path("/v1/", Answer(301, b"", {"Location": to}))
    error = failed(plain, IDS)

    assert (True, 1) == (error.status == 2, len(plain.asked))


@pytest.mark.parametrize("body", [{"detail": "no"}, [], {"domain": "example.com", "uuid": "none"}, {"domain": None, "uuid": None}])
def test_another_shape_is_drift(plain: Klanten, body: object) -> None:
    """
    A 200 that has no customer in it is not "unknown".
    """
    plain.trouble = of_path(QUERY, Answer(200, body))

    assert isinstance(failed(plain, IDS), Drift)


def test_mappings_of_another_customer_are_refused(plain: Klanten) -> None:
    """
    A Klanten that did not hear which customer was asked for would give everybody's.
    """
    everything = [{"app": app, "aoo_id": id_, "domain": domain} for (app, id_), domain in plain.held().items()]
    plain.trouble = of_path("/v1/mappings/", Answer(200, everything))

    assert isinstance(failed(plain, IDS), Drift)


@pytest.mark.parametrize("answer", [Answer(404, {}), out_of_order()])
def test_without_the_list_of_a_customer_each_id_is_asked_for(plain: Klanten, answer: Answer) -> None:
    """
    The list of a customer's ids saves requests; where there is none, nothing is lacking but those that nobody here knows.
    """
    plain.trouble = of_path("/v1/mappings/", answer)
    read = Reading(plain, IDS)

    assert (None, FOUND) == (read.error, read.domains)
    assert 2 * 2 == plain.count("/v1/mappings/"), "each of two customers, and once more"


def test_a_wrong_address_is_not_a_klanten_without_ids(plain: Klanten) -> None:
    """
    A server that has no such path answers 404 to everything.
    """
    plain.trouble = of_path("/", Answer(404, NOT_FOUND, HTML))
    error = failed(plain, IDS)

    assert isinstance(error, ConfigError)
    assert "url" in error.hint


def test_a_klanten_that_has_lost_what_it_had_is_drift(plain: Klanten) -> None:
    """
    Nothing is found, and an id that was found before is not either: it is another one, or an old copy.
    """
    first = Reading(plain, IDS)
    plain.mappings.clear()

    assert isinstance(Reading(plain, IDS, dict.fromkeys(IDS, first.pages[-1].cursor)).error, Drift)


def test_a_klanten_that_has_none_is_asked_and_counted(plain: Klanten) -> None:
    """
    The first reading of a Klanten that says itself that it has none of the ids is a reading.
    """
    plain.mappings.clear()
    read = Reading(plain, IDS)

    assert (None, {"unknown at the source": 7}) == (read.error, read.left_out)
    assert read.pages[-1].complete


# check


def look(klanten: Klanten, stream: str = "companies", **more: Any) -> str:
    given = Settings(type="klanten", **settings(klanten.url, streams=STREAMS, **more))
    with Source("klanten", given).open(Tools("test", Stop(), Database)) as session:
        return session.look(stream)


def test_check_looks_at_the_key(klanten: Klanten) -> None:
    """
    With one request, or two where `known` names an id.
    """
    assert "answer" in look(klanten) or "key is accepted" in look(klanten)
    assert "and it has the id" in look(klanten, known={"crm": "1"})
    with pytest.raises((ConfigError, Unavailable)):
        look(klanten, known={"crm": "9"})
    klanten.key = "another.one"
    with pytest.raises(ConfigError, match="does not accept the key"):
        look(klanten)
