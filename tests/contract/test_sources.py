"""What every source promises (ports.py), held against a live one. A new source brings a sample, see live.py."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from tests.contract.live import PERSON, SECRET, LiveSource, keys, sample
from tests.servers import until
from usersync_cli.config.registry import source_port, source_types
from usersync_cli.errors import Drift, Stopped, Unavailable, UsersyncError
from usersync_cli.model import Copy, Page, Stream
from usersync_cli.ports import Session
from usersync_cli.signals import Stop


def read(session: Session, streams: Sequence[Stream]) -> dict[str, list[str]]:
    """The keys of each stream, in the order in which they came."""
    found: dict[str, list[str]] = {stream.name: [] for stream in streams}
    for page in session.pages(streams, {}):
        if isinstance(page.content, Copy):
            found[page.content.stream] += keys(page.content)
        else:
            for record in page.content.records:
                found[record.stream].append(record.key)
    return found


def streams_of(page: Page) -> list[str]:
    return [page.content.stream] if isinstance(page.content, Copy) else list(page.streams)


def begun(pages: Iterator[Page]) -> Iterator[object]:
    """Blocks or records as they come; the first one has been waited for."""

    def flow() -> Iterator[object]:
        for page in pages:
            yield from page.content.blocks if isinstance(page.content, Copy) else page.content.records

    blocks = flow()
    next(blocks)
    return blocks


def told(error: UsersyncError) -> str:
    return f"{error.message} {error.hint}"


# the file


def test_every_source_can_be_tested() -> None:
    """
    Each file in sources/ has a PORT and a sample here; without one, nothing would hold it to the contract.
    """
    assert source_types()
    for name in source_types():
        assert name == get_args(source_port(name).settings.model_fields["type"].annotation)[0]
        assert callable(sample("sources", name).live), name


def test_settings_refuse_what_they_do_not_know(name: str, live: LiveSource) -> None:
    """
    A misspelt key is an error, not a default.
    """
    with pytest.raises(ValidationError, match="nonsense"):
        source_port(name).settings(type=name, nonsense=1, **live.settings)


def test_secrets_are_not_shown(name: str, live: LiveSource) -> None:
    """
    Neither settings nor source show a password or token to who prints them.
    """
    settings = source_port(name).settings(type=name, **live.settings)
    source = source_port(name).source("crm", settings)

    assert live.secret == (SECRET in str(live.settings))
    assert live.secret == any(not field.repr for field in type(settings).model_fields.values()), "is a setting hidden, and is it a secret?"
    assert SECRET not in f"{settings!r} {settings!s} {source!r} {source!s}"


# open


def test_nothing_is_contacted_before_open(name: str, live: LiveSource, make: Callable[[Any], AbstractContextManager[Session]]) -> None:
    """
    Making a source, and calling open without entering it, opens no connection; entering does, and tells an error of ours.
    """
    if live.server is None:
        assert live.nowhere is not None
        with make(live.nowhere) as session, pytest.raises(Unavailable):
            list(session.pages(live.streams, {}))
        return
    with recorder() as (port, contacts):
        context = make(live.server.at(port))
        time.sleep(0.2)
        before = len(contacts)
        with pytest.raises(UsersyncError) as error, context as session:
            list(session.pages(live.streams, {}))

    assert (0, True) == (before, len(contacts) > 0)
    assert isinstance(error.value, Unavailable)
    assert SECRET not in told(error.value)


@contextmanager
def recorder() -> Iterator[tuple[int, list[object]]]:
    """A port that takes connections, hangs up at once, and remembers them."""
    contacts: list[object] = []

    def answer() -> None:
        with suppress(OSError):
            while True:
                connection, address = listener.accept()
                contacts.append(address)
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1], contacts
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_the_account_is_known(session: Session) -> None:
    """
    Whose data it is, in a few words, without a secret.
    """
    assert isinstance(session.account, str)
    assert session.account.strip()
    assert SECRET not in session.account


def test_the_account_stays(live: LiveSource, make: Callable[[Any], AbstractContextManager[Session]]) -> None:
    """
    Two openings of one source are one account.
    """
    accounts = set()
    for _ in range(2):
        with make(live.settings) as session:
            accounts.add(session.account)

    assert 1 == len(accounts)


# pages


def test_every_record_comes_once(live: LiveSource, session: Session) -> None:
    """
    All streams at once: each record of each of them, exactly once.
    """
    found = read(session, live.streams)

    assert {name: sorted(known) for name, known in live.keys.items()} == {name: sorted(here) for name, here in found.items()}


def test_reading_twice_gives_the_same(live: LiveSource, session: Session) -> None:
    """
    `Copy.blocks` is read once, but pages can be asked for again.
    """
    assert read(session, live.streams) == read(session, live.streams)


def test_columns_are_known_before_the_first_row(live: LiveSource, session: Any, *, tabular: bool) -> None:
    """
    A tabular session says columns and types without reading, and its pages have just those.
    """
    if not tabular:
        assert not hasattr(session, "columns")
        return
    columns = {stream.name: list(session.columns(stream)) for stream in [*live.streams, live.slow]}
    pages = session.pages(live.streams, {})
    seen = {}
    for page in pages:
        seen[page.content.stream] = list(page.content.columns)
        keys(page.content)

    assert all(column.name and column.type for column in columns["slow"])
    assert seen == {stream.name: columns[stream.name] for stream in live.streams}


def test_pages_are_lazy(live: LiveSource, session: Session) -> None:
    """
    The first stream is there long before the second one has been read: nothing is asked for before its turn.
    """
    began = time.monotonic()
    pages = session.pages([live.streams[0], live.slow or live.silent], {})
    first = next(pages)

    assert iter(pages) is pages
    assert keys(first.content)
    assert time.monotonic() - began < 5


def test_blocks_are_small(live: LiveSource, session: Session) -> None:
    """
    A table flows through in blocks, so that memory does not grow with it.
    """
    for page in session.pages(live.streams, {}):
        if isinstance(page.content, Copy):
            assert not isinstance(page.content.blocks, (list, tuple))
            sizes = [len(block) for block in page.content.blocks]
            assert len(sizes) > 1
            assert max(sizes) < 1_000_000
        else:
            assert len(page.content.records) <= 2000


def test_cursors_are_json_and_the_last_page_is_complete(live: LiveSource, session: Session) -> None:
    """
    Each page says where to resume, as a JSON object that comes back as it was; the last one of a full listing says so.
    """
    complete: dict[str, bool] = {}
    cursors = []
    for page in session.pages(live.streams, {}):
        keys(page.content)
        complete |= dict.fromkeys(streams_of(page), page.complete)
        cursors.append(page.cursor)

    assert dict.fromkeys(live.keys, True) == complete
    assert cursors == json.loads(json.dumps(cursors))
    assert all(isinstance(cursor, dict) for cursor in cursors)


def test_its_own_cursor_can_be_read(live: LiveSource, make: Callable[[Any], AbstractContextManager[Session]]) -> None:
    """
    A later session takes the cursors of an earlier one, as they were stored, and invents no record.
    """
    since = {}
    with make(live.settings) as session:
        for page in session.pages(live.streams, {}):
            keys(page.content)
            since |= dict.fromkeys(streams_of(page), page.cursor)
    with make(live.settings) as session:
        found = [key for page in session.pages(live.streams, json.loads(json.dumps(since))) for key in keys(page.content)]

    assert set(found) <= {key for known in live.keys.values() for key in known}


# errors


def test_a_missing_stream_is_told(live: LiveSource, session: Any, *, tabular: bool) -> None:
    """
    What does not exist raises Drift: never an empty listing.
    """
    with pytest.raises(Drift) as error:
        session.columns(live.missing) if tabular else list(session.pages([live.missing], {}))
    with pytest.raises(Drift):
        read(session, [live.missing])

    assert live.missing.name in told(error.value)


def test_an_error_in_the_middle_does_not_end_quietly(live: LiveSource, session: Session) -> None:
    """
    When the last record can't be read, reading raises: whoever only looks at the rows must not take them for all of them.
    The message holds nobody's data.
    """
    with pytest.raises(UsersyncError) as error:
        read(session, [live.broken])

    assert PERSON not in told(error.value)


def test_a_lost_connection_does_not_end_quietly(live: LiveSource, session: Session) -> None:
    """
    A server that goes away in the middle, or a file that is cut off, raises Unavailable.
    """
    if live.slow is None:  # it is there whole, or not at all
        timer = threading.Timer(0.5, live.cut)
        timer.start()
        with pytest.raises(Unavailable):
            list(session.pages([live.silent], {}))
        return
    blocks = begun(session.pages([live.slow], {}))
    live.cut()

    with pytest.raises(Unavailable):
        list(blocks)


# the end


@pytest.mark.parametrize("stream", ["slow", "silent"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_reading(live: LiveSource, session: Session, stop: Stop, signum: int, stream: str) -> None:
    """
    A signal ends the reading within 2 s: while a source is silent it listens itself, after each block the engine does.
    """
    if getattr(live, stream) is None:  # nothing to listen to in between
        return
    heard: list[float] = []

    def note() -> None:
        heard.append(time.monotonic())
        stop._note(signum, None)

    timer = threading.Timer(0.5, note)
    timer.start()
    with pytest.raises(Stopped) as error:
        for _ in begun(session.pages([getattr(live, stream)], {})):
            stop.check()

    assert signum == error.value.signum
    assert time.monotonic() - heard[0] < 2


@pytest.mark.parametrize("stream", ["people", "slow"])
def test_leaving_in_the_middle_leaves_no_connection(
    live: LiveSource, make: Callable[[Any], AbstractContextManager[Session]], stream: str, *, tabular: bool
) -> None:
    """
    A session that is closed with a page half read has no connection any more, and its server does nothing for it.
    """
    chosen = (live.slow if stream == "slow" else None) or live.streams[0]
    with make(live.settings) as session:
        blocks = begun(session.pages([chosen], {}))
        assert live.connections()

    until(lambda: live.connections() == 0, 3)
    if not tabular:
        # A page of documents came whole; behind what is left of it there is nothing more.
        with suppress(UsersyncError):
            assert len(list(blocks)) < 10_000
        return
    with pytest.raises((UsersyncError, StopIteration)):
        next(blocks)


def test_an_error_of_ours_leaves_no_connection(live: LiveSource, make: Callable[[Any], AbstractContextManager[Session]]) -> None:
    """
    When the engine fails while a page is half read, its error passes through, and the connection is closed.
    """
    with pytest.raises(ZeroDivisionError), make(live.settings) as session:
        for _ in begun(session.pages([live.slow or live.streams[0]], {})):
            raise ZeroDivisionError

    until(lambda: live.connections() == 0, 3)
