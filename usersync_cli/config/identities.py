"""`identity` in the config file: whose the rows of a step are, and what the file adds to the lists of what identifies nobody."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from usersync_cli.config.values import ColumnName, Sql, short_text
from usersync_cli.errors import ConfigError
from usersync_cli.identity import names
from usersync_cli.identity.domains import Lists, domain_of
from usersync_cli.settings import UNSET, FieldError, Model

_CONSTANT = re.compile(r"(?i:[EN]?'(?:[^']|'')*'(?:::\w+)?|\$(\w*)\$.*\$\1\$|[0-9.]+|true|false|null)", re.DOTALL)
_DOTTED = re.compile(r"(?!r\.)[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_COLUMN = "write SQL over the columns that the step loads, such as: website"


def app_name(value: str) -> str:
    """The name of an app, by the rule of `apps add`."""
    if not names.is_app(value):
        raise FieldError(names.RULE)
    return value


def _differs_by_row(value: str) -> str:
    """The SQL of a rule, which says something about its row."""
    value = value.strip()
    if _CONSTANT.fullmatch(value):
        raise FieldError(f"is the same for every row; {_COLUMN}")
    if _DOTTED.fullmatch(value):
        raise FieldError(f"is a domain, not the SQL of one; {_COLUMN}")
    return value


RuleSql = Annotated[Sql, AfterValidator(_differs_by_row)]


class IdentityRule(Model):
    """One way to tell from a row whose it is."""

    name: Annotated[str, AfterValidator(short_text)]
    domain: RuleSql  # over the loaded columns: a domain, a web address or an e-mail address; NULL where the row does not say
    uuid: RuleSql | None = None  # the customer's uuid, where another list of customers has given one


class Identity(Model):
    """Which app the rows of a table are the ids of, and the rules that say whose they are."""

    stream: str = ""  # of a step that reads several streams, which one
    app: Annotated[str, AfterValidator(app_name)]
    id: ColumnName  # the column of the app's id
    rules: list[IdentityRule]  # the first that decides counts; none: the ids are known, and another step says whose they are
    max_ids: int = Field(1000, ge=1)  # a domain with more ids of the app than this identifies nobody there

    @field_validator("rules")
    @classmethod
    def _are_told_apart(cls, value: list[IdentityRule]) -> list[IdentityRule]:
        if not value:  # the ids are known, and have no customer: in SQL, by a rule that never finds one
            return [IdentityRule.model_construct(name="none", domain="NULL", uuid=None)]
        given = [rule.name for rule in value]
        for position, name in enumerate(given):
            if (first := given.index(name)) < position:
                raise FieldError(f"has the same name as rules[{first}]; mappings are shown with it, so give it another", (position, "name"))
        return value


def fit(identities: Sequence[Identity], streams: Sequence[str]) -> None:
    """Raises FieldError where a step with these streams can't have these identities."""
    seen: list[tuple[str, str]] = []
    for position, one in enumerate(identities):
        at = ("identity", position) if len(identities) > 1 else ("identity",)
        if one.stream and not streams:
            raise FieldError("is for steps that read streams; this one reads tables, so take it out", (*at, "stream"))
        if one.stream and one.stream not in streams and not one.stream.startswith(UNSET):
            raise FieldError(f"is none of the streams that the step reads: {_shown(streams)}", (*at, "stream"))
        if not one.stream and len(streams) > 1:
            raise FieldError(f'key "stream" is missing: the step reads several, {_shown(streams)}', at)
        what = (one.stream or "".join(streams), one.app)
        if what in seen:
            raise FieldError(f"is that of identity[{seen.index(what)}]; put the rules together", (*at, "app"))
        seen.append(what)


def _shown(streams: Sequence[str]) -> str:
    return ", ".join(one for one in streams if not one.startswith(UNSET))


class IdentityLists(Model):
    """What the file adds to the lists of what identifies nobody, and what it takes out of them."""

    nobody: list[str] = Field(default_factory=list)  # domains that identify nobody, with all names below
    somebody: list[str] = Field(default_factory=list)  # domains that identify somebody, whatever the lists say
    suffixes: list[str] = Field(default_factory=list)  # public suffixes: each name below is a customer of its own
    roles: list[str] = Field(default_factory=list)  # local parts of addresses that are nobody's own
    people: list[str] = Field(default_factory=list)  # local parts that are somebody's, whatever the list says

    @field_validator("nobody", "somebody", "suffixes")
    @classmethod
    def _are_domains(cls, value: list[str]) -> list[str]:
        return [_domain(one, position) for position, one in enumerate(value)]

    @field_validator("roles", "people")
    @classmethod
    def _are_local_parts(cls, value: list[str], info: ValidationInfo) -> list[str]:
        for position, one in enumerate(value):
            if not re.fullmatch(r"[^\s@,;:<>\"()+]+", one):
                raise FieldError(f'must be what stands before the @ of an address, such as "{_LOCAL[str(info.field_name)]}"', (position,))
        return [one.lower() for one in value]

    @model_validator(mode="after")
    def _do_not_disagree(self) -> IdentityLists:
        for name, others in (("somebody", ("nobody",)), ("suffixes", ("nobody", "somebody")), ("people", ("roles",))):
            for position, one in enumerate(getattr(self, name)):
                for other in others:
                    if one in getattr(self, other):
                        raise FieldError(f"is in {other} too; take it out of one of them", (name, position))
        return self

    @property
    def lists(self) -> Lists:
        """The same for who judges domains."""
        return Lists(**{name: frozenset(getattr(self, name)) for name in type(self).model_fields})


_LOCAL = {"roles": "reception", "people": "it"}


def _domain(value: str, position: int) -> str:
    if value.startswith(UNSET):
        return value
    try:
        return domain_of(value)
    except ConfigError:
        below = "; names below it count too, so leave *. out" if value.startswith("*.") else ""
        raise FieldError(f"must be a domain such as example.org, no address of the web or of e-mail{below}", (position,)) from None
