"""Streams of documents: a million lines of JSON into a table, some of them bad; and tables with bad rows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Contestant, Run, take_turns
from benchmarks.parts import USERSYNC, expect
from benchmarks.report import Figure, Part, ratio
from benchmarks.server import Server

EVERY = 100  # one record in so many is bad
TARGET, SOURCE = "bench_documents", "bench_documents_source"
# A transform that casts. A bad record has a birthday that is none.
TRANSFORM = "SELECT key::int AS id, data ->> 'name' AS name, data ->> 'email' AS email, (data ->> 'born')::date AS born FROM records"
CONFIG = """
environment: test
target: ${{TARGET}}
sources:
  tables: {{type: postgres, url: "${{SOURCE}}"}}
  good: {{type: file, streams: {{people: {{path: good.jsonl, key: id}}}}}}
  bad: {{type: file, streams: {{people: {{path: bad.jsonl, key: id}}}}}}
jobs:
"""
JOB = (
    '  {name}: {{steps: [{{extract: {{{extract}}}, transform: "{transform}", load: {{table: {name}, key: [id], create: true{more}}}}}]}}\n'
)
TABLES = "SELECT id, name, email, born::date AS born FROM records"
MADE = """
CREATE TABLE {table} AS SELECT i AS id, 'Test User Number ' || i AS name, 'test.user.' || i || '@example.org' AS email,
       CASE WHEN {bad} AND i % {every} = 0 THEN 'soon' ELSE '2000-01-01' END AS born FROM generate_series(1, {rows}) AS i
"""
# Typed into psql: the lines into a table of jsonb, and from there with the same casts into a table with the same key.
TYPED = """
CREATE UNLOGGED TABLE lines (data jsonb);
\\copy lines FROM '{file}' WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')
INSERT INTO typed SELECT (data ->> 'id')::int, data ->> 'name', data ->> 'email', (data ->> 'born')::date FROM lines
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, email = excluded.email, born = excluded.born;
"""


class Documents:
    """So many test users, as lines of JSON with and without bad ones, and as tables."""

    def __init__(self, server: Server, rows: int) -> None:
        self.server, self.rows = server, rows
        self.folder = server.folder / f"documents-{rows}"
        self.target, self.source = f"{TARGET}_{rows}", f"{SOURCE}_{rows}"

    @property
    def bad(self) -> int:
        return self.rows // EVERY

    def prepare(self) -> None:
        """Files, tables and config; and usersync's own tables, since migrating is not what is measured."""
        self.folder.mkdir()
        for name, bad in (("good", False), ("bad", True)):
            _write(self.folder / f"{name}.jsonl", self.rows, bad=bad)
            table = MADE.format(table=name, bad=bad, every=EVERY, rows=self.rows)
            self.server.execute(self.source, table, f"ALTER TABLE {name} ADD PRIMARY KEY (id)", "VACUUM (FREEZE, ANALYZE)")
        jobs = [
            JOB.format(name=f"{name}{suffix}", extract=f"source: {name}, streams: [people]", transform=TRANSFORM, more=more)
            for name in ("good", "bad")
            for suffix, more in (("", ""), ("_deleting", ", on_missing: delete"))
        ]
        jobs += [
            JOB.format(name=f"rows_{name}", extract=f"source: tables, table: {name}", transform=TABLES, more="") for name in ("good", "bad")
        ]
        (self.folder / "config.yaml").write_text(CONFIG.format() + "".join(jobs))
        (self.folder / "typed.sql").write_text(TYPED.format(file=self.folder / "good.jsonl"))
        measure.run(self.server, Contestant("usersync db upgrade", self._command("db upgrade"), environment=self._environment()))

    def run(self, job: str, name: str, options: str = "", *, anew: bool = False, status: int = 0) -> Contestant:
        """A run that ends with this status; `anew` into a table that is not there yet."""
        command = self._command(f"run --job {job} --output json {options}".rstrip())
        return Contestant(
            name, f"{command} || test $? = {status}", (lambda: self.forget(job)) if anew else (lambda: None), self._environment()
        )

    def typed(self) -> Contestant:
        """By hand, into a table with the same key."""

        def new() -> None:
            self.server.execute(
                self.target,
                "DROP TABLE IF EXISTS typed, lines",
                "CREATE TABLE typed (id int PRIMARY KEY, name text, email text, born date, inserted_at timestamptz NOT NULL DEFAULT now(),"
                " updated_at timestamptz NOT NULL DEFAULT now())",
            )

        command = f"{self.server.psql} -f {self.folder / 'typed.sql'} {shlex.quote(self.server.url(self.target))}"
        return Contestant("typed into psql", command, new)

    def forget(self, job: str) -> None:
        """As if the job had never run."""
        tables = ("cursors", "seen_streams", "rejects")
        self.server.execute(
            self.target, f"DROP TABLE IF EXISTS {job}", *(f"DELETE FROM usersync.{table} WHERE job = '{job}'" for table in tables)
        )

    def settle(self) -> None:
        """What autovacuum would have done by the time of the next run."""
        self.server.execute(self.target, "VACUUM (ANALYZE)")

    def written(self, table: str) -> int:
        """Rows ever inserted, updated or deleted in a table of the target."""
        counted = f"SELECT n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relname = '{table}'"
        return int(self.server.execute(self.target, counted)[0][0])

    def _command(self, arguments: str) -> str:
        return f"{USERSYNC} {arguments} --config {self.folder / 'config.yaml'}"

    def _environment(self) -> dict[str, str]:
        return {"TARGET": self.server.url(self.target), "SOURCE": self.server.url(self.source)}


def _write(path: Path, rows: int, *, bad: bool) -> None:
    with path.open("w") as file:
        for i in range(1, rows + 1):
            born = "soon" if bad and i % EVERY == 0 else "2000-01-01"
            named = f'"name": "Test User Number {i}", "email": "test.user.{i}@example.org"'
            file.write(f'{{"id": {i}, {named}, "born": "{born}", "tags": [], "note": null}}\n')


def rejects(bench: Documents, rounds: int) -> Part:
    """A first load with one bad record in a hundred, beside one without; documents, and rows of a table."""
    good, bad = bench.run("good", "documents, all good", anew=True), bench.run("bad", "documents, 1 % bad", anew=True, status=3)
    rows = bench.run("rows_good", "rows, all good", anew=True)
    rows_bad = bench.run("rows_bad", "rows, 1 % bad", anew=True, status=3)
    runs = take_turns(bench.server, [good, bad, bench.typed(), rows, rows_bad], rounds)
    for one in (good, rows):
        expect(runs[one.name], inserted=bench.rows, rejected=0)
    for one in (bad, rows_bad):
        expect(runs[one.name], inserted=bench.rows - bench.bad, rejected=bench.bad)
    return Part(
        "Bad records",
        [
            ratio(f"{bench.bad:,} bad of {bench.rows:,} documents", runs[bad.name], runs[good.name], "the same without bad ones", 3),
            ratio(
                f"{bench.bad:,} bad of {bench.rows:,} rows of a table", runs[rows_bad.name], runs[rows.name], "the same without bad ones"
            ),
            ratio("documents, first load", runs[good.name], runs["typed into psql"], "`\\copy` and `INSERT ... ON CONFLICT` in psql"),
        ],
        runs,
    )


def unchanged(bench: Documents, rounds: int) -> Part:
    """The same documents again: a run, one that would delete who has left, and a dry run."""
    keep, removing = bench.run("good", "documents, unchanged"), bench.run("good_deleting", "documents, unchanged, on_missing: delete")
    dry = bench.run("good", "documents, unchanged, dry run", "--dry-run")
    for one in (keep, removing):
        measure.run(bench.server, one)
    bench.settle()
    for one in (keep, removing):
        measure.run(bench.server, one)
    before = [bench.written(table) for table in ("good", "good_deleting", "seen")]
    runs = take_turns(bench.server, [keep, removing, dry], rounds)
    for one in runs.values():
        expect(one, inserted=0, updated=0, unchanged=bench.rows, gone=0)
    written = sum(bench.written(table) for table in ("good", "good_deleting", "seen")) - sum(before)
    return Part(
        "Documents unchanged again",
        [
            ratio("documents, unchanged, with `on_missing: delete`", runs[removing.name], runs[keep.name], "the same job with `keep`", 1.5),
            ratio("documents, dry run of unchanged ones", runs[dry.name], runs[keep.name], "`usersync run`, unchanged", 1.1),
            Figure("rows written to tables and to what was seen, documents unchanged", written, "rows", 0),
        ],
        runs,
    )


def memory(few: Documents, many: Documents) -> Part:
    """The most that the usersync process held, by what it did and how many documents there were."""
    runs: dict[str, Sequence[Run]] = {}
    figures = []
    for bench in (few, many):
        bench.forget("bad_deleting")
        for doing, options in (("loading", ""), ("unchanged", ""), ("dry run", "--dry-run")):
            name = f"documents with bad ones, {doing}, {bench.rows:,}"
            runs[name] = take_turns(bench.server, [bench.run("bad_deleting", name, options, status=3)], 1)[name]
        dry = measure.megabytes(runs[f"documents with bad ones, dry run, {bench.rows:,}"])
        most = max(measure.megabytes(found) for name, found in runs.items() if name.endswith(f" {bench.rows:,}") and "dry" not in name)
        figures += [
            Figure(f"client memory at {bench.rows:,} documents, loading and unchanged, with rejects and deletes", most, "MB", 60),
            Figure(f"client memory at {bench.rows:,} documents, dry run", dry, "MB", beside="12 bytes a record, in a table that doubles"),
        ]
    return Part("Client memory of documents", figures, runs)
