"""`${VAR}`, `${VAR:-default}` and `${file:PATH}` in the values of the config file; `$${` stands for a plain `${`.

Put in after parsing, once: what a variable holds is text, whatever it looks like. `$1`, `$$` and `$tag$` mean what they mean in SQL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from usersync_cli.config.diagnostics import Mistake
from usersync_cli.config.yaml_reader import Document, Node
from usersync_cli.settings import UNSET, Path

_EXPRESSION = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_FORMS = "must be ${VAR}, ${VAR:-default} or ${file:PATH}, none inside another; write $${ for a plain ${"


@dataclass
class Resolved:
    """The file's values as plain data, and what became of the `${...}` in them."""

    values: Any = field(repr=False)
    missing: dict[Path, list[str]] = field(default_factory=dict)  # in words: "TOKEN is not set"
    given: dict[Path, list[str]] = field(default_factory=dict)  # the variables that a value came from
    defaults: dict[Path, list[str]] = field(default_factory=dict)  # the variables whose default applied
    mistakes: list[Mistake] = field(default_factory=list)


def resolve(document: Document, environ: Mapping[str, str], folder: FilePath) -> Resolved:
    """All values of a document. Files are relative to `folder`."""
    return _Resolver(document, environ, folder).result


class _Resolver:
    def __init__(self, document: Document, environ: Mapping[str, str], folder: FilePath) -> None:
        self.document, self.environ, self.folder = document, environ, folder
        self.result = Resolved(None)
        self.result.values = self.value(document.root, ())

    def value(self, node: Node, path: Path) -> Any:
        if isinstance(node.value, dict):
            return {key: self.value(child, (*path, key)) for key, child in node.value.items()}
        if isinstance(node.value, list):
            return [self.value(child, (*path, position)) for position, child in enumerate(node.value)]
        if isinstance(node.value, str) and "${" in node.value:
            return self.text(node.value, path)
        return node.value

    def text(self, text: str, path: Path) -> str:
        resolved = _EXPRESSION.sub(lambda match: self.expression(match, path), text)
        return f"{UNSET}{len(self.result.missing)}" if path in self.result.missing else resolved

    def expression(self, match: re.Match[str], path: Path) -> str:
        if match[0] == "$${":
            return "${"
        inside = match[1]
        if inside.startswith("file:") and not inside.startswith("file:-") and match[2] and "${" not in inside:
            return self.file(inside.removeprefix("file:"), path)
        variable = _VARIABLE.fullmatch(inside)
        if not variable or not match[2] or "${" in inside:
            self.result.mistakes.append(self.document.mistake(path, _FORMS))
            return ""
        return self.variable(variable[1], variable[2], path)

    def variable(self, name: str, default: str | None, path: Path) -> str:
        given = self.environ.get(name)
        # As in a shell, ":-" means: unset or empty.
        if default is not None and not given:
            self.result.defaults.setdefault(path, []).append(name)
            return default
        if given is None:
            return self.miss(path, f"{name} is not set (in the environment or in .env)")
        if "\0" in given or not is_text(given):
            return self.miss(path, f"{name} is not UTF-8 text")
        self.result.given.setdefault(path, []).append(name)
        return given

    def file(self, name: str, path: Path) -> str:
        try:
            text = read_text(self.folder / name)
        except ValueError as error:
            return self.miss(path, f"file {name} {error}")
        self.result.given.setdefault(path, []).append(f"file {name}")
        return text.removesuffix("\n")

    def miss(self, path: Path, why: str) -> str:
        self.result.missing.setdefault(path, []).append(why)
        return ""


def read_text(file: FilePath) -> str:
    """A small UTF-8 file. Raises ValueError that says, without the file's name, why it cannot be had."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except ValueError:  # not UTF-8, or NUL in the name
        raise ValueError("is not UTF-8 text") from None
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


def is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
