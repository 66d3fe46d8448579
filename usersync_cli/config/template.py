"""A newcomer's config.yaml and .env: their text, made of a few answers, and how they come to the disk without replacing anything."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from usersync_cli.config.reader import EMBEDDED
from usersync_cli.errors import ConfigError

SECRET, PLAIN = 0o600, 0o644
# The variable that holds the URL of the target and of each source.
VARIABLES = {
    "target": "USERSYNC_DATABASE_URL",
    "av_accounts": "AV_ACCOUNTS_DB_URL",
    "av_profile": "AV_PROFILE_DB_URL",
    "origin": "ORIGIN_DB_URL",
}
EXAMPLE = "postgresql://user:password@host:5432/database"

# What a shell, docker --env-file and python-dotenv all read as it stands.
_BARE = re.compile(r"[A-Za-z0-9_./:@%?=+,~-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"}
_WORD = re.compile(r"(?!(?:null|true|false)\Z)[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Answers:
    """What a config file is made of. A URL is `embedded`, `embedded:NAME` or one that libpq takes."""

    job: str
    environment: str
    schedule: str
    target: str = field(repr=False)
    sources: Mapping[str, str] = field(repr=False)  # av_accounts and av_profile, or origin
    into: str  # the table that is loaded
    key: Sequence[str] = ("id",)
    table: str | None = None  # what is read from origin: this,
    query: str | None = None  # or this; neither in the job auroville

    @property
    def urls(self) -> Mapping[str, str]:
        """By the names of VARIABLES."""
        return {"target": self.target, **self.sources}


def is_embedded(url: str) -> bool:
    """Whether it is a database of the private server."""
    return bool(EMBEDDED.fullmatch(url))


def config_yaml(answers: Answers) -> str:
    """The text of config.yaml. No URL stands in it, only the variable that holds it."""
    job = _COPY if answers.table or answers.query else _AUROVILLE
    extract = "source_records" if answers.into.rpartition(".")[2] == "records" else "records"
    facts = {
        "JOB": answers.job,
        "SCHEDULE": _quoted(answers.schedule),
        "INTO": _scalar(answers.into),
        "KEY": ", ".join(map(_scalar, answers.key)),
        "EXTRACT": extract,
        "MISSING": _MISSING,
        "READ": f"table: {_scalar(answers.table)}" if answers.table else f"query: {_text(answers.query or '', ' ' * 14)}",
    }
    sources = "\n".join(f'  {name}: {{type: postgres, url: "{_reference(name, url)}"}}' for name, url in answers.sources.items())
    return _HEAD.format(target=_reference("target", answers.target), sources=sources) + _filled(job, facts)


def dotenv(answers: Answers) -> str:
    """The text of .env. Raises ConfigError for a value that it can't hold."""
    lines = [f"USERSYNC_ENV={_dotenv_value('the environment', answers.environment)}"]
    for name, url in answers.urls.items():
        lines.append(f"# {VARIABLES[name]}={EXAMPLE}" if is_embedded(url) else f"{VARIABLES[name]}={_dotenv_value(name, url)}")
    return _DOTENV + "\n".join(lines) + "\n"


@contextmanager
def drafts(files: Mapping[Path, tuple[str, int]]) -> Iterator[Mapping[Path, Path]]:
    """The files (text and mode) complete and on disk, under their own names in a hidden folder beside them; gone afterwards.

    The folder and what is in it are nobody else's to read until they are linked to where they belong.
    """
    with _told():
        folder = Path(tempfile.mkdtemp(prefix=".usersync-init-", dir=next(iter(files)).parent))
        folder.chmod(0o700)  # whatever the umask took away
    try:
        with _told():
            made = {file: folder / file.name for file in files}
            for file, (text, mode) in files.items():
                _write(made[file], text, mode)
        yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_existing(files: Sequence[Path]) -> None:
    """Raises ConfigError when one of the files, or a link of its name, is there."""
    there = [str(file) for file in files if os.path.lexists(file)]
    if there:
        raise ConfigError(
            f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} already there; nothing was written",
            hint="edit what is there, move it away, or choose another folder with --config FOLDER/config.yaml",
        )


def place(made: Mapping[Path, Path]) -> None:
    """Link the drafts to their places: all of them or none, and never over what is there."""
    placed: list[Path] = []
    try:
        with _told():
            for file, draft in made.items():
                os.link(draft, file)
                placed.append(file)
    except BaseException:
        for file in placed:
            file.unlink()
        raise
    for folder in {file.parent for file in made}:
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        refuse_existing([Path(error.filename2 or error.filename)])
        raise
    except OSError as error:
        about = Path(error.filename2 or error.filename or ".")
        advice = "this file system has no hard links; choose a folder on another one with --config FOLDER/config.yaml"
        hint = (
            advice
            if error.errno in {errno.EPERM, errno.EOPNOTSUPP} and error.filename2
            else "choose another folder with --config FOLDER/config.yaml"
        )
        raise ConfigError(f"cannot write into {about.parent}: {error.strerror}; nothing was written", hint=hint) from error


def _write(file: Path, text: str, mode: int) -> None:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8", newline="\n") as stream:  # noqa: PTH123  a mode
        if mode == SECRET:
            os.fchmod(stream.fileno(), mode)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _dotenv_value(what: str, value: str) -> str:
    """A value as python-dotenv reads it back; bare or in single quotes, which shells read the same way, where that can be."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigError(f"{what}: holds NUL or something that is not text, which no .env can hold")
    if _BARE.fullmatch(value):
        return value
    if not re.search(r"['\\\r\n]", value):
        return f"'{value}'"
    return '"' + "".join(_ESCAPES.get(character, character) for character in value) + '"'


def _reference(name: str, url: str) -> str:
    return f"${{{VARIABLES[name]}:-{url}}}" if is_embedded(url) else f"${{{VARIABLES[name]}}}"


def _filled(text: str, facts: Mapping[str, str]) -> str:
    """`<NAME>` replaced, in one pass: what is put in may look like anything."""
    return re.sub(r"<([A-Z]+)>", lambda match: facts[match[1]], text)


def _scalar(value: str) -> str:
    return value if _WORD.fullmatch(value) else _quoted(value)


def _text(value: str, indent: str) -> str:
    """A block when its lines can stand as they are."""
    lines = value.replace("${", "$${").split("\n")
    if not all(line.isprintable() for line in lines) or lines[0] != lines[0].lstrip() or not lines[0]:
        return _quoted(value)
    return "|\n" + "\n".join(indent + line if line else "" for line in lines)


def _quoted(value: str) -> str:
    return '"' + "".join(map(_escaped, value.replace("${", "$${"))) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if character.isprintable() else f"\\U{ord(character):08x}"


_DOTENV = """\
# Variables of the config file beside this one; those of the environment win. It holds passwords: keep it to yourself, and out
# of version control.
"""

_HEAD = """\
# yaml-language-server: $schema=./config.schema.json
#
# usersync's config file, written by `usersync init`; it is yours from here on.
#
#   usersync config validate                       tells what is wrong in this file, line by line
#   usersync config schema > config.schema.json    the file that the first line names, for editors that complete and check
#
# ${{VAR}} is an environment variable, ${{VAR:-default}} has a default, ${{file:PATH}} is the content of a file, such as a mounted
# secret. The variables stand in the file .env beside this one; those of the environment win. $${{ is a plain ${{.

# Where this runs. Anything but development and test refuses embedded databases, so that a misspelt variable cannot send real
# people into a throw-away database.
environment: ${{USERSYNC_ENV:-development}}

# The Postgres that is written: postgresql://user:password@host:5432/database, or "embedded", a private one for trying out.
# usersync keeps its own tables there, in the schema "usersync".
target: {target}

# The systems that are read. A role that may SELECT the tables is enough, and so is a standby.
sources:
{sources}

jobs:
"""

_MISSING = """\
          # Rows that have left the source: keep (they stay), mark (deleted_at is set) or delete. Only what this job has seen
          # at the source is ever removed, and nothing because a source is empty or fell silent.
          on_missing: keep
          # With mark or delete: when more than this share of the rows would go at once, none does until a person approves.
          # max_missing: 5%"""

_COPY = """\
  # One table or query of a database, into a table of the target.
  <JOB>:
    schedule: <SCHEDULE>                    # for `usersync crontab`; nothing runs by itself
    # environments: [production, staging]       # name them here where real people must not go anywhere else
    steps:
      - extract:
          <EXTRACT>:
            source: origin
            <READ>

        # One SELECT (or {file: people.sql}) in the target's SQL; its columns are those of the table. Without it: all of them.
        # transform: SELECT * FROM <EXTRACT>

        load:
          table: <INTO>
          key: [<KEY>]                             # the source's ids: what makes two rows the same
          create: true                          # make the table when it is not there
<MISSING>
"""

_AUROVILLE = """\
  # Every account of Auroville, with its profile if it has one, in the users table of an application.
  <JOB>:
    noun: members                               # what the summary calls them: "412 members: 2 new, ..."
    schedule: <SCHEDULE>                    # for `usersync crontab`; nothing runs by itself
    environments: [production, staging]         # real people: refused anywhere else, unless all databases are embedded
    steps:
      - name: users

        # Each extract is read in one snapshot of its database and becomes a table in the transform, under its name here.
        extract:
          accounts:
            source: av_accounts
            query: SELECT id, username, email, asyncto_id FROM users
          profiles:
            source: av_profile
            query: |
              SELECT auroville_account_id, display_name, community, phone, about, profile_picture, updated_at
              FROM profiles

        # One SELECT (or {file: users.sql}). Its columns are those of the target; one that begins with _ is not loaded, it
        # only helps to decide below. An account without a profile has NULL in the profile's columns, the picture too.
        # The seconds in the picture's address make browsers fetch a new one; they are UTC whatever the session's time zone is.
        transform: |
          SELECT a.id, a.username, a.email, a.asyncto_id,
                 p.display_name, p.community, p.phone, p.about,
                 CASE
                   WHEN p.auroville_account_id IS NULL THEN NULL
                   WHEN p.profile_picture IS NULL OR p.profile_picture = ''
                     THEN 'https://assets.auroville.org.in/profiles/dummy-face.png'
                   ELSE concat('https://assets.auroville.org.in', p.profile_picture,
                               '?cache=' || floor(extract(epoch FROM p.updated_at))::bigint)
                 END AS profile_picture,
                 p.updated_at AS _profile_updated_at
          FROM accounts a
          LEFT JOIN profiles p ON p.auroville_account_id = a.id

        load:
          table: <INTO>
          key: [id]
          create: true                          # make the table when it is not there
<MISSING>
          # Two profiles of one account: the first in this order wins, and the other is reported as a duplicate.
          order_by: _profile_updated_at DESC NULLS LAST
"""
