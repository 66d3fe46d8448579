"""`usersync mappings import` and `export`: a file in one transaction, wrong lines set aside, and there and back again."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from tests.cli.maps import Maps, maps

__all__ = ["maps"]  # a fixture
THEIRS = "11111111-1111-4111-8111-111111111111"


def file(maps: Maps, text: str | bytes) -> str:
    """A file with this in it."""
    found = maps.folder / "mappings.csv"
    found.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(found)


def load(maps: Maps, text: str | bytes, *more: str, status: int = 0) -> dict[str, Any]:
    return maps.json("mappings", "import", file(maps, text), *more, status=status)


def counts(found: dict[str, Any]) -> tuple[int, ...]:
    return tuple(found[name] for name in ("created", "pinned", "moved", "there", "new_customers", "rejected"))


def test_a_file_is_imported_once(maps: Maps) -> None:
    """
    Columns in any order; new domains become customers; what a rule has said is pinned; the same file again writes nothing.
    """
    maps.map("shop", "2", "example.org")
    text = "customer,note,id,app\nexample.com,,1,shop\nExample.ORG.,,2,shop\nexample.com,,1,shop\n"
    first = load(maps, text, "--by", "Test User", "--reason", "a list")
    before = maps.everything()
    again = load(maps, text, "--by", "Another User")

    assert (1, 1, 0, 0, 1, 0) == counts(first)
    assert ["note"] == first["ignored_columns"]
    assert [("example.com", True), ("example.org", True)] == [maps.whose("shop", "1"), maps.whose("shop", "2")]
    assert {("Test User", "a list")} == set(maps.ask("SELECT decided_by, reason FROM usersync.mappings"))
    assert (0, 0, 0, 2, 0, 0) == counts(again)
    assert before == maps.everything()


def test_wrong_lines_are_set_aside_and_the_others_imported(maps: Maps) -> None:
    """
    Each with its line and reason, kept as rejects until the file is right; exit status 3 until then.
    """
    maps.map("shop", "9", "example.net")
    lines = [
        "shop,1,example.com",
        "nope,2,example.com",
        "shop,3,test.user@example.com",
        "shop,4",
        ",5,example.com",
        "shop,6,",
        f"shop,7,{THEIRS}",
        "shop,8,example.com",
        "shop,8,example.org",
        "shop,9,example.com",
    ]
    found = load(maps, "\n".join(["app,id,customer", *lines]), status=3)
    rejects = {one["key"]: one["reason"] for one in maps.json("rejects", "list", "--job", "mappings import")["rejects"]}
    wrong = {
        3: "unknown_app", 4: "bad_domain", 5: "cells", 6: "empty", 7: "empty", 8: "unknown_customer", 9: "said_twice", 10: "said_twice",
        11: "somebody_elses",
    }  # fmt: skip

    assert (1, 0, 9) == tuple(found[name] for name in ("created", "moved", "rejected"))
    assert ("example.net", False) == maps.whose("shop", "9")
    assert wrong == {one["line"]: one["reason"] for one in found["rejects"]}
    assert {f"line {line}": reason for line, reason in wrong.items()} == rejects
    assert "test.user" not in str([one["detail"] for one in found["rejects"]])
    assert "example.net" in found["rejects"][-1]["detail"]
    fixed = load(maps, "\n".join(["app,id,customer", lines[0], "nope,2,example.com"]), status=3)
    assert 1 == fixed["rejected"]
    assert [("line 3",)] == maps.ask("SELECT key FROM usersync.rejects")
    assert 0 == maps("rejects", "drop", str(maps.ask("SELECT id FROM usersync.rejects")[0][0])).status
    load(maps, "\n".join(["app,id,customer", lines[0], "nope,2,example.com"]), status=0)


def test_move_moves_and_answers(maps: Maps) -> None:
    """
    With --move an id goes to another customer, as with `create --move`.
    """
    maps.map("shop", "1", "example.com")
    number = maps.conflict("domain", "shop:1", domain="example.org")

    assert (0, 0, 1, 0, 1, 0) == counts(load(maps, "app,id,domain\nshop,1,example.org\n", "--move"))
    assert ("example.org", True) == maps.whose("shop", "1")
    assert [("accepted",)] == maps.ask("SELECT status FROM usersync.identity_conflicts WHERE id = %s", int(number))
    assert [("moved",)] == maps.ask("SELECT closed_because FROM usersync.closed_mappings")


def test_a_dry_run_says_the_same_and_writes_nothing(maps: Maps) -> None:
    """
    Its numbers are those that the import then has.
    """
    maps.map("shop", "1", "example.com")
    text = "app,id,customer\nshop,1,example.com\nshop,2,example.org\nnope,3,example.org\n"
    before = maps.everything()
    dry = load(maps, text, "--dry-run", status=3)

    assert before == maps.everything()
    assert counts(dry) == counts(load(maps, text, status=3)) == (1, 1, 0, 0, 1, 1)


def test_uuids_of_the_file_are_kept(maps: Maps) -> None:
    """
    A customer that is new gets the uuid that the file has for its domain; one that is known by another uuid or domain is set aside.
    """
    known = maps.customer("example.org")
    rows = [("1", "example.com", THEIRS), ("2", "example.com", ""), ("3", "example.org", THEIRS), ("4", "example.net", known)]
    text = "app,app_id,domain,uuid\n" + "".join(f"shop,{','.join(row)}\n" for row in rows)
    found = load(maps, text, status=3)

    assert {4: "uuid_and_domain_differ", 5: "uuid_and_domain_differ"} == {one["line"]: one["reason"] for one in found["rejects"]}
    assert [(THEIRS, "example.com")] == maps.ask("SELECT uuid::text, domain FROM usersync.customers WHERE uuid <> %s", known)
    assert ("example.com", True) == maps.whose("shop", "1") == maps.whose("shop", "2")


def test_a_line_that_contradicts_itself_is_set_aside(maps: Maps) -> None:
    """
    customer may repeat what domain or uuid say; where it is another, nobody knows which is meant.
    """
    rows = [
        ("example.com", "Example.COM", ""),
        ("example.com", "example.org", ""),
        (THEIRS, "example.net", THEIRS.upper()),
        (THEIRS, "", "x"),
    ]
    text = "app,id,customer,domain,uuid\n" + "".join(f"shop,{number},{','.join(row)}\n" for number, row in enumerate(rows))
    found = load(maps, text, status=3)

    assert {3: "customer_differs", 5: "customer_differs"} == {one["line"]: one["reason"] for one in found["rejects"]}
    assert (("example.com", True), ("example.net", True)) == (maps.whose("shop", "0"), maps.whose("shop", "2"))


HEADERS = {
    "id,customer\n": "there is no column app",
    "app,customer\n": "there is no column id",
    "app,id\n": "there is no column customer (or domain, or uuid)",
    "app,id,id,customer\n": "column id is there twice",
    "": "is empty",
    'app,id,customer\nshop,"1,example.com\n': "line 2",
}


@pytest.mark.parametrize("text", HEADERS)
def test_a_file_that_can_not_be_read_changes_nothing(maps: Maps, text: str) -> None:
    """
    A column that is missing is named; so is the line where the file is no CSV.
    """
    found = maps("mappings", "import", file(maps, text))

    assert 2 == found.status
    assert HEADERS[text] in found.stderr


def test_encodings_marks_and_delimiters(maps: Maps) -> None:
    """
    A byte order mark says what the text is; --encoding says it otherwise; the header says what stands between cells.
    """
    text = "app;id;customer\r\nshop;{};münchen.example\r\n"
    for number, (encoding, *more) in enumerate([("utf-8-sig",), ("utf-16",), ("cp1252", "--encoding", "cp1252")]):
        load(maps, text.format(number).encode(encoding), *more)
    wrong = maps("mappings", "import", file(maps, text.format(9).encode("cp1252")))

    assert 3 == len(maps.ask("SELECT id FROM usersync.mappings"))
    assert {("xn--mnchen-3ya.example",)} == set(maps.ask("SELECT domain FROM usersync.customers"))
    assert (2, True) == (wrong.status, "--encoding cp1252" in wrong.stderr)
    assert 2 == maps("mappings", "import", file(maps, text), "--encoding", "nonsense").status


def test_export_and_import_give_the_same_map(maps: Maps, tmp_path: Path) -> None:
    """
    Ids that a spreadsheet would run, quotes, line ends and uuids come back as they were, into an empty map.
    """
    ids = ["=1+1", "-5", "'=x", "''-y", 'a "b"', "a,b", "+1", "@me", "plain", "'quoted'"]
    for id_ in ids:
        maps.map("shop", id_, "example.com")
    maps.ask("UPDATE usersync.customers SET uuid = %s", THEIRS)
    maps.ask("UPDATE usersync.mappings SET customer = %s", THEIRS)
    out = tmp_path / "out.csv"
    assert 0 == maps("mappings", "export", "--out", str(out)).status
    cells = [row["id"] for row in csv.DictReader(io.StringIO(out.read_text()))]
    maps.ask("TRUNCATE usersync.mappings, usersync.customers")

    assert [] == [cell for cell in cells if cell.startswith(("=", "-", "+", "@"))]
    assert (len(ids), 0, 0, 0, 1, 0) == counts(maps.json("mappings", "import", str(out)))
    assert sorted(ids) == sorted(id_ for (id_,) in maps.ask("SELECT id FROM usersync.mappings"))
    assert [(THEIRS, "example.com")] == maps.ask("SELECT uuid::text, domain FROM usersync.customers")
    assert "app,id,domain,uuid" in maps("mappings", "export", "--app", "crm.contacts", "--pinned").stdout
