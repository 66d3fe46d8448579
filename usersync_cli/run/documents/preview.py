"""What a dry run of documents remembers of the pages before, since it writes nothing: 12 bytes a record, in memory.

A million records take 25 MB. Two keys of them are taken for the same in one of 40 million dry runs; what a run remembers is exact.
"""

from __future__ import annotations

import hashlib
from array import array
from datetime import datetime

from usersync_cli.load.known import Departure

_FULL = 2 / 3


class Foreseen:
    """What the pages of a dry run would have left of one stream. In a run it stays empty."""

    def __init__(self) -> None:
        self.came = Came()
        self.departures: dict[str, Departure] = {}  # by the keys under which records are remembered
        self.records = 0  # of the complete listing under way
        self._as_of: datetime | None = None  # of the newest whole document that came

    def has(self, key: str) -> bool:
        """Whether an earlier page had this record, or reported it as gone."""
        return key in self.came or key in self.departures

    def note(self, as_of: str | None) -> None:
        """A whole document came, which the source has as of this moment."""
        if as_of and (self._as_of is None or datetime.fromisoformat(as_of) > self._as_of):
            self._as_of = datetime.fromisoformat(as_of)

    def overrules(self, key: str, as_of: str | None) -> bool:
        """Whether an earlier page had this record in a listing that began later than this was said."""
        return bool(as_of) and self._as_of is not None and datetime.fromisoformat(as_of or "") < self._as_of and key in self.came

    def stays(self, key: str) -> bool:
        """Whether an earlier page had this record, so that its row stays."""
        return key in self.came and key not in self.departures


class Came:
    """Which keys came so far, and with which document: an open hash table of 64 bits a key and 32 bits a document."""

    def __init__(self) -> None:
        self._keys, self._documents = array("Q", bytes(8 * 1024)), array("I", bytes(4 * 1024))
        self._number = 0

    def __contains__(self, key: str) -> bool:
        return bool(self._keys[self._place(_of(key))])

    def same(self, key: str, hash_: bytes) -> bool | None:
        """Whether the record came with the document of this hash; None: it did not come at all."""
        place = self._place(_of(key))
        return self._documents[place] == _short(hash_) if self._keys[place] else None

    def add(self, key: str, hash_: bytes = b"") -> None:
        """It came, with the document of this hash; without one, only its key counts, and what is known of it stays."""
        if self._number > len(self._keys) * _FULL:
            self._grow()
        number = _of(key)
        place = self._place(number)
        self._number += not self._keys[place]
        self._keys[place] = number
        if hash_:
            self._documents[place] = _short(hash_)

    def _place(self, number: int) -> int:
        """Where it stands, or would."""
        keys = self._keys
        last = len(keys) - 1
        place = number & last
        while (found := keys[place]) and found != number:
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        before, documents = self._keys, self._documents
        self._keys, self._documents = array("Q", bytes(16 * len(before))), array("I", bytes(8 * len(before)))
        for number, document in zip(before, documents, strict=True):
            if number:
                place = self._place(number)
                self._keys[place], self._documents[place] = number, document


def _of(key: str) -> int:
    """64 bits of a key, never 0, which is an empty place."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) or 1


def _short(hash_: bytes) -> int:
    """32 bits of a document's hash, never 0, which is none."""
    return int.from_bytes(hash_[:4]) or 1
