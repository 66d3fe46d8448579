"""`usersync keycloak ...` against a real Keycloak; its JSON has the shapes of the service that it replaces."""

from __future__ import annotations

import csv
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Command, Result
from tests.http_server import Answer
from tests.keycloak_server import BUSY, LOST, SECRET, Bank, Front, Keycloak, Mailbox, NewBank, Trouble
from tests.servers import free_port
from usersync_cli.__main__ import main

NOT_USED = {
    "sources": {"people": {"type": "postgres", "url": "embedded:people"}},
    "jobs": {
        "people": {"steps": [{"name": "a", "extract": {"source": "people", "table": "there"}, "load": {"table": "here", "key": ["id"]}}]}
    },
}
ACTIONS = ["UPDATE_PASSWORD", "VERIFY_EMAIL", "webauthn-register"]

# What the service before usersync documents of its answers: each key, and what it holds.
ANY_STATUS = {"status": str, "message": str}
MADE = {**ANY_STATUS, "keycloak_user_id": str, "temporary_password": (str, type(None)), "required_actions": list}
EXISTS = {**ANY_STATUS, "keycloak_user_id": str}
RESET = {**ANY_STATUS, "username": str, "email": str}
SWITCHED = {**ANY_STATUS, "username": str, "enabled": bool}
FORCED = {**ANY_STATUS, "username": str}
STATUS = {"status": str, "keycloak_user": dict}
USER = {
    "id": str,
    "username": str,
    "email": str,
    "firstName": str,
    "lastName": str,
    "enabled": bool,
    "emailVerified": bool,
    "requiredActions": list,
    "roles": list,
    "groups": list,
}
HEALTHY = {"status": str, "service": str, "keycloak_connected": bool, "realm": str}
UNHEALTHY = {"status": str, "error": str}


def has_shape(document: dict[str, Any], shape: dict[str, Any]) -> bool:
    """Every documented key is there, with what it is documented to hold."""
    return [] == [name for name, kind in shape.items() if name not in document or not isinstance(document[name], kind)]


def rows(file: Path) -> list[list[str]]:
    return list(csv.reader(file.read_text().splitlines()))


@pytest.fixture(scope="module")
def mail() -> Iterator[Mailbox]:
    with Mailbox().running() as mailbox:
        yield mailbox


@pytest.fixture(scope="module")
def bank(keycloak: Keycloak, mail: Mailbox) -> Iterator[Bank]:
    """One realm for all tests that have accounts of their own."""
    groups = ["/loan-officers", "/tellers", "/head-office"]
    with keycloak.bank(roles=["loan-officer", "teller", "staff"], groups=groups, smtpServer=mail.smtp) as bank:
        yield bank


@dataclass
class Usersync:
    """The command, in this process: what it prints, and how it ends. Nothing that goes to stderr shows anybody."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch
    words: list[str] = field(default_factory=list)  # that stderr must not have

    def configure(self, bank: Bank, url: str = "", **settings: Any) -> None:
        own = {
            "type": "keycloak",
            "url": url or bank.url,
            "realm": bank.name,
            "client_id": bank.client_id,
            "client_secret": bank.client_secret,
        }
        self.targets(keycloak={**own, **settings})

    def targets(self, **targets: Any) -> None:
        document = {"environment": "test", "target": "embedded", "targets": targets, **NOT_USED}
        (self.folder / "config.yaml").write_text(json.dumps(document))

    def __call__(self, *arguments: str) -> Result:
        self.patch.setattr(sys, "argv", ["usersync", "keycloak", *arguments])
        self.patch.chdir(self.folder)
        for name in ("stdout", "stderr"):
            self.patch.setattr(sys, name, getattr(sys, name))  # which the command replaces
        handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
        out, err = self.capture.readouterr()
        assert [] == [word for word in (SECRET, "Traceback", "bug", "@example.org", *self.words) if word in err]
        return Result(int(ended.value.code or 0), out, err)

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """The one document on stdout."""
        result = self(*arguments, "--output", "json")
        assert status == result.status, result.stderr
        document: dict[str, Any] = json.loads(result.stdout)
        assert (1, f"keycloak-{arguments[0]}") == (document.pop("version"), document.pop("kind"))
        return document

    def made(self, name: str, *more: str, role: str = "Loan Officer", status: int = 0) -> dict[str, Any]:
        """sync-user for somebody of this name."""
        own = ["--username", name, "--email", f"{name}@example.org", "--first-name", "Test", "--last-name", "User", "--role", role]
        return self.json("sync-user", *own, *more, status=status)


@pytest.fixture
def usersync_here(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Usersync:
    return Usersync(tmp_path, capfd, monkeypatch)


@pytest.fixture
def run(usersync_here: Usersync, bank: Bank) -> Usersync:
    """The command with a config file for `bank`."""
    usersync_here.configure(bank)
    return usersync_here


# sync-user


def test_an_account_is_made_as_a_job_makes_it(run: Usersync, bank: Bank) -> None:
    """
    Enabled, with a verified address, required actions, group and role of the maps; the password is in the file alone.
    """
    document = run.made("test-made", "--credentials-out", "passwords.csv", role="loan OFFICER")

    assert has_shape(document, MADE)
    assert ("success", None, set(ACTIONS)) == (document["status"], document["temporary_password"], set(document["required_actions"]))
    found = bank.person("test-made")
    assert (found["id"], True, True) == (document["keycloak_user_id"], found["enabled"], found["emailVerified"])
    assert (set(ACTIONS), {"loan-officer"}, {"/loan-officers"}) == (
        set(found["requiredActions"]),
        bank.roles_of("test-made"),
        bank.groups_of("test-made"),
    )
    file = run.folder / "passwords.csv"
    (head, (username, password)) = rows(file)
    assert (["username", "password"], "test-made", 0o600) == (head, username, file.stat().st_mode & 0o777)
    assert "Account is not fully set up" in bank.log_in("test-made", password).text


def test_the_next_password_is_appended(run: Usersync) -> None:
    """
    One file serves many people.
    """
    for name in ("test-first", "test-second"):
        run.made(name, "--credentials-out", "passwords.csv")

    assert ["username", "test-first", "test-second"] == [row[0] for row in rows(run.folder / "passwords.csv")]


def test_people_read_text(run: Usersync, bank: Bank) -> None:
    """
    Without --output json the account is shown line by line; nobody learns a password that nobody asked for.
    """
    own = ["--username", "test-text", "--email", "test-text@example.org", "--role", "Cashier"]
    result = run("sync-user", *own)

    assert (0, "test-text", "  roles             teller", "  groups            tellers") == (
        result.status,
        *[result.stdout.splitlines()[line] for line in (0, 6, 7)],
    )
    assert "it has no password yet: `usersync keycloak reset-password` mails a link\n" == result.stderr
    assert ({"teller"}, []) == (bank.roles_of("test-text"), bank.credentials_of("test-text"))


def test_an_account_that_exists_is_left_alone(run: Usersync, bank: Bank) -> None:
    """
    Whatever else is said of it; 10, and its id.
    """
    bank.add("test-there", roles=["teller"])
    before = bank.person("test-there")

    document = run.made("TEST-there", status=10)

    assert has_shape(document, EXISTS)
    assert ("exists", before["id"]) == (document["status"], document["keycloak_user_id"])
    assert (before, {"teller"}, set()) == (bank.person("test-there"), bank.roles_of("test-there"), bank.groups_of("test-there"))


def test_an_address_belongs_to_one_account(run: Usersync, bank: Bank) -> None:
    """
    10, and no account.
    """
    bank.add("test-address")
    own = ["--username", "test-other", "--email", "TEST-ADDRESS@example.org", "--role", "Cashier"]

    document = run.json("sync-user", *own, status=10)

    said = "another account has this e-mail address; nothing was changed"
    assert {"status": "error", "code": "conflict", "message": said} == document
    assert "test-other" not in bank.people()


def test_a_role_that_no_map_has(run: Usersync, bank: Bank) -> None:
    """
    2, the roles of the map, and nothing is written; with default_role that one is given.
    """
    result = run("sync-user", "--username", "test-role", "--email", "test-role@example.org", "--role", "Gardener")
    assert 2 == result.status
    assert "the map has no such role; nothing was written" in result.stderr
    assert "Account Manager, Loan Officer, Branch Manager" in result.stderr
    assert "test-role" not in bank.people()

    run.configure(bank, default_role="staff")
    run.made("test-role", role="Gardener")
    assert ({"staff"}, {"/head-office"}) == (bank.roles_of("test-role"), bank.groups_of("test-role"))


def test_what_the_realm_lacks(usersync_here: Usersync, new_bank: NewBank) -> None:
    """
    A role and group that are not there: 7, named, and nothing is written; with create_missing they are made.
    """
    bank = new_bank(declared=(), rights=["manage-users", "manage-realm"])
    usersync_here.configure(bank)
    document = usersync_here.made("test-user", "--id", "default:7", status=7)
    assert "declare the attribute usersync_id" in document["message"]
    document = usersync_here.made("test-user", status=7)
    assert document["message"].endswith("lacks role loan-officer and group /loan-officers; nothing was written")
    assert {} == bank.people()

    usersync_here.configure(bank, create_missing=True)
    usersync_here.made("test-user", "--id", "default:7")

    found = bank.person("test-user")
    assert ({"usersync_id": ["default:7"]}, True) == (found["attributes"], found["emailVerified"])
    assert ({"loan-officer"}, {"/loan-officers"}) == (bank.roles_of("test-user"), bank.groups_of("test-user"))
    document = usersync_here.made("test-other", "--id", "default:7", status=10)
    assert "another account has this usersync_id; nothing was changed" == document["message"]


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        pytest.param({"required_actions": ["NOTHING"]}, [], "required action NOTHING is not known in the realm", id="required action"),
        pytest.param({}, ["--email", "no address"], "error-invalid-email of email; nothing was written", id="address"),
        pytest.param({}, ["--username", "test user"], "error-username-invalid-character of username; nothing was written", id="username"),
        pytest.param({}, ["--credentials-out", "/nowhere/passwords.csv"], "can't be written", id="no folder"),
        pytest.param({}, ["--credentials-out", "open.csv"], "is no file that you alone can read", id="open file"),
        pytest.param({}, ["--show-password"], "--show-password is for a terminal", id="no terminal"),
    ],
)
def test_nothing_is_made_of_mistakes(run: Usersync, bank: Bank, settings: dict[str, Any], options: list[str], message: str) -> None:
    """
    2, said before an account is there whose password would be lost, or that lacks what it was to have.
    """
    (run.folder / "open.csv").touch(0o644)
    run.configure(bank, **settings)
    before = set(bank.people())

    result = run("sync-user", "--username", "test-mistake", "--email", "test-mistake@example.org", "--role", "Cashier", *options)

    assert 2 == result.status
    assert message in result.stderr
    assert before == set(bank.people())


def test_new_people_get_a_mail_where_the_realm_writes_them(run: Usersync, bank: Bank, mail: Mailbox) -> None:
    """
    With notify: email the realm mails a link to the required actions, once.
    """
    run.configure(bank, notify="email")
    run.made("test-mailed")

    assert ["test-mailed@example.org"] == [one["To"] for one in mail.mails if one["To"] == "test-mailed@example.org"]


def test_an_answer_that_is_lost(run: Usersync, bank: Bank, front: Front) -> None:
    """
    Whom our id names is found and finished; else nobody can know whose account it is: 4, and what to do.
    """
    run.configure(bank, front.url)
    front.at("POST .*/users", LOST, LOST, BUSY)

    run.made("test-lost-a", "--id", "default:8")
    assert {"loan-officer"} == bank.roles_of("test-lost-a")

    assert "an account of this user name is there now" in run.made("test-lost-b", status=4)["message"]
    assert set() == bank.roles_of("test-lost-b")

    assert "no account was made" in run.made("test-lost-c", status=4)["message"]


def test_a_role_that_could_not_be_given(run: Usersync, bank: Bank, front: Front) -> None:
    """
    Never answered as success: 3, and the password is in the file all the same.
    """
    run.configure(bank, front.url)
    front.at("POST .*/role-mappings/realm", Trouble(Answer(403, {"error": "HTTP 403 Forbidden"})))

    document = run.made("test-half", "--credentials-out", "passwords.csv", status=3)

    assert ("error", True) == (document["status"], "the account was made, but not all of it" in document["message"])
    assert "test-half," in (run.folder / "passwords.csv").read_text()


def test_what_keycloak_dropped_is_told(run: Usersync, bank: Bank, front: Front) -> None:
    """
    What stands there afterwards is compared with what was wanted: 8.
    """
    run.configure(bank, front.url)
    front.at("POST .*/role-mappings/realm", Trouble(Answer(204, b"")))

    assert "lacks loan-officer, which Keycloak took without an error" in run.made("test-dropped", status=8)["message"]


def test_a_password_is_shown_on_a_terminal(usersync: Command, run: Usersync, bank: Bank) -> None:
    """
    The real command, on a terminal: the password that it shows is the account's.
    """
    own = ["--username", "test-shown", "--email", "test-shown@example.org", "--role", "Cashier", "--show-password"]
    command = [sys.executable, "-m", "usersync_cli", "keycloak", "sync-user", *own]
    ours, theirs = pty.openpty()
    done = subprocess.run(command, cwd=run.folder, env=usersync.environment, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)

    assert (0, b"") == (done.returncode, done.stderr)
    (password,) = [line.split()[-1] for line in shown.splitlines() if "first password" in line]
    assert 16 == len(password)
    assert "Account is not fully set up" in bank.log_in("test-shown", password).text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--email", ""], "Invalid value for '--email': it is empty"),
        (["--email", " "], "Invalid value for '--email': it is empty"),
        (["--username", ""], "Invalid value for '--username': it is empty"),
        (["--role", "\t"], "Invalid value for '--role': it is empty"),
        (["--id", ""], "Invalid value for '--id': it is empty"),
        (["--id", 'default:"7'], "Invalid value for '--id': it holds \", which Keycloak can't look for"),
    ],
)
def test_what_is_empty_is_a_variable_that_is_not_set(usersync_here: Usersync, options: list[str], message: str) -> None:
    """
    2, before anything is asked, and no account without an address.
    """
    result = usersync_here("sync-user", "--username", "test-empty", "--email", "test-empty@example.org", "--role", "Cashier", *options)

    assert (2, True) == (result.status, message in result.stderr), result.stderr


@pytest.mark.parametrize("command", ["status", "enable", "disable", "reset-password", "force-password-change"])
def test_nobody_has_an_empty_name(usersync_here: Usersync, command: str) -> None:
    """
    To Keycloak, nothing to look for is everybody.
    """
    result = usersync_here(command, "")

    assert (2, True) == (result.status, "Invalid value for 'USER': it is empty" in result.stderr)


def test_passwords_are_what_the_realm_asks_for(run: Usersync, bank: Bank, front: Front) -> None:
    """
    Made from its policy, another one where one is refused; where all are, 2, and no account.
    """
    run.configure(bank, front.url)
    refused = Trouble(Answer(400, {"error": "invalidPasswordBlacklistedMessage"}))
    front.at("POST .*/users", refused, None, *[refused] * 30)
    bank.configure(passwordPolicy="length(20) and specialChars(4)")
    try:
        run.made("test-policy", "--credentials-out", "passwords.csv")
        (_, (_, password)) = rows(run.folder / "passwords.csv")
        assert (20, True) == (len(password), "Account is not fully set up" in bank.log_in("test-policy", password).text)
        assert "refuses each first password" in run.made("test-refused", "--credentials-out", "passwords.csv", status=2)["message"]
    finally:
        bank.configure(passwordPolicy="")
    assert "test-refused" not in bank.people()


def test_an_address_that_can_not_be_verified(usersync_here: Usersync, new_bank: NewBank) -> None:
    """
    The realm has no mail server: 2, and no account that its person could not log in to.
    """
    bank = new_bank(roles=["loan-officer"], groups=["/loan-officers"])
    usersync_here.configure(bank, email_verified=False)

    assert "the realm has no mail server" in usersync_here.made("test-unverified", status=2)["message"]
    assert {} == bank.people()


# one account


def test_status_shows_an_account(run: Usersync, bank: Bank) -> None:
    """
    By its user name in any case, or by its id; without the role that everybody has.
    """
    id_ = bank.add("test-status", roles=["teller", "staff"], groups=["/tellers"], requiredActions=["VERIFY_EMAIL"])

    documents = [run.json("status", user) for user in ("test-status", "TEST-STATUS", id_)]

    assert has_shape(documents[0], STATUS)
    assert has_shape(documents[0]["keycloak_user"], USER)
    assert [documents[0]] * 3 == documents
    assert {
        "id": id_,
        "username": "test-status",
        "email": "test-status@example.org",
        "firstName": "Test",
        "lastName": "User",
        "enabled": True,
        "emailVerified": False,
        "requiredActions": ["VERIFY_EMAIL"],
        "roles": ["staff", "teller"],
        "groups": ["tellers"],
    } == documents[0]["keycloak_user"]
    assert (
        f"""\
test-status
  id                {id_}
  e-mail            test-status@example.org, not verified
  name              Test User
  enabled           yes
  required actions  VERIFY_EMAIL
  roles             staff, teller
  groups            tellers
"""
        == run("status", "test-status").stdout
    )


@pytest.mark.parametrize("command", ["status", "enable", "disable", "reset-password", "force-password-change"])
def test_nobody_of_this_name(run: Usersync, bank: Bank, command: str) -> None:
    """
    9; a part of a name is nobody's.
    """
    if "test-somebody" not in bank.people():
        bank.add("test-somebody")
    run.words = ["test-some"]

    for user in ("test-some", "00000000-0000-4000-8000-000000000000"):
        document = run.json(command, user, status=9)
        assert has_shape(document, ANY_STATUS)
        assert ("not_found" if command == "status" else "error") == document["status"]


def test_disable_signs_out(run: Usersync, bank: Bank) -> None:
    """
    Who is disabled is signed out and can't log in; enable lets them in again; all else stays.
    """
    bank.add("test-switch", password="Not-a-secret-1", attributes={"usersync_id": ["9"]}, roles=["teller"])
    before = bank.person("test-switch")
    assert 200 == bank.log_in("test-switch", "Not-a-secret-1").status_code

    document = run.json("disable", "test-switch")
    assert has_shape(document, SWITCHED)
    assert ("test-switch", False) == (document["username"], document["enabled"])
    assert (0, 400) == (bank.sessions_of("test-switch"), bank.log_in("test-switch", "Not-a-secret-1").status_code)
    assert "test-switch: disabled, and signed out\n" == run("disable", "test-switch").stdout

    assert run.json("enable", "test-switch")["enabled"]
    assert 200 == bank.log_in("test-switch", "Not-a-secret-1").status_code
    assert {**before, "notBefore": bank.person("test-switch")["notBefore"]} == bank.person("test-switch")


def test_a_link_to_a_new_password_is_mailed(run: Usersync, bank: Bank, mail: Mailbox) -> None:
    """
    One mail, whose link is good for 24 hours; the account is not changed.
    """
    bank.add("test-link")
    before = bank.person("test-link")

    document = run.json("reset-password", "test-link")

    assert has_shape(document, RESET)
    assert ("test-link", "test-link@example.org") == (document["username"], document["email"])
    (text,) = [str(one.get_body(("plain",))) for one in mail.mails if one["To"] == "test-link@example.org"]
    assert "/login-actions/action-token?key=" in text
    assert "1 day" in text
    assert before == bank.person("test-link")


def test_a_link_that_can_not_be_mailed(run: Usersync, bank: Bank, mail: Mailbox) -> None:
    """
    No address, a disabled account: 2, each in its own words. A mail server that takes nothing: 4.
    """
    bank.add("test-nowhere", email="")
    bank.add("test-disabled", enabled=False)
    bank.add("test-fine")

    assert "this account has no e-mail address" in run.json("reset-password", "test-nowhere", status=2)["message"]
    assert "this account is disabled" in run.json("reset-password", "test-disabled", status=2)["message"]
    bank.ask("PUT", "", {"smtpServer": {**mail.smtp, "port": str(free_port())}})
    try:
        assert "mail server did not take" in run.json("reset-password", "test-fine", status=4)["message"]
    finally:
        bank.ask("PUT", "", {"smtpServer": mail.smtp})


def test_a_password_has_to_be_changed(run: Usersync, bank: Bank) -> None:
    """
    UPDATE_PASSWORD comes beside what is asked for already, once; attributes, roles and address stay.
    """
    bank.add("test-force", attributes={"usersync_id": ["10"]}, requiredActions=["VERIFY_EMAIL"], roles=["teller"])
    before = bank.person("test-force")

    document = run.json("force-password-change", "test-force")
    assert has_shape(document, FORCED)
    assert {"VERIFY_EMAIL", "UPDATE_PASSWORD"} == set(bank.person("test-force")["requiredActions"])
    assert {**before, "requiredActions": bank.person("test-force")["requiredActions"]} == bank.person("test-force")

    assert "test-force: had already to choose a new password at the next login\n" == run("force-password-change", "test-force").stdout


# the realm


def test_health(run: Usersync, bank: Bank) -> None:
    """
    Healthy is who can log in and read the realm: 0, else 2 or 4, with the reason.
    """
    document = run.json("health")
    assert has_shape(document, HEALTHY)
    assert ("healthy", True, bank.name) == (document["status"], document["keycloak_connected"], document["realm"])

    run.configure(bank, client_secret="another-secret")
    document = run.json("health", status=2)
    assert has_shape(document, UNHEALTHY)
    assert ("unhealthy", True) == (document["status"], "the secret of the client usersync is wrong" in document["error"])


def test_the_real_command(usersync: Command, run: Usersync, bank: Bank) -> None:
    """
    As a process of its own: the config file of the folder, JSON on stdout, nothing on stderr.
    """
    (usersync.folder / "config.yaml").write_text((run.folder / "config.yaml").read_text())
    result = usersync("keycloak", "health", "--output", "json")

    assert (0, "") == (result.status, result.stderr)
    assert bank.name == json.loads(result.stdout)["realm"]


def test_keycloak_is_away(run: Usersync, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    4, within seconds.
    """
    monkeypatch.setattr("usersync_cli.cli.realm._DEADLINE", timedelta(seconds=1))
    run.configure(bank, f"http://127.0.0.1:{free_port()}")

    assert "can't be reached" in run.json("health", status=4)["error"]


def test_which_keycloak(usersync_here: Usersync, bank: Bank, new_bank: NewBank) -> None:
    """
    Of several `--target` names one; a name that is none, and a config file without any, are told.
    """
    own = {"type": "keycloak", "url": bank.url, "client_id": bank.client_id, "client_secret": bank.client_secret}
    usersync_here.targets(staff={**own, "realm": bank.name}, customers={**own, "realm": "nothing"})

    assert "there are several targets of type keycloak" in usersync_here("health").stderr
    assert "--target staff or --target customers" in usersync_here("health").stderr
    assert 'there is no target "stuff" of type keycloak' in usersync_here("health", "--target", "stuff").stderr
    assert bank.name == usersync_here.json("health", "--target", "staff")["realm"]
    assert "there is no realm nothing" in usersync_here.json("health", "--target", "customers", status=2)["error"]
    usersync_here.targets()
    assert "there is no target of type keycloak" in usersync_here("health").stderr


def test_rights(usersync_here: Usersync, new_bank: NewBank) -> None:
    """
    To look takes view-users, to change manage-users; a right that is missing is named, with where it is given: 2.
    """
    bank = new_bank(rights=["view-users"])
    bank.add("test-user")
    usersync_here.configure(bank)

    assert "success" == usersync_here.json("status", "test-user")["status"]
    result = usersync_here("disable", "test-user")
    bank.rights("manage-users")
    assert [0, 0, 0, 4] == [usersync_here(one, "test-user").status for one in ("status", "disable", "enable", "reset-password")]
    assert [2, 2] == [usersync_here(*one).status for one in (["force-password-change", "test-user"], ["health"])]

    assert 2 == result.status
    assert "lacks the client role manage-users of realm-management" in result.stderr
    assert f"assign it in realm {bank.name}: Clients > usersync > Service account roles" in result.stderr


# mistakes, and too few rights


@pytest.mark.parametrize("odd", ["", "  ", "\udcff", "a\nb", "\x1b[31m", "x" * 256])
@pytest.mark.parametrize("command", ["status", "disable", "reset-password", "set-id"])
def test_a_name_that_is_none(run: Usersync, command: str, odd: str) -> None:
    """
    Empty, not UTF-8, with a line break, or longer than Keycloak takes it: a mistake of the command line, before anything is asked.
    """
    assert 2 == run(command, odd, *(["default:7"] if command == "set-id" else [])).status


@pytest.mark.parametrize("odd", ["a/b", "../users", "*", "%", 'a"b', "a\\b", "?max=1", "\u2019", "x" * 255, "-1", "null"])
def test_a_name_that_nobody_has(run: Usersync, odd: str) -> None:
    """
    Whatever its characters are: 9.
    """
    assert 9 == run("status", "--", odd).status


@pytest.mark.parametrize("option", ["--id", "--email", "--username", "--role"])
@pytest.mark.parametrize("odd", ["", " ", "\udcff", 'a"b'])
def test_a_value_that_makes_no_account(run: Usersync, bank: Bank, option: str, odd: str) -> None:
    """
    An empty address or id is a mistake, not an account without one; what Keycloak can't look for, or refuses, is one too.
    """
    before = set(bank.people())
    own = {"--username": "test-odd", "--email": "test-odd@example.org", "--role": "Cashier", option: odd}

    assert 2 == run("sync-user", *[word for pair in own.items() for word in pair]).status
    assert before == set(bank.people())


def test_whose_account_it_is(run: Usersync, bank: Bank) -> None:
    """
    set-id says so once; what else the account has stays; an id that another account has is a conflict.
    """
    bank.add("test-whose", email="test-whose@example.org", firstName="Test")
    bank.add("test-other")

    assert "success" == run.json("set-id", "test-whose", "default:77")["status"]
    found = bank.person("test-whose")
    assert (["default:77"], "test-whose@example.org", "Test") == (found["attributes"]["usersync_id"], found["email"], found["firstName"])
    assert "had already" in run("set-id", found["id"], "default:77").stdout
    assert (10, 2) == (run("set-id", "test-other", "default:77").status, run("set-id", "test-other", 'a"b').status)


def test_disabling_that_is_refused(run: Usersync, new_bank: NewBank) -> None:
    """
    The user profile wants more than the account has: it is signed out all the same, 3 and the field.
    """
    bank = new_bank()
    run.configure(bank)
    bank.add("test-refused", password="a-good-one")
    profile = bank.ask("GET", "/users/profile")
    phone = {"name": "phone", "permissions": {"view": ["admin"], "edit": ["admin"]}, "required": {}}
    assert 200 == bank.log_in("test-refused", "a-good-one").status_code
    bank.ask("PUT", "/users/profile", {**profile, "attributes": [*profile["attributes"], phone]})

    result = run("disable", "test-refused")
    assert (3, True, 0) == (result.status, "phone" in result.stderr, bank.sessions_of("test-refused"))


@pytest.mark.parametrize("light", [False, True])
def test_too_few_rights_are_no_missing_account(run: Usersync, new_bank: NewBank, *, light: bool) -> None:
    """
    With query-users alone Keycloak shows nobody, with 200: 2 and the right, for each command, health among them; also where the
    token does not list its rights.
    """
    bank = new_bank()
    run.configure(bank)
    bank.add("test-there")
    bank.rights("query-users", "view-realm")
    if light:
        bank.change_client(attributes={"client.use.lightweight.access.token.enabled": "true"})

    for command in (["status", "test-there"], ["disable", "test-there"], ["status", "test-nobody"], ["health"]):
        result = run(*command)
        assert (2, True) == (result.status, "view-users" in result.stderr or "manage-users" in result.stderr), command
    assert "unhealthy" == run.json("health", status=2)["status"]

    bank.rights("view-users", "view-realm")
    assert (0, 9, 0 if light else 2) == tuple(run(*one).status for one in (["status", "test-there"], ["status", "test-nobody"], ["health"]))
