"""`usersync verify` of streams of documents: what is known plays no part, every difference is found, nothing is written."""

from __future__ import annotations

import gzip
import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.conftest import Command, NewDatabase
from tests.list_source import TRANSFORM, ListSource, Sync, people, person
from tests.log_source import LogSource
from tests.simple_job import PERSON, execute
from usersync_cli.cli import cli
from usersync_cli.errors import Drift, NotFound, Stopped, Unavailable
from usersync_cli.model import Database, Documents, Page, Record
from usersync_cli.ports import BringsTransform
from usersync_cli.report.verify import compare, steps
from usersync_cli.report.verify.report import VerifyOptions, VerifyReport
from usersync_cli.signals import Stop
from usersync_cli.state import migrations

# Everything that the database holds, as far as a transaction that writes would change it.
FINGERPRINT = """
    SELECT (SELECT md5(string_agg(p.xmin::text || p.ctid::text || p::text, ',' ORDER BY id)) FROM people p),
           (SELECT md5(string_agg(s.xmin::text || s::text, ',' ORDER BY key)) FROM usersync.seen s),
           (SELECT md5(string_agg(c.xmin::text || c::text, ',' ORDER BY stream)) FROM usersync.cursors c),
           (SELECT md5(string_agg(r.xmin::text || r::text, ',' ORDER BY id)) FROM usersync.rejects r),
           (SELECT count(*) || max(id)::text FROM usersync.runs), (SELECT count(*) FROM usersync.sweeps),
           (SELECT count(*) FROM pg_class WHERE relpersistence <> 't')
"""


@pytest.fixture
def target(database: Database) -> Database:
    migrations.upgrade(database)
    return database


@pytest.fixture
def sync(target: Database) -> Sync:
    return Sync(ListSource({"people": people(*range(1, 11))}), target)


def reports(sync: Sync, **options: Any) -> list[VerifyReport]:
    return list(steps.verify(sync.job, sync.context, VerifyOptions(**options)))


def found(sync: Sync, **options: Any) -> VerifyReport:
    """What verify says of the one stream, which could be compared."""
    (report,) = reports(sync, **options)
    assert report.error is None, (report.error, report.error and report.error.hint)
    return report


def differences(report: VerifyReport) -> list[tuple[str, str | None, str]]:
    return [(one.kind, one.key, ",".join(one.columns)) for one in report.found]


def test_what_seen_hides_is_found(sync: Sync) -> None:
    """
    Rows that somebody changed and added by hand are no news to a run, which knows its documents; verify finds each, and those
    that were deleted.
    It writes nothing. `run --full` fixes what came from the source.
    """
    sync.load = {"on_missing": "delete"}
    sync.ok()
    good = found(sync)
    assert (10, 10, []) == (good.read, good.rows, good.found)
    sync.ask("""
        UPDATE people SET age = 31, name = '' WHERE id = 2; UPDATE people SET age = NULL WHERE id = 3;
        DELETE FROM people WHERE id IN (1, 10); INSERT INTO people VALUES (11, 'Test User 11', 30)
    """)
    before = sync.ask(FINGERPRINT)

    report = found(sync)

    assert before == sync.ask(FINGERPRINT)
    expected = [
        ("missing", "1", ""), ("missing", "10", ""), ("extra", "11", ""), ("different", "2", "name,age"), ("different", "3", "age"),
    ]  # fmt: skip
    assert expected == differences(report)
    assert (10, 9, {"name": 1, "age": 2}, 8) == (report.read, report.rows, report.columns, report.exit_status)
    assert "2 0 8 0" == sync.ok(), "rows that vanished are noticed"
    assert {"2", "3", "11"} == {key for _, key, _ in differences(found(sync))}
    sync.ok(full=True)
    assert [("extra", "11", "")] == differences(found(sync)), "it never came from the source"
    sync.ask("DELETE FROM people WHERE id = 11")
    assert 0 == found(sync).exit_status


def test_every_page_is_read_from_the_beginning(sync: Sync) -> None:
    """
    A cursor that stands at the end, or in the middle, is not looked at.
    """
    sync.source.since = True
    sync.ok()
    sync.ask('UPDATE usersync.cursors SET value = \'{"sweep": "sweep 1", "page": 3}\'')
    sync.source.read.clear()

    assert (10, 0) == ((report := found(sync)).read, report.exit_status)
    assert [("people", page) for page in range(4)] == sync.source.read


def test_of_one_key_the_newest_counts(sync: Sync) -> None:
    """
    The same key on one page or on several: by version, then by place; what is passed over is counted.
    """
    sync.source.streams["people"] = [
        person(1, "Test User new", _version="2026-01-02T00:00:00Z"), person(1, "Test User old", _version="2026-01-01T23:00:00Z"),
        person(2), person(2, "Test User later"), person(3), person(4), person(3, "Test User again"), person(5),
        person(1, "Test User late but old", _version="2026-01-01T00:00:00Z"),
    ]  # fmt: skip
    sync.ok()

    report = found(sync)

    assert (9, 4, 5, []) == (report.read, report.duplicates, report.rows, report.found)
    sync.ask("UPDATE people SET name = 'Test User old' WHERE id = 1; UPDATE people SET name = 'Test User 3' WHERE id = 3")
    assert [("different", "1", "name"), ("different", "3", "name")] == differences(found(sync))


@pytest.mark.parametrize("name", ["numbered", "people"])
def test_versions_are_numbers_or_times(target: Database, name: str) -> None:
    """
    10 is newer than 9, and 11:00+02:00 older than 10:00Z.
    """
    new, old = ("10", "9.5") if name == "numbered" else ("2026-01-01T10:00:00Z", "2026-01-01T11:00:00+02:00")
    source = ListSource({name: [person(1, "Test User new", _version=new), person(1, "Test User old", _version=old)]}, size=1)
    sync = Sync(source, target)
    sync.ok()

    assert [("Test User new",)] == sync.ask(f"SELECT name FROM {name}")
    assert (0, 1) == ((report := found(sync)).exit_status, report.duplicates)


@pytest.mark.parametrize("how", ["keep", "mark", "delete"])
def test_who_is_said_to_be_gone(sync: Sync, how: str) -> None:
    """
    A record that the source calls deleted, or lacks, must not be there with delete, must be marked with mark, may stay with keep.
    """
    sync.load = {"on_missing": how}
    sync.ok()
    sync.source.streams["people"] = [*people(*range(1, 9)), {"id": 9, "_deleted": True}]

    stale = found(sync)

    assert ([] if how == "keep" else [("extra", "10", ""), ("extra", "9", "")]) == differences(stale)
    assert (8, 2 if how == "keep" else 0) == (stale.read, stale.kept)
    sync.ok()
    report = found(sync)
    assert (0, 2 if how == "mark" else 0) == (report.exit_status, report.marked)
    if how == "mark":
        sync.ask("UPDATE people SET deleted_at = NULL WHERE id = 9; UPDATE people SET deleted_at = now() WHERE id = 8")
        assert [("different", "8", "deleted_at"), ("extra", "9", "")] == differences(found(sync))


def test_what_the_transform_leaves_out(sync: Sync) -> None:
    """
    A record without a row need not be there, and must not be.
    """
    sync.load = {"on_missing": "delete"}
    sync.ok()
    sync.transform = TRANSFORM + " WHERE key <> '10'"

    report = found(sync)

    assert ([("extra", "10", "")], 9) == (differences(report), report.read)
    sync.run()  # of an edited step somebody approves who goes
    ((run_id,),) = sync.ask("SELECT run_id FROM usersync.approvals WHERE status = 'waiting'")
    sync.ok(approve_deletes=run_id)
    assert 0 == found(sync).exit_status


def test_the_transform_of_the_source(target: Database) -> None:
    """
    A step without a transform is compared by that of its source, as it is loaded.
    """

    class Typed(BringsTransform, ListSource):
        def transform(self, stream: str) -> str:
            return f"SELECT key::int AS id, data ->> 'name' || '{stream}' AS name FROM records"

    sync = Sync(Typed({"people": people(1, 2)}), target, transform=None)
    sync.ok()
    assert 0 == found(sync).exit_status
    sync.ask("UPDATE people SET name = 'x' WHERE id = 2")

    assert [("different", "2", "name")] == differences(found(sync))


BAD: list[dict[str, Any]] = [
    {"_raw": b"{", "_problem": "not_json"}, {"name": "Test User"}, {"id": 20, "_raw": b'{"name": "\xff"}'},
    {"id": 21, "_raw": b'{"name": "\\u0000"}'}, {"id": 22, "_version": "yesterday"}, {"id": "x1", "name": "Test User"},
    {"id": 23, "_raw": b'{"age": "old"}'},
]  # fmt: skip


@pytest.mark.parametrize("size", [2, 50])
def test_records_that_cannot_be_loaded(sync: Sync, size: int) -> None:
    """
    Set aside, waiting or dropped, they are rejected, and no difference; not yet, they are missing, and all others are compared.
    """
    sync.source.size = size
    sync.ok()
    good = sync.source.streams["people"]
    sync.source.streams["people"] = [*good[:9], *BAD, person(10, age="old")]
    sync.ask("UPDATE people SET age = 1 WHERE id = 5")
    keys = [None, None, "10", "20", "21", "22", "23", "x1"]

    unknown = found(sync)

    assert ("different", "5", "age") in differences(unknown)
    assert keys == sorted((one.key for one in unknown.found if one.kind == "missing"), key=lambda key: key or "")
    assert (17, 8, 1, 0, 0) == (unknown.read, unknown.missing, unknown.different, unknown.extra, unknown.rejected)
    sync.run()
    sync.ask("UPDATE usersync.rejects SET status = 'dropped' WHERE key IN ('20', 'x1')")
    known = found(sync)
    assert ([("different", "5", "age")], 8) == ([one for one in differences(known) if one[0] != "rejected"], known.rejected)
    assert 17 == known.read
    sync.ask("UPDATE usersync.rejects SET stream = 'others'")
    assert 8 == found(sync).missing


def test_a_record_that_was_set_aside_keeps_its_row(sync: Sync) -> None:
    """
    The row that a bad record had before is neither extra nor different.
    """
    sync.load = {"on_missing": "delete"}
    sync.ok()
    sync.source.streams["people"][3]["age"] = "old"
    sync.source.streams["people"][4]["_version"] = "yesterday"
    sync.run()

    assert [("rejected", "4", ""), ("rejected", "5", "")] == differences(report := found(sync))
    assert (0, 10, 10) == (report.exit_status, report.read, report.rows)


def test_a_transform_that_fits_nothing(sync: Sync) -> None:
    """
    When half of the records fail, it is not the records: status 7, and no differences.
    """
    sync.ok()
    for one in sync.source.streams["people"][:5]:
        one["age"] = "old"

    (report,) = reports(sync)

    assert (7, []) == (report.exit_status, report.found)
    assert PERSON not in str(report.error)


def test_each_stream_has_its_report(target: Database) -> None:
    """
    Two streams, two tables, two reports. One that has no table yet says so, and the other is compared.
    """
    sync = Sync(ListSource({"companies": people(1, 2), "people": people(*range(1, 6))}), target)
    sync.ok()
    sync.ask("UPDATE companies SET age = 0 WHERE id = 2; DELETE FROM people WHERE id = 1")
    two = reports(sync)

    assert [("companies", "companies", 2, 8), ("people", "people", 5, 8)] == [(r.stream, r.table, r.read, r.exit_status) for r in two]
    assert [[("different", "2", "age")], [("missing", "1", "")]] == [differences(report) for report in two]
    sync.ask("DROP TABLE companies")
    for together in (False, True):
        sync.source.together = together
        absent, other = reports(sync)
        assert isinstance(absent.error, NotFound)
        assert [("missing", "1", "")] == differences(other)


def test_streams_that_come_together(target: Database) -> None:
    """
    Streams of one poll are read once, and each is compared with its table.
    """
    sync = Sync(ListSource({"companies": people(1, 2), "people": people(1, 2, 3)}, together=True), target, {"on_missing": "delete"})
    sync.ok()
    sync.ask("UPDATE companies SET age = 0 WHERE id = 2; INSERT INTO people VALUES (9)")
    two = reports(sync)

    assert [[("different", "2", "age")], [("extra", "9", "")]] == [differences(report) for report in two]


@pytest.mark.parametrize("together", [False, True])
def test_a_source_that_fails_shows_no_difference(target: Database, *, together: bool) -> None:
    """
    An error on a later page, or a listing that ends before it is complete: status 4, nothing found, and the next stream goes on.
    """

    class Broken(ListSource):
        cut = False

        def pages(self, *arguments: Any) -> Iterator[Page]:
            for page in super().pages(*arguments):
                if self.cut and page.complete and "companies" in page.streams:
                    return
                yield page

    def fail(stream: str, page: int) -> None:
        if stream == "companies" and page == 1:
            raise Unavailable("the source is away")

    source = Broken({"companies": people(*range(1, 9)), "people": people(1)}, together=together)
    sync = Sync(source, target)
    sync.ok()
    sync.ask("DELETE FROM companies")
    source.cut = True
    cut = reports(sync)
    source.cut, source.fail = False, fail
    failed = reports(sync) if not together else cut

    for ended in (cut, failed):
        assert [4, 4 if together else 0] == [report.exit_status for report in ended]
        assert (0, 0, 0, []) == (ended[0].read, ended[0].rows, ended[0].missing, ended[0].found)
    assert "before the listing of companies" in str(cut[0].error)


def test_whole_documents_are_asked_for(sync: Sync) -> None:
    """
    Where a listing is only part of its documents, each is read; one that is gone by then counts as deleted, one without an
    answer ends it.
    """
    asked: list[str] = []
    lost: list[str] = []

    def details(stream: str, keys: Sequence[str]) -> Iterator[Record]:
        asked.extend(keys)
        for key in keys:
            if key not in lost:
                raw = b"[" if key == "5" else b'{"name": "Test User %s", "age": 1}' % key.encode()
                yield Record(stream, key, raw, deleted=key == "9", problem="not_json" if key == "5" else "")

    sync.source.streams["people"].insert(1, person(1, "Test User again"))
    sync.source.details, sync.load = details, {"on_missing": "delete"}
    sync.run()
    asked.clear()
    sync.ask("UPDATE people SET age = 30 WHERE id = 2; INSERT INTO people VALUES (9)")

    report = found(sync)

    assert sorted(map(str, range(1, 11))) == sorted(asked)
    assert [("different", "2", "age"), ("extra", "9", ""), ("rejected", "5", "")] == differences(report)
    assert (10, 1) == (report.read, report.duplicates)
    lost.append("7")
    (report,) = reports(sync)
    assert (4, []) == (report.exit_status, report.found)
    assert "no document for 1 of people" in str(report.error)


def test_a_source_that_cannot_be_opened(target: Database) -> None:
    """
    Every stream says why; nothing is told as missing.
    """

    class Away(ListSource):
        def open(self, tools: Any) -> Any:
            raise Unavailable("the source is away")

    sync = Sync(Away({"companies": people(1), "people": people(1)}), target)

    assert [4, 4] == [report.exit_status for report in reports(sync)]


def test_pages_of_somebody_else(sync: Sync) -> None:
    """
    A page of another stream than was asked for ends the comparison.
    """
    sync.ok()

    def pages(*_: Any) -> Iterator[Page]:
        yield Page(Documents([Record("others", "1", b"{}")]), {}, complete=True, streams=["people"])

    sync.source.pages = pages  # type: ignore[method-assign]
    (report,) = reports(sync)
    assert isinstance(report.error, Drift)


def test_a_signal_ends_it(sync: Sync) -> None:
    """
    SIGTERM between two pages ends all of it.
    """
    sync.ok()
    context = sync.context

    def fail(_stream: str, page: int) -> None:
        if page == 2:
            context.tools.stop._note(signal.SIGTERM, None)

    sync.source.fail = fail
    with pytest.raises(Stopped):
        list(steps.verify(sync.job, context, VerifyOptions()))


def test_more_than_fits_into_a_batch(target: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Over many pages and batches, bad records among them, it says what a dictionary says.
    """
    monkeypatch.setattr(compare, "BATCH", 50)
    source = ListSource({"people": people(*range(1, 601))}, size=97)
    sync = Sync(source, target, {"on_missing": "delete"})
    sync.ok()
    for number in (1, 98, 300, 301, 600):
        source.streams["people"][number - 1]["age"] = "old"
    sync.ask("DELETE FROM people WHERE id % 100 = 7; UPDATE people SET age = 1 WHERE id % 100 = 8")
    sync.ask("INSERT INTO people SELECT i FROM generate_series(601, 605) i")

    report = found(sync, limit=None)

    expected = {("missing", str(i), "") for i in [*range(7, 600, 100), 1, 98, 300, 301, 600]}
    expected |= {("different", str(i), "age") for i in range(8, 600, 100)} | {("extra", str(i), "") for i in range(601, 606)}
    assert expected == set(differences(report))
    assert len(expected) == len(report.found)


# the command, and the source `file`


def config(usersync: Command, target: Database, *, transform: str | None = TRANSFORM, **load: Any) -> Path:
    step: dict[str, Any] = {
        "name": "crm",
        "extract": {"source": "export", "streams": ["people", "companies"]},
        "load": {"table": "crm_{stream}", "key": ["id"], "create": True, **load},
    }
    if transform:
        step["transform"] = transform
    streams = {name: {"path": f"{name}*.jsonl*", "key": "id", "version": "at", "deleted": "gone"} for name in ("people", "companies")}
    document = {
        "environment": "test",
        "target": target.url,
        "sources": {"export": {"type": "file", "streams": streams}},
        "jobs": {"copy": {"steps": [step]}},
    }
    file = usersync.folder / "config.yaml"
    file.write_text(json.dumps(document))
    return file


def lines(*documents: Any) -> str:
    return "".join(json.dumps(document) + "\n" for document in documents)


def command(file: Path, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, [*arguments, "--job", "copy", "--config", str(file)], obj=Stop(), standalone_mode=False)
    if done.exception:
        raise done.exception
    assert "--values" in arguments or PERSON not in done.stdout + done.stderr
    return done.return_value, done.stdout, done.stderr


def test_the_command(usersync: Command, new_database: NewDatabase) -> None:
    """
    A line for each stream, the differences below it, values only when asked for; the JSON names the stream.
    """
    target = new_database()
    file = config(usersync, target, on_missing="delete")
    (usersync.folder / "people-1.jsonl").write_text(lines(*people(1, 2, 3)))
    (usersync.folder / "people-2.jsonl.gz").write_bytes(gzip.compress(lines(*people(4, 5)).encode()))
    (usersync.folder / "companies.jsonl").write_text(lines(*people(1, 2)))
    early = command(file, "verify")
    assert 9 == early[0]
    assert "target table crm_people does not exist yet" in early[2]
    assert 0 == command(file, "run", "-q")[0]
    assert (0, "", "") == command(file, "verify", "-q")
    execute(target.url, "UPDATE crm_people SET name = 'x' WHERE id = 4; DELETE FROM crm_people WHERE id = 1")

    status, stdout, stderr = command(file, "verify")

    told = [line.partition(" (")[0] for line in stdout.splitlines()]
    assert [
        "copy: crm/people: 5 read, 4 in the table: 1 missing, 0 extra, 1 different",
        "  missing   1", "  different 4: name",
        "copy: crm/companies: 2 read, 2 in the table: 0 missing, 0 extra, 0 different",
    ] == told  # fmt: skip
    assert (8, "usersync: copy: 2 rows differ from the sources") == (status, stderr.splitlines()[0])
    assert '  different 4: name x instead of "Test User 4"' in command(file, "verify", "--values")[1].splitlines()
    document = json.loads(command(file, "verify", "--output", "json")[1])
    assert [("crm", "people", "crm_people", 8), ("crm", "companies", "crm_companies", 0)] == [
        (one["step"], one["stream"], one["table"], 8 if one["differences"] else 0) for one in document["steps"]
    ]
    assert 0 == command(file, "run", "-q")[0]
    assert 8 == command(file, "verify", "-q")[0], "a run knows these documents"
    assert 0 == command(file, "run", "-q", "--full")[0]
    assert (0, "", "") == command(file, "verify", "-q")


def test_a_file_that_is_cut_off(usersync: Command, new_database: NewDatabase) -> None:
    """
    A file that ends in the middle of a line, or is not there: status 4, no difference is told, and the other stream is compared.
    """
    file = config(usersync, new_database())
    for name in ("people", "companies"):
        (usersync.folder / f"{name}.jsonl").write_text(lines(*people(*range(1, 2001))))
    command(file, "run", "-q")
    for break_ in (lambda one: one.write_text(one.read_text()[:-9]), lambda one: one.unlink()):
        break_(usersync.folder / "people.jsonl")
        status, stdout, stderr = command(file, "verify")
        assert (4, 2) == (status, len(stdout.splitlines())), (stdout, stderr)
        assert stdout.startswith("copy: crm/people: could not be compared (")
        assert "copy: crm/companies: 2,000 read, 2,000 in the table: 0 missing" in stdout
        assert "source export, stream people" in stderr


def test_without_a_transform(usersync: Command, new_database: NewDatabase) -> None:
    """
    Key and whole document, as jsonb compares them: spaces, order and 1.0 are no difference, digits beyond those of a float are.
    """
    target = new_database()
    file = config(usersync, target, transform=None)
    for name in ("people", "companies"):
        (usersync.folder / f"{name}.jsonl").write_text('{"id": "a", "n": 12345678901234567.890}\n{"id": "b", "n": 1.0, "m": 2}\n')
    command(file, "run", "-q")
    (usersync.folder / "people.jsonl").write_text('{"id": "a", "n": 12345678901234567.891}\n{"m":2,"id": "b", "n": 1}\n')

    assert ["  different a: data"] == [line for line in command(file, "verify")[1].splitlines() if line.startswith(" ")]


@pytest.mark.parametrize("state", ["empty", "other", "newer"])
def test_what_stops_a_run_stops_verify(sync: Sync, state: str) -> None:
    """
    A stream that fell silent, a source that is another one, and tables of a newer program are 7, as in a run; no difference hides it.
    """
    sync.load = {"on_missing": "mark"}
    sync.ok()
    if state == "empty":
        sync.source.streams["people"] = []
    else:
        newer = "UPDATE usersync.alembic_version SET version_num = '9999'"
        sync.ask(newer if state == "newer" else "UPDATE usersync.cursors SET account = 'somebody else'")

    (report,) = reports(sync)
    assert isinstance(report.error, Drift)


def test_of_a_source_that_follows_a_log_the_listing_counts(target: Database) -> None:
    """
    What the log says of the time before the listing is older; what a row lacks is found. A stream without a listing is not compared.
    """
    source = LogSource({"people": {}, "news": {}}, unlisted=["news"])
    sync = Sync(source, target, transform="SELECT key AS id, data->>'name' AS name FROM records")
    source.put("people", "a")
    source.put("people", "b")
    sync.ok()
    source.put("news", "n")
    sync.ok()
    assert [0, 0] == [one.differences for one in reports(sync)]
    source.put("people", "a", silent=True, name="Test User A")
    source.put("people", "c")
    log, people_ = reports(sync)

    assert [("different", "a", "name"), ("missing", "c", "")] == differences(people_)
    assert ("news", True, 0) == (log.stream, "has no listing" in log.skipped, log.exit_status)


def test_a_stream_that_emptied_as_it_was_told_can_be_verified(target: Database) -> None:
    """
    After the source has reported the last record as gone, an empty listing is what is expected.
    """
    source = LogSource({"people": {}})
    sync = Sync(source, target, {"on_missing": "mark"}, transform="SELECT key AS id, data->>'name' AS name FROM records")
    source.put("people", "a")
    sync.ok()
    source.remove("people", "a")
    sync.ok()

    assert (0, 1, 0) == ((report := found(sync)).read, report.marked, report.differences)


def test_a_stream_that_emptied_as_a_person_approved_can_be_verified(target: Database) -> None:
    """
    After the last row went by approval, an empty listing is what is expected.
    """
    source = LogSource({"people": {}})
    sync = Sync(source, target, {"on_missing": "delete"}, transform="SELECT key AS id, data->>'name' AS name FROM records")
    source.put("people", "a")
    sync.ok()
    source.remove("people", "a", silent=True)
    assert "empty" in str(sync.run(full=True, allow_empty=True).steps[0].error)
    ((run,),) = sync.ask("SELECT max(run_id) FROM usersync.approvals")
    sync.ok(full=True, allow_empty=True, approve_deletes=run)

    assert (0, 0, 0) == ((report := found(sync)).read, report.rows, report.differences)
