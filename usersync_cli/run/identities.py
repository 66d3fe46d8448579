"""Who is whom, in a run: the watches of a step's tables, and the last of each transaction, where what they saw becomes the map.

That comes last because it waits for other writers of the map, and nothing else waits for this transaction by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from psycopg import sql

from usersync_cli.clients.postgres.catalog import describe
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar
from usersync_cli.errors import PartialError, UsersyncError
from usersync_cli.identity import known_ids, place
from usersync_cli.identity.domains import Domains
from usersync_cli.identity.resolve import Filled, Outcome
from usersync_cli.identity.watch import Watch
from usersync_cli.load.merge import Merge
from usersync_cli.load.table import TableLoad
from usersync_cli.model import Change, Identity, Step
from usersync_cli.run.checkpoint import Checkpoint
from usersync_cli.run.context import Options, RunContext, StepResult


class Identities:
    """The watches of one step, in one run."""

    def __init__(self, step: Step, context: RunContext, options: Options, checkpoint: Checkpoint, done: StepResult) -> None:
        self._step, self._job, self._options, self._checkpoint, self._done = step, context.tools.job, options, checkpoint, done
        self._domains = Domains(context.lists) if step.identity else None
        self._watched: list[tuple[Watch, Callable[[Connection], Merge]]] = []
        self._everything: list[Watch] = []  # of those that the transaction under way looks at all rows
        self._decided: list[Watch] = []
        self._last = False  # the transaction under way is the step's last
        if step.identity:
            done.identity = Outcome()

    def watch(self, tx: Connection, target: TableLoad, merge: Callable[[Connection], Merge], stream: str = "") -> None:
        """Watch a table, if it has ids of an app. `merge`: how rows go into it, in a transaction, once there is a table."""
        for identity in self._step.identity:
            if identity.stream in {"", stream}:
                target.watchers = [*target.watchers, self._watch(tx, identity, target, merge, stream)]

    def _watch(self, tx: Connection, identity: Identity, target: TableLoad, merge: Callable[[Connection], Merge], stream: str) -> Watch:
        assert self._domains is not None  # noqa: S101  the step has an identity
        filled = Filled(self._job, self._step.name, stream, self._checkpoint.run_id)
        found = Watch(identity, filled, self._domains, everything=self._options.full, number=len(self._watched))
        table = describe(tx, target.load.table)
        found.begin(tx, empty=table is None or bool(scalar(tx, sql.SQL("SELECT NOT EXISTS (SELECT FROM {})").format(table.name))))
        self._watched.append((found, merge))
        return found

    def ids(self, connection: Callable[[], Connection], stream: str) -> Iterator[Sequence[str]]:
        """All ids that the target knows of the app of this stream, by the thousand. No transaction may be open when one is asked for."""
        for identity in self._step.identity:
            if identity.stream in {"", stream}:
                yield from known_ids.ids(connection, identity.app)

    def owed(self) -> bool:
        """Whether there is a table of which all rows are still to be looked at, or something that a preview has put off."""
        return any(one.everything or one.carries for one, _ in self._watched)

    def finish(self) -> None:
        """Let the transaction under way be the last: it looks at all rows of the tables that are owed that."""
        self._everything, self._last = [one for one, _ in self._watched if one.everything], True

    def resolve(self, tx: Connection) -> None:
        """The last of a transaction: make what was seen in it part of the map. A preview reports it."""
        news = [(one, merge) for one, merge in self._watched if one in self._everything or one.has_news(tx) or (self._last and one.carries)]
        if not self._last:
            carried = [one for one, _ in news if self._checkpoint.foresee(one.carry, tx)]
            news = [(one, merge) for one, merge in news if one not in carried]
        if not news:
            return
        self._checkpoint.keep(place.lock, tx)
        for watch, merge_of in news:
            merge = merge_of(tx)
            writes = bool(self._checkpoint.keep(lambda: True))
            watch.decide(tx, merge, everything=watch in self._everything, writes=writes)
            self._checkpoint.tell(self._changes(watch, tx))
            outcome = watch.outcome(tx)
            assert self._done.identity is not None  # noqa: S101  there is a watch
            self._done.identity += outcome
            self._checkpoint.keep(watch.write, tx, merge)
            watch.close(tx)
            self._decided.append(watch)

    def _changes(self, watch: Watch, tx: Connection) -> Iterator[Change]:
        for kind, id_, before, after, why in watch.foreseen(tx):
            was = {} if before is None else {"customer": before}
            will = {} if after is None else {"customer": after}
            yield Change(self._step.name, kind, {watch.identity.app: id_}, was, will, why)  # type: ignore[arg-type]  # one of three

    def committed(self) -> None:
        """Go on from what was just committed."""
        for watch in self._decided:
            watch.committed(everything=watch in self._everything)
        self._decided, self._everything, self._last = [], [], False

    def problems(self, tx: Connection) -> list[UsersyncError]:
        """What the step's end says: what could not be looked at, and the conflicts that wait for a person."""
        found: list[UsersyncError] = [one.problem for one, _ in self._watched if one.problem]
        apps = sorted({one.identity.app for one, _ in self._watched})
        if apps and (number := waiting(tx, apps, self._job, self._step.name)):
            what = "1 id is" if number == 1 else f"{number:,} ids are"
            hint = "usersync mappings conflicts list"
            found.append(PartialError(f"{what} of one customer on the map and of another at the source; a person decides", hint=hint))
        return found


def waiting(tx: Connection, apps: Sequence[str], job: str, step: str) -> int:
    """How many conflicts wait for a person in these apps, or were found by this step."""
    if not scalar(tx, "SELECT to_regclass('usersync.identity_conflicts') IS NOT NULL"):
        return 0
    query = """
        SELECT count(*) FROM usersync.identity_conflicts
         WHERE status = 'open' AND (app = ANY(%s) OR app IS NULL AND job = %s AND step = %s)
    """
    with place.visible(tx):
        return int(scalar(tx, query, (list(apps), job, step)))
