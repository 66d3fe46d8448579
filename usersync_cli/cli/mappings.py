"""`usersync mappings`: which id of which app is which customer, by hand. What it prints may be people's data, as asked for."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from usersync_cli.cli import config_option, output_option, write_json
from usersync_cli.cli.export import delimiter_of, writing_to
from usersync_cli.cli.mapped import (
    Age,
    Id,
    asking,
    by_option,
    configured,
    decision,
    encoding_of,
    reason_option,
    say_answers,
    say_conflicts,
    say_created,
    say_imported,
    verdict_options,
)  # fmt: skip
from usersync_cli.cli.people import Text, cell
from usersync_cli.signals import Stop

_EXIT_STATUSES = """\b
Exit status: 0 ok, 2 usage or config, 4 the target cannot be reached,
9 no such app, customer or mapping, 10 the id is another customer's."""
_app = click.option("--app", required=True, type=Text(), metavar="APP", help="The app, such as teamleader.companies.")
_id = click.option("--id", "id_", required=True, type=Id(), metavar="ID", help="The id that the app has for it.")
_STATUSES = ["open", "accepted", "rejected", "ignored", "over", "all"]
_move = click.option("--move", is_flag=True, help="Move an id that is another customer's; its mapping is closed.")


@click.group(epilog=_EXIT_STATUSES)
def mappings() -> None:
    """Say which id of which app is which customer; list, import and export that.

    What a person says is a pin: no job changes it.

    \b
    Examples:
      usersync mappings create --app shop --id 4711 --customer example.com
      usersync mappings list --customer example.com
      usersync mappings conflicts list
      usersync mappings stats
    """


@mappings.command(epilog=_EXIT_STATUSES)
@_app
@_id
@click.option("--customer", required=True, type=Text(), metavar="UUID|DOMAIN", help="Whose it is.")
@_move
@reason_option
@by_option
@config_option
@output_option
@click.pass_obj
def create(stop: Stop, /, app: str, id_: str, customer: str, **given: Any) -> None:
    """Map an id of an app to a customer, and pin it there.

    What is so already stays so, with exit status 0. An id that is another customer's is moved with --move alone; what its
    record says otherwise is answered with that, and does not come back as a conflict.

    \b
    Examples:
      usersync mappings create --app shop --id 4711 --customer example.com
      usersync mappings create --app shop --id 4711 --customer example.org --move --reason "sold"
    """
    say_created(stop, app, id_, customer, **given)


@mappings.command(epilog=_EXIT_STATUSES)
@_app
@_id
@config_option
@output_option
def query(app: str, id_: str, config_path: Path | None, output: str) -> None:
    """Print the customer of an id: its domain and uuid.

    \b
    Examples:
      usersync mappings query --app shop --id 4711
      usersync mappings query --app shop --id 4711 --output json | jq -r .uuid
    """
    from usersync_cli.identity import mappings as stored

    with asking(config_path, "reading mappings") as tx:
        found = stored.query(tx, app, stored.meant(tx, app, id_))
    if output == "json":
        write_json("customer", {"domain": found.domain, "uuid": found.uuid})
    else:
        click.echo(f"{cell(found.domain) or '-'}  {found.uuid}")


@mappings.command(name="list", epilog=_EXIT_STATUSES)
@click.option("--customer", type=Text(), metavar="UUID|DOMAIN", help="Only those of this customer, and of those merged into it.")
@click.option("--app", type=Text(), metavar="APP", help="Only those of this app.")
@click.option("--limit", type=click.IntRange(min=0), default=1000, show_default=True, help="How many at most; 0 for all.")
@config_option
@output_option
def list_(customer: str | None, app: str | None, limit: int, config_path: Path | None, output: str) -> None:
    """List the ids of a customer, or of an app.

    \b
    Examples:
      usersync mappings list --customer example.com
      usersync mappings list --customer example.com --app shop --output json | jq '.mappings[].app_id'
    """
    from usersync_cli.cli.mapped import klanten, mapping_lines
    from usersync_cli.identity import mappings as stored

    if not customer and not app:
        raise click.UsageError("Say --customer, --app, or both. `usersync mappings export` writes all of them.")
    with asking(config_path, "reading mappings") as tx:
        found, more = stored.listed(tx, customer=customer, app=app, most=limit)
    if output == "json":
        write_json("mappings", {"mappings": [klanten(one) for one in found], "more": more})
    elif found:
        for line in mapping_lines(found):
            click.echo(line)
    else:
        click.echo("no mappings")
    if more:
        click.echo(f"note: there are more than {limit:,}; --limit 0 shows all", err=True)


@mappings.command(epilog=_EXIT_STATUSES)
@_app
@_id
@reason_option
@by_option
@config_option
@output_option
@click.pass_obj
def remove(  # noqa: PLR0913, PLR0917  each option is one
    stop: Stop, app: str, id_: str, reason: str | None, by: str | None, config_path: Path | None, output: str
) -> None:
    """Close the mapping of an id, with who and why; it stays in the history.

    The id is free then: a job that looks at its row maps it again, by its rules. To keep it from that, say whose it is with
    create --move instead.

    \b
    Examples:
      usersync mappings remove --app shop --id 4711 --reason "a test order"
    """
    from usersync_cli.identity import mappings as stored
    from usersync_cli.identity.place import writing

    database = configured(config_path).target_database()
    with writing(database, "removing a mapping", stop) as tx:
        was = stored.remove(tx, app, stored.meant(tx, app, id_), decision(by, reason))
        jobs = stored.jobs_of(tx, app)
    if output == "json":
        again = {"may_be_mapped_again_by": [{"job": job, "step": step} for job, step in jobs]}
        write_json("removed", {"app": was.app, "app_id": was.id, "domain": was.domain, "uuid": was.uuid, **again})
        return
    click.echo(f"{app}:{cell(was.id)} is nobody's now; it was {cell(was.customer)}, {cell(was.because)}")
    for job, step in jobs:
        click.echo(f"note: job {job}, step {step}, may map it again by its rules: when its row changes, or in a run with --full", err=True)
    if jobs:
        click.echo(f"  usersync mappings create --app {app} --id ID --customer DOMAIN says whose it is, and no job changes that", err=True)


# files


def _delimiter(ctx: click.Context, option: click.Parameter, value: str) -> str:
    return delimiter_of(ctx, option, value) if value else ""


@mappings.command(
    name="import",
    epilog="""\b
Exit status: 0 ok, 2 usage or config, or a column is missing, 3 some lines were
set aside, 4 the target cannot be reached, 9 there is no map yet (--dry-run).""",
)
@click.argument("file", metavar="FILE.csv", type=click.Path(path_type=Path, allow_dash=True))
@_move
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option(
    "--encoding",
    default="",
    callback=encoding_of,
    metavar="NAME",
    help="Of the file. Default: UTF-8, or what its byte order mark says.",
)
@click.option(
    "--delimiter",
    callback=_delimiter,
    default="",
    metavar="CHARACTER",
    help="What stands between cells. Default: what the header has.",
)
@click.option("--raw", is_flag=True, help="Take ' in front of = + - @ as part of the cell; for files of `export --raw`.")
@reason_option
@by_option
@config_option
@output_option
@click.pass_obj
def import_(  # noqa: PLR0913, PLR0917  each option is one
    stop: Stop, file: Path, encoding: str, delimiter: str, reason: str | None, by: str | None, config_path: Path | None, output: str,
    *, move: bool, dry_run: bool, raw: bool,
) -> int:  # fmt: skip
    """Take mappings from a CSV file, all in one transaction, and pin them.

    Its header names the columns, in any order: app, id, and customer (uuid or domain), domain, uuid, or both of these.
    A domain that is new becomes a customer, with the uuid that the file has for it. Lines that can't be taken are set
    aside with their reason, as `usersync rejects list` shows; the others are imported. The same file again changes nothing.

    \b
    Examples:
      usersync mappings import shop.csv --dry-run
      usersync mappings import shop.csv --reason "list of the shop"
      usersync mappings import - < shop.csv
    """
    from usersync_cli.identity import importing, place

    with importing.opened(file, importing.Csv(encoding, delimiter, raw=raw), sys.stdin.buffer) as lines:
        if dry_run:
            with asking(config_path, "reading mappings", long=True, temp=True) as tx:
                found = importing.compare(tx, lines, move=move, stop=stop)
        else:
            with place.writing(configured(config_path).target_database(), "importing mappings", stop) as tx:
                found = importing.load(tx, lines, decision(by, reason), move=move, stop=stop)
    return say_imported(found, file, output, dry_run=dry_run)


@mappings.command(
    epilog="""\b
Exit status: 0 ok, 2 usage or config, 4 the target cannot be reached or the
disk is full, 9 no such app, 129/130/143 stopped by a signal, 141 nobody reads
on."""
)
@click.option("--app", type=Text(), metavar="APP", help="Only those of this app.")
@click.option("--pinned", is_flag=True, help="Only what people decided.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Write here instead of stdout: a file that only you can read.",
)
@click.option("--delimiter", callback=delimiter_of, default=",", show_default=True, metavar="CHARACTER", help="What stands between cells.")
@click.option("--bom", is_flag=True, help="Begin with a byte order mark, by which spreadsheets know UTF-8.")
@click.option("--raw", is_flag=True, help="No ' before = + - @ and the like; for programs, not for spreadsheets.")
@config_option
@click.pass_obj
def export(  # noqa: PLR0913  each option is one
    stop: Stop, app: str | None, out: Path | None, delimiter: str, config_path: Path | None, *, pinned: bool, bom: bool, raw: bool
) -> None:
    """Write all mappings as CSV, as `import` takes it: app, id, domain, uuid, and where each came from.

    Customers that were merged are written as what they were merged into. A cell that a spreadsheet would take for a formula
    gets a ' in front, which `import` takes away.

    \b
    Examples:
      usersync mappings export > mappings.csv
      usersync mappings export --app shop --pinned --out pins.csv
    """
    from usersync_cli.identity import exporting

    file = None if out in {None, Path("-")} else out
    options = exporting.Csv(app, delimiter, pinned=pinned, bom=bom, raw=raw)
    with asking(config_path, "exporting mappings", long=True) as tx, writing_to(file, stop) as write:
        for block in exporting.blocks(tx, options, stop):
            write(block)


@mappings.command(epilog=_EXIT_STATUSES)
@click.option("--app", type=Text(), metavar="APP", help="Only of this app.")
@config_option
@output_option
def stats(app: str | None, config_path: Path | None, output: str) -> None:
    """Show how much is mapped: ids without a customer, customers without an id, sizes, rules, conflicts by age.

    The tables that fill the map are read whole for that.

    \b
    Examples:
      usersync mappings stats
      usersync mappings stats --app shop --output json | jq '.apps[].ids_without_customer'
    """
    from usersync_cli.cli.mapstats import stats_lines
    from usersync_cli.identity import stats as counting

    with asking(config_path, "counting mappings", long=True) as tx:
        found = counting.stats(tx, app)
    if output == "json":
        write_json("stats", found)
        return
    for line in stats_lines(found):
        click.echo(line)


# conflicts

_CONFLICT_STATUSES = """\b
Exit status: 0 ok, or answered so before, 2 usage or config, 4 the target cannot
be reached, 9 no such conflict, or it is over, 10 it has another answer."""


@mappings.group(epilog=_CONFLICT_STATUSES)
def conflicts() -> None:
    """Show and answer where a job found something else than the map says.

    Nothing moves until a person decides. An answer is permanent: the same conflict does not come back.

    \b
    Examples:
      usersync mappings conflicts list
      usersync mappings conflicts accept 12 --reason "they have moved"
      usersync mappings conflicts reject 13 14 --reason "a private address"
    """


@conflicts.command(name="list", epilog=_CONFLICT_STATUSES)
@click.option("--app", type=Text(), metavar="APP", help="Only those about ids of this app.")
@click.option("--kind", type=click.Choice(["domain", "returned", "uuid", "renamed"]), help="Only those of this kind.")
@click.option("--older-than", type=Age(), metavar="AGE", help="Only those found at least so long ago, such as 7d or 12h.")
@click.option("--status", type=click.Choice(_STATUSES), default="open", show_default=True, help="Those that wait, or have this answer.")
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="How many at most; 0 for all.")
@config_option
@output_option
def list_conflicts(  # noqa: PLR0913, PLR0917  each option is one
    app: str | None, kind: str | None, older_than: timedelta | None, status: str, limit: int, config_path: Path | None, output: str
) -> None:
    """List conflicts with what is on the map, what was found, and by whom.

    \b
    Examples:
      usersync mappings conflicts list
      usersync mappings conflicts list --app shop --kind domain --older-than 7d
      usersync mappings conflicts list --status all --output json
    """
    from usersync_cli.identity import conflicts as stored
    from usersync_cli.identity.mappings import reading

    wanted = stored.Wanted(app, kind, None if status == "all" else (status,), older_than, limit)
    with reading(configured(config_path).target_database(), "reading conflicts") as tx:
        found, counts = stored.listed(tx, wanted) if tx is not None else ([], {})
    say_conflicts(found, counts, status, output)


@conflicts.command(epilog=_CONFLICT_STATUSES)
@verdict_options
@click.pass_obj
def accept(stop: Stop, /, ids: tuple[int, ...], **given: Any) -> None:
    """Say that what was found is right, and make the map say so.

    \b
    domain    the id moves to the customer that its record names, and is pinned
    returned  the id is no longer pinned; the rules decide at the next run
    uuid      the domain becomes that of the other uuid; ours is merged into it
    renamed   the customer gets the domain; its old one goes on meaning it

    Several are answered together, or none of them.

    \b
    Examples:
      usersync mappings conflicts accept 12 --reason "they have moved"
    """
    say_answers(stop, ids, "accepted", **given)


@conflicts.command(epilog=_CONFLICT_STATUSES)
@verdict_options
@click.pass_obj
def reject(stop: Stop, /, ids: tuple[int, ...], **given: Any) -> None:
    """Say that the map is right, and pin what is there.

    \b
    Examples:
      usersync mappings conflicts reject 12 13 --reason "a private address"
    """
    say_answers(stop, ids, "rejected", **given)


@conflicts.command(epilog=_CONFLICT_STATUSES)
@verdict_options
@click.pass_obj
def ignore(stop: Stop, /, ids: tuple[int, ...], **given: Any) -> None:
    """Say that it does not matter: nothing moves and nothing is pinned, and the conflict does not come back.

    \b
    Examples:
      usersync mappings conflicts ignore 12 --reason "a test record"
    """
    say_answers(stop, ids, "ignored", **given)
