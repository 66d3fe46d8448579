"""What an app may be called, by a person and by the config file alike: a name that nobody takes for an id, an address or two words."""

from __future__ import annotations

import re

RULE = "must be letters, digits, _ and -, with dots between parts, such as crm.companies; a letter first, 63 characters at most"
_APP = re.compile(r"[^\W\d_][\w-]*(?:\.[\w-]+)*")


def is_app(name: str) -> bool:
    """Whether an app may be called so: `crm`, or `crm.companies` for one of its objects."""
    return len(name) <= 63 and bool(_APP.fullmatch(name))
