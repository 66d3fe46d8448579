"""What each ability of ports.py promises, held against every source whose session claims it. A new source brings a sample, see live.py."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import ROOT, NewDatabase
from tests.contract.live import NAMES, PERSON, SECRET, LiveSource, keys, sample
from tests.list_source import ListSource, people
from usersync_cli import ports
from usersync_cli.config.registry import export_shapes, source_port
from usersync_cli.errors import ConfigError, Conflict, Drift, Unavailable
from usersync_cli.model import Database, NewUser, Page, Record, Stream
from usersync_cli.shapes import ExportShape
from usersync_cli.signals import Stop

SESSIONS = (ports.Session, ports.TabularSession, ports.DocumentSession)
SOURCES = (ports.Source, ports.TabularSource, ports.DocumentSource)
OF_SESSIONS = (
    *(ports.RunsSql, ports.HadOtherNames, ports.OneMoment, ports.ReadsTogether, ports.NumbersVersions, ports.HasDetails),
    *(ports.TellsWhoIsGone, ports.CanLook, ports.LeavesOut, ports.KeepsOut, ports.FollowsLog, ports.BelongsTo, ports.CreatesUsers),
)
OF_SOURCES = (ports.BringsTransform, ports.BringsDefinition, ports.BringsComments, ports.BringsAccounts, ports.SaysWhatItReads)

Make = Callable[[Any], AbstractContextManager[Any]]


def names(port: type) -> set[str]:
    """What a port or ability names, without what it inherits."""
    return {name for name in (*vars(port), *vars(port).get("__annotations__", ())) if not name.startswith("_")}


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def documents(session: Any, stream: Stream | str) -> list[Record]:
    """The records of a full listing."""
    asked = Stream(stream) if isinstance(stream, str) else stream
    return [record for page in session.pages([asked], {}) for record in page.content.records]


def of_those_with(ability: type) -> pytest.MarkDecorator:
    """For each source whose sample says that it, or its session, claims this ability."""
    return pytest.mark.parametrize("name", [name for name in NAMES if ability in sample("sources", name).ABILITIES], indirect=True)


# claims


def test_every_ability_is_known_here() -> None:
    """
    A class of ports.py is a port, an ability that this suite holds, or one of targets.
    """
    others = {ports.OutboundPlan, ports.OutboundTarget, ports.DisablesAccounts, ports.Tokens, ports.Tools}
    found = {one for one in vars(ports).values() if isinstance(one, type) and one.__module__ == ports.__name__}

    assert {*SESSIONS, *SOURCES, *OF_SESSIONS, *OF_SOURCES} == found - others


def test_the_sample_says_what_is_claimed(name: str, source: object, session: object) -> None:
    """
    Source and session claim exactly the abilities that the sample has: one that is lost on the way is no accident.
    """
    found = {one for one in OF_SESSIONS if isinstance(session, one)} | {one for one in OF_SOURCES if isinstance(source, one)}

    assert {*sample("sources", name).ABILITIES} == found


def test_what_it_can_do_it_claims(source: object, session: object) -> None:
    """
    A method of an ability that is not claimed would never be called.
    """
    for thing, abilities in ((source, OF_SOURCES), (session, OF_SESSIONS)):
        for ability in abilities:
            assert isinstance(thing, ability) or not names(ability) & public(thing), ability.__name__


def test_it_has_no_name_that_no_port_knows(source: object, session: object) -> None:
    """
    What is public is called by the engine, so a port has it; a name that is misspelt has none.
    """
    assert set() == public(session) - set().union(*map(names, (*SESSIONS, *OF_SESSIONS)))
    assert set() == public(source) - set().union(*map(names, (*SOURCES, *OF_SOURCES)))


def test_source_and_session_are_of_one_kind(source: object, session: object, *, tabular: bool) -> None:
    """
    A source of tables opens a session of tables, a source of documents one of documents.
    """
    assert [tabular, tabular] == [isinstance(source, ports.TabularSource), isinstance(session, ports.TabularSession)]
    assert [not tabular] * 2 == [isinstance(source, ports.DocumentSource), isinstance(session, ports.DocumentSession)]


@pytest.mark.parametrize("file", sorted((ROOT / "usersync_cli").rglob("*.py")), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_nobody_asks_by_string(file: Path) -> None:
    """
    What a port names is not looked up with getattr or hasattr, and no session is Any: mypy would not see a name that changed.
    """
    known = set().union(*map(names, (*SESSIONS, *OF_SESSIONS, *SOURCES, *OF_SOURCES, ports.OutboundTarget, ports.DisablesAccounts)))
    nodes = list(ast.walk(ast.parse(file.read_text())))
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "hasattr"}]
    asked = {node.args[1].value for node in calls if isinstance(node.args[1], ast.Constant)}
    loose = [ast.unparse(node) for node in nodes if isinstance(node, (ast.arg, ast.AnnAssign))]

    assert set() == asked & known
    assert [] == [one for one in loose if re.fullmatch(r"(self\._?)?sessions?: .*\bAny\b.*", one)]


# sessions


def test_pages_can_be_closed(live: LiveSource, session: Any) -> None:
    """
    The engine closes the generator when it needs no more of it, also before the first page; then nothing more comes.
    """
    for begun in (False, True):
        pages = session.pages(live.streams[:1], {})
        if begun:
            next(pages)
        pages.close()
        assert [] == list(pages)


@of_those_with(ports.TellsWhoIsGone)
def test_nobody_who_is_listed_is_gone(live: LiveSource, session: Any) -> None:
    """
    `gone` names none of those that the listing has, and one that nobody knows; of none it asks for none.
    """
    for stream in live.streams:
        listed = [record.key for record in documents(session, stream.name)]
        asked = [*listed[:2], *listed[-2:]]
        assert [] == list(session.gone(stream.name, asked))
        assert {live.unknown} == set(session.gone(stream.name, [asked[0], live.unknown, asked[1]]))
        assert [] == list(session.gone(stream.name, []))


@of_those_with(ports.BelongsTo)
def test_records_name_the_one_that_they_belong_to(live: LiveSource, session: Any) -> None:
    """
    The field that `parent` names has the key of a record of the parents' stream, in each document of a listing.
    """
    children = {stream.name: session.parent(stream.name) for stream in live.streams}
    assert any(children.values()), "the sample needs a stream whose records belong to others"
    for stream, (parent, field) in ((stream, found) for stream, found in children.items() if found):
        parents = {record.key for record in documents(session, parent)}
        assert {str(json.loads(record.data)[field]) for record in documents(session, stream)} <= parents


@of_those_with(ports.TellsWhoIsGone)
def test_an_error_is_never_read_as_gone(live: LiveSource, session: Any) -> None:
    """
    A server that went away has not said that anybody is gone.
    """
    listed = [record.key for record in documents(session, live.streams[0].name)]
    live.cut()
    with pytest.raises(Unavailable):
        session.gone(live.streams[0].name, [listed[0], live.unknown])


@of_those_with(ports.HasDetails)
def test_each_key_has_one_document(live: LiveSource, session: Any) -> None:
    """
    `details` gives a document for each key that it was asked for, once; those it owes it does not give.
    """
    assert session.detailed
    for stream in live.streams:
        assert stream.name in session.detailed, "the sample needs streams whose listing is not the whole document"
        asked = [record.key for record in documents(session, stream.name)][:30]
        found = list(session.details(stream.name, asked))

        assert sorted(asked) == sorted([*(record.key for record in found), *session.owed])
        assert {stream.name} == {record.stream for record in found}
        assert not any(record.deleted or record.problem for record in found)
        assert all(isinstance(json.loads(record.data), dict) for record in found)


@of_those_with(ports.HasDetails)
def test_one_that_left_meanwhile_comes_as_deleted(live: LiveSource, session: Any) -> None:
    """
    A key that the vendor does not know any more, or shows and does not give: deleted or owed, never left out without a word.
    """
    (stream, *_) = live.streams
    asked = [documents(session, stream.name)[0].key, live.unknown]
    found = {record.key: record.deleted for record in session.details(stream.name, asked)}

    assert {asked[0]: False} == {key: deleted for key, deleted in found.items() if key != live.unknown}
    assert found.get(live.unknown) or live.unknown in session.owed


@of_those_with(ports.OneMoment)
def test_a_listing_of_one_moment_lacks_nobody_who_was_there(live: LiveSource, session: Any) -> None:
    """
    What changes while it is read does not show, or ends it: a record that it lacks was not there.
    """
    (stream, *_) = live.streams
    assert live.change
    pages = session.pages([stream], {})
    found = keys(next(pages).content)
    live.change()
    with suppress(Unavailable):
        for page in pages:
            found += keys(page.content)
        assert sorted(live.keys[stream.name]) == sorted(found)
    with suppress(Unavailable):  # of a moment when it was not there any more
        assert {live.keys[stream.name][-1]} == {*live.keys[stream.name]} - {record.key for record in documents(session, stream.name)}


def refuse_mixed_pages(session: Any, pages: Iterator[Page], asked: Sequence[str]) -> None:
    """Where streams are read together, a page speaks of some of them or all; otherwise of one."""
    for page in pages:
        assert {*page.streams} <= {*asked}
        assert page.streams if isinstance(session, ports.ReadsTogether) else len(page.streams) == 1


def test_streams_that_come_together_share_their_pages(live: LiveSource, session: Any, *, tabular: bool) -> None:
    """
    A page speaks of one stream, or of all that were asked for, as the session claims.
    """
    if not tabular:
        refuse_mixed_pages(session, session.pages(live.streams, {}), [stream.name for stream in live.streams])


@pytest.mark.parametrize("together", [False, True])
def test_the_check_of_pages_can_fail(*, together: bool) -> None:
    """
    It finds a page of a stream that nobody asked for, and one of several streams where each is read by itself.
    """
    streams = [Stream("people"), Stream("others")]

    def pages(*, together: bool) -> tuple[Any, Iterator[Page]]:
        made = ListSource({"people": people(1, 2), "others": people(3)}, together=together)
        with made.open(ports.Tools("contract", Stop(), Database)) as session:
            return session, session.pages(streams, {})

    session, good = pages(together=together)
    refuse_mixed_pages(session, good, ["people", "others"])
    asked = ["people"] if together else ["people", "others"]
    with pytest.raises(AssertionError):
        refuse_mixed_pages(session, pages(together=True)[1], asked)


@of_those_with(ports.FollowsLog)
def test_a_log_goes_on_behind_its_cursor(live: LiveSource, session: Any) -> None:
    """
    After a complete reading the cursor is a place in the log: what is given then are changes, as of a time; nothing is listed again.
    """
    *_, last = session.pages(live.streams, {})
    since = {stream.name: last.cursor for stream in live.streams}
    assert not [record for page in session.pages(live.streams, since) for record in page.content.records if not record.as_of]
    assert live.change, "the sample needs a record that can be taken away"
    live.change()
    pages = list(session.pages(live.streams, since))

    assert not any(page.sweep or page.complete for page in pages)
    (gone,) = [record for page in pages for record in page.content.records if record.deleted]
    assert (live.streams[0].name, live.keys[live.streams[0].name][-1]) == (gone.stream, gone.key)
    assert gone.as_of
    assert gone.as_of == gone.version


@of_those_with(ports.FollowsLog)
def test_everything_again_does_not_forget_the_place_in_the_log(live: LiveSource, session: Any) -> None:
    """
    With `Stream.full` each stream that has a listing is listed to its end, besides the log from its place on.
    """
    *_, last = session.pages(live.streams, {})
    since = {stream.name: last.cursor for stream in live.streams}
    assert live.change
    live.change()
    pages = list(session.pages([replace(stream, full=True) for stream in live.streams], since))

    assert {stream.name for stream in live.streams if session.told(stream.name)} == {page.streams[0] for page in pages if page.complete}
    assert 1 == sum(record.deleted for page in pages for record in page.content.records)


@of_those_with(ports.FollowsLog)
def test_a_listing_says_as_of_when_it_is(live: LiveSource, session: Any) -> None:
    """
    The records of one listing are as of one moment, and whole; changes are as of theirs.
    """
    records = [record for page in session.pages(live.streams, {}) if page.sweep for record in page.content.records]

    assert records
    assert 1 == len({record.as_of for record in records if record.as_of})
    assert not any(record.partial or not record.as_of for record in records)


def test_versions_are_numbers_or_times(live: LiveSource, session: Any, *, tabular: bool) -> None:
    """
    A version is a number in the streams of `numbered`, and a time stamp of ISO 8601 in all others.
    """
    if tabular:
        return
    numbered: Collection[str] = session.numbered if isinstance(session, ports.NumbersVersions) else ()
    if isinstance(session, ports.NumbersVersions):
        assert {*numbered} & {*live.keys}, "the sample needs a stream whose versions are numbers"
        assert {*live.keys} - {*numbered}, "and one whose versions are not"
    for stream in live.streams:
        for record in documents(session, stream.name):
            if record.version is not None:
                assert re.fullmatch(r"-?[0-9.]+", record.version) if stream.name in numbered else datetime.fromisoformat(record.version)


@of_those_with(ports.CanLook)
def test_a_look_says_what_is_there(live: LiveSource, session: Any) -> None:
    """
    A few words, on one line, without anybody's data; Drift for a stream that is not there.
    """
    said = session.look(live.streams[0].name)

    assert re.fullmatch(r"[^\n]{3,100}", said)
    assert PERSON not in said
    assert SECRET not in said
    with pytest.raises(Drift):
        session.look(live.missing.name)


@of_those_with(ports.CanLook)
def test_a_look_at_nothing_raises(live: LiveSource, make: Make, session: Any) -> None:
    """
    Where nobody answers, `open` or `look` raises, as reading would.
    """
    settings = live.nowhere or (live.server and live.server.at(9))
    with pytest.raises(Unavailable), make(settings) as nowhere:
        nowhere.look(live.streams[0].name)


@of_those_with(ports.LeavesOut)
def test_what_is_left_out_is_counted(live: LiveSource, session: Any) -> None:
    """
    How many records were listed and are not given, by what they are; nothing before anything was listed.
    """
    assert {} == dict(session.left_out)
    for stream in live.streams:
        documents(session, stream)
    assert live.left_out
    assert live.left_out == dict(session.left_out)


@of_those_with(ports.KeepsOut)
def test_who_is_kept_out_is_not_given(live: LiveSource, session: Any) -> None:
    """
    The keys that a listing has and `pages` does not give, each with the code of why.
    """
    for stream in live.streams:
        given = {record.key for record in documents(session, stream)}
        kept_out = session.kept_out(stream.name)
        assert {*live.kept_out[stream.name]} == {*kept_out}
        assert not given & {*kept_out}
        assert all(re.fullmatch(r"[a-z_]+", one.reason) for one in kept_out.values())


@of_those_with(ports.HadOtherNames)
def test_other_names_are_other_names(session: Any) -> None:
    """
    What the account was called is text, and is not what it is called.
    """
    assert session.formerly
    assert all(isinstance(one, str) and one for one in session.formerly)
    assert session.account not in session.formerly


@of_those_with(ports.RunsSql)
def test_others_who_may_create_are_named(session: Any) -> None:
    """
    Schema, role and whether it owns it, as they are written in SQL.
    """
    for schema, role, owns in session.others_may_create():
        assert schema
        assert role
        assert isinstance(owns, bool)


# sources


@pytest.fixture
def records(new_database: NewDatabase) -> Iterator[psycopg.Connection[Any]]:
    """A database with the table that transforms read, without a record."""
    with psycopg.connect(new_database().url, autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE records (key text, data jsonb, version timestamptz, deleted boolean, ord bigint)")
        yield connection


def columns(connection: psycopg.Connection[Any], select: str) -> list[str]:
    found = connection.execute(sql.SQL("SELECT * FROM (\n{}\n) AS q LIMIT 0").format(sql.SQL(select)))  # type: ignore[arg-type]
    return [column.name for column in found.description or ()]


@of_those_with(ports.BringsTransform)
def test_a_transform_is_one_select_over_records(live: LiveSource, source: Any, request: pytest.FixtureRequest) -> None:
    """
    PostgreSQL takes it as it is, and a new table of `definition` has all its columns.
    """
    connection = request.getfixturevalue("records")
    for number, stream in enumerate(live.streams):
        given = columns(connection, source.transform(stream.name))
        assert given
        if isinstance(source, ports.BringsDefinition):
            connection.execute(f"CREATE TEMP TABLE made_{number} ({source.definition(stream.name)})")
            assert {*given} <= {*columns(connection, f"SELECT * FROM made_{number}")}


@of_those_with(ports.BringsAccounts)
def test_accounts_are_a_select_over_records(live: LiveSource, source: Any, request: pytest.FixtureRequest) -> None:
    """
    The columns of accounts, id and username among them; ConfigError for a stream that has no people.
    """
    connection = request.getfixturevalue("records")
    given = columns(connection, source.accounts(live.streams[0].name))

    assert {"id", "username", "_key"} <= {*given} <= {"id", "username", "email", "first_name", "last_name", "roles", "_key"}
    with pytest.raises(ConfigError):
        source.accounts(live.streams[1].name)


@of_those_with(ports.SaysWhatItReads)
def test_what_is_read_is_said(name: str, live: LiveSource, source: Any) -> None:
    """
    The same words for the same settings, others where a stream has other records, and no secret.
    """
    port, (stream, *_) = source_port(name), live.streams
    assert live.edited
    same, edited = (port.source("other", port.settings(type=name, **given)) for given in (live.settings, live.edited))

    assert source.reads(stream.name) == same.reads(stream.name) != edited.reads(stream.name)
    assert SECRET not in source.reads(stream.name)


@pytest.mark.parametrize("shape", export_shapes().values(), ids=lambda shape: shape.stream)
def test_an_export_has_the_columns_that_it_names(shape: ExportShape, records: psycopg.Connection[Any]) -> None:
    """
    Its SELECTs run over a table with the column of documents alone: each of its columns as text, and whether a custom field is lacking.
    """
    column = sql.Identifier(shape.document)
    records.execute(sql.SQL("CREATE TEMP TABLE documents ({} jsonb)").format(column))
    records.execute(sql.SQL("INSERT INTO documents VALUES ('{{}}')").format())
    found = records.execute(shape.select(sql.Identifier("documents"), {}))
    lacks = shape.lacks(sql.Identifier("documents"), "581bc693-feb9-416a-806a-90c2fa4bc5c6")

    assert [*shape.columns] == [one.name for one in found.description or ()]
    assert {"text"} == {psycopg.adapters.types[one.type_code].name for one in found.description or ()}
    assert [(True,)] == records.execute(lacks).fetchall()
    with pytest.raises(ConfigError):
        shape.field("no-such-column=581bc693-feb9-416a-806a-90c2fa4bc5c6")


# people who are created


@of_those_with(ports.CreatesUsers)
def test_a_person_is_created_with_one_request_and_found(live: LiveSource, session: Any) -> None:
    """
    Before, nobody is like them; afterwards they are found by address in any case, by external id, and by id, each once.
    """
    new = NewUser("Somebody.New@example.org", first_name="Test", external_id="external/1 ä", metadata={"team": "test"})
    known = documents(session, live.streams[0].name)[0].key
    assert [] == list(session.users_like(new, [known, live.unknown], None))
    made = session.create_user(new, "attempt-1")
    asked = [replace(new, email=new.email.upper()), replace(new, external_id=None), replace(new, email="other@example.org")]

    assert (live.streams[0].name, False) == (made.record.stream, made.record.deleted)
    assert (new.email, new.external_id, "Test") == (made.email, made.external_id, json.loads(made.record.data)["first_name"])
    assert [[made.id]] * 3 == [[one.id for one in session.users_like(like, [made.id], datetime.now(UTC))] for like in asked]


@of_those_with(ports.CreatesUsers)
def test_a_second_person_of_the_same_address_is_refused(live: LiveSource, session: Any) -> None:
    """
    As a conflict, in the vendor's words.
    """
    new = NewUser("somebody.new@example.org")
    session.create_user(new, "attempt-1")
    with pytest.raises(Conflict):
        session.create_user(new, "attempt-2")


@of_those_with(ports.CreatesUsers)
def test_what_is_no_person_is_not_sent(live: LiveSource, session: Any) -> None:
    """
    What the vendor would not take is refused without asking; an address is no body without a name in it.
    """
    assert {"email": "somebody@example.org"} == dict(session.user_body(NewUser("somebody@example.org")))
    with pytest.raises(ConfigError):
        session.user_body(NewUser("nobody"))


@of_those_with(ports.CreatesUsers)
def test_an_error_is_never_read_as_nobody(live: LiveSource, session: Any) -> None:
    """
    A server that went away has not said that nobody is there, nor that nobody was created.
    """
    live.cut()
    with pytest.raises(Unavailable):
        session.users_like(NewUser("somebody@example.org"), [], None)
    with pytest.raises(Unavailable):
        session.create_user(NewUser("somebody@example.org"), "attempt-1")
