"""What Teamleader documents of each resource: its path, how its list is sorted, what its list and its documents have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Resource:
    """What Teamleader documents of one resource."""

    stream: str  # as the config file names it
    path: str
    sort: str  # the field that moves least
    ties: str = ""  # what sorts those of which it is the same
    scope: str = ""
    includes: str = ""  # what .list gives when asked; .info has it always
    since: bool = False  # .list takes updated_since
    latest: str = ""  # what sorts changes so that later ones come last
    versioned: bool = False  # its documents have updated_at
    steady: bool = True  # sorted by `sort`, new records come last
    whole: bool = False  # .list has all that .info has
    paged: bool = True
    by_ids: bool = True  # .list takes ids
    guess: int = 2  # pages, while nobody knows

    @property
    def called(self) -> str:
        return self.path.rpartition("/")[2]


_PEOPLE: dict[str, Any] = {
    "sort": "added_at", "ties": "name", "includes": "custom_fields", "since": True, "latest": "updated_at", "versioned": True,
}  # fmt: skip
_ALL = (
    Resource("companies", "companies", scope="companies", guess=5, **_PEOPLE),
    Resource("contacts", "contacts", scope="contacts", guess=10, **_PEOPLE),
    Resource("custom_fields", "customFieldDefinitions", "label", "context", whole=True),
    Resource("departments", "departments", "name", scope="departments", paged=False),
    Resource("events", "events", "starts_at", scope="events"),  # its .info alone has links to work orders
    Resource("invoices", "invoices", "invoice_number", "invoice_date", "invoices", since=True, versioned=True, steady=False),
    Resource("projects", "projects", "created_at", "title", "projects", since=True, by_ids=False),
    Resource("users", "users", "email", "last_name", "users"),
)
RESOURCES = {resource.stream: resource for resource in _ALL}
NEW_PROJECTS = Resource("projects", "projects-v2/projects", "project_key", scope="projects", includes="custom_fields,pagination")
STREAMS = tuple(RESOURCES)
