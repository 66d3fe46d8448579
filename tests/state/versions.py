"""The tables of usersync in the shape of an earlier version."""

from __future__ import annotations

from typing import Any

from usersync_cli.model import Database
from usersync_cli.state import migrations


def move(database: Database, revision: str) -> None:
    """Bring the tables to this revision, up or down."""

    def work(config: Any) -> None:
        from alembic import command

        found = config.attributes["found"]
        (command.upgrade if found is None or found < revision else command.downgrade)(config, revision)

    migrations._migrate(database, "test", work)
