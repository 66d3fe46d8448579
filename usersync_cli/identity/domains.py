"""What a text means as a domain, and which domains identify nobody."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lists:
    """What the config adds to the lists that come with the packages (`identity:` at the top of the config file)."""

    nobody: frozenset[str] = frozenset()  # more domains that identify nobody
    somebody: frozenset[str] = frozenset()  # domains that identify somebody, whatever the lists say
    suffixes: frozenset[str] = frozenset()  # more public suffixes: each name below is a customer of its own
    roles: frozenset[str] = frozenset()  # more local parts of addresses that are nobody's own
    people: frozenset[str] = frozenset()  # local parts that are somebody's, whatever the list says


@dataclass(frozen=True)
class Judged:
    """What a host says about whose it is: a domain, or why it identifies nobody, in words for a person."""

    domain: str | None
    why: str = ""


class Domains:
    """The lists, with their dates. Nothing is ever fetched."""

    def __init__(self, lists: Lists = Lists()) -> None:
        self._lists = lists

    @property
    def roles(self) -> frozenset[str]:
        """Local parts of addresses, in lower case, that identify nobody, such as info."""
        raise NotImplementedError

    @property
    def dated(self) -> str:
        """The lists with their versions and dates, in one line; another text means that the map is to be looked at again."""
        raise NotImplementedError

    def judge(self, host: str) -> Judged:
        """Whose this host is: its registrable domain in normal form. `host` is what stood in an address: any case, maybe not ASCII."""
        raise NotImplementedError


def domain_of(text: str) -> str:
    """The normal form of a domain that a person typed: lower case, IDNA (UTS 46) as ASCII, without a final dot; nothing is cut off.

    Raises ConfigError for what is no domain: an e-mail address, a URL, an IP address, a single label, with what to type instead.
    """
    raise NotImplementedError
