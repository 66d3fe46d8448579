"""A token that its database could not take: it is written, encrypted, where a person finds it.

The token before it is spent, so it is the only one left. One line `USERSYNC-RESCUE ...` on stderr, and a file of mode 0600.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

MARK = "USERSYNC-RESCUE"
_LINE = re.compile(MARK + r" ([A-Za-z0-9+/=]{40,})")
_NAME = "usersync-rescue-{source}-{generation}"
_LARGEST = 50_000_000


@dataclass(frozen=True)
class Rescue:
    """The row that could not be written: ciphertexts in base64, `spent` the generation whose refresh token is gone."""

    source: str
    account: str
    spent: int
    key_id: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    lifetime: float  # seconds
    at: float  # when it was got, in seconds since 1970

    def line(self) -> str:
        return f"{MARK} {base64.b64encode(json.dumps(asdict(self)).encode()).decode()}"

    @property
    def sealed(self) -> tuple[bytes, bytes]:
        """Access and refresh token as they go into the row."""
        return base64.b64decode(self.access_token), base64.b64decode(self.refresh_token)


def text(sealed: bytes) -> str:
    return base64.b64encode(sealed).decode()


def write(rescue: Rescue, folders: Sequence[Path]) -> Path | None:
    """The line on stderr, then the file in the first folder that takes it; None when none does."""
    line = rescue.line()
    with suppress(OSError):
        os.write(sys.stderr.fileno() if _has_fileno() else 2, f"{line}\n".encode())  # past every buffer, log format and progress bar
    for folder in (*folders, Path(tempfile.gettempdir())):
        with suppress(OSError):
            name = _NAME.format(source=rescue.source, generation=rescue.spent + 1)
            descriptor, path = tempfile.mkstemp(prefix=f"{name}-", suffix=".txt", dir=folder)  # mode 0600, nobody's link is followed
            with os.fdopen(descriptor, "w") as stream:
                stream.write(f"{line}\n")
                stream.flush()
                os.fsync(stream.fileno())
            return Path(path).absolute()
    return None


def _has_fileno() -> bool:
    try:
        sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    return True


def read(content: str) -> list[Rescue]:
    """Every rescue in a text, be it our file or a log; the newest generation first."""
    found = []
    for match in _LINE.finditer(content):
        with suppress(ValueError, TypeError):
            known = json.loads(base64.b64decode(match[1]))
            one = Rescue(**{each.name: known[each.name] for each in fields(Rescue) if each.name in known})
            _ = one.sealed
            found.append(one)
    return sorted(set(found), key=lambda one: one.spent, reverse=True)


def files(folders: Sequence[Path]) -> Iterator[Path]:
    """The rescue files that lie where `write` puts them; only our own."""
    for folder in dict.fromkeys([*(folder.absolute() for folder in folders), Path(tempfile.gettempdir())]):
        with suppress(OSError):
            for path in sorted(folder.glob(_NAME.format(source="*", generation="*") + ".txt")):
                if not path.is_symlink() and path.stat().st_uid == os.getuid() and path.stat().st_size < _LARGEST:
                    yield path
