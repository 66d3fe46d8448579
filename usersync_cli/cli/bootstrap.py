"""From a config file to what a run works with: the sources are made here, by their type's file name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usersync_cli.auth.tokens import Tokens
    from usersync_cli.config.loader import Config
    from usersync_cli.load.writers import Writer
    from usersync_cli.model import Job, Step
    from usersync_cli.ports import Source
    from usersync_cli.run.context import Open, Progress, RunContext
    from usersync_cli.signals import Stop


def run_context(settings: Config, job: Job, stop: Stop, progress: Progress = lambda _extract, _size: None) -> RunContext:
    """The target, the job's sources and tools. Nothing is contacted."""
    from usersync_cli.ports import Tools
    from usersync_cli.run.context import RunContext

    names = {extract.source for step in job.steps for extract in step.extract.values()}
    sources = {name: source(settings, name) for name in sorted(names)}
    tools = Tools(job.name, stop, settings.database, tokens(settings, stop, job.name))
    targets = {name: target(settings, name) for name in settings.targets_of(job.name)}
    known = {"steps": job.steps, "jobs": list(settings.jobs), "writers": writers(settings), "lists": settings.identity_lists()}
    return RunContext(settings.target_database(), sources, tools, progress, targets=targets, **known)  # type: ignore[arg-type]  # all of them


def writers(settings: Config) -> list[Writer]:
    """Where each step writes, of all jobs that may run in this environment. One whose variables are not set does not run here."""
    jobs = [one for name, one in settings.jobs.items() if not settings.lacking(name)]
    return [
        _writer(settings, job.name, step) for job in jobs if settings.environment in (job.environments or [settings.environment])
        for step in job.steps
    ]  # fmt: skip


def _writer(settings: Config, job: str, step: Step) -> Writer:
    from usersync_cli.load.writers import Writer
    from usersync_cli.run.context import is_outbound, streams

    removes = step.load.on_missing != "keep"
    if is_outbound(step):
        own = settings.target(step.load.target)
        return Writer(job, step.name, (), settings.target_port(step.load.target).place(own), removes)
    return Writer(job, step.name, [step.load.table.replace("{stream}", one) for one in streams(step) or [""]], "", removes)


def tokens(settings: Config, stop: Stop, job: str) -> Tokens:
    """The tokens that are kept in the target. Nothing is contacted, and no key is asked for."""
    from usersync_cli.auth.tokens import Tokens

    return Tokens(settings.target_database(), settings.keys, stop, job=job, folder=settings.path.parent)


def target(settings: Config, name: str) -> Open:
    """A target outside Postgres. It is not contacted."""
    return partial(settings.target_port(name).opened, name, settings.target(name))


def source(settings: Config, name: str) -> Source:
    """A source of the config file. It is not contacted."""
    return settings.source_port(name).source(name, settings.source(name))
