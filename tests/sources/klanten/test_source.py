"""The source `klanten` against a local Klanten: what is asked for, what that costs, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.http_server import Answer
from tests.klanten_reading import FOUND, IDS, QUERY, STREAMS, Reading, failed, queries
from tests.klanten_server import HTML, NOT_FOUND, Klanten, of_path, out_of_order, settings
from usersync_cli.errors import ConfigError, Drift, Unavailable
from usersync_cli.model import Database
from usersync_cli.ports import Tools
from usersync_cli.signals import Stop
from usersync_cli.sources.klanten import Settings, Source


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
    assert FOUND == Reading(plain, IDS, {name: {"page": 7} for name in IDS}).domains


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
