"""From the config file's values to its models. All mistakes are gathered, and where each value came from is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from usersync_cli.config.diagnostics import STRUCTURE, Mistake, Mistakes, in_our_words
from usersync_cli.config.identities import IdentityLists
from usersync_cli.config.interpolation import Resolved, read_text, resolve
from usersync_cli.config.jobs import Job
from usersync_cli.config.registry import source_port, source_types, target_port, target_types
from usersync_cli.config.yaml_reader import Document
from usersync_cli.settings import Model, Name, plain_name, suggestion
from usersync_cli.settings import Path as Place
from usersync_cli.sources import DocumentPort, TabularPort

EMBEDDED = re.compile(r"embedded(?::([a-z_][a-z0-9_]{0,62}))?")
_TAKEN = ("embedded:postgres", "embedded:template0", "embedded:template1")
_EMBEDDED_DEFAULT = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*:-embedded(:[a-z0-9_]+)?\}")
_URL_BROKEN = "is not a URL that PostgreSQL can read; in a password, write @ : / ? # % as %40 %3A %2F %3F %23 %25"
_URL_FORMS = "must be postgresql://user:password@host:port/database, or embedded, or embedded:NAME (lower-case letters, digits and _)"


class File(Model):
    """The whole file. Each source is read by its own module's Settings."""

    environment: Name = "development"
    target: str
    targets: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    sources: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    identity: IdentityLists = Field(default_factory=IdentityLists)
    jobs: dict[Name, Job] = Field(min_length=1)


def url_mistake(url: str) -> str | None:
    """What is wrong with a database's URL, without showing it. Blanks around it are not: a variable often ends with a newline."""
    url = url.strip()
    if url in _TAKEN:
        return "is a database that PostgreSQL keeps for itself; choose another name after embedded:"
    if EMBEDDED.fullmatch(url):
        return None
    if not url.startswith(("postgresql://", "postgres://")):
        return _URL_FORMS
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(url)
    except (psycopg.Error, ValueError):
        return _URL_BROKEN
    # libpq takes the first @ for the end of the password, and would show the rest of it as the name of a host.
    ports = str(parts.get("port") or "5432").split(",")
    return _URL_BROKEN if "@" in str(parts.get("host")) or not all(port.isdecimal() for port in ports if port) else None


class Reader:
    """One file on its way from values to models. It gathers mistakes, and remembers where each value came from."""

    def __init__(self, document: Document, environ: Mapping[str, str], folder: Path) -> None:
        self.document, self.environ, self.folder = document, environ, folder
        self.resolved: Resolved = resolve(document, environ, folder)
        self.mistakes = [*document.mistakes, *self.resolved.mistakes]
        self.known = {(mistake.line, mistake.column) for mistake in self.mistakes}

    def read(self) -> tuple[File, Mapping[str, BaseModel | None], Mapping[str, BaseModel | None]]:
        """The file, and its sources' and targets' settings: None where a variable is missing. Raises Mistakes."""
        tree = self.resolved.values
        if not isinstance(tree, dict):
            self.mistake((), "must be a mapping with environment, target, sources and jobs; see config.example.yaml")
            raise Mistakes(self.document.file, self.mistakes)
        # Without the key, the variable counts all the same: the container image sets it to production.
        tree.setdefault("environment", self.environment())
        self.name_jobs(tree.get("jobs"))
        sources = {name: self.source(name, raw) for name, raw in _items(tree.get("sources"))}
        targets = {name: self.target(name, raw) for name, raw in _items(tree.get("targets"))}
        file = self.file(tree)
        if self.mistakes or file is None:
            raise Mistakes(self.document.file, self.mistakes or self.unset(()))
        return file, sources, targets

    def unset(self, *places: Place) -> Iterator[Mistake]:
        """The values at or below these places whose variable or file is missing."""
        for path, reasons in self.resolved.missing.items():
            if any(path[: len(place)] == place for place in places):
                yield self.document.mistake(path, " and ".join(reasons))

    def environment(self) -> str:
        given = self.environ.get("USERSYNC_ENV") or "development"
        try:
            return plain_name(given)
        except ValueError as error:
            self.mistake((), f"USERSYNC_ENV {error}")
            return "development"

    def name_jobs(self, jobs: object) -> None:
        for name, job in _items(jobs):
            if "name" in job:
                self.mistake(("jobs", name, "name"), 'unknown key "name": a job is named by its key', key=True)
            job["name"] = name
            steps = job.get("steps")
            for position, step in enumerate(steps if isinstance(steps, list) else []):
                if isinstance(step, dict) and isinstance(step.get("transform"), dict):
                    step["transform"] = self.transform(step["transform"], ("jobs", name, "steps", position, "transform"))

    def transform(self, given: dict[str, Any], path: Place) -> str:
        """The text of `transform: {file: PATH}`, as it is; a stand-in after a mistake."""
        if list(given) != ["file"] or not isinstance(given["file"], str):
            self.mistake(path, "must be SQL, or {file: PATH}")
        elif (*path, "file") not in self.resolved.missing:
            try:
                return read_text(self.folder / given["file"])
            except ValueError as error:
                written = str(self.document.locate((*path, "file"))[1].value)
                shown = "the file" if "${" in written else written
                self.mistake((*path, "file"), f"{shown} {error} (paths are relative to the config file)")
        return "SELECT"

    def source(self, name: str, raw: dict[str, Any]) -> BaseModel | None:
        """One source's settings; None after a mistake, or when a variable is missing."""
        path: Place = ("sources", name)
        if not self.knows_type(raw, path, source_types()):
            return None
        port = source_port(raw["type"])
        found = self.settings(port.settings, raw, path)
        if isinstance(port, TabularPort):
            self.check_url((*path, "url"))
        return found

    def target(self, name: str, raw: dict[str, Any]) -> BaseModel | None:
        """The settings of a target outside Postgres; None after a mistake, or when a variable is missing."""
        path: Place = ("targets", name)
        if name == "target":
            self.mistake(path, 'the name "target" is that of the one PostgreSQL; choose another', key=True)
            return None
        return self.settings(target_port(raw["type"]).settings, raw, path) if self.knows_type(raw, path, target_types()) else None

    def settings(self, model: type[BaseModel], raw: dict[str, Any], path: Place) -> BaseModel | None:
        try:
            return model.model_validate(raw, context={"folder": self.folder})
        except ValidationError as error:
            self.take(error, model, path)
        return None

    def check_url(self, path: Place) -> None:
        url = self.value(path)
        if isinstance(url, str) and path not in self.resolved.missing and (text := url_mistake(url)):
            self.mistake(path, text)

    def knows_type(self, raw: dict[str, Any], path: Place, types: Sequence[str]) -> bool:
        type_ = raw.get("type")
        if "type" not in raw:
            self.mistake(path, f'key "type" is missing; known: {", ".join(types)}')
        elif not isinstance(type_, str) or (*path, "type") in self.resolved.missing:
            self.mistake((*path, "type"), f"must be one of: {', '.join(types)}")
        elif type_ not in types:
            self.mistake((*path, "type"), f'unknown type "{type_}"{suggestion(type_, types)}')
        return type_ in types

    def file(self, tree: dict[str, Any]) -> File | None:
        """The file's models. A value whose variable is missing and that is no text is left out, so its default stands in."""
        self.check_url(("target",))
        context = {
            "sources": {name: self.offers(raw) for name, raw in _all_items(tree.get("sources"))},
            "targets": dict(_all_items(tree.get("targets"))),
            "keeps": {name for name, raw in _all_items(tree.get("targets")) if self.only_keeps(raw)},
            "never_gone": {name for name, raw in _all_items(tree.get("sources")) if self.never_gone(raw)},
        }
        try:
            return File.model_validate(tree, context=context)
        except ValidationError as error:
            left_out = self.take(error, File)
        for path in left_out:
            _remove(tree, path)
        try:
            return File.model_validate(tree, context=context)
        except ValidationError as error:
            self.take(error, File)
            return None

    def offers(self, raw: Any) -> tuple[str, Sequence[str]] | None:
        """Kind and streams of a source, None when its type is not known."""
        if not isinstance(raw, dict) or raw.get("type") not in source_types():
            return None
        port = source_port(raw["type"])
        return ("tabular", ()) if isinstance(port, TabularPort) else ("documents", port.streams(raw))

    def never_gone(self, raw: Any) -> bool:
        """Whether nothing of a source of this type ever counts as gone."""
        if not isinstance(raw, dict) or raw.get("type") not in source_types():
            return False
        port = source_port(raw["type"])
        return isinstance(port, DocumentPort) and not port.removes

    def only_keeps(self, raw: Any) -> bool:
        """Whether nothing is ever disabled in a target of this type."""
        type_ = raw.get("type") if isinstance(raw, dict) else None
        return type_ in target_types() and not target_port(type_).disables

    def take(self, error: ValidationError, model: type[BaseModel], prefix: Place = ()) -> list[Place]:
        """Notes pydantic's errors as mistakes; gives the places where only a missing variable is to blame."""
        excused = []
        details = []
        for detail in error.errors(include_url=False):
            path = self.document.locate((*prefix, *detail["loc"]))[0]
            if path in self.resolved.missing and detail["type"] not in STRUCTURE:
                excused.append(path)
            else:
                details.append(detail)
        for path, key, text in in_our_words(details, model):
            value = self.text((*prefix, *path))
            # A source's own validators may quote what they were given.
            self.mistake((*prefix, *path), text.replace(value, "...") if prefix and len(value) > 3 else text, key=key)
        return excused

    def mistake(self, path: Place, text: str, *, key: bool = False) -> None:
        """A mistake, without what came from a variable; none where one is known already, such as a bad `${`."""
        real = self.document.locate(path)[0]
        if real in self.resolved.given or real in self.resolved.defaults:
            text = text.replace(f' "{self.text(real)}"', "")
        mistake = self.document.mistake(path, text, key=key)
        if (mistake.line, mistake.column) not in self.known:
            self.mistakes.append(mistake)

    def text(self, path: Place) -> str:
        """The text at a place, after its variables; empty when there is none."""
        value = self.value(path)
        return value if isinstance(value, str) else ""

    def value(self, path: Place) -> Any:
        """The value at a place, after its variables; None when there is none."""
        value = self.resolved.values
        for step in path:
            try:
                value = value[step]
            except (LookupError, TypeError):
                return None
        return value

    def origin(self, path: Place) -> str:
        """Where a value came from, in brackets: the variable to look at when it is not the one that was meant."""
        if path == ("environment",) and self.document.root.child("environment") is None:
            return " (USERSYNC_ENV)" if self.environ.get("USERSYNC_ENV") else " (the default; is USERSYNC_ENV set?)"
        if names := self.resolved.defaults.get(path):
            raw = self.document.locate(path)[1].value
            shown = f"default of {raw}" if _EMBEDDED_DEFAULT.fullmatch(raw) else "its default"
            return f" ({shown}; is {' and '.join(names)} set?)"
        if names := self.resolved.given.get(path):
            return f" (from {' and '.join(names)})"
        return ""


def _all_items(value: object) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()


def _items(value: object) -> list[tuple[str, dict[str, Any]]]:
    return [(key, inner) for key, inner in _all_items(value) if isinstance(inner, dict)]


def _remove(tree: Any, path: Place) -> None:
    """Takes a key out, so that its default applies."""
    for step in path[:-1]:
        tree = tree[step]
    if isinstance(tree, dict):
        tree.pop(path[-1], None)
