"""Logs: what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import structlog

CODE = """
import sys
{before}
from usersync_cli import log
import structlog.dev
print("rich" in sys.modules, structlog.dev.rich is None)
import rich
log.configure("console")
log.get().info("well", rows=1)
"""


def test_the_version_that_is_known() -> None:
    """
    structlog of 2025 and 2026 looks for rich once, when it is imported.
    """
    assert 25 <= int(structlog.__version__.split(".")[0]) < 27


@pytest.mark.parametrize(("before", "there"), [("", False), ("import rich", True)])
def test_structlog_comes_without_rich(before: str, *, there: bool) -> None:
    """
    rich, which it would use for tracebacks that are never printed, is not imported with it; whoever wants it later, or had it, has it.
    """
    done = subprocess.run([sys.executable, "-c", CODE.format(before=before)], capture_output=True, text=True, check=False)

    assert (0, f"{there} True\n") == (done.returncode, done.stdout)
    assert "well" in done.stderr
