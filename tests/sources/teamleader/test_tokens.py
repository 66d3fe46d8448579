"""Tokens of Teamleader that expire while people are read: one refresh, whoever asks, no record lost, and nothing shown to anybody."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from tests.conftest import Command, Result
from tests.oauth_server import CLIENT_SECRET, REDIRECT_URI, OAuthServer, oauth_server
from tests.simple_job import PERSON
from tests.teamleader_job import Crm, made
from tests.teamleader_server import Asked, Teamleader
from usersync_cli.auth import keys, refresh, tokens
from usersync_cli.auth.tokens import Tokens
from usersync_cli.cli import cli
from usersync_cli.errors import status_of
from usersync_cli.model import Database, Token
from usersync_cli.signals import Stop
from usersync_cli.sources.teamleader import limits

KEYS = "k1:" + "QUFB" * 10 + "QUE="
JOBS = 4


@dataclass
class Office:
    """Teamleader and where it gives tokens, the real command, and a config file of jobs that read the same account."""

    usersync: Command
    target: Database
    api: Teamleader
    vendor: OAuthServer

    def __post_init__(self) -> None:
        self.settings = {
            "auth_url": self.vendor.url, "client_id": "client", "client_secret": CLIENT_SECRET, "redirect_uri": REDIRECT_URI,
        }  # fmt: skip
        load = {"key": ["tl_uuid"], "create": True, "on_missing": "mark"}
        jobs = {"teamleader": "tl_{stream}", **{f"job{number}": f"job{number}_{{stream}}" for number in range(JOBS)}}
        extract = {"source": "crm", "streams": ["contacts", "users"]}
        document = {
            "environment": "test",
            "target": self.target.url,
            "sources": {"crm": made(self.api.url, **self.settings)},
            "jobs": {
                name: {"steps": [{"name": "all", "extract": extract, "load": {"table": table, **load}}]} for name, table in jobs.items()
            },
        }
        self.file = self.usersync.folder / "config.yaml"
        self.file.write_text(json.dumps(document))

    def __call__(self, *arguments: str) -> Result:
        """A process of its own; nobody's data and no secret is in what it says."""
        return clean(self.usersync(*arguments, USERSYNC_KEYS=KEYS))

    def here(self, *arguments: str) -> Result:
        """The same in this process, for a command that raises nothing."""
        result = CliRunner().invoke(cli, [*arguments, "--config", str(self.file)], obj=Stop(), catch_exceptions=False)
        return clean(Result(result.exit_code, result.stdout, result.stderr))

    def authorise(self) -> None:
        """A person says yes."""
        done = self.here("oauth-callback", self.vendor.answer(self.here("oauth-url").stdout.strip()))
        assert 0 == done.status
        self.vendor.requests.clear()

    def crm(self, *streams: str, **settings: Any) -> Crm:
        """The job, to be run in this process."""
        kept = Tokens(self.target, lambda: keys.parse(KEYS), Stop(), job="teamleader", folder=self.usersync.folder)
        return Crm(self.api, self.target, streams or ("contacts",), {**self.settings, **settings}, tokens=kept)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        return Crm(self.api, self.target).ask(statement)

    def age(self) -> None:
        """The token is not a new one."""
        self.run("UPDATE usersync.tokens SET refreshed_at = refreshed_at - interval '10 min'")

    def expire(self, *, known: bool) -> None:
        """Its time is over; whether our clock says so too."""
        self.age()
        self.vendor.expire()
        if known:
            self.run("UPDATE usersync.tokens SET expires_at = clock_timestamp()")

    def refused(self) -> int:
        return sum(asked.status == 401 for asked in self.api.asked)

    def token(self) -> tuple[Any, ...]:
        (row,) = self.run("SELECT generation, state FROM usersync.tokens")
        return row


def clean(result: Result) -> Result:
    for word in ("Traceback", "internal error", "canary", PERSON):
        assert word not in result.stdout + result.stderr, result
    return result


@pytest.fixture
def office(usersync: Command, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    monkeypatch.setenv("USERSYNC_KEYS", KEYS)
    monkeypatch.setattr(refresh, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(tokens, "POLL_SECONDS", 0.02)
    with oauth_server() as vendor, Teamleader(tokens=vendor).running() as api:
        yield Office(usersync, database, api, vendor)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five, so that a few records fill many."""
    monkeypatch.setattr(limits, "PAGE_RECORDS", 5)


def once(path: str, act: Callable[[], None], *, skip: int = 0, page: int = 0) -> Callable[[Asked], None]:
    """A hook that acts once, before a request of this path (and page) is answered: the first, or the one after `skip`."""
    number = itertools.count()

    def before(asked: Asked) -> None:
        if asked.path == path and (not page or asked.page == page) and next(number) == skip:
            act()

    return before


# expired


@pytest.mark.parametrize(("known", "refused"), [(True, 0), (False, 1)])
def test_expired_when_a_run_begins(office: Office, known: bool, refused: int) -> None:  # noqa: FBT001  a parameter
    """
    One refresh, known from the clock or from one 401; all records are there.
    """
    office.authorise()
    office.api.add("contacts", 12)
    office.expire(known=known)
    crm = office.crm()

    assert "12 0 0 0" == crm.ok()
    assert crm.is_equal()
    assert (1, refused) == (len(office.vendor.requests), office.refused())
    assert (2, "ok") == office.token()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("place", [("contacts.list", 4), ("contacts.info", 0)])
def test_expired_in_the_middle_of_a_run(office: Office, place: tuple[str, int], workers: int) -> None:
    """
    401 to what is on its way at that moment, one refresh, and the run goes on: no record is lost, and none read twice.
    """
    office.authorise()
    office.api.add("contacts", 27)
    office.age()
    path, page = place
    office.api.before = once(path, office.vendor.expire, skip=0 if page else 11, page=page)
    crm = office.crm(workers=workers)

    assert "27 0 0 0" == crm.ok()
    assert crm.is_equal()
    assert 1 == len(office.vendor.requests)
    assert 1 <= office.refused() <= workers
    answered = [asked.body["id"] for asked in office.api.asked if (asked.action, asked.status) == ("info", 200)]
    assert crm.there() == sorted(answered)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("known", [True, False])
def test_expired_twice_in_one_run(office: Office, known: bool) -> None:  # noqa: FBT001  a parameter
    """
    A long run outlives two tokens: each is refreshed once, whether their end is known from the clock or from a 401.
    """
    office.authorise()
    office.api.add("contacts", 24)
    ends = iter([(5, "list"), (2, "list")])
    place = [next(ends)]

    def before(asked: Asked) -> None:
        if place and (asked.page, asked.action) == place[0]:
            place[:] = [following] if (following := next(ends, None)) else []
            office.expire(known=known)

    office.api.before = before
    result = office.crm().run()

    assert 0 == result.exit_status
    assert (3, "ok") == office.token()
    assert 2 == len(office.vendor.requests)
    assert office.crm().is_equal()


def test_a_new_token_that_is_refused_ends_the_run(office: Office) -> None:
    """
    The API takes no token at all, not even one that is a second old: one refresh, then exit 5 with what to type, not a
    loop. oauth-status says the same, and when the API takes tokens again, the next run is well, without a person.
    """
    office.authorise()
    office.api.add("contacts", 2)
    takes, office.api.tokens = office.api.tokens, frozenset()
    failed = office.crm().run().steps[0].error
    state = office.here("oauth-status")

    assert failed is not None
    assert 5 == status_of(failed)
    assert "usersync oauth-url" in failed.hint
    assert (1, 2, (2, "refused")) == (len(office.vendor.requests), office.refused(), office.token())
    assert 5 == state.status
    assert "refused by the API" in state.stdout
    assert "usersync oauth-url --source crm" in state.stdout
    assert 5 == office.here("health", "--job", "teamleader").status
    office.api.tokens = takes
    assert "2 0 0 0" == office.crm().ok()
    assert (2, (3, "ok"), 0) == (len(office.vendor.requests), office.token(), office.here("oauth-status").status)


def test_a_young_token_that_is_refused_is_refreshed(office: Office) -> None:
    """
    A token that was authorised a second ago and withdrawn since: the refresh token is tried before a person is asked.
    """
    office.authorise()
    office.api.add("contacts", 2)
    office.vendor.expire()

    assert "2 0 0 0" == office.crm().ok()
    assert (1, (2, "ok")) == (len(office.vendor.requests), office.token())


# many processes


@pytest.mark.parametrize("number", [2, JOBS])
@pytest.mark.parametrize("when", ["at the start", "in the middle"])
def test_processes_share_one_refresh(office: Office, number: int, when: str) -> None:
    """
    Several jobs read one account and the token expires for all of them at the same moment: exactly one token request arrives.
    """
    office.authorise()
    office.api.add("contacts", 3)
    office.vendor.delay = 0.3  # long enough for all to come
    if when == "at the start":
        office.expire(known=True)
    else:
        office.age()
        together, left = threading.Barrier(number, office.vendor.expire), itertools.count()

        def before(asked: Asked) -> None:
            if asked.path == "contacts.list" and next(left) < number:
                together.wait(30)

        office.api.before = before
    with ExitStack() as stack:
        started = [
            stack.enter_context(office.usersync.start("run", "--job", f"job{at}", "--stream", "contacts", USERSYNC_KEYS=KEYS))
            for at in range(number)
        ]
        for process in started:
            stdout, stderr = process.communicate(timeout=60)
            assert 0 == clean(Result(process.returncode, stdout, stderr)).status, stderr

    assert (1, 1) == (len(office.vendor.requests), office.vendor.most_at_once)
    assert (2, "ok") == office.token()
    assert (number if when == "in the middle" else 0) == office.refused()
    for at in range(number):
        assert [(3,)] == office.run(f"SELECT count(*) FROM job{at}_contacts")


# an answer that is lost


@pytest.mark.usefixtures("small")
def test_a_lost_answer_with_grace(office: Office) -> None:
    """
    The vendor gives the same token again to who asks at once: the run goes on.
    """
    office.authorise()
    office.api.add("contacts", 27)
    office.age()
    office.vendor.faults, office.vendor.grace = ["lost"], 60
    office.api.before = once("contacts.list", office.vendor.expire, page=4)
    crm = office.crm()

    assert "27 0 0 0" == crm.ok()
    assert crm.is_equal()
    assert (2, 1) == (len(office.vendor.requests), office.vendor.most_at_once)
    assert (2, "ok") == office.token()


@pytest.mark.usefixtures("small")
def test_a_lost_answer_without_grace(office: Office) -> None:
    """
    Exit 5 with the command to type, then no request at all; when a person has authorised, the next run goes on from the cursor.
    """
    office.authorise()
    office.api.add("contacts", 27)
    office.api.add("users", 3)
    office.age()
    office.vendor.faults = ["lost"]
    office.api.before = once("contacts.list", office.vendor.expire, page=4)
    crm = office.crm("contacts", "users", workers=1)
    failed = crm.run().steps[0].error
    sent, asked = len(office.vendor.requests), len(office.api.asked)

    assert failed is not None
    assert (5, 2, (1, "reauthorise")) == (status_of(failed), sent, office.token())
    assert "usersync oauth-url --source crm" in failed.hint
    assert 7 == len(crm.held()), "pages 6 and 5"
    again = office.crm().run().steps[0].error
    assert again is not None
    assert (5, sent, asked) == (status_of(again), len(office.vendor.requests), len(office.api.asked))
    assert "usersync oauth-url --source crm" in again.hint

    office.authorise()
    crm = office.crm("contacts", "users")
    since = len(office.api.asked)
    assert "23 0 0 0" == crm.ok()
    assert crm.is_equal()
    pages = [one.page for one in office.api.asked[since:] if one.path == "contacts.list" and "filter" not in one.body]
    assert [4, 3, 2, 1] == pages
    assert 20 == sum(one.path == "contacts.info" for one in office.api.asked[since:])
    assert [(3,)] == office.run("SELECT count(*) FROM tl_users")


# the commands


def test_what_a_person_types(office: Office) -> None:
    """
    From oauth-url to oauth-status, then a token that the vendor has withdrawn: no secret, token or person is in any output at
    its most talkative, or in clear in a table of usersync's.
    """
    for resource in ("contacts", "users"):
        office.api.add(resource, 5)
    office.api.fail(500, "contacts.info")  # its answer names somebody
    begun = office("oauth-url")
    done = office("oauth-callback", office.vendor.answer(begun.stdout.strip()))
    checked = office.here("check", "--job", "teamleader")
    ran = office("run", "--job", "teamleader", "-vv", "--log-format", "json")
    status, state = office.here("status", "--job", "teamleader"), office.here("oauth-status")

    assert [0] * 6 == [one.status for one in (begun, done, checked, ran, status, state)], ran.stderr
    assert "request repeated" in ran.stderr
    assert "generation 1" in done.stdout
    assert "contacts.list answers" in checked.stdout
    assert "10 new" in ran.stdout
    assert "5 rows in tl_contacts" in status.stdout
    assert "token crm       ok, generation 1, refreshed " in status.stdout
    assert "crm: ok, generation 1, refreshed " in state.stdout

    office.expire(known=True)
    office.vendor.revoke()
    ended = office("run", "--job", "teamleader", "-vv")
    assert (5, 5, 0) == (ended.status, office.here("oauth-status").status, office.here("status").status)
    assert "usersync oauth-url --source crm" in ended.stderr
    names = [name for (name,) in office.run("SELECT relname FROM pg_class WHERE relnamespace = 'usersync'::regnamespace AND relkind = 'r'")]
    kept = "".join(str(office.run(f"SELECT encode(t::text::bytea, 'escape') FROM usersync.{name} AS t")) for name in names)
    kept += str(office.run("SELECT encode(access_token, 'escape'), encode(refresh_token, 'escape') FROM usersync.tokens"))
    assert len(names) > 10
    for word in ("canary", CLIENT_SECRET, PERSON, *office.vendor.secrets):
        assert word not in kept


# whose token


def test_an_imported_token_learns_its_account(office: Office) -> None:
    """
    A token without an account gets that of the first run; a source that answers as another account is refused then, whatever the job.
    """
    office.authorise()
    tokens_ = office.crm().tokens
    access = tokens_.access("crm", lambda _: pytest.fail("it is good"))
    office.run("DELETE FROM usersync.tokens")
    tokens_.store("crm", Token(access.token, "a-refresh-token", timedelta(hours=1)))
    office.api.add("contacts", 3)
    crm = office.crm()
    crm.ok(dry_run=True)
    assert [("",)] == office.run("SELECT account FROM usersync.tokens")
    crm.ok()
    assert [(office.api.account,)] == office.run("SELECT account FROM usersync.tokens")

    office.run("DELETE FROM usersync.cursors")
    office.api.account = "11111111-2222-3333-4444-555555555555"
    assert 7 == crm.run().exit_status
    assert 0 == crm.run(accept_account=True).exit_status
    assert [(office.api.account,)] == office.run("SELECT account FROM usersync.tokens")
