"""`usersync whois`: who that is, and why. What it prints may be people's data, as asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usersync_cli.cli import config_option, output_option, write_json
from usersync_cli.cli.people import Text, cell

if TYPE_CHECKING:
    from usersync_cli.identity.whois import Answered

_EXIT_STATUSES = """\b
Exit status: 0 ok, 2 usage or config, 4 the target cannot be reached,
9 nobody is found, or it identifies nobody."""


@click.command(epilog=_EXIT_STATUSES)
@click.argument("anything", metavar="UUID|DOMAIN|APP:ID|E-MAIL", type=Text())
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="How many mappings at most, and of each other list; 0 for all.",
)
@config_option
@output_option
def whois(anything: str, limit: int, config_path: Path | None, output: str) -> None:
    """Say who a uuid, a domain, an id of an app or an e-mail address is, and why.

    The answer has every step from the question to the customer; each id of each app that is mapped to it, with the job or person
    that said so, the rule, what it looked at, first and last seen; what was merged into it; conflicts; mappings that are closed.

    APP:ID may leave out the object: teamleader:42 looks in teamleader.contacts, teamleader.companies and so on.

    \b
    Examples:
      usersync whois example.com
      usersync whois teamleader.contacts:42
      usersync whois test.user@example.com
      usersync whois shop:4711 --output json | jq -r '.customers[0].uuid'
    """
    from usersync_cli.cli.mapped import configured
    from usersync_cli.identity import whois as asking
    from usersync_cli.identity.domains import Domains
    from usersync_cli.identity.mappings import no_map, reading

    config = configured(config_path)
    with reading(config.target_database(), "asking the map") as tx:
        if tx is None:
            raise no_map()
        found = asking.ask(tx, asking.question(tx, anything, Domains(config.identity_lists())), most=limit)
    if output == "json":
        if not found.missing or any(found.lists.values()):
            write_json("whois", _document(found))
    else:
        for line in _lines(found):
            click.echo(line)
    if found.more:
        click.echo(f"note: there is more of a kind than {limit:,}; --limit 0 shows all", err=True)
    if found.missing:
        raise found.missing


# for programs


def _document(found: Answered) -> dict[str, Any]:
    """The customers, each with what belongs to it; and what was closed of an id that is nobody's."""
    asked = {"text": found.question.text, "kind": found.question.kind}
    customers = [
        {**one, "because": because, **{name: [_without_root(entry) for entry in of] for name, of in _of(found, one["uuid"]).items()}}
        for one, because in zip(found.customers, found.because, strict=True)
    ]
    rest = {name: [_without_root(entry) for entry in found.lists[name]] for name in ("closed", "conflicts")} if found.missing else {}
    return {"asked": asked, "customers": customers, "more": found.more, **rest}


def _of(found: Answered, uuid: str) -> dict[str, list[dict[str, Any]]]:
    """What belongs to a customer. Conflicts belong to no single one: each has all of them."""
    return {name: [one for one in of if one.get("root", uuid) == uuid] for name, of in found.lists.items()}


def _without_root(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in {"root", "customer_domain"}}


# for people


def _lines(found: Answered) -> Iterator[str]:
    for number, (one, because) in enumerate(zip(found.customers, found.because, strict=True)):
        if number:
            yield ""
        yield cell(" -> ".join(because))
        yield from _customer(one, _of(found, one["uuid"]))
    if found.missing:
        for closed in found.lists["closed"]:
            yield from _closed(closed)
    if found.lists["conflicts"]:
        yield "conflicts:"
        for conflict in found.lists["conflicts"]:
            yield _conflict(conflict)


def _customer(one: Mapping[str, Any], of: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield f"customer {one['uuid']}  {cell(one['domain']) or '(no domain)'}"
    run = f", run {one['run']}" if one["run"] else ""
    yield f"  made {_moment(one['created_at'])} by {cell(one['created_by'])}{run}"
    for former in of["former_domains"]:
        why = f": {former['reason']}" if former["reason"] else ""
        yield cell(f"  was {former['domain']} until {_moment(former['until'])}, renamed by {former['renamed_by']}{why}")
    for merged in of["merged"]:
        by = f", {_moment(merged['merged_at'])} by {merged['merged_by']}: {merged['reason']}" if merged["merged_by"] else ""
        domain = f" ({merged['domain']})" if merged["domain"] else ""
        yield cell(f"  merged: {merged['uuid']}{domain} into {merged['merged_into']}{by}")
    for mapping in of["mappings"]:
        yield from _mapping(mapping)
    for closed in of["closed"]:
        yield from _closed(closed)


def _mapping(one: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {cell(' -> '.join(one['because']))}"
    yield f"      {_by(one)}; first seen {_moment(one['first_seen'])}, last seen {_seen(one)}"
    if one["left_at"]:
        yield f"      its record left the source {_moment(one['left_at'])}; pinned, so it is kept"


def _seen(one: Mapping[str, Any]) -> str:
    return _moment(one["last_seen"]) if one["last_seen"] else "by no job yet"


def _by(one: Mapping[str, Any]) -> str:
    job = f"job {one['job']}, step {one['step']}, run {one['run']}" if one["job"] else ""
    person = f"{one['person']}, by hand" if one["person"] else ""
    return cell("; ".join(part for part in (job, person) if part))


def _closed(one: Mapping[str, Any]) -> Iterator[str]:
    from usersync_cli.identity.mappings import CLOSED

    yield f"  closed: {cell(' -> '.join(one['because']))}"
    by = f" by {one['closed_by']}" if one["closed_by"] else (f", run {one['closed_run']}" if one["closed_run"] else "")
    why = f": {one['closed_reason']}" if one["closed_reason"] else ""
    yield f"      {_by(one)}; first seen {_moment(one['first_seen'])}, closed {_moment(one['last_seen'])}"
    yield f"      {CLOSED.get(one['closed_because'], one['closed_because'])}{cell(by)}{cell(why)}"


def _conflict(one: Mapping[str, Any]) -> str:
    from usersync_cli.identity.conflicts import KINDS

    what = f"{one['app']}:{one['app_id']}" if one["app"] else str(one["domain"] or one["uuid"])
    found = ", ".join(str(part) for part in (one["domain"], one["uuid"], one["evidence"]) if part)
    state = "open" if one["status"] == "open" else f"{one['status']} by {one['answered_by']}: {one['reason']}"
    found = f": {cell(found)}" if found else ""
    return f"  {one['id']}: {cell(what)}: {KINDS[one['kind']]}{found}; {cell(state)}, found {_moment(one['found_at'])}"


def _moment(text: str | None) -> str:
    from usersync_cli.cli.text import moment

    return moment(datetime.fromisoformat(text).astimezone(UTC)) if text else "at an unknown time"
