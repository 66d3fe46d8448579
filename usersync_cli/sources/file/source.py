"""The source `file`: JSON Lines, one document a line, in one or several files for each stream; gzip by the suffix .gz.

What the files hold is all there is: each reading is a complete listing. A reading that was interrupted goes on at its
line as long as the files are the same (names, sizes, times of change); otherwise it begins again. Only plain files are
read: nothing that has to be waited for, such as a named pipe, whose content could not be read a second time either.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from usersync_cli.errors import Drift, Unavailable
from usersync_cli.ports import CanLook, DocumentSession, DocumentSource, NumbersVersions, OneMoment, SaysWhatItReads
from usersync_cli.sources.file.listing import FileListing, folder_of
from usersync_cli.sources.file.settings import Settings

if TYPE_CHECKING:
    from usersync_cli.model import Cursor, Page, Stream
    from usersync_cli.ports import Tools
    from usersync_cli.signals import Stop
    from usersync_cli.sources.file.settings import FileStream


class Source(SaysWhatItReads, DocumentSource):
    """Where to read; no file is touched before `open`."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._streams = settings.streams

    def reads(self, stream: str) -> str:
        """Which files, and which of their fields say who it is and whether they are gone."""
        return repr(self._streams[stream])

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Session]:
        """The file that is being read is closed with the session."""
        with Session(self.name, self._streams, tools.stop) as session:
            yield session


class Session(OneMoment, NumbersVersions, CanLook, DocumentSession):
    """The files as they are now. `account` is the folder that they all stand in."""

    def __init__(self, name: str, streams_: Mapping[str, FileStream], stop: Stop) -> None:
        self._name = name
        self._streams = streams_
        self._stop = stop
        self._reading: list[Generator[Page, None, None]] = []
        self._closed = False
        self._numbered = {stream for stream, settings in streams_.items() if settings.version_type == "number"}
        self.account = os.path.commonpath([folder_of(settings.path) for settings in streams_.values()])

    @property
    def numbered(self) -> Collection[str]:
        """The streams whose `version_type` is number."""
        return self._numbered

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file that is half read."""
        self._closed = True
        for pages in self._reading:
            pages.close()

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Generator[Page, None, None]:
        """Each stream's files in the order of their names, 2000 lines a page. Raises Unavailable when files are missing, or
        change while they are read."""
        for stream in streams:
            if stream.name not in self._streams:
                raise Drift(f"source {self._name} has no stream {stream.name}", hint=f"its streams: {', '.join(self._streams)}")
            where = f"source {self._name}, stream {stream.name}"
            self._reading = [FileListing(where, stream.name, self._streams[stream.name], self._stop).pages(since.get(stream.name))]
            yield from self._reading[0]
            if self._closed:
                raise Unavailable(f"{where}: closed in the middle of it")

    def look(self, stream: str) -> str:
        """How many files there are of it. Raises what `pages` would when they are missing, may not be read, or begin like
        something else."""
        if stream not in self._streams:
            raise Drift(f"source {self._name} has no stream {stream}", hint=f"its streams: {', '.join(self._streams)}")
        number = FileListing(f"source {self._name}, stream {stream}", stream, self._streams[stream], self._stop).try_files()
        return f"{number} file{'s' if number > 1 else ''}"
