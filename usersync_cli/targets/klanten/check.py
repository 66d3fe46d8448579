"""What `usersync check` looks at in a Klanten. Nothing is written, so an app without ids that we know there may be unknown to it."""

from __future__ import annotations

from collections.abc import Iterator

from usersync_cli.clients.klanten.api import Klanten
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import Unavailable, UsersyncError
from usersync_cli.state.ledger import may_read
from usersync_cli.targets.klanten.settings import Settings, place

PROBE = "usersync-check"  # an id that nobody has: the key is looked at before the id
FEW = 3


def look(target: str, own: Settings, klanten: Klanten, tx: Connection) -> Iterator[tuple[str, UsersyncError | None]]:
    """Whether the key is accepted, and which apps have ids that we know."""
    try:
        klanten.look_up(next(iter(own.apps.values())), PROBE)
    except UsersyncError as error:
        yield place(own), error
        return
    yield f"{place(own)} accepts the key", None
    for ours, theirs in own.apps.items():
        yield from _app(target, klanten, ours, theirs, _ids(tx, place(own), ours))


def _app(name: str, klanten: Klanten, ours: str, theirs: str, ids: list[tuple[str, bool]]) -> Iterator[tuple[str, UsersyncError | None]]:
    """Ask for a few ids (id, whether Klanten had it once) of an app."""
    for id_, had in ids:
        answer = klanten.look_up(theirs, id_)
        if answer.customer:
            yield f"app {theirs}: has ids of {ours}", None
            return
        if answer.doubtful and had:
            yield f"app {theirs}", Unavailable(f"target {name} answers 500, also for an id that it has", hint="try again later")
            return
    asked = f"has none of the {len(ids)} ids of {ours} that it was asked for" if ids else f"no id of {ours} is known here to ask it for"
    yield f"app {theirs}: {asked}; whether it is an app there shows when the first id is sent", None


def _ids(tx: Connection, target: str, ours: str) -> list[tuple[str, bool]]:
    """A few ids of an app: those that Klanten had, then those of our map."""
    found: list[tuple[str, bool]] = []
    if may_read(tx, "accounts"):
        query = "SELECT DISTINCT substr(key, %s) FROM usersync.accounts WHERE target = %s AND starts_with(key, %s) ORDER BY 1 LIMIT %s"
        found = [(str(id_), True) for (id_,) in tx.execute(query, (len(ours) + 2, target, f"{ours}:", FEW)).fetchall()]
    if not found and may_read(tx, "mappings"):
        query = "SELECT id FROM usersync.mappings WHERE app = %s ORDER BY id LIMIT %s"
        found = [(str(id_), False) for (id_,) in tx.execute(query, (ours, FEW)).fetchall()]
    return found
