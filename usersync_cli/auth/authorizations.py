"""Authorizations under way while a person is in a browser: a random state, good once, for ten minutes, and kept as a hash only."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg

from usersync_cli.errors import ConfigError, LoginRequired

MINUTES = 10
_STATE_BYTES = 16
_OPEN = "used_at IS NULL AND expires_at > clock_timestamp()"
_FIND = f"SELECT state_hash, source, used_at IS NOT NULL, expires_at <= clock_timestamp(), {_OPEN} FROM usersync.authorizations ORDER BY created_at"  # noqa: S608,E501  parts of our own
_USE = f"UPDATE usersync.authorizations SET used_at = clock_timestamp() WHERE state_hash = %s AND {_OPEN}"  # noqa: S608  parts of our own
_FORGET = "DELETE FROM usersync.authorizations WHERE created_at < clock_timestamp() - interval '1 day'"

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Callback:
    """The answer that the vendor sent a person back with."""

    code: str = field(repr=False)
    state: str | None = field(repr=False)
    error: str = ""  # access_denied, ...


@dataclass(frozen=True)
class Opened:
    """An authorization that an answer belongs to."""

    source: str
    state_hash: bytes


def to_authorize(source: str) -> str:
    """The command that begins an authorization."""
    return f"usersync oauth-url --source {source}"


def begin(connection: Connection, source: str) -> str:
    """A new state of 128 random bits."""
    state = secrets.token_urlsafe(_STATE_BYTES)
    connection.execute(_FORGET)
    connection.execute(
        "INSERT INTO usersync.authorizations (state_hash, source, expires_at) VALUES (%s, %s, clock_timestamp() + %s * interval '1 min')",
        (_hash(state), source, MINUTES),
    )
    return state


def parse(given: str, state: str | None) -> Callback:
    """A bare code, or the whole address that the vendor sent a person back to. Raises ConfigError, without repeating it."""
    given = given.strip()
    if "://" not in given and "code=" not in given and "error=" not in given:
        if not given:
            raise ConfigError("the code is empty", hint="usersync oauth-callback with the code, or with the whole address in quotes")
        return Callback(given, state)
    try:
        query = parse_qs(urlsplit(given if "?" in given else f"?{given}").query)
    except ValueError:
        query = {}
    code, seen, error = (query.get(name, [""])[0] for name in ("code", "state", "error"))
    if not code and not error:
        raise ConfigError(
            "there is no code in this address",
            hint="copy it whole from the browser, in quotes, because the shell ends it at the first &",
        )
    if state and seen and state != seen:
        raise ConfigError("--state is not the state in the address", hint="leave --state out: the address has it")
    plain = error if error.replace("_", "").isalnum() and error.isascii() and len(error) < 40 else "an error of its own"
    return Callback(code, seen or state, plain if error else "")


def use(connection: Connection, answer: Callback, source: str | None) -> Opened:
    """The authorization that this answer belongs to, which is used from now on. Raises LoginRequired when there is none.

    A bare code carries no state: it is taken only while one is open.
    """
    rows = connection.execute(_FIND.encode()).fetchall()
    found = _newest_open(rows, source) if answer.state is None else _of_state(rows, answer.state, source)
    if connection.execute(_USE.encode(), (found.state_hash,)).rowcount != 1:
        raise _refused("this answer was used already", found.source)
    return found


def reopen(connection: Connection, opened: Opened) -> None:
    """The code was not sent after all: the same answer may be given again."""
    connection.execute("UPDATE usersync.authorizations SET used_at = NULL WHERE state_hash = %s", (opened.state_hash,))


def _newest_open(rows: list[tuple[Any, ...]], source: str | None) -> Opened:
    for state_hash, of, _, _, open_ in reversed(rows):
        if open_ and of == source:
            return Opened(of, bytes(state_hash))
    raise _refused(f"no authorisation is open: one is for {MINUTES} minutes, and one answer", source)


def _of_state(rows: list[tuple[Any, ...]], state: str, source: str | None) -> Opened:
    wanted, found = _hash(state), None
    for row in rows:  # all of them: how long it takes says nothing
        if hmac.compare_digest(bytes(row[0]), wanted):
            found = row
    if found is None:
        raise _refused("the state of this answer is none that `usersync oauth-url` gave out here", source)
    if source and found[1] != source:
        raise _refused(f"the state of this answer is of source {found[1]}", source)
    if found[2]:
        raise _refused("this answer was used already", found[1])
    if found[3]:
        raise _refused(f"this answer came after more than {MINUTES} minutes", found[1])
    return Opened(found[1], bytes(found[0]))


def _refused(why: str, source: str | None) -> LoginRequired:
    begin_again = to_authorize(source) if source else "usersync oauth-url"
    return LoginRequired(f"{f'{source}: ' if source else ''}{why}; nothing was sent", hint=f"begin again: {begin_again}")


def _hash(state: str) -> bytes:
    return hashlib.sha256(state.encode(errors="surrogateescape")).digest()
