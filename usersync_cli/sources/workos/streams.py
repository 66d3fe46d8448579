"""The streams of WorkOS: where each is listed, which events change it, and which of its fields every event carries.

Fields are those that the vendor's own SDK for Python, version 10.8, requires of an event's document.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from usersync_cli.sources.workos.types import TYPES

ARCHIVE = "events"
"""The stream that keeps the events themselves; it has no listing."""


class Kind(Enum):
    """What an event says about its object."""

    CHANGED = "its document is the object as it is now"
    DELETED = "the object is gone"
    RELATED = "something of the object has changed, which its document does not show: the object is read by its id"


@dataclass(frozen=True)
class Parent:
    """A list that has to be asked for one object after the other: of each record of another stream."""

    stream: str
    parameter: str  # names the record that the list is asked for
    field: str  # of a document: the key of that record


@dataclass(frozen=True)
class Resource:
    """A stream that has a list."""

    path: str  # of its list; an object is at path/key
    events: Mapping[str, Kind]  # types that are asked for
    told: frozenset[str]  # fields that every event carries, and that never change without one
    also: Mapping[str, Kind] = field(default_factory=dict)  # types of emulators and former versions: taken where they come
    key: str = "id"
    parent: Parent | None = None  # None: one list has all
    params: Mapping[str, str] = field(default_factory=dict)
    paged: bool = True  # False: one answer is the whole list


def _events(prefix: str, changed: str = "created updated", deleted: str = "deleted", related: str = "") -> dict[str, Kind]:
    """Types of events by what they say, such as user.created."""
    of = {Kind.CHANGED: changed, Kind.DELETED: deleted, Kind.RELATED: related}
    return {f"{prefix}.{name}": kind for kind, names in of.items() for name in names.split()}


_STAMPS = ("object", "id", "created_at", "updated_at")
_DOMAINS = "created updated deleted verified verification_failed"

STREAMS: Mapping[str, Resource] = {
    "users": Resource(
        "/user_management/users",
        _events("user"),
        frozenset((*_STAMPS, "email", "first_name", "last_name", "email_verified", "profile_picture_url", "external_id", "metadata")),
    ),
    "organizations": Resource(
        "/organizations",
        _events("organization") | _events("organization_domain", changed="", deleted="", related=_DOMAINS),
        frozenset((*_STAMPS, "name", "domains", "external_id", "metadata")),
    ),
    "organization_memberships": Resource(
        "/user_management/organization_memberships",
        _events("organization_membership"),
        frozenset((*_STAMPS, "user_id", "organization_id", "status", "role")),
        also=_events("organization_membership", changed="added", deleted="removed"),
        parent=Parent("organizations", "organization_id", "organization_id"),
        params={"statuses": "active,inactive,pending"},  # without it, only active ones
    ),
    "directories": Resource(
        "/directories",
        _events("dsync", changed="activated deactivated", deleted="deleted"),
        frozenset((*_STAMPS, "type", "state", "name")),
        also=_events("directory", changed="created updated activated"),
    ),
    "directory_users": Resource(
        "/directory_users",
        _events("dsync.user"),
        frozenset((*_STAMPS, "directory_id", "idp_id", "state", "email")),
        also=_events("directory_user"),
        parent=Parent("directories", "directory", "directory_id"),
    ),
    "directory_groups": Resource(
        "/directory_groups",
        _events("dsync.group"),
        frozenset((*_STAMPS, "directory_id", "idp_id", "name")),
        also=_events("directory_group"),
        parent=Parent("directories", "directory", "directory_id"),
    ),
    "connections": Resource(
        "/connections",
        _events("connection", changed="activated deactivated"),
        frozenset((*_STAMPS, "connection_type", "name", "state")),
        also=_events("connection"),
    ),
    "roles": Resource(
        "/authorization/roles",
        _events("role"),
        frozenset(("object", "slug", "created_at", "updated_at", "permissions")),
        key="slug",  # events have no id
        paged=False,
    ),
    "invitations": Resource(
        "/user_management/invitations",
        _events("invitation", changed="created accepted resent revoked", deleted=""),  # none where one expires, which changes `state`
        frozenset((*_STAMPS, "email", "accepted_at", "revoked_at", "organization_id", "inviter_user_id")),
        also=_events("invitation", changed="updated"),
    ),
}
NAMES = (*STREAMS, ARCHIVE)

OF_TYPE: Mapping[str, tuple[str, Kind]] = {
    type_: (name, kind) for name, resource in STREAMS.items() for type_, kind in (*resource.also.items(), *resource.events.items())
}
"""By type of event: which stream it is about, and what it says."""


def asked_types(streams: Collection[str], archived: Sequence[str]) -> list[str]:
    """The types of events to ask for, for these streams; `archived` are those of the archive."""
    found = [type_ for name in streams if name in STREAMS for type_ in STREAMS[name].events]
    return list(dict.fromkeys([*found, *((archived or TYPES) if ARCHIVE in streams else ())]))
