"""The shapes that Teamleader documents: one exchange for each resource's .list and .info, played to the real source.

The cassettes are the examples of the vendor's documents (API version 2023-09-26), with people who are plainly none, and
what it says of errors. `contacts.later` is what the documents allow beside them. Playing only, never recording.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import vcr
import yaml
from vcr.cassette import Cassette
from vcr.persisters.filesystem import FilesystemPersister
from vcr.request import Request
from vcr.stubs import VCRHTTPResponse
from vcr.stubs.requests_stubs import VCRRequestsHTTPConnection, VCRRequestsHTTPSConnection

from tests.teamleader_job import Crm
from tests.teamleader_server import RESOURCES, Teamleader
from usersync_cli.clients.http import private, rate_limit
from usersync_cli.errors import status_of

CASSETTES = Path(__file__).parents[2] / "cassettes" / "teamleader"
ADDRESS = {"api_url": "https://api.focus.teamleader.eu", "auth_url": "https://focus.teamleader.eu"}
STREAMS = {
    "companies": "companies", "contacts": "contacts", "customFieldDefinitions": "custom_fields", "departments": "departments",
    "events": "events", "invoices": "invoices", "projects": "projects", "projects-v2.projects": "projects", "users": "users",
}  # fmt: skip
CHANGED = datetime(2016, 2, 5, 16, 44, 33, tzinfo=UTC)
VERSIONS = dict.fromkeys(("companies", "contacts", "invoices"), CHANGED)
MODULE = {"projects": "accounts.projects-v2-status.legacy", "projects-v2.projects": "accounts.projects-v2-status.projects-v2"}


def _read1(self: VCRHTTPResponse, amount: int = -1, *, decode_content: bool | None = None) -> bytes:
    """As urllib3's: the piece that is there."""
    return self._content.read1(amount)


# The client's threads have connections of their own kind (private.py), and read with an argument that vcrpy's answers do not know.
PATCHES = (
    (private.HttpPool, "ConnectionCls", VCRRequestsHTTPConnection),
    (private.HttpsPool, "ConnectionCls", VCRRequestsHTTPSConnection),
    (VCRHTTPResponse, "read1", _read1),
)


class _Several:
    """Cassettes one after the other: names with a + between them."""

    @staticmethod
    def load_cassette(names: str, serializer: Any) -> tuple[list[Request], list[Any]]:
        loaded = [FilesystemPersister.load_cassette(CASSETTES / f"{name}.yaml", serializer) for name in names.split("+")]
        return [request for requests, _ in loaded for request in requests], [answer for _, answers in loaded for answer in answers]


def asks_the_same(one: Request, other: Request) -> None:
    """Whether two bodies mean the same. The pages behind the first are alike, of whatever size: empty."""
    assert _asked(one) == _asked(other)


def _asked(request: Request) -> Any:
    body = json.loads(request.body)
    if "page" in body:
        body["page"] = {"size": 100, "number": 2} if body["page"]["number"] > 1 else body["page"]
    return body


@contextmanager
def played(*names: str, repeats: bool = True) -> Iterator[Cassette]:
    """Nothing but these exchanges, and users.me; a request that is in none of them fails. Of two that fit, the first is played.

    Without `repeats` each is played once, the next that fits after it.
    """
    player = vcr.VCR(record_mode="none", match_on=("method", "uri", "asks"))
    player.register_matcher("asks", asks_the_same)
    player.register_persister(_Several)
    with player.use_cassette("+".join(["users.me", *names]), custom_patches=PATCHES, allow_playback_repeats=repeats) as cassette:
        yield cassette


def documented(name: str, path: str) -> list[Any]:
    """The documents of this cassette's answers to this path, numbers with all their digits."""
    exchanges = [one for one in exchanges_of(CASSETTES / f"{name}.yaml") if one["request"]["uri"].endswith(f"/{path}")]
    data = [exact(one["response"]["body"]["string"])["data"] for one in exchanges]
    return [row for rows in data for row in (rows if isinstance(rows, list) else [rows])]


def exchanges_of(file: Path) -> list[Any]:
    return list(yaml.safe_load(file.read_text())["interactions"])


def exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def crm(database: Any, streams: Sequence[str], **settings: Any) -> Crm:
    """Reads Teamleader's own address, which only a cassette answers."""
    return Crm(Teamleader(), database, streams, {**ADDRESS, **settings})


def held(job: Crm, stream: str) -> list[Any]:
    """The documents of a table, digit by digit, in the order of their keys."""
    return [exact(text) for (text,) in job.ask(f"SELECT tl_content::text FROM tl_{stream} ORDER BY tl_uuid")]


# what is documented arrives


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("detail", ["full", "list"])
def test_documents_are_loaded_whole(database: Any, name: str, detail: str) -> None:
    """
    Each documented resource: the whole document, its id as key, its updated_at as version, and the columns that such tables always had.
    """
    stream, path = STREAMS[name], name.replace(".", "/")
    job = crm(database, [stream], detail=detail)
    with played(name, *([MODULE[name]] if name in MODULE else [])):
        assert "1 0 0 0" == job.ok()

    # Definitions are listed whole, so that .info is not asked.
    action = "list" if detail == "list" or name == "customFieldDefinitions" else "info"
    (document,) = documented(name, f"{path}.{action}")
    assert [document] == held(job, stream)
    assert [(document["id"], stream)] == job.ask(f"SELECT tl_uuid::text, tl_type FROM tl_{stream}")
    assert [(document["id"], VERSIONS.get(name))] == job.ask("SELECT key, version_at FROM usersync.seen")


def test_changes_are_asked_for_as_documented(database: Any) -> None:
    """
    The next run: updated_since, 15 minutes before the newest change that the first one listed; what is held costs no second .info.
    """
    job = crm(database, ["contacts"])
    with played("contacts"):
        job.ok()
    with played("contacts.changes", "contacts") as cassette:
        assert "0 0 1 0" == job.ok()

    asked = [request.path for index, request in enumerate(cassette.requests) if cassette.play_counts[index]]
    assert {"/users.me", "/contacts.list"} == set(asked)


def test_all_resources_in_one_run(database: Any) -> None:
    """
    The eight resources, their requests side by side.
    """
    names = [name for name in STREAMS if name != "projects"]
    job = crm(database, [STREAMS[name] for name in names])
    with played(*names, MODULE["projects-v2.projects"]):
        assert "8 0 0 0" == job.ok()


def test_whose_data_it_is(database: Any) -> None:
    """
    The account of users.me is what the sweep is of.
    """
    job = crm(database, ["departments"])
    with played("departments"):
        job.ok()
    (me,) = documented("users.me", "users.me")

    assert [(me["account"]["id"],)] == job.ask("SELECT account FROM usersync.sweeps")


def test_what_the_documents_allow(database: Any) -> None:
    """
    Fields that nobody knows are kept, fields that are missing are fine, and numbers keep all their digits.
    """
    job = crm(database, ["contacts"])
    with played("contacts.later"):
        assert "2 0 0 0" == job.ok()
    more, few = documented("contacts.later", "contacts.info")
    loaded = held(job, "contacts")

    assert [more, few] == loaded
    assert ["12345678901234567890123", "1234567.123456789012345678", "0.10"] == [str(one["value"]) for one in loaded[0]["custom_fields"]]
    assert {"id"} == few.keys()
    assert [(more["id"], CHANGED), (few["id"], None)] == job.ask("SELECT key, version_at FROM usersync.seen ORDER BY key")


# errors as they are documented


def test_a_record_that_is_not_there_any_more(database: Any) -> None:
    """
    404 to .info, and a list of its id is empty: it was deleted since it was listed.
    """
    job = crm(database, ["contacts"])
    with played("contacts.info.404", "contacts"):
        assert "0 0 0 0" == job.ok()

    assert [(0,)] == job.ask("SELECT count(*) FROM usersync.rejects")


@pytest.mark.parametrize(
    ("name", "status", "word"), [("contacts.list.403", 2, "scope"), ("contacts.list.400", 7, "(The page size is not valid)")]
)
def test_refusals_say_what_to_do(database: Any, name: str, status: int, word: str) -> None:
    """
    403 and 400: the step ends with what is missing, or with what was refused, and with the vendor's own words where they can't name people.
    """
    job = crm(database, ["contacts"])
    with played(name, "contacts"):
        error = job.run().steps[0].error

    assert error is not None
    assert status == status_of(error)
    assert word in f"{error.message} {error.hint}"


def test_too_many_requests(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    429 is waited out, and never an empty page.
    """
    monkeypatch.setattr(rate_limit, "LEAST", 0.05)
    job = crm(database, ["contacts"])
    # Pages behind the first are asked for six times: refused, then empty.
    with played("contacts.list.429", *["contacts"] * 5, repeats=False):
        assert "1 0 0 0" == job.ok()


# the cassettes


def test_each_resource_has_its_cassette() -> None:
    """
    Each resource that the local Teamleader knows: one exchange of .list and of .info, of the same record.
    """
    assert {name.replace("/", ".") for name in RESOURCES} == STREAMS.keys()
    for name, path in ((name, name.replace(".", "/")) for name in STREAMS):
        (listed,), (whole,) = documented(name, f"{path}.list"), documented(name, f"{path}.info")
        assert listed["id"] == whole["id"]


def test_no_secret_in_a_cassette() -> None:
    """
    No header that authorises, no token, no secret, no code; no cookie; and people who are plainly none.
    """
    files, words = sorted(CASSETTES.glob("*.yaml")), "authorization|bearer|client_secret|client_id|token|cookie|password"
    found = [
        (file.name, match.group())
        for file in files
        for match in re.finditer(rf"(?i){words}|[\w.+-]+@(?!test\.example)[\w.]+", file.read_text())
    ]

    assert len(files) > len(STREAMS)
    assert [] == found
    assert all("oauth2" not in exchange["request"]["uri"] for file in files for exchange in exchanges_of(file))
