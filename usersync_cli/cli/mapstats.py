"""The numbers of the map as `usersync mappings stats` prints them for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from usersync_cli.cli.people import cell, grid
from usersync_cli.cli.text import plural


def stats_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """All numbers, in tables."""
    customers = found["customers"]
    yield f"{plural(customers['customers'], 'customer')}, and {customers['merged']:,} merged into one of them"
    yield from _table("apps", ["app", "mappings", "pinned", "closed", "ids", "without customer", "customers", "without id"], [
        [one["app"], one["mappings"], one["pinned"], one["closed"], one["ids"], one["ids_without_customer"], one["customers"],
         one["customers_without_id"]] for one in found["apps"]
    ])  # fmt: skip
    for one in found["apps"]:
        for table in one["tables_gone"]:
            yield f"  {cell(one['app'])}: the table {cell(table)} that fills it is gone"
    rules = [[one["app"], one["rule"] or "by hand", one["mappings"]] for one in found["rules"]]
    yield from _table("decided by", ["app", "rule", "mappings"], rules)
    yield from _table("closed", ["app", "because", "mappings"], [[one["app"], one["because"], one["mappings"]] for one in found["closed"]])
    yield from _table(
        "sizes", ["ids of a customer", "customers", "ids"], [[_upto(one), one["customers"], one["ids"]] for one in found["sizes"]]
    )
    yield from _table("largest", ["customer", "ids"], [[one["domain"] or one["uuid"], one["ids"]] for one in found["largest"]])
    columns = ("app", "kind", "open", "days_1", "days_7", "days_30", "older")
    conflicts = [[one[name] for name in columns] for one in found["conflicts"]]
    yield from _table("open conflicts, by age", ["app", "kind", "open", "1 day", "7 days", "30 days", "older"], conflicts)
    crowded = [[one["app"], one["domain"], one["ids"], one["since"][:10]] for one in found["crowded_domains"]]
    yield from _table("crowded domains, which identify nobody", ["app", "domain", "ids", "since"], crowded)


def _upto(one: Mapping[str, Any]) -> str:
    return {1: "1", 10: "2 to 10", 100: "11 to 100"}.get(one["ids_up_to"], "more than 100")


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    if rows:
        yield ""
        yield f"{title}:"
        for line in grid(head, [[f"{one:,}" if isinstance(one, int) else cell(one) or "-" for one in row] for row in rows]):
            yield f"  {line}"
