"""`usersync customers`: a domain and a uuid each; made, shown, renamed, merged and apart again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usersync_cli.cli import config_option, output_option, write_json
from usersync_cli.cli.mapped import asking, by_option, configured, reason_option
from usersync_cli.cli.people import Text, cell, grid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usersync_cli.identity.customers import Customer, Listed, Shown
    from usersync_cli.identity.merging import Changed
    from usersync_cli.signals import Stop

_EXIT_STATUSES = """\b
Exit status: 0 ok, or so already, 2 usage, config or a missing right, 4 the
target cannot be reached, 9 no such customer, 10 the domain is another
customer's, a merge would be a circle, or the customer is merged."""
_which = "UUID|DOMAIN"
_reason = partial(reason_option, required=True)


@click.group(epilog=_EXIT_STATUSES)
def customers() -> None:
    """Make, list, show, rename and merge customers.

    A customer has a uuid, which never changes, and a domain. A domain that it had before, and a uuid that was merged into it, go
    on meaning it.

    \b
    Examples:
      usersync customers create example.com
      usersync customers show example.com
      usersync customers merge example.org example.com --reason "one company"
    """


@customers.command(epilog=_EXIT_STATUSES)
@click.argument("domain", metavar="DOMAIN", type=Text())
@by_option
@config_option
@output_option
@click.pass_obj
def create(stop: Stop, /, domain: str, by: str | None, config_path: Path | None, output: str) -> None:
    """Print the uuid of the customer DOMAIN, which is made if there is none.

    The domain may be in any case and in any script; a final dot does not count. The same domain gives the same uuid everywhere.

    \b
    Examples:
      usersync customers create example.com
      usersync customers create example.com --output json | jq -r .uuid
    """
    from usersync_cli.identity import place
    from usersync_cli.identity.customers import get_or_create

    with place.writing(configured(config_path).target_database(), "making a customer", stop) as tx:
        found, new = get_or_create(tx, domain, by or place.person())
    if output == "json":
        write_json("customer", {"domain": found.root_domain, "uuid": str(found.root), "created": new})
        return
    click.echo(f"{cell(found.root_domain)} {found.root}")
    if found.root != found.uuid:
        click.echo(f"note: {cell(str(found))} is merged into it", err=True)
    elif not new:
        click.echo("note: it was there already", err=True)


@customers.command(name="list", epilog=_EXIT_STATUSES)
@click.option("--search", default="", type=Text(), metavar="TEXT", help="Only those whose domain contains this text.")
@click.option("--merged", is_flag=True, help="Also customers that are merged into another.")
@click.option("--page", type=click.IntRange(min=1), default=1, show_default=True, help="Which page.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many customers a page has.")
@config_option
@output_option
def list_(  # noqa: PLR0913  each option is one
    *, search: str, merged: bool, page: int, limit: int, config_path: Path | None, output: str
) -> None:
    """List customers in the order of their domains, a page at a time.

    \b
    Examples:
      usersync customers list
      usersync customers list --search example --merged
      usersync customers list --limit 1000 --output json | jq -r '.customers[].domain'
    """
    from usersync_cli.cli.text import plural
    from usersync_cli.identity.customers import listed
    from usersync_cli.identity.mappings import reading

    with reading(configured(config_path).target_database(), "listing customers") as tx:
        found, total = listed(tx, search=search, merged=merged, page=page, limit=limit) if tx else ([], 0)
    pages = -(-total // limit)
    if output == "json":
        some = [_line_document(one) for one in found]
        write_json("customers", {"page": page, "limit": limit, "pages": pages, "total": total, "customers": some})
        return
    if found:
        head = ("domain", "uuid", "merged into", "made by")
        for line in grid(head, [[cell(text) for text in _cells(one)] for one in found]):
            click.echo(line)
    if total:
        click.echo(f"page {page:,} of {pages:,}: {plural(len(found), 'customer')} of {total:,}")
    else:
        click.echo("no customers" if search else "no customers yet: `usersync customers create DOMAIN`, or a step with `identity`")


@customers.command(epilog=_EXIT_STATUSES)
@click.argument("which", metavar=_which, type=Text())
@config_option
@output_option
def show(which: str, config_path: Path | None, output: str) -> None:
    """Show a customer: its domains, its merges with who and why, and how many ids each app has of it.

    A domain that it had before means it too. `usersync whois` shows the ids themselves, and why each is this customer's.

    \b
    Examples:
      usersync customers show example.com
      usersync customers show 1e6e3c1e-0000-8000-8000-000000000000 --output json
    """
    from usersync_cli.identity.customers import shown
    from usersync_cli.identity.mappings import require_customer

    with asking(config_path, "showing a customer") as tx:
        found = shown(tx, require_customer(tx, which))
    if output == "json":
        write_json("customer", _document(found))
        return
    for line in _lines(found):
        click.echo(cell(line))


@customers.command(epilog=_EXIT_STATUSES)
@click.argument("which", metavar=_which, type=Text())
@click.argument("domain", metavar="DOMAIN", type=Text())
@reason_option
@by_option
@config_option
@output_option
@click.pass_obj
def rename(stop: Stop, /, which: str, domain: str, config_path: Path | None, output: str, **said: str | None) -> None:
    """Give a customer another domain; its uuid stays.

    The domain that it had goes on meaning it, for people and for jobs, and no other customer can have it.

    \b
    Examples:
      usersync customers rename example.com example.org --reason "new name"
    """
    from usersync_cli.identity import merging, place

    with place.writing(configured(config_path).target_database(), "renaming a customer", stop) as tx:
        done = merging.rename(tx, which, domain, said["by"] or place.person(), said["reason"])
    if output == "json":
        write_json("customer", {**_pair(done.customer), "changed": done.changed})
        return
    click.echo(f"{done.customer.uuid} is called {cell(done.customer.domain)} {'now' if done.changed else 'already'}")


@customers.command(epilog=_EXIT_STATUSES)
@click.argument("which", metavar="FROM", type=Text())
@click.argument("into", metavar="INTO", type=Text())
@_reason
@by_option
@config_option
@output_option
@click.pass_obj
def merge(stop: Stop, /, which: str, into: str, config_path: Path | None, output: str, **said: str) -> None:
    """Say that FROM and INTO are one customer: FROM resolves to INTO from now on.

    The uuid and the domain of FROM go on meaning it. Each is a uuid or a domain. What is decided for FROM stays written down, so
    that `unmerge` takes the merge back exactly.

    \b
    Examples:
      usersync customers merge example.org example.com --reason "one company since May"
      usersync customers merge 1e6e3c1e-0000-8000-8000-000000000000 example.com --reason duplicate --by "Test User"
    """
    from usersync_cli.identity import merging, place

    with place.writing(configured(config_path).target_database(), "merging customers", stop) as tx:
        done = merging.merge(tx, which, into, said["by"] or place.person(), said["reason"])
    if output == "json":
        write_json("merge", _merge_document(done))
        return
    click.echo(f"{cell(str(done.customer))} {'resolves' if done.changed else 'resolved already'} to {cell(_root(done.customer))}")
    _say_conflicts(done, "no longer a conflict")


@customers.command(epilog=_EXIT_STATUSES)
@click.argument("which", metavar=_which, type=Text())
@_reason
@by_option
@config_option
@output_option
@click.pass_obj
def unmerge(stop: Stop, /, which: str, config_path: Path | None, output: str, **said: str) -> None:
    """Take back that a customer was merged into another: it is what it was.

    Merges can be taken back in any order. Who and why is kept for both.

    \b
    Examples:
      usersync customers unmerge example.org --reason "two companies after all"
    """
    from usersync_cli.identity import merging, place

    with place.writing(configured(config_path).target_database(), "unmerging a customer", stop) as tx:
        done = merging.unmerge(tx, which, said["by"] or place.person(), said["reason"])
    if output == "json":
        write_json("unmerge", _merge_document(done))
        return
    click.echo(f"{cell(str(done.customer))} is no longer merged into {cell(str(done.other))}")
    _say_conflicts(done, "open again")


# as JSON


def _pair(one: Customer) -> dict[str, Any]:
    """A customer in Klanten's shape."""
    return {"domain": one.domain, "uuid": str(one.uuid)}


def _root_pair(one: Customer) -> dict[str, Any]:
    return {"domain": one.root_domain, "uuid": str(one.root)}


def _line_document(one: Listed) -> dict[str, Any]:
    from usersync_cli.cli.text import iso

    into = one.customer.merged_into
    return {**_pair(one.customer), "merged_into": into and str(into), "created_at": iso(one.created_at), "created_by": one.created_by}


def _merge_document(done: Changed) -> dict[str, Any]:
    return {
        **_pair(done.customer),
        "changed": done.changed,
        "other": _pair(done.other) if done.other else None,
        "resolves_to": _root_pair(done.customer),
        "conflicts": done.conflicts,
    }


def _document(found: Shown) -> dict[str, Any]:
    from usersync_cli.cli.text import iso

    one = found.customer
    merges = [
        {
            **{name: str(value) if name in {"customer", "merged_into"} else value for name, value in vars(merge).items()},
            "merged_at": iso(merge.merged_at),
            "undone_at": iso(merge.undone_at),
        }
        for merge in found.merges
    ]
    return {
        **_pair(one),
        "merged_into": one.merged_into and str(one.merged_into),
        "resolves_to": _root_pair(one),
        "created_at": iso(found.created_at),
        "created_by": found.created_by,
        "run": found.run_id,
        "former_domains": [{**vars(former), "until": iso(former.until)} for former in found.former_domains],
        "merged_customers": found.resolving,
        "merges": merges,
        "mappings": found.ids,
    }


# in words


def _cells(one: Listed) -> tuple[str | None, ...]:
    customer = one.customer
    into = (customer.root_domain or str(customer.root)) if customer.merged_into else ""
    return customer.domain, str(customer.uuid), into, one.created_by


def _root(one: Customer) -> str:
    from usersync_cli.identity.customers import called

    return called(one.root, one.root_domain)


def _lines(found: Shown) -> Iterator[str]:
    from usersync_cli.cli.text import moment, plural
    from usersync_cli.identity.customers import called

    one = found.customer
    yield f"customer {one.domain or 'without a domain'} {one.uuid}"
    yield f"  made by {found.created_by}{f', run {found.run_id}' if found.run_id else ''}, {moment(found.created_at)}"
    if one.merged_into:
        yield f"  resolves to {_root(one)}"
    if found.resolving:
        yield f"  {plural(found.resolving, 'merged customer')} {'resolves' if found.resolving == 1 else 'resolve'} to it"
    for former in found.former_domains:
        why = f": {former.reason}" if former.reason else ""
        yield f"  was called {former.domain} until {moment(former.until)}, renamed by {former.renamed_by}{why}"
    for merge in found.merges:
        yield (
            f"  {called(merge.customer, merge.domain)} merged into {called(merge.merged_into, merge.into_domain)}, "
            f"{moment(merge.merged_at)}, by {merge.merged_by}: {merge.reason}"
        )
        if merge.undone_at:
            yield f"    undone {moment(merge.undone_at)} by {merge.undone_by}: {merge.undone_reason}"
    for app, ids in found.ids.items():
        yield f"  {app}: {plural(ids, 'id')}"
    if not found.ids:
        yield "  no ids of any app" if not one.merged_into else "  its ids are shown with the customer that it resolves to"


def _say_conflicts(done: Changed, what: str) -> None:
    from usersync_cli.cli.text import plural

    if done.conflicts:
        click.echo(f"{plural(done.conflicts, 'difference')} between them {'is' if done.conflicts == 1 else 'are'} {what}", err=True)
