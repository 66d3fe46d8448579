"""What is missing of a stream although all pages of its listing came: it is owed, and the cursor does not pass it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from usersync_cli.errors import PartialError, Unavailable, UsersyncError
from usersync_cli.sources.teamleader import limits

if TYPE_CHECKING:
    from usersync_cli.sources.teamleader.resources import Resource

SILENT, HIDDEN, REFUSED = "silent", "hidden", "refused"
OWED = {SILENT: "without an answer", HIDDEN: "not known to it although {}.list shows them", REFUSED: "not allowed"}  # why a document is


@dataclass
class Owed:
    """What the reading of one stream owes."""

    documents: dict[str, str] = field(default_factory=dict)  # by key, and why: one of OWED
    unlisted: int = 0  # records that its listing left out, and shows when it is asked for just these

    def clear(self) -> None:
        """Forget what is owed, for another stream."""
        self.documents.clear()
        self.unlisted = 0

    def __bool__(self) -> bool:
        return bool(self.documents or self.unlisted)

    def error(self, source: str, resource: Resource, *, tired: bool) -> UsersyncError:
        """What is missing although all pages came."""
        if tired:
            return Unavailable(
                f"source {source}: {resource.path}.list changed each of the {limits.WALKS} times that it was read; some may be missing",
                hint="what came is stored, nobody was removed, and the next run lists everything again;"
                " if that fails too: is something writing to it all the time? run when it is not",
            )
        if self.unlisted:
            return Unavailable(
                f"source {source}: {resource.path}.list left out {number_of(self.unlisted)} that it shows when asked for by id",
                hint="what came is stored, nobody who is there was removed, and the next run lists everything again",
            )
        reasons = list(self.documents.values())
        why = ", ".join(f"{reasons.count(one):,} {told.format(resource.path)}" for one, told in OWED.items() if one in reasons)
        what = (
            f"source {source}: {resource.path}.info gave no document for {number_of(len(reasons))}, such as {min(self.documents)} ({why});"
            " all others are loaded"
        )
        if {*reasons} == {REFUSED}:
            return PartialError(what, hint=f"see that whoever authorised may read these {resource.called}; each run asks for them again")
        hint = "the next run asks again; if it stays so, Teamleader's support can look at that record"
        return Unavailable(what, hint=hint)


def number_of(records: int) -> str:
    return "1 record" if records == 1 else f"{records:,} records"
