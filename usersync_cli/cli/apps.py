"""`usersync apps`: the systems whose ids are mapped, and which database role may read which of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from usersync_cli.cli import config_option, output_option, write_json
from usersync_cli.cli.mapped import by_option, configured
from usersync_cli.cli.people import Text, cell, grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usersync_cli.config.loader import Config
    from usersync_cli.signals import Stop

_EXIT_STATUSES = """\b
Exit status: 0 ok, or so already, 2 usage, config or a missing right, 4 the
target cannot be reached, 9 no such app or database role, 10 the app has mappings,
or a step fills it."""
_name = click.argument("name", metavar="NAME", type=Text())
_role = click.option("--role", required=True, type=Text(), metavar="ROLE", help="A role of the target database, such as shop_reader.")


@click.group(epilog=_EXIT_STATUSES)
def apps() -> None:
    """Add, list and remove apps whose ids are mapped; let a database role read one.

    An app is a system, or a kind of record in one, whose ids are mapped to customers. A mapping to an app that is not known is
    refused. Those that a step of a job names are added by its first run.

    \b
    Examples:
      usersync apps add shop
      usersync apps list
      usersync apps grant shop --role shop_reader
    """


@apps.command(epilog=_EXIT_STATUSES)
@_name
@by_option
@config_option
@output_option
@click.pass_obj
def add(stop: Stop, /, name: str, by: str | None, config_path: Path | None, output: str) -> None:
    """Add the app NAME. One that is there already stays as it is.

    \b
    Examples:
      usersync apps add shop
      usersync apps add teamleader.companies --output json
    """
    from usersync_cli.identity import apps as map_apps
    from usersync_cli.identity import place

    with place.writing(configured(config_path).target_database(), f"adding the app {name}", stop) as tx:
        new = map_apps.add(tx, name, by or place.person())
    if output == "json":
        write_json("app", {"name": name, "created": new})
        return
    click.echo(f"app {cell(name)}: added" if new else f"app {cell(name)} is there already")


@apps.command(name="list", epilog=_EXIT_STATUSES)
@config_option
@output_option
def list_(config_path: Path | None, output: str) -> None:
    """List the apps: how many ids are mapped, who fills them, which roles may read them.

    \b
    Examples:
      usersync apps list
      usersync apps list --output json | jq -r '.apps[].name'
    """
    from usersync_cli.cli.text import iso
    from usersync_cli.identity import apps as map_apps
    from usersync_cli.identity.mappings import reading

    with reading(configured(config_path).target_database(), "listing the apps") as tx:
        found = map_apps.listed(tx) if tx else []
    if output == "json":
        fields = [{**vars(one), "added_at": iso(one.added_at)} for one in found]
        write_json("apps", {"apps": fields})
        return
    if not found:
        click.echo("no apps yet: `usersync apps add NAME`, or a step with `identity`")
        return
    head = ("app", "mappings", "filled by", "read by", "added by")
    rows = [(one.name, f"{one.ids:,}", "; ".join(one.filled_by), ", ".join(one.roles), one.added_by) for one in found]
    for line in grid(head, [[cell(value) for value in row] for row in rows]):
        click.echo(line)


@apps.command(epilog=_EXIT_STATUSES)
@_name
@by_option
@config_option
@output_option
@click.pass_obj
def remove(stop: Stop, /, name: str, by: str | None, config_path: Path | None, output: str) -> None:
    """Remove the app NAME, which has no mappings any more and which no step fills, and the rights to read it.

    \b
    Examples:
      usersync apps remove shop
    """
    from usersync_cli.identity import apps as map_apps
    from usersync_cli.identity import place

    config = configured(config_path)
    with place.writing(config.target_database(), f"removing the app {name}", stop) as tx:
        map_apps.remove(tx, name, by or place.person(), _steps(config, name))
    if output == "json":
        write_json("app", {"name": name, "removed": True})
    else:
        click.echo(f"app {cell(name)}: removed")


def _steps(config: Config, app: str) -> Sequence[str]:
    """The steps of the config file that fill an app."""
    found = ((name, step) for name, job in config.jobs.items() for step in job.steps)
    return [f"job {name}, step {step.name}" for name, step in found if any(one.app == app for one in step.identity)]


@apps.command(epilog=_EXIT_STATUSES)
@_name
@_role
@by_option
@config_option
@output_option
@click.pass_obj
def grant(stop: Stop, /, name: str, *, role: str, by: str | None, config_path: Path | None, output: str) -> None:  # noqa: PLR0913  each option is one
    """Let a database role read the rows of the app NAME, and of no other.

    It may read the views usersync.customer_ids and the function usersync.customer_ids_at, and sees its own apps' rows there. Roles
    that are members of it see them too. It needs no right on any table.

    \b
    Examples:
      usersync apps grant shop --role shop_reader
      psql -U shop_reader -c "SELECT domain FROM usersync.customer_ids WHERE app = 'shop' AND id = '4711'"
    """
    from usersync_cli.identity import apps as map_apps
    from usersync_cli.identity import place

    with place.writing(configured(config_path).target_database(), f"granting the app {name}", stop) as tx:
        done = map_apps.grant(tx, name, role, by or place.person())
    if output == "json":
        write_json("grant", {"app": name, "role": role, "granted": True, "changed": done.new, "notes": list(done.notes)})
        return
    click.echo(f"role {cell(role)} {'reads app' if done.new else 'could already read app'} {cell(name)} in usersync.customer_ids")
    for note in done.notes:
        click.echo(f"note: {cell(note)}", err=True)


@apps.command(epilog=_EXIT_STATUSES)
@_name
@_role
@config_option
@output_option
@click.pass_obj
def revoke(stop: Stop, /, name: str, role: str, config_path: Path | None, output: str) -> None:
    """Take the right to read the app NAME from a database role.

    With its last app the role loses its rights on the views and on the schema.

    \b
    Examples:
      usersync apps revoke shop --role shop_reader
    """
    from usersync_cli.identity import apps as map_apps
    from usersync_cli.identity import place

    with place.writing(configured(config_path).target_database(), f"revoking the app {name}", stop) as tx:
        had = map_apps.revoke(tx, name, role)
    if output == "json":
        write_json("grant", {"app": name, "role": role, "granted": False, "changed": had})
        return
    click.echo(f"role {cell(role)} {'no longer reads' if had else 'did not read'} app {cell(name)}")
