"""`usersync keycloak`: look after single accounts of a realm. The answers in JSON are those of the service that usersync replaces."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from pathlib import Path

import click

from usersync_cli.cli import write_json
from usersync_cli.cli.realm import Filled, Where, answer, made_document, on_a_realm, opened, person_document, print_line, print_person

_EXIT_STATUSES = """\b
Exit status: 0 ok, 2 usage or config, 4 Keycloak cannot be reached,
9 there is no such account."""


_user = click.argument("user", metavar="USER", type=Filled())


@click.group(epilog=_EXIT_STATUSES)
def keycloak() -> None:
    """Look after single accounts: make, show, enable, disable, passwords.

    USER is a user name, or the account's id. What a job makes and keeps equal needs none of this: usersync run.

    \b
    Examples:
      usersync keycloak status test-user-one
      usersync keycloak disable test-user-one                and sign it out everywhere
      usersync keycloak reset-password test-user-one         mail a link that is good for 24 hours
      usersync keycloak health
    """


@keycloak.command(
    name="sync-user",
    epilog="""\b
Exit status: 0 made, 2 usage or config, 3 made, but not all of it,
4 Keycloak cannot be reached, 7 the realm lacks the role or group,
8 Keycloak dropped something of it, 10 such an account exists.""",
)
@click.option("--username", required=True, type=Filled(), help="Of the account; Keycloak stores it in lower case.")
@click.option("--email", required=True, type=Filled(), help="Of the person; no other account may have it.")
@click.option("--first-name", default="", help="Of the person.")
@click.option("--last-name", default="", help="Of the person.")
@click.option(
    "--role",
    required=True,
    type=Filled(),
    metavar="ROLE",
    help="The source's name of the role, as the map under `roles` has it, in any case.",
)
@click.option(
    "--id",
    "key",
    type=Filled(without='"'),
    metavar="ID",
    help="The job's id of this person, so that it knows the account (Fineract: TENANT:ID).",
)
@click.option(
    "--credentials-out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Make a first password, and append name and password to this CSV file of mode 0600.",
)
@click.option("--show-password", is_flag=True, help="Make a first password, and show it, on a terminal only.")
@on_a_realm
def sync_user(where: Where, credentials_out: Path | None, *, show_password: bool, **person: str | None) -> None:
    """Make the account of one person, as a job does: role, group, required actions, a password for once.

    An account of that user name is left as it is. A password is made only where you say where it goes: into a file of
    mode 0600, or onto the terminal; else let the person have a link with reset-password.

    \b
    Examples:
      usersync keycloak sync-user --username test-user-one --email one@example.org --first-name Test --last-name One --role "Loan Officer"
      usersync keycloak sync-user --username test-user-two --email two@example.org --role Cashier --credentials-out passwords.csv
    """
    from usersync_cli.targets.keycloak import accounts
    from usersync_cli.targets.keycloak.credentials import Credentials

    if show_password and not sys.stdout.isatty():
        raise click.UsageError("--show-password is for a terminal, and stdout is none; --credentials-out writes a file.")
    with opened(where, "sync-user") as at, ExitStack() as stack:
        new = accounts.Newcomer(**{name: (value or "").strip() for name, value in person.items()})
        file = stack.enter_context(closing(Credentials(credentials_out))) if credentials_out else None

        def tell(name: str, password: str) -> None:
            """At once, whatever goes wrong afterwards."""
            if file:
                file.write(name, password)
            if show_password and not where.in_json:
                print_line("first password", password)

        made = accounts.make(at.realm, at.settings, new, tell if credentials_out or show_password else None)
    if not (made.password or at.settings.notify == "email"):
        click.echo("it has no password yet: `usersync keycloak reset-password` mails a link", err=True)
    if where.in_json:
        shown = made.password if show_password else None
        answer("sync-user", "the account was made", **made_document(made, shown))
    else:
        print_person(made.person)


@keycloak.command(epilog=_EXIT_STATUSES)
@_user
@on_a_realm
def status(where: Where, user: str) -> None:
    """Show an account: address, names, enabled or not, what is asked at the next login, roles, groups.

    \b
    Examples:
      usersync keycloak status test-user-one
      usersync keycloak status test-user-one --output json | jq .keycloak_user.roles
    """
    from usersync_cli.targets.keycloak import accounts

    with opened(where, "status") as at:
        found = accounts.person(at.realm, accounts.look_up(at.realm, user))
    if where.in_json:
        write_json("keycloak-status", {"status": "success", "keycloak_user": person_document(found)})
    else:
        print_person(found)


@keycloak.command(epilog=_EXIT_STATUSES)
@_user
@on_a_realm
def enable(where: Where, user: str) -> None:
    """Let an account log in again; this also ends a lock after too many wrong passwords.

    \b
    Examples:
      usersync keycloak enable test-user-one
    """
    _switch(where, user, enabled=True)


@keycloak.command(epilog=_EXIT_STATUSES)
@_user
@on_a_realm
def disable(where: Where, user: str) -> None:
    """Let an account log in no more, and end its sessions.

    A job leaves it so, and tells that it was locked by hand, as long as the source has the person.

    \b
    Examples:
      usersync keycloak disable test-user-one
    """
    _switch(where, user, enabled=False)


def _switch(where: Where, user: str, *, enabled: bool) -> None:
    from usersync_cli.targets.keycloak import accounts

    done = "enabled" if enabled else "disabled"
    with opened(where, done.removesuffix("d")) as at:
        found = accounts.look_up(at.realm, user)
        accounts.switch(at.realm, str(found["id"]), enabled=enabled)
    name = str(found["username"])
    if where.in_json:
        answer(done.removesuffix("d"), f"the account is {done}", username=name, enabled=enabled)
    else:
        click.echo(f"{name}: {done}" if enabled else f"{name}: {done}, and signed out")


@keycloak.command(
    name="set-id",
    epilog="""\b
Exit status: 0 done, 2 usage or config, 4 Keycloak cannot be reached,
7 the realm would drop it, 9 there is no such account, 10 another account has this id.""",
)
@_user
@click.argument("key", metavar="KEY", type=Filled(without='"'))
@on_a_realm
def set_id(where: Where, user: str, key: str) -> None:
    """Say whose account it is: KEY is the job's id of that person, as `usersync rejects list` shows it.

    From the next run on the account is kept equal to that person, and enabled if it was a run that disabled it. For somebody
    who came back under another id, and for an account that was there before.

    \b
    Examples:
      usersync keycloak set-id test-user-one default:12
    """
    from usersync_cli.targets.keycloak import accounts

    with opened(where, "set-id") as at:
        found = accounts.look_up(at.realm, user)
        new = accounts.set_id(at.realm, found, key)
    name = str(found["username"])
    if where.in_json:
        answer("set-id", "the account has this id" if new else "the account had this id already", username=name)
    else:
        click.echo(f"{name}: {'has' if new else 'had already'} the id {key}")


@keycloak.command(name="reset-password", epilog=_EXIT_STATUSES)
@_user
@on_a_realm
def reset_password(where: Where, user: str) -> None:
    """Let the realm mail the person a link to choose a new password, which is good for 24 hours.

    The old password works until then. Every call is a mail.

    \b
    Examples:
      usersync keycloak reset-password test-user-one
    """
    from usersync_cli.targets.keycloak import accounts

    with opened(where, "reset-password") as at:
        found = accounts.look_up(at.realm, user)
        accounts.mail_password_link(at.realm, found)
    name, email = str(found["username"]), str(found["email"])
    if where.in_json:
        answer("reset-password", f"a link was mailed to {email}", username=name, email=email)
    else:
        click.echo(f"{name}: a link that is good for 24 hours was mailed to {email}")


@keycloak.command(name="force-password-change", epilog=_EXIT_STATUSES)
@_user
@on_a_realm
def force_password_change(where: Where, user: str) -> None:
    """Ask for a new password at the next login, beside whatever else is asked for then.

    \b
    Examples:
      usersync keycloak force-password-change test-user-one
    """
    from usersync_cli.targets.keycloak import accounts

    with opened(where, "force-password-change") as at:
        found = accounts.look_up(at.realm, user)
        new = accounts.force_password_change(at.realm, found)
    name = str(found["username"])
    if where.in_json:
        said = "the next login asks for a new password" if new else "the next login asked for a new password already"
        answer("force-password-change", said, username=name)
    else:
        click.echo(f"{name}: {'has' if new else 'had already'} to choose a new password at the next login")


@keycloak.command(
    epilog="""\b
Exit status: 0 healthy, 2 usage or config, 4 Keycloak cannot be reached."""
)
@on_a_realm
def health(where: Where) -> None:
    """Log in to Keycloak, read the realm, and look at the rights; for probes. `usersync check` looks at roles and groups too.

    \b
    Examples:
      usersync keycloak health
      usersync keycloak health --output json
    """
    with opened(where, "health") as at:
        realm = str(at.realm.about()["realm"])
        at.realm.refuse_blindness()
        if lacks := at.realm.lacking("manage-users", "view-realm"):
            raise lacks
    if where.in_json:
        write_json("keycloak-health", {"status": "healthy", "service": "usersync", "keycloak_connected": True, "realm": realm})
    else:
        click.echo(f"{at.realm.name}: healthy, realm {realm}")
