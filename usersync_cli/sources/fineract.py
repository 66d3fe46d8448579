"""The source `fineract`: the users and roles of an Apache Fineract, one request for each.

Fineract has no pages, no filter and no time of change: a list is one array of everything, and so one moment. It holds only
those whose office is the caller's own or below it, without a word about the others. So who reads has to be in the head
office, which its own record in the list proves; and whoever the list lacks is asked for by id, which no office limits.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from usersync_cli.errors import ConfigError, Drift, Unavailable
from usersync_cli.model import Cursor, Documents, KeptOut, Page, Record, Stream, Tools
from usersync_cli.settings import UNSET, FieldError

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import Client, Reply

KIND = "documents"

PAGE_RECORDS = 1000
TIMEOUT = timedelta(seconds=150)  # Fineract looks up the roles of one user after the other before it says a word
DEADLINE = timedelta(minutes=6)  # of one request, repeated once where it timed out
MOST_BYTES = 256_000_000  # of one array; 2,000 users have 600 kB
NO_SUCH_TENANT = "error.msg.invalid.tenant.identifier"
USUAL = "it usually ends in /fineract-provider/api/v1"


@dataclass(frozen=True)
class Resource:
    """One of Fineract's lists."""

    path: str
    permission: str
    unknown: str  # what Fineract says of an id that is not there, or not any more


RESOURCES = {
    "users": Resource("/users", "READ_USER", "error.msg.user.id.invalid"),
    "roles": Resource("/roles", "READ_ROLE", "error.msg.role.id.invalid"),
}
STREAMS = tuple(RESOURCES)

_ADDRESS = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?")
_CODE = re.compile(r"(?:error|validation)\.msg(?:\.[A-Za-z0-9_-]{1,40}){1,10}")  # not any text: others of its texts echo what was sent
_ROLES = """ARRAY(
           SELECT role ->> 'name'
             FROM jsonb_array_elements(CASE jsonb_typeof(data -> 'selectedRoles') WHEN 'array' THEN data -> 'selectedRoles' END) AS role
            WHERE role ->> 'name' IS NOT NULL
            ORDER BY role ->> 'name' COLLATE "C"
       ) AS roles"""
_TRANSFORMS = {
    "users": f"""
SELECT key::bigint AS id,
       data ->> 'username' AS username,
       NULLIF(data ->> 'email', '') AS email,
       data ->> 'firstname' AS firstname,
       data ->> 'lastname' AS lastname,
       (data ->> 'officeId')::bigint AS office_id,
       data ->> 'officeName' AS office_name,
       {_ROLES},
       data
  FROM records""",  # noqa: S608  text of ours
    "roles": """
SELECT key::bigint AS id,
       data ->> 'name' AS name,
       data ->> 'description' AS description,
       (data ->> 'disabled')::boolean AS disabled,
       data
  FROM records""",
}


class Settings(BaseModel):
    """A tenant of an Apache Fineract, and who reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["fineract"]
    url: str = Field(description="Fineract's API: https://HOST/fineract-provider/api/v1")
    tenant: str = Field("default", description="the identifier of the tenant")
    username: str | None = Field(None, description="who reads; beside a token only to see whether that user is in the right office")
    password: str | None = Field(None, repr=False, description="of that user")
    token: str | None = Field(None, repr=False, description="a bearer token, instead of a password")
    office: int = Field(1, ge=1, description="the id of the office that who reads has to be in: the head office, which sees all users")
    exclude: list[str] = Field(
        ["system", "interopUser", "mifos"], description="user names that are left alone, in any case; by default the API user is one too"
    )
    self_service_users: bool = Field(default=False, description="whether the bank's customers who may log in count as users")
    ca: Path | None = Field(None, description="a file of certificates (PEM) instead of the public ones, relative to the config file")
    allow_http: bool = Field(default=False, description="allow an address of another machine that begins with http://")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if value.startswith(UNSET):
            return value
        if not _ADDRESS.fullmatch(value):
            raise FieldError("must be an address such as https://HOST/fineract-provider/api/v1, without a user, ? or #")
        return value.rstrip("/")

    @field_validator("tenant")
    @classmethod
    def _fits_into_a_header(cls, value: str) -> str:
        if not re.fullmatch(r"[!-~]{1,100}", value):
            raise FieldError("must be the identifier of a tenant, such as default: letters, digits and signs of ASCII")
        return value

    @field_validator("ca")
    @classmethod
    def _is_beside_the_config(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        folder = (info.context or {}).get("folder")
        return Path(folder, value).absolute() if folder and value else value

    @property
    def left_alone(self) -> set[str]:
        """User names of `exclude`, casefolded; by default that of the API user too, who is staff to nobody."""
        reader = [self.username] if self.username and "exclude" not in self.model_fields_set else []
        return {name.casefold() for name in (*self.exclude, *reader)}

    @model_validator(mode="after")
    def _has_one_way_to_log_in(self) -> Settings:
        if self.token and self.password:
            raise FieldError("is one too many beside a token", ("password",))
        if not self.token and not (self.username and self.password):
            raise FieldError("needs username and password, or a token")
        return self

    @model_validator(mode="after")
    def _is_encrypted(self) -> Settings:
        if self.url.startswith("http:") and not self.allow_http and not _is_local(urlsplit(self.url).hostname or ""):
            raise FieldError(
                "would send passwords and people in clear text; use https://, or say allow_http: true inside a network you trust", ("url",)
            )
        return self


class Source:
    """A tenant; nothing is contacted before the first request."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings

    def transform(self, stream: str) -> str:
        """The columns of the mirror. Roles are those that somebody has, disabled ones too: they still grant what they grant."""
        return _TRANSFORMS[stream]

    def accounts(self, stream: str) -> str:
        """A SELECT over `records` for a target of accounts: id, username, email, first_name, last_name (text), roles (text[]), _key.

        The id has the tenant before it, since what takes the accounts may hold the people of two. Raises ConfigError where
        the stream has nobody in it.
        """
        from psycopg import sql

        if stream != "users":
            raise ConfigError(f"source {self.name}: there are no accounts in stream {stream}", hint="read the stream users")
        tenant = sql.Literal(f"{self._settings.tenant}:").as_string(None)
        return f"""
SELECT {tenant} || key AS id,
       key AS _key,
       data ->> 'username' AS username,
       NULLIF(data ->> 'email', '') AS email,
       data ->> 'firstname' AS first_name,
       data ->> 'lastname' AS last_name,
       {_ROLES}
  FROM records"""  # noqa: S608  a quoted name

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Session]:
        """Connections and threads end with the session."""
        from usersync_cli.clients.http.client import Client

        settings = self._settings
        with Client(
            settings.url,
            name=f"source {self.name}",
            stop=tools.stop,
            headers={"Fineract-Platform-TenantId": settings.tenant, "Authorization": _credentials(settings)},
            ca=settings.ca,
            deadline=DEADLINE,
            timeout=TIMEOUT,
            max_body=MOST_BYTES,
        ) as client:
            yield Session(self.name, settings, client)


@dataclass(frozen=True)
class _Listing:
    """One array, as far as it is ours."""

    rows: Sequence[Record]
    there: Collection[str]  # keys of all that it has, also of who is excluded
    left_alone: Collection[str] = ()  # keys of those
    customers: Collection[str] = ()  # keys of self-service users, who are no staff

    @property
    def mark(self) -> str:
        """Changes when any of the records does."""
        found = hashlib.blake2b(digest_size=16)
        for row in self.rows:
            found.update(b"%d " % len(row.data) + row.data)
        return found.hexdigest()


class Session:
    """A tenant as one user sees it. Each list is one request, made when its stream is read."""

    together = False
    snapshot = True
    numbered: Collection[str] = ()

    def __init__(self, name: str, settings: Settings, client: Client) -> None:
        self._name, self._settings, self._client = name, settings, client
        self._listed: dict[str, _Listing] = {}
        self._unlisted = 0  # users or roles that the list of the stream lacks, and that are there
        self.account = f"tenant {settings.tenant} of {_place(settings.url)}"

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Iterator[Page]:
        """Each stream's one array, 1,000 records a page. What an earlier run had of it is left out as long as all is the same.

        Raises Drift when the list can't be that of all users, ConfigError for a right or password, Unavailable for anything
        that is no whole answer.
        """
        for stream in streams:
            listing, self._unlisted = self._list(stream.name), 0
            yield from _pages(stream.name, listing, since.get(stream.name))
            if self._unlisted:  # which `gone` has found with the last page
                raise Unavailable(
                    f"source {self._name}: the list of {stream.name} left out {self._unlisted:,} of them that Fineract knows by id",
                    hint="what was listed is stored, and nobody who is there was removed; the next run lists all of them again."
                    " If it stays so: does something before Fineract keep old answers?",
                )

    def gone(self, stream: str, keys: Sequence[str]) -> Collection[str]:
        """Those of whom Fineract itself says that it has no such id, asked one after the other; nobody whom its list has.

        A user whom its list calls a self-service user is no member of staff any more, which needs no other proof.
        """
        listed = self._listed.get(stream, _Listing((), ()))
        customers = {key for key in keys if key in listed.customers}
        lacking = [key for key in keys if key not in listed.there]
        unknown = {key for key in lacking if self._is_gone(self._resource(stream), key)}
        self._unlisted += len(lacking) - len(unknown)
        return customers | unknown

    def look(self, stream: str) -> str:
        """How many there are, in one request."""
        found = f"{len(self._list(stream).rows):,} {stream}"
        return ", ".join([found, *(f"{number:,} {words} left out" for words, number in self.left_out.items())])

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many of the records that were listed are not taken, by what they are; without those that `exclude` names."""
        number = sum(len(listing.customers) for listing in self._listed.values())
        return {"self-service users": number} if number else {}

    def kept_out(self, stream: str) -> Mapping[str, KeptOut]:
        """Users that `exclude` names are left alone; self-service users are no staff and have left."""
        listed = self._listed.get(stream, _Listing((), ()))
        return dict.fromkeys(listed.customers, KeptOut("self_service", leaves=True)) | dict.fromkeys(listed.left_alone, KeptOut("excluded"))

    def _list(self, stream: str) -> _Listing:
        resource = self._resource(stream)
        reply = self._ask(resource.path)
        self._refuse(reply, resource.path, resource)
        rows = [bytes(row) for row in reply.decode(list[msgspec.Raw])]
        heads = [_head(row) for row in rows]
        if stream == "users":
            self._refuse_a_part(heads)
        elif not heads:
            hint = "something between us and Fineract may have answered; nothing was taken over"
            raise Unavailable(f"source {self._name} shows no role at all, and whoever reads has one", hint=hint)
        pairs = list(zip(heads, rows, strict=True))
        excluded, customers = self._left(heads) if stream == "users" else (set(), set())
        ours = [_record(stream, head, row) for head, row in pairs if not head.key or head.key not in excluded | customers]
        self._listed[stream] = _Listing(ours, {head.key for head in heads}, excluded, customers)
        return self._listed[stream]

    def _left(self, heads: Sequence[_Head]) -> tuple[set[str], set[str]]:
        """Keys of users who are excluded by name, and of self-service users among the others."""
        names, all_ = self._settings.left_alone, self._settings.self_service_users
        excluded = {head.key for head in heads if head.key and (head.username or "").casefold() in names}
        customers = {head.key for head in heads if head.key and head.self_service and not all_}
        return excluded, customers - excluded

    def _refuse_a_part(self, heads: Sequence[_Head]) -> None:
        """Raises Drift when these can't be all users. Whoever asks is among them, always, and shows where it stands."""
        office, username = self._settings.office, self._settings.username
        seen = f"source {self._name} shows {len(heads):,} users"
        hint = f"move who reads to office {office}, or set `office` to the id of your head office; nothing was taken over"
        if not username:
            if not any(head.office == office for head in heads):
                raise Drift(f"{seen}, none of them in office {office}: who reads is in another one, and sees only a part", hint=hint)
            return
        caller = _caller(heads, username)
        if caller is None:
            hint = "is the token that of `username`? does something before Fineract change its answers? nothing was taken over"
            raise Drift(f"{seen}, but not the one who asked: they can't be all", hint=hint)
        if caller.office != office:
            where = "no office" if caller.office is None else f"office {caller.office}"
            raise Drift(f"{seen} to one who is in {where}, not in office {office}: only those of that office and below it", hint=hint)

    def _is_gone(self, resource: Resource, key: str) -> bool:
        path = f"{resource.path}/{key}"
        reply = self._ask(path)
        if reply.status == 404 and resource.unknown in _codes(reply):
            return True
        self._refuse(reply, path, resource)
        if _head(reply.body).key != key:
            raise Drift(f"source {self._name} gave something else than what GET {path} asks for", hint="nobody was removed")
        return False

    def _ask(self, path: str) -> Reply:
        """An answer, be it an error that Fineract itself explains."""
        from usersync_cli.clients.http.client import Refused, Request, Untrusted

        try:
            return self._client.send(Request("GET", path, accept=(400, 401, 403, 404)))
        except Untrusted as error:
            hint = "name your authority's file of certificates as `ca`; the one that Fineract brings along names no host, replace it"
            raise ConfigError(error.message, hint=hint) from error
        except Refused as error:
            hint = f"that answer is not Fineract's own: is `url` right ({USUAL}), and does something before it refuse us?"
            raise ConfigError(error.message, hint=hint) from error

    def _refuse(self, reply: Reply, path: str, resource: Resource) -> None:
        """Raises what an error of Fineract's means. Of its body no more than a code: the rest may hold what was sent."""
        if reply.status < 300:
            return
        codes = _codes(reply)
        what = f"source {self._name} answered {reply.status} to GET {path}" + (f" ({codes[0]})" if codes else "")
        # Its filter looks at the tenant before the password, and has no code to say so.
        if NO_SUCH_TENANT in codes or (reply.status == 400 and not codes):
            hint = "set `tenant` in the source's settings to the identifier of the tenant"
            raise ConfigError(f"{what}: it knows no tenant {self._settings.tenant}", hint=hint)
        if reply.status == 401:
            given, fix = ("token", "`token`") if self._settings.token else ("user name and password", "`username` and `password`")
            raise ConfigError(f"{what}: it does not take this {given}", hint=f"fix {fix} in the source's settings")
        if reply.status == 403:
            hint = "in Fineract, give who reads a role with READ_USER and READ_ROLE"
            raise ConfigError(f"{what}: the permission {resource.permission} is missing", hint=hint)
        if reply.status == 404 and path == resource.path:
            raise ConfigError(f"{what}: it has no such list", hint=f"is `url` right? {USUAL}")
        raise Drift(what, hint="did Fineract's API change? nobody was removed")

    def _resource(self, stream: str) -> Resource:
        if stream not in RESOURCES:
            raise Drift(f"source {self._name} has no stream {stream}", hint=f"its streams: {', '.join(RESOURCES)}")
        return RESOURCES[stream]


def _pages(stream: str, listing: _Listing, since: Cursor | None) -> Iterator[Page]:
    """A listing page by page, behind the cursor of an earlier reading of the same."""
    mark, sweep, begin = listing.mark, uuid.uuid4().hex, 0
    if since and since.get("listing") == mark and not since.get("done"):
        sweep, begin = str(since["sweep"]), int(since["record"])
    for at in range(begin, max(len(listing.rows), begin + 1), PAGE_RECORDS):
        behind = at + PAGE_RECORDS
        last = behind >= len(listing.rows)
        cursor = {"sweep": sweep, "listing": mark, **({"done": True} if last else {"record": behind})}
        yield Page(Documents(listing.rows[at:behind]), cursor, complete=last, streams=(stream,), sweep=sweep)


# what an answer says


class _Start(msgspec.Struct):
    id: Any = None
    username: Any = None
    officeId: Any = None  # noqa: N815  Fineract's name
    isSelfServiceUser: Any = None  # noqa: N815
    selectedRoles: msgspec.Raw = msgspec.Raw(b"")  # noqa: N815


class _Role(msgspec.Struct):
    id: int


class _Inner(msgspec.Struct):
    code: str | None = msgspec.field(name="userMessageGlobalisationCode", default=None)


class _Error(_Inner):
    errors: list[_Inner] | None = None


@dataclass(frozen=True)
class _Head:
    """What has to be known of a record before it is loaded."""

    key: str = ""
    username: str | None = None
    office: int | None = None
    roles: bytes = b""
    self_service: bool = False
    problem: str = ""


_STARTS = msgspec.json.Decoder(_Start)
_ERRORS = msgspec.json.Decoder(_Error)
_LISTS = msgspec.json.Decoder(list[msgspec.Raw])
_ROLE = msgspec.json.Decoder(_Role)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _head(row: bytes) -> _Head:
    try:
        start = _STARTS.decode(row)
    except msgspec.ValidationError:
        return _Head(problem="not_an_object")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Head(problem="not_json")
    key = str(start.id) if type(start.id) is int else ""
    username = start.username if isinstance(start.username, str) else None
    office = start.officeId if type(start.officeId) is int else None
    self_service = _truth(start.isSelfServiceUser)
    problem = "no_key" if not key else "self_service_unclear" if self_service is None else ""
    return _Head(key, username, office, bytes(start.selectedRoles), bool(self_service), problem)


def _truth(flag: Any) -> bool | None:
    """Of a flag that some versions give as text or a number, and older ones not at all, which is no; None: it says neither."""
    return _FLAGS.get("" if flag is None else str(flag).strip().casefold())


_FLAGS = {**dict.fromkeys(("true", "1", "yes"), True), **dict.fromkeys(("false", "0", "no", ""), False)}


def _record(stream: str, head: _Head, row: bytes) -> Record:
    return Record(stream, head.key, _in_order(row, head.roles), problem=head.problem)


def _in_order(row: bytes, roles: bytes) -> bytes:
    """The document with its selected roles by id, which Fineract gives in any order; all else as it came, digit by digit."""
    try:
        given = _LISTS.decode(roles)
        ordered = sorted(given, key=lambda role: _ROLE.decode(role).id)
    except (msgspec.DecodeError, UnicodeDecodeError):  # none, or not of the shape that we know
        return row
    if ordered == given:
        return row
    return msgspec.json.encode({**_FIELDS.decode(row), "selectedRoles": ordered})


def _codes(reply: Reply) -> list[str]:
    """Fineract's codes for what went wrong, the outer one first; none of them where the answer is not Fineract's own."""
    try:
        error = _ERRORS.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    return [one.code for one in (error, *(error.errors or ())) if one.code and _CODE.fullmatch(one.code)]


def _caller(heads: Sequence[_Head], username: str) -> _Head | None:
    """Who asked. Some databases under Fineract let people log in whatever the case of the letters."""
    for head in heads:
        if head.username == username:
            return head
    alike = [head for head in heads if head.username and head.username.casefold() == username.casefold()]
    return alike[0] if len(alike) == 1 else None


# what the settings say


def _credentials(settings: Settings) -> str:
    if settings.token:
        return f"Bearer {settings.token}"
    return "Basic " + base64.b64encode(f"{settings.username}:{settings.password}".encode()).decode()


def _place(url: str) -> str:
    """Host and path: where it is, however one gets there."""
    parts = urlsplit(url)
    port = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return f"{parts.netloc.lower().removesuffix(port)}{parts.path}"


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
