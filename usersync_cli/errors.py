"""Every error of ours, by what the operator does next. The exit statuses are stable: scripts rely on them."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from typing import ClassVar, Self

OK = 0
STATUSES: dict[int, str] = {
    0: "ok",
    1: "a bug in usersync: please report it",
    2: "usage or config: fix the command or the config file",
    3: "partial: some step failed, or rejects wait for a person",
    4: "temporary: try again later",
    5: "a person must authorise",
    6: "a guard refused to delete",
    7: "drift: schema or source identity changed, or most records bad",
    8: "verification failed",
    9: "not found",
    10: "conflict: a person decides",
    75: "another run holds the job",
    76: "fenced: another run took the job over",
    129: "stopped because its terminal went away (SIGHUP), state saved",
    130: "stopped by Ctrl-C, state saved",
    143: "stopped by SIGTERM, state saved",
}
# What `--output json` calls them: stable, as the exit statuses are. A mistake on the command line is "usage" instead of
# "config", and a signal "stopped".
CODES: dict[int, str] = {
    1: "bug",
    2: "config",
    3: "partial",
    4: "temporary",
    5: "login_required",
    6: "guard_refused",
    7: "drift",
    8: "verification_failed",
    9: "not_found",
    10: "conflict",
    75: "busy",
    76: "fenced",
}
# The worst wins when steps end differently.
_WORST_FIRST = (129, 130, 143, 1, 8, 7, 6, 5, 2, 76, 4, 3, 75, 10, 9, 0)


def worst(statuses: Iterable[int]) -> int:
    """The exit status of several outcomes: the one that an operator has to see first; 0 for none."""
    return min(statuses, key=_WORST_FIRST.index, default=OK)


class UsersyncError(Exception):
    """The message says what was tried, on what, and what came back; `hint` what to do next. No secret, no person's data."""

    status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def retold(self, message: str, *, hint: str | None = None) -> Self:
        """The same error in other words."""
        found = type(self).__new__(type(self), message)
        found.__dict__ |= vars(self)
        found.message, found.args, found.hint = message, (message,), self.hint if hint is None else hint
        return found


class ConfigError(UsersyncError):
    """The command line, the config file, a password or a right has to be fixed by a person."""

    status = 2


class PartialError(UsersyncError):
    """Some of the work was left out; the rest is done."""

    status = 3


class Unavailable(UsersyncError):
    """A server is away, full or busy: the next run may succeed without anybody's help."""

    status = 4


class Unanswered(Unavailable):
    """A request that must not be repeated may have been carried out: look before it is sent again."""


class LoginRequired(UsersyncError):
    """A person must authorise again."""

    status = 5


class GuardRefused(UsersyncError):
    """Removing this many needs a person's approval."""

    status = 6


class Drift(UsersyncError):
    """What the source or the target looks like is not what the step was written for."""

    status = 7


class VerificationFailed(UsersyncError):
    """What we wrote is not what is there."""

    status = 8


class NotFound(UsersyncError):
    """What was named on the command line does not exist."""

    status = 9


class Conflict(UsersyncError):
    """Two things claim the same place; a person decides."""

    status = 10


class Busy(UsersyncError):
    """Another run holds the job."""

    status = 75


class Fenced(UsersyncError):
    """Another run took the job over while this one was frozen or cut off; nothing of this one was committed since."""

    status = 76


class Stopped(UsersyncError):
    """SIGINT, SIGTERM or SIGHUP arrived; what was committed stays, the rest was rolled back."""

    def __init__(self, signum: int) -> None:
        how = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        super().__init__(f"stopped by {how}; what was committed stays, the rest was rolled back", hint="run it again when you like")
        self.signum = signum

    @property
    def exit_status(self) -> int:
        """128 plus the signal's number, as shells report it."""
        return 128 + self.signum


def together(errors: Sequence[UsersyncError]) -> UsersyncError | None:
    """One error that says all of these, the worst first, which gives it its status; None for none."""
    if len(errors) < 2:
        return errors[0] if errors else None
    ordered = sorted(errors, key=lambda error: _WORST_FIRST.index(status_of(error)))
    hints = dict.fromkeys(error.hint for error in ordered if error.hint)
    return ordered[0].retold("; ".join(dict.fromkeys(error.message for error in ordered)), hint="\n".join(hints))


def status_of(error: BaseException) -> int:
    """The exit status that stands for an error; anything that is not ours is a bug."""
    if isinstance(error, Stopped):
        return error.exit_status
    return error.status if isinstance(error, UsersyncError) else 1
