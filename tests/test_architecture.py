"""docs/architecture.md names what there is: each room with its modules, and the stations of a record with their functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_layers import ROOMS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "usersync_cli"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
# Private to their folders, and named there.
NOT_NAMED = {"state/migrations/versions"}


def rooms() -> dict[str, set[str]]:
    """Each folder with Python in it, and its modules; "" is the package itself."""
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        room = file.parent.relative_to(PACKAGE).as_posix().removeprefix(".")
        found.setdefault(room, set()).update({file.stem} - {"__init__"})
    return {room: modules for room, modules in found.items() if room not in NOT_NAMED}


def named() -> dict[str, set[str]]:
    """The table of rooms: `| `room/` | what it is | `module` `module` |`."""
    lines = re.findall(r"^\| `([\w/]*?)/?` \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)
    return {room.removeprefix("usersync_cli").removeprefix("/"): set(re.findall(r"`(\w+)`", modules)) for room, modules in lines}


def stations(text: str) -> Iterator[tuple[str, str]]:
    """Every `file.py: function` of a page, the file as it is from the package's folder."""
    yield from re.findall(r"`([\w/]+\.py): ([\w.]+)`", text)


def defined(file: str) -> set[str]:
    """Functions, classes, constants, and methods as `Class.method`, of a module."""
    found = set()
    for node in ast.parse((PACKAGE / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            found |= {target.id for target in getattr(node, "targets", [getattr(node, "target", None)]) if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_each_room_and_module_is_named() -> None:
    """
    The page has a line for each folder, with each of its modules, and names none that is not there.
    """
    assert rooms() == named()


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_each_station_exists(page: str) -> None:
    """
    What a page says is done by a function is done by a function of that name in that file.
    """
    found = list(stations((ROOT / page).read_text()))

    assert found
    assert [] == [f"{file}: {name}" for file, name in found if name not in defined(file)]


def test_the_way_of_a_record_is_told_three_times() -> None:
    """
    Tables, documents, and targets outside PostgreSQL: each way has its stations, from the source to COMMIT.
    """
    ways = re.split(r"^### ", PAGE.partition("## The way of a record")[2].partition("\n## ")[0], flags=re.MULTILINE)[1:]

    assert ["Tables", "Documents", "Outbound"] == [way.partition("\n")[0].partition(":")[0] for way in ways]
    assert all(len(list(stations(way))) >= 6 and "COMMIT" in way for way in ways)


def test_a_drawing_that_github_shows() -> None:
    """
    The page has a mermaid block, and its arrows lead to rooms.
    """
    (drawing,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)

    assert set(re.findall(r"<b>(\w+)/</b>", drawing)) == {room for room in rooms() if room and "/" not in room}


def test_the_arrows_of_the_drawing_are_those_of_the_code() -> None:
    """
    Each arrow between two rooms is an import that the table of rooms allows, and each allowed import is an arrow, or several in a row.
    """
    allowed = {(own.partition("/")[0], other.partition("/")[0]) for own, others in ROOMS.items() for other in others}
    allowed = {(own, other) for own, other in allowed if own not in (other, "__main__")}
    drawn = set(re.findall(r"^ +(\w+)\S*.* --> (\w+)", PAGE, re.MULTILINE))
    reached = set(drawn)
    while more := {(a, d) for a, b in reached for c, d in drawn if b == c} - reached:
        reached |= more

    assert set() == {(own, other) for own, other in drawn if other != "words"} - allowed
    assert set() == allowed - reached
