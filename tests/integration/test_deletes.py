"""Who left the source goes from the target, and nobody else: `on_missing`, the guard, and approvals."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import Command
from tests.simple_job import Job
from usersync_cli.model import Database

PEOPLE = "INSERT INTO people_at_source SELECT i, 'Test User ' || i FROM generate_series(%s, %s) i"


@pytest.fixture
def job(usersync: Command, new_database: Callable[[], Database]) -> Job:
    return Job(usersync, new_database(), new_database())


def fill(job: Job, first: int, last: int) -> None:
    job.at_source(PEOPLE % (first, last))


def ids(job: Job, where: str = "true") -> list[int]:
    return [row[0] for row in job.at_target(f"SELECT id FROM people WHERE {where} ORDER BY id")]


@pytest.mark.parametrize("how", ["delete", "mark", "keep"])
def test_who_left_the_source_goes(job: Job, how: str) -> None:
    """
    Rows that the source had and has no more are deleted, marked or kept; rows of another origin are never touched.
    """
    job.write(load={"on_missing": how})
    fill(job, 1, 100)
    assert job.run().status == 0
    job.at_target("INSERT INTO people (id, name) VALUES (1000, 'by hand')")
    job.at_source("DELETE FROM people_at_source WHERE id IN (3, 50)")
    fill(job, 101, 101)

    done = job.run()

    assert done.status == 0, done
    there = [i for i in range(1, 102) if i not in (3, 50)]
    assert {"delete": [*there, 1000], "mark": sorted([*there, 3, 50, 1000]), "keep": sorted([*there, 3, 50, 1000])}[how] == ids(job)
    if how == "mark":
        assert [3, 50] == ids(job, "deleted_at IS NOT NULL")
    assert ("0 gone" if how == "keep" else "2 gone") in done.stdout
    again = job.run()
    assert "nothing changed" in again.stdout


def test_who_comes_back_is_there_again(job: Job) -> None:
    """
    deleted_at is taken away when the record is at the source again, though nothing else of it changed.
    """
    job.write(load={"on_missing": "mark"})
    fill(job, 1, 30)
    job.run()
    job.at_source("DELETE FROM people_at_source WHERE id = 7")
    job.run()
    assert [7] == ids(job, "deleted_at IS NOT NULL")
    fill(job, 7, 7)

    back = job.run()

    assert [] == ids(job, "deleted_at IS NOT NULL")
    assert "1 changed" in back.stdout


def test_a_big_loss_waits_for_a_person(job: Job) -> None:
    """
    40 % gone: nothing is removed, what came is written, exit 6; the list that is approved goes, once, and nobody else.
    """
    job.write(load={"on_missing": "delete"})
    fill(job, 1, 100)
    job.run()
    job.at_source("DELETE FROM people_at_source WHERE id <= 40")
    fill(job, 101, 102)
    refused = job.run()
    assert refused.status == 6, refused
    assert list(range(1, 103)) == ids(job)
    assert "usersync run --job copy --approve-deletes 2" in refused.stderr

    job.run()  # the next night finds the same, and the list keeps its number
    shown = job.usersync("approvals", "show", "2")
    assert [str(i) for i in sorted(map(str, range(1, 41)))] == shown.stdout.split()
    fill(job, 1, 5)  # five came back
    job.at_source("DELETE FROM people_at_source WHERE id IN (90, 91)")  # two more left

    approved = job.run("--approve-deletes", "2")

    assert approved.status == 0, approved
    assert [1, 2, 3, 4, 5, *range(41, 103)] == ids(job)
    twice = job.run("--approve-deletes", "2")
    assert twice.status == 10, twice
    assert "used by run 4" in twice.stderr
    assert job.run().status == 0
    assert [1, 2, 3, 4, 5, *(i for i in range(41, 103) if i not in {90, 91})] == ids(job)
