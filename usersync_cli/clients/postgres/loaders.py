"""Times and intervals from a server's text: as `settings` has it written, whatever the session is set to.

psycopg asks the session. A statement that goes with its settings in one round trip has the session set back by the time its
result is read, and PostgreSQL reports a setting only when it waits for the next message.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from psycopg.adapt import AdaptersMap, Loader
from psycopg.types import datetime as types

from usersync_cli.clients.postgres.settings import MEANING

_SET = {name.encode(): value.encode() for name, value in MEANING.items()}
_CONTEXT: Any = SimpleNamespace(connection=SimpleNamespace(pgconn=SimpleNamespace(parameter_status=_SET.get)))


class _Date(types.DateLoader):
    def __init__(self, oid: int, context: Any = None) -> None:
        super().__init__(oid, _CONTEXT)


class _Timestamp(types.TimestampLoader):
    def __init__(self, oid: int, context: Any = None) -> None:
        super().__init__(oid, _CONTEXT)


class _Timestamptz(types.TimestamptzLoader):
    def __init__(self, oid: int, context: Any = None) -> None:
        super().__init__(oid, _CONTEXT)


class _TimestamptzBinary(types.TimestamptzBinaryLoader):
    def __init__(self, oid: int, context: Any = None) -> None:
        super().__init__(oid, _CONTEXT)


class _Interval(types.IntervalLoader):
    def __init__(self, oid: int, context: Any = None) -> None:
        super().__init__(oid, _CONTEXT)


_LOADERS: list[tuple[str, type[Loader]]] = [
    ("date", _Date),
    ("timestamp", _Timestamp),
    ("timestamptz", _Timestamptz),
    ("timestamptz", _TimestamptzBinary),
    ("interval", _Interval),
]


def register(adapters: AdaptersMap) -> None:
    """Let a connection of ours read with these."""
    for name, loader in _LOADERS:
        adapters.register_loader(name, loader)
