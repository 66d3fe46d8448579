"""`usersync status` counts the conflicts of the map that keep a job at exit status 3."""

from __future__ import annotations

import json

from tests.conftest import Command, NewDatabase
from tests.simple_job import Job, clean


def test_conflicts_of_the_map(usersync: Command, new_database: NewDatabase) -> None:
    """
    An id that is one customer on the map and another at the source is shown with its step, as text and JSON, until it is over.
    """
    job = Job(usersync, new_database("source crm"), new_database())
    job.document["jobs"]["copy"]["steps"][0]["identity"] = {"app": "crm", "id": "id", "rules": [{"name": "name", "domain": "name"}]}
    job.save()
    job.at_source("INSERT INTO people_at_source VALUES (1, 'example.org')")
    job.sync()
    job.at_source("UPDATE people_at_source SET name = 'example.com'")
    assert 3 == job.sync().exit_status

    shown = clean(usersync("status")).stdout
    assert "conflicts       1 id of step people: one customer on the map, another at the source" in shown
    assert "usersync mappings conflicts list" in shown
    (document,) = json.loads(usersync("status", "--output", "json").stdout)["jobs"]
    assert [{"step": "people", "waiting": 1}] == document["conflicts"]

    job.at_target("UPDATE usersync.identity_conflicts SET status = 'ignored'")
    assert "one customer on the map, another" not in clean(usersync("status")).stdout
