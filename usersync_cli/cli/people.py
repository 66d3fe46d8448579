"""What the commands of `usersync users` share: whose copy is meant, how old it is, and a person as they show one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from usersync_cli.config.loader import Config
    from usersync_cli.model import Step
    from usersync_cli.report.users import CopyAge, ShownUser, UsersTable

_LONGEST = 1000  # characters; nobody's address, name or id is longer


class Text(click.ParamType[str]):
    """Text with something in it, without blanks around it: an empty one comes from a variable that is not set."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        if not text and value is not getattr(param, "default", None):
            self.fail("it is empty; is a variable not set?", param, ctx)
        if len(text) > _LONGEST:
            self.fail(f"it is longer than {_LONGEST:,} characters", param, ctx)
        return text


def found_where(config_path: Path | None, job_name: str | None) -> tuple[Config, UsersTable]:
    """The config file, and the one copy of people that is meant. No source's variables are needed for that."""
    from usersync_cli import log
    from usersync_cli.config.loader import load

    log.configure(quiet=True)
    config = load(config_path)
    return config, where_of(config, job_name)


def where_of(config: Config, job_name: str | None) -> UsersTable:
    """The one copy of people that is meant. Raises ConfigError where there is none, or several."""
    from usersync_cli.errors import ConfigError
    from usersync_cli.settings import suggestion

    if job_name is not None and job_name not in config.jobs:
        raise ConfigError(f'{config.path}: there is no job "{job_name}"{suggestion(job_name, list(config.jobs))}')
    every = list(_copies(config))
    found = [one for one in every if job_name in (None, one.job)]
    jobs = list(dict.fromkeys(one.job for one in every))
    if not found:
        which = f"job {job_name}" if job_name else "no job"
        hint = f"of these jobs one does: {', '.join(jobs)}" if jobs else "config.example.yaml has one: workos"
        raise ConfigError(f"{config.path}: {which} copies {'no people' if job_name else 'people'} that sign in", hint=hint)
    if len(found) > 1 and len(jobs) > 1 and job_name is None:
        raise ConfigError(f"{config.path}: several jobs copy people that sign in", hint=f"--job {' or --job '.join(jobs)}")
    if len(found) > 1:
        raise ConfigError(f"{config.path}: job {found[0].job} copies people that sign in twice", hint="one step is enough for them")
    return found[0]


def _copies(config: Config) -> Iterator[UsersTable]:
    """Each step of each job that copies the people of a source into a table."""
    from usersync_cli.report.users import UsersTable

    for name, job in config.jobs.items():
        read = list(_streams(job.steps))
        for source, stream, step in read:
            shape = config.users_shape(source)
            if shape and stream == shape.stream and step.load.target == "target":
                others = {other: its for of, other, its in read if of == source and its.load.target == "target"}
                yield UsersTable(name, step, source, shape, others)


def _streams(steps: Sequence[Step]) -> Iterator[tuple[str, str, Step]]:
    """Source, stream and step of all that is read as documents."""
    for step in steps:
        for extract in step.extract.values():
            for stream in extract.streams:
                yield extract.source, stream, step


# how old it is


def age_line(where: UsersTable, age: CopyAge) -> str:
    """For people: `copy of WorkOS in workos_users, as of 2026-03-01 02:00:00 UTC (3 h ago)`."""
    from usersync_cli.cli.text import when

    of = f"copy of {where.shape.vendor} in {where.name}"
    if age.known:
        return f"{of}, as of {when(age.known, age.at)}"
    why = "the first run has not read everything yet" if age.polled else "no run has read anything"
    return f"{of}, never complete: {why}; usersync run --job {where.job}"


def age_document(where: UsersTable, age: CopyAge) -> dict[str, Any]:
    """For programs. `as_of` is null where the copy was never complete."""
    from usersync_cli.cli.text import age_seconds, iso

    return {
        "job": where.job,
        "table": where.name,
        "source": where.source,
        "as_of": iso(age.known),
        "age_seconds": age_seconds(age.known, age.at),
        "complete": age.complete,
    }


# a person


def person_document(where: UsersTable, one: ShownUser, *, has_memberships: bool) -> dict[str, Any]:
    """All columns of a person; `memberships` is null where the job does not copy them."""
    (key, *_) = where.step.load.key
    row = {("id" if name == key else name): value for name, value in one.row.items()}
    return {**row, "deleted": one.deleted, "memberships": list(one.memberships) if has_memberships else None}


def lines_of(one: ShownUser, *, has_memberships: bool) -> Iterator[str]:
    """A person for people."""
    yield f"{cell(one.key)}{': deleted' if one.deleted else ''}"
    width = max(map(len, one.row), default=0)
    for name, value in one.row.items():
        yield f"  {cell(name):{width}}  {cell(value) or '-'}"
    if has_memberships:
        yield f"  {'memberships':{width}}  {'' if one.memberships else 'none'}".rstrip()
    for membership in one.memberships:
        yield f"    {_membership(membership)}"


def _membership(row: Mapping[str, Any]) -> str:
    """`Test Organization (org_01EXAMPLE): member, active`."""
    named = row.get("organization") or row.get("organization_name")
    where = f"{cell(named)} ({cell(row['organization_id'])})" if named else cell(row["organization_id"])
    state = [row.get("role_slug"), row.get("status"), f"deleted {row['deleted_at']}" if row.get("deleted_at") else None]
    return f"{where}: {', '.join(cell(part) for part in state if part) or '-'}"


def cell(value: Any) -> str:
    """A value in a line: nothing for NULL, without what a terminal would obey."""
    from usersync_cli.cli.diff import escaped

    if value is None:
        return ""
    return escaped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True))


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines in columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for line in (head, *rows):
        yield "  ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
