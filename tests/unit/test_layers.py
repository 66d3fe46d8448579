"""Who may import whom, and where a line lives: read from the source, not from what happens to be imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "usersync_cli"

# From the top down; a module imports from its own layer and those below. A new module has to be put somewhere.
LAYERS = [
    ["__main__", "cli"],
    ["report"],
    ["config", "config_file", "config_schema", "config_template"],
    ["run"],
    ["sources", "targets"],
    ["load"],
    ["auth"],
    ["state", "clients"],
    # jobs, mistakes, variables and yaml_file read text for config; they know nothing but the errors.
    ["jobs", "variables", "yaml_file", "mistakes"],
    ["model", "errors", "signals", "stdio", "log", "patience", "spreadsheets"],
]
# Who asks the environment for what; "?" is anything.
ENVIRONMENT: dict[str, set[str]] = {
    "config.py": {"?"},  # the one reader
    "log.py": {"NO_COLOR"},  # before there is a config
    "clients/postgres/connections.py": {"PGSSLMODE", "PGHOST", "SSL_CERT_FILE"},  # libpq's own: it reads them whatever we do
    "cli/db.py": {"?"},  # hands the environment on to psql
    "run/notify.py": {"?"},  # hands a few on to the program of on_failure
    "clients/postgres/embedded.py": {"?"},  # hands the environment on to PostgreSQL's programs
}
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "base", "core", "misc"}

MODULES = sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py"))


def layer(name: str) -> int:
    """How deep a module lies; `__init__` of the package (the version) is below everything."""
    if name == "__init__":
        return len(LAYERS)
    return next(depth for depth, names in enumerate(LAYERS) if name in names)


def top(module: str) -> str:
    """`sources/postgres.py` belongs to `sources`."""
    return module.partition("/")[0].removesuffix(".py")


def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text())


def ours(code: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module of ours) of every import, also those inside functions."""
    for node in ast.walk(code):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} imports relatively"
            names = [f"{node.module}.{name}" for name in names]
        for name in names:
            package, first, *_ = [*name.split("."), "__init__"]
            if package == "usersync_cli":
                yield node.lineno, "__init__" if first.startswith("__") else first


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


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """
    A module imports from its own layer or from those below, also when it imports late.
    """
    own = layer(top(module))

    assert [] == [f"{module}:{line} imports {name}" for line, name in ours(tree(module)) if layer(name) < own]


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(("sources/", "targets/"))])
def test_a_vendor_stands_alone(module: str) -> None:
    """
    A source or target knows no other source or target, nor the engine. Only its own parts, whose names begin with _ and its name.
    """
    vendor = Path(module).parts[1].removesuffix(".py").removeprefix("_").partition("_")[0]
    text = (PACKAGE / module).read_text()
    for own in re.findall(rf"usersync_cli\.(?:sources|targets)(?:\.| import )_?{vendor}[\w.]*", text):
        text = text.replace(own, "usersync_cli.model import x" if " import " in own else "usersync_cli.model")
    assert [] == [f"{module}:{line} imports {name}" for line, name in ours(ast.parse(text)) if name in {"sources", "targets", "run"}]


def test_no_drawer_for_odd_things() -> None:
    """
    No utils, helpers, common, base or core: a module is called by what is in it.
    """
    assert [] == [module for module in MODULES if FORBIDDEN & set(module.removesuffix(".py").split("/"))]


@pytest.mark.parametrize("module", MODULES)
def test_config_alone_reads_the_environment(module: str) -> None:
    """
    What a run depends on comes through config.py; the exceptions are named with their reason.
    """
    assert set() == set(environment_names(tree(module))) - ENVIRONMENT.get(module, set())


def test_cycles_are_found_by_importing_each_module_first() -> None:
    """
    Within a layer too, imports at the top of modules make no circle.
    """
    above: dict[str, set[str]] = {_dotted(module): set() for module in MODULES}
    for module in MODULES:
        above[_dotted(module)] = {name for name in _imported_at_the_top(module) if name in above} - {_dotted(module)}
    while free := [name for name, needs in above.items() if not needs & above.keys()]:
        for name in free:
            del above[name]

    assert {} == above


def _dotted(module: str) -> str:
    return f"usersync_cli/{module}".removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported_at_the_top(module: str) -> Iterator[str]:
    for node in tree(module).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in map(_dotted, MODULES) else node.module


# (import, module that has it, is it fine)
CASES = [
    ("from usersync_cli.config import load", "run/job.py", False),
    ("def late():\n    from usersync_cli.cli import cli", "state/ledger.py", False),
    ("from usersync_cli import run", "load/merge.py", False),
    ("import usersync_cli.run", "model.py", False),
    ("from usersync_cli import __version__", "errors.py", True),
    ("from usersync_cli.errors import Drift", "cli/run.py", True),
]


@pytest.mark.parametrize(("text", "module", "fine"), CASES)
def test_the_check_sees_every_form_of_import(text: str, module: str, *, fine: bool) -> None:
    """
    Late imports, `from usersync_cli import`, and plain `import` count alike.
    """
    assert fine == all(layer(name) >= layer(top(module)) for _, name in ours(ast.parse(text)))


@pytest.mark.parametrize("text", ['os.environ["X"]', 'os.environ.get("X")', 'os.getenv("X")', 'os.environ.setdefault("X", "y")'])
def test_the_check_sees_every_form_of_reading(text: str) -> None:
    """
    The environment's names are found in each form; what is no literal name is found too.
    """
    assert ["X"] == list(environment_names(ast.parse(text)))
    assert ["?"] == list(environment_names(ast.parse(text.replace('"X"', "name"))))
    assert ["?"] == list(environment_names(ast.parse("from os import environ")))
    assert ["?"] == list(environment_names(ast.parse("dict(os.environ)")))
