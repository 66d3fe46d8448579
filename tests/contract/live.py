"""What a sample gives the contract suites: a live instance of a source or target, with rows that are known.

`tests/contract/sources/<name>.py` has `live(request) -> LiveSource` and `ABILITIES`, `tests/contract/targets/<name>.py` has
`live(request) -> LiveOutbound`, where `<name>` is the file or folder in `usersync_cli/sources` or `targets`; `request` is pytest's, for
the fixtures of tests/conftest.py. A new source or target is tested by adding that one file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from tests.conftest import ROOT
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.config.registry import source_types
from usersync_cli.model import Copy, Desired, Documents, Stream
from usersync_cli.ports import Tokens

SECRET = "a-secret-to-look-for"
PERSON = "Test User"
README = {"sources": "club", "targets": "directory"}  # what their READMEs show
NAMES = [*source_types(), README["sources"]]


def written(write: Callable[..., Any], /, *args: Any, **more: Any) -> Any:
    """The door of a run for what stays (`StepContext.keep`)."""
    return write(*args, **more)


@dataclass(frozen=True)
class LiveServer:
    """What only a source has that connects to something."""

    at: Callable[[int], Mapping[str, Any]]  # the settings, but with everything at this port of 127.0.0.1


@dataclass(frozen=True)
class LiveSource:
    """A source that can be read. Each record's key is its first column, as text, or its `Record.key`."""

    settings: Mapping[str, Any]  # what the config file says of it, without `type`; SECRET where a password or token stands
    streams: Sequence[Stream]  # at least two
    keys: Mapping[str, Sequence[str]]  # of each of these streams: more than one page, or more than one block of COPY
    missing: Stream  # the source has no such stream
    broken: Stream  # its last record cannot be read; its names begin with PERSON
    slow: Stream | None  # takes a minute, and gives something every now and then; None, with the reason: all comes at once
    silent: Stream  # gives nothing for a minute
    connections: Callable[[], int]  # how many connections the source's server sees of us; of files, how many we hold open
    cut: Callable[[], None]  # the server drops these connections; what is local is cut off or replaced
    server: LiveServer | None  # None, with the reason: nothing is connected to, and `nowhere` stands for a server that is away
    secret: bool = True  # False, with the reason: no setting is a password or token
    nowhere: Mapping[str, Any] | None = None  # settings that lead to nothing
    tokens: Tokens | None = None  # for a source that asks for some
    unknown: str = ""  # TellsWhoIsGone, HasDetails: a key that no stream has, or had
    change: Callable[[], object] | None = None  # OneMoment: takes the last record of the first stream away
    left_out: Mapping[str, int] = field(default_factory=dict)  # LeavesOut: after a listing of all streams
    kept_out: Mapping[str, Collection[str]] = field(default_factory=dict)  # KeepsOut: keys, by stream
    edited: Mapping[str, Any] | None = None  # SaysWhatItReads: settings by which the first stream has other records


@dataclass(frozen=True)
class LiveTarget:
    """A target that can be written to, or PostgreSQL's own loader. Rows are (id, name)."""

    in_checkpoint: bool  # plan and apply stand in one transaction (PostgreSQL); otherwise apply comes after the COMMIT of plan
    target: Callable[[], Any]  # made new for each plan, as each step does
    misfit: Callable[[], Any]  # one that does not fit what is desired
    begin: Callable[[], Connection]  # a transaction of the target's database, with the settings of a step
    desired: Callable[[Connection, Sequence[tuple[int, str]]], Desired]  # staged in this transaction
    rows: Callable[[], Sequence[tuple[int, str]]]  # what is there, as somebody else sees it, by id
    fill: Callable[[Sequence[tuple[int, str]]], None]  # exactly these rows from now on
    written: Callable[[Connection], int]  # rows that this transaction has written so far, its own temp tables aside
    fingerprint: Callable[[], object]  # changes with any write whatsoever that was committed
    changes: bool = field(default=True, kw_only=True)  # rows that differ are made equal; False: they stay, and a person decides


@dataclass(frozen=True)
class LiveOutbound(LiveTarget):
    """A target outside PostgreSQL. The key of a person at the source is the row's id, as text."""

    settings: Any  # of the target, as its PORT has them
    preview: Callable[[], Any]  # the target as a dry run has it: what it keeps is not written
    enabled: Callable[[], Sequence[int]] = list  # DisablesAccounts: ids of the accounts that their people can use


@cache
def sample(kind: str, name: str) -> Any:
    """The sample of a source or target, by file name; that of the one which the README shows is there too."""
    if name != README[kind]:
        return import_module(f"tests.contract.{kind}.{name}")
    module = ModuleType(f"tests.contract.{kind}.{name}")
    exec(compile(code_of(kind, f"tests/contract/{kind}/{name}.py"), f"{kind}/README.md", "exec"), vars(module))
    return module


def code_of(kind: str, file: str) -> str:
    """A block of code in the README of `sources` or `targets`, by the file that its first line names."""
    page = (ROOT / "usersync_cli" / kind / "README.md").read_text()
    (found,) = re.findall(rf"^```python\n(# {re.escape(file)}\n.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return str(found)


def keys(content: Copy | Documents) -> list[str]:
    """The key of each record, in the order in which they came. Reads a Copy to its end."""
    if isinstance(content, Documents):
        return [record.key for record in content.records]
    return first_column(b"".join(bytes(block) for block in content.blocks))


def first_column(data: bytes) -> list[str]:
    """The first field of each row in binary COPY format, as text; fails on whatever is not that format, whole."""
    assert data[:11] == b"PGCOPY\n\xff\r\n\0"
    (extension,) = struct.unpack_from("!i", data, 15)
    at, found = 19 + extension, []
    while True:
        (fields,) = struct.unpack_from("!h", data, at)
        at += 2
        if fields == -1:
            assert at == len(data), "something stands behind the end of the rows"
            return found
        for number in range(fields):
            (size,) = struct.unpack_from("!i", data, at)
            at += 4
            if number == 0:
                found.append(data[at : at + size].decode())
            at += max(size, 0)
