"""The source `file`: what files may hold, how they may change meanwhile, and what becomes of it in the table."""

from __future__ import annotations

import gzip
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.conftest import Command
from tests.simple_job import PERSON, execute
from usersync_cli.cli.bootstrap import run_context
from usersync_cli.config import loader
from usersync_cli.errors import ConfigError, Drift, Unavailable, UsersyncError
from usersync_cli.model import Cursor, Database, Documents, Page, Record, Stream
from usersync_cli.ports import Tools
from usersync_cli.run import context
from usersync_cli.run import job as run
from usersync_cli.run.job import RunResult
from usersync_cli.signals import Stop
from usersync_cli.sources import file
from usersync_cli.sources.file import formats, listing
from usersync_cli.sources.file.source import Session

NOBODY = 65534


@contextmanager
def opened(path: Path | str, **settings: Any) -> Iterator[Session]:
    """A session that has these files as stream `people`."""
    stream = {"path": str(path), "key": "id", **settings}
    source = file.Source("crm", file.Settings(type="file", streams={"people": stream}))  # type: ignore[dict-item]
    with source.open(Tools("copy", Stop(), Database)) as session:
        yield session


def pages(session: Session, since: Cursor | None = None) -> Iterator[Page]:
    return session.pages([Stream("people")], {"people": since} if since else {})


def records(path: Path | str, **settings: Any) -> list[Record]:
    """All of them, from the beginning."""
    with opened(path, **settings) as session:
        return [record for page in pages(session) for record in documents(page)]


def documents(page: Page) -> list[Record]:
    assert isinstance(page.content, Documents)
    return list(page.content.records)


def keys(path: Path | str, **settings: Any) -> list[str]:
    return [record.key for record in records(path, **settings)]


def lines(*numbers: int) -> bytes:
    return b"".join(json.dumps({"id": i, "name": f"{PERSON} {i}"}).encode() + b"\n" for i in numbers)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.jsonl"
    path.write_bytes(lines(1, 2))
    return path


# what a file holds


@pytest.mark.parametrize(
    "content",
    [
        b'{"id":1}\n{"id":2}\n',
        b'{"id":1}\n{"id":2}',
        b'\xef\xbb\xbf{"id":1}\r\n{"id":2}\r\n',
        b'\xef\xbb\xbf\n\n{"id":1}\n \t\r\n\n  {"id":2}  ',
    ],
)
def test_lines_end_as_they_like(people: Path, content: bytes) -> None:
    """
    With or without an end of the last line, from Windows, with a byte order mark, with blank lines: the same documents.
    """
    people.write_bytes(content)

    assert [b'{"id":1}', b'{"id":2}'] == [record.data for record in records(people)]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_a_complete_page_without_records(people: Path, content: bytes) -> None:
    """
    It is a full listing of nobody; what that means, the engine decides.
    """
    people.write_bytes(content)
    with opened(people) as session:
        (page,) = pages(session)

    assert ([], True, ("people",)) == (documents(page), page.complete, page.streams)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"nothing", "not_json"), (b'{"id": 1', "not_json"), (b'{"id": 1} {"id": 2}', "not_json"), (b'{"id": 1, "x": nul}', "not_json"),
        (b'{"id": NaN}', "not_json"), (b'{"id": "\xff"}', "not_json"), (b'{"id": "\\ud800"}', "not_json"),
        (b"[1]", "not_an_object"), (b'"id"', "not_an_object"), (b"null", "not_an_object"),
        (b"{}", "no_key"), (b'{"id": null}', "no_key"), (b'{"id": true}', "no_key"), (b'{"id": {"a": 1}}', "no_key"),
        (b'{"id": [1]}', "no_key"), (b'{"id": ""}', "no_key"), (b'{"ID": 1}', "no_key"),
        (b"[" * 100_000 + b"]" * 100_000, "too_deep"), (b'{"id": 1, "x": %s}' % (b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "too_deep"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_document_says_why(people: Path, line: bytes, problem: str) -> None:
    """
    Whatever stands in a line, it comes as a record with its reason, and the lines around it as they are.
    """
    people.write_bytes(lines(1) + line + b"\n" + lines(2))
    before, odd, after = records(people)

    assert (problem, "", line) == (odd.problem, odd.key, odd.data)
    assert ["1", "2"] == [before.key, after.key]


@pytest.mark.parametrize(
    ("key", "document", "found"),
    [
        ("id", '{"id": 12345678901234567890123456789.50}', "12345678901234567890123456789.50"),
        ("id", '{"id": "a\\tb\\u00e9"}', "a\tbé"),
        ("id", '{"id": 1, "id": 2}', "2"),
        ("/person/id", '{"person": {"id": 7}, "id": 1}', "7"),
        ("/a~1b/c~0d", '{"a/b": {"c~d": "x"}}', "x"),
        ("/", '{"": "x"}', "x"),
        ("a.b", '{"a.b": 1}', "1"),
        (["id", "/address/city"], '{"id": 1, "address": {"city": "A, B"}}', '(1,"A, B")'),
        ("/person/id", '{"person": 5}', ""),
        ("/person/id", '{"person": null}', ""),
    ],
)
def test_where_a_key_stands(people: Path, key: Any, document: str, found: str) -> None:
    """
    A field, a JSON pointer through objects, or several; the last of two fields of one name, as in jsonb; its digits as they are.
    """
    good = {"person": {"id": 0}, "id": 0, "address": {"city": "C"}, "a/b": {"c~d": "0"}, "": "0", "a.b": 0}
    people.write_text(f"{document}\n{json.dumps(good)}\n")

    assert found == keys(people, key=key)[0]


@pytest.mark.parametrize(
    ("type_", "given", "version"),
    [
        ("time", '"2026-01-01T00:00:00Z"', "2026-01-01T00:00:00Z"), ("time", "null", None), ("time", "1712111512345", "?"),
        ("time", "{}", "?"), ("time", "true", "?"), ("time", '""', "?"),
        ("number", "12", "12"), ("number", '"12"', "12"), ("number", "1e3", "1e3"), ("number", "[1]", "?"),
    ],
)  # fmt: skip
def test_what_a_version_is(people: Path, type_: str, given: str, version: str | None) -> None:
    """
    A time is a text (13 digits are no year 1712), a number may be one; what is neither is no version, and the engine says so.
    """
    people.write_text(f'{{"id": 1, "at": {given}}}\n{{"id": 2}}\n')
    first, second = records(people, version="at", version_type=type_)

    assert ("1", version, "", None) == (first.key, first.version, first.problem, second.version)


def test_a_version_that_is_not_there_leaves_the_key_known(people: Path) -> None:
    """
    An object that is none, on the way to the version, is a document without a version, not one without a key.
    """
    people.write_text('{"id": 1, "meta": "none"}\n{"id": 2, "meta": {"at": 5}}\n')

    assert [("1", None), ("2", "5")] == [(one.key, one.version) for one in records(people, version="/meta/at", version_type="number")]


GONE = [
    "true", "1", '"yes"', '"T"', '"2026-01-01"', '"2026-01-01T10:00:00Z"', '"2026-01-01 10:00:00+02"', '"20260101"', "1767225600",
    '"1767225600.5"', "1767225600000",
]  # fmt: skip
NOT_GONE = ["false", "null", "0", "0.0", '""', '" "', '"false"', '"No"', '"0"', '"NULL"']
UNCLEAR = [
    '"0000-00-00 00:00:00"', '"0.0"', '"off"', '"on"', '"N/A"', '"-"', '"active"', '"0001-01-01T00:00:00Z"', '"1970-01-01"', '"9999-12-31"',
    "9999999999999999999", "2", "-1", "[]", "{}", "[true]", '"31/12/2025"', '"2026-02-30"', '"1900-01-01"', '"unknown"', '"\u0660"',
]  # fmt: skip


@pytest.mark.parametrize("given", GONE)
def test_what_says_that_a_record_is_gone(people: Path, given: str) -> None:
    """
    True, yes and a time that has been do.
    """
    people.write_text(f'{{"id": 1, "gone": {given}}}\n{{"id": 2}}\n')

    assert [(True, ""), (False, "")] == [(record.deleted, record.problem) for record in records(people, deleted="gone")]


def test_what_says_that_a_record_is_there(people: Path) -> None:
    """
    What programs write for false does, be it text.
    """
    people.write_text("".join(f'{{"id": {i}, "gone": {given}}}\n' for i, given in enumerate(NOT_GONE, 1)))

    assert {(False, "")} == {(record.deleted, record.problem) for record in records(people, deleted="gone")}


def test_what_does_not_clearly_say_so_is_for_a_person(people: Path) -> None:
    """
    Other words, times that stand for none and times to come: the record is set aside, with its key.
    """
    people.write_text("".join(f'{{"id": {i}, "gone": {given}}}\n' for i, given in enumerate(UNCLEAR, 1)))

    expected = [(str(i), "deleted_unclear", False) for i, _ in enumerate(UNCLEAR, 1)]
    assert expected == [(record.key, record.problem, record.deleted) for record in records(people, deleted="gone")]


# which files


def test_a_pattern_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    """
    Each file once, plain ones and compressed ones, also in folders; a file whose own name looks like a pattern is itself.
    """
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "people-1.jsonl").write_bytes(lines(3))
    (tmp_path / "people-2.jsonl.gz").write_bytes(gzip.compress(lines(2)) + gzip.compress(lines(9)))
    (tmp_path / "people-1.jsonl").write_bytes(lines(1)[:-1])
    (tmp_path / "people-[1].jsonl").write_bytes(lines(7))

    assert ["1", "2", "9"] == keys(tmp_path / "people-[0-9].jsonl*")
    assert ["3", "1", "2", "9", "7"] == keys(tmp_path / "**" / "people-*")
    assert ["7"] == keys(tmp_path / "people-[1].jsonl")


@pytest.mark.parametrize("name", ["people.jsonl", "people-*.jsonl", "away/people.jsonl", "*/people.jsonl"])
def test_no_file_is_no_empty_listing(tmp_path: Path, name: str) -> None:
    """
    A file that is not there, or a pattern that none fits, may pass: the export is late.
    """
    with pytest.raises(Unavailable, match="there is no file"):
        records(tmp_path / name)


@pytest.mark.parametrize("kind", ["folder", "named pipe", "socket"])
@pytest.mark.parametrize("name", ["people.jsonl", "p*"])
def test_only_plain_files_are_read(tmp_path: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Whatever would have to be waited for is refused at once, and said to be what it is; a link to a file is that file.
    """
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    (tmp_path / "plain").write_bytes(lines(1))
    (tmp_path / "link").symlink_to("plain")
    assert ["1"] == keys("link")
    if kind == "folder":
        Path("people.jsonl").mkdir()
    elif kind == "named pipe":
        os.mkfifo("people.jsonl")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("people.jsonl")

    with pytest.raises(ConfigError, match=rf"people.jsonl is a {kind}, and only plain files are read"):
        records(name)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Not as root, who may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_told(home: Path) -> None:
    """
    A file without the right to read it, in a folder that may not be entered, or in one of a pattern's folders that may not
    be listed: its people would seem to be gone. Each is the file's owner's to fix.
    """
    (home / "open").mkdir()
    (home / "open" / "people.jsonl").write_bytes(lines(1))
    (home / "closed").mkdir()
    (home / "closed" / "people.jsonl").write_bytes(lines(2))
    (home / "closed").chmod(0)
    (home / "secret.jsonl").write_bytes(lines(3))
    (home / "secret.jsonl").chmod(0)
    try:
        with as_nobody():
            assert ["1"] == keys(home / "open" / "*.jsonl")
            for name, what in {"secret.jsonl": "secret.jsonl", "closed/people.jsonl": "closed/people.jsonl",
                               "*/people.jsonl": "closed", "**/people.jsonl": "closed"}.items():  # fmt: skip
                with pytest.raises(ConfigError, match=f"{what} may not be read"):
                    records(home / name)
    finally:
        (home / "closed").chmod(0o755)


# files that change meanwhile, or are broken


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_RECORDS", 2)


CHANGES = {
    "grown": lambda people: people.write_bytes(people.read_bytes() + lines(10)),
    "cut off": lambda people: os.truncate(people, 100),
    "emptied": lambda people: os.truncate(people, 0),
    "replaced": lambda people: (people.with_name("new").write_bytes(lines(*range(1, 9))), people.with_name("new").replace(people)),
    "another file": lambda people: people.with_name("people-9.jsonl").write_bytes(lines(10)),
    "gone": lambda people: people.unlink(),
}


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("after", [1, 4])
def test_a_file_that_changes_is_no_complete_listing(tmp_path: Path, how: str, after: int) -> None:
    """
    Whatever happens to the files while they are read: the reading ends with Unavailable, and the next one begins again.
    """
    people = tmp_path / "people-1.jsonl"
    people.write_bytes(lines(*range(1, 9)))
    os.utime(people, ns=(1, 1))
    with opened(tmp_path / "people-*.jsonl") as session:
        reading = pages(session)
        page = [next(reading) for _ in range(after)][-1] if after < 4 else next(reading)
        if after == 4:
            page = [next(reading) for _ in range(2)][-1]
        CHANGES[how](people)
        with pytest.raises(Unavailable):
            list(reading)
    people.write_bytes(lines(5, 6, 7))

    with opened(tmp_path / "people-*.jsonl") as session:
        again = list(pages(session, json.loads(json.dumps(page.cursor))))
    assert page.sweep != again[0].sweep
    assert "5" == documents(again[0])[0].key


@pytest.mark.usefixtures("small_pages")
def test_another_key_begins_again(people: Path) -> None:
    """
    A cursor that was made under other settings of the stream is worth nothing.
    """
    people.write_bytes(b"".join(b'{"id": %d, "uuid": "u%d"}\n' % (i, i) for i in range(1, 6)))
    with opened(people) as session:
        cursor = next(pages(session)).cursor

    with opened(people, key="uuid") as session:
        assert ["u1", "u2"] == [record.key for record in documents(next(pages(session, cursor)))]


STARTED = [
    b"{", b'{"id": 3, "na', b'{"id": 3, "name": "Test User', b'{"id": 3', b'{"id": 3} {', b'{"id": -', b'{"id": 1e', b'{"id": 3, "x": fa',
    b'{"id": 3, "name": "\xc3', b'{"id": 3, "name": "\\u00',
]  # fmt: skip


@pytest.mark.parametrize("end", STARTED)
def test_a_line_that_is_still_written_is_waited_for(people: Path, end: bytes) -> None:
    """
    A last line that is not whole is no bad record: the file is read again by the next run. One that nobody has written to for
    an hour was cut off.
    """
    people.write_bytes(lines(1, 2) + end)

    with pytest.raises(Unavailable, match=r"people.jsonl:3: the file ends in the middle of a line") as error:
        records(people)
    assert PERSON not in error.value.message + error.value.hint
    os.utime(people, (time.time() - 7300,) * 2)
    with pytest.raises(Drift, match=r"people.jsonl:3: the file ends in the middle of a line, and nobody has written to it for 2 hours"):
        records(people)


@pytest.mark.parametrize("end", [b"nothing", b"</html>", b'{"id": 3, "x": nope', b"[1", b'{"id": 3}}  {"id"'])
def test_a_last_line_that_can_never_be_one_is_a_bad_record(people: Path, end: bytes) -> None:
    """
    Nobody waits for what no further byte can put right.
    """
    people.write_bytes(lines(1, 2) + end)

    assert ["", "", "not_json"] == [record.problem for record in records(people)]


FOREIGN = {
    "UTF-16": lines(1, 2).decode().encode("utf-16"), "UTF-16 without a mark": lines(1, 2).decode().encode("utf-16-be"),
    "UTF-32": lines(1, 2).decode().encode("utf-32"), "zip": b"PK\x03\x04" + b"x" * 40, "gzip": gzip.compress(lines(1)),
    "gzip of gzip": b"", "zstd": b"\x28\xb5\x2f\xfd....", "xz": b"\xfd7zXZ\x00...", "bzip2": b"BZh91AY",
    "login page": b"<!DOCTYPE html>\n<html><title>Log in</title></html>", "page": b"\n <html>\n", "XML": b'<?xml version="1.0"?><a/>\n',
    "array": b"[" + b",".join(lines(1, 2).split(b"\n")[:2]) + b"]\n", "array of lines": b'[\n  {"id": 1},\n  {"id": 2}\n]\n',
    "SQLite": b"SQLite format 3\x00..", "zeroes": b"\0" * 5000, "PDF": b"%PDF-1.7\n", "old Excel": b"\xd0\xcf\x11\xe0....",
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_format_is_named(tmp_path: Path, kind: str) -> None:
    """
    What can never be JSON Lines is not waited for and is no list of bad records: it is told what the file looks like.
    """
    people = tmp_path / ("people.jsonl.gz" if kind == "gzip of gzip" else "people.jsonl")
    people.write_bytes(FOREIGN[kind] or gzip.compress(gzip.compress(lines(1, 2))))

    with pytest.raises(Drift, match=r"people.jsonl(.gz)? is .+, not JSON Lines") as error:
        records(people)
    with opened(people) as session, pytest.raises(Drift, match="not JSON Lines"):
        session.look("people")
    assert error.value.hint
    assert PERSON not in error.value.message + error.value.hint


@pytest.mark.parametrize(
    "content",
    [b"id;name\n1;Test\n", b'{"error": "unauthorized"}\n', b'"id"\n', b"[]\n", b'{"ID": 1}\n{"ID": 2}\n', b"{\n", b"please log in\n"],
)
def test_a_file_of_which_no_line_has_a_key_is_not_a_list_of_nobody(people: Path, content: bytes) -> None:
    """
    Another format, an error that was saved as a file, or a wrong `key`: nobody is asked to let everybody go.
    """
    people.write_bytes(content)

    with pytest.raises(Drift, match=r"lines?, and none is a document with a key \(id\)"):
        records(people)


def test_bytes_that_are_no_text_are_no_zeroes(people: Path) -> None:
    """
    Whatever else a file holds, nobody is told of a crash.
    """
    people.write_bytes(b"\x93\x00\xfe\x11\n\x07\x00\x88")

    with pytest.raises(Drift, match="2 lines, and none is a document with a key"):
        records(people)


def test_zeroes_are_no_blank_line(people: Path) -> None:
    """
    A file system that crashed leaves zeroes where people were.
    """
    people.write_bytes(lines(1, 2) + b"\0" * 100)

    with pytest.raises(Drift, match=r"people.jsonl:3: the file ends in zeroes"):
        records(people)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", EOFError), (lines(1), Drift), (gzip.compress(lines(1))[:-9], Unavailable), (gzip.compress(lines(1))[:8], Unavailable),
        (gzip.compress(lines(1))[:-8] + b"\0" * 8, Drift), (gzip.compress(lines(1)) + b"rest", Drift),
        (gzip.compress(lines(1))[:10] + b"\x07" * 40, Drift), (gzip.compress(lines(1) + b'{"id'), Unavailable),
        (gzip.compress(lines(1)) + b"\0" * 60, Drift), (gzip.compress(lines(1)) + b"\0" + gzip.compress(lines(2)), Drift),
        (gzip.compress(lines(1)) + gzip.compress(lines(2))[:3], Unavailable), (gzip.compress(lines(1)) + b"\0", Unavailable),
    ],
    ids=["empty", "plain", "without its end", "header", "wrong sum", "something behind", "no data", "half a line",
         "a member of zeroes", "zeroes between", "half a member", "one zero"],
)  # fmt: skip
def test_a_broken_archive_is_told(tmp_path: Path, content: bytes, error: type[Exception]) -> None:
    """
    Cut off, it may be whole later; what gzip did not write, somebody has to fix. An empty file is an empty file.
    """
    path = tmp_path / "people.jsonl.gz"
    path.write_bytes(content)
    if error is EOFError:
        assert [] == records(path)
        return

    with pytest.raises(error):
        records(path)


def test_a_long_line_is_read_and_an_endless_one_refused(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Memory stays bounded: a line longer than LONGEST_LINE is Drift, wherever it stands; one that is just as long is read.
    """
    monkeypatch.setattr(listing, "LONGEST_LINE", 1000)
    whole = b'{"id": 1, "x": "' + b"x" * 981 + b'"}\n'
    people.write_bytes(whole + lines(2))
    assert (1000, ["1", "2"]) == (len(whole), keys(people))
    for content in (lines(1) + b" " + whole, b" " + whole[:-1]):
        people.write_bytes(content)
        with pytest.raises(Drift, match="longer than 1,000 bytes"):
            records(people)


def test_a_page_has_not_too_many_bytes(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Long lines make small pages, and each cursor resumes behind its page.
    """
    monkeypatch.setattr(listing, "PAGE_BYTES", 50)
    people.write_bytes(b"\n".join(lines(i) for i in range(1, 8)))
    with opened(people) as session:
        read = list(pages(session))
        assert [["1", "2"], ["3", "4"], ["5", "6"], ["7"]] == [[one.key for one in documents(page)] for page in read]
        assert ["5", "6", "7"] == [one.key for page in pages(session, read[1].cursor) for one in documents(page)]


def test_members_of_an_archive_are_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    gzip may be appended to: the members, empty ones too, are one text, whatever is read at once.
    """
    path = tmp_path / "people.jsonl.gz"
    path.write_bytes(b"".join(gzip.compress(part) for part in (lines(1), b"", lines(2)[:5], lines(2)[5:] + lines(*range(3, 500)), b"")))
    for block in (1, 7, 1 << 16):
        monkeypatch.setattr(formats, "BLOCK", block)
        assert [str(i) for i in range(1, 500)] == keys(path)
    path.write_bytes(gzip.compress(b'{"id": 1, "x": "' + b"x" * 3_000_000 + b'"}\n') + gzip.compress(lines(2)))

    assert ["1", "2"] == keys(path)


@pytest.mark.usefixtures("small_pages")
def test_an_archive_is_gone_on_with(tmp_path: Path) -> None:
    """
    A cursor inside a compressed file resumes at its line.
    """
    path = tmp_path / "people.jsonl.gz"
    path.write_bytes(gzip.compress(lines(*range(1, 8))))
    with opened(path) as session:
        first = next(pages(session))
    with opened(path) as session:
        assert ["3", "4", "5", "6", "7"] == [one.key for page in pages(session, first.cursor) for one in documents(page)]


def test_the_account_is_the_folder(tmp_path: Path) -> None:
    """
    Another folder is another account, another pattern in it is not.
    """
    for path in ("people.jsonl", "*.jsonl", "2026-*/people.jsonl", "**/x"):
        with opened(tmp_path / path) as session:
            assert str(tmp_path) == session.account
    with opened(tmp_path / "other" / "people.jsonl") as session:
        assert str(tmp_path / "other") == session.account


# in the table


class Job:
    """Job `copy`: people.jsonl beside the config file into the table people of `target`."""

    def __init__(self, folder: Path, target: Database) -> None:
        self.folder, self.target = folder, target
        self.step: dict[str, Any] = {
            "extract": {"source": "crm", "streams": ["people"]}, "load": {"table": "people", "key": ["id"], "create": True},
        }  # fmt: skip
        self.stream: dict[str, Any] = {"path": "people.jsonl", "key": "id"}

    def write(self, content: bytes) -> None:
        (self.folder / "people.jsonl").write_bytes(content)

    def run(self, **options: Any) -> RunResult:
        sources = {"crm": {"type": "file", "streams": {"people": self.stream}}}
        document = {"environment": "test", "target": self.target.url, "sources": sources, "jobs": {"copy": {"steps": [self.step]}}}
        (self.folder / "config.yaml").write_text(json.dumps(document))
        settings = loader.load(self.folder / "config.yaml", {})
        job = settings.job("copy")
        return run.run(job, run_context(settings, job, Stop()), context.Options(**options))

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        return execute(self.target.url, query)

    def rejects(self) -> list[tuple[Any, ...]]:
        return self.ask('SELECT key, reason, detail FROM usersync.rejects ORDER BY key COLLATE "C"')


@pytest.fixture
def job(usersync: Command, database: Database) -> Job:
    servers.migrate(database)
    return Job(usersync.folder, database)


def test_documents_keep_every_digit(job: Job) -> None:
    """
    30 digits, before and behind the point, and every sign of Unicode are in jsonb what they were in the file.
    """
    document = '{"id": 1, "n": 123456789012345678901234567890.123456789012345678901234567890, "s": "é☃𝄞\\u00e9"}'
    job.write(document.encode() + b"\n")
    result = job.run()

    assert (0, None) == (result.exit_status, result.steps[0].error)
    expected = [("1", "123456789012345678901234567890.123456789012345678901234567890", "é☃𝄞é")]
    assert expected == job.ask("SELECT id, data ->> 'n', data ->> 's' FROM people")


def test_odd_lines_are_rejects_and_nothing_more(job: Job) -> None:
    """
    What can't be a document, a key or a jsonb is set aside with its reason, one row each; all others are loaded, twice is once.
    """
    odd = [
        b'{"id": 10, "x": "\\u0000"}', b'{"id": 11, "x": "\\ud800"}', b'{"id": 12, "x": "\xff"}', b'{"id": "a\\u0000b"}', b"[]",
        b'{"id": 13, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"id": 14, "x": 1e200000}', b'{"id": 15, "at": 5}',
    ]  # fmt: skip
    job.write(lines(*range(1, 9)) + b"\n".join([*odd, b'{"id": 1, "id": 9}', b""]))
    job.stream["version"] = "at"
    for inserted, unchanged in ((9, 0), (0, 9)):
        result = job.run()
        counts = result.steps[0].counts
        assert (3, inserted, unchanged, len(odd)) == (result.exit_status, counts.inserted, counts.unchanged, counts.rejected)

        assert [(str(i),) for i in range(1, 10)] == job.ask("SELECT id FROM people ORDER BY id")
        found = job.ask("SELECT reason, count(*) FROM usersync.rejects GROUP BY 1 ORDER BY 1")
        assert [("bad_version", 1), ("no_key", 1), ("not_an_object", 1), ("not_json", 2), ("numeric_value_out_of_range", 1),
                ("too_deep", 1), ("untranslatable_character", 1)] == found  # fmt: skip


@pytest.mark.parametrize("on_missing", ["keep", "delete"])
def test_a_huge_key_is_a_reject(job: Job, on_missing: str) -> None:
    """
    A key that no index could hold is set aside under a short one that is its own; those around it are loaded.
    """
    job.step["load"]["on_missing"] = on_missing
    chance = "".join(f"{i * 7919 % 9973:x}" for i in range(4000))
    huge = [(chance[:10_000] + end).encode() for end in "ab"]
    longest = chance[:2000].encode()
    job.write(lines(1, 2, 3, 4, 5) + b"".join(b'{"id": "%s"}\n' % key for key in [*huge, longest]))
    for _ in range(2):
        result = job.run()
        assert (3, 2) == (result.exit_status, result.steps[0].counts.rejected), result.steps[0].error
        assert ["key_too_long"] * 2 == [reason for _, reason, _ in job.rejects()]
        assert all(key.startswith(chance[:64]) and len(key) < 200 for key, _, _ in job.rejects())
        assert [(6,)] == job.ask("SELECT count(*) FROM people")
    job.write(lines(2, 3, 4, 5) + b'{"id": "%s"}\n' % longest)

    assert 0 == job.run().exit_status
    assert [] == job.rejects()
    assert [(5 if on_missing == "delete" else 6,)] == job.ask("SELECT count(*) FROM people")


def test_a_value_that_no_index_holds_is_a_reject(job: Job) -> None:
    """
    An index of the table that can't hold a value refuses that record alone, with the name of what refused.
    """
    job.step["transform"] = "SELECT key::int AS id, data ->> 'name' AS name FROM records"
    job.ask("CREATE TABLE people (id int PRIMARY KEY, name text); CREATE INDEX ON people (name)")
    chance = "".join(f"{i * 7919 % 9973:x}" for i in range(4000)).encode()
    job.write(lines(1, 2) + b'{"id": 3, "name": "%s"}\n' % chance + lines(4, 5))
    result = job.run()

    assert (3, 4, 1) == (result.exit_status, result.steps[0].counts.inserted, result.steps[0].counts.rejected), result.steps[0].error
    assert [("3", "program_limit_exceeded", "")] == job.rejects(), "PostgreSQL does not say which index"


def test_a_document_of_64_megabytes(job: Job) -> None:
    """
    The longest line that is read can be loaded too; it may take a while, and must not take the run with it.
    """
    document = b'{"id": 1, "x": "' + b"x" * (listing.LONGEST_LINE - 19) + b'"}\n'
    assert listing.LONGEST_LINE == len(document)
    job.write(document + lines(2))
    result = job.run()

    assert 0 == result.exit_status, result.steps[0].error
    assert [("1", listing.LONGEST_LINE - 19), ("2", None)] == job.ask("SELECT id, length(data ->> 'x') FROM people ORDER BY id")


def test_a_file_that_grows_is_loaded_up_to_there(job: Job) -> None:
    """
    What stood in whole pages is in the table, nobody is removed, the status says to try again (4), and the next run does it all.
    """
    job.step["load"]["on_missing"] = "delete"
    job.write(lines(*range(1, 21)))
    assert 0 == job.run().exit_status
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "PAGE_RECORDS", 5)
        job.write(lines(*range(2, 20), 21, 22, 23) + b'{"id": 2')
        result = job.run()
        assert (4, "copy: failed, 20 records of this step are done") == (
            result.exit_status, run.line(result, result.steps[0]).partition(" (")[0]
        )  # fmt: skip
    assert [(21,)] == job.ask("SELECT count(*) FROM people WHERE id::int <= 20 OR id = '21'")
    job.write(lines(*range(2, 25)))

    assert 0 == job.run().exit_status
    assert [(str(i),) for i in range(2, 25)] == job.ask("SELECT id FROM people ORDER BY id::int")


def test_who_is_not_clearly_gone_stays(job: Job) -> None:
    """
    A reject, and status 3, until somebody has looked; the row stays, and so does who says nothing.
    """
    job.stream["deleted"] = "gone"
    job.step["load"]["on_missing"] = "delete"
    job.write(lines(1, 2, 3, 4))
    assert 0 == job.run().exit_status
    for word in ("N/A", "0000-00-00 00:00:00"):
        job.write(lines(1, 2, 3) + b'{"id": 4, "gone": "%s"}\n' % word.encode())
        result = job.run()
        assert (3, 0) == (result.exit_status, result.steps[0].counts.gone)
    assert [("4", "deleted_unclear", "")] == job.rejects()
    assert [(4,)] == job.ask("SELECT count(*) FROM people")
    job.write(lines(1, 2, 3) + b'{"id": 4, "gone": "2026-01-31"}\n')
    result = job.run()

    assert (0, 1, []) == (result.exit_status, result.steps[0].counts.gone, job.rejects())
    assert [("1",), ("2",), ("3",)] == job.ask("SELECT id FROM people ORDER BY id")


def test_an_empty_file_removes_nobody(job: Job) -> None:
    """
    A file that lost its content is a source that fell silent.
    """
    job.step["load"]["on_missing"] = "delete"
    job.write(b"")
    assert 0 == job.run().exit_status
    job.write(lines(1, 2, 3))
    assert 0 == job.run().exit_status
    job.write(b"\n")

    assert 7 == job.run().exit_status
    assert [(3,)] == job.ask("SELECT count(*) FROM people")


@pytest.mark.usefixtures("small_pages")
def test_a_stopped_reading_goes_on_where_it_was(job: Job) -> None:
    """
    The run after one that ended in the middle reads the rest, not the whole file, and knows all of it at the end.
    """
    job.write(lines(*range(1, 8)) + b'{"id"')
    assert 4 == job.run().exit_status
    (cursor,) = job.ask("SELECT value FROM usersync.cursors")[0]
    stamp = (job.folder / "people.jsonl").stat()
    with (job.folder / "people.jsonl").open("r+b") as stream:
        stream.seek(stamp.st_size - 5)
        stream.write(b"     ")
    os.utime(job.folder / "people.jsonl", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    result = job.run()

    assert 3 == cursor["line"] - 3
    assert (0, 1) == (result.exit_status, result.steps[0].counts.read)
    assert [("ok", 7)] == job.ask("SELECT outcome, records FROM usersync.sweeps")


def test_errors_show_no_person(job: Job) -> None:
    """
    Neither a broken line nor a bad value is quoted.
    """
    job.step["transform"] = "SELECT key::int AS id, (data ->> 'name')::int AS name FROM records"
    job.write(lines(1, 2, 3) + b'{"name": "Test User')
    for content in (lines(1, 2, 3), lines(1) + b'{"name": "Test User'):
        job.write(content)
        error = job.run().steps[0].error
        assert isinstance(error, UsersyncError)
        assert PERSON not in error.message + error.hint
