"""`usersync users create`: one POST for one person, whatever happens on the way, and then the copy has them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Command, Result
from tests.http_server import Answer, Asked
from tests.workos_copy import Copy
from tests.workos_emulator import Emulator, running
from tests.workos_server import KEY, OTHER_KEY, WorkOS
from usersync_cli.model import Database
from usersync_cli.run.documents import create as creating

EMAIL = "New.User@example.org"
CREATE = ("users", "create", "--email", EMAIL)


@pytest.fixture
def workos() -> Iterator[WorkOS]:
    """Three users, the first of whom has an external id."""
    found = WorkOS()
    for number in range(3):
        found.world.create_user(f"test.user{number}@example.org", external_id=None if number else "known-1")
    with found.running():
        yield found


@pytest.fixture
def unread(tmp_path: Path, workos: WorkOS, database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Copy:
    """No run has read anything."""
    return Copy(tmp_path, database, {"type": "workos", "api_url": workos.url, "api_key": KEY}, capsys, monkeypatch)


@pytest.fixture
def copy(unread: Copy) -> Copy:
    """It was read once."""
    unread.run()
    return unread


def posts(workos: WorkOS) -> list[Asked]:
    return [asked for asked in workos.asked if asked.method == "POST"]


def created_in(workos: WorkOS) -> list[str]:
    return [id_ for id_, one in workos.world.streams["users"].items() if one["email"].lower() == EMAIL.lower()]


def intents(connection: psycopg.Connection) -> list[tuple[str, str | None]]:
    return connection.execute("SELECT state, account FROM usersync.intents ORDER BY id").fetchall()


def in_copy(connection: psycopg.Connection) -> list[str]:
    found = connection.execute("SELECT id FROM workos_users WHERE lower(email) = lower(%s) ORDER BY id", (EMAIL,)).fetchall()
    return [id_ for (id_,) in found]


# created


def test_a_person_is_created_once_and_is_in_the_copy(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    One POST with all that was given; the row is there at once, and what the log says of it later changes nothing.
    """
    given = ("--first-name", "Test", "--last-name", "User", "--external-id", "4711", "--metadata", "team=test", "--metadata", "a=b=c")
    found = copy.json(*CREATE, *given)
    (id_,), (asked,) = created_in(workos), posts(workos)
    later = copy("run", "--job", "workos")

    assert (1, "user-create", "created", id_, True) == tuple(found[name] for name in ("version", "kind", "outcome", "id", "in_copy"))
    assert {
        "email": EMAIL, "first_name": "Test", "last_name": "User", "external_id": "4711", "metadata": {"team": "test", "a": "b=c"},
    } == asked.json  # fmt: skip
    assert asked.headers["User-Agent"].endswith(" (users)")
    assert asked.headers["Idempotency-Key"]
    assert [(EMAIL, "Test", "4711", {"team": "test", "a": "b=c"})] == connection.execute(
        "SELECT email, first_name, external_id, metadata FROM workos_users WHERE id = %s", (id_,)
    ).fetchall()
    assert [("done", id_)] == intents(connection)
    assert "nothing changed" in later.stdout


def test_the_cursor_stays_where_it_is(copy: Copy, connection: psycopg.Connection) -> None:
    """
    What happened at WorkOS since the last poll is still to come.
    """
    query = "SELECT stream, value, version FROM usersync.cursors ORDER BY 1"
    before = connection.execute(query).fetchall()
    copy.json(*CREATE)

    assert before == connection.execute(query).fetchall()


def test_it_says_what_it_did(copy: Copy, workos: WorkOS) -> None:
    """
    For people: the id, and that both have the person.
    """
    found = copy(*CREATE)
    (id_,) = created_in(workos)

    assert (0, f"{id_}: created in WorkOS, and in workos_users\n") == (found.status, found.stdout)


def test_a_job_that_never_ran_gets_its_table(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    The person is in the copy, which is no complete one; the first run brings all others.
    """
    connection.execute("DROP SCHEMA usersync CASCADE; DROP TABLE workos_users, workos_organizations, workos_organization_memberships")
    found = copy.json(*CREATE)

    assert ("created", True) == (found["outcome"], found["in_copy"])
    assert (1, None) == (copy.json("users", "list")["total"], copy.json("users", "list")["copy"]["as_of"])
    copy.run()
    assert 4 == copy.json("users", "list")["total"]


def test_a_dry_run_creates_nobody(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    It shows what would be sent, or who is there.
    """
    found = copy.json(*CREATE, "--first-name", "Test", "--dry-run")
    there = copy.json("users", "create", "--email", "test.user1@example.org", "--dry-run")

    assert ("would_create", {"email": EMAIL, "first_name": "Test"}, False) == (found["outcome"], found["request"], found["in_copy"])
    assert ("exists", workos.world.ids("users")[1]) == (there["outcome"], there["id"])
    assert ([], []) == (posts(workos), intents(connection))
    assert "first_name: Test" in copy(*CREATE, "--first-name", "Test", "--dry-run").stdout


# who exists


def test_whoever_exists_is_told_by_id(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    By address in any case, also with the external id that they have: status 0, nothing is sent. What differs is named.
    """
    first, second, _ = workos.world.ids("users")
    by_email = copy.json("users", "create", "--email", "TEST.user1@Example.org", "--first-name", "Other")
    by_both = copy.json("users", "create", "--email", "Test.User0@example.org", "--external-id", "known-1")

    assert ("exists", second, ["first_name"]) == (by_email["outcome"], by_email["id"], by_email["differs"])
    assert ("exists", first, []) == (by_both["outcome"], by_both["id"], by_both["differs"])
    assert ([], []) == (posts(workos), intents(connection))
    assert f"{second}: exists already, nothing was changed in WorkOS" in copy("users", "create", "--email", "test.user1@example.org").stdout


def test_somebody_who_is_in_workos_alone_gets_into_the_copy(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    The copy is older than the person.
    """
    id_ = workos.world.create_user(EMAIL)
    found = copy.json(*CREATE)

    assert ("exists", id_, True) == (found["outcome"], found["id"], found["in_copy"])
    assert [id_] == in_copy(connection)


def test_an_external_id_of_somebody_else_is_a_conflict(copy: Copy, workos: WorkOS) -> None:
    """
    Status 10 with the id of that person; likewise where the address's owner has another external id.
    """
    first = workos.world.ids("users")[0]
    taken = copy.json(*CREATE, "--external-id", "known-1", status=10)
    other = copy.json("users", "create", "--email", "test.user0@example.org", "--external-id", "other-2", status=10)
    text = copy(*CREATE, "--external-id", "known-1")

    assert [("conflict", first)] * 2 == [(one["outcome"], one["id"]) for one in (taken, other)]
    assert "the external id is that of another person" in taken["message"]
    assert "has another external id" in other["message"]
    assert (10, True) == (text.status, first in text.stderr)
    assert [] == posts(workos)


def test_someone_who_was_quicker_is_found_after_the_refusal(copy: Copy, workos: WorkOS) -> None:
    """
    WorkOS refuses the address since somebody took it between our look and our request.
    """
    workos.before = lambda asked: workos.world.create_user(EMAIL) and None if asked.method == "POST" else None
    found = copy.json(*CREATE)

    assert ("exists", created_in(workos)) == (found["outcome"], [found["id"]])


# bad input


TOO_MANY = [part for number in range(51) for part in ("--metadata", f"k{number}=v")]
INVALID = {
    "email is not an e-mail address": [
        *(["--email", one] for one in ("no-address", "two@at@example.org", "test user@example.org", "a@b", f"{'x' * 65}@example.org")),
    ],
    "external_id has 129 characters": [["--email", EMAIL, "--external-id", "x" * 129]],
    "external_id is a word of paths": [["--email", EMAIL, "--external-id", ".."]],
    "has 41 characters": [["--email", EMAIL, "--metadata", f"{'k' * 41}=v"]],
    "has 601 characters": [["--email", EMAIL, "--metadata", f"k={'v' * 601}"]],
    "metadata has 51 keys": [["--email", EMAIL, *TOO_MANY]],
    "--metadata is KEY=VALUE.": [["--email", EMAIL, "--metadata", "novalue"], ["--email", EMAIL, "--metadata", "=v"]],
    "was given twice": [["--email", EMAIL, "--metadata", "a=1", "--metadata", "a=2"]],
    "it is empty": [["--email", ""], ["--email", EMAIL, "--external-id", " "]],
}


def test_what_workos_would_not_take_is_not_sent(unread: Copy, workos: WorkOS) -> None:
    """
    Status 2, and no request at all.
    """
    for said, commands in INVALID.items():
        for options in commands:
            found = unread("users", "create", *options)
            assert (2, "", []) == (found.status, found.stdout, workos.asked), options
            assert said in found.stderr


def test_limits_themselves_are_taken(copy: Copy, workos: WorkOS) -> None:
    """
    50 keys of 40 characters, a value of 600, an external id of 128.
    """
    metadata = [part for number in range(50) for part in ("--metadata", f"{number:040}={'v' * 600}")]
    copy.json(*CREATE, "--external-id", "x" * 128, *metadata)

    assert 50 == len(posts(workos)[0].json["metadata"])


def refused(code: str, message: str) -> dict[str, object]:
    """As WorkOS says what is wrong with a new person [spec]."""
    return {"code": "user_creation_error", "message": "No.", "errors": [{"code": code, "message": message}]}


def refusing(workos: WorkOS, status: int, body: dict[str, object]) -> None:
    """Let the server answer the POST so, and do nothing."""
    answered = workos._answered
    workos._answered = lambda asked, world: Answer(status, body) if asked.method == "POST" else answered(asked, world)  # type: ignore[method-assign]


REFUSALS = [
    (422, {"message": "Wrong.", "errors": [{"field": "metadata", "code": "invalid"}]}, 2, "Wrong; metadata: invalid"),
    (400, refused("blocked", "This domain is blocked."), 2, "No: user_creation_error; This domain is blocked: blocked"),
    (400, refused("email_not_available", f"{EMAIL} is taken."), 10, "... is taken: email_not_available"),
    (400, {"code": "external_id_already_used", "message": "In use."}, 10, "In use: external_id_already_used"),
    (409, {"message": "A user exists already", "code": "user_already_exists"}, 10, "A user exists already"),
    (401, {"message": "Unauthorized"}, 2, "does not know the API key"),
    (403, {"message": "Forbidden"}, 2, "may not create users"),
]


def test_a_refusal_is_told_in_the_vendors_words(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    With the field and the id of the request; nothing is half done, the intent has ended, and no output has the key or the address.
    """
    for status, body, exit_status, said in REFUSALS:
        refusing(workos, status, body)
        found = copy(*CREATE)

        assert (exit_status, "") == (found.status, found.stdout)
        assert said in found.stderr
        assert "(request id req_TEST" in found.stderr
        assert EMAIL not in found.stderr
        assert KEY not in found.stderr
    assert ([], [], ["refused"] * 7) == (created_in(workos), in_copy(connection), [state for state, _ in intents(connection)])


def test_the_key_of_another_environment_creates_nobody(copy: Copy, workos: WorkOS) -> None:
    """
    It knows none of the people whom the copy has: status 7, and no POST.
    """
    copy.settings["api_key"] = OTHER_KEY
    found = copy(*CREATE)

    assert (7, []) == (found.status, posts(workos))
    assert "knows none of 3 users that the copy has; nobody was created" in found.stderr


# when something goes wrong on the way


def test_a_lost_reply_is_looked_up(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    The person was created, and the answer did not arrive, or was none: one POST all the same.
    """
    for number, how in enumerate(("reset", "half", "html", "null", 500, 503), 1):
        spoil(workos, how)
        found = copy.json("users", "create", "--email", f"lost.{how}@example.org")
        workos.before = lambda _asked: None

        assert ("created", workos.world.ids("users")[-1], True) == (found["outcome"], found["id"], found["in_copy"])
        assert number == len(posts(workos))
        assert ("done", found["id"]) == intents(connection)[-1]


def spoil(workos: WorkOS, how: str | int) -> None:
    """Only answers to a POST."""

    def before(asked: Asked) -> None:
        if asked.method == "POST":
            workos.fail(how, asked.path, times=1)

    workos.before = before


def test_without_a_reply_and_without_a_person_it_is_temporary(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    Nobody knows whether it will still arrive: status 4, the intent stays open, and the next call looks before it sends anything.
    """

    def before(asked: Asked) -> None:
        if asked.method == "POST":
            raise ConnectionResetError

    workos.before = before
    first = copy(*CREATE)
    still = intents(connection)
    workos.before = lambda _asked: None
    workos.forget_requests()
    second = copy.json(*CREATE)
    methods = [asked.method for asked in workos.asked]

    assert (4, [("open", None)]) == (first.status, still)
    assert "run the same command again" in first.stderr
    assert ("created", [second["id"]]) == (second["outcome"], created_in(workos))
    assert methods.index("POST") >= 3
    assert [("done", second["id"])] == intents(connection)


def test_killed_between_workos_and_the_copy(copy: Copy, workos: WorkOS, usersync: Command, connection: psycopg.Connection) -> None:
    """
    The next call finds the same person, sends no second POST, and completes the copy.
    """
    arrived = threading.Event()

    def before(asked: Asked) -> None:
        if posts(workos) and asked.method == "GET":  # it was answered, and somebody looks whether they are the only one
            arrived.set()
            workos.over.wait(30)

    workos.before = before
    with usersync.start(*CREATE, "--config", copy.write()) as process:
        assert arrived.wait(30)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    nobody = in_copy(connection)
    workos.before = lambda _asked: None
    found = copy.json(*CREATE)

    assert ([], created_in(workos)) == (nobody, [found["id"]])
    assert (1, [found["id"]]) == (len(posts(workos)), in_copy(connection))


def test_the_target_hangs_up_during_the_request(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    The outcome is written down, and the copy completed, with new connections.
    """
    cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'usersync/workos'"
    ended: list[object] = []

    def before(asked: Asked) -> None:
        if asked.method == "POST":
            ended.append(connection.execute(cut).fetchone())

    workos.before = before
    found = copy.json(*CREATE)

    assert [(1,)] == ended
    assert ("created", created_in(workos), True) == (found["outcome"], [found["id"]], found["in_copy"])
    assert [("done", found["id"])] == intents(connection)


def test_a_signal_waits_for_the_reply(copy: Copy, workos: WorkOS, usersync: Command, connection: psycopg.Connection) -> None:
    """
    SIGTERM while the request is under way: its outcome is written down and printed, the status is that of the signal.
    """
    arrived = threading.Event()

    def before(asked: Asked) -> None:
        if asked.method == "POST":
            arrived.set()
            workos.over.wait(1)

    workos.before = before
    with usersync.start(*CREATE, "--config", copy.write()) as process:
        assert arrived.wait(30)
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=60)
    (id_,) = created_in(workos)

    assert (143, True) == (process.returncode, stdout.startswith(f"{id_}: created in WorkOS"))
    assert [("done", id_)] == intents(connection)
    assert ("exists", True) == tuple(copy.json(*CREATE)[name] for name in ("outcome", "in_copy"))
    assert 1 == len(posts(workos))


def test_killed_before_the_reply(copy: Copy, workos: WorkOS, usersync: Command, connection: psycopg.Connection) -> None:
    """
    The intent of the dead process has no outcome: the next call takes it over, finds the person, and ends it.
    """
    arrived = threading.Event()
    answered = workos._answered

    def slowly(asked: Asked, world: object) -> object:
        answer = answered(asked, world)  # type: ignore[arg-type]
        if asked.method == "POST":
            arrived.set()
        return answer

    workos._answered = slowly  # type: ignore[method-assign, assignment]
    spoil(workos, "hang")
    with usersync.start(*CREATE, "--config", copy.write()) as process:
        assert arrived.wait(30)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    still = intents(connection)
    found = copy.json(*CREATE)

    assert [("open", None)] == still
    assert ("exists", created_in(workos), True) == (found["outcome"], [found["id"]], found["in_copy"])
    assert (1, [("done", found["id"])]) == (len(posts(workos)), intents(connection))


def test_two_at_once_are_one(copy: Copy, workos: WorkOS, usersync: Command) -> None:
    """
    The second waits for the first, and finds the person: one POST.
    """

    def before(asked: Asked) -> None:
        if asked.method == "POST":
            workos.over.wait(1)

    workos.before = before
    file = copy.write()
    processes = [usersync.start(*CREATE, "--config", file) for _ in range(2)]
    outputs = [Result(process.wait(60), *process.communicate()) for process in processes]
    (id_,) = created_in(workos)

    assert ([0, 0], 1) == ([one.status for one in outputs], len(posts(workos)))
    assert all(id_ in one.stdout for one in outputs)
    assert {"created", "exists"} == {one.stdout.split()[1] for one in outputs}


def test_two_who_were_created_are_a_conflict(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    Somebody else created them at the same moment, and WorkOS took both: status 10 with both ids, and the copy has both.
    """
    answered = workos._answered

    def both(asked: Asked, world: object) -> object:
        answer = answered(asked, world)  # type: ignore[arg-type]
        if asked.method == "POST":
            workos.world.create_user(EMAIL.lower())
        return answer

    workos._answered = both  # type: ignore[method-assign, assignment]
    found = copy.json(*CREATE, status=10)

    assert ("conflict", None, created_in(workos)) == (found["outcome"], found["id"], found["ids"])
    assert 2 == len(found["ids"])
    assert all(id_ in found["message"] for id_ in found["ids"])
    assert found["ids"] == in_copy(connection)
    assert 10 == copy(*CREATE).status


def test_a_run_that_holds_the_job_gets_the_copy(
    copy: Copy, workos: WorkOS, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The person is created; the copy is left to the next run: status 3, with the id.
    """
    monkeypatch.setattr(creating, "LEASE_SECONDS", 0.0)
    connection.execute("UPDATE usersync.job_locks SET owner = 'another machine', lease_until = now() + interval '1 minute'")
    found = copy.json(*CREATE, status=3)
    connection.execute("UPDATE usersync.job_locks SET owner = NULL, lease_until = NULL")
    copy.run()

    assert ("created", created_in(workos), False) == (found["outcome"], [found["id"]], found["in_copy"])
    assert "usersync run --job workos" in found["hint"]
    assert [found["id"]] == in_copy(connection)


def test_an_interrupted_listing_goes_on_and_keeps_the_person(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    The person is created while a complete listing waits to be resumed, in the middle of the users.
    """
    for _ in range(150):
        workos.world.create_user()
    workos.fail(403, "/user_management/users", times=1, skip=1)
    assert 2 == copy("run", "--job", "workos", "--quiet", "--full").status
    query = "SELECT count(*) FROM usersync.sweeps WHERE outcome = 'abandoned'"
    before = connection.execute(query).fetchone()
    found = copy.json(*CREATE)
    copy.run()
    copy.run("--full")

    assert before == connection.execute(query).fetchone()
    assert [(found["id"], None)] == connection.execute("SELECT id, deleted_at FROM workos_users WHERE email = %s", (EMAIL,)).fetchall()


def test_a_row_that_the_table_refuses_is_set_aside(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    As in a run: the person exists, the record waits among the rejects, status 3.
    """
    connection.execute("ALTER TABLE workos_users ADD CHECK (email NOT LIKE 'New%')")
    found = copy.json(*CREATE, status=3)

    assert ("created", False) == (found["outcome"], found["in_copy"])
    assert [(found["id"],)] == connection.execute("SELECT key FROM usersync.rejects").fetchall()


# the vendor's own emulator


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with running() as found:
        yield found


def test_the_emulator(
    tmp_path: Path,
    emulator: Emulator,
    database: Database,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    connection: psycopg.Connection,
) -> None:
    """
    It takes an address in another case as another person: who exists is found all the same, before the first run, by the copy, and
    when they are newer than that.
    """
    settings = {"type": "workos", "api_url": emulator.url, "api_key": emulator.key}
    copy = Copy(tmp_path, database, settings, capsys, monkeypatch)
    there = [emulator.ask("POST", "/user_management/users", {"email": f"Test.Mixed{n}@Example.org"})["id"] for n in range(2)]
    unread = copy.json("users", "create", "--email", "test.mixed0@example.org")
    copy.run()
    read = copy.json("users", "create", "--email", "test.mixed1@example.org", "--first-name", "Test")
    there.append(emulator.ask("POST", "/user_management/users", {"email": "test.newer@example.org"})["id"])
    newer = copy.json("users", "create", "--email", "Test.Newer@example.org")
    new = copy.json(*CREATE, "--external-id", "4711", "--metadata", "team=test")
    again = copy.json("users", "create", "--email", EMAIL.lower(), "--external-id", "4711")
    taken = copy.json("users", "create", "--email", "third@example.org", "--external-id", "4711", status=10)

    assert [("exists", id_) for id_ in there] == [(one["outcome"], one["id"]) for one in (unread, read, newer)]
    assert ("created", "exists", new["id"], new["id"]) == (new["outcome"], again["outcome"], again["id"], taken["id"])
    assert 4 == len(emulator.listed("users"))
    assert [new["id"]] == in_copy(connection)
    copy.run("--full")
    assert 4 == copy.json("users", "list")["total"]
