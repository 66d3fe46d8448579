"""The benchmarks themselves: each gives what it found beside what it has to reach."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import dedent

from psycopg import sql

from benchmarks import measure, people
from benchmarks.measure import Contestant, Run, take_turns
from benchmarks.people import ACCOUNT_COLUMNS, ACCOUNT_NAMES, USER_NAMES, People
from benchmarks.report import Figure, Part, ratio
from benchmarks.server import Server
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.config.jobs import Load
from usersync_cli.load import stage
from usersync_cli.load.merge import compare
from usersync_cli.load.table import SETTINGS, TableLoad
from usersync_cli.model import Column, Desired

COPIED = "`psql COPY` to `psql COPY`"
TURNS = 10  # of commands that take less than a second
USERSYNC = shlex.quote(str(Path(sys.executable).with_name("usersync")))
WORK_MEM = "work_mem=64MB"  # would the peer gain from more?

# The simplest job there is, into a table that exists and into one that usersync makes.
CONFIG = """
environment: test
target: ${TARGET}
sources:
  accounts: {type: postgres, url: "${SOURCE}"}
jobs:
  existing: {steps: [{extract: {source: accounts, table: users}, load: {table: accounts, key: [id]}}]}
  created: {steps: [{extract: {source: accounts, table: users}, load: {table: made, key: [id], create: true}}]}
"""
# In a file of its own: one config file with two jobs that write one table is refused where one of them removes rows.
DELETING = CONFIG.partition("  existing:")[0] + (
    "  deleting: {steps: [{extract: {source: accounts, table: users}, load: {table: accounts, key: [id], on_missing: delete}}]}\n"
)


class Bench:
    """The commands, for one size of databases."""

    def __init__(self, people: People) -> None:
        self.people, self.server = people, people.server
        folder = people.server.folder / f"bench-{people.rows}"
        folder.mkdir(exist_ok=True)
        self.config = folder / "config.yaml"
        self.config.write_text(CONFIG)
        self.deleting = folder / "deleting.yaml"
        self.deleting.write_text(DELETING)
        self.example = folder / "config.example.yaml"
        self.example.write_text(_example())

    def prepare(self) -> None:
        """Make the databases, and usersync's own tables: migrating is not what is measured."""
        self.people.make()
        upgrade = Contestant("usersync db upgrade", f"{USERSYNC} db upgrade --config {self.config}", environment=self._environment())
        measure.run(self.server, upgrade)

    def usersync(self, job: str, name: str = "usersync run", prepare: Callable[[], object] = lambda: None, options: str = "") -> Contestant:
        config = {"auroville": self.example, "deleting": self.deleting}.get(job, self.config)
        command = f"exec {USERSYNC} run --job {job} --config {config} --output json {options}".rstrip()
        return Contestant(name, command, prepare, self._environment())

    def _environment(self) -> Mapping[str, str]:
        url, accounts, profiles, target = self.server.url, self.people.accounts, self.people.profiles, self.people.target
        return {
            "SOURCE": url(accounts),
            "TARGET": url(target),
            "AV_ACCOUNTS_DB_URL": url(accounts),
            "AV_PROFILE_DB_URL": url(profiles),
            "USERSYNC_DATABASE_URL": url(target),
            "USERSYNC_ENV": "staging",
        }

    def copied(self, source: str, table: str, columns: str, into: str, *, binary: bool = False) -> Contestant:
        """psql COPY | psql COPY."""
        options = " (FORMAT BINARY)" if binary else ""
        receive = self._psql(self.people.target, f"COPY {into} ({columns}) FROM STDIN{options}")
        command = f"{self._out(source, table, columns, options)} | {receive}"
        return Contestant(f"psql COPY | psql COPY, {'binary' if binary else 'text'}", command, lambda: self.people.empty(into))

    def typed(self, name: str, environment: Mapping[str, str], *, binary: bool = False) -> Contestant:
        """Staging and comparing by hand, as somebody at psql would."""
        options = " (FORMAT BINARY)" if binary else ""
        out = self._out(self.people.accounts, "users", ACCOUNT_NAMES, options)
        script = self.config.with_name("typed-binary.sql" if binary else "typed.sql")
        program = out.replace("'", "''")
        script.write_text(
            dedent(f"""\
            BEGIN;
            CREATE TEMP TABLE staged ({ACCOUNT_COLUMNS.replace(" PRIMARY KEY", "")});
            \\copy staged FROM PROGRAM '{program}'{options}
            SELECT count(*) FROM staged AS s LEFT JOIN accounts AS a ON a.id = s.id
             WHERE a.id IS NULL OR (a.username, a.email, a.asyncto_id) IS DISTINCT FROM (s.username, s.email, s.asyncto_id);
            ROLLBACK;
        """)
        )
        command = f"{self.server.psql} -f {script} {shlex.quote(self.server.url(self.people.target))}"
        return Contestant(name, command, environment=environment)

    def read_out(self) -> Contestant:
        return Contestant("psql COPY > /dev/null", f"{self._out(self.people.accounts, 'users', '*', '')} > /dev/null")

    def _out(self, source: str, table: str, columns: str, options: str) -> str:
        what = table if columns == "*" else f"{table} ({columns})"
        return self._psql(source, f"COPY {what} TO STDOUT{options}")

    def _psql(self, database: str, statement: str) -> str:
        return f"{self.server.psql} -c {shlex.quote(statement)} {shlex.quote(self.server.url(database))}"


def first_load(bench: Bench, rounds: int) -> Part:
    """One table into an empty table, beside COPY | COPY into the same kind of table."""
    text = bench.copied(bench.people.accounts, "users", ACCOUNT_NAMES, "accounts")
    binary = bench.copied(bench.people.accounts, "users", ACCOUNT_NAMES, "accounts", binary=True)
    existing = bench.usersync("existing", "usersync run, existing table", lambda: bench.people.empty("accounts"))
    created = bench.usersync("created", "usersync run, table made by usersync", lambda: bench.people.drop("made"))
    runs = take_turns(bench.server, [existing, text, created, binary], rounds)
    for name in (existing.name, created.name):
        expect(runs[name], inserted=bench.people.rows)
    bench.people.drop("made")
    return Part(
        "One table to an empty table",
        [
            ratio("one table to an existing empty table with the same key", runs[existing.name], runs[text.name], f"{COPIED}, text", 1.2),
            ratio("one table to a table that usersync makes", runs[created.name], runs[text.name], f"{COPIED}, text", 0.8),
            ratio("one table to an existing empty table, against binary", runs[existing.name], runs[binary.name], f"{COPIED}, binary"),
        ],
        runs,
    )


def unchanged(bench: Bench, rounds: int) -> Part:
    """The same again, with nothing new, beside the comparison typed by hand and beside reading the source out."""
    bench.people.empty("accounts")
    again = bench.usersync("existing")
    _load_again(bench, again)
    written = bench.people.written("accounts")
    typed = bench.typed("typed into psql", {})
    generous = bench.typed(f"typed, {WORK_MEM}", {"PGOPTIONS": f"-c {WORK_MEM}"})
    best = bench.typed("typed, binary", {}, binary=True)
    out = bench.read_out()
    runs = take_turns(bench.server, [again, typed, generous, out, best], rounds)
    expect(runs[again.name], inserted=0, updated=0, unchanged=bench.people.rows)
    for peer in (typed, generous, best):
        assert all(run.stdout.split()[2] == "0" for run in runs[peer.name]), runs[peer.name][0].stdout  # count, -----, 0
    own, wal = bench.people.written("accounts") - written, max(comparison_wal(bench.people) for _ in range(2))
    whole = sorted(run.wal for run in runs[again.name])[rounds // 2]
    return Part(
        "Unchanged again",
        [
            ratio(
                "unchanged, against staging and comparing by hand",
                runs[again.name],
                runs[typed.name],
                "typed into psql, text, defaults",
                1.3,
            ),
            ratio(f"unchanged, against the same with {WORK_MEM}", runs[again.name], runs[generous.name], "typed into psql, text"),
            ratio("unchanged, against the same in binary", runs[again.name], runs[best.name], "typed into psql, binary"),
            ratio("unchanged, against reading the source out", runs[again.name], runs[out.name], "`psql COPY > /dev/null`", 4),
            ratio(
                "staging and comparing by hand, against reading the source out", runs[typed.name], runs[out.name], "`psql COPY > /dev/null`"
            ),
            Figure("rows written to the table when unchanged", own, "rows", 0),
            Figure("WAL of the merge's own statement when unchanged", wal, "bytes", 0, beside="`EXPLAIN (ANALYZE, WAL)`"),
            Figure("WAL of the whole run when unchanged", whole, "bytes", beside="lease, ledger, cursor, catalog rows of temp tables"),
        ],
        runs,
    )


def dry_run(bench: Bench, rounds: int) -> Part:
    """Nothing new again, as a run and as a dry run, whose preview is empty then."""
    bench.people.empty("accounts")
    run, dry, preview = (
        bench.usersync("existing", f"usersync run {options}".rstrip(), options=options) for options in ("", "--dry-run", "--dry-run --diff")
    )
    _load_again(bench, run)
    runs = take_turns(bench.server, [run, dry, preview], rounds)
    for done in runs.values():
        expect(done, inserted=0, updated=0, unchanged=bench.people.rows)
    return Part(
        "A dry run",
        [
            ratio("dry run, unchanged", runs[dry.name], runs[run.name], "`usersync run`, unchanged", 1.1),
            ratio("dry run with --diff, unchanged", runs[preview.name], runs[run.name], "`usersync run`, unchanged"),
        ],
        runs,
    )


def delete(bench: Bench, rounds: int) -> Part:
    """Nothing new, for a job that would delete who has left and for one that keeps them."""
    bench.people.empty("accounts")
    keep = bench.usersync("existing", "usersync run, on_missing: keep")
    removing = bench.usersync("deleting", "usersync run, on_missing: delete")
    _load_again(bench, keep)
    _load_again(bench, removing)
    before = bench.people.written("accounts") + bench.people.written("seen")
    runs = take_turns(bench.server, [keep, removing], rounds)
    for done in runs.values():
        expect(done, inserted=0, updated=0, unchanged=bench.people.rows, gone=0)
    written = bench.people.written("accounts") + bench.people.written("seen") - before
    return Part(
        "Deletes",
        [
            ratio(
                "unchanged, with `on_missing: delete`", runs[removing.name], runs[keep.name], "the same job with `on_missing: keep`", 1.5
            ),
            Figure("rows written to the table and to what was seen, with `on_missing: delete`", written, "rows", 0),
        ],
        runs,
    )


def _load_again(bench: Bench, job: Contestant) -> None:
    """All of them, and once more: the first reader after a checkpoint sets hint bits."""
    measure.run(bench.server, job)
    bench.people.settle("accounts")
    measure.run(bench.server, job)


def join(bench: Bench, rounds: int) -> Part:
    """The job auroville of config.example.yaml: two databases into one existing table."""
    first = bench.usersync("auroville", "usersync run, first load", lambda: bench.people.empty("users"))
    again = bench.usersync("auroville", "usersync run, unchanged", lambda: bench.people.settle("users"))
    copied = bench.copied(bench.people.joined, "joined", USER_NAMES, "users")
    runs = take_turns(bench.server, [copied, first, again], rounds)
    expect(runs[first.name], inserted=bench.people.rows)
    expect(runs[again.name], inserted=0, updated=0, unchanged=bench.people.rows)
    return Part(
        "The join of two databases",
        [
            ratio("join of two databases, first load", runs[first.name], runs[copied.name], f"{COPIED} of the joined rows, text", 2.2),
            ratio("join of two databases, unchanged", runs[again.name], runs[first.name], "its first load", 1),
        ],
        runs,
    )


def memory(few: Bench, many: Bench) -> Part:
    """The most that the usersync process held, by what it did and how much there was to do."""
    runs: dict[str, Sequence[Run]] = {}
    figures = []
    for bench in (few, many):
        for job, table in (("existing", "accounts"), ("created", "made"), ("auroville", "users")):
            bench.people.drop("made") if table == "made" else bench.people.empty(table)
            for doing in ("loading", "unchanged"):
                name = f"{job}, {doing}, {bench.people.rows:,} rows"
                runs[name] = take_turns(bench.server, [bench.usersync(job, name)], 1)[name]
        most = max(measure.megabytes(runs[name]) for name in runs if name.endswith(f" {bench.people.rows:,} rows"))
        figures.append(Figure(f"client memory at {bench.people.rows:,} rows, loading and unchanged", most, "MB", 60))
    return Part("Client memory", figures, runs)


def small(server: Server) -> Part:
    """What it costs to start: --help, and the job auroville of the example on its three test users."""
    example = server.folder / "config.example.yaml"
    example.write_text(_example())
    environment = {"USERSYNC_HOME": str(server.home)}
    for command in (f"{USERSYNC} seed --config {example}", f"{USERSYNC} run --job auroville --config {example}"):
        measure.run(server, Contestant(command, command, environment=environment))
    help_ = Contestant("usersync --help", f"exec {USERSYNC} --help", environment=environment)
    run = f"exec {USERSYNC} run --job auroville --config {example} --output json"
    nothing = Contestant("usersync run, 3 users, nothing to do", run, environment=environment)
    python = Contestant("python -c pass", f"exec {shlex.quote(sys.executable)} -c pass")
    runs = take_turns(server, [help_, nothing, python], TURNS)
    expect(runs[nothing.name], inserted=0, updated=0, unchanged=3)
    beside = f"`python -c pass`: {measure.cpu(runs[python.name]):.2f} s"
    return Part(
        "Starting",
        [
            _cpu("`usersync --help`", runs[help_.name], beside, 0.25),
            _cpu("`usersync run` on 3 users with nothing to do", runs[nothing.name], beside, 0.6),
        ],
        runs,
    )


def _cpu(what: str, runs: Sequence[Run], beside: str, limit: float) -> Figure:
    used = [run.cpu for run in runs]
    wall = f"{measure.seconds(runs):.2f} s wall"
    return Figure(f"{what}, median of {TURNS}", measure.cpu(runs), "s CPU", limit, wall, beside, (min(used), max(used)))


def comparison_wal(people: People) -> int:
    """Bytes of WAL of the statement that compares, which is all that a merge without changes executes."""
    with Connection.connect(people.server.url(people.accounts)) as source, Connection.connect(people.server.url(people.target)) as tx:
        for name, value in SETTINGS.items():
            tx.execute(sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        columns = [Column(name, type_) for name, type_, *_ in (part.split() for part in ACCOUNT_COLUMNS.split(", "))]
        stage.create(tx, "records", columns)
        into = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(stage.table("records"))
        with source.cursor().copy("COPY public.users TO STDOUT (FORMAT BINARY)") as rows, tx.cursor().copy(into) as sink:
            for row in rows:
                sink.write(row)
        desired = Desired(sql.SQL("SELECT * FROM {}").format(stage.table("records")), people.rows)
        merge, _ = TableLoad(Load(table="accounts", key=["id"])).fit(desired, tx)
        explain = sql.SQL("EXPLAIN (ANALYZE, WAL, FORMAT JSON) ") + compare.whole_query(merge)
        (plan,) = tx.execute(explain).fetchone() or ([],)
        tx.rollback()
        return int(plan[0]["Plan"].get("WAL Bytes", 0))


def _example() -> str:
    """The example config; in a folder of its own, away from anybody's .env."""
    return people.EXAMPLE.read_text()


def expect(runs: Sequence[Run], **counts: int) -> None:
    """A run that did something else than it should measures nothing."""
    for run in runs:
        step = json.loads(run.stdout)["steps"][0]
        found = {name: step[name] for name in counts}
        assert found == counts, f"expected {counts}, found {found}"
