"""The target `keycloak`: the people of a realm, as accounts that are made, kept equal and disabled, never deleted.

The realm is read once into tables of the transaction; what differs is found in SQL, as one row of calls a person; they are
committed before the first call is made. Only roles and groups that the maps name are given or taken, and only what we gave
is taken. An account of somebody else is touched by rule alone (`adopt`); what no rule decides is a conflict for a person.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import sql

from usersync_cli.clients.postgres.arrays import texts
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import Drift, UsersyncError
from usersync_cli.model import Change, Counts, Desired
from usersync_cli.ports import DisablesAccounts, Tools
from usersync_cli.state import dispatch, ledger, outbox
from usersync_cli.state.outbox import StepContext, StepScope
from usersync_cli.targets.keycloak import check, rules
from usersync_cli.targets.keycloak.logins import IMPOSSIBLE, IMPOSSIBLE_HINT, is_possible, no_account
from usersync_cli.targets.keycloak.plan import deletes, differences, inventory, known, link, people, summary
from usersync_cli.targets.keycloak.plan.summary import AccountPlan
from usersync_cli.targets.keycloak.rules import ATTRIBUTE, UNDECLARED, Rules, attribute_problem
from usersync_cli.targets.keycloak.settings import Settings, group_path

if TYPE_CHECKING:
    from usersync_cli.signals import Stop
    from usersync_cli.targets.keycloak.realm import Realm


def realm(name: str, settings: Settings, stop: Stop, deadline: timedelta = timedelta(seconds=60)) -> Realm:
    """Open the realm, to be closed by the caller. A token is asked for with the first call; `deadline` holds for each request."""
    from usersync_cli.targets.keycloak.realm import Realm

    ca, own = Path(settings.ca) if settings.ca else None, (settings.client_id, settings.client_secret)
    return Realm(settings.url, settings.realm, *own, stop=stop, ca=ca, name=f"target {name}", deadline=deadline)


@contextmanager
def opened(name: str, settings: Settings, context: StepContext, tools: Tools) -> Iterator[Target]:
    """The target for one step; nothing is contacted before it plans."""
    with realm(name, settings, tools.stop) as opened_:
        yield Target(name, settings, opened_, context)


class Target(DisablesAccounts[AccountPlan]):
    """The accounts of one step, in one run. `realm` is open for as long as this is used."""

    def __init__(self, name: str, settings: Settings, realm: Realm, context: StepContext) -> None:
        self.name, self.settings, self.realm, self.context = name, settings, realm, context

    # plan

    def plan(self, desired: Desired, tx: Connection) -> AccountPlan:
        """Stage people and accounts, compare them, write the calls to the outbox.

        The transaction then has the temp tables of `plan`: people, conflicts, planned, leaving. Raises Drift for
        columns that no account has, for roles and groups that the realm lacks, and where our attribute would be dropped.
        """
        read, distinct = people.stage_people(tx, desired.transform, self._columns(desired, tx), self.context.order_by)
        found = rules.read(self.name, self.settings, self.realm)
        scope = replace(self.context.scope, target=f"realm {found.id}")
        there = ledger.current(tx) == ledger.VERSION
        outbox.recall(tx, scope, self.context.living, there=there)
        inventory.read(tx, self.realm, self.settings, found)
        self._want(tx)
        lacking = self._lacking(tx, found)
        self._compare(tx, found, scope, there=there)
        obstacle, held = self._obstacle(found), 0
        if obstacle:
            held = differences.hold_back(tx)
        counts = summary.count(tx, read - held, distinct - held)  # before calls are planned again that an earlier run did not end
        self.context.keep(_write_down, tx, scope)
        return AccountPlan(
            self.name,
            counts,
            scope,
            found.roles,
            found.groups,
            *lacking,
            found.passwords if self.context.credentials else None,
            [no_account(self.name, held, *obstacle)] if obstacle and held else [],
        )

    def _compare(self, tx: Connection, found: Rules, scope: StepScope, *, there: bool) -> None:
        """Find whose account is whose, what differs, and who left; `there`: whether earlier runs may have written something down."""
        own = self.settings
        if there and not self.context.again:
            known.recall_refused(tx, vars(scope))
        link.link(tx, adopt=own.adopt, notify=own.notify == "email", realm=found)
        if there:
            known.remember(tx, vars(scope))
        differences.differ(tx, self._values(found))
        deletes.find(tx)

    def _obstacle(self, found: Rules) -> tuple[str, str] | None:
        """What keeps every new account from being one that its person can log in to, and what to do."""
        if self.context.credentials and not is_possible(found.passwords):
            return IMPOSSIBLE, IMPOSSIBLE_HINT
        return found.mail_problem

    def _columns(self, desired: Desired, tx: Connection) -> Sequence[str]:
        """The columns of the transform. Raises Drift when they are not those of an account."""
        with tx.cursor() as cursor:
            cursor.execute(sql.SQL("SELECT * FROM ({}) AS q LIMIT 0").format(desired.transform))
            given = [column.name for column in cursor.description or ()]
        odd = [name for name in given if name not in people.COLUMNS and not name.startswith("_")]
        lacking = [name for name in ("id", "username") if name not in given]
        if odd or lacking:
            said = f"has no column {lacking[0]}" if lacking else f"has a column {odd[0]}, which no account of Keycloak has"
            raise Drift(f"target {self.name}: the transform {said}", hint=f"its columns: {', '.join(people.COLUMNS)}; others begin with _")
        return given

    def _want(self, tx: Connection) -> None:
        own = self.settings
        maps = {"names": texts(name.lower() for name in own.roles), "roles": texts(own.roles.values()), "default": own.default_role}
        maps |= {"of": texts(own.groups), "paths": texts(group_path(group) for group in own.groups.values())}
        people.want(tx, maps)

    def _values(self, found: Rules) -> dict[str, Any]:
        own = self.settings
        return {
            "editable": found.editable_usernames,
            "duplicates": found.duplicate_emails,
            "by_email": found.email_as_username,
            "login_with_email": found.login_with_email,
            "fields": list(found.fields),
            "longest": found.username_length[1],
            "extra": own.extra_roles,
            "verified": own.email_verified,
            "actions": own.required_actions,
            "attribute": ATTRIBUTE,
            "notify": own.notify == "email",
        }

    def _lacking(self, tx: Connection, found: Rules) -> tuple[Sequence[str], Sequence[str]]:
        """The roles and groups that somebody needs and the realm does not have. Raises Drift unless they may be made."""
        needed = people.needed(tx)
        roles = [name for kind, name in needed if kind == "role" and name not in found.roles]
        groups = [name for kind, name in needed if kind == "group" and name not in found.groups]
        if (roles or groups) and not self.settings.create_missing:
            parts = [f"role {name}" for name in roles] + [f"group {name}" for name in groups]
            raise Drift(
                f"target {self.name}: the realm {self.settings.realm} lacks {', '.join(parts)}, which people are to have",
                hint="nothing was written; make them there, fix the maps under `roles` and `groups`, or say `create_missing: true`",
            )
        return roles, groups

    def look(self, _tx: Connection) -> Iterator[tuple[str, UsersyncError | None]]:
        return check.look(self.name, self.settings, self.realm)

    def kept_out(self, tx: Connection, reasons: Mapping[str, str]) -> int:
        return deletes.kept_out(tx, reasons)

    def leaving(self, tx: Connection, *, known: bool) -> tuple[int, int]:
        return deletes.leaving(tx, known=known)

    def disable(self, tx: Connection, plan: AccountPlan, *, known: bool) -> None:
        deletes.disable(tx, known=known)
        self.context.keep(_write_down_disabled, tx, plan.scope)

    def changes(self, step: str, tx: Connection) -> Generator[Change, None, None]:
        for action, key, before, after, reason in summary.changes(tx):
            told = {"conflict": reason, "adopt": "came back" if reason == "came_back" else f"adopted {reason}"}.get(action) or ""
            yield Change(step, _KINDS.get(action, "update"), {"id": key}, before, after, told)

    # apply

    def apply(self, plan: AccountPlan, tx: Connection) -> Counts:
        """Make the calls that stand open, a few people at a time; each outcome is committed after its call.

        What the realm refuses is set aside, what it does not answer is left to the next run; then Unavailable is raised at the end.
        """
        from usersync_cli.targets.keycloak.calls import AccountCalls, ParkingCalls

        with AccountCalls(self.realm, self.settings, plan, tx, self.context) as calls:
            self._prepare(plan)
            self._calls(calls, plan, tx, "leaving")
            self._calls(ParkingCalls(calls), plan, tx, "parked")
            self._calls(calls, plan, tx, "parked")  # one who is refused has the old name again before another one takes it
            self._calls(calls, plan, tx, "staying")
            calls.complain()
        return plan.counts

    def _calls(self, caller: dispatch.Caller, plan: AccountPlan, tx: Connection, which: outbox.Which) -> None:
        waiting = outbox.open_ones(tx, plan.scope, which)
        dispatch.run(caller, waiting, workers=self.settings.workers, stop=self.context.stop, check=self.context.check)

    def _prepare(self, plan: AccountPlan) -> None:
        """Make what the realm lacks, before the first person's calls. Raises ConfigError without the right to do so."""
        if not self.settings.create_missing:
            return
        if attribute_problem(self.realm.profile()) is UNDECLARED:
            self.realm.declare(ATTRIBUTE)
        for name in plan.lacking_roles:
            self.realm.create_role(name)
        for path in plan.lacking_groups:
            self.realm.create_group(path)
        if plan.lacking_roles or plan.lacking_groups:
            plan.roles = {str(role["name"]): role for role in self.realm.roles()}
            plan.groups = self.realm.group_ids(self.settings.managed_groups)


def _write_down_disabled(tx: Connection, scope: StepScope) -> None:
    """Write down the calls that disable accounts, and that we disable them."""
    deletes.note_disabled(tx, vars(scope))
    outbox.write(tx, scope)


def _write_down(tx: Connection, scope: StepScope) -> None:
    """Write down whose account is whose, and the calls of this run."""
    known.note_accounts(tx, vars(scope))
    deletes.sign_out(tx, vars(scope))
    outbox.write(tx, scope)


_KINDS: dict[str, Any] = {"create": "insert", "disable": "disable", "conflict": "reject"}
