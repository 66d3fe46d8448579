"""Polls of a local WorkOS: what is asked, in which order, and where the next poll goes on. Without a database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.http_server import Asked
from tests.workos_server import EVENTS, KEY, OTHER_KEY, PATHS, WorkOS
from usersync_cli import log
from usersync_cli.errors import ConfigError, Drift
from usersync_cli.model import Cursor, Database, Documents, Page, Record, Stream
from usersync_cli.ports import Tools
from usersync_cli.signals import Stop
from usersync_cli.sources.workos import api
from usersync_cli.sources.workos import log as event_log
from usersync_cli.sources.workos.settings import Settings
from usersync_cli.sources.workos.source import Source

THREE = ("users", "organizations", "organization_memberships")


@dataclass
class Polls:
    """Polls one after the other, each from the cursors of the last."""

    server: WorkOS
    streams: Sequence[str] = THREE
    settings: dict[str, Any] = field(default_factory=dict)
    since: dict[str, Cursor] = field(default_factory=dict)
    held: Callable[[str], Sequence[str]] = lambda _stream: ()
    key: str = KEY

    def poll(self, *, full: bool = False, most: int | None = None) -> list[Page]:
        """The pages of one poll, or its first ones, as if it were killed behind them."""
        found = []
        source = Source(
            "workos", Settings.model_validate({"type": "workos", "api_url": self.server.url, "api_key": self.key, **self.settings})
        )
        with source.open(Tools("workos", Stop(), Database)) as session:
            streams = [Stream(name, full=full, held=lambda name=name: self.held(name)) for name in self.streams]
            for page in session.pages(streams, dict(self.since)):
                self.since |= {name: json.loads(json.dumps(page.cursor)) for name in self.streams}
                found.append(page)
                if len(found) == most:
                    break
        return found

    def asked(self, **how: Any) -> dict[str, int]:
        """The requests of one poll, by path."""
        with self.server.requests() as asked:
            self.poll(**how)
        return asked

    @property
    def cursor(self) -> Cursor:
        return self.since[self.streams[0]]


@pytest.fixture
def server() -> Iterator[WorkOS]:
    """Ten users in three organizations."""
    found = WorkOS()
    organizations = [found.world.create_organization() for _ in range(3)]
    for number in range(10):
        found.world.create_membership(found.world.create_user(), organizations[number % 3])
    found.world.forget()
    with found.running():
        yield found


@pytest.fixture
def polls(server: WorkOS) -> Polls:
    return Polls(server)


def records(pages: Sequence[Page]) -> list[Record]:
    return [record for page in pages if isinstance(page.content, Documents) for record in page.content.records]


def listed(pages: Sequence[Page]) -> dict[str, list[str]]:
    """The keys that complete listings had, by stream."""
    found: dict[str, list[str]] = {}
    for page in pages:
        if page.sweep:
            found.setdefault(page.streams[0], []).extend(record.key for record in records([page]))
    return found


def changed(pages: Sequence[Page]) -> list[tuple[str, bool]]:
    """What the log reported: key, and whether it is gone."""
    return [(record.key, record.deleted) for record in records([page for page in pages if not page.sweep])]


# requests


def test_the_first_poll_lists_everything_once(polls: Polls, server: WorkOS) -> None:
    """
    A request for each hundred, one for each organization, and two for the log, before and behind.
    """
    with server.requests() as asked:
        found = listed(polls.poll())

    assert {PATHS["users"]: 1, PATHS["organizations"]: 1, PATHS["organization_memberships"]: 3, EVENTS: 2} == asked
    assert {name: server.world.ids(name) for name in THREE} == {name: sorted(keys) for name, keys in found.items()}


def test_no_news_is_one_request_and_a_page_without_records(polls: Polls, server: WorkOS) -> None:
    """
    The page has the time of the poll, for all streams.
    """
    polls.poll()
    server.world.update_user(server.world.ids("users")[0])
    server.world.update_user(server.world.ids("users")[1])
    polls.poll()
    before = polls.cursor["polled"]
    server.world.ahead = timedelta(hours=1)

    with server.requests() as asked:
        (page,) = polls.poll()
    assert {EVENTS: 1} == asked
    assert ([], [*THREE], False) == (records([page]), [*page.streams], page.complete)
    assert before < page.cursor["polled"]


def test_requests_say_what_they_are_for(polls: Polls, server: WorkOS) -> None:
    """
    The User-Agent has usersync, its version and the phase; a log is asked for its types, oldest first, a hundred a time.
    """
    polls.poll()
    agents = {(asked.path, asked.headers["User-Agent"].partition("(")[2]) for asked in server.asked}
    (query, *_) = [asked.query for asked in server.asked if asked.path == EVENTS]

    assert {(EVENTS, "events)"), *((PATHS[name], "listing)") for name in THREE)} == agents
    assert (["asc"], ["100"], 14) == (query["order"], query["limit"], len(query["events"][0].split(",")))
    assert all(asked.headers["User-Agent"].startswith("usersync/") for asked in server.asked)


def test_memberships_that_are_not_active_are_listed_too(polls: Polls, server: WorkOS) -> None:
    """
    By default WorkOS lists only active ones.
    """
    inactive = server.world.ids("organization_memberships")[0]
    server.world.deactivate(inactive)

    assert inactive in listed(polls.poll())["organization_memberships"]


def test_a_large_organization_takes_more_pages(polls: Polls, server: WorkOS) -> None:
    """
    A hundred memberships a request; each membership comes once.
    """
    organization = server.world.ids("organizations")[1]
    for user in [server.world.create_user() for _ in range(250)]:
        server.world.create_membership(user, organization)
    server.world.forget()

    found = listed(polls.poll())["organization_memberships"]
    assert server.world.ids("organization_memberships") == sorted(found)


def test_users_of_directories_are_listed_directory_by_directory(server: WorkOS) -> None:
    """
    Both streams of one parent are complete, each with its own sweep.
    """
    world = server.world
    directories = [world.create_directory(world.ids("organizations")[0]) for _ in range(3)]
    for directory in directories[:2]:
        world.create_directory_user(directory)
        world.create_directory_group(directory)
    streams = ("directory_users", "directory_groups", "roles", "connections", "invitations", "directories")
    world.create_role("admin")
    world.create_invitation()
    world.forget()
    pages = Polls(server, streams).poll()

    found = {name: sorted(keys) for name, keys in listed(pages).items()}
    assert {name: world.ids(name) for name in streams if name != "roles"} == {name: found[name] for name in streams if name != "roles"}
    assert ["admin"] == found["roles"]
    assert sorted(streams) == sorted(page.streams[0] for page in pages if page.complete)


def test_a_stream_without_objects_is_complete_too(server: WorkOS) -> None:
    """
    An empty list has a last page, also where there is nobody to ask for.
    """
    for id_ in server.world.ids("organizations"):
        server.world.delete_organization(id_)
    server.world.forget()
    pages = Polls(server).poll()

    assert [("users", 10), ("organizations", 0), ("organization_memberships", 0)] == [
        (page.streams[0], len(records([page]))) for page in pages if page.complete
    ]


# the log


def test_changes_come_behind_the_cursor(polls: Polls, server: WorkOS) -> None:
    """
    Each event once, in order, with nothing listed again.
    """
    polls.poll()
    first, second = server.world.ids("users")[:2]
    server.world.update_user(first, first_name="Tested")
    server.world.delete("users", second)
    pages = polls.poll()

    assert [(first, False), (second, True)] == changed(pages)
    assert {} == listed(pages)
    assert [] == changed(polls.poll())


def test_a_change_while_the_first_listing_runs_is_not_missed(polls: Polls, server: WorkOS) -> None:
    """
    The log goes on from before the listing.
    """
    user = server.world.ids("users")[0]
    server.before = lambda asked: (asked.path == PATHS["organizations"] and server.world.update_user(user, first_name="Meanwhile")) or None
    pages = polls.poll()
    server.before = lambda _asked: None

    assert (user, False) in changed(pages) + changed(polls.poll())


def test_a_listing_is_as_of_the_last_event_before_it(polls: Polls, server: WorkOS) -> None:
    """
    Of an event from before it began, in the very same second, its documents count; the event itself is not given before it.
    """
    organization = server.world.create_organization(domains=["test.example"])
    told = max(event["created_at"] for event in server.world.log)
    (shown,) = [record for record in records(polls.poll()) if record.key == organization]

    assert not shown.partial
    assert shown.as_of is not None
    assert told <= shown.as_of


def test_before_the_first_listing_only_deletes_are_taken_from_the_log(polls: Polls, server: WorkOS) -> None:
    """
    All else is in the listing. What is gone is remembered, so that older news do not bring it back.
    """
    leaving = server.world.create_user()
    server.world.delete_user(leaving)
    server.world.create_organization(domains=["test.example"])
    with server.requests() as asked:
        pages = polls.poll()

    assert [(leaving, True)] == changed(pages)
    assert PATHS["organizations"] + "/{id}" not in asked


def test_events_come_a_thousand_a_page(polls: Polls, server: WorkOS) -> None:
    """
    A request has a hundred of them, a checkpoint up to a thousand.
    """
    polls.poll()
    for user in server.world.ids("users") * 125:
        server.world.update_user(user)

    assert [1000, 250] == [len(records([page])) for page in polls.poll()]


def test_a_killed_poll_goes_on_behind_its_last_page(polls: Polls, server: WorkOS) -> None:
    """
    From the cursor of any page of the log the rest comes, and nothing else.
    """
    polls.poll()
    for user in server.world.ids("users") * 125:
        server.world.update_user(user)
    (first,) = polls.poll(most=1)

    assert (1000, 250) == (len(changed([first])), len(changed(polls.poll())))


def test_a_domain_changes_its_organization(polls: Polls, server: WorkOS) -> None:
    """
    The organization is read again by its id, once a page, and comes last; one that is gone by now is left out.
    """
    polls.poll()
    changed_one, leaving, _ = server.world.ids("organizations")
    domain = server.world.add_domain(changed_one, "b.test.example")
    server.world.add_domain(changed_one, "a.test.example")
    server.world.verify_domain(changed_one, domain)
    server.world.fail_domain(changed_one, domain)
    server.world.add_domain(leaving, "c.test.example")
    server.world.delete_organization(leaving)
    with server.requests() as asked:
        *_, last = found = records(polls.poll())

    assert {EVENTS: 1, PATHS["organizations"] + "/{id}": 2} == asked
    assert (changed_one, False) == (last.key, last.partial)
    assert ["b.test.example", "a.test.example"] == [one["domain"] for one in json.loads(last.data)["domains"]]
    assert leaving in [record.key for record in found if record.deleted]


def test_an_event_without_what_it_should_have_is_looked_up(polls: Polls, server: WorkOS) -> None:
    """
    Once for each object and page; what WorkOS does not have any more stays as the event says.
    """
    polls.poll()
    poor, gone = server.world.ids("users")[:2]
    at = server.world.moment()
    for id_ in (poor, poor, gone):
        server.world.tell("user.updated", {"object": "user", "id": id_, "email": "new@test.example", "updated_at": at})
    server.world.delete("users", gone, event=False)
    with server.requests() as asked:
        found = records(polls.poll())

    assert {EVENTS: 1, PATHS["users"] + "/{id}": 2} == asked
    assert [(poor, False), (gone, True)] == sorted(({record.key: record.partial for record in found}).items(), key=lambda one: one[1])


def test_where_objects_are_no_richer_they_are_not_looked_up(polls: Polls, server: WorkOS) -> None:
    """
    A vendor that leaves a field out everywhere costs one request, not one for each event.
    """
    for id_ in server.world.ids("users"):
        del server.world.streams["users"][id_]["profile_picture_url"]
    polls.settings = {"workers": 1}
    polls.poll()
    for id_ in server.world.ids("users"):
        server.world.update_user(id_)

    assert polls.asked()[PATHS["users"] + "/{id}"] <= 2


def test_types_that_nobody_asked_for_are_counted(polls: Polls, server: WorkOS) -> None:
    """
    Emulators give every type, whatever is asked for. Unknown ones are passed over, and the cursor too.
    """
    polls.poll()
    server.takes_no_type = True
    server.world.sign_in(server.world.ids("users")[0])
    server.world.tell("user.teleported", {"object": "user", "id": "user_01"})
    source = Source("workos", Settings.model_validate({"type": "workos", "api_url": server.url, "api_key": KEY}))
    with source.open(Tools("workos", Stop(), Database)) as session:
        (page,) = session.pages([Stream(name) for name in THREE], dict(polls.since))

        assert [] == records([page])
        assert {"events of other types": 1, "events of unknown types": 1} == dict(session.left_out)
    assert page.cursor["log"]["last"]["id"] == server.world.log[-1]["id"]


def test_a_poison_event_is_set_aside(polls: Polls, server: WorkOS) -> None:
    """
    It is a record with a problem, under the event's id, and the cursor moves past it.
    """
    polls.poll()
    poison = [server.world.tell("user.updated", data) for data in (None, [1], {"object": "user"}, {"id": 5})]
    server.world.update_user(server.world.ids("users")[0])
    found = records(polls.poll())

    assert poison == [record.key for record in found if record.problem]
    assert 1 == sum(not record.problem for record in found)
    assert [] == records(polls.poll())


def test_events_in_another_order_are_not_taken(polls: Polls, server: WorkOS) -> None:
    """
    What is not in the order of time is not stored, not even its beginning, and the cursor stays.
    """
    polls.poll()
    users = server.world.ids("users")
    for user in users[:2]:
        server.world.update_user(user)
    polls.poll()
    server.world.update_user(users[0])
    server.world.tell("user.updated", {"id": users[1]}, at=datetime.now(UTC) - timedelta(hours=1))
    before = dict(polls.since)
    with pytest.raises(Drift, match="order of time"):
        polls.poll()

    assert before == polls.since


def test_events_of_one_moment_are_in_order(polls: Polls, server: WorkOS) -> None:
    """
    Two hundred in one millisecond are no mistake.
    """
    polls.poll()
    with server.world.one_moment():
        for user in server.world.ids("users") * 20:
            server.world.update_user(user)

    assert 200 == len(changed(polls.poll()))


def test_an_event_that_comes_again_is_left_out(polls: Polls, server: WorkOS) -> None:
    """
    Each page has its last event twice, and the next one begins behind it.
    """
    polls.poll()
    for user in server.world.ids("users") * 25:
        server.world.update_user(user)
    server.doubled = True

    found = changed(polls.poll())
    assert 250 <= len(found) <= 253
    assert polls.cursor["log"]["after"] != polls.cursor["log"]["last"]["id"]
    assert polls.asked() == {EVENTS: 1}


def test_a_log_that_goes_round_is_not_news(polls: Polls, server: WorkOS) -> None:
    """
    A proxy that keeps answers gives the same page for ever: that is an error, and nothing of it is stored twice.
    """
    polls.poll()
    for user in server.world.ids("users") * 15:
        server.world.update_user(user)
    first = server.world.log[0]["id"]
    server.before = lambda asked: asked.query.update({"after": [first]}) if asked.path == EVENTS and "after" in asked.query else None  # type: ignore[attr-defined]
    with pytest.raises(Drift, match="same page twice"):
        polls.poll()
    server.before = lambda _asked: None

    assert 150 == len(changed(polls.poll()))


# the proof


@pytest.mark.parametrize("answer", [404, 400, 422, "empty", "rewound"])
def test_a_lost_cursor_lists_everything(polls: Polls, server: WorkOS, answer: Any) -> None:
    """
    Whatever WorkOS says to an event that it does not know, everything is listed; what changed meanwhile is there.
    """
    polls.poll()
    for user in server.world.ids("users")[:2]:
        server.world.update_user(user)
    polls.poll()
    server.world.forget()
    server.lost_cursor = answer
    server.world.update_user(server.world.ids("users")[3])
    polls.held = server.world.ids

    assert {name: server.world.ids(name) for name in THREE} == {name: sorted(keys) for name, keys in listed(polls.poll()).items()}
    assert {} == listed(polls.poll())


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_quiet_log_proves_itself_however_short_it_is(polls: Polls, server: WorkOS, number: int) -> None:
    """
    With no event, one, or more of them, no news is one request, and nothing is listed.
    """
    polls.poll()
    for user in server.world.ids("users")[:number]:
        server.world.update_user(user)
    polls.poll()

    for _ in range(2):
        assert {EVENTS: 1} == polls.asked()


def test_a_new_stream_does_not_lose_the_cursor(polls: Polls, server: WorkOS) -> None:
    """
    Events of types that were not asked for before are between those of the proof.
    """
    polls.poll()
    first, second, third = server.world.ids("users")[:3]
    server.world.update_user(first)
    server.world.create_role("one")
    server.world.update_user(second)
    polls.poll()
    server.world.create_role("two")
    server.world.update_user(third)
    polls.streams = (*THREE, "roles")
    pages = polls.poll()

    assert {"roles": ["one", "two"]} == listed(pages)
    assert [("two", False), (third, False)] == changed(pages)


def test_a_stream_read_alone_does_not_move_the_others(polls: Polls, server: WorkOS) -> None:
    """
    Of different cursors the oldest counts; what one of them had already comes again.
    """
    polls.poll()
    user, membership = server.world.ids("users")[0], server.world.ids("organization_memberships")[0]
    server.world.deactivate(membership)
    server.world.update_user(user)
    polls.streams = ("users",)
    assert [(user, False)] == changed(polls.poll())
    polls.streams = THREE

    pages = polls.poll()
    assert [(membership, False), (user, False)] == changed(pages)
    assert {} == listed(pages)


def test_the_key_of_another_environment_is_noticed(polls: Polls, server: WorkOS) -> None:
    """
    When the cursor is lost and none of a few objects that we hold is known, nothing is read.
    """
    polls.poll()
    for user in server.world.ids("users")[:2]:
        server.world.update_user(user)
    polls.poll()
    polls.key, polls.held = OTHER_KEY, server.world.ids
    with server.requests() as asked, pytest.raises(Drift, match="another environment"):
        polls.poll()

    assert EVENTS in asked
    assert 3 == sum(number for path, number in asked.items() if path.endswith("/{id}"))
    assert not {*asked} & {*PATHS.values()}


@pytest.mark.parametrize("happens", [False, True])
def test_another_environment_is_noticed_where_nothing_has_happened(polls: Polls, server: WorkOS, *, happens: bool) -> None:
    """
    A log without events proves nothing: before anything is taken from it, or listed, a few objects are asked for.
    """
    polls.poll()
    polls.key, polls.held = OTHER_KEY, server.world.ids
    if happens:
        server.worlds[OTHER_KEY].create_user()
    with pytest.raises(Drift, match="another environment"):
        polls.poll(full=not happens)
    polls.key = KEY
    polls.poll(full=True)
    assert {EVENTS: 1} == polls.asked()


@pytest.mark.parametrize(
    ("polled", "now", "said", "everything"),
    [
        (10, 14, "", False),
        (10, 26, "does the job run as it should", False),
        (10, 42, "longer ago than WorkOS keeps events", True),
        (29, 31, "nothing has happened in WorkOS for long", True),
    ],
)
def test_a_long_pause_is_told_and_a_quiet_time_is_no_alarm(
    polls: Polls, server: WorkOS, capfd: pytest.CaptureFixture[str], polled: int, now: int, said: str, *, everything: bool
) -> None:
    """
    Days after the last event: a pause of half the retention is a warning, a longer one lists everything, a quiet time only does that.
    """
    log.configure("console")
    polls.settings = {"full_every": "90d"}
    polls.held = server.world.ids
    polls.poll()
    for user in server.world.ids("users")[:2]:
        server.world.update_user(user)
    polls.poll()
    server.world.ahead = timedelta(days=polled)
    polls.poll()
    capfd.readouterr()
    server.world.ahead = timedelta(days=now)

    assert everything == bool(listed(polls.poll()))
    told = capfd.readouterr()
    assert said in told.err + told.out
    assert bool(said) == ("WorkOS" in told.err + told.out)
    assert ("warning" in told.err + told.out) == (said not in {"", "nothing has happened in WorkOS for long"})
    assert {EVENTS: 1} == polls.asked()


def test_what_happened_before_a_long_pause_is_still_told(polls: Polls, server: WorkOS) -> None:
    """
    As long as WorkOS knows the place, its events are taken, also when everything is listed: they say when somebody was deleted.
    """
    polls.poll()
    for user in server.world.ids("users")[:2]:
        server.world.update_user(user)
    polls.poll()
    leaving = server.world.ids("users")[5]
    server.world.delete("users", leaving)
    server.world.ahead = timedelta(days=40)
    pages = polls.poll()

    assert (leaving, True) in changed(pages)
    assert {*THREE} == {*listed(pages)}


# listings


def test_everything_again_is_listed_when_it_is_time(polls: Polls, server: WorkOS) -> None:
    """
    After `full_every`, and with `full`; not before.
    """
    polls.poll()
    server.world.ahead = timedelta(hours=23)
    assert {} == listed(polls.poll())
    assert {*THREE} == {*listed(polls.poll(full=True))}
    server.world.ahead = timedelta(hours=48)
    assert {*THREE} == {*listed(polls.poll())}


@pytest.mark.parametrize("killed", range(1, 12))
def test_an_interrupted_listing_goes_on(server: WorkOS, killed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Killed behind any page, the next poll has exactly the rest, as part of the same listing.
    """
    from usersync_cli.sources.workos import listing

    monkeypatch.setattr(listing, "LIMIT", 2)
    monkeypatch.setattr(listing, "PAGE_RECORDS", 2)
    whole = Polls(server)
    polls = replace(whole, since={})
    first = polls.poll(most=killed)
    rest = polls.poll()

    assert {name: sorted(keys) for name, keys in listed(whole.poll()).items()} == {
        name: sorted(listed(first).get(name, []) + listed(rest).get(name, [])) for name in THREE
    }
    sweeps = {(page.streams[0], page.sweep) for page in first + rest if page.sweep}
    assert 3 == len(sweeps)
    assert sorted(THREE) == sorted(page.streams[0] for page in first + rest if page.complete)


@pytest.mark.parametrize("killed", range(1, 12))
@pytest.mark.parametrize("alone", THREE)
def test_a_stream_read_alone_in_the_middle_of_a_listing(server: WorkOS, killed: int, alone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The listing of one stream is brought to its end by itself; the rest goes on, and gives nothing of it again.
    """
    from usersync_cli.sources.workos import listing

    monkeypatch.setattr(listing, "LIMIT", 2)
    monkeypatch.setattr(listing, "PAGE_RECORDS", 2)
    polls = Polls(server)
    pages = polls.poll(most=killed)
    polls.streams = (alone,)
    pages += polls.poll()
    polls.streams = THREE
    pages += polls.poll()

    assert {name: server.world.ids(name) for name in THREE} == {name: sorted(keys) for name, keys in listed(pages).items()}
    assert sorted(THREE) == sorted(page.streams[0] for page in pages if page.complete)
    assert 3 == len({page.sweep for page in pages if page.sweep})


@pytest.mark.parametrize("answer", [400, 404, 422, "rewound"])
def test_a_listing_goes_on_where_its_place_has_left(polls: Polls, server: WorkOS, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The last object of a page is deleted before the next one is asked for.
    """
    from usersync_cli.sources.workos import listing

    monkeypatch.setattr(listing, "LIMIT", 2)
    server.forgets, server.lost_page = True, answer
    leaving = server.world.ids("users")[3]

    def delete(asked: Any) -> None:
        if asked.path == PATHS["users"] and asked.query.get("after") == [leaving] and leaving in server.world.ids("users"):
            server.world.delete_user(leaving)

    server.before = delete
    found = listed(polls.poll())["users"]

    assert {*server.world.ids("users")} <= {*found}


def test_a_list_that_goes_round_is_not_the_end(polls: Polls, server: WorkOS, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A proxy that keeps answers gives the same page for ever: that is an error, and no listing is complete.
    """
    from usersync_cli.sources.workos import listing

    monkeypatch.setattr(listing, "LIMIT", 2)
    monkeypatch.setattr(event_log, "LIMIT", 2)
    server.forgets, server.lost_page = True, "rewound"
    known = server.world.ids("users")
    monkeypatch.setattr(server.world, "ids", lambda stream: known[:4] if stream == "users" else [])
    server.before = lambda asked: asked.query.pop("after", None) and None  # type: ignore[attr-defined]
    with pytest.raises(Drift, match="same page twice"):
        polls.poll()


@pytest.mark.parametrize("status", [200, 404, 422])
def test_members_of_an_organization_that_left_meanwhile(polls: Polls, server: WorkOS, status: int) -> None:
    """
    An organization that is deleted after it was listed has no memberships any more, whatever WorkOS says to its id; the listing goes on.
    """
    leaving = server.world.ids("organizations")[1]

    def delete(asked: Asked) -> None:
        if asked.path == PATHS["organization_memberships"] and leaving in server.world.ids("organizations"):
            server.world.delete_organization(leaving)
        if asked.query.get("organization_id") == [leaving] and status != 200:
            server.fail(status, PATHS["organization_memberships"], times=1)

    server.before, polls.settings = delete, {"workers": 1}
    found = listed(polls.poll())

    assert {*server.world.ids("organization_memberships")} <= {*found["organization_memberships"]}


def test_a_refusal_is_not_an_organization_without_members(polls: Polls, server: WorkOS) -> None:
    """
    As long as the organization is there, an error is an error.
    """
    server.fail(404, PATHS["organization_memberships"])
    with pytest.raises(Drift, match="no such path"):
        polls.poll()


def test_a_listing_that_was_interrupted_long_ago_begins_anew(polls: Polls, server: WorkOS) -> None:
    """
    What it has listed may have gone since.
    """
    (first,) = polls.poll(most=1)
    server.world.ahead = timedelta(days=2)
    pages = polls.poll()

    assert first.sweep.split()[0] not in {page.sweep.split()[0] for page in pages if page.sweep}
    assert {*THREE} == {*listed(pages)}


def test_what_is_read_by_its_id_is_as_of_the_last_event_of_its_page(polls: Polls, server: WorkOS) -> None:
    """
    WorkOS's clock has whole seconds: without that, an event of the same second would seem to be later.
    """
    polls.poll()
    organization = server.world.ids("organizations")[0]
    server.world.add_domain(organization, "test.example")
    server.world.update_organization(organization)
    *_, told, read = records(polls.poll())

    assert (organization, True, organization, False) == (told.key, told.partial, read.key, read.partial)
    assert told.as_of is not None
    assert read.as_of is not None
    assert told.as_of <= read.as_of


# the archive


def test_the_archive_begins_thirty_days_back(server: WorkOS) -> None:
    """
    Its first run has what WorkOS still keeps, of all types, also when the stream is added to a job that runs already.
    """
    polls = Polls(server)
    server.world.sign_in(server.world.ids("users")[0])
    server.world.log[-1]["created_at"] = "2020-01-01T00:00:00.000Z"  # too old
    old = server.world.tell("session.created", {"object": "session", "id": "session_01"}, at=datetime.now(UTC) - timedelta(days=29))
    polls.poll()
    polls.poll()
    polls.streams = (*THREE, "events")
    found = [record for record in records(polls.poll()) if record.stream == "events"]

    assert [old] == [record.key for record in found]
    server.world.sign_in(server.world.ids("users")[0])
    assert [server.world.log[-1]["id"]] == [record.key for record in records(polls.poll()) if record.stream == "events"]


def test_the_archive_has_no_gap_where_the_cursor_is_lost(server: WorkOS) -> None:
    """
    The log begins where the last poll ended, not five minutes ago.
    """
    polls = Polls(server, ("users", "events"))
    polls.poll()
    for user in server.world.ids("users")[:2]:
        server.world.update_user(user)
    polls.poll()
    server.world.forget()
    server.world.ahead = timedelta(days=3)
    missed = server.world.tell("session.created", {"object": "session", "id": "session_01"})
    server.world.ahead = timedelta(days=6)

    assert missed in [record.key for record in records(polls.poll()) if record.stream == "events"]


def test_what_is_read_again_for_the_archive_is_news_to_it_alone(polls: Polls, server: WorkOS) -> None:
    """
    The other streams had these events already, and nothing is read by its id again for them.
    """
    organization, (user, other, *_) = server.world.ids("organizations")[0], server.world.ids("users")
    polls.poll()
    server.world.add_domain(organization, "a.test.example")
    server.world.update_user(other)
    server.world.ahead = timedelta(seconds=1)
    server.world.update_organization(organization)
    polls.poll()
    server.world.update_user(user, first_name="New")
    polls.streams = (*THREE, "events")
    with server.requests() as asked:
        found = records(polls.poll())

    assert [event["id"] for event in server.world.log] == [record.key for record in found if record.stream == "events"]
    assert user in [record.key for record in found]
    assert other not in [record.key for record in found]
    assert {EVENTS: 2} == asked


def test_types_that_workos_does_not_know_are_left_out(server: WorkOS) -> None:
    """
    A refusal that names types of the archive costs these types, not the archive.
    """
    polls = Polls(server, ("events",), {"event_types": ["session.created", "test.unknown"]})
    polls.poll()
    server.world.tell("session.created", {"object": "session", "id": "session_01"})

    assert 1 == len(records(polls.poll()))


# what goes wrong


@pytest.mark.parametrize("lacks", THREE)
def test_a_restricted_key_names_the_list(polls: Polls, server: WorkOS, lacks: str) -> None:
    """
    The message has the list that is missing and the request's id.
    """
    server.forbidden[KEY] = {PATHS[lacks]}
    with pytest.raises(ConfigError, match=f"may not read {PATHS[lacks]}") as error:
        polls.poll()

    assert "(This API key does not have the required permissions, request id req_TEST" in error.value.message


def test_a_wrong_key_is_a_matter_of_the_config(polls: Polls) -> None:
    """
    Exit status 2, and the message does not show the key.
    """
    polls.key = "sk_test_wrong"
    with pytest.raises(ConfigError, match="does not know the API key") as error:
        polls.poll()

    assert "sk_test_wrong" not in f"{error.value.message} {error.value.hint}"


def test_only_a_listing_behind_a_log_that_was_followed_checks_it(polls: Polls, server: WorkOS) -> None:
    """
    Neither the first one, nor one after a lost place, nor the rest of one that was interrupted: there, what differs is no drift.
    """

    def checked(pages: Sequence[Page]) -> set[bool]:
        return {page.checks for page in pages if page.sweep}

    assert {False} == checked(polls.poll())
    assert {True} == checked(polls.poll(full=True))
    polls.poll(full=True, most=2)
    assert {False} == checked(polls.poll())
    server.world.create_user()
    polls.poll()
    server.world.forget()
    polls.held = lambda _stream: list(server.truth("users"))
    assert {False} == checked(polls.poll())


@pytest.mark.parametrize("empty", [False, True])
def test_check_names_each_right_that_is_missing(server: WorkOS, *, empty: bool) -> None:
    """
    Of a list that is asked for one organization after the other, its own right and that of the list before it; also where that has none.
    """
    paths = [PATHS["organizations"], PATHS["organization_memberships"], EVENTS]
    if empty:
        for one in server.world.ids("organizations"):
            server.world.delete("organizations", one)
    source = Source("workos", Settings.model_validate({"type": "workos", "api_url": server.url, "api_key": KEY}))
    with source.open(Tools("workos", Stop(), Database)) as session:
        assert "can be read" in session.look("organization_memberships")
        for forbidden in ([paths[0]], [paths[1]], [paths[2]], paths):
            server.forbidden[KEY] = {*forbidden}
            with pytest.raises(ConfigError) as caught:
                session.look("organization_memberships")
            assert [path in caught.value.message for path in paths] == [path in forbidden for path in paths]


def test_the_log_has_a_limit_of_its_own(polls: Polls, server: WorkOS, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    WorkOS allows fewer requests for users and memberships than for events: those do not wait for these.
    """
    polls.poll()
    monkeypatch.setattr(api, "MOST", 1)
    monkeypatch.setattr(api, "WINDOW", timedelta(hours=1))
    monkeypatch.setattr(api, "DEADLINE", timedelta(seconds=3))
    for number in range(310):
        server.world.update_user(server.world.ids("users")[number % 10], last_name=f"User {number}")

    assert 4 == polls.asked()[EVENTS]
