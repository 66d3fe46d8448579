"""`usersync users list` and `show`: what the copy has, how old it is, and nothing that a terminal or a spreadsheet would run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.simple_job import PASSWORD, with_password
from tests.workos_copy import Copy
from tests.workos_server import KEY, WorkOS
from usersync_cli.model import Database


@pytest.fixture
def workos() -> Iterator[WorkOS]:
    """Five users; the first two are in an organization."""
    found = WorkOS()
    world = found.world
    organization = world.create_organization("Test Organization")
    for number in range(5):
        user = world.create_user(f"Test.User{number}@example.org", first_name="Test", last_name=f"User {number}")
        if number < 2:
            world.create_membership(user, organization, status="active" if number else "inactive")
    with found.running():
        yield found


@pytest.fixture
def copy(tmp_path: Path, workos: WorkOS, database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Copy:
    return Copy(tmp_path, database, {"type": "workos", "api_url": workos.url, "api_key": KEY}, capsys, monkeypatch)


def ids(copy: Copy, *arguments: str) -> list[str]:
    return [user["id"] for user in copy.json("users", "list", *arguments)["users"]]


# list


def test_pages_have_everybody_once_in_the_order_of_their_ids(copy: Copy, workos: WorkOS) -> None:
    """
    Pages of two: three of them, nobody twice, the total on each.
    """
    copy.run()
    pages = [copy.json("users", "list", "--limit", "2", "--page", str(number)) for number in (1, 2, 3, 4)]

    assert workos.world.ids("users") == [user["id"] for page in pages for user in page["users"]]
    assert [(5, 3)] * 4 == [(page["total"], page["pages"]) for page in pages]
    assert [2, 2, 1, 0] == [len(page["users"]) for page in pages]


def test_json_is_one_versioned_document(copy: Copy) -> None:
    """
    The columns of a user, typed; whose copy it is and how old.
    """
    copy.run()
    found = copy.json("users", "list", "--limit", "1")
    (user,) = found["users"]

    assert (1, "users", 1, 1) == tuple(found[name] for name in ("version", "kind", "page", "limit"))
    assert ("workos", "workos_users", True) == tuple(found["copy"][name] for name in ("job", "table", "complete"))
    assert 0 <= found["copy"]["age_seconds"] < 60
    assert ("Test.User0@example.org", "Test", {}, None) == tuple(user[name] for name in ("email", "first_name", "metadata", "deleted_at"))
    assert "document" not in user


def test_it_works_while_workos_is_away_and_without_its_key(copy: Copy, workos: WorkOS) -> None:
    """
    Nobody asks WorkOS, and a variable of the source that is not set keeps nobody from looking.
    """
    copy.run()
    copy.settings["api_key"] = "${WORKOS_API_KEY_THAT_NOBODY_SET}"
    workos.forget_requests()

    assert 5 == len(ids(copy))
    assert 0 == copy("users", "show", "test.user1@example.org").status
    assert [] == workos.asked


def test_an_address_is_found_in_any_case(copy: Copy) -> None:
    """
    As a whole: no part of one, no pattern.
    """
    copy.run()

    assert 1 == len(ids(copy, "--email", "TEST.user3@EXAMPLE.org"))
    assert [] == ids(copy, "--email", "test.user%@example.org")
    assert [] == ids(copy, "--email", "user3@example.org")


def test_members_of_an_organization(copy: Copy, workos: WorkOS) -> None:
    """
    Whatever the status of their membership, unless it is deleted; an organization that the copy lacks is mentioned.
    """
    copy.run()
    (organization,) = workos.world.ids("organizations")
    first, second, *_ = workos.world.ids("users")
    before = ids(copy, "--organization", organization)
    workos.world.delete_membership(workos.world.ids("organization_memberships")[0])
    copy.run()
    unknown = copy("users", "list", "--organization", "org_unknown")

    assert ([first, second], [second]) == (before, ids(copy, "--organization", organization))
    assert (0, True) == (unknown.status, "the copy has no organization org_unknown" in unknown.stderr)


def test_deleted_people_are_left_out_unless_asked_for(copy: Copy, workos: WorkOS) -> None:
    """
    They are marked, and counted only with --deleted.
    """
    copy.run()
    gone = workos.world.ids("users")[2]
    workos.world.delete_user(gone)
    copy.run()
    everybody = copy.json("users", "list", "--deleted")

    assert (4, 5) == (copy.json("users", "list")["total"], everybody["total"])
    assert [gone] == [user["id"] for user in everybody["users"] if user["deleted_at"]]
    assert "deleted_at" not in copy("users", "list").stdout
    assert "deleted_at" in copy("users", "list", "--deleted").stdout


def test_a_table_for_people(copy: Copy, workos: WorkOS) -> None:
    """
    A line each in columns, then how many there are and how old the copy is; what a terminal would obey is written out.
    """
    workos.world.update_user(workos.world.ids("users")[0], first_name="\x1b[31mTest")
    copy.run()
    found = copy("users", "list", "--limit", "2")
    head, first, _, pages, age = found.stdout.splitlines()

    assert ["id", "email", "first_name", "last_name", "external_id", "last_sign_in_at"] == head.split()
    assert head.index("email") == first.index("Test.User0")
    assert (True, False) == ("\\x1b[31mTest" in first, "\x1b" in found.stdout)
    assert "page 1 of 3: 2 users of 5 in all" == pages
    assert age.startswith("copy of WorkOS in workos_users, as of 2")
    assert age.endswith(" s ago)")


def test_csv_is_safe_for_spreadsheets(copy: Copy, workos: WorkOS) -> None:
    """
    A formula gets a ' in front, NULL is empty, an object is JSON; the age is not part of the file.
    """
    user = workos.world.ids("users")[0]
    workos.world.update_user(user, first_name="=1+1", last_name='Test, "User"', metadata={"team": "test"})
    copy.run()
    found = copy("users", "list", "--output", "csv", "--limit", "1")
    (row,) = csv.DictReader(io.StringIO(found.stdout))

    assert (user, "'=1+1", 'Test, "User"', '{"team": "test"}', "") == tuple(
        row[name] for name in ("id", "first_name", "last_name", "metadata", "deleted_at")
    )
    assert "copy of WorkOS in workos_users, as of" in found.stderr
    assert "as of" not in found.stdout


def test_nobody_is_said_as_such(copy: Copy) -> None:
    """
    No user at all, and a page behind the last one.
    """
    copy.run()

    assert copy("users", "list", "--email", "nobody@example.org").stdout.startswith("nobody\n")
    assert copy("users", "list", "--page", "9").stdout.startswith("there is no page 9: 5 users in all\n")
    assert "id,email" in copy("users", "list", "--email", "nobody@example.org", "--output", "csv").stdout


# how old


def test_without_a_run_there_is_no_table(copy: Copy) -> None:
    """
    The error says which run makes it.
    """
    for command in (["list"], ["show", "user_01TEST"]):
        found = copy("users", *command)
        assert (9, "") == (found.status, found.stdout)
        assert "there is no table workos_users in the target yet" in found.stderr
        assert "usersync run --job workos" in found.stderr


def test_a_copy_that_was_never_complete_says_so(copy: Copy, workos: WorkOS) -> None:
    """
    The first run was cut off behind its users: they are shown, as a part.
    """
    workos.fail(403, "/organizations")
    assert 2 == copy("run", "--job", "workos", "--quiet").status
    found = copy.json("users", "list")

    assert (5, None, None, False) == (found["total"], *(found["copy"][name] for name in ("as_of", "age_seconds", "complete")))
    assert "never complete" in copy("users", "list").stdout


def test_the_age_is_that_of_the_last_good_poll(copy: Copy, workos: WorkOS, connection: psycopg.Connection) -> None:
    """
    A poll that failed does not make the copy younger, one without news does.
    """
    copy.run()
    connection.execute("UPDATE usersync.cursors SET updated_at = updated_at - interval '1 hour'")
    workos.fail(403, "/events", times=1)
    assert 2 == copy("run", "--job", "workos", "--quiet").status
    before = copy.json("users", "list")["copy"]["age_seconds"]
    copy.run()

    assert 3600 <= before < 3700
    assert copy.json("users", "list")["copy"]["age_seconds"] < 60


# show


def test_show_has_all_of_a_person(copy: Copy, workos: WorkOS) -> None:
    """
    By id and by address in any case: columns, document, memberships with their organizations.
    """
    copy.run()
    user, (organization,) = workos.world.ids("users")[0], workos.world.ids("organizations")
    by_id, by_email = (copy.json("users", "show", who) for who in (user, "TEST.USER0@example.org"))
    (found,) = by_id["users"]
    text = copy("users", "show", user).stdout

    assert by_id["users"] == by_email["users"]
    assert (1, "user", user, False) == (by_id["version"], by_id["kind"], found["id"], found["deleted"])
    assert user == found["document"]["id"]
    assert [(organization, "Test Organization", "inactive")] == [
        (one["organization_id"], one["organization"], one["status"]) for one in found["memberships"]
    ]
    assert f"    Test Organization ({organization}): member, inactive\n" in text
    assert "copy of WorkOS in workos_users, as of" in text


def test_show_has_deleted_people_and_all_of_one_address(copy: Copy, workos: WorkOS) -> None:
    """
    Somebody who was deleted and came back has two ids.
    """
    copy.run()
    gone = workos.world.ids("users")[3]
    workos.world.delete_user(gone)
    new = workos.world.create_user("test.user3@example.org")
    copy.run()
    found = copy.json("users", "show", "Test.User3@example.org")["users"]

    assert [(gone, True), (new, False)] == [(one["id"], one["deleted"]) for one in found]
    assert f"{gone}: deleted\n" in copy("users", "show", gone).stdout


def test_nobody_to_show(copy: Copy) -> None:
    """
    Status 9, and JSON says so too.
    """
    copy.run()
    found = copy("users", "show", "nobody@example.org")

    assert (9, "") == (found.status, found.stdout)
    assert "nobody@example.org" not in found.stderr
    assert "not_found" == copy.json("users", "show", "user_unknown", status=9)["code"]


# whose copy


def test_several_jobs_have_to_be_told_apart(copy: Copy) -> None:
    """
    --job says whose; a job that copies nobody is refused with those that do.
    """
    copy.run()
    jobs = copy.document["jobs"]
    jobs["other"] = {"steps": [{**jobs["workos"]["steps"][0], "load": {**copy.load, "table": "other_{stream}"}}]}
    jobs["organizations"] = {
        "steps": [{"name": "copy", "extract": {"source": "workos", "streams": ["organizations"]}, "load": {**copy.load, "table": "o"}}]
    }
    vague, wrong, unknown = (copy("users", "list", *job) for job in ([], ["--job", "organizations"], ["--job", "wrokos"]))

    assert (2, 2, 2) == (vague.status, wrong.status, unknown.status)
    assert "--job workos or --job other" in vague.stderr
    assert "job organizations copies no people that sign in" in wrong.stderr
    assert 'did you mean "workos"' in unknown.stderr or "workos" in unknown.stderr
    assert 5 == len(ids(copy, "--job", "workos"))


def test_a_config_without_such_a_job(copy: Copy) -> None:
    """
    The error says where one is written down.
    """
    copy.document["jobs"]["workos"]["steps"][0]["extract"]["streams"] = ["organizations"]

    assert "config.example.yaml has one" in copy("users", "list").stderr


def test_a_role_that_may_not_read_is_told_what_it_needs(copy: Copy, connection: psycopg.Connection) -> None:
    """
    And a password of the target is never printed.
    """
    copy.run()
    connection.execute("DROP ROLE IF EXISTS users_reader; CREATE ROLE users_reader LOGIN")
    copy.document["target"] = with_password(copy.target.url).replace("postgres:", "users_reader:")
    found = copy("users", "list")
    connection.execute("DROP ROLE users_reader")

    assert 2 == found.status
    assert "needs SELECT on workos_users" in found.stderr
    assert PASSWORD not in found.stderr
