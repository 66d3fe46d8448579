"""`check` tries the rules of a step's identity on the columns that it loads, and names the lists by their dates."""

from __future__ import annotations

import re
from typing import Any

from tests.conftest import Command, NewDatabase
from tests.list_source import ListSource, Sync
from tests.simple_job import Job, clean
from usersync_cli.identity import lists
from usersync_cli.model import Database
from usersync_cli.report.check import Finding, check

SELECT = "SELECT key AS id, data ->> 'website' AS website FROM records"


def rule(domain: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "website", "domain": domain, **more}]


def found(sync: Sync) -> list[Finding]:
    """What check finds for the step's identity."""
    return [one for one in check(sync.job, sync.context) if " app crm" in one.what or one.what.startswith("identity: ") or one.error]


def sync(database: Database, identity: list[dict[str, Any]], on_missing: str = "mark") -> Sync:
    source = ListSource({"companies": [{"id": "1", "website": "example.org"}], "contacts": []})
    return Sync(source, database, {"on_missing": on_missing}, SELECT, identity)


def test_which_rules_and_which_lists(database: Database) -> None:
    """
    Each app with its rules, by stream, and the lists with their dates; when the rules are others than in the last run, what that means.
    """
    before = [{"stream": "companies", "app": "crm.companies", "id": "id", "rules": rule("website")}]
    rules = [*rule("website"), {"name": "other", "domain": "lower(website)"}]
    job = sync(database, [{**before[0], "rules": rules, "max_ids": 5000}])

    listed, app = found(job)
    assert (listed.error, listed.what.partition(" (")[0]) == (None, f"identity: public suffixes of {lists.suffixes().dated}")
    told = "app crm.companies: its ids are id, by website, then other; up to 5,000 ids with one domain"
    assert (f"step all: stream companies from source crm: {told}", "", None) == (app.what, app.advice, app.error)
    assert [(None,)] == job.ask("SELECT to_regclass('usersync.mappings')")

    assert "without a rule, they are known" in found(sync(database, [{**before[0], "rules": []}]))[1].what
    sync(database, before).ok()
    assert [""] == [one.advice for one in found(sync(database, before))[1:]]
    assert "usersync run --job sync --step all --dry-run --diff" in found(job)[1].advice
    assert "on_missing is keep" in found(sync(database, before, "keep"))[1].advice


WRONG: list[tuple[dict[str, Any], list[str]]] = [
    ({"rules": rule("web")}, ['column "web" does not exist', "columns that the step loads"]),
    ({"rules": rule("website) || (website")}, ["rule website of app crm", "syntax error"]),
    ({"rules": rule("website, id")}, ["rule website of app crm: it gives several values"]),
    ({"rules": rule("(SELECT 1/0 FROM nothing)")}, ['"nothing" does not exist']),
    ({"rules": rule("website", uuid="nobody")}, ['column "nobody" does not exist']),
    ({"id": "tl_uuid", "rules": rule("website")}, ["the step loads no column tl_uuid", "id, website"]),
]


def test_rules_that_will_not_work(database: Database) -> None:
    """
    A rule that is no expression over the columns, and an id that is no column, are refused with 2: by check, and by a run and a dry
    run before anything is read.
    """
    for identity, words in WRONG:
        job = sync(database, [{"stream": "companies", "app": "crm", "id": "id", **identity}])

        error = found(job)[1].error
        assert error is not None
        assert 2 == error.status
        assert [] == [word for word in words if word not in f"{error.message} {error.hint}"]
        job.source.read.clear()  # check looks at the first page
        for dry_run in (True, False):
            run = job.run(dry_run=dry_run)
            assert (2, []) == (run.exit_status, job.source.read), identity
            assert error.message in str(run.steps[0].error)


def test_a_step_of_tables(usersync: Command, new_database: NewDatabase) -> None:
    """
    The same for a step of tables, as the command prints it.
    """
    job = Job(usersync, new_database("source crm"), new_database(), migrated=False)
    for domain, status in (("name", 0), ("website", 2)):
        job.write(load={"on_missing": "mark"})
        job.document["jobs"]["copy"]["steps"][0]["identity"] = {"app": "crm", "id": "id", "rules": rule(domain)}
        job.document["identity"] = {"nobody": ["example.net"]}
        job.save()
        result = clean(job.usersync("check"))

        assert status == result.status, result
        if status == 0:
            assert "ok   copy: step people: app crm: its ids are id, by website; up to 1,000 ids with one domain" in result.stdout
            assert re.search(r"^ok   copy: identity: public suffixes of 20.*, the config's \([0-9a-f]{8}\)$", result.stdout, re.MULTILINE)
        else:
            assert 'FAIL copy: step people: identity: rule website of app crm: column "website" does not exist' in result.stdout
