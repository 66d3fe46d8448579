"""stdout and stderr that may be full, closed, or without a reader: what a command does never depends on them.

A log line may be lost, and a result that somebody wanted to see. Neither undoes what was copied.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

_PATIENCE_SECONDS = 10.0  # with a stream that takes nothing just now, where its other owner made it non-blocking


class _Output(io.FileIO):
    """A descriptor that takes what it can. `lost` is why something could not be written; nobody gets an error."""

    lost: OSError | None = None
    raises = False

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]  # whatever has bytes
        try:
            return self._written(data)
        except OSError as error:
            if self.raises:
                raise
            self.lost = self.lost or error
            return memoryview(data).nbytes

    def _written(self, data: bytes | bytearray | memoryview) -> int:
        while (number := super().write(data)) is None:
            if not select.select([], [self.fileno()], [], _PATIENCE_SECONDS)[1]:
                raise BlockingIOError("nobody reads")
        return number


def install() -> None:
    """Replace stdout and stderr by streams that never raise; a closed descriptor becomes /dev/null.

    Without that the next file or connection that is opened would get the descriptor's number, and what libraries write to
    stderr would end up in it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = _stream(1, sys.stdout, errors="strict")
    sys.stderr = _stream(2, sys.stderr, errors="backslashreplace")


def _stream(descriptor: int, before: TextIO | None, *, errors: str) -> TextIO:
    raw = _Output(descriptor, "w", closefd=False)
    encoding = before.encoding if before else "utf-8"
    errors = (before.errors if before else None) or errors
    buffer = io.BufferedWriter(raw)  # type: ignore[type-var]  # a FileIO that takes more
    return io.TextIOWrapper(buffer, encoding, errors, line_buffering=descriptor == 2 or raw.isatty())


_did_it_anyway = False


def result_is_elsewhere() -> None:
    """Say that what this command is called for is not what it prints: then output that is lost is no failure."""
    global _did_it_anyway  # noqa: PLW0603  one process has one command
    _did_it_anyway = True


def lost() -> OSError | None:
    """Why the result that a command is called for could not be written; None when it was, or when the reader went away
    because it had enough (`| head -1`)."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    raw = _output()
    if raw is None or _did_it_anyway or isinstance(raw.lost, BrokenPipeError):
        return None
    return raw.lost


@contextmanager
def raising() -> Iterator[None]:
    """Here whoever writes to stdout hears that it is not possible, for a command that has much to write."""
    raw = _output()
    if raw is None:
        yield
        return
    raw.raises = True
    try:
        yield
    finally:
        raw.raises = False


def _output() -> _Output | None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Output) else None
