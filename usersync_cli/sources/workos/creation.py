"""A person who is created in WorkOS: what it takes, who is there already, the one POST, and what its refusals mean."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from usersync_cli.clients.http.client import Reply, Request
from usersync_cli.errors import ConfigError, Conflict, Drift, Unanswered, UsersyncError
from usersync_cli.model import FoundUser, NewUser
from usersync_cli.sources.workos.api import REFUSALS, Api, agent, date, is_unknown
from usersync_cli.sources.workos.place import MARGIN
from usersync_cli.sources.workos.shapes import as_text, fields_of, listed, moment, record_of, text_of

PATH = "/user_management/users"
# Limits of the vendor's specification.
LONGEST_EXTERNAL_ID = 128
MOST_METADATA, LONGEST_NAME, LONGEST_VALUE = 50, 40, 600
LONGEST_EMAIL, LONGEST_LOCAL = 254, 64  # RFC 5321
PAGES = 10  # of a list, at most
_EMAIL = re.compile(r"""[^\s@"(),:;<>\[\]\\]+@[^\s@"(),:;<>\[\]\\.]+(\.[^\s@"(),:;<>\[\]\\.]+)+""")
_TAKEN = re.compile(r"already|not_available|taken|duplicate|exists")  # in codes: email_not_available, external_id_already_used, ...
_LONGEST_WORDS = 300


class _Quiet(Request):
    """A request whose path ends in something of a person's: messages and logs have its beginning."""

    def __str__(self) -> str:
        return f"{self.method} {self.path.rpartition('/')[0]}/..."


# before anything is sent


def body_of(new: NewUser) -> Mapping[str, Any]:
    """The JSON of a POST. Raises ConfigError for all that WorkOS would not take."""
    if problems := list(_problems(new)):
        raise ConfigError(f"nothing was sent: {'; '.join(problems)}", hint="these are limits of WorkOS; fix them and run it again")
    given = {"email": new.email, "first_name": new.first_name, "last_name": new.last_name, "external_id": new.external_id}
    return {name: value for name, value in given.items() if value is not None} | ({"metadata": dict(new.metadata)} if new.metadata else {})


def _problems(new: NewUser) -> Iterator[str]:
    local = new.email.rpartition("@")[0]
    if not _EMAIL.fullmatch(new.email) or not new.email.isprintable() or len(new.email) > LONGEST_EMAIL or len(local) > LONGEST_LOCAL:
        yield "email is not an e-mail address"
    if new.external_id is not None:
        yield from _problems_of_external_id(new.external_id)
    if len(new.metadata) > MOST_METADATA:
        yield f"metadata has {len(new.metadata)} keys, and {MOST_METADATA} is the most"
    for name, value in new.metadata.items():
        shown = f"{name[:LONGEST_NAME]}..." if len(name) > LONGEST_NAME else name
        if not 1 <= len(name) <= LONGEST_NAME:
            yield f"the metadata key {shown!r} has {len(name)} characters, and 1 to {LONGEST_NAME} are allowed"
        if len(value) > LONGEST_VALUE:
            yield f"the value of the metadata key {shown!r} has {len(value):,} characters, and {LONGEST_VALUE} is the most"


def _problems_of_external_id(external_id: str) -> Iterator[str]:
    if not 1 <= len(external_id) <= LONGEST_EXTERNAL_ID:
        yield f"external_id has {len(external_id):,} characters, and 1 to {LONGEST_EXTERNAL_ID} are allowed"
    if not external_id.isprintable():
        yield "external_id has a character that can't be printed"
    if external_id in {".", ".."}:
        yield "external_id is a word of paths, so that nobody could be asked for by it"


# who is there


def people_like(api: Api, new: NewUser, known: Collection[str], since: datetime | None) -> Sequence[FoundUser]:
    """Everybody who has the external id, or the address in any case."""
    found: dict[str, FoundUser] = {}
    if new.external_id is not None:
        found |= _by_path(api, f"{PATH}/external_id/{quote(new.external_id, safe='')}")
    for email in dict.fromkeys((new.email, new.email.lower())):
        found |= {one.id: one for one in _listed(api, email)}
    for id_ in known:
        if id_ not in found:
            asked = _by_path(api, f"{PATH}/{quote(id_, safe='')}")
            found |= {one.id: one for one in asked.values() if one.email.lower() == new.email.lower()}
    found |= {one.id: one for one in _newest(api, since) if one.email.lower() == new.email.lower()}
    return [found[id_] for id_ in sorted(found)]


def _newest(api: Api, since: datetime | None) -> Iterator[FoundUser]:
    """The newest people, whose addresses WorkOS may find in the very same letters alone: those who were created since, PAGES at most."""
    query: dict[str, Any] = {"limit": 100, "order": "desc"}
    for _ in range(PAGES):
        reply = api.get(PATH, query, phase="users")
        page = listed(reply)
        yield from (_user(row, reply) for row in page.rows)
        oldest = moment(text_of(fields_of(page.rows[-1]) or {}, "created_at")) if page.rows else None
        if page.after is None or (since and oldest and oldest < since - MARGIN):
            return
        query["after"] = page.after


def _by_path(api: Api, path: str) -> dict[str, FoundUser]:
    reply = api.send(_Quiet("GET", path, headers={"User-Agent": agent("users")}, accept=REFUSALS))
    if is_unknown(reply):
        return {}
    api.refuse(reply, PATH)
    one = _user(reply.body, reply)
    return {one.id: one}


def _listed(api: Api, email: str) -> Iterator[FoundUser]:
    """Those whom the list has for an address. Raises Drift where it has somebody else: then it can't be asked who is there."""
    query: dict[str, Any] = {"email": email, "limit": 100, "order": "asc"}
    for _ in range(PAGES):
        reply = api.get(PATH, query, phase="users")
        page = listed(reply)
        for row in page.rows:
            one = _user(row, reply)
            if one.email.lower() != email.lower():
                break
            yield one
        else:
            if page.after is None:
                return
            query["after"] = page.after
            continue
        break
    raise Drift(
        f"source {api.name}: asked for one e-mail address, WorkOS listed others",
        hint="nobody was created: whether this person is there could not be found out. Did the API of WorkOS change?",
    )


def _user(row: bytes, reply: Reply) -> FoundUser:
    fields = fields_of(row)
    if not fields or not text_of(fields, "id") or not text_of(fields, "email"):
        raise Drift(f"{reply.where} has another shape than documented", hint="did the vendor change its API?")
    record = record_of("users", row, as_text(date(reply)))
    return FoundUser(record, text_of(fields, "email"), text_of(fields, "external_id") or None)


# the POST


def create(api: Api, new: NewUser, attempt: str) -> FoundUser:
    """One POST, which is not repeated where it may have arrived."""
    headers = {"User-Agent": agent("users"), "Idempotency-Key": attempt}
    reply = api.send(Request("POST", PATH, dict(body_of(new)), headers=headers, repeat=False, accept=REFUSALS))
    if reply.status in REFUSALS:
        raise _refusal(api, reply, new)
    try:
        return _user(reply.body, reply)
    except Drift as error:  # it is done, whatever was said about it
        raise Unanswered(error.message, hint=error.hint) from error


class _Problem(msgspec.Struct):
    code: Any = None
    field: Any = None
    message: Any = None


class _Body(msgspec.Struct):
    message: Any = None
    code: Any = None
    error_description: Any = None
    errors: Any = None


def _refusal(api: Api, reply: Reply, new: NewUser) -> UsersyncError:
    number = f" (request id {reply.request_id})" if reply.request_id else ""
    if reply.status == 401:
        return ConfigError(f"source {api.name}: WorkOS does not know the API key{number}", hint="nobody was created; fix `api_key`")
    if reply.status == 403:
        hint = "nobody was created; the key is restricted: give it the right to write users in WorkOS's dashboard"
        return ConfigError(f"source {api.name}: the API key may not create users{number}", hint=hint)
    if reply.status == 404:
        return Drift(f"source {api.name}: WorkOS has no path {PATH}{number}", hint="nobody was created; is `api_url` right?")
    body = _body(reply)
    problems = list(_each(body.errors))
    codes = [code for code in (body.code, *(one.code for one in problems)) if isinstance(code, str)]
    what = f"WorkOS refused to create this person: {_words(body, problems, new)}{number}"
    if reply.status == 409 or any(map(_TAKEN.search, codes)):
        return Conflict(what, hint="nobody was created, and nobody was found by that address or external id: look in WorkOS's dashboard")
    return ConfigError(what, hint="nobody was created; fix what it complains about, and run it again")


def _body(reply: Reply) -> _Body:
    try:
        return msgspec.json.decode(reply.body, type=_Body)
    except msgspec.MsgspecError:
        return _Body()


def _each(errors: Any) -> Iterator[_Problem]:
    for one in errors if isinstance(errors, list) else ():
        try:
            yield _Problem(message=one) if isinstance(one, str) else msgspec.convert(one, _Problem)
        except msgspec.MsgspecError:
            continue


def _words(body: _Body, problems: Sequence[_Problem], new: NewUser) -> str:
    """WorkOS's own words: its message and code, then each error with its field. The address is not repeated."""
    said = [_joined(body.message or body.error_description, body.code), *(_joined(one.field, one.message, one.code) for one in problems)]
    text = "; ".join(filter(None, said)) or "without a word"
    return text.replace(new.email, "...")[:_LONGEST_WORDS]


def _joined(*parts: Any) -> str:
    """The texts among these, with what a terminal would obey left out."""
    texts = ["".join(c for c in part if c.isprintable()).strip().rstrip(".") for part in parts if isinstance(part, str)]
    return ": ".join(dict.fromkeys(filter(None, texts)))
