"""The `identity` of config.example.yaml: its parts that are comments are right, and their rules fit the tables that the sources make."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.simple_job import execute
from tests.teamleader_job import Granted, made
from tests.teamleader_server import Teamleader
from tests.workos_server import WorkOS
from usersync_cli.config import loader
from usersync_cli.config.loader import Config
from usersync_cli.model import Database
from usersync_cli.ports import Source, Tools
from usersync_cli.run.context import Options, RunContext
from usersync_cli.run.job import run
from usersync_cli.signals import Stop
from usersync_cli.sources import teamleader, workos

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
VARIABLES = ("TEAMLEADER_CLIENT_ID", "TEAMLEADER_CLIENT_SECRET", "TEAMLEADER_REDIRECT_URI", "FINERACT_USERNAME", "FINERACT_PASSWORD",
             "WORKOS_API_KEY", "KEYCLOAK_CLIENT_SECRET", "KLANTEN_API_KEY")  # fmt: skip
MAP = "SELECT app, id, domain FROM usersync.customer_ids"


def uncommented(text: str) -> str:
    """The file with its commented parts switched on: in each paragraph, from the first `# name:` or `# name: {` on."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        lines, on = [], False
        for line in paragraph.split("\n"):
            on = on or bool(re.fullmatch(r" *# [a-z_]+:( \{.*)?", line))
            lines.append(re.sub(r"^( *)# ", r"\1", line) if on else line)
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


@pytest.fixture
def example(tmp_path: Path) -> Config:
    (tmp_path / "config.yaml").write_text(uncommented(EXAMPLE.read_text()))
    return loader.load(tmp_path / "config.yaml", dict.fromkeys(VARIABLES, "https://usersync.test.example/x"))


@pytest.fixture
def copied(example: Config, database: Database) -> Callable[[str, Source], dict[str, dict[str, str]]]:
    """Runs a job of the example with this source; what is on the map then, by app: domain by id."""

    def copy(name: str, source: Source) -> dict[str, dict[str, str]]:
        job = example.job(name)
        context = RunContext(database, {name: source}, Tools(name, Stop(), Database, Granted()), lambda _, __: None, steps=job.steps)
        (result,) = run(job, context, Options(streams=[one.stream for one in job.steps[0].identity])).steps
        assert result.error is None, result.error
        found: dict[str, dict[str, str]] = {}
        for app, id_, domain in execute(database.url, MAP):
            found.setdefault(app, {})[id_] = domain
        return found

    return copy


def test_all_of_the_example_is_right(example: Config) -> None:
    """
    With its commented parts switched on, the example has no mistake, and fills the map from three streams.
    """
    filled = [one.app for job in example.jobs.values() for step in job.steps for one in step.identity]

    assert {"teamleader.companies", "teamleader.contacts", "workos.organizations"} <= set(filled)
    assert [] == [name for name in example.jobs if example.lacking(name) and name != "auroville"]
    assert all(vars(example.identity_lists()).values())


@pytest.fixture
def crm() -> Iterator[Teamleader]:
    with Teamleader().running() as running:
        yield running


def emails(**by_type: str) -> list[dict[str, Any]]:
    return [{"type": type_, "email": email} for type_, email in by_type.items()]


def test_companies_and_contacts_of_teamleader(crm: Teamleader, copied: Callable[..., Any]) -> None:
    """
    A company is its website's, else its primary e-mail address's; a contact the other way round. What is missing says nothing.
    """
    rows: list[dict[str, Any]] = [
        {"website": "https://www.example.com/nl", "emails": emails(primary="test.user@example.org")},
        {"website": "https://www.facebook.com/test", "emails": emails(invoicing="test.user@example.net", primary="test.user@example.org")},
        {"website": None, "emails": emails(invoicing="test.user@example.net")},
        {"website": "", "emails": emails(primary="test.user@gmail.com")},
        {"website": "example.com", "emails": None},
        {"website": None, "emails": []},
    ]
    companies = [crm.add("companies", **row)[0] for row in rows]
    contacts = [crm.add("contacts", **row)[0] for row in rows]

    found = copied("teamleader", teamleader.Source("teamleader", teamleader.Settings.model_validate(made(crm.url))))

    assert found == {
        "teamleader.companies": {companies[0]: "example.com", companies[1]: "example.org", companies[4]: "example.com"},
        "teamleader.contacts": {contacts[0]: "example.org", contacts[1]: "example.org", contacts[4]: "example.com"},
    }


def test_organizations_of_workos(copied: Callable[..., Any]) -> None:
    """
    An organization is its verified domain's, else one that waits to be verified; never one that could not be.
    """
    with WorkOS().running() as server:
        world = server.world
        both, waiting, none, failed, several = (world.create_organization() for _ in range(5))
        world.add_domain(both, "a.example.org")
        world.add_domain(both, "shop.example.com", state="verified")
        world.add_domain(waiting, "example.net")
        world.fail_domain(failed, world.add_domain(failed, "example.net"))
        for domain in ("example.org", "example.com"):
            world.add_domain(several, domain, state="legacy_verified")

        found = copied("workos", workos.Source("workos", workos.Settings.model_validate(server.settings())))

    assert found == {"workos.organizations": {both: "example.com", waiting: "example.net", several: "example.com"}}
    assert none not in found["workos.organizations"]
