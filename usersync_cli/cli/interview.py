"""The questions of `usersync init`: each answer is tried at once, and asked for again until it is right."""

from __future__ import annotations

import re
import select
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from usersync_cli.errors import ConfigError, Drift, Stopped, UsersyncError

if TYPE_CHECKING:
    from usersync_cli.config.template import Answers
    from usersync_cli.model import Database
    from usersync_cli.ports import TabularSource
    from usersync_cli.signals import Stop

T = TypeVar("T")

KINDS = ["auroville", "copy"]
# What each kind reads: its sources in the config file, the option that gives the URL, and what the question calls it.
_SOURCES = {
    "auroville": [
        ("av_accounts", "--accounts", "Database of the accounts (table users)"),
        ("av_profile", "--profiles", "Database of the profiles (table profiles)"),
    ],
    "copy": [("origin", "--source", "Database that is read")],
}
_ONLY_FOR = {
    "--accounts": "auroville",
    "--profiles": "auroville",
    "--source": "copy",
    "--table": "copy",
    "--query": "copy",
    "--key": "copy",
}
_URLS = ("--target", "--accounts", "--profiles", "--source")
_REAL_PEOPLE = ("production", "staging")  # where the job auroville may run; its `environments`
_NOT_THERE = re.compile(r"\[(?:42P01|3F000)\]")  # a table or schema
_INTRODUCTION = """\
A few questions, then {config} and {env} are written. Ctrl-C writes nothing.
URLs go to {env}, which only you may read: postgresql://user:password@host:5432/database, or embedded, a
private one for trying out. In a password write @ : / ? # % as %40 %3A %2F %3F %23 %25.

Which job?
  auroville   accounts and profiles of Auroville, from two databases, into the users table of an application
  copy        one table or query of one PostgreSQL, into a table of yours"""


@dataclass(frozen=True)
class Given:
    """The options, as they were given."""

    kind: str | None
    target: str | None
    urls: dict[str, str | None]  # by option: --accounts, --profiles, --source
    table: str | None
    query: str | None
    into: str | None
    key: tuple[str, ...]
    schedule: str | None
    environment: str | None
    job: str | None

    def option(self, name: str) -> object:
        """What was given for `--name`; empty or None when nothing was."""
        return self.urls[name] if name in self.urls else getattr(self, name.removeprefix("--"))


class InputEnded(ConfigError):
    """Ctrl-D: nobody is left to ask again."""


class Interview:
    """The questions to one person, and what is known from the answers so far."""

    def __init__(self, given: Given, config_path: Path | None, stop: Stop, *, asking: bool, checking: bool) -> None:
        from usersync_cli.config.loader import default_path

        self.given, self.stop, self.asking, self.checking = given, stop, asking, checking
        self.config = config_path or default_path()
        self.env = self.config.parent / ".env"
        self.named = [] if config_path in {None, default_path()} else ["--config", str(config_path)]
        self.columns: Sequence[str] | None = None  # of what is read, where that is known
        self.to_fill = False  # an embedded source lacks what the job reads

    # the questions

    def answers(self) -> Answers:
        """Asks all that the options do not say. Raises the first complaint where nobody can be asked."""
        from usersync_cli.config.template import Answers
        from usersync_cli.config.values import cron_schedule

        if self.asking:
            click.echo(_INTRODUCTION.format(config=self.config, env=self.env))
        kind = self.question("--kind", "Kind", _one_of(KINDS), suggested=KINDS[0]) if self.asking or self.given.kind else ""
        self.refuse_what_does_not_fit(kind)
        job = _job(self.given.job or kind)
        target = self.question("--target", "Target, the PostgreSQL that is written", self.target, suggested="embedded")
        sources = {}
        for name, option, text in _SOURCES[kind]:
            sources[name] = self.question(option, text, lambda url, name=name: self.source(name, url, target, kind), suggested="embedded")  # type: ignore[misc]
        table, query = self.what_is_read(sources["origin"]) if kind == "copy" else (None, None)
        default_table = "users" if kind == "auroville" else (table or "").rpartition(".")[2] or None
        into = self.question("--into", "Table that is loaded", lambda text: self.into(text, table, sources, target), default=default_table)
        key = self.question("--key", "Key, the columns that make two rows the same", self.key, default="id") if kind == "copy" else ("id",)
        fitting = _environments(kind, [target, *sources.values()])
        environment = self.question(
            "--environment", "Environment", lambda text: _environment(text, fitting), default=fitting[0] if fitting else "production"
        )
        schedule = self.question("--schedule", "Schedule, as in a crontab", cron_schedule, default="*/10 * * * *")
        return Answers(job, environment, schedule, target, sources, into, key, table, query)

    def refuse_what_does_not_fit(self, kind: str) -> None:
        """Options of the other kind; and, where nothing is asked, options that are missing: all of them at once."""
        wrong = [option for option, of in _ONLY_FOR.items() if kind and of != kind and self.given.option(option)]
        if wrong:
            raise click.UsageError(f"{wrong[0]} is for --kind {_ONLY_FOR[wrong[0]]}.")
        if self.given.table and self.given.query:
            raise click.UsageError("--table or --query, not both.")
        if self.asking:
            return
        needed = ["--target", *(option for _, option, _ in _SOURCES.get(kind, []))]
        missing = [option for option in needed if not self.given.option(option)]
        if kind == "copy" and not (self.given.table or self.given.query):
            missing.append("--table or --query")
        if self.given.query and not self.given.into:
            missing.append("--into")
        if not kind:
            missing.insert(0, "--kind")
        if missing:
            raise click.UsageError(f"Nothing is asked here (no terminal, or --yes), and this is missing: {', '.join(missing)}.")

    def question(self, option: str, text: str, take: Callable[[str], T], *, default: str | None = None, suggested: str | None = None) -> T:
        """The first answer that `take` takes: the option's, else what is typed, else the default.

        `suggested` is a default for who sees it. Without a terminal the first complaint is raised.
        """
        value = self.given.option(option)
        answer = ",".join(value) if isinstance(value, tuple) else str(value or "")
        while True:
            try:
                answer = answer or (self.ask(text, default or suggested) if self.asking else default or "")
                if any("\ud800" <= character <= "\udfff" for character in answer):
                    raise ConfigError(f"{option} is not UTF-8 text")
                if "://" in answer and option not in _URLS and not re.search(r"\s", answer):
                    raise ConfigError(f"{option} is no place for a URL")  # a password in it would be printed as the name of a table
                return take(answer)
            except (Stopped, InputEnded):
                raise
            except (UsersyncError, ValueError) as error:
                complaint = error if isinstance(error, UsersyncError) else ConfigError(f"{option} {error}")
            if not self.asking:
                raise complaint
            complain(complaint)
            answer = ""

    def ask(self, text: str, default: str | None) -> str:
        """One line from the terminal. Read only when it is there, so that a signal is met while nothing is typed."""
        click.echo(f"{text} [{default}]: " if default else f"{text}: ", nl=False)
        while not select.select([sys.stdin], [], [], 0.1)[0]:
            if self.stop.signum:
                click.echo()
            self.stop.check()
        if not (line := sys.stdin.readline()):
            click.echo()
            raise InputEnded("the input ended before the last question; nothing was written", hint="every question is an option too: -h")
        return line.strip() or default or ""

    # what takes an answer; each raises what is wrong with it

    def target(self, url: str) -> str:
        from usersync_cli.report.check import OLDEST_TARGET

        self.reach(url, "target", OLDEST_TARGET, read_write=True)
        return url

    def source(self, name: str, url: str, target: str, kind: str) -> str:
        from usersync_cli.config.template import is_embedded
        from usersync_cli.report.check import OLDEST_SOURCE

        if url == "embedded":
            url = f"embedded:{name}"
        if kind == "auroville" and is_embedded(url) != is_embedded(target):
            raise ConfigError(
                "the job auroville copies real people, so its databases are all embedded, or none is",
                hint=f"the target is {'embedded' if is_embedded(target) else 'not embedded'}",
            )
        self.reach(url, f"source {name}", OLDEST_SOURCE)
        self.to_fill = kind == "auroville" and is_embedded(url)  # `usersync seed` does it
        return url

    def reach(self, url: str, name: str, oldest: int, *, read_write: bool = False) -> None:
        from usersync_cli.config.reader import url_mistake

        if text := url_mistake(url):
            raise ConfigError(f"{name}: {text}")
        if self.checking:
            click.echo(f"  ok    {name}: {_who_answers(_database(url, name), self.stop, oldest, read_write=read_write)}")

    def what_is_read(self, url: str) -> tuple[str | None, str | None]:
        """A table, or a query."""

        def take(text: str) -> tuple[str | None, str | None]:
            from usersync_cli.config.values import sql_text, table_name

            is_query = text == self.given.query or (text != self.given.table and re.search(r"\s", text))
            read = (None, sql_text(text).strip()) if is_query else (table_name(text), None)
            if self.checking:
                self.columns = self.describe(url, *read)
            return read

        option = "--query" if self.given.query else "--table"
        return self.question(option, "Table to read (table or schema.table), or a SELECT on one line", take)

    def describe(self, url: str, table: str | None, query: str | None) -> Sequence[str] | None:
        """The names of the columns; None when an embedded database does not have them yet."""
        from usersync_cli.model import Stream
        from usersync_cli.ports import Tools

        self.to_fill = False
        tools = Tools("init", self.stop, _database)
        with _postgres(url).open(tools) as session:
            try:
                columns = [column.name for column in session.columns(Stream("records", table, query))]
            except Drift as error:
                if not url.startswith("embedded") or not _NOT_THERE.search(error.message):
                    raise
                click.echo(f"  note  {error.message}: to be loaded into the embedded database first")
                self.to_fill = True
                return None
        click.echo(f"  ok    {len(columns)} column{'s' if len(columns) > 1 else ''}: {', '.join(columns)}")
        return columns

    def into(self, text: str, table: str | None, sources: dict[str, str], target: str) -> str:
        from usersync_cli.config.values import loaded_table_name

        if "{" in text:
            raise ConfigError("--into must be table or schema.table, without braces")
        if table == text and any(_database(url, "") == _database(target, "") for url in sources.values()):
            raise ConfigError(f"table {text} would be copied onto itself", hint="load another table, or another database")
        return loaded_table_name(text)

    def key(self, text: str) -> Sequence[str]:
        from usersync_cli.config.values import column_name

        typed = self.given.key if text == ",".join(self.given.key) else [name.strip() for name in text.split(",")]
        names = list(dict.fromkeys(column_name(name) for name in typed))
        unknown = [name for name in names if self.columns is not None and name not in self.columns]
        if unknown:
            raise ConfigError(f"key: what is read has no column {unknown[0]}", hint=f"its columns: {', '.join(self.columns or ())}")
        return names


def _postgres(url: str) -> TabularSource:
    """The source `origin`, as the config file will have it."""
    from usersync_cli.config.registry import tabular_port

    port = tabular_port("postgres")
    return port.source("origin", port.settings(type="postgres", url=url))


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def take(text: str) -> str:
        if text not in words:
            raise ConfigError(f"must be {' or '.join(words)}")
        return text

    return take


def _job(text: str) -> str:
    from usersync_cli.settings import plain_name

    try:
        return plain_name(text)
    except ValueError as error:
        raise ConfigError(f"--job {error}") from None


def _environments(kind: str, urls: Sequence[str]) -> Sequence[str]:
    """Environments that fit these databases, the default first; none where any does."""
    from usersync_cli.config.loader import PLAYGROUNDS
    from usersync_cli.config.template import is_embedded

    if any(map(is_embedded, urls)):
        return PLAYGROUNDS
    return _REAL_PEOPLE if kind == "auroville" else ()


def _environment(text: str, fitting: Sequence[str]) -> str:
    from usersync_cli.settings import plain_name

    if fitting and text not in fitting:
        why = "embedded databases are for nothing else" if "test" in fitting else "the job auroville copies real people"
        raise ConfigError(f"--environment must be {' or '.join(fitting)}: {why}")
    return plain_name(text)


def _database(url: str, name: str) -> Database:
    from usersync_cli.config.loader import default_home
    from usersync_cli.config.reader import EMBEDDED
    from usersync_cli.model import Database

    embedded = EMBEDDED.fullmatch(url)
    return Database(embedded[1] or "usersync", name, default_home()) if embedded else Database(url, name)


def _who_answers(database: Database, stop: Stop, oldest: int, *, read_write: bool) -> str:
    """`PostgreSQL 18.1, database app, role usersync`. Raises what keeps us from it."""
    from usersync_cli.clients.postgres.connections import connect
    from usersync_cli.clients.postgres.errors import translated

    connection = connect(database, job="init", stop=stop, read_write=read_write)
    try:
        with translated(database, "connecting"):
            role, name = connection.execute("SELECT current_user, current_database()").fetchone() or ("", "")
        version = connection.info.server_version
    finally:
        connection.close()
    release = f"PostgreSQL {version // 10000}.{version % 10000}"
    if version < oldest:
        raise ConfigError(f"{database.name}: {release} is too old", hint=f"PostgreSQL {oldest // 10000} or newer is needed")
    return f"{release}, database {name}, role {role}"


def complain(error: UsersyncError) -> None:
    click.echo(f"  FAIL  {error.message}")
    for line in error.hint.splitlines():
        click.echo(f"        {line}")
