"""YAML text in, values with line and column out: the YAML 1.2 core schema, and nothing that surprises.

`no`, `0123`, `0x1F`, `12:30` and dates are text. Tags, `<<`, several documents and duplicate keys are refused. Aliases are
read, up to a number of values that no config reaches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from usersync_cli.config.diagnostics import Mistake, Mistakes, show_key, show_path
from usersync_cli.settings import Path

MOST_VALUES = 10_000
_DEEPEST = 50
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*|(?=[eE]))|\.[0-9]+)([eE][-+]?[0-9]{1,2})?")
_CONSTANTS = {"": None, "~": None, **dict.fromkeys(("null", "Null", "NULL"))}
_CONSTANTS |= {**dict.fromkeys(("true", "True", "TRUE"), True), **dict.fromkeys(("false", "False", "FALSE"), False)}
# NUL ends text in PostgreSQL; a lone half of a surrogate pair cannot be encoded.
_UNPRINTABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands. `value` is text, int, float, bool or None; a list of nodes; or nodes by key."""

    value: Any = field(repr=False)
    line: int
    column: int
    size: int = 1  # values in it, aliases expanded
    keys: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # where each key stands

    def child(self, step: str | int) -> Node | None:
        """The node at a key or list position, if there is one."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            found: Node = self.value[step]
            return found
        return None


@dataclass
class Document:
    """One config file. `mistakes` are those that did not keep the rest from being read."""

    file: str
    root: Node
    mistakes: list[Mistake]

    def locate(self, path: Path) -> tuple[Path, Node, tuple[int, int]]:
        """The part of a path that is really in the file, its node, and where its key stands.

        A single extract has no name in the file, so steps that are not there are left out.
        """
        real: Path = ()
        node, key = self.root, (self.root.line, self.root.column)
        for step in path:
            if (child := node.child(step)) is not None:
                key = node.keys.get(str(step), (child.line, child.column))
                real, node = (*real, step), child
        return real, node, key

    def mistake(self, path: Path, text: str, *, key: bool = False) -> Mistake:
        """A mistake of the value at a path. `key`: the last step is itself the mistake, in the mapping around it."""
        real, node, key_place = self.locate(path)
        # A mapping is best found by its key; "is missing" means it, and not its first line.
        place = key_place if key or isinstance(node.value, dict) else (node.line, node.column)
        return Mistake(*place, show_path(real[:-1] if key else real), text)


def read(text: str, file: str) -> Document:
    """The one document of a file. Raises Mistakes when it cannot be read to its end."""
    builder = _Builder(text)
    try:
        root = builder.document()
    except _Unreadable as error:
        raise Mistakes(file, [*builder.mistakes, error.mistake]) from None
    except yaml.MarkedYAMLError as error:
        raise Mistakes(file, [*builder.mistakes, _syntax(error)]) from None
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        raise Mistakes(file, [Mistake(line, column, "", "a control character is not allowed here")]) from None
    except (ValueError, OverflowError):  # "\UFFFFFFFF"
        raise Mistakes(file, [Mistake(1, 1, "", "somewhere in quotes, a \\U escape names a character that does not exist")]) from None
    return Document(file, root, builder.mistakes)


class _Unreadable(Exception):
    def __init__(self, event: Any, text: str, path: Path = ()) -> None:
        super().__init__(text)
        self.mistake = Mistake(*_place(event), show_path(path), text)


class _Builder:
    """Nodes out of PyYAML's events. Its own composer would recurse without bound and lose where an alias stands."""

    def __init__(self, text: str) -> None:
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        self.anchors: dict[str, Node | None] = {}  # None: still being built
        self.values = 0
        self.mistakes: list[Mistake] = []

    def document(self) -> Node:
        next(self.events)
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            raise _Unreadable(event, "the file is empty; begin with: cp config.example.yaml config.yaml")
        root = self.node(next(self.events), ())
        next(self.events)
        event = next(self.events)
        if isinstance(event, yaml.DocumentStartEvent):
            raise _Unreadable(event, 'a second document begins here; one file holds one document, so take out the "---"')
        return root

    def node(self, event: Any, path: Path) -> Node:
        if len(path) > _DEEPEST:
            raise _Unreadable(event, f"is nested more than {_DEEPEST} deep")
        node = self.aliased(event, path) if isinstance(event, yaml.AliasEvent) else self.built(event, path)
        self.values += node.size if isinstance(event, yaml.AliasEvent) else 1
        if self.values > MOST_VALUES:
            raise _Unreadable(event, f"holds more than {MOST_VALUES} values when its aliases are expanded", path)
        return node

    def aliased(self, event: Any, path: Path) -> Node:
        if event.anchor not in self.anchors:
            raise _Unreadable(event, 'an alias without its anchor; text that begins with "*" needs quotes', path)
        node = self.anchors[event.anchor]
        if node is None:
            raise _Unreadable(event, "an alias that stands inside its own anchor", path)
        return node

    def built(self, event: Any, path: Path) -> Node:
        if event.tag:
            self.note(event, path, 'tags are not read; text that begins with "!" needs quotes')
        if event.anchor:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.MappingStartEvent):
            node = self.mapping(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.sequence(event, path)
        else:
            node = Node(self.scalar(event, path), *_place(event))
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def sequence(self, start: Any, path: Path) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, (*path, len(items))))
        return Node(items, *_place(start), 1 + sum(item.size for item in items))

    def mapping(self, start: Any, path: Path) -> Node:
        values: dict[str, Node] = {}
        keys: dict[str, tuple[int, int]] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.key(event, path)
            if key in keys:
                self.note(event, path, f"key {show_key(key)} is given twice: first on line {keys[key][0]}; keep one")
            value = self.node(next(self.events), (*path, key))
            if key not in keys:
                keys[key], values[key] = _place(event), value
        return Node(values, *_place(start), 1 + sum(value.size for value in values.values()), keys)

    def key(self, event: Any, path: Path) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise _Unreadable(event, "a key must be plain text", path)
        if event.value == "<<" and not event.style:
            text = 'merge keys ("<<") are not read; write the keys out, or use an alias for a whole value'
            raise _Unreadable(event, text, path)
        if event.tag or event.anchor:
            self.note(event, path, "a key takes no tag or anchor")
        key: str = self.text(event, path)
        return key

    def scalar(self, event: Any, path: Path) -> Any:
        if event.style:
            return self.text(event, path)
        if event.value in _CONSTANTS:
            return _CONSTANTS[event.value]
        if _INT.fullmatch(event.value):
            return int(event.value)
        return float(event.value) if _FLOAT.fullmatch(event.value) else self.text(event, path)

    def text(self, event: Any, path: Path) -> str:
        if _UNPRINTABLE.search(event.value):
            self.note(event, path, "holds a character that no database takes as text (NUL, or half of a surrogate pair)")
        return _UNPRINTABLE.sub("?", event.value)

    def note(self, event: Any, path: Path, text: str) -> None:
        self.mistakes.append(Mistake(*_place(event), show_path(path), text))


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


# PyYAML's words begin so: ours. The first that fits; where PyYAML says what was open, that place is shown.
_SYNTAX = {
    r"found character '\\t'": "a tab stands here; indent with spaces",
    r"found character '%'": 'text cannot begin with "%"; put it in quotes',
    r"found character '(@|`)'": "text cannot begin with @ or `; put it in quotes",
    r"mapping values are not allowed": 'a second ": " on this line, or a key that is indented differently from the ones above; '
    "check the indentation, or put the text in quotes",
    r"sequence entries are not allowed": 'a list cannot begin here; put each "- " on its own line, or the text in quotes',
    r"could not find expected ':'": 'a key without its ":"',
    r"expected <block end>, but found '<(scalar|alias|anchor|tag)": "text goes on after its end; check quotes and indentation",
    r"expected <block end>": "the indentation fits none of the lines above",
    r"expected ',' or '\]'": 'the "[" that opens here is not closed, or a "," is missing',
    r"expected ',' or '\}'": 'the "{" that opens here is not closed, or a "," is missing',
    r"found unexpected (end of stream|document separator)": "the quote that opens here is not closed",
    r"found unknown escape|expected escape sequence": r'"\" begins an escape in double quotes; write "\\", or use single quotes',
    r"found incompatible YAML": "this %YAML version is not read; take the line out",
    r"expected '<document start>'": "text goes on after the end of the document; check the indentation",
    r"expected alphabetic": '"&" and "*" begin anchors and aliases; put text that begins so in quotes',
}


def _syntax(error: yaml.MarkedYAMLError) -> Mistake:
    problem = error.problem or ""
    fitting = (ours for theirs, ours in _SYNTAX.items() if re.match(theirs, problem))
    text = next(fitting, "this is not YAML; check quotes, brackets and indentation")
    mark = error.context_mark if "opens here" in text and error.context_mark else error.problem_mark
    return Mistake(mark.line + 1, mark.column + 1, "", text) if mark else Mistake(1, 1, "", text)
