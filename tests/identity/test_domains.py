"""What a host says about whose it is, by the lists that come with the packages and by the config's."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tldextract import TLDExtract

from usersync_cli.errors import ConfigError
from usersync_cli.identity import lists
from usersync_cli.identity.domains import Domains, Lists, domain_of

PLAIN = Domains()
# Everything that a host may be made of, with letters that stand for others, and rules of the list of every kind.
LABELS = st.sampled_from(
    ["www", "a", "b-c", "com", "co", "uk", "org", "test", "ck", "kawasaki", "jp", "city", "github", "io", "compute", "amazonaws", "s3",
     "xn--p1ai", "xn--55qx5d", "cn", "bd", "kobe", "blogspot", "no", "er", "eu-west-1", "1", "xn--"]
)  # fmt: skip


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("example.org", "example.org"),
        ("example.org.", "example.org"),
        ("EXAMPLE.Org", "example.org"),
        ("www.shop.example.co.uk", "example.co.uk"),
        ("example.test", "example.test"),  # no suffix of the list's: the last label is one
        ("www.example.test", "example.test"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("例え。テスト。", "xn--r8jz45g.xn--zckzah"),  # dots of another script
        ("ｅｘａｍｐｌｅ．ｏｒｇ", "example.org"),  # noqa: RUF001  as some keyboards write it
        ("食狮.公司.cn", "xn--85x722f.xn--55qx5d.cn"),
        ("a--b.example.org", "example.org"),
        ("ab--c.example.org", "example.org"),  # no IDNA, but plain
        ("my_shop.example.org", "example.org"),  # no host name, but it is looked up and found
        ("x.www.ck", "www.ck"),  # an exception of the list's
        ("x.y.foo.ck", "y.foo.ck"),  # *.ck
    ],
)
def test_the_domain_of_a_host(host: str, domain: str) -> None:
    """
    A host is the customer's who has the registrable domain, in one spelling.
    """
    assert domain == PLAIN.judge(host).domain


@pytest.mark.parametrize(
    ("host", "why"),
    [
        *((host, "no domain") for host in (
            "", ".", "..", "localhost", "example", "127.0.0.1", "127.1", "0x7f.1", "3232235777", "[::1]", "::1", "[2001:db8::1]",
            "１２７.0.0.1", "-a.example-.org", "a..example.org", ".example.org", "exa mple.org", "example.org\n", "a,b.org", "\x00.org",  # noqa: RUF001
            "my_shop.org", "xn--a.example.org", "a" * 64 + ".org", ".".join(["abc"] * 70) + ".org", "é" * 100_000 + ".org", "-" * 100_000,
        )),
        *((host, "public suffix") for host in ("co.uk", "github.io", "foo.ck", "公司.cn")),
        *((host, "shared hosting") for host in ("acme.github.io", "www.acme.wixsite.com", "acme.uk.com", "acme.myshopify.com")),
        *((host, "free mail") for host in ("gmail.com", "GMail.com.", "smtp.gmail.com", "hotmail.nl", "ziggo.nl", "web.de", "proximus.be")),
        ("mailinator.com", "passing mail"),
        *((host, "a page") for host in ("www.facebook.com", "nl.linkedin.com", "sites.google.com", "acme.onmicrosoft.com")),
        *((host, "private network") for host in ("server.acme.local", "router.home.arpa", "nobody.invalid", "mail.localhost")),
    ],
)  # fmt: skip
def test_what_identifies_nobody(host: str, why: str) -> None:
    """
    What is no domain, a suffix, or a place where anybody may have a name identifies nobody, and it is said which.
    """
    judged = PLAIN.judge(host)

    assert judged.domain is None
    assert why in judged.why


def test_domains_of_companies_are_in_no_list() -> None:
    """
    The lists of free mail have no domains that are customers of somebody, as far as we know any.
    """
    known = "example.org google.com microsoft.com apple.com amazon.com hubspot.com workos.com teamleader.eu philips.com proximus.com"

    assert known.split() == [PLAIN.judge(f"www.{one}").domain for one in known.split()]


@given(st.one_of(st.text(max_size=80), st.lists(LABELS, max_size=5).map(".".join), st.binary().map(lambda raw: raw.decode("latin-1"))))
@settings(max_examples=150, deadline=None)
def test_any_text_has_an_answer(host: str) -> None:
    """
    Whatever stands in a row is judged without an error; a domain that comes out is in normal form, and is judged the same again.
    """
    judged = PLAIN.judge(host)

    if judged.domain is None:
        assert judged.why
    else:
        assert judged.domain == domain_of(judged.domain) == PLAIN.judge(judged.domain).domain


@pytest.fixture(scope="module")
def tldextract() -> TLDExtract:
    return TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)


@given(host=st.lists(LABELS, min_size=2, max_size=6).map(".".join))
@settings(max_examples=150, deadline=None)
def test_the_suffixes_are_those_of_tldextract(host: str, tldextract: TLDExtract) -> None:
    """
    The list is read as the package reads it.
    """
    found = tldextract.extract_str(host)
    # It knows of no default rule, and has an answer for a lone name.
    expected = (found.top_domain_under_public_suffix or None, found.suffix, found.is_private) if found.suffix else (
        ".".join(host.split(".")[-2:]), host.rpartition(".")[2], False
    )  # fmt: skip

    assert expected == lists.suffixes().split(host)


def test_each_rule_of_the_list(tldextract: TLDExtract) -> None:
    """
    Each suffix of the list is one, and what is below it is private where the list says so.
    """
    suffixes = lists.suffixes()
    names = [*suffixes.rules, *(f"foo.{one}" for one in suffixes.wild)]

    assert 9_000 < len(names)
    assert [] == [one for one in names if suffixes.split(one)[:2] != (None, one)]
    different = [one for one in names if suffixes.split(f"a.{one}")[2] != tldextract.extract_str(f"a.{one}").is_private]
    assert [] == different


@pytest.mark.parametrize(
    ("typed", "instead"),
    [
        ("test.user@example.org", "an e-mail address: type example.org"),
        ("Test <test.user@Example.ORG.>", "an e-mail address: type example.org"),
        ("test.user@", "an e-mail address"),
        ("https://www.example.org:8080/x?y", "a web address: type www.example.org"),
        ("https://user@www.example.org/x", "a web address: type www.example.org"),
        ("//example.org", "a web address: type example.org"),
        ("example.org/x", "a web address: type example.org"),
        ("mailto:test.user@example.org", "an e-mail address: type example.org"),
        ("www.example.org:8080", "a web address: type www.example.org"),
        ("192.0.2.1", "an IP address"),
        ("[2001:db8::1]", "an IP address"),
        ("2001:db8::1", "an IP address"),
        ("localhost", "one label"),
        ("", "that is no domain"),
        ("exa mple.org", "that is no domain"),
        ("a..example.org", "that is no domain"),
        ("a" * 64 + ".org", "that is no domain"),
    ],
)
def test_what_a_person_types_that_is_no_domain(typed: str, instead: str) -> None:
    """
    What is no domain is refused with what to type instead, and without repeating the part that may be a person's.
    """
    with pytest.raises(ConfigError) as refused:
        domain_of(typed)

    assert instead in str(refused.value)
    assert "user" not in str(refused.value)


def test_the_normal_form_of_a_domain() -> None:
    """
    A domain is lower case and ASCII, without a final dot; nothing is cut off, and no list is asked.
    """
    typed = ["Example.ORG.", " www.example.org ", "Bücher.example", "gmail.com", "co.uk"]

    assert ["example.org", "www.example.org", "xn--bcher-kva.example", "gmail.com", "co.uk"] == [domain_of(one) for one in typed]


def test_the_config_extends_the_lists() -> None:
    """
    The config has the last word; of two of its entries the longer counts.
    """
    mine = Domains(Lists(
        nobody=frozenset({"example.net", "shop.example.org"}), somebody=frozenset({"gmail.com", "acme.github.io", "vip.example.net"}),
        suffixes=frozenset({"uk.com", "hosting.test"}), roles=frozenset({"kassa"}), people=frozenset({"it"}),
    ))  # fmt: skip

    judged = {host: mine.judge(host).domain for host in (
        "www.example.net", "x.vip.example.net", "a.shop.example.org", "www.example.org", "smtp.gmail.com", "www.acme.github.io",
        "other.github.io", "www.acme.uk.com", "uk.com", "a.b.hosting.test",
    )}  # fmt: skip
    assert judged == {
        "www.example.net": None, "x.vip.example.net": "vip.example.net", "a.shop.example.org": None, "www.example.org": "example.org",
        "smtp.gmail.com": "gmail.com", "www.acme.github.io": "acme.github.io", "other.github.io": None, "www.acme.uk.com": "acme.uk.com",
        "uk.com": None, "a.b.hosting.test": "b.hosting.test",
    }  # fmt: skip
    assert "identity.nobody" in mine.judge("example.net").why
    assert "identity.suffixes" in mine.judge("uk.com").why
    assert {"info", "noreply", "postmaster", "kassa"} < mine.roles
    assert "it" in PLAIN.roles - mine.roles


def test_the_lists_are_dated() -> None:
    """
    What the lists are is said with versions and dates, and is another text when the config's lists are others.
    """
    assert PLAIN.dated.startswith("public suffixes of 20")
    assert all(lists.version(one) in PLAIN.dated for one in lists.PACKAGES)
    mine = [Domains(Lists(nobody=frozenset({"example.org"}))), Domains(Lists(somebody=frozenset({"example.org"})))]
    assert 3 == len({one.dated for one in (PLAIN, *mine)})
    assert mine[0].dated == Domains(Lists(nobody=frozenset(["example.org"]))).dated


def test_our_own_lists_have_their_date() -> None:
    """
    Whoever changes one of usersync's own lists changes its date as well (OWN), since maps are looked at again by it; then this text.
    """
    text = "".join(sorted(lists.roles())) + lists._MORE_FREE_MAIL + lists._PAGES + "".join(sorted(lists._PRIVATE))

    assert ("2026-11", "b0caef30") == (lists.OWN, hashlib.sha256(text.encode()).hexdigest()[:8])


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    No socket is opened, and no cache is written, wherever it would be.
    """
    script = """
import socket, sys
def refuse(*_, **__): raise SystemExit("a socket was opened")
socket.socket.__init__ = socket.getaddrinfo = socket.create_connection = refuse
from usersync_cli.identity.domains import Domains
judged = [Domains().judge(host) for host in ("www.example.org", "acme.github.io", "gmail.com", "bücher.example")]
print([one.domain for one in judged], "tldextract" in sys.modules or "requests" in sys.modules)
"""
    env = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TLDEXTRACT_CACHE": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)

    assert ("['example.org', None, None, 'xn--bcher-kva.example'] False", "") == (done.stdout.strip(), done.stderr)
    assert [] == list(tmp_path.iterdir())
