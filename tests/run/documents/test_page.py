"""What is to be done with a record, as a table: each thing that may be known of it, and each way in which it may come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import get_args

from usersync_cli.load.known import Departure, Met, Status
from usersync_cli.model import Counts, Record
from usersync_cli.run.documents.page import COUNTED, Verdict, has_row, verdict, verdict_again, verdict_of_details

# What may be known of a record, apart from whether it is listed as it was before.
KNOWN = {
    "unknown": Met(),
    "loaded": Met(status="loaded", held=b"hash"),
    "loaded, missing": Met(status="loaded", held=b"hash", missing=1),
    "loaded, told": Met(status="loaded", held=b"hash", departure="told"),
    "loaded, kept": Met(status="loaded", held=b"hash", departure="kept", missing=1),
    "to be written": Met(status="loaded"),
    "to be written, told": Met(status="loaded", departure="told"),
    "rejected": Met(status="rejected", reject="waiting"),
    "rejected, dropped": Met(status="rejected", reject="dropped"),
    "rejected, resolved": Met(status="rejected"),
    "rejected, told": Met(status="rejected", reject="waiting", departure="told"),
    "no row": Met(status="no_row"),
    "no row, left out": Met(status="no_row", departure="left_out"),
    "removed": Met(status="removed"),
}
# How it comes: listed as before, listed otherwise, with its whole document, to be compared afresh, said to be gone (where rows are
# removed, and where they are kept); in a dry run of which an earlier page had it, with the same document or another one.
WAYS = ("same", "changed", "whole", "afresh", "gone", "gone, keep", "came same", "came other")
TABLE = """
                     same            changed  whole  afresh  gone         gone, keep     came same   came other
unknown              load            load     load   load    gone before  gone but kept  same again  load again
loaded               unchanged       load     load   load    told gone    gone but kept  same again  load again
loaded, missing      unchanged       load     load   load    told gone    gone but kept  same again  load again
loaded, told         unchanged       load     load   load    gone before  gone but kept  same again  load again
loaded, kept         unchanged       load     load   load    told gone    gone but kept  same again  load again
to be written        load            load     load   load    told gone    gone but kept  same again  load again
to be written, told  load            load     load   load    gone before  gone but kept  same again  load again
rejected             rejected again  load     load   load    told gone    gone but kept  same again  load again
rejected, dropped    rejected again  load     load   load    told gone    gone but kept  same again  load again
rejected, resolved   load            load     load   load    told gone    gone but kept  same again  load again
rejected, told       rejected again  load     load   load    gone before  gone but kept  same again  load again
no row               no row          load     load   load    told gone    gone but kept  same again  load again
no row, left out     no row          load     load   load    told gone    gone but kept  same again  load again
removed              load            load     load   load    gone before  gone but kept  same again  load again
"""


def written(one: Verdict) -> str:
    return one.name.lower().replace("_", " ")


def decided(known: str, way: str, **over: bool) -> Verdict:
    """The verdict on a record that comes in this way. `over`: what else is known of it."""
    met = Met(**{**vars(KNOWN[known]), "listed": way == "same" and known != "unknown", **over})  # type: ignore[arg-type]  # of one field each
    record = Record("people", "1", b"{}", deleted=way.startswith("gone"), whole=way == "whole")
    came = {"came same": True, "came other": False}.get(way)
    return verdict(record, met, removes=way != "gone, keep", afresh=way == "afresh", came=came)


def table(head: Sequence[str], rows: Mapping[str, Iterable[Verdict]]) -> list[str]:
    """The verdicts by what is known, as lines of text."""
    cells = [["", *head], *([known, *map(written, row)] for known, row in rows.items())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def test_the_table_of_verdicts() -> None:
    """
    Each thing that may be known of a record, and each way in which it may come, has one verdict.
    """
    found = {known: [decided(known, way) for way in WAYS] for known in KNOWN}

    assert TABLE.strip("\n").splitlines() == table(WAYS, found)


def test_the_table_has_all_that_may_be_known() -> None:
    """
    Each status, and each reason why a row is to go.
    """
    assert {None, *get_args(Status)} == {met.status for met in KNOWN.values()}
    assert {None, *get_args(Departure)} == {met.departure for met in KNOWN.values()}


def test_another_record_that_counts_comes_first() -> None:
    """
    Whatever is known and however it comes: a twin on the page, one later in the listing, and a newer version, in this order.
    """
    over = ("duplicate", "passed", "stale")
    found = {tuple(decided(*one, **dict.fromkeys(over[number:], True)) for number in range(3)) for one in product(KNOWN, WAYS)}

    assert {(Verdict.DUPLICATE, Verdict.PASSED_OVER, Verdict.STALE)} == found


DETAILS = """
                     held      other
unknown              load      load
loaded               relisted  load
loaded, missing      relisted  load
loaded, told         relisted  load
loaded, kept         relisted  load
to be written        load      load
to be written, told  load      load
rejected             load      load
rejected, dropped    load      load
rejected, resolved   load      load
rejected, told       load      load
no row               load      load
no row, left out     load      load
removed              load      load
"""


def test_whole_documents() -> None:
    """
    One that we hold is not written again, unless its row is compared afresh; one that is gone by now waits for a complete listing.
    """
    record = Record("people", "1", b"{}")
    found = {known: [verdict_of_details(Verdict.LOAD, record, met, hash_) for hash_ in (b"hash", b"other")] for known, met in KNOWN.items()}

    assert DETAILS.strip("\n").splitlines() == table(("held", "other"), found)
    for listed in (Verdict.LOAD, Verdict.LOAD_AGAIN):
        assert listed is verdict_of_details(listed, record, KNOWN["loaded"], b"hash", afresh=True)
        assert Verdict.LEFT is verdict_of_details(listed, Record("people", "1", b"{}", deleted=True), KNOWN["loaded"], b"hash")


def test_rejects_that_are_tried_again() -> None:
    """
    A newer version, or word that it is gone, has overtaken a document that was set aside; all others are loaded.
    """
    stale = {known for known, met in KNOWN.items() if verdict_again(met) is Verdict.STALE}

    assert {"loaded, told", "to be written, told", "rejected, told", "removed"} == stale
    assert Verdict.STALE is verdict_again(Met(status="rejected", stale=True))
    assert Verdict.LOAD is verdict_again(KNOWN["rejected"])


def test_rows_that_are_there() -> None:
    """
    A record that is left out now has a row as long as that waits to go.
    """
    assert {"unknown", "no row", "removed"} == {known for known, met in KNOWN.items() if not has_row(met)}


def test_each_verdict_is_counted() -> None:
    """
    What a verdict counts as adds up by itself, but for what is loaded: its outcome is counted when it is known.
    """
    loaded = {Verdict.LOAD, Verdict.LOAD_AGAIN}

    assert set(Verdict) == set(COUNTED)
    assert loaded == {one for one, counts in COUNTED.items() if not counts.adds_up()}
    assert [Counts(read=1)] * 2 == [COUNTED[one] for one in loaded]
