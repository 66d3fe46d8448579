"""Which of some records a statement takes, found by trying: the good ones are loaded, each of the others is rejected with its cause.

The order of attempts, each where the one before leaves something:

1. all records at once;
2. all but those that `find` names as bad;
3. where it names nobody, the two halves, each by itself, until records fail alone;
4. those once more, because the others are there now: one by one, all of them together, all but one, in pairs. Two people who swap
   their user names fail alone, and fit together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

PAIRS = 16  # records that fail alone, and may still fit together

T = TypeVar("T")


class Cause(NamedTuple):
    """Why a record can't be loaded: the code and the detail of a reject, which names columns and constraints, never a value."""

    reason: str
    detail: str = ""


class AttemptFailed(Exception):
    """An attempt failed because of its records, and nothing of it is left.

    `cause` is that of a record that fails alone. `bad` are those that are known to be bad already, by their place among the
    records of the attempt; None where nobody has looked.
    """

    def __init__(self, cause: Cause, bad: Mapping[int, Cause] | None = None) -> None:
        super().__init__()
        self.cause = cause
        self.bad = bad


class Attempts(Generic[T]):
    """Loads what can be loaded of some records.

    `attempt` loads all records that it is given, or raises AttemptFailed and leaves no trace; any other error ends the search.
    `find` says which of them are bad, by place; empty where that can't be told. `reject` is told of each bad record once.
    """

    def __init__(
        self,
        attempt: Callable[[Sequence[T]], None],
        find: Callable[[Sequence[T], AttemptFailed], Mapping[int, Cause]],
        reject: Callable[[T, Cause], None],
    ) -> None:
        self._attempt, self._find, self._reject = attempt, find, reject
        self._alone: list[tuple[T, Cause]] = []  # what fails alone

    def load(self, items: Sequence[T]) -> None:
        """All of these, but for those that can't be loaded."""
        self._split(items, search=True)
        self._try_again()
        for item, cause in self._alone:
            self._reject(item, cause)
        self._alone = []

    def _split(self, items: Sequence[T], *, search: bool) -> None:
        """Load these; without `search`, `find` has named nobody among them."""
        if not items:
            return
        try:
            self._attempt(items)
        except AttemptFailed as refused:
            bad = refused.bad
            if bad is None:
                bad = self._find(items, refused) if search else {}
            self._blame(items, refused.cause, bad)

    def _blame(self, items: Sequence[T], cause: Cause, bad: Mapping[int, Cause]) -> None:
        """Reject those that are to blame, and load the rest; where nobody stands out, halve them."""
        if bad:
            for place, one in bad.items():
                self._reject(items[place], one)
            self._split([item for place, item in enumerate(items) if place not in bad], search=True)
        elif len(items) == 1:
            self._alone.append((items[0], cause))
        else:
            middle = len(items) // 2
            self._split(items[:middle], search=False)
            self._split(items[middle:], search=False)

    def _try_again(self) -> None:
        """Load what failed alone and fits now that the others are there, or together with another."""
        tried = True
        while tried and self._alone:
            tried = any(self._fits([one]) for one in list(self._alone))
        if len(self._alone) > 1 and not self._fits(list(self._alone)) and len(self._alone) <= PAIRS:
            everybody = list(self._alone)
            any(self._fits([other for other in everybody if other is not one]) for one in everybody)
            for position, one in enumerate(everybody):
                for other in everybody[position + 1 :]:
                    if one in self._alone and other in self._alone:
                        self._fits([one, other])

    def _fits(self, some: Sequence[tuple[T, Cause]]) -> bool:
        try:
            self._attempt([item for item, _ in some])
        except AttemptFailed:
            return False
        self._alone = [one for one in self._alone if one not in some]
        return True
