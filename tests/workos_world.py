"""What a WorkOS environment holds, as its specification says: objects, and a log of events in which much is missing.

Changes that have no event, several changes at one moment, and event documents that are poorer than the list's are on purpose.
Everybody in it is a `Test User`; `SECRET` is in each document that has a secret.
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

Document = dict[str, Any]
SECRET = "a-secret-of-workos-to-look-for"
SECRETS = {"verification_token", "verification_prefix", "token", "accept_invitation_url"}
PREFIXES = {
    "users": "user",
    "organizations": "org",
    "organization_memberships": "om",
    "directories": "directory",
    "directory_users": "directory_user",
    "directory_groups": "directory_group",
    "connections": "conn",
    "roles": "role",
    "invitations": "invitation",
}
# How the events of a stream begin, and which end them.
EVENTS = {
    "users": ("user", "created", "updated", "deleted"),
    "organizations": ("organization", "created", "updated", "deleted"),
    "organization_memberships": ("organization_membership", "created", "updated", "deleted"),
    "directories": ("dsync", "activated", "deactivated", "deleted"),
    "directory_users": ("dsync.user", "created", "updated", "deleted"),
    "directory_groups": ("dsync.group", "created", "updated", "deleted"),
    "connections": ("connection", "activated", "deactivated", "deleted"),
    "roles": ("role", "created", "updated", "deleted"),
    "invitations": ("invitation", "created", "accepted", "revoked"),
}
# What only lists and requests by id have [spec]: events of memberships lack the person, those of roles even the id.
ONLY_LISTED: dict[str, Collection[str]] = {
    "organization_memberships": ("user", "organization_name", "roles"),
    "organizations": ("allow_profiles_outside_organization",),
    "directories": ("metadata",),
    "directory_users": ("groups",),
    "connections": ("options",),
    "roles": ("id", "name", "description", "type"),
    "invitations": ("token", "accept_invitation_url"),
}


def text(moment: datetime) -> str:
    """As WorkOS writes it: milliseconds, Z."""
    moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


@dataclass
class World:
    """One environment. `frozen` stops its clock, so that everything happens in one millisecond; `ahead` is the clock's error."""

    name: str = "TEST"
    ahead: timedelta = timedelta()
    frozen: datetime | None = None
    cascades: bool = True  # what goes with an organization or user has events of its own
    poorer: bool = True
    streams: dict[str, dict[str, Document]] = field(default_factory=lambda: {stream: {} for stream in PREFIXES})
    log: list[Document] = field(default_factory=list)  # oldest first
    forgotten: int = 0  # events that are older than the retention

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self._number = 0
        self._served: Counter[str] = Counter()  # how often each object was shown
        self._last = datetime(1970, 1, 1, tzinfo=UTC)

    # time and names

    def now(self) -> datetime:
        """The server's clock."""
        return self.frozen or datetime.now(UTC) + self.ahead

    def moment(self) -> str:
        """Of a change: a millisecond after the one before, or later; at the same one while the clock stands still."""
        if self.frozen is None:
            self._last = max(self.now(), self._last + timedelta(milliseconds=1))
        return text(self.frozen or self._last)

    def id(self, prefix: str) -> str:
        """A new one; they sort as they were made."""
        self._number += 1
        return f"{prefix}_01{self.name}{self._number:0{24 - len(self.name)}d}"

    # any stream

    def create(self, stream: str, **fields: Any) -> str:
        """A new object, with its event; its id."""
        with self.lock:
            id_ = self.id(PREFIXES[stream])
            at = self.moment()
            object_ = "directory" if stream == "directories" else stream.removesuffix("s")
            self.streams[stream][id_] = {"object": object_, "id": id_, **fields, "created_at": at, "updated_at": at}
            self._tell(stream, 1, id_)
        return id_

    def update(self, stream: str, id_: str, *, event: bool = True, at: datetime | None = None, **fields: Any) -> None:
        """New values. Without `event` nobody is told, and `updated_at` stays; `at` is another time than now for `updated_at`."""
        with self.lock:
            document = self.streams[stream][id_]
            document |= fields
            if event:
                document["updated_at"] = text(at) if at else self.moment()
                self._tell(stream, 2, id_)

    def delete(self, stream: str, id_: str, *, event: bool = True) -> None:
        """Gone. Its event says what it was like, with the `updated_at` of its last change."""
        with self.lock:
            if event:
                self._tell(stream, 3, id_)
            del self.streams[stream][id_]

    def ids(self, stream: str) -> list[str]:
        """All that are there, in the order in which they were made."""
        return list(self.streams[stream])

    # users

    def create_user(self, email: str = "", **fields: Any) -> str:
        number = self._number + 1
        names = {"first_name": "Test", "last_name": f"User {number}", "name": f"Test User {number}"}
        rest = {"email_verified": False, "profile_picture_url": None, "last_sign_in_at": None, "external_id": None}
        email = email or f"user{number}@test.example"
        return self.create("users", **{"email": email, **names, **rest, "metadata": {}, "locale": None, **fields})

    def update_user(self, id_: str, **fields: Any) -> None:
        self.update("users", id_, **fields)

    def delete_user(self, id_: str) -> None:
        """And the memberships, told or not."""
        with self.lock:
            self._leave("user_id", id_)
            self.delete("users", id_)

    def sign_in(self, id_: str, at: datetime | None = None) -> None:
        """Moves `last_sign_in_at`: no event of the user, and `updated_at` stays. The session has an event that is no object of ours."""
        with self.lock:
            self.update("users", id_, event=False, last_sign_in_at=text(at or self.now()))
            data = {"type": "password", "status": "succeeded", "user_id": id_, "email": self.streams["users"][id_]["email"]}
            self.tell("authentication.password_succeeded", {**data, "ip_address": "192.0.2.1", "user_agent": "test"})

    # organizations

    def create_organization(self, name: str = "", domains: Sequence[str] = (), **fields: Any) -> str:
        """With domains: `organization.created` says that there are none, each has an event, all at the same `updated_at`."""
        with self.lock, self.one_moment():
            rest = {"external_id": None, "metadata": {}, "stripe_customer_id": None, "allow_profiles_outside_organization": False}
            id_ = self.create("organizations", name=name or f"Test Organization {self._number + 1}", domains=[], **{**rest, **fields})
            for domain in domains:
                self.add_domain(id_, domain, state="verified")
        return id_

    def update_organization(self, id_: str, **fields: Any) -> None:
        self.update("organizations", id_, **fields)

    def add_domain(self, organization: str, domain: str, state: str = "pending") -> str:
        """Nothing is said for the organization, and its `updated_at` stays."""
        with self.lock:
            at, id_ = self.moment(), self.id("org_domain")
            made = {"object": "organization_domain", "id": id_, "organization_id": organization, "domain": domain, "state": state}
            secrets = {"verification_strategy": "dns", "verification_token": SECRET, "verification_prefix": f"{SECRET}-prefix"}
            self._domains(organization).append({**made, **secrets, "created_at": at, "updated_at": at})
            self.tell("organization_domain.created", self._domains(organization)[-1])
        return id_

    def verify_domain(self, organization: str, id_: str) -> None:
        with self.lock:
            domain = next(one for one in self._domains(organization) if one["id"] == id_)
            domain |= {"state": "verified", "updated_at": self.moment()}
            self.tell("organization_domain.verified", domain)

    def fail_domain(self, organization: str, id_: str) -> None:
        """Its event has the domain one level deeper [spec]."""
        with self.lock:
            domain = next(one for one in self._domains(organization) if one["id"] == id_)
            domain |= {"state": "failed", "updated_at": self.moment()}
            reason = "domain_verification_period_expired"
            self.tell("organization_domain.verification_failed", {"reason": reason, "organization_domain": domain})

    def delete_domain(self, organization: str, id_: str) -> None:
        with self.lock:
            domain = next(one for one in self._domains(organization) if one["id"] == id_)
            self._domains(organization).remove(domain)
            self.tell("organization_domain.deleted", domain)

    def delete_organization(self, id_: str) -> None:
        """And its domains and memberships, told or not."""
        with self.lock:
            for domain in list(self._domains(id_)) if self.cascades else ():
                self.delete_domain(id_, domain["id"])
            self._leave("organization_id", id_)
            self.delete("organizations", id_)

    # memberships

    def create_membership(self, user: str, organization: str, role: str = "member", status: str = "active", **fields: Any) -> str:
        roles = [{"slug": role}, {"slug": "everybody"}]
        own = {"user_id": user, "organization_id": organization, "status": status, "role": {"slug": role}, "roles": roles}
        return self.create("organization_memberships", **{**own, "directory_managed": False, "custom_attributes": {}, **fields})

    def update_membership(self, id_: str, **fields: Any) -> None:
        self.update("organization_memberships", id_, **fields)

    def deactivate(self, id_: str) -> None:
        self.update("organization_memberships", id_, status="inactive")

    def reactivate(self, id_: str) -> None:
        self.update("organization_memberships", id_, status="active")

    def delete_membership(self, id_: str) -> None:
        self.delete("organization_memberships", id_)

    # directories and others

    def create_directory(self, organization: str, **fields: Any) -> str:
        own = {"organization_id": organization, "external_key": "test-key", "type": "okta scim v2.0", "state": "linked"}
        more = {"name": "Test Directory", "domain": "test.example", "metadata": {"users": {"active": 0, "inactive": 0}, "groups": 0}}
        return self.create("directories", **{**own, **more, **fields})

    def create_directory_user(self, directory: str, **fields: Any) -> str:
        number = self._number + 1
        own = {
            "directory_id": directory,
            "organization_id": self.streams["directories"][directory]["organization_id"],
            "idp_id": str(number),
        }
        names = {"email": f"user{number}@test.example", "first_name": "Test", "last_name": f"User {number}", "state": "active"}
        more = {"raw_attributes": {}, "custom_attributes": {}, "role": {"slug": "member"}, "groups": []}
        return self.create("directory_users", **{**own, **names, **more, **fields})

    def create_directory_group(self, directory: str, **fields: Any) -> str:
        own = {"directory_id": directory, "organization_id": self.streams["directories"][directory]["organization_id"]}
        return self.create(
            "directory_groups", **{**own, "idp_id": str(self._number + 1), "name": "Test Group", "raw_attributes": {}, **fields}
        )

    def create_connection(self, organization: str, **fields: Any) -> str:
        own = {"organization_id": organization, "connection_type": "OktaSAML", "name": "Test SSO", "state": "active", "status": "linked"}
        return self.create("connections", **{**own, "domains": [], "options": {"signing_cert": None}, **fields})

    def create_role(self, slug: str, **fields: Any) -> str:
        own = {"slug": slug, "name": slug.title(), "description": None, "type": "EnvironmentRole", "resource_type_slug": "organization"}
        return self.create("roles", **{**own, "permissions": [], **fields})

    def create_invitation(self, email: str = "", **fields: Any) -> str:
        own = {"email": email or f"invited{self._number}@test.example", "state": "pending", "accepted_at": None, "revoked_at": None}
        more = {"organization_id": None, "inviter_user_id": None, "accepted_user_id": None, "token": SECRET}
        secret = {"expires_at": self.moment(), "accept_invitation_url": f"https://test.example/?invitation_token={SECRET}"}
        return self.create("invitations", **{**own, **more, **secret, **fields})

    # the log

    def tell(self, event: str, data: Any, *, at: datetime | None = None) -> str:
        """One more event, whatever it says; its id."""
        with self.lock:
            id_ = self.id("event")
            whole = {
                "object": "event",
                "id": id_,
                "event": event,
                "data": copy.deepcopy(data),
                "created_at": text(at) if at else self.moment(),
            }
            self.log.append(whole)
        return id_

    def replay(self, position: int = 0) -> str:
        """An event's document once more, in a new event: an older update comes after what it was older than."""
        return self.tell(self.log[position]["event"], self.log[position]["data"])

    def forget(self, count: int | None = None) -> None:
        """The oldest events are over the retention; without a count all."""
        with self.lock:
            count = len(self.log) if count is None else count
            self.forgotten += count
            del self.log[:count]

    def one_moment(self) -> _Frozen:
        """`with world.one_moment():` all in it happens in one millisecond."""
        return _Frozen(self)

    # what is there

    def listed(self, stream: str, id_: str) -> Document:
        """As a list and a request by id show it; domains and roles in another order each time."""
        with self.lock:
            document = copy.deepcopy(self.streams[stream][id_])
            if stream == "organization_memberships":
                organization = self.streams["organizations"].get(document["organization_id"])
                user = self.streams["users"].get(document["user_id"])
                document["organization_name"] = organization and organization["name"]
                document["user"] = user and copy.deepcopy(user)
            self._served[id_] += 1
            for name in ("domains", "roles"):
                if document.get(name):
                    turn = self._served[id_] % len(document[name])
                    document[name] = document[name][turn:] + document[name][:turn]
        return document

    def truth(self, stream: str) -> dict[str, Document]:
        """What the table of a stream should hold, by id: what the list shows, without secrets, sets in the order of their ids."""
        with self.lock:
            return {id_: canonical(self.listed(stream, id_)) for id_ in self.streams[stream]}

    # private

    def _domains(self, organization: str) -> list[Document]:
        domains: list[Document] = self.streams["organizations"][organization]["domains"]
        return domains

    def _leave(self, field: str, id_: str) -> None:
        for membership in [one for one in self.streams["organization_memberships"].values() if one[field] == id_]:
            self.delete("organization_memberships", membership["id"], event=self.cascades)

    def _tell(self, stream: str, which: int, id_: str) -> None:
        document = dict(self.streams[stream][id_])
        if self.poorer:
            for name in ONLY_LISTED.get(stream, ()):
                document.pop(name, None)
        self.tell(f"{EVENTS[stream][0]}.{EVENTS[stream][which]}", document)


@dataclass
class _Frozen:
    """The clock stands still while this is open."""

    world: World
    before: datetime | None = None

    def __enter__(self) -> None:
        self.before = self.world.frozen
        self.world.frozen = datetime.fromisoformat(self.world.moment())

    def __exit__(self, *_: object) -> None:
        self.world.frozen = self.before


def canonical(document: Any) -> Any:
    """Without secrets, at any depth; `domains` by id and `roles` by slug."""
    if isinstance(document, list):
        return [canonical(one) for one in document]
    if not isinstance(document, Mapping):
        return document
    kept = {name: canonical(value) for name, value in document.items() if name not in SECRETS}
    for name, by in (("domains", "id"), ("roles", "slug")):
        if isinstance(kept.get(name), list):
            kept[name] = sorted(kept[name], key=lambda one: str(one[by]))
    return kept
