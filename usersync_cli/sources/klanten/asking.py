"""What a Klanten is asked: whose ids are, then once all ids of each customer that was found. An outage is never read as "unknown"."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING
from uuid import UUID

from usersync_cli import log
from usersync_cli.clients.klanten.answers import Customer, LookedUp
from usersync_cli.clients.klanten.answers import Mapping as Listed
from usersync_cli.errors import ConfigError, Drift, Unavailable

if TYPE_CHECKING:
    from usersync_cli.clients.klanten.api import Klanten, Question

KEPT = 3  # ids that Klanten has, of as many customers, which the next run knows
IN_DOUBT = 2000  # answers 500 without one that says more, and it is given up


class Asking:
    """One reading. `held`: the customer of each id that was found, by app, until it is taken from there.

    A Klanten that answers 500 to unknown ids can't be told from one that is out of order but by asking for an id that it has. While
    such an id answers, those that got a 500 are asked for once more: an outage may have come and gone in between.
    """

    def __init__(self, klanten: Klanten, workers: int, apps: Iterable[str], had: Iterable[tuple[str, str]]) -> None:
        self._klanten, self._workers = klanten, workers
        self.held: dict[str, dict[str, Customer]] = {app: {} for app in apps}
        self.refused: set[tuple[str, str]] = set()  # ids that it does not take
        self.asked = 0  # ids, whatever the number of requests for one
        self.in_doubt: list[tuple[str, str]] = []  # ids that got a 500 while no other answer says what that means
        self._had = list(dict.fromkeys(had))  # ids that Klanten had before this reading
        self._found: deque[tuple[str, str]] = deque(maxlen=KEPT)
        self._customers: dict[UUID, Customer] = {}
        self._unlisted: list[UUID] = []  # customers whose ids could not be had
        self._told = False  # that there are such
        self._only_pages = True  # each unknown id got a 404 without JSON

    @property
    def known(self) -> Sequence[tuple[str, str]]:
        """A few ids that Klanten has, the newest last."""
        return list(dict.fromkeys([*self._had, *self._found]))[-KEPT:]

    def ask(self, app: str, ids: Iterable[str]) -> None:
        """Ask for ids of an app: what is found is in `held`. Raises Unavailable, Drift, ConfigError.

        While there are ids `in_doubt`, nothing was found, and nothing can be said of them; they are asked for again with the next ones.
        """
        self.in_doubt += self._round([(app, id_) for id_ in ids])
        if self.in_doubt or self._unlisted:
            self._settle()
        if len(self.in_doubt) > IN_DOUBT:
            self._give_up()

    def finish(self) -> None:
        """Judge a reading at its end. Raises Unavailable where all may be an outage, ConfigError or Drift where nothing at all was
        found and this is hardly the right Klanten."""
        if self.in_doubt:
            self._give_up()
        if self._found or not self.asked:
            return
        if self._had and not any(self._klanten.has(*one) for one in self._had):
            ids = "the id" if len(self._had) == 1 else f"any of {len(self._had)} ids"
            raise Drift(
                f"{self._klanten.name} does not know {ids} that it had before or that `known` names, nor any other of {self.asked:,}",
                hint="is url right, and `known`? was it restored from a backup? `usersync run --full` forgets what it had before",
            )
        if len(self.refused) == self.asked:
            raise Drift(
                f"{self._klanten.name} refused each id that it was asked for ({self.asked:,})", hint="did its API change? is url right?"
            )
        if self._only_pages and not self._had:
            asked = "the look-up" if self.asked == 1 else f"all {self.asked:,} look-ups"
            raise ConfigError(
                f"{self._klanten.name} answered 404 to {asked}, without a word of its own: it may have no such path",
                hint="fix url in the source's settings: it is the address before /v1. If it is right, Klanten has none of these ids,"
                " and there is nothing to import",
            )
        log.get().warning("Klanten has none of the ids that it was asked for; are the names of its apps right?", asked=self.asked)

    # questions

    def _round(self, ids: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Ask for these, and once for all ids of each customer that is found; what is held by then is not asked for.

        Gives those that got a 500.
        """
        questions, doubtful = _Questions(ids, self.held, self._unlisted), []
        self._unlisted = []
        with closing(self._klanten.each(questions, self._workers)) as answers:
            for question, answer in answers:
                if isinstance(question, UUID):
                    self._list(question, None if isinstance(answer, LookedUp) else answer)
                elif isinstance(answer, LookedUp):
                    self.asked += 1
                    self._note(question, answer, questions)
                    doubtful += [question] if answer.doubtful else []
        return doubtful

    def _note(self, question: tuple[str, str], answer: LookedUp, questions: _Questions) -> None:
        app, id_ = question
        self._only_pages = self._only_pages and answer.page
        if answer.refused:
            self.refused.add(question)
        if (found := answer.customer) is None:
            return
        self.held[app][id_] = found
        if found.uuid not in self._customers:
            self._customers[found.uuid] = found
            self._found.append(question)
            questions.customers.append(found.uuid)

    def _list(self, uuid: UUID, listed: Sequence[Listed] | None) -> None:
        """Hold all ids of a customer. Raises Drift where they are another one's: of a Klanten that did not read whose it was asked for."""
        customer = self._customers[uuid]
        if listed is None:
            self._unlisted.append(uuid)
            return
        for one in listed:
            if one.domain is not None and one.domain.casefold() != customer.domain.casefold():
                raise Drift(
                    f"{self._klanten.name} was asked for the mappings of one customer, and gave those of another",
                    hint="does something before it drop the query and the body of GET /v1/mappings/? nothing of this page was taken over",
                )
            if one.app in self.held:
                self.held[one.app].setdefault(one.id, customer)

    # what a 500 means

    def _settle(self) -> None:
        """Find out what a 500 meant, if anything that Klanten has is known; then those ids are unknown that get another one."""
        if not self._answers():
            return
        again, self.in_doubt = self.in_doubt, []
        asked = self.asked
        if self._round(again) and not self._answers():
            raise self._out_of_order(len(again))
        self.asked = asked
        if self._unlisted and not self._told:
            log.get().warning("Klanten does not list the ids of customers that it has; each id is asked for")
        self._told, self._unlisted = self._told or bool(self._unlisted), []

    def _answers(self) -> bool:
        """Whether an id that Klanten has is answered. What was found a moment ago is waited for; raises Unavailable in the end."""
        if self._found:
            self._klanten.has(*self._found[-1])
            return True
        return any(not self._klanten.look_up(*one).doubtful for one in reversed(self._had))

    def _give_up(self) -> None:
        """Wait for Klanten, if it has had an id. Raises Unavailable where it does not answer, or where nobody could tell."""
        if self._had:
            try:
                self._klanten.has(*self._had[-1])
            except Unavailable as error:
                lost = "if it stays so, has Klanten lost what it had? `usersync run --full` forgets that, and so does another `known`"
                raise error.retold(f"{error.message}, also to an id that it had", hint=f"{error.hint}; {lost}") from error
            self._settle()
        if self.in_doubt:
            raise self._out_of_order(len(self.in_doubt))

    def _out_of_order(self, number: int) -> Unavailable:
        ids = "the id" if number == 1 else f"all of {number:,} ids"
        return Unavailable(
            f"{self._klanten.name} answered 500 to {ids}: it is out of order, or has none of them, and no id that it has is known",
            hint="nothing was lost; the next run tries again. If it stays so: are the names of its apps right? Then name an id that it"
            " has as `known` in the source's settings",
        )


class _Questions(Iterator["Question"]):
    """Customers first, then ids that are not held; goes on after its end when there are customers again (`Klanten.each`)."""

    def __init__(self, ids: Iterable[tuple[str, str]], held: Mapping[str, Mapping[str, Customer]], customers: Iterable[UUID]) -> None:
        self.customers = deque(customers)
        self._ids, self._held = iter(ids), held

    def __next__(self) -> Question:
        if self.customers:
            return self.customers.popleft()
        return next((app, id_) for app, id_ in self._ids if id_ not in self._held[app])
