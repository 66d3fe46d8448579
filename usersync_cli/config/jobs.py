"""What a job is: the part of the config file under `jobs:`, as pydantic models that refuse what they do not know."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from usersync_cli.config import identities, values
from usersync_cli.config.identities import Identity
from usersync_cli.config.values import ColumnName, ExtractName, OnMissing, PingUrl, Share, Sql
from usersync_cli.model import LIVE
from usersync_cli.settings import UNSET, Duration, FieldError, Model, Name, suggestion


class Extract(Model):
    """What is read from one source: a table or a query of a SQL source, streams of a source of documents."""

    source: str
    table: Annotated[str, AfterValidator(values.table_name)] | None = None
    query: Sql | None = None
    streams: list[str] = Field(default_factory=list)

    @field_validator("source")
    @classmethod
    def _is_known(cls, value: str, info: ValidationInfo) -> str:
        return value if info.context is None else _known(value, info.context["sources"], "source")

    @model_validator(mode="after")
    def _reads_one_thing(self, info: ValidationInfo) -> Extract:
        """The context holds the file's sources: name -> (kind, streams), None for one whose type cannot be told."""
        kind, streams = ((info.context or {}).get("sources", {}).get(self.source)) or (None, ())
        given = [name for name in ("table", "query", "streams") if getattr(self, name)]
        if kind == "tabular" and given not in (["table"], ["query"]):
            raise FieldError('give "table" or "query", one of them: this source is a SQL database')
        if kind == "documents" and given != ["streams"]:
            raise FieldError('give "streams" alone: this source has no tables')
        if len(given) != 1:
            raise FieldError('give one of "table", "query" or "streams"')
        for position, stream in enumerate(self.streams if streams else ()):
            _known(stream, dict.fromkeys(streams), "stream", "streams", position)
        return self


class Load(Model):
    """Where the rows go, and what makes two rows the same."""

    table: Annotated[str, AfterValidator(values.loaded_table_name)]
    key: list[ColumnName]
    on_missing: Annotated[OnMissing, BeforeValidator(values.on_missing)] = "keep"
    max_missing: Share = 0.05  # of the rows seen before; more go only with --approve-deletes (10 rows always may, half never)
    missing_window: Duration = timedelta(days=7)  # in it, three times as many may go as in one run; 0s: each run by itself
    adopt_existing: bool = False  # rows that were there before us may go too, once, behind the same guard
    create: bool = False  # make the table when it does not exist
    live_view: bool = False  # a view <table>_live of the rows that are not marked as deleted
    order_by: Sql | None = None  # over the transform's columns: of several rows with one key, the first wins
    target: Literal["target"] = "target"  # the one Postgres

    @field_validator("key")
    @classmethod
    def _is_a_key(cls, value: list[str]) -> list[str]:
        if not value:
            raise FieldError("must name at least one column")
        if len(set(value)) < len(value):
            raise FieldError("names a column twice")
        return value

    @model_validator(mode="after")
    def _adopts_for_a_reason(self) -> Load:
        if self.adopt_existing and self.on_missing == "keep":
            raise FieldError('has an effect only where on_missing is "mark" or "delete"', ("adopt_existing",))
        return self

    @model_validator(mode="after")
    def _shows_what_is_not_marked(self) -> Load:
        if self.live_view and self.on_missing != "mark":
            raise FieldError('is a view of the rows that are not marked: it needs on_missing: "mark"', ("live_view",))
        return self


class Outward(Model):
    """A target outside Postgres, which keeps the people in its own way."""

    target: str  # a name under `targets:`
    # `disable`, but where the target disables nothing.
    on_missing: Annotated[Literal["keep", "disable"], BeforeValidator(values.on_missing_there)] = "disable"
    max_missing: Share = 0.05  # of the accounts that are ours; more are disabled only with --approve-deletes
    missing_window: Duration = timedelta(days=7)  # in it, three times as many may be disabled as in one run; 0s: each run by itself
    order_by: Sql | None = None  # over the transform's columns: of several rows with one id, the first wins

    @property
    def table(self) -> str:
        """What messages call it."""
        return self.target

    @property
    def key(self) -> Sequence[str]:
        """What makes two rows the same person."""
        return ("id",)

    @property
    def create(self) -> bool:
        """There is no table to make."""
        return False

    @property
    def adopt_existing(self) -> bool:
        """Accounts that were there before are adopted by the target's own rule, and removed by none."""
        return False

    @property
    def live_view(self) -> bool:
        """There is no table to look at."""
        return False


def _kept(value: dict[str, Any]) -> dict[str, Any]:
    """A step's `load` whose target only makes what is lacking. Raises FieldError where it asks for more."""
    for name in ("on_missing", "max_missing", "missing_window"):
        if name in value and value[name] != "keep":
            text = 'can only be "keep": ' if name == "on_missing" else "has no effect: "
            raise FieldError(f"{text}nothing is ever removed or disabled there, so take it out", (name,))
    return {**value, "on_missing": "keep"}


class Step(Model):
    """One extract, transform and load."""

    name: ColumnName = ""  # the load table's, when the file gives none
    extract: Mapping[ExtractName, Extract]
    transform: Sql | None = None
    reads: list[Annotated[str, AfterValidator(values.table_of_theirs)]] = Field(default_factory=list)  # of the target, beside the extracts
    load: Load | Outward
    identity: list[Identity] = Field(default_factory=list)  # whose the rows are

    @field_validator("identity", mode="before")
    @classmethod
    def _is_one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value

    @field_validator("load", mode="wrap")
    @classmethod
    def _goes_somewhere(cls, value: Any, _handler: Any, info: ValidationInfo) -> Load | Outward:
        if isinstance(value, (Load, Outward)):
            return value
        target = value.get("target") if isinstance(value, dict) else None
        if target is None or target == "target" or not isinstance(target, str):
            return Load.model_validate(value, context=info.context)
        if info.context is not None:
            _known(target, {"target": None, **info.context["targets"]}, "target", "target")
        for name in ("table", "key", "create", "adopt_existing", "live_view"):
            if name in value:
                raise FieldError("is for tables; a target outside PostgreSQL has none, so take it out", (name,))
        if info.context is not None and target in info.context["keeps"]:
            value = _kept(value)
        return Outward.model_validate(value, context=info.context)

    @model_validator(mode="before")
    @classmethod
    def _is_named_after_its_table(cls, data: Any) -> Any:
        load = data.get("load") if isinstance(data, dict) and "name" not in data else None
        table = load.get("table", load.get("target")) if isinstance(load, dict) else getattr(load, "table", None)
        return {**data, "name": table} if isinstance(table, str) else data

    @field_validator("extract", mode="before")
    @classmethod
    def _is_named(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if not value:
            raise FieldError("must read at least one source")
        return value if any(isinstance(inner, (dict, Extract)) for inner in value.values()) else {"records": value}

    @model_validator(mode="after")
    def _can_be_written_in_sql(self) -> Step:
        table = self.load.table.rpartition(".")[2]
        if table in self.extract:
            advice = "rename the extract" if table != "records" else 'name the extract (one without a name is called "records")'
            same = "has the name of the table that is loaded, so the SQL could not tell them apart"
            raise FieldError(f"{same}; {advice}", ("extract", table))
        if len(self.extract) > 1 and self.transform is None:
            raise FieldError("several extracts need a transform: a SELECT that says how they become one")
        return self

    @model_validator(mode="after")
    def _reads_in_its_transform(self) -> Step:
        if self.reads and self.transform is None:
            raise FieldError("names tables of the target that the transform may read, and there is no transform", ("reads",))
        return self

    @model_validator(mode="after")
    def _has_a_table_for_each_stream(self) -> Step:
        streams = [stream for extract in self.extract.values() for stream in extract.streams]
        if streams and len(self.extract) > 1:
            raise FieldError("streams are read by a step of their own", ("extract",))
        if len(set(streams)) < len(streams):
            raise FieldError("names a stream twice", ("extract",))
        if isinstance(self.load, Outward):
            if len(streams) > 1:
                raise FieldError("one stream goes into a target outside PostgreSQL: the one that has the people", ("extract",))
            return self
        if len(streams) > 1 and "{stream}" not in self.load.table:
            several = "several streams are read, and each has its table"
            raise FieldError(f'must hold {{stream}}, such as "crm_{{stream}}": {several}', ("load", "table"))
        if "{stream}" in self.load.table and not streams:
            raise FieldError("holds {stream}, which only a step that reads streams can fill", ("load", "table"))
        return self

    @model_validator(mode="after")
    def _has_rows_that_are_somebodys(self) -> Step:
        if self.identity and isinstance(self.load, Outward):
            raise FieldError("belongs to a step that loads a table; a target outside PostgreSQL keeps none", ("identity",))
        identities.fit(self.identity, [stream for extract in self.extract.values() for stream in extract.streams])
        return self

    @model_validator(mode="after")
    def _keeps_what_its_source_can_not_list(self, info: ValidationInfo) -> Step:
        never_gone = info.context.get("never_gone", ()) if info.context is not None else ()
        if self.load.on_missing != "keep" and any(extract.source in never_gone for extract in self.extract.values()):
            raise FieldError('can only be "keep": its source has no list, so nothing is ever known to have left', ("load", "on_missing"))
        return self

    @model_validator(mode="after")
    def _has_a_name_for_its_view(self) -> Step:
        """PostgreSQL would cut the name of a view that is too long, as it would that of a table."""
        streams = [stream for extract in self.extract.values() for stream in extract.streams]
        tables = [self.load.table.replace("{stream}", stream) for stream in streams] or [self.load.table]
        for table in tables if self.load.live_view else ():
            view = table.rpartition(".")[2] + LIVE
            if (size := len(view.encode())) > 63:
                raise FieldError(f"the view would be called {view}, {size} bytes long, and a name has 63 at most", ("load", "live_view"))
        return self


class OnFailure(Model):
    """What to start when a run did not end well."""

    command: str  # in words as a shell splits them, but without one; the run's JSON is its stdin

    @field_validator("command")
    @classmethod
    def _is_something(cls, value: str) -> str:
        try:
            words = shlex.split(value)
        except ValueError:
            raise FieldError("has a quote that is not closed, or a \\ at its end") from None
        if not words:
            raise FieldError("must not be empty")
        return value


class Job(Model):
    """Steps that run in turn, one run at a time."""

    name: str
    noun: Annotated[str, AfterValidator(values.short_text)] = "records"  # the summary's word for what is copied: "members"
    schedule: Annotated[str, AfterValidator(values.cron_schedule)] | None = None
    environments: tuple[Name, ...] | None = None  # refused in any other
    lease: Duration = timedelta(seconds=60)
    max_runtime: Duration | None = None
    max_wait: Duration = timedelta(minutes=5)  # for servers that do not answer, all requests of a run together
    on_failure: OnFailure | None = None
    ping_url: PingUrl | None = Field(None, repr=False)  # healthchecks.io conventions: /start, then the exit status; a secret
    steps: tuple[Step, ...]

    @field_validator("environments")
    @classmethod
    def _runs_somewhere(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value == ():
            raise FieldError("must name at least one environment; leave it out if the job may run in any")
        return value

    @field_validator("lease")
    @classmethod
    def _can_be_renewed(cls, value: timedelta) -> timedelta:
        if value < timedelta(seconds=2):
            raise FieldError("must be at least 2s")
        return value

    @field_validator("max_runtime")
    @classmethod
    def _leaves_time(cls, value: timedelta | None) -> timedelta | None:
        if value == timedelta(0):
            raise FieldError("must be more than 0s")
        return value

    @field_validator("steps")
    @classmethod
    def _are_told_apart(cls, value: tuple[Step, ...]) -> tuple[Step, ...]:
        if not value:
            raise FieldError("must hold at least one step")
        names = [step.name for step in value]
        for position, name in enumerate(names):
            if (first := names.index(name)) < position:
                text = f"has the same name as steps[{first}]; give one of them another (without one, a step has its table's)"
                raise FieldError(text, (position, "name"))
        return value


def _known(value: str, known: Mapping[str, object], what: str, *at: str | int) -> str:
    if value not in known and not value.startswith(UNSET):
        raise FieldError(f'unknown {what} "{value}"{suggestion(value, list(known))}', at)
    return value
