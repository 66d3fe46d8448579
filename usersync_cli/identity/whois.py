"""Whois: who a uuid, a domain, an id of an app or an e-mail address is, and why; with all that is known of that customer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import scalar, statements
from usersync_cli.errors import ConfigError, NotFound
from usersync_cli.identity import mappings
from usersync_cli.identity.customers import uuid_of
from usersync_cli.identity.domains import Domains, domain_of

_SQL = statements(__name__)
_ADDRESS = re.compile(r"(?:[^@<>]*<)?(?P<local>[^\s@<>]+)@(?P<host>[^\s@<>]+)>?")
_WEB = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//(?:[^/?#@\s]*@)?(?P<host>[^/?#:@\s]+)(?::\d+)?(?:[/?#].*)?")
LISTS = ("merged", "former_domains", "mappings", "closed", "conflicts")


@dataclass(frozen=True)
class Question:
    """What somebody asked: its kind (uuid, domain, id, email, url), and the steps from it to what is looked up."""

    text: str
    kind: str
    steps: Sequence[str]
    values: Mapping[str, Any]

    @property
    def by(self) -> str:
        return {"uuid": "by_uuid", "id": "by_id"}.get(self.kind, "by_domain")


@dataclass(frozen=True)
class Answered:
    """The answer: customers, mostly one, with lists of what belongs to each (`LISTS`); each entry names its customer as root.

    missing: the error where nobody is found; the lists may have what once was.
    """

    question: Question
    customers: Sequence[Mapping[str, Any]]
    lists: Mapping[str, Sequence[dict[str, Any]]]
    because: Sequence[Sequence[str]]  # from the question to each customer
    more: bool  # than were asked for
    missing: NotFound | None


def question(tx: Connection, text: str, domains: Domains) -> Question:
    """What is meant. Raises NotFound for what identifies nobody, ConfigError for what is no uuid, domain, id or e-mail address."""
    text = text.strip()
    if uuid := uuid_of(text):
        return Question(text, "uuid", [str(uuid)], {"uuid": uuid})
    if found := _id(tx, text):
        return found
    if match := _WEB.fullmatch(text):
        return _host(text, "url", [text, "web address"], match["host"], domains)
    if match := _ADDRESS.fullmatch(text):
        return _address(text, match, domains)
    if ":" in text:
        mappings.require_app(tx, text.partition(":")[0].strip())
    try:
        exact = domain_of(text)
    except ConfigError as error:
        said = "nobody: that is no uuid, no e-mail address, no APP:ID and no domain"
        raise NotFound(said, hint=f"{error.message}; {error.hint}") from None
    below = domains.judge(exact)
    wanted = [exact, *([below.domain] if below.domain and below.domain != exact else [])]
    return Question(text, "domain", [exact], {"domains": wanted, "why": below.why})


def _id(tx: Connection, text: str) -> Question | None:
    """`app:id`, where there is such an app, or one with objects."""
    app, colon, id_ = text.partition(":")
    if not colon or not app or not id_:
        return None
    known = mappings.apps(tx)
    if app not in known and not any(name.startswith(f"{app}.") for name in known):
        return None
    return Question(text, "id", [text], {"app": app, "id": id_})


def _address(text: str, match: re.Match[str], domains: Domains) -> Question:
    local = match["local"].partition("+")[0].lower()
    if local in domains.roles:
        raise NotFound(
            f"that e-mail address identifies nobody: {local}@ is a role, not a person",
            hint="ask for its domain instead; identity.people in the config file makes it somebody's",
        )
    return _host(text, "email", [text, "e-mail domain"], match["host"], domains)


def _host(text: str, kind: str, steps: list[str], host: str, domains: Domains) -> Question:
    """A host itself, which a person may have made a customer, then its registrable domain."""
    judged = domains.judge(host)
    try:
        exact = domain_of(host)
    except ConfigError:
        if not judged.domain:
            raise NotFound(f"{host} identifies nobody: {judged.why}", hint="is it spelt right?") from None
        exact = judged.domain
    wanted = list(dict.fromkeys([exact, judged.domain or exact]))
    return Question(text, kind, steps, {"domains": wanted, "why": judged.why})


def ask(tx: Connection, asked: Question, *, most: int = 0) -> Answered:
    """The answer, `most` entries of each kind at most (0: all). One statement."""
    statement = sql.SQL(_SQL["ask"]).format(start=sql.SQL(_SQL[asked.by]))
    values = {name: value for name, value in asked.values.items() if name != "why"}
    found = scalar(tx, statement, {**values, "most": most + 1 if most else None})
    lists = {name: found[name] or [] for name in LISTS}
    customers = found["customers"] or []
    _explain(lists, customers)
    because = [_because(asked, one, lists) for one in customers]
    missing = None if customers else _missing(tx, asked, lists)
    more = bool(most) and any(len(one) > most for one in lists.values())
    return Answered(asked, customers, {name: one[:most] if most else one for name, one in lists.items()}, because, more, missing)


def _explain(lists: Mapping[str, list[dict[str, Any]]], customers: Sequence[Mapping[str, Any]]) -> None:
    """Give each mapping its because, and the domain of the customer that it resolves to."""
    domains = {one["uuid"]: one["domain"] for one in customers}
    into = {one["uuid"]: one["merged_into"] for one in lists["merged"]}
    for one in [*lists["mappings"], *lists["closed"]]:
        one["domain"], one["uuid"] = domains.get(one["root"], one["customer_domain"]), one["root"]
        one["because"] = [f"{one['app']}:{one['app_id']}", *_steps(one), *_to_root(one["customer"], into)]


def _steps(one: Mapping[str, Any]) -> list[str]:
    """What decided a mapping: a rule with what it looked at and what it found; a person."""
    steps = []
    if one["rule"]:
        steps += [f"rule {one['rule']}", *([one["evidence"]] if one["evidence"] else [])]
        if one["evidence_domain"] and one["evidence_domain"] != one["evidence"]:
            steps.append(one["evidence_domain"])
    if one["person"]:
        steps.append(f"pinned by {one['person']}" + (f" ({one['reason']})" if one["reason"] else ""))
    return steps


def _to_root(customer: str, into: Mapping[str, str]) -> list[str]:
    """The customer that was decided, and those that it was merged into; of a long chain the ends."""
    chain = [customer]
    while (up := into.get(chain[-1])) is not None:
        chain.append(up)
    steps = [f"customer {chain[0]}", *(f"merged into {one}" for one in chain[1:])]
    return steps if len(steps) <= 5 else [*steps[:2], f"{len(steps) - 3:,} more merges", steps[-1]]


def _because(asked: Question, customer: Mapping[str, Any], lists: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The steps from what was asked to a customer."""
    root = customer["uuid"]
    if asked.kind == "id":
        return next(
            (list(one["because"]) for one in lists["mappings"] if one["asked"] and one["root"] == root), [*asked.steps, f"customer {root}"]
        )
    steps = list(asked.steps)
    merged = {one["uuid"]: one["merged_into"] for one in lists["merged"]}
    if asked.kind == "uuid":
        return _to_root(steps[0], merged)
    wanted = asked.values["domains"]
    former = next((one for one in lists["former_domains"] if one["domain"] in wanted), None)
    own = next((one for one in lists["merged"] if one["domain"] in wanted), None)
    if customer["domain"] in wanted:
        return [*steps, *([] if customer["domain"] in steps else [customer["domain"]]), f"customer {root}"]
    if own:
        return [*steps, *([] if own["domain"] in steps else [own["domain"]]), *_to_root(own["uuid"], merged)]
    if former:
        was = [] if former["domain"] in steps else [former["domain"]]
        return [*steps, *was, f"renamed to {customer['domain']}", *_to_root(former["customer"], merged)]
    return [*steps, f"customer {root}"]


def _missing(tx: Connection, asked: Question, lists: Mapping[str, Sequence[Mapping[str, Any]]]) -> NotFound:
    """The error where nobody is found, with what was looked for."""
    if asked.kind == "id":
        app = asked.values["app"]
        last = next(iter(lists["closed"]), None)
        return mappings.nobody(tx, last["app"] if last else app, asked.values["id"])
    if asked.kind == "uuid":
        return NotFound(f"no customer has the uuid {asked.values['uuid']}", hint="`usersync customers list` shows those that are there")
    domains = asked.values["domains"]
    if asked.values["why"]:
        said = f"{domains[0]} identifies nobody: {asked.values['why']}"
        hint = f"`usersync customers create {domains[-1]}` makes it a customer all the same"
        return NotFound(f"that e-mail address: {said}" if asked.kind == "email" else said, hint=hint)
    near = mappings.near(tx, domains[-1])
    meant = f"did you mean {near}? Or " if near else ""
    nor = f", nor {domains[1]}" if len(domains) > 1 else ""
    return NotFound(f"no customer has the domain {domains[0]}{nor}", hint=f"{meant}`usersync customers create {domains[-1]}` makes one")
