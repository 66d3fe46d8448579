"""What several files of integration tests begin with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.teamleader_job import Crm
    from tests.teamleader_server import Teamleader
    from usersync_cli.model import Database


@pytest.fixture
def api() -> Iterator[Teamleader]:
    """A Teamleader of this machine, without a record."""
    from tests.teamleader_server import Teamleader

    with Teamleader().running() as running:
        yield running


@pytest.fixture
def crm(api: Teamleader, database: Database) -> Crm:
    """Job `teamleader` from it; contacts alone."""
    from tests.teamleader_job import Crm

    return Crm(api, database)
