"""First passwords, which people change when they log in."""

from __future__ import annotations

import itertools
import secrets
import string

SIGNS = "!@#$%^&*"
CLASSES = (string.ascii_lowercase, string.ascii_uppercase, string.digits, SIGNS)
SHORTEST, LONGEST = 12, 50


def temporary_password(length: int = 16) -> str:
    """At least one character of each class, and no two equal neighbours; all such passwords are as likely as each other.

    Raises ValueError for a length that is not between 12 and 50.
    """
    if not SHORTEST <= length <= LONGEST:
        raise ValueError(f"a first password has {SHORTEST} to {LONGEST} characters")
    letters = "".join(CLASSES)
    while True:
        made = "".join(secrets.choice(letters) for _ in range(length))
        if all(any(one in kind for one in made) for kind in CLASSES) and all(one != other for one, other in itertools.pairwise(made)):
            return made
