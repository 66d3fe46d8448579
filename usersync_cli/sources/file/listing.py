"""One reading of a stream's files, from the first line to the last, or from where an earlier reading ended."""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import itertools
import os
import stat
import time
import uuid
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from usersync_cli.errors import ConfigError, Drift, Unavailable
from usersync_cli.model import Cursor, Documents, Page, Record
from usersync_cli.sources.file.formats import Gunzip, may_continue, mistaken_for
from usersync_cli.sources.file.records import problem_of, reader

if TYPE_CHECKING:
    from usersync_cli.signals import Stop
    from usersync_cli.sources.file.settings import FileStream

PAGE_RECORDS = 2000
PAGE_BYTES = 4_000_000  # lines may be long
LONGEST_LINE = 64_000_000
BREATH_BYTES = 1_000_000  # read between two looks at whether the run has to end
HEAD_BYTES = 4096  # of a file, that say what it is
WRITTEN_SECONDS = 3600  # a file that nobody has written to for so long is not being written


@dataclass(frozen=True)
class _Place:
    """A line: where it ends."""

    file: int
    offset: int
    line: int


class FileListing:
    """One stream's files, once through."""

    def __init__(self, where: str, stream: str, settings: FileStream, stop: Stop) -> None:
        self._where, self._stream, self._settings, self._stop = where, stream, settings, stop
        self._read = reader(stream, settings)
        self._files = self._find()
        self._state = self._look()

    def _find(self) -> list[str]:
        path = self._settings.path
        with self._told(path):
            found = [path] if Path(path).exists() else self._fitting(path) if glob.has_magic(path) else []
        if not found:
            raise Unavailable(f"{self._where}: there is no file {path}", hint="is the export late, or the path misspelt?")
        return found

    def _fitting(self, pattern: str) -> list[str]:
        """The files of a pattern. Raises ConfigError for a folder that may not be read, whose files would seem to be gone."""
        whole = folder_of(pattern)
        for folder in [one for one in Path(pattern).parents if whole in (one, *one.parents)]:
            for one in glob.glob(str(folder), recursive=True):  # noqa: PTH207  Path.glob wants a folder
                if Path(one).is_dir() and not os.access(one, os.R_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), one)
        return sorted(set(glob.glob(pattern, recursive=True)))  # noqa: PTH207

    def _look(self) -> str:
        """What changes when a file does, or how it is read."""
        state = [repr(self._settings)]
        for file in self._files:
            with self._told(file):
                seen = Path(file).stat()
            if not stat.S_ISREG(seen.st_mode):
                raise ConfigError(
                    f"{self._where}: {file} is {_KINDS.get(stat.S_IFMT(seen.st_mode), 'no file')}, and only plain files are read",
                    hint="give the path of a file, or a pattern that only files fit",
                )
            state.append(f"{file}|{seen.st_ino}|{seen.st_size}|{seen.st_mtime_ns}")
        return hashlib.blake2b("\n".join(state).encode(errors="surrogateescape"), digest_size=16).hexdigest()

    def _breathe(self) -> None:
        """Whoever reads a long file is alive, and ends when the run has to."""
        self._stop.check()
        self._stop.heard = time.monotonic()

    def try_files(self) -> int:
        """Whether all of them may be read and begin like JSON Lines; gives how many there are."""
        for file in self._files:
            with self._told(file), opened(file) as lines:
                self._refuse_other_formats(file, lines)
        return len(self._files)

    def pages(self, since: Cursor | None) -> Generator[Page, None, None]:
        sweep, at = uuid.uuid4().hex, _Place(0, 0, 0)
        if since and since.get("files") == self._state and not since.get("done"):
            sweep, at = str(since["sweep"]), _Place(int(since["file"]), int(since["offset"]), int(since["line"]))
        page: list[Record] = []
        size, bad, good = 0, 0, at.line
        for place, line in self._lines(at):
            if len(page) >= PAGE_RECORDS or size >= PAGE_BYTES:
                cursor = {"sweep": sweep, "files": self._state, "file": at.file, "offset": at.offset, "line": at.line}
                yield Page(Documents(page), cursor, complete=False, streams=(self._stream,), sweep=sweep)
                page, size = [], 0
            at = place
            if line:
                page.append(self._read(line))
                size += len(line)
                bad, good = (bad, good + 1) if page[-1].key else (bad + 1, good)
        if self._find() != self._files or self._look() != self._state:
            raise Unavailable(f"{self._where}: a file was changed while it was read", hint="the next run reads it again")
        if bad and not good:
            raise Drift(
                f"{self._where}: {bad:,} line{'s' if bad > 1 else ''}, and none is a document with a key"
                f" ({', '.join(self._settings.keys)})",
                hint="is each line one JSON document, and is that the name of its key? Change `key` or the export; nothing was removed",
            )
        cursor = {"sweep": sweep, "files": self._state, "done": True}
        yield Page(Documents(page), cursor, complete=True, streams=(self._stream,), sweep=sweep)

    def _lines(self, at: _Place) -> Iterator[tuple[_Place, bytes]]:
        """Each line without its end, and the place after it; empty for a blank one."""
        for number in range(at.file, len(self._files)):
            offset, line = (at.offset, at.line) if number == at.file else (0, 0)
            with self._told(self._files[number]), opened(self._files[number]) as lines:
                self._refuse_other_formats(self._files[number], lines)
                self._skip(lines, offset)
                breath = offset
                while text := lines.readline(LONGEST_LINE):
                    offset, line = offset + len(text), line + 1
                    if offset >= breath or line % PAGE_RECORDS == 0:
                        self._breathe()
                        breath = offset + BREATH_BYTES
                    stripped = text.removeprefix(b"\xef\xbb\xbf").strip() if line == 1 else text.strip()
                    if not text.endswith(b"\n"):
                        self._check_the_end(stripped, len(text), self._files[number], line)
                    yield _Place(number, offset, line), stripped

    def _refuse_other_formats(self, file: str, lines: io.BufferedReader) -> None:
        """What can never be JSON Lines is not waited for."""
        if (found := mistaken_for(lines.peek(HEAD_BYTES)[:HEAD_BYTES])) is not None:
            what, help_ = found
            raise Drift(f"{self._where}: {file} is {what}, not JSON Lines", hint=help_)

    def _skip(self, lines: io.BufferedReader, offset: int) -> None:
        """To this place; what is compressed has to be read up to there."""
        if lines.seekable():
            lines.seek(offset)
            return
        left = offset
        while left > 0 and (skipped := len(lines.read(min(left, BREATH_BYTES)))):
            left -= skipped
            self._breathe()

    def _check_the_end(self, text: bytes, size: int, file: str, line: int) -> None:
        """A last line may lack its end. One that can still become a document is being written; another is a bad record."""
        where = f"{self._where}: {file}:{line}"
        if size >= LONGEST_LINE:
            raise Drift(f"{where}: a line is longer than {LONGEST_LINE:,} bytes", hint="is it one document a line?")
        if text.endswith(b"\0"):
            raise Drift(f"{where}: the file ends in zeroes, as a crash leaves them", hint="write the export again; nobody was removed")
        if not text or not problem_of(text) or not may_continue(text):
            return
        raise self._cut_off(file, f"{where}: the file ends in the middle of a line")

    def _cut_off(self, file: str, what: str) -> Unavailable | Drift:
        """What lacks its end is waited for only while somebody may be writing it."""
        hours = (time.time() - Path(file).stat().st_mtime) / 3600
        if hours * 3600 > WRITTEN_SECONDS:
            return Drift(
                f"{what}, and nobody has written to it for {hours:,.0f} hours",
                hint="it was cut off: write the export again. What was read before stays, nobody was removed",
            )
        return Unavailable(what, hint="it is still being written, or was cut off; the next run reads it again. What was read before stays")

    @contextmanager
    def _told(self, file: str) -> Iterator[None]:
        """What the operating system or gzip says, in our words."""
        try:
            yield
        except FileNotFoundError as error:
            raise Unavailable(f"{self._where}: {file} is gone", hint="the next run looks for it again") from error
        except PermissionError as error:
            raise ConfigError(
                f"{self._where}: {error.filename or file} may not be read",
                hint="give the user that runs usersync the right to read it, and to enter its folders",
            ) from error
        except EOFError as error:
            raise self._cut_off(file, f"{self._where}: {file} ends too early") from error
        except zlib.error as error:
            raise Drift(
                f"{self._where}: {file} is not what gzip writes, or not all of it is",
                hint="only files that gzip wrote may end in .gz; is it damaged, or padded with zeroes? Write it again",
            ) from error
        except OSError as error:
            raise Unavailable(f"{self._where}: {file} can't be read: {error.strerror}", hint="the next run tries again") from error


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def folder_of(path: str) -> Path:
    """The folder that a path is in, or all that a pattern can find."""
    parents = [*reversed(Path(path).absolute().parents)]
    return next((above for above, one in itertools.pairwise(parents) if glob.has_magic(one.name)), parents[-1])


def opened(file: str) -> io.BufferedReader:
    lines = Path(file).open("rb")  # noqa: SIM115  the caller closes it
    return io.BufferedReader(Gunzip(lines), BREATH_BYTES) if file.endswith(".gz") else lines
