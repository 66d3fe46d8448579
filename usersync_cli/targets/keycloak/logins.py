"""Whether new people can log in: first passwords that their realm takes, and mails where it wants to send some.

A realm's `passwordPolicy` is a text such as `length(12) and digits(2) and notUsername`. What can't be known here (a list of
forbidden passwords, those that an account had before, another provider's rules) the server decides: it refuses a password
for its content with 400 and a code, before anything else happens.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from usersync_cli.errors import ConfigError, PartialError
from usersync_cli.targets.keycloak.passwords import DIGITS, LOWER, SIGNS, UPPER, Policy, first_passwords

if TYPE_CHECKING:
    from usersync_cli.targets.keycloak.refusals import Rejected
    from usersync_cli.targets.keycloak.settings import Settings

T = TypeVar("T")
IMPOSSIBLE = "no password is all that the realm's password policy asks for"
IMPOSSIBLE_HINT = (
    "Authentication > Policies > Password policy: does its length fit its other rules? can its regular expression be matched?"
    " Or leave --credentials-out out, and say `notify: email`"
)
NO_MAIL = "the realm has no mail server, so that `notify: email` can't reach anybody"
NO_MAIL_HINT = "Realm settings > Email: set the host and the sender's address; or say `notify: none`"
UNVERIFIED = "the realm has no mail server, so that the first login of everybody whose address is to be verified ends in an error"
UNVERIFIED_HINT = (
    "Realm settings > Email: set the host and the sender's address; or say `email_verified: true`; or switch VERIFY_EMAIL off,"
    " in required_actions and under Realm settings > Login"
)
_CLASSES = {"lowerCase": LOWER, "upperCase": UPPER, "digits": DIGITS, "specialChars": SIGNS}
_USUAL = {"length": 8, "maxLength": 64, **dict.fromkeys(_CLASSES, 1)}  # where the policy gives no number


def policy(about: Mapping[str, Any]) -> Policy:
    """The password policy of a realm, from its representation."""
    rules = list(_rules(str(about.get("passwordPolicy") or "")))
    numbers = {name: int(value) if value.isascii() and value.isdecimal() else _USUAL[name] for name, value in rules if name in _USUAL}
    return Policy(
        shortest=numbers.get("length", 0),
        longest=numbers.get("maxLength", Policy.longest),
        least={characters: numbers[name] for name, characters in _CLASSES.items() if name in numbers},
        fits=_Fits(value for name, value in rules if name == "regexPattern"),
    )


def is_possible(wanted: Policy) -> bool:
    """Whether any password is what the policy asks for, as far as we can tell."""
    return next(first_passwords(wanted), None) is not None


def refuses_password(rejected: Rejected) -> bool:
    """Whether a call was refused because of its password, and would be accepted with another one."""
    return rejected.http_status == 400 and "password" in rejected.code.lower()


class NoPassword(ConfigError):
    """The realm refuses every password that is made; it would do so for everybody else."""


class FirstPassword:
    """The first password of one person. `value` is the one that was tried last; None where nobody is to know one, so none is made."""

    def __init__(self, wanted: Policy | None, *names: str) -> None:
        self._wanted = wanted and wanted.without(*names)
        self.value: str | None = None

    def give(self, call: Callable[[str | None], T]) -> T:
        """Call with one password after the other until one is not refused for its content. Raises NoPassword and what `call` raises."""
        from usersync_cli.targets.keycloak.refusals import Rejected

        if self._wanted is None:
            return call(None)
        code = ""
        for password in first_passwords(self._wanted):
            self.value = password
            try:
                return call(password)
            except Rejected as rejected:
                if not refuses_password(rejected):
                    raise
                code = rejected.code
        raise NoPassword(f"the realm refuses each first password that is made ({code})" if code else IMPOSSIBLE, hint=IMPOSSIBLE_HINT)


def credentials(password: str | None) -> dict[str, Any]:
    """The part of a new account's representation that sets its password, which is valid for one login."""
    return {"credentials": [{"type": "password", "value": password, "temporary": True}]} if password else {}


def _rules(text: str) -> Iterable[tuple[str, str]]:
    """Name and value of each rule, split as Keycloak itself does it."""
    for rule in text.split(" and "):
        name, bracket, value = rule.strip().partition("(")
        yield name, value[:-1] if bracket else ""


class _Fits:
    """Whether a password matches all of these patterns. Those of Java that Python reads otherwise, or not at all, are left out."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [found for pattern in patterns if (found := _compiled(pattern))]

    def __call__(self, password: str) -> bool:
        return all(pattern.fullmatch(password) for pattern in self._patterns)


def _compiled(pattern: str) -> re.Pattern[str] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "possible set difference": Java means one
        try:
            return re.compile(pattern)
        except (re.error, Warning, OverflowError, RecursionError):
            return None


# mails and the rest


def has_mail_server(about: Mapping[str, Any]) -> bool:
    """Whether the realm has all that Keycloak needs to try to send a mail."""
    server = about.get("smtpServer") or {}
    return bool(server.get("host")) and bool(server.get("from"))


def mail_problem(own: Settings, about: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why the login form would answer the right first password with an error (500): it can't mail a link to verify the address."""
    verifies = "VERIFY_EMAIL" in own.required_actions or about.get("verifyEmail")
    if own.email_verified or not verifies or has_mail_server(about):
        return None
    return UNVERIFIED, UNVERIFIED_HINT


def no_account(name: str, number: int, why: str, hint: str) -> ConfigError:
    """The error of a step that made no account for so many new people, and did everything else."""
    people = "1 new person gets no account" if number == 1 else f"{number:,} new people get no account"
    return ConfigError(f"target {name}: {people}: {why}", hint=hint)


def not_mailed(name: str, job: str, number: int) -> PartialError:
    """The error of a step that could not mail so many people."""
    mails = "1 mail to a new person was" if number == 1 else f"{number:,} mails to new people were"
    return PartialError(
        f"target {name}: {mails} not sent; the accounts are there, and the next run sends what the realm did not take",
        hint=f"Realm settings > Email: is the mail server right? The people concerned: usersync rejects list --job {job}",
    )


def look_at_logins(name: str, own: Settings, about: Mapping[str, Any]) -> Iterator[tuple[str, ConfigError | None]]:
    """For `usersync check`: what would keep new people from logging in; `about` is the realm's representation."""
    needs_mail = own.notify == "email" and not has_mail_server(about)
    if odd := mail_problem(own, about) or ((NO_MAIL, NO_MAIL_HINT) if needs_mail else None):
        yield "mail server", ConfigError(f"target {name}: {odd[0]}", hint=odd[1])
    wanted = policy(about)
    can = f"have {wanted.length} characters" if is_possible(wanted) else f"can't be made: {IMPOSSIBLE}"
    yield f"first passwords (--credentials-out) {can}", None
