"""What Klanten says of the ids that are desired: asked once each, and never mistaken for unknown when Klanten is out of order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from usersync_cli import log
from usersync_cli.clients.klanten.answers import LookedUp
from usersync_cli.clients.klanten.api import Klanten, misfit
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import ConfigError, Drift, Unavailable
from usersync_cli.identity.domains import domain_of
from usersync_cli.state.outbox import StepContext
from usersync_cli.targets.klanten import plan
from usersync_cli.targets.klanten.plan import Wanted


def normal(domain: str) -> str | None:
    """A domain in our normal form; None for what is not a domain. Klanten takes whatever it is given, in any case."""
    with suppress(ConfigError):
        return domain_of(domain)
    return None


class LookUps:
    """The look-ups of one plan. Raises Unavailable when Klanten is out of order, Drift when it has lost what it had."""

    def __init__(self, klanten: Klanten, workers: int, tx: Connection, context: StepContext) -> None:
        self._klanten, self._workers, self._tx, self._context = klanten, workers, tx, context
        self._remembered = plan.known(tx)
        self._found: tuple[str, str] | None = None  # an id that it has: the last one that was found
        self._unknown = self._doubtful = 0

    def ask(self) -> None:
        """Ask for all that have to be asked for; what comes back is in `usersync_there`, and what can't be asked for in `usersync_odd`."""
        self._all()
        if plan.ask_siblings(self._tx):
            self._all()
        self._tx.execute("ANALYZE pg_temp.usersync_there")
        if self._unknown and not self._found and not self._context.afresh and self._remembered and not self._answers():
            raise self._lost()
        if self._doubtful and not self._found:
            log.get().warning(
                "Klanten answers 500 for ids that it does not have, and none that it has is known yet, so an outage would look the same",
                ids=self._doubtful,
            )

    def _all(self) -> None:
        for batch in plan.to_ask(self._tx):
            self._context.check()
            self._batch([one for one in batch if self._fits(one)])

    def _fits(self, one: Wanted) -> bool:
        """Whether it can be asked for; sets it aside if not."""
        why = misfit(one.id)
        found = ("id_does_not_fit", f"it can't be an id at Klanten: {why}") if why else None
        if not found and one.domain is None:
            found = ("no_domain", "its customer has no domain, and Klanten knows customers by their domains")
        if not found and normal(str(one.domain)) is None:
            found = ("not_a_domain", "its customer's domain is not one")
        if found:
            self._set_aside(one, *found)
        return not found

    def _set_aside(self, one: Wanted, reason: str, detail: str) -> None:
        self._tx.execute("INSERT INTO pg_temp.usersync_odd VALUES (%s, %s, %s)", (one.key, reason, detail))

    def _batch(self, batch: Sequence[Wanted]) -> None:
        answers = self._answered(batch)
        for one in (one for one, answer in zip(batch, answers, strict=True) if answer.refused):
            self._set_aside(one, "id_does_not_fit", "Klanten, or what is before it, does not take it as a part of a path")
        with self._tx.cursor().copy("COPY pg_temp.usersync_there (key, ours, uuid, domain, normal) FROM STDIN") as copy:
            for row in _rows(batch, answers):
                copy.write_row(row)
        self._doubtful += sum(answer.doubtful for answer in answers)
        self._unknown += sum(answer.customer is None and not answer.refused for answer in answers)

    def _answered(self, batch: Sequence[Wanted]) -> Sequence[LookedUp]:
        """The answers to these. A 500 is looked into: once an id that Klanten has is answered, those are unknown that get a second one."""
        answers = self._look_up(batch)
        doubtful = [number for number, answer in enumerate(answers) if answer.doubtful]
        if doubtful and self._answers():
            again = self._look_up([batch[number] for number in doubtful])
            for number, answer in zip(doubtful, again, strict=True):
                answers[number] = answer
            if any(answer.doubtful for answer in again):
                self._answers()
        return answers

    def _look_up(self, batch: Sequence[Wanted]) -> list[LookedUp]:
        answers = list(self._klanten.look_up_all(((one.app, one.id) for one in batch), self._workers))
        found = [(one.app, one.id) for one, answer in zip(batch, answers, strict=True) if answer.customer]
        self._found = found[-1] if found else self._found
        return answers

    def _answers(self) -> bool:
        """Whether Klanten has an id that it is known to have, or had. It is waited for; raises Unavailable in the end."""
        for app, id_ in [self._found] if self._found else self._remembered:
            try:
                if self._klanten.has(app, id_):
                    self._found = (app, id_)
                    return True
            except Unavailable as error:
                raise error.retold(f"{error.message}, also for an id that it has") from error
        return False

    def _lost(self) -> Drift:
        number = len(self._remembered)
        ids = "the id that usersync" if number == 1 else f"any of {number} ids that usersync"
        return Drift(
            f"{self._klanten.name} does not know {ids} made or found there",
            hint="is url right, or was it restored from a backup? `usersync run JOB --full` asks for all ids and makes what is lacking",
        )


def _rows(batch: Sequence[Wanted], answers: Sequence[LookedUp]) -> Iterator[tuple[str | None, ...]]:
    for one, answer in zip(batch, answers, strict=True):
        if answer.refused:
            continue
        there = answer.customer
        ours = normal(str(one.domain))
        yield (
            (one.key, ours, str(there.uuid), there.domain.replace("\0", ""), normal(there.domain))
            if there
            else (one.key, ours, None, None, None)
        )
