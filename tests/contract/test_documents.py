"""What pages of documents promise (ports.py: DocumentSession, model.py: Page), held against every live source that gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from tests.contract.live import LiveSource
from usersync_cli.model import Documents, Page, Stream
from usersync_cli.ports import Session


def listings(session: Session, live: LiveSource) -> dict[str, list[Page]]:
    """The pages of a full listing of each stream."""
    found: dict[str, list[Page]] = {stream.name: [] for stream in live.streams}
    for page in session.pages(live.streams, {}):
        for name in page.streams:
            found[name].append(page)
    return found


def asked(live: LiveSource, name: str) -> Stream:
    """One of the sample's streams, with the ids that the target knows."""
    return next(stream for stream in live.streams if stream.name == name)


def of_stream(page: Page, name: str) -> list[str]:
    """The keys of one of a page's streams."""
    assert isinstance(page.content, Documents)
    return [record.key for record in page.content.records if record.stream == name]


def test_pages_say_whose_they_are(live: LiveSource, session: Session, *, tabular: bool) -> None:
    """
    Each page of documents names its streams, of those that were asked for, also where it has no record of them.
    """
    if tabular:  # a Copy has the name of its stream
        return
    for page in session.pages(live.streams[:1], {}):
        assert isinstance(page.content, Documents)
        assert {record.stream for record in page.content.records} <= {*page.streams}
        assert [live.streams[0].name] == list(page.streams)


def test_documents_are_json_with_a_key(live: LiveSource, session: Session, *, tabular: bool) -> None:
    """
    A record has its own bytes, which are JSON, and a key; or it says itself why it can't be loaded.
    """
    if tabular:
        return
    for page in session.pages(live.streams, {}):
        assert isinstance(page.content, Documents)
        for record in page.content.records:
            assert record.key
            assert not record.problem
            assert isinstance(json.loads(record.data), dict)


def test_a_listing_has_a_name(live: LiveSource, session: Session, *, tabular: bool) -> None:
    """
    All pages of a full listing have the same `sweep`, the last of them alone is complete; another listing has another.
    """
    if tabular:  # one page is the whole listing
        return
    first, second = listings(session, live), listings(session, live)
    for name in live.keys:
        assert len(first[name]) > 1, "the sample needs more than one page"
        ((sweep,), (other,)) = ({page.sweep for page in pages} for pages in (first[name], second[name]))
        assert [False] * (len(first[name]) - 1) + [True] == [page.complete for page in first[name]]
        assert sweep
        assert other
        assert sweep != other


def test_each_cursor_gives_the_rest(
    live: LiveSource, session: Session, make: Callable[[Any], AbstractContextManager[Session]], *, tabular: bool
) -> None:
    """
    From the cursor of any page a later session gives exactly the pages behind it, as part of the same listing.
    """
    if tabular:  # the cursor stands behind everything, and everything is read again
        return
    for name, pages in listings(session, live).items():
        for number, page in enumerate(pages[:-1], 1):
            with make(live.settings) as later:
                rest = list(later.pages([asked(live, name)], {name: json.loads(json.dumps(page.cursor))}))
            assert [of_stream(one, name) for one in pages[number:]] == [of_stream(one, name) for one in rest]
            assert [(one.sweep, one.complete) for one in pages[number:]] == [(one.sweep, one.complete) for one in rest]


def test_a_finished_listing_is_not_gone_on_with(
    live: LiveSource, session: Session, make: Callable[[Any], AbstractContextManager[Session]], *, tabular: bool
) -> None:
    """
    Behind the last page comes what changed, which is no sweep, or a new listing, which is whole and has a name of its own.
    """
    if tabular:
        return
    for name, pages in listings(session, live).items():
        with make(live.settings) as later:
            news = list(later.pages([asked(live, name)], {name: json.loads(json.dumps(pages[-1].cursor))}))
        assert pages[-1].sweep not in {page.sweep for page in news}
        if any(page.sweep for page in news):
            assert sorted(live.keys[name]) == sorted(key for page in news for key in of_stream(page, name))
        else:
            assert not any(page.complete for page in news)
