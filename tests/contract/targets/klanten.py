"""A local Klanten that knows the app crm; a row is an id, its name a customer's domain. One that answers something else is the misfit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from psycopg import sql

from tests import servers
from tests.contract.live import SECRET, LiveOutbound, written
from tests.http_server import Answer
from tests.klanten_server import Klanten, of_path
from tests.simple_job import execute
from usersync_cli.clients.klanten.api import Klanten as Client
from usersync_cli.clients.postgres.connections import Connection, connect
from usersync_cli.clients.postgres.transactions import begin
from usersync_cli.load import stage
from usersync_cli.load.table import SETTINGS
from usersync_cli.model import Column, Database, Desired
from usersync_cli.run.checkpoint import Preview
from usersync_cli.signals import Stop
from usersync_cli.state.outbox import Keep, StepContext, StepScope
from usersync_cli.targets.klanten.settings import Settings
from usersync_cli.targets.klanten.target import Target

COLUMNS = [Column("id", "integer"), Column("name", "text")]
LEFT_BEHIND = "SELECT count(*) FROM usersync.intents UNION ALL SELECT count(*) FROM usersync.accounts"
TRANSFORM = "SELECT 'crm' AS app, id, encode(convert_to(name, 'UTF8'), 'hex') || '.example.com' AS domain FROM records"


def domain(name: str) -> str:
    """A name as a domain; as hexadecimal digits, because domains are the same in any case."""
    return f"{name.encode().hex()}.example.com"


def live(request: pytest.FixtureRequest) -> LiveOutbound:
    database: Database = request.getfixturevalue("new_database")()
    servers.migrate(database)

    def served() -> Klanten:
        server = Klanten("crm")
        server.key = SECRET
        running = server.running()
        running.__enter__()
        request.addfinalizer(lambda: running.__exit__(None, None, None))
        return server

    def settings_of(server: Klanten) -> Settings:
        return Settings.model_validate({"type": "klanten", "url": server.url, "api_key": SECRET, "apps": {"crm": "crm"}})

    def target(of: Klanten, keep: Keep = written) -> Target:
        settings = settings_of(of)
        client = Client(settings.url, settings.api_key, name="target klanten", stop=Stop())
        request.addfinalizer(client.close)
        return Target("klanten", settings, client, StepContext(StepScope("contract", "ids", 1), Stop(), keep))

    def transaction() -> Connection:
        tx = connect(database, job="contract", read_write=True)
        request.addfinalizer(tx.close)
        begin(tx, long=True, **SETTINGS)
        return tx

    def desired(tx: Connection, rows: Sequence[tuple[int, str]]) -> Desired:
        stage.create(tx, "records", COLUMNS)
        with tx.cursor() as cursor:
            cursor.executemany("INSERT INTO pg_temp.records VALUES (%s, %s)", rows)
        return Desired(sql.SQL(TRANSFORM), len(rows))

    def fill(rows: Sequence[tuple[int, str]]) -> None:
        klanten.mappings.clear()
        for number, name in rows:
            klanten.add(domain(name), ("crm", str(number)))

    def rows() -> list[tuple[int, str]]:
        return sorted((int(id_), bytes.fromhex(of.partition(".")[0]).decode()) for (_, id_), of in klanten.held().items())

    klanten, other = served(), served()
    other.trouble = of_path("/", Answer(200, {"what": "another API"}))
    return LiveOutbound(
        settings=settings_of(klanten),
        in_checkpoint=False,
        changes=False,
        target=lambda: target(klanten),
        preview=lambda: target(klanten, Preview().keep),
        misfit=lambda: target(other),
        begin=transaction,
        desired=desired,
        rows=rows,
        fill=fill,
        written=lambda _tx: klanten.sent().count("POST /v1/mappings/"),
        fingerprint=lambda: (klanten.held(), dict(klanten.customers), execute(database.url, LEFT_BEHIND)),
    )
