"""A person authorises usersync: from the address to the token, and what is said when something is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from click.testing import CliRunner

from tests import servers
from tests.conftest import ROOT
from tests.oauth_server import CLIENT_SECRET, REDIRECT_URI, OAuthServer, oauth_server
from usersync_cli import sources
from usersync_cli.auth import keys
from usersync_cli.auth.rescue import Rescue, text
from usersync_cli.cli import cli
from usersync_cli.config.registry import source_port
from usersync_cli.errors import Unavailable, UsersyncError, status_of
from usersync_cli.model import Database
from usersync_cli.signals import Stop

KEYS = "k1:" + "QUFB" * 10 + "QUE="


@dataclass
class Result:
    status: int
    stdout: str
    said: str  # on stderr, and by the error


@dataclass
class House:
    """A config file with a source that a person authorises, its vendor and its target."""

    target: Database
    vendor: OAuthServer
    folder: Path
    document: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        servers.migrate(self.target)
        source = {"type": "door", "url": self.vendor.url, "client_secret": CLIENT_SECRET, "redirect_uri": REDIRECT_URI}
        step = {
            "name": "g",
            "extract": {"source": "crm", "streams": ["guests"]},
            "load": {"table": "guests", "key": ["key"], "create": True},
        }
        self.document = {
            "environment": "test",
            "target": self.target.url,
            "sources": {"crm": source},
            "jobs": {"j": {"schedule": "* * * * *", "steps": [step]}},
        }
        self.save()

    @property
    def source(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["sources"]["crm"]
        return found

    def save(self) -> None:
        (self.folder / "config.yaml").write_text(json.dumps(self.document))

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        file = str(self.folder / "config.yaml")
        result = CliRunner().invoke(cli, [*arguments, "--config", file], obj=Stop(), input=stdin, standalone_mode=False)
        said, status = result.stderr, result.return_value or 0
        if result.exception and not isinstance(result.exception, SystemExit):
            assert isinstance(result.exception, UsersyncError), result.exception
            said, status = f"{said}{result.exception.message}\n{result.exception.hint}", status_of(result.exception)
        for secret in self.vendor.secrets:
            assert secret not in result.stdout + said
        return Result(status, result.stdout, said)

    def begin(self) -> str:
        """The address that the vendor sends somebody to who agrees."""
        return self.vendor.answer(self("oauth-url").stdout.strip())

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.target.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def row(self) -> list[tuple[Any, ...]]:
        return self.run("SELECT source, account, generation, state FROM usersync.tokens")


@pytest.fixture
def house(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(ROOT / "tests" / "vendors")])
    monkeypatch.setenv("USERSYNC_KEYS", KEYS)
    with oauth_server() as vendor:
        source_port("door")
        monkeypatch.setattr("usersync_cli.sources.door.owner", vendor.owner)
        yield House(database, vendor, tmp_path)


def query(address: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


def test_from_the_address_to_the_token(house: House) -> None:
    """
    oauth-url prints the address alone on stdout; its answer is exchanged, once, and the token kept with its account.
    """
    before = house("oauth-status")
    begun = house("oauth-url")
    done = house("oauth-callback", house.vendor.answer(begun.stdout.strip()))

    assert (5, "crm: no token yet: a person must authorise\n  usersync oauth-url --source crm\n") == (before.status, before.stdout)
    assert (0, 1) == (begun.status, len(begun.stdout.splitlines()))
    assert "usersync oauth-callback 'ADDRESS'" in begun.said
    assert (0, "crm: authorised, account account-1; its token is kept, encrypted (generation 1)\n") == (done.status, done.stdout)
    assert [("crm", "account-1", 1, "ok")] == house.row()
    assert 0 == house("oauth-status").status
    assert 0 == house("run", "--job", "j", "-q").status
    assert 1 == len(house.vendor.requests)


def test_the_state_is_random_and_kept_as_a_hash(house: House) -> None:
    """
    128 bits or more, another each time; the database holds none of them.
    """
    states = {query(house("oauth-url").stdout)["state"] for _ in range(3)}
    kept = str(house.run("SELECT * FROM usersync.authorizations"))

    assert 3 == len(states)
    assert all(len(state) >= 22 for state in states)
    assert [] == [state for state in states if state in kept]


@pytest.mark.parametrize("how", ["query", "separate", "bare"])
def test_the_code_comes_in_many_forms(house: House, how: str) -> None:
    """
    The query alone, the code with --state, and a bare code while an authorisation is open, which is logged.
    """
    answer = house.begin()
    code, state = query(answer)["code"], query(answer)["state"]
    arguments = {"query": [urlsplit(answer).query], "separate": [code, "--state", state], "bare": [code]}[how]
    done = house("oauth-callback", *arguments)

    assert (0, [("crm", "account-1", 1, "ok")]) == (done.status, house.row())
    assert (how == "bare") == ("state was not seen" in done.said)


def test_a_bare_code_needs_an_open_authorisation(house: House) -> None:
    """
    Without one, and after it was used, a bare code is sent nowhere.
    """
    first = house("oauth-callback", house.vendor.code())
    house("oauth-callback", house.begin())
    second = house("oauth-callback", house.vendor.code())

    assert [5, 5] == [first.status, second.status]
    assert "no authorisation is open" in first.said
    assert "usersync oauth-url --source crm" in second.said
    assert 1 == len(house.vendor.requests)


@pytest.mark.parametrize("wrong", ["used", "expired", "unknown", "other"])
def test_a_state_is_good_once_for_ten_minutes(house: House, wrong: str) -> None:
    """
    Used twice, after ten minutes, or one that nobody gave out: exit 5, nothing is sent, and what to type.
    """
    answer = house.begin()
    if wrong == "used":
        house("oauth-callback", answer)
    if wrong == "expired":
        house.run("UPDATE usersync.authorizations SET expires_at = clock_timestamp() - interval '1 s'")
    if wrong == "other":
        house.run("UPDATE usersync.authorizations SET source = 'elsewhere'")
    if wrong == "unknown":
        answer = answer.replace("state=", "state=x")
    sent = len(house.vendor.requests)
    result = house("oauth-callback", answer, *(["--source", "crm"] if wrong == "other" else []))

    assert (5, sent) == (result.status, len(house.vendor.requests))
    assert "usersync oauth-url" in result.said


def test_denied(house: House) -> None:
    """
    Whoever said no ends with 5 and the vendor's word; a token that is there stays.
    """
    house("oauth-callback", house.begin())
    state = query(house("oauth-url").stdout)["state"]
    result = house("oauth-callback", f"{REDIRECT_URI}?error=access_denied&state={state}")

    assert 5 == result.status
    assert "access_denied" in result.said
    assert [("crm", "account-1", 1, "ok")] == house.row()


@pytest.mark.parametrize("code", ["", "https://example.org/callback?state=x", "https://example.org/[", "?code=&x="])
def test_no_code_at_all(house: House, code: str) -> None:
    """
    An address without a code, such as one that the shell cut at &, ends with 2 and is not repeated.
    """
    result = house("oauth-callback", code)

    assert 2 == result.status
    assert len(code) < 3 or code not in result.said


def test_a_code_that_was_spent(house: House) -> None:
    """
    A reused or expired code ends with 5 and how to begin again.
    """
    answer = house.begin()
    house.vendor.client().exchange(query(answer)["code"])
    result = house("oauth-callback", answer)

    assert (5, []) == (result.status, house.row())
    assert "usersync oauth-url --source crm" in result.said


@pytest.mark.parametrize(("name", "value", "status"), [("client_secret", "wrong", 2), ("redirect_uri", "https://example.org/other", 5)])
def test_a_wrong_setting(house: House, name: str, value: str, status: int) -> None:
    """
    A wrong client secret is the config's; a wrong redirect URI is told like a bad code, because vendors do.
    """
    answer = house.begin()
    house.source[name] = value
    house.save()
    result = house("oauth-callback", answer)

    assert (status, []) == (result.status, house.row())
    assert name in result.said
    assert "wrong" not in result.said
    house.source[name] = {"client_secret": CLIENT_SECRET, "redirect_uri": REDIRECT_URI}[name]
    house.save()
    again = house("oauth-callback", answer)
    assert (0 if status == 2 else 5) == again.status, "only the vendor knows whether a code is spent"


@pytest.mark.parametrize(("fault", "status"), [("503", 4), ("html", 4), ("reset", 4), ("redirect", 2), ("404", 2), ("invalid_request", 2)])
def test_an_answer_is_good_until_the_vendor_says_otherwise(house: House, fault: str, status: int) -> None:
    """
    Whatever a token endpoint answers but "spent": the same address may be given again, and works.
    """
    answer = house.begin()
    house.vendor.faults = [fault]
    failed = house("oauth-callback", answer)

    assert status == failed.status
    assert "give the same answer again" in failed.said
    assert 0 == house("oauth-callback", answer).status
    spent = house("oauth-callback", answer)
    assert 5 == spent.status
    assert "used already" in spent.said


def test_a_token_is_kept_when_its_account_can_not_be_asked(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The code is spent and the API is away: what it bought is kept all the same, and whose it is the next run finds out.
    """

    def away(*_: object) -> str:
        raise Unavailable("the API is away")

    monkeypatch.setattr("usersync_cli.sources.door.owner", away)
    result = house("oauth-callback", house.begin())

    assert (0, [("crm", "", 1, "ok")]) == (result.status, house.row())
    assert "the API is away" in result.said


def test_a_vendor_that_is_away_leaves_the_answer_good(house: House) -> None:
    """
    Nothing was sent: exit 4, and the same answer is good for another try.
    """
    answer = house.begin()
    house.source["url"] = f"http://127.0.0.1:{servers.free_port()}"
    house.save()
    away = house("oauth-callback", answer)
    house.source["url"] = house.vendor.url
    house.save()

    assert (4, 0) == (away.status, house("oauth-callback", answer).status)


def test_another_account_replaces_nothing(house: House) -> None:
    """
    Somebody of another account authorised by mistake: exit 7, and the token that is there stays.
    """
    house("oauth-callback", house.begin())
    house.vendor.account = "account-2"
    result = house("oauth-callback", house.begin())

    assert 7 == result.status
    assert "account-1" in result.said
    assert [("crm", "account-1", 1, "ok")] == house.row()


def test_several_sources_have_to_be_named(house: House) -> None:
    """
    With two such sources oauth-url asks which; the state of an answer knows its own.
    """
    house.document["sources"]["shop"] = house.source
    house.save()
    unnamed = house("oauth-url")
    address = house("oauth-url", "--source", "shop").stdout.strip()
    done = house("oauth-callback", house.vendor.answer(address))

    assert 2 == unnamed.status
    assert "--source crm or --source shop" in unnamed.said
    assert (0, "shop") == (done.status, house.row()[0][0])
    assert 2 == house("oauth-url", "--source", "shopp").status
    assert 2 == house("oauth-callback", "code").status


def test_no_key_is_heard_of_first(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without USERSYNC_KEYS, oauth-url refuses with the command that makes a key.
    """
    monkeypatch.delenv("USERSYNC_KEYS")
    result = house("oauth-url")

    assert 2 == result.status
    assert keys.MAKE in result.said


def test_a_person_is_asked_for(house: House) -> None:
    """
    Once the vendor has withdrawn the token: run ends with 5, and so do health and oauth-status, with what to type; no request more.
    """
    house("oauth-callback", house.begin())
    assert 0 == house("run", "--job", "j", "-q").status
    assert "generation 1, refreshed" in house("status").stdout
    assert "token of crm generation 1" in house("health").stdout
    house.run("UPDATE usersync.tokens SET expires_at = clock_timestamp()")
    house.vendor.revoke()
    first = house("run", "--job", "j", "-q")
    sent = len(house.vendor.requests)
    again = house("run", "--job", "j", "-q")
    health, status, state = house("health"), house("status"), house("oauth-status", "--output", "json")

    assert [5, 5, 5, 5, 0] == [first.status, again.status, health.status, state.status, status.status]
    assert sent == len(house.vendor.requests)
    for told in (first.said, again.said, health.stdout, status.stdout):
        assert "usersync oauth-url --source crm" in told
    (one,) = json.loads(state.stdout)["sources"]
    assert ("crm", "reauthorise", 1) == (one["source"], one["state"], one["generation"])
    assert [one["state"]] == [token["state"] for token in json.loads(house("status", "--output", "json").stdout)["jobs"][0]["tokens"]]
    house("oauth-callback", house.begin())
    assert (0, 0) == (house("run", "--job", "j", "-q").status, house("health").status)


OLD = "CREATE TABLE shared.tl_auth (code text, auth_token text, refresh_token text, created_at timestamptz, updated_at timestamptz)"


def test_tokens_of_an_older_tool_are_taken_over(house: House) -> None:
    """
    Its table is read, the first run refreshes and finds out whose it is, and the table stays as it is.
    """
    access, refresh = house.vendor.pair()
    house.run(f"CREATE SCHEMA shared; {OLD}; INSERT INTO shared.tl_auth VALUES ('c', '{access}', '{refresh}', now(), now())")
    done = house("oauth-import", "--from-table", "shared.tl_auth")
    house("run", "--job", "j", "-q")

    assert (0, True) == (done.status, 'DROP TABLE "shared"."tl_auth"' in done.stdout)
    assert [("crm", "account-1", 2, "ok")] == house.row()
    assert [refresh] == [one["refresh_token"] for one in house.vendor.requests]
    assert [(refresh,)] == house.run("SELECT refresh_token FROM shared.tl_auth")
    assert 10 == house("oauth-import", "--from-table", "shared.tl_auth").status


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("SELECT", 7),
        ("CREATE SCHEMA shared", 7),
        ("CREATE SCHEMA shared; CREATE TABLE shared.tl_auth (code text)", 7),
        (f"CREATE SCHEMA shared; {OLD}", 9),
    ],
)
def test_a_table_that_holds_no_token(house: House, statement: str, status: int) -> None:
    """
    No such table, another one, an empty one: nothing is changed, and what to do instead.
    """
    house.run(statement)
    result = house("oauth-import", "--from-table", "shared.tl_auth")

    assert (status, []) == (result.status, house.row())
    assert "usersync oauth-url" in result.said


@pytest.mark.parametrize("how", ["file", "stdin", "found"])
def test_a_token_is_put_back(house: House, how: str) -> None:
    """
    oauth-rescue takes the file of a run, a log on stdin, or finds the file beside the config file.
    """
    house("oauth-callback", house.begin())
    access, refresh = house.vendor.pair()
    key = keys.parse(KEYS)
    sealed = [text(key.encrypt(one, "crm", "account-1", name)) for one, name in ((access, "access_token"), (refresh, "refresh_token"))]
    file = house.folder / "usersync-rescue-crm-2-x.txt"
    file.write_text(Rescue("crm", "account-1", 1, "k1", *sealed, lifetime=3600, at=2e9).line() + "\n")
    house.run("UPDATE usersync.tokens SET state = 'reauthorise'")
    log = f'{{"event": "x"}}\n{file.read_text()}'
    done = house("oauth-rescue", *{"file": [str(file)], "stdin": ["-"], "found": []}[how], stdin=log)
    again = house("oauth-rescue", str(file))

    assert (0, 10) == (done.status, again.status)
    assert [("crm", "account-1", 2, "ok")] == house.row()


def test_nothing_to_rescue(house: House) -> None:
    """
    Without a line there is nothing to put back: 9; a file that is not there: 2.
    """
    assert 9 == house("oauth-rescue", "-", stdin="USERSYNC-RESCUE " + "x" * 60).status
    assert 2 == house("oauth-rescue", str(house.folder / "none")).status
