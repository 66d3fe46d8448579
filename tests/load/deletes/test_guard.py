"""What the guard has refused stays refused: until a person approves it, or the rows come back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.conftest import Command, NewDatabase
from tests.list_source import TRANSFORM, ListSource, Sync, counts, people, person
from tests.simple_job import PERSON, Job, clean, execute
from usersync_cli.cli.bootstrap import run_context
from usersync_cli.clients.postgres.connections import connect
from usersync_cli.config import loader
from usersync_cli.errors import UsersyncError
from usersync_cli.load import writers
from usersync_cli.report import check
from usersync_cli.run import job as run
from usersync_cli.run.context import Options
from usersync_cli.run.job import RunResult
from usersync_cli.signals import Stop
from usersync_cli.state import migrations


class Nightly(Protocol):
    """A job of one table, whatever it reads."""

    def source(self, ids: Iterable[int]) -> None: ...
    def load(self, **load: Any) -> None: ...
    def edit(self, where: str) -> None: ...
    def run(self, **options: Any) -> RunResult: ...
    def there(self) -> list[int]: ...
    def ask(self, query: str) -> list[tuple[Any, ...]]: ...


@dataclass
class Documents:
    """A stream of documents into the table people."""

    sync: Sync

    def source(self, ids: Iterable[int]) -> None:
        self.sync.source.streams["people"] = people(*ids)

    def load(self, **load: Any) -> None:
        self.sync.load = load

    def edit(self, where: str) -> None:
        self.sync.transform = f"{TRANSFORM} WHERE key::int {where}"

    def run(self, **options: Any) -> RunResult:
        return self.sync.run(**options)

    def there(self) -> list[int]:
        mark = self.sync.load["on_missing"] == "mark"
        return self.sync.rows(where="deleted_at IS NULL" if mark else "true")

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        return self.sync.ask(query)


@dataclass
class Tables:
    """A table into the table people."""

    job: Job

    def source(self, ids: Iterable[int]) -> None:
        values = ", ".join(f"({i}, '{PERSON}')" for i in ids)
        self.job.at_source(f"DELETE FROM people_at_source; INSERT INTO people_at_source VALUES {values}")

    def load(self, **load: Any) -> None:
        self.job.write(load=load)

    def edit(self, where: str) -> None:
        self.job.document["jobs"]["copy"]["steps"][0]["transform"] = f"SELECT * FROM records WHERE id {where}"
        self.job.save()

    def run(self, **options: Any) -> RunResult:
        return self.job.sync(**options)

    def there(self) -> list[int]:
        mark = self.job.document["jobs"]["copy"]["steps"][0]["load"]["on_missing"] == "mark"
        query = f"SELECT id FROM people WHERE {'deleted_at IS NULL' if mark else 'true'} ORDER BY id"
        return [id_ for (id_,) in self.job.at_target(query)]

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        return self.job.at_target(query)


@pytest.fixture
def sync(new_database: NewDatabase) -> Sync:
    target = new_database()
    migrations.upgrade(target)
    return Sync(ListSource({"people": people(*range(1, 101))}, size=5000), target, {"on_missing": "delete"})


@pytest.fixture(params=["documents", "tables"])
def nightly(request: pytest.FixtureRequest) -> Nightly:
    if request.param == "documents":
        return Documents(request.getfixturevalue("sync"))
    new_database: NewDatabase = request.getfixturevalue("new_database")
    return Tables(Job(request.getfixturevalue("usersync"), new_database("source crm"), new_database()))


def refused(nightly: Nightly, **options: Any) -> str:
    """What a run says that the guard stopped."""
    result = nightly.run(**options)
    error = result.steps[0].error
    assert (6, 0) == (result.exit_status, result.steps[0].counts.gone), error
    assert error is not None
    return error.message


# a refusal holds


@pytest.mark.parametrize(("how", "before", "new"), [("mark", 100, 2000), ("delete", 9, 200), ("delete", 3, 300)])
def test_what_was_refused_does_not_go_by_itself(nightly: Nightly, how: str, before: int, new: int) -> None:
    """
    Everybody has another number: refused, and refused again, however many new ones the refused reading has stored, and
    whatever share may go by then; approved, exactly these go.
    """
    old, other = range(1, before + 1), range(1001, 1001 + new)
    nightly.load(on_missing=how)
    nightly.source(old)
    assert 0 == nightly.run().exit_status
    nightly.source(other)

    stream = "stream people, " if isinstance(nightly, Documents) else ""
    for night in range(3):
        if night == 2:
            nightly.load(on_missing=how, max_missing="50%")
        message = refused(nightly)
        assert message.startswith(f"step {'all' if stream else 'people'}: {stream}table people: {before} "), message
        assert refused(nightly, dry_run=True).startswith(f"step {'all' if stream else 'people'}: {stream}table people: {before} ")
        assert [*old, *other] == nightly.there()

    assert [(2, before)] == nightly.ask("SELECT run_id, keys FROM usersync.approvals WHERE status = 'waiting'")
    approved = nightly.run(approve_deletes=2)
    assert (0, before) == (approved.exit_status, approved.steps[0].counts.gone)
    assert list(other) == nightly.there()
    assert 0 == nightly.run().exit_status


def test_rows_that_come_back_end_it(nightly: Nightly) -> None:
    """
    Some came back: the others wait on; all of them: the list is withdrawn, and the guard measures by what is there now.
    """
    nightly.load(on_missing="delete")
    nightly.source(range(1, 101))
    nightly.run()
    nightly.source(range(41, 101))
    refused(nightly)
    nightly.source(range(3, 101))
    assert "2 rows that run 2 kept are still missing at the source; nobody was removed" in refused(nightly)
    assert "2 rows that run" in refused(nightly)
    nightly.source(range(1, 101))

    assert 0 == nightly.run(dry_run=True).exit_status
    assert 0 == nightly.run().exit_status
    assert [("withdrawn",), ("withdrawn",)] == nightly.ask("SELECT status FROM usersync.approvals")
    nightly.source(range(3, 101))
    result = nightly.run()
    assert (0, 2) == (result.exit_status, result.steps[0].counts.gone)


def test_who_leaves_meanwhile_waits_too(nightly: Nightly) -> None:
    """
    Whoever leaves while a list waits is on the next one; the older list, approved, lets its own go, and the rest waits on.
    """
    nightly.load(on_missing="delete")
    nightly.source(range(1, 101))
    nightly.run()
    nightly.source(range(41, 101))
    refused(nightly)
    nightly.source(range(43, 101))
    refused(nightly)

    older = nightly.run(approve_deletes=2)
    assert (6, 40) == (older.exit_status, older.steps[0].counts.gone)
    assert isinstance(error := older.steps[0].error, UsersyncError)
    assert "2 rows that run 3 kept are still missing at the source; nobody else was removed" in error.message
    assert "--approve-deletes 3" in error.hint
    assert "2 rows" in refused(nightly)
    assert list(range(41, 101)) == nightly.there()
    newer = nightly.run(approve_deletes=3)
    assert (0, 2) == (newer.exit_status, newer.steps[0].counts.gone)
    assert [("used", 40), ("used", 2)] == nightly.ask("SELECT status, removed FROM usersync.approvals ORDER BY run_id")
    assert 0 == nightly.run().exit_status


def test_rows_that_somebody_removes_by_hand_end_it(nightly: Nightly) -> None:
    """
    A person removed the rows in the table instead of approving them: nothing is left to wait for.
    """
    nightly.load(on_missing="delete")
    nightly.source(range(1, 101))
    nightly.run()
    nightly.source(range(41, 101))
    refused(nightly)
    nightly.ask("DELETE FROM people WHERE id <= 40")

    assert 0 == nightly.run().exit_status
    assert [("withdrawn",)] == nightly.ask("SELECT status FROM usersync.approvals")


def test_changes_between_complete_listings_do_not_hide_it(sync: Sync) -> None:
    """
    A reading of changes ends with 6 too as long as rows wait; it may bring them back, and then it does not.
    """
    sync.source.since = True
    sync.ok()
    sync.source.streams["people"] = people(*range(41, 101))
    assert 6 == sync.run(full=True).exit_status
    for dry_run in (True, False):
        assert (6, "0 0 0 0") == ((result := sync.run(dry_run=dry_run)).exit_status, counts(result))
    sync.source.changes["people"] = [*people(*range(2, 41)), {"id": 50, "_deleted": True}]
    for dry_run in (True, False):
        result = sync.run(dry_run=dry_run)
        assert 6 == result.exit_status, dry_run
        assert "2 rows" in str(result.steps[0].error) or "1 row that" in str(result.steps[0].error)
    assert [("1",), ("50",)] == sync.ask(
        "SELECT key FROM usersync.approval_keys WHERE approval_id = (SELECT max(id) FROM usersync.approvals WHERE status = 'waiting')"
        " ORDER BY key::int"
    )
    sync.source.changes["people"] = [person(1), person(50)]

    assert (0, 0) == (sync.run(dry_run=True).exit_status, sync.run().exit_status)
    assert list(range(1, 101)) == sync.rows()
    assert [] == sync.ask("SELECT * FROM usersync.approvals WHERE status = 'waiting'")


def test_another_stream_does_not_hide_it(sync: Sync) -> None:
    """
    A run that reads another stream of the step ends with 6 as well, and says which stream waits.
    """
    sync.load["on_missing"] = "mark"
    sync.source.streams["companies"] = people(1, 2)
    sync.ok()
    sync.source.streams["people"] = people(*range(41, 101))
    assert 6 == sync.run().exit_status

    result = sync.run(streams=["companies"])

    assert 6 == result.exit_status
    assert "step all: stream people, table people: 40 of 100 rows would go" in str(result.steps[0].error)


def test_what_the_transform_leaves_out_is_not_let_go_either(sync: Sync) -> None:
    """
    Documents for which the transform gives no row any more: kept again in the next run, that knows them already; also
    when they change, and are left out still.
    """
    sync.transform = f"{TRANSFORM} WHERE data ->> 'name' <> 'nobody'"
    sync.ok()
    for at in range(40):
        sync.source.streams["people"][at] = person(at + 1, "nobody")
    for night in range(3):
        for dry_run in (True, False):
            assert 6 == sync.run(dry_run=dry_run).exit_status, (night, dry_run)
        sync.source.streams["people"][night]["age"] = 31
    assert list(range(1, 101)) == sync.rows()

    assert "0 0 60 40" == sync.ok(approve_deletes=2)


def test_a_step_that_is_gone_waits_for_nobody(sync: Sync) -> None:
    """
    A list of a stream that the job reads no more, or of a step that keeps everybody now, is withdrawn by the next run.
    """
    sync.source.streams["companies"] = people(*range(1, 11))
    sync.ok()
    sync.source.streams = {"people": people(*range(41, 101)), "companies": people(10)}
    assert 6 == sync.run().exit_status
    del sync.source.streams["companies"]
    assert 6 == sync.run().exit_status
    assert [("companies", "withdrawn"), ("people", "waiting")] == sync.ask("SELECT stream, status FROM usersync.approvals ORDER BY 1")
    sync.load["on_missing"] = "keep"

    assert 0 == sync.run().exit_status
    assert [] == sync.ask("SELECT FROM usersync.approvals WHERE status = 'waiting'")


def write_file(folder: Path, ids: Iterable[int], **more: Any) -> None:
    lines = [json.dumps({"id": i, "name": f"{PERSON} {i}", **more}) for i in ids]
    (folder / "people.jsonl").write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def files(usersync: Command, new_database: NewDatabase) -> Command:
    """A job with a schedule from files into the table people, and another step beside it; by the real command."""
    path = {"path": "people.jsonl", "key": "id"}
    load = {"table": "people", "key": ["id"], "create": True, "on_missing": "mark"}
    step = {
        "name": "people",
        "extract": {"source": "crm", "streams": ["people"]},
        "transform": "SELECT key::int AS id, data ->> 'name' AS name FROM records",
        "load": load,
    }
    document = {
        "environment": "test",
        "target": new_database().url,
        "sources": {"crm": {"type": "file", "streams": {"people": path, "companies": path}}},
        "jobs": {
            "copy": {
                "schedule": "* * * * *",
                "steps": [
                    step,
                    {**step, "name": "others", "extract": {"source": "crm", "streams": ["companies"]}, "load": {**load, "table": "others"}},
                ],
            }
        },
    }
    (usersync.folder / "config.yaml").write_text(json.dumps(document))
    return usersync


def test_nobody_overlooks_it(files: Command) -> None:
    """
    The same file again: `run -q`, `status` and `health` report it, with step, stream and table; health also after a run
    of another step that went well.
    """
    settings = loader.load(files.folder / "config.yaml")
    write_file(files.folder, range(1, 101))
    assert 0 == in_process(settings).exit_status
    write_file(files.folder, range(1001, 3001))
    assert 6 == in_process(settings).exit_status

    again = clean(files("run", "--job", "copy", "--step", "people", "-q"))
    assert 6 == again.status, again
    expected = "copy: step people: stream people, table people: 100 of 100 rows would go, and 10 may without a person; nobody was removed"
    assert expected in again.stderr
    assert "usersync run --job copy --approve-deletes 2" in again.stderr
    write_file(files.folder, [*range(1, 101), *range(1001, 3001)])
    assert 0 == in_process(settings, "others").exit_status
    health = clean(files("health"))
    assert 6 == health.status
    assert "step people: stream people, table people: 100 of 100 rows would go" in health.stdout
    assert "usersync approvals show 2" in health.stdout
    assert "100 rows of step people wait since" in files("status").stdout
    assert 0 == in_process(settings).exit_status
    assert 0 == files("health").status


# an edited step


@pytest.mark.parametrize("how", ["delete", "mark"])
def test_an_edited_step_removes_nobody_without_a_person(nightly: Nightly, how: str) -> None:
    """
    A condition that leaves eight out: nobody goes, until a person approves it; put back, nothing is left to approve. From
    then on the guard looks at the numbers again.
    """
    nightly.load(on_missing=how)
    nightly.source(range(1, 101))
    nightly.run()
    for night in range(2):
        nightly.edit("> 8")
        assert "8 " in refused(nightly, dry_run=True)
        assert "8 " in refused(nightly)
        assert list(range(1, 101)) == nightly.there()
        nightly.edit("> 0")
        if night == 0:
            assert (0, 0) == (nightly.run().exit_status, nightly.run().exit_status)
    nightly.edit("> 8")
    refused(nightly)
    ((list_,),) = nightly.ask("SELECT run_id FROM usersync.approvals WHERE status = 'waiting'")

    approved = nightly.run(approve_deletes=list_)

    assert (0, 8) == (approved.exit_status, approved.steps[0].counts.gone)
    nightly.source(range(11, 101))
    result = nightly.run()
    assert (0, 2) == (result.exit_status, result.steps[0].counts.gone)


def test_an_edit_that_lacks_nobody_is_no_question(nightly: Nightly) -> None:
    """
    Nobody is missing in the first reading after an edit: whoever leaves later, leaves by the numbers.
    """
    nightly.load(on_missing="delete")
    nightly.source(range(1, 101))
    nightly.run()
    nightly.edit("> 0")
    nightly.load(on_missing="delete", max_missing="6%")  # how much may go is no edit of what there is
    nightly.run()
    nightly.source(range(3, 101))

    result = nightly.run()

    assert (0, 2) == (result.exit_status, result.steps[0].counts.gone)


@pytest.mark.parametrize(
    "edit",
    [{"path": "other.jsonl"}, {"path": "*other.jsonl"}, {"key": "number"}, {"deleted": "left"}],
    ids=["another file", "a pattern", "another key", "another field says it"],
)
def test_a_source_that_is_told_to_read_something_else(files: Command, edit: dict[str, str]) -> None:
    """
    Another path, key or field of deletion of a stream of files is an edit as well, whatever the step itself says.
    """
    job = loader.load(files.folder / "config.yaml")
    write_file(files.folder, range(1, 101))
    assert 0 == in_process(job).exit_status
    document = json.loads((files.folder / "config.yaml").read_text())
    document["sources"]["crm"]["streams"]["people"] |= edit
    (files.folder / "config.yaml").write_text(json.dumps(document))
    (files.folder / "people.jsonl").write_text(
        "".join(json.dumps({"id": i, "number": i + (9000 if i > 95 else 0), "name": PERSON, "left": i > 95}) + "\n" for i in range(1, 101))
    )
    (files.folder / "other.jsonl").write_text("".join(json.dumps({"id": i, "name": PERSON}) + "\n" for i in range(1, 96)))

    result = in_process(loader.load(files.folder / "config.yaml"))

    assert (6, 0) == (result.exit_status, result.steps[0].counts.gone), result
    assert "was edited" in str(result.steps[0].error)


def in_process(settings: loader.Config, step: str = "people") -> RunResult:
    job = settings.job("copy")
    return run.run(job, run_context(settings, job, Stop()), Options(steps=[step]))


# a slow drain


def test_a_few_in_each_run_are_many_in_a_week(nightly: Nightly) -> None:
    """
    Ten of 200 in each run: three runs may, then a person is asked, and the count begins again; older ones do not count.
    """
    nightly.load(on_missing="delete")
    nightly.source(range(1, 201))
    nightly.run()
    for night in (1, 2, 3):
        nightly.source(range(10 * night + 1, 201))
        assert 0 == nightly.run().exit_status, night
    nightly.source(range(41, 201))
    assert "10 rows would go after 30 in the last 7 days, and 30 of 200 may in that time" in refused(nightly)
    assert list(range(31, 201)) == nightly.there()
    assert 10 == nightly.run(approve_deletes=5).steps[0].counts.gone
    nightly.source(range(51, 201))
    assert 0 == nightly.run().exit_status
    nightly.ask("UPDATE usersync.removals SET rows = 30, removed_at = removed_at - interval '8 days'")
    nightly.source(range(61, 201))
    assert 0 == nightly.run().exit_status


@pytest.mark.parametrize(
    ("before", "step", "load", "expected"),
    [
        (20, 10, {}, [0, 6]),
        (40, 10, {}, [0, 0, 6]),
        (1000, 15, {"max_missing": "2%"}, [0, 0, 0, 0, 6]),
        (200, 10, {"missing_window": "0s"}, [0, 0, 0, 0, 0]),
    ],
)
def test_a_window_never_empties_a_table(sync: Sync, before: int, step: int, load: dict[str, Any], expected: list[int]) -> None:
    """
    Of small tables half at most goes in a window; the share counts for big ones; without a window each run is judged by itself.
    """
    sync.load |= load
    nightly = Documents(sync)
    nightly.source(range(1, before + 1))
    nightly.run()
    statuses = []
    for night in range(1, len(expected) + 1):
        nightly.source([*range(step * night + 1, before + 1), *range(5000, 5000 + 10 * night)])  # some come, too
        statuses.append(nightly.run().exit_status)

    assert expected == statuses


# what the source itself says


def test_what_the_source_reports_is_marked_without_the_guard(sync: Sync) -> None:
    """
    `mark` can be taken back: whom the source itself reports as deleted is marked, however many; whom a listing lacks stays
    behind the guard, in the same reading too, and so does everybody after an edit.
    """
    sync.load = {"on_missing": "mark"}
    sync.ok()
    sync.source.streams["people"] = [*({"id": i, "_deleted": True} for i in range(1, 31)), *people(*range(46, 101))]
    nightly = Documents(sync)
    for dry_run in (True, False):
        result = sync.run(dry_run=dry_run)
        assert (6, "0 0 55 30") == (result.exit_status, counts(result)), dry_run
        assert "15 of 100 rows would go" in str(result.steps[0].error)
    assert list(range(31, 101)) == nightly.there()
    sync.source.streams["people"] = [*people(*range(31, 91)), *({"id": i, "_deleted": True} for i in range(91, 101))]
    nightly.edit("> 0")
    assert "was edited" in refused(nightly)
    assert "0 0 60 10" == sync.ok(approve_deletes=sync.ask("SELECT max(run_id) FROM usersync.approvals")[0][0])


def test_a_record_that_was_never_held_stays_gone(sync: Sync) -> None:
    """
    A delete of an unknown record, and a newer one of a known one, are remembered with their versions, through complete
    listings too: older news brings nobody to life, newer news does.
    """
    sync.source.since = True
    sync.source.streams["people"] = [person(i, _version="2026-01-01T00:00:00Z") for i in range(1, 4)]
    sync.ok()

    def told(*records: tuple[int, int, bool]) -> str:
        sync.source.changes["people"] = [
            {**person(i), "_version": f"2026-01-{day:02}T00:00:00Z", "_deleted": gone} for i, day, gone in records
        ]
        return sync.ok()

    assert "0 0 0 1" == told((99, 5, True), (3, 5, True))
    assert "0 0 2 0" == sync.ok(full=True).replace("0 0 3 0", "0 0 2 0") if sync.source.streams["people"].pop() else ""
    assert "0 0 0 0 stale 2" == told((99, 4, False), (3, 4, False))
    assert "0 0 0 0" == told((99, 8, True), (3, 8, True))
    assert "0 0 0 0 stale 2" == told((99, 7, False), (3, 7, False))
    assert [1, 2] == sync.rows()
    assert "2 0 0 0" == told((99, 9, False), (3, 9, False))


@pytest.mark.parametrize("size", [1, 5000])
def test_a_file_that_says_first_that_somebody_is_gone(sync: Sync, size: int) -> None:
    """
    The delete comes before the older news of the same record, on one page or on two, in one reading or the next.
    """
    sync.source.size = size
    gone = {"id": 7, "_version": "2026-01-05T00:00:00Z", "_deleted": True}
    older = person(7, _version="2026-01-04T00:00:00Z")
    sync.source.streams["people"] = [person(1), gone, older]
    sync.run()
    sync.source.streams["people"] = [person(1), gone]
    sync.run()
    before = sync.ask("SELECT xmin FROM usersync.seen WHERE key = '7'")
    sync.run()
    assert before == sync.ask("SELECT xmin FROM usersync.seen WHERE key = '7'"), "said again, nothing is written"
    sync.source.streams["people"] = [person(1), older]
    sync.run()

    assert [1] == sync.rows()


# a table that is taken over


@pytest.mark.parametrize(("there", "gone", "status"), [(208, 8, 0), (400, 20, 0), (208, 11, 6), (12, 8, 6)])
def test_a_table_that_is_taken_over_is_measured_by_its_rows(sync: Sync, there: int, gone: int, status: int) -> None:
    """
    `adopt_existing` asks the guard with all rows of the table, not with those that are missing; and those that come with the
    reading do not count.
    """
    sync.load["adopt_existing"] = True
    sync.source.size = 500
    sync.ask(f"CREATE TABLE people (id int PRIMARY KEY, name text, age int); INSERT INTO people SELECT generate_series(1, {there})")
    sync.source.streams["people"] = people(*range(gone + 1, there + 1), *range(5001, 6000))

    results = [sync.run(dry_run=dry_run) for dry_run in (True, False)]

    assert [status] * 2 == [result.exit_status for result in results], results[1].steps[0].error
    if status:
        assert f"{gone} of {there} rows would go" in str(results[1].steps[0].error)
        assert 6 == sync.run().exit_status
        assert gone == sync.run(approve_deletes=1).steps[0].counts.gone
    assert there - gone == len(sync.rows(where="id < 5000"))


# two steps, one table

FROM_FILE = {"source": "crm", "streams": ["people"]}
ROWS = "SELECT key::int AS id, data ->> 'name' AS name FROM records"


def step_into(table: str, how: str = "mark", name: str = "people") -> dict[str, Any]:
    load = {"table": table, "key": ["id"], "create": True, "on_missing": how}
    return {"name": name, "extract": FROM_FILE, "transform": ROWS, "load": load}


def two(usersync: Command, target: str, one: dict[str, Any], other: dict[str, Any], **more: Any) -> loader.Config:
    """Jobs `copy` and `other`, of a step each."""
    document = {
        "environment": "test",
        "target": target,
        "sources": {"crm": {"type": "file", "streams": {"people": {"path": "people.jsonl", "key": "id"}}}},
        "jobs": {"copy": {"steps": [one]}, "other": {"steps": [other], **more}},
        "targets": {
            name: {"type": "keycloak", "url": url, "realm": "bank", "client_id": "usersync", "client_secret": "-"}
            for name, url in (
                ("here", "https://sso.example.org"),
                ("there", "https://SSO.example.org:443/"),
                ("old", "https://sso.example.org/auth"),
            )
        },
    }
    (usersync.folder / "config.yaml").write_text(json.dumps(document))
    write_file(usersync.folder, range(1, 3))
    return loader.load(usersync.folder / "config.yaml")


def looked(settings: loader.Config, name: str) -> list[UsersyncError]:
    """What `check` finds wrong with a job."""
    job = settings.job(name)
    return [finding.error for finding in check.check(job, run_context(settings, job, Stop())) if finding.error]


@pytest.mark.parametrize("there", [True, False], ids=["the table is there", "it is not made yet"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (step_into("people"), step_into("people")),
        (step_into("people", "keep"), step_into("public.people", "delete", "crm")),
        (step_into("{stream}", "delete"), step_into("public.people", "keep")),
        (step_into("public.{stream}"), step_into("people")),
    ],
)
def test_two_jobs_on_one_table(
    usersync: Command, new_database: NewDatabase, one: dict[str, Any], other: dict[str, Any], *, there: bool
) -> None:
    """
    Where one of them removes rows it would remove the other's: `check` and `run` refuse both, however the table is written.
    """
    target = new_database()
    migrations.upgrade(target)
    if there:
        execute(target.url, "CREATE TABLE people (id int PRIMARY KEY, name text, deleted_at timestamptz)")
    settings = two(usersync, target.url, one, other)

    for name in ("copy", "other"):
        job = settings.job(name)
        done = run.run(job, run_context(settings, job, Stop()), Options())
        assert 2 == done.exit_status
        assert f"step {one['name']} of job copy" in str(done.steps[0].error)
        assert f"step {other['name']} of job other" in str(done.steps[0].error)
        assert any("both write table" in error.message for error in looked(settings, name))


def test_steps_that_share_nothing(usersync: Command, new_database: NewDatabase) -> None:
    """
    Both keep everybody, another schema, another environment: nothing to refuse. A partition of the other's table is a part of it.
    """
    target = new_database()
    migrations.upgrade(target)
    execute(
        target.url,
        "CREATE SCHEMA crm; CREATE TABLE crm.people (id int PRIMARY KEY, name text, deleted_at timestamptz);"
        "CREATE TABLE people (id int PRIMARY KEY, name text, deleted_at timestamptz) PARTITION BY RANGE (id);"
        "CREATE TABLE people_a PARTITION OF people FOR VALUES FROM (1) TO (100);"
        "CREATE TABLE people_b PARTITION OF people FOR VALUES FROM (100) TO (200)",
    )
    mine = step_into("people_a")
    for other, more in (
        (step_into("crm.people"), {}),
        (step_into("people_b"), {}),
        (step_into("people_a"), {"environments": ["production"]}),
        (step_into("people_a"), {"noun": "${NOT_SET}"}),
    ):
        assert [] == looked(two(usersync, target.url, mine, other, **more), "copy"), (other, more)
    assert [] == looked(two(usersync, target.url, step_into("people_a", "keep"), step_into("people", "keep")), "copy")
    assert [
        "both write table people_a" in str(error) for error in looked(two(usersync, target.url, mine, step_into("people")), "copy")
    ] == [True]


@pytest.mark.parametrize(("target", "load", "status"), [("there", {}, 2), ("here", {"on_missing": "keep"}, 2), ("old", {}, 4)])
def test_two_steps_on_one_realm(usersync: Command, new_database: NewDatabase, target: str, load: dict[str, str], status: int) -> None:
    """
    Each would disable the other's accounts: refused before the realm is contacted, however its address is written.
    """
    database = new_database()
    migrations.upgrade(database)
    accounts = {"extract": FROM_FILE, "transform": "SELECT key AS id, key AS username FROM records"}
    settings = two(
        usersync,
        database.url,
        {"name": "staff", **accounts, "load": {"target": "here"}},
        {"name": "members", **accounts, "load": {"target": target, **load}},
    )
    shared = [error.message for error in looked_at_rivals(settings)]

    assert ([] if status == 4 else ["step staff of job copy and step members of job other both write realm bank of sso.example.org"]) == [
        message.partition(", and ")[0] for message in shared
    ]


def looked_at_rivals(settings: loader.Config) -> list[UsersyncError]:
    """What is wrong with job copy, without asking its realm."""
    job = settings.job("copy")
    made = run_context(settings, job, Stop())
    with connect(made.target, job="copy") as tx:
        try:
            writers.refuse(tx, "copy", "staff", made.writers)
        except UsersyncError as error:
            return [error]
    return []
