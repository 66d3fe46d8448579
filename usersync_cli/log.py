"""Logs on stderr: short past-tense events with keys and counts, never a person's data. JSON unless a terminal reads them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def _without(module: str) -> Iterator[None]:
    """No such module to what is imported meanwhile: None is how an import is told so.

    structlog imports rich where it finds it, for tracebacks that we never print: 50 ms and 6 MB of every run. Known to fit the
    versions that pyproject.toml allows; tests/test_log.py looks.
    """
    there = sys.modules.pop(module, None)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
        if there:
            sys.modules[module] = there


with _without("rich"):
    import structlog

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


_for_people = True
_quiet = False
_most: int | None = None  # lines for people on stderr
_said = 0


def configure(format_: str = "auto", *, verbosity: int = 0, quiet: bool = False, most: int | None = None) -> None:
    """`format_` is auto, console or json; quiet leaves nothing but failures, in plain text; verbosity 1 adds debug events.

    `most` is how many lines for people there may be.
    """
    global _for_people, _quiet, _most, _said
    _quiet, _for_people, _most, _said = quiet, quiet or format_ != "json", most, 0
    if format_ == "auto":
        format_ = "console" if sys.stderr.isatty() else "json"
    level = "error" if quiet else "debug" if verbosity else "info"
    renderer: Any = structlog.processors.JSONRenderer()
    if format_ == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=coloured(sys.stderr))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        # Looked up for each line: while a progress bar is shown, sys.stderr is another.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def coloured(stream: TextIO) -> bool:
    """Whether what is written there may have colours: on a terminal, unless NO_COLOR (no-color.org) is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def get(**bound: Any) -> Any:
    """A logger with these facts bound to it."""
    return structlog.get_logger(**bound)


def once(event: str, **facts: Any) -> None:
    """A warning that comes once and not every night: quiet runs tell it too, because not all went well."""
    if not _quiet:
        get().warning(event, **facts)
        return
    _say(f"usersync: {event} ({', '.join(f'{name} {value}' for name, value in facts.items())})")


def failure(message: str, hint: str, *, status: int, **facts: Any) -> None:
    """What failed and what to do: lines for people, one event where JSON was asked for."""
    if _for_people:
        tell([f"usersync: {message}", *(f"  {line}" for line in hint.splitlines())])
    else:
        get(**facts).error("failed", error=message, hint=hint or None, status=status)


def tell(lines: Sequence[str], *, last: Sequence[str] = (), kept: int = 0) -> None:
    """Lines for people, then the last ones; some are left out where they would be too many, `kept` lines elsewhere included."""
    lines = [line for text in lines for line in text.splitlines()]
    room = len(lines) if _most is None else max(2, _most - _said - kept - len(last))
    if len(lines) > room:
        lines = [*lines[: room - 1], f"  {len(lines) - room + 1} more lines without -q"]
    for line in (*lines, *last):
        _say(line)


def report_bug(error: BaseException) -> None:
    """What a person needs to report a bug: the kind of error and the places, without any value and without the error's
    own text, which may quote rows."""
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    _say(f"usersync: internal error: {type(error).__name__} at {' < '.join(reversed(places[-6:]))}")
    _say("  this is a bug: please report this line; what was committed stays, the rest was rolled back")


def _say(line: str) -> None:
    global _said  # noqa: PLW0603  one process has one stderr
    _said += 1
    sys.stderr.write(line + "\n")
