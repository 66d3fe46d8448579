"""What trying by hand has found of the map that steps fill: nobody is lost, and a dry run says what its run does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.identity.test_filled_by_documents import RULES, company, foreseen, identity, ids, source, sync
from tests.list_source import ListSource, Sync
from tests.log_source import LogSource
from usersync_cli.errors import PartialError
from usersync_cli.model import Database
from usersync_cli.state import migrations

__all__ = ["source", "sync"]
NUMBERS = [{"name": "number", "domain": "'example' || website::int || '.org'"}]


def companies(*numbers: int, domain: str = "") -> list[dict[str, Any]]:
    return [company(f"c{n}", domain or f"example{n}.org", f"test@example{n}.net") for n in numbers]


@pytest.mark.parametrize(("rules", "options"), [(RULES, {"full": True}), (RULES[::-1], {})])
def test_leaves_while_all_rows_are_looked_at(sync: Sync, source: ListSource, rules: Any, options: Any) -> None:
    """
    A dry run that looks at all rows of the table, with --full or with edited rules, says too whose records leave.
    """
    source.streams["companies"] = companies(0, 1)
    sync.ok()
    source.streams["companies"] = companies(1)
    sync.identity = [identity("companies", rules=rules)]

    assert ("unmap", "c0", "example0.org", None) in foreseen(sync, **options)
    sync.run(**options)
    assert [("crm.companies", "c1", "example1.org")] == ids(sync)


def test_leaves_while_a_domain_becomes_crowded(sync: Sync, source: ListSource) -> None:
    """
    A record that leaves, while others of its domain are decided anew, is not mapped again by a dry run.
    """
    sync.identity = [identity("companies", max_ids=2)]
    source.streams["companies"] = [*companies(0, 1, domain="example.org"), *companies(9)]
    sync.ok()
    source.streams["companies"] = companies(0, 1, 2, domain="example.org")

    will = foreseen(sync)
    sync.ok()

    assert [("crm.companies", f"c{n}", f"example{n}.net") for n in (0, 1, 2)] == ids(sync)
    assert [one[1:] for one in ids(sync)] == [(id_, after) for kind, id_, _, after in will if kind == "map"]
    assert ["c0", "c1", "c9"] == [id_ for kind, id_, *_ in will if kind == "unmap"]


def test_changes_and_leaves(database: Database) -> None:
    """
    A record that a page changes, and a later one takes away, has left in a dry run as well.
    """
    migrations.upgrade(database)
    log = LogSource({"companies": {}})
    select = "SELECT key AS id, data ->> 'name' AS website, NULL::text AS email FROM records"
    sync = Sync(log, database, {"on_missing": "delete"}, select, [identity("companies")])
    for n in range(4):
        log.put("companies", f"c{n}", name=f"example{n}.org")
    sync.ok()
    for n in range(3):
        log.put("companies", f"c{n}", name=f"https://example{n}.org/")
    log.remove("companies", "c0")

    assert [("unmap", "c0", "example0.org", None)] == foreseen(sync)
    sync.ok()
    assert ["c1", "c2", "c3"] == [id_ for _, id_, _ in ids(sync)]


def test_who_could_not_be_looked_at(sync: Sync, source: ListSource) -> None:
    """
    The records of a page with a value that a rule can't take are looked at by a later run, although they do not change any more;
    until the value is another, each run says so.
    """
    source.size = 10
    sync.identity = [identity("companies", rules=NUMBERS)]
    source.streams["companies"] = [company("c0", "0")]
    sync.ok()
    source.streams["companies"] += [company("c1", "1"), company("c2", "none")]
    for _ in range(2):
        assert isinstance(sync.run(dry_run=True).steps[0].error, PartialError)
        assert isinstance(sync.run().steps[0].error, PartialError)
    assert ["c0"] == [id_ for _, id_, _ in ids(sync)]

    source.streams["companies"] = source.streams["companies"][:2]
    sync.ok()

    assert ["c0", "c1"] == [id_ for _, id_, _ in ids(sync)]


def test_an_id_that_is_no_key(sync: Sync, source: ListSource) -> None:
    """
    A row that is of another id from now on: the one that it had has left, unless another row has it. An empty id is nobody's, and
    one that no index takes stops no page.
    """
    source.size = 10
    sync.transform = "SELECT key AS id, data ->> 'of' AS of, data ->> 'website' AS website, data ->> 'email' AS email FROM records"
    sync.identity = [{**identity("companies"), "id": "of"}]
    first = [
        {**one, "of": of}
        for one, of in zip(companies(0, 0, 2, 3, 4), ("a", "b", "b", "", "".join(map(chr, range(0x4E00, 0x6000)))), strict=True)
    ]
    for number, one in enumerate(first):
        one["id"] = f"row{number}"
    first[2]["website"] = first[1]["website"]
    source.streams["companies"] = first
    sync.ok()
    assert ["a", "b"] == [id_ for _, id_, _ in ids(sync)]

    source.streams["companies"] = [{**first[0], "of": "c"}, {**first[1], "of": "d"}, *first[2:]]
    will = foreseen(sync)
    sync.ok()

    assert [("map", "c", None, "example0.org"), ("map", "d", None, "example0.org"), ("unmap", "a", "example0.org", None)] == will
    assert ["b", "c", "d"] == [id_ for _, id_, _ in ids(sync)]


def test_crowded_by_another_step(sync: Sync, source: ListSource) -> None:
    """
    A domain that is crowded in an app by what another job brings: who was of it here is decided by the next rule, with the next run.
    """
    source.size = 10
    sync.identity = [identity("companies", max_ids=3)]
    source.streams["companies"] = companies(0, 1, domain="example.org")
    sync.ok()
    shop = ListSource({"companies": companies(2, 3, domain="example.org")})
    other = Sync(shop, sync.target, {"table": "of_shop"}, sync.transform, sync.identity, name="shop")

    other.ok()
    sync.ok()

    assert [("crm.companies", f"c{n}", f"example{n}.net") for n in range(4)] == ids(sync)
    before = sync.ask("SELECT xmin, ctid FROM usersync.identities")
    other.ok()
    sync.ok()
    assert before == sync.ask("SELECT xmin, ctid FROM usersync.identities")
