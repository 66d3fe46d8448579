"""The job from Fineract to Keycloak: accounts are made, kept equal and disabled, and nothing is taken away that we did not give."""

from __future__ import annotations

import csv
import json
import re
import signal
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.conftest import Command
from tests.fineract_server import Fineract
from tests.http_server import Answer
from tests.keycloak_server import BUSY, CUT, LOST, Bank, Front, Mailbox, NewBank, Trouble
from tests.list_source import counts
from tests.simple_job import execute
from tests.staff import REALM, Staff
from usersync_cli.cli import cli
from usersync_cli.config.jobs import Job
from usersync_cli.errors import GuardRefused, PartialError, status_of
from usersync_cli.model import Database
from usersync_cli.report.check import check
from usersync_cli.report.verify.report import VerifyOptions, VerifyReport
from usersync_cli.report.verify.steps import verify
from usersync_cli.run.context import Options
from usersync_cli.run.job import run
from usersync_cli.sources import postgres


@pytest.fixture
def staff(new_bank: NewBank, front: Front, database: Any) -> Iterator[Staff]:
    """A bank whose realm has the roles and groups of the maps, and nobody in it."""
    with Fineract().running() as fineract:
        assert isinstance(fineract, Fineract)
        yield Staff(fineract, new_bank(**REALM), front, database)


def ours(number: int) -> str:
    return f"default:{number}"


# making accounts


def test_who_is_at_the_source_gets_an_account(staff: Staff, tmp_path: Path) -> None:
    """
    With name, address, role, group, attribute and required actions; the password is temporary, and stands in a file that
    only its owner can read.
    """
    (number,) = staff.people("alice")
    file = tmp_path / "passwords.csv"

    assert "1 0 0 0" == staff.ok(credentials_out=file)
    alice = staff.bank.person("alice")
    assert ("Test", "User alice", "alice@test.example") == (alice["firstName"], alice["lastName"], alice["email"])
    assert (True, True, [ours(number)]) == (alice["enabled"], alice["emailVerified"], alice["attributes"]["usersync_id"])
    assert {"UPDATE_PASSWORD", "VERIFY_EMAIL", "webauthn-register"} == set(alice["requiredActions"])
    assert ({"teller"}, {"/tellers"}) == (staff.bank.roles_of("alice"), staff.bank.groups_of("alice"))
    ((username, password),) = list(csv.reader(file.read_text().splitlines()))[1:]
    assert ("alice", 0o600) == (username, stat.S_IMODE(file.stat().st_mode))
    said = [staff.bank.log_in("alice", tried).json()["error_description"] for tried in (password, password + "x")]
    assert ["Account is not fully set up", "Invalid user credentials"] == said


def test_two_requests_make_a_person(staff: Staff) -> None:
    """
    One for the account with its password and group, one for the role.
    """
    staff.people("alice", "bob", "carol")

    writes = staff.writes()
    assert (3, 3) == (writes.count("POST /users"), sum(one.endswith("/role-mappings/realm") for one in writes))
    assert 6 == len(writes)


def test_a_second_run_only_reads(staff: Staff) -> None:
    """
    And no more than the lists: no request for a single person, and nothing is written to the database but the ledger.
    """
    staff.people("alice", "bob")
    staff.ok()
    before = staff.ask("SELECT xmin::text, * FROM usersync.accounts ORDER BY key"), staff.ask("SELECT count(*) FROM usersync.intents")

    asked = staff.asked()

    single = [one for one in asked if "/users/" in one.partition("?")[0] and one not in {"GET /users/profile", "GET /users/count"}]
    assert ([], []) == (single, [one for one in asked if not one.startswith("GET")])
    lists = [one for one in asked if "first=" in one]
    assert len(asked) <= len(lists) + 10
    assert before == (
        staff.ask("SELECT xmin::text, * FROM usersync.accounts ORDER BY key"),
        staff.ask("SELECT count(*) FROM usersync.intents"),
    )


# the first login


def first_password(file: Path, username: str) -> str:
    """The last one in the file, which is the one that works."""
    return [row[1] for row in csv.reader(file.read_text().splitlines()) if row[0] == username][-1]


def test_a_first_password_is_a_login(staff: Staff, tmp_path: Path) -> None:
    """
    In the login form of a realm without a mail server: the page for a new password comes, then that for a security key.
    """
    staff.people("alice")
    staff.ok(credentials_out=tmp_path / "passwords.csv")
    password = first_password(tmp_path / "passwords.csv", "alice")
    assert ["password", "password-new", "clientDataJSON"] == staff.bank.log_in_by_form("alice", password)

    staff.settings["required_actions"] = ["UPDATE_PASSWORD", "VERIFY_EMAIL"]
    staff.people("bob")
    staff.fineract.add(username="carol", email="")
    assert "2 0 1 0" == staff.ok(credentials_out=tmp_path / "passwords.csv")
    assert ["password", "password-new", "in"] == staff.bank.log_in_by_form("bob", first_password(tmp_path / "passwords.csv", "bob"))
    carol = staff.bank.log_in_by_form("carol", first_password(tmp_path / "passwords.csv", "carol"))
    assert ["password", "password-new", "firstName", "in"] == carol


def test_an_address_that_can_not_be_verified(staff: Staff, usersync: Command, mailbox: Mailbox) -> None:
    """
    The realm has no mail server and the login form would end in an error: 2 by check, preview and run, nobody new gets such an
    account, all else is done; once there is a mail server they do.
    """
    alice, bob, _ = staff.people("alice", "bob", "carol")
    staff.ok()
    staff.settings |= {"email_verified": False, "required_actions": ["UPDATE_PASSWORD", "VERIFY_EMAIL"]}
    assert "0 0 3 0" == staff.ok()
    staff.fineract.delete(alice)
    staff.fineract.change(bob, lastname="User Other")
    staff.people("dave", "erin")

    checked = staff.command(usersync, "check", "--job", "fineract")
    assert (2, True) == (checked.status, "target keycloak: the realm has no mail server" in checked.stdout)
    told, _ = staff.preview()
    assert "0 1 1 1" == told
    for options in ({"dry_run": True}, {}):
        error = staff.failed(**options)
        assert (2, True) == (status_of(error), "2 new people get no account: the realm has no mail server" in error.message)
    assert (["alice", "bob", "carol"], False) == (list(staff.bank.people()), staff.bank.person("alice")["enabled"])
    assert "User Other" == staff.bank.person("bob")["lastName"]

    staff.bank.configure(smtpServer=mailbox.smtp)
    assert "2 0 2 0" == staff.ok(credentials_out=usersync.folder / "passwords.csv")
    staff.bank.log_in_by_form("dave", first_password(usersync.folder / "passwords.csv", "dave"))
    assert ["dave@test.example"] == [mail["To"] for mail in mailbox.mails]


POLICIES = [
    "length(20) and specialChars(4) and upperCase(5) and digits",
    "maxLength(8) and digits(3) and notUsername and notEmail and notContainsUsername(undefined) and passwordHistory(3)",
    r"regexPattern([\p{Lower}\p{Digit}]+) and regexPattern(.{10,})",
]


def test_first_passwords_are_what_the_realm_asks_for(staff: Staff, tmp_path: Path) -> None:
    """
    Whatever its policy says, also where only the server can read it: everybody new gets an account, with a password that works.
    """
    file = tmp_path / "passwords.csv"
    for number, text in enumerate(POLICIES):
        staff.bank.configure(passwordPolicy=text)
        names = [f"user{number}{letter}" for letter in "ab"]
        staff.people(*names)
        assert f"2 0 {2 * number} 0" == staff.ok(credentials_out=file)
        said = {staff.bank.log_in(name, first_password(file, name)).json()["error_description"] for name in names}
        assert {"Account is not fully set up"} == said


def test_a_password_that_is_refused_is_not_the_persons_fault(staff: Staff, tmp_path: Path) -> None:
    """
    Another one is tried; where all are refused that is 2, everything but new accounts is done, and no person is set aside, also
    not one of whom an earlier version did that.
    """
    refused = Trouble(Answer(400, {"error": "invalidPasswordBlacklistedMessage", "error_description": "Invalid password: is blacklisted"}))
    numbers = staff.people("alice", "bob", "carol")
    staff.front.at("POST .*/users", refused, None, refused, refused)
    assert "3 0 0 0" == staff.ok(credentials_out=tmp_path / "passwords.csv")
    for name in ("alice", "bob", "carol"):
        said = staff.bank.log_in(name, first_password(tmp_path / "passwords.csv", name)).json()["error_description"]
        assert "Account is not fully set up" == said

    staff.fineract.delete(numbers[0])
    staff.fineract.change(numbers[1], lastname="User Other")
    dave, *_ = staff.people("dave", "erin", "frank")
    staff.front.at("POST .*/users", *[refused] * 200)
    result = staff.run(credentials_out=tmp_path / "passwords.csv")
    error = result.steps[0].error
    assert error is not None
    assert (2, True) == (status_of(error), "3 new people get no account: the realm refuses each" in error.message)
    assert ("0 1 1 1", {}) == (counts(result), staff.conflicts())
    assert not staff.bank.person("alice")["enabled"]
    assert sum(one == "POST /users" for one in staff.front.requests) < 80

    staff.front._plans.clear()
    wanted = staff.ask("SELECT wanted ->> 'document' FROM usersync.intents WHERE key = 'default:7' ORDER BY id DESC LIMIT 1")[0][0]
    staff.ask(
        "INSERT INTO usersync.rejects (job, step, stream, key, reason, detail, document, hash, run_id)"
        f" SELECT 'fineract', 'accounts', 'users', '{ours(dave)}', 'refused_by_keycloak', 'invalidPasswordMinLengthMessage', d,"
        f" sha256(d), 1 FROM convert_to($${wanted}$$, 'UTF8') AS d"
    )
    assert "3 0 2 0" == staff.ok(credentials_out=tmp_path / "passwords.csv")


def test_a_policy_that_no_password_meets(staff: Staff, tmp_path: Path) -> None:
    """
    2 where passwords are wanted, before anybody asks the server; without --credentials-out accounts are made, which have none.
    """
    staff.bank.configure(passwordPolicy="length(20) and maxLength(10)")
    staff.people("alice")

    error = staff.failed(credentials_out=tmp_path / "passwords.csv")
    assert (2, True) == (status_of(error), "1 new person gets no account: no password is all that" in error.message)
    assert ({}, []) == (staff.bank.people(), [one for one in staff.front.requests if one.startswith("POST")])
    assert "1 0 0 0" == staff.ok()
    assert [] == staff.bank.credentials_of("alice")


def test_names_in_the_file_are_no_formulas(staff: Staff, tmp_path: Path) -> None:
    """
    A user name that a spreadsheet would run has a ' in front there, as in an export.
    """
    for number, name in enumerate(("@alice", "-bob", "+carol", "dave-")):
        staff.fineract.add(username=name, email=f"user{number}@test.example")
    staff.ok(credentials_out=tmp_path / "passwords.csv")

    names = {row[0] for row in csv.reader((tmp_path / "passwords.csv").read_text().splitlines())}
    assert {"username", "'@alice", "'-bob", "'+carol", "dave-"} == names


def test_several_roles_and_the_first_ones_group(staff: Staff) -> None:
    """
    All roles that are mapped are given; the group is that of the first in the map's order, whatever their order at the source.
    """
    staff.fineract.add(username="alice", roles=[1, 4, 3])
    staff.fineract.backwards = True
    staff.ok()

    assert ({"teller", "accountant", "admin"}, {"/tellers"}) == (staff.bank.roles_of("alice"), staff.bank.groups_of("alice"))


def test_an_unknown_role(staff: Staff) -> None:
    """
    A role that the map lacks is a conflict, and its person gets nothing; with `default_role` they get that one.
    """
    staff.fineract.roles[9] = {"id": 9, "name": "Gardener", "description": "", "disabled": False}
    (number,) = staff.fineract.add(username="alice", roles=[9])
    staff.people("bob")

    assert 3 == status_of(staff.failed())
    assert ({ours(number): "unknown_role"}, ["bob"]) == (staff.conflicts(), list(staff.bank.people()))
    assert [("role Gardener",)] == staff.ask("SELECT detail FROM usersync.rejects")

    staff.settings["default_role"] = "staff"
    assert "1 0 1 0" == staff.ok()
    assert ({"staff"}, {}) == (staff.bank.roles_of("alice"), staff.conflicts())


# keeping them equal


def test_what_changed_is_changed_and_nothing_else(staff: Staff) -> None:
    """
    Fields follow the source one by one; attributes, required actions, roles and groups that others gave stay as they are.
    """
    staff.bank.ask("PUT", "/users/profile", _with(staff.bank, "shoe_size"))
    (number,) = staff.people("alice")
    staff.ok()
    staff.bank.change("alice", requiredActions=["CONFIGURE_TOTP"], attributes={"usersync_id": [ours(number)], "shoe_size": ["42"]})
    id_ = staff.bank.person("alice")["id"]
    staff.bank.ask("POST", f"/users/{id_}/role-mappings/realm", [staff.bank.ask("GET", "/roles/of-others")])
    staff.bank.ask("PUT", f"/users/{id_}/groups/{staff.bank.ask('GET', '/group-by-path/of-others')['id']}")
    staff.fineract.change(number, email="new@test.example", lastname="User New", roles=[1])

    assert "0 1 0 0" == staff.ok()
    alice = staff.bank.person("alice")
    assert ("new@test.example", "Test", "User New") == (alice["email"], alice["firstName"], alice["lastName"])
    assert (["CONFIGURE_TOTP"], ["42"]) == (alice["requiredActions"], alice["attributes"]["shoe_size"])
    assert ({"admin", "of-others"}, {"/head-office", "/of-others"}) == (staff.bank.roles_of("alice"), staff.bank.groups_of("alice"))
    assert "0 0 1 0" == staff.ok()


def _with(bank: Bank, attribute: str) -> dict[str, Any]:
    profile: dict[str, Any] = bank.ask("GET", "/users/profile")
    own = {"name": attribute, "permissions": {"view": ["admin"], "edit": ["admin"]}, "multivalued": False}
    return {**profile, "attributes": [*profile["attributes"], own]}


def test_a_missing_value_clears_nothing(staff: Staff) -> None:
    """
    An address that Fineract no longer has stays in Keycloak.
    """
    (number,) = staff.people("alice")
    staff.ok()
    staff.fineract.change(number, email="")

    assert "0 0 1 0" == staff.ok()
    assert "alice@test.example" == staff.bank.person("alice")["email"]


def test_drift_is_repaired(staff: Staff) -> None:
    """
    What somebody changed by hand becomes again as the source says: an address, a role that was taken, a group, a deleted account.
    """
    staff.people("alice", "bob", "carol")
    staff.ok()
    staff.bank.change("alice", email="wrong@test.example")
    bob = staff.bank.person("bob")["id"]
    staff.bank.ask("DELETE", f"/users/{bob}/role-mappings/realm", [staff.bank.ask("GET", "/roles/teller")])
    staff.bank.ask("DELETE", f"/users/{bob}/groups/{staff.bank.ask('GET', '/group-by-path/tellers')['id']}")
    staff.bank.delete("carol")

    assert "1 2 0 0" == staff.ok()
    assert "alice@test.example" == staff.bank.person("alice")["email"]
    assert ({"teller"}, {"/tellers"}) == (staff.bank.roles_of("bob"), staff.bank.groups_of("bob"))
    assert ({"teller"}, True) == (staff.bank.roles_of("carol"), staff.bank.person("carol")["enabled"])
    assert "0 0 3 0" == staff.ok()

    staff.bank.delete("carol")
    staff.bank.add("carol")
    assert 3 == status_of(staff.failed())
    assert ["username_taken"] == list(staff.conflicts().values())
    assert (set(), set()) == (staff.bank.roles_of("carol"), staff.bank.groups_of("carol"))


def test_only_what_we_gave_is_taken(staff: Staff) -> None:
    """
    A role of the maps that somebody gave by hand is a conflict for a person, who may accept it; with `extra_roles: remove` it is taken.
    """
    (number,) = staff.people("alice")
    staff.ok()
    id_ = staff.bank.person("alice")["id"]
    staff.bank.ask("POST", f"/users/{id_}/role-mappings/realm", [staff.bank.ask("GET", "/roles/admin")])

    assert 3 == status_of(staff.failed())
    assert ({ours(number): "extra_role"}, {"teller", "admin"}) == (staff.conflicts(), staff.bank.roles_of("alice"))

    staff.settings["extra_roles"] = "remove"
    assert "0 1 0 0" == staff.ok()
    assert ({}, {"teller"}) == (staff.conflicts(), staff.bank.roles_of("alice"))


# names that are passed on


def named(staff: Staff, *numbers: int) -> list[tuple[str, str]]:
    """User name and address of the accounts of these people."""
    of = {user["attributes"]["usersync_id"][0]: user for user in staff.bank.people().values() if "attributes" in user}
    return [(of[ours(number)]["username"], of[ours(number)]["email"]) for number in numbers]


def renamed(staff: Staff, **names: int) -> list[tuple[str, str]]:
    """Let these people have these names, and addresses like them."""
    for name, number in names.items():
        staff.fineract.change(number, username=name, email=f"{name}@test.example")
    return [(name, f"{name}@test.example") for name in names]


def test_names_that_are_passed_on(staff: Staff) -> None:
    """
    Two people swap user names and addresses, three pass theirs on in a circle, others in a row, the last of whom is new: one
    run, no conflict, and nobody gets another's account. The preview says the same.
    """
    staff.bank.configure(editUsernameAllowed=True)
    numbers = staff.people(*(f"name-{letter}" for letter in "abcdefg"))
    a, b, c, d, e, f, g = numbers
    staff.ok()
    ids = {number: staff.bank.person(f"name-{letter}")["id"] for number, letter in zip(numbers, "abcdefg", strict=True)}
    expected = renamed(staff, **{"name-b": a, "name-a": b, "name-d": c, "name-e": d, "name-c": e, "name-g": f, "name-z": g})
    (new,) = staff.people("name-f")

    told, _ = staff.preview()
    assert told == staff.ok() == "1 7 0 0"
    assert expected == named(staff, a, b, c, d, e, f, g)
    people = {user["id"]: user["attributes"]["usersync_id"] for user in staff.bank.people().values()}
    assert {ids[number]: [ours(number)] for number in numbers} == {id_: people[id_] for id_ in ids.values()}
    assert ("0 0 8 0", {}) == (staff.ok(), staff.conflicts())
    assert [("name-f", "name-f@test.example")] == named(staff, new)


def test_a_name_that_is_not_given_up(staff: Staff) -> None:
    """
    The last one of a row can't have the new name, so nobody in it moves; an address that Keycloak refuses gives the old one back.
    """
    staff.bank.configure(editUsernameAllowed=True)
    staff.bank.add("somebody-else")
    a, b, c, d = staff.people("name-a", "name-b", "name-c", "name-d")
    staff.ok()
    renamed(staff, **{"name-b": a, "somebody-else": b})
    staff.fineract.change(c, email="name-d@test.example")
    staff.fineract.change(d, email="a..b@test.example")

    for _ in range(2):
        assert 3 == status_of(staff.failed())
        assert ["name-a", "name-b", "name-c", "name-d"] == [name for name, _ in named(staff, a, b, c, d)]
    assert {ours(a): "username_taken", ours(b): "username_taken"}.items() <= staff.conflicts().items()
    assert ("refused_by_keycloak", "email_taken") == (staff.conflicts()[ours(d)], staff.conflicts()[ours(c)])
    assert "name-d@test.example" == named(staff, d)[0][1]


@pytest.mark.parametrize("requests", [1, 2])
def test_killed_while_names_are_passed_on(staff: Staff, usersync: Command, requests: int) -> None:
    """
    kill -9 while one of two has a name for the time being, or both: the next run gives each their own.
    """
    staff.bank.configure(editUsernameAllowed=True)
    staff.settings |= {"workers": 1}
    a, b = staff.people("name-a", "name-b")
    staff.ok()
    expected = renamed(staff, **{"name-b": a, "name-a": b})
    staff.front.at("PUT .*/users/[^/]+", *[None] * requests)
    staff.killed(usersync, "PUT .*/users/[^/]+")
    assert expected != named(staff, a, b)

    staff.ok()
    assert (expected, "0 0 2 0") == (named(staff, a, b), staff.ok())


def test_a_realm_whose_user_names_are_addresses(staff: Staff) -> None:
    """
    Keycloak takes the address for the name, whatever is sent: nothing is changed for ever, two people swap addresses, and
    who has none is a conflict that says so; also where the realm was changed to that later.
    """
    a, b = staff.people("alice", "bob")
    staff.ok()
    staff.bank.configure(registrationEmailAsUsername=True)
    (c,) = staff.fineract.add(username="Carol Has A Name", email="Carol@Test.example")
    (d,) = staff.fineract.add(username="dave", email="")
    shared = [staff.fineract.add(username=name, email="one@test.example")[0] for name in ("erin", "frank")]
    expected = {ours(d): "no_email", **{ours(number): "same_email" for number in shared}}

    assert (3, expected) == (status_of(staff.failed()), staff.conflicts())
    mails = ["alice@test.example", "bob@test.example", "carol@test.example"]
    assert [(mail, mail) for mail in mails] == named(staff, a, b, c)
    assert "0 0 3 0 rejected 3" == counts(staff.run())
    staff.fineract.change(a, email=mails[1])
    staff.fineract.change(b, email=mails[0])
    assert "0 2 1 0 rejected 3" == counts(staff.run())
    assert [(mail, mail) for mail in (mails[1], mails[0])] == named(staff, a, b)
    assert "0 0 3 0 rejected 3" == counts(staff.run())


def test_what_looks_changed_and_is_not(staff: Staff) -> None:
    """
    Other letters only, a name that the realm does not let anybody edit, an attribute that the profile lacks, a user name that
    is another's address: no call in the second run, and a conflict where a person has to know.
    """
    a, b, _ = staff.people("alice", "bob", "carol")
    staff.ok()
    staff.fineract.change(a, username="ALICE", email="ALICE@Test.Example")
    assert [] == staff.writes()

    staff.fineract.change(b, username="robert")
    profile = staff.bank.ask("GET", "/users/profile")
    staff.bank.ask("PUT", "/users/profile", {**profile, "attributes": [one for one in profile["attributes"] if one["name"] != "lastName"]})
    (d,) = staff.fineract.add(username="carol@test.example", email="other@test.example")
    assert 3 == status_of(staff.failed())
    before = len(staff.front.requests)
    assert "0 0 2 0 rejected 2" == counts(staff.run())
    assert {ours(b): "username_changed", ours(d): "username_taken"} == staff.conflicts()
    assert [] == [one for one in staff.front.requests[before:] if not one.startswith("GET")]


# who leaves


def test_who_has_left_is_disabled_and_signed_out(staff: Staff) -> None:
    """
    Never deleted; and enabled again when they come back, because it was us who disabled them.
    """
    numbers = staff.people("alice", "bob", "carol")
    staff.ok()
    id_ = staff.bank.person("alice")["id"]
    staff.bank.ask("PUT", f"/users/{id_}/reset-password", {"type": "password", "value": "a-good-one", "temporary": False})
    staff.bank.change("alice", requiredActions=[])
    assert (200, 1) == (staff.bank.log_in("alice", "a-good-one").status_code, staff.bank.sessions_of("alice"))
    user = dict(staff.fineract.users[numbers[0]])
    staff.fineract.delete(numbers[0])

    assert "0 0 2 1" == staff.ok()
    assert (False, 0) == (staff.bank.person("alice")["enabled"], staff.bank.sessions_of("alice"))
    assert "0 0 2 0" == staff.ok()

    staff.fineract.users[numbers[0]] = user
    assert "0 1 2 0" == staff.ok()
    assert (True, {"teller"}) == (staff.bank.person("alice")["enabled"], staff.bank.roles_of("alice"))
    assert "0 0 3 0" == staff.ok()


def test_the_guard_keeps_everybody(staff: Staff) -> None:
    """
    Most people gone at once: nobody is disabled, new ones are made all the same, 6; approved, exactly these are disabled.
    """
    numbers = staff.people("alice", "bob", "carol", "dave")
    staff.ok()
    for number in numbers[:3]:
        staff.fineract.delete(number)
    staff.people("erin")

    error = staff.failed()
    assert isinstance(error, GuardRefused)
    assert ["alice", "bob", "carol", "dave", "erin"] == [name for name, user in staff.bank.people().items() if user["enabled"]]
    (run_id,) = staff.ask("SELECT run_id FROM usersync.approvals WHERE status = 'waiting'")[0]
    assert "0 0 2 3" == staff.ok(approve_deletes=run_id)
    assert ["dave", "erin"] == [name for name, user in staff.bank.people().items() if user["enabled"]]


def test_a_list_that_lacks_people_disables_nobody(staff: Staff) -> None:
    """
    Whom the list lacks, but Fineract knows by id, keeps the account.
    """
    numbers = staff.people("alice", "bob", "carol")
    staff.ok()
    staff.fineract.stale = {numbers[0]}

    assert "0 0 2 0" == staff.ok()
    assert staff.bank.person("alice")["enabled"]


def test_customers_have_no_account_of_staff(staff: Staff) -> None:
    """
    Self-service users get none; who became one, or got an account before they were left out, is disabled behind the guard.
    """
    staff.settings["default_role"] = "staff"
    numbers = staff.people("alice", "bob", "carol", "dave")
    for number in numbers[2:]:
        staff.fineract.change(number, isSelfServiceUser=True)
    told = staff.run()
    assert ("2 0 0 0", {"self-service users": 2}) == (counts(told), told.steps[0].left_out)

    staff.reads["self_service_users"] = True
    assert "2 0 2 0" == staff.ok()
    staff.reads.clear()
    assert "0 0 2 2" == staff.ok()
    assert ["alice", "bob"] == [name for name, user in staff.bank.people().items() if user["enabled"]]
    assert "0 0 2 0" == staff.ok()

    staff.fineract.change(numbers[2], isSelfServiceUser=False)
    assert ("0 1 2 0", True) == (staff.ok(), staff.bank.person("carol")["enabled"])
    for number in numbers[:2]:
        staff.fineract.change(number, isSelfServiceUser="true")
    assert 6 == status_of(staff.failed())
    assert staff.bank.person("alice")["enabled"]


@pytest.mark.parametrize("reason", ["excluded", "self_service"])
def test_an_account_of_somebody_who_is_left_alone(staff: Staff, reason: str) -> None:
    """
    An earlier config gave it: nobody keeps it silently. It is a conflict until somebody disables it or accepts that; with
    `on_missing: keep` that of a self-service user too.
    """
    staff.reads = {"exclude": [], "self_service_users": True}
    staff.settings["default_role"] = "staff"
    alice, _ = staff.people("alice", "bob")
    if reason == "self_service":
        staff.load["on_missing"] = "keep"
        staff.fineract.change(alice, isSelfServiceUser=True)
    staff.ok()
    staff.reads = {"exclude": ["mifos", "SYSTEM", *(["Alice"] if reason == "excluded" else [])]}
    expected = {ours(1): "excluded", ours(2): "excluded", ours(alice): reason}

    told, changes = staff.preview()
    assert ("0 0 2 0 rejected 3", expected.keys()) == (told, {one.key["id"] for one in changes if one.kind == "reject"})
    assert 3 == status_of(staff.failed())
    assert (expected, True) == (staff.conflicts(), staff.bank.person("alice")["enabled"])

    for name in ("alice", "mifos", "system"):
        staff.bank.change(name, enabled=False)
    assert "0 0 2 0" == staff.ok()
    assert {} == staff.conflicts()


def test_who_was_locked_by_hand_stays_locked(staff: Staff) -> None:
    """
    Somebody disabled an account: that is a conflict, and it is not enabled again.
    """
    (number,) = staff.people("alice")
    staff.ok()
    staff.bank.change("alice", enabled=False)

    assert 3 == status_of(staff.failed())
    assert ({ours(number): "locked_by_hand"}, False) == (staff.conflicts(), staff.bank.person("alice")["enabled"])


def test_accounts_of_nobody_are_left_alone(staff: Staff) -> None:
    """
    Accounts that the source never had stay as they are; also those of another job that writes to the same realm.
    """
    staff.bank.add("robot")
    staff.people("alice", "bob")
    staff.ok()
    staff.name = "others"
    staff.fineract.tenants = {"default"}
    numbers = [number for number, user in staff.fineract.users.items() if user["username"] == "bob"]
    staff.fineract.delete(numbers[0])

    assert "0 0 1 0" == staff.ok()
    assert all(user["enabled"] for user in staff.bank.people().values())


def refuse_changes(bank: Bank, how: str) -> str:
    """From now on Keycloak takes no change of the accounts that are there; which field it names."""
    profile = bank.ask("GET", "/users/profile")
    of = {one["name"]: one for one in profile["attributes"]}
    if how == "required":
        profile["attributes"].append({"name": "phone", "permissions": of["email"]["permissions"], "required": {}})
    else:
        of[how]["validations"] = {"pattern": {"pattern": "^[0-9]+$", "error-message": "Some words of Test User"}}
    bank.ask("PUT", "/users/profile", profile)
    return "phone" if how == "required" else how


@pytest.mark.parametrize("how", ["required", "lastName"])
def test_who_has_left_and_can_not_be_disabled(staff: Staff, how: str) -> None:
    """
    The user profile refuses every change: they are signed out and lose what we gave, 3 with the field, each time; whoever
    else is refused in the same run changes nothing of that. Once the profile is right, they are disabled.
    """
    alice, bob, *_ = staff.people("alice", "bob", "carol", "dave", "erin", "frank")
    staff.ok()
    id_ = staff.bank.person("alice")["id"]
    staff.bank.ask("PUT", f"/users/{id_}/reset-password", {"type": "password", "value": "a-good-one", "temporary": False})
    staff.bank.change("alice", requiredActions=[])
    staff.bank.log_in("alice", "a-good-one")
    before = staff.bank.ask("GET", "/users/profile")
    field = refuse_changes(staff.bank, how)
    staff.fineract.delete(alice)
    staff.fineract.change(bob, firstname="Other")

    for number in range(2):
        error = staff.failed()
        assert (3, True) == (status_of(error), field in error.message)
        assert {ours(alice): "still_enabled", ours(bob): "refused_by_keycloak"} == staff.conflicts()
        assert (0, set(), set()) == (staff.bank.sessions_of("alice"), staff.bank.roles_of("alice"), staff.bank.groups_of("alice"))
        if not number:
            staff.bank.log_in("alice", "a-good-one")
    ((detail,),) = staff.ask("SELECT detail FROM usersync.rejects WHERE reason = 'refused_by_keycloak'")
    assert field in detail
    staff.ask("UPDATE usersync.rejects SET status = 'dropped'")
    assert "0 0 4 0 rejected 1" == counts(staff.run())
    assert {} == staff.conflicts()

    staff.bank.ask("PUT", "/users/profile", before)
    assert "0 1 4 1" == staff.ok(full=True)
    assert (False, []) == (staff.bank.person("alice")["enabled"], staff.ask("SELECT 1 FROM usersync.rejects"))


def test_many_who_have_left_and_can_not_be_disabled(staff: Staff) -> None:
    """
    Each of them is tried and signed out; that most of them are refused does not stop the step, and neither do those who stay.
    """
    numbers = staff.people(*(f"user{number}" for number in range(12)))
    staff.ok()
    refuse_changes(staff.bank, "required")
    for number in numbers[:4]:
        staff.fineract.delete(number)
    for number in numbers[4:8]:
        staff.fineract.change(number, firstname="Other")

    error = staff.failed()
    assert 7 == status_of(error)  # of those who stay, most
    assert 4 == list(staff.conflicts().values()).count("still_enabled")
    assert [set()] * 4 == [staff.bank.roles_of(f"user{number}") for number in range(4)]


def test_a_session_that_did_not_end(staff: Staff) -> None:
    """
    The account was disabled, and signing out was not answered: the next run signs out.
    """
    alice, *_ = staff.people("alice", "bob", "carol")
    staff.ok()
    staff.fineract.delete(alice)
    staff.ok()
    staff.ask("UPDATE usersync.intents SET state = 'open', done = '{disable}' WHERE action = 'disable'")  # as if killed

    assert ["POST /users/ID/logout"] == [one.replace(staff.bank.person("alice")["id"], "ID") for one in staff.writes() if "logout" in one]
    assert [] == staff.writes()


def test_a_role_that_is_not_mapped_any_more(staff: Staff) -> None:
    """
    Somebody's role became one that the map lacks, or the map changed: what we gave for the old one is taken, and all else is
    kept equal. Who has no account yet gets none.
    """
    staff.fineract.roles[9] = {"id": 9, "name": "Gardener", "description": "", "disabled": False}
    alice, bob, *_ = staff.people("alice", "bob", "carol")
    staff.ok()
    id_ = staff.bank.person("alice")["id"]
    staff.bank.ask("POST", f"/users/{id_}/role-mappings/realm", [staff.bank.ask("GET", "/roles/of-others")])
    staff.fineract.change(alice, roles=[9], lastname="User New")
    staff.fineract.change(bob, roles=[9, 3])
    (dave,) = staff.fineract.add(username="dave", roles=[9])

    for _ in range(2):
        assert 3 == status_of(staff.failed())
        assert dict.fromkeys([ours(alice), ours(bob), ours(dave)], "unknown_role") == staff.conflicts()
        assert [({"of-others"}, set()), ({"teller"}, {"/tellers"})] == [
            (staff.bank.roles_of(name), staff.bank.groups_of(name)) for name in ("alice", "bob")
        ]
    assert ("User New", ["alice", "bob", "carol"]) == (staff.bank.person("alice")["lastName"], list(staff.bank.people()))

    for number in (alice, bob, dave):
        staff.fineract.change(number, roles=[3])
    staff.ok()
    staff.settings |= {"roles": {"Teller": "staff"}, "groups": {}}
    assert "0 4 0 0" == staff.ok()
    assert [({"staff", "of-others"}, set()), ({"staff"}, set())] == [
        (staff.bank.roles_of(name), staff.bank.groups_of(name)) for name in ("alice", "bob")
    ]
    assert "0 0 4 0" == staff.ok()


@pytest.mark.parametrize("lost", ["state", "step"])
def test_a_leaver_that_the_state_does_not_know(staff: Staff, lost: str) -> None:
    """
    A fresh state, or a step under another name: whose account carries our attribute and who is gone at the source is on a
    list for approval, and extra to verify; others' accounts are not, and new leavers wait for nobody.
    """
    alice, bob, gina, *_ = staff.people("alice", "bob", "gina", "dave", "erin", "frank")
    staff.bank.add("robot", attributes={"usersync_id": ["elsewhere:7"]})
    staff.ok()
    staff.fineract.delete(alice)
    staff.fineract.stale = {gina}
    if lost == "state":
        staff.ask("DROP SCHEMA usersync CASCADE")
    else:
        staff.step = "renamed"

    error = staff.failed()
    assert (6, True) == (status_of(error), "1 account carries a usersync_id" in error.message)
    assert [(ours(alice),)] == staff.ask("SELECT key FROM usersync.approval_keys")
    staff.fineract.delete(bob)
    assert 2 == verified(staff).extra
    assert isinstance(staff.failed(), GuardRefused)
    assert [True, False] == [staff.bank.person(name)["enabled"] for name in ("alice", "bob")]
    assert 1 == verified(staff).extra

    ((run_id,),) = staff.ask("SELECT run_id FROM usersync.approvals WHERE status = 'waiting'")
    staff.ok(approve_deletes=run_id)
    assert [False, True, True] == [staff.bank.person(name)["enabled"] for name in ("alice", "robot", "gina")]
    (again,) = staff.people("alice")  # and it was us
    staff.ok()
    assert ([ours(again)], True) == (staff.bank.person("alice")["attributes"]["usersync_id"], staff.bank.person("alice")["enabled"])


def verified(staff: Staff) -> VerifyReport:
    (report,) = verify(staff.job, staff.run_context(), VerifyOptions())
    assert report.error is None, report.error
    return report


def test_the_guard_hides_nobody_from_verify(staff: Staff) -> None:
    """
    Who is kept enabled by the guard is extra all the same; whom the source still knows is not.
    """
    numbers = staff.people(*(f"user{number}" for number in range(6)))
    staff.ok()
    for number in numbers[:4]:
        staff.fineract.delete(number)
    staff.fineract.stale = {numbers[4]}
    assert isinstance(staff.failed(), GuardRefused)

    report = verified(staff)
    assert (4, 0, 8) == (report.extra, report.missing + report.different, report.exit_status)
    assert {ours(number) for number in numbers[:4]} == {one.key for one in report.found}


def test_dropping_one_reason_hides_no_other(staff: Staff) -> None:
    """
    Each reason of a person is a reject of its own: one that somebody accepted says nothing of another, or of more of the same.
    """
    staff.people("alice")
    staff.ok()
    id_ = staff.bank.person("alice")["id"]

    def give(role: str) -> None:
        staff.bank.ask("POST", f"/users/{id_}/role-mappings/realm", [staff.bank.ask("GET", f"/roles/{role}")])

    def waiting() -> list[str]:
        staff.run()
        return [reason for (reason,) in staff.ask("SELECT reason FROM usersync.rejects WHERE status = 'waiting' ORDER BY 1")]

    give("admin")
    staff.bank.change("alice", enabled=False)
    assert ["extra_role", "locked_by_hand"] == waiting()
    assert "1 record set aside" in staff.failed().message
    staff.ask("UPDATE usersync.rejects SET status = 'dropped' WHERE reason = 'extra_role'")
    assert ["locked_by_hand"] == waiting()
    give("accountant")
    assert ["extra_role", "locked_by_hand"] == waiting()
    staff.ask("UPDATE usersync.rejects SET status = 'dropped'")
    assert ([], "0 0 0 0 rejected 1") == (waiting(), staff.ok())


# adoption


def test_an_account_that_is_there_is_adopted_by_rule_alone(staff: Staff) -> None:
    """
    Without a rule an account of the same name is a conflict that says which rule would take it over; with it the account
    is ours, and keeps its id, its password and what others gave.
    """
    staff.bank.add("alice", email="alice@test.example", emailVerified=True, password="a-good-one")
    staff.bank.add("bob", email="other@test.example", emailVerified=True)
    before = staff.bank.people()
    alice, bob = staff.people("alice", "bob")

    assert 3 == status_of(staff.failed())
    assert {ours(alice): "username_taken", ours(bob): "username_taken"} == staff.conflicts()
    assert before == staff.bank.people()

    staff.settings["adopt"] = "by_email_verified"
    told, changes = staff.preview()
    assert "0 1 0 0 rejected 1" == told
    assert [("update", "adopted by_email_verified")] == [(one.kind, one.reason) for one in changes if one.key == {"id": ours(alice)}]
    assert 3 == status_of(staff.failed())
    assert {ours(bob): "username_taken"} == staff.conflicts()
    assert (before["alice"]["id"], [ours(alice)]) == (
        staff.bank.person("alice")["id"],
        staff.bank.person("alice")["attributes"]["usersync_id"],
    )
    assert (200, {"teller"}) == (staff.bank.log_in("alice", "a-good-one").status_code, staff.bank.roles_of("alice"))

    staff.settings["adopt"] = "by_username"
    assert "0 1 1 0" == staff.ok()
    assert (before["bob"]["id"], "bob@test.example") == (staff.bank.person("bob")["id"], staff.bank.person("bob")["email"])
    assert "0 0 2 0" == staff.ok()


def test_a_name_that_is_used_again_is_another_person(staff: Staff) -> None:
    """
    Fineract gives a deleted user's name to a new id, with another address: the account of the old one is disabled, and not
    handed on by any rule. The conflict says whose it is and what a person can type, and nothing of them.
    """
    old, *_ = staff.people("alice", "bob", "carol")
    staff.ok()
    staff.fineract.delete(old)
    (new,) = staff.fineract.add(username="alice", email="another@test.example")
    staff.settings["adopt"] = "by_username"

    for state_ in ("still enabled", "disabled by usersync"):
        assert 3 == status_of(staff.failed())
        alice = staff.bank.person("alice")
        assert ({ours(new): "username_taken"}, [ours(old)], False) == (
            staff.conflicts(), alice["attributes"]["usersync_id"], alice["enabled"],
        )  # fmt: skip
        ((detail,),) = staff.ask("SELECT detail FROM usersync.rejects")
        assert (True, True) == (state_ in detail, f"usersync keycloak set-id {alice['id']} KEY" in detail)
        staff.look_for_leaks(detail)

    staff.bank.change("alice", attributes={"usersync_id": [ours(new)]})  # somebody says that they are the same
    assert "0 1 2 0" == staff.ok()
    assert (True, {"teller"}) == (staff.bank.person("alice")["enabled"], staff.bank.roles_of("alice"))
    assert "0 0 3 0" == staff.ok()


def test_who_comes_back_under_another_id(staff: Staff) -> None:
    """
    In Fineract always: by user name and address (where there is none, by name) it is the same person, and it was us who
    disabled the account. Password and what others gave stay; what we gave is still known as such.
    """
    users = [{"username": name, "email": email, "lastname": "User A"} for name, email in (("alice", "alice@test.example"), ("anna", ""))]
    gone = [staff.fineract.add(**user, roles=[3, 4])[0] for user in users]
    staff.people("bob", "carol")
    staff.ok()
    before = [staff.bank.person(str(user["username"]))["id"] for user in users]
    for number in gone:
        staff.fineract.delete(number)
    assert "0 0 2 2" == staff.ok()

    new = [staff.fineract.add(**user)[0] for user in users]
    told, changes = staff.preview()
    assert ("0 2 2 0", ["came back"] * 2) == (told, [one.reason for one in changes])
    assert "0 2 2 0" == staff.ok()
    for user, id_, number in zip(users, before, new, strict=True):
        found = staff.bank.person(str(user["username"]))
        assert (id_, True, [ours(number)]) == (found["id"], found["enabled"], found["attributes"]["usersync_id"])
        assert {"teller"} == staff.bank.roles_of(found["username"])
    assert ("0 0 4 0", {}) == (staff.ok(), staff.conflicts())

    staff.bank.change("alice", enabled=False)  # by hand: that is another matter now
    assert (3, {ours(new[0]): "locked_by_hand"}) == (status_of(staff.failed()), staff.conflicts())


def test_who_was_locked_by_hand_does_not_come_back(staff: Staff) -> None:
    """
    Locked by hand before they left: the account under the same name stays locked, whoever comes.
    """
    old, *_ = staff.people("alice", "bob", "carol")
    staff.ok()
    staff.bank.change("alice", enabled=False)
    staff.fineract.delete(old)
    staff.run()
    (new,) = staff.people("alice")

    assert (3, {ours(new): "username_taken"}) == (status_of(staff.failed()), staff.conflicts())
    assert not staff.bank.person("alice")["enabled"]
    assert "not disabled by usersync" in str(staff.ask("SELECT detail FROM usersync.rejects"))


def test_what_keycloak_can_not_hold(staff: Staff) -> None:
    """
    Names that differ by case, hold spaces or apostrophes or are too short, and an address of two people: conflicts with a name;
    the others go through, accents too, and the preview says the same.
    """
    odd = {**dict.fromkeys(("Alice", "alice"), "same_username"), **dict.fromkeys(("gina g", "o'neil", "bo", "тест"), "invalid_username")}
    numbers = {name: staff.fineract.add(username=name)[0] for name in odd}
    shared = [staff.fineract.add(username=name, email="one@test.example")[0] for name in ("dave", "frank")]
    staff.people("henry", "Érin")
    expected = {**{ours(numbers[name]): reason for name, reason in odd.items()}, **{ours(number): "same_email" for number in shared}}

    told, changes = staff.preview()
    assert ("2 0 0 0 rejected 8", set(expected)) == (told, {one.key["id"] for one in changes if one.kind == "reject"})
    assert isinstance(staff.failed(), PartialError)
    assert (expected, {"henry", "érin"}) == (staff.conflicts(), set(staff.bank.people()))
    assert "0 0 2 0 rejected 8" == counts(staff.run())


# Signs of user names: what a preview says is refused, and what it says is taken.
REFUSED = [
    *(sign for sign in map(chr, range(0x21, 0x80)) if not re.match(r"[\w.@+-]", sign)),
    *"\u0085\u00a0\u00a7\u2003\u3000\u0301",
    *"\u03b1\u0436\u0561\u05d0\u0634\u0915\u0e01\u10d0\u1100\u1208\u1f21\u304b\u30ab\u4e2d\ud55c",
]
TAKEN = [
    *"\u2019\u2018\u201c\u2032\u2013\u2010\u2026\u20ac\u2122\ufb01\u00df\u014b\u0253\u1e9e",
    *"_.@+-\u00a1\u00a2\u00a8\u00aa\u00ac\u00ae\u00b4\u00b5\u00b7\u00ba\u00bf\u00d7\u00f7",
]


def test_signs_of_user_names_are_the_servers_to_judge(staff: Staff) -> None:
    """
    What a preview says is refused, a real Keycloak refuses; the rest it takes, and is the same in the next run.
    """
    names = {sign: f"ab{sign}c{number:03}" for number, sign in enumerate([*REFUSED, *TAKEN])}
    numbers = {sign: staff.fineract.add(username=name, email="")[0] for sign, name in names.items()}

    told, changes = staff.preview()
    assert f"{len(TAKEN)} 0 0 0 rejected {len(REFUSED)}" == told
    assert {ours(numbers[sign]) for sign in REFUSED} == {one.key["id"] for one in changes if one.reason == "invalid_username (username)"}
    for sign in TAKEN[6:]:
        staff.fineract.delete(numbers[sign])
    assert f"6 0 0 0 rejected {len(REFUSED)}" == counts(staff.run())
    assert f"0 0 6 0 rejected {len(REFUSED)}" == counts(staff.run())
    replies = {sign: staff.bank.try_(names[sign]) for sign in [*REFUSED, *TAKEN[6:]]}
    assert dict.fromkeys(REFUSED, 400) | dict.fromkeys(TAKEN[6:], 201) == {sign: reply.status_code for sign, reply in replies.items()}
    assert {"username"} == {replies[sign].json().get("field") for sign in REFUSED}


def test_what_the_server_refuses_is_asked_once(staff: Staff) -> None:
    """
    What only Keycloak knows it can't hold is set aside with its code, and not asked again before the person changes.
    """
    (number,) = staff.fineract.add(username="alice", email="a..b@test.example")
    assert 3 == status_of(staff.failed())
    assert {ours(number): "refused_by_keycloak"} == staff.conflicts()
    before = len(staff.front.requests)

    assert 3 == status_of(staff.failed())
    assert [] == [one for one in staff.front.requests[before:] if not one.startswith("GET")]

    staff.fineract.change(number, email="alice@test.example")
    assert "1 0 0 0" == staff.ok()


def test_refusals_of_most_people_stop_the_step(staff: Staff) -> None:
    """
    When Keycloak refuses most of the people, the people are not to blame: the step stops with status 7.
    """
    for number in range(3):
        staff.fineract.add(username=f"person{number}", email=f"a..{number}@test.example")

    error = staff.failed()

    assert (7, True) == (status_of(error), error.message.startswith("at least 3 of 3 records of step accounts can't be loaded"))


# the realm


def test_a_role_that_the_realm_lacks_stops_before_anything(staff: Staff, new_bank: NewBank) -> None:
    """
    Somebody is to have a role or group that is not there: 7 with its name, nothing is written; or it is made.
    """
    staff.bank = new_bank(groups=["/head-office"], rights=("manage-users", "view-realm", "manage-realm"))
    staff.people("alice")

    error = staff.failed()
    assert (7, True) == (status_of(error), "role teller, group /tellers" in error.message)
    assert ({}, []) == (staff.bank.people(), staff.ask("SELECT 1 FROM usersync.intents"))

    staff.settings["create_missing"] = True
    assert "1 0 0 0" == staff.ok()
    assert ({"teller"}, {"/tellers"}) == (staff.bank.roles_of("alice"), staff.bank.groups_of("alice"))


def test_an_attribute_that_would_be_dropped_stops_before_anything(staff: Staff, new_bank: NewBank) -> None:
    """
    The user profile does not declare usersync_id, or lets people change it: 7, and what to add; or it is declared.
    """
    staff.bank = new_bank(**REALM, declared=(), rights=("manage-users", "view-realm", "manage-realm"))
    staff.people("alice")

    error = staff.failed()
    assert (7, True) == (status_of(error), '"name": "usersync_id"' in error.hint)
    assert {} == staff.bank.people()

    staff.settings["create_missing"] = True
    assert "1 0 0 0" == staff.ok()
    assert "usersync_id" in staff.bank.person("alice")["attributes"]

    profile = staff.bank.ask("GET", "/users/profile")
    own = next(one for one in profile["attributes"] if one["name"] == "usersync_id")
    own["permissions"]["edit"].append("user")
    staff.bank.ask("PUT", "/users/profile", profile)
    assert 7 == status_of(staff.failed())


def test_a_required_action_that_would_be_dropped(staff: Staff) -> None:
    """
    One that the realm does not know, or has switched off, is a mistake of the config.
    """
    staff.settings["required_actions"] = ["UPDATE_PASSWORD", "DO_A_HANDSTAND"]
    staff.people("alice")

    error = staff.failed()
    assert (2, True) == (status_of(error), "DO_A_HANDSTAND" in error.message)
    assert {} == staff.bank.people()


# mails


def test_a_mail_is_sent_once(staff: Staff, mailbox: Mailbox) -> None:
    """
    With `notify: email` the realm mails a link to a new person, at their creation alone.
    """
    staff.bank.configure(smtpServer=mailbox.smtp)
    staff.settings["notify"] = "email"
    staff.people("alice")
    (number,) = staff.fineract.add(username="bob", email="")

    assert 3 == status_of(staff.failed())
    assert ({ours(number): "no_email"}, ["alice"]) == (staff.conflicts(), list(staff.bank.people()))
    assert ["alice@test.example"] == [mail["To"] for mail in mailbox.mails]
    staff.failed()
    assert 1 == len(mailbox.mails)


def mails_to(mailbox: Mailbox) -> list[str]:
    return sorted(str(mail["To"]).partition("@")[0] for mail in mailbox.mails)


@pytest.mark.parametrize("smtp", [{}, {"host": "127.0.0.1", "port": "1", "from": "bank@test.example"}], ids=["none", "dead"])
def test_a_mail_that_was_not_sent_is_owed(staff: Staff, usersync: Command, mailbox: Mailbox, smtp: dict[str, str]) -> None:
    """
    No mail server, or one that is down: the accounts are made and counted, each run says who waits, and sends it once there is one.
    Whoever has logged in without it needs it no more.
    """
    staff.bank.configure(smtpServer=smtp)
    staff.settings |= {"notify": "email", "workers": 1}
    numbers = staff.people("alice", "bob", "carol", "dave", "erin")
    waits = dict.fromkeys(map(ours, numbers), "mail_failed")

    ran = staff.command(usersync, "run", "--job", "fineract")
    assert (3, True) == (ran.status, "fineract: 5 records: 5 new, 0 changed, 0 the same, 0 gone (" in ran.stdout)
    assert "5 mails to new people were not sent; the accounts are there" in ran.stderr
    assert 3 == sum("execute-actions-email" in one for one in staff.front.requests)  # the others would fail too
    assert waits == staff.conflicts()
    told = staff.command(usersync, "status", "--job", "fineract").stdout
    assert (True, True) == ("5 mails to new people were not sent" in told, "5 records of step accounts set aside" in told), told
    result = staff.run()
    assert ("0 0 0 0 rejected 5", 3, waits) == (counts(result), result.exit_status, staff.conflicts())
    assert "0 0 0 0 rejected 5" == staff.preview()[0]

    staff.bank.configure(smtpServer=mailbox.smtp)
    staff.bank.change("erin", requiredActions=[])
    staff.fineract.change(numbers[0], lastname="User Other")
    if smtp:
        assert 0 == staff.command(usersync, "rejects", "retry", "--all", "--job", "fineract").status
        assert staff.ask("SELECT inserted, updated, unchanged, rejected FROM usersync.run_steps ORDER BY run_id DESC LIMIT 1") == [
            (0, 1, 4, 0)
        ]
    else:
        assert "0 1 4 0" == staff.ok()
    assert ["alice", "bob", "carol", "dave"] == mails_to(mailbox)
    assert ("0 0 5 0", {}, 4) == (staff.ok(full=True), staff.conflicts(), len(mailbox.mails))


def test_a_mail_that_is_refused_for_one_person(staff: Staff, mailbox: Mailbox) -> None:
    """
    All others get theirs; that one stays owed until a person drops it, and another conflict of the same person is not lost.
    """
    refused = Trouble(Answer(500, {"errorMessage": "Failed to send execute actions email: 550 no such mailbox"}))
    staff.bank.configure(smtpServer=mailbox.smtp)
    staff.settings |= {"notify": "email", "workers": 1}
    numbers = staff.people("alice", "bob", "carol")
    staff.front.at("PUT .*/execute-actions-email", None, refused, None, refused, refused)

    assert "3 0 0 0" == counts(staff.run())
    assert (["alice", "carol"], {ours(numbers[1]): "mail_failed"}) == (mails_to(mailbox), staff.conflicts())
    bob = staff.bank.person("bob")["id"]
    staff.bank.ask("POST", f"/users/{bob}/role-mappings/realm", [staff.bank.ask("GET", "/roles/admin")])
    assert "0 0 2 0 rejected 1" == counts(staff.run())
    assert [("extra_role",), ("mail_failed",)] == staff.ask("SELECT reason FROM usersync.rejects ORDER BY 1")
    staff.bank.ask("DELETE", f"/users/{bob}/role-mappings/realm", [staff.bank.ask("GET", "/roles/admin")])
    staff.run()

    staff.ask("UPDATE usersync.rejects SET status = 'dropped'")
    staff.fineract.change(numbers[1], lastname="User Other")
    assert "0 1 2 0" == staff.ok()
    assert ("0 0 3 0", ["alice", "carol"], []) == (staff.ok(), mails_to(mailbox), staff.ask("SELECT 1 FROM usersync.rejects"))


@pytest.mark.parametrize("trouble", [LOST, CUT])
def test_a_mail_that_may_have_been_sent_is_not_sent_again(staff: Staff, mailbox: Mailbox, trouble: Trouble) -> None:
    """
    The answer was lost: one mail or none, never two; somebody hears of it until the person has logged in.
    """
    staff.bank.configure(smtpServer=mailbox.smtp)
    staff.settings["notify"] = "email"
    staff.people("alice")
    staff.front.at("PUT .*/execute-actions-email", trouble)

    assert "1 0 0 0" == counts(staff.run())
    for _ in range(2):
        assert 3 == status_of(staff.failed())
        assert [("mail_failed", "it may have been sent")] == staff.ask("SELECT reason, detail FROM usersync.rejects")
    assert (trouble is LOST) == len(mailbox.mails)
    staff.bank.change("alice", requiredActions=["webauthn-register"])
    staff.settings["required_actions"] = ["UPDATE_PASSWORD"]
    assert "0 0 1 0" == staff.ok()


# at night


@pytest.mark.parametrize("trouble", [LOST, CUT, BUSY], ids=["lost", "cut", "busy"])
@pytest.mark.parametrize("request_", ["POST .*/users", "POST .*/role-mappings/realm"])
def test_an_answer_that_is_lost(staff: Staff, trouble: Any, request_: str) -> None:
    """
    Whether the call arrived or not: this run or the next one finishes, with one account a person and all of its roles.
    """
    staff.people("alice", "bob")
    staff.front.at(request_, trouble)
    staff.run()
    staff.run()

    assert ["alice", "bob"] == list(staff.bank.people())
    assert "0 0 2 0" == staff.ok()
    assert [{"teller"}] * 2 == [staff.bank.roles_of(name) for name in ("alice", "bob")]


def test_keycloak_is_down(staff: Staff) -> None:
    """
    Before anything was read: 4, nothing is written, and nobody is disabled. In the middle: the rest is done by the next run.
    """
    staff.people("alice", "bob", "carol")
    staff.front.at("GET .*", *[BUSY] * 40)
    assert 4 == status_of(staff.failed())
    assert [] == staff.ask("SELECT 1 FROM usersync.intents")

    staff.front._plans.clear()
    staff.front.at("POST .*/users", None, *[BUSY] * 40)
    assert 4 == status_of(staff.failed())
    staff.front._plans.clear()
    staff.run()
    assert ("0 0 3 0", ["alice", "bob", "carol"]) == (staff.ok(), list(staff.bank.people()))


def test_a_right_that_is_missing_is_named(staff: Staff) -> None:
    """
    The service account lacks a role: 2, with its name, and nothing is written.
    """
    staff.people("alice")
    staff.bank.rights("view-users")

    error = staff.failed()
    assert (2, True) == (status_of(error), "view-realm" in f"{error.message} {error.hint}")


@pytest.mark.parametrize(
    ("rights", "settings", "lacks"),
    [
        (("view-users", "view-realm"), {}, "manage-users"),
        (("query-users", "view-realm"), {}, "view-users"),
        (("manage-users", "view-realm"), {"create_missing": True, "default_role": "not-there"}, "manage-realm"),
        (("manage-users", "view-realm", "query-users"), {}, ""),
        (("realm-admin",), {"create_missing": True, "default_role": "not-there"}, ""),
        (("manage-users", "view-realm"), {"create_missing": True}, ""),
    ],
)
def test_check_finds_the_right_that_a_run_needs(staff: Staff, rights: tuple[str, ...], settings: dict[str, Any], lacks: str) -> None:
    """
    What the run would only find when it writes, check says before; it asks for no more than is needed.
    """
    staff.bank.add("robot")
    staff.bank.rights(*rights)
    staff.settings |= settings

    found = [one.error for one in check(staff.job, staff.run_context()) if one.error]
    assert bool(lacks) == bool(found)
    assert all(lacks in f"{error.message} {error.hint}" and status_of(error) == 2 for error in found)


def test_a_token_that_ends_in_the_middle(staff: Staff) -> None:
    """
    Tokens of a few seconds: another one is asked for, and nobody is left out.
    """
    staff.bank.change_client(attributes={"access.token.lifespan": "1"})
    staff.people(*(f"user{number:03}" for number in range(25)))
    staff.front.at("POST .*/users", *[lambda: time.sleep(0.15)] * 25)

    assert "25 0 0 0" == staff.ok()
    assert 2 <= staff.front.tokens


def test_somebody_else_is_faster(staff: Staff) -> None:
    """
    An account of the same name comes between plan and call: a conflict, and it stays somebody else's.
    """
    (number,) = staff.people("alice")
    staff.front.at("POST .*/users", lambda: staff.bank.add("alice"))

    assert 3 == status_of(staff.failed())
    assert ({ours(number): "username_taken"}, None) == (staff.conflicts(), staff.bank.person("alice").get("attributes"))


def test_the_database_is_lost_between_calls(staff: Staff) -> None:
    """
    The outcome of a call can't be written down: 4, and the next run finds it out from Keycloak.
    """
    staff.people("alice", "bob", "carol")
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    staff.front.at("POST .*/users", None, lambda: staff.ask(cut))

    assert 4 == status_of(staff.failed())
    staff.run()
    assert ("0 0 3 0", ["alice", "bob", "carol"]) == (staff.ok(), list(staff.bank.people()))
    assert [{"teller"}] * 3 == [staff.bank.roles_of(name) for name in ("alice", "bob", "carol")]


CALLS = [
    "POST .*/users",
    "POST .*/role-mappings/realm",
    "PUT .*/execute-actions-email",
    "PUT .*/users/[^/]+",
    "POST .*/logout",
    "DELETE .*/role-mappings/realm",
    "PUT .*/groups/.*",
    "DELETE .*/groups/.*",
]


@pytest.mark.parametrize("call", CALLS)
def test_killed_before_any_call(staff: Staff, usersync: Command, mailbox: Mailbox, call: str) -> None:
    """
    kill -9 when a call is about to be heard: the next run finishes, without a second account or mail, and the one after it does nothing.
    """
    staff.bank.configure(smtpServer=mailbox.smtp)
    staff.settings |= {"notify": "email", "workers": 1}
    alice, bob, carol, *_ = staff.people("alice", "bob", "carol", "dave", "erin")
    staff.run()
    mailbox.mails.clear()
    staff.fineract.delete(alice)
    staff.fineract.change(bob, roles=[1])
    staff.fineract.change(carol, lastname="User Other")
    staff.people("frank")

    staff.killed(usersync, call)
    staff.run()

    if call == "PUT .*/execute-actions-email":  # somebody has to look whether it was sent
        assert ("0 0 4 0 rejected 1", ["mail_failed"]) == (counts(staff.run()), list(staff.conflicts().values()))
    else:
        assert "0 0 5 0" == staff.ok()
    people = staff.bank.people()
    assert ["alice", "bob", "carol", "dave", "erin", "frank"] == list(people)
    assert ["alice"] == [name for name, user in people.items() if not user["enabled"]]
    assert ({"admin"}, {"/head-office"}) == (staff.bank.roles_of("bob"), staff.bank.groups_of("bob"))
    assert ("User Other", {"teller"}) == (people["carol"]["lastName"], staff.bank.roles_of("frank"))
    assert len(mailbox.mails) <= 1
    assert "frank" not in [mail["To"] for mail in mailbox.mails[1:]]


def test_killed_behind_a_line_of_the_file(staff: Staff, usersync: Command) -> None:
    """
    The person gets another password from the next run: of two lines the last one works.
    """
    staff.people("alice")
    staff.killed(usersync, "POST .*/role-mappings/realm", "--credentials-out", "passwords.csv")
    staff.run(credentials_out=usersync.folder / "passwords.csv")

    (_, first, last) = list(csv.reader((usersync.folder / "passwords.csv").read_text().splitlines()))
    said = [staff.bank.log_in("alice", password).json()["error_description"] for _, password in (first, last)]
    assert ["Invalid user credentials", "Account is not fully set up"] == said


def test_what_is_unfinished_can_be_seen(staff: Staff, usersync: Command) -> None:
    """
    After a run that was killed between two calls: what is left, without anybody's name or id, unless it is asked for.
    """
    staff.settings |= {"workers": 1}
    (alice, _) = staff.people("alice", "bob")
    staff.killed(usersync, "POST .*/role-mappings/realm")

    def shown(*options: str) -> str:
        config = ["--config", str(usersync.folder / "config.yaml")]
        return CliRunner().invoke(cli, ["intents", "--job", "fineract", *options, *config], catch_exceptions=False).stdout

    text = shown()
    assert [True, True] == ["create, open" in line for line in text.splitlines()]
    assert (True, False) == (staff.bank.person("alice")["id"] in text, "alice" in text or ours(alice) in text)
    first, second = json.loads(shown("--output", "json"))["intents"]
    assert (["create"], [], None) == (first["done"], second["done"], second["account"])
    assert "key" not in first
    assert ours(alice) in shown("--people")
    staff.run()
    assert "nothing is unfinished\n" == shown()
    assert {"done", "left"} == {one["state"] for one in json.loads(shown("--all", "--output", "json"))["intents"]}


# what is told


def test_the_preview_is_what_a_run_does(staff: Staff) -> None:
    """
    The numbers and people of a dry run are those of the run after it; it writes nothing, in Keycloak or here.
    """
    alice, bob, *_ = staff.people("alice", "bob", "carol", "dave")
    staff.ok()
    staff.fineract.delete(alice)
    staff.fineract.change(bob, lastname="User Other", roles=[1])
    (erin,) = staff.people("erin")
    before = staff.bank.people(), staff.ask("SELECT count(*) FROM usersync.intents")

    told, changes = staff.preview()

    assert before == (staff.bank.people(), staff.ask("SELECT count(*) FROM usersync.intents"))
    assert {ours(alice): "disable", ours(bob): "update", ours(erin): "insert"} == {one.key["id"]: one.kind for one in changes}
    changed = next(one for one in changes if one.kind == "update")
    assert {"last_name": "User bob", "roles": "teller", "groups": "/tellers"} == changed.before
    assert {"last_name": "User Other", "roles": "admin", "groups": "/head-office"} == changed.after
    assert told == staff.ok()


def test_people_of_a_database(staff: Staff, new_database: Callable[..., Database]) -> None:
    """
    Any source will do: a query of PostgreSQL, with a transform that gives the columns; who is gone from it is disabled.
    """
    source = new_database("source crm")
    execute(source.url, "CREATE TABLE people (id int, name text); INSERT INTO people SELECT n, 'user' || n FROM generate_series(1, 5) AS n")
    extract = {"staff": {"source": "crm", "query": "SELECT id, name FROM people"}}
    transform = "SELECT id, name AS username, name || '@test.example' AS email, '{Teller}'::text[] AS roles FROM staff"
    step = {"name": "accounts", "extract": extract, "transform": transform, "load": {"target": "keycloak"}}
    context = replace(staff.run_context(), sources={"crm": postgres.Source("crm", postgres.Settings(type="postgres", url=source.url))})

    def sync() -> str:
        return counts(run(Job.model_validate({"name": "people", "steps": [step]}), context, Options()))

    assert "5 0 0 0" == sync()
    execute(source.url, "DELETE FROM people WHERE id = 3")
    assert ("0 0 4 1", False) == (sync(), staff.bank.person("user3")["enabled"])
    assert ("0 0 4 0", {"teller"}) == (sync(), staff.bank.roles_of("user1"))


def test_the_commands(staff: Staff, usersync: Command, tmp_path: Path) -> None:
    """
    check, run, verify, status and rejects, as somebody types them; no output shows a person, but the preview that was asked for.
    """
    staff.people("alice", "bob")
    staff.fineract.add(username="x y")
    file = tmp_path / "passwords.csv"

    checked = staff.command(usersync, "check", "--job", "fineract")
    assert (0, True) == (checked.status, "attribute usersync_id" in checked.stdout)
    previewed = staff.command(usersync, "run", "--job", "fineract", "--dry-run", "--diff")
    assert (3, True) == (previewed.status, "alice@test.example" in previewed.stdout)
    ran = staff.command(usersync, "run", "--job", "fineract", "--credentials-out", str(file))
    staff.look_for_leaks(ran.stdout)
    assert (3, 3) == (ran.status, len(file.read_text().splitlines()))
    for line in file.read_text().splitlines()[1:]:
        password = next(csv.reader([line]))[1]
        assert password not in ran.stdout + ran.stderr
        assert [] == staff.ask(f"SELECT 1 FROM usersync.intents WHERE position('{password}' IN intents::text) > 0")
    assert "2 new" in ran.stdout
    assert 0 == staff.command(usersync, "verify", "--job", "fineract").status
    staff.bank.change("alice", email="wrong@test.example")
    assert 8 == staff.command(usersync, "verify", "--job", "fineract").status
    assert "invalid_username" in staff.command(usersync, "rejects", "list", "--job", "fineract").stdout
    assert 3 == staff.command(usersync, "rejects", "retry", "--all", "--job", "fineract").status
    assert 0 == staff.command(usersync, "status", "--job", "fineract").status

    both = staff.command(usersync, "run", "--job", "both")
    assert (3, True, True) == (both.status, "both: mirror: 7 records: 7 new" in both.stdout, "both: accounts: 3 records" in both.stdout)
    assert [(3,)] == staff.ask("SELECT count(*) FROM fineract_users WHERE deleted_at IS NULL")


def test_stopped_in_the_middle(staff: Staff, usersync: Command) -> None:
    """
    SIGTERM while calls are made: those on their way are written down, nothing else begins, 143; the next run does the rest.
    """
    staff.people(*(f"user{number:03}" for number in range(40)))
    staff.config(usersync.folder)
    with usersync.start("run", "--job", "fineract", "-q") as process:
        staff.front.at("POST .*/users", *[None] * 5, lambda: process.send_signal(signal.SIGTERM))
        process.wait(30)
    assert 143 == process.returncode
    made = len(staff.bank.people())
    assert 5 <= made < 40
    assert [] == staff.ask("SELECT 1 FROM usersync.intents WHERE state = 'open' AND done <> '{}' AND account IS NULL")
    staff.run()
    assert "0 0 40 0" == staff.ok()
