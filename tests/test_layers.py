"""Which room may import from which, and what a room keeps to itself: read from the source, not from what happens to be imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "usersync_cli"

# A room is a folder, or a file of the package itself; the longest name that fits a module is its room. Each may import from
# itself, from `words`, and from the rooms that stand behind it here, at the top of a module or late.
WORDS = ("errors", "signals", "patience", "log", "model", "settings", "shapes", "stdio", "spreadsheets", "__init__")
ROOMS: dict[str, Collection[str]] = {
    "clients": (),
    "clients/postgres": (),
    "clients/http": (),
    "clients/klanten": ("clients/http",),
    "state/migrations": ("clients/postgres",),
    "state": ("state/migrations", "clients/postgres"),
    "auth": ("state", "state/migrations", "clients/postgres", "clients/http"),
    "load": ("ports", "state", "clients/postgres"),
    "ports": ("state", "clients/postgres"),
    "identity": ("load", "state", "state/migrations", "clients/postgres"),
    "sources": ("ports", "auth", "clients/postgres", "clients/http", "clients/klanten"),
    "targets": ("ports", "identity", "state", "clients/postgres", "clients/http", "clients/klanten"),
    "run/context": ("ports", "identity", "load", "state"),
    "run/checkpoint": ("run/context", "load", "state", "clients/postgres"),
    "run/identities": ("identity", "run/context", "run/checkpoint", "load", "clients/postgres"),
    "run/tables": ("run/context", "run/identities", "run/checkpoint", "ports", "load", "state", "clients/postgres"),
    "run/documents": (
        *("ports", "run/context", "run/checkpoint", "run/identities", "load", "auth", "state", "state/migrations", "clients/postgres"),
    ),
    "run/outbound": ("ports", "run/context", "run/checkpoint", "run/tables", "load", "state", "clients/postgres"),
    "run": (
        *("run/context", "run/checkpoint", "run/tables", "run/documents", "run/outbound", "state", "clients/postgres", "clients/http"),
    ),
    "report": (
        *("run/context", "run/checkpoint", "run/identities", "run/tables", "run/documents", "run/outbound", "load", "auth", "state"),
        *("state/migrations", "clients/postgres", "identity", "ports"),
    ),
    "config": ("sources", "targets", "auth", "identity"),
    "cli": (
        *("config", "report", "run", "run/context", "run/documents", "run/outbound", "identity", "load", "auth", "state"),
        *("state/migrations", "clients/postgres", "ports", "targets"),
    ),
    "__main__": ("cli",),
}
# Who asks the environment for what; "?" is anything.
ENVIRONMENT: dict[str, set[str]] = {
    "config/loader": {"?"},  # the one reader
    "log": {"NO_COLOR"},  # before there is a config
    "clients/postgres/parameters": {"PGSSLMODE", "PGHOST", "SSL_CERT_FILE"},  # libpq's own: it reads them whatever we do
    "clients/postgres/embedded": {"?"},  # hands the environment on to PostgreSQL's programs
    "cli/db": {"?"},  # hands the environment on to psql
    "run/notify": {"?"},  # hands a few on to the program of on_failure
}
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "base", "core", "misc"}

FILES = {file.relative_to(PACKAGE).as_posix().removesuffix(".py").removesuffix("/__init__"): file for file in PACKAGE.rglob("*.py")}
MODULES = sorted(FILES)


def room(module: str) -> str:
    """The room that a module is in; `words` for those at the bottom. A module that is in none has to be put somewhere."""
    if module in WORDS:
        return "words"
    return max((name for name in ROOMS if f"{module}/".startswith(f"{name}/")), key=len)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text())


def ours(code: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module of ours) of every import, also those inside functions."""
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            package, _, rest = name.partition(".")
            if package == "usersync_cli":
                yield node.lineno, _module(rest.replace(".", "/"))


def _module(path: str) -> str:
    """The module that has what is imported: `errors/Drift` is in errors, `__version__` in the package."""
    while path and path not in FILES:
        path = path.rpartition("/")[0]
    return path or "__init__"


def may_import(own: str, other: str) -> bool:
    return other in ("words", own) or other in ROOMS.get(own, ())


def private(module: str, other: str) -> bool:
    """Whether one of the folders of `other` that `module` is outside of does not name it, or the folder within that has it."""
    at = other
    while "/" in at:
        at, _, name = at.rpartition("/")
        if not f"{module}/".startswith(f"{at}/") and f"`{name}`" not in (ast.get_docstring(tree(at)) or ""):
            return True
    return False


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_where_the_table_allows(module: str) -> None:
    """
    A module imports from its own room, from the words, and from the rooms that the table names, also when it imports late.
    """
    own = room(module)

    assert [] == [f"{module}:{line} imports {name}" for line, name in ours(tree(module)) if not may_import(own, room(name))]


@pytest.mark.parametrize("module", MODULES)
def test_what_a_room_does_not_name_is_private_to_it(module: str) -> None:
    """
    A module outside of a folder imports only those of its modules that the docstring of the folder names.
    """
    assert [] == [f"{module}:{line} imports {name}" for line, name in ours(tree(module)) if private(module, name)]


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(("sources/", "targets/"))])
def test_a_vendor_stands_alone(module: str) -> None:
    """
    A source or target imports no other source or target.
    """
    kind, vendor, *_ = module.split("/")
    others = [f"{module}:{line} imports {name}" for line, name in ours(tree(module)) if name.startswith(("sources/", "targets/"))]

    assert [] == [other for other in others if not f"{other.rpartition(' ')[2]}/".startswith(f"{kind}/{vendor}/")]


def test_the_words_import_each_other_alone() -> None:
    """
    What is at the bottom knows nothing above it.
    """
    words = [word for word in WORDS if word in FILES]

    assert [] == [f"{word}:{line} imports {name}" for word in words for line, name in ours(tree(word)) if name not in WORDS]


def test_no_ghosts() -> None:
    """
    Each room and each word of the table exists, and each import that a room is allowed is used.
    """
    used = {(room(module), room(name)) for module in MODULES for _, name in ours(tree(module))}

    assert [] == [word for word in WORDS if word not in FILES and word != "__init__"]
    assert [] == [name for name in ROOMS if name not in FILES]
    assert [] == [f"{own} -> {other}" for own, others in ROOMS.items() for other in others if (own, other) not in used]


def test_no_drawer_for_odd_things() -> None:
    """
    No utils, helpers, common, base or core: a module is called by what is in it.
    """
    assert [] == [module for module in MODULES if FORBIDDEN & set(module.split("/"))]


def test_imports_make_no_circle() -> None:
    """
    No two modules need each other, neither at the top nor late.
    """
    needs = {module: {name for _, name in ours(tree(module)) if name in FILES} - {module} for module in MODULES}

    assert [] == _circle(needs)


def _circle(needs: Mapping[str, Collection[str]]) -> list[str]:
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("module", MODULES)
def test_config_alone_reads_the_environment(module: str) -> None:
    """
    What a run depends on comes through the config file's loader; the exceptions are named with their reason.
    """
    assert set() == set(environment_names(tree(module))) - ENVIRONMENT.get(module, set())


def environment_names(code: ast.Module) -> Iterator[str]:
    """What is asked of os.environ; "?" where it is not asked for a literal name."""
    parents = {child: node for node in ast.walk(code) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom) and node.module == "os" and {"environ", "getenv"} & {alias.name for alias in node.names}:
            yield "?"
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.environb", "os.getenv"}:
            asked = parents[node]
            if isinstance(asked, ast.Attribute):  # os.environ.get
                asked = parents[asked]
            match asked:
                case ast.Subscript(slice=ast.Constant(value=str(name))) | ast.Call(args=[ast.Constant(value=str(name)), *_]):
                    yield name
                case _:
                    yield "?"


# (import, room that has it, is it allowed)
CASES = [
    ("from usersync_cli.config.loader import load", "run", False),
    ("def late():\n    from usersync_cli.cli import cli", "state", False),
    ("from usersync_cli import run", "load", False),
    ("from usersync_cli.run import job", "load", False),
    ("import usersync_cli.run.job", "words", False),
    ("from usersync_cli import __version__", "words", True),
    ("from usersync_cli.errors import Drift", "cli", True),
    ("from usersync_cli.run.documents import step", "run/tables", False),
]


@pytest.mark.parametrize(("text", "own", "allowed"), CASES)
def test_the_check_sees_every_form_of_import(text: str, own: str, *, allowed: bool) -> None:
    """
    Late imports, `from usersync_cli import`, and plain `import` count alike.
    """
    assert allowed == all(may_import(own, room(name)) for _, name in ours(ast.parse(text)))


def test_the_check_sees_what_is_private() -> None:
    """
    From inside a folder everything may be imported; from outside what each folder on the way names.
    """
    assert not private("targets/keycloak/target", "targets/keycloak/plan")
    assert private("run/outbound/step", "targets/keycloak/plan")
    assert private("config/registry", "sources/teamleader/source")


@pytest.mark.parametrize("text", ['os.environ["X"]', 'os.environ.get("X")', 'os.getenv("X")', 'os.environ.setdefault("X", "y")'])
def test_the_check_sees_every_form_of_reading(text: str) -> None:
    """
    The environment's names are found in each form; what is no literal name is found too.
    """
    assert ["X"] == list(environment_names(ast.parse(text)))
    assert ["?"] == list(environment_names(ast.parse(text.replace('"X"', "name"))))
    assert ["?"] == list(environment_names(ast.parse("from os import environ")))
    assert ["?"] == list(environment_names(ast.parse("dict(os.environ)")))


def test_the_check_sees_a_circle() -> None:
    """
    A circle of three is found as well as one of two.
    """
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert re.match("[a-z]", room("run/job"))
