"""The map of who is whom, filled by a job: a million ids over two hundred thousand domains, beside the same steps without `identity`."""

from __future__ import annotations

from benchmarks import measure
from benchmarks.measure import Contestant, take_turns
from benchmarks.parts import USERSYNC, expect
from benchmarks.report import Figure, Part, ratio
from benchmarks.server import Server

DOMAINS = 5  # ids of a domain
CONFIG = """
environment: test
target: ${{TARGET}}
sources:
  tables: {{type: postgres, url: "${{SOURCE}}"}}
  lines: {{type: file, streams: {{people: {{path: people.jsonl, key: id}}}}}}
jobs:
"""
JOB = (
    '  {name}: {{steps: [{{extract: {{{extract}}}, transform: "{transform}", load: {{table: {name}, key: [id], create: true}}{more}}}]}}\n'
)
COLUMNS = ("id", "name", "website", "email")
OF_LINES = "SELECT key AS id, data ->> 'name' AS name, data ->> 'website' AS website, data ->> 'email' AS email FROM records"
OF_TABLE = "SELECT id, name, website, email FROM records"
RULES = ", identity: {{app: {app}, id: id, rules: [{{name: website, domain: website}}, {{name: email, domain: email}}]}}"
MAP = ("mappings", "customers", "identity_conflicts", "identities")


class Identified:
    """So many test users with a website or an e-mail address, as lines of JSON and as a table."""

    def __init__(self, server: Server, rows: int) -> None:
        self.server, self.rows = server, rows
        self.folder = server.folder / f"identity-{rows}"
        self.target, self.source = f"bench_identity_{rows}", f"bench_identity_source_{rows}"

    def prepare(self) -> None:
        """File, table and config; and usersync's own tables, since migrating is not what is measured."""
        self.folder.mkdir()
        domains = self.rows // DOMAINS
        people = f"""
            CREATE TABLE people AS SELECT 'id-' || i AS id, 'Test User Number ' || i AS name,
                   CASE WHEN i % 3 = 0 THEN 'https://www.example' || i % {domains} || '.test/about' END AS website,
                   'test.user.' || i || '@example' || i % {domains} || '.test' AS email FROM generate_series(1, {self.rows}) AS i
        """
        self.server.execute(self.source, people, "ALTER TABLE people ADD PRIMARY KEY (id)", "VACUUM (FREEZE, ANALYZE)")
        with (self.folder / "people.jsonl").open("w") as file:
            for i in range(1, self.rows + 1):
                host = f"example{i % domains}.test"
                website = f'"https://www.{host}/about"' if i % 3 == 0 else "null"
                file.write(f'{{"id": "id-{i}", "name": "Test User Number {i}", "website": {website}, "email": "test.user.{i}@{host}"}}\n')
        jobs = [
            JOB.format(name=f"{kind}{suffix}", extract=extract, transform=transform, more=RULES.format(app=kind) if suffix else "")
            for kind, extract, transform in (
                ("lines", "source: lines, streams: [people]", OF_LINES),
                ("rows", "source: tables, table: people", OF_TABLE),
            )
            for suffix in ("", "_mapped")
        ]
        (self.folder / "config.yaml").write_text(CONFIG.format() + "".join(jobs))
        measure.run(self.server, Contestant("usersync db upgrade", self._command("db upgrade"), environment=self._environment()))

    def run(self, job: str, name: str, *, anew: bool = False) -> Contestant:
        """A run; `anew` as if the job had never run, with an empty map."""
        return Contestant(
            name,
            self._command(f"run --job {job} --output json"),
            (lambda: self._forget(job)) if anew else (lambda: None),
            self._environment(),
        )

    def written(self) -> int:
        """Rows of the map ever inserted, updated or deleted."""
        counted = (
            "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables WHERE schemaname = 'usersync'"
            f" AND relname IN ({', '.join(map(repr, MAP))})"
        )
        return int(self.server.execute(self.target, counted)[0][0])

    def _forget(self, job: str) -> None:
        forgotten = [f"DELETE FROM usersync.{table} WHERE job = '{job}'" for table in ("cursors", "seen_streams", "rejects")]
        emptied = [f"TRUNCATE usersync.{', usersync.'.join(MAP)}"] if job.endswith("_mapped") else []
        self.server.execute(self.target, f"DROP TABLE IF EXISTS {job}", *forgotten, *emptied, "VACUUM (ANALYZE)")

    def _command(self, arguments: str) -> str:
        return f"{USERSYNC} {arguments} --config {self.folder / 'config.yaml'}"

    def _environment(self) -> dict[str, str]:
        return {"TARGET": self.server.url(self.target), "SOURCE": self.server.url(self.source)}


def identity(bench: Identified, rounds: int) -> Part:
    """A first load of documents and of a table, with their ids on the map and without; then the same again."""
    names = {job: f"{kind}, {what}" for kind, job, what in (
        ("documents", "lines", "without identity"), ("documents", "lines_mapped", "with identity"),
        ("a table", "rows", "without identity"), ("a table", "rows_mapped", "with identity"))}  # fmt: skip
    runs = take_turns(bench.server, [bench.run(job, name, anew=True) for job, name in names.items()], rounds)
    for name in names.values():
        expect(runs[name], inserted=bench.rows)
    again = bench.run("rows_mapped", "a table with identity, unchanged")
    before = bench.written()
    runs |= take_turns(bench.server, [again], 1)
    expect(runs[again.name], inserted=0, updated=0, unchanged=bench.rows)
    documents = ratio(
        f"{bench.rows:,} ids of documents mapped",
        runs[names["lines_mapped"]],
        runs[names["lines"]],
        "the same step without `identity`",
        1.3,
    )
    rows = ratio(
        f"{bench.rows:,} ids of a table mapped", runs[names["rows_mapped"]], runs[names["rows"]], "the same step without `identity`"
    )
    return Part(
        "The map of who is whom", [documents, rows, Figure("rows of the map written, unchanged", bench.written() - before, "rows", 0)], runs
    )
