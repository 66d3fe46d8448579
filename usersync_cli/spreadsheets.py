"""What a spreadsheet makes of a cell of a CSV file."""

from __future__ import annotations

import re

# A cell that begins so would be run as a formula (OWASP, "CSV Injection"); quotation marks around it change nothing.
FORMULA = re.compile(r"^(?=[-=+@\t\r\n])")


def text(cell: str) -> str:
    """The cell with a `'` in front where a spreadsheet would run it."""
    return FORMULA.sub("'", cell)
