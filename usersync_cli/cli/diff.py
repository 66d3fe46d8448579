"""What `run --dry-run --diff` shows, change by change as it comes: lines for people, or a part of the run's JSON document.

Lines hold people's data, as asked for; log and messages never do.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

import click

from usersync_cli import stdio
from usersync_cli.cli import answered

if TYPE_CHECKING:
    from usersync_cli.model import Change
    from usersync_cli.run.job import RunResult

TERMINAL_ROWS = 50  # shown on a terminal, unless --diff-limit says otherwise
LONGEST = 60  # characters of a value in a line; JSON has all of them
CLOSED = 141  # as shells report that nobody reads on: 128 and SIGPIPE
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BARE = re.compile(r"[\w@.:+/-]{1,60}", re.ASCII)  # values that need no quotes
_SIGNS = {
    "insert": ("+", "green"),
    "update": ("~", "yellow"),
    "delete": ("-", "red"),
    "mark": ("x", "red"),
    "disable": ("x", "red"),
    "reject": ("!", "magenta"),
    "map": ("=", "green"),
    "unmap": ("/", "red"),
    "conflict": ("?", "magenta"),
}


class DiffLines:
    """One line a row, under the name of its step; no more than `limit` rows, None for all."""

    def __init__(self, out: TextIO, *, limit: int | None, coloured: bool) -> None:
        self._out, self._limit, self._coloured = out, limit, coloured
        self._step: str | None = None
        self._shown = 0

    def __call__(self, change: Change) -> bool:
        """Print it. False when no more is wanted."""
        if self._full():
            return False
        if change.step != self._step:
            self._step = change.step
            self._write(f"{escaped(change.step)}:")
        self._write("  " + self._line(change))
        self._shown += 1
        return not self._full()

    def finish(self, result: RunResult) -> None:
        """How many rows are not shown, where there are any."""
        counts = [step.counts for step in result.steps]
        ids = sum(one.mapped + one.conflicts + one.closed for step in result.steps if (one := step.identity))
        more = sum(c.inserted + c.updated + c.gone + c.rejected for c in counts) + ids - self._shown
        if self._full() and more > 0:
            self._write(f"... and {more:,} more; --diff-limit 0 or --output json shows all")
        for step in result.steps:
            if step.duplicate_keys:
                self._write(f"more than once in step {step.name}: {', '.join(map(quoted, step.duplicate_keys))}")
        self._out.flush()

    def _full(self) -> bool:
        return self._limit is not None and self._shown >= self._limit

    def _line(self, change: Change) -> str:
        sign, colour = _SIGNS[change.kind]
        start = self._style(f"{sign} {_named(change.key)}", colour)
        if change.kind in {"update", "disable"}:
            told = f" ({escaped(change.reason)})" if change.reason else ""
            return f"{start}{told}: {', '.join(self._pair(name, change.before.get(name), value) for name, value in change.after.items())}"
        if change.kind in {"map", "unmap", "conflict"}:
            return f"{start}: {_of_the_map(change)}"
        rest = (
            f"rejected, {escaped(change.reason)}"
            if change.kind == "reject"
            else _named(_without(change.key, change.after or change.before))
        )
        return f"{start}: {rest}" if rest else start

    def _pair(self, name: str, old: str | None, new: str | None) -> str:
        """Where both are long, from the place where they begin to differ."""
        skipped = 0
        if old and new and max(len(old), len(new)) > LONGEST:
            same = len(os.path.commonprefix([old, new]))  # noqa: RUF071  character by character is what is meant
            skipped = max(0, same - LONGEST // 4)
        was, is_ = (self._style(quoted(value, skipped), colour) for value, colour in ((old, "red"), (new, "green")))
        return f"{escaped(name)} {was} -> {is_}"

    def _style(self, text: str, colour: str) -> str:
        return click.style(text, fg=colour) if self._coloured else text

    def _write(self, line: str) -> None:
        encoding = self._out.encoding or "utf-8"
        self._out.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _of_the_map(change: Change) -> str:
    """Whose an id is, will be, or may be."""
    was, will = (quoted(one["customer"]) if "customer" in one else "" for one in (change.before, change.after))
    why = f" ({escaped(change.reason)})" if change.reason else ""
    if change.kind == "map":
        return f"customer {will}{why}"
    if change.kind == "unmap":
        return f"customer {was} no more{why}"
    return f"stays with customer {was}{f', and may be {will}' if will else ''}: a conflict{why}"


class DiffDocument:
    """The run's JSON with every change in it, one a line. It ends as JSON whatever ends the run."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._begun = self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        from usersync_cli.errors import status_of

        if error and self._begun and not self._ended and not isinstance(error, OSError):  # an OSError is that nobody reads on
            self.finish({"exit_status": status_of(error)})

    def __call__(self, change: Change) -> bool:
        """Write it; all are wanted."""
        row = {
            "step": change.step,
            "kind": change.kind,
            "key": dict(change.key),
            "before": dict(change.before),
            "after": dict(change.after),
        }
        if change.reason:
            row["reason"] = change.reason
        self._out.write((",\n" if self._begun else self._head()) + json.dumps(row))
        return True

    def finish(self, rest: Mapping[str, Any]) -> None:
        """Close the changes, and say the rest of the document."""
        self._out.write(("" if self._begun else self._head()) + "\n], " + json.dumps(rest, default=str)[1:] + "\n")
        self._out.flush()
        self._ended = True

    def _head(self) -> str:
        self._begun = True
        answered()
        return '{"version": 1, "kind": "run", "changes": [\n'


@contextmanager
def as_long_as_somebody_reads() -> Iterator[None]:
    """Ends the command quietly, with CLOSED, when stdout is closed (`| head`); raises Unavailable when its disk is full."""
    try:
        with stdio.raising():
            yield
            sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and error.errno not in FULL:
            raise
        if isinstance(error, BrokenPipeError):
            raise click.exceptions.Exit(CLOSED) from None
        from usersync_cli.errors import Unavailable

        raise Unavailable(f"the result can't be written: {error.strerror}", hint="make room, or write it elsewhere") from error


def quoted(value: str | None, skipped: int = 0) -> str:
    """A value as a word of a line: NULL, bare when nothing could be mistaken, else in quotes; what is long is cut."""
    if value is None:
        return "NULL"
    if not skipped and _BARE.fullmatch(value) and value.upper() != "NULL":
        return value
    head, tail = "…" if skipped else "", "…" if len(value) > skipped + LONGEST else ""
    part = value[skipped : skipped + LONGEST].replace("\\", "\\\\").replace('"', '\\"')
    return f'"{head}{escaped(part)}{tail}"'


def escaped(text: str) -> str:
    """Without what a terminal obeys or hides: control and format characters (escape sequences, right-to-left marks)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _named(values: Mapping[str, str | None]) -> str:
    return ", ".join(f"{escaped(name)} {quoted(value)}" for name, value in values.items())


def _without(names: Iterable[str], values: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name: value for name, value in values.items() if name not in set(names)}
