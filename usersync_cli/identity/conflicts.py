"""Conflicts between the map and what a job found: listed, and answered by a person, once and permanently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from psycopg.rows import class_row

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar, statements
from usersync_cli.errors import ConfigError, Conflict, NotFound
from usersync_cli.identity import mappings, merging
from usersync_cli.identity.customers import find, get_or_create

_SQL = statements(__name__)
KINDS = {
    "domain": "the record says another domain",
    "returned": "the record of a pinned id had left and is back",
    "uuid": "another list calls the domain by another uuid",
    "renamed": "another list gives the uuid another domain",
}
"""What was found, by kind."""
STATUSES = ("open", "accepted", "rejected", "ignored", "over")
Verdict = Literal["accepted", "rejected", "ignored"]


@dataclass(frozen=True)
class Found:
    """A conflict. uuid and domain are those of the customer on the map; found_domain and found_uuid what was found."""

    id: int
    kind: str
    app: str | None
    app_id: str | None
    found_domain: str
    found_uuid: UUID | None
    rule: str | None
    value: str | None
    job: str | None
    step: str | None
    run_id: int | None
    found_at: datetime
    status: str
    answered_at: datetime | None
    answered_by: str | None
    reason: str | None
    uuid: UUID | None
    domain: str | None

    @property
    def here(self) -> str:
        """The customer on the map, in a message."""
        return mappings.called(self.uuid, self.domain) if self.uuid else "nobody"

    @property
    def there(self) -> str:
        """What was found, in a message."""
        return self.found_domain or (f"uuid {self.found_uuid}" if self.found_uuid else "")


@dataclass(frozen=True)
class Wanted:
    """Which conflicts. `older_than`: found at least so long ago."""

    app: str | None = None
    kind: str | None = None
    statuses: Sequence[str] | None = ("open",)
    older_than: timedelta | None = None
    most: int = 0  # 0: all


@dataclass(frozen=True)
class Answer:
    """What an answer did, in words."""

    conflict: Found
    said: str
    changed: bool = True


def listed(tx: Connection, wanted: Wanted) -> tuple[list[Found], Counter[str]]:
    """The conflicts by number, and how many there are of each kind. Raises NotFound for an unknown app."""
    if wanted.app is not None:
        mappings.require_app(tx, wanted.app)
    values = {"app": wanted.app, "kind": wanted.kind, "before": wanted.older_than,
              "statuses": None if wanted.statuses is None else list(wanted.statuses)}  # fmt: skip
    counts: Counter[str] = Counter(dict(tx.execute(_SQL["counted"], values).fetchall()))
    with tx.cursor(row_factory=class_row(Found)) as cursor:
        found = cursor.execute(_SQL["listed"], {**values, "ids": None, "most": wanted.most or None}).fetchall()
    return found, counts


def chosen(tx: Connection, ids: Sequence[int]) -> list[Found]:
    """The conflicts of these numbers. Raises NotFound for a number that none has."""
    values = {"ids": list(ids), "app": None, "kind": None, "statuses": None, "before": None, "most": None}
    with tx.cursor(row_factory=class_row(Found)) as cursor:
        found = cursor.execute(_SQL["listed"], values).fetchall()
    if missing := sorted(set(ids) - {one.id for one in found}):
        raise NotFound(
            f"there is no conflict {', '.join(map(str, missing))}; nothing was changed",
            hint="`usersync mappings conflicts list` shows those that wait",
        )
    return found


def answer(tx: Connection, ids: Sequence[int], verdict: Verdict, decision: mappings.Decision) -> list[Answer]:
    """Answer these conflicts, all or none. In `place.writing`.

    Raises NotFound for one that is unknown or over, Conflict for one that has another answer, or that can't be accepted as it is.
    """
    found = chosen(tx, ids)
    for one in found:
        _refuse_answered(one, verdict)
    _refuse_twice([one for one in found if one.status == "open"], verdict)
    return [_answer(tx, one, verdict, decision) for one in found]


def _refuse_answered(one: Found, verdict: Verdict) -> None:
    if one.status == "over":
        raise NotFound(
            f"conflict {one.id} is over: what was found is no longer so; nothing was changed",
            hint="`usersync mappings conflicts list` shows those that wait",
        )
    if one.status not in {"open", verdict}:
        raise Conflict(
            f"conflict {one.id} was {one.status} by {one.answered_by} on {one.answered_at:%Y-%m-%d}; nothing was changed",
            hint="an answer stays. `usersync mappings create --app APP --id ID --customer DOMAIN --move` changes whose an id is",
        )


def _refuse_twice(found: Sequence[Found], verdict: Verdict) -> None:
    """Of several conflicts about one id, one can be accepted."""
    if verdict != "accepted":
        return
    of: dict[tuple[str, str], int] = {}
    for one in found:
        if one.app is None or one.app_id is None:
            continue
        if (other := of.setdefault((one.app, one.app_id), one.id)) != one.id:
            raise ConfigError(f"conflicts {other} and {one.id} are about the same id; nothing was changed", hint="accept one of them")


def _answer(tx: Connection, one: Found, verdict: Verdict, decision: mappings.Decision) -> Answer:
    if one.status == verdict:
        return Answer(one, f"was {verdict} by {one.answered_by} before", changed=False)
    said = "ignored; the map is as it was"
    if verdict == "accepted":
        said = {"domain": _accept_domain, "returned": _accept_returned, "uuid": _accept_uuid, "renamed": _accept_renamed}[one.kind](
            tx, one, decision
        )
    elif verdict == "rejected":
        said = _reject(tx, one, decision)
    tx.execute(_SQL["answer"], {"status": verdict, "by": decision.by, "reason": decision.reason, "id": one.id})
    return Answer(one, said)


# the kinds


def _accept_domain(tx: Connection, one: Found, decision: mappings.Decision) -> str:
    """The id moves to the customer that its record names, and is pinned."""
    app, id_ = _id(one)
    domain = one.found_domain
    named = get_or_create(tx, domain, decision.by)[0] if domain else mappings.require_customer(tx, str(one.found_uuid))
    mappings.given(tx, [(app, id_, named.uuid)])
    done = mappings.assign(tx, decision)
    now = mappings.held(tx, app, id_)
    assert now is not None  # noqa: S101  it was just written
    was = f", was {one.here}" if done.moved and one.uuid else ""
    return f"{mappings.shown(app, id_)} is {now.customer} now, pinned{was}"


def _accept_returned(tx: Connection, one: Found, decision: mappings.Decision) -> str:
    """The pin ends, and the rules decide whose the id is when the next run looks at all rows."""
    app, id_ = _id(one)
    mappings.close(tx, app, id_, "returned", decision)
    jobs = sorted({job for (job,) in tx.execute(_SQL["look_again"], {"app": app}).fetchall()})
    then = f"the rules decide at the next run of {' and '.join(jobs)}" if jobs else "the rules decide when a job looks at its row"
    return f"{mappings.shown(app, id_)} is no longer pinned to {one.here}; {then}"


def _accept_uuid(tx: Connection, one: Found, decision: mappings.Decision) -> str:
    """Their uuid becomes the one that the domain resolves to; ours is merged into it, and goes on resolving."""
    assert one.found_uuid is not None  # noqa: S101  of this kind it has one
    root = _root_of_domain(tx, one.found_domain)
    tx.execute(_SQL["add_customer"], {"uuid": one.found_uuid, "by": decision.by})
    into = scalar(tx, "SELECT usersync.root_of(%s)", (one.found_uuid,))
    if root is None:
        root = get_or_create(tx, one.found_domain, decision.by)[0].root
    if root == into:
        return f"{one.found_domain} and {one.found_uuid} are one customer already"
    merging.merge(tx, str(root), str(one.found_uuid), decision.by, decision.reason or "")
    return f"{one.found_domain} is customer {into} now; {root} was merged into it and goes on resolving"


def _root_of_domain(tx: Connection, domain: str) -> UUID | None:
    found = find(tx, domain)
    return found.root if found else None


def _accept_renamed(tx: Connection, one: Found, decision: mappings.Decision) -> str:
    """The customer takes the domain; the one that it had goes on meaning it."""
    assert one.uuid is not None  # noqa: S101  of this kind it has one
    root = _root_of_domain(tx, one.found_domain)
    if root is not None and root != one.uuid:
        raise Conflict(
            f"conflict {one.id}: {one.found_domain} is customer {root} already; nothing was changed",
            hint=f"are they one? `usersync customers merge {one.found_domain} {one.uuid} --reason WHY`; then ignore this conflict",
        )
    if root is not None and scalar(tx, "SELECT true FROM usersync.customers AS c WHERE c.domain = %s", (one.found_domain,)):
        return f"{one.found_domain} means customer {one.uuid} already"
    merging.rename(tx, str(one.uuid), one.found_domain, decision.by, decision.reason)
    return f"customer {one.uuid} is called {one.found_domain} now" + (f", was {one.domain}, which goes on resolving" if one.domain else "")


def _reject(tx: Connection, one: Found, decision: mappings.Decision) -> str:
    """What is there holds, and is pinned."""
    if one.app is None or one.app_id is None:
        return f"{one.here} stays as it is"
    now = mappings.held(tx, one.app, one.app_id)
    if now is None:
        raise mappings.nobody(tx, one.app, one.app_id)
    if not now.pinned:
        tx.execute(_SQL["pin"], {"app": one.app, "id": one.app_id, "by": decision.by, "reason": decision.reason})
    return f"{mappings.shown(one.app, one.app_id)} stays {now.customer}, pinned"


def _id(one: Found) -> tuple[str, str]:
    assert one.app is not None  # noqa: S101  of this kind it has an id
    assert one.app_id is not None  # noqa: S101  and
    return one.app, one.app_id
