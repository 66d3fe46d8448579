"""How a preview is written: lines for people, a document for programs."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from usersync_cli.cli.diff import DiffDocument, DiffLines, escaped, quoted
from usersync_cli.errors import Stopped
from usersync_cli.model import Change, Counts
from usersync_cli.run.context import StepResult
from usersync_cli.run.job import RunResult


def lines(*changes: Change, limit: int | None = None, coloured: bool = False, counts: Counts | None = None) -> list[str]:
    """What is printed for these changes, and for a run that ended with these counts."""
    out = io.StringIO()
    printer = DiffLines(out, limit=limit, coloured=coloured)
    all(printer(change) for change in changes)
    printer.finish(RunResult("copy", "records", dry_run=True, steps=[StepResult("people", counts or Counts())]))
    return out.getvalue().splitlines()


def insert(id_: int, step: str = "people", **values: str | None) -> Change:
    return Change(step, "insert", {"id": str(id_)}, after={"id": str(id_), **values})


def update(old: str | None, new: str | None) -> str:
    """How a changed name is shown."""
    return lines(Change("people", "update", {"id": "1"}, {"name": old}, {"name": new}))[1].partition(": name ")[2]


def test_each_kind_has_its_line() -> None:
    """
    Inserts show all values, updates the old and new value of what changes, deletes and marks what goes, rejects why.
    """
    was = {"id": "4", "name": "Test User Four", "mail": None}

    assert [
        "people:",
        '  + id 1: name "Test User One", mail NULL',
        "  + id 2",
        '  ~ id 3: name "Test User 3" -> Three, mail NULL -> "NULL"',
        '  - id 4: name "Test User Four", mail NULL',
        '  x id 4: name "Test User Four", mail NULL',
        "  ! id 5, part a: rejected, 23514 (constraint age)",
        "orders:",
        "  + id 6: sum 1.50",
    ] == lines(
        insert(1, name="Test User One", mail=None),
        insert(2),
        Change("people", "update", {"id": "3"}, {"name": "Test User 3", "mail": None}, {"name": "Three", "mail": "NULL"}),
        Change("people", "delete", {"id": "4"}, was),
        Change("people", "mark", {"id": "4"}, was),
        Change("people", "reject", {"id": "5", "part": "a"}, reason="23514 (constraint age)"),
        insert(6, "orders", sum="1.50"),
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "NULL"),
        ("NULL", '"NULL"'),
        ("null", '"null"'),
        ("", '""'),
        ("two words", '"two words"'),
        ("2020-02-29 12:00:00+00", '"2020-02-29 12:00:00+00"'),
        ('"quoted"', r'"\"quoted\""'),
        (r"\x00ff", r'"\\x00ff"'),
        ("a\nb\tc", r'"a\nb\tc"'),
        ("\x1b[31m\x9b\x7f", r'"\x1b[31m\x9b\x7f"'),
        ("\u202eabc\u200f\u2066\ufeff", r'"\u202eabc\u200f\u2066\ufeff"'),
        ("\u2028\xa0\xad", r'"\u2028\xa0\xad"'),
        ("\U000e0041", r'"\U000e0041"'),
        ("Zoë 日本 שלום 🙂", '"Zoë 日本 שלום 🙂"'),
        ("test.user@example.org", "test.user@example.org"),
        ("x" * 61, f'"{"x" * 60}…"'),
    ],
)
def test_a_value_is_one_word(value: str | None, shown: str) -> None:
    """
    NULL is not the text NULL, nothing that steers a terminal or turns its text round reaches it, and letters stay letters.
    """
    assert shown == quoted(value)


def test_long_values_are_cut_around_the_difference() -> None:
    """
    What differs is seen, wherever it stands; what is short is shown whole, and so is a value beside NULL up to its limit.
    """
    start, end = "a" * 500, "b" * 500

    assert f'"…{"a" * 15}X{"b" * 44}…" -> "…{"a" * 15}Y{"b" * 44}…"' == update(f"{start}X{end}", f"{start}Y{end}")
    assert f'"…{"a" * 15}" -> "…{"a" * 15}{"b" * 45}…"' == update(start, start + end)
    assert f'"X{"a" * 59}…" -> "Y{"a" * 59}…"' == update("X" + start, "Y" + start)
    assert f'NULL -> "{"a" * 60}…"' == update(None, start)
    assert f'"" -> "{"a" * 60}…"' == update("", start)


def test_names_are_escaped_too() -> None:
    """
    A column, a step and a reason come from somebody else as well.
    """
    shown = lines(Change("st\x1bep", "insert", {"i\nd": "1"}, after={"i\nd": "1", "na\u202eme": "x"}))

    assert [r"st\x1bep:", r"  + i\nd 1: na\u202eme x"] == shown
    assert r"\x07" == escaped("\x07")


def test_no_more_than_the_limit() -> None:
    """
    After so many rows, over all steps, the printer has heard enough; it says how many it left out, if any.
    """
    counts = Counts(inserted=2, updated=1, gone=1, rejected=1)

    assert [
        "people:", "  + id 1", "  + id 2", "... and 3 more; --diff-limit 0 or --output json shows all",
    ] == lines(*map(insert, range(1, 6)), limit=2, counts=counts)  # fmt: skip
    assert ["people:", "  + id 1", "  + id 2"] == lines(insert(1), insert(2), limit=2, counts=Counts(inserted=2))
    assert 6 == len(lines(*map(insert, range(1, 6)), counts=counts))


def test_colours() -> None:
    """
    Coloured are sign and key, and the old and new value of an update; values cannot bring colours of their own.
    """
    (_, line) = lines(Change("people", "update", {"id": "1"}, {"name": "\x1b[0m"}, {"name": "b"}), coloured=True)

    assert '  \x1b[33m~ id 1\x1b[0m: name \x1b[31m"\\x1b[0m"\x1b[0m -> \x1b[32mb\x1b[0m' == line


def test_a_terminal_without_these_letters() -> None:
    """
    What the encoding of stdout lacks is escaped instead of ending the run.
    """
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    DiffLines(out, limit=None, coloured=False)(insert(1, name="Zoë" + "x" * 60))
    out.flush()

    assert f'people:\n  + id 1: name "Zo\\xeb{"x" * 57}\\u2026"\n' == out.buffer.getvalue().decode()


# the document


def document(*changes: Change, error: BaseException | None = None) -> tuple[str, dict[str, Any]]:
    """Its text, and what a program reads in it."""
    out = io.StringIO()

    def write() -> None:
        with DiffDocument(out) as printer:
            assert all(printer(change) for change in changes)
            if error:
                raise error
            printer.finish({"job": "copy", "exit_status": 0})

    if error:
        with pytest.raises(type(error)):
            write()
    else:
        write()
    return out.getvalue(), json.loads(out.getvalue() or "{}")


def test_the_document_has_everything() -> None:
    """
    Values whole and with every character, NULL as null, one change a line, so that programs may also read line by line.
    """
    long = "\x1b\u202e\n🙂" * 1000
    text, read = document(
        insert(1, name=long, mail=None),
        Change("people", "update", {"id": "2"}, {"name": None}, {"name": "NULL"}),
        Change("people", "reject", {"id": "3"}, reason="22P02"),
    )

    assert {
        "version": 1,
        "kind": "run",
        "changes": [
            {"step": "people", "kind": "insert", "key": {"id": "1"}, "before": {}, "after": {"id": "1", "name": long, "mail": None}},
            {"step": "people", "kind": "update", "key": {"id": "2"}, "before": {"name": None}, "after": {"name": "NULL"}},
            {"step": "people", "kind": "reject", "key": {"id": "3"}, "before": {}, "after": {}, "reason": "22P02"},
        ],
        "job": "copy",
        "exit_status": 0,
    } == read
    assert text.isascii()
    assert ["insert", "update", "reject"] == [json.loads(line.rstrip(","))["kind"] for line in text.splitlines()[1:-1]]


def test_a_document_without_changes() -> None:
    """
    Nothing to change is an empty list, and a run that failed before it looked has printed nothing.
    """
    assert [] == document()[1]["changes"]
    assert "" == document(error=Stopped(15))[0]


@pytest.mark.parametrize(("error", "status"), [(Stopped(15), 143), (RuntimeError("a bug"), 1)])
def test_the_document_ends_as_json(error: BaseException, status: int) -> None:
    """
    Whatever ends the run in the middle: what came before can be read, and the exit status with it.
    """
    _, read = document(insert(1), error=error)

    assert ([{"id": "1"}], status) == ([change["key"] for change in read["changes"]], read["exit_status"])


def test_nothing_more_is_written_when_nobody_reads() -> None:
    """
    A pipe that was closed is not written to again.
    """
    out = io.StringIO()
    with pytest.raises(BrokenPipeError), DiffDocument(out) as printer:
        printer(insert(1))
        raise BrokenPipeError

    assert '{"version": 1, "kind": "run", "changes": [' == out.getvalue().splitlines()[0]
    assert 2 == len(out.getvalue().splitlines())
