"""What `usersync check` finds out about a stream: whether its list and its events can be read, with as little as one object each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from usersync_cli.errors import UsersyncError, together
from usersync_cli.sources.workos.api import LOG, WrongKey
from usersync_cli.sources.workos.shapes import as_text, fields_of, listed, text_of
from usersync_cli.sources.workos.streams import ARCHIVE, STREAMS, Parent, Resource

if TYPE_CHECKING:
    from usersync_cli.sources.workos.api import Api

NOBODY = "nobody"  # no object has this id
BACK = timedelta(hours=1)  # of the log: it only has to answer


def look(api: Api, stream: str, types: Sequence[str]) -> str:
    """What can be read, in words. Raises what is missing: all of it, not only the first."""
    problems: list[UsersyncError] = []
    found = ["its list can be read"] if stream != ARCHIVE else []
    for looking in (_look_at_list, _look_at_events):
        try:
            looking(api, stream, types)
        except WrongKey:  # all else would be the same
            raise
        except UsersyncError as error:
            problems.append(error)
    if problem := together(problems):
        raise problem
    return " and ".join([*found, f"its events can be read ({len(types)} types)"])


def _look_at_list(api: Api, stream: str, _types: Sequence[str]) -> None:
    if stream == ARCHIVE:
        return
    resource = STREAMS[stream]
    if resource.parent:
        _look_at_child(api, resource, resource.parent)
        return
    limited = {"limit": 1} if resource.paged else {}
    listed(api.get(resource.path, {**resource.params, **limited}, phase="check"), paged=resource.paged)


def _look_at_child(api: Api, resource: Resource, parent: Parent) -> None:
    """A list that is asked for one object after the other: both rights may be missing, and there may be no object."""
    problem, key = None, NOBODY
    try:
        some = listed(api.get(STREAMS[parent.stream].path, {"limit": 1}, phase="check"))
        key = next((key for row in some.rows if (key := text_of(fields_of(row) or {}, "id"))), NOBODY)
    except WrongKey:
        raise
    except UsersyncError as error:
        problem = error
    reply = api.ask(resource.path, {**resource.params, parent.parameter: key, "limit": 1}, phase="check")
    try:
        if key != NOBODY or reply.status == 403:  # other refusals are about the object, which is not there
            api.refuse(reply, resource.path)
    except UsersyncError as error:
        raise together([one for one in (problem, error) if one]) or error from error
    if problem:
        raise problem


def _look_at_events(api: Api, _stream: str, types: Sequence[str]) -> None:
    since = as_text(datetime.now(UTC) - BACK)
    listed(api.get(LOG, {"events": ",".join(types), "order": "asc", "limit": 1, "range_start": since}, phase="check"))
