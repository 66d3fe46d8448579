"""Files of JSON Lines: two of plain text, and compressed ones that take long to read or give nothing."""

from __future__ import annotations

import gzip
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.contract.live import PERSON, LiveSource
from usersync_cli.model import Stream
from usersync_cli.ports import CanLook, NumbersVersions, OneMoment, SaysWhatItReads

ABILITIES = [OneMoment, NumbersVersions, CanLook, SaysWhatItReads]
COUNT = 4500
BLOCK = 5_000_000


def live(request: pytest.FixtureRequest) -> LiveSource:
    folder: Path = request.getfixturevalue("tmp_path")

    def lines(name: str) -> bytes:
        stamp = {"at": "2026-01-01T00:00:00Z", "more": "." * 400}
        people = ({"id": f"{name}-{i}", "rev": i, "name": f"{PERSON} {i}", **stamp} for i in range(1, COUNT + 1))
        return b"".join(json.dumps(one).encode() + b"\n" for one in people)

    (folder / "people.jsonl").write_bytes(lines("people"))
    (folder / "members-1.jsonl").write_bytes(lines("members")[:300_000].rpartition(b"\n")[0] + b"\n")
    (folder / "members-2.jsonl").write_bytes(lines("members")[(folder / "members-1.jsonl").stat().st_size :])
    (folder / "broken.jsonl").write_bytes(lines("people")[:-10])
    # Members of gzip follow one another: little to write, much to read.
    (folder / "slow.jsonl.gz").write_bytes(gzip.compress(lines("slow"), 1) * 200)
    (folder / "silent.jsonl.gz").write_bytes(gzip.compress(b"\n" * BLOCK, 1) * 20)
    streams = {
        name: {"path": str(folder / path), "key": "id"}
        for name, path in {
            "people": "people.jsonl", "members": "members-*.jsonl", "broken": "broken.jsonl",
            "slow": "slow.jsonl.gz", "silent": "silent.jsonl.gz",
        }.items()
    }  # fmt: skip

    streams["people"] |= {"version": "rev", "version_type": "number"}
    streams["members"] |= {"version": "at"}

    def opened() -> int:
        """Files of this folder that this process holds open."""
        found = 0
        for one in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                found += one.readlink().is_relative_to(folder)
        return found

    return LiveSource(
        change=lambda: (folder / "people.jsonl").write_bytes(lines("people").rstrip(b"\n").rpartition(b"\n")[0] + b"\n"),
        edited={"streams": {**streams, "people": {**streams["people"], "key": "name"}}},
        settings={"streams": streams},
        streams=[Stream("people"), Stream("members")],
        keys={name: [f"{name}-{i}" for i in range(1, COUNT + 1)] for name in ("people", "members")},
        missing=Stream("nobody"),
        broken=Stream("broken"),
        slow=Stream("slow"),
        silent=Stream("silent"),
        server=None,  # it reads what is there already: nothing is connected to, nothing asks for a password
        secret=False,
        nowhere={"streams": {name: {**one, "path": str(folder / "away" / "x.jsonl")} for name, one in streams.items()}},
        connections=opened,
        cut=lambda: os.truncate(folder / "slow.jsonl.gz", 1000),
    )
