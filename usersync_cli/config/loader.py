"""The config file: YAML in, jobs out. The only reader of the environment (libpq's own variables aside).

All mistakes of a file are found at once, each with its line and column. What depends on the environment (unset variables, where
`embedded` is refused) is asked for each job, so that one file serves all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from usersync_cli.config import yaml_reader
from usersync_cli.config.diagnostics import Mistake, Mistakes
from usersync_cli.config.interpolation import is_text, read_text
from usersync_cli.config.jobs import Extract, Job, Load, Outward, Step
from usersync_cli.config.reader import EMBEDDED, File, Reader, url_mistake
from usersync_cli.config.registry import source_port, source_types, target_port, target_types
from usersync_cli.errors import ConfigError
from usersync_cli.model import Cursor, Database
from usersync_cli.settings import UNSET, duration, suggestion
from usersync_cli.settings import Path as Place
from usersync_cli.sources import DocumentPort, Login, Port, TabularPort
from usersync_cli.targets import TargetPort

if TYPE_CHECKING:
    from pydantic import BaseModel

    from usersync_cli.auth.keys import Keys
    from usersync_cli.auth.oauth import OAuthClient
    from usersync_cli.identity.domains import Lists
    from usersync_cli.shapes import LogPlace, UsersShape

__all__ = [
    "Config",
    "Extract",
    "Job",
    "Load",
    "Outward",
    "Step",
    "duration",
    "json_schema",
    "load",
]

# Where throw-away data is welcome. Anywhere else, `embedded` is a misspelt variable's default.
PLAYGROUNDS = ("development", "test")
_LARGEST = 1_000_000


class Config:
    """A config file without mistakes. It may still lack variables: those of a job are asked for by `job`."""

    def __init__(
        self, path: Path, file: File, sources: Mapping[str, BaseModel | None], targets: Mapping[str, BaseModel | None], reader: Reader
    ) -> None:
        self.path = path
        self.environment = file.environment
        self.jobs: Mapping[str, Job] = file.jobs
        self.sources: Mapping[str, BaseModel] = _Sources(self, file.sources)
        self._lists = file.identity.lists
        self._target = file.target
        self._outbound = file.targets
        self._types = {name: str(raw["type"]) for name, raw in file.sources.items()}
        self._settings, self._targets = sources, targets
        self._reader = reader

    def __repr__(self) -> str:
        return f"Config({str(self.path)!r}, jobs={list(self.jobs)})"

    def job(self, name: str) -> Job:
        """A job that can run: every variable that it uses is set, and nothing is `embedded` where it must not be."""
        if name not in self.jobs:
            raise ConfigError(f'{self.path}: there is no job "{name}"{suggestion(name, list(self.jobs))}')
        if lacking := self.lacking(name):
            raise Mistakes(str(self.path), lacking)
        return self.jobs[name]

    def lacking(self, job: str) -> list[Mistake]:
        """What keeps a job from running in this environment: unset variables, and `embedded` outside development."""
        used: list[Place] = [("sources", source) for source in self._used(self.jobs[job])]
        used += [("targets", target) for target in self.targets_of(job)]
        used += [("identity",)] if any(step.identity for step in self.jobs[job].steps) else []
        places = [("jobs", job), *self._databases(self.jobs[job]), *used]
        return sorted({*self._reader.unset(("environment",), *places), *self._misplaced(*places)})

    def unset(self) -> list[Mistake]:
        """Every value of the file whose variable or file is missing, whichever job uses it."""
        return sorted(self._reader.unset(()))

    def check_environment(self, job: Job) -> None:
        """Refuses a job outside its `environments`, before anything is contacted. On embedded databases there are no real
        people; what is no database, such as a file, may always hold some."""
        if job.environments is None or self.environment in job.environments:
            return
        if not self.targets_of(job.name) and all(EMBEDDED.fullmatch(self._reader.text(place)) for place in self._databases(job)):
            return
        allowed = " or ".join(job.environments)
        hint = "to try it out, leave the databases' variables unset, so that they are the embedded ones"
        if not all(isinstance(self.source_port(source), TabularPort) for source in self._used(job)):
            hint = f"to try it out on test people, name {self.environment} in its environments"
        raise ConfigError(
            f"job {job.name} runs in {allowed} only, because it copies real people; this is {self._which_environment()}", hint=hint
        )

    def target_database(self) -> Database:
        """The Postgres that is written."""
        self._refuse_lacking(("target",))
        return self.database(self._target, "target")

    def source(self, name: str) -> BaseModel:
        """The settings of a source, an instance of its module's Settings."""
        if name not in self._settings:
            raise ConfigError(f'{self.path}: there is no source "{name}"{suggestion(name, list(self._settings))}')
        self._refuse_lacking(("sources", name))
        if (settings := self._settings[name]) is None:
            raise AssertionError(f"source {name} was neither read nor refused")
        return settings

    def target(self, name: str) -> BaseModel:
        """The settings of a target outside Postgres, an instance of its module's Settings."""
        if name not in self._targets:
            raise ConfigError(f'{self.path}: there is no target "{name}"{suggestion(name, list(self._targets))}')
        self._refuse_lacking(("targets", name))
        if (settings := self._targets[name]) is None:
            raise AssertionError(f"target {name} was neither read nor refused")
        return settings

    def targets_named(self, type_: str) -> list[str]:
        """The targets of this type."""
        return [name for name, raw in self._outbound.items() if raw.get("type") == type_]

    def source_port(self, name: str) -> Port:
        """What a source of this file is made of, by its `type`."""
        if name not in self._types:
            raise ConfigError(f'{self.path}: there is no source "{name}"{suggestion(name, list(self._types))}')
        return source_port(self._types[name])

    def target_port(self, name: str) -> TargetPort[Any]:
        """What a target outside Postgres is made of, by its `type`."""
        return target_port(self._outbound[name]["type"])

    def source_database(self, name: str) -> Database:
        """The Postgres of a SQL source."""
        settings, port = self.source(name), self.source_port(name)
        if not isinstance(port, TabularPort):
            raise ConfigError(f"source {name} is not a database")
        return self.database(port.url(settings), f"source {name}")

    def database(self, url: str, name: str) -> Database:
        """A database by its URL or `embedded[:NAME]`. An embedded one has the name of its database for a URL."""
        url = url.strip()  # a variable often ends with a newline
        if text := url_mistake(url):
            raise ConfigError(f"{name}: {text}")
        if not (embedded := EMBEDDED.fullmatch(url)):
            return Database(url, name)
        if self.environment not in PLAYGROUNDS:
            raise ConfigError(f'{name} is "embedded", which is for development and test; this is {self._which_environment()}')
        return Database(embedded[1] or "usersync", name, self.home)

    def log_place(self, source: str, cursor: Cursor) -> LogPlace | None:
        """Where a stored cursor of this source stands in its log of changes; None where it has none."""
        port = self.source_port(source)
        return port.place(cursor) if isinstance(port, DocumentPort) else None

    def users_shape(self, name: str) -> UsersShape | None:
        """The stream of people who sign in that a source has, if it has one."""
        port = self.source_port(name)
        return port.users if isinstance(port, DocumentPort) else None

    def oauth_sources(self) -> list[str]:
        """The sources that a person authorises, by name."""
        return [name for name in self._types if self._login(name)]

    def oauth_client(self, name: str) -> OAuthClient:
        """The OAuth client of one of them."""
        return self._login_of(name).client(self.source(name))

    def oauth_account(self, name: str, access_token: str) -> str:
        """Whose data an access token of one of them opens. Raises Unavailable when that can't be asked now."""
        return self._login_of(name).account(self.source(name), access_token)

    def _login(self, name: str) -> Login[Any] | None:
        port = self.source_port(name)
        return port.login if isinstance(port, DocumentPort) else None

    def _login_of(self, name: str) -> Login[Any]:
        if (login := self._login(name)) is None:
            raise AssertionError(f"source {name} is not one of `oauth_sources`")
        return login

    def sources_of(self, job: str) -> list[str]:
        """The names of the sources that a job of this file reads."""
        return self._used(self.jobs[job]) if job in self.jobs else []

    def targets_of(self, job: str) -> list[str]:
        """The names of the targets outside Postgres that a job of this file writes to."""
        return sorted({step.load.target for step in self.jobs[job].steps if step.load.target in self._targets}) if job in self.jobs else []

    def keys(self) -> Keys:
        """What encrypts tokens: $USERSYNC_KEYS, else a key that is made beside the embedded database.

        Raises ConfigError where there is none: a database of anybody else's needs a key that is kept elsewhere.
        """
        from usersync_cli.auth import keys

        database, given = self.target_database(), self._reader.environ.get(keys.VARIABLE)
        if database.embedded and not given:
            return cast("Keys", keys.beside(database.embedded, make=True))
        if not given:
            raise ConfigError(
                f"{keys.VARIABLE} is not set (in the environment or in .env): tokens are kept encrypted in {database.name} only",
                hint=f"make a key, and keep it where the other secrets are: {keys.MAKE}",
            )
        found = keys.parse(given)
        local = keys.beside(database.embedded, make=False) if database.embedded else None
        return keys.Keys({**found.by_id, **local.by_id, **found.by_id}) if local else found

    @cached_property
    def home(self) -> Path:
        """The folder of the private server: $USERSYNC_HOME, else the user's data directory."""
        return default_home(self._reader.environ)

    def identity_lists(self) -> Lists:
        """What the file adds to the lists of domains and addresses that identify nobody."""
        return self._lists

    def _used(self, job: Job) -> list[str]:
        names = {extract.source for step in job.steps for extract in step.extract.values()}
        return sorted(name for name in names if name in self._settings)

    def _databases(self, job: Job) -> list[Place]:
        return [("target",), *(("sources", name, "url") for name in self._used(job))]

    def _misplaced(self, *places: Place) -> Iterator[Mistake]:
        if self.environment in PLAYGROUNDS or self.environment.startswith(UNSET):
            return
        for place in places:
            if EMBEDDED.fullmatch(self._reader.text(place)):
                text = f'is "embedded"{self._reader.origin(place)}, which is for development and test; this is {self._which_environment()}'
                yield self._reader.document.mistake(place, text)

    def _which_environment(self) -> str:
        return f"environment {self.environment}{self._reader.origin(('environment',))}"

    def _refuse_lacking(self, place: Place) -> None:
        url = (*place, "url") if place[0] == "sources" else place
        if lacking := [*self._reader.unset(("environment",), place), *self._misplaced(url)]:
            raise Mistakes(str(self.path), lacking)


class _Sources(Mapping[str, "BaseModel"]):
    """Settings by name; those that lack a variable raise when they are asked for, not before."""

    def __init__(self, config: Config, names: Iterable[str]) -> None:
        self._config, self._names = config, tuple(names)

    def __getitem__(self, name: str) -> BaseModel:
        if name not in self._names:
            raise KeyError(name)
        return self._config.source(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def default_home(environ: Mapping[str, str] | None = None) -> Path:
    """Where the private server is kept when there is no config file, whose .env may say otherwise."""
    if given := (os.environ if environ is None else environ).get("USERSYNC_HOME"):
        return Path(given).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("usersync")


def default_path(environ: Mapping[str, str] | None = None) -> Path:
    """The config file when none is named: $USERSYNC_CONFIG, then ./config.yaml."""
    return Path((os.environ if environ is None else environ).get("USERSYNC_CONFIG") or "config.yaml")


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Reads a config file. Raises ConfigError with all its mistakes."""
    environ = os.environ if environ is None else environ
    file = path or default_path(environ)
    if not is_text(str(file)):
        raise ConfigError(
            "the config file's name is not UTF-8 text", hint="rename it, or see to the encoding of --config or $USERSYNC_CONFIG"
        )
    text = _text(file, is_default=path is None)
    reader = Reader(yaml_reader.read(text, str(file)), {**_dotenv(file.parent / ".env"), **environ}, file.parent)
    return Config(file, *reader.read(), reader)


def json_schema() -> dict[str, Any]:
    """What an editor needs to complete and check the file."""
    from usersync_cli.config.json_schema import schema

    sources = {name: source_port(name).settings for name in source_types()}
    return schema(File, sources, {name: target_port(name).settings for name in target_types()})


def _text(file: Path, *, is_default: bool) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except FileNotFoundError:
        looked = " (looked at $USERSYNC_CONFIG, then ./config.yaml)" if is_default else ""
        hint = "name it with --config or $USERSYNC_CONFIG, or begin with `usersync init`"
        raise ConfigError(f"{file} does not exist{looked}", hint=hint) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'not a file name'}") from None
    if len(content) > _LARGEST:
        raise ConfigError(f"{file} has more than {_LARGEST} bytes; is it a config file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}: is not UTF-8 text; save the file as UTF-8") from None


def _dotenv(file: Path) -> dict[str, str]:
    """`.env` beside the config file. A line that cannot be read is a mistake here; python-dotenv would only log it."""
    if not file.is_file():
        return {}
    import io

    from dotenv.parser import parse_stream

    try:
        bindings = list(parse_stream(io.StringIO(read_text(file))))
    except ValueError as error:
        raise ConfigError(f"{file} {error}") from None
    if broken := next((binding for binding in bindings if binding.error), None):
        raise ConfigError(f"{file}:{broken.original.line}: is not NAME=value; check its quotes")
    return {binding.key: binding.value for binding in bindings if binding.key and binding.value is not None}
