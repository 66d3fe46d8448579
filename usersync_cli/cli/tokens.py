"""A source's token as commands show it: its state, generation and age; never the token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usersync_cli.cli.text import ago, iso, moment, plural

if TYPE_CHECKING:
    from usersync_cli.auth.store import State

_HOW = {"ok": "ok", "refused": "refused by the API, although it is new: a person must authorise again, if the next run does not help"}


def token_line(state: State | None) -> str:
    """A source's token in one line."""
    if state is None:
        return "no token yet: a person must authorise"
    of = f", account {state.account}" if state.account else ""
    tried = f", {plural(state.attempts, 'attempt')} to refresh it since" if state.attempts else ""
    how = _HOW.get(state.state, "a person must authorise again")
    return f"{how}, generation {state.generation}, refreshed {ago(state.age)}, good until {moment(state.expires_at)}{tried}{of}"


def token_hints(source: str, state: State | None) -> list[str]:
    """What went wrong last with a token, and what to type; nothing where it is well."""
    lines = [f"  last error: {state.last_error}"] if state and state.last_error else []
    return lines if state and state.state == "ok" else [*lines, f"  usersync oauth-url --source {source}"]


def token_document(source: str, state: State | None) -> dict[str, Any]:
    """A source's token for programs."""
    if state is None:
        return {"source": source, "state": "none"}
    return {
        "source": source,
        "state": state.state,
        "generation": state.generation,
        "account": state.account,
        "refreshed_at": iso(state.refreshed_at),
        "age_seconds": round(state.age.total_seconds(), 1),
        "expires_at": iso(state.expires_at),
        "attempts": state.attempts,
        "last_error": state.last_error,
    }
