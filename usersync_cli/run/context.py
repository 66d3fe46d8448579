"""What each step of a run is given, and how it ended: of tables, of documents, or with a target outside PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usersync_cli.errors import ConfigError, Drift, UsersyncError
from usersync_cli.identity.domains import Lists
from usersync_cli.identity.resolve import Outcome
from usersync_cli.load.writers import Writer
from usersync_cli.model import Change, Counts, Database, Extract, Job, Step
from usersync_cli.ports import OutboundTarget, SaysWhatItReads, Source, Tools
from usersync_cli.state.ledger import StoredCursor
from usersync_cli.state.outbox import StepContext

Progress = Callable[[str, int], None]  # extract, bytes
Diff = Callable[[Change], bool]
Open = Callable[[StepContext, Tools], AbstractContextManager[OutboundTarget[Any]]]


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    steps: Sequence[str] = ()
    streams: Sequence[str] = ()
    full: bool = False
    dry_run: bool = False
    allow_empty: bool = False
    accept_account: bool = False
    approve_deletes: int | None = None  # the run whose list of rows may go
    retry: Sequence[int] | None = None  # the rejects that are tried again, those of documents without asking their source
    credentials_out: Path | None = None  # where first passwords of new accounts are written
    everybody: bool = False  # of a comparison: whoever left counts, whatever the guard says
    diff: Diff | None = None  # of a dry run: told each change; False when it has heard enough of this step


@dataclass
class StreamResult:
    """How one stream of a step ended; its step's error says the same in other words."""

    name: str  # "" for a step of tables
    counts: Counts = field(default_factory=Counts)
    error: UsersyncError | None = None


@dataclass
class StepResult:
    """How one step ended. `error` is None when it is done; with `written`, what the error says was left out, and the rest was done."""

    name: str
    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    bytes: int = 0
    duplicate_keys: Sequence[str] = field(default=(), repr=False)
    left_out: Mapping[str, int] = field(default_factory=dict)  # records that the source lists and does not give, by what they are
    error: UsersyncError | None = None
    written: bool = False
    streams: list[StreamResult] = field(default_factory=list)  # of documents, in the order in which they were read
    identity: Outcome | None = None  # what became of the ids of apps; None for a step that fills none


@dataclass(frozen=True)
class RunContext:
    """What a run works with: the target, the sources by name, and whom to tell about progress."""

    target: Database
    sources: Mapping[str, Source]
    tools: Tools
    progress: Progress
    began: Callable[[], None] = lambda: None  # told once the job is ours
    targets: Mapping[str, Open] = field(default_factory=dict)  # those outside Postgres, by name
    steps: Sequence[Step] = ()  # all of the job's, also those that this run leaves out
    writers: Sequence[Writer] = ()  # all steps of all jobs of the config file that may run here
    lists: Lists = field(default_factory=Lists)  # what the config adds to the lists of domains that identify nobody
    jobs: Collection[str] | None = None  # names of all that the config file has; None: not known


def streams(step: Step) -> list[str]:
    """The streams that a step reads; none for one that reads tables and queries."""
    return [stream for extract in step.extract.values() for stream in extract.streams]


def loading(step: Step) -> str:
    """What a step is doing, for messages of the target that are of no single stream."""
    return f"loading step {step.name}" if "{stream}" in step.load.table else f"loading {step.load.table}"


def chosen(job: Job, names: Sequence[str], wanted: Sequence[str]) -> Sequence[Step]:
    """The steps of these names that read any of these streams; all, where none is named. Raises ConfigError for unknown ones."""
    unknown = set(names) - {step.name for step in job.steps}
    if unknown:
        raise ConfigError(
            f"job {job.name} has no step {', '.join(sorted(unknown))}", hint=f"its steps: {', '.join(s.name for s in job.steps)}"
        )
    steps = [step for step in job.steps if not names or step.name in names]
    if not wanted:
        return steps
    known = list(dict.fromkeys(stream for step in steps for stream in streams(step)))
    if not known:
        which = f"step {', '.join(names)} of job {job.name}" if names else f"job {job.name}"
        raise ConfigError(f"{which} has no streams: it reads tables and queries, all of them together", hint="choose a step with --step")
    if unknown := set(wanted) - set(known):
        raise ConfigError(f"job {job.name} reads no stream {', '.join(sorted(unknown))}", hint=f"its streams: {', '.join(known)}")
    return [step for step in steps if set(streams(step)) & set(wanted)]


def chosen_streams(extract: Extract, wanted: Sequence[str]) -> list[str]:
    """The extract's streams that the command line asks for; all of them, when it asks for none."""
    return [name for name in extract.streams if not wanted or name in wanted]


def is_outbound(step: Step) -> bool:
    """Whether the step writes to a target outside PostgreSQL."""
    return step.load.target != "target"


def reads_streams(step: Step) -> bool:
    """Whether the step reads documents."""
    return bool(streams(step))


def reads(step: Step, sources: Mapping[str, Source], stream: str = "") -> str:
    """What the settings of the step's sources say of which records there are (of a stream): `SaysWhatItReads.reads`."""
    asked = (sources[name] for name in sorted({extract.source for extract in step.extract.values()}))
    return " ".join(source.reads(stream) for source in asked if isinstance(source, SaysWhatItReads))


def read_of(source: str, steps: Sequence[Step]) -> set[tuple[str, str]]:
    """Step and stream of all that is read of a source of documents."""
    return {(step.name, stream) for step in steps for one in step.extract.values() if one.source == source for stream in one.streams}


def refuse_other_account(
    source: str, account: str, stored: Sequence[StoredCursor], options: Options, formerly: Collection[str] = ()
) -> None:
    """Raises Drift where a stored cursor is of another database or account: its people are not loaded over those of this one.

    `formerly` are other names of the same account.
    """
    for before in stored:
        if before.account not in {account, *formerly} and not options.accept_account:
            hint = "fix the source's settings; if the move is intentional, run once with --accept-account"
            if before.account.startswith(f"{account} on server "):
                hint = (
                    "this role may not ask which server it is: GRANT EXECUTE ON FUNCTION pg_control_system() TO it, at the source. Or "
                    + hint
                )
            raise Drift(f"source {source} is {account} now; the rows in the target came from {before.account}", hint=hint)


def refuse_silence(  # noqa: PLR0913  what messages say of it
    what: str, before: int, now: int, options: Options, *, had: str = "", causes: str = "wrong database? emptied? rights?"
) -> None:
    """Raises Drift where `what` had records `before`, and has none `now`: a source that fell silent is not one without people.

    `had` says how many there were, and what was left undone.
    """
    if before and not now and not options.allow_empty:
        raise Drift(
            f"{what} is empty; {had or f'the last run read {before} rows; nothing was written'}",
            hint=f"look at the source ({causes}); if this is intentional, run once with --allow-empty",
        )
