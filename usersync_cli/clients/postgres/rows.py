"""Rows as text, as PostgreSQL writes a record of several parts: `(a,"b c")`."""

from __future__ import annotations

import re
from collections.abc import Sequence


def key_of(parts: Sequence[str]) -> str:
    """The key of a record that has several parts, as `merge.key_text` writes that of a row: like a record of PostgreSQL."""
    shown = []
    for part in parts:
        escaped = part.replace("\\", "\\\\").replace('"', '""')
        shown.append(f'"{escaped}"' if not part or re.search(r'[\s"\\(),]', part, re.ASCII) else part)
    return f"({','.join(shown)})"
