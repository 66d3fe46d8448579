"""One realm of a Keycloak 26, as a service account sees it: what can be asked of it and done to it, without its traps.

Each trap was seen on a real server; tests/targets/keycloak/test_realm.py has them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import msgspec

from usersync_cli.clients.http.client import Client, Unknown
from usersync_cli.errors import ConfigError, Unavailable
from usersync_cli.signals import Stop
from usersync_cli.targets.keycloak.refusals import Denied, Gone, NameTaken, Rejected, ServiceAccount

__all__ = ["PAGE", "WALKS", "Denied", "Gone", "NameTaken", "Realm", "Rejected", "Unknown"]

PAGE = 1000  # Keycloak has no upper limit; 3,805 accounts took 0.4 s so, and 2.8 s in pages of 100
WALKS = 3  # through a list that changes meanwhile
LINK_LIFE = timedelta(hours=24)
_ADMINS_ONLY = {"view": ["admin"], "edit": ["admin"]}

Document = Mapping[str, Any]


class Realm:
    """The client of one realm; thread-safe. Each request is over within `deadline`, its repetitions included; `stop` ends it at once.

    Every method raises ConfigError for what a person has to fix: the address, the realm, the client, its secret, and, as
    Denied, a right of its service account. Unavailable: Keycloak does not answer. Unknown, which is an Unavailable too: it
    does not say whether it did what it was asked to do.
    """

    def __init__(  # noqa: PLR0913  all but the first four have a default, or are named
        self,
        url: str,
        realm: str,
        client_id: str,
        client_secret: str,
        *,
        stop: Stop,
        ca: Path | None = None,
        name: str = "target keycloak",
        deadline: timedelta = timedelta(seconds=60),
        login_realm: str | None = None,
    ) -> None:
        # With python-keycloak, which takes half a second: only who talks to Keycloak pays that.
        from keycloak import KeycloakAdmin

        from usersync_cli.targets.keycloak.admin import AdminConnection

        self.name = name
        self._account = ServiceAccount(name, realm, login_realm or realm, client_id, client_secret)
        self._client = Client(url, name=name, stop=stop, ca=ca, deadline=deadline)
        self._connection = AdminConnection(self._account, self._client, stop)
        self._admin = KeycloakAdmin(connection=self._connection)
        self._path = f"admin/realms/{self._connection.realm_name}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    # the realm

    def about(self) -> Document:
        """The realm's own settings: id, duplicateEmailsAllowed, editUsernameAllowed, smtpServer, ..."""
        found = self._get("")
        if "id" not in found:  # a few fields are for everybody, with 200
            raise self._account.denied("view-realm")
        return dict(found)

    def count(self) -> int:
        """How many accounts there are, without those of services."""
        return int(self._get("/users/count"))

    def users(self, size: int = PAGE) -> Iterator[Sequence[Document]]:
        """The whole representations of all accounts, without roles and groups, each once, page by page in order of user names.

        Nobody who is there all the time is left out, whatever changes meanwhile: pages overlap by one account, and a walk
        whose pages do not meet, or which found fewer than Keycloak counts, is done again for those who are missing.
        A service account that may not see everybody is an error too: to Keycloak that is an empty list, with 200.
        """
        known: set[str] = set()
        counted = -1
        for _ in range(WALKS):
            walk = _OverlappingPages(self._pages("/users", size, briefRepresentation="false"), size)
            yield from walk.new(known)
            before, counted = counted, self.count()
            if walk.met and walk.seen >= counted:
                return
            if walk.met and before == counted:
                raise self._blind(walk.seen, counted)
        raise self._changing()

    def refuse_blindness(self) -> None:
        """Raise Denied when no account is shown although there are some: with too few rights, Keycloak answers 200 with an empty list."""
        if not self._get("/users", first=0, max=1) and (counted := self.count()):
            raise self._blind(0, counted)

    def rights(self) -> Collection[str] | None:
        """The client roles over this realm that our token has; None where it does not list any, or where others may count."""
        return None if self._get("").get("adminPermissionsEnabled") else self._connection.rights()

    def lacking(self, *rights: str) -> Denied | None:
        """The first of these rights that the service account lacks, as far as can be known."""
        found = self.rights()
        return next((self._account.denied(right) for right in rights if right not in found), None) if found is not None else None

    def roles(self) -> Sequence[Document]:
        """All roles of the realm: id, name, composite, ..."""
        return [role for page in self._all("/roles", PAGE) for role in page]

    def role_members(self, name: str, size: int = PAGE) -> Iterator[Sequence[str]]:
        """The ids of the accounts that were given this role directly. Raises Rejected (no_role) when there is no such role."""
        for page in self._all(f"/roles/{quote(name, safe='')}/users", size, briefRepresentation="true"):
            yield [str(user["id"]) for user in page]

    def group(self, path: str) -> Document | None:
        """The group with exactly this path; None when there is none."""
        names = path.strip("/").split("/")
        try:
            found = self._admin.get_group_by_path("/".join(quote(name, safe="") for name in names))
        except Rejected as rejected:
            if rejected.code == "no_group":
                return None
            raise
        return found if found["path"].strip("/") == path.strip("/") else None

    def group_ids(self, paths: Sequence[str]) -> Mapping[str, str]:
        """The ids of those of these groups that are there, by path; one list has all of the top level."""
        top = [path for path in paths if path.strip("/").count("/") == 0]
        pages = self._all("/groups", PAGE, briefRepresentation="true") if top else ()
        there = {f"/{group['name']}": str(group["id"]) for page in pages for group in page}
        found = {path: there[path] for path in top if path in there}
        return found | {path: str(group["id"]) for path in paths if path not in top and (group := self.group(path))}

    def group_members(self, id: str, size: int = PAGE) -> Iterator[Sequence[str]]:  # noqa: A002  what it is
        """The ids of the accounts in this very group. Raises Rejected (no_group) when there is no such group."""
        for page in self._all(f"/groups/{quote(id, safe='')}/members", size, briefRepresentation="true"):
            yield [str(user["id"]) for user in page]

    def required_actions(self) -> Sequence[Document]:
        """What the realm can ask people for: alias, name, enabled, defaultAction, ... Others are dropped without a word."""
        return self._admin.get_required_actions()

    def profile(self) -> Document:
        """The user profile: which attributes there are, and who may see and change them."""
        return self._admin.get_realm_users_profile()

    # one account

    def get(self, id: str) -> Document | None:  # noqa: A002
        """The whole representation; None when there is no such account."""
        try:
            return dict(self._get(f"/users/{quote(id, safe='')}"))
        except Gone:
            return None

    def find(self, *, username: str = "", email: str = "", attribute: tuple[str, str] | None = None) -> Sequence[Document]:
        """The accounts that have exactly this, in any case for names and addresses; an attribute's value to the letter."""
        if attribute:
            name, value = attribute
            if '"' in name + value:
                raise ConfigError(f"{self.name}: Keycloak can't look for an id with a quotation mark in it", hint="choose another id")
            found = self._found(q=f'"{name}":"{value}"')
            return [user for user in found if value in user.get("attributes", {}).get(name, [])]
        field, value = ("username", username) if username else ("email", email)
        if not value:
            raise ConfigError(f"{self.name}: there is no name to look for", hint="name the account by its user name, or by its id")
        found = self._found(**{field: value, "exact": "true"})
        return [user for user in found if str(user.get(field, "")).casefold() == value.casefold()]

    def user_roles(self, id: str) -> Sequence[Document]:  # noqa: A002
        """Roles of the realm that the account was given directly. Raises Gone."""
        return self._admin.get_realm_roles_of_user(quote(id, safe=""))

    def user_groups(self, id: str) -> Sequence[Document]:  # noqa: A002
        """Groups that the account is in: id, name, path. Raises Gone."""
        return [group for page in self._all(f"/users/{quote(id, safe='')}/groups", PAGE) for group in page]

    def create(self, user: Document) -> str:
        """Make an account; returns its id. Sent once: Unknown means that it may be there.

        Without `enabled` it is disabled. Roles of the body are ignored by Keycloak, and refused here. A group that does not
        exist is Rejected (unknown_error). Raises NameTaken, Rejected.
        """
        if {"realmRoles", "clientRoles"} & user.keys():
            raise AssertionError("Keycloak ignores the roles of a new account: add_roles gives them")
        return self._admin.create_user(dict(user))

    def update(self, id: str, changes: Document) -> None:  # noqa: A002
        """Change these fields and no others. Raises Gone, NameTaken, Rejected."""
        if "attributes" in changes:
            raise AssertionError("a body with attributes clears what it lacks: replace() changes them")
        self._admin.update_user(quote(id, safe=""), dict(changes))

    def replace(self, id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Document:  # noqa: A002
        """What `change` makes of the whole representation, and how it stands there afterwards: Keycloak drops what it does not know.

        Three requests. Whatever somebody else changed between the first two is lost. Raises Gone, NameTaken, Rejected.
        """
        path = f"/users/{quote(id, safe='')}"
        self._admin.update_user(quote(id, safe=""), change(dict(self._get(path))))
        return dict(self._get(path))

    def add_roles(self, id: str, roles: Sequence[Document]) -> None:  # noqa: A002
        """Give these roles of `roles()`; one that the account has stays. Raises Gone, Rejected (no_role)."""
        self._admin.assign_realm_roles(quote(id, safe=""), [_role(role) for role in _some(roles)])

    def remove_roles(self, id: str, roles: Sequence[Document]) -> None:  # noqa: A002
        """Take these roles away; one that the account does not have is ignored. Raises Gone, Rejected (no_role)."""
        self._admin.delete_realm_roles_of_user(quote(id, safe=""), [_role(role) for role in _some(roles)])

    def join(self, id: str, group_id: str) -> None:  # noqa: A002
        """Add the account to a group. Raises Gone, Rejected (no_group)."""
        self._admin.group_user_add(quote(id, safe=""), quote(group_id, safe=""))

    def leave(self, id: str, group_id: str) -> None:  # noqa: A002
        """Take the account out of a group. Raises Gone, Rejected (no_group)."""
        self._admin.group_user_remove(quote(id, safe=""), quote(group_id, safe=""))

    def logout(self, id: str) -> None:  # noqa: A002
        """End the account's sessions, which go on when it is disabled. Raises Gone."""
        self._admin.user_logout(quote(id, safe=""))

    def reset_password(self, id: str, value: str, *, temporary: bool = True) -> None:  # noqa: A002
        """Set a password. Sent once: a realm may remember passwords. Raises Gone, Rejected."""
        self._admin.set_user_password(quote(id, safe=""), value, temporary=temporary)

    def send_actions(self, id: str, actions: Sequence[str], lifespan: timedelta = LINK_LIFE) -> None:  # noqa: A002
        """Mail a link to do these actions. Sent once: Unknown means that there may be a mail. Unavailable: the mail server took none.

        Raises Gone, Rejected (no_email, disabled, unknown_action).
        """
        self._admin.send_update_account(quote(id, safe=""), list(actions), lifespan=int(lifespan.total_seconds()))

    # what a realm needs; the service account needs manage-realm, for groups manage-users

    def create_role(self, name: str) -> None:
        """Make a role; one that exists already is fine."""
        self._made("role_exists", lambda: self._admin.create_realm_role({"name": name}))

    def create_group(self, path: str) -> Document:
        """Make the group with this path, and those above it; what exists already is fine."""
        found, above = self.group(path), path.strip("/").rpartition("/")[0]
        if found is None:
            parent = str(self.create_group(above)["id"]) if above else None
            name = path.strip("/").rpartition("/")[2]
            self._made("group_exists", lambda: self._admin.create_group({"name": name}, parent=parent))
            found = self.group(path)
        if found is None:
            raise Unavailable(f"{self.name}: a group that was just made is not there", hint="the next run tries again")
        return found

    def declare(self, attribute: str) -> None:
        """Add an attribute to the user profile, for admins alone. Keycloak drops attributes that the profile lacks without a word."""
        profile = dict(self.profile())
        attributes = profile.get("attributes", [])
        if attribute not in {known["name"] for known in attributes}:
            own = {"name": attribute, "permissions": _ADMINS_ONLY, "multivalued": False}
            self._admin.update_realm_users_profile({**profile, "attributes": [*attributes, own]})

    # how

    def _get(self, path: str, **params: Any) -> Any:
        return msgspec.json.decode(self._connection.send("GET", self._path + path, params=params).body)

    def _found(self, **params: Any) -> list[Document]:
        return list(self._get("/users", **params, max=PAGE, briefRepresentation="false"))

    def _pages(self, path: str, size: int, **params: Any) -> Iterator[Sequence[Document]]:
        """Pages of `size` that overlap by one record: only so is it certain that none slipped away between two."""
        for first in range(0, 10**9, size - 1):
            page = self._get(path, first=first, max=size, **params)
            yield page
            if len(page) < size:
                return

    def _all(self, path: str, size: int, **params: Any) -> Iterator[Sequence[Document]]:
        """Every record of a list that nobody counts, once; again when it changed meanwhile, for those that are missing."""
        known: set[str] = set()
        for _ in range(WALKS):
            walk = _OverlappingPages(self._pages(path, size, **params), size)
            yield from walk.new(known)
            if walk.met:
                return
        raise self._changing()

    def _blind(self, shown: int, counted: int) -> Denied:
        return Denied(
            f"{self.name} shows {shown:,} of {counted:,} accounts to the service account of {self._account.client_id}",
            right="view-users",
            hint="it needs the client role manage-users, or view-users to read alone",
        )

    def _changing(self) -> Unavailable:
        return Unavailable(
            f"{self.name}: the realm changed while it was read, {WALKS} times in a row",
            hint="nothing was lost; the next run tries again: does another program write there?",
        )

    def _made(self, exists: str, make: Callable[[], Any]) -> None:
        try:
            make()
        except Rejected as rejected:
            if rejected.code != exists:
                raise


class _OverlappingPages:
    """A walk through the overlapping pages of a list. `met` is true afterwards if each page began where the one before ended."""

    def __init__(self, pages: Iterator[Sequence[Document]], size: int) -> None:
        if size < 2:
            raise ValueError("pages that overlap hold two records at least")
        self._pages = pages
        self.met = True
        self.seen = 0

    def new(self, known: set[str]) -> Iterator[Sequence[Document]]:
        """The records that are not in `known` yet, page by page; they are afterwards."""
        seen: set[str] = set()
        last = None
        for page in self._pages:
            ids = [str(record["id"]) for record in page]
            # Further right than first, when somebody came in before it: nobody is hidden by that.
            self.met = self.met and (last is None or last in ids)
            last = ids[-1] if ids else last
            fresh = [record for record, id_ in zip(page, ids, strict=True) if id_ not in known]
            known.update(ids)
            seen.update(ids)
            if fresh:
                yield fresh
        self.seen = len(seen)


def _some(roles: Sequence[Document]) -> Sequence[Document]:
    if not roles:
        raise AssertionError("a request without roles takes away all that the account has")
    return roles


def _role(role: Document) -> dict[str, Any]:
    """The role as Keycloak wants it in a request: id and name have to fit, or it knows no such role."""
    return {"id": role["id"], "name": role["name"]}
