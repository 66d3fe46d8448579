"""Will the rules of a step's `identity` work? They are tried on the columns that the step loads, without a row; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar
from usersync_cli.identity.domains import Domains
from usersync_cli.identity.resolve import Filled
from usersync_cli.identity.watch import Watch
from usersync_cli.load.merge import Merge
from usersync_cli.model import Identity, Step
from usersync_cli.run.context import RunContext


def lists(steps: Sequence[Step], context: RunContext) -> Iterator[str]:
    """The lists of what identifies nobody, with their dates, where a step needs them."""
    if any(step.identity for step in steps):
        yield f"identity: {Domains(context.lists).dated}"


def of(step: Step, stream: str) -> list[Identity]:
    """What the step says of this stream's rows; "" for a step of tables."""
    return [one for one in step.identity if one.stream in {"", stream}]


def look(step: Step, stream: str, tx: Connection, merge: Merge, context: RunContext) -> Iterator[tuple[str, str]]:
    """Each app that is filled, with its rules, and advice. Raises ConfigError where the SQL of one is wrong, or the id is no column."""
    for identity in of(step, stream):
        watch = Watch(identity, Filled(context.tools.job, step.name, stream, 0), Domains(context.lists), everything=False)
        watch.check(tx, merge)
        yield _told(identity), "\n".join(filter(None, [_on_change(watch, step, stream, tx, context), _on_missing(step, identity)]))


def _told(identity: Identity) -> str:
    told = f"app {identity.app}: its ids are {identity.id}"
    rules = [rule for rule in identity.rules if rule.domain != "NULL"]
    if not rules:
        return f"{told}; without a rule, they are known and have no customer"
    return f"{told}, by {', then '.join(rule.name for rule in rules)}; up to {identity.max_ids:,} ids with one domain"


def _on_change(watch: Watch, step: Step, stream: str, tx: Connection, context: RunContext) -> str:
    """What the next run does when the rules or lists are not those of the last."""
    if not scalar(tx, "SELECT pg_catalog.to_regclass('usersync.identities') IS NOT NULL"):
        return ""
    query = "SELECT fingerprint IS NOT DISTINCT FROM %s FROM usersync.identities WHERE app = %s AND job = %s AND step = %s AND stream = %s"
    job = context.tools.job
    if scalar(tx, query, (watch.fingerprint, watch.identity.app, job, step.name, stream)) is not False:
        return ""
    see = f"to see before what that changes: usersync run --job {job} --step {step.name} --dry-run --diff"
    return f"the next run looks at all rows again, since the rules or the lists have changed, or some rows could not be looked at; {see}"


def _on_missing(step: Step, identity: Identity) -> str:
    """Advice; none where another list of customers is read, from which an id may be gone and still be somebody's."""
    if step.load.on_missing != "keep" or any(rule.uuid for rule in identity.rules):
        return ""
    return "mappings of records that leave the source stay, since on_missing is keep; with mark or delete they are closed"
