"""The target `klanten`: ids of customers, made where Klanten lacks them.

Each id is looked up, unless we remember that it is there as it is wanted; what differs is found in SQL, and committed as one intent
an id before the first is made. Nothing is changed or removed there: an id that is somebody else's is a conflict for a person.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from psycopg import sql

from usersync_cli.clients.klanten.api import Klanten
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import Drift, UsersyncError
from usersync_cli.model import Change, Counts, Desired
from usersync_cli.ports import LeavesOut, OutboundTarget, Tools
from usersync_cli.state import dispatch, ledger, outbox
from usersync_cli.state.outbox import StepContext
from usersync_cli.targets.klanten import check, plan
from usersync_cli.targets.klanten.calls import MappingCalls
from usersync_cli.targets.klanten.lookups import LookUps
from usersync_cli.targets.klanten.plan import COLUMNS, MappingPlan
from usersync_cli.targets.klanten.settings import Settings, place


@contextmanager
def opened(name: str, settings: Settings, context: StepContext, tools: Tools) -> Iterator[Target]:
    """The target for one step; nothing is contacted before it plans."""
    ca = Path(settings.ca) if settings.ca else None
    with Klanten(settings.url, settings.api_key, name=f"target {name}", stop=tools.stop, ca=ca) as klanten:
        yield Target(name, settings, klanten, context)


class Target(LeavesOut, OutboundTarget[MappingPlan]):
    """The ids of one step, in one run. `klanten` is open for as long as this is used."""

    def __init__(self, name: str, settings: Settings, klanten: Klanten, context: StepContext) -> None:
        self._name, self._settings, self._klanten, self._context = name, settings, klanten, context
        self._left_out = 0

    @property
    def left_out(self) -> Mapping[str, int]:
        return {"of other apps": self._left_out} if self._left_out else {}

    def plan(self, desired: Desired, tx: Connection) -> MappingPlan:
        """Look up what is not remembered, compare, write the calls to the outbox. Raises Drift for columns that no mapping has."""
        self._refuse_columns(desired, tx)
        context, scope = self._context, replace(self._context.scope, target=place(self._settings))
        there = ledger.current(tx) == ledger.VERSION  # a preview may come before the first run
        outbox.recall(tx, scope, context.living, there=there)
        staged = plan.stage(tx, desired.transform, self._settings.apps, context.order_by, afresh=context.afresh)
        read, distinct, self._left_out = staged
        if there and not context.again:
            plan.recall_refused(tx, scope)
        LookUps(self._klanten, self._settings.workers, tx, context).ask()
        plan.compare(tx, mapped=there)
        counts = plan.count(tx, read, distinct)
        context.keep(plan.write_down, tx, scope)
        return MappingPlan(self._name, counts, scope)

    def changes(self, step: str, tx: Connection) -> Generator[Change, None, None]:
        for kind, key, after, reason in plan.changes(tx):
            yield Change(step, kind, {"id": key}, {}, after, reason)

    def apply(self, plan: MappingPlan, tx: Connection) -> Counts:
        """Make the mappings, a few at a time; each outcome is committed after its call.

        What Klanten refuses is set aside, what it does not answer is left to the next run; then Unavailable is raised at the end.
        """
        calls = MappingCalls(self._klanten, plan, tx, self._context)
        waiting = outbox.open_ones(tx, plan.scope, "staying")
        dispatch.run(calls, waiting, workers=self._settings.workers, stop=self._context.stop, check=self._context.check)
        calls.complain()
        return plan.counts

    def look(self, tx: Connection) -> Iterator[tuple[str, UsersyncError | None]]:
        return check.look(self._name, self._settings, self._klanten, tx)

    def _refuse_columns(self, desired: Desired, tx: Connection) -> None:
        with tx.cursor() as cursor:
            cursor.execute(sql.SQL("SELECT * FROM ({}) AS q LIMIT 0").format(desired.transform))
            given = [column.name for column in cursor.description or ()]
        # The view customer_ids has our uuid too; Klanten has its own.
        odd = [name for name in given if name not in {*COLUMNS, "uuid"} and not name.startswith("_")]
        lacking = [name for name in COLUMNS if name not in given]
        if odd or lacking:
            said = f"lack a column {lacking[0]}" if lacking else f"have a column {odd[0]}, which no mapping of Klanten has"
            raise Drift(f"target {self._name}: its rows {said}", hint="its columns: app, id, domain, as in the view usersync.customer_ids")
