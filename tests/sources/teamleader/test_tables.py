"""Where Teamleader's records go: new tables, those of an older tool, those of another shape; and which streams a run reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Command
from tests.teamleader_job import ALL, Crm, made
from tests.teamleader_server import Asked, Teamleader
from usersync_cli.errors import status_of

RESOURCE_OF = {"custom_fields": "customFieldDefinitions"}
OLD = """
CREATE TABLE tl_{stream} (
    id serial PRIMARY KEY, tl_uuid uuid NOT NULL, tl_content jsonb NOT NULL, tl_type VARCHAR,
    created_at timestamp with time zone NOT NULL DEFAULT now(), updated_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT tl_{stream}_constraint_key UNIQUE (tl_uuid))
"""


def taken_over(crm: Crm) -> None:
    """Tables of the old tool with all that is there, and one record more that has left."""
    for stream in crm.streams:
        resource = RESOURCE_OF.get(stream, stream)
        crm.ask(OLD.format(stream=stream))
        for id_ in [*crm.server.ids(resource), "00000000-0000-0000-0000-000000000005"]:
            content = crm.server.info(resource, id_) if id_ in crm.server.records[resource] else {"id": id_}
            crm.ask(f"INSERT INTO tl_{stream} (tl_uuid, tl_type, tl_content) VALUES ('{id_}', '{stream}', '{json.dumps(content)}')")


def test_all_tables_of_the_old_tool_are_taken_over(api: Teamleader, database: Any) -> None:
    """
    Eight tables: rows that are equal are not touched, one that differs is fixed, and who reads meanwhile sees all rows all the time.
    """
    crm = Crm(api, database, ALL, load={"on_missing": "keep"})
    ids = {stream: api.add(RESOURCE_OF.get(stream, stream), 6) for stream in ALL}
    taken_over(crm)
    for stream in ALL:
        crm.ask(f"UPDATE tl_{stream} SET tl_content = tl_content || '{{\"label\": \"old\"}}' WHERE tl_uuid = '{ids[stream][2]}'")
    everything = " UNION ALL ".join(f"SELECT '{stream}', count(*), min(xmin::text::int) FROM tl_{stream}" for stream in ALL)
    seen = []

    def before(asked: Asked) -> None:
        if asked.action == "info":
            seen.append({count for _, count, _ in crm.ask(everything)})

    rows = {stream: crm.ask(f"SELECT xmin::text, * FROM tl_{stream} ORDER BY id") for stream in ALL}
    api.before = before

    assert "0 8 40 0" == crm.ok()
    assert {7} == set.union(*seen)
    for stream in ALL:
        after = crm.ask(f"SELECT xmin::text, * FROM tl_{stream} ORDER BY id")
        assert [row for row in rows[stream] if row[1] != 3] == [row for row in after if row[1] != 3], stream
        assert crm.has_all(stream, RESOURCE_OF.get(stream, stream)), stream
    assert "0 0 48 0" == crm.ok(full=True)


@pytest.mark.parametrize("old", [True, False])
def test_without_on_missing_nobody_goes(crm: Crm, old: bool) -> None:  # noqa: FBT001  a parameter
    """
    `on_missing` left out means keep, for a new table and for one that was there: who has left stays, unmarked.
    """
    crm.load = {"on_missing": None}
    ids = crm.server.add("contacts", 6)
    if old:
        taken_over(crm)
    crm.ok()
    crm.server.delete("contacts", ids[3])
    crm.ok(full=True)

    assert set(ids) <= set(crm.held())
    assert [] == crm.ask("SELECT FROM pg_attribute WHERE attrelid = 'tl_contacts'::regclass AND attname = 'deleted_at'")


@pytest.mark.parametrize(("column", "named"), [("tl_content", "tl_content"), ("tl_type", "tl_type"), ("deleted_at", "deleted_at")])
def test_a_table_of_another_shape_is_told(crm: Crm, column: str, named: str) -> None:
    """
    A table that lacks a column: status 7, the statement that adds it, and not a document asked for.
    """
    crm.server.add("contacts", 3)
    crm.ok()
    crm.ask(f"ALTER TABLE tl_contacts DROP COLUMN {column}")
    crm.server.asked.clear()
    crm.server.change("contacts", crm.there()[0], remarks="changed")
    failed = crm.run(full=True).steps[0].error

    assert failed is not None
    assert 7 == status_of(failed)
    assert "ALTER TABLE" in failed.hint, failed.hint
    assert f"ADD COLUMN {named}" in failed.hint.replace('"', "")


def test_one_stream_asks_for_no_other(api: Teamleader, database: Any, usersync: Command) -> None:
    """
    `--stream contacts` reads contacts alone; a name that is none is status 2 with those that there are.
    """
    crm = Crm(api, database, ALL)
    for resource in ("contacts", "companies", "users"):
        api.add(resource, 3)
    asked = crm.requests(streams=["contacts"])
    assert {"users.me", "contacts.list", "contacts.info"} == {one.path for one in asked}

    load = {"table": "tl_{stream}", "key": ["tl_uuid"], "create": True}
    document = {"environment": "test", "target": database.url, "sources": {"crm": made(api.url)},
                "jobs": {"teamleader": {"steps": [{"extract": {"source": "crm", "streams": list(ALL)}, "load": load}]}}}  # fmt: skip
    (usersync.folder / "config.yaml").write_text(json.dumps(document))
    before = len(api.asked)
    result = usersync("run", "--job", "teamleader", "--stream", "contcats")

    assert (2, before) == (result.status, len(api.asked))
    for stream in ALL:
        assert stream in result.stderr
