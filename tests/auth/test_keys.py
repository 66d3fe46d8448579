"""Tokens at rest: encrypted, bound to their row, under keys that may be changed."""

from __future__ import annotations

import json
import logging
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from tests.auth.vault import KEYS, TWO_KEYS, UNUSABLE, Store
from usersync_cli import log
from usersync_cli.auth import keys
from usersync_cli.config import loader
from usersync_cli.errors import ConfigError, UsersyncError
from usersync_cli.model import Token


def test_nothing_is_in_clear(store: Store, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """
    No token, code or secret is found in a table, a log at its most talkative, or an error.
    """
    caplog.set_level(logging.DEBUG)
    log.configure("json", verbosity=2)
    said = []
    code = store.vendor.code()
    token = store.vendor.client().exchange(code)
    said += [repr(token), repr(store.vendor.client()), repr(store.tokens()), repr(keys.parse(KEYS))]
    for fault in ["", *UNUSABLE, "redirect", "invalid_grant"]:
        store.vendor.faults, store.vendor.grace = [fault], 60
        store.expire()
        try:
            said.append(repr(store.get()))
        except UsersyncError as error:
            said += [error.message, error.hint, repr(error)]
    rows = store.run("SELECT encode(t::text::bytea, 'escape') FROM usersync.tokens t")
    sealed = store.run("SELECT encode(access_token, 'escape') || encode(refresh_token, 'escape') FROM usersync.tokens")
    out, err = capfd.readouterr()
    haystack = "\n".join([*said, str(rows), str(sealed), out, err, caplog.text])

    assert "canary" not in haystack
    assert [] == [one for one in store.vendor.secrets if one in haystack]


def test_a_swapped_row_does_not_decrypt(store: Store) -> None:
    """
    A ciphertext is good for its source, account and column only.
    """
    store.tokens().store("other", Token("a", "r", timedelta(hours=1)), account="account-1")
    for change in [
        "access_token = (SELECT access_token FROM usersync.tokens WHERE source = 'other')",
        "access_token = refresh_token",
        "account = 'account-2'",
        "key_id = 'k2'",
    ]:
        store.authorise()
        store.run(f"UPDATE usersync.tokens SET {change} WHERE source = 'crm'")
        with pytest.raises(ConfigError, match=r"key k[12]") as error:
            store.get()
        assert "usersync oauth-url --source crm" in error.value.hint
        store.run("DELETE FROM usersync.tokens WHERE source = 'crm'")


def test_keys_are_rotated(store: Store) -> None:
    """
    A new key in front encrypts from the next refresh on; the old one decrypts until then, and is not needed afterwards.
    """
    store.keys = TWO_KEYS
    assert store.access == store.get().token
    store.expire()
    access = store.get()
    store.keys = TWO_KEYS.partition(",")[0]

    assert access == store.get()
    assert [("k2",)] == store.run("SELECT key_id FROM usersync.tokens")
    store.keys = KEYS
    with pytest.raises(ConfigError, match="encrypted with key k2, which is not among k1"):
        store.get()


def test_without_the_key_nothing_is_spent(store: Store) -> None:
    """
    Who can't read the token, or has no key at all, does not ask for another.
    """
    store.expire()
    store.keys = TWO_KEYS.partition(",")[0]
    with pytest.raises(ConfigError):
        store.get()
    store.keys = ""
    with pytest.raises(ConfigError):
        store.get()

    assert [] == store.vendor.requests


@pytest.mark.parametrize("text", ["", "k1", "k1:", "k1:c2hvcnQ=", KEYS + "," + KEYS, "k 1:" + KEYS[3:], KEYS + ",x", "k1:" + "!" * 44])
def test_bad_keys_are_refused(text: str) -> None:
    """
    What is no key is told with the command that makes one, and is not repeated.
    """
    with pytest.raises(ConfigError, match="USERSYNC_KEYS") as error:
        keys.parse(text)

    assert keys.MAKE in error.value.hint
    assert len(text) < 10 or text not in f"{error.value.message}{error.value.hint}"


def test_the_command_makes_a_key() -> None:
    """
    The command in the message prints a key that is taken.
    """
    made = subprocess.run(["sh", "-c", keys.MAKE], capture_output=True, text=True, check=True).stdout

    assert "k1" == keys.parse(made.partition("=")[2]).first


def test_a_key_is_made_beside_the_embedded_database(tmp_path: Path) -> None:
    """
    Made once, of mode 0600, also by many at once.
    """
    with ThreadPoolExecutor(8) as pool:
        made = {tuple((keys.beside(tmp_path, make=True) or keys.parse("")).by_id.items()) for _ in pool.map(str, range(8))}
    (file,) = tmp_path.iterdir()

    assert 1 == len(made)
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)


@pytest.mark.parametrize(
    ("target", "environ", "kind"),
    [
        ("embedded", {}, "local-"),
        ("embedded", {"USERSYNC_KEYS": KEYS}, "k1"),
        ("postgresql://u@h/d", {"USERSYNC_KEYS": KEYS + "\n"}, "k1"),
        ("postgresql://u@h/d", {}, ""),
    ],
)
def test_where_keys_come_from(tmp_path: Path, target: str, environ: dict[str, str], kind: str) -> None:
    """
    From USERSYNC_KEYS; without it, made for the embedded database and refused for any other.
    """
    document = {"environment": "test", "target": target, "sources": {"s": {"type": "postgres", "url": "embedded:s"}}}
    step = {"name": "s", "extract": {"source": "s", "table": "t"}, "load": {"table": "t", "key": ["id"]}}
    (tmp_path / "config.yaml").write_text(json.dumps({**document, "jobs": {"j": {"steps": [step]}}}))
    settings = loader.load(tmp_path / "config.yaml", {"USERSYNC_HOME": str(tmp_path / "home"), **environ})
    if kind:
        assert settings.keys().first.startswith(kind)
    else:
        with pytest.raises(ConfigError) as error:
            settings.keys()
        assert keys.MAKE in error.value.hint
