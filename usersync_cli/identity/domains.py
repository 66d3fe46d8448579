"""What a text means as a domain, and which domains identify nobody.

The lists are those of `lists` and what the config adds to them. They are loaded when the first host is judged.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

from usersync_cli.errors import ConfigError
from usersync_cli.identity import lists as shipped

_LABELS = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_WEB_ADDRESS = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//(?:[^/?#@]*@)?([^/?#:@]*)|([^/?#:@]+)(?:[/?#]|:[0-9])")
_LONGEST = 253  # RFC 1035, section 2.3.4, without the root's dot


@dataclass(frozen=True)
class Lists:
    """What the config adds to the lists that come with the packages (`identity:` at the top of the config file)."""

    nobody: frozenset[str] = frozenset()  # more domains that identify nobody
    somebody: frozenset[str] = frozenset()  # domains that identify somebody, whatever the lists say
    suffixes: frozenset[str] = frozenset()  # more public suffixes: each name below is a customer of its own
    roles: frozenset[str] = frozenset()  # more local parts of addresses that are nobody's own
    people: frozenset[str] = frozenset()  # local parts that are somebody's, whatever the list says


class Judged(NamedTuple):
    """What a host says about whose it is: a domain, or why it identifies nobody, in words for a person."""

    domain: str | None
    why: str = ""


class Domains:
    """The lists, with their dates."""

    def __init__(self, lists: Lists = Lists()) -> None:
        self._lists = lists
        self._extended = lists != Lists()

    @cached_property
    def roles(self) -> frozenset[str]:
        """Local parts of addresses, in lower case, that identify nobody, such as info."""
        return (shipped.roles() | self._lists.roles) - self._lists.people

    @cached_property
    def dated(self) -> str:
        """The lists with their versions and dates, in one line; another text means that the map is to be looked at again."""
        packages = [shipped.version(name) for name in shipped.PACKAGES]
        own = [sorted(getattr(self._lists, one.name)) for one in fields(self._lists)]
        more = f", the config's ({hashlib.sha256(repr(own).encode()).hexdigest()[:8]})" if any(own) else ""
        suffixes = f"public suffixes of {self._suffixes.dated} ({packages[0]})"
        return f"{suffixes}, free mail ({packages[1]}, {packages[2]}), roles and pages of {shipped.OWN}{more}"

    def judge(self, host: str) -> Judged:
        """Whose this host is: its registrable domain in normal form. `host` is what stood in an address: any case, maybe not ASCII."""
        name = _normal(host, _HOST)
        if name is None:
            return _NO_DOMAIN
        if self._extended and (listed := self._listed(name)):
            return listed
        domain, suffix, private = self._suffixes.split(name)
        if domain is None:
            return Judged(None, f"{suffix} is a public suffix, below which anybody may have a name")
        if private:
            return Judged(None, f"shared hosting: anybody may have a name below {suffix}")
        if why := self._nobody.get(domain) or self._nobody.get(name) or self._nobody.get(suffix):
            return Judged(None, why)
        return Judged(domain) if "_" not in domain else _NO_DOMAIN

    @cached_property
    def _suffixes(self) -> shipped.Suffixes:
        return shipped.suffixes()

    @cached_property
    def _nobody(self) -> dict[str, str]:
        return shipped.nobody()

    @cached_property
    def _own(self) -> dict[str, str]:
        """The config's domains, each with the list that it is in."""
        lists = self._lists
        kinds = {"suffixes": lists.suffixes, "nobody": lists.nobody, "somebody": lists.somebody}
        return {name: kind for kind, names in kinds.items() for name in names}

    def _listed(self, name: str) -> Judged | None:
        """What the config says of a name, or of one that it is below; the longest counts."""
        rest, below = name, ""
        while rest:
            if kind := self._own.get(rest):
                return _as_listed(kind, rest, below)
            rest, below = rest.partition(".")[2], rest
        return None


_NO_DOMAIN = Judged(None, "no domain of the internet")


def _as_listed(kind: str, name: str, below: str) -> Judged:
    """`below`: the name with one label more, of what is judged; "" where that is the name itself."""
    if kind == "somebody":
        return Judged(name)
    if kind == "nobody":
        return Judged(None, f"{name} identifies nobody: the config's identity.nobody")
    return Judged(below) if below else Judged(None, f"{name} is a public suffix: the config's identity.suffixes")


def domain_of(text: str) -> str:
    """The normal form of a domain that a person typed: lower case, IDNA (UTS 46) as ASCII, without a final dot; nothing is cut off.

    Raises ConfigError for what is no domain: an e-mail address, a URL, an IP address, a single label, with what to type instead.
    """
    if found := _normal(text.strip()):
        return found
    raise ConfigError(f"that is no domain{_instead(text.strip())}", hint="a domain looks like example.org")


def _instead(text: str) -> str:
    """What it is, as far as that can be told without repeating it: it may be a person's address."""
    if "@" in text and "//" not in text:
        return _but("an e-mail address", text.rpartition("@")[2].rstrip(">"))
    if re.fullmatch(r"\[?[0-9a-fA-F:.]*[0-9:][0-9a-fA-F:.]*\]?", text):
        return _but("an IP address or a number")
    if found := _WEB_ADDRESS.match(text):
        return _but("a web address", found[1] or found[2] or "")
    if text and "." not in text.strip("."):
        return ": it has one label only"
    return ""


def _but(what: str, host: str = "") -> str:
    found = _normal(host)
    return f" but {what}: type {found}" if found else f" but {what}"


def _normal(host: str, pattern: re.Pattern[str] = _LABELS) -> str | None:
    """Lower case, ASCII, without a final dot; None for what is no domain of two labels or more."""
    name = host.lower().removesuffix(".")
    if len(name) > _LONGEST:  # in Unicode it is shorter
        return None
    if "--" not in name and pattern.fullmatch(name):
        return name
    found = _by_idna(name)
    return found if len(found) <= _LONGEST and pattern.fullmatch(found) else None


def _by_idna(name: str) -> str:
    """The name as ASCII. What is no IDNA is left as it is, such as a label with `--` in an odd place, but no wrong `xn--`."""
    import idna

    try:
        return idna.encode(name, uts46=True, std3_rules=True).decode().lower().removesuffix(".")
    except (ValueError, IndexError):  # idna's own errors are ValueErrors
        return name if "xn--" not in name else ""
