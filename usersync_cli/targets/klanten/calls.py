"""The calls that make one mapping at Klanten, and what is written down after each of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Lock
from uuid import UUID

from usersync_cli.clients.http.client import Refused, Unknown
from usersync_cli.clients.klanten.answers import Customer
from usersync_cli.clients.klanten.api import Klanten
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import ConfigError, PartialError, Unavailable, UsersyncError
from usersync_cli.state import outbox, rejects
from usersync_cli.state.dispatch import Calls
from usersync_cli.state.outbox import Intent, StepContext
from usersync_cli.state.rejects import Reject
from usersync_cli.targets.klanten import customers
from usersync_cli.targets.klanten.lookups import normal
from usersync_cli.targets.klanten.plan import REFUSED, SOMEBODY_ELSES, UUID_OF_ANOTHER, MappingPlan

IN_A_ROW = 3  # calls without an answer, and nothing else is tried; ids of an app that are refused, and no other of that app is sent
DISLIKED = (400, 409, 422)  # statuses that mean the domain that was sent
TRIES = 2  # of a request without an answer, once a look-up has shown that it was not carried out


class SetAside(PartialError):
    """An id waits for a person; others are not concerned."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class NoSuchApp(ConfigError):
    """Klanten seems not to know the app: its ids are left to the next run."""


class MappingCalls:
    """The calls that make each mapping. Counts what was refused, and what was left to the next run."""

    def __init__(self, klanten: Klanten, plan: MappingPlan, tx: Connection, context: StepContext) -> None:
        self._klanten, self._plan, self._tx, self._judge = klanten, plan, tx, context.judge
        self._customers = _Customers(klanten)
        self._unanswered = 0
        self._problem: UsersyncError | None = None
        self._taken: set[str] = set()  # apps
        self._refused: dict[str, list[tuple[Intent, SetAside]]] = {}  # by app, as long as none of its ids was taken

    def complain(self) -> None:
        """Set aside what was refused, report apps that Klanten seems not to know. Raises Unavailable where ids were not answered for."""
        for app, refused in list(self._refused.items()):
            if self._hopeless(app):
                self._plan.problems.append(
                    NoSuchApp(
                        f"{self._klanten.name} takes no id of app {app}: the first {len(refused)} were refused, and no other was sent",
                        hint="is it an app there? Klanten's administrator makes them; or fix `apps` of the target in the config file",
                    )
                )
            else:
                self._file(app)
        if self._problem:
            raise self._left(self._problem)

    @staticmethod
    def _left(problem: UsersyncError) -> Unavailable:
        told = f"{problem.message}; what was not made is left to the next run"
        return Unavailable(told, hint="nothing is sent twice: the next run looks everything up that was not answered for")

    def calls(self, intent: Intent) -> Calls:
        """The customer, unless it is known there; then the mapping."""
        wanted = intent.wanted
        if self._hopeless(wanted["app"]):
            raise NoSuchApp(f"{self._klanten.name} takes no id of app {wanted['app']}")
        if wanted["customer"]:
            customer = UUID(wanted["customer"])
        else:
            customer = (yield partial(self._customers.of, wanted["domain"])).uuid
            self._adopt(wanted["domain"], customer)
            outbox.did(self._tx, intent, "customer")
        there = yield partial(self._map, wanted["app"], wanted["id"], wanted["domain"], customer)
        outbox.created(self._tx, self._plan.scope, intent, str(there))
        outbox.finish(self._tx, self._plan.scope, intent)
        self._unanswered = 0
        self._taken.add(wanted["app"])
        self._file(wanted["app"])
        self._judge(1, {})

    def _adopt(self, domain: str, uuid: UUID) -> None:
        """Take Klanten's uuid into our map. Raises SetAside where it is another customer there."""
        try:
            customers.adopt(self._tx, self._plan.scope, domain, uuid)
        except customers.OfAnother as error:
            told = f"Klanten calls {domain} by {uuid}, which is another customer here (usersync whois {uuid}); are they one?"
            raise SetAside(UUID_OF_ANOTHER, f"{told} usersync customers merge") from error

    def _map(self, app: str, id_: str, domain: str, customer: UUID) -> UUID:
        """Map the id, and look it up before it is sent again; gives Klanten's uuid of the customer that has it then.

        On another thread. Raises SetAside where it is somebody else's, or refused; Unavailable without an answer.
        """
        for attempt in range(TRIES):
            refused = unanswered = None
            try:
                if self._klanten.map(app, id_, customer):
                    return customer
                refused = True
            except Unknown as error:
                unanswered = error
            there = self._klanten.look_up(app, id_)
            if there.customer:
                return _same(there.customer, domain, customer)
            if refused:
                raise SetAside(REFUSED, f"Klanten refuses it, and has no mapping of it. Is {app} an app there?")
            if unanswered and (there.doubtful or attempt == TRIES - 1):
                raise Unavailable(unanswered.message, hint=unanswered.hint) from unanswered
        raise AssertionError("each attempt has an outcome")

    # what went wrong

    def failed(self, intent: Intent, error: UsersyncError) -> None:
        """Set aside an id that waits for a person; leave to the next run one without an answer. Raises all else."""
        counts, app = self._plan.counts, intent.wanted["app"]
        counts.inserted -= 1
        if isinstance(error, SetAside) and (error.reason != REFUSED or app in self._taken):
            self._set_aside(intent, error)
            return
        counts.read -= 1
        if isinstance(error, SetAside):
            self._refused.setdefault(app, []).append((intent, error))
        elif isinstance(error, Unavailable):
            self._unanswered += 1
            self._problem = self._problem or error
            if self._unanswered >= IN_A_ROW:
                raise self._left(error) from error
        elif isinstance(error, Refused):
            raise error.retold(f"{error.message}, which Klanten's API has", hint="is url in the config file right?")
        elif not isinstance(error, NoSuchApp):
            raise error

    def _hopeless(self, app: str) -> bool:
        """Whether Klanten has refused the first ids of an app, and taken none: then no id of it is to blame."""
        return len(self._refused.get(app, ())) >= IN_A_ROW

    def _file(self, app: str) -> None:
        """Set aside the ids of an app that were refused before another one was taken."""
        for intent, error in self._refused.pop(app, ()):
            self._plan.counts.read += 1
            self._set_aside(intent, error)

    def _set_aside(self, intent: Intent, error: SetAside) -> None:
        scope = self._plan.scope
        self._plan.counts.rejected += 1
        outbox.end(self._tx, intent, "refused", error.reason)
        found = Reject(intent.key, error.reason, error.detail, str(intent.wanted["document"]).encode(), part=error.reason)
        rejects.store(self._tx, scope.job, scope.step, scope.stream, scope.run_id, [found])
        self._judge(1, {(error.reason, ""): 1})


def _same(there: Customer, domain: str, customer: UUID) -> UUID:
    """The uuid of the customer that has the id, if it is the wanted one. Raises SetAside if it is somebody else's."""
    if there.uuid == customer or normal(there.domain) == domain:
        return there.uuid
    raise SetAside(SOMEBODY_ELSES, f"Klanten has it for {there.domain} ({there.uuid}) since a moment ago, here it is {domain}")


class _Customers:
    """Customers that Klanten has given or made, each asked for once, whoever asks first. For several threads."""

    def __init__(self, klanten: Klanten) -> None:
        self._klanten, self._lock = klanten, Lock()
        self._each: dict[str, _Once] = {}

    def of(self, domain: str) -> Customer:
        """The customer of a domain. Sent again where there was no answer: whoever has been made then is the one who is given now."""
        with self._lock:
            once = self._each.setdefault(domain, _Once(partial(self._ask, domain)))
        return once()

    def _ask(self, domain: str) -> Customer:
        try:
            with suppress(Unknown):
                return self._klanten.customer(domain)
            return self._klanten.customer(domain)
        except Refused as error:
            if error.http_status in DISLIKED:
                raise SetAside(REFUSED, f"Klanten takes no customer with this domain: it answered {error.http_status}") from error
            raise


class _Once:
    """A call whose result is kept; one that fails is made again by the next who asks."""

    def __init__(self, call: Callable[[], Customer]) -> None:
        self._call, self._lock = call, Lock()
        self._found: Customer | None = None

    def __call__(self) -> Customer:
        with self._lock:
            if self._found is None:
                self._found = self._call()
            return self._found
