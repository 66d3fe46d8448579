"""What a person may mistype, at every place of every command: never a bug's exit status, and JSON where JSON was asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.cli.commands import tree
from usersync_cli import __main__, cli
from usersync_cli.errors import CODES, STATUSES
from usersync_cli.patience import Patience
from usersync_cli.signals import Stop

BAD = ["", " ", "'", 'a"b', "\udcff\udcfe", "x" * 5000, "-1", "9" * 20, "a b", "\u00e9\u2019", "%s", "../..", "1e5", "\x01", "a\0b"]
CONFIG = """
environment: test
target: postgresql://nobody@127.0.0.1:1/nowhere?connect_timeout=2
sources: {crm: {type: file, streams: {people: {path: people.jsonl, key: id}}}}
targets: {keycloak: {type: keycloak, url: "http://127.0.0.1:1", realm: r, client_id: c, client_secret: s}}
jobs:
  people:
    schedule: "* * * * *"
    steps:
      - {extract: {source: crm, streams: [people]}, transform: SELECT 1 AS id FROM records, load: {table: people, key: [id]}}
"""
NO_CONFIG = {"init", "seed", "schema"}  # they ask, and write files


def places() -> Iterator[tuple[str, ...]]:
    """Every text that a command takes, as its words before that text."""
    for path, command in tree():
        if isinstance(command, click.Group) or path[0] in NO_CONFIG or path == ("db", "shell"):  # which becomes psql
            continue
        needed = [word for one in command.params if one.required and one.param_type_name == "option" for word in (one.opts[-1], "people")]
        for one in command.params:
            if one.param_type_name == "argument":
                yield (*path, *needed, "--")
            elif not getattr(one, "is_flag", False) and one.opts[-1] != "--config":
                others = [word for at, word in enumerate(needed) if one.opts[-1] not in needed[max(at - 1, 0) : at + 1]]
                arguments = ["1" for other in command.params if other.param_type_name == "argument" and other.required]
                yield (*path, *arguments, *others, one.opts[-1])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_answered", False)
    return tmp_path


def test_nothing_that_is_typed_is_a_bug(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Nothing that somebody types at any place of any command ends with 1; what is no text ends with 2.
    """
    found = list(places())
    assert 60 < len(found)
    for place in found:
        for bad in BAD:
            monkeypatch.setattr(sys, "argv", ["usersync", *place, bad])
            stop = Stop()
            stop.patience = Patience(0)
            status = __main__._status(stop)
            if place[0] == "keycloak" and not bad.strip():
                continue  # tests/cli/test_keycloak.py
            assert status in {0, 2, 4, 5, 7, 9, 10}, (place, bad[:20])
            assert status == 2 or ("\udcff" not in bad and "\0" not in bad), (place, bad)


def test_bytes_that_are_no_text_are_a_mistake(folder: Path) -> None:
    """
    The real command, with bytes that are no UTF-8: as an argument, as a config file's name, in a variable of the config file.
    """
    command = os.fsencode(sys.executable), b"-m", b"usersync_cli"
    (folder / "config.yaml").write_text(CONFIG.replace("postgresql://nobody@", "${URL}@"))
    for words, more in [
        ((b"export", b"\xff\xfe"), {}),
        ((b"status",), {b"USERSYNC_CONFIG": b"\xff.yaml"}),
        ((b"check",), {b"URL": b"postgresql://\xff"}),
    ]:
        done = subprocess.run([*command, *words], capture_output=True, check=False, env={**os.environb, **more}, timeout=60)
        assert 2 == done.returncode, done.stderr
        assert b"not UTF-8 text" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (["run", "--output", "json"], "usage", 2),
        (["run", "--job", "people", "--output=json", "--frobnicate"], "usage", 2),
        (["rejects", "show", "9" * 20, "--output", "json"], "usage", 2),
        (["run", "--job", "nobody", "--output", "json"], "config", 2),
        (["status", "--output", "json", "--config", "missing.yaml"], "config", 2),
        (["status", "--output", "json"], "temporary", 4),
        (["export", "\udcff", "--output", "json"], "usage", 2),
        (["keycloak", "status", "", "--output", "json"], None, 0),
    ],
)
def test_an_error_is_json_too(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: str | None,
    status: int | None,
) -> None:
    """
    With --output json there is one document on stdout whatever went wrong, with a code that is stable; stderr says it to people.
    """
    monkeypatch.setattr(sys, "argv", ["usersync", *words])
    ended = __main__._status(Stop())
    said = capsys.readouterr()
    document = json.loads(said.out)

    assert said.err
    assert 1 == document["version"]
    assert document["code"] in {"usage", *CODES.values()}
    assert document["message"]
    if code:
        assert (code, status, status, "error") == (document["code"], ended, document["exit_status"], document["kind"])


def test_a_document_is_not_followed_by_another(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Where a command has printed its document, or nobody asked for JSON, an error prints nothing on stdout.
    """
    for words in (["config", "validate", "--output", "json", "--config", "bad.yaml"], ["status"], ["status", "--output", "text"]):
        (folder / "bad.yaml").write_text("jobs: 1")
        monkeypatch.setattr(sys, "argv", ["usersync", *words])
        assert __main__._status(Stop()) in {2, 4}
        said = capsys.readouterr().out
        assert (1 if "config" in words else 0) == len(said.splitlines())


def test_every_status_has_a_code() -> None:
    """
    Programs find one word for each way to fail.
    """
    assert set(CODES) == {status for status in STATUSES if status and status < 100}
    assert len(CODES) == len(set(CODES.values()))


def test_output_is_found_where_nothing_can_be_parsed() -> None:
    """
    The last --output before -- counts.
    """
    assert cli.wants_json(["a", "--output", "json"])
    assert cli.wants_json(["--output=text", "--output=json", "--", "x"])
    for words in (["--output"], ["--output", "text"], ["--", "--output", "json"], ["--output", "json", "--output", "text"], ["json"]):
        assert not cli.wants_json(words)


def test_the_largest_numbers(folder: Path) -> None:
    """
    An id that the database can't hold is a mistake of the command line.
    """
    done = CliRunner().invoke(cli.cli, ["rejects", "show", "9" * 20], obj=Stop())
    assert (2, True) == (done.exit_code, "range" in done.stderr)
