"""What the commands about the map share: who is at work, how the target is opened, and how mappings and conflicts are printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usersync_cli.cli import F, config_option, output_option, write_json
from usersync_cli.cli.people import Text, cell, grid

if TYPE_CHECKING:
    from usersync_cli.clients.postgres.connections import Connection
    from usersync_cli.config.loader import Config
    from usersync_cli.identity.conflicts import Found, Verdict
    from usersync_cli.identity.importing import Imported
    from usersync_cli.identity.mappings import Decision, Listed
    from usersync_cli.signals import Stop


class Age(click.ParamType[timedelta]):
    """A length of time."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        from usersync_cli.errors import UsersyncError
        from usersync_cli.settings import FieldError, duration

        try:
            return duration(value)
        except (FieldError, ValueError, UsersyncError):
            self.fail("must be a time such as 90m, 12h or 7d", param, ctx)


class Id(Text):
    """An id, as it is typed: the ids of a job may have blanks around them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        super().convert(value, param, ctx)
        return str(value)


def by_option(command: F) -> F:
    """`--by NAME`: who decides."""
    return click.option("--by", type=Text(), metavar="NAME", help="Who decides. Default: who you are on this system.")(command)


def reason_option(command: F, *, required: bool = False) -> F:
    """`--reason TEXT`: why."""
    return click.option("--reason", required=required, type=Text(), metavar="TEXT", help="Why; it is kept with what you decide.")(command)


def verdict_options(command: F) -> F:
    """What the answers to conflicts have in common: their numbers, why, and by whom."""
    with_reason = reason_option(by_option(config_option(output_option(command))), required=True)
    return click.argument("ids", nargs=-1, required=True, type=click.IntRange(min=1), metavar="ID...")(with_reason)


def encoding_of(_ctx: click.Context, _option: click.Parameter, value: str) -> str:
    """The encoding that a person named; "" where none."""
    import codecs

    try:
        return codecs.lookup(value).name if value else ""
    except LookupError:
        raise click.BadParameter("no such encoding; utf-8, utf-16, cp1252 and latin-1 are some.") from None


def decision(by: str | None, reason: str | None) -> Decision:
    """Who decides, and why."""
    from usersync_cli.identity.mappings import Decision
    from usersync_cli.identity.place import person

    return Decision(by or person(), reason)


def configured(config_path: Path | None) -> Config:
    """The config file, for a command that prints for people."""
    from usersync_cli import log
    from usersync_cli.config.loader import load

    log.configure(quiet=True)
    return load(config_path)


@contextmanager
def asking(config_path: Path | None, doing: str, *, long: bool = False, temp: bool = False) -> Iterator[Connection]:
    """The target, to read from. Raises NotFound where it has no map yet."""
    from usersync_cli.identity.mappings import no_map, reading

    with reading(configured(config_path).target_database(), doing, long=long, temp=temp) as tx:
        if tx is None:
            raise no_map()
        yield tx


# mappings


def say_created(  # noqa: PLR0913  each is an option
    stop: Stop, app: str, id_: str, customer: str, *, move: bool, reason: str | None, by: str | None, config_path: Path | None, output: str
) -> None:
    """Map an id, and say what that did."""
    from usersync_cli.identity import mappings, place

    with place.writing(configured(config_path).target_database(), "mapping an id", stop) as tx:
        done, now, before = mappings.create(tx, app, mappings.meant(tx, app, id_), customer, decision(by, reason), move=move)
    if output == "json":
        write_json("mapping", {"result": done.what, "app": now.app, "app_id": now.id, "domain": now.domain, "uuid": now.uuid})
        return
    said = {"created": "mapped and pinned", "pinned": "was so by a rule, and is pinned now", "there": "was so already; nothing was changed"}
    was = f"moved here from {before.customer}, and pinned" if before and done.moved else said.get(done.what, "")
    click.echo(f"{cell(app)}:{cell(now.id)} is {cell(now.customer)}: {cell(was)}")


def klanten(one: Listed) -> dict[str, Any]:
    """A mapping in Klanten's shape."""
    return {"app": one.app, "domain": one.domain, "app_id": one.id}


def mapping_lines(found: Sequence[Listed]) -> Iterator[str]:
    """Mappings for people."""
    rows = [[cell(one.app), cell(one.id), cell(one.domain), str(one.uuid), cell(_by(one))] for one in found]
    yield from grid(["app", "id", "domain", "uuid", "by"], rows)


def _by(one: Listed) -> str:
    return f"{one.decided_by}, pinned" if one.pinned else f"rule {one.rule} of {one.job}"


# conflicts


def conflict_document(one: Found) -> dict[str, Any]:
    """A conflict for programs."""
    from usersync_cli.cli.text import iso

    return {
        "id": one.id,
        "kind": one.kind,
        "status": one.status,
        "app": one.app,
        "app_id": one.app_id,
        "domain": one.domain,
        "uuid": one.uuid,
        "found_domain": one.found_domain or None,
        "found_uuid": one.found_uuid,
        "rule": one.rule,
        "evidence": one.value,
        "job": one.job,
        "step": one.step,
        "run": one.run_id,
        "found_at": iso(one.found_at),
        "answered_at": iso(one.answered_at),
        "answered_by": one.answered_by,
        "reason": one.reason,
    }


def conflict_lines(one: Found) -> Iterator[str]:
    """A conflict for people: what is on the map, what was found, by whom, since when; and the answer."""
    from usersync_cli.cli.text import moment
    from usersync_cli.identity.conflicts import KINDS

    what = f"{one.app}:{cell(one.app_id)}" if one.app else cell(one.found_domain or one.domain)
    yield f"{one.id}: {one.kind}: {what}: {KINDS[one.kind]}"
    yield f"    on the map  {cell(one.here)}"
    found = [one.found_domain, str(one.found_uuid) if one.found_uuid else "", f"rule {one.rule}: {one.value}" if one.value else ""]
    if one.kind != "returned":
        yield f"    found       {cell(', '.join(part for part in found if part))}"
    yield f"    by          job {cell(one.job)}, step {cell(one.step)}, run {one.run_id}, {moment(one.found_at)}"
    if one.status != "open":
        why = f": {one.reason}" if one.reason else ""
        by = f" by {one.answered_by}" if one.answered_by else ""
        at = f", {moment(one.answered_at)}" if one.answered_at else ""
        yield f"    {one.status}{cell(by)}{at}{cell(why)}"


def say_conflicts(found: Sequence[Found], counts: Mapping[str, int], status: str, output: str) -> None:
    """The conflicts that were asked for, and how many there are."""
    from usersync_cli.cli.text import plural

    total = sum(counts.values())
    if output == "json":
        write_json("conflicts", {"conflicts": [conflict_document(one) for one in found], "counts": dict(counts), "total": total})
        return
    for one in found:
        for line in conflict_lines(one):
            click.echo(line)
    none = "no conflict waits" if status == "open" else "no such conflicts"
    click.echo(f"{plural(total, 'conflict')}: {reasons(counts)}" if total else none)
    if total > len(found):
        click.echo(f"note: {len(found):,} of {total:,} shown; --limit 0 shows all", err=True)


def say_answers(  # noqa: PLR0913  each is an option
    stop: Stop, ids: Sequence[int], verdict: Verdict, *, reason: str, by: str | None, config_path: Path | None, output: str
) -> None:
    """Answer conflicts, and say what that did."""
    from usersync_cli.identity import conflicts, place

    with place.writing(configured(config_path).target_database(), "answering conflicts", stop) as tx:
        done = conflicts.answer(tx, sorted(set(ids)), verdict, decision(by, reason))
    if output == "json":
        answers = [{"id": one.conflict.id, "status": verdict, "changed": one.changed, "said": one.said} for one in done]
        write_json("answers", {"answers": answers})
        return
    for one in done:
        click.echo(f"{one.conflict.id}: {verdict}: {cell(one.said)}" if one.changed else f"{one.conflict.id}: {cell(one.said)}")


# files


def import_document(found: Imported, file: Path, *, dry_run: bool) -> dict[str, Any]:
    """An import for programs."""
    return {
        "file": str(file),
        "dry_run": dry_run,
        "lines": found.lines,
        **vars(found.assigned),
        "new_customers": found.customers,
        "rejected": found.bad.total(),
        "dropped": found.dropped,
        "reasons": dict(found.bad.most_common()),
        "rejects": [{"line": line, "reason": why, "detail": detail} for line, why, detail in found.first],
        "ignored_columns": list(found.ignored),
    }


def import_lines(found: Imported, *, dry_run: bool) -> Iterator[str]:
    """An import for people."""
    from usersync_cli.cli.text import plural

    done = found.assigned
    parts = [f"{done.created:,} mapped", f"{done.pinned:,} pinned", f"{done.moved:,} moved", f"{done.there:,} there already"]
    yield f"{plural(found.lines, 'line')}: {', '.join(parts)}; {plural(found.customers, 'new customer')}; {found.bad.total():,} set aside"
    if dry_run:
        yield "a dry run: nothing was written"
    for line, why, detail in found.first:
        yield f"  line {line}: {why}: {detail}"
    if found.bad.total() > len(found.first):
        yield f"  and {found.bad.total() - len(found.first):,} more: {reasons(found.bad)}"


def say_imported(found: Imported, file: Path, output: str, *, dry_run: bool) -> int:
    """What an import did; gives the exit status."""
    from usersync_cli.identity.importing import JOB

    if output == "json":
        write_json("imported", import_document(found, file, dry_run=dry_run))
    else:
        for line in import_lines(found, dry_run=dry_run):
            click.echo(line)
    if found.ignored:
        click.echo(f"note: columns that say nothing here: {cell(', '.join(found.ignored))}", err=True)
    if found.waiting and not dry_run:
        click.echo(f"note: fix these lines and import the file again; `usersync rejects list --job '{JOB}'` shows all", err=True)
    return 3 if found.waiting else 0


def reasons(counted: Mapping[str, int]) -> str:
    """How many, by reason."""
    return ", ".join(f"{number:,} {why}" for why, number in sorted(counted.items(), key=lambda one: (-one[1], one[0])))
