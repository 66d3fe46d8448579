"""The sources of a step of tables while they are open: what to read from each, and the cursors that it gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from usersync_cli.model import Copy, Cursor, Step, Stream
from usersync_cli.ports import HadOtherNames, Session, TabularSession
from usersync_cli.run.context import Options, RunContext, refuse_other_account
from usersync_cli.state.ledger import StoredCursor


def open_sources(step: Step, context: RunContext, closing: ExitStack, *, as_text: bool = False) -> list[SourceReader]:
    """A reader for each source of the step, in the order in which the step names them."""
    return [
        SourceReader(name, context, step, closing, as_text=as_text)
        for name in dict.fromkeys(extract.source for extract in step.extract.values())
    ]


class SourceReader:
    """One source of a step while it is open: its session, what to read from it, and the cursors it gave."""

    def __init__(self, source: str, context: RunContext, step: Step, closing: ExitStack, *, as_text: bool = False) -> None:
        self.source = source
        self.streams = [Stream(name, e.table, e.query, as_text) for name, e in step.extract.items() if e.source == source]
        self.cursors: dict[str, Cursor] = {}
        self._stack = closing.enter_context(ExitStack())
        self.session = tabular(source, self._stack.enter_context(context.sources[source].open(context.tools)))
        self.close = self._stack.close

    def refuse_other_account(self, stored: Mapping[str, StoredCursor], options: Options) -> None:
        """Raises Drift where a stream came from another database before: its people are not loaded over those of this one."""
        before = [stored[stream.name] for stream in self.streams if stream.name in stored]
        formerly = self.session.formerly if isinstance(self.session, HadOtherNames) else ()
        refuse_other_account(self.source, self.session.account, before, options, formerly)

    def pages(self) -> Iterator[Copy]:
        """Each stream's content, in turn; its cursor counts once the content was taken up."""
        for page in self.session.pages(self.streams, {}):
            assert isinstance(page.content, Copy)  # noqa: S101  tabular sessions give nothing else
            yield page.content
            self.cursors[page.content.stream] = page.cursor


def tabular(source: str, session: Session) -> TabularSession:
    """The session of a source whose type says that it has tables, as the config file's reader has seen to."""
    if not isinstance(session, TabularSession):
        raise AssertionError(f"source {source} has no tables")  # noqa: TRY004  no mistake of whoever calls
    return session
