"""The target `keycloak`: the people of a realm, as accounts that are made, kept equal and disabled, never deleted.

The realm is read once into tables of the transaction; what differs is found in SQL, as one row of calls a person; they are
committed before the first call is made. Only roles and groups that the maps name are given or taken, and only what we gave
is taken. An account of somebody else is touched by rule alone (`adopt`); what no rule decides is a conflict for a person.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from psycopg import sql
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from usersync_cli import log
from usersync_cli.clients.postgres.arrays import texts
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.errors import ConfigError, Drift, UsersyncError
from usersync_cli.model import Change, Counts, Desired, Tools
from usersync_cli.settings import UNSET, Duration, FieldError
from usersync_cli.state import dispatch, ledger, outbox
from usersync_cli.state.outbox import Scope, Use
from usersync_cli.targets.keycloak.logins import IMPOSSIBLE, IMPOSSIBLE_HINT, is_possible, look_at_logins, mail_problem, no_account, policy
from usersync_cli.targets.keycloak.passwords import Policy
from usersync_cli.targets.keycloak.plan import deletes, differences, inventory, known, link, people, summary

if TYPE_CHECKING:
    from usersync_cli.signals import Stop
    from usersync_cli.targets.keycloak.realm import Realm

ATTRIBUTE = "usersync_id"  # of an account: whose it is
_FIELDS = {"email": "email", "firstName": "first_name", "lastName": "last_name"}
ROLES = {
    "Account Manager": "account-manager", "Loan Officer": "loan-officer", "Branch Manager": "branch-manager", "Accountant": "accountant",
    "Cashier": "teller", "System Administrator": "admin", "Super User": "Super User", "Admin": "admin", "Manager": "Manager",
    "Viewer": "Viewer", "KYC Manager": "KYC_MANAGER", "Asset Manager": "ASSET_MANAGER",
}  # fmt: skip
GROUPS = {
    "admin": "head-office", "Super User": "head-office", "Manager": "head-office", "Viewer": "head-office", "KYC_MANAGER": "head-office",
    "ASSET_MANAGER": "head-office", "staff": "head-office", "account-manager": "account-managers", "loan-officer": "loan-officers",
    "branch-manager": "branch-managers", "teller": "tellers",
}  # fmt: skip
ACTIONS = ("UPDATE_PASSWORD", "VERIFY_EMAIL", "webauthn-register")


class Settings(BaseModel):
    """A realm of a Keycloak 26, and the client that looks after its accounts."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["keycloak"]
    url: str = Field(description="of the server, such as https://sso.example.org; with /auth where it is an old one")
    realm: str = Field(min_length=1, description="whose accounts are looked after")
    client_id: str = Field(min_length=1, description="a client of the realm with a service account")
    client_secret: str = Field(min_length=1, repr=False, description="of that client")
    ca: str | None = Field(None, description="a file with the certificates to trust instead of the public ones")
    allow_http: bool = Field(default=False, description="http:// also to other hosts than this one")
    adopt: Literal["never", "by_username", "by_email_verified"] = Field(
        "never", description="which accounts of people that are there already become ours; of all others a person decides"
    )
    roles: dict[str, str] = Field(default_factory=lambda: dict(ROLES), description="source's role: realm role, in any case")
    groups: dict[str, str] = Field(default_factory=lambda: dict(GROUPS), description="realm role: group, a name or /path/to/it")
    default_role: str | None = Field(None, description="realm role for roles that the map lacks; without it they are conflicts")
    extra_roles: Literal["report", "remove"] = Field(
        "report", description="mapped roles and groups that somebody else gave: a conflict for a person, or taken away"
    )
    create_missing: bool = Field(default=False, description="make roles, groups and the attribute usersync_id where the realm lacks them")
    required_actions: list[str] = Field(default_factory=lambda: list(ACTIONS), description="of new accounts, at their first login")
    email_verified: bool = Field(default=True, description="take e-mail addresses for verified; then Keycloak asks nobody to VERIFY_EMAIL")
    notify: Literal["none", "email"] = Field("none", description="email: the realm mails new people a link to their required actions")
    link_lifespan: Duration = Field(
        timedelta(hours=24), description="how long the link in a mail is good", json_schema_extra={"default": "24h"}
    )
    workers: int = Field(4, ge=1, le=16, description="calls at the same time; the server hashes passwords on all of its cores")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value) and not value.startswith(UNSET):
            raise FieldError("must be an address such as https://sso.example.org")
        return value.rstrip("/")

    @field_validator("ca")
    @classmethod
    def _is_beside_the_config(cls, value: str | None, info: ValidationInfo) -> str | None:
        folder = (info.context or {}).get("folder")
        return str(Path(folder, value).absolute()) if folder and value and not value.startswith(UNSET) else value

    @field_validator("roles")
    @classmethod
    def _names_each_once(cls, value: dict[str, str]) -> dict[str, str]:
        seen: dict[str, str] = {}
        for name, role in value.items():
            if name.casefold() in seen:
                raise FieldError("is there twice: names of roles are compared without case", (name,))
            seen[name.casefold()] = role
            _refuse_default_roles(role, name)
        return value

    @field_validator("default_role")
    @classmethod
    def _is_no_default_role(cls, value: str | None) -> str | None:
        if value:
            _refuse_default_roles(value)
        return value

    @model_validator(mode="after")
    def _is_encrypted(self) -> Settings:
        host = re.match(r"http://(\[[^\]]*\]|[^/:]*)", self.url)
        if host and not self.allow_http and host[1] not in {"localhost", "127.0.0.1", "[::1]"}:
            said = "begins with http://: the client's secret could be read on its way; say https://, or allow_http: true"
            raise FieldError(said, ("url",))
        return self

    @property
    def managed_roles(self) -> list[str]:
        """Realm roles that may be given."""
        return list(dict.fromkeys([*self.roles.values(), *([self.default_role] if self.default_role else [])]))

    @property
    def managed_groups(self) -> list[str]:
        """Paths of groups that people may join."""
        return list(dict.fromkeys(_path(group) for group in self.groups.values()))


def _refuse_default_roles(role: str, *at: str) -> None:
    if role.startswith("default-roles-"):
        raise FieldError("is the role that Keycloak itself gives everybody; choose another", at)


def _path(group: str) -> str:
    return group if group.startswith("/") else f"/{group}"


def realm(name: str, settings: Settings, stop: Stop, deadline: timedelta = timedelta(seconds=60)) -> Realm:
    """The realm, to be closed; a token is asked for with the first call. `deadline` is each request's."""
    from usersync_cli.targets.keycloak.realm import Realm

    ca, own = Path(settings.ca) if settings.ca else None, (settings.client_id, settings.client_secret)
    return Realm(settings.url, settings.realm, *own, stop=stop, ca=ca, name=f"target {name}", deadline=deadline)


def place(settings: Settings) -> str:
    """What messages call the realm; the same for all ways to write its address."""
    parts = urlsplit(settings.url.lower())
    port = "" if parts.port in {None, {"http": 80, "https": 443}.get(parts.scheme)} else f":{parts.port}"
    return f"realm {settings.realm} of {parts.hostname}{port}{parts.path.rstrip('/')}"


@contextmanager
def opened(name: str, settings: Settings, use: Use, tools: Tools) -> Iterator[Target]:
    """The target for one step; nothing is contacted before it plans."""
    with realm(name, settings, tools.stop) as opened_:
        yield Target(name, settings, opened_, use)


@dataclass
class Plan:
    """The calls that make the realm equal; they stand in the transaction, or are rolled back with it. `counts` follows what is done."""

    counts: Counts
    scope: Scope
    roles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # name: representation
    groups: Mapping[str, str] = field(default_factory=dict)  # path: id
    lacking_roles: Sequence[str] = ()  # with create_missing: to be made first
    lacking_groups: Sequence[str] = ()
    passwords: Policy | None = None  # of first passwords; None where nobody is to know them, so that none are made
    problems: list[UsersyncError] = field(default_factory=list)  # what was not done, while all else is


@dataclass
class Seen:
    """What was read of the realm beside its accounts."""

    id: str
    duplicate_emails: bool
    editable_usernames: bool
    email_as_username: bool
    login_with_email: bool
    fields: Sequence[str]  # of e-mail address and names, those that we can write
    username_length: tuple[int, int]
    username_refused: str
    passwords: Policy
    mail_problem: tuple[str, str] | None  # why the first login of new people would fail, and what to do
    roles: Mapping[str, Mapping[str, Any]]
    groups: Mapping[str, str]


class Target:
    """The accounts of one step, in one run. `realm` is open for as long as this is used."""

    in_checkpoint = False

    def __init__(self, name: str, settings: Settings, realm: Realm, use: Use) -> None:
        self.name, self.settings, self.realm, self.use = name, settings, realm, use

    # plan

    def plan(self, desired: Desired, tx: Connection) -> Plan:
        """Stage, compare, write the calls down.

        The transaction then has the temp tables of `plan`: people, conflicts, planned, leaving. Raises Drift for
        columns that no account has, for roles and groups that the realm lacks, and where our attribute would be dropped.
        """
        read, distinct = people.stage_people(tx, desired.transform, self._columns(desired, tx), self.use.order_by)
        seen = self._look()
        scope = replace(self.use.scope, target=f"realm {seen.id}")
        there = ledger.current(tx) == ledger.VERSION
        outbox.recall(tx, scope, self.use.living, there=there)
        self._stage(tx, seen)
        self._want(tx)
        lacking = self._lacking(tx, seen)
        own = self.settings
        if there and not self.use.again:
            known.recall_refused(tx, vars(scope))
        link.link(tx, adopt=own.adopt, notify=own.notify == "email", realm=seen)
        if there:
            known.remember(tx, vars(scope))
        differences.differ(tx, self._values(seen))
        deletes.find(tx)
        obstacle, held = self._obstacle(seen), 0
        if obstacle and not (held := differences.hold_back(tx)):
            obstacle = None
        counts = summary.count(tx, read - held, distinct - held)
        if scope.run_id is not None:
            known.note_accounts(tx, vars(scope))
            deletes.sign_out(tx, vars(scope))
            outbox.write(tx, scope)
        passwords = seen.passwords if self.use.credentials else None
        return Plan(
            counts, scope, seen.roles, seen.groups, *lacking, passwords, [no_account(self.name, held, *obstacle)] if obstacle else []
        )

    def _obstacle(self, seen: Seen) -> tuple[str, str] | None:
        """What keeps every new account from being one that its person can log in to, and what to do."""
        if self.use.credentials and not is_possible(seen.passwords):
            return IMPOSSIBLE, IMPOSSIBLE_HINT
        return seen.mail_problem

    def _columns(self, desired: Desired, tx: Connection) -> Sequence[str]:
        """The transform's columns, if they are those of an account."""
        with tx.cursor() as cursor:
            cursor.execute(sql.SQL("SELECT * FROM ({}) AS q LIMIT 0").format(desired.transform))
            given = [column.name for column in cursor.description or ()]
        odd = [name for name in given if name not in people.COLUMNS and not name.startswith("_")]
        lacking = [name for name in ("id", "username") if name not in given]
        if odd or lacking:
            said = f"has no column {lacking[0]}" if lacking else f"has a column {odd[0]}, which no account of Keycloak has"
            raise Drift(f"target {self.name}: the transform {said}", hint=f"its columns: {', '.join(people.COLUMNS)}; others begin with _")
        return given

    def _look(self) -> Seen:
        """What the realm has and allows. Raises Drift or ConfigError where it would drop what we write."""
        own, about, profile = self.settings, self.realm.about(), self.realm.profile()
        problem = attribute_problem(profile)
        if problem and not (own.create_missing and problem is UNDECLARED):
            raise Drift(f"target {self.name}: {problem}", hint=ATTRIBUTE_HINT)
        if odd := actions_problem(own.required_actions, self.realm.required_actions()):
            raise ConfigError(f"target {self.name}: {odd[0]}", hint=odd[1])
        return Seen(
            id=str(about["id"]),
            duplicate_emails=bool(about.get("duplicateEmailsAllowed")),
            editable_usernames=bool(about.get("editUsernameAllowed")),
            email_as_username=bool(about.get("registrationEmailAsUsername")),
            login_with_email=bool(about.get("loginWithEmailAllowed")),
            fields=self._fields(profile),
            username_length=_username_length(profile),
            username_refused="".join(signs for rule, signs in link.REFUSED_SIGNS.items() if rule in _username_rules(profile)),
            passwords=policy(about),
            mail_problem=mail_problem(own, about),
            roles={str(role["name"]): role for role in self.realm.roles()},
            groups=self.realm.group_ids(own.managed_groups),
        )

    def _fields(self, profile: Mapping[str, Any]) -> Sequence[str]:
        """What the user profile has, and lets admins change: anything else Keycloak drops without a word, or refuses."""
        open_ = {str(one["name"]) for one in profile.get("attributes", ()) if "admin" in one.get("permissions", {}).get("edit", ("admin",))}
        for name in _FIELDS:
            if name not in open_:
                log.once("the realm's user profile has no such attribute that admins may change; it is left out", attribute=name)
        return [ours for name, ours in _FIELDS.items() if name in open_]

    def _stage(self, tx: Connection, seen: Seen) -> None:
        """All accounts, and who is in which of the roles and groups that we may give, or gave once."""
        inventory.stages(tx)
        given, paths = inventory.given(tx)
        seen.groups = {**seen.groups, **self.realm.group_ids([path for path in paths if path not in seen.groups])}
        with tx.cursor().copy("COPY pg_temp.usersync_read FROM STDIN") as copy:
            for page in self.realm.users():
                for user in page:
                    copy.write_row(_account_row(user, self.settings.required_actions))
        with tx.cursor().copy("COPY pg_temp.usersync_held_read FROM STDIN") as copy:
            for kind, name, managed, accounts in self._members(seen, given):
                for account in accounts:
                    copy.write_row((kind, name, managed, account))
        inventory.staged(tx)

    def _members(self, seen: Seen, given: Sequence[str]) -> Iterator[tuple[str, str, bool, Sequence[str]]]:
        managed = self.settings.managed_roles
        for role in dict.fromkeys([*managed, *given]):
            if role in seen.roles:
                yield from (("role", role, role in managed, page) for page in self.realm.role_members(role))
        for path, group in seen.groups.items():
            yield from (("group", path, path in self.settings.managed_groups, page) for page in self.realm.group_members(group))

    def _want(self, tx: Connection) -> None:
        own = self.settings
        maps = {"names": texts(name.lower() for name in own.roles), "roles": texts(own.roles.values()), "default": own.default_role}
        maps |= {"of": texts(own.groups), "paths": texts(_path(group) for group in own.groups.values())}
        people.want(tx, maps)

    def _values(self, seen: Seen) -> dict[str, Any]:
        own = self.settings
        return {
            "editable": seen.editable_usernames,
            "duplicates": seen.duplicate_emails,
            "by_email": seen.email_as_username,
            "login_with_email": seen.login_with_email,
            "fields": list(seen.fields),
            "longest": seen.username_length[1],
            "extra": own.extra_roles,
            "verified": own.email_verified,
            "actions": own.required_actions,
            "attribute": ATTRIBUTE,
            "notify": own.notify == "email",
        }

    def _lacking(self, tx: Connection, seen: Seen) -> tuple[Sequence[str], Sequence[str]]:
        """Roles and groups that somebody needs and the realm has not. Raises Drift unless they may be made."""
        found = people.needed(tx)
        roles = [name for kind, name in found if kind == "role" and name not in seen.roles]
        groups = [name for kind, name in found if kind == "group" and name not in seen.groups]
        if (roles or groups) and not self.settings.create_missing:
            parts = [f"role {name}" for name in roles] + [f"group {name}" for name in groups]
            raise Drift(
                f"target {self.name}: the realm {self.settings.realm} lacks {', '.join(parts)}, which people are to have",
                hint="nothing was written; make them there, fix the maps under `roles` and `groups`, or say `create_missing: true`",
            )
        return roles, groups

    def look(self) -> Iterator[tuple[str, UsersyncError | None]]:
        """For `usersync check`: what was looked at, and what is wrong with it; nothing is written. Raises what keeps from looking on."""
        own = self.settings
        yield f"realm {own.realm}, {self.realm.count():,} accounts", None
        self.realm.refuse_blindness()
        problem = attribute_problem(self.realm.profile())
        lacks = "manage-users", "view-realm"
        yield "rights of the service account", self.realm.lacking(*lacks, *(("manage-realm",) if self._makes(problem) else ()))
        if problem is UNDECLARED and own.create_missing:
            yield f"attribute {ATTRIBUTE} will be declared", None
        else:
            yield f"attribute {ATTRIBUTE}", Drift(f"target {self.name}: {problem}", hint=ATTRIBUTE_HINT) if problem else None
        odd = actions_problem(own.required_actions, self.realm.required_actions())
        yield "required actions", ConfigError(f"target {self.name}: {odd[0]}", hint=odd[1]) if odd else None
        yield from look_at_logins(self.name, own, self.realm.about())
        there = {str(role["name"]) for role in self.realm.roles()}
        groups = self.realm.group_ids(own.managed_groups)
        lacking = [f"role {one}" for one in own.managed_roles if one not in there]
        lacking += [f"group {one}" for one in own.managed_groups if one not in groups]
        if not lacking or own.create_missing:
            told = f", of which {', '.join(lacking)} will be made when somebody is to have them" if lacking else ""
            yield f"roles and groups of the maps{told}", None
            return
        hint = "make them, take them out of the maps, or say `create_missing: true`"
        said = f"target {self.name}: the realm {own.realm} lacks {', '.join(lacking)}; a person who is to have them stops a run"
        yield "maps", Drift(said, hint=hint)

    def _makes(self, problem: str | None) -> bool:
        """Whether a run may have to make a role, or declare the attribute: groups need no right of their own."""
        if not self.settings.create_missing:
            return False
        there = {str(role["name"]) for role in self.realm.roles()}
        return problem is UNDECLARED or not there.issuperset(self.settings.managed_roles)

    def kept_out(self, tx: Connection, reasons: Mapping[str, str]) -> int:
        """Whose enabled accounts are ours although the source leaves their people alone (reason by record): conflicts; gives how many."""
        return deletes.kept_out(tx, reasons)

    def leaving(self, tx: Connection, *, known: bool) -> tuple[int, int]:
        """How many of our accounts are of nobody that is desired; and how many of them are enabled at all.

        Without `known`, of those that carry our attribute and that this job does not remember.
        """
        return deletes.leaving(tx, known=known)

    def disable(self, tx: Connection, plan: Plan, *, known: bool) -> None:
        """Plan that those on `usersync_gone` are disabled."""
        deletes.disable(tx, vars(plan.scope), known=known)
        if plan.scope.run_id is not None:
            outbox.write(tx, plan.scope)

    def changes(self, step: str, tx: Connection) -> Generator[Change, None, None]:
        """What the calls would do, person by person, and what a person has to decide."""
        for action, key, before, after, reason in summary.changes(tx):
            told = {"conflict": reason, "adopt": "came back" if reason == "came_back" else f"adopted {reason}"}.get(action) or ""
            yield Change(step, _KINDS.get(action, "update"), {"id": key}, before, after, told)

    # apply

    def apply(self, plan: Plan, tx: Connection) -> Counts:
        """Make the calls that stand open, a few people at a time; each outcome is committed after its call.

        What the realm refuses is set aside, what it does not answer is left to the next run; then Unavailable is raised at the end.
        """
        from usersync_cli.targets.keycloak.calls import Desk, Parking

        with Desk(self, plan, tx) as desk:
            self._prepare(plan)
            self._calls(desk, plan, tx, "leaving")
            self._calls(Parking(desk), plan, tx, "parked")
            self._calls(desk, plan, tx, "parked")  # one who is refused has the old name again before another one takes it
            self._calls(desk, plan, tx, "staying")
            desk.complain()
        return plan.counts

    def _calls(self, desk: dispatch.Desk, plan: Plan, tx: Connection, which: outbox.Which) -> None:
        waiting = outbox.open_ones(tx, plan.scope, which)
        dispatch.run(desk, waiting, workers=self.settings.workers, stop=self.use.stop, check=self.use.check)

    def _prepare(self, plan: Plan) -> None:
        """Before the first person: what the realm lacks. Raises ConfigError without the right to."""
        if not self.settings.create_missing:
            return
        if attribute_problem(self.realm.profile()) is UNDECLARED:
            self.realm.declare(ATTRIBUTE)
        for name in plan.lacking_roles:
            self.realm.create_role(name)
        for path in plan.lacking_groups:
            self.realm.create_group(path)
        if plan.lacking_roles or plan.lacking_groups:
            plan.roles = {str(role["name"]): role for role in self.realm.roles()}
            plan.groups = self.realm.group_ids(self.settings.managed_groups)


_KINDS: dict[str, Any] = {"create": "insert", "disable": "disable", "conflict": "reject"}


# what is asked of the realm

UNDECLARED = f"its user profile does not declare the attribute {ATTRIBUTE}, so Keycloak would drop it without a word"
_OPEN_TO_USERS = f"its user profile lets people themselves change the attribute {ATTRIBUTE}, so they could take another's account over"
ATTRIBUTE_HINT = (
    f'Realm settings, User profile, Create attribute {ATTRIBUTE}, admins only may view and edit it; as JSON: {{"name": "{ATTRIBUTE}",'
    ' "permissions": {"view": ["admin"], "edit": ["admin"]}, "multivalued": false}; or say `create_missing: true`'
)


def attribute_problem(profile: Mapping[str, Any]) -> str | None:
    """What is wrong with how the realm's user profile treats our attribute."""
    declared = next((one for one in profile.get("attributes", ()) if one.get("name") == ATTRIBUTE), None)
    if declared is None:
        return UNDECLARED
    return _OPEN_TO_USERS if "user" in declared.get("permissions", {}).get("edit", ()) else None


def actions_problem(wanted: Iterable[str], known: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Required actions that the realm would drop without a word: what is wrong, and what to do."""
    enabled = {str(one["alias"]): bool(one.get("enabled")) for one in known}
    odd = [name for name in wanted if not enabled.get(name)]
    if not odd:
        return None
    state_ = "switched off" if odd[0] in enabled else "not known"
    others = ", ".join(alias for alias, on in enabled.items() if on)
    return (
        f"required action {odd[0]} is {state_} in the realm, which would drop it without a word",
        f"switch it on under Authentication, Required actions; or name others in required_actions: {others}",
    )


def _account_row(user: Mapping[str, Any], actions: Sequence[str]) -> tuple[Any, ...]:
    """With whether its person has still to choose a password, or to do any of the `actions` that a mail asks for."""
    asked = user.get("requiredActions") or ()
    ours = [one for one in (user.get("attributes") or {}).get(ATTRIBUTE) or () if one]
    return (
        user["id"], user["username"], user.get("email"), user.get("firstName"), user.get("lastName"), bool(user.get("enabled")),
        bool(user.get("emailVerified")), ours[0] if ours else None, "UPDATE_PASSWORD" in asked,
        not actions or any(one in asked for one in actions),
    )  # fmt: skip


def _username_rules(profile: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((one.get("validations") or {} for one in profile.get("attributes", ()) if one.get("name") == "username"), {})


def _username_length(profile: Mapping[str, Any]) -> tuple[int, int]:
    length = _username_rules(profile).get("length") or {}
    return int(length.get("min") or 1), int(length.get("max") or 255)
