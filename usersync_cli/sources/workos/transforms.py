"""The columns that each stream's table has, and what is worth knowing about some of them. The SELECTs are in transforms.sql."""

from __future__ import annotations

from collections.abc import Mapping

from usersync_cli.clients.postgres.sql import statements
from usersync_cli.sources.workos.streams import ARCHIVE

_DOCUMENT = "the document as WorkOS gives it, without its secrets"
_DELETED = "when the event says it was deleted; NULL as long as WorkOS has it"
_RECONCILE = "no event reports when it changes: as fresh as the last complete listing (full_every of the source)"

COMMENTS: Mapping[str, Mapping[str, str]] = {
    "users": {"last_sign_in_at": _RECONCILE},
    "organizations": {"domains": "the names of its domains, verified or not; the document has their states"},
    "organization_memberships": {
        "organization_name": f"the organization's name; {_RECONCILE}",
        "status": "active, inactive or pending",
    },
    "directory_users": {"state": "active or inactive, as the directory says"},
    "invitations": {"state": f"pending, accepted, revoked or expired; of an invitation that expires, {_RECONCILE}"},
    "roles": {"id": "the role's slug: events of roles have no other id"},
    "events": {"created_at": "when it happened"},
}


def select_of(stream: str) -> str:
    """A SELECT over `records`."""
    return statements(__name__)[stream]


def comments_of(stream: str) -> Mapping[str, str]:
    """What COMMENT ON COLUMN says."""
    common = {"document": _DOCUMENT} if stream == ARCHIVE else {"document": _DOCUMENT, "deleted_at": _DELETED}
    return {**common, **COMMENTS.get(stream, {})}
