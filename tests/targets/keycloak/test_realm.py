"""The client of a realm against a real Keycloak: what it defends against, trap by trap, and what goes wrong on the way."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest

from tests.http_server import Answer, HttpServer
from tests.keycloak_server import BUSY, CLIENT, CUT, LEAST_RIGHTS, LOST, Bank, Front, Keycloak, Mailbox, NewBank, Trouble
from tests.servers import free_port, until
from usersync_cli.clients.http.client import Unknown
from usersync_cli.errors import ConfigError, Drift, Stopped, Unavailable, UsersyncError, status_of
from usersync_cli.signals import Stop
from usersync_cli.targets.keycloak.realm import Denied, Gone, NameTaken, Realm, Rejected

NOBODY = "00000000-0000-4000-8000-000000000000"
HANGS = Trouble(Answer(fault="hang"))
ALL = ("manage-users", "view-realm", "manage-realm")

Connect = Callable[..., Realm]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def bank(keycloak: Keycloak) -> Iterator[Bank]:
    """One realm for all tests that change accounts of their own alone; the service account has the least rights."""
    with keycloak.bank(
        roles=["teller", "loan-officer", "Super User"], groups=["/tellers", "/head-office/it dept", "/head-office/it"]
    ) as bank:
        yield bank


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def connect(stop: Stop) -> Iterator[Connect]:
    """Clients of a realm, with little patience."""
    with ExitStack() as stack:

        def client(bank: Bank, url: str = "", **options: Any) -> Realm:
            given = {"client_id": bank.client_id, "client_secret": bank.client_secret, "deadline": timedelta(seconds=30), **options}
            return stack.enter_context(Realm(url or bank.url, given.pop("realm", bank.name), stop=stop, **given))

        yield client


@pytest.fixture
def realm(bank: Bank, connect: Connect) -> Realm:
    return connect(bank)


def fresh() -> str:
    """A user name that no other test has."""
    return f"test-user-{next(_numbers):03}"


def somebody(**fields: Any) -> dict[str, Any]:
    """A new account, as a job would make it."""
    name = fresh()
    return {"username": name, "enabled": True, "email": f"{name}@example.org", "firstName": "Test", "lastName": "User", **fields}


def named(realm: Realm, *names: str) -> list[Any]:
    return [role for role in realm.roles() if role["name"] in names]


# Everybody


def usernames(realm: Realm, size: int = 1000) -> list[str]:
    return [user["username"] for page in realm.users(size) for user in page]


def test_reading_takes_a_request_for_a_thousand(bank: Bank, front: Front, connect: Connect) -> None:
    """
    Accounts, members of roles and of groups come in pages of 1,000; none is asked for by itself.
    """
    bank.add(fresh(), roles=["teller"], groups=["/tellers"])
    realm = connect(bank, front.url)
    group = realm.group("/tellers")
    assert group

    front.asked.clear()
    assert [1, 1, 1] == [len(list(pages)) for pages in (realm.users(), realm.role_members("teller"), realm.group_members(group["id"]))]

    members = "first=0&max=1000&briefRepresentation=true"
    assert [
        "GET /users?first=0&max=1000&briefRepresentation=false",
        "GET /users/count",
        f"GET /roles/teller/users?{members}",
        f"GET /groups/{group['id']}/members?{members}",
    ] == front.requests


def test_accounts_come_whole(bank: Bank, realm: Realm) -> None:
    """
    Attributes and required actions are there: with the brief representation, which is another default, they are not.
    """
    name = fresh()
    bank.add(name, attributes={"usersync_id": ["7"]}, requiredActions=["VERIFY_EMAIL"])

    (found,) = [user for page in realm.users() for user in page if user["username"] == name]

    assert ({"usersync_id": ["7"]}, ["VERIFY_EMAIL"]) == (found["attributes"], found["requiredActions"])
    assert bank.person(name) == {**found, "access": bank.person(name)["access"]}


def test_pages_have_everybody_once(bank: Bank, realm: Realm) -> None:
    """
    Pages overlap, yet each account comes once, in the order of user names; accounts of services don't.
    """
    for _ in range(4):
        bank.add(fresh())

    everybody = sorted(bank.people())
    for size in (2, 3, len(everybody), len(everybody) + 1):
        assert everybody == usernames(realm, size)
    assert len(everybody) == realm.count()


def test_paging_under_change_hides_nobody(new_bank: NewBank, front: Front, connect: Connect) -> None:
    """
    Who is there from the beginning to the end is found, when others on pages that were read go and new ones come.
    """
    bank = new_bank()
    bank.add_many([f"test-{letter}" for letter in "bcdefghij"])

    def one_goes() -> None:
        bank.delete("test-b")

    def one_goes_another_comes() -> None:
        bank.delete("test-c")
        bank.add("test-z")

    def one_comes() -> None:
        bank.add("test-a")

    front.at("GET .*/users", None, one_goes, one_goes_another_comes, one_comes)
    found = usernames(connect(bank, front.url), 4)

    assert {f"test-{letter}" for letter in "defghijz"} <= set(found)
    assert len(set(found)) == len(found)


def test_a_list_that_never_holds_still(new_bank: NewBank, front: Front, connect: Connect) -> None:
    """
    When more accounts are there than were found, walk after walk, the list is not passed off as whole.
    """
    bank = new_bank()
    bank.add_many(["test-z"])
    front.at("GET .*/users/count", *(lambda name=name: bank.add(name) for name in ("test-c", "test-b", "test-a")))

    with pytest.raises(Unavailable, match="the realm changed while it was read, 3 times in a row"):
        usernames(connect(bank, front.url))


def test_accounts_that_may_not_be_seen_are_an_error(new_bank: NewBank, connect: Connect) -> None:
    """
    With query-users alone Keycloak answers 200 with an empty list, and counts everybody all the same: that is no empty realm.
    """
    bank = new_bank(rights=["query-users"])
    bank.add_many(["test-one", "test-two"])

    with pytest.raises(Denied, match="shows 0 of 2 accounts to the service account of usersync") as caught:
        usernames(connect(bank))

    assert ("view-users", 2) == (caught.value.right, status_of(caught.value))


def test_an_empty_realm(new_bank: NewBank, connect: Connect) -> None:
    """
    Nobody is there: no page, and no error.
    """
    assert [] == list(connect(new_bank()).users())


# Roles and groups


def test_members_are_those_who_were_given_it(bank: Bank, realm: Realm) -> None:
    """
    Members of a role hold it directly, members of a group are in this very group; page by page.
    """
    members = {bank.add(fresh(), roles=["Super User"], groups=["/head-office/it"]) for _ in range(3)}
    bank.add(fresh(), groups=["/head-office/it dept"])
    group = realm.group("/head-office/it")
    above = realm.group("/head-office")
    assert group
    assert above

    assert members == {id_ for page in realm.role_members("Super User", 2) for id_ in page}
    assert members == {id_ for page in realm.group_members(group["id"], 2) for id_ in page}
    assert [] == list(realm.group_members(above["id"]))


def test_a_group_is_found_by_its_whole_path(realm: Realm) -> None:
    """
    Not by a part of a name, as Keycloak's own search does; with or without the first slash, spaces and all.
    """
    found = [realm.group(path) for path in ("/head-office/it", "head-office/it", "/head-office/it dept")]

    assert ["/head-office/it", "/head-office/it", "/head-office/it dept"] == [group["path"] for group in found if group]
    assert [None, None, None] == [realm.group(path) for path in ("/head-office/i", "/it", "/nothing")]


def test_what_is_not_there_has_no_members(realm: Realm) -> None:
    """
    A role or group that does not exist is an error, not one without members.
    """
    with pytest.raises(Rejected) as no_role:
        list(realm.role_members("nothing"))
    with pytest.raises(Rejected) as no_group:
        list(realm.group_members(NOBODY))

    assert ("no_role", "no_group") == (no_role.value.code, no_group.value.code)


def test_the_roles_of_an_account_are_its_own(bank: Bank, realm: Realm) -> None:
    """
    What an account was given, and its groups with their paths.
    """
    id_ = bank.add(fresh(), roles=["teller"], groups=["/tellers", "/head-office/it"])

    assert {"teller", f"default-roles-{bank.name}"} == {role["name"] for role in realm.user_roles(id_)}
    assert {"/tellers", "/head-office/it"} == {group["path"] for group in realm.user_groups(id_)}


# One account


def test_somebody_is_found_exactly(bank: Bank, realm: Realm) -> None:
    """
    By the whole name or address in any case, not by a part of it; by an attribute to the letter.
    """
    name = fresh()
    id_ = bank.add(name, attributes={"usersync_id": ["default:7"]})
    bank.add(f"{name}-too", attributes={"usersync_id": ["default:77"]})

    looked = [{"username": name.upper()}, {"email": f"{name}@EXAMPLE.org"}, {"attribute": ("usersync_id", "default:7")}]
    assert [[id_]] * 3 == [[user["id"] for user in realm.find(**one)] for one in looked]

    looked = [{"username": name[:-1]}, {"email": "example.org"}, {"email": "*"}, {"attribute": ("usersync_id", "Default:7")}]
    assert [[]] * 4 == [realm.find(**one) for one in looked]


def test_looking_for_nothing_finds_nobody(realm: Realm) -> None:
    """
    To Keycloak an empty name is no condition: it would list everybody.
    """
    with pytest.raises(ConfigError, match="there is no name to look for"):
        realm.find(username="")


def test_nobody_of_this_id(bank: Bank, realm: Realm) -> None:
    """
    Reading says None; whatever is to be done to the account says that it is gone, without its name.
    """
    roles = named(realm, "teller")
    id_ = bank.add(name := fresh())
    bank.delete(name)
    calls: list[Callable[[], Any]] = [
        lambda: realm.update(id_, {"enabled": False}),
        lambda: realm.replace(id_, lambda user: user),
        lambda: realm.add_roles(id_, roles),
        lambda: realm.remove_roles(id_, roles),
        lambda: realm.join(id_, NOBODY),
        lambda: realm.leave(id_, NOBODY),
        lambda: realm.logout(id_),
        lambda: realm.reset_password(id_, "Not-a-secret-1"),
        lambda: realm.send_actions(id_, ["UPDATE_PASSWORD"]),
        lambda: realm.user_roles(id_),
        lambda: realm.user_groups(id_),
    ]

    assert realm.get(id_) is None
    for call in calls:
        with pytest.raises(Gone, match=r"^target keycloak has no such account$"):
            call()


def test_a_new_account_takes_one_request(bank: Bank, front: Front, connect: Connect) -> None:
    """
    Its group and a temporary password come with it, and it asks for another password at the first login; its id comes back.
    """
    user = somebody(
        groups=["/head-office/it"],
        attributes={"usersync_id": ["default:8"]},
        requiredActions=["VERIFY_EMAIL"],
        credentials=[{"type": "password", "value": "Not-a-secret-1", "temporary": True}],
    )
    realm = connect(bank, front.url)

    id_ = realm.create(user)

    found = bank.person(user["username"])
    assert ["POST /users"] == front.requests
    assert (id_, True, {"usersync_id": ["default:8"]}) == (found["id"], found["enabled"], found["attributes"])
    assert {"VERIFY_EMAIL", "UPDATE_PASSWORD"} == set(found["requiredActions"])
    assert {"/head-office/it"} == bank.groups_of(user["username"])
    assert "Account is not fully set up" in bank.log_in(user["username"], "Not-a-secret-1").text


def test_roles_of_a_new_account_are_ignored_by_keycloak(bank: Bank, realm: Realm) -> None:
    """
    It answers 201 and gives none: so who tries is stopped here.
    """
    user = somebody(realmRoles=["teller"])
    bank.ask("POST", "/users", user)
    assert set() == bank.roles_of(user["username"])

    with pytest.raises(AssertionError, match="add_roles"):
        realm.create(somebody(realmRoles=["teller"]))


def test_a_group_that_does_not_exist(bank: Bank, realm: Realm) -> None:
    """
    Keycloak answers 500 and makes no account: that is the account's fault, not the server's, and is not tried again.
    """
    user = somebody(groups=["/nothing"])

    with pytest.raises(Rejected) as caught:
        realm.create(user)

    assert ("unknown_error", 500, 3) == (caught.value.code, caught.value.http_status, status_of(caught.value))
    assert user["username"] not in bank.people()


@pytest.mark.parametrize(
    ("field", "value", "code"), [("username", "{}", "same_username"), ("email", "{}@example.org", "same_email")], ids=["username", "email"]
)
def test_a_name_or_address_that_another_has(bank: Bank, realm: Realm, field: str, value: str, code: str) -> None:
    """
    In any case of letters: a conflict that says which, and of whom nothing.
    """
    name = fresh()
    bank.add(name)

    with pytest.raises(NameTaken) as caught:
        realm.create(somebody(**{field: value.format(name.upper())}))

    assert (code, 409, 10) == (caught.value.code, caught.value.http_status, status_of(caught.value))
    assert name not in str(caught.value).lower()


def test_an_address_that_another_has_is_not_given(bank: Bank, realm: Realm) -> None:
    """
    A change can meet the same conflict as a new account.
    """
    name, other = fresh(), fresh()
    bank.add(name)
    id_ = bank.add(other)

    with pytest.raises(NameTaken) as caught:
        realm.update(id_, {"email": f"{name}@example.org"})

    assert "same_email" == caught.value.code


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        pytest.param({"email": "no address"}, "error-invalid-email", "email", id="address"),
        pytest.param({"username": "us"}, "error-invalid-length", "username", id="length"),
        pytest.param({"username": "test user"}, "error-username-invalid-character", "username", id="space"),
        pytest.param({"username": "test-us\u0435r"}, "error-username-invalid-character", "username", id="another alphabet"),
        pytest.param({"username": ""}, "no_username", "", id="no name"),
        pytest.param({"username": "u", "email": "no address"}, "error-invalid-email", "email", id="two at once"),
    ],
)
def test_what_keycloak_does_not_take(realm: Realm, fields: dict[str, str], code: str, field: str) -> None:
    """
    Its own code and the field are told, the value is not.
    """
    with pytest.raises(Rejected) as caught:
        realm.create(somebody(**fields))

    assert (code, field, 3) == (caught.value.code, caught.value.field, status_of(caught.value))
    assert [] == [value for value in fields.values() if len(value) > 2 and value in f"{caught.value} {caught.value.hint}"]


def test_an_accent_is_fine(bank: Bank, realm: Realm) -> None:
    """
    A name of Latin letters may have accents, and is stored in lower case.
    """
    id_ = realm.create(somebody(username=f"Tést-{fresh()}"))

    assert bank.ask("GET", f"/users/{id_}")["username"].startswith("tést-")


def test_a_change_changes_nothing_else(bank: Bank, realm: Realm) -> None:
    """
    Names, address, attributes, required actions, roles and groups stay when a field changes.
    """
    name = fresh()
    id_ = bank.add(name, attributes={"usersync_id": ["9"]}, requiredActions=["VERIFY_EMAIL"], roles=["teller"], groups=["/tellers"])
    before = bank.person(name)

    realm.update(id_, {"enabled": False, "lastName": "Another"})

    assert {**before, "enabled": False, "lastName": "Another"} == bank.person(name)
    assert ({"teller"}, {"/tellers"}) == (bank.roles_of(name), bank.groups_of(name))


def test_a_change_of_attributes_alone_would_clear_the_rest(bank: Bank, realm: Realm) -> None:
    """
    Keycloak empties names and address that are not in a body with attributes: so who tries is stopped here.
    """
    name = fresh()
    id_ = bank.add(name)
    bank.ask("PUT", f"/users/{id_}", {"attributes": {"usersync_id": ["9"]}})
    assert {"email", "firstName", "lastName"}.isdisjoint(bank.person(name))

    with pytest.raises(AssertionError, match="replace"):
        realm.update(id_, {"attributes": {"usersync_id": ["9"]}})


def test_a_whole_account_is_changed_in_part(bank: Bank, front: Front, connect: Connect) -> None:
    """
    Attributes of ours are set, those of others, the address and all else stay; three requests.
    """
    name = fresh()
    id_ = bank.add(name, requiredActions=["VERIFY_EMAIL"])
    before = bank.person(name)
    realm = connect(bank, front.url)

    after = realm.replace(id_, lambda user: {**user, "attributes": {**user.get("attributes", {}), "usersync_id": ["9"]}})

    assert {**before, "attributes": {"usersync_id": ["9"]}} == bank.person(name)
    assert ["9"] == after["attributes"]["usersync_id"]
    assert [f"GET /users/{id_}", f"PUT /users/{id_}", f"GET /users/{id_}"] == front.requests


def test_what_keycloak_drops_is_seen(bank: Bank, realm: Realm) -> None:
    """
    A required action that the realm does not know and an attribute that it does not declare vanish with 204: replace shows it.
    """
    id_ = bank.add(fresh())

    after = realm.replace(id_, lambda user: {**user, "attributes": {"undeclared": ["x"]}, "requiredActions": ["VERIFY_EMAIL", "NOTHING"]})

    assert (["VERIFY_EMAIL"], None) == (after["requiredActions"], after.get("attributes"))
    assert {"VERIFY_EMAIL", "UPDATE_PASSWORD", "webauthn-register"} <= {one["alias"] for one in realm.required_actions() if one["enabled"]}
    assert {"usersync_id"} < {one["name"] for one in realm.profile()["attributes"]}


def test_roles_are_given_and_taken_by_name(bank: Bank, realm: Realm) -> None:
    """
    Only those that are named; to give or take one twice is fine, and the role that everybody has stays.
    """
    name = fresh()
    id_ = bank.add(name, roles=["Super User"])

    for _ in range(2):
        realm.add_roles(id_, named(realm, "teller", "loan-officer"))
    assert {"Super User", "teller", "loan-officer"} == bank.roles_of(name)

    for _ in range(2):
        realm.remove_roles(id_, named(realm, "teller"))
    assert {"Super User", "loan-officer"} == bank.roles_of(name)
    assert f"default-roles-{bank.name}" in {role["name"] for role in realm.user_roles(id_)}


def test_taking_no_roles_would_take_all(bank: Bank, realm: Realm) -> None:
    """
    A DELETE without a body takes every role away, that of everybody too: so who tries is stopped here.
    """
    name = fresh()
    id_ = bank.add(name, roles=["teller"])
    bank.ask("DELETE", f"/users/{id_}/role-mappings/realm")
    assert [] == realm.user_roles(id_)

    for call in (realm.remove_roles, realm.add_roles):
        with pytest.raises(AssertionError, match="takes away all"):
            call(id_, [])


def test_a_role_that_is_not_there_any_more(bank: Bank, realm: Realm) -> None:
    """
    Somebody deleted it after it was read: the account is left as it was.
    """
    id_ = bank.add(fresh())

    with pytest.raises(Rejected) as caught:
        realm.add_roles(id_, [{"id": NOBODY, "name": "teller"}])

    assert ("no_role", 404) == (caught.value.code, caught.value.http_status)


def test_groups_are_joined_and_left(bank: Bank, realm: Realm) -> None:
    """
    Twice is fine; other groups stay; one that is gone is Rejected.
    """
    name = fresh()
    id_ = bank.add(name, groups=["/head-office/it"])
    group = realm.group("/tellers")
    assert group

    for call, groups in ((realm.join, {"/head-office/it", "/tellers"}), (realm.leave, {"/head-office/it"})):
        for _ in range(2):
            call(id_, group["id"])
        assert groups == bank.groups_of(name)
        with pytest.raises(Rejected) as caught:
            call(id_, NOBODY)
        assert "no_group" == caught.value.code


def test_who_is_disabled_is_still_logged_in(bank: Bank, realm: Realm) -> None:
    """
    Sessions go on after an account is disabled, until logout ends them.
    """
    name = fresh()
    id_ = bank.add(name, password="Not-a-secret-1")
    assert 200 == bank.log_in(name, "Not-a-secret-1").status_code

    realm.update(id_, {"enabled": False})
    assert 1 == bank.sessions_of(name)

    realm.logout(id_)
    assert 0 == bank.sessions_of(name)


def test_a_password_for_once(new_bank: NewBank, connect: Connect) -> None:
    """
    A temporary password asks for another one; what the realm's policy forbids is Rejected, the value untold.
    """
    bank = new_bank(passwordPolicy="length(12) and passwordHistory(3)")
    id_ = bank.add("test-user")
    realm = connect(bank)

    realm.reset_password(id_, "Not-a-secret-1")
    assert ["UPDATE_PASSWORD"] == bank.person("test-user")["requiredActions"]

    for value, code in (("Not-a-secret-1", "invalidPasswordHistoryMessage"), ("short", "invalidPasswordMinLengthMessage")):
        with pytest.raises(Rejected) as caught:
            realm.reset_password(id_, value)
        assert code == caught.value.code
        assert value not in str(caught.value)


# Mail


def test_a_mail_with_a_link(new_bank: NewBank, mailbox: Mailbox, front: Front, connect: Connect) -> None:
    """
    The person gets one, for as long as was said; a lost answer sends no second one, and says that there may be one.
    """
    bank = new_bank(smtpServer=mailbox.smtp)
    id_ = bank.add("test-user")
    realm = connect(bank, front.url)

    realm.send_actions(id_, ["UPDATE_PASSWORD"], timedelta(hours=24))
    assert f"PUT /users/{id_}/execute-actions-email?lifespan=86400" == front.requests[-1]
    assert ["test-user@example.org"] == [mail["To"] for mail in mailbox.mails]

    front.at("PUT .*/execute-actions-email", LOST)
    with pytest.raises(Unknown):
        realm.send_actions(id_, ["UPDATE_PASSWORD"])
    assert 2 == len(mailbox.mails)


def test_a_mail_that_can_not_be_sent(new_bank: NewBank, connect: Connect) -> None:
    """
    Without an address, to a disabled account, of an action that the realm has not: Rejected. Without a mail server: Unavailable.
    """
    bank = new_bank(smtpServer={"host": "127.0.0.1", "port": str(free_port()), "from": "bank@example.org"})
    realm = connect(bank)
    nowhere, disabled, fine = bank.add("test-nowhere", email=""), bank.add("test-disabled", enabled=False), bank.add("test-fine")

    for id_, action, code in (
        (nowhere, "VERIFY_EMAIL", "no_email"),
        (disabled, "VERIFY_EMAIL", "disabled"),
        (fine, "NOTHING", "unknown_action"),
    ):
        with pytest.raises(Rejected) as caught:
            realm.send_actions(id_, [action])
        assert code == caught.value.code
    with pytest.raises(Unavailable, match="the realm's mail server did not take the mail"):
        realm.send_actions(fine, ["VERIFY_EMAIL"])


# What a realm needs


def test_a_realm_is_given_what_it_lacks(new_bank: NewBank, connect: Connect) -> None:
    """
    A role, groups below groups, an attribute that only admins see; each may be there already.
    """
    bank = new_bank(rights=ALL, declared=(), roles=["teller"], groups=["/head-office"])
    realm = connect(bank)
    id_ = realm.create(somebody(attributes={"usersync_id": ["1"]}))
    assert "attributes" not in (realm.get(id_) or {}), "Keycloak drops what is not declared"

    for _ in range(2):
        realm.create_role("teller")
        realm.create_role("Super User")
        assert "/head-office/it dept/support" == realm.create_group("/head-office/it dept/support")["path"]
        realm.declare("usersync_id")

    assert {"teller", "Super User"} < {role["name"] for role in realm.roles()}
    (declared,) = [one for one in realm.profile()["attributes"] if one["name"] == "usersync_id"]
    assert {"view": ["admin"], "edit": ["admin"]} == declared["permissions"]
    again = realm.create(somebody(attributes={"usersync_id": ["1"]}))
    assert [again] == [user["id"] for user in realm.find(attribute=("usersync_id", "1"))]


# Rights


@pytest.fixture(scope="module")
def guarded(keycloak: Keycloak) -> Iterator[Bank]:
    """A realm whose service account is given other rights by each test."""
    with keycloak.bank(roles=["teller"], groups=["/tellers"]) as bank:
        yield bank


@pytest.mark.parametrize(
    ("rights", "call", "missing"),
    [
        pytest.param([], "count", "view-users", id="nothing: count"),
        pytest.param([], "about", "view-realm", id="nothing: about"),
        pytest.param(["view-users"], "create", "manage-users", id="view-users: create"),
        pytest.param(["view-users", "view-realm"], "update", "manage-users", id="view-users: update"),
        pytest.param(["manage-users"], "about", "view-realm", id="manage-users: about"),
        pytest.param(["manage-users"], "roles", "view-realm", id="manage-users: roles"),
        pytest.param(["manage-users"], "role_members", "view-realm or view-users", id="manage-users: role_members"),
        pytest.param(["manage-users"], "required_actions", "view-realm", id="manage-users: required_actions"),
        pytest.param(["view-realm"], "group", "view-users", id="view-realm: group"),
        pytest.param(["view-realm"], "users", "view-users", id="view-realm: users"),
        pytest.param(["view-realm"], "role_members", "view-realm or view-users", id="view-realm: role_members"),
        pytest.param(LEAST_RIGHTS, "create_role", "manage-realm", id="least: create_role"),
        pytest.param(LEAST_RIGHTS, "declare", "manage-realm", id="least: declare"),
    ],
)
def test_a_missing_right_is_named(guarded: Bank, connect: Connect, rights: list[str], call: str, missing: str) -> None:
    """
    A 403 is told as the client role that is missing, and where to give it.
    """
    id_ = guarded.person(name)["id"] if (name := "test-user") in guarded.people() else guarded.add(name)
    guarded.rights(*rights)
    realm = connect(guarded)
    calls: dict[str, Callable[[], Any]] = {
        "create": lambda: realm.create(somebody()),
        "update": lambda: realm.update(id_, {"enabled": True}),
        "role_members": lambda: list(realm.role_members("teller")),
        "users": lambda: list(realm.users()),
        "group": lambda: realm.group("/tellers"),
        "create_role": lambda: realm.create_role("new"),
        "declare": lambda: realm.declare("new"),
    }

    with pytest.raises(
        Denied, match=f"the service account of the client usersync lacks the client role {missing} of realm-management"
    ) as caught:
        calls.get(call, getattr(realm, call))()

    assert (missing, 2) == (caught.value.right, status_of(caught.value))
    assert f"assign it in realm {guarded.name}: Clients > usersync > Service account roles" == caught.value.hint


def test_a_client_of_another_realm(keycloak: Keycloak, bank: Bank, connect: Connect) -> None:
    """
    With `login_realm` a client of master looks after a realm; its rights are roles of the client REALM-realm there.
    """
    master = Bank(keycloak, "master", keycloak.token(), client_id=f"usersync-{bank.name}")
    master.ask("POST", "/clients", {"clientId": master.client_id, "secret": "not-a-secret", "serviceAccountsEnabled": True})
    (own,) = master.ask("GET", "/clients", clientId=master.client_id)
    options = {"realm": bank.name, "login_realm": "master"}
    try:
        with pytest.raises(Denied, match=f"lacks the client role view-users of {bank.name}-realm"):
            connect(master, **options).count()

        (management,) = master.ask("GET", "/clients", clientId=f"{bank.name}-realm")
        account = master.ask("GET", f"/clients/{own['id']}/service-account-user")
        right = master.ask("GET", f"/clients/{management['id']}/roles/view-users")
        master.ask("POST", f"/users/{account['id']}/role-mappings/clients/{management['id']}", [right])
        assert bank.ask("GET", "/users/count") == connect(master, **options).count()

        with pytest.raises(ConfigError, match="there is no realm nothing"):
            connect(master, **{**options, "realm": "nothing"}).count()
    finally:
        master.ask("DELETE", f"/clients/{own['id']}")


# Logging in


def test_a_token_serves_many_requests(bank: Bank, front: Front, connect: Connect) -> None:
    """
    One is asked for, and used until 90 % of its life is over.
    """
    realm = connect(bank, front.url)
    for _ in range(5):
        realm.count()

    assert (5, 1) == (len(front.requests), front.tokens)


def test_a_token_that_grows_old(new_bank: NewBank, front: Front, connect: Connect) -> None:
    """
    Another one is asked for before it expires: Keycloak refuses none.
    """
    bank = new_bank(accessTokenLifespan=1)
    realm = connect(bank, front.url)
    realm.count()
    time.sleep(0.92)
    realm.count()

    assert (["GET /users/count"] * 2, 2) == (front.requests, front.tokens)


def test_a_token_that_expires_on_the_way(new_bank: NewBank, front: Front, connect: Connect) -> None:
    """
    A request that comes too late is refused and sent again with another token, a new account too: it is made once.
    """
    bank = new_bank(accessTokenLifespan=1)
    realm = connect(bank, front.url)
    realm.count()
    front.at("POST .*/users", lambda: time.sleep(2.1))

    id_ = realm.create(somebody())

    assert ["POST /users"] * 2 == front.requests[1:]
    assert [id_] == [user["id"] for user in bank.people().values()]


def test_threads_share_a_token(bank: Bank, front: Front, connect: Connect) -> None:
    """
    Calls may come from several threads; one of them asks for the token of all.
    """
    realm, counts = connect(bank, front.url), []
    threads = [threading.Thread(target=lambda: counts.append(realm.count())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ([realm.count()] * 8, 1) == (counts, front.tokens)


def test_a_token_that_is_refused_at_once(new_bank: NewBank, front: Front, connect: Connect) -> None:
    """
    A new token that Keycloak does not take is not asked for again and again.
    """
    bank = new_bank()
    realm = connect(bank, front.url)
    realm.count()
    bank.ask("PUT", "", {"notBefore": int(time.time()) + 3600})

    with pytest.raises(ConfigError, match="refuses a token that it gave a moment ago"):
        realm.count()
    assert 2 == front.tokens


def _without_service_account(bank: Bank) -> None:
    bank.change_client(serviceAccountsEnabled=False)


def _public(bank: Bank) -> None:
    bank.change_client(publicClient=True)


def _without_client(bank: Bank) -> None:
    bank.change_client(enabled=False)


def _disabled(bank: Bank) -> None:
    bank.ask("PUT", "", {"enabled": False})


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        pytest.param({"client_secret": "not-this-one"}, None, "the secret of the client usersync is wrong", id="secret"),
        pytest.param(
            {"client_id": "nobody"}, None, "the realm bank-[0-9a-f]+ does not know the client nobody, or it is disabled", id="client"
        ),
        pytest.param({"realm": "nothing"}, None, "there is no realm nothing", id="realm"),
        pytest.param({}, _without_service_account, "the client usersync has no service account", id="service account"),
        pytest.param({}, _public, "the client usersync is public", id="public"),
        pytest.param({}, _without_client, "does not know the client usersync, or it is disabled", id="disabled client"),
        pytest.param({}, _disabled, "the realm bank-[0-9a-f]+ is disabled", id="disabled realm"),
    ],
)
def test_who_can_not_log_in_hears_why(
    guarded: Bank, connect: Connect, options: dict[str, str], change: Callable[[Bank], None] | None, message: str
) -> None:
    """
    Each mistake of the config file or of the client has its own sentence, without the secret, and exit status 2.
    """
    if change:
        change(guarded)
    try:
        with pytest.raises(ConfigError, match=f"^target keycloak: .*{message}") as caught:
            connect(guarded, **options).count()
    finally:
        guarded.ask("PUT", "", {"enabled": True})
        guarded.change_client(enabled=True, serviceAccountsEnabled=True, publicClient=False)

    told = f"{caught.value} {caught.value.hint}"
    assert [] == [secret for secret in ("not-a-secret", "not-this-one") if secret in told]
    assert caught.value.hint


@pytest.mark.parametrize("body", [{"error": "not found"}, b"<html>Not found</html>"], ids=["json", "html"])
def test_something_else_at_the_address(bank: Bank, connect: Connect, body: Any) -> None:
    """
    What is no Keycloak, or one whose addresses begin with /auth, is told so.
    """
    with HttpServer().running() as server:
        server.on(f"/realms/{bank.name}/protocol/openid-connect/token", Answer(404, body))
        with pytest.raises(ConfigError, match="there is no Keycloak at its url") as caught:
            connect(bank, server.url).count()

    assert "/auth" in caught.value.hint


def test_an_old_keycloak(bank: Bank, connect: Connect) -> None:
    """
    A path that it does not know is not an account that is missing.
    """
    with HttpServer().running() as server:
        server.on(f"/realms/{bank.name}/protocol/openid-connect/token", Answer(body={"access_token": "x", "expires_in": 60}))
        server.on(f"/admin/realms/{bank.name}/users/profile", Answer(404, {"error": "Unable to find matching target resource method"}))
        with pytest.raises(Drift, match="answered 404 to GET /users/profile") as caught:
            connect(bank, server.url).profile()

    assert "usersync needs Keycloak 24 or newer" == caught.value.hint


# What networks do


def test_what_may_be_repeated_is(bank: Bank, front: Front, connect: Connect) -> None:
    """
    Reading, changes, roles, groups and logout go on after a request or an answer was lost.
    """
    name = fresh()
    id_ = bank.add(name)
    realm = connect(bank, front.url)
    roles, group = named(realm, "teller"), realm.group("/tellers")
    assert group
    front.asked.clear()
    front.at(f"PUT .*/users/{id_}", LOST)
    front.at(".*/role-mappings/realm", BUSY)
    front.at(f".*/groups/{group['id']}", CUT)
    front.at(".*/logout", LOST)
    front.at("GET .*/users", CUT)

    realm.update(id_, {"enabled": False})
    realm.add_roles(id_, roles)
    realm.join(id_, group["id"])
    realm.logout(id_)
    list(realm.users())

    assert (False, {"teller"}, {"/tellers"}) == (bank.person(name)["enabled"], bank.roles_of(name), bank.groups_of(name))
    assert 6 + 5 == len(front.requests)


@pytest.mark.parametrize(
    ("trouble", "made"),
    [(LOST, True), (CUT, False), (BUSY, False), (HANGS, False)],
    ids=["answer lost", "request lost", "503", "silence"],
)
def test_whether_an_account_was_made_nobody_knows(bank: Bank, front: Front, connect: Connect, trouble: Trouble, *, made: bool) -> None:
    """
    The request is sent once; Unknown says that it may have been done, and a look tells.
    """
    user = somebody(attributes={"usersync_id": [fresh()]})
    realm = connect(bank, front.url, deadline=timedelta(seconds=1 if trouble is HANGS else 30))
    front.at("POST .*/users", trouble)

    with pytest.raises(Unknown, match=r"POST /admin/realms/bank-[0-9a-f]+/users") as caught:
        realm.create(user)

    assert (1, 4) == (front.requests.count("POST /users"), status_of(caught.value))
    assert "it may have been done all the same: look first" == caught.value.hint
    assert user["username"] not in f"{caught.value}"
    assert made == bool(realm.find(attribute=("usersync_id", user["attributes"]["usersync_id"][0])))


def test_a_password_is_not_set_twice(bank: Bank, front: Front, connect: Connect) -> None:
    """
    A realm may remember passwords, and refuse one that it has just taken.
    """
    id_ = bank.add(fresh())
    realm = connect(bank, front.url)
    front.at("PUT .*/reset-password", LOST)

    with pytest.raises(Unknown):
        realm.reset_password(id_, "Not-a-secret-1")

    assert 1 == sum("reset-password" in request for request in front.requests)


def test_nobody_is_there(bank: Bank, connect: Connect) -> None:
    """
    A server that can't be reached did nothing: that is not Unknown, for a new account neither.
    """
    realm = connect(bank, f"http://127.0.0.1:{free_port()}", deadline=timedelta(seconds=0.5))

    for call in (realm.count, lambda: realm.create(somebody())):
        with pytest.raises(Unavailable, match=r"target keycloak can't be reached at 127\.0\.0\.1") as caught:
            call()
        assert not isinstance(caught.value, Unknown)


def test_a_server_that_goes_away(bank: Bank, connect: Connect) -> None:
    """
    Also with a token in hand a new account that was never sent is not Unknown.
    """
    with Front(bank.url).running() as front:
        realm = connect(bank, front.url, deadline=timedelta(seconds=1))
        realm.count()

    with pytest.raises(Unavailable, match="can't be reached") as caught:
        realm.create(somebody())
    assert not isinstance(caught.value, Unknown)


def test_silence_has_an_end(bank: Bank, front: Front, connect: Connect) -> None:
    """
    A server that takes a request and says nothing is waited for until the deadline.
    """
    front.at("GET .*/users/count", HANGS, HANGS, HANGS)
    with pytest.raises(Unavailable, match=r"GET /admin/realms/.*/users/count"):
        connect(bank, front.url, deadline=timedelta(seconds=1)).count()


def test_a_signal_ends_a_call(bank: Bank, front: Front, connect: Connect, stop: Stop) -> None:
    """
    SIGTERM is heard while Keycloak is silent.
    """
    front.at("GET .*/users/count", HANGS)
    realm = connect(bank, front.url)
    waiting = threading.Thread(target=lambda: (until(lambda: front.requests), stop._note(signal.SIGTERM, None)))
    waiting.start()

    with pytest.raises(Stopped):
        realm.count()
    waiting.join()


def test_an_answer_that_is_no_account(bank: Bank, front: Front, connect: Connect) -> None:
    """
    A proxy's page instead of a list is repeated, then told; it is never an empty list.
    """
    page = Trouble(Answer(200, b"<html>Please log in</html>", {"Content-Type": "text/html"}))
    front.at("GET .*/users", *[page] * 20)

    with pytest.raises(Unavailable, match="bytes of type text/html that are not JSON"):
        list(connect(bank, front.url, deadline=timedelta(seconds=3)).users())


def test_python_keycloak_is_imported_late() -> None:
    """
    It takes half a second: whoever only names an error or reads a config file does not pay it.
    """
    program = "import sys, usersync_cli.targets.keycloak.realm; print('keycloak' in sys.modules)"
    assert "False\n" == subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_no_error_is_a_bug(realm: Realm) -> None:
    """
    Whatever is raised here is ours: it has an exit status other than 1.
    """
    with pytest.raises(UsersyncError) as caught:
        realm.create({"username": "x" * 300, "nothing": 1})

    assert 3 == status_of(caught.value)
    assert CLIENT not in str(caught.value)
