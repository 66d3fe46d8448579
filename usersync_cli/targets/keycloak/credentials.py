"""The file of first passwords (`--credentials-out`)."""

from __future__ import annotations

import csv
import io
import os
import stat
from pathlib import Path

from usersync_cli import spreadsheets
from usersync_cli.errors import ConfigError


class Credentials:
    """A file of first passwords, mode 0600: CSV with the columns username and password. Each line is flushed to disk at once.

    Of two lines for one person the last is good: the line is written before the outcome of the call, so that a run which is
    killed between the two leaves a line more, never a line less.
    """

    def __init__(self, file: Path) -> None:
        try:
            self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"--credentials-out {file} can't be written: {error.strerror}", hint="name a file in a folder where you may write"
            ) from None
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            os.close(self._descriptor)
            raise ConfigError(
                f"--credentials-out {file} is no file that you alone can read", hint="chmod 600 it, or name another; nothing was written"
            )
        if not found.st_size:
            self._line("username", "password")

    def write(self, username: str, password: str) -> None:
        self._line(username, password)
        os.fsync(self._descriptor)

    def _line(self, *cells: str) -> None:
        line = io.StringIO()
        csv.writer(line).writerow(spreadsheets.text(cell) for cell in cells)
        os.write(self._descriptor, line.getvalue().encode())

    def close(self) -> None:
        os.close(self._descriptor)
