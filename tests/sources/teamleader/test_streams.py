"""Several streams of one job fail: each is told by its name, with its reason, until it was read well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import Command
from tests.sources.teamleader.test_source import VARIABLES, clean, with_token
from tests.teamleader_job import Crm
from tests.teamleader_server import Teamleader
from usersync_cli.cli.reporter import document
from usersync_cli.clients.http.responses import Refused
from usersync_cli.errors import status_of
from usersync_cli.state import ledger


@pytest.fixture
def failing(usersync: Command, database: Any) -> Iterator[Crm]:
    """A job of four streams, which a local Teamleader gives; two of them fail."""
    with Teamleader().running() as api:
        crm = Crm(api, database, ["contacts", "users", "events", "departments"], {"detail": "list"})
        for resource in crm.streams:
            api.add(resource, 3)
        api.scopes -= {"events"}
        api.fail(400, "users.list", times=1000)
        with_token(usersync, crm)
        yield crm


def test_every_failing_stream_is_told(failing: Crm, usersync: Command) -> None:
    """
    Two of four streams fail: the run, `status` and `health` name both and why; a good run of another stream changes nothing, and
    each is well when it was read.
    """
    result = failing.run()
    error = result.steps[0].error

    assert error is not None
    assert (7, True, True) == (status_of(error), "stream users:" in error.message, "stream events:" in error.message)
    assert "2 of 4 streams failed" in error.message
    streams = {one["stream"]: one for one in document(result)["steps"][0]["streams"]}
    assert {"contacts": 0, "users": 7, "events": 2, "departments": 0} == {name: one["exit_status"] for name, one in streams.items()}
    assert (3, 0) == (streams["contacts"]["inserted"], streams["users"]["inserted"])
    assert "events" in streams["events"]["error"]["message"]
    assert 0 == failing.run(streams=["contacts"]).exit_status
    health, status = (clean(usersync(name, "--job", "teamleader", "--output", "json", **VARIABLES)) for name in ("health", "status"))
    (judged,), (shown,) = json.loads(health.stdout)["jobs"], json.loads(status.stdout)["jobs"]
    assert 7 == health.status
    assert (
        ["events", "users"] == [one["stream"] for one in judged["failing_streams"]] == [one["stream"] for one in shown["failing_streams"]]
    )
    assert all(word in judged["what"] for word in ("stream events failed", "stream users failed", "the scope events is missing"))
    failing.server.faults.clear()
    assert 0 == failing.run(streams=["users"]).exit_status
    assert ["events"] == still_failing(failing)
    failing.server.scopes.add("events")
    assert 0 == failing.run(streams=["events"]).exit_status
    assert [] == still_failing(failing)


def still_failing(crm: Crm) -> list[str]:
    with psycopg.connect(crm.target.url) as connection:
        return [one.stream for one in ledger.failing(connection, "teamleader")]


def test_a_step_that_was_left_out_is_not_well(failing: Crm, usersync: Command) -> None:
    """
    The whole source fails, then one stream is read well: those that were not read since are still failing.
    """
    failing.server.fail(400, "users.me", times=1)
    assert 7 == failing.run().exit_status
    assert 0 == failing.run(streams=["contacts"]).exit_status
    told = clean(usersync("status", "--job", "teamleader", **VARIABLES)).stdout

    assert ["departments", "events", "users"] == still_failing(failing)
    assert all(f"stream {name} since" in told for name in ("users", "events", "departments"))


def test_verify_compares_one_stream(failing: Crm, usersync: Command) -> None:
    """
    `verify --stream` reads that stream and no other; one that is not there is named.
    """
    assert 0 == failing.run(streams=["contacts"]).exit_status
    before = len(failing.server.asked)
    done = clean(usersync("verify", "--job", "teamleader", "--stream", "contacts", "--output", "json", **VARIABLES))

    assert (0, ["contacts"]) == (done.status, [one["stream"] for one in json.loads(done.stdout)["steps"]])
    assert {"users.me", "contacts.list"} == {asked.path for asked in failing.server.asked[before:]}
    unknown = clean(usersync("verify", "--job", "teamleader", "--stream", "nobody", **VARIABLES))
    assert (2, True) == (unknown.status, "reads no stream nobody" in unknown.stderr)


TITLES = [("You are not allowed to access this resource", True), ("Jan Peeters can't be shown", False), ("Test User 1 is unknown", False),
          ("The page size is not valid", True), ("x@test.example", False), ("", False)]  # fmt: skip


@pytest.mark.parametrize(("title", "shown"), TITLES)
def test_titles_name_nobody(title: str, shown: bool) -> None:  # noqa: FBT001  a parameter
    """
    The vendor's title of an error is shown where it has nothing but words of errors.
    """
    assert (title if shown else "") == Refused("refused", http_status=400, title=title).words
