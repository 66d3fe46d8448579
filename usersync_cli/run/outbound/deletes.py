"""Accounts whose people have left the source: which of them are disabled, after proof and behind the guard.

The target puts its accounts that nobody is desired for into `pg_temp.usersync_leaving`; those that may go are left on GONE.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

from psycopg import sql

from usersync_cli import log
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar
from usersync_cli.errors import ConfigError
from usersync_cli.load.deletes import guard, proof
from usersync_cli.load.deletes.guard import Sweep
from usersync_cli.load.deletes.proof import DeleteVerdict
from usersync_cli.model import Step
from usersync_cli.ports import DisablesAccounts, OutboundPlan, TellsWhoIsGone
from usersync_cli.run.checkpoint import Checkpoint
from usersync_cli.run.context import Options, RunContext, reads
from usersync_cli.run.outbound.reader import WholeSource
from usersync_cli.state import readings
from usersync_cli.state.outbox import StepScope
from usersync_cli.state.readings import Memory, Scope


def not_remembered(stream: str) -> str:
    """What the guard calls accounts that carry our attribute and that the job does not remember: their list waits by itself."""
    return f"{stream} (not remembered)".strip()


class AccountDeletes:
    """Plans to disable accounts, for one step in one run: those that this job remembers, and those that only carry our attribute."""

    def __init__(  # noqa: PLR0913, PLR0917  what a step is made of
        self,
        step: Step,
        context: RunContext,
        options: Options,
        checkpoint: Checkpoint,
        tx: Connection,
        source: WholeSource,
        scope: StepScope,
    ) -> None:
        self._step, self._context, self._options, self._checkpoint = step, context, options, checkpoint
        self._tx, self._source, self._scope = tx, source, scope
        self.found: list[Sweep] = []
        self._unproved = 0

    def plan(self, target: DisablesAccounts[Any], plan: OutboundPlan, *, known: bool) -> None:
        """Plan to disable our accounts of people whom a complete reading lacks, when that is proven and the guard agrees.

        Accounts that carry our attribute and that this job does not know are made by an earlier state of it, or by a person:
        these never go without approval.
        """
        candidates, of = target.leaving(self._tx, known=known)
        memory_scope = self._memory(plan, known=known)
        if not known and not candidates:
            self._withdraw(memory_scope)
            return
        memory = readings.remember(self._tx, memory_scope)
        found = Sweep(memory_scope, self._step.load, memory, plan.counts.distinct, candidates=candidates, looked=True)
        self.found.append(found)
        if candidates:
            self._judge(found, of, known=known)
        else:
            self._gone((), known=known)
        self._decide(found)
        target.disable(self._tx, plan, known=known)
        plan.counts.gone += found.removable

    def _judge(self, found: Sweep, of: int, *, known: bool) -> None:
        """Find the candidates that are gone for sure, and why they may not go without a person."""
        if known:
            keys = sql.SQL("SELECT key FROM pg_temp.usersync_leaving WHERE known")
            found.free = scalar(self._tx, _DECIDED.encode())
            found.reason = guard.judge(found, of) or guard.kept(self._tx, found, keys) or self._anonymous()
        asked = not found.reason or self._options.approve_deletes is not None or self._options.everybody
        self._gone(self._proved(known=known) if asked else None, known=known)
        self._tx.execute(_FREE)
        found.candidates = scalar(self._tx, "SELECT count(*) FROM pg_temp.usersync_gone")
        found.free = scalar(self._tx, "SELECT count(*) FROM pg_temp.usersync_gone WHERE free")
        if not known and found.candidates:
            found.known, found.reason = of, _strangers(found.candidates)

    def _decide(self, found: Sweep) -> None:
        """Leave on GONE the accounts that go. To a comparison every account of nobody is extra, whatever the guard says."""
        if self._options.everybody:
            found.removable = found.candidates
            return
        guard.decide(self._tx, found, self._options.approve_deletes)
        self._checkpoint.keep(guard.settle, self._tx, found)
        self._tx.execute(sql.SQL("DELETE FROM {} AS g WHERE NOT {}").format(guard.GONE, found.goes))

    def _withdraw(self, scope: Scope) -> None:
        """Withdraw the list that waits for approval: there are no such accounts any more."""
        self._checkpoint.keep(guard.settle, self._tx, Sweep(scope, self._step.load, Memory(), 0))

    def _anonymous(self) -> str:
        """Why nobody may go: records without a known id may be any of those that seem to be gone."""
        unknown = len(self._source.bad) + scalar(self._tx, "SELECT count(*) FROM pg_temp.usersync_conflicts WHERE id IS NULL")
        return f"records were set aside without a known id ({unknown:,}), and they may be those who seem to be gone" if unknown else ""

    def _gone(self, keys: Collection[str] | None, *, known: bool) -> None:
        """Make GONE of these accounts; None: of all candidates."""
        self._tx.execute("DROP TABLE IF EXISTS pg_temp.usersync_gone")
        self._tx.execute(
            "CREATE TEMP TABLE usersync_gone ON COMMIT DROP AS SELECT key, false AS free FROM pg_temp.usersync_leaving WHERE false"
        )
        if keys is None:
            every = "INSERT INTO pg_temp.usersync_gone SELECT DISTINCT key, false FROM pg_temp.usersync_leaving WHERE known = %s"
            self._tx.execute(every, (known,))
        elif keys:
            self._tx.execute("INSERT INTO pg_temp.usersync_gone SELECT unnest(%s::text[]), false", (list(keys),))

    def _proved(self, *, known: bool) -> Collection[str] | None:
        """The accounts of people who have left for sure (`load.deletes.proof`); None for all of them.

        This step does not remember its listings, so a second one that lacks them can't prove it. Raises ConfigError where
        nothing else can.
        """
        session, stream = self._source.session, self._source.stream
        if proof.by_listing(session):
            return None
        if not isinstance(session, TellsWhoIsGone):
            raise ConfigError(
                f"step {self._step.name}: source {self._source.account} can't tell who is gone, and its listing is not of one moment",
                hint="say `on_missing: keep` in the step's load",
            )
        rows = self._tx.execute("SELECT DISTINCT key, record FROM pg_temp.usersync_leaving WHERE known = %s", (known,)).fetchall()
        of = {record: key for key, record in rows if record is not None}
        proved = {of[record] for record in proof.look_again(session, stream, dict.fromkeys(of, False))[DeleteVerdict.GOES]}
        if self._unproved or len(proved) < len(rows):
            self._unproved = len(rows) - len(proved)
            log.get().warning(
                "accounts stay enabled: the listing lacks their people, but the source does not say that they are gone",
                step=self._step.name,
                accounts=self._unproved,
            )
        return proved

    def _memory(self, plan: OutboundPlan, *, known: bool) -> Scope:
        scope, load = self._scope, self._step.load
        text = repr((sorted(self._step.extract.items()), self._source.transform, load.target))
        return Scope(
            job=scope.job,
            step=scope.step,
            run_id=scope.run_id,
            target=plan.scope.target,
            fingerprint=hashlib.sha256(text.encode()).hexdigest(),
            account=self._source.account,
            stream=scope.stream if known else not_remembered(scope.stream),
            reads=reads(self._step, self._context.sources, scope.stream),
            window=load.missing_window,
        )


def _strangers(number: int) -> str:
    accounts = "1 account carries" if number == 1 else f"{number:,} accounts carry"
    return f"{accounts} a usersync_id of people who are not at the source, and this job does not remember giving it"


# An earlier run has decided on these, and its calls did not come to their end: the guard has let them go already.
_DECIDED = """
SELECT count(*) FROM pg_temp.usersync_leaving AS l JOIN pg_temp.usersync_accounts AS a ON a.key = l.key
 WHERE a.disabled AND l.known
"""
_FREE = "UPDATE pg_temp.usersync_gone AS g SET free = true FROM pg_temp.usersync_accounts AS a WHERE a.key = g.key AND a.disabled"
