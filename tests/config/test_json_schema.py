"""`usersync config`: the JSON Schema that editors use, and validate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result

from usersync_cli.cli import cli
from usersync_cli.config import loader
from usersync_cli.errors import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.yaml"


def example(**load: Any) -> Any:
    tree = yaml.safe_load(EXAMPLE.read_text())
    tree["jobs"]["auroville"]["steps"][0]["load"] |= load
    return tree


def call(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, ["config", *arguments], env=environ)


def test_the_committed_schema_is_the_models() -> None:
    """
    config.schema.json is what `usersync config schema` prints; make it again when the models change.
    """
    assert (ROOT / "config.schema.json").read_text() == call("schema").stdout


def test_the_example_names_its_schema() -> None:
    """
    An editor finds it by the first line.
    """
    assert "# yaml-language-server: $schema=./config.schema.json" == EXAMPLE.read_text().splitlines()[0]


@pytest.mark.parametrize("load", [{}, {"create": "${CREATE}"}, {"on_missing": "${X:-keep}"}])
def test_right_files_validate(load: dict[str, Any]) -> None:
    """
    The example, and a variable where a boolean or a choice is wanted.
    """
    schema = loader.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)

    jsonschema.validate(example(**load), schema)


@pytest.mark.parametrize("load", [{"tabel": "users"}, {"key": []}, {"create": "maybe"}, {"on_missing": "drop"}, {"table": 5}])
def test_wrong_files_do_not(load: dict[str, Any]) -> None:
    """
    An editor underlines what `usersync` would refuse.
    """
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(example(**load), loader.json_schema())


def test_both_forms_of_extract_and_transform() -> None:
    """
    As they are written, not as they are normalised.
    """
    tree = example()
    tree["jobs"]["auroville"]["steps"] = [
        {"extract": {"source": "av_accounts", "table": "users"}, "transform": {"file": "x.sql"}, "load": {"table": "users", "key": ["id"]}}
    ]

    jsonschema.validate(tree, loader.json_schema())


FILE = {"path": "people-*.jsonl", "key": ["id", "/address/city"], "version": "updated_at", "version_type": "number", "deleted": "gone"}


@pytest.mark.parametrize(
    ("change", "right"),
    [({}, True), ({"key": "id"}, True), ({"version_type": "${X}"}, True), ({"version_type": "date"}, False), ({"kye": 1}, False),
     ({"path": 5}, False), ({"key": [5]}, False)],
)  # fmt: skip
def test_files_are_in_the_schema(change: dict[str, Any], *, right: bool) -> None:
    """
    A source of files with its streams is completed and checked like any other.
    """
    tree = example()
    tree["sources"]["crm"] = {"type": "file", "streams": {"people": {**FILE, **change}}}
    steps = [{"extract": {"source": "crm", "streams": ["people"]}, "load": {"table": "{stream}", "key": ["id"]}}]
    tree["jobs"]["people"] = {"steps": steps}

    assert right == jsonschema.Draft202012Validator(loader.json_schema()).is_valid(tree)


def test_validate_says_what_there_is() -> None:
    """
    One line when all is well.
    """
    result = call("validate", "--config", str(EXAMPLE), USERSYNC_ENV="test")

    assert (0, f"{EXAMPLE}: 1 job, 2 sources: ok\n") == (result.exit_code, result.stdout)


def test_validate_notes_what_jobs_lack() -> None:
    """
    What keeps a job from running here is a note, and a mistake with --job.
    """
    arguments = ("validate", "--config", str(EXAMPLE))
    real = {"USERSYNC_DATABASE_URL": "postgresql://db/x", "AV_PROFILE_DB_URL": "postgresql://db/y", "USERSYNC_ENV": "production"}
    first, second = call(*arguments, **real).stdout.splitlines()

    assert f"{EXAMPLE}: 1 job, 2 sources: ok" == first
    assert second.startswith(f'{EXAMPLE}:23:38: sources.av_accounts.url: is "embedded" (default of ${{AV_ACCOUNTS_DB_URL')
    assert second.endswith("(needed by auroville)")
    assert isinstance(call(*arguments, "--job", "auroville", **real).exception, ConfigError)


def test_validate_for_programs(tmp_path: Path) -> None:
    """
    The same as JSON, mistakes too, with exit status 2.
    """
    (tmp_path / "config.yaml").write_text("target: embedded\n")
    arguments = ("validate", "--output", "json", "--config")
    right, wrong = call(*arguments, str(EXAMPLE)), call(*arguments, str(tmp_path / "config.yaml"))

    expected = {"ok": True, "jobs": ["auroville"], "sources": ["av_accounts", "av_profile"], "notes": []}
    assert expected.items() <= json.loads(right.stdout).items()
    assert 2 == wrong.exit_code
    assert [{"line": 1, "column": 1, "path": "", "text": 'key "jobs" is missing'}] == json.loads(wrong.stdout)["mistakes"]


@pytest.mark.parametrize("arguments", [(), ("schema",), ("validate",)])
def test_help_begins_with_examples(arguments: tuple[str, ...]) -> None:
    """
    One example a line.
    """
    assert "\n  Example" in call(*arguments, "--help").stdout.replace("Examples:\n", "Example:\n")
    assert "\\b" not in call(*arguments, "--help").stdout
