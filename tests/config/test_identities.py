"""`identity` in the config file: what it becomes. Its mistakes are in tests/samples/config/identity*.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from usersync_cli.config import loader
from usersync_cli.config.loader import Config
from usersync_cli.errors import ConfigError
from usersync_cli.identity.domains import Lists

FILE = """
target: embedded
identity: {lists}
sources:
  crm: {{type: postgres, url: embedded:crm}}
jobs:
  people:
    steps:
      - extract: {{source: crm, table: people}}
        load: {{table: people, key: [id]}}
        identity: {identity}
  others:
    steps:
      - extract: {{source: crm, table: others}}
        load: {{table: others, key: [id]}}
"""
RULES = [{"name": "website", "domain": " website; "}, {"name": "e-mail domain", "domain": "email"}]
ONE = {"app": "crm.people", "id": "id", "rules": RULES}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def read(lists: str = "{}", identity: object = ONE) -> Config:
        (tmp_path / "config.yaml").write_text(FILE.format(lists=lists, identity=yaml.safe_dump(identity, default_flow_style=True).strip()))
        return loader.load(tmp_path / "config.yaml", {"USERSYNC_HOME": str(tmp_path)})

    return read


def test_one_or_several(load: Any) -> None:
    """
    A step has one identity, or a list; a semicolon at the end of a rule's SQL is no part of it.
    """
    (one,) = load().jobs["people"].steps[0].identity
    several = load(identity=[ONE, {**ONE, "app": "Shop-2", "max_ids": 5}]).jobs["people"].steps[0].identity

    assert ("", "crm.people", "id", 1000) == (one.stream, one.app, one.id, one.max_ids)
    assert [("website", "website", None), ("e-mail domain", "email", None)] == [(r.name, r.domain, r.uuid) for r in one.rules]
    assert [("crm.people", 1000), ("Shop-2", 5)] == [(one.app, one.max_ids) for one in several]
    assert [] == load().jobs["others"].steps[0].identity


@pytest.mark.parametrize("app", ["a:b", "a b", "", ".a", "a.", "a..b", "1a", "a/b", "_a", "a@b", "http://a", "a" * 64, "a\n"])
def test_names_that_apps_cannot_have(load: Any, app: str) -> None:
    """
    What would be mistaken for an id, or for two words, is no name of an app.
    """
    with pytest.raises(ConfigError, match=r"identity\.app: must be letters, digits, _ and -, .* such as crm\.companies"):
        load(identity={**ONE, "app": app})


CONSTANTS = ["'example.org'", "E'x'", "'it''s'", "NULL", "true", "5", "$$example.org$$", "'x'::text", "example.org", "www.example.co.uk"]


@pytest.mark.parametrize("sql", [*CONSTANTS, *(f"{one} ;" for one in CONSTANTS)])
def test_rules_that_are_no_rules(load: Any, sql: str) -> None:
    """
    A rule that says the same of every row would make all of them one customer.
    """
    with pytest.raises(ConfigError, match="write SQL over the columns that the step loads"):
        load(identity={**ONE, "rules": [{"name": "website", "domain": sql}]})


@pytest.mark.parametrize("sql", ["website", "r.website", "'www.' || host", "lower(email)", "(a).b", '"Web.Site"', "data ->> 'website'"])
def test_rules_over_columns(load: Any, sql: str) -> None:
    """
    An expression over the columns stays as it is.
    """
    assert sql == load(identity={**ONE, "rules": [{"name": "website", "domain": sql}]}).jobs["people"].steps[0].identity[0].rules[0].domain


def test_no_rule(load: Any) -> None:
    """
    Ids may be known without a rule: they have no customer until another step, or a person, says whose they are.
    """
    (one,) = load(identity={**ONE, "rules": []}).jobs["people"].steps[0].identity

    assert ["NULL"] == [rule.domain for rule in one.rules]


def test_what_the_file_adds_to_the_lists(load: Any) -> None:
    """
    Domains are in normal form, parts of addresses in lower case.
    """
    lists = "{nobody: [Example.NET.], somebody: [bücher.example], suffixes: [uk.com], roles: [Reception], people: [IT]}"
    normal = {"nobody": "example.net", "somebody": "xn--bcher-kva.example", "suffixes": "uk.com", "roles": "reception", "people": "it"}

    assert Lists(**{name: frozenset([value]) for name, value in normal.items()}) == load(lists).identity_lists()
    assert Lists() == load().identity_lists()


def test_a_variable_of_the_lists_matters_only_to_jobs_with_identity(load: Any) -> None:
    """
    A list with a variable that is not set keeps no other job from running.
    """
    config = load('{nobody: ["${NOT_SET}"], roles: ["${NOT_SET}"]}')

    assert "others" == config.job("others").name
    with pytest.raises(ConfigError, match=r"identity\.nobody\[0\]: .*NOT_SET"):
        config.job("people")


@pytest.mark.parametrize("identity", [ONE, [ONE]])
def test_editors_take_both_forms(identity: object) -> None:
    """
    The JSON Schema takes one identity or a list, and underlines a key that there is not, or an empty list.
    """
    schema = loader.json_schema()
    tree = yaml.safe_load(FILE.format(lists="{nobody: [example.net]}", identity="{}"))
    step = tree["jobs"]["people"]["steps"][0]

    jsonschema.validate({**tree, "jobs": {"people": {"steps": [{**step, "identity": identity}]}}}, schema)
    for wrong in ({**ONE, "ids": "id"}, {**ONE, "rules": [{"name": "website"}]}, []):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**tree, "jobs": {"people": {"steps": [{**step, "identity": wrong}]}}}, schema)
