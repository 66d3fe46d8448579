"""What the docs say is what the code does."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from tests.cli.commands import complaint, in_examples, in_prose, parse
from usersync_cli.config.identities import Identity, IdentityLists, IdentityRule
from usersync_cli.config.jobs import Extract, Job, Load, Step
from usersync_cli.config.loader import load
from usersync_cli.config.reader import File
from usersync_cli.config.registry import source_port, source_types, target_port, target_types
from usersync_cli.errors import STATUSES
from usersync_cli.sources.file import FileStream

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "usersync_cli").rglob("*.md")])
README = (ROOT / "README.md").read_text()
MODELS: dict[str, type[BaseModel]] = {
    "The file": File,
    "A source of type postgres": source_port("postgres").settings,
    "A source of type file": source_port("file").settings,
    "A source of type fineract": source_port("fineract").settings,
    "A source of type klanten": source_port("klanten").settings,
    "A source of type workos": source_port("workos").settings,
    "A source of type teamleader": source_port("teamleader").settings,
    "A target of type keycloak": target_port("keycloak").settings,
    "A target of type klanten": target_port("klanten").settings,
    "A stream of files": FileStream,
    "A job": Job,
    "A step": Step,
    "An extract": Extract,
    "Load": Load,
    "Identity": Identity,
    "A rule": IdentityRule,
    "What identifies nobody": IdentityLists,
}


def page(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Fenced blocks: what language they say, and what is in them."""
    for match in re.finditer(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without their heads."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
    return [line for line in lines if line[0] not in ("key", "status")]


# A changelog abbreviates, and speaks of commands that are gone.
@pytest.mark.parametrize("file", [file for file in PAGES if file.name != "CHANGELOG.md"], ids=page)
def test_commands_exist(file: Path) -> None:
    """
    Every `usersync ...` in a page is a command line that click takes, options and all.
    """
    text = file.read_text()
    lines = [line for _, block in blocks(text) for line in in_examples(block)] + in_prose(text)

    assert lines or file.name != "README.md"
    assert [] == [found for line in lines if (found := complaint(line))]


@pytest.mark.parametrize("file", PAGES, ids=page)
def test_links_lead_somewhere(file: Path) -> None:
    """
    Every file that a page links to is there.
    """
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", file.read_text()) if not link.startswith("http")]

    assert [] == [link for link in links if not (file.parent / link).exists()]


@pytest.mark.parametrize("file", PAGES, ids=page)
def test_yaml_can_be_read(file: Path) -> None:
    """
    Every block of YAML in a page is YAML.
    """
    for language, block in blocks(file.read_text()):
        if language == "yaml":
            assert yaml.safe_load(block)


def test_readme_begins_with_two_commands() -> None:
    """
    `make run` and `make test` come first, and are targets of the Makefile.
    """
    _, first = next(blocks(README))
    found = re.findall(r"^make (\w+)", first, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()

    assert ["run", "test"] == found
    assert README.index("```") < 30
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in found)


def test_readme_shows_what_make_run_prints() -> None:
    """
    The last lines of `make run` in the README are those that the Makefile prints.
    """
    printed = subprocess.run(["make", "-n", "run"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    told = [shlex.split(line)[1] for line in printed.splitlines() if line.startswith("echo ") and ": " in line]

    assert told
    assert [] == [line for line in told if line not in README]


def test_readme_lists_every_exit_status() -> None:
    """
    The README's table of exit statuses is errors.STATUSES.
    """
    section = README.partition("## Exit statuses")[2].partition("\n## ")[0]

    assert STATUSES == {int(status): meaning for status, meaning in rows(section)}


def test_readme_config_is_right(tmp_path: Path) -> None:
    """
    The config files in the README are such as usersync reads.
    """
    found = [block for language, block in blocks(README) if language == "yaml" and "jobs:" in block]
    assert 2 == len(found)
    for block in found:
        (tmp_path / "config.yaml").write_text(block)
        config = load(tmp_path / "config.yaml", {"USERSYNC_DATABASE_URL": "postgresql://x@/x", "CRM_URL": "postgresql://x@/y"})

        assert ["people"] == [config.job(name).name for name in config.jobs]


@pytest.mark.parametrize("section", MODELS)
def test_every_config_key_is_documented(section: str) -> None:
    """
    docs/config.md has exactly the keys that the models read, and their defaults.
    """
    text = (ROOT / "docs" / "config.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    told = {row[0].strip("`"): row[1] for row in rows(text)}
    fields = {name: field for name, field in MODELS[section].model_fields.items() if (section, name) != ("A job", "name")}

    assert list(fields) == list(told)
    assert [name for name, field in fields.items() if field.is_required()] == [name for name in told if told[name] == "required"]
    # A default in backticks alone is the model's own, as the file would say it.
    simple = {name: default.strip("`") for name, default in told.items() if re.fullmatch(r"`[a-z0-9]+`", default)}
    assert {name: shown(fields[name].default) for name in simple} == simple


def shown(default: object) -> str:
    """As the config file would say it."""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default.total_seconds():.0f}s" if hasattr(default, "total_seconds") else str(default)


def test_every_source_is_documented() -> None:
    """
    Each kind of source has its section.
    """
    assert {f"A source of type {type_}" for type_ in source_types()} == {name for name in MODELS if name.startswith("A source")}


def test_every_target_is_documented() -> None:
    """
    Each kind of target outside PostgreSQL has its section.
    """
    assert {f"A target of type {type_}" for type_ in target_types()} == {name for name in MODELS if name.startswith("A target")}


def test_example_config_runs_as_it_is() -> None:
    """
    config.example.yaml has no mistake, and without any variable each of its jobs can run.
    """
    config = load(ROOT / "config.example.yaml", {})

    for name in config.jobs:
        config.check_environment(config.job(name))


def test_what_the_example_leaves_out_runs_too(tmp_path: Path) -> None:
    """
    What config.example.yaml has as comments is right once the marks are taken away: each job there can run.
    """
    example = (ROOT / "config.example.yaml").read_text()
    text = re.sub(r"^  # (?=teamleader:|fineract:|workos:|keycloak:|map:|klanten:|to_klanten:|  )", "  ", example, flags=re.MULTILINE)
    text = text.replace("# targets:", "targets:")
    (tmp_path / "config.yaml").write_text(text)
    names = re.findall(r"\$\{((?:TEAMLEADER|FINERACT|WORKOS|KEYCLOAK|KLANTEN)_[A-Z_]+)\}", text)
    config = load(
        tmp_path / "config.yaml", {"USERSYNC_ENV": "production", "USERSYNC_DATABASE_URL": "postgresql://x@/x", **dict.fromkeys(names, "x")}
    )

    for job in ("teamleader", "fineract", "workos", "klanten", "to_klanten"):
        config.check_environment(config.job(job))
    assert 9 == len(names)


def test_shipped_crontab_has_commands_that_exist() -> None:
    """
    Every line of the crontab file is a command that click takes, for a job of the example.
    """
    lines = [line.split(None, 7) for line in (ROOT / "crontab").read_text().splitlines() if re.match(r"[0-9*@]", line)]
    jobs = load(ROOT / "config.example.yaml", {}).jobs

    assert lines
    for *_, program, arguments in lines:
        parse(shlex.split(arguments))
        assert program.endswith("/usersync")
        assert shlex.split(arguments)[-1] in jobs


def test_ci_runs_the_tests() -> None:
    """
    .ci/run calls `make test`.
    """
    assert re.search(r"^make .*\btest\b", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_changelog_has_a_place_for_what_comes_next() -> None:
    """
    CHANGELOG.md begins with Unreleased.
    """
    assert re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == "[Unreleased]"


def test_decisions_are_numbered_without_holes() -> None:
    """
    The first decision is 1, each next one is one more, and its title says the number that its file has.
    """
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    titles = [file.read_text().partition(".")[0] for file in files]

    assert [f"{number:04}" for number in range(1, len(files) + 1)] == [file.name[:4] for file in files]
    assert [f"# {number}" for number in range(1, len(files) + 1)] == titles
