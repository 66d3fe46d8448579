"""First passwords, which people change when they log in: made of what their realm asks for."""

from __future__ import annotations

import itertools
import secrets
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from usersync_cli.spreadsheets import FORMULA

LOWER, UPPER, DIGITS, SIGNS = string.ascii_lowercase, string.ascii_uppercase, string.digits, "!@#$%^&*"
USUAL = 16  # characters, where nobody asks for more or allows less
TRIES = 100  # at a password of one kind, before it is given up
FIRST = 4  # of the best kind, before others are tried

# Which characters a password is made of, the best first; the others are for policies that we can't read.
KINDS = (
    (LOWER, UPPER, DIGITS, SIGNS), (LOWER, UPPER, DIGITS), (LOWER, UPPER, SIGNS), (LOWER, DIGITS, SIGNS), (UPPER, DIGITS, SIGNS),
    (LOWER, UPPER), (LOWER, DIGITS), (UPPER, DIGITS), (LOWER,), (UPPER,), (DIGITS,),
)  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """What a password has to be. `least` is how many characters of LOWER, UPPER, DIGITS and SIGNS it has at least."""

    shortest: int = 0
    longest: int = 1000
    least: Mapping[str, int] = field(default_factory=dict)
    words: Sequence[str] = field(default=(), repr=False)  # it does not hold these, in any case
    fits: Callable[[str], bool] = lambda _password: True  # as far as we can tell

    def without(self, *words: str) -> Policy:
        """The policy for one person: their own names must not be in the password."""
        return replace(self, words=[word.casefold() for word in words if word])

    @property
    def length(self) -> int:
        """How many characters our passwords have; more than `longest` where no password can meet the policy."""
        return max(min(USUAL, self.longest), self.shortest, sum(self.least.values()))


def first_passwords(policy: Policy) -> Iterator[str]:
    """Passwords to be tried one after the other, the best first: FIRST of all kinds of characters, then one of each other kind.

    None begins with a sign that a spreadsheet takes for a formula. Ends at once where nothing fits.
    """
    if policy.length > policy.longest:
        return
    for kind in KINDS:
        for _ in range(FIRST if kind is KINDS[0] else 1):
            if (made := _made(policy, kind)) is None:
                break
            yield made


def _made(policy: Policy, kind: Sequence[str]) -> str | None:
    """A password of these characters that fits, as far as we know."""
    least = {characters: policy.least.get(characters, 0) for characters in (LOWER, UPPER, DIGITS, SIGNS)}
    if any(number and characters not in kind for characters, number in least.items()):
        return None
    if sum(least.values()) + sum(not least[characters] for characters in kind) <= policy.length:
        least |= {characters: max(1, least[characters]) for characters in kind}
    drawn = (_drawn(policy.length, least, kind) for _ in range(TRIES))
    return next((password for password in drawn if _is_good(password) and _fits(policy, password)), None)


def _drawn(length: int, least: Mapping[str, int], kind: Sequence[str]) -> str:
    letters = [secrets.choice(characters) for characters, number in least.items() for _ in range(number)]
    everything = "".join(kind)
    letters += [secrets.choice(everything) for _ in range(length - len(letters))]
    secrets.SystemRandom().shuffle(letters)
    return "".join(letters)


def _is_good(password: str) -> bool:
    """No two equal neighbours, which people misread, and no formula."""
    return not FORMULA.match(password) and all(one != other for one, other in itertools.pairwise(password))


def _fits(policy: Policy, password: str) -> bool:
    return not any(word in password.casefold() for word in policy.words) and policy.fits(password)
