"""The outbox: calls to targets outside PostgreSQL, decided in one transaction, committed before the first call, ended one by one.

A call can't be rolled back. So each person's calls are first written to a row of `usersync.intents`; an outcome is committed
after its call, and a row without one is looked up at the target before anything is done again. What may have been given
counts as given (`usersync.accounts`), and what may have been mailed as mailed; a mail that was not sent is owed there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.signals import Stop
from usersync_cli.state.ledger import may_read

P = ParamSpec("P")
T = TypeVar("T")

KEPT = timedelta(days=30)  # what an intent wanted, after its end
BATCH = 200


@dataclass(frozen=True)
class StepScope:
    """Which step of which run. `target` is the place; another place means other accounts."""

    job: str
    step: str
    run_id: int  # 0 in a dry run
    target: str = ""
    stream: str = ""  # of documents: which, for what is set aside


@dataclass(frozen=True)
class Living:
    """Steps of this job, and jobs, that the config file has. Rows of any other step or job were left behind by a name that is gone."""

    steps: Collection[str] = ()
    jobs: Collection[str] | None = None  # None: not known, so each job that was ever run counts


class Keep(Protocol):
    """The door for what stays: calls `write` in a run, and nothing in a dry run (`run/checkpoint.py`)."""

    def __call__(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None: ...


@dataclass(frozen=True)
class StepContext:
    """What a target outside PostgreSQL is given by one step of one run."""

    scope: StepScope
    stop: Stop
    keep: Keep  # whatever a plan leaves behind in usersync's tables goes through it
    living: Living = field(default_factory=Living)
    check: Callable[[], None] = lambda: None  # raises when the job is not ours any more
    # Counts people whose calls have ended, and refusals by (reason, detail). Raises Drift when too many were refused.
    judge: Callable[[int, Mapping[tuple[str, str], int]], None] = lambda *_: None
    order_by: str | None = None
    again: bool = False  # also what the target has refused before is tried
    afresh: bool = False  # the target is asked also for what is remembered to be as it is wanted
    credentials: Path | None = None  # where first passwords are written


@dataclass(frozen=True)
class Intent:
    """The calls for one person."""

    id: int
    key: str
    action: str  # create, finish, adopt, update, disable
    account: str | None
    wanted: Mapping[str, Any] = field(repr=False)
    done: Sequence[str] = ()


def recall(tx: Connection, scope: StepScope, living: Living, *, there: bool) -> None:
    """Stage what earlier runs wrote down of this step, in temp tables of this transaction.

    `usersync_accounts` has the accounts of this step, `usersync_elsewhere (account)` those of other steps and jobs,
    `usersync_begun (key)` the people for whom a run began to make an account without an outcome. All are empty where usersync's
    tables are not `there` yet.
    """
    tx.execute(
        """
            CREATE TEMP TABLE usersync_accounts (
                key text PRIMARY KEY, record text, account text NOT NULL, roles text[] NOT NULL, groups text[] NOT NULL,
                disabled boolean NOT NULL, mail text
            ) ON COMMIT DROP
        """
    )
    tx.execute("CREATE TEMP TABLE usersync_begun (key text PRIMARY KEY) ON COMMIT DROP")
    tx.execute("CREATE TEMP TABLE usersync_elsewhere (account text) ON COMMIT DROP")
    if there:
        tx.execute(_RECALL.encode(), vars(scope))
        names = {"steps": list(living.steps), "jobs": None if living.jobs is None else list(living.jobs)}
        tx.execute(_ELSEWHERE.encode(), {**vars(scope), **names})
        tx.execute(_BEGUN.encode(), vars(scope))
    tx.execute("ANALYZE pg_temp.usersync_accounts, pg_temp.usersync_elsewhere, pg_temp.usersync_begun")


def write(tx: Connection, scope: StepScope) -> None:
    """Write the rows of `usersync_planned` that are not written yet, for this run. Those that earlier runs left open end as `left`."""
    tx.execute(_LEAVE.encode(), vars(scope))
    tx.execute(_WRITE.encode(), vars(scope))


def open_ones(connection: Connection, scope: StepScope, which: Which) -> Iterator[Intent]:
    """The open intents of this run, in the order of their numbers; read in batches of BATCH."""
    after, query = 0, _OPEN.format(which=_WHICH[which])
    while rows := connection.execute(query.encode(), {**vars(scope), "after": after, "batch": BATCH}).fetchall():
        after = rows[-1][0]
        yield from (Intent(*row) for row in rows)


def did(connection: Connection, intent: Intent, what: str) -> None:
    """Write down that one of its calls is done; or, for a call that must not be repeated, that it is about to be made."""
    connection.execute("UPDATE usersync.intents SET done = done || %s::text WHERE id = %s", (what, intent.id))


def mail(connection: Connection, scope: StepScope, intent: Intent, state: str) -> None:
    """Write down the state of the mail to its person: `sending` before it is sent; then `sent`, or `owed` when it surely was not."""
    connection.execute(_MAIL.encode(), {**vars(scope), "key": intent.key, "mail": state})


def created(connection: Connection, scope: StepScope, intent: Intent, account: str) -> None:
    """Write down that its account exists. What it wants to give counts as given from here on, and its mail is owed."""
    values = {**vars(scope), "id": intent.id, "key": intent.key, "record": intent.wanted.get("record"), "account": account,
              "roles": list(intent.wanted.get("roles", ())), "groups": list(intent.wanted.get("groups", ())),
              "mail": "owed" if intent.wanted.get("mail") else None}  # fmt: skip
    connection.execute(_CREATED.encode(), values)


def finish(connection: Connection, scope: StepScope, intent: Intent) -> None:
    """Write down that all of its calls are done: what we gave is what is wanted now."""
    values = {**vars(scope), "id": intent.id, "key": intent.key,
              "roles": list(intent.wanted.get("roles", ())), "groups": list(intent.wanted.get("groups", ()))}  # fmt: skip
    connection.execute((_ENDED if intent.action == "disable" else _FINISH).encode(), values)


def end(connection: Connection, intent: Intent, state: str, error: str = "") -> None:
    """End it without success: `refused` by the target, or `left` to the next run. `error` is a code, never a person's data."""
    connection.execute(
        "UPDATE usersync.intents SET state = %s, error = %s, ended_at = clock_timestamp() WHERE id = %s", (state, error, intent.id)
    )


def prune(connection: Connection, job: str) -> None:
    """Forget what ended intents wanted after 30 days (KEPT): it is people's data."""
    connection.execute(
        "UPDATE usersync.intents SET wanted = NULL WHERE job = %s AND wanted IS NOT NULL AND ended_at < clock_timestamp() - %s",
        (job, KEPT),
    )


@dataclass(frozen=True)
class Written:
    """An intent as the table has it. `wanted` is None when it was forgotten, 30 days after its end."""

    id: int
    run_id: int
    job: str
    step: str
    key: str = field(repr=False)
    action: str
    account: str | None
    wanted: Mapping[str, Any] | None = field(repr=False)
    state: str  # open, done, refused, left
    done: Sequence[str]
    error: str
    created_at: datetime
    ended_at: datetime | None


def written(connection: Connection, job: str | None, *, everything: bool) -> list[Written]:
    """The open intents, with `everything` all that were written within KEPT; oldest first. Empty where the table is not there yet."""
    if not may_read(connection, "intents"):
        return []
    return [Written(*row) for row in connection.execute(_WRITTEN.encode(), {"job": job, "everything": everything, "kept": KEPT}).fetchall()]


_WRITTEN = """
SELECT id, run_id, job, step, key, action, account, wanted, state, done, error, created_at, ended_at FROM usersync.intents
 WHERE (%(job)s::text IS NULL OR job = %(job)s)
   AND (state = 'open' OR %(everything)s AND created_at > clock_timestamp() - %(kept)s)
 ORDER BY id
"""
_OURS = "job = %(job)s AND step = %(step)s AND target = %(target)s"
_RECALL = f"""
INSERT INTO pg_temp.usersync_accounts (key, record, account, roles, groups, disabled, mail)
SELECT key, record, account, roles, groups, disabled,
       CASE WHEN mail IN ('owed', 'sending') AND EXISTS (SELECT FROM usersync.rejects AS r
                   WHERE r.job = a.job AND r.step = a.step AND r.key = a.key AND r.status = 'dropped' AND r.reason = 'mail_failed')
            THEN 'dropped' ELSE mail END
  FROM usersync.accounts AS a WHERE {_OURS}
"""  # noqa: S608  our own names
_ELSEWHERE = """
INSERT INTO pg_temp.usersync_elsewhere
SELECT DISTINCT account FROM usersync.accounts
 WHERE target = %(target)s AND (job, step) <> (%(job)s, %(step)s)
   AND CASE WHEN job = %(job)s THEN step = ANY(%(steps)s) ELSE %(jobs)s::text[] IS NULL OR job = ANY(%(jobs)s) END
"""
_BEGUN = f"""
INSERT INTO pg_temp.usersync_begun
SELECT DISTINCT key FROM usersync.intents WHERE {_OURS} AND state = 'open' AND action IN ('create', 'finish')
"""  # noqa: S608
_LEAVE = f"""
UPDATE usersync.intents SET state = 'left', ended_at = clock_timestamp() WHERE {_OURS} AND state = 'open' AND run_id <> %(run_id)s
"""  # noqa: S608
_WRITE = """
INSERT INTO usersync.intents (run_id, job, step, target, key, action, account, wanted)
SELECT %(run_id)s, %(job)s, %(step)s, %(target)s, key, action, account, wanted
  FROM pg_temp.usersync_planned AS p
 WHERE NOT EXISTS (SELECT FROM usersync.intents AS i
                    WHERE i.run_id = %(run_id)s AND i.job = %(job)s AND i.step = %(step)s AND i.key = p.key)
 ORDER BY action = 'disable', number
"""
Which: TypeAlias = Literal["leaving", "parked", "staying"]
# People who left come first, so that they do not depend on the others; "parked" are staying people whose name another one takes.
_WHICH: dict[Which, str] = {"leaving": "action = 'disable'", "parked": "wanted ? 'park'", "staying": "action <> 'disable'"}
_OPEN = f"""
SELECT id, key, action, account, wanted, done FROM usersync.intents
 WHERE run_id = %(run_id)s AND {_OURS} AND state = 'open' AND id > %(after)s AND {{which}} ORDER BY id LIMIT %(batch)s
"""  # noqa: S608
_MAIL = f"UPDATE usersync.accounts SET mail = %(mail)s WHERE {_OURS} AND key = %(key)s"  # noqa: S608
_CREATED = """
WITH noted AS (UPDATE usersync.intents SET account = %(account)s, done = done || 'create'::text WHERE id = %(id)s)
INSERT INTO usersync.accounts (job, step, target, key, record, account, roles, groups, mail)
VALUES (%(job)s, %(step)s, %(target)s, %(key)s, %(record)s, %(account)s, %(roles)s, %(groups)s, %(mail)s)
ON CONFLICT (job, step, target, key) DO UPDATE
   SET account = excluded.account, record = excluded.record, roles = excluded.roles, groups = excluded.groups, disabled = false,
       mail = excluded.mail
"""
_ENDED = "UPDATE usersync.intents SET state = 'done', ended_at = clock_timestamp() WHERE id = %(id)s"
_FINISH = f"""
WITH ended AS ({_ENDED})
UPDATE usersync.accounts SET roles = %(roles)s, groups = %(groups)s, disabled = false WHERE {_OURS} AND key = %(key)s
   AND (roles, groups, disabled) IS DISTINCT FROM (%(roles)s::text[], %(groups)s::text[], false)
"""  # noqa: S608
