"""What a dry run of documents remembers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from usersync_cli.run.documents.preview import Came

hashes = st.sampled_from([b"", b"\x00" * 16, b"\x01" * 16, b"\xff" * 16])


@given(st.lists(st.tuples(st.text(max_size=3), hashes)))
def test_it_is_a_dict(came: list[tuple[str, bytes]]) -> None:
    """
    Key by key it says what a dict of keys and hashes would; a key that comes again without a document keeps the one that is known.
    """
    known: dict[str, bytes] = {}
    table = Came()
    for key, hash_ in came:
        table.add(key, hash_)
        known[key] = hash_ or known.get(key, b"")

        assert (True, bool(known[key])) == (key in table, table.same(key, known[key] or b"x"))
    assert [None] * 3 == [table.same(key, b"x") for key in ("not there", "nor there", "\0\0\0\0")]


def test_it_grows() -> None:
    """
    Many more records than it has places for at first: all are found, and nobody else.
    """
    table = Came()
    for number in range(10_000):
        table.add(f"key {number}", number.to_bytes(4))

    assert all(table.same(f"key {number}", number.to_bytes(4)) for number in range(1, 10_000))
    assert not any(f"other {number}" in table for number in range(10_000))
