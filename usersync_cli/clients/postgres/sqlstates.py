"""What a server's refusal means: its SQLSTATE becomes an error of ours that says what the operator does next."""

from __future__ import annotations

import re

import psycopg
from psycopg import errors

from usersync_cli.clients.postgres.parameters import BadURL
from usersync_cli.errors import ConfigError, Drift, Unavailable, UsersyncError
from usersync_cli.model import OWN_SCHEMA, Database

LONGEST_LINE = 200


class NotConnected(psycopg.OperationalError):
    """No connection was made, and no server said why."""


def translate(error: psycopg.Error, database: Database, doing: str, *, lockers: str = "") -> UsersyncError:  # noqa: PLR0911  a table in the form of code
    """The error of ours that says what the operator does next. Values of rows are never part of it.

    By SQLSTATE (PostgreSQL manual, appendix A): 08, 40, 53, 55, 57 and 58 pass by themselves; 28 and 3D are the
    config's; 42501 is a right that is missing; 22, 23, 42 mean that data or schema are not what the step expects.
    """
    error = underlying(error)
    state = error.sqlstate or ""
    where = f"{database.name}: {doing}"
    if not state:
        return _without_state(error, where)
    what = f"{where}: {_said(error)}"
    if state.startswith("28"):
        return ConfigError(what, hint="fix the user or password in the URL (or the server's pg_hba.conf)")
    if state.startswith("3D"):
        return ConfigError(what, hint="fix the database in the URL, or create it")
    if error.pgconn is not None and not error.diag.sqlstate:  # refused before there was a session
        return _refusal(error, f"{where}: {_first_line(error)} [{state}]")
    if state == "42501":
        return ConfigError(what, hint="an administrator grants that right; `usersync check` looks for all that a run needs")
    if state == "42601":
        return ConfigError(what, hint="fix the SQL in the config file; `usersync db shell` is a place to try it")
    if state == "25006":
        return ConfigError(what, hint="this server or role only reads; point the target's URL at the primary")
    if state == "53100":
        return Unavailable(what, hint="the server's disk is full; nothing was lost, make room and run again")
    if passes(error):
        return Unavailable(what, hint=f"{lockers}nothing was lost; the next run tries again")
    return Drift(what, hint=_hint(error))


def underlying(error: psycopg.Error) -> psycopg.Error:
    """psycopg's complaint about savepoints out of order hides why one of them could not be set."""
    while not error.sqlstate and isinstance(error, errors.ProgrammingError) and isinstance(error.__context__, psycopg.Error):
        error = error.__context__
    return error


# PgBouncer has one SQLSTATE for all that it refuses, and its own words are English; what it passes on from a server may not be.
_POOLER_REFUSES = ("unsupported startup parameter", "authentication failed", "no such user", "no such database", "does not exist")


def _refusal(error: psycopg.Error, what: str) -> UsersyncError:
    """The server, or the pooler before it, does not let us in, and it is neither the user nor the database by their SQLSTATE."""
    state = error.sqlstate or ""
    if state == "42501":
        return ConfigError(what, hint="an administrator runs: GRANT CONNECT ON DATABASE ... TO the user in the URL")
    if state.startswith(("22", "42", "0A")):
        return ConfigError(what, hint="fix the parameters in the URL (options=)")
    if state == "08P01" and any(words in str(error) for words in _POOLER_REFUSES):
        return ConfigError(what, hint="fix the user, password, database or parameters (options=) in the URL, or the pooler's settings")
    return Unavailable(what, hint="nothing was lost; the next run tries again")


def passes(error: psycopg.Error) -> bool:
    """Whether it is the server's trouble of this moment, or the line's, and not a mistake in data or SQL."""
    state = error.sqlstate or ""
    return not state or state.startswith(("08", "25P03", "40", "53", "55", "57", "58"))


def _hint(error: psycopg.Error) -> str:
    state = error.sqlstate or ""
    if state in {"42P01", "42703", "3F000"}:
        ours = state == "42P01" and f"{OWN_SCHEMA}." in (error.diag.message_primary or "")
        own = "usersync's own tables and views are made by the first run, or by `usersync db upgrade`; is this the target's database?"
        return (
            own if ours else "is it spelt right, and is this the right database? If it was renamed, fix the config file, or bring it back"
        )
    if state in {"23505", "23P01"}:
        return "two records want what only one may have, or a row that the source no longer has still holds it; nothing was written"
    if state == "23503":
        return "a record refers to a row that is not there; nothing was written"
    if state.startswith(("22", "23")):
        return "a value does not fit its column or a cast of the transform; nothing was written. Fix the value, or the transform"
    if state.startswith(("42", "0A")):
        return "fix the SQL or the names in the config file; `usersync check` looks at each part, `usersync db shell` is a place to try SQL"
    return "`usersync check` looks at each part; nothing was written"


def _said(error: psycopg.Error) -> str:
    """What the server said, as far as it cannot hold anybody's data.

    The text of classes 22, 23 and P0 quotes values ("invalid input syntax for type integer: ..."), DETAIL always may.
    """
    diag = error.diag
    state = error.sqlstate or ""
    if state[:2] in {"22", "23", "21", "P0", "2D", "44"}:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
        parts = [("column", diag.column_name), ("constraint", diag.constraint_name), ("table", diag.table_name)]
        named = ", ".join(f"{kind} {name}" for kind, name in parts if name)
        return f"{words}{f' ({named})' if named else ''} [{state}]"
    return f"{(diag.message_primary or _first_line(error)).strip()} [{state}]"


def _first_line(error: psycopg.Error) -> str:
    """libpq repeats the address before each reason; one line of it is enough. It never holds the password."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 3] + "..."


def _without_state(error: psycopg.Error, where: str) -> UsersyncError:
    """No server has said anything: libpq or psycopg speak, in English whatever the servers' language is."""
    what = f"{where}: {_first_line(error)}"
    if isinstance(error, BadURL):
        return ConfigError(what, hint="fix the URL: postgresql://user:password@host:port/database")
    if isinstance(error, NotConnected) and error.pgconn and (error.pgconn.needs_password or error.pgconn.used_password):
        return ConfigError(what, hint="fix the user or password in the URL: the server asked for one")
    if isinstance(error, NotConnected) and _untrusted(str(error)):
        return ConfigError(
            f"{where}: no verified TLS connection: {_first_line(error)}",
            hint="give the server's CA in the URL with sslrootcert=FILE, or say sslmode=require (unverified) if you accept that",
        )
    if isinstance(error, errors.ProgrammingError):  # psycopg's own complaint about how we use it
        return UsersyncError(what, hint="this is a bug: please report it")
    return Unavailable(what, hint="is the server running and reachable from here? the next run tries again")


def _untrusted(said: str) -> bool:
    """Whether TLS is what failed, and not the line under it."""
    return any(words in said for words in ("certificate", "SSL")) and not any(words in said for words in ("EOF", " eof ", "closed"))
