"""`usersync init`: what it asks, what it tries, what it writes, and that what it wrote runs."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import socket
import stat
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import servers
from tests.cli.commands import parse
from tests.conftest import ROOT, Command, NewDatabase, Result
from tests.run.tables.test_auroville import ACCOUNTS, PROFILES
from tests.simple_job import PASSWORD, PEOPLE, clean, execute, with_password
from usersync_cli.cli import cli
from usersync_cli.clients.postgres import embedded
from usersync_cli.config import loader
from usersync_cli.config.template import Answers, config_yaml, dotenv, drafts, place
from usersync_cli.errors import ConfigError, UsersyncError, status_of
from usersync_cli.model import Database
from usersync_cli.signals import Stop
from usersync_cli.state import migrations

URL = "postgresql://usersync:secret@db.example.org/app"
NOWHERE = f"postgresql://postgres:{PASSWORD}@127.0.0.1:1/app"
AUROVILLE = Answers("auroville", "staging", "*/10 * * * *", URL, {"av_accounts": URL, "av_profile": URL}, "users")
COPY = Answers("copy", "production", "5 4 * * *", URL, {"origin": URL}, "people", ["id"], table="contacts")


@dataclass
class Newcomer:
    """Somebody with two databases: people_at_source in the one, nothing in the other."""

    usersync: Command
    source: Database
    target: Database
    options: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        migrations.upgrade(self.target)  # here it costs no process
        execute(self.source.url, f"{PEOPLE}; INSERT INTO people_at_source VALUES (1, 'Test User One'), (2, 'Test User Two')")
        self.options = {
            "--kind": "copy",
            "--source": with_password(self.source.url),
            "--target": with_password(self.target.url),
            "--table": "people_at_source",
            "--into": "people",
        }

    @property
    def given(self) -> list[str]:
        return [word for pair in self.options.items() for word in pair]

    def init(self, *more: str, **variables: str) -> Result:
        return init_here(self.usersync.folder, *self.given, *more, **variables)

    def files(self) -> dict[str, bytes]:
        """What lies in the folder, hidden or not."""
        return {file.name: file.read_bytes() if file.is_file() else b"" for file in self.usersync.folder.iterdir()}


def init_here(folder: Path, *arguments: str, **variables: str) -> Result:
    """The command without a terminal and without a process of its own; an error's message and hint are its stderr."""
    unset = dict.fromkeys(("USERSYNC_ENV", "USERSYNC_DATABASE_URL", "ORIGIN_DB_URL", "AV_ACCOUNTS_DB_URL", "AV_PROFILE_DB_URL"))
    done = CliRunner().invoke(cli, ["init", "--config", str(folder / "config.yaml"), *arguments], obj=Stop(), env={**unset, **variables})
    if isinstance(done.exception, UsersyncError):
        return clean(Result(status_of(done.exception), done.stdout, f"usersync: {done.exception.message}\n{done.exception.hint}"))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return clean(Result(done.exit_code, done.stdout, done.stderr))


@pytest.fixture
def newcomer(usersync: Command, new_database: NewDatabase) -> Newcomer:
    return Newcomer(usersync, new_database("source origin"), new_database())


@pytest.fixture
def home_of_server(server: servers.Server) -> Iterator[Path]:
    """The session's server, as the embedded one; its databases of the job auroville are dropped after the test."""
    yield server.folder.parent
    for name in ("usersync", "av_accounts", "av_profile"):
        server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    embedded._known.clear()  # this process has seen them


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Of the commands that are started inside."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def told(result: Result) -> list[list[str]]:
    """The commands that `init` says come next; each is one that click takes."""
    lines = [shlex.split(line) for line in re.findall(r"^  usersync (.*?)(?: {3}.*)?$", result.stdout, re.MULTILINE)]
    for line in lines:
        parse(line)
    return lines


def test_from_no_file_to_a_run_without_news(newcomer: Newcomer) -> None:
    """
    Without a terminal: both files, the password in .env alone, which nobody else may read whatever the umask; what was
    written is valid, passes check, runs, and a second run writes nothing. A second init changes no byte.
    """
    with umask(0):
        result = clean(newcomer.usersync("init", *newcomer.given))
    written = newcomer.files()
    modes = {name: stat.S_IMODE((newcomer.usersync.folder / name).stat().st_mode) for name in written}

    assert (0, "") == (result.status, result.stderr), result
    assert {".env": 0o600, "config.yaml": 0o644} == modes
    assert (2, 0) == (written[".env"].count(PASSWORD.encode()), written["config.yaml"].count(PASSWORD.encode()))
    assert written["config.yaml"].splitlines()[0] == (ROOT / "config.example.yaml").read_bytes().splitlines()[0]
    assert re.search(r"ok +target: PostgreSQL 18\.\d+, database test_\d+, role postgres\n", result.stdout)
    assert "ok    2 columns: id, name\n" in result.stdout
    check, preview, run, _ = told(result)
    assert [*run, "--dry-run", "--diff"] == preview
    assert [0, 0] == [clean(newcomer.usersync(*line)).status for line in (check, run)]
    assert [(1, "Test User One"), (2, "Test User Two")] == execute(newcomer.target.url, "SELECT id, name FROM people ORDER BY id")
    assert ": nothing changed" in clean(newcomer.usersync("run", "--job", "copy")).stdout
    again = newcomer.init()
    assert (2, written) == (again.status, newcomer.files())
    assert "already there" in again.stderr


def test_auroville_without_any_server(usersync: Command, home_of_server: Path) -> None:
    """
    Embedded databases: init, seed and run, as its last lines say; it is the environment development.
    """
    migrations.upgrade(Database("usersync", "target", home_of_server))  # here it costs no process
    home = {"USERSYNC_HOME": str(home_of_server)}
    result = init_here(
        usersync.folder, "--kind", "auroville", "--target", "embedded", "--accounts", "embedded", "--profiles", "embedded", **home
    )
    seed, check, _, run, _ = told(result)
    seeded = CliRunner().invoke(cli, seed, obj=Stop(), env=home, catch_exceptions=False)
    done = clean(usersync(*run, **home))

    assert ("seed", "check", 0, 0) == (seed[0], check[0], seeded.exit_code, done.status), done
    assert "auroville: 3 members: 0 new, 2 changed" in done.stdout
    assert "USERSYNC_ENV=development\n" in (usersync.folder / ".env").read_text()


def test_an_embedded_source_may_be_filled_later(usersync: Command, home_of_server: Path) -> None:
    """
    A table that an embedded source does not have yet is a note, with the command that loads a dump; a wrong column is not.
    """
    options = ["--kind", "copy", "--target", "embedded", "--source", "embedded:av_accounts", "--into", "people"]
    column = init_here(usersync.folder, *options, "--query", "SELECT nothing FROM pg_class", USERSYNC_HOME=str(home_of_server))
    table = init_here(usersync.folder, *options, "--table", "contacts", USERSYNC_HOME=str(home_of_server))

    assert (7, 0) == (column.status, table.status), column
    assert "to be loaded into the embedded database first" in table.stdout
    assert "  usersync db shell origin --config " in table.stdout
    assert "${ORIGIN_DB_URL:-embedded:av_accounts}" in (usersync.folder / "config.yaml").read_text()


def test_auroville_of_real_databases(usersync: Command, new_database: NewDatabase) -> None:
    """
    In staging, into a table and a file of one's own choice; the next commands name the file.
    """
    accounts, profiles, target = new_database(), new_database(), new_database()
    migrations.upgrade(target)  # here it costs no process
    execute(accounts.url, ACCOUNTS)
    execute(accounts.url, "INSERT INTO users VALUES (gen_random_uuid(), 'test-1', 'test.1@example.org', 'T1')")
    execute(profiles.url, PROFILES.format(type="timestamp(0)"))
    urls = ["--accounts", accounts.url, "--profiles", profiles.url, "--target", target.url]
    folder = usersync.folder / "their's"
    folder.mkdir()
    more = ["--environment", "staging", "--into", "members", "--job", "members", "--schedule", "0 3 * * 1"]
    result = init_here(folder, "--kind", "auroville", *urls, *more, "--config", f"{folder}/a.yaml")
    run = clean(usersync("run", "--job", "members", "--config", folder / "a.yaml"))

    assert (0, 0) == (result.status, run.status), (result, run)
    assert [("test-1",)] == execute(target.url, "SELECT username FROM members")
    assert """their'"'"'s/a.yaml'   rights and columns; """ in result.stdout
    assert "0 3 * * 1" == loader.load(folder / "a.yaml", {}).jobs["members"].schedule


def test_the_written_job_is_that_of_the_example(tmp_path: Path) -> None:
    """
    The job auroville is the same as in config.example.yaml, and so are the names of its variables.
    """
    (tmp_path / "config.yaml").write_text(config_yaml(AUROVILLE))
    (tmp_path / ".env").write_text(dotenv(AUROVILLE))
    written, example = loader.load(tmp_path / "config.yaml", {}), loader.load(ROOT / "config.example.yaml", {})

    assert example.jobs == written.jobs
    assert set(re.findall(r"\$\{([A-Z_]+)", config_yaml(AUROVILLE))) - {"VAR"} <= set(
        re.findall(r"\$\{([A-Z_]+)", (ROOT / "config.example.yaml").read_text())
    )
    assert URL not in config_yaml(AUROVILLE)
    assert all("on_missing: keep" in text and "# max_missing: 5%" in text for text in map(config_yaml, (AUROVILLE, COPY)))


@pytest.mark.parametrize(
    ("there", "named"),
    [("config.yaml", "config.yaml is already there"), (".env", ".env is already there"), ("dangling", "config.yaml is already there")],
)
def test_nothing_is_replaced(usersync: Command, there: str, named: str) -> None:
    """
    One of the two files is enough to refuse, a link that leads nowhere too: exit 2, which one it is, and nothing is written.
    """
    if there == "dangling":
        (usersync.folder / "config.yaml").symlink_to(usersync.folder / "nowhere")
    else:
        (usersync.folder / there).write_text("MINE=1\n")
    before = sorted(usersync.folder.iterdir())
    result = init_here(usersync.folder, "--kind", "copy", "--table", "x", "--into", "y", "--source", URL, "--target", URL, "--no-check")

    assert 2 == result.status
    assert named in result.stderr
    assert before == sorted(usersync.folder.iterdir())
    assert there == "dangling" or "MINE=1\n" == (usersync.folder / there).read_text()


def test_two_at_once(tmp_path: Path) -> None:
    """
    A config.yaml that somebody else makes while we write stays theirs; our .env is taken back, and no draft is left.
    """
    files = {tmp_path / ".env": ("A=1\n", 0o600), tmp_path / "config.yaml": ("ours", 0o644)}
    with umask(0o277), drafts(files) as made:
        draft = made[tmp_path / ".env"]
        assert (0o700, 0o600) == (stat.S_IMODE(draft.parent.stat().st_mode), stat.S_IMODE(draft.stat().st_mode))
        (tmp_path / "config.yaml").write_text("theirs")
        with pytest.raises(ConfigError, match=r"config\.yaml is already there"):
            place(made)

    assert [tmp_path / "config.yaml"] == list(tmp_path.iterdir())
    assert "theirs" == (tmp_path / "config.yaml").read_text()


def test_a_folder_that_cannot_be_written(usersync: Command) -> None:
    """
    A folder that is not there: exit 2 in a sentence, before anything is asked or tried.
    """
    result = init_here(usersync.folder / "no")

    assert 2 == result.status
    assert f"usersync: there is no folder {usersync.folder / 'no'}; nothing was written\n" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--kind", "--target"]),
        (["--kind", "copy"], ["--target", "--source", "--table or --query"]),
        (["--kind", "auroville", "--target", URL, "--yes"], ["--accounts", "--profiles"]),
        (["--kind", "copy", "--target", URL, "--source", URL, "--query", "SELECT 1"], ["--into"]),
        (["--kind", "auroville", "--table", "x"], ["--table is for --kind copy"]),
        (["--kind", "copy", "--target", URL, "--source", URL, "--table", URL], ["--table is no place for a URL"]),
        (["--kind", "copy", "--target", URL, "--source", URL, "--table", "x", "--into", "y\udcff"], ["argument 14 is not UTF-8"]),
        (["--config", ".env"], [".env is for the variables"]),
        (["--kind", "copy", "--target", "mysql://x", "--source", URL, "--table", "x"], ["target: must be postgresql://"]),
        (["--kind", "copy", "--target", URL, "--source", URL, "--table", "x", "--into", "y", "--schedule", "x"], ["--schedule must"]),
        (["--kind", "copy", "--target", URL, "--source", URL, "--table", "x", "--into", "y", "--environment", "X"], ["must be a name"]),
        (["--kind", "copy", "--target", URL, "--source", "embedded", "--table", "x", "--environment", "prod"], ["development or test"]),
        (["--kind", "copy", "--target", URL, "--source", URL, "--table", "x"], ["table x would be copied onto itself"]),
        (["--kind", "copy", "--target", URL, "--source", f"{URL}\udcff", "--table", "x"], ["argument 10 is not UTF-8"]),
        (["--kind", "auroville", "--target", URL, "--accounts", "embedded", "--profiles", "embedded"], ["all embedded, or none is"]),
        (["--kind", "auroville", "--target", URL, "--accounts", URL, "--profiles", URL, "--environment", "x"], ["production or staging"]),
    ],
)  # fmt: skip
def test_what_is_missing_or_does_not_fit(usersync: Command, options: list[str], words: list[str]) -> None:
    """
    Without a terminal nothing is asked: exit 2 with the options that are missing or wrong, and nothing is written.
    """
    result = init_here(usersync.folder, "--no-check", *options)

    assert 2 == result.status, result
    assert [] == [word for word in words if word not in result.stderr], result.stderr
    assert "secret" not in result.stdout + result.stderr
    assert [] == list(usersync.folder.iterdir())


def test_what_does_not_work_is_not_written(newcomer: Newcomer) -> None:
    """
    Without a terminal, a server that is away, a table that is not there, a key that is no column and a target table that
    does not fit: the exit status of `check` with its hint, and no file. --no-check writes them all the same.
    """
    execute(newcomer.target.url, "CREATE TABLE people (id int PRIMARY KEY)")
    misfit = newcomer.init()
    key = newcomer.init("--key", "uuid")
    newcomer.options["--table"] = "nowhere"
    table = newcomer.init()
    newcomer.options["--source"] = NOWHERE
    server = newcomer.init()

    assert [7, 2, 7, 4] == [result.status for result in (misfit, key, table, server)]
    assert 'ALTER TABLE "people" ADD COLUMN "name" text;' in misfit.stderr
    assert "no column uuid" in key.stderr
    assert 'relation "nowhere" does not exist' in table.stderr
    assert "source origin: connecting: " in server.stderr
    assert {} == newcomer.files()
    assert 0 == newcomer.init("--no-check").status
    assert [".env", "config.yaml"] == sorted(newcomer.files())


def test_the_environment_must_not_say_something_else(newcomer: Newcomer) -> None:
    """
    A variable that is set wins over .env, so a run would use another database than the one that was tried: refused.
    """
    other = newcomer.init(USERSYNC_DATABASE_URL=newcomer.source.url)
    broken = newcomer.init(ORIGIN_DB_URL="mysql://x")
    elsewhere = newcomer.init(USERSYNC_ENV="staging")

    assert [2, 2, 2] == [result.status for result in (other, broken, elsewhere)]
    assert "usersync: USERSYNC_DATABASE_URL has another value in the environment" in other.stderr
    assert "ORIGIN_DB_URL" in broken.stderr
    assert "usersync: USERSYNC_ENV has another value" in elsewhere.stderr
    assert {} == newcomer.files()


@dataclass
class Terminal:
    """A terminal without echo, so that what is read from it is what usersync printed."""

    process: subprocess.Popen[bytes]
    master: int
    said: str = ""

    def wait_for(self, words: str) -> str:
        """Everything up to these words; they are not met again."""
        while words not in self.said:
            ready, _, _ = select.select([self.master], [], [], 30)
            assert ready, f"waited for {words!r}, got {self.said!r}"
            try:
                self.said += os.read(self.master, 65536).decode()
            except OSError:  # Linux: whoever held the other end is gone
                pytest.fail(f"ended before {words!r}: {self.said!r}")
        before, _, self.said = self.said.partition(words)
        return before + words

    def answer(self, question: str, text: str) -> str:
        """What was printed up to the question."""
        said = self.wait_for(question)
        os.write(self.master, f"{text}\n".encode())
        return said

    def end(self) -> str:
        """What else was printed, until the process has ended."""
        with pytest.raises(pytest.fail.Exception):
            self.wait_for("\0")
        self.process.wait(30)
        return self.said


@contextmanager
def on_a_terminal(usersync: Command, *arguments: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    command = [sys.executable, "-m", "usersync_cli", "init", *arguments]
    with subprocess.Popen(command, cwd=usersync.folder, env=usersync.environment, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        try:
            yield Terminal(process, master)
        finally:
            process.kill()
            os.close(master)


def test_asked_on_a_terminal(newcomer: Newcomer) -> None:
    """
    Each answer is tried at once; what fails is said with what to do, and asked again; defaults are taken with Enter.
    """
    with on_a_terminal(newcomer.usersync) as terminal:
        said = [
            terminal.answer("Kind", with_password(newcomer.target.url)),
            terminal.answer("Kind", "copy"),
            terminal.answer("Target", "postgres:x"),
            terminal.answer("Target", NOWHERE),
            terminal.answer("Target", with_password(newcomer.target.url)),
            terminal.answer("Database that is read", with_password(newcomer.source.url)),
            terminal.answer("Table to read", with_password(newcomer.source.url)),
            terminal.answer("Table to read", "people"),
            terminal.answer("Table to read", "SELECT id AS number, name FROM people_at_source;"),
            terminal.answer("Table that is loaded", "people"),
            terminal.answer("Key", ""),
            terminal.answer("Key", "number"),
            terminal.answer("Environment", ""),
            terminal.answer("Schedule", "every day"),
            terminal.answer("Schedule", ""),
            terminal.end(),
        ]
    job = loader.load(newcomer.usersync.folder / "config.yaml", {}).jobs["copy"]

    assert 0 == terminal.process.returncode
    assert "must be postgresql://user:password@host:port/database" in said[3]
    assert "FAIL  target: connecting: " in said[4]
    assert "is the server running and reachable" in said[4]
    assert 'relation "people" does not exist' in said[8]
    assert "no column id" in said[11]
    assert "must be the five fields" in said[14]
    assert PASSWORD not in "".join(said)
    assert ("SELECT id AS number, name FROM people_at_source", ["number"]) == (job.steps[0].extract["records"].query, job.steps[0].load.key)
    assert "*/10 * * * *" == job.schedule


def test_a_misfit_may_be_mended_later(newcomer: Newcomer) -> None:
    """
    On a terminal, what `check` finds is shown, and whether to write the files is asked; no writes nothing.
    """
    execute(newcomer.target.url, "CREATE TABLE people (id int PRIMARY KEY)")
    with on_a_terminal(newcomer.usersync, *newcomer.given, "--key", "id", "--environment", "test", "--schedule", "0 0 * * *") as terminal:
        said = terminal.answer("Write the files all the same", "no")
        last = terminal.end()

    assert (2, {}) == (terminal.process.returncode, newcomer.files())
    assert 'ALTER TABLE "people" ADD COLUMN "name" text;' in said
    assert "usersync: nothing was written" in last


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 2)], ids=["Ctrl-C", "SIGTERM", "Ctrl-D"]
)
def test_stopped_while_asking(usersync: Command, signum: int | None, status: int) -> None:
    """
    Ctrl-C at a question: exit 130 at once, nothing is written; so with SIGTERM, and with the end of the input.
    """
    with on_a_terminal(usersync, "--kind", "copy", "--no-check", "--target", URL) as terminal:
        terminal.wait_for("Database that is read")
        if signum:
            terminal.process.send_signal(signum)
        else:
            os.write(terminal.master, b"\x04")
        last = terminal.end()

    assert (status, []) == (terminal.process.returncode, list(usersync.folder.iterdir()))
    assert "nothing was written" in last
    assert "Traceback" not in last


def test_stopped_while_a_server_says_nothing(usersync: Command) -> None:
    """
    Ctrl-C while a connection is tried ends with 130 too, and nothing is written.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]}/app"
        with usersync.start("init", "--kind", "copy", "--table", "x", "--source", url, "--target", url) as process:
            accepted, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=30)
            accepted.close()

    assert (130, "", "usersync: stopped by Ctrl-C; nothing was written\n") == (process.returncode, stdout, stderr)
    assert [] == list(usersync.folder.iterdir())


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
# What a shell, YAML, ${...} and python-dotenv each have a meaning for.
MEANT = [*"'\"\\$#{}= \t\n\r:a%&|>-`[]<", "${A}", "$${", "<KEY>", "\u2028", "\x85"]
TROUBLE = st.lists(st.sampled_from(MEANT), max_size=12).map("".join)


@settings(max_examples=80, deadline=None)
@given(st.one_of(TEXT, TROUBLE))
def test_dotenv_gives_back_what_was_put_in(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    """
    Whatever a URL holds, quotes, $, #, spaces and line breaks too, is read from .env as it was.
    """
    file = tmp_path_factory.getbasetemp() / "init.env"
    url = f"postgresql://{value}"
    file.write_text(dotenv(Answers("copy", "test", "", url, {"origin": url}, "x")), newline="")

    assert {"USERSYNC_ENV": "test", "USERSYNC_DATABASE_URL": url, "ORIGIN_DB_URL": url} == loader._dotenv(file)


@settings(max_examples=80, deadline=None)
@given(st.one_of(TEXT, TROUBLE), st.one_of(TEXT, TROUBLE))
def test_config_gives_back_what_was_put_in(tmp_path_factory: pytest.TempPathFactory, text: str, name: str) -> None:
    """
    Whatever a query, a table and a key are called, the config file says just that.
    """
    query, column, table = f"SELECT {text}x", f"c{name}"[:15], f"t{name.replace('.', '').replace('{', '').replace('}', '')}"[:15]
    answers = Answers("copy", "test", "1 2 3 4 5", URL, {"origin": URL}, table, [column], query=query)
    file = tmp_path_factory.getbasetemp() / "init.yaml"
    file.write_text(config_yaml(answers), newline="")
    (step,) = loader.load(file, {}).jobs["copy"].steps

    assert (query, [column], table) == (step.extract["records"].query, step.load.key, step.load.table)


def test_what_no_dotenv_can_hold() -> None:
    """
    NUL and what is no text are refused in a sentence that does not show the value.
    """
    for value in ("a\0secret", "a\udcffsecret"):
        with pytest.raises(ConfigError, match=r"no \.env can hold") as refused:
            dotenv(Answers("copy", "test", "", f"postgresql://{value}", {"origin": URL}, "x"))
        assert "secret" not in refused.value.message
