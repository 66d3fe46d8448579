"""A person created at the source, once, and then put into the copy.

First it is looked whether they are there. The intent is committed before the request; no reply is looked up, never sent again blindly; an
intent without outcome is looked up by the next call. Afterwards it is looked whether they are the only one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg

from usersync_cli.clients.postgres.connections import Connection, connect
from usersync_cli.errors import Busy, ConfigError, Conflict, Drift, PartialError, Stopped, Unanswered, Unavailable, UsersyncError
from usersync_cli.model import FoundUser, Job, NewUser, Step
from usersync_cli.ports import CreatesUsers, Session, TellsWhoIsGone
from usersync_cli.run.context import Options, RunContext, read_of, refuse_other_account
from usersync_cli.run.documents.put import put
from usersync_cli.state import creations, ledger, outbox
from usersync_cli.state.creations import Claim, Other
from usersync_cli.state.outbox import StepScope

WAIT_SECONDS = 60.0  # for another process that creates the same person
LEASE_SECONDS = 30.0  # for a run that holds the job, before the copy is left to it


@dataclass(frozen=True)
class Copied:
    """What the copy knows: each gives ids of people."""

    by_email: Callable[[Connection, str], Sequence[str]]  # who have this address, in any case
    some: Callable[[Connection], Sequence[str]]  # a few that are not deleted
    has: Callable[[Connection, str], bool]  # whether it has this id
    since: Callable[[Connection], datetime | None]  # as of when it is whole; None: it never was


@dataclass(frozen=True)
class Where:
    """The job, step, source and stream whose copy is meant."""

    job: Job
    step: Step
    source: str
    stream: str


@dataclass
class Outcome:
    """What became of it. `error` is what a person has to hear although, or because, nothing more was done."""

    kind: Literal["created", "exists", "conflict", "would_create"]
    people: Sequence[FoundUser] = field(default=(), repr=False)  # the one; in a conflict all of them
    request: Mapping[str, Any] = field(default_factory=dict, repr=False)
    copied: bool = False  # the copy has them
    error: UsersyncError | None = None


def create(where: Where, context: RunContext, new: NewUser, copied: Copied, *, dry_run: bool = False) -> Outcome:
    """Create the person unless they exist. Raises whatever kept that from being found out; then nothing was created, or it says so."""
    with context.sources[where.source].open(context.tools) as session:
        if not isinstance(session, CreatesUsers):
            raise ConfigError(f"source {where.source} can't create people")
        request = session.user_body(new)
        connection = connect(context.target, job=where.job.name, stop=context.tools.stop, read_write=not dry_run)
        with closing(connection), ledger.permitted(connection, context.target, "creating a person"):
            if not dry_run:
                ledger.ready(connection, context.target, where.job.name)
            _refuse_other_source(where, session, connection, copied)
            creation = _Creation(where, context, session, connection, new, copied)
            if dry_run:
                return creation.looked() or Outcome("would_create", request=request)
            outbox.prune(connection, where.job.name)
            outcome = creation.make()
    if outcome.kind != "conflict" or outcome.copied:
        creation.copy(outcome)
    outcome.request = request
    return outcome


def _refuse_other_source(where: Where, session: Session, connection: Connection, copied: Copied) -> None:
    """Raises Drift where the source is not the one that the copy is of."""
    read = read_of(where.source, where.job.steps)
    stored = [one for one in ledger.all_cursors(connection, where.job.name) if (one.step, one.stream) in read]
    refuse_other_account(where.source, session.account, stored, Options())
    some = list(copied.some(connection))
    if some and isinstance(session, TellsWhoIsGone) and {*some} == {*session.gone(where.stream, some)}:
        raise Drift(
            f"source {where.source} knows none of {len(some)} {where.stream} that the copy has; nobody was created",
            hint=f"are its credentials those of another environment? if these were all deleted there: usersync run --job {where.job.name}",
        )


class _Creation:
    """One person on their way."""

    def __init__(  # noqa: PLR0913, PLR0917  what it works with
        self, where: Where, context: RunContext, session: CreatesUsers, connection: Connection, new: NewUser, copied: Copied
    ) -> None:
        self._where, self._context, self._session, self._connection = where, context, session, connection
        self._new, self._copied = new, copied
        self._in_copy: set[str] = set()
        account = session.account if isinstance(session, Session) else ""
        self._scope = StepScope(where.job.name, where.step.name, 0, account, where.stream)

    def looked(self) -> Outcome | None:
        """What there is already to be told; None where nobody is there."""
        known = self._copied.by_email(self._connection, self._new.email)
        outcome = judged(self._new, self._session.users_like(self._new, known, self._copied.since(self._connection)))
        self._in_copy = {one.id for one in outcome.people if self._copied.has(self._connection, one.id)} if outcome else set()
        return outcome

    def make(self) -> Outcome:
        """Under an intent of ours: look, create, look again."""
        claim = self._claimed()
        try:
            outcome = self.looked()
        except BaseException:
            self._leave(claim)
            raise
        if outcome is None:
            return self._only_one(self._sent(claim))
        if claim.begun:
            self._settle(claim, outcome)
        else:
            self._leave(claim)
        return outcome

    def _settle(self, claim: Claim, outcome: Outcome) -> None:
        """What an earlier process, or a request without a reply, came to."""
        if outcome.kind == "conflict":
            creations.refused(self._connection, claim, "conflict")
        else:
            creations.done(self._connection, claim, outcome.people[0].id)

    def _claimed(self) -> Claim:
        """The intent, once nobody else is about to create the same person."""
        new, until = self._new, time.monotonic() + WAIT_SECONDS
        wanted = {**self._session.user_body(new)}
        while True:
            found = creations.claim(self._connection, self._scope, new.email.lower(), wanted, uuid.uuid4().hex)
            if isinstance(found, Claim):
                return found
            self._wait(found, until)

    def _wait(self, other: Other, until: float) -> None:
        if time.monotonic() > until:
            raise Busy(f"another process is about to create the same person: {other.owner}", hint="nothing was sent; run it again later")
        self._context.tools.stop.sleep(0.2)

    def _leave(self, claim: Claim) -> None:
        """We have sent nothing; an earlier process may have."""
        if claim.begun:
            creations.let_go(self._connection, claim)
        else:
            creations.withdraw(self._connection, claim)

    def _sent(self, claim: Claim) -> Outcome:
        """The request and its outcome, which a signal waits for."""
        with self._context.tools.stop.held():
            try:
                found = self._session.create_user(self._new, claim.attempt)
            except Unanswered as error:
                return self._unanswered(claim, error)
            except Unavailable:
                self._leave(claim)
                raise
            except (ConfigError, Conflict) as error:
                return self._refused(claim, error)
            except BaseException:
                creations.let_go(self._connection, claim)
                raise
            self._note(claim, found.id)
            return Outcome("created", [found])

    def _note(self, claim: Claim, id_: str) -> None:
        """Write down that the person exists, with another connection if ours was lost meanwhile.

        Where that fails, the id is still to be told: the intent stays open, and the next call ends it.
        """
        with suppress(psycopg.Error, UsersyncError):
            creations.done(self._connection, claim, id_)
            return
        target = self._context.target
        with suppress(psycopg.Error, UsersyncError), closing(connect(target, job=self._where.job.name, read_write=True)) as again:
            creations.done(again, claim, id_)

    def _unanswered(self, claim: Claim, error: Unanswered) -> Outcome:
        """It may have been done: look. Raises Unavailable where that can't be found out, and where nobody is there so far."""
        try:
            outcome = self.looked()
        except UsersyncError as other:
            creations.let_go(self._connection, claim)
            what = f"{error.message}; whether the person exists now could not be looked up: {other.message}"
            raise Unavailable(what, hint=_AGAIN) from other
        if outcome is None:
            creations.let_go(self._connection, claim)
            raise Unavailable(f"{error.message}; nobody with that address or external id is there so far", hint=_AGAIN)
        self._settle(claim, outcome)
        if outcome.kind == "exists":
            outcome.kind = "created"
        return outcome

    def _refused(self, claim: Claim, error: ConfigError | Conflict) -> Outcome:
        """Somebody else may have been quicker. Otherwise raises what the source said."""
        creations.refused(self._connection, claim, type(error).__name__.lower())
        try:
            outcome = self.looked()
        except UsersyncError:
            raise error from None
        if outcome is None:
            raise error
        return outcome

    def _only_one(self, outcome: Outcome) -> Outcome:
        """Look whether nobody else was created at the same time, by others than us."""
        if outcome.kind != "created":
            return outcome
        (mine,) = outcome.people
        try:
            found = self._session.users_like(self._new, [mine.id], _created(mine))
        except UsersyncError as error:
            why = f"whether somebody else was created at the same time could not be looked up: {error.message}"
            outcome.error = _partly(error, why, "the person was created; run it again to look")
            return outcome
        if others := [one for one in found if one.id != mine.id]:
            both = sorted([mine, *others], key=lambda one: one.id)
            conflict = Conflict(
                f"{mine.id} was created, and there is more than one now: {', '.join(one.id for one in both)}",
                hint="somebody else created this person at the same time; keep one of them and delete the others at the source",
            )
            return Outcome("conflict", both, copied=True, error=conflict)
        return outcome

    # the copy

    def copy(self, outcome: Outcome) -> None:
        """Put whoever the copy lacks into it; what keeps that from being done is in `outcome.error`."""
        lacking = [one for one in outcome.people if one.id not in self._in_copy]
        try:
            for one in lacking:
                self._put(one)
        except UsersyncError as error:
            outcome.copied = False
            what = f"{lacking[0].id} exists at the source, and is not in the copy yet: {error.message}"
            hint = f"the next run brings it: usersync run --job {self._where.job.name}"
            outcome.error = outcome.error or _partly(error, what, hint)
            return
        outcome.copied = True

    def _put(self, one: FoundUser) -> None:
        until = time.monotonic() + LEASE_SECONDS
        while True:
            try:
                return put(self._where.job, self._where.step, self._context, one.record)
            except Busy:
                if time.monotonic() > until:
                    raise
                self._context.tools.stop.sleep(0.5)


_AGAIN = "run the same command again: it looks first, and creates only whom it does not find"


def judged(new: NewUser, found: Sequence[FoundUser]) -> Outcome | None:
    """What it means that these people are there: the same person, or others who have the external id or the address. None: nobody is."""
    if not found:
        return None
    same = [one for one in found if one.email.lower() == new.email.lower()]
    strangers = [one for one in found if one not in same]
    if strangers:
        return _conflict(strangers, f"the external id is that of another person: {_ids(strangers)}")
    if len(same) > 1:
        return _conflict(same, f"several people have that e-mail address: {_ids(same)}")
    (one,) = same
    if new.external_id and one.external_id not in {None, new.external_id}:
        return _conflict(same, f"the person with that e-mail address has another external id: {one.id}")
    return Outcome("exists", same)


def _conflict(people: Sequence[FoundUser], why: str) -> Outcome:
    return Outcome("conflict", people, error=Conflict(f"nobody was created: {why}", hint="`usersync users show ID` shows who that is"))


def _partly(error: UsersyncError, what: str, hint: str) -> UsersyncError:
    """The person exists, and the rest was left out: because of a signal, which keeps its own status, or of anything else."""
    return error.retold(what, hint=hint) if isinstance(error, Stopped) else PartialError(what, hint=hint)


def _created(one: FoundUser) -> datetime | None:
    """When they were created, by the source's clock; None where it does not say."""
    try:
        found = datetime.fromisoformat(one.record.version or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _ids(people: Sequence[FoundUser]) -> str:
    return ", ".join(one.id for one in people)
