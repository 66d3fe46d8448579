"""The source `fineract` against a local Fineract: what is loaded, what goes wrong, and that nobody leaves who is there."""

from __future__ import annotations

import ipaddress
import json
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.conftest import Command, Result
from tests.fineract_server import BASE, PASSWORD, TOKEN, Fineract, made
from tests.http_server import Answer
from tests.list_source import counts
from tests.simple_job import execute
from usersync_cli.config import loader
from usersync_cli.config.diagnostics import Mistakes
from usersync_cli.config.jobs import Job
from usersync_cli.errors import ConfigError, UsersyncError, status_of
from usersync_cli.model import Database, KeptOut
from usersync_cli.ports import Tools
from usersync_cli.run.context import Options, RunContext
from usersync_cli.run.job import RunResult, run
from usersync_cli.signals import Stop
from usersync_cli.sources.fineract import Settings, Source, listing, source

BRANCH = 4
TOOLS = Tools("fineract", Stop(), Database)
LEFT_ALONE = {"exclude": ["mifos", "system"]}  # so that there is one user whom the server itself made


class Crashed(BaseException):
    """As if the process had been killed."""


@dataclass
class Bank:
    """Job `fineract` of one step: users and roles into their tables."""

    server: Fineract
    target: Database
    streams: Sequence[str] = ("users", "roles")
    settings: dict[str, Any] = field(default_factory=dict)
    progress: Callable[[str, int], None] = lambda _stream, _size: None

    @property
    def step(self) -> dict[str, Any]:
        load = {"table": "fineract_{stream}", "key": ["id"], "create": True, "on_missing": "mark"}
        return {"name": "mirror", "extract": {"source": "bank", "streams": list(self.streams)}, "load": load}

    def run(self, **options: Any) -> RunResult:
        source = Source("bank", Settings.model_validate(made(self.server.url, **{**LEFT_ALONE, **self.settings})))
        context = RunContext(self.target, {"bank": source}, Tools("fineract", Stop(), Database), self.progress)
        return run(Job.model_validate({"name": "fineract", "steps": [self.step]}), context, Options(**options))

    def ok(self, **options: Any) -> str:
        """A run that went well, as `new changed same gone`."""
        result = self.run(**options)
        assert result.steps[0].error is None, result.steps[0].error
        return counts(result)

    def failed(self, **options: Any) -> UsersyncError:
        """How a run ended that did not go well. It shows nobody."""
        error = self.run(**options).steps[0].error
        assert error is not None
        assert "Test User" not in f"{error.message} {error.hint}"
        return error

    def asked(self, **options: Any) -> list[str]:
        """What a run that went well asked for."""
        before = len(self.server.asked)
        self.ok(**options)
        return self.server.paths()[before:]

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        return execute(self.target.url, query)

    def rows(self, stream: str = "users") -> list[tuple[Any, ...]]:
        """Everything in a table, with what changes when a row is written."""
        return self.ask(f"SELECT xmin::text, * FROM fineract_{stream} ORDER BY id")

    def here(self, stream: str = "users") -> list[int]:
        """The ids of the rows that are not marked."""
        return [id_ for (id_,) in self.ask(f"SELECT id FROM fineract_{stream} WHERE deleted_at IS NULL ORDER BY id")]

    def marked(self, stream: str = "users") -> list[int]:
        return [id_ for (id_,) in self.ask(f"SELECT id FROM fineract_{stream} WHERE deleted_at IS NOT NULL ORDER BY id")]

    def is_equal(self) -> bool:
        """Whether the tables hold just what Fineract's lists would."""
        users = {one["id"]: one for one in self.server.listed() if one["username"] not in ("mifos", "system")}
        held = dict(self.ask("SELECT id, data FROM fineract_users WHERE deleted_at IS NULL"))
        roles = dict(self.ask("SELECT id, data FROM fineract_roles WHERE deleted_at IS NULL"))
        return (users, self.server.roles) == (held, roles)


@pytest.fixture
def bank(database: Database) -> Iterator[Bank]:
    """Three users of our own beside Fineract's."""
    server = Fineract()
    server.add(3)
    with server.running():
        yield Bank(server, database)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that stays is told within a second."""
    monkeypatch.setattr(source, "DEADLINE", timedelta(seconds=0.7))


# what is loaded


def test_tables_have_columns_of_their_own(bank: Bank) -> None:
    """
    Users and roles with typed columns, roles by name, no e-mail where it is empty, and the whole document beside them.
    """
    bank.server.offices[7] = ("Test Branch", ".7.")
    (id_,) = bank.server.add(username="test user é", email="", roles=[4, 3, 2], officeId=7, staff={"id": 9, "displayName": "Test Staff"})
    assert "9 0 0 0" == bank.ok()

    columns = "id, username, email, firstname, lastname, office_id, office_name, roles"
    assert [(id_, "test user é", None, "Test", f"User {id_}", 7, "Test Branch", ["Auditor", "Self Service User", "Teller"])] == bank.ask(
        f"SELECT {columns} FROM fineract_users WHERE id = {id_}"
    )
    assert [(2, "Self Service User", "self service user role", True)] == bank.ask(
        "SELECT id, name, description, disabled FROM fineract_roles WHERE disabled"
    )
    assert [(9, "Test Staff", "")] == bank.ask(
        f"SELECT (data -> 'staff' -> 'id')::int, data -> 'staff' ->> 'displayName', data ->> 'email' FROM fineract_users WHERE id = {id_}"
    )
    types = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0"
    stamps = {"inserted_at": "timestamp with time zone", "updated_at": "timestamp with time zone", "deleted_at": "timestamp with time zone"}
    texts = dict.fromkeys(("username", "email", "firstname", "lastname", "office_name"), "text")
    assert {"id": "bigint", "office_id": "bigint", "roles": "text[]", "data": "jsonb", **texts, **stamps} == dict(
        bank.ask(types.format("fineract_users"))
    )
    texts = dict.fromkeys(("name", "description"), "text")
    assert {"id": "bigint", "disabled": "boolean", "data": "jsonb", **texts, **stamps} == dict(bank.ask(types.format("fineract_roles")))


def test_what_is_absent_is_null(bank: Bank) -> None:
    """
    A document without roles, e-mail and office has an empty list and NULLs.
    """
    bank.server.odd = [{"id": 99, "username": "bare"}]
    bank.ok()

    assert [("bare", None, None, None, [])] == bank.ask(
        "SELECT username, email, firstname, office_id, roles FROM fineract_users WHERE id = 99"
    )


def test_digits_stay_as_they_came(bank: Bank) -> None:
    """
    A number keeps its digits, also where the order of roles had to be fixed.
    """
    bank.server.on_wire = lambda body: body.replace(b'"isSelfServiceUser": false', b'"amount": 12345678901234567.890')
    bank.server.add(roles=[4, 3])
    bank.ok()

    assert [("12345678901234567.890",)] == bank.ask("SELECT DISTINCT data ->> 'amount' FROM fineract_users")
    assert [([3, 4],)] == bank.ask(
        "SELECT ARRAY(SELECT (r -> 'id')::int FROM jsonb_array_elements(data -> 'selectedRoles') AS r) FROM fineract_users"
        " WHERE jsonb_array_length(data -> 'selectedRoles') = 2"
    )


def test_a_second_run_asks_once_a_stream_and_writes_nothing(bank: Bank) -> None:
    """
    One request for each list; no row is written, whatever the order in which Fineract gives somebody's roles.
    """
    bank.server.add(roles=[3, 4, 1])
    assert "9 0 0 0" == bank.ok()
    before = bank.rows(), bank.rows("roles")
    bank.server.backwards = True
    assert ["/users", "/roles"] == bank.asked()
    assert "0 0 9 0" == bank.ok()
    assert "0 0 9 0" == bank.ok(full=True)

    assert before == (bank.rows(), bank.rows("roles"))


def test_changes_come(bank: Bank) -> None:
    """
    New, changed, the same, gone: a new e-mail, another office, a role more, a role that is disabled.
    """
    bank.server.add(2)
    bank.ok()
    bank.server.change(4, email="new@test.example")
    bank.server.change(5, officeId=BRANCH)
    bank.server.change(6, roles=[3, 4])
    bank.server.roles[2]["disabled"] = False
    bank.server.add()
    bank.server.delete(7)

    assert "1 4 5 1" == bank.ok()
    assert bank.is_equal()


def test_a_disabled_role_is_still_somebodys(bank: Bank) -> None:
    """
    It still grants what it grants, so it stays among the roles of who has it.
    """
    bank.server.roles[3]["disabled"] = True
    bank.ok()

    assert [(["Teller"],)] == bank.ask("SELECT roles FROM fineract_users WHERE id = 4")


# who left


def test_who_is_deleted_is_marked_after_a_look_by_id(bank: Bank) -> None:
    """
    One request more for each whom the list lacks: 404 is the proof, and the row is marked.
    """
    bank.server.add(17)
    bank.ok()
    bank.server.delete(5)
    bank.server.delete(9)
    del bank.server.roles[2]

    assert ["/users", "/users/5", "/users/9", "/roles", "/roles/2"] == bank.asked()
    assert ([5, 9], [2]) == (bank.marked(), bank.marked("roles"))
    assert ["/users", "/roles"] == bank.asked()


def test_who_is_known_by_id_stays(bank: Bank) -> None:
    """
    A list out of a cache lacks somebody whom Fineract knows by id: nobody is marked, what it has is stored, and it is no success.
    """
    bank.ok()
    bank.server.stale = {5}
    bank.server.change(4, lastname="Changed")
    failed = bank.failed()

    assert (4, True) == (status_of(failed), "left out 1 of them" in failed.message)
    assert [] == bank.marked()
    assert [("Changed",)] == bank.ask("SELECT lastname FROM fineract_users WHERE id = 4")
    bank.server.stale = set()
    assert "0 0 8 0" == bank.ok()


def test_a_tenant_without_roles_is_none(bank: Bank) -> None:
    """
    An empty list of roles, which whoever reads can't have: in a first sync too, it is no success.
    """
    bank.server.fail("empty", "/roles", times=1)
    assert 4 == status_of(bank.failed())
    bank.ok()
    assert bank.is_equal()


def test_a_name_used_again_is_another_person(bank: Bank) -> None:
    """
    A deleted user's name is free at once: the new id is a new row, the old one is marked.
    """
    bank.ok()
    bank.server.delete(5)
    (id_,) = bank.server.add(username="user00005")

    assert "1 0 7 1" == bank.ok()
    assert [(5, "user00005", True), (id_, "user00005", False)] == bank.ask(
        "SELECT id, username, deleted_at IS NOT NULL FROM fineract_users WHERE username = 'user00005' ORDER BY id"
    )


def test_too_many_at_once_is_for_a_person(bank: Bank) -> None:
    """
    More than the guard allows: exit 6, nobody is marked or asked for; approved, just these go.
    """
    bank.server.add(60)
    bank.ok()
    for id_ in range(10, 30):
        bank.server.delete(id_)
    result = bank.run()

    assert 6 == result.exit_status
    assert [] == [path for path in bank.server.paths() if path.startswith("/users/")]
    bank.ok(approve_deletes=result.run_id)
    assert list(range(10, 30)) == bank.marked()


def test_who_is_left_alone_neither_comes_nor_goes(bank: Bank) -> None:
    """
    Names are compared in any case. A user who is left alone from now on keeps a row that is there, without a request.
    """
    bank.server.add(username="MIFOS")
    bank.ok()
    before = bank.rows()
    assert [3, 4, 5, 6] == bank.here()
    bank.settings = {"exclude": ["mifos", "system", "User00004"]}
    bank.server.change(4, lastname="Changed")

    assert ["/users", "/roles"] == bank.asked()
    assert before == bank.rows()
    bank.settings = {"exclude": []}
    bank.ok()
    assert [1, 2, 3, 4, 5, 6, 7] == bank.here()


@pytest.mark.parametrize(("reader", "left_alone"), [("mifos", {"1", "2", "3"}), ("robot", {"1", "2", "3", "7"})])
def test_technical_users_are_left_alone_by_default(bank: Bank, reader: str, left_alone: set[str]) -> None:
    """
    Those that Fineract makes by itself, in any case, and the API user; a list of your own replaces all of these.
    """
    bank.server.add(username="robot", roles=[4])
    bank.server.change(3, username="INTEROPUSER")

    with Source("bank", Settings.model_validate(made(bank.server.url, username=reader))).open(TOOLS) as session:
        assert f"{7 - len(left_alone)} users" == session.look("users")
        assert dict.fromkeys(left_alone, KeptOut("excluded")) == session.kept_out("users")


def test_a_row_that_is_left_alone_is_no_difference(bank: Bank, usersync: Command) -> None:
    """
    To `verify` it is kept, while that of a self-service user is extra until a run has marked it.
    """
    bank.ok()
    bank.server.change(4, isSelfServiceUser=True)
    written(usersync, bank, exclude=["mifos", "system", "INTEROPUSER"])

    verified = clean(usersync("verify", "--job", "fineract"))
    assert (8, True) == (verified.status, "0 missing, 1 extra, 0 different, 1 kept" in verified.stdout)
    assert 0 == clean(usersync("run", "--job", "fineract")).status
    assert 0 == clean(usersync("verify", "--job", "fineract")).status


# self-service users


@pytest.mark.parametrize(
    ("flag", "comes"),
    [*((one, False) for one in (True, "true", " TRUE ", 1, "1")), *((one, True) for one in (None, "absent", "false", 0))],
)
def test_self_service_users_are_no_staff(bank: Bank, flag: Any, *, comes: bool) -> None:
    """
    They neither come nor count; the flag may be text or a number, and a version without it has none of them.
    """
    bank.streams = ["users"]
    if flag == "absent":
        bank.server.on_wire = lambda body: body.replace(b', "isSelfServiceUser": false', b"")
    else:
        bank.server.change(5, isSelfServiceUser=flag)
    result = bank.run()

    assert (0, ["4", "3"][not comes] + " 0 0 0") == (result.exit_status, counts(result))
    assert (5 in bank.here(), {} if comes else {"self-service users": 1}) == (comes, result.steps[0].left_out)


@pytest.mark.parametrize("flag", ["perhaps", [], 2])
def test_a_flag_that_can_not_be_read_is_for_a_person(bank: Bank, flag: Any) -> None:
    """
    Neither taken for staff nor for a customer: set aside, and a row that is there stays.
    """
    bank.ok()
    bank.server.change(5, isSelfServiceUser=flag)

    assert 3 == status_of(bank.failed())
    assert [("self_service_unclear",)] == bank.ask("SELECT reason FROM usersync.rejects")
    assert [3, 4, 5, 6] == bank.here()


def test_a_user_who_becomes_a_customer_leaves(bank: Bank) -> None:
    """
    Without a request by id, behind the guard; and comes back as staff. `self_service_users` takes all of them.
    """
    bank.streams = ["users"]
    bank.server.add(17)
    bank.ok()
    for id_ in (4, 9):
        bank.server.change(id_, isSelfServiceUser=True)

    assert ["/users"] == bank.asked()
    assert [4, 9] == bank.marked()
    bank.server.change(9, isSelfServiceUser=False)
    assert "0 1 19 0" == bank.ok()
    assert [4] == bank.marked()
    for id_ in range(5, 20):
        bank.server.change(id_, isSelfServiceUser=True)
    assert 6 == bank.run().exit_status
    assert [4] == bank.marked()
    bank.settings = {"self_service_users": True}
    bank.ok()
    assert [] == bank.marked()


def test_self_service_users_are_counted_for_people_and_programs(bank: Bank, usersync: Command) -> None:
    """
    By check, preview and run, as text and as JSON.
    """
    bank.server.change(4, isSelfServiceUser=True)
    bank.server.change(5, isSelfServiceUser=True)
    written(usersync, bank)

    assert "2 users, 2 self-service users left out; " in clean(usersync("check", "--job", "fineract")).stdout
    assert "0 gone, 2 self-service users left out: dry run" in clean(usersync("run", "--job", "fineract", "--dry-run")).stdout
    told = json.loads(clean(usersync("run", "--job", "fineract", "--output", "json")).stdout)
    assert [{"self_service_users": 2}] == [step["left_out"] for step in told["steps"]]
    assert "2 self-service users left out" in bank.ask("SELECT summary FROM usersync.runs")[0][0]


# a part of the users


def in_branch(bank: Bank, **more: Any) -> dict[str, Any]:
    """One more user in a branch, with the right to read; the settings with which it does."""
    bank.server.add(2, officeId=BRANCH)
    bank.server.add(username="reader", officeId=BRANCH, roles=[4])
    bank.ok()
    return {"username": "reader", **more}


def test_who_reads_from_a_branch_removes_nobody(bank: Bank) -> None:
    """
    Its list is shorter, without a word: exit 7 with the office, nobody removed, nothing written, nobody asked for.
    """
    bank.settings = in_branch(bank)
    before = bank.rows()
    bank.server.change(7, lastname="Changed")
    asked = len(bank.server.asked)
    error = bank.failed()

    assert 7 == status_of(error)
    assert "office 4, not in office 1" in error.message
    assert "move who reads to office 1" in error.hint
    assert before == bank.rows()
    assert ["/users", "/roles"] == bank.server.paths()[asked:]


def test_the_head_office_may_be_another(bank: Bank) -> None:
    """
    `office` says which it is; then who stands in office 1 is in the wrong one.
    """
    bank.server.offices = {1: ("Old Office", ".1."), BRANCH: ("Head Office", ".")}
    bank.server.add(username="reader", officeId=BRANCH, roles=[4])
    bank.settings = {"username": "reader", "office": BRANCH}
    assert "9 0 0 0" == bank.ok()
    bank.settings = {"office": BRANCH}

    assert "office 1, not in office 4" in bank.failed().message


@pytest.mark.parametrize("own", [{"token": TOKEN}, {"token": TOKEN, "username": "reader"}])
def test_a_token_of_a_branch_removes_nobody_either(bank: Bank, own: dict[str, Any]) -> None:
    """
    With a token who reads is known only by `username`; without it, that nobody at all is in the head office says the same.
    """
    in_branch(bank)
    bank.server.tokens[TOKEN] = "reader"
    bank.settings = own
    error = bank.failed()

    assert 7 == status_of(error)
    assert "office 1" in error.message
    assert [] == bank.marked()


def test_a_token_reads_like_a_password(bank: Bank) -> None:
    """
    Bearer tokens, with and without a name beside them.
    """
    bank.settings = {"token": TOKEN}
    assert "8 0 0 0" == bank.ok()
    bank.settings = {"token": TOKEN, "username": "mifos"}
    assert "0 0 8 0" == bank.ok()


def test_who_reads_has_to_be_in_its_own_list(bank: Bank) -> None:
    """
    A list without the one who asked is not the whole list, on the first run too; being left alone has nothing to do with it.
    """
    bank.settings = {"token": TOKEN, "username": "somebody-else"}
    error = bank.failed()

    assert 7 == status_of(error)
    assert "not the one who asked" in error.message
    bank.settings = {"exclude": ["mifos", "system", "user00004"], "username": "user00004"}
    bank.server.change(4, roles=[4])
    assert "3 0 4 0" == bank.ok()
    bank.settings = {"token": TOKEN, "username": "MIFOS"}  # some databases let it log in so
    bank.ok()


# faults

STAYING = [500, 502, "html", "truncated", "not_json", "null", "object", "nothing", "reset", "hang", "hang in body", "empty"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", STAYING)
def test_whatever_goes_wrong_nobody_leaves(bank: Bank, how: int | str) -> None:
    """
    A fault that stays, in either list: a status that is not 0, the rows as they were, and the next run repairs it.
    """
    bank.server.add(4)
    bank.ok()
    before = bank.rows(), bank.rows("roles")
    bank.server.delete(8)
    bank.server.roles[2]["disabled"] = False
    bank.server.fail(how, "/users")
    bank.server.fail(how, "/roles")

    assert status_of(bank.failed()) in {3, 4, 7}
    assert before == (bank.rows(), bank.rows("roles"))
    bank.server.troubles.clear()
    assert "0 1 10 1" == bank.ok()
    assert bank.is_equal()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", STAYING)
def test_whatever_goes_wrong_by_id_nobody_leaves(bank: Bank, how: int | str) -> None:
    """
    A fault when somebody who seems to be gone is asked for: nobody is marked before Fineract itself has said so.
    """
    bank.ok()
    bank.server.delete(5)
    bank.server.fail(how, "/users/5")
    result = bank.run()

    assert (7 if how in ("null", "object", "empty") else 4) == result.exit_status
    assert [] == bank.marked()
    bank.server.troubles.clear()
    bank.ok()
    assert [5] == bank.marked()


@pytest.mark.parametrize("how", [500, "html", "truncated", "reset", "slow"])
def test_a_fault_that_passes_is_no_fault(bank: Bank, how: int | str) -> None:
    """
    What helps when it is asked for again is asked for again, within the run.
    """
    bank.server.fail(how, "/users", times=1)
    bank.server.fail(how, "/roles", times=1)

    assert "8 0 0 0" == bank.ok()
    assert bank.is_equal()


def test_a_404_of_somebody_else_is_no_proof(bank: Bank) -> None:
    """
    Only Fineract's own code says that an id is not there: what a proxy answers removes nobody.
    """
    bank.ok()
    bank.server.delete(5)
    bank.server.fail(404, "/users/5")

    assert 7 == status_of(bank.failed())
    assert [] == bank.marked()


def test_one_list_that_fails_leaves_the_other_done(bank: Bank) -> None:
    """
    Each stream by itself: without READ_ROLE the users are loaded, and the run says what is missing.
    """
    bank.server.permissions[4] = {"READ_USER"}
    bank.server.add(username="reader", roles=[4])
    bank.settings = {"username": "reader"}
    error = bank.failed()

    assert 2 == status_of(error)
    assert "READ_ROLE is missing" in error.message
    assert [3, 4, 5, 6, 7] == bank.here()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tenant": "nosuch"}, "answered 400 to GET /users: it knows no tenant nosuch; set `tenant`"),
        ({"password": "wrong-canary"}, "answered 401 to GET /users: it does not take this user name and password; fix `username`"),
        ({"token": "wrong-canary"}, "answered 401 to GET /users: it does not take this token; fix `token`"),
        ({"username": "user00004"}, "403 to GET /users (error.msg.not.authorized): the permission READ_USER is missing; in Fineract, give"),
    ],
)
def test_what_a_person_has_to_mend_is_said(bank: Bank, settings: dict[str, Any], words: str) -> None:
    """
    Tenant, password, token, permission: exit 2, and which setting or right it is.
    """
    bank.settings = settings
    bank.streams = ["users"]
    error = bank.failed()

    assert 2 == status_of(error)
    assert words in f"{error.message}; {error.hint}"
    assert "canary" not in f"{error.message} {error.hint}"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(404, b"<html>no</html>"), "/fineract-provider/api/v1"),
        (Answer(404, {"status": 404, "error": "Not Found"}), "it has no such list; is `url` right"),
        (Answer(401, {"userMessageGlobalisationCode": "error.msg.invalid.tenant.identifier"}), "it knows no tenant default"),
        (Answer(403, b"<html>no</html>"), "does something before it refuse us?"),
        (Answer(302, b"", {"Location": "https://elsewhere.test/login?canary=1"}), "points to https://elsewhere.test"),
        (
            Answer(400, {"userMessageGlobalisationCode": "validation.msg.validation.errors.exist", "errors": [{"args": ["canary"]}]}),
            "400 to GET /users (validation.msg.validation.errors.exist)",
        ),
        (Answer(400, {"userMessageGlobalisationCode": "canary is no code", "errors": None}), "it knows no tenant"),
    ],
)
def test_no_body_is_quoted(bank: Bank, answer: Answer, words: str) -> None:
    """
    Whatever refuses us: what to look at, a code where there is one, and no other word of the answer.
    """
    bank.server.instead = answer
    bank.streams = ["users"]
    error = bank.failed()

    assert status_of(error) in {2, 7}
    assert words in f"{error.message}; {error.hint}"
    assert "canary" not in f"{error.message} {error.hint}"


def test_another_server_or_tenant_is_refused(bank: Bank) -> None:
    """
    The people of another tenant are not loaded over those of this one: exit 7, and nothing is asked for.
    """
    bank.ok()
    bank.server.tenants.add("other")
    bank.settings = {"tenant": "other"}
    asked = len(bank.server.asked)
    error = bank.failed()

    assert 7 == status_of(error)
    assert f"tenant other of 127.0.0.1:{bank.server.url.rpartition(':')[2]}{BASE}" in error.message
    assert asked == len(bank.server.asked)
    bank.ok(accept_account=True)


def test_bad_records_cost_no_other(bank: Bank) -> None:
    """
    No id, a text or a fraction for an id, no object, a NUL: set aside with a reason, the others are loaded, nobody leaves.
    """
    bank.server.add(20)
    bank.ok()
    nobody: list[Any] = [{"username": "Test User A"}, {"id": "12"}, {"id": 12.5}, {"id": True}, "Test User B", None]
    bad = [{"id": 98, "username": "a\0b"}, {"id": 10**20, "username": "big"}]
    bank.server.odd = [*nobody, *bad, {"id": 97, "username": "fine", "selectedRoles": None}]
    result = bank.run()

    assert 3 == result.exit_status
    reasons = bank.ask("SELECT reason, count(*), min(key) FROM usersync.rejects GROUP BY reason ORDER BY count(*) DESC")
    assert [("no_key", 4), ("not_an_object", 2)] == [reason[:2] for reason in reasons[:2]]
    assert {"100000000000000000000", "98"} == {key for _, _, key in reasons[2:]}
    assert [*range(3, 27), 97] == bank.here()


# many, interrupted


@pytest.mark.parametrize("meanwhile", ["nothing", "a change", "a deletion"])
def test_a_reading_that_is_killed_goes_on(bank: Bank, monkeypatch: pytest.MonkeyPatch, meanwhile: str) -> None:
    """
    Killed behind any page: what was stored is not stored again, and after the next run all is as it should be.
    """
    monkeypatch.setattr(listing, "PAGE_RECORDS", 5)
    bank.streams = ["users"]
    bank.server.add(20)
    bank.ok()
    bank.server.delete(6)
    ids = bank.server.add(2)
    pages = iter(range(3))

    def crash(_stream: str, _size: int) -> None:
        if next(pages) == 2:
            raise Crashed

    bank.progress = crash
    with pytest.raises(Crashed):
        bank.run()
    bank.progress = lambda _stream, _size: None
    if meanwhile == "a change":
        bank.server.change(5, lastname="Changed")
    if meanwhile == "a deletion":
        bank.server.delete(7)
    done = bank.ok()

    assert {"nothing": "2 0 8 1", "a change": "2 1 22 1", "a deletion": "2 0 22 2"}[meanwhile] == done
    assert ids[-1] in bank.here()
    assert ([6, 7] if meanwhile == "a deletion" else [6]) == bank.marked()
    assert [("ok",)] == bank.ask("SELECT outcome FROM usersync.sweeps ORDER BY id DESC LIMIT 1")


def test_pages_hold_a_thousand(bank: Bank) -> None:
    """
    2,500 users: one request, three checkpoints, and the same again.
    """
    bank.streams = ["users"]
    bank.server.add(2496)
    pages: list[int] = []
    bank.progress = lambda _stream, size: pages.append(size)

    assert "2500 0 0 0" == bank.ok()
    assert (3, ["/users"]) == (len(pages), bank.server.paths())
    assert "0 0 2500 0" == bank.ok()


# accounts


def test_accounts_are_what_a_target_of_accounts_takes(connection: psycopg.Connection) -> None:
    """
    The id with its tenant, names and e-mail as text, all roles by name; no account for a role.
    """
    source = Source("bank", Settings.model_validate(made("http://127.0.0.1", tenant="o'brien")))
    user = {"id": 7, "username": "t", "firstname": "Test", "lastname": "User", "email": ""}
    user["selectedRoles"] = [{"id": 3, "name": "Teller"}, {"id": 2, "name": "Auditor", "disabled": True}]
    connection.execute("CREATE TEMP TABLE records (key text, data jsonb, version timestamptz, deleted boolean, ord bigint)")
    connection.execute("INSERT INTO records VALUES ('7', %s, NULL, false, 1)", (json.dumps(user),))
    found = connection.execute(source.accounts("users").encode())

    assert [("o'brien:7", "7", "t", None, "Test", "User", ["Auditor", "Teller"])] == found.fetchall()
    assert ["id", "_key", "username", "email", "first_name", "last_name", "roles"] == [column.name for column in found.description or ()]
    with pytest.raises(ConfigError, match="no accounts in stream roles"):
        source.accounts("roles")


# settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "http://fineract.test.example/api"}, "sources.bank.url: would send passwords and people in clear text"),
        ({"url": "fineract.test.example"}, "sources.bank.url: must be an address such as https://"),
        ({"url": "https://mifos:canary@fineract.test.example"}, "sources.bank.url: must be an address such as https://"),
        ({"token": "canary"}, "sources.bank.password: is one too many beside a token"),
        ({"password": None}, "sources.bank: needs username and password, or a token"),
        ({"username": ""}, "sources.bank: needs username and password, or a token"),
        ({"tenant": "a b"}, "sources.bank.tenant: must be the identifier of a tenant"),
        ({"office": 0}, "sources.bank.office: must be at least 1"),
        ({"exclude": "mifos"}, "sources.bank.exclude: must be a list"),
        ({"usrname": "x"}, 'unknown key "usrname"; did you mean "username"?'),
    ],
)
def test_mistakes_in_the_settings_are_told(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    """
    Each with its place, and without a secret.
    """
    own = {**made("https://fineract.test.example"), **settings}
    own = {name: value for name, value in own.items() if value is not None}
    (tmp_path / "config.yaml").write_text(json.dumps({"target": "embedded", "sources": {"bank": own}, "jobs": {}}))
    with pytest.raises(Mistakes) as error:
        loader.load(tmp_path / "config.yaml", {})

    assert words in error.value.message
    assert "canary" not in error.value.message


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:8080"])
def test_plain_http_is_for_this_machine(host: str) -> None:
    """
    http:// without leave on loopback alone, elsewhere with allow_http.
    """
    assert Settings.model_validate(made(f"http://{host}"))
    assert Settings.model_validate(made("http://fineract.test.example", allow_http=True))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://Fineract.test.example/api/", "https://fineract.test.example:443/api"),
        ("http://127.0.0.1:80/api", "http://127.0.0.1/api"),
    ],
)
def test_one_place_is_one_account(one: str, other: str) -> None:
    """
    Letters of the host, a port that says nothing and a last / make no other server.
    """
    tools = Tools("fineract", Stop(), Database)
    accounts = set()
    for url in (one, other):
        with Source("bank", Settings(type="fineract", url=url, token="x")).open(tools) as session:
            accounts.add(session.account)

    assert 1 == len(accounts)


def test_a_password_may_hold_any_letter(bank: Bank) -> None:
    """
    Names and passwords travel as UTF-8, which is what Fineract reads.
    """
    bank.server.add(username="lés", password="pä:ß€", roles=[1])
    bank.settings = {"username": "lés", "password": "pä:ß€"}

    assert "9 0 0 0" == bank.ok()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and certificate for 127.0.0.1 that no authority knows."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "both.pem").write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return tmp_path / "both.pem"


def test_a_certificate_of_ones_own_needs_its_authority(database: Database, certificate: Path) -> None:
    """
    Exit 2 with the setting to give; with it, all is well. Nothing is sent to whom nobody vouches for.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Fineract(context)
    with server.running():
        bank = Bank(server, database)
        error = bank.failed()
        asked = len(server.asked)
        bank.settings = {"ca": str(certificate)}

        assert (2, 0) == (status_of(error), asked)
        assert "as `ca`" in error.hint
        assert "5 0 0 0" == bank.ok()


# the commands


def written(usersync: Command, bank: Bank, **settings: Any) -> None:
    """The config file for the real command."""
    document = {
        "environment": "test",
        "target": bank.target.url,
        "sources": {"bank": made(bank.server.url, **{**LEFT_ALONE, **settings})},
        "jobs": {"fineract": {"steps": [bank.step]}},
    }
    (usersync.folder / "config.yaml").write_text(json.dumps(document))


def clean(result: Result) -> Result:
    """The result, after a look that it shows neither secrets nor people."""
    for word in ("Traceback", "internal error", PASSWORD, TOKEN, "bWlmb3M6", "Test User", "test.example", "user0000"):
        assert word not in result.stdout + result.stderr, result
    return result


def test_check_and_verify_read_fineract_too(bank: Bank, usersync: Command) -> None:
    """
    `check` tells each stream in one request; a dry run says what a run then does; `verify` agrees.
    """
    written(usersync, bank)
    checked = clean(usersync("check", "--job", "fineract"))

    assert 0 == checked.status, checked
    assert 'stream users from source bank: 4 users; "public"."fineract_users" will be created with 9 columns' in checked.stdout
    assert ["/users", "/roles"] == bank.server.paths()
    assert "8 new" in clean(usersync("run", "--job", "fineract", "--dry-run")).stdout
    assert "8 new" in clean(usersync("run", "--job", "fineract")).stdout
    assert 0 == clean(usersync("verify", "--job", "fineract")).status


@pytest.mark.parametrize("own", [{}, {"token": TOKEN}])
def test_secrets_are_nowhere(bank: Bank, usersync: Command, own: dict[str, Any]) -> None:
    """
    At -vv, when all is well and when it is not: no password, no token, nobody's name.
    """
    written(usersync, bank, **own)
    assert 0 == clean(usersync("run", "--job", "fineract", "-vv")).status
    bank.server.odd = [{"id": "Test User"}]
    assert 3 == clean(usersync("run", "--job", "fineract", "-vv", "--log-format", "json", "--output", "json")).status
    bank.server.delete(1)
    refused = clean(usersync("run", "--job", "fineract", "-vv"))

    assert 2 == refused.status
    assert "answered 401 to GET /users" in refused.stderr


def test_a_part_is_told_by_check_too(bank: Bank, usersync: Command) -> None:
    """
    `check` finds out that who reads is in a branch office, before the first run.
    """
    bank.server.change(1, officeId=BRANCH)
    written(usersync, bank)
    checked = clean(usersync("check", "--job", "fineract"))

    assert 7 == checked.status
    assert "office 4, not in office 1" in checked.stdout + checked.stderr
