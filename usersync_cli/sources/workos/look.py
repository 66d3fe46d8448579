"""What `usersync check` finds out about a stream: whether its list and its events can be read, with as little as one object each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from usersync_cli.errors import UsersyncError, together
from usersync_cli.sources.workos.api import WrongKey
from usersync_cli.sources.workos.log import PATH
from usersync_cli.sources.workos.shapes import as_text, fields_of, listed, text_of
from usersync_cli.sources.workos.streams import ARCHIVE, STREAMS

if TYPE_CHECKING:
    from usersync_cli.sources.workos.api import Api

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
    resource, narrowed = STREAMS[stream], {}
    if parent := resource.parent:
        some = listed(api.get(STREAMS[parent.stream].path, {"limit": 1}, phase="check"))
        keys = [key for row in some.rows if (key := text_of(fields_of(row) or {}, "id"))]
        if not keys:
            return  # there is nothing that it could be asked for
        narrowed = {parent.parameter: keys[0]}
    limited = {"limit": 1} if resource.paged else {}
    listed(api.get(resource.path, {**resource.params, **narrowed, **limited}, phase="check"), paged=resource.paged)


def _look_at_events(api: Api, _stream: str, types: Sequence[str]) -> None:
    since = as_text(datetime.now(UTC) - BACK)
    listed(api.get(PATH, {"events": ",".join(types), "order": "asc", "limit": 1, "range_start": since}, phase="check"))
