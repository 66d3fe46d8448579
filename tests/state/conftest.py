"""What the tests of the lease share."""

from __future__ import annotations

import psycopg
import pytest

from usersync_cli.signals import Stop


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def table(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE public.t (a int)")
