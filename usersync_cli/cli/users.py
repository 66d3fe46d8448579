"""`usersync users`: the people of a source that are in the copy, and one more of them. What it prints is people's data, as asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usersync_cli.cli import answered, config_option, output_option, write_json
from usersync_cli.cli.people import Text, age_document, age_line, cell, found_where, grid, lines_of, person_document

if TYPE_CHECKING:
    from usersync_cli.report.users import UsersPage, UsersTable, Wanted
    from usersync_cli.signals import Stop

_EXIT_STATUSES = """\b
Exit status: 0 ok, 2 usage, config or a missing right, 4 the target cannot be
reached, 7 not the table that was expected, 9 not found."""
_job = click.option("--job", "job_name", metavar="NAME", help="Whose copy; only needed when several jobs copy people.")


@click.group(epilog=_EXIT_STATUSES)
def users() -> None:
    """List and show people of WorkOS from the copy; create one in both.

    WorkOS is the source of truth. What is shown is the copy in the target, with its age, also while WorkOS is away.

    \b
    Examples:
      usersync users list --limit 20
      usersync users show test.user@example.org
      usersync users create --email test.user@example.org --first-name Test --last-name User
    """


@users.command(name="list", epilog=_EXIT_STATUSES)
@click.option("--page", type=click.IntRange(min=1), default=1, show_default=True, help="Which page.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many people a page has.")
@click.option("--email", default="", type=Text(), help="Only who has this address, in any case.")
@click.option("--organization", default="", type=Text(), metavar="ID", help="Only members of this organization, whatever their status.")
@click.option("--deleted", is_flag=True, help="Also people that are marked as deleted.")
@_job
@config_option
@click.option(
    "--output",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How to print them on stdout: for people, for programs, for a spreadsheet.",
)
def list_(  # noqa: PLR0913  each option is one
    *, page: int, limit: int, email: str, organization: str, deleted: bool, job_name: str | None, config_path: Path | None, output: str
) -> None:
    """List the people in the copy, a page at a time, in the order of their ids.

    Nobody asks WorkOS: the copy is as old as the last line says. In CSV a cell that a spreadsheet would take for a formula
    gets a ' in front; the age is on stderr then.

    \b
    Examples:
      usersync users list
      usersync users list --page 2 --limit 100
      usersync users list --organization org_01EXAMPLE --output csv > members.csv
      usersync users list --email test.user@example.org --output json | jq '.users[0].id'
    """
    from usersync_cli.report.users import Wanted
    from usersync_cli.report.users import page as page_of

    config, where = found_where(config_path, job_name)
    wanted = Wanted(page, limit, email, organization, deleted)
    found = page_of(config.target_database(), where, wanted)
    if output == "json":
        write_json("users", _page_document(where, found, wanted))
    elif output == "csv":
        _write_csv(found)
        _say_about(where, found, wanted)
    else:
        _print_table(where, found)
        _say_about(where, found, wanted, on_stdout=True)
    if found.unknown_organization:
        click.echo(f"note: the copy has no organization {cell(organization)}", err=True)


@users.command(epilog=_EXIT_STATUSES)
@click.argument("who", metavar="ID|EMAIL", type=Text())
@_job
@config_option
@output_option
def show(who: str, job_name: str | None, config_path: Path | None, *, output: str) -> None:
    """Show all that the copy has of a person: columns, memberships, whether it is deleted.

    An e-mail address is found in any case; where several people have it, all of them are shown.

    \b
    Examples:
      usersync users show user_01EXAMPLE
      usersync users show test.user@example.org --output json | jq '.users[].memberships'
    """
    from usersync_cli.report.users import show as shown

    config, where = found_where(config_path, job_name)
    found = shown(config.target_database(), where, who)
    if output == "json":
        people = [person_document(where, one, has_memberships=found.has_memberships) for one in found.users]
        write_json("user", {"copy": age_document(where, found.age), "users": people})
        return
    for one in found.users:
        for line in lines_of(one, has_memberships=found.has_memberships):
            click.echo(line)
    click.echo(age_line(where, found.age))


@users.command(
    epilog="""\b
Exit status: 0 created, or there already, 2 usage, config or refused as
invalid, 3 created, but not in the copy yet, 4 WorkOS or the target cannot be
reached, 7 another environment, 10 the address or external id is somebody
else's, or there are two now, 75 somebody is about to create the same person."""
)
@click.option("--email", required=True, type=Text(), help="Of the person.")
@click.option("--first-name", type=Text(), help="Of the person.")
@click.option("--last-name", type=Text(), help="Of the person.")
@click.option("--external-id", type=Text(), metavar="ID", help="Your own id of the person; nobody else may have it.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Any number of them.")
@click.option("--dry-run", is_flag=True, help="Look whether they exist, and show what would be sent; create nobody.")
@_job
@config_option
@output_option
@click.pass_obj
def create(stop: Stop, /, job_name: str | None, config_path: Path | None, *, dry_run: bool, output: str, **given: Any) -> int:
    """Create a person in WorkOS, once, and put them into the copy.

    Whoever has the external id, or the e-mail address in any case, exists already: their id is printed, nothing is changed, and
    the status is 0; 10 where the external id is another person's. A request without an answer is never sent again blindly:
    this looks whether it was carried out, and so does the next call after this one was killed.

    \b
    Examples:
      usersync users create --email test.user@example.org --first-name Test --last-name User
      usersync users create --email test.user@example.org --external-id 4711 --metadata team=test --metadata cost_centre=12
      usersync users create --email test.user@example.org --dry-run --output json
    """
    from usersync_cli.cli.newcomer import created, new_user, print_outcome

    new = new_user(**given)
    config, where = found_where(config_path, job_name)
    outcome = created(config, where, stop, new, dry_run=dry_run)
    return print_outcome(where, new, outcome, output)


# a page


def _page_document(where: UsersTable, found: UsersPage, wanted: Wanted) -> dict[str, Any]:
    return {
        "page": wanted.page,
        "limit": wanted.limit,
        "pages": found.pages(wanted.limit),
        "total": found.total,
        "copy": age_document(where, found.age),
        "users": [{("id" if name == found.key else name): value for name, value in row.items()} for row in found.rows],
    }


def _print_table(where: UsersTable, found: UsersPage) -> None:
    wanted = [found.key, *(name for name in where.shape.shown if name in found.columns)]
    if all(row.get("deleted_at") is None for row in found.rows):
        wanted = [name for name in wanted if name != "deleted_at"]
    if found.rows:
        for line in grid(wanted, [[cell(row.get(name)) for name in wanted] for row in found.rows]):
            click.echo(line)


def _write_csv(found: UsersPage) -> None:
    """RFC 4180: NULL is an empty cell."""
    import csv
    import io

    from usersync_cli import spreadsheets

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(found.columns)
    for row in found.rows:
        writer.writerow([spreadsheets.text(_plain(row.get(name))) for name in found.columns])
    answered()
    if sys.stdout.isatty():
        for line in text.getvalue().splitlines():
            click.echo(cell(line))
    else:
        click.echo(text.getvalue().encode(), nl=False)


def _plain(value: Any) -> str:
    """A value as a cell of CSV; what is no text is JSON."""
    import json

    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _say_about(where: UsersTable, found: UsersPage, wanted: Wanted, *, on_stdout: bool = False) -> None:
    """How many there are, and how old the copy is."""
    from usersync_cli.cli.text import plural

    said = f"page {wanted.page:,} of {found.pages(wanted.limit):,}: {_shown(found.rows)}{found.total:,} in all"
    if not found.rows:
        said = "nobody" if not found.total else f"there is no page {wanted.page:,}: {plural(found.total, 'user')} in all"
    click.echo(said, err=not on_stdout)
    click.echo(age_line(where, found.age), err=not on_stdout)


def _shown(rows: Sequence[object]) -> str:
    from usersync_cli.cli.text import plural

    return f"{plural(len(rows), 'user')} of "
