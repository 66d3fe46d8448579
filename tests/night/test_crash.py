"""A run that is killed, or loses its database, at any moment: after the next run the target equals the source.

USERSYNC_TEST_KILLS=300 kills that often, and lets every single call to a database fail; by default it is a few of either,
because each of them is three runs.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from tests.conftest import Command, NewDatabase
from tests.simple_job import PERSON, Job
from usersync_cli import log
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import UsersyncError
from usersync_cli.sources.file import listing

KILLS = int(os.environ.get("USERSYNC_TEST_KILLS", "8"))
THOROUGH = KILLS >= 100
PEOPLE = 60
PAGE = 16  # records of a page of documents: four pages, the last one not full
TRANSFORM = "SELECT id, name, age::int AS age FROM records"
OF_DOCUMENTS = "SELECT key::int AS id, data ->> 'name' AS name, (data ->> 'age')::int AS age FROM records"
BAD = {  # what is wrong with a record: how it is written, and what its reject says
    "name": ("name", None, ("not_null_violation", "column name, table people")),
    "age": ("age", "old", ("invalid_text_representation", "column age")),
    "version": ("at", "new", ("bad_version", "")),
}


@dataclass
class Fault:
    """What happens to the n-th call to a database of this process; `calls` counts them."""

    at: int = 0
    then: str = "cut"  # cut: the call does not arrive; lost: it does, and its answer not; kill: the process ends
    calls: int = 0
    connection: Connection | None = field(default=None, repr=False)


@contextmanager
def counting(fault: Fault) -> Iterator[Fault]:
    """Every call that waits for a database is counted, and one of them fails."""
    wait = Connection.wait

    def counted(self: Connection, gen: Generator[Any, Any, Any], *arguments: Any, **options: Any) -> Any:
        fault.calls += 1
        if fault.calls != fault.at:
            return wait(self, gen, *arguments, **options)
        if fault.then == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.then == "lost":
            wait(self, gen, *arguments, **options)
        hang_up(self)
        if fault.then == "lost":
            raise psycopg.OperationalError("the answer was lost")
        return wait(self, gen, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "wait", counted)
        yield fault


def hang_up(connection: Connection) -> None:
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


@dataclass
class Life:
    """A job with deletes, rejects and lists to approve, whose source never stands still. This one reads a table without bad rows.

    What is expected of the target is computed here, from what the source held.
    """

    job: Job
    bads: tuple[str, ...] = ()  # kinds of bad records that its source has now and then
    chance: random.Random = field(default_factory=lambda: random.Random(20261123))
    people: dict[int, dict[str, Any]] = field(default_factory=dict)  # the source, by id; `bad` says what is wrong with one
    loaded: dict[int, str] = field(default_factory=dict)  # names in the target after the last run that was well
    since: list[dict[int, dict[str, Any]]] = field(default_factory=list)  # what the source held since then
    run_id: int = 0  # of that run
    at: int = 0

    def __post_init__(self) -> None:
        self.prepare()
        self.refill(range(1, PEOPLE))
        self.put()
        self.repair()

    def prepare(self) -> None:
        self.job.write(load={"on_missing": "delete", "missing_window": "0s"})

    def write(self) -> None:
        """Let the source hold `people`."""
        values = ", ".join(f"({id_}, '{one['name']}')" for id_, one in self.people.items())
        self.job.at_source(f"BEGIN; DELETE FROM people_at_source; INSERT INTO people_at_source VALUES {values}; COMMIT")

    def put(self) -> None:
        self.write()
        self.since.append(dict(self.people))

    def refill(self, ids: Any) -> None:
        for id_ in ids:
            self.at += 1
            self.people[id_] = {"name": f"{PERSON} {self.chance.random()}", "age": "30", "at": self.at}

    def sync(self, **options: Any) -> int:
        """Exit status of a run in this process."""
        try:
            return self.job.sync(**options).exit_status
        except UsersyncError as error:
            return error.status

    @property
    def well(self) -> int:
        """The exit status of a run that did its work whole."""
        return 3 if any("bad" in one for one in self.people.values()) else 0

    def small_change(self) -> None:
        """Some come, some change, a few leave; bad ones come and go."""
        for id_ in self.chance.sample(range(1, PEOPLE), 3):
            self.people.pop(id_, None)
        self.refill(self.chance.sample(range(1, PEOPLE), 3))
        self.refill([id_ for id_, one in self.people.items() if "bad" in one and self.chance.random() < 0.4])
        for bad in self.bads:
            (id_,) = self.chance.sample(range(1, PEOPLE), 1)
            self.refill([id_])
            self.people[id_]["bad"] = bad
        self.put()

    def big_loss(self) -> int:
        """So many leave that a person is asked. Returns the run whose list waits."""
        self.refill(id_ for id_ in range(1, PEOPLE) if id_ not in self.people)
        self.put()
        self.repair()
        for id_ in self.chance.sample(range(1, PEOPLE), 20):
            del self.people[id_]
        self.put()
        assert 6 == self.sync()
        ((run,),) = self.job.at_target("SELECT run_id FROM usersync.approvals WHERE status = 'waiting'")
        return int(run)

    def repair(self, fault: object = None, list_: int | None = None) -> None:
        """The next run. It does the work whole, and everything is as it should be."""
        waits = list_ and self.job.at_target(f"SELECT 1 FROM usersync.approvals WHERE run_id = {list_} AND status = 'waiting'")
        assert self.well == self.sync(approve_deletes=list_ if waits else None), fault
        self.equal()
        if list_:
            self.spent(list_)

    def equal(self) -> None:
        """The target holds what the source holds, without its bad records; each of those waits once, for the right reason."""
        before, found = self.loaded, dict(self.job.at_target("SELECT id, name FROM people"))
        assert set(found) <= set(self.people)
        assert found == {id_: one["name"] if "bad" not in one else self.old(id_, found) for id_, one in self.people.items()
                         if "bad" not in one or id_ in found}  # fmt: skip
        for id_, one in self.people.items():
            assert id_ in found or ("bad" in one and None in self.might(id_)), "a bad record left its row as it was"
        expected = {str(id_): BAD[one["bad"]][2] for id_, one in self.people.items() if "bad" in one}
        rejects = self.job.at_target("SELECT key, reason, detail FROM usersync.rejects")
        assert len(rejects) == len(expected), rejects
        assert {key: (reason, detail) for key, reason, detail in rejects} == expected
        self.loaded = found
        self.accounted(before)
        self.remembered()
        self.since, self.run_id = [], self.last_run()

    def might(self, id_: int) -> set[str | None]:
        """What a run since the last good one may have left of a record that is bad now; None for no row."""
        names: set[str | None] = {self.loaded.get(id_)}
        for held in self.since:
            if (one := held.get(id_)) is None:
                names.add(None)
            elif "bad" not in one:
                names.add(one["name"])
        return names

    def old(self, id_: int, found: Mapping[int, str]) -> str | None:
        """The name that a bad record has in the target, if it may have that."""
        return found.get(id_) if found.get(id_) in self.might(id_) else None

    def last_run(self) -> int:
        ((id_,),) = self.job.at_target("SELECT max(id) FROM usersync.runs")
        return int(id_)

    def accounted(self, before: Mapping[int, str]) -> None:
        """What the runs say that they did is what was done, and their counts add up."""
        ((new, odd),) = self.job.at_target(
            "SELECT sum(inserted - gone), count(*) FILTER (WHERE read - duplicates <> inserted + updated + unchanged + stale + rejected)"
            f" FROM usersync.run_steps WHERE run_id > {self.run_id}"
        )
        assert (len(self.loaded) - len(before), 0) == (new, odd)

    def remembered(self) -> None:
        """Who was seen is who is there."""
        known = len(self.people)
        assert [(known, known)] == self.job.at_target("SELECT keys, (SELECT count(*) FROM usersync.seen) FROM usersync.seen_streams")

    def spent(self, list_: int) -> None:
        """The list is used up: exactly its rows went, in exactly one run."""
        ((status, keys, removed, runs),) = self.job.at_target(
            "SELECT status, keys, removed, (SELECT count(*) FROM usersync.run_steps WHERE run_id = ended_by AND gone = removed)"
            f" FROM usersync.approvals WHERE run_id = {list_}"
        )
        assert ("used", keys, 1) == (status, removed, runs)
        assert 10 == self.sync(approve_deletes=list_)


@dataclass
class WithRejects(Life):
    """A table of which some rows do not fit."""

    bads: tuple[str, ...] = ("name", "age")

    def prepare(self) -> None:
        self.job.at_source("ALTER TABLE people_at_source ADD age text")
        self.job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, age int)")
        self.job.write(transform=TRANSFORM, load={"on_missing": "delete", "missing_window": "0s"})

    def write(self) -> None:
        rows = [(id_, written(one)) for id_, one in self.people.items()]
        values = ", ".join(f"({id_}, {quoted(one['name'])}, '{one['age']}')" for id_, one in rows)
        self.job.at_source(f"BEGIN; DELETE FROM people_at_source; INSERT INTO people_at_source VALUES {values}; COMMIT")

    def remembered(self) -> None:
        """Who was seen is who is there; a record that never fitted need not be known."""
        ((keys, total, seen),) = self.job.at_target(
            "SELECT (SELECT keys FROM usersync.seen_streams), count(*), array_agg(key::int) FILTER (WHERE status <> 'removed')"
            " FROM usersync.seen"
        )
        assert keys == total
        assert set(self.loaded) <= set(seen) <= set(self.people)


@dataclass
class OfDocuments(WithRejects):
    """A file of several pages, some of whose records do not fit, and some of which say that they are gone."""

    bads: tuple[str, ...] = ("name", "age", "version")

    def prepare(self) -> None:
        self.job.at_target("CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, age int)")
        self.job.write(extract={"streams": ["people"]}, transform=OF_DOCUMENTS, load={"on_missing": "delete", "missing_window": "0s"})
        stream = {"path": "people.jsonl", "key": "id", "version": "at", "version_type": "number", "deleted": "gone"}
        self.job.document["sources"] = {"crm": {"type": "file", "streams": {"people": stream}}}
        self.job.save()

    def write(self) -> None:
        gone = [{"id": id_, "at": self.at, "gone": True} for id_ in range(1, PEOPLE) if id_ not in self.people][
            : self.chance.choice([0, 2])
        ]
        lines = [json.dumps(one) + "\n" for one in [*({"id": id_, **written(one)} for id_, one in self.people.items()), *gone]]
        self.chance.shuffle(lines)
        new = self.job.usersync.folder / "new"
        new.write_text("".join(lines))
        new.replace(new.with_name("people.jsonl"))

    def accounted(self, before: Mapping[int, str]) -> None:
        """Each listing was read once, however many runs that took, and all of it has arrived."""
        super().accounted(before)
        if len(self.since) == 1:
            ((read, listings),) = self.job.at_target(
                f"SELECT sum(read), (SELECT count(*) FROM usersync.sweeps WHERE run_id > {self.run_id} AND outcome <> 'abandoned')"
                f" FROM usersync.run_steps WHERE run_id > {self.run_id}"
            )
            assert read == listings * len(self.people)

    def remembered(self) -> None:
        """Nothing is left of the listing; the cursor stands behind it."""
        super().remembered()
        ((open_, keys, records, done, rows),) = self.job.at_target(
            "SELECT (SELECT count(*) FROM usersync.sweeps WHERE outcome = 'open'), (SELECT count(*) FROM usersync.sweep_keys),"
            " (SELECT records FROM usersync.sweeps ORDER BY id DESC LIMIT 1), value -> 'done', rows FROM usersync.cursors"
        )
        assert (0, 0, len(self.people), True, len(self.people)) == (open_, keys, records, done, rows)


def written(one: Mapping[str, Any]) -> dict[str, Any]:
    """A record as its source has it."""
    what = {name: value for name, value in one.items() if name != "bad"}
    if "bad" in one:
        name, value, _ = BAD[one["bad"]]
        what[name] = value
    return what


def quoted(text: str | None) -> str:
    return "NULL" if text is None else f"'{text}'"


@pytest.fixture(params=[Life, WithRejects, OfDocuments], ids=["tables", "rejects", "documents"])
def life(request: pytest.FixtureRequest, usersync: Command, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch) -> Life:
    log.configure(quiet=True)
    monkeypatch.setattr(listing, "PAGE_RECORDS", PAGE)
    made: Life = request.param(Job(usersync, new_database("source crm"), new_database()))
    return made


def forked(work: Callable[[], int]) -> int:
    """The process of its own that does this; it ends with its status, or is killed."""
    if child := os.fork():
        return child
    status = 1
    try:
        status = work()
    finally:
        os._exit(status)


def test_each_call_to_a_database_fails_once(life: Life) -> None:
    """
    The n-th call of a run fails, for all n: it never arrives, its answer is lost, or the process is killed there. The run
    says that it failed or has done its work whole; the next one makes the target equal, also when the source is another by
    then; no approval is used twice, no reject is lost or doubled.
    """
    life.small_change()
    with counting(Fault()) as whole:
        assert life.well == life.sync()
    life.equal()
    assert 40 < whole.calls < 400, "the calls are not counted"

    ways, tried, hit = ["cut", "lost", "kill"], 0, 0
    for i, n in enumerate(range(1, whole.calls + 10, 1 if THOROUGH else whole.calls // 15)):
        list_ = life.big_loss() if i % 5 == 3 else None
        if not list_:
            life.small_change()
        fault = Fault(n, ways[(i + i // 3) % 3])
        with counting(fault):
            # A process of its own, whose lease is nobody's when it has ended.
            child = forked(lambda approved=list_: life.sync(approve_deletes=approved))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in ({life.well, -signal.SIGKILL} if fault.then == "kill" else {life.well, 4, 76}), fault
        hit += status != life.well
        if not list_ and i % 4 == 0:
            life.small_change()
        life.repair(fault, list_)
        tried += 1
    assert hit > tried / 2, "the runs are not hit"
    print(f"{tried} runs with a call that fails, {hit} of them did not end well")  # noqa: T201  for -s


def test_killed_at_any_moment(life: Life) -> None:
    """
    kill -9 at random moments: what was committed is whole, the next run goes on at once, and the target equals the source.
    """
    began = time.monotonic()
    life.small_change()
    life.repair()
    length = time.monotonic() - began
    kills = inside = 0
    while inside < KILLS:
        list_ = life.big_loss() if kills % 4 == 0 else None
        if not list_:
            life.small_change()
        child = forked(lambda approved=list_: life.sync(approve_deletes=approved))
        time.sleep(life.chance.uniform(0, length))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        inside += len(life.job.at_target("SELECT FROM usersync.runs WHERE status = 'running'"))
        if not list_ and kills % 4 == 2:
            life.small_change()
        life.repair(list_=list_)
    print(f"{kills} kills, {inside} of them inside a run")  # noqa: T201  for -s
