"""An open tenant of Fineract: what its lists show, what its errors mean, and who is not there any more."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from usersync_cli.errors import ConfigError, Drift, Unavailable
from usersync_cli.model import KeptOut
from usersync_cli.ports import CanLook, DocumentSession, KeepsOut, LeavesOut, OneMoment, TellsWhoIsGone
from usersync_cli.sources.fineract.listing import UserListing, pages_of
from usersync_cli.sources.fineract.settings import place_of
from usersync_cli.sources.fineract.shapes import caller_among, codes_of, head_of, record_of

if TYPE_CHECKING:
    from usersync_cli.clients.http.client import Client, Reply
    from usersync_cli.model import Cursor, Page, Stream
    from usersync_cli.sources.fineract.settings import Settings
    from usersync_cli.sources.fineract.shapes import Head

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


class Session(OneMoment, TellsWhoIsGone, CanLook, LeavesOut, KeepsOut, DocumentSession):
    """A tenant as one user sees it. Each list is one request, made when its stream is read."""

    def __init__(self, name: str, settings: Settings, client: Client) -> None:
        self._name, self._settings, self._client = name, settings, client
        self._listed: dict[str, UserListing] = {}
        self._unlisted = 0  # users or roles that the list of the stream lacks, and that are there
        self.account = f"tenant {settings.tenant} of {place_of(settings.url)}"

    def pages(self, streams: Sequence[Stream], since: Mapping[str, Cursor]) -> Generator[Page, None, None]:
        """Each stream's one array, 1,000 records a page. What an earlier run had of it is left out as long as all is the same.

        Raises Drift when the list can't be that of all users, ConfigError for a right or password, Unavailable for anything
        that is no whole answer.
        """
        for stream in streams:
            listing, self._unlisted = self._list(stream.name), 0
            yield from pages_of(stream.name, listing, since.get(stream.name))
            if self._unlisted:  # which `gone` has found with the last page
                raise Unavailable(
                    f"source {self._name}: the list of {stream.name} left out {self._unlisted:,} of them that Fineract knows by id",
                    hint="what was listed is stored, and nobody who is there was removed; the next run lists all of them again."
                    " If it stays so: does something before Fineract keep old answers?",
                )

    def gone(self, stream: str, keys: Sequence[str]) -> Collection[str]:
        """Keys for which Fineract itself says that it has no such id, asked one after the other; none that its list has.

        A user whom its list calls a self-service user is no member of staff any more, which needs no other proof.
        """
        listed = self._listed.get(stream, UserListing((), ()))
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
        listed = self._listed.get(stream, UserListing((), ()))
        return dict.fromkeys(listed.customers, KeptOut("self_service", leaves=True)) | dict.fromkeys(listed.left_alone, KeptOut("excluded"))

    def _list(self, stream: str) -> UserListing:
        resource = self._resource(stream)
        reply = self._ask(resource.path)
        self._refuse(reply, resource.path, resource)
        rows = [bytes(row) for row in reply.decode(list[msgspec.Raw])]
        heads = [head_of(row) for row in rows]
        if stream == "users":
            self._refuse_a_part(heads)
        elif not heads:
            hint = "something between us and Fineract may have answered; nothing was taken over"
            raise Unavailable(f"source {self._name} shows no role at all, and whoever reads has one", hint=hint)
        pairs = list(zip(heads, rows, strict=True))
        excluded, customers = self._left(heads) if stream == "users" else (set(), set())
        ours = [record_of(stream, head, row) for head, row in pairs if not head.key or head.key not in excluded | customers]
        self._listed[stream] = UserListing(ours, {head.key for head in heads}, excluded, customers)
        return self._listed[stream]

    def _left(self, heads: Sequence[Head]) -> tuple[set[str], set[str]]:
        """Keys of users who are excluded by name, and of self-service users among the others."""
        names, all_ = self._settings.left_alone, self._settings.self_service_users
        excluded = {head.key for head in heads if head.key and (head.username or "").casefold() in names}
        customers = {head.key for head in heads if head.key and head.self_service and not all_}
        return excluded, customers - excluded

    def _refuse_a_part(self, heads: Sequence[Head]) -> None:
        """Raises Drift when these can't be all users. Whoever asks is among them, always, and shows where it stands."""
        office, username = self._settings.office, self._settings.username
        seen = f"source {self._name} shows {len(heads):,} users"
        hint = f"move who reads to office {office}, or set `office` to the id of your head office; nothing was taken over"
        if not username:
            if not any(head.office == office for head in heads):
                raise Drift(f"{seen}, none of them in office {office}: who reads is in another one, and sees only a part", hint=hint)
            return
        caller = caller_among(heads, username)
        if caller is None:
            hint = "is the token that of `username`? does something before Fineract change its answers? nothing was taken over"
            raise Drift(f"{seen}, but not the one who asked: they can't be all", hint=hint)
        if caller.office != office:
            where = "no office" if caller.office is None else f"office {caller.office}"
            raise Drift(f"{seen} to one who is in {where}, not in office {office}: only those of that office and below it", hint=hint)

    def _is_gone(self, resource: Resource, key: str) -> bool:
        path = f"{resource.path}/{key}"
        reply = self._ask(path)
        if reply.status == 404 and resource.unknown in codes_of(reply):
            return True
        self._refuse(reply, path, resource)
        if head_of(reply.body).key != key:
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
        codes = codes_of(reply)
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
