"""A realm of a real Keycloak with people `user<id>`, whose last name is the row's name."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from psycopg import sql

from tests import servers
from tests.contract.live import LiveOutbound, written
from tests.keycloak_server import Bank, Front, NewBank
from tests.simple_job import execute
from usersync_cli.clients.postgres.connections import Connection, connect
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.load import stage
from usersync_cli.load.table import SETTINGS
from usersync_cli.model import Column, Database, Desired
from usersync_cli.run.checkpoint import Preview
from usersync_cli.signals import Stop
from usersync_cli.state.outbox import Keep, StepContext, StepScope
from usersync_cli.targets.keycloak.settings import Settings
from usersync_cli.targets.keycloak.target import Target, realm

COLUMNS = [Column("id", "integer"), Column("name", "text")]
LEFT_BEHIND = "SELECT count(*) FROM usersync.intents UNION ALL SELECT count(*) FROM usersync.accounts"


def live(request: pytest.FixtureRequest) -> LiveOutbound:
    database: Database = request.getfixturevalue("new_database")()
    new_bank: NewBank = request.getfixturevalue("new_bank")
    front: Front = request.getfixturevalue("front")
    bank = new_bank()
    servers.migrate(database)

    def settings_of(one: Bank) -> Settings:
        own = {"url": front.url, "realm": one.name, "client_id": one.client_id, "client_secret": one.client_secret}
        return Settings.model_validate({"type": "keycloak", "roles": {}, "groups": {}, **own})

    def target(of: Bank, keep: Keep = written) -> Target:
        settings = settings_of(of)
        opened = realm("keycloak", settings, Stop())
        request.addfinalizer(opened.close)
        return Target("keycloak", settings, opened, StepContext(StepScope("contract", "people", 1), Stop(), keep))

    def transaction() -> Connection:
        tx = connect(database, job="contract", read_write=True)
        request.addfinalizer(tx.close)
        begin(tx, long=True, **SETTINGS)
        return tx

    def desired(tx: Connection, rows: Sequence[tuple[int, str]]) -> Desired:
        stage.create(tx, "records", COLUMNS)
        with tx.cursor() as cursor:
            cursor.executemany("INSERT INTO pg_temp.records VALUES (%s, %s)", rows)
        return Desired(sql.SQL("SELECT id, 'user' || id AS username, name AS last_name, id::text AS _key FROM records"), len(rows))

    def fill(rows: Sequence[tuple[int, str]]) -> None:
        for name in bank.people():
            bank.delete(name)
        for number, name in rows:
            bank.add(f"user{number}", lastName=name, firstName=None, email=None, attributes={"usersync_id": [str(number)]})

    def there() -> list[tuple[int, str]]:
        return sorted((int(user["attributes"]["usersync_id"][0]), user["lastName"]) for user in bank.people().values())

    return LiveOutbound(
        settings=settings_of(bank),
        enabled=lambda: sorted(int(user["attributes"]["usersync_id"][0]) for user in bank.people().values() if user["enabled"]),
        in_checkpoint=False,
        target=lambda: target(bank),
        preview=lambda: target(bank, Preview().keep),
        misfit=lambda: target(new_bank(declared=())),
        begin=transaction,
        desired=desired,
        rows=there,
        fill=fill,
        written=lambda _tx: sum(not re.match("GET", one) for one in front.requests),
        fingerprint=lambda: (bank.people(), execute(database.url, LEFT_BEHIND)),
    )
