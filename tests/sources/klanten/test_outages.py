"""A Klanten that is out of order, or away: that is never read as "unknown"."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.http_server import Answer, Fault
from tests.klanten_reading import FOUND, IDS, QUERY, Reading, failed, filled
from tests.klanten_server import HTML, Klanten, fault, of_path, out_of_order
from usersync_cli.errors import Unavailable


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


@pytest.mark.parametrize("skip", [0, 1, 3, 4])
def test_a_short_outage_costs_nothing(klanten: Klanten, skip: int) -> None:
    """
    Answers of 500 that pass are asked for again, once an id that Klanten has is answered.
    """
    klanten.trouble = of_path("/v1/", out_of_order(), skip=skip, times=2)
    read = Reading(klanten, IDS)

    assert read.error is None
    assert FOUND == read.domains


def test_unknown_ids_may_come_first(klanten: Klanten) -> None:
    """
    Ids of which nothing can be said wait, over pages and streams, for the first one that is found.
    """
    read = Reading(klanten, {"companies": ["7", "8", "9"], "shops": ["0", "00", "000", "b"]})

    assert (None, {"unknown at the source": 6}) == (read.error, read.left_out)
    assert {"companies": {"3": "Example.ORG"}, "shops": {"b": "Example.ORG"}} == read.domains


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
