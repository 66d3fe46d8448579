"""A rule's SQL is one expression that gives one text for each row; anything else is refused before a row is read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection, connect
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.config.identities import Identity
from usersync_cli.errors import ConfigError
from usersync_cli.identity.facts import Facts
from usersync_cli.model import Database

ROWS = sql.SQL("SELECT 1 AS id, 'example.org'::text AS website, '{}'::jsonb AS document, ARRAY['a'] AS tags")
RIGHT = [
    "website", "r.website", "website -- as it is", "website /* ) */", "lower(website) || '%s %'", "document ->> 'website'", "tags[1]",
    "(SELECT min(one) FROM unnest(tags) AS one)", "CASE WHEN website LIKE '%.org' THEN website END", "website::varchar",
]  # fmt: skip
WRONG = {
    "websit": 'column "websit" does not exist',
    "website +": "syntax error at end of input",
    "website AS domain": 'syntax error at or near "AS"',
    "website) , (website": 'syntax error at or near ")"',
    "website; DROP TABLE people": "several statements",
    "website FROM r": 'syntax error at or near "FROM"',
    "website, website": "it gives several values",
    "r.*": "it gives several values",
    "unnest(tags)": "set-returning functions are not allowed",
    "min(website)": "aggregate functions are not allowed",
    "first_value(website) OVER ()": "window functions are not allowed",
    "$1": "there is no parameter $1",
    "document -> 'website'": "it gives json, not text; write ->> for the last ->",
    "tags": "it gives an array",
    "(SELECT website FROM nowhere)": 'relation "nowhere" does not exist',
    "website || 1 / 0": "division by zero",
}


@pytest.fixture
def tx(database: Database) -> Iterator[Connection]:
    with connect(database, job="test") as connection:
        begin(connection)
        yield connection


def check(tx: Connection, domain: str, uuid: str | None = None) -> str:
    """What is said of a rule; "" of one that is right."""
    rules = [{"name": "first", "domain": "website"}, {"name": "second", "domain": domain, "uuid": uuid}]
    try:
        Facts(Identity.model_validate({"app": "crm", "id": "id", "rules": rules}), 0).check(tx, ROWS)
    except ConfigError as error:
        return error.message
    return ""


def test_rules_that_are_right_and_wrong(tx: Connection) -> None:
    """
    What is no expression, or gives anything but one text for a row, is refused by its rule's name, and the transaction goes on.
    """
    assert {} == {one: said for one in RIGHT if (said := check(tx, one) or check(tx, "website", one))}
    said = {one: check(tx, one) for one in WRONG}
    assert {} == {one: said[one] for one, word in WRONG.items() if not said[one].startswith(f"identity: rule second of app crm: {word}")}
    assert "does not exist" in check(tx, "website", "customer")


HOSTS = {
    "example.org": "example.org",
    "https://Test@www.Example.org:8080/x?y#z": "www.example.org",
    "HTTP://http://www.example.org/": "www.example.org",  # pasted behind a form's own http://
    "//example.org": "example.org",
    "https:/example.org": "example.org",
    "example.org/@test.user": "example.org",  # a page, not a mailbox at test.user
    "example.org?mail=test@example.com": "example.org",
    "https://example.org/@test.user": "example.org",
    "Test.User@Example.org": "example.org",
    "Test User / Sales <test.user@example.org>": "example.org",
    "mailto:test.user@example.org?subject=Test": "example.org",
    "test.user@example.org; test.user@example.com": "example.org",
    "info@example.org": None,
    "Info+Shop@example.org": None,
    "@": None,
    "": None,
    " ": None,
}


def test_which_host_is_cut_out(tx: Connection) -> None:
    """
    The host of a web address, or what is behind the @ of the first e-mail address; not what merely looks like one of them.
    """
    facts = Facts(Identity.model_validate({"app": "crm", "id": "id", "rules": [{"name": "website", "domain": "said"}]}), 0)
    facts.open(tx)
    facts.collect(tx, sql.SQL("SELECT 'of ' || said AS id, said FROM unnest({}::text[]) AS said").format(sql.Literal([*HOSTS])), ["info"])

    assert HOSTS == dict(tx.execute(sql.SQL("SELECT substr(id, 4), h1 FROM {}").format(facts.table)).fetchall())
